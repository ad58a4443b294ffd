//! Which primitive serves which goal. The only room that opens secrets; no IO, no clock, chance only through an `rng` argument.
//!
//! | goal | construction | file |
//! |---|---|---|
//! | hash and key derivation | SHA-256, HKDF-SHA-256, one table of labels | `kdf` |

pub mod kdf;
pub mod keys;
pub mod secret;

/// Something did not verify, open or agree. Says no more, on purpose: every cause looks the same from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("does not verify")]
pub struct CryptoError;
