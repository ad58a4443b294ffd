//! The overlay plane (D8, D9, D20): which relays exist, where, and which of them host. Public, and apart from everything people
//! wish for.
//!
//! One [`Overlay`] per node. A **relay** joins at bootstrap addresses, has its address witnessed (`receipts.rs`), describes and
//! announces itself (`announce.rs`), fills its view by asking for random regions on a timer (`sweep.rs`), and dials a part of it to
//! see what holds (`check.rs`). A **client** describes nothing and sweeps nothing: it reads the lists of a few persistent directory
//! relays and believes what they agree on (`sync.rs`, `lists.rs`), keeps that for its next start (`kept.rs`), and samples through
//! circuits how much of the network it is (`questions.rs`).
//!
//! Work with keys leaves as jobs. Every table has a bound beside it; no message costs work linear in the view.

pub mod addresses;
pub mod announce;
pub mod answered;
pub mod answers;
mod check;
pub mod clock;
mod fetch;
pub mod io;
pub mod kept;
mod links;
mod lists;
mod questions;
pub mod reach;
mod receipts;
pub mod record;
pub mod region;
mod serve;
pub mod sweep;
pub mod sync;
pub mod view;
pub mod witness;

#[cfg(test)]
mod hand_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use io::ClockLevel;
pub use io::Config;
pub use io::Coverage;
pub use io::Event;
pub use io::Input;
pub use io::JobOutcome;
pub use io::Odd;
pub use io::Output;
pub use io::OverlayJob;
pub use io::OwnBody;
pub use io::Peer;
pub use io::Profile;

use crate::base::Env;
use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::proto::overlay::addresses::Addresses;
use crate::proto::overlay::links::REQUESTS_MAX;
use crate::proto::overlay::view::View;
use crate::wire::codec::DecodeError;
use crate::wire::freshness;
use crate::wire::overlay::Message;
use crate::wire::record as wire_record;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Names of all that an overlay saves: a client its view, a relay the rest.
pub const SAVED: [&str; 4] = [kept::SAVED, announce::SAVED, addresses::SAVED, answered::SAVED];

/// Whether what was saved under one of these names is as it was written. Linear in its size at the most.
///
/// # Errors
/// Damaged, or written by a newer version.
pub fn whole(network: &NetworkId, name: &str, bytes: &[u8]) -> Result<(), DecodeError> {
    match name {
        kept::SAVED => kept::Kept::body(bytes).map(drop),
        announce::SAVED => record::Body::kept(network, bytes).map(drop).map_err(|error| match error {
            record::RecordError::Format(error) => error,
            record::RecordError::Signature | record::RecordError::NoFaces => DecodeError::Invalid,
        }),
        addresses::SAVED => Addresses::decode(bytes).map(drop),
        answered::SAVED => answered::decode(bytes).map(drop),
        _ => Ok(()),
    }
}

/// Most verification jobs under way; further descriptors are dropped, to be asked for again.
const JOBS_MAX: usize = 32;
/// Most descriptors being fetched.
const FETCHING_MAX: usize = 4096;
/// A descriptor that did not come is asked for again after this.
const FETCH_AGAIN: Duration = Duration::from_secs(5);
/// Relays that we dialled before we had their descriptors.
const EVIDENCE_MAX: usize = 256;
/// How often tables are looked through.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often the whole view is looked through for what had its time.
const EXPIRE_EVERY: Duration = Duration::from_secs(300);
/// An open link, as the overlay sees it.
#[derive(Debug)]
struct Link {
    node: Option<NodeId>,
    remote: SocketAddr,
    dialled: bool,
    /// Opened because the overlay asked; released when it is of no more use.
    ours: bool,
    /// When we last asked something over it.
    used: Time,
    budget: u32,
    budget_at: Time,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Near,
    Fetch,
    Announce,
    /// A page of a directory's list.
    List {
        directory: NodeId,
    },
    /// Descriptors that it lists.
    Bodies {
        directory: NodeId,
        batch: u32,
    },
    DialBack,
}

