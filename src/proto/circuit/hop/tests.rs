use super::*;
use crate::base::Env;
use crate::base::NetworkId;
use crate::base::Position;
use crate::base::Wall;
use crate::proto::memory::Memory;
use crate::proto::out::Out;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::plain;
use crate::proto::overlay::testing::view_with_witnesses;
use crate::proto::overlay::testing::vouched_at;
use crate::wire::cell::ANSWER_CELLS;
use crate::wire::cell::ANSWER_MAX;
use crate::wire::cell::RELAY_DATA;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A relay's circuits, the links they come over, and a clock.
struct Bench {
    hops: Hops,
    links: Links,
    out: Out,
    now: Time,
    rng: StdRng,
}

impl Bench {
    fn new() -> Self {
        Self {
            hops: Hops::new(Memory::default()),
            links: Links::new(NetworkId([1; 32]), None, Memory::default()),
            out: Out::default(),
            now: Time(0),
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn with<T>(&mut self, step: impl FnOnce(&mut Hops, &mut Ctx<'_, '_>, &mut Links) -> T) -> T {
        let mut env = Env { now: self.now, wall: Wall(0), rng: &mut self.rng };
        step(&mut self.hops, &mut Ctx { env: &mut env, out: &mut self.out }, &mut self.links)
    }

    /// A circuit that is this link's `n`th, with legs numbered from 1, all of which wait for their hosts' links.
    fn stand(&mut self, link: LinkId, n: u32, legs: u16) -> (Key, PortKey) {
        let key = self.hops.hops.reserve();
        let prev = self.links.accept_port(link, CircuitId::new(n).unwrap(), Owner::HopPrev(key)).unwrap();
        let seat = self.hops.seats.enter(&self.links.remote(link).unwrap()).unwrap();
        let (layer, begun) = (RelayLayer::new(&secret()), legs);
        let legs = (1..=legs).map(|n| (StreamId(n), Leg::Waiting(Vec::new()))).collect();
        let (next, pace) = (Next::None, Pace::default());
        self.hops.hops.fill(key, Box::new(Hop { prev, next, early_seen: 0, begun, legs, layer, seat, moved: Time(0), pace }));
        (key, prev)
    }

    /// Lets a handshake wait, if there is room.
    fn admit(&mut self, link: LinkId, circuit: CircuitId) -> bool {
        let pending = self.hops.admit(&self.links, link, circuit);
        pending.map(|pending| self.hops.pending.insert((link, circuit), pending)).is_some()
    }

    /// A link's `n`th circuit, with its handshake, if there is room.
    fn create(&mut self, link: LinkId, n: u32) -> bool {
        let circuit = CircuitId::new(n).unwrap();
        let admitted = self.admit(link, circuit);
        if admitted {
            self.with(|hops, ctx, links| {
                hops.created(ctx, links, link, circuit, Some((vec![0; 8], secret())));
                links.flush(ctx);
                links.sent(ctx, link, 1);
            });
        }
        admitted
    }

    /// What the client says to this hop, which knows no other relay; whether the circuit goes on.
    fn say(&mut self, key: Key, command: RelayCommand, stream: u16) -> bool {
        let (mut body, nobody) = (body(command, stream, &[9; 32]), View::new(true));
        let verdict = self.with(|hops, ctx, links| hops.for_us(ctx, links, &nobody, key, false, &mut body));
        !matches!(verdict, Verdict::Destroy)
    }

    /// A question of the client, and its answer of so many bytes; whether the circuit goes on.
    fn ask(&mut self, key: Key, answer: usize) -> bool {
        let goes_on = self.say(key, RelayCommand::Directory, 7);
        if goes_on {
            self.with(|hops, ctx, links| hops.tell(ctx, links, key, StreamId(7), Some(&vec![1; answer])));
        }
        goes_on
    }
}

fn secret() -> Secret<160> {
    Secret::new([3; 160])
}

fn body(command: RelayCommand, stream: u16, data: &[u8]) -> [u8; BODY] {
    let mut body = [0; BODY];
    RelayMessage { command, stream: StreamId(stream), data }.write(&mut body);
    body
}

#[test]
fn a_leg_that_ended_keeps_its_place_until_its_dial_is_over() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let (key, _) = bench.stand(link, 1, limits::CIRCUIT_LEGS as u16);
    assert!(bench.say(key, RelayCommand::End, 1));
    assert!(bench.say(key, RelayCommand::End, 1), "twice is as once");
    assert!(!bench.say(key, RelayCommand::Begin, 99), "no place is free yet");
    bench.with(|hops, ctx, links| hops.leg_open(ctx, links, key, StreamId(1), link));
    assert!(bench.say(key, RelayCommand::Begin, 99), "now one is");
}

#[test]
fn many_links_of_one_prefix_do_not_take_all_circuits() {
    let mut bench = Bench::new();
    bench.links.open_unshaken_from(LinkId(200), None, ([198, 51, 100, 1], 1).into());
    let mut carried = 0;
    for n in 1..=98u8 {
        let link = LinkId(n.into());
        bench.links.open_unshaken_from(link, None, ([203, 0, 113, n], 1).into());
        carried += (1..=512).filter(|circuit| bench.create(link, *circuit)).count();
    }
    let share = Memory::default().circuits().div_ceil(9);
    assert_eq!((carried, bench.hops.len()), (share, share));

    let first = bench.hops.hops.iter().next().unwrap().0;
    bench.with(|hops, ctx, links| hops.destroy(ctx, links, first));
    assert!(bench.create(LinkId(98), 600), "a place is free again");
    assert!(!bench.create(LinkId(98), 601));
    assert!((1..=512).all(|circuit| bench.create(LinkId(200), circuit)), "everyone else finds room");
}

/// A flood through honest relays: one address has few circuits at each of them, under whatever names, and so few at their target.
#[test]
fn an_address_builds_so_many_circuits_whatever_its_links_call_themselves() {
    let mut bench = Bench::new();
    let (mut view, relay) = (view_with_witnesses(), NodeId([9; 32]));
    view.insert(vouched_at(plain(relay, ([192, 0, 2, 1], 443).into()), 3, 0, Position([9; 32])), NOW);
    let peers = [None, Some(NodeId([1; 32])), None, Some(NodeId([2; 32]))];
    for (n, peer) in (1..).zip(peers) {
        bench.links.open_unshaken_from(LinkId(n), peer, ([203, 0, 113, 7], 1).into());
    }
    bench.links.open_unshaken_from(LinkId(9), Some(relay), ([203, 0, 113, 8], 1).into());
    bench.links.open_unshaken_from(LinkId(10), Some(relay), ([192, 0, 2, 7], 1).into());
    bench.links.open_unshaken_from(LinkId(11), None, ([198, 51, 100, 1], 1).into());
    let mut built = |seconds: u64, links: &[u64]| {
        let now = Time(seconds * 1_000_000);
        let may = |n: &usize| bench.hops.may_build(now, &bench.links, &view, LinkId(links[n % links.len()]));
        (0..100_000).filter(may).count()
    };
    let at_once = builds::AT_ONCE as usize;
    assert_eq!(built(100, &[1, 2, 3, 4]), at_once);
    assert_eq!(built(110, &[1, 2, 3, 4]), 160, "sixteen a second");
    assert_eq!(built(110, &[11]), at_once, "another's are its own");
    assert_eq!(built(110, &[9]), 0, "a relay's name, from where that relay is not");
    assert_eq!(built(110, &[10]), 100_000, "a relay brings those of many");
}

#[test]
fn handshakes_that_wait_are_shared_out_and_give_their_places_back() {
    let mut bench = Bench::new();
    bench.links.open_unshaken_from(LinkId(200), None, ([198, 51, 100, 1], 1).into());
    let mut waiting = Vec::new();
    for n in 1..=8u8 {
        let link = LinkId(n.into());
        bench.links.open_unshaken_from(link, None, ([203, 0, 113, n], 1).into());
        waiting.extend((1..=512).filter_map(CircuitId::new).filter(|c| bench.admit(link, *c)).map(|c| (link, c)));
    }
    assert_eq!(waiting.len(), PENDING_MAX.div_ceil(3));
    let other = CircuitId::new(1).unwrap();
    assert!(bench.hops.admit(&bench.links, LinkId(200), other).is_some(), "another's handshake has its turn");
    for (link, circuit) in waiting {
        // It does not verify, or its link is gone.
        bench.with(|_, ctx, links| links.down(ctx, link));
        let result = (circuit.get() % 2 == 0).then(|| (vec![], secret()));
        bench.with(|hops, ctx, links| hops.created(ctx, links, link, circuit, result));
    }
    assert!(bench.hops.is_empty() && bench.hops.pending.is_empty());
    assert_eq!((bench.hops.seats.taken(), bench.hops.turns.taken()), (1, 1), "of the one that waits");
}

#[test]
fn an_answer_gives_its_credit_back_when_it_leaves() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    // Three legs: one that its host will end, one whose link fails, one that the client ends.
    let (key, prev) = bench.stand(link, 1, 3);
    let host = bench.links.open_port(link, Owner::Leg(key, StreamId(1))).unwrap();
    bench.hops.hops.get_mut(key).unwrap().legs.insert(StreamId(1), Leg::Open(host));
    bench.links.starve(prev);
    assert!(bench.ask(key, 2 * RELAY_DATA), "an answer of three cells");
    for n in 0..13 {
        assert!(bench.say(key, RelayCommand::Begin, 100 + n), "of a host that nobody knows");
    }
    assert!(bench.ask(key, ANSWER_MAX + 1), "one that is not given");
    assert!(bench.say(key, RelayCommand::End, 3));
    assert_eq!(bench.links.owed(prev), 2, "of the end, and of what it ended");
    bench.with(|hops, ctx, links| {
        hops.leg_cell(ctx, links, key, StreamId(1), host, &mut body(RelayCommand::End, 0, &[]));
        hops.leg_gone(ctx, links, key, StreamId(2));
        hops.leg_gone(ctx, links, key, StreamId(3));
    });
    assert_eq!((bench.links.queued_on(prev), bench.links.owed(prev)), (19, 2), "nothing has left");
    bench.with(|_, ctx, links| links.feed(ctx, prev, 2));
    assert_eq!((bench.links.queued_on(prev), bench.links.owed(prev)), (17, 2), "its last cell has not");
    bench.with(|_, ctx, links| links.feed(ctx, prev, 3));
    assert_eq!((bench.links.queued_on(prev), bench.links.owed(prev)), (14, 5));
}

