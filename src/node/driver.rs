//! The loop around a core: one input in, all outputs out, then sleep until something comes or the core's time is due.
//!
//! It never waits for anything but its own queue and the clock: links, jobs, files and people get what is theirs without delay, or
//! not at all, each by its rule of overflow. A panic in the core ends the node: its queue and all event channels close, its links
//! say goodbye.

use crate::base::LinkId;
use crate::base::OpId;
use crate::base::Time;
use crate::base::limits;
use crate::node::disk::Files;
use crate::node::disk::HeldShares;
use crate::node::env;
use crate::node::env::Clock;
use crate::node::env::OsChance;
use crate::node::handles;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::node::link;
use crate::node::link::Farewell;
use crate::node::link::Order;
use crate::node::pool::Pool;
use crate::node::transport::Boxed;
use crate::node::transport::Pipe;
use crate::node::transport::Transport;
use crate::proto::Core;
use crate::proto::Input;
use crate::proto::Output;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::NodeEvent;
use crate::proto::event::Status;
use crate::proto::event::StoreStatus;
use crate::proto::job::Shares;
use crate::store::Stats;
use crate::wire::cell::CELL;
use bytes::BytesMut;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Inputs that are handled before other tasks of this thread get their turn.
const BATCH: usize = 32;
/// Events that wait for the one who asked. Progress is left out when less than a quarter is free; anything else that finds no room
/// ends the operation, for then nobody listens.
pub const OP_EVENTS: usize = 256;
/// Ticks in a row that leave the core's time due: more is a bug that would burn a core, so it is told, with the culprit's name.
const SPIN_TICKS: u32 = 1000;
/// How long a core that spins must rest between ticks.
const SPIN_REST: Duration = Duration::from_millis(5);
/// How often it is looked whether the one who asked still listens.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long links may take to say goodbye at the end; each has a second.
const GOODBYE: Duration = Duration::from_millis(1500);

/// What a driver works with.
pub struct Driver {
    /// The mind.
    pub core: Core,
    /// Time.
    pub clock: Clock,
    /// Ways out.
    pub transport: Arc<dyn Transport>,
    /// The address to dial from, if it matters.
    pub from: Option<IpAddr>,
    /// File handles for dialled links. Overflow: the dial fails.
    pub dials: Arc<Semaphore>,
    /// The queue's other end, for those who are to answer.
    pub inbox: Inbox,
    /// Threads for jobs.
    pub pool: Pool,
    /// The shares that jobs serve.
    pub shares: Option<Arc<HeldShares>>,
    /// State files; without them nothing is kept.
    pub files: Option<Arc<Files>>,
    /// Whom to tell of the node.
    pub events: mpsc::Sender<NodeEvent>,
    /// This relay's bootstrap link, for its status.
    pub link_text: Option<String>,
}

/// The loop's own state.
struct Loop {
    driver: Driver,
    rng: OsChance,
    links: BTreeMap<LinkId, Link>,
    ops: BTreeMap<OpId, mpsc::Sender<Event>>,
    /// What outputs caused, to be handled once they are all out.
    later: VecDeque<Input>,
    swept: Time,
    spins: u32,
}

struct Link {
    orders: mpsc::UnboundedSender<Order>,
    /// Cells handed over and not yet with the system.
    out: usize,
}

/// Runs a core until told to stop. Returns when its links have said goodbye.
pub async fn run(driver: Driver, mut arrivals: mpsc::UnboundedReceiver<Arrival>) {
    let swept = driver.clock.now();
    let mut this =
        Loop { driver, rng: env::os_rng(), links: BTreeMap::new(), ops: BTreeMap::new(), later: VecDeque::new(), swept, spins: 0 };
    let mut batch = Vec::with_capacity(BATCH);
    let timer = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(timer);
    let mut armed = None;
    this.drain();
    loop {
        let due = this.due();
        if due != armed {
            armed = due;
            if let Some(at) = due {
                timer.as_mut().reset(this.driver.clock.instant(at));
            }
        }
        tokio::select! {
            biased;
            _ = arrivals.recv_many(&mut batch, BATCH) => {
                let full = batch.len() == BATCH;
                for arrival in batch.drain(..) {
                    if !this.arrived(arrival) {
                        this.goodbye(&mut arrivals).await;
                        return;
                    }
                }
                if full {
                    // The tasks that were woken wait behind this one on its thread.
                    tokio::task::yield_now().await;
                }
            }
            () = &mut timer, if due.is_some() => {
                armed = None;
                this.tick();
            }
        }
    }
}

