//! The only door for clock and chance. `proto` gets them as arguments, so a whole network runs in virtual time from one seed.

use core::ops::Add;
use core::time::Duration;
use rand::CryptoRng;

/// Monotonic time in microseconds, from some days before the node started, or since the simulated world began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The time between an earlier time and this one; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The next point of a grid with this spacing: later than this time, by at most one spacing.
    #[must_use]
    pub fn next_multiple(self, spacing: Duration) -> Self {
        let spacing = u64::try_from(spacing.as_micros()).unwrap_or(u64::MAX).max(1);
        Self((self.0 / spacing).saturating_add(1).saturating_mul(spacing))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Wall clock in whole seconds since 1970. Used for expiry only, never on the user plane (D20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Wall(pub u64);

impl Wall {
    /// Days since 1970: the finest time that ever reaches a host's disk (D15, T40).
    pub const fn day(self) -> u32 {
        (self.0 / 86_400) as u32
    }

    /// Hours since 1970: how old a receipt is, which is about a relay and nobody else.
    pub const fn hour(self) -> u32 {
        (self.0 / 3600) as u32
    }

    /// This time and `seconds` more.
    #[must_use]
    pub const fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

/// What a machine may know of the world while it handles one input.
pub struct Env<'a> {
    /// Monotonic time.
    pub now: Time,
    /// Wall clock.
    pub wall: Wall,
    /// Operating-system backed in production, so that a memory leak does not reveal past secrets; seeded in tests.
    pub rng: &'a mut dyn CryptoRng,
}
