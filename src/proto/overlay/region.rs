//! Positions (D9) and regions (D10): which hosts hold the shares of a key, computed from the own view alone.
//!
//! Distances are XOR distances over the first 16 bytes. A region holds *every* host inside a radius that is expected to hold 24,
//! not the k closest: identities crowded next to a key add to the region and push nobody out (T22).
//!
//! Address groups take turns: whoever writes or reads goes through one host of each /16, then through a second one of each, and so
//! on, by chance within a turn and not by distance, which addresses can be chosen for. In an ordinary region that decides only who
//! is asked first. In a crowded one it decides who is reached at all, and a crowd has to be as wide as it is large.
//!
//! A ring around the region, as wide again, is for what is not as usual: readers look there when all else failed, and of a crowded
//! region it is a part, for those who do not expect a crowd are more in twice the space, and in twice as many /16s.

use crate::base::Address;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Position;
use crate::base::limits;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Place;
use crate::proto::overlay::view::PlaceKind;
use crate::proto::overlay::view::Places;
use crate::proto::overlay::view::View;
use core::net::IpAddr;
use core::net::SocketAddr;
use rand::CryptoRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Slots of a prefix: places that the addresses of one /24 can take.
const SLOTS: u8 = 8;
/// Most hosts of one region: far more than anyone asks, a bound for the memory that a crowd takes. Beyond, groups take turns.
const MEMBERS_MAX: usize = 4096;
/// How far the ring around a region goes. What was stored when the network was smaller, or while fewer hosts stood near the key,
/// lies there: newcomers make regions narrower. Hosts take shares from twice as far.
const RING_RADII: u128 = 2;
/// Most hosts at former addresses that a reader asks in the end.
const FORMER_MAX: usize = 24;
/// Shares of a chunk that fit a host, for each one that it keeps. With one, of 24 shares only 20 would find a place at 21 hosts; with
/// two 23.5. Where three tenths of all hosts squat and deny it, one chunk in nine is refused at first; with three it would be half.
const CHOICE: usize = 2;
/// Hosts of a region for each one that a writer leaves out, so that small networks keep enough.
const MEMBERS_PER_LEFT_OUT: usize = 8;

/// The position of an address: hash(network, /24 or /48, slot), slot = hash(full address) mod 8. The port does not count.
pub fn position(net: &NetworkId, addr: &SocketAddr) -> Position {
    let ip = match addr.ip().to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let [slot, ..] = kdf::hash(Label::PositionSlot, &[&net.0, &ip]);
    Position(kdf::hash(Label::Position, &[&net.0, &Prefix::of(addr).0, &[slot % SLOTS]]))
}

/// The part of a key that distances are measured on.
pub fn prefix(key: &[u8; 32]) -> u128 {
    let mut head = [0; 16];
    head.copy_from_slice(key.first_chunk::<16>().unwrap_or(&[0; 16]));
    u128::from_be_bytes(head)
}

/// XOR distance of two keys.
pub fn distance(a: &[u8; 32], b: &[u8; 32]) -> u128 {
    prefix(a) ^ prefix(b)
}

/// `24 / N` of the whole space, with N rounded to a power of the square root of two, so that views that differ a little agree.
pub fn radius_for(hosts: usize) -> u128 {
    if hosts <= limits::REGION_EVERYONE {
        return u128::MAX;
    }
    let n = (hosts as u128).min(1 << 31);
    let half_powers = n.pow(4).ilog2().div_ceil(2);
    let (h, odd) = (half_powers / 2, half_powers % 2 == 1);
    // 2^64 divided by the square root of two, for the odd half power.
    let unit: u128 = if odd { 0xb504_f333_f9de_6484 } else { 1 << 64 };
    (unit * limits::REGION_TARGET as u128) << (64 - h)
}

/// Most shares of one chunk that a host keeps (D11).
pub fn shares_kept(region_size: usize) -> usize {
    2usize.max(48usize.div_ceil(region_size.max(1)))
}

