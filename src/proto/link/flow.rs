//! The way of cells: from a batch that arrived to the machine they belong to, and from a machine into the next batch.
//!
//! A relay never holds more cells than it granted (D6): a cell that cannot leave at once waits in its port's queue, and its source
//! is owed a credit only when it has left. Nothing here allocates per cell while links keep up.

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::Output;
use crate::proto::link::CIRCUITS_MAX;
use crate::proto::link::DEAF_AFTER;
use crate::proto::link::EARLY_CELLS_MAX;
use crate::proto::link::Link;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::Owner;
use crate::proto::link::PortKey;
use crate::proto::link::Stage;
use crate::proto::link::UNSENT_MAX;
use crate::proto::link::port::Port;
use crate::proto::link::port::Queued;
use crate::proto::out::Ctx;
use crate::wire::cell;
use crate::wire::cell::BODY;
use crate::wire::cell::CELL;
use crate::wire::cell::Command;
use crate::wire::cell::Header;
use bytes::BytesMut;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Room for this many cells is made at a time in a link's batch.
const BATCH_CELLS: usize = 30;
/// Most cells in one port's queue: three legs and a circuit may end in one port, each with the largest window.
const QUEUE_MAX: usize = 4 * limits::WINDOW_MAX as usize;
/// Most ends of circuits that wait for room on a link: of all that the other end may open, and of as many as it opens beyond that.
const ENDING_MAX: usize = 2 * CIRCUITS_MAX;
/// Places for cells that an emptied queue keeps: an idle circuit holds nothing for the crowd that once waited in it (T35).
const QUEUE_KEPT: usize = 16;
/// Most buffers of queued cells that are kept for reuse.
const SPARE_MAX: usize = 1024;

/// What a cell turned out to be. Everything else was dealt with.
#[derive(Debug)]
pub enum Arrived {
    /// Nothing for the core.
    Nothing,
    /// A relay cell on a port; its body is in the cell.
    Relay {
        /// Where it came in.
        port: PortKey,
        /// Whose it is.
        owner: Owner,
        /// Whether it may carry an extend.
        early: bool,
    },
    /// Someone wants a circuit.
    Create {
        /// Under this id.
        circuit: CircuitId,
    },
    /// The answer to our create.
    Created {
        /// Whose circuit.
        owner: Owner,
    },
    /// A last hop wants a leg.
    Leg {
        /// Under this id.
        circuit: CircuitId,
    },
    /// A circuit ended; its port is closed.
    Destroyed {
        /// Whose it was.
        owner: Owner,
    },
    /// A whole message of the overlay plane.
    Overlay(Vec<u8>),
}

impl Links {
    /// Sorts a batch that arrived: gives it back when the link is open and the core is to go through its cells.
    pub(in crate::proto) fn batch(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, mut cells: BytesMut) -> Option<BytesMut> {
        self.heard(ctx.env.now, id, cells.len() / CELL);
        let link = self.links.get_mut(&id)?;
        let (hello_due, waits) = match &link.stage {
            Stage::Open => return Some(cells),
            Stage::Dialing => (false, 0),
            Stage::Hello { checked, checking, early, .. } => {
                (checked.is_none() && !checking, early.iter().map(BytesMut::len).sum::<usize>() / CELL)
            }
        };
        if waits + cells.len() / CELL > EARLY_CELLS_MAX || cells.len() < CELL {
            self.close(ctx, id);
            return None;
        }
        if hello_due {
            let first = cells.split_to(CELL);
            match first.first_chunk::<CELL>().map(|c| (Header::read(c), cell::body(c))) {
                Some((Ok(Header { command: Command::Hello, .. }), body)) => self.on_hello(ctx, id, body),
                _ => self.close(ctx, id),
            }
        }
        if let Some(link) = self.links.get_mut(&id)
            && !cells.is_empty()
        {
            self.held_at_most += cells.len();
            match &mut link.stage {
                Stage::Hello { early, .. } => early.push(cells),
                Stage::Open => {
                    // Opened by this very hello: the event with the early cells is still queued, so these go behind it.
                    if let Some(crate::proto::link::LinkEvent::Open { early, .. }) = self.events.back_mut() {
                        early.push(cells);
                    }
                }
                Stage::Dialing => self.close(ctx, id),
            }
        }
        None
    }

