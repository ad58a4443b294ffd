//! The overlay plane (D8, D9, D20): which relays exist, where, and which of them host. Public, and apart from everything people wish for.
//!
//! One [`Overlay`] per node. A **relay** joins at bootstrap addresses, has its address witnessed (`witness.rs`), describes and announces
//! itself (`announce.rs`), fills its view by asking for random regions on a timer (`sweep.rs`), and dials a part of it to see what holds
//! (`check.rs`). A **client** describes nothing and sweeps
//! nothing: it takes snapshots and deltas from a few persistent directory relays (`sync.rs`), and the core feeds it coverage samples taken
//! through circuits.
//!
//! Work with keys leaves as jobs. Every table has a bound beside it; no message costs work linear in the view.

pub mod announce;
mod check;
pub mod clock;
mod fetch;
pub mod io;
pub mod record;
pub mod region;
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
pub use io::Output;
pub use io::OverlayJob;
pub use io::Peer;
pub use io::Profile;

use crate::base::Env;
use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::net::Group;
use crate::proto::overlay::view::View;
use crate::wire::overlay::Message;
use crate::wire::record as wire_record;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Most unanswered requests; further ones wait for a later tick.
const REQUESTS_MAX: usize = 64;
/// An answer later than this is none.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Most dials under way that the overlay asked for, dial-backs aside.
const DIALS_MAX: usize = 8;
/// The core gives up a dial after its handshake deadline; this is for answers that never come.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// Links that the overlay keeps open for itself; the least recently used go.
const LINKS_KEPT: usize = 16;
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
/// When this part of the usable relays is gone since the last time, whoever reads our list is told to read it anew. So reading anew costs
/// no more than a small multiple of what changed.
const LOST_PART: usize = 16;
/// Or when anything is gone, after this long.
const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The same in a local network.
const LOST_AFTER_LOCAL: Duration = Duration::from_secs(20);
/// Requests that a link may make at once, and per second.
const BUDGET_BURST: u32 = 512;
const BUDGET_PER_SEC: u32 = 64;

/// An open link, as the overlay sees it.
#[derive(Debug)]
struct Link {
    node: Option<NodeId>,
    remote: SocketAddr,
    dialled: bool,
    /// Opened because the overlay asked; released when idle.
    ours: bool,
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
    Snapshot { directory: NodeId },
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
    /// Check descriptors that came from this link; of a client, from which directory.
    Verify {
        link: LinkId,
        directory: Option<NodeId>,
    },
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
/// Every table is bounded by the constant of its name; `by_node` names open links only. Checked by [`Overlay::check`].
#[derive(Debug)]
pub struct Overlay {
    config: Config,
    view: View,
    epoch: u64,
    epoch_since: Time,
    links: BTreeMap<LinkId, Link>,
    by_node: BTreeMap<NodeId, LinkId>,
    requests: BTreeMap<u32, Request>,
    next_request: u32,
    dials: BTreeMap<u64, Dial>,
    next_token: u64,
    jobs: BTreeMap<JobId, Work>,
    next_job: u64,
    /// Descriptors asked for, by hint id: until when, and with which request.
    fetching: BTreeMap<u64, (Time, u32)>,
    /// Relays that proved themselves where we dialled them, and whose descriptors are still to come.
    evidence: BTreeMap<NodeId, SocketAddr>,
    out: VecDeque<Output>,
    sweep: sweep::Sweep,
    check: check::Check,
    witness: witness::Witness,
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
    pub fn new(env: &mut Env<'_>, config: Config) -> Self {
        let mut view = View::new(config.local);
        if config.profile.is_none() {
            view.rely_on_directories();
        }
        let sync = sync::Sync::new(env.now, &config);
        Self {
            view,
            epoch: env.rng.next_u64(),
            epoch_since: env.now,
            links: BTreeMap::new(),
            by_node: BTreeMap::new(),
            requests: BTreeMap::new(),
            // Numbers need not be secret, only fresh on a link.
            next_request: env.rng.next_u32(),
            dials: BTreeMap::new(),
            next_token: 0,
            jobs: BTreeMap::new(),
            next_job: 0,
            fetching: BTreeMap::new(),
            evidence: BTreeMap::new(),
            out: VecDeque::new(),
            sweep: sweep::Sweep::new(env.now),
            check: check::Check::new(env.now),
            witness: witness::Witness::new(env.now),
            own: announce::Own::new(env.now),
            sync,
            clock: clock::Clock::default(),
            housekeeping: env.now + HOUSEKEEPING,
            expire_at: env.now + EXPIRE_EVERY,
            view_changed: false,
            coverage: Coverage::default(),
            config,
        }
    }

