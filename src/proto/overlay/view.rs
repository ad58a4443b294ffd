//! The view: every usable relay that this node knows (D8), and which of them host (D9).
//!
//! *Seen* means that dial-back receipts connect the relay, over any number of others, with a relay that this node dialled itself: the
//! witness spoke with its subject, and the subject with its witness, so a receipt connects both ways. *Usable* means seen, with
//! receipts of enough seen witnesses in distinct groups: three, or as many as there are groups beside one. A *host* is a usable relay that
//! says so, on IPv4, whose receipts show its address unchanged for a day. All of it follows from descriptors alone, so views of different
//! nodes agree as soon as they hold the same descriptors.

use crate::base::NodeId;
use crate::base::Position;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::record::hint_id;
use crate::proto::overlay::region;
use crate::proto::overlay::region::Walk;
use crate::wire::overlay::Digest;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use rand::CryptoRng;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most subjects of one witness that are looked at when it becomes seen, or to find it seen.
const SUBJECTS_MAX: usize = 1024;

/// What became of a descriptor that was offered to the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// A relay that was not known.
    New,
    /// A newer descriptor of a known relay.
    Newer,
    /// Known already, or older than what is known.
    Known,
    /// Expired, or from the future, by more than the accepted skew.
    Time,
    /// An address that this network does not allow.
    Address,
    /// The view is full, and this relay is not of the sample.
    Full,
}

/// One relay of the view.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its newest descriptor.
    pub relay: Arc<Verified>,
    /// Whether paths and regions may use it.
    pub usable: bool,
    /// Whether it hosts shares.
    pub host: bool,
    /// Whether receipts connect it with a relay we dialled.
    seen: bool,
    /// Whether we dialled it ourselves at its first address.
    proven: bool,
    arrival: u64,
    /// Index in the list of usable relays.
    slot: usize,
}

impl Entry {
    /// Whether a witness more that is seen could make more of it.
    fn may_gain(&self) -> bool {
        !self.seen || !self.usable || (!self.host && self.relay.descriptor().host_key.is_some())
    }
}

/// A relay at its place in the key space.
#[derive(Clone, Debug)]
pub struct Place {
    /// The relay.
    pub relay: Arc<Verified>,
    /// What it does at this place.
    pub kind: PlaceKind,
}

/// What a relay does at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    /// Only carries circuits.
    Carrier,
    /// Hosts shares.
    Host,
    /// Hosted here until it moved; still serves for some days.
    Former,
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
/// `usable` holds exactly the entries marked so, each at its `slot`; `places` holds each of them once (and its former places); `log` holds
/// each usable entry once, `pending` every other; counters agree with the entries. Checked by [`View::check`].
#[derive(Debug)]
pub struct View {
    local: bool,
    entries: BTreeMap<NodeId, Entry>,
    usable: Vec<Arc<Verified>>,
    places: Places,
    /// Usable relays by the number of their arrival (or last change).
    log: BTreeMap<u64, Arc<Verified>>,
    /// Not usable relays by arrival.
    pending: BTreeMap<u64, NodeId>,
    /// Every receipt of every entry, as (witness, subject) hints: a witness that becomes seen makes its subjects seen.
    receipts: BTreeSet<(u64, u64)>,
    arrivals: u64,
    seen_groups: BTreeMap<Group, u32>,
    groups: BTreeMap<Group, u32>,
    prefixes: BTreeMap<Prefix, u32>,
    host_prefixes: BTreeMap<Prefix, u32>,
    hosts: usize,
    hosts_capped: usize,
    digest: Digest,
    /// When full: relays whose sample rank is above are not taken.
    rank_ceiling: u64,
    max: usize,
}

impl View {
    /// An empty view. `local` lifts the waiting time of hosts and accepts special addresses (`--local-network`).
    pub const fn new(local: bool) -> Self {
        Self {
            local,
            entries: BTreeMap::new(),
            usable: Vec::new(),
            places: BTreeMap::new(),
            log: BTreeMap::new(),
            pending: BTreeMap::new(),
            receipts: BTreeSet::new(),
            arrivals: 0,
            seen_groups: BTreeMap::new(),
            groups: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            host_prefixes: BTreeMap::new(),
            hosts: 0,
            hosts_capped: 0,
            digest: Digest { counts: [0; 16], sums: [0; 16] },
            rank_ceiling: u64::MAX,
            max: limits::VIEW_MAX,
        }
    }

