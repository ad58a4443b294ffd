//! Hosts that fill the places of all others with what they were given themselves, so that a document cannot be published, or is
//! said to be stored and cannot be read once they forget it (T37).

mod sim;

use onionskin::base::Address;
use onionskin::proto::doc::key::Key;
use sim::World;
use sim::disk::Manner;
use sim::squatters::Squatters;
use std::collections::BTreeSet;

const HOSTS: usize = 60;

/// Three hosts of ten squat, with two shares of each chunk, or with all that they get, and say what they like of it. Every document
/// is published, and honest hosts alone can give it back: over a line so slow that they are always first, and over one that has no
/// bound.
#[test]
fn squatters_keep_nobody_from_publishing_and_false_words_store_nothing() {
    let (mut world, publisher, reader) = World::with_people(HOSTS, 904);
    for (rate, length) in [(30_000, 300_000), (200_000, 300_000), (0, 2 << 20)] {
        for (most, manner) in [(2, Manner::Honest), (7, Manner::Honest), (24, Manner::Denies), (2, Manner::Boasts)] {
            world.line(publisher, rate);
            let mut bad = Squatters::among(&mut world, HOSTS, HOSTS * 3 / 10, most, manner);
            let document: Vec<u8> = (0..length).map(|i: u32| (i % 251) as u8).collect();
            let published = world.publish_while(publisher, &document, None, |world| bad.act(world));
            let (lost, all) = bad.beyond_reach(&world);
            println!("{rate} B/s, {length} bytes, {most} shares, {manner:?}: {:?}, {lost} of {all}", published.as_ref().err());
            let (key, _) = published.expect("it is published");
            assert_eq!(lost, 0, "chunks that honest hosts cannot give back");
            bad.hosts.iter().for_each(|host| world.nodes[*host].disk.clear());
            assert!(world.get(reader, &key, 0).is_ok_and(|(got, _)| got == document), "it is read when they have forgotten");
            bad.hosts.iter().for_each(|host| world.nodes[*host].disk.manner = Manner::Honest);
            bad.forget(&mut world);
        }
    }
}

/// A chunk that its hosts do not take is kept at a spare place. There it is read, and counted by who checks.
#[test]
fn what_nobody_takes_at_its_own_place_is_kept_at_a_spare_one() {
    let (mut world, publisher, reader) = World::with_people(HOSTS, 905);
    let places = |world: &World| (0..HOSTS).flat_map(|host| world.nodes[host].disk.addresses()).collect::<BTreeSet<Address>>();
    (0..HOSTS).for_each(|host| world.nodes[host].disk.manner = Manner::Denies);
    let mut own = BTreeSet::new();
    let published = world.publish_while(publisher, b"a small document", None, |world| {
        let there = places(world);
        if own.is_empty() {
            own = there;
        } else if there.len() > 1 && world.nodes[0].disk.manner == Manner::Denies {
            for host in 0..HOSTS {
                world.nodes[host].disk.clear();
                world.nodes[host].disk.manner = Manner::Honest;
            }
        }
    });
    let (key, _) = published.expect("it is published");
    let spare = places(&world);
    assert!(spare.len() == 1 && own.len() == 1 && own.is_disjoint(&spare), "{own:?} {spare:?}");
    assert!(world.get(reader, &key, 0).is_ok_and(|(got, _)| got == b"a small document"));
    let check = world.check(reader, Key::Read(key)).unwrap();
    assert!(check.chunks_lost == 0 && check.weakest >= 16, "{check:?}");
}
