//! The power goes at every write and every sync of a recorded run: whatever was acknowledged is there afterwards, and nothing that
//! does not verify is ever returned. Also: bytes that rot, and a disk that fills up or turns read-only under load.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what failed by failing")]

use onionskin::base::{Address, NetworkId};
use onionskin::store::disk::{Disk, DiskFile};
use onionskin::store::{Options, Put, Store, StoreError, Verify};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;
const SLAB: u64 = 12 * 1024;

/// A sparse file.
#[derive(Clone, Debug, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let start = at as usize % PAGE;
            let (now, later) = rest.split_at(rest.len().min(PAGE - start));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            page[start..start + now.len()].copy_from_slice(now);
            (at, rest) = (at + now.len() as u64, later);
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let start = at as usize % PAGE;
            let n = (out.len() - done).min(PAGE - start);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => out[done..done + n].copy_from_slice(&page[start..start + n]),
                None => out[done..done + n].fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let keep = len.div_ceil(PAGE as u64);
            self.pages.retain(|page, _| *page < keep);
            if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
                page[len as usize % PAGE..].fill(0);
            }
        }
        self.len = len;
    }
}

/// What happened, in order. Files are numbered; names point at them.
#[derive(Clone, Debug)]
enum Op {
    Write(usize, u64, Vec<u8>),
    SetLen(usize, u64),
    Sync(usize),
    Name(String, Option<usize>),
    SyncNames,
    /// A put of this chunk and share index returned: from here on it must be there.
    Acknowledged(u64, u8),
}

#[derive(Debug, Default)]
struct World {
    names: BTreeMap<String, usize>,
    files: Vec<Content>,
    log: Vec<Op>,
    /// Bytes that may still be written before the disk is full.
    room: Option<usize>,
    read_only: bool,
}

impl World {
    fn refuse(&mut self, bytes: usize) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<World>>);

#[derive(Debug)]
struct Handle(Arc<Mutex<World>>, usize);

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().files[self.1].len)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.lock().unwrap().files[self.1].read(offset, out)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(data.len())?;
        world.files[self.1].write(offset, data);
        world.log.push(Op::Write(self.1, offset, data.to_vec()));
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(0)?;
        world.files[self.1].set_len(len);
        world.log.push(Op::SetLen(self.1, len));
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(0)?;
        world.log.push(Op::Sync(self.1));
        Ok(())
    }
}

impl Disk for Memory {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock().unwrap();
        let found = world.names.get(name).copied();
        let file = match found {
            Some(file) => file,
            None if create => {
                world.refuse(0)?;
                world.files.push(Content::default());
                let file = world.files.len() - 1;
                world.names.insert(name.to_owned(), file);
                world.log.push(Op::Name(name.to_owned(), Some(file)));
                file
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(Handle(Arc::clone(&self.0), file)))
    }
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().names.keys().cloned().collect())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(0)?;
        let file = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), file);
        world.log.extend([Op::Name(to.to_owned(), Some(file)), Op::Name(from.to_owned(), None)]);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(0)?;
        world.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        world.log.push(Op::Name(name.to_owned(), None));
        Ok(())
    }
    fn sync_names(&self) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        world.refuse(0)?;
        world.log.push(Op::SyncNames);
        Ok(())
    }
}

/// How much of what was not synced reached the medium.
#[derive(Clone, Copy, Debug)]
enum Luck {
    All,
    None,
    Torn(u64),
}

/// What the disk holds if the power goes after the first `cut` operations.
fn image(log: &[Op], cut: usize, luck: Luck) -> Memory {
    let seed = if let Luck::Torn(seed) = luck { seed } else { 0 };
    let mut rng = StdRng::seed_from_u64(seed ^ cut as u64);
    let mut synced: BTreeMap<usize, usize> = BTreeMap::new();
    let mut names_synced = 0;
    for (at, op) in log[..cut].iter().enumerate() {
        match op {
            Op::Sync(file) => drop(synced.insert(*file, at)),
            Op::SyncNames => names_synced = at,
            Op::Write(..) | Op::SetLen(..) | Op::Name(..) | Op::Acknowledged(..) => {}
        }
    }
    // Names reach the medium in order; how far they came is chance.
    let names_until = match luck {
        Luck::All => cut,
        Luck::None => names_synced,
        Luck::Torn(_) => rng.random_range(names_synced..=cut),
    };
    let mut world = World::default();
    for (at, op) in log[..cut].iter().enumerate() {
        let lasts = |file: &usize| synced.get(file).is_some_and(|s| at < *s);
        match op {
            Op::Name(name, Some(file)) => {
                world.files.resize_with(world.files.len().max(file + 1), Content::default);
                if at < names_until {
                    world.names.insert(name.clone(), *file);
                }
            }
            Op::Name(name, None) if at < names_until => drop(world.names.remove(name)),
            Op::Write(file, offset, data) => {
                let part = match luck {
                    _ if lasts(file) => data.len(),
                    Luck::All => data.len(),
                    Luck::None => 0,
                    Luck::Torn(_) => match rng.random_range(0..3) {
                        0 => 0,
                        1 => data.len(),
                        _ => rng.random_range(0..=data.len()),
                    },
                };
                if part > 0 {
                    world.files[*file].write(*offset, &data[..part]);
                }
            }
            Op::SetLen(file, len) => {
                if lasts(file) || matches!(luck, Luck::All) || (matches!(luck, Luck::Torn(_)) && rng.random()) {
                    world.files[*file].set_len(*len);
                }
            }
            Op::Name(..) | Op::Sync(_) | Op::SyncNames | Op::Acknowledged(..) => {}
        }
    }
    Memory(Arc::new(Mutex::new(world)))
}

