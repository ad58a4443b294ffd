//! A whole node's mind: composes the machines and routes inputs.
//!
//! The overlay plane (`overlay`: who exists) and the user plane (`requests`, `ops`: what this node's user wants) share the links
//! and the view, and nothing else: no cache, no queue, no timer (T34). What the overlay of a client asks through circuits goes over
//! circuits of its own. Circuits for others (`hops`, `host`) know of neither.

pub mod directories;
mod gate;
mod news;

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Rarely;
use crate::base::Time;
use crate::base::Wall;
use crate::crypto::keys::IdentityKey;
use crate::crypto::secret::Secret;
use crate::proto::Input;
use crate::proto::Output;
use crate::proto::Settings;
use crate::proto::circuit::hop::Hops;
use crate::proto::core::news::Told;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::host::Acceptance;
use crate::proto::host::Host;
use crate::proto::job::JobResult;
use crate::proto::link::LinkEvent;
use crate::proto::link::Links;
use crate::proto::link::Owner;
use crate::proto::link::Waiter;
use crate::proto::memory::Memory;
use crate::proto::ops::Ops;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::out::Out;
use crate::proto::overlay;
use crate::proto::overlay::Overlay;
use crate::proto::path::PathPolicy;
use crate::proto::renewal;
use crate::proto::renewal::Generation;
use crate::proto::renewal::NodeKeys;
use crate::proto::renewal::Renewal;
use crate::proto::requests;
use crate::proto::requests::RequestEvent;
use crate::proto::requests::Requests;
use crate::wire::cell;
use crate::wire::cell::CELL;
use crate::wire::codec::DecodeError;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Name of the saved state of guards and layers.
const SAVED_PATHS: &str = "paths";

