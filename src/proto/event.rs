//! What people ask of a node, and what it tells them.

use crate::base::{ErrorKind, NodeId};
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use bytes::Bytes;
use core::net::SocketAddr;

/// What a person wants. Each runs under its own `OpId`, on circuits of its own.
#[derive(Debug)]
pub enum Command {
    /// Publish a document of exactly `length` bytes. Answers: [`Event::Need`] for each chunk's plaintext in order, [`Event::Progress`],
    /// then [`Event::Published`] or [`Event::Failed`].
    Publish {
        /// Bytes of the document.
        length: u64,
        /// A name and a media type that readers shall see; both optional.
        name: Option<String>,
        /// See `name`.
        media_type: Option<String>,
        /// Days the hosts are asked to keep it.
        lease_days: u16,
        /// Given for a convergent document: K_r is derived outside, from the local secret and the content.
        convergent: Option<[u8; 32]>,
    },
    /// The plaintext that an [`Event::Need`] asked for.
    Plain(Bytes),
    /// Fetch a document from byte `offset` on. Answers: [`Event::Found`], [`Event::Data`] in order, then [`Event::Fetched`] or
    /// [`Event::Failed`].
    Get {
        /// What to fetch.
        key: ReadKey,
        /// First byte wanted: what an earlier, interrupted get has on disk already.
        offset: u64,
    },
    /// The receiver of [`Event::Data`] has dealt with this many bytes: more may come.
    Consumed(u64),
    /// Count the living shares of a document, with a read or a verify key. Answers: [`Event::Progress`], then [`Event::Checked`].
    Check {
        /// What to check.
        key: Key,
        /// Most chunks to sample; the others are "claimed".
        sample: usize,
    },
    /// Stop and forget this operation.
    Cancel,
    /// How the node is. Answer: [`Event::Status`].
    Status,
}

/// What became of a command.
#[derive(Debug)]
pub enum Event {
    /// The node waits for this much of the document, to be answered by [`Command::Plain`] of exactly that many bytes (the file's end may
    /// not come early: a shorter answer fails the operation).
    Need {
        /// Where in the document.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// How far it is.
    Progress(Progress),
    /// The document stands, with this length.
    Found {
        /// Bytes of the whole document.
        length: u64,
        /// The name that its publisher gave it. Untrusted text.
        name: Option<String>,
        /// The type that its publisher gave it. Untrusted text.
        media_type: Option<String>,
    },
    /// Verified bytes of the document, in order.
    Data(Bytes),
    /// All bytes were delivered.
    Fetched(Report),
    /// Stored: at least 16 acknowledgements for each chunk (D16).
    Published {
        /// Opens it.
        key: ReadKey,
        /// How it went.
        report: Report,
    },
    /// What a check found.
    Checked(CheckReport),
    /// How the node is.
    Status(Status),
    /// It did not work.
    Failed(Failure),
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes of the document dealt with.
    pub bytes: u64,
    /// Bytes of the document in all, once known.
    pub total: u64,
    /// Shares acknowledged or received so far.
    pub shares: u64,
}

/// How an operation went, in figures that its own user may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Bytes of the document.
    pub bytes: u64,
    /// Chunks, parity and padding included.
    pub chunks: u64,
    /// Shares stored or received.
    pub shares: u64,
    /// Shares that were refused, missing, late or did not verify.
    pub shares_failed: u64,
    /// Distinct hosts that gave or took shares.
    pub hosts: u64,
    /// The circuits used, each as its relays' addresses from the guard to the last hop. For the user's own eyes (demo, status); never logged.
    pub paths: Vec<Vec<SocketAddr>>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckReport {
    /// Chunks of the document, manifest nodes counted once per stored copy.
    pub chunks: u64,
    /// Chunks whose shares were really fetched and verified.
    pub chunks_sampled: u64,
    /// Shares that verified, over all sampled chunks.
    pub shares_seen: u64,
    /// Shares that those chunks can have.
    pub shares_possible: u64,
    /// Fewest distinct shares that any sampled chunk has.
    pub weakest: u64,
    /// Shares that one chunk needs.
    pub needed: u64,
    /// Sampled chunks that cannot be rebuilt from what was seen.
    pub chunks_lost: u64,
}

/// Why something did not work, in words for a person: what happened, what was kept, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What the person can do about it; decides the exit code.
    #[serde(with = "kind_word")]
    pub kind: ErrorKind,
    /// What happened.
    pub what: String,
    /// What was kept; empty if nothing was at stake.
    pub kept: String,
    /// What to do next.
    pub next: String,
}

mod kind_word {
    use crate::base::ErrorKind;
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(kind: &ErrorKind, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(kind.word())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ErrorKind, D::Error> {
        Ok(ErrorKind::from_word(&String::deserialize(d)?))
    }
}

/// How a node is. For its own operator and user only: served on the local socket, never logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// Whether paths may be chosen: the view is known well enough.
    pub ready: bool,
    /// Usable relays in the view.
    pub relays: u64,
    /// Hosts among them.
    pub hosts: u64,
    /// Distinct /16 groups.
    pub groups: u64,
    /// Measured coverage in percent, once measured.
    pub coverage: Option<u32>,
    /// Open links.
    pub links: u64,
    /// Circuits of this node's user that stand ready or are in use.
    pub circuits_own: u64,
    /// Circuits carried for others.
    pub circuits_carried: u64,
    /// What is weaker than it should be, in words: few relays, rules kept only as far as a small network allows, clock off.
    pub warnings: Vec<String>,
    /// This relay's bootstrap link, if it is one.
    pub link: Option<String>,
}

/// What happens to the node itself.
#[derive(Debug)]
pub enum NodeEvent {
    /// The view is complete enough: user-plane circuits may be built. Sent once each time this becomes true.
    Ready,
    /// It is not any more, or still not after `limits::COVERAGE_DEADLINE`; in words for a person, with the figure.
    NotReady(Failure),
    /// This relay's descriptor has all its receipts and is announced.
    Announced(NodeId),
    /// Something the operator should know, in words without addresses or ids.
    Warning(String),
}
