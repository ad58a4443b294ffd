use super::*;
use crate::base::Env;
use crate::base::LinkId;
use crate::base::Position;
use crate::base::Wall;
use crate::crypto::keys::HostKey;
use crate::proto::memory::Memory;
use crate::proto::out::Out;
use crate::proto::overlay::testing;
use crate::wire::cell::ANSWER_CELLS;
use crate::wire::cell::ANSWER_MAX;
use crate::wire::request::Kind;
use crate::wire::share::Class;
use rand::SeedableRng;
use rand::rngs::StdRng;

const FETCH: SessionType = SessionType { kind: Kind::Fetch, class: Class::Small };
const STORE: SessionType = SessionType { kind: Kind::Store, class: Class::Large };

/// A circuit that stands, and hosts to ask.
struct Bench {
    origins: Origins,
    links: Links,
    out: Out,
    rng: StdRng,
    view: View,
    hosts: Vec<NodeId>,
    key: Key,
    requests: u64,
}

impl Bench {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let mut view = testing::view_with_witnesses();
        let mut hosts = Vec::new();
        for n in 0..40u8 {
            let host = testing::host_at(&mut rng, ([30 + n, 1, 1, 1], 9).into(), Position([n; 32]));
            hosts.push(host.node());
            view.insert(host, testing::NOW);
        }
        let mut links = Links::new(NetworkId([1; 32]), None, Memory::default());
        links.open_unshaken(LinkId(1), Some(NodeId([251; 32])));
        let mut origins = Origins::new(NetworkId([1; 32]));
        let key = origins.stand(&mut links, LinkId(1), 0);
        Self { origins, links, out: Out::default(), rng, view, hosts, key, requests: 0 }
    }

    fn ask(&mut self, host: usize) {
        self.ask_for(host, FETCH);
    }

    fn ask_for(&mut self, host: usize, kind: SessionType) {
        self.requests += 1;
        let (key, host, request) = (self.key, self.hosts[host], RequestId(self.requests));
        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut self.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut self.out };
        self.origins.request(&mut ctx, &mut self.links, &self.view, key, host, kind, request, vec![1]);
    }

    /// The only stream, and a session with its host.
    fn session(&mut self, kind: SessionType) -> (StreamId, ClientSession) {
        let secret = HostKey::generate(&mut self.rng, 7).unwrap();
        let host = self.hosts[0];
        let (session, _) =
            crate::crypto::session::open(&mut self.rng, &NetworkId([1; 32]), &host, &secret.public(), kind.to_bytes()).unwrap();
        (*self.circuit().streams.keys().next().unwrap(), session)
    }

    /// An answer, whole.
    fn answer(&mut self, stream: StreamId, kind: SessionType) {
        for _ in 0..kind.response_len() / RELAY_DATA {
            let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut self.rng };
            let mut ctx = Ctx { env: &mut env, out: &mut self.out };
            self.origins.data(&mut ctx, &mut self.links, self.key, stream, &[7; RELAY_DATA]);
        }
    }

    /// All that waits leaves.
    fn carry(&mut self) {
        let port = self.circuit().port.unwrap();
        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut self.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut self.out };
        self.links.feed(&mut ctx, port, limits::WINDOW_MAX);
        self.links.flush(&mut ctx);
        self.links.sent(&mut ctx, LinkId(1), limits::WINDOW_MAX as usize);
    }

    /// Puts a question to the last hop; whether it left.
    fn question(&mut self, seconds: u64, token: u64) -> bool {
        let mut env = Env { now: Time(seconds * 1_000_000), wall: Wall(0), rng: &mut self.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut self.out };
        let asked = self.origins.ask(&mut ctx, &mut self.links, self.key, token, b"who is there?");
        self.links.flush(&mut ctx);
        self.links.sent(&mut ctx, LinkId(1), usize::from(asked));
        asked
    }

    /// The last hop says this of question number `n`; whether the circuit goes on.
    fn told(&mut self, seconds: u64, n: u16, data: &[u8]) -> bool {
        let mut env = Env { now: Time(seconds * 1_000_000), wall: Wall(0), rng: &mut self.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut self.out };
        self.origins.told(&mut ctx, &mut self.links, self.key, StreamId(n), data);
        self.origins.is_built(self.key)
    }

    /// Time passes; whether the circuit goes on.
    fn tick(&mut self, seconds: u64) -> bool {
        let mut env = Env { now: Time(seconds * 1_000_000), wall: Wall(0), rng: &mut self.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut self.out };
        self.origins.tick(&mut ctx, &mut self.links);
        self.origins.is_built(self.key)
    }

    fn takes(&self, host: usize) -> bool {
        self.origins.takes(self.key, &self.hosts[host], FETCH)
    }

    fn circuit(&mut self) -> &mut Origin {
        self.origins.circuits.get_mut(self.key).unwrap()
    }
}

