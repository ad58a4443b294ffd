//! Which relays a circuit goes over: one type for every rule (D7).
//!
//! * One guard of a small persistent sample, for about 120 days from its first use; the next of the sample only while it is down.
//!   The order of the sample never changes, so a guard that comes back is used again, and no outage moves a user to another one for
//!   good.
//! * Four layer-2 relays, each for 1 to 12 days (the larger of two draws), on every user-plane circuit.
//! * A last hop drawn for each circuit.
//! * No relay twice, never ourselves, no two hops in one address group or family. Every /24 weighs the same, however many relays it
//!   has, and nothing that a relay says of itself makes it likelier. All relays of a /32 that have IPv6 alone weigh like one /24, and
//!   are no guards and no directories: their addresses cost next to nothing.
//!
//! Failures move as little as they can, because whoever can make a client choose again can make it choose badly (T12): a hop
//! that fails is set aside for a while, the sample never holds more than twenty guards, layer-2 relays are drawn a few times a day
//! at most, and when nothing answers at all it is the network that is down, not the guards. Of failures a start keeps the one that
//! people would wait for again: which guard is down (`down`).

mod down;

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
use rand::CryptoRng;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;
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
/// Relays of the second layer that may be drawn in one day, after the first time.
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
/// Dials of a guard that fail no further apart than this are of one failure.
const UNREACHED_APART: Duration = Duration::from_secs(15);
/// After a link went silent under a wish, its guard's failures count for nothing for so long: while nobody waits, it would have taken
/// that long to be missed, and an outage of the own line shall lead to no other guard any sooner.
const SPARED: Duration = Duration::from_secs(90);
/// Guards that fail one after the other, with no success between, until it is the network that is down.
const NETWORK_DOWN_AFTER: u32 = 4;

#[derive(Clone, Debug)]
struct Kept {
    node: NodeId,
    until: Wall,
    /// Whether a circuit over it ever stood. Of guards only.
    worked: bool,
}

/// What is known of a hop that failed. Not kept over restarts.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    failures: u32,
    /// Of dials that failed one soon after the other: when the first began, and the latest ended.
    unreached: Option<(Time, Time)>,
    last: Time,
    aside_until: Time,
}

impl Trouble {
    const NONE: Self = Self { failures: 0, unreached: None, last: Time(0), aside_until: Time(0) };
}

/// Which rules a small network made us bend, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relaxed {
    /// Two hops of a path shared an address group or family.
    pub groups: bool,
    /// The second layer has fewer than four relays.
    pub layer2: bool,
    /// A last hop serves more than one circuit where each was to have its own.
    pub last: bool,
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
        if self.last {
            words.push("the network is too small for every circuit to end at another relay".into());
        }
        words
    }
}

/// The path policy and its persistent choices.
#[derive(Debug)]
pub struct PathPolicy {
    me: Option<NodeId>,
    /// In the order of their draw, which is that of their use.
    guards: Vec<Kept>,
    layer2: Vec<Kept>,
    /// Whether any of this wants to be saved.
    changed: bool,
    /// Day of the last layer-2 draw, and draws on it.
    draws: (u32, u32),
    trouble: BTreeMap<NodeId, Trouble>,
    down: down::Down,
    spared_until: Time,
    /// Whether guards are spared the next time that a link goes silent.
    spares: bool,
    guards_failed_in_row: u32,
    relaxed: Relaxed,
}

/// What is known of a path's last hop before it is drawn.
#[derive(Clone, Copy)]
enum Last<'a> {
    /// It is this one.
    This(&'a NodeId),
    /// Any, but sooner none that is taken, and none where that would be in vain.
    Any { taken: &'a [NodeId], vain: &'a [NodeId] },
}

impl PathPolicy {
    /// No choices made yet. A relay gives itself, to be left out.
    pub const fn new(me: Option<NodeId>) -> Self {
        Self {
            me,
            guards: Vec::new(),
            layer2: Vec::new(),
            changed: false,
            draws: (0, 0),
            trouble: BTreeMap::new(),
            down: down::Down::new(),
            spared_until: Time(0),
            spares: true,
            guards_failed_in_row: 0,
            relaxed: Relaxed { groups: false, layer2: false, last: false },
        }
    }

