//! One machine, and what strangers can do to it.

use super::*;
use crate::base::NetworkId;
use crate::base::Wall;
use crate::base::limits;
use crate::crypto::keys::IdentityKey;
use crate::proto::overlay::links::BUDGET_BURST;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::tests::world::EPOCH;
use crate::proto::overlay::tests::world::NET;
use crate::proto::overlay::tests::world::World;
use crate::proto::overlay::tests::world::key;
use crate::wire::codec::Extensions;
use crate::wire::freshness::Freshness;
use crate::wire::overlay::Blob;
use crate::wire::record::Descriptor;
use crate::wire::record::SignedDescriptor;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;

/// A link to a machine by hand: what a stranger can do.
struct Hand {
    machine: Overlay,
    rng: StdRng,
    now: Time,
}

impl Hand {
    fn new() -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let profile = Profile {
            node: key(1, 1).node_id(),
            addrs: vec!["8.1.0.1:9000".parse().unwrap()],
            carries: true,
            onion_key: [1; 32],
            host_key: None,
            family: vec![],
            old_addrs: vec![],
        };
        let config = Config { profile: Some(profile), ..testing::config(false) };
        let machine = Overlay::new(&mut World::env(Time(0), &mut rng), config);
        Self { machine, rng, now: Time(0) }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(&mut World::env(self.now, &mut self.rng), input);
        core::iter::from_fn(|| self.machine.poll_output()).collect()
    }

    fn link(&mut self, link: u64, node: Option<NodeId>, remote: &str) {
        let remote = remote.parse().unwrap();
        self.feed(Input::LinkUp { link: LinkId(link), node, remote, dialled: false, wall: None });
    }

    fn say(&mut self, link: u64, message: &Message) -> Vec<Output> {
        self.feed(Input::Message { link: LinkId(link), bytes: message.encode().unwrap() })
    }
}

fn dials(outputs: &[Output]) -> Vec<(SocketAddr, u64)> {
    let pick = |o: &Output| match o {
        Output::Dial { addr, token, fresh: true, .. } => Some((*addr, *token)),
        Output::Dial { .. }
        | Output::Send { .. }
        | Output::Release { .. }
        | Output::Blame { .. }
        | Output::Job(..)
        | Output::Ask { .. }
        | Output::Save { .. }
        | Output::Event(_) => None,
    };
    outputs.iter().filter_map(pick).collect()
}

#[test]
fn dial_back_goes_to_the_observed_address_only_and_rarely() {
    let mut hand = Hand::new();
    let asker = key(1, 2).node_id();
    hand.link(1, Some(asker), "9.9.9.9:50000");
    let out = hand.say(1, &Message::DialBack { id: 1, port: 443 });
    let [(addr, token)] = dials(&out)[..] else { panic!("one dial") };
    assert_eq!(addr, "9.9.9.9:443".parse().unwrap());
    // A second request from the same address, also by another identity and for another port, dials nothing.
    hand.link(2, Some(key(1, 3).node_id()), "9.9.9.9:50001");
    assert!(dials(&hand.say(2, &Message::DialBack { id: 2, port: 80 })).is_empty());
    // Its neighbours have their turn, but no more of them than a /24 has turns in an hour.
    let neighbours = (10..60u64).filter(|n| {
        hand.link(100 + n, Some(key(1, 3).node_id()), &format!("9.9.9.{n}:50000"));
        !dials(&hand.say(100 + n, &Message::DialBack { id: 2, port: 80 })).is_empty()
    });
    assert_eq!(neighbours.count(), 7);
    // A client, a private address, port zero: nothing.
    hand.link(3, None, "11.9.9.9:50000");
    assert!(dials(&hand.say(3, &Message::DialBack { id: 3, port: 443 })).is_empty());
    hand.link(4, Some(key(1, 4).node_id()), "10.0.0.9:50000");
    assert!(dials(&hand.say(4, &Message::DialBack { id: 4, port: 443 })).is_empty());
    hand.link(5, Some(key(1, 5).node_id()), "12.9.9.9:50000");
    assert!(dials(&hand.say(5, &Message::DialBack { id: 5, port: 0 })).is_empty());
    // Answering over the asker's own old link is no proof; nobody answering is none either.
    let out = hand.feed(Input::Dialled { token, link: Some(LinkId(1)) });
    assert!(!out.iter().any(|o| matches!(o, Output::Job(..))));
    // An hour later; a dial that fails frees the place somewhat sooner. With the right relay at the end of a new link: a receipt is
    // signed, and the link is let go.
    hand.now = Time(3_700_000_000);
    let [(_, token)] = dials(&hand.say(1, &Message::DialBack { id: 8, port: 443 }))[..] else { panic!("one dial") };
    hand.feed(Input::Dialled { token, link: None });
    assert!(dials(&hand.say(1, &Message::DialBack { id: 8, port: 443 })).is_empty());
    hand.now = Time(4_900_000_001);
    let out = hand.say(1, &Message::DialBack { id: 9, port: 443 });
    let [(addr, token)] = dials(&out)[..] else { panic!("one dial") };
    hand.feed(Input::LinkUp { link: LinkId(7), node: Some(asker), remote: addr, dialled: true, wall: None });
    let out = hand.feed(Input::Dialled { token, link: Some(LinkId(7)) });
    assert!(out.iter().any(|o| matches!(o, Output::Release { link: LinkId(7) })));
    assert!(out.iter().any(|o| matches!(o, Output::Job(_, OverlayJob::SignReceipt { subject, .. }) if *subject == asker)));
}

