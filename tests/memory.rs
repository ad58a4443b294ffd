//! What a relay holds when crowds of links ask and do not read, or begin and do not finish (T35): a real relay, and real links from
//! many address prefixes.
//!
//! `LINKS=8192 MEMORY=256 cargo test --release --test memory` tries more links, on a budget of so many MiB.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test says what failed by failing, prints figures for people, and waits for real programs by the real clock"
)]
#![allow(dead_code, reason = "what other tests need of the programs they start")]

mod procs;

use onionskin::base::NetworkId;
use onionskin::node::env::Clock;
use onionskin::node::handles;
use onionskin::node::tcp::TlsTcp;
use onionskin::node::tls::Tls;
use onionskin::node::transport::Pipe;
use onionskin::node::transport::Transport;
use onionskin::proto::link_text::LinkText;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::CELL;
use onionskin::wire::cell::Command;
use onionskin::wire::cell::HEADER;
use onionskin::wire::cell::Header;
use onionskin::wire::codec::Writer;
use onionskin::wire::hello::Hello;
use onionskin::wire::overlay::Message;
use procs::Network;
use std::future::poll_fn;
use std::io::IoSlice;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Relays beside the one that is attacked.
const OTHERS: usize = 8;
const PREFIXES: usize = 64;
/// Questions that a link asks at once. Their answers are several times what it may have waiting.
const QUESTIONS: u32 = 500;

fn cell(command: Command, body: &[u8; BODY]) -> Vec<u8> {
    let mut cell = [0; CELL];
    Header { circuit: None, command }.write(&mut cell);
    cell[HEADER..].copy_from_slice(body);
    cell.to_vec()
}

/// A fragment of an overlay message: `flags u8 (1 first, 2 last) | length u16 | [total u32, first only] | data`.
fn fragment(flags: u8, total: usize, data: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    let first = flags & 1 == 1;
    w.u8(flags).u16((data.len() + if first { 4 } else { 0 }) as u16);
    if first {
        w.u32(total as u32);
    }
    let mut body = [0; BODY];
    let head = w.as_slice();
    body[..head.len()].copy_from_slice(head);
    body[head.len()..head.len() + data.len()].copy_from_slice(data);
    cell(Command::Overlay, &body)
}

/// Asks for lists of relays, and reads none of them.
fn asks() -> Vec<u8> {
    (0..QUESTIONS)
        .flat_map(|id| {
            let bytes = Message::List { id, since: None }.encode().unwrap();
            fragment(3, bytes.len(), &bytes)
        })
        .collect()
}

/// The longest message there is, but for its end.
fn begins() -> Vec<u8> {
    let (total, data) = (256 * 1024, BODY - 7);
    (0..total / data - 1).flat_map(|n| fragment(u8::from(n == 0), total, &[7; BODY][..data])).collect()
}

async fn link(network: NetworkId, to: SocketAddr, from: Ipv4Addr, says: Vec<u8>) -> Option<Box<dyn Pipe>> {
    let transport = TlsTcp::new(Arc::new(Tls::new(Clock::start()).unwrap()));
    let dialled = timeout(Duration::from_secs(10), transport.dial(to, Some(IpAddr::V4(from)))).await.ok()?;
    let mut pipe = dialled.ok()?;
    let mut all = cell(Command::Hello, &Hello::new(network, None).write());
    all.extend(says);
    pipe.seal(&[IoSlice::new(&all)]).ok()?;
    // Whoever is closed meanwhile has lost nothing that counts here.
    let _ = timeout(Duration::from_secs(20), poll_fn(|cx| pipe.poll_flush(cx))).await;
    Some(pipe)
}

#[test]
fn crowds_of_links_that_do_not_read_or_do_not_finish_stay_within_the_budget() {
    let number = |name: &str, usual: usize| std::env::var(name).map_or(usual, |n| n.parse().unwrap());
    let (links, budget) = (number("LINKS", 1024), number("MEMORY", 128));
    handles::raise();
    let network = Network::start(OTHERS, "100MiB");
    let listen = procs::free(procs::ip(OTHERS)).to_string();
    let memory = format!("{budget}MiB");
    let mut args =
        vec!["relay", "--local-network", "--data-dir", "target", "--listen", &listen, "--quota", "100MiB", "--memory", &memory];
    for other in &network.relays[..2] {
        args.extend(["--bootstrap", &other.link]);
    }
    let mut target = network.place.start("target", &args);
    let text = target.first_line();
    network.settle(&(0..OTHERS).collect::<Vec<_>>(), OTHERS + 1);
    let mib = |line: &str| procs::memory(target.pid(), line).unwrap() as f64 / 1024.0;
    let idle = mib("VmRSS");

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let of = LinkText::decode(&text).unwrap();
    let (mut held, to) = (Vec::new(), listen.parse().unwrap());
    let says = [asks(), begins(), Vec::new()];
    for round in 0..links / PREFIXES {
        let begun: Vec<_> = (0..PREFIXES)
            .map(|prefix| {
                let from = Ipv4Addr::new(127, 100 + (prefix / 16) as u8, (prefix % 16) as u8, 1 + (round % 250) as u8);
                runtime.spawn(link(of.network, to, from, says[round % says.len()].clone()))
            })
            .collect();
        held.extend(begun.into_iter().filter_map(|link| runtime.block_on(link).unwrap()));
    }
    let full = mib("VmHWM");

    // An honest person whose only way in is this relay.
    network.place.write("plain", &procs::document(300_000, 7));
    let client = |args: &[&str]| {
        let all = [args, &["--data-dir", "client", "--local-network", "--bootstrap", &text]].concat();
        network.place.run("client", &all, Duration::from_secs(60)).good()
    };
    let key = client(&["publish", "plain"]).text();
    client(&["get", key.trim(), "-o", "back"]);
    assert!(network.place.read("back") == network.place.read("plain"));
    let most = mib("VmHWM");
    println!(
        "{links} links from {PREFIXES} prefixes, {} stood at first; {idle:.0} MiB idle, {full:.0} at most when all had come, {most:.0} in \
         all; the budget is {budget} MiB",
        held.len()
    );
    assert!(most <= budget as f64 * 1.05, "{most:.0} MiB of {budget}");
}
