//! What clients believe of their directories, keep, and read again; and relays that show different faces.

use super::*;
use crate::base::limits;
use crate::proto::overlay::kept;
use crate::proto::overlay::record::Verified;
use crate::wire::overlay::Part;

/// A client that begins anew, with what it kept.
fn restart(world: &mut World, i: usize, bootstrap: Vec<Peer>, saved: Option<Vec<u8>>) {
    for (link, (peer, theirs)) in world.nodes[i].links.clone() {
        world.post(Duration::ZERO, peer, Input::LinkDown { link: theirs });
        world.nodes[i].links.remove(&link);
    }
    let now = world.now;
    world.queue.retain(|_, (to, _)| *to != i);
    let node = &mut world.nodes[i];
    node.through = 0;
    node.events.clear();
    let saved = saved.map(|bytes| (kept::SAVED, bytes)).into_iter().collect();
    node.overlay = Overlay::new(&mut World::env(now, &mut node.rng), Config { bootstrap, saved, ..testing::config(true) });
    world.feed(i, Input::Tick);
}

/// What the core does for a client: as soon as there is a view, its directories are these; and samples are taken.
fn guide(world: &mut World, i: usize, directories: &[usize], seconds: u64) {
    let peers: Vec<Peer> = directories.iter().map(|d| world.peer(*d)).collect();
    for _ in 0..seconds * 5 {
        let overlay = &world.nodes[i].overlay;
        if overlay.wants_directories() {
            world.feed(i, Input::Directories(peers.clone()));
        }
        world.run_until(world.now + Duration::from_millis(200));
    }
}

fn dialled(world: &World, i: usize) -> BTreeSet<SocketAddr> {
    world.dials.iter().filter(|(from, _)| *from == i).map(|(_, to)| *to).collect()
}

fn started(world: &mut World, seed: u64) -> usize {
    let three = vec![world.peer(2), world.peer(9), world.peer(20)];
    let client = world.add(seed, "99.9.9.9:1".parse().unwrap(), false, true, three);
    guide(world, client, &[4, 5, 6], 12);
    client
}

/// After its first start a client reads from its guard and through circuits, and lets go of all other links; a later start shows no
/// relay but the guard, is of use at once, and reads only what changed.
#[test]
fn a_later_start_shows_the_guard_alone_and_reads_what_changed() {
    let mut world = network(40, 70, true);
    settle(&mut world, 20);
    let client = started(&mut world, 70);
    assert!(world.nodes[client].overlay.coverage().ready);
    assert_eq!(world.nodes[client].links.len(), 1, "the guard");
    let cold = world.nodes[client].through;
    let saved = world.nodes[client].saved.get(kept::SAVED).cloned().expect("a kept view");
    world.dials.clear();
    let dead = Peer { node: NodeId([7; 32]), addr: "88.8.8.8:1".parse().unwrap() };
    restart(&mut world, client, vec![dead], Some(saved));
    assert!(world.nodes[client].overlay.coverage().ready, "at once");
    assert_eq!(world.shares()[client], 1.0);
    guide(&mut world, client, &[4, 5, 6], 4);
    let first = world.peer(0);
    world.add(70, relay_addr(300), true, true, vec![first]);
    guide(&mut world, client, &[4, 5, 6], 40);
    assert_eq!(world.shares()[client], 1.0, "a newcomer is heard of");
    assert_eq!(dialled(&world, client), BTreeSet::from([world.nodes[4].addr]));
    println!("through circuits: {cold} bytes at first, {} later", world.nodes[client].through);
    world.nodes[client].overlay.view().check();
}

