use super::flow::Arrived;
use super::*;
use crate::base::Env;
use crate::base::StreamId;
use crate::proto::memory::Memory;
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
        Self {
            links: Links::new(NetworkId([1; 32]), None, Memory::default()),
            out: Out::default(),
            now: Time(0),
            rng: StdRng::seed_from_u64(1),
        }
    }

    /// The same of a relay.
    fn of_relay() -> Self {
        let identity = Some(Arc::new(IdentityKey::generate(&mut StdRng::seed_from_u64(2))));
        Self { links: Links::new(NetworkId([1; 32]), identity, Memory::default()), ..Self::new() }
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
    assert!(matches!(&told, Some(LinkEvent::Down { waiters, was_open: false, peer: None, .. }) if waiters.len() == 1), "{told:?}");
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
            links.push_control(ctx, link, Command::Padding, &[0; BODY]);
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
    let most = Memory::default().cells_queued();
    (0..40).for_each(|port| send(&mut bench, port, (most - 1_050) / 40));
    send(&mut bench, 3, 500);
    let rest = most - bench.links.queued;
    assert!((500..600).contains(&rest), "{rest}");
    send(&mut bench, 5, rest);
    bench.with(Links::relieve);
    assert_eq!((bench.links.queued, bench.links.poll_doomed()), (most, None), "as much as may be");

    send(&mut bench, 9, 100);
    bench.with(Links::relieve);
    let mut doomed = Vec::new();
    while let Some(owner) = bench.links.poll_doomed() {
        doomed.push(owner);
        let port = owners.iter().position(|o| *o == owner).unwrap();
        bench.with(|links, ctx| links.close_port(ctx, ports[port]));
    }
    doomed.sort_by_key(|owner| owners.iter().position(|o| o == owner));
    assert_eq!(doomed, [owners[3], owners[5]], "each once, and no other");
    send(&mut bench, 9, 1_000);
    bench.with(Links::relieve);
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
    let quanta = ((1024 - limits::WINDOW_MIN) / limits::CREDIT_QUANTUM) as usize;
    assert_eq!(bench.links.promised.widen(&mut wide.seat, quanta), quanta);
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

/// All that was granted on a port comes and is used up at once, again and again, as a hop does that drops cells.
fn is_busy(bench: &mut Bench, port: PortKey, rounds: usize) -> u32 {
    for _ in 0..rounds {
        let it = bench.links.ports.get_mut(port).unwrap();
        let (link, granted) = (it.link, core::mem::take(&mut it.granted));
        it.moved = it.moved.saturating_add(granted);
        for _ in 0..granted {
            bench.with(|links, ctx| links.consumed(ctx, port));
        }
        bench.now = bench.now + Duration::from_millis(200);
        bench.with(|links, ctx| {
            links.grant(ctx, link);
            links.flush(ctx);
            links.sent(ctx, link, 10);
        });
        bench.out.queue.clear();
    }
    bench.links.ports.get(port).unwrap().window
}

/// A handful of circuits that were busy once, and hold all credit while they idle, would throttle everybody else's: a cheap way to
/// find out which relays a circuit uses (T34).
#[test]
fn idle_circuits_keep_nobody_at_the_first_window() {
    let mut bench = Bench::of_relay();
    let [client, honest, beside] = [1, 2, 3].map(LinkId);
    bench.links.open_unshaken_from(client, None, ([198, 51, 100, 1], 1).into());
    bench.links.open_unshaken_from(honest, None, ([203, 0, 113, 1], 1).into());
    bench.links.open_unshaken_from(beside, None, ([198, 51, 100, 2], 1).into());
    let port = |bench: &mut Bench, link, n| bench.links.accept_port(link, theirs(n), Owner::HopPrev(key())).unwrap();
    let busy = port(&mut bench, honest, 1);
    assert_eq!(is_busy(&mut bench, busy, 8), limits::WINDOW_MAX);
    let windows: Vec<u32> = (1..=21)
        .map(|n| {
            let idle = port(&mut bench, client, n);
            is_busy(&mut bench, idle, 8)
        })
        .collect();
    println!("of one client: {windows:?}");
    assert_eq!(windows[..2], [limits::WINDOW_MAX; 2], "its first are as fast as any");
    assert_eq!(is_busy(&mut bench, busy, 8), limits::WINDOW_MAX, "who is busy is not throttled");
    let newcomer = port(&mut bench, honest, 2);
    assert_eq!(is_busy(&mut bench, newcomer, 8), limits::WINDOW_MAX, "nor a newcomer of another prefix");
    // Who shares the client's prefix waits until its idle circuits give back what they hold, or end.
    let neighbour = port(&mut bench, beside, 1);
    assert_eq!(is_busy(&mut bench, neighbour, 8), limits::WINDOW_MIN);
    let look = |bench: &mut Bench| {
        bench.now = bench.now + Duration::from_secs(60);
        bench.with(|links, ctx| links.look_over(ctx, client));
        core::iter::from_fn(|| bench.links.poll_doomed()).count()
    };
    let ended: Vec<usize> = (0..10).map(|_| look(&mut bench)).collect();
    let held = windows.iter().filter(|window| **window > limits::WINDOW_MIN).count();
    assert_eq!((ended[4], ended[9], ended.iter().sum::<usize>()), (0, held, held), "the first look counts all there was");
    bench.links.check();
}

#[test]
fn credit_that_is_given_back_is_free_for_others_and_too_much_is_a_violation() {
    let mut bench = Bench::of_relay();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let port = bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    is_busy(&mut bench, port, 8);
    let back = |bench: &mut Bench, quanta: u8| {
        let mut credit = [0; CELL];
        Header { circuit: None, command: Command::Credit }.write(&mut credit);
        credit[CELL - BODY..][..9].copy_from_slice(&[0, 0, 0, 1, 0x80, 0, 0, 1, quanta]);
        bench.with(|links, ctx| links.arrived(ctx, link, &credit));
        bench.links.check();
    };
    assert_eq!(bench.links.promised.taken(), 94);
    back(&mut bench, 90);
    assert_eq!(bench.links.promised.taken(), 4);
    back(&mut bench, 4);
    assert_eq!((bench.links.promised.taken(), bench.links.ports.get(port).unwrap().window), (0, limits::WINDOW_MIN));
    assert!(bench.links.knows(link));
    back(&mut bench, 1);
    assert!(!bench.links.knows(link));
}

/// The other end's part of the same: what was not used for a minute goes back, once.
#[test]
fn a_link_gives_back_what_lies_unused() {
    let mut bench = Bench::of_relay();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let port = bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    bench.links.ports.get_mut(port).unwrap().credit = limits::WINDOW_MAX;
    let mut look = || {
        bench.now = bench.now + Duration::from_secs(60);
        bench.with(|links, ctx| {
            links.look_over(ctx, link);
            links.flush(ctx);
        });
        bench.outputs(|o| matches!(o, Output::Send { .. }))
    };
    assert_eq!([look(), look(), look()], [0, 1, 0]);
    assert_eq!(bench.links.ports.get(port).unwrap().credit, limits::WINDOW_MIN);
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

/// Cells that left on a link, by command and circuit.
fn left(bench: &mut Bench) -> Vec<(Command, Option<CircuitId>)> {
    bench.with(|links, ctx| links.flush(ctx));
    let mut all = Vec::new();
    for output in core::mem::take(&mut bench.out.queue) {
        if let Output::Send { cells, .. } = output {
            all.extend(cells.as_chunks::<CELL>().0.iter().map(|cell| Header::read(cell).unwrap()).map(|h| (h.command, h.circuit)));
        }
    }
    all
}

/// Whoever has circuits opened and ended on a link that takes nothing costs it neither its life nor memory: what the other end never
/// heard of is forgotten, and it is told of the rest when there is room (T36).
#[test]
fn opening_and_ending_without_end_cuts_no_link() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, Some(NodeId([7; 32])));
    for n in 0..50_000 {
        bench.with(|links, ctx| {
            let port = links.open_port(link, Owner::Leg(key(), StreamId(1))).unwrap();
            let command = if n % 2 == 0 { Command::Leg } else { Command::Create };
            links.send_first(ctx, port, command, &[0; BODY]);
            links.close_port(ctx, port);
        });
    }
    assert!(bench.links.knows(link) && bench.links.queued == 0);
    let mut all = left(&mut bench);
    assert_eq!(all.len(), limits::LINK_IN_FLIGHT);
    while bench.links.links[&link].in_flight > 0 {
        bench.with(|links, ctx| links.sent(ctx, link, 16));
        all.extend(left(&mut bench));
    }
    let of = |wanted: fn(Command) -> bool| all.iter().filter(|(c, _)| wanted(*c)).map(|(_, id)| *id).collect::<Vec<_>>();
    let (opened, ended) = (of(|c| matches!(c, Command::Leg | Command::Create)), of(|c| c == Command::Destroy));
    assert!(opened == ended && opened.len() == limits::LINK_IN_FLIGHT / 2, "{} and {}", opened.len(), ended.len());
}