    /// Whether this is a local network.
    pub const fn is_local(&self) -> bool {
        self.local
    }

    /// Offers a descriptor. The newest sequence number wins; of two with one number, the one with the smaller hash, everywhere.
    pub fn insert(&mut self, relay: Arc<Verified>, now: Wall) -> Inserted {
        let d = relay.descriptor();
        if d.expires.plus(limits::SKEW_MAX_SECS) <= now || d.published > now.plus(limits::SKEW_MAX_SECS) {
            return Inserted::Time;
        }
        if !self.local && !d.addrs.iter().all(net::is_public) {
            return Inserted::Address;
        }
        let node = d.node;
        let before = self.needed();
        let (mut proven, mut seen, mut outcome) = (false, false, Inserted::New);
        if let Some(old) = self.entries.get(&node) {
            let order = |r: &'_ Verified| (r.descriptor().seq, core::cmp::Reverse(*r.digest()));
            if order(&relay) <= order(&old.relay) {
                return Inserted::Known;
            }
            let same_place = old.relay.addr() == relay.addr();
            (proven, seen) = (old.proven && same_place, old.seen && same_place);
            outcome = Inserted::Newer;
        } else if rank(&relay.position()) > self.rank_ceiling {
            return Inserted::Full;
        }
        if self.renew(&relay) {
            self.settle(node, before);
            return outcome;
        }
        self.take_out(&node);
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.pending.insert(arrival, node);
        self.receipts.extend(relay.descriptor().receipts.iter().map(|r| (hint_id(&r.witness), relay.hint_id())));
        if seen {
            *self.seen_groups.entry(relay.group()).or_insert(0) += 1;
        }
        self.entries.insert(node, Entry { relay, usable: false, host: false, seen, proven, arrival, slot: 0 });
        self.settle(node, before);
        self.bound();
        if self.entries.contains_key(&node) { outcome } else { Inserted::Full }
    }

    /// Takes a newer descriptor of a usable relay that stayed where it was, the usual news: it keeps its places, and gets a new number, so
    /// that those who asked before hear of it. False: it is none of that kind.
    fn renew(&mut self, relay: &Arc<Verified>) -> bool {
        let Some(entry) = self.entries.get_mut(&relay.node()).filter(|e| e.usable) else { return false };
        if entry.relay.addr() != relay.addr() || !entry.relay.former().is_empty() || !relay.former().is_empty() {
            return false;
        }
        self.arrivals += 1;
        self.log.remove(&entry.arrival);
        self.log.insert(self.arrivals, Arc::clone(relay));
        entry.arrival = self.arrivals;
        if let Some(listed) = self.usable.get_mut(entry.slot) {
            *listed = Arc::clone(relay);
        }
        let hint = relay.hint_id();
        if let Some(place) = self.places.get_mut(&(region::prefix(&relay.position().0), hint)) {
            place.relay = Arc::clone(relay);
        }
        let old = core::mem::replace(&mut entry.relay, Arc::clone(relay));
        let (was, is) = (&old.descriptor().receipts, &relay.descriptor().receipts);
        let lacks = |list: &[Receipt], r: &Receipt| list.iter().all(|other| other.witness != r.witness);
        for gone in was.iter().filter(|r| lacks(is, r)) {
            self.receipts.remove(&(hint_id(&gone.witness), hint));
        }
        for new in is.iter().filter(|r| lacks(was, r)) {
            self.receipts.insert((hint_id(&new.witness), hint));
        }
        self.digest_toggle(&old, false);
        self.digest_toggle(relay, true);
        true
    }

    /// Notes that we dialled this relay at this address and it proved its identity: our own evidence, from which receipts lead on.
    pub fn prove(&mut self, node: &NodeId, addr: &SocketAddr) {
        if let Some(entry) = self.entries.get_mut(node)
            && entry.relay.addr() == *addr
            && !entry.proven
        {
            entry.proven = true;
            let before = self.needed();
            self.settle(*node, before);
        }
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
        for receipt in &entry.relay.descriptor().receipts {
            self.receipts.remove(&(hint_id(&receipt.witness), entry.relay.hint_id()));
        }
        if entry.seen {
            drop_count(&mut self.seen_groups, entry.relay.group());
        }
    }

