//! Overlay machines wired to each other in virtual time, without cells: for networks and times that whole cores would take hours for.
//!
//! Each is what a relay or client runs, on what [`Output::Save`] gave it to keep. Jobs are done with the real keys, and a record that
//! several check is checked once. A message takes 20 ms, a dial three of those, a question through a circuit six.

use crate::sim::crew::Agenda;
use onionskin::base::{Env, LinkId, NetworkId, NodeId, Time, Wall, limits};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::overlay::record::{self, Record, RecordError};
use onionskin::proto::overlay::view::View;
use onionskin::proto::overlay::{Config, Input, JobOutcome, Output, Overlay, OverlayJob, Peer, Profile};
use onionskin::proto::path::PathPolicy;
use onionskin::wire::record::{HostKey, MLKEM_PUBLIC};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const NET: NetworkId = NetworkId([42; 32]);
const EPOCH: u64 = 1_800_000_000;
const LATENCY: Duration = Duration::from_millis(20);
/// What it takes to see that nobody answers.
const DEAD: Duration = Duration::from_secs(3);
/// A machine that has run for so long looks through its tables this much later than it would: late ticks do no harm, and nine of ten
/// have nothing to do.
const CALM: Duration = Duration::from_secs(1800);
const CALM_LATER: Duration = Duration::from_secs(24);
/// Records remembered as checked.
const CHECKED_MAX: usize = 50_000;

/// What a liar sends a node in place of this message.
pub(crate) type Says = Box<dyn Fn(usize, Vec<u8>) -> Vec<u8>>;

/// One end of a link.
#[derive(Clone, Copy)]
pub(crate) struct End {
    /// Who is at the other.
    pub(crate) peer: usize,
    /// Whether this end dialled.
    pub(crate) dialled: bool,
    theirs: LinkId,
}

/// One node.
pub(crate) struct Machine {
    /// What runs, if it is on.
    pub(crate) overlay: Option<Overlay>,
    /// Its identity.
    pub(crate) id: NodeId,
    /// Where it is.
    pub(crate) addr: SocketAddr,
    /// Since when it has been on.
    pub(crate) since: Time,
    /// Lies in its name.
    pub(crate) says: Option<Says>,
    /// Its links.
    pub(crate) links: BTreeMap<LinkId, End>,
    key: IdentityKey,
    /// Where its operator set it; a client is set nowhere.
    set: Option<SocketAddr>,
    bootstrap: Vec<Peer>,
    saved: BTreeMap<&'static str, Vec<u8>>,
    /// Of a client: its guards, and by them its directories, as last told.
    policy: PathPolicy,
    directories: Vec<NodeId>,
    /// When its circuit and host keys were made.
    keys: Wall,
    rng: StdRng,
}

impl Machine {
    fn relay(&self) -> Option<&Overlay> {
        self.overlay.as_ref().filter(|_| self.set.is_some())
    }
}

/// The world.
pub(crate) struct Machines {
    /// Virtual time.
    pub(crate) now: Time,
    /// All nodes ever.
    pub(crate) nodes: Vec<Machine>,
    /// The world's own chance.
    pub(crate) rng: StdRng,
    local: bool,
    by_addr: BTreeMap<SocketAddr, usize>,
    queue: BTreeMap<(Time, u64), (usize, Input)>,
    timers: Agenda,
    begun: u64,
    checked: BTreeMap<Vec<u8>, Result<Record, RecordError>>,
}

impl Machines {
    /// Nobody, with the timers of the open internet or of a local network.
    pub(crate) fn new(seed: u64, local: bool) -> Self {
        println!("machines seed {seed}");
        Self {
            now: Time(0),
            nodes: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            local,
            by_addr: BTreeMap::new(),
            queue: BTreeMap::new(),
            timers: Agenda::default(),
            begun: 0,
            checked: BTreeMap::new(),
        }
    }

    /// What clocks show.
    pub(crate) const fn wall(&self) -> Wall {
        Wall(EPOCH + self.now.0 / 1_000_000)
    }

