//! The program as processes: relays and clients with sockets, disks and signals, killed without warning, with wrong input and wrong
//! places.
//!
//! The choices are drawn from a printed seed; `ONIONSKIN_SEED=N` repeats them.

#![expect(clippy::disallowed_methods, reason = "processes run in real time")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails, and prints its seed")]

mod procs;

use data_encoding::BASE32_NOPAD;
use data_encoding::HEXLOWER;
use onionskin::client::target;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::link_text::LinkText;
use procs::Network;
use procs::Place;
use procs::Ran;
use procs::document;
use procs::free;
use procs::ip;
use procs::signal;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

const MIB: usize = 1 << 20;
/// Longest run of any client here.
const PATIENCE: Duration = Duration::from_secs(150);
/// What the text document says; no log may.
const WORDS: &str = "meet me behind the old observatory at nine";

fn seed() -> u64 {
    let seed = std::env::var("ONIONSKIN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("ONIONSKIN_SEED={seed}");
    seed
}

/// An error as people get it: three lines, and nothing on standard output.
#[track_caller]
fn fails(ran: &Ran, code: i32, what: &str) {
    let told: Vec<&str> =
        ran.stderr.lines().filter(|l| ["error: ", "kept:  ", "next:  "].iter().any(|word| l.starts_with(word))).collect();
    assert_eq!(ran.code, Some(code), "{}", ran.stderr);
    assert_eq!(told.len(), 3, "{}", ran.stderr);
    assert!(ran.stderr.ends_with(&format!("{}\n", told.join("\n"))), "the three lines come last: {}", ran.stderr);
    assert!(told[0].starts_with("error: ") && told[0].contains(what), "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{}", ran.text());
}

/// A key as publish prints it: alone.
#[track_caller]
fn key_of(ran: Ran) -> String {
    let text = ran.good().text();
    let key = text.strip_suffix('\n').unwrap();
    assert!(ReadKey::parse(key).is_ok(), "{text}");
    key.to_owned()
}

#[test]
fn a_network_of_processes() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut net = Network::start(24, "1GiB");
    let doc = document(10 * MIB, seed);
    net.place.write("doc", &doc);
    net.place.write("words", WORDS.as_bytes());

    // Published by a client that then exits; the key alone is on standard output.
    let key = key_of(net.place.run("publish", &net.client("publisher", 0, &["publish", "doc"]), PATIENCE));
    let words = key_of(net.place.run("publish", &net.client("publisher", 0, &["publish", "words"]), PATIENCE));

    a_stopped_relay_costs_seconds(&net, &words);
    through_sockets(&net, &words);
    mistyped_and_unknown_keys(&net, &key);
    let long = a_killed_get_goes_on(&net, seed);

    let before = checked(&net, "checker", 0, &key);
    // A reader never asks hosts in its own guard's groups (D15), so what those hold is there and not seen.
    assert!(before.0 * 10 >= before.1 * 9, "{before:?}");

    // Half of the network goes, without a word.
    let mut order: Vec<usize> = (0..24).collect();
    order.shuffle(&mut rng);
    let (killed, left) = order.split_at(12);
    println!("killed {killed:?}");
    for i in killed {
        net.kill(*i);
    }
    let fresh = net.client("fresh", left[0], &["get", &key, "-o", "copy"]);
    net.place.run("get", &fresh, PATIENCE).good();
    assert!(net.place.read("copy") == doc, "the same bytes");

    // They come back on their directories, and so does what they held.
    for i in killed {
        net.launch(*i);
    }
    for i in killed {
        let link = net.relays[*i].link.clone();
        net.greet(*i);
        assert_eq!(net.relays[*i].link, link, "the same identity and address");
    }
    net.settle(killed, 24);
    // The same checker, with the same guard, sees all it saw before.
    let after = checked(&net, "checker", 0, &key);
    assert_eq!(after, before);
    a_client_comes_back_without_its_link(&mut net, left[0], &words);

    sigterm(&mut net, order[0]);
    for i in &order[1..] {
        let text = fs::read_to_string(&net.relays[*i].process.as_ref().unwrap().out).unwrap();
        assert_eq!(text.lines().count(), 1, "a relay prints its link and nothing else: {text}");
    }
    nothing_in_logs(&net, &[&key, &words, &long]);
}

