//! Holding shares for others: the host's end of a leg, and the sealed requests that come over it (D12).
//!
//! A host sees the last hop and nobody behind it. Requests of a session arrive in order, are opened and served beside the core, and are
//! answered in order; each answer fills its cells exactly. Links take turns at the disk, so one busy last hop cannot starve the others.

use crate::base::Address;
use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::Position;
use crate::base::Time;
use crate::base::limits;
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
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay::region;
use crate::proto::overlay::view::View;
use crate::proto::renewal::NodeKeys;
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
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Most legs at once: bounds sessions and their buffers. Shared out by [`Crowd`]: identities are free, and a relay at one address may have as
/// many as it likes (T36).
const LEGS_MAX: usize = 20_000;
/// How long a leg may stand without its opening: a last hop sends what waited right behind the leg cell, or as soon as its client has run the
/// handshake. A leg that costs its opener nothing does not keep a place longer (T36).
const FRESH_MAX: Duration = Duration::from_secs(20);
/// How long a leg may stand without a whole request: three times as long as a client waits for an answer. One that pauses longer, because its
/// user reads slowly, opens a session anew.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Most openings of sessions that run beside the core or wait for it: a fifth of a second of work for one core. Shared out by [`Crowd`].
const OPENING_MAX: usize = 2048;
/// Requests that run beside the core at once: enough to fill a group commit, few enough to stay fair.
const RUNNING_MAX: usize = 64;
/// Most requests of one leg that wait or run: twice what an honest client has in flight.
const PER_LEG_MAX: usize = 2 * limits::SESSION_IN_FLIGHT as usize;
/// Most session openings remembered against replay, for one key. A full set refuses new sessions until the key is renewed.
const REPLAY_MAX: usize = 1 << 20;

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

    /// Whether a chunk's place is near enough.
    pub fn accepts(&self, address: &Address) -> bool {
        self.everyone || self.positions.iter().any(|p| region::distance(&p.0, &address.0) <= self.distance)
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
    /// Cells that arrived and whose credit is due when their request is taken up.
    held: u32,
    next: u16,
    waiting: VecDeque<(u16, Vec<u8>)>,
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
    /// When legs end whose sessions have not begun to open, or that have asked nothing for long.
    idle: TimerTable<Key>,
    /// Legs with a request to serve, by link, and the links in turn.
    turns: VecDeque<LinkId>,
    by_link: BTreeMap<LinkId, VecDeque<Key>>,
    running: usize,
    replays: BTreeMap<u32, BTreeSet<[u8; 32]>>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            legs: Slab::default(),
            seats: Crowd::new(LEGS_MAX, STANDING),
            opening: BTreeMap::new(),
            opening_seats: Crowd::new(OPENING_MAX, PASSING),
            idle: TimerTable::default(),
            turns: VecDeque::new(),
            by_link: BTreeMap::new(),
            running: 0,
            replays: BTreeMap::new(),
        }
    }
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Host").field("legs", &self.legs.len()).finish_non_exhaustive()
    }
}

