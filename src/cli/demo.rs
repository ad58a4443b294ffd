//! `demo`: a whole network on loopback. Real relays with real sockets and TLS, each in an address group of its own (127.i.0.1), so
//! that all rules on addresses apply; two clients with guards of their own; one document.

use crate::base::ErrorKind;
use crate::base::text::shown;
use crate::cli::args::Demo;
use crate::cli::output::Out;
use crate::cli::output::hex_unless_text;
use crate::cli::session;
use crate::cli::stop::Stop;
use crate::client;
use crate::client::Node;
use crate::client::Publishing;
use crate::client::Source;
use crate::client::failure;
use crate::client::files;
use crate::client::files::FileSource;
use crate::client::files::io_failure;
use crate::config::Config;
use crate::node;
use crate::node::Handle;
use crate::node::NodeConfig;
use crate::node::Pool;
use crate::node::RelayConfig;
use crate::proto::event::Failure;
use crate::proto::event::Report;
use crate::proto::event::count;
use crate::proto::event::size;
use crate::proto::memory::Memory;
use core::net::SocketAddr;
use core::time::Duration;
use serde::Serialize;
use std::borrow::Cow;
use std::path::Path;
use std::path::PathBuf;
use tokio::time::Instant;

/// Bytes of two files that are compared at a time.
const PIECE: u64 = 256 * 1024;
/// What is published when nobody names a file and there is no README.md here.
const SAMPLE: &str = include_str!("sample.md");
/// Relays that the others start from.
const ANCHORS: usize = 2;
/// Time for everything but relays and the document's bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// And for each relay: they have one machine together.
const PER_RELAY: Duration = Duration::from_millis(500);
/// Slowest acceptable pace of a large document, in bytes per second, publishing and fetching together.
const PACE: u64 = 512 * 1024;

#[derive(Serialize)]
struct Told<'a> {
    file: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_hex: Option<String>,
    bytes: u64,
    relays: usize,
    key: &'a str,
    published: &'a Report,
    fetched: &'a Report,
    network_seconds: f64,
    publish_seconds: f64,
    get_seconds: f64,
    equal: bool,
}

/// Everything that runs for a demo.
struct Network {
    /// Threads that all nodes share.
    pool: Pool,
    relays: Vec<Handle>,
    clients: Vec<Handle>,
}

impl Network {
    async fn close(self) {
        let mut ends = tokio::task::JoinSet::new();
        for handle in self.clients.into_iter().chain(self.relays) {
            ends.spawn(async move { handle.shutdown().await });
        }
        ends.join_all().await;
    }
}

/// Shows it all.
pub(super) async fn run(out: Out, args: &Demo) -> Result<(), Failure> {
    out.ready()?;
    let home = tempfile::Builder::new().prefix("onionskin-demo-").tempdir().map_err(|e| {
        let next = "Make room there, or name another directory in the environment: TMPDIR=DIR.".to_owned();
        Failure { next, ..io_failure("make a directory in", &std::env::temp_dir(), &e) }
    })?;
    let file = match &args.file {
        Some(file) => file.clone(),
        None if Path::new("README.md").is_file() => PathBuf::from("README.md"),
        None => {
            let page = home.path().join("sample.md");
            std::fs::write(&page, SAMPLE).map_err(|e| io_failure("write", &page, &e))?;
            page
        }
    };
    let source = FileSource::open(&file).await?;
    let patience = PATIENCE + Duration::from_secs(source.length() / PACE) + PER_RELAY * u32::from(args.relays);
    let pool =
        Pool::new(None).map_err(|e| failure(ErrorKind::Other, format!("cannot start threads: {e}"), "", "Free some memory."))?;
    let mut network = Network { pool, relays: Vec::new(), clients: Vec::new() };
    let mut stop = Stop::listen();
    let done = tokio::select! {
        biased;
        () = stop.asked() => Err(failure(ErrorKind::Other, "stopped by you", "", "Repeat the command.")),
        done = tokio::time::timeout(patience, show(out, args, home.path(), &file, source, &mut network)) => {
            done.unwrap_or_else(|_| Err(failure(
                ErrorKind::NoNetwork,
                format!("the demo was not done within {} seconds", patience.as_secs()),
                "",
                "Try it again when this machine is less busy.",
            )))
        }
    };
    network.close().await;
    // Dropping `home` removes every file of the network.
    drop(home);
    done
}

