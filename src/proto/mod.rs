//! Every decision of a node, sans-IO. Nothing here reads a clock, a socket, a disk or the system's randomness: see the machine
//! contract.
//!
//! # The machine contract
//! ```text
//! handle(&mut self, env, input)   exactly one mutation
//! poll_output(&mut self)          drain to None after each handle
//! timeout(&self)                  pure; an early, late or repeated tick is a no-op
//! ```
//! Parents drain their children inside their own `handle`. Handshakes are consumed by each step. Disk and public-key work are IO as
//! well: the core emits a [`Job`] and gets a [`JobResult`], late, or never, or once. Every queue has a limit and a rule for
//! overflow, next to each other. The same inputs, times and seed give the same outputs.

pub mod circuit;
pub mod core;
pub mod crowd;
pub mod doc;
pub mod event;
pub mod host;
pub mod job;
pub mod link;
pub mod link_text;
pub mod memory;
pub mod ops;
mod out;
pub mod overlay;
pub mod path;
pub mod renewal;
pub mod replays;
pub mod requests;
pub mod slab;
pub mod timers;

pub use self::core::Core;
pub use event::{Command, Event, Failure, NodeEvent, Status};
pub use job::{Job, JobResult, Shares};

use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::OpId;
use bytes::BytesMut;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// What the world tells a core.
#[derive(Debug)]
pub enum Input {
    /// A connection stands and TLS is done. `exporter` is the TLS exporter value that both ends of this link share and no other
    /// link has.
    LinkUp {
        /// The id that [`Output::Dial`] gave, or a fresh one of the shell's for an accepted connection.
        link: LinkId,
        /// The address of the other end, as the socket sees it.
        remote: SocketAddr,
        /// Binds the relay's proof of identity to this very link (D2).
        exporter: [u8; 32],
        /// Whether this end dialled.
        dialed: bool,
    },
    /// The link is gone, or its dial failed. Comes once for every link that was dialled or up, also after [`Output::Close`].
    LinkDown {
        /// Which link.
        link: LinkId,
    },
    /// Cells arrived: `cells.len()` is a multiple of the cell size and not zero.
    Cells {
        /// From which link.
        link: LinkId,
        /// Whole cells, back to back. The core works on them in place.
        cells: BytesMut,
    },
    /// The transport handed this many cells of earlier [`Output::Send`]s to the operating system.
    Sent {
        /// On which link.
        link: LinkId,
        /// How many cells.
        cells: usize,
    },
    /// A job is done.
    Done {
        /// Which job.
        job: JobId,
        /// What came of it.
        result: JobResult,
    },
    /// A person (through the command line or the API) wants something.
    Command(OpId, Command),
    /// The operator changed settings of a relay that runs.
    Settings(Settings),
    /// Time passed. Also implied by every other input, but at a relay [`Input::Sent`].
    Tick,
}

/// Settings that may change while a relay runs. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Other relays of the same people, sorted, at most [`crate::base::limits::FAMILY_MAX`].
    pub family: Option<Vec<NodeId>>,
}

/// What a core wants of the world.
#[derive(Debug)]
pub enum Output {
    /// Connect and do TLS within `limits::HANDSHAKE_DEADLINE`, then say `LinkUp` or `LinkDown` with this id.
    Dial {
        /// The core's id for the link to be.
        link: LinkId,
        /// Where to.
        addr: SocketAddr,
    },
    /// Close the link when what was sent before has left, or at once if that takes longer than a second.
    Close {
        /// Which link.
        link: LinkId,
    },
    /// Send whole cells. The core never has more than `limits::LINK_IN_FLIGHT` cells of a link out without a [`Input::Sent`], and
    /// `limits::LINK_CONTROL_MAX` control cells on top.
    Send {
        /// On which link.
        link: LinkId,
        /// Whole cells, back to back.
        cells: BytesMut,
    },
    /// Run this beside the core, on any core of the machine.
    Job {
        /// To be given back with the result.
        job: JobId,
        /// What to do.
        work: Job,
    },
    /// Something happened to what a person asked for.
    Event(OpId, Event),
    /// Something happened to the node.
    Node(NodeEvent),
    /// Keep these bytes under this name, replacing what was there; they come back at the next start.
    Save {
        /// A file name of `a-z` and `-`.
        name: &'static str,
        /// The content: a lasting format with kind and version. May hold secrets.
        bytes: Zeroizing<Vec<u8>>,
    },
}
