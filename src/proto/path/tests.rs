//! What paths look like, over time and under pressure. Threats T12 and T15 name these tests.

use super::*;
use crate::base::Position;
use crate::base::net::Group;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::plain;
use crate::proto::overlay::testing::view_with_witnesses;
use crate::proto::overlay::testing::vouched_at;
use core::net::SocketAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

pub(super) const MINUTE: u64 = 60;

fn id(i: u16) -> NodeId {
    let mut node = [0xaa; 32];
    node[..2].copy_from_slice(&i.to_be_bytes());
    NodeId(node)
}

fn relay(i: u16, groups: u16) -> Arc<Verified> {
    let g = i % groups;
    let addr = SocketAddr::from(([20 + (g >> 8) as u8, g as u8, (i / groups) as u8, 1], 443));
    let mut d = plain(id(i), addr);
    // Neighbours (0, 1), (2, 3).. run together.
    d.family = vec![id(i ^ 1)];
    // The policy's clock runs for a year on one view.
    d.expires = NOW.plus(1000 * DAY);
    vouched_at(d, 3, 0, Position(id(i).0))
}

/// `n` relays in `groups` groups; neighbours are families.
pub(super) fn world(n: u16, groups: u16) -> View {
    let mut view = view_with_witnesses();
    for i in 0..n {
        view.insert(relay(i, groups), NOW);
    }
    assert_eq!(view.usable().len(), usize::from(n));
    view
}

/// A policy with a clock and a seed.
pub(super) struct User {
    pub(super) policy: PathPolicy,
    rng: StdRng,
    pub(super) seconds: u64,
}

type Path = [NodeId; limits::HOPS];

impl User {
    pub(super) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self { policy: PathPolicy::new(None), rng: StdRng::seed_from_u64(seed), seconds: 0 }
    }

    pub(super) fn with<T>(&mut self, step: impl FnOnce(&mut PathPolicy, &mut Env<'_>) -> T) -> T {
        let now = Time(self.seconds * 1_000_000);
        let mut env = Env { now, wall: NOW.plus(self.seconds), rng: &mut self.rng };
        step(&mut self.policy, &mut env)
    }

    pub(super) fn choose(&mut self, view: &View, taken: &[NodeId]) -> Option<Path> {
        self.with(|policy, env| policy.choose(view, env, taken, &[]))
    }

    /// A circuit that stands, over relays that are up.
    pub(super) fn build(&mut self, view: &View) -> Path {
        let path = self.choose(view, &[]).unwrap();
        self.worked(&path);
        path
    }

    pub(super) fn worked(&mut self, path: &Path) {
        self.with(|policy, env| policy.worked(path, env));
    }

    pub(super) fn failed(&mut self, path: &Path, hops: usize) {
        self.with(|policy, env| policy.failed(path, hops, env));
    }

    /// One try each ten seconds for so long, with these relays down. The guards that were tried.
    pub(super) fn suffer(&mut self, view: &View, for_secs: u64, down: &dyn Fn(&NodeId) -> bool) -> BTreeSet<NodeId> {
        let mut tried = BTreeSet::new();
        let end = self.seconds + for_secs;
        while self.seconds < end {
            self.seconds += 10;
            let Some(path) = self.choose(view, &[]) else { continue };
            tried.insert(path[0]);
            match path.iter().position(down) {
                Some(hops) => self.failed(&path, hops),
                None => self.worked(&path),
            }
            assert!(self.policy.guards.len() <= SAMPLE_MAX && self.policy.layer2.len() <= LAYER2);
        }
        tried
    }

    pub(super) fn sample(&self) -> Vec<NodeId> {
        self.policy.guards.iter().map(|g| g.node).collect()
    }

    pub(super) fn second_layer(&self) -> BTreeSet<NodeId> {
        self.policy.layer2.iter().map(|l| l.node).collect()
    }

    pub(super) fn restarted(mut self) -> Self {
        self.policy = PathPolicy::decode(&self.policy.encode(), None).unwrap();
        self
    }
}

fn apart(view: &View, a: &NodeId, b: &NodeId) -> bool {
    let (a, b) = (view.get(a).unwrap(), view.get(b).unwrap());
    a.node() != b.node() && !a.shares_group(b) && !a.is_family(b)
}

// --- hops

#[test]
fn hops_are_apart_in_group_and_family_and_never_ourselves() {
    let view = world(200, 60);
    for seed in 0..20 {
        let mut user = User::new(seed);
        let me = id(seed as u16);
        user.policy = PathPolicy::new(Some(me));
        let mut guards = BTreeSet::new();
        for _ in 0..200 {
            let path = user.build(&view);
            let [a, b, c] = &path;
            assert!(apart(&view, a, b) && apart(&view, a, c) && apart(&view, b, c), "{path:?}");
            assert!(!path.contains(&me));
            assert_eq!(user.policy.relaxed(), Relaxed::default());
            guards.insert(*a);
        }
        assert_eq!(guards.len(), 1);
        assert!(!user.sample().contains(&me) && !user.second_layer().contains(&me));
    }
}

