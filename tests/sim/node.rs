//! One node of the world: its mind, its queue, and what only it can see. Between two nodes nothing is quicker than [`LATENCY_MIN`],
//! so each can be run by itself for so long, on any thread: what comes of it is the same.

use super::disk::{Disk, Manner};
use super::{Around, Fate, Observer, Seen, Tamper, WALL};
use bytes::BytesMut;
use onionskin::base::{Env, Time, Wall};
use onionskin::base::{LinkId, NetworkId, NodeId, OpId};
use onionskin::crypto::secret::Secret;
use onionskin::proto::core::{Core, CoreConfig, Role};
use onionskin::proto::memory::Memory;
use onionskin::proto::overlay::record::{Body, Record, RecordError, Verified, verify_record};
use onionskin::proto::overlay::{JobOutcome, OverlayJob};
use onionskin::proto::{Event, Input, Job, JobResult, NodeEvent, Output};
use onionskin::wire::cell::CELL;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// What a job takes, so that answers never come within the same instant.
const JOB_TIME: Duration = Duration::from_micros(200);
/// What serving takes a host that dawdles.
const DAWDLE_TIME: Duration = Duration::from_secs(60);
/// What a socket takes in before its line has carried it: what is not sent yet, which our own ask to be little, and what is under way.
const SOCKET: u64 = 96 * 1024;
/// Cells that a link's task writes at a time, and tells of when it has.
const WRITTEN: usize = 64 * 1024 / CELL;
/// The shortest way between two nodes.
pub const LATENCY_MIN: Duration = Duration::from_millis(5);

/// Tables of checked records.
const SHELVES: usize = 64;

type Checked = Result<Record, RecordError>;

/// What all nodes stand on. Nothing in it changes what a node does: checks are remembered, and give what they would give again.
pub struct Ground {
    /// Nodes that answer at an address.
    pub by_addr: BTreeMap<SocketAddr, usize>,
    /// Bytes a second that each link of a node carries, each way; who is not here has a line without limit.
    pub lines: BTreeMap<usize, u64>,
    /// How much later somebody on the path lets through what one node sends another.
    pub late: BTreeMap<(usize, usize), Duration>,
    /// Records that were checked, so that a thousand nodes share one copy of each; on many shelves, so that threads rarely
    /// meet.
    verified: [Mutex<BTreeMap<Tagged, Checked>>; SHELVES],
    /// Proofs that were just signed, by link, end and signer: whoever gets one unchanged need not compute that it holds.
    proofs: Mutex<BTreeSet<Signed>>,
}

/// The bytes of a record behind the first of its signature, which tell nearly all apart.
type Tagged = (u64, Vec<u8>);
type Signed = ([u8; 32], bool, NetworkId, NodeId, [u8; 64]);

impl Ground {
    /// Nobody is there.
    pub const fn new() -> Self {
        Self {
            by_addr: BTreeMap::new(),
            lines: BTreeMap::new(),
            late: BTreeMap::new(),
            verified: [const { Mutex::new(BTreeMap::new()) }; SHELVES],
            proofs: Mutex::new(BTreeSet::new()),
        }
    }

    /// What was just signed went through the check already.
    fn note(&self, own: &Arc<Verified>) {
        let records = [Some(Record::Body(Arc::clone(own.body()))), own.fresh().cloned().map(Record::Fresh)];
        for record in records.into_iter().flatten() {
            let bytes = tagged(match &record {
                Record::Body(body) => body.encode(),
                Record::Fresh(fresh) => fresh.encode(),
            });
            self.shelf(&bytes).lock().unwrap().insert(bytes, Ok(record));
        }
    }

    fn check(&self, network: &NetworkId, bytes: Vec<u8>) -> Checked {
        let bytes = tagged(bytes);
        let shelf = self.shelf(&bytes);
        if let Some(known) = shelf.lock().unwrap().get(&bytes) {
            return known.clone();
        }
        let result = verify_record(network, &bytes.1);
        shelf.lock().unwrap().entry(bytes).or_insert(result).clone()
    }

    /// Descriptors that were checked, and are good, of a kind.
    pub fn bodies(&self, kind: impl Fn(&Body) -> bool) -> Vec<Arc<Body>> {
        let body = |record: &Record| if let Record::Body(body) = record { Some(Arc::clone(body)) } else { None };
        let good = |shelf: &Mutex<BTreeMap<Tagged, Checked>>| -> Vec<Arc<Body>> {
            shelf.lock().unwrap().values().flatten().filter_map(body).filter(|d| kind(d)).collect()
        };
        self.verified.iter().flat_map(good).collect()
    }

