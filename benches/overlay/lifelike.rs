//! Hosts over months, as relays are run: they go down and come back, restart, are updated together, and move.
//!
//! Overlay machines alone: what a host holds is not played, only who should hold it and who would be asked. A restart keeps what a
//! node keeps, its descriptor and its addresses with their receipts, and loses its view.

use crate::machines::Machines;
use crate::table::Row;
use onionskin::base::{NodeId, Time};
use onionskin::proto::overlay::region::Region;
use rand::{Rng, RngExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const SEED: u64 = 78;
const HOUR: Duration = Duration::from_secs(3600);
/// Mean time up and down: up for 90 %.
const UP: Duration = Duration::from_secs(54 * 3600);
const DOWN: Duration = Duration::from_secs(6 * 3600);
/// A restart is over after this. Whoever is back so soon was there all the time.
const RESTART: Duration = Duration::from_secs(120);
/// What a view of the network is: that of a relay that has run for so long.
const VIEW_AFTER: Duration = Duration::from_secs(600);
/// Links that a relay's operator, or a client, was given.
const WAYS_IN: usize = 5;
/// Shares that make a document.
const NEEDED: usize = 8;
/// From then on the network is looked at: a host is one that was there for a day, told by the hour of its receipts.
const FIRST_HOUR: u64 = 28;
const PUBLISHED: u64 = 48;
/// How long a command waits for the network before it gives up.
const START: Duration = Duration::from_secs(600);

/// What happens to a relay.
#[derive(Clone, Copy)]
enum Act {
    On,
    Down(Duration),
    Restart,
    /// Its line has another address; its operator may set it so, and restart it.
    Moves(bool),
}

/// Whom a writer found for a key.
struct Written {
    key: [u8; 32],
    hosts: Vec<(usize, SocketAddr)>,
}

/// Relays as they are run.
pub(crate) struct Months {
    /// The relays.
    pub(crate) world: Machines,
    relays: usize,
    acts: BTreeMap<(Time, u64), (usize, Act)>,
    planned: u64,
    /// Since when each relay has been up at one address, but for restarts.
    steady: Vec<Option<Time>>,
    index: BTreeMap<NodeId, usize>,
    up: u64,
}

impl Months {
    /// Relays that are up and down for so many days, from the first minutes on.
    pub(crate) fn new(seed: u64, relays: usize, days: u64) -> Self {
        let world = Machines::new(seed, false);
        let steady = vec![None; relays];
        let mut this = Self { world, relays, acts: BTreeMap::new(), planned: 0, steady, index: BTreeMap::new(), up: 0 };
        for i in 0..relays {
            let first: Vec<usize> = (0..i.min(WAYS_IN)).collect();
            let node = this.world.add(address(i), true, &first);
            this.index.insert(this.world.nodes[node].id, node);
            let came = Duration::from_secs(6 * i as u64);
            this.plan(Time(0) + came, i, Act::On);
            this.lives(i, Time(0) + came, days);
        }
        this
    }

    /// All restart within the hour on one day, and a tenth moves on another, half of them while they run.
    fn upset(&mut self, restart: u64, moves: u64) {
        for i in 0..self.relays {
            self.plan(day(restart) + HOUR * i as u32 / self.relays as u32, i, Act::Restart);
        }
        for i in (0..self.relays).step_by(10) {
            let at = day(moves) + Duration::from_secs(self.world.rng.random_range(0..86_400));
            self.plan(at, i + 3, Act::Moves(i % 20 == 0));
        }
    }

    /// When a relay is up, and a fifth of them restart each day.
    fn lives(&mut self, relay: usize, from: Time, days: u64) {
        let mut drawn = |mean: Duration| mean.mul_f64(-self.world.rng.random_range(1e-9..1.0f64).ln());
        let (mut at, mut downs) = (from, Vec::new());
        while at < day(days) {
            at = at + drawn(UP);
            let down = drawn(DOWN);
            downs.push((at, down));
            at = at + down;
        }
        downs.into_iter().for_each(|(at, down)| self.plan(at, relay, Act::Down(down)));
        if relay % 5 == 2 {
            let hour = Duration::from_secs(self.world.rng.random_range(0..86_400));
            (1..days).for_each(|n| self.plan(day(n) + hour, relay, Act::Restart));
        }
    }

    fn plan(&mut self, at: Time, relay: usize, act: Act) {
        self.planned += 1;
        self.acts.insert((at, self.planned), (relay, act));
    }

    /// Whether it is on.
    pub(crate) fn is_up(&self, relay: usize) -> bool {
        self.world.nodes[relay].overlay.is_some()
    }

    /// Runs until then.
    pub(crate) fn run_to(&mut self, end: Time) {
        while let Some(((at, _), (relay, act))) = self.acts.pop_first() {
            if at > end {
                self.plan(at, relay, act);
                break;
            }
            self.world.run(at.since(self.world.now));
            self.act(relay, act);
        }
        self.world.run(end.since(self.world.now));
    }

    fn act(&mut self, relay: usize, act: Act) {
        let now = self.world.now;
        match act {
            Act::On if !self.is_up(relay) => {
                self.world.on(relay);
                self.steady[relay].get_or_insert(now);
            }
            Act::On => {}
            Act::Down(time) => {
                if self.is_up(relay) {
                    self.world.off(relay);
                }
                self.steady[relay] = self.steady[relay].filter(|_| time <= RESTART);
                self.plan(now + time, relay, Act::On);
            }
            Act::Restart if self.is_up(relay) => {
                self.world.off(relay);
                self.plan(now + RESTART, relay, Act::On);
            }
            Act::Restart => {}
            Act::Moves(running) => {
                self.world.moves(relay, address(self.relays + relay));
                self.steady[relay] = self.steady[relay].map(|_| now);
                if !running {
                    self.world.set_anew(relay);
                    self.act(relay, Act::Restart);
                }
            }
        }
    }

    /// Starts a client, unless it runs. Whether it knows the network in time, and kept what it knows.
    fn starts(&mut self, client: usize) -> bool {
        if !self.is_up(client) {
            self.world.on(client);
        }
        let began = self.world.now;
        while !self.world.ready(client) && self.world.now.since(began) < START {
            self.world.run(Duration::from_secs(1));
        }
        let ready = self.world.ready(client);
        self.world.run(Duration::from_secs(1));
        ready
    }

    /// Relays that were up for a day at one address.
    fn steady(&self) -> BTreeSet<usize> {
        let day = |at: &Option<Time>| at.is_some_and(|at| self.world.now.since(at) >= HOUR * 24);
        (0..self.relays).filter(|i| day(&self.steady[*i])).collect()
    }

    /// Of those, how many are hosts in 99 % of views; and how many views miss one.
    fn hosts(&self) -> (usize, usize, usize, usize) {
        let old = |i: &usize| self.world.now.since(self.world.nodes[*i].since) >= VIEW_AFTER;
        let views: Vec<_> =
            (0..self.relays).filter(old).filter_map(|i| Some(self.world.nodes[i].overlay.as_ref()?.view())).collect();
        let steady = self.steady();
        let misses = |i: &usize| {
            let id = self.world.nodes[*i].id;
            views.iter().filter(|view| view.entry(&id).is_none_or(|e| !e.host)).count()
        };
        let missed: Vec<usize> = steady.iter().map(misses).collect();
        let known = missed.iter().filter(|missed| **missed * 100 <= views.len()).count();
        (known, steady.len(), missed.iter().sum(), steady.len() * views.len())
    }
}

fn day(n: u64) -> Time {
    Time(0) + HOUR * 24 * n as u32
}

/// Each in a /16 of its own.
fn address(i: usize) -> SocketAddr {
    SocketAddr::from(([20 + (i / 250) as u8, (i % 250) as u8, 7, 9], 9001))
}

/// Hours, and those that are as they should be.
#[derive(Default)]
struct Hours {
    all: u64,
    good: u64,
}

impl Hours {
    fn count(&mut self, good: bool) {
        self.all += 1;
        self.good += u64::from(good);
    }
}

/// Three rows.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let (relays, days) = if quick { (30, 6) } else { (100, 90) };
    let mut months = Months::new(SEED, relays, days);
    months.upset(days / 3, days / 2);
    let (mut host_hours, mut pairs, mut fetched) = (Hours::default(), Hours::default(), Hours::default());
    let (mut hosting, mut there) = (0, 0);
    let (mut missed, mut looked, mut worst) = (0, 0, (relays, relays));
    let (mut shared, mut should, mut fewest) = (0, 0, usize::MAX);
    let mut written: Vec<Written> = Vec::new();
    let mut document: Option<([u8; 32], BTreeSet<usize>)> = None;
    let (mut earlier, mut waited) = (None, 0);
    for hour in 1..=days * 24 {
        // Some minutes past the hour: at its turn receipts become a day old.
        months.run_to(Time(0) + HOUR * hour as u32 + Duration::from_secs(300));
        months.world.renew_keys();
        months.up += (0..relays).filter(|i| months.is_up(*i)).count() as u64;
        if hour < FIRST_HOUR {
            continue;
        }
        let (known, steady, misses, pairs_looked) = months.hosts();
        host_hours.count(known * 100 >= steady * 99);
        (hosting, there) = (hosting + known, there + steady);
        (missed, looked) = (missed + misses, looked + pairs_looked);
        if known * worst.1 < worst.0 * steady {
            worst = (known, steady);
        }
        // Somebody's first start, as writer and reader.
        let all: Vec<usize> = (0..relays).collect();
        let first = months.world.client(&all, WAYS_IN);
        let ways = months.world.ways_up(first);
        let client = Some(first).filter(|c| months.starts(*c));
        // Two lists must agree, so who has fewer than two links that lead anywhere waits (T29). Meanwhile those read that were there
        // before: they have their guards.
        let waits = client.is_none() && ways.max(months.world.ways_up(first)) < 2;
        waited += u64::from(waits);
        let reader = if waits { earlier.filter(|e| months.starts(*e)) } else { client };
        let steady = months.steady();
        let region = |world: &Machines, key: &[u8; 32]| client.and_then(|c| world.view(c)).map(|view| Region::of(view, key));
        let before = if written.is_empty() { 0 } else { months.world.rng.random_range(0..written.len()) };
        if let Some(before) = written.get(before) {
            let found = region(&months.world, &before.key);
            let still = before.hosts.iter().filter(|(i, addr)| steady.contains(i) && months.world.nodes[*i].addr == *addr);
            let still: Vec<usize> = still.map(|(i, _)| *i).collect();
            let here = |i: &&usize| found.as_ref().is_some_and(|f| f.contains(&months.world.nodes[**i].id));
            let both = still.iter().filter(here).count();
            (shared, should) = (shared + both, should + still.len());
            pairs.count(both * 100 >= still.len() * 95);
        }
        let mut key = [0; 32];
        months.world.rng.fill_bytes(&mut key);
        if let Some(region) = region(&months.world, &key).filter(|_| hour >= PUBLISHED) {
            let hosts = region.members().iter().filter_map(|m| months.index.get(&m.node()).map(|i| (*i, m.addr())));
            let hosts = hosts.filter(|(i, _)| steady.contains(i)).collect();
            written.push(Written { key, hosts });
            if document.is_none() {
                let list = region.write_list(&mut months.world.rng, &[]).hosts;
                document = Some((key, list.iter().filter_map(|m| months.index.get(&m.node()).copied()).collect()));
            }
        }
        if let Some((key, holders)) = &document {
            let region = reader.and_then(|r| months.world.view(r)).map(|view| Region::of(view, key));
            let asked = region.map(|r| r.read_list(&mut months.world.rng, &[]).hosts).unwrap_or_default();
            let gives = |i: &usize| holders.contains(i) && months.is_up(*i);
            let answer = asked.iter().filter(|m| {
                months.index.get(&m.node()).copied().filter(gives).is_some_and(|i| months.world.nodes[i].addr == m.addr())
            });
            let answer = answer.count();
            fewest = fewest.min(answer);
            fetched.count(answer >= NEEDED);
        }
        months.world.off(first);
        if let Some(reader) = reader {
            months.world.off(reader);
            earlier = Some(reader);
        }
    }
    let setup = format!(
        "{relays} relays, machines without cells, public timers, {days} days, up {} %, a fifth restarts daily, all within an hour on \
         day {}, a tenth moves on day {}, seed {SEED}",
        months.up * 100 / (relays as u64 * days * 24),
        days / 3,
        days / 2
    );
    let holders = document.map_or(0, |(_, holders)| holders.len());
    vec![
        Row {
            what: "months: relays up for a day at one address that host in 99 % of views, looked at each hour".into(),
            setup: setup.clone(),
            figure: format!(
                "{hosting} of {there} times, {:.2} %; in {} of {} hours 99 % of them, in the worst {} of {}; {missed} of {looked} times a view \
                 lacks one",
                hosting as f64 * 100.0 / there as f64,
                host_hours.good,
                host_hours.all,
                worst.0,
                worst.1
            ),
            bar: "99 %".into(),
            holds: hosting * 100 >= there * 99,
        },
        Row {
            what: "months: such hosts of a writer's region that are in the region of a reader a random time later".into(),
            setup: format!("{setup}; both are clients at their first start, one each hour"),
            figure: format!(
                "{shared} of {should}, {:.2} %; 95 % of them in {} of {} pairs",
                shared as f64 * 100.0 / should as f64,
                pairs.good,
                pairs.all
            ),
            bar: "95 %".into(),
            holds: shared * 100 >= should * 95,
        },
        Row {
            what: "months: hours in which a document of day 2 can be fetched".into(),
            setup: format!(
                "{setup}; no cells: of the {holders} hosts that its writer served, those up and in a first reader's list, who has \
                 {WAYS_IN} links; while fewer than two of these are up it waits, as it should, and one reads that was there before"
            ),
            figure: format!(
                "{} of {}, in {waited} of them the first reader waits; never fewer than {fewest} of {holders} hosts",
                fetched.good, fetched.all
            ),
            bar: format!("every hour: {NEEDED} hosts"),
            holds: fetched.good == fetched.all,
        },
    ]
}
