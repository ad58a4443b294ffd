//! How busy a circuit of ours is, and whether anything moves on it.

use crate::base::NodeId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::origin::Origins;
use crate::proto::circuit::origin::RequestId;
use crate::proto::circuit::origin::STREAMS_MAX;
use crate::proto::circuit::origin::Stream;
use crate::proto::link::Links;
use crate::proto::slab::Key;
use crate::wire::cell::RELAY_DATA;
use crate::wire::request::SessionType;

/// Most requests of a session of this type that wait for their answer before any came: see [`limits::SESSION_IN_FLIGHT`].
pub(super) fn in_flight_at_first(kind: SessionType) -> usize {
    let fit = limits::WINDOW_MIN as usize / kind.request_len().div_ceil(RELAY_DATA);
    fit.min(limits::SESSION_IN_FLIGHT)
}

impl Origins {
    /// Whether as many requests for `host` wait behind those in flight on a circuit as are let in flight, with sessions of this type.
    pub fn is_full(&self, key: Key, host: &NodeId, kind: SessionType) -> bool {
        let streams = self.circuits.get(key).into_iter().flat_map(|c| c.streams.values());
        let of_host = streams.filter(|s| s.host == *host && s.kind == kind);
        let (load, window) =
            of_host.fold((0, in_flight_at_first(kind)), |(load, window), s| (load + s.load(), window.max(s.window)));
        load >= 2 * window
    }

    /// The requests on a circuit.
    pub fn requests(&self, key: Key) -> impl Iterator<Item = RequestId> {
        let streams = self.circuits.get(key).into_iter().flat_map(|c| c.streams.values());
        streams.flat_map(|s| s.in_flight.iter().map(|(_, id, _)| *id).chain(s.queued.iter().map(|(id, _)| *id)))
    }

    /// Whether a circuit can take a request for `host` now: on a stream that is open, or on a new one.
    pub fn takes(&self, key: Key, host: &NodeId, kind: SessionType) -> bool {
        let Some(circuit) = self.circuits.get(key) else { return false };
        let open = circuit.streams.values().any(|s| s.host == *host && s.kind == kind && s.has_room());
        let place = circuit.streams.len() < STREAMS_MAX || circuit.streams.values().any(|s| s.load() == 0);
        open || (place && circuit.begun < limits::CIRCUIT_BEGINS)
    }

    /// Whether a circuit has begun as many streams as it may. Those that are open may go on.
    pub fn is_spent(&self, key: Key) -> bool {
        self.circuits.get(key).is_some_and(|c| c.begun >= limits::CIRCUIT_BEGINS)
    }

    /// Requests that wait or are under way on a circuit.
    pub fn total_load(&self, key: Key) -> usize {
        self.circuits.get(key).map_or(usize::MAX, |c| c.streams.values().map(Stream::load).sum())
    }

    /// The same, without those that left before.
    pub fn load_since(&self, key: Key, since: Time) -> usize {
        let fresh = |s: &Stream| s.queued.len() + s.in_flight.iter().filter(|(_, _, sent)| *sent >= since).count();
        self.circuits.get(key).map_or(0, |c| c.streams.values().map(fresh).sum())
    }

    /// Cells of a circuit that wait to leave, those of sessions that are still being opened included; not what waits for a host's
    /// answers.
    pub(in crate::proto) fn backlog(&self, links: &Links, key: Key) -> usize {
        let Some(circuit) = self.circuits.get(key) else { return 0 };
        let opening = circuit.streams.values().filter(|s| s.session.is_none());
        let coming = opening.map(|s| s.queued.len() * s.kind.request_len().div_ceil(RELAY_DATA)).sum::<usize>();
        coming + circuit.port.map_or(0, |port| links.queued_on(port))
    }

    /// While a circuit's own cells are still on their way out: cells that the line to its guard has taken so far.
    pub(in crate::proto) fn leaving(&self, links: &Links, key: Key) -> Option<u64> {
        links.leaving(self.circuits.get(key)?.port?)
    }

    /// Whether the link to a circuit's guard brings nothing at all.
    pub(in crate::proto) fn is_deaf(&self, links: &Links, key: Key, now: Time) -> bool {
        self.circuits.get(key).and_then(|c| c.port).is_none_or(|port| links.is_deaf(port, now))
    }
}
