//! What it costs to make one chosen key unretrievable: a search for the cheapest set of rented addresses, with real positions, real
//! regions, and the lists of writers and readers as the node makes them. What is counted is generous to the attacker: he gets any
//! address of any /16 that he wants, of the very /24s of the holders too; his hosts are in every view at once, readers meet them all
//! silent, and the key is that of a document of one chunk: of a larger one every node of the manifest has three such keys.

use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::base::Time;
use onionskin::base::Wall;
use onionskin::base::limits;
use onionskin::base::net::Group;
use onionskin::base::net::Prefix;
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::overlay::record;
use onionskin::proto::overlay::record::Verified;
use onionskin::proto::overlay::region;
use onionskin::proto::overlay::region::Region;
use onionskin::proto::overlay::view::View;
use onionskin::proto::overlay::{JobOutcome, OverlayJob, OwnBody};
use onionskin::wire::codec::Extensions;
use onionskin::wire::record::Descriptor;
use onionskin::wire::record::HostKey;
use onionskin::wire::record::MLKEM_PUBLIC;
use onionskin::wire::record::Receipt;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

const NET: NetworkId = NetworkId([7; 32]);
const NOW: Wall = Wall(1_800_000_000);
/// Addresses added between two looks at what is left, and beyond so many times as many, that part of them.
const STEP: usize = 24;
const PART: usize = 16;
/// Readers of which most must fail.
const READERS: usize = 5;

/// What an attack took.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// In words.
    pub(crate) attack: &'static str,
    /// Whether it begins before the key is published.
    pub(crate) before: bool,
    /// Whether it succeeded at all, with so much or less.
    pub(crate) succeeds: bool,
    /// Rented addresses.
    pub(crate) addresses: usize,
    /// In so many /24s.
    pub(crate) prefixes: usize,
    /// In so many /16s.
    pub(crate) groups: usize,
}

impl core::fmt::Display for Cost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { attack, before, succeeds, addresses, prefixes, groups } = self;
        let (end, when) = (if *succeeds { "lost" } else { "kept" }, if *before { "before" } else { "after" });
        write!(f, "{end} with {addresses} addresses, {prefixes} /24s, {groups} /16s: {when} publication, {attack}")
    }
}

/// What the search found for one key.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Hosts of the network.
    pub(crate) hosts: usize,
    /// What each attack took, that with the fewest addresses first.
    pub(crate) costs: Vec<Cost>,
}

impl Figures {
    /// The cheapest attack.
    pub(crate) fn best(&self) -> &Cost {
        &self.costs[0]
    }

    /// The cheapest in fewer than so many /16s, if any succeeds.
    pub(crate) fn best_below(&self, groups: usize) -> Option<&Cost> {
        self.costs.iter().find(|cost| cost.succeeds && cost.groups < groups)
    }
}

/// A network, one of whose keys is attacked.
struct World {
    view: View,
    rng: StdRng,
    key: [u8; 32],
    made: u64,
    /// The three whose receipts count.
    witnesses: Vec<IdentityKey>,
    /// Relays by address: an attack that rents it again takes the same.
    relays: BTreeMap<SocketAddr, Arc<Verified>>,
    bad: BTreeSet<NodeId>,
    rented: Vec<SocketAddr>,
    /// Addresses of honest hosts, which nobody else can have.
    taken: BTreeSet<SocketAddr>,
}

impl World {
    /// So many hosts, over three quarters as many /16s: few of those have many, many have none or one.
    fn new(hosts: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let key = rng.random();
        let witnesses: Vec<IdentityKey> = (1..=3).map(|i| IdentityKey::from_seed(&Secret::new([i; 32]))).collect();
        let (view, relays, bad, rented) = (View::new(false), BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut world = Self { view, rng, key, made: 0, witnesses, relays, bad, rented, taken: BTreeSet::new() };
        for (i, witness) in (1..).zip(&world.witnesses) {
            let addr = SocketAddr::from(([203, i, 1, 1], 443));
            world.view.insert(signed(witness, addr, Vec::new()), NOW);
            world.view.prove(&witness.node_id(), &addr, Time(0));
        }
        let groups = hosts * 3 / 4;
        while world.view.counts().hosts < hosts {
            let at: f64 = world.rng.random();
            let [_, _, a, b] = ((groups as f64 * at * at) as u32 + 20 * 256).to_be_bytes();
            let addr = SocketAddr::from(([a, b, world.rng.random(), world.rng.random_range(1..255)], 443));
            if onionskin::base::net::is_public(&addr) {
                world.host(addr);
                world.taken.insert(addr);
            }
        }
        world
    }

    /// A host at this address, with receipts of three days ago.
    fn host(&mut self, addr: SocketAddr) -> NodeId {
        let known = self.relays.get(&addr).cloned();
        let relay = known.unwrap_or_else(|| {
            self.made += 1;
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.made.to_be_bytes());
            let identity = IdentityKey::from_seed(&Secret::new(seed));
            let (node, hour) = (identity.node_id(), NOW.hour() - 72);
            let receipts = self.witnesses.iter().map(|w| record::sign_receipt(w, &NET, node, addr, hour)).collect();
            signed(&identity, addr, receipts)
        });
        self.relays.insert(addr, Arc::clone(&relay));
        let node = relay.node();
        self.view.insert(relay, NOW);
        node
    }

