//! Credits of both directions (D6): what was used up is granted again, in batches, and what is granted lets cells go.
//!
//! ```text
//! count u16 | circuit u32 ‖ quanta u8 each: granted    then the same once more: given back    zeros
//! ```
//! What is promised beyond the first windows comes out of one pool, shared out by where the other ends are (T34): who takes much of it
//! throttles his own prefix. Who holds credit and does not use it gives it back within minutes; a circuit that keeps far more than it
//! uses ends.

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::limits;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::memory::Memory;
use crate::proto::out::Ctx;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use std::time::Duration;

/// Credit promised beyond the first windows, in cells, for each cell that may be queued: few of those who have a large window use all of
/// it at once, and where they do, the longest queues end.
const PROMISED_PER_QUEUED: usize = 4;

/// The places of the pool of promised credit, in quanta.
pub(super) const fn promised_max(memory: Memory) -> usize {
    PROMISED_PER_QUEUED * memory.cells_queued() / limits::CREDIT_QUANTUM as usize
}

/// After so long, credit that was not used goes back: far longer than any line needs to use a window, so whoever is busy keeps his.
const GIVEN_BACK: Duration = Duration::from_secs(60);
/// How many times as long the other end of a port has to do the same: longer than anything waits on a line that lives.
const HOARDS_AFTER: u8 = 5;
/// How long credit may wait that is less than a part of its window (`Port::owed_much`): each grant is a wake-up at both ends. Nothing
/// next to the deadline of a circuit that stands still, and a slow line's window is granted in full.
const CREDIT_PATIENCE: Duration = Duration::from_millis(100);
/// Two counts, and what they count.
const CREDITS_PER_CELL: usize = (BODY - 4) / 5;

impl Links {
    /// A cell that came in on this port has left the node, or was used up.
    pub(in crate::proto) fn consumed(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey) {
        let Some(port) = self.ports.get_mut(key) else { return };
        port.owed += 1;
        port.moved = port.moved.saturating_add(1);
        if port.owed < limits::CREDIT_QUANTUM {
            return;
        }
        if !port.in_owed {
            port.in_owed = true;
            if let Some(link) = self.links.get_mut(&port.link) {
                link.owed.push(key);
            }
        }
        let timer = LinkTimer::Credit(port.link);
        if port.owed == port.owed_much() {
            self.timers.set(timer, ctx.env.now.next_multiple(limits::CREDIT_TICK));
        } else {
            self.timers.set_if_unset(timer, (ctx.env.now + CREDIT_PATIENCE).next_multiple(limits::CREDIT_TICK));
        }
    }

    /// The tick of a link: all its ports are granted what they are owed, in as few cells as fit.
    pub(super) fn grant(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.is_behind() {
            // What comes in goes on while nothing goes out: grants wait, and do not pile up until the link ends.
            return self.timers.set(LinkTimer::Credit(id), ctx.env.now.next_multiple(limits::CREDIT_TICK));
        }
        let mut grants = Vec::new();
        for key in core::mem::take(&mut link.owed) {
            if let Some(port) = self.ports.get_mut(key) {
                port.in_owed = false;
                let quanta = port.grant(|seat, wanted| self.promised.widen(seat, wanted));
                grants.push((port.circuit, quanta));
            }
        }
        for chunk in grants.chunks(CREDITS_PER_CELL) {
            self.push_control(ctx, id, Command::Credit, &written(chunk, &[]));
        }
    }

    /// Looks over what lies unused on a link, on either side, once a minute: ours goes back, and whoever keeps theirs loses the circuit.
    pub(super) fn look_over(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if ctx.env.now.since(link.looked_over) < GIVEN_BACK || link.is_behind() {
            return;
        }
        link.looked_over = ctx.env.now;
        link.looks = (link.looks + 1) % HOARDS_AFTER;
        let all = link.looks == 0;
        let mut back = Vec::new();
        for key in link.circuits.values() {
            let Some(port) = self.ports.get_mut(*key) else { continue };
            let quanta = port.give_back();
            if quanta > 0 {
                back.push((port.circuit, quanta));
            }
            if all && port.hoards() {
                self.doomed.push(port.owner);
            }
        }
        for chunk in back.chunks(CREDITS_PER_CELL) {
            self.push_control(ctx, id, Command::Credit, &written(&[], chunk));
        }
    }

    /// Credits from the other end. False is a violation.
    pub(super) fn on_credit(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, body: &[u8; BODY]) -> bool {
        let mut r = Reader::new(body);
        let Ok(count) = r.u16() else { return false };
        for _ in 0..count {
            let (Ok(circuit), Ok(quanta)) = (r.u32(), r.u8()) else { return false };
            // A credit of nothing would keep a circuit that stands still from its end (T35).
            if quanta == 0 {
                return false;
            }
            let Some(link) = self.links.get_mut(&id) else { return true };
            let Some(key) = link.circuits.get(&circuit).copied() else { continue };
            let Some(port) = self.ports.get_mut(key) else { continue };
            port.credit += u32::from(quanta) * limits::CREDIT_QUANTUM;
            if port.credit > limits::WINDOW_MAX {
                return false;
            }
            self.timers.stop(&LinkTimer::Stall(key));
            if !port.queue.is_empty() && !port.in_ready {
                port.in_ready = true;
                link.ready.push_back(key);
            }
        }
        let Ok(count) = r.u16() else { return false };
        for _ in 0..count {
            let (Ok(circuit), Ok(quanta)) = (r.u32(), r.u8()) else { return false };
            let key = self.links.get(&id).and_then(|link| link.circuits.get(&circuit).copied());
            let Some(port) = key.and_then(|key| self.ports.get_mut(key)) else { continue };
            if !port.given_back(quanta.into()) {
                return false;
            }
            self.promised.narrow(&mut port.seat, quanta.into());
        }
        self.pump(ctx, id);
        true
    }
}

/// The body of a cell with credits.
fn written(granted: &[(CircuitId, u32)], back: &[(CircuitId, u32)]) -> [u8; BODY] {
    let mut w = Writer::with_capacity(BODY);
    for list in [granted, back] {
        w.u16(u16::try_from(list.len()).unwrap_or(u16::MAX));
        for (circuit, quanta) in list {
            w.u32(circuit.get()).u8(u8::try_from(*quanta).unwrap_or(u8::MAX));
        }
    }
    let mut body = [0; BODY];
    for (to, from) in body.iter_mut().zip(w.as_slice()) {
        *to = *from;
    }
    body
}
