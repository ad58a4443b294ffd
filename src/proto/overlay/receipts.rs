//! A relay's own receipts (D9): asked of witnesses, renewed one at a time, kept over restarts; and its move to another address, when
//! witnesses answer from there.
//!
//! A host is a relay with two receipts that are a day old, so those are what is kept: the surplus that goes is the newest, and a
//! receipt is renewed long before it ends, while others of a day stand beside it.

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::proto::overlay::Asked;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::Work;
use crate::proto::overlay::addresses;
use crate::proto::overlay::addresses::Addresses;
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
use std::collections::BTreeSet;

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
/// A receipt of this age is renewed: five days are left for it, and for the others after it.
const RENEW_HOURS: u32 = 48;
/// Between two renewals: five fit into those five days, and of five receipts spread like this four are a day old. Of witnesses one
/// in ten is away at any time, and for whoever began meanwhile its word counts for nothing, so two of three would not do.
const RENEW_APART_HOURS: u32 = 24;
/// Receipts of a day that make a host.
const AGED_MIN: usize = 2;
/// When all is well, one witness is asked about this often whether we are still where we were.
const LOOK_EVERY: Duration = Duration::from_secs(1800);
/// Witnesses in distinct groups that must have found us at another address, one after the other and none at ours between them,
/// before it is ours; or all groups but one, where there are fewer. A few that lie together move nobody (T31): they would have to be
/// drawn five times in a row.
const MOVED_MIN: usize = 5;
/// The fewest that are enough in the smallest networks.
const MOVED_LEAST: usize = 2;
/// A relay moves at most this often: its old place is served for a week, and few fit into a descriptor.
const MOVE_APART: Duration = Duration::from_secs(3600);
/// Receipts for other addresses that are remembered.
const ELSEWHERE_MAX: usize = 8;

/// A receipt, and the group of the witness that gave it.
pub(super) type Given = (Group, Receipt);

/// What a relay has from its witnesses.
#[derive(Debug)]
pub(super) struct Receipts {
    next: Time,
    /// The first address as the operator set it: witnesses may find the relay at another.
    set: Option<SocketAddr>,
    list: Vec<Given>,
    asked: BTreeMap<NodeId, Time>,
    /// Rounds without a new receipt: they grow apart.
    fruitless: u32,
    /// Times that a witness was asked and did not come back, since the last that found us where we say.
    in_vain: u32,
    /// Receipts to be replaced: the first ones all come from the few relays that were known at the start.
    replace: u32,
    widened: bool,
    /// The hour of the last renewal.
    renewed: u32,
    looked: Time,
    /// Receipts for addresses that are not ours (yet).
    elsewhere: Vec<Given>,
    /// An address for which there was one and at which we cannot be.
    stray: Option<SocketAddr>,
    moved: Option<Time>,
}

/// Whether it counts.
const fn counts(r: &Receipt, hour: u32) -> bool {
    r.hour.saturating_add(limits::RECEIPT_LIFE_HOURS) > hour
}

/// Whether it shows that the address did not change.
const fn is_aged(r: &Receipt, hour: u32) -> bool {
    r.hour.saturating_add(limits::HOST_AFTER_HOURS) <= hour
}

/// Whether it is time to renew it.
const fn is_due(r: &Receipt, hour: u32) -> bool {
    r.hour.saturating_add(RENEW_HOURS) <= hour
}

impl Receipts {
    /// Those of an earlier run, if any.
    pub(super) const fn new(now: Time, set: Option<SocketAddr>, list: Vec<Given>) -> Self {
        // They came from all over the network: a restart changes nothing in that.
        let widened = list.len() >= limits::RECEIPTS_NEEDED;
        Self {
            next: now,
            set,
            list,
            asked: BTreeMap::new(),
            fruitless: 0,
            in_vain: 0,
            replace: 0,
            widened,
            renewed: 0,
            looked: now,
            elsewhere: Vec::new(),
            stray: None,
            moved: None,
        }
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }

