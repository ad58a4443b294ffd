//! A node to work with: the running one of this data directory, or a client inside this process.

use crate::api::socket::private_dir;
use crate::base::ErrorKind;
use crate::base::limits;
use crate::cli::output::Out;
use crate::cli::output::TELL_EVERY;
use crate::client::Node;
use crate::client::daemon::Daemon;
use crate::client::drive;
use crate::client::failure;
use crate::client::files::io_failure;
use crate::config::Config;
use crate::crypto::secret::Secret;
use crate::node;
use crate::node::Handle;
use crate::node::NodeConfig;
use crate::node::home;
use crate::proto::event::Failure;
use crate::proto::event::NodeEvent;
use crate::proto::event::Status;
use crate::proto::event::count;
use crate::proto::link_text::LinkText;
use core::future::Future;
use rand::Rng;
use std::fs;
use std::io;
use std::io::IsTerminal;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::sync::mpsc;

/// Links of an earlier run, one a line.
const BOOTSTRAP_FILE: &str = "bootstrap";
/// Links that are kept: enough for some of their relays to be gone.
const LINKS_KEPT: usize = 8;
/// Makes keys of convergent documents; whoever has it can tell whether a guessed document was published from here.
const SECRET_FILE: &str = "convergent-secret";
/// Longest of these files that is read.
const FILE_MAX: u64 = 64 * 1024;

/// A node to work with.
#[derive(Debug)]
pub(super) struct Session {
    /// The node.
    pub(super) node: Node<Handle>,
}

impl Session {
    /// The running node if there is one; else a client in this process, once it knows enough of the network.
    pub(super) async fn open(out: Out, config: &Config) -> Result<Self, Failure> {
        if let Some(daemon) = Daemon::find(&config.socket()?).await? {
            if !config.bootstrap.is_empty() {
                tracing::info!("a running node does the work: bootstrap links have no effect");
            }
            return Ok(Self { node: Node::Daemon(daemon) });
        }
        let bootstrap = links(config)?;
        if bootstrap.is_empty() && !home::remembers(&config.data_dir()?) {
            return Err(failure(
                ErrorKind::NoNetwork,
                "this computer knows no relay to start from, and no node runs here",
                "Nothing was sent.",
                "Add `--bootstrap LINK` with a relay's link, or start a node with `onionskin relay`.",
            ));
        }
        let (handle, events) = node::start(NodeConfig {
            data_dir: Some(config.data_dir()?),
            bootstrap: bootstrap.clone(),
            local_network: config.local_network,
            ..NodeConfig::default()
        })
        .await?;
        out.note("looking for the network ...");
        if let Err(why) = telling(out, &handle, ready(events)).await {
            handle.shutdown().await;
            return Err(why);
        }
        // Only links that led somewhere are kept.
        keep_links(config, &bootstrap)?;
        Ok(Self { node: Node::InProcess(handle) })
    }

    /// Whether another process does the work.
    pub(super) fn is_daemon(&self) -> bool {
        matches!(self.node, Node::Daemon(_))
    }

    /// Ends a client of this process; leaves a running node alone.
    pub(super) async fn close(self) {
        match self.node {
            Node::InProcess(handle) => handle.shutdown().await,
            Node::Daemon(_) => {}
        }
    }
}

/// Waits for the network, and says from time to time how far it is: to a terminal, or to whoever asked for more with `-v`.
async fn telling<T>(out: Out, handle: &Handle, wait: impl Future<Output = T>) -> T {
    let tell = async {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let Ok(status) = drive::status(handle).await else { continue };
            let text = waiting(&status);
            out.object(
                "looking for the network",
                &serde_json::json!({ "relays": status.relays, "links": status.links, "coverage": status.coverage }),
            );
            if out.progress {
                continue;
            }
            if tracing::enabled!(tracing::Level::INFO) {
                tracing::info!("{text}");
            } else if io::stderr().is_terminal() {
                out.note(&text);
            }
        }
    };
    tokio::select! {
        done = wait => done,
        () = tell => unreachable!("telling goes on until the wait ends"),
    }
}

