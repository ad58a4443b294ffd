//! Which relays a circuit goes over: one type for every rule (D7).
//!
//! * One guard of a small persistent sample for about 120 days; the next of the sample only when it is down.
//! * Four layer-2 relays, each for 1 to 12 days (the larger of two draws), on every user-plane circuit.
//! * A last hop drawn uniformly for each circuit.
//! * No relay twice, never ourselves, no two hops in one address group or family. Weights are uniform: nothing that a relay says of itself
//!   makes it likelier.
//!
//! Failures move as little as they can, because whoever can make a client choose again can make it choose badly (T12): a hop
//! that fails is set aside for a while, new guards and layer-2 relays are drawn a few times a day at most, and when nothing answers at all
//! it is the network that is down, not the guards.

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::View;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use rand::RngExt;
use rand::seq::IteratorRandom;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const KIND: u8 = 32;
const VERSION: u8 = 1;
const DAY: u64 = 86_400;
/// Most guards in the sample; a tenth of a small network, at least three.
const SAMPLE_MAX: usize = 20;
/// How long a guard is kept (design D7).
const GUARD_LIFE_SECS: u64 = 120 * DAY;
/// Relays of the second layer.
const LAYER2: usize = 4;
/// Relays of the second layer that may be drawn in one day, replacements of failing ones included.
const LAYER2_DRAWS_PER_DAY: u32 = 8;
/// Directory relays, the guard among them (D8).
const DIRECTORIES: usize = 3;
/// A hop that failed is set aside for this long, and longer each time.
const ASIDE: Duration = Duration::from_secs(30);
/// Longest time that a hop is set aside.
const ASIDE_MAX: Duration = Duration::from_secs(1800);
/// Failures of a guard that worked before, each at least [`GUARD_FAILURE_APART`] after the last, until it counts as down.
const GUARD_FAILURES: u32 = 3;
const GUARD_FAILURE_APART: Duration = Duration::from_secs(10);
/// Guards that fail one after the other, with no success between, until it is the network that is down.
const NETWORK_DOWN_AFTER: u32 = 4;

#[derive(Clone, Debug)]
struct Kept {
    node: NodeId,
    until: Wall,
    /// Whether a circuit over it ever stood.
    worked: bool,
}

/// What is known of a hop that failed. Not kept over restarts.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    last: Time,
    aside_until: Time,
}

/// Which rules a small network made us bend, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaxed {
    /// Two hops of a path shared an address group or family.
    pub groups: bool,
    /// The second layer has fewer than four relays.
    pub layer2: bool,
}

impl Relaxed {
    /// In words for the operator.
    pub fn words(self) -> Vec<String> {
        let mut words = Vec::new();
        if self.groups {
            words.push("the network is too small to keep all hops of a path in different address groups".into());
        }
        if self.layer2 {
            words.push("the network is too small for a full second layer".into());
        }
        words
    }
}

/// The path policy and its persistent choices.
#[derive(Debug)]
pub struct PathPolicy {
    me: Option<NodeId>,
    guards: Vec<Kept>,
    layer2: Vec<Kept>,
    /// Day of the last layer-2 draw, and draws on it.
    draws: (u32, u32),
    trouble: BTreeMap<NodeId, Trouble>,
    guards_failed_in_row: u32,
    relaxed: Relaxed,
}

impl PathPolicy {
    /// No choices made yet. A relay gives itself, to be left out.
    pub const fn new(me: Option<NodeId>) -> Self {
        Self {
            me,
            guards: Vec::new(),
            layer2: Vec::new(),
            draws: (0, 0),
            trouble: BTreeMap::new(),
            guards_failed_in_row: 0,
            relaxed: Relaxed { groups: false, layer2: false },
        }
    }

    /// The primary guard.
    pub fn guard(&self) -> Option<NodeId> {
        self.guards.first().map(|g| g.node)
    }

    /// Rules that were bent for the last path.
    pub const fn relaxed(&self) -> Relaxed {
        self.relaxed
    }

