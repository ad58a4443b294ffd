//! What goes into and comes out of the overlay machine.

use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::crypto::keys::IdentityKey;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Faces;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::proto::overlay::record::Verified;
use crate::proto::renewal::NodeKeys;
use crate::wire::codec::Extensions;
use crate::wire::freshness::Freshness;
use crate::wire::record::Descriptor;
use crate::wire::record::HostKey;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A relay as links name it: where, and whom to expect there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it answers.
    pub addr: SocketAddr,
    /// Who must answer.
    pub node: NodeId,
}

/// What a relay says about itself; the machine adds number, times and receipts, and has it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its identity.
    pub node: NodeId,
    /// Advertised addresses; the first gives the position.
    pub addrs: Vec<SocketAddr>,
    /// Whether it carries circuits.
    pub carries: bool,
    /// Key of the circuit handshake.
    pub onion_key: [u8; 32],
    /// Key that requests are sealed to, if it hosts.
    pub host_key: Option<HostKey>,
    /// Relays of the same people.
    pub family: Vec<NodeId>,
    /// Former first addresses, each with the end of their time.
    pub old_addrs: Vec<(SocketAddr, Wall)>,
}

impl Profile {
    /// What a relay with these keys, at these addresses, run by those who run these others, says of itself.
    pub fn of(keys: &NodeKeys, addrs: Vec<SocketAddr>, family: Vec<NodeId>) -> Self {
        let mut profile =
            Self { node: keys.node, addrs, carries: true, onion_key: [0; 32], host_key: None, family, old_addrs: Vec::new() };
        keys.describe(&mut profile);
        profile
    }
}

/// Settings of the machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--local-network`: special addresses, no waiting time, quick timers.
    pub local: bool,
    /// A relay describes itself; a client has none and only reads.
    pub profile: Option<Profile>,
    /// Where to begin.
    pub bootstrap: Vec<Peer>,
    /// Directories and guards of a client's earlier run: asked while no bootstrap relay answers.
    pub known: Vec<Peer>,
    /// Guards of a client's earlier run: a list that lacks most of them is not believed.
    pub guards: Vec<NodeId>,
    /// Of which network records must be.
    pub network: NetworkId,
    /// What an earlier run saved ([`Output::Save`]), by its names: those of [`SAVED`](super::SAVED), the rest is left.
    pub saved: BTreeMap<&'static str, Vec<u8>>,
}

/// What the machine is told.
#[derive(Debug)]
pub enum Input {
    /// A link is open. Told before any message of it, and before [`Input::Dialled`] names it.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The proven identity, if the other end is a relay.
        node: Option<NodeId>,
        /// Its address as seen from here.
        remote: SocketAddr,
        /// Whether this end dialled.
        dialled: bool,
        /// The other end's clock, if it is a relay (D20).
        wall: Option<Wall>,
    },
    /// A link is gone.
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// A whole overlay message arrived.
    Message {
        /// On this link.
        link: LinkId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Answer to [`Output::Dial`]: the link (a new one, or an open one unless `fresh` was asked), or `None` if nobody answered as
    /// expected.
    Dialled {
        /// The number given out.
        token: u64,
        /// The link.
        link: Option<LinkId>,
    },
    /// A job is done.
    Done {
        /// Which.
        job: JobId,
        /// What it found.
        outcome: JobOutcome,
    },
    /// The relay's addresses, keys or family changed.
    Profile(Box<Profile>),
    /// A client's directory relays, as the path policy keeps them.
    Directories(Vec<Peer>),
    /// What became of an [`Output::Ask`].
    Told {
        /// The number given out.
        token: u64,
        /// Which relay answered.
        from: Option<NodeId>,
        /// An encoded message; `None` if none came, or none that fits.
        answer: Option<Vec<u8>>,
    },
    /// Time passed.
    Tick,
}

/// What the machine wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a message on a link.
    Send {
        /// The link.
        link: LinkId,
        /// An encoded message.
        bytes: Vec<u8>,
    },
    /// Open a link, and answer with [`Input::Dialled`].
    Dial {
        /// Number of the answer.
        token: u64,
        /// Where.
        addr: SocketAddr,
        /// Who must answer.
        expect: NodeId,
        /// Whether an open link will not do (dial-back).
        fresh: bool,
    },
    /// Ask through a circuit, and answer with [`Input::Told`], once. Of a client only.
    Ask {
        /// Number of the answer.
        token: u64,
        /// Whom: not the guard. `None`: any relay, each on a circuit of its own.
        to: Option<NodeId>,
        /// An encoded question about the public view, at most one cell.
        bytes: Vec<u8>,
    },
    /// The overlay has no more use for this link; close it unless circuits run on it.
    Release {
        /// The link.
        link: LinkId,
    },
    /// The other end broke the protocol: close the link.
    Blame {
        /// The link.
        link: LinkId,
    },
    /// Work with keys, to be done beside the machine.
    Job(JobId, OverlayJob),
    /// Keep these bytes for the next start.
    Save {
        /// The name.
        name: &'static str,
        /// What to keep.
        bytes: Vec<u8>,
    },
    /// News.
    Event(Event),
}

/// News for the rest of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Relays came, went or changed.
    ViewChanged,
    /// The own clock against the others', in seconds (positive: the others are ahead).
    Clock(i64, ClockLevel),
    /// A witness saw another address than the advertised one, at which this relay cannot be.
    AddressDiffers,
    /// This relay is at another address than before: witnesses found it there.
    Moved,
    /// Somebody has two descriptors of this relay that contradict each other: nobody uses it any more.
    StruckOut,
    /// A client began with what one relay says alone, because it was given no other way in.
    OneWayIn,
    /// A client's ways in name different networks: relays drawn by their addresses say which is used.
    WaysDiffer,
    /// Something odd came from others, was passed over, and changes nothing: for whoever wants to know.
    Odd(Odd),
}

