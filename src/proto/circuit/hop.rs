//! Carrying circuits for others.
//!
//! A hop has a port towards the client and at most one onwards; the last hop has legs to hosts instead. It takes one layer off
//! (outbound) or puts one on (inbound), both by encryption, and cannot tell whether a cell that is not for it makes sense: that is
//! for the next hop to find out. Every failure destroys the circuit, in both directions, without a reason (T10).

mod builds;
mod questions;

pub use questions::Question;

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::StreamId;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::crypto::cgo::RelayLayer;
use crate::crypto::ntor;
use crate::crypto::secret::Secret;
use crate::proto::circuit::pace::Pace;
use crate::proto::circuit::read_handshake;
use crate::proto::circuit::write_handshake;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::PASSING;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::job::Job;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::link::Waiter;
use crate::proto::link::port::Owner;
use crate::proto::memory::Memory;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay::view::View;
use crate::proto::renewal::NodeKeys;
use crate::proto::slab::Key;
use crate::proto::slab::Slab;
use crate::proto::timers::TimerTable;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use crate::wire::cell::RelayCommand;
use crate::wire::cell::RelayMessage;
use crate::wire::cell::TAG;
use crate::wire::codec::Reader;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Most circuit handshakes that one link may have waiting: beyond it creates are refused before any public-key work (T36).
const PENDING_PER_LINK: usize = 256;
/// Most circuit handshakes that may wait in all: a second of work for one core, so that nobody's create waits longer. Shared out by
/// [`Crowd`].
const PENDING_MAX: usize = 4096;
const IDLE_MAX: Duration = limits::CIRCUIT_IDLE_MAX;
/// Idle circuits end on a grid: one wake-up a minute does for all.
const IDLE_GRID: Duration = Duration::from_secs(60);
/// Most circuits that are looked at in one go.
const IDLE_BATCH: usize = 1024;
/// How long the rest waits then: all circuits take five seconds.
const IDLE_REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Next {
    None,
    /// The link to the next relay is being opened; this create goes onto it.
    Dialing(Box<[u8; BODY]>),
    Creating(PortKey),
    Open(PortKey),
}

#[derive(Debug)]
enum Leg {
    /// The link to the host is being opened; these bodies wait. Bounded by the credit of the client's side.
    Waiting(Vec<(Box<[u8; BODY]>, Seat)>),
    Open(PortKey),
    /// Ended while its link is being opened. It keeps its place until that is over, so that beginning and ending again and again
    /// starts no more dials than a circuit has legs (T36).
    Ended,
}

struct Hop {
    prev: PortKey,
    next: Next,
    early_seen: u8,
    begun: u16,
    /// Each that has not ended withholds the credit of the cell that began it, for the one that will tell its end.
    legs: BTreeMap<StreamId, Leg>,
    layer: RelayLayer<BODY>,
    seat: Seat,
    /// When the last cell came, from either side.
    moved: Time,
    /// Of questions about the public view.
    pace: Pace,
}

/// What a circuit holds while its handshake runs.
struct Pending {
    /// Among the circuits.
    seat: Seat,
    /// Among the handshakes.
    turn: Seat,
}

/// All circuits that this relay carries.
pub struct Hops {
    /// Each in a place of its own: a table that grows leaves no copies of keys behind, and is no more than pointers too large.
    hops: Slab<Box<Hop>>,
    seats: Crowd,
    pending: BTreeMap<(LinkId, CircuitId), Pending>,
    turns: Crowd,
    /// Circuits built over links of no known relay.
    builds: builds::Builds,
    waits: Crowd,
    /// When to look whether a circuit is idle: cells only note their time, so that each costs no more than that.
    idle: TimerTable<Key>,
    /// Not before that.
    idle_rest: Time,
}

impl Hops {
    /// None yet, and room for so many. Circuits are shared out by [`Crowd`], by who is on the client's side, and so are cells that wait
    /// for links to hosts: the leg whose cell finds no place ends (T35).
    pub fn new(memory: Memory) -> Self {
        Self {
            hops: Slab::default(),
            seats: Crowd::new(memory.circuits(), STANDING),
            pending: BTreeMap::new(),
            turns: Crowd::new(PENDING_MAX, PASSING),
            builds: builds::Builds::default(),
            waits: Crowd::new(memory.cells_for_hosts(), PASSING),
            idle: TimerTable::default(),
            idle_rest: Time(0),
        }
    }
}

