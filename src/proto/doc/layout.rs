//! How a document's bytes lie in chunks, groups and slots: plain arithmetic, a function of its length alone.
//!
//! Data chunks are padded in number (Padme), and cut into groups of 32; behind each group's data chunks come its parity chunks, one
//! for every four begun. A *slot* is a chunk's place in the list of all chunks, group after group.

use crate::base::limits;
use crate::wire::share::Class;
use core::ops::Range;

/// Bytes kept for the header of a document that is one chunk: its length, a name and a type of full length.
pub const SINGLE_HEADER_MAX: usize = 560;
const GROUP: u64 = limits::GROUP_DATA as u64;
const SLOTS: u64 = (limits::GROUP_DATA + limits::GROUP_PARITY) as u64;

/// Padme (Nikitin et al., PETS 2019): rounds up so that only the leading bits of a count show, at most 12 % more.
pub const fn padme(n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let e = n.ilog2();
    let s = e.ilog2() + 1;
    let mask = (1u64 << (e - if s < e { s } else { e })) - 1;
    (n + mask) & !mask
}

/// Whether a document of this length is one chunk, without a manifest.
pub const fn is_single(length: u64) -> bool {
    length <= (Class::Small.capacity() - SINGLE_HEADER_MAX) as u64
}

/// The layout of a document with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of the document.
    pub length: u64,
    /// Share class of its chunks.
    pub class: Class,
    /// Data chunks, padding included.
    data: u64,
}

impl Layout {
    /// The layout of a document of this length.
    pub const fn new(length: u64) -> Self {
        let class = if length <= limits::SMALL_DOCUMENT_MAX { Class::Small } else { Class::Large };
        let content = length.div_ceil(class.capacity() as u64);
        // Two at least: the parity of a single chunk would be that chunk again, at the same address.
        Self { length, class, data: padme(if content < 2 { 2 } else { content }) }
    }

    /// Data chunks that hold bytes of the document; the others are padding.
    pub const fn data_with_content(&self) -> u64 {
        self.length.div_ceil(self.class.capacity() as u64)
    }

    /// All data chunks.
    pub const fn data(&self) -> u64 {
        self.data
    }

    /// Groups.
    pub const fn groups(&self) -> u64 {
        self.data.div_ceil(GROUP)
    }

    /// Chunks in all.
    pub const fn slots(&self) -> u64 {
        self.slots_of_group(self.groups() - 1).end
    }

    /// The slots of a group, data first.
    pub const fn slots_of_group(&self, group: u64) -> Range<u64> {
        let start = group * SLOTS;
        let data = self.data_in_group(group) as u64;
        start..start + data + data.div_ceil(4)
    }

    /// Data chunks of a group.
    pub const fn data_in_group(&self, group: u64) -> usize {
        let left = self.data.saturating_sub(group * GROUP);
        if left < GROUP { left as usize } else { limits::GROUP_DATA }
    }

    /// Parity chunks of a group.
    pub const fn parity_in_group(&self, group: u64) -> usize {
        self.data_in_group(group).div_ceil(4)
    }

    /// Where a data chunk is.
    pub const fn slot_of(&self, number: u64) -> u64 {
        number / GROUP * SLOTS + number % GROUP
    }

    /// Which group a slot is in.
    pub const fn group_of_slot(&self, slot: u64) -> u64 {
        slot / SLOTS
    }

    /// Which data chunk a slot is; `None` for parity.
    pub const fn data_of_slot(&self, slot: u64) -> Option<u64> {
        let (group, place) = (slot / SLOTS, slot % SLOTS);
        if place < self.data_in_group(group) as u64 { Some(group * GROUP + place) } else { None }
    }

    /// The bytes of the document that a data chunk holds; empty for padding.
    pub const fn plain_range(&self, number: u64) -> Range<u64> {
        let capacity = self.class.capacity() as u64;
        let start = number.saturating_mul(capacity);
        let start = if start < self.length { start } else { self.length };
        let end = if self.length - start < capacity { self.length } else { start + capacity };
        start..end
    }

    /// The data chunk that holds a byte.
    pub const fn chunk_at(&self, offset: u64) -> u64 {
        offset / self.class.capacity() as u64
    }
}

/// Nodes on a level of the manifest over this many chunks.
pub const fn nodes_on_level(chunks: u64, level: u8) -> u64 {
    let mut n = chunks;
    let mut l = 0;
    while l <= level {
        n = n.div_ceil(limits::MANIFEST_FANOUT_MAX as u64);
        l += 1;
    }
    n
}

/// The level of the top node over this many chunks.
pub const fn top_level(chunks: u64) -> u8 {
    let mut level = 0;
    while nodes_on_level(chunks, level) > 1 {
        level += 1;
    }
    level
}

/// Children that a node must have: all nodes are full but the last of each level.
pub const fn children_of(chunks: u64, level: u8, index: u64) -> u64 {
    let below = if level == 0 { chunks } else { nodes_on_level(chunks, level - 1) };
    let left = below.saturating_sub(index * limits::MANIFEST_FANOUT_MAX as u64);
    if left < limits::MANIFEST_FANOUT_MAX as u64 { left } else { limits::MANIFEST_FANOUT_MAX as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_costs_at_most_an_eighth_and_is_idempotent() {
        for n in (1..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let p = padme(n);
            assert!(p >= n && p * 8 <= n * 9, "{n} -> {p}");
            assert_eq!(padme(p), p);
        }
        assert_eq!((padme(9), padme(17), padme(1000)), (10, 18, 1024));
    }

    #[test]
    fn slots_and_data_chunks_are_one_to_one_and_ranges_cover_the_document() {
        for length in [70_000, 4 << 20, (4 << 20) + 1, 9_000_000, 100 << 20, 1 << 32] {
            let l = Layout::new(length);
            let mut end = 0;
            for n in 0..l.data_with_content() {
                let r = l.plain_range(n);
                assert_eq!(r.start, end);
                assert!(r.end > r.start && r.end - r.start <= l.class.capacity() as u64);
                end = r.end;
            }
            assert_eq!(end, length);
            assert!(l.plain_range(l.data_with_content()).is_empty());
            let data: Vec<u64> = (0..l.slots()).filter_map(|s| l.data_of_slot(s)).collect();
            assert!(data.iter().copied().eq(0..l.data()));
            for n in 0..l.data() {
                assert_eq!(l.data_of_slot(l.slot_of(n)), Some(n));
            }
            let parity: usize = (0..l.groups()).map(|g| l.parity_in_group(g)).sum();
            assert_eq!(l.slots(), l.data() + parity as u64);
        }
    }

    #[test]
    fn the_largest_document_fits_the_manifest_s_depth() {
        assert!(top_level(Layout::new(limits::DOCUMENT_MAX).slots()) < limits::MANIFEST_DEPTH_MAX);
        assert_eq!((top_level(1), top_level(1024), top_level(1025)), (0, 0, 1));
        assert_eq!((children_of(1025, 0, 1), children_of(1025, 1, 0), children_of(1025, 0, 0)), (1, 2, 1024));
    }
}
