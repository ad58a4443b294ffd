//! Our own circuits: building them hop by hop, and the sealed sessions on their streams.
//!
//! This file knows nothing of documents: it takes a request for a host and gives back the sealed answer, or says that it failed.
//! Which circuit may be used for what is `proto::requests`' to decide.

mod deadlines;
mod load;
mod questions;

use load::in_flight_at_first;

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::StreamId;
use crate::base::Time;
use crate::base::limits;
use crate::crypto::cgo::ClientLayers;
use crate::crypto::keys::HostPublic;
use crate::crypto::ntor;
use crate::crypto::secret::Secret;
use crate::crypto::session::ClientSession;
use crate::proto::circuit::read_handshake;
use crate::proto::circuit::write_handshake;
use crate::proto::job::Job;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::link::Waiter;
use crate::proto::link::port::Owner;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay::view::View;
use crate::proto::slab::Key;
use crate::proto::slab::Slab;
use crate::proto::timers::TimerTable;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use crate::wire::cell::RELAY_DATA;
use crate::wire::cell::RelayCommand;
use crate::wire::cell::RelayMessage;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use deadlines::BUILD_DEADLINE;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;

/// Most streams of one circuit at once: somewhat fewer than a last hop takes legs, for it may still be busy with one that we ended.
const STREAMS_MAX: usize = limits::CIRCUIT_LEGS - 4;
/// Fetches of a session that are still awaited when the next leave, together: so the answers come together too, and five machines
/// wake up once for several.
const FETCHES_LEFT: usize = limits::SESSION_IN_FLIGHT / 4;

/// Names a request of the layer above; given back with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What happened on our own circuits.
#[derive(Debug)]
pub enum OriginEvent {
    /// It stands.
    Built(Key),
    /// It could not be built, or it ended. `hop`: how many hops stood.
    Ended {
        /// Which circuit; its key finds nothing any more.
        key: Key,
        /// Its relays.
        path: [NodeId; limits::HOPS],
        /// Hops that stood; three is a finished circuit.
        hops: usize,
        /// Requests that were on it.
        requests: Vec<RequestId>,
    },
    /// A sealed answer: to be opened with the session under its number, beside the core.
    Answer {
        /// Over which circuit.
        key: Key,
        /// To which request.
        request: RequestId,
        /// Opens it.
        session: ClientSession,
        /// Its number in the session.
        n: u16,
        /// Since when it was under way.
        sent: Time,
        /// Whole cells of it.
        sealed: Vec<u8>,
    },
    /// No answer: the host or its leg is gone, or too slow.
    Failed(RequestId),
    /// What a last hop says to a question about the public view; nothing if it would be too long.
    Told {
        /// Over which circuit.
        key: Key,
        /// As the question was named.
        token: u64,
        /// Its answer.
        answer: Vec<u8>,
    },
}

enum Stage {
    /// The first messages are being made.
    Starting,
    /// The link to the guard is being opened.
    Dialing,
    /// Waiting for the answer of hop number `layers.len()`.
    Waiting,
    /// That answer is being checked.
    Checking,
    Built,
}

struct Stream {
    host: NodeId,
    kind: SessionType,
    session: Option<ClientSession>,
    queued: VecDeque<(RequestId, Vec<u8>)>,
    in_flight: VecDeque<(u16, RequestId, Time)>,
    /// Most requests in flight: see [`limits::SESSION_IN_FLIGHT`].
    window: usize,
    next: u16,
    input: Vec<u8>,
    /// When it last sent something, or was begun.
    moved: Time,
}

impl Stream {
    fn load(&self) -> usize {
        self.queued.len() + self.in_flight.len()
    }

    fn taken(&self) -> usize {
        usize::from(self.next) + self.queued.len()
    }

    fn has_room(&self) -> bool {
        self.taken() < usize::from(limits::SESSION_REQUESTS_MAX)
    }

