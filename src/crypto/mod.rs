//! Which primitive serves which goal. The only room that opens secrets; no IO, no clock, chance only through an `rng` argument.
//!
//! | goal | construction | file |
//! |---|---|---|
//! | hash and key derivation | SHA-256, HKDF-SHA-256, one table of labels | `kdf` |
//! | hash of a share's data, and of a partial download's blocks | BLAKE3, in key derivation mode with such a label | `kdf` |
//! | identity and signatures | Ed25519 over labelled hashes, strict verification | `keys` |
//! | key that requests are sealed to | X25519 and ML-KEM-768 | `keys` |
//! | circuit handshake | ntor shape, X25519 and ephemeral ML-KEM-768 | `ntor` |
//! | onion layers | Counter Galois Onion, AES-128 and POLYVAL | `cgo` |
//! | sealed requests | RFC 9458 shape, AES-256-GCM, one key per message | `session` |
//! | sealed chunks | ChaCha20-Poly1305, each key seals once | `seal` |

pub mod cgo;
pub mod kdf;
pub mod keys;
pub mod ntor;
pub mod seal;
pub mod secret;
pub mod session;

/// Something did not verify, open or agree. Says no more, on purpose: every cause looks the same from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not verify")]
pub struct CryptoError;
