//! Overlay machines among each other, in virtual time.

mod check_tests;
mod host_tests;
mod link_tests;
mod start_tests;
mod sync_tests;
pub(super) mod world;

use super::*;
use crate::base::Wall;
use crate::crypto::keys::IdentityKey;
use crate::proto::overlay::tests::world::*;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Listed;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn twenty_four_relays_know_each_other_within_seconds() {
    let mut slowest: f64 = 0.0;
    for seed in 100..110 {
        slowest = slowest.max(settle(&mut network(24, seed, true), 20));
    }
    println!("24 relays, slowest of ten: {slowest} s");
    let mut world = network(24, 1, true);
    let seconds = settle(&mut world, 10);
    world.nodes.iter().for_each(|n| n.overlay.view().check());
    println!(
        "24 relays: {seconds} s, ready {:?}, bytes sent per node (mean, most) {:?}, dials {}",
        ready_times(&world),
        figures(&world),
        world.dials.len()
    );
    assert!(seconds <= 4.0);
    world.run_until(world.now + Duration::from_secs(5));
    assert!(world.shares().iter().all(|s| *s == 1.0));
    // Calm afterwards: few bytes.
    let before = figures(&world).0;
    world.run_until(world.now + Duration::from_secs(600));
    let idle = figures(&world).0 - before;
    println!("idle: {} bytes per node and second", idle / 600);
    assert!(idle / 600 < 2000);
    let everyone: Vec<_> = world.nodes.iter().map(|n| n.overlay.view().digest()).collect();
    assert!(everyone.iter().all(|d| *d == everyone[0]), "views agree");
}

#[test]
fn three_hundred_relays_reach_97_percent() {
    let mut world = network(300, 2, false);
    let seconds = settle(&mut world, 600);
    println!(
        "300 relays: {seconds} s, ready {:?}, bytes sent per node (mean, most) {:?}, dials {}",
        ready_times(&world),
        figures(&world),
        world.dials.len()
    );
    assert!(seconds <= 300.0);
    world.nodes.iter().for_each(|n| n.overlay.view().check());
    assert_eq!(world.blamed, 0);
    // A newcomer is known to all before long, though everyone sweeps slowly now.
    let hint = world.peer(17);
    let new = world.add(2, relay_addr(300), true, false, vec![hint]);
    world.run_until(world.now + Duration::from_secs(3600));
    let id = world.nodes[new].key.node_id();
    let know = world.nodes.iter().filter(|n| n.overlay.view().get(&id).is_some()).count();
    println!("newcomer known to {know} of 301 after an hour");
    assert!(know > 280 && world.nodes[new].ready_at.is_some());
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut world = network(12, seed, true);
        world.run_until(Time(3_000_000));
        let digests: Vec<_> = world.nodes.iter_mut().map(|n| (n.overlay.view().digest(), n.sent, n.rng.random::<u64>())).collect();
        (digests, world.dials, world.seq)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).1, run(6).1);
}

#[test]
fn liars_that_name_only_each_other_hide_nobody() {
    let mut world = network(40, 7, true);
    for i in (3..40).step_by(5) {
        world.nodes[i].liar = true;
        let hint = Hint { id: record::hint_id(&world.nodes[i].key.node_id()), tag: 1, fresh: EPOCH };
        world.liars.push(hint);
    }
    assert_eq!(world.liars.len(), 8);
    let seconds = settle(&mut world, 60);
    println!("40 relays, 8 liars: {seconds} s");
}

