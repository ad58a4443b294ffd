//! What paths look like, over time and under pressure.

use super::*;
use crate::base::Position;
use crate::base::Time;
use crate::proto::overlay::testing;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::view_with_witnesses;
use crate::proto::overlay::testing::vouched;
use core::net::SocketAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

fn id(i: u16) -> NodeId {
    let mut node = [0xaa; 32];
    node[..2].copy_from_slice(&i.to_be_bytes());
    NodeId(node)
}

/// `n` relays in `groups` groups; neighbours (0, 1), (2, 3).. are families.
fn world(n: u16, groups: u16) -> View {
    let mut view = view_with_witnesses();
    for i in 0..n {
        let g = i % groups;
        let addr = SocketAddr::from(([20 + (g >> 8) as u8, g as u8, (i / groups) as u8, 1], 443));
        let mut d = vouched(id(i), addr, 3, 0);
        d.family = vec![id(i ^ 1)];
        view.insert(Verified::unchecked(d, Position(id(i).0)), NOW);
    }
    view
}

struct Chance(StdRng, Wall);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed), NOW)
    }

    fn env(&mut self) -> Env<'_> {
        Env { now: Time(0), wall: self.1, rng: &mut self.0 }
    }
}

#[test]
fn hops_are_apart_in_group_and_family_and_never_ourselves() {
    let view = world(200, 60);
    for seed in 0..20 {
        let mut c = Chance::new(seed);
        let me = id(seed as u16);
        let mut policy = PathPolicy::new(Some(me), true);
        let (mut guards, mut seconds) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..200 {
            let path = policy.choose(&view, &mut c.env(), Wish::default()).unwrap();
            assert!(path.relaxed.is_none(), "{:?}", path.relaxed);
            let [a, b, d] = &path.hops;
            for (x, y) in [(a, b), (a, d), (b, d)] {
                assert!(x.group() != y.group() && !x.is_family(y) && x.node() != y.node());
            }
            assert!(!path.nodes().contains(&me));
            guards.insert(a.node());
            seconds.insert(b.node());
        }
        assert_eq!((guards.len(), seconds.len()), (1, 4));
        policy.check();
    }
}

#[test]
fn last_hops_are_uniform() {
    let view = world(40, 40);
    let mut c = Chance::new(1);
    let mut policy = PathPolicy::new(None, true);
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    for _ in 0..4000 {
        *counts.entry(policy.choose(&view, &mut c.env(), Wish::default()).unwrap().nodes()[2]).or_insert(0) += 1;
    }
    // The guard, its family, and for each second hop that hop and its family are out; the others are alike.
    let guard = policy.guard(&view).unwrap();
    let plain = counts.iter().filter(|(n, _)| {
        policy.layer2.iter().all(|s| s.node != **n && !view.get(&s.node).unwrap().is_family(view.get(n).unwrap()))
    });
    let values: Vec<u32> = plain.map(|(_, v)| *v).collect();
    assert!(!counts.contains_key(&guard.node()));
    assert!(values.len() >= 28);
    assert!(values.iter().all(|v| (70..170).contains(v)), "{values:?}");
}

#[test]
fn wishes_are_kept_where_they_can_be_and_told_where_not() {
    let view = world(100, 100);
    let mut c = Chance::new(2);
    let mut policy = PathPolicy::new(None, true);
    let avoid: Vec<NodeId> = (0..50).map(id).collect();
    let outside = |r: &Verified| r.addr().ip() != SocketAddr::from(([20, 77, 0, 1], 0)).ip();
    for _ in 0..300 {
        let wish = Wish { avoid: &avoid, avoid_groups: &[Group([4, 20, 60, 0, 0])], last: Some(&outside) };
        let path = policy.choose(&view, &mut c.env(), wish).unwrap();
        let last = path.nodes()[2];
        assert!(path.relaxed.is_none() && !avoid.contains(&last) && last != id(77) && last != id(60));
    }
    let never = |_: &Verified| false;
    let path = policy.choose(&view, &mut c.env(), Wish { last: Some(&never), ..Wish::default() }).unwrap();
    assert!(path.relaxed.contains(Relaxed::LAST_HOP) && !path.relaxed.contains(Relaxed::GROUP));
    assert_eq!(path.relaxed.words().collect::<Vec<_>>(), ["last-hop"]);
}