/// What a recognised or relayed cell came to.
enum Verdict {
    Fine,
    /// To be answered.
    Question(Question),
    /// The circuit ends.
    Destroy,
}

/// The tag was this circuit's nonce, and the stream its client's choice: the host sees zeros.
fn blank_for_host(body: &mut [u8; BODY]) {
    let stream = TAG + 1..TAG + 3;
    for (i, b) in body.iter_mut().enumerate().take(TAG + 3) {
        if i < TAG || stream.contains(&i) {
            *b = 0;
        }
    }
}

impl core::fmt::Debug for Hops {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hops").field("hops", &self.hops.len()).finish_non_exhaustive()
    }
}

impl Hops {
    /// How many circuits are carried.
    pub fn len(&self) -> usize {
        self.hops.len()
    }

    /// Whether none is carried.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// Whether one circuit more may be built over this link now: [`builds`] bounds those of each address range. A relay brings circuits
    /// of many people; an identity costs nothing, so only those count as relays whom others have reached
    /// where this link comes from.
    pub(in crate::proto) fn may_build(&mut self, now: Time, links: &Links, view: &View, link: LinkId) -> bool {
        let Some(remote) = links.remote(link) else { return false };
        let known = links.peer(link).and_then(|peer| view.get(&peer));
        known.is_some_and(|relay| relay.prefix() == Prefix::of(&remote)) || self.builds.take(now, &remote)
    }

    /// A create cell: the handshake runs beside the core.
    pub(in crate::proto) fn create(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        keys: &Arc<NodeKeys>,
        link: LinkId,
        circuit: CircuitId,
        body: &[u8; BODY],
    ) {
        let message = read_handshake(body).ok();
        match message.and_then(|message| Some((message, self.admit(links, link, circuit)?))) {
            Some((message, pending)) => {
                self.pending.insert((link, circuit), pending);
                let work = Job::CircuitServer { keys: Arc::clone(keys), message: message.to_vec() };
                ctx.out.job(JobFor::CircuitServer(link, circuit), work);
            }
            None => links.refuse(ctx, link, circuit),
        }
    }

    /// The places of one circuit more, if there are any for this link.
    fn admit(&mut self, links: &Links, link: LinkId, circuit: CircuitId) -> Option<Pending> {
        let of_link = self.pending.range((link, CircuitId(core::num::NonZeroU32::MIN))..).take_while(|((l, _), _)| *l == link);
        if of_link.count() >= PENDING_PER_LINK || self.pending.contains_key(&(link, circuit)) {
            return None;
        }
        let remote = links.remote(link)?;
        let turn = self.turns.enter(&remote)?;
        match self.seats.enter(&remote) {
            Some(seat) => Some(Pending { seat, turn }),
            None => {
                self.turns.leave(turn);
                None
            }
        }
    }

    /// The handshake is done, or did not verify.
    pub(in crate::proto) fn created(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        link: LinkId,
        circuit: CircuitId,
        result: Option<(Vec<u8>, Secret<160>)>,
    ) {
        let Some(Pending { seat, turn }) = self.pending.remove(&(link, circuit)) else { return };
        self.turns.leave(turn);
        let Some((reply, keys)) = result else {
            self.seats.leave(seat);
            return links.refuse(ctx, link, circuit);
        };
        // The port's owner needs the hop's key and the hop its port: the port comes first, with the key that the hop will get.
        let key = self.hops.reserve();
        match links.accept_port(link, circuit, Owner::HopPrev(key)) {
            Some(prev) => {
                let (legs, layer) = (BTreeMap::new(), RelayLayer::new(&keys));
                let hop = Hop {
                    prev,
                    next: Next::None,
                    early_seen: 0,
                    begun: 0,
                    legs,
                    layer,
                    seat,
                    moved: ctx.env.now,
                    pace: Pace::default(),
                };
                self.hops.fill(key, Box::new(hop));
                self.idle.set(key, (ctx.env.now + IDLE_MAX).next_multiple(IDLE_GRID));
                links.send_first(ctx, prev, Command::Created, &write_handshake(&reply));
            }
            None => {
                self.hops.remove(key);
                self.seats.leave(seat);
                links.refuse(ctx, link, circuit);
            }
        }
    }

