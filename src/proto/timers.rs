//! One table of timers for a machine: at most one per key.

use crate::base::Time;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// When what is due. All operations are O(log n).
///
/// # Invariants
/// `by_key` and `by_time` hold the same pairs; `first` is the first of `by_time`: it is asked for after every input.
#[derive(Clone, Debug)]
pub struct TimerTable<K: Ord + Copy> {
    by_key: BTreeMap<K, Time>,
    by_time: BTreeSet<(Time, K)>,
    first: Option<(Time, K)>,
}

impl<K: Ord + Copy> Default for TimerTable<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new(), first: None }
    }
}

impl<K: Ord + Copy> TimerTable<K> {
    /// Sets the timer of a key, replacing an earlier one.
    pub fn set(&mut self, key: K, at: Time) {
        if let Some(old) = self.by_key.insert(key, at) {
            self.by_time.remove(&(old, key));
            if self.first == Some((old, key)) {
                self.first = self.by_time.first().copied();
            }
        }
        self.by_time.insert((at, key));
        self.first = self.first.min(Some((at, key))).or(Some((at, key)));
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
            if self.first == Some((old, *key)) {
                self.first = self.by_time.first().copied();
            }
        }
    }

    /// The earliest timer.
    pub const fn next(&self) -> Option<(Time, K)> {
        self.first
    }

    /// Takes out one timer that is due.
    pub fn expired(&mut self, now: Time) -> Option<K> {
        let (_, key) = self.first.filter(|(at, _)| *at <= now)?;
        self.by_time.pop_first();
        self.by_key.remove(&key);
        self.first = self.by_time.first().copied();
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

    #[test]
    fn the_first_is_known_whatever_is_set_and_stopped() {
        let mut t = TimerTable::default();
        for n in 0..10_000u64 {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let key = mixed % 7;
            match mixed >> 8 & 3 {
                0 => t.stop(&key),
                1 => t.set_if_unset(key, Time(mixed >> 12 & 31)),
                2 => t.set(key, Time(mixed >> 12 & 31)),
                _ => drop(t.expired(Time(mixed >> 12 & 7))),
            }
            assert_eq!(t.next(), t.by_time.first().copied());
            assert_eq!(t.by_key.len(), t.by_time.len());
        }
    }
}
