//! The program against a running node: a node made of memory behind the real socket and the real API, and the program as a process
//! of its own. What people get on which stream, what is left on disk, and the exit codes.

#![expect(clippy::unwrap_used, reason = "a test says what failed by failing")]

use bytes::Bytes;
use onionskin::api;
use onionskin::api::socket;
use onionskin::base::ErrorKind;
use onionskin::base::OpId;
use onionskin::client::Operations;
use onionskin::client::failure;
use onionskin::crypto::secret::Secret;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::event::CheckReport;
use onionskin::proto::event::Command;
use onionskin::proto::event::Event;
use onionskin::proto::event::Report;
use onionskin::proto::event::Status;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;

const PIECE: usize = 50_000;

fn key_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read.key");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Holds one document, under one key.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    document: Option<Vec<u8>>,
    name: Option<String>,
    fail: Option<(usize, ErrorKind)>,
    lost: u64,
    running: BTreeMap<u64, mpsc::UnboundedSender<Command>>,
}

impl Memory {
    async fn publish(self, length: u64, mut said: mpsc::UnboundedReceiver<Command>, tell: mpsc::Sender<Event>) {
        let mut document = Vec::new();
        while document.len() < length as usize {
            let len = PIECE.min(length as usize - document.len());
            let _ = tell.send(Event::Need { offset: document.len() as u64, len }).await;
            match said.recv().await {
                Some(Command::Plain(bytes)) => document.extend_from_slice(&bytes),
                _ => return,
            }
        }
        self.0.lock().unwrap().document = Some(document);
        let key = ReadKey::parse(&key_text()).unwrap();
        let _ = tell.send(Event::Published { key, report: Report { bytes: length, ..Report::default() } }).await;
    }

    async fn get(self, offset: u64, _said: mpsc::UnboundedReceiver<Command>, tell: mpsc::Sender<Event>) {
        let (document, name, fail) = {
            let world = self.0.lock().unwrap();
            (world.document.clone(), world.name.clone(), world.fail)
        };
        let Some(document) = document else {
            let _ = tell.send(Event::Failed(failure(ErrorKind::NotFound, "nobody holds it", "", "Ask again."))).await;
            return;
        };
        let length = document.len() as u64;
        let _ = tell.send(Event::Found { length, name, media_type: None }).await;
        let mut at = offset as usize;
        for piece in document[at..].chunks(PIECE) {
            if let Some((_, kind)) = fail.filter(|(after, _)| at >= *after) {
                let _ = tell.send(Event::Failed(failure(kind, "it went wrong", "", "Ask again."))).await;
                return;
            }
            at += piece.len();
            let _ = tell.send(Event::Data(Bytes::copy_from_slice(piece))).await;
        }
        let _ = tell.send(Event::Fetched(Report { bytes: length, ..Report::default() })).await;
    }
}

impl Operations for Memory {
    fn submit(&self, command: Command) -> (OpId, mpsc::Receiver<Event>) {
        let (tell, events) = mpsc::channel(4);
        let (say, said) = mpsc::unbounded_channel();
        let mut world = self.0.lock().unwrap();
        let op = world.running.len() as u64;
        world.running.insert(op, say);
        let node = self.clone();
        match command {
            Command::Publish(wish) => {
                world.name = wish.name;
                drop(tokio::spawn(node.publish(wish.length, said, tell)));
            }
            Command::Get { offset, .. } => drop(tokio::spawn(node.get(offset, said, tell))),
            Command::Check { .. } => {
                let report =
                    CheckReport { chunks: 9, chunks_sampled: 4, chunks_lost: world.lost, needed: 8, ..CheckReport::default() };
                tell.try_send(Event::Checked(report)).unwrap();
            }
            Command::Plain(_) | Command::Consumed(_) | Command::Cancel | Command::Status => {
                tell.try_send(Event::Status(Status { relays: 24, ready: true, ..Status::default() })).unwrap()
            }
        }
        (OpId(op), events)
    }

    fn command(&self, op: OpId, command: Command) {
        if let Some(say) = self.0.lock().unwrap().running.get(&op.0) {
            let _ = say.send(command);
        }
    }
}

