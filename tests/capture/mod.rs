//! What it costs to make one chosen key unretrievable: a search for the cheapest set of rented addresses, with real positions, real
//! regions, and the lists of writers and readers as the node makes them. What is counted is generous to the attacker: he gets any
//! address of any /16 that he wants, his hosts are in every view at once, and readers meet them all silent.

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
/// Addresses after which an attack is given up.
const MOST: usize = 2400;
/// Addresses added between two looks at what is left.
const STEP: usize = 24;
/// Readers of which most must fail.
const READERS: usize = 5;

/// What an attack took.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// In words.
    pub(crate) attack: &'static str,
    /// Whether it succeeded at all, with so much or less.
    pub(crate) succeeds: bool,
    /// Rented addresses.
    pub(crate) addresses: usize,
    /// In so many /24s.
    pub(crate) prefixes: usize,
    /// In so many /16s.
    pub(crate) groups: usize,
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
        for (i, identity) in (1..=3u8).map(|i| (i, IdentityKey::from_seed(&Secret::new([i; 32])))) {
            let addr = SocketAddr::from(([203, i, 1, 1], 443));
            let relay = world.relay(&identity, addr, Vec::new());
            world.view.insert(relay, NOW);
            world.view.prove(&identity.node_id(), &addr, Time(0));
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
            self.relay(&identity, addr, receipts)
        });
        self.relays.insert(addr, Arc::clone(&relay));
        let node = relay.node();
        self.view.insert(relay, NOW);
        node
    }

    fn relay(&self, identity: &IdentityKey, addr: SocketAddr, receipts: Vec<Receipt>) -> Arc<Verified> {
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
            let found: BTreeSet<_> = list.hosts.iter().filter_map(|h| held.get(&h.node())).collect();
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
        let near = |addr: &SocketAddr| {
            !self.taken.contains(addr) && region::distance(&region::position(&NET, addr).0, &self.key) <= within
        };
        let mut fit: Vec<SocketAddr> = all.filter(near).collect();
        fit.shuffle(&mut self.rng);
        let mut turns: BTreeMap<Prefix, usize> = BTreeMap::new();
        let mut turn = |addr: &SocketAddr| {
            let turn = turns.entry(Prefix::of(addr)).or_insert(0);
            *turn += 1;
            *turn
        };
        let mut ordered: Vec<(usize, SocketAddr)> = fit.into_iter().map(|addr| (turn(&addr), addr)).collect();
        ordered.sort_by_key(|(turn, _)| *turn);
        ordered.into_iter().map(|(_, addr)| addr).collect()
    }

    /// One near address in each of many /16s.
    fn wide(&mut self, within: u128) -> Vec<SocketAddr> {
        let taken = &self.taken;
        let mut groups: Vec<[u8; 2]> = (20..120u8).flat_map(|a| (0..=255u8).map(move |b| [a, b])).collect();
        groups.shuffle(&mut self.rng);
        let mut found = Vec::new();
        for [a, b] in groups {
            let mut tries = (0..2000).map(|_| SocketAddr::from(([a, b, self.rng.random(), self.rng.random_range(1..255)], 443)));
            let near = |addr: &SocketAddr| region::distance(&region::position(&NET, addr).0, &self.key) <= within;
            found.extend(tries.find(|addr| !taken.contains(addr) && onionskin::base::net::is_public(addr) && near(addr)));
            if found.len() >= MOST {
                break;
            }
        }
        found
    }

    /// Rents one address of a list after the other until the key is lost. `before`: from before it was published on.
    fn attack(&mut self, attack: &'static str, list: &[SocketAddr], before: bool) -> Cost {
        let honest = self.publish();
        let mut succeeds = false;
        for some in list.chunks(STEP).take(MOST / STEP) {
            some.iter().for_each(|addr| self.rent(*addr));
            let held = if before { self.publish() } else { honest.clone() };
            succeeds = self.lost(&held);
            if succeeds {
                break;
            }
        }
        let prefixes = self.rented.iter().map(Prefix::of).collect::<BTreeSet<_>>().len();
        let groups = self.rented.iter().map(Group::of).collect::<BTreeSet<_>>().len();
        let cost = Cost { attack, succeeds, addresses: self.rented.len(), prefixes, groups };
        self.leave();
        cost
    }
}

/// The first of each list, then the second of each.
fn in_turn(lists: &[Vec<SocketAddr>]) -> Vec<SocketAddr> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|i| lists.iter().filter_map(move |list| list.get(i).copied())).collect()
}

/// The cheapest attack on one key of one network.
pub(crate) fn search(hosts: usize, seed: u64) -> Figures {
    let mut world = World::new(hosts, seed);
    let region = world.region();
    let radius = region.radius();
    let members: Vec<SocketAddr> = region.members().iter().map(|m| m.addr()).collect();
    let group_of = |addr: &SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => [ip.octets()[0], ip.octets()[1]],
        IpAddr::V6(_) => [0, 0],
    };
    let groups: BTreeSet<[u8; 2]> = members.iter().map(group_of).collect();
    let deep: Vec<Vec<SocketAddr>> = groups.iter().map(|group| world.near_in(*group, radius)).collect();
    let nearer: Vec<Vec<SocketAddr>> = groups.iter().map(|group| world.near_in(*group, radius / 4)).collect();
    let some = deep.get(..deep.len().saturating_sub(limits::SHARES_NEEDED - 2)).unwrap_or(&deep).to_vec();
    let wide = world.wide(radius);
    // What narrows the region: 24 that count, nearer than the rest.
    let narrowing: Vec<SocketAddr> = world.wide(radius / 6).into_iter().take(limits::REGION_TARGET).collect();
    let with_narrowing = |list: &[SocketAddr]| [narrowing.as_slice(), list].concat();
    let mixed = in_turn(&[in_turn(&deep), wide.clone()]);
    let own_prefix: Vec<Vec<SocketAddr>> = members
        .iter()
        .map(|m| deep.iter().flatten().filter(|a| Prefix::of(a) == Prefix::of(m) && a.ip() != m.ip()).copied().collect())
        .collect();
    let own_first = [in_turn(&own_prefix), in_turn(&deep)].concat();
    let mut costs = vec![
        world.attack("afterwards, in the /16s of all holders", &in_turn(&deep), false),
        world.attack("afterwards, in the /16s of most holders", &in_turn(&some), false),
        world.attack("afterwards, in the /16s of holders and nearest", &[in_turn(&nearer), in_turn(&deep)].concat(), false),
        world.attack("afterwards, in the /24s of holders, then their /16s", &own_first, false),
        world.attack("afterwards, one in each of many /16s", &wide, false),
        world.attack("afterwards, half in the /16s of holders, half in others", &mixed, false),
        world.attack("afterwards, 24 that narrow the region, then in the /16s of holders", &with_narrowing(&in_turn(&deep)), false),
        world.attack("afterwards, 24 that narrow the region, then one in each of many /16s", &with_narrowing(&wide), false),
        world.attack("from before publication, one in each of many /16s", &wide, true),
        world.attack("from before publication, in the /16s of those who would hold it", &in_turn(&deep), true),
        world.attack("from before publication, half and half", &mixed, true),
        world.attack("from before publication, 24 that narrow the region, then many /16s", &with_narrowing(&wide), true),
    ];
    costs.sort_by_key(|cost| (!cost.succeeds, cost.addresses));
    Figures { hosts, costs }
}
