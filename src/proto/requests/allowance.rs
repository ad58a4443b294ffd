//! How many fetches of an operation may be under way: as many as come back soon.
//!
//! What waits for a slow line waits at relays, in the windows of its circuits, and a relay ends a circuit that stands still for too
//! long. So answers are not asked for faster than they come: told by how much longer they take than the quickest did.

use crate::base::Time;
use core::time::Duration;

/// Where it begins: three chunks' worth. It trebles with each way there and back.
const FIRST: usize = 24;
/// Fewest: a line is not idle between two chunks.
const LEAST: usize = 16;
/// Most: what the largest window of chunks can ask for, and as much again.
const MOST: usize = 1024;
/// Answers that wait for less than this on their way ask for more.
const SOON: Duration = Duration::from_secs(2);
/// Answers that wait for longer than this ask for less: a fraction of what a circuit may stand still.
const LATE: Duration = Duration::from_secs(5);

/// A request is overtaken when one was answered that left so much later, or later by twice what answers usually take: its host is
/// not waited for, and it counts no more.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// By how much at least the usual time grows with an answer that took longer.
const USUAL_STEP: Duration = Duration::from_millis(10);

/// How many fetches may be under way.
#[derive(Debug)]
pub(super) struct Allowance {
    most: usize,
    /// What the quickest answer took: the way there and back, and a host's work.
    quickest: Duration,
    /// What answers usually take. It follows shorter times quickly and longer ones slowly, for these may be some hosts' own.
    usual: Duration,
    /// When the last of those left that were answered.
    front: Time,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { most: FIRST, quickest: Duration::MAX, usual: Duration::MAX, front: Time(0) }
    }
}

impl Allowance {
    /// How many more than so many may be under way.
    pub(super) const fn more_than(&self, under_way: usize) -> usize {
        self.most.saturating_sub(under_way)
    }

    /// What left before this counts no more.
    pub(super) fn counts_from(&self) -> Time {
        let overtaken = OVERTAKEN.max(self.usual.saturating_mul(2));
        Time(self.front.0.saturating_sub(u64::try_from(overtaken.as_micros()).unwrap_or(u64::MAX)))
    }

    /// An answer came to a request that left then.
    pub(super) fn answered(&mut self, sent: Time, now: Time) {
        let took = now.since(sent);
        self.front = self.front.max(sent);
        self.quickest = self.quickest.min(took);
        self.usual = if took < self.usual {
            self.usual.min(took * 4) / 2 + took / 2
        } else {
            took.min(self.usual + USUAL_STEP.max(self.usual / 8))
        };
        let waited = took - self.quickest;
        if waited <= SOON {
            self.most = (self.most + 2).min(MOST);
        } else if waited > LATE {
            self.most = (self.most - 1).max(LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// So many answers that took so many seconds.
    fn answers(allowance: &mut Allowance, count: usize, secs: u64) -> usize {
        (0..count).for_each(|_| allowance.answered(Time(1000 * SECOND), Time((1000 + secs) * SECOND)));
        allowance.more_than(0)
    }

    #[test]
    fn it_grows_while_answers_come_soon_and_shrinks_while_they_wait() {
        let mut allowance = Allowance::default();
        // A way of seven seconds is no waiting.
        assert_eq!(answers(&mut allowance, 100, 7), FIRST + 200);
        assert_eq!(answers(&mut allowance, 100, 10), FIRST + 200);
        assert_eq!(answers(&mut allowance, 50, 13), FIRST + 150);
        assert_eq!(answers(&mut allowance, 1_000, 60), LEAST);
        assert_eq!(answers(&mut allowance, 10_000, 1), MOST);
        assert_eq!((allowance.more_than(MOST), allowance.more_than(MOST + 9), allowance.more_than(3)), (0, 0, MOST - 3));
    }

    #[test]
    fn what_is_overtaken_by_twice_the_usual_time_counts_no_more() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.counts_from(), Time(0), "before any answer all counts");
        answers(&mut allowance, 5, 0);
        assert_eq!(allowance.counts_from(), Time(999 * SECOND));
        // One host in five takes half a minute, and the others no longer than before.
        for _ in 0..20 {
            answers(&mut allowance, 1, 30);
            answers(&mut allowance, 4, 0);
        }
        assert_eq!(allowance.counts_from(), Time(999 * SECOND));
        // The own line is full: all take 20 s.
        answers(&mut allowance, 1, 1);
        answers(&mut allowance, 60, 20);
        assert_eq!(allowance.counts_from(), Time(960 * SECOND));
    }
}
