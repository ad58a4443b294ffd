//! Dial-back (D9): a relay shows where it is by being dialled there.
//!
//! A witness dials only the address it sees the requester at, at the port that the requester names; expects the requester's
//! identity; and answers with a receipt or with nothing. One per /24 and hour. So nobody can aim it at a third party's address, and
//! what a third party's *port* on the requester's own address gets is one TLS handshake per hour, or three that fail.

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::overlay::Asked;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::Event;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::io::Peer;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Message;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use core::time::Duration;
use rand::RngExt;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;

/// Most dial-backs under way for others.
pub(super) const IN_FLIGHT_MAX: usize = 128;
/// Prefixes remembered as served, shared out by [`Crowd`]: one group cannot fill it. Who finds no place is not served until some
/// are forgotten.
const SERVED_MAX: usize = 4096;
/// A prefix is served once in this time.
const SERVED_FOR: Duration = Duration::from_secs(3600);
/// After a dial that failed it is served again sooner: the fault may be the network's, or another relay's of its prefix. Not much
/// sooner, for what was dialled may be a stranger's port.
const FAILED_FOR: Duration = Duration::from_secs(1200);
/// In a local network many relays share a prefix: once per address in this time.
const SERVED_FOR_LOCAL: Duration = Duration::from_secs(1);
/// Witnesses remembered as asked.
const ASKED_MAX: usize = 256;
/// A witness is not asked again for this long (it would refuse).
const ASK_AGAIN: Duration = Duration::from_secs(3700);
const ASK_AGAIN_LOCAL: Duration = Duration::from_secs(3);
/// Between two rounds of asking while receipts are missing; and when all is well.
const ROUND: Duration = Duration::from_secs(2);
const ROUND_LOCAL: Duration = Duration::from_millis(100);
const ROUND_CALM: Duration = Duration::from_secs(600);
const ROUND_CALM_LOCAL: Duration = Duration::from_secs(2);
/// Witnesses asked in one round.
const ASK_AT_ONCE: usize = 3;
/// Receipts taken anew once the view is whole.
const REPLACED: u32 = 2;
/// Receipts are renewed this many days before they stop counting.
const RENEW_DAYS: u32 = 2;

/// Both sides of dial-back.
#[derive(Debug)]
pub struct Witness {
    next: Time,
    receipts: Vec<(Group, Receipt)>,
    asked: BTreeMap<NodeId, Time>,
    /// Until when each is not served again.
    served: BTreeMap<(Prefix, Option<SocketAddr>), (Time, Seat)>,
    places: Crowd,
    /// Rounds without a new receipt: they grow apart.
    fruitless: u32,
    /// Receipts to be replaced: the first ones all come from the few relays that were known at the start.
    replace: u32,
    widened: bool,
}

impl Witness {
    pub(super) fn new(now: Time) -> Self {
        let (asked, served, places) = (BTreeMap::new(), BTreeMap::new(), Crowd::new(SERVED_MAX, STANDING));
        Self { next: now, receipts: Vec::new(), asked, served, places, fruitless: 0, replace: 0, widened: false }
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }

    /// No link is held for a dial-back longer than its dial.
    pub(super) const fn uses(&self, _link: LinkId) -> bool {
        false
    }

    /// The address changed: receipts are gathered anew.
    pub(super) fn moved(&mut self, now: Time) {
        self.receipts.clear();
        self.asked.clear();
        self.fruitless = 0;
        self.next = now;
    }

    /// The view is whole: two receipts are taken anew from witnesses all over the network, so that chains of receipts lead
    /// everywhere.
    pub(super) const fn widen(&mut self, now: Time) {
        if !self.widened {
            self.widened = true;
            self.replace = REPLACED;
            self.next = now;
        }
    }

    /// A place among those served, until then; `None` if it is served already, or there is no place.
    fn serve(&mut self, key: (Prefix, Option<SocketAddr>), addr: &SocketAddr, now: Time, until: Time) -> Option<()> {
        if self.served.get(&key).is_some_and(|(until, _)| *until > now) {
            return None;
        }
        self.unserve(&key);
        let seat = match self.places.enter(addr) {
            Some(seat) => seat,
            None => {
                let over: Vec<_> = self.served.iter().filter(|(_, (until, _))| *until <= now).map(|(key, _)| *key).collect();
                over.iter().for_each(|key| self.unserve(key));
                self.places.enter(addr)?
            }
        };
        self.served.insert(key, (until, seat));
        Some(())
    }

    fn unserve(&mut self, key: &(Prefix, Option<SocketAddr>)) {
        if let Some((_, seat)) = self.served.remove(key) {
            self.places.leave(seat);
        }
    }

    /// Receipts that still count.
    pub(super) fn receipts(&self, wall: Wall) -> Vec<Receipt> {
        let counts = |r: &&(Group, Receipt)| r.1.day.saturating_add(limits::RECEIPT_LIFE_DAYS) > wall.day();
        self.receipts.iter().filter(counts).map(|(_, r)| r.clone()).take(limits::RECEIPTS_MAX).collect()
    }

