//! How fast things may follow each other: questions about the public view on a circuit, counted by the last hop (T36) and kept to by
//! the client, and circuits of one address range.

use crate::base::Time;
use std::time::Duration;

/// So many at once, then one each time so long. What it remembers is one point in time: until when all that was taken is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    paid: Time,
}

impl Pace {
    /// When the next may be taken.
    pub fn next(self, at_once: u32, every: Duration) -> Time {
        let ahead = every.saturating_mul(at_once.saturating_sub(1));
        Time(self.paid.0.saturating_sub(u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Whether all may be taken at once again.
    pub fn is_whole(self, now: Time) -> bool {
        self.paid <= now
    }

    /// Takes one, if it may be taken now.
    pub fn take(&mut self, now: Time, at_once: u32, every: Duration) -> bool {
        let may = self.next(at_once, every) <= now;
        if may {
            self.paid = self.paid.max(now) + every;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    #[test]
    fn so_many_at_once_and_then_one_each_time() {
        let (mut pace, start) = (Pace::default(), Time(7_000_000));
        let taken = |pace: &mut Pace, now| (0..100).take_while(|_| pace.take(now, 5, EVERY)).count();
        assert_eq!(taken(&mut pace, start), 5);
        assert_eq!(pace.next(5, EVERY), start + EVERY);
        assert_eq!(taken(&mut pace, Time((start + EVERY).0 - 1)), 0);
        assert_eq!(taken(&mut pace, start + EVERY), 1);
        assert_eq!(taken(&mut pace, start + 3 * EVERY), 2);
        assert_eq!(taken(&mut pace, start + 100 * EVERY), 5, "waiting saves up no more than at the start");
    }

    #[test]
    fn who_keeps_a_slower_pace_is_never_refused() {
        let (mut ours, mut theirs) = (Pace::default(), Pace::default());
        for ms in 0..60_000 {
            let now = Time(ms * 1000);
            while ours.take(now, 3, EVERY + EVERY / 10) {
                // On the way some wait for each other.
                assert!(theirs.take(now.next_multiple(2 * EVERY), 5, EVERY), "at {ms}");
            }
        }
    }
}
