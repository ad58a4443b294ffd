//! The view: every usable relay that this node knows (D8), and which of them host (D9).
//!
//! *Proven* is a relay that answered us where it says it is, within about a day. *Seen* means that dial-back receipts connect the
//! relay, over any number of others, with a proven one: the witness spoke with its subject, and the subject with its witness, so a
//! receipt connects both ways. *Usable* means seen, with receipts of enough seen witnesses in distinct groups: three, or as many as
//! there are groups beside one. A *host* is a usable relay that says so, on IPv4, whose receipts show its address unchanged for a
//! day.
//!
//! What others say holds until our own dials show otherwise: a relay that never answered us and does not is *doubted*, and whoever
//! vouched for such relays loses his word (`view/marks.rs`). So views agree as far as descriptors do, less what each node found out
//! by itself.
//!
//! A relay neither uses nor believes what has IPv6 alone while it cannot dial IPv6: it could never find out that nobody is there.
//!
//! A client dials nobody to look, and judges nothing: its view holds what its directories agree on ([`View::adopt`]).

mod bound;
mod changes;
mod entry;
pub(in crate::proto::overlay) mod evidence;
mod faces;
mod judge;
mod marks;

pub use changes::Change;
pub use changes::Changes;
pub use changes::Mark;
pub use entry::Entry;
pub use entry::Place;
pub use entry::PlaceKind;

use crate::base::NodeId;
use crate::base::Position;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Faces;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::record::hint_id;
use crate::proto::overlay::region;
use crate::proto::overlay::region::Walk;
use crate::proto::overlay::view::changes::Log;
use crate::proto::overlay::view::entry::Standing;
use crate::proto::overlay::view::marks::Marks;
use crate::wire::record::Receipt;
use core::cmp::Ordering;
use rand::CryptoRng;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Places looked at in a walk, for each relay that is wanted: more that do not count, former ones or with IPv6 alone, stand together
/// only in a crowd, and no question costs work that grows with the view (T36).
const WALK: usize = 16;

/// Draws before the best of them is taken as it is: where nine relays of ten are of few /24s, one in a thousand comes to that.
const DRAWS: usize = 64;

/// What became of a descriptor that was offered to the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// A relay that was not known.
    New,
    /// A newer descriptor of a known relay.
    Newer,
    /// The known descriptor, said anew.
    Fresher,
    /// Another descriptor from the slot of time of the one that is known: the relay is struck out.
    Faces,
    /// It was struck out before.
    Struck,
    /// Known already, or older than what is known.
    Known,
    /// Expired, or from the future, by more than the accepted skew.
    Time,
    /// An address that this network does not allow.
    Address,
    /// The view is full, and this relay is not of the sample.
    Full,
}

/// Numbers of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Usable relays.
    pub relays: usize,
    /// Hosts among them.
    pub hosts: usize,
    /// Address groups of usable relays.
    pub groups: usize,
    /// Descriptors that are not usable (yet).
    pub pending: usize,
}

/// Positions in order: the key is the position's first 16 bytes and the relay's hint id.
pub(crate) type Places = BTreeMap<(u128, u64), Place>;

