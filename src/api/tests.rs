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

async fn served(fake: Fake) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (listener, socket) = socket::listen(&path).await.unwrap();
    tokio::spawn(serve(listener, fake.clone(), Secret::new([7; 32]), core::future::pending()));
    let node = Node::Daemon(Daemon::find(&path).await.unwrap().unwrap());
    Served { _dir: dir, _socket: socket, path, fake, node }
}

fn ask(length: u64) -> Publish {
    Publish { length, name: Some("ä & b?=.txt".into()), media_type: None, lease_days: 3, convergent: None }
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
    let mut source = FileSource::spool(&b"abc"[..]).await.unwrap();
    let digest = source.digest().await.unwrap();
    served.node.publish(Publish { convergent: Some(digest), ..ask(3) }, None, &mut source, &mut |_| {}).await.unwrap();
    let expected = *convergent_key(&Secret::new([7; 32]), &ask(3), &digest).expose();
    assert_eq!(served.fake.0.lock().unwrap().asked.as_ref().unwrap().2, Some(expected));
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