    const fn shelf(&self, (tag, _): &Tagged) -> &Mutex<BTreeMap<Tagged, Checked>> {
        &self.verified[*tag as usize % SHELVES]
    }
}

fn tagged(bytes: Vec<u8>) -> Tagged {
    let tag = bytes.len().checked_sub(64).and_then(|at| bytes[at..].first_chunk().copied());
    (u64::from_be_bytes(tag.unwrap_or_default()), bytes)
}

/// Those who look on while a node runs.
pub struct Eyes<'a> {
    /// Sees what is sent.
    pub observer: Option<&'a mut Observer>,
    /// Stands around what is handled.
    pub around: Option<&'a mut Around>,
}

/// One end of a connection.
struct End {
    /// The node at the other end.
    to: usize,
    connection: u64,
    /// Nothing overtakes on a link.
    free_at: Time,
    /// When its line has carried all that was sent.
    left: Time,
}

/// What comes to a node.
enum What {
    /// Somebody dialled, from there, over a connection with this exporter.
    Up(Box<(SocketAddr, [u8; 32])>),
    /// Cells arrived.
    Cells(BytesMut),
    /// The other end closed.
    Down,
    /// Its link took cells.
    Sent { link: LinkId, cells: usize },
    /// What it began itself.
    Own(Box<Input>),
}

/// Something on its way to a node.
pub struct Item {
    at: Time,
    from: usize,
    /// Counted by the sender.
    number: u64,
    /// What it belongs to: lost if that is no more. Zero belongs to nothing.
    connection: u64,
    what: What,
}

impl Item {
    const fn key(&self) -> (Time, usize, u64) {
        (self.at, self.from, self.number)
    }
}
impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
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
        self.key().cmp(&other.key())
    }
}

/// What leaves a node, and for whom.
pub type Post = Vec<(usize, Item)>;

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
    /// What came for a node without a mind ([`super::puppet`]).
    pub letters: Option<Vec<Input>>,
    /// Whom it dialled, ever: the other end saw its address.
    pub dialled: BTreeSet<usize>,
    /// How far its wall clock is off, in seconds.
    pub skew: i64,
    /// Connections that look open here and carry nothing any more.
    dead: BTreeSet<u64>,
    /// While it sleeps: until when. And how long it slept so far, of which its monotonic clock knows nothing.
    asleep: Option<Time>,
    slept: Duration,
    index: usize,
    /// Of that identity.
    pub seed: Secret<32>,
    rng: StdRng,
    /// Chance that is not its own: of its links, and of whoever tampers.
    chance: StdRng,
    queue: BinaryHeap<Reverse<Item>>,
    ends: BTreeMap<LinkId, End>,
    links: BTreeMap<u64, LinkId>,
    /// Items, connections and links that it began.
    begun: u64,
    timer: Option<Time>,
    /// When it last did something.
    now: Time,
    /// Ticks in a row without time moving; shows a spinning timer.
    spins: u32,
}

impl Node {
    /// A node that is switched off.
    pub fn new(index: usize, addr: SocketAddr, id: Option<NodeId>, seed: Secret<32>, chance: u64) -> Self {
        Self {
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
            dialled: BTreeSet::new(),
            skew: 0,
            dead: BTreeSet::new(),
            asleep: None,
            slept: Duration::ZERO,
            index,
            seed,
            rng: StdRng::seed_from_u64(chance),
            chance: StdRng::seed_from_u64(!chance),
            queue: BinaryHeap::new(),
            ends: BTreeMap::new(),
            links: BTreeMap::new(),
            begun: 0,
            timer: None,
            now: Time(0),
            spins: 0,
        }
    }

    /// Gives it a mind, on what it saved and holds.
    pub fn start(&mut self, now: Time, network: NetworkId, bootstrap: Vec<(NodeId, SocketAddr)>, local_network: bool) {
        let role = match self.id {
            Some(_) => Role::Relay {
                identity: self.seed.clone(),
                advertise: vec![self.addr],
                family: Vec::new(),
                hosts: true,
                memory: Memory::default(),
            },
            None => Role::Client,
        };
        let config = CoreConfig { network, role, bootstrap, local_network, saved: self.saved.clone() };
        let wall = Wall(wall(now).0.saturating_add_signed(self.skew));
        let mut env = Env { now: awake(now, self.slept), wall, rng: &mut self.rng };
        self.core = Some(Core::new(config, &mut env).expect("a core starts"));
    }

