//! A world of real cores in virtual time: one seed, one trace.
//!
//! Links, clocks, disks and jobs are simulated; everything that decides is the code that runs in production. Adversaries live here,
//! outside honest code: a lying disk ([`disk::Disk`]), a tampering wire ([`Tamper`]). An observer sees every transmission.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of the world")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test ends where it fails, prints its seed, and looks at the events that it waits for"
)]

pub mod crew;
pub mod crowd;
pub mod disk;
pub mod liars;
pub mod node;
pub mod people;
pub mod puppet;
pub mod squatters;

use bytes::BytesMut;
use crew::{Agenda, Crew};
use node::{Eyes, Ground, LATENCY_MIN, Node, Post};
use onionskin::base::NetworkId;
use onionskin::base::OpId;
use onionskin::base::{Time, Wall};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::core::Core;
use onionskin::proto::{Command, Input};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Seconds since 1970 at the beginning of every world.
pub const WALL: u64 = 1_800_000_000;
/// How often it is looked how many relays are known.
const KNOWN_EVERY: Duration = Duration::from_secs(1);
/// Fewest nodes with something to do within [`LATENCY_MIN`] that are worth another thread.
const THREAD_WORTH: usize = 8;

/// What a node on the way does to cells that it sends, instead of what it should.
pub type Tamper = Box<dyn FnMut(&mut StdRng, &mut BytesMut) -> Fate + Send>;