    /// A node that is off; a relay if it is set to an address of its own.
    pub(crate) fn add(&mut self, addr: SocketAddr, relay: bool, bootstrap: &[usize]) -> usize {
        let key = IdentityKey::from_seed(&Secret::random(&mut self.rng));
        let bootstrap = bootstrap.iter().map(|n| self.peer(*n)).collect();
        self.nodes.push(Machine {
            overlay: None,
            id: key.node_id(),
            addr,
            since: self.now,
            says: None,
            links: BTreeMap::new(),
            key,
            set: relay.then_some(addr),
            bootstrap,
            saved: BTreeMap::new(),
            policy: PathPolicy::new(None),
            directories: Vec::new(),
            keys: self.wall(),
            rng: StdRng::seed_from_u64(self.rng.next_u64()),
        });
        self.nodes.len() - 1
    }

    /// A relay's address and identity.
    pub(crate) fn peer(&self, node: usize) -> Peer {
        Peer { addr: self.nodes[node].addr, node: self.nodes[node].id }
    }

    /// What a relay says of itself, with keys as old as those of its wall clock.
    fn profile(&self, node: usize) -> Option<Profile> {
        let machine = &self.nodes[node];
        let made = machine.keys;
        let mut rng = StdRng::seed_from_u64(made.0 ^ (node as u64) << 40);
        let (mut onion, mut mlkem) = ([0; 32], Box::new([0; MLKEM_PUBLIC]));
        rng.fill_bytes(&mut onion);
        rng.fill_bytes(&mut mlkem[..]);
        let until = made.plus(limits::KEY_LIFE_SECS);
        machine.set.map(|addr| Profile {
            node: machine.id,
            addrs: vec![addr],
            carries: true,
            onion_key: onion,
            host_key: Some(HostKey { id: rng.next_u32(), x25519: onion, until, mlkem }),
            family: vec![],
            old_addrs: vec![],
        })
    }

    /// Starts a node on what it kept.
    pub(crate) fn on(&mut self, node: usize) {
        let (now, wall) = (self.now, self.wall());
        if wall >= self.nodes[node].keys.plus(limits::KEY_LIFE_SECS) {
            self.nodes[node].keys = wall;
        }
        let profile = self.profile(node);
        let machine = &mut self.nodes[node];
        let config = Config {
            local: self.local,
            saved: machine.saved.clone(),
            profile,
            bootstrap: machine.bootstrap.clone(),
            known: Vec::new(),
            guards: Vec::new(),
            network: NET,
        };
        machine.since = now;
        machine.overlay = Some(Overlay::new(&mut Env { now, wall, rng: &mut machine.rng }, config));
        if machine.set.is_some() {
            self.by_addr.insert(machine.addr, node);
        }
        self.feed(node, Input::Tick);
    }

    /// Pulls the plug.
    pub(crate) fn off(&mut self, node: usize) {
        let machine = &mut self.nodes[node];
        machine.overlay = None;
        self.by_addr.remove(&machine.addr);
        self.unplug(node);
        self.queue.retain(|_, (to, _)| *to != node);
        self.timers.note(node, None);
    }

    /// A relay's line gets another address: its links break, and it is not told.
    pub(crate) fn moves(&mut self, node: usize, addr: SocketAddr) {
        let links: Vec<LinkId> = self.nodes[node].links.keys().copied().collect();
        self.unplug(node);
        self.by_addr.remove(&self.nodes[node].addr);
        self.nodes[node].addr = addr;
        if self.nodes[node].overlay.is_some() {
            self.by_addr.insert(addr, node);
        }
        links.into_iter().for_each(|link| self.hand(node, Input::LinkDown { link }));
    }

    /// Its operator sets it to where it is.
    pub(crate) fn set_anew(&mut self, node: usize) {
        self.nodes[node].set = Some(self.nodes[node].addr);
    }

    fn unplug(&mut self, node: usize) {
        for End { peer, theirs, .. } in std::mem::take(&mut self.nodes[node].links).into_values() {
            self.post(LATENCY, peer, Input::LinkDown { link: theirs });
        }
    }

    /// Relays whose keys have had their time make new ones.
    pub(crate) fn renew_keys(&mut self) {
        for node in 0..self.nodes.len() {
            let wall = self.wall();
            let due = wall >= self.nodes[node].keys.plus(limits::KEY_LIFE_SECS);
            let Some(mut said) = self.nodes[node].relay().and_then(Overlay::own_profile).cloned().filter(|_| due) else { continue };
            self.nodes[node].keys = wall;
            if let Some(new) = self.profile(node) {
                (said.onion_key, said.host_key) = (new.onion_key, new.host_key);
            }
            self.feed(node, Input::Profile(Box::new(said)));
        }
    }

