//! The files that hold the shares themselves: slabs of equal slots, and the map of which slots are taken.
//!
//! ```text
//! slab-<class>-<number>     class = slot size / 512, 001 ..= 065; number from 000000
//!   slot 0 | slot 1 | ...   each at a multiple of 512, class x 512 bytes long
//!     slot = len u32 ‖ end day u32 ‖ check u64 ‖ blob [len] ‖ rest unused      check = FNV-1a over len and end day
//! ```
//! A slab is made at its full length as a sparse file, so it takes room only where shares were written. A share goes to the slot
//! its address points at, or the next free one: where it lies in the slab tells nothing of when it came. A slot's head lets the
//! index be rebuilt from slabs alone; nothing else reads it.

use crate::base::ids::Address;
use crate::store::disk::Disk;
use crate::store::disk::DiskFile;
use crate::store::head::check_sum;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Slots begin at multiples of this.
const SECTOR: usize = 512;
/// Bytes of a slot before the blob.
pub(crate) const SLOT_HEAD: usize = 16;
/// Slab files that stay open at once, well below the usual 1,024 files of a process.
const OPEN_MAX: usize = 128;
/// Most slabs of one class: the number has 24 bits.
const NUMBER_MAX: u32 = 1 << 24;

/// Which slab: its class in the top 8 bits, its number below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SlabId(pub(crate) u32);

impl SlabId {
    fn new(class: u8, number: u32) -> Self {
        Self((u32::from(class) << 24) | (number & (NUMBER_MAX - 1)))
    }

    pub(crate) const fn class(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Bytes of each of its slots.
    pub(crate) fn slot_bytes(self) -> u64 {
        u64::from(self.class()) * SECTOR as u64
    }

    pub(crate) fn name(self) -> String {
        format!("slab-{:03}-{:06}", self.class(), self.0 & (NUMBER_MAX - 1))
    }

    /// The inverse of [`SlabId::name`].
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (class, number) = name.strip_prefix("slab-")?.split_once('-')?;
        let id = Self::new(class.parse().ok()?, number.parse().ok()?);
        (id.name() == name && id.class() > 0).then_some(id)
    }
}

/// The class of slots that a blob of this many bytes goes to.
pub(crate) fn class_of(len: usize) -> u8 {
    u8::try_from((len + SLOT_HEAD).div_ceil(SECTOR)).unwrap_or(u8::MAX)
}

/// Head of a slot.
pub(crate) fn slot_head(len: u32, end: u32) -> [u8; SLOT_HEAD] {
    let mut head = [0; SLOT_HEAD];
    head[..4].copy_from_slice(&len.to_be_bytes());
    head[4..8].copy_from_slice(&end.to_be_bytes());
    let sum = check_sum(&head[..8]);
    head[8..].copy_from_slice(&sum.to_be_bytes());
    head
}

/// Length and end day of a slot's head; `None` for an empty or torn one.
pub(crate) fn read_slot_head(head: &[u8; SLOT_HEAD]) -> Option<(usize, u32)> {
    let [l0, l1, l2, l3, e0, e1, e2, e3, ..] = *head;
    let (len, end) = (u32::from_be_bytes([l0, l1, l2, l3]), u32::from_be_bytes([e0, e1, e2, e3]));
    (len > 0 && slot_head(len, end) == *head).then_some((usize::try_from(len).ok()?, end))
}

/// Which slots of one slab are taken: a bit each, kept in the index as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    bits: Vec<u8>,
    count: u32,
    used: u32,
}

impl Slots {
    pub(crate) fn empty(count: u32) -> Self {
        Self { bits: vec![0; (count as usize).div_ceil(8)], count, used: 0 }
    }

