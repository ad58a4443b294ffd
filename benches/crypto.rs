//! What the cryptography costs: onion layers, handshakes, sealed requests; each beside the bare primitives it is made of, in the
//! same run.
//!
//! `cargo bench --bench crypto [-- --quick]`. Medians of rounds in which both sides take turns, so machine noise hits both alike
//! and the ratios are the figures to compare.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench prints, reads the clock, and ends where it fails"
)]

use aes::Aes128Enc;
use aes::cipher::Array;
use aws_lc_rs::aead;
use aws_lc_rs::kem;
use ctr::cipher::KeyIvInit;
use ctr::cipher::StreamCipher;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::crypto::cgo::ClientLayers;
use onionskin::crypto::cgo::RelayLayer;
use onionskin::crypto::keys::HostKey;
use onionskin::crypto::ntor;
use onionskin::crypto::ntor::OnionKey;
use onionskin::crypto::secret::Secret;
use onionskin::crypto::session;
use onionskin::wire::cell::BODY;
use polyval::universal_hash::UniversalHash;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::hint::black_box;
use std::time::Instant;
use x25519_dalek::PublicKey;
use x25519_dalek::StaticSecret;

const NET: NetworkId = NetworkId([1; 32]);
const RELAY: NodeId = NodeId([2; 32]);
/// A large share's response: sixteen cells.
const RESPONSE: usize = 33_968;

fn main() {
    let quick = std::env::args().any(|a| a == "--quick");
    let rounds = if quick { 5 } else { 21 };
    let scale = if quick { 1 } else { 10 };
    let rng = &mut StdRng::seed_from_u64(1);
    println!("median of {rounds} rounds      ours ns   bare ns  ratio  ours /s");
    layers(rng, rounds, 200 * scale);
    handshakes(rng, rounds, 10 * scale);
    sessions(rng, rounds, 20 * scale);
}

