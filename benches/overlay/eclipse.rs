//! Eclipse of one node, and of whoever begins (G4, T29): a relay that an attacker contacts for a week and then makes restart; and
//! starts of which four ways in of five lead into a network of liars.

use crate::first_list;
use crate::machines::{Machines, Says};
use crate::sim::liars::OnPath;
use crate::table::Row;
use onionskin::base::limits;
use onionskin::base::net::Prefix;
use onionskin::proto::overlay::record::hint_id;
use onionskin::proto::overlay::region::Region;
use onionskin::proto::overlay::view::View;
use onionskin::wire::overlay::{Hint, Message};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const SEED: u64 = 80;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The attacker's share of what may be drawn is no higher than that of its prefixes, and this much.
const ABOVE: f64 = 5.0;
/// Keys whose regions are looked at.
const KEYS: usize = 200;
/// Clients that start at the same time.
const AT_ONCE: usize = 10;

/// Rows for each number of prefixes, and for starts.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let (honest, hours) = if quick { (20, 6) } else { (40, 7 * 24) };
    let attackers: &[(usize, usize)] = if quick { &[(20, 1)] } else { &[(2, 30), (20, 3), (200, 1)] };
    let mut rows: Vec<Row> = attackers.iter().flat_map(|(prefixes, each)| contacted(honest, hours, *prefixes, *each)).collect();
    rows.extend(starts(if quick { 10 } else { 200 }));
    rows
}

/// How much of what a node would draw is bad, in percent: every /24 weighs the same, as in paths.
fn drawn(view: &View, bad: &BTreeSet<Prefix>) -> f64 {
    let prefixes: BTreeSet<Prefix> = view.usable().iter().map(|r| r.prefix()).collect();
    prefixes.intersection(bad).count() as f64 * 100.0 / prefixes.len().max(1) as f64
}

/// Of the links that it dialled, the share that leads to the attacker, in percent.
fn dialled(world: &Machines, node: usize, bad: &[usize]) -> f64 {
    let ends: BTreeSet<usize> = world.nodes[node].links.values().filter(|end| end.dialled).map(|end| end.peer).collect();
    ends.iter().filter(|peer| bad.contains(peer)).count() as f64 * 100.0 / ends.len().max(1) as f64
}

/// Names nobody but those of its kind.
fn names_only(ids: &Rc<Vec<Hint>>) -> Says {
    let ids = Rc::clone(ids);
    Box::new(move |_, bytes| match Message::decode(&bytes) {
        Ok(Message::NearReply { id, hints }) => {
            let own = |h: &&Hint| ids.iter().any(|bad| bad.id == h.id);
            let mut named: Vec<Hint> = hints.iter().filter(own).copied().collect();
            let more = ids.iter().filter(|bad| hints.iter().all(|h| h.id != bad.id));
            named.extend(more.take(hints.len() - named.len()).copied());
            Message::NearReply { id, hints: named }.encode().unwrap_or_default()
        }
        _ => bytes,
    })
}

