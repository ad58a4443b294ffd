//! One test per threat of `threat-model.md` that the simulated network can show.

mod sim;

use onionskin::base::limits;
use onionskin::base::{NetworkId, NodeId};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::Event;
use onionskin::wire::cell::{CELL, Command, HEADER, Header, RelayCommand};
use onionskin::wire::overlay::{Message, Part};
use onionskin::wire::request::{Kind, SessionType, Store, Stored, TICKET_NONE};
use onionskin::wire::share::Class;
use rand::{Rng, RngExt, SeedableRng};
use sim::crowd::Crowd;
use sim::disk::Manner;
use sim::puppet::{Circuit, Leg};
use sim::{Fate, World};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

fn document(len: usize, fill: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(fill).fill_bytes(&mut bytes);
    bytes
}

/// A fifth of the hosts forget, corrupt or swap what they hold: 200 of 200 documents come back right.
#[test]
fn lying_hosts_never_put_a_wrong_byte_into_a_document() {
    let (mut world, publisher, reader) = World::with_people(60, 20);
    let mut liars = BTreeSet::new();
    while liars.len() < 12 {
        let at = world.random(0..60);
        if liars.insert(at) {
            world.nodes[at].disk.manner = [Manner::Forgets, Manner::Corrupts, Manner::Swaps][liars.len() % 3];
        }
    }
    let mut right = 0;
    for i in 0..200 {
        let len = if i % 10 == 0 { 150_000 } else { 50 * i };
        let doc = document(len, i as u64);
        let (key, _) = world.publish(publisher, &doc).unwrap();
        let (back, _) = world.get(reader, &key, 0).unwrap();
        assert!(back == doc, "a wrong byte in document {i}");
        right += 1;
    }
    println!("{right} of 200 documents came back right with 12 of 60 hosts lying");
}

/// What a global observer and every relay can note: no address of a chunk, no client's address beyond its guard and directory
/// relays, no length but the cell's (the world asserts that), no identity in a client's hello.
#[test]
fn notes_of_the_observer_and_of_all_relays_tell_nothing_they_should_not() {
    let (mut world, publisher, reader) = World::with_people(24, 21);
    let cells = Rc::new(RefCell::new(Vec::<u8>::new()));
    let notes = Rc::clone(&cells);
    world.observer = Some(Box::new(move |seen| notes.borrow_mut().extend_from_slice(seen.cells)));
    let doc = document(200_000, 3);
    let (key, _) = world.publish(publisher, &doc).unwrap();
    world.get(reader, &key, 0).unwrap();
    let third = world.client();
    world.run_until(Duration::from_secs(60), |w| w.ready(third));
    world.observer = None;

    let mut secrets: Vec<u64> = Vec::new();
    let mut note = |bytes: &[u8]| secrets.extend(bytes.first_chunk::<8>().map(|b| u64::from_be_bytes(*b)));
    for node in &world.nodes {
        node.disk.addresses().iter().for_each(|a| note(&a.0));
    }
    doc.chunks(5000).for_each(&mut note);
    secrets.sort_unstable();
    assert!(secrets.len() > 100);
    let cells = cells.borrow();
    assert!(cells.len() > 1000 * CELL);
    for window in cells.windows(8) {
        let value = u64::from_be_bytes(window.try_into().unwrap());
        assert!(secrets.binary_search(&value).is_err(), "a chunk address or plaintext on a link");
    }

    // The two relays of the world's bootstrap list see a client once, at its first start.
    for client in [publisher, reader, third] {
        let met: BTreeSet<usize> = world.dials().filter(|(from, _)| *from == client).map(|(_, to)| to).collect();
        assert!(met.len() <= 2 + 1, "client {client} showed its address to {met:?}");
        assert!(!world.dials().any(|(_, to)| to == client), "somebody dialled a client");
    }
    let hellos: Vec<&[u8]> = cells
        .chunks_exact(CELL)
        .filter(|c| Header::read(c.first_chunk().unwrap()).is_ok_and(|h| h.command == Command::Hello) && c[HEADER + 44] == 0)
        .collect();
    assert!(!hellos.is_empty() && hellos.iter().all(|h| *h == hellos[0]), "clients' hellos differ");
    assert!(hellos[0][HEADER + 45..].iter().all(|b| *b == 0), "a client's hello says more than its network and versions");
}

