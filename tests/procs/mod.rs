//! Networks of real processes: the program itself, as people start it, on 127.i.0.1. Whatever is started here is killed when its
//! guard goes.

#![allow(dead_code, unreachable_pub, reason = "tests and benches use a part of this each")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends where it fails, and prints its seed")]

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

/// Between two looks at a process that is waited for.
const LOOK: Duration = Duration::from_millis(1);
/// How long a relay may take to accept links, and a network to be known by all of its relays.
const START: Duration = Duration::from_secs(60);

/// A part of a process's life, from `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Seconds in the program.
    pub user: f64,
    /// Seconds in the kernel for it.
    pub system: f64,
}

impl Cpu {
    pub fn sum(self) -> f64 {
        self.user + self.system
    }

    pub fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }

    pub fn and(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

/// State letter and processor time of a process, in the kernel's ticks of a hundredth of a second. One that has ended and was not
/// waited for (`Z`) still has its whole time.
fn stat(pid: u32) -> Option<(char, Cpu)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let seconds = |i: usize| fields.get(i)?.parse::<f64>().ok().map(|ticks| ticks / 100.0);
    Some((fields.first()?.chars().next()?, Cpu { user: seconds(11)?, system: seconds(12)? }))
}

/// A line such as `VmHWM` of a process's status, in KiB.
pub fn memory(pid: u32, line: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.trim().trim_end_matches("kB").trim().parse().ok())
}

/// Sends a signal by its name. The shell's own `kill` is everywhere.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
    assert!(sent.success(), "no signal to {pid}");
}

/// What a finished run of the program left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub time: Duration,
    pub cpu: Cpu,
    /// Most memory that was resident, in KiB, as last seen before the end.
    pub memory: u64,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    /// The one object of `--json`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// This run, if it succeeded.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self
    }
}

/// A started process; killed when dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    pub out: PathBuf,
    pub err: PathBuf,
    since: Instant,
    memory: u64,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Started {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn cpu(&self) -> Cpu {
        stat(self.pid()).map(|(_, cpu)| cpu).unwrap_or_default()
    }

    pub fn runs(&mut self) -> bool {
        if let Some(memory) = memory(self.pid(), "VmHWM") {
            self.memory = memory;
        }
        stat(self.pid()).is_some_and(|(state, _)| state != 'Z')
    }

    /// SIGKILL: no farewell of any kind.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end; kills the process and gives up on the test after `patience`.
    #[track_caller]
    pub fn end(mut self, patience: Duration) -> Ran {
        while self.runs() {
            assert!(self.since.elapsed() < patience, "still running after {patience:?}: {}", self.stderr());
            sleep(LOOK);
        }
        let (time, cpu, memory) = (self.since.elapsed(), self.cpu(), self.memory);
        let code = self.child.wait().unwrap().code();
        Ran { code, stdout: fs::read(&self.out).unwrap(), stderr: self.stderr(), time, cpu, memory }
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap()).into_owned()
    }

    /// The first line on standard output, once it is complete.
    #[track_caller]
    pub fn first_line(&mut self) -> String {
        let until = Instant::now() + START;
        loop {
            let text = fs::read_to_string(&self.out).unwrap();
            if let Some((line, _)) = text.split_once('\n') {
                return line.to_owned();
            }
            assert!(self.runs(), "ended before its first line: {}", self.stderr());
            assert!(Instant::now() < until, "no first line: {}", self.stderr());
            sleep(LOOK);
        }
    }
}

/// A directory in which programs run, with nothing of the user's around them.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    count: std::cell::Cell<usize>,
}

impl Default for Place {
    fn default() -> Self {
        Self { dir: tempfile::Builder::new().prefix("onionskin-procs-").tempdir().unwrap(), count: std::cell::Cell::new(0) }
    }
}

impl Place {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Starts the program with logs as operators have them.
    pub fn start(&self, name: &str, args: &[&str]) -> Started {
        let number = self.count.get();
        self.count.set(number + 1);
        let (out, err) = (self.path(&format!("{number}-{name}.out")), self.path(&format!("{number}-{name}.log")));
        let child = Command::new(env!("CARGO_BIN_EXE_onionskin"))
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("RUST_LOG", std::env::var("ONIONSKIN_TEST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Started { child, out, err, since: Instant::now(), memory: 0 }
    }

    #[track_caller]
    pub fn run(&self, name: &str, args: &[&str], patience: Duration) -> Ran {
        self.start(name, args).end(patience)
    }

    /// Every line that any program of this place wrote to standard error.
    pub fn logs(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "log") {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                all.extend(text.lines().map(|line| (name.clone(), line.to_owned())));
            }
        }
        all
    }
}

