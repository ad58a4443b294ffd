//! What people get from a network of 24 relay processes on this machine: throughput, processor time over all processes, waiting,
//! memory.
//!
//! `cargo bench --bench network [-- --quick | --big | --circuits]`. Medians of five, of one with `--quick`; `--big` moves 4 GiB
//! where the default is 1; `--circuits` only builds circuits. Other work on the machine changes wall figures by several times, so
//! the limits are measured before and after, in the same run, and ratios to them are printed too.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures wall time and ends where it fails"
)]

mod plain;
#[path = "../tests/procs/mod.rs"]
mod procs;

use onionskin::crypto::ntor::OnionKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::link_text::LinkText;
use plain::Client;
use plain::Hop;
use procs::Cpu;
use procs::Network;
use procs::Ran;
use procs::document;
use procs::memory;
use sha2::Digest;
use sha2::Sha256;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

const MIB: f64 = 1_048_576.0;
const PATIENCE: Duration = Duration::from_secs(1800);
/// Circuits built one after another over each of a few paths.
const ALONE: usize = 21;
/// Of a relay's saved keys: kind, version, count and time come first, then its circuit key.
const ONION_AT: usize = 11;
/// The relay that clients start from.
const FROM: usize = 5;

/// What the machine does at best, in GB/s.
struct Limits {
    tcp: f64,
    copy: f64,
    hash: f64,
}

fn limits() -> Limits {
    let data = document(64 << 20, 1);
    let started = Instant::now();
    for piece in data.chunks(65_536) {
        black_box(Sha256::digest(piece));
    }
    let hash = data.len() as f64 / started.elapsed().as_secs_f64() / 1e9;
    let mut to = vec![0_u8; data.len()];
    to.copy_from_slice(&data);
    let started = Instant::now();
    for _ in 0..8 {
        to.copy_from_slice(black_box(&data));
        black_box(&mut to);
    }
    let copy = 8.0 * data.len() as f64 / started.elapsed().as_secs_f64() / 1e9;

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let total: usize = 1 << 30;
    let started = Instant::now();
    let writer = std::thread::spawn(move || {
        let mut tcp = TcpStream::connect(addr).unwrap();
        let piece = vec![7_u8; 65_536];
        for _ in 0..total / piece.len() {
            tcp.write_all(&piece).unwrap();
        }
    });
    let (mut tcp, _) = listener.accept().unwrap();
    let mut piece = vec![0_u8; 65_536];
    while tcp.read(&mut piece).unwrap() > 0 {}
    writer.join().unwrap();
    Limits { tcp: total as f64 / started.elapsed().as_secs_f64() / 1e9, copy, hash }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn line(what: &str, figure: f64, unit: &str, least: bool, bar: f64, more: &str) {
    let holds = if least { figure >= bar } else { figure <= bar };
    let word = if holds { "holds " } else { "misses" };
    println!("{word}  {what:<44} {figure:>9.2} {unit:<10} bar {bar} {unit}{more}");
}

/// One piece of work by a client's own process.
struct Work {
    ran: Ran,
    relays: Cpu,
}

fn work(net: &Network, name: &str, args: &[&str]) -> Work {
    let before = net.cpu();
    let ran = net.place.run(name, args, PATIENCE).good();
    // What is under way still belongs to this work.
    std::thread::sleep(Duration::from_millis(200));
    Work { ran, relays: net.cpu().since(before) }
}

fn moved(what: &str, all: &[Work], mib: f64, bars: (f64, Option<f64>), limits: &Limits) {
    let rate = median(all.iter().map(|w| mib / w.ran.time.as_secs_f64()).collect());
    let cost = median(all.iter().map(|w| (w.ran.cpu.sum() + w.relays.sum()) * 1e3 / mib).collect());
    let tcp = limits.tcp * 1e9 / MIB;
    line(what, rate, "MiB/s", true, bars.0, &format!("   {:.3} of raw TCP", rate / tcp));
    let name = format!("{what}, CPU of all");
    let ratio = format!("   {:.1} x hashing it", cost / (MIB / limits.hash / 1e6));
    match bars.1 {
        Some(bar) => line(&name, cost, "ms/MiB", false, bar, &ratio),
        None => println!("        {name:<44} {cost:>9.2} ms/MiB     no bar{ratio}"),
    }
    let part = |f: &dyn Fn(&Work) -> f64| median(all.iter().map(|w| f(w) * 1e3 / mib).collect());
    println!(
        "        client {:.2} user + {:.2} system, relays {:.2} user + {:.2} system ms/MiB",
        part(&|w| w.ran.cpu.user),
        part(&|w| w.ran.cpu.system),
        part(&|w| w.relays.user),
        part(&|w| w.relays.system)
    );
}

/// A get through a node's socket, as any program may ask for it: milliseconds until the whole answer is there.
fn through_socket(socket: &Path, key: &str) -> f64 {
    let body = serde_json::json!({ "key": key, "offset": 0 }).to_string();
    let started = Instant::now();
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = "POST /v1/get HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let time = started.elapsed().as_secs_f64() * 1e3;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("\"fetched\""), "{text}");
    time
}

