use super::*;
use crate::base::Env;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Wall;
use crate::crypto::secret::Secret;
use crate::proto::memory::Memory;
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
        let links = Links::new(NetworkId([1; 32]), None, Memory::default());
        let rng = rand::rngs::StdRng::seed_from_u64(1);
        Self { host: Host::new(Memory::default()), links, out: Out::default(), now: Time(0), rng, circuits: 0 }
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
        self.open_as(key, SessionType { kind: Kind::Fetch, class: Class::Small });
    }

    fn open_as(&mut self, key: Key, kind: SessionType) {
        let mut rng = rand::rngs::StdRng::seed_from_u64(2);
        let (node, network) = (NodeId([3; 32]), NetworkId([1; 32]));
        let secret = crate::crypto::keys::HostKey::generate(&mut rng, 7).unwrap();
        let (_, opening) = session::open(&mut rng, &network, &node, &secret.public(), kind.to_bytes()).unwrap();
        let (session, _) = session::accept(&network, &node, &secret, &opening).unwrap();
        self.with(|host, links, ctx| host.opened(ctx, links, &Arc::default(), key, Some((session, kind))));
    }

    /// The client's bytes of so many whole requests arrive. They are not looked at before they are served.
    fn ask(&mut self, key: Key, requests: usize) {
        self.with(|host, links, ctx| {
            let leg = host.legs.get_mut(key).unwrap();
            leg.input.extend_from_slice(&vec![0; requests * RELAY_DATA]);
            let remote = links.remote(leg.link).unwrap();
            leg.held.extend((0..requests).map(|_| host.asked.enter(&remote).unwrap()));
            host.take_requests(ctx, links, &Arc::default(), key);
        });
    }

    /// So many cells of requests arrive.
    fn cells(&mut self, key: Key, keys: &Arc<NodeKeys>, cells: usize) {
        let mut body = [0; BODY];
        RelayMessage { command: RelayCommand::Data, stream: crate::base::StreamId(0), data: &[7; RELAY_DATA] }.write(&mut body);
        for _ in 0..cells {
            self.with(|host, links, ctx| host.data(ctx, links, keys, &Arc::default(), key, &body));
        }
    }

    fn tick(&mut self, at: Time) {
        self.now = at;
        self.with(|host, links, ctx| host.tick(ctx, links));
    }
}

/// The keys of a host.
fn keys() -> Arc<NodeKeys> {
    let secret = Secret::new([5; 32]);
    let wall = Wall(1_800_000_000);
    let node = crate::crypto::keys::IdentityKey::from_seed(&secret).node_id();
    let mut rng = rand::rngs::StdRng::seed_from_u64(2);
    let mut env = Env { now: Time(0), wall, rng: &mut rng };
    let (renewal, _) = crate::proto::renewal::Renewal::start(None, NetworkId([1; 32]), node, true, &mut env).unwrap();
    Arc::clone(renewal.keys())
}

#[test]
fn relays_of_one_prefix_do_not_fill_a_host_whatever_they_call_themselves() {
    let mut bench = Bench::new();
    let mut opened = 0;
    for n in 1..=20 {
        let link = bench.relay(n, [203, 0, 113, n]);
        opened += (0..1024).filter(|_| bench.leg(link).is_some()).count();
    }
    assert_eq!(opened, Memory::default().legs().div_ceil(9));
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
    assert_eq!(bench.host.timeout().unwrap().0, Time(0) + limits::SESSION_PAUSE_MAX);
    bench.now = Time(0) + limits::SESSION_PAUSE_MAX / 2;
    bench.ask(busy, 1);
    bench.tick(Time(0) + limits::SESSION_PAUSE_MAX);
    assert!(bench.host.legs.get(quiet).is_none(), "it asked nothing");
    for n in 2..6 {
        bench.tick(Time(0) + limits::SESSION_PAUSE_MAX * n);
        assert!(bench.host.legs.get(busy).is_some(), "its request is still being served");
    }
    let at = bench.now;
    bench.with(|host, links, ctx| host.served(ctx, links, &Arc::default(), busy, 0, Some(vec![0; 4 * RELAY_DATA])));
    bench.tick(at + limits::SESSION_PAUSE_MAX);
    assert!(bench.host.legs.is_empty() && bench.host.timeout().is_none());
}