/// What was kept and is damaged, a year old, of another network, or nothing at all: told, and the network is read anew.
#[test]
fn a_kept_view_that_is_of_no_use_is_told_and_read_anew() {
    let mut world = network(24, 71, true);
    settle(&mut world, 20);
    let client = started(&mut world, 71);
    let good = world.nodes[client].saved.get(kept::SAVED).cloned().expect("a kept view");
    assert_eq!(kept::Kept::decode(&NET, &good).unwrap().encode(), good);
    for at in (0..good.len()).step_by(97) {
        let mut bent = good.clone();
        bent[at] ^= 4;
        assert!(kept::Kept::decode(&NET, &bent).is_err(), "{at}");
        assert!(kept::Kept::decode(&NET, &good[..at]).is_err(), "{at}");
    }
    let mut cut = good.clone();
    cut.truncate(good.len() / 2);
    let three = vec![world.peer(2), world.peer(9), world.peer(20)];
    for bytes in [vec![], cut, vec![0; 5000]] {
        restart(&mut world, client, three.clone(), Some(bytes));
        assert!(!world.nodes[client].overlay.has_view() && world.nodes[client].events.contains(&Event::Odd(Odd::SavedView)));
        guide(&mut world, client, &[4, 5, 6], 3);
        assert_eq!(world.shares()[client], 1.0);
    }
    // Four hours later it is good for finding the directories, and not for paths before they agreed; a year later for nothing.
    for (hours, usable) in [(4u64, true), (365 * 24, false)] {
        let mut rng = StdRng::seed_from_u64(1);
        let mut env = World::env(world.now, &mut rng);
        env.wall = env.wall.plus(hours * 3600);
        let config = Config { bootstrap: three.clone(), saved: [(kept::SAVED, good.clone())].into(), ..testing::config(true) };
        let overlay = Overlay::new(&mut env, config);
        assert_eq!((overlay.has_view(), overlay.coverage().ready), (usable, false), "{hours}");
        assert_eq!(overlay.view().counts().relays, if usable { 24 } else { 0 });
    }
}

/// Another descriptor of a relay, signed by it.
fn face(world: &World, x: usize, published: u64, onion: u8) -> Forged {
    let own = world.nodes[x].overlay.own_descriptor().unwrap();
    let mut d = own.descriptor().clone();
    (d.published, d.expires, d.onion_key) = (Wall(published), Wall(published + 86_400), [onion; 32]);
    let now = Wall(EPOCH + world.now.0 / 1_000_000);
    let job = OverlayJob::SignOwn { body: OwnBody::New(Box::new(d)), receipts: own.receipts().to_vec(), now };
    let JobOutcome::Signed(Some(relay)) = job.run(&NET, Some(&world.nodes[x].key)) else { panic!("not signed") };
    Forged { node: relay.node(), body: relay.body().encode(), fresh: relay.fresh().unwrap().encode() }
}

/// A relay tells each other relay of a face made for that one alone: all of one slot, so that nobody can say which is the newest.
/// Within ten minutes nobody uses it; a client that begins in between never does.
#[test]
fn a_relay_with_a_face_for_everyone_is_soon_nobodys() {
    for local in [true, false] {
        let mut world = network(40, 72, local);
        settle(&mut world, 120);
        let x = 17;
        let id = world.nodes[x].key.node_id();
        // The relay itself is the liar: it says nothing else.
        cut_off(&mut world, x);
        let at = EPOCH + world.now.0 / 1_000_000 + limits::DESCRIPTOR_SLOT_SECS;
        for i in (0..40).filter(|i| *i != x) {
            let f = face(&world, x, at, i as u8 + 1);
            let link = LinkId(world.next_link);
            world.next_link += 1;
            world.nodes[i].links.insert(link, (x, LinkId(u64::MAX)));
            let remote = SocketAddr::new(world.nodes[x].addr.ip(), 50_000);
            world.feed(i, Input::LinkUp { link, node: Some(id), remote, dialled: false, wall: None });
            let (descriptor, freshness) = (Blob(f.body), Blob(f.fresh));
            let bytes = Message::Announce { id: 1, descriptor, freshness }.encode().unwrap();
            world.feed(i, Input::Message { link, bytes });
        }
        let uses = |world: &World, i: usize| world.nodes[i].overlay.view().get(&id).is_some();
        let began = world.now;
        while (0..40).any(|i| i != x && uses(&world, i)) {
            world.run_until(world.now + Duration::from_secs(5));
            let left = (0..40).filter(|i| *i != x && uses(&world, *i)).count();
            assert!(world.now.since(began) < Duration::from_secs(600), "after ten minutes it is used still by {left}");
        }
        println!("local {local}: used by nobody after {:?}", world.now.since(began));
        // Nor does it come back with what it says next.
        let f = face(&world, x, at + 3 * limits::DESCRIPTOR_SLOT_SECS, 200);
        let node = &mut world.nodes[3];
        let body = record::verify_descriptor(&NET, &f.body).unwrap();
        let fresh = record::verify_freshness(&NET, &f.fresh).unwrap();
        let later = Verified::new(body, fresh).unwrap();
        assert_eq!(node.overlay.view.insert(later, Wall(at + 3600)), view::Inserted::Struck);
        world.nodes.iter().for_each(|n| n.overlay.view().check());
    }
}

