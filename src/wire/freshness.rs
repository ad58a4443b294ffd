//! What a relay says about itself every few hours: that it is there, and who vouches for it (D8, D9, D19).
//!
//! ```text
//! freshness   kind u8 = 3 | version u8 = 1 | node 32 | hash of the descriptor 32 | published u64 | expires u64
//!             | receipts: count u8 (0..5), each witness 32, address, hour u32, signature 64; increasing by witness and address
//!             | extensions | signature 64
//! ```
//!
//! It holds for one descriptor and no other, so nobody gives an old descriptor a new life. Relays tell each other; clients rely on
//! what their directories list, and never read it.

use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record::Receipt;
use crate::wire::record::count;
use crate::wire::record::list;
use crate::wire::record::read_addr;
use crate::wire::record::write_addr;

/// Kind byte of a freshness.
pub const KIND_FRESHNESS: u8 = 3;
/// Version of the format.
pub const VERSION: u8 = 1;

/// A relay is there, described by this descriptor, vouched for by these witnesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Which relay.
    pub node: NodeId,
    /// The hash of the descriptor that it belongs to.
    pub descriptor: [u8; 32],
    /// When it was made; the newest counts.
    pub published: Wall,
    /// When it stops counting: at most [`limits::FRESHNESS_LIFE_SECS`] after `published`.
    pub expires: Wall,
    /// Receipts, sorted by witness and address; their `subject` is `node`.
    pub receipts: Vec<Receipt>,
    /// Room for what comes later.
    pub extensions: Extensions,
}

impl Freshness {
    /// What the relay signs (with the network id in front): everything but the signature. Sort first: [`Freshness::tidy`].
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(1024);
        w.u8(KIND_FRESHNESS).u8(VERSION).raw(&self.node.0).raw(&self.descriptor).u64(self.published.0).u64(self.expires.0);
        w.u8(count(self.receipts.len()));
        for receipt in &self.receipts {
            w.raw(&receipt.witness.0);
            write_addr(&mut w, &receipt.addr);
            w.u32(receipt.hour).raw(&receipt.sig);
        }
        self.extensions.write(&mut w);
        w.into_bytes()
    }

    /// Puts receipts into their one order and drops what the format does not allow: foreign ones, and too many.
    pub fn tidy(&mut self) {
        let node = self.node;
        self.receipts.retain(|r| r.subject == node);
        self.receipts.sort_by_key(|r| (r.witness, r.addr));
        self.receipts.dedup_by_key(|r| (r.witness, r.addr));
        self.receipts.truncate(limits::RECEIPTS_MAX);
    }
}

/// A freshness with its signature, parsed and *not* checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedFreshness {
    /// What was said.
    pub freshness: Freshness,
    /// The signature that came with it.
    pub sig: [u8; 64],
}

impl SignedFreshness {
    /// The whole record; exactly the bytes that were parsed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.freshness.signed_bytes();
        bytes.extend_from_slice(&self.sig);
        bytes
    }

    /// Parses a freshness and its signature; checks the form, not the signatures.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::FRESHNESS_MAX {
            return Err(DecodeError::TooLarge);
        }
        let mut r = Reader::new(bytes);
        r.head(KIND_FRESHNESS, VERSION)?;
        let (node, descriptor) = (NodeId(r.array()?), r.array()?);
        let (published, expires) = (Wall(r.u64()?), Wall(r.u64()?));
        if expires <= published || expires.0.saturating_sub(published.0) > limits::FRESHNESS_LIFE_SECS {
            return Err(DecodeError::Invalid);
        }
        let receipts = list(&mut r, limits::RECEIPTS_MAX, |r| {
            Ok(Receipt { witness: NodeId(r.array()?), subject: node, addr: read_addr(r)?, hour: r.u32()?, sig: r.array()? })
        })?;
        if !receipts.is_sorted_by(|a, b| (a.witness, a.addr) < (b.witness, b.addr)) {
            return Err(DecodeError::Invalid);
        }
        let extensions = Extensions::read(&mut r, &[])?;
        let sig = r.array()?;
        r.finish()?;
        Ok(Self { freshness: Freshness { node, descriptor, published, expires, receipts, extensions }, sig })
    }
}

/// Whose freshness this is, of which descriptor, and when it was made, without reading the rest.
pub fn peek(bytes: &[u8]) -> Option<(NodeId, [u8; 32], Wall)> {
    let mut r = Reader::new(bytes);
    r.head(KIND_FRESHNESS, VERSION).ok()?;
    Some((NodeId(r.array().ok()?), r.array().ok()?, Wall(r.u64().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    fn sample() -> SignedFreshness {
        let (a, b): (SocketAddr, SocketAddr) = ("9.8.7.6:443".parse().unwrap(), "[2a00:1::1]:443".parse().unwrap());
        let receipt =
            |w: u8, addr| Receipt { witness: NodeId([w; 32]), subject: NodeId([7; 32]), addr, hour: 456_000, sig: [w; 64] };
        let mut freshness = Freshness {
            node: NodeId([7; 32]),
            descriptor: [8; 32],
            published: Wall(1_000),
            expires: Wall(1_000 + 3600),
            receipts: vec![receipt(4, b), receipt(2, a), receipt(4, a), receipt(2, a)],
            extensions: Extensions::default(),
        };
        freshness.tidy();
        freshness.extensions.set(3, vec![1, 2, 3]);
        SignedFreshness { freshness, sig: [6; 64] }
    }

    #[test]
    fn it_round_trips_and_no_other_bytes_say_the_same() {
        let signed = sample();
        assert_eq!(signed.freshness.receipts.len(), 3);
        let bytes = signed.encode();
        assert_eq!(SignedFreshness::decode(&bytes).unwrap(), signed);
        for i in 0..bytes.len() {
            assert!(SignedFreshness::decode(&bytes[..i]).is_err(), "{i}");
            let mut other = bytes.clone();
            other[i] ^= 0x41;
            if let Ok(parsed) = SignedFreshness::decode(&other) {
                assert_ne!(parsed, signed, "{i}");
                assert_eq!(parsed.encode(), other, "{i}: a second encoding");
            }
        }
        assert_eq!(SignedFreshness::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    }

    #[test]
    fn long_lives_and_wrong_order_are_refused() {
        let mut long = sample();
        long.freshness.expires = long.freshness.published.plus(limits::FRESHNESS_LIFE_SECS + 1);
        assert_eq!(SignedFreshness::decode(&long.encode()), Err(DecodeError::Invalid));
        let mut swapped = sample();
        swapped.freshness.receipts.swap(0, 1);
        assert_eq!(SignedFreshness::decode(&swapped.encode()), Err(DecodeError::Invalid));
        let mut many = sample();
        many.freshness.receipts = vec![many.freshness.receipts[0].clone(); limits::RECEIPTS_MAX + 1];
        assert_eq!(SignedFreshness::decode(&many.encode()), Err(DecodeError::TooLarge));
    }
}
