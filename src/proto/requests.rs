//! Which request goes over which circuit: the rules of the user plane, in one place (D7, D12).
//!
//! * Circuits are built before they are needed, and each serves one operation only; nothing is shared between two wishes. A relay
//!   keeps some too, from its start and whether or not its user ever wishes anything, so that no first wish shows in what it builds,
//!   draws or saves (T34).
//! * No circuit meets more than three hosts of one region, and none whose last hop is the host itself.
//! * More than one chunk means eight or more circuits with distinct last hops. A network too small for a rule keeps it as far as it
//!   can.

mod allowance;
mod dispatch;
mod questions;

pub use questions::Question;

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::OpId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::origin::OriginEvent;
use crate::proto::circuit::origin::Origins;
use crate::proto::circuit::origin::RequestId;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::overlay::view::View;
use crate::proto::path::PathPolicy;
use crate::proto::requests::allowance::Allowance;
use crate::proto::slab::Key;
use crate::wire::request::SessionType;
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Circuits that a client keeps ready for the next wish: one document's worth.
pub const SPARE_OF_CLIENT: usize = limits::DOCUMENT_CIRCUITS + 2;
/// Those that a relay keeps, wish or not: enough for a wish to begin, and so few that a relay whose user never wishes anything pays
/// little for looking like the others.
pub const SPARE_OF_RELAY: usize = 4;
/// Most circuits of one operation: two regions' worth of hosts at three a circuit.
const PER_OP_MAX: usize = 24;
/// Hosts of one region that all circuits of an operation can meet at a time. Only a crowd makes a region larger (T22).
pub const HOSTS_AT_ONCE: usize = PER_OP_MAX * limits::CIRCUIT_HOSTS_PER_REGION;
/// Circuits whose building time is remembered, for the status.
const BUILD_TIMES: usize = 32;
/// Most circuits being built at once.
const BUILDING_MAX: usize = 12;
/// A ready circuit that nobody used is replaced after this long, and up to as much again by chance: seldom, for each costs a
/// handshake with three relays, and most are for no wish at all; and before relays end it as idle.
const READY_LIFE: Duration = Duration::from_secs(1800);
const _: () = assert!(READY_LIFE.as_secs() * 2 < limits::CIRCUIT_IDLE_MAX.as_secs());
/// How often it is looked at what is old, late or missing.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// A request for which there is no circuit for this long fails. One that only waits for its turn does not.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);
/// Circuits that may fail in a row before building pauses: failing circuits must not make a client rush through paths (T12).
const FAILURES_BEFORE_PAUSE: u32 = 8;
/// How long it pauses, doubled with each further failure up to two seconds: hops that fail are set aside meanwhile (`path`), so
/// that even a client whose view is half dead comes through.
const PAUSE: Duration = Duration::from_millis(250);

/// Hosts of one region share this tag; zero is "everyone".
pub type RegionTag = u64;

/// Whom a request is for.
#[derive(Clone, Debug)]
pub struct Target {
    /// The host.
    pub host: NodeId,
    /// The region that it is asked for.
    pub region: RegionTag,
    /// The members of that region, who must not be the last hop; `None` when the region is everyone and the rule cannot be kept.
    pub members: Option<Arc<BTreeSet<NodeId>>>,
}

impl Target {
    /// Whether this relay must not be the last hop.
    fn has_member(&self, node: &NodeId) -> bool {
        self.members.as_ref().is_some_and(|members| members.contains(node))
    }
}

/// A request on its way to a circuit.
struct Ask {
    request: RequestId,
    target: Target,
    kind: SessionType,
    plain: Vec<u8>,
    since: Time,
}

impl core::fmt::Debug for Ask {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ask").field("request", &self.request).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Domain {
    circuits: BTreeMap<Key, BTreeMap<RegionTag, BTreeSet<NodeId>>>,
    coming: usize,
    want: usize,
    queue: VecDeque<Ask>,
    /// How many fetches may be under way.
    allowance: Allowance,
    paths: Vec<[NodeId; limits::HOPS]>,
    /// Requests of chunks that are done, on their way still: until they end, their hosts count against the three of their region.
    leaving: BTreeSet<(RegionTag, RequestId)>,
    /// Whether guards were asked for it whether they are there.
    listened: bool,
    /// Since when it has no circuit at all, and when it last had none.
    lacking: Option<Time>,
    lacked: Time,
}

