//! What directories list, and what a client believes of it (D8, T29).
//!
//! A directory lists every relay that it uses, with the tag of its descriptor. A client uses a relay when two lists name it, and of
//! its descriptor only bytes that two lists name: so nobody is shown a relay, or a face of one, that others are not shown. Two lists
//! count together only if they agree on most: a short or invented one stands alone, however early it came.

use crate::base::limits;
use crate::wire::overlay::Cursor;
use crate::wire::overlay::Listed;
use crate::wire::overlay::Tag;
use std::collections::BTreeMap;

/// Lists that must name a relay and its bytes.
pub(super) const AGREE: usize = 2;
/// Two lists agree if they have three of four in common, of the longer one. Honest views differ by a few in a hundred (the coverage
/// gate allows three); while a network begins, by more, and clients look again soon. What a liar hides within this, samples show.
const COMMON: (usize, usize) = (3, 4);
/// Most entries of a list: a full view, and as much again. Beyond it nothing is a network.
const LIST_MAX: usize = 2 * limits::VIEW_MAX;

/// A page of a list, as it came.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) next: Cursor,
    pub(super) anew: bool,
    pub(super) more: bool,
    pub(super) gone: Vec<u64>,
    pub(super) listed: Vec<Listed>,
}

/// What one directory lists, by hint of the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List(BTreeMap<u64, Listed>);

impl List {
    /// Takes in one page. False if the list is longer than any network.
    pub(super) fn take(&mut self, page: &Page) -> bool {
        for hint in &page.gone {
            self.0.remove(hint);
        }
        self.0.extend(page.listed.iter().map(|l| (l.id, *l)));
        self.0.len() <= LIST_MAX
    }

    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Listed> {
        self.0.values()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The tag that it lists a relay with.
    pub(super) fn tag(&self, hint: u64) -> Option<Tag> {
        self.0.get(&hint).map(|l| l.tag)
    }

    /// Whether it and another have most relays in common. Two of nothing do not.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self.shares_most(other, |l| other.0.contains_key(&l.id))
    }

    /// Whether it and another have most in common to the byte, of relays as of their descriptors: lists of one network that name other
    /// bytes would keep others from being read.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        self.shares_most(other, |l| other.tag(l.id) == Some(l.tag))
    }

    fn shares_most(&self, other: &Self, is_common: impl Fn(&Listed) -> bool) -> bool {
        let longer = self.0.len().max(other.0.len());
        let common = self.0.values().filter(|l| is_common(l)).count();
        common > 0 && common * COMMON.1 >= longer * COMMON.0
    }

    /// Whether it names more than half of these, or there are none.
    pub(super) fn names_most(&self, hints: &[u64]) -> bool {
        let named = hints.iter().filter(|hint| self.0.contains_key(hint)).count();
        hints.is_empty() || named * 2 > hints.len()
    }
}

impl FromIterator<Listed> for List {
    fn from_iter<I: IntoIterator<Item = Listed>>(listed: I) -> Self {
        Self(listed.into_iter().map(|l| (l.id, l)).collect())
    }
}

/// What lists say together of one relay that enough of them name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    /// The bytes that enough of them name; `None` while they name different ones.
    pub(super) tag: Option<Tag>,
    /// The slot of time that these were made in.
    pub(super) slot: u16,
    /// Whether enough of them say that it hosts.
    pub(super) host: bool,
}

/// Of all relays that at least `needed` lists name: what these say.
pub(super) fn count(lists: &[&List], needed: usize) -> BTreeMap<u64, Vote> {
    let mut said: BTreeMap<u64, Vec<&Listed>> = BTreeMap::new();
    for list in lists {
        for (hint, listed) in &list.0 {
            said.entry(*hint).or_default().push(listed);
        }
    }
    said.retain(|_, entries| entries.len() >= needed);
    let vote = |entries: Vec<&Listed>| {
        let times = |l: &Listed| entries.iter().filter(|other| (other.tag, other.slot) == (l.tag, l.slot)).count();
        let agreed = entries.iter().find(|l| times(l) >= needed);
        let host = entries.iter().filter(|l| l.host).count() >= needed;
        Vote { tag: agreed.map(|l| l.tag), slot: agreed.map_or(0, |l| l.slot), host }
    };
    said.into_iter().map(|(hint, entries)| (hint, vote(entries))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(of: impl IntoIterator<Item = (u64, u8)>) -> List {
        of.into_iter().map(|(id, tag)| Listed { id, tag: [tag; 16], slot: 7, host: tag != 9 }).collect()
    }

    #[test]
    fn bytes_count_that_two_lists_name() {
        let a = list([(1, 1), (2, 1), (3, 1), (4, 9)]);
        let b = list([(1, 1), (2, 2), (4, 9)]);
        let c = list([(1, 3), (2, 3), (4, 1), (5, 1)]);
        let votes = count(&[&a, &b, &c], AGREE);
        assert_eq!(votes.keys().copied().collect::<Vec<_>>(), [1, 2, 4], "3 and 5 are named once");
        assert_eq!(votes[&1], Vote { tag: Some([1; 16]), slot: 7, host: true }, "the third shows another face");
        assert_eq!(votes[&2], Vote { tag: None, slot: 0, host: true }, "all show different ones");
        assert_eq!(votes[&4], Vote { tag: Some([9; 16]), slot: 7, host: false });
        assert_eq!(count(&[&c], 1).len(), 4);
    }

    #[test]
    fn a_short_or_invented_list_stands_alone() {
        let honest = list((0..100).map(|id| (id, 1)));
        let late = list((3..102).map(|id| (id, 1)));
        assert!(honest.agrees(&late) && late.agrees(&honest));
        assert!(!honest.agrees(&list((0..74).map(|id| (id, 1)))), "it hides a quarter");
        assert!(!honest.agrees(&list((0..140).map(|id| (id, 1)))), "it invents");
        assert!(!honest.agrees(&list((200..210).map(|id| (id, 1)))));
        assert!(!List::default().agrees(&List::default()));
        let guards = [1, 2, 3, 700, 701, 702, 703];
        assert!(!honest.names_most(&guards) && !honest.names_most(&guards[..6]) && honest.names_most(&guards[..5]));
        assert!(honest.names_most(&[]));
    }

    #[test]
    fn pages_change_a_list_and_none_is_endless() {
        let mut all = list([(1, 1), (2, 1)]);
        let next = Cursor { epoch: 1, came: 1, gone: 1 };
        let listed = |id| Listed { id, tag: [5; 16], slot: 7, host: true };
        let page = Page { next, anew: false, more: false, gone: vec![1, 2], listed: vec![listed(2), listed(3)] };
        assert!(all.take(&page));
        assert_eq!(all, list([(2, 5), (3, 5)]), "one that went and came again is there");
        let endless = Page { next, anew: false, more: true, gone: vec![], listed: (0..=LIST_MAX as u64).map(listed).collect() };
        assert!(!all.take(&endless));
    }
}