/// Every relay this node knows.
///
/// # Invariants
/// `usable` holds exactly the entries marked so, each at its `slot`; `places` holds each of them once (and its former places);
/// `log` holds each usable entry once, `pending` every other; counters agree with the entries; nothing doubted is seen, and nothing
/// usable is not; nobody who was struck out has an entry. Checked by [`View::check`].
#[derive(Debug)]
pub struct View {
    local: bool,
    entries: BTreeMap<NodeId, Entry>,
    usable: Vec<Arc<Verified>>,
    places: Places,
    /// Who came and went; its numbers are those of arrivals.
    log: Log,
    /// Not usable relays by arrival.
    pending: BTreeMap<u64, NodeId>,
    /// Every receipt of every entry, as (witness, subject) hints: a witness that becomes seen makes its subjects seen.
    receipts: BTreeSet<(u64, u64)>,
    /// For each relay that answered us: how many that never did are seen by chains that begin with it, or were, and failed.
    leads: BTreeMap<NodeId, usize>,
    seen: usize,
    proven: usize,
    /// Somebody is not seen only because whoever spoke for it speaks for too many.
    turned_away: bool,
    seen_groups: BTreeMap<Group, u32>,
    groups: BTreeMap<Group, u32>,
    prefixes: BTreeMap<Prefix, u32>,
    host_prefixes: BTreeMap<Prefix, u32>,
    hosts: usize,
    hosts_capped: usize,
    digest: u64,
    /// When full: relays whose sample rank is above are not taken.
    rank_ceiling: u64,
    max: usize,
    marks: Marks,
    /// Those who showed different faces, with the proof.
    faces: BTreeMap<NodeId, Arc<Faces>>,
    /// A client's, which judges nothing itself.
    client: bool,
    /// The hour that receipts are judged by.
    hour: u32,
    /// Of a relay: whether it can dial IPv6.
    ip6: bool,
    /// Something was doubted, or somebody lost his word: what hangs on it is to be decided anew.
    stale: bool,
}

impl View {
    /// An empty view. `local` lifts the waiting time of hosts and accepts special addresses (`--local-network`).
    pub const fn new(local: bool) -> Self {
        Self {
            local,
            entries: BTreeMap::new(),
            usable: Vec::new(),
            places: BTreeMap::new(),
            log: Log::new(),
            pending: BTreeMap::new(),
            receipts: BTreeSet::new(),
            leads: BTreeMap::new(),
            seen: 0,
            proven: 0,
            turned_away: false,
            seen_groups: BTreeMap::new(),
            groups: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            host_prefixes: BTreeMap::new(),
            hosts: 0,
            hosts_capped: 0,
            digest: 0,
            rank_ceiling: u64::MAX,
            max: limits::VIEW_MAX,
            marks: Marks::new(),
            faces: BTreeMap::new(),
            client: false,
            hour: 0,
            ip6: false,
            stale: false,
        }
    }

    /// An empty view of a client: it holds what directories agree on.
    pub const fn of_client(local: bool) -> Self {
        let mut view = Self::new(local);
        view.client = true;
        view
    }

    /// Whether this is a local network.
    pub const fn is_local(&self) -> bool {
        self.local
    }

    /// Offers a relay. The newest descriptor wins, and of one descriptor the newest freshness; two descriptors of one slot of time
    /// strike the relay out.
    pub fn insert(&mut self, relay: Arc<Verified>, now: Wall) -> Inserted {
        if let Some(refused) = self.refuses(&relay, now) {
            return refused;
        }
        let node = relay.node();
        let before = self.needed();
        self.hour = self.hour.max(now.hour());
        let (mut standing, mut outcome) = (Standing::default(), Inserted::New);
        if let Some(old) = self.entries.get(&node) {
            if old.relay.body().digest() == relay.body().digest() {
                if relay.published() <= old.fresh {
                    return Inserted::Known;
                }
                outcome = Inserted::Fresher;
            } else {
                let slots = |r: &Verified| r.body().slot(self.local);
                match slots(&relay).cmp(&slots(&old.relay)) {
                    Ordering::Less => return Inserted::Known,
                    Ordering::Equal => {
                        let faces = Faces::new(Arc::clone(old.relay.body()), Arc::clone(relay.body()), self.local);
                        return faces.map_or(Inserted::Known, |faces| self.strike_out(faces));
                    }
                    Ordering::Greater => outcome = Inserted::Newer,
                }
            }
            if old.relay.addr() == relay.addr() {
                standing = old.standing;
            }
        } else if rank(&relay.position()) > self.rank_ceiling {
            return Inserted::Full;
        }
        if outcome != Inserted::New {
            if self.renew(&relay) {
                return self.settled(node, before, outcome);
            }
            self.take_out(&node);
        }
        let arrival = self.log.number();
        self.pending.insert(arrival, node);
        self.receipts.extend(relay.receipts().iter().map(|r| (hint_id(&r.witness), relay.hint_id())));
        self.enrol(&standing, relay.group());
        self.entries.insert(node, Entry::new(relay, standing, arrival));
        self.settled(node, before, outcome)
    }

