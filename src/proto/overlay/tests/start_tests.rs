//! First starts of clients whose ways in partly lie (T29).

use super::*;

const BAD: usize = 10;

/// Forty honest relays, and ten of liars that know only each other.
fn two_networks(seed: u64) -> (World, Vec<usize>) {
    let mut world = network(40, seed, true);
    settle(&mut world, 20);
    let mut bad: Vec<usize> = Vec::new();
    for i in 0..BAD {
        let first = bad.first().map(|b| world.peer(*b)).into_iter().collect();
        bad.push(world.add(seed, SocketAddr::from(([120, i as u8, 0, 1], 9000)), true, true, first));
    }
    world.run_until(world.now + Duration::from_secs(20));
    (world, bad)
}

fn client(world: &mut World, ways: &[usize]) -> usize {
    let ways = ways.iter().map(|i| world.peer(*i)).collect();
    world.dials.clear();
    let local_ports = SocketAddr::from(([99, 9, 9, 9], 1));
    world.add(80, local_ports, false, true, ways)
}

/// Runs until the client has a view, while what these say to it is dropped, or comes later: seconds that it took.
fn wait(world: &mut World, client: usize, most: u64, hold: impl Fn(usize, &Message) -> Option<Duration>) -> Option<f64> {
    let began = world.now;
    let mut held = BTreeSet::new();
    while world.now.since(began) < Duration::from_secs(most) {
        if world.nodes[client].overlay.has_view() {
            return Some(world.now.since(began).as_secs_f64());
        }
        let mut late = Vec::new();
        for (key, (to, input)) in &world.queue {
            if let Input::Message { link, bytes } = input
                && *to == client
                && !held.contains(key)
                && let Some((from, _)) = world.nodes[client].links.get(link)
                && let Some(by) = Message::decode(bytes).ok().and_then(|m| hold(*from, &m))
            {
                late.push((*key, by));
            }
        }
        for ((at, seq), by) in late {
            let what = world.queue.remove(&(at, seq)).unwrap();
            held.insert((at + by, seq));
            world.queue.insert((at + by, seq), what);
        }
        world.run_until(world.now + LATENCY / 2);
    }
    None
}

const NEVER: Duration = Duration::from_secs(100_000);

fn knows(world: &World, client: usize, of: impl Iterator<Item = usize>) -> usize {
    let view = world.nodes[client].overlay.view();
    of.filter(|i| view.get(&world.nodes[*i].key.node_id()).is_some()).count()
}

/// Whoever runs one, two or four ways in of five, in any order, and a fifth of all addresses, gets none of his relays in; and a person
/// is told.
#[test]
fn ways_in_that_lie_together_take_nobody_over() {
    for seed in [80, 81] {
        let (mut world, bad) = two_networks(seed);
        for lying in [1, 2, 4] {
            for turn in 0..5 {
                let mut ways: Vec<usize> = bad[turn..turn + lying].to_vec();
                ways.extend((lying..5).map(|n| 1 + 7 * n + turn));
                ways.rotate_left(turn);
                let client = client(&mut world, &ways);
                let took = wait(&mut world, client, 60, |_, _| None).expect("a view");
                assert_eq!((knows(&world, client, 0..40), knows(&world, client, bad.iter().copied())), (40, 0), "{lying} {ways:?}");
                assert!(took < 10.0, "{took}");
                assert!(world.nodes[client].events.contains(&Event::WaysDiffer));
                let dials = world.dials.iter().filter(|(from, _)| *from == client).count();
                // Beyond sixteen, idle links are let go, and dialled again for the next page.
                assert!(dials <= 2 * (5 + 2 * 4 + 16), "{dials} dials");
            }
        }
    }
}

/// A way in that never answers holds a start up by half a minute; one that is slow, while liars are quick, is waited for.
#[test]
fn who_is_late_is_waited_for_and_who_stalls_is_not() {
    let (mut world, bad) = two_networks(82);
    let stalled = client(&mut world, &[3, 12, bad[0]]);
    let took = wait(&mut world, stalled, 100, |from, _| (from == bad[0]).then_some(NEVER)).expect("a view");
    assert!((29.0..35.0).contains(&took), "{took}");
    assert_eq!((knows(&world, stalled, 0..40), knows(&world, stalled, bad.iter().copied())), (40, 0));
    assert!(!world.nodes[stalled].events.contains(&Event::WaysDiffer));
    let slow = client(&mut world, &[3, bad[0], bad[1], bad[2]]);
    let took = wait(&mut world, slow, 100, |from, _| (from < 40).then_some(Duration::from_secs(6))).expect("a view");
    println!("slow: {took} s");
    assert_eq!((knows(&world, slow, 0..40), knows(&world, slow, bad.iter().copied())), (40, 0));
    // One honest list alone is awaited without end, whatever a single liar says meanwhile.
    let alone = client(&mut world, &[3, bad[0]]);
    assert_eq!(wait(&mut world, alone, 1000, |from, _| (from == 3).then_some(NEVER)), None);
}