    /// Three relays, guard first, with a last hop that is none of `taken` if there is another. `None` if the view holds no path now.
    pub fn choose(&mut self, view: &View, env: &mut Env<'_>, taken: &[NodeId]) -> Option<[NodeId; limits::HOPS]> {
        self.refresh(view, env);
        let guard = self.guards.iter().filter(|g| !self.aside(&g.node, env.now)).find_map(|g| view.get(&g.node).cloned())?;
        // The guard in use is the primary: it moves to the front, so that the choice lasts.
        if let Some(at) = self.guards.iter().position(|g| g.node == guard.node()) {
            let kept = self.guards.remove(at);
            self.guards.insert(0, kept);
        }
        for relaxed in [false, true] {
            let apart = |a: &Verified, b: &Verified| a.node() != b.node() && (relaxed || Self::apart(a, b));
            let second = self
                .layer2
                .iter()
                .filter(|l| !self.aside(&l.node, env.now))
                .filter_map(|l| view.get(&l.node))
                .filter(|l| apart(l, &guard))
                .choose(&mut *env.rng)
                .cloned();
            let Some(second) = second else { continue };
            let fits = |l: &&Arc<Verified>| {
                self.me != Some(l.node()) && apart(l, &guard) && apart(l, &second) && !self.aside(&l.node(), env.now)
            };
            let fresh = view.usable().iter().filter(fits).filter(|l| !taken.contains(&l.node())).choose(&mut *env.rng);
            let last = fresh.or_else(|| view.usable().iter().filter(fits).choose(&mut *env.rng));
            if let Some(last) = last {
                self.relaxed = Relaxed { groups: relaxed, layer2: self.layer2.len() < LAYER2 };
                return Some([guard.node(), second.node(), last.node()]);
            }
        }
        None
    }

    /// Relays from which a client takes snapshots: the guard, and two more of the sample in other address groups.
    pub fn directories(&mut self, view: &View, env: &mut Env<'_>) -> Vec<NodeId> {
        self.refresh(view, env);
        let mut chosen: Vec<Arc<Verified>> = Vec::new();
        for relay in self.guards.iter().filter(|g| !self.aside(&g.node, env.now)).filter_map(|g| view.get(&g.node)) {
            if chosen.len() < DIRECTORIES && chosen.iter().all(|c| Self::apart(c, relay)) {
                chosen.push(Arc::clone(relay));
            }
        }
        chosen.iter().map(|c| c.node()).collect()
    }

    fn apart(a: &Verified, b: &Verified) -> bool {
        !a.shares_group(b) && !a.is_family(b)
    }

    fn aside(&self, node: &NodeId, now: Time) -> bool {
        self.trouble.get(node).is_some_and(|t| t.aside_until > now)
    }

    /// Lets go of what has had its time or left the network, and fills sample and layer.
    fn refresh(&mut self, view: &View, env: &mut Env<'_>) {
        // A client that has read no view yet knows its bootstrap relays only: they must not become its guards for that.
        let counts = view.counts();
        if counts.relays < limits::NETWORK_MIN_RELAYS || counts.groups < limits::NETWORK_MIN_GROUPS {
            return;
        }
        self.trouble.retain(|_, t| t.last + ASIDE_MAX * 2 > env.now);
        self.guards.retain(|g| g.until > env.wall);
        self.layer2.retain(|l| l.until > env.wall && (view.get(&l.node).is_some() || view.usable().is_empty()));
        let (me, usable) = (self.me, view.usable());
        let wanted = (usable.len() / 10).clamp(3, SAMPLE_MAX);
        // A first start whose whole sample is out of reach may draw on, up to the sample's limit; one that ever worked waits instead.
        let stuck = self.guards.iter().all(|g| !g.worked && self.aside(&g.node, env.now));
        let wanted = if stuck { self.guards.len() + 1 } else { wanted };
        while self.guards.iter().filter(|g| view.get(&g.node).is_some()).count() < wanted && self.guards.len() < SAMPLE_MAX {
            let known: Vec<&Arc<Verified>> = self.guards.iter().filter_map(|g| view.get(&g.node)).collect();
            let new = usable
                .iter()
                .filter(|r| Some(r.node()) != me && !self.guards.iter().any(|g| g.node == r.node()))
                .filter(|r| known.iter().all(|k| Self::apart(k, r)))
                .choose(&mut *env.rng);
            let Some(new) = new else { break };
            // The stored end is shifted by up to a tenth, so that a seized disk does not tell the day of the first start.
            let life = GUARD_LIFE_SECS - env.rng.random_range(0..GUARD_LIFE_SECS / 10);
            self.guards.push(Kept { node: new.node(), until: env.wall.plus(life), worked: false });
        }
        let today = env.wall.day();
        if self.draws.0 != today {
            self.draws = (today, 0);
        }
        let guard = self.guard().and_then(|g| view.get(&g));
        loop {
            let serving = self.layer2.iter().filter(|l| !self.aside(&l.node, env.now)).count();
            let first_fill = self.layer2.len() < LAYER2;
            if serving >= LAYER2 || (!first_fill && (serving > LAYER2 / 2 || self.draws.1 >= LAYER2_DRAWS_PER_DAY)) {
                break;
            }
            let new = usable
                .iter()
                .filter(|r| Some(r.node()) != me && !self.layer2.iter().any(|l| l.node == r.node()))
                .filter(|r| guard.is_none_or(|g| g.node() != r.node() && Self::apart(g, r)))
                .choose(&mut *env.rng);
            let Some(new) = new else { break };
            if !first_fill {
                self.draws.1 += 1;
                // The one that failed longest gives its place.
                let failing = self.layer2.iter().position(|l| self.aside(&l.node, env.now));
                if let Some(at) = failing {
                    self.layer2.remove(at);
                }
            }
            let mut draw = || env.rng.random_range(DAY..12 * DAY);
            let life = draw().max(draw());
            self.layer2.push(Kept { node: new.node(), until: env.wall.plus(life), worked: false });
        }
    }