struct Place {
    dir: TempDir,
    node: Memory,
    _socket: socket::Socket,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Memory::default();
        let (listener, socket) = socket::listen(&dir.path().join("d/api.sock")).await.unwrap();
        tokio::spawn(api::serve(listener, node.clone(), Secret::new([1; 32]), core::future::pending()));
        Self { dir, node, _socket: socket }
    }

    /// Runs the program; the last argument but the options may be a path in the place's directory.
    async fn run(&self, args: &[&str]) -> Output {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_onionskin"));
        program.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        program.env("ONIONSKIN_DATA_DIR", self.dir.path().join("d")).stdin(Stdio::null());
        tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let all = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "d");
        names.sort();
        names
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn document(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_prints_the_key_and_get_brings_the_bytes_back() {
    let place = Place::new().await;
    place.write("doc", &document(700_001));
    let out = place.run(&["publish", "doc"]).await;
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), format!("{}\n", key_text()), "the key and nothing else");
    assert_eq!(place.node.0.lock().unwrap().name, None, "a file's name is not published");

    let out = place.run(&["get", &key_text(), "-o", "copy"]).await;
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(fs::read(place.dir.path().join("copy")).unwrap(), document(700_001));
    assert_eq!(place.names(), ["copy", "doc"]);

    let out = place.run(&["get", &key_text(), "-o", "-", "-q"]).await;
    assert_eq!(out.stdout, document(700_001));
    assert!(out.stderr.is_empty());

    // Without -o, the name is made from the key: one that a stranger chose could be any file.
    place.node.0.lock().unwrap().name = Some("../doc\u{1b}[2J".into());
    let out = place.run(&["get", &key_text()]).await;
    assert!(out.status.success());
    assert!(place.names().iter().any(|name| name.starts_with("onionskin-")), "{:?}", place.names());
    assert!(!out.stderr.contains(&0x1b), "foreign text cannot drive the terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_and_nothing_on_standard_error() {
    let place = Place::new().await;
    place.write("doc", b"hello");
    let key = key_text();
    let runs: [(&[&str], &str); 5] = [
        (&["publish", "doc", "--json"], "key"),
        (&["get", &key, "-o", "copy", "--json"], "path"),
        (&["check", &key, "--json"], "chunks"),
        (&["status", "--json"], "relays"),
        (&["get", &key, "-o", "copy", "--json"], "error"),
    ];
    for (args, field) in runs {
        let out = place.run(args).await;
        let object: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(!object[field].is_null(), "{args:?} gave {object}");
        assert!(out.stderr.is_empty(), "{args:?} said {}", text(&out.stderr));
        assert_eq!(out.status.success(), field != "error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_went_wrong_and_the_part_is_named() {
    let place = Place::new().await;
    let out = place.run(&["get", &key_text(), "-o", "x"]).await;
    assert_eq!(out.status.code(), Some(3));
    assert_eq!(text(&out.stderr), "error: nobody holds it\nkept:  Nothing; nothing needs to be cleaned up.\nnext:  Ask again.\n");
    assert!(place.names().is_empty());

    place.node.0.lock().unwrap().document = Some(document(3_000_000));
    for (kind, code) in [
        (ErrorKind::NotVerified, 5),
        (ErrorKind::NoNetwork, 4),
        (ErrorKind::Refused, 6),
        (ErrorKind::NotFound, 3),
        (ErrorKind::Other, 1),
    ] {
        place.node.0.lock().unwrap().fail = Some((2_000_000, kind));
        let out = place.run(&["get", &key_text(), "-o", "x"]).await;
        assert_eq!(out.status.code(), Some(code));
        let [part, _sums] = &place.names()[..] else { panic!("{:?}", place.names()) };
        assert!(text(&out.stderr).contains(part.as_str()), "{}", text(&out.stderr));
    }
    for (after, kept) in
        [(2_000_000, "What was written so far is verified and not the whole document."), (0, "Nothing; nothing needs")]
    {
        place.node.0.lock().unwrap().fail = Some((after, ErrorKind::NotFound));
        let out = place.run(&["get", &key_text(), "-o", "-"]).await;
        assert_eq!((out.status.code(), out.stdout.is_empty()), (Some(3), after == 0));
        assert!(text(&out.stderr).contains(&format!("kept:  {kept}")), "{}", text(&out.stderr));
    }
    place.node.0.lock().unwrap().fail = None;
    let out = place.run(&["get", &key_text(), "-o", "x", "--json"]).await;
    let object: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(object["resumed"].as_u64().unwrap() > 900_000, "{object}");
    assert_eq!(fs::read(place.dir.path().join("x")).unwrap(), document(3_000_000));
    assert_eq!(place.names(), ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_lost_chunks_is_reported_with_code_3() {
    let place = Place::new().await;
    assert_eq!(place.run(&["check", &key_text()]).await.status.code(), Some(0));
    place.node.0.lock().unwrap().lost = 2;
    let out = place.run(&["check", &key_text()]).await;
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stdout).contains("2 of the fetched chunks cannot be rebuilt"), "{}", text(&out.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_on_the_same_data_is_refused() {
    let place = Place::new().await;
    let out = place.run(&["relay", "--listen", "127.1.0.1:0", "--local-network"]).await;
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("answers at"), "{}", text(&out.stderr));
    assert!(place.run(&["status"]).await.status.success(), "the first one is left alone");
}
