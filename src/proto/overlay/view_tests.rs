//! What the view takes, keeps and counts.

use super::*;
use crate::base::Time;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::add_witnesses;
use crate::proto::overlay::testing::host_at;
use crate::proto::overlay::testing::host_key;
use crate::proto::overlay::testing::plain;
use crate::proto::overlay::testing::view_with_witnesses;
use crate::proto::overlay::testing::vouched as testing_vouched;
use crate::proto::overlay::testing::vouched_at;
use crate::wire::record::Descriptor;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn addr(a: u8, b: u8) -> SocketAddr {
    SocketAddr::from(([a, b, 0, 1], 443))
}

fn place(node: &NodeId) -> Position {
    Position(kdf::hash(Label::Position, &[&node.0]))
}

/// A relay as described, with these receipts.
fn with(d: Descriptor, receipts: Vec<Receipt>) -> Arc<Verified> {
    let p = place(&d.node);
    Verified::unchecked(d, receipts, p)
}

fn at(d: Descriptor) -> Arc<Verified> {
    with(d, vec![])
}

/// A relay at its own address, vouched for by so many standing witnesses.
fn vouched(i: u8, n: u8, age: u32) -> Arc<Verified> {
    let d = plain(NodeId([i; 32]), addr(i, 1));
    let p = place(&d.node);
    vouched_at(d, n, age, p)
}

fn made(onion: u8, at: u64) -> Descriptor {
    let mut d = plain(NodeId([50; 32]), addr(50, 1));
    (d.onion_key, d.published, d.expires) = ([onion; 32], Wall(at), Wall(at + 86_400));
    d
}

fn made_at(onion: u8, at: u64) -> Arc<Verified> {
    let d = made(onion, at);
    let p = place(&d.node);
    vouched_at(d, 3, 0, p)
}

#[test]
fn the_newest_descriptor_wins_in_any_order() {
    let (node, slot) = (NodeId([50; 32]), limits::DESCRIPTOR_SLOT_SECS);
    let [old, newer, newest] = [(1, 0), (2, 1), (3, 2)].map(|(onion, n)| made_at(onion, NOW.0 + n * slot));
    for order in [[&old, &newer, &newest], [&newest, &newer, &old], [&newer, &newest, &old]] {
        let mut view = View::new(false);
        add_witnesses(&mut view);
        for relay in order {
            view.insert(Arc::clone(relay), NOW);
            view.check();
        }
        assert_eq!(view.get(&node).unwrap().body(), newest.body());
        assert_eq!(view.insert(Arc::clone(&old), NOW), Inserted::Known);
    }
}

/// Two descriptors of one slot strike their relay out, whichever comes first, until both have ended; nobody else's news do, and
/// none that its owner makes later helps.
#[test]
fn who_shows_different_faces_is_struck_out() {
    let node = NodeId([50; 32]);
    let (one, other) = (made_at(1, NOW.0), made_at(2, NOW.0 + 1));
    for (first, second) in [(&one, &other), (&other, &one)] {
        let mut view = View::new(false);
        add_witnesses(&mut view);
        assert_eq!(view.insert(Arc::clone(first), NOW), Inserted::New);
        assert!(view.get(&node).is_some());
        assert_eq!(view.insert(Arc::clone(second), NOW), Inserted::Faces);
        view.check();
        assert!(view.entry(&node).is_none() && view.faces_of(&node).is_some());
        assert_eq!(view.faces_by_hint(hint_id(&node)).map(|f| f.node()), Some(node));
        let later = made_at(3, NOW.0 + 7200);
        assert_eq!(view.insert(later, NOW.plus(7200)), Inserted::Struck);
        let until = NOW.plus(86_401 + limits::SKEW_MAX_SECS);
        view.expire(Wall(until.0 - 1));
        assert!(view.faces_of(&node).is_some());
        view.expire(until);
        assert!(view.faces_of(&node).is_none());
    }
}

