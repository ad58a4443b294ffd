//! What shows of a relay's own user to others: nothing before a first wish, and nothing that a first wish changes for good (T34).

mod sim;

use onionskin::base::Time;
use onionskin::wire::cell::{CELL, Command, Header};
use sim::World;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const RELAYS: usize = 24;
const CREATE: u8 = Command::Create as u8;
const CREATED: u8 = Command::Created as u8;
const RELAY: u8 = Command::Relay as u8;
const EARLY: u8 = Command::RelayEarly as u8;
const DESTROY: u8 = Command::Destroy as u8;
/// A circuit that is built and not used, as its guard sees it: to the guard, and what kind of cell.
const SPARE: [(bool, u8); 6] = [(true, CREATE), (false, CREATED), (true, EARLY), (false, RELAY), (true, EARLY), (false, RELAY)];

/// What the next relay sees of a circuit of some node, its own or one that it forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Carried {
    begun: Time,
    next: usize,
    cells: Vec<(bool, u8)>,
}

impl Carried {
    /// Whether the node began it: two extends pass only where the next relay is the first of three.
    fn is_own(&self) -> bool {
        self.cells.iter().filter(|cell| **cell == (true, EARLY)).count() >= 2
    }

    fn is_unused(&self) -> bool {
        self.cells == SPARE || (self.cells.starts_with(&SPARE) && matches!(self.cells[SPARE.len()..], [(_, DESTROY)]))
    }
}

type Notes = Rc<RefCell<BTreeMap<(usize, usize, u32), Vec<Carried>>>>;

/// Notes every circuit on the links of these nodes, from now on.
fn watch(world: &mut World, nodes: &[usize]) -> Notes {
    let (notes, nodes) = (Notes::default(), nodes.to_vec());
    let into = Rc::clone(&notes);
    world.observer = Some(Box::new(move |seen| {
        for cell in seen.cells.chunks_exact(CELL) {
            let Some(circuit) = Header::read(cell.first_chunk().expect("a cell")).expect("its head").circuit else { continue };
            for (node, peer, out) in [(seen.from, seen.to, true), (seen.to, seen.from, false)] {
                if !nodes.contains(&node) {
                    continue;
                }
                let mut into = into.borrow_mut();
                let circuits = into.entry((node, peer, circuit.get())).or_default();
                if out && cell[4] == CREATE {
                    circuits.push(Carried { begun: seen.at, next: peer, cells: Vec::new() });
                }
                if let Some(circuit) = circuits.last_mut() {
                    circuit.cells.push((out, cell[4]));
                }
            }
        }
    }));
    notes
}

/// Circuits that a node began, in the order of their beginning.
fn own(notes: &Notes, node: usize) -> Vec<Carried> {
    let notes = notes.borrow();
    let circuits = notes.iter().filter(|((of, ..), _)| *of == node).flat_map(|(_, circuits)| circuits);
    let mut own: Vec<Carried> = circuits.filter(|c| c.is_own()).cloned().collect();
    own.sort_by_key(|c| c.begun);
    own
}

/// A world whose relay `RELAYS - 1` has just been started, and what its next relays see of it from there on.
fn with_operator(seed: u64) -> (World, usize, Notes) {
    let (mut world, _, _) = World::with_people(RELAYS - 1, seed);
    let relay = world.nodes.len();
    let notes = watch(&mut world, &[relay]);
    assert_eq!(world.relay(World::relay_addr(RELAYS + 1)), relay);
    (world, relay, notes)
}

/// Whether or not its user will ever wish anything, a relay has built circuits over one guard, each as if for nothing, and what it drew
/// for that is on its disk. Its first wish takes those that stood ready, over the guard that it had.
#[test]
fn before_a_first_wish_nothing_tells_who_will_wish() {
    let (mut world, relay, notes) = with_operator(51);
    world.run(Duration::from_secs(3 * 3600));
    let circuits = own(&notes, relay);
    let guards: BTreeSet<usize> = circuits.iter().map(|c| c.next).collect();
    println!("{} circuits in three hours over {guards:?}", circuits.len());
    assert!(guards.len() == 1 && circuits.iter().all(Carried::is_unused), "{circuits:?}");
    // Four at once, and each replaced within the hour.
    assert!((12..=28).contains(&circuits.len()));
    assert!(circuits[3].begun.since(circuits[0].begun) < Duration::from_secs(5));
    assert!(world.nodes[relay].saved.contains_key("paths"));

    let (key, report) = world.publish(relay, &vec![7; 100_000]).unwrap();
    assert!(world.get(relay, &key, 0).unwrap().0 == vec![7; 100_000]);
    assert!(report.paths.iter().all(|path| guards.iter().any(|n| world.nodes[*n].addr == path[0])));
}

/// When a first wish is over, its relay builds as many circuits as one whose user never wished anything, and of the same looks; of
/// those looks, the count of early cells among them, are a client's too.
#[test]
fn after_a_wish_a_relay_builds_what_others_build() {
    let (mut world, publisher, reader) = World::with_people(RELAYS, 52);
    let (never, once) = (5, 6);
    let (key, _) = world.publish(once, &vec![3; 100_000]).unwrap();
    assert!(world.get(once, &key, 0).unwrap().0 == vec![3; 100_000]);
    world.switch_off(publisher);
    world.run(Duration::from_secs(1));
    let notes = watch(&mut world, &[never, once, reader]);
    let hours = 6;
    world.run(Duration::from_secs(hours * 3600));
    world.observer = None;
    let counts: BTreeMap<usize, usize> = [never, once, reader].map(|node| (node, own(&notes, node).len())).into();
    println!("circuits in {hours} hours: {counts:?}");
    for node in [never, once, reader] {
        let circuits = own(&notes, node);
        let guards: BTreeSet<usize> = circuits.iter().map(|c| c.next).collect();
        assert_eq!(guards.len(), 1, "{node}");
        // A client asks about the view now and then, over circuits of their own.
        let unused = circuits.iter().filter(|c| c.is_unused()).count();
        assert!(unused == circuits.len() || node == reader, "{node}: {circuits:?}");
        assert!(circuits.iter().all(|c| c.cells.starts_with(&SPARE[..SPARE.len() - 1])), "{node}: {circuits:?}");
    }
    // Eight lives of 45 minutes for each of four places.
    assert!(counts[&never].abs_diff(32) < 9 && counts[&once].abs_diff(32) < 9);
}
