use super::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const NET: NetworkId = NetworkId([3; 32]);

/// A stand-in for a share: address, index, hash of the rest. Only its maker's bytes verify.
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

fn options(quota_bytes: u64) -> Options {
    Options { quota_bytes, network: NET, verify }
}

struct Place {
    _keep: tempfile::TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("store");
        Self { _keep: keep, dir }
    }
    fn open(&self) -> Store {
        Store::open(&self.dir, options(1 << 30)).unwrap()
    }
    /// With slabs of a few slots, so that many are used.
    fn small(&self, quota: u64) -> Store {
        Store::on(Arc::new(Directory::open(&self.dir).unwrap()), options(quota), 16 * 1024).unwrap()
    }
    fn slabs(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().path());
        all.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("slab-")).collect()
    }
}

#[test]
fn what_is_put_is_got_and_survives_a_restart() {
    let place = Place::new();
    let store = place.open();
    for chunk in 0..20 {
        for (index, len) in [(0, 8_369), (23, 32_945), (7, 70)] {
            let (address, share) = blob(chunk, index, len);
            assert_eq!(store.put(100, 90, &address, index, &share, 3).unwrap(), Put::Stored);
        }
    }
    store.flush().unwrap();
    drop(store);
    let store = place.open();
    store.check();
    assert_eq!(store.stats(), Stats { shares: 60, bytes: 20 * 512 * (17 + 65 + 1), quota: 1 << 30, damaged: 0 });
    for chunk in 0..20 {
        let (address, share) = blob(chunk, 23, 32_945);
        assert_eq!(store.held(&address).unwrap(), 1 | 1 << 7 | 1 << 23);
        assert_eq!(store.get_any(&address, 1 << 23, 5).unwrap(), Some((23, share)));
        assert_eq!(store.get_any(&address, 1 << 22, 5).unwrap(), None);
        assert_eq!(store.get_any(&address, 0, 5).unwrap(), None);
        let got: BTreeSet<u8> = (0..3).map(|chance| store.get_any(&address, u32::MAX, chance).unwrap().unwrap().0).collect();
        assert_eq!(got.len(), 3, "chance picks among all");
    }
    let (unknown, _) = blob(99, 0, 100);
    assert_eq!((store.held(&unknown).unwrap(), store.get_any(&unknown, u32::MAX, 0).unwrap()), (0, None));
}

#[test]
fn limits_of_chunk_quota_and_size() {
    let place = Place::new();
    let store = place.small(3 * 17 * 512);
    let put = |chunk, index, most| {
        let (address, share) = blob(chunk, index, 8_369);
        store.put(1, 1, &address, index, &share, most).unwrap()
    };
    assert_eq!(put(1, 0, 2), Put::Stored);
    assert_eq!(put(1, 1, 2), Put::Stored);
    assert_eq!(put(1, 2, 2), Put::HoldsEnough { held: 0b11 });
    assert_eq!(put(1, 1, 2), Put::AlreadyHeld);
    assert_eq!(put(2, 0, 0), Put::HoldsEnough { held: 0 });
    assert_eq!(put(2, 0, 2), Put::Stored);
    assert_eq!(put(3, 0, 2), Put::Full);
    assert_eq!(put(1, 0, 2), Put::AlreadyHeld, "held shares are welcome in a full store");
    let (address, _) = blob(4, 0, 100);
    for (index, len) in [(0, 0), (0, BLOB_MAX + 1), (32, 10)] {
        let bad = vec![0; len];
        assert!(matches!(store.put(1, 1, &address, index, &bad, 2), Err(StoreError::Bounds { .. })));
    }
    assert_eq!(store.stats().bytes, store.stats().quota);
    store.check();
}

