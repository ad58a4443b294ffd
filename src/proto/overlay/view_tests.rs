//! What the view takes, keeps and counts.

use super::*;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::add_witnesses;
use crate::proto::overlay::testing::host_at;
use crate::proto::overlay::testing::host_key;
use crate::proto::overlay::testing::plain;
use crate::proto::overlay::testing::view_with_witnesses;
use crate::proto::overlay::testing::vouched;
use crate::wire::record::Descriptor;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn addr(a: u8, b: u8) -> SocketAddr {
    SocketAddr::from(([a, b, 0, 1], 443))
}

fn at(d: Descriptor) -> Arc<Verified> {
    let p = Position(kdf::hash(Label::Position, &[&d.node.0]));
    Verified::unchecked(d, p)
}

#[test]
fn newest_wins_and_equal_numbers_settle_the_same_way_in_any_order() {
    let node = NodeId([50; 32]);
    let mut a = vouched(node, addr(9, 9), 3, 0);
    a.seq = 5;
    let mut b = a.clone();
    b.onion_key = [77; 32];
    let mut c = a.clone();
    c.seq = 4;
    let (a, b, c) = (at(a), at(b), at(c));
    let mut winners = vec![];
    for order in [[&a, &b, &c], [&c, &b, &a], [&b, &c, &a]] {
        let mut view = view_with_witnesses();
        for d in order {
            view.insert(Arc::clone(d), NOW);
            view.check();
        }
        winners.push(*view.get(&node).unwrap().digest());
        assert_eq!(view.insert(Arc::clone(&c), NOW), Inserted::Known);
    }
    assert!(winners.iter().all(|w| *w == winners[0] && w != c.digest()));
}

#[test]
fn stale_future_and_special_addresses_are_refused() {
    let mut view = View::new(false);
    let d = at(plain(NodeId([1; 32]), addr(9, 9)));
    let day = 86_400 + limits::SKEW_MAX_SECS;
    assert_eq!(view.insert(Arc::clone(&d), NOW.plus(day)), Inserted::Time);
    assert_eq!(view.insert(Arc::clone(&d), Wall(NOW.0 - limits::SKEW_MAX_SECS - 1)), Inserted::Time);
    assert_eq!(view.insert(at(plain(NodeId([2; 32]), addr(10, 9))), NOW), Inserted::Address);
    assert_eq!(view.insert(d, NOW.plus(day - 1)), Inserted::New);
    assert_eq!(view.expire(NOW.plus(day)), 1);
    view.check();
    assert_eq!(view.counts(), Counts::default());
}

#[test]
fn receipts_make_relays_usable_only_from_seen_witnesses_in_distinct_groups() {
    let mut view = view_with_witnesses();
    // Three witnesses are three groups, so two receipts are needed; a fourth group makes it three.
    view.insert(at(vouched(NodeId([60; 32]), addr(60, 1), 2, 0)), NOW);
    assert!(view.get(&NodeId([60; 32])).is_none(), "with the fourth group three are needed");
    view.insert(at(vouched(NodeId([61; 32]), addr(61, 1), 3, 0)), NOW);
    assert!(view.get(&NodeId([61; 32])).is_some());
    // A clique that vouches for itself has no chain to anyone we dialled.
    for i in 70..80u8 {
        let mut d = plain(NodeId([i; 32]), addr(i, 1));
        d.receipts = (70..80u8)
            .filter(|w| *w != i)
            .map(|w| Receipt { witness: NodeId([w; 32]), subject: d.node, addr: d.addrs[0], day: NOW.day(), sig: [0; 64] })
            .take(5)
            .collect();
        view.insert(at(d), NOW);
    }
    assert_eq!(view.counts().relays, 1);
    view.check();
    // Old receipts do not count.
    view.insert(at(vouched(NodeId([62; 32]), addr(62, 1), 3, limits::RECEIPT_LIFE_DAYS + 1)), NOW);
    assert!(view.get(&NodeId([62; 32])).is_none());
}

#[test]
fn a_late_witness_makes_waiting_relays_usable() {
    let mut view = View::new(false);
    let mut d = vouched(NodeId([61; 32]), addr(61, 1), 3, 2);
    d.host_key = Some(host_key());
    view.insert(at(d), NOW);
    assert_eq!(view.counts().relays, 0);
    add_witnesses(&mut view);
    assert_eq!((view.counts().relays, view.counts().hosts), (1, 1));
    view.check();
}