    /// One cell of an open link. A violation of the protocol closes the link.
    pub(in crate::proto) fn arrived(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, cell: &[u8; CELL]) -> Arrived {
        let Ok(header) = Header::read(cell) else {
            self.close(ctx, id);
            return Arrived::Nothing;
        };
        let Some(link) = self.links.get_mut(&id) else { return Arrived::Nothing };
        let port = header.circuit.and_then(|c| link.circuits.get(&c.get()).copied());
        match (header.command, header.circuit) {
            (Command::Relay | Command::RelayEarly, _) => {
                let Some((key, port)) = port.and_then(|key| Some((key, self.ports.get_mut(key)?))) else {
                    // The circuit ended while this cell was on its way.
                    return Arrived::Nothing;
                };
                if port.granted == 0 {
                    self.close(ctx, id);
                    return Arrived::Nothing;
                }
                port.granted -= 1;
                port.moved = port.moved.saturating_add(1);
                link.used = ctx.env.now;
                Arrived::Relay { port: key, owner: port.owner, early: header.command == Command::RelayEarly }
            }
            (Command::Create | Command::Leg, Some(circuit)) => {
                let theirs = (circuit.get() >> 31 == 1) != link.dialed;
                if port.is_some() || !theirs {
                    self.close(ctx, id);
                    return Arrived::Nothing;
                }
                if link.circuits.len() >= link.circuits_max() {
                    self.refuse(ctx, id, circuit);
                    return Arrived::Nothing;
                }
                link.used = ctx.env.now;
                if header.command == Command::Create { Arrived::Create { circuit } } else { Arrived::Leg { circuit } }
            }
            (Command::Created, _) => match port.and_then(|key| self.ports.get(key)) {
                Some(port) => Arrived::Created { owner: port.owner },
                None => Arrived::Nothing,
            },
            (Command::Destroy, _) => match port.and_then(|key| self.forget_port(ctx, key)) {
                Some(owner) => Arrived::Destroyed { owner },
                None => Arrived::Nothing,
            },
            (Command::Credit, _) => {
                if !self.on_credit(ctx, id, cell::body(cell)) {
                    self.close(ctx, id);
                }
                Arrived::Nothing
            }
            (Command::Overlay, _) => match link.inbox.take(cell::body(cell)) {
                Ok(Some(message)) => {
                    link.used = ctx.env.now;
                    Arrived::Overlay(message)
                }
                Ok(None) => {
                    self.holds_more(BODY);
                    Arrived::Nothing
                }
                Err(_) => {
                    self.close(ctx, id);
                    Arrived::Nothing
                }
            },
            (Command::Padding, _) => {
                self.padded(ctx, id, cell::body(cell));
                Arrived::Nothing
            }
            (Command::Hello | Command::Create | Command::Leg, _) => {
                self.close(ctx, id);
                Arrived::Nothing
            }
        }
    }

    // --- ports

    /// Opens a port on an open link under a fresh circuit id of ours.
    pub(in crate::proto) fn open_port(&mut self, id: LinkId, owner: Owner) -> Option<PortKey> {
        let link = self.links.get_mut(&id)?;
        // One that ended keeps its place until the other end is told.
        if !matches!(link.stage, Stage::Open) || link.circuits.len() + link.ending.len() >= CIRCUITS_MAX {
            return None;
        }
        let side = if link.dialed { 1 << 31 } else { 0 };
        let circuit = loop {
            link.next_circuit = link.next_circuit.wrapping_add(1) & 0x7fff_ffff;
            match CircuitId::new(link.next_circuit | side) {
                Some(circuit) if link.next_circuit != 0 && !link.circuits.contains_key(&circuit.get()) => break circuit,
                _ => {}
            }
        };
        Some(self.insert_port(id, circuit, owner))
    }

    /// Opens a port under the circuit id that the other end chose. `None`: the link is gone, or has too many.
    pub(in crate::proto) fn accept_port(&mut self, id: LinkId, circuit: CircuitId, owner: Owner) -> Option<PortKey> {
        let link = self.links.get(&id)?;
        let fits = link.circuits.len() < link.circuits_max() && !link.circuits.contains_key(&circuit.get());
        fits.then(|| self.insert_port(id, circuit, owner))
    }

