//! What an idle circuit takes at a relay in the middle of it: all that the relay's core frees less than without it, per circuit.
//!
//! `cargo bench --bench circuits`, or `-- 1024 1025` for chosen numbers. Circuits come from one relay and go on to another one, as
//! in the middle of three hops, and each has carried its extend. Tables double as they grow, so the dearest number is one beyond a
//! power of two.

#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::expect_used, reason = "a bench ends where it fails")]

#[path = "../tests/sim/mod.rs"]
mod sim;

use allocation_counter::measure;
use onionskin::crypto::keys::IdentityKey;
use onionskin::proto::{Command as Wish, Event};
use onionskin::wire::cell::Command;
use sim::World;
use sim::puppet::Circuit;
use std::time::Duration;

/// Bytes that are allowed for each.
const BAR: f64 = 4096.0;
const RELAYS: usize = 8;

/// What the core of a relay holds once it has carried so many circuits, idle by then: bytes and allocations.
fn held(circuits: u32) -> (i64, i64) {
    let mut world = World::new(1);
    let relays = world.relays(RELAYS);
    world.run(Duration::from_secs(30));
    let (puppet, middle, next) = (world.puppet(), relays[3], relays[5]);
    // One whom all know: a stranger may build few.
    let identity = IdentityKey::from_seed(&world.nodes[relays[0]].seed);
    let link = world.puppet_link(puppet, middle, Some(&identity));
    let descriptor = world.descriptor(middle);
    for number in 1..=circuits {
        let made = Circuit::create_on(&mut world, puppet, link, number, &descriptor);
        let mut circuit = made.expect("a relay that takes circuits");
        assert!(circuit.extend(&mut world, next, Command::RelayEarly));
    }
    // Time for credits and batches to leave, and not so much that the puppet, which pads nothing, counts as dead.
    world.run(Duration::from_secs(10));
    if circuits > 0 {
        let op = world.command(middle, Wish::Status);
        let events = world.nodes[middle].events.get(&op).into_iter().flatten();
        let carried = events.map(|event| if let Event::Status(status) = event { status.circuits_carried } else { 0 }).last();
        // Beside those of other relays, which are there without them too.
        assert!(carried >= Some(u64::from(circuits)), "{carried:?}");
    }
    let core = world.nodes[middle].core.take();
    let freed = measure(|| drop(core));
    (-freed.bytes_current, -freed.count_current)
}

fn main() {
    let sizes: Vec<u32> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1024, 1025, 2048, 2049] } else { sizes };
    let none = held(0);
    println!("a relay without any holds {:.1} KiB", none.0 as f64 / 1024.0);
    for circuits in sizes {
        let some = held(circuits);
        let each = |with: i64, without: i64| (with - without) as f64 / f64::from(circuits);
        let bytes = each(some.0, none.0);
        println!(
            "{}  an idle circuit at a relay, {circuits:>5} of them {:>6.2} KiB   bar {} KiB, {:.2} of it; {:.1} allocations",
            if bytes <= BAR { "holds " } else { "misses" },
            bytes / 1024.0,
            BAR / 1024.0,
            bytes / BAR,
            each(some.1, none.1),
        );
    }
}
