//! Requests and their circuits.

use super::*;
use crate::base::Env;
use crate::base::LinkId;
use crate::base::Position;
use crate::base::Wall;
use crate::proto::memory::Memory;
use crate::proto::out::Out;
use crate::proto::overlay::testing;
use crate::wire::request::Kind;
use crate::wire::share::Class;
use rand::SeedableRng;
use rand::rngs::StdRng;

const KIND: SessionType = SessionType { kind: Kind::Fetch, class: Class::Small };

/// An operation with a standing circuit for each number: that many streams it has begun. Gives the link under them too.
fn standing<const N: usize>(begun: [u16; N]) -> (Requests, Links, [Key; N]) {
    let mut links = Links::new(NetworkId([1; 32]), None, Memory::default());
    links.open_unshaken(LinkId(1), Some(NodeId([251; 32])));
    let mut requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), SPARE_OF_CLIENT);
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
    let mut requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), SPARE_OF_CLIENT);
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

/// With all the circuits it may have, an operation lets go of those that met three hosts of a crowded region, so that it can go on
/// with the next of that region's hosts: but only when one waits, and of those circuits that wait for nothing.
#[test]
fn circuits_that_met_three_hosts_of_a_crowded_region_make_room() {
    let mut rng = StdRng::seed_from_u64(4);
    let (view, hosts) = with_hosts(&mut rng, 1);
    let (mut requests, mut links, circuits) = standing([0; PER_OP_MAX]);
    let uses = BTreeMap::from([(7, (1..=3).map(|n| NodeId([200 + n; 32])).collect())]);
    requests.domains.values_mut().flat_map(|d| d.circuits.values_mut()).for_each(|u| u.clone_from(&uses));
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    // One of them is busy, with a host of another region.
    requests.ask(&mut ctx, OpId(1), Target { host: hosts[0], region: 8, members: None }, KIND, vec![1]);
    requests.drive(&mut ctx, &mut links, &view, true);
    assert_eq!((requests.backlog(OpId(1)), requests.circuits()), (0, PER_OP_MAX));
    ctx.env.now = Time(1_000_000);
    requests.drive(&mut ctx, &mut links, &view, true);
    assert_eq!(requests.circuits(), PER_OP_MAX, "nobody waits");
    requests.ask(&mut ctx, OpId(1), Target { host: hosts[0], region: 7, members: None }, KIND, vec![1]);
    ctx.env.now = Time(2_000_000);
    requests.drive(&mut ctx, &mut links, &view, true);
    let left: Vec<Key> = circuits.into_iter().filter(|key| requests.origins.path(*key).is_some()).collect();
    assert!(left.len() == 1 && requests.origins.total_load(left[0]) == 1, "{left:?}");
    requests.check();
}

/// A circuit that ends in the region serves none of its requests (D12), however few hosts it met: with all the circuits it may have,
/// an operation lets go of those too.
#[test]
fn circuits_that_end_in_a_region_make_room_for_its_requests() {
    let mut rng = StdRng::seed_from_u64(5);
    let (view, hosts) = with_hosts(&mut rng, 1);
    let (mut requests, mut links, circuits) = standing([0; PER_OP_MAX]);
    let [.., last] = requests.origins.path(circuits[0]).unwrap();
    let members = Arc::new(BTreeSet::from([last, hosts[0]]));
    let mut env = Env { now: Time(1), wall: Wall(0), rng: &mut rng };
    let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
    requests.ask(&mut ctx, OpId(1), Target { host: hosts[0], region: 7, members: Some(members) }, KIND, vec![1]);
    requests.drive(&mut ctx, &mut links, &view, true);
    let left = circuits.iter().filter(|key| requests.origins.path(**key).is_some()).count();
    assert_eq!((left, requests.backlog(OpId(1))), (0, 1));
    requests.check();
}

/// The circuit that is built because no other may serve a request ends outside its region.
#[test]
fn a_circuit_for_want_of_one_ends_outside_the_region() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (view, hosts) = with_hosts(&mut rng, 16);
        let (mut requests, mut links, [inside]) = standing([0]);
        let [.., last] = requests.origins.path(inside).unwrap();
        let members: Arc<BTreeSet<NodeId>> = Arc::new(hosts.iter().copied().take(10).chain([last]).collect());
        let mut env = Env { now: Time(1), wall: testing::NOW, rng: &mut rng };
        let mut ctx = Ctx { env: &mut env, out: &mut Out::default() };
        requests.spare = 0;
        requests.ask(&mut ctx, OpId(1), Target { host: hosts[0], region: 7, members: Some(Arc::clone(&members)) }, KIND, vec![1]);
        requests.drive(&mut ctx, &mut links, &view, true);
        let paths: Vec<_> = requests.building.keys().filter_map(|key| requests.origins.path(*key)).collect();
        assert!(paths.len() == 1 && paths.iter().all(|[.., last]| !members.contains(last)), "seed {seed}: {paths:?}");
    }
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

// --- questions about the public view