    /// What is known of the network.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Whether this node describes itself as a relay.
    pub const fn is_relay(&self) -> bool {
        self.config.profile.is_some()
    }

    /// The own identity, if a relay.
    pub fn me(&self) -> Option<NodeId> {
        self.config.profile.as_ref().map(|p| p.node)
    }

    /// How much of the network is known.
    pub const fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Whether a client needs coverage samples taken through circuits: a `Near` request for a random place, sent to a random relay.
    pub fn wants_samples(&self, now: Time) -> bool {
        !self.is_relay() && self.sweep.wants_samples(now, &self.view)
    }

    /// Whether a hint names a relay that is no news here: usable, or looked at and found wanting.
    pub fn knows(&self, hint: u64) -> bool {
        self.view.knows(hint)
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
            Input::CoverageSample { group, known, total } => self.sample(env, group, known, total),
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
            return Some(first.min((self.sync.next(), "overlay snapshot")));
        }
        let sweep = (self.sweep.next(), "overlay sweep");
        let check = (self.check.next(), "overlay check");
        let witness = (self.witness.next(), "overlay witness");
        let own = (self.own.next(), "overlay descriptor");
        [first, sweep, check, witness, own].into_iter().min()
    }

    fn tick(&mut self, env: &mut Env<'_>) {
        if self.is_relay() {
            self.tick_own(env);
            self.tick_witness(env);
            self.tick_sweep(env);
            self.tick_check(env);
        } else {
            self.tick_sync(env);
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
        self.release_idle();
        if now >= self.expire_at {
            self.expire_at = now + EXPIRE_EVERY;
            self.view_changed |= self.view.expire(env.wall) > 0;
            self.view.lapse(now);
        }
        self.recount(now);
        let lost = self.view.lost();
        if lost * LOST_PART > self.view.counts().relays
            || (lost > 0 && now.since(self.epoch_since) > self.local_or(LOST_AFTER_LOCAL, LOST_AFTER))
        {
            self.view.forget_lost();
            (self.epoch, self.epoch_since) = (env.rng.next_u64(), now);
        }
    }

    /// Closes the least recently used of the links that only the overlay wanted.
    fn release_idle(&mut self) {
        let ours = self.links.values().filter(|l| l.ours).count();
        if ours <= LINKS_KEPT {
            return;
        }
        let busy = |link: &LinkId| self.requests.values().any(|r| r.link == *link) || self.witness.uses(*link);
        let mut idle: Vec<(Time, LinkId)> =
            self.links.iter().filter(|(id, l)| l.ours && !busy(id)).map(|(id, l)| (l.used, *id)).collect();
        idle.sort_unstable();
        for (_, link) in idle.into_iter().take(ours - LINKS_KEPT) {
            if let Some(l) = self.links.get_mut(&link) {
                l.ours = false;
            }
            self.out.push_back(Output::Release { link });
        }
    }

    // --- links

    fn link_up(
        &mut self,
        env: &mut Env<'_>,
        link: LinkId,
        node: Option<NodeId>,
        remote: SocketAddr,
        dialled: bool,
        wall: Option<Wall>,
    ) {
        let entry = Link { node, remote, dialled, ours: false, used: env.now, budget: BUDGET_BURST, budget_at: env.now };
        self.links.insert(link, entry);
        let Some(node) = node else { return };
        self.by_node.entry(node).or_insert(link);
        if dialled {
            self.reached(env.now, node, remote);
            if let Some(wall) = wall
                && let Some((offset, level)) = self.clock.sample(Group::of(&remote), wall, env.wall, self.view.counts().groups)
            {
                self.out.push_back(Output::Event(Event::Clock(offset, level)));
            }
        }
        if self.is_relay() {
            self.stirs(env.now, &node);
            self.announce_on(env, link, node);
        }
        if self.view.entry(&node).is_none() {
            self.fetch(env, link, &[record::hint_id(&node)]);
        }
    }

    fn link_down(&mut self, env: &mut Env<'_>, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else { return };
        if let Some(node) = gone.node
            && self.by_node.get(&node) == Some(&link)
        {
            self.by_node.remove(&node);
            let other = self.links.iter().find(|(_, l)| l.node == Some(node)).map(|(id, _)| *id);
            if let Some(other) = other {
                self.by_node.insert(node, other);
            }
        }
        let lost: Vec<u32> = self.requests.iter().filter(|(_, r)| r.link == link).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(request) = self.requests.remove(&id) {
                self.lost(env, id, &request);
            }
        }
    }