/// A relay whose own receipts come from strangers is connected with all whom it was a witness for, and they with it, in any order.
#[test]
fn receipts_connect_both_ways() {
    let by = |witness: u8, i: u8| {
        let mut d = plain(NodeId([i; 32]), addr(i, 1));
        d.receipts =
            vec![Receipt { witness: NodeId([witness; 32]), subject: d.node, addr: d.addrs[0], day: NOW.day(), sig: [0; 64] }];
        at(d)
    };
    // 20 was a witness of 21, and 22 of 20; only 21 was dialled.
    let chain = [by(90, 22), by(22, 20), by(20, 21)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut view = View::new(false);
        let mut seen = 0;
        for i in order {
            view.insert(Arc::clone(&chain[i]), NOW);
            view.prove(&NodeId([21; 32]), &addr(21, 1), Time(0));
            seen = view.entries().filter(|e| e.standing.seen).count();
            view.check();
        }
        assert_eq!(seen, 3, "{order:?}");
        // Without the one between them, the far end was never heard of.
        let mut view = View::new(false);
        view.insert(Arc::clone(&chain[0]), NOW);
        view.insert(Arc::clone(&chain[2]), NOW);
        view.prove(&NodeId([21; 32]), &addr(21, 1), Time(0));
        assert_eq!(view.entries().filter(|e| e.standing.seen).count(), 1);
    }
}

/// A relay that is usable by fresh receipts becomes a host when the witnesses of its old ones turn out to be seen, in any order.
#[test]
fn late_witnesses_make_a_usable_relay_a_host() {
    let receipt = |witness: u8, subject: &Descriptor, age: u32| Receipt {
        witness: NodeId([witness; 32]),
        subject: subject.node,
        addr: subject.addrs[0],
        day: NOW.day() - age,
        sig: [0; 64],
    };
    let mut subject = vouched(NodeId([61; 32]), addr(61, 1), 3, 0);
    subject.host_key = Some(host_key());
    let late: Vec<Descriptor> = [91u8, 92].iter().map(|i| plain(NodeId([*i; 32]), addr(*i, 1))).collect();
    subject.receipts.extend([receipt(91, &subject, 3), receipt(92, &subject, 3)]);
    let mut view = view_with_witnesses();
    view.insert(at(subject.clone()), NOW);
    for witness in late {
        view.insert(at(witness.clone()), NOW);
        view.prove(&witness.node, &witness.addrs[0], Time(0));
        view.check();
    }
    assert!(view.entry(&subject.node).is_some_and(|e| e.usable && e.host));
}

#[test]
fn hosts_need_an_address_unchanged_for_a_day() {
    let mut view = View::new(false);
    add_witnesses(&mut view);
    for (i, age, hosts) in [(61u8, 0, 0), (62, 1, 0), (63, 2, 1)] {
        let mut d = vouched(NodeId([i; 32]), addr(i, 1), 3, age);
        d.host_key = Some(host_key());
        view.insert(at(d), NOW);
        assert_eq!(view.counts().hosts, hosts, "{age}");
        assert!(view.get(&NodeId([i; 32])).is_some());
    }
}

#[test]
fn a_full_view_keeps_the_same_sample_in_any_order() {
    let mut rng = StdRng::seed_from_u64(1);
    let relays: Vec<_> = (0..600u16)
        .map(|i| {
            let a = addr(20 + (i >> 8) as u8, i as u8);
            host_at(&mut rng, a, Position(kdf::hash(Label::Position, &[&i.to_be_bytes()])))
        })
        .collect();
    let fill = |order: &mut dyn Iterator<Item = &Arc<Verified>>| {
        let mut view = view_with_witnesses();
        view.max = 200;
        for r in order {
            view.insert(Arc::clone(r), NOW);
        }
        view.check();
        view.usable().iter().map(|r| r.node()).collect::<BTreeSet<_>>()
    };
    let (a, b) = (fill(&mut relays.iter()), fill(&mut relays.iter().rev()));
    assert!(a.len() >= 180 && a.len() <= 200);
    assert!(a.intersection(&b).count() >= 180, "{}", a.intersection(&b).count());
}

#[test]
fn unusable_descriptors_cannot_fill_the_view() {
    let mut view = view_with_witnesses();
    view.insert(at(vouched(NodeId([61; 32]), addr(61, 1), 3, 0)), NOW);
    for i in 0..9000u32 {
        let mut id = [0xee; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        view.insert(at(plain(NodeId(id), addr(90, i as u8))), NOW);
    }
    view.check();
    assert!(view.counts().pending <= limits::VIEW_PENDING_MAX);
    assert_eq!(view.counts().relays, 1);
}

#[test]
fn arrivals_tell_what_changed_since() {
    let mut view = view_with_witnesses();
    for i in 61..=70u8 {
        view.insert(at(vouched(NodeId([i; 32]), addr(i, 1), 3, 0)), NOW);
    }
    let mark = view.newest();
    assert_eq!(view.arrivals(0, 100).count(), 10);
    let mut newer = vouched(NodeId([65; 32]), addr(65, 1), 3, 0);
    newer.seq = 2;
    view.insert(at(newer), NOW);
    let since: Vec<NodeId> = view.arrivals(mark, 100).map(|(_, r)| r.node()).collect();
    assert_eq!(since, [NodeId([65; 32])]);
    assert!(view.by_hint(hint_id(&NodeId([65; 32]))).is_some_and(|e| e.relay.descriptor().seq == 2));
    view.check();
}