/// What a core is told at its start.
#[derive(Debug)]
pub struct CoreConfig {
    /// The network to be part of.
    pub network: NetworkId,
    /// Relay or client.
    pub role: Role,
    /// Relays to start from.
    pub bootstrap: Vec<(NodeId, SocketAddr)>,
    /// Accept loopback and private addresses, and lift the waiting time of hosts.
    pub local_network: bool,
    /// What earlier runs saved, by name ([`Output::Save`]).
    pub saved: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// What a node is to others.
#[derive(Debug)]
pub enum Role {
    /// No descriptor, no identity, holds nothing.
    Client,
    /// Reachable; carries, and hosts when `hosts` is set and its address allows.
    Relay {
        /// Ed25519 seed of the identity.
        identity: Secret<32>,
        /// Where others reach it; IPv4 first.
        advertise: Vec<SocketAddr>,
        /// Other relays of the same people.
        family: Vec<NodeId>,
        /// Whether it holds shares.
        hosts: bool,
        /// What it may hold for others.
        memory: Memory,
    },
}

/// A whole node's mind. See the machine contract in [`crate::proto`].
#[derive(Debug)]
pub struct Core {
    out: Out,
    links: Links,
    hops: Hops,
    host: Host,
    keys: Option<Renewal>,
    /// Which chunks the host takes; made anew when it is needed after the view changed.
    acceptance: Option<Arc<Acceptance>>,
    overlay: Overlay,
    requests: Requests,
    ops: Ops,
    ready: bool,
    /// Whether that was told: of a relay, once others reach it too.
    told_ready: bool,
    told_unreached: bool,
    announced: bool,
    started: Time,
    /// Both clocks, as they were at the last input.
    clocks: (Time, Wall),
    network: NetworkId,
    identity: Option<Arc<IdentityKey>>,
    failed_clock: bool,
    /// When the view was last known well enough, or the start.
    since_ready: Time,
    told_not_ready: bool,
    directories: Vec<NodeId>,
    /// How often each kind of thing was told: strangers decide how often they happen.
    told: BTreeMap<Told, Rarely>,
    /// What is kept of them for the next start.
    known: Vec<overlay::Peer>,
}

/// Seconds by which the wall clock runs ahead when a machine slept: more than what a clock is corrected by in passing, and less than
/// any sleep that breaks links.
const WAKE_SECS: u64 = 5;
/// Rounds of mutual notice in one `handle`; three are usual.
const ROUNDS_MAX: usize = 32;

/// Whether a core can read what an earlier one had saved under this name. What it cannot, it can do without: it is made anew.
///
/// # Errors
/// Damaged, or written by a newer version.
pub fn saved_is_whole(network: &NetworkId, name: &str, bytes: &[u8]) -> Result<(), DecodeError> {
    match name {
        renewal::SAVED => NodeKeys::decode(bytes).map(drop),
        SAVED_PATHS => PathPolicy::decode(bytes, None).map(drop),
        directories::SAVED => directories::decode(bytes).map(drop),
        _ => overlay::whole(network, name, bytes),
    }
}

impl Core {
    /// A node that has just been started.
    ///
    /// # Errors
    /// Keys cannot be made (the cryptographic library refuses); or a saved state was written by a newer version.
    pub fn new(config: CoreConfig, env: &mut Env<'_>) -> Result<Self, Failure> {
        let (mut out, mut identity, mut keys, mut profile) = (Out::default(), None, None, None);
        let mut memory = Memory::default();
        if let Role::Relay { identity: seed, advertise, family, hosts, memory: budget } = &config.role {
            memory = *budget;
            let me = Arc::new(IdentityKey::from_seed(seed));
            let saved = config.saved.get(renewal::SAVED).map(|bytes| bytes.as_slice());
            let (ours, changed) = Renewal::start(saved, config.network, me.node_id(), *hosts, env)?;
            if changed {
                ours.save(&mut out);
            }
            profile = Some(overlay::Profile::of(ours.keys(), advertise.clone(), family.clone()));
            (identity, keys) = (Some(me), Some(ours));
        }
        let spare = if identity.is_some() { requests::SPARE_OF_RELAY } else { requests::SPARE_OF_CLIENT };
        let me = keys.as_ref().map(|k: &Renewal| k.keys().node);
        let mut policy = match config.saved.get(SAVED_PATHS) {
            Some(bytes) => PathPolicy::decode(bytes, me).map_err(|_| Failure::newer_state())?,
            None => PathPolicy::new(me),
        };
        policy.recall(env);
        let bootstrap = config.bootstrap.iter().map(|(node, addr)| overlay::Peer { addr: *addr, node: *node }).collect();
        // No more than a help: one that cannot be read is made anew.
        let known = config.saved.get(directories::SAVED).and_then(|bytes| directories::decode(bytes).ok()).unwrap_or_default();
        let saved = overlay::SAVED.into_iter().filter_map(|name| Some((name, config.saved.get(name)?.to_vec()))).collect();
        let setting = overlay::Config {
            local: config.local_network,
            profile,
            bootstrap,
            known: known.clone(),
            guards: policy.kept_guards(env.wall).collect(),
            network: config.network,
            saved,
        };
        let overlay = Overlay::new(env, setting);
        Ok(Self {
            out,
            links: Links::new(config.network, identity.clone(), memory),
            hops: Hops::new(memory),
            host: Host::new(memory),
            keys,
            acceptance: None,
            overlay,
            requests: Requests::new(config.network, policy, spare),
            ops: Ops::default(),
            ready: false,
            told_ready: false,
            told_unreached: false,
            announced: false,
            started: env.now,
            clocks: (env.now, env.wall),
            network: config.network,
            identity,
            failed_clock: false,
            since_ready: env.now,
            told_not_ready: false,
            told: BTreeMap::new(),
            directories: Vec::new(),
            known,
        })
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, env: &mut Env<'_>, input: Input) {
        if self.woke(env) {
            self.with(env, |core, ctx| core.links.probe_dialled(ctx, true));
        }
        match input {
            Input::LinkUp { link, remote, exporter, dialed } => self.with(env, |core, ctx| {
                core.links.up(ctx, link, remote, exporter, dialed);
            }),
            Input::LinkDown { link } => self.with(env, |core, ctx| core.links.down(ctx, link)),
            Input::Cells { link, cells } => self.with(env, |core, ctx| {
                if let Some(cells) = core.links.batch(ctx, link, cells) {
                    core.cells(ctx, link, cells);
                }
            }),
            Input::Sent { link, cells } => {
                // The usual case at a relay: nothing waited for the room, so nobody has anything to take note of. What is due has its timer.
                let more = self.with(env, |core, ctx| core.links.sent(ctx, link, cells));
                if !more && self.overlay.is_relay() {
                    return;
                }
            }
            Input::Done { job, result } => {
                if let Some(whom) = self.out.take_job(job) {
                    self.with(env, |core, ctx| core.done(ctx, whom, result));
                }
            }
            Input::Command(op, Command::Status) => {
                let status = self.status(env.now, env.wall);
                self.out.push(Output::Event(op, Event::Status(status)));
            }
            Input::Command(op, command) => self.with(env, |core, ctx| {
                core.ops.command(ctx, &mut core.requests, &mut core.links, core.overlay.view(), op, command);
            }),
            Input::Settings(settings) => self.with(env, |core, ctx| core.settings(ctx, settings)),
            Input::Tick => {}
        }
        self.with(env, Self::settle);
    }

