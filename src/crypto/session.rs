//! Sealed requests (D12): a client opens a session to a host's key with one public-key operation and then asks many things in it,
//! in the shape of Oblivious HTTP (RFC 9458). The host learns no asker; whoever carries the bytes learns lengths, which the two
//! shapes fix.
//!
//! ```text
//! opening   key id u32 | X 32 | ct 1088 | sealed kind 2 + 16
//! request   sealed( length u16 | plain | zeros )                      all of it out_len bytes
//! response  nonce 32 | sealed( length u16 | plain | zeros )           all of it out_len bytes
//!
//! session   = KDF(SessionSecret; X25519(x, host) | kem secret; net, host, key id, host's X25519, host's ek, X, ct)
//! opening   : KDF(SessionRequest;  session; "open")
//! request   : KDF(SessionRequest;  session; "ask", n, out_len)
//! response  : KDF(SessionResponse; session; n, out_len, nonce)        each 44 bytes: AES-256-GCM key 32 | nonce 12
//! ```
//!
//! Every message has a key of its own, so none can be moved to another place. A session holds no counters: who uses it keeps `n`
//! and the bound on it (`SESSION_REQUESTS_MAX`), the host also the replay set of openings.

use crate::base::ids::NetworkId;
use crate::base::ids::NodeId;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::keys::HostKey;
use crate::crypto::keys::HostPublic;
use crate::crypto::keys::KEM_CIPHERTEXT;
use crate::crypto::keys::decapsulate;
use crate::crypto::keys::dh;
use crate::crypto::keys::encapsulate;
use crate::crypto::keys::fresh_x25519;
use crate::crypto::secret::Secret;
use aws_lc_rs::aead::AES_256_GCM;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;
use core::fmt;
use rand::CryptoRng;
use x25519_dalek::PublicKey;

/// Bytes of an opening.
pub const OPEN_LEN: usize = CLEAR_LEN + KIND_LEN + TAG_LEN;
/// Bytes that sealing adds to a request: its length and the tag.
pub const REQUEST_OVERHEAD: usize = LENGTH_LEN + TAG_LEN;
/// Bytes that sealing adds to a response: nonce, length and tag.
pub const RESPONSE_OVERHEAD: usize = NONCE_LEN + LENGTH_LEN + TAG_LEN;

/// The part of an opening that is not sealed.
const CLEAR_LEN: usize = 4 + 32 + KEM_CIPHERTEXT;
const KIND_LEN: usize = 2;
const TAG_LEN: usize = 16;
const LENGTH_LEN: usize = 2;
const NONCE_LEN: usize = 32;

/// The client's end of a session.
#[derive(Clone)]
pub struct ClientSession(Secret<32>);

/// The host's end of a session.
#[derive(Clone)]
pub struct HostSession(Secret<32>);

impl fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSession(..)")
    }
}

impl fmt::Debug for HostSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostSession(..)")
    }
}

/// Opens a session to `host`: the client's end, and the opening of [`OPEN_LEN`] bytes. `kind` says what the session is for.
///
/// # Errors
/// The host's key is none.
pub fn open(
    rng: &mut dyn CryptoRng,
    net: &NetworkId,
    host: &NodeId,
    key: &HostPublic,
    kind: [u8; 2],
) -> Result<(ClientSession, Vec<u8>), CryptoError> {
    let x_secret = fresh_x25519(rng);
    let x = PublicKey::from(&x_secret).to_bytes();
    let (shared, good) = dh(&x_secret, &key.x25519);
    let (ct, kem) = encapsulate(&key.mlkem)?;
    let session = session_secret(shared.as_bytes(), kem.as_ref(), net, host, key, &x, &ct);
    if !bool::from(good) {
        return Err(CryptoError);
    }

    let mut msg = Vec::with_capacity(OPEN_LEN);
    msg.extend_from_slice(&key.id.to_be_bytes());
    msg.extend_from_slice(&x);
    msg.extend_from_slice(&ct);
    let mut sealed = kind;
    let tag = seal(&opening_key(&session), &mut sealed)?;
    msg.extend_from_slice(&sealed);
    msg.extend_from_slice(&tag);
    Ok((ClientSession(session), msg))
}

