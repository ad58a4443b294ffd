//! The words of the command line. Scripts depend on them: names stay.

use crate::base::text::harmless;
use crate::client::text_fits;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use core::net::SocketAddr;
use std::path::PathBuf;

/// Publish documents anonymously, fetch them by key, run a relay.
#[derive(Debug, Parser)]
#[command(name = "onionskin", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes: 0 done, 2 usage, 3 not found or not enough shares, 4 no network, 5 does not verify, 6 refused, 1 anything else.
Try it without any network: onionskin demo")]
pub(super) struct Cli {
    /// See [`Common`].
    #[command(flatten)]
    pub(super) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Where the node keeps its files [default: onionskin in the user's data directory]
    #[arg(display_order = 101, long, global = true, value_name = "DIR", env = "ONIONSKIN_DATA_DIR", hide_env_values = true)]
    pub(super) data_dir: Option<PathBuf>,
    /// Settings file, TOML; options given here win over it
    #[arg(display_order = 102, long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON object on standard output, errors included
    #[arg(display_order = 103, long, global = true)]
    pub(super) json: bool,
    /// Tell more on standard error (twice: more still)
    #[arg(display_order = 104, short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Tell how far long work is on standard error, as a JSON object a second
    #[arg(display_order = 106, long, global = true, value_name = "FORM")]
    pub(super) progress: Option<Progress>,
    /// Tell nothing but errors on standard error
    #[arg(display_order = 105, short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
}

/// How far long work is, for programs. (A comment on the form would make every help text a long one.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Progress {
    Json,
}

/// Options of everything that joins a network.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Join {
    /// Link of a relay to start from; needed the first time, and may be given several times
    #[arg(long, value_name = "LINK")]
    pub(super) bootstrap: Vec<String>,
    /// Accept loopback and private addresses, for networks of one's own
    #[arg(long)]
    pub(super) local_network: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show it all: a whole network on loopback, a document published and fetched back
    Demo(Demo),
    /// Run a relay that carries and holds for others
    Relay(Relay),
    /// Publish a file; its key is the only thing on standard output
    Publish(Publish),
    /// Fetch a document by its key
    Get(Get),
    /// Count the living shares of a document
    Check(Check),
    /// Explain a key, without any network
    Keys(Keys),
    /// Show how the running node is
    Status,
}

/// `demo`
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// What to publish [default: ./README.md, or a page that comes with the program]
    pub(super) file: Option<PathBuf>,
    /// How many relays
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u8).range(6..=250))]
    pub(super) relays: u8,
}

/// `relay`
#[derive(Debug, Args)]
#[command(after_help = "\
The first line on standard output is this relay's own link, for the --bootstrap of others; it comes when links are accepted.
Without --bootstrap, and without an earlier run's, the relay starts a network of its own.")]
pub(super) struct Relay {
    /// See [`Join`].
    #[command(flatten)]
    pub(super) join: Join,
    /// Where to accept links [default: 0.0.0.0:7443]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) listen: Option<SocketAddr>,
    /// Where others reach this relay [default: the listening address, if it is a definite one]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) advertise: Vec<SocketAddr>,
    /// Most bytes of others' shares on this disk, such as 20GiB [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = crate::config::parse_quota)]
    pub(super) quota: Option<u64>,
    /// Most bytes that this relay holds in memory for others [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = crate::config::parse_memory)]
    pub(super) memory: Option<u64>,
}

/// `publish`
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing of a file but its content is published; its name only with --name.
A key that cannot be printed is kept in kept-keys in the data directory; `onionskin keys forget` removes it.
A running node of this data directory does the work; without one, a client runs inside this process until all is stored.")]
pub(super) struct Publish {
    /// The file; `-` reads standard input
    pub(super) path: PathBuf,
    /// See [`Join`].
    #[command(flatten)]
    pub(super) join: Join,
    /// A name that readers shall see, of at most 255 bytes
    #[arg(long, value_parser = for_readers)]
    pub(super) name: Option<String>,
    /// A media type that readers shall see, such as text/html
    #[arg(long = "type", value_name = "TYPE", value_parser = for_readers)]
    pub(super) media_type: Option<String>,
    /// Days that hosts are asked to keep it [default: 90]
    #[arg(long, value_name = "DAYS", value_parser = crate::config::parse_lease)]
    pub(super) lease: Option<u16>,
    /// Publish also when standard input is empty
    #[arg(long)]
    pub(super) allow_empty: bool,
    /// The same content gives the same key again, from this data directory only
    #[arg(long)]
    pub(super) convergent: bool,
    /// Send as fast as the network takes it (what this release always does)
    #[arg(long, conflicts_with = "slow")]
    pub(super) fast: bool,
    /// Spread over hours or days (not available yet)
    #[arg(long)]
    pub(super) slow: bool,
}

/// A text that a document has room for.
fn for_readers(text: &str) -> Result<String, String> {
    text_fits(text).map(|()| text.to_owned())
}

/// `get`
#[derive(Debug, Args)]
#[command(after_help = "\
Arguments are visible to the other users of a machine. With `-` as KEY, the key is read from standard input.
A get that was interrupted leaves a part beside FILE, and the same command goes on from it. FILE is never seen unfinished.
In a directory the file is called as its publisher called it, made harmless, or onionskin-TAG; such a name replaces nothing.")]
pub(super) struct Get {
    /// The read key; `-` reads it from standard input
    pub(super) key: String,
    /// See [`Join`].
    #[command(flatten)]
    pub(super) join: Join,
    /// Where to: a file, a directory that takes it inside, or `-` for standard output [default: onionskin-TAG, the tag made from
    /// the key]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(super) force: bool,
}

/// `check`
#[derive(Debug, Args)]
#[command(
    after_help = "With `-` as KEY, the key is read from standard input: arguments are visible to the other users of a machine."
)]
pub(super) struct Check {
    /// A read or verify key; `-` reads it from standard input
    pub(super) key: String,
    /// See [`Join`].
    #[command(flatten)]
    pub(super) join: Join,
    /// Data chunks to fetch, besides the manifest's; the others are only claimed to be there
    #[arg(long, value_name = "N", default_value_t = crate::api::CHECK_SAMPLE, value_parser = sample)]
    pub(super) sample: usize,
}

/// So many chunks, and at least one: a check that fetches nothing knows nothing.
fn sample(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("a check must fetch at least 1 chunk".to_owned()),
        Ok(sample) => Ok(sample),
        Err(_) => Err(format!("`{}` is not a number of chunks", harmless(text))),
    }
}

/// `keys`
#[derive(Debug, Args)]
#[command(
    subcommand_negates_reqs = true,
    override_usage = "onionskin keys [OPTIONS] <KEY>\n       onionskin keys forget [OPTIONS] [KEY]",
    after_help = "\
With `-` as KEY, the key is read from standard input: arguments are visible to the other users of a machine."
)]
pub(super) struct Keys {
    /// A read or verify key; `-` reads it from standard input
    #[arg(required = true)]
    pub(super) key: Option<String>,
    /// What else to do.
    #[command(subcommand)]
    pub(super) command: Option<KeysCommand>,
}

/// What `keys` does besides explaining.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Remove keys that a publish kept in the data directory because it could not hand them out
    Forget {
        /// Which; `-` reads it from standard input [default: all of them]
        key: Option<String>,
    },
}
