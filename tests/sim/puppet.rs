//! A client outside honest code: it keeps to the formats, and says what a test has it say, in whatever order and number.

use super::World;
use bytes::BytesMut;
use onionskin::base::{CircuitId, LinkId, StreamId};
use onionskin::crypto::cgo::ClientLayers;
use onionskin::crypto::keys;
use onionskin::crypto::keys::{HostPublic, IdentityKey};
use onionskin::crypto::ntor;
use onionskin::crypto::secret::Secret;
use onionskin::crypto::session;
use onionskin::crypto::session::ClientSession;
use onionskin::proto::Input;
use onionskin::proto::overlay::record::Verified;
use onionskin::wire::cell::{BODY, CELL, Command, Header, RELAY_DATA, RelayCommand, RelayMessage, TAG};
use onionskin::wire::codec::{Reader, Writer};
use onionskin::wire::hello::{Hello, Proof};
use onionskin::wire::overlay::Message;
use onionskin::wire::request::SessionType;
use std::sync::Arc;
use std::time::Duration;

/// Longest that a puppet waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bit that the dialling end sets in its circuit ids.
const DIALLER: u32 = 1 << 31;
/// The circuit handshake of this version.
const HYBRID: u16 = 1;

fn boxed() -> Box<[u8; BODY]> {
    Box::new([0; BODY])
}

impl World {
    /// A puppet: it has an address and no mind.
    pub fn puppet(&mut self) -> usize {
        let puppet = self.client();
        self.switch_off(puppet);
        self.nodes[puppet].letters = Some(Vec::new());
        puppet
    }

    /// The newest descriptor of a relay that anybody checked.
    pub fn descriptor(&self, relay: usize) -> Arc<Verified> {
        let own = self.ground.bodies(|d| Some(d.descriptor().node) == self.nodes[relay].id);
        Verified::listed(own.into_iter().max_by_key(|d| d.descriptor().published).expect("a relay that announced itself"))
    }

    /// A link from a puppet to a relay, past the first cells; with an identity it is a relay's, else a client's.
    pub fn puppet_link(&mut self, puppet: usize, relay: usize, identity: Option<&IdentityKey>) -> LinkId {
        let link = self.puppet_dial(puppet, relay);
        self.run(Duration::from_secs(1));
        self.puppet_hello(puppet, link, identity);
        self.run(Duration::from_secs(1));
        link
    }

    /// A link that a puppet begins to open.
    pub fn puppet_dial(&mut self, puppet: usize, relay: usize) -> LinkId {
        let addr = self.nodes[relay].addr;
        self.with_node(puppet, |node, now, ground, _, post| {
            let link = node.fresh_link();
            node.dial(now, link, addr, ground, post);
            link
        })
    }

    /// The first cell of a link that stands.
    pub fn puppet_hello(&mut self, puppet: usize, link: LinkId, identity: Option<&IdentityKey>) {
        let proof = identity.map(|me| {
            let exporter = self.nodes[puppet].letters.iter().flatten().find_map(|letter| match letter {
                Input::LinkUp { link: up, exporter, .. } if *up == link => Some(*exporter),
                _ => None,
            });
            let signature = keys::link_proof(me, &self.network, &exporter.expect("a link that stands"), true);
            Proof { clock: self.wall(), node: me.node_id(), signature }
        });
        let hello = Hello::new(self.network, proof).write();
        self.say(puppet, link, None, Command::Hello, &hello);
    }

    /// One cell.
    pub fn say(&mut self, puppet: usize, link: LinkId, circuit: Option<CircuitId>, command: Command, body: &[u8; BODY]) {
        let mut cell = [0; CELL];
        Header { circuit, command }.write(&mut cell);
        cell[CELL - BODY..].copy_from_slice(body);
        let cells = BytesMut::from(&cell[..]);
        self.with_node(puppet, |node, now, ground, eyes, post| node.send(now, link, cells, ground, eyes, post));
    }

