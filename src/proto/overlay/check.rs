//! Checks: a relay dials the others where they say they are, and counts only what holds (T31).
//!
//! A receipt is somebody's word. One real relay can give it to any number of relays that are not there, and those to each other, so
//! words are tried where most rests on them: of some random relays that never answered us, we follow the chain of receipts back to
//! the first that did not answer yet, and dial the one that most of them hang on. A crowd of invented relays hangs on the few that
//! connect it with the network, so those are met at once, whatever its size; and when they fail, all that hung on them falls, and
//! whoever spoke for them is soon believed no more (`view/marks.rs`).
//!
//! Every dial that the overlay makes counts, not only those made here.
//!
//! Relays that have IPv6 alone count only while we can dial IPv6. Now and then one of them is tried, to see whether we can.

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::net;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::io::Peer;
use crate::proto::overlay::record::Verified;
use core::net::SocketAddr;
use core::time::Duration;
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Between two checks.
const EVERY: Duration = Duration::from_secs(25);
/// Between the first ones, when nobody but the bootstrap relays is proven.
const EVERY_FIRST: Duration = Duration::from_secs(2);
/// How many those are.
const FIRST: u32 = 12;
/// In a local network, for each 50 relays of it: they all share a machine.
const EVERY_LOCAL: Duration = Duration::from_secs(1);
const LOCAL_SHARE: usize = 50;
/// Random relays looked at for one check: one in sixty is found in two of three checks.
const LOOK_AT: usize = 64;
/// Who answered is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(20 * 3600);
/// The same in a local network.
const ASK_AGAIN_LOCAL: Duration = Duration::from_secs(600);
/// Two failures closer together are one.
const APART: Duration = Duration::from_secs(180);
/// The same in a local network.
const APART_LOCAL: Duration = Duration::from_secs(2);
/// Who is doubted is dialled again after this long, then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(600);
/// The same in a local network.
const RETRY_LOCAL: Duration = Duration::from_secs(5);
/// Longest time to the next try.
const RETRY_MAX: Duration = Duration::from_secs(12 * 3600);
/// The same in a local network.
const RETRY_MAX_LOCAL: Duration = Duration::from_secs(60);
/// Relays remembered as failing; of others a failure is noted in the view alone.
const FAILING_MAX: usize = 1024;
/// Between two tries whether we can dial IPv6, while nothing else shows it.
const TRY_IP6: Duration = Duration::from_secs(600);
/// The same in a local network.
const TRY_IP6_LOCAL: Duration = Duration::from_secs(5);
/// Who reached nobody over IPv6 for so many of these times cannot dial it.
const TRIES_IP6: u32 = 12;
/// Looking at what hangs on whom takes time linear in the view: not more often than this.
const RECOUNT: Duration = Duration::from_secs(5);
/// The same in a local network, for each 50 relays.
const RECOUNT_LOCAL: Duration = Duration::from_secs(1);

/// When to dial a relay that failed again.
#[derive(Clone, Copy, Debug)]
struct Again {
    at: Time,
    wait: Duration,
    last: Time,
}

/// Whom to dial, and what dials showed.
#[derive(Debug)]
pub(super) struct Check {
    next: Time,
    made: u32,
    again: BTreeMap<NodeId, Again>,
    /// Whether the last check was of a relay that failed before and counts for nothing.
    was_idle: bool,
    /// When we last reached somebody over IPv4, and over IPv6.
    reached: [Option<Time>; 2],
    /// When to see whether we can dial IPv6.
    ip6_at: Time,
    recount_at: Time,
}

impl Check {
    pub(super) const fn new(now: Time) -> Self {
        Self { next: now, made: 0, again: BTreeMap::new(), was_idle: false, reached: [None; 2], ip6_at: now, recount_at: now }
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }
}

impl Overlay {
    pub(super) const fn local_or(&self, local: Duration, else_: Duration) -> Duration {
        if self.view.is_local() { local } else { else_ }
    }

    /// So much for each 50 relays of a local network.
    fn shared(&self, time: Duration) -> Duration {
        time * u32::try_from(self.view.counts().relays.div_ceil(LOCAL_SHARE).max(1)).unwrap_or(u32::MAX)
    }

