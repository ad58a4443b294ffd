//! The only real clock and the only system randomness of the crate. Every other room gets both as arguments.

use crate::base::Env;
use crate::base::Time;
use crate::base::Wall;
use core::convert::Infallible;
use core::time::Duration;
use rand::rand_core::{TryCryptoRng, TryRng};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that starts some days after zero, so that what an earlier run saw has a time too. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

/// Of what was before the start, nothing counts that is older.
const BEFORE: Duration = Duration::from_secs(7 * 24 * 3600);

impl Clock {
    /// A clock that starts now.
    #[expect(clippy::disallowed_methods, reason = "the crate's one monotonic clock")]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time::default() + BEFORE + self.start.elapsed()
    }

    /// Whole seconds since 1970; zero on a machine whose clock stands before that.
    #[expect(clippy::disallowed_methods, reason = "the crate's one wall clock")]
    pub fn wall(&self) -> Wall {
        Wall(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }

    /// The runtime's name for a moment of this clock.
    pub fn instant(&self, at: Time) -> tokio::time::Instant {
        // A core that wants to sleep for ever may say so with the largest time there is.
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let since = Duration::from_micros(at.0).saturating_sub(BEFORE);
        tokio::time::Instant::from_std(self.start + since.min(self.start.elapsed() + FAR))
    }
}

/// The operating system's randomness, stretched by a generator of this thread that is seeded from it again every 64 KiB. Holds no
/// state itself, so it may move between threads.
#[derive(Clone, Copy, Debug)]
pub struct OsChance;

#[expect(clippy::disallowed_methods, reason = "the crate's one source of chance")]
impl TryRng for OsChance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        rand::rng().try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        rand::rng().try_next_u64()
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        rand::rng().try_fill_bytes(dst)
    }
}

impl TryCryptoRng for OsChance {}

/// Randomness for keys and choices.
pub const fn os_rng() -> OsChance {
    OsChance
}

/// What a core may know of the world at this moment.
pub fn env<'a>(clock: &Clock, rng: &'a mut OsChance) -> Env<'a> {
    Env { now: clock.now(), wall: clock.wall(), rng }
}

/// Makes glibc's allocator keep what is freed. By default it gives memory back above 128 KiB, so each batch of cells pays for fresh
/// pages: a third of a link's whole cost. Freeing one large block raises that bound (mallopt(3), M_MMAP_THRESHOLD) to twice its
/// size, for each arena. Other allocators take no notice.
pub fn settle_allocator() {
    drop(core::hint::black_box(Vec::<u8>::with_capacity(16 << 20)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn time_moves_forward_and_far_deadlines_do_not_overflow() {
        let clock = Clock::start();
        let a = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        let b = clock.now();
        assert!(b.since(a) >= Duration::from_millis(2));
        assert!(clock.instant(Time(u64::MAX)) > clock.instant(b));
        assert!(clock.wall() > Wall(1_700_000_000));
    }

    #[test]
    fn chance_differs_each_time() {
        let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
        os_rng().fill_bytes(&mut a);
        os_rng().fill_bytes(&mut b);
        assert_ne!(a, b);
    }
}