    /// Pulls the plug: links break, what was on its way is lost, nothing is saved.
    pub fn stop(&mut self, now: Time, post: &mut Post) {
        self.now = now;
        self.core = None;
        self.timer = None;
        let links: Vec<LinkId> = self.ends.keys().copied().collect();
        for link in links {
            self.cut(link, post);
        }
        self.queue.clear();
    }

    /// Its machine is suspended from now on for so long: nothing reaches it, and its monotonic clock stands still.
    pub fn suspend(&mut self, now: Time, time: Duration) {
        self.slept += time;
        self.asleep = Some(now + time);
        self.timer = self.timer.map(|at| at + time);
        let own = |mut item: Item| {
            item.at = item.at + time;
            item
        };
        let (mine, others): (Vec<_>, Vec<_>) = self.queue.drain().map(|Reverse(item)| item).partition(|i| i.from == self.index);
        self.queue = others.into_iter().chain(mine.into_iter().map(own)).map(Reverse).collect();
    }

    /// Its line gets another address: all its connections are dead, and neither end is told.
    pub fn change_line(&mut self) {
        self.dead.extend(self.links.keys());
    }

    /// When it has something to do.
    pub fn due(&self) -> Option<Time> {
        let item = self.queue.peek().map(|Reverse(item)| item.at);
        item.into_iter().chain(self.timer).min()
    }

    /// Puts something into its queue.
    pub fn post(&mut self, item: Item) {
        self.queue.push(Reverse(item));
    }

    /// Runs by itself until `end`, which is excluded and at most [`LATENCY_MIN`] after what it has to do first.
    pub fn run(&mut self, end: Time, ground: &Ground, post: &mut Post) {
        let mut eyes = Eyes { observer: None, around: None };
        while self.due().is_some_and(|at| at < end) {
            self.step(ground, &mut eyes, post);
        }
    }

    /// Handles what is due first.
    pub fn step(&mut self, ground: &Ground, eyes: &mut Eyes<'_>, post: &mut Post) {
        let item = self.queue.peek().map(|Reverse(item)| item.at);
        match (item, self.timer) {
            (at, Some(timer)) if at.is_none_or(|at| timer < at) => {
                self.timer = None;
                self.spins = if timer > self.now { 0 } else { self.spins + 1 };
                let spins = self.spins;
                assert!(spins < 10_000, "node {} spins on {:?}", self.index, self.core.as_ref().and_then(Core::timeout));
                self.feed(timer, Input::Tick, ground, eyes, post);
            }
            _ => {
                let Some(Reverse(item)) = self.queue.pop() else { return };
                let at = item.at.max(self.now);
                if let Some(input) = self.open(at, item) {
                    self.feed(at, input, ground, eyes, post);
                }
            }
        }
    }

    /// What an item is to the core. What comes on a connection that is no more is lost.
    fn open(&mut self, at: Time, item: Item) -> Option<Input> {
        let foreign = matches!(item.what, What::Up(_) | What::Cells(_) | What::Down);
        if foreign && (self.asleep.is_some_and(|until| at < until) || self.dead.contains(&item.connection)) {
            return None;
        }
        let link = self.links.get(&item.connection).copied();
        match item.what {
            What::Up(end) => {
                let (remote, exporter) = *end;
                if self.core.is_none() && self.letters.is_none() {
                    return None;
                }
                self.begun += 1;
                let link = LinkId(self.begun);
                // The dialler is up a little later, and nothing overtakes that.
                let free_at = at + latency(self.index, item.from) + Duration::from_micros(1);
                self.connect(link, End { to: item.from, connection: item.connection, free_at, left: at });
                Some(Input::LinkUp { link, remote, exporter, dialed: false })
            }
            What::Cells(cells) => Some(Input::Cells { link: link?, cells }),
            What::Down => {
                let link = link?;
                self.disconnect(link);
                Some(Input::LinkDown { link })
            }
            What::Sent { .. } | What::Own(_) if item.connection != 0 && link.is_none() => None,
            What::Sent { link, cells } => Some(Input::Sent { link, cells }),
            What::Own(input) => Some(*input),
        }
    }

