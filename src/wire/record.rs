//! Lasting signed records of the overlay plane: relay descriptors and dial-back receipts (D8, D9, D19).
//!
//! ```text
//! descriptor  kind u8 = 1 | version u8 = 2 | node 32 | published u64 | expires u64 | flags u8
//!             | addresses: count u8 (1..2), each address | onion key 32
//!             | host key (if flag 2): id u32, x25519 32, until u64, ML-KEM-768 1184
//!             | family: count u8 (0..16), each 32, increasing | old addresses: count u8 (0..4), each address, until u64
//!             | extensions | signature 64
//! receipt     kind u8 = 2 | version u8 = 2 | witness 32 | subject 32 | address | hour u32 | signature 64
//! address     family u8 (4 or 6) | ip 4 or 16 | port u16
//! flags       1 carries circuits, 2 hosts shares; other bits are zero
//! ```
//!
//! A descriptor is what changes in days: clients read nothing else. That its relay is there, and who vouches for it, changes in
//! hours and is said apart ([`crate::wire::freshness`]). The network id is in every signature and not in the bytes. What is parsed
//! here is *unverified*: `proto::overlay::record` checks it.

use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use core::fmt;
use core::net::Ipv4Addr;
use core::net::Ipv6Addr;
use core::net::SocketAddr;

/// Kind byte of a descriptor.
pub const KIND_DESCRIPTOR: u8 = 1;
/// Kind byte of a receipt.
pub const KIND_RECEIPT: u8 = 2;
/// Version of a descriptor; the first held what a freshness holds now.
pub const VERSION_DESCRIPTOR: u8 = 2;
/// Version of a receipt.
pub const VERSION_RECEIPT: u8 = 2;
/// Bytes of an ML-KEM-768 public key.
pub const MLKEM_PUBLIC: usize = 1184;

const FLAG_CARRIES: u8 = 1;
const FLAG_HOSTS: u8 = 2;

/// The hybrid key that requests to a host are sealed to (D12).
#[derive(Clone, PartialEq, Eq)]
pub struct HostKey {
    /// Which key: requests name it.
    pub id: u32,
    /// X25519 public key.
    pub x25519: [u8; 32],
    /// When the host stops handing it out; it answers to it for four days more.
    pub until: Wall,
    /// ML-KEM-768 public key.
    pub mlkem: Box<[u8; MLKEM_PUBLIC]>,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.id)
    }
}

/// A witness says: in this hour I dialled this address and the subject answered (D9).
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Who dialled.
    pub witness: NodeId,
    /// Who answered and proved its identity.
    pub subject: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// When, in hours since 1970.
    pub hour: u32,
    /// The witness's signature over [`Receipt::signed_bytes`].
    pub sig: [u8; 64],
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({:?} for {:?}, hour {})", self.witness, self.subject, self.hour)
    }
}

impl Receipt {
    /// What the witness signs (with the network id in front): everything but the signature.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(96);
        w.u8(KIND_RECEIPT).u8(VERSION_RECEIPT).raw(&self.witness.0).raw(&self.subject.0);
        write_addr(&mut w, &self.addr);
        w.u32(self.hour);
        w.into_bytes()
    }

    /// The whole receipt.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.signed_bytes();
        bytes.extend_from_slice(&self.sig);
        bytes
    }

    /// Parses a receipt; the signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.head(KIND_RECEIPT, VERSION_RECEIPT)?;
        let receipt = Self {
            witness: NodeId(r.array()?),
            subject: NodeId(r.array()?),
            addr: read_addr(&mut r)?,
            hour: r.u32()?,
            sig: r.array()?,
        };
        r.finish()?;
        Ok(receipt)
    }
}

/// What a relay says about itself for days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its identity.
    pub node: NodeId,
    /// When it was made. The newest counts; a relay makes at most one in each slot of time ([`limits::DESCRIPTOR_SLOT_SECS`]).
    pub published: Wall,
    /// When it stops counting: at most [`limits::DESCRIPTOR_LIFE_SECS`] after `published`.
    pub expires: Wall,
    /// Where it answers: one IPv4, one IPv6, or both, IPv4 first. Positions come from the first (D9).
    pub addrs: Vec<SocketAddr>,
    /// Whether it carries circuits.
    pub carries: bool,
    /// X25519 key of the circuit handshake.
    pub onion_key: [u8; 32],
    /// Present if it hosts shares.
    pub host_key: Option<HostKey>,
    /// Relays run by the same people, sorted; counts when they name each other.
    pub family: Vec<NodeId>,
    /// Former first addresses, each with the time until which their positions are served.
    pub old_addrs: Vec<(SocketAddr, Wall)>,
    /// Room for what comes later.
    pub extensions: Extensions,
}