    /// Receipts that need no renewal yet.
    fn lasting(&self, wall: Wall) -> usize {
        let lasts = |r: &&(Group, Receipt)| r.1.day.saturating_add(limits::RECEIPT_LIFE_DAYS - RENEW_DAYS) > wall.day();
        self.receipts.iter().filter(lasts).count()
    }

    /// Keeps the receipt; of one group only the newest, of all the five best: old ones show that the address did not change.
    fn keep(&mut self, group: Group, receipt: Receipt, wall: Wall) {
        self.receipts.retain(|(_, r)| r.day.saturating_add(limits::RECEIPT_LIFE_DAYS) > wall.day());
        let renewed =
            |(g, r): &(Group, Receipt)| *g == group && r.day.saturating_add(limits::RECEIPT_LIFE_DAYS - RENEW_DAYS) <= wall.day();
        self.receipts.retain(|entry| !renewed(entry));
        if self.receipts.iter().any(|(g, _)| *g == group) {
            return;
        }
        if self.receipts.len() >= limits::RECEIPTS_MAX
            && let Some(i) = self.receipts.iter().enumerate().min_by_key(|(_, (_, r))| r.day).map(|(i, _)| i)
        {
            self.receipts.remove(i);
            self.replace = self.replace.saturating_sub(1);
        }
        self.receipts.push((group, receipt));
    }
}

impl Overlay {
    // --- as the one to be witnessed

    pub(super) fn tick_witness(&mut self, env: &mut Env<'_>) {
        if env.now < self.witness.next {
            return;
        }
        let local = self.view.is_local();
        let lasting = self.witness.lasting(env.wall);
        let enough = lasting >= limits::RECEIPTS_NEEDED.max(self.view.needed());
        let mut wait = if local { ROUND_LOCAL } else { ROUND };
        if enough {
            // Two more than needed, without haste: they replace witnesses that leave.
            wait = if local { ROUND_CALM_LOCAL } else { ROUND_CALM };
        } else {
            let step = self.witness.fruitless.min(6);
            self.witness.fruitless = self.witness.fruitless.saturating_add(1);
            wait = (wait * 2u32.pow(step / 2)).min(Duration::from_secs(60));
        }
        self.witness.next = env.now + wait.mul_f64(env.rng.random_range(0.75..1.25));
        if lasting >= limits::RECEIPTS_MAX && self.witness.replace == 0 {
            return;
        }
        let again = if local { ASK_AGAIN_LOCAL } else { ASK_AGAIN };
        self.witness.asked.retain(|_, at| *at + again > env.now);
        for peer in self.witness_candidates(env).into_iter().take(ASK_AT_ONCE) {
            if self.witness.asked.len() >= ASKED_MAX {
                break;
            }
            match self.link_to(&peer.node) {
                Some(link) => self.ask_receipt(env, link),
                None => {
                    self.dial(env, peer, Purpose::Ask);
                }
            }
        }
    }

    /// Relays in groups that no receipt comes from, linked ones first, each group once.
    fn witness_candidates(&self, env: &mut Env<'_>) -> Vec<Peer> {
        let Some(profile) = &self.config.profile else { return Vec::new() };
        let own = profile.addrs.first().map(Group::of);
        let have: Vec<Group> = self.witness.receipts.iter().map(|(g, _)| *g).collect();
        let mut peers: Vec<Peer> = Vec::new();
        let linked = self.by_node.iter().filter_map(|(node, link)| Some(Peer { node: *node, addr: self.links.get(link)?.remote }));
        if !self.witness.widened {
            peers.extend(linked.take(64));
            peers.shuffle(env.rng);
        }
        for _ in 0..16 {
            peers.extend(self.view.random(env.rng).map(|r| Peer { node: r.node(), addr: r.addr() }));
        }
        // Where nobody is usable yet, relays must ask those that wait like themselves, or all wait for ever.
        let start = env.rng.random_range(0..=self.view.newest());
        peers.extend(self.view.pending_from(start, 8).map(|r| Peer { node: r.node(), addr: r.addr() }));
        let mut groups = have;
        let (mut good, mut same) = (Vec::new(), Vec::new());
        for peer in peers {
            if peer.node == profile.node || self.witness.asked.contains_key(&peer.node) {
                continue;
            }
            let group = Group::of(&peer.addr);
            if Some(group) == own {
                same.push(peer);
            } else if !groups.contains(&group) {
                groups.push(group);
                good.push(peer);
            }
        }
        // In a network of one group a receipt from it is all there is: it makes us seen.
        if good.is_empty() && self.witness.receipts.is_empty() {
            good = same;
        }
        good
    }

    pub(super) fn ask_receipt(&mut self, env: &mut Env<'_>, link: LinkId) {
        let Some(node) = self.links.get(&link).and_then(|l| l.node) else { return };
        let Some(port) = self.config.profile.as_ref().and_then(|p| p.addrs.first()).map(SocketAddr::port) else { return };
        if self.witness.asked.contains_key(&node) {
            return;
        }
        if self.request(env, link, Asked::DialBack, |id| Message::DialBack { id, port }) {
            self.witness.asked.insert(node, env.now);
        }
    }

