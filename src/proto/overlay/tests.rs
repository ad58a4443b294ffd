//! Overlay machines wired to each other in virtual time: jobs are instant, every message takes 20 ms, a dial three of those.

mod check_tests;
mod host_tests;
mod sync_tests;

use super::*;
use crate::base::NetworkId;
use crate::base::Wall;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::crypto::keys::IdentityKey;
use crate::crypto::secret::Secret;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Listed;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const NET: NetworkId = NetworkId([42; 32]);
pub(super) const EPOCH: u64 = 1_700_000_000;
const LATENCY: Duration = Duration::from_millis(20);

type Cache = BTreeMap<Vec<u8>, Result<Record, RecordError>>;

/// A relay that is not there, well described.
#[derive(Clone, Debug)]
struct Forged {
    node: NodeId,
    body: Vec<u8>,
    fresh: Vec<u8>,
}

struct Node {
    overlay: Overlay,
    key: IdentityKey,
    addr: SocketAddr,
    rng: StdRng,
    /// Link to (peer, its link).
    links: BTreeMap<LinkId, (usize, LinkId)>,
    timer: Option<Time>,
    sent: u64,
    events: Vec<Event>,
    /// Names only its friends.
    liar: bool,
    /// Lists these in place of what it knows.
    forged: Option<Vec<Forged>>,
    /// Of those it does not show this one.
    shows_not: Option<NodeId>,
    /// Bytes that came to it through circuits.
    through: u64,
    /// What it saved.
    saved: BTreeMap<&'static str, Vec<u8>>,
    /// As a witness, it says that everyone is here.
    sees: Option<SocketAddr>,
    /// Neither its dials nor those of others come through.
    cut_off: bool,
    ready_at: Option<Time>,
}

pub(super) struct World {
    now: Time,
    nodes: Vec<Node>,
    by_addr: BTreeMap<SocketAddr, usize>,
    queue: BTreeMap<(Time, u64), (usize, Input)>,
    timers: BTreeSet<(Time, usize)>,
    seq: u64,
    next_link: u64,
    cache: Cache,
    liars: Vec<Hint>,
    dials: Vec<(usize, SocketAddr)>,
    blamed: u32,
    skew: i64,
    /// No job is done.
    lose_jobs: bool,
    /// Questions through circuits are noted in place of being answered.
    no_circuits: bool,
    asked: Vec<(usize, u64, Option<NodeId>, Vec<u8>)>,
}

pub(super) fn key(seed: u64, i: usize) -> IdentityKey {
    IdentityKey::from_seed(&Secret::new(kdf::hash(Label::ApiToken, &[&seed.to_be_bytes(), &i.to_be_bytes()])))
}

fn relay_addr(i: usize) -> SocketAddr {
    SocketAddr::from(([20 + (i / 250) as u8, (i % 250) as u8, 0, 1], 9000))
}

impl World {
    fn new() -> Self {
        Self {
            now: Time(0),
            nodes: vec![],
            by_addr: BTreeMap::new(),
            queue: BTreeMap::new(),
            timers: BTreeSet::new(),
            seq: 0,
            next_link: 0,
            cache: BTreeMap::new(),
            liars: vec![],
            dials: vec![],
            blamed: 0,
            skew: 0,
            lose_jobs: false,
            no_circuits: false,
            asked: vec![],
        }
    }

