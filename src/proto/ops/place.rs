//! Giving one chunk's shares to the hosts of its region (D10, D11, D15).
//!
//! Every host of it gets a share, of those that fit its place the one that fewest have; three hosts chosen by chance, and always
//! those in the guard's address groups, get none. In a network with fewer hosts than shares, hosts get several, up to what they may
//! keep. In a region that somebody crowds (T22) a share is offered when a circuit can bring it: hosts have their turn as
//! others end.
//!
//! A late host holds nothing up: what it was to keep is offered to another as well, and the next chunks go on. A chunk is done when
//! everybody asked has answered or failed, so nobody is cut off by others being quick.

use crate::base::NodeId;
use crate::base::limits;
use crate::proto::circuit::origin::RequestId;
use crate::proto::doc::share::EncodedChunk;
use crate::proto::ops::User;
use crate::proto::ops::retrieve::Copy;
use crate::proto::requests::HOSTS_AT_ONCE;
use crate::proto::requests::RegionTag;
use crate::proto::requests::Target;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use crate::wire::request::Store;
use crate::wire::request::Stored;
use crate::wire::request::TICKET_NONE;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// Distinct shares that must be acknowledged before a chunk counts as stored (D16): twice what a reader needs.
pub const STORED_AT: usize = 16;
/// Times that a share is offered to some other host after one refused or was silent.
const ELSEWHERE_MAX: usize = 6;
/// Places beyond those for all shares that quick hosts must have before slow ones are left out: not every share fits every host.
const SPARE_PLACES: usize = 6;
/// Times that a host is asked again because the circuit to it died.
const SAME_HOST_RETRIES: u8 = 3;

