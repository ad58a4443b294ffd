use super::*;
use crate::base::Env;
use crate::base::NetworkId;
use crate::base::Time;
use crate::base::Wall;
use crate::proto::out::Out;
use rand::SeedableRng;

#[test]
fn a_leg_that_ended_keeps_its_place_until_its_dial_is_over() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let (mut ctx, view) = (Ctx { env: &mut env, out: &mut out }, View::new(true));
    let link = LinkId(1);
    links.open_unshaken(link, None);
    let key = hops.hops.reserve();
    let prev = links.accept_port(link, CircuitId(core::num::NonZeroU32::MIN), Owner::HopPrev(key)).unwrap();
    let legs: BTreeMap<_, _> = (1..=limits::CIRCUIT_LEGS as u16).map(|n| (StreamId(n), Leg::Waiting(Vec::new()))).collect();
    let layer = RelayLayer::new(&Secret::new([3; 160]));
    let seat = hops.seats.enter(&links.remote(link).unwrap()).unwrap();
    hops.hops.fill(key, Box::new(Hop { prev, next: Next::None, early_seen: 0, begun: 0, legs, layer, seat, moved: Time(0) }));

    let mut say = |hops: &mut Hops, links: &mut Links, command, stream| {
        let mut body = [0; BODY];
        RelayMessage { command, stream: StreamId(stream), data: &[9; 32] }.write(&mut body);
        hops.for_us(&mut ctx, links, &view, key, false, &mut body)
    };
    let end = say(&mut hops, &mut links, RelayCommand::End, 1);
    assert!(matches!(end, Verdict::Fine));
    assert!(matches!(say(&mut hops, &mut links, RelayCommand::End, 1), Verdict::Fine), "twice is as once");
    assert!(matches!(say(&mut hops, &mut links, RelayCommand::Begin, 99), Verdict::Destroy), "no place is free yet");
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    hops.leg_open(&mut ctx, &mut links, key, StreamId(1), link);
    let mut body = [0; BODY];
    RelayMessage { command: RelayCommand::Begin, stream: StreamId(99), data: &[9; 32] }.write(&mut body);
    assert!(matches!(hops.for_us(&mut ctx, &mut links, &view, key, false, &mut body), Verdict::Fine), "now one is");
}

#[test]
fn many_links_of_one_prefix_do_not_take_all_circuits() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    let mut create = |hops: &mut Hops, links: &mut Links, link: LinkId, n: u32| {
        let circuit = CircuitId::new(n).unwrap();
        let Some(pending) = hops.admit(links, link, circuit) else { return false };
        hops.pending.insert((link, circuit), pending);
        hops.created(&mut ctx, links, link, circuit, Some((vec![0; 8], Secret::new([3; 160]))));
        links.flush(&mut ctx);
        links.sent(&mut ctx, link, 1);
        true
    };
    links.open_unshaken_from(LinkId(200), None, ([198, 51, 100, 1], 1).into());
    let mut carried = 0;
    for n in 1..=98u8 {
        let link = LinkId(n.into());
        links.open_unshaken_from(link, None, ([203, 0, 113, n], 1).into());
        carried += (1..=512).filter(|circuit| create(&mut hops, &mut links, link, *circuit)).count();
    }
    assert_eq!((carried, hops.len()), (HOPS_MAX.div_ceil(9), HOPS_MAX.div_ceil(9)));

    let first = hops.hops.iter().next().unwrap().0;
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rand::rngs::StdRng::seed_from_u64(2) };
    hops.destroy(&mut Ctx { env: &mut env, out: &mut Out::default() }, &mut links, first);
    assert!(create(&mut hops, &mut links, LinkId(98), 600), "a place is free again");
    assert!(!create(&mut hops, &mut links, LinkId(98), 601));
    assert!((1..=512).all(|circuit| create(&mut hops, &mut links, LinkId(200), circuit)), "everyone else finds room");
}

#[test]
fn handshakes_that_wait_are_shared_out_and_give_their_places_back() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    links.open_unshaken_from(LinkId(200), None, ([198, 51, 100, 1], 1).into());
    let mut waiting = Vec::new();
    for n in 1..=8u8 {
        let link = LinkId(n.into());
        links.open_unshaken_from(link, None, ([203, 0, 113, n], 1).into());
        for circuit in (1..=512).filter_map(CircuitId::new) {
            if let Some(pending) = hops.admit(&links, link, circuit) {
                waiting.push((link, circuit));
                hops.pending.insert((link, circuit), pending);
            }
        }
    }
    assert_eq!(waiting.len(), PENDING_MAX.div_ceil(3));
    let other = CircuitId::new(1).unwrap();
    assert!(hops.admit(&links, LinkId(200), other).is_some(), "another's handshake has its turn");
    for (link, circuit) in waiting {
        // It does not verify, or its link is gone.
        links.down(link);
        hops.created(&mut ctx, &mut links, link, circuit, (circuit.get() % 2 == 0).then(|| (vec![], Secret::new([3; 160]))));
    }
    assert!(hops.is_empty() && hops.pending.is_empty());
    assert_eq!((hops.seats.taken(), hops.turns.taken()), (1, 1), "of the one that waits");
}