    /// A relay cell from the client's side. Gives the question that it brought, if it did: see [`Hops::tell`].
    pub(in crate::proto) fn outbound(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        view: &View,
        key: Key,
        early: bool,
        body: &mut [u8; BODY],
    ) -> Option<Question> {
        let hop = self.hops.get_mut(key)?;
        hop.moved = ctx.env.now;
        if early {
            hop.early_seen += 1;
            if hop.early_seen > limits::EARLY_MAX {
                self.destroy(ctx, links, key);
                return None;
            }
        }
        let command = if early { Command::RelayEarly } else { Command::Relay };
        if hop.layer.outbound(command as u8, body) {
            match self.for_us(ctx, links, view, key, early, body) {
                Verdict::Fine => {}
                Verdict::Question(question) => return Some(question),
                Verdict::Destroy => self.destroy(ctx, links, key),
            }
        } else if let Next::Open(next) = hop.next {
            links.send(ctx, next, command, body, Some(hop.prev));
        } else {
            // Noise at the last hop: tampered with, or out of step. Nothing more can ever be recognised.
            self.destroy(ctx, links, key);
        }
        None
    }

    /// A relay cell from the far side, on its way to the client.
    pub(in crate::proto) fn inbound(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, body: &mut [u8; BODY]) {
        if let Some(hop) = self.hops.get_mut(key)
            && let Next::Open(next) = hop.next
        {
            hop.moved = ctx.env.now;
            hop.layer.inbound(Command::Relay as u8, body);
            links.send(ctx, hop.prev, Command::Relay, body, Some(next));
        }
    }

    /// A cell on a leg: from the host to this last hop.
    pub(in crate::proto) fn leg_cell(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        key: Key,
        stream: StreamId,
        port: PortKey,
        body: &mut [u8; BODY],
    ) {
        let Some(hop) = self.hops.get_mut(key) else { return };
        hop.moved = ctx.env.now;
        let end = match RelayMessage::read(body).map(|m| m.command) {
            Ok(RelayCommand::Data) => false,
            Ok(RelayCommand::End) => true,
            // A host has nothing else to say; the leg ends as if the host had gone.
            _ => true,
        };
        if end {
            hop.legs.remove(&stream);
            links.close_port(ctx, port);
            return Self::answer(ctx, links, hop, RelayCommand::End, stream, &[]);
        }
        let [s0, s1] = stream.0.to_be_bytes();
        if let Some([a, b]) = body.get_mut(TAG + 1..TAG + 3) {
            (*a, *b) = (s0, s1);
        }
        hop.layer.originate(Command::Relay as u8, body);
        links.send(ctx, hop.prev, Command::Relay, body, Some(port));
    }

    /// Answers a cell of the client. Its credit is due when the answer leaves, so that nobody has us queue more than we granted
    /// (D6).
    fn answer(ctx: &mut Ctx<'_, '_>, links: &mut Links, hop: &mut Hop, command: RelayCommand, stream: StreamId, data: &[u8]) {
        let due = Some(hop.prev);
        Self::say(ctx, links, hop, command, stream, data, due);
    }

    /// A message to the client. `due`: the port whose credit is due when it leaves.
    fn say(
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        hop: &mut Hop,
        command: RelayCommand,
        stream: StreamId,
        data: &[u8],
        due: Option<PortKey>,
    ) {
        let mut body = [0; BODY];
        RelayMessage { command, stream, data }.write(&mut body);
        hop.layer.originate(Command::Relay as u8, &mut body);
        links.send(ctx, hop.prev, Command::Relay, &body, due);
    }

