//! Dial-back (D9), the witness's side: a relay shows where it is by being dialled there. The other side is `receipts.rs`.
//!
//! A witness dials only the address it sees the requester at, at the port that the requester names; expects the requester's
//! identity; and answers with a receipt or with nothing. An address is dialled once an hour, or three times if the dial fails, and a
//! /24 a few times an hour. So nobody can aim it at a third party's address, and what a third party's *port* on the requester's own
//! address gets is one TLS handshake per hour, or three that fail.
//!
//! The addresses of a /24 take turns: half of its places are for those that were not dialled for half a day. So nobody keeps
//! a neighbour from its receipts by asking as often as he may; he would have to ask from fifty addresses beside it, at every witness.

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::net;
use crate::base::net::Prefix;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::io::Peer;
use crate::wire::overlay::Message;
use core::net::IpAddr;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;

/// Most dial-backs under way for others.
pub(super) const IN_FLIGHT_MAX: usize = 128;
/// Addresses remembered as served, shared out by [`Crowd`]: one group cannot fill it. Who finds no place is not served until some
/// are forgotten.
const SERVED_MAX: usize = 4096;
/// An address is served once in this time.
const SERVED_FOR: Duration = Duration::from_secs(3600);
/// After a dial that failed it is served again sooner: the fault may be the network's. Not much sooner, for what was dialled may be a
/// stranger's port.
const FAILED_FOR: Duration = Duration::from_secs(1200);
/// In a local network everything happens at once: once per address and port in this time.
const SERVED_FOR_LOCAL: Duration = Duration::from_secs(1);
/// Dials into one /24 (IPv6: /48) in [`SERVED_FOR`].
const PER_PREFIX: usize = 8;
/// Of them, for addresses that were served within [`REMEMBERED_FOR`].
const PER_PREFIX_AGAIN: usize = 4;
/// How long an address that was served is remembered: less than a host needs to come again, at whatever witness.
const REMEMBERED_FOR: Duration = Duration::from_secs(12 * 3600);

/// An address that was dialled.
#[derive(Debug)]
struct Served {
    /// Not again before.
    until: Time,
    at: Time,
    /// Whether it had been dialled within half a day before that.
    again: bool,
    seat: Seat,
}

type Key = (Prefix, IpAddr, u16);

/// Whom this witness dialled.
#[derive(Debug)]
pub struct Witness {
    served: BTreeMap<Key, Served>,
    places: Crowd,
}

impl Witness {
    pub(super) const fn new() -> Self {
        Self { served: BTreeMap::new(), places: Crowd::new(SERVED_MAX, STANDING) }
    }

    fn key(addr: &SocketAddr, local: bool) -> Key {
        (Prefix::of(addr), addr.ip().to_canonical(), if local { addr.port() } else { 0 })
    }

    /// A place among those served; `None` if it had its turn, or its prefix had, or there is no place.
    fn serve(&mut self, addr: &SocketAddr, now: Time, local: bool) -> Option<()> {
        let key = Self::key(addr, local);
        let before = self.served.get(&key);
        if before.is_some_and(|s| s.until > now) {
            return None;
        }
        let again = before.is_some_and(|s| s.at + REMEMBERED_FOR > now);
        let lowest = match key.1 {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let of_prefix = || {
            let from = self.served.range((key.0, lowest, 0)..).take_while(|((prefix, ..), _)| *prefix == key.0);
            from.filter(|(_, s)| s.at + SERVED_FOR > now)
        };
        let (all, repeated) = (of_prefix().count(), of_prefix().filter(|(_, s)| s.again).count());
        if !local && (all >= PER_PREFIX || (again && repeated >= PER_PREFIX_AGAIN)) {
            return None;
        }
        self.unserve(&key);
        let seat = match self.places.enter(addr) {
            Some(seat) => seat,
            None => {
                let over = |s: &Served| s.until <= now && (local || s.at + REMEMBERED_FOR <= now);
                let over: Vec<Key> = self.served.iter().filter(|(_, s)| over(s)).map(|(key, _)| *key).collect();
                over.iter().for_each(|key| self.unserve(key));
                self.places.enter(addr)?
            }
        };
        let hold = if local { SERVED_FOR_LOCAL } else { SERVED_FOR };
        self.served.insert(key, Served { until: now + hold, at: now, again, seat });
        Some(())
    }

    fn unserve(&mut self, key: &Key) {
        if let Some(served) = self.served.remove(key) {
            self.places.leave(served.seat);
        }
    }
}

impl Overlay {
    pub(super) fn dial_back(&mut self, env: &Env<'_>, link: LinkId, id: u32, port: u16) {
        let no = Message::DialBackReply { id, receipt: None };
        let Some((Some(subject), remote)) = self.links.get(&link).map(|l| (l.node, l.remote)) else {
            return self.send(link, &no);
        };
        // The observed address, never one that the requester names.
        let addr = SocketAddr::new(remote.ip().to_canonical(), port);
        let local = self.view.is_local();
        let allowed = port != 0 && (local || net::is_public(&addr));
        let under_way = self.dials.values().filter(|d| matches!(d.purpose, Purpose::DialBack { .. })).count();
        let busy = !allowed || under_way >= IN_FLIGHT_MAX;
        if busy || self.witness.serve(&addr, env.now, local).is_none() {
            return self.send(link, &no);
        }
        let purpose = Purpose::DialBack { link, id, subject, addr };
        if !self.dial(env, Peer { addr, node: subject }, purpose) {
            self.witness.unserve(&Witness::key(&addr, local));
            self.send(link, &no);
        }
    }

