//! What the store costs: durable puts, checked gets, room on disk, start, memory; each beside what the bare disk does in the same
//! run.
//!
//! `cargo bench --bench store [-- [--quick | --million] [--dir DIR]]`. The data goes to DIR (default: the target directory) and is
//! removed afterwards.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench prints, and reads the clock")]

use onionskin::base::{Address, NetworkId};
use onionskin::store::{Options, Put, Store};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SMALL: usize = 8_369;
const LARGE: usize = 32_945;

/// As dear to check as a real share: SHA-256 over all of it, and bytes that no disk can press.
fn fill(blob: &mut [u8], n: u64) -> Option<Address> {
    let address = <[u8; 32]>::from(Sha256::digest(n.to_be_bytes()));
    let (head, data) = blob.split_at_mut_checked(65)?;
    data.get_mut(..8)?.copy_from_slice(&n.to_be_bytes());
    let sum = Sha256::digest(&*data);
    head.get_mut(..32)?.copy_from_slice(&address);
    *head.get_mut(32)? = 0;
    head.get_mut(33..)?.copy_from_slice(&sum);
    Some(Address(address))
}

fn verify(blob: &[u8]) -> Option<(Address, u8)> {
    let (address, rest) = blob.split_first_chunk::<32>()?;
    let (index, rest) = rest.split_first()?;
    let (sum, data) = rest.split_first_chunk::<32>()?;
    (*sum == <[u8; 32]>::from(Sha256::digest(data))).then_some((Address(*address), *index))
}

/// SplitMix64: chance enough for a benchmark, the same in every run.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| mix(n).to_be_bytes()[0]).collect()
}

fn open(dir: &Path) -> Outcome<Store> {
    Ok(Store::open(dir, Options { quota_bytes: u64::MAX, network: NetworkId([1; 32]), verify })?)
}

/// Puts shares `from..to` from several threads; the longest wait of one in ms and shares a second.
fn put_all(store: &Store, size: usize, from: u64, to: u64, threads: u64) -> Outcome<(f64, f64)> {
    let next = AtomicU64::new(from);
    let start = Instant::now();
    let worst = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Outcome<f64> {
                    let mut blob = noise(size);
                    let mut worst = 0f64;
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= to {
                            return Ok(worst);
                        }
                        let address = fill(&mut blob, n).ok_or("short blob")?;
                        let one = Instant::now();
                        if store.put(100, 90, &address, 0, &blob, 2)? != Put::Stored {
                            return Err("not stored".into());
                        }
                        worst = worst.max(one.elapsed().as_secs_f64() * 1e3);
                    }
                })
            })
            .collect();
        writers.into_iter().map(|w| w.join().map_err(|_| "a writer panicked")?).collect::<Outcome<Vec<f64>>>()
    })?;
    Ok((worst.into_iter().fold(0.0, f64::max), (to - from) as f64 / start.elapsed().as_secs_f64()))
}

/// Microseconds of one checked get, over `gets` random shares.
fn get_some(store: &Store, count: u64, gets: u64, salt: u64) -> Outcome<f64> {
    let start = Instant::now();
    for n in 0..gets {
        let wanted = mix(n ^ (salt << 32)) % count;
        let address = Address(Sha256::digest(wanted.to_be_bytes()).into());
        if store.get_any(&address, u32::MAX, 0)?.is_none() {
            return Err(format!("share {wanted} is missing").into());
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / gets as f64)
}

/// The bare disk: appends with a sync each, appends with a sync for 32, and random reads with the same check, in one file.
fn bare(dir: &Path, size: usize) -> Outcome<(f64, f64, f64)> {
    let path = dir.join("bare");
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
    let mut blob = noise(size);
    let mut at = 0;
    let mut append = |writes: u64, batch: u64| -> Outcome<f64> {
        let start = Instant::now();
        for n in 1..=writes {
            fill(&mut blob, n);
            file.write_all_at(&blob, at)?;
            at += size as u64;
            if n % batch == 0 {
                file.sync_data()?;
            }
        }
        Ok(writes as f64 / start.elapsed().as_secs_f64())
    };
    let single = append(1_000, 1)?;
    let many = append(16_000, 32)?;
    let mut out = vec![0; size];
    let start = Instant::now();
    for n in 0..5_000 {
        file.read_exact_at(&mut out, (mix(n) % 17_000) * size as u64)?;
        if verify(&out).is_none() {
            return Err("bare read".into());
        }
    }
    let read = start.elapsed().as_secs_f64() * 1e6 / 5_000.0;
    std::fs::remove_file(path)?;
    Ok((single, many, read))
}

/// Kilobytes of memory this process holds, and held at most (Linux; elsewhere zeros).
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn on_disk(dir: &Path) -> Outcome<u64> {
    std::fs::read_dir(dir)?.try_fold(0, |sum, entry| Ok(sum + entry?.metadata()?.blocks() * 512))
}

/// Writes back and, where this user may, empties the system's cache, so that the next read comes from the medium.
fn cool_down(dir: &Path) -> Outcome<&'static str> {
    for entry in std::fs::read_dir(dir)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(if std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok() { "cold" } else { "not cold: no right to empty the cache" })
}