/// A relay as its descriptor names it: its link says who it is, its own disk has its keys.
fn hop(net: &Network, i: usize) -> (LinkText, Hop) {
    let relay = &net.relays[i];
    let link = LinkText::decode(&relay.link).unwrap();
    let saved = net.place.read(&format!("{}/state-keys", relay.dir));
    let secret = Secret::new(*saved[ONION_AT..].first_chunk().unwrap());
    let hop = Hop { node: link.node, onion: OnionKey::from_bytes(secret).public() };
    (link, hop)
}

/// What circuits of three hops take, in milliseconds, each built alone. Their links stand: each path was taken before.
fn built_alone(net: &Network) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut times = Vec::new();
        for first in [2, 9, 16] {
            let (guard, path) = (hop(net, first).0, [first, first + 2, first + 5].map(|i| hop(net, i).1));
            let mut client = Client::connect(guard.network, guard.addrs[0]).await;
            client.build(&path).await;
            for _ in 0..ALONE {
                times.push(client.build(&path).await.as_secs_f64() * 1e3);
            }
        }
        times
    })
}

fn circuits_alone(net: &Network) {
    let mut alone = built_alone(net);
    alone.sort_by(f64::total_cmp);
    let tenth = |n: usize| alone[alone.len() * n / 10];
    let spread = format!("   a tenth below {:.2}, a tenth above {:.2}", tenth(1), tenth(9));
    line("three-hop circuit built alone, median", tenth(5), "ms", false, 5.0, &spread);
}

fn write_big(path: &Path, bytes: u64) {
    let piece = document(1 << 20, 9);
    let mut file = File::create(path).unwrap();
    for i in 0..bytes >> 20 {
        let mut piece = piece.clone();
        piece[..8].copy_from_slice(&i.to_be_bytes());
        file.write_all(&piece).unwrap();
    }
}

fn digest(path: &Path) -> [u8; 32] {
    let mut file = File::open(path).unwrap();
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finalize().into(),
            n => hasher.update(&piece[..n]),
        }
    }
}