    pub(super) fn tick_check(&mut self, env: &mut Env<'_>) {
        if env.now < self.check.next {
            return;
        }
        let mut wait = if self.check.made < FIRST { EVERY_FIRST } else { EVERY };
        if self.view.is_local() {
            wait = self.shared(EVERY_LOCAL);
        }
        self.check.next = env.now + wait.mul_f64(env.rng.random_range(0.75..1.25));
        let peer = self.ip6_due(env).or_else(|| self.failing_due(env.now)).or_else(|| self.whom_to_check(env));
        let Some(peer) = peer else { return };
        self.check.made = self.check.made.saturating_add(1);
        if let Some(control) = self.control(env, &peer) {
            self.dial(env, control, Purpose::Check);
            return;
        }
        // A link that we dialled shows that it is there as well as a new one.
        if self.links.values().any(|l| l.dialled && l.node == Some(peer.node) && l.remote == peer.addr) {
            self.prove(env.now, peer.node, peer.addr);
        } else {
            self.dial(env, peer, Purpose::Check);
        }
    }

    /// A relay that failed and should be tried again: before all others one that is believed, whose second failure would end that.
    /// Of those that count for nothing, doubted or never believed, there may be any number, so they take every second turn at most.
    fn failing_due(&mut self, now: Time) -> Option<Peer> {
        let view = &self.view;
        self.check.again.retain(|node, _| view.entry(node).is_some_and(|e| e.failing().is_some()));
        let due = self.check.again.iter().filter(|(_, a)| a.at <= now);
        let due = due.filter_map(|(node, a)| Some((view.entry(node)?, a.at)));
        let chosen = due.filter(|(e, _)| e.seen() || !self.check.was_idle).min_by_key(|(e, at)| (!e.seen(), *at));
        self.check.was_idle = chosen.is_some_and(|(e, _)| !e.seen());
        chosen.map(|(e, _)| Peer { addr: e.relay.addr(), node: e.relay.node() })
    }

    /// Before a second failure may count, somebody must have been reached since the first. If nobody was, one who answered before
    /// is dialled first, to see whether it is our own line that is down.
    fn control(&self, env: &mut Env<'_>, suspect: &Peer) -> Option<Peer> {
        let first = self.view.entry(&suspect.node).filter(|e| !e.doubted())?.failing()?;
        if self.reached_since(&suspect.addr).is_some_and(|at| at > first) {
            return None;
        }
        let fits = |r: &Arc<Verified>| {
            let good = self.view.entry(&r.node()).is_some_and(|e| e.proven() && e.failing().is_none());
            good && Some(r.node()) != self.me() && r.is_ip6() == net::is_ip6(&suspect.addr)
        };
        let found = (0..LOOK_AT).find_map(|_| self.view.random(env.rng).filter(|r| fits(r)));
        found.map(|r| Peer { addr: r.addr(), node: r.node() })
    }

    /// Somebody to see whether we can dial IPv6, if nothing showed it lately.
    fn ip6_due(&mut self, env: &mut Env<'_>) -> Option<Peer> {
        let every = self.local_or(TRY_IP6_LOCAL, TRY_IP6);
        let [_, over6] = self.check.reached;
        if env.now < self.check.ip6_at || over6.is_some_and(|at| env.now.since(at) < every) {
            return None;
        }
        let me = self.me();
        let relay = self.view.some_ip6(env.rng).filter(|r| Some(r.node()) != me)?;
        self.check.ip6_at = env.now + every.mul_f64(env.rng.random_range(0.75..1.25));
        Some(Peer { addr: relay.addr(), node: relay.node() })
    }

    /// While nobody is reached over IPv6, who has IPv6 alone does not count.
    pub(super) fn tell_ip6(&mut self, now: Time) {
        let long = self.local_or(TRY_IP6_LOCAL, TRY_IP6) * TRIES_IP6;
        let [_, over6] = self.check.reached;
        self.view.reach_ip6(over6.is_some_and(|at| now.since(at) < long));
    }

    /// When we last reached somebody in the way that this address is reached.
    fn reached_since(&self, addr: &SocketAddr) -> Option<Time> {
        let [over4, over6] = self.check.reached;
        if net::is_ip6(addr) { over6 } else { over4 }
    }

