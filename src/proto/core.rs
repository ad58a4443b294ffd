//! A whole node's mind: composes the machines and routes inputs.

use crate::base::{Env, NetworkId, NodeId, Time};
use crate::crypto::secret::Secret;
use crate::proto::Input;
use crate::proto::Output;
use core::net::SocketAddr;
use std::collections::BTreeMap;

/// What a core is told at its start.
#[derive(Debug)]
pub struct CoreConfig {
    /// The network to be part of.
    pub network: NetworkId,
    /// Relay or client.
    pub role: Role,
    /// Relays to start from.
    pub bootstrap: Vec<(NodeId, SocketAddr)>,
    /// Accept loopback and private addresses, and lift the waiting time of hosts.
    pub local_network: bool,
    /// What earlier runs saved, by name ([`Output::Save`]).
    pub saved: BTreeMap<String, Vec<u8>>,
}

/// What a node is to others.
#[derive(Debug)]
pub enum Role {
    /// No descriptor, no identity, holds nothing.
    Client,
    /// Reachable; carries, and hosts when `hosts` is set and its address allows.
    Relay {
        /// Ed25519 seed of the identity.
        identity: Secret<32>,
        /// Where others reach it; IPv4 first.
        advertise: Vec<SocketAddr>,
        /// Whether it holds shares.
        hosts: bool,
    },
}

/// A whole node's mind.
#[derive(Debug)]
pub struct Core {}

impl Core {
    /// A node that has just been started.
    pub fn new(_config: CoreConfig, _env: &mut Env<'_>) -> Self {
        Self {}
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, _env: &mut Env<'_>, _input: Input) {}

    /// What is to be done, one at a time, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// When a `Tick` is wanted, and which part wants it.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        None
    }
}