    pub(super) fn env<'a>(now: Time, rng: &'a mut StdRng) -> Env<'a> {
        Env { now, wall: Wall(EPOCH + now.0 / 1_000_000), rng }
    }

    fn add(&mut self, seed: u64, addr: SocketAddr, relay: bool, local: bool, bootstrap: Vec<Peer>) -> usize {
        let i = self.nodes.len();
        let key = key(seed, i);
        let mut rng = StdRng::seed_from_u64(seed * 100_000 + i as u64);
        let profile = relay.then(|| Profile {
            node: key.node_id(),
            addrs: vec![addr],
            carries: true,
            onion_key: [i as u8; 32],
            host_key: Some(testing::host_key()),
            family: vec![],
            old_addrs: vec![],
        });
        let overlay = Overlay::new(&mut Self::env(self.now, &mut rng), Config { profile, bootstrap, ..testing::config(local) });
        let node = Node {
            overlay,
            key,
            addr,
            rng,
            links: BTreeMap::new(),
            timer: None,
            sent: 0,
            events: vec![],
            liar: false,
            forged: None,
            shows_not: None,
            through: 0,
            saved: BTreeMap::new(),
            sees: None,
            cut_off: false,
            ready_at: None,
        };
        self.nodes.push(node);
        if relay {
            self.by_addr.insert(addr, i);
        }
        self.post(Duration::ZERO, i, Input::Tick);
        i
    }

    fn post(&mut self, after: Duration, node: usize, input: Input) {
        self.seq += 1;
        self.queue.insert((self.now + after, self.seq), (node, input));
    }

    fn run_until(&mut self, until: Time) {
        loop {
            let message = self.queue.first_key_value().map(|(k, _)| k.0);
            let timer = self.timers.first().map(|t| t.0);
            let Some(next) = message.into_iter().chain(timer).min().filter(|t| *t <= until) else { break };
            self.now = self.now.max(next);
            if message == Some(next) {
                let (_, (node, input)) = self.queue.pop_first().unwrap();
                self.feed(node, input);
            } else {
                let (_, node) = self.timers.pop_first().unwrap();
                self.nodes[node].timer = None;
                self.feed(node, Input::Tick);
            }
        }
        self.now = until;
    }

    fn feed(&mut self, i: usize, input: Input) {
        // Messages on links that are gone meanwhile are gone too.
        if let Input::Message { link, .. } | Input::LinkDown { link } = &input
            && !self.nodes[i].links.contains_key(link)
        {
            return;
        }
        if let Input::LinkDown { link } = &input {
            self.nodes[i].links.remove(link);
        }
        let node = &mut self.nodes[i];
        node.overlay.handle(&mut Self::env(self.now, &mut node.rng), input);
        while let Some(output) = self.nodes[i].overlay.poll_output() {
            self.output(i, output);
        }
        let node = &mut self.nodes[i];
        node.overlay.check();
        if node.overlay.coverage().ready {
            node.ready_at.get_or_insert(self.now);
        }
        if let Some(old) = node.timer.take() {
            self.timers.remove(&(old, i));
        }
        let at = node.overlay.timeout().unwrap().0.max(self.now + Duration::from_micros(1));
        node.timer = Some(at);
        self.timers.insert((at, i));
    }

    fn output(&mut self, i: usize, output: Output) {
        match output {
            Output::Send { link, mut bytes } => {
                if self.nodes[i].liar
                    && let Ok(Message::NearReply { id, .. }) = Message::decode(&bytes)
                {
                    bytes = Message::NearReply { id, hints: self.liars.clone() }.encode().unwrap();
                }
                // A directory lies to clients.
                let to = self.nodes[i].links.get(&link).map(|(peer, _)| *peer);
                if to.is_some_and(|to| !self.nodes[to].overlay.is_relay()) {
                    bytes = self.twist(i, bytes);
                }
                self.nodes[i].sent += bytes.len() as u64;
                if let Some((peer, theirs)) = self.nodes[i].links.get(&link).copied() {
                    self.post(LATENCY, peer, Input::Message { link: theirs, bytes });
                }
            }
            Output::Dial { token, addr, expect, fresh } => self.dial(i, token, addr, expect, fresh),
            Output::Release { link } | Output::Blame { link } => {
                self.blamed += u32::from(matches!(output, Output::Blame { .. }));
                if let Some((peer, theirs)) = self.nodes[i].links.get(&link).copied() {
                    self.post(LATENCY, peer, Input::LinkDown { link: theirs });
                    self.post(Duration::ZERO, i, Input::LinkDown { link });
                }
            }
            Output::Ask { token, to, bytes } if self.no_circuits => self.asked.push((i, token, to, bytes)),
            Output::Ask { token, to, bytes } => {
                let told = self.told(i, token, to, &bytes);
                self.post(6 * LATENCY, i, told);
            }
            Output::Job(job, work) => {
                let outcome = if self.lose_jobs { JobOutcome::Lost } else { self.work(i, work) };
                self.post(Duration::ZERO, i, Input::Done { job, outcome });
            }
            Output::Save { name, bytes } => {
                self.nodes[i].saved.insert(name, bytes);
            }
            Output::Event(event) => {
                if event != Event::ViewChanged {
                    self.nodes[i].events.push(event);
                }
            }
        }
    }

    /// What a lying directory says in place of this answer.
    fn twist(&self, i: usize, bytes: Vec<u8>) -> Vec<u8> {
        let Some(forged) = &self.nodes[i].forged else { return bytes };
        let bodies = || forged.iter().map(|f| record::verify_descriptor(&NET, &f.body).unwrap());
        let listed =
            |b: Arc<Body>| Listed { id: record::hint_id(&b.descriptor().node), tag: b.tag(), slot: b.slot16(true), host: true };
        let other = match Message::decode(&bytes) {
            Ok(Message::ListPage { id, next, .. }) => {
                Message::ListPage { id, next, anew: true, more: false, gone: vec![], listed: bodies().map(listed).collect() }
            }
            Ok(Message::FetchReply { id, .. }) => {
                let shown = forged.iter().filter(|f| Some(f.node) != self.nodes[i].shows_not);
                Message::FetchReply { id, records: shown.map(|f| Blob(f.body.clone())).take(60).collect() }
            }
            _ => return bytes,
        };
        other.encode().unwrap()
    }

    /// What comes of a question: over a circuit it is answered as over a link.
    fn told(&mut self, i: usize, token: u64, to: Option<NodeId>, question: &[u8]) -> Input {
        if self.nodes[i].cut_off {
            return Input::Told { token, from: None, answer: None };
        }
        let node = &mut self.nodes[i];
        let view = node.overlay.view();
        let last = to.or_else(|| view.random(&mut node.rng).map(|r| r.node()));
        let relay = self.by_addr.values().copied().find(|r| Some(self.nodes[*r].key.node_id()) == last && !self.nodes[*r].cut_off);
        let answer = relay.and_then(|relay| self.nodes[relay].overlay.answers().bytes(question)).filter(|a| !a.is_empty());
        let answer = answer.zip(relay).map(|(bytes, relay)| self.twist(relay, bytes));
        let len = answer.as_ref().map_or(0, |a| a.len() as u64);
        self.nodes[i].through += len;
        relay.into_iter().for_each(|relay| self.nodes[relay].sent += len);
        Input::Told { token, from: last, answer }
    }

    fn work(&mut self, i: usize, job: OverlayJob) -> JobOutcome {
        if let OverlayJob::Verify(list) = job {
            let mut check = |b: Vec<u8>| {
                let fresh = |b: &Vec<u8>| record::verify_record(&NET, b);
                if self.cache.len() > 20_000 {
                    self.cache.clear();
                }
                self.cache.entry(b).or_insert_with_key(fresh).clone()
            };
            return JobOutcome::Verified(list.into_iter().map(&mut check).collect());
        }
        let job = match (job, self.nodes[i].sees) {
            (OverlayJob::SignReceipt { subject, hour, .. }, Some(addr)) => OverlayJob::SignReceipt { subject, addr, hour },
            (job, _) => job,
        };
        job.run(&NET, Some(&self.nodes[i].key))
    }

    fn dial(&mut self, i: usize, token: u64, addr: SocketAddr, expect: NodeId, fresh: bool) {
        self.dials.push((i, addr));
        let target = self.by_addr.get(&addr).copied().filter(|t| self.nodes[*t].key.node_id() == expect);
        let target = target.filter(|t| !self.nodes[i].cut_off && !self.nodes[*t].cut_off);
        let Some(t) = target else {
            return self.post(LATENCY * 3, i, Input::Dialled { token, link: None });
        };
        if !fresh && let Some((link, _)) = self.nodes[i].links.iter().find(|(_, (peer, _))| *peer == t) {
            let link = Some(*link);
            return self.post(LATENCY * 3, i, Input::Dialled { token, link });
        }
        let (ours, theirs) = (LinkId(self.next_link), LinkId(self.next_link + 1));
        self.next_link += 2;
        self.nodes[i].links.insert(ours, (t, theirs));
        self.nodes[t].links.insert(theirs, (i, ours));
        let wall = Wall(EPOCH + self.now.0 / 1_000_000);
        let is_relay = self.nodes[i].overlay.is_relay();
        let me = is_relay.then(|| self.nodes[i].key.node_id());
        let from = SocketAddr::new(self.nodes[i].addr.ip(), 50_000);
        let up = |link, node, remote, dialled, wall| Input::LinkUp { link, node, remote, dialled, wall };
        self.post(LATENCY * 3, t, up(theirs, me, from, false, is_relay.then_some(wall)));
        let shifted = Some(Wall(wall.0.saturating_add_signed(self.skew)));
        self.post(LATENCY * 3, i, up(ours, Some(expect), addr, true, shifted));
        self.post(LATENCY * 3, i, Input::Dialled { token, link: Some(ours) });
    }

    /// Breaks a node's links, and loses what was on its way to it.
    fn unplug(&mut self, i: usize) {
        for (link, (peer, theirs)) in core::mem::take(&mut self.nodes[i].links) {
            self.nodes[i].overlay.handle(&mut Self::env(self.now, &mut StdRng::seed_from_u64(1)), Input::LinkDown { link });
            self.post(Duration::ZERO, peer, Input::LinkDown { link: theirs });
        }
        self.queue.retain(|_, (to, _)| *to != i);
    }

    /// Restarts a relay on what it saved, at the address where it is now.
    fn restart(&mut self, i: usize, bootstrap: Vec<Peer>) {
        self.unplug(i);
        let node = &mut self.nodes[i];
        let mut profile = node.overlay.own_profile().cloned().unwrap();
        (profile.addrs, profile.old_addrs) = (vec![node.addr], vec![]);
        let saved = |name: &str| node.saved.get(name).cloned();
        let (saved, addresses) = (saved(announce::SAVED), saved(addresses::SAVED));
        let config =
            Config { profile: Some(profile), bootstrap, saved, addresses, ..testing::config(node.overlay.view.is_local()) };
        node.overlay = Overlay::new(&mut Self::env(self.now, &mut node.rng), config);
        node.ready_at = None;
        self.feed(i, Input::Tick);
    }

    /// A relay's line gets another address: its links break, and it is not told.
    fn move_to(&mut self, i: usize, addr: SocketAddr) {
        self.unplug(i);
        self.by_addr.remove(&self.nodes[i].addr);
        self.nodes[i].addr = addr;
        self.by_addr.insert(addr, i);
    }

    fn peer(&self, i: usize) -> Peer {
        Peer { addr: self.nodes[i].addr, node: self.nodes[i].key.node_id() }
    }

    /// Per node: the share of all relays that it knows as usable.
    fn shares(&self) -> Vec<f64> {
        let relays: Vec<NodeId> = self.by_addr.values().map(|i| self.nodes[*i].key.node_id()).collect();
        let known = |n: &Node| relays.iter().filter(|r| n.overlay.view().get(r).is_some()).count();
        self.nodes.iter().map(|n| known(n) as f64 / relays.len() as f64).collect()
    }
}