    /// A message for this hop.
    fn for_us(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        view: &View,
        key: Key,
        early: bool,
        body: &mut [u8; BODY],
    ) -> Verdict {
        let Some(hop) = self.hops.get_mut(key) else { return Verdict::Fine };
        let Ok(message) = RelayMessage::read(body) else { return Verdict::Destroy };
        let stream = message.stream;
        match message.command {
            RelayCommand::Data => match hop.legs.get_mut(&stream) {
                Some(Leg::Open(port)) => {
                    let (port, prev) = (*port, hop.prev);
                    blank_for_host(body);
                    links.send(ctx, port, Command::Relay, body, Some(prev));
                }
                Some(Leg::Waiting(waiting)) => {
                    let remote = links.port_link(hop.prev).and_then(|(link, _)| links.remote(link));
                    match remote.and_then(|remote| self.waits.enter(&remote)) {
                        Some(seat) => waiting.push((Box::new(*body), seat)),
                        None => {
                            links.consumed(ctx, hop.prev);
                            self.leg_gone(ctx, links, key, stream);
                            if let Some(hop) = self.hops.get_mut(key) {
                                hop.legs.insert(stream, Leg::Ended);
                            }
                        }
                    }
                }
                // The leg ended while this was on its way.
                Some(Leg::Ended) | None => links.consumed(ctx, hop.prev),
            },
            RelayCommand::Extend => {
                let mut r = Reader::new(message.data);
                let (Ok(node), create) = (r.array().map(NodeId), r.rest()) else { return Verdict::Destroy };
                let fits = create.len() == ntor::CREATE_LEN && early && matches!(hop.next, Next::None) && hop.legs.is_empty();
                let Some(addr) = view.get(&node).map(|d| d.addr()).filter(|_| fits) else {
                    return Verdict::Destroy;
                };
                hop.next = Next::Dialing(Box::new(write_handshake(create)));
                if let Some(link) = links.lend(ctx, hop.prev, node, addr, Waiter::Extend(key)) {
                    self.link_open(ctx, links, key, link);
                }
            }
            RelayCommand::Begin => {
                let node = Reader::new(message.data).array().map(NodeId);
                let room = hop.legs.len() < limits::CIRCUIT_LEGS && hop.begun < limits::CIRCUIT_BEGINS;
                let room = room && matches!(hop.next, Next::None) && !hop.legs.contains_key(&stream);
                let (Ok(node), true) = (node, room && stream.0 != 0) else { return Verdict::Destroy };
                hop.begun += 1;
                match view.get(&node).map(|d| d.addr()) {
                    Some(addr) => {
                        hop.legs.insert(stream, Leg::Waiting(Vec::new()));
                        if let Some(link) = links.lend(ctx, hop.prev, node, addr, Waiter::Leg(key, stream)) {
                            self.leg_open(ctx, links, key, stream, link);
                        }
                    }
                    None => Self::answer(ctx, links, hop, RelayCommand::End, stream, &[]),
                }
            }
            RelayCommand::End => {
                links.consumed(ctx, hop.prev);
                match hop.legs.remove(&stream) {
                    Some(Leg::Open(port)) => {
                        links.consumed(ctx, hop.prev);
                        links.close_port(ctx, port);
                    }
                    Some(Leg::Waiting(waiting)) => {
                        links.consumed(ctx, hop.prev);
                        for (_, seat) in waiting {
                            links.consumed(ctx, hop.prev);
                            self.waits.leave(seat);
                        }
                        hop.legs.insert(stream, Leg::Ended);
                    }
                    Some(Leg::Ended) => {
                        hop.legs.insert(stream, Leg::Ended);
                    }
                    None => {}
                }
            }
            RelayCommand::Directory => {
                return if hop.may_ask(ctx.env.now, links) {
                    Verdict::Question(Question { stream, bytes: message.data.to_vec() })
                } else {
                    Verdict::Destroy
                };
            }
            RelayCommand::Drop => links.consumed(ctx, hop.prev),
            RelayCommand::Extended | RelayCommand::DirectoryReply => return Verdict::Destroy,
        }
        Verdict::Fine
    }