/// What a placement came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not done.
    Pending,
    /// Stored, with so many distinct shares acknowledged.
    Stored(usize),
    /// Everyone was asked and too few took a share.
    Failed {
        /// Distinct shares acknowledged.
        acknowledged: usize,
        /// Whether hosts said that they are full.
        full: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Deal {
    index: u8,
    host: NodeId,
    tries: u8,
    /// It is late, and the share was offered elsewhere as well.
    passed: bool,
}

/// One chunk copy on its way to its hosts.
#[derive(Debug)]
pub struct Placement {
    chunk: Arc<EncodedChunk>,
    salt: [u8; 16],
    kind: SessionType,
    region: RegionTag,
    members: Option<Arc<BTreeSet<NodeId>>>,
    lease_days: u16,
    hosts: Vec<NodeId>,
    /// Which shares each host takes.
    takes: BTreeMap<NodeId, u32>,
    max_per_host: usize,
    /// What each host was offered.
    offered: BTreeMap<NodeId, BTreeSet<u8>>,
    asked: BTreeMap<RequestId, Deal>,
    /// What is dealt and not offered yet.
    dealt: VecDeque<Deal>,
    elsewhere: BTreeMap<u8, usize>,
    acknowledged: BTreeSet<u8>,
    full: bool,
    /// Which shares each host says that it holds.
    pub holders: BTreeMap<NodeId, BTreeSet<u8>>,
    /// Offers that came to nothing.
    pub refused: u64,
}

impl Placement {
    /// Deals a chunk's shares and sends them off.
    pub(in crate::proto) fn start(
        user: &mut User<'_, '_, '_>,
        tag: u64,
        chunk: Arc<EncodedChunk>,
        copy: Copy,
        lease_days: u16,
    ) -> Self {
        let (place, takes) = user.writers(&copy.address);
        let mut placement = Self {
            salt: copy.salt,
            kind: SessionType { kind: Kind::Store, class: chunk.class },
            chunk,
            region: if place.everyone { 0 } else { tag },
            members: (!place.everyone).then_some(place.members),
            lease_days,
            hosts: place.hosts,
            takes,
            max_per_host: place.max_per_host,
            offered: BTreeMap::new(),
            asked: BTreeMap::new(),
            dealt: VecDeque::new(),
            elsewhere: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            full: false,
            holders: BTreeMap::new(),
            refused: 0,
        };
        placement.deal(user, tag);
        placement
    }

    fn deal(&mut self, user: &mut User<'_, '_, '_>, tag: u64) {
        // Who was late with other chunks is left out while there is room without.
        let slow = user.pace.slow();
        let quick = self.hosts.iter().filter(|host| !slow.contains(host)).count();
        if quick * self.max_per_host >= limits::SHARES_TOTAL + SPARE_PLACES {
            self.hosts.retain(|host| !slow.contains(host));
        }
        let mut order: Vec<u8> = (0..limits::SHARES_TOTAL as u8).collect();
        order.shuffle(&mut *user.ctx.env.rng);
        self.dealt = deal(&order, &self.hosts, |host| self.takes.get(host).copied().unwrap_or(0), self.max_per_host)
            .into_iter()
            .map(|(host, index)| Deal { index, host, tries: 0, passed: false })
            .collect();
        self.go_on(user, tag);
    }

    /// Offers what is dealt, to as many as circuits can reach.
    fn go_on(&mut self, user: &mut User<'_, '_, '_>, tag: u64) {
        while self.asked.len() < HOSTS_AT_ONCE
            && let Some(deal) = self.dealt.pop_front()
        {
            self.offer(user, tag, deal);
        }
    }

    fn offer(&mut self, user: &mut User<'_, '_, '_>, tag: u64, deal: Deal) {
        let blob = self.chunk.share_blob(deal.index, self.salt);
        let store = Store { lease_days: self.lease_days, ticket: (TICKET_NONE, &[]), blob: &blob };
        let target = Target { host: deal.host, region: self.region, members: self.members.clone() };
        let request = user.ask(tag, target, self.kind, store.to_bytes());
        self.offered.entry(deal.host).or_default().insert(deal.index);
        self.asked.insert(request, deal);
    }

    /// A host answered.
    pub(in crate::proto) fn answer(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        answer: Option<Stored>,
    ) -> Outcome {
        if let Some(deal) = self.asked.remove(&request) {
            user.pace.caught_up(&deal.host);
            let holds: Vec<u8> = match answer {
                Some(Stored::Stored | Stored::AlreadyHeld) => vec![deal.index],
                // From an earlier publication of the same document.
                Some(Stored::HoldsEnough { held }) => (0..limits::SHARES_TOTAL as u8)
                    .filter(|index| held >> index & 1 == 1 && self.takes(&deal.host, *index))
                    .collect(),
                Some(Stored::Full | Stored::TooFar | Stored::Invalid | Stored::TicketWanted) | None => Vec::new(),
            };
            if holds.is_empty() {
                self.full |= answer == Some(Stored::Full);
                self.refused += 1;
            } else {
                let held = self.holders.entry(deal.host).or_default();
                self.acknowledged.extend(holds.into_iter().filter(|index| believed(held, *index, self.max_per_host)));
            }
            self.elsewhere(user, tag, deal);
            self.go_on(user, tag);
        }
        self.outcome()
    }

    /// A request failed.
    pub(in crate::proto) fn failed(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        host_to_blame: bool,
    ) -> Outcome {
        if let Some(deal) = self.asked.remove(&request) {
            if !host_to_blame && deal.tries < SAME_HOST_RETRIES {
                self.offer(user, tag, Deal { tries: deal.tries + 1, passed: false, ..deal });
            } else {
                self.refused += 1;
                self.elsewhere(user, tag, deal);
            }
            self.go_on(user, tag);
        }
        self.outcome()
    }

    /// What is placed.
    pub const fn chunk(&self) -> &Arc<EncodedChunk> {
        &self.chunk
    }

    /// Requests that are awaited.
    pub fn awaited(&self) -> impl Iterator<Item = RequestId> {
        self.asked.keys().copied()
    }

    /// Offers the shares of hosts that are late to others as well.
    pub(in crate::proto) fn hurry(&mut self, user: &mut User<'_, '_, '_>, tag: u64) {
        // Before anything was heard it may be the own line, which a share more would make slower still.
        if !user.pace.knows() {
            return;
        }
        let mut late = Vec::new();
        for (request, deal) in self.asked.iter_mut().filter(|(_, deal)| !deal.passed) {
            if user.is_late(*request) {
                deal.passed = true;
                user.pace.fell_behind(deal.host);
                late.push(*deal);
            }
        }
        for deal in late {
            let waits = self.asked.values().any(|d| d.index == deal.index && !d.passed);
            if !waits {
                self.elsewhere(user, tag, deal);
            }
        }
    }

    /// Whether it is stored but for the word of hosts that are late.
    pub fn is_late(&self) -> bool {
        self.acknowledged.len() >= STORED_AT && self.dealt.is_empty() && self.asked.values().all(|deal| deal.passed)
    }

    /// Bytes of shares that are to be offered or await their answer; not those of late hosts, which hold nothing up.
    pub fn under_way(&self) -> usize {
        let awaited = self.asked.values().filter(|deal| !deal.passed).count();
        (awaited + self.dealt.len()) * self.chunk.class.share_len()
    }

    /// Bytes of shares that hosts said they have.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len() * self.chunk.class.share_len()
    }

    /// Whether a share fits a host.
    fn takes(&self, host: &NodeId, index: u8) -> bool {
        self.takes.get(host).is_some_and(|fit| fit >> index & 1 == 1)
    }

    /// Offers a share to the host that was offered least, of those that it fits, that have room and were not offered it yet.
    fn elsewhere(&mut self, user: &mut User<'_, '_, '_>, tag: u64, deal: Deal) {
        if self.acknowledged.contains(&deal.index) {
            return;
        }
        let tried = self.elsewhere.entry(deal.index).or_default();
        *tried += 1;
        if *tried > ELSEWHERE_MAX {
            return;
        }
        let offered = |host: &NodeId| self.offered.get(host).map_or(0, BTreeSet::len);
        let again = |host: &NodeId| self.offered.get(host).is_some_and(|o| o.contains(&deal.index));
        let next =
            self.hosts.iter().filter(|host| self.takes(host, deal.index) && offered(host) < self.max_per_host && !again(host));
        if let Some(host) = next.min_by_key(|host| offered(host)).copied() {
            self.offer(user, tag, Deal { host, tries: 0, passed: false, ..deal });
        }
    }

    fn outcome(&self) -> Outcome {
        let acknowledged = self.acknowledged.len();
        if !self.asked.is_empty() || !self.dealt.is_empty() {
            Outcome::Pending
        } else if acknowledged >= STORED_AT {
            Outcome::Stored(acknowledged)
        } else {
            Outcome::Failed { acknowledged, full: self.full }
        }
    }

    /// Whether nobody could be asked at all.
    pub fn is_stuck(&self) -> bool {
        self.asked.is_empty()
    }
}