/// What a global observer does with each transmission.
pub type Observer = Box<dyn FnMut(&Seen<'_>)>;

/// Stands around each batch of cells that a node handles: which node, how many cells, and the step to be done.
pub type Around = Box<dyn FnMut(usize, usize, &mut dyn FnMut())>;

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
    /// Steps after which all cores check themselves; zero is never.
    pub check_every: u64,
    /// Threads that may run nodes; their number changes nothing but the time that it takes.
    pub threads: usize,
    /// How often several did.
    pub side_by_side: u64,
    rng: StdRng,
    ground: Ground,
    agenda: Agenda,
    next_op: u64,
    steps: u64,
    local: bool,
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
            check_every: 0,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            side_by_side: 0,
            rng,
            ground: Ground::new(),
            agenda: Agenda::default(),
            next_op: 0,
            steps: 0,
            local: true,
        }
    }

    /// A world whose nodes have the timers of the open internet.
    pub fn on_the_open_internet(seed: u64) -> Self {
        Self { local: false, ..Self::new(seed) }
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
        let chance = self.rng.next_u64();
        self.nodes.push(Node::new(index, addr, id, seed.unwrap_or_else(|| Secret::new([0; 32])), chance));
        self.switch_on(index, network);
        index
    }

    /// Starts a node that begins at these.
    pub fn add_from(&mut self, addr: SocketAddr, seed: Option<Secret<32>>, from: &[usize]) -> usize {
        let index = self.nodes.len();
        let id = seed.as_ref().map(|s| IdentityKey::from_seed(s).node_id());
        let chance = self.rng.next_u64();
        self.nodes.push(Node::new(index, addr, id, seed.unwrap_or_else(|| Secret::new([0; 32])), chance));
        self.start_from(index, from);
        index
    }

    /// Starts or restarts a node that begins at these.
    pub fn start_from(&mut self, index: usize, from: &[usize]) {
        let bootstrap = from.iter().filter_map(|n| Some((self.nodes[*n].id?, self.nodes[*n].addr))).collect();
        let node = &mut self.nodes[index];
        node.start(self.now, self.network, bootstrap, self.local);
        if node.id.is_some() {
            self.ground.by_addr.insert(node.addr, index);
        }
        self.feed(index, Input::Tick);
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
        let node = &mut self.nodes[index];
        node.start(self.now, network, bootstrap, self.local);
        if node.id.is_some() {
            self.ground.by_addr.insert(node.addr, index);
        }
        self.feed(index, Input::Tick);
    }

    /// A world with `n` relays that all know each other, and two clients that are ready: a publisher and a reader.
    pub fn with_people(n: usize, seed: u64) -> (Self, usize, usize) {
        let mut world = Self::new(seed);
        let relays = world.relays(n);
        let known =
            world.run_until_each(KNOWN_EVERY, Duration::from_secs(300), |w| relays.iter().all(|r| w.knows(*r) * 100 >= n * 97));
        let worst = relays.iter().map(|r| world.knows(*r)).min();
        assert!(known, "after {:?} the worst relay knows {worst:?} of {n}", world.now);
        let (a, b) = (world.client(), world.client());
        let ready = world.run_until(Duration::from_secs(120), |w| w.ready(a) && w.ready(b));
        assert!(ready, "clients know {} and {} of {n} relays at {:?}", world.knows(a), world.knows(b), world.now);
        (world, a, b)
    }

    /// Pulls the plug: links break, nothing is saved.
    pub fn switch_off(&mut self, index: usize) {
        let mut post = Post::new();
        let node = &mut self.nodes[index];
        node.stop(self.now, &mut post);
        if self.ground.by_addr.get(&node.addr) == Some(&index) {
            self.ground.by_addr.remove(&node.addr);
        }
        self.deliver(index, post);
    }

    /// Suspends a node's machine for so long, and lets that time pass.
    pub fn suspend(&mut self, node: usize, time: Duration) {
        self.nodes[node].suspend(self.now, time);
        self.agenda.note(node, self.nodes[node].due());
        self.run(time);
    }

    /// Gives a node's line another address.
    pub fn change_line(&mut self, node: usize) {
        self.nodes[node].change_line();
    }

    /// Gives a node a line that carries so many bytes a second, each way, on each of its links; zero takes it away.
    pub fn line(&mut self, node: usize, bytes_per_sec: u64) {
        self.ground.lines.insert(node, bytes_per_sec);
        self.ground.lines.retain(|_, rate| *rate > 0);
    }

    /// What the wall clocks show.
    pub fn wall(&self) -> Wall {
        node::wall(self.now)
    }

    /// Whom a node dialled, ever: the other ends saw its address.
    pub fn dials(&self) -> impl Iterator<Item = (usize, usize)> {
        self.nodes.iter().enumerate().flat_map(|(from, node)| node.dialled.iter().map(move |to| (from, *to)))
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

    /// The same, looking only every so often: quicker, as nodes can run side by side in between.
    pub fn run_until_each(&mut self, every: Duration, for_at_most: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + for_at_most;
        while !done(self) {
            if self.now >= end {
                return false;
            }
            self.run(every.min(end.since(self.now)));
        }
        true
    }

    /// Runs for some virtual time.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        // Whoever looks on sees all in one order.
        let watched = self.observer.is_some() || self.around.is_some() || self.check_every > 0;
        if watched {
            while self.step(end) {}
        } else {
            self.strides(end);
        }
        self.now = end;
    }

    /// One input to one node. False when nothing is due before `end`.
    pub fn step(&mut self, end: Time) -> bool {
        let Some((at, node)) = self.agenda.first(end) else { return false };
        self.now = self.now.max(at);
        let mut post = Post::new();
        let mut eyes = Eyes { observer: self.observer.as_mut(), around: self.around.as_mut() };
        self.nodes[node].step(&self.ground, &mut eyes, &mut post);
        self.deliver(node, post);
        self.steps += 1;
        if self.check_every > 0 && self.steps.is_multiple_of(self.check_every) {
            self.nodes.iter().filter_map(|n| n.core.as_ref()).for_each(Core::check);
        }
        true
    }

    /// All until `end`, in strides of the shortest way between two nodes: each node runs by itself, and then all get what was sent
    /// to them. It comes to what single steps come to.
    fn strides(&mut self, end: Time) {
        let crew = Crew::new(&mut self.nodes, &self.ground, self.threads);
        std::thread::scope(|scope| {
            let (_ending, mut helpers) = (crew.ending(), 0);
            while let Some((first, _)) = self.agenda.first(end) {
                let until = (first + LATENCY_MIN).min(end + Duration::from_micros(1));
                let busy = self.agenda.busy(until);
                let post = if self.threads > 1 && busy.len() >= THREAD_WORTH {
                    self.side_by_side += 1;
                    while helpers + 1 < self.threads {
                        scope.spawn(|| crew.help());
                        helpers += 1;
                    }
                    crew.share(until, &busy)
                } else {
                    crew.alone(until, &busy)
                };
                crew.deliver(&busy, post, &mut self.agenda);
                self.now = self.now.max(Time(until.0 - 1));
            }
        });
    }

    /// Hands out what was sent, and notes when the sender and those who got something are due next.
    fn deliver(&mut self, from: usize, post: Post) {
        let mut changed = vec![from];
        for (to, item) in post {
            changed.push(to);
            self.nodes[to].post(item);
        }
        for node in changed {
            self.agenda.note(node, self.nodes[node].due());
        }
    }

    fn feed(&mut self, node: usize, input: Input) {
        self.with_node(node, |node, now, ground, eyes, post| node.feed(now, input, ground, eyes, post));
    }

    /// Lends a node what it needs to do something now.
    fn with_node<T>(&mut self, node: usize, act: impl FnOnce(&mut Node, Time, &Ground, &mut Eyes<'_>, &mut Post) -> T) -> T {
        let mut post = Post::new();
        let mut eyes = Eyes { observer: self.observer.as_mut(), around: self.around.as_mut() };
        let done = act(&mut self.nodes[node], self.now, &self.ground, &mut eyes, &mut post);
        self.deliver(node, post);
        done
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
