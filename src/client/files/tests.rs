use super::*;
use crate::client::Publish;
use crate::client::fake::Fake;
use crate::client::fake::PIECE;
use crate::client::fake::key;
use std::io::Write;

fn part_of(target: &Path) -> PathBuf {
    part_path(target, &tag(&key(1)))
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

#[tokio::test]
async fn an_interrupted_get_goes_on_from_its_part() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    let whole = document(5 << 20);
    let fake = Fake::with(1, &whole);
    fail_after(&fake, Some(3 << 20));
    let why = get(&fake, &target, false).await.unwrap_err();
    assert_eq!(why.kind, ErrorKind::NotFound);
    let part = part_of(&target);
    assert!(why.kept.contains(&format!("{} verified bytes", 2 << 20)), "{}", why.kept);
    assert!(why.kept.contains(part.to_str().unwrap()));
    assert_eq!(names(dir.path()), [part.file_name().unwrap().to_str().unwrap()]);
    assert_eq!(fs::metadata(&part).unwrap().permissions().mode() & 0o777, 0o600);

    // Failing at once, again and again, loses nothing.
    fail_after(&fake, Some(0));
    for _ in 0..3 {
        assert_eq!(get(&fake, &target, false).await.unwrap_err().kept, why.kept);
    }
    fail_after(&fake, None);
    let done = get(&fake, &target, false).await.unwrap();
    assert_eq!(done.resumed, 2 << 20);
    assert_eq!(fake.0.lock().unwrap().offsets, [0, 2 << 20, 2 << 20, 2 << 20, 2 << 20]);
    assert_eq!(fs::read(&target).unwrap(), whole);
    assert_eq!(names(dir.path()), ["x.bin"]);
}

#[tokio::test]
async fn a_torn_end_of_a_part_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    let whole = document(3 << 20);
    let mut torn = whole.get(..2 << 20).unwrap().to_vec();
    let end = torn.len() - 1000;
    torn.get_mut(end..).unwrap().fill(0);
    fs::write(part_of(&target), &torn).unwrap();
    let done = get(&Fake::with(1, &whole), &target, false).await.unwrap();
    assert_eq!(done.resumed, 1 << 20);
    assert_eq!(fs::read(&target).unwrap(), whole);
}

#[tokio::test]
async fn a_part_longer_than_the_document_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.bin");
    for len in [100, (9 << 19) + 1] {
        fs::write(part_of(&target), vec![9; 5 << 20]).unwrap();
        let fake = Fake::with(1, &document(len));
        get(&fake, &target, true).await.unwrap();
        assert_eq!(fs::read(&target).unwrap(), document(len));
        assert_eq!(fake.0.lock().unwrap().offsets, [4 << 20, 0]);
    }
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
    let mut part = Part::open(&target, &tag(&key(1)), false).unwrap();
    part.data(Bytes::from_static(b"abc")).await.unwrap();
    fs::write(&target, "mine").unwrap();
    let why = part.finish(false).await.unwrap_err();
    assert!(why.kept.contains("onionskin-part"), "{}", why.kept);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::read(part_of(&target)).unwrap(), b"abc");
}

#[tokio::test]
async fn devices_directories_and_links_are_no_targets() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    let missing = dir.path().join("no/x");
    for target in [Path::new("/dev/null"), dir.path(), Path::new("/"), Path::new(".."), &link, &missing] {
        assert_eq!(may_write(target, true).unwrap_err().kind, ErrorKind::Usage, "{}", target.display());
    }
}

#[tokio::test]
async fn two_gets_do_not_share_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    let _held = Part::open(&target, &tag(&key(1)), false).unwrap();
    let why = Part::open(&target, &tag(&key(1)), false).unwrap_err();
    assert!(why.what.starts_with("another get"), "{}", why.what);
}

#[test]
fn part_names_fit() {
    let part = part_path(Path::new(&format!("/d/{}", "ä".repeat(120))), "abcdefgh");
    assert!(part.file_name().unwrap().len() <= 255);
    assert_eq!(part_path(Path::new("a/b.txt"), "tag"), Path::new("a/.b.txt.tag.onionskin-part"));
    assert_ne!(tag(&key(1)), tag(&key(2)));
}

// --- publishing

async fn publish(fake: &Fake, source: &mut FileSource) -> Result<crate::client::Published, Failure> {
    let ask = Publish { length: source.length(), name: None, media_type: None, lease_days: 1, convergent: None };
    Node::InProcess(fake.clone()).publish(ask, None, source, &mut |_| {}).await
}

#[tokio::test]
async fn files_and_pipes_are_published_whole() {
    for len in [0, 1, PIECE + 1, 1_000_000] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&document(len)).unwrap();
        let fake = Fake::default();
        let mut source = FileSource::open(file.path()).await.unwrap();
        let digest = source.digest().await.unwrap();
        assert_eq!(digest[..], Sha256::digest(document(len))[..]);
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