/// What opens a circuit, or answers that, is the first cell on it, room or not, and needs no credit; of what was opened the other end
/// is told that it ended.
#[test]
fn what_opens_a_circuit_waits_for_room_and_goes_first() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, Some(NodeId([7; 32])));
    bench.with(|links, ctx| (0..limits::LINK_IN_FLIGHT).for_each(|_| links.push_control(ctx, link, Command::Padding, &[0; BODY])));
    assert_eq!(left(&mut bench).len(), limits::LINK_IN_FLIGHT);
    let leg = bench.links.open_port(link, Owner::Leg(key(), StreamId(1))).unwrap();
    let made = bench.links.accept_port(link, theirs(9), Owner::HopPrev(key())).unwrap();
    let (leg_id, made_id) = (bench.links.port_link(leg).unwrap().1, theirs(9));
    bench.with(|links, ctx| {
        links.send_first(ctx, leg, Command::Leg, &[0; BODY]);
        links.send_first(ctx, made, Command::Created, &[0; BODY]);
        (0..limits::WINDOW_MIN).for_each(|_| links.send(ctx, leg, Command::Relay, &[0; BODY], None));
        links.refuse(ctx, link, theirs(10));
    });
    assert!(left(&mut bench).is_empty());
    bench.with(|links, ctx| links.sent(ctx, link, limits::LINK_IN_FLIGHT));
    let all = left(&mut bench);
    let on = |id| all.iter().filter(|(_, c)| *c == Some(id)).map(|(c, _)| *c).collect::<Vec<_>>();
    assert_eq!(on(leg_id), [&[Command::Leg][..], &[Command::Relay; limits::WINDOW_MIN as usize]].concat());
    assert_eq!((on(made_id), on(theirs(10))), (vec![Command::Created], vec![Command::Destroy]));
    // One whose answer did not leave yet is told all the same: the other end waits for it.
    bench.with(|links, ctx| (0..limits::LINK_IN_FLIGHT).for_each(|_| links.push_control(ctx, link, Command::Padding, &[0; BODY])));
    let waits = bench.links.accept_port(link, theirs(11), Owner::HopPrev(key())).unwrap();
    bench.with(|links, ctx| {
        links.send_first(ctx, waits, Command::Created, &[0; BODY]);
        links.close_port(ctx, waits);
        links.flush(ctx);
        links.sent(ctx, link, 2 * limits::LINK_IN_FLIGHT)
    });
    assert_eq!(left(&mut bench).last(), Some(&(Command::Destroy, Some(theirs(11)))));
}

