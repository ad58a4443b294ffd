//! Holding shares for others: the host's end of a leg, and the sealed requests that come over it (D12).
//!
//! A host sees the last hop and nobody behind it. Requests of a session arrive in order, are opened and served beside the core, and
//! are answered in order; each answer fills its cells exactly. Address prefixes take turns at the disk, so busy last hops cannot
//! starve the others, under however many names.

use crate::base::Address;
use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::Position;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::crypto::session;
use crate::crypto::session::HostSession;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::PASSING;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::job::Job;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::link::port::Owner;
use crate::proto::memory::Memory;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay::region;
use crate::proto::overlay::view::View;
use crate::proto::renewal::NodeKeys;
use crate::proto::replays::Replays;
use crate::proto::slab::Key;
use crate::proto::slab::Slab;
use crate::proto::timers::TimerTable;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use crate::wire::cell::RELAY_DATA;
use crate::wire::cell::RelayCommand;
use crate::wire::cell::RelayMessage;
use crate::wire::request::SessionType;
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How long a leg may stand without its opening, or with a request begun and not whole. A client sends the opening right behind what
/// begins the leg, and nothing that would stand in a long line. What costs its sender little does not keep a place longer (T35,
/// T36).
const FRESH_MAX: Duration = Duration::from_secs(20);
/// Most openings of sessions that run beside the core or wait for it: a fifth of a second of work for one core. Shared out by
/// [`Crowd`].
const OPENING_MAX: usize = 2048;
/// Requests that run beside the core at once: enough to fill a group commit, few enough to stay fair.
const RUNNING_MAX: usize = 64;
/// Most requests of one leg that wait, run, or have answers here that have not left: twice what an honest client has in flight, or
/// more.
const PER_LEG_MAX: usize = 2 * limits::SESSION_IN_FLIGHT;

/// Which chunks this host takes (D10), as plain numbers that a job can carry.
#[derive(Clone, Debug, Default)]
pub struct Acceptance {
    /// In a network this small everyone holds everything.
    pub everyone: bool,
    /// Our position, and those of the last seven days.
    pub positions: Vec<Position>,
    /// Largest accepted distance, as the top 128 bits of the XOR.
    pub distance: u128,
    /// Most shares of one chunk.
    pub max_per_chunk: usize,
}

impl Acceptance {
    /// The rule of a host at these positions: within four radii of one of them.
    pub fn of(view: &View, positions: Vec<Position>) -> Self {
        let radius = |p: &Position| region::Region::of(view, &p.0).radius();
        let widest = positions.iter().map(radius).max().unwrap_or_default();
        let size = positions.first().map_or(0, |p| region::Region::of(view, &p.0).members().len());
        Self {
            everyone: view.hosts_capped() <= limits::REGION_EVERYONE,
            positions,
            distance: widest.saturating_mul(u128::from(limits::REGION_ACCEPT_RADII)),
            max_per_chunk: region::shares_kept(size),
        }
    }

    /// Whether a chunk's place is near enough to one of ours, at which this share of it is kept.
    pub fn accepts(&self, address: &Address, index: u8) -> bool {
        let near = |p: &&Position| self.everyone || region::distance(&p.0, &address.0) <= self.distance;
        let fits = |p: &Position| region::takes(address, p, self.max_per_chunk) >> index & 1 == 1;
        index < limits::SHARES_TOTAL as u8 && self.positions.iter().filter(near).any(fits)
    }
}

enum Stage {
    /// The first cell opens the session.
    Fresh,
    /// The opening runs beside the core; what comes meanwhile is kept, bounded by the leg's credit.
    Opening,
    Open(HostSession, SessionType),
}

struct Leg {
    link: LinkId,
    seat: Seat,
    port: PortKey,
    stage: Stage,
    input: BytesMut,
    /// The places of cells that arrived and whose credit is due when their request is taken up.
    held: Vec<Seat>,
    next: u16,
    waiting: VecDeque<(u16, Vec<u8>)>,
    /// Whether it is in the queue of its prefix.
    queued: bool,
    running: usize,
    next_answer: u16,
    answers: BTreeMap<u16, Option<Vec<u8>>>,
}

