//! What may happen often and is told rarely: a log that strangers can fill tells nothing. Every warning that can be caused again and
//! again from outside is told through this.

use crate::base::Time;
use core::time::Duration;

/// How often one kind of thing is told at most.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// One kind of thing: how often it happened since it was told, and when that was.
#[derive(Debug)]
pub struct Rarely {
    every: Duration,
    since_told: u64,
    told: Option<Time>,
}

impl Default for Rarely {
    fn default() -> Self {
        Self::every(TELL_EVERY)
    }
}

impl Rarely {
    /// What is told no more often than this.
    pub const fn every(every: Duration) -> Self {
        Self { every, since_told: 0, told: None }
    }

    /// It happened once more. Gives how often since it was told last, if it is time to tell.
    pub fn again(&mut self, now: Time) -> Option<u64> {
        self.since_told += 1;
        if self.told.is_some_and(|told| now.since(told) < self.every) {
            return None;
        }
        self.told = Some(now);
        Some(core::mem::take(&mut self.since_told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_once_a_minute() {
        let mut dropped = Rarely::default();
        let told: Vec<_> = (0..130).map(|second| dropped.again(Time(second * 1_000_000))).collect();
        let when: Vec<_> = told.iter().enumerate().filter_map(|(second, times)| Some((second, (*times)?))).collect();
        assert_eq!(when, [(0, 1), (60, 60), (120, 60)]);
    }
}
