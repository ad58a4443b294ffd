//! Work that runs beside the core: public-key operations, coding, and serving shares from disk. Pure but for [`Shares`].

use crate::base::Address;
use rand::CryptoRng;

/// The shares that this node holds, as its jobs see them. Implemented over the store by the shell, and in memory by the simulator.
pub trait Shares: Send + Sync {
    /// Keeps a verified share blob. `day` is today, `max_per_chunk` the most shares of one chunk to hold. Durable when it returns `Stored`.
    fn put(&self, lease_days: u16, address: &Address, index: u8, blob: &[u8], max_per_chunk: usize) -> PutOutcome;
    /// Any held share of the chunk whose index is set in `want`; `chance` picks among several.
    fn get_any(&self, address: &Address, want: u32, chance: u32) -> Option<Vec<u8>>;
}

/// What became of a share that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is on disk.
    Stored,
    /// It was there already.
    AlreadyHeld,
    /// Enough other shares of this chunk are here.
    HoldsEnough,
    /// No room, or the disk failed.
    Full,
}

/// One piece of work.
#[derive(Debug)]
pub enum Job {
    /// Nothing; kept so that the type is inhabited while the machines move in.
    Nothing,
}

/// What came of it.
#[derive(Debug)]
pub enum JobResult {
    /// See [`Job::Nothing`].
    Nothing,
}

impl Job {
    /// Does the work. Blocks for as long as it takes; never panics on what a peer sent.
    pub fn run(self, _rng: &mut dyn CryptoRng, _shares: Option<&dyn Shares>) -> JobResult {
        match self {
            Self::Nothing => JobResult::Nothing,
        }
    }
}
