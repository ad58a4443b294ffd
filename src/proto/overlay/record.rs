//! Signatures of descriptors, freshnesses and receipts, as pure functions: the jobs that run beside the machines.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Position;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::crypto::keys;
use crate::crypto::keys::IdentityKey;
use crate::proto::overlay::region;
use crate::wire::codec::DecodeError;
use crate::wire::freshness::Freshness;
use crate::wire::freshness::KIND_FRESHNESS;
use crate::wire::freshness::SignedFreshness;
use crate::wire::overlay::Tag;
use crate::wire::record::Descriptor;
use crate::wire::record::Receipt;
use crate::wire::record::SignedDescriptor;
use core::net::SocketAddr;
use std::sync::Arc;

/// Why a record was refused. Whoever made it is to blame, not whoever passed it on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are no record.
    #[error("record does not parse: {0}")]
    Format(#[source] DecodeError),
    /// A signature does not verify.
    #[error("record does not verify")]
    Signature,
    /// Two descriptors that prove nothing: of two relays, of two slots of time, or one and the same.
    #[error("these descriptors do not contradict each other")]
    NoFaces,
}

/// A descriptor whose signature verified, and what follows from it.
///
/// # Invariants
/// It has at least one address. Only [`verify_descriptor`], [`sign_descriptor`] and [`Body::kept`] make one.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    signed: SignedDescriptor,
    first: SocketAddr,
    group: Group,
    prefix: Prefix,
    position: Position,
    former: Vec<(Position, Wall)>,
    digest: [u8; 32],
}

impl Body {
    fn new(net: &NetworkId, signed: SignedDescriptor, bytes: &[u8]) -> Result<Self, RecordError> {
        let first = signed.descriptor.first_addr().ok_or(RecordError::Format(DecodeError::Invalid))?;
        let position = region::position(net, &first);
        let former = signed.descriptor.old_addrs.iter().map(|(a, until)| (region::position(net, a), *until)).collect();
        let digest = kdf::hash(Label::ViewDigest, &[bytes]);
        let (group, prefix) = (Group::of(&first), Prefix::weighed(&first));
        Ok(Self { signed, first, group, prefix, position, former, digest })
    }

    /// From our own saved state, which holds only what was checked before it was written.
    ///
    /// # Errors
    /// The bytes are no descriptor.
    pub fn kept(net: &NetworkId, bytes: &[u8]) -> Result<Arc<Self>, RecordError> {
        let signed = SignedDescriptor::decode(bytes).map_err(RecordError::Format)?;
        Self::new(net, signed, bytes).map(Arc::new)
    }

    /// What the relay says about itself.
    pub const fn descriptor(&self) -> &Descriptor {
        &self.signed.descriptor
    }

    /// The record as it travels.
    pub fn encode(&self) -> Vec<u8> {
        self.signed.encode()
    }