async fn show(
    out: Out,
    args: &Demo,
    home: &Path,
    file: &Path,
    mut source: FileSource,
    network: &mut Network,
) -> Result<(), Failure> {
    let length = source.length();
    let number = usize::from(args.relays);
    out.note(&format!("network    starting {number} relays on 127.1.0.1 .. 127.{number}.0.1, with real sockets and TLS"));
    let started = Instant::now();
    let links = relays(args.relays, home, network).await?;
    let publisher = member(home, "publisher", &links, network).await?;
    let reader = member(home, "reader", &links, network).await?;
    let network_time = started.elapsed();
    out.note(&format!("           ready after {:.1} s", network_time.as_secs_f64()));

    let what = if file.starts_with(home) { "a page that comes with the program".to_owned() } else { shown(file) };
    out.note(&format!("publish    {what}, {}", size(length)));
    let started = Instant::now();
    let ask = client::Publish { length, name: None, media_type: None, lease_days: Config::default().lease_days, convergent: false };
    let bar = out.bar("publishing");
    let mut watch = |told: Publishing<'_>| match told {
        Publishing::At(progress) => bar.show(progress),
        // Everything of a demo goes with it.
        Publishing::Key(_) => {}
    };
    let published = publisher.publish(ask, None, &mut source, &mut watch).await?;
    drop(bar);
    let publish_time = started.elapsed();
    tell(out, "stored", &published.report, publish_time);
    let key = published.key.to_text();
    out.note(&format!("key        {key}"));

    out.note("get        by another client, with a guard and circuits of its own");
    let started = Instant::now();
    let copy = home.join("copy");
    let bar = out.bar("fetching");
    let fetched = files::get_to_file(&reader, &published.key, &copy, false, &mut |progress| bar.show(progress)).await?;
    drop(bar);
    let get_time = started.elapsed();
    tell(out, "received", &fetched.report, get_time);

    let equal = same(file, &copy).await?;
    let told = Told {
        file: file.to_string_lossy(),
        file_hex: hex_unless_text(file),
        bytes: length,
        relays: number,
        key: &key,
        published: &published.report,
        fetched: &fetched.report,
        network_seconds: network_time.as_secs_f64(),
        publish_seconds: publish_time.as_secs_f64(),
        get_seconds: get_time.as_secs_f64(),
        equal,
    };
    if !equal {
        return Err(failure(
            ErrorKind::NotVerified,
            "what came back differs from what was published",
            "",
            "This is a bug: please report it.",
        ));
    }
    out.either(|| format!("compare    equal: all {length} bytes came back"), &told)
}

/// Starts the relays, the first ones first: the others start from them.
async fn relays(count: u8, home: &Path, network: &mut Network) -> Result<Vec<String>, Failure> {
    let mut links = Vec::new();
    let mut started = Vec::new();
    for i in 1..=count {
        // Port 0: the system chooses a free one, and the link tells which.
        let listen = SocketAddr::from(([127, i, 0, 1], 0));
        let (handle, events) = node::start(NodeConfig {
            data_dir: Some(home.join(format!("relay-{i}"))),
            bootstrap: links.clone(),
            local_network: true,
            relay: Some(RelayConfig {
                listen,
                advertise: Vec::new(),
                family: Vec::new(),
                quota: Config::default().quota,
                memory: Memory::default(),
            }),
            pool: Some(network.pool.clone()),
            network: None,
        })
        .await?;
        started.push(events);
        if links.len() < ANCHORS {
            links.extend(handle.bootstrap_link());
        }
        network.relays.push(handle);
    }
    for events in started {
        session::ready(events).await?;
    }
    Ok(links)
}

/// Starts a client and waits until it may choose paths.
async fn member(home: &Path, name: &str, links: &[String], network: &mut Network) -> Result<Node<Handle>, Failure> {
    let (handle, events) = node::start(NodeConfig {
        data_dir: Some(home.join(name)),
        bootstrap: links.to_vec(),
        local_network: true,
        pool: Some(network.pool.clone()),
        ..NodeConfig::default()
    })
    .await?;
    network.clients.push(handle.clone());
    session::ready(events).await?;
    Ok(Node::InProcess(handle))
}

/// How one side went: figures, and one of its circuits.
fn tell(out: Out, word: &str, report: &Report, time: Duration) {
    // Readers do not count hosts: they ask for shares wherever those are.
    let hosts = if report.hosts > 0 { format!("{} hosts, ", report.hosts) } else { String::new() };
    out.note(&format!(
        "           {word}: {} shares of {}, {hosts}{} circuits, {:.1} s",
        report.shares,
        count(report.chunks, "chunk"),
        report.paths.len(),
        time.as_secs_f64()
    ));
    if let Some(path) = report.paths.first() {
        let hops: Vec<String> = path.iter().map(ToString::to_string).collect();
        out.note(&format!("           one of the circuits: {}", hops.join(" > ")));
    }
}

/// Whether two files are the same, piece by piece: a published file may be too large to hold twice.
async fn same(a: &Path, b: &Path) -> Result<bool, Failure> {
    let mut one = FileSource::open(a).await?;
    let mut two = FileSource::open(b).await?;
    let mut left = one.length();
    let mut same = left == two.length();
    while same && left > 0 {
        let piece = left.min(PIECE);
        same = one.read(piece as usize).await? == two.read(piece as usize).await?;
        left -= piece;
    }
    Ok(same)
}
