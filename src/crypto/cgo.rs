//! Counter Galois Onion (Tor proposal 359, eprint 2025/583), the onion layer of relay cells (design D5), for any body size.
//!
//! A body is a tag (16 bytes) and a payload. Every layer is a wide-block cipher over the whole body, chained to the cell before:
//! change, drop, repeat or swap one cell, and that cell and all after it are noise to everyone behind (T09). The tag
//! doubles as recognition: a cell is for the hop whose nonce its tag decrypts or encrypts to. Keys and nonce move on one way with
//! every cell that a hop accepts or originates, so a seized relay cannot open what it recognised before.
//!
//! ```text
//! hop keys   160 bytes: away from the client 80 | towards the client 80;  each K 64 | N 16
//! state      by direction: K (expanded), N the next nonce, T' the tag last seen on the encrypted side
//! ```
//!
//! Relays only encrypt and clients only decrypt, whatever the direction: [`RelayLayer`] holds no decryption schedule, and an idle
//! circuit costs a relay under 1.5 KiB. Nothing here allocates per cell.
//!
//! For 509-byte bodies this is what Tor runs, checked on its public vectors; for our own size see [`uiv`] and `tests/vectors/cgo`.

pub mod uiv;

use crate::crypto::cgo::uiv::BLOCK;
use crate::crypto::cgo::uiv::KEY;
use crate::crypto::cgo::uiv::Permutation;
use crate::crypto::cgo::uiv::UPDATE;
use crate::crypto::cgo::uiv::Uiv;
use crate::crypto::secret::Secret;
use aes::Aes128Dec;
use aes::Aes128Enc;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Bytes of key material of one hop, both directions.
pub const HOP_KEYS: usize = 2 * UPDATE;

/// One direction of one hop.
struct Direction<P, const BODY: usize> {
    uiv: Uiv<P, BODY>,
    nonce: [u8; BLOCK],
    previous: [u8; BLOCK],
}

impl<P: Permutation, const BODY: usize> Direction<P, BODY> {
    fn new(material: &[u8; UPDATE]) -> Self {
        let (key, nonce) = parts(material);
        Self { uiv: Uiv::new(key), nonce: *nonce, previous: [0; BLOCK] }
    }

    /// The next key and nonce, from the tag of the cell that was accepted or originated. The old key is wiped as it drops.
    fn ratchet(&mut self, tag: &[u8; BLOCK]) {
        let material = self.uiv.update(tag);
        let (key, nonce) = parts(material.expose());
        self.uiv = Uiv::new(key);
        self.nonce = *nonce;
    }

