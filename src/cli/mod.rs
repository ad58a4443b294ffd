//! Commands, prompts, exit codes: the only room that prints.
//!
//! `main` calls [`run`], which parses, sets logs up and hands over to one file per command. Each command returns a [`Failure`] or
//! nothing; the failure's kind is the exit code.

mod args;
mod demo;
mod documents;
mod kept;
mod keys;
mod output;
mod relay;
mod session;
mod stop;

use crate::base::ErrorKind;
use crate::base::text::is_harmless;
use crate::base::text::quoted;
use crate::client::failure;
use crate::client::files::UNREAD;
use crate::config::Config;
use crate::proto::event::Failure;
use args::Cli;
use args::Command;
use args::Common;
use args::Join;
use args::Relay;
use clap::Parser;
use clap::error::ContextValue;
use clap::error::ErrorKind as Mistake;
use output::Out;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs one command line, program name included, and gives the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(mistake) => return usage(&arguments, mistake),
    };
    let out = Out { json: cli.common.json, quiet: cli.common.quiet, progress: cli.common.progress.is_some() };
    logs(&cli.common);
    match start(out, &cli) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            // Nobody wants to hear that `head` has seen enough.
            if out.json || why.what != UNREAD {
                out.error(&why);
            }
            ExitCode::from(why.kind.exit_code())
        }
    }
}

/// Threads that move cells: a quarter of the processors. One moves about 300 MiB/s through a relay, more than most lines, and cells
/// that stay with one thread cost a tenth less. The TLS handshakes of links that come in, the public-key work of circuits and
/// requests, coding and disk have threads of their own (`node::pool`).
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(4))
}

fn start(out: Out, cli: &Cli) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build().map_err(|e| {
        failure(ErrorKind::Other, format!("cannot start: {e}"), "", "See whether this user may start threads and open files.")
    })?;
    let done = runtime.block_on(command(out, cli));
    // A read of the terminal that nobody waits for any more would hold the process up.
    runtime.shutdown_background();
    done
}

/// Does what was asked; gives the exit code of what needs no explanation.
async fn command(out: Out, cli: &Cli) -> Result<u8, Failure> {
    match &cli.command {
        Command::Demo(args) => demo::run(out, args).await?,
        Command::Relay(args) => {
            let read = || relay_settings(&cli.common, args);
            relay::run(out, cli.common.config.is_some(), read).await?;
        }
        Command::Publish(args) => documents::publish(out, &settings(&cli.common, &args.join)?, args).await?,
        Command::Get(args) => documents::get(out, &settings(&cli.common, &args.join)?, args).await?,
        Command::Check(args) => return documents::check(out, &settings(&cli.common, &args.join)?, args).await,
        Command::Keys(args) => keys::run(out, &settings(&cli.common, &Join::default())?, args)?,
        Command::Status => documents::status(out, &settings(&cli.common, &Join::default())?).await?,
    }
    Ok(0)
}

/// The settings file, if one is named, with the command line on top.
fn settings(common: &Common, join: &Join) -> Result<Config, Failure> {
    let mut config = common.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
    if common.data_dir.is_some() {
        config.data_dir.clone_from(&common.data_dir);
    }
    if !join.bootstrap.is_empty() {
        config.bootstrap.clone_from(&join.bootstrap);
    }
    config.local_network |= join.local_network;
    Ok(config)
}

/// The same for a relay.
fn relay_settings(common: &Common, args: &Relay) -> Result<Config, Failure> {
    let mut config = settings(common, &args.join)?;
    config.listen = args.listen.unwrap_or(config.listen);
    config.quota = args.quota.unwrap_or(config.quota);
    config.memory = args.memory.unwrap_or(config.memory);
    if !args.advertise.is_empty() {
        config.advertise.clone_from(&args.advertise);
    }
    Ok(config)
}

/// Logs go to standard error, warnings only unless asked. No room logs a key, an address or an id at a level that people use.
fn logs(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "onionskin=info,warn",
        (false, _) => "onionskin=debug,info",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Fails only where a test has set logs up already.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).compact().try_init();
}

/// Help and version as asked; a mistake in the same three lines as any other error.
fn usage(arguments: &[OsString], mut mistake: clap::Error) -> ExitCode {
    if matches!(mistake.kind(), Mistake::DisplayHelp | Mistake::DisplayVersion) {
        let _ = mistake.print();
        return ExitCode::SUCCESS;
    }
    // What was typed becomes one harmless line before it is set among the other words: those are told apart by lines.
    let safe = |value: &ContextValue| {
        let ContextValue::String(text) = value else { return None };
        (!text.chars().all(is_harmless)).then(|| ContextValue::String(quoted(text)))
    };
    let harmful: Vec<_> = mistake.context().filter_map(|(part, value)| Some((part, safe(value)?))).collect();
    for (part, value) in harmful {
        mistake.insert(part, value);
    }
    let text = mistake.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (what, next) = if mistake.kind() == Mistake::DisplayHelpOnMissingArgumentOrSubcommand {
        ("a command is missing".to_owned(), "See `onionskin --help`, or try `onionskin demo`.".to_owned())
    } else {
        let first = lines.next().unwrap_or("this command line is not understood");
        let mut what = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        // What clap lists below (the arguments that are missing, a better spelling), up to its own hints.
        for line in lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")) {
            what.push_str(if line.starts_with("tip:") { "; " } else { " " });
            what.push_str(line);
        }
        (what, "Correct the command; `--help` after it shows what it takes.".to_owned())
    };
    let json = arguments.iter().any(|a| a == "--json");
    Out { json, quiet: false, progress: false }.error(&failure(ErrorKind::Usage, what, "Nothing was started or sent.", next));
    ExitCode::from(ErrorKind::Usage.exit_code())
}