impl Host {
    /// A last hop opens a leg. A last hop is a relay, which has proved its identity on the link: nobody else has legs to open.
    pub(in crate::proto) fn accept(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, link: LinkId, circuit: CircuitId) {
        let remote = links.peer(link).and(links.remote(link));
        let Some(seat) = remote.and_then(|remote| self.seats.enter(&remote)) else {
            return links.push_control(ctx, link, Some(circuit), Command::Destroy, &[0; BODY]);
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
                    held: 0,
                    next: 0,
                    waiting: VecDeque::new(),
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
                let seen = self.replays.entry(id).or_default();
                if keys.host(id).is_none() || seen.len() >= REPLAY_MAX || !seen.insert(session::replay_tag(data)) {
                    self.renewed(keys);
                    return self.end(ctx, links, key);
                }
                let Some(seat) = links.remote(leg.link).and_then(|remote| self.opening_seats.enter(&remote)) else {
                    return self.end(ctx, links, key);
                };
                self.opening.insert(key, seat);
                leg.stage = Stage::Opening;
                self.idle.stop(&key);
                ctx.out.job(JobFor::HostOpen(key), Job::HostOpen { keys: Arc::clone(keys), message: data.to_vec() });
            }
            Stage::Opening | Stage::Open(..) => {
                if data.len() != RELAY_DATA {
                    return self.end(ctx, links, key);
                }
                leg.input.extend_from_slice(data);
                leg.held += 1;
                self.take_requests(ctx, links, acceptance, key);
            }
        }
    }

    /// The keys changed: openings for those that are gone need not be remembered.
    pub(in crate::proto) fn renewed(&mut self, keys: &NodeKeys) {
        self.replays.retain(|id, _| keys.host(*id).is_some());
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
                self.idle.set(key, ctx.env.now + IDLE_MAX);
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
            if leg.next >= limits::SESSION_REQUESTS_MAX || leg.outstanding() >= PER_LEG_MAX {
                return self.end(ctx, links, key);
            }
            leg.waiting.push_back((leg.next, leg.input.split_to(kind.request_len()).to_vec()));
            leg.next += 1;
            taken = true;
        }
        if taken {
            self.idle.set(key, ctx.env.now + IDLE_MAX);
            let queue = self.by_link.entry(leg.link).or_default();
            if queue.is_empty() {
                self.turns.push_back(leg.link);
            }
            if !queue.contains(&key) {
                queue.push_back(key);
            }
            self.serve(ctx, links, acceptance);
        }
    }

    /// Starts requests while there is room, one link after the other, one leg of it after the other.
    fn serve(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, acceptance: &Arc<Acceptance>) {
        while self.running < RUNNING_MAX {
            let Some(link) = self.turns.pop_front() else { return };
            let Some(queue) = self.by_link.get_mut(&link) else { continue };
            let Some(key) = queue.pop_front() else {
                self.by_link.remove(&link);
                continue;
            };
            if let Some(leg) = self.legs.get_mut(key)
                && let Stage::Open(session, kind) = &leg.stage
                && let Some((n, sealed)) = leg.waiting.pop_front()
            {
                for _ in 0..kind.request_len() / RELAY_DATA {
                    leg.held = leg.held.saturating_sub(1);
                    links.consumed(ctx, leg.port);
                }
                leg.running += 1;
                self.running += 1;
                let work = Job::Serve { session: session.clone(), kind: *kind, n, sealed, acceptance: Arc::clone(acceptance) };
                ctx.out.job(JobFor::Serve(key, n), work);
                if !leg.waiting.is_empty() {
                    queue.push_back(key);
                }
            }
            if queue.is_empty() {
                self.by_link.remove(&link);
            } else {
                self.turns.push_back(link);
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
                for data in answer.chunks(RELAY_DATA) {
                    let mut body = [0; BODY];
                    RelayMessage { command: RelayCommand::Data, stream: crate::base::StreamId(0), data }.write(&mut body);
                    links.send(ctx, leg.port, Command::Relay, &body, None);
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
        }
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.idle.next().map(|(at, _)| (at, "idle leg"))
    }

    /// Does what is due.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        while let Some(key) = self.idle.expired(ctx.env.now) {
            // One whose answers are late, here or on their way, is not idle.
            if self.legs.get(key).is_some_and(|leg| leg.outstanding() > 0) {
                self.idle.set(key, ctx.env.now + IDLE_MAX);
            } else {
                self.end(ctx, links, key);
            }
        }
    }
}