/// Nanoseconds of one call, over `n`.
fn time(n: u32, mut work: impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..n {
        work();
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(n)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Both sides in turns; one line.
fn compare(name: &str, rounds: usize, n: u32, mut ours: impl FnMut(), mut bare: impl FnMut()) {
    let (a, b): (Vec<f64>, Vec<f64>) = (0..rounds).map(|_| (time(n, &mut ours), time(n, &mut bare))).unzip();
    let (a, b) = (median(a), median(b));
    println!("{name:<26} {a:>9.0} {b:>9.0} {:>6.2} {:>8.0}", a / b, 1e9 / a);
}

/// AES-128-CTR and POLYVAL over one body: the least that any layer which both hides and authenticates can do.
fn bare_layer() -> impl FnMut(&mut [u8; BODY]) {
    let mut cipher = ctr::Ctr128BE::<Aes128Enc>::new(&[1; 16].into(), &[2; 16].into());
    let hash = polyval::Polyval::new(&[3; 16].into());
    move |body| {
        cipher.apply_keystream(body);
        let mut hash = hash.clone();
        let (blocks, _) = Array::slice_as_chunks(body.as_slice());
        hash.update(blocks);
        black_box(hash.finalize());
    }
}

fn layers(rng: &mut StdRng, rounds: usize, n: u32) {
    let mut relay = RelayLayer::<BODY>::new(&Secret::random(rng));
    let mut client = ClientLayers::<BODY>::new();
    for _ in 0..3 {
        client.push(&Secret::random(rng));
    }
    let mut bare = bare_layer();
    let (mut a, mut b) = (Box::new([0; BODY]), Box::new([0; BODY]));
    compare("relay, towards client", rounds, n, || relay.inbound(3, &mut a), || bare(&mut b));
    compare("relay, from client", rounds, n, || assert!(!relay.outbound(3, &mut a)), || bare(&mut b));
    compare("relay, new cell", rounds, n, || relay.originate(3, &mut a), || bare(&mut b));
    let mut three = |b: &mut [u8; BODY]| (0..3).for_each(|_| bare(b));
    compare("client of three, sends", rounds, n, || client.originate(2, 3, &mut a), || three(&mut b));
    compare("client of three, receives", rounds, n, || assert_eq!(client.receive(3, &mut a), None), || three(&mut b));
}

fn handshakes(rng: &mut StdRng, rounds: usize, n: u32) {
    let key = OnionKey::generate(rng);
    let (_, create) = ntor::client1(rng, &NET, &RELAY, &key.public()).unwrap();
    let secret = StaticSecret::from([7; 32]);
    let public = PublicKey::from(&StaticSecret::from([8; 32]));
    let decapsulation = kem::DecapsulationKey::generate(&kem::ML_KEM_768).unwrap();
    let encapsulation = decapsulation.encapsulation_key().unwrap();
    let ek = encapsulation.key_bytes().unwrap();
    let encapsulate = || {
        let key = kem::EncapsulationKey::new(&kem::ML_KEM_768, ek.as_ref()).unwrap();
        drop(black_box(key.encapsulate().unwrap()));
    };
    let agree = || drop(black_box(secret.diffie_hellman(&public)));
    let base = || {
        black_box(PublicKey::from(&secret));
    };
    let rng2 = &mut StdRng::seed_from_u64(2);
    let server = || drop(black_box(ntor::server(rng2, &NET, &RELAY, &[&key], &create).unwrap()));
    compare("ntor, relay", rounds, n, server, || {
        base();
        (0..2).for_each(|_| agree());
        encapsulate();
    });
    let client = || {
        let (state, create) = ntor::client1(rng, &NET, &RELAY, &key.public()).unwrap();
        let mut other = StdRng::seed_from_u64(3);
        let (reply, _) = ntor::server(&mut other, &NET, &RELAY, &[&key], &create).unwrap();
        drop(black_box(ntor::client2(state, &reply).unwrap()));
    };
    compare("ntor, both ends", rounds, n, client, || {
        let key = kem::DecapsulationKey::generate(&kem::ML_KEM_768).unwrap();
        let ek = key.encapsulation_key().unwrap();
        let (ct, _) = ek.encapsulate().unwrap();
        drop(black_box(key.decapsulate(ct).unwrap()));
        base();
        base();
        (0..4).for_each(|_| agree());
    });
}

fn sessions(rng: &mut StdRng, rounds: usize, n: u32) {
    let key = HostKey::generate(rng, 1).unwrap();
    let (client, opening) = session::open(rng, &NET, &RELAY, &key.public(), [1, 1]).unwrap();
    let (host, _) = session::accept(&NET, &RELAY, &key, &opening).unwrap();
    let plain = vec![7; RESPONSE - session::RESPONSE_OVERHEAD];
    let gcm = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &[9; 32]).unwrap());
    let nonce = || aead::Nonce::assume_unique_for_key([0; 12]);
    let mut b = vec![0; RESPONSE];
    let seal = || drop(black_box(host.seal_response(rng, 1, &plain, RESPONSE).unwrap()));
    compare("response sealed", rounds, n, seal, || {
        let _ = black_box(gcm.seal_in_place_separate_tag(nonce(), aead::Aad::empty(), &mut b).unwrap());
    });
    let sealed = host.seal_response(&mut StdRng::seed_from_u64(4), 1, &plain, RESPONSE).unwrap();
    let mut bare = vec![5; RESPONSE - 16];
    gcm.seal_in_place_append_tag(nonce(), aead::Aad::empty(), &mut bare).unwrap();
    let (mut a, mut b) = (sealed.clone(), bare.clone());
    let open = || {
        a.copy_from_slice(&sealed);
        black_box(client.open_response(1, &mut a).unwrap());
    };
    compare("response opened", rounds, n, open, || {
        b.copy_from_slice(&bare);
        black_box(gcm.open_in_place(nonce(), aead::Aad::empty(), &mut b).unwrap());
    });
    let accept = || drop(black_box(session::accept(&NET, &RELAY, &key, &opening).unwrap()));
    let secret = StaticSecret::from([7; 32]);
    let public = PublicKey::from(&StaticSecret::from([8; 32]));
    let decapsulation = kem::DecapsulationKey::generate(&kem::ML_KEM_768).unwrap();
    let (ct, _) = decapsulation.encapsulation_key().unwrap().encapsulate().unwrap();
    let ct = ct.as_ref().to_vec();
    compare("session accepted", rounds, n, accept, || {
        drop(black_box(secret.diffie_hellman(&public)));
        drop(black_box(decapsulation.decapsulate(ct.as_slice().into()).unwrap()));
    });
}
