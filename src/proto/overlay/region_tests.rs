//! Regions against a naive reading of the rules, and under attack.

use super::*;
use crate::base::NodeId;
use crate::base::Wall;
use crate::proto::overlay::testing;
use crate::proto::overlay::testing::host_at;
use rand::Rng;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

const NOW: Wall = Wall(1_000_000_000);

fn random_ip(rng: &mut StdRng, groups: u16) -> SocketAddr {
    let g = rng.random_range(0..groups);
    SocketAddr::from(([20 + (g >> 8) as u8, g as u8, rng.random_range(0..40), rng.random_range(1..250)], 443))
}

/// A view of `n` hosts in `groups` groups, at positions that follow from their addresses.
fn world(n: usize, groups: u16, rng: &mut StdRng) -> View {
    let net = NetworkId([7; 32]);
    let mut view = testing::view_with_witnesses();
    for _ in 0..n {
        let addr = random_ip(rng, groups);
        view.insert(host_at(rng, addr, position(&net, &addr)), NOW);
    }
    view
}

fn naive(view: &View, key: &[u8; 32]) -> BTreeSet<NodeId> {
    let mut hosts: Vec<_> = view.entries().filter(|e| e.host).map(|e| Arc::clone(&e.relay)).collect();
    hosts.sort_by_key(|h| (distance(&h.position().0, key), h.node()));
    let mut addrs = BTreeSet::new();
    let mut per: BTreeMap<Prefix, usize> = BTreeMap::new();
    for h in &hosts {
        *per.entry(h.prefix()).or_insert(0) += 1;
    }
    hosts.retain(|h| addrs.insert(h.addr().ip()));
    let n: usize = per.values().map(|c| 2.min(*c)).sum();
    let rounded = 2f64.powf((2.0 * (n as f64).log2()).round() / 2.0);
    let share = |h: &Arc<Verified>| distance(&h.position().0, key) as f64 / 2f64.powi(128);
    let inside = |h: &Arc<Verified>| n <= 48 || share(h) <= 24.0 / rounded;
    let (mut prefixes, mut groups) = (BTreeMap::<Prefix, usize>::new(), BTreeMap::<Group, usize>::new());
    let (mut counted, mut others) = (vec![], vec![]);
    for h in hosts {
        let (p, g) = (prefixes.entry(h.prefix()).or_insert(0), groups.entry(h.group()).or_insert(0));
        if *p < 2 && *g < 3 {
            *p += 1;
            *g += 1;
            counted.push(h);
        } else {
            others.push(h);
        }
    }
    if let Some(last) = counted.get(23) {
        let end = share(last);
        return counted.iter().chain(&others).filter(|h| inside(h) || share(h) <= end).map(|h| h.node()).collect();
    }
    let (near, far): (Vec<_>, Vec<_>) = others.into_iter().partition(inside);
    let mut members: BTreeSet<NodeId> = counted.iter().chain(&near).map(|h| h.node()).collect();
    let missing = 24usize.saturating_sub(members.len());
    members.extend(far.into_iter().take(missing).map(|h| h.node()));
    members
}

/// A place decides which shares of a chunk are kept there: twice as many as it keeps, others for each chunk and each place, all as
/// often.
#[test]
fn a_place_takes_few_shares_of_a_chunk_and_none_more_often() {
    let mut times = [0; limits::SHARES_TOTAL];
    for n in 0..200_u8 {
        for address in 0..20 {
            let fits = takes(&Address([address; 32]), &Position([n; 32]), 2);
            assert_eq!((fits.count_ones(), fits >> limits::SHARES_TOTAL), (4, 0));
            assert_eq!(fits & takes(&Address([address; 32]), &Position([n; 32]), 3), fits, "who keeps more takes those as well");
            (0..limits::SHARES_TOTAL).filter(|index| fits >> index & 1 == 1).for_each(|index| times[index] += 1);
        }
    }
    assert!(times.iter().all(|n| (560..780).contains(n)), "{times:?}");
    assert_eq!(takes(&Address([1; 32]), &Position([1; 32]), 24).count_ones(), 24, "in the smallest networks any");
}

#[test]
fn regions_equal_the_naive_reading() {
    for seed in 0..12u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (n, groups) = [(1, 1), (6, 4), (30, 2), (48, 30), (60, 3), (200, 60), (900, 300), (2000, 800)][seed as usize % 8];
        let view = world(n, groups, &mut rng);
        view.check();
        for _ in 0..20 {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            let region = Region::of(&view, &key);
            let fast: BTreeSet<NodeId> = region.members().iter().map(|m| m.node()).collect();
            assert_eq!(fast, naive(&view, &key), "seed {seed}, {n} hosts");
        }
    }
}