/// A relay that announces itself at the machine over link 1.
struct Owner {
    key: IdentityKey,
}

impl Owner {
    fn new(hand: &mut Hand) -> Self {
        let key = key(1, 9);
        hand.link(1, Some(key.node_id()), "9.9.9.9:50000");
        Self { key }
    }

    fn said(&self, at: u64, onion: u8) -> Descriptor {
        let mut d = testing::plain(self.key.node_id(), "13.1.1.1:443".parse().unwrap());
        (d.onion_key, d.published, d.expires) = ([onion; 32], Wall(at), Wall(at + 3600));
        d
    }

    fn body(&self, at: u64, onion: u8) -> Arc<Body> {
        record::sign_descriptor(&self.key, &NET, self.said(at, onion)).unwrap()
    }

    fn fresh(&self, body: &Body, at: u64) -> Vec<u8> {
        let freshness = Freshness {
            node: self.key.node_id(),
            descriptor: *body.digest(),
            published: Wall(at),
            expires: Wall(at + 3600),
            receipts: vec![],
            extensions: Extensions::default(),
        };
        record::sign_freshness(&self.key, &NET, freshness).unwrap().encode()
    }

    /// What the machine wants after these records: checks are done at once.
    fn offer(hand: &mut Hand, descriptor: Vec<u8>, freshness: Vec<u8>) -> Vec<Output> {
        let out = hand.say(1, &Message::Announce { id: 1, descriptor: Blob(descriptor), freshness: Blob(freshness) });
        let (jobs, mut rest): (Vec<_>, Vec<_>) = out.into_iter().partition(|o| matches!(o, Output::Job(_, OverlayJob::Verify(_))));
        for job in jobs {
            let Output::Job(job, work) = job else { continue };
            rest.extend(hand.feed(Input::Done { job, outcome: work.run(&NET, None) }));
        }
        rest
    }

    /// When the descriptor that the machine holds was made.
    fn held(&self, hand: &Hand) -> Option<u64> {
        hand.machine.view().entry(&self.key.node_id()).map(|e| e.relay.descriptor().published.0)
    }
}

fn odd(outputs: &[Output]) -> Vec<Odd> {
    outputs.iter().filter_map(|o| if let Output::Event(Event::Odd(odd)) = o { Some(*odd) } else { None }).collect()
}

#[test]
fn forged_stale_and_replayed_descriptors_change_nothing() {
    let mut hand = Hand::new();
    let owner = Owner::new(&mut hand);
    let slot = limits::DESCRIPTOR_SLOT_SECS;
    let body = owner.body(EPOCH, 1);
    let (good, fresh) = (body.encode(), owner.fresh(&body, EPOCH));
    let mut forged = SignedDescriptor::decode(&good).unwrap();
    forged.descriptor.onion_key = [9; 32];
    let out = Owner::offer(&mut hand, forged.encode(), fresh.clone());
    assert!(out.iter().any(|o| matches!(o, Output::Blame { .. })) && odd(&out).contains(&Odd::Forged));
    // From another network.
    let foreign = record::sign_descriptor(&owner.key, &NetworkId([1; 32]), owner.said(EPOCH, 1)).unwrap().encode();
    Owner::offer(&mut hand, foreign, fresh.clone());
    assert_eq!(owner.held(&hand), None);
    Owner::offer(&mut hand, good.clone(), fresh.clone());
    assert_eq!(owner.held(&hand), Some(EPOCH));
    // A replay costs no signature check.
    let out = hand.say(1, &Message::Announce { id: 1, descriptor: Blob(good.clone()), freshness: Blob(fresh.clone()) });
    assert!(!out.iter().any(|o| matches!(o, Output::Job(..))));
    // An older one; one that has ended by our clock.
    for at in [EPOCH - slot, EPOCH - 86_400] {
        let old = owner.body(at, 2);
        Owner::offer(&mut hand, old.encode(), owner.fresh(&old, at + 60));
        assert_eq!(owner.held(&hand), Some(EPOCH));
    }
    // A newer one, and then the old one once more with a new freshness, signed by the relay itself or somebody else.
    let newer = owner.body(EPOCH + slot, 2);
    Owner::offer(&mut hand, newer.encode(), owner.fresh(&newer, EPOCH + slot));
    assert_eq!(owner.held(&hand), Some(EPOCH + slot));
    Owner::offer(&mut hand, good.clone(), owner.fresh(&body, EPOCH + slot + 60));
    assert_eq!(owner.held(&hand), Some(EPOCH + slot));
}