    /// Removes what expired; returns how many. Linear: call it every few minutes.
    pub fn expire(&mut self, now: Wall) -> usize {
        let dead: Vec<NodeId> = self
            .entries
            .values()
            .filter(|e| e.relay.descriptor().expires.plus(limits::SKEW_MAX_SECS) <= now)
            .map(|e| e.relay.node())
            .collect();
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
        let mut low = [0; 32];
        for (to, byte) in low.iter_mut().zip(hint.to_be_bytes()) {
            *to = byte;
        }
        let (node, entry) = self.entries.range(NodeId(low)..).next()?;
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

    /// A usable relay, each with the same chance.
    pub fn random(&self, rng: &mut dyn CryptoRng) -> Option<&Arc<Verified>> {
        if self.usable.is_empty() { None } else { self.usable.get(rng.random_range(0..self.usable.len())) }
    }

    /// Up to `max` relays that no receipts connect with us, oldest first.
    pub fn strangers(&self, max: usize) -> impl Iterator<Item = &Arc<Verified>> {
        self.pending.values().take(max).filter_map(|n| self.entries.get(n)).filter(|e| !e.seen).map(|e| &e.relay)
    }

    /// Relays by distance to a place, nearest first. Yields former places too.
    pub fn walk(&self, key: &[u8; 32]) -> Walk<'_> {
        Walk::new(&self.places, region::prefix(key))
    }

    /// Up to `max` relays that are known and not usable, from a random arrival on: in a small network they may wait for each other's receipts.
    pub fn pending_from(&self, start: u64, max: usize) -> impl Iterator<Item = &Arc<Verified>> {
        let nodes = self.pending.range(start..).chain(self.pending.range(..start)).map(|(_, node)| node);
        nodes.take(max).filter_map(|node| self.entries.get(node)).map(|entry| &entry.relay)
    }