/// A directory and a relay work together: the directory shows this client a face of the relay that nobody else was shown, newer or of
/// the same slot. The client does not use it; and one of the same slot is proven, and told to the guard, and everyone.
#[test]
fn a_face_that_one_directory_shows_is_not_used() {
    for same_slot in [false, true] {
        let mut world = network(40, 73, true);
        settle(&mut world, 20);
        let x = 17;
        let id = world.nodes[x].key.node_id();
        let truth = world.nodes[x].overlay.own_descriptor().unwrap().body().clone();
        let published = truth.descriptor().published.0 + if same_slot { 0 } else { 60 };
        let f = face(&world, x, published, 99);
        // Directory 9 tells the truth of everyone but one.
        let honest = |r: &Arc<Verified>| Forged { node: r.node(), body: r.body().encode(), fresh: vec![] };
        let all = world.nodes[9].overlay.view().usable().iter().filter(|r| r.node() != id).map(honest);
        world.nodes[9].forged = Some(all.chain([f]).collect());
        let three = vec![world.peer(9), world.peer(2), world.peer(20)];
        let client = world.add(73, "99.9.9.9:1".parse().unwrap(), false, true, three);
        let used = |world: &World| world.nodes[client].overlay.view().get(&id).map(|r| r.descriptor().onion_key);
        for _ in 0..100 {
            world.run_until(world.now + Duration::from_millis(100));
            assert_ne!(used(&world), Some([99; 32]));
        }
        let minute = world.now + Duration::from_secs(60);
        world.run_until(minute);
        let others = (0..40).filter(|i| *i != x && world.nodes[*i].overlay.view().get(&id).is_some()).count();
        if same_slot {
            assert_eq!((used(&world), others), (None, 0), "struck out");
            assert!(world.nodes[client].events.contains(&Event::Odd(Odd::Faces)));
        } else {
            assert_eq!((used(&world), others), (Some(truth.descriptor().onion_key), 39));
        }
        world.nodes[client].overlay.view().check();
    }
}

/// A directory whose list never ends, or that lists what it cannot show: given up and told; the others are enough.
#[test]
fn endless_and_empty_lists_are_given_up() {
    let mut world = network(30, 74, true);
    settle(&mut world, 20);
    let hand = |answer: &dyn Fn(u32) -> Message, more: usize| {
        let three = vec![world.peer(9), world.peer(2), world.peer(20)];
        let mut rng = StdRng::seed_from_u64(1);
        let config = Config { bootstrap: three, ..testing::config(true) };
        let mut env = World::env(world.now, &mut rng);
        let mut overlay = Overlay::new(&mut env, config);
        overlay.handle(&mut env, Input::Tick);
        let peer = world.peer(9);
        let link = LinkId(1);
        overlay.handle(&mut env, Input::LinkUp { link, node: Some(peer.node), remote: peer.addr, dialled: true, wall: None });
        let mut asked = 0;
        let mut told = Vec::new();
        let mut pending = vec![];
        loop {
            while let Some(output) = overlay.poll_output() {
                match output {
                    Output::Dial { token, expect, .. } if expect == peer.node => {
                        pending.push(Input::Dialled { token, link: Some(link) });
                    }
                    Output::Send { bytes, .. } => {
                        asked += 1;
                        if let Ok(Message::List { id, .. } | Message::Fetch { id, .. }) = Message::decode(&bytes) {
                            pending.push(Input::Message { link, bytes: answer(id).encode().unwrap() });
                        }
                    }
                    Output::Event(Event::Odd(odd)) => told.push(odd),
                    Output::Dial { .. }
                    | Output::Ask { .. }
                    | Output::Release { .. }
                    | Output::Blame { .. }
                    | Output::Job(..)
                    | Output::Save { .. }
                    | Output::Event(_) => {}
                }
            }
            let Some(next) = pending.pop() else { break };
            overlay.handle(&mut env, next);
            assert!(asked <= more, "{asked} questions");
        }
        overlay.check();
        (asked, told)
    };
    let listed = |from: u64| (from..from + 900).map(|id| Listed { id, tag: [1; 16], slot: 0, host: true }).collect::<Vec<_>>();
    let counter = core::cell::Cell::new(0u64);
    let page = |anew: bool, forward: bool| {
        let counter = &counter;
        move |id: u32| {
            counter.set(counter.get() + 1);
            let number = if forward { counter.get() } else { 1 };
            let next = crate::wire::overlay::Cursor { epoch: 1, came: number, gone: 7 };
            Message::ListPage {
                id,
                next,
                anew: anew || counter.get() == 1,
                more: true,
                gone: vec![],
                listed: listed(counter.get() * 900),
            }
        }
    };
    // Onward for ever; the same page for ever; a new list for ever.
    for (anew, forward, most) in [(false, true, 64), (false, false, 3), (true, true, 64)] {
        counter.set(0);
        let (asked, told) = hand(&page(anew, forward), most);
        assert_eq!(told, [Odd::EndlessList], "{asked}");
    }
}

