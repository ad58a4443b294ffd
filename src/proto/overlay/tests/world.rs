//! Overlay machines wired to each other in virtual time: jobs are instant, every message takes 20 ms, a dial three of those.

use crate::base::NetworkId;
use crate::base::Wall;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::crypto::keys::IdentityKey;
use crate::crypto::secret::Secret;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::proto::overlay::*;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Listed;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(in crate::proto::overlay) const NET: NetworkId = NetworkId([42; 32]);
pub(in crate::proto::overlay) const EPOCH: u64 = 1_700_000_000;
pub(in crate::proto::overlay) const LATENCY: Duration = Duration::from_millis(20);

pub(in crate::proto::overlay) type Cache = BTreeMap<Vec<u8>, Result<Record, RecordError>>;

/// A relay that is not there, well described.
#[derive(Clone, Debug)]
pub(in crate::proto::overlay) struct Forged {
    pub(in crate::proto::overlay) node: NodeId,
    pub(in crate::proto::overlay) body: Vec<u8>,
    pub(in crate::proto::overlay) fresh: Vec<u8>,
}

pub(in crate::proto::overlay) struct Node {
    pub(in crate::proto::overlay) overlay: Overlay,
    pub(in crate::proto::overlay) key: IdentityKey,
    pub(in crate::proto::overlay) addr: SocketAddr,
    pub(in crate::proto::overlay) rng: StdRng,
    /// Link to (peer, its link).
    pub(in crate::proto::overlay) links: BTreeMap<LinkId, (usize, LinkId)>,
    pub(in crate::proto::overlay) timer: Option<Time>,
    pub(in crate::proto::overlay) sent: u64,
    pub(in crate::proto::overlay) events: Vec<Event>,
    /// Names only its friends.
    pub(in crate::proto::overlay) liar: bool,
    /// Lists these in place of what it knows.
    pub(in crate::proto::overlay) forged: Option<Vec<Forged>>,
    /// Of those it does not show this one.
    pub(in crate::proto::overlay) shows_not: Option<NodeId>,
    /// Bytes that came to it through circuits.
    pub(in crate::proto::overlay) through: u64,
    /// What it saved.
    pub(in crate::proto::overlay) saved: BTreeMap<&'static str, Vec<u8>>,
    /// As a witness, it says that everyone is here.
    pub(in crate::proto::overlay) sees: Option<SocketAddr>,
    /// Neither its dials nor those of others come through.
    pub(in crate::proto::overlay) cut_off: bool,
    pub(in crate::proto::overlay) ready_at: Option<Time>,
}

pub(in crate::proto::overlay) struct World {
    pub(in crate::proto::overlay) now: Time,
    pub(in crate::proto::overlay) nodes: Vec<Node>,
    pub(in crate::proto::overlay) by_addr: BTreeMap<SocketAddr, usize>,
    pub(in crate::proto::overlay) queue: BTreeMap<(Time, u64), (usize, Input)>,
    pub(in crate::proto::overlay) timers: BTreeSet<(Time, usize)>,
    pub(in crate::proto::overlay) seq: u64,
    pub(in crate::proto::overlay) next_link: u64,
    pub(in crate::proto::overlay) cache: Cache,
    pub(in crate::proto::overlay) liars: Vec<Hint>,
    pub(in crate::proto::overlay) dials: Vec<(usize, SocketAddr)>,
    pub(in crate::proto::overlay) blamed: u32,
    pub(in crate::proto::overlay) skew: i64,
    /// No job is done.
    pub(in crate::proto::overlay) lose_jobs: bool,
    /// Questions through circuits are noted in place of being answered.
    pub(in crate::proto::overlay) no_circuits: bool,
    pub(in crate::proto::overlay) asked: Vec<(usize, u64, Option<NodeId>, Vec<u8>)>,
}

pub(in crate::proto::overlay) fn key(seed: u64, i: usize) -> IdentityKey {
    IdentityKey::from_seed(&Secret::new(kdf::hash(Label::ApiToken, &[&seed.to_be_bytes(), &i.to_be_bytes()])))
}

pub(in crate::proto::overlay) fn relay_addr(i: usize) -> SocketAddr {
    SocketAddr::from(([20 + (i / 250) as u8, (i % 250) as u8, 0, 1], 9000))
}