    /// From the index: `count u32 ‖ bits`. `None` if the two do not fit together.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, bits) = bytes.split_first_chunk::<4>()?;
        let count = u32::from_be_bytes(*count);
        (bits.len() == (count as usize).div_ceil(8)).then(|| {
            let used = bits.iter().map(|b| b.count_ones()).sum();
            Self { bits: bits.to_vec(), count, used }
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.count.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.bits);
        bytes
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    pub(crate) const fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn has(&self, slot: u32) -> bool {
        slot < self.count && self.bits.get(slot as usize / 8).is_some_and(|b| b & (1 << (slot % 8)) != 0)
    }

    /// Takes or frees a slot; false if it was so already or does not exist.
    pub(crate) fn set(&mut self, slot: u32, taken: bool) -> bool {
        if slot >= self.count || self.has(slot) == taken {
            return false;
        }
        if let Some(byte) = self.bits.get_mut(slot as usize / 8) {
            *byte ^= 1 << (slot % 8);
        }
        self.used = if taken { self.used + 1 } else { self.used.saturating_sub(1) };
        true
    }

    /// The first free slot at or after `start`, going round once. Skips eight taken ones at a time.
    pub(crate) fn free_from(&self, start: u32) -> Option<u32> {
        if self.used >= self.count {
            return None;
        }
        let start = start % self.count.max(1);
        let after = self.free_between(start, self.count);
        after.or_else(|| self.free_between(0, start))
    }

    fn free_between(&self, from: u32, to: u32) -> Option<u32> {
        let mut slot = from;
        while slot < to {
            if slot.is_multiple_of(8) && self.bits.get(slot as usize / 8) == Some(&0xff) {
                slot += 8;
            } else if self.has(slot) {
                slot += 1;
            } else {
                return Some(slot);
            }
        }
        None
    }
}

/// All slabs' maps, and which of them changed since the last commit. Lives behind the writer's lock.
///
/// # Invariants
/// `shares` and `bytes` are the sums over `slabs`; no slab of a class below its entry in `room` has a free slot.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    slabs: BTreeMap<SlabId, Slots>,
    shares: u64,
    bytes: u64,
    room: BTreeMap<u8, SlabId>,
    dirty: Vec<SlabId>,
}

impl Maps {
    pub(crate) fn new(slabs: BTreeMap<SlabId, Slots>) -> Self {
        let (shares, bytes) = slabs.iter().fold((0, 0), |(shares, bytes), (id, slots)| {
            let used = u64::from(slots.used());
            (shares + used, bytes + used * id.slot_bytes())
        });
        Self { slabs, shares, bytes, ..Self::default() }
    }

    /// The map of one slab.
    pub(crate) fn get(&self, id: SlabId) -> Option<&Slots> {
        self.slabs.get(&id)
    }

    /// Shares and bytes of slots that are taken.
    pub(crate) const fn totals(&self) -> (u64, u64) {
        (self.shares, self.bytes)
    }

    /// Takes a slot of a class: in the lowest slab with room that is not in `leave`, at the place the address points to. `None`
    /// when every slab is full and a new one is needed.
    pub(crate) fn take(&mut self, class: u8, address: &Address, leave: &BTreeSet<SlabId>) -> Option<(SlabId, u32)> {
        let [.., a, b, c, d] = address.0;
        let from = self.room.get(&class).copied().unwrap_or(SlabId::new(class, 0));
        let mut range = self.slabs.range_mut(from..=SlabId::new(class, NUMBER_MAX - 1)).filter(|(_, s)| s.used() < s.count());
        let (id, slots) = range.find(|(id, _)| !leave.contains(id))?;
        let slot = slots.free_from(u32::from_be_bytes([a, b, c, d]))?;
        let id = *id;
        slots.set(slot, true);
        self.shares += 1;
        self.bytes += id.slot_bytes();
        if leave.is_empty() {
            self.room.insert(class, id);
        }
        self.touch(id);
        Some((id, slot))
    }

    /// Adds an empty slab of a class under the lowest free number.
    pub(crate) fn grow(&mut self, class: u8, slab_bytes: u64) -> Option<(SlabId, u64)> {
        let id = (0..NUMBER_MAX).map(|n| SlabId::new(class, n)).find(|id| !self.slabs.contains_key(id))?;
        let count = (slab_bytes / id.slot_bytes().max(1)).clamp(1, u64::from(u16::MAX));
        self.slabs.insert(id, Slots::empty(u32::try_from(count).unwrap_or(1)));
        self.room.remove(&class);
        self.touch(id);
        Some((id, count * id.slot_bytes()))
    }

    /// Frees a slot.
    pub(crate) fn free(&mut self, id: SlabId, slot: u32) {
        if self.slabs.get_mut(&id).is_some_and(|s| s.set(slot, false)) {
            self.shares -= 1;
            self.bytes -= id.slot_bytes();
            self.room.remove(&id.class());
            self.touch(id);
        }
    }

    /// Forgets an empty slab.
    pub(crate) fn forget(&mut self, id: SlabId) {
        if self.slabs.get(&id).is_some_and(|s| s.used() == 0) {
            self.slabs.remove(&id);
            self.touch(id);
        }
    }

    fn touch(&mut self, id: SlabId) {
        if !self.dirty.contains(&id) {
            self.dirty.push(id);
        }
    }