#[test]
fn who_asks_and_does_not_read_has_two_answers_queued_and_no_more() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    for answer in [ANSWER_MAX, 10 * RELAY_DATA, 1] {
        let cells = (answer + 4).div_ceil(RELAY_DATA);
        let (key, prev) = bench.stand(link, answer as u32, 0);
        bench.links.starve(prev);
        let mut asked = 0;
        while bench.ask(key, answer) {
            asked += 1;
            assert!(bench.links.queued_on(prev) <= 2 * ANSWER_CELLS, "after {asked}");
        }
        assert!(asked >= limits::QUESTIONS_OUT, "what an honest client may have out is answered");
        assert_eq!((asked, bench.links.owed(prev)), (ANSWER_CELLS / cells + 1, 0));
        // What was read makes room.
        bench.with(|_, ctx, links| links.feed(ctx, prev, cells as u32));
        assert!(bench.ask(key, answer));
    }
}

#[test]
fn who_asks_too_fast_is_answered_no_more() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let (key, prev) = bench.stand(link, 1, 0);
    let ask = |bench: &mut Bench| {
        let goes_on = bench.ask(key, 10);
        bench.with(|_, ctx, links| {
            links.feed(ctx, prev, 1);
            links.flush(ctx);
            links.sent(ctx, link, 1);
        });
        goes_on
    };
    assert_eq!((0..1000).take_while(|_| ask(&mut bench)).count(), limits::QUESTIONS_AT_ONCE as usize);
    bench.now = Time(0) + 3 * limits::QUESTION_EVERY;
    assert_eq!((0..1000).take_while(|_| ask(&mut bench)).count(), 3);
}