fn network(n: usize, seed: u64, local: bool) -> World {
    let mut world = World::new();
    world.add(seed, relay_addr(0), true, local, vec![]);
    let first = world.peer(0);
    for i in 1..n {
        let second = if i > 10 { vec![first, world.peer(i % 7 + 1)] } else { vec![first] };
        world.add(seed, relay_addr(i), true, local, second);
    }
    world
}

/// Off the network: its links break, and no dial comes through, either way.
fn cut_off(world: &mut World, i: usize) {
    world.nodes[i].cut_off = true;
    for (link, (peer, theirs)) in world.nodes[i].links.clone() {
        world.post(Duration::ZERO, peer, Input::LinkDown { link: theirs });
        world.post(Duration::ZERO, i, Input::LinkDown { link });
    }
}

/// Runs until every node is ready and knows 97 % of all relays; returns seconds.
fn settle(world: &mut World, most: u64) -> f64 {
    let step = 100_000;
    for tick in 1..most * 10 {
        world.run_until(Time(tick * step));
        if world.nodes.len() >= 1000 && tick % 100 == 0 {
            let shares = world.shares();
            let lowest = shares.iter().copied().fold(1.0, f64::min);
            let below = shares.iter().filter(|s| **s < 0.97).count();
            println!("{} s: lowest {lowest}, below 97 %: {below}, bytes {:?}", tick / 10, figures(world));
        }
        let all_ready = world.nodes.iter().all(|n| n.ready_at.is_some());
        if all_ready && (tick % 50 == 0 || world.nodes.len() < 50) && world.shares().iter().all(|s| *s >= 0.97) {
            return tick as f64 / 10.0;
        }
    }
    let shares = world.shares();
    let lowest = shares.iter().copied().fold(1.0, f64::min);
    let ready = world.nodes.iter().filter(|n| n.ready_at.is_some()).count();
    println!("blamed {}", world.blamed);
    let mut bad: Vec<_> = world.nodes.iter().zip(&shares).filter(|(n, s)| **s < 0.97 || n.ready_at.is_none()).collect();
    bad.sort_by(|a, b| a.1.total_cmp(b.1));
    for (n, share) in bad.into_iter().take(6) {
        let v = n.overlay.view();
        let own = n.overlay.own_descriptor().map(|d| d.receipts().len());
        println!(
            "{} {share} {:?} needed {} receipts {own:?} {:?} links {} rq {} dials {} jobs {} fetching {}",
            n.addr,
            v.counts(),
            v.needed(),
            n.overlay.coverage(),
            n.links.len(),
            n.overlay.requests.len(),
            n.overlay.dials.len(),
            n.overlay.jobs.len(),
            n.overlay.fetching.len()
        );
    }
    panic!("not settled after {most} s: lowest share {lowest}, ready {ready} of {}", world.nodes.len());
}