    /// The address changed: receipts are gathered anew, from these on.
    fn begin_anew(&mut self, now: Time, list: Vec<Given>) {
        self.list = list;
        self.asked.clear();
        self.elsewhere.clear();
        self.stray = None;
        self.fruitless = 0;
        self.in_vain = 0;
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

    /// Receipts that still count.
    pub(super) fn counting(&self, wall: Wall) -> Vec<Receipt> {
        let list = self.list.iter().filter(|(_, r)| counts(r, wall.hour()));
        list.map(|(_, r)| r.clone()).take(limits::RECEIPTS_MAX).collect()
    }

    /// How many count, and the hour of the newest of them.
    pub(super) fn counted(&self, hour: u32) -> (u32, Option<u32>) {
        let counting = || self.list.iter().filter(|(_, r)| counts(r, hour));
        (u32::try_from(counting().count()).unwrap_or(u32::MAX), counting().map(|(_, r)| r.hour).max())
    }

    pub(super) const fn in_vain(&self) -> u32 {
        self.in_vain
    }

    pub(super) const fn vain(&mut self) {
        self.in_vain = self.in_vain.saturating_add(1);
    }

    /// Where a witness found us last, if not where we say.
    pub(super) fn elsewhere(&self) -> Option<SocketAddr> {
        self.stray.or_else(|| self.elsewhere.last().map(|(_, r)| r.addr))
    }

    /// None of them is good for anything. False: there was none.
    pub(super) fn forget(&mut self) -> bool {
        !core::mem::take(&mut self.list).is_empty()
    }

    /// The receipt that a new one should replace now: of a witness that left, before all others; else the oldest that is due, if the
    /// last renewal was long enough ago, and receipts enough of a day stay. `known` says who is left.
    fn to_renew(&self, hour: u32, known: impl Fn(&NodeId) -> bool) -> Option<usize> {
        let aged_beside = |i: usize| self.list.iter().enumerate().filter(|(j, (_, r))| *j != i && is_aged(r, hour)).count();
        let left = self.list.iter().position(|(_, r)| !known(&r.witness));
        let rested = self.renewed.saturating_add(RENEW_APART_HOURS) <= hour;
        let due = self.list.iter().enumerate().filter(|(i, (_, r))| rested && is_due(r, hour) && aged_beside(*i) >= AGED_MIN);
        left.or_else(|| due.min_by_key(|(_, (_, r))| r.hour).map(|(i, _)| i))
    }

    /// Keeps a new receipt, if there is a place for it: a free one, that of one to be renewed, or, while receipts are to come from
    /// all over the network, that of the newest. Of one group there is one. False: it was not needed.
    fn keep(&mut self, given: Given, hour: u32, known: impl Fn(&NodeId) -> bool) -> bool {
        self.list.retain(|(_, r)| counts(r, hour));
        let renewed = self.to_renew(hour, known);
        let same = self.list.iter().position(|(group, _)| *group == given.0);
        if same.is_some() && same != renewed {
            return false;
        }
        if same.is_some() || self.list.len() >= limits::RECEIPTS_MAX {
            // Those taken anew stand last, and are not taken anew once more.
            let first = self.list.len().saturating_sub((REPLACED - self.replace) as usize);
            let newest = self.list.iter().take(first).enumerate().filter(|(_, (_, r))| self.replace > 0 && !is_aged(r, hour));
            let newest = newest.max_by_key(|(_, (_, r))| r.hour).map(|(i, _)| i);
            let Some(i) = renewed.or(newest) else { return false };
            self.list.remove(i);
            if renewed.is_some() {
                self.renewed = hour;
            } else {
                self.replace -= 1;
            }
        }
        self.list.push(given);
        true
    }

    /// A receipt for another address than ours. Gives those for it, once witnesses of so many groups found us there, and none at our
    /// own since.
    fn note_elsewhere(&mut self, given: Given, needed: usize) -> Option<Vec<Given>> {
        let addr = given.1.addr;
        self.elsewhere.retain(|(group, _)| *group != given.0);
        if self.elsewhere.len() >= ELSEWHERE_MAX {
            self.elsewhere.remove(0);
        }
        self.elsewhere.push(given);
        let there: Vec<Given> = self.elsewhere.iter().filter(|(_, r)| r.addr == addr).cloned().collect();
        (there.len() >= needed).then_some(there)
    }
}

impl Overlay {
    pub(super) fn tick_receipts(&mut self, env: &mut Env<'_>) {
        if env.now < self.receipts.next {
            return;
        }
        let (local, hour) = (self.view.is_local(), env.wall.hour());
        let known = |node: &NodeId| !self.coverage.ready || self.view.entry(node).is_some();
        let lasting = self.receipts.list.iter().filter(|(_, r)| counts(r, hour) && known(&r.witness)).count();
        let renew = self.receipts.to_renew(hour, known);
        let suspects = !self.receipts.elsewhere.is_empty();
        let mut wait = if local { ROUND_LOCAL } else { ROUND };
        if lasting >= limits::RECEIPTS_NEEDED.max(self.view.needed()) && !suspects {
            // Two more than needed, without haste: they replace witnesses that leave.
            wait = if local { ROUND_CALM_LOCAL } else { ROUND_CALM };
        } else {
            let step = self.receipts.fruitless.min(6);
            self.receipts.fruitless = self.receipts.fruitless.saturating_add(1);
            wait = (wait * 2u32.pow(step / 2)).min(Duration::from_secs(60));
        }
        self.receipts.next = env.now + wait.mul_f64(env.rng.random_range(0.75..1.25));
        let missing = lasting < limits::RECEIPTS_MAX || self.receipts.replace > 0 || suspects;
        let look = self.receipts.looked + LOOK_EVERY <= env.now;
        if !missing && renew.is_none() && !look {
            return;
        }
        self.receipts.looked = env.now;
        let again = if local { ASK_AGAIN_LOCAL } else { ASK_AGAIN };
        self.receipts.asked.retain(|_, at| *at + again > env.now);
        let at_once = if missing { ASK_AT_ONCE } else { 1 };
        for peer in self.witness_candidates(env, renew, !missing).into_iter().take(at_once) {
            if self.receipts.asked.len() >= ASKED_MAX {
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

    /// Relays in groups that no receipt comes from, but for the one that is to be renewed; linked ones first, each group once. Who only
    /// wants to know where it is may ask any.
    fn witness_candidates(&self, env: &mut Env<'_>, renew: Option<usize>, any: bool) -> Vec<Peer> {
        let Some(profile) = &self.config.profile else { return Vec::new() };
        let own = profile.addrs.first().map(Group::of);
        let suspects: BTreeSet<Group> = self.receipts.elsewhere.iter().map(|(group, _)| *group).collect();
        let kept = self.receipts.list.iter().enumerate().filter(|(i, _)| Some(*i) != renew).map(|(_, (group, _))| *group);
        // Whoever seems to have moved asks anew, those that it has receipts from as well, each once.
        let mut groups: Vec<Group> = match (any && renew.is_none(), suspects.is_empty()) {
            (true, true) => Vec::new(),
            (_, false) => suspects.into_iter().collect(),
            (false, true) => kept.collect(),
        };
        let mut peers: Vec<Peer> = Vec::new();
        let linked = self.by_node.iter().filter_map(|(node, link)| Some(Peer { node: *node, addr: self.links.get(link)?.remote }));
        if !self.receipts.widened {
            peers.extend(linked.take(64));
            peers.shuffle(env.rng);
        }
        for _ in 0..16 {
            peers.extend(self.view.random(env.rng).map(|r| Peer { node: r.node(), addr: r.addr() }));
        }
        // Where nobody is usable yet, relays must ask those that wait like themselves, or all wait for ever.
        let start = env.rng.random_range(0..=self.view.newest());
        peers.extend(self.view.pending_from(start, 8).map(|r| Peer { node: r.node(), addr: r.addr() }));
        let (mut good, mut same) = (Vec::new(), Vec::new());
        for peer in peers {
            if peer.node == profile.node || self.receipts.asked.contains_key(&peer.node) {
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
        if good.is_empty() && self.receipts.list.is_empty() {
            good = same;
        }
        good
    }

    pub(super) fn ask_receipt(&mut self, env: &mut Env<'_>, link: LinkId) {
        let Some(node) = self.links.get(&link).and_then(|l| l.node) else { return };
        let Some(port) = self.config.profile.as_ref().and_then(|p| p.addrs.first()).map(SocketAddr::port) else { return };
        if self.receipts.asked.contains_key(&node) {
            return;
        }
        if self.request(env, link, Asked::DialBack, |id| Message::DialBack { id, port }) {
            self.receipts.asked.insert(node, env.now);
        }
    }

    pub(super) fn receipt_reply(&mut self, env: &Env<'_>, link: LinkId, receipt: Option<Blob>) {
        let Some(receipt) = receipt.and_then(|b| Receipt::decode(&b.0).ok()) else { return self.asked_in_vain() };
        let (Some(profile), Some(l)) = (&self.config.profile, self.links.get(&link)) else { return };
        let skew = u32::try_from(limits::SKEW_MAX_SECS / 3600).unwrap_or(u32::MAX) + 1;
        let near = receipt.hour.abs_diff(env.wall.hour()) <= skew;
        if Some(receipt.witness) == l.node && receipt.subject == profile.node && near && self.jobs.len() < JOBS_MAX {
            self.job(Work::CheckReceipt, OverlayJob::VerifyReceipt(Box::new(receipt)));
        }
    }

    pub(super) fn receipt_checked(&mut self, env: &Env<'_>, receipt: Receipt) {
        let known = self.view.entry(&receipt.witness).map(|e| e.relay.group());
        let linked = self.link_to(&receipt.witness).and_then(|l| self.links.get(&l)).map(|l| Group::of(&l.remote));
        let Some(group) = known.or(linked) else { return };
        let Some(current) = self.config.profile.as_ref().and_then(|p| p.addrs.first()).copied() else { return };
        if current != receipt.addr {
            return self.answered_elsewhere(env, current, (group, receipt));
        }
        // We answer where we say: whoever saw us elsewhere saw the past, or invents.
        self.receipts.elsewhere.clear();
        (self.receipts.stray, self.receipts.in_vain) = (None, 0);
        // While the view fills, at a start or after an outage of a day, it lacks witnesses that did not leave: receipts that are a day
        // old would go for new ones, and the host with them.
        let known = |node: &NodeId| !self.coverage.ready || self.view.entry(node).is_some();
        if self.receipts.keep((group, receipt), env.wall.hour(), known) {
            self.receipts.fruitless = 0;
            self.save_addresses();
            self.own_changed(env);
        }
    }

    /// A witness says that it saw us at another address, dialled that, and found us. When enough do, and none finds us at the old one
    /// any more, it is ours.
    fn answered_elsewhere(&mut self, env: &Env<'_>, current: SocketAddr, given: Given) {
        let addr = given.1.addr;
        // It came back, and not to where we say.
        self.asked_in_vain();
        let fits = addr.port() == current.port() && addr.is_ipv4() == current.is_ipv4();
        if !fits || !(self.view.is_local() || net::is_public(&addr)) {
            self.receipts.stray = Some(addr);
            return self.out.push_back(Output::Event(Event::AddressDiffers));
        }
        let rested = self.receipts.moved.is_none_or(|at| at + MOVE_APART <= env.now);
        // Whoever only gets to know the network takes it for small, and two liars among the first for all of it.
        let fewest = if self.coverage.ready { self.view.counts().groups.saturating_sub(1).max(MOVED_LEAST) } else { MOVED_MIN };
        let needed = MOVED_MIN.min(fewest);
        let (there, profile) = (self.receipts.note_elsewhere(given, needed), self.config.profile.clone());
        // More are asked at once.
        self.receipts.next = env.now;
        let (Some(there), Some(mut profile), true) = (there, profile, rested) else { return };
        if let Some(first) = profile.addrs.first_mut() {
            *first = addr;
        }
        self.receipts.moved = Some(env.now);
        self.profile(env, profile);
        self.receipts.begin_anew(env.now, there);
        self.save_addresses();
        self.out.push_back(Output::Event(Event::Moved));
    }

    /// The address changed: nothing that witnesses said of the old one holds.
    pub(super) fn forget_receipts(&mut self, now: Time) {
        self.receipts.begin_anew(now, Vec::new());
    }

    /// Keeps for the next start where we are and were, and who vouches for it.
    pub(super) fn save_addresses(&mut self) {
        let Some(profile) = &self.config.profile else { return };
        let (current, former) = (profile.addrs.first().copied(), profile.old_addrs.clone());
        let kept = Addresses { set: self.receipts.set, current, former, receipts: self.receipts.list.clone() };
        self.out.push_back(Output::Save { name: addresses::SAVED, bytes: kept.encode() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(n: u8, hour: u32) -> Given {
        let addr = SocketAddr::from(([9, 9, 9, 9], 1));
        let receipt = Receipt { witness: NodeId([n; 32]), subject: NodeId([0; 32]), addr, hour, sig: [0; 64] };
        (Group([4, n, 0, 0, 0]), receipt)
    }

    /// Half a year, a witness asked whenever one is wanted, one in three times in vain: from the second day on two receipts of a day
    /// are there in every hour, and none ends unrenewed.
    #[test]
    fn two_receipts_of_a_day_are_there_in_every_hour() {
        for start in [0, 5] {
            let mut receipts = Receipts::new(Time(0), None, Vec::new());
            let mut next = 0u8;
            for hour in 1000..1000 + 24 * 180 {
                receipts.list.retain(|(_, r)| counts(r, hour));
                let wants = receipts.list.len() < limits::RECEIPTS_MAX || receipts.to_renew(hour, |_| true).is_some();
                // All at once at first, as relays do.
                for _ in 0..if hour == 1000 { limits::RECEIPTS_MAX } else { 1 } {
                    if wants && (hour + start) % 3 != 0 {
                        next = next % 250 + 1;
                        receipts.keep(given(next, hour), hour, |_| true);
                    }
                }
                let aged = receipts.list.iter().filter(|(_, r)| is_aged(r, hour)).count();
                assert!(hour < 1026 || aged >= AGED_MIN, "hour {hour}: {aged}");
                assert!(receipts.list.len() <= limits::RECEIPTS_MAX && (hour < 1010 || receipts.list.len() >= 4), "hour {hour}");
            }
        }
    }

    #[test]
    fn the_surplus_that_goes_is_the_newest() {
        let mut receipts = Receipts::new(Time(0), None, Vec::new());
        for (n, hour) in [(1, 100), (2, 101), (3, 125), (4, 126), (5, 127)] {
            assert!(receipts.keep(given(n, hour), hour, |_| true));
        }
        let have = |r: &Receipts| r.list.iter().map(|(_, r)| r.witness.0[0]).collect::<Vec<_>>();
        assert!(!receipts.keep(given(6, 128), 128, |_| true), "there are enough");
        receipts.widen(Time(0));
        assert!(receipts.keep(given(6, 128), 128, |_| true));
        assert_eq!(have(&receipts), [1, 2, 3, 4, 6]);
        assert!(!receipts.keep(given(1, 129), 129, |_| true), "one of each group");
        assert!(receipts.keep(given(7, 129), 129, |_| true) && have(&receipts).starts_with(&[1, 2]));
        assert!(!receipts.keep(given(8, 130), 130, |_| true), "two were replaced");
        // A witness that left the network goes first, whatever its age.
        assert!(receipts.keep(given(9, 131), 131, |node| node.0[0] != 2));
        assert!(have(&receipts).contains(&1) && !have(&receipts).contains(&2));
    }

    /// Of the first receipts, which all come from the few relays that were known then, two give way to others: to two, not to one.
    #[test]
    fn two_of_the_first_receipts_come_from_elsewhere() {
        let mut receipts = Receipts::new(Time(0), None, Vec::new());
        assert!((1..=5).all(|n| receipts.keep(given(n, 100), 100, |_| true)));
        receipts.widen(Time(0));
        assert!(receipts.keep(given(6, 100), 100, |_| true) && receipts.keep(given(7, 101), 101, |_| true));
        let have: Vec<u8> = receipts.list.iter().map(|(_, r)| r.witness.0[0]).collect();
        assert!(have.contains(&6) && have.contains(&7), "{have:?}");
        assert!(!receipts.keep(given(8, 101), 101, |_| true));
    }

    #[test]
    fn a_few_witnesses_move_nobody() {
        let mut receipts = Receipts::new(Time(0), None, Vec::new());
        let at = |n: u8, ip: u8| {
            let (group, mut receipt) = given(n, 5);
            receipt.addr = ([9, 9, 9, ip], 1).into();
            (group, receipt)
        };
        for _ in 0..20 {
            assert!((1..5).all(|n| receipts.note_elsewhere(at(n, 50), MOVED_MIN).is_none()), "four groups, again and again");
        }
        assert!(receipts.note_elsewhere(at(6, 51), MOVED_MIN).is_none(), "another place");
        assert_eq!(receipts.note_elsewhere(at(7, 50), MOVED_MIN).map(|there| there.len()), Some(5));
        (8..200).for_each(|n| drop(receipts.note_elsewhere(at(n, n), MOVED_MIN)));
        assert!(receipts.elsewhere.len() <= ELSEWHERE_MAX);
    }
}