/// A freshness of another descriptor, of another relay, or forged: told, and nothing else.
#[test]
fn a_freshness_that_fits_nothing_is_told_and_passed_over() {
    let mut hand = Hand::new();
    let owner = Owner::new(&mut hand);
    let (one, other) = (owner.body(EPOCH, 1), owner.body(EPOCH + 3600, 2));
    let misfit = owner.fresh(&other, EPOCH);
    assert_eq!(odd(&Owner::offer(&mut hand, one.encode(), misfit)), [Odd::Misfit]);
    assert_eq!(owner.held(&hand), None);
    let mut forged = owner.fresh(&one, EPOCH);
    forged[80] ^= 1;
    assert!(odd(&Owner::offer(&mut hand, one.encode(), forged)).contains(&Odd::Forged));
    // Nobody announces another.
    let stranger = key(1, 10);
    let d = testing::plain(stranger.node_id(), "13.2.1.1:443".parse().unwrap());
    let theirs = record::sign_descriptor(&stranger, &NET, d).unwrap().encode();
    let out = Owner::offer(&mut hand, theirs, owner.fresh(&one, EPOCH));
    assert!(odd(&out).is_empty() && owner.held(&hand).is_none());
    Owner::offer(&mut hand, one.encode(), owner.fresh(&one, EPOCH));
    assert_eq!(owner.held(&hand), Some(EPOCH));
}

/// Two faces of one slot strike a relay out, and the proof goes to all linked relays; a proof that comes from others is checked if
/// its relay counts here, a false one is told, and one against anybody else costs nothing.
#[test]
fn a_proof_of_different_faces_is_passed_on_and_a_false_one_is_not() {
    let mut hand = Hand::new();
    let owner = Owner::new(&mut hand);
    hand.link(2, Some(key(1, 20).node_id()), "14.9.9.9:50000");
    let (one, other) = (owner.body(EPOCH, 1), owner.body(EPOCH + 1, 2));
    let accuse = |hand: &mut Hand, a: &[u8], b: &[u8]| {
        let out = hand.say(2, &Message::Faces { one: Blob(a.to_vec()), other: Blob(b.to_vec()) });
        let job = out.into_iter().find_map(|o| if let Output::Job(id, work) = o { Some((id, work)) } else { None });
        job.map(|(job, work)| hand.feed(Input::Done { job, outcome: work.run(&NET, None) }))
    };
    assert!(accuse(&mut hand, &one.encode(), &other.encode()).is_none(), "a relay that does not count here");
    Owner::offer(&mut hand, one.encode(), owner.fresh(&one, EPOCH));
    hand.machine.prove(Time(0), owner.key.node_id(), one.descriptor().addrs[0]);
    let mut forged = other.encode();
    forged[60] ^= 1;
    for (a, b) in [(one.encode(), one.encode()), (one.encode(), forged), (one.encode(), owner.body(EPOCH + 3600, 2).encode())] {
        assert_eq!(odd(&accuse(&mut hand, &a, &b).unwrap()), [Odd::NoProof]);
        assert_eq!(owner.held(&hand), Some(EPOCH));
    }
    let out = Owner::offer(&mut hand, other.encode(), owner.fresh(&other, EPOCH));
    assert!(odd(&out).contains(&Odd::Faces) && owner.held(&hand).is_none());
    let told = |o: &Output| match o {
        Output::Send { link, bytes } => matches!(Message::decode(bytes), Ok(Message::Faces { .. })).then_some(*link),
        Output::Dial { .. }
        | Output::Release { .. }
        | Output::Blame { .. }
        | Output::Job(..)
        | Output::Ask { .. }
        | Output::Save { .. }
        | Output::Event(_) => None,
    };
    let mut links: Vec<LinkId> = out.iter().filter_map(told).collect();
    links.sort_unstable();
    assert_eq!(links, [LinkId(1), LinkId(2)]);
    // Once is enough.
    assert!(accuse(&mut hand, &one.encode(), &other.encode()).is_none());
    hand.machine.view().check();
}

#[test]
fn unasked_answers_floods_and_noise_are_ignored_or_blamed() {
    let mut hand = Hand::new();
    hand.link(1, Some(key(1, 2).node_id()), "9.9.9.9:50000");
    let out = hand.feed(Input::Message { link: LinkId(1), bytes: vec![7; 99] });
    assert!(out.iter().any(|o| matches!(o, Output::Blame { .. })));
    let reply = Message::FetchReply { id: 77, records: vec![Blob(vec![1; 900])] };
    assert!(hand.say(1, &reply).is_empty());
    let answers: usize = (0..1000).map(|id| hand.say(1, &Message::Near { id, target: [0; 32], max: 9 }).len()).sum();
    assert!(answers <= BUDGET_BURST as usize, "{answers}");
    hand.machine.check();
}
