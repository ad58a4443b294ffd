//! Changes: puts that arrive together are written together, and the daily walk over leases.

use crate::store::EXPIRE_CHANGES;
use crate::store::EXPIRE_ROWS;
use crate::store::Expired;
use crate::store::Put;
use crate::store::Share;
use crate::store::Store;
use crate::store::Writer;
use crate::store::error::StoreError;
use crate::store::index::Change;
use crate::store::index::Row;
use crate::store::index::key;
use crate::store::slabs::SlabId;
use crate::store::slabs::class_of;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shares of one commit: 8 MiB of large ones, a few hundredths of a second on a disk of its day.
const BATCH_MAX: usize = 256;

/// How long a batch waits for company when the one before had some: a sync costs the disk as much for one share as for twenty.
const LINGER: Duration = Duration::from_millis(30);
/// So many shares wait no longer: more of them make a sync hardly cheaper by the share.
const COMPANY_ENOUGH: usize = 16;

type Answer = Arc<Mutex<Option<Result<Put, StoreError>>>>;

/// Who waits to be written. The first to come writes for all who came before it starts; those who come meanwhile are the next
/// batch, and one of them writes it, after a moment in which more may come. So a lone put never waits, and the busier the disk the
/// more shares go with one sync.
///
/// # Invariants
/// While `leading` is false nobody's share is being written. A share leaves `waiting` only together with a promise to fill its
/// answer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    shares: Vec<(Share, Answer)>,
    leading: bool,
    /// Somebody came while another led.
    company: bool,
}