/// A relay of another network is refused by everyone; one that speaks a newer version with unknown extensions is served.
#[test]
fn other_networks_are_refused_and_newer_versions_served() {
    let mut world = World::new(22);
    let relays = world.relays(8);
    // Role is at 44, its proof ends at 149: there the extensions begin, and zeros follow.
    world.nodes[7].tamper = Some(Box::new(|_, cells| {
        if let Some(cell) = cells.first_chunk_mut::<CELL>()
            && Header::read(cell).is_ok_and(|h| h.command == Command::Hello)
        {
            cell[HEADER + 34..HEADER + 36].copy_from_slice(&9u16.to_be_bytes());
            cell[HEADER + 36..HEADER + 44].fill(0xff);
            cell[HEADER + 149..HEADER + 157].copy_from_slice(&[1, 0, 77, 0, 3, 1, 2, 3]);
        }
        Fate::Send
    }));
    let stranger = world.add(World::relay_addr(100), Some(Secret::new([5; 32])), NetworkId([9; 32]));
    world.run(Duration::from_secs(60));
    for r in &relays {
        assert_eq!(world.knows(*r), 8, "relay {r}");
    }
    assert!(world.knows(stranger) <= 1);
    let client = world.client();
    assert!(world.run_until(Duration::from_secs(60), |w| w.ready(client)));
}

/// Relays that alter, drop, duplicate, reorder or inject cells break circuits, and never a document; what the far side hears of it
/// is a destroy cell that says nothing.
#[test]
fn tampering_relays_break_circuits_and_nothing_else() {
    let (mut world, publisher, reader) = World::with_people(24, 23);
    for (i, relay) in [3, 9, 15, 21].into_iter().enumerate() {
        let mut last: Option<Vec<u8>> = None;
        world.nodes[relay].tamper = Some(Box::new(move |rng, cells| {
            let relay_cell = |c: &[u8]| c[4] == Command::Relay as u8;
            if !rng.random_bool(0.02) || cells.len() != CELL || !relay_cell(cells) {
                last = Some(cells.to_vec()).filter(|c| c.len() == CELL && relay_cell(c));
                return Fate::Send;
            }
            match i {
                0 => {
                    let at = rng.random_range(HEADER..CELL);
                    cells[at] ^= 1 << rng.random_range(0..8);
                }
                1 => return Fate::Drop,
                2 => {
                    let again = cells.to_vec();
                    cells.extend_from_slice(&again);
                }
                _ => {
                    if let Some(old) = &last {
                        cells.extend_from_slice(old);
                    }
                }
            }
            Fate::Send
        }));
    }
    let destroys = Rc::new(RefCell::new(BTreeSet::new()));
    let notes = Rc::clone(&destroys);
    world.observer = Some(Box::new(move |seen| {
        for cell in seen.cells.chunks_exact(CELL) {
            if cell[4] == Command::Destroy as u8 {
                notes.borrow_mut().insert(cell[HEADER..].to_vec());
            }
        }
    }));
    for i in 0..8 {
        let doc = document(300_000, i);
        let (key, _) = world.publish(publisher, &doc).unwrap();
        let (back, _) = world.get(reader, &key, 0).unwrap();
        assert!(back == doc);
    }
    let destroys = destroys.borrow();
    assert_eq!(destroys.len(), 1, "destroy cells differ");
    assert!(destroys.iter().all(|body| body.iter().all(|b| *b == 0)), "a destroy cell says something");
}

/// T13: whoever asks for a longer circuit gets none, whichever relays it leads over and in whatever cells the extends travel.
#[test]
fn a_circuit_never_gets_longer_than_its_bound() {
    let (mut world, _, _) = World::with_people(12, 24);
    let puppet = world.puppet();
    // Over distinct relays, round in a circle, and to and fro between two.
    for way in [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 0], [7, 8, 7, 8, 7, 8, 7]] {
        let mut circuit = Circuit::create(&mut world, puppet, way[0]);
        let refused = way[1..].iter().position(|relay| !circuit.extend(&mut world, *relay, Command::RelayEarly));
        assert_eq!(refused, Some(usize::from(limits::EARLY_MAX)), "{way:?}");
        assert_eq!(circuit.len(), usize::from(limits::EARLY_MAX) + 1);
    }
    // Ordinary cells, of which any number pass, carry no extends.
    for hops in 1..4 {
        let mut circuit = Circuit::create(&mut world, puppet, 0);
        for relay in 1..hops {
            assert!(circuit.extend(&mut world, relay, Command::RelayEarly));
        }
        assert!(!circuit.extend(&mut world, hops, Command::Relay), "at hop {hops}");
    }
}

