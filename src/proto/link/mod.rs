//! Links: who is at the other end, and the way of cells onto them.
//!
//! A link goes `Dialing -> Hello -> Open`. In `Hello`, each end sends its first cell (`wire::hello`); a relay's proof is checked
//! beside the core. A dialler insists on a relay's proof; an accepted link may also be a client's, of whom nothing is known or
//! asked (D2). Every failure ends the link the same silent way.

mod budget;
mod credit;
mod dial;
mod flow;
mod handshake;
mod overlay;
pub mod port;
mod probe;
#[cfg(test)]
mod tests;

pub use flow::Arrived;
pub use port::Owner;
pub use port::PortKey;

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::crypto::keys::IdentityKey;
use crate::proto::Output;
use crate::proto::crowd::ALONE;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::PASSING;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::memory::Memory;
use crate::proto::out::Ctx;
use crate::proto::slab::Slab;
use crate::proto::timers::TimerTable;
use crate::wire::cell::BODY;
use crate::wire::cell::CELL;
use crate::wire::cell::Command;
use crate::wire::hello::Proof;
use bytes::BytesMut;
use port::Port;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bit that the core sets in the ids of links it dials, so that they never meet the shell's ids of accepted ones.
pub const DIALED_BIT: u64 = 1 << 63;
/// Most circuits of one link: what an honest relay of a 20,000-relay network may need, and 40 MiB of state at the very most.
const CIRCUITS_MAX: usize = 16_384;
/// Most circuits of a link without an identity: whoever opens such a link has proved nothing, and an honest client's guard carries
/// its spare circuits and those of twenty operations at once. So a few links cannot take all the circuits that a relay carries
/// (T36).
const CIRCUITS_OF_CLIENT_MAX: usize = 512;
/// Cells that may arrive while the other end's proof is being checked.
const EARLY_CELLS_MAX: usize = 64;
/// Machines that may wait for one link to open.
const WAITERS_MAX: usize = 1024;
/// Most links being dialled for the circuits of others: a network's usual comings and goings, and not a dialler for whoever asks.
/// Shared out by [`Crowd`], by who is on the client's side (T36).
const LENT_DIALS_MAX: usize = 128;
/// A link with nothing on it is closed after this long.
const IDLE: Duration = Duration::from_secs(120);
/// A link is deaf when nothing came for so much longer than the other end lets it be quiet: it looks once a second, and the way
/// takes time.
const DEAF_AFTER: Duration = Duration::from_millis(2_500);
/// A link on which nothing arrived for this long is dead: both ends pad more often than that.
const DEAD: Duration = Duration::from_secs(90);

/// A link whose transport takes nothing for this long is closed, as a circuit without credit is: what waits for it is memory that
/// its peer holds (T35). A batch has at most half a megabyte, so a link of 10 KB/s still passes.
const UNSENT_MAX: Duration = limits::STALL_DEADLINE;

/// Something that waits for a link to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A circuit that extends over it.
    Extend(crate::proto::slab::Key),
    /// A last hop's leg.
    Leg(crate::proto::slab::Key, crate::base::StreamId),
    /// A circuit of our own, to its guard.
    Origin(crate::proto::slab::Key),
    /// The overlay machine, under its own token.
    Overlay(u64),
}

#[derive(Debug)]
enum Stage {
    Dialing,
    Hello { sent: bool, checked: Option<Option<Proof>>, checking: bool, early: Vec<BytesMut> },
    Open,
}

#[derive(Debug)]
struct Link {
    stage: Stage,
    dialed: bool,
    expect: Option<NodeId>,
    remote: SocketAddr,
    exporter: [u8; 32],
    peer: Option<NodeId>,
    pinned: bool,
    waiters: Vec<Waiter>,
    began: Time,
    /// Whether its handshake was found to be late, and whether it is the second dial for the same waiters.
    late: bool,
    again: bool,
    circuits: BTreeMap<u32, PortKey>,
    next_circuit: u32,
    batch: BytesMut,
    dirty: bool,
    in_flight: usize,
    /// Cells that its transport has taken so far.
    taken: u64,
    ready: VecDeque<PortKey>,
    /// Circuits and legs of whose end it is to be told.
    ending: VecDeque<CircuitId>,
    owed: Vec<PortKey>,
    inbox: overlay::Inbox,
    outbox: overlay::Outbox,
    used: Time,
    received: Time,
    sent: Time,
    probe: probe::Probe,
    /// When its ports were last looked over for credit that lies unused.
    looked_over: Time,
    /// How often, modulo how often the other end's part is looked at.
    looks: u8,
}