/// Groups of all addresses count, not of the first alone; and only a family that both sides declare.
#[test]
fn every_address_counts_and_families_are_mutual() {
    let mut view = world(60, 60);
    // Each relay from 1 on also has an IPv6 address in the /32 of relay 0's, and claims relay 2 as family, which does not answer.
    let shared = |i: u16| SocketAddr::from(([0x2a00, 7, i, 0, 0, 0, 0, 1], 443));
    for i in [0u16, 1, 2] {
        let mut d = relay(i, 60).descriptor().clone();
        d.published = NOW.plus(limits::DESCRIPTOR_SLOT_SECS);
        d.addrs.push(shared(i));
        d.family = if i == 2 { vec![] } else { vec![id(2)] };
        view.insert(vouched_at(d, 3, 0, Position(id(i).0)), NOW);
    }
    assert!(!apart(&view, &id(0), &id(1)) && !apart(&view, &id(0), &id(2)));
    assert!(!view.get(&id(0)).unwrap().is_family(view.get(&id(2)).unwrap()), "one side's word makes no family");
    let mut user = User::new(1);
    for _ in 0..500 {
        let path = user.build(&view);
        assert!(path.iter().filter(|n| [id(0), id(1), id(2)].contains(n)).count() <= 1, "two hops of one /32");
    }
}

#[test]
fn last_hops_are_uniform() {
    let view = world(40, 40);
    let mut user = User::new(2);
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    for _ in 0..4000 {
        *counts.entry(user.build(&view)[2]).or_insert(0) += 1;
    }
    let guard = user.policy.guard(&view, Time(0)).unwrap().node();
    // The guard and its family are never drawn; those of the second layer now and then; all others alike.
    let plain = counts.iter().filter(|(n, _)| user.second_layer().iter().all(|s| s == *n || apart(&view, s, n)));
    let values: Vec<u32> = plain.filter(|(n, _)| !user.second_layer().contains(n)).map(|(_, v)| *v).collect();
    assert!(!counts.contains_key(&guard) && counts.keys().all(|n| apart(&view, n, &guard)));
    assert!(values.len() >= 28);
    assert!(values.iter().all(|v| (70..170).contains(v)), "{values:?}");
}

#[test]
fn circuits_end_at_other_relays_as_long_as_there_are_any() {
    let view = world(30, 30);
    let mut user = User::new(3);
    let mut taken = Vec::new();
    while let Some(path) = user.choose(&view, &taken).filter(|p| !taken.contains(&p[2])) {
        assert!(!user.policy.relaxed().last);
        taken.push(path[2]);
    }
    println!("{} distinct last hops of 30", taken.len());
    assert!(taken.len() >= 20);
    assert!(user.policy.relaxed().last);
    assert_eq!(user.policy.relaxed().words(), ["the network is too small for every circuit to end at another relay"]);
}

/// A region that is crowded may be nearly everybody, and a circuit that ends in it is of no use there (T22).
#[test]
fn a_circuit_ends_where_another_did_rather_than_in_vain() {
    let view = world(30, 30);
    let mut user = User::new(3);
    let one = user.choose(&view, &[]).unwrap()[2];
    let other = user.choose(&view, &[one]).unwrap()[2];
    let vain: Vec<NodeId> = (0..30).map(id).filter(|n| *n != one && *n != other).collect();
    let mut last = |taken: &[NodeId]| user.with(|policy, env| policy.choose(&view, env, taken, &vain)).unwrap()[2];
    for _ in 0..50 {
        assert_eq!((last(&[one]), last(&[other])), (other, one));
        assert!([one, other].contains(&last(&[one, other])));
    }
}

#[test]
fn small_networks_give_way_as_little_as_they_can_and_say_so() {
    for (n, groups, bent) in [(6u16, 6u16, false), (7, 4, false), (12, 4, false), (40, 40, false), (6, 4, false)] {
        let view = world(n, groups);
        let mut user = User::new(u64::from(n));
        for _ in 0..50 {
            let path = user.build(&view);
            assert_eq!(path.iter().collect::<BTreeSet<_>>().len(), 3, "a relay twice on a path");
            assert_eq!(user.policy.relaxed().groups, bent, "{n} in {groups}: {path:?}");
        }
        assert_eq!(user.policy.relaxed().layer2, user.second_layer().len() < LAYER2);
    }
    // Two sorts of relays, each too near to its own: six in one group, and a family in three others. Guard and last hop stay apart.
    let mut view = view_with_witnesses();
    for i in 0..9u16 {
        let group = i.saturating_sub(5) as u8;
        let mut d = plain(id(i), SocketAddr::from(([20, group, i as u8, 1], 443)));
        d.family = if i < 6 { vec![] } else { (6..9).map(id).collect() };
        view.insert(vouched_at(d, 3, 0, Position(id(i).0)), NOW);
    }
    for seed in 0..40 {
        let mut user = User::new(seed);
        let path = user.choose(&view, &[]).unwrap();
        assert!(apart(&view, &path[0], &path[2]), "{path:?}");
        assert!(user.policy.relaxed().groups);
        let words = user.policy.relaxed().words();
        assert!(words.iter().any(|w| w.contains("different address groups")), "{words:?}");
    }
}