impl Descriptor {
    /// The address that gives the relay its position. Parsed descriptors always have one.
    pub fn first_addr(&self) -> Option<SocketAddr> {
        self.addrs.first().copied()
    }

    /// What the relay signs (with the network id in front): everything but the signature. Sort lists first: [`Descriptor::tidy`].
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(2048);
        w.u8(KIND_DESCRIPTOR).u8(VERSION_DESCRIPTOR).raw(&self.node.0).u64(self.published.0).u64(self.expires.0);
        let hosts = if self.host_key.is_some() { FLAG_HOSTS } else { 0 };
        w.u8(hosts | if self.carries { FLAG_CARRIES } else { 0 });
        w.u8(count(self.addrs.len()));
        for addr in &self.addrs {
            write_addr(&mut w, addr);
        }
        w.raw(&self.onion_key);
        if let Some(key) = &self.host_key {
            w.u32(key.id).raw(&key.x25519).u64(key.until.0).raw(&key.mlkem[..]);
        }
        w.u8(count(self.family.len()));
        for node in &self.family {
            w.raw(&node.0);
        }
        w.u8(count(self.old_addrs.len()));
        for (addr, until) in &self.old_addrs {
            write_addr(&mut w, addr);
            w.u64(until.0);
        }
        self.extensions.write(&mut w);
        w.into_bytes()
    }

    /// Puts lists into their one order and drops what the format does not allow: too many entries, family members twice.
    pub fn tidy(&mut self) {
        self.addrs.sort_by_key(SocketAddr::is_ipv6);
        self.addrs.dedup_by_key(|a| a.is_ipv6());
        self.family.sort_unstable();
        self.family.dedup();
        self.family.truncate(limits::FAMILY_MAX);
        self.old_addrs.truncate(limits::OLD_ADDRS_MAX);
    }
}

/// A descriptor with its signature, parsed and *not* checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDescriptor {
    /// What was said.
    pub descriptor: Descriptor,
    /// The signature that came with it.
    pub sig: [u8; 64],
}

impl SignedDescriptor {
    /// The whole record. There is one encoding per value, so this gives back exactly the bytes that were parsed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.descriptor.signed_bytes();
        bytes.extend_from_slice(&self.sig);
        bytes
    }

    /// Parses a descriptor and its signature; checks the form, not the signatures.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::DESCRIPTOR_MAX {
            return Err(DecodeError::TooLarge);
        }
        let mut r = Reader::new(bytes);
        r.head(KIND_DESCRIPTOR, VERSION_DESCRIPTOR)?;
        let node = NodeId(r.array()?);
        let published = Wall(r.u64()?);
        let expires = Wall(r.u64()?);
        if expires <= published || expires.0.saturating_sub(published.0) > limits::DESCRIPTOR_LIFE_SECS {
            return Err(DecodeError::Invalid);
        }
        let flags = r.u8()?;
        if flags & !(FLAG_CARRIES | FLAG_HOSTS) != 0 {
            return Err(DecodeError::Invalid);
        }
        let addrs = list(&mut r, 2, read_addr)?;
        let ordered = match addrs.as_slice() {
            [_] => true,
            [a, b] => a.is_ipv4() && b.is_ipv6(),
            _ => false,
        };
        if !ordered {
            return Err(DecodeError::Invalid);
        }
        let onion_key = r.array()?;
        let host_key = if flags & FLAG_HOSTS != 0 { Some(read_host_key(&mut r)?) } else { None };
        let family = list(&mut r, limits::FAMILY_MAX, |r| Ok(NodeId(r.array()?)))?;
        if !family.is_sorted_by(|a, b| a < b) {
            return Err(DecodeError::Invalid);
        }
        let old_addrs = list(&mut r, limits::OLD_ADDRS_MAX, |r| Ok((read_addr(r)?, Wall(r.u64()?))))?;
        let extensions = Extensions::read(&mut r, &[])?;
        let sig = r.array()?;
        r.finish()?;
        let carries = flags & FLAG_CARRIES != 0;
        let descriptor =
            Descriptor { node, published, expires, addrs, carries, onion_key, host_key, family, old_addrs, extensions };
        Ok(Self { descriptor, sig })
    }
}

/// Whose descriptor this is, without reading the rest.
pub fn peek(bytes: &[u8]) -> Option<NodeId> {
    let mut r = Reader::new(bytes);
    r.head(KIND_DESCRIPTOR, VERSION_DESCRIPTOR).ok()?;
    Some(NodeId(r.array().ok()?))
}

pub(super) fn count(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

pub(super) fn list<'a, T>(
    r: &mut Reader<'a>,
    max: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let n = usize::from(r.u8()?);
    if n > max {
        return Err(DecodeError::TooLarge);
    }
    let mut items = Vec::with_capacity(n);
    for _ in 0..n {
        items.push(item(r)?);
    }
    Ok(items)
}

