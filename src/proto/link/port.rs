//! A port: one circuit's (or leg's) end on one link, with its queue and the credits of both directions (D6).

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::StreamId;
use crate::base::limits;
use crate::proto::crowd::Seat;
use crate::proto::slab;
use crate::wire::cell::CELL;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Names a port; stale once the port is closed.
pub type PortKey = slab::Key;

/// How many times what it moved the other end of a port may hold in credit.
const HOARD: u32 = 4;

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
    /// The most it may have outstanding: the first window, and a quantum for each place that it has in the pool of promised credit.
    pub(super) window: u32,
    pub(super) seat: Seat,
    /// Cells that we sent since the link was last looked over for credit that lies unused; the first time all there are.
    pub(super) went: u32,
    /// Cells that came or left again since what the other end holds was last compared with what it uses; the first time all there
    /// are.
    pub(super) moved: u32,
    /// Cells that have left us and were not granted again yet.
    pub(super) owed: u32,
    /// Whether it stands in its link's list of ports to be granted credit.
    pub(super) in_owed: bool,
    /// Whether it stands in its link's list of ports with something to send.
    pub(super) in_ready: bool,
}

impl Port {
    pub(super) fn new(link: LinkId, circuit: CircuitId, owner: Owner, remote: &SocketAddr) -> Self {
        Self {
            link,
            circuit,
            owner,
            credit: limits::WINDOW_MIN,
            queue: VecDeque::new(),
            last_out: 0,
            granted: limits::WINDOW_MIN,
            window: limits::WINDOW_MIN,
            seat: Seat::empty(remote),
            went: u32::MAX,
            moved: u32::MAX,
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
    /// Returns the quanta to grant. `widen` says how many of the quanta that the window should grow by are to be had.
    pub(super) fn grant(&mut self, widen: impl FnOnce(&mut Seat, usize) -> usize) -> u32 {
        let quanta = self.owed / limits::CREDIT_QUANTUM;
        let waited = self.owed.min(self.owed_much()) - self.owed.min(limits::CREDIT_QUANTUM);
        let wants_more = self.granted + waited < self.window / 2;
        let wanted = self.window.min(limits::WINDOW_MAX.saturating_sub(self.window)) / limits::CREDIT_QUANTUM;
        let growth = if wants_more { widen(&mut self.seat, wanted as usize) as u32 } else { 0 };
        self.owed -= quanta * limits::CREDIT_QUANTUM;
        self.window += growth * limits::CREDIT_QUANTUM;
        self.granted += (quanta + growth) * limits::CREDIT_QUANTUM;
        debug_assert!(self.granted <= self.window);
        quanta + growth
    }

    /// Gives back the credit that we did not need for as long as `went` counts, in quanta, and counts anew.
    pub(super) fn give_back(&mut self) -> u32 {
        let needed = core::mem::take(&mut self.went).max(limits::WINDOW_MIN);
        let quanta = self.credit.saturating_sub(needed) / limits::CREDIT_QUANTUM;
        self.credit -= quanta * limits::CREDIT_QUANTUM;
        quanta
    }

    /// The other end gives back so many quanta. False is a violation: it had less.
    pub(super) fn given_back(&mut self, quanta: u32) -> bool {
        let cells = quanta * limits::CREDIT_QUANTUM;
        let fits = self.granted >= limits::WINDOW_MIN + cells && self.window >= limits::WINDOW_MIN + cells;
        if fits {
            self.granted -= cells;
            self.window -= cells;
        }
        fits
    }

    /// Whether the other end keeps far more credit than it used for as long as `moved` counts, which counts anew. A window doubles at
    /// most when it is used, so who gives back what lies unused holds no more than a few times what it moved.
    pub(super) fn hoards(&mut self) -> bool {
        let moved = core::mem::take(&mut self.moved);
        self.granted > moved.saturating_mul(HOARD).saturating_add(limits::WINDOW_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> Port {
        let owner = Owner::Origin(slab::Slab::default().insert(()));
        Port::new(LinkId(1), CircuitId::new(1).unwrap(), owner, &([203, 0, 113, 7], 9).into())
    }

    #[test]
    fn a_busy_port_grows_to_the_limit_and_never_grants_more_than_its_window() {
        let mut port = port();
        let mut promised = 0;
        for _ in 0..20 {
            let used = port.granted;
            port.granted = 0;
            port.owed += used;
            port.grant(|_, wanted| {
                promised += wanted as u32 * limits::CREDIT_QUANTUM;
                wanted
            });
            assert!(port.granted + port.owed <= port.window);
        }
        assert_eq!(port.window, limits::WINDOW_MAX);
        assert_eq!(promised, limits::WINDOW_MAX - limits::WINDOW_MIN);
        port.granted -= 32;
        port.owed += 32;
        assert_eq!(port.grant(|_, _| 0), 1, "an idle port is granted what it used and no more");
    }

    #[test]
    fn credit_that_lies_unused_goes_back_and_no_other() {
        let mut port = port();
        port.credit = limits::WINDOW_MAX;
        assert_eq!(port.give_back(), 0, "it was not looked at for long yet");
        port.went = limits::WINDOW_MAX;
        assert_eq!(port.give_back(), 0, "it uses all of it");
        port.went = 1000;
        assert_eq!((port.give_back(), port.credit), (64, 1024));
        assert_eq!((port.give_back(), port.credit), (30, 64), "it was idle");
        (port.credit, port.went) = (10, 0);
        assert_eq!(port.give_back(), 0);
        (port.window, port.granted) = (1024, 512);
        assert!(port.given_back(14) && !port.given_back(1));
        assert_eq!((port.window, port.granted), (576, 64));
        // Who used a quarter of what it has is let be.
        (port.window, port.granted, port.moved) = (3072, 3072, 752);
        assert!(!port.hoards());
        (port.granted, port.moved) = (3072, 751);
        assert!(port.hoards());
        assert!(port.hoards(), "it counts anew");
        (port.granted, port.moved) = (64, 0);
        assert!(!port.hoards());
    }

    #[test]
    fn what_waited_to_be_granted_widens_no_window() {
        let mut port = port();
        // So many cells are on their way for long, and so many were used up.
        let mut grows = |on_the_way: u32, owed: u32| {
            (port.window, port.owed, port.granted) = (1024, owed, 1024 - on_the_way - owed);
            let mut grew = false;
            port.grant(|_, wanted| {
                grew = wanted > 0;
                wanted
            });
            grew
        };
        assert!(!grows(400, 32) && !grows(400, 256) && grows(500, 32) && grows(500, 256));
        assert!(grows(0, 1024), "all used up within a tick");
    }
}