/// The host's side of [`open`]. The same opening gives the same session again: the host refuses it by [`replay_tag`], once it was
/// accepted.
///
/// # Errors
/// Wrong length, another key's id, or not sealed to this key, host and network.
pub fn accept(net: &NetworkId, host: &NodeId, key: &HostKey, msg: &[u8]) -> Result<(HostSession, [u8; 2]), CryptoError> {
    let (id, rest) = msg.split_first_chunk::<4>().ok_or(CryptoError)?;
    let (x, rest) = rest.split_first_chunk::<32>().ok_or(CryptoError)?;
    let (ct, sealed) = rest.split_first_chunk::<KEM_CIPHERTEXT>().ok_or(CryptoError)?;
    let mut sealed: [u8; KIND_LEN + TAG_LEN] = sealed.try_into().map_err(|_| CryptoError)?;
    if u32::from_be_bytes(*id) != key.id() {
        return Err(CryptoError);
    }

    let (shared, good) = dh(key.x25519(), x);
    let kem = decapsulate(key.mlkem(), ct)?;
    let session = session_secret(shared.as_bytes(), kem.as_ref(), net, host, key.public_ref(), x, ct);
    let kind = unseal(&opening_key(&session), &mut sealed).and_then(|kind| kind.try_into().map_err(|_| CryptoError));
    match (bool::from(good), kind) {
        (true, Ok(kind)) => Ok((HostSession(session), kind)),
        _ => Err(CryptoError),
    }
}

/// Which of the host's keys an opening is for; none if it is too short to say.
pub fn open_key_id(msg: &[u8]) -> Option<u32> {
    msg.first_chunk().map(|id| u32::from_be_bytes(*id))
}

/// What a host remembers of an opening it accepted, for as long as the key lives. Covers all that makes the session, so no second
/// opening of it has another tag.
pub fn replay_tag(msg: &[u8]) -> [u8; 32] {
    hash(Label::SessionReplay, &[msg.get(..CLEAR_LEN).unwrap_or(msg)])
}

impl ClientSession {
    /// Seals request `n`, padded to exactly `out_len` bytes. Use each `n` for one request: the same `n` with other bytes of the
    /// same `out_len` would use a key twice. The same request again gives the same bytes, so a lost one may be sent anew.
    ///
    /// # Errors
    /// `plain` and [`REQUEST_OVERHEAD`] do not fit `out_len`, or `plain` is longer than 65,535 bytes.
    pub fn seal_request(&self, n: u16, plain: &[u8], out_len: usize) -> Result<Vec<u8>, CryptoError> {
        seal_padded(&request_key(&self.0, n, out_len), &[], plain, out_len)
    }

    /// Opens the response to request `n` in place and returns the plaintext within `sealed`.
    ///
    /// # Errors
    /// Not the host's response to this request, or not padded as it should be.
    pub fn open_response<'a>(&self, n: u16, sealed: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        let out_len = sealed.len();
        let (nonce, sealed) = sealed.split_first_chunk_mut::<NONCE_LEN>().ok_or(CryptoError)?;
        open_padded(&response_key(&self.0, n, out_len, nonce), sealed)
    }
}

impl HostSession {
    /// Opens request `n` in place and returns the plaintext within `sealed`.
    ///
    /// # Errors
    /// Not request `n` of this session, or not padded as it should be.
    pub fn open_request<'a>(&self, n: u16, sealed: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        open_padded(&request_key(&self.0, n, sealed.len()), sealed)
    }

    /// Seals a response to request `n`, padded to exactly `out_len` bytes. Its random nonce keeps keys apart even if one request is
    /// answered twice.
    ///
    /// # Errors
    /// `plain` and [`RESPONSE_OVERHEAD`] do not fit `out_len`, or `plain` is longer than 65,535 bytes.
    pub fn seal_response(&self, rng: &mut dyn CryptoRng, n: u16, plain: &[u8], out_len: usize) -> Result<Vec<u8>, CryptoError> {
        let mut nonce = [0; NONCE_LEN];
        rng.fill_bytes(&mut nonce);
        seal_padded(&response_key(&self.0, n, out_len, &nonce), &nonce, plain, out_len)
    }
}

