//! The first cell of either end of a link (D2, D19).
//!
//! ```text
//! network id [32] | lowest version u16 | highest version u16 | features u64 | role u8
//! role 1 (relay): clock u64 | identity [32] | Ed25519 signature over the TLS exporter [64]
//! extensions | zeros to the end of the body
//! ```
//! A client sends role 0 and nothing about itself: no identity, no clock.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Wall;
use crate::wire::cell::BODY;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;

/// The lowest protocol version this program speaks.
pub const VERSION_MIN: u16 = 1;
/// The highest protocol version this program speaks.
pub const VERSION_MAX: u16 = 1;

/// What a relay proves of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Its clock, for the comparison of D20.
    pub clock: Wall,
    /// Its identity.
    pub node: NodeId,
    /// Over the network id, the exporter of this link and the side; checked by `crypto::keys`.
    pub signature: [u8; 64],
}

/// The first cell's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which network the sender is part of.
    pub network: NetworkId,
    /// Lowest and highest version it speaks.
    pub versions: (u16, u16),
    /// What it can do beyond that; unknown bits are ignored.
    pub features: u64,
    /// Present for relays only.
    pub proof: Option<Proof>,
    /// What later versions add.
    pub extensions: Extensions,
}

impl Hello {
    /// This program's hello.
    pub fn new(network: NetworkId, proof: Option<Proof>) -> Self {
        Self { network, versions: (VERSION_MIN, VERSION_MAX), features: 0, proof, extensions: Extensions::default() }
    }

    /// The highest version that both ends speak.
    pub fn common_version(&self) -> Option<u16> {
        let (low, high) = self.versions;
        let best = high.min(VERSION_MAX);
        (best >= low.max(VERSION_MIN)).then_some(best)
    }

    /// Reads a body. What is behind the extensions is not looked at: a newer version may put there what it likes.
    pub fn read(body: &[u8; BODY]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let network = NetworkId(r.array()?);
        let versions = (r.u16()?, r.u16()?);
        let features = r.u64()?;
        let proof = match r.u8()? {
            0 => None,
            1 => Some(Proof { clock: Wall(r.u64()?), node: NodeId(r.array()?), signature: r.array()? }),
            _ => return Err(DecodeError::Invalid),
        };
        Ok(Self { network, versions, features, proof, extensions: Extensions::read(&mut r, &[])? })
    }

    /// The body, zero behind the extensions.
    pub fn write(&self) -> Box<[u8; BODY]> {
        let mut w = Writer::with_capacity(BODY);
        w.raw(&self.network.0).u16(self.versions.0).u16(self.versions.1).u64(self.features);
        match &self.proof {
            None => {
                w.u8(0);
            }
            Some(p) => {
                w.u8(1).u64(p.clock.0).raw(&p.node.0).raw(&p.signature);
            }
        }
        self.extensions.write(&mut w);
        let mut body = Box::new([0; BODY]);
        debug_assert!(w.as_slice().len() <= BODY);
        for (to, from) in body.iter_mut().zip(w.as_slice()) {
            *to = *from;
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Hello {
        Hello::new(NetworkId([7; 32]), Some(Proof { clock: Wall(5), node: NodeId([3; 32]), signature: [9; 64] }))
    }

    #[test]
    fn both_roles_come_back() {
        for hello in [relay(), Hello::new(NetworkId([7; 32]), None)] {
            assert_eq!(Hello::read(&hello.write()).unwrap(), hello);
        }
    }

    #[test]
    fn newer_versions_with_unknown_extensions_are_served_and_disjoint_ones_refused() {
        let mut newer = relay();
        newer.versions = (1, 9);
        newer.features = u64::MAX;
        newer.extensions.set(77, vec![1, 2, 3]);
        let read = Hello::read(&newer.write()).unwrap();
        assert_eq!(read.common_version(), Some(1));
        newer.versions = (2, 9);
        assert_eq!(Hello::read(&newer.write()).unwrap().common_version(), None);
        newer.extensions.set(Extensions::CRITICAL | 1, vec![]);
        assert_eq!(Hello::read(&newer.write()), Err(DecodeError::Newer));
    }
}