#[test]
fn an_answer_gives_its_credit_back_when_it_leaves() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let (mut ctx, view) = (Ctx { env: &mut env, out: &mut out }, View::new(true));
    let link = LinkId(1);
    links.open_unshaken(link, None);
    let key = hops.hops.reserve();
    let prev = links.accept_port(link, CircuitId(core::num::NonZeroU32::MIN), Owner::HopPrev(key)).unwrap();
    let layer = RelayLayer::new(&Secret::new([3; 160]));
    let seat = hops.seats.enter(&links.remote(link).unwrap()).unwrap();
    // Three legs: one that its host will end, one whose link fails, one that the client ends.
    let host = links.open_port(link, Owner::Leg(key, StreamId(1))).unwrap();
    let legs = [(StreamId(1), Leg::Open(host)), (StreamId(2), Leg::Waiting(Vec::new())), (StreamId(3), Leg::Waiting(Vec::new()))];
    hops.hops.fill(
        key,
        Box::new(Hop { prev, next: Next::None, early_seen: 0, begun: 3, legs: legs.into(), layer, seat, moved: Time(0) }),
    );
    links.starve(prev);
    let mut say = |hops: &mut Hops, links: &mut Links, command, stream| {
        let mut body = [0; BODY];
        RelayMessage { command, stream: StreamId(stream), data: &[9; 32] }.write(&mut body);
        matches!(hops.for_us(&mut ctx, links, &view, key, false, &mut body), Verdict::Fine)
    };
    for n in 0..10 {
        assert!(say(&mut hops, &mut links, RelayCommand::Begin, 100 + n), "of a host that nobody knows");
        assert!(say(&mut hops, &mut links, RelayCommand::Sample, 0));
    }
    assert!(say(&mut hops, &mut links, RelayCommand::End, 3));
    assert_eq!(links.owed(prev), 2, "of the end, and of what it ended");
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    let mut body = [0; BODY];
    RelayMessage { command: RelayCommand::End, stream: StreamId(0), data: &[] }.write(&mut body);
    hops.leg_cell(&mut ctx, &mut links, key, StreamId(1), host, &mut body);
    hops.leg_gone(&mut ctx, &mut links, key, StreamId(2));
    hops.leg_gone(&mut ctx, &mut links, key, StreamId(3));
    assert_eq!((links.queued_on(prev), links.owed(prev)), (22, 2), "nothing has left");
    links.feed(&mut ctx, prev, 5);
    assert_eq!((links.queued_on(prev), links.owed(prev)), (17, 7));
}

#[test]
fn a_circuit_begins_so_many_legs_and_no_more() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let (mut ctx, view) = (Ctx { env: &mut env, out: &mut out }, View::new(true));
    let link = LinkId(1);
    links.open_unshaken(link, None);
    let key = hops.hops.reserve();
    let prev = links.accept_port(link, CircuitId(core::num::NonZeroU32::MIN), Owner::HopPrev(key)).unwrap();
    let (layer, legs) = (RelayLayer::new(&Secret::new([3; 160])), BTreeMap::new());
    let seat = hops.seats.enter(&links.remote(link).unwrap()).unwrap();
    hops.hops.fill(key, Box::new(Hop { prev, next: Next::None, early_seen: 0, begun: 0, legs, layer, seat, moved: Time(0) }));
    let mut begun = 0;
    loop {
        let mut body = [0; BODY];
        RelayMessage { command: RelayCommand::Begin, stream: StreamId(1), data: &[9; 32] }.write(&mut body);
        match hops.for_us(&mut ctx, &mut links, &view, key, false, &mut body) {
            Verdict::Fine => begun += 1,
            Verdict::Destroy => break,
        }
    }
    assert_eq!(begun, limits::CIRCUIT_BEGINS);
}

