//! What changed in the view, for those who read it as a list (D8): whoever asks again hears only of that.

use crate::proto::overlay::record::Verified;
use core::ops::Bound;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Fewest relays that are remembered of those who went: in a small network, everyone who ever went.
const GONE_MIN: usize = 1024;

/// One change of the usable relays.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// This one came, or has another descriptor, or hosts now, or no more.
    Came(&'a Arc<Verified>),
    /// The one with this hint is gone.
    Gone(u64),
}

/// How far somebody has read: two numbers, for a whole list is read in the order of coming, and whoever goes meanwhile is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who came up to this number is known.
    pub came: u64,
    /// Who went up to this number is known.
    pub gone: u64,
}

/// Some changes: those who went before those who came. Who is in neither is as it was.
#[derive(Debug)]
pub struct Changes<'a> {
    /// Who went and who came, each oldest first.
    pub list: Vec<Change<'a>>,
    /// Where to go on.
    pub next: Mark,
    /// Whether there are more.
    pub more: bool,
}

/// Usable relays in the order of their coming, and who ceased to be.
///
/// # Invariants
/// Nobody is in both; numbers are at most `newest`; `gone` and `gone_of` hold the same.
#[derive(Debug)]
pub(super) struct Log {
    newest: u64,
    /// Usable relays by the number of their arrival, or last change.
    came: BTreeMap<u64, Arc<Verified>>,
    /// Hints of who went, by the number of that change.
    gone: BTreeMap<u64, u64>,
    gone_of: BTreeMap<u64, u64>,
    /// Who went up to this number is not all known any more.
    forgotten: u64,
}

impl Log {
    pub(super) const fn new() -> Self {
        Self { newest: 0, came: BTreeMap::new(), gone: BTreeMap::new(), gone_of: BTreeMap::new(), forgotten: 0 }
    }

    /// The number of the newest change.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// A new number.
    pub(super) const fn number(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// A relay is usable, or is so anew, from this number on. That it went is not worth telling any more.
    pub(super) fn came(&mut self, number: u64, relay: Arc<Verified>) {
        if let Some(went) = self.gone_of.remove(&relay.hint_id()) {
            self.gone.remove(&went);
        }
        self.came.insert(number, relay);
    }

    /// What came with this number is changing.
    pub(super) fn remove(&mut self, number: u64) {
        self.came.remove(&number);
    }

    /// A relay ceased to be usable. One that comes and goes has one place: it makes nobody forget others.
    pub(super) fn went(&mut self, hint: u64) {
        let number = self.number();
        if let Some(before) = self.gone_of.insert(hint, number) {
            self.gone.remove(&before);
        }
        self.gone.insert(number, hint);
        while self.gone.len() > self.gone_max() {
            if let Some((number, hint)) = self.gone.pop_first() {
                self.gone_of.remove(&hint);
                self.forgotten = number;
            }
        }
    }

    /// How many are remembered of those who went: beyond a quarter of all, a whole list costs its reader hardly more.
    fn gone_max(&self) -> usize {
        GONE_MIN.max(self.came.len() / 4)
    }

    /// Everything, from the beginning, at most `max` of it.
    pub(super) fn all(&self, max: usize) -> Changes<'_> {
        // Who begins has nobody to forget.
        self.after(Mark { came: 0, gone: self.newest }, max)
    }

    /// What changed since, at most `max` of it. `None` if that lies so far back that it is not known any more.
    pub(super) fn since(&self, mark: Mark, max: usize) -> Option<Changes<'_>> {
        (mark.gone >= self.forgotten).then(|| self.after(mark, max))
    }

    fn after(&self, mark: Mark, max: usize) -> Changes<'_> {
        let after = |number| (Bound::Excluded(number), Bound::Unbounded);
        let mut gone: Vec<(u64, u64)> = self.gone.range(after(mark.gone)).take(max + 1).map(|(n, hint)| (*n, *hint)).collect();
        let gone_more = gone.len() > max;
        gone.truncate(max);
        let room = if gone_more { 0 } else { max - gone.len() };
        let mut came: Vec<(u64, &Arc<Verified>)> = self.came.range(after(mark.came)).take(room + 1).map(|(n, r)| (*n, r)).collect();
        let came_more = came.len() > room;
        came.truncate(room);
        let next = Mark {
            came: if came_more { came.last().map_or(mark.came, |(n, _)| *n) } else { self.newest },
            gone: if gone_more { gone.last().map_or(mark.gone, |(n, _)| *n) } else { self.newest },
        };
        let went = gone.into_iter().map(|(_, hint)| Change::Gone(hint));
        let list = went.chain(came.into_iter().map(|(_, relay)| Change::Came(relay))).collect();
        Changes { list, next, more: gone_more || came_more }
    }

    pub(super) fn check(&self, usable: &[(u64, Arc<Verified>)]) {
        assert_eq!(self.came.len(), usable.len());
        assert!(usable.iter().all(|(number, relay)| self.came.get(number).is_some_and(|r| Arc::ptr_eq(r, relay))));
        assert!(self.gone.len() <= self.gone_max() && self.gone.len() == self.gone_of.len());
        assert!(self.gone.iter().all(|(number, hint)| self.gone_of.get(hint) == Some(number)));
        assert!(self.came.values().all(|relay| !self.gone_of.contains_key(&relay.hint_id())));
        assert!(self.came.keys().chain(self.gone.keys()).all(|number| *number <= self.newest));
    }
}