#[test]
fn a_circuit_never_asks_for_more_streams_than_its_last_hop_takes() {
    let mut bench = Bench::new();
    (0..STREAMS_MAX).for_each(|host| bench.ask(host));
    assert!(STREAMS_MAX < limits::CIRCUIT_LEGS && bench.circuit().streams.len() == STREAMS_MAX);
    assert!(!bench.takes(39), "all are busy");
    assert!(bench.takes(0), "on the stream that is open");
    let quiet = bench.hosts[5];
    bench.circuit().streams.values_mut().filter(|s| s.host == quiet).for_each(|s| s.queued.clear());
    assert!(bench.takes(39), "one waits for nothing");
    bench.ask(39);
    assert_eq!(bench.circuit().streams.len(), STREAMS_MAX);
    assert!(bench.circuit().streams.values().all(|s| s.host != quiet) && !bench.takes(5), "it made room");
    assert!(bench.origins.poll_event().is_none(), "no request failed for it");
}

#[test]
fn a_circuit_begins_no_more_streams_than_its_last_hop_counts() {
    let mut bench = Bench::new();
    let open = |bench: &mut Bench, n: usize| {
        bench.hosts.get(n).is_some_and(|h| bench.origins.circuits.get(bench.key).unwrap().streams.values().any(|s| s.host == *h))
    };
    for n in 0..100_000 {
        if bench.origins.is_spent(bench.key) {
            break;
        }
        bench.ask(n % 40);
        bench.circuit().streams.values_mut().for_each(|s| s.queued.clear());
    }
    assert_eq!(bench.circuit().begun, limits::CIRCUIT_BEGINS);
    let (at_hand, other): (Vec<usize>, Vec<usize>) = (0..40).partition(|n| open(&mut bench, *n));
    assert!(at_hand.iter().all(|n| bench.takes(*n)), "what is open goes on");
    assert!(!other.is_empty() && !other.iter().any(|n| bench.takes(*n)));
    bench.ask(at_hand[0]);
    bench.ask(other[0]);
    assert_eq!(bench.circuit().begun, limits::CIRCUIT_BEGINS);
}

#[test]
fn a_stream_that_is_used_up_ends_with_its_last_answer() {
    let mut bench = Bench::new();
    bench.ask(0);
    let (stream, session) = bench.session(FETCH);
    let s = bench.circuit().streams.get_mut(&stream).unwrap();
    s.queued.clear();
    (s.session, s.next) = (Some(session), limits::SESSION_REQUESTS_MAX);
    s.in_flight.push_back((limits::SESSION_REQUESTS_MAX - 1, RequestId(1), Time(9)));
    for cell in 0..FETCH.response_len() / RELAY_DATA {
        assert_eq!(bench.circuit().streams.len(), 1, "before cell {cell}");
        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut bench.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut bench.out };
        bench.origins.data(&mut ctx, &mut bench.links, bench.key, stream, &[7; RELAY_DATA]);
    }
    assert!(bench.circuit().streams.is_empty());
    assert!(matches!(bench.origins.poll_event(), Some(OriginEvent::Answer { request: RequestId(1), .. })));
    assert!(bench.origins.poll_event().is_none());
}