    /// The link to the next relay is open.
    pub(in crate::proto) fn link_open(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, link: LinkId) {
        let Some(hop) = self.hops.get_mut(key) else { return };
        let Next::Dialing(create) = core::mem::replace(&mut hop.next, Next::None) else { return };
        match links.open_port(link, Owner::HopNext(key)) {
            Some(port) => {
                hop.next = Next::Creating(port);
                links.send_first(ctx, port, Command::Create, &create);
            }
            None => self.destroy(ctx, links, key),
        }
    }

    /// The link to a host is open.
    pub(in crate::proto) fn leg_open(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        key: Key,
        stream: StreamId,
        link: LinkId,
    ) {
        let Some(hop) = self.hops.get_mut(key) else { return };
        let waiting = match hop.legs.get_mut(&stream) {
            Some(Leg::Waiting(waiting)) => core::mem::take(waiting),
            Some(Leg::Ended) => return self.leg_gone(ctx, links, key, stream),
            Some(Leg::Open(_)) | None => return,
        };
        match links.open_port(link, Owner::Leg(key, stream)) {
            Some(port) => {
                hop.legs.insert(stream, Leg::Open(port));
                links.send_first(ctx, port, Command::Leg, &[0; BODY]);
                let prev = hop.prev;
                for (mut body, seat) in waiting {
                    self.waits.leave(seat);
                    blank_for_host(&mut body);
                    links.send(ctx, port, Command::Relay, &body, Some(prev));
                }
            }
            None => {
                hop.legs.insert(stream, Leg::Waiting(waiting));
                self.leg_gone(ctx, links, key, stream);
            }
        }
    }

    /// A host is out of reach, or its leg ended.
    pub(in crate::proto) fn leg_gone(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, stream: StreamId) {
        let Some(hop) = self.hops.get_mut(key) else { return };
        if let Some(leg) = hop.legs.remove(&stream) {
            match leg {
                Leg::Waiting(waiting) => {
                    for (_, seat) in waiting {
                        links.consumed(ctx, hop.prev);
                        self.waits.leave(seat);
                    }
                }
                Leg::Open(_) => {}
                // The client ended it, or was told already.
                Leg::Ended => return,
            }
            Self::answer(ctx, links, hop, RelayCommand::End, stream, &[]);
        }
    }

    /// The next relay answered the create.
    pub(in crate::proto) fn extended(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, body: &[u8; BODY]) {
        let Some(hop) = self.hops.get_mut(key) else { return };
        match (&hop.next, read_handshake(body)) {
            (Next::Creating(port), Ok(reply)) if reply.len() == ntor::CREATED_LEN => {
                hop.next = Next::Open(*port);
                Self::answer(ctx, links, hop, RelayCommand::Extended, StreamId(0), reply);
            }
            _ => self.destroy(ctx, links, key),
        }
    }

    /// Ends a circuit in all directions. Ports that are closed already are left alone.
    pub(in crate::proto) fn destroy(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
        let Some(hop) = self.hops.remove(key) else { return };
        self.idle.stop(&key);
        links.close_port(ctx, hop.prev);
        if let Next::Creating(port) | Next::Open(port) = hop.next {
            links.close_port(ctx, port);
        }
        for leg in hop.legs.into_values() {
            match leg {
                Leg::Open(port) => links.close_port(ctx, port),
                Leg::Waiting(waiting) => waiting.into_iter().for_each(|(_, seat)| self.waits.leave(seat)),
                Leg::Ended => {}
            }
        }
        self.seats.leave(hop.seat);
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.idle.next().map(|(at, _)| (at.max(self.idle_rest), "idle circuits"))
    }

    /// Ends circuits over which nothing moved for long.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        if ctx.env.now < self.idle_rest {
            return;
        }
        for _ in 0..IDLE_BATCH {
            let Some(key) = self.idle.expired(ctx.env.now) else { return };
            let Some(hop) = self.hops.get(key) else { continue };
            let until = hop.moved + IDLE_MAX;
            if until <= ctx.env.now {
                self.destroy(ctx, links, key);
            } else {
                self.idle.set(key, until.next_multiple(IDLE_GRID));
            }
        }
        self.idle_rest = ctx.env.now + IDLE_REST;
    }
}

#[cfg(test)]
mod tests;
