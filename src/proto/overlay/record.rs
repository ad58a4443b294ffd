//! Signatures of descriptors and receipts, as pure functions: the jobs that run beside the machines.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Position;
use crate::base::Wall;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::crypto::keys;
use crate::crypto::keys::IdentityKey;
use crate::proto::overlay::region;
use crate::wire::codec::DecodeError;
use crate::wire::record::Descriptor;
use crate::wire::record::Receipt;
use crate::wire::record::SignedDescriptor;
use core::net::SocketAddr;
use std::sync::Arc;

/// Why a descriptor or receipt was refused. Whoever made it is to blame, not whoever passed it on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no descriptor.
    #[error("descriptor does not parse: {0}")]
    Format(#[source] DecodeError),
    /// A signature does not verify.
    #[error("descriptor does not verify")]
    Signature,
}

/// A descriptor whose own signature, and those of all its receipts, verified.
///
/// # Invariants
/// Only [`verify_descriptor`] and [`sign_descriptor`] make one; it has at least one address.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    signed: SignedDescriptor,
    first: SocketAddr,
    group: Group,
    prefix: Prefix,
    position: Position,
    former: Vec<(Position, Wall)>,
    digest: [u8; 32],
    digest_part: u64,
}

/// The part of one relay in a view's digest: hash(identity, sequence number), its first 8 bytes.
fn digest_part(descriptor: &Descriptor) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = kdf::hash(Label::ViewDigest, &[&descriptor.node.0, &descriptor.seq.to_be_bytes()]);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Verified {
    fn new(net: &NetworkId, signed: SignedDescriptor, bytes: &[u8]) -> Result<Self, RecordError> {
        let first = signed.descriptor.first_addr().ok_or(RecordError::Format(DecodeError::Invalid))?;
        let position = region::position(net, &first);
        let former = signed.descriptor.old_addrs.iter().map(|(a, until)| (region::position(net, a), *until)).collect();
        let digest = kdf::hash(Label::ViewDigest, &[bytes]);
        let (group, prefix) = (Group::of(&first), Prefix::of(&first));
        let digest_part = digest_part(&signed.descriptor);
        Ok(Self { signed, first, group, prefix, position, former, digest, digest_part })
    }

    /// For tests of the logic behind signatures: any descriptor, at any position.
    #[cfg(test)]
    pub(crate) fn unchecked(descriptor: Descriptor, position: Position) -> Arc<Self> {
        let first = descriptor.first_addr().unwrap();
        let digest = kdf::hash(Label::ViewDigest, &[&descriptor.signed_bytes()]);
        let (group, prefix) = (Group::of(&first), Prefix::of(&first));
        let digest_part = digest_part(&descriptor);
        let signed = SignedDescriptor { descriptor, sig: [0; 64] };
        Arc::new(Self { signed, first, group, prefix, position, former: vec![], digest, digest_part })
    }

    /// What the relay says about itself.
    pub const fn descriptor(&self) -> &Descriptor {
        &self.signed.descriptor
    }

    /// Its identity.
    pub const fn node(&self) -> NodeId {
        self.signed.descriptor.node
    }

    /// The address that gives the position; circuits and links go there.
    pub const fn addr(&self) -> SocketAddr {
        self.first
    }

    /// Its place in the key space (D9).
    pub const fn position(&self) -> Position {
        self.position
    }

    /// Positions of former addresses, each with the time until which it says it serves there.
    pub fn former(&self) -> &[(Position, Wall)] {
        &self.former
    }

    /// The group of its first address.
    pub const fn group(&self) -> Group {
        self.group
    }

    /// The prefix of its first address.
    pub const fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Hash of the whole record: settles conflicts between two descriptors of one sequence number.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What it adds to the digest of a view that uses it.
    pub const fn digest_part(&self) -> u64 {
        self.digest_part
    }

    /// First 8 bytes of the id, as hints in messages name it.
    pub const fn hint_id(&self) -> u64 {
        hint_id(&self.signed.descriptor.node)
    }

    /// The record as it travels.
    pub fn encode(&self) -> Vec<u8> {
        self.signed.encode()
    }

    /// Whether the two relays name each other as family.
    pub fn is_family(&self, other: &Self) -> bool {
        let (a, b) = (self.descriptor(), other.descriptor());
        a.family.binary_search(&b.node).is_ok() && b.family.binary_search(&a.node).is_ok()
    }

    /// Whether any two addresses of the relays lie in one group.
    pub fn shares_group(&self, other: &Self) -> bool {
        let groups = |v: &Self| v.descriptor().addrs.iter().map(Group::of).collect::<Vec<_>>();
        let (a, b) = (groups(self), groups(other));
        a.iter().any(|g| b.contains(g))
    }

    /// Whether any address of the relay lies in the group.
    pub fn in_group(&self, group: &Group) -> bool {
        self.descriptor().addrs.iter().any(|a| Group::of(a) == *group)
    }
}