/// Requests of nobody, over a view of so many hosts.
struct Asker {
    requests: Requests,
    links: Links,
    view: View,
    hosts: Vec<NodeId>,
    rng: StdRng,
    now: Time,
    told: Vec<(u64, Option<NodeId>, Option<Vec<u8>>)>,
}

impl Asker {
    fn new(hosts: u8) -> Self {
        let mut rng = StdRng::seed_from_u64(3);
        let (view, hosts) = with_hosts(&mut rng, hosts);
        let mut links = Links::new(NetworkId([1; 32]), None, Memory::default());
        links.open_unshaken(LinkId(1), Some(NodeId([251; 32])));
        let requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), SPARE_OF_CLIENT);
        Self { requests, links, view, hosts, rng, now: Time(1), told: Vec::new() }
    }

    fn with<T>(&mut self, step: impl FnOnce(&mut Requests, &mut Ctx<'_, '_>, &mut Links, &View) -> T) -> T {
        let mut env = Env { now: self.now, wall: testing::NOW, rng: &mut self.rng };
        step(&mut self.requests, &mut Ctx { env: &mut env, out: &mut Out::default() }, &mut self.links, &self.view)
    }

    /// Goes on by so long. Questions leave before the view is known well enough for anything else.
    fn run(&mut self, time: Duration) {
        self.now = self.now + time;
        self.with(|requests, ctx, links, view| requests.drive(ctx, links, view, false));
        self.requests.check();
        while let Some(event) = self.requests.poll_event() {
            let RequestEvent::Told { token, from, answer } = event else { panic!("{event:?}") };
            self.told.push((token, from, answer));
        }
    }

    fn ask(&mut self, token: u64, to: Option<NodeId>) {
        self.requests.question(self.now, Question { token, to, bytes: vec![7; 40] });
        self.run(Duration::ZERO);
    }

    /// A circuit stands, to this relay by name or to whatever relay.
    fn stand(&mut self, to: Option<NodeId>) -> Key {
        let key = self.requests.origins.stand(&mut self.links, LinkId(1), 0);
        self.with(|requests, ctx, links, _| requests.stands(ctx, links, key, to));
        key
    }

    /// The answer to the first that is out.
    fn answer(&mut self, key: Key, answer: &[u8]) {
        self.with(|requests, ctx, links, _| requests.origins.answer_first(ctx, links, key, answer));
        self.run(Duration::ZERO);
    }

    fn building(&self) -> Vec<(Purpose, [NodeId; limits::HOPS])> {
        self.requests.building.iter().map(|(key, purpose)| (*purpose, self.requests.origins.path(*key).unwrap())).collect()
    }
}

#[test]
fn questions_to_a_relay_go_over_one_circuit_that_ends_there() {
    let mut asker = Asker::new(30);
    let to = asker.hosts[7];
    (0..3).for_each(|token| asker.ask(token, Some(to)));
    let [(Purpose::Directory(built), [guard, _, last])] = asker.building()[..] else { panic!("{:?}", asker.building()) };
    assert_eq!((built, last), (to, to));
    // Whom none of our paths may end at is not asked: the guard first of all.
    asker.ask(9, Some(guard));
    asker.ask(10, Some(NodeId([77; 32])));
    assert_eq!(asker.told, [(9, None, None), (10, None, None)]);
    // Questions to others have circuits of their own, any relay's another each time.
    asker.ask(11, Some(asker.hosts[8]));
    (12..15).for_each(|token| asker.ask(token, None));
    let ends: BTreeSet<NodeId> = asker.building().iter().map(|(_, [.., last])| *last).collect();
    assert_eq!((asker.building().len(), ends.len()), (5, 5));
    assert_eq!(asker.building().iter().filter(|(purpose, _)| *purpose == Purpose::Sample).count(), 3);
}

#[test]
fn a_circuit_to_a_relay_takes_its_questions_in_turn_and_ends_when_it_pauses() {
    let mut asker = Asker::new(30);
    let to = NodeId([253; 32]);
    let key = asker.stand(Some(to));
    (0..4).for_each(|token| asker.ask(token, Some(to)));
    assert_eq!(asker.requests.questions.out(key), [0, 1], "two are out");
    asker.answer(key, b"yes");
    assert_eq!(asker.requests.questions.out(key), [1, 2]);
    asker.answer(key, b"");
    assert_eq!(asker.told, [(0, Some(to), Some(b"yes".to_vec())), (1, Some(to), None)], "an answer of nothing is none");
    // Nobody else gets it.
    asker.requests.open(OpId(1), 1);
    asker.ask(8, Some(asker.hosts[7]));
    asker.ask(9, None);
    assert_eq!(asker.requests.questions.out(key), [2, 3]);
    assert!(asker.requests.domains[&OpId(1)].circuits.is_empty() && asker.requests.ready.is_empty());
    asker.told.clear();
    // It ends: what was out on it is told to be lost.
    asker.with(|requests, ctx, links, _| requests.origins.end(ctx, links, key));
    asker.run(Duration::ZERO);
    assert_eq!(asker.told, [(2, None, None), (3, None, None)]);

    let mut asker = Asker::new(30);
    let key = asker.stand(Some(to));
    asker.run(Duration::from_secs(59));
    asker.ask(5, Some(to));
    asker.answer(key, b"yes");
    asker.run(Duration::from_secs(59));
    assert!(asker.requests.origins.is_built(key), "it was used");
    asker.run(Duration::from_secs(1));
    assert!(!asker.requests.origins.is_built(key) && asker.requests.circuits() == 0);
    // However busy it is, it does not serve for ever.
    let key = asker.stand(Some(to));
    for token in 0..40 {
        asker.ask(100 + token, Some(to));
        if asker.requests.origins.is_built(key) {
            asker.answer(key, b"yes");
        }
        asker.run(Duration::from_secs(20));
    }
    assert!(!asker.requests.origins.is_built(key));
}