/// Median and last time of being ready, in seconds.
fn ready_times(world: &World) -> (f64, f64) {
    let mut times: Vec<u64> = world.nodes.iter().filter_map(|n| n.ready_at).map(|t| t.0).collect();
    times.sort_unstable();
    (times[times.len() / 2] as f64 / 1e6, times[times.len() - 1] as f64 / 1e6)
}

fn figures(world: &World) -> (u64, u64) {
    let sent: Vec<u64> = world.nodes.iter().map(|n| n.sent).collect();
    (sent.iter().sum::<u64>() / sent.len() as u64, *sent.iter().max().unwrap())
}

#[test]
fn twenty_four_relays_know_each_other_within_seconds() {
    let mut slowest: f64 = 0.0;
    for seed in 100..110 {
        slowest = slowest.max(settle(&mut network(24, seed, true), 20));
    }
    println!("24 relays, slowest of ten: {slowest} s");
    let mut world = network(24, 1, true);
    let seconds = settle(&mut world, 10);
    world.nodes.iter().for_each(|n| n.overlay.view().check());
    println!(
        "24 relays: {seconds} s, ready {:?}, bytes sent per node (mean, most) {:?}, dials {}",
        ready_times(&world),
        figures(&world),
        world.dials.len()
    );
    assert!(seconds <= 4.0);
    world.run_until(world.now + Duration::from_secs(5));
    assert!(world.shares().iter().all(|s| *s == 1.0));
    // Calm afterwards: few bytes.
    let before = figures(&world).0;
    world.run_until(world.now + Duration::from_secs(600));
    let idle = figures(&world).0 - before;
    println!("idle: {} bytes per node and second", idle / 600);
    assert!(idle / 600 < 2000);
    let everyone: Vec<_> = world.nodes.iter().map(|n| n.overlay.view().digest()).collect();
    assert!(everyone.iter().all(|d| *d == everyone[0]), "views agree");
}

