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

/// Most legs at once: bounds sessions and their buffers.
const LEGS_MAX: usize = 20_000;
/// Most legs of one link: a last hop meets a host for a few circuits at a time, and no single relay fills the host (T36).
const LEGS_PER_LINK: usize = 1024;
/// How long a leg may stand without its opening: a last hop sends what waited right behind the leg cell, or as soon as its client has run the
/// handshake. A leg that costs its opener nothing does not keep a place longer (T36).
const FRESH_MAX: Duration = Duration::from_secs(20);
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
#[derive(Default)]
pub struct Host {
    legs: Slab<Leg>,
    /// How many each link has.
    legs_of: BTreeMap<LinkId, usize>,
    /// When legs end whose sessions have not begun to open.
    fresh: TimerTable<Key>,
    /// Legs with a request to serve, by link, and the links in turn.
    turns: VecDeque<LinkId>,
    by_link: BTreeMap<LinkId, VecDeque<Key>>,
    running: usize,
    replays: BTreeMap<u32, BTreeSet<[u8; 32]>>,
}

impl core::fmt::Debug for Host {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Host").field("legs", &self.legs.len()).finish_non_exhaustive()
    }
}

impl Host {
    /// A last hop opens a leg. A last hop is a relay, which has proved its identity on the link: nobody else has legs to open.
    pub(in crate::proto) fn accept(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, link: LinkId, circuit: CircuitId) {
        let of_link = self.legs_of.get(&link).copied().unwrap_or_default();
        if self.legs.len() >= LEGS_MAX || of_link >= LEGS_PER_LINK || links.peer(link).is_none() {
            return links.push_control(ctx, link, Some(circuit), Command::Destroy, &[0; BODY]);
        }
        let key = self.legs.reserve();
        match links.accept_port(link, circuit, Owner::Host(key)) {
            Some(port) => {
                let leg = Leg {
                    link,
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
                self.legs_of.insert(link, of_link + 1);
                self.fresh.set(key, ctx.env.now + FRESH_MAX);
            }
            None => {
                self.legs.remove(key);
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
                leg.stage = Stage::Opening;
                self.fresh.stop(&key);
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

    /// The session opened, or its opening did not verify.
    pub(in crate::proto) fn opened(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        acceptance: &Arc<Acceptance>,
        key: Key,
        result: Option<(HostSession, SessionType)>,
    ) {
        match (result, self.legs.get_mut(key)) {
            (Some((session, kind)), Some(leg)) => {
                leg.stage = Stage::Open(session, kind);
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
            let outstanding = leg.waiting.len() + leg.running + leg.answers.len();
            if leg.next >= limits::SESSION_REQUESTS_MAX || outstanding >= PER_LEG_MAX {
                return self.end(ctx, links, key);
            }
            leg.waiting.push_back((leg.next, leg.input.split_to(kind.request_len()).to_vec()));
            leg.next += 1;
            taken = true;
        }
        if taken {
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
            self.fresh.stop(&key);
            if let Some(count) = self.legs_of.get_mut(&leg.link) {
                *count -= 1;
                if *count == 0 {
                    self.legs_of.remove(&leg.link);
                }
            }
        }
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.fresh.next().map(|(at, _)| (at, "leg without a session"))
    }

    /// Does what is due.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        while let Some(key) = self.fresh.expired(ctx.env.now) {
            self.end(ctx, links, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::base::NetworkId;
    use crate::base::NodeId;
    use crate::base::Wall;
    use crate::proto::out::Out;
    use rand::SeedableRng;

    #[test]
    fn leg_cells_alone_do_not_fill_a_host() {
        let (mut links, mut out) = (Links::new(NetworkId([1; 32]), None), Out::default());
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let (mut host, flood, other, client) = (Host::default(), LinkId(1), LinkId(2), LinkId(3));
        links.open_unshaken(flood, Some(NodeId([1; 32])));
        links.open_unshaken(other, Some(NodeId([2; 32])));
        links.open_unshaken(client, None);

        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
        let mut ctx = Ctx { env: &mut env, out: &mut out };
        let mut open = |host: &mut Host, link, n: usize| {
            let before = host.legs.len();
            host.accept(&mut ctx, &mut links, link, CircuitId::new(u32::try_from(n).unwrap()).unwrap());
            host.legs.len() > before
        };
        let opened = (1..=LEGS_PER_LINK + 100).filter(|n| open(&mut host, flood, *n)).count();
        assert_eq!(opened, LEGS_PER_LINK);
        assert!(open(&mut host, other, 1), "another relay finds room");
        assert!(!open(&mut host, client, 1), "a client has no legs to open");

        let (at, _) = host.timeout().unwrap();
        assert_eq!(at, Time(0) + FRESH_MAX);
        let mut env = Env { now: at, wall: Wall(0), rng: &mut rng };
        let mut ctx = Ctx { env: &mut env, out: &mut out };
        host.tick(&mut ctx, &mut links);
        assert!(host.legs.is_empty() && host.legs_of.is_empty() && host.timeout().is_none());
        assert!(
            links.accept_port(flood, CircuitId::new(1).unwrap(), Owner::Host(host.legs.reserve())).is_some(),
            "ports go with legs"
        );
    }
}