    /// A circuit over this path stands.
    pub fn worked(&mut self, path: &[NodeId; limits::HOPS]) {
        self.guards_failed_in_row = 0;
        let [guard, second, last] = path;
        for node in [guard, second, last] {
            self.trouble.remove(node);
        }
        for kept in self.guards.iter_mut().chain(&mut self.layer2) {
            kept.worked |= kept.node == *guard || kept.node == *second;
        }
    }

    /// A circuit could not be built: so many of its hops stood. True if something that is kept changed.
    pub fn failed(&mut self, path: &[NodeId; limits::HOPS], hops: usize, env: &mut Env<'_>) -> bool {
        let Some(node) = path.get(hops).copied() else { return false };
        let now = env.now;
        let is_guard = hops == 0;
        let worked = self.guards.iter().any(|g| g.node == node && g.worked);
        let t = self.trouble.entry(node).or_insert(Trouble { failures: 0, last: Time(0), aside_until: Time(0) });
        if is_guard && worked && t.failures > 0 && now.since(t.last) < GUARD_FAILURE_APART {
            return false;
        }
        t.failures += 1;
        t.last = now;
        // A guard that worked is given more than one chance; anything else is not waited for.
        let patience = if is_guard && worked { GUARD_FAILURES } else { 1 };
        if t.failures >= patience {
            let doublings = (t.failures - patience).min(6);
            t.aside_until = now + (ASIDE * (1 << doublings)).min(ASIDE_MAX);
            if is_guard {
                self.guards_failed_in_row += 1;
                if self.guards_failed_in_row >= NETWORK_DOWN_AFTER {
                    // Nobody answers: that is the network, and no reason to wander through guards.
                    self.guards_failed_in_row = 0;
                    let guards: Vec<NodeId> = self.guards.iter().filter(|g| g.worked).map(|g| g.node).collect();
                    self.trouble.retain(|node, _| !guards.contains(node));
                }
                return true;
            }
        }
        false
    }

    /// The lasting form: `kind | version | guards | layer 2 | draws | extensions`, each relay as id, end, worked.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(KIND).u8(VERSION);
        for list in [&self.guards, &self.layer2] {
            w.u8(u8::try_from(list.len()).unwrap_or(u8::MAX));
            for kept in list.iter().take(usize::from(u8::MAX)) {
                w.raw(&kept.node.0).u64(kept.until.0).u8(u8::from(kept.worked));
            }
        }
        w.u32(self.draws.0).u32(self.draws.1);
        Extensions::default().write(&mut w);
        w.into_bytes()
    }

    /// Reads the lasting form.
    ///
    /// # Errors
    /// Damaged, or written by a newer version.
    pub fn decode(bytes: &[u8], me: Option<NodeId>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != KIND {
            return Err(DecodeError::Invalid);
        }
        if r.u8()? != VERSION {
            return Err(DecodeError::Newer);
        }
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            for _ in 0..r.u8()? {
                let (node, until) = (NodeId(r.array()?), Wall(r.u64()?));
                let worked = match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Invalid),
                };
                list.push(Kept { node, until, worked });
            }
        }
        let draws = (r.u32()?, r.u32()?);
        Extensions::read(&mut r, &[])?;
        r.finish()?;
        let [guards, layer2] = lists;
        Ok(Self { guards, layer2, draws, ..Self::new(me) })
    }
}