impl Leg {
    /// Requests whose answers are not out yet.
    fn outstanding(&self) -> usize {
        self.waiting.len() + self.running + self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::base::NetworkId;
    use crate::base::NodeId;
    use crate::base::Wall;
    use crate::crypto::secret::Secret;
    use crate::proto::out::Out;
    use crate::wire::request::Kind;
    use crate::wire::share::Class;
    use rand::SeedableRng;

    /// A host with links to it, their way out, and a clock.
    struct Bench {
        host: Host,
        links: Links,
        out: Out,
        now: Time,
        rng: rand::rngs::StdRng,
        circuits: u32,
    }

    impl Bench {
        fn new() -> Self {
            let links = Links::new(NetworkId([1; 32]), None);
            let rng = rand::rngs::StdRng::seed_from_u64(1);
            Self { host: Host::default(), links, out: Out::default(), now: Time(0), rng, circuits: 0 }
        }

        fn with<T>(&mut self, step: impl FnOnce(&mut Host, &mut Links, &mut Ctx<'_, '_>) -> T) -> T {
            let mut env = Env { now: self.now, wall: Wall(0), rng: &mut self.rng };
            step(&mut self.host, &mut self.links, &mut Ctx { env: &mut env, out: &mut self.out })
        }

        /// A relay of a new identity at this address.
        fn relay(&mut self, n: u8, addr: [u8; 4]) -> LinkId {
            self.links.open_unshaken_from(LinkId(n.into()), Some(NodeId([n; 32])), (addr, 9).into());
            LinkId(n.into())
        }

        /// A leg more, if the host has room.
        fn leg(&mut self, link: LinkId) -> Option<Key> {
            self.circuits += 1;
            let (circuit, before) = (CircuitId::new(self.circuits).unwrap(), self.host.legs.len());
            self.with(|host, links, ctx| {
                host.accept(ctx, links, link, circuit);
                links.flush(ctx);
                links.sent(ctx, link, 1);
            });
            let newest = self.host.legs.iter().find(|(_, leg)| self.links.port_link(leg.port) == Some((link, circuit)));
            newest.map(|(key, _)| key).filter(|_| self.host.legs.len() > before)
        }

        /// Has the session of a leg opened.
        fn open(&mut self, key: Key) {
            let mut rng = rand::rngs::StdRng::seed_from_u64(2);
            let (node, network) = (NodeId([3; 32]), NetworkId([1; 32]));
            let secret = crate::crypto::keys::HostKey::generate(&mut rng, 7).unwrap();
            let kind = SessionType { kind: Kind::Fetch, class: Class::Small };
            let (_, opening) = session::open(&mut rng, &network, &node, &secret.public(), kind.to_bytes()).unwrap();
            let (session, _) = session::accept(&network, &node, &secret, &opening).unwrap();
            self.with(|host, links, ctx| host.opened(ctx, links, &Arc::default(), key, Some((session, kind))));
        }

        /// The client's bytes of so many whole requests arrive. They are not looked at before they are served.
        fn ask(&mut self, key: Key, requests: usize) {
            self.with(|host, links, ctx| {
                let leg = host.legs.get_mut(key).unwrap();
                leg.input.extend_from_slice(&vec![0; requests * RELAY_DATA]);
                leg.held += u32::try_from(requests).unwrap();
                host.take_requests(ctx, links, &Arc::default(), key);
            });
        }

        fn tick(&mut self, at: Time) {
            self.now = at;
            self.with(|host, links, ctx| host.tick(ctx, links));
        }
    }

    #[test]
    fn relays_of_one_prefix_do_not_fill_a_host_whatever_they_call_themselves() {
        let mut bench = Bench::new();
        let mut opened = 0;
        for n in 1..=20 {
            let link = bench.relay(n, [203, 0, 113, n]);
            opened += (0..1024).filter(|_| bench.leg(link).is_some()).count();
        }
        assert_eq!(opened, LEGS_MAX.div_ceil(9));
        let other = bench.relay(200, [198, 51, 100, 1]);
        assert!(bench.leg(other).is_some(), "another relay finds room");
        let client = LinkId(201);
        bench.links.open_unshaken_from(client, None, ([198, 51, 101, 1], 9).into());
        assert!(bench.leg(client).is_none(), "a client has no legs to open");

        // Leg cells alone hold no place for long.
        let (at, _) = bench.host.timeout().unwrap();
        assert_eq!(at, Time(0) + FRESH_MAX);
        bench.tick(at);
        assert!(bench.host.legs.is_empty() && bench.host.seats.taken() == 0 && bench.host.timeout().is_none());
        assert!(bench.leg(other).is_some(), "ports go with legs");
    }

    #[test]
    fn an_open_leg_that_asks_nothing_ends_and_one_whose_answer_is_late_does_not() {
        let mut bench = Bench::new();
        let link = bench.relay(1, [203, 0, 113, 1]);
        let (quiet, busy) = (bench.leg(link).unwrap(), bench.leg(link).unwrap());
        bench.open(quiet);
        bench.open(busy);
        assert_eq!(bench.host.timeout().unwrap().0, Time(0) + IDLE_MAX);
        bench.now = Time(0) + IDLE_MAX / 2;
        bench.ask(busy, 1);
        bench.tick(Time(0) + IDLE_MAX);
        assert!(bench.host.legs.get(quiet).is_none(), "half a cell now and then does not keep it");
        for n in 2..6 {
            bench.tick(Time(0) + IDLE_MAX * n);
            assert!(bench.host.legs.get(busy).is_some(), "its request is still being served");
        }
        let at = bench.now;
        bench.with(|host, links, ctx| host.served(ctx, links, &Arc::default(), busy, 0, Some(vec![0; 4 * RELAY_DATA])));
        bench.tick(at + IDLE_MAX);
        assert!(bench.host.legs.is_empty() && bench.host.timeout().is_none());
    }

    #[test]
    fn openings_that_wait_are_bounded_and_give_their_places_back() {
        let mut bench = Bench::new();
        let secret = Secret::new([5; 32]);
        let wall = Wall(1_800_000_000);
        let node = crate::crypto::keys::IdentityKey::from_seed(&secret).node_id();
        let mut rng = rand::rngs::StdRng::seed_from_u64(2);
        let mut env = Env { now: Time(0), wall, rng: &mut rng };
        let (renewal, _) = crate::proto::renewal::Renewal::start(None, NetworkId([1; 32]), node, true, &mut env).unwrap();
        let keys = Arc::clone(renewal.keys());
        let public = crate::proto::overlay::Profile::of(&keys, Vec::new()).host_key.unwrap();
        let mut waiting = Vec::new();
        let link = bench.relay(1, [203, 0, 113, 1]);
        for _ in 0..OPENING_MAX {
            let key = bench.leg(link).unwrap();
            let mut opening = vec![9; session::OPEN_LEN];
            opening[..4].copy_from_slice(&public.id.to_be_bytes());
            opening[4..8].copy_from_slice(&bench.circuits.to_be_bytes());
            let mut body = [0; BODY];
            RelayMessage { command: RelayCommand::Data, stream: crate::base::StreamId(0), data: &opening }.write(&mut body);
            bench.with(|host, links, ctx| host.data(ctx, links, &keys, &Arc::default(), key, &body));
            waiting.extend(bench.host.legs.get(key).map(|_| key));
        }
        assert_eq!(waiting.len(), OPENING_MAX.div_ceil(3));
        let jobs = |o: &crate::proto::Output| matches!(o, crate::proto::Output::Job { work: Job::HostOpen { .. }, .. });
        assert_eq!(bench.out.queue.iter().filter(|o| jobs(o)).count(), waiting.len(), "no more work than there is room for");
        // Legs that end meanwhile have their openings still to come.
        for key in &waiting {
            bench.with(|host, links, ctx| host.end(ctx, links, *key));
        }
        assert_eq!(bench.host.opening_seats.taken(), waiting.len());
        for key in waiting {
            bench.with(|host, links, ctx| host.opened(ctx, links, &Arc::default(), key, None));
        }
        assert_eq!((bench.host.opening_seats.taken(), bench.host.opening.len(), bench.host.legs.len()), (0, 0, 0));
    }
}