    /// The dial-back ended: with the right relay at the other end of a new link, or not.
    pub(super) fn dialled_back(
        &mut self,
        env: &Env<'_>,
        new: Option<LinkId>,
        asker: LinkId,
        id: u32,
        subject: NodeId,
        addr: SocketAddr,
    ) {
        if new.is_none() && !self.view.is_local() {
            let served = self.witness.served.get_mut(&Witness::key(&addr, false));
            served.into_iter().for_each(|s| s.until = s.until.min(env.now + FAILED_FOR));
        }
        let proven = new.filter(|n| *n != asker && self.links.get(n).is_some_and(|l| l.dialled));
        if let Some(new) = new.filter(|n| *n != asker) {
            self.out.push_back(Output::Release { link: new });
        }
        if proven.is_some() && self.jobs.len() < JOBS_MAX + IN_FLIGHT_MAX {
            // The link itself proved the subject (`link_up`).
            let hour = env.wall.hour();
            self.job(Work::SignReceipt { link: asker, id }, OverlayJob::SignReceipt { subject, addr, hour });
        } else {
            self.send(asker, &Message::DialBackReply { id, receipt: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_does_not_fill_the_list_of_those_served() {
        let mut witness = Witness::new();
        let hold = Time(0) + SERVED_FOR;
        let of_group = |n: u16| SocketAddr::from(([0x2001, 0x67c, n, 0, 0, 0, 0, 1], 1));
        let served = (0..10_000).filter(|n| witness.serve(&of_group(*n), Time(0), false).is_some()).count();
        assert!((1000..SERVED_MAX / 2).contains(&served), "{served}");
        let other = SocketAddr::from(([198, 51, 100, 1], 1));
        assert!(witness.serve(&other, Time(0), false).is_some(), "everyone else is served");
        assert!(witness.serve(&other, Time(1), false).is_none(), "once");
        assert!(witness.serve(&of_group(9_999), Time(1), false).is_none());
        assert!(witness.serve(&other, hold, false).is_some(), "an hour later there is room");
        assert!(witness.serve(&of_group(9_999), hold + REMEMBERED_FOR, false).is_some());
        witness.unserve(&Witness::key(&other, false));
        assert!(witness.serve(&other, hold, false).is_some(), "one that was not dialled");
    }

    /// Neighbours ask as often as they may, from thirty addresses of a /24, for three days: one that asks every sixteen hours, as a
    /// host does, is served within four hours each time, and mostly at once; and the /24 gets no more dials than its part.
    #[test]
    fn neighbours_do_not_keep_a_host_from_its_receipts() {
        let mut witness = Witness::new();
        let at = |host: u8| SocketAddr::from(([198, 51, 100, host], 1));
        let (mut waits, mut dials) = (Vec::new(), 0);
        let mut asks_since = None;
        for minute in 0..3 * 24 * 60u64 {
            let now = Time(minute * 60_000_000);
            dials += (1..=30).filter(|host| witness.serve(&at(*host), now, false).is_some()).count();
            if minute % (16 * 60) == 700 {
                asks_since = Some(minute);
            }
            if let Some(since) = asks_since
                && witness.serve(&at(200), now, false).is_some()
            {
                waits.push(minute - since);
                asks_since = None;
            }
        }
        assert!(waits.len() >= 4 && waits.iter().all(|minutes| *minutes <= 240), "{waits:?}");
        assert!(dials <= 3 * 24 * PER_PREFIX, "{dials}");
    }
}