impl World {
    pub(in crate::proto::overlay) fn new() -> Self {
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

    pub(in crate::proto::overlay) fn env<'a>(now: Time, rng: &'a mut StdRng) -> Env<'a> {
        Env { now, wall: Wall(EPOCH + now.0 / 1_000_000), rng }
    }

    pub(in crate::proto::overlay) fn add(
        &mut self,
        seed: u64,
        addr: SocketAddr,
        relay: bool,
        local: bool,
        bootstrap: Vec<Peer>,
    ) -> usize {
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

    pub(in crate::proto::overlay) fn post(&mut self, after: Duration, node: usize, input: Input) {
        self.seq += 1;
        self.queue.insert((self.now + after, self.seq), (node, input));
    }

    pub(in crate::proto::overlay) fn run_until(&mut self, until: Time) {
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

    pub(in crate::proto::overlay) fn feed(&mut self, i: usize, input: Input) {
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

    pub(in crate::proto::overlay) fn output(&mut self, i: usize, output: Output) {
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
    pub(in crate::proto::overlay) fn twist(&self, i: usize, bytes: Vec<u8>) -> Vec<u8> {
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
    pub(in crate::proto::overlay) fn told(&mut self, i: usize, token: u64, to: Option<NodeId>, question: &[u8]) -> Input {
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

    pub(in crate::proto::overlay) fn work(&mut self, i: usize, job: OverlayJob) -> JobOutcome {
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

    pub(in crate::proto::overlay) fn dial(&mut self, i: usize, token: u64, addr: SocketAddr, expect: NodeId, fresh: bool) {
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
    pub(in crate::proto::overlay) fn unplug(&mut self, i: usize) {
        for (link, (peer, theirs)) in core::mem::take(&mut self.nodes[i].links) {
            self.nodes[i].overlay.handle(&mut Self::env(self.now, &mut StdRng::seed_from_u64(1)), Input::LinkDown { link });
            self.post(Duration::ZERO, peer, Input::LinkDown { link: theirs });
        }
        self.queue.retain(|_, (to, _)| *to != i);
    }

    /// Restarts a relay on what it saved, at the address where it is now.
    pub(in crate::proto::overlay) fn restart(&mut self, i: usize, bootstrap: Vec<Peer>) {
        self.unplug(i);
        let node = &mut self.nodes[i];
        let mut profile = node.overlay.own_profile().cloned().unwrap();
        (profile.addrs, profile.old_addrs) = (vec![node.addr], vec![]);
        let saved = node.saved.clone();
        let config = Config { profile: Some(profile), bootstrap, saved, ..testing::config(node.overlay.view.is_local()) };
        node.overlay = Overlay::new(&mut Self::env(self.now, &mut node.rng), config);
        node.ready_at = None;
        self.feed(i, Input::Tick);
    }

    /// A relay's line gets another address: its links break, and it is not told.
    pub(in crate::proto::overlay) fn move_to(&mut self, i: usize, addr: SocketAddr) {
        self.unplug(i);
        self.by_addr.remove(&self.nodes[i].addr);
        self.nodes[i].addr = addr;
        self.by_addr.insert(addr, i);
    }

    pub(in crate::proto::overlay) fn peer(&self, i: usize) -> Peer {
        Peer { addr: self.nodes[i].addr, node: self.nodes[i].key.node_id() }
    }

    /// Per node: the share of all relays that it knows as usable.
    pub(in crate::proto::overlay) fn shares(&self) -> Vec<f64> {
        let relays: Vec<NodeId> = self.by_addr.values().map(|i| self.nodes[*i].key.node_id()).collect();
        let known = |n: &Node| relays.iter().filter(|r| n.overlay.view().get(r).is_some()).count();
        self.nodes.iter().map(|n| known(n) as f64 / relays.len() as f64).collect()
    }
}

pub(in crate::proto::overlay) fn network(n: usize, seed: u64, local: bool) -> World {
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
pub(in crate::proto::overlay) fn cut_off(world: &mut World, i: usize) {
    world.nodes[i].cut_off = true;
    for (link, (peer, theirs)) in world.nodes[i].links.clone() {
        world.post(Duration::ZERO, peer, Input::LinkDown { link: theirs });
        world.post(Duration::ZERO, i, Input::LinkDown { link });
    }
}

/// Runs until every node is ready and knows 97 % of all relays; returns seconds.
pub(in crate::proto::overlay) fn settle(world: &mut World, most: u64) -> f64 {
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
pub(in crate::proto::overlay) fn ready_times(world: &World) -> (f64, f64) {
    let mut times: Vec<u64> = world.nodes.iter().filter_map(|n| n.ready_at).map(|t| t.0).collect();
    times.sort_unstable();
    (times[times.len() / 2] as f64 / 1e6, times[times.len() - 1] as f64 / 1e6)
}

pub(in crate::proto::overlay) fn figures(world: &World) -> (u64, u64) {
    let sent: Vec<u64> = world.nodes.iter().map(|n| n.sent).collect();
    (sent.iter().sum::<u64>() / sent.len() as u64, *sent.iter().max().unwrap())
}
