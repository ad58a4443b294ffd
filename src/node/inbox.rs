//! The one queue into a node's driver.
//!
//! Order is kept: a link's `LinkUp` comes before its cells and its `LinkDown` after them. What others on the network can fill,
//! cells, takes room first: `INBOX_BATCHES` batches in all, after which readers wait and TCP slows the other end down. All else
//! is bounded by what caused it: `Sent` by the core's own promise, results by the pool's queue, commands by the people of this
//! machine.

use crate::base::LinkId;
use crate::base::OpId;
use crate::node::link::Order;
use crate::proto::Input;
use crate::proto::Settings;
use crate::proto::event::Command;
use crate::proto::event::Event;
use core::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Batches of cells that wait for the driver, over all links, each of about [`crate::node::transport::RECEIVE_BATCH`] bytes: 8 MiB,
/// or 16 where buffers are half full.
const INBOX_BATCHES: usize = 128;

/// What comes to a driver.
pub enum Arrival {
    /// For the core as it is.
    Input(Input),
    /// Cells, and the room they take until they are handled.
    Cells(Input, OwnedSemaphorePermit),
    /// A link stands.
    Up {
        /// Its id: the core's if dialled, else the shell's.
        link: LinkId,
        /// The other end.
        remote: SocketAddr,
        /// See [`Input::LinkUp`].
        exporter: [u8; 32],
        /// The way to its task, for an accepted link.
        orders: Option<mpsc::UnboundedSender<Order>>,
    },
    /// A person wants something new.
    Submit(OpId, Command, mpsc::Sender<Event>),
    /// The operator changed settings: the quota in bytes, and what the core is told of the rest.
    Settings(Option<u64>, Settings),
    /// The node shall stop.
    Stop,
}

/// The sending end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    queue: mpsc::UnboundedSender<Arrival>,
    room: Arc<Semaphore>,
}

impl Inbox {
    /// Both ends.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Arrival>) {
        let (queue, arrivals) = mpsc::unbounded_channel();
        (Self { queue, room: Arc::new(Semaphore::new(INBOX_BATCHES)) }, arrivals)
    }

    /// Adds to the queue. Nothing happens if the driver has ended.
    pub fn push(&self, arrival: Arrival) {
        let _ = self.queue.send(arrival);
    }

    /// Room for one batch of cells.
    pub fn room(&self) -> Arc<Semaphore> {
        Arc::clone(&self.room)
    }
}
