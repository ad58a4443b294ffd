//! Scenarios over the simulated network.

mod sim;

use sim::World;
use std::time::Duration;

fn document(len: usize, fill: u64) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(fill).fill_bytes(&mut bytes);
    bytes
}

/// A world with `n` relays that all know each other, and two clients that are ready.
fn network(n: usize, seed: u64) -> (World, usize, usize) {
    let mut world = World::new(seed);
    let relays = world.relays(n);
    let known = world.run_until(Duration::from_secs(300), |w| w.now.0 % 7 == 0 && relays.iter().all(|r| w.knows(*r) * 100 >= n * 97));
    let worst = relays.iter().map(|r| world.knows(*r)).min();
    assert!(known, "after {:?} the worst relay knows {worst:?} of {n}", world.now);
    let (a, b) = (world.client(), world.client());
    let ready = world.run_until(Duration::from_secs(120), |w| w.ready(a) && w.ready(b));
    assert!(ready, "clients know {} and {} of {n} relays at {:?}", world.knows(a), world.knows(b), world.now);
    (world, a, b)
}

#[test]
fn a_document_is_published_and_fetched_at_every_size() {
    let (mut world, publisher, reader) = network(24, 1);
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