    fn post(&mut self, after: Duration, node: usize, input: Input) {
        self.begun += 1;
        self.queue.insert((self.now + after, self.begun), (node, input));
    }

    /// Runs for some virtual time.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let message = self.queue.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end);
            let timer = self.timers.first(end);
            match (message, timer) {
                (None, None) => break,
                (at, Some((due, node))) if at.is_none_or(|at| due < at) => {
                    self.now = self.now.max(due);
                    self.feed(node, Input::Tick);
                }
                _ => {
                    let Some(((at, _), (node, input))) = self.queue.pop_first() else { break };
                    self.now = self.now.max(at);
                    self.feed(node, input);
                }
            }
        }
        self.now = end;
    }

    fn feed(&mut self, node: usize, input: Input) {
        let links = &mut self.nodes[node].links;
        // What comes on a link that is gone meanwhile is gone too.
        let lost = match &input {
            Input::Message { link, .. } => !links.contains_key(link),
            Input::LinkDown { link } => links.remove(link).is_none(),
            Input::LinkUp { .. }
            | Input::Dialled { .. }
            | Input::Done { .. }
            | Input::Profile(_)
            | Input::Directories(_)
            | Input::Told { .. }
            | Input::Tick => false,
        };
        if !lost {
            self.hand(node, input);
        }
    }

    fn hand(&mut self, node: usize, input: Input) {
        let (now, wall) = (self.now, self.wall());
        let machine = &mut self.nodes[node];
        let Some(overlay) = machine.overlay.as_mut() else { return };
        let env = &mut Env { now, wall, rng: &mut machine.rng };
        overlay.handle(env, input);
        if overlay.has_view() {
            let directories = machine.policy.directories(overlay.view(), env);
            if overlay.wants_directories() || directories != machine.directories {
                let peer = |node: &NodeId| overlay.view().get(node).map(|r| Peer { addr: r.addr(), node: r.node() });
                let peers = directories.iter().filter_map(peer).collect();
                machine.directories = directories;
                overlay.handle(env, Input::Directories(peers));
            }
        }
        while let Some(output) = self.nodes[node].overlay.as_mut().and_then(Overlay::poll_output) {
            self.output(node, output);
        }
        let machine = &self.nodes[node];
        let due = machine.overlay.as_ref().and_then(Overlay::timeout).map(|(at, why)| {
            let calm = why == "overlay housekeeping" && now.since(machine.since) > CALM;
            (if calm { at + CALM_LATER } else { at }).max(now + Duration::from_micros(1))
        });
        self.timers.note(node, due);
    }

    fn output(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { link, bytes } => {
                if let Some(End { peer, theirs, .. }) = self.nodes[node].links.get(&link).copied() {
                    let bytes = self.said(node, peer, bytes);
                    self.post(LATENCY, peer, Input::Message { link: theirs, bytes });
                }
            }
            Output::Dial { token, addr, expect, fresh } => self.dial(node, token, addr, expect, fresh),
            Output::Release { link } | Output::Blame { link } => {
                if let Some(End { peer, theirs, .. }) = self.nodes[node].links.get(&link).copied() {
                    self.post(LATENCY, peer, Input::LinkDown { link: theirs });
                    self.post(Duration::ZERO, node, Input::LinkDown { link });
                }
            }
            Output::Ask { token, to, bytes } => {
                let told = self.told(node, token, to, &bytes);
                self.post(LATENCY * 6, node, told);
            }
            Output::Job(job, work) => {
                let outcome = self.work(node, work);
                self.post(Duration::ZERO, node, Input::Done { job, outcome });
            }
            Output::Save { name, bytes } => drop(self.nodes[node].saved.insert(name, bytes)),
            Output::Event(_) => {}
        }
    }

    fn said(&self, node: usize, to: usize, bytes: Vec<u8>) -> Vec<u8> {
        match &self.nodes[node].says {
            Some(says) => says(to, bytes),
            None => bytes,
        }
    }

    /// The answer of a last hop; of any that the asker knows, if it named none.
    fn told(&mut self, node: usize, token: u64, to: Option<NodeId>, question: &[u8]) -> Input {
        let machine = &mut self.nodes[node];
        let view = machine.overlay.as_ref().map(Overlay::view);
        let from = to.or_else(|| Some(view?.random(&mut machine.rng)?.node()));
        let addr = from.and_then(|from| Some(view?.get(&from)?.addr()));
        let relay = addr.and_then(|addr| self.by_addr.get(&addr).copied()).filter(|r| Some(self.nodes[*r].id) == from);
        if let (Some(to), None) = (to, relay) {
            self.passes_over(node, to, limits::HOPS - 1);
        }
        let answer = relay.and_then(|r| self.nodes[r].relay()?.answers().bytes(question)).filter(|bytes| !bytes.is_empty());
        let answer = answer.zip(relay).map(|(bytes, relay)| self.said(relay, node, bytes));
        Input::Told { token, from, answer }
    }

    /// A client's circuit ends at a hop that is down: its directories are others for a while, as in the core.
    fn passes_over(&mut self, node: usize, relay: NodeId, hops: usize) {
        let (now, wall) = (self.now, self.wall());
        let machine = &mut self.nodes[node];
        machine.policy.failed(&[relay; limits::HOPS], hops, &Env { now, wall, rng: &mut machine.rng });
    }

    fn work(&mut self, node: usize, job: OverlayJob) -> JobOutcome {
        let OverlayJob::Verify(list) = job else { return job.run(&NET, Some(&self.nodes[node].key)) };
        if self.checked.len() > CHECKED_MAX {
            self.checked.clear();
        }
        let check = |bytes| self.checked.entry(bytes).or_insert_with_key(|bytes| record::verify_record(&NET, bytes)).clone();
        JobOutcome::Verified(list.into_iter().map(check).collect())
    }

    fn dial(&mut self, node: usize, token: u64, addr: SocketAddr, expect: NodeId, fresh: bool) {
        let to = self.by_addr.get(&addr).copied().filter(|to| self.nodes[*to].id == expect);
        if to.is_none() && self.nodes[node].directories.first() == Some(&expect) {
            self.passes_over(node, expect, 0);
        }
        let Some(to) = to else { return self.post(DEAD, node, Input::Dialled { token, link: None }) };
        let open = self.nodes[node].links.iter().find(|(_, end)| end.peer == to && !fresh).map(|(link, _)| *link);
        let link = open.unwrap_or_else(|| self.connect(node, to));
        self.post(LATENCY * 3, node, Input::Dialled { token, link: Some(link) });
    }

    /// A link between two that are on.
    pub(crate) fn connect(&mut self, node: usize, to: usize) -> LinkId {
        self.begun += 2;
        let (ours, theirs) = (LinkId(self.begun), LinkId(self.begun - 1));
        self.nodes[node].links.insert(ours, End { peer: to, dialled: true, theirs });
        self.nodes[to].links.insert(theirs, End { peer: node, dialled: false, theirs: ours });
        let wall = self.wall();
        let from = &self.nodes[node];
        let (me, remote) = (from.set.map(|_| from.id), SocketAddr::new(from.addr.ip(), 50_000));
        let there = self.peer(to);
        let up = |link, node: Option<NodeId>, remote, dialled| {
            let wall = node.map(|_| wall);
            Input::LinkUp { link, node, remote, dialled, wall }
        };
        self.post(LATENCY * 3, to, up(theirs, me, remote, false));
        self.post(LATENCY * 3, node, up(ours, Some(there.node), there.addr, true));
        ours
    }

    /// A client that begins at so many of these.
    pub(crate) fn client(&mut self, from: &[usize], ways: usize) -> usize {
        let from: Vec<usize> = from.sample(&mut self.rng, ways).copied().collect();
        let number = self.nodes.len();
        let client = self.add(SocketAddr::from(([9, 9, (number >> 8) as u8, number as u8], 1)), false, &from);
        self.on(client);
        client
    }

    /// How many of those that a node was given to begin at are there.
    pub(crate) fn ways_up(&self, node: usize) -> usize {
        let there = |p: &&Peer| self.by_addr.get(&p.addr).is_some_and(|i| self.nodes[*i].id == p.node);
        self.nodes[node].bootstrap.iter().filter(there).count()
    }

    /// Whether a node may choose paths.
    pub(crate) fn ready(&self, node: usize) -> bool {
        self.nodes[node].overlay.as_ref().is_some_and(|o| o.coverage().ready)
    }

    /// What a node knows, if it is on.
    pub(crate) fn view(&self, node: usize) -> Option<&View> {
        self.nodes[node].overlay.as_ref().map(Overlay::view)
    }
}