/// Each relay in its turn is stopped without a word, so that its connections stand and nothing comes: the client's guard among them.
fn a_stopped_relay_costs_seconds(net: &Network, words: &str) {
    for i in 1..net.relays.len() {
        let pid = net.relays[i].process.as_ref().unwrap().pid();
        signal(pid, "STOP");
        let times = [0, 1].map(|_| {
            let ran = net.place.run("get", &net.client("publisher", 0, &["get", words, "-o", "-"]), PATIENCE).good();
            assert_eq!(ran.stdout, WORDS.as_bytes());
            ran.time
        });
        signal(pid, "CONT");
        assert!(times[0] < Duration::from_secs(15) && times[1] < Duration::from_secs(8), "relay {i}: {times:?}");
    }
}

/// The relay whose link a client came in by is gone; it knows others.
fn a_client_comes_back_without_its_link(net: &mut Network, from: usize, words: &str) {
    net.kill(from);
    net.place.run("get", &["get", words, "--data-dir", "fresh", "--local-network", "-o", "again"], PATIENCE).good();
    assert_eq!(net.place.read("again"), WORDS.as_bytes());
    net.launch(from);
    net.greet(from);
}

/// Shares seen and possible over all chunks.
fn checked(net: &Network, dir: &str, from: usize, key: &str) -> (u64, u64) {
    let ran = net.place.run("check", &net.client(dir, from, &["check", key, "--json", "--sample", "10000"]), PATIENCE).good();
    let report = ran.json();
    println!("check {report}");
    assert_eq!(report["chunks"], report["chunks_sampled"], "all chunks are looked at");
    (report["shares_seen"].as_u64().unwrap(), report["shares_possible"].as_u64().unwrap())
}

/// A running node does the work of a command that names its data directory, and nothing else is started.
fn through_sockets(net: &Network, words: &str) {
    let relay = &net.relays[3].dir;
    assert_eq!(net.status(3)["relays"], 24);
    net.place.run("get", &["get", words, "--data-dir", relay, "-o", "words-copy"], PATIENCE).good();
    assert_eq!(net.place.read("words-copy"), WORDS.as_bytes());
    let key = key_of(net.place.run("publish", &["publish", "words", "--data-dir", relay], PATIENCE));
    assert_ne!(key, words, "not convergent unless asked");
    let report = net.place.run("check", &["check", &key, "--json", "--data-dir", relay], PATIENCE).good().json();
    assert!(report["shares_seen"].as_u64() >= Some(16), "{report}");
}

fn mistyped_and_unknown_keys(net: &Network, key: &str) {
    let mut wrong = key.as_bytes().to_vec();
    let last = wrong.last_mut().unwrap();
    *last = if *last == b'a' { b'b' } else { b'a' };
    let wrong = String::from_utf8(wrong).unwrap();
    let ran = net.place.run("get", &net.client("nobody", 0, &["get", &wrong, "-o", "never"]), PATIENCE);
    fails(&ran, 2, "key");
    assert!(ran.stderr.contains("Nothing was sent."), "{}", ran.stderr);
    assert!(!net.place.path("nobody").exists(), "no client was started");

    // A key that is whole, of a document that nobody ever stored.
    let unknown = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/read.key")).unwrap();
    let ran = net.place.run("get", &net.client("asker", 0, &["get", unknown.trim(), "-o", "never"]), PATIENCE);
    fails(&ran, 3, " hosts were asked");
    assert!(!net.place.path("never").exists());
    let parts =
        fs::read_dir(net.place.path(".")).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("never"));
    assert_eq!(parts.count(), 0, "no part of nothing");
}

/// Gives the key of the long document.
fn a_killed_get_goes_on(net: &Network, seed: u64) -> String {
    let doc = document(80 * MIB, seed ^ 1);
    net.place.write("long", &doc);
    let key = key_of(net.place.run("publish", &net.client("publisher", 0, &["publish", "long"]), 3 * PATIENCE));
    let tag = target::tag(&ReadKey::parse(&key).unwrap());
    let part = target::part_path(&net.place.path("long-copy"), &tag);
    let args = net.client("reader", 0, &["get", &key, "-o", "long-copy", "--json"]);
    let length = || fs::metadata(&part).map_or(0, |meta| meta.len());

    let mut get = net.place.start("get", &args);
    let since = Instant::now();
    while length() < doc.len() as u64 / 2 {
        assert!(get.runs(), "ended before half was there: {}", get.stderr());
        assert!(since.elapsed() < PATIENCE, "half takes too long: {}", length());
        sleep(Duration::from_millis(1));
    }
    get.kill();
    let kept = length();
    println!("killed at {kept} of {} bytes", doc.len());
    assert!(kept < doc.len() as u64, "killed too late to show anything");
    assert!(!net.place.path("long-copy").exists(), "nothing unfinished under the final name");

    let object = net.place.run("get", &args, PATIENCE).good().json();
    let resumed = object["resumed"].as_u64().unwrap();
    // The last MiB may be torn by a crash, so it is fetched again.
    assert!(resumed + MIB as u64 >= kept && resumed <= kept, "{object}");
    let chunk = 8 * 32 * 1024;
    let needed = (doc.len() as u64 - resumed).div_ceil(chunk) * 8;
    let shares = object["report"]["shares"].as_u64().unwrap();
    // Besides the rest: manifest and the chunk where it goes on, with a few shares more than needed where hosts were slow.
    assert!(shares <= needed + needed / 4 + 64, "{shares} shares for {needed}");
    assert!(net.place.read("long-copy") == doc, "the same bytes");
    assert!(!part.exists());
    key
}

