//! Attacks on what nodes believe of the network: a relay that tells each its own descriptor, bootstrap relays that know a network of
//! their own, and somebody on the path to the honest ones.

use super::World;
use onionskin::base::{LinkId, NodeId, Wall};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::crypto::session::OPEN_LEN;
use onionskin::proto::overlay::{JobOutcome, OverlayJob, OwnBody};
use onionskin::wire::cell::{BODY, CELL, Command, HEADER, Header, RelayCommand, RelayMessage, TAG};
use onionskin::wire::overlay::{Blob, Message, Tag};
use onionskin::wire::record::Receipt;
use rand::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Relays by the name of the face that they used, ever.
pub type Shown = BTreeMap<u32, BTreeSet<usize>>;

/// A relay that is a liar: its key, where it stands, and a machine that speaks in its name.
pub struct Liar {
    /// Its node.
    pub node: usize,
    /// Its identity.
    pub key: IdentityKey,
    puppet: usize,
    receipts: Vec<Receipt>,
    /// Links of the puppet, in its name.
    links: BTreeMap<usize, LinkId>,
}

/// What a liar tells a relay: its descriptor and freshness.
pub type Told = (usize, [Vec<u8>; 2]);

impl Liar {
    /// A relay of the world, which starts as any other.
    pub fn relay(world: &mut World, addr: SocketAddr) -> Self {
        let seed = Secret::random(world.rng());
        let key = IdentityKey::from_seed(&seed);
        let network = world.network;
        let node = world.add(addr, Some(seed), network);
        Self { node, key, puppet: usize::MAX, receipts: Vec::new(), links: BTreeMap::new() }
    }

    /// Once others know it: what it needs to lie, beside what its own core goes on saying.
    pub fn begin(&mut self, world: &mut World) {
        let view = world.nodes[0].core.as_ref().unwrap().view();
        self.receipts = view.get(&self.key.node_id()).expect("a relay that is known").receipts().to_vec();
        self.puppet = world.puppet();
        // It comes from the relay's own address.
        world.nodes[self.puppet].addr = SocketAddr::new(world.nodes[self.node].addr.ip(), 50_000);
    }

    /// A face: another descriptor of it, whose host key has this name.
    pub fn face(&self, world: &mut World, published: Wall, name: u32) -> [Vec<u8>; 2] {
        let mut d = world.descriptor(self.node).descriptor().clone();
        (d.published, d.expires) = (published, published.plus(86_400));
        d.host_key.as_mut().expect("a host").id = name;
        world.rng().fill_bytes(&mut d.onion_key);
        let body = OwnBody::New(Box::new(d));
        let job = OverlayJob::SignOwn { body, receipts: self.receipts.clone(), now: world.wall() };
        let JobOutcome::Signed(Some(relay)) = job.run(&world.network, Some(&self.key)) else { panic!("not signed") };
        [relay.body().encode(), relay.fresh().unwrap().encode()]
    }

    /// Links to these relays, which hold as long as it says something now and then.
    pub fn connect(&mut self, world: &mut World, relays: &[usize]) {
        let puppet = self.puppet;
        world.nodes[puppet].letters = Some(Vec::new());
        let links: Vec<_> = relays.iter().map(|r| (*r, world.puppet_dial(puppet, *r))).collect();
        world.run(Duration::from_millis(400));
        links.iter().for_each(|(_, link)| world.puppet_hello(puppet, *link, Some(&self.key)));
        world.run(Duration::from_millis(300));
        self.links = links.into_iter().collect();
    }

    /// Tells each of these relays what is meant for it, and notes for a moment who uses which.
    pub fn tell(&mut self, world: &mut World, told: Vec<Told>, relays: &[usize], shown: &mut Shown) {
        for (relay, [descriptor, freshness]) in told {
            let message = Message::Announce { id: 1, descriptor: Blob(descriptor), freshness: Blob(freshness) };
            world.say_overlay(self.puppet, self.links[&relay], &message);
        }
        for _ in 0..20 {
            world.run(Duration::from_millis(10));
            self.note(world, relays, shown);
        }
        world.nodes[self.puppet].letters = Some(Vec::new());
    }

    /// The tag of its descriptor, and the name of its host key, that a node uses.
    pub fn used_by(&self, world: &World, node: usize) -> Option<(Tag, u32)> {
        let relay = world.nodes[node].core.as_ref()?.view().get(&self.key.node_id())?;
        Some((relay.body().tag(), relay.descriptor().host_key.as_ref()?.id))
    }

