//! Route fingerprints (G10, T29): whether what clients know differs enough to tell one by the path that it builds, when a tenth of
//! the relays shows them different parts of the network.

use crate::lifelike::Months;
use crate::machines::Says;
use crate::table::Row;
use onionskin::base::{NodeId, Time};
use onionskin::wire::overlay::Message;
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::collections::BTreeSet;
use std::time::Duration;

const SEED: u64 = 81;
const HOUR: Duration = Duration::from_secs(3600);
const PATHS: usize = 2000;
/// What liars do to the clients of each third: nothing; show each half of them another half of the network; hide another twentieth
/// from each twentieth of them, so that their lists still agree with honest ones.
const PARTS: [u64; 3] = [1, 2, 20];

/// Whether a liar shows a client this relay: who is in neither its half, or in its twentieth, is hidden.
const fn shows(part: u64, client: u64, hint: u64) -> bool {
    match part {
        1 => true,
        2 => hint % 2 == client % 2,
        part => hint % part != client % part,
    }
}

/// Shows each client its part; the clients begin at this index, and the thirds take turns.
fn shows_parts(clients: usize) -> Says {
    Box::new(move |to, bytes| {
        let Some(client) = to.checked_sub(clients) else { return bytes };
        let shows = |hint: u64| shows(PARTS[client % 3], (client / 3) as u64, hint);
        let said = match Message::decode(&bytes) {
            Ok(Message::ListPage { id, next, anew, more, gone, mut listed }) => {
                listed.retain(|l| shows(l.id));
                Message::ListPage { id, next, anew, more, gone, listed }
            }
            Ok(Message::NearReply { id, mut hints }) => {
                hints.retain(|h| shows(h.id));
                Message::NearReply { id, hints }
            }
            _ => return bytes,
        };
        said.encode().unwrap_or(bytes)
    })
}

/// Two rows for each third of the clients.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let (relays, clients, hours) = if quick { (30, 30, 2) } else { (200, 300, 24) };
    let mut months = Months::new(SEED, relays, 3);
    months.run_to(Time(0) + HOUR * 2);
    for liar in (0..relays).filter(|i| i % 10 == 6) {
        months.world.nodes[liar].says = Some(shows_parts(relays));
    }
    let all: Vec<usize> = (0..relays).collect();
    let clients: Vec<usize> = (0..clients).map(|_| months.world.client(&all, 5)).collect();
    months.run_to(Time(0) + HOUR * 3);
    let early: Vec<f64> = clients.iter().map(|c| covers(&months, relays, *c)).collect();
    months.run_to(Time(0) + HOUR * (2 + hours));
    let views: Vec<BTreeSet<NodeId>> = clients.iter().map(|c| knows(&months, *c)).collect();
    let bare = median(of(&early, 0));
    let setup = format!(
        "{relays} relays up for 90 % of the time, a tenth liars, machines without cells, public timers; {} clients from 5 ways in each \
         know them for {hours} hours; seed {SEED}",
        clients.len()
    );
    let mut rows = Vec::new();
    for (third, told) in ["nothing", "halves of the network", "all but a twentieth"].into_iter().enumerate() {
        let own: Vec<&BTreeSet<NodeId>> = views.iter().enumerate().filter(|(i, _)| i % 3 == third).map(|(_, view)| view).collect();
        let ready = own.iter().filter(|view| !view.is_empty()).count();
        let mut able: Vec<f64> = (0..PATHS).map(|_| path(&mut months, &own)).collect();
        able.sort_by(f64::total_cmp);
        let (median_able, low) = (able[PATHS / 2], able[PATHS / 100]);
        rows.push(Row {
            what: format!("fingerprint (G10): clients that can build a path, liars show {told}"),
            setup: setup.clone(),
            figure: format!(
                "median path {median_able:.1} %, one in a hundred {low:.1} % ({ready} of {} clients ready, {PATHS} paths)",
                own.len()
            ),
            bar: "90 % each".into(),
            holds: low >= 90.0,
        });
        let early = of(&early, third);
        let (least, middle) = (early.iter().copied().fold(100.0, f64::min), median(early.clone()));
        let enough = early.iter().filter(|share| **share >= 97.0).count();
        rows.push(Row {
            what: format!("fingerprint (G10): share of the relays that a client knows an hour after it joined, liars show {told}"),
            setup: setup.clone(),
            figure: format!("median {middle:.1} %, least {least:.1} %; {enough} of {} know 97 %", early.len()),
            bar: "97 %, and 2 points less than without liars at the most".into(),
            holds: middle >= 97.0 && bare - middle <= 2.0,
        });
    }
    rows
}

fn of(shares: &[f64], third: usize) -> Vec<f64> {
    shares.iter().enumerate().filter(|(i, _)| i % 3 == third).map(|(_, share)| *share).collect()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(0.0)
}

/// Whom a client would choose from; nobody while it may not choose.
fn knows(months: &Months, client: usize) -> BTreeSet<NodeId> {
    let view = months.world.view(client).filter(|_| months.world.ready(client));
    view.map(|view| view.usable().iter().map(|r| r.node()).collect()).unwrap_or_default()
}

/// Of the relays that have been up for an hour, the share that a client knows, in percent.
fn covers(months: &Months, relays: usize, client: usize) -> f64 {
    let known = knows(months, client);
    let old = |i: &usize| months.is_up(*i) && months.world.now.since(months.world.nodes[*i].since) >= HOUR;
    let there: Vec<usize> = (0..relays).filter(old).collect();
    there.iter().filter(|i| known.contains(&months.world.nodes[**i].id)).count() as f64 * 100.0 / there.len().max(1) as f64
}

/// A path as one of the clients would draw it: the share of all that could, in percent.
fn path(months: &mut Months, views: &[&BTreeSet<NodeId>]) -> f64 {
    let ready: Vec<&BTreeSet<NodeId>> = views.iter().copied().filter(|view| view.len() >= 3).collect();
    let Some(own) = ready.choose(&mut months.world.rng) else { return 0.0 };
    let hops: Vec<NodeId> = (0..3).filter_map(|_| own.iter().nth(months.world.rng.random_range(0..own.len())).copied()).collect();
    views.iter().filter(|view| hops.iter().all(|hop| view.contains(hop))).count() as f64 * 100.0 / views.len() as f64
}