    fn region(&self) -> Region {
        Region::of(&self.view, &self.key)
    }

    /// A writer deals the shares; what the attacker's hosts were given is forgotten.
    fn publish(&mut self) -> BTreeMap<NodeId, usize> {
        let hosts = self.region().write_list(&mut self.rng, &[]).hosts;
        let (mut held, mut deck) = (BTreeMap::new(), Vec::new());
        for host in hosts {
            if deck.is_empty() {
                deck = (0..limits::SHARES_TOTAL).collect();
                deck.shuffle(&mut self.rng);
            }
            if let Some(share) = deck.pop().filter(|_| !self.bad.contains(&host.node())) {
                held.insert(host.node(), share);
            }
        }
        held
    }

    /// Whether most readers find too few shares.
    fn lost(&mut self, held: &BTreeMap<NodeId, usize>) -> bool {
        let region = self.region();
        let failed = (0..READERS).filter(|_| {
            let list = region.read_list(&mut self.rng, &[]);
            let found: BTreeSet<_> = list.hosts.iter().chain(&list.around).filter_map(|h| held.get(&h.node())).collect();
            found.len() < limits::SHARES_NEEDED
        });
        failed.count() * 2 > READERS
    }

    fn rent(&mut self, addr: SocketAddr) {
        let node = self.host(addr);
        self.bad.insert(node);
        self.rented.push(addr);
    }

    fn leave(&mut self) {
        for node in std::mem::take(&mut self.bad) {
            self.view.remove(&node);
        }
        self.rented.clear();
    }

    /// All addresses of a /16 whose places are near enough to the key, of distinct /24s first.
    fn near_in(&mut self, [a, b]: [u8; 2], within: u128) -> Vec<SocketAddr> {
        let all = (0..=255u8).flat_map(|c| (1..=254u8).map(move |d| SocketAddr::from(([a, b, c, d], 443))));
        let mut fit: Vec<SocketAddr> = all.filter(|addr| !self.taken.contains(addr) && self.distance(addr) <= within).collect();
        fit.shuffle(&mut self.rng);
        of_prefixes_in_turn(fit)
    }

    fn distance(&self, addr: &SocketAddr) -> u128 {
        region::distance(&region::position(&NET, addr).0, &self.key)
    }

    /// So many near addresses in each of many /16s, until they are so many.
    fn wide(&mut self, within: u128, each: usize, count: usize) -> Vec<SocketAddr> {
        let mut groups: Vec<[u8; 2]> = (20..120u8).flat_map(|a| (0..=255u8).map(move |b| [a, b])).collect();
        groups.shuffle(&mut self.rng);
        let mut found = Vec::new();
        for [a, b] in groups {
            let from: u8 = self.rng.random();
            let tries = (0..=255u8).flat_map(|c| (1..=16u8).map(move |d| [a, b, c.wrapping_add(from), d]));
            let tries = tries.map(|ip| SocketAddr::from((ip, 443)));
            let free = tries.filter(|addr| !self.taken.contains(addr) && onionskin::base::net::is_public(addr));
            found.extend(free.filter(|addr| self.distance(addr) <= within).take(each));
            if found.len() >= count {
                break;
            }
        }
        found
    }

    /// Rents one address of a list after the other until the key is lost. `before`: from before it was published on.
    fn attack(&mut self, attack: &'static str, list: &[SocketAddr], before: bool, most: usize) -> Cost {
        let honest = self.publish();
        let mut succeeds = false;
        let mut left = list.get(..most).unwrap_or(list);
        while !left.is_empty() {
            let (some, rest) = left.split_at(STEP.max(self.rented.len() / PART).min(left.len()));
            left = rest;
            some.iter().for_each(|addr| self.rent(*addr));
            let held = if before { self.publish() } else { honest.clone() };
            succeeds = self.lost(&held);
            if succeeds {
                break;
            }
        }
        let prefixes = self.rented.iter().map(Prefix::of).collect::<BTreeSet<_>>().len();
        let groups = self.rented.iter().map(Group::of).collect::<BTreeSet<_>>().len();
        let cost = Cost { attack, before, succeeds, addresses: self.rented.len(), prefixes, groups };
        self.leave();
        cost
    }
}

/// A host with these receipts.
fn signed(identity: &IdentityKey, addr: SocketAddr, receipts: Vec<Receipt>) -> Arc<Verified> {
    let host_key = HostKey { id: 1, x25519: [1; 32], until: NOW.plus(600_000), mlkem: Box::new([2; MLKEM_PUBLIC]) };
    let descriptor = Descriptor {
        node: identity.node_id(),
        published: NOW,
        expires: NOW.plus(86_400),
        addrs: vec![addr],
        carries: true,
        onion_key: [3; 32],
        host_key: Some(host_key),
        family: vec![],
        old_addrs: vec![],
        extensions: Extensions::default(),
    };
    let job = OverlayJob::SignOwn { body: OwnBody::New(Box::new(descriptor)), receipts, now: NOW };
    let JobOutcome::Signed(Some(relay)) = job.run(&NET, Some(identity)) else { unreachable!("a descriptor is signed") };
    relay
}