impl Domain {
    /// A chunk is done and nothing of it is on its way: its hosts count no longer against the three of a region.
    fn release(&mut self, region: RegionTag) {
        if region != 0 {
            for uses in self.circuits.values_mut() {
                uses.remove(&region);
            }
        }
    }
}

/// What a circuit is being built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To stand ready.
    Ready,
    /// For an operation.
    Op(OpId),
    /// For one question to whatever last hop; carries nobody's wish.
    Sample,
    /// For questions to this relay; nor does it.
    Directory(NodeId),
}

/// What an operation learns of its requests.
#[derive(Debug)]
pub enum RequestEvent {
    /// A sealed answer.
    Answer {
        /// Whose operation.
        op: OpId,
        /// To which request.
        request: RequestId,
        /// Opens it.
        session: crate::crypto::session::ClientSession,
        /// Its number.
        n: u16,
        /// The answer.
        sealed: Vec<u8>,
    },
    /// It failed. `host_to_blame`: the host did not answer; otherwise its circuit died, and the same host may be asked again.
    Failed {
        /// Whose operation.
        op: OpId,
        /// Which request.
        request: RequestId,
        /// See above.
        host_to_blame: bool,
    },
    /// What became of a question about the public view.
    Told {
        /// As it was named.
        token: u64,
        /// Which relay spoke.
        from: Option<NodeId>,
        /// An encoded overlay message, unchecked; `None` if it failed.
        answer: Option<Vec<u8>>,
    },
}

/// The user plane's circuits and requests.
#[derive(Debug)]
pub struct Requests {
    origins: Origins,
    /// Guards, layers and rules.
    pub policy: PathPolicy,
    ready: BTreeMap<Key, Time>,
    building: BTreeMap<Key, Purpose>,
    domains: BTreeMap<OpId, Domain>,
    owners: BTreeMap<RequestId, (OpId, RegionTag)>,
    questions: questions::Questions,
    next_request: u64,
    failures: u32,
    paused_until: Time,
    housekeeping: Time,
    /// There was no path for a spare circuit: not looked for again before then, for a relay has inputs all the time.
    no_path_until: Time,
    /// How many circuits are kept ready.
    spare: usize,
    /// What the last circuits took to build.
    build_times: VecDeque<Duration>,
    events: VecDeque<RequestEvent>,
}