/// All legs of a host.
pub struct Host {
    legs: Slab<Leg>,
    seats: Crowd,
    /// Openings under way: their legs may be gone before they are done.
    opening: BTreeMap<Key, Seat>,
    opening_seats: Crowd,
    held: Crowd,
    asked: Crowd,
    /// When legs end whose sessions have not begun to open, that do not finish a request, or that have asked nothing for long.
    idle: TimerTable<Key>,
    /// Legs with a request to serve, by the prefix of their last hop, and the prefixes in turn.
    turns: VecDeque<Prefix>,
    by_prefix: BTreeMap<Prefix, VecDeque<Key>>,
    running: usize,
    replays: Replays,
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Host").field("legs", &self.legs.len()).finish_non_exhaustive()
    }
}

impl Host {
    /// No legs yet, and room for so many. All of it is shared out by [`Crowd`]: identities are free, and a relay at one address may have as
    /// many as it likes (T36). The leg whose cell finds no place ends; cells of long requests have places apart from those of short ones, so
    /// whoever begins requests and does not finish them is in nobody's way who fetches (T35).
    pub fn new(memory: Memory) -> Self {
        Self {
            legs: Slab::default(),
            seats: Crowd::new(memory.legs(), STANDING),
            opening: BTreeMap::new(),
            opening_seats: Crowd::new(OPENING_MAX, PASSING),
            held: Crowd::new(memory.cells_of_long(), PASSING),
            asked: Crowd::new(memory.cells_of_short(), PASSING),
            idle: TimerTable::default(),
            turns: VecDeque::new(),
            by_prefix: BTreeMap::new(),
            running: 0,
            replays: Replays::default(),
        }
    }

    /// A last hop opens a leg. A last hop is a relay, which has proved its identity on the link: nobody else has legs to open.
    pub(in crate::proto) fn accept(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, link: LinkId, circuit: CircuitId) {
        let remote = links.peer(link).and(links.remote(link));
        let Some(seat) = remote.and_then(|remote| self.seats.enter(&remote)) else {
            return links.refuse(ctx, link, circuit);
        };
        let key = self.legs.reserve();
        match links.accept_port(link, circuit, Owner::Host(key)) {
            Some(port) => {
                let leg = Leg {
                    link,
                    seat,
                    port,
                    stage: Stage::Fresh,
                    input: BytesMut::new(),
                    held: Vec::new(),
                    next: 0,
                    waiting: VecDeque::new(),
                    queued: false,
                    running: 0,
                    next_answer: 0,
                    answers: BTreeMap::new(),
                };
                self.legs.fill(key, leg);
                self.idle.set(key, ctx.env.now + FRESH_MAX);
            }
            None => {
                self.legs.remove(key);
                self.seats.leave(seat);
            }
        }
    }