/// Which shares of a chunk a host at this place takes, a bit for each by index: twice as many as it keeps (`kept`), drawn by hash, so
/// nobody chooses them.
///
/// Whoever was given a share can work out the region, and give what he has to all others before the publisher comes to them. Were
/// any share good for any host, two of 24 hosts would fill the places of the rest with the same two (T37). So few of all fit, each
/// host has a choice, and writers find a host for nearly every one.
pub fn takes(address: &Address, position: &Position, kept: usize) -> u32 {
    let drawn = kdf::hash(Label::ShareChoice, &[&address.0, &position.0]);
    let mut order: Vec<(u8, u32)> = drawn.into_iter().zip(0..limits::SHARES_TOTAL as u32).collect();
    order.sort_unstable();
    order.iter().take(kept.saturating_mul(CHOICE)).fold(0, |all, (_, index)| all | 1 << index)
}

/// Places by XOR distance from a key, nearest first. Each step costs a logarithm plus its part of a sort; nothing beyond what is
/// taken from it (and the rest of the last bucket) is touched.
pub struct Walk<'a> {
    places: &'a Places,
    key: u128,
    /// Common leading bits of the next bucket; `None` when all are done.
    level: Option<u32>,
    /// The current bucket, farthest first.
    batch: Vec<(u128, u64, &'a Place)>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(places: &'a Places, key: u128) -> Self {
        let before = places.range(..(key, 0)).next_back().map(|((p, _), _)| *p);
        let after = places.range((key, 0)..).next().map(|((p, _), _)| *p);
        let level = before.into_iter().chain(after).map(|p| (p ^ key).leading_zeros()).max();
        Self { places, key, level, batch: Vec::new() }
    }

    fn fill(&mut self) -> Option<()> {
        while self.batch.is_empty() {
            let level = self.level?;
            self.level = level.checked_sub(1);
            // All keys that share `level` leading bits with ours and differ in the next.
            let (low, high) = match 127u32.checked_sub(level) {
                None => (self.key, self.key),
                Some(bit) => {
                    let rest = (1u128 << bit) - 1;
                    let low = (self.key ^ (1 << bit)) & !rest;
                    (low, low | rest)
                }
            };
            let bucket = self.places.range((low, 0)..=(high, u64::MAX));
            self.batch.extend(bucket.map(|((p, hint), place)| (p ^ self.key, *hint, place)));
            // Places of one distance are ordered by identity, so that equal views walk equally.
            self.batch.sort_unstable_by_key(|(d, hint, _)| core::cmp::Reverse((*d, *hint)));
        }
        Some(())
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (u128, &'a Place);

    fn next(&mut self) -> Option<Self::Item> {
        self.fill()?;
        self.batch.pop().map(|(d, _, place)| (d, place))
    }
}

/// The region of a key: every host inside the radius.
#[derive(Clone, Debug)]
pub struct Region {
    radius: u128,
    members: Vec<Arc<Verified>>,
    /// Hosts around it.
    ring: Vec<Arc<Verified>>,
    former: Vec<Arc<Verified>>,
}

/// Whom a writer gives shares to.
#[derive(Clone, Debug)]
pub struct WriteList {
    /// In random order, address groups in turn.
    pub hosts: Vec<Arc<Verified>>,
    /// Whether fewer than three could be left out (D15), because the region is too small.
    pub relaxed: bool,
}

/// Whom a reader asks.
#[derive(Clone, Debug)]
pub struct ReadList {
    /// In random order, address groups in turn: the first `READ_FIRST`, then all others. Hosts at former addresses come last.
    pub hosts: Vec<Arc<Verified>>,
    /// Hosts around the region, in the same order: for when those had too little.
    pub around: Vec<Arc<Verified>>,
    /// Hosts in the groups to be skipped: only for networks so small that nothing else is left.
    pub last_resort: Vec<Arc<Verified>>,
}

/// Caps near one key (D10), and one host per address (D9).
#[derive(Default)]
struct Caps {
    prefixes: BTreeMap<Prefix, usize>,
    groups: BTreeMap<Group, usize>,
    addrs: BTreeSet<SocketAddr>,
}

impl Caps {
    /// In a local network several relays may share an address; ports tell them apart.
    fn new_addr(&mut self, relay: &Verified, local: bool) -> bool {
        let addr = relay.addr();
        self.addrs.insert(if local { addr } else { SocketAddr::new(addr.ip(), 0) })
    }

    /// Whether it counts towards the hosts that a region should have.
    fn admit(&mut self, relay: &Verified) -> bool {
        let p = self.prefixes.entry(relay.prefix()).or_insert(0);
        let g = self.groups.entry(relay.group()).or_insert(0);
        let ok = *p < limits::REGION_PER_PREFIX && *g < limits::REGION_PER_GROUP;
        if ok {
            *p += 1;
            *g += 1;
        }
        ok
    }
}

/// Orders hosts so that these groups of them take turns: the first of each, then the second of each, and so on.
fn in_turns<K: Ord>(hosts: &mut Vec<Arc<Verified>>, group: impl Fn(&Verified) -> K) {
    let mut turns: BTreeMap<K, usize> = BTreeMap::new();
    let mut ordered: Vec<(usize, Arc<Verified>)> = Vec::with_capacity(hosts.len());
    for host in hosts.drain(..) {
        let turn = turns.entry(group(&host)).or_insert(0);
        ordered.push((*turn, host));
        *turn += 1;
    }
    ordered.sort_by_key(|(turn, _)| *turn);
    hosts.extend(ordered.into_iter().map(|(_, host)| host));
}

/// The /16s take turns, and within each its /24s.
fn by_turns(hosts: &mut Vec<Arc<Verified>>) {
    in_turns(hosts, Verified::prefix);
    in_turns(hosts, Verified::group);
}

/// No more than a region may hold.
fn bounded(mut hosts: Vec<Arc<Verified>>) -> Vec<Arc<Verified>> {
    if hosts.len() > MEMBERS_MAX {
        by_turns(&mut hosts);
        hosts.truncate(MEMBERS_MAX);
    }
    hosts
}

impl Region {
    /// The region of a key in a view.
    ///
    /// Caps decide how wide it is, not who belongs to it: 24 hosts of which at most two lie in one /24 and three in one /16, so
    /// that a crowd in a few groups makes it neither narrower nor wider. Any other host inside belongs to it as well: who came
    /// later and nearer takes nobody's place.
    pub fn of(view: &View, key: &[u8; 32]) -> Self {
        let base = radius_for(view.hosts_capped());
        let mut caps = Caps::default();
        let (mut members, mut others, mut former) = (Vec::new(), Vec::new(), Vec::new());
        let (mut admitted, mut radius) = (0, base);
        for (d, place) in view.walk(key) {
            let whole = admitted >= limits::REGION_TARGET && d > base;
            if whole && d > radius.saturating_mul(RING_RADII) {
                break;
            }
            match place.kind {
                PlaceKind::Carrier => {}
                PlaceKind::Former => {
                    if former.len() < FORMER_MAX {
                        former.push(Arc::clone(&place.relay));
                    }
                }
                PlaceKind::Host => {
                    if !caps.new_addr(&place.relay, view.is_local()) {
                        continue;
                    }
                    let counts = !whole && caps.admit(&place.relay);
                    if counts {
                        admitted += 1;
                        radius = radius.max(d);
                    }
                    if counts || d <= base { members.push(Arc::clone(&place.relay)) } else { others.push((d, &place.relay)) }
                }
            }
        }
        let missing = limits::REGION_TARGET.saturating_sub(members.len());
        let ring = if admitted >= limits::REGION_TARGET {
            let ring = others.split_off(others.partition_point(|(d, _)| *d <= radius));
            bounded(ring.into_iter().map(|(_, relay)| Arc::clone(relay)).collect())
        } else {
            // A network too small for the caps keeps them as far as it can: the nearest of the others fill up.
            others.truncate(missing);
            Vec::new()
        };
        members.extend(others.into_iter().map(|(_, relay)| Arc::clone(relay)));
        if members.len() < limits::REGION_TARGET {
            radius = u128::MAX;
        }
        let members = bounded(members);
        if !former.is_empty() {
            let inside: BTreeSet<NodeId> = members.iter().chain(&ring).map(|m| m.node()).collect();
            former.retain(|f| !inside.contains(&f.node()));
        }
        Self { radius, members, ring, former }
    }

    /// Its hosts.
    pub fn members(&self) -> &[Arc<Verified>] {
        &self.members
    }

    /// Farthest distance that counts; all ones when everyone belongs to it.
    pub const fn radius(&self) -> u128 {
        self.radius
    }

    /// Whether a relay belongs to the region: last hops must lie outside (D12).
    pub fn contains(&self, node: &NodeId) -> bool {
        self.members.iter().any(|m| m.node() == *node)
    }

    /// Whether more hosts stand near the key than chance brings together: then whom a writer or a reader cannot reach is left out by
    /// turns, and the ring belongs to it.
    pub const fn is_crowded(&self) -> bool {
        self.members.len() > limits::REGION_CROWDED
    }

    /// Those who keep shares: the members, and where they are a crowd the ring as well.
    pub fn keepers(&self) -> impl Iterator<Item = &Arc<Verified>> {
        let ring: &[Arc<Verified>] = if self.is_crowded() { &self.ring } else { &[] };
        self.members.iter().chain(ring)
    }

    /// Every host that keeps shares (where they are a crowd as many as a writer serves, groups in turn) in random order, less three:
    /// all in `guard_groups`, the rest at random (D15).
    pub fn write_list(&self, rng: &mut dyn CryptoRng, guard_groups: &[Group]) -> WriteList {
        let (mut out, mut hosts): (Vec<_>, Vec<_>) =
            self.keepers().cloned().partition(|m| guard_groups.iter().any(|g| m.in_group(g)));
        hosts.shuffle(rng);
        let wanted = limits::WRITE_LEFT_OUT.min(self.members.len() / MEMBERS_PER_LEFT_OUT);
        while out.len() < wanted {
            let Some(host) = hosts.pop() else { break };
            out.push(host);
        }
        by_turns(&mut hosts);
        hosts.truncate(limits::REGION_WRITE_MAX);
        WriteList { hosts, relaxed: out.len() < limits::WRITE_LEFT_OUT }
    }

    /// All hosts that keep shares (where they are a crowd as many as a reader asks) in random order, groups in turn, without those in
    /// the groups to skip; then hosts that moved, for which room is kept.
    pub fn read_list(&self, rng: &mut dyn CryptoRng, skip: &[Group]) -> ReadList {
        let skipped = |m: &&Arc<Verified>| skip.iter().any(|g| m.in_group(g));
        let mut pick = |hosts: &mut Vec<Arc<Verified>>, most: usize| {
            hosts.retain(|m| !skipped(&m));
            hosts.shuffle(rng);
            by_turns(hosts);
            hosts.truncate(most);
        };
        let mut hosts: Vec<_> = self.keepers().cloned().collect();
        pick(&mut hosts, limits::READ_MAX - FORMER_MAX);
        let mut around = if self.is_crowded() { Vec::new() } else { self.ring.clone() };
        pick(&mut around, limits::READ_MAX - FORMER_MAX);
        hosts.extend(self.former.iter().filter(|m| !skipped(m)).cloned());
        let mut last_resort: Vec<_> = self.members.iter().filter(skipped).cloned().collect();
        last_resort.shuffle(rng);
        ReadList { hosts, around, last_resort }
    }
}

/// Whether a host at these positions (its own, and former ones for 7 days) takes shares for this key: inside four radii.
pub fn accepts(view: &View, own: &[Position], key: &[u8; 32]) -> bool {
    let nearest = own.iter().map(|p| distance(&p.0, key)).min();
    let base = radius_for(view.hosts_capped());
    let four = |r: u128| r.saturating_mul(u128::from(limits::REGION_ACCEPT_RADII));
    // The walk is needed only when the plain radius does not decide.
    nearest.is_some_and(|d| d <= four(base) || d <= four(Region::of(view, key).radius()))
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