/// What a link tells the core when its state changes.
#[derive(Debug)]
pub enum LinkEvent {
    /// It is open; these have waited for it.
    Open {
        /// Which link.
        link: LinkId,
        /// The relay at the other end; `None` is a client.
        peer: Option<NodeId>,
        /// That relay's clock.
        clock: Option<Wall>,
        /// Where it is.
        remote: SocketAddr,
        /// Whether we dialled.
        dialed: bool,
        /// Cells that came right behind the handshake.
        early: Vec<BytesMut>,
        /// In the order they came.
        waiters: Vec<Waiter>,
    },
    /// Circuits of our own wait for a link that does not open, and nobody else was heard meanwhile.
    Late {
        /// The relay that was dialled.
        peer: NodeId,
    },
    /// It is gone. Its ports are closed already; their owners are listed.
    Down {
        /// Which link.
        link: LinkId,
        /// Machines that had a port on it.
        owners: Vec<Owner>,
        /// Machines that waited for it.
        waiters: Vec<Waiter>,
        /// The relay it was to, if known or expected. `None` too for whoever was refused a dial.
        peer: Option<NodeId>,
        /// Whether it ever was open.
        was_open: bool,
        /// Whether it ended because the other end did not answer when it was asked.
        silent: bool,
        /// When it was dialled, or came.
        began: Time,
        /// Where circuits of our own waited for it: when something last came from any other relay that we dialled.
        others: Option<Time>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LinkTimer {
    Handshake(LinkId),
    Credit(LinkId),
    Keep(LinkId),
    /// Set while the other end is asked whether it is there.
    Probe(LinkId),
    /// Set while cells are with the transport.
    Unsent(LinkId),
    Stall(PortKey),
}

/// All links of a node, and all ports on them.
#[derive(Debug)]
pub struct Links {
    network: NetworkId,
    identity: Option<Arc<IdentityKey>>,
    links: BTreeMap<LinkId, Link>,
    by_node: BTreeMap<NodeId, LinkId>,
    /// Links being dialled because a circuit of others wants them.
    lent_dials: BTreeMap<LinkId, Seat>,
    lent_seats: Crowd,
    ports: Slab<Port>,
    timers: TimerTable<LinkTimer>,
    /// Buffers of queued cells, kept for reuse.
    #[expect(clippy::vec_box, reason = "cells of 2 KiB move between the queues and here without a copy")]
    spare: Vec<Box<[u8; CELL]>>,
    queued: usize,
    memory: Memory,
    /// What links held when that was counted, and all that was added since.
    held_at_most: usize,
    /// Credit granted beyond the first window of each port, in quanta.
    promised: Crowd,
    dirty: Vec<LinkId>,
    next_link: u64,
    events: VecDeque<LinkEvent>,
    /// Ports whose circuits must die: stalled, or over the budget.
    doomed: Vec<Owner>,
}

impl Links {
    /// No links yet. A relay gives its identity; a client has none.
    pub fn new(network: NetworkId, identity: Option<Arc<IdentityKey>>, memory: Memory) -> Self {
        // A client's links are all its own: nobody takes anything from anybody.
        let part = if identity.is_some() { STANDING } else { ALONE };
        Self {
            network,
            identity,
            links: BTreeMap::new(),
            by_node: BTreeMap::new(),
            lent_dials: BTreeMap::new(),
            lent_seats: Crowd::new(LENT_DIALS_MAX, PASSING),
            ports: Slab::default(),
            timers: TimerTable::default(),
            spare: Vec::new(),
            queued: 0,
            memory,
            held_at_most: 0,
            promised: Crowd::new(credit::promised_max(memory), part),
            dirty: Vec::new(),
            next_link: 0,
            events: VecDeque::new(),
            doomed: Vec::new(),
        }
    }

    /// How many links are open.
    pub fn open_count(&self) -> usize {
        self.links.values().filter(|l| matches!(l.stage, Stage::Open)).count()
    }

    /// The relay at the other end of an open link.
    pub fn peer(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link)?.peer
    }

    /// The address at the other end of a link.
    pub fn remote(&self, link: LinkId) -> Option<SocketAddr> {
        Some(self.links.get(&link)?.remote)
    }

    /// An open link to this relay.
    pub fn open_link(&self, node: &NodeId) -> Option<LinkId> {
        let id = *self.by_node.get(node)?;
        matches!(self.links.get(&id)?.stage, Stage::Open).then_some(id)
    }

    /// Keeps a link open although nothing is on it (guard and directory links of a client).
    pub fn pin(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.pinned = true;
        }
    }