    /// A cell on a leg.
    pub(in crate::proto) fn data(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        keys: &Arc<NodeKeys>,
        acceptance: &Arc<Acceptance>,
        key: Key,
        body: &[u8; BODY],
    ) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        let data = match RelayMessage::read(body) {
            Ok(m) if m.command == RelayCommand::Data => m.data,
            _ => return self.end(ctx, links, key),
        };
        match &leg.stage {
            Stage::Fresh => {
                links.consumed(ctx, leg.port);
                let Some(id) = session::open_key_id(data).filter(|_| data.len() == session::OPEN_LEN) else {
                    return self.end(ctx, links, key);
                };
                let Some(seat) = links.remote(leg.link).and_then(|remote| self.opening_seats.enter(&remote)) else {
                    return self.end(ctx, links, key);
                };
                if keys.host(id).is_none() || !self.replays.insert(id, session::replay_tag(data)) {
                    self.opening_seats.leave(seat);
                    return self.end(ctx, links, key);
                }
                self.opening.insert(key, seat);
                leg.stage = Stage::Opening;
                self.idle.stop(&key);
                ctx.out.job(JobFor::HostOpen(key), Job::HostOpen { keys: Arc::clone(keys), message: data.to_vec() });
            }
            Stage::Opening | Stage::Open(..) => {
                if data.len() != RELAY_DATA {
                    return self.end(ctx, links, key);
                }
                let crowd = leg.stage.crowd(&mut self.held, &mut self.asked);
                let Some(seat) = links.remote(leg.link).and_then(|remote| crowd.enter(&remote)) else {
                    return self.end(ctx, links, key);
                };
                leg.input.extend_from_slice(data);
                leg.held.push(seat);
                self.take_requests(ctx, links, acceptance, key);
            }
        }
    }

    /// The keys changed: openings for those that are gone need not be remembered.
    pub(in crate::proto) fn renewed(&mut self, keys: &NodeKeys) {
        self.replays.renewed(keys);
    }

    /// The session opened, or its opening did not verify, or was lost.
    pub(in crate::proto) fn opened(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        acceptance: &Arc<Acceptance>,
        key: Key,
        result: Option<(HostSession, SessionType)>,
    ) {
        if let Some(seat) = self.opening.remove(&key) {
            self.opening_seats.leave(seat);
        }
        match (result, self.legs.get_mut(key)) {
            (Some((session, kind)), Some(leg)) => {
                leg.stage = Stage::Open(session, kind);
                self.idle.set(key, ctx.env.now + if leg.input.is_empty() { limits::SESSION_PAUSE_MAX } else { FRESH_MAX });
                if kind.request_len() > RELAY_DATA {
                    // What came meanwhile is part of something larger.
                    let came = leg.held.len();
                    leg.held.drain(..).for_each(|seat| self.asked.leave(seat));
                    let remote = links.remote(leg.link);
                    leg.held.extend((0..came).map_while(|_| self.held.enter(&remote?)));
                    if leg.held.len() < came {
                        return self.end(ctx, links, key);
                    }
                }
                self.take_requests(ctx, links, acceptance, key);
            }
            _ => self.end(ctx, links, key),
        }
    }

    fn take_requests(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, acceptance: &Arc<Acceptance>, key: Key) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        let Stage::Open(_, kind) = &leg.stage else { return };
        let (kind, mut taken) = (*kind, false);
        while leg.input.len() >= kind.request_len() {
            if leg.next >= limits::SESSION_REQUESTS_MAX || leg.outstanding(links) >= PER_LEG_MAX {
                return self.end(ctx, links, key);
            }
            leg.waiting.push_back((leg.next, leg.input.split_to(kind.request_len()).to_vec()));
            leg.next += 1;
            taken = true;
        }
        if !leg.input.is_empty() && (taken || leg.input.len() == RELAY_DATA) {
            // A request has begun.
            self.idle.set(key, ctx.env.now + FRESH_MAX);
        } else if taken {
            self.idle.set(key, ctx.env.now + limits::SESSION_PAUSE_MAX);
        }
        if taken {
            let queue = self.by_prefix.entry(leg.seat.prefix()).or_default();
            if queue.is_empty() {
                self.turns.push_back(leg.seat.prefix());
            }
            if !leg.queued {
                leg.queued = true;
                queue.push_back(key);
            }
            self.serve(ctx, links, acceptance);
        }
    }

    /// Starts requests while there is room, one prefix after the other, one leg of it after the other.
    fn serve(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, acceptance: &Arc<Acceptance>) {
        while self.running < RUNNING_MAX {
            let Some(prefix) = self.turns.pop_front() else { return };
            let Some(queue) = self.by_prefix.get_mut(&prefix) else { continue };
            let Some(key) = queue.pop_front() else {
                self.by_prefix.remove(&prefix);
                continue;
            };
            if let Some(leg) = self.legs.get_mut(key)
                && let Stage::Open(session, kind) = &leg.stage
                && let Some((n, sealed)) = leg.waiting.pop_front()
            {
                let crowd = leg.stage.crowd(&mut self.held, &mut self.asked);
                // The credit of one cell is due when the answer has left (D6).
                for n in 0..kind.request_len() / RELAY_DATA {
                    if let Some(seat) = leg.held.pop() {
                        crowd.leave(seat);
                    }
                    if n > 0 {
                        links.consumed(ctx, leg.port);
                    }
                }
                leg.running += 1;
                self.running += 1;
                let work = Job::Serve { session: session.clone(), kind: *kind, n, sealed, acceptance: Arc::clone(acceptance) };
                ctx.out.job(JobFor::Serve(key, n), work);
                leg.queued = !leg.waiting.is_empty();
                if leg.queued {
                    queue.push_back(key);
                }
            }
            if queue.is_empty() {
                self.by_prefix.remove(&prefix);
            } else {
                self.turns.push_back(prefix);
            }
        }
    }

    /// A request was served: its answer leaves when those before it have left. `None` did not open, and ends the leg.
    pub(in crate::proto) fn served(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        acceptance: &Arc<Acceptance>,
        key: Key,
        n: u16,
        answer: Option<Vec<u8>>,
    ) {
        self.running = self.running.saturating_sub(1);
        if let Some(leg) = self.legs.get_mut(key) {
            leg.running = leg.running.saturating_sub(1);
            leg.answers.insert(n, answer);
            let mut failed = false;
            while let Some(answer) = leg.answers.remove(&leg.next_answer) {
                leg.next_answer += 1;
                let Some(answer) = answer else {
                    failed = true;
                    break;
                };
                let mut cells = answer.chunks(RELAY_DATA).peekable();
                while let Some(data) = cells.next() {
                    let source = cells.peek().is_none().then_some(leg.port);
                    let mut body = [0; BODY];
                    RelayMessage { command: RelayCommand::Data, stream: crate::base::StreamId(0), data }.write(&mut body);
                    links.send(ctx, leg.port, Command::Relay, &body, source);
                }
            }
            if failed {
                self.end(ctx, links, key);
            }
        }
        self.serve(ctx, links, acceptance);
    }

    /// Ends a leg. Its requests that run finish for nobody.
    pub(in crate::proto) fn end(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
        if let Some(leg) = self.legs.remove(key) {
            links.close_port(ctx, leg.port);
            self.idle.stop(&key);
            self.seats.leave(leg.seat);
            let crowd = leg.stage.crowd(&mut self.held, &mut self.asked);
            leg.held.into_iter().for_each(|seat| crowd.leave(seat));
        }
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.idle.next().map(|(at, _)| (at, "idle leg"))
    }

    /// Does what is due.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        while let Some(key) = self.idle.expired(ctx.env.now) {
            // One whose answers are late, here or on their way, is not idle. That excuses no request that is not finished.
            if self.legs.get(key).is_some_and(|leg| leg.input.is_empty() && leg.outstanding(links) > 0) {
                self.idle.set(key, ctx.env.now + limits::SESSION_PAUSE_MAX);
            } else {
                self.end(ctx, links, key);
            }
        }
    }
}

impl Stage {
    /// Where the cells of a leg have their places.
    const fn crowd<'a>(&self, held: &'a mut Crowd, asked: &'a mut Crowd) -> &'a mut Crowd {
        match self {
            Self::Open(_, kind) if kind.request_len() > RELAY_DATA => held,
            Self::Fresh | Self::Opening | Self::Open(..) => asked,
        }
    }
}

impl Leg {
    /// Requests whose answers have not left, in part or whole.
    fn outstanding(&self, links: &Links) -> usize {
        let answer = match &self.stage {
            Stage::Open(_, kind) => (kind.response_len() / RELAY_DATA).max(1),
            Stage::Fresh | Stage::Opening => 1,
        };
        self.waiting.len() + self.running + self.answers.len() + links.queued_on(self.port).div_ceil(answer)
    }
}

#[cfg(test)]
mod tests;