    /// What is to be done, one at a time, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.queue.pop_front()
    }

    /// When a `Tick` is wanted, and which part wants it.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        let keys = self.keys.as_ref().map(Renewal::timeout);
        let own = [self.requests.timeout(), self.ops.timeout(), self.overlay.timeout()];
        let others = [self.links.timeout(), self.hops.timeout(), self.host.timeout(), keys];
        own.into_iter().chain(others).flatten().min()
    }

    /// Usable relays in the view.
    pub fn relays_known(&self) -> usize {
        self.overlay.view().usable().len()
    }

    /// What it knows of the network. For tests and the simulator.
    #[doc(hidden)]
    pub const fn view(&self) -> &overlay::view::View {
        self.overlay.view()
    }

    /// Whether paths may be chosen.
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Checks what must always hold. For tests and the simulator.
    #[doc(hidden)]
    pub fn check(&self) {
        self.links.check();
        self.overlay.check();
        self.requests.check();
    }

    /// Whether this machine slept since the last input: then the wall clock went on and the other did not. A wall clock that was set
    /// looks the same, and asking whoever we have links to does no harm.
    const fn woke(&mut self, env: &Env<'_>) -> bool {
        let (now, wall) = core::mem::replace(&mut self.clocks, (env.now, env.wall));
        env.wall.0.saturating_sub(wall.0) > env.now.since(now).as_secs() + WAKE_SECS
    }

    /// Lends the way out to a step, beside the rest of the core.
    fn with<T>(&mut self, env: &mut Env<'_>, step: impl FnOnce(&mut Self, &mut Ctx<'_, '_>) -> T) -> T {
        let mut out = core::mem::take(&mut self.out);
        let done = step(self, &mut Ctx { env, out: &mut out });
        self.out = out;
        done
    }

    /// The cells of a batch, one by one, in place.
    fn cells(&mut self, ctx: &mut Ctx<'_, '_>, link: LinkId, mut cells: BytesMut) {
        let (whole, _) = cells.as_chunks_mut::<CELL>();
        for cell in whole {
            self.cell(ctx, link, cell);
        }
    }

    fn cell(&mut self, ctx: &mut Ctx<'_, '_>, link: LinkId, cell: &mut [u8; CELL]) {
        use crate::proto::link::Arrived;
        match self.links.arrived(ctx, link, cell) {
            Arrived::Nothing => {}
            Arrived::Relay { port, owner, early } => {
                let (_, body) = cell::split_mut(cell);
                match owner {
                    Owner::HopPrev(key) => {
                        if let Some(asked) = self.hops.outbound(ctx, &mut self.links, self.overlay.view(), key, early, body) {
                            let answer = self.overlay.answers().bytes(&asked.bytes);
                            self.hops.tell(ctx, &mut self.links, key, asked.stream, answer.as_deref());
                        }
                    }
                    Owner::HopNext(key) => self.hops.inbound(ctx, &mut self.links, key, body),
                    Owner::Leg(key, stream) => self.hops.leg_cell(ctx, &mut self.links, key, stream, port, body),
                    Owner::Host(key) => {
                        if let Some(keys) = &self.keys {
                            let rule = accept_rule(&mut self.acceptance, &self.overlay);
                            self.host.data(ctx, &mut self.links, keys.keys(), &rule, key, body);
                        }
                    }
                    Owner::Origin(key) => self.requests.origins().inbound(ctx, &mut self.links, key, body),
                }
            }
            Arrived::Create { circuit } => match &self.keys {
                Some(keys) if self.hops.may_build(ctx.env.now, &self.links, self.overlay.view(), link) => {
                    self.hops.create(ctx, &mut self.links, keys.keys(), link, circuit, cell::body(cell));
                }
                Some(_) => self.links.refuse(ctx, link, circuit),
                None => self.links.close(ctx, link),
            },
            Arrived::Leg { circuit } => match &self.keys {
                Some(keys) if keys.keys().hosts() => self.host.accept(ctx, &mut self.links, link, circuit),
                _ => self.links.refuse(ctx, link, circuit),
            },
            Arrived::Created { owner } => match owner {
                Owner::HopNext(key) => self.hops.extended(ctx, &mut self.links, key, cell::body(cell)),
                Owner::Origin(key) => self.requests.origins().created(ctx, &mut self.links, key, cell::body(cell)),
                Owner::HopPrev(_) | Owner::Leg(..) | Owner::Host(_) => self.links.close(ctx, link),
            },
            Arrived::Destroyed { owner } => self.gone(ctx, owner),
            Arrived::Overlay(bytes) => self.overlay.handle(ctx.env, overlay::Input::Message { link, bytes }),
        }
    }

    /// A port is closed: what had it ends, or goes on without.
    fn gone(&mut self, ctx: &mut Ctx<'_, '_>, owner: Owner) {
        match owner {
            Owner::HopPrev(key) | Owner::HopNext(key) => self.hops.destroy(ctx, &mut self.links, key),
            Owner::Leg(key, stream) => self.hops.leg_gone(ctx, &mut self.links, key, stream),
            Owner::Host(key) => self.host.end(ctx, &mut self.links, key),
            Owner::Origin(key) => self.requests.origins().end(ctx, &mut self.links, key),
        }
    }

    /// A job's result, to whoever waits.
    fn done(&mut self, ctx: &mut Ctx<'_, '_>, whom: JobFor, result: JobResult) {
        let links = &mut self.links;
        match (whom, result) {
            (JobFor::LinkProof(link), JobResult::LinkProof(proof)) => links.send_hello(ctx, link, Some(*proof)),
            (JobFor::LinkCheck(link), JobResult::LinkCheck(proof)) => links.checked(ctx, link, proof.map(|p| *p)),
            (JobFor::CircuitServer(link, circuit), JobResult::CircuitServer(made)) => {
                self.hops.created(ctx, links, link, circuit, made);
            }
            (JobFor::CircuitStart(key), JobResult::CircuitStart(made)) => {
                self.requests.origins().started(ctx, links, self.overlay.view(), key, made);
            }
            (JobFor::CircuitReply(key), JobResult::CircuitReply(keys)) => {
                self.requests.origins().replied(ctx, links, key, keys);
            }
            (JobFor::Keys, JobResult::MakeKeys(made)) => self.keys_made(ctx, made),
            (JobFor::HostOpen(key), JobResult::HostOpen(opened)) => {
                let rule = accept_rule(&mut self.acceptance, &self.overlay);
                self.host.opened(ctx, links, &rule, key, opened);
            }
            (JobFor::Serve(key, n), JobResult::Serve(answer)) => {
                let rule = accept_rule(&mut self.acceptance, &self.overlay);
                self.host.served(ctx, links, &rule, key, n, answer);
            }
            (JobFor::SessionOpen(key, stream), JobResult::SessionOpen(opened)) => {
                self.requests.origins().session_open(ctx, links, key, stream, opened);
            }
            (JobFor::Overlay(job), JobResult::Overlay(outcome)) => {
                self.overlay.handle(ctx.env, overlay::Input::Done { job, outcome });
            }
            (JobFor::Op(op, tag), result) => {
                self.ops.job_done(ctx, &mut self.requests, links, self.overlay.view(), op, tag, result);
            }
            // A lost job is a failure of whatever waited for it.
            (JobFor::LinkProof(link) | JobFor::LinkCheck(link), _) => links.close(ctx, link),
            (JobFor::CircuitServer(link, circuit), _) => self.hops.created(ctx, links, link, circuit, None),
            (JobFor::CircuitStart(key) | JobFor::CircuitReply(key), _) => self.requests.origins().end(ctx, links, key),
            (JobFor::Keys, _) => self.keys_made(ctx, None),
            (JobFor::HostOpen(key), _) => self.host.opened(ctx, links, &Arc::default(), key, None),
            (JobFor::Serve(key, n), _) => {
                let rule = accept_rule(&mut self.acceptance, &self.overlay);
                self.host.served(ctx, links, &rule, key, n, None);
            }
            (JobFor::SessionOpen(key, stream), _) => {
                self.requests.origins().session_open(ctx, links, key, stream, None);
            }
            (JobFor::Overlay(job), _) => {
                self.overlay.handle(ctx.env, overlay::Input::Done { job, outcome: overlay::JobOutcome::Lost });
            }
        }
    }

    /// Lets every machine take note of what the others did, until nothing is left, and hands the batches to the transport.
    fn settle(&mut self, ctx: &mut Ctx<'_, '_>) {
        self.links.tick(ctx);
        self.hops.tick(ctx, &mut self.links);
        self.host.tick(ctx, &mut self.links);
        self.requests.tick(ctx, &mut self.links);
        if self.keys.as_mut().is_some_and(|keys| keys.tick(ctx)) {
            self.keys_changed(ctx);
        }
        if self.overlay.timeout().is_some_and(|(at, _)| at <= ctx.env.now) {
            self.overlay.handle(ctx.env, overlay::Input::Tick);
        }
        self.links.relieve(ctx);
        // Each round handles what the one before caused; a bound turns a loop of our own making into a later tick.
        for _ in 0..ROUNDS_MAX {
            // Before what it makes others want is fetched: otherwise that would wait for the next input.
            self.gate(ctx);
            let mut quiet = true;
            while let Some(owner) = self.links.poll_doomed() {
                quiet = false;
                self.gone(ctx, owner);
            }
            while let Some(event) = self.links.poll_event() {
                quiet = false;
                self.link_event(ctx, event);
            }
            while let Some(output) = self.overlay.poll_output() {
                quiet = false;
                self.overlay_output(ctx, output);
            }
            if self.ready {
                self.ops.begin(ctx, &mut self.requests, &mut self.links, self.overlay.view());
            }
            self.ops.tick(ctx, &mut self.requests, &mut self.links, self.overlay.view());
            self.requests.drive(ctx, &mut self.links, self.overlay.view(), self.ready);
            while let Some(event) = self.requests.poll_event() {
                quiet = false;
                self.request_event(ctx, event);
            }
            if quiet {
                break;
            }
        }
        if self.requests.policy.take_changed() {
            ctx.out.push(Output::Save { name: SAVED_PATHS, bytes: self.requests.policy.encode().into() });
        }
        self.links.flush(ctx);
    }

    fn keys_made(&mut self, ctx: &mut Ctx<'_, '_>, made: Option<Generation>) {
        if self.keys.as_mut().is_some_and(|keys| keys.made(ctx.env, made)) {
            self.keys_changed(ctx);
        }
    }

    /// Our keys were renewed, or old ones ended: on disk, in memory and in the descriptor.
    fn keys_changed(&mut self, ctx: &mut Ctx<'_, '_>) {
        let Some(renewal) = &self.keys else { return };
        let keys = renewal.keys();
        self.host.renewed(keys);
        renewal.save(ctx.out);
        if let Some(old) = self.overlay.own_profile() {
            let mut profile = old.clone();
            keys.describe(&mut profile);
            if profile != *old {
                self.overlay.handle(ctx.env, overlay::Input::Profile(Box::new(profile)));
            }
        }
    }

    /// The operator changed what this relay says of itself: its descriptor tells it with the next one.
    fn settings(&mut self, ctx: &mut Ctx<'_, '_>, settings: Settings) {
        let Some(mut profile) = self.overlay.own_profile().cloned() else { return };
        let Some(family) = settings.family.filter(|family| *family != profile.family) else { return };
        profile.family = family;
        self.overlay.handle(ctx.env, overlay::Input::Profile(Box::new(profile)));
    }

    fn link_event(&mut self, ctx: &mut Ctx<'_, '_>, event: LinkEvent) {
        match event {
            LinkEvent::Open { link, peer, clock, remote, dialed, early, waiters } => {
                let up = overlay::Input::LinkUp { link, node: peer, remote, dialled: dialed, wall: clock };
                self.overlay.handle(ctx.env, up);
                for waiter in waiters {
                    match waiter {
                        Waiter::Extend(key) => self.hops.link_open(ctx, &mut self.links, key, link),
                        Waiter::Leg(key, stream) => self.hops.leg_open(ctx, &mut self.links, key, stream, link),
                        Waiter::Origin(key) => self.requests.origins().link_open(ctx, &mut self.links, key, link),
                        Waiter::Overlay(token) => {
                            self.overlay.handle(ctx.env, overlay::Input::Dialled { token, link: Some(link) });
                        }
                    }
                }
                for cells in early {
                    self.cells(ctx, link, cells);
                }
            }
            LinkEvent::Late { peer } => {
                self.try_next(ctx, &peer);
            }
            LinkEvent::Down { link, owners, waiters, peer, was_open, silent, began, others } => {
                // Somebody waits for what was dialled alone.
                if let Some(peer) = peer.filter(|_| !was_open && !waiters.is_empty()) {
                    self.overlay.missed(&peer);
                }
                if silent {
                    self.requests.policy.line_lost(ctx.env.now);
                }
                if let Some(peer) = peer.filter(|_| !was_open && waiters.iter().any(|w| matches!(w, Waiter::Origin(_)))) {
                    self.requests.policy.unreached(&peer, began, others, ctx.env.now);
                    self.try_next(ctx, &peer);
                }
                if was_open {
                    self.overlay.handle(ctx.env, overlay::Input::LinkDown { link });
                }
                for owner in owners {
                    self.gone(ctx, owner);
                }
                for waiter in waiters {
                    match waiter {
                        Waiter::Extend(key) => self.hops.destroy(ctx, &mut self.links, key),
                        Waiter::Leg(key, stream) => self.hops.leg_gone(ctx, &mut self.links, key, stream),
                        Waiter::Origin(key) => self.requests.origins().end(ctx, &mut self.links, key),
                        Waiter::Overlay(token) => {
                            self.overlay.handle(ctx.env, overlay::Input::Dialled { token, link: None });
                        }
                    }
                }
            }
        }
    }

    /// A relay that circuits of ours wait for is not reached: the line or that relay? The guard that would serve next tells.
    fn try_next(&mut self, ctx: &mut Ctx<'_, '_>, peer: &NodeId) {
        let view = self.overlay.view();
        let next = self.requests.policy.directories(view, ctx.env).into_iter().find(|node| node != peer);
        if let Some(relay) = next.and_then(|node| view.get(&node)) {
            self.links.try_out(ctx, relay.node(), relay.addr());
        }
    }

    fn request_event(&mut self, ctx: &mut Ctx<'_, '_>, event: RequestEvent) {
        match event {
            RequestEvent::Told { token, from, answer } => {
                self.overlay.handle(ctx.env, overlay::Input::Told { token, from, answer });
            }
            event @ (RequestEvent::Answer { .. } | RequestEvent::Failed { .. }) => {
                self.ops.request_event(ctx, &mut self.requests, &mut self.links, self.overlay.view(), event);
            }
        }
    }
}

/// Which chunks this host takes: as kept, or by the present view.
fn accept_rule(kept: &mut Option<Arc<Acceptance>>, overlay: &Overlay) -> Arc<Acceptance> {
    Arc::clone(kept.get_or_insert_with(|| {
        let Some(me) = overlay.me().and_then(|me| overlay.view().get(&me)) else { return Arc::default() };
        let mut positions = vec![me.position()];
        positions.extend(me.former().iter().map(|(position, _)| *position));
        Arc::new(Acceptance::of(overlay.view(), positions))
    }))
}