    /// Asks the core for a link, unless too many dials are under way or one to this relay is. True if asked.
    fn dial(&mut self, env: &Env<'_>, peer: Peer, purpose: Purpose) -> bool {
        let back = matches!(purpose, Purpose::DialBack { .. });
        let fresh = back || purpose == Purpose::Check;
        let under_way = self.dials.values().filter(|d| !matches!(d.purpose, Purpose::DialBack { .. })).count();
        let same = self.dials.values().any(|d| d.expect == peer.node && d.purpose == purpose);
        if same || Some(peer.node) == self.me() || (!back && under_way >= DIALS_MAX) {
            return false;
        }
        self.next_token += 1;
        let token = self.next_token;
        self.dials.insert(token, Dial { purpose, expect: peer.node, addr: peer.addr, deadline: env.now + DIAL_DEADLINE });
        self.out.push_back(Output::Dial { token, addr: peer.addr, expect: peer.node, fresh });
        true
    }

    fn dialled(&mut self, env: &mut Env<'_>, token: u64, link: Option<LinkId>) {
        let Some(dial) = self.dials.remove(&token) else { return };
        let good = link.filter(|l| self.links.get(l).is_some_and(|l| l.node == Some(dial.expect)));
        if good.is_none() {
            self.not_reached(env, dial.expect, dial.addr);
        }
        if let Purpose::DialBack { link: asker, id, subject, addr } = dial.purpose {
            return self.dialled_back(env, good, asker, id, subject, addr);
        }
        let Some(link) = good else {
            if dial.purpose == Purpose::Directory {
                self.directory_failed(env, dial.expect);
            }
            return;
        };
        if let Some(l) = self.links.get_mut(&link) {
            l.ours |= l.dialled;
            l.used = env.now;
        }
        match dial.purpose {
            Purpose::Bootstrap => self.joined(env, link),
            Purpose::Sweep(target) => self.ask_near(env, link, target),
            Purpose::Ask => self.ask_receipt(env, link),
            Purpose::Directory => self.ask_snapshot(env, link, dial.expect),
            Purpose::Announce | Purpose::Check | Purpose::DialBack { .. } => {}
        }
    }

    /// An open link to a relay.
    fn link_to(&self, node: &NodeId) -> Option<LinkId> {
        self.by_node.get(node).copied()
    }

    fn send(&mut self, now: Time, link: LinkId, message: &Message) {
        if let Some(l) = self.links.get_mut(&link) {
            l.used = now;
            if let Some(bytes) = message.encode() {
                self.out.push_back(Output::Send { link, bytes });
            }
        }
    }

    /// Sends a request. False if too many are unanswered.
    fn request(&mut self, env: &Env<'_>, link: LinkId, asked: Asked, message: impl FnOnce(u32) -> Message) -> bool {
        if self.requests.len() >= REQUESTS_MAX || !self.links.contains_key(&link) {
            return false;
        }
        self.next_request = self.next_request.wrapping_add(1);
        let id = self.next_request;
        self.requests.insert(id, Request { link, deadline: env.now + REQUEST_DEADLINE, asked });
        self.send(env.now, link, &message(id));
        true
    }

    /// Takes the request that an answer belongs to: the same number, link and kind.
    fn answered(&mut self, link: LinkId, id: u32, is: impl FnOnce(Asked) -> bool) -> Option<Request> {
        let fits = self.requests.get(&id).is_some_and(|r| r.link == link && is(r.asked));
        if fits { self.requests.remove(&id) } else { None }
    }

