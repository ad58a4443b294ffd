//! Fair shares of what a relay has for others, by where they are: identities and links cost nothing, address ranges cost something
//! (T36).
//!
//! Places are given while a /24 (IPv6: /48) holds less than its part of those that are free, and its /16 (IPv6: /32) less than four
//! times that. So one prefix alone takes a ninth when its part is an eighth, the next a ninth of what is left, and who holds
//! nothing yet gets a place as long as there is any. Overflow: no place, and whoever asked is refused like anyone.
//!
//! The address is that of the hop before us, and whoever sends through an honest relay is counted as that relay: shares part relays
//! and clients that are linked to us, not the people behind them (T36). In a local network everybody may be of one prefix
//! (loopback, or one /24): then all of them together get what one prefix gets, a ninth of what stands and a third of what passes.

use crate::base::net::Group;
use crate::base::net::Prefix;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The part of a prefix in places that are held for long: a carrier's gateway with hundreds of users fits, and so does a busy
/// relay.
pub const STANDING: usize = 8;
/// Its part in places that are held for moments only: a burst of one busy relay fits, and whoever comes next waits for moments
/// only.
pub const PASSING: usize = 2;
/// The part where nobody needs to be kept from anything, as among a client's own links: each takes what there is.
pub const ALONE: usize = 0;
/// How much more a group may hold than a prefix.
pub const GROUP: usize = 4;

/// How many places there are, and who holds them.
///
/// # Invariants
/// Each group and prefix in the maps holds at least one place; their sums are `taken`, which never exceeds `total`.
#[derive(Debug)]
pub struct Crowd {
    total: usize,
    part: usize,
    taken: usize,
    prefixes: BTreeMap<Prefix, usize>,
    groups: BTreeMap<Group, usize>,
}

/// Places of one holder, most often one, to be given back with [`Crowd::leave`].
#[derive(Debug)]
#[must_use = "a place that is not given back is lost"]
pub struct Seat {
    prefix: Prefix,
    group: Group,
    places: usize,
}

impl Seat {
    /// No place yet, of somebody at this address: see [`Crowd::widen`].
    pub fn empty(addr: &SocketAddr) -> Self {
        Self { prefix: Prefix::of(addr), group: Group::of(addr), places: 0 }
    }

    /// How many places it has.
    pub const fn places(&self) -> usize {
        self.places
    }

    /// Whose it is.
    pub const fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Of which group that is.
    pub const fn group(&self) -> Group {
        self.group
    }
}

impl Crowd {
    /// So many places, all free, of which a prefix may hold one `part`th: [`STANDING`], [`PASSING`], or [`ALONE`].
    pub const fn new(total: usize, part: usize) -> Self {
        Self { total, part, taken: 0, prefixes: BTreeMap::new(), groups: BTreeMap::new() }
    }

    /// A place for somebody at this address, if there is one.
    pub fn enter(&mut self, addr: &SocketAddr) -> Option<Seat> {
        let free = self.total - self.taken;
        let (of_group, of_prefix) = self.held(Group::of(addr), Prefix::of(addr));
        if self.part * of_prefix >= free || self.part * of_group >= GROUP * free {
            return None;
        }
        Some(self.take(addr))
    }

    /// Gives somebody's place to somebody at this address, whatever the parts: the caller knows who of the two holds more.
    pub fn hand_over(&mut self, seat: Seat, addr: &SocketAddr) -> Seat {
        self.leave(seat);
        self.take(addr)
    }

    fn take(&mut self, addr: &SocketAddr) -> Seat {
        let mut seat = Seat::empty(addr);
        self.add(&mut seat, 1);
        seat
    }

    fn add(&mut self, seat: &mut Seat, places: usize) {
        if places > 0 {
            seat.places += places;
            self.taken += places;
            *self.prefixes.entry(seat.prefix).or_default() += places;
            *self.groups.entry(seat.group).or_default() += places;
        }
    }

    /// Gives a holder as many of the places it wants as it would get one by one. Returns how many.
    pub fn widen(&mut self, seat: &mut Seat, wanted: usize) -> usize {
        let free = self.total - self.taken;
        let (of_group, of_prefix) = self.held(seat.group, seat.prefix);
        // The place after n more is given while part * (held + n) is less than what is free then, or than four times that.
        let by_prefix = free.saturating_sub(self.part * of_prefix).div_ceil(self.part + 1);
        let by_group = (GROUP * free).saturating_sub(self.part * of_group).div_ceil(self.part + GROUP);
        let more = wanted.min(by_prefix).min(by_group);
        self.add(seat, more);
        more
    }

    /// So many places of a holder are free again.
    pub fn narrow(&mut self, seat: &mut Seat, places: usize) {
        let places = places.min(seat.places);
        seat.places -= places;
        self.taken = self.taken.saturating_sub(places);
        less(&mut self.prefixes, seat.prefix, places);
        less(&mut self.groups, seat.group, places);
    }

    /// All places of a holder are free again.
    pub fn leave(&mut self, mut seat: Seat) {
        self.narrow(&mut seat, usize::MAX);
    }

    /// What a group and a prefix hold.
    pub fn held(&self, group: Group, prefix: Prefix) -> (usize, usize) {
        let of_group = self.groups.get(&group).copied().unwrap_or_default();
        let of_prefix = self.prefixes.get(&prefix).copied().unwrap_or_default();
        (of_group, of_prefix)
    }