/// Grants wait while nothing leaves: what comes in on a link that takes nothing must not end it.
#[test]
fn grants_do_not_pile_up_on_a_link_that_takes_nothing() {
    let mut bench = Bench::new();
    let link = LinkId(1);
    bench.links.open_unshaken(link, Some(NodeId([7; 32])));
    let ports: Vec<PortKey> = (1..100).map(|n| bench.links.accept_port(link, theirs(n), Owner::HopPrev(key())).unwrap()).collect();
    for _ in 0..4_000 {
        bench.with(|links, ctx| {
            for port in &ports {
                let open = links.ports.get_mut(*port).unwrap();
                if open.granted >= limits::CREDIT_QUANTUM {
                    open.granted -= limits::CREDIT_QUANTUM;
                    (0..limits::CREDIT_QUANTUM).for_each(|_| links.consumed(ctx, *port));
                }
            }
            links.grant(ctx, link);
            links.flush(ctx);
        });
    }
    assert!(bench.links.knows(link));
}

/// Nobody has much, but together it is too much: who holds the most by where he is loses his largest link first, and who came alone keeps
/// what he has (T35).
#[test]
fn links_that_hold_too_much_end_where_the_most_is_held() {
    let mut bench = Bench::of_relay();
    let most = Memory::default().links();
    let link = |prefix: u8, n: u8| LinkId(u64::from(prefix) << 8 | u64::from(n));
    let open = |bench: &mut Bench, prefix: u8, n: u8, bytes: usize| {
        bench.links.open_unshaken_from(link(prefix, n), None, ([20 + prefix, 1, 7, n], 9).into());
        // A link whose peer reads nothing: what there is room for is with the transport, the rest waits.
        for _ in 0..bytes / 1000 {
            bench.with(|links, ctx| links.send_overlay(ctx, link(prefix, n), vec![7; 1000]));
        }
        bench.with(Links::relieve);
    };
    open(&mut bench, 0, 0, 900_000);
    let mut ended = Vec::new();
    for n in 1..=40 {
        for prefix in 1..=8 {
            open(&mut bench, prefix, n, if n % 2 == 0 { 400_000 } else { 700_000 });
            while let Some(event) = bench.links.poll_event() {
                if let LinkEvent::Down { link, .. } = event {
                    ended.push(link);
                }
            }
            assert!(bench.links.held_at_most <= most + 1_000_000, "{}", bench.links.held_at_most);
        }
    }
    assert!(ended.len() > 100, "{}", ended.len());
    assert!(bench.links.knows(link(0, 0)), "the one that came alone holds less than each of their prefixes");
    // Of each prefix the large ones, which have odd numbers, go first.
    assert!(ended.iter().take(24).all(|id| id.0 % 2 == 1), "{ended:?}");
    bench.links.check();
}

