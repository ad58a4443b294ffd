use super::*;
use crate::client::Publish;
use crate::client::fake::Fake;
use crate::client::fake::PIECE;
use crate::client::fake::key;
use crate::client::target::part_path;
use crate::client::target::sums_path;
use std::io::Write;

fn settled(target: &Path, tag: &str, force: bool) -> Target {
    Target::settle(Some(target), tag, force).unwrap()
}

fn part_of(target: &Path) -> PathBuf {
    part_path(target, &tag(&key(1)))
}

fn sums_of(target: &Path) -> PathBuf {
    sums_path(target, &tag(&key(1)))
}

/// Leaves so much of a document as a part, as a get does that was killed.
async fn leave_part(target: &Path, bytes: &[u8]) {
    let mut part = Part::open_now(settled(target, &tag(&key(1)), true)).unwrap();
    for piece in bytes.chunks(100_000) {
        part.data(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    part.file.flush().await.unwrap();
}

/// Changes one byte of a file.
fn damage(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.get_mut(at).unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn document(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

async fn get(fake: &Fake, target: &Path, force: bool) -> Result<Fetched, Failure> {
    get_to_file(&Node::InProcess(fake.clone()), &key(1), target, force, &mut |_| {}).await
}

fn fail_after(fake: &Fake, bytes: Option<u64>) {
    fake.0.lock().unwrap().fail_after = bytes;
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_get_gives_a_private_whole_file_and_leaves_nothing_else() {
    for len in [0, 1, PIECE, 3_000_001] {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x.bin");
        let fake = Fake::with(1, &document(len));
        let done = get(&fake, &target, false).await.unwrap();
        assert_eq!((done.found.length, done.resumed), (len as u64, 0));
        assert_eq!(fs::read(&target).unwrap(), document(len));
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(dir.path()), ["x.bin"]);
        assert_eq!(fake.0.lock().unwrap().cancelled, 0);
    }
}

/// `/proc` refuses every mode, like exFAT and SMB: that is no reason to end.
#[test]
fn a_file_system_that_refuses_modes_ends_nothing() {
    let file = Path::new("/proc/self/comm");
    assert!(fs::set_permissions(file, fs::Permissions::from_mode(0o600)).is_err());
    open_private(file).unwrap();
    for errno in [Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::PERM] {
        assert!(refuses_modes(&errno.into()), "{errno}");
    }
    assert!(!refuses_modes(&Errno::IO.into()) && !refuses_modes(&io::ErrorKind::Other.into()));
}

#[tokio::test]
async fn an_interrupted_get_goes_on_from_its_part() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    let whole = document(5 << 20);
    let fake = Fake::with(1, &whole);
    fail_after(&fake, Some(3 << 20));
    let why = get(&fake, &target, false).await.unwrap_err();
    assert_eq!(why.kind, ErrorKind::NotFound);
    let (part, sums) = (part_of(&target), sums_of(&target));
    assert!(why.kept.contains(&format!("{} verified bytes", 3 << 20)), "{}", why.kept);
    assert!(why.kept.contains(part.to_str().unwrap()));
    assert_eq!(names(dir.path()), [&part, &sums].map(|path| path.file_name().unwrap().to_str().unwrap()));
    for path in [&part, &sums] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(&sums).unwrap().len(), 3 * 32);

    // Failing at once, again and again, loses nothing.
    fail_after(&fake, Some(0));
    for _ in 0..3 {
        assert_eq!(get(&fake, &target, false).await.unwrap_err().kept, why.kept);
    }
    fail_after(&fake, None);
    let done = get(&fake, &target, false).await.unwrap();
    assert_eq!(done.resumed, 3 << 20);
    assert_eq!(fake.0.lock().unwrap().offsets, [0, 3 << 20, 3 << 20, 3 << 20, 3 << 20]);
    assert_eq!(fs::read(&target).unwrap(), whole);
    assert_eq!(names(dir.path()), ["x.bin"]);
}

#[tokio::test]
async fn damaged_bytes_of_a_part_are_fetched_again() {
    const MIB: usize = 1 << 20;
    /// What happens to a part of 3 MiB and a bit, and how many blocks of it are used then.
    type Case = (&'static str, fn(&Path), u64);
    let cases: [Case; 13] = [
        ("nothing", |_| {}, 3),
        ("the end was never whole", |t| damage(&part_of(t), 3 * MIB + 100), 3),
        ("a torn end", |t| fs::OpenOptions::new().write(true).open(part_of(t)).unwrap().set_len(3 * MIB as u64 - 1000).unwrap(), 2),
        (
            "a torn end, filled with zeros",
            |t| {
                let file = fs::OpenOptions::new().write(true).open(part_of(t)).unwrap();
                file.set_len(3 * MIB as u64 - 1000).unwrap();
                file.set_len(3 * MIB as u64).unwrap();
            },
            2,
        ),
        ("the last byte", |t| damage(&part_of(t), 3 * MIB - 1), 2),
        ("the middle", |t| damage(&part_of(t), MIB), 1),
        ("the first byte", |t| damage(&part_of(t), 0), 0),
        ("a damaged sum", |t| damage(&sums_of(t), 32 + 31), 1),
        ("torn sums", |t| fs::OpenOptions::new().write(true).open(sums_of(t)).unwrap().set_len(95).unwrap(), 2),
        ("no sums", |t| fs::remove_file(sums_of(t)).unwrap(), 0),
        ("sums without a part", |t| fs::remove_file(part_of(t)).unwrap(), 0),
        ("another document's sums", |t| fs::rename(sums_path(t, "other"), sums_of(t)).unwrap(), 0),
        (
            "exchanged blocks and sums",
            |t| {
                for (path, size) in [(part_of(t), MIB), (sums_of(t), 32)] {
                    let bytes = fs::read(&path).unwrap();
                    fs::write(&path, [&bytes[..size], &bytes[2 * size..3 * size], &bytes[size..2 * size]].concat()).unwrap();
                }
            },
            1,
        ),
    ];
    let whole = document(4 * MIB);
    for (what, change, blocks) in cases {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x.bin");
        if what.starts_with("another") {
            let mut other = Part::open_now(settled(&target, "other", true)).unwrap();
            other.data(Bytes::copy_from_slice(&whole[..3 * MIB])).await.unwrap();
            fs::remove_file(part_path(&target, "other")).unwrap();
        }
        leave_part(&target, &whole[..3 * MIB + 5000]).await;
        change(&target);
        let done = get(&Fake::with(1, &whole), &target, false).await.unwrap();
        assert_eq!(done.resumed, blocks << 20, "{what}");
        assert!(fs::read(&target).unwrap() == whole, "{what}");
        assert_eq!(names(dir.path()), ["x.bin"], "{what}");
    }
}

#[tokio::test]
async fn a_get_that_fails_after_damage_keeps_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    let whole = document(5 << 20);
    leave_part(&target, &whole[..4 << 20]).await;
    damage(&part_of(&target), (2 << 20) + 7);
    let fake = Fake::with(1, &whole);
    fail_after(&fake, Some(1 << 20));
    let why = get(&fake, &target, false).await.unwrap_err();
    assert!(why.kept.contains(&format!("{} verified bytes", 3 << 20)), "{}", why.kept);
    fail_after(&fake, None);
    assert_eq!(get(&fake, &target, false).await.unwrap().resumed, 3 << 20);
    assert!(fs::read(&target).unwrap() == whole);
}

#[tokio::test]
async fn a_part_longer_than_the_document_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    for len in [100, (9 << 19) + 1] {
        leave_part(&target, &vec![9; 5 << 20]).await;
        let fake = Fake::with(1, &document(len));
        get(&fake, &target, true).await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), document(len));
        assert_eq!(fake.0.lock().unwrap().offsets, [5 << 20, 0]);
        assert_eq!(names(dir.path()), ["x.bin"]);
    }
}

