//! How the network grows: views, messages and bytes for 100, 300 and 1,000 simulated relays, ten virtual minutes each.
//!
//! `cargo bench --bench scale`, or `-- 100 300` for chosen sizes.

#![expect(clippy::print_stdout, reason = "a bench prints")]

#[path = "../tests/sim/mod.rs"]
mod sim;

use sim::World;
use std::time::{Duration, Instant};

fn main() {
    let sizes: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![100, 300, 1000] } else { sizes };
    println!(
        "relays | view 97 % after | join: cells per relay | ten minutes: cells per relay | publish: cells, batches | get: cells, batches | wall s | MiB resident"
    );
    for n in sizes {
        run(n);
    }
}

fn totals(world: &World) -> (u64, u64) {
    world.nodes.iter().fold((0, 0), |(c, m), n| (c + n.cells_sent, m + n.messages_sent))
}

#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn run(n: usize) {
    let began = Instant::now();
    let mut world = World::new(n as u64);
    let relays = world.relays(n);
    let second = Duration::from_secs(1);
    let complete = world.run_until_each(second, Duration::from_secs(600), |w| relays.iter().all(|r| w.knows(*r) * 100 >= n * 97));
    let reached = world.now.0 as f64 / 1e6;
    let worst = relays.iter().map(|r| world.knows(*r)).min().unwrap_or(0);
    let joined = totals(&world).0 / n as u64;
    let (publisher, reader) = (world.client(), world.client());
    world.run_until_each(second / 10, Duration::from_secs(300), |w| w.ready(publisher) && w.ready(reader));
    world.run(Duration::from_secs(5));
    let document: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
    let before = totals(&world);
    let (key, _) = world.publish(publisher, &document).expect("published");
    let between = totals(&world);
    let (back, _) = world.get(reader, &key, 0).expect("fetched");
    let after = totals(&world);
    assert!(back == document);
    let rest = Duration::from_secs(600).saturating_sub(Duration::from_micros(world.now.0));
    world.run(rest);
    let total = totals(&world).0 / n as u64;
    println!(
        "{n:6} | {:>9.1} s {} (worst {worst}) | {joined:>6} | {total:>6} | {:>7} {:>6} | {:>7} {:>6} | {:>6.1} | {:>5}",
        reached,
        if complete { "yes" } else { "NO" },
        between.0 - before.0,
        between.1 - before.1,
        after.0 - between.0,
        after.1 - between.1,
        began.elapsed().as_secs_f64(),
        resident_mib(),
    );
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
