use super::flow::Arrived;
use super::flow::QUEUED_MAX;
use super::*;
use crate::base::Env;
use crate::base::StreamId;
use crate::proto::out::Out;
use crate::wire::cell::Header;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Links, their way out, and a clock.
struct Bench {
    links: Links,
    out: Out,
    now: Time,
    rng: StdRng,
}

impl Bench {
    fn new() -> Self {
        Self { links: Links::new(NetworkId([1; 32]), None), out: Out::default(), now: Time(0), rng: StdRng::seed_from_u64(1) }
    }

    fn with<T>(&mut self, step: impl FnOnce(&mut Links, &mut Ctx<'_, '_>) -> T) -> T {
        let mut env = Env { now: self.now, wall: Wall(0), rng: &mut self.rng };
        step(&mut self.links, &mut Ctx { env: &mut env, out: &mut self.out })
    }

    fn outputs(&mut self, wanted: impl Fn(&Output) -> bool) -> usize {
        core::mem::take(&mut self.out.queue).iter().filter(|o| wanted(o)).count()
    }
}

/// Some machine's key.
fn key() -> crate::proto::slab::Key {
    Slab::default().insert(())
}

fn theirs(n: usize) -> CircuitId {
    CircuitId::new(1 << 31 | u32::try_from(n).unwrap()).unwrap()
}

#[test]
fn a_link_without_an_identity_gets_few_circuits() {
    let mut bench = Bench::new();
    let (client, relay) = (LinkId(1), LinkId(2));
    bench.links.open_unshaken(client, None);
    bench.links.open_unshaken(relay, Some(NodeId([7; 32])));
    let create = |bench: &mut Bench, link, n| {
        let mut cell = [0; CELL];
        Header { circuit: Some(theirs(n)), command: Command::Create }.write(&mut cell);
        let wanted = bench.with(|links, ctx| links.arrived(ctx, link, &cell));
        matches!(wanted, Arrived::Create { .. }) && bench.links.accept_port(link, theirs(n), Owner::HopPrev(key())).is_some()
    };
    for n in 1..=CIRCUITS_OF_CLIENT_MAX {
        assert!(create(&mut bench, client, n) && create(&mut bench, relay, n), "circuit {n}");
    }
    let more = CIRCUITS_OF_CLIENT_MAX + 1;
    assert!(!create(&mut bench, client, more));
    // One whose handshake ran while the last place was taken.
    assert!(bench.links.accept_port(client, theirs(more), Owner::HopPrev(key())).is_none());
    assert!(create(&mut bench, relay, more), "a relay carries many clients' circuits");
    assert!(bench.links.knows(client), "it is refused, and its other circuits stand");
}

#[test]
fn dials_for_the_circuits_of_others_are_shared_out_and_our_own_are_not_bounded() {
    let mut bench = Bench::new();
    let addr = SocketAddr::from(([203, 0, 113, 7], 9));
    let node = |n: usize| NodeId([u8::try_from(n).unwrap(); 32]);
    let dials = |bench: &mut Bench| bench.outputs(|o| matches!(o, Output::Dial { .. }));
    // Two links of one prefix, each under a name of its own, and one of another.
    let port = |bench: &mut Bench, n: u8, remote: [u8; 4]| {
        let link = LinkId(n.into());
        bench.links.open_unshaken_from(link, Some(NodeId([n; 32])), (remote, 1).into());
        bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap()
    };
    let greedy = [port(&mut bench, 250, [198, 51, 100, 1]), port(&mut bench, 251, [198, 51, 100, 2])];
    let other = port(&mut bench, 252, [192, 0, 2, 1]);
    for n in 0..=LENT_DIALS_MAX {
        let waiter = if n % 2 == 0 { Waiter::Extend(key()) } else { Waiter::Leg(key(), StreamId(1)) };
        assert_eq!(bench.with(|links, ctx| links.lend(ctx, greedy[n % 2], node(n), addr, waiter)), None);
    }
    let most = LENT_DIALS_MAX.div_ceil(3);
    assert_eq!(dials(&mut bench), most);
    let told = bench.links.poll_event();
    assert!(matches!(&told, Some(LinkEvent::Down { waiters, was_open: false, .. }) if waiters.len() == 1), "{told:?}");
    assert_eq!(core::iter::from_fn(|| bench.links.poll_event()).count(), LENT_DIALS_MAX - most);

    bench.with(|links, ctx| links.lend(ctx, other, node(150), addr, Waiter::Extend(key())));
    assert_eq!(dials(&mut bench), 1, "another finds room");
    bench.with(|links, ctx| links.want(ctx, node(200), addr, Waiter::Origin(key())));
    bench.with(|links, ctx| links.want(ctx, node(201), addr, Waiter::Overlay(1)));
    assert_eq!(dials(&mut bench), 2, "our own");
    // Two of them failed: there is room for as many as are fewer than half of what is free.
    bench.with(|links, ctx| links.down(ctx, LinkId(DIALED_BIT | 1)));
    bench.with(|links, ctx| links.down(ctx, LinkId(DIALED_BIT | 2)));
    for n in 202..206 {
        bench.with(|links, ctx| links.lend(ctx, greedy[0], node(n), addr, Waiter::Extend(key())));
    }
    assert!((1..=2).contains(&dials(&mut bench)));
}