#[tokio::test]
async fn a_part_of_the_whole_document_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    let whole = document(2 << 20);
    leave_part(&target, &whole).await;
    let done = get(&Fake::with(1, &whole), &target, false).await.unwrap();
    assert_eq!(done.resumed, 2 << 20);
    assert!(fs::read(&target).unwrap() == whole);
}

#[tokio::test]
async fn a_document_that_is_not_there_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let why = get(&Fake::default(), &dir.path().join("x"), false).await.unwrap_err();
    assert_eq!(why.kind, ErrorKind::NotFound);
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn nothing_is_replaced_without_force() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    fs::write(&target, "mine").unwrap();
    let fake = Fake::with(1, &document(9));
    let why = get(&fake, &target, false).await.unwrap_err();
    assert_eq!(why.kind, ErrorKind::Usage);
    assert!(fake.0.lock().unwrap().offsets.is_empty(), "nothing was asked for");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    get(&fake, &target, true).await.unwrap();
    assert_eq!(fs::read(&target).unwrap(), document(9));
}

#[tokio::test]
async fn what_appears_during_a_get_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    let mut part = Part::open_now(settled(&target, &tag(&key(1)), false)).unwrap();
    part.data(Bytes::from_static(b"abc")).await.unwrap();
    fs::write(&target, "mine").unwrap();
    let why = part.finish().await.unwrap_err();
    assert!(why.kept.contains("onionskin-part"), "{}", why.kept);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::read(part_of(&target)).unwrap(), b"abc");
}