    pub(super) fn receipt_reply(&mut self, env: &Env<'_>, link: LinkId, receipt: Option<Blob>) {
        let Some(receipt) = receipt.and_then(|b| Receipt::decode(&b.0).ok()) else { return };
        let (Some(profile), Some(l)) = (&self.config.profile, self.links.get(&link)) else { return };
        let near = receipt.day.abs_diff(env.wall.day()) <= 1;
        if Some(receipt.witness) != l.node || receipt.subject != profile.node || !near {
            return;
        }
        if profile.addrs.first() != Some(&receipt.addr) {
            self.out.push_back(Output::Event(Event::AddressDiffers));
            return;
        }
        if self.jobs.len() < JOBS_MAX {
            self.job(Work::CheckReceipt, OverlayJob::VerifyReceipt(Box::new(receipt)));
        }
    }

    pub(super) fn receipt_checked(&mut self, env: &Env<'_>, receipt: Receipt) {
        let known = self.view.entry(&receipt.witness).map(|e| e.relay.group());
        let linked = self.link_to(&receipt.witness).and_then(|l| self.links.get(&l)).map(|l| Group::of(&l.remote));
        let Some(group) = known.or(linked) else { return };
        let current = self.config.profile.as_ref().and_then(|p| p.addrs.first());
        if current != Some(&receipt.addr) {
            return;
        }
        self.witness.keep(group, receipt, env.wall);
        self.witness.fruitless = 0;
        self.own_changed(env);
    }

    // --- as witness

    pub(super) fn dial_back(&mut self, env: &Env<'_>, link: LinkId, id: u32, port: u16) {
        let no = Message::DialBackReply { id, receipt: None };
        let Some((Some(subject), remote)) = self.links.get(&link).map(|l| (l.node, l.remote)) else {
            return self.send(env.now, link, &no);
        };
        // The observed address, never one that the requester names.
        let addr = SocketAddr::new(remote.ip().to_canonical(), port);
        let local = self.view.is_local();
        let allowed = port != 0 && (local || net::is_public(&addr));
        let under_way = self.dials.values().filter(|d| matches!(d.purpose, Purpose::DialBack { .. })).count();
        let key = (Prefix::of(&addr), local.then_some(addr));
        let hold = if local { SERVED_FOR_LOCAL } else { SERVED_FOR };
        let busy = !allowed || under_way >= IN_FLIGHT_MAX;
        if busy || self.witness.serve(key, &addr, env.now, env.now + hold).is_none() {
            return self.send(env.now, link, &no);
        }
        let purpose = Purpose::DialBack { link, id, subject, addr };
        if !self.dial(env, Peer { addr, node: subject }, purpose) {
            self.witness.unserve(&key);
            self.send(env.now, link, &no);
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
            let served = self.witness.served.get_mut(&(Prefix::of(&addr), None));
            served.into_iter().for_each(|(until, _)| *until = (*until).min(env.now + FAILED_FOR));
        }
        let proven = new.filter(|n| *n != asker && self.links.get(n).is_some_and(|l| l.dialled));
        if let Some(new) = new.filter(|n| *n != asker) {
            self.out.push_back(Output::Release { link: new });
        }
        if proven.is_some() && self.jobs.len() < JOBS_MAX + IN_FLIGHT_MAX {
            // The link itself proved the subject (`link_up`).
            let day = env.wall.day();
            self.job(Work::SignReceipt { link: asker, id }, OverlayJob::SignReceipt { subject, addr, day });
        } else {
            self.send(env.now, asker, &Message::DialBackReply { id, receipt: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_does_not_fill_the_list_of_those_served() {
        let mut witness = Witness::new(Time(0));
        let hold = Time(0) + SERVED_FOR;
        let mut ask = |addr: SocketAddr, now| witness.serve((Prefix::of(&addr), None), &addr, now, now + SERVED_FOR).is_some();
        let of_group = |n: u16| SocketAddr::from(([0x2001, 0x67c, n, 0, 0, 0, 0, 1], 1));
        let served = (0..10_000).filter(|n| ask(of_group(*n), Time(0))).count();
        assert!((1000..SERVED_MAX / 2).contains(&served), "{served}");
        let other = SocketAddr::from(([198, 51, 100, 1], 1));
        assert!(ask(other, Time(0)), "everyone else is served");
        assert!(!ask(other, Time(1)), "once");
        assert!(!ask(of_group(9_999), Time(1)));
        assert!(ask(other, hold) && ask(of_group(9_999), hold), "an hour later there is room");
        witness.unserve(&(Prefix::of(&other), None));
        assert!(witness.serve((Prefix::of(&other), None), &other, hold, hold + SERVED_FOR).is_some(), "one that was not dialled");
    }
}
