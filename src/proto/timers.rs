//! One table of timers for a machine: at most one per key.

use crate::base::Time;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// When what is due. All operations are O(log n).
///
/// # Invariants
/// `by_key` and `by_time` hold the same pairs.
#[derive(Clone, Debug)]
pub struct TimerTable<K: Ord + Copy> {
    by_key: BTreeMap<K, Time>,
    by_time: BTreeSet<(Time, K)>,
}

impl<K: Ord + Copy> Default for TimerTable<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> TimerTable<K> {
    /// Sets the timer of a key, replacing an earlier one.
    pub fn set(&mut self, key: K, at: Time) {
        if let Some(old) = self.by_key.insert(key, at) {
            self.by_time.remove(&(old, key));
        }
        self.by_time.insert((at, key));
    }

    /// Sets the timer of a key unless it has one.
    pub fn set_if_unset(&mut self, key: K, at: Time) {
        if !self.by_key.contains_key(&key) {
            self.set(key, at);
        }
    }

    /// Stops the timer of a key, if it has one.
    pub fn stop(&mut self, key: &K) {
        if let Some(old) = self.by_key.remove(key) {
            self.by_time.remove(&(old, *key));
        }
    }

    /// The earliest timer.
    pub fn next(&self) -> Option<(Time, K)> {
        self.by_time.first().copied()
    }

    /// Takes out one timer that is due.
    pub fn expired(&mut self, now: Time) -> Option<K> {
        let (at, key) = self.by_time.first().copied()?;
        if at > now {
            return None;
        }
        self.by_time.pop_first();
        self.by_key.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_timer_per_key_in_order() {
        let mut t = TimerTable::default();
        t.set('a', Time(5));
        t.set('b', Time(3));
        t.set('a', Time(1));
        t.set_if_unset('b', Time(0));
        assert_eq!(t.next(), Some((Time(1), 'a')));
        assert_eq!(t.expired(Time(0)), None);
        assert_eq!(t.expired(Time(4)), Some('a'));
        t.stop(&'a');
        assert_eq!(t.expired(Time(4)), Some('b'));
        assert_eq!(t.expired(Time(9)), None);
    }
}
