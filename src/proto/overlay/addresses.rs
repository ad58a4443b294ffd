//! Where a relay is and was, and its receipts, kept over restarts: else a restart would take a host's standing for a day, and an
//! update of all relays that of every host at once (D9).
//!
//! ```text
//! addresses   kind u8 = 35 | version u8 = 1 | as set: count u8 (0..1), address | current: count u8 (0..1), address
//!             | former: count u8 (0..4), each address, until u64 | receipts: count u8 (0..5), each group 5, u16-prefixed receipt
//!             | extensions
//! ```
//!
//! No more than a help: what cannot be read is gathered anew.

use crate::base::Wall;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::overlay::io::Profile;
use crate::proto::overlay::receipts::Given;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record::Receipt;
use crate::wire::record::read_addr;
use crate::wire::record::write_addr;
use core::net::SocketAddr;

/// Name of this saved state.
pub const SAVED: &str = "addresses";
const KIND: u8 = 35;
const VERSION: u8 = 1;
/// Longest receipt.
const RECEIPT_MAX: usize = 256;

/// What is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// As its operator set it.
    pub(super) set: Option<SocketAddr>,
    /// Where it is: another one, once witnesses found it there.
    pub(super) current: Option<SocketAddr>,
    pub(super) former: Vec<(SocketAddr, Wall)>,
    pub(super) receipts: Vec<Given>,
}

impl Addresses {
    /// The lasting form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        w.u8(KIND).u8(VERSION);
        for place in [&self.set, &self.current] {
            w.u8(u8::from(place.is_some()));
            place.iter().for_each(|addr| write_addr(&mut w, addr));
        }
        let former = self.former.get(..limits::OLD_ADDRS_MAX).unwrap_or(&self.former);
        w.u8(short(former.len()));
        for (addr, until) in former {
            write_addr(&mut w, addr);
            w.u64(until.0);
        }
        let receipts = self.receipts.get(..limits::RECEIPTS_MAX).unwrap_or(&self.receipts);
        w.u8(short(receipts.len()));
        for (group, receipt) in receipts {
            w.raw(&group.0).bytes16(&receipt.encode());
        }
        Extensions::default().write(&mut w);
        w.into_bytes()
    }

    /// Reads the lasting form. Signatures are not looked at.
    ///
    /// # Errors
    /// Damaged, or written by a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.head(KIND, VERSION)?;
        let count = |r: &mut Reader<'_>, max: usize| {
            let n = usize::from(r.u8()?);
            if n > max { Err(DecodeError::TooLarge) } else { Ok(n) }
        };
        let mut kept = Self::default();
        for place in [&mut kept.set, &mut kept.current] {
            for _ in 0..count(&mut r, 1)? {
                *place = Some(read_addr(&mut r)?);
            }
        }
        for _ in 0..count(&mut r, limits::OLD_ADDRS_MAX)? {
            kept.former.push((read_addr(&mut r)?, Wall(r.u64()?)));
        }
        for _ in 0..count(&mut r, limits::RECEIPTS_MAX)? {
            kept.receipts.push((Group(r.array()?), Receipt::decode(r.bytes16(RECEIPT_MAX)?)?));
        }
        Extensions::read(&mut r, &[])?;
        r.finish()?;
        Ok(kept)
    }
}

impl Profile {
    /// Takes up where an earlier run was. If its operator set the same address then as now, and witnesses found it elsewhere, it is
    /// there still. Any other address than today's is a former one from now on. Gives the receipts that hold for today's.
    pub(super) fn return_to(&mut self, kept: Addresses, wall: Wall) -> Vec<Given> {
        let set = self.addrs.first().copied();
        // No former place is served for longer than from now on, whatever a damaged file says.
        let latest = wall.plus(limits::OLD_ADDR_SECS);
        self.old_addrs.extend(kept.former.into_iter().map(|(addr, until)| (addr, until.min(latest))));
        if let (Some(first), Some(there), true) = (self.addrs.first_mut(), kept.current, kept.set == set) {
            *first = there;
        }
        let first = self.addrs.first().copied();
        if let Some(before) = kept.current.filter(|addr| Some(*addr) != first) {
            self.old_addrs.push((before, latest));
        }
        self.settle_old(wall);
        let node = self.node;
        kept.receipts.into_iter().filter(|(_, r)| Some(r.addr) == first && r.subject == node).collect()
    }

    /// Of former addresses, those whose time is not over: each once, the newest first, and no more than a descriptor takes.
    pub(super) fn settle_old(&mut self, now: Wall) {
        let own = self.addrs.clone();
        self.old_addrs.retain(|(addr, until)| *until > now && !own.contains(addr));
        self.old_addrs.sort_by_key(|(addr, until)| (*addr, core::cmp::Reverse(*until)));
        self.old_addrs.dedup_by_key(|(addr, _)| *addr);
        self.old_addrs.sort_by_key(|(addr, until)| (core::cmp::Reverse(*until), *addr));
        self.old_addrs.truncate(limits::OLD_ADDRS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NodeId;

    #[test]
    fn they_come_back_and_damage_is_seen() {
        let addr: SocketAddr = "9.8.7.6:443".parse().unwrap();
        let receipt = Receipt { witness: NodeId([1; 32]), subject: NodeId([2; 32]), addr, hour: 9, sig: [3; 64] };
        let kept = Addresses {
            set: Some("9.8.7.5:443".parse().unwrap()),
            current: Some(addr),
            former: vec![("1.2.3.4:443".parse().unwrap(), Wall(77))],
            receipts: vec![(Group([4, 1, 2, 0, 0]), receipt)],
        };
        let bytes = kept.encode();
        assert_eq!(Addresses::decode(&bytes), Ok(kept));
        assert_eq!(Addresses::decode(&Addresses::default().encode()), Ok(Addresses::default()));
        for len in 0..bytes.len() {
            assert!(Addresses::decode(&bytes[..len]).is_err());
        }
        assert_eq!(Addresses::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
    }
}