/// What is known of the network, and what is missing.
fn waiting(status: &Status) -> String {
    if status.links == 0 && status.relays == 0 {
        return "no relay answers yet ...".to_owned();
    }
    let coverage = status.coverage.map_or_else(|| "is not measured yet".to_owned(), |c| format!("is {c} %"));
    format!(
        "{} known in {}, {}; coverage {coverage}, {} % is needed ...",
        count(status.relays, "relay"),
        count(status.groups, "address group"),
        count(status.links, "link"),
        limits::COVERAGE_PERCENT,
    )
}

/// Waits until paths may be chosen. What comes later is logged.
pub(super) async fn ready(mut events: mpsc::Receiver<NodeEvent>) -> Result<(), Failure> {
    let wait = async {
        loop {
            match events.recv().await {
                Some(NodeEvent::Ready) => return Ok(()),
                Some(NodeEvent::NotReady(why)) => return Err(why),
                Some(event @ (NodeEvent::Warning(_) | NodeEvent::Note(_) | NodeEvent::Announced(_))) => log(&event),
                None => return Err(Failure::bug("the node ended")),
            }
        }
    };
    // The node keeps this deadline itself; a little more only guards against one that says nothing at all.
    let patience = limits::COVERAGE_DEADLINE + limits::HANDSHAKE_DEADLINE;
    tokio::time::timeout(patience, wait).await.unwrap_or_else(|_| Err(Failure::nobody_answers(0)))?;
    follow(events);
    Ok(())
}

/// Logs a node's events until it ends.
pub(super) fn follow(mut events: mpsc::Receiver<NodeEvent>) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            log(&event);
        }
    });
}

/// Tells the operator. Nothing here names an address or an id.
pub(super) fn log(event: &NodeEvent) {
    match event {
        NodeEvent::Warning(text) => tracing::warn!("{text}"),
        NodeEvent::Note(text) => tracing::info!("{text}"),
        NodeEvent::NotReady(why) => tracing::warn!("{}", why.what),
        NodeEvent::Ready => tracing::info!("ready: enough of the network is known"),
        NodeEvent::Announced(witnesses) => {
            tracing::info!("announced: {} reached this one where it says that it is", count(u64::from(*witnesses), "relay"));
        }
    }
}

// --- what is kept in the data directory

/// Links to start from: those given, else those of an earlier run.
pub(super) fn links(config: &Config) -> Result<Vec<String>, Failure> {
    if !config.bootstrap.is_empty() {
        return Ok(config.bootstrap.clone());
    }
    saved_links(&config.data_dir()?.join(BOOTSTRAP_FILE))
}

fn saved_links(path: &Path) -> Result<Vec<String>, Failure> {
    match read(path) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let links: Vec<String> =
                lines.iter().filter(|line| LinkText::decode(line).is_ok()).map(|line| (*line).to_owned()).collect();
            if links.is_empty() || links.len() < lines.len() {
                home::set_aside(path).map_err(|e| io_failure("put aside", path, &e))?;
                if !links.is_empty() {
                    write(path, whole(&links).as_bytes()).map_err(|e| io_failure("write", path, &e))?;
                }
            }
            Ok(links)
        }
        Ok(None) => Ok(Vec::new()),
        Err(e) => Err(io_failure("read", path, &e)),
    }
}

/// Keeps links for later runs, behind them those of earlier ones: the node may have come in without the new.
pub(super) fn keep_links(config: &Config, links: &[String]) -> Result<(), Failure> {
    let path = config.data_dir()?.join(BOOTSTRAP_FILE);
    if links.is_empty() {
        return Ok(());
    }
    let mut links = links.to_vec();
    for earlier in saved_links(&path)? {
        if links.len() < LINKS_KEPT && !links.contains(&earlier) {
            links.push(earlier);
        }
    }
    write(&path, whole(&links).as_bytes()).map_err(|e| io_failure("write", &path, &e))
}