#[test]
fn a_circuit_to_whatever_relay_serves_one_question() {
    let mut asker = Asker::new(30);
    (0..3).for_each(|token| asker.ask(token, None));
    let keys = [asker.stand(None), asker.stand(None), asker.stand(None)];
    assert_eq!(keys.map(|key| asker.requests.questions.out(key).len()), [1, 1, 1]);
    asker.ask(3, None);
    asker.answer(keys[0], b"yes");
    assert_eq!(asker.told, [(0, Some(NodeId([253; 32])), Some(b"yes".to_vec()))]);
    assert!(!asker.requests.origins.is_built(keys[0]) && asker.requests.origins.is_built(keys[1]));
    assert_eq!(asker.requests.questions.waiting(), [3], "the next waits for another circuit");
    // One that comes when nobody waits any more goes.
    let key = asker.stand(None);
    assert_eq!(asker.requests.questions.out(key), [3]);
    let late = asker.stand(None);
    assert!(!asker.requests.origins.is_built(late));
}

#[test]
fn questions_that_wait_are_bounded_and_each_is_told_once() {
    let mut asker = Asker::new(0);
    (0..40).for_each(|token| asker.ask(token, None));
    let refused: Vec<u64> = asker.told.iter().map(|(token, ..)| *token).collect();
    assert_eq!(refused, (16..40).collect::<Vec<u64>>(), "the newest");
    asker.run(Duration::from_secs(59));
    assert_eq!(asker.told.len(), 24);
    asker.run(Duration::from_secs(1));
    asker.run(Duration::from_secs(600));
    let told: BTreeSet<u64> = asker.told.iter().map(|(token, ..)| *token).collect();
    assert!(
        told.len() == 40 && asker.told.len() == 40 && asker.told.iter().all(|(_, from, answer)| from.is_none() && answer.is_none())
    );
    assert!(asker.requests.questions.timeout(asker.now).is_none(), "nothing is left to look after");
    // One that fits no cell is no question.
    asker.told.clear();
    asker.requests.question(asker.now, Question { token: 50, to: None, bytes: vec![0; crate::wire::cell::RELAY_DATA + 1] });
    asker.run(Duration::ZERO);
    assert_eq!(asker.told, [(50, None, None)]);
}

/// T36: a last hop ends the circuits of whoever asks too fast, so an honest client must not, however soon answers come.
#[test]
fn a_client_asks_no_faster_than_a_last_hop_allows() {
    let mut asker = Asker::new(30);
    let to = NodeId([253; 32]);
    let key = asker.stand(Some(to));
    let (mut theirs, mut sent) = (crate::proto::circuit::pace::Pace::default(), 0);
    let end = asker.now + Duration::from_secs(60);
    while asker.now < end {
        if asker.requests.questions.waiting().is_empty() {
            asker.ask(sent, Some(to));
        }
        if asker.requests.questions.out(key).is_empty() {
            // The next time that it wants.
            let wake = asker.requests.questions.timeout(asker.requests.housekeeping).expect("a question waits");
            asker.run(wake.since(asker.now));
        } else {
            assert!(theirs.take(asker.now, limits::QUESTIONS_AT_ONCE, limits::QUESTION_EVERY), "question {sent}");
            sent += 1;
            asker.answer(key, b"yes");
        }
    }
    assert!((500..700).contains(&sent), "{sent} in a minute: the pace is used");
}

#[test]
fn circuits_to_relays_by_name_are_few() {
    let mut asker = Asker::new(40);
    for n in 0..30 {
        asker.ask(n, Some(asker.hosts[n as usize]));
    }
    let most = asker.building().iter().filter(|(purpose, _)| matches!(purpose, Purpose::Directory(_))).count();
    assert!((4..=6).contains(&most), "{most}");
    // Those that pause give way to those that are wanted.
    let mut asker = Asker::new(40);
    let keys: Vec<Key> = (0..6).map(|n| asker.stand(Some(NodeId([100 + n; 32])))).collect();
    asker.run(Duration::from_secs(1));
    asker.with(|requests, ctx, links, _| requests.stands(ctx, links, keys[0], Some(NodeId([100; 32]))));
    asker.ask(1, Some(asker.hosts[9]));
    let standing: Vec<bool> = keys.iter().map(|key| asker.requests.origins.is_built(*key)).collect();
    assert_eq!(standing, [true, false, true, true, true, true], "the one that pauses longest");
    assert_eq!(asker.building().len(), 1);
}