/// T19: a host answers 64 requests of a session, and ends it at the next.
#[test]
fn a_session_takes_at_most_64_requests() {
    let (mut world, _, _) = World::with_people(8, 25);
    let puppet = world.puppet();
    let descriptor = world.descriptor(3);
    let kind = SessionType { kind: Kind::Store, class: Class::Small };
    // No share verifies in it, so every answer is the same.
    let store = Store { lease_days: 1, ticket: (TICKET_NONE, &[]), blob: &[7; 100] }.to_bytes();
    for _ in 0..2 {
        let leg = Leg::open(&mut world, puppet, 3, &descriptor, kind);
        for n in 0..limits::SESSION_REQUESTS_MAX {
            assert_eq!(leg.ask(&mut world, n, &store), Some(Stored::Invalid.to_bytes()), "request {n}");
        }
        assert_eq!(leg.ask(&mut world, limits::SESSION_REQUESTS_MAX, &store), None);
        assert_eq!(leg.ask(&mut world, 0, &store), None, "it has ended");
    }
    // Numbers only grow: a host takes none twice and none out of turn.
    for wrong in [0, 2, 63] {
        let leg = Leg::open(&mut world, puppet, 3, &descriptor, kind);
        assert!(leg.ask(&mut world, 0, &store).is_some());
        assert_eq!(leg.ask(&mut world, wrong, &store), None, "{wrong} after 0");
    }
}

/// T14: what one wish used serves no other, neither after it nor beside it.
#[test]
fn one_circuit_serves_one_operation_only() {
    let (mut world, publisher, reader) = World::with_people(24, 26);
    let docs: Vec<Vec<u8>> = (0..4).map(|i| document(150_000, i)).collect();
    let keys: Vec<_> = docs.iter().map(|doc| world.publish(publisher, doc).unwrap().0).collect();

    // After it: which of the reader's circuits carried requests (extends travel in other cells), wish by wish.
    let carried = Rc::new(RefCell::new(BTreeSet::new()));
    let mut before = BTreeSet::new();
    for (doc, key) in docs.iter().zip(&keys) {
        carried.borrow_mut().clear();
        let notes = Rc::clone(&carried);
        world.observer = Some(Box::new(move |seen| {
            for cell in seen.cells.chunks_exact(CELL).filter(|c| seen.from == reader && c[4] == Command::Relay as u8) {
                notes.borrow_mut().insert((seen.to, cell[..4].to_vec()));
            }
        }));
        assert!(world.get(reader, key, 0).unwrap().0 == *doc);
        let now = carried.borrow().clone();
        assert!(now.len() >= limits::DOCUMENT_CIRCUITS, "{} circuits", now.len());
        assert!(before.is_disjoint(&now), "a circuit of an earlier wish");
        before.extend(now);
    }
    world.observer = None;

    // Beside it: all at once, while the core looks after each step that no circuit has two masters.
    world.check_every = 20;
    let mut ops: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for key in &keys {
        ops.insert(world.command(reader, onionskin::proto::Command::Get { key: key.clone(), offset: 0 }), Vec::new());
    }
    let mut done = 0;
    world.run_until(Duration::from_secs(300), |world| {
        for (op, bytes) in &mut ops {
            for event in world.nodes[reader].events.get_mut(op).map(std::mem::take).unwrap_or_default() {
                assert!(!matches!(event, Event::Failed(_)), "{event:?}");
                done += usize::from(matches!(event, Event::Fetched(_)));
                if let Event::Data(data) = event {
                    bytes.extend_from_slice(&data);
                    world.tell(reader, *op, onionskin::proto::Command::Consumed(data.len() as u64));
                }
            }
        }
        done == docs.len()
    });
    assert!(ops.values().zip(&docs).all(|(bytes, doc)| bytes == doc));
}

