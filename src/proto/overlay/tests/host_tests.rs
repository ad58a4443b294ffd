//! Hosts over days and weeks, with the timers of the open internet: through renewals, restarts and moves.

use super::*;
use crate::base::Position;

const HOUR: u64 = 3_600_000_000;

/// In how many other views each relay hosts, at least.
fn least(world: &World) -> usize {
    let ids: Vec<NodeId> = world.nodes.iter().map(|n| n.key.node_id()).collect();
    let hosts = |id: &NodeId| world.nodes.iter().filter(|n| n.overlay.view().entry(id).is_some_and(|e| e.host)).count();
    ids.iter().map(hosts).min().unwrap()
}

/// Whether each relay knows that others reach it.
fn all_reached(world: &World) -> bool {
    let wall = Wall(EPOCH + world.now.0 / 1_000_000);
    world.nodes.iter().all(|n| n.overlay.reach(wall).is_some_and(|r| r.holds && r.came_back >= 3 && r.words().is_none()))
}

fn run_hours(world: &mut World, hours: u64) {
    let until = Time(world.now.0 + hours * HOUR);
    world.run_until(until);
}

/// Nothing happens for three weeks: from the second day on every relay hosts in every view, in every hour.
#[test]
fn hosts_stay_hosts_while_nothing_happens() {
    let mut world = network(12, 91, false);
    settle(&mut world, 600);
    run_hours(&mut world, 25);
    for hour in 26..24 * 21 {
        run_hours(&mut world, 1);
        assert_eq!(least(&world), 12, "hour {hour}");
        assert!(all_reached(&world), "hour {hour}");
    }
}

