//! One test per threat of `threat-model.md` that the simulated network can show.

mod sim;

use onionskin::base::NetworkId;
use onionskin::crypto::secret::Secret;
use onionskin::wire::cell::{CELL, Command, HEADER, Header};
use rand::{Rng, RngExt, SeedableRng};
use sim::disk::Manner;
use sim::{Fate, World};
use std::cell::RefCell;
use std::collections::BTreeSet;
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

/// What a global observer and every relay can note: no address of a chunk, no client's address beyond its guard and directory relays, no
/// length but the cell's (the world asserts that), no identity in a client's hello.
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
        let met: BTreeSet<usize> = world.dials.iter().filter(|(from, _)| *from == client).map(|(_, to)| *to).collect();
        assert!(met.len() <= 2 + 3 + 1, "client {client} showed its address to {met:?}");
        assert!(!world.dials.iter().any(|(_, to)| *to == client), "somebody dialled a client");
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

/// Relays that alter, drop, duplicate, reorder or inject cells break circuits, and never a document; what the far side hears of it is a
/// destroy cell that says nothing.
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
