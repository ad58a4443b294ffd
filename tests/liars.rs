//! Liars that want to know who reads, or to choose whom he reads through: relays with a face for each, bootstrap relays with a network
//! of their own, and somebody on the path to the honest ones (T29).

mod sim;

use onionskin::base::NodeId;
use sim::World;
use sim::liars::{Liar, OnPath, Shown, watch_openings};
use std::collections::BTreeSet;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A world of relays that know each other, and one more that will lie: the last.
fn with_liar(relays: usize, seed: u64) -> (World, Vec<usize>, Liar) {
    let mut world = World::new(seed);
    let honest = world.relays(relays);
    let mut liar = Liar::relay(&mut world, World::relay_addr(relays));
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| (0..=relays).all(|r| w.knows(r) == relays + 1)));
    liar.begin(&mut world);
    (world, honest, liar)
}

fn shown_to_two(shown: &Shown, name: u32) -> bool {
    shown.get(&name).is_some_and(|by| by.len() >= 2)
}

/// A bootstrap relay and a host work together: it shows each client a descriptor of the host that nobody else has yet, so that the
/// host would know by the key which client opens a session. No client uses one before two directories list it.
#[test]
fn a_bootstrap_relay_and_a_host_name_no_client() {
    let (mut world, relays, mut liar) = with_liar(24, 900);
    let publisher = world.client();
    assert!(world.run_until_each(SECOND, SECOND * 120, |w| w.ready(publisher)));
    let (read, _) = world.publish(publisher, &vec![7; 20_000]).unwrap();
    world.switch_off(publisher);
    let mut shown = Shown::new();
    liar.note(&world, &relays, &mut shown);
    let (mut alone, mut asked, mut clients) = (0, 0, 0);
    // A face may reach another relay within the moment that it is told in: some clients more make up for those.
    while clients < 12 || alone < 10 {
        let c: u32 = clients;
        clients += 1;
        assert!(c < 20, "{alone} of {c}");
        let name = 0xC0DE_0000 + c;
        liar.connect(&mut world, &[0]);
        let wall = world.wall();
        let face = liar.face(&mut world, wall, name);
        liar.tell(&mut world, vec![(0, face)], &relays, &mut shown);
        alone += u32::from(shown.get(&name).is_some_and(|by| by.len() == 1 && by.contains(&0)));
        let client = world.client_to_be(0);
        world.start_from(client, &[0, 1, 2]);
        let check = |world: &World, shown: &mut Shown| {
            liar.note(world, &relays, shown);
            let used = liar.used_by(world, client).map(|(_, name)| name);
            assert!(used.is_none_or(|used| shown_to_two(shown, used)), "client {c} uses {used:x?}");
        };
        assert!(world.run_until_each(SECOND / 20, SECOND * 120, |w| {
            check(w, &mut shown);
            w.ready(client)
        }));
        let seen = watch_openings(&mut world, liar.node);
        let _ = world.get_while(client, &read, 0, |w, _| check(w, &mut shown));
        world.observer = None;
        let names: BTreeSet<u32> = seen.borrow().iter().copied().collect();
        asked += usize::from(!names.is_empty());
        assert!(names.iter().all(|name| shown_to_two(&shown, *name)), "{names:x?}");
        world.switch_off(client);
    }
    println!("{alone} of {clients} clients began while the bootstrap relay alone showed a face; the host was asked by {asked}");
    assert!(asked > 0);
}

/// A host alone has a descriptor for each relay, so that by the key it would know who was its reader's directory. Nobody uses one that
/// two relays do not list, and as soon as two meet, the host is nobody's: within ten minutes, and for clients that begin meanwhile.
#[test]
fn a_host_with_a_face_for_each_relay_learns_nothing_and_is_soon_nobodys() {
    for one_slot in [true, false] {
        let (mut world, relays, mut liar) = with_liar(40, 902);
        let clients: Vec<usize> = (0..12).map(|_| world.client()).collect();
        assert!(world.run_until_each(SECOND, SECOND * 300, |w| clients.iter().all(|c| w.ready(*c))));
        let (read, _) = world.publish(clients[0], &vec![8; 20_000]).unwrap();
        let mut shown = Shown::new();
        liar.note(&world, &relays, &mut shown);
        liar.connect(&mut world, &relays);
        let wall = world.wall();
        let published = |r: usize| if one_slot { wall } else { wall.plus(r as u64) };
        let told = relays.iter().map(|r| (*r, liar.face(&mut world, published(*r), 0xA000 + *r as u32))).collect();
        liar.tell(&mut world, told, &relays, &mut shown);
        let own = relays.iter().filter(|r| shown.get(&(0xA000 + **r as u32)).is_some_and(|by| by.contains(r))).count();
        let began = world.now;
        let late = world.client_to_be(0);
        world.start_from(late, &[3, 11, 19]);
        let readers: Vec<usize> = clients.iter().copied().chain([late]).collect();
        let seen = watch_openings(&mut world, liar.node);
        let check = |world: &World, shown: &mut Shown| {
            liar.note(world, &relays, shown);
            for client in &readers {
                let used = liar.used_by(world, *client).map(|(_, name)| name);
                assert!(used.is_none_or(|used| shown_to_two(shown, used)), "client {client} uses {used:x?}");
            }
        };
        world.run_until_each(SECOND / 4, SECOND * 3, |w| {
            check(w, &mut shown);
            false
        });
        for client in &clients {
            let _ = world.get_while(*client, &read, 0, |w, _| liar.note(w, &relays, &mut shown));
            check(&world, &mut shown);
        }
        world.observer = None;
        assert!(seen.borrow().iter().all(|name| shown_to_two(&shown, *name)), "{:x?}", seen.borrow());
        let left = |w: &World| relays.iter().chain(&readers).filter(|n| liar.used_by(w, **n).is_some()).count();
        if one_slot {
            let gone = world.run_until_each(SECOND, SECOND * 600, |w| {
                check(w, &mut shown);
                left(w) == 0
            });
            assert!(gone, "used still by {}", left(&world));
        }
        let openings = seen.borrow().len();
        println!(
            "one slot {one_slot}: {own} of 40 relays took their face, {openings} openings, used by {} after {:?}",
            left(&world),
            world.now.since(began)
        );
        assert!(own >= 30);
    }
}

