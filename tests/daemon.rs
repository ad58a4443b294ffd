//! The program against a running node: a node made of memory behind the real socket and the real API, and the program as a process
//! of its own. What people get on which stream, what is left on disk, and the exit codes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what failed by failing")]

use bytes::Bytes;
use onionskin::api;
use onionskin::api::socket;
use onionskin::base::ErrorKind;
use onionskin::base::OpId;
use onionskin::client::Operations;
use onionskin::client::failure;
use onionskin::client::target;
use onionskin::crypto::secret::Secret;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::event::CheckReport;
use onionskin::proto::event::Command;
use onionskin::proto::event::Event;
use onionskin::proto::event::Handles;
use onionskin::proto::event::NO_KEY;
use onionskin::proto::event::Report;
use onionskin::proto::event::Status;
use onionskin::proto::event::StoreStatus;
use onionskin::proto::overlay::reach::Reach;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command as Program;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
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
    /// A publication waits behind its key.
    waits: bool,
    /// A publication fails behind its key.
    fails_late: bool,
    /// Publications that began.
    publications: usize,
    status: Status,
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
        let key = ReadKey::parse(&key_text()).unwrap();
        let _ = tell.send(Event::Key(key.clone())).await;
        while self.0.lock().unwrap().waits {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if self.0.lock().unwrap().fails_late {
            let _ = tell.send(Event::Failed(failure(ErrorKind::NoNetwork, "the line is down", NO_KEY, "Ask again."))).await;
            return;
        }
        self.0.lock().unwrap().document = Some(document);
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
                world.publications += 1;
                drop(tokio::spawn(node.publish(wish.length, said, tell)));
            }
            Command::Get { offset, .. } => drop(tokio::spawn(node.get(offset, said, tell))),
            Command::Check { .. } => {
                let report =
                    CheckReport { chunks: 9, chunks_sampled: 4, chunks_lost: world.lost, needed: 8, ..CheckReport::default() };
                tell.try_send(Event::Checked(report)).unwrap();
            }
            Command::Plain(_) | Command::Consumed(_) | Command::Cancel | Command::Status => {
                tell.try_send(Event::Status(world.status.clone())).unwrap()
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
        node.0.lock().unwrap().status = Status { relays: 24, ready: true, ..Status::default() };
        let (listener, socket) = socket::listen(&dir.path().join("d/api.sock")).await.unwrap();
        tokio::spawn(api::serve(listener, node.clone(), Secret::new([1; 32]), core::future::pending()));
        Self { dir, node, _socket: socket }
    }

    fn program(&self, args: &[impl AsRef<OsStr>]) -> Program {
        let mut program = Program::new(env!("CARGO_BIN_EXE_onionskin"));
        program.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        program.env("ONIONSKIN_DATA_DIR", self.dir.path().join("d")).stdin(Stdio::null());
        program
    }

    /// Runs the program; the last argument but the options may be a path in the place's directory.
    async fn run(&self, args: &[impl AsRef<OsStr>]) -> Output {
        let mut program = self.program(args);
        tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap()
    }

    /// Runs it with another standard output.
    async fn run_into(&self, args: &[&str], out: Stdio) -> Output {
        let mut program = self.program(args);
        program.stdout(out).stderr(Stdio::piped());
        tokio::task::spawn_blocking(move || program.spawn().unwrap().wait_with_output().unwrap()).await.unwrap()
    }

    /// The files with kept keys.
    fn kept(&self) -> Vec<PathBuf> {
        let Ok(all) = fs::read_dir(self.dir.path().join("d/kept-keys")) else { return Vec::new() };
        // What is being written has an ending.
        all.map(|e| e.unwrap().path()).filter(|path| path.extension().is_none()).collect()
    }

    /// The one file with a kept key, once it is there.
    async fn kept_key(&self) -> PathBuf {
        for _ in 0..5000 {
            if let [path] = &self.kept()[..]
                && fs::read_to_string(path).is_ok_and(|text| text == format!("{}\n", key_text()))
            {
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
                return path.clone();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("no key is kept: {:?}", self.kept());
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

    // The longest name arrives whole.
    let name = "é".repeat(127);
    assert!(place.run(&["publish", "doc", "--name", &name]).await.status.success());
    assert_eq!(place.node.0.lock().unwrap().name.take(), Some(name));

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

/// Standard outputs that take nothing: a full device, a pipe that nobody reads any more, and a file that is open for reading.
fn closed_outputs() -> [(&'static str, Stdio); 3] {
    let (_, unread) = std::io::pipe().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    [("full", full.into()), ("unread", unread.into()), ("read-only", fs::File::open("/dev/zero").unwrap().into())]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_for_a_result_is_tried_before_the_work() {
    let place = Place::new().await;
    place.write("doc", &document(100));
    place.node.0.lock().unwrap().document = Some(document(100));
    let key = key_text();
    let commands: [&[&str]; 7] = [
        &["demo", "doc", "--json"],
        &["publish", "doc"],
        &["publish", "doc", "--json"],
        &["publish", "doc", "--convergent"],
        &["get", &key, "-o", "never"],
        &["get", &key, "-o", "-"],
        &["check", &key, "--json"],
    ];
    for command in commands {
        for (what, out) in closed_outputs() {
            let out = place.run_into(command, out).await;
            let said = text(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{command:?} {what}: {said}");
            if what == "unread" && command.contains(&"-") {
                assert!(said.is_empty(), "`| head` is no error: {said}");
                continue;
            }
            let is_json = serde_json::from_str::<serde_json::Value>(said).is_ok_and(|v| v["error"]["kept"] == "Nothing was sent.");
            let is_text =
                said.starts_with("error: ") && said.contains("standard output") && said.contains("\nkept:  Nothing was sent.\n");
            assert_eq!(
                (is_json, is_text),
                (command.contains(&"--json"), !command.contains(&"--json")),
                "{command:?} {what}: {said}"
            );
        }
    }
    let world = place.node.0.lock().unwrap();
    assert_eq!((world.publications, world.running.len()), (0, 0), "nothing was begun");
    assert_eq!(place.names(), ["doc"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_handed_out_is_kept_until_it_is_forgotten() {
    let place = Place::new().await;
    place.write("doc", &document(100));
    for json in [false, true] {
        place.node.0.lock().unwrap().waits = true;
        let (reader, writer) = std::io::pipe().unwrap();
        let mut program = place.program(&if json { vec!["publish", "doc", "--json"] } else { vec!["publish", "doc"] });
        let child = program.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop(program);
        let path = place.kept_key().await;
        drop(reader);
        place.node.0.lock().unwrap().waits = false;
        let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("could not be handed out") && said.contains(path.to_str().unwrap()), "{said}");
        assert!(!said.contains(&key_text()), "it is in the file");
        assert_eq!(json, serde_json::from_str::<serde_json::Value>(said).is_ok(), "{said}");
        assert_eq!(place.kept_key().await, path);
        // As it stands in the message.
        let forget = said.split('`').nth(1).unwrap();
        let words: Vec<&str> = forget.split(' ').skip(1).collect();
        let out = place.run(&words).await;
        assert!(out.status.success() && text(&out.stdout) == "1 kept key removed\n", "{forget}: {out:?}");
        assert!(place.kept().is_empty());
    }
    // One that was handed out is not kept, and nothing of it is left.
    assert!(place.run(&["publish", "doc"]).await.status.success());
    assert!(!place.dir.path().join("d/kept-keys").exists());
    assert_eq!(text(&place.run(&["keys", "forget"]).await.stdout), "no key was kept\n");
}

/// How a relay is, for people: whether others reach it, what it holds, what others think of its clock, what its disk said.
#[tokio::test(flavor = "multi_thread")]
async fn status_tells_an_operator_what_is_wrong() {
    let place = Place::new().await;
    let set = |status: Status| place.node.0.lock().unwrap().status = status;
    let reach = Reach {
        holds: false,
        fails: true,
        came_back: 1,
        needed: 3,
        in_vain: 4,
        address: "203.0.113.5:7443".parse().unwrap(),
        elsewhere: Some("203.0.113.6:7443".parse().unwrap()),
    };
    let bad = Status {
        relays: 22,
        answering: Some(11),
        silent: Some(10),
        reach: Some(reach),
        store: Some(StoreStatus { shares: 1, bytes: 3 << 20, quota: 10 << 30, damaged: 0 }),
        handles: Some(Handles { open: 40, limit: 1024 }),
        clock_offset_secs: Some(-61),
        warnings: vec!["the disk failed: no space is left".into()],
        ..Status::default()
    };
    set(bad.clone());
    let said = text(&place.run(&["status"]).await.stdout).to_owned();
    for line in [
        "ready      no\n",
        "relays     22 known, 0 of them hosts, in 0 address groups; 11 answered within the last hour, 10 did not when last dialled\n",
        "reached    no, at 203.0.113.5:7443, by 1 relay (3 needed); found at 203.0.113.6:7443 instead\n",
        "store      3.0 MiB of 10.0 GiB, 1 share\n",
        "handles    40 of 1024\n",
        "clock      61 seconds ahead of that of others\n",
        "warning    the disk failed: no space is left\n",
    ] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
    let json: Status = serde_json::from_slice(&place.run(&["status", "--json"]).await.stdout).unwrap();
    assert_eq!(json, bad);
    let good = Reach { holds: true, fails: false, came_back: 5, in_vain: 0, elsewhere: None, ..reach };
    set(Status { ready: true, reach: Some(good), clock_offset_secs: Some(0), ..Status::default() });
    let said = text(&place.run(&["status"]).await.stdout).to_owned();
    assert!(said.contains("reached    yes, at 203.0.113.5:7443, by 5 relays (3 needed)\n"), "{said}");
    assert!(said.contains("clock      as others have it\n") && !said.contains("store") && !said.contains("handles"), "{said}");
}

/// Work that takes long says so, to people who asked for more and to programs, although nothing moves.
#[tokio::test(flavor = "multi_thread")]
async fn long_work_says_how_far_it_is() {
    let place = Place::new().await;
    place.write("doc", &document(100));
    for (args, tells) in
        [(&["-v", "publish", "doc"][..], "publishing: "), (&["publish", "doc", "--progress", "json", "--json"], "{\"progress\":")]
    {
        place.node.0.lock().unwrap().waits = true;
        let err = place.dir.path().join("err");
        let child = place.program(args).stdout(Stdio::piped()).stderr(fs::File::create(&err).unwrap()).spawn().unwrap();
        let mut told = 0;
        for _ in 0..2000 {
            told = fs::read_to_string(&err).unwrap().matches(tells).count();
            if told > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        place.node.0.lock().unwrap().waits = false;
        let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let said = fs::read_to_string(&err).unwrap();
        assert!(out.status.success() && told > 0, "{said}");
        if args.contains(&"--progress") {
            for line in said.lines() {
                let object: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(object["progress"]["doing"], "publishing", "{line}");
                assert!(object["progress"]["bytes"].is_u64() && object["progress"]["total"].is_u64(), "{line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_ends_behind_its_key_keeps_it() {
    let place = Place::new().await;
    place.write("doc", &document(100));
    for end in ["KILL", "INT", "TERM", "fails"] {
        place.node.0.lock().unwrap().waits = true;
        let child = place.program(&["publish", "doc"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let path = place.kept_key().await;
        if end == "fails" {
            place.node.0.lock().unwrap().fails_late = true;
        } else {
            assert!(Program::new("sh").arg("-c").arg(format!("kill -{end} {}", child.id())).status().unwrap().success());
        }
        if end != "KILL" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if end == "fails" {
            place.node.0.lock().unwrap().waits = false;
        }
        let out = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        place.node.0.lock().unwrap().waits = false;
        let said = text(&out.stderr);
        assert!(!out.status.success() && out.stdout.is_empty(), "{end}: {said}");
        assert_eq!(said.contains(path.to_str().unwrap()), end != "KILL", "{end}: {said}");
        assert!(!said.contains("No key was given out"), "{said}");
        assert_eq!(place.kept_key().await, path, "{end}");
        let out = place.run(&["keys", "forget", &key_text(), "--json"]).await;
        assert_eq!(text(&out.stdout), "{\"forgotten\":1}\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_file_goes_is_settled_first() {
    let place = Place::new().await;
    place.node.0.lock().unwrap().document = Some(document(100));
    let key = key_text();
    let begun = || place.node.0.lock().unwrap().running.len();
    for target in ["newdir/", "newdir/.", "newdir/x", "d/api.sock/"] {
        let out = place.run(&["get", &key, "-o", target]).await;
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), begun()), (Some(2), 0), "{target}: {said}");
        assert!(
            said.starts_with("error: there is no directory ") && said.contains("\nkept:  Nothing was sent.\n"),
            "{target}: {said}"
        );
    }
    fs::create_dir(place.dir.path().join("dir")).unwrap();
    let own = format!("dir/onionskin-{}", target::tag(&ReadKey::parse(&key).unwrap()));
    // In a directory: the publisher's name, made harmless, or one made from the key. What is named is what is there.
    for (name, given, file) in [
        (Some("../../a\u{1b}[2J.txt"), "dir", "dir/a_[2J.txt"),
        (Some("-x y"), "dir/", "dir/x y"),
        (None, "dir", &own),
        (Some("."), "./dir/.", &format!("./{own}")),
    ] {
        place.node.0.lock().unwrap().name = name.map(str::to_owned);
        let out = place.run(&["get", &key, "-o", given, "--force", "--json"]).await;
        let object: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(object["path"], file, "{name:?}: {object}");
        assert_eq!(fs::read(place.dir.path().join(file)).unwrap(), document(100));
        if name.is_some_and(|name| name.len() > 1) {
            let out = place.run(&["get", &key, "-o", given, "--force"]).await;
            assert!(
                !out.status.success() && text(&out.stderr).contains(" exists already\n"),
                "a stranger replaces nothing: {out:?}"
            );
        }
    }
    assert_eq!(fs::read_dir(place.dir.path().join("dir")).unwrap().count(), 3, "and no part");

    // Names that are as long as names can be, and no text.
    for name in [vec![0xe0; 200], vec![b'x'; 255], "ä".repeat(127).into_bytes()] {
        let args = [b"get", key.as_bytes(), b"-o", &name].map(|arg| OsStr::from_bytes(arg).to_owned());
        let out = place.run(&args).await;
        assert!(out.status.success(), "{out:?}");
        assert_eq!(fs::read(place.dir.path().join(OsStr::from_bytes(&name))).unwrap(), document(100));
    }
}

/// Errors that a place causes name it, and what to do about it.
#[tokio::test(flavor = "multi_thread")]
async fn words_about_places_are_true() {
    let place = Place::new().await;
    std::os::unix::fs::symlink("loop", place.dir.path().join("loop")).unwrap();
    place.write("file", b"x");
    let key = key_text();
    let long = "x".repeat(300);
    let runs: [(&[&str], i32, &str, &str); 6] = [
        (&["publish", "loop"], 1, "cannot open loop: ", "Links lead in a circle there: check the path."),
        (&["publish", "file/x"], 1, "cannot open file/x: ", "Check the path."),
        (&["publish", &long], 1, "cannot open ", "Choose a shorter path."),
        (&["get", &key, "-o", "loop/x"], 2, "there is no directory loop", "Make it first, or choose another."),
        (&["get", &key, "-o", "loop"], 2, "loop is not an ordinary file", "Choose another name with -o."),
        (&["get", &key, "-o", &long], 1, "cannot write ", "Choose a shorter path."),
    ];
    for (args, code, what, next) in runs {
        let out = place.run(args).await;
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with(&format!("error: {what}")) && said.contains("\nkept:  Nothing was sent.\n"), "{args:?}: {said}");
        assert!(said.ends_with(&format!("\nnext:  {next}\n")), "{args:?}: {said}");
    }
    let mut program = place.program(&["demo", "file"]);
    program.env("TMPDIR", place.dir.path().join("file"));
    let out = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let said = text(&out.stderr);
    assert!(said.contains("cannot make a directory in ") && said.contains("TMPDIR=DIR"), "{said}");
    // Standard input has to lie somewhere: the place, and how to choose another. Nothing of it was sent.
    for (tmpdir, input) in [("no/such", "/dev/null"), ("file", "/dev/null"), ("d", "d")] {
        let mut program = place.program(&["publish", "-"]);
        program.env("TMPDIR", place.dir.path().join(tmpdir)).stdin(fs::File::open(place.dir.path().join(input)).unwrap());
        let out = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        let said = text(&out.stderr);
        assert!(!out.status.success() && said.contains("\nkept:  Nothing was sent.\n"), "{said}");
        if tmpdir == input {
            assert!(said.starts_with("error: cannot read standard input: Is a directory"), "{said}");
        } else {
            let named = place.dir.path().join(tmpdir);
            assert!(said.starts_with(&format!("error: cannot keep standard input in {}: ", named.display())), "{said}");
            assert!(said.contains("TMPDIR=DIR"), "{said}");
        }
    }
    assert_eq!(place.node.0.lock().unwrap().publications, 0);
}

/// What `false | onionskin publish -` gives.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_standard_input_is_published_only_when_that_is_meant() {
    let place = Place::new().await;
    let out = place.run(&["publish", "-"]).await;
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("error: standard input was empty\nkept:  Nothing was sent.\n") && said.contains("--allow-empty"),
        "{said}"
    );
    assert_eq!(place.node.0.lock().unwrap().publications, 0);
    let out = place.run(&["publish", "-", "--allow-empty"]).await;
    assert_eq!(text(&out.stdout), format!("{}\n", key_text()));
    // A file that is named is what it is.
    place.write("empty", b"");
    assert!(place.run(&["publish", "empty"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_has_a_form_in_json() {
    let place = Place::new().await;
    place.node.0.lock().unwrap().document = Some(document(100));
    for name in [&b"caf\xe9.bin"[..], b"\xff\xfe", "a\u{202e}\u{9b}\n.txt".as_bytes()] {
        let args = [b"get", key_text().as_bytes(), b"-o", name, b"--json"].map(|arg| OsStr::from_bytes(arg).to_owned());
        let out = place.run(&args).await;
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        let object: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(text(&out.stdout).trim_end().chars().all(onionskin::base::text::is_harmless), "{out:?}");
        let path = match object["path_hex"].as_str() {
            Some(hex) => data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap(),
            None => object["path"].as_str().unwrap().as_bytes().to_vec(),
        };
        assert_eq!(path, name);
        assert_eq!(fs::read(place.dir.path().join(OsStr::from_bytes(name))).unwrap(), document(100));
        // For people: whole, harmless, and a shell reads it.
        let out = place.run(&args[..4]).await;
        let first = text(&out.stderr).lines().next().unwrap();
        let shown = onionskin::base::text::shown(OsStr::from_bytes(name));
        assert_eq!(first, format!("error: {shown} exists already"));
    }
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
