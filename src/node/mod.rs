//! STAND-IN for the node room, so that the rooms above compile: the same names, and a start that always fails. To be replaced whole.

use crate::base::ErrorKind;
use crate::base::OpId;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::NodeEvent;
use core::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Stand-in for the node's chance.
pub mod env {
    /// Randomness for keys and choices.
    pub fn os_rng() -> impl rand::CryptoRng {
        rand::rng()
    }
}

/// What a node is started with.
#[derive(Debug)]
pub struct NodeConfig {
    /// Where it keeps its files.
    pub data_dir: PathBuf,
    /// Links of relays to start from.
    pub bootstrap: Vec<String>,
    /// Accept loopback and private addresses.
    pub local_network: bool,
    /// Given for a relay; a client otherwise.
    pub relay: Option<RelayConfig>,
}

/// What a relay is started with.
#[derive(Debug)]
pub struct RelayConfig {
    /// Where to accept links; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where others reach it; empty: where it really listens.
    pub advertise: Vec<SocketAddr>,
    /// Most bytes of others' shares.
    pub quota: u64,
}

/// A running node.
#[derive(Clone, Debug)]
pub struct Handle;

/// Starts a node.
pub async fn start(_config: NodeConfig) -> Result<(Handle, mpsc::Receiver<NodeEvent>), Failure> {
    Err(Failure {
        kind: ErrorKind::Other,
        what: "This build has no node in it.".into(),
        kept: String::new(),
        next: "Wait for one that has.".into(),
    })
}

impl Handle {
    /// The link of a relay.
    pub fn bootstrap_link(&self) -> Option<String> {
        None
    }

    /// Ends the node.
    pub async fn shutdown(self) {}

    /// Starts an operation.
    pub fn submit(&self, _command: Command) -> (OpId, mpsc::Receiver<Event>) {
        (OpId(0), mpsc::channel(1).1)
    }

    /// Says something to an operation.
    pub fn command(&self, _op: OpId, _command: Command) {}
}
