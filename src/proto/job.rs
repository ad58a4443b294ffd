//! Work that runs beside the core: public-key operations, coding, and serving shares from disk. Pure but for [`Shares`].
//!
//! A result means the same whatever went wrong inside: `None`, or the peer's fault counted. Nothing here panics on what a peer
//! sent.

use crate::base::Address;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::crypto::keys;
use crate::crypto::keys::IdentityKey;
use crate::crypto::ntor;
use crate::crypto::ntor::OnionKey;
use crate::crypto::secret::Secret;
use crate::crypto::session;
use crate::crypto::session::ClientSession;
use crate::crypto::session::HostSession;
use crate::proto::doc;
use crate::proto::doc::share;
use crate::proto::doc::share::Verified;
use crate::proto::host::Acceptance;
use crate::proto::overlay::JobOutcome;
use crate::proto::overlay::OverlayJob;
use crate::proto::renewal::Generation;
use crate::proto::renewal::NodeKeys;
use crate::wire::hello::Proof;
use crate::wire::request;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use crate::wire::request::Stored;
use crate::wire::share::Class;
use rand::CryptoRng;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The shares that this node holds, as its jobs see them. Implemented over the store by the shell, and in memory by the simulator.
pub trait Shares: Send + Sync {
    /// Keeps a verified share blob. `lease_days` counts from today, `max_per_chunk` is the most shares of one chunk to hold.
    /// Durable when it returns [`PutOutcome::Stored`].
    fn put(&self, lease_days: u16, address: &Address, index: u8, blob: &[u8], max_per_chunk: usize) -> PutOutcome;
    /// Any held share of the chunk whose index is set in `want`; `chance` picks among several.
    fn get_any(&self, address: &Address, want: u32, chance: u32) -> Option<Vec<u8>>;
}

/// What became of a share that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is on disk.
    Stored,
    /// It was there already.
    AlreadyHeld,
    /// Enough other shares of this chunk are here, for as long now as this one would have been.
    HoldsEnough {
        /// Which, by index: a bit for each.
        held: u32,
    },
    /// No room, or the disk failed.
    Full,
}

/// A host's sealed answer to a fetch.
#[derive(Debug)]
pub struct SealedAnswer {
    /// Who gave it.
    pub host: NodeId,
    /// Opens it.
    pub session: ClientSession,
    /// Its number in the session.
    pub n: u16,
    /// Whole cells.
    pub sealed: Vec<u8>,
}

/// Distinct verified shares of one chunk: index, leaf hash and data. Prints how many.
#[derive(Default)]
pub struct Shares8(pub Vec<(u8, [u8; 32], Vec<u8>)>);

impl core::fmt::Debug for Shares8 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Shares8").field(&self.len()).finish()
    }
}

impl Shares8 {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The indexes that are still welcome, as a fetch's mask.
    pub fn wanted(&self) -> u32 {
        let all = (1u32 << limits::SHARES_TOTAL) - 1;
        self.0.iter().fold(all, |mask, (index, ..)| mask & !(1 << index))
    }
}

/// What opening a few answers came to.
#[derive(Debug)]
pub struct SharesFound {
    /// All distinct shares now, unless the chunk was rebuilt.
    pub shares: Shares8,
    /// Hosts that gave a verified share.
    pub givers: Vec<NodeId>,
    /// Answers that did not open or verify.
    pub liars: u64,
    /// The sealed chunk if there were enough shares; `Err` if they are not one codeword.
    pub rebuilt: Option<Result<Vec<u8>, ()>>,
}

