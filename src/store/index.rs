//! Which share lies in which slot: a redb file, and its rebuilding from the slabs when it is missing or damaged.
//!
//! ```text
//! index                  redb, all its pages checked when the store opens
//!   table shares         address [32] ‖ index u8      ->  slab u32 ‖ slot u16 ‖ len u16 ‖ end day u32
//!   table slabs          slab u32                     ->  count u32 ‖ a bit per slot
//!   table built          0                            ->  1: the other two are complete
//! index.damaged          the last index that failed its check, kept for whoever wants to look
//! ```
//! Rows sort by address, which is a hash: their order says nothing about arrival. redb writes changed pages to free places, so the
//! file shows which pages the last commits touched, each page holding some sixty unrelated addresses.

use crate::base::ids::Address;
use crate::store::Verify;
use crate::store::disk::Disk;
use crate::store::disk::DiskFile;
use crate::store::error::StoreError;
use crate::store::slabs::Files;
use crate::store::slabs::SlabId;
use crate::store::slabs::Slots;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition};
use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

const NAME: &str = "index";
const DAMAGED: &str = "index.damaged";
/// Memory for index pages: about a sixth of the index of a million shares; the tree above its leaves fits in a fifth of this.
const CACHE: usize = 16 << 20;
/// Shares of a commit while rebuilding.
const REBUILD_BATCH: usize = 4096;

const SHARES: TableDefinition<'_, &[u8; 33], &[u8; 12]> = TableDefinition::new("shares");
const SLABS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("slabs");
const BUILT: TableDefinition<'_, u8, u8> = TableDefinition::new("built");

/// Address and index of a share, as they sort in the index.
pub(crate) type Key = [u8; 33];

/// The key of a share.
pub(crate) fn key(address: &Address, index: u8) -> Key {
    let mut key = [index; 33];
    key[..32].copy_from_slice(&address.0);
    key
}

/// Where a share lies and until when it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) slab: SlabId,
    pub(crate) slot: u16,
    pub(crate) len: u16,
    pub(crate) end: u32,
}

impl Row {
    fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.slab.0.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.slot.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.len.to_be_bytes());
        bytes[8..].copy_from_slice(&self.end.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; 12]) -> Self {
        let [a, b, c, d, s0, s1, l0, l1, e0, e1, e2, e3] = *bytes;
        Self {
            slab: SlabId(u32::from_be_bytes([a, b, c, d])),
            slot: u16::from_be_bytes([s0, s1]),
            len: u16::from_be_bytes([l0, l1]),
            end: u32::from_be_bytes([e0, e1, e2, e3]),
        }
    }
}

/// Place and bit by which a file says that it was closed in good order (redb's format, version 3: "god byte").
const CLOSED_WELL: (usize, u8) = (9, 4);

/// Places of the four roots in the head of a file: two in each of its two commit slots. The top five bits of a root's page number
/// are the order of its page (redb's format, version 3).
const ROOTS: [usize; 4] = [72, 104, 200, 232];
/// Bytes of a page of order 0.
const PAGE: u64 = 4096;

/// redb's view of one file.
///
/// A file that was closed in good order is used as it is, and pages are followed whose sums nobody looked at: a rotten bit in one
/// makes redb ask for gigabytes of memory before it finds that the file has no such page. So no file was closed in good order:
/// every page is compared with its sum before what is in it is followed. The last change of a file that was is one of redb's own,
/// so nothing of ours is lost where that one is rotten and the change before counts. Roots alone are followed without a sum, where
/// the newer of the two commits does not verify: no root's page may be longer than the file.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn DiskFile>,
    /// Set once the file has been looked through.
    open: Arc<AtomicBool>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)?;
        let (at, bit) = CLOSED_WELL;
        if offset == 0
            && !self.open.load(Ordering::Relaxed)
            && let Some(byte) = out.get_mut(at)
        {
            *byte &= !bit;
            let len = self.file.len()?;
            let orders = ROOTS.iter().filter_map(|root| out.get(root + 7)).map(|top| top >> 3);
            if orders.into_iter().any(|order| PAGE << order > len) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// An error of redb, sorted. Whatever is not the operating system's is damage, which a rebuild cures.
fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl Fn(E) -> StoreError {
    move |e| {
        let e = e.into();
        if let redb::Error::Io(e) = e {
            // redb tells of damage in this way too, then without a code of the system.
            let system =
                e.raw_os_error().is_some() || matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem);
            return if system { StoreError::io(doing, e) } else { StoreError::Index(e.to_string()) };
        }
        if matches!(e, redb::Error::PreviousIo) {
            return StoreError::io(doing, io::Error::other("an earlier write failed"));
        }
        StoreError::Index(e.to_string())
    }
}

