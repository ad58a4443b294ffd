//! What knowing the network costs a client: bytes of overlay messages from three directories, cold, an hour later, and over a day.
//!
//! The client is the real overlay machine, and what directories say are the real answers of a real view; the relays in it are signed
//! records alone, and no cells are made.

use crate::table::Row;
use onionskin::base::limits;
use onionskin::base::{Env, LinkId, NetworkId, NodeId, Time, Wall};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::overlay::answers::Answers;
use onionskin::proto::overlay::record::Verified;
use onionskin::proto::overlay::view::View;
use onionskin::proto::overlay::{Config, Input, JobOutcome, Output, Overlay, OverlayJob, OwnBody, Peer, Profile};
use onionskin::wire::codec::Extensions;
use onionskin::wire::record::{Descriptor, HostKey, MLKEM_PUBLIC};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const NET: NetworkId = NetworkId([42; 32]);
const EPOCH: u64 = 1_800_000_000;
/// A relay's keys, and its descriptor with them, are renewed after so many hours.
const KEY_HOURS: usize = (limits::KEY_LIFE_SECS / 3600) as usize;
/// Of a hundred relays, those that leave in a day, and as many that come.
const CHURN_PERCENT: usize = 3;
const DIRECTORIES: usize = 3;

/// A network as its directories know it, all alike.
struct Network {
    rng: StdRng,
    made: u64,
    relays: Vec<(u64, Arc<Verified>)>,
    view: View,
    now: Time,
}

impl Network {
    fn new(size: usize) -> Self {
        let mut network =
            Self { rng: StdRng::seed_from_u64(5), made: 0, relays: Vec::new(), view: View::of_client(false), now: Time(0) };
        (0..size).for_each(|_| network.join());
        // So that nobody renews in the slot of time that it joined in.
        network.now = Time(0) + Duration::from_secs(3600);
        network
    }

    fn wall(&self) -> Wall {
        Wall(EPOCH + self.now.0 / 1_000_000)
    }

    fn describe(&mut self, number: u64, addr: SocketAddr) -> Arc<Verified> {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let key = IdentityKey::from_seed(&Secret::new(seed));
        let (mut onion, mut mlkem) = ([0; 32], Box::new([0; MLKEM_PUBLIC]));
        self.rng.fill_bytes(&mut onion);
        self.rng.fill_bytes(&mut mlkem[..]);
        let now = self.wall();
        let descriptor = Descriptor {
            node: key.node_id(),
            published: now,
            expires: now.plus(limits::DESCRIPTOR_LIFE_SECS),
            addrs: vec![addr],
            carries: true,
            onion_key: onion,
            host_key: Some(HostKey { id: 1, x25519: onion, until: now.plus(limits::KEY_LIFE_SECS), mlkem }),
            family: vec![],
            old_addrs: vec![],
            extensions: Extensions::default(),
        };
        let job = OverlayJob::SignOwn { body: OwnBody::New(Box::new(descriptor)), receipts: vec![], now };
        let JobOutcome::Signed(Some(relay)) = job.run(&NET, Some(&key)) else { unreachable!("a descriptor is signed") };
        self.view.adopt(relay.body(), true, now);
        relay
    }

    fn join(&mut self) {
        self.made += 1;
        // Each in a /16 of its own, as long as there are enough.
        let [.., a, b] = (self.made as u32).to_be_bytes();
        let relay = self.describe(self.made, SocketAddr::from(([20 + a, b, 7, 9], 443)));
        self.relays.push((self.made, relay));
    }

    /// An hour: some relays renew their keys, some leave, and others come.
    fn hour(&mut self, hour: usize) {
        let size = self.relays.len();
        for i in (0..size).filter(|i| i % KEY_HOURS == hour % KEY_HOURS && *i >= DIRECTORIES) {
            let (number, addr) = (self.relays[i].0, self.relays[i].1.addr());
            self.relays[i].1 = self.describe(number, addr);
        }
        let leave = (size * CHURN_PERCENT * (hour + 1)) / 2400 - (size * CHURN_PERCENT * hour) / 2400;
        for _ in 0..leave {
            let (_, gone) = self.relays.remove(DIRECTORIES + self.rng.next_u32() as usize % (size - DIRECTORIES - leave));
            self.view.remove(&gone.node());
            self.join();
        }
    }