#[test]
fn radius_rounds_to_half_powers_of_two() {
    assert_eq!(radius_for(48), u128::MAX);
    for n in [49usize, 64, 100, 1000, 2000, 2048, 2435, 2436, 19_999, 1 << 20] {
        let share = radius_for(n) as f64 / 2f64.powi(128);
        let rounded = 24.0 / share;
        assert!((rounded / n as f64).log2().abs() <= 0.2501, "{n}: {rounded}");
        let half = 2.0 * rounded.log2();
        assert!((half - half.round()).abs() < 1e-9, "{n}: {rounded}");
    }
}

#[test]
fn writers_leave_out_guard_groups_and_readers_skip_them() {
    let mut rng = StdRng::seed_from_u64(5);
    let view = world(1000, 500, &mut rng);
    for _ in 0..50 {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let region = Region::of(&view, &key);
        let guard = region.members()[3].group();
        let write = region.write_list(&mut rng, &[guard]);
        assert!(!write.relaxed && write.hosts.len() + 3 <= region.members().len());
        assert!(write.hosts.iter().all(|h| h.group() != guard));
        let read = region.read_list(&mut rng, &[guard]);
        let asked: Vec<NodeId> = read.hosts.iter().chain(&read.last_resort).map(|h| h.node()).collect();
        assert!(region.members().iter().all(|m| asked.contains(&m.node())));
        assert!(read.hosts.iter().all(|h| h.group() != guard) && !read.last_resort.is_empty());
        // Members accept what writers bring; a host on the other side of the space does not.
        assert!(region.members().iter().all(|m| accepts(&view, &[m.position()], &key)));
        let mut far = key;
        far[0] ^= 0x80;
        assert!(!accepts(&view, &[Position(far)], &key));
        assert!(accepts(&view, &[Position(far), Position(key)], &key));
    }
    assert_eq!([shares_kept(6), shares_kept(24), shares_kept(96), shares_kept(0)], [8, 2, 2, 48]);
}

/// Deals 24 shares to those that a writer gives them to: who holds which.
fn publish(region: &Region, rng: &mut StdRng) -> BTreeMap<NodeId, usize> {
    let mut deck: Vec<usize> = Vec::new();
    let mut deal = |host: &Arc<Verified>, rng: &mut StdRng| {
        if deck.is_empty() {
            deck = (0..24).collect();
            deck.shuffle(rng);
        }
        (host.node(), deck.pop().unwrap())
    };
    let hosts = region.write_list(rng, &[]).hosts;
    hosts.iter().map(|host| deal(host, rng)).collect()
}

/// Distinct shares that a reader finds.
fn fetch(view: &View, key: &[u8; 32], held: &BTreeMap<NodeId, usize>, rng: &mut StdRng) -> usize {
    let list = Region::of(view, key).read_list(rng, &[]);
    list.hosts.iter().chain(&list.around).filter_map(|h| held.get(&h.node())).collect::<BTreeSet<_>>().len()
}

/// Puts silent hosts nearer to a key than any other, each in one of so many groups.
fn crowd(view: &mut View, rng: &mut StdRng, key: &[u8; 32], size: usize, groups: usize) -> BTreeSet<NodeId> {
    let nearest = view.walk(key).next().map(|(d, _)| d).unwrap();
    let one = |i: usize| {
        let mut at = [0; 32];
        rng.fill_bytes(&mut at);
        at[..16].copy_from_slice(&(prefix(key) ^ (rng.random::<u128>() % nearest)).to_be_bytes());
        let group = i % groups;
        let addr = SocketAddr::from(([150 + (group >> 8) as u8, group as u8, rng.random(), rng.random_range(1..250)], 443));
        let relay = host_at(rng, addr, Position(at));
        let node = relay.node();
        view.insert(relay, NOW);
        node
    };
    (0..size).map(one).collect()
}

