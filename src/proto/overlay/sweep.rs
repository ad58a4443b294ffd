//! Sweeps: "who is near this random place?", on a timer (D8). They fill a relay's view and measure how much of the network it
//! knows.
//!
//! Targets walk evenly through the key space from a random start, and are never the relay about to be used, so they tell nothing
//! (T29). A sweep asks a relay near the target, because newcomers announce themselves there, and now and then a random one, so that
//! no neighbourhood can hide. Near the target, too, every /24 counts once: who crowds there, or dialled us, is not asked more.

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::io::Coverage;
use crate::proto::overlay::io::Peer;
use crate::proto::overlay::view::View;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Message;
use crate::wire::overlay::Part;
use core::time::Duration;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand::seq::IteratorRandom;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Step of the walk through the key space: 2^64 over the golden ratio, so that any number of steps leaves no large gap.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Relays that one sweep brings surely; after relays / this many answers no stretch of the key space is unseen.
const SURE: usize = 12;
/// Hints asked for.
const ASK: u16 = 32;
/// Relays near a target that may be asked.
const NEAREST: usize = 16;
/// Groups that samples are kept of.
const SAMPLE_GROUPS_MAX: usize = 9;
/// A relay sweeps quickly until its view has not grown for this long.
const QUIET: Duration = Duration::from_secs(5);
/// Time between quick sweeps, in milliseconds: from, to.
const QUICK_MS: (u64, u64) = (100, 200);
/// The same in a local network.
const QUICK_MS_LOCAL: (u64, u64) = (40, 80);
/// Longest time between slow sweeps; large networks need shorter ones to see each descriptor several times in its life.
const SLOW_MAX: Duration = Duration::from_secs(60);
/// The first slow sweeps are not that slow: the time between them doubles from here.
const SLOW_FIRST: Duration = Duration::from_secs(1);
/// The same in a local network.
const SLOW_LOCAL: Duration = Duration::from_secs(5);
/// All places are asked for about once in this many seconds.
const ROUND_SECS: u64 = 6 * 3600;
/// A relay that nobody vouches for yet is dialled at most once in this time.
const STRANGER_AGAIN: Duration = Duration::from_secs(3600);
/// The same in a local network.
const STRANGER_AGAIN_LOCAL: Duration = Duration::from_secs(2);
/// Strangers remembered as dialled; when full, none is dialled.
const STRANGERS_MAX: usize = 256;
/// A client takes a sample at most this often while it needs them.
const CLIENT_SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// And takes a new one now and then after.
const CLIENT_SAMPLE_LATER: Duration = Duration::from_secs(1800);

/// Of some hints, how many were known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    pub(super) known: u32,
    pub(super) total: u32,
}

/// When to sweep, and what the answers say.
#[derive(Debug)]
pub struct Sweep {
    next: Time,
    /// First bytes of the last target.
    place: Option<u64>,
    /// Answers so far.
    answers: usize,
    grown: Time,
    /// New relays since then.
    new: usize,
    /// Time to the next slow sweep.
    slow: Duration,
    /// The last two of each group: older ones speak of an old view.
    samples: BTreeMap<Group, [Sample; 2]>,
    order: VecDeque<Group>,
    sampled: Option<Time>,
    strangers: BTreeMap<NodeId, Time>,
    ready: bool,
}

impl Sweep {
    pub(super) fn new(now: Time) -> Self {
        let (samples, order, strangers) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        Self {
            next: now,
            place: None,
            answers: 0,
            grown: now,
            new: 0,
            slow: SLOW_FIRST,
            samples,
            order,
            sampled: None,
            strangers,
            ready: false,
        }
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }

    /// Whether the view was known well enough when last measured.
    pub(super) const fn ready(&self) -> bool {
        self.ready
    }

    fn target(&mut self, env: &mut Env<'_>) -> [u8; 32] {
        let place = self.place.map_or_else(|| env.rng.next_u64(), |p| p.wrapping_add(STEP));
        self.place = Some(place);
        let mut target = [0; 32];
        env.rng.fill_bytes(&mut target);
        for (t, b) in target.iter_mut().zip(place.to_be_bytes()) {
            *t = b;
        }
        target
    }

