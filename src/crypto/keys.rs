//! Relay identities: Ed25519 over a labelled hash of length-prefixed parts.

use crate::base::NodeId;
use crate::crypto::CryptoError;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::crypto::secret::Secret;
use ed25519_dalek::Signature;
use ed25519_dalek::Signer;
use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;

/// A relay's identity key.
#[derive(Debug)]
pub struct IdentityKey {
    key: SigningKey,
}

impl IdentityKey {
    /// From its 32-byte seed.
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self { key: SigningKey::from_bytes(seed.expose()) }
    }

    /// The public half.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.key.verifying_key().to_bytes())
    }

    /// Signs the labelled hash of `parts`.
    pub fn sign(&self, label: Label, parts: &[&[u8]]) -> [u8; 64] {
        self.key.sign(&kdf::hash(label, parts)).to_bytes()
    }
}

/// Checks a signature of [`IdentityKey::sign`], strictly (no small-order keys, one encoding).
pub fn verify(node: &NodeId, label: Label, parts: &[&[u8]], sig: &[u8; 64]) -> Result<(), CryptoError> {
    let key = VerifyingKey::from_bytes(&node.0).map_err(|_| CryptoError)?;
    key.verify_strict(&kdf::hash(label, parts), &Signature::from_bytes(sig)).map_err(|_| CryptoError)
}