#[test]
fn three_hundred_relays_reach_97_percent() {
    let mut world = network(300, 2, false);
    let seconds = settle(&mut world, 600);
    println!(
        "300 relays: {seconds} s, ready {:?}, bytes sent per node (mean, most) {:?}, dials {}",
        ready_times(&world),
        figures(&world),
        world.dials.len()
    );
    assert!(seconds <= 300.0);
    world.nodes.iter().for_each(|n| n.overlay.view().check());
    assert_eq!(world.blamed, 0);
    // A newcomer is known to all before long, though everyone sweeps slowly now.
    let hint = world.peer(17);
    let new = world.add(2, relay_addr(300), true, false, vec![hint]);
    world.run_until(world.now + Duration::from_secs(3600));
    let id = world.nodes[new].key.node_id();
    let know = world.nodes.iter().filter(|n| n.overlay.view().get(&id).is_some()).count();
    println!("newcomer known to {know} of 301 after an hour");
    assert!(know > 280 && world.nodes[new].ready_at.is_some());
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = |seed| {
        let mut world = network(12, seed, true);
        world.run_until(Time(3_000_000));
        let digests: Vec<_> = world.nodes.iter_mut().map(|n| (n.overlay.view().digest(), n.sent, n.rng.random::<u64>())).collect();
        (digests, world.dials, world.seq)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).1, run(6).1);
}

#[test]
fn liars_that_name_only_each_other_hide_nobody() {
    let mut world = network(40, 7, true);
    for i in (3..40).step_by(5) {
        world.nodes[i].liar = true;
        let hint = Hint { id: record::hint_id(&world.nodes[i].key.node_id()), tag: 1, fresh: EPOCH };
        world.liars.push(hint);
    }
    assert_eq!(world.liars.len(), 8);
    let seconds = settle(&mut world, 60);
    println!("40 relays, 8 liars: {seconds} s");
}

