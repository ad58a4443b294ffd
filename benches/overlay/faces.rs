//! A relay that shows different faces (T29): who uses one that fewer than two directories list, and how long it is used at all.

use crate::sim::World;
use crate::sim::liars::{Liar, Shown};
use crate::table::Row;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Clients that start at the same time.
const AT_ONCE: usize = 20;

/// One row for a bootstrap relay and a host that work together, two for a host alone.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let clients = if quick { 40 } else { 1000 };
    let mut rows = vec![together(clients)];
    rows.extend(alone());
    rows
}

fn with_liar(seed: u64) -> (World, Vec<usize>, Liar) {
    let mut world = World::new(seed);
    let honest = world.relays(40);
    let mut liar = Liar::relay(&mut world, World::relay_addr(40));
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| (0..41).all(|r| w.knows(r) == 41)));
    liar.begin(&mut world);
    (world, honest, liar)
}

/// Before each batch of starts one bootstrap relay is shown a face that nobody else has.
fn together(clients: usize) -> Row {
    let (mut world, honest, mut liar) = with_liar(900);
    let mut shown = Shown::new();
    liar.note(&world, &honest, &mut shown);
    let (mut used_alone, mut used_at_all) = (0, 0);
    for batch in 0..clients / AT_ONCE {
        liar.connect(&mut world, &[0]);
        let wall = world.wall();
        let face = liar.face(&mut world, wall, 0xC0DE_0000 + batch as u32);
        liar.tell(&mut world, vec![(0, face)], &honest, &mut shown);
        let batch: Vec<usize> = (0..AT_ONCE).map(|_| world.client_to_be(0)).collect();
        batch.iter().for_each(|client| world.start_from(*client, &[0, 1, 2]));
        let mut bad = vec![false; AT_ONCE];
        for _ in 0..100 {
            world.run(SECOND / 20);
            liar.note(&world, &honest, &mut shown);
            for (client, bad) in batch.iter().zip(&mut bad) {
                let used = liar.used_by(&world, *client).map(|(_, name)| name);
                *bad |= used.is_some_and(|name| shown.get(&name).is_none_or(|by| by.len() < 2));
            }
        }
        used_alone += bad.iter().filter(|bad| **bad).count();
        used_at_all += batch.iter().filter(|client| liar.used_by(&world, **client).is_some()).count();
        batch.iter().for_each(|client| world.switch_off(*client));
    }
    Row {
        what: "different faces: clients that use bytes shown to fewer than two directories".into(),
        setup: format!("40 relays, a bootstrap relay and a host together, {clients} clients, seed 900"),
        figure: format!("{used_alone} of {clients} ({used_at_all} use the host by bytes that two list)"),
        bar: "0".into(),
        holds: used_alone == 0,
    }
}

/// As many descriptors as relays, all of one slot of time.
fn alone() -> [Row; 2] {
    let (mut world, honest, mut liar) = with_liar(902);
    let clients: Vec<usize> = (0..40).map(|_| world.client()).collect();
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| clients.iter().all(|c| w.ready(*c))));
    let mut shown = Shown::new();
    liar.note(&world, &honest, &mut shown);
    liar.connect(&mut world, &honest);
    let wall = world.wall();
    let told = honest.iter().map(|r| (*r, liar.face(&mut world, wall, 0xA000 + *r as u32))).collect();
    let began = world.now;
    liar.tell(&mut world, told, &honest, &mut shown);
    let (mut used_alone, mut gone) = (0, None);
    while world.now.since(began) < SECOND * 600 {
        world.run(SECOND);
        liar.note(&world, &honest, &mut shown);
        let used = |c: &&usize| liar.used_by(&world, **c).map(|(_, name)| name);
        let bad = clients.iter().filter(|c| used(c).is_some_and(|name| shown.get(&name).is_none_or(|by| by.len() < 2)));
        used_alone = used_alone.max(bad.count());
        if honest.iter().chain(&clients).all(|n| liar.used_by(&world, *n).is_none()) {
            gone.get_or_insert(world.now.since(began));
        }
    }
    let figure = gone.map_or_else(|| "used still after 10 minutes".to_owned(), |after| format!("{} s", after.as_secs()));
    [
        Row {
            what: "different faces: clients that use bytes shown to fewer than two directories".into(),
            setup: "40 relays, a host with a descriptor for each of them, 40 clients, seed 902".into(),
            figure: format!("{used_alone} of 40"),
            bar: "0".into(),
            holds: used_alone == 0,
        },
        Row {
            what: "different faces: until the relay is out of every view, relays and clients".into(),
            setup: "the same; local timers".into(),
            figure,
            bar: "10 minutes".into(),
            holds: gone.is_some(),
        },
    ]
}