    /// The overlay plane has no more use for a link: it closes unless something else is on it.
    pub(super) fn release(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let unused = self.links.get(&id).is_some_and(|l| !l.pinned && l.circuits.is_empty() && l.waiters.is_empty());
        if unused {
            self.close(ctx, id);
        }
    }

    /// Ends a link: the shell closes it, and [`LinkEvent::Down`] tells the rest.
    pub(super) fn close(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        if self.links.contains_key(&id) {
            self.flush_one(ctx, id);
            ctx.out.push(Output::Close { link: id });
            self.down(ctx, id);
        }
    }

    /// The link is gone.
    pub(super) fn down(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.remove(&id) else { return };
        self.lent_over(id);
        let node = link.peer.or(link.expect);
        if let Some(node) = node
            && self.by_node.get(&node) == Some(&id)
        {
            self.by_node.remove(&node);
            let other = self.links.iter().find(|(_, l)| l.peer == Some(node) && matches!(l.stage, Stage::Open));
            if let Some((other, _)) = other {
                self.by_node.insert(node, *other);
            }
        }
        self.timers.stop(&LinkTimer::Handshake(id));
        self.timers.stop(&LinkTimer::Credit(id));
        self.timers.stop(&LinkTimer::Keep(id));
        self.timers.stop(&LinkTimer::Probe(id));
        self.timers.stop(&LinkTimer::Unsent(id));
        let owners = link.circuits.values().filter_map(|key| self.drop_port(ctx, *key)).collect();
        let was_open = matches!(link.stage, Stage::Open);
        let silent = link.probe.failed();
        let began = link.began;
        let others = if link.awaits_circuit() { self.heard_others(node) } else { None };
        self.events.push_back(LinkEvent::Down {
            link: id,
            owners,
            waiters: link.waiters,
            peer: node,
            was_open,
            silent,
            began,
            others,
        });
    }

    /// The next thing that happened to a link.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// The next circuit that must die because it stalled or broke the budget.
    pub fn poll_doomed(&mut self) -> Option<Owner> {
        self.doomed.pop()
    }

    /// Whether a job's result still matters.
    pub fn knows(&self, id: LinkId) -> bool {
        self.links.contains_key(&id)
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.timers.next().map(|(at, timer)| {
            let why = match timer {
                LinkTimer::Handshake(_) => "link handshake",
                LinkTimer::Credit(_) => "credit tick",
                LinkTimer::Keep(_) => "keep-alive",
                LinkTimer::Probe(_) => "silent link",
                LinkTimer::Unsent(_) => "stalled link",
                LinkTimer::Stall(_) => "stalled circuit",
            };
            (at, why)
        })
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, ctx: &mut Ctx<'_, '_>) {
        while let Some(timer) = self.timers.expired(ctx.env.now) {
            match timer {
                LinkTimer::Handshake(id) => self.handshake_late(ctx, id),
                LinkTimer::Unsent(id) => self.close(ctx, id),
                LinkTimer::Credit(id) => self.grant(ctx, id),
                LinkTimer::Keep(id) => self.keep(ctx, id),
                LinkTimer::Probe(id) => self.unanswered(ctx, id),
                LinkTimer::Stall(port) => {
                    if let Some(port) = self.ports.get(port).filter(|p| p.credit == 0 && !p.queue.is_empty()) {
                        self.doomed.push(port.owner);
                    }
                }
            }
        }
    }

    /// Pads a quiet link, closes an unused or dead one.
    fn keep(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let now = ctx.env.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        link.mark(now);
        let unused = !link.pinned && link.circuits.is_empty() && now.since(link.used) > IDLE;
        if unused || now.since(link.received) > DEAD {
            return self.close(ctx, id);
        }
        let quiet = now.since(link.sent) >= Duration::from_secs(1);
        self.look_over(ctx, id);
        if quiet {
            self.push_control(ctx, id, Command::Padding, &[0; BODY]);
        }
        self.schedule_keep(ctx, id);
    }