/// The first directory to answer may be a liar's, and its answer short: nothing is chosen before two agree, however long that takes;
/// and whoever was given one link only is told.
#[test]
fn a_client_waits_until_two_lists_agree() {
    let mut world = network(30, 8, true);
    settle(&mut world, 20);
    let silent = Peer { node: NodeId([7; 32]), addr: "88.8.8.8:1".parse().unwrap() };
    let one = world.peer(2);
    let alone = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, vec![one, silent]);
    let told = world.add(8, "99.9.9.8:1".parse().unwrap(), false, true, vec![one]);
    let another = world.peer(3);
    let three = world.add(8, "99.9.9.7:1".parse().unwrap(), false, true, vec![one, silent, another]);
    let began = world.now;
    let read = |world: &World, i: usize| world.nodes[i].overlay.has_view();
    world.run_until(began + Duration::from_millis(1));
    assert!(![alone, told, three].iter().any(|i| read(&world, *i)), "nobody answered yet");
    world.run_until(began + Duration::from_secs(3));
    assert!(read(&world, told) && read(&world, three));
    assert!(world.nodes[told].events.contains(&Event::OneWayIn) && !world.nodes[three].events.contains(&Event::OneWayIn));
    world.run_until(began + Duration::from_secs(1200));
    assert!(!read(&world, alone) && world.nodes[alone].overlay.view().counts().relays == 0, "one of two is not believed");
    assert!(world.shares()[three] == 1.0 && world.shares()[told] == 1.0);
}

/// A job that was lost frees its place, and what only it could bring is asked for again.
#[test]
fn a_lost_job_leaves_nothing_waiting() {
    let mut world = network(6, 12, true);
    world.lose_jobs = true;
    world.run_until(world.now + Duration::from_secs(30));
    assert!(world.nodes.iter().all(|n| n.overlay.own_descriptor().is_none()));
    assert!(world.nodes.iter().all(|n| n.overlay.jobs.len() <= 1));
    world.lose_jobs = false;
    settle(&mut world, 60);
}

#[test]
fn a_client_takes_snapshots_and_deltas_and_never_sweeps_or_announces() {
    let mut world = network(30, 8, true);
    settle(&mut world, 20);
    let bootstrap = vec![world.peer(2), world.peer(9), world.peer(20)];
    world.no_circuits = true;
    let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, bootstrap.clone());
    world.run_until(world.now + Duration::from_secs(2));
    assert_eq!(world.shares()[client], 1.0);
    assert!(world.nodes[client].overlay.has_view());
    let dialled: BTreeSet<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
    assert_eq!(dialled, bootstrap.iter().map(|p| p.addr).collect());
    // Coverage of a client comes from what its own questions bring, and from nothing else.
    let asked = core::mem::take(&mut world.asked);
    let targets: BTreeSet<[u8; 32]> = asked
        .iter()
        .map(|(i, _, to, bytes)| match Message::decode(bytes) {
            Ok(Message::Near { id: 0, target, .. }) if (*i, *to) == (client, None) => target,
            other => panic!("{other:?}, which tells one asker from another"),
        })
        .collect();
    assert!(targets.len() == asked.len() && asked.len() >= 10, "{} questions", asked.len());
    let coverage = |world: &World| world.nodes[client].overlay.coverage();
    let near = |world: &mut World, i: usize| world.told(i, asked[i].1, Some(world.peer(i).node), &asked[i].3);
    let unasked: Vec<Input> = (0..8).map(|i| near(&mut world, i)).collect();
    for input in unasked {
        let Input::Told { from, answer, .. } = input else { unreachable!() };
        world.feed(client, Input::Told { token: 12_345_678, from, answer });
    }
    let another = Message::FetchReply { id: 0, records: vec![] }.encode();
    let numbered = Message::NearReply { id: 7, hints: vec![] }.encode();
    for (i, answer) in [None, Some(vec![0xff; 40]), another, numbered].into_iter().enumerate() {
        let from = Some(world.peer(i).node);
        world.feed(client, Input::Told { token: asked[i].1, from, answer });
    }
    assert_eq!(coverage(&world).groups, 0);
    for (i, (_, token, ..)) in asked.iter().enumerate().skip(4) {
        let told = near(&mut world, i);
        let Input::Told { from, answer, .. } = &told else { unreachable!() };
        let again = Input::Told { token: *token, from: *from, answer: answer.clone() };
        world.feed(client, told);
        let groups = coverage(&world).groups;
        world.feed(client, again);
        assert_eq!(coverage(&world).groups, groups, "twice is as once");
    }
    assert!(coverage(&world).ready);
    world.run_until(world.now + Duration::from_secs(5));
    assert!(world.asked.is_empty(), "it knows enough");
    // A delta brings a newcomer, and costs little.
    let sent: u64 = world.nodes.iter().take(30).map(|n| n.sent).sum();
    world.run_until(world.now + Duration::from_secs(60));
    let quiet = world.nodes.iter().take(30).map(|n| n.sent).sum::<u64>() - sent;
    let first = world.peer(0);
    world.add(8, relay_addr(200), true, true, vec![first]);
    world.run_until(world.now + Duration::from_secs(60));
    assert_eq!(world.shares()[client], 1.0, "{quiet}");
}