fn sigterm(net: &mut Network, i: usize) {
    let relay = net.relays[i].process.take().unwrap();
    let since = Instant::now();
    signal(relay.pid(), "TERM");
    let ran = relay.end(Duration::from_secs(600));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(since.elapsed() < Duration::from_secs(5), "took {:?}", since.elapsed());
    assert!(!net.place.path(&net.relays[i].dir).join("api.sock").exists(), "the socket is gone");
}

/// Logs at `info` tell how the program is, and nothing about anybody.
fn nothing_in_logs(net: &Network, keys: &[&str]) {
    let mut secrets: Vec<(String, &str)> = vec![(WORDS.to_owned(), "a document's text")];
    for key in keys {
        // A tenth of a key is more than chance puts anywhere, and its beginning is the same for all.
        let half = key.len() / 2;
        secrets.push((key[half..half + 12].to_owned(), "a read key"));
    }
    for relay in &net.relays {
        secrets.push((relay.listen.ip().to_string(), "an address"));
        let node = LinkText::decode(&relay.link).unwrap().node;
        secrets.push((HEXLOWER.encode(&node.0)[..8].to_owned(), "an id"));
        secrets.push((BASE32_NOPAD.encode(&node.0)[..12].to_lowercase(), "an id"));
        secrets.push((format!("{node:?}"), "an id"));
    }
    let lines = net.place.logs();
    assert!(lines.iter().any(|(_, line)| line.contains("ready")), "logs are on");
    for (file, line) in lines {
        let low = line.to_lowercase();
        for (secret, what) in &secrets {
            assert!(!low.contains(&secret.to_lowercase()), "{file} tells {what}: {line}");
        }
    }
}

/// The number of hosts that were asked is a number of hosts.
#[test]
fn an_unknown_key_counts_hosts() {
    let net = Network::start(6, "1GiB");
    let unknown = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/read.key")).unwrap();
    let ran = net.place.run("get", &net.client("asker", 0, &["get", unknown.trim(), "-o", "never"]), PATIENCE);
    fails(&ran, 3, " hosts were asked");
    let (before, _) = ran.stderr.split_once(" hosts were asked").unwrap();
    let asked: u32 = before.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1..=6).contains(&asked), "the network has 6 hosts: {}", ran.stderr);
}