/// What came and was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Odd {
    /// A record whose signature does not verify, or that is none.
    Forged,
    /// A freshness that belongs to no descriptor which came with it or is known.
    Misfit,
    /// Two descriptors that were to prove different faces, and do not.
    NoProof,
    /// A relay shows different faces; nobody uses it any more.
    Faces,
    /// A directory's list that goes on beyond any network, or repeats itself.
    EndlessList,
    /// A directory's list that agrees with no other, or lacks most of our guards.
    LoneList,
    /// A directory lists what it cannot show.
    EmptyList,
    /// What an earlier run saved of the network is damaged, newer than this program, or too old to be of use.
    SavedView,
}

impl Odd {
    /// In words for whoever wants to know.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Forged => "a record that does not verify was passed over",
            Self::Misfit => "a relay's freshness that fits no descriptor of it was passed over",
            Self::NoProof => "two descriptors that were to prove something, and do not, were passed over",
            Self::Faces => "a relay shows different faces: it is not used any more",
            Self::EndlessList => "a directory's list without end was passed over",
            Self::LoneList => "directories' lists do not agree: what was known before holds on",
            Self::EmptyList => "a directory lists relays that it cannot show",
            Self::SavedView => "what an earlier run knew of the network is of no use any more: it is read anew",
        }
    }
}

/// How much of the network is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Median over groups of the share of sampled relays that is known, in percent.
    pub percent: u32,
    /// Groups that samples came from.
    pub groups: usize,
    /// Whether paths may be chosen: enough groups, 97 %, and a network at all.
    pub ready: bool,
}

/// What a clock offset means (D20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClockLevel {
    /// Close enough, or nothing is known against it.
    #[default]
    Good,
    /// Above 10 minutes.
    Warn,
    /// Above 3 hours: descriptors do not count; exit 4.
    Fail,
}

/// Public-key work. [`OverlayJob::run`] does it.
#[derive(Debug)]
pub enum OverlayJob {
    /// Check records.
    Verify(Vec<Vec<u8>>),
    /// Check two descriptors that prove different faces, in a local network or not.
    Faces(Vec<u8>, Vec<u8>, bool),
    /// Sign what this relay says of itself: its descriptor, if it is not as before, and its freshness.
    SignOwn {
        /// The descriptor.
        body: OwnBody,
        /// Who vouches.
        receipts: Vec<Receipt>,
        /// When.
        now: Wall,
    },
    /// Sign that this subject answered at this address in this hour.
    SignReceipt {
        /// Who.
        subject: NodeId,
        /// Where.
        addr: SocketAddr,
        /// When.
        hour: u32,
    },
    /// Check a receipt that a witness gave us.
    VerifyReceipt(Box<Receipt>),
}

/// A relay's own descriptor.
#[derive(Debug)]
pub enum OwnBody {
    /// As it was.
    Kept(Arc<Body>),
    /// To be signed.
    New(Box<Descriptor>),
}

/// What a job found.
#[derive(Debug)]
pub enum JobOutcome {
    /// Records, in order of the job.
    Verified(Vec<Result<Record, RecordError>>),
    /// A proof of different faces, if it is one.
    Faces(Option<Box<Faces>>),
    /// The own records; `None` if there is no key or they do not fit the format.
    Signed(Option<Arc<Verified>>),
    /// A receipt; `None` if there is no key or it does not verify.
    Receipt(Option<Box<Receipt>>),
    /// Too much work at once, or a bug: it was not done.
    Lost,
}

impl OverlayJob {
    /// Does the work. Pure; slow (about 0.1 ms per signature), so it runs beside the core. Worlds of many nodes may answer
    /// [`OverlayJob::Verify`] from a cache over the bytes instead, and so share one copy of each record.
    pub fn run(self, net: &NetworkId, key: Option<&IdentityKey>) -> JobOutcome {
        match self {
            Self::Verify(list) => JobOutcome::Verified(list.iter().map(|b| record::verify_record(net, b)).collect()),
            Self::Faces(one, other, local) => JobOutcome::Faces(record::verify_faces(net, &one, &other, local).ok().map(Box::new)),
            Self::SignOwn { body, receipts, now } => JobOutcome::Signed(key.and_then(|k| sign_own(k, net, body, receipts, now))),
            Self::SignReceipt { subject, addr, hour } => {
                JobOutcome::Receipt(key.map(|k| Box::new(record::sign_receipt(k, net, subject, addr, hour))))
            }
            Self::VerifyReceipt(r) => JobOutcome::Receipt(record::verify_receipt(net, &r).is_ok().then_some(r)),
        }
    }
}

fn sign_own(key: &IdentityKey, net: &NetworkId, body: OwnBody, receipts: Vec<Receipt>, now: Wall) -> Option<Arc<Verified>> {
    let body = match body {
        OwnBody::Kept(body) => body,
        OwnBody::New(descriptor) => record::sign_descriptor(key, net, *descriptor).ok()?,
    };
    let freshness = Freshness {
        node: body.descriptor().node,
        descriptor: *body.digest(),
        published: now,
        expires: now.plus(limits::FRESHNESS_LIFE_SECS),
        receipts,
        extensions: Extensions::default(),
    };
    Verified::new(body, record::sign_freshness(key, net, freshness).ok()?)
}