fn read_host_key(r: &mut Reader<'_>) -> Result<HostKey, DecodeError> {
    Ok(HostKey { id: r.u32()?, x25519: r.array()?, until: Wall(r.u64()?), mlkem: Box::new(r.array()?) })
}

/// Reads an address as records and messages carry it. An IPv4 address in IPv6 clothes, and port zero, are refused.
pub fn read_addr(r: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let addr = match r.u8()? {
        4 => SocketAddr::from((Ipv4Addr::from(r.array::<4>()?), r.u16()?)),
        6 => {
            let ip = Ipv6Addr::from(r.array::<16>()?);
            if ip.to_ipv4_mapped().is_some() {
                return Err(DecodeError::Invalid);
            }
            SocketAddr::from((ip, r.u16()?))
        }
        _ => return Err(DecodeError::Invalid),
    };
    if addr.port() == 0 { Err(DecodeError::Invalid) } else { Ok(addr) }
}

/// Writes an address; IPv4 in IPv6 clothes becomes plain IPv4.
pub fn write_addr(w: &mut Writer, addr: &SocketAddr) {
    match addr.ip().to_canonical() {
        core::net::IpAddr::V4(ip) => w.u8(4).raw(&ip.octets()),
        core::net::IpAddr::V6(ip) => w.u8(6).raw(&ip.octets()),
    };
    w.u16(addr.port());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SignedDescriptor {
        let addrs: Vec<SocketAddr> = vec!["9.8.7.6:443".parse().unwrap(), "[2a00:1::1]:443".parse().unwrap()];
        let mut descriptor = Descriptor {
            node: NodeId([7; 32]),
            published: Wall(1_000),
            expires: Wall(1_000 + 3600),
            addrs,
            carries: true,
            onion_key: [1; 32],
            host_key: Some(HostKey { id: 5, x25519: [2; 32], until: Wall(9), mlkem: Box::new([3; MLKEM_PUBLIC]) }),
            family: vec![NodeId([9; 32]), NodeId([8; 32]), NodeId([9; 32])],
            old_addrs: vec![("1.2.3.4:5".parse().unwrap(), Wall(77))],
            extensions: Extensions::default(),
        };
        descriptor.tidy();
        descriptor.extensions.set(3, vec![1, 2, 3]);
        SignedDescriptor { descriptor, sig: [6; 64] }
    }

    #[test]
    fn descriptor_round_trips_to_the_same_bytes() {
        let signed = sample();
        assert_eq!(signed.descriptor.family.len(), 2);
        let bytes = signed.encode();
        let parsed = SignedDescriptor::decode(&bytes).unwrap();
        assert_eq!(parsed, signed);
        assert_eq!(parsed.encode(), bytes);
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_refused() {
        let bytes = sample().encode();
        for n in 0..bytes.len() {
            assert!(SignedDescriptor::decode(&bytes[..n]).is_err(), "{n}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(SignedDescriptor::decode(&long), Err(DecodeError::Trailing));
        let mut newer = bytes.clone();
        newer[1] = 3;
        assert_eq!(SignedDescriptor::decode(&newer), Err(DecodeError::Newer));
    }

    #[test]
    fn a_changed_byte_is_refused_or_changes_the_value() {
        let signed = sample();
        let bytes = signed.encode();
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 0x41;
            if let Ok(parsed) = SignedDescriptor::decode(&other) {
                assert_ne!(parsed, signed, "{i}");
                assert_eq!(parsed.encode(), other, "{i}: a second encoding");
            }
        }
    }

    #[test]
    fn long_lives_and_wrong_order_are_refused() {
        let mut long = sample();
        long.descriptor.expires = long.descriptor.published.plus(limits::DESCRIPTOR_LIFE_SECS + 1);
        assert_eq!(SignedDescriptor::decode(&long.encode()), Err(DecodeError::Invalid));
        let mut swapped = sample();
        swapped.descriptor.addrs.swap(0, 1);
        assert_eq!(SignedDescriptor::decode(&swapped.encode()), Err(DecodeError::Invalid));
        let mut none = sample();
        none.descriptor.addrs.clear();
        assert_eq!(SignedDescriptor::decode(&none.encode()), Err(DecodeError::Invalid));
    }

    #[test]
    fn receipt_round_trips() {
        let addr = "9.8.7.6:443".parse().unwrap();
        let receipt = Receipt { witness: NodeId([4; 32]), subject: NodeId([7; 32]), addr, hour: 456_000, sig: [4; 64] };
        let bytes = receipt.encode();
        assert_eq!(Receipt::decode(&bytes).unwrap(), receipt);
        for n in 0..bytes.len() {
            assert!(Receipt::decode(&bytes[..n]).is_err());
        }
    }
}
