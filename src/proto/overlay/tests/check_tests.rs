//! Relays that are not there, or no more, among machines wired to each other.

use super::*;
use crate::wire::overlay::Part;
use crate::wire::record::Receipt;

/// Invented relays, well signed, from number `first` on; the real one vouches for so many of them, and they for each other.
pub(super) fn crowd(world: &World, real: usize, first: usize, size: usize, vouched: usize) -> Vec<Forged> {
    crowd_at(world, real, first, size, vouched, relay_addr)
}

/// The same, at these addresses.
fn crowd_at(world: &World, real: usize, first: usize, size: usize, vouched: usize, at: fn(usize) -> SocketAddr) -> Vec<Forged> {
    let wall = Wall(EPOCH + world.now.0 / 1_000_000);
    let keys: Vec<IdentityKey> = (0..size).map(|i| key(999, first + i)).collect();
    let one = |(i, own): (usize, &IdentityKey)| {
        let (node, addr) = (own.node_id(), at(first + i));
        let mut d = testing::plain(node, addr);
        (d.published, d.expires) = (wall, wall.plus(86_400));
        let witness = (i < vouched).then(|| &world.nodes[real].key).into_iter();
        let others = [1, 2, 3, 4, size / 2].map(|step| &keys[(i + step) % size]);
        let receipt = |w: &IdentityKey| -> Receipt { record::sign_receipt(w, &NET, node, addr, wall.hour()) };
        let receipts = witness.chain(others).take(5).map(receipt).collect();
        let own_job = OverlayJob::SignOwn { body: OwnBody::New(Box::new(d)), receipts, now: wall };
        let JobOutcome::Signed(Some(relay)) = own_job.run(&NET, Some(own)) else { panic!("not signed") };
        Forged { node, body: relay.body().encode(), fresh: relay.fresh().unwrap().encode() }
    };
    keys.iter().enumerate().map(one).collect()
}

/// Each announces itself to three relays, over links from somewhere that stay open.
fn announce(world: &mut World, real: usize, crowd: &[Forged]) {
    for (n, forged) in crowd.iter().enumerate() {
        // Those who vouch for each other go together.
        for step in [1, 7, 18] {
            let i = (n / 20 + step) % world.by_addr.len();
            let link = LinkId(world.next_link);
            world.next_link += 1;
            // Answers lead nowhere.
            world.nodes[i].links.insert(link, (real, LinkId(u64::MAX)));
            let remote = SocketAddr::from(([9, 9, 9, 9], 50_000));
            world.feed(i, Input::LinkUp { link, node: Some(forged.node), remote, dialled: false, wall: None });
            let (descriptor, freshness) = (Blob(forged.body.clone()), Blob(forged.fresh.clone()));
            let bytes = Message::Announce { id: 1, descriptor, freshness }.encode().unwrap();
            world.feed(i, Input::Message { link, bytes });
        }
        let soon = world.now + Duration::from_millis(50);
        world.run_until(soon);
    }
}

fn used(world: &World, i: usize, crowd: &[Forged]) -> usize {
    crowd.iter().filter(|f| world.nodes[i].overlay.view().get(&f.node).is_some()).count()
}

/// With the timers of the open internet: relays that know each other for an hour let one real relay bring in ten invented ones of
/// 300 at the most, and none after half an hour; of its next 300, two at the most. Whether it vouches for all of them itself, or
/// for some, and those for the others.
#[test]
fn invented_relays_are_few_and_soon_gone() {
    for (seed, vouched) in [(51, 300), (52, 12), (53, 1), (54, 60)] {
        println!("seed {seed}");
        let mut world = network(60, seed, false);
        settle(&mut world, 300);
        world.run_until(world.now + Duration::from_secs(3600));
        for (round, most_allowed) in [(0, 10), (1, 2)] {
            invent(&mut world, vouched, round, most_allowed);
        }
    }
}