/// T09, T10: whatever ends a circuit, the cell that says so is the same, and so is the time it takes. Only an end that waited for a
/// dial comes later, by that dial.
#[test]
fn ends_of_circuits_differ_neither_in_kind_nor_in_time() {
    let (mut world, _, _) = World::with_people(12, 27);
    let puppet = world.puppet();
    let unknown = [&[0xee; 32][..], &[7; onionskin::crypto::ntor::CREATE_LEN]].concat();
    let off = world.nodes[9].id.unwrap();
    let host = world.nodes[5].id.unwrap();
    let dial_back = Message::DialBack { id: 0, port: 9001 }.encode().unwrap();
    let causes = [
        ("a tampered cell", None),
        ("a message that is none", Some((RelayCommand::Extended, &[][..], Command::Relay))),
        ("an extend in an ordinary cell", Some((RelayCommand::Extend, &unknown[..], Command::Relay))),
        ("an extend to nobody", Some((RelayCommand::Extend, &unknown[..], Command::RelayEarly))),
        ("an extend that is too short", Some((RelayCommand::Extend, &unknown[..40], Command::RelayEarly))),
        ("a stream of number zero", Some((RelayCommand::Begin, host.as_ref(), Command::Relay))),
        ("a question that is none", Some((RelayCommand::Directory, &[][..], Command::Relay))),
        ("a question of the overlay plane that is no circuit's", Some((RelayCommand::Directory, &dial_back[..], Command::Relay))),
    ];
    let circuit = |world: &mut World| {
        let mut circuit = Circuit::create(world, puppet, 0);
        assert!(circuit.extend(world, 1, Command::RelayEarly) && circuit.extend(world, 2, Command::RelayEarly));
        circuit
    };
    let mut times = Vec::new();
    for (name, cause) in causes {
        let mut circuit = circuit(&mut world);
        match cause {
            Some((command, data, carrier)) => circuit.tell(&mut world, command, 0, data, carrier),
            None => circuit.noise(&mut world),
        }
        let (time, body) = circuit.end(&mut world).unwrap_or_else(|| panic!("{name} ends nothing"));
        println!("{name}: {time:?}");
        assert!(body.iter().all(|b| *b == 0), "{name}: the destroy cell says something");
        times.push(time);
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*most - *least < Duration::from_millis(1), "{times:?}");

    // A relay that is known, was left by all for long enough that no link stands, and is off.
    let mut late = circuit(&mut world);
    world.switch_off(9);
    let message = [off.as_ref(), &[7; onionskin::crypto::ntor::CREATE_LEN]].concat();
    late.tell(&mut world, RelayCommand::Extend, 0, &message, Command::RelayEarly);
    let (time, body) = late.end(&mut world).unwrap();
    println!("an extend to a relay that is off: {time:?}");
    assert!(body.iter().all(|b| *b == 0) && time > *most, "a dial takes its time");
}

/// T29: a client that begins asks many relays what they know, and its line shows one of them. Its questions look all the same.
#[test]
fn samples_of_the_view_go_over_the_guard_and_look_alike() {
    let (mut world, _, _) = World::with_people(40, 31);
    let client = world.client();
    let cells = Rc::new(RefCell::new(BTreeMap::<_, Vec<(bool, u8)>>::new()));
    let notes = Rc::clone(&cells);
    world.observer = Some(Box::new(move |seen| {
        for cell in seen.cells.chunks_exact(CELL).filter(|_| seen.from == client || seen.to == client) {
            let header = Header::read(cell.first_chunk().unwrap()).unwrap();
            if let Some(circuit) = header.circuit {
                let (up, peer) = if seen.from == client { (true, seen.to) } else { (false, seen.from) };
                notes.borrow_mut().entry((peer, circuit.get())).or_default().push((up, cell[4]));
            }
        }
    }));
    assert!(world.run_until(Duration::from_secs(60), |w| w.ready(client)));
    world.run(Duration::from_secs(2));
    world.observer = None;
    let cells = cells.borrow();
    let guards: BTreeSet<usize> = cells.keys().map(|(peer, _)| *peer).collect();
    assert_eq!(guards.len(), 1, "circuits over {guards:?}");
    // Those that ask send one cell more than building takes, and have one more back.
    let [create, created, relay, early, destroy] =
        [Command::Create, Command::Created, Command::Relay, Command::RelayEarly, Command::Destroy].map(|c| c as u8);
    let asked = cells.values().filter(|seen| seen.contains(&(true, relay))).collect::<Vec<_>>();
    // Circuits to directories stay for the next question; those of samples end, and that is all that tells them apart.
    let (samples, directories): (Vec<_>, Vec<_>) = asked.into_iter().partition(|seen| seen.ends_with(&[(true, destroy)]));
    assert!(samples.len() >= 5 && (1..=2).contains(&directories.len()), "{} samples", samples.len());
    let looks = [(true, create), (false, created), (true, early), (false, relay), (true, early), (false, relay)];
    let looks: Vec<_> = looks.into_iter().chain([(true, relay), (false, relay)]).collect();
    assert!(samples.iter().all(|seen| seen[..seen.len() - 1] == looks), "{samples:?}");
    assert!(directories.iter().all(|seen| seen.starts_with(&looks)), "{directories:?}");
    println!("{} samples over one guard", samples.len());
}