    fn has_state(&self, k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> bool {
        self.uiv.same_key(&Uiv::new(k)) && self.nonce == *n && self.previous == *t_prime
    }

    fn dangerously_from_state(k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> Self {
        Self { uiv: Uiv::new(k), nonce: *n, previous: *t_prime }
    }
}

impl<const BODY: usize> Direction<Aes128Enc, BODY> {
    /// One layer on; T' becomes the tag that comes out. Returns that tag.
    fn encrypt(&mut self, ad: u8, body: &mut [u8; BODY]) -> [u8; BLOCK] {
        self.uiv.encrypt(&self.previous, ad, body);
        self.previous = tag(body);
        self.previous
    }
}

impl<const BODY: usize> Direction<Aes128Dec, BODY> {
    /// One layer off; T' becomes the tag that went in. Returns that tag.
    fn decrypt(&mut self, ad: u8, body: &mut [u8; BODY]) -> [u8; BLOCK] {
        let outer = tag(body);
        self.uiv.decrypt(&self.previous, ad, body);
        self.previous = outer;
        outer
    }
}

impl<P, const BODY: usize> Drop for Direction<P, BODY> {
    fn drop(&mut self) {
        // The nonce is what makes a cell recognised; the ciphers wipe themselves.
        self.nonce.zeroize();
        self.previous.zeroize();
    }
}

/// Splits key material into K and N.
fn parts(material: &[u8; UPDATE]) -> (&[u8; KEY], &[u8; BLOCK]) {
    match (material.first_chunk(), material.last_chunk()) {
        (Some(key), Some(nonce)) => (key, nonce),
        _ => unreachable!("UPDATE = KEY + BLOCK"),
    }
}

fn tag<const BODY: usize>(body: &[u8; BODY]) -> [u8; BLOCK] {
    const { assert!(BODY > BLOCK) };
    match body.first_chunk() {
        Some(tag) => *tag,
        None => unreachable!("BODY > BLOCK, checked at compile time"),
    }
}

fn set_tag<const BODY: usize>(body: &mut [u8; BODY], tag: &[u8; BLOCK]) {
    if let Some(place) = body.first_chunk_mut() {
        *place = *tag;
    }
}

/// Splits a hop's key material into away from and towards the client.
fn directions<P: Permutation, const BODY: usize>(keys: &Secret<HOP_KEYS>) -> (Direction<P, BODY>, Direction<P, BODY>) {
    match (keys.expose().first_chunk(), keys.expose().last_chunk()) {
        (Some(out), Some(back)) => (Direction::new(out), Direction::new(back)),
        _ => unreachable!("HOP_KEYS = 2 * UPDATE"),
    }
}

/// A hop's layer at its relay, both directions.
///
/// # Invariants
/// Every cell of the circuit passes through it once, in order, and no other cell does.
pub struct RelayLayer<const BODY: usize> {
    out: Direction<Aes128Enc, BODY>,
    back: Direction<Aes128Enc, BODY>,
}

impl<const BODY: usize> RelayLayer<BODY> {
    /// From the keys of a circuit handshake.
    pub fn new(keys: &Secret<HOP_KEYS>) -> Self {
        let (out, back) = directions(keys);
        Self { out, back }
    }

    /// A cell from the client: takes one layer off in place. True: the cell is for this hop, and the body is what the client meant
    /// (behind the tag). False: it goes on to the next hop; who has none closes the circuit, silently.
    #[must_use]
    pub fn outbound(&mut self, ad: u8, body: &mut [u8; BODY]) -> bool {
        let tag = self.out.encrypt(ad, body);
        let recognised = bool::from(tag.ct_eq(&self.out.nonce));
        if recognised {
            self.out.ratchet(&tag);
        }
        recognised
    }

    /// A cell from the next hop, towards the client: puts one layer on in place.
    pub fn inbound(&mut self, ad: u8, body: &mut [u8; BODY]) {
        self.back.encrypt(ad, body);
    }

    /// A new cell to the client: the payload is read from behind the tag, the tag is overwritten.
    pub fn originate(&mut self, ad: u8, body: &mut [u8; BODY]) {
        set_tag(body, &self.back.nonce);
        let tag = self.back.encrypt(ad, body);
        self.back.ratchet(&tag);
    }

    /// For vectors: a layer whose both directions have this state (K, N, T').
    pub fn dangerously_from_state(k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> Self {
        let direction = || Direction::dangerously_from_state(k, n, t_prime);
        Self { out: direction(), back: direction() }
    }

    /// For vectors: whether the direction away from the client has this state (K, N, T'). Not constant time; shows no secret.
    pub fn outbound_has_state(&self, k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> bool {
        self.out.has_state(k, n, t_prime)
    }

    /// For vectors: whether the direction towards the client has this state (K, N, T'). Not constant time; shows no secret.
    pub fn inbound_has_state(&self, k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> bool {
        self.back.has_state(k, n, t_prime)
    }
}

struct ClientLayer<const BODY: usize> {
    out: Direction<Aes128Dec, BODY>,
    back: Direction<Aes128Dec, BODY>,
}

/// All layers of a circuit at its client, nearest hop first.
///
/// # Invariants
/// Every cell of the circuit passes through it once, in order, and no other cell does.
#[derive(Default)]
pub struct ClientLayers<const BODY: usize> {
    hops: Vec<ClientLayer<BODY>>,
}

impl<const BODY: usize> ClientLayers<BODY> {
    /// A circuit without hops.
    pub const fn new() -> Self {
        Self { hops: Vec::new() }
    }

    /// The circuit got one hop longer: from the keys of that hop's handshake.
    pub fn push(&mut self, keys: &Secret<HOP_KEYS>) {
        let (out, back) = directions(keys);
        self.hops.push(ClientLayer { out, back });
    }

    /// How many hops the circuit has.
    pub fn len(&self) -> usize {
        self.hops.len()
    }

    /// Whether the circuit has no hop yet.
    pub fn is_empty(&self) -> bool {
        self.hops.is_empty()
    }

    /// A new cell to hop number `hop` (0 is the nearest): the payload is read from behind the tag, the tag is overwritten.
    /// A hop that the circuit does not have is a bug; the body is wiped then, so that nothing ever leaves in the clear.
    pub fn originate(&mut self, hop: usize, ad: u8, body: &mut [u8; BODY]) {
        let path = self.hops.get_mut(..=hop).unwrap_or_default();
        let Some((last, others)) = path.split_last_mut() else {
            body.zeroize();
            return;
        };
        set_tag(body, &last.out.nonce);
        let tag = last.out.decrypt(ad, body);
        last.out.ratchet(&tag);
        for layer in others.iter_mut().rev() {
            layer.out.decrypt(ad, body);
        }
    }

    /// A cell from the nearest hop: takes layers off in place until one hop recognises it. The hop that sent it (0 is the nearest),
    /// with the payload behind the tag; or `None`: the cell was not what any hop sent, and so will be all after it.
    #[must_use]
    pub fn receive(&mut self, ad: u8, body: &mut [u8; BODY]) -> Option<usize> {
        for (hop, layer) in self.hops.iter_mut().enumerate() {
            let outer = layer.back.decrypt(ad, body);
            if bool::from(tag(body).ct_eq(&layer.back.nonce)) {
                layer.back.ratchet(&outer);
                return Some(hop);
            }
        }
        None
    }

    /// For vectors: adds a hop whose both directions have this state (K, N, T').
    pub fn dangerously_push_state(&mut self, k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) {
        let direction = || Direction::dangerously_from_state(k, n, t_prime);
        self.hops.push(ClientLayer { out: direction(), back: direction() });
    }

    /// For vectors: whether a hop's direction away from the client has this state (K, N, T'). Not constant time; shows no secret.
    pub fn outbound_has_state(&self, hop: usize, k: &[u8; KEY], n: &[u8; BLOCK], t_prime: &[u8; BLOCK]) -> bool {
        self.hops.get(hop).is_some_and(|layer| layer.out.has_state(k, n, t_prime))
    }
}

#[cfg(test)]
mod tests;
