//! Bars that the overlay holds, small enough for every run. `cargo bench --bench overlay` measures the same at length.

mod capture;
mod sim;

use onionskin::base::NodeId;
use onionskin::base::limits;
use onionskin::crypto::secret::Secret;
use onionskin::proto::doc::key::Key;
use onionskin::proto::overlay::region;
use rand::{Rng, SeedableRng};
use sim::World;
use sim::disk::Manner;
use std::net::SocketAddr;
use std::time::Duration;

/// Whoever wants to make one chosen key unretrievable among 2,000 hosts rents 400 addresses or more, whatever of what is known here he
/// tries; and more if he has them in a few /16s.
#[test]
fn one_key_costs_hundreds_of_addresses() {
    for seed in [1, 2] {
        let figures = capture::search(2000, seed, 2400);
        println!("{} hosts, seed {seed}:", figures.hosts);
        figures.costs.iter().for_each(|cost| println!("  {cost}"));
        assert!(figures.best().addresses >= 400, "{}", figures.best());
        assert!(figures.best_below(130).is_none_or(|few| few.addresses >= 600), "{:?}", figures.best_below(130));
    }
}

/// So many addresses in the /24 of each of the 24 relays nearest to a place, at the very places of these relays.
fn beside(world: &World, relays: usize, address: &[u8; 32], each: usize) -> Vec<SocketAddr> {
    let place = |addr: &SocketAddr| region::position(&world.network, addr);
    let mut near: Vec<SocketAddr> = world.nodes[..relays].iter().map(|n| n.addr).collect();
    near.sort_by_key(|addr| region::distance(&place(addr).0, address));
    let of = |at: &SocketAddr| {
        let (SocketAddr::V4(v4), here) = (*at, place(at)) else { return Vec::new() };
        let [a, b, c, own] = v4.ip().octets();
        let others = (1..255u8).filter(|d| *d != own).map(|d| SocketAddr::from(([a, b, c, d], at.port())));
        others.filter(|addr| place(addr) == here).take(each).collect()
    };
    near.iter().take(limits::REGION_TARGET).flat_map(of).collect()
}

/// Eight of nine hosts near a chunk are mute, in the very /24s of the others, from before it is published on or afterwards: whole nodes,
/// with the circuits that an operation may have. It is published, and read, within minutes.
#[test]
fn mute_hosts_crowded_around_a_chunk_neither_hide_it_nor_keep_it_from_being_published() {
    const RELAYS: usize = 60;
    let mut doc = vec![0; 5000];
    rand::rngs::StdRng::seed_from_u64(1).fill_bytes(&mut doc);
    let mut crowd = Vec::new();
    for before in [false, true] {
        let (mut world, publisher, reader) = World::with_people(RELAYS, 81);
        let key = (!before).then(|| world.publish_under(publisher, &doc, Some(Secret::new([9; 32]))).unwrap().0);
        if let Some(key) = &key {
            let key = Key::Read(key.clone());
            crowd = beside(&world, RELAYS, &key.copy(&key.root(), key.top_class(), 0).address.0, 8);
        }
        let bad: Vec<usize> = crowd.iter().map(|addr| world.relay(*addr)).collect();
        bad.iter().for_each(|at| world.nodes[*at].disk.manner = Manner::IsMute);
        let ids: Vec<NodeId> = bad.iter().filter_map(|at| world.nodes[*at].id).collect();
        let known = |world: &World, node: usize| world.knows(node) >= (RELAYS + ids.len()) * 97 / 100;
        let all =
            world.run_until_each(Duration::from_secs(5), Duration::from_secs(3600), |w| known(w, publisher) && known(w, reader));
        assert!(all && ids.len() > limits::REGION_CROWDED, "{} known", world.knows(reader));
        let began = world.now;
        let key = key.unwrap_or_else(|| world.publish_under(publisher, &doc, Some(Secret::new([9; 32]))).unwrap().0);
        let published = world.now.since(began);
        let began = world.now;
        let (back, report) = world.get(reader, &key, 0).unwrap();
        let got = world.now.since(began);
        println!(
            "{} mute hosts, before publication {before}: published in {published:?}, fetched in {got:?}: {report:?}",
            ids.len()
        );
        assert!(back == doc && published < Duration::from_secs(400) && got < Duration::from_secs(200), "{published:?} {got:?}");
    }
}