    /// Its hash.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What directories vote on.
    pub const fn tag(&self) -> Tag {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = self.digest;
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The slot of time that it was made in.
    pub const fn slot(&self, local: bool) -> u64 {
        slot(self.signed.descriptor.published, local)
    }

    /// The lowest bits of that, as directories list them.
    pub const fn slot16(&self, local: bool) -> u16 {
        let [.., high, low] = self.slot(local).to_be_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// The slot of time that a moment lies in: a relay makes one descriptor in each.
pub const fn slot(at: Wall, local: bool) -> u64 {
    at.0 / if local { limits::DESCRIPTOR_SLOT_LOCAL_SECS } else { limits::DESCRIPTOR_SLOT_SECS }
}

/// A freshness whose signature, and those of all its receipts, verified.
///
/// # Invariants
/// Only [`verify_freshness`] and [`sign_freshness`] make one.
#[derive(Debug, PartialEq, Eq)]
pub struct Fresh {
    signed: SignedFreshness,
}

impl Fresh {
    /// What the relay says.
    pub const fn freshness(&self) -> &Freshness {
        &self.signed.freshness
    }

    /// The record as it travels.
    pub fn encode(&self) -> Vec<u8> {
        self.signed.encode()
    }
}

/// A relay as it is known: its descriptor and, where relays speak to each other, its freshness.
///
/// # Invariants
/// The freshness is that of the descriptor.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    body: Arc<Body>,
    fresh: Option<Arc<Fresh>>,
}

impl Verified {
    /// A relay with its freshness. `None` if that is of another relay, or of another descriptor.
    pub fn new(body: Arc<Body>, fresh: Arc<Fresh>) -> Option<Arc<Self>> {
        let f = fresh.freshness();
        let fits = f.node == body.descriptor().node && f.descriptor == body.digest;
        fits.then(|| Arc::new(Self { body, fresh: Some(fresh) }))
    }

    /// A relay that others vouch for by listing it.
    pub fn listed(body: Arc<Body>) -> Arc<Self> {
        Arc::new(Self { body, fresh: None })
    }

    /// For tests of the logic behind signatures: any descriptor and receipts, at any position.
    #[cfg(test)]
    pub(crate) fn unchecked(descriptor: Descriptor, receipts: Vec<Receipt>, position: Position) -> Arc<Self> {
        let first = descriptor.first_addr().unwrap();
        let digest = kdf::hash(Label::ViewDigest, &[&descriptor.signed_bytes()]);
        let (group, prefix) = (Group::of(&first), Prefix::weighed(&first));
        let freshness = Freshness {
            node: descriptor.node,
            descriptor: digest,
            published: descriptor.published,
            expires: descriptor.published.plus(limits::FRESHNESS_LIFE_SECS),
            receipts,
            extensions: crate::wire::codec::Extensions::default(),
        };
        let signed = SignedDescriptor { descriptor, sig: [0; 64] };
        let body = Arc::new(Body { signed, first, group, prefix, position, former: vec![], digest });
        let fresh = Arc::new(Fresh { signed: SignedFreshness { freshness, sig: [0; 64] } });
        Self::new(body, fresh).unwrap()
    }

    /// The same with the same receipts, said at another time.
    #[cfg(test)]
    pub(crate) fn said_again(&self, now: Wall) -> Arc<Self> {
        let mut freshness = self.fresh.as_ref().unwrap().freshness().clone();
        (freshness.published, freshness.expires) = (now, now.plus(limits::FRESHNESS_LIFE_SECS));
        let fresh = Arc::new(Fresh { signed: SignedFreshness { freshness, sig: [0; 64] } });
        Self::new(Arc::clone(&self.body), fresh).unwrap()
    }

    /// The checked descriptor.
    pub const fn body(&self) -> &Arc<Body> {
        &self.body
    }

    /// Its freshness, if it is known.
    pub const fn fresh(&self) -> Option<&Arc<Fresh>> {
        self.fresh.as_ref()
    }

    /// What the relay says about itself.
    pub fn descriptor(&self) -> &Descriptor {
        self.body.descriptor()
    }

    /// Who vouches for it; nobody, if its freshness is not known.
    pub fn receipts(&self) -> &[Receipt] {
        self.fresh.as_ref().map_or(&[], |f| &f.signed.freshness.receipts)
    }

    /// When it last said that it is there; else when it was described.
    pub fn published(&self) -> Wall {
        self.fresh.as_ref().map_or(self.descriptor().published, |f| f.signed.freshness.published)
    }

    /// When it stops counting.
    pub fn expires(&self) -> Wall {
        let d = self.descriptor().expires;
        self.fresh.as_ref().map_or(d, |f| f.signed.freshness.expires.min(d))
    }

    /// Its identity.
    pub fn node(&self) -> NodeId {
        self.descriptor().node
    }

    /// The address that gives the position; circuits and links go there.
    pub fn addr(&self) -> SocketAddr {
        self.body.first
    }

    /// Its place in the key space (D9).
    pub fn position(&self) -> Position {
        self.body.position
    }

    /// Positions of former addresses, each with the time until which it says it serves there.
    pub fn former(&self) -> &[(Position, Wall)] {
        &self.body.former
    }

    /// The group of its first address.
    pub fn group(&self) -> Group {
        self.body.group
    }

    /// Whether it is reached over IPv6 alone: circuits and links go to the first address.
    pub fn is_ip6(&self) -> bool {
        net::is_ip6(&self.body.first)
    }

    /// The prefix that it is weighed by: of IPv6, the whole /32 of its first address.
    pub fn prefix(&self) -> Prefix {
        self.body.prefix
    }

    /// What it adds to the digest of a view that uses it, and what hints carry of its descriptor.
    pub fn digest_part(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.body.digest;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// First 8 bytes of the id, as hints in messages name it.
    pub fn hint_id(&self) -> u64 {
        hint_id(&self.node())
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

/// The proof that a relay shows different faces: two descriptors of one slot of time, both with its signature.
#[derive(Debug, PartialEq, Eq)]
pub struct Faces {
    /// One.
    pub one: Arc<Body>,
    /// The other.
    pub other: Arc<Body>,
}

impl Faces {
    /// `None` if the two prove nothing.
    pub fn new(one: Arc<Body>, other: Arc<Body>, local: bool) -> Option<Self> {
        let same = one.descriptor().node == other.descriptor().node && one.slot(local) == other.slot(local);
        (same && one.digest != other.digest).then_some(Self { one, other })
    }

    /// Whose they are.
    pub fn node(&self) -> NodeId {
        self.one.descriptor().node
    }

    /// When both have ended.
    pub fn until(&self) -> Wall {
        self.one.descriptor().expires.max(self.other.descriptor().expires)
    }
}

/// A checked record of one kind or the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A descriptor.
    Body(Arc<Body>),
    /// A freshness.
    Fresh(Arc<Fresh>),
}

impl Record {
    /// Whose it is.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Body(body) => body.descriptor().node,
            Self::Fresh(fresh) => fresh.freshness().node,
        }
    }
}

/// First 8 bytes of an id as a big-endian number.
pub const fn hint_id(node: &NodeId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = node.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Signs a descriptor, after putting it in order.
pub fn sign_descriptor(key: &IdentityKey, net: &NetworkId, mut descriptor: Descriptor) -> Result<Arc<Body>, RecordError> {
    descriptor.tidy();
    let sig = key.sign(Label::Descriptor, &[&net.0, &descriptor.signed_bytes()]);
    let bytes = SignedDescriptor { descriptor, sig }.encode();
    // Through the parser, so that we never publish what others would refuse.
    verify_descriptor(net, &bytes)
}

/// Signs a freshness, after putting it in order.
pub fn sign_freshness(key: &IdentityKey, net: &NetworkId, mut freshness: Freshness) -> Result<Arc<Fresh>, RecordError> {
    freshness.tidy();
    let sig = key.sign(Label::Freshness, &[&net.0, &freshness.signed_bytes()]);
    let bytes = SignedFreshness { freshness, sig }.encode();
    verify_freshness(net, &bytes)
}

/// The part of a record that its signature, at its end, is over.
fn signed_part(bytes: &[u8]) -> Result<&[u8], RecordError> {
    bytes.len().checked_sub(64).and_then(|n| bytes.get(..n)).ok_or(RecordError::Format(DecodeError::Short))
}

/// Parses a descriptor and checks its signature.
pub fn verify_descriptor(net: &NetworkId, bytes: &[u8]) -> Result<Arc<Body>, RecordError> {
    let signed = SignedDescriptor::decode(bytes).map_err(RecordError::Format)?;
    let node = signed.descriptor.node;
    keys::verify(&node, Label::Descriptor, &[&net.0, signed_part(bytes)?], &signed.sig).map_err(|_| RecordError::Signature)?;
    Body::new(net, signed, bytes).map(Arc::new)
}

/// Parses a freshness and checks its own signature and those of its receipts.
pub fn verify_freshness(net: &NetworkId, bytes: &[u8]) -> Result<Arc<Fresh>, RecordError> {
    let signed = SignedFreshness::decode(bytes).map_err(RecordError::Format)?;
    let node = signed.freshness.node;
    keys::verify(&node, Label::Freshness, &[&net.0, signed_part(bytes)?], &signed.sig).map_err(|_| RecordError::Signature)?;
    for receipt in &signed.freshness.receipts {
        verify_receipt(net, receipt)?;
    }
    Ok(Arc::new(Fresh { signed }))
}

/// Checks a record of either kind.
pub fn verify_record(net: &NetworkId, bytes: &[u8]) -> Result<Record, RecordError> {
    match bytes.first() {
        Some(&KIND_FRESHNESS) => verify_freshness(net, bytes).map(Record::Fresh),
        _ => verify_descriptor(net, bytes).map(Record::Body),
    }
}

/// Checks a proof that a relay shows different faces.
pub fn verify_faces(net: &NetworkId, one: &[u8], other: &[u8], local: bool) -> Result<Faces, RecordError> {
    Faces::new(verify_descriptor(net, one)?, verify_descriptor(net, other)?, local).ok_or(RecordError::NoFaces)
}

/// Signs as a witness that the subject answered at the address (D9).
pub fn sign_receipt(key: &IdentityKey, net: &NetworkId, subject: NodeId, addr: SocketAddr, hour: u32) -> Receipt {
    let mut receipt = Receipt { witness: key.node_id(), subject, addr, hour, sig: [0; 64] };
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

    const NET: NetworkId = NetworkId([1; 32]);
    const OTHER: NetworkId = NetworkId([2; 32]);

    fn key(seed: u8) -> IdentityKey {
        IdentityKey::from_seed(&Secret::new([seed; 32]))
    }

    fn descriptor(node: NodeId, published: u64) -> Descriptor {
        Descriptor {
            node,
            published: Wall(published),
            expires: Wall(published + 86_400),
            addrs: vec!["9.9.9.9:9".parse().unwrap()],
            carries: true,
            onion_key: [1; 32],
            host_key: None,
            family: vec![],
            old_addrs: vec![],
            extensions: Extensions::default(),
        }
    }

    fn freshness(body: &Body) -> Freshness {
        Freshness {
            node: body.descriptor().node,
            descriptor: *body.digest(),
            published: Wall(1_000_000),
            expires: Wall(1_000_000 + 86_400),
            receipts: vec![],
            extensions: Extensions::default(),
        }
    }

    #[test]
    fn signatures_bind_network_content_and_receipts() {
        let (key, witness) = (key(3), key(4));
        let node = key.node_id();
        let body = sign_descriptor(&key, &NET, descriptor(node, 1_000_000)).unwrap();
        let bytes = body.encode();
        assert_eq!(verify_descriptor(&NET, &bytes).unwrap(), body);
        assert_eq!(verify_descriptor(&OTHER, &bytes), Err(RecordError::Signature));
        let mut wrong = bytes;
        wrong[40] ^= 1; // the time
        assert_eq!(verify_descriptor(&NET, &wrong), Err(RecordError::Signature));
        let mut f = freshness(&body);
        f.receipts = vec![sign_receipt(&witness, &NET, node, "9.9.9.9:9".parse().unwrap(), 11)];
        let fresh = sign_freshness(&key, &NET, f.clone()).unwrap();
        assert_eq!(verify_record(&NET, &fresh.encode()), Ok(Record::Fresh(Arc::clone(&fresh))));
        assert_eq!(verify_freshness(&OTHER, &fresh.encode()), Err(RecordError::Signature));
        assert!(Verified::new(Arc::clone(&body), fresh).is_some());
        // A receipt for another relay, or another hour, does not verify even under a good signature of the freshness.
        f.receipts[0].hour = 12;
        assert_eq!(sign_freshness(&key, &NET, f.clone()), Err(RecordError::Signature));
        f.receipts = vec![sign_receipt(&witness, &OTHER, node, "9.9.9.9:9".parse().unwrap(), 11)];
        assert_eq!(sign_freshness(&key, &NET, f), Err(RecordError::Signature));
    }

    #[test]
    fn a_freshness_holds_for_one_descriptor_of_one_relay() {
        let (a, b) = (key(3), key(4));
        let old = sign_descriptor(&a, &NET, descriptor(a.node_id(), 1_000_000)).unwrap();
        let new = sign_descriptor(&a, &NET, descriptor(a.node_id(), 1_000_600)).unwrap();
        let fresh = sign_freshness(&a, &NET, freshness(&new)).unwrap();
        assert!(Verified::new(Arc::clone(&new), Arc::clone(&fresh)).is_some());
        assert!(Verified::new(old, fresh).is_none(), "an old descriptor gets no new life");
        // Somebody else signs one for it.
        let foreign = sign_freshness(&b, &NET, Freshness { node: b.node_id(), ..freshness(&new) }).unwrap();
        assert!(Verified::new(new, foreign).is_none());
    }

    #[test]
    fn two_descriptors_of_one_slot_are_a_proof_and_nothing_else_is() {
        let (a, b) = (key(3), key(4));
        let made = |key: &IdentityKey, at: u64, onion: u8| {
            let d = Descriptor { onion_key: [onion; 32], ..descriptor(key.node_id(), at) };
            sign_descriptor(key, &NET, d).unwrap().encode()
        };
        let first = made(&a, 1_000_200, 1);
        let is = |other: &[u8]| verify_faces(&NET, &first, other, false).map(|f| f.node());
        assert_eq!(is(&made(&a, 1_000_200, 2)), Ok(a.node_id()));
        assert_eq!(is(&made(&a, 1_000_799, 1)), Ok(a.node_id()), "the same slot");
        assert_eq!(is(&made(&a, 1_000_800, 2)), Err(RecordError::NoFaces), "the next one");
        assert_eq!(is(&first), Err(RecordError::NoFaces));
        assert_eq!(is(&made(&b, 1_000_200, 2)), Err(RecordError::NoFaces), "somebody else's");
        let mut forged = made(&a, 1_000_200, 2);
        forged[60] ^= 1;
        assert!(matches!(is(&forged), Err(RecordError::Signature | RecordError::Format(_))));
        assert_eq!(verify_faces(&OTHER, &first, &made(&a, 1_000_200, 2), false), Err(RecordError::Signature));
    }
}