/// One piece of work.
#[derive(Debug)]
pub enum Job {
    /// Signs our proof of identity for a link.
    LinkProof {
        /// Our identity.
        identity: Arc<IdentityKey>,
        /// The network.
        network: NetworkId,
        /// The link's TLS exporter.
        exporter: [u8; 32],
        /// Whether we dialled.
        dialer: bool,
        /// Our clock.
        clock: Wall,
    },
    /// Checks the other end's proof.
    LinkCheck {
        /// The network.
        network: NetworkId,
        /// The link's TLS exporter.
        exporter: [u8; 32],
        /// Whether the other end dialled.
        dialer: bool,
        /// What it said.
        proof: Box<Proof>,
    },
    /// A relay's side of a circuit handshake.
    CircuitServer {
        /// Our keys.
        keys: Arc<NodeKeys>,
        /// The client's message.
        message: Vec<u8>,
    },
    /// A client's first messages for all hops of a circuit.
    CircuitStart {
        /// The network.
        network: NetworkId,
        /// Relays and their circuit keys, first hop first.
        hops: Vec<(NodeId, [u8; 32])>,
    },
    /// A client's check of a hop's answer.
    CircuitReply {
        /// From [`Job::CircuitStart`].
        state: Box<ntor::ClientState>,
        /// The answer.
        reply: Vec<u8>,
    },
    /// A host's side of a session's opening.
    HostOpen {
        /// Our keys.
        keys: Arc<NodeKeys>,
        /// The opening message.
        message: Vec<u8>,
    },
    /// A client's opening of a session.
    SessionOpen {
        /// The network.
        network: NetworkId,
        /// The host.
        host: NodeId,
        /// Its key.
        key: Box<keys::HostPublic>,
        /// What the session is for.
        kind: SessionType,
    },
    /// New keys for a relay.
    MakeKeys {
        /// Our clock.
        wall: Wall,
        /// The name of the host key, if one is wanted.
        host_id: Option<u32>,
    },
    /// One sealed request, served from disk.
    Serve {
        /// The session.
        session: HostSession,
        /// What it is for.
        kind: SessionType,
        /// The request's number.
        n: u16,
        /// The request.
        sealed: Vec<u8>,
        /// Which chunks we take.
        acceptance: Arc<Acceptance>,
    },
    /// Opens and verifies answers to fetches of one chunk, and rebuilds it when there are enough.
    OpenAnswers {
        /// The stored copy that was asked for.
        address: Address,
        /// The root that its shares must lead to.
        root: [u8; 32],
        /// Its class.
        class: Class,
        /// What came.
        answers: Vec<SealedAnswer>,
        /// What was verified before.
        shares: Shares8,
        /// Whether to rebuild the chunk when there are enough.
        rebuild: bool,
    },
    /// Work on a document (`proto::doc`).
    Document(doc::DocJob),
    /// Work of the overlay plane.
    Overlay {
        /// What to do.
        work: OverlayJob,
        /// The network.
        network: NetworkId,
        /// Our identity, if we have one.
        identity: Option<Arc<IdentityKey>>,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum JobResult {
    /// Of [`Job::LinkProof`].
    LinkProof(Box<Proof>),
    /// Of [`Job::LinkCheck`]: the proof, if it holds.
    LinkCheck(Option<Box<Proof>>),
    /// Of [`Job::CircuitServer`]: the answer and the layer's keys.
    CircuitServer(Option<(Vec<u8>, Secret<160>)>),
    /// Of [`Job::CircuitStart`].
    CircuitStart(Option<Vec<(ntor::ClientState, Vec<u8>)>>),
    /// Of [`Job::CircuitReply`]: the layer's keys.
    CircuitReply(Option<Secret<160>>),
    /// Of [`Job::HostOpen`].
    HostOpen(Option<(HostSession, SessionType)>),
    /// Of [`Job::SessionOpen`]: the session and its opening message.
    SessionOpen(Option<(ClientSession, Vec<u8>)>),
    /// Of [`Job::MakeKeys`].
    MakeKeys(Option<Generation>),
    /// Of [`Job::Serve`]: the sealed answer; `None` if the request did not open.
    Serve(Option<Vec<u8>>),
    /// Of [`Job::OpenAnswers`].
    OpenAnswers(SharesFound),
    /// Of [`Job::Document`].
    Document(doc::DocJobResult),
    /// Of [`Job::Overlay`].
    Overlay(JobOutcome),
    /// The job was lost: its worker failed. Whoever waits treats it as "did not verify".
    Lost,
}

/// For whose sake a job is done. Each kind waits in a queue of its own, and the queues take turns (T36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// This node's own user, and its own keys.
    Own,
    /// Knowing the network: the overlay plane, and links that we dial. Those dialled for the circuits of others are among them:
    /// whoever waits for an open link may be anybody, and few of them are dialled at a time (`link::dial`), so that they do not
    /// fill this queue.
    Upkeep,
    /// Whoever dialled us, and the circuits and legs that come in.
    Others,
}

impl Job {
    /// For whose sake this is.
    pub const fn lane(&self) -> Lane {
        match self {
            Self::CircuitStart { .. }
            | Self::CircuitReply { .. }
            | Self::SessionOpen { .. }
            | Self::MakeKeys { .. }
            | Self::OpenAnswers { .. }
            | Self::Document(_) => Lane::Own,
            Self::Overlay { .. } | Self::LinkProof { dialer: true, .. } | Self::LinkCheck { dialer: false, .. } => Lane::Upkeep,
            Self::LinkProof { dialer: false, .. }
            | Self::LinkCheck { dialer: true, .. }
            | Self::CircuitServer { .. }
            | Self::HostOpen { .. }
            | Self::Serve { .. } => Lane::Others,
        }
    }