/// Damaged files stop nobody, unless without them the node would be another one; a client with none of its links knows relays.
#[test]
fn what_can_be_made_anew_stops_nobody() {
    let mut net = Network::start(6, "1GiB");
    net.place.write("words", WORDS.as_bytes());
    let key = key_of(net.place.run("publish", &net.client("client", 0, &["publish", "words"]), PATIENCE));
    let tear = |net: &Network, dir: &str, name: &str, bytes: &[u8]| {
        let path = format!("{dir}/{name}");
        assert!(net.place.path(&path).exists(), "{path}");
        net.place.write(&path, bytes);
    };
    let get = |net: &Network, to: &str, torn: &[&str]| {
        let ran = net.place.run(to, &["get", &key, "--data-dir", "client", "--local-network", "-o", to], PATIENCE).good();
        assert_eq!(net.place.read(to), WORDS.as_bytes());
        for name in torn {
            assert!(ran.stderr.contains(&format!("client/{name}\"")), "{name} is named: {}", ran.stderr);
        }
    };
    fs::remove_file(net.place.path("client/bootstrap")).unwrap();
    get(&net, "without", &[]);
    assert!(!net.place.path("client/bootstrap").exists());
    tear(&net, "client", "state-paths", b"");
    tear(&net, "client", "state-directories", &[0; 40]);
    net.place.write("client/bootstrap", b"onionskin:ama5czqz7w\n");
    get(&net, "torn", &["bootstrap", "state-paths", "state-directories"]);
    assert_eq!(net.place.read("client/bootstrap.torn"), b"onionskin:ama5czqz7w\n");

    let link = net.relays[3].link.clone();
    net.kill(3);
    for name in ["bootstrap", "convergent-secret", "state-keys"] {
        tear(&net, "relay-3", name, b"");
    }
    net.launch(3);
    net.greet(3);
    assert_eq!(net.relays[3].link, link);
    let said = net.relays[3].process.as_ref().unwrap().stderr();
    for name in ["bootstrap", "convergent-secret", "state-keys"] {
        assert!(said.contains(&format!("relay-3/{name}\"")), "{name} is named: {said}");
    }
    net.kill(3);
    tear(&net, "relay-3", "identity", b"");
    let listen = net.relays[3].listen.to_string();
    let ran = net.place.run("again", &["relay", "--data-dir", "relay-3", "--listen", &listen, "--local-network"], PATIENCE);
    fails(&ran, 1, "identity");
    assert!(ran.stderr.contains("begins anew"), "{}", ran.stderr);
}

/// SIGHUP makes a relay read its settings file again. What cannot be used changes nothing, and what waits for a restart is named.
#[test]
fn a_hangup_reloads_the_settings_of_a_relay() {
    let mut net = Network::start(6, "1GiB");
    net.place.write("doc", &document(8 * MIB, 8));
    key_of(net.place.run("publish", &net.client("publisher", 0, &["publish", "doc"]), PATIENCE));
    // One that holds something of it, which the publisher's guard does not, goes on with a file.
    let slab = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("slab-");
    let holds = |i: &usize| {
        let shares = fs::read_dir(net.place.path(&format!("{}/shares", net.relays[*i].dir))).unwrap();
        shares.flatten().any(|entry| slab(&entry))
    };
    let host = (0..6).find(holds).unwrap();
    let family_link = net.relays[(host + 1) % 6].link.clone();
    net.kill(host);
    let (dir, listen) = (net.relays[host].dir.clone(), net.relays[host].listen.to_string());
    net.place.write("settings", b"quota = \"1GiB\"\n");
    let args = ["relay", "--config", "settings", "--data-dir", &dir, "--listen", &listen, "--local-network"];
    let mut relay = net.place.start("reloads", &args);
    relay.first_line();
    assert!(!relay.stderr().contains("the quota is"), "{}", relay.stderr());
    let mut reload = |settings: &str, told: &str| {
        net.place.write("settings", settings.as_bytes());
        let before = relay.stderr().len();
        signal(relay.pid(), "HUP");
        let until = Instant::now() + Duration::from_secs(20);
        while !relay.stderr()[before..].contains(told) {
            assert!(relay.runs() && Instant::now() < until, "{told}: {}", relay.stderr());
            sleep(Duration::from_millis(5));
        }
        relay.stderr()[before..].to_owned()
    };
    let said = reload("quota = \"1GiB\"\n", "settings read again");
    assert!(said.contains("nothing changed"), "{said}");
    reload("quota = \"1MiB\"\n", "in force: quota");
    let said = reload("quota = \"1MiB\n", "stay as they were");
    assert!(said.contains("line 1"), "{said}");
    // All or nothing.
    let said = reload("quota = \"2GiB\"\nfamily = [\"x\"]\n", "stay as they were");
    assert!(said.contains("family") && !said.contains("in force"), "{said}");
    let said = reload("quota = \"3GiB\"\nadvertise = [\"127.99.0.1:1\"]\n", "need a restart: advertise");
    assert!(said.contains("in force: quota"), "{said}");
    let family = format!("quota = \"1MiB\"\nfamily = [\"{family_link}\"]\n");
    reload(&family, "in force: family, quota");
    assert_eq!(net.status(host)["link"], net.relays[host].link, "the same node, at the same socket");
    // What was stored stays, and the operator knows why the disk is no emptier.
    let over = "the quota is 1.0 MiB and the shares held take ";
    let until = Instant::now() + Duration::from_secs(20);
    while relay.stderr().matches(over).count() < 2 {
        assert!(Instant::now() < until, "{}", relay.stderr());
        sleep(Duration::from_millis(5));
    }
    signal(relay.pid(), "TERM");
    let ran = relay.end(Duration::from_secs(600));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // A start with a quota that is too low says the same.
    let mut relay = net.place.start("again", &args);
    relay.first_line();
    assert!(relay.stderr().contains(over), "{}", relay.stderr());
}

