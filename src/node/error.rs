//! Why a node did not start: what happened, what was kept, what to do next.

use crate::base::ErrorKind;
use crate::proto::doc::key::TextError;
use crate::proto::event::Failure;
use crate::store::StoreError;
use std::io;
use std::net::SocketAddr;

/// A node that did not start. Nothing of it runs then, and nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A bootstrap link is mistyped or none.
    #[error("a bootstrap link cannot be used: {0}. Nothing was sent. Copy the link again, whole")]
    Link(#[source] TextError),
    /// A link of the family setting is mistyped or none.
    #[error("a link of the `family` setting cannot be used: {0}. Nothing was sent. Copy the link of that relay again, whole")]
    Family(#[source] TextError),
    /// A relay of the family is of another network.
    #[error(
        "the `family` setting names a relay of another network. Nothing was sent. Name those relays of this network that you run, by \
         the links that they print at their start"
    )]
    FamilyNetwork,
    /// More relays than a descriptor can name.
    #[error(
        "the `family` setting names {0} other relays, and a relay can name {max}. Nothing was sent. Name fewer, of each /16 at least \
         one",
        max = crate::base::limits::FAMILY_MAX
    )]
    FamilyTooLarge(usize),
    /// Bootstrap links of several networks.
    #[error("the bootstrap links belong to different networks. Nothing was sent. Give links of one network only")]
    Networks,
    /// The data directory, or the configuration, names another network than the links.
    #[error(
        "the bootstrap link leads to another network than the one of this data directory. Nothing was sent or changed. Use one data \
         directory for each network"
    )]
    OtherNetwork,
    /// A client that knows no relay.
    #[error("no relay is known to start from. Nothing was sent. Give a relay's link with --bootstrap")]
    NoWayIn,
    /// Something listens there already.
    #[error(
        "{0} is taken by another program. Nothing that was there was changed. Stop that program, or choose another address with --listen"
    )]
    PortInUse(SocketAddr),
    /// The address is not this machine's.
    #[error(
        "{0} is no address of this machine. Nothing that was there was changed. Choose one that is with --listen, and name the public one \
         with --advertise"
    )]
    NotOurs(SocketAddr),
    /// The system does not allow to listen there, or failed.
    #[error(
        "cannot listen on {addr}: {source}. Nothing that was there was changed. Choose another address with --listen; ports below 1024 \
         need a privilege"
    )]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No address to be reached at.
    #[error(
        "it is not clear where others reach this relay: it listens on {0}. Nothing was changed. Name its public address with --advertise"
    )]
    Unreachable(SocketAddr),
    /// An address that only a local network can use.
    #[error(
        "{0} cannot be reached from the internet. Nothing was changed. Name a public address with --advertise, or use --local-network for a \
         network of your own"
    )]
    NotPublic(SocketAddr),
    /// All relays to start from are at addresses that the open internet does not have.
    #[error(
        "the relays to start from are all in a local network. Nothing was sent. Add --local-network (in the settings: local_network = true), \
         or give the link of a relay on the internet"
    )]
    LocalLinks,
    /// The data directory or the store in it.
    #[error(transparent)]
    Disk(#[from] StoreError),
    /// A state file of this node does not read as it was written.
    #[error(
        "the file {file} in the data directory is damaged or was written by a newer onionskin. Nothing was changed. Bring back a copy or \
         install the newer release; without the file this node would be another one"
    )]
    State {
        /// Which file.
        file: &'static str,
    },
    /// The core refused to start.
    #[error("{}. {} {}", .0.what, .0.kept, .0.next)]
    Core(Failure),
    /// Cryptography or threads: the system is out of something.
    #[error("the system refused what a node needs: {0}. Nothing was changed. Free some memory or raise its limits, then try again")]
    System(String),
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

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let kind = error.kind();
        if let StartError::Core(failure) = error {
            return failure;
        }
        // Each message has three sentences: what happened, what was kept, what to do next.
        let text = error.to_string();
        let mut parts = text.splitn(3, ". ").map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Self { kind, what: part(), kept: part(), next: part() }
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
}