impl Loop {
    /// Handles one arrival. Says whether the node goes on.
    fn arrived(&mut self, arrival: Arrival) -> bool {
        self.spins = 0;
        match arrival {
            Arrival::Input(input) => self.input(input),
            Arrival::Cells(input, room) => {
                self.handle(input);
                drop(room);
            }
            Arrival::Up { link, remote, exporter, orders } => {
                let dialed = orders.is_none();
                if let Some(orders) = orders {
                    self.links.insert(link, Link { orders, out: 0 });
                }
                // A link that was closed while it was dialled is not up any more.
                if self.links.contains_key(&link) {
                    self.handle(Input::LinkUp { link, remote, exporter, dialed });
                }
            }
            Arrival::Submit(op, command, events) => {
                self.ops.insert(op, events);
                self.handle(Input::Command(op, command));
            }
            Arrival::Settings(quota, settings) => {
                if let (Some(bytes), Some(shares)) = (quota, &self.driver.shares) {
                    shares.set_quota(bytes);
                }
                self.handle(Input::Settings(settings));
            }
            Arrival::Stop => return false,
        }
        true
    }

    fn input(&mut self, input: Input) {
        match &input {
            Input::Sent { link, cells } => match self.links.get_mut(link) {
                Some(link) => link.out = link.out.saturating_sub(*cells),
                None => return,
            },
            Input::LinkDown { link } => {
                self.links.remove(link);
            }
            Input::LinkUp { .. }
            | Input::Cells { .. }
            | Input::Done { .. }
            | Input::Command(..)
            | Input::Settings(_)
            | Input::Tick => {}
        }
        self.handle(input);
    }

