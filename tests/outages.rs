//! Outages that a person meets: a guard that is down, a machine that slept, a line that gets another address, and lines that are only
//! slow.

mod sim;

use onionskin::base::Time;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::event::Report;
use sim::World;
use std::time::Duration;

/// Gets a document, and tells after how long the first bytes came.
fn first_bytes(world: &mut World, node: usize, key: &ReadKey) -> (Duration, Vec<u8>, Report) {
    let (began, mut first) = (world.now, None);
    let (bytes, report) = world
        .get_while(node, key, 0, |world, bytes| {
            if bytes > 0 {
                first.get_or_insert(world.now);
            }
        })
        .expect("the document");
    (first.unwrap_or(Time(u64::MAX)).since(began), bytes, report)
}

fn guard_of(world: &World, report: &Report) -> usize {
    let guard = report.paths[0][0];
    assert!(report.paths.iter().all(|path| path[0] == guard), "over several guards: {:?}", report.paths);
    world.nodes.iter().position(|n| n.id.is_some() && n.addr == guard).expect("the guard")
}

/// A node starts anew, as a command does, and gets a document: after how long the first bytes came, and over which guard.
fn command(world: &mut World, node: usize, key: &ReadKey) -> (Duration, usize) {
    let (time, report) = command_over_any(world, node, key);
    (time, guard_of(world, &report))
}

fn command_over_any(world: &mut World, node: usize, key: &ReadKey) -> (Duration, Report) {
    world.switch_off(node);
    world.run(Duration::from_secs(60));
    let (network, began) = (world.network, world.now);
    world.switch_on(node, network);
    assert!(world.run_until(Duration::from_secs(120), |w| w.ready(node)), "not ready");
    let ready = world.now.since(began);
    let (first, _, report) = first_bytes(world, node, key);
    (ready + first, report)
}

/// What one command found out of its guard, the next need not: it begins over the next of the sample, and asks the first again, which
/// serves as soon as it is back. No third relay ever sees the client.
#[test]
fn a_command_does_not_wait_for_a_guard_that_the_last_one_found_down() {
    for seed in 61..64 {
        let (mut world, publisher, reader) = World::with_people(24, seed);
        let doc = vec![5; 200_000];
        let (key, _) = world.publish(publisher, &doc).unwrap();
        let (_, first) = command(&mut world, reader, &key);
        world.nodes[reader].dialled.clear();
        world.switch_off(first);
        let (before, second) = command(&mut world, reader, &key);
        assert!(second != first && before < Duration::from_secs(6), "{before:?}");
        let mut took = Vec::new();
        for _ in 0..5 {
            let (time, guard) = command(&mut world, reader, &key);
            took.push(time);
            assert_eq!(guard, second);
        }
        println!("its guard down: the first bytes after {before:?}; at the next commands after {took:?}");
        assert!(took.iter().all(|time| *time < Duration::from_secs(3)));
        // It is back: the command that finds it so begins over the other, and all after it use the first again.
        let network = world.network;
        world.switch_on(first, network);
        world.run(Duration::from_secs(30));
        assert!(command_over_any(&mut world, reader, &key).0 < Duration::from_secs(3));
        world.run(Duration::from_secs(5));
        let after: Vec<usize> = (0..3).map(|_| command(&mut world, reader, &key).1).collect();
        assert_eq!(after, [first; 3]);
        let dialled = &world.nodes[reader].dialled;
        assert!(dialled.iter().all(|to| [first, second].contains(to)), "{dialled:?}");
    }
}