/// Lowering the quota breaks no promise that was given, and gives none anew.
#[test]
fn what_a_lowered_quota_has_no_room_for_leaves_as_its_leases_end() {
    let place = Place::new();
    let store = place.small(1 << 30);
    let put = |store: &Store, day, lease, chunk| {
        let (address, share) = blob(chunk, 0, 8_369);
        store.put(day, lease, &address, 0, &share, 2).unwrap()
    };
    for (chunk, lease) in [(1, 10), (2, 10), (3, 20)] {
        assert_eq!(put(&store, 100, lease, chunk), Put::Stored);
    }
    store.set_quota(2 * 17 * 512);
    assert_eq!((store.stats().bytes, store.stats().quota), (3 * 17 * 512, 2 * 17 * 512));
    assert_eq!(put(&store, 101, 90, 4), Put::Full);
    assert_eq!(put(&store, 101, 90, 1), Put::Full, "no lease is renewed");
    let held = |store: &Store| (1..=4).filter(|chunk| store.held(&blob(*chunk, 0, 8_369).0).unwrap() != 0).collect::<Vec<u64>>();
    while !store.expire(110).unwrap().finished {}
    assert_eq!(held(&store), [1, 2, 3], "all was promised until then");
    while !store.expire(111).unwrap().finished {}
    assert_eq!(held(&store), [3]);
    assert_eq!(put(&store, 111, 90, 4), Put::Stored);
    assert_eq!(put(&store, 111, 90, 3), Put::AlreadyHeld);
    store.check();
    drop(store);
    // The same when a store is opened with a lower one.
    let store = place.small(17 * 512);
    assert_eq!((put(&store, 111, 90, 3), held(&store)), (Put::Full, vec![3, 4]));
}

#[test]
fn a_share_too_many_renews_the_leases_of_the_others() {
    let place = Place::new();
    let store = place.small(1 << 30);
    let put = |day, index| {
        let (address, share) = blob(1, index, 900);
        store.put(day, 10, &address, index, &share, 2).unwrap()
    };
    assert_eq!([put(100, 3), put(100, 5)], [Put::Stored; 2]);
    assert_eq!(put(108, 7), Put::HoldsEnough { held: 1 << 3 | 1 << 5 });
    let (address, _) = blob(1, 0, 900);
    while !store.expire(115).unwrap().finished {}
    assert_eq!(store.held(&address).unwrap(), 1 << 3 | 1 << 5);
    while !store.expire(119).unwrap().finished {}
    assert_eq!(store.held(&address).unwrap(), 0);
    store.check();
}

#[test]
fn leases_end_renew_and_give_slabs_back() {
    let place = Place::new();
    let store = place.small(1 << 30);
    for chunk in 0..400 {
        let (address, share) = blob(chunk, 0, 900);
        // Every fourth share is kept longer.
        let lease = if chunk % 4 == 0 { 50 } else { 10 };
        store.put(100, lease, &address, 0, &share, 1).unwrap();
    }
    let (renewed, share) = blob(1, 0, 900);
    assert_eq!(store.put(105, 10, &renewed, 0, &share, 1).unwrap(), Put::AlreadyHeld);
    assert_eq!(store.put(90, 10, &renewed, 0, &share, 1).unwrap(), Put::AlreadyHeld, "a lease is never cut short");
    let walk = |day| {
        let mut all = Expired::default();
        for _ in 0..100 {
            let some = store.expire(day).unwrap();
            assert!(some.removed + some.moved <= EXPIRE_CHANGES as u64);
            all = Expired { removed: all.removed + some.removed, moved: all.moved + some.moved, finished: some.finished };
            store.check();
            if some.finished {
                return all;
            }
        }
        panic!("the walk does not end");
    };
    assert_eq!(walk(110).removed, 0, "the last day counts");
    let full = place.slabs().len();
    assert_eq!(walk(111).removed, 299);
    assert_eq!(store.stats().shares, 101);
    let moved = walk(111).moved;
    assert!(moved > 0);
    assert!(place.slabs().len() * 2 <= full, "{} of {full} slabs are left", place.slabs().len());
    for chunk in (0..400).step_by(4).chain([1]) {
        let (address, share) = blob(chunk, 0, 900);
        assert_eq!(store.get_any(&address, 1, 0).unwrap(), Some((0, share)));
    }
    assert_eq!(walk(116).removed, 1, "the renewed one");
    assert_eq!(walk(151).removed, 100);
    assert_eq!((store.stats().shares, place.slabs().len()), (0, 0));
}