// --- keys

fn session_secret(
    shared: &[u8; 32],
    kem: &[u8],
    net: &NetworkId,
    host: &NodeId,
    key: &HostPublic,
    x: &[u8; 32],
    ct: &[u8; KEM_CIPHERTEXT],
) -> Secret<32> {
    debug_assert_eq!(kem.len(), 32, "FIPS 203 fixes it");
    let input: Secret<64> = Secret::init(|out| {
        for (to, from) in out.iter_mut().zip(shared.iter().chain(kem)) {
            *to = *from;
        }
    });
    let context: [&[u8]; 7] = [&net.0, &host.0, &key.id.to_be_bytes(), &key.x25519, key.mlkem.as_slice(), x, ct];
    derive(Label::SessionSecret, input.expose(), &context)
}

fn opening_key(session: &Secret<32>) -> Secret<44> {
    derive(Label::SessionRequest, session.expose(), &[b"open"])
}

// the length goes in as well, so that one request sealed at two lengths does not use a key twice
fn request_key(session: &Secret<32>, n: u16, out_len: usize) -> Secret<44> {
    derive(Label::SessionRequest, session.expose(), &[b"ask", &n.to_be_bytes(), &(out_len as u64).to_be_bytes()])
}

fn response_key(session: &Secret<32>, n: u16, out_len: usize, nonce: &[u8; NONCE_LEN]) -> Secret<44> {
    derive(Label::SessionResponse, session.expose(), &[&n.to_be_bytes(), &(out_len as u64).to_be_bytes(), nonce])
}

// --- sealing

fn cipher(key: &Secret<44>) -> Result<(LessSafeKey, Nonce), CryptoError> {
    let (key, nonce) = key.expose().split_at(32);
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| CryptoError)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CryptoError)?;
    Ok((LessSafeKey::new(key), nonce))
}

fn seal(key: &Secret<44>, in_out: &mut [u8]) -> Result<[u8; TAG_LEN], CryptoError> {
    let (cipher, nonce) = cipher(key)?;
    let tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), in_out).map_err(|_| CryptoError)?;
    tag.as_ref().try_into().map_err(|_| CryptoError)
}

fn unseal<'a>(key: &Secret<44>, sealed: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
    let (cipher, nonce) = cipher(key)?;
    let plain = cipher.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| CryptoError)?;
    Ok(plain)
}

/// `head | sealed(length | plain | zeros)`, `out_len` bytes in all.
fn seal_padded(key: &Secret<44>, head: &[u8], plain: &[u8], out_len: usize) -> Result<Vec<u8>, CryptoError> {
    let length = u16::try_from(plain.len()).map_err(|_| CryptoError)?;
    let body_end = out_len.checked_sub(TAG_LEN).ok_or(CryptoError)?;
    if head.len() + LENGTH_LEN + plain.len() > body_end {
        return Err(CryptoError);
    }
    let mut out = Vec::with_capacity(out_len);
    out.extend_from_slice(head);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(plain);
    out.resize(body_end, 0);
    let Some(body) = out.get_mut(head.len()..) else { unreachable!("the head was written first") };
    let tag = seal(key, body)?;
    out.extend_from_slice(&tag);
    Ok(out)
}

fn open_padded<'a>(key: &Secret<44>, sealed: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
    let body = unseal(key, sealed)?;
    let (length, body) = body.split_first_chunk::<LENGTH_LEN>().ok_or(CryptoError)?;
    let (plain, padding) = body.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(CryptoError)?;
    // one form for each message; folded, because that goes many bytes at a time
    if padding.iter().fold(0, |all, byte| all | byte) == 0 { Ok(plain) } else { Err(CryptoError) }
}

#[cfg(test)]
mod tests;
