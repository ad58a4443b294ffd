//! Which relays a circuit goes through (D7): the one type that knows guard, second layer, address groups and families.
//!
//! One primary guard of a small persistent sample, for about 120 days; four second-layer relays that change after days, on *every* circuit;
//! a last hop drawn anew. Weights are uniform. No two hops share a /16 (IPv4), a /32 (IPv6) or a family. Networks too small for a rule keep
//! it as far as they can, and the path says which rule gave way.
//!
//! Failures of others never make us draw faster: a guard is down only after failed dials spread over time, the next one waits longer than
//! the one before, and when no guard tried answers it is the network that is down, and nothing changes.

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Wall;
use crate::base::net::Group;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::View;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use core::ops::BitOr;
use core::ops::BitOrAssign;
use rand::CryptoRng;
use rand::RngExt;
use std::sync::Arc;

const DAY: u64 = 86_400;
/// Guards drawn in all, at most.
const SAMPLE_MAX: usize = 20;
/// Listed guards that never answered, at most: who blocks our dials cannot walk us through the network until we meet his relay.
const UNPROVEN_MAX: usize = 3;
/// Life of a guard.
const GUARD_DAYS: u64 = 120;
/// Stored dates are shifted back by up to a tenth of the life, so that a stolen state does not tell when a client began.
const GUARD_SHIFT: u64 = GUARD_DAYS * DAY / 10;
/// A guard that no view has listed for this long is dropped.
const UNLISTED_SECS: u64 = 20 * DAY;
/// Second-layer relays in use.
const LAYER2: usize = 4;
/// Second-layer relays remembered: those in use, and some that are away for now.
const LAYER2_MAX: usize = 8;
/// Life of a second-layer relay: the larger of two draws between these.
const LAYER2_DAYS: (u64, u64) = (1, 12);
/// Failed dials that count before a guard is down.
const FAILURES: u8 = 3;
/// A failure counts if the last counted one is at least this long ago, times the guard's place in the sample plus one.
const FAILURE_SPACING: u64 = 20;
/// The same in a local network.
const FAILURE_SPACING_LOCAL: u64 = 1;
/// A guard that is down is tried again after this.
const DOWN_RETRY: u64 = 600;
/// Directory relays of a client (D8).
const DIRECTORIES: usize = 3;
/// Random draws before all candidates are looked at.
const DRAWS: usize = 64;

/// Rules that a small network could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaxed(u8);

impl Relaxed {
    /// All rules kept.
    pub const NONE: Self = Self(0);
    /// Two hops share an address group or a family.
    pub const GROUP: Self = Self(1);
    /// A relay that was to be avoided is on the path.
    pub const AVOID: Self = Self(2);
    /// A last hop that the caller's rule excludes.
    pub const LAST_HOP: Self = Self(4);
    /// Fewer than four second-layer relays.
    pub const LAYER2: Self = Self(8);

    /// Whether all of `rules` gave way.
    pub const fn contains(self, rules: Self) -> bool {
        self.0 & rules.0 == rules.0
    }

    /// Whether all rules were kept.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Words for `status`, one per rule.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [(Self::GROUP, "group"), (Self::AVOID, "avoid"), (Self::LAST_HOP, "last-hop"), (Self::LAYER2, "layer-2")];
        all.into_iter().filter(move |(rule, _)| self.contains(*rule)).map(|(_, word)| word)
    }
}

impl BitOr for Relaxed {
    type Output = Self;

    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

impl BitOrAssign for Relaxed {
    fn bitor_assign(&mut self, rhs: Self) {
        self.0 |= rhs.0;
    }
}

/// What a path must keep clear of, beside the standing rules. Guard and second layer are exempt: they serve all circuits (D7).
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    /// Last hops to stay away from: those of the document's other circuits.
    pub avoid: &'a [NodeId],
    /// Groups to stay away from, for the last hop.
    pub avoid_groups: &'a [Group],
    /// What else the last hop must be: outside a region, for instance (D12).
    pub last: Option<&'a dyn Fn(&Verified) -> bool>,
}

/// Three relays, first to last.
#[derive(Clone, Debug)]
pub struct Path {
    /// Guard, second layer, last hop.
    pub hops: [Arc<Verified>; 3],
    /// Rules that gave way.
    pub relaxed: Relaxed,
}