/// A relay where nobody can reach it says so, and what to check; one that is reached says that.
#[test]
fn a_relay_that_nobody_reaches_says_so() {
    let net = Network::start(6, "1GiB");
    for i in 0..6 {
        let status = net.status(i);
        assert_eq!(
            (&status["reach"]["holds"], &status["reach"]["address"]),
            (&true.into(), &net.relays[i].listen.to_string().into())
        );
    }
    let listen = free(ip(61));
    let other = free(ip(61)).to_string();
    let at = listen.to_string();
    let args = net.client("lost", 0, &["relay", "--listen", &at, "--advertise", &other]);
    let mut relay = net.place.start("lost", &args);
    relay.first_line();
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        let status = net.place.run("status", &["status", "--json", "--data-dir", "lost"], PATIENCE).good().json();
        assert_eq!(status["ready"], false, "{status}");
        if status["reach"]["fails"] == true && status["relays"].as_u64() >= Some(6) {
            break status;
        }
        assert!(relay.runs() && Instant::now() < until, "{status}");
        sleep(Duration::from_millis(100));
    };
    assert_eq!((&status["reach"]["came_back"], &status["reach"]["address"]), (&0.into(), &other.into()));
    let said = relay.stderr();
    assert!(said.contains("listens on another port than it advertises"), "{said}");
    assert!(!said.contains("announced") && !said.contains(" ready: "), "{said}");
    assert_eq!(said.matches("others do not reach this relay").count(), 1, "{said}");
    let people = net.place.run("status", &["status", "--data-dir", "lost"], PATIENCE).good().text();
    assert!(people.contains("ready      no") && people.contains("reached    no, at "), "{people}");
    assert!(people.contains("forwards") && people.contains("handles    "), "{people}");
}

/// A warning that others cause again and again comes once.
#[test]
fn a_wrong_address_is_one_warning() {
    let net = Network::start(6, "1GiB");
    let (listen, wrong) = (free(ip(62)), SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 7443)));
    let (at, wrong) = (listen.to_string(), SocketAddr::new(wrong.ip(), listen.port()).to_string());
    let mut relay = net.place.start("wrong", &net.client("wrong", 0, &["relay", "--listen", &at, "--advertise", &wrong]));
    relay.first_line();
    let until = Instant::now() + Duration::from_secs(60);
    // Each of six relays says it once every few seconds.
    let status = loop {
        let status = net.place.run("status", &["status", "--json", "--data-dir", "wrong"], PATIENCE).good().json();
        if status["reach"]["in_vain"].as_u64() >= Some(10) {
            break status;
        }
        assert!(relay.runs() && Instant::now() < until, "{status}");
        sleep(Duration::from_millis(100));
    };
    let said = relay.stderr();
    assert_eq!(said.matches("others see this relay at another address").count(), 1, "{said}");
    assert_eq!((&status["ready"], &status["reach"]["elsewhere"]), (&false.into(), &at.into()));
}

#[test]
fn full_hosts_refuse() {
    let net = Network::start(6, "1MiB");
    net.place.write("doc", &document(4 * MIB, 7));
    let ran = net.place.run("publish", &net.client("publisher", 0, &["publish", "doc"]), PATIENCE);
    fails(&ran, 6, "full");
    assert!(ran.stderr.contains("No key was given out"), "{}", ran.stderr);
}