/// No number sticks: one from the future is refused, whatever it says, and what is newer comes after it.
#[test]
fn no_descriptor_outlives_its_time_by_what_it_says_of_it() {
    let mut view = View::new(false);
    add_witnesses(&mut view);
    for far in [u64::MAX - 86_400, NOW.0 + limits::SKEW_MAX_SECS + 1] {
        assert_eq!(view.insert(made_at(1, far), NOW), Inserted::Time);
    }
    assert_eq!(view.insert(made_at(1, NOW.0 + limits::SKEW_MAX_SECS), NOW), Inserted::New);
    let next = NOW.0 + limits::SKEW_MAX_SECS + limits::DESCRIPTOR_SLOT_SECS;
    assert_eq!(view.insert(made_at(2, next), Wall(next)), Inserted::Newer);
}

/// A fresher word about the known descriptor keeps its place in what readers are told; an old one changes nothing.
#[test]
fn a_freshness_is_no_change_to_those_who_read_the_list() {
    let mut view = View::new(false);
    add_witnesses(&mut view);
    let first = made_at(1, NOW.0);
    view.insert(Arc::clone(&first), NOW);
    let mark = view.listed(9).next;
    let again = Verified::said_again(&first, NOW.plus(3600));
    assert_eq!(view.insert(Arc::clone(&again), NOW), Inserted::Fresher);
    assert_eq!(view.insert(first, NOW), Inserted::Known);
    assert!(view.changes(mark, 9).unwrap().list.is_empty());
    assert_eq!(view.get(&NodeId([50; 32])).unwrap().published(), NOW.plus(3600));
    view.check();
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
    view.insert(vouched(60, 2, 0), NOW);
    assert!(view.get(&NodeId([60; 32])).is_none(), "with the fourth group three are needed");
    view.insert(vouched(61, 3, 0), NOW);
    assert!(view.get(&NodeId([61; 32])).is_some());
    // A clique that vouches for itself has no chain to anyone we dialled.
    for i in 70..80u8 {
        let d = plain(NodeId([i; 32]), addr(i, 1));
        let receipts = (70..80u8)
            .filter(|w| *w != i)
            .map(|w| Receipt { witness: NodeId([w; 32]), subject: d.node, addr: d.addrs[0], hour: NOW.hour(), sig: [0; 64] })
            .take(5)
            .collect();
        view.insert(with(d, receipts), NOW);
    }
    assert_eq!(view.counts().relays, 1);
    view.check();
    // Old receipts do not count.
    view.insert(vouched(62, 3, limits::RECEIPT_LIFE_HOURS / 24 + 1), NOW);
    assert!(view.get(&NodeId([62; 32])).is_none());
}

#[test]
fn a_late_witness_makes_waiting_relays_usable() {
    let mut view = View::new(false);
    view.insert(host(61, 2), NOW);
    assert_eq!(view.counts().relays, 0);
    add_witnesses(&mut view);
    assert_eq!((view.counts().relays, view.counts().hosts), (1, 1));
    view.check();
}

/// A relay that hosts, with three receipts of this age.
fn host(i: u8, age: u32) -> Arc<Verified> {
    let mut d = plain(NodeId([i; 32]), addr(i, 1));
    d.host_key = Some(host_key());
    let p = place(&d.node);
    vouched_at(d, 3, age, p)
}

