//! Circuit handshake (D4): one round trip, X25519 for authentication, X25519 and ephemeral ML-KEM-768 for secrecy, in the shape of
//! ntor v3.
//!
//! ```text
//! CREATE   X 32 | B 32 | ek 1184        X: the client's ephemeral key; B: the onion key it means; ek: ephemeral ML-KEM-768 key
//! CREATED  Y 32 | ct 1088 | AUTH 32     Y: the relay's ephemeral key; ct: encapsulated to ek
//!
//! secret     = X25519(x, Y) | X25519(x, B) | kem secret
//! transcript = H(NtorSeed; PROTOCOL, net, node id, B, X, ek, Y, ct)
//! seed       = KDF(NtorSeed; secret; transcript)       keys = KDF(NtorKeys; seed; transcript)
//! verify     = KDF(NtorVerify; secret; transcript)     AUTH = KDF(NtorAuth; verify; transcript, "server")
//! ```
//!
//! The client stays unknown. Whoever records today and breaks X25519 later still lacks the ML-KEM part; the relay is authenticated
//! by X25519 alone, which has to hold only while the handshake runs.

use crate::base::ids::NetworkId;
use crate::base::ids::NodeId;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::keys::KEM_CIPHERTEXT;
use crate::crypto::keys::KEM_PUBLIC;
use crate::crypto::keys::decapsulate;
use crate::crypto::keys::dh;
use crate::crypto::keys::encapsulate;
use crate::crypto::keys::fresh_kem;
use crate::crypto::keys::fresh_x25519;
use crate::crypto::secret::Secret;
use aws_lc_rs::kem::DecapsulationKey;
use core::fmt;
use rand::CryptoRng;
use subtle::ConstantTimeEq;
use x25519_dalek::PublicKey;
use x25519_dalek::StaticSecret;

/// Bytes of the client's message.
pub const CREATE_LEN: usize = 32 + 32 + KEM_PUBLIC;
/// Bytes of the relay's answer.
pub const CREATED_LEN: usize = 32 + KEM_CIPHERTEXT + 32;

/// Names this handshake and its primitives, so that no later one can be mistaken for it.
const PROTOCOL: &[u8] = b"ntor x25519 mlkem768 sha256 1";

/// A relay's X25519 key for circuit handshakes.
pub struct OnionKey {
    secret: StaticSecret,
    public: [u8; 32],
}

impl OnionKey {
    /// A fresh key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::from_bytes(Secret::random(rng))
    }

    /// From [`OnionKey::to_bytes`].
    pub fn from_bytes(bytes: Secret<32>) -> Self {
        let secret = StaticSecret::from(*bytes.expose());
        let public = PublicKey::from(&secret).to_bytes();
        Self { secret, public }
    }

    /// For the relay's own disk.
    pub fn to_bytes(&self) -> Secret<32> {
        Secret::new(self.secret.to_bytes())
    }

    /// The public key, as a descriptor carries it.
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }
}

impl fmt::Debug for OnionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnionKey(..)")
    }
}

/// What a client keeps between its message and the answer.
pub struct ClientState {
    net: NetworkId,
    relay: NodeId,
    onion: [u8; 32],
    x_secret: StaticSecret,
    x: [u8; 32],
    kem: DecapsulationKey,
    ek: Box<[u8; KEM_PUBLIC]>,
}

impl fmt::Debug for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientState(..)")
    }
}

/// The client's message, [`CREATE_LEN`] bytes. aws-lc makes the ML-KEM key with its own random generator.
///
/// # Errors
/// aws-lc could not make a key.
pub fn client1(
    rng: &mut dyn CryptoRng,
    net: &NetworkId,
    relay: &NodeId,
    onion_key: &[u8; 32],
) -> Result<(ClientState, Vec<u8>), CryptoError> {
    let x_secret = fresh_x25519(rng);
    let x = PublicKey::from(&x_secret).to_bytes();
    let (kem, ek) = fresh_kem()?;
    let mut msg = Vec::with_capacity(CREATE_LEN);
    msg.extend_from_slice(&x);
    msg.extend_from_slice(onion_key);
    msg.extend_from_slice(ek.as_slice());
    Ok((ClientState { net: *net, relay: *relay, onion: *onion_key, x_secret, x, kem, ek }, msg))
}