    /// The guard in use: the first of the sample that is listed and not set aside. While all are set aside, the first listed.
    pub fn guard<'v>(&self, view: &'v View, now: Time) -> Option<&'v Arc<Verified>> {
        let listed = || self.guards.iter().filter_map(|g| guard_of(view, &g.node));
        listed().find(|g| !self.aside(&g.node(), now)).or_else(|| listed().next())
    }

    /// Whether what is kept changed since the last call, so that [`PathPolicy::encode`] should be saved.
    pub const fn take_changed(&mut self) -> bool {
        core::mem::replace(&mut self.changed, false)
    }

    /// Rules that were bent for the last path.
    pub const fn relaxed(&self) -> Relaxed {
        self.relaxed
    }

    /// Three relays, guard first, with a last hop that is none of `taken` if there is another, and none of `vain` if there is any: it is
    /// sooner one of the former than one of the latter. `None` if the view holds no path now.
    pub fn choose(&mut self, view: &View, env: &mut Env<'_>, taken: &[NodeId], vain: &[NodeId]) -> Option<[NodeId; limits::HOPS]> {
        self.path(view, env, Last::Any { taken, vain })
    }

    /// Three relays, guard first, with this last hop. `None` if the rules have none with it now: rules give way for it only where
    /// they would for whatever last hop, and never for the guard itself.
    pub fn choose_to(&mut self, view: &View, env: &mut Env<'_>, last: &NodeId) -> Option<[NodeId; limits::HOPS]> {
        self.path(view, env, Last::This(last))
    }

    fn path(&mut self, view: &View, env: &mut Env<'_>, to: Last<'_>) -> Option<[NodeId; limits::HOPS]> {
        self.refresh(view, env);
        let now = env.now;
        let guard = self.guard(view, now).filter(|g| !self.aside(&g.node(), now)).or_else(|| self.again(view, now))?;
        self.path_over(guard, view, env, to)
    }

    /// Takes up what an earlier run noted of guards that were down: the next of the sample serves until they answer. Once, at a start.
    pub fn recall(&mut self, env: &Env<'_>) {
        let before = self.down.encode();
        let down = self.down.recall(env.wall);
        if self.guards.iter().all(|g| down.contains(&g.node)) {
            self.down.clear();
        } else {
            let trouble = Trouble { failures: GUARD_FAILURES, last: env.now, aside_until: env.now + ASIDE, ..Trouble::NONE };
            self.trouble.extend(down.into_iter().map(|node| (node, trouble)));
        }
        self.changed |= self.down.encode() != before;
    }

    /// A path over a guard that an earlier run found down, to see whether it still is: one for each, at a start.
    pub fn ask_again(&mut self, view: &View, env: &mut Env<'_>) -> Option<[NodeId; limits::HOPS]> {
        let node = self.down.next()?;
        self.refresh(view, env);
        let guard = guard_of(view, &node).filter(|_| self.guards.iter().any(|g| g.node == node))?;
        self.path_over(guard, view, env, Last::Any { taken: &[], vain: &[] })
    }

    fn path_over(&mut self, guard: &Arc<Verified>, view: &View, env: &mut Env<'_>, to: Last<'_>) -> Option<[NodeId; limits::HOPS]> {
        let now = env.now;
        let other = |a: &Verified, b: &Verified, relaxed: bool| a.node() != b.node() && (relaxed || Self::apart(a, b));
        let mut seconds: Vec<&Arc<Verified>> =
            self.layer2.iter().filter(|l| !self.aside(&l.node, env.now)).filter_map(|l| view.get(&l.node)).collect();
        seconds.shuffle(&mut *env.rng);
        if seconds.is_empty() {
            seconds.extend(self.layer2.iter().filter(|l| self.rested(&l.node, now)).filter_map(|l| view.get(&l.node)));
        }
        // What gives way: first the middle's distance to the last hop, then to the guard. Guard and last hop see both ends: theirs
        // goes last.
        let rounds = [(false, false, false), (true, false, false), (false, true, false), (true, true, false), (true, true, true)];
        for (near_middle, near_second, near_last) in rounds {
            let apart = seconds.iter().filter(|s| other(s, guard, near_second));
            let fits = |l: &Verified, second: &Verified| {
                let apart = other(l, guard, near_last) && other(l, second, near_middle);
                apart && self.me != Some(l.node()) && !self.aside(&l.node(), now)
            };
            let (taken, vain) = match to {
                Last::Any { taken, vain } => (taken, vain),
                Last::This(to) => {
                    let last = |second: &&&Arc<Verified>| view.get(to).is_some_and(|l| fits(l, second));
                    if let Some(second) = apart.clone().find(last) {
                        return Some([guard.node(), second.node(), *to]);
                    }
                    // Rules give way for it only where they would for whatever last hop.
                    if apart.clone().any(|second| view.usable().iter().any(|l| fits(l, second))) {
                        return None;
                    }
                    continue;
                }
            };
            // One that was last already is of more use than one that is of none.
            for but in [[taken, vain], [&[], vain], [&[], &[]]] {
                for second in apart.clone() {
                    let may = |l: &&Arc<Verified>| fits(l, second) && but.iter().all(|nodes| !nodes.contains(&l.node()));
                    if let Some(last) = draw(view, &mut *env.rng, view.usable().iter().filter(may)) {
                        self.relaxed = Relaxed {
                            groups: near_middle || near_second,
                            layer2: self.layer2.len() < LAYER2,
                            last: taken.contains(&last.node()),
                        };
                        return Some([guard.node(), second.node(), last.node()]);
                    }
                }
            }
        }
        None
    }

    /// Relays from which a client takes snapshots: the guard, and two more of the sample in other address groups.
    pub fn directories(&mut self, view: &View, env: &mut Env<'_>) -> Vec<NodeId> {
        self.refresh(view, env);
        let mut chosen: Vec<Arc<Verified>> = Vec::new();
        for relay in self.guards.iter().filter(|g| !self.aside(&g.node, env.now)).filter_map(|g| guard_of(view, &g.node)) {
            if chosen.len() < DIRECTORIES && chosen.iter().all(|c| Self::apart(c, relay)) {
                chosen.push(Arc::clone(relay));
            }
        }
        chosen.iter().map(|c| c.node()).collect()
    }

    /// Guards of an earlier run that were in use, and whose time is not over.
    pub fn kept_guards(&self, now: Wall) -> impl Iterator<Item = NodeId> {
        self.guards.iter().filter(move |g| g.worked && g.until > now).map(|g| g.node)
    }

    /// The guards of the sample, in the order of their use.
    pub fn sample(&self) -> impl Iterator<Item = NodeId> {
        self.guards.iter().map(|g| g.node)
    }

    fn apart(a: &Verified, b: &Verified) -> bool {
        !a.shares_group(b) && !a.is_family(b)
    }

    fn aside(&self, node: &NodeId, now: Time) -> bool {
        self.trouble.get(node).is_some_and(|t| t.aside_until > now)
    }

    /// Of a sample, or a second layer, that is set aside as a whole: whether this one may be tried again. They are few, and trying
    /// them shows them to nobody new; waiting out what an outage of hours has added up would keep a user waiting as long again.
    fn rested(&self, node: &NodeId, now: Time) -> bool {
        now.since(self.last_failure(node)) >= ASIDE
    }

    fn last_failure(&self, node: &NodeId) -> Time {
        self.trouble.get(node).map_or(Time(0), |t| t.last)
    }

    /// While all guards are set aside: the one that failed longest ago.
    fn again<'v>(&self, view: &'v View, now: Time) -> Option<&'v Arc<Verified>> {
        let longest = self.guards.iter().filter_map(|g| guard_of(view, &g.node)).min_by_key(|r| self.last_failure(&r.node()));
        longest.filter(|r| self.rested(&r.node(), now))
    }

    /// Lets go of what has had its time or left the network, and fills sample and layer.
    fn refresh(&mut self, view: &View, env: &mut Env<'_>) {
        // A client that has read no view yet knows its bootstrap relays only: they must not become its guards for that.
        let counts = view.counts();
        if counts.relays < limits::NETWORK_MIN_RELAYS || counts.groups < limits::NETWORK_MIN_GROUPS {
            return;
        }
        let now = env.now;
        let recent = |t: &Trouble| t.unreached.is_some_and(|(_, latest)| now.since(latest) < UNREACHED_APART);
        self.trouble.retain(|_, t| t.last + ASIDE_MAX * 2 > now || recent(t));
        let kept = self.guards.len() + self.layer2.len();
        self.guards.retain(|g| g.until > env.wall);
        let guards = &self.guards;
        self.down.retain(|node| guards.iter().any(|g| g.node == *node));
        self.layer2.retain(|l| l.until > env.wall && (view.get(&l.node).is_some() || view.usable().is_empty()));
        self.changed |= self.guards.len() + self.layer2.len() != kept;
        let (me, usable) = (self.me, view.usable());
        let wanted = (usable.len() / 10).clamp(3, SAMPLE_MAX);
        // A first start whose whole sample is out of reach may draw on, up to the sample's limit; one that ever worked waits
        // instead.
        let stuck = !self.guards.is_empty() && self.guards.iter().all(|g| !g.worked && self.aside(&g.node, env.now));
        let wanted = if stuck { self.guards.len() + 1 } else { wanted };
        while self.guards.iter().filter(|g| guard_of(view, &g.node).is_some()).count() < wanted && self.guards.len() < SAMPLE_MAX {
            let known: Vec<&Arc<Verified>> = self.guards.iter().filter_map(|g| guard_of(view, &g.node)).collect();
            let candidates = usable
                .iter()
                .filter(|r| !r.is_ip6() && Some(r.node()) != me && !self.guards.iter().any(|g| g.node == r.node()))
                .filter(|r| known.iter().all(|k| Self::apart(k, r)));
            let Some(new) = draw(view, &mut *env.rng, candidates) else { break };
            self.guards.push(Kept { node: new.node(), until: Self::guard_end(env), worked: false });
            self.changed = true;
        }
        let first_time = self.draws == (0, 0);
        let today = env.wall.day();
        if self.draws.0 != today {
            self.draws = (today, 0);
        }
        let now = env.now;
        let Some(guard) = self.guard(view, now) else { return };
        loop {
            let fits = |l: &Kept| {
                let beside = |r: &Arc<Verified>| r.node() != guard.node() && Self::apart(guard, r);
                !self.aside(&l.node, now) && view.get(&l.node).is_some_and(beside)
            };
            let (serving, full) = (self.layer2.iter().filter(|l| fits(l)).count(), self.layer2.len() >= LAYER2);
            let spent = !first_time && self.draws.1 >= LAYER2_DRAWS_PER_DAY;
            if spent || (full && serving > LAYER2 / 2) {
                break;
            }
            let candidates = usable
                .iter()
                .filter(|r| Some(r.node()) != me && !self.layer2.iter().any(|l| l.node == r.node()))
                .filter(|r| guard.node() != r.node() && Self::apart(guard, r) && !self.aside(&r.node(), now));
            let Some(new) = draw(view, &mut *env.rng, candidates) else { break };
            if full {
                // One that fails, or stands too near to the guard in use, gives its place.
                let Some(at) = self.layer2.iter().position(|l| !fits(l)) else { break };
                self.layer2.remove(at);
            }
            if !first_time {
                self.draws.1 += 1;
            }
            let mut days = || env.rng.random_range(DAY..12 * DAY);
            let life = days().max(days());
            self.layer2.push(Kept { node: new.node(), until: env.wall.plus(life), worked: false });
            self.changed = true;
        }
    }

    /// When a guard's time ends. Shifted by up to a tenth, so that a seized disk does not tell the day of the first start.
    fn guard_end(env: &mut Env<'_>) -> Wall {
        env.wall.plus(GUARD_LIFE_SECS - env.rng.random_range(0..GUARD_LIFE_SECS / 10))
    }

    /// A circuit over this path stands.
    pub fn worked(&mut self, path: &[NodeId; limits::HOPS], env: &mut Env<'_>) {
        self.guards_failed_in_row = 0;
        self.spares = true;
        let [guard, second, last] = path;
        for node in [guard, second, last] {
            self.trouble.remove(node);
        }
        if let Some(kept) = self.guards.iter_mut().find(|g| g.node == *guard && !g.worked) {
            // Its time counts from here: else the whole sample would end in the same few days, and users pass through all of it.
            (kept.worked, kept.until) = (true, Self::guard_end(env));
            self.changed = true;
        }
        self.changed |= self.down.forget(guard);
        for before in self.guards.iter().take_while(|g| g.node != *guard) {
            if self.trouble.get(&before.node).is_some_and(|t| t.aside_until > env.now) {
                self.changed |= self.down.note(before.node, env.wall);
            }
        }
    }

    /// Answers come over this path: if circuits fail meanwhile, its guard is not down. A slow line that is full of its user's own
    /// traffic must not make a client pass from guard to guard (T12).
    pub fn carries(&mut self, path: &[NodeId; limits::HOPS]) {
        self.spares = true;
        for node in path {
            self.trouble.remove(node);
        }
        let [guard, ..] = path;
        self.changed |= self.down.forget(guard);
    }

    /// A link to a guard went silent while somebody waited: more likely the own line than the guard. Once, until a circuit stands or
    /// brings something: a guard that opens links and then says nothing must not be kept for ever.
    pub fn line_lost(&mut self, now: Time) {
        if core::mem::take(&mut self.spares) {
            self.spared_until = now + SPARED;
        }
    }

    /// A circuit could not be built: so many of its hops stood. Changes nothing that is kept.
    pub fn failed(&mut self, path: &[NodeId; limits::HOPS], hops: usize, env: &Env<'_>) {
        let Some(node) = path.get(hops).copied() else { return };
        let now = env.now;
        let is_guard = hops == 0;
        let worked = self.guards.iter().any(|g| g.node == node && g.worked);
        if is_guard && worked && now < self.spared_until {
            return;
        }
        let t = self.trouble.entry(node).or_insert(Trouble::NONE);
        if is_guard && worked && t.failures > 0 && now.since(t.last) < GUARD_FAILURE_APART {
            return;
        }
        t.failures += 1;
        // A guard that worked is given more than one chance; anything else is not waited for.
        self.count(node, now, is_guard, if is_guard && worked { GUARD_FAILURES } else { 1 });
    }

    /// The dial of a guard failed that began at `began`; `others` is when another relay was last heard. If that was since, the line
    /// carries and it is the guard that is down: it gets no more chances, for they cost people half a minute. Said of one dial
    /// that is refused at once it would tell nothing, so those that follow soon count from the first.
    pub fn unreached(&mut self, guard: &NodeId, began: Time, others: Option<Time>, now: Time) {
        if !self.guards.iter().any(|g| g.node == *guard && g.worked) || self.aside(guard, now) {
            return;
        }
        let t = self.trouble.entry(*guard).or_insert(Trouble::NONE);
        let first = t.unreached.filter(|(_, latest)| now.since(*latest) < UNREACHED_APART).map_or(began, |(first, _)| first);
        t.unreached = Some((first, now));
        if others.is_some_and(|heard| heard > first) {
            t.failures = GUARD_FAILURES.max(t.failures + 1);
            self.count(*guard, now, true, GUARD_FAILURES);
        }
    }

    /// After a failure was added: whether it was one too many.
    fn count(&mut self, node: NodeId, now: Time, is_guard: bool, patience: u32) {
        let Some(t) = self.trouble.get_mut(&node) else { return };
        t.last = now;
        if t.failures < patience {
            return;
        }
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
        }
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
        let mut extensions = Extensions::default();
        if let Some(down) = self.down.encode() {
            extensions.set(down::EXTENSION, down);
        }
        extensions.write(&mut w);
        w.into_bytes()
    }

    /// Reads the lasting form.
    ///
    /// # Errors
    /// Damaged, or written by a newer version.
    pub fn decode(bytes: &[u8], me: Option<NodeId>) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.head(KIND, VERSION)?;
        let mut lists = [Vec::<Kept>::new(), Vec::new()];
        for (list, max) in lists.iter_mut().zip([SAMPLE_MAX, LAYER2]) {
            let count = r.u8()?;
            if usize::from(count) > max {
                return Err(DecodeError::TooLarge);
            }
            for _ in 0..count {
                let (node, until) = (NodeId(r.array()?), Wall(r.u64()?));
                let worked = match r.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(DecodeError::Invalid),
                };
                if list.iter().any(|kept| kept.node == node) {
                    return Err(DecodeError::Invalid);
                }
                list.push(Kept { node, until, worked });
            }
        }
        let draws = (r.u32()?, r.u32()?);
        let extensions = Extensions::read(&mut r, &[down::EXTENSION])?;
        r.finish()?;
        let down = extensions.get(down::EXTENSION).map(down::Down::decode).transpose()?.unwrap_or_default();
        let [guards, layer2] = lists;
        Ok(Self { guards, layer2, draws, down, ..Self::new(me) })
    }
}

/// A usable relay that may be a guard, or a directory: it has IPv4. One that moves to IPv6 keeps its place in the sample unused, so
/// that moving makes nobody draw more guards than the sample holds (T12, T31).
fn guard_of<'v>(view: &'v View, node: &NodeId) -> Option<&'v Arc<Verified>> {
    view.get(node).filter(|r| !r.is_ip6())
}

/// One of the candidates. Every /24 (of IPv6 alone, every /32) has the same chance: a thousand identities at one address are no
/// more likely than one (T12).
fn draw<'a>(
    view: &View,
    rng: &mut dyn CryptoRng,
    candidates: impl Iterator<Item = &'a Arc<Verified>>,
) -> Option<&'a Arc<Verified>> {
    let all: Vec<&Arc<Verified>> = candidates.collect();
    all.choose_weighted(rng, |r| 1.0 / f64::from(view.in_prefix(&r.prefix()).max(1))).ok().copied()
}

#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;