    /// The view has a relay more, so there may be more to learn: sweeps come sooner again, and quickly after growth by a hundredth.
    pub(super) fn grew(&mut self, now: Time, relays: usize) {
        self.new += 1;
        self.slow = SLOW_FIRST;
        self.next = self.next.min(now + SLOW_FIRST);
        if self.new * 100 > relays {
            self.new = 0;
            self.grown = now;
        }
    }

    /// The samples, for the next start.
    pub(super) fn samples(&self) -> Vec<(Group, [Sample; 2])> {
        self.order.iter().filter_map(|group| Some((*group, *self.samples.get(group)?))).collect()
    }

    /// Takes up samples of a run that ended not long ago.
    pub(super) fn resume(&mut self, now: Time, samples: Vec<(Group, [Sample; 2])>) {
        self.order = samples.iter().map(|(group, _)| *group).collect();
        self.samples = samples.into_iter().collect();
        self.sampled = Some(now);
    }

    /// When a client takes its next sample.
    pub(super) fn sample_at(&self) -> Time {
        let every = if self.ready { CLIENT_SAMPLE_LATER } else { CLIENT_SAMPLE_EVERY };
        self.sampled.map_or(Time(0), |at| at + every)
    }

    /// One that was asked for did not come: the next waits its time all the same.
    pub(super) const fn no_sample(&mut self, now: Time) {
        self.sampled = Some(now);
    }

    fn add(&mut self, now: Time, group: Group, sample: Sample) {
        self.sampled = Some(now);
        if sample.total == 0 {
            return;
        }
        let [old, new] = self.samples.entry(group).or_default();
        *old = core::mem::replace(new, sample);
        self.order.retain(|g| *g != group);
        self.order.push_back(group);
        if self.order.len() > SAMPLE_GROUPS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.samples.remove(&oldest);
        }
    }

    /// The median over groups, so that a group that invents relays, or hides them, moves little.
    pub(super) fn coverage(&self, view: &View, me: Option<NodeId>) -> Coverage {
        let mut shares = [0; SAMPLE_GROUPS_MAX];
        for (share, [old, new]) in shares.iter_mut().zip(self.samples.values()) {
            let (known, total) = (old.known.saturating_add(new.known), old.total.saturating_add(new.total));
            *share = known.saturating_mul(100).checked_div(total).unwrap_or(0);
        }
        let shares = shares.get_mut(..self.samples.len()).unwrap_or_default();
        shares.sort_unstable();
        let percent = shares.get(shares.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let counts = view.counts();
        // Our own group cannot be asked if we are alone in it; a client's samples never come from its guard's group.
        let alone = me.is_none_or(|m| view.get(&m).is_some_and(|r| view.in_group(&r.group()) < 2));
        let askable = counts.groups.saturating_sub(usize::from(alone)).max(1);
        // A relay fills its view by sweeps: what they have not reached is missing in one stretch, which samples may miss as well.
        let whole = me.is_none() || self.answers * SURE >= counts.relays;
        let enough = whole && shares.len() >= limits::COVERAGE_GROUPS.min(askable);
        let network =
            counts.relays >= limits::NETWORK_MIN_RELAYS && (view.is_local() || counts.groups >= limits::NETWORK_MIN_GROUPS);
        Coverage { percent, groups: shares.len(), ready: enough && network && percent >= limits::COVERAGE_PERCENT }
    }
}