    /// A directory's answer, encoded.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        Answers::new(&self.view, 1).bytes(question)
    }

    fn peers(&self) -> Vec<Peer> {
        self.relays.iter().take(DIRECTORIES).map(|(_, r)| Peer { addr: r.addr(), node: r.node() }).collect()
    }
}

/// A client in front of the network: bytes that come to it, and when it was ready. Its line carries so many bytes a second.
struct Client {
    overlay: Overlay,
    rng: StdRng,
    links: BTreeMap<LinkId, NodeId>,
    saved: Option<Vec<u8>>,
    bytes: u64,
    asked: u64,
    queue: BTreeMap<(Time, u64), Input>,
    number: u64,
    free_at: Time,
    ready: Option<Time>,
    dialled: Vec<SocketAddr>,
}

/// A line of 10 Mbit/s.
const LINE: u64 = 1_250_000;
const LINK_RTT: Duration = Duration::from_millis(100);
const CIRCUIT_RTT: Duration = Duration::from_millis(600);

impl Client {
    fn start(network: &Network, saved: Option<Vec<u8>>) -> Self {
        let mut rng = StdRng::seed_from_u64(3);
        let config = Config {
            local: false,
            profile: None::<Profile>,
            bootstrap: network.peers(),
            known: vec![],
            guards: vec![],
            network: NET,
            saved: saved.map(|bytes| ("view", bytes)).into_iter().collect(),
        };
        let overlay = Overlay::new(&mut Env { now: network.now, wall: network.wall(), rng: &mut rng }, config);
        let (links, queue) = (BTreeMap::new(), BTreeMap::new());
        let mut client = Self {
            overlay,
            rng,
            links,
            saved: None,
            bytes: 0,
            asked: 0,
            queue,
            number: 0,
            free_at: network.now,
            ready: None,
            dialled: vec![],
        };
        client.post(network.now, Input::Tick);
        client
    }

    fn post(&mut self, at: Time, input: Input) {
        self.number += 1;
        self.queue.insert((at, self.number), input);
    }

    /// When so many bytes have come over the line, if they were asked for now.
    fn comes(&mut self, now: Time, rtt: Duration, bytes: usize) -> Time {
        self.bytes += bytes as u64;
        let begins = self.free_at.max(now + rtt);
        self.free_at = begins + Duration::from_micros(bytes as u64 * 1_000_000 / LINE);
        self.free_at
    }

