//! How long hosts take to answer, and so when one of them is slow.

use core::time::Duration;

/// A host is slow when it takes this many times as long as hosts do on average.
const SLOW: u32 = 4;
/// But not before this long: less is chance.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// A host that takes longer is slow in any case: three hops and a disk take less than a second in a network that works.
pub const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// The pace of one operation's hosts. It serves that operation alone, and follows what circuits and hosts are like now.
#[derive(Debug, Default)]
pub struct Pace {
    /// Moving average of what an answer takes.
    typical: Option<Duration>,
}

impl Pace {
    /// An answer took this long.
    pub fn heard(&mut self, took: Duration) {
        self.typical = Some(self.typical.map_or(took, |typical| (typical * 31 + took) / 32));
    }

    /// How long to wait for a host before it counts as slow.
    pub fn patience(&self) -> Duration {
        self.typical.map_or(PATIENCE_MAX, |typical| (typical * SLOW).clamp(PATIENCE_MIN, PATIENCE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_what_answers_take_within_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), PATIENCE_MAX, "nothing is known yet");
        pace.heard(Duration::from_millis(100));
        assert_eq!(pace.patience(), Duration::from_millis(400));
        for _ in 0..200 {
            pace.heard(Duration::from_millis(1));
        }
        assert_eq!(pace.patience(), PATIENCE_MIN);
        for _ in 0..200 {
            pace.heard(Duration::from_secs(60));
        }
        assert_eq!(pace.patience(), PATIENCE_MAX, "however slow all are, a spare one is asked");
    }
}
