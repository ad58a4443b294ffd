//! Credits of both directions (D6): what was used up is granted again, in batches, and what is granted lets cells go.

use crate::base::LinkId;
use crate::base::limits;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::out::Ctx;
use crate::wire::cell::BODY;
use crate::wire::cell::CELL;
use crate::wire::cell::Command;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use std::time::Duration;

/// Most credit promised beyond the first windows, in cells: 128 MiB.
const PROMISED_MAX: u32 = (128 << 20) / CELL as u32;
/// How long credit may wait that is less than a part of its window (`Port::owed_much`): each grant is a wake-up at both ends. Nothing
/// next to the deadline of a circuit that stands still, and a slow line's window is granted in full.
const CREDIT_PATIENCE: Duration = Duration::from_millis(100);
/// `count u16`, then `circuit u32 ‖ quanta u8` each.
const CREDITS_PER_CELL: usize = (BODY - 2) / 5;

impl Links {
    /// A cell that came in on this port has left the node, or was used up.
    pub(in crate::proto) fn consumed(&mut self, ctx: &mut Ctx<'_, '_>, key: PortKey) {
        let Some(port) = self.ports.get_mut(key) else { return };
        port.owed += 1;
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
        if link.out_now() > limits::LINK_IN_FLIGHT + limits::LINK_CONTROL_MAX / 2 {
            // What comes in goes on while nothing goes out: grants wait, and do not pile up until the link ends.
            return self.timers.set(LinkTimer::Credit(id), ctx.env.now.next_multiple(limits::CREDIT_TICK));
        }
        let mut grants = Vec::new();
        for key in core::mem::take(&mut link.owed) {
            if let Some(port) = self.ports.get_mut(key) {
                port.in_owed = false;
                let (quanta, growth) = port.grant(PROMISED_MAX.saturating_sub(self.promised));
                self.promised += growth;
                grants.push((port.circuit, quanta));
            }
        }
        for chunk in grants.chunks(CREDITS_PER_CELL) {
            let mut w = Writer::with_capacity(BODY);
            w.u16(u16::try_from(chunk.len()).unwrap_or(u16::MAX));
            for (circuit, quanta) in chunk {
                w.u32(circuit.get()).u8(u8::try_from(*quanta).unwrap_or(u8::MAX));
            }
            let mut body = [0; BODY];
            for (to, from) in body.iter_mut().zip(w.as_slice()) {
                *to = *from;
            }
            self.push_control(ctx, id, Command::Credit, &body);
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
        self.pump(ctx, id);
        true
    }
}
