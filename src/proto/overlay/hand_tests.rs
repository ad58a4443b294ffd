//! One machine, and what strangers can do to it.

use super::*;
use crate::base::NetworkId;
use crate::base::Wall;
use crate::proto::overlay::links::BUDGET_BURST;
use crate::proto::overlay::tests::EPOCH;
use crate::proto::overlay::tests::NET;
use crate::proto::overlay::tests::World;
use crate::proto::overlay::tests::key;
use crate::wire::overlay::Blob;
use crate::wire::record::SignedDescriptor;
use rand::SeedableRng;
use rand::rngs::StdRng;

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
        let config = Config { local: false, profile: Some(profile), bootstrap: vec![], known: vec![] };
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
    // A second request from the same /24, also by another identity, dials nothing.
    hand.link(2, Some(key(1, 3).node_id()), "9.9.9.77:50000");
    assert!(dials(&hand.say(2, &Message::DialBack { id: 2, port: 80 })).is_empty());
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

#[test]
fn forged_stale_and_replayed_descriptors_change_nothing() {
    let mut hand = Hand::new();
    hand.link(1, Some(key(1, 9).node_id()), "9.9.9.9:50000");
    let owner = key(1, 9);
    let mut d = testing::plain(owner.node_id(), "13.1.1.1:443".parse().unwrap());
    d.published = Wall(EPOCH);
    d.expires = Wall(EPOCH + 3600);
    d.seq = 7;
    let good = record::sign_descriptor(&owner, &NET, d.clone()).unwrap().encode();
    let offer = |hand: &mut Hand, bytes: Vec<u8>| {
        let out = hand.say(1, &Message::Announce { id: 1, record: Blob(bytes) });
        let jobs: Vec<_> = out
            .into_iter()
            .filter_map(|o| if let Output::Job(id, w @ OverlayJob::Verify(_)) = o { Some((id, w)) } else { None })
            .collect();
        jobs.into_iter().flat_map(|(job, work)| hand.feed(Input::Done { job, outcome: work.run(&NET, None) })).collect::<Vec<_>>()
    };
    let mut forged = SignedDescriptor::decode(&good).unwrap();
    forged.descriptor.onion_key = [9; 32];
    let out = offer(&mut hand, forged.encode());
    assert!(out.iter().any(|o| matches!(o, Output::Blame { .. })));
    assert!(hand.machine.view().entry(&owner.node_id()).is_none());
    // From another network.
    let foreign = record::sign_descriptor(&owner, &NetworkId([1; 32]), d.clone()).unwrap().encode();
    offer(&mut hand, foreign);
    assert!(hand.machine.view().entry(&owner.node_id()).is_none());
    offer(&mut hand, good.clone());
    assert_eq!(hand.machine.view().entry(&owner.node_id()).unwrap().relay.descriptor().seq, 7);
    // An older one, well signed, and a replay, cost no signature check.
    d.seq = 6;
    let older = record::sign_descriptor(&owner, &NET, d.clone()).unwrap().encode();
    for bytes in [older, good] {
        let out = hand.say(1, &Message::Announce { id: 1, record: Blob(bytes) });
        assert!(!out.iter().any(|o| matches!(o, Output::Job(..))));
    }
    // Expired at our clock.
    d.seq = 8;
    d.published = Wall(EPOCH - 86_400);
    d.expires = Wall(EPOCH - 4 * 3600);
    let stale = record::sign_descriptor(&owner, &NET, d).unwrap().encode();
    offer(&mut hand, stale);
    assert_eq!(hand.machine.view().entry(&owner.node_id()).unwrap().relay.descriptor().seq, 7);
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
