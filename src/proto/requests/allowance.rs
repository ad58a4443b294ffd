//! How many fetches of an operation may be under way: as many as come back soon.
//!
//! What waits for a slow line waits at relays, in the windows of its circuits, and a relay ends a circuit that stands still for too
//! long. So answers are not asked for faster than they come: told by how much longer they take than the quickest did.

use core::time::Duration;

/// Where it begins: two chunks' worth. It doubles with each way there and back.
const FIRST: usize = 16;
/// Fewest: a line is not idle between two chunks.
const LEAST: usize = 16;
/// Most: what the largest window of chunks can ask for, and as much again.
const MOST: usize = 640;
/// Answers that wait for less than this on their way ask for more.
const SOON: Duration = Duration::from_secs(2);
/// Answers that wait for longer than this ask for less: a fraction of what a circuit may stand still.
const LATE: Duration = Duration::from_secs(5);

/// How many fetches may be under way.
#[derive(Debug)]
pub(super) struct Allowance {
    now: usize,
    /// What the quickest answer took: the way there and back, and a host's work.
    quickest: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { now: FIRST, quickest: Duration::MAX }
    }
}

impl Allowance {
    /// How many more than so many may be under way.
    pub(super) const fn more_than(&self, under_way: usize) -> usize {
        self.now.saturating_sub(under_way)
    }

    /// An answer came, so long after its request had left.
    pub(super) fn answered(&mut self, took: Duration) {
        self.quickest = self.quickest.min(took);
        let waited = took - self.quickest;
        if waited <= SOON {
            self.now = (self.now + 1).min(MOST);
        } else if waited > LATE {
            self.now = (self.now - 1).max(LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_answers_come_soon_and_shrinks_while_they_wait() {
        let mut allowance = Allowance::default();
        let answers = |allowance: &mut Allowance, count: usize, secs: u64| {
            (0..count).for_each(|_| allowance.answered(Duration::from_secs(secs)));
            allowance.more_than(0)
        };
        // A way of seven seconds is no waiting.
        assert_eq!(answers(&mut allowance, 100, 7), FIRST + 100);
        assert_eq!(answers(&mut allowance, 100, 10), FIRST + 100);
        assert_eq!(answers(&mut allowance, 50, 13), FIRST + 50);
        assert_eq!(answers(&mut allowance, 1_000, 60), LEAST);
        assert_eq!(answers(&mut allowance, 10_000, 1), MOST);
        assert_eq!((allowance.more_than(MOST), allowance.more_than(MOST + 9), allowance.more_than(3)), (0, 0, MOST - 3));
    }
}
