//! What programs do with a node: publish, get, check, status. One [`Node`], whether it lives in this process or behind its socket.
//!
//! ```text
//! target     where a document goes, settled before anything is sent
//! files      a document on disk: read in order, written through a part file that a later get goes on from
//! drive      one operation over a node in this process: commands in, events out, nothing left behind
//! daemon     the same operations over the socket of a running node
//! lines      the messages that pass through that socket
//! ```
//! Memory is bounded everywhere: a source is asked for one chunk at a time, and a sink has dealt with a piece before the next one
//! comes.

pub mod daemon;
pub mod drive;
#[cfg(test)]
pub(crate) mod fake;
pub mod files;
pub mod lines;
pub mod target;

use crate::base::ErrorKind;
use crate::base::OpId;
use crate::crypto::secret::Secret;
use crate::node::Handle;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::CheckReport;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::Report;
use crate::proto::event::Status;
use crate::wire::manifest::TEXT_MAX;
use bytes::Bytes;
use core::future::Future;
use tokio::sync::mpsc;

/// A node in this process, as this room needs it: [`Handle`], or a fake one in tests.
pub trait Operations: Clone + Send + Sync + 'static {
    /// Starts an operation. Its events come through the receiver; a closed receiver means that the node has stopped.
    fn submit(&self, command: Command) -> (OpId, mpsc::Receiver<Event>);
    /// Says something to a running operation. Nothing happens if it has ended.
    fn command(&self, op: OpId, command: Command);
}

impl Operations for Handle {
    fn submit(&self, command: Command) -> (OpId, mpsc::Receiver<Event>) {
        Self::submit(self, command)
    }

    fn command(&self, op: OpId, command: Command) {
        Self::command(self, op, command);
    }
}

/// A node to work with.
#[derive(Debug)]
pub enum Node<H> {
    /// In this process.
    InProcess(H),
    /// Another process of this machine, through its socket.
    Daemon(daemon::Daemon),
}

/// What is to be published, and how.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Bytes of the document.
    pub length: u64,
    /// A name that readers shall see.
    pub name: Option<String>,
    /// A media type that readers shall see.
    pub media_type: Option<String>,
    /// Days the hosts are asked to keep it.
    pub lease_days: u16,
    /// Whether the same document, published again from the same data directory, shall get the same key (D13). It is read twice: its
    /// key follows from all of it, and must be known before any of it is sealed.
    pub convergent: bool,
}

impl Publish {
    /// Whether the format has room for what readers shall see. Looked at before anything is sent: further down, what does not fit
    /// would be left out without a word.
    pub fn fits(&self) -> Result<(), Failure> {
        for (what, text) in [("name", &self.name), ("media type", &self.media_type)] {
            text.as_deref().map_or(Ok(()), text_fits).map_err(|why| {
                failure(
                    ErrorKind::Usage,
                    format!("the {what} cannot be published: {why}"),
                    "Nothing was sent.",
                    "Shorten it, or leave it out.",
                )
            })?;
        }
        Ok(())
    }
}

/// Whether a document has room for a name or media type. The error is in words, without the text.
pub fn text_fits(text: &str) -> Result<(), String> {
    match text.len() {
        0 => Err("it is empty".to_owned()),
        bytes if bytes > TEXT_MAX => Err(format!("it has {bytes} bytes, and {TEXT_MAX} are the most")),
        _ => Ok(()),
    }
}

/// A publication that stands.
#[derive(Clone, Debug)]
pub struct Published {
    /// Opens it.
    pub key: ReadKey,
    /// How it went.
    pub report: Report,
}

/// What is known of a document as soon as it is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// Bytes of the whole document.
    pub length: u64,
    /// The name that its publisher gave it. Untrusted text.
    pub name: Option<String>,
    /// The type that its publisher gave it. Untrusted text.
    pub media_type: Option<String>,
}

/// Where a publication's bytes come from, in order.
pub trait Source: Send {
    /// The next `len` bytes, all of them. Fails when there are fewer, or when the document is seen to have changed since it was
    /// opened.
    fn read(&mut self, len: usize) -> impl Future<Output = Result<Bytes, Failure>> + Send;
    /// Back to the beginning, once all was read.
    fn rewind(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Where a fetched document goes, in order.
pub trait Sink: Send {
    /// The document stands. Comes once, before any data.
    fn found(&mut self, found: Found) -> impl Future<Output = Result<(), Failure>> + Send;
    /// The next verified bytes. Returns when it has dealt with them.
    fn data(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What is told of a publication under way.
#[derive(Debug)]
pub enum Publishing<'a> {
    /// How far it is.
    At(Progress),
    /// Its key, before all is stored. Keep it: from here on a failure may leave a document that can be read.
    Key(&'a ReadKey),
}

/// Is told of a publication under way.
pub type PublishWatch<'a> = &'a mut (dyn FnMut(Publishing<'_>) + Send);

/// Is told how far an operation is.
pub type Watch<'a> = &'a mut (dyn FnMut(Progress) + Send);

impl<H: Operations> Node<H> {
    /// Publishes what the source gives. `local` is the secret of the data directory, for a convergent document of a node in this
    /// process; a running node has its own.
    pub async fn publish<S: Source>(
        &self,
        ask: Publish,
        local: Option<Secret<32>>,
        source: &mut S,
        watch: PublishWatch<'_>,
    ) -> Result<Published, Failure> {
        match self {
            Self::InProcess(node) => drive::publish(node, ask, local, source, watch).await,
            Self::Daemon(node) => node.publish(ask, source, watch).await,
        }
    }

    /// Fetches a document from byte `offset` on.
    pub async fn get<S: Sink>(&self, key: &ReadKey, offset: u64, sink: &mut S, watch: Watch<'_>) -> Result<Report, Failure> {
        match self {
            Self::InProcess(node) => drive::get(node, key, offset, sink, watch).await,
            Self::Daemon(node) => node.get(key, offset, sink, watch).await,
        }
    }

    /// Counts living shares. At most `sample` chunks are really fetched.
    pub async fn check(&self, key: &Key, sample: usize, watch: Watch<'_>) -> Result<CheckReport, Failure> {
        match self {
            Self::InProcess(node) => drive::check(node, key, sample, watch).await,
            Self::Daemon(node) => node.check(key, sample, watch).await,
        }
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status, Failure> {
        match self {
            Self::InProcess(node) => drive::status(node).await,
            Self::Daemon(node) => node.status().await,
        }
    }
}

/// A failure in words: what happened, what was kept (empty: nothing was at stake), what to do next.
pub fn failure(kind: ErrorKind, what: impl Into<String>, kept: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure { kind, what: what.into(), kept: kept.into(), next: next.into() }
}