/// Runs a call of redb; its asserts on file content become an error: what a file holds must not end the daemon. The tests of rotten
/// bytes reach several such asserts. It works only where panics unwind, so no profile may set `panic = "abort"`.
fn calm<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(StoreError::Index("inconsistent pages".to_owned())))
}

/// The open index. Readers need no lock; one change at a time.
#[derive(Debug)]
pub(crate) struct Index {
    db: Database,
}

/// The tables within one change.
pub(crate) struct Change<'t> {
    shares: Table<'t, &'static Key, &'static [u8; 12]>,
    slabs: Table<'t, u32, &'static [u8]>,
}

impl Index {
    /// Opens and checks the index; rebuilds it from the slabs if it is missing, unfinished or damaged.
    pub(crate) fn open(disk: &dyn Disk, files: &Files, verify: Verify) -> Result<Self, StoreError> {
        let doing = "opening the index";
        let io = |e| StoreError::io(doing, e);
        let old = match disk.open(NAME, false) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(e)),
        };
        if let Some(file) = old {
            match Self::checked(file) {
                Ok(Some(index)) => return Ok(index),
                Ok(None) => disk.remove(NAME).map_err(io)?,
                Err(StoreError::Index(_)) => disk.rename(NAME, DAMAGED).map_err(io)?,
                Err(e) => return Err(e),
            }
        }
        let file = disk.open(NAME, true).map_err(io)?;
        disk.sync_names().map_err(io)?;
        let mut index = calm(|| Self::database(file))?;
        index.rebuild(files, verify)?;
        Ok(index)
    }

    fn database(file: Arc<dyn DiskFile>) -> Result<Self, StoreError> {
        let open = Arc::new(AtomicBool::new(false));
        let backend = Backend { file, open: Arc::clone(&open) };
        let db = Database::builder().set_cache_size(CACHE).create_with_backend(backend).map_err(failed("opening the index"))?;
        open.store(true, Ordering::Relaxed);
        Ok(Self { db })
    }

    /// `None` when it was never completed.
    fn checked(file: Arc<dyn DiskFile>) -> Result<Option<Self>, StoreError> {
        let doing = "checking the index";
        calm(|| {
            let mut index = Self::database(file)?;
            if !index.db.check_integrity().map_err(failed(doing))? {
                return Err(StoreError::Index("checksum".to_owned()));
            }
            let read = index.db.begin_read().map_err(failed(doing))?;
            let built = match read.open_table(BUILT) {
                Ok(table) => table.get(0).map_err(failed(doing))?.is_some(),
                Err(redb::TableError::TableDoesNotExist(_)) => false,
                Err(e) => return Err(failed(doing)(e)),
            };
            drop(read);
            Ok(built.then_some(index))
        })
    }

    /// Fills an empty index from the heads and blobs of all slots. Of a share that lies in two slots the later end counts.
    fn rebuild(&mut self, files: &Files, verify: Verify) -> Result<(), StoreError> {
        let io = |e| StoreError::io("rebuilding the index", e);
        let mut maps = BTreeMap::new();
        for (id, count) in files.found().map_err(io)? {
            let mut slots = Slots::empty(count);
            let mut from = 0;
            while from < count {
                let to = count.min(from.saturating_add(REBUILD_BATCH as u32));
                self.change(|change| {
                    for slot in from..to {
                        let Some((end, blob)) = files.recover(id, slot).map_err(io)? else { continue };
                        let Some((address, index)) = verify(&blob) else { continue };
                        let key = key(&address, index);
                        let (Ok(slot16), Ok(len)) = (u16::try_from(slot), u16::try_from(blob.len())) else { continue };
                        match change.get(&key)? {
                            Some(row) => change.insert(&key, Row { end: end.max(row.end), ..row })?,
                            None => {
                                slots.set(slot, true);
                                change.insert(&key, Row { slab: id, slot: slot16, len, end })?;
                            }
                        }
                    }
                    Ok(())
                })?;
                from = to;
            }
            maps.insert(id, slots);
        }
        self.change(|change| maps.iter().try_for_each(|(id, slots)| change.put_slab(*id, Some(slots))))?;
        let doing = "completing the index";
        calm(|| {
            let write = self.db.begin_write().map_err(failed(doing))?;
            write.open_table(BUILT).map_err(failed(doing))?.insert(0, 1).map_err(failed(doing))?;
            write.commit().map_err(failed(doing))
        })
    }

    /// The rows of a chunk's shares, by share index.
    pub(crate) fn rows(&self, address: &Address) -> Result<Vec<(u8, Row)>, StoreError> {
        let doing = "reading the index";
        calm(|| {
            let read = self.db.begin_read().map_err(failed(doing))?;
            rows_in(&read.open_table(SHARES).map_err(failed(doing))?, address)
        })
    }

    /// Up to `most` rows after `after`, in order of address.
    pub(crate) fn scan(&self, after: Option<Key>, most: usize) -> Result<Vec<(Key, Row)>, StoreError> {
        use core::ops::Bound;
        let doing = "walking the index";
        calm(|| {
            let read = self.db.begin_read().map_err(failed(doing))?;
            let table = read.open_table(SHARES).map_err(failed(doing))?;
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = table.range::<&Key>((from, Bound::Unbounded)).map_err(failed(doing))?;
            let mut found = Vec::new();
            for row in rows.take(most) {
                let (key, row) = row.map_err(failed(doing))?;
                found.push((*key.value(), Row::decode(row.value())));
            }
            Ok(found)
        })
    }

    /// The maps of all slabs, as last committed.
    pub(crate) fn slabs(&self) -> Result<BTreeMap<SlabId, Slots>, StoreError> {
        let doing = "reading the index";
        calm(|| {
            let read = self.db.begin_read().map_err(failed(doing))?;
            let table = read.open_table(SLABS).map_err(failed(doing))?;
            let mut slabs = BTreeMap::new();
            for row in table.iter().map_err(failed(doing))? {
                let (id, slots) = row.map_err(failed(doing))?;
                let slots = Slots::decode(slots.value()).ok_or_else(|| StoreError::Index("slot map".to_owned()))?;
                slabs.insert(SlabId(id.value()), slots);
            }
            Ok(slabs)
        })
    }

    /// Makes one change: all of it lasts when this returns, or none of it.
    pub(crate) fn change<T>(&self, make: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let doing = "changing the index";
        calm(|| {
            let write = self.db.begin_write().map_err(failed(doing))?;
            let made = {
                let shares = write.open_table(SHARES).map_err(failed(doing))?;
                let slabs = write.open_table(SLABS).map_err(failed(doing))?;
                make(&mut Change { shares, slabs })
            };
            match made {
                Ok(made) => write.commit().map_err(failed(doing)).map(|()| made),
                Err(e) => write.abort().map_err(failed(doing)).and(Err(e)),
            }
        })
    }
}