    fn insert_port(&mut self, id: LinkId, circuit: CircuitId, owner: Owner) -> PortKey {
        let nowhere = SocketAddr::from(([0; 4], 0));
        let remote = self.links.get(&id).map_or(nowhere, |link| link.remote);
        let key = self.ports.insert(Port::new(id, circuit, owner, &remote));
        if let Some(link) = self.links.get_mut(&id) {
            link.circuits.insert(circuit.get(), key);
        }
        key
    }

    /// Where a port is.
    pub(in crate::proto) fn port_link(&self, key: PortKey) -> Option<(LinkId, CircuitId)> {
        self.ports.get(key).map(|p| (p.link, p.circuit))
    }

    /// Closes a port and tells the other end, if that knows of it. What waited in it is dropped.
    pub(in crate::proto) fn close_port(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey) {
        if let Some((link, circuit)) = self.port_link(key) {
            let first = self.ports.get(key).and_then(|port| port.queue.front()).filter(|first| first.opens);
            let opening = first.and_then(|first| Header::read(&first.cell).ok()).map(|header| header.command);
            self.forget_port(ctx, key);
            if !matches!(opening, Some(Command::Create | Command::Leg)) {
                self.refuse(ctx, link, circuit);
            }
        }
    }

    /// Tells the other end that a circuit or leg has ended, or is not taken: at once, or as soon as there is room.
    pub(in crate::proto) fn refuse(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, circuit: CircuitId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.room() && link.ending.is_empty() {
            self.push(ctx, id, Header { circuit: Some(circuit), command: Command::Destroy }, &[0; BODY]);
        } else if link.ending.len() < ENDING_MAX {
            link.ending.push_back(circuit);
            self.holds_more(size_of::<CircuitId>());
        } else {
            // Who opens more than he may, and does not read what he is told of it.
            self.close(ctx, id);
        }
    }

    /// Removes a port from its link.
    fn forget_port(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey) -> Option<Owner> {
        let (link, circuit) = self.port_link(key)?;
        if let Some(link) = self.links.get_mut(&link) {
            link.circuits.remove(&circuit.get());
        }
        self.drop_port(ctx, key)
    }

    /// Removes a port whose link forgets it. What it held counts as used up: a circuit goes on when one of its legs ends.
    pub(super) fn drop_port(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey) -> Option<Owner> {
        let port = self.ports.remove(key)?;
        self.queued -= port.queue.len();
        self.promised.leave(port.seat);
        self.timers.stop(&LinkTimer::Stall(key));
        for queued in port.queue {
            if let Some(source) = queued.source {
                self.consumed(ctx, source);
            }
            self.recycle(queued.cell);
        }
        Some(port.owner)
    }