    /// The slabs that changed since this was last asked.
    pub(crate) fn take_dirty(&mut self) -> Vec<SlabId> {
        core::mem::take(&mut self.dirty)
    }

    /// Slabs without a share: their files can go.
    pub(crate) fn empty(&self) -> Vec<SlabId> {
        self.slabs.iter().filter(|(_, s)| s.used() == 0).map(|(id, _)| *id).collect()
    }

    /// The slabs that are worth emptying: the least full ones of a class, as many as it could do without and keep one to spare.
    pub(crate) fn sparse(&self) -> BTreeSet<SlabId> {
        let mut classes: BTreeMap<u8, Vec<(u32, SlabId)>> = BTreeMap::new();
        for (id, slots) in &self.slabs {
            classes.entry(id.class()).or_default().push((slots.used(), *id));
        }
        let mut leave = BTreeSet::new();
        for slabs in classes.values_mut() {
            slabs.sort_unstable();
            let used: u64 = slabs.iter().map(|(used, _)| u64::from(*used)).sum();
            let each =
                slabs.iter().filter_map(|(_, id)| self.slabs.get(id)).map(|s| u64::from(s.count())).min().unwrap_or(1).max(1);
            let needed = usize::try_from(used.div_ceil(each)).unwrap_or(usize::MAX).saturating_add(1);
            leave.extend(slabs.iter().take(slabs.len().saturating_sub(needed)).map(|(_, id)| *id));
        }
        leave
    }
}

/// Open files, each with the time of its last use; the clock counts uses.
#[derive(Debug, Default)]
struct Opened {
    clock: u64,
    open: BTreeMap<SlabId, (u64, Arc<dyn DiskFile>)>,
}