#[test]
fn a_link_whose_peer_reads_nothing_is_closed() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let send = |bench: &mut Bench| {
        bench.with(|links, ctx| {
            links.push_control(ctx, link, None, Command::Padding, &[0; BODY]);
            links.flush(ctx);
        });
    };
    let tick = |bench: &mut Bench, at: Time| {
        bench.now = at;
        bench.with(Links::tick);
        bench.links.knows(link)
    };
    // A slow one: a cell is taken now and then. More to send does not put the end off.
    (0..10).for_each(|_| send(&mut bench));
    let mut now = Time(0);
    for _ in 0..9 {
        now = now + (UNSENT_MAX - Duration::from_secs(1));
        assert!(tick(&mut bench, now));
        bench.with(|links, ctx| links.sent(ctx, link, 1));
    }
    bench.with(|links, ctx| links.sent(ctx, link, 1));
    assert!(bench.links.timeout().is_none() && tick(&mut bench, now + 10 * UNSENT_MAX), "nothing is out");
    now = bench.now;
    send(&mut bench);
    assert!(tick(&mut bench, now + UNSENT_MAX / 2));
    send(&mut bench);
    assert!(!tick(&mut bench, now + UNSENT_MAX));
    assert_eq!(bench.outputs(|o| matches!(o, Output::Close { .. })), 1);
    assert!(bench.links.timeout().is_none(), "its timers went with it");
}

#[test]
fn too_much_in_the_queues_ends_the_longest_at_once_and_is_looked_at_seldom() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, Some(NodeId([7; 32])));
    let mut slab = Slab::default();
    let owners: Vec<_> = (0..40).map(|_| Owner::HopPrev(slab.insert(()))).collect();
    let ports: Vec<_> = owners.iter().enumerate().map(|(n, o)| bench.links.accept_port(link, theirs(n + 1), *o).unwrap()).collect();
    let send = |bench: &mut Bench, port: usize, cells: usize| {
        for _ in 0..cells {
            bench.with(|links, ctx| links.send(ctx, ports[port], Command::Relay, &[0; BODY], None));
        }
    };
    // The other end grants nothing. As much as may be queues, the most of it in ports 3 and 5.
    for port in &ports {
        bench.links.ports.get_mut(*port).unwrap().credit = 0;
    }
    (0..40).for_each(|port| send(&mut bench, port, 730));
    send(&mut bench, 3, 1_000);
    let rest = QUEUED_MAX - bench.links.queued;
    assert!((1_000..1_100).contains(&rest), "{rest}");
    send(&mut bench, 5, rest);
    bench.links.relieve();
    assert_eq!((bench.links.queued, bench.links.poll_doomed()), (QUEUED_MAX, None), "as much as may be");

    send(&mut bench, 9, 100);
    bench.links.relieve();
    let mut doomed = Vec::new();
    while let Some(owner) = bench.links.poll_doomed() {
        doomed.push(owner);
        let port = owners.iter().position(|o| *o == owner).unwrap();
        bench.with(|links, ctx| links.close_port(ctx, ports[port]));
    }
    doomed.sort_by_key(|owner| owners.iter().position(|o| o == owner));
    assert_eq!(doomed, [owners[3], owners[5]], "each once, and no other");
    send(&mut bench, 9, 1_000);
    bench.links.relieve();
    assert_eq!(bench.links.poll_doomed(), None, "there is room before the next look");
    bench.links.check();
}

