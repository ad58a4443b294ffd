//! What is inside sealed requests and their responses (D12, D19). Two shapes only: one cell up and a share down, a share up and one
//! cell down.
//!
//! ```text
//! session type   kind u8 (1 fetch, 2 store) | class u8
//! fetch          version u8 = 1 | address [32] | want u32 (bit i: share i)        padded to one cell
//! fetched        status u8 (0 hit, 1 miss) | share blob                           padded to a share
//! store          version u8 = 1 | lease days u16 | ticket kind u8 | ticket length u16 | ticket | share blob
//! stored         status u8 | held u32 (status 2 alone)                            padded to one cell
//! ```
//!
//! Answers have no version: what they shall say one day is a new status.

use crate::base::Address;
use crate::base::limits::SHARES_TOTAL;
use crate::wire::cell::RELAY_DATA;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::share::Class;

/// Longest ticket: a proof of work is 43 bytes, and a small share must still fit its four cells.
pub const TICKET_MAX: usize = 48;
/// The only ticket of this version: none, zero effort.
pub const TICKET_NONE: u8 = 0;

/// What a session's requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One cell up, a share down.
    Fetch,
    /// A share up, one cell down.
    Store,
}

/// The type of a session, fixed when it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionType {
    /// What its requests do.
    pub kind: Kind,
    /// The size of its shares.
    pub class: Class,
}

impl SessionType {
    /// Two bytes.
    pub const fn to_bytes(self) -> [u8; 2] {
        let kind = match self.kind {
            Kind::Fetch => 1,
            Kind::Store => 2,
        };
        [kind, self.class.to_u8()]
    }

    /// From two bytes.
    pub fn from_bytes([kind, class]: [u8; 2]) -> Result<Self, DecodeError> {
        let kind = match kind {
            1 => Kind::Fetch,
            2 => Kind::Store,
            _ => return Err(DecodeError::Invalid),
        };
        Ok(Self { kind, class: Class::from_u8(class)? })
    }

    /// Bytes of one sealed request: whole cells.
    pub const fn request_len(self) -> usize {
        match self.kind {
            Kind::Fetch => RELAY_DATA,
            Kind::Store => self.class.cells_per_share().saturating_mul(RELAY_DATA),
        }
    }

    /// Bytes of one sealed response: whole cells.
    pub const fn response_len(self) -> usize {
        match self.kind {
            Kind::Fetch => self.class.cells_per_share().saturating_mul(RELAY_DATA),
            Kind::Store => RELAY_DATA,
        }
    }
}

/// Asks for any wanted share of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The chunk's stored copy.
    pub address: Address,
    /// Bit `i` is set when share `i` is welcome.
    pub want: u32,
}

impl Fetch {
    /// The request's bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(37);
        w.u8(1).raw(&self.address.0).u32(self.want);
        w.into_bytes()
    }

    /// Reads a request.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(DecodeError::Newer);
        }
        let fetch = Self { address: Address(r.array()?), want: r.u32()? };
        r.finish()?;
        Ok(fetch)
    }
}

/// Asks to keep a share. The host computes the address from the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    /// Days from today.
    pub lease_days: u16,
    /// What pays for it: its type and content.
    pub ticket: (u8, &'a [u8]),
    /// A share blob (`wire::share`).
    pub blob: &'a [u8],
}

impl<'a> Store<'a> {
    /// The request's bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.blob.len().saturating_add(self.ticket.1.len()).saturating_add(6));
        w.u8(1).u16(self.lease_days).u8(self.ticket.0).bytes16(self.ticket.1).raw(self.blob);
        w.into_bytes()
    }

    /// Reads a request. The blob is checked by whoever verifies it.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(DecodeError::Newer);
        }
        Ok(Self { lease_days: r.u16()?, ticket: (r.u8()?, r.bytes16(TICKET_MAX)?), blob: r.rest() })
    }
}

