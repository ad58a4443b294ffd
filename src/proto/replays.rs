//! Openings of sessions that a host has seen, so that it takes none twice (T18).

use crate::proto::renewal::NodeKeys;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Openings of one key that are surely remembered: 16 MiB of them. As many more may be, and when both halves are full, the older is
/// forgotten. So a flood cannot close a host to everyone, and whoever wants to play a session once more needs half a million others
/// first.
const HALF: usize = 1 << 19;

/// What a host remembers, by key, for as long as the key is taken. In memory only: a disk would tell when sessions came.
#[derive(Debug, Default)]
pub struct Replays(BTreeMap<u32, Seen>);

#[derive(Debug, Default)]
struct Seen {
    younger: BTreeSet<[u8; 32]>,
    older: BTreeSet<[u8; 32]>,
}

impl Seen {
    fn insert(&mut self, tag: [u8; 32], half: usize) -> bool {
        if self.younger.contains(&tag) || self.older.contains(&tag) {
            return false;
        }
        if self.younger.len() >= half {
            self.older = core::mem::take(&mut self.younger);
        }
        self.younger.insert(tag)
    }
}

impl Replays {
    /// Remembers an opening of this key, which must be one that is taken. False: it came before.
    pub fn insert(&mut self, key: u32, tag: [u8; 32]) -> bool {
        self.0.entry(key).or_default().insert(tag, HALF)
    }

    /// The keys changed: openings for those that are gone need not be remembered.
    pub fn renewed(&mut self, keys: &NodeKeys) {
        self.0.retain(|id, _| keys.host(*id).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_takes_new_openings_and_forgets_the_oldest_only() {
        let mut seen = Seen::default();
        let tag = |n: u32| core::array::from_fn(|i| n.to_be_bytes().get(i).copied().unwrap_or_default());
        for n in 0..1000 {
            assert!(seen.insert(tag(n), 100), "{n} is new");
            for again in n.saturating_sub(99)..=n {
                assert!(!seen.insert(tag(again), 100), "{again} came before");
            }
            assert!(seen.younger.len() + seen.older.len() <= 200);
        }
        assert!(seen.insert(tag(1), 100), "one of long ago");
    }
}
