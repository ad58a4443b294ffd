//! Which circuits are there: built ahead and when they are wanted, given to operations, and ended when they are of no more use.

use crate::base::NodeId;
use crate::base::OpId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::overlay::view::View;
use crate::proto::requests::Ask;
use crate::proto::requests::BUILDING_MAX;
use crate::proto::requests::Domain;
use crate::proto::requests::HOUSEKEEPING;
use crate::proto::requests::PER_OP_MAX;
use crate::proto::requests::Purpose;
use crate::proto::requests::RegionTag;
use crate::proto::requests::Requests;
use crate::proto::slab::Key;
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

/// Circuits whose building time is remembered, for the status.
const BUILD_TIMES: usize = 32;
/// A ready circuit that nobody used is replaced after this long, and up to as much again by chance: seldom, for each costs a
/// handshake with three relays, and most are for no wish at all; and before relays end it as idle.
const READY_LIFE: Duration = Duration::from_secs(1800);
const _: () = assert!(READY_LIFE.as_secs() * 2 < limits::CIRCUIT_IDLE_MAX.as_secs());
/// A request for which there is no circuit for this long fails. One that only waits for its turn does not.
const QUEUE_DEADLINE: Duration = Duration::from_secs(30);
/// Circuits that may fail in a row before building pauses: failing circuits must not make a client rush through paths (T12).
const FAILURES_BEFORE_PAUSE: u32 = 8;
/// A circuit is late after four times what others took lately, but not sooner than this, nor later than [`LATE_FIRST`] or twice
/// what they took. While nothing is known, it is after [`LATE_FIRST`].
const LATE_MIN: Duration = Duration::from_millis(500);
const LATE_FIRST: Duration = Duration::from_secs(3);
/// How long it pauses, doubled with each further failure up to two seconds: hops that fail are set aside meanwhile (`path`), so
/// that even a client whose view is half dead comes through.
const PAUSE: Duration = Duration::from_millis(250);

impl Requests {
    pub(super) fn built(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
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
            Some(Purpose::Op(op)) if self.domains.get(&op).is_some_and(|d| d.circuits.len() < PER_OP_MAX) => self.adopt(op, key),
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

    pub(super) fn adopt(&mut self, op: OpId, key: Key) {
        if let (Some(domain), Some(path)) = (self.domains.get_mut(&op), self.origins.path(key)) {
            domain.paths.push(path);
            domain.circuits.insert(key, BTreeMap::new());
        }
    }

    pub(super) fn ended(&mut self, ctx: &mut Ctx<'_, '_>, key: Key, path: [NodeId; limits::HOPS], hops: usize) {
        self.ready.remove(&key);
        self.questions_ended(key);
        let purpose = self.building.remove(&key);
        for domain in self.domains.values_mut() {
            domain.circuits.remove(&key);
        }
        if purpose.is_some() && hops < limits::HOPS {
            // Those that end in one moment without a first hop waited for one link.
            let at = (hops == 0).then_some(ctx.env.now);
            if at.is_none() || core::mem::replace(&mut self.failed_at, at) != at {
                self.failures = self.failures.saturating_add(1);
            }
            if self.failures >= FAILURES_BEFORE_PAUSE {
                let doublings = (self.failures - FAILURES_BEFORE_PAUSE).min(3);
                self.paused_until = ctx.env.now + PAUSE * (1 << doublings);
            }
            self.policy.failed(&path, hops, ctx.env);
        }
    }

    pub(super) fn expire(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
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

    /// Who should not be the last hop of an operation's next circuit: those that were, and those for which the circuit would be in vain,
    /// the region of a request that waits for one.
    fn no_last_hops(&self, op: &OpId) -> (Vec<NodeId>, Vec<NodeId>) {
        let Some(domain) = self.domains.get(op) else { return (Vec::new(), Vec::new()) };
        let members = self.stuck(domain).and_then(|ask| ask.target.members.as_ref());
        (domain.paths.iter().map(|[.., last]| *last).collect(), members.into_iter().flat_map(|m| m.iter()).copied().collect())
    }

    /// Starts circuits that are wanted and not there.
    pub(super) fn build(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, view: &View, paths_allowed: bool) {
        if ctx.env.now < self.paused_until {
            return;
        }
        if paths_allowed {
            let ops: Vec<_> = self.domains.keys().copied().collect();
            for op in ops {
                while self.lacks_circuit(ctx.env.now, links, op) {
                    // Any ready circuit with a last hop of its own will do, so which one is chance.
                    let (taken, vain) = self.no_last_hops(&op);
                    let may = |last: &NodeId| !taken.contains(last) && !vain.contains(last);
                    let last = |key: &Key| self.origins.path(*key).is_some_and(|[.., last]| may(&last));
                    if let Some(key) = self.ready.keys().copied().filter(last).choose(&mut *ctx.env.rng) {
                        self.ready.remove(&key);
                        self.adopt(op, key);
                    } else if !self.start(ctx, view, Purpose::Op(op)) {
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

    /// Whether an operation has fewer circuits than it wants, those that are being built among them. One that is late has another
    /// built beside it, or a spare one taken: a relay that was stopped must not hold up who waits. No more than one for each.
    fn lacks_circuit(&self, now: Time, links: &Links, op: OpId) -> bool {
        let Some(domain) = self.domains.get(&op) else { return false };
        let lacking = domain.want.saturating_sub(domain.circuits.len());
        if lacking == 0 {
            return false;
        }
        let late = self.build_time().map_or(LATE_FIRST, |typical| (typical * 4).clamp(LATE_MIN, LATE_FIRST.max(typical * 2)));
        let coming = self.building.iter().filter(|(_, purpose)| **purpose == Purpose::Op(op)).map(|(key, _)| key);
        let (all, in_time) = coming.fold((0, 0), |(all, in_time), key| {
            // What has not even left is held up by the own line.
            let is_late = self.origins.age(*key, now) >= late && self.origins.leaving(links, *key).is_none();
            (all + 1, in_time + usize::from(!is_late))
        });
        in_time < lacking && all < lacking * 2
    }

    /// Spare circuits, those that are being built among them.
    pub(super) fn ready_or_coming(&self) -> usize {
        self.ready.len() + self.building.values().filter(|p| **p == Purpose::Ready).count()
    }

    pub(super) fn start(&mut self, ctx: &mut Ctx<'_, '_>, view: &View, purpose: Purpose) -> bool {
        if self.building.len() >= BUILDING_MAX {
            return false;
        }
        let (mut taken, vain): (Vec<NodeId>, Vec<NodeId>) = match purpose {
            Purpose::Op(op) => self.no_last_hops(&op),
            Purpose::Ready => {
                (self.ready.keys().filter_map(|k| self.origins.path(*k)).map(|[.., last]| last).collect(), Vec::new())
            }
            Purpose::Sample | Purpose::Directory(_) => (Vec::new(), Vec::new()),
        };
        // Those that are being built count as well.
        let coming = self.building.iter().filter(|(_, p)| **p == purpose).filter_map(|(key, _)| self.origins.path(*key));
        taken.extend(coming.map(|[.., last]| last));
        let path = match purpose {
            Purpose::Directory(to) => self.policy.choose_to(view, ctx.env, &to),
            Purpose::Ready | Purpose::Op(_) | Purpose::Sample => self.policy.choose(view, ctx.env, &taken, &vain),
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
}
