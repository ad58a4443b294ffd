//! A world of real cores in virtual time: one seed, one trace.
//!
//! Links, clocks, disks and jobs are simulated; everything that decides is the code that runs in production. Adversaries live here, outside
//! honest code: a lying disk ([`disk::Disk`]), a tampering wire ([`Tamper`]). An observer sees every transmission.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of the world")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends where it fails, prints its seed, and looks at the events that it waits for"
)]

pub mod crowd;
pub mod disk;
pub mod people;
pub mod puppet;

use bytes::BytesMut;
use disk::Disk;
use onionskin::base::LinkId;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::base::OpId;
use onionskin::base::{Env, Time, Wall};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::core::{Core, CoreConfig, Role};
use onionskin::proto::overlay::record::{RecordError, Verified};
use onionskin::proto::overlay::{JobOutcome, OverlayJob};
use onionskin::proto::{Command, Event, Input, Job, JobResult, NodeEvent, Output};
use onionskin::wire::cell::CELL;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Seconds since 1970 at the beginning of every world.
pub const WALL: u64 = 1_800_000_000;
/// What a job takes, so that answers never come within the same instant.
const JOB_TIME: Duration = Duration::from_micros(200);

/// What a node on the way does to cells that it sends, instead of what it should.
pub type Tamper = Box<dyn FnMut(&mut StdRng, &mut BytesMut) -> Fate>;

/// What a global observer does with each transmission.
pub type Observer = Box<dyn FnMut(&Seen<'_>)>;

/// Stands around each batch of cells that a node handles: which node, how many cells, and the step to be done.
pub type Around = Box<dyn FnMut(usize, usize, &mut dyn FnMut())>;

type Checked = Result<Arc<Verified>, RecordError>;

/// What becomes of a batch after tampering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It travels on.
    Send,
    /// It is dropped.
    Drop,
    /// It arrives late.
    Delay(Duration),
}

/// One transmission, as a global observer sees it, and its bytes, as a compromised end sees them.
pub struct Seen<'a> {
    /// When.
    pub at: Time,
    /// Who sent.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// Cells behind TLS.
    pub cells: &'a [u8],
}

/// One node of the world.
pub struct Node {
    /// Its mind; `None` while it is switched off.
    pub core: Option<Core>,
    /// Its address; a client's is only ever a source.
    pub addr: SocketAddr,
    /// Its identity, if it is a relay.
    pub id: Option<NodeId>,
    /// Its disk.
    pub disk: Disk,
    /// What it does to cells.
    pub tamper: Option<Tamper>,
    /// Events of operations, in order.
    pub events: BTreeMap<OpId, Vec<Event>>,
    /// Events of the node.
    pub news: Vec<NodeEvent>,
    /// What it saved.
    pub saved: BTreeMap<String, Zeroizing<Vec<u8>>>,
    /// Cells sent.
    pub cells_sent: u64,
    /// Batches sent.
    pub messages_sent: u64,
    /// What came for a node without a mind ([`puppet`]).
    pub letters: Option<Vec<Input>>,
    seed: Secret<32>,
    rng: StdRng,
    timer: Option<Time>,
    /// Largest number of ticks in a row without time moving; shows a spinning timer.
    spins: u32,
}

struct End {
    node: usize,
    link: LinkId,
    /// Nothing overtakes on a link.
    free_at: Time,
}

/// The world.
pub struct World {
    /// Virtual time.
    pub now: Time,
    /// All nodes ever started.
    pub nodes: Vec<Node>,
    /// The network that honest nodes belong to.
    pub network: NetworkId,
    /// Sees every transmission.
    pub observer: Option<Observer>,
    /// Measures how batches are handled.
    pub around: Option<Around>,
    /// Who dialled whom, ever: the other end saw the dialler's address.
    pub dials: BTreeSet<(usize, usize)>,
    /// Steps after which all cores check themselves; zero is never.
    pub check_every: u64,
    rng: StdRng,
    queue: BinaryHeap<Reverse<Item>>,
    timers: BTreeSet<(Time, usize)>,
    ends: BTreeMap<(usize, LinkId), End>,
    by_addr: BTreeMap<SocketAddr, usize>,
    verified: BTreeMap<Vec<u8>, Checked>,
    next: u64,
    next_op: u64,
    steps: u64,
    local: bool,
}