/// Somebody's forty circuits begin and end legs as fast as his line goes, all to one host. The link to it stands, and so do the circuits
/// of others over it, whatever the host's line carries.
#[test]
fn whoever_begins_and_ends_without_end_cuts_no_link_of_others() {
    for (begins, rate) in [(8, 1_000_000), (32, 12_500_000), (32, 125_000_000), (32, 0)] {
        let (mut world, ..) = World::with_people(12, 903);
        let (relay, host) = (3, 7);
        let other = world.puppet();
        let mut honest = Circuit::create(&mut world, other, relay);
        assert!(honest.extend(&mut world, host, Command::RelayEarly));
        let attacker = world.puppet();
        let link = world.puppet_link(attacker, relay, None);
        let descriptor = world.descriptor(relay);
        let id = world.nodes[host].id.unwrap();
        let mut circuits: Vec<Circuit> =
            (1..=40).filter_map(|n| Circuit::create_on(&mut world, attacker, link, n, &descriptor)).collect();
        assert_eq!(circuits.len(), 40);
        world.line(host, rate);
        for circuit in &mut circuits {
            for stream in 1..=begins {
                circuit.tell(&mut world, RelayCommand::Begin, stream, id.as_ref(), Command::Relay);
                circuit.tell(&mut world, RelayCommand::End, stream, &[], Command::Relay);
            }
        }
        world.run(Duration::from_secs(20));
        assert!(honest.ask(&mut world, 1, &Message::Near { id: 1, target: [7; 32], max: 4 }).is_some(), "at {rate} B/s");
    }
}

/// A circuit brings answers about the public view from where it ends, whoever asks.
#[test]
fn a_last_hop_answers_questions_about_the_public_view_alone() {
    let (mut world, _, _) = World::with_people(12, 32);
    let puppet = world.puppet();
    let circuit = |world: &mut World| {
        let mut circuit = Circuit::create(world, puppet, 0);
        assert!(circuit.extend(world, 1, Command::RelayEarly) && circuit.extend(world, 2, Command::RelayEarly));
        circuit
    };
    let mut asker = circuit(&mut world);
    let near = asker.ask(&mut world, 1, &Message::Near { id: 5, target: [7; 32], max: 9 }).unwrap();
    let Ok(Message::NearReply { id: 5, hints }) = Message::decode(&near) else { panic!("another answer") };
    let own: BTreeSet<u64> = world.nodes[2].core.as_ref().unwrap().view().near(&[7; 32], 9).map(|r| r.hint_id()).collect();
    assert!(own.len() == 9 && own == hints.iter().map(|hint| hint.id).collect());
    // One that takes several cells.
    let ids: Vec<u64> = hints.iter().take(3).map(|hint| hint.id).collect();
    let fetched = asker.ask(&mut world, 2, &Message::Fetch { id: 6, ids, part: Part::Descriptor }).unwrap();
    let Ok(Message::FetchReply { id: 6, records }) = Message::decode(&fetched) else { panic!("another answer") };
    assert!(records.len() == 3 && fetched.len() > onionskin::wire::cell::RELAY_DATA);
    // What asks a relay to do something is no question, though it is taken on a link.
    for other in [Message::DialBack { id: 1, port: 9001 }, Message::AnnounceAck { id: 1 }, Message::NearReply { id: 1, hints }] {
        let mut circuit = circuit(&mut world);
        assert_eq!(circuit.ask(&mut world, 1, &other), None, "{other:?}");
    }
    assert!(asker.ask(&mut world, 3, &Message::Near { id: 5, target: [8; 32], max: 9 }).is_some(), "others end by themselves");
}

/// T16: after its first start a client dials its guard and nobody else, over a month of daily commands that start anew on what was
/// kept, read what changed meanwhile, and move a document each.
#[test]
fn after_its_first_start_a_client_dials_its_guard_alone() {
    let (mut world, client, _) = World::with_people(24, 34);
    world.run(Duration::from_secs(30));
    assert!(world.nodes[client].dialled.len() <= 3, "two ways in and a guard: {:?}", world.nodes[client].dialled);
    world.nodes[client].dialled.clear();
    let network = world.network;
    let mut slowest = Duration::ZERO;
    for command in 0..30 {
        world.switch_off(client);
        world.run(Duration::from_secs(600));
        let began = world.now;
        world.switch_on(client, network);
        assert!(world.run_until(Duration::from_secs(60), |w| w.ready(client)));
        slowest = slowest.max(world.now.since(began));
        let (key, _) = world.publish(client, &document(3000, command)).unwrap();
        assert!(world.get(client, &key, 0).unwrap().0 == document(3000, command));
        // Long enough to read its directories.
        world.run(Duration::from_secs(40));
    }
    println!("ready after {slowest:?} at the most; dialled {:?}", world.nodes[client].dialled);
    assert_eq!(world.nodes[client].dialled.len(), 1);
    assert!(slowest < Duration::from_secs(1));
}