/// Writes a chunk and reads it back with `sybils` silent identities nearer to the key than any honest host. Returns (region, k
/// closest).
fn attacked(rng: &mut StdRng, view: &mut View, sybils: usize, sybil_groups: usize) -> (bool, bool) {
    let mut key = [0; 32];
    rng.fill_bytes(&mut key);
    let bad = crowd(view, rng, &key, sybils, sybil_groups);
    let mut held = publish(&Region::of(view, &key), rng);
    held.retain(|node, _| !bad.contains(node));
    let found = fetch(view, &key, &held, rng);
    let closest = view.near(&key, 24).filter(|h| !bad.contains(&h.node())).count();
    for node in bad {
        view.remove(&node);
    }
    (found >= 8, closest >= 8)
}

#[test]
fn silent_sybils_near_a_key_do_not_censor_it() {
    let mut rng = StdRng::seed_from_u64(9);
    let mut view = world(2000, 1500, &mut rng);
    for (sybils, groups) in [(20, 512), (45, 512), (100, 512), (200, 512), (400, 2)] {
        let (mut region, mut closest) = (0, 0);
        for _ in 0..60 {
            let (r, c) = attacked(&mut rng, &mut view, sybils, groups);
            region += u32::from(r);
            closest += u32::from(c);
        }
        println!("{sybils} sybils in {groups} groups: region {region}/60, k closest {closest}/60");
        assert!(region >= 59, "{sybils}: {region}");
        if sybils >= 45 {
            assert_eq!(closest, 0);
        }
    }
}

/// After a chunk was stored, somebody who has its key rents addresses in the /16s of those that hold it, at places nearer to the
/// key: found by hashing, two of a /24 at the most, three of them or fifteen. Whoever holds the chunk is found all the same.
#[test]
fn newcomers_nearer_to_a_key_push_nobody_out() {
    let net = NetworkId([7; 32]);
    let mut rng = StdRng::seed_from_u64(77);
    for (targets, each) in [(12, 3), (17, 3), (24, 3), (24, 15)] {
        let (mut used, mut left) = (0, Vec::new());
        for _ in 0..6 {
            let mut view = world(2000, 1500, &mut rng);
            let key: [u8; 32] = rng.random();
            let region = Region::of(&view, &key);
            let held = publish(&region, &mut rng);
            for target in region.members().iter().rev().take(targets) {
                let SocketAddr::V4(at) = target.addr() else { continue };
                let [a, b, ..] = at.ip().octets();
                let mut of_prefix: BTreeMap<Prefix, usize> = BTreeMap::new();
                let mut new = 0;
                for addr in (0..=255u8).flat_map(|c| (1..=32u8).map(move |d| SocketAddr::from(([a, b, c, d], 443)))) {
                    let (place, n) = (position(&net, &addr), of_prefix.entry(Prefix::of(&addr)).or_insert(0));
                    let nearer = distance(&place.0, &key) < distance(&target.position().0, &key);
                    if new < each && *n < 2 && nearer && addr.ip() != target.addr().ip() {
                        *n += 1;
                        new += 1;
                        view.insert(host_at(&mut rng, addr, place), NOW);
                    }
                }
                used += new;
            }
            assert!(Region::of(&view, &key).radius() <= region.radius());
            left.push(fetch(&view, &key, &held, &mut rng));
        }
        println!("{each} in the /16s of {targets}: {} addresses a key, distinct shares left {left:?}", used / 6);
        assert!(left.iter().all(|found| *found >= 8), "{left:?}");
    }
}

/// Hundreds of hosts of one or two /16s around a key make its region neither narrower nor wider, and take no turn of others: all
/// who belonged to it still do, get shares, and are asked among the first.
#[test]
fn a_crowd_in_a_few_groups_takes_nobodys_turn() {
    let mut rng = StdRng::seed_from_u64(78);
    for (n, size, groups) in [(2000, 1500, 1), (2000, 1500, 2), (2000, 5000, 1), (300, 1500, 2), (40, 1500, 1)] {
        let mut view = world(n, 1500, &mut rng);
        let key: [u8; 32] = rng.random();
        let before = Region::of(&view, &key);
        crowd(&mut view, &mut rng, &key, size, groups);
        let after = Region::of(&view, &key);
        // More hosts make for narrower regions, as they must: of a crowd, two of each /24 count.
        assert!(after.radius() <= before.radius() && after.members().len() <= MEMBERS_MAX);
        let honest: Vec<_> = before.members().iter().filter(|m| distance(&m.position().0, &key) <= after.radius()).collect();
        assert!(honest.len() >= 10 && honest.iter().all(|m| after.contains(&m.node())), "{} of {n}", honest.len());
        let places = |hosts: &[Arc<Verified>]| {
            let at = |h: &&Arc<Verified>| hosts.iter().position(|o| o.node() == h.node()).unwrap_or(usize::MAX);
            let mut places: Vec<usize> = honest.iter().map(at).collect();
            places.sort_unstable();
            places
        };
        // Three are left out of what a writer gives to.
        let (write, read) = (after.write_list(&mut rng, &[]).hosts, after.read_list(&mut rng, &[]).hosts);
        let all_groups: BTreeSet<Group> = after.keepers().map(|m| m.group()).collect();
        let bound = 4 * (all_groups.len().min(honest.len() * 3) + groups);
        assert!(places(&write)[honest.len() - 4] < bound && places(&read)[honest.len() - 1] < bound, "{n} hosts, {size}");
    }
}

