//! What a node keeps: its state files, written beside the core, and its shares, served to the jobs.

use crate::base::Address;
use crate::base::Rarely;
use crate::node::env::Clock;
use crate::node::home::STATE_PREFIX;
use crate::proto::doc::share::verify_share;
use crate::proto::event::size;
use crate::proto::job::PutOutcome;
use crate::proto::job::Shares;
use crate::store::Put;
use crate::store::StateDir;
use crate::store::Stats;
use crate::store::Store;
use crate::store::StoreError;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// How often the store looks whether a new day has come.
const EXPIRE_EVERY: Duration = Duration::from_secs(3600);
/// Rest between two parts of one walk over the leases.
const EXPIRE_REST: Duration = Duration::from_secs(1);

/// The check of every share that is read ([`crate::store::Verify`]).
pub fn verify(blob: &[u8]) -> Option<(Address, u8)> {
    verify_share(blob).ok().map(|v| (v.address, v.share.index))
}

/// The store as jobs see it: today comes from the clock.
#[derive(Debug)]
pub struct HeldShares {
    store: Store,
    clock: Clock,
    failures: Mutex<Rarely>,
    /// What the disk said last, until it keeps a share again.
    fault: Mutex<Option<String>>,
}

impl HeldShares {
    /// Over an open store.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, failures: Mutex::default(), fault: Mutex::default() }
    }

    /// Strangers decide how often it comes to this.
    fn failed(&self, error: &StoreError, what: &str) {
        if let Some(times) = self.failures.lock().unwrap_or_else(PoisonError::into_inner).again(self.clock.now()) {
            tracing::warn!(%error, times, "{what}");
        }
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// What the disk said last, if it kept no share since.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the quota from now on ([`Store::set_quota`]), and tells what that means for what is held.
    pub fn set_quota(&self, bytes: u64) {
        self.store.set_quota(bytes);
        self.tell_if_over();
    }

    /// Warns if more is held than the quota has room for.
    pub fn tell_if_over(&self) {
        if let Some(words) = self.over_quota() {
            tracing::warn!("{words}");
        }
    }

    /// In words, if more is held than the quota has room for.
    pub fn over_quota(&self) -> Option<String> {
        let stats = self.store.stats();
        (stats.bytes > stats.quota).then(|| {
            format!(
                "the quota is {} and the shares held take {}: nothing new is taken, and they leave as their leases end",
                size(stats.quota),
                size(stats.bytes)
            )
        })
    }

    /// The store's figures.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Waits for what is being written.
    ///
    /// # Errors
    /// What the disk said.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}

impl Shares for HeldShares {
    fn put(&self, lease_days: u16, address: &Address, index: u8, blob: &[u8], max_per_chunk: usize) -> PutOutcome {
        match self.store.put(self.clock.wall().day(), lease_days, address, index, blob, max_per_chunk) {
            Ok(Put::Stored) => {
                self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
                PutOutcome::Stored
            }
            Ok(Put::AlreadyHeld) => PutOutcome::AlreadyHeld,
            Ok(Put::HoldsEnough { held }) => PutOutcome::HoldsEnough { held },
            Ok(Put::Full) => PutOutcome::Full,
            Err(error) => {
                self.failed(&error, "a share was not kept");
                PutOutcome::Full
            }
        }
    }

    fn get_any(&self, address: &Address, want: u32, chance: u32) -> Option<Vec<u8>> {
        match self.store.get_any(address, want, chance) {
            Ok(found) => found.map(|(_, blob)| blob),
            Err(error) => {
                self.failed(&error, "a share could not be read");
                None
            }
        }
    }
}

/// Lets leases end, once a day, in small parts. Runs until dropped.
pub async fn expire(shares: Arc<HeldShares>) {
    let mut done = None;
    loop {
        let today = shares.clock.wall().day();
        while done != Some(today) {
            let held = Arc::clone(&shares);
            match tokio::task::spawn_blocking(move || held.store.expire(today)).await {
                Ok(Ok(part)) if part.finished => done = Some(today),
                Ok(Ok(_)) => tokio::time::sleep(EXPIRE_REST).await,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "leases could not be ended; this is tried again in an hour");
                    break;
                }
                Err(_) => return,
            }
        }
        tokio::time::sleep(EXPIRE_EVERY).await;
    }
}

#[derive(Debug, Default)]
struct Pending {
    /// The newest content of each file that waits. Bounded by the few names that a core uses.
    files: BTreeMap<&'static str, Zeroizing<Vec<u8>>>,
    writing: bool,
    /// Why the last write failed, if it did.
    fault: Option<StoreError>,
    failures: Rarely,
}

/// Writes state files, one at a time, the newest content of each. A file that is saved faster than the disk writes is written less
/// often.
#[derive(Debug)]
pub struct Files {
    dir: StateDir,
    clock: Clock,
    pending: Mutex<Pending>,
    idle: Condvar,
}

impl Files {
    /// Into this directory.
    pub fn new(dir: StateDir, clock: Clock) -> Self {
        Self { dir, clock, pending: Mutex::default(), idle: Condvar::new() }
    }

    /// The directory itself.
    pub const fn dir(&self) -> &StateDir {
        &self.dir
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Saves soon. A failure is logged, and told by [`Files::fault`]; the old content is then still there.
    pub fn save(self: &Arc<Self>, name: &'static str, bytes: Zeroizing<Vec<u8>>) {
        let mut pending = self.lock();
        pending.files.insert(name, bytes);
        if !pending.writing {
            pending.writing = true;
            let files = Arc::clone(self);
            tokio::task::spawn_blocking(move || files.write());
        }
    }

    fn write(&self) {
        let mut pending = self.lock();
        while let Some((name, bytes)) = pending.files.pop_first() {
            drop(pending);
            let done = self.dir.write(&format!("{STATE_PREFIX}{name}"), &bytes);
            pending = self.lock();
            if let Err(error) = &done
                && let Some(times) = pending.failures.again(self.clock.now())
            {
                tracing::warn!(%error, name, times, "a state file was not saved");
            }
            pending.fault = done.err();
        }
        pending.writing = false;
        self.idle.notify_all();
    }

    /// Why the last write failed, if it did.
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.as_ref().map(ToString::to_string)
    }

    /// Waits until everything is written. Blocks.
    pub fn flush(&self) {
        let mut pending = self.lock();
        while pending.writing {
            pending = self.idle.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the disk refuses is told until it takes something again.
    #[tokio::test]
    async fn a_disk_that_fails_is_told_until_it_works_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("d");
        let files = Arc::new(Files::new(StateDir::open(&path).unwrap(), Clock::start()));
        let save = async || {
            files.save("view", Zeroizing::new(b"what is known".to_vec()));
            let files = Arc::clone(&files);
            tokio::task::spawn_blocking(move || files.flush()).await.unwrap();
        };
        save().await;
        assert_eq!(files.fault(), None);
        let name = path.join(format!("{STATE_PREFIX}view"));
        std::fs::remove_file(&name).unwrap();
        std::fs::create_dir_all(name.join("in the way")).unwrap();
        save().await;
        save().await;
        assert!(files.fault().is_some());
        std::fs::remove_dir_all(&name).unwrap();
        save().await;
        assert_eq!(files.fault(), None);
    }
}