/// The first directory to answer may be a liar's, and its answer short: nothing is chosen before two agree, however long that takes;
/// and whoever was given one link only is told.
#[test]
fn a_client_waits_until_two_lists_agree() {
    let mut world = network(30, 8, true);
    settle(&mut world, 20);
    let silent = Peer { node: NodeId([7; 32]), addr: "88.8.8.8:1".parse().unwrap() };
    let one = world.peer(2);
    let alone = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, vec![one, silent]);
    let told = world.add(8, "99.9.9.8:1".parse().unwrap(), false, true, vec![one]);
    let another = world.peer(3);
    let three = world.add(8, "99.9.9.7:1".parse().unwrap(), false, true, vec![one, silent, another]);
    let began = world.now;
    let read = |world: &World, i: usize| world.nodes[i].overlay.has_view();
    world.run_until(began + Duration::from_millis(1));
    assert!(![alone, told, three].iter().any(|i| read(&world, *i)), "nobody answered yet");
    world.run_until(began + Duration::from_secs(3));
    assert!(read(&world, told) && read(&world, three));
    assert!(world.nodes[told].events.contains(&Event::OneWayIn) && !world.nodes[three].events.contains(&Event::OneWayIn));
    world.run_until(began + Duration::from_secs(1200));
    assert!(!read(&world, alone) && world.nodes[alone].overlay.view().counts().relays == 0, "one of two is not believed");
    assert!(world.shares()[three] == 1.0 && world.shares()[told] == 1.0);
}

/// A job that was lost frees its place, and what only it could bring is asked for again.
#[test]
fn a_lost_job_leaves_nothing_waiting() {
    let mut world = network(6, 12, true);
    world.lose_jobs = true;
    world.run_until(world.now + Duration::from_secs(30));
    assert!(world.nodes.iter().all(|n| n.overlay.own_descriptor().is_none()));
    assert!(world.nodes.iter().all(|n| n.overlay.jobs.len() <= 1));
    world.lose_jobs = false;
    settle(&mut world, 60);
}

#[test]
fn a_client_takes_snapshots_and_deltas_and_never_sweeps_or_announces() {
    let mut world = network(30, 8, true);
    settle(&mut world, 20);
    let bootstrap = vec![world.peer(2), world.peer(9), world.peer(20)];
    world.no_circuits = true;
    let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, bootstrap.clone());
    world.run_until(world.now + Duration::from_secs(2));
    assert_eq!(world.shares()[client], 1.0);
    assert!(world.nodes[client].overlay.has_view());
    let dialled: BTreeSet<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
    assert_eq!(dialled, bootstrap.iter().map(|p| p.addr).collect());
    // Coverage of a client comes from what its own questions bring, and from nothing else.
    let asked = core::mem::take(&mut world.asked);
    let targets: BTreeSet<[u8; 32]> = asked
        .iter()
        .map(|(i, _, to, bytes)| match Message::decode(bytes) {
            Ok(Message::Near { id: 0, target, .. }) if (*i, *to) == (client, None) => target,
            other => panic!("{other:?}, which tells one asker from another"),
        })
        .collect();
    assert!(targets.len() == asked.len() && asked.len() >= 10, "{} questions", asked.len());
    let coverage = |world: &World| world.nodes[client].overlay.coverage();
    let near = |world: &mut World, i: usize| world.told(i, asked[i].1, Some(world.peer(i).node), &asked[i].3);
    let unasked: Vec<Input> = (0..8).map(|i| near(&mut world, i)).collect();
    for input in unasked {
        let Input::Told { from, answer, .. } = input else { unreachable!() };
        world.feed(client, Input::Told { token: 12_345_678, from, answer });
    }
    let another = Message::FetchReply { id: 0, records: vec![] }.encode();
    let numbered = Message::NearReply { id: 7, hints: vec![] }.encode();
    for (i, answer) in [None, Some(vec![0xff; 40]), another, numbered].into_iter().enumerate() {
        let from = Some(world.peer(i).node);
        world.feed(client, Input::Told { token: asked[i].1, from, answer });
    }
    assert_eq!(coverage(&world).groups, 0);
    for (i, (_, token, ..)) in asked.iter().enumerate().skip(4) {
        let told = near(&mut world, i);
        let Input::Told { from, answer, .. } = &told else { unreachable!() };
        let again = Input::Told { token: *token, from: *from, answer: answer.clone() };
        world.feed(client, told);
        let groups = coverage(&world).groups;
        world.feed(client, again);
        assert_eq!(coverage(&world).groups, groups, "twice is as once");
    }
    assert!(coverage(&world).ready);
    world.run_until(world.now + Duration::from_secs(5));
    assert!(world.asked.is_empty(), "it knows enough");
    // A delta brings a newcomer, and costs little.
    let sent: u64 = world.nodes.iter().take(30).map(|n| n.sent).sum();
    world.run_until(world.now + Duration::from_secs(60));
    let quiet = world.nodes.iter().take(30).map(|n| n.sent).sum::<u64>() - sent;
    let first = world.peer(0);
    world.add(8, relay_addr(200), true, true, vec![first]);
    world.run_until(world.now + Duration::from_secs(60));
    assert_eq!(world.shares()[client], 1.0, "{quiet}");
}

