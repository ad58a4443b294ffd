//! A port: one circuit's (or leg's) end on one link, with its queue and the credits of both directions (D6).

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::StreamId;
use crate::base::limits;
use crate::proto::slab;
use crate::wire::cell::CELL;
use std::collections::VecDeque;

/// Names a port; stale once the port is closed.
pub type PortKey = slab::Key;

/// Which machine a port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A circuit carried for others, on its client's side.
    HopPrev(slab::Key),
    /// A circuit carried for others, on the far side.
    HopNext(slab::Key),
    /// The last hop's side of a leg to a host.
    Leg(slab::Key, StreamId),
    /// The host's side of a leg.
    Host(slab::Key),
    /// The first hop of a circuit of our own.
    Origin(slab::Key),
}

/// A cell that waits for credit or for room on its link.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) cell: Box<[u8; CELL]>,
    /// The port it came from, which is owed a credit when the cell leaves.
    pub(super) source: Option<PortKey>,
    /// It opens the circuit or leg at the other end, or answers that: it needs no credit.
    pub(super) opens: bool,
}

/// One end of a circuit on one link.
///
/// # Invariants
/// `queue` is empty unless `credit` is zero or the link has no room. `granted` never exceeds `window`.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) link: LinkId,
    pub(super) circuit: CircuitId,
    pub(super) owner: Owner,
    /// Cells that we may send.
    pub(super) credit: u32,
    pub(super) queue: VecDeque<Queued>,
    /// The number of its last cell among all that its link gave to the transport.
    pub(super) last_out: u64,
    /// Cells that the other end may still send.
    pub(super) granted: u32,
    /// The most it may have outstanding.
    pub(super) window: u32,
    /// Cells that have left us and were not granted again yet.
    pub(super) owed: u32,
    /// Whether it stands in its link's list of ports to be granted credit.
    pub(super) in_owed: bool,
    /// Whether it stands in its link's list of ports with something to send.
    pub(super) in_ready: bool,
}

impl Port {
    pub(super) fn new(link: LinkId, circuit: CircuitId, owner: Owner) -> Self {
        Self {
            link,
            circuit,
            owner,
            credit: limits::WINDOW_MIN,
            queue: VecDeque::new(),
            last_out: 0,
            granted: limits::WINDOW_MIN,
            window: limits::WINDOW_MIN,
            owed: 0,
            in_owed: false,
            in_ready: false,
        }
    }

    /// What is owed is granted at the next tick from so many cells on: the wider a window the fewer grants.
    pub(super) fn owed_much(&self) -> u32 {
        limits::CREDIT_QUANTUM.max(self.window / 4)
    }

    /// Takes what is owed in whole quanta, and grows the window when the other end used more than half of it within a tick, or has
    /// so much on its way; what was owed and waited for more counts as if it had been granted.
    /// Returns the quanta to grant and the growth in cells.
    pub(super) fn grant(&mut self, growth_allowed: u32) -> (u32, u32) {
        let quanta = self.owed / limits::CREDIT_QUANTUM;
        let waited = self.owed.min(self.owed_much()) - self.owed.min(limits::CREDIT_QUANTUM);
        let wants_more = self.granted + waited < self.window / 2;
        let room = limits::WINDOW_MAX.saturating_sub(self.window).min(growth_allowed);
        let growth = if wants_more { self.window.min(room) / limits::CREDIT_QUANTUM } else { 0 };
        self.owed -= quanta * limits::CREDIT_QUANTUM;
        self.window += growth * limits::CREDIT_QUANTUM;
        self.granted += (quanta + growth) * limits::CREDIT_QUANTUM;
        debug_assert!(self.granted <= self.window);
        (quanta + growth, growth * limits::CREDIT_QUANTUM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_grows_to_the_limit_and_never_grants_more_than_its_window() {
        let mut slab = slab::Slab::default();
        let key = slab.insert(());
        let mut port = Port::new(LinkId(1), CircuitId::new(1).unwrap(), Owner::Origin(key));
        let mut promised = 0;
        for _ in 0..20 {
            let used = port.granted;
            port.granted = 0;
            port.owed += used;
            let (_, growth) = port.grant(1_000_000);
            promised += growth;
            assert!(port.granted + port.owed <= port.window);
        }
        assert_eq!(port.window, limits::WINDOW_MAX);
        assert_eq!(promised, limits::WINDOW_MAX - limits::WINDOW_MIN);
        port.granted -= 32;
        port.owed += 32;
        assert_eq!(port.grant(0), (1, 0), "an idle port is granted what it used and no more");
    }

    #[test]
    fn what_waited_to_be_granted_widens_no_window() {
        let mut port = Port::new(LinkId(1), CircuitId::new(1).unwrap(), Owner::Origin(slab::Slab::default().insert(())));
        // So many cells are on their way for long, and so many were used up.
        let mut grows = |on_the_way: u32, owed: u32| {
            (port.window, port.owed, port.granted) = (1024, owed, 1024 - on_the_way - owed);
            port.grant(1_000_000).1 > 0
        };
        assert!(!grows(400, 32) && !grows(400, 256) && grows(500, 32) && grows(500, 256));
        assert!(grows(0, 1024), "all used up within a tick");
    }
}