    /// Of some random relays: on whom most of those hang that never answered us; else who answered longest ago, if that is long; else
    /// one that waits to be used.
    fn whom_to_check(&self, env: &mut Env<'_>) -> Option<Peer> {
        let me = self.me();
        let mut votes: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut oldest: Option<(Time, NodeId)> = None;
        for _ in 0..LOOK_AT {
            let Some(relay) = self.view.random(env.rng).filter(|r| Some(r.node()) != me) else { continue };
            match self.view.entry(&relay.node()).and_then(|e| e.answered()) {
                Some(at) => oldest = Some(oldest.map_or((at, relay.node()), |o| o.min((at, relay.node())))),
                None => *votes.entry(self.view.rests_on(&relay.node())).or_insert(0) += 1,
            }
        }
        votes.retain(|node, _| !self.check.again.contains_key(node));
        let most = votes.values().max().copied();
        let foremost: Vec<NodeId> = votes.into_iter().filter(|(_, n)| Some(*n) == most).map(|(node, _)| node).collect();
        let again = self.local_or(ASK_AGAIN_LOCAL, ASK_AGAIN);
        let due = oldest.filter(|(at, _)| *at + again <= env.now).map(|(_, node)| node);
        let node = foremost.choose(env.rng).copied().or(due).or_else(|| self.who_waits(env))?;
        self.view.entry(&node).filter(|_| !self.check.again.contains_key(&node)).map(|e| Peer { addr: e.relay.addr(), node })
    }

    /// One that is seen and cannot be used, and that we never reached: whoever spoke for it may have done so in vain while it was
    /// away, and was forgotten with what it said of itself. Only its own answer takes that back.
    fn who_waits(&self, env: &mut Env<'_>) -> Option<NodeId> {
        let start = env.rng.random_range(0..=self.view.newest());
        let waits = |node: &NodeId| self.view.entry(node).is_some_and(|e| e.seen() && e.answered().is_none());
        self.view.pending_from(start, LOOK_AT).map(|r| r.node()).find(|node| Some(*node) != self.me() && waits(node))
    }

    /// A relay answered where we dialled it.
    pub(super) fn reached(&mut self, now: Time, node: NodeId, addr: SocketAddr) {
        self.check.reached[usize::from(net::is_ip6(&addr))] = Some(now);
        self.check.again.remove(&node);
        self.prove(now, node, addr);
    }

    /// A relay did not answer, or another did in its place.
    pub(super) fn not_reached(&mut self, env: &mut Env<'_>, node: NodeId, addr: SocketAddr) {
        // That we cannot dial IPv6 speaks against nobody.
        if !self.is_relay() || self.view.entry(&node).is_some_and(|e| !self.view.in_reach(&e.relay)) {
            return;
        }
        let apart = self.local_or(APART_LOCAL, APART);
        let reached = self.reached_since(&addr);
        let doubted = self.view.fail(&node, &addr, env.now, apart, reached);
        self.view_changed |= doubted;
        if self.view.entry(&node).is_none_or(|e| e.failing().is_none() || e.relay.addr() != addr) {
            return;
        }
        let (first, longest) = (self.local_or(RETRY_LOCAL, RETRY), self.local_or(RETRY_MAX_LOCAL, RETRY_MAX));
        let before = self.check.again.get(&node).filter(|_| doubted).map(|a| a.wait);
        let wait = match (doubted, before) {
            (false, _) => apart,
            (true, Some(before)) if before >= first => (before * 2).min(longest),
            (true, _) => first,
        };
        if self.check.again.len() < FAILING_MAX || self.check.again.contains_key(&node) {
            let at = env.now + wait.mul_f64(env.rng.random_range(1.0..1.25));
            self.check.again.insert(node, Again { at, wait, last: env.now });
        }
    }

    /// A relay that failed gives a sign of life: it is dialled soon, unless it just was.
    pub(super) fn stirs(&mut self, now: Time, node: &NodeId) {
        let apart = self.local_or(APART_LOCAL, APART);
        if !self.view.entry(node).is_some_and(|e| e.doubted()) {
            return;
        }
        let wait = self.local_or(RETRY_LOCAL, RETRY);
        let room = self.check.again.len() < FAILING_MAX;
        if let Some(again) = self.check.again.get_mut(node) {
            again.at = again.at.min(now.max(again.last + apart));
        } else if room {
            self.check.again.insert(*node, Again { at: now, wait, last: now });
        }
    }

    /// What hangs on what counts no more is decided anew, now and then.
    pub(super) fn recount(&mut self, now: Time) {
        if self.view.is_stale() && now >= self.check.recount_at {
            self.check.recount_at = now + self.local_or(self.shared(RECOUNT_LOCAL), RECOUNT);
            self.view.recount();
            self.view_changed = true;
        }
    }
}