    /// One mutation of the core, then all that it wants.
    fn handle(&mut self, input: Input) {
        self.driver.core.handle(&mut env::env(&self.driver.clock, &mut self.rng), input);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            while let Some(output) = self.driver.core.poll_output() {
                self.output(output);
            }
            let Some(input) = self.later.pop_front() else { return };
            self.driver.core.handle(&mut env::env(&self.driver.clock, &mut self.rng), input);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Send { link, cells } => self.send(link, cells),
            Output::Dial { link, addr } => self.dial(link, addr),
            Output::Close { link } => self.close(link),
            Output::Job { job, work } => {
                let driver = &self.driver;
                let shares = driver.shares.clone().map(|shares| shares as Arc<dyn Shares>);
                driver.pool.run(job, work, shares, &driver.inbox);
            }
            Output::Event(op, event) => self.event(op, event),
            Output::Node(event) => self.node_event(event),
            Output::Save { name, bytes } => {
                if let Some(files) = &self.driver.files {
                    files.save(name, bytes);
                }
            }
        }
    }

    fn send(&mut self, id: LinkId, cells: BytesMut) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.out += cells.len() / CELL;
        // The core closes a link at this bound itself; a batch of its own that it was filling may come on top.
        if link.out > limits::LINK_IN_FLIGHT + 2 * limits::LINK_CONTROL_MAX {
            debug_assert!(false, "the core sends more than it may");
            tracing::error!("a core sent more than a link may hold: this is a bug, please report it");
            self.close(id);
            return;
        }
        let _ = link.orders.send(Order::Send(cells));
    }

    /// The link stays known until its task has said `LinkDown`.
    fn close(&self, link: LinkId) {
        if let Some(link) = self.links.get(&link) {
            let _ = link.orders.send(Order::Close);
        }
    }

    fn dial(&mut self, link: LinkId, addr: SocketAddr) {
        let (orders, queue) = mpsc::unbounded_channel();
        self.links.insert(link, Link { orders, out: 0 });
        let farewell = Farewell { link, inbox: self.driver.inbox.clone() };
        let Ok(handle) = Arc::clone(&self.driver.dials).try_acquire_owned() else {
            tracing::debug!("a dial failed: no file handle is left for it");
            return;
        };
        let dialling = self.driver.transport.dial(addr, self.driver.from);
        tokio::spawn(async move {
            dialled(farewell, dialling, queue).await;
            drop(handle);
        });
    }

    fn event(&mut self, op: OpId, mut event: Event) {
        if let Event::Status(status) = &mut event {
            status.link.clone_from(&self.driver.link_text);
            self.of_the_system(status);
        }
        let last =
            matches!(event, Event::Fetched(_) | Event::Published { .. } | Event::Checked(_) | Event::Status(_) | Event::Failed(_));
        let Some(asker) = self.ops.get(&op) else { return };
        if matches!(event, Event::Progress(_)) && asker.capacity() < OP_EVENTS / 4 {
            return;
        }
        let gone = match asker.try_send(event) {
            Ok(()) => false,
            Err(TrySendError::Closed(_)) => true,
            Err(TrySendError::Full(_)) => {
                // No louder: a person's own doing is nobody's business.
                tracing::debug!("an operation ends: nobody takes its events");
                true
            }
        };
        if gone || last {
            self.ops.remove(&op);
        }
        if gone && !last {
            self.later.push_back(Input::Command(op, Command::Cancel));
        }
    }

    /// What the core does not know of the node.
    fn of_the_system(&self, status: &mut Status) {
        let Driver { shares, files, .. } = &self.driver;
        if let Some(shares) = shares {
            let Stats { shares: held, bytes, quota, damaged } = shares.stats();
            status.store = Some(StoreStatus { shares: held, bytes, quota, damaged });
            status.warnings.extend(shares.over_quota());
        }
        let of_files = files.as_ref().and_then(|files| files.fault());
        status.fault = shares.as_ref().and_then(|shares| shares.fault()).or(of_files);
        status.warnings.extend(status.fault.iter().map(|fault| format!("the disk failed: {fault}")));
        status.handles = handles::now();
    }

    fn node_event(&self, event: NodeEvent) {
        // Whoever does not read them does not want them.
        let _ = self.driver.events.try_send(event);
    }

    fn tick(&mut self) {
        let now = self.driver.clock.now();
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.sweep();
        }
        self.handle(Input::Tick);
        let Some((at, reason)) = self.driver.core.timeout().filter(|(at, _)| *at <= now) else {
            self.spins = 0;
            return;
        };
        self.spins = self.spins.saturating_add(1);
        if self.spins == SPIN_TICKS {
            tracing::error!(
                reason,
                late_us = now.since(at).as_micros(),
                "a core wants one tick after the other: this is a bug, please report it"
            );
        }
    }

    /// Ends operations whose asker has gone.
    fn sweep(&mut self) {
        let gone: Vec<OpId> = self.ops.iter().filter(|(_, asker)| asker.is_closed()).map(|(op, _)| *op).collect();
        for op in gone {
            self.ops.remove(&op);
            self.handle(Input::Command(op, Command::Cancel));
        }
    }

    /// When to tick: the core's time, or the next sweep while anyone waits for anything.
    fn due(&self) -> Option<Time> {
        let core = self.driver.core.timeout().map(|(at, _)| at);
        // A core that spins is slowed down, so that it stays an error in the log and no burnt processor.
        let core = if self.spins < SPIN_TICKS { core } else { core.max(Some(self.driver.clock.now() + SPIN_REST)) };
        let sweep = (!self.ops.is_empty()).then(|| self.swept + SWEEP_EVERY);
        core.into_iter().chain(sweep).min()
    }

    /// Closes all links and waits until they are down, but not long.
    async fn goodbye(mut self, arrivals: &mut mpsc::UnboundedReceiver<Arrival>) {
        for link in self.links.keys() {
            self.close(*link);
        }
        let down = async {
            while !self.links.is_empty() {
                match arrivals.recv().await {
                    Some(Arrival::Input(Input::LinkDown { link })) => {
                        self.links.remove(&link);
                    }
                    // A link that comes up now loses its orders, which closes it.
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(GOODBYE, down).await;
    }
}

/// Dials, then runs the link. Dial and handshake have one deadline.
async fn dialled(farewell: Farewell, dialling: Boxed<io::Result<Box<dyn Pipe>>>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let pipe = tokio::select! {
        dialled = tokio::time::timeout(limits::HANDSHAKE_DEADLINE, dialling) => match dialled {
            Ok(Ok(pipe)) => pipe,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a dial failed");
                return;
            }
            Err(_) => return,
        },
        // Nothing is sent before `LinkUp`, so any order is the one to give up.
        _ = orders.recv() => return,
    };
    let up = Arrival::Up { link: farewell.link, remote: pipe.remote(), exporter: pipe.exporter(), orders: None };
    farewell.inbox.push(up);
    link::run(&farewell, pipe, &mut orders, None).await;
}
