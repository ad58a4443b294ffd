use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

const NET: NetworkId = NetworkId([1; 32]);
const HOST: NodeId = NodeId([2; 32]);
const KIND: [u8; 2] = [3, 4];
/// A large share and its head, in whole cells.
const LARGE: usize = 33_968;

struct World {
    rng: StdRng,
    key: HostKey,
    client: ClientSession,
    host: HostSession,
    opening: Vec<u8>,
}

fn world(seed: u64) -> World {
    let mut rng = StdRng::seed_from_u64(seed);
    let key = HostKey::generate(&mut rng, 77).unwrap();
    let (client, opening) = open(&mut rng, &NET, &HOST, &key.public(), KIND).unwrap();
    let (host, kind) = accept(&NET, &HOST, &key, &opening).unwrap();
    assert_eq!(kind, KIND);
    World { rng, key, client, host, opening }
}

#[test]
fn requests_and_responses_arrive_at_every_length() {
    let mut w = world(1);
    assert_eq!(w.opening.len(), OPEN_LEN);
    assert_eq!(OPEN_LEN, 1142);
    let plain: Vec<u8> = (0..LARGE).map(|i| (i % 255) as u8 + 1).collect();
    for (n, len, out) in [(0, 0, 18), (1, 5, 23), (2, 5, 100), (3, LARGE - 18, LARGE), (u16::MAX, 0, LARGE)] {
        let mut sealed = w.client.seal_request(n, &plain[..len], out).unwrap();
        assert_eq!(sealed.len(), out);
        assert_eq!(w.host.open_request(n, &mut sealed).unwrap(), &plain[..len]);

        let mut sealed = w.host.seal_response(&mut w.rng, n, &plain[..len], out + 32).unwrap();
        assert_eq!(sealed.len(), out + 32);
        assert_eq!(w.client.open_response(n, &mut sealed).unwrap(), &plain[..len]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut w = world(2);
    let long = vec![0; 65_536];
    assert!(w.client.seal_request(0, &long[..65_535], 65_535 + REQUEST_OVERHEAD).is_ok());
    assert!(w.client.seal_request(0, &long, 100_000).is_err());
    assert!(w.host.seal_response(&mut w.rng, 0, &long, 100_000).is_err());
    for out in [0, 15, 16, 17, REQUEST_OVERHEAD + 9] {
        assert!(w.client.seal_request(0, &[1; 10], out).is_err(), "{out}");
    }
    assert!(w.client.seal_request(0, &[1; 10], REQUEST_OVERHEAD + 10).is_ok());
    for out in [0, 16, 31, 47, 49, RESPONSE_OVERHEAD + 9] {
        assert!(w.host.seal_response(&mut w.rng, 0, &[1; 10], out).is_err(), "{out}");
    }
    assert!(w.host.seal_response(&mut w.rng, 0, &[1; 10], RESPONSE_OVERHEAD + 10).is_ok());
}

#[test]
fn an_opening_holds_for_one_key_host_and_network() {
    let mut w = world(3);
    let same_id = HostKey::generate(&mut w.rng, 77).unwrap();
    let other_id = HostKey::generate(&mut w.rng, 78).unwrap();
    assert!(accept(&NET, &HOST, &same_id, &w.opening).is_err());
    assert!(accept(&NET, &HOST, &other_id, &w.opening).is_err());
    assert!(accept(&NetworkId([9; 32]), &HOST, &w.key, &w.opening).is_err());
    assert!(accept(&NET, &NodeId([9; 32]), &w.key, &w.opening).is_err());

    // the same secrets under another id: the id is bound, not only compared
    let mut bytes = w.key.to_bytes().unwrap();
    bytes[3] ^= 1;
    let renamed = HostKey::from_bytes(&bytes).unwrap();
    let mut opening = w.opening.clone();
    opening[3] ^= 1;
    assert_eq!(open_key_id(&opening), Some(renamed.id()));
    assert!(accept(&NET, &HOST, &renamed, &opening).is_err());

    // one half of the key is not enough
    let mut mixed = w.key.public();
    mixed.mlkem = same_id.public().mlkem;
    let (_, opening) = open(&mut w.rng, &NET, &HOST, &mixed, KIND).unwrap();
    assert!(accept(&NET, &HOST, &w.key, &opening).is_err());
    let mut mixed = w.key.public();
    mixed.x25519 = same_id.public().x25519;
    let (_, opening) = open(&mut w.rng, &NET, &HOST, &mixed, KIND).unwrap();
    assert!(accept(&NET, &HOST, &w.key, &opening).is_err());
}

#[test]
fn a_restored_key_accepts() {
    let w = world(4);
    let back = HostKey::from_bytes(&w.key.to_bytes().unwrap()).unwrap();
    let (host, kind) = accept(&NET, &HOST, &back, &w.opening).unwrap();
    assert_eq!(kind, KIND);
    let mut sealed = w.client.seal_request(1, b"hello", 64).unwrap();
    assert_eq!(host.open_request(1, &mut sealed).unwrap(), b"hello");
}

#[test]
fn a_flipped_bit_or_other_length_of_an_opening_is_refused() {
    let w = world(5);
    let flips = (0..OPEN_LEN).map(|at| (at, 1u8 << (at % 8))).chain([(35, 0x80)]);
    for (at, bit) in flips {
        let mut bad = w.opening.clone();
        bad[at] ^= bit;
        assert!(accept(&NET, &HOST, &w.key, &bad).is_err(), "byte {at}");
    }
    for len in [0, 3, 4, 36, CLEAR_LEN, OPEN_LEN - 1, OPEN_LEN + 1] {
        let mut bad = w.opening.clone();
        bad.resize(len, 0);
        assert!(accept(&NET, &HOST, &w.key, &bad).is_err(), "{len}");
    }
}

#[test]
fn points_of_small_order_are_refused() {
    let mut w = world(6);
    let mut public = w.key.public();
    public.x25519 = [0; 32];
    assert!(open(&mut w.rng, &NET, &HOST, &public, KIND).is_err());

    // fitting in all else: only the check on the point itself can refuse it
    let public = w.key.public();
    let (ct, kem) = encapsulate(&public.mlkem).unwrap();
    let session = session_secret(&[0; 32], kem.as_ref(), &NET, &HOST, &public, &[0; 32], &ct);
    let mut kind = KIND;
    let tag = seal(&opening_key(&session), &mut kind).unwrap();
    let opening = [&public.id.to_be_bytes(), [0; 32].as_slice(), &ct, &kind, &tag].concat();
    assert!(accept(&NET, &HOST, &w.key, &opening).is_err());
}

#[test]
fn an_encapsulation_key_that_is_none_is_refused() {
    let mut w = world(7);
    let mut public = w.key.public();
    // coefficients above the modulus (FIPS 203, 7.2)
    public.mlkem.fill(0xff);
    assert!(open(&mut w.rng, &NET, &HOST, &public, KIND).is_err());
}

#[test]
fn a_flipped_bit_or_other_length_of_a_message_is_refused() {
    let mut w = world(8);
    let request = w.client.seal_request(5, b"which share", 80).unwrap();
    let response = w.host.seal_response(&mut w.rng, 5, b"this share", 120).unwrap();
    for bit in 0..request.len() * 8 {
        let mut bad = request.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(w.host.open_request(5, &mut bad).is_err(), "bit {bit}");
    }
    for bit in 0..response.len() * 8 {
        let mut bad = response.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(w.client.open_response(5, &mut bad).is_err(), "bit {bit}");
    }
    for len in (0..160).filter(|len| *len != request.len()) {
        let mut bad = request.clone();
        bad.resize(len, 0);
        assert!(w.host.open_request(5, &mut bad).is_err(), "{len}");
    }
    for len in (0..160).filter(|len| *len != response.len()) {
        let mut bad = response.clone();
        bad.resize(len, 0);
        assert!(w.client.open_response(5, &mut bad).is_err(), "{len}");
    }
}

#[test]
fn a_message_holds_for_one_number_direction_and_session() {
    let mut w = world(9);
    let other = world(10);
    let request = w.client.seal_request(5, b"ask", 100).unwrap();
    let response = w.host.seal_response(&mut w.rng, 5, b"answer", 100).unwrap();
    for n in [0, 4, 6, 5 << 8] {
        assert!(w.host.open_request(n, &mut request.clone()).is_err(), "{n}");
        assert!(w.client.open_response(n, &mut response.clone()).is_err(), "{n}");
    }
    assert!(other.host.open_request(5, &mut request.clone()).is_err());
    assert!(other.client.open_response(5, &mut response.clone()).is_err());
    assert!(w.client.open_response(5, &mut request.clone()).is_err());
    assert!(w.host.open_request(5, &mut response.clone()).is_err());
}

#[test]
fn no_two_messages_share_a_key() {
    let mut w = world(11);
    let mut seen = std::collections::BTreeSet::new();
    // zeros in the clear show the key stream
    for (n, out) in [(1, 100), (2, 100), (1, 101)] {
        assert!(seen.insert(w.client.seal_request(n, &[], out).unwrap()[2..50].to_vec()));
        // the same request is answered twice: other nonce, other key
        for _ in 0..2 {
            assert!(seen.insert(w.host.seal_response(&mut w.rng, n, &[], out).unwrap()[34..82].to_vec()));
        }
    }
    assert_eq!(w.client.seal_request(1, b"x", 100).unwrap(), w.client.seal_request(1, b"x", 100).unwrap());
}

#[test]
fn padding_and_length_have_one_form() {
    let w = world(12);
    let forge = |body: &[u8]| {
        let out_len = body.len() + TAG_LEN;
        let mut sealed = body.to_vec();
        let tag = seal(&request_key(&w.client.0, 1, out_len), &mut sealed).unwrap();
        sealed.extend_from_slice(&tag);
        w.host.open_request(1, &mut sealed).map(<[u8]>::to_vec)
    };
    assert_eq!(forge(&[0, 2, 8, 9, 0, 0]), Ok(vec![8, 9]));
    assert_eq!(forge(&[0, 2, 8, 9, 0, 1]), Err(CryptoError));
    assert_eq!(forge(&[0, 2, 8, 9, 1, 0]), Err(CryptoError));
    assert_eq!(forge(&[0, 5, 8, 9, 0, 0]), Err(CryptoError));
    assert_eq!(forge(&[0]), Err(CryptoError));
    assert_eq!(forge(&[]), Err(CryptoError));
}

#[test]
fn replay_tags_tell_sessions_apart() {
    let mut w = world(13);
    let (_, second) = open(&mut w.rng, &NET, &HOST, &w.key.public(), KIND).unwrap();
    assert_eq!(replay_tag(&w.opening), replay_tag(&w.opening.clone()));
    assert_ne!(replay_tag(&w.opening), replay_tag(&second));
    // another kind on the same session is the same session
    let mut other = w.opening.clone();
    other[OPEN_LEN - 1] ^= 1;
    assert_eq!(replay_tag(&w.opening), replay_tag(&other));
    assert_eq!(open_key_id(&w.opening), Some(77));
    assert_eq!(open_key_id(&[0, 0, 0]), None);
    assert_ne!(replay_tag(&[]), replay_tag(&[0]));
}

#[test]
fn sessions_can_move_and_print_nothing() {
    fn moves<T: Send + Clone>(_: &T) {}
    let w = world(14);
    moves(&w.client);
    moves(&w.host);
    assert_eq!(format!("{:?} {:?}", w.client, w.host), "ClientSession(..) HostSession(..)");
}