/// A free port of an address, as far as anyone can know.
pub fn free(ip: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// The address of the relay number `i` (from 0): each has a /16 of its own.
pub fn ip(i: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, u8::try_from(i + 1).unwrap(), 0, 1)
}

#[derive(Debug)]
pub struct Relay {
    pub process: Option<Started>,
    pub listen: SocketAddr,
    pub link: String,
    pub dir: String,
}

/// Relays, each a process.
#[derive(Debug)]
pub struct Network {
    pub relays: Vec<Relay>,
    /// Dropped last: the directories of all.
    pub place: Place,
    quota: String,
}

impl Network {
    /// Starts relays and waits until each of them knows all.
    #[track_caller]
    pub fn start(count: usize, quota: &str) -> Self {
        let mut network = Self { relays: Vec::new(), place: Place::default(), quota: quota.to_owned() };
        for i in 0..count {
            let relay = Relay { process: None, listen: free(ip(i)), link: String::new(), dir: format!("relay-{i}") };
            network.relays.push(relay);
            network.launch(i);
            // The first two are where the others start from; those start at once.
            if i < 2 {
                network.greet(i);
            }
        }
        for i in 2..count {
            network.greet(i);
        }
        network.settle(&(0..count).collect::<Vec<_>>(), count);
        network
    }

    /// Starts one relay's process, for the first time or again.
    pub fn launch(&mut self, i: usize) {
        let links: Vec<String> = self.relays.iter().take(i.min(2)).map(|r| r.link.clone()).collect();
        let relay = &self.relays[i];
        let listen = relay.listen.to_string();
        let mut args = vec!["relay", "--local-network", "--data-dir", &relay.dir, "--listen", &listen, "--quota", &self.quota];
        for link in &links {
            args.extend(["--bootstrap", link]);
        }
        let process = self.place.start(&relay.dir, &args);
        self.relays[i].process = Some(process);
    }

    /// Takes a relay's link. It comes when links are accepted, not before.
    pub fn greet(&mut self, i: usize) {
        let relay = &mut self.relays[i];
        let link = relay.process.as_mut().unwrap().first_line();
        std::net::TcpStream::connect(relay.listen).expect("a relay that printed its link accepts connections");
        relay.link = link;
    }

    /// Waits until these relays are ready and know so many.
    #[track_caller]
    pub fn settle(&self, which: &[usize], known: usize) {
        let until = Instant::now() + START;
        for i in which {
            loop {
                let status = self.status(*i);
                if status["ready"] == true && status["relays"].as_u64() >= Some(known as u64) {
                    break;
                }
                assert!(Instant::now() < until, "relay {i} does not know {known} relays: {status}");
                sleep(Duration::from_millis(100));
            }
        }
    }

    pub fn status(&self, i: usize) -> serde_json::Value {
        let dir = &self.relays[i].dir;
        self.place.run("status", &["status", "--json", "--data-dir", dir], Duration::from_secs(20)).good().json()
    }

    /// A command of a client that starts from this relay, with a data directory of its own.
    pub fn client<'a>(&'a self, dir: &'a str, from: usize, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = args.to_vec();
        all.extend(["--data-dir", dir, "--local-network", "--bootstrap", &self.relays[from].link]);
        all
    }

    pub fn kill(&mut self, i: usize) {
        self.relays[i].process.take().unwrap().kill();
    }

    /// Processor time of all relays that run.
    pub fn cpu(&self) -> Cpu {
        self.relays.iter().filter_map(|r| r.process.as_ref()).fold(Cpu::default(), |sum, p| sum.and(p.cpu()))
    }
}

/// Bytes that nothing compresses, the same for the same seed.
pub fn document(length: usize, seed: u64) -> Vec<u8> {
    use rand::Rng;
    use rand::SeedableRng;
    let mut bytes = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
