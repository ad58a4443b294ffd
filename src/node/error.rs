//! Why a node did not start: what happened, what was kept, what to do next.

use crate::base::ErrorKind;
use crate::base::limits;
use crate::proto::doc::key::TextError;
use crate::proto::event::Failure;
use crate::store::StoreError;
use std::io;
use std::net::SocketAddr;

/// A node that did not start. Nothing of it runs then, and nothing was sent.
#[derive(Debug)]
pub enum StartError {
    /// A bootstrap link is mistyped or none.
    Link(TextError),
    /// A link of the family setting is mistyped or none.
    Family(TextError),
    /// A relay of the family is of another network.
    FamilyNetwork,
    /// More relays than a descriptor can name.
    FamilyTooLarge(usize),
    /// Bootstrap links of several networks.
    Networks,
    /// The data directory, or the configuration, names another network than the links.
    OtherNetwork,
    /// A client that knows no relay.
    NoWayIn,
    /// Something listens there already.
    PortInUse(SocketAddr),
    /// The address is not this machine's.
    NotOurs(SocketAddr),
    /// The system does not allow to listen there, or failed.
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No address to be reached at.
    Unreachable(SocketAddr),
    /// An address that only a local network can use.
    NotPublic(SocketAddr),
    /// All relays to start from are at addresses that the open internet does not have.
    LocalLinks,
    /// The data directory or the store in it.
    Disk(StoreError),
    /// A state file of this node does not read as it was written.
    State {
        /// Which file.
        file: &'static str,
    },
    /// The core refused to start.
    Core(Failure),
    /// Cryptography or threads: the system is out of something.
    System(String),
}

/// What to do about a state file that cannot be made anew.
fn way_out(file: &str) -> &'static str {
    if file == crate::node::home::NETWORK {
        "Bring back a copy, install the newer release, or give a link of a relay of that network with --bootstrap"
    } else {
        "Bring back a copy or install the newer release; if there is neither, move the file away, and this node begins anew as another one"
    }
}