fn blob(chunk: u64, index: u8, len: usize) -> (Address, Vec<u8>) {
    let mut blob = vec![0; len];
    StdRng::seed_from_u64(chunk.wrapping_mul(64) + u64::from(index)).fill_bytes(&mut blob);
    let address: [u8; 32] = Sha256::digest(chunk.to_be_bytes()).into();
    blob[..32].copy_from_slice(&address);
    blob[32] = index;
    let sum: [u8; 32] = Sha256::digest(&blob[65..]).into();
    blob[33..65].copy_from_slice(&sum);
    (Address(address), blob)
}

fn verify(blob: &[u8]) -> Option<(Address, u8)> {
    let (address, rest) = blob.split_first_chunk::<32>()?;
    let (index, rest) = rest.split_first()?;
    let (sum, data) = rest.split_first_chunk::<32>()?;
    (*sum == <[u8; 32]>::from(Sha256::digest(data))).then_some((Address(*address), *index))
}

fn open(disk: &Memory) -> Result<Store, StoreError> {
    let options = Options { quota_bytes: 1 << 30, network: NetworkId([3; 32]), verify: verify as Verify };
    Store::on(Arc::new(disk.clone()), options, SLAB)
}

/// Lengths by chunk, so that several classes and slabs are in play.
fn length(chunk: u64) -> usize {
    [900, 1_900, 700][(chunk % 3) as usize]
}

fn put(disk: &Memory, store: &Store, day: u32, lease: u16, chunk: u64, index: u8) -> Result<Put, StoreError> {
    let (address, share) = blob(chunk, index, length(chunk));
    let put = store.put(day, lease, &address, index, &share, 3);
    if matches!(put, Ok(Put::Stored | Put::AlreadyHeld)) {
        disk.0.lock().unwrap().log.push(Op::Acknowledged(chunk, index));
    }
    put
}

/// A run with everything in it: puts, several at once, renewals, leases that end, slots reused, slabs emptied and removed, a
/// restart. Chunks below 1,000 are kept throughout; those above are let go.
fn recorded() -> Vec<Op> {
    let disk = Memory::default();
    let store = open(&disk).unwrap();
    for n in 0..40 {
        put(&disk, &store, 100, 5, 1_000 + n, 0).unwrap();
        if n % 4 == 0 {
            put(&disk, &store, 100, 90, n, (n % 3) as u8).unwrap();
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (disk, store) = (&disk, &store);
            scope.spawn(move || {
                for n in 0..4 {
                    assert_eq!(put(disk, store, 100, 90, 100 + thread * 4 + n, 1).unwrap(), Put::Stored);
                }
            });
        }
    });
    for chunk in [0, 4, 8] {
        assert_eq!(put(&disk, &store, 103, 90, chunk, (chunk % 3) as u8).unwrap(), Put::AlreadyHeld);
    }
    drop(store);
    let store = open(&disk).unwrap();
    let mut moved = 0;
    for _ in 0..3 {
        let done = store.expire(106).unwrap();
        moved += done.moved;
        assert!(done.finished);
    }
    assert!(moved > 0, "the run empties slabs");
    for n in 0..10 {
        put(&disk, &store, 106, 90, 200 + n, 2).unwrap();
    }
    drop(store);
    Arc::try_unwrap(disk.0).unwrap().into_inner().unwrap().log
}

/// Opens an image and holds the store to its word: everything kept so far is there, and whatever is returned is right.
fn hold_to_its_word(log: &[Op], cut: usize, luck: Luck) {
    let disk = image(log, cut, luck);
    let store = open(&disk).unwrap_or_else(|e| panic!("cut {cut}, {luck:?}: {e}"));
    store.check();
    for op in &log[..cut] {
        let Op::Acknowledged(chunk, index) = op else { continue };
        let (address, share) = blob(*chunk, *index, length(*chunk));
        let got = store.get_any(&address, 1 << index, 0).unwrap();
        assert!(got.is_none() || got == Some((*index, share)), "cut {cut}, {luck:?}: a wrong share");
        assert!(got.is_some() || *chunk >= 1_000, "cut {cut}, {luck:?}: lost chunk {chunk}");
    }
    // And it goes on working.
    assert_eq!(put(&disk, &store, 200, 9, 5_000, 0).unwrap(), Put::Stored);
    store.check();
    let (address, share) = blob(5_000, 0, length(5_000));
    assert_eq!(store.get_any(&address, 1, 0).unwrap(), Some((0, share)));
}

