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

fn naive(view: &View, key: &[u8; 32]) -> Vec<NodeId> {
    let mut hosts: Vec<_> = view.entries().filter(|e| e.host).map(|e| Arc::clone(&e.relay)).collect();
    hosts.sort_by_key(|h| (distance(&h.position().0, key), h.node()));
    let mut per: BTreeMap<Prefix, usize> = BTreeMap::new();
    for h in &hosts {
        *per.entry(h.prefix()).or_insert(0) += 1;
    }
    let n: usize = per.values().map(|c| 2.min(*c)).sum();
    let rounded = 2f64.powf((2.0 * (n as f64).log2()).round() / 2.0);
    let (mut prefixes, mut groups) = (BTreeMap::<Prefix, usize>::new(), BTreeMap::<Group, usize>::new());
    let mut addrs = BTreeSet::new();
    let (mut members, mut refused) = (vec![], vec![]);
    for h in hosts {
        let share = distance(&h.position().0, key) as f64 / 2f64.powi(128);
        if members.len() >= 24 && n > 48 && share > 24.0 / rounded {
            break;
        }
        if !addrs.insert(h.addr().ip()) {
            continue;
        }
        let (p, g) = (prefixes.entry(h.prefix()).or_insert(0), groups.entry(h.group()).or_insert(0));
        if *p < 2 && *g < 3 {
            *p += 1;
            *g += 1;
            members.push(h.node());
        } else {
            refused.push(h.node());
        }
    }
    while members.len() < 24 && !refused.is_empty() {
        members.push(refused.remove(0));
    }
    members
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
            let fast: Vec<NodeId> = region.members().iter().map(|m| m.node()).collect();
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
        assert_eq!(read.hosts.len() + read.last_resort.len(), region.members().len());
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

/// Writes a chunk and reads it back with `sybils` silent identities nearer to the key than any honest host. Returns (region, k
/// closest).
fn attacked(rng: &mut StdRng, view: &mut View, sybils: usize, sybil_groups: u16) -> (bool, bool) {
    let mut key = [0; 32];
    rng.fill_bytes(&mut key);
    let nearest = view.walk(&key).next().map(|(d, _)| d).unwrap();
    let mut bad = BTreeSet::new();
    for _ in 0..sybils {
        let mut at = [0; 32];
        rng.fill_bytes(&mut at);
        at[..16].copy_from_slice(&(prefix(&key) ^ (rng.random::<u128>() % nearest)).to_be_bytes());
        let group = rng.random_range(0..sybil_groups);
        let addr = SocketAddr::from(([150 + (group >> 8) as u8, group as u8, rng.random(), rng.random_range(1..250)], 443));
        let relay = host_at(rng, addr, Position(at));
        bad.insert(relay.node());
        view.insert(relay, NOW);
    }
    let region = Region::of(view, &key);
    let write = region.write_list(rng, &[]);
    let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut deck: Vec<usize> = Vec::new();
    for host in &write.hosts {
        if deck.is_empty() {
            deck = (0..24).collect();
            deck.shuffle(rng);
        }
        let share = deck.pop().unwrap();
        if !bad.contains(&host.node()) {
            held.insert(host.node(), share);
        }
    }
    let read = region.read_list(rng, &[]);
    let found: BTreeSet<usize> = read.hosts.iter().filter_map(|h| held.get(&h.node()).copied()).collect();
    let closest = view.near(&key, 24).filter(|h| !bad.contains(&h.node())).count();
    for node in bad {
        view.remove(&node);
    }
    (found.len() >= 8, closest >= 8)
}

#[test]
fn silent_sybils_near_a_key_do_not_censor_it() {
    let mut rng = StdRng::seed_from_u64(9);
    let mut view = world(2000, 1500, &mut rng);
    for (sybils, groups) in [(20usize, 512u16), (45, 512), (100, 512), (400, 2)] {
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