impl StartError {
    /// An error of listening, sorted by what can be done about it.
    pub(super) fn listen(addr: SocketAddr, source: io::Error) -> Self {
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            Self::PortInUse(addr)
        } else if kind == io::ErrorKind::AddrNotAvailable {
            Self::NotOurs(addr)
        } else {
            Self::Listen { addr, source }
        }
    }

    /// What happened, what was kept, what to do next: a sentence each, without its full stop. Parts, because no sign between them
    /// could not also stand in a path or in the system's words.
    pub fn told(&self) -> [String; 3] {
        const UNSENT: &str = "Nothing was sent";
        const UNTOUCHED: &str = "Nothing that was there was changed";
        const UNCHANGED: &str = "Nothing was changed";
        let (what, kept, next) = match self {
            Self::Link(why) => (format!("a bootstrap link cannot be used: {why}"), UNSENT, "Copy the link again, whole".to_owned()),
            Self::Family(why) => (
                format!("a link of the `family` setting cannot be used: {why}"),
                UNSENT,
                "Copy the link of that relay again, whole".to_owned(),
            ),
            Self::FamilyNetwork => (
                "the `family` setting names a relay of another network".to_owned(),
                UNSENT,
                "Name those relays of this network that you run, by the links that they print at their start".to_owned(),
            ),
            Self::FamilyTooLarge(number) => (
                format!("the `family` setting names {number} other relays, and a relay can name {}", limits::FAMILY_MAX),
                UNSENT,
                "Name fewer, of each /16 at least one".to_owned(),
            ),
            Self::Networks => {
                ("the bootstrap links belong to different networks".to_owned(), UNSENT, "Give links of one network only".to_owned())
            }
            Self::OtherNetwork => (
                "the bootstrap link leads to another network than the one of this data directory".to_owned(),
                "Nothing was sent or changed",
                "Use one data directory for each network".to_owned(),
            ),
            Self::NoWayIn => {
                ("no relay is known to start from".to_owned(), UNSENT, "Give a relay's link with --bootstrap".to_owned())
            }
            Self::PortInUse(addr) => (
                format!("{addr} is taken by another program"),
                UNTOUCHED,
                "Stop that program, or choose another address with --listen".to_owned(),
            ),
            Self::NotOurs(addr) => (
                format!("{addr} is no address of this machine"),
                UNTOUCHED,
                "Choose one that is with --listen, and name the public one with --advertise".to_owned(),
            ),
            Self::Listen { addr, source } => (
                format!("cannot listen on {addr}: {source}"),
                UNTOUCHED,
                "Choose another address with --listen; ports below 1024 need a privilege".to_owned(),
            ),
            Self::Unreachable(addr) => (
                format!("it is not clear where others reach this relay: it listens on {addr}"),
                UNCHANGED,
                "Name its public address with --advertise".to_owned(),
            ),
            Self::NotPublic(addr) => (
                format!("{addr} cannot be reached from the internet"),
                UNCHANGED,
                "Name a public address with --advertise, or use --local-network for a network of your own".to_owned(),
            ),
            Self::LocalLinks => (
                "the relays to start from are all in a local network".to_owned(),
                UNSENT,
                "Add --local-network (in the settings: local_network = true), or give the link of a relay on the internet"
                    .to_owned(),
            ),
            Self::Disk(error) => return error.told(),
            Self::State { file } => (
                format!("the file {file} in the data directory is damaged or was written by a newer onionskin"),
                UNCHANGED,
                way_out(file).to_owned(),
            ),
            Self::Core(why) => return [why.what.clone(), why.kept.clone(), why.next.clone()],
            Self::System(why) => (
                format!("the system refused what a node needs: {why}"),
                UNCHANGED,
                "Free some memory or raise its limits, then try again".to_owned(),
            ),
        };
        [what, kept.to_owned(), next]
    }

    /// What a person can do about it, for exit codes.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Link(_)
            | Self::Family(_)
            | Self::FamilyNetwork
            | Self::FamilyTooLarge(_)
            | Self::Networks
            | Self::OtherNetwork
            | Self::NotOurs(_)
            | Self::Listen { .. }
            | Self::Unreachable(_)
            | Self::NotPublic(_)
            | Self::LocalLinks => ErrorKind::Usage,
            Self::NoWayIn => ErrorKind::NoNetwork,
            Self::Disk(error) => error.kind(),
            Self::Core(failure) => failure.kind,
            Self::PortInUse(_) | Self::State { .. } | Self::System(_) => ErrorKind::Other,
        }
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Disk(error)
    }
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.told().join(". "))
    }
}

impl core::error::Error for StartError {}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let kind = error.kind();
        let [what, kept, next] = error.told();
        Self { kind, what, kept, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_was_kept_and_what_to_do() {
        let addr: SocketAddr = "1.2.3.4:5".parse().unwrap();
        for error in [
            StartError::Link(TextError::CutOff),
            StartError::Networks,
            StartError::OtherNetwork,
            StartError::NoWayIn,
            StartError::PortInUse(addr),
            StartError::NotOurs(addr),
            StartError::Listen { addr, source: io::ErrorKind::PermissionDenied.into() },
            StartError::Unreachable(addr),
            StartError::NotPublic(addr),
            StartError::LocalLinks,
            StartError::State { file: "identity" },
            StartError::System("no".into()),
            StartError::Disk(StoreError::InUse("/x".into())),
        ] {
            let text = error.to_string();
            let failure = Failure::from(error);
            assert!(!failure.what.is_empty() && !failure.kept.is_empty() && !failure.next.is_empty(), "{text}");
            assert!(failure.kept.starts_with("Nothing"), "{text}");
        }
    }

    #[test]
    fn a_path_is_whole_in_its_sentence_whatever_it_holds() {
        for path in ["/srv/St. Mary. Old. 2", "/x; y. z/a", "/a.\u{1b}[2J. b"] {
            let shown = crate::base::text::shown(path);
            for (error, kept) in [
                (StoreError::InUse(path.into()), "Nothing was touched"),
                (StoreError::Exposed { path: path.into(), mode: 0o755 }, "Nothing was read"),
            ] {
                let failure = Failure::from(StartError::Disk(error));
                assert!(failure.what.contains(&shown) && !failure.what.contains('\u{1b}'), "{failure:?}");
                assert_eq!(failure.kept, kept);
            }
        }
    }
}