    fn recycle(&mut self, cell: Box<[u8; CELL]>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(cell);
        }
    }

    /// Cells that wait in a port.
    pub(in crate::proto) fn queued_on(&self, key: PortKey) -> usize {
        self.ports.get(key).map_or(0, |port| port.queue.len())
    }

    /// The other end takes nothing more for now.
    #[cfg(test)]
    pub(in crate::proto) fn starve(&mut self, key: PortKey) {
        if let Some(port) = self.ports.get_mut(key) {
            port.credit = 0;
        }
    }

    /// The other end takes so many cells more.
    #[cfg(test)]
    pub(in crate::proto) fn feed(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey, cells: u32) {
        if let Some(port) = self.ports.get_mut(key) {
            (port.credit, port.in_ready) = (port.credit + cells, true);
            let id = port.link;
            if let Some(link) = self.links.get_mut(&id) {
                link.ready.push_back(key);
            }
            self.pump(ctx, id);
        }
    }

    /// Cells of the other end that are out of our hands, and not granted again yet.
    #[cfg(test)]
    pub(in crate::proto) fn owed(&self, key: PortKey) -> u32 {
        self.ports.get(key).map_or(0, |port| port.owed)
    }

    // --- sending

    /// While a port has cells that the transport did not take yet: how many cells the link's transport has taken so far. As long as
    /// that grows, the line carries what was sent.
    pub(in crate::proto) fn leaving(&self, key: PortKey) -> Option<u64> {
        let port = self.ports.get(key)?;
        let link = self.links.get(&port.link)?;
        (link.taken < port.last_out || !port.queue.is_empty()).then_some(link.taken.min(port.last_out))
    }

    /// Whether nothing at all came on a port's link for longer than the other end goes without padding.
    pub(in crate::proto) fn is_deaf(&self, key: PortKey, now: Time) -> bool {
        let link = self.ports.get(key).and_then(|port| self.links.get(&port.link));
        link.is_none_or(|link| now.since(link.received) >= self.padding_of(link).1 + DEAF_AFTER)
    }

    /// Sends a relay cell on a port, at once or when credit and room allow. `source` is owed a credit when it leaves.
    pub(in crate::proto) fn send(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        key: PortKey,
        command: Command,
        body: &[u8; BODY],
        source: Option<PortKey>,
    ) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let header = Header { circuit: Some(port.circuit), command };
        let id = port.link;
        let Some(link) = self.links.get_mut(&id) else { return };
        if port.credit > 0 && port.queue.is_empty() && link.room() {
            port.credit -= 1;
            port.went = port.went.saturating_add(1);
            port.last_out = link.out() + 1;
            self.push(ctx, id, header, body);
            if let Some(source) = source {
                self.consumed(ctx, source);
            }
            return;
        }
        if port.queue.len() >= QUEUE_MAX {
            self.doomed.push(port.owner);
            return;
        }
        self.wait(ctx, key, header, body, source, false);
    }

    /// Puts a cell into its port's queue.
    fn wait(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        key: PortKey,
        header: Header,
        body: &[u8; BODY],
        source: Option<PortKey>,
        opens: bool,
    ) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let mut cell = self.spare.pop().unwrap_or_else(|| Box::new([0; CELL]));
        header.write(&mut cell);
        *cell::split_mut(&mut cell).1 = *body;
        port.queue.push_back(Queued { cell, source, opens });
        self.queued += 1;
        if port.credit == 0 {
            self.timers.set_if_unset(LinkTimer::Stall(key), ctx.env.now + limits::STALL_DEADLINE);
        } else if let Some(link) = self.links.get_mut(&port.link)
            && !port.in_ready
        {
            port.in_ready = true;
            link.ready.push_back(key);
        }
    }

    /// Sends what opens a port at the other end, or answers that: the first cell on it, which needs no credit. Where the link has no
    /// room it waits in the port's queue like any other, so no crowd of circuits cuts a link for others by opening and ending (T36).
    pub(in crate::proto) fn send_first(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey, command: Command, body: &[u8; BODY]) {
        let Some(port) = self.ports.get_mut(key) else { return };
        let header = Header { circuit: Some(port.circuit), command };
        let id = port.link;
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.room() {
            port.last_out = link.out() + 1;
            return self.push(ctx, id, header, body);
        }
        self.wait(ctx, key, header, body, None, true);
    }

    /// Sends a cell of the link itself, which waits for nothing: hello, credit, padding. No circuit has any number of them sent.
    pub(in crate::proto) fn push_control(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, command: Command, body: &[u8; BODY]) {
        let Some(link) = self.links.get(&id) else { return };
        if link.out_now() > limits::LINK_IN_FLIGHT + limits::LINK_CONTROL_MAX {
            return self.close(ctx, id);
        }
        self.push(ctx, id, Header { circuit: None, command }, body);
    }

    /// Sends a message of the overlay plane; dropped when too much waits already.
    pub(in crate::proto) fn send_overlay(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, message: Vec<u8>) {
        if let Some(link) = self.links.get_mut(&id)
            && matches!(link.stage, Stage::Open)
        {
            link.used = ctx.env.now;
            let bytes = message.len();
            if link.outbox.push(message) {
                self.holds_more(bytes);
            }
            self.pump(ctx, id);
        }
    }

    fn push(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, header: Header, body: &[u8; BODY]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let room = link.batch.capacity();
        link.begin(header);
        link.batch.extend_from_slice(body);
        let made = link.batch.capacity().saturating_sub(room);
        if link.end(ctx.env.now) {
            self.dirty.push(id);
        }
        self.holds_more(CELL + made);
    }

    /// The transport took cells: more may follow. True if some wait to be flushed now.
    pub(in crate::proto) fn sent(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, cells: usize) -> bool {
        if let Some(link) = self.links.get_mut(&id) {
            link.in_flight = link.in_flight.saturating_sub(cells);
            link.taken += cells as u64;
            match link.in_flight {
                0 => {
                    self.timers.stop(&LinkTimer::Unsent(id));
                    // What is left of a batch's memory is not kept by a link on which nothing moves (T35).
                    if link.batch.is_empty() {
                        link.batch = BytesMut::new();
                    }
                }
                _ => self.timers.set(LinkTimer::Unsent(id), ctx.env.now + UNSENT_MAX),
            }
            self.pump(ctx, id);
        }
        !self.dirty.is_empty()
    }

    /// Fills the room of a link: ends of circuits, overlay fragments and ports in turn.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        while let Some(link) = self.links.get_mut(&id).filter(|l| l.room()) {
            let ended = link.ending.pop_front();
            if ended.is_some() {
                self.push(ctx, id, Header { circuit: ended, command: Command::Destroy }, &[0; BODY]);
            }
            let Some(link) = self.links.get_mut(&id) else { return };
            let fragment = !link.outbox.is_empty();
            let none_ready = link.ready.is_empty();
            if fragment {
                link.begin(Header { circuit: None, command: Command::Overlay });
                link.outbox.pop(&mut link.batch);
                if link.end(ctx.env.now) {
                    self.dirty.push(id);
                }
                self.holds_more(CELL);
            }
            if !self.pump_port(ctx, id) && !fragment && none_ready && ended.is_none() {
                break;
            }
        }
    }

    /// Sends one cell of the port whose turn it is. False if there was none.
    fn pump_port(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) -> bool {
        let Some(key) = self.links.get_mut(&id).and_then(|l| l.ready.pop_front()) else { return false };
        let Some(port) = self.ports.get_mut(key) else { return true };
        port.in_ready = false;
        let opens = port.queue.front().is_some_and(|first| first.opens);
        if port.credit == 0 && !opens {
            return true;
        }
        let Some(Queued { cell, source, .. }) = port.queue.pop_front() else { return true };
        port.credit -= u32::from(!opens);
        port.went = port.went.saturating_add(1);
        port.last_out = self.links.get(&id).map_or(0, |link| link.out() + 1);
        self.queued -= 1;
        if port.queue.is_empty() {
            if port.queue.capacity() > QUEUE_KEPT {
                port.queue = VecDeque::new();
            }
            self.timers.stop(&LinkTimer::Stall(key));
        } else if port.credit > 0 {
            port.in_ready = true;
            if let Some(link) = self.links.get_mut(&id) {
                link.ready.push_back(key);
            }
        } else {
            self.timers.set(LinkTimer::Stall(key), ctx.env.now + limits::STALL_DEADLINE);
        }
        if let Ok(header) = Header::read(&cell) {
            self.push(ctx, id, header, cell::body(&cell));
        }
        self.recycle(cell);
        if let Some(source) = source {
            self.consumed(ctx, source);
        }
        true
    }

    /// Hands all batches to the transport. Called once after each input.
    pub(in crate::proto) fn flush(&mut self, ctx: &mut Ctx<'_, '_>) {
        for id in core::mem::take(&mut self.dirty) {
            self.flush_one(ctx, id);
        }
    }

    pub(super) fn flush_one(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.dirty = false;
            if !link.batch.is_empty() {
                let cells = link.batch.split();
                link.in_flight += cells.len() / CELL;
                self.timers.set_if_unset(LinkTimer::Unsent(id), ctx.env.now + UNSENT_MAX);
                ctx.out.push(Output::Send { link: id, cells });
            }
        }
    }
}

impl Link {
    /// Makes room for a cell in the batch, and writes its header; the body follows.
    fn begin(&mut self, header: Header) {
        if self.batch.capacity() - self.batch.len() < CELL {
            self.batch.reserve(if header.command == Command::Relay { BATCH_CELLS * CELL } else { CELL });
        }
        let [a, b, c, d] = header.circuit.map_or(0, CircuitId::get).to_be_bytes();
        self.batch.extend_from_slice(&[a, b, c, d, header.command as u8]);
    }

    /// A cell was added to the batch. True if it is the first that waits to be flushed.
    const fn end(&mut self, now: Time) -> bool {
        self.sent = now;
        !core::mem::replace(&mut self.dirty, true)
    }
}