    /// Why a relay is not taken, whatever else is known of it.
    fn refuses(&self, relay: &Verified, now: Wall) -> Option<Inserted> {
        let latest = now.plus(limits::SKEW_MAX_SECS);
        let made = relay.published().max(relay.descriptor().published);
        if relay.expires().plus(limits::SKEW_MAX_SECS) <= now || made > latest {
            return Some(Inserted::Time);
        }
        if !self.local && !relay.descriptor().addrs.iter().all(net::is_public) {
            return Some(Inserted::Address);
        }
        self.faces.contains_key(&relay.node()).then_some(Inserted::Struck)
    }

    /// Of a client: its directories agree on these bytes about a relay, and on whether it hosts.
    pub fn adopt(&mut self, body: &Arc<Body>, host: bool, now: Wall) -> Inserted {
        let relay = Verified::listed(Arc::clone(body));
        if let Some(refused) = self.refuses(&relay, now) {
            return refused;
        }
        let node = relay.node();
        let known = self.entries.get(&node).map(|e| (e.relay.body().digest() == body.digest(), e.host));
        if known == Some((true, host)) {
            return Inserted::Known;
        }
        self.take_out(&node);
        let arrival = self.log.number();
        let (standing, group) = (Standing { seen: true, ..Standing::default() }, relay.group());
        self.pending.insert(arrival, node);
        self.enrol(&standing, group);
        let may_host = body.descriptor().host_key.is_some() && net::may_host(&relay.addr());
        let carries = body.descriptor().carries;
        self.entries.insert(node, Entry::new(relay, standing, arrival));
        self.mark(&node, carries, carries && host && may_host);
        self.bound();
        if known.is_some() { Inserted::Newer } else { Inserted::New }
    }

    /// What came of a descriptor, once all is decided that hangs on it.
    fn settled(&mut self, node: NodeId, before: usize, outcome: Inserted) -> Inserted {
        self.settle(node, before);
        self.bound();
        if self.entries.contains_key(&node) { outcome } else { Inserted::Full }
    }

    /// Takes newer records of a relay that stayed where it was, the usual news: it keeps its places. If its descriptor is another, it
    /// gets a new number, so that those who asked before hear of it. False: it is none of that kind.
    fn renew(&mut self, relay: &Arc<Verified>) -> bool {
        let Some(entry) = self.entries.get_mut(&relay.node()) else { return false };
        let same = entry.tag == relay.digest_part();
        let moved = entry.relay.addr() != relay.addr() || !entry.relay.former().is_empty() || !relay.former().is_empty();
        if moved && !same {
            return false;
        }
        let hint = relay.hint_id();
        let arrival = if same { entry.arrival } else { self.log.number() };
        if entry.usable {
            self.log.remove(entry.arrival);
            self.log.came(arrival, Arc::clone(relay));
            if let Some(listed) = self.usable.get_mut(entry.slot) {
                *listed = Arc::clone(relay);
            }
            if let Some(place) = self.places.get_mut(&(region::prefix(&relay.position().0), hint)) {
                place.relay = Arc::clone(relay);
            }
        } else {
            self.pending.remove(&entry.arrival);
            self.pending.insert(arrival, relay.node());
        }
        entry.arrival = arrival;
        (entry.tag, entry.fresh) = (relay.digest_part(), relay.published());
        let old = core::mem::replace(&mut entry.relay, Arc::clone(relay));
        let usable = entry.usable;
        let (was, is) = (old.receipts(), relay.receipts());
        let lacks = |list: &[Receipt], r: &Receipt| list.iter().all(|other| other.witness != r.witness);
        for gone in was.iter().filter(|r| lacks(is, r)) {
            self.receipts.remove(&(hint_id(&gone.witness), hint));
        }
        for new in is.iter().filter(|r| lacks(was, r)) {
            self.receipts.insert((hint_id(&new.witness), hint));
        }
        if usable && !same {
            self.digest ^= old.digest_part() ^ relay.digest_part();
        }
        true
    }

