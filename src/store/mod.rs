//! The shares that this host keeps: quota, leases in days, crash-safe, checked whenever they are read.
//!
//! ```text
//! <dir>/                 mode 0700
//!   lock                 one process at a time
//!   head                 format version and network        (head.rs draws it)
//!   slab-017-000000 ..   slots with the shares themselves  (slabs.rs)
//!   index                redb: share -> slot               (index.rs)
//! ```
//! **Why not all of it in redb.** redb rounds a value's page up to a power of two, so a share of 32,945 bytes takes 64 KiB unless
//! it is cut in pieces; and after a crash it reads the whole file again, or pays for a second sync with each commit. With the
//! shares in slots the index of a million of them is some 70 MB, is checked page by page at every start, and can be rebuilt from
//! the slots. `benches/store.rs` measures it. One file for each share would stamp each with its moment of arrival.
//!
//! **Acknowledged means kept.** [`Store::put`] returns when the share's slab and then the index row are synced. Many threads
//! putting at once share both syncs: whoever comes first writes for all who wait, and a lone put never waits for company. A crash
//! between the two leaves bytes in a slot that the index calls free. A slot is reused only after the change that freed it is
//! synced.
//!
//! **Checked on read.** A blob is its own proof: the caller's [`Verify`] derives address and index from it. What does not verify is
//! dropped, counted in [`Stats::damaged`], and never returned; repair is the network's. Putting a share that is held compares it
//! with what lies on disk and writes it anew if that differs.
//!
//! **What a seized disk tells** (D19, T40): addresses held and the day each lease ends, but no order within a slab.
//! Slabs fill one after the other, so which slab a share is in says roughly when it came, at the grain of 64 MiB. Beyond this
//! room's reach: the file system keeps to the nanosecond when each slab and the index last changed, and where on the medium it put
//! what came together; the index shows which pages the last few commits touched; removed shares stay readable in their slots until
//! reused.

pub mod disk;
mod error;
mod head;
mod index;
mod slabs;
pub mod state;
mod writer;

pub use error::StoreError;
pub use state::StateDir;

use crate::base::ids::Address;
use crate::base::ids::NetworkId;
use core::fmt;
use disk::{Directory, Disk};
use index::{Index, Key, Row, key};
use slabs::{Files, Maps};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use writer::Queue;

/// Longest blob, in bytes: a large share with its proof, and some room.
pub const BLOB_MAX: usize = 33_024;
/// Bytes of a slab. Space comes back to the disk in these steps.
pub const SLAB_BYTES: u64 = 64 << 20;
/// Rows that one [`Store::expire`] looks at.
const EXPIRE_ROWS: usize = 16_384;
/// Shares that one [`Store::expire`] removes or moves at most: bounds how long others wait.
const EXPIRE_CHANGES: usize = 512;
/// Slab files that one [`Store::expire`] removes at most.
const EXPIRE_SLABS: usize = 4;

/// Derives a share's address and index from its blob, or `None` if the blob is not what a writer made.
pub type Verify = fn(&[u8]) -> Option<(Address, u8)>;

/// How to open a store.
#[derive(Clone, Copy)]
pub struct Options {
    /// Bytes that shares may take on disk, slots counted whole. The index comes on top: under 2 % at most. May change later:
    /// [`Store::set_quota`].
    pub quota_bytes: u64,
    /// The network whose shares these are; a store never changes it.
    pub network: NetworkId,
    /// The check of every share that is read.
    pub verify: Verify,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("quota_bytes", &self.quota_bytes).field("network", &self.network).finish_non_exhaustive()
    }
}

/// What became of a share that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is on disk.
    Stored,
    /// It was on disk; its lease now ends at the later of both days.
    AlreadyHeld,
    /// This host holds as many other shares of the chunk as it may (D11); their leases end at the later of both days.
    HoldsEnough {
        /// Which of them are whole, by index: a bit for each.
        held: u32,
    },
    /// The quota is used up.
    Full,
}

/// A moment's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Shares held.
    pub shares: u64,
    /// Bytes their slots take.
    pub bytes: u64,
    /// Bytes they may take.
    pub quota: u64,
    /// Shares dropped since the store was opened because they no longer verified.
    pub damaged: u64,
}

/// What one call of [`Store::expire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Shares removed because their lease was over.
    pub removed: u64,
    /// Shares moved so that a nearly empty slab can be given back.
    pub moved: u64,
    /// Whether this call came to the end of the index: call again tomorrow, else soon.
    pub finished: bool,
}

/// One share to be kept.
#[derive(Clone, Debug)]
struct Share {
    address: Address,
    index: u8,
    end: u32,
    most: usize,
    blob: Vec<u8>,
}