#[test]
fn small_networks_give_way_as_little_as_they_can() {
    let mut c = Chance::new(3);
    for (n, groups) in [(3u16, 3u16), (3, 1), (6, 4), (7, 4)] {
        let view = world(n, groups);
        let mut policy = PathPolicy::new(None, true);
        let path = policy.choose(&view, &mut c.env(), Wish::default()).unwrap();
        assert_eq!(path.nodes().iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(path.relaxed.contains(Relaxed::LAYER2) || n > 4);
        if n >= 6 {
            assert!(!path.relaxed.contains(Relaxed::GROUP), "{n} in {groups}");
        }
    }
    assert!(PathPolicy::new(None, true).choose(&world(2, 2), &mut c.env(), Wish::default()).is_none());
}

#[test]
fn guards_stay_for_months_and_second_hops_for_days() {
    let view = world(300, 300);
    let mut c = Chance::new(4);
    let mut policy = PathPolicy::new(None, true);
    let (mut guards, mut seconds) = (BTreeSet::new(), BTreeSet::new());
    for day in 0..365u64 {
        c.1 = NOW.plus(day * DAY);
        for _ in 0..8 {
            let path = policy.choose(&view, &mut c.env(), Wish::default()).unwrap();
            guards.insert(path.nodes()[0]);
            seconds.insert(path.nodes()[1]);
        }
        policy.check();
    }
    println!("a year: {} guards, {} second hops", guards.len(), seconds.len());
    assert!((4..=5).contains(&guards.len()));
    // The mean life is 8.3 days: about 4 * 365 / 8.3 = 176 draws.
    assert!((100..=200).contains(&seconds.len()));
}

#[test]
fn killing_dials_does_not_walk_a_client_through_the_network() {
    let view = world(300, 300);
    let mut c = Chance::new(5);
    let mut policy = PathPolicy::new(None, false);
    let first = policy.choose(&view, &mut c.env(), Wish::default()).unwrap().nodes()[0];
    // A thousand failures at once are one.
    for _ in 0..1000 {
        policy.guard_failed(&c.env(), &first);
    }
    assert_eq!(policy.choose(&view, &mut c.env(), Wish::default()).unwrap().nodes()[0], first);
    // Every dial fails for a day: few guards are drawn, the sample is bounded, and the node knows that it is the network.
    let mut drawn = BTreeSet::new();
    for second in (0..DAY).step_by(5) {
        c.1 = NOW.plus(second);
        let Some(path) = policy.choose(&view, &mut c.env(), Wish::default()) else { continue };
        drawn.insert(path.nodes()[0]);
        policy.guard_failed(&c.env(), &path.nodes()[0]);
        policy.check();
    }
    assert_eq!(drawn.len(), UNPROVEN_MAX);
    assert!(policy.network_down());
    // When the network comes back, so does the first guard.
    c.1 = NOW.plus(2 * DAY);
    let back = policy.choose(&view, &mut c.env(), Wish::default()).unwrap().nodes()[0];
    assert_eq!(back, first);
    policy.guard_worked(&first);
    assert!(!policy.network_down());
}

#[test]
fn state_survives_a_restart_and_damage_is_refused() {
    let view = world(100, 100);
    let mut c = Chance::new(6);
    let mut policy = PathPolicy::new(None, true);
    policy.choose(&view, &mut c.env(), Wish::default()).unwrap();
    let directories: Vec<NodeId> = policy.directories(&view, &mut c.env()).iter().map(|r| r.node()).collect();
    assert_eq!(directories.len(), 3);
    assert_eq!(directories[0], policy.guard(&view).unwrap().node());
    assert!(policy.take_dirty() && !policy.take_dirty());
    let bytes = policy.encode();
    let mut again = PathPolicy::decode(&bytes, None, true).unwrap();
    assert_eq!(again.encode(), bytes);
    assert_eq!(again.directories(&view, &mut c.env()).iter().map(|r| r.node()).collect::<Vec<_>>(), directories);
    assert!(!again.take_dirty(), "nothing new is drawn");
    for n in 0..bytes.len() {
        assert!(PathPolicy::decode(&bytes[..n], None, true).is_err(), "{n}");
    }
    let mut newer = bytes.clone();
    newer[1] = 2;
    assert_eq!(PathPolicy::decode(&newer, None, true).unwrap_err(), DecodeError::Newer);
    let _ = testing::host_key();
}