    /// The next cell for this circuit: `None` if none comes in time.
    fn hear(&mut self, puppet: usize, link: LinkId, circuit: CircuitId) -> Option<(Command, Box<[u8; BODY]>)> {
        let mut found = None;
        self.run_until(PATIENCE, |world| {
            let letters = world.nodes[puppet].letters.get_or_insert_default();
            while found.is_none() && !letters.is_empty() {
                match letters.remove(0) {
                    Input::Cells { link: on, cells } if on == link => {
                        let (first, rest) = cells.split_at(CELL);
                        if !rest.is_empty() {
                            letters.insert(0, Input::Cells { link, cells: BytesMut::from(rest) });
                        }
                        let header = Header::read(first.first_chunk().unwrap()).unwrap();
                        if header.circuit == Some(circuit) {
                            found = Some((header.command, Box::new(*first.last_chunk().unwrap())));
                        }
                    }
                    Input::LinkDown { link: gone } if gone == link => found = Some((Command::Destroy, boxed())),
                    _ => {}
                }
            }
            found.is_some()
        });
        found
    }
}

/// A circuit of a puppet's own making.
pub struct Circuit {
    puppet: usize,
    link: LinkId,
    id: CircuitId,
    layers: ClientLayers<BODY>,
}

impl Circuit {
    /// A circuit of one hop.
    pub fn create(world: &mut World, puppet: usize, relay: usize) -> Self {
        let descriptor = world.descriptor(relay);
        Self::create_with(world, puppet, relay, &descriptor).expect("a relay that takes its newest key")
    }

    /// A circuit of one hop by the key of this descriptor. `None`: the relay would not have it.
    pub fn create_with(world: &mut World, puppet: usize, relay: usize, d: &Verified) -> Option<Self> {
        let link = world.puppet_link(puppet, relay, None);
        Self::create_on(world, puppet, link, 7, d)
    }

    /// A circuit of one hop, under a number of its own, on a link that is open to the relay of this descriptor.
    pub fn create_on(world: &mut World, puppet: usize, link: LinkId, number: u32, d: &Verified) -> Option<Self> {
        let id = CircuitId::new(DIALLER | number).unwrap();
        let mut this = Self { puppet, link, id, layers: ClientLayers::new() };
        let (state, message) = ntor::client1(&mut world.rng, &world.network, &d.node(), &d.descriptor().onion_key).unwrap();
        let mut w = Writer::default();
        w.u16(HYBRID).bytes16(&message);
        let mut body = boxed();
        body[..w.as_slice().len()].copy_from_slice(w.as_slice());
        world.say(puppet, link, Some(id), Command::Create, &body);
        let (command, body) = world.hear(puppet, link, id).unwrap();
        if command == Command::Destroy {
            return None;
        }
        assert_eq!(command, Command::Created);
        let mut r = Reader::new(&body[..]);
        assert_eq!(r.u16().unwrap(), HYBRID);
        let keys = ntor::client2(state, r.bytes16(BODY).unwrap()).unwrap();
        this.layers.push(&keys);
        Some(this)
    }

    /// Hops that stand.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// A message to the last hop.
    pub fn tell(&mut self, world: &mut World, command: RelayCommand, stream: u16, data: &[u8], carrier: Command) {
        let mut body = boxed();
        RelayMessage { command, stream: StreamId(stream), data }.write(&mut body);
        self.layers.originate(self.len() - 1, carrier as u8, &mut body);
        world.say(self.puppet, self.link, Some(self.id), carrier, &body);
    }

    /// Asks the last hop about the public view. `None`: the circuit ended, or nothing came in time.
    pub fn ask(&mut self, world: &mut World, number: u16, question: &Message) -> Option<Vec<u8>> {
        self.tell(world, RelayCommand::Directory, number, &question.encode().unwrap(), Command::Relay);
        let (mut whole, mut cells) = (Vec::new(), 0);
        loop {
            let (Command::Relay, mut body) = world.hear(self.puppet, self.link, self.id)? else { return None };
            assert_eq!(self.layers.receive(Command::Relay as u8, &mut body), Some(self.len() - 1));
            let part = RelayMessage::read(&body).unwrap();
            assert_eq!((part.command, part.stream), (RelayCommand::DirectoryReply, StreamId(number)));
            whole.extend_from_slice(part.data);
            cells += 1;
            let total = u32::from_be_bytes(*whole.first_chunk().unwrap()) as usize;
            assert!(whole.len() == 4 + total || whole.len() == cells * RELAY_DATA, "parts are full");
            if whole.len() == 4 + total {
                return Some(whole.split_off(4));
            }
        }
    }