/// A bootstrap link that leads nowhere any more does no harm; one that leads somewhere decides alone what a start sees first.
#[test]
fn a_client_asks_whom_it_knew_while_no_bootstrap_relay_answers() {
    for (answers, wanted) in [(true, &[2, 9, 20][..]), (false, &[3, 10, 21])] {
        let mut world = network(30, 8, true);
        settle(&mut world, 20);
        let [known, bootstrap] = [[3, 10, 21], [2, 9, 20]].map(|list| list.map(|i| world.peer(i)).to_vec());
        let nowhere = |p: &Peer| Peer { addr: ([198, 51, 100, 7], p.addr.port()).into(), ..*p };
        let bootstrap: Vec<Peer> = if answers { bootstrap } else { bootstrap.iter().map(nowhere).collect() };
        let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, bootstrap.clone());
        let config = Config { bootstrap: bootstrap.clone(), known, ..testing::config(true) };
        let mut rng = StdRng::seed_from_u64(1);
        world.nodes[client].overlay = Overlay::new(&mut World::env(world.now, &mut rng), config);
        world.run_until(world.now + Duration::from_secs(10));
        assert_eq!(world.shares()[client], 1.0);
        let dialled: BTreeSet<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
        let wanted = wanted.iter().map(|i| world.peer(*i).addr).chain(bootstrap.iter().map(|p| p.addr)).collect();
        assert_eq!(dialled, wanted);
    }
}

/// Ways in are tried three at a time, round and round, and a relay with two addresses at one of them at a time.
#[test]
fn ways_in_take_turns_until_one_answers() {
    let mut world = network(12, 8, true);
    settle(&mut world, 20);
    let dead = |n: u8, port: u16| Peer { addr: ([198, 51, 100, n], port).into(), node: NodeId([n; 32]) };
    let bootstrap = vec![dead(1, 1), dead(1, 2), dead(2, 1), dead(3, 1), dead(4, 1)];
    let known = vec![dead(5, 1), dead(6, 1), world.peer(7), world.peer(8)];
    let client = world.add(8, "99.9.9.9:1".parse().unwrap(), false, true, vec![]);
    let config = Config { bootstrap, known, ..testing::config(true) };
    let mut rng = StdRng::seed_from_u64(1);
    world.nodes[client].overlay = Overlay::new(&mut World::env(world.now, &mut rng), config);
    world.run_until(world.now + Duration::from_secs(30));
    assert_eq!(world.shares()[client], 1.0);
    let dials: Vec<SocketAddr> = world.dials.iter().filter(|(i, _)| *i == client).map(|(_, a)| *a).collect();
    let different: BTreeSet<_> = dials.iter().collect();
    assert!(different.len() == 9 && dials.len() <= 24, "{dials:?}");
}

#[test]
fn a_wrong_clock_is_told() {
    let mut world = World::new();
    world.skew = 1200;
    world.add(4, relay_addr(0), true, true, vec![]);
    let first = world.peer(0);
    for i in 1..12 {
        world.add(4, relay_addr(i), true, true, vec![first]);
    }
    world.run_until(Time(5_000_000));
    let warned = world.nodes.iter().filter(|n| n.events.contains(&Event::Clock(1200, ClockLevel::Warn))).count();
    assert!(warned >= 10, "{warned}");
}
