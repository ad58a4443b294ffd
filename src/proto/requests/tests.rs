//! Requests and their circuits.

use super::*;
use crate::base::Env;
use crate::base::LinkId;
use crate::base::Position;
use crate::base::Wall;
use crate::proto::out::Out;
use crate::proto::overlay::testing;
use crate::wire::request::Kind;
use crate::wire::share::Class;
use rand::SeedableRng;
use rand::rngs::StdRng;

const KIND: SessionType = SessionType { kind: Kind::Fetch, class: Class::Small };

/// An operation with a standing circuit for each number: that many streams it has begun. Gives the link under them too.
fn standing<const N: usize>(begun: [u16; N]) -> (Requests, Links, [Key; N]) {
    let mut links = Links::new(NetworkId([1; 32]), None);
    links.open_unshaken(LinkId(1), Some(NodeId([251; 32])));
    let mut requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), true);
    requests.open(OpId(1), N);
    let circuits = begun.map(|begun| requests.origins.stand(&mut links, LinkId(1), begun));
    circuits.iter().for_each(|circuit| requests.adopt(OpId(1), *circuit));
    (requests, links, circuits)
}

/// A view with so many hosts, each in a group of its own.
fn with_hosts(rng: &mut StdRng, count: u8) -> (View, Vec<NodeId>) {
    let mut view = testing::view_with_witnesses();
    let hosts = (0..count).map(|n| {
        let host = testing::host_at(rng, ([30 + n, 1, 1, 1], 9).into(), Position([n; 32]));
        let node = host.node();
        view.insert(host, testing::NOW);
        node
    });
    let hosts = hosts.collect();
    (view, hosts)
}

#[test]
fn a_request_that_waits_prints_nothing_of_itself() {
    let mut requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), true);
    requests.open(OpId(1), 2);
    let mut rng = StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    let target = Target { host: NodeId([0xab; 32]), region: 0, members: None };
    requests.ask(&mut ctx, OpId(1), target, KIND, vec![171; 40]);
    let text = format!("{requests:?}");
    assert!(text.contains("Ask {") && !text.contains("171") && !text.contains("abab"), "{text}");
}

#[test]
fn a_spent_circuit_makes_room_for_a_fresh_one() {
    let (mut requests, mut links, [_spent, fresh]) = standing([limits::CIRCUIT_BEGINS, 1]);
    let mut rng = StdRng::seed_from_u64(1);
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    requests.drive(&mut ctx, &mut links, &View::new(true), false);
    let circuits: Vec<_> = requests.domains.values().flat_map(|d| d.circuits.keys().copied()).collect();
    assert_eq!(circuits, [fresh]);
    assert_eq!(requests.circuits(), 1);
}

#[test]
fn a_circuit_whose_streams_are_all_busy_is_joined_by_another() {
    let mut rng = StdRng::seed_from_u64(1);
    let (view, hosts) = with_hosts(&mut rng, limits::CIRCUIT_LEGS as u8);
    let (mut requests, mut links, _) = standing([0]);
    // Answers that came soon allow for as many requests as there are streams.
    requests.domains.values_mut().for_each(|d| (0..hosts.len()).for_each(|_| d.allowance.answered(Time(0), Time(0))));
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    let mut wanted = Vec::new();
    for host in hosts {
        requests.ask(&mut ctx, OpId(1), Target { host, region: 0, members: None }, KIND, vec![1]);
        // Each may meet three hosts of a region only: here each is another's.
        requests.domains.values_mut().flat_map(|d| d.circuits.values_mut()).for_each(BTreeMap::clear);
        requests.dispatch(&mut ctx, &mut links, &view, OpId(1));
        wanted.push((requests.backlog(OpId(1)), requests.domains[&OpId(1)].want));
    }
    let taken = wanted.iter().filter(|(backlog, _)| *backlog == 0).count();
    assert!(wanted[..taken].iter().all(|w| *w == (0, 1)) && taken < wanted.len(), "{wanted:?}");
    assert_eq!(wanted[taken], (1, 2), "one waits, for a circuit more");
}

#[test]
fn what_is_on_its_way_holds_its_region_until_it_ends() {
    let mut rng = StdRng::seed_from_u64(2);
    let (view, hosts) = with_hosts(&mut rng, 5);
    let (mut requests, mut links, [circuit]) = standing([0]);
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    let asked: BTreeSet<RequestId> = hosts
        .iter()
        .map(|host| {
            let request = requests.ask(&mut ctx, OpId(1), Target { host: *host, region: 7, members: None }, KIND, vec![1]);
            requests.dispatch(&mut ctx, &mut links, &view, OpId(1));
            request
        })
        .collect();
    let counted = |requests: &Requests| requests.domains[&OpId(1)].circuits[&circuit].get(&7).map_or(0, BTreeSet::len);
    let most = limits::CIRCUIT_HOSTS_PER_REGION;
    assert_eq!((requests.backlog(OpId(1)), counted(&requests)), (hosts.len() - most, most));
    let on_their_way = requests.finish(OpId(1), 7, &asked);
    assert_eq!(on_their_way, requests.origins.requests(circuit).collect());
    assert_eq!((requests.backlog(OpId(1)), counted(&requests)), (0, most), "what waited is taken back");
    for (n, request) in requests.origins.requests(circuit).collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(counted(&requests), most, "after {n}");
        requests.fail(request, true);
    }
    assert_eq!((counted(&requests), requests.owners.len()), (0, 0));
    let ends = core::iter::from_fn(|| requests.poll_event()).filter(|e| matches!(e, RequestEvent::Failed { .. })).count();
    assert_eq!(ends, most, "of each that left, its end is told");
}