#[test]
fn an_emptied_queue_keeps_little() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let port = bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    let waiting = 3 * limits::CREDIT_QUANTUM;
    for _ in 0..limits::WINDOW_MIN + waiting {
        bench.with(|links, ctx| links.send(ctx, port, Command::Relay, &[0; BODY], None));
    }
    let kept = |bench: &Bench| bench.links.ports.get(port).map(|p| (p.queue.len(), p.queue.capacity())).unwrap();
    let (len, places) = kept(&bench);
    assert!(len == waiting as usize && places >= len);
    let mut credit = [0; CELL];
    Header { circuit: None, command: Command::Credit }.write(&mut credit);
    credit[CELL - BODY..][..7].copy_from_slice(&[0, 1, 0x80, 0, 0, 1, 3]);
    bench.with(|links, ctx| links.arrived(ctx, link, &credit));
    let (len, places) = kept(&bench);
    assert!(len == 0 && places <= 16, "{places} places for {len} cells");
}

#[test]
fn credit_is_granted_at_once_by_quarters_of_the_window_and_soon_by_quanta() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let port = bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    // So many cells are used up, and time passes: whether a credit leaves.
    let grants = |bench: &mut Bench, cells: u32, wait: Duration| {
        for _ in 0..cells {
            bench.links.ports.get_mut(port).unwrap().granted -= 1;
            bench.with(|links, ctx| links.consumed(ctx, port));
        }
        bench.now = bench.now + wait;
        bench.with(|links, ctx| {
            links.tick(ctx);
            links.flush(ctx);
        });
        bench.outputs(|o| matches!(o, Output::Send { .. })) > 0
    };
    let tick = limits::CREDIT_TICK;
    assert!(!grants(&mut bench, 31, tick * 20) && grants(&mut bench, 1, tick), "a narrow window by quanta");
    let wide = bench.links.ports.get_mut(port).unwrap();
    (wide.window, wide.granted) = (1024, 1024);
    bench.links.promised += 1024 - limits::WINDOW_MIN;
    assert!(!grants(&mut bench, 255, tick * 5) && grants(&mut bench, 1, tick), "a wide one by quarters");
    assert!(!grants(&mut bench, 31, tick * 20) && !grants(&mut bench, 1, tick) && grants(&mut bench, 0, tick * 10), "or soon");
    bench.links.check();
}

#[test]
fn a_credit_of_nothing_is_a_violation() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    let mut credit = [0; CELL];
    Header { circuit: None, command: Command::Credit }.write(&mut credit);
    credit[CELL - BODY..][..7].copy_from_slice(&[0, 1, 0x80, 0, 0, 1, 1]);
    bench.with(|links, ctx| links.arrived(ctx, link, &credit));
    assert_eq!(bench.outputs(|o| matches!(o, Output::Close { .. })), 0);
    credit[CELL - BODY + 6] = 0;
    bench.with(|links, ctx| links.arrived(ctx, link, &credit));
    assert_eq!(bench.outputs(|o| matches!(o, Output::Close { .. })), 1);
}

#[test]
fn what_an_ended_leg_held_is_granted_again() {
    let mut bench = Bench::new();
    for link in [LinkId(1), LinkId(2)] {
        bench.links.open_unshaken(link, None);
    }
    let source = bench.links.accept_port(LinkId(1), theirs(1), Owner::HopPrev(key())).unwrap();
    let leg = bench.links.accept_port(LinkId(2), theirs(1), Owner::Leg(key(), StreamId(1))).unwrap();
    bench.links.starve(leg);
    for _ in 0..limits::CREDIT_QUANTUM {
        bench.links.ports.get_mut(source).unwrap().granted -= 1;
        bench.with(|links, ctx| links.send(ctx, leg, Command::Relay, &[0; BODY], Some(source)));
    }
    let credits = |bench: &mut Bench| {
        bench.now = bench.now + Duration::from_millis(200);
        bench.with(|links, ctx| {
            links.tick(ctx);
            links.flush(ctx);
        });
        bench.outputs(|o| matches!(o, Output::Send { link: LinkId(1), .. }))
    };
    assert_eq!(credits(&mut bench), 0, "it waits in the leg");
    bench.with(|links, ctx| links.close_port(ctx, leg));
    assert_eq!(credits(&mut bench), 1);
    bench.links.check();
}