    /// The groups that hold any, and how many.
    pub fn groups(&self) -> impl Iterator<Item = (Group, usize)> {
        self.groups.iter().map(|(group, held)| (*group, *held))
    }

    /// Places in all.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Places taken.
    pub const fn taken(&self) -> usize {
        self.taken
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, places: usize) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= places;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(crowd: &mut Crowd, addr: impl Into<SocketAddr>) -> Vec<Seat> {
        let addr = addr.into();
        core::iter::from_fn(|| crowd.enter(&addr)).collect()
    }

    #[test]
    fn one_prefix_gets_its_part_and_one_group_four_times_that() {
        let mut crowd = Crowd::new(9000, STANDING);
        assert_eq!(fill(&mut crowd, ([198, 51, 7, 1], 1)).len(), 1000);
        assert_eq!(fill(&mut crowd, ([198, 51, 7, 200], 9)).len(), 0, "another address of it");
        let of_group: usize = (8..200).map(|n| fill(&mut crowd, ([198, 51, n, 1], 1)).len()).sum();
        assert_eq!(of_group, 2000);
        assert_eq!(fill(&mut crowd, ([198, 52, 7, 1], 1)).len(), 6000 / 9 + 1, "somebody else");

        // A provider's /32 holds 65,536 prefixes of /48.
        let mut crowd = Crowd::new(9000, STANDING);
        let v6 = |n: u16| SocketAddr::from(([0x2001, 0x67c, n, 0, 0, 0, 0, 1], 1));
        let taken: usize = (0..5000).filter_map(|n| crowd.enter(&v6(n))).map(|_seat| 1).sum();
        assert_eq!(taken, 3000);

        assert_eq!(fill(&mut Crowd::new(128, PASSING), ([198, 51, 7, 1], 1)).len(), 43);
        assert_eq!(fill(&mut Crowd::new(1, STANDING), ([198, 51, 7, 1], 1)).len(), 1);
    }

    #[test]
    fn many_places_at_once_are_as_many_as_one_by_one() {
        for part in [ALONE, PASSING, 3, STANDING] {
            for total in [0, 1, 7, 100, 2048] {
                let (mut single, mut many) = (Crowd::new(total, part), Crowd::new(total, part));
                // Two prefixes of a group, and others.
                for at in [[198, 51, 7, 1], [198, 51, 8, 1], [198, 51, 7, 9], [192, 0, 2, 1], [203, 0, 113, 1]] {
                    let addr = SocketAddr::from((at, 1));
                    let mut seat = Seat::empty(&addr);
                    let seats = fill(&mut single, addr);
                    assert_eq!(many.widen(&mut seat, usize::MAX), seats.len(), "{part} {total} {at:?}");
                    assert_eq!(many.widen(&mut seat, 1), 0);
                    let back = seats.len() / 2;
                    seats.into_iter().take(back).for_each(|seat| single.leave(seat));
                    many.narrow(&mut seat, back);
                    assert_eq!((many.taken(), many.prefixes.clone()), (single.taken(), single.prefixes.clone()));
                }
            }
        }
    }

    #[test]
    fn twenty_greedy_prefixes_leave_room_for_a_newcomer() {
        let mut crowd = Crowd::new(50_000, STANDING);
        for n in 0..20 {
            fill(&mut crowd, ([n, 51, 7, 1], 1));
        }
        let newcomer = fill(&mut crowd, ([203, 0, 113, 1], 1));
        assert!(newcomer.len() >= 500, "{}", newcomer.len());
    }

    proptest! {
        #[test]
        fn counts_hold_whatever_comes_and_goes(steps in proptest::collection::vec((any::<bool>(), 0u8..4, 0u8..4), 1..300)) {
            let (mut crowd, mut seats) = (Crowd::new(20, 3), Vec::new());
            for (enters, group, prefix) in steps {
                let known = crowd.prefixes.contains_key(&Prefix::of(&([10, group, prefix, 1], 1).into()));
                let (known_group, free) = (crowd.groups.contains_key(&Group::of(&([10, group, 0, 1], 1).into())), crowd.taken < 20);
                if enters && prefix == 3 && !seats.is_empty() {
                    let seat = seats.swap_remove(usize::from(group) % seats.len());
                    seats.push(crowd.hand_over(seat, &([10, group, prefix, 1], 1).into()));
                } else if enters {
                    let seat = crowd.enter(&([10, group, prefix, 1], 1).into());
                    prop_assert!(seat.is_some() || known || known_group || !free, "a newcomer was refused");
                    seats.extend(seat);
                } else if !seats.is_empty() {
                    crowd.leave(seats.swap_remove(usize::from(prefix) % seats.len()));
                }
                prop_assert_eq!(crowd.taken(), seats.len());
                prop_assert_eq!(crowd.prefixes.values().sum::<usize>(), seats.len());
                prop_assert_eq!(crowd.groups.values().sum::<usize>(), seats.len());
            }
            seats.into_iter().for_each(|seat| crowd.leave(seat));
            prop_assert!(crowd.prefixes.is_empty() && crowd.groups.is_empty());
        }
    }
}