    /// The usable relays nearest to a place.
    pub fn near(&self, key: &[u8; 32], max: usize) -> Vec<Arc<Verified>> {
        self.walk(key).filter(|(_, p)| p.kind != PlaceKind::Former).take(max).map(|(_, p)| Arc::clone(&p.relay)).collect()
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

    /// How many usable relays a prefix has.
    pub fn in_prefix(&self, prefix: &Prefix) -> u32 {
        self.prefixes.get(prefix).copied().unwrap_or(0)
    }

    /// How many usable relays a group has.
    pub fn in_group(&self, group: &Group) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    /// The digest of the usable relays, for cross-checks.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of the newest arrival.
    pub const fn newest(&self) -> u64 {
        self.arrivals
    }

    /// Up to `max` usable relays that arrived or changed after `number`, oldest first, each with its number.
    pub fn arrivals(&self, number: u64, max: usize) -> impl Iterator<Item = (u64, &Arc<Verified>)> {
        self.log.range((core::ops::Bound::Excluded(number), core::ops::Bound::Unbounded)).take(max).map(|(n, r)| (*n, r))
    }

    /// How many witnesses in distinct groups make a relay usable in a network as large as this view.
    pub fn needed(&self) -> usize {
        limits::RECEIPTS_NEEDED.min(self.seen_groups.len().saturating_sub(1))
    }

    /// Decides anew about a relay and, if it became seen, about its subjects and witnesses. Bounded: a descriptor becomes seen once.
    fn settle(&mut self, node: NodeId, before: usize) {
        let mut work = vec![node];
        while let Some(node) = work.pop() {
            if self.judge(&node) {
                let hint = hint_id(&node);
                // Those that are all they can be gain nothing by it. The bound keeps a crowd around one witness from costing more with
                // each descriptor of it (T36); who is left out is decided about when its own next descriptor comes.
                work.extend(self.subjects(hint).take(SUBJECTS_MAX).filter(|e| e.may_gain()).map(|e| e.relay.node()));
                let witnesses = self.entries.get(&node).into_iter().flat_map(|e| counting(&e.relay)).map(|r| r.witness);
                work.extend(witnesses.filter(|w| self.entries.get(w).is_some_and(|e| !e.seen)));
            }
        }
        self.resettle_if_changed(before);
    }

    /// Entries with a receipt of this witness.
    fn subjects(&self, witness: u64) -> impl Iterator<Item = &Entry> {
        self.receipts.range((witness, 0)..=(witness, u64::MAX)).filter_map(|(_, subject)| self.by_hint(*subject))
    }

    /// The number of needed receipts changes a handful of times in a network's life; then everything is decided anew.
    fn resettle_if_changed(&mut self, before: usize) {
        if self.needed() != before {
            let all: Vec<NodeId> = self.entries.keys().copied().collect();
            for node in all {
                self.judge(&node);
            }
        }
    }

    /// Decides about one relay. True if it just became seen.
    fn judge(&mut self, node: &NodeId) -> bool {
        let Some(entry) = self.entries.get(node) else { return false };
        let relay = Arc::clone(&entry.relay);
        let d = relay.descriptor();
        let own = relay.group();
        let (mut witnesses, mut old): (Vec<Group>, Vec<Group>) = (Vec::new(), Vec::new());
        let mut connected = false;
        for receipt in counting(&relay) {
            let Some(witness) = self.entries.get(&receipt.witness).filter(|w| w.seen) else { continue };
            connected = true;
            let group = witness.relay.group();
            if group != own && !witnesses.contains(&group) {
                witnesses.push(group);
            }
            if group != own && !old.contains(&group) && receipt.day.saturating_add(2) <= d.published.day() {
                old.push(group);
            }
        }
        let vouched = |e: &Entry| e.seen && counting(&e.relay).any(|r| r.witness == d.node);
        let seen = entry.seen || entry.proven || connected || self.subjects(relay.hint_id()).take(SUBJECTS_MAX).any(vouched);
        let became_seen = seen && !entry.seen;
        if became_seen {
            *self.seen_groups.entry(own).or_insert(0) += 1;
        }
        let needed = self.needed();
        let usable = d.carries && seen && witnesses.len() >= needed;
        // One backdated receipt must not make a host: two of three.
        let settled = self.local || old.len() >= needed.min(2);
        let host = usable && d.host_key.is_some() && net::may_host(&relay.addr()) && settled;
        if let Some(entry) = self.entries.get_mut(node) {
            entry.seen = seen;
        }
        self.mark(node, usable, host);
        became_seen
    }

    /// Brings all indexes in line with the decision.
    fn mark(&mut self, node: &NodeId, usable: bool, host: bool) {
        let Some(entry) = self.entries.get(node) else { return };
        if (entry.usable, entry.host) == (usable, host) {
            return;
        }
        self.retire(node);
        if !usable {
            return;
        }
        let Some(entry) = self.entries.get_mut(node) else { return };
        self.pending.remove(&entry.arrival);
        // A new number, so that those who asked before hear of it.
        self.arrivals += 1;
        entry.arrival = self.arrivals;
        entry.usable = true;
        entry.host = host;
        entry.slot = self.usable.len();
        let relay = Arc::clone(&entry.relay);
        self.log.insert(entry.arrival, Arc::clone(&relay));
        self.usable.push(Arc::clone(&relay));
        let kind = if host { PlaceKind::Host } else { PlaceKind::Carrier };
        let hint = relay.hint_id();
        self.places.insert((region::prefix(&relay.position().0), hint), Place { relay: Arc::clone(&relay), kind });
        if host {
            for place in former_places(&relay, relay.descriptor().published) {
                self.places.entry((place, hint)).or_insert_with(|| Place { relay: Arc::clone(&relay), kind: PlaceKind::Former });
            }
            let n = self.host_prefixes.entry(relay.prefix()).or_insert(0);
            *n += 1;
            self.hosts += 1;
            self.hosts_capped += usize::from(*n as usize <= limits::REGION_PER_PREFIX);
        }
        *self.groups.entry(relay.group()).or_insert(0) += 1;
        *self.prefixes.entry(relay.prefix()).or_insert(0) += 1;
        self.digest_toggle(&relay, true);
    }

    /// Takes a usable relay out of all indexes; its entry stays, as pending.
    fn retire(&mut self, node: &NodeId) {
        let Some(entry) = self.entries.get_mut(node).filter(|e| e.usable) else { return };
        let (relay, slot, host, arrival) = (Arc::clone(&entry.relay), entry.slot, entry.host, entry.arrival);
        entry.usable = false;
        entry.host = false;
        self.log.remove(&arrival);
        self.pending.insert(arrival, *node);
        self.usable.swap_remove(slot);
        if let Some(moved) = self.usable.get(slot).map(|r| r.node())
            && let Some(entry) = self.entries.get_mut(&moved)
        {
            entry.slot = slot;
        }
        let hint = relay.hint_id();
        self.places.remove(&(region::prefix(&relay.position().0), hint));
        for place in former_places(&relay, Wall(0)) {
            self.places.remove(&(place, hint));
        }
        if host {
            if let Some(n) = self.host_prefixes.get(&relay.prefix()) {
                self.hosts_capped -= usize::from(*n as usize <= limits::REGION_PER_PREFIX);
            }
            drop_count(&mut self.host_prefixes, relay.prefix());
            self.hosts -= 1;
        }
        drop_count(&mut self.groups, relay.group());
        drop_count(&mut self.prefixes, relay.prefix());
        self.digest_toggle(&relay, false);
    }

    fn digest_toggle(&mut self, relay: &Verified, add: bool) {
        let bucket = usize::from(relay.position().0[0] >> 4);
        let [a, b, c, d, e, f, g, h, ..] = kdf::hash(Label::ViewDigest, &[&relay.node().0, &relay.descriptor().seq.to_be_bytes()]);
        self.digest.sums[bucket] ^= u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let count = &mut self.digest.counts[bucket];
        *count = if add { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Keeps the view within its caps: of what is not usable the oldest goes; of usable relays the same sample stays everywhere, by a rank
    /// that follows from the position and so cannot be chosen freely.
    fn bound(&mut self) {
        while self.pending.len() > limits::VIEW_PENDING_MAX {
            // Those that a chain leads to stay longest: others may wait for their receipts.
            let unseen = |node: &&NodeId| self.entries.get(*node).is_none_or(|e| !e.seen);
            let oldest = self.pending.values().take(64).find(unseen).or_else(|| self.pending.values().next());
            let Some(node) = oldest.copied() else { break };
            self.remove(&node);
        }
        if self.usable.len() > self.max {
            let mut ranks: Vec<u64> = self.usable.iter().map(|r| rank(&r.position())).collect();
            ranks.sort_unstable();
            self.rank_ceiling = ranks.get(self.max - self.max / 20).copied().unwrap_or(u64::MAX);
            let over: Vec<NodeId> =
                self.usable.iter().filter(|r| rank(&r.position()) > self.rank_ceiling).map(|r| r.node()).collect();
            for node in over {
                self.remove(&node);
            }
        } else if self.usable.len() < self.max - self.max / 10 {
            self.rank_ceiling = u64::MAX;
        }
    }

    /// Asserts the invariants; for tests and fuzzing.
    #[doc(hidden)]
    pub fn check(&self) {
        assert_eq!(self.usable.len(), self.log.len());
        assert_eq!(self.usable.len() + self.pending.len(), self.entries.len());
        assert!(self.pending.len() <= limits::VIEW_PENDING_MAX && self.usable.len() <= self.max);
        let mut hosts = 0;
        for (i, relay) in self.usable.iter().enumerate() {
            let entry = &self.entries[&relay.node()];
            assert!(entry.usable && entry.slot == i && self.log.contains_key(&entry.arrival));
            hosts += usize::from(entry.host);
            assert!(self.places.contains_key(&(region::prefix(&relay.position().0), relay.hint_id())));
        }
        assert_eq!(hosts, self.hosts);
        assert_eq!(self.prefixes.values().sum::<u32>() as usize, self.usable.len());
        let capped: usize = self.host_prefixes.values().map(|n| limits::REGION_PER_PREFIX.min(*n as usize)).sum();
        assert_eq!(capped, self.hosts_capped);
        let places = self.places.values().filter(|p| p.kind != PlaceKind::Former).count();
        assert_eq!(places, self.usable.len());
        assert_eq!(self.digest.counts.iter().sum::<u32>() as usize, self.usable.len());
        assert_eq!(self.seen_groups.values().sum::<u32>() as usize, self.entries.values().filter(|e| e.seen).count());
    }
}

/// The receipts of a relay that count: fresh when it was described, for its first address, and not its own.
fn counting(relay: &Verified) -> impl Iterator<Item = &Receipt> {
    let d = relay.descriptor();
    let today = d.published.day();
    d.receipts.iter().filter(move |r| {
        let fresh = r.day.saturating_add(limits::RECEIPT_LIFE_DAYS) >= today && r.day <= today.saturating_add(1);
        fresh && r.addr == relay.addr() && r.witness != d.node
    })
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
#[path = "view_tests.rs"]
mod tests;