struct Item {
    at: Time,
    seq: u64,
    node: usize,
    input: Input,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Item {}
impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

impl World {
    /// An empty world. The seed is printed, so that a failure can be seen again.
    pub fn new(seed: u64) -> Self {
        println!("world seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut network = [0; 32];
        rng.fill_bytes(&mut network);
        Self {
            now: Time(0),
            nodes: Vec::new(),
            network: NetworkId(network),
            observer: None,
            around: None,
            dials: BTreeSet::new(),
            check_every: 0,
            rng,
            queue: BinaryHeap::new(),
            timers: BTreeSet::new(),
            ends: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            verified: BTreeMap::new(),
            next: 0,
            next_op: 0,
            steps: 0,
            local: true,
        }
    }

    /// The world's own chance.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// The address of relay number `i`: each in a /16 of its own as long as there are enough.
    pub fn relay_addr(i: usize) -> SocketAddr {
        let (a, b) = (1 + i / 250, 1 + i % 250);
        SocketAddr::from((Ipv4Addr::new(20 + a as u8, b as u8, 7, 9), 9001))
    }

    /// Starts a relay; the first is where all others begin.
    pub fn relay(&mut self, addr: SocketAddr) -> usize {
        let seed = Secret::random(&mut self.rng);
        self.add(addr, Some(seed), self.network)
    }

    /// Starts relays `0..n`.
    pub fn relays(&mut self, n: usize) -> Vec<usize> {
        (0..n).map(|i| self.relay(Self::relay_addr(self.nodes.len().max(i)))).collect()
    }

    /// Starts a client.
    pub fn client(&mut self) -> usize {
        let n = self.nodes.len();
        let addr = SocketAddr::from((Ipv4Addr::new(99, (n >> 8) as u8, n as u8, 1), 40_000));
        self.add(addr, None, self.network)
    }

    /// Starts a node of any network; without `seed` it is a client.
    pub fn add(&mut self, addr: SocketAddr, seed: Option<Secret<32>>, network: NetworkId) -> usize {
        let index = self.nodes.len();
        let id = seed.as_ref().map(|s| IdentityKey::from_seed(s).node_id());
        let rng = StdRng::seed_from_u64(self.rng.next_u64());
        self.nodes.push(Node {
            core: None,
            addr,
            id,
            disk: Disk::default(),
            tamper: None,
            events: BTreeMap::new(),
            news: Vec::new(),
            saved: BTreeMap::new(),
            cells_sent: 0,
            messages_sent: 0,
            letters: None,
            seed: seed.unwrap_or_else(|| Secret::new([0; 32])),
            rng,
            timer: None,
            spins: 0,
        });
        if id.is_some() {
            self.by_addr.insert(addr, index);
        }
        self.switch_on(index, network);
        index
    }

    /// Starts (or restarts) a node on what it saved and holds.
    pub fn switch_on(&mut self, index: usize, network: NetworkId) {
        let bootstrap = self
            .nodes
            .iter()
            .take(index.max(1))
            .filter(|n| n.core.is_some())
            .filter_map(|n| Some((n.id?, n.addr)))
            .take(2)
            .collect();
        let wall = self.wall();
        let node = &mut self.nodes[index];
        let role = match node.id {
            Some(_) => Role::Relay { identity: node.seed.clone(), advertise: vec![node.addr], hosts: true },
            None => Role::Client,
        };
        let config = CoreConfig { network, role, bootstrap, local_network: self.local, saved: node.saved.clone() };
        let mut env = Env { now: self.now, wall, rng: &mut node.rng };
        node.core = Some(Core::new(config, &mut env).expect("a core starts"));
        self.feed(index, Input::Tick);
    }

    /// A world with `n` relays that all know each other, and two clients that are ready: a publisher and a reader.
    pub fn with_people(n: usize, seed: u64) -> (Self, usize, usize) {
        let mut world = Self::new(seed);
        let relays = world.relays(n);
        let mut next = Time(0);
        let known = world.run_until(Duration::from_secs(300), |w| {
            if w.now < next {
                return false;
            }
            next = w.now + Duration::from_secs(1);
            relays.iter().all(|r| w.knows(*r) * 100 >= n * 97)
        });
        let worst = relays.iter().map(|r| world.knows(*r)).min();
        assert!(known, "after {:?} the worst relay knows {worst:?} of {n}", world.now);
        let (a, b) = (world.client(), world.client());
        let ready = world.run_until(Duration::from_secs(120), |w| w.ready(a) && w.ready(b));
        assert!(ready, "clients know {} and {} of {n} relays at {:?}", world.knows(a), world.knows(b), world.now);
        (world, a, b)
    }

    /// Pulls the plug: links break, nothing is saved.
    pub fn switch_off(&mut self, index: usize) {
        self.nodes[index].core = None;
        if let Some(at) = self.nodes[index].timer.take() {
            self.timers.remove(&(at, index));
        }
        let links: Vec<LinkId> = self.ends.keys().filter(|(n, _)| *n == index).map(|(_, l)| *l).collect();
        for link in links {
            self.cut(index, link);
        }
    }

    pub fn wall(&self) -> Wall {
        Wall(WALL + self.now.0 / 1_000_000)
    }

    /// One-way latency between two nodes: 5 to 60 ms, the same every time.
    fn latency(from: usize, to: usize) -> Duration {
        let (a, b) = (from.min(to) as u64, from.max(to) as u64);
        let mixed = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).rotate_left(31);
        Duration::from_micros(5_000 + mixed % 55_000)
    }

