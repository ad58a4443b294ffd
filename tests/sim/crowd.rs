//! Invented relays: well signed descriptors at addresses where nobody is, and somebody who really is there and vouches for them.

use super::World;
use onionskin::base::{LinkId, NodeId};
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::overlay::record;
use onionskin::proto::overlay::{JobOutcome, OverlayJob, OwnBody};
use onionskin::wire::cell::{BODY, Command};
use onionskin::wire::codec::{Extensions, Writer};
use onionskin::wire::overlay::{Blob, Message};
use onionskin::wire::record::{Descriptor, HostKey, MLKEM_PUBLIC};
use rand::Rng;
use std::time::Duration;

/// Members that announce themselves at the same time.
const AT_ONCE: usize = 30;
/// Relays that each announces itself to.
const TELL: usize = 3;
/// Witnesses of each.
const WITNESSES: usize = 5;

/// Relays that are nowhere.
pub struct Crowd {
    /// Who they are.
    pub ids: Vec<NodeId>,
    keys: Vec<IdentityKey>,
    /// Descriptor and freshness of each.
    records: Vec<[Vec<u8>; 2]>,
}

impl Crowd {
    /// A crowd of so many, each in a /16 of its own from number `first` on. The real relay vouches for so many of them; for all
    /// else they vouch for each other.
    pub fn invent(world: &mut World, real: &IdentityKey, first: usize, size: usize, vouched: usize) -> Self {
        let keys: Vec<IdentityKey> = (0..size).map(|_| IdentityKey::from_seed(&Secret::random(world.rng()))).collect();
        let wall = world.wall();
        let mut records = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let (node, addr) = (key.node_id(), World::relay_addr(first + i));
            let mut witnesses: Vec<&IdentityKey> = (i < vouched).then_some(real).into_iter().collect();
            // Next to each other in a ring, and across it: whichever falls, others hold.
            let others = [1, 2, 7, size / 3, size / 2].map(|step| &keys[(i + step) % size]);
            witnesses.extend(others.into_iter().take(WITNESSES - witnesses.len()));
            let mut bytes = [0; 32];
            world.rng().fill_bytes(&mut bytes);
            let descriptor = Descriptor {
                node,
                published: wall,
                expires: wall.plus(86_400),
                addrs: vec![addr],
                carries: true,
                onion_key: bytes,
                host_key: Some(HostKey { id: 1, x25519: bytes, until: wall.plus(600_000), mlkem: Box::new([2; MLKEM_PUBLIC]) }),
                family: vec![],
                old_addrs: vec![],
                extensions: Extensions::default(),
            };
            let receipts = witnesses.iter().map(|w| record::sign_receipt(w, &world.network, node, addr, wall.hour())).collect();
            let job = OverlayJob::SignOwn { body: OwnBody::New(Box::new(descriptor)), receipts, now: wall };
            let JobOutcome::Signed(Some(relay)) = job.run(&world.network, Some(key)) else { panic!("not signed") };
            records.push([relay.body().encode(), relay.fresh().unwrap().encode()]);
        }
        Self { ids: keys.iter().map(IdentityKey::node_id).collect(), keys, records }
    }

    /// All of them announce themselves, from one machine, each to some of the first `relays` relays, while `look` looks on.
    pub fn announce(&self, world: &mut World, puppet: usize, relays: usize, mut look: impl FnMut(&World)) {
        for batch in (0..self.keys.len()).collect::<Vec<_>>().chunks(AT_ONCE) {
            let mut links: Vec<(LinkId, usize)> = Vec::new();
            for member in batch {
                for _ in 0..TELL {
                    let relay = world.random(0..relays);
                    links.push((world.puppet_dial(puppet, relay), *member));
                }
            }
            world.run(Duration::from_secs(1));
            for (link, member) in &links {
                world.puppet_hello(puppet, *link, Some(&self.keys[*member]));
            }
            world.run(Duration::from_secs(1));
            for (link, member) in &links {
                let [descriptor, freshness] = self.records[*member].clone().map(Blob);
                let message = Message::Announce { id: 1, descriptor, freshness };
                world.say_overlay(puppet, *link, &message);
            }
            world.nodes[puppet].letters = Some(Vec::new());
            for _ in 0..5 {
                world.run(Duration::from_millis(200));
                look(world);
            }
        }
    }
}

impl World {
    /// Which of these a node would use.
    pub fn used<'a>(&'a self, node: usize, ids: &'a [NodeId]) -> impl Iterator<Item = NodeId> + 'a {
        let view = self.nodes[node].core.as_ref().unwrap().view();
        ids.iter().copied().filter(|id| view.get(id).is_some())
    }

    /// How many of these a node would use.
    pub fn uses(&self, node: usize, ids: &[NodeId]) -> usize {
        self.used(node, ids).count()
    }

    /// How many of these a node heard of, whatever it thinks of them.
    pub fn heard_of(&self, node: usize, ids: &[NodeId]) -> usize {
        let view = self.nodes[node].core.as_ref().unwrap().view();
        ids.iter().filter(|id| view.entry(id).is_some()).count()
    }

    /// A message of the overlay plane, cut into cells: `flags | length | [total, first only] | data`.
    pub fn say_overlay(&mut self, puppet: usize, link: LinkId, message: &Message) {
        let bytes = message.encode().unwrap();
        let total = u32::try_from(bytes.len()).unwrap();
        let mut whole = total.to_be_bytes().to_vec();
        whole.extend_from_slice(&bytes);
        let parts: Vec<&[u8]> = whole.chunks(BODY - 3).collect();
        for (i, part) in parts.iter().enumerate() {
            let flags = u8::from(i == 0) | if i + 1 == parts.len() { 2 } else { 0 };
            let mut w = Writer::default();
            w.u8(flags).u16(u16::try_from(part.len()).unwrap()).raw(part);
            let mut body = [0; BODY];
            body[..w.as_slice().len()].copy_from_slice(w.as_slice());
            self.say(puppet, link, None, Command::Overlay, &body);
        }
    }
}
