//! What one link of full cells costs, both ends together, against raw TCP with 64 KiB writes in the same run.
//!
//! `cargo bench --bench transport [-- MIB]`. Machine noise hits both sides alike, so the ratios are the figures to compare.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints what it measured and stops when it cannot")]

use bytes::BytesMut;
use onionskin::base::{JobId, LinkId, NetworkId, Wall, limits};
use onionskin::crypto::keys::IdentityKey;
use onionskin::node::doors::{Doors, accept};
use onionskin::node::env::{Clock, os_rng, settle_allocator};
use onionskin::node::inbox::{Arrival, Inbox};
use onionskin::node::link::{Farewell, Order, run};
use onionskin::node::pool::Pool;
use onionskin::node::tcp::TlsTcp;
use onionskin::node::tls::Tls;
use onionskin::node::transport::Transport;
use onionskin::proto::Input;
use onionskin::proto::job::Job;
use onionskin::wire::cell::CELL;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;

/// Cells of one `Send`, as a core that routes batches makes them.
const BATCH: usize = 32;

/// CPU seconds of this process so far, threads that have ended included; in hundredths.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets, user and system time are the 12th and 13th word (proc(5)).
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    words.skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Figure {
    wall: f64,
    cpu: f64,
    bytes: f64,
}

impl Figure {
    fn rate(&self) -> f64 {
        self.bytes / self.wall / 1e9
    }

    fn cost(&self) -> f64 {
        self.cpu / self.bytes * 1e9
    }

    fn print(&self, what: &str) {
        println!(
            "{what:<28} {:6.2} GB/s   {:5.2} CPU s/GB   {:5.2} CPU ms/MiB",
            self.rate(),
            self.cost(),
            self.cost() * 1048.576 / 1e3
        );
    }
}

async fn raw_tcp(total: usize) -> Figure {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let clock = Clock::start();
    let (start, before) = (clock.now(), cpu());
    let writer = tokio::spawn(async move {
        let mut tcp = tokio::net::TcpStream::connect(to).await.unwrap();
        let piece = vec![7u8; 64 * 1024];
        for _ in 0..total / piece.len() {
            tcp.write_all(&piece).await.unwrap();
        }
    });
    let (mut tcp, _) = listener.accept().await.unwrap();
    let reader = tokio::spawn(async move {
        let mut piece = vec![0u8; 64 * 1024];
        let mut bytes = 0;
        loop {
            match tcp.read(&mut piece).await.unwrap() {
                0 => return bytes,
                n => bytes += n,
            }
        }
    });
    writer.await.unwrap();
    let bytes = reader.await.unwrap();
    Figure { wall: clock.now().since(start).as_secs_f64(), cpu: cpu() - before, bytes: bytes as f64 }
}

/// The sending end of a link as a core would behave: at most `LINK_IN_FLIGHT` cells out, in batches.
async fn feed(mut arrivals: UnboundedReceiver<Arrival>, orders: mpsc::UnboundedSender<Order>, cells: usize) {
    let piece = vec![7u8; BATCH * CELL];
    let mut arena = BytesMut::new();
    let (mut begun, mut out) = (0, 0);
    while begun < cells || out > 0 {
        while begun < cells && out + BATCH <= limits::LINK_IN_FLIGHT {
            arena.extend_from_slice(&piece);
            let _ = orders.send(Order::Send(arena.split()));
            begun += BATCH;
            out += BATCH;
        }
        match arrivals.recv().await {
            Some(Arrival::Input(Input::Sent { cells, .. })) => out -= cells,
            Some(_) => {}
            None => return,
        }
    }
}