/// A list that is part of what others say changes nothing.
#[test]
fn a_lone_list_that_hides_half_changes_nothing() {
    let (mut world, _) = two_networks(83);
    let half: Vec<Forged> = world.nodes[9]
        .overlay
        .view()
        .usable()
        .iter()
        .take(20)
        .map(|r| Forged { node: r.node(), body: r.body().encode(), fresh: vec![] })
        .collect();
    world.nodes[9].forged = Some(half);
    let client = client(&mut world, &[9, 3, 12]);
    assert!(wait(&mut world, client, 60, |_, _| None).is_some());
    assert_eq!(knows(&world, client, 0..40), 40);
    let named = |i: &usize| world.dials.contains(&(client, world.nodes[*i].addr));
    // What the others name beyond it they show, and then relays are drawn: it might be the honest one of three.
    assert!((0..40).filter(named).count() <= 3 + 4 + 16);
}

/// Way 50 of the world lists these in place of what it knows, besides whom it knows.
fn invents(world: &mut World, liar: usize, size: usize) -> Vec<NodeId> {
    let crowd = check_tests::crowd(world, liar, 3000, size, 5);
    let nodes = crowd.iter().map(|f| f.node).collect();
    world.nodes[liar].forged = Some(crowd);
    nodes
}

/// Relays that do not answer speak for nobody: one way in of three that invents hundreds brings in none; two of four that do hold
/// nothing up, and cost the client a few dials and one answer each.
#[test]
fn invented_networks_are_not_believed() {
    for liars in [1, 2] {
        let (mut world, bad) = two_networks(84);
        let crowd = invents(&mut world, bad[0], 300);
        world.nodes[bad[1]].forged = world.nodes[bad[0]].forged.clone();
        let ways: Vec<usize> = bad[..liars].iter().copied().chain([3, 12]).collect();
        let client = client(&mut world, &ways);
        let before: u64 = bad.iter().map(|b| world.nodes[*b].sent).sum();
        let took = wait(&mut world, client, 100, |_, _| None).expect("a view");
        let view = world.nodes[client].overlay.view();
        assert_eq!(knows(&world, client, 0..40), 40);
        assert!(crowd.iter().all(|node| view.get(node).is_none()), "{took}");
        let dials = world.dials.iter().filter(|(from, _)| *from == client).count();
        assert!(dials <= 2 * (ways.len() + 2 * 4), "{dials} dials");
        let bytes = bad.iter().map(|b| world.nodes[*b].sent).sum::<u64>() - before;
        println!("{liars} liars: {took} s, {dials} dials, {bytes} bytes from them");
        assert!(bytes < 150_000 * liars as u64, "{bytes}");
    }
}

/// Liars that keep honest lists company and show nothing take no voice from them; nor does somebody on the path, who keeps the picked
/// relays of an agreed camp from answering, make a lone liar believed.
#[test]
fn who_says_the_same_and_shows_nothing_takes_no_voice() {
    let (mut world, bad) = two_networks(85);
    let fetched = |m: &Message| matches!(m, Message::FetchReply { .. });
    let among = client(&mut world, &[3, 12, 20, bad[0]]);
    let took = wait(&mut world, among, 200, |from, m| (from == 3 && fetched(m)).then_some(Duration::from_secs(40)));
    println!("{took:?}");
    assert_eq!((knows(&world, among, 0..40), knows(&world, among, bad.iter().copied())), (40, 0));
    let cut = client(&mut world, &[3, 12, bad[0]]);
    let took = wait(&mut world, cut, 500, |from, _| (from < 40 && ![3, 12].contains(&from)).then_some(NEVER));
    assert_eq!((took, knows(&world, cut, bad.iter().copied())), (None, 0));
}

/// A way in that comes first, lists what all list, and never shows any of it, is asked no more than once while others are there.
#[test]
fn who_comes_first_and_says_nothing_is_passed_over() {
    let (mut world, _) = two_networks(87);
    let client = client(&mut world, &[3, 12, 20]);
    let took = wait(&mut world, client, 300, |from, m| (from == 3 && matches!(m, Message::FetchReply { .. })).then_some(NEVER));
    println!("{took:?}");
    assert!(took.is_some_and(|took| took < 70.0), "{took:?}");
    assert_eq!(knows(&world, client, 0..40), 40);
}

/// A liar with relays that answer, who shows no more of what he lists than he must, holds a start up by half a minute.
#[test]
fn who_does_not_show_what_he_lists_holds_nothing_up_for_long() {
    let (mut world, bad) = two_networks(86);
    let client = client(&mut world, &[3, 12, bad[0]]);
    let shown = core::cell::Cell::new(0);
    let took = wait(&mut world, client, 200, |from, m| {
        let fetched = from >= 40 && matches!(m, Message::FetchReply { .. });
        shown.set(shown.get() + u32::from(fetched));
        (fetched && shown.get() > 1).then_some(NEVER)
    });
    println!("{took:?}");
    assert!(took.is_some_and(|took| took < 70.0));
    assert_eq!((knows(&world, client, 0..40), knows(&world, client, bad.iter().copied())), (40, 0));
}