/// An update restarts every relay within an hour: a few minutes after its own restart each hosts in all views again, on the receipts
/// that it kept; and goes on to.
#[test]
fn a_restart_of_all_within_an_hour_costs_minutes() {
    let mut world = network(12, 92, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    assert_eq!(least(&world), 12);
    let body = |world: &World, i: usize| *world.nodes[i].overlay.own_descriptor().unwrap().body().digest();
    let before: Vec<[u8; 32]> = (0..12).map(|i| body(&world, i)).collect();
    for i in 0..12 {
        let others = [(i + 1) % 12, (i + 5) % 12].map(|j| world.peer(j)).to_vec();
        world.restart(i, others);
        world.run_until(world.now + Duration::from_secs(300));
    }
    assert_eq!(least(&world), 12, "five minutes after the last");
    assert!(all_reached(&world));
    assert!((0..12).all(|i| body(&world, i) == before[i]), "nobody says anything new, so nobody reads anything new");
    for _ in 0..24 * 8 {
        run_hours(&mut world, 1);
        assert_eq!(least(&world), 12);
    }
}

/// A relay that is away for longer than it is remembered, while all others restart and so never reached it: whoever spoke for it did
/// so in vain. When it is back all views have it again within the hour.
#[test]
fn a_relay_that_was_away_while_all_restarted_comes_back() {
    let mut world = network(12, 97, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    cut_off(&mut world, 5);
    for i in (0..12).filter(|i| *i != 5) {
        let others = [(i + 1) % 12, (i + 7) % 12].map(|j| world.peer(j)).to_vec();
        world.restart(i, others);
        world.run_until(world.now + Duration::from_secs(300));
    }
    run_hours(&mut world, 30);
    let id = world.nodes[5].key.node_id();
    assert!((0..12).all(|i| i == 5 || world.nodes[i].overlay.view().entry(&id).is_none()), "forgotten");
    world.nodes[5].cut_off = false;
    run_hours(&mut world, 1);
    assert_eq!(least(&world), 12);
}

/// A line that changes its address while its relay runs: announced within the hour, nobody told it to; a host again after a day; and
/// its old place is served for a week.
#[test]
fn a_move_is_found_and_announced_without_a_restart() {
    let mut world = network(12, 93, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    let old = world.nodes[5].addr;
    let new: SocketAddr = "33.7.0.1:9000".parse().unwrap();
    let id = world.nodes[5].key.node_id();
    world.move_to(5, new);
    let known = |world: &World, addr: SocketAddr| {
        world.nodes.iter().filter(|n| n.overlay.view().get(&id).is_some_and(|r| r.addr() == addr)).count()
    };
    let moved = world.now;
    while known(&world, new) < 12 {
        world.run_until(world.now + Duration::from_secs(60));
        assert!(world.now.since(moved) < Duration::from_secs(3 * 3600), "known to {}", known(&world, new));
    }
    println!("announced to all after {:?}", world.now.since(moved));
    assert!(world.nodes[5].events.contains(&Event::Moved));
    let place = region::position(&NET, &old);
    let former = |r: &record::Verified| r.former().iter().map(|(p, _)| *p).collect::<Vec<Position>>();
    assert!(world.nodes.iter().all(|n| n.overlay.view().get(&id).is_some_and(|r| former(r) == [place])));
    run_hours(&mut world, 26);
    assert_eq!(least(&world), 12);
    let served = |n: &Node| n.overlay.view().walk(&place.0).any(|(d, p)| d == 0 && p.relay.node() == id);
    assert!(world.nodes.iter().all(served), "asked at its old place as well");
    run_hours(&mut world, 24 * 6 + 6);
    assert!(!world.nodes.iter().any(served) && least(&world) == 12, "a week later no more");
}

/// The same over a restart: what was the address before is a former one, and receipts for it hold no more.
#[test]
fn a_move_over_a_restart_is_told_too() {
    let mut world = network(12, 94, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    let (old, id) = (world.nodes[5].addr, world.nodes[5].key.node_id());
    world.move_to(5, "33.7.0.1:9000".parse().unwrap());
    let first = world.peer(0);
    world.restart(5, vec![first]);
    world.run_until(world.now + Duration::from_secs(900));
    let told = world.nodes[0].overlay.view().get(&id).unwrap();
    assert_eq!(told.former().iter().map(|(p, _)| *p).collect::<Vec<_>>(), [region::position(&NET, &old)]);
    assert_eq!(world.nodes[0].overlay.view().entry(&id).map(|e| e.host), Some(false));
    run_hours(&mut world, 25);
    assert_eq!(least(&world), 12);
    // What is kept and cannot be read costs a host its day, and nothing else.
    world.nodes[3].saved.insert(addresses::SAVED, vec![35, 1, 1, 4]);
    let first = world.peer(0);
    world.restart(3, vec![first]);
    world.run_until(world.now + Duration::from_secs(900));
    let other = world.nodes[3].key.node_id();
    assert!(world.nodes[0].overlay.view().get(&other).is_some());
    // Receipts that somebody bent keep no relay from describing itself.
    let mut kept = Addresses::decode(&world.nodes[4].saved[addresses::SAVED]).unwrap();
    kept.receipts.iter_mut().for_each(|(_, r)| r.sig[3] ^= 1);
    world.nodes[4].saved.insert(addresses::SAVED, kept.encode());
    world.restart(4, vec![first]);
    world.run_until(world.now + Duration::from_secs(900));
    let other = world.nodes[4].key.node_id();
    assert!(world.nodes[0].overlay.view().get(&other).is_some_and(|r| r.receipts().len() >= 3));
}

/// A relay that moved while it ran, and was set to its old address all the time, starts again where witnesses found it, a host in all
/// views. What a damaged file says of former places is served for a week at the most.
#[test]
fn a_relay_that_moved_starts_again_where_it_is() {
    let mut world = network(12, 95, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    let (set, new) = (world.nodes[5].addr, "33.7.0.1:9000".parse().unwrap());
    world.move_to(5, new);
    run_hours(&mut world, 30);
    assert_eq!(least(&world), 12);
    let first = world.peer(0);
    // As set by its operator.
    world.nodes[5].addr = set;
    world.restart(5, vec![first]);
    world.nodes[5].addr = new;
    world.run_until(world.now + Duration::from_secs(900));
    assert_eq!(world.nodes[5].overlay.own_profile().unwrap().addrs, [new]);
    assert_eq!(least(&world), 12);
    let mut kept = Addresses::decode(&world.nodes[4].saved[addresses::SAVED]).unwrap();
    kept.former = vec![("44.1.0.1:9000".parse().unwrap(), Wall(u64::MAX))];
    world.nodes[4].saved.insert(addresses::SAVED, kept.encode());
    world.restart(4, vec![first]);
    let until = world.nodes[4].overlay.own_profile().unwrap().old_addrs[0].1;
    assert_eq!(until, Wall(EPOCH + world.now.0 / 1_000_000 + crate::base::limits::OLD_ADDR_SECS));
}

/// A relay goes, and another restarts while it is away: who reached it before goes on believing it for its day, restarted or not, so
/// lists stay alike (D8). What was kept of a machine that was off for longer counts no more.
#[test]
fn a_restart_forgets_nobody_who_answered() {
    let mut world = network(12, 97, false);
    settle(&mut world, 600);
    run_hours(&mut world, 30);
    let (first, away) = (world.peer(0), world.nodes[7].key.node_id());
    let hosts = |world: &World, i: usize| world.nodes[i].overlay.view().entry(&away).is_some_and(|e| e.host);
    cut_off(&mut world, 7);
    let saved = world.nodes[3].saved[answered::SAVED].clone();
    world.restart(3, vec![first]);
    run_hours(&mut world, 3);
    assert!((0..12).filter(|i| *i != 7).all(|i| hosts(&world, i)), "it is away for three hours");
    world.nodes[3].saved.insert(answered::SAVED, saved[..saved.len() - 1].to_vec());
    world.restart(3, vec![first]);
    run_hours(&mut world, 3);
    assert!(!hosts(&world, 3) && hosts(&world, 4), "what cannot be read is found out anew");
}

/// Two witnesses of twelve say of everyone that they found it somewhere else, well signed: nobody moves, for a week, nor at the start,
/// when a relay knows few others yet and both may be among them.
#[test]
fn two_lying_witnesses_of_twelve_move_nobody() {
    for seed in [96, 296, 496, 596] {
        let mut world = network(12, seed, false);
        for liar in [3, 8] {
            world.nodes[liar].sees = Some("66.6.6.6:9000".parse().unwrap());
        }
        settle(&mut world, 600);
        run_hours(&mut world, if seed == 96 { 24 * 7 } else { 30 });
        assert!(!world.nodes.iter().any(|n| n.events.contains(&Event::Moved)), "seed {seed}");
        let at = |n: &Node| n.overlay.own_profile().unwrap().addrs.clone();
        assert!(world.nodes.iter().all(|n| at(n) == [n.addr]));
        assert_eq!(least(&world), 12);
    }
}

/// A relay behind a firewall gets into the network and is used by nobody. Within minutes it knows; and when the firewall is open it
/// knows that within two hours.
#[test]
fn a_relay_that_nobody_reaches_knows_it() {
    let mut world = network(12, 98, false);
    settle(&mut world, 600);
    let ways = vec![world.peer(0), world.peer(1)];
    let addr = relay_addr(40);
    let shut = world.add(98, addr, true, false, ways);
    world.by_addr.remove(&addr);
    let reach = |world: &World| world.nodes[shut].overlay.reach(Wall(EPOCH + world.now.0 / 1_000_000)).unwrap();
    assert!(!reach(&world).fails && !reach(&world).holds && reach(&world).words().unwrap().contains("so far"));
    world.run_until(world.now + Duration::from_secs(300));
    let now = reach(&world);
    assert!(now.fails && !now.holds && now.came_back == 0 && now.in_vain >= 3 && now.address == addr, "{now:?}");
    world.by_addr.insert(addr, shut);
    run_hours(&mut world, 2);
    assert!(all_reached(&world), "{:?}", reach(&world));
    // The firewall is shut again: receipts of the past count for a week, and say nothing of today.
    world.by_addr.remove(&addr);
    run_hours(&mut world, 12);
    let now = reach(&world);
    assert!(now.fails && !now.holds && now.came_back >= 3, "{now:?}");
}