/// The file of these links.
fn whole(links: &[String]) -> String {
    links.iter().flat_map(|link| [link, "\n"]).collect()
}

/// The secret behind convergent documents of this data directory; made when first needed.
pub(super) fn local_secret(config: &Config) -> Result<Secret<32>, Failure> {
    let path = config.data_dir()?.join(SECRET_FILE);
    let fail = |e: io::Error| io_failure("use", &path, &e);
    if let Some(bytes) = read(&path).map_err(fail)? {
        match <[u8; 32]>::try_from(bytes) {
            Ok(secret) => return Ok(Secret::new(secret)),
            // Convergent documents get new keys from here on; no other document has to do with it.
            Err(_) => home::set_aside(&path).map_err(fail)?,
        }
    }
    let mut secret = [0; 32];
    node::env::os_rng().fill_bytes(&mut secret);
    write(&path, &secret).map_err(fail)?;
    Ok(Secret::new(secret))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
            // No part of it is better than none.
            if bytes.len() as u64 > FILE_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(Some(bytes)) }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Replaces a private file whole or not at all.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        private_dir(parent)?;
    }
    let young = path.with_extension(format!("new{}", std::process::id()));
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&young);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    // Half a file helps nobody, and a full disk needs the room.
    written.and_then(|()| fs::rename(&young, path)).inspect_err(|_| drop(fs::remove_file(&young)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_says_what_is_known_and_what_is_missing() {
        assert_eq!(waiting(&Status::default()), "no relay answers yet ...");
        let status = Status { relays: 1, groups: 1, links: 2, ..Status::default() };
        assert_eq!(waiting(&status), "1 relay known in 1 address group, 2 links; coverage is not measured yet, 97 % is needed ...");
        let status = Status { coverage: Some(80), ..status };
        assert!(waiting(&status).contains("coverage is 80 %, 97 % is needed"));
    }

    #[test]
    fn damaged_files_of_the_command_line_are_made_anew_and_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: Some(dir.path().to_owned()), ..Config::default() };
        let path = |name: &str| dir.path().join(name);
        let first = *local_secret(&config).unwrap().expose();
        assert_eq!(*local_secret(&config).unwrap().expose(), first);
        for bad in [&first[..0], &first[..31], &[first, first].concat()] {
            fs::write(path(SECRET_FILE), bad).unwrap();
            let made = *local_secret(&config).unwrap().expose();
            assert_ne!(made, first);
            assert_eq!(*local_secret(&config).unwrap().expose(), made);
            assert_eq!(fs::read(path("convergent-secret.torn")).unwrap(), bad);
        }

        let link = |n: u8| {
            let node = crate::base::NodeId([n; 32]);
            LinkText { network: crate::base::NetworkId([3; 32]), node, addrs: vec![([20, n, 0, 1], 443).into()] }.encode()
        };
        assert!(links(&config).unwrap().is_empty());
        keep_links(&config, &[]).unwrap();
        assert!(!path(BOOTSTRAP_FILE).exists());
        keep_links(&config, &[link(1), link(2)]).unwrap();
        assert_eq!(links(&config).unwrap(), [link(1), link(2)]);
        let torn = |bad: &[u8], left: &[String]| {
            fs::write(path(BOOTSTRAP_FILE), bad).unwrap();
            assert_eq!(links(&config).unwrap(), left);
            assert_eq!(fs::read(path("bootstrap.torn")).unwrap(), bad);
            assert_eq!(links(&config).unwrap(), left, "once is enough");
            fs::remove_file(path("bootstrap.torn")).unwrap();
        };
        let good = format!("{}\n{}\n", link(1), link(2));
        torn(b"", &[]);
        torn(b"\n", &[]);
        torn(&[0; 200], &[]);
        torn(&[0xff; 20], &[]);
        torn(&good.as_bytes()[..good.len() - 9], &[link(1)]);
        torn(&good.as_bytes()[9..], &[link(2)]);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bootstrap");
        // A directory cannot be replaced by a file.
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