#[test]
fn every_bent_rule_has_words_and_unbent_ones_none() {
    assert!(Relaxed::default().words().is_empty());
    let all = Relaxed { groups: true, layer2: true, last: true };
    let words: BTreeSet<String> = all.words().into_iter().collect();
    assert_eq!(words.len(), 3);
    assert!(words.iter().all(|w| w.contains("too small")));
}

#[test]
fn what_is_no_network_has_no_paths_and_makes_no_guards() {
    for (n, groups) in [(5, 5), (40, 3)] {
        let mut user = User::new(4);
        assert_eq!(user.choose(&world(n, groups), &[]), None);
        assert!(user.sample().is_empty() && user.second_layer().is_empty() && !user.policy.take_changed());
    }
}

// --- directories

#[test]
fn directories_are_the_guard_and_two_more_of_the_sample_in_distinct_groups() {
    for (n, groups) in [(300, 300), (300, 20), (30, 30), (8, 6)] {
        let view = world(n, groups);
        let mut user = User::new(u64::from(n + groups));
        let guard = user.build(&view)[0];
        let list = user.with(|policy, env| policy.directories(&view, env));
        assert_eq!(list.len(), DIRECTORIES);
        assert_eq!(list[0], guard);
        assert!(list.iter().all(|d| user.sample().contains(d)));
        let in_groups: BTreeSet<Group> = list.iter().map(|d| view.get(d).unwrap().group()).collect();
        assert_eq!(in_groups.len(), DIRECTORIES);
        for (i, a) in list.iter().enumerate() {
            assert!(list.iter().skip(i + 1).all(|b| apart(&view, a, b)));
        }
        let later = user.with(|policy, env| policy.directories(&view, env));
        assert_eq!(later, list, "they last");
    }
}

// --- a given last hop

#[test]
fn paths_to_a_given_relay_keep_all_rules_or_there_are_none() {
    let reachable = |view: &View, user: &mut User| {
        let mut to = 0;
        for last in view.usable().iter().map(|r| r.node()).collect::<Vec<_>>() {
            let Some(path) = user.with(|policy, env| policy.choose_to(view, env, &last)) else { continue };
            assert_eq!(path[2], last);
            assert!(apart(view, &path[0], &path[1]) && apart(view, &path[1], &path[2]) && apart(view, &path[0], &path[2]));
            assert!(user.sample()[0] == path[0] && user.second_layer().contains(&path[1]));
            to += 1;
        }
        to
    };
    // Each shares its group with nobody, and its family with one.
    let view = world(60, 60);
    let mut user = User::new(1);
    let guard = user.build(&view)[0];
    assert_eq!(reachable(&view, &mut user), 58, "to all but the guard and its family");
    assert_eq!(user.with(|policy, env| policy.choose_to(&view, env, &guard)), None);
    assert_eq!(user.with(|policy, env| policy.choose_to(&view, env, &NodeId([9; 32]))), None, "nobody knows it");
    // Groups of ten.
    let view = world(60, 6);
    let mut user = User::new(2);
    user.build(&view);
    let to = reachable(&view, &mut user);
    assert!((40..=50).contains(&to), "to {to}, of which none is in the guard's group");
}

#[test]
fn to_a_given_relay_rules_give_way_only_where_they_would_for_any() {
    // Four groups, and families across them: who stands near to the guard is met only when nobody else is there.
    let view = world(8, 4);
    let mut user = User::new(3);
    let guard = user.build(&view)[0];
    let relaxed = user.policy.relaxed();
    for last in view.usable().iter().map(|r| r.node()).collect::<Vec<_>>() {
        let near = last == guard || !apart(&view, &guard, &last);
        let path = user.with(|policy, env| policy.choose_to(&view, env, &last));
        assert!(!(near && path.is_some()), "a last hop beside the guard, and others are there");
    }
    assert_eq!(user.policy.relaxed(), relaxed, "what is said of paths for wishes stays");
    // One that failed lately is left alone.
    let view = world(60, 60);
    let mut user = User::new(4);
    let path = user.build(&view);
    user.failed(&path, 2);
    assert_eq!(user.with(|policy, env| policy.choose_to(&view, env, &path[2])), None);
}