    /// A request that stays without answer.
    fn lost(&mut self, env: &mut Env<'_>, id: u32, request: &Request) {
        match request.asked {
            Asked::Fetch => self.fetching.retain(|_, (_, by)| *by != id),
            Asked::Snapshot { directory } => self.directory_failed(env, directory),
            Asked::Near | Asked::Announce | Asked::DialBack => {}
        }
    }

    // --- messages

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
                if self.answered(link, id, |a| a == Asked::Fetch).is_some() {
                    // What did not come may be asked of another at once.
                    let came: Vec<u64> =
                        records.iter().filter_map(|b| wire_record::peek(&b.0)).map(|(n, _)| record::hint_id(&n)).collect();
                    self.fetching.retain(|hint, (_, by)| *by != id || came.contains(hint));
                    self.verify(link, None, records);
                }
            }
            Message::AnnounceAck { id } => {
                self.answered(link, id, |a| a == Asked::Announce);
            }
            Message::SnapshotPage { id, next, more, records } => {
                let request = self.answered(link, id, |a| matches!(a, Asked::Snapshot { .. }));
                if let Some(Asked::Snapshot { directory }) = request.map(|r| r.asked) {
                    self.snapshot_page(env, link, directory, next, more, records);
                }
            }
            Message::DialBackReply { id, receipt } => {
                if self.answered(link, id, |a| a == Asked::DialBack).is_some() {
                    self.receipt_reply(env, link, receipt);
                }
            }
            // Digests are asked for through circuits, by the core.
            Message::DigestReply { .. } => {}
            Message::Near { .. }
            | Message::Fetch { .. }
            | Message::Announce { .. }
            | Message::Snapshot { .. }
            | Message::Digest { .. }
            | Message::DialBack { .. } => self.serve(env, link, message),
        }
    }

    fn serve(&mut self, env: &mut Env<'_>, link: LinkId, message: Message) {
        if !self.is_relay() || !self.spend(env.now, link) {
            return;
        }
        match message {
            Message::Announce { id, record } => {
                // Everyone speaks for itself: who announces others could fill views, and the time of whoever checks (T29, T36). Answers
                // to our own questions keep half of the places.
                let sender = self.links.get(&link).and_then(|l| l.node);
                let own = wire_record::peek(&record.0).is_some_and(|(node, _)| Some(node) == sender);
                if own && self.jobs.len() < JOBS_MAX / 2 {
                    self.verify(link, None, vec![record]);
                }
                self.send(env.now, link, &Message::AnnounceAck { id });
            }
            Message::DialBack { id, port } => self.dial_back(env, link, id, port),
            Message::Near { .. }
            | Message::NearReply { .. }
            | Message::Fetch { .. }
            | Message::FetchReply { .. }
            | Message::AnnounceAck { .. }
            | Message::Snapshot { .. }
            | Message::SnapshotPage { .. }
            | Message::Digest { .. }
            | Message::DigestReply { .. }
            | Message::DialBackReply { .. } => {
                if let Some(answer) = self.answer(&message) {
                    self.send(env.now, link, &answer);
                }
            }
        }
    }

    /// One request of a link's budget.
    fn spend(&mut self, now: Time, link: LinkId) -> bool {
        let Some(l) = self.links.get_mut(&link) else { return false };
        let seconds = now.since(l.budget_at).as_secs();
        if seconds > 0 {
            l.budget = l.budget.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(BUDGET_PER_SEC));
            l.budget = l.budget.min(BUDGET_BURST);
            l.budget_at = now;
        }
        let left = l.budget.checked_sub(1);
        l.budget = left.unwrap_or(0);
        left.is_some()
    }

    /// Asserts the invariants; for tests and fuzzing.
    #[doc(hidden)]
    pub fn check(&self) {
        assert!(self.requests.len() <= REQUESTS_MAX && self.fetching.len() <= FETCHING_MAX);
        assert!(self.by_node.iter().all(|(node, link)| self.links.get(link).is_some_and(|l| l.node == Some(*node))));
        assert!(self.jobs.len() <= JOBS_MAX + witness::IN_FLIGHT_MAX + 8);
    }
}