/// What a host says to a fetch: a blob, or nothing.
pub fn fetched(blob: Option<&[u8]>) -> Vec<u8> {
    let mut w = Writer::with_capacity(blob.map_or(0, <[u8]>::len).saturating_add(1));
    w.u8(u8::from(blob.is_none())).raw(blob.unwrap_or_default());
    w.into_bytes()
}

/// Reads what a host said to a fetch.
pub fn read_fetched(bytes: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut r = Reader::new(bytes);
    match r.u8()? {
        0 => Ok(Some(r.rest())),
        1 => {
            r.finish()?;
            Ok(None)
        }
        _ => Err(DecodeError::Invalid),
    }
}

/// What a host says to a store: one byte, and for [`Stored::HoldsEnough`] a `u32` more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is on disk.
    Stored,
    /// It was there already.
    AlreadyHeld,
    /// Enough other shares of this chunk are here, for as long now as this one would have been.
    HoldsEnough {
        /// Which, by index: a bit for each.
        held: u32,
    },
    /// No room.
    Full,
    /// The chunk's place is too far from this host's, or another share of it is kept there.
    TooFar,
    /// The share does not verify, or the request is malformed.
    Invalid,
    /// The ticket is of a kind, or below an effort, that the host wants.
    TicketWanted,
}

impl Stored {
    /// The response's bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::with_capacity(5);
        match self {
            Self::Stored => w.u8(0),
            Self::AlreadyHeld => w.u8(1),
            Self::HoldsEnough { held } => w.u8(2).u32(held),
            Self::Full => w.u8(3),
            Self::TooFar => w.u8(4),
            Self::Invalid => w.u8(5),
            Self::TicketWanted => w.u8(6),
        };
        w.into_bytes()
    }

    /// Reads a response.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let stored = match r.u8()? {
            0 => Self::Stored,
            1 => Self::AlreadyHeld,
            // One encoding for each value (T38): there are no shares beyond the last.
            2 => Self::HoldsEnough { held: Some(r.u32()?).filter(|held| held >> SHARES_TOTAL == 0).ok_or(DecodeError::Invalid)? },
            3 => Self::Full,
            4 => Self::TooFar,
            5 => Self::Invalid,
            6 => Self::TicketWanted,
            _ => return Err(DecodeError::Invalid),
        };
        r.finish()?;
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_back() {
        let fetch = Fetch { address: Address([4; 32]), want: 0x00ff_ffff };
        assert_eq!(Fetch::from_bytes(&fetch.to_bytes()).unwrap(), fetch);
        let store = Store { lease_days: 90, ticket: (3, &[1, 2]), blob: &[5; 100] };
        assert_eq!(Store::from_bytes(&store.to_bytes()).unwrap(), store);
        assert_eq!(read_fetched(&fetched(Some(&[1, 2]))).unwrap(), Some(&[1u8, 2][..]));
        assert_eq!(read_fetched(&fetched(None)).unwrap(), None);
        for said in (0..=6).map(|code| if code == 2 { vec![2, 0, 0x80, 0, 5] } else { vec![code] }) {
            assert_eq!(Stored::from_bytes(&said).unwrap().to_bytes(), said);
        }
        assert_eq!(Stored::from_bytes(&[2, 0, 0x80, 0, 5]), Ok(Stored::HoldsEnough { held: 0x80_0005 }));
        assert!(
            [&[7][..], &[2], &[2, 1, 0, 0, 0], &[0, 0], &[2, 0, 0, 0, 0, 0]].iter().all(|bad| Stored::from_bytes(bad).is_err())
        );
        assert!(read_fetched(&[1, 0]).is_err());
    }

    #[test]
    fn the_largest_store_fits_its_cells() {
        for class in [Class::Small, Class::Large] {
            let t = SessionType { kind: Kind::Store, class };
            // 2 bytes of inner length and 16 of tag, as `crypto::session` adds them.
            assert!(6 + TICKET_MAX + class.blob_len() + 18 <= t.request_len(), "{class:?}");
            let t = SessionType { kind: Kind::Fetch, class };
            assert!(1 + class.blob_len() + 18 + 32 <= t.response_len(), "{class:?}");
        }
    }
}