#[derive(Debug)]
struct Request {
    link: LinkId,
    deadline: Time,
    asked: Asked,
}

/// What a dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Join: ask for random regions.
    Bootstrap,
    /// Ask for this region.
    Sweep([u8; 32]),
    /// Ask for this region, and keep the link.
    Neighbour([u8; 32]),
    /// Announce ourselves (which every new link to a relay does).
    Announce,
    /// Ask for a receipt.
    Ask,
    /// A client's directory relay.
    Directory,
    /// See whether it is there.
    Check,
    /// Answer a dial-back request of this link and number.
    DialBack { link: LinkId, id: u32, subject: NodeId, addr: SocketAddr },
}

#[derive(Debug)]
struct Dial {
    purpose: Purpose,
    expect: NodeId,
    addr: SocketAddr,
    deadline: Time,
}

/// What a job was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Check records that came from this link.
    Verify {
        link: LinkId,
    },
    /// Check descriptors that this directory of a client listed.
    Bodies {
        directory: NodeId,
        batch: u32,
    },
    /// Check a proof of different faces.
    Faces,
    SignOwn,
    SignReceipt {
        link: LinkId,
        id: u32,
    },
    CheckReceipt,
}

/// The overlay plane of one node.
///
/// # Invariants
/// Every table is bounded by the constant of its name; `by_node` names open links only, and neighbours have one. Checked by
/// [`Overlay::check`].
#[derive(Debug)]
pub struct Overlay {
    config: Config,
    view: View,
    epoch: u64,
    links: BTreeMap<LinkId, Link>,
    by_node: BTreeMap<NodeId, LinkId>,
    neighbours: links::Neighbours,
    requests: BTreeMap<u32, Request>,
    next_request: u32,
    /// Questions that are on their way through circuits.
    questions: BTreeMap<u64, Asked>,
    dials: BTreeMap<u64, Dial>,
    next_token: u64,
    jobs: BTreeMap<JobId, Work>,
    next_job: u64,
    /// Descriptors asked for, by hint id: until when, and with which request.
    fetching: BTreeMap<u64, (Time, u32)>,
    /// Relays that proved themselves where we dialled them, and whose descriptors are still to come.
    evidence: BTreeMap<NodeId, SocketAddr>,
    answered: answered::Answered,
    out: VecDeque<Output>,
    sweep: sweep::Sweep,
    check: check::Check,
    witness: witness::Witness,
    receipts: receipts::Receipts,
    own: announce::Own,
    sync: sync::Sync,
    clock: clock::Clock,
    housekeeping: Time,
    expire_at: Time,
    view_changed: bool,
    /// As last measured: it is asked for after every input.
    coverage: Coverage,
}

impl Overlay {
    /// A machine that begins at the first tick.
    pub fn new(env: &mut Env<'_>, mut config: Config) -> Self {
        let is_client = config.profile.is_none();
        let set = config.profile.as_ref().and_then(|p| p.addrs.first().copied());
        let kept = config.saved.remove(addresses::SAVED).and_then(|bytes| Addresses::decode(&bytes).ok()).unwrap_or_default();
        let receipts = config.profile.as_mut().map_or_else(Vec::new, |profile| profile.return_to(kept, env.wall));
        let answered = answered::Answered::new(env, config.saved.remove(answered::SAVED).as_deref());
        let view = if is_client { View::of_client(config.local) } else { View::new(config.local) };
        let mut this = Self {
            view,
            epoch: env.rng.next_u64(),
            links: BTreeMap::new(),
            by_node: BTreeMap::new(),
            neighbours: links::Neighbours::new(env.now),
            requests: BTreeMap::new(),
            // Numbers need not be secret, only fresh on a link.
            next_request: env.rng.next_u32(),
            questions: BTreeMap::new(),
            dials: BTreeMap::new(),
            next_token: 0,
            jobs: BTreeMap::new(),
            next_job: 0,
            fetching: BTreeMap::new(),
            evidence: BTreeMap::new(),
            answered,
            out: VecDeque::new(),
            sweep: sweep::Sweep::new(env.now),
            check: check::Check::new(env.now),
            witness: witness::Witness::new(),
            receipts: receipts::Receipts::new(env.now, set, receipts),
            own: announce::Own::new(env, &config),
            sync: sync::Sync::new(env.now, &config),
            clock: clock::Clock::default(),
            housekeeping: env.now + HOUSEKEEPING,
            expire_at: env.now + EXPIRE_EVERY,
            view_changed: false,
            coverage: Coverage::default(),
            config,
        };
        if is_client {
            this.begin(env);
        }
        // All of it was read, or is of another role.
        this.config.saved.clear();
        this
    }