/// The relay's side: the answer of [`CREATED_LEN`] bytes, and the keys of the circuit. `keys` are the relay's onion keys, the
/// current one and those in their grace. Costs one base multiplication, two X25519 and one encapsulation.
///
/// # Errors
/// Wrong length, a key the relay does not have, or an ephemeral key that is none.
pub fn server(
    rng: &mut dyn CryptoRng,
    net: &NetworkId,
    id: &NodeId,
    keys: &[&OnionKey],
    msg: &[u8],
) -> Result<(Vec<u8>, Secret<160>), CryptoError> {
    let (x, rest) = msg.split_first_chunk::<32>().ok_or(CryptoError)?;
    let (onion, ek) = rest.split_first_chunk::<32>().ok_or(CryptoError)?;
    let ek: &[u8; KEM_PUBLIC] = ek.try_into().map_err(|_| CryptoError)?;
    // which key is meant stands in the clear and in the descriptor: nothing to hide
    let key = keys.iter().find(|key| key.public == *onion).ok_or(CryptoError)?;

    let y_secret = fresh_x25519(rng);
    let y = PublicKey::from(&y_secret).to_bytes();
    let (xy, xy_good) = dh(&y_secret, x);
    let (xb, xb_good) = dh(&key.secret, x);
    let (ct, kem) = encapsulate(ek)?;
    let secret = secret_input(xy.as_bytes(), xb.as_bytes(), kem.as_ref());
    let (auth, circuit) = finish(&secret, &Transcript { net, relay: id, onion, x, ek, y: &y, ct: &ct });
    if !bool::from(xy_good & xb_good) {
        return Err(CryptoError);
    }

    let mut reply = Vec::with_capacity(CREATED_LEN);
    reply.extend_from_slice(&y);
    reply.extend_from_slice(&ct);
    reply.extend_from_slice(auth.expose());
    Ok((reply, circuit))
}

/// The client's end: the keys of the circuit, which only the relay that was meant can have as well.
///
/// # Errors
/// Wrong length, or not that relay's answer to this message.
pub fn client2(state: ClientState, reply: &[u8]) -> Result<Secret<160>, CryptoError> {
    state.agree(reply)
}

impl ClientState {
    fn agree(&self, reply: &[u8]) -> Result<Secret<160>, CryptoError> {
        let (y, rest) = reply.split_first_chunk::<32>().ok_or(CryptoError)?;
        let (ct, rest) = rest.split_first_chunk::<KEM_CIPHERTEXT>().ok_or(CryptoError)?;
        let their_auth: &[u8; 32] = rest.try_into().map_err(|_| CryptoError)?;

        let (xy, xy_good) = dh(&self.x_secret, y);
        let (xb, xb_good) = dh(&self.x_secret, &self.onion);
        // a wrong ciphertext gives another secret and no error (FIPS 203, 6.3): AUTH finds it
        let kem = decapsulate(&self.kem, ct)?;
        let secret = secret_input(xy.as_bytes(), xb.as_bytes(), kem.as_ref());
        let transcript = Transcript { net: &self.net, relay: &self.relay, onion: &self.onion, x: &self.x, ek: &self.ek, y, ct };
        let (auth, circuit) = finish(&secret, &transcript);
        let good = xy_good & xb_good & auth.expose().ct_eq(their_auth);
        if bool::from(good) { Ok(circuit) } else { Err(CryptoError) }
    }
}

/// Everything both ends saw; all of it is public.
#[derive(Clone, Copy)]
pub struct Transcript<'a> {
    /// Which network.
    pub net: &'a NetworkId,
    /// Whom the client means.
    pub relay: &'a NodeId,
    /// B, that relay's onion key.
    pub onion: &'a [u8; 32],
    /// X, the client's ephemeral key.
    pub x: &'a [u8; 32],
    /// ek, the client's ephemeral ML-KEM-768 key.
    pub ek: &'a [u8; KEM_PUBLIC],
    /// Y, the relay's ephemeral key.
    pub y: &'a [u8; 32],
    /// ct, encapsulated to ek.
    pub ct: &'a [u8; KEM_CIPHERTEXT],
}

