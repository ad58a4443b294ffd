//! Scenarios over the simulated network.

mod sim;

use onionskin::proto::doc::key::Key;
use sim::World;

fn document(len: usize, fill: u64) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(fill).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn a_document_is_published_and_fetched_at_every_size() {
    let (mut world, publisher, reader) = World::with_people(24, 1);
    world.check_every = 1000;
    for len in [0, 1, 1024, 70_000, 700_000, 5 << 20] {
        let doc = document(len, len as u64);
        let (key, report) = world.publish(publisher, &doc).unwrap();
        println!("{len}: {report:?}");
        let (back, report) = world.get(reader, &key, 0).unwrap();
        println!("{len}: {report:?}");
        assert!(back == doc, "length {len}");
    }
}

#[test]
fn an_interrupted_get_goes_on_from_any_byte() {
    let (mut world, publisher, reader) = World::with_people(24, 2);
    let doc = document(5_000_000, 7);
    let (key, _) = world.publish(publisher, &doc).unwrap();
    for offset in [0, 1, 262_127, 262_128, 4_999_999, 5_000_000] {
        let (back, _) = world.get(reader, &key, offset).unwrap();
        assert!(back == doc[offset as usize..], "from {offset}");
    }
    assert!(world.get(reader, &key, 5_000_001).is_err());
}

#[test]
fn half_the_relays_die_and_nothing_is_lost() {
    let (mut world, publisher, _) = World::with_people(24, 3);
    let doc = document(2_000_000, 9);
    let (key, report) = world.publish(publisher, &doc).unwrap();
    world.switch_off(publisher);
    let checker = world.client();
    world.run_until(std::time::Duration::from_secs(60), |w| w.ready(checker));
    let before = world.check(checker, Key::Read(key.clone())).unwrap();
    println!("{report:?}\n{before:?}");
    assert_eq!(before.chunks_sampled, before.chunks);
    let mut dead = std::collections::BTreeSet::new();
    while dead.len() < 12 {
        let at = world.random(0..24);
        if dead.insert(at) {
            world.switch_off(at);
        }
    }
    let reader = world.client();
    let (back, _) = world.get(reader, &key, 0).unwrap();
    assert!(back == doc);
    for at in dead {
        let network = world.network;
        world.switch_on(at, network);
    }
    world.run(std::time::Duration::from_secs(60));
    let after = world.check(checker, Key::Read(key)).unwrap();
    assert_eq!(after.shares_seen, before.shares_seen, "{after:?}");
}

#[test]
fn what_nobody_stored_is_not_found_and_the_number_asked_is_told() {
    use onionskin::base::ErrorKind;
    use onionskin::crypto::secret::Secret;
    use onionskin::proto::doc::key::ReadKey;
    let (mut world, _, reader) = World::with_people(24, 4);
    let began = world.now;
    let failure = world.get(reader, &ReadKey::new(Secret::new([1; 32]), [2; 32], true), 0).unwrap_err();
    let took = world.now.since(began);
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    assert_eq!(failure.kind, ErrorKind::NotFound);
    assert!(failure.what.contains("hosts were asked"), "{failure:?}");
}

/// In the smallest network hosts hold several shares each, and a reader asks them until it has enough.
#[test]
fn six_relays_are_a_network() {
    for relays in [6, 8, 12] {
        let (mut world, publisher, reader) = World::with_people(relays, 30 + relays as u64);
        for len in [10, 300_000] {
            let doc = document(len, 5);
            let (key, _) = world.publish(publisher, &doc).unwrap();
            assert!(world.get(reader, &key, 0).unwrap().0 == doc, "{relays} relays, {len} bytes");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_story() {
    let story = |seed| {
        let (mut world, publisher, reader) = World::with_people(12, seed);
        let (key, _) = world.publish(publisher, &document(100_000, 1)).unwrap();
        world.get(reader, &key, 0).unwrap();
        let cells: Vec<u64> = world.nodes.iter().map(|n| n.cells_sent).collect();
        (world.now, cells)
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}

/// Relays that start together need each other's receipts: none may wait for ever, whatever the order of things.
#[test]
fn small_networks_come_together_whatever_the_seed() {
    for (relays, seed) in [6, 7, 8, 10].into_iter().flat_map(|n| (100..110).map(move |s| (n, s))) {
        let mut world = World::new(seed);
        let all = world.relays(relays);
        world.run(std::time::Duration::from_secs(60));
        let known: Vec<usize> = all.iter().map(|r| world.knows(*r)).collect();
        assert!(known.iter().all(|k| *k == relays), "{relays} relays, seed {seed}: {known:?}");
    }
}

/// Descriptors of dead relays live on for a day, so a client that starts now sees a view of which half is dead.
#[test]
fn a_fresh_client_comes_through_a_view_that_is_half_dead() {
    for seed in 0..12 {
        let (mut world, _, _) = World::with_people(24, seed);
        let mut dead = std::collections::BTreeSet::new();
        while dead.len() < 12 {
            let at = world.random(0..24);
            if dead.insert(at) {
                world.switch_off(at);
            }
        }
        let began = world.now;
        let client = world.client();
        let ready = world.run_until(std::time::Duration::from_secs(30), |w| w.ready(client));
        println!("seed {seed}: ready after {:?}", world.now.since(began));
        assert!(ready);
    }
}
