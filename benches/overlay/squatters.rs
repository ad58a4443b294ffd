//! Publishing among hosts that squat on the places of a chunk (T37).

use crate::sim::World;
use crate::sim::disk::Manner;
use crate::sim::squatters::Squatters;
use crate::table::Row;

const HOSTS: usize = 60;
const SEED: u64 = 904;
/// Bytes that a line carries in a second, without a bound in the last, and of a document.
const LINES: [(u64, usize); 3] = [(30_000, 300_000), (200_000, 300_000), (0, 5 << 20)];
/// How many shares of a chunk they give on, and what they say to those who bring them.
const WAYS: [(usize, Manner); 4] = [(2, Manner::Honest), (7, Manner::Honest), (24, Manner::Denies), (2, Manner::Boasts)];

/// One row.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let count = if quick { 4 } else { 200 };
    let (mut world, publisher, _) = World::with_people(HOSTS, SEED);
    let (mut published, mut readable, mut lost, mut chunks) = (0, 0, 0, 0);
    for n in 0..count {
        let (rate, length) = LINES[n % LINES.len()];
        let (most, manner) = WAYS[n % WAYS.len()];
        world.line(publisher, rate);
        let mut bad = Squatters::among(&mut world, HOSTS, HOSTS * 3 / 10, most, manner);
        let document: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let done = world.publish_while(publisher, &document, None, |world| bad.act(world)).is_ok();
        // Of one that was given up, what is there of it says nothing.
        let (weak, all) = if done { bad.beyond_reach(&world) } else { (0, 0) };
        (published, lost, chunks) = (published + usize::from(done), lost + weak, chunks + all);
        readable += usize::from(done && weak == 0);
        bad.hosts.iter().for_each(|host| world.nodes[*host].disk.manner = Manner::Honest);
        bad.forget(&mut world);
    }
    vec![Row {
        what: "squatting (G21): publications that honest hosts alone can give back".into(),
        setup: format!(
            "{HOSTS} hosts, three of ten give on what they get within 350 ms, two shares of a chunk, seven or all, and say that they hold \
             it, are full, or hold others; lines of 30 and 200 kB/s and without bound, 300 kB and 5 MiB, whole cores, local timers, seed {SEED}"
        ),
        figure: format!("{readable} of {count} ({published} published); {lost} of {chunks} chunks beyond reach"),
        bar: "all".into(),
        holds: readable == count,
    }]
}
