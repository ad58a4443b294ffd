//! A store over damaged files: it opens or says why not, never returns what does not verify, and is sound afterwards.

use super::Choices;
use onionskin::base::Address;
use onionskin::base::NetworkId;
use onionskin::store::Options;
use onionskin::store::Put;
use onionskin::store::Store;
use onionskin::store::disk::Disk;
use onionskin::store::disk::DiskFile;
use sha2::Digest;
use sha2::Sha256;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::panic;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::Once;
use std::sync::OnceLock;
use std::sync::PoisonError;

const SLAB: u64 = 16 * 1024;
const CHUNKS: u8 = 6;
const BLOB: usize = 900;
/// Files do not grow beyond what a run needs; a program that follows a damaged length gets an error.
const FILE_MAX: usize = 64 << 20;

thread_local! {
    /// The longest read that was asked for: its buffer was there before the file could say no.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Arc<File>>>>);

#[derive(Debug, Default)]
struct File(Mutex<Vec<u8>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        LARGEST.with(|largest| largest.set(largest.get().max(out.len())));
        let bytes = lock(&self.0);
        let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..at.checked_add(out.len())?));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = usize::try_from(offset).ok().and_then(|at| at.checked_add(data.len())).filter(|end| *end <= FILE_MAX);
        let end = end.ok_or(io::ErrorKind::StorageFull)?;
        let mut bytes = lock(&self.0);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[end - data.len()..end].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).ok().filter(|len| *len <= FILE_MAX).ok_or(io::ErrorKind::StorageFull)?;
        lock(&self.0).resize(len, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for Memory {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.0);
        if create {
            return Ok(Arc::clone(files.entry(name.to_owned()).or_default()) as Arc<dyn DiskFile>);
        }
        let file = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn DiskFile>)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A stand-in for a share: hash of the rest, index, content. Only right ones verify.
fn blob(chunk: u8, index: u8) -> (Address, Vec<u8>) {
    let rest = [&[index, chunk][..], &[chunk ^ index; BLOB]].concat();
    let sum: [u8; 32] = Sha256::digest(&rest).into();
    (address(chunk), [&sum[..], &rest].concat())
}

fn address(chunk: u8) -> Address {
    Address(Sha256::digest([chunk]).into())
}

fn verify(blob: &[u8]) -> Option<(Address, u8)> {
    let (sum, rest) = blob.split_first_chunk::<32>()?;
    let (index, chunk) = (*rest.first()?, *rest.get(1)?);
    (*sum == <[u8; 32]>::from(Sha256::digest(rest))).then_some((address(chunk), index))
}

fn options() -> Options {
    Options { quota_bytes: 1 << 20, network: NetworkId([3; 32]), verify }
}

/// The files of a store with some shares, closed in good order.
fn whole() -> &'static BTreeMap<String, Vec<u8>> {
    static FILES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = Memory::default();
        let store = Store::on(Arc::new(disk.clone()), options(), SLAB).expect("a new store");
        for chunk in 0..CHUNKS {
            for index in 0..3 {
                let (address, share) = blob(chunk, index);
                assert_eq!(store.put(100, 90, &address, index, &share, 3).expect("room"), Put::Stored);
            }
        }
        store.flush().expect("memory");
        drop(store);
        let files = lock(&disk.0);
        files.iter().map(|(name, file)| (name.clone(), lock(&file.0).clone())).collect()
    })
}

/// Damages a file as the next choices say.
fn damage(files: &mut BTreeMap<String, Vec<u8>>, choices: &mut Choices<'_>) {
    let at = usize::from(choices.byte()) % files.len().max(1);
    let Some(name) = files.keys().nth(at).cloned() else { return };
    let Some(bytes) = files.get_mut(&name) else { return };
    // Most of a large file is rarely touched: places are near the front, or spread over all of it.
    let (how, place) = (choices.byte(), usize::from(choices.short()));
    let place = if how & 0x80 == 0 { place } else { place * bytes.len() / 65_536 };
    match how & 7 {
        0 => bytes.truncate(place),
        1 => bytes.resize(bytes.len() + place, choices.byte()),
        2 => drop(files.remove(&name)),
        3 => {
            let copy = bytes.clone();
            files.insert(format!("slab-{:03}-{:06}", choices.byte(), choices.byte()), copy);
        }
        4 => {
            let zeros = usize::from(choices.short());
            bytes.iter_mut().skip(place).take(zeros).for_each(|b| *b = 0);
        }
        _ => {
            let length = usize::from(choices.byte() % 64);
            let new = choices.take(length);
            bytes.iter_mut().skip(place).zip(new).for_each(|(to, from)| *to = *from);
        }
    }
}

/// The database panics on some damaged files, which the store catches. A fuzzer's hook would end the process before that; panics of
/// ours, and those that nobody catches, still reach it.
fn let_the_database_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|at| at.file().contains("/redb-")) {
                before(info);
            }
        }));
    });
}

/// Opens a damaged store and uses it. No rotten length may make it ask for more memory than a whole file.
pub fn store(data: &[u8]) {
    LARGEST.set(0);
    use_damaged(data);
    assert!(LARGEST.get() <= FILE_MAX, "{} bytes were asked for", LARGEST.get());
}

fn use_damaged(data: &[u8]) {
    let_the_database_panic();
    let mut choices = Choices(data);
    let mut files = whole().clone();
    for _ in 0..=choices.byte() % 8 {
        damage(&mut files, &mut choices);
    }
    let disk = Memory::default();
    lock(&disk.0).extend(files.into_iter().map(|(name, bytes)| (name, Arc::new(File(Mutex::new(bytes))))));
    let Ok(store) = Store::on(Arc::new(disk.clone()), options(), SLAB) else { return };
    for chunk in 0..CHUNKS {
        for chance in 0..3 {
            if let Ok(Some((index, share))) = store.get_any(&address(chunk), 0b1_0111, chance) {
                assert_eq!(verify(&share), Some((address(chunk), index)), "only what verifies is returned");
            }
        }
    }
    let (new, share) = blob(77, 4);
    if let Ok(Put::Stored | Put::AlreadyHeld) = store.put(100, 90, &new, 4, &share, 3) {
        assert!(matches!(store.get_any(&new, 1 << 4, 0), Ok(Some((4, got))) if got == share), "what was acknowledged is there");
    }
    drop((store.expire(150), store.flush()));
    store.check();
    drop(store);
    // What it leaves behind opens again.
    let again = Store::on(Arc::new(disk), options(), SLAB).expect("a store that was open opens again");
    again.check();
}
