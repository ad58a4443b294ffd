//! Views without signatures, for tests.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Position;
use crate::base::Time;
use crate::base::Wall;
use crate::proto::overlay::io::Config;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::View;
use crate::wire::codec::Extensions;
use crate::wire::record::Descriptor;
use crate::wire::record::HostKey;
use crate::wire::record::MLKEM_PUBLIC;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The wall clock of these tests.
pub(crate) const NOW: Wall = Wall(1_000_000_000);

fn witness(i: u8) -> (NodeId, SocketAddr) {
    (NodeId([i; 32]), SocketAddr::from(([223, i, 0, 1], 443)))
}

pub(crate) fn plain(node: NodeId, addr: SocketAddr) -> Descriptor {
    Descriptor {
        node,
        published: NOW,
        expires: NOW.plus(86_400),
        addrs: vec![addr],
        carries: true,
        onion_key: node.0,
        host_key: None,
        family: vec![],
        old_addrs: vec![],
        extensions: Extensions::default(),
    }
}

/// Receipts of the first `n` standing witnesses, `age` days old.
pub(crate) fn vouched(node: NodeId, addr: SocketAddr, n: u8, age: u32) -> Vec<Receipt> {
    (1..=n).map(|i| Receipt { witness: witness(i).0, subject: node, addr, hour: NOW.hour() - 24 * age, sig: [0; 64] }).collect()
}

/// A relay with such receipts, at a position.
pub(crate) fn vouched_at(d: Descriptor, n: u8, age: u32, position: Position) -> Arc<Verified> {
    let receipts = d.first_addr().map(|addr| vouched(d.node, addr, n, age)).unwrap_or_default();
    Verified::unchecked(d, receipts, position)
}

pub(crate) fn host_key() -> HostKey {
    HostKey { id: 1, x25519: [1; 32], until: NOW.plus(600_000), mlkem: Box::new([2; MLKEM_PUBLIC]) }
}

/// A host with a random identity and three receipts, at any position.
pub(crate) fn host_at(rng: &mut StdRng, addr: SocketAddr, position: Position) -> Arc<Verified> {
    let mut id = [0; 32];
    rng.fill_bytes(&mut id);
    let mut d = plain(NodeId(id), addr);
    d.host_key = Some(host_key());
    vouched_at(d, 3, 0, position)
}

/// A local view that holds three witnesses, proven and not usable themselves.
pub(crate) fn view_with_witnesses() -> View {
    let mut view = View::new(true);
    add_witnesses(&mut view);
    view
}

pub(crate) fn add_witnesses(view: &mut View) {
    for i in 1..=3 {
        let (node, addr) = witness(i);
        view.insert(Verified::unchecked(plain(node, addr), vec![], Position([i; 32])), NOW);
        view.prove(&node, &addr, Time(0));
    }
}

/// Settings with nothing in them.
pub(crate) const fn config(local: bool) -> Config {
    Config {
        local,
        profile: None,
        bootstrap: Vec::new(),
        known: Vec::new(),
        guards: Vec::new(),
        network: NetworkId([42; 32]),
        saved: BTreeMap::new(),
    }
}