#[test]
fn the_power_goes_at_every_step() {
    let log = recorded();
    let torn = std::env::var("ONIONSKIN_TORN").ok().and_then(|n| n.parse().ok()).unwrap_or(8u64);
    println!("{} steps, each with 2 + {torn} images", log.len());
    std::thread::scope(|scope| {
        for half in 0..2 {
            let log = &log;
            scope.spawn(move || {
                for cut in (half..=log.len()).step_by(2) {
                    hold_to_its_word(log, cut, Luck::All);
                    hold_to_its_word(log, cut, Luck::None);
                    (1..=torn).for_each(|seed| hold_to_its_word(log, cut, Luck::Torn(seed << 32)));
                }
            });
        }
    });
}

#[test]
fn without_syncs_the_same_test_finds_losses() {
    // The judge is judged: a disk whose syncs do nothing must be caught.
    let log: Vec<Op> = recorded().into_iter().filter(|op| !matches!(op, Op::Sync(_))).collect();
    let quiet = std::panic::catch_unwind(|| hold_to_its_word(&log, log.len(), Luck::None));
    assert!(quiet.is_err());
}

#[test]
fn rotten_bytes_open_and_nothing_wrong_is_returned() {
    let log = recorded();
    let whole = image(&log, log.len(), Luck::All);
    let mut lost = 0;
    for seed in 0..300u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = Memory(Arc::new(Mutex::new({
            let world = whole.0.lock().unwrap();
            World { names: world.names.clone(), files: world.files.clone(), ..World::default() }
        })));
        {
            let mut world = disk.0.lock().unwrap();
            let names: Vec<(String, usize)> = world.names.iter().map(|(n, f)| (n.clone(), *f)).collect();
            let (name, file) = &names[rng.random_range(0..names.len())];
            let content = &mut world.files[*file];
            if name == "head" || content.len == 0 {
                continue;
            }
            let pages: Vec<u64> = content.pages.keys().copied().collect();
            for _ in 0..1 << rng.random_range(0..8) {
                let page = content.pages.get_mut(&pages[rng.random_range(0..pages.len())]).unwrap();
                if seed % 3 == 0 {
                    // A whole page replaced.
                    rng.fill_bytes(&mut page[..]);
                } else {
                    page[rng.random_range(0..PAGE)] ^= 1 << rng.random_range(0..8);
                }
            }
        }
        let store = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let before = store.stats().shares;
        for op in &log {
            let Op::Acknowledged(chunk, index) = op else { continue };
            let (address, share) = blob(*chunk, *index, length(*chunk));
            let got = store.get_any(&address, 1 << index, 0).unwrap();
            assert!(got.is_none() || got == Some((*index, share)), "seed {seed}: a wrong share");
        }
        store.check();
        assert_eq!(store.stats().shares + store.stats().damaged, before, "seed {seed}: dropped and counted");
        lost += store.stats().damaged;
    }
    assert!(lost > 0, "some shares must have been hit");
}

#[test]
fn a_full_or_read_only_disk_loses_nothing_and_recovers() {
    for room in (0..60_000).step_by(1_237) {
        for read_only in [false, true] {
            let disk = Memory::default();
            let store = open(&disk).unwrap();
            for chunk in 0..10 {
                put(&disk, &store, 1, 9, chunk, 0).unwrap();
            }
            {
                let mut world = disk.0.lock().unwrap();
                world.room = Some(room);
                world.read_only = read_only;
            }
            let mut kept: Vec<u64> = (0..10).collect();
            let mut refused = 0;
            for chunk in 10..60 {
                match put(&disk, &store, 1, 9, chunk, 0) {
                    Ok(Put::Stored) => kept.push(chunk),
                    Ok(other) => panic!("{other:?}"),
                    Err(StoreError::DiskFull(_)) if !read_only => refused += 1,
                    Err(StoreError::ReadOnly(_)) if read_only => refused += 1,
                    Err(e) => panic!("room {room}, read-only {read_only}: {e}"),
                }
            }
            assert!(refused > 0);
            for chunk in &kept {
                let (address, share) = blob(*chunk, 0, length(*chunk));
                // A closed index cannot open on a disk that takes no byte; whatever comes back is right.
                if let Ok(got) = store.get_any(&address, 1, 0) {
                    assert_eq!(got, Some((0, share)), "room {room}, read-only {read_only}");
                }
            }
            {
                let mut world = disk.0.lock().unwrap();
                world.room = None;
                world.read_only = false;
            }
            kept.push(99);
            assert_eq!(put(&disk, &store, 1, 9, 99, 0).unwrap(), Put::Stored, "no restart is needed");
            store.check();
            assert_eq!(store.stats().damaged, 0);
            drop(store);
            let store = open(&disk).unwrap();
            for chunk in kept {
                let (address, share) = blob(chunk, 0, length(chunk));
                assert_eq!(store.get_any(&address, 1, 0).unwrap(), Some((0, share)), "room {room}, read-only {read_only}");
            }
        }
    }
}
