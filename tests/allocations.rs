//! A relay allocates nothing for a cell: what it allocates belongs to batches, requests and circuits (T35).

mod sim;

use allocation_counter::measure;
use sim::World;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Batches, cells and allocations of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    batches: u64,
    cells: u64,
    allocations: u64,
}

#[test]
fn relays_allocate_by_batch_and_not_by_cell() {
    let (mut world, publisher, reader) = World::with_people(24, 11);
    let doc: Vec<u8> = (0..9_000_000u32).map(|i| (i >> 7) as u8 ^ (i as u8)).collect();
    let (key, _) = world.publish(publisher, &doc).unwrap();
    let counts: Rc<RefCell<BTreeMap<usize, Count>>> = Rc::default();
    let into = Rc::clone(&counts);
    world.around = Some(Box::new(move |node, cells, step| {
        let seen = measure(step);
        let mut counts = into.borrow_mut();
        let count = counts.entry(node).or_default();
        count.batches += 1;
        count.cells += cells as u64;
        count.allocations += seen.count_total;
    }));
    let (back, _) = world.get(reader, &key, 0).unwrap();
    assert!(back == doc);
    let counts = counts.borrow();
    let mut all = Count::default();
    for (_, count) in counts.iter().filter(|(node, _)| **node < 24) {
        all.batches += count.batches;
        all.cells += count.cells;
        all.allocations += count.allocations;
    }
    println!("relays: {all:?}, reader: {:?}", counts.get(&reader));
    assert!(all.cells > 15_000, "{all:?}");
    // What a batch causes (its way out, timers, requests that begin and end) is counted with room to spare; one allocation for each
    // cell would be more than twice what is allowed here.
    assert!(all.allocations < 5 * all.batches, "{all:?}");
}