fn secret_input(xy: &[u8; 32], xb: &[u8; 32], kem: &[u8]) -> Secret<96> {
    debug_assert_eq!(kem.len(), 32, "FIPS 203 fixes it");
    Secret::init(|out| {
        for (to, from) in out.iter_mut().zip(xy.iter().chain(xb).chain(kem)) {
            *to = *from;
        }
    })
}

/// From the shared secrets, `X25519(x, Y) | X25519(x, B) | kem secret`, and the transcript to AUTH and the keys of the circuit.
/// Pure, and public for the vectors that pin it (`tests/vectors/ntor.json`).
pub fn finish(secret: &Secret<96>, t: &Transcript<'_>) -> (Secret<32>, Secret<160>) {
    let transcript = hash(Label::NtorSeed, &[PROTOCOL, &t.net.0, &t.relay.0, t.onion, t.x, t.ek, t.y, t.ct]);
    let seed: Secret<32> = derive(Label::NtorSeed, secret.expose(), &[&transcript]);
    let verify: Secret<32> = derive(Label::NtorVerify, secret.expose(), &[&transcript]);
    let auth = derive(Label::NtorAuth, verify.expose(), &[&transcript, b"server"]);
    let keys = derive(Label::NtorKeys, seed.expose(), &[&transcript]);
    (auth, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const NET: NetworkId = NetworkId([1; 32]);
    const RELAY: NodeId = NodeId([2; 32]);

    fn setup(seed: u64) -> (StdRng, OnionKey) {
        let mut rng = StdRng::seed_from_u64(seed);
        let key = OnionKey::generate(&mut rng);
        (rng, key)
    }

    /// Self-made: no other system has this handshake. Computed by a separate program from the formulas in the head of this file.
    #[test]
    fn finish_keeps_to_its_vector() {
        let ek: [u8; KEM_PUBLIC] = core::array::from_fn(|i| (i % 251) as u8);
        let ct: [u8; KEM_CIPHERTEXT] = core::array::from_fn(|i| (i % 241) as u8);
        let transcript = Transcript {
            net: &NetworkId([0x11; 32]),
            relay: &NodeId([0x22; 32]),
            onion: &[0x33; 32],
            x: &[0x44; 32],
            ek: &ek,
            y: &[0x55; 32],
            ct: &ct,
        };
        let (auth, keys) = finish(&secret_input(&[0x66; 32], &[0x77; 32], &[0x88; 32]), &transcript);
        assert_eq!(HEXLOWER.encode(auth.expose()), VECTOR_AUTH);
        assert_eq!(HEXLOWER.encode(keys.expose()), VECTOR_KEYS);
    }

    const VECTOR_AUTH: &str = "50bb07632d6d59292d227782e8699d5ba4dac8dfe95b629239ffc87c2e129cad";
    const VECTOR_KEYS: &str = concat!(
        "dfa297cacc06ccf6cec30d0c5c65cdd26529fc0b694990938251fa29b22ee161ad112e8f995cfa72",
        "42d9cea87b6a6e06b6ea145237baa0653711d8d0bfe67f3046deff4cfdfb93bf60fce4cdb97347e2",
        "788b4fe5fe5823b1b2c4c57bc50d3d7fd6fc45e820b2bc6ce5f8db5da7e7b0c2703ad85457ae07e7",
        "7175164d75207f04e6cf51f185c0bf1f6732e011cf80de775ea48d6d8d349af9693746608553e58d",
    );

    #[test]
    fn both_ends_agree() {
        let (mut rng, key) = setup(1);
        let old = OnionKey::generate(&mut rng);
        for meant in [&key, &old] {
            let (state, msg) = client1(&mut rng, &NET, &RELAY, &meant.public()).unwrap();
            assert_eq!(msg.len(), CREATE_LEN);
            let (reply, ours) = server(&mut rng, &NET, &RELAY, &[&key, &old], &msg).unwrap();
            assert_eq!(reply.len(), CREATED_LEN);
            let theirs = client2(state, &reply).unwrap();
            assert_eq!(ours.expose(), theirs.expose());
        }
    }

    #[test]
    fn one_message_twice_gives_other_keys() {
        let (mut rng, key) = setup(2);
        let (_, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let (_, a) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        let (_, b) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        assert_ne!(a.expose(), b.expose());
    }

    #[test]
    fn another_relay_network_or_key_does_not_agree() {
        let (mut rng, key) = setup(3);
        let other = OnionKey::generate(&mut rng);
        let (state, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        assert!(server(&mut rng, &NET, &RELAY, &[&other], &msg).is_err());
        assert!(server(&mut rng, &NET, &RELAY, &[], &msg).is_err());
        // a relay that poses as one whose onion key it lacks
        let posing = OnionKey { secret: other.secret.clone(), public: key.public };
        for (net, relay, key) in [(NetworkId([9; 32]), RELAY, &key), (NET, NodeId([9; 32]), &key), (NET, RELAY, &posing)] {
            let (reply, _) = server(&mut rng, &net, &relay, &[key], &msg).unwrap();
            assert!(state.agree(&reply).is_err());
        }
        let (reply, _) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        assert!(state.agree(&reply).is_ok());
    }

    #[test]
    fn an_answer_to_another_message_is_refused() {
        let (mut rng, key) = setup(4);
        let (state, _) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let (_, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let (reply, _) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        assert!(state.agree(&reply).is_err());
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused() {
        let (mut rng, key) = setup(5);
        let (state, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let (reply, _) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        // one bit of each byte, and the top bit of the points, which X25519 itself ignores
        let flips = |len: usize| (0..len).map(|at| (at, 1u8 << (at % 8))).chain([(31, 0x80)]);
        for (at, bit) in flips(CREATED_LEN) {
            let mut bad = reply.clone();
            bad[at] ^= bit;
            assert!(state.agree(&bad).is_err(), "answer, byte {at}");
        }
        for (at, bit) in flips(CREATE_LEN) {
            let mut bad = msg.clone();
            bad[at] ^= bit;
            if let Ok((reply, _)) = server(&mut rng, &NET, &RELAY, &[&key], &bad) {
                assert!(state.agree(&reply).is_err(), "message, byte {at}");
            }
        }
        assert!(state.agree(&reply).is_ok());
    }

    #[test]
    fn other_lengths_are_refused() {
        let (mut rng, key) = setup(6);
        let (state, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let (reply, _) = server(&mut rng, &NET, &RELAY, &[&key], &msg).unwrap();
        for len in [0, 31, 32, 63, 64, CREATE_LEN - 1, CREATE_LEN + 1] {
            let mut bad = msg.clone();
            bad.resize(len, 0);
            assert!(server(&mut rng, &NET, &RELAY, &[&key], &bad).is_err(), "{len}");
        }
        for len in [0, 31, 32, 32 + KEM_CIPHERTEXT, CREATED_LEN - 1, CREATED_LEN + 1] {
            let mut bad = reply.clone();
            bad.resize(len, 0);
            assert!(state.agree(&bad).is_err(), "{len}");
        }
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let (mut rng, key) = setup(7);
        let (_, msg) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            let mut bad = msg.clone();
            bad[..32].copy_from_slice(&point);
            assert!(server(&mut rng, &NET, &RELAY, &[&key], &bad).is_err());

            // a peer that knows the result of such a point can make a fitting AUTH: the check on the point itself has to stop it
            for (onion, y) in [(point, key.public()), (key.public(), point)] {
                let (state, _) = client1(&mut rng, &NET, &RELAY, &onion).unwrap();
                let (ct, kem) = encapsulate(&state.ek).unwrap();
                let (xy, _) = dh(&state.x_secret, &y);
                let (xb, _) = dh(&state.x_secret, &onion);
                let secret = secret_input(xy.as_bytes(), xb.as_bytes(), kem.as_ref());
                let t = Transcript { net: &NET, relay: &RELAY, onion: &onion, x: &state.x, ek: &state.ek, y: &y, ct: &ct };
                let (auth, _) = finish(&secret, &t);
                let reply = [y.as_slice(), &ct, auth.expose()].concat();
                assert!(state.agree(&reply).is_err());
            }
        }
    }

    #[test]
    fn onion_keys_come_back_and_print_nothing() {
        let (mut rng, key) = setup(8);
        assert_eq!(OnionKey::from_bytes(key.to_bytes()).public(), key.public());
        let (state, _) = client1(&mut rng, &NET, &RELAY, &key.public()).unwrap();
        assert_eq!(format!("{key:?} {state:?}"), "OnionKey(..) ClientState(..)");
    }
}