    fn run(&mut self, network: &mut Network, until: Time) {
        loop {
            let due = self.overlay.timeout().map_or(until, |(at, _)| at.max(network.now));
            let next = self.queue.first_key_value().map_or(due, |((at, _), _)| due.min(*at));
            if next >= until {
                break;
            }
            network.now = network.now.max(next);
            let input = match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= network.now => self.queue.pop_first().map_or(Input::Tick, |(_, input)| input),
                _ => Input::Tick,
            };
            self.feed(network, input);
        }
        network.now = until;
    }

    fn feed(&mut self, network: &Network, input: Input) {
        let now = network.now;
        self.overlay.handle(&mut Env { now, wall: network.wall(), rng: &mut self.rng }, input);
        if self.overlay.wants_directories() {
            self.overlay.handle(&mut Env { now, wall: network.wall(), rng: &mut self.rng }, Input::Directories(network.peers()));
        }
        if self.overlay.coverage().ready {
            self.ready.get_or_insert(now);
        }
        while let Some(output) = self.overlay.poll_output() {
            match output {
                Output::Dial { token, addr, expect, .. } => {
                    self.dialled.push(addr);
                    let open = self.links.iter().find(|(_, node)| **node == expect).map(|(link, _)| *link);
                    let link = open.unwrap_or(LinkId(self.number + 1));
                    // TCP, TLS and first cells.
                    let at = now + LINK_RTT * 3;
                    if open.is_none() {
                        self.links.insert(link, expect);
                        let up =
                            Input::LinkUp { link, node: Some(expect), remote: addr, dialled: true, wall: Some(network.wall()) };
                        self.post(at, up);
                    }
                    self.post(at, Input::Dialled { token, link: Some(link) });
                }
                Output::Send { link, bytes } => {
                    self.asked += bytes.len() as u64;
                    let answer = network.answer(&bytes);
                    if let Some(bytes) = answer {
                        let at = self.comes(now, LINK_RTT, bytes.len());
                        self.post(at, Input::Message { link, bytes });
                    }
                }
                Output::Ask { token, to, bytes } => {
                    self.asked += bytes.len() as u64;
                    let from = to.or_else(|| network.relays.get(3 + self.number as usize % 40).map(|(_, r)| r.node()));
                    let answer = network.answer(&bytes);
                    let at = self.comes(now, CIRCUIT_RTT, answer.as_ref().map_or(0, Vec::len));
                    self.post(at, Input::Told { token, from, answer });
                }
                Output::Job(job, work) => self.post(now, Input::Done { job, outcome: work.run(&NET, None) }),
                Output::Release { link } => {
                    self.links.remove(&link);
                    self.post(now, Input::LinkDown { link });
                }
                Output::Save { bytes, .. } => self.saved = Some(bytes),
                Output::Blame { .. } | Output::Event(_) => {}
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

/// Rows for each size of a network.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let sizes: &[usize] = if quick { &[100, 300] } else { &[100, 1000, 2000, 20_000] };
    sizes.iter().flat_map(|size| of(*size)).collect()
}

fn of(size: usize) -> Vec<Row> {
    let mut network = Network::new(size);
    let setup = format!(
        "{size} relays, 3 directories, no cells, 10 Mbit/s, {LINK_RTT:?} to links and {CIRCUIT_RTT:?} through circuits, seed 5"
    );
    let row = |what: &str, figure: String, bar: &str, holds: bool| Row {
        what: format!("cost: {what}"),
        setup: setup.clone(),
        figure,
        bar: if size == 2000 { bar.to_owned() } else { "none at this size".to_owned() },
        holds: holds || size != 2000,
    };
    let kb = |bytes: u64| format!("{:.1} kB, {:.0} bytes a relay", bytes as f64 / 1e3, bytes as f64 / size as f64);
    let began = network.now;
    let mut cold = Client::start(&network, None);
    let until = network.now + Duration::from_secs(120);
    cold.run(&mut network, until);
    let first = cold.ready.map_or(f64::INFINITY, |at| at.since(began).as_secs_f64());
    let cold_bytes = cold.bytes;
    let kept = cold.saved.clone();
    // The same client runs on for a day.
    let mut later = None;
    for hour in 0..24 {
        network.hour(hour);
        let until = network.now + Duration::from_secs(3600);
        cold.run(&mut network, until);
        if hour == 0 {
            later = Some(again(&mut network, kept.clone()));
        }
    }
    let running = cold.bytes - cold_bytes;
    let (hour_bytes, ready, reading) = later.unwrap_or_default();
    let (day_bytes, ..) = again(&mut network, kept.clone());
    vec![
        row("bytes of a first start", kb(cold_bytes), "4.5 MB", cold_bytes <= 4_500_000),
        row("bytes of a start an hour later", kb(hour_bytes), "100 kB", hour_bytes <= 100_000),
        row("bytes of a start a day later", kb(day_bytes), "none", true),
        row("bytes of a day of running", kb(running), "500 kB", running <= 500_000),
        row("bytes a directory serves a client in a day of running", kb(running / DIRECTORIES as u64), "none", true),
        row("time to ready, first start", format!("{first:.2} s"), "8 s", first <= 8.0),
        row(
            "time to ready, a start an hour later",
            format!(
                "{ready:.2} s, and {reading:.3} s of this machine to read {:.1} MB",
                kept.as_ref().map_or(0, Vec::len) as f64 / 1e6
            ),
            "1 s and three round trips",
            ready + reading <= 1.0 + 3.0 * CIRCUIT_RTT.as_secs_f64(),
        ),
    ]
}

/// A later start: bytes, seconds until it is ready, and what reading the kept view takes.
fn again(network: &mut Network, kept: Option<Vec<u8>>) -> (u64, f64, f64) {
    let (began, now) = (clock(), network.now);
    let mut client = Client::start(network, kept);
    let reading = began.elapsed().as_secs_f64();
    let until = network.now + Duration::from_secs(120);
    client.run(network, until);
    let ready = client.ready.map_or(f64::INFINITY, |at| at.since(now).as_secs_f64());
    (client.bytes, ready, reading)
}