#[test]
fn many_threads_put_and_get_at_once() {
    let place = Place::new();
    let store = Arc::new(place.small(1 << 30));
    std::thread::scope(|scope| {
        for thread in 0..16u64 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for n in 0..40 {
                    // Two threads fight for each share; one of them stores it.
                    let chunk = (thread / 2) * 40 + n;
                    let (address, share) = blob(chunk, 0, 600);
                    assert!(matches!(store.put(1, 9, &address, 0, &share, 1).unwrap(), Put::Stored | Put::AlreadyHeld));
                    assert_eq!(store.get_any(&address, 1, 0).unwrap(), Some((0, share)), "acknowledged means held");
                    if n % 10 == 0 {
                        store.expire(1).unwrap();
                    }
                }
            });
        }
    });
    store.check();
    assert_eq!((store.stats().shares, store.stats().damaged), (320, 0));
}

#[test]
fn a_damaged_share_is_dropped_counted_and_can_be_put_again() {
    let place = Place::new();
    let store = place.small(1 << 30);
    let shares: Vec<_> = (0..2).map(|index| blob(5, index, 5_000)).collect();
    for (index, (address, share)) in (0..).zip(&shares) {
        store.put(1, 9, address, index, share, 2).unwrap();
    }
    let address = shares[0].0;
    for slab in place.slabs() {
        let len = std::fs::metadata(&slab).unwrap().len();
        std::fs::write(&slab, vec![0x55; usize::try_from(len).unwrap()]).unwrap();
    }
    let (share_address, share) = &shares[0];
    assert_eq!(store.put(1, 9, share_address, 0, share, 2).unwrap(), Put::Stored, "what is gone is not called held");
    assert_eq!(store.get_any(&address, u32::MAX, 1).unwrap(), Some((0, share.clone())), "the sound one answers");
    assert_eq!((store.stats().damaged, store.stats().shares), (1, 1));
    assert_eq!(store.held(&address).unwrap(), 1);
    store.check();
}

#[test]
fn damaged_shares_keep_no_other_out() {
    let place = Place::new();
    let store = place.small(1 << 30);
    let put = |index| {
        let (address, share) = blob(5, index, 5_000);
        store.put(1, 9, &address, index, &share, 2).unwrap()
    };
    assert_eq!([put(0), put(1), put(2)], [Put::Stored, Put::Stored, Put::HoldsEnough { held: 0b11 }]);
    for slab in place.slabs() {
        let len = std::fs::metadata(&slab).unwrap().len();
        std::fs::write(&slab, vec![0x55; usize::try_from(len).unwrap()]).unwrap();
    }
    assert_eq!(put(2), Put::Stored);
    assert_eq!((store.stats().damaged, store.stats().shares), (2, 1));
    store.check();
}