/// A machine that slept, while nobody wished anything or in the middle of a get: the links that others gave up meanwhile are found dead
/// in seconds.
#[test]
fn a_machine_that_wakes_goes_on_within_seconds() {
    let mut middle = 0;
    for (seed, time) in [(65, 60), (66, 3600), (67, 40_000), (68, 600)] {
        let (mut world, publisher, reader) = World::with_people(24, seed);
        let doc = vec![6; 12 << 20];
        let (key, _) = world.publish(publisher, &doc).unwrap();
        world.suspend(reader, Duration::from_secs(time));
        let (idle, bytes, report) = first_bytes(&mut world, reader, &key);
        assert!(bytes == doc);
        let guard = guard_of(&world, &report);

        world.line(reader, 1_000_000);
        let (slept_idle, time) = (time, time.min(1800));
        let (mut slept, mut on) = (None, None);
        let (bytes, report) = world
            .get_while(reader, &key, 0, |world, bytes| match slept {
                None if bytes > 1 << 20 => {
                    world.suspend(reader, Duration::from_secs(time));
                    slept = Some((world.now, bytes));
                }
                Some((at, had)) if bytes > had => {
                    on.get_or_insert(world.now.since(at));
                }
                _ => {}
            })
            .unwrap();
        assert!(bytes == doc && guard_of(&world, &report) == guard);
        println!("slept {slept_idle} s: the first bytes after {idle:?}; {time} s in the middle of a get: after {on:?}");
        assert!(idle < Duration::from_secs(10));
        // Where nothing was missing any more, nothing was waited for. After a minute the links are good still, while hosts have ended
        // their sessions: what they were asked is given up by its own time.
        let most = Duration::from_secs(if time < 90 { 60 } else { 10 });
        assert!(on.is_none_or(|on| on < most), "{time} s: {on:?}");
        middle += usize::from(on.is_some());
    }
    assert!(middle >= 3, "{middle}");
}

/// A line that gets another address tells nobody. A wish finds out in seconds, and keeps its guard.
#[test]
fn a_line_that_changes_its_address_costs_seconds() {
    let mut middle = Vec::new();
    for seed in 68..72 {
        let (mut world, publisher, reader) = World::with_people(24, seed);
        let doc = vec![7; 6 << 20];
        let (key, _) = world.publish(publisher, &doc).unwrap();
        world.run(Duration::from_secs(60));
        world.change_line(reader);
        world.run(Duration::from_secs(seed % 4 * 7));
        let (idle, bytes, report) = first_bytes(&mut world, reader, &key);
        assert!(bytes == doc);
        let guard = guard_of(&world, &report);

        world.line(reader, 1_000_000);
        let (mut changed, mut on) = (None, None);
        let (bytes, report) = world
            .get_while(reader, &key, 0, |world, bytes| match changed {
                None if bytes > 1 << 20 => {
                    world.change_line(reader);
                    changed = Some((world.now, bytes));
                }
                // What had come already.
                Some((at, had)) if bytes > had && world.now.since(at) > Duration::from_secs(1) => {
                    on.get_or_insert(world.now.since(at));
                }
                _ => {}
            })
            .unwrap();
        assert!(bytes == doc && guard_of(&world, &report) == guard);
        println!("another address: the first bytes after {idle:?}, in the middle of a get after {on:?}");
        assert!(idle < Duration::from_secs(10));
        // Where nothing was missing any more, nothing was waited for.
        middle.extend(on);
    }
    assert!(middle.len() >= 3 && middle.iter().all(|on| *on < Duration::from_secs(15)));
}

/// A line of 5 kB/s is slow, and not dead: no link is given up, whatever the line is busy with, and however long nobody wished
/// anything.
#[test]
fn a_slow_line_is_not_taken_for_dead() {
    let (mut world, publisher, reader) = World::with_people(24, 72);
    let docs = [vec![8; 3000], vec![9; 100_000]];
    let keys = docs.clone().map(|doc| world.publish(publisher, &doc).unwrap().0);
    for client in [publisher, reader] {
        world.line(client, 5_000);
    }
    world.run(Duration::from_secs(120));
    // Whoever gives a link up dials the same relay again.
    let met = [publisher, reader].map(|n| std::mem::take(&mut world.nodes[n].dialled));
    let kept = |world: &World| [publisher, reader].iter().zip(&met).all(|(n, met)| world.nodes[*n].dialled.is_disjoint(met));
    for (doc, key) in docs.iter().zip(&keys) {
        let (first, bytes, _) = first_bytes(&mut world, reader, key);
        println!("{} bytes at 5 kB/s: the first after {first:?}", doc.len());
        assert!(bytes == *doc);
        let began = world.now;
        let published = world.publish(publisher, doc).map(|_| ());
        println!("published in {:?}: {:?}", world.now.since(began), published.map_err(|why| why.what));
        assert!(kept(&world), "a link was given up");
        world.run(Duration::from_secs(300));
    }
    assert!(kept(&world), "a link was given up");
}