/// A region that nobody crowds is what it was: its members in random order and nobody else, and the ring apart from them. Of a crowded
/// one the ring is a part, for writers and readers alike, so that more honest hosts hold shares.
#[test]
fn the_ring_belongs_to_a_crowded_region_and_to_no_other() {
    let mut rng = StdRng::seed_from_u64(80);
    let mut view = world(2000, 1500, &mut rng);
    for round in 0..20 {
        let key: [u8; 32] = rng.random();
        let nodes = |hosts: &[Arc<Verified>]| hosts.iter().map(|h| h.node()).collect::<BTreeSet<_>>();
        let region = Region::of(&view, &key);
        let (write, read) = (region.write_list(&mut rng, &[]), region.read_list(&mut rng, &[]));
        let (members, around) = (nodes(region.members()), nodes(&read.around));
        assert!(!region.is_crowded() && nodes(&write.hosts).is_subset(&members) && nodes(&read.hosts) == members);
        let near = |node: &NodeId| distance(&view.get(node).unwrap().position().0, &key) <= 2 * region.radius();
        assert!(around.len() >= 5 && around.is_disjoint(&members) && around.iter().all(near));
        let bad = crowd(&mut view, &mut rng, &key, limits::REGION_CROWDED, 64);
        let region = Region::of(&view, &key);
        let (write, read) = (region.write_list(&mut rng, &[]), region.read_list(&mut rng, &[]));
        let all: BTreeSet<NodeId> = region.keepers().map(|m| m.node()).collect();
        let far = |all: &BTreeSet<NodeId>| {
            all.iter().filter(|node| distance(&view.get(node).unwrap().position().0, &key) > region.radius()).count()
        };
        assert!(region.is_crowded() && nodes(&read.hosts) == all && read.around.is_empty() && write.hosts.len() + 3 == all.len());
        assert!(far(&all) >= 5 && far(&nodes(&write.hosts)) + 3 >= far(&all), "round {round}");
        for node in bad {
            view.remove(&node);
        }
    }
}

/// What one /24 brings together stands behind the others of its /16.
#[test]
fn address_groups_take_turns_and_their_prefixes_too() {
    let mut rng = StdRng::seed_from_u64(79);
    let addrs = [[20, 1, 1, 1], [20, 1, 1, 2], [20, 1, 1, 3], [20, 1, 2, 1], [20, 2, 1, 1], [20, 3, 1, 1]];
    let mut hosts: Vec<_> = addrs.map(|ip| host_at(&mut rng, (ip, 443).into(), Position([0; 32]))).to_vec();
    for _ in 0..20 {
        hosts.shuffle(&mut rng);
        by_turns(&mut hosts);
        let groups = |from: usize, to: usize| hosts[from..to].iter().map(|h| h.group()).collect::<BTreeSet<_>>().len();
        let prefixes = |from: usize, to: usize| hosts[from..to].iter().map(|h| h.prefix()).collect::<BTreeSet<_>>().len();
        assert_eq!((groups(0, 3), groups(3, 6)), (3, 1));
        assert_eq!(prefixes(0, 4), 4);
    }
}

#[test]
fn a_region_of_20_000_hosts_is_fast() {
    let mut rng = StdRng::seed_from_u64(3);
    let view = world(20_000, 5000, &mut rng);
    let keys: Vec<[u8; 32]> = (0..200).map(|_| rng.random()).collect();
    let steps: usize = keys.iter().map(|k| view.walk(k).take_while(|(d, _)| *d <= radius_for(view.hosts_capped())).count()).sum();
    let size: usize = keys.iter().map(|k| Region::of(&view, k).members().len()).sum();
    // The walk touches little more than the region itself.
    assert!(size / keys.len() < 60 && steps / keys.len() < 60, "{size} {steps}");
}