#[test]
fn cells_that_wait_for_links_are_bounded_and_give_their_places_back() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let view = View::new(true);
    let link = LinkId(1);
    links.open_unshaken(link, None);
    let mut keys = Vec::new();
    for n in 1..=250 {
        let key = hops.hops.reserve();
        let prev = links.accept_port(link, CircuitId::new(n).unwrap(), Owner::HopPrev(key)).unwrap();
        let legs = (1..=2).map(|n| (StreamId(n), Leg::Waiting(Vec::new()))).collect();
        let layer = RelayLayer::new(&Secret::new([3; 160]));
        let seat = hops.seats.enter(&links.remote(link).unwrap()).unwrap();
        hops.hops.fill(key, Box::new(Hop { prev, next: Next::None, early_seen: 0, begun: 2, legs, layer, seat, moved: Time(0) }));
        keys.push(key);
    }
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    let mut say = |hops: &mut Hops, links: &mut Links, key, command, stream| {
        let mut body = [0; BODY];
        RelayMessage { command, stream: StreamId(stream), data: &[9; 32] }.write(&mut body);
        matches!(hops.for_us(&mut ctx, links, &view, key, false, &mut body), Verdict::Fine)
    };
    // Each circuit may have so many cells on their way here; the first of a leg that finds no place ends that leg.
    let ended = |hops: &Hops, key: Key| hops.hops.get(key).unwrap().legs.values().filter(|leg| matches!(leg, Leg::Ended)).count();
    let (full, mut said) = (WAITING_MAX.div_ceil(3), 0);
    for key in &keys {
        for n in 0..limits::WINDOW_MIN {
            assert!(say(&mut hops, &mut links, *key, RelayCommand::Data, 1 + (n % 2) as u16), "the circuit goes on");
            said += 1;
            assert!(hops.waits.taken() == said || said > full);
        }
    }
    assert!(said > full && hops.waits.taken() <= full && hops.len() == keys.len());
    let last = *keys.last().unwrap();
    let prev = hops.hops.get(last).unwrap().prev;
    assert_eq!((ended(&hops, keys[0]), ended(&hops, last)), (0, 2));
    // The client is told once for each leg, and has the credit of all its cells back.
    let credit = |links: &Links| links.owed(prev) + links.queued_on(prev) as u32;
    assert_eq!(credit(&links), limits::WINDOW_MIN + 2);
    let before = hops.waits.taken();
    // One leg is ended by its client, another finds no link, a third finds one; the rest goes with its circuits.
    assert!(say(&mut hops, &mut links, keys[0], RelayCommand::End, 1));
    let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut out };
    hops.leg_gone(&mut ctx, &mut links, keys[0], StreamId(2));
    hops.leg_open(&mut ctx, &mut links, keys[1], StreamId(1), link);
    hops.leg_open(&mut ctx, &mut links, last, StreamId(1), link);
    assert!(!hops.hops.get(last).unwrap().legs.contains_key(&StreamId(1)), "its place is free when its dial is over");
    assert_eq!(credit(&links), limits::WINDOW_MIN + 2, "and nobody is told again");
    let left = before - 3 * limits::WINDOW_MIN as usize / 2;
    assert_eq!(hops.waits.taken(), left);
    for key in keys {
        hops.destroy(&mut ctx, &mut links, key);
    }
    assert_eq!((hops.waits.taken(), hops.seats.taken()), (0, 0));
}

#[test]
fn circuits_over_which_nothing_moves_end_and_give_their_places_back() {
    let (mut hops, mut links, mut out) = (Hops::default(), Links::new(NetworkId([1; 32]), None), Out::default());
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let view = View::new(true);
    let secret = || Secret::new([3; 160]);
    let mut at = |hops: &mut Hops, links: &mut Links, now, step: &mut dyn FnMut(&mut Hops, &mut Links, &mut Ctx<'_, '_>)| {
        let mut env = Env { now, wall: Wall(0), rng: &mut rng };
        step(hops, links, &mut Ctx { env: &mut env, out: &mut out });
    };
    // As many as two rounds look at, over three relays of one prefix, and one whose client says a word now and then.
    for n in 0..=IDLE_BATCH as u32 {
        let link = LinkId(u64::from(n / 400));
        if n % 400 == 0 {
            links.open_unshaken_from(link, None, ([203, 0, 113, (n / 400) as u8], 1).into());
        }
        let circuit = CircuitId::new(n % 400 + 1).unwrap();
        let pending = hops.admit(&links, link, circuit).unwrap();
        hops.pending.insert((link, circuit), pending);
        at(&mut hops, &mut links, Time(0), &mut |hops, links, ctx| {
            hops.created(ctx, links, link, circuit, Some((vec![0; 8], secret())));
            links.flush(ctx);
            links.sent(ctx, link, 1);
        });
    }
    let busy = hops.hops.iter().last().unwrap().0;
    let mut client = crate::crypto::cgo::ClientLayers::new();
    client.push(&secret());
    let mut word = |hops: &mut Hops, links: &mut Links, now| {
        let mut body = [0; BODY];
        RelayMessage { command: RelayCommand::Drop, stream: StreamId(0), data: &[] }.write(&mut body);
        client.originate(0, Command::Relay as u8, &mut body);
        at(hops, links, now, &mut |hops, links, ctx| hops.outbound(ctx, links, &view, busy, false, &mut body));
        at(hops, links, now, &mut |hops, links, ctx| hops.tick(ctx, links));
    };
    let (first, _) = hops.timeout().unwrap();
    assert_eq!(first, Time(0) + IDLE_MAX + IDLE_GRID);
    word(&mut hops, &mut links, Time(0) + IDLE_MAX);
    assert_eq!(hops.len(), IDLE_BATCH + 1, "not yet");
    word(&mut hops, &mut links, first);
    assert_eq!((hops.len(), hops.timeout().unwrap().0), (1, first + IDLE_REST), "one is still to be looked at");
    word(&mut hops, &mut links, first + IDLE_REST);
    assert_eq!((hops.len(), hops.seats.taken()), (1, 1));
    // Nothing more is said.
    let (next, _) = hops.timeout().unwrap();
    assert_eq!(next, first + IDLE_MAX + IDLE_GRID);
    at(&mut hops, &mut links, next, &mut |hops, links, ctx| hops.tick(ctx, links));
    assert!(hops.is_empty() && hops.seats.taken() == 0 && hops.timeout().is_none());
}