/// A session widens with each answer as long as what was begun leaves: on a line that is behind, more of it would only wait there until
/// hosts give it up.
#[test]
fn fetches_leave_several_at_a_time_and_stores_as_the_line_takes_them() {
    const CASES: [(SessionType, bool, &str); 3] = [
        (FETCH, true, "8 7 6 5 4 3 8 7 6 5 4 3 8"),
        (STORE, true, "4 5 6 7 8 8 8 8 8 8 8 8 8"),
        (STORE, false, "4 4 4 4 4 4 4 4 4 4 4 4 4"),
    ];
    for (kind, carries, in_flight) in CASES {
        let mut bench = Bench::new();
        (0..30).for_each(|_| bench.ask_for(0, kind));
        let (stream, session) = bench.session(kind);
        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut bench.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut bench.out };
        bench.origins.session_open(&mut ctx, &mut bench.links, bench.key, stream, Some((session, vec![0; 100])));
        let seen: Vec<String> = (0..13)
            .map(|_| {
                if carries {
                    bench.carry();
                }
                let n = bench.circuit().streams[&stream].in_flight.len();
                bench.answer(stream, kind);
                n.to_string()
            })
            .collect();
        assert_eq!(seen.join(" "), in_flight, "{kind:?}, {carries}");
    }
}

#[test]
fn a_session_that_pauses_is_ended_before_its_host_does_so() {
    let mut bench = Bench::new();
    bench.ask(0);
    let (stream, session) = bench.session(FETCH);
    let at = |bench: &mut Bench, seconds: u64, session: Option<ClientSession>| {
        let mut env = Env { now: Time(seconds * 1_000_000), wall: Wall(0), rng: &mut bench.rng };
        let mut ctx = Ctx { env: &mut env, out: &mut bench.out };
        match session {
            Some(session) => {
                let opened = Some((session, vec![0; 100]));
                bench.origins.session_open(&mut ctx, &mut bench.links, bench.key, stream, opened);
            }
            None => bench.origins.tick(&mut ctx, &mut bench.links),
        }
        bench.circuit().streams.len()
    };
    assert_eq!(at(&mut bench, 2, Some(session)), 1);
    assert_eq!(at(&mut bench, 50, None), 1, "an answer is awaited");
    bench.answer(stream, FETCH);
    assert_eq!(at(&mut bench, 66, None), 0, "nothing is awaited, and nothing left for long");
    assert!(matches!(bench.origins.poll_event(), Some(OriginEvent::Answer { .. })) && bench.origins.poll_event().is_none());
    bench.ask(0);
    assert_eq!((bench.circuit().begun, bench.circuit().streams.len()), (2, 1), "the next request opens a session anew");
    assert_eq!(at(&mut bench, 100, None), 1, "it waits for its opening");
    bench.circuit().streams.values_mut().for_each(|s| {
        s.queued.clear();
        s.moved = Time(90_000_000);
    });
    assert_eq!(at(&mut bench, 120, None), 1, "it pauses, and not for long");
    assert_eq!(at(&mut bench, 136, None), 0);
    assert!(bench.origins.timeout().is_none(), "nothing is left to look after");
}

/// An answer as a last hop cuts it.
fn parts(answer: &[u8]) -> Vec<Vec<u8>> {
    let whole = [&(answer.len() as u32).to_be_bytes(), answer].concat();
    whole.chunks(RELAY_DATA).map(<[u8]>::to_vec).collect()
}

#[test]
fn an_answer_is_put_together_and_two_questions_may_be_out() {
    let mut bench = Bench::new();
    assert!(bench.question(0, 70) && bench.question(0, 71) && !bench.question(0, 72));
    let long: Vec<u8> = (0..ANSWER_MAX).map(|n| n as u8).collect();
    let cells = parts(&long);
    assert_eq!(cells.len(), ANSWER_CELLS);
    for (at, part) in cells.iter().enumerate() {
        assert!(bench.origins.poll_event().is_none() && bench.told(1, 1, part), "cell {at}");
    }
    let told = bench.origins.poll_event();
    assert!(matches!(told, Some(OriginEvent::Told { token: 70, answer, .. }) if answer == long));
    assert!(bench.question(2, 73) && !bench.question(2, 74));
    for (n, token) in [(2, 71), (3, 73)] {
        assert!(bench.told(3, n, &parts(&[])[0]), "one that is not given");
        let told = bench.origins.poll_event();
        assert!(matches!(told, Some(OriginEvent::Told { token: t, answer, .. }) if t == token && answer.is_empty()));
    }
    assert!(bench.tick(1000) && bench.origins.timeout().is_none(), "nothing is left to look after");
}

