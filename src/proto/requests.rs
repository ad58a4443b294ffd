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
mod supply;

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
/// Most circuits being built at once.
const BUILDING_MAX: usize = 12;
/// How often it is looked at what is old, late or missing.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

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
    failed_at: Option<Time>,
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
            failed_at: None,
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