/// One bootstrap link of three leads into a network of ten liars. On a slow line, and with the honest ones delayed or cut at will by
/// somebody on the path, nobody draws a guard from the liars' list; it may be that nothing is drawn at all.
#[test]
fn a_short_list_never_wins_however_slow_the_others_are() {
    let mut world = World::new(901);
    let honest = world.relays(60);
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| honest.iter().all(|r| w.knows(*r) == 60)));
    let bad = world.network_of_liars(10);
    let second = |n: u64| Duration::from_secs(n);
    let paths = [
        (OnPath::Nobody, true),
        (OnPath::Delays(second(1)), true),
        (OnPath::Delays(second(4)), false),
        (OnPath::Resets(second(20)), true),
        (OnPath::Resets(second(1)), false),
    ];
    for (path, may_be) in paths {
        let starts: Vec<(usize, Vec<usize>)> = (0..4).map(|i| (world.client_to_be(15_000), vec![i, 20 + i, bad[i]])).collect();
        let all = world.start_all(&starts, &honest, path, second(120));
        let ready = starts.iter().filter(|(c, _)| world.ready(*c)).count();
        println!("{path:?}: {ready} of {} are ready", starts.len());
        assert!(all || !may_be, "{path:?}");
        for (client, _) in &starts {
            let [guards, seconds] = world.saved_paths(*client);
            assert_eq!((world.count_of(&guards, &bad), world.count_of(&seconds, &bad)), (0, 0), "{path:?}");
            world.switch_off(*client);
        }
    }
}

/// A client that has good guards keeps them when it starts again on a slow line, from what it kept and without: a list that lacks its
/// guards is not believed, though somebody on the path lets no other come.
#[test]
fn six_good_guards_outlive_a_start_among_liars() {
    let mut world = World::new(903);
    let honest = world.relays(60);
    assert!(world.run_until_each(SECOND, SECOND * 300, |w| honest.iter().all(|r| w.knows(*r) == 60)));
    let bad = world.network_of_liars(10);
    let second = |n: u64| Duration::from_secs(n);
    let starts: Vec<(usize, Vec<usize>)> = (0..4).map(|i| (world.client_to_be(0), vec![i, 20 + i, 40 + i])).collect();
    assert!(world.start_all(&starts, &[], OnPath::Nobody, second(120)));
    world.run(second(20));
    for (client, _) in &starts {
        world.publish(*client, &[9; 100]).unwrap();
    }
    let before: Vec<[Vec<NodeId>; 2]> = starts.iter().map(|(c, _)| world.saved_paths(*c)).collect();
    assert!(before.iter().all(|[guards, _]| guards.len() == 6));
    for (path, liars, kept) in [
        (OnPath::Nobody, 1, true),
        (OnPath::Nobody, 1, false),
        (OnPath::Delays(second(4)), 2, false),
        (OnPath::Resets(second(1)), 2, false),
        (OnPath::Resets(second(1)), 2, true),
    ] {
        let mut again = Vec::new();
        for (i, (client, _)) in starts.iter().enumerate() {
            world.switch_off(*client);
            world.line(*client, 15_000);
            if !kept {
                world.nodes[*client].saved.remove("view");
            }
            again.push((*client, [bad[i], bad[i + 4], i, 20 + i, 40 + i].into_iter().skip(2 - liars).take(3).collect()));
        }
        world.start_all(&again, &honest, path, second(60));
        for ((client, _), before) in starts.iter().zip(&before) {
            let [guards, seconds] = world.saved_paths(*client);
            assert_eq!(guards, before[0], "{path:?}");
            assert_eq!(world.count_of(&seconds, &bad), 0, "{path:?}");
        }
    }
}