fn invent(world: &mut World, vouched: usize, round: usize, most_allowed: usize) {
    let (real, all) = (5, 60);
    let crowd = crowd(world, real, 3000 + 300 * round, 300, vouched);
    announce(world, real, &crowd);
    let began = world.now;
    let (mut most, mut last) = (0, Duration::ZERO);
    while world.now.since(began) < Duration::from_secs(2400) {
        let worst = (0..all).map(|i| used(world, i, &crowd)).max().unwrap();
        most = most.max(worst);
        if worst > 0 {
            last = world.now.since(began);
        }
        // But for the liar, to whom the links of his crowd lead in this world: who dials him may get one of those.
        let honest = || (0..all).filter(|i| *i != real);
        let uses = |i: usize, j: usize| i == j || world.nodes[i].overlay.view().get(&world.nodes[j].key.node_id()).is_some();
        assert!(honest().all(|i| honest().all(|j| uses(i, j))), "an honest relay was lost");
        world.run_until(world.now + Duration::from_secs(10));
    }
    let heard = |n: &Node| crowd.iter().filter(|f| n.overlay.view().entry(&f.node).is_some()).count();
    let heard = world.nodes.iter().map(heard).max().unwrap();
    println!("{vouched} vouched for, round {round}: heard of {heard}, most used {most}, the last after {last:?}");
    assert!(heard >= 20 && most <= most_allowed && last < Duration::from_secs(1800));
    world.nodes.iter().for_each(|n| n.overlay.view().check());
}

fn ip6_addr(i: usize) -> SocketAddr {
    SocketAddr::from(([0x2a00 + (i / 200) as u16, i as u16, 1, 0, 0, 0, 0, 1], 443))
}

/// Among relays that reach nobody over IPv6, relays that have IPv6 alone are used by none, named by none, and no others for their
/// word; and little time is lost on them.
#[test]
fn ip6_relays_are_nothing_to_whom_cannot_dial_them() {
    let (n, real, seed) = (40, 5, 61);
    println!("seed {seed}");
    let mut world = network(n, seed, false);
    settle(&mut world, 300);
    world.run_until(world.now + Duration::from_secs(1800));
    let crowd = crowd_at(&world, real, 3000, 300, 60, ip6_addr);
    world.dials.clear();
    announce(&mut world, real, &crowd);
    let heard = |n: &Node| crowd.iter().filter(|f| n.overlay.view().entry(&f.node).is_some()).count();
    assert!(world.nodes.iter().map(heard).max().unwrap() >= 10);
    let ids: Vec<u64> = crowd.iter().map(|f| record::hint_id(&f.node)).collect();
    for _ in 0..24 {
        world.run_until(world.now + Duration::from_secs(100));
        for (i, node) in world.nodes.iter().enumerate() {
            assert_eq!((used(&world, i, &crowd), node.overlay.view().counts().relays), (0, n), "relay {i}");
            for some in ids.chunks(16) {
                let answer = node.overlay.answers().to(&Message::Fetch { id: 1, ids: some.to_vec(), part: Part::Both }, usize::MAX);
                assert!(matches!(answer, Some(Message::FetchReply { records, .. }) if records.is_empty()));
            }
        }
    }
    let dials = world.dials.iter().filter(|(_, addr)| addr.is_ipv6()).count();
    // Forty minutes: four tries each, five with luck; and one for its first word.
    println!("{dials} dials over IPv6 of {n} relays");
    assert!(dials <= 6 * n);
}

/// Relays that can dial IPv6 use those that have it alone like any others; and of invented ones as few, as shortly, as of invented
/// relays with IPv4.
#[test]
fn invented_ip6_relays_are_soon_gone_where_ip6_can_be_dialled() {
    let (n, six, real, seed) = (40, 12, 5, 62);
    println!("seed {seed}");
    let mut world = network(n, seed, false);
    for i in 0..six {
        let start = vec![world.peer(0), world.peer(n + i - 1)];
        world.add(seed, ip6_addr(i), true, false, start);
    }
    settle(&mut world, 3600);
    world.run_until(world.now + Duration::from_secs(1800));
    let crowd = crowd_at(&world, real, 3000, 300, 60, ip6_addr);
    announce(&mut world, real, &crowd);
    let (began, mut most, mut last) = (world.now, 0, Duration::ZERO);
    while world.now.since(began) < Duration::from_secs(2400) {
        let worst = (0..n + six).filter(|i| *i != real).map(|i| used(&world, i, &crowd)).max().unwrap();
        most = most.max(worst);
        if worst > 0 {
            last = world.now.since(began);
        }
        world.run_until(world.now + Duration::from_secs(10));
    }
    println!("most used {most}, the last after {last:?}");
    assert!(most <= 10 && last < Duration::from_secs(1800));
    assert!(world.shares().iter().all(|s| *s >= 0.97), "an honest relay was lost");
    world.nodes.iter().for_each(|n| n.overlay.view().check());
}

