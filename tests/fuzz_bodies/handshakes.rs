//! Handshakes against arbitrary and nearly right messages: only the very message that was meant is taken.

use super::Choices;
use super::mutated;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::crypto::keys::HostKey;
use onionskin::crypto::ntor;
use onionskin::crypto::ntor::OnionKey;
use onionskin::crypto::session;
use onionskin::crypto::session::ClientSession;
use onionskin::crypto::session::HostSession;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::OnceLock;

const NET: NetworkId = NetworkId([1; 32]);
const RELAY: NodeId = NodeId([2; 32]);

/// The circuit handshake, at the relay and back at the client.
pub fn ntor(data: &[u8]) {
    static KEY: OnceLock<OnionKey> = OnceLock::new();
    let rng = &mut StdRng::seed_from_u64(1);
    let key = KEY.get_or_init(|| OnionKey::generate(&mut StdRng::seed_from_u64(2)));
    let mut choices = Choices(data);
    let (state, create) = ntor::client1(rng, &NET, &RELAY, &key.public()).expect("a message");
    if choices.byte() & 1 == 0 {
        let sent = mutated(&create, choices);
        if let Ok((reply, _)) = ntor::server(rng, &NET, &RELAY, &[key], &sent) {
            assert_eq!(reply.len(), ntor::CREATED_LEN);
            assert_eq!(ntor::client2(state, &reply).is_ok(), sent == create, "what the relay saw is what the client sent");
        } else {
            assert_ne!(sent, create);
        }
    } else {
        let (reply, keys) = ntor::server(rng, &NET, &RELAY, &[key], &create).expect("an honest message");
        let back = mutated(&reply, choices);
        match ntor::client2(state, &back) {
            Ok(ours) => assert!(back == reply && ours.expose() == keys.expose()),
            Err(_) => assert_ne!(back, reply),
        }
    }
}

struct Sides {
    key: HostKey,
    opening: Vec<u8>,
    client: ClientSession,
    host: HostSession,
}

/// Openings, requests and responses of sealed sessions.
pub fn session(data: &[u8]) {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    let sides = SIDES.get_or_init(|| {
        let rng = &mut StdRng::seed_from_u64(3);
        let key = HostKey::generate(rng, 5).expect("a key");
        let (client, opening) = session::open(rng, &NET, &RELAY, &key.public(), [1, 0]).expect("an opening");
        let (host, _) = session::accept(&NET, &RELAY, &key, &opening).expect("an honest opening");
        Sides { key, opening, client, host }
    });
    let mut choices = Choices(data);
    match choices.byte() % 3 {
        0 => {
            let sent = mutated(&sides.opening, choices);
            let _ = (session::open_key_id(&sent), session::replay_tag(&sent));
            assert_eq!(session::accept(&NET, &RELAY, &sides.key, &sent).is_ok(), sent == sides.opening);
        }
        1 => {
            let (number, said) = (choices.short(), choices.byte());
            let plain = vec![said; usize::from(said)];
            let request = sides.client.seal_request(number, &plain, 400).expect("it fits");
            let mut sent = mutated(&request, choices);
            let same = sent == request;
            assert_eq!(sides.host.open_request(number, &mut sent).ok(), same.then_some(plain.as_slice()));
        }
        _ => {
            let (number, said) = (choices.short(), choices.byte());
            let plain = vec![said; usize::from(said)];
            let rng = &mut StdRng::seed_from_u64(4);
            let response = sides.host.seal_response(rng, number, &plain, 400).expect("it fits");
            let mut sent = mutated(&response, choices);
            let same = sent == response;
            assert_eq!(sides.client.open_response(number, &mut sent).ok(), same.then_some(plain.as_slice()));
        }
    }
}