    fn requests(self) -> impl Iterator<Item = RequestId> {
        self.in_flight.into_iter().map(|(_, id, _)| id).chain(self.queued.into_iter().map(|(id, _)| id))
    }
}

struct Origin {
    path: [NodeId; limits::HOPS],
    stage: Stage,
    port: Option<PortKey>,
    layers: ClientLayers<BODY>,
    /// What is left of the handshakes, next hop first.
    handshakes: VecDeque<(ntor::ClientState, Vec<u8>)>,
    streams: BTreeMap<StreamId, Stream>,
    /// Streams ever.
    begun: u16,
    questions: questions::Questions,
    started: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Build(Key),
    Streams(Key),
    Questions(Key),
}

/// All our own circuits.
pub struct Origins {
    network: NetworkId,
    circuits: Slab<Origin>,
    timers: TimerTable<Timer>,
    events: VecDeque<OriginEvent>,
}

impl core::fmt::Debug for Origins {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Origins").field("circuits", &self.circuits.len()).finish_non_exhaustive()
    }
}

impl Origins {
    /// None yet.
    pub fn new(network: NetworkId) -> Self {
        Self { network, circuits: Slab::default(), timers: TimerTable::default(), events: VecDeque::new() }
    }

    /// How many stand or are being built.
    pub fn len(&self) -> usize {
        self.circuits.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.circuits.is_empty()
    }

    /// The relays of a circuit.
    pub fn path(&self, key: Key) -> Option<[NodeId; limits::HOPS]> {
        self.circuits.get(key).map(|c| c.path)
    }

    /// Whether a circuit stands.
    pub fn is_built(&self, key: Key) -> bool {
        self.circuits.get(key).is_some_and(|c| matches!(c.stage, Stage::Built))
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<OriginEvent> {
        self.events.pop_front()
    }

    /// Starts a circuit over three relays of the view. `None` if one is not in it.
    pub(in crate::proto) fn build(&mut self, ctx: &mut Ctx<'_, '_>, view: &View, path: [NodeId; limits::HOPS]) -> Option<Key> {
        let hops = path.iter().map(|node| Some((*node, view.get(node)?.descriptor().onion_key)));
        let hops = hops.collect::<Option<Vec<_>>>()?;
        let key = self.circuits.insert(Origin {
            path,
            stage: Stage::Starting,
            port: None,
            layers: ClientLayers::new(),
            handshakes: VecDeque::new(),
            streams: BTreeMap::new(),
            begun: 0,
            questions: questions::Questions::default(),
            started: ctx.env.now,
        });
        self.timers.set(Timer::Build(key), ctx.env.now + BUILD_DEADLINE);
        ctx.out.job(JobFor::CircuitStart(key), Job::CircuitStart { network: self.network, hops });
        Some(key)
    }

    /// The first messages for all hops are made: the guard is next.
    pub(in crate::proto) fn started(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        view: &View,
        key: Key,
        handshakes: Option<Vec<(ntor::ClientState, Vec<u8>)>>,
    ) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        let [guard, ..] = circuit.path;
        let (Some(handshakes), Some(addr)) = (handshakes, view.get(&guard).map(|d| d.addr())) else {
            return self.end(ctx, links, key);
        };
        circuit.handshakes = handshakes.into();
        circuit.stage = Stage::Dialing;
        if let Some(link) = links.want(ctx, guard, addr, Waiter::Origin(key)) {
            self.link_open(ctx, links, key, link);
        }
    }