impl Overlay {
    pub(super) fn tick_sweep(&mut self, env: &mut Env<'_>) {
        if env.now < self.sweep.next {
            return;
        }
        let quick = !self.sweep.ready || env.now < self.sweep.grown + QUIET;
        let wait = if quick {
            // A first relay, alone, need not knock ten times a second.
            let idle = if self.by_node.is_empty() { 10 } else { 1 };
            let (from, to) = if self.view.is_local() { QUICK_MS_LOCAL } else { QUICK_MS };
            Duration::from_millis(env.rng.random_range(from..=to) * idle)
        } else {
            let relays = u64::try_from(self.view.counts().relays).unwrap_or(u64::MAX).max(1);
            let longest = if self.view.is_local() { SLOW_LOCAL } else { SLOW_MAX };
            let mean = Duration::from_secs(ROUND_SECS * u64::from(ASK) / relays).min(longest);
            let mean = mean.min(self.sweep.slow);
            self.sweep.slow = self.sweep.slow.saturating_mul(2).min(longest);
            mean.mul_f64(env.rng.random_range(0.5..1.5))
        };
        self.sweep.next = env.now + wait;
        self.sweep_once(env, quick);
    }

    fn sweep_once(&mut self, env: &mut Env<'_>, quick: bool) {
        let target = self.sweep.target(env);
        let me = self.me();
        let near = self.view.near_apart(&target, NEAREST).into_iter().map(|r| Peer { addr: r.addr(), node: r.node() });
        let near: Vec<Peer> = near.filter(|r| Some(r.node) != me).collect();
        let linked: Vec<LinkId> = near.iter().filter_map(|r| self.link_to(&r.node)).collect();
        // Walk to the place itself for a part of the sweeps: that is where newcomers are known first.
        let walk = env.rng.random_range(0..4) < if quick { 1 } else { 2 };
        // The bootstrap relays are what all nodes share: asking them now and then joins islands that formed apart.
        if env.rng.random_range(0..8) == 0
            && let Some(peer) = self.config.bootstrap.choose(env.rng).copied()
        {
            match self.link_to(&peer.node) {
                Some(link) => self.ask_near(env, link, target),
                None => {
                    self.dial(env, peer, Purpose::Sweep(target));
                }
            }
            return;
        }
        if self.view.counts().relays < limits::NETWORK_MIN_RELAYS || env.rng.random_range(0..4) == 0 {
            self.try_stranger(env);
        }
        if env.rng.random_range(0..4) == 0 && self.draw_neighbour(env, target) {
            return;
        }
        if let Some(link) = linked.choose(env.rng).copied() {
            return self.ask_near(env, link, target);
        }
        if walk && let Some(peer) = near.choose(env.rng).copied() {
            self.dial(env, peer, Purpose::Sweep(target));
            return;
        }
        let neighbours: Vec<LinkId> = self.neighbours.all().filter_map(|n| self.link_to(n)).collect();
        let any = neighbours.choose(env.rng).or_else(|| self.by_node.values().choose(env.rng)).copied();
        if let Some(link) = any {
            return self.ask_near(env, link, target);
        }
        let bootstrap = self.config.bootstrap.choose(env.rng).copied();
        let known = self.view.random(env.rng).map(|r| Peer { addr: r.addr(), node: r.node() });
        if let Some(peer) = known.into_iter().chain(bootstrap).find(|p| Some(p.node) != me) {
            self.dial(env, peer, Purpose::Bootstrap);
        }
        if let Some(peer) = bootstrap {
            self.dial(env, peer, Purpose::Bootstrap);
        }
    }

    /// A first relay knows only who came to it. It dials one of them where it says it is: from there receipts lead on.
    fn try_stranger(&mut self, env: &Env<'_>) {
        let again = if self.view.is_local() { STRANGER_AGAIN_LOCAL } else { STRANGER_AGAIN };
        self.sweep.strangers.retain(|_, at| *at + again > env.now);
        let fresh = |r: &Peer| !self.sweep.strangers.contains_key(&r.node) && Some(r.node) != self.me();
        let peer = self.view.strangers(64).map(|r| Peer { addr: r.addr(), node: r.node() }).find(fresh);
        if let Some(peer) = peer
            && self.sweep.strangers.len() < STRANGERS_MAX
            && self.dial(env, peer, Purpose::Bootstrap)
        {
            self.sweep.strangers.insert(peer.node, env.now);
        }
    }