    /// Removes a relay.
    pub fn remove(&mut self, node: &NodeId) {
        let before = self.needed();
        self.take_out(node);
        self.resettle_if_changed(before);
    }

    fn take_out(&mut self, node: &NodeId) {
        self.retire(node);
        let Some(entry) = self.entries.remove(node) else { return };
        self.pending.remove(&entry.arrival);
        for receipt in entry.relay.receipts() {
            self.receipts.remove(&(hint_id(&receipt.witness), entry.relay.hint_id()));
        }
        self.strike(&entry.standing, entry.relay.group());
    }

    /// Removes what expired; returns how many. Linear: call it every few minutes.
    pub fn expire(&mut self, now: Wall) -> usize {
        let over = |at: Wall| at.plus(limits::SKEW_MAX_SECS) <= now;
        self.faces.retain(|_, faces| !over(faces.until()));
        let dead: Vec<NodeId> = self.entries.values().filter(|e| over(e.relay.expires())).map(|e| e.relay.node()).collect();
        for node in &dead {
            self.remove(node);
        }
        let gone: Vec<(u128, u64)> = self
            .places
            .iter()
            .filter(|(key, p)| p.kind == PlaceKind::Former && !former_places(&p.relay, now).contains(&key.0))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.places.remove(&key);
        }
        dead.len()
    }

    /// A relay, usable or not.
    pub fn entry(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    /// A usable relay.
    pub fn get(&self, node: &NodeId) -> Option<&Arc<Verified>> {
        self.entries.get(node).filter(|e| e.usable).map(|e| &e.relay)
    }

    /// The entry whose id starts with these 8 bytes.
    pub fn by_hint(&self, hint: u64) -> Option<&Entry> {
        let (node, entry) = self.entries.range(lowest(hint)..).next()?;
        (hint_id(node) == hint).then_some(entry)
    }

    /// All entries, by identity.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// All usable relays, in no order that means anything (but the same for equal runs).
    pub fn usable(&self) -> &[Arc<Verified>] {
        &self.usable
    }

    /// A usable relay. Every /24 (of IPv6 alone, every /32) has the same chance, however many relays it has: so it is in paths, and
    /// so it is for whom a relay asks, checks, and keeps links to (T29, T31).
    pub fn random(&self, rng: &mut dyn CryptoRng) -> Option<&Arc<Verified>> {
        let mut best: Option<(u32, &Arc<Verified>)> = None;
        for _ in 0..DRAWS {
            let slot = (!self.usable.is_empty()).then(|| rng.random_range(0..self.usable.len()))?;
            let relay = self.usable.get(slot)?;
            let many = self.in_prefix(&relay.prefix());
            if many <= 1 || rng.random_range(0..many) == 0 {
                return Some(relay);
            }
            best = best.filter(|(fewer, _)| *fewer <= many).or(Some((many, relay)));
        }
        best.map(|(_, relay)| relay)
    }

    /// Up to `max` relays that no receipts connect with us, oldest first.
    pub fn strangers(&self, max: usize) -> impl Iterator<Item = &Arc<Verified>> {
        self.pending
            .values()
            .take(max)
            .filter_map(|n| self.entries.get(n))
            .filter(|e| !e.standing.seen && e.failing().is_none() && self.in_reach(&e.relay))
            .map(|e| &e.relay)
    }

    /// Relays by distance to a place, nearest first. Yields former places too.
    pub fn walk(&self, key: &[u8; 32]) -> Walk<'_> {
        Walk::new(&self.places, region::prefix(key))
    }

    /// Up to `max` relays that are known and not usable, from a random arrival on: in a small network they may wait for each
    /// other's receipts.
    pub fn pending_from(&self, start: u64, max: usize) -> impl Iterator<Item = &Arc<Verified>> {
        let nodes = self.pending.range(start..).chain(self.pending.range(..start)).map(|(_, node)| node);
        nodes
            .take(max)
            .filter_map(|node| self.entries.get(node))
            .filter(|e| e.failing().is_none() && self.in_reach(&e.relay))
            .map(|entry| &entry.relay)
    }

    /// The usable relays nearest to a place, nearest first. Fewer are found where others crowd that do not count.
    pub fn near<'a>(&'a self, key: &[u8; 32], max: usize) -> impl Iterator<Item = &'a Arc<Verified>> + use<'a> {
        self.nearest(key, max, |_| true)
    }

    /// Up to `max` usable relays near a place, of each /24 (of IPv6 alone, each /32) the nearest, as long as there are enough: who
    /// crowds there gets no more of what is asked or told than anybody else (T29).
    pub fn near_apart(&self, key: &[u8; 32], max: usize) -> Vec<&Arc<Verified>> {
        let (mut met, mut apart, mut others) = (BTreeSet::new(), Vec::with_capacity(max), Vec::new());
        for relay in self.near(key, max.saturating_mul(WALK)) {
            if apart.len() >= max {
                break;
            }
            if met.insert(relay.prefix()) { apart.push(relay) } else { others.push(relay) }
        }
        let missing = max.saturating_sub(apart.len());
        apart.extend(others.into_iter().take(missing));
        apart
    }

    /// The nearest of those with IPv4, which every relay can dial: what a client is shown of a view, to see whether it knows as much.
    /// Relays with IPv6 alone are known to some and not to others, without anything being hidden.
    pub fn near_ip4<'a>(&'a self, key: &[u8; 32], max: usize) -> impl Iterator<Item = &'a Arc<Verified>> + use<'a> {
        self.nearest(key, max, |r| !r.is_ip6())
    }

    fn nearest<'a>(
        &'a self,
        key: &[u8; 32],
        max: usize,
        counts: fn(&Verified) -> bool,
    ) -> impl Iterator<Item = &'a Arc<Verified>> + use<'a> {
        let places = self.walk(key).take(max.saturating_mul(WALK));
        places.filter(move |(_, p)| p.kind != PlaceKind::Former && counts(&p.relay)).take(max).map(|(_, p)| &p.relay)
    }

    /// Usable relays whose first address gives this position.
    pub fn at(&self, position: &Position) -> impl Iterator<Item = &Arc<Verified>> {
        let place = region::prefix(&position.0);
        self.places.range((place, 0)..=(place, u64::MAX)).filter(|(_, p)| p.kind != PlaceKind::Former).map(|(_, p)| &p.relay)
    }

    /// Numbers.
    pub fn counts(&self) -> Counts {
        Counts { relays: self.usable.len(), hosts: self.hosts, groups: self.groups.len(), pending: self.pending.len() }
    }

    /// Hosts, counting at most two of one /24: what regions are sized by (D10).
    pub const fn hosts_capped(&self) -> usize {
        self.hosts_capped
    }

    /// Groups of usable relays, in order.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.keys()
    }

    /// How many prefixes usable relays are of.
    pub fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// How many usable relays a prefix has.
    pub fn in_prefix(&self, prefix: &Prefix) -> u32 {
        self.prefixes.get(prefix).copied().unwrap_or(0)
    }

    /// How many usable relays a group has.
    pub fn in_group(&self, group: &Group) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    /// A digest of the usable relays: equal for equal views.
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The number of the newest arrival.
    pub const fn newest(&self) -> u64 {
        self.log.newest()
    }

    /// All usable relays in the order of their coming, at most `max` of them, and where to go on.
    pub fn listed(&self, max: usize) -> Changes<'_> {
        self.log.all(max)
    }

    /// What changed of that since, at most `max` of it. `None` if that lies so far back that it is not known any more.
    pub fn changes(&self, since: Mark, max: usize) -> Option<Changes<'_>> {
        self.log.since(since, max)
    }

    /// Asserts the invariants; for tests and fuzzing.
    #[doc(hidden)]
    pub fn check(&self) {
        let arrived = |relay: &Arc<Verified>| (self.entries[&relay.node()].arrival, Arc::clone(relay));
        self.log.check(&self.usable.iter().map(arrived).collect::<Vec<_>>());
        assert_eq!(self.usable.len() + self.pending.len(), self.entries.len());
        assert!(self.pending.len() <= limits::VIEW_PENDING_MAX && self.usable.len() <= self.max);
        let mut hosts = 0;
        for (i, relay) in self.usable.iter().enumerate() {
            let entry = &self.entries[&relay.node()];
            assert!(entry.usable && entry.slot == i);
            assert_eq!((entry.tag, entry.fresh), (relay.digest_part(), relay.published()));
            assert_eq!((entry.group, entry.prefix), (relay.group(), relay.prefix()));
            hosts += usize::from(entry.host);
            assert!(self.places.contains_key(&(region::prefix(&relay.position().0), relay.hint_id())));
        }
        assert_eq!(hosts, self.hosts);
        assert_eq!(self.prefixes.values().sum::<u32>() as usize, self.usable.len());
        let capped: usize = self.host_prefixes.values().map(|n| limits::REGION_PER_PREFIX.min(*n as usize)).sum();
        assert_eq!(capped, self.hosts_capped);
        let places = self.places.values().filter(|p| p.kind != PlaceKind::Former).count();
        assert_eq!(places, self.usable.len());
        assert_eq!(self.usable.iter().fold(0, |all, r| all ^ r.digest_part()), self.digest);
        assert!(self.faces.keys().all(|node| !self.entries.contains_key(node)));
        assert_eq!(self.seen_groups.values().sum::<u32>() as usize, self.entries.values().filter(|e| e.standing.seen).count());
        for Entry { standing, usable, .. } in self.entries.values() {
            assert!(!(standing.doubted && (standing.seen || standing.proven)) && (standing.seen || !usable));
            assert!(!standing.proven || (standing.answered.is_some() && standing.root.is_none()));
        }
        let all = |is: fn(&Standing) -> bool| self.entries.values().filter(|e| is(&e.standing)).count();
        assert_eq!((self.seen, self.proven), (all(|s| s.seen), all(|s| s.proven)));
        assert_eq!(self.leads.values().sum::<usize>(), all(|s| s.root.is_some()));
        self.marks.check();
    }
}

/// The lowest id that starts with these 8 bytes.
fn lowest(hint: u64) -> NodeId {
    let mut low = [0; 32];
    for (to, byte) in low.iter_mut().zip(hint.to_be_bytes()) {
        *to = byte;
    }
    NodeId(low)
}

fn drop_count<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(n) = counts.get_mut(&key) {
        *n = n.saturating_sub(1);
        if *n == 0 {
            counts.remove(&key);
        }
    }
}

/// Rank in the sample of a view that is full: other bytes of the position than those that order places.
const fn rank(position: &Position) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = position.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Places of former addresses that still count at `now`. The relay says so itself; readers ask there last (region.rs).
fn former_places(relay: &Verified, now: Wall) -> Vec<u128> {
    relay.former().iter().filter(|(_, until)| *until > now).map(|(p, _)| region::prefix(&p.0)).collect()
}

#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