/// One link is all that anybody needs, for a network's first relays too.
#[test]
fn one_link_is_enough() {
    let place = Place::default();
    let mut relays = Vec::new();
    let mut link = String::new();
    for i in 0..6 {
        let (dir, listen) = (format!("r{i}"), free(ip(i)).to_string());
        let mut args = vec!["relay", "--local-network", "--data-dir", &dir, "--listen", &listen];
        if i > 0 {
            args.extend(["--bootstrap", &link]);
        }
        let mut relay = place.start(&dir, &args);
        // All others come at the same time.
        if i == 0 {
            link = relay.first_line();
        }
        relays.push(relay);
    }
    for relay in &mut relays {
        relay.first_line();
    }
    let until = Instant::now() + Duration::from_secs(30);
    for i in 0..6 {
        loop {
            let dir = format!("r{i}");
            let status = place.run("status", &["status", "--json", "--data-dir", &dir], PATIENCE).good().json();
            if status["ready"] == true && status["relays"] == 6 {
                break;
            }
            assert!(Instant::now() < until, "relay {i}: {status}");
            sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn wrong_places_are_named_and_nothing_is_lost() {
    let place = Place::default();
    let listen = free(ip(200));
    let text = listen.to_string();
    let mut relay = place.start("relay", &["relay", "--local-network", "--data-dir", "d", "--listen", &text]);
    let link = relay.first_line();

    // The port is in use.
    let ran = place.run("relay", &["relay", "--local-network", "--data-dir", "other", "--listen", &text], PATIENCE);
    fails(&ran, 1, "taken by another program");
    // A second node on one data directory.
    let elsewhere = free(ip(201)).to_string();
    let ran = place.run("relay", &["relay", "--local-network", "--data-dir", "d", "--listen", &elsewhere], PATIENCE);
    fails(&ran, 1, "answers at");
    // The same while the socket's file is gone: the lock on the directory holds.
    fs::remove_file(place.path("d/api.sock")).unwrap();
    let ran = place.run("relay", &["relay", "--local-network", "--data-dir", "d", "--listen", &elsewhere], PATIENCE);
    fails(&ran, 1, "");
    assert!(relay.runs(), "the first one is left alone");

    // A file where the data directory should be.
    place.write("file", b"mine");
    let ran = place.run("relay", &["relay", "--local-network", "--data-dir", "file", "--listen", &elsewhere], PATIENCE);
    fails(&ran, 2, "file is none");
    assert_eq!(place.read("file"), b"mine");

    // The first one stops, and starts again with its identity.
    signal(relay.pid(), "TERM");
    relay.end(Duration::from_secs(10)).good();
    relay = place.start("relay", &["relay", "--local-network", "--data-dir", "d", "--listen", &text]);
    assert_eq!(relay.first_line(), link);
}

/// A place with a document; the link of a relay that is no more, and the address where it was.
fn dead_relay(i: usize) -> (Place, String, SocketAddr) {
    let (place, listen) = (Place::default(), free(ip(i)));
    let text = listen.to_string();
    let mut relay = place.start("relay", &["relay", "--local-network", "--data-dir", "d", "--listen", &text]);
    let link = relay.first_line();
    relay.kill();
    place.write("doc", b"x");
    (place, link, listen)
}

/// Ctrl-C, the system's farewell, and a terminal that goes: each ends a command in words.
#[test]
fn signals_end_a_command_in_words() {
    let (place, link, listen) = dead_relay(211);
    // It accepts and says nothing: whoever comes waits.
    let _silent = TcpListener::bind(listen).unwrap();
    let read = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/read.key")).unwrap();
    let join = ["--local-network", "--data-dir", "c", "--bootstrap", &link];
    let commands: [(&[&str], &str, &str); 4] = [
        (&["publish", "doc"], "looking", "A repeat starts from the beginning"),
        (&["get", read.trim(), "-o", "never"], "looking", "Repeat the command."),
        (&["check", read.trim()], "looking", "Repeat the command."),
        (&["demo", "doc"], "starting", "Repeat the command."),
    ];
    for word in ["INT", "TERM", "HUP"] {
        for (command, waits, next) in commands {
            let args = if command[0] == "demo" { command.to_vec() } else { [command, &join].concat() };
            let mut run = place.start(command[0], &args);
            while !run.stderr().contains(waits) {
                assert!(run.runs(), "{}", run.stderr());
                sleep(Duration::from_millis(5));
            }
            sleep(Duration::from_millis(200));
            signal(run.pid(), word);
            let ran = run.end(Duration::from_secs(20));
            fails(&ran, 1, "stopped by you");
            assert!(ran.stderr.contains(next), "{}", ran.stderr);
        }
        let names = fs::read_dir(place.path(".")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = names.filter(|n| n.starts_with("onionskin-demo-") || n.contains("never")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_bootstrap_link_that_leads_nowhere_ends_in_bounded_time() {
    let (place, link, listen) = dead_relay(210);
    let args = ["publish", "doc", "--local-network", "--data-dir", "c", "--bootstrap", &link];
    // A port that refuses.
    let ran = place.run("publish", &args, PATIENCE);
    fails(&ran, 4, "");
    assert!(ran.stderr.contains("Nothing was sent."), "{}", ran.stderr);
    // A port that accepts and says nothing.
    let _silent = TcpListener::bind(listen).unwrap();
    let ran = place.run("publish", &args, PATIENCE);
    fails(&ran, 4, "");
}