/// Open slab files, the least recently used closed first.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    open: Mutex<Opened>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::default() }
    }

    fn get(&self, id: SlabId, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Opened { clock, open } = &mut *guard;
        *clock += 1;
        if let Some((used, file)) = open.get_mut(&id) {
            *used = *clock;
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&id.name(), create)?;
        if open.len() >= OPEN_MAX
            && let Some(oldest) = open.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id)
        {
            open.remove(&oldest);
        }
        open.insert(id, (*clock, Arc::clone(&file)));
        Ok(file)
    }

    /// Makes a slab's file at full length. Its name lasts when this returns.
    pub(crate) fn create(&self, id: SlabId, len: u64) -> io::Result<()> {
        self.get(id, true)?.set_len(len)?;
        self.disk.sync_names()
    }

    pub(crate) fn remove(&self, id: SlabId) -> io::Result<()> {
        // Both under the lock: a reader between them would keep a file that has no name any more, and the next slab of this number
        // would be written to it.
        let mut files = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        files.open.remove(&id);
        self.disk.remove(&id.name())
    }

    /// Reads `len` bytes of the blob in a slot. An inner `None`: the file ends before it, or is gone.
    pub(crate) fn read(&self, id: SlabId, slot: u32, len: usize) -> io::Result<Option<Vec<u8>>> {
        let mut blob = vec![0; len];
        let done = self.get(id, false).and_then(|f| f.read(u64::from(slot) * id.slot_bytes() + SLOT_HEAD as u64, &mut blob));
        match done {
            Ok(()) => Ok(Some(blob)),
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes a slot's head and blob, in one write.
    pub(crate) fn write(&self, id: SlabId, slot: u32, end: u32, blob: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(SLOT_HEAD + blob.len());
        bytes.extend_from_slice(&slot_head(u32::try_from(blob.len()).unwrap_or(0), end));
        bytes.extend_from_slice(blob);
        self.get(id, false)?.write(u64::from(slot) * id.slot_bytes(), &bytes)
    }

    /// Writes a slot's head alone, to change its end day.
    pub(crate) fn write_head(&self, id: SlabId, slot: u32, len: usize, end: u32) -> io::Result<()> {
        self.get(id, false)?.write(u64::from(slot) * id.slot_bytes(), &slot_head(u32::try_from(len).unwrap_or(0), end))
    }

    pub(crate) fn sync(&self, id: SlabId) -> io::Result<()> {
        self.get(id, false)?.sync()
    }

    /// All slab files there are with their slot counts, for a rebuild of the index.
    pub(crate) fn found(&self) -> io::Result<Vec<(SlabId, u32)>> {
        let mut found = Vec::new();
        for id in self.disk.names()?.iter().filter_map(|name| SlabId::from_name(name)) {
            let count = self.get(id, false)?.len()? / id.slot_bytes().max(1);
            found.push((id, u32::try_from(count.min(u64::from(u16::MAX))).unwrap_or(0)));
        }
        found.sort();
        Ok(found)
    }

    /// What a slot says it holds, or `None` when its head is empty, torn, or larger than the slot.
    pub(crate) fn recover(&self, id: SlabId, slot: u32) -> io::Result<Option<(u32, Vec<u8>)>> {
        let mut head = [0; SLOT_HEAD];
        match self.get(id, false)?.read(u64::from(slot) * id.slot_bytes(), &mut head) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let Some((len, end)) = read_slot_head(&head) else { return Ok(None) };
        if class_of(len) != id.class() {
            return Ok(None);
        }
        Ok(self.read(id, slot, len)?.map(|blob| (end, blob)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_share_sizes_waste_little() {
        for (len, class) in [(8_369, 17), (32_945, 65), (33_024, 65), (1, 1), (496, 1), (497, 2)] {
            assert_eq!(class_of(len), class, "{len}");
        }
        for (len, percent) in [(8_369u64, 105), (32_945, 102)] {
            let slot = SlabId::new(class_of(len as usize), 0).slot_bytes();
            assert!(slot * 100 < len * percent, "{len}");
        }
    }

    #[test]
    fn names_go_both_ways_and_nothing_else_is_a_slab() {
        for id in [SlabId::new(17, 0), SlabId::new(65, 123_456), SlabId::new(1, NUMBER_MAX - 1)] {
            assert_eq!(SlabId::from_name(&id.name()), Some(id));
        }
        for bad in [
            "index",
            "slab-",
            "slab-17-0",
            "slab-000-000000",
            "slab-256-000000",
            "slab-017-0000001",
            "slab-017-00000x",
            "slab-+17-000000",
        ] {
            assert_eq!(SlabId::from_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_slot_head_with_any_bit_flipped_is_none() {
        let head = slot_head(8_369, 20_000);
        assert_eq!(read_slot_head(&head), Some((8_369, 20_000)));
        assert_eq!(read_slot_head(&[0; SLOT_HEAD]), None);
        for bit in 0..SLOT_HEAD * 8 {
            let mut bent = head;
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_slot_head(&bent), None, "bit {bit}");
        }
    }

    #[test]
    fn slots_fill_from_any_start_and_survive_encoding() {
        for count in [1u32, 7, 8, 9, 64, 100] {
            for start in [0, 1, count / 2, count - 1, u32::MAX] {
                let mut slots = Slots::empty(count);
                for taken in 0..count {
                    let slot = slots.free_from(start).unwrap();
                    assert!(slots.set(slot, true));
                    assert!(!slots.set(slot, true));
                    assert_eq!(slots.used(), taken + 1);
                }
                assert_eq!(slots.free_from(start), None);
                assert_eq!(Slots::decode(&slots.encode()).unwrap(), slots);
                assert!(slots.set(count - 1, false));
                assert_eq!(slots.free_from(start), Some(count - 1));
                assert!(!slots.set(count, true), "past the end");
            }
        }
        assert_eq!(Slots::decode(&[0, 0, 0, 9, 1]), None);
        assert_eq!(Slots::decode(&[0, 0]), None);
    }

    #[test]
    fn a_class_with_two_slabs_of_room_gives_its_emptiest_back() {
        let mut maps = Maps::default();
        for _ in 0..4 {
            maps.grow(1, 512 * 10).unwrap();
        }
        let none = BTreeSet::new();
        for n in 0..35u32 {
            let mut address = [0; 32];
            address[28..].copy_from_slice(&n.to_be_bytes());
            maps.take(1, &Address(address), &none).unwrap();
        }
        assert_eq!(maps.sparse(), none);
        assert_eq!(maps.totals(), (35, 35 * 512));
        for slot in 0..8 {
            maps.free(SlabId::new(1, 1), slot);
            maps.free(SlabId::new(1, 2), slot);
        }
        assert_eq!(maps.totals(), (19, 19 * 512));
        let leave = BTreeSet::from([SlabId::new(1, 1)]);
        assert_eq!(maps.sparse(), leave);
        let (id, _) = maps.take(1, &Address([0; 32]), &leave).unwrap();
        assert_eq!(id, SlabId::new(1, 2));
        let (id, _) = maps.take(1, &Address([0; 32]), &none).unwrap();
        assert_eq!(id, SlabId::new(1, 1), "the lowest again, once it may be used");
    }
}