    /// What is known of the network.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// What is answered to others of it.
    pub const fn answers(&self) -> answers::Answers<'_> {
        answers::Answers::new(&self.view, self.epoch)
    }

    /// Whether this node describes itself as a relay.
    pub const fn is_relay(&self) -> bool {
        self.config.profile.is_some()
    }

    /// Clocks of others against the own, in seconds (positive: they are ahead), once some are believed.
    pub fn clock_offset(&self, now: Time) -> Option<i64> {
        self.clock.offset(now, self.view.counts().groups)
    }

    /// Of the usable relays, those that answer lately, and those that did not when they were last dialled ([`View::answering`]).
    pub fn answering(&self, now: Time) -> (usize, usize) {
        let me = self.me();
        self.view.answering(now, |node| Some(*node) == me || self.by_node.contains_key(node))
    }

    /// A relay did not answer a dial that the overlay did not ask for. For people alone.
    pub fn missed(&mut self, node: &NodeId) {
        // That we cannot dial IPv6 speaks against nobody.
        if self.view.entry(node).is_some_and(|e| self.view.in_reach(&e.relay)) {
            self.view.miss(node);
        }
    }

    /// The own identity, if a relay.
    pub fn me(&self) -> Option<NodeId> {
        self.config.profile.as_ref().map(|p| p.node)
    }

    /// How much of the network is known.
    pub const fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Handles one input; drain [`Overlay::poll_output`] afterwards.
    pub fn handle(&mut self, env: &mut Env<'_>, input: Input) {
        match input {
            Input::LinkUp { link, node, remote, dialled, wall } => self.link_up(env, link, node, remote, dialled, wall),
            Input::LinkDown { link } => self.link_down(env, link),
            Input::Message { link, bytes } => self.message(env, link, &bytes),
            Input::Dialled { token, link } => self.dialled(env, token, link),
            Input::Done { job, outcome } => self.done(env, job, outcome),
            Input::Profile(profile) => self.profile(env, *profile),
            Input::Directories(list) => self.directories(env, list),
            Input::Told { token, from, answer } => self.told(env, token, from, answer),
            Input::Tick => {}
        }
        self.tick(env);
        if core::mem::take(&mut self.view_changed) {
            self.measure(env.now);
            self.watch_usable(env);
            self.out.push_back(Output::Event(Event::ViewChanged));
        }
    }

    /// The next thing to be done outside, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to tick next, and why. Early, late and repeated ticks do no harm.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        let first = (self.housekeeping, "overlay housekeeping");
        if !self.is_relay() {
            let sample = self.samples_at().map(|at| (at, "overlay sample"));
            return [Some(first), Some((self.sync.next(), "overlay snapshot")), sample].into_iter().flatten().min();
        }
        let sweep = (self.sweep.next(), "overlay sweep");
        let check = (self.check.next(), "overlay check");
        let witness = (self.receipts.next(), "overlay receipts");
        let own = (self.own.next(), "overlay descriptor");
        [first, sweep, check, witness, own].into_iter().min()
    }

    fn tick(&mut self, env: &mut Env<'_>) {
        if self.is_relay() {
            self.tick_own(env);
            self.tick_receipts(env);
            self.tick_sweep(env);
            self.tick_check(env);
        } else {
            self.tick_sync(env);
            self.tick_samples(env);
            self.save_view(env);
        }
        if env.now >= self.housekeeping {
            self.housekeep(env);
        }
    }

    fn housekeep(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        self.housekeeping = now + HOUSEKEEPING;
        let late: Vec<u32> = self.requests.iter().filter(|(_, r)| r.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(request) = self.requests.remove(&id) {
                if request.asked == Asked::DialBack {
                    self.asked_in_vain();
                }
                self.lost(env, id, &request);
            }
        }
        let stuck: Vec<u64> = self.dials.iter().filter(|(_, d)| d.deadline <= now).map(|(t, _)| *t).collect();
        for token in stuck {
            self.dialled(env, token, None);
        }
        self.fetching.retain(|_, (until, _)| *until > now);
        if self.evidence.len() >= EVIDENCE_MAX {
            self.evidence.clear();
        }
        self.release_idle(now);
        self.judge_clock(env);
        self.view_changed |= self.view.turn(env.wall);
        if now >= self.expire_at {
            self.expire_at = now + EXPIRE_EVERY;
            self.view_changed |= self.view.expire(env.wall) > 0;
            self.view.lapse(now);
            self.answered.lapse(now);
        }
        if self.is_relay() {
            self.tell_ip6(now);
            self.save_answered(env);
        }
        self.recount(now);
    }

    fn message(&mut self, env: &mut Env<'_>, link: LinkId, bytes: &[u8]) {
        if !self.links.contains_key(&link) {
            return;
        }
        let Ok(message) = Message::decode(bytes) else {
            self.out.push_back(Output::Blame { link });
            return;
        };
        match message {
            Message::NearReply { id, hints } => {
                if self.answered(link, id, |a| a == Asked::Near).is_some() {
                    self.near_reply(env, link, &hints);
                }
            }
            Message::FetchReply { id, records } => {
                match self.answered(link, id, |a| matches!(a, Asked::Fetch | Asked::Bodies { .. })) {
                    Some(Request { asked: Asked::Bodies { directory, batch }, .. }) => self.bodies(env, directory, batch, records),
                    Some(_) => {
                        // What did not come may be asked of another at once.
                        let came: Vec<u64> = records.iter().filter_map(|b| peek(&b.0)).map(|n| record::hint_id(&n)).collect();
                        self.fetching.retain(|hint, (_, by)| *by != id || came.contains(hint));
                        self.verify(link, records);
                    }
                    None => {}
                }
            }
            Message::AnnounceAck { id } => {
                self.answered(link, id, |a| a == Asked::Announce);
            }
            Message::ListPage { id, next, anew, more, gone, listed } => {
                let request = self.answered(link, id, |a| matches!(a, Asked::List { .. }));
                if let Some(Asked::List { directory }) = request.map(|r| r.asked) {
                    self.list_page(env, directory, lists::Page { next, anew, more, gone, listed });
                }
            }
            Message::DialBackReply { id, receipt } => {
                if self.answered(link, id, |a| a == Asked::DialBack).is_some() {
                    self.receipt_reply(env, link, receipt);
                }
            }
            Message::Faces { one, other } => {
                if self.spend(env.now, link) {
                    self.accused(one, other);
                }
            }
            Message::Near { .. }
            | Message::Fetch { .. }
            | Message::Announce { .. }
            | Message::List { .. }
            | Message::DialBack { .. } => self.serve(env, link, message),
        }
    }

    /// Asserts the invariants; for tests and fuzzing.
    #[doc(hidden)]
    pub fn check(&self) {
        assert!(self.questions.len() <= questions::MAX);
        self.answered.check();
        assert!(self.requests.len() <= REQUESTS_MAX && self.fetching.len() <= FETCHING_MAX);
        assert!(self.by_node.iter().all(|(node, link)| self.links.get(link).is_some_and(|l| l.node == Some(*node))));
        assert!(self.neighbours.all().all(|node| self.by_node.contains_key(node)));
        assert!(self.jobs.len() <= JOBS_MAX + witness::IN_FLIGHT_MAX + 8);
        self.sync.check();
    }
}

/// Whose record this is, of either kind.
fn peek(bytes: &[u8]) -> Option<NodeId> {
    freshness::peek(bytes).map(|(node, ..)| node).or_else(|| wire_record::peek(bytes))
}