fn rows_in(table: &impl ReadableTable<&'static Key, &'static [u8; 12]>, address: &Address) -> Result<Vec<(u8, Row)>, StoreError> {
    let doing = "reading the index";
    let mut found = Vec::new();
    for row in table.range::<&Key>(&key(address, 0)..=&key(address, u8::MAX)).map_err(failed(doing))? {
        let (key, row) = row.map_err(failed(doing))?;
        let [.., index] = *key.value();
        found.push((index, Row::decode(row.value())));
    }
    Ok(found)
}

impl Change<'_> {
    /// The rows of a chunk, with what this change did so far.
    pub(crate) fn rows(&self, address: &Address) -> Result<Vec<(u8, Row)>, StoreError> {
        rows_in(&self.shares, address)
    }

    pub(crate) fn get(&self, key: &Key) -> Result<Option<Row>, StoreError> {
        Ok(self.shares.get(key).map_err(failed("reading the index"))?.map(|row| Row::decode(row.value())))
    }

    pub(crate) fn insert(&mut self, key: &Key, row: Row) -> Result<(), StoreError> {
        self.shares.insert(key, &row.encode()).map_err(failed("changing the index")).map(drop)
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Result<(), StoreError> {
        self.shares.remove(key).map_err(failed("changing the index")).map(drop)
    }

    /// Keeps a slab's map, or forgets the slab.
    pub(crate) fn put_slab(&mut self, id: SlabId, slots: Option<&Slots>) -> Result<(), StoreError> {
        let doing = "changing the index";
        match slots {
            Some(slots) => self.slabs.insert(id.0, slots.encode().as_slice()).map_err(failed(doing)).map(drop),
            None => self.slabs.remove(id.0).map_err(failed(doing)).map(drop),
        }
    }
}