/// Hash lists that name what nobody has: the rest is used, and the client goes on.
#[test]
fn a_listed_relay_that_nobody_shows_keeps_no_others_out() {
    let mut world = network(30, 75, true);
    settle(&mut world, 20);
    // Two directories list an invented relay, and show another in its place.
    let crowd = check_tests::crowd(&world, 9, 3000, 2, 2);
    for directory in [9, 2] {
        let honest = |r: &Arc<Verified>| Forged { node: r.node(), body: r.body().encode(), fresh: vec![] };
        let mut all: Vec<Forged> = world.nodes[directory].overlay.view().usable().iter().map(honest).collect();
        all.push(crowd[0].clone());
        world.nodes[directory].forged = Some(all);
        world.nodes[directory].shows_not = Some(crowd[0].node);
    }
    let three = vec![world.peer(9), world.peer(2), world.peer(20)];
    let client = world.add(75, "99.9.9.9:1".parse().unwrap(), false, true, three);
    world.run_until(world.now + Duration::from_secs(10));
    assert_eq!(world.shares()[client], 1.0);
    assert!(world.nodes[client].overlay.has_view() && world.nodes[client].events.contains(&Event::Odd(Odd::EmptyList)));
    assert!(world.nodes[client].overlay.view().get(&crowd[0].node).is_none());
    let asked = Message::Fetch { id: 1, ids: vec![1], part: Part::Descriptor };
    assert!(
        world.nodes[client]
            .overlay
            .answers()
            .to(&asked, 100)
            .is_some_and(|m| matches!(m, Message::FetchReply { records, .. } if records.is_empty()))
    );
}

/// A relay whose data directory was copied and runs twice: it is told what others will think of it.
#[test]
fn a_relay_that_runs_twice_is_told() {
    let mut world = network(12, 76, true);
    settle(&mut world, 20);
    let own = world.nodes[5].overlay.own_descriptor().unwrap().body().clone();
    let twin = face(&world, 5, own.descriptor().published.0, 77);
    let link = *world.nodes[5].links.keys().next().unwrap();
    let bytes = Message::Faces { one: Blob(own.encode()), other: Blob(twin.body) }.encode().unwrap();
    world.feed(5, Input::Message { link, bytes });
    world.run_until(world.now + Duration::from_secs(2));
    assert!(world.nodes[5].events.contains(&Event::StruckOut));
}

/// Somebody on the path lets a part of the descriptors through and then resets every line: nothing is chosen from that part.
#[test]
fn a_start_that_is_cut_off_in_the_middle_chooses_nothing() {
    let mut world = network(50, 77, true);
    settle(&mut world, 30);
    let three = vec![world.peer(2), world.peer(9), world.peer(20)];
    let client = world.add(77, "99.9.9.9:1".parse().unwrap(), false, true, three);
    let is_part = |input: &Input| {
        let Input::Message { bytes, .. } = input else { return false };
        matches!(Message::decode(bytes), Ok(Message::FetchReply { .. }))
    };
    let parts = |world: &World| -> Vec<(Time, u64)> {
        world.queue.iter().filter(|(_, (to, input))| *to == client && is_part(input)).map(|(at, _)| *at).collect()
    };
    let step = |world: &mut World| {
        let ((at, _), (node, input)) = world.queue.pop_first().unwrap();
        world.now = world.now.max(at);
        world.feed(node, input);
    };
    while parts(&world).len() < 3 {
        step(&mut world);
    }
    for late in &parts(&world)[1..] {
        world.queue.remove(late);
    }
    let relays = |world: &World| world.nodes[client].overlay.view().counts().relays;
    while relays(&world) == 0 {
        step(&mut world);
    }
    for link in world.nodes[client].links.keys().copied().collect::<Vec<_>>() {
        world.feed(client, Input::LinkDown { link });
    }
    assert!(relays(&world) < 30 && !world.nodes[client].overlay.has_view(), "{} came", relays(&world));
    world.run_until(world.now + Duration::from_secs(30));
    assert!(world.nodes[client].overlay.has_view() && relays(&world) == 50);
}