    /// A bootstrap relay answers: ask it for two places at once, to have relays of other groups to go on with.
    pub(super) fn joined(&mut self, env: &mut Env<'_>, link: LinkId) {
        for _ in 0..2 {
            let target = self.sweep.target(env);
            self.ask_near(env, link, target);
        }
    }

    pub(super) fn ask_near(&mut self, env: &mut Env<'_>, link: LinkId, target: [u8; 32]) {
        self.request(env, link, Asked::Near, |id| Message::Near { id, target, max: ASK });
    }

    pub(super) fn near_reply(&mut self, env: &mut Env<'_>, link: LinkId, hints: &[Hint]) {
        let Some(remote) = self.links.get(&link).map(|l| l.remote) else { return };
        let (mut known, mut wanted, mut stale, mut struck) = (0, Vec::new(), Vec::new(), None);
        for hint in hints {
            if let Some(faces) = self.view.faces_by_hint(hint.id) {
                known += 1;
                struck = Some(faces.node());
                continue;
            }
            let entry = self.view.by_hint(hint.id);
            known += usize::from(entry.is_some_and(|e| self.view.is_no_news(e)));
            match entry {
                // Another descriptor: newer, older, or another face.
                Some(e) if e.tag() == hint.tag => stale.extend((e.fresh().0 < hint.fresh).then_some(hint.id)),
                _ => wanted.push(hint.id),
            }
        }
        // One at a time: whoever named it names it no more.
        if let Some(node) = struck {
            self.prove_faces(link, &node);
        }
        self.fetch(env, link, &wanted, Part::Both);
        self.fetch(env, link, &stale, Part::Freshness);
        self.sweep.answers += 1;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.sample(env, Group::of(&remote), count(known), count(hints.len()));
    }

    pub(super) fn sample(&mut self, env: &Env<'_>, group: Group, known: u32, total: u32) {
        self.sweep.add(env.now, group, Sample { known: known.min(total), total });
        self.measure(env.now);
    }

    /// Measures the coverage anew, after a sample or a change of the view.
    pub(super) fn measure(&mut self, now: Time) {
        self.coverage = self.sweep.coverage(&self.view, self.me());
        // What a client kept from an earlier run may be of a network that is no more.
        self.coverage.ready &= self.is_relay() || self.sync.is_current();
        if !core::mem::replace(&mut self.sweep.ready, self.coverage.ready) && self.coverage.ready {
            self.receipts.widen(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Position;
    use crate::proto::overlay::testing::NOW;
    use crate::proto::overlay::testing::host_at;
    use crate::proto::overlay::testing::view_with_witnesses;
    use core::net::SocketAddr;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn coverage_waits_for_groups_and_ignores_a_lying_minority() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut view = view_with_witnesses();
        for i in 1..=20u8 {
            view.insert(host_at(&mut rng, SocketAddr::from(([30, i, 0, 1], 1)), Position([i; 32])), NOW);
        }
        let mut sweep = Sweep::new(Time(0));
        let group = |i| Group([4, 30, i, 0, 0]);
        for i in 0..4 {
            sweep.add(Time(0), group(i), Sample { known: 32, total: 32 });
            sweep.add(Time(0), group(0), Sample { known: 32, total: 32 });
        }
        assert!(!sweep.coverage(&view, None).ready, "four groups are too few");
        sweep.add(Time(0), group(4), Sample { known: 0, total: 32 });
        assert!(sweep.coverage(&view, None).ready, "one of five invents relays");
        for i in 5..12 {
            sweep.add(Time(0), group(i), Sample { known: 16, total: 32 });
        }
        let coverage = sweep.coverage(&view, None);
        assert!(!coverage.ready && coverage.percent == 50);
        for i in 20..250 {
            sweep.add(Time(0), group(i), Sample { known: 1, total: 1 });
        }
        assert!(sweep.samples.len() <= SAMPLE_GROUPS_MAX);
    }
}