#[test]
fn openings_that_wait_are_bounded_and_give_their_places_back() {
    let mut bench = Bench::new();
    let keys = keys();
    let public = crate::proto::overlay::Profile::of(&keys, Vec::new(), Vec::new()).host_key.unwrap();
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

#[test]
fn a_leg_whose_answers_are_not_taken_has_few_of_them_queued() {
    let mut bench = Bench::new();
    let link = bench.relay(1, [203, 0, 113, 1]);
    let key = bench.leg(link).unwrap();
    bench.open(key);
    let port = bench.host.legs.get(key).unwrap().port;
    bench.links.starve(port);
    let served = |bench: &mut Bench, n| {
        bench.with(|host, links, ctx| host.served(ctx, links, &Arc::default(), key, n, Some(vec![0; 4 * RELAY_DATA])));
    };
    for n in 0..PER_LEG_MAX as u16 {
        bench.ask(key, 1);
        served(&mut bench, n);
    }
    assert_eq!((bench.links.queued_on(port), bench.links.owed(port)), (4 * PER_LEG_MAX, 0));
    // The other end takes two answers and a half: as many credits as answers that left whole are due, and as much room there is.
    bench.with(|_, links, ctx| links.feed(ctx, port, 10));
    assert_eq!((bench.links.queued_on(port), bench.links.owed(port)), (4 * PER_LEG_MAX - 10, 2));
    bench.ask(key, 2);
    assert!(bench.host.legs.get(key).is_some());
    bench.ask(key, 1);
    assert!(bench.host.legs.get(key).is_none(), "more than an honest client ever has in flight");
}

#[test]
fn cells_of_requests_that_never_become_whole_do_not_fill_the_memory() {
    let mut bench = Bench::new();
    let mut body = [0; BODY];
    RelayMessage { command: RelayCommand::Data, stream: crate::base::StreamId(0), data: &[7; RELAY_DATA] }.write(&mut body);
    let kind = SessionType { kind: Kind::Store, class: Class::Large };
    let keys = keys();
    let link = bench.relay(1, [203, 0, 113, 1]);
    let mut legs = Vec::new();
    for _ in 0..500 {
        let key = bench.leg(link).unwrap();
        bench.open_as(key, kind);
        for _ in 1..kind.request_len() / RELAY_DATA {
            bench.with(|host, links, ctx| host.data(ctx, links, &keys, &Arc::default(), key, &body));
        }
        legs.push(key);
    }
    let held = bench.host.held.taken();
    let third = Memory::default().cells_of_long() / 3;
    assert!((third - 16..=third + 1).contains(&held), "{held} of {third}");
    legs.retain(|key| bench.host.legs.get(*key).is_some());
    assert!((220..320).contains(&legs.len()), "those that found no place ended: {}", legs.len());
    let other = bench.relay(2, [198, 51, 100, 1]);
    let key = bench.leg(other).unwrap();
    bench.open_as(key, kind);
    for _ in 0..kind.request_len() / RELAY_DATA {
        bench.with(|host, links, ctx| host.data(ctx, links, &keys, &Arc::default(), key, &body));
    }
    assert_eq!(bench.host.running, 1, "another's request is served, and");
    assert_eq!(bench.host.held.taken(), held, "its cells are out of the way");
    for key in legs {
        bench.with(|host, links, ctx| host.end(ctx, links, key));
    }
    assert_eq!(bench.host.held.taken(), 0);
}

#[test]
fn a_request_that_is_begun_is_finished_soon_or_its_leg_ends() {
    let mut bench = Bench::new();
    let (keys, link) = (keys(), bench.relay(1, [203, 0, 113, 1]));
    let store = SessionType { kind: Kind::Store, class: Class::Large };
    let cells = store.request_len() / RELAY_DATA;
    let legs: Vec<_> = (0..4).map(|_| bench.leg(link).unwrap()).collect();
    let [never, part, early, quiet] = legs[..] else { unreachable!() };
    // What comes while a session opens counts from when it is open.
    bench.host.legs.get_mut(early).unwrap().stage = Stage::Opening;
    bench.cells(early, &keys, cells + 3);
    assert_eq!((bench.host.asked.taken(), bench.host.held.taken()), (cells + 3, 0));
    legs.iter().for_each(|key| bench.open_as(*key, store));
    assert_eq!((bench.host.asked.taken(), bench.host.held.taken(), bench.host.running), (0, 3, 1), "one is served");
    bench.cells(never, &keys, 1);
    bench.now = Time(0) + FRESH_MAX / 2;
    // One cell more buys no time, and neither does an answer that is late; a whole request does.
    bench.cells(never, &keys, cells - 2);
    bench.cells(part, &keys, cells + 1);
    bench.tick(Time(0) + FRESH_MAX);
    let stands = |bench: &Bench| legs.iter().map(|key| bench.host.legs.get(*key).is_some()).collect::<Vec<_>>();
    assert_eq!(stands(&bench), [false, true, false, true]);
    assert_eq!(bench.host.held.taken(), 1);
    bench.cells(part, &keys, cells - 1);
    bench.tick(Time(0) + FRESH_MAX * 2);
    assert_eq!(stands(&bench), [false, true, false, true]);
    assert!(bench.host.legs.get(quiet).unwrap().input.is_empty());
    bench.with(|host, links, ctx| {
        host.end(ctx, links, part);
        host.end(ctx, links, quiet);
    });
    assert_eq!((bench.host.asked.taken(), bench.host.held.taken(), bench.host.seats.taken()), (0, 0, 0));
}

#[test]
fn who_fetches_needs_no_place_among_requests_that_are_not_finished() {
    let mut bench = Bench::new();
    let (keys, link) = (keys(), bench.relay(1, [203, 0, 113, 1]));
    let store = SessionType { kind: Kind::Store, class: Class::Large };
    for _ in 0..500 {
        let key = bench.leg(link).unwrap();
        bench.open_as(key, store);
        bench.cells(key, &keys, store.request_len() / RELAY_DATA - 1);
    }
    let remote = bench.links.remote(link).unwrap();
    let rest: Vec<_> = core::iter::from_fn(|| bench.host.held.enter(&remote)).collect();
    assert!(rest.len() < 16, "no place is free");
    let key = bench.leg(link).unwrap();
    bench.open(key);
    bench.cells(key, &keys, PER_LEG_MAX);
    assert_eq!(bench.host.running, PER_LEG_MAX, "over the same last hop");
    rest.into_iter().for_each(|seat| bench.host.held.leave(seat));
}

#[test]
fn prefixes_take_turns_at_the_disk_whatever_their_relays_call_themselves() {
    let mut bench = Bench::new();
    let mut greedy = Vec::new();
    for n in 1..=20 {
        let link = bench.relay(n, [203, 0, 113, n]);
        let key = bench.leg(link).unwrap();
        bench.open(key);
        bench.ask(key, PER_LEG_MAX);
        greedy.push(key);
    }
    assert_eq!(bench.host.running, RUNNING_MAX);
    let other = bench.relay(200, [198, 51, 100, 1]);
    let other = bench.leg(other).unwrap();
    bench.open(other);
    bench.ask(other, 1);
    let mut before = 0;
    for (n, key) in (0..).zip(greedy.iter().cycle()) {
        if bench.host.legs.get(other).unwrap().running > 0 {
            break;
        }
        before += 1;
        let answer = Some(vec![0; 4 * RELAY_DATA]);
        bench.with(|host, links, ctx| host.served(ctx, links, &Arc::default(), *key, n / 20, answer));
    }
    assert!(before <= 2, "{before} of one prefix were served before it");
}