    /// Whether it may wait for the disk.
    pub const fn touches_disk(&self) -> bool {
        matches!(self, Self::Serve { .. })
    }

    /// Does the work; takes microseconds to some milliseconds. `shares`: the store of a host; without one, requests are answered
    /// with "full" and "miss".
    pub fn run(self, rng: &mut dyn CryptoRng, shares: Option<&dyn Shares>) -> JobResult {
        match self {
            Self::LinkProof { identity, network, exporter, dialer, clock } => {
                let signature = keys::link_proof(&identity, &network, &exporter, dialer);
                JobResult::LinkProof(Box::new(Proof { clock, node: identity.node_id(), signature }))
            }
            Self::LinkCheck { network, exporter, dialer, proof } => {
                let holds = keys::check_link_proof(&proof.node, &network, &exporter, dialer, &proof.signature).is_ok();
                JobResult::LinkCheck(holds.then_some(proof))
            }
            Self::CircuitServer { keys, message } => {
                let onion: Vec<&OnionKey> = keys.onion().collect();
                JobResult::CircuitServer(ntor::server(rng, &keys.network, &keys.node, &onion, &message).ok())
            }
            Self::CircuitStart { network, hops } => {
                let started = hops.iter().map(|(node, key)| ntor::client1(rng, &network, node, key)).collect::<Result<_, _>>();
                JobResult::CircuitStart(started.ok())
            }
            Self::CircuitReply { state, reply } => JobResult::CircuitReply(ntor::client2(*state, &reply).ok()),
            Self::HostOpen { keys, message } => JobResult::HostOpen(host_open(&keys, &message)),
            Self::SessionOpen { network, host, key, kind } => {
                JobResult::SessionOpen(session::open(rng, &network, &host, &key, kind.to_bytes()).ok())
            }
            Self::MakeKeys { wall, host_id } => JobResult::MakeKeys(Generation::fresh(rng, wall, host_id).ok()),
            Self::Serve { session, kind, n, mut sealed, acceptance } => {
                JobResult::Serve(serve(rng, shares, &session, kind, n, &mut sealed, &acceptance))
            }
            Self::OpenAnswers { address, root, class, answers, shares, rebuild } => {
                JobResult::OpenAnswers(open_answers(&address, &root, class, answers, shares, rebuild))
            }
            Self::Document(job) => JobResult::Document(job.run()),
            Self::Overlay { work, network, identity } => JobResult::Overlay(work.run(&network, identity.as_deref())),
        }
    }
}

fn host_open(keys: &NodeKeys, message: &[u8]) -> Option<(HostSession, SessionType)> {
    let id = session::open_key_id(message)?;
    let key = keys.host(id)?;
    let (session, kind) = session::accept(&keys.network, &keys.node, key, message).ok()?;
    Some((session, SessionType::from_bytes(kind).ok()?))
}

fn serve(
    rng: &mut dyn CryptoRng,
    shares: Option<&dyn Shares>,
    session: &HostSession,
    kind: SessionType,
    n: u16,
    sealed: &mut [u8],
    acceptance: &Acceptance,
) -> Option<Vec<u8>> {
    let plain = session.open_request(n, sealed).ok()?;
    let answer = match kind.kind {
        Kind::Fetch => {
            let fetch = request::Fetch::from_bytes(plain).ok()?;
            let blob = shares.and_then(|s| s.get_any(&fetch.address, fetch.want, rng.next_u32()));
            // A session of one class cannot carry the other's shares.
            request::fetched(blob.filter(|b| b.len() == kind.class.blob_len()).as_deref())
        }
        Kind::Store => {
            let store = request::Store::from_bytes(plain).ok()?;
            stored(shares, kind.class, &store, acceptance).to_bytes()
        }
    };
    session.seal_response(rng, n, &answer, kind.response_len()).ok()
}

fn stored(shares: Option<&dyn Shares>, class: Class, store: &request::Store<'_>, acceptance: &Acceptance) -> Stored {
    if store.ticket.0 != request::TICKET_NONE {
        return Stored::TicketWanted;
    }
    let Some(Verified { address, share, .. }) = share::verify_share(store.blob).ok().filter(|v| v.share.class == class) else {
        return Stored::Invalid;
    };
    if !acceptance.accepts(&address, share.index) {
        return Stored::TooFar;
    }
    match shares
        .map(|s| s.put(store.lease_days.min(limits::LEASE_MAX_DAYS), &address, share.index, store.blob, acceptance.max_per_chunk))
    {
        Some(PutOutcome::Stored) => Stored::Stored,
        Some(PutOutcome::AlreadyHeld) => Stored::AlreadyHeld,
        Some(PutOutcome::HoldsEnough { held }) => Stored::HoldsEnough { held },
        Some(PutOutcome::Full) | None => Stored::Full,
    }
}

fn open_answers(
    address: &Address,
    root: &[u8; 32],
    class: Class,
    answers: Vec<SealedAnswer>,
    mut shares: Shares8,
    rebuild: bool,
) -> SharesFound {
    let mut have: BTreeSet<u8> = shares.0.iter().map(|(index, ..)| *index).collect();
    let (mut givers, mut liars) = (Vec::new(), 0);
    for mut answer in answers {
        let opened = answer.session.open_response(answer.n, &mut answer.sealed).ok();
        match opened.and_then(|plain| request::read_fetched(plain).ok()) {
            Some(Some(blob)) => match share::verify_share(blob) {
                Ok(Verified { address: at, leaf, share }) if at == *address => {
                    givers.push(answer.host);
                    if have.insert(share.index) {
                        shares.0.push((share.index, leaf, share.data.to_vec()));
                    }
                }
                _ => liars += 1,
            },
            Some(None) => {}
            None => liars += 1,
        }
    }
    let rebuilt = (rebuild && shares.len() >= limits::SHARES_NEEDED).then(|| {
        let first = shares.0.iter().take(limits::SHARES_NEEDED);
        let parts: Vec<(u8, [u8; 32], &[u8])> = first.map(|(index, leaf, data)| (*index, *leaf, data.as_slice())).collect();
        share::rebuild(class, root, &parts).map_err(|_| ())
    });
    SharesFound { shares, givers, liars, rebuilt }
}