    /// The link to the guard is open.
    pub(in crate::proto) fn link_open(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, link: crate::base::LinkId) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        match (links.open_port(link, Owner::Origin(key)), circuit.handshakes.front()) {
            (Some(port), Some((_, message))) => {
                links.send_first(ctx, port, Command::Create, &write_handshake(message));
                circuit.port = Some(port);
                circuit.stage = Stage::Waiting;
            }
            _ => self.end(ctx, links, key),
        }
    }

    /// The guard answered the create.
    pub(in crate::proto) fn created(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, body: &[u8; BODY]) {
        match read_handshake(body) {
            Ok(reply) => self.reply(ctx, links, key, reply),
            Err(_) => self.end(ctx, links, key),
        }
    }

    fn reply(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, reply: &[u8]) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        match (&circuit.stage, circuit.handshakes.pop_front()) {
            (Stage::Waiting, Some((state, _))) => {
                circuit.stage = Stage::Checking;
                ctx.out.job(JobFor::CircuitReply(key), Job::CircuitReply { state: Box::new(state), reply: reply.to_vec() });
            }
            _ => self.end(ctx, links, key),
        }
    }

    /// A hop's answer was checked: one layer more.
    pub(in crate::proto) fn replied(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, keys: Option<Secret<160>>) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        let Some(keys) = keys else { return self.end(ctx, links, key) };
        circuit.layers.push(&keys);
        let standing = circuit.layers.len();
        match (circuit.path.get(standing), circuit.handshakes.front()) {
            (Some(next), Some((_, message))) => {
                let data = [next.as_ref(), message].concat();
                circuit.stage = Stage::Waiting;
                circuit.say(ctx, links, Command::RelayEarly, RelayCommand::Extend, StreamId(0), &data);
            }
            _ => {
                circuit.stage = Stage::Built;
                self.timers.stop(&Timer::Build(key));
                self.events.push_back(OriginEvent::Built(key));
            }
        }
    }

    /// A relay cell arrived at the client.
    pub(in crate::proto) fn inbound(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, body: &mut [u8; BODY]) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        if let Some(port) = circuit.port {
            links.consumed(ctx, port);
        }
        let standing = circuit.layers.len();
        // Only the last hop may speak. Anything else, or noise, is tampering: the circuit ends.
        let recognised = circuit.layers.receive(Command::Relay as u8, body) == standing.checked_sub(1) && standing > 0;
        let Some(message) = RelayMessage::read(body).ok().filter(|_| recognised) else {
            return self.end(ctx, links, key);
        };
        match message.command {
            RelayCommand::Extended => self.reply(ctx, links, key, message.data),
            RelayCommand::Data => self.data(ctx, links, key, message.stream, message.data),
            RelayCommand::End => self.stream_ended(message.stream, key),
            RelayCommand::DirectoryReply => self.told(ctx, links, key, message.stream, message.data),
            RelayCommand::Drop => {}
            RelayCommand::Extend | RelayCommand::Begin | RelayCommand::Directory => self.end(ctx, links, key),
        }
    }

    fn data(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, stream: StreamId, data: &[u8]) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        // A stream that we ended may still have answers on their way.
        let Some(s) = circuit.streams.get_mut(&stream) else { return };
        let want = s.kind.response_len();
        let (Some(session), true) = (&s.session, data.len() == RELAY_DATA && !s.in_flight.is_empty()) else {
            return self.end_stream(ctx, links, key, stream);
        };
        if s.input.capacity() == 0 {
            s.input.reserve_exact(want);
        }
        s.input.extend_from_slice(data);
        if s.input.len() >= want {
            let sealed = core::mem::take(&mut s.input);
            if let Some((n, request, sent)) = s.in_flight.pop_front() {
                self.events.push_back(OriginEvent::Answer { key, request, session: session.clone(), n, sent, sealed });
            }
            if circuit.port.is_some_and(|port| links.leaving(port).is_none()) {
                s.window = (s.window + 1).min(limits::SESSION_IN_FLIGHT);
            }
            if s.load() == 0 && !s.has_room() {
                // Used up and answered: it has nothing more to say.
                return self.end_stream(ctx, links, key, stream);
            }
            self.pump(ctx, links, key, stream);
        }
    }

    /// Sends a request to a host, on a session that is open or on a new one. The circuit must stand.
    #[expect(clippy::too_many_arguments, reason = "the parts of the core that it works on are lent one by one")]
    pub(in crate::proto) fn request(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        view: &View,
        key: Key,
        host: NodeId,
        kind: SessionType,
        request: RequestId,
        plain: Vec<u8>,
    ) {
        if !self.takes(key, &host, kind) {
            return self.events.push_back(OriginEvent::Failed(request));
        }
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        let open = circuit.streams.iter_mut().find(|(_, s)| s.host == host && s.kind == kind && s.has_room());
        let stream = match open {
            Some((id, _)) => *id,
            None => {
                let Some(host_key) = view.get(&host).and_then(|d| d.descriptor().host_key.as_ref()) else {
                    return self.events.push_back(OriginEvent::Failed(request));
                };
                // One that waits for nothing makes room.
                if circuit.streams.len() >= STREAMS_MAX
                    && let Some(id) = circuit.streams.iter().find(|(_, s)| s.load() == 0).map(|(id, _)| *id)
                {
                    circuit.streams.remove(&id);
                    circuit.say(ctx, links, Command::Relay, RelayCommand::End, id, &[]);
                }
                circuit.begun += 1;
                let id = loop {
                    let id = StreamId(ctx.env.rng.random_range(1..=u16::MAX));
                    if !circuit.streams.contains_key(&id) {
                        break id;
                    }
                };
                circuit.streams.insert(
                    id,
                    Stream {
                        host,
                        kind,
                        session: None,
                        queued: VecDeque::new(),
                        in_flight: VecDeque::new(),
                        window: in_flight_at_first(kind),
                        next: 0,
                        input: Vec::new(),
                        moved: ctx.env.now,
                    },
                );
                let key_of_host = HostPublic { id: host_key.id, x25519: host_key.x25519, mlkem: host_key.mlkem.clone() };
                let work = Job::SessionOpen { network: self.network, host, key: Box::new(key_of_host), kind };
                ctx.out.job(JobFor::SessionOpen(key, id), work);
                id
            }
        };
        if let Some(s) = circuit.streams.get_mut(&stream) {
            s.queued.push_back((request, plain));
        }
        self.timers.set_if_unset(Timer::Streams(key), Self::next_look(ctx));
        self.pump(ctx, links, key, stream);
    }

    /// A session's opening message is made.
    pub(in crate::proto) fn session_open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        key: Key,
        stream: StreamId,
        opened: Option<(ClientSession, Vec<u8>)>,
    ) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        match opened {
            Some((session, message)) => {
                let Some(s) = circuit.streams.get_mut(&stream) else { return };
                s.session = Some(session);
                let host = s.host;
                // Not before: what is sent meanwhile would stand between the two, and a host does not keep a leg for long on which
                // nothing is opened.
                circuit.say(ctx, links, Command::Relay, RelayCommand::Begin, stream, host.as_ref());
                circuit.say(ctx, links, Command::Relay, RelayCommand::Data, stream, &message);
                self.pump(ctx, links, key, stream);
            }
            None => self.stream_ended(stream, key),
        }
    }

    /// Ends the streams of a circuit on which one of these requests is: its host is not waited for any longer. What else it was
    /// asked fails as well, for a host answers in order. Says which hosts.
    pub(in crate::proto) fn give_up(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        key: Key,
        requests: &BTreeSet<RequestId>,
    ) -> Vec<NodeId> {
        let Some(circuit) = self.circuits.get(key) else { return Vec::new() };
        let on = |s: &Stream| s.in_flight.iter().any(|(_, id, _)| requests.contains(id));
        let given_up: Vec<_> = circuit.streams.iter().filter(|(_, s)| on(s)).map(|(id, s)| (*id, s.host)).collect();
        for (stream, _) in &given_up {
            self.end_stream(ctx, links, key, *stream);
        }
        given_up.into_iter().map(|(_, host)| host).collect()
    }

    /// Sends what a stream may send.
    fn pump(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, stream: StreamId) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        if circuit.streams.get(&stream).is_some_and(|s| s.kind.kind == Kind::Fetch && s.in_flight.len() > FETCHES_LEFT) {
            return;
        }
        while let Some(s) = circuit.streams.get_mut(&stream) {
            let Some(session) = &s.session else { return };
            if s.in_flight.len() >= s.window || s.next >= limits::SESSION_REQUESTS_MAX {
                return;
            }
            let Some((request, plain)) = s.queued.pop_front() else { return };
            let n = s.next;
            match session.seal_request(n, &plain, s.kind.request_len()) {
                Ok(sealed) => {
                    s.next += 1;
                    s.moved = ctx.env.now;
                    s.in_flight.push_back((n, request, ctx.env.now));
                    for data in sealed.chunks(RELAY_DATA) {
                        circuit.say(ctx, links, Command::Relay, RelayCommand::Data, stream, data);
                    }
                }
                Err(_) => self.events.push_back(OriginEvent::Failed(request)),
            }
        }
    }

    /// The last hop says that a stream is over.
    fn stream_ended(&mut self, stream: StreamId, key: Key) {
        if let Some(s) = self.circuits.get_mut(key).and_then(|c| c.streams.remove(&stream)) {
            self.events.extend(s.requests().map(OriginEvent::Failed));
        }
    }

    /// A stream makes no sense, is too slow or used up: it ends, the circuit goes on.
    fn end_stream(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, stream: StreamId) {
        if let Some(circuit) = self.circuits.get_mut(key)
            && circuit.streams.get(&stream).is_some_and(|s| s.session.is_some())
        {
            circuit.say(ctx, links, Command::Relay, RelayCommand::End, stream, &[]);
        }
        self.stream_ended(stream, key);
    }

    /// Ends a circuit, and tells the guard if it knows it.
    pub(in crate::proto) fn end(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
        if let Some(circuit) = self.circuits.remove(key) {
            self.timers.stop(&Timer::Build(key));
            self.timers.stop(&Timer::Streams(key));
            self.timers.stop(&Timer::Questions(key));
            if let Some(port) = circuit.port {
                links.close_port(ctx, port);
            }
            self.events.push_back(OriginEvent::Ended {
                key,
                path: circuit.path,
                hops: circuit.layers.len(),
                requests: circuit.streams.into_values().flat_map(Stream::requests).collect(),
            });
        }
    }

    /// A circuit that stands, over a link as if to its guard, and has begun so many streams.
    #[cfg(test)]
    pub(in crate::proto) fn stand(&mut self, links: &mut Links, link: crate::base::LinkId, begun: u16) -> Key {
        let key = self.circuits.reserve();
        let mut layers = ClientLayers::new();
        (0..limits::HOPS).for_each(|_| layers.push(&Secret::new([3; 160])));
        let circuit = Origin {
            path: [NodeId([251; 32]), NodeId([252; 32]), NodeId([253; 32])],
            stage: Stage::Built,
            port: links.open_port(link, Owner::Origin(key)),
            layers,
            handshakes: VecDeque::new(),
            streams: BTreeMap::new(),
            begun,
            questions: questions::Questions::default(),
            started: Time(0),
        };
        self.circuits.fill(key, circuit);
        key
    }

    /// How long a circuit has stood or been built.
    pub fn age(&self, key: Key, now: Time) -> Duration {
        self.circuits.get(key).map_or(Duration::ZERO, |c| now.since(c.started))
    }
}

impl Origin {
    /// Sends a message to the last hop that stands.
    fn say(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        command: Command,
        relay: RelayCommand,
        stream: StreamId,
        data: &[u8],
    ) {
        if let (Some(port), Some(hop)) = (self.port, self.layers.len().checked_sub(1)) {
            let mut body = [0; BODY];
            RelayMessage { command: relay, stream, data }.write(&mut body);
            self.layers.originate(hop, command as u8, &mut body);
            links.send(ctx, port, command, &body, None);
        }
    }
}

#[cfg(test)]
mod tests;