    /// Gives its core an input, and does what the core wants.
    pub fn feed(&mut self, now: Time, input: Input, ground: &Ground, eyes: &mut Eyes<'_>, post: &mut Post) {
        self.now = now;
        let Some(core) = self.core.as_mut() else {
            if let Some(letters) = &mut self.letters {
                letters.push(input);
            }
            return;
        };
        let wall = Wall(wall(now).0.saturating_add_signed(self.skew));
        let mut env = Env { now: awake(now, self.slept), wall, rng: &mut self.rng };
        match (eyes.around.as_mut(), &input) {
            (Some(around), Input::Cells { cells, .. }) => {
                let count = cells.len() / CELL;
                let mut input = Some(input);
                around(self.index, count, &mut || {
                    if let Some(input) = input.take() {
                        core.handle(&mut env, input);
                    }
                });
            }
            _ => core.handle(&mut env, input),
        }
        while let Some(output) = self.core.as_mut().and_then(Core::poll_output) {
            self.output(output, ground, eyes, post);
        }
        self.timer = self.core.as_ref().and_then(Core::timeout).map(|(at, _)| (at + self.slept).max(now));
    }

    fn output(&mut self, output: Output, ground: &Ground, eyes: &mut Eyes<'_>, post: &mut Post) {
        match output {
            Output::Dial { link, addr } => self.dial(self.now, link, addr, ground, post),
            Output::Close { link } => {
                self.cut(link, post);
                // The transport says so once, also to the side that asked.
                self.own(self.now, 0, Input::LinkDown { link });
            }
            Output::Send { link, cells } => self.send(self.now, link, cells, ground, eyes, post),
            Output::Job { job, work } => {
                let time = match self.disk.manner {
                    Manner::Dawdles if matches!(work, Job::Serve { .. }) => DAWDLE_TIME,
                    Manner::IsMute if matches!(work, Job::Serve { .. }) => DAWDLE_TIME * 1000,
                    _ => JOB_TIME,
                };
                let result = self.job(work, ground);
                self.own(self.now + time, 0, Input::Done { job, result });
            }
            Output::Event(op, event) => self.events.entry(op).or_default().push(event),
            Output::Node(event) => self.news.push(event),
            Output::Save { name, bytes } => {
                self.saved.insert(name.into(), bytes);
            }
        }
    }

    /// Jobs run at once.
    fn job(&mut self, work: Job, ground: &Ground) -> JobResult {
        match work {
            Job::Overlay { work: OverlayJob::Verify(list), network, .. } => {
                let checked = list.into_iter().map(|bytes| ground.check(&network, bytes)).collect();
                JobResult::Overlay(JobOutcome::Verified(checked))
            }
            Job::Overlay { work: OverlayJob::SignOwn { .. }, .. } => {
                let result = work.run(&mut self.rng, None);
                if let JobResult::Overlay(JobOutcome::Signed(Some(own))) = &result {
                    ground.note(own);
                }
                result
            }
            Job::LinkProof { network, exporter, dialer, .. } => {
                let result = work.run(&mut self.rng, None);
                if let JobResult::LinkProof(proof) = &result {
                    ground.proofs.lock().unwrap().insert((exporter, dialer, network, proof.node, proof.signature));
                }
                result
            }
            Job::LinkCheck { network, exporter, dialer, proof } => {
                let key = (exporter, dialer, network, proof.node, proof.signature);
                if ground.proofs.lock().unwrap().remove(&key) {
                    return JobResult::LinkCheck(Some(proof));
                }
                Job::LinkCheck { network, exporter, dialer, proof }.run(&mut self.rng, None)
            }
            work => work.run(&mut self.rng, Some(&self.disk)),
        }
    }

    fn item(&mut self, at: Time, connection: u64, what: What) -> Item {
        self.begun += 1;
        Item { at, from: self.index, number: self.begun, connection, what }
    }

    fn own(&mut self, at: Time, connection: u64, input: Input) {
        let item = self.item(at, connection, What::Own(Box::new(input)));
        self.post(item);
    }

    fn connect(&mut self, link: LinkId, end: End) {
        self.links.insert(end.connection, link);
        self.ends.insert(link, end);
    }

    fn disconnect(&mut self, link: LinkId) -> Option<End> {
        let end = self.ends.remove(&link)?;
        self.links.remove(&end.connection);
        Some(end)
    }

    /// A number for a link, for who has no core to give one.
    pub fn fresh_link(&mut self) -> LinkId {
        self.begun += 1;
        LinkId(self.begun)
    }

