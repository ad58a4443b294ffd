use super::*;
use crate::client::Node;
use crate::client::daemon::Daemon;
use crate::client::fake::Fake;
use crate::client::fake::key;
use crate::client::files;
use crate::client::files::FileSource;
use crate::client::files::StreamSink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

struct Served {
    _dir: TempDir,
    _socket: socket::Socket,
    path: PathBuf,
    fake: Fake,
    node: Node<Fake>,
}

/// How long callers may be silent where that is tested.
const SHORT: Duration = Duration::from_secs(1);

async fn served(fake: Fake) -> Served {
    served_within(SILENCE, fake).await
}

async fn served_within(silence: Duration, fake: Fake) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (listener, socket) = socket::listen(&path).await.unwrap();
    tokio::spawn(serve_within(silence, listener, fake.clone(), Secret::new([7; 32]), core::future::pending()));
    let node = Node::Daemon(Daemon::find(&path).await.unwrap().unwrap());
    Served { _dir: dir, _socket: socket, path, fake, node }
}

fn ask(length: u64) -> Publish {
    Publish { length, name: Some("ä & b?=.txt".into()), media_type: None, lease_days: 3, convergent: false }
}

fn document(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + i / 256) as u8).collect()
}

/// Speaks HTTP by hand; gives all that came back.
async fn raw(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn posted(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn documents_go_through_the_socket_and_back() {
    let served = served(Fake::default()).await;
    for len in [0, 1, 70_000, 3_000_000] {
        let mut source = FileSource::spool(&document(len)[..]).await.unwrap();
        let (mut seen, mut key) = (0, None);
        let mut watch = |told: Publishing<'_>| match told {
            Publishing::At(progress) => seen = progress.bytes,
            Publishing::Key(early) => key = Some(early.to_text()),
        };
        let done = served.node.publish(ask(len as u64), None, &mut source, &mut watch).await.unwrap();
        assert!(seen <= len as u64);
        assert_eq!(key, Some(done.key.to_text()), "known before the end");
        let begun = AtomicBool::new(false);
        let mut sink = StreamSink::new(Vec::new(), &begun);
        let report = served.node.get(&done.key, 0, &mut sink, &mut |_| {}).await.unwrap();
        let (bytes, found) = sink.into_parts();
        assert_eq!(bytes, document(len));
        assert_eq!((report.bytes, found.length), (len as u64, len as u64));
        let begun = AtomicBool::new(false);
        let mut sink = StreamSink::new(Vec::new(), &begun);
        served.node.get(&done.key, len as u64 / 2, &mut sink, &mut |_| {}).await.unwrap();
        assert_eq!(sink.into_parts().0, document(len).split_off(len / 2));
    }
    assert_eq!(served.fake.0.lock().unwrap().asked, Some((Some("ä & b?=.txt".into()), 3, None)));
    assert_eq!(served.node.status().await.unwrap().relays, 24);
}

#[tokio::test]
async fn convergent_keys_come_from_the_nodes_own_secret() {
    let served = served(Fake::default()).await;
    for len in [0, 3, 200_000] {
        let mut source = FileSource::spool(&document(len)[..]).await.unwrap();
        let ask = Publish { convergent: true, ..ask(len as u64) };
        let done = served.node.publish(ask, None, &mut source, &mut |_| {}).await.unwrap();
        let world = served.fake.0.lock().unwrap();
        assert_eq!(world.asked.as_ref().unwrap().2, Some([7; 32]));
        assert_eq!(world.documents.get(&done.key.to_text()).unwrap(), &document(len));
    }
}

/// Nobody tells the node which key a document shall have: it reads all of it first, and again (T24).
#[tokio::test]
async fn a_convergent_document_is_sent_twice_and_alike() {
    let served = served(Fake::default()).await;
    for (query, body, answered) in [
        ("", "abcabc", "{\"published\":"),
        ("&length=3", "abcabc", "{\"published\":"),
        ("", "abcabd", "changed while"),
        ("", "abcab", "sent twice"),
        ("&length=3", "abc", "sent twice"),
        ("&length=6", "abcabc", "sent twice"),
    ] {
        let answer = raw(&served.path, &posted(&format!("/v1/publish?convergent=true{query}"), body)).await;
        assert!(answer.contains(answered), "{query} {body}: {answer}");
    }
    let world = served.fake.0.lock().unwrap();
    assert!(world.documents.len() == 2 && world.documents.values().all(|text| text == b"abc"));
}

#[tokio::test]
async fn a_get_that_breaks_keeps_its_part_through_the_socket_too() {
    let whole = document(4 << 20);
    let served = served(Fake::with(1, &whole)).await;
    served.fake.0.lock().unwrap().fail_after = Some(3 << 20);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x");
    let why = files::get_to_file(&served.node, &key(1), &target, false, &mut |_| {}).await.unwrap_err();
    assert_eq!((why.kind, why.what.as_str()), (ErrorKind::NotFound, "Too few shares are left."));
    served.fake.0.lock().unwrap().fail_after = None;
    let done = files::get_to_file(&served.node, &key(1), &target, false, &mut |_| {}).await.unwrap();
    assert_eq!(done.resumed, 3 << 20);
    assert_eq!(std::fs::read(&target).unwrap(), whole);
}

#[tokio::test]
async fn a_source_that_fails_cancels_the_publication() {
    struct Bad(usize);
    impl Source for Bad {
        async fn read(&mut self, len: usize) -> Result<Bytes, Failure> {
            self.0 += 1;
            // Late enough that the request has left this end.
            if self.0 > 12 { Err(usage("changed")) } else { Ok(vec![0; len].into()) }
        }

        async fn rewind(&mut self) -> Result<(), Failure> {
            Ok(())
        }
    }
    let served = served(Fake::default()).await;
    let why = served.node.publish(ask(1 << 20), None, &mut Bad(0), &mut |_| {}).await.unwrap_err();
    assert_eq!(why.what, "changed");
    for _ in 0..200 {
        if served.fake.0.lock().unwrap().cancelled == 1 {
            assert!(served.fake.0.lock().unwrap().documents.is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node was not told");
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_its_get() {
    let served = served(Fake::with(1, &document(8 << 20))).await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    let body = format!("{{\"key\":\"{}\"}}", key(1).to_text());
    stream.write_all(posted("/v1/get", &body).as_bytes()).await.unwrap();
    let mut some = vec![0; 1000];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    for _ in 0..200 {
        if served.fake.0.lock().unwrap().cancelled == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node was not told");
}

#[tokio::test]
async fn bad_requests_get_an_error_with_a_status_and_no_echo() {
    let served = served(Fake::default()).await;
    let long = "x".repeat(REQUEST_MAX + 1);
    let missing = format!("{{\"key\":\"{}\"}}", key(9).to_text());
    let sample = format!("{{\"key\":\"{}\",\"sample\":0}}", key(1).to_text());
    let cases = [
        (posted("/v1/get", "{\"key\":\"zzsecret\"}"), "400", "usage"),
        (posted("/v1/get", "nonsense zzsecret"), "400", "usage"),
        (posted("/v1/get", "{\"key\":\"zzsecret\",\"more\":1}"), "400", "usage"),
        (posted("/v1/get", &long), "400", "usage"),
        (posted("/v1/get", &missing), "404", "not-found"),
        (posted("/v1/check", "{}"), "400", "usage"),
        (posted("/v1/check", &sample), "400", "usage"),
        (posted("/v1/publish?lease=0", "abc"), "400", "usage"),
        (posted("/v1/publish?lease=401", "abc"), "400", "usage"),
        (posted("/v1/publish?length=99", "abc"), "400", "usage"),
        (posted(&format!("/v1/publish?name={}", "x".repeat(256)), "abc"), "400", "usage"),
        (posted(&format!("/v1/publish?type={}", "%C3%A9".repeat(128)), "abc"), "400", "usage"),
        (posted("/v1/publish?name=", "abc"), "400", "usage"),
        (posted("/v1/publish?lenght=3", "abc"), "400", "usage"),
        (posted("/v1/publish?length=-3", "abc"), "400", "usage"),
        (posted("/v1/nothing", ""), "404", "usage"),
        ("GET /v1/get HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "405", "usage"),
        ("POST /v1/publish HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "400", "usage"),
    ];
    for (request, status, kind) in cases {
        let answer = raw(&served.path, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request} got {answer}");
        assert!(answer.contains(&format!("{{\"error\":{{\"kind\":\"{kind}\"")), "{request} got {answer}");
        assert!(!answer.contains("zzsecret"), "{answer}");
    }
    let answer = raw(&served.path, &posted("/v1/publish", "abc")).await;
    assert!(answer.contains("{\"published\":{\"key\":\""), "{answer}");
}

#[tokio::test]
async fn no_more_operations_than_fit() {
    let served = served(Fake::default()).await;
    let mut waiting = Vec::new();
    for _ in 0..OPERATIONS_MAX {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(b"POST /v1/publish?length=5 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\na").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        waiting.push(stream);
    }
    let answer = raw(&served.path, &posted("/v1/publish", "abc")).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains("\"refused\""), "{answer}");
}

/// A wrong length gives no key, whichever way it is wrong and whoever says so.
#[tokio::test]
async fn a_document_of_another_length_than_was_said_gets_no_key() {
    let served = served(Fake::default()).await;
    let chunked = |length: &str, pieces: &[&str]| {
        let body: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        format!(
            "POST /v1/publish?length={length} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{body}0\r\n\r\n"
        )
    };
    let long = "x".repeat(70_000);
    for (request, what) in [
        (chunked("5", &["0123456789"]), "longer"),
        (chunked("5", &["01234", "56789"]), "longer"),
        (chunked("5", &["01234", "5"]), "longer"),
        (chunked("0", &["0"]), "longer"),
        (chunked("65536", &[&long]), "longer"),
        (chunked("6", &["01234"]), "broke off"),
        (chunked("1", &[]), "broke off"),
        (chunked("70001", &[&long]), "broke off"),
    ] {
        let answer = raw(&served.path, &request).await;
        assert!(answer.contains(what) && answer.contains("\"usage\"") && !answer.contains("published"), "{answer}");
    }
    assert!(served.fake.0.lock().unwrap().documents.is_empty());
    for (request, length) in [(chunked("5", &["01", "234"]), 5), (chunked("0", &[]), 0), (chunked("70000", &[&long]), 70_000)] {
        let answer = raw(&served.path, &request).await;
        assert!(answer.contains("{\"published\":") && answer.contains(&format!("\"bytes\":{length}")), "{answer}");
    }
}

/// A node that is busy with callers who do nothing is free again soon.
#[tokio::test]
async fn silent_uploads_end_and_are_told_why() {
    let served = served_within(SHORT, Fake::default()).await;
    let mut waiting = Vec::new();
    for n in 0..OPERATIONS_MAX {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        // Some send nothing, some a part, some all but the end.
        let head = match n % 3 {
            0 => "POST /v1/publish?length=5 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n",
            1 => "POST /v1/publish HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\na",
            _ => "POST /v1/publish?length=1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        waiting.push(stream);
    }
    let answer = raw(&served.path, &posted("/v1/publish", "abc")).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    tokio::time::sleep(3 * SHORT).await;
    let answer = raw(&served.path, &posted("/v1/publish", "abc")).await;
    assert!(answer.contains("{\"published\":"), "{answer}");
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("nothing came for 1 seconds") && !answer.contains("published"), "{answer}");
    }
}

#[tokio::test]
async fn an_upload_that_is_slow_and_moves_is_not_silent() {
    let served = served_within(SHORT, Fake::default()).await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    stream.write_all(b"POST /v1/publish HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\n").await.unwrap();
    for _ in 0..9 {
        tokio::time::sleep(SHORT / 2).await;
        stream.write_all(b"a").await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("{\"published\":"), "{answer}");
}

/// Whatever a connection waits for, it does not wait for ever.
#[tokio::test]
async fn idle_connections_end() {
    let served = served_within(SHORT, Fake::default()).await;
    for sent in [
        "",
        "GET /v1/sta",
        "GET /v1/status HTTP/1.1\r\nhost: x\r\n",
        "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /v1/get HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        "POST /v1/check HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        let began = tokio::time::Instant::now();
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(5 * SHORT, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok() && began.elapsed() >= SHORT, "{sent:?} {:?}", began.elapsed());
        let answer = String::from_utf8_lossy(&answer);
        assert!(!sent.starts_with("POST") || answer.contains("nothing came for 1 seconds"), "{sent:?} {answer}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_and_a_slow_reader_gets_all() {
    let served = served_within(SHORT, Fake::with(1, &document(4 << 20))).await;
    let body = format!("{{\"key\":\"{}\"}}", key(1).to_text());
    let ask = async || {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        stream.write_all(posted("/v1/get", &body).as_bytes()).await.unwrap();
        let mut some = vec![0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        stream
    };
    let _stuck = ask().await;
    let mut slow = ask().await;
    let (mut taken, mut piece) = (1000, vec![0; 256 * 1024]);
    loop {
        tokio::time::sleep(SHORT / 2).await;
        match slow.read(&mut piece).await.unwrap() {
            0 => break,
            n => taken += n,
        }
    }
    assert!(taken > 4 << 20, "{taken}");
    assert_eq!(served.fake.0.lock().unwrap().cancelled, 1);
}

/// Where the socket's mode does not keep others out, it is seen who calls.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_program_of_another_user_gets_no_answer() {
    use std::io::Read;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let served = served(Fake::default()).await;
    for (path, mode) in [(served.path.as_path(), 0o666), (served.path.parent().unwrap(), 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (uid, answered) in [(1001, false), (0, true)] {
        let path = served.path.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let asking = std::thread::spawn(move || {
                rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(uid), None).unwrap();
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                let _ = stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                answer
            });
            asking.join().unwrap()
        });
        assert_eq!(answer.await.unwrap().starts_with(b"HTTP/1.1 200"), answered, "{uid}");
    }
}