#[test]
fn a_lost_or_damaged_index_is_rebuilt_from_the_slabs() {
    let place = Place::new();
    let store = place.small(1 << 30);
    for chunk in 0..50 {
        let (address, share) = blob(chunk, 3, 2_000);
        store.put(10, 20, &address, 3, &share, 2).unwrap();
    }
    let (address, share) = blob(0, 3, 2_000);
    assert_eq!(store.put(20, 20, &address, 3, &share, 2).unwrap(), Put::AlreadyHeld);
    drop(store);
    let index = place.dir.join("index");
    let whole = std::fs::read(&index).unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    for case in 0..60 {
        let mut bent = whole.clone();
        match case {
            0 => std::fs::remove_file(&index).unwrap(),
            1 => bent.clear(),
            2 => bent.truncate(whole.len() / 2),
            3 => bent.fill(0xa5),
            4 => bent[..64].fill(0),
            _ => {
                for _ in 0..1 << (case % 12) {
                    let bit = rng.random_range(0..bent.len() * 8);
                    bent[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        if case > 0 {
            std::fs::write(&index, &bent).unwrap();
        }
        let store = place.small(1 << 30);
        store.check();
        assert_eq!((store.stats().shares, store.stats().damaged), (50, 0), "case {case}");
        for chunk in 0..50 {
            let (address, share) = blob(chunk, 3, 2_000);
            assert!(store.get_any(&address, u32::MAX, 0).unwrap() == Some((3, share)), "case {case}");
        }
    }
    std::fs::remove_file(&index).unwrap();
    let store = place.small(1 << 30);
    assert_eq!(store.expire(30).unwrap().removed, 0);
    assert_eq!(store.expire(31).unwrap().removed, 49, "rebuilt with the leases that were acknowledged");
    let (address, share) = blob(0, 3, 2_000);
    assert_eq!(store.get_any(&address, u32::MAX, 0).unwrap(), Some((3, share)), "renewals too");
}

#[test]
fn one_process_one_network_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open();
    assert!(matches!(Store::open(&place.dir, options(1)), Err(StoreError::InUse(_))));
    drop(store);
    let other = Options { network: NetworkId([4; 32]), ..options(1) };
    assert!(matches!(Store::open(&place.dir, other), Err(StoreError::WrongNetwork)));
    for name in std::fs::read_dir(&place.dir).unwrap().map(|e| e.unwrap().path()) {
        assert_eq!(std::fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600, "{name:?}");
    }
    std::fs::set_permissions(&place.dir, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(matches!(Store::open(&place.dir, options(1)), Err(StoreError::Exposed { mode: 0o755, .. })));
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let place = Place::new();
    let (address, share) = blob(1, 0, 500);
    place.open().put(1, 9, &address, 0, &share, 1).unwrap();
    let head = place.dir.join("head");
    let now = std::fs::read(&head).unwrap();
    let mut newer = b"S\x02anything at all".to_vec();
    newer.extend(head::check_sum(&newer).to_be_bytes());
    std::fs::write(&head, &newer).unwrap();
    assert!(matches!(Store::open(&place.dir, options(1)), Err(StoreError::Newer { found: 2, known: 1 })));
    assert_eq!(std::fs::read(&head).unwrap(), newer);
    std::fs::write(&head, now).unwrap();
    assert_eq!(place.open().get_any(&address, 1, 0).unwrap(), Some((0, share)));
}

#[test]
fn every_error_tells_what_was_kept_and_what_to_do() {
    use std::io;
    let errors = [
        StoreError::InUse("/d".into()),
        StoreError::Newer { found: 2, known: 1 },
        StoreError::WrongNetwork,
        StoreError::Damaged { file: "head" },
        StoreError::Index("checksum".into()),
        StoreError::io("writing shares", io::ErrorKind::StorageFull.into()),
        StoreError::io("writing shares", io::ErrorKind::ReadOnlyFilesystem.into()),
        StoreError::Exposed { path: "/d".into(), mode: 0o755 },
        StoreError::Bounds { len: 0, index: 0 },
        StoreError::Name("a/b".into()),
        StoreError::io("writing shares", io::ErrorKind::TimedOut.into()),
    ];
    for error in &errors {
        let said = error.to_string();
        let kept = ["Nothing was", "kept", "No share was lost"].iter().any(|k| said.contains(k));
        let next = ["Stop it", "Install", "Use one", "Check", "check", "Free", "Run:", "report"].iter().any(|k| said.contains(k));
        assert!(kept && next, "{said}");
    }
    assert!(matches!(errors[5], StoreError::DiskFull(_)) && matches!(errors[6], StoreError::ReadOnly(_)));
}