fn contacted(honest: usize, hours: u32, prefixes: usize, each: usize) -> [Row; 3] {
    let mut world = Machines::new(SEED + prefixes as u64, false);
    for i in 0..honest {
        let first: Vec<usize> = (0..i.min(5)).collect();
        let relay = world.add(SocketAddr::from(([20, i as u8, 7, 9], 9001)), true, &first);
        world.on(relay);
        world.run(SECOND);
    }
    let victim = honest - 1;
    world.run(SECOND * 300);
    // All begin at the victim, ask nobody else for a start, and are where they say.
    let at = |i: usize| SocketAddr::from(([100, (i / each) as u8, 7, 1 + (i % each) as u8], 9001));
    let bad: Vec<usize> = (0..prefixes * each).map(|i| world.add(at(i), true, &[victim])).collect();
    let hints = bad.iter().map(|n| Hint { id: hint_id(&world.nodes[*n].id), tag: 1, fresh: world.wall().0 }).collect();
    let hints = Rc::new(hints);
    for attacker in &bad {
        world.nodes[*attacker].says = Some(names_only(&hints));
        world.on(*attacker);
        world.run(SECOND);
    }
    let bad_prefixes: BTreeSet<Prefix> = (0..bad.len()).map(|i| Prefix::of(&at(i))).collect();
    let share = prefixes as f64 * 100.0 / (prefixes + honest) as f64;
    let (mut most_drawn, mut most_dialled, mut sum_dialled, mut looks) = (0.0f64, 0.0f64, 0.0, 0.0);
    for _ in 0..hours {
        world.run(HOUR);
        most_drawn = most_drawn.max(world.view(victim).map_or(0.0, |view| drawn(view, &bad_prefixes)));
        let now = dialled(&world, victim, &bad);
        (most_dialled, sum_dialled, looks) = (most_dialled.max(now), sum_dialled + now, looks + 1.0);
    }
    let (of_24, of_16) = in_regions(&mut world, victim);
    // It restarts, and all of them are there at once.
    world.off(victim);
    world.run(SECOND * 20);
    world.on(victim);
    for attacker in &bad {
        world.connect(*attacker, victim);
    }
    let (restarted, mut ready, mut least, mut all_bad) = (world.now, None, f64::INFINITY, 0);
    let mut most_after = 0.0f64;
    while world.now.since(restarted) < SECOND * 600 {
        world.run(SECOND * 5);
        let now = dialled(&world, victim, &bad);
        all_bad += u32::from(now >= 100.0);
        if world.ready(victim) {
            ready.get_or_insert(world.now.since(restarted));
            let now = world.view(victim).map_or(0.0, |view| drawn(view, &bad_prefixes));
            (most_after, least) = (most_after.max(now), least.min(now));
        }
    }
    let setup = format!(
        "{honest} honest relays, machines without cells, public timers; {} bad ones in {prefixes} /24 and /16 ({share:.0} % of /24) that \
         name only each other begin at one relay, {hours} hours; seed {}",
        bad.len(),
        SEED + prefixes as u64
    );
    let after = ready.map_or_else(|| "not ready again".to_owned(), |t| format!("ready {} s after it", t.as_secs()));
    [
        Row {
            what: "eclipse (G4): bad share of what the relay's view offers for paths".into(),
            setup: setup.clone(),
            figure: format!("at most {most_drawn:.0} %; after a restart among them {most_after:.0} %, {after}"),
            bar: format!("{:.0} %, and ready within 10 minutes", share + ABOVE),
            holds: most_drawn.max(most_after) <= share + ABOVE && ready.is_some(),
        },
        Row {
            what: "eclipse (G4): bad share of the links that the relay dialled".into(),
            setup: setup.clone(),
            figure: format!(
                "{:.0} % on average, at most {most_dialled:.0} %; all of them bad in {all_bad} of 120 looks after the restart",
                sum_dialled / looks
            ),
            bar: format!("{:.0} % on average, and never all", share + ABOVE),
            holds: sum_dialled / looks <= share + ABOVE && all_bad == 0,
        },
        Row {
            what: "eclipse (G4): most hosts of one /24 and of one /16 among the hosts of a region that are gone to first".into(),
            setup: format!("{setup}; {KEYS} keys"),
            figure: format!("{of_24} and {of_16}"),
            bar: format!("{} and {}", limits::REGION_PER_PREFIX, limits::REGION_PER_GROUP),
            holds: of_24 <= limits::REGION_PER_PREFIX && of_16 <= limits::REGION_PER_GROUP,
        },
    ]
}

/// Most of one /24, and of one /16, among the first hosts that a writer or a reader of some key goes to: those 24 that a region is
/// made wide enough for, of which a writer leaves three out (D15). Caps order hosts and shut nobody out: whoever stands beyond them
/// belongs to the region, and is asked last (D10).
fn in_regions(world: &mut Machines, node: usize) -> (usize, usize) {
    let (mut most_24, mut most_16) = (0, 0);
    for _ in 0..KEYS {
        let mut key = [0; 32];
        world.rng.fill_bytes(&mut key);
        let Some(region) = world.view(node).map(|view| Region::of(view, &key)) else { continue };
        let written = (region.write_list(&mut world.rng, &[]).hosts, limits::REGION_TARGET - limits::WRITE_LEFT_OUT);
        let read = (region.read_list(&mut world.rng, &[]).hosts, limits::REGION_TARGET);
        for (hosts, first) in [written, read] {
            let (mut of_24, mut of_16) = (BTreeMap::new(), BTreeMap::new());
            for host in hosts.iter().take(first) {
                *of_24.entry(host.prefix()).or_insert(0) += 1;
                *of_16.entry(host.group()).or_insert(0) += 1;
            }
            most_24 = most_24.max(of_24.into_values().max().unwrap_or(0));
            most_16 = most_16.max(of_16.into_values().max().unwrap_or(0));
        }
    }
    (most_24, most_16)
}