    /// Client links pad at the larger of two draws from 1.5-9.5 s, which beats the 10-15 s idle timeouts of flow records
    /// (padding-spec 2). Links between relays only show that they live.
    fn schedule_keep(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let (least, most) = self.padding_of(link);
        let mut draw = || ctx.env.rng.random_range(least..most);
        let after = if self.is_of_client(link) { draw().max(draw()) } else { draw() };
        self.timers.set(LinkTimer::Keep(id), ctx.env.now + after);
    }

    const fn is_of_client(&self, link: &Link) -> bool {
        self.identity.is_none() || link.peer.is_none()
    }

    /// The least and the most time for which both ends of a link let it be quiet.
    const fn padding_of(&self, link: &Link) -> (Duration, Duration) {
        if self.is_of_client(link) {
            (Duration::from_millis(1_500), Duration::from_millis(9_500))
        } else {
            (Duration::from_secs(20), Duration::from_secs(40))
        }
    }

    /// An open link that the other end dialled, without its handshake.
    #[cfg(test)]
    pub(in crate::proto) fn open_unshaken(&mut self, id: LinkId, peer: Option<NodeId>) {
        self.open_unshaken_from(id, peer, SocketAddr::from(([203, 0, 113, 7], 9)));
    }

    /// The same, from some address.
    #[cfg(test)]
    pub(in crate::proto) fn open_unshaken_from(&mut self, id: LinkId, peer: Option<NodeId>, remote: SocketAddr) {
        let mut link = Link::new(remote, false, None, Time(0));
        (link.stage, link.peer) = (Stage::Open, peer);
        self.links.insert(id, link);
    }

    /// Checks what must always hold. For tests and the simulator.
    #[doc(hidden)]
    pub fn check(&self) {
        let (mut queued, mut promised) = (0, 0);
        for (key, port) in self.ports.iter() {
            assert!(port.granted <= port.window && port.window <= limits::WINDOW_MAX);
            assert_eq!(port.window, limits::WINDOW_MIN + port.seat.places() as u32 * limits::CREDIT_QUANTUM);
            promised += port.seat.places();
            let link = self.links.get(&port.link);
            assert!(link.is_some_and(|l| l.circuits.get(&port.circuit.get()) == Some(&key)), "a port without its link");
            queued += port.queue.len();
        }
        assert_eq!((queued, promised), (self.queued, self.promised.taken()));
    }
}

impl Link {
    fn new(remote: SocketAddr, dialed: bool, expect: Option<NodeId>, now: Time) -> Self {
        Self {
            stage: Stage::Dialing,
            dialed,
            expect,
            remote,
            exporter: [0; 32],
            peer: None,
            pinned: false,
            waiters: Vec::new(),
            circuits: BTreeMap::new(),
            next_circuit: 0,
            batch: BytesMut::new(),
            dirty: false,
            in_flight: 0,
            taken: 0,
            ready: VecDeque::new(),
            ending: VecDeque::new(),
            owed: Vec::new(),
            inbox: overlay::Inbox::default(),
            outbox: overlay::Outbox::default(),
            used: now,
            began: now,
            late: false,
            again: false,
            received: now,
            sent: now,
            probe: probe::Probe::new(now),
            looked_over: now,
            looks: 0,
        }
    }

    /// Most circuits that the other end may open here.
    fn circuits_max(&self) -> usize {
        if self.peer.is_some() { CIRCUITS_MAX } else { CIRCUITS_OF_CLIENT_MAX }
    }

    /// Whether so much waits for the transport that the link's own cells should wait too.
    fn is_behind(&self) -> bool {
        self.out_now() > limits::LINK_IN_FLIGHT + limits::LINK_CONTROL_MAX / 2
    }

    fn room(&self) -> bool {
        self.out_now() < limits::LINK_IN_FLIGHT
    }

    /// Cells that its transport has not taken yet, those in the batch included.
    fn out_now(&self) -> usize {
        self.in_flight + self.batch.len() / CELL
    }

    /// Cells ever given to its transport, those in the batch included.
    fn out(&self) -> u64 {
        self.taken + self.out_now() as u64
    }
}