/// Answers everyone and hands the lead on, whatever happens to the leader.
struct Lead<'a> {
    queue: &'a Queue,
    answers: Vec<Answer>,
    results: std::vec::IntoIter<Result<Put, StoreError>>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        for answer in &self.answers {
            let result = self.results.next().unwrap_or_else(|| Err(StoreError::Index("no answer".to_owned())));
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
        self.queue.lock().leading = false;
        self.queue.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the share is written, or writes it and those beside it with `write`, which answers in their order.
    pub(super) fn put(&self, share: Share, write: impl Fn(&[Share]) -> Vec<Result<Put, StoreError>>) -> Result<Put, StoreError> {
        let mine: Answer = Arc::default();
        let mut waiting = self.lock();
        waiting.shares.push((share, Arc::clone(&mine)));
        waiting.company |= waiting.leading;
        if waiting.shares.len() == COMPANY_ENOUGH {
            self.changed.notify_all();
        }
        loop {
            if let Some(answer) = mine.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
            if waiting.leading {
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            waiting.leading = true;
            if core::mem::take(&mut waiting.company) {
                let few = |waiting: &mut Waiting| waiting.shares.len() < COMPANY_ENOUGH;
                waiting = self.changed.wait_timeout_while(waiting, LINGER, few).unwrap_or_else(PoisonError::into_inner).0;
            }
            let batch = waiting.shares.len().min(BATCH_MAX);
            let (shares, answers): (Vec<_>, Vec<_>) = waiting.shares.drain(..batch).unzip();
            drop(waiting);
            let mut lead = Lead { queue: self, answers, results: Vec::new().into_iter() };
            lead.results = write(&shares).into_iter();
            drop(lead);
            waiting = self.lock();
        }
    }
}

impl Store {
    /// Writes a batch with one sync of each touched slab and one of the index; every share gets its own answer.
    pub(super) fn put_batch(&self, shares: &[Share]) -> Vec<Result<Put, StoreError>> {
        let mut writer = self.writer();
        let done = self.change(&mut writer, |writer, change| {
            let mut touched = BTreeSet::new();
            let mut freed = Vec::new();
            let mut puts = Vec::with_capacity(shares.len());
            for share in shares {
                puts.push(self.put_one(writer, change, share, &mut touched, &mut freed)?);
            }
            self.sync(&touched)?;
            // Only now: a slot freed by this change must not be reused within it.
            for (id, slot) in freed {
                writer.maps.free(id, slot);
            }
            Ok(puts)
        });
        match done {
            Ok(puts) => puts.into_iter().map(Ok).collect(),
            Err(e) => shares.iter().map(|_| Err(e.clone())).collect(),
        }
    }

    fn sync(&self, slabs: &BTreeSet<SlabId>) -> Result<(), StoreError> {
        slabs.iter().try_for_each(|id| self.files.sync(*id)).map_err(|e| StoreError::io("writing shares", e))
    }

    fn put_one(
        &self,
        writer: &mut Writer,
        change: &mut Change<'_>,
        share: &Share,
        touched: &mut BTreeSet<SlabId>,
        freed: &mut Vec<(SlabId, u32)>,
    ) -> Result<Put, StoreError> {
        let io = |e| StoreError::io("writing shares", e);
        let (taken, quota) = (writer.maps.totals().1, self.quota());
        // The quota was lowered: what is held leaves as its leases end.
        if taken > quota {
            return Ok(Put::Full);
        }
        let this = key(&share.address, share.index);
        let rows = change.rows(&share.address)?;
        let old = rows.iter().find(|(index, _)| *index == share.index).map(|(_, row)| *row);
        let mut end = share.end;
        if let Some(row) = old {
            end = end.max(row.end);
            let (slot, len) = (u32::from(row.slot), usize::from(row.len));
            let there = self.files.read(row.slab, slot, len);
            if there.as_ref().is_ok_and(|blob| blob.as_ref() == Some(&share.blob)) {
                if end > row.end {
                    self.files.write_head(row.slab, slot, len, end).map_err(io)?;
                    touched.insert(row.slab);
                    change.insert(&this, Row { end, ..row })?;
                }
                return Ok(Put::AlreadyHeld);
            }
            // What lies there is not this share any more: written anew below, in another slot. One that the disk cannot read stays
            // out of use.
            if there.is_ok() {
                freed.push((row.slab, slot));
            }
        } else if rows.len() >= share.most
            && let Some(held) = self.renew(change, share, rows, touched, freed)?
        {
            return Ok(Put::HoldsEnough { held });
        } else if taken.saturating_add(u64::from(class_of(share.blob.len())) * 512) > quota {
            return Ok(Put::Full);
        }
        let Some(row) = self.place(writer, share, end)? else { return Ok(Put::Full) };
        touched.insert(row.slab);
        change.insert(&this, row)?;
        Ok(Put::Stored)
    }

    /// Renews the other shares of a chunk, and says which are whole; `None` if they are fewer than this host may hold. One that is
    /// damaged is dropped; one that the disk cannot read now counts and is not said to be whole, and is no failure of whoever waits
    /// for this batch.
    fn renew(
        &self,
        change: &mut Change<'_>,
        share: &Share,
        rows: Vec<(u8, Row)>,
        touched: &mut BTreeSet<SlabId>,
        freed: &mut Vec<(SlabId, u32)>,
    ) -> Result<Option<u32>, StoreError> {
        let (mut held, mut unreadable) = (0_u32, 0);
        for (index, row) in rows {
            let this = key(&share.address, index);
            match self.read(&share.address, index, &row) {
                Ok(Some(_)) => {
                    held |= 1_u32.checked_shl(u32::from(index)).unwrap_or(0);
                    if share.end > row.end {
                        let (slot, len) = (u32::from(row.slot), usize::from(row.len));
                        let written = self.files.write_head(row.slab, slot, len, share.end);
                        written.map_err(|e| StoreError::io("writing shares", e))?;
                        touched.insert(row.slab);
                        change.insert(&this, Row { end: share.end, ..row })?;
                    }
                }
                Ok(None) => {
                    change.remove(&this)?;
                    freed.push((row.slab, u32::from(row.slot)));
                    self.damaged.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => unreadable += 1,
            }
        }
        Ok((held.count_ones() as usize + unreadable >= share.most).then_some(held))
    }

    /// Writes a blob to a free slot, in no slab that is being emptied. `None` if slab numbers have run out.
    fn place(&self, writer: &mut Writer, share: &Share, end: u32) -> Result<Option<Row>, StoreError> {
        let io = |e| StoreError::io("writing shares", e);
        let class = class_of(share.blob.len());
        let mut taken = writer.maps.take(class, &share.address, &writer.leave);
        if taken.is_none() {
            let Some((id, len)) = writer.maps.grow(class, self.slab_bytes) else { return Ok(None) };
            self.files.create(id, len).map_err(io)?;
            taken = writer.maps.take(class, &share.address, &writer.leave);
        }
        let Some((slab, slot)) = taken else { return Ok(None) };
        self.files.write(slab, slot, end, &share.blob).map_err(io)?;
        let (Ok(slot), Ok(len)) = (u16::try_from(slot), u16::try_from(share.blob.len())) else {
            return Err(StoreError::Bounds { len: share.blob.len(), index: share.index });
        };
        Ok(Some(Row { slab, slot, len, end }))
    }

    /// The next part of the walk over all rows: removes what is past its lease, moves what lies in the slab that this walk empties.
    pub(super) fn expire_some(&self, writer: &mut Writer, day: u32) -> Result<Expired, StoreError> {
        if writer.walk.is_none() {
            writer.leave = writer.maps.sparse();
        }
        self.revive(writer)?;
        let walk = writer.walk;
        let rows = {
            let guard = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = guard.as_ref() else { return Err(StoreError::Index("closed".to_owned())) };
            index.scan(walk, EXPIRE_ROWS)?
        };
        let mut done = Expired { finished: rows.len() < EXPIRE_ROWS, ..Expired::default() };
        let mut damaged = 0;
        let mut last = None;
        let mut work = Vec::new();
        for (key, row) in rows {
            if row.end < day || writer.leave.contains(&row.slab) {
                if work.len() == EXPIRE_CHANGES {
                    done.finished = false;
                    break;
                }
                work.push((key, row));
            }
            last = Some(key);
        }
        if !work.is_empty() {
            self.change(writer, |writer, change| {
                let mut touched = BTreeSet::new();
                let mut freed = Vec::new();
                for (key, row) in &work {
                    if row.end < day {
                        change.remove(key)?;
                        freed.push(row);
                        done.removed += 1;
                        continue;
                    }
                    let [head @ .., index] = key;
                    let address = crate::base::ids::Address(*head);
                    let blob = match self.read(&address, *index, row) {
                        Ok(Some(blob)) => blob,
                        Ok(None) => {
                            change.remove(key)?;
                            freed.push(row);
                            damaged += 1;
                            continue;
                        }
                        // It stays where it is, and the walk goes on.
                        Err(_) => continue,
                    };
                    let share = Share { address, index: *index, end: row.end, most: 0, blob };
                    let Some(new) = self.place(writer, &share, row.end)? else { continue };
                    touched.insert(new.slab);
                    change.insert(key, new)?;
                    freed.push(row);
                    done.moved += 1;
                }
                self.sync(&touched)?;
                for row in freed {
                    writer.maps.free(row.slab, u32::from(row.slot));
                }
                Ok(())
            })?;
        }
        self.damaged.fetch_add(damaged, Ordering::Relaxed);
        writer.walk = if done.finished { None } else { last.or(walk) };
        if done.finished {
            writer.leave.clear();
        }
        Ok(done)
    }
}