/// A relay that answered lately and is gone stays in all views alike until its descriptor ends; one that never answered does not,
/// and is believed when it does. It could reach nobody all the time, and believes in all of them still.
#[test]
fn only_who_never_answered_is_struck_out() {
    let mut world = network(24, 54, true);
    settle(&mut world, 20);
    world.run_until(world.now + Duration::from_secs(30));
    let id = world.nodes[7].key.node_id();
    let knowing = |world: &World| (0..24).filter(|i| *i != 7 && world.nodes[*i].overlay.view().get(&id).is_some()).count();
    cut_off(&mut world, 7);
    world.run_until(world.now + Duration::from_secs(600));
    assert_eq!(knowing(&world), 23);
    (0..24).for_each(|i| world.nodes[i].overlay.view.forget_answers(&id));
    world.run_until(world.now + Duration::from_secs(1200));
    assert_eq!((knowing(&world), world.shares()[7]), (0, 1.0));
    let answer = world.nodes[3]
        .overlay
        .answers()
        .to(&Message::Fetch { id: 1, ids: vec![record::hint_id(&id)], part: Part::Both }, usize::MAX);
    assert!(matches!(answer, Some(Message::FetchReply { records, .. }) if records.is_empty()));
    world.nodes[7].cut_off = false;
    world.run_until(world.now + Duration::from_secs(120));
    assert_eq!(knowing(&world), 23);
    assert!(world.shares().iter().all(|s| *s == 1.0));
}

/// One directory of three lists invented relays and no others: the client uses all honest ones and no invented one.
#[test]
fn one_lying_directory_neither_invents_nor_hides() {
    let mut world = network(30, 55, true);
    settle(&mut world, 20);
    let crowd = crowd(&world, 9, 3000, 50, 50);
    world.nodes[9].forged = Some(crowd.clone());
    let honest: BTreeSet<NodeId> = (0..30).map(|i| world.nodes[i].key.node_id()).collect();
    let three = vec![world.peer(9), world.peer(2), world.peer(20)];
    let client = world.add(55, "99.9.9.9:1".parse().unwrap(), false, true, three);
    let better = [2, 3, 20].map(|i| world.peer(i)).to_vec();
    let liar = world.peer(9);
    let other = world.add(55, "99.9.9.8:1".parse().unwrap(), false, true, vec![liar]);
    world.run_until(world.now + Duration::from_secs(60));
    let right = |world: &World, i: usize| honest.iter().all(|id| world.nodes[i].overlay.view().get(id).is_some());
    assert!(right(&world, client) && used(&world, client, &crowd) == 0);
    // Who begins with the liar alone has nobody else to believe; with others, it comes right.
    assert_eq!(used(&world, other, &crowd), 50);
    world.feed(other, Input::Directories(better));
    world.run_until(world.now + Duration::from_secs(30));
    assert!(right(&world, other) && used(&world, other, &crowd) == 0);
    world.nodes[client].overlay.view().check();
}

/// A directory whose view lost a good part begins anew, and clients let go of what it lost.
#[test]
fn clients_hear_what_their_directories_lost() {
    let mut world = network(24, 56, true);
    settle(&mut world, 20);
    let three = vec![world.peer(1), world.peer(2), world.peer(3)];
    let client = world.add(56, "99.9.9.9:1".parse().unwrap(), false, true, three);
    world.run_until(world.now + Duration::from_secs(30));
    assert_eq!(world.nodes[client].overlay.view().counts().relays, 24);
    for gone in 18..24 {
        cut_off(&mut world, gone);
        let id = world.nodes[gone].key.node_id();
        (0..24).for_each(|i| world.nodes[i].overlay.view.forget_answers(&id));
    }
    world.run_until(world.now + Duration::from_secs(1500));
    let view = world.nodes[client].overlay.view();
    assert_eq!(view.counts().relays, 18);
    view.check();
}
