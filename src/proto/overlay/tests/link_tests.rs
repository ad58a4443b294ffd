//! Whom a relay keeps links to (T29).

use super::world::*;
use super::*;
use crate::wire::overlay::Hint;

/// Forty relays in two /24s begin at one of thirty others and name only each other. It checks them all, and yet its links lead to them
/// no more often than to any two others.
#[test]
fn a_crowd_of_two_prefixes_wins_no_links() {
    let mut world = network(30, 61, false);
    settle(&mut world, 300);
    let (victim, way) = (29, world.peer(29));
    for i in 0..40 {
        let liar = world.add(61, SocketAddr::from(([100 + i % 2, 1, 1, 1 + i], 9000)), true, false, vec![way]);
        let hint = Hint { id: record::hint_id(&world.nodes[liar].key.node_id()), tag: 1, fresh: EPOCH };
        world.nodes[liar].liar = true;
        world.liars.push(hint);
    }
    let (mut all, mut bad, mut asked, mut liars) = (0, 0, 0, 0);
    let is_liar = |world: &World, node: &NodeId| world.nodes[30..].iter().any(|n| n.key.node_id() == *node);
    for _ in 0..24 {
        world.run_until(world.now + Duration::from_secs(600));
        let links = &world.nodes[victim].links;
        let dialled = world.nodes[victim].overlay.links.iter().filter(|(_, l)| l.dialled);
        let ends: Vec<usize> = dialled.filter_map(|(id, _)| links.get(id)).map(|(peer, _)| *peer).collect();
        all += ends.len();
        bad += ends.iter().filter(|peer| **peer >= 30).count();
        // Those that dialled it stay linked whatever it draws, and yet are no neighbours for that.
        let neighbours: Vec<NodeId> = world.nodes[victim].overlay.neighbours.all().copied().collect();
        asked += neighbours.len();
        liars += neighbours.iter().filter(|node| is_liar(&world, node)).count();
    }
    let known = world.nodes[victim].overlay.view().usable().len();
    println!("{bad} of {all} links, {liars} of {asked} neighbours are bad, {known} relays known");
    assert!(known > 60 && all > 100, "all are relays like others, and links are kept");
    assert!(bad * 100 <= all * 15, "{bad} of {all}: of 32 /24s two are theirs");
    assert!(asked > 300 && liars * 100 <= asked * 15, "{liars} of {asked} neighbours");
    world.nodes[victim].overlay.check();
}