/// T29: an answer that nobody asked for would let any last hop speak of coverage.
#[test]
fn unasked_answers_end_the_circuit_and_count_for_nothing() {
    let answer = parts(b"everyone is there");
    let full = parts(&vec![1; ANSWER_MAX]);
    let mut larger = full[0].clone();
    larger[..4].copy_from_slice(&(ANSWER_MAX as u32 + 1).to_be_bytes());
    let mut largest = full[0].clone();
    largest[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let two = [answer[0].clone(), vec![7]].concat();
    for (name, asked, said) in [
        ("unasked", 0, vec![(1, &answer[0])]),
        ("twice", 1, vec![(1, &answer[0]), (1, &answer[0])]),
        ("to another question", 1, vec![(2, &answer[0])]),
        ("out of order", 2, vec![(2, &answer[0])]),
        ("mixed", 2, vec![(1, &full[0]), (2, &full[1])]),
        ("longer than any", 1, vec![(1, &larger)]),
        ("as long as can be said", 1, vec![(1, &largest)]),
        ("no length", 1, vec![(1, &vec![0; 3])]),
        ("nothing at all", 1, vec![(1, &vec![])]),
        ("longer than it says", 1, vec![(1, &two)]),
        ("a part that is not full", 1, vec![(1, &full[0]), (1, &vec![1; RELAY_DATA - 1])]),
        ("a part of nothing", 1, vec![(1, &full[0]), (1, &vec![])]),
    ] {
        let mut bench = Bench::new();
        (0..asked).for_each(|token| assert!(bench.question(0, token)));
        let last = said.len() - 1;
        for (at, (n, data)) in said.into_iter().enumerate() {
            assert_eq!(bench.told(1, n, data), at < last, "{name}: cell {at}");
        }
        let told = core::iter::from_fn(|| bench.origins.poll_event()).filter(|e| matches!(e, OriginEvent::Told { .. })).count();
        assert_eq!(told, usize::from(name == "twice"), "{name}");
    }
}

#[test]
fn a_question_without_an_answer_ends_its_circuit() {
    let mut bench = Bench::new();
    assert!(bench.question(0, 1));
    assert!(bench.tick(9) && !bench.tick(10), "nothing came");
    assert!(matches!(bench.origins.poll_event(), Some(OriginEvent::Ended { .. })));
    assert!(!bench.question(11, 2));
    // A part now and then does not do.
    let mut bench = Bench::new();
    assert!(bench.question(0, 1));
    let parts = parts(&vec![1; ANSWER_MAX]);
    for (at, part) in parts[..6].iter().enumerate() {
        assert!(bench.told(9 + 9 * at as u64, 1, part) && bench.tick(9 + 9 * at as u64));
    }
    assert!(bench.tick(59) && !bench.tick(60));
    // While it has not even left, the line is slow; but not for ever.
    let mut bench = Bench::new();
    let port = bench.circuit().port.unwrap();
    bench.links.starve(port);
    assert!(bench.question(0, 1) && bench.tick(10) && bench.tick(20) && bench.tick(59) && !bench.tick(60));
    // The second waits for the first.
    let mut bench = Bench::new();
    assert!(bench.question(0, 1) && bench.question(0, 2));
    assert!(bench.told(9, 1, &parts[0]) && bench.tick(18));
    for part in &parts[1..] {
        assert!(bench.told(18, 1, part));
    }
    assert!(bench.tick(27) && !bench.tick(28));
}