fn main() {
    let has = |flag: &str| std::env::args().any(|a| a == flag);
    let (quick, big) = (has("--quick"), has("--big"));
    let rounds = if quick { 1 } else { 5 };
    let before = limits();
    println!(
        "limits  raw TCP {:.2} GB/s, memory copy {:.1} GB/s, SHA-256 {:.2} GB/s on one core",
        before.tcp, before.copy, before.hash
    );

    let started = Instant::now();
    let net = Network::start(24, "40GiB");
    println!("        24 relays know each other after {:.1} s", started.elapsed().as_secs_f64());

    if has("--circuits") {
        circuits_alone(&net);
        return;
    }

    // A relay that has carried nothing yet.
    let (idle, before_idle) = (Duration::from_secs(if quick { 2 } else { 10 }), net.cpu());
    std::thread::sleep(idle);
    let spent = net.cpu().since(before_idle).sum() / idle.as_secs_f64();
    println!(
        "        24 idle relays take {:.1} ms of processor a second, all together; it is part of the figures below",
        spent * 1e3
    );
    let resident = net.relays.iter().filter_map(|r| memory(r.process.as_ref()?.pid(), "VmRSS")).map(|kib| kib as f64 / 1024.0);
    line("resident, an idle relay that knows 24", median(resident.collect()), "MiB", false, 30.0, "");

    let doc = document(100 << 20, 3);
    net.place.write("doc", &doc);
    net.place.write("small", &doc[..1024]);
    let mut key = String::new();
    let all: Vec<Work> = (0..rounds)
        .map(|_| {
            let done = work(&net, "publish", &net.client("publisher", FROM, &["publish", "doc", "--fast"]));
            key = done.ran.text().trim().to_owned();
            done
        })
        .collect();
    moved("publish 100 MiB", &all, 100.0, (15.0, None), &before);
    let all: Vec<Work> = (0..rounds)
        .map(|_| {
            let done = work(&net, "get", &net.client("reader", FROM, &["get", &key, "-o", "copy", "--force"]));
            assert!(net.place.read("copy") == doc, "what came back differs");
            done
        })
        .collect();
    moved("get 100 MiB", &all, 100.0, (60.0, Some(15.0)), &before);

    let small = net.place.run("publish", &net.client("publisher", FROM, &["publish", "small"]), PATIENCE).good().text();
    let small = small.trim();
    let fresh = (0..rounds).map(|i| {
        let (dir, copy) = (format!("fresh-{i}"), format!("fresh-copy-{i}"));
        let ran = net.place.run("get", &net.client(&dir, FROM, &["get", small, "-o", &copy]), PATIENCE).good();
        assert!(net.place.read(&copy) == doc[..1024], "what came back differs");
        ran.time.as_secs_f64()
    });
    line("get 1 KiB, new client from link to disk", median(fresh.collect()), "s", false, 2.0, "");
    let socket = net.place.path(&net.relays[FROM].dir).join("api.sock");
    through_socket(&socket, small);
    let warm = median((0..rounds * 5).map(|_| through_socket(&socket, small)).collect());
    line("get 1 KiB, warm node through its socket", warm, "ms", false, 20.0, "");
    let dir = &net.relays[FROM].dir;
    let cli = (0..rounds).map(|_| {
        let args = ["get", small, "-o", "cli-copy", "--force", "--data-dir", dir];
        net.place.run("get", &args, PATIENCE).good().time.as_secs_f64() * 1e3
    });
    println!("        the same by a command through the socket {:>9.2} ms", median(cli.collect()));

    let built = net.status(FROM)["circuit_build_us"].as_u64().map_or(f64::NAN, |us| us as f64 / 1e3);
    println!("        three-hop circuits in bursts by that node, links dialled for them included: median {built:>6.2} ms");
    circuits_alone(&net);

    let gib = if big { 4 } else { 1 };
    if quick {
        println!("        left out: memory during {gib} GiB");
    } else {
        write_big(&net.place.path("big"), gib << 30);
        let put = work(&net, "publish", &net.client("publisher", FROM, &["publish", "big", "--fast"]));
        let key = put.ran.text().trim().to_owned();
        line(&format!("resident at most, publish {gib} GiB"), put.ran.memory as f64 / 1024.0, "MiB", false, 150.0, "");
        let got = work(&net, "get", &net.client("reader", FROM, &["get", &key, "-o", "big-copy"]));
        line(&format!("resident at most, get {gib} GiB"), got.ran.memory as f64 / 1024.0, "MiB", false, 150.0, "");
        assert!(digest(&net.place.path("big")) == digest(&net.place.path("big-copy")), "what came back differs");
        let mib = (gib * 1024) as f64;
        println!(
            "        {gib} GiB: published at {:.1} MiB/s, got at {:.1}",
            mib / put.ran.time.as_secs_f64(),
            mib / got.ran.time.as_secs_f64()
        );
        let most = net.relays.iter().filter_map(|r| memory(r.process.as_ref()?.pid(), "VmHWM")).max().unwrap_or(0);
        println!("        most that any relay had resident: {:.1} MiB", most as f64 / 1024.0);
    }
    let after = limits();
    println!(
        "limits  afterwards: raw TCP {:.2} GB/s, memory copy {:.1} GB/s, SHA-256 {:.2} GB/s",
        after.tcp, after.copy, after.hash
    );
}