impl Path {
    /// The identities, first to last.
    pub fn nodes(&self) -> [NodeId; 3] {
        [self.hops[0].node(), self.hops[1].node(), self.hops[2].node()]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Guard {
    node: NodeId,
    /// Dropped then.
    until: Wall,
    /// Last time a view listed it.
    listed: Wall,
    failures: u8,
    failed: Wall,
    down: bool,
    /// Whether it ever answered.
    worked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Second {
    node: NodeId,
    until: Wall,
}

/// The persistent choice of relays of one node, and the paths through them.
///
/// # Invariants
/// At most [`SAMPLE_MAX`] guards and [`LAYER2_MAX`] second-layer relays; no relay twice in one list; never `me`.
#[derive(Debug)]
pub struct PathPolicy {
    me: Option<NodeId>,
    local: bool,
    guards: Vec<Guard>,
    layer2: Vec<Second>,
    directories: Vec<NodeId>,
    /// No guard answers.
    silent: bool,
    /// State that must be saved changed.
    dirty: bool,
}

impl PathPolicy {
    /// An empty policy; relays are drawn when first needed. `me` is the own identity, if this node is a relay.
    pub const fn new(me: Option<NodeId>, local: bool) -> Self {
        Self { me, local, guards: Vec::new(), layer2: Vec::new(), directories: Vec::new(), silent: false, dirty: false }
    }

    /// Whether the state changed since the last call: then save [`PathPolicy::encode`].
    pub const fn take_dirty(&mut self) -> bool {
        let dirty = self.dirty;
        self.dirty = false;
        dirty
    }

    /// The guard in use: the first of the sample that is listed and not down.
    pub fn guard(&self, view: &View) -> Option<Arc<Verified>> {
        self.guards.iter().filter(|g| !g.down).find_map(|g| view.get(&g.node)).cloned()
    }

    /// Groups that writers leave out and readers skip (D15): those of the guard in use.
    pub fn guard_groups(&self, view: &View) -> Vec<Group> {
        self.guard(view).map(|g| g.descriptor().addrs.iter().map(Group::of).collect()).unwrap_or_default()
    }

    /// Whether all guards that we may try failed, with none answering since: it is the network.
    pub const fn network_down(&self) -> bool {
        self.silent
    }

    /// A link to a guard opened, or a circuit through it was built.
    pub fn guard_worked(&mut self, node: &NodeId) {
        let Some(i) = self.guards.iter().position(|g| g.node == *node) else { return };
        self.silent = false;
        if let Some(guard) = self.guards.get_mut(i)
            && (guard.failures > 0 || guard.down || !guard.worked)
        {
            (guard.failures, guard.down, guard.worked) = (0, false, true);
            self.dirty = true;
        }
    }

    /// A dial to a guard failed. Counts only if spread over time; the guard is down after three.
    pub fn guard_failed(&mut self, env: &Env<'_>, node: &NodeId) {
        let spacing = if self.local { FAILURE_SPACING_LOCAL } else { FAILURE_SPACING };
        let Some(i) = self.guards.iter().position(|g| g.node == *node) else { return };
        let wait = spacing.saturating_mul(i as u64 + 1);
        let Some(guard) = self.guards.get_mut(i) else { return };
        if guard.failures > 0 && env.wall < guard.failed.plus(wait) {
            return;
        }
        guard.failed = env.wall;
        guard.failures = guard.failures.saturating_add(1);
        if guard.failures >= FAILURES {
            guard.down = true;
            self.dirty = true;
        }
    }

    /// Three relays for one circuit; `None` if the view has fewer than that. The guard comes from the sample, the second hop from the
    /// second layer, the last is drawn uniformly.
    pub fn choose(&mut self, view: &View, env: &mut Env<'_>, wish: Wish<'_>) -> Option<Path> {
        self.renew(view, env);
        let guard = self.guard(view)?;
        let mut relaxed = Relaxed::NONE;
        let second = self.second(view, env, &guard, &mut relaxed)?;
        let fits = |r: &Verified| r.node() != guard.node() && r.node() != second.node() && Some(r.node()) != self.me;
        let apart = |r: &Verified| clear(r, &guard) && clear(r, &second);
        let free = |r: &Verified| !wish.avoid.contains(&r.node()) && !wish.avoid_groups.iter().any(|g| r.in_group(g));
        let wanted = |r: &Verified| wish.last.is_none_or(|f| f(r));
        // Rules give way in this order: address groups last, because they keep two hops from being one person.
        let steps: [(Relaxed, [bool; 3]); 5] = [
            (Relaxed::NONE, [true, true, true]),
            (Relaxed::AVOID, [true, false, true]),
            (Relaxed::AVOID | Relaxed::LAST_HOP, [true, false, false]),
            (Relaxed::GROUP | Relaxed::AVOID, [false, false, true]),
            (Relaxed::GROUP | Relaxed::AVOID | Relaxed::LAST_HOP, [false, false, false]),
        ];
        for (gave, [by_group, by_avoid, by_last]) in steps {
            let ok = |r: &Verified| fits(r) && (!by_group || apart(r)) && (!by_avoid || free(r)) && (!by_last || wanted(r));
            if let Some(last) = draw(view, env.rng, &ok) {
                // Only what really gave way is told.
                let mut truly = Relaxed::NONE;
                for (rule, kept) in
                    [(Relaxed::GROUP, apart(&last)), (Relaxed::AVOID, free(&last)), (Relaxed::LAST_HOP, wanted(&last))]
                {
                    if gave.contains(rule) && !kept {
                        truly |= rule;
                    }
                }
                return Some(Path { hops: [guard, second, last], relaxed: relaxed | truly });
            }
        }
        None
    }

    /// A client's directory relays: the guard and two more in other groups, kept as long as they are listed.
    pub fn directories(&mut self, view: &View, env: &mut Env<'_>) -> Vec<Arc<Verified>> {
        self.renew(view, env);
        let Some(guard) = self.guard(view) else { return Vec::new() };
        let mut list = vec![guard];
        for node in &self.directories {
            if let Some(relay) = view.get(node)
                && list.len() < DIRECTORIES
                && list.iter().all(|r| r.node() != *node && clear(r, relay))
            {
                list.push(Arc::clone(relay));
            }
        }
        while list.len() < DIRECTORIES {
            let me = self.me;
            let other = |r: &Verified| Some(r.node()) != me && list.iter().all(|l| l.node() != r.node());
            let apart = |r: &Verified| other(r) && list.iter().all(|l| clear(l, r));
            let Some(relay) = draw(view, env.rng, &apart).or_else(|| draw(view, env.rng, &other)) else { break };
            list.push(relay);
        }
        let nodes: Vec<NodeId> = list.iter().skip(1).map(|r| r.node()).collect();
        if nodes != self.directories {
            self.directories = nodes;
            self.dirty = true;
        }
        list
    }

    /// Drops what is over, and draws what is missing: one guard at a time, and only when no other can serve.
    fn renew(&mut self, view: &View, env: &mut Env<'_>) {
        let wall = env.wall;
        let before = self.guards.len();
        for guard in &mut self.guards {
            if view.get(&guard.node).is_some() {
                guard.listed = wall;
            }
            if guard.down && wall >= guard.failed.plus(DOWN_RETRY) {
                // Once more, from the front of the sample: the first guard comes back when it can.
                guard.down = false;
                guard.failures = FAILURES - 1;
            }
        }
        let me = self.me;
        self.guards.retain(|g| g.until > wall && g.listed.plus(UNLISTED_SECS) > wall && Some(g.node) != me);
        self.dirty |= self.guards.len() != before;
        let unproven = self.guards.iter().filter(|g| !g.worked && view.get(&g.node).is_some()).count();
        if self.guard(view).is_none() && self.guards.len() < SAMPLE_MAX && unproven < UNPROVEN_MAX {
            let fresh = |r: &Verified| Some(r.node()) != me && self.guards.iter().all(|g| g.node != r.node());
            if let Some(relay) = draw(view, env.rng, &fresh) {
                let shift = env.rng.random_range(0..GUARD_SHIFT);
                let until = Wall(wall.0.saturating_sub(shift)).plus(GUARD_DAYS * DAY);
                let guard =
                    Guard { node: relay.node(), until, listed: wall, failures: 0, failed: Wall(0), down: false, worked: false };
                self.guards.push(guard);
                self.dirty = true;
            }
        }
        if self.guard(view).is_none() && self.guards.iter().any(|g| g.down) {
            // None answers, and nobody new may be drawn: begin again with the first, one failure short of down.
            self.silent = true;
            for guard in &mut self.guards {
                guard.failures = if guard.down { FAILURES - 1 } else { guard.failures };
                guard.down = false;
            }
        }
        let before = self.layer2.len();
        self.layer2.retain(|s| s.until > wall && Some(s.node) != me);
        self.dirty |= self.layer2.len() != before;
        let Some(guard) = self.guard(view) else { return };
        while self.in_use(view, &guard) < LAYER2 && self.layer2.len() < LAYER2_MAX {
            let fresh =
                |r: &Verified| Some(r.node()) != me && r.node() != guard.node() && self.layer2.iter().all(|s| s.node != r.node());
            let apart = |r: &Verified| fresh(r) && clear(r, &guard);
            let Some(relay) = draw(view, env.rng, &apart) else { break };
            let mut life = || env.rng.random_range(LAYER2_DAYS.0 * DAY..=LAYER2_DAYS.1 * DAY);
            let until = wall.plus(life().max(life()));
            self.layer2.push(Second { node: relay.node(), until });
            self.dirty = true;
        }
    }

    fn in_use(&self, view: &View, guard: &Verified) -> usize {
        self.layer2.iter().filter_map(|s| view.get(&s.node)).filter(|r| r.node() != guard.node() && clear(r, guard)).count()
    }

    fn second(&self, view: &View, env: &mut Env<'_>, guard: &Verified, relaxed: &mut Relaxed) -> Option<Arc<Verified>> {
        let usable: Vec<&Arc<Verified>> = self
            .layer2
            .iter()
            .filter_map(|s| view.get(&s.node))
            .filter(|r| r.node() != guard.node() && clear(r, guard))
            .take(LAYER2)
            .collect();
        if usable.len() < LAYER2 {
            *relaxed |= Relaxed::LAYER2;
        }
        if !usable.is_empty() {
            return usable.get(env.rng.random_range(0..usable.len())).map(|r| Arc::clone(r));
        }
        *relaxed |= Relaxed::GROUP;
        draw(view, env.rng, &|r| r.node() != guard.node() && Some(r.node()) != self.me)
    }

    // --- lasting form

    /// The state for the disk: kind, version, guards, second layer, directories, extensions.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(1024);
        let count = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        w.u8(KIND).u8(VERSION).u8(count(self.guards.len()));
        for g in &self.guards {
            w.raw(&g.node.0).u64(g.until.0).u64(u64::from(g.listed.day()) * DAY).u8(u8::from(g.down) | u8::from(g.worked) << 1);
        }
        w.u8(count(self.layer2.len()));
        for s in &self.layer2 {
            w.raw(&s.node.0).u64(s.until.0);
        }
        w.u8(count(self.directories.len()));
        for node in &self.directories {
            w.raw(&node.0);
        }
        Extensions::default().write(&mut w);
        w.into_bytes()
    }

    /// The state from the disk, which is an input like any other.
    pub fn decode(bytes: &[u8], me: Option<NodeId>, local: bool) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != KIND {
            return Err(DecodeError::Invalid);
        }
        if r.u8()? != VERSION {
            return Err(DecodeError::Newer);
        }
        let mut policy = Self::new(me, local);
        for _ in 0..capped(&mut r, SAMPLE_MAX)? {
            let (node, until, listed, flags) = (NodeId(r.array()?), Wall(r.u64()?), Wall(r.u64()?), r.u8()?);
            let (down, worked) = (flags & 1 != 0, flags & 2 != 0);
            if flags > 3 {
                return Err(DecodeError::Invalid);
            }
            if policy.guards.iter().any(|g| g.node == node) {
                return Err(DecodeError::Invalid);
            }
            // A guard that was down when we stopped gets a new chance: perhaps the network was.
            let failures = if down { FAILURES - 1 } else { 0 };
            policy.guards.push(Guard { node, until, listed, failures, failed: Wall(0), down: false, worked });
        }
        for _ in 0..capped(&mut r, LAYER2_MAX)? {
            let second = Second { node: NodeId(r.array()?), until: Wall(r.u64()?) };
            if policy.layer2.iter().any(|s| s.node == second.node) {
                return Err(DecodeError::Invalid);
            }
            policy.layer2.push(second);
        }
        for _ in 0..capped(&mut r, DIRECTORIES)? {
            policy.directories.push(NodeId(r.array()?));
        }
        Extensions::read(&mut r, &[])?;
        r.finish()?;
        Ok(policy)
    }

    /// Asserts the invariants; for tests and fuzzing.
    #[doc(hidden)]
    pub fn check(&self) {
        assert!(self.guards.len() <= SAMPLE_MAX && self.layer2.len() <= LAYER2_MAX && self.directories.len() <= DIRECTORIES);
        assert!(self.guards.iter().all(|g| Some(g.node) != self.me) && self.layer2.iter().all(|s| Some(s.node) != self.me));
    }
}

/// Kind byte of the stored state.
const KIND: u8 = 16;
const VERSION: u8 = 1;

fn capped(r: &mut Reader<'_>, max: usize) -> Result<usize, DecodeError> {
    let n = usize::from(r.u8()?);
    if n > max { Err(DecodeError::TooLarge) } else { Ok(n) }
}

/// Whether two relays may stand on one path: no common group, no common family.
fn clear(a: &Verified, b: &Verified) -> bool {
    !a.shares_group(b) && !a.is_family(b)
}

/// One of the usable relays that fit, each with the same chance.
fn draw(view: &View, rng: &mut dyn CryptoRng, fits: &dyn Fn(&Verified) -> bool) -> Option<Arc<Verified>> {
    for _ in 0..DRAWS {
        let relay = view.random(rng)?;
        if fits(relay) {
            return Some(Arc::clone(relay));
        }
    }
    // Few fit, or none: look at all.
    let all: Vec<&Arc<Verified>> = view.usable().iter().filter(|r| fits(r)).collect();
    if all.is_empty() { None } else { all.get(rng.random_range(0..all.len())).map(|r| Arc::clone(r)) }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