/// A bootstrap link that leads nowhere any more does no harm; one that leads somewhere decides alone what a start sees first.
#[test]
fn a_client_asks_whom_it_knew_while_no_bootstrap_relay_answers() {
    for (answers, wanted) in [(true, &[2, 9, 20][..]), (false, &[3, 10, 21])] {
        let mut world = network(30, 8, true);
        settle(&mut world, 20);
        let [known, bootstrap] = [[3, 10, 21], [2, 9, 20]].map(|list| list.map(|i| world.peer(i)).to_vec());
        let nowhere = |p: &Peer| Peer { addr: ([198, 51, 100, 7], p.addr.port()).into(), ..*p };
        let bootstrap: Vec<Peer> = if answers { bootstrap } else { bootstrap.iter().map(nowhere).collect() };
        let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, bootstrap.clone());
        let config = Config { bootstrap: bootstrap.clone(), known, ..testing::config(true) };
        let mut rng = StdRng::seed_from_u64(1);
        world.nodes[client].overlay = Overlay::new(&mut World::env(world.now, &mut rng), config);
        world.run_until(world.now + Duration::from_secs(10));
        assert_eq!(world.shares()[client], 1.0);
        let dialled: BTreeSet<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
        let wanted = wanted.iter().map(|i| world.peer(*i).addr).chain(bootstrap.iter().map(|p| p.addr)).collect();
        assert_eq!(dialled, wanted);
    }
}

/// Ways in are tried three at a time, round and round, and a relay with two addresses at one of them at a time.
#[test]
fn ways_in_take_turns_until_one_answers() {
    let mut world = network(12, 8, true);
    settle(&mut world, 20);
    let dead = |n: u8, port: u16| Peer { addr: ([198, 51, 100, n], port).into(), node: NodeId([n; 32]) };
    let bootstrap = vec![dead(1, 1), dead(1, 2), dead(2, 1), dead(3, 1), dead(4, 1)];
    let known = vec![dead(5, 1), dead(6, 1), world.peer(7), world.peer(8)];
    let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, vec![]);
    let config = Config { bootstrap, known, ..testing::config(true) };
    let mut rng = StdRng::seed_from_u64(1);
    world.nodes[client].overlay = Overlay::new(&mut World::env(world.now, &mut rng), config);
    world.run_until(world.now + Duration::from_secs(30));
    assert_eq!(world.shares()[client], 1.0);
    let dials: Vec<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
    let different: BTreeSet<_> = dials.iter().collect();
    assert!(different.len() == 9 && dials.len() <= 24, "{dials:?}");
}

#[test]
fn a_wrong_clock_is_told() {
    let mut world = World::new();
    world.skew = 1200;
    world.add(4, relay_addr(0), true, true, vec![]);
    let first = world.peer(0);
    for i in 1..12 {
        world.add(4, relay_addr(i), true, true, vec![first]);
    }
    world.run_until(Time(5_000_000));
    let warned = world.nodes.iter().filter(|n| n.events.contains(&Event::Clock(1200, ClockLevel::Warn))).count();
    assert!(warned >= 10, "{warned}");
}