/// Some ways in of five lead into a network of liars, who know only each other.
fn starts(count: usize) -> Vec<Row> {
    let (mut world, honest, bad) = first_list::world(904);
    // In every order.
    let ways = |i: usize, lying: usize| {
        let mut ways: Vec<usize> = (0..lying).map(|n| bad[(i + n) % bad.len()]).collect();
        ways.extend((lying..5).map(|n| honest[(i + 7 * n) % honest.len()]));
        ways.rotate_left(i % 5);
        ways
    };
    let mut rows = Vec::new();
    let share = bad.len() as f64 * 100.0 / (bad.len() + honest.len()) as f64;
    for lying in [1, 2, 4] {
        let (mut all_bad, mut ready, mut drawn, mut wrong, mut left, mut slowest) = (0, 0, 0, 0, 0, Duration::ZERO);
        for batch in (0..count).step_by(AT_ONCE) {
            let clients: Vec<(usize, Vec<usize>)> =
                (batch..batch + AT_ONCE).map(|i| (world.client_to_be(0), ways(i, lying))).collect();
            let began = world.now;
            world.start_all(&clients, &honest, OnPath::Nobody, SECOND * 120);
            slowest = slowest.max(world.now.since(began));
            ready += clients.iter().filter(|(client, _)| world.ready(*client)).count();
            // Until its directories were read several times.
            world.run(SECOND * 60);
            for (client, _) in &clients {
                let [guards, _] = world.saved_paths(*client);
                (drawn, wrong) = (drawn + guards.len(), wrong + world.count_of(&guards, &bad));
                // Of its guards, it uses those that its view has.
                let view = world.nodes[*client].core.as_ref().map(|core| core.view());
                let used: Vec<_> = guards.into_iter().filter(|g| view.is_some_and(|view| view.get(g).is_some())).collect();
                let bad_used = world.count_of(&used, &bad);
                all_bad += usize::from(!used.is_empty() && bad_used == used.len());
                left += usize::from(bad_used > 0);
                world.switch_off(*client);
            }
        }
        let bad_share = wrong as f64 * 100.0 / drawn.max(1) as f64;
        rows.push(Row {
            what: format!("eclipse (G4): first starts of clients whose guards are all bad, {lying} of 5 ways in lie"),
            setup: format!(
                "60 honest, 10 bad relays ({share:.0} % of /24), whole cores, local timers, ways in in every order, {count} starts, seed 904"
            ),
            figure: format!(
                "{all_bad} of {count} a minute later ({ready} ready, the last after {} s); {bad_share:.0} % of {drawn} guards drawn are bad; \
                 {left} clients have bad ones in use still",
                slowest.as_secs()
            ),
            bar: format!("0 while one is honest; {:.0} %; ready within 10 minutes", share + ABOVE),
            holds: all_bad == 0 && bad_share <= share + ABOVE && ready == count,
        });
    }
    // A relay takes in what all say.
    let (mut apart, mut slowest) = (0, Duration::ZERO);
    let relays = count.div_ceil(10);
    for i in 0..relays {
        let addr = SocketAddr::from(([140, 1 + i as u8, 7, 9], 9001));
        let seed = onionskin::crypto::secret::Secret::random(world.rng());
        let relay = world.add_from(addr, Some(seed), &ways(i, 4));
        let began = world.now;
        let knows = |w: &crate::sim::World| {
            let view = w.nodes[relay].core.as_ref().map(|core| core.view());
            view.map_or(0, |view| honest.iter().filter(|h| w.nodes[**h].id.is_some_and(|id| view.get(&id).is_some())).count())
        };
        let whole = world.run_until_each(SECOND, SECOND * 600, |w| knows(w) * 100 >= honest.len() * 97);
        apart += usize::from(!whole);
        slowest = slowest.max(world.now.since(began));
        world.switch_off(relay);
    }
    rows.push(Row {
        what: "eclipse (G4): new relays that do not find the honest network, four ways in of five lie".into(),
        setup: format!("the same; {relays} relays one after the other"),
        figure: format!("{apart} of {relays}; 97 % of it known after {} s at the most", slowest.as_secs()),
        bar: "0, within 10 minutes".into(),
        holds: apart == 0,
    });
    rows
}