/// A relay whose own receipts come from strangers is connected with all whom it was a witness for, and they with it, in any order.
#[test]
fn receipts_connect_both_ways() {
    let by = |witness: u8, i: u8| {
        let d = plain(NodeId([i; 32]), addr(i, 1));
        let receipt = Receipt { witness: NodeId([witness; 32]), subject: d.node, addr: d.addrs[0], hour: NOW.hour(), sig: [0; 64] };
        with(d, vec![receipt])
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
        hour: NOW.hour() - 24 * age,
        sig: [0; 64],
    };
    let mut subject = plain(NodeId([61; 32]), addr(61, 1));
    subject.host_key = Some(host_key());
    let mut receipts = testing_vouched(subject.node, addr(61, 1), 3, 0);
    let late: Vec<Descriptor> = [91u8, 92].iter().map(|i| plain(NodeId([*i; 32]), addr(*i, 1))).collect();
    receipts.extend([receipt(91, &subject, 3), receipt(92, &subject, 3)]);
    let mut view = view_with_witnesses();
    view.insert(with(subject.clone(), receipts), NOW);
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
    for (i, age, hosts) in [(61u8, 0, 0), (63, 1, 1)] {
        view.insert(host(i, age), NOW);
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
    view.insert(vouched(61, 3, 0), NOW);
    for i in 0..9000u32 {
        let mut id = [0xee; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        view.insert(at(plain(NodeId(id), addr(90, i as u8))), NOW);
    }
    view.check();
    assert!(view.counts().pending <= limits::VIEW_PENDING_MAX);
    assert_eq!(view.counts().relays, 1);
}

/// Who reads the list hears of those who came, changed and went, in order and in parts; who was away too long reads it all.
#[test]
fn changes_tell_what_came_and_went_since() {
    let mut view = view_with_witnesses();
    let relay = |i| vouched(i, 3, 0);
    for i in 61..=70u8 {
        view.insert(relay(i), NOW);
    }
    let all = view.listed(100);
    assert!(all.list.len() == 10 && !all.more && all.next == Mark { came: view.newest(), gone: view.newest() });
    let part = view.listed(4);
    assert!(part.list.len() == 4 && part.more && view.changes(part.next, 100).unwrap().list.len() == 6);
    let mark = all.next;
    let mut newer = plain(NodeId([65; 32]), addr(65, 1));
    newer.published = NOW.plus(1);
    let p = place(&newer.node);
    view.insert(vouched_at(newer, 3, 0, p), NOW);
    view.remove(&NodeId([66; 32]));
    let since = view.changes(mark, 100).unwrap();
    let [Change::Gone(gone), Change::Came(came)] = since.list[..] else { panic!("{since:?}") };
    assert_eq!((came.node(), gone), (NodeId([65; 32]), hint_id(&NodeId([66; 32]))));
    // Those who went come first, and nobody of those who came before all of them are told.
    let part = view.changes(mark, 1).unwrap();
    assert!(matches!(part.list[..], [Change::Gone(_)]) && part.more && part.next.came == mark.came);
    let part = view.changes(part.next, 1).unwrap();
    assert!(matches!(part.list[..], [Change::Came(_)]) && !part.more);
    // One that went and came again is there.
    view.insert(relay(66), NOW);
    assert!(matches!(view.changes(mark, 100).unwrap().list[..], [Change::Came(_), Change::Came(_)]));
    view.check();
}

/// Somebody who comes and goes, over and over, has one place in what is remembered: nobody has to read everything for it, and
/// whoever does gets to the end, page by page.
#[test]
fn one_relay_that_flaps_makes_no_list_endless() {
    let mut view = view_with_witnesses();
    let relay = |i| vouched(i, 3, 0);
    for i in 61..=70u8 {
        view.insert(relay(i), NOW);
    }
    let before = view.listed(100).next;
    view.remove(&NodeId([70; 32]));
    for _ in 0..3000 {
        view.remove(&NodeId([66; 32]));
        view.insert(relay(66), NOW);
    }
    view.check();
    assert_eq!(view.changes(before, 100).expect("nobody else was forgotten").list.len(), 2, "one went, one came");
    let (mut page, mut read) = (view.listed(2), 0);
    for _ in 0..5 {
        read += page.list.len();
        page = view.changes(page.next, 2).expect("the next page");
    }
    assert!(read == 9 && !page.more, "{read}");
}

/// So many went that not all are remembered: who was away reads everything anew, and that has an end, though others go meanwhile.
#[test]
fn a_whole_list_is_read_to_its_end_after_more_went_than_are_remembered() {
    let mut view = View::of_client(false);
    let relay = |i: u32| {
        let mut id = [7; 32];
        id[..4].copy_from_slice(&i.to_be_bytes());
        at(plain(NodeId(id), addr(20 + (i >> 8) as u8, i as u8)))
    };
    for i in 0..1500 {
        view.adopt(relay(i).body(), false, NOW);
    }
    let away = view.listed(2000).next;
    for i in 0..1100 {
        view.remove(&relay(i).node());
    }
    view.check();
    assert!(view.changes(away, 100).is_none());
    let (mut page, mut known) = (view.listed(100), BTreeSet::new());
    for i in 1100.. {
        for change in &page.list {
            match change {
                Change::Came(relay) => assert!(known.insert(relay.hint_id())),
                Change::Gone(hint) => drop(known.remove(hint)),
            }
        }
        if !page.more {
            break;
        }
        assert!(i < 1110, "it has no end");
        let next = page.next;
        view.remove(&relay(i).node());
        page = view.changes(next, 100).expect("the next page");
    }
    assert_eq!(known, view.usable().iter().map(|r| r.hint_id()).collect());
}

/// A client's view holds what is agreed on, takes its bytes as they are, and is no judge of anything.
#[test]
fn a_client_adopts_what_is_agreed_on() {
    let mut view = View::of_client(false);
    let one = host(61, 0);
    assert_eq!(view.adopt(one.body(), true, NOW), Inserted::New);
    assert_eq!(view.adopt(one.body(), true, NOW), Inserted::Known);
    assert_eq!((view.counts().relays, view.counts().hosts), (1, 1));
    assert_eq!(view.adopt(one.body(), false, NOW), Inserted::Newer);
    assert_eq!((view.counts().relays, view.counts().hosts), (1, 0));
    view.check();
    // Another face of it, were it agreed on, takes its place; once struck out it has none.
    let mut d = one.descriptor().clone();
    d.onion_key = [9; 32];
    let other = at(d);
    assert_eq!(view.adopt(other.body(), true, NOW), Inserted::Newer);
    assert_eq!(view.counts().relays, 1);
    view.strike_out(Faces::new(Arc::clone(one.body()), Arc::clone(other.body()), false).unwrap());
    assert_eq!(view.adopt(one.body(), true, NOW), Inserted::Struck);
    assert_eq!(view.counts().relays, 0);
    let life = 86_400 + limits::SKEW_MAX_SECS;
    assert_eq!(view.adopt(host(62, 0).body(), true, NOW.plus(life)), Inserted::Time);
    view.check();
}

/// Sixty relays of one /24 are drawn as often as one of another; and near a place they count once, as long as there are others.
#[test]
fn a_crowd_of_one_prefix_counts_like_one_relay() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut view = view_with_witnesses();
    let crowd = SocketAddr::from(([40, 1, 0, 1], 1));
    for i in 1..=19u8 {
        view.insert(host_at(&mut rng, addr(30, i), Position([i * 10; 32])), NOW);
    }
    for i in 1..=60u8 {
        view.insert(host_at(&mut rng, SocketAddr::from(([40, 1, 0, i], 1)), Position([i; 32])), NOW);
    }
    assert_eq!((view.usable().len(), view.prefixes()), (79, 20));
    let is_crowd = |r: &Arc<Verified>| r.prefix() == Prefix::of(&crowd);
    let drawn = (0..10_000).filter(|_| view.random(&mut rng).is_some_and(is_crowd)).count();
    assert!((400..600).contains(&drawn), "{drawn} of 10,000 where 500 are due");
    let near = |max| view.near_apart(&[30; 32], max).into_iter().map(|r| (is_crowd(r), r.node())).collect::<Vec<_>>();
    assert_eq!(near(16).iter().filter(|(crowd, _)| *crowd).count(), 1);
    let all: BTreeSet<NodeId> = near(79).into_iter().map(|(_, node)| node).collect();
    assert_eq!((near(16).len(), all.len()), (16, 79), "where there are no others, they fill up");
    assert!(View::new(true).random(&mut rng).is_none());
}