async fn link(total: usize) -> Figure {
    let cells = total / CELL / BATCH * BATCH;
    let transport = TlsTcp::new(Arc::new(Tls::new(Clock::start()).unwrap()));
    let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let to = listener.local().unwrap();
    let (here, mut arrivals) = Inbox::new();
    let acceptor = tokio::spawn(accept(listener, Doors::new(), tokio::runtime::Handle::current(), here));

    let pipe = transport.dial(to, None).await.unwrap();
    let (there, sent) = Inbox::new();
    let (tell, mut orders) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let farewell = Farewell { link: LinkId(1), inbox: there };
        run(&farewell, pipe, &mut orders, None).await;
    });
    let clock = Clock::start();
    let (start, before) = (clock.now(), cpu());
    let feeder = tokio::spawn(feed(sent, tell, cells));
    let mut left = cells;
    let mut keep = None;
    let mut batch = Vec::new();
    while left > 0 {
        arrivals.recv_many(&mut batch, 32).await;
        for arrival in batch.drain(..) {
            match arrival {
                Arrival::Cells(Input::Cells { cells, .. }, _room) => left -= cells.len() / CELL,
                Arrival::Up { orders, .. } => keep = orders,
                Arrival::Input(_) | Arrival::Cells(..) | Arrival::Submit(..) | Arrival::Settings(..) | Arrival::Stop => {}
            }
        }
    }
    let figure = Figure { wall: clock.now().since(start).as_secs_f64(), cpu: cpu() - before, bytes: (cells * CELL) as f64 };
    feeder.await.unwrap();
    drop(keep);
    acceptor.abort();
    figure
}

/// What it costs to have a job done, beside the job itself: this crate's pool, against the runtime's blocking threads. `window`:
/// jobs that are out at once. Microseconds of CPU and of wall time for each job.
async fn jobs(pool: Option<Pool>, window: usize) -> (f64, f64) {
    const JOBS: usize = 20_000;
    let identity = Arc::new(IdentityKey::generate(&mut os_rng()));
    let work = || Job::LinkProof {
        identity: Arc::clone(&identity),
        network: NetworkId([1; 32]),
        exporter: [2; 32],
        dialer: true,
        clock: Wall(0),
    };
    let (inbox, mut results) = Inbox::new();
    let clock = Clock::start();
    let (start, before) = (clock.now(), cpu());
    for n in 0..JOBS + window {
        if n >= window {
            results.recv().await;
        }
        if n < JOBS {
            let job = JobId(n as u64);
            match &pool {
                Some(pool) => pool.run(job, work(), None, &inbox),
                None => {
                    let (work, inbox) = (work(), inbox.clone());
                    tokio::task::spawn_blocking(move || {
                        let result = work.run(&mut os_rng(), None);
                        inbox.push(Arrival::Input(Input::Done { job, result }));
                    });
                }
            }
        }
    }
    let each = 1e6 / JOBS as f64;
    ((cpu() - before) * each, clock.now().since(start).as_secs_f64() * each)
}

fn main() {
    // `cargo bench` hands over flags of its own.
    let mib = std::env::args().skip(1).find_map(|a| a.parse::<usize>().ok()).unwrap_or(1024);
    settle_allocator();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for window in [1, 64] {
            let (blocking, blocking_wall) = tokio::spawn(jobs(None, window)).await.unwrap();
            let (ours, ours_wall) = tokio::spawn(jobs(Some(Pool::new(None).unwrap()), window)).await.unwrap();
            println!("a signature as a job, {window:2} at once: pool {ours:5.1} us CPU, {ours_wall:5.1} us   spawn_blocking {blocking:5.1} us CPU, {blocking_wall:5.1} us");
        }
        for round in 0..3 {
            let raw = tokio::spawn(raw_tcp(mib << 20)).await.unwrap();
            let tls = tokio::spawn(link(mib << 20)).await.unwrap();
            raw.print("raw TCP, 64 KiB writes");
            tls.print("link of cells over TLS 1.3");
            println!("round {round}: link / raw TCP   CPU {:.2}   speed {:.2}", tls.cost() / raw.cost(), tls.rate() / raw.rate());
        }
    });
}