// --- crowds

/// A thousand identities at one address weigh what one address weighs.
#[test]
fn a_crowd_at_one_address_is_drawn_like_one_relay() {
    let mut view = world(120, 120);
    let crowd = SocketAddr::from(([99, 99, 9, 9], 1));
    for i in 1000..2000 {
        let mut d = plain(id(i), crowd);
        d.addrs[0].set_port(i);
        d.expires = NOW.plus(1000 * DAY);
        view.insert(vouched_at(d, 3, 0, Position(id(i).0)), NOW);
    }
    assert_eq!(view.usable().len(), 1120);
    let of_the_crowd = |node: &NodeId| (1000..2000).any(|i| id(i) == *node);
    let (mut guards, mut last) = (0, 0);
    for seed in 0..300 {
        let mut user = User::new(seed);
        let [guard, _, end] = user.build(&view);
        guards += u32::from(of_the_crowd(&guard));
        last += u32::from(of_the_crowd(&end));
    }
    // One in 121 each: 2.5 of 300. Drawn by identity it would be nine in ten.
    assert!(guards <= 15 && last <= 15, "{guards} {last}");
}

/// Relays at /48s of one or two IPv6 allocations, put into a view.
fn with_ip6(view: &mut View, prefixes: u32, groups: u16) {
    view.reach_ip6(true);
    for i in 0..prefixes {
        let addr = SocketAddr::from(([0x2a00, 0x1000 + i as u16 % groups, (i / u32::from(groups)) as u16, 0, 0, 0, 0, 1], 443));
        let mut node = [0xbb; 32];
        node[..4].copy_from_slice(&i.to_be_bytes());
        let mut d = plain(NodeId(node), addr);
        d.expires = NOW.plus(1000 * DAY);
        // A place that follows from the /48, as real ones do.
        let net = crate::base::NetworkId([7; 32]);
        view.insert(vouched_at(d, 3, 0, crate::proto::overlay::region::position(&net, &addr)), NOW);
    }
}

/// The /48s of an IPv6 allocation cost nothing: beside 600 relays with IPv4, all relays of one /32 are drawn as often as one of
/// those, however many they are, and are never guards or directories.
#[test]
fn one_ip6_allocation_is_drawn_like_one_relay_and_guards_nobody() {
    let by_ip6 = |view: &View, n: &NodeId| view.get(n).is_some_and(|r| r.addr().is_ipv6());
    for (seed, prefixes, groups) in [(1, 256, 1), (2, 2000, 1), (3, 2000, 2)] {
        let mut view = world(600, 400);
        with_ip6(&mut view, prefixes, groups);
        assert_eq!(view.usable().len(), 600 + prefixes as usize);
        let (mut seconds, mut lasts, runs) = (0, 0, 6000);
        let mut user = User::new(seed);
        for run in 0..runs {
            if run % 20 == 0 {
                user.policy = PathPolicy::new(None);
                user.build(&view);
                let directories = user.with(|policy, env| policy.directories(&view, env));
                assert!(!user.sample().iter().chain(&directories).any(|n| by_ip6(&view, n)));
                seconds += user.second_layer().iter().filter(|n| by_ip6(&view, n)).count();
            }
            lasts += usize::from(by_ip6(&view, &user.choose(&view, &[]).unwrap()[2]));
        }
        println!(
            "seed {seed}: {prefixes} /48s in {groups} /32: last hop {lasts} of {runs}, second layer {seconds} of {}",
            runs / 5
        );
        // One in 601, for each /32, and three sigma.
        let most = |n: usize| {
            let mean = f64::from(groups) * n as f64 / 600.0;
            mean + 3.0 * mean.sqrt()
        };
        assert!((lasts as f64) <= most(runs) && (seconds as f64) <= most(runs / 5), "{lasts} {seconds}");
    }
}

/// A whole /32, a /48 each, is more than a view holds. It crowds out none of 600 others, and is drawn like one.
#[test]
fn a_whole_ip6_allocation_takes_nobodys_place_in_a_view() {
    let mut view = world(600, 400);
    with_ip6(&mut view, 65_536, 1);
    view.check();
    assert!(view.usable().len() > 15_000 && (0..600).all(|i| view.get(&id(i)).is_some()));
    let (mut lasts, runs) = (0, 2000);
    let mut user = User::new(5);
    user.build(&view);
    for _ in 0..runs {
        lasts += usize::from(view.get(&user.choose(&view, &[]).unwrap()[2]).is_some_and(|r| r.addr().is_ipv6()));
    }
    println!("seed 5: last hop {lasts} of {runs}");
    assert!(lasts <= 8 && !user.sample().iter().any(|n| view.get(n).is_some_and(|r| r.addr().is_ipv6())));
}
