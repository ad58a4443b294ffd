//! The program: everything is in the library, `onionskin::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    onionskin::cli::run(std::env::args_os())
}
