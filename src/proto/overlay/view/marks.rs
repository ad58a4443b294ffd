//! Whose word held, and whose was in vain.
//!
//! A receipt is a word of two about each other: the witness about its subject, and the subject, by showing it, about the witness.
//! When a relay answers us, whoever spoke for it gets a good mark; when one that never did does not answer, a bad one. Only relays
//! that answered us are marked, for the others are dialled themselves.
//!
//! Marks are kept by network prefix on both sides, because identities cost nothing: a speaker is a /24, and what is spoken for is a
//! /24. So nobody gets more good marks by naming many relays of his own at one address, and nobody can put more than one bad mark
//! on an honest witness for each /24 that he had, was witnessed in, and left.

use crate::base::Time;
use crate::base::limits;
use crate::base::net::Prefix;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A speaker with so many more bad marks than good ones is believed no more. Relays leave, so an honest witness has spoken for some
/// that are gone: with one in five gone, of ten marks seven are bad once in a thousand times. A liar without good marks has three
/// relays believed.
const IN_VAIN_MAX: usize = 2;
/// Most marks.
const MARKS_MAX: usize = 65_536;
const DAY_US: u64 = 86_400_000_000;

#[derive(Clone, Copy, Debug)]
struct Mark {
    day: u64,
    /// The relay, by its hint, that did not answer; only its own answer takes that back.
    vain: Option<u64>,
}

/// Marks by speaker and what was spoken for.
#[derive(Debug)]
pub(super) struct Marks {
    marks: BTreeMap<(Prefix, Prefix), Mark>,
    /// How many of them are bad: mostly none.
    vain: usize,
    /// Speakers that are believed no more.
    unbelieved: BTreeSet<Prefix>,
}

const LOWEST: Prefix = Prefix([0; 7]);
const HIGHEST: Prefix = Prefix([0xff; 7]);

impl Marks {
    pub(super) const fn new() -> Self {
        Self { marks: BTreeMap::new(), vain: 0, unbelieved: BTreeSet::new() }
    }

    /// Whether this speaker's word about relays of this prefix counts.
    pub(super) fn believes(&self, speaker: &Prefix, about: &Prefix) -> bool {
        let good = || self.marks.get(&(*speaker, *about)).is_none_or(|m| m.vain.is_none());
        self.vain == 0 || (!self.unbelieved.contains(speaker) && good())
    }

    /// The relay with this hint answered, or did not. True if other words of the speaker count now, or count no more.
    pub(super) fn note(&mut self, now: Time, speaker: Prefix, about: Prefix, hint: u64, answered: bool) -> bool {
        let day = now.0 / DAY_US;
        if self.marks.len() >= MARKS_MAX && !self.marks.contains_key(&(speaker, about)) {
            let oldest = self.marks.values().map(|m| m.day).min().unwrap_or(0);
            self.retain(|m| m.day > oldest);
        }
        let known = self.marks.get(&(speaker, about)).copied();
        let old = known.and_then(|m| m.vain);
        let vain = if answered { old.filter(|v| *v != hint) } else { Some(hint) };
        self.marks.insert((speaker, about), Mark { day, vain });
        self.vain = self.vain + usize::from(vain.is_some()) - usize::from(old.is_some());
        let changed = old.is_some() != vain.is_some();
        if known.is_some() && !changed {
            return false;
        }
        let before = self.unbelieved.contains(&speaker);
        self.weigh(speaker);
        changed || before != self.unbelieved.contains(&speaker)
    }

    /// Forgets marks older than any receipt that counts.
    pub(super) fn expire(&mut self, now: Time) {
        let day = now.0 / DAY_US;
        self.retain(|m| m.day + u64::from(limits::RECEIPT_LIFE_HOURS / 24) >= day);
    }

    fn retain(&mut self, keep: impl Fn(&Mark) -> bool) {
        self.marks.retain(|_, m| keep(m));
        self.vain = self.marks.values().filter(|m| m.vain.is_some()).count();
        for speaker in core::mem::take(&mut self.unbelieved) {
            self.weigh(speaker);
        }
    }

    fn weigh(&mut self, speaker: Prefix) {
        let (mut good, mut bad) = (0, 0);
        for mark in self.marks.range((speaker, LOWEST)..=(speaker, HIGHEST)).map(|(_, m)| m) {
            *(if mark.vain.is_some() { &mut bad } else { &mut good }) += 1;
        }
        if bad > good + IN_VAIN_MAX {
            self.unbelieved.insert(speaker);
        } else {
            self.unbelieved.remove(&speaker);
        }
    }

    pub(super) fn check(&self) {
        assert!(self.marks.len() <= MARKS_MAX && self.unbelieved.len() <= self.vain);
        assert_eq!(self.vain, self.marks.values().filter(|m| m.vain.is_some()).count());
    }
}