/// What is asked is for the overlay to judge; what it has no answer for ends the circuit, and so does a question that is not for us.
#[test]
fn only_a_last_hop_is_asked_and_what_it_does_not_answer_ends_the_circuit() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let (key, prev) = bench.stand(link, 1, 0);
    let (question, nobody) = (body(RelayCommand::Directory, 9, b"who is there?"), View::new(true));
    let asked = bench.with(|hops, ctx, links| hops.for_us(ctx, links, &nobody, key, false, &mut question.clone()));
    let Verdict::Question(asked) = asked else { panic!("not asked") };
    assert_eq!(asked, Question { stream: StreamId(9), bytes: b"who is there?".to_vec() });
    bench.with(|hops, ctx, links| hops.tell(ctx, links, key, asked.stream, None));
    assert!(bench.hops.is_empty() && bench.hops.seats.taken() == 0 && bench.links.port_link(prev).is_none());
    bench.with(|hops, ctx, links| hops.tell(ctx, links, key, asked.stream, Some(&[1])));

    let (key, _) = bench.stand(link, 2, 0);
    let next = bench.links.open_port(link, Owner::HopNext(key)).unwrap();
    for next in [Next::Open(next), Next::Creating(next), Next::Dialing(Box::new([0; BODY]))] {
        bench.hops.hops.get_mut(key).unwrap().next = next;
        assert!(!bench.say(key, RelayCommand::Directory, 9));
    }
    assert!(!bench.say(key, RelayCommand::DirectoryReply, 9), "a client has no answers");
}

#[test]
fn a_circuit_begins_so_many_legs_and_no_more() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let (key, _) = bench.stand(link, 1, 0);
    let mut begun = 0;
    while bench.say(key, RelayCommand::Begin, 1) {
        begun += 1;
    }
    assert_eq!(begun, limits::CIRCUIT_BEGINS);
}