    /// Which relays use which face of it, now.
    pub fn note(&self, world: &World, relays: &[usize], shown: &mut Shown) {
        for relay in relays {
            if let Some((_, name)) = self.used_by(world, *relay) {
                shown.entry(name).or_default().insert(*relay);
            }
        }
    }
}

/// Names of host keys by which sessions are opened at a relay, in order: they stand in the clear on the leg from the last hop.
pub fn watch_openings(world: &mut World, host: usize) -> Rc<RefCell<Vec<u32>>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&seen);
    world.observer = Some(Box::new(move |s| {
        if s.to != host {
            return;
        }
        for cell in s.cells.chunks_exact(CELL) {
            let cell: &[u8; CELL] = cell.try_into().unwrap();
            if Header::read(cell).is_ok_and(|h| h.command == Command::Relay) {
                let body: &[u8; BODY] = cell[HEADER..].try_into().unwrap();
                if let Ok(m) = RelayMessage::read(body)
                    && m.command == RelayCommand::Data
                    && m.data.len() == OPEN_LEN
                    && body[..TAG] == [0; TAG]
                {
                    notes.borrow_mut().push(u32::from_be_bytes(m.data[..4].try_into().unwrap()));
                }
            }
        }
    }));
    seen
}

/// What somebody on the path does to what honest bootstrap relays and a client tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPath {
    /// Nothing.
    Nobody,
    /// All that honest relays send a client comes later by this.
    Delays(Duration),
    /// The connection to each honest bootstrap relay is reset every so often.
    Resets(Duration),
}

impl World {
    /// Relays of an attacker: unmodified code that knows only each other, each in a /16 of its own.
    pub fn network_of_liars(&mut self, size: usize) -> Vec<usize> {
        let mut bad: Vec<usize> = Vec::new();
        for i in 0..size {
            let addr = SocketAddr::from(([120, 1 + u8::try_from(i).unwrap(), 7, 9], 9001));
            let seed = Secret::random(self.rng());
            bad.push(self.add_from(addr, Some(seed), &bad.first().copied().into_iter().collect::<Vec<_>>()));
        }
        let all = |w: &mut Self| bad.iter().all(|r| w.knows(*r) == size);
        assert!(self.run_until_each(Duration::from_secs(1), Duration::from_secs(300), all));
        bad
    }

    /// A client that was never on yet, with a line of so many bytes a second on each link; zero is without limit.
    pub fn client_to_be(&mut self, bytes_per_sec: u64) -> usize {
        let client = self.puppet();
        self.nodes[client].letters = None;
        self.line(client, bytes_per_sec);
        client
    }

    /// Breaks all connections between two nodes.
    pub fn cut(&mut self, node: usize, other: usize) {
        self.with_node(node, |n, now, _, _, post| n.cut_from(now, other, post));
    }

    /// Starts clients, each from bootstrap relays of its own, and runs until all are ready or the time is over, while somebody on
    /// the path does his worst to what the `honest` ones send. True if all are ready.
    pub fn start_all(&mut self, starts: &[(usize, Vec<usize>)], honest: &[usize], path: OnPath, time: Duration) -> bool {
        for (client, from) in starts {
            self.start_from(*client, from);
        }
        if let OnPath::Delays(late) = path {
            let pairs = starts.iter().flat_map(|(client, _)| honest.iter().map(move |relay| ((*relay, *client), late)));
            self.ground.late.extend(pairs);
        }
        let (end, mut next) = (self.now + time, self.now);
        let ready = |w: &Self| starts.iter().all(|(c, _)| w.ready(*c));
        while self.now < end && !ready(self) {
            if let OnPath::Resets(every) = path
                && self.now >= next
            {
                next = self.now + every;
                for (client, from) in starts {
                    from.iter().filter(|r| honest.contains(r)).for_each(|r| self.cut(*client, *r));
                }
            }
            self.run(Duration::from_millis(100));
        }
        self.ground.late.clear();
        ready(self)
    }

    /// Guards and relays of the second layer that a node saved.
    pub fn saved_paths(&self, node: usize) -> [Vec<NodeId>; 2] {
        let Some(bytes) = self.nodes[node].saved.get("paths") else { return Default::default() };
        let mut at = 2;
        [(); 2].map(|()| {
            let count = usize::from(bytes[at]);
            at += 1;
            let list = bytes[at..].chunks_exact(41).take(count).map(|kept| NodeId(*kept.first_chunk().unwrap())).collect();
            at += 41 * count;
            list
        })
    }

    /// How many of these are one of those nodes.
    pub fn count_of(&self, ids: &[NodeId], nodes: &[usize]) -> usize {
        ids.iter().filter(|id| nodes.iter().any(|n| self.nodes[*n].id == Some(**id))).count()
    }
}