/// The first of each list, then the second of each.
fn in_turn(lists: &[Vec<SocketAddr>]) -> Vec<SocketAddr> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|i| lists.iter().filter_map(move |list| list.get(i).copied())).collect()
}

/// One of each /24, then a second one of each.
fn of_prefixes_in_turn(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut of: BTreeMap<Prefix, Vec<SocketAddr>> = BTreeMap::new();
    addrs.into_iter().for_each(|addr| of.entry(Prefix::of(&addr)).or_default().push(addr));
    in_turn(&of.into_values().collect::<Vec<_>>())
}

/// The cheapest attack on one key of one network. Each is given up at so many addresses.
pub(crate) fn search(hosts: usize, seed: u64, most: usize) -> Figures {
    let mut world = World::new(hosts, seed);
    let region = world.region();
    let radius = region.radius();
    let group_of = |addr: &SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => [ip.octets()[0], ip.octets()[1]],
        IpAddr::V6(_) => [0, 0],
    };
    let members: Vec<SocketAddr> = region.members().iter().map(|m| m.addr()).collect();
    let around: Vec<SocketAddr> = region.read_list(&mut world.rng, &[]).around.iter().map(|m| m.addr()).collect();
    let groups: BTreeSet<[u8; 2]> = members.iter().map(group_of).collect();
    // In and around the region. What lies nearest counts wherever the region ends.
    let wider: Vec<Vec<SocketAddr>> = groups.iter().map(|group| world.near_in(*group, radius.saturating_mul(2))).collect();
    let within = |world: &World, of: u128| -> Vec<Vec<SocketAddr>> {
        let near = |list: &Vec<SocketAddr>| list.iter().filter(|addr| world.distance(addr) <= of).copied().collect();
        wider.iter().map(near).collect()
    };
    let (deep, nearer) = (within(&world, radius), within(&world, radius / 4));
    let some = deep.get(..deep.len().saturating_sub(limits::SHARES_NEEDED - 2)).unwrap_or(&deep).to_vec();
    let ring_groups: BTreeSet<[u8; 2]> = around.iter().map(group_of).filter(|group| !groups.contains(group)).collect();
    let ring: Vec<Vec<SocketAddr>> = ring_groups.iter().map(|group| world.near_in(*group, radius)).collect();
    let both = [deep.clone(), ring].concat();
    // With one of each /24, few of a /16 are near; with all of them, many.
    let own: Vec<Vec<SocketAddr>> =
        members.iter().map(|m| deep.iter().flatten().filter(|a| Prefix::of(a) == Prefix::of(m)).copied().collect()).collect();
    let own_some: Vec<SocketAddr> = in_turn(&own.iter().map(|list| list.iter().take(6).copied().collect()).collect::<Vec<_>>());
    let (wide, threes) = (world.wide(radius, 1, most), world.wide(radius, limits::REGION_PER_GROUP, most));
    // What narrows the region: 24 that count, nearer than the rest.
    let narrowing: Vec<SocketAddr> = world.wide(radius / 6, 1, limits::REGION_TARGET);
    let after = |first: &[SocketAddr], list: &[SocketAddr]| {
        let mut seen = BTreeSet::new();
        first.iter().chain(list).filter(|addr| seen.insert(**addr)).copied().collect::<Vec<_>>()
    };
    let deep = in_turn(&deep);
    let mixed = in_turn(&[deep.clone(), wide.clone()]);
    let lists = [
        ("in the /16s of holders", deep.clone()),
        ("in the /16s of holders, as far as the ring", in_turn(&wider)),
        ("in the /16s of holders, nearest first", after(&in_turn(&nearer), &deep)),
        ("in the /16s of most holders", in_turn(&some)),
        ("in the /16s of holders and of those around", in_turn(&both)),
        ("in the /24s of holders, then in their /16s", after(&in_turn(&own), &deep)),
        ("six in the /24 of each holder, then in their /16s", after(&own_some, &deep)),
        ("six in the /24 of each holder, then one in each of many /16s", after(&own_some, &wide)),
        ("one in each of many /16s", wide.clone()),
        ("three in each of many /16s", threes),
        ("half in the /16s of holders, half one in each of many", mixed),
        ("half in the /16s of holders and around, half one in each of many", in_turn(&[in_turn(&both), wide.clone()])),
        ("24 that narrow the region, then in the /16s of holders", after(&narrowing, &deep)),
        ("24 that narrow the region, then one in each of many /16s", after(&narrowing, &wide)),
    ];
    let mut costs: Vec<Cost> = lists
        .iter()
        .flat_map(|(attack, list)| [(*attack, list, false), (*attack, list, true)])
        .map(|(attack, list, before)| world.attack(attack, list, before, most))
        .collect();
    costs.sort_by_key(|cost| (!cost.succeeds, cost.addresses));
    Figures { hosts, costs }
}