fn measure(root: &Path, size: usize, count: u64) -> Outcome<()> {
    let dir = root.join("store");
    let _ = std::fs::remove_dir_all(&dir);
    println!("\n{count} shares of {size} bytes");
    let (bare_one, bare_many, bare_read) = bare(root, size)?;
    println!("  bare file     append+sync {bare_one:.0}/s, a sync for 32 {bare_many:.0}/s, warm read+check {bare_read:.1} us");
    let start = Instant::now();
    let store = open(&dir)?;
    println!("  make          {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let alone = (count / 20).min(2_000);
    let (worst, rate) = put_all(&store, size, 0, alone, 1)?;
    println!("  put, 1 thread   {rate:.0}/s ({:.2} of bare), slowest {worst:.1} ms", rate / bare_one);
    let (worst, rate) = put_all(&store, size, alone, count, 32)?;
    println!("  put, 32 threads {rate:.0}/s ({:.2} of bare, 32 to a sync), slowest {worst:.1} ms", rate / bare_many);
    let warm = get_some(&store, count, 20_000.min(count), 1)?;
    println!("  get, as left by the puts {warm:.1} us");
    drop(store);
    let disk = on_disk(&dir)?;
    println!("  disk / data   {:.3} ({:.2} GB)", disk as f64 / (count * size as u64) as f64, disk as f64 / 1e9);
    let cold = cool_down(&dir)?;
    let start = Instant::now();
    let store = open(&dir)?;
    println!("  open          {:.1} ms ({cold}), {} shares", start.elapsed().as_secs_f64() * 1e3, store.stats().shares);
    println!("  get, first    {:.1} us ({cold})", get_some(&store, count, 5_000.min(count), 2)?);
    let again = get_some(&store, 2_000.min(count), 20_000, 3).and_then(|_| get_some(&store, 2_000.min(count), 20_000, 3))?;
    println!("  get, warm     {again:.1} us ({:.2} of bare)", again / bare_read);
    let (now, most) = memory();
    println!("  memory        {} MB, at most {} MB", now / 1024, most / 1024);
    drop(store);
    let start = Instant::now();
    drop(open(&dir)?);
    println!("  open again    {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let store = open(&dir)?;
    let start = Instant::now();
    while !store.expire(100)?.finished {}
    println!("  a day's walk  {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let mut slowest = 0f64;
    loop {
        let one = Instant::now();
        let done = store.expire(191)?;
        slowest = slowest.max(one.elapsed().as_secs_f64() * 1e3);
        if done.finished {
            break;
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "  expire all    {:.0}/s, slowest call {slowest:.1} ms, left on disk {:.3} GB",
        count as f64 / took,
        on_disk(&dir)? as f64 / 1e9
    );
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// A publication of 100 MiB to a whole network on one disk: many stores, few writers each, all at once.
fn network(root: &Path, hosts: u64, each: u64) -> Outcome<()> {
    let dirs: Vec<PathBuf> = (0..hosts).map(|host| root.join(format!("host-{host}"))).collect();
    let stores = dirs.iter().map(|dir| open(dir)).collect::<Outcome<Vec<Store>>>()?;
    let start = Instant::now();
    let worst = std::thread::scope(|scope| {
        let hosts: Vec<_> = stores.iter().map(|store| scope.spawn(move || put_all(store, LARGE, 0, each, 4))).collect();
        hosts.into_iter().map(|h| h.join().map_err(|_| "a host panicked")?).collect::<Outcome<Vec<(f64, f64)>>>()
    })?;
    let took = start.elapsed().as_secs_f64();
    let slowest = worst.iter().map(|(slowest, _)| *slowest).fold(0.0, f64::max);
    println!("\n{hosts} stores on one disk, {each} shares of {LARGE} bytes and 4 writers each");
    println!("  put           {:.0}/s in all, {took:.1} s, slowest {slowest:.1} ms", (hosts * each) as f64 / took);
    drop(stores);
    dirs.iter().try_for_each(std::fs::remove_dir_all)?;
    Ok(())
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let named = args.iter().position(|a| a == "--dir").and_then(|i| args.get(i + 1));
    let root = named.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from).join("store-bench-data");
    std::fs::create_dir_all(&root)?;
    let (small, large) = match () {
        () if has("--quick") => (5_000, 2_000),
        () if has("--million") => (1_000_000, 200_000),
        () => (100_000, 30_000),
    };
    let each = if has("--quick") { 50 } else { 500 };
    let measured = measure(&root, SMALL, small).and_then(|()| measure(&root, LARGE, large)).and_then(|()| network(&root, 24, each));
    let _ = std::fs::remove_dir_all(&root);
    measured
}