    fn schedule(&mut self, at: Time, node: usize, input: Input) {
        self.next += 1;
        self.queue.push(Reverse(Item { at, seq: self.next, node, input }));
    }

    /// Has a node do something for its user.
    pub fn command(&mut self, node: usize, command: Command) -> OpId {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.nodes[node].events.insert(op, Vec::new());
        self.feed(node, Input::Command(op, command));
        op
    }

    /// A further word on an operation.
    pub fn tell(&mut self, node: usize, op: OpId, command: Command) {
        self.feed(node, Input::Command(op, command));
    }

    /// Runs until `done` or `for_at_most` of virtual time has passed; tells whether it was done.
    pub fn run_until(&mut self, for_at_most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + for_at_most;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                return done(self);
            }
        }
    }

    /// Runs for some virtual time.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// One input to one node. False when nothing is due before `end`.
    pub fn step(&mut self, end: Time) -> bool {
        let timer = self.timers.first().copied();
        let packet = self.queue.peek().map(|Reverse(item)| item.at);
        let timer_first = match (timer, packet) {
            (None, None) => return false,
            (Some((t, _)), Some(p)) => t < p,
            (timer, _) => timer.is_some(),
        };
        let at = if timer_first { timer.map(|(t, _)| t) } else { packet }.unwrap_or(end);
        if at > end {
            return false;
        }
        let moved = at > self.now;
        self.now = self.now.max(at);
        if timer_first {
            if let Some((at, node)) = timer {
                self.timers.remove(&(at, node));
                self.nodes[node].timer = None;
                let spins = &mut self.nodes[node].spins;
                *spins = if moved { 0 } else { *spins + 1 };
                assert!(*spins < 10_000, "node {node} spins on {:?}", self.nodes[node].core.as_ref().and_then(Core::timeout));
                self.feed(node, Input::Tick);
            }
        } else if let Some(Reverse(item)) = self.queue.pop() {
            self.deliver(item.node, item.input);
        }
        self.steps += 1;
        if self.check_every > 0 && self.steps.is_multiple_of(self.check_every) {
            self.nodes.iter().filter_map(|n| n.core.as_ref()).for_each(Core::check);
        }
        true
    }

    fn deliver(&mut self, node: usize, input: Input) {
        // What arrives on a link that was cut meanwhile is lost.
        let dead = match &input {
            Input::Cells { link, .. } | Input::Sent { link, .. } => !self.ends.contains_key(&(node, *link)),
            _ => false,
        };
        if !dead {
            self.feed(node, input);
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        let (now, wall) = (self.now, self.wall());
        let node = &mut self.nodes[index];
        let Some(core) = node.core.as_mut() else {
            if let Some(letters) = &mut node.letters {
                letters.push(input);
            }
            return;
        };
        let mut env = Env { now, wall, rng: &mut node.rng };
        let cells = if let Input::Cells { cells, .. } = &input { cells.len() / CELL } else { 0 };
        let mut input = Some(input);
        let mut step = || {
            if let Some(input) = input.take() {
                core.handle(&mut env, input);
            }
        };
        match self.around.as_mut() {
            Some(around) if cells > 0 => around(index, cells, &mut step),
            _ => step(),
        }
        while let Some(output) = self.nodes[index].core.as_mut().and_then(Core::poll_output) {
            self.output(index, output);
        }
        let node = &mut self.nodes[index];
        let timer = node.core.as_ref().and_then(Core::timeout).map(|(at, _)| at.max(now));
        if timer != node.timer {
            if let Some(old) = node.timer {
                self.timers.remove(&(old, index));
            }
            if let Some(at) = timer {
                self.timers.insert((at, index));
            }
            node.timer = timer;
        }
    }

    fn output(&mut self, from: usize, output: Output) {
        match output {
            Output::Dial { link, addr } => self.dial(from, link, addr),
            Output::Close { link } => {
                self.cut(from, link);
                // The transport says so once, also to the side that asked.
                self.schedule(self.now, from, Input::LinkDown { link });
            }
            Output::Send { link, cells } => self.send(from, link, cells),
            Output::Job { job, work } => {
                let result = self.job(from, work);
                self.schedule(self.now + JOB_TIME, from, Input::Done { job, result });
            }
            Output::Event(op, event) => self.nodes[from].events.entry(op).or_default().push(event),
            Output::Node(event) => self.nodes[from].news.push(event),
            Output::Save { name, bytes } => {
                self.nodes[from].saved.insert(name.into(), bytes);
            }
        }
    }

    /// Jobs run at once; checks of descriptors are remembered, so that a thousand nodes share one copy of each.
    fn job(&mut self, from: usize, work: Job) -> JobResult {
        match work {
            Job::Overlay { work: OverlayJob::Verify(list), network, .. } => {
                let checked = list
                    .into_iter()
                    .map(|bytes| {
                        let known = self.verified.get(&bytes).cloned();
                        known.unwrap_or_else(|| {
                            let result = onionskin::proto::overlay::record::verify_descriptor(&network, &bytes);
                            self.verified.insert(bytes, result.clone());
                            result
                        })
                    })
                    .collect();
                JobResult::Overlay(JobOutcome::Verified(checked))
            }
            work => {
                let node = &mut self.nodes[from];
                work.run(&mut node.rng, Some(&node.disk))
            }
        }
    }

    fn dial(&mut self, from: usize, link: LinkId, addr: SocketAddr) {
        let to = self.by_addr.get(&addr).copied().filter(|to| self.nodes[*to].core.is_some());
        let Some(to) = to else {
            return self.schedule(self.now + Duration::from_millis(100), from, Input::LinkDown { link });
        };
        self.dials.insert((from, to));
        self.next += 1;
        let theirs = LinkId(self.next);
        let one_way = Self::latency(from, to);
        let mut exporter = [0; 32];
        self.rng.fill_bytes(&mut exporter);
        let free_at = self.now;
        self.ends.insert((from, link), End { node: to, link: theirs, free_at });
        self.ends.insert((to, theirs), End { node: from, link, free_at });
        let remote = self.nodes[from].addr;
        // TCP and TLS 1.3: two round trips to the dialler, a half more to the other end.
        self.schedule(self.now + one_way * 4, from, Input::LinkUp { link, remote: addr, exporter, dialed: true });
        self.schedule(self.now + one_way * 3, to, Input::LinkUp { link: theirs, remote, exporter, dialed: false });
    }

    fn cut(&mut self, from: usize, link: LinkId) {
        if let Some(end) = self.ends.remove(&(from, link)) {
            self.ends.remove(&(end.node, end.link));
            let at = (self.now + Self::latency(from, end.node)).max(end.free_at);
            self.schedule(at, end.node, Input::LinkDown { link: end.link });
        }
    }

    fn send(&mut self, from: usize, link: LinkId, mut cells: BytesMut) {
        assert!(!cells.is_empty() && cells.len().is_multiple_of(CELL), "a length that is not the cell's");
        let count = cells.len() / CELL;
        let node = &mut self.nodes[from];
        node.cells_sent += count as u64;
        node.messages_sent += 1;
        let fate = node.tamper.as_mut().map_or(Fate::Send, |tamper| tamper(&mut self.rng, &mut cells));
        self.schedule(self.now, from, Input::Sent { link, cells: count });
        let Some(end) = self.ends.get_mut(&(from, link)) else { return };
        let to = end.node;
        if let Some(observer) = &mut self.observer {
            observer(&Seen { at: self.now, from, to, cells: &cells });
        }
        let late = match fate {
            Fate::Send => Duration::ZERO,
            Fate::Drop => return,
            Fate::Delay(by) => by,
        };
        let at = (self.now + Self::latency(from, to) + late).max(end.free_at);
        end.free_at = at;
        let theirs = end.link;
        if !cells.is_empty() {
            self.schedule(at, to, Input::Cells { link: theirs, cells });
        }
    }

    /// How many relays a node knows, of those that are on.
    pub fn knows(&self, node: usize) -> usize {
        self.nodes[node].core.as_ref().map_or(0, Core::relays_known)
    }

    /// Whether a node may choose paths.
    pub fn ready(&self, node: usize) -> bool {
        self.nodes[node].core.as_ref().is_some_and(Core::is_ready)
    }

    /// A number in a range, by the world's chance.
    pub fn random(&mut self, range: std::ops::Range<usize>) -> usize {
        self.rng.random_range(range)
    }
}