/// T31: one real relay vouches for 300 relays that are nowhere, among 30 honest ones; or for 12 of them, or for one, and those for
/// all others. The bar: a minute after they came neither an honest relay nor a client uses one, though they go on. Every honest
/// relay uses all honest ones all the time, and documents come and go. Then the same relay vouches for the next 300. Of all 600 no
/// honest relay ever uses more than ten: so many may hang on one that answers where 31 do, and who failed keeps its place among
/// them. Of the second 300 no more than two are used at any time, if it vouched for several of the first: their places are taken,
/// or its word is lost. If for one, that one may have been found out before it brought others in; so the first 300 took no places,
/// and ten is the bar. What those say of each other is not laid to the relay that they hang on, or whoever leaves could take the
/// good name of his witnesses with him.
#[test]
fn one_real_relay_cannot_fill_the_network_with_invented_ones() {
    const HONEST: usize = 30;
    const CROWD: usize = 300;
    for (seed, vouched) in [(31, CROWD), (32, 12), (33, 1)] {
        let (mut world, publisher, reader) = World::with_people(HONEST, seed);
        let honest: Vec<NodeId> = world.nodes[..HONEST].iter().map(|n| n.id.unwrap()).collect();
        // It behaves well for a while, and so has a good name with those for whom it was a witness.
        let real = IdentityKey::from_seed(&Secret::new([7; 32]));
        let network = world.network;
        world.add(World::relay_addr(900), Some(Secret::new([7; 32])), network);
        world.run(Duration::from_secs(120));
        let puppet = world.puppet();
        let doc = document(60_000, 31);
        let mut ever = vec![BTreeSet::new(); HONEST];
        for round in 0..2 {
            let crowd = Crowd::invent(&mut world, &real, 2000 + round * CROWD, CROWD, vouched);
            let mut worst = |world: &World| {
                (0..HONEST).for_each(|r| ever[r].extend(world.used(r, &crowd.ids)));
                (0..HONEST).map(|r| world.uses(r, &crowd.ids)).max().unwrap()
            };
            let all_there = |world: &World| (0..HONEST).all(|r| world.uses(r, &honest) == HONEST);
            let mut most = 0;
            crowd.announce(&mut world, puppet, HONEST, |world| {
                most = most.max(worst(world));
                assert!(all_there(world), "an honest relay was lost");
            });
            // While some are believed, somebody joins and somebody publishes.
            let (began, early) = (world.now, world.client());
            assert!(world.run_until(Duration::from_secs(60), |w| w.ready(early)));
            let key = world.publish(publisher, &doc).unwrap().0;
            let mut last_used = Duration::ZERO;
            while world.now.since(began) < Duration::from_secs(300) {
                let clients = [publisher, reader, early].map(|c| world.uses(c, &crowd.ids));
                let now = (worst(&world), clients);
                assert!(all_there(&world), "an honest relay was lost");
                most = most.max(now.0);
                if now != (0, [0; 3]) {
                    last_used = world.now.since(began);
                }
                world.run(Duration::from_secs(1));
            }
            let heard = (0..HONEST).map(|r| world.heard_of(r, &crowd.ids)).min().unwrap();
            let in_all = ever.iter().map(BTreeSet::len).max().unwrap();
            println!(
                "{vouched} vouched for, round {round}: all relays heard of {heard}, most used {most}, in all {in_all}, the last after {last_used:?}"
            );
            assert!(heard > 0, "they were heard of");
            assert!(in_all <= 10 && last_used < Duration::from_secs(60));
            assert!(round == 0 || vouched == 1 || most <= 2);
            let late = world.client();
            assert!(world.run_until(Duration::from_secs(60), |w| w.ready(late)));
            for client in [early, late, reader] {
                assert_eq!((world.uses(client, &crowd.ids), world.uses(client, &honest)), (0, HONEST));
                assert!(world.get(client, &key, 0).unwrap().0 == doc);
            }
        }
    }
}