impl Requests {
    /// Nothing asked yet. `spare`: circuits that are kept ready, [`SPARE_OF_CLIENT`] or [`SPARE_OF_RELAY`].
    pub fn new(network: NetworkId, policy: PathPolicy, spare: usize) -> Self {
        Self {
            origins: Origins::new(network),
            policy,
            ready: BTreeMap::new(),
            building: BTreeMap::new(),
            domains: BTreeMap::new(),
            owners: BTreeMap::new(),
            questions: questions::Questions::default(),
            next_request: 0,
            failures: 0,
            paused_until: Time(0),
            housekeeping: Time(0),
            no_path_until: Time(0),
            spare,
            build_times: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The circuits themselves, for routing cells and job results to them.
    pub fn origins(&mut self) -> &mut Origins {
        &mut self.origins
    }

    /// How many circuits of our own there are.
    pub fn circuits(&self) -> usize {
        self.origins.len()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<RequestEvent> {
        self.events.pop_front()
    }

    /// Registers an operation that will want this many circuits (at least).
    pub fn open(&mut self, op: OpId, circuits: usize) {
        let domain = self.domains.entry(op).or_default();
        domain.want = domain.want.max(circuits.min(PER_OP_MAX));
    }

    /// Ends an operation: its circuits end with it.
    pub(in crate::proto) fn close(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, op: OpId) {
        if let Some(domain) = self.domains.remove(&op) {
            for key in domain.circuits.into_keys() {
                self.origins.end(ctx, links, key);
            }
        }
        self.owners.retain(|_, (owner, _)| *owner != op);
    }

    /// The circuits that an operation used, guard first.
    pub fn paths(&self, op: OpId) -> Vec<[NodeId; limits::HOPS]> {
        self.domains.get(&op).map(|d| d.paths.clone()).unwrap_or_default()
    }

    /// Requests of an operation that wait for a circuit.
    pub fn backlog(&self, op: OpId) -> usize {
        self.domains.get(&op).map_or(0, |d| d.queue.len())
    }

    /// Puts a request to a host on its way. Its place in the queue is random, so that a last hop learns no order.
    pub(in crate::proto) fn ask(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        op: OpId,
        target: Target,
        kind: SessionType,
        plain: Vec<u8>,
    ) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        if let Some(domain) = self.domains.get_mut(&op) {
            self.owners.insert(request, (op, target.region));
            let at = ctx.env.rng.random_range(0..=domain.queue.len());
            domain.queue.insert(at, Ask { request, target, kind, plain, since: ctx.env.now });
        }
        request
    }

    /// A chunk is done, and what is still awaited for it is not wanted any more: what has no circuit yet gets none. Gives what has
    /// one, and will still end; when the last of it has, its region's circuits are free for other hosts.
    pub(in crate::proto) fn finish(&mut self, op: OpId, region: RegionTag, awaited: &BTreeSet<RequestId>) -> BTreeSet<RequestId> {
        let Some(domain) = self.domains.get_mut(&op) else { return BTreeSet::new() };
        domain.queue.retain(|ask| !awaited.contains(&ask.request) || self.owners.remove(&ask.request).is_none());
        let leaving: BTreeSet<RequestId> = awaited.iter().copied().filter(|r| self.owners.contains_key(r)).collect();
        domain.leaving.extend(leaving.iter().filter_map(|r| self.owners.get(r).map(|(_, region)| (*region, *r))));
        self.settle(op, region);
        leaving
    }

    /// Waits no longer for these: their hosts have failed, for what else they were asked on the same stream and for what waits for
    /// them as well.
    pub(in crate::proto) fn give_up(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, op: OpId, requests: &BTreeSet<RequestId>) {
        let Some(domain) = self.domains.get_mut(&op) else { return };
        let mut failed = BTreeSet::new();
        for key in domain.circuits.keys() {
            failed.extend(self.origins.give_up(ctx, links, *key, requests));
        }
        let whole = core::mem::take(&mut domain.queue).into_iter();
        let (gone, queue): (VecDeque<Ask>, _) = whole.partition(|ask| failed.contains(&ask.target.host));
        domain.queue = queue;
        for ask in gone {
            self.fail(ask.request, true);
        }
    }

    /// Since when an operation has had no circuit at all.
    pub fn lacking(&self, op: OpId) -> Option<Time> {
        self.domains.get(&op)?.lacking
    }

    /// A number that changes as long as an operation's cells are on their way out and the line carries them.
    pub(in crate::proto) fn leaving(&self, links: &Links, op: OpId) -> u64 {
        let circuits = self.domains.get(&op).into_iter().flat_map(|d| d.circuits.keys());
        circuits.filter_map(|key| self.origins.leaving(links, *key)).fold(0, u64::wrapping_add)
    }

    /// Whether no link that an operation uses brings anything at all, or it has none: the own line is down, or its guard.
    pub(in crate::proto) fn is_deaf(&self, links: &Links, op: OpId, now: Time) -> bool {
        let mut circuits = self.domains.get(&op).into_iter().flat_map(|d| d.circuits.keys());
        circuits.all(|key| self.origins.is_deaf(links, *key, now))
    }

    fn settle(&mut self, op: OpId, region: RegionTag) {
        if let Some(domain) = self.domains.get_mut(&op)
            && domain.leaving.range((region, RequestId(0))..=(region, RequestId(u64::MAX))).next().is_none()
        {
            domain.release(region);
        }
    }

    /// A request ended. Says whose it was.
    fn over(&mut self, request: RequestId) -> Option<OpId> {
        let (op, region) = self.owners.remove(&request)?;
        if self.domains.get_mut(&op)?.leaving.remove(&(region, request)) {
            self.settle(op, region);
        }
        Some(op)
    }

    /// Sends what can be sent, builds what is missing. Called once after each input. `paths_allowed`: the view is known well enough
    /// for circuits that carry wishes; questions about the view go before that.
    pub(in crate::proto) fn drive(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, view: &View, paths_allowed: bool) {
        self.drain_origins(ctx, links);
        let due = ctx.env.now >= self.housekeeping;
        if due || self.domains.values().any(|d| !d.listened) {
            // Before anything leaves that a slow line would be busy with.
            self.listen(ctx, links);
        }
        if paths_allowed {
            let ops: Vec<_> = self.domains.iter().filter(|(_, d)| !d.queue.is_empty()).map(|(op, _)| *op).collect();
            for op in ops {
                self.dispatch(ctx, links, view, op);
            }
        }
        self.send_questions(ctx, links);
        if due {
            self.housekeeping = ctx.env.now + HOUSEKEEPING;
            self.expire(ctx, links);
            self.expire_questions(ctx, links);
        }
        self.build(ctx, links, view, paths_allowed);
        self.drain_origins(ctx, links);
    }

    fn drain_origins(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        while let Some(event) = self.origins.poll_event() {
            match event {
                OriginEvent::Built(key) => self.built(ctx, links, key),
                OriginEvent::Ended { key, path, hops, requests } => {
                    for request in requests {
                        self.fail(request, false);
                    }
                    self.ended(ctx, key, path, hops);
                }
                OriginEvent::Answer { key, request, session, n, sent, sealed } => {
                    if let Some(path) = self.origins.path(key) {
                        self.policy.carries(&path);
                    }
                    if let Some(op) = self.over(request) {
                        if let Some(domain) = self.domains.get_mut(&op) {
                            domain.allowance.answered(sent, ctx.env.now);
                        }
                        self.events.push_back(RequestEvent::Answer { op, request, session, n, sealed });
                    }
                }
                OriginEvent::Failed(request) => self.fail(request, true),
                OriginEvent::Told { key, token, answer } => self.told(ctx, links, key, token, answer),
            }
        }
    }

    fn fail(&mut self, request: RequestId, host_to_blame: bool) {
        if let Some(op) = self.over(request) {
            self.events.push_back(RequestEvent::Failed { op, request, host_to_blame });
        }
    }

    fn built(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
        self.failures = 0;
        if self.build_times.len() == BUILD_TIMES {
            self.build_times.pop_front();
        }
        self.build_times.push_back(self.origins.age(key, ctx.env.now));
        if let Some(path) = self.origins.path(key) {
            self.policy.worked(&path, ctx.env);
            let [guard, ..] = path;
            self.pin(links, &guard);
        }
        match self.building.remove(&key) {
            Some(Purpose::Op(op)) if self.domains.contains_key(&op) => self.adopt(op, key),
            Some(Purpose::Sample) => self.stands(ctx, links, key, None),
            Some(Purpose::Directory(to)) => self.stands(ctx, links, key, Some(to)),
            _ => {
                let life = READY_LIFE + Duration::from_secs(ctx.env.rng.random_range(0..READY_LIFE.as_secs()));
                self.ready.insert(key, ctx.env.now + life);
            }
        }
    }

    /// The median of what the last circuits took to build, links that had to be dialled for them included.
    pub fn build_time(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.build_times.iter().copied().collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    fn pin(&self, links: &mut Links, guard: &NodeId) {
        if let Some(link) = links.open_link(guard) {
            links.pin(link);
        }
    }

    fn adopt(&mut self, op: OpId, key: Key) {
        if let (Some(domain), Some(path)) = (self.domains.get_mut(&op), self.origins.path(key)) {
            domain.coming = domain.coming.saturating_sub(1);
            domain.paths.push(path);
            domain.circuits.insert(key, BTreeMap::new());
        }
    }

    fn ended(&mut self, ctx: &mut Ctx<'_, '_>, key: Key, path: [NodeId; limits::HOPS], hops: usize) {
        self.ready.remove(&key);
        self.questions_ended(key);
        let purpose = self.building.remove(&key);
        if let Some(Purpose::Op(op)) = purpose
            && let Some(domain) = self.domains.get_mut(&op)
        {
            domain.coming = domain.coming.saturating_sub(1);
        }
        for domain in self.domains.values_mut() {
            domain.circuits.remove(&key);
        }
        if purpose.is_some() && hops < limits::HOPS {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= FAILURES_BEFORE_PAUSE {
                let doublings = (self.failures - FAILURES_BEFORE_PAUSE).min(3);
                self.paused_until = ctx.env.now + PAUSE * (1 << doublings);
            }
            self.policy.failed(&path, hops, ctx.env);
        }
    }

    fn expire(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        let now = ctx.env.now;
        let old: Vec<_> = self.ready.iter().filter(|(_, until)| **until <= now).map(|(key, _)| *key).collect();
        for key in old {
            self.ready.remove(&key);
            self.origins.end(ctx, links, key);
        }
        // Circuits that begin no stream more and wait for nothing make room for fresh ones.
        let of_ops = self.domains.values().flat_map(|d| d.circuits.keys());
        let spent: Vec<_> =
            of_ops.copied().filter(|key| self.origins.is_spent(*key) && self.origins.total_load(*key) == 0).collect();
        for key in spent {
            self.origins.end(ctx, links, key);
        }
        let used_up: Vec<_> = self.domains.values().flat_map(|domain| self.used_up(domain)).collect();
        for key in used_up {
            self.origins.end(ctx, links, key);
        }
        let mut late = BTreeSet::new();
        for domain in self.domains.values_mut() {
            if domain.circuits.is_empty() {
                domain.lacked = now;
                domain.lacking.get_or_insert(now);
            } else {
                domain.lacking = None;
            }
        }
        for domain in self.domains.values() {
            // Where there is none at all, no request is at fault: whoever waits decides for how long.
            let old = domain.queue.iter().filter(|ask| now.since(ask.since.max(domain.lacked)) >= QUEUE_DEADLINE);
            late.extend(old.filter(|ask| self.is_stuck(domain, ask)).map(|ask| ask.request));
        }
        for domain in self.domains.values_mut() {
            domain.queue.retain(|ask| !late.contains(&ask.request));
        }
        for request in late {
            self.fail(request, false);
        }
    }

    /// Of an operation that has all the circuits it may: those that can do nothing for a request that no circuit may serve, and wait
    /// for nothing. They met three hosts of its region, which only a crowd makes so large (T22), or end in it.
    fn used_up(&self, domain: &Domain) -> Vec<Key> {
        if domain.circuits.len() < PER_OP_MAX {
            return Vec::new();
        }
        let Some(target) = self.stuck(domain).map(|ask| &ask.target) else { return Vec::new() };
        let full = |uses: &BTreeMap<RegionTag, BTreeSet<NodeId>>| {
            uses.get(&target.region).is_some_and(|hosts| hosts.len() >= limits::CIRCUIT_HOSTS_PER_REGION)
        };
        let inside = |key: &Key| self.origins.path(*key).is_some_and(|[.., last]| target.has_member(&last));
        let vain = domain.circuits.iter().filter(|(key, uses)| full(uses) || inside(key)).map(|(key, _)| *key);
        vain.filter(|key| self.origins.total_load(*key) == 0).collect()
    }

    /// The first that waits for want of a circuit which may serve it.
    fn stuck<'a>(&self, domain: &'a Domain) -> Option<&'a Ask> {
        domain.queue.iter().find(|ask| self.is_stuck(domain, ask))
    }

    /// Who must not be the last hop of an operation's next circuit: those that were, and the region of a request that waits for one.
    fn no_last_hops(&self, op: &OpId) -> Vec<NodeId> {
        let Some(domain) = self.domains.get(op) else { return Vec::new() };
        let members = self.stuck(domain).and_then(|ask| ask.target.members.as_ref());
        domain.paths.iter().map(|[.., last]| last).chain(members.into_iter().flat_map(|m| m.iter())).copied().collect()
    }

    /// Asks guards whether they are still there, while a wish waits and nothing comes from them: a line that changed its address, or
    /// a machine that slept, leaves links that look open and are dead.
    fn listen(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        let (mut guards, mut lacks, mut begins) = (BTreeSet::new(), false, false);
        for domain in self.domains.values_mut() {
            begins |= !core::mem::replace(&mut domain.listened, true);
            lacks |= !domain.queue.is_empty() || domain.circuits.len() < domain.want;
            let used = domain.circuits.keys().filter(|key| self.origins.total_load(**key) > 0);
            guards.extend(used.filter_map(|key| self.origins.path(*key)).map(|[guard, ..]| guard));
        }
        if lacks {
            let coming = self.ready.keys().chain(self.building.keys());
            guards.extend(coming.filter_map(|key| self.origins.path(*key)).map(|[guard, ..]| guard));
        }
        for link in guards.iter().filter_map(|guard| links.open_link(guard)).collect::<Vec<_>>() {
            links.probe_if_silent(ctx, link, begins);
        }
    }

    /// Starts circuits that are wanted and not there.
    fn build(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, view: &View, paths_allowed: bool) {
        if ctx.env.now < self.paused_until {
            return;
        }
        if paths_allowed {
            let ops: Vec<_> = self.domains.keys().copied().collect();
            for op in ops {
                while let Some(domain) = self.domains.get_mut(&op)
                    && domain.circuits.len() + domain.coming < domain.want
                {
                    domain.coming += 1;
                    // Any ready circuit with a last hop of its own will do, so which one is chance.
                    let taken = self.no_last_hops(&op);
                    let last = |key: &Key| self.origins.path(*key).is_some_and(|[.., last]| !taken.contains(&last));
                    if let Some(key) = self.ready.keys().copied().filter(last).choose(&mut *ctx.env.rng) {
                        self.ready.remove(&key);
                        self.adopt(op, key);
                    } else if !self.start(ctx, view, Purpose::Op(op)) {
                        if let Some(domain) = self.domains.get_mut(&op) {
                            domain.coming -= 1;
                        }
                        break;
                    }
                }
            }
        }
        self.build_for_questions(ctx, links, view);
        if paths_allowed && ctx.env.now >= self.no_path_until {
            // One that an earlier run found down, asked beside those that serve: the circuit is a spare one like the others.
            while let Some(path) = self.policy.ask_again(view, ctx.env) {
                if let Some(key) = self.origins.build(ctx, view, path) {
                    self.building.insert(key, Purpose::Ready);
                }
            }
            for _ in self.ready_or_coming()..self.spare {
                if !self.start(ctx, view, Purpose::Ready) {
                    self.no_path_until = ctx.env.now + HOUSEKEEPING;
                    break;
                }
            }
        }
    }

    /// Spare circuits, those that are being built among them.
    fn ready_or_coming(&self) -> usize {
        self.ready.len() + self.building.values().filter(|p| **p == Purpose::Ready).count()
    }

    fn start(&mut self, ctx: &mut Ctx<'_, '_>, view: &View, purpose: Purpose) -> bool {
        if self.building.len() >= BUILDING_MAX {
            return false;
        }
        let mut taken: Vec<NodeId> = match purpose {
            Purpose::Op(op) => self.no_last_hops(&op),
            Purpose::Ready => self.ready.keys().filter_map(|k| self.origins.path(*k)).map(|[.., last]| last).collect(),
            Purpose::Sample | Purpose::Directory(_) => Vec::new(),
        };
        // Those that are being built count as well.
        let coming = self.building.iter().filter(|(_, p)| **p == purpose).filter_map(|(key, _)| self.origins.path(*key));
        taken.extend(coming.map(|[.., last]| last));
        let path = match purpose {
            Purpose::Directory(to) => self.policy.choose_to(view, ctx.env, &to),
            Purpose::Ready | Purpose::Op(_) | Purpose::Sample => self.policy.choose(view, ctx.env, &taken),
        };
        let Some(path) = path else { return false };
        match self.origins.build(ctx, view, path) {
            Some(key) => {
                self.building.insert(key, purpose);
                true
            }
            None => false,
        }
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        // Without a wish there is nothing to do but to replace what is old, and to build what is missing.
        let idle = self.domains.is_empty() && self.ready_or_coming() >= self.spare;
        let next = if idle { self.ready.values().min().copied() } else { Some(self.housekeeping) };
        let own = next.map(|at| (at.max(self.housekeeping), "user plane"));
        let questions = self.questions.timeout(self.housekeeping).map(|at| (at, "questions"));
        [own, questions, self.origins.timeout()].into_iter().flatten().min()
    }

    /// Checks what must always hold: no circuit has two masters. For tests and the simulator.
    #[doc(hidden)]
    pub fn check(&self) {
        let mut seen = BTreeSet::new();
        let of_ops = self.domains.values().flat_map(|d| d.circuits.keys());
        for key in self.ready.keys().chain(self.building.keys()).chain(self.questions.circuits()).chain(of_ops) {
            assert!(seen.insert(*key), "a circuit with two masters");
        }
        for (op, domain) in &self.domains {
            for request in domain.circuits.keys().flat_map(|key| self.origins.requests(*key)) {
                assert!(self.owners.get(&request).is_none_or(|(owner, _)| owner == op), "a request on another's circuit");
            }
        }
        for key in self.ready.keys().chain(self.building.keys()).chain(self.questions.circuits()) {
            assert!(self.origins.requests(*key).next().is_none(), "a request on nobody's circuit");
        }
    }

    /// Does what is due.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        self.origins.tick(ctx, links);
    }
}

#[cfg(test)]
mod tests;
