use super::flow::Arrived;
use super::*;
use crate::base::Env;
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