    /// Connects to whoever is at the address.
    pub fn dial(&mut self, now: Time, link: LinkId, addr: SocketAddr, ground: &Ground, post: &mut Post) {
        let Some(to) = ground.by_addr.get(&addr).copied().filter(|to| *to != self.index) else {
            return self.own(now + Duration::from_millis(100), 0, Input::LinkDown { link });
        };
        self.dialled.insert(to);
        let one_way = latency(self.index, to);
        let mut exporter = [0; 32];
        self.chance.fill_bytes(&mut exporter);
        self.begun += 1;
        let connection = (self.index as u64 + 1) << 40 | self.begun;
        // TCP and TLS 1.3: two round trips to the dialler, a half more to the other end.
        let (mine, theirs) = (now + one_way * 4, now + one_way * 3);
        self.connect(link, End { to, connection, free_at: theirs, left: now });
        self.own(mine, connection, Input::LinkUp { link, remote: addr, exporter, dialed: true });
        let up = self.item(theirs, connection, What::Up(Box::new((self.addr, exporter))));
        post.push((to, up));
    }

    /// Breaks all its connections to another node, as somebody on the path between them can.
    pub fn cut_from(&mut self, now: Time, other: usize, post: &mut Post) {
        self.now = now;
        let links: Vec<LinkId> = self.ends.iter().filter(|(_, end)| end.to == other).map(|(link, _)| *link).collect();
        for link in links {
            self.cut(link, post);
            self.own(now, 0, Input::LinkDown { link });
        }
    }

    fn cut(&mut self, link: LinkId, post: &mut Post) {
        if let Some(end) = self.disconnect(link).filter(|end| !self.dead.contains(&end.connection)) {
            let at = (self.now + latency(self.index, end.to)).max(end.free_at);
            let down = self.item(at, end.connection, What::Down);
            post.push((end.to, down));
        }
    }

    /// Sends cells.
    pub fn send(&mut self, now: Time, link: LinkId, mut cells: BytesMut, ground: &Ground, eyes: &mut Eyes<'_>, post: &mut Post) {
        assert!(!cells.is_empty() && cells.len().is_multiple_of(CELL), "a length that is not the cell's");
        let count = cells.len() / CELL;
        self.cells_sent += count as u64;
        self.messages_sent += 1;
        let fate = self.tamper.as_mut().map_or(Fate::Send, |tamper| tamper(&mut self.chance, &mut cells));
        let Some(end) = self.ends.get_mut(&link) else { return };
        let (to, connection) = (end.to, end.connection);
        if self.dead.contains(&connection) {
            let sent = self.item(now, connection, What::Sent { link, cells: count });
            return self.post(sent);
        }
        if let Some(observer) = &mut eyes.observer {
            observer(&Seen { at: now, from: self.index, to, cells: &cells });
        }
        let arrives = match fate {
            Fate::Send => Some(Duration::ZERO),
            Fate::Drop => None,
            Fate::Delay(by) => Some(by),
        };
        let (mut events, mut arriving) = (Vec::new(), Vec::new());
        let rate = [self.index, to].iter().filter_map(|node| ground.lines.get(node)).min();
        let mut left = count;
        while left > 0 {
            let piece = if rate.is_some() { left.min(WRITTEN) } else { left };
            left -= piece;
            let part = if left == 0 { core::mem::take(&mut cells) } else { cells.split_to(cells.len().min(piece * CELL)) };
            let mut taken = now;
            if let Some(rate) = rate {
                let takes = |bytes: u64| Duration::from_micros(bytes * 1_000_000 / rate);
                end.left = end.left.max(now) + takes((piece * CELL) as u64);
                taken = taken.max(Time(end.left.0.saturating_sub(takes(SOCKET).as_micros() as u64)));
            }
            let leaves = now.max(end.left) + ground.late.get(&(self.index, to)).copied().unwrap_or_default();
            let arrives = arrives.map(|late| {
                end.free_at = end.free_at.max(leaves + latency(self.index, to) + late);
                end.free_at
            });
            events.push((taken, What::Sent { link, cells: piece }));
            if let Some(at) = arrives.filter(|_| !part.is_empty()) {
                arriving.push((at, What::Cells(part)));
            }
        }
        for (at, what) in events {
            let sent = self.item(at, connection, what);
            self.post(sent);
        }
        for (at, what) in arriving {
            let item = self.item(at, connection, what);
            post.push((to, item));
        }
    }
}

/// What the monotonic clock of a machine shows that slept so long.
const fn awake(now: Time, slept: Duration) -> Time {
    Time(now.0 - slept.as_micros() as u64)
}

/// What clocks show.
pub const fn wall(now: Time) -> Wall {
    Wall(WALL + now.0 / 1_000_000)
}

/// One-way latency between two nodes: 5 to 60 ms, the same every time.
fn latency(from: usize, to: usize) -> Duration {
    let (a, b) = (from.min(to) as u64, from.max(to) as u64);
    let mixed = (a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)).rotate_left(31);
    LATENCY_MIN + Duration::from_micros(mixed % 55_000)
}