/// What a link owes its peer is charged to it in whatever form it is kept: ends that are not read, and what is left of a batch's memory.
#[test]
fn ends_that_nobody_reads_and_half_used_batches_are_charged() {
    let mut bench = Bench::of_relay();
    let link = LinkId(1);
    bench.links.open_unshaken(link, None);
    let holds = |bench: &Bench| bench.links.links[&link].holds(Memory::default());
    let idle = holds(&bench);
    let port = bench.links.accept_port(link, theirs(1), Owner::HopPrev(key())).unwrap();
    bench.with(|links, ctx| links.send(ctx, port, Command::Relay, &[0; BODY], None));
    bench.with(Links::flush);
    assert!(holds(&bench) >= idle + 20 * CELL, "one cell in flight keeps the room of thirty");
    // Nothing is read: the link fills, and then ends wait.
    (2..2 + limits::LINK_IN_FLIGHT).for_each(|n| bench.with(|links, ctx| links.refuse(ctx, link, theirs(n))));
    bench.with(Links::flush);
    let full = holds(&bench);
    (1000..11_000).for_each(|n| bench.with(|links, ctx| links.refuse(ctx, link, theirs(n))));
    let more = holds(&bench) - full;
    assert!(more >= 10_000 * size_of::<CircuitId>(), "{more}");
    assert!(bench.links.held_at_most >= holds(&bench) - idle);
}

/// A guard accepts the connection and says nothing, as a process that is stopped. How long circuits wait for it, in halves of a second,
/// and how often the core is asked for others; the one that it then dials answers, and is heard every half second from there on.
fn waits_for_a_silent_guard(answers: bool, much: bool, waiter: Waiter) -> (u64, usize) {
    let (guard, other) = (NodeId([200; 32]), NodeId([201; 32]));
    let addr = SocketAddr::from(([203, 0, 113, 7], 9));
    let (mut bench, mut tried, mut open) = (Bench::new(), 0, None);
    bench.with(|links, ctx| links.want(ctx, guard, addr, waiter));
    for half in 0..60 {
        bench.now = Time(half * 500_000);
        if let Some(link) = open {
            let now = bench.now;
            bench.links.heard(now, link, if much { 100 } else { 1 });
        }
        bench.with(Links::tick);
        while let Some(event) = bench.links.poll_event() {
            match event {
                LinkEvent::Late { peer } => {
                    assert_eq!(peer, guard);
                    tried += 1;
                    if answers {
                        let link = bench.with(|links, ctx| links.dial(ctx, addr, Some(other), None));
                        let opened = bench.links.links.get_mut(&link).unwrap();
                        (opened.stage, opened.peer, opened.received) = (Stage::Open, Some(other), bench.now);
                        bench.links.timers.stop(&LinkTimer::Handshake(link));
                        open = Some(link);
                    }
                }
                LinkEvent::Down { began, others, waiters, .. } if !waiters.is_empty() => {
                    assert_eq!(others.is_some_and(|heard| heard > began), answers && !much);
                    return (half, tried);
                }
                LinkEvent::Down { .. } | LinkEvent::Open { .. } => {}
            }
        }
    }
    panic!("it has no end");
}

#[test]
fn a_silent_guard_is_dialled_twice_and_given_up_where_others_answer() {
    let circuit = || Waiter::Origin(key());
    // Four seconds, and two and a half from the next look on.
    assert_eq!(waits_for_a_silent_guard(true, false, circuit()), (14, 1));
    // Nobody answers, or the line is full of what others bring: it has its whole time.
    assert_eq!(waits_for_a_silent_guard(false, false, circuit()), (20, 1));
    assert_eq!(waits_for_a_silent_guard(true, true, circuit()), (20, 1));
    // What no circuit of ours waits for troubles nobody else.
    assert_eq!(waits_for_a_silent_guard(false, false, Waiter::Overlay(1)), (20, 0));
}
