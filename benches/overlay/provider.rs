//! What a client's provider sees in a month of daily commands: to how many addresses its line goes after the first start (T16).

use crate::sim::World;
use crate::table::Row;
use std::collections::BTreeSet;
use std::time::Duration;

const SEED: u64 = 79;
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// One row.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let (relays, days) = if quick { (10, 3) } else { (24, 30) };
    let mut world = World::on_the_open_internet(SEED);
    let all = world.relays(relays);
    // Until they host.
    world.run(HOUR * 27);
    let network = world.network;
    let client = world.client();
    assert!(world.run_until_each(SECOND, SECOND * 120, |w| w.ready(client)));
    world.run(SECOND * 60);
    let first = std::mem::take(&mut world.nodes[client].dialled);
    let (mut commands, mut guards_lost, mut seen) = (0, 0, BTreeSet::new());
    let mut back = None;
    for day in 1..=days {
        world.switch_off(client);
        if let Some(relay) = back.take() {
            world.switch_on(relay, network);
        }
        let guard = guard(&world, client, &all);
        // Some leave: now and then one of the others, in the middle the guard for good, and later the guard for a day.
        let leaves = match day {
            _ if day == days / 3 + 1 || day == days * 2 / 3 + 1 => guard,
            _ if !quick && day % 8 == 4 => all.iter().copied().rfind(|r| world.nodes[*r].core.is_some() && Some(*r) != guard),
            _ => None,
        };
        if let Some(relay) = leaves {
            world.switch_off(relay);
            guards_lost += usize::from(leaves == guard);
            back = leaves.filter(|_| day == days * 2 / 3 + 1);
        }
        world.run(HOUR * 20);
        world.nodes[client].dialled.clear();
        world.switch_on(client, network);
        let ready = world.run_until_each(SECOND, SECOND * 120, |w| w.ready(client));
        let document = vec![day as u8; 3000];
        let got = ready
            && world
                .publish(client, &document)
                .is_ok_and(|(key, _)| world.get(client, &key, 0).is_ok_and(|(got, _)| got == document));
        commands += usize::from(got);
        world.run(SECOND * 40);
        seen.extend(world.nodes[client].dialled.iter().copied());
        let rest = (HOUR * (27 + 24 * day as u32)).as_micros() as u64;
        world.run(Duration::from_micros(rest.saturating_sub(world.now.0)));
    }
    vec![Row {
        what: "provider: addresses that a client's line shows in daily commands, after its first start".into(),
        setup: format!(
            "{relays} whole cores, public timers, {days} commands that publish and get, state kept between; {guards_lost} times its guard \
             is gone, once for good; seed {SEED}"
        ),
        figure: format!("{} ({} at the first start); {commands} of {days} commands did their work", seen.len(), first.len()),
        bar: format!("1 and a replacement for each guard that is gone: {}", 1 + guards_lost),
        holds: seen.len() <= 1 + guards_lost && commands == days,
    }]
}

/// Of the guards that it saved, the first that is there.
fn guard(world: &World, client: usize, relays: &[usize]) -> Option<usize> {
    let [guards, _] = world.saved_paths(client);
    let there = |id| relays.iter().copied().find(|r| world.nodes[*r].id == Some(id) && world.nodes[*r].core.is_some());
    guards.into_iter().find_map(there)
}