    /// A cell that makes no sense to any hop.
    pub fn noise(&self, world: &mut World) {
        world.say(self.puppet, self.link, Some(self.id), Command::Relay, &[0x5a; BODY]);
    }

    /// Waits for the circuit's end: how long it takes from now, and what the cell says of it.
    pub fn end(&self, world: &mut World) -> Option<(Duration, Box<[u8; BODY]>)> {
        let from = world.now;
        loop {
            match world.hear(self.puppet, self.link, self.id)? {
                (Command::Destroy, body) => return Some((world.now.since(from), body)),
                (Command::Relay, _) => {}
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    /// One hop more, asked for in a cell of this kind. False: the circuit was destroyed, without a word.
    pub fn extend(&mut self, world: &mut World, relay: usize, carrier: Command) -> bool {
        let d = world.descriptor(relay);
        let (state, message) = ntor::client1(&mut world.rng, &world.network, &d.node(), &d.descriptor().onion_key).unwrap();
        let data = [d.node().0.as_slice(), &message].concat();
        let mut body = boxed();
        RelayMessage { command: RelayCommand::Extend, stream: StreamId(0), data: &data }.write(&mut body);
        self.layers.originate(self.len() - 1, carrier as u8, &mut body);
        world.say(self.puppet, self.link, Some(self.id), carrier, &body);
        match world.hear(self.puppet, self.link, self.id) {
            Some((Command::Relay, mut body)) => {
                assert_eq!(self.layers.receive(Command::Relay as u8, &mut body), Some(self.len() - 1));
                let answer = RelayMessage::read(&body).unwrap();
                assert_eq!(answer.command, RelayCommand::Extended);
                self.layers.push(&ntor::client2(state, answer.data).unwrap());
                true
            }
            Some((Command::Destroy, body)) => {
                assert!(body.iter().all(|b| *b == 0), "a destroy cell says something");
                false
            }
            other => panic!("neither extended nor destroyed: {:?}", other.map(|(command, _)| command)),
        }
    }
}

/// A session of a puppet that makes itself a last hop: it opens the leg itself.
pub struct Leg {
    puppet: usize,
    link: LinkId,
    id: CircuitId,
    session: ClientSession,
    kind: SessionType,
}

impl Leg {
    /// Opens a session to the key that this descriptor carries. Whether the host took it shows with the first request.
    pub fn open(world: &mut World, puppet: usize, host: usize, descriptor: &Verified, kind: SessionType) -> Self {
        let me = IdentityKey::from_seed(&Secret::random(&mut world.rng));
        let link = world.puppet_link(puppet, host, Some(&me));
        let id = CircuitId::new(DIALLER | 9).unwrap();
        let key = descriptor.descriptor().host_key.clone().expect("a host");
        let key = HostPublic { id: key.id, x25519: key.x25519, mlkem: key.mlkem };
        let (session, opening) = session::open(&mut world.rng, &world.network, &descriptor.node(), &key, kind.to_bytes()).unwrap();
        let this = Self { puppet, link, id, session, kind };
        world.say(puppet, link, Some(id), Command::Leg, &boxed());
        this.data(world, &opening);
        this
    }

    fn data(&self, world: &mut World, data: &[u8]) {
        let mut body = boxed();
        RelayMessage { command: RelayCommand::Data, stream: StreamId(0), data }.write(&mut body);
        body[..TAG].fill(0);
        world.say(self.puppet, self.link, Some(self.id), Command::Relay, &body);
    }

    /// Asks request number `n`. `None`: the host ended the leg, or said nothing.
    pub fn ask(&self, world: &mut World, n: u16, plain: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.session.seal_request(n, plain, self.kind.request_len()).unwrap();
        sealed.chunks(RELAY_DATA).for_each(|part| self.data(world, part));
        let mut answer = Vec::new();
        while answer.len() < self.kind.response_len() {
            match world.hear(self.puppet, self.link, self.id)? {
                (Command::Relay, body) => answer.extend_from_slice(RelayMessage::read(&body).unwrap().data),
                _ => return None,
            }
        }
        Some(self.session.open_response(n, &mut answer).unwrap().to_vec())
    }
}