/// Deals shares: each host one that fits it, of those the one that fewest have; then each that nobody has to the host with the most
/// room that it fits. `order` says who is first where all else is equal.
fn deal(order: &[u8], hosts: &[NodeId], takes: impl Fn(&NodeId) -> u32, most: usize) -> Vec<(NodeId, u8)> {
    let fits = |host: &NodeId, index: u8| takes(host) >> index & 1 == 1;
    let mut times: BTreeMap<u8, usize> = order.iter().map(|index| (*index, 0)).collect();
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut dealt = Vec::with_capacity(hosts.len().max(order.len()));
    let mut give = |host: NodeId, index: u8, times: &mut BTreeMap<u8, usize>, load: &mut BTreeMap<NodeId, usize>| {
        dealt.push((host, index));
        *times.entry(index).or_default() += 1;
        *load.entry(host).or_default() += 1;
    };
    for host in hosts {
        let fewest = order.iter().filter(|index| fits(host, **index)).min_by_key(|index| times.get(index));
        if let Some(index) = fewest {
            give(*host, *index, &mut times, &mut load);
        }
    }
    for index in order {
        let room = |host: &&NodeId| fits(host, *index) && load.get(host).is_none_or(|n| *n < most);
        let least = hosts.iter().filter(room).min_by_key(|host| load.get(host));
        if let (Some(0), Some(host)) = (times.get(index), least) {
            give(*host, *index, &mut times, &mut load);
        }
    }
    dealt
}

/// Whether a host is believed to hold this share as well: whatever it says, in however many answers, it holds no more than it may.
fn believed(held: &mut BTreeSet<u8>, index: u8, most: usize) -> bool {
    held.contains(&index) || (held.len() < most && held.insert(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::base::Position;
    use crate::proto::overlay::region;
    use proptest::prelude::*;

    proptest! {
        /// Whatever chance gives: every host has a share, none more than it keeps or one that does not fit, and of 24 shares hardly one
        /// finds nobody.
        #[test]
        fn every_host_gets_a_share_that_fits_and_nearly_every_share_a_host(address: [u8; 32], hosts in 2_u8..60) {
            let most = region::shares_kept(usize::from(hosts));
            let takes = |host: &NodeId| region::takes(&Address(address), &Position(host.0), most);
            let hosts: Vec<NodeId> = (0..hosts).map(|n| NodeId([n; 32])).collect();
            let order: Vec<u8> = (0..24).collect();
            let dealt = deal(&order, &hosts, takes, most);
            for host in &hosts {
                let own: BTreeSet<u8> = dealt.iter().filter(|(h, _)| h == host).map(|(_, index)| *index).collect();
                let times = dealt.iter().filter(|(h, _)| h == host).count();
                prop_assert!((1..=most).contains(&times) && own.len() == times, "{} of {}", times, most);
                prop_assert!(own.iter().all(|index| takes(host) >> index & 1 == 1));
            }
            let found: BTreeSet<u8> = dealt.iter().map(|(_, index)| *index).collect();
            prop_assert!(dealt.len() <= hosts.len().max(24) + 8 && found.len() >= STORED_AT + 2, "{} of {}", found.len(), dealt.len());
        }
    }

    #[test]
    fn a_host_is_believed_to_hold_as_many_shares_as_it_may_and_no_more() {
        let mut held = BTreeSet::new();
        let said: Vec<u8> = (0..24).chain(0..24).filter(|index| believed(&mut held, *index, 2)).collect();
        assert_eq!(said, [0, 1, 0, 1]);
    }
}