#[tokio::test]
async fn two_gets_do_not_share_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    let _held = Part::open_now(settled(&target, &tag(&key(1)), false)).unwrap();
    let why = Part::open_now(settled(&target, &tag(&key(1)), false)).unwrap_err();
    assert!(why.what.starts_with("another get"), "{}", why.what);
}

#[tokio::test]
async fn a_directory_takes_the_file_inside_and_the_part_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = document(3 << 20);
    let fake = Fake::with(1, &whole);
    fail_after(&fake, Some(2 << 20));
    let why = get(&fake, dir.path(), false).await.unwrap_err();
    assert!(why.kept.contains(&format!("{} verified bytes", 2 << 20)), "{}", why.kept);
    // A name that is taken: the part is not the reason, and stays.
    fail_after(&fake, None);
    fs::write(dir.path().join("a name"), "mine").unwrap();
    let why = get(&fake, dir.path(), true).await.unwrap_err();
    assert!(why.what.ends_with("a name' exists already") && why.kept.contains("verified bytes"), "{why:?}");
    fs::remove_file(dir.path().join("a name")).unwrap();
    let done = get(&fake, dir.path(), false).await.unwrap();
    assert_eq!((done.resumed, &done.path), (2 << 20, &dir.path().join("a name")));
    assert!(fs::read(&done.path).unwrap() == whole);
    assert_eq!(names(dir.path()), ["a name"]);
    assert_eq!(fake.0.lock().unwrap().offsets, [0, 2 << 20, 2 << 20]);
}

#[tokio::test]
async fn a_document_without_room_moves_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let target = settled(&dir.path().join("x"), "tag", false);
    let mut part = Part::open_now(target).unwrap();
    let found = Found { length: u64::MAX / 2, ..Found::default() };
    assert!(part.found(found).await.unwrap_err().what.contains("have no room in"));
}

// --- publishing

async fn publish(fake: &Fake, source: &mut FileSource) -> Result<crate::client::Published, Failure> {
    let ask = Publish { length: source.length(), name: None, media_type: None, lease_days: 1, convergent: false };
    Node::InProcess(fake.clone()).publish(ask, None, source, &mut |_| {}).await
}

#[tokio::test]
async fn files_and_pipes_are_published_whole() {
    for len in [0, 1, PIECE + 1, 1_000_000] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&document(len)).unwrap();
        let fake = Fake::default();
        let mut source = FileSource::open(file.path()).await.unwrap();
        let one = publish(&fake, &mut source).await.unwrap();
        let mut source = FileSource::spool(&document(len)[..]).await.unwrap();
        let two = publish(&fake, &mut source).await.unwrap();
        let world = fake.0.lock().unwrap();
        for done in [one, two] {
            assert_eq!(world.documents.get(&done.key.to_text()).unwrap(), &document(len));
        }
    }
}

#[tokio::test]
async fn a_file_that_changes_is_not_published() {
    // Shorter, longer, and of the same length but touched: each after opening.
    let changes: [fn(&fs::File); 3] = [
        |f| f.set_len(PIECE as u64 + 5).unwrap(),
        |f| f.set_len(1 << 20).unwrap(),
        |f| f.set_modified(SystemTime::UNIX_EPOCH).unwrap(),
    ];
    for change in changes {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&document(3 * PIECE)).unwrap();
        let mut source = FileSource::open(file.path()).await.unwrap();
        change(file.as_file());
        let fake = Fake::default();
        let why = publish(&fake, &mut source).await.unwrap_err();
        assert!(why.what.contains("changed while"), "{}", why.what);
        assert!(fake.0.lock().unwrap().documents.is_empty());
        assert_eq!(fake.0.lock().unwrap().cancelled, 1, "the node was told");
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_said_before_anything_is_sent() {
    for path in ["/no/such/file", "/", "/dev/zero"] {
        assert_eq!(FileSource::open(Path::new(path)).await.unwrap_err().kind, ErrorKind::Usage, "{path}");
    }
}

#[tokio::test]
async fn what_is_longer_than_a_document_can_be_is_refused_before_anything_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    for (len, is_right) in [(limits::DOCUMENT_MAX, true), (limits::DOCUMENT_MAX + 1, false)] {
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        let opened = FileSource::open(&path).await;
        assert!(opened.as_ref().map_or_else(|e| e.kind == ErrorKind::Usage, |s| s.length() == len));
        assert_eq!(opened.is_ok(), is_right);
    }
}
