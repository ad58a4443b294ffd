//! What a first start makes of three bootstrap links, one of which leads into a network of liars (T29).

use crate::sim::World;
use crate::sim::liars::OnPath;
use crate::table::Row;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Clients that start at the same time.
const AT_ONCE: usize = 10;

/// Sixty honest relays that know each other, and ten liars that know only each other.
pub(crate) fn world(seed: u64) -> (World, Vec<usize>, Vec<usize>) {
    let mut world = World::new(seed);
    let honest = world.relays(60);
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| honest.iter().all(|r| w.knows(*r) == 60)));
    let bad = world.network_of_liars(10);
    (world, honest, bad)
}

/// Rows for each line and each thing that somebody on the path does, and one for clients that have guards.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let starts = if quick { 10 } else { 200 };
    let (mut world, honest, bad) = world(901);
    let paths = [OnPath::Nobody, OnPath::Delays(SECOND * 4), OnPath::Resets(SECOND * 20), OnPath::Resets(SECOND)];
    for (line, path) in [5_000, 15_000, 60_000].into_iter().flat_map(|line| paths.map(|path| (line, path))) {
        let (mut ready, mut guards, mut wrong) = (0, 0, 0);
        for batch in 0..starts / AT_ONCE {
            let clients: Vec<(usize, Vec<usize>)> = (0..AT_ONCE)
                .map(|i| (world.client_to_be(line), vec![(batch + i) % 20, 20 + (batch + i) % 20, bad[i % bad.len()]]))
                .collect();
            world.start_all(&clients, &honest, path, SECOND * 120);
            for (client, _) in &clients {
                ready += usize::from(world.ready(*client));
                let [drawn, seconds] = world.saved_paths(*client);
                guards += drawn.len();
                wrong += world.count_of(&drawn, &bad) + world.count_of(&seconds, &bad);
                world.switch_off(*client);
            }
        }
        rows.push(Row {
            what: "first list: guards and second relays drawn from the liars".into(),
            setup: format!(
                "60 honest, 10 bad, 1 of 3 links bad, {line} B/s per link, on the path: {path:?}, {starts} starts, seed 901"
            ),
            figure: format!("{wrong} (of {guards} guards; {ready} clients ready in two minutes)"),
            bar: "0, for the honest network knows none of them".into(),
            holds: wrong == 0,
        });
    }
    rows.push(kept_guards(if quick { 10 } else { 200 }));
    rows
}

/// Clients with six good guards start again among liars, on a slow line, with and without what they kept of the network.
fn kept_guards(starts: usize) -> Row {
    let (mut world, honest, bad) = world(903);
    let mut kept = 0;
    for batch in 0..starts / AT_ONCE {
        let from = |i: usize| vec![(batch + i) % 20, 20 + (batch + i) % 20, 40 + (batch + i) % 20];
        let clients: Vec<(usize, Vec<usize>)> = (0..AT_ONCE).map(|i| (world.client_to_be(0), from(i))).collect();
        assert!(world.start_all(&clients, &[], OnPath::Nobody, SECOND * 120));
        world.run(SECOND * 20);
        for (client, _) in &clients {
            world.publish(*client, b"so that its guard has worked").expect("published");
        }
        let before: Vec<_> = clients.iter().map(|(client, _)| world.saved_paths(*client)).collect();
        let mut again = Vec::new();
        for (i, (client, _)) in clients.iter().enumerate() {
            world.switch_off(*client);
            world.line(*client, 15_000);
            if i % 2 == 0 {
                world.nodes[*client].saved.remove("view");
            }
            again.push((*client, vec![bad[i % bad.len()], bad[(i + 1) % bad.len()], from(i)[0]]));
        }
        world.start_all(&again, &honest, OnPath::Resets(SECOND), SECOND * 60);
        for ((client, _), before) in clients.iter().zip(&before) {
            let [guards, seconds] = world.saved_paths(*client);
            kept += usize::from(guards == before[0] && before[0].len() == 6 && world.count_of(&seconds, &bad) == 0);
            world.switch_off(*client);
        }
    }
    Row {
        what: "first list: clients that keep their six good guards".into(),
        setup: format!(
            "2 of 3 links bad, the honest one reset each second, 15,000 B/s, half without a kept view, {starts} starts, seed 903"
        ),
        figure: format!("{kept} of {starts}"),
        bar: format!("{starts} of {starts}"),
        holds: kept == starts,
    }
}