/// First 8 bytes of an id as a big-endian number.
pub const fn hint_id(node: &NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = node.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Signs a descriptor, after putting it in order.
pub fn sign_descriptor(key: &IdentityKey, net: &NetworkId, mut descriptor: Descriptor) -> Result<Arc<Verified>, RecordError> {
    descriptor.tidy();
    let sig = key.sign(Label::Descriptor, &[&net.0, &descriptor.signed_bytes()]);
    let bytes = SignedDescriptor { descriptor, sig }.encode();
    // Through the parser, so that we never publish what others would refuse.
    verify_descriptor(net, &bytes)
}

/// Parses a descriptor and checks its own signature and those of its receipts.
pub fn verify_descriptor(net: &NetworkId, bytes: &[u8]) -> Result<Arc<Verified>, RecordError> {
    let signed = SignedDescriptor::decode(bytes).map_err(RecordError::Format)?;
    let body = bytes.len().checked_sub(64).and_then(|n| bytes.get(..n)).ok_or(RecordError::Format(DecodeError::Short))?;
    keys::verify(&signed.descriptor.node, Label::Descriptor, &[&net.0, body], &signed.sig).map_err(|_| RecordError::Signature)?;
    for receipt in &signed.descriptor.receipts {
        verify_receipt(net, receipt)?;
    }
    Verified::new(net, signed, bytes).map(Arc::new)
}

/// Signs as a witness that the subject answered at the address (D9).
pub fn sign_receipt(key: &IdentityKey, net: &NetworkId, subject: NodeId, addr: SocketAddr, day: u32) -> Receipt {
    let mut receipt = Receipt { witness: key.node_id(), subject, addr, day, sig: [0; 64] };
    receipt.sig = key.sign(Label::Receipt, &[&net.0, &receipt.signed_bytes()]);
    receipt
}

/// Checks a receipt's signature.
pub fn verify_receipt(net: &NetworkId, receipt: &Receipt) -> Result<(), RecordError> {
    keys::verify(&receipt.witness, Label::Receipt, &[&net.0, &receipt.signed_bytes()], &receipt.sig)
        .map_err(|_| RecordError::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::secret::Secret;
    use crate::wire::codec::Extensions;

    pub(crate) fn descriptor(node: NodeId, addr: &str) -> Descriptor {
        Descriptor {
            node,
            seq: 1,
            published: Wall(1_000_000),
            expires: Wall(1_000_000 + 86_400),
            addrs: vec![addr.parse().unwrap()],
            carries: true,
            onion_key: [1; 32],
            host_key: None,
            family: vec![],
            old_addrs: vec![],
            receipts: vec![],
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn signatures_bind_network_content_and_receipts() {
        let (net, other) = (NetworkId([1; 32]), NetworkId([2; 32]));
        let key = IdentityKey::from_seed(&Secret::new([3; 32]));
        let witness = IdentityKey::from_seed(&Secret::new([4; 32]));
        let addr = "9.9.9.9:9".parse().unwrap();
        let mut d = descriptor(key.node_id(), "9.9.9.9:9");
        d.receipts = vec![sign_receipt(&witness, &net, key.node_id(), addr, 11)];
        let good = sign_descriptor(&key, &net, d.clone()).unwrap();
        let bytes = good.encode();
        assert_eq!(verify_descriptor(&net, &bytes).unwrap(), good);
        assert_eq!(verify_descriptor(&other, &bytes), Err(RecordError::Signature));
        let mut wrong = bytes.clone();
        wrong[40] ^= 1; // the sequence number
        assert_eq!(verify_descriptor(&net, &wrong), Err(RecordError::Signature));
        // A receipt for another relay, or another day, does not verify even under a good signature of the descriptor.
        d.receipts[0].day = 12;
        assert_eq!(sign_descriptor(&key, &net, d.clone()), Err(RecordError::Signature));
        d.receipts = vec![sign_receipt(&witness, &other, key.node_id(), addr, 11)];
        assert_eq!(sign_descriptor(&key, &net, d), Err(RecordError::Signature));
    }
}
