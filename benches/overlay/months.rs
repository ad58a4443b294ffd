//! Hosts over weeks, with whole cores and the timers of the open internet: nothing happens, and then an update restarts everyone. What
//! was published on the second day is fetched again and again.

use crate::sim::World;
use crate::table::Row;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Relays, whole cores.
const RELAYS: usize = 12;
static DOCUMENT: [u8; 20_000] = [7; 20_000];

/// In how many of all views the relay is a host that hosts in the fewest.
fn least(world: &World) -> usize {
    let views: Vec<_> = world.nodes.iter().filter_map(|n| n.core.as_ref()).map(|core| core.view()).collect();
    let ids = world.nodes.iter().filter_map(|n| n.id);
    let hosts = |id| views.iter().filter(|view| view.entry(&id).is_some_and(|e| e.host)).count();
    ids.map(hosts).min().unwrap_or(0)
}

/// Has a client do something, once it is ready.
fn visit<T>(world: &mut World, client: usize, act: impl FnOnce(&mut World) -> Option<T>) -> Option<T> {
    let network = world.network;
    world.switch_on(client, network);
    let ready = world.run_until_each(Duration::from_secs(1), Duration::from_secs(120), |w| w.ready(client));
    let done = if ready { act(world) } else { None };
    world.switch_off(client);
    done
}

/// Two rows.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let days = if quick { 3 } else { 14 };
    let mut world = World::on_the_open_internet(77);
    let relays = world.relays(RELAYS);
    let network = world.network;
    let (mut hours, mut whole, mut worst) = (0, 0, RELAYS);
    let (writer, reader) = (world.client_to_be(0), world.client_to_be(0));
    let (mut key, mut gets, mut got) = (None, 0, 0);
    for hour in 1..=days * 24 {
        // An update: all within the hour, five minutes apart.
        if hour == days * 12 {
            for relay in &relays {
                world.switch_off(*relay);
                world.run(Duration::from_secs(20));
                world.switch_on(*relay, network);
                world.run(Duration::from_secs(280));
            }
        } else {
            world.run(HOUR);
        }
        if hour > 25 {
            let now = least(&world);
            hours += 1;
            whole += u32::from(now == RELAYS);
            worst = worst.min(now);
        }
        if hour == 48 {
            key = visit(&mut world, writer, |w| w.publish(writer, &DOCUMENT).ok()).map(|(key, _)| key);
            assert!(key.is_some(), "published");
        }
        if let Some(key) = key.as_ref().filter(|_| hour % 6 == 0) {
            gets += 1;
            let document = visit(&mut world, reader, |w| w.get(reader, key, 0).ok()).map(|(document, _)| document);
            got += usize::from(document.is_some_and(|d| d == DOCUMENT));
        }
    }
    let setup =
        format!("{RELAYS} whole cores, public timers, {days} days, all restarted within an hour on day {}, seed 77", days / 2);
    vec![
        Row {
            what: "months: hours in which every relay hosts in every view".into(),
            setup: setup.clone(),
            figure: format!("{whole} of {hours}; the worst relay in {worst} of {RELAYS} views"),
            bar: "99 % of them".into(),
            holds: whole * 100 >= hours * 99,
        },
        Row {
            what: "months: gets of a document of day 2, every six hours".into(),
            setup,
            figure: format!("{got} of {gets}"),
            bar: "all".into(),
            holds: got == gets && gets > 0,
        },
    ]
}