/// The shares a host holds. Blocking; share it between threads in an `Arc`.
///
/// # Invariants
/// Every row points at a taken slot of its own, and every taken slot has one row ([`Store::check`]). Maps in memory equal those
/// last committed whenever the writer's lock is free.
pub struct Store {
    options: Options,
    slab_bytes: u64,
    disk: Arc<dyn Disk>,
    files: Files,
    /// `None` after a failure, until the next use opens it again.
    index: RwLock<Option<Index>>,
    writer: Mutex<Writer>,
    queue: Queue,
    quota: AtomicU64,
    shares: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
}

/// What only the thread that changes the store may touch.
#[derive(Debug, Default)]
struct Writer {
    maps: Maps,
    /// Where the walk over leases stands, and the slabs that this walk empties.
    walk: Option<Key>,
    leave: BTreeSet<slabs::SlabId>,
    /// The walk is over, empty slabs are being removed.
    clearing: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `dir`, or makes one there. The index is checked page by page: under 0.1 s for a million shares, 0.6 s
    /// when the disk is cold. A missing or damaged one is rebuilt by reading all slabs.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::Newer`], [`StoreError::WrongNetwork`], [`StoreError::Exposed`],
    /// [`StoreError::Damaged`], or what the disk said. Nothing that was held is lost by any of them.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        Self::on(Arc::new(Directory::open(dir)?), options, SLAB_BYTES)
    }

    /// Opens the store on any [`Disk`], with new slabs of `slab_bytes`. For tests; a slab keeps the size it was made with.
    #[doc(hidden)]
    pub fn on(disk: Arc<dyn Disk>, options: Options, slab_bytes: u64) -> Result<Self, StoreError> {
        head::open(disk.as_ref(), options.network)?;
        let store = Self {
            options,
            slab_bytes,
            files: Files::new(Arc::clone(&disk)),
            disk,
            index: RwLock::new(None),
            writer: Mutex::default(),
            queue: Queue::default(),
            quota: AtomicU64::new(options.quota_bytes),
            shares: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        };
        store.revive(&mut store.writer())?;
        Ok(store)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the index again if a failure closed it.
    fn revive(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let mut slot = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let index = Index::open(self.disk.as_ref(), &self.files, self.options.verify)?;
            self.adopt(writer, &index)?;
            *slot = Some(index);
        }
        Ok(())
    }

    /// Takes the committed maps for the truth.
    fn adopt(&self, writer: &mut Writer, index: &Index) -> Result<(), StoreError> {
        *writer = Writer { maps: Maps::new(index.slabs()?), ..Writer::default() };
        self.count(&writer.maps);
        Ok(())
    }

    fn count(&self, maps: &Maps) {
        let (shares, bytes) = maps.totals();
        self.shares.store(shares, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Asks the index. One that failed is closed; this call fails and the next one opens it again.
    fn ask<T>(&self, question: impl Fn(&Index) -> Result<T, StoreError>) -> Result<T, StoreError> {
        for _ in 0..2 {
            if let Some(index) = self.index.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
                let answer = question(index);
                if !matches!(answer, Err(StoreError::Index(_) | StoreError::Io { .. })) {
                    return answer;
                }
            }
            self.close();
            self.revive(&mut self.writer())?;
        }
        Err(StoreError::Index("it keeps failing".to_owned()))
    }

    fn close(&self) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Changes index, maps and slabs together. After a failure the maps are again what was last committed.
    fn change<T>(
        &self,
        writer: &mut Writer,
        make: impl FnOnce(&mut Writer, &mut index::Change<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.revive(writer)?;
        let guard = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = guard.as_ref() else { return Err(StoreError::Index("closed".to_owned())) };
        let done = index.change(|change| {
            let made = make(writer, change)?;
            for id in writer.maps.take_dirty() {
                change.put_slab(id, writer.maps.get(id))?;
            }
            Ok(made)
        });
        if done.is_err() {
            let sound =
                !matches!(done, Err(StoreError::Index(_))) && self.adopt(writer, index).is_ok() && index.change(|_| Ok(())).is_ok();
            drop(guard);
            if !sound {
                self.close();
            }
        } else {
            self.count(&writer.maps);
        }
        done
    }

    /// Keeps a share for `lease_days` from `day`. Returns once it lasts; threads that call this together share the cost of that.
    ///
    /// The caller has verified the blob: `address` and `index` are what [`Options::verify`] says of it. `max_per_chunk` is how many
    /// shares of one chunk this host keeps.
    ///
    /// # Errors
    /// [`StoreError::Bounds`], [`StoreError::DiskFull`], [`StoreError::ReadOnly`] or what the disk said; then the share is not
    /// kept.
    pub fn put(
        &self,
        day: u32,
        lease_days: u16,
        address: &Address,
        index: u8,
        blob: &[u8],
        max_per_chunk: usize,
    ) -> Result<Put, StoreError> {
        if blob.is_empty() || blob.len() > BLOB_MAX || index > 31 {
            return Err(StoreError::Bounds { len: blob.len(), index });
        }
        let end = day.saturating_add(u32::from(lease_days));
        let share = Share { address: *address, index, end, most: max_per_chunk, blob: blob.to_vec() };
        self.queue.put(share, |batch| self.put_batch(batch))
    }

    /// Any held share of the chunk whose index has its bit set in `want`, checked. `chance` (any random number) picks among
    /// several.
    pub fn get_any(&self, address: &Address, want: u32, chance: u32) -> Result<Option<(u8, Vec<u8>)>, StoreError> {
        let mut rows = self.ask(|index| index.rows(address))?;
        rows.retain(|(index, _)| want.checked_shr(u32::from(*index)).unwrap_or(0) & 1 == 1);
        if !rows.is_empty() {
            let turn = chance as usize % rows.len();
            rows.rotate_left(turn);
        }
        for (index, row) in rows {
            if let Some(blob) = self.read(address, index, &row)? {
                return Ok(Some((index, blob)));
            }
            if let Some(blob) = self.doubt(address, index)? {
                return Ok(Some((index, blob)));
            }
        }
        Ok(None)
    }

    /// The blob of a row if it verifies as that share.
    fn read(&self, address: &Address, index: u8, row: &Row) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self
            .files
            .read(row.slab, u32::from(row.slot), usize::from(row.len))
            .map_err(|e| StoreError::io("reading a share", e))?;
        Ok(blob.filter(|blob| (self.options.verify)(blob) == Some((*address, index))))
    }

    /// Looks again, with nobody writing, at a share that did not verify: its slot may have been reused under the reader. Drops it
    /// if it is damaged indeed.
    fn doubt(&self, address: &Address, index: u8) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key(address, index);
        let mut writer = self.writer();
        let mut dropped = false;
        let blob = self.change(&mut writer, |writer, change| {
            let Some(row) = change.get(&key)? else { return Ok(None) };
            let blob = self.read(address, index, &row)?;
            if blob.is_none() {
                change.remove(&key)?;
                writer.maps.free(row.slab, u32::from(row.slot));
                dropped = true;
            }
            Ok(blob)
        })?;
        if dropped {
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(blob)
    }

    /// Which shares of a chunk are held, a bit for each index. Not checked: reading one is what finds damage.
    pub fn held(&self, address: &Address) -> Result<u32, StoreError> {
        let rows = self.ask(|index| index.rows(address))?;
        Ok(rows.iter().fold(0, |mask, (index, _)| mask | 1u32.checked_shl(u32::from(*index)).unwrap_or(0)))
    }

    fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Sets the quota from now on. What is held beyond a lower one was acknowledged and stays until its lease ends (T37); until then
    /// nothing new is taken, and no lease renewed: else whoever publishes again would keep the disk full for ever.
    pub fn set_quota(&self, bytes: u64) {
        self.quota.store(bytes, Ordering::Relaxed);
    }

    /// Figures of this moment.
    pub fn stats(&self) -> Stats {
        Stats {
            shares: self.shares.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            quota: self.quota(),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    /// Waits for whatever is being written. What [`Store::put`] acknowledged lasts without it.
    pub fn flush(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        self.change(&mut writer, |_, _| Ok(()))
    }

    /// Removes shares whose lease ended before `day`, and moves some out of nearly empty slabs, which are then given back to the
    /// disk. One call does a bounded part of a walk over the index; call it until [`Expired::finished`], once a day.
    pub fn expire(&self, day: u32) -> Result<Expired, StoreError> {
        let mut guard = self.writer();
        let writer = &mut *guard;
        let mut done = Expired::default();
        if !writer.clearing {
            done = self.expire_some(writer, day)?;
            if !done.finished {
                return Ok(done);
            }
        }
        let mut empty = writer.maps.empty();
        done.finished = empty.len() <= EXPIRE_SLABS;
        empty.truncate(EXPIRE_SLABS);
        if !empty.is_empty() {
            self.change(writer, |writer, _| {
                empty.iter().for_each(|id| writer.maps.forget(*id));
                Ok(())
            })?;
            for id in &empty {
                // A file that stays is found and reused by the next slab of its number.
                let _ = self.files.remove(*id);
            }
        }
        writer.clearing = !done.finished;
        Ok(done)
    }

    #[doc(hidden)]
    /// Asserts the invariants. For tests and simulations.
    pub fn check(&self) {
        let writer = self.writer();
        let rows = self.ask_all();
        let mut slots = BTreeSet::new();
        for (_, row) in &rows {
            assert!(slots.insert((row.slab, row.slot)), "two shares in one slot");
            let map = writer.maps.get(row.slab);
            assert!(map.is_some_and(|m| m.has(u32::from(row.slot))), "a share in a free slot");
        }
        assert_eq!(writer.maps.totals().0, rows.len() as u64, "a taken slot without a share");
    }

    fn ask_all(&self) -> Vec<(Key, Row)> {
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .and_then(|index| index.scan(None, usize::MAX).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