#[test]
fn cells_that_wait_for_links_are_bounded_and_give_their_places_back() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let keys: Vec<Key> = (1..=250).map(|n| bench.stand(link, n, 2).0).collect();
    // Each circuit may have so many cells on their way here; the first of a leg that finds no place ends that leg.
    let ended = |bench: &Bench, key| {
        let legs = &bench.hops.hops.get(key).unwrap().legs;
        legs.values().filter(|leg| matches!(leg, Leg::Ended)).count()
    };
    let (full, mut said) = (Memory::default().cells_for_hosts().div_ceil(3), 0);
    for key in &keys {
        for n in 0..limits::WINDOW_MIN {
            assert!(bench.say(*key, RelayCommand::Data, 1 + (n % 2) as u16), "the circuit goes on");
            said += 1;
            assert!(bench.hops.waits.taken() == said || said > full);
        }
    }
    assert!(said > full && bench.hops.waits.taken() <= full && bench.hops.len() == keys.len());
    let last = *keys.last().unwrap();
    let prev = bench.hops.hops.get(last).unwrap().prev;
    assert_eq!((ended(&bench, keys[0]), ended(&bench, last)), (0, 2));
    // The client is told once for each leg, and has the credit of all its cells back.
    let credit = |bench: &Bench| bench.links.owed(prev) + bench.links.queued_on(prev) as u32;
    assert_eq!(credit(&bench), limits::WINDOW_MIN + 2);
    let before = bench.hops.waits.taken();
    // One leg is ended by its client, another finds no link, a third finds one; the rest goes with its circuits.
    assert!(bench.say(keys[0], RelayCommand::End, 1));
    bench.with(|hops, ctx, links| {
        hops.leg_gone(ctx, links, keys[0], StreamId(2));
        hops.leg_open(ctx, links, keys[1], StreamId(1), link);
        hops.leg_open(ctx, links, last, StreamId(1), link);
    });
    assert!(!bench.hops.hops.get(last).unwrap().legs.contains_key(&StreamId(1)), "its place is free when its dial is over");
    assert_eq!(credit(&bench), limits::WINDOW_MIN + 2, "and nobody is told again");
    let left = before - 3 * limits::WINDOW_MIN as usize / 2;
    assert_eq!(bench.hops.waits.taken(), left);
    for key in keys {
        bench.with(|hops, ctx, links| hops.destroy(ctx, links, key));
    }
    assert_eq!((bench.hops.waits.taken(), bench.hops.seats.taken()), (0, 0));
}

#[test]
fn circuits_over_which_nothing_moves_end_and_give_their_places_back() {
    let mut bench = Bench::new();
    // As many as two rounds look at, over three relays of one prefix, and one whose client says a word now and then.
    for n in 0..=IDLE_BATCH as u32 {
        let link = LinkId(u64::from(n / 400));
        if n % 400 == 0 {
            bench.links.open_unshaken_from(link, None, ([203, 0, 113, (n / 400) as u8], 1).into());
        }
        assert!(bench.create(link, n % 400 + 1));
    }
    let busy = bench.hops.hops.iter().last().unwrap().0;
    let mut client = crate::crypto::cgo::ClientLayers::new();
    client.push(&secret());
    let mut word = |bench: &mut Bench, now| {
        let mut body = body(RelayCommand::Drop, 0, &[]);
        client.originate(0, Command::Relay as u8, &mut body);
        let nobody = View::new(true);
        bench.now = now;
        bench.with(|hops, ctx, links| hops.outbound(ctx, links, &nobody, busy, false, &mut body));
        bench.with(Hops::tick);
    };
    let (first, _) = bench.hops.timeout().unwrap();
    assert_eq!(first, Time(0) + IDLE_MAX + IDLE_GRID);
    word(&mut bench, Time(0) + IDLE_MAX);
    assert_eq!(bench.hops.len(), IDLE_BATCH + 1, "not yet");
    word(&mut bench, first);
    assert_eq!((bench.hops.len(), bench.hops.timeout().unwrap().0), (1, first + IDLE_REST), "one is still to be looked at");
    word(&mut bench, first + IDLE_REST);
    assert_eq!((bench.hops.len(), bench.hops.seats.taken()), (1, 1));
    // Nothing more is said.
    let (next, _) = bench.hops.timeout().unwrap();
    assert_eq!(next, first + IDLE_MAX + IDLE_GRID);
    bench.now = next;
    bench.with(Hops::tick);
    assert!(bench.hops.is_empty() && bench.hops.seats.taken() == 0 && bench.hops.timeout().is_none());
}
