//! A share as it travels and lies on disk: verifiable alone (D11).
//!
//! ```text
//! version u8 = 1 | class u8 | index u8 (0..24) | salt [16] | path 5 x [32], leaf's sibling first | data (8 or 32 KiB)
//! ```

use crate::base::limits;
use crate::wire::cell::RELAY_DATA;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;

/// Bytes of a share blob in front of its data.
pub const SHARE_OVERHEAD: usize = 3 + 16 + 32 * limits::SHARE_PATH;
/// Bytes that sealing adds to a chunk.
pub const SEAL_TAG: usize = 16;
const VERSION: u8 = 1;

/// The two sizes of shares: for documents up to 4 MiB, and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// 8 KiB: four cells.
    Small,
    /// 32 KiB: sixteen cells.
    Large,
}

impl Class {
    /// The wire form.
    pub const fn to_u8(self) -> u8 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
        }
    }

    /// From the wire form.
    pub const fn from_u8(raw: u8) -> Result<Self, DecodeError> {
        match raw {
            0 => Ok(Self::Small),
            1 => Ok(Self::Large),
            _ => Err(DecodeError::Invalid),
        }
    }

    /// Bytes of a share's data.
    pub const fn share_len(self) -> usize {
        match self {
            Self::Small => limits::SHARE_SMALL,
            Self::Large => limits::SHARE_LARGE,
        }
    }

    /// Bytes of a sealed chunk.
    pub const fn chunk_len(self) -> usize {
        limits::SHARES_NEEDED.saturating_mul(self.share_len())
    }

    /// Bytes of plaintext in a chunk.
    pub const fn capacity(self) -> usize {
        self.chunk_len().saturating_sub(SEAL_TAG)
    }

    /// Bytes of a share blob.
    pub const fn blob_len(self) -> usize {
        SHARE_OVERHEAD.saturating_add(self.share_len())
    }

    /// Cells that carry a share with its request's or response's framing.
    pub const fn cells_per_share(self) -> usize {
        self.blob_len().div_ceil(RELAY_DATA)
    }
}

const _: () = assert!(Class::Small.cells_per_share() == 4 && Class::Large.cells_per_share() == 16);

/// A share blob, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareRef<'a> {
    /// Its size class.
    pub class: Class,
    /// Its place among the 24.
    pub index: u8,
    /// Which stored copy of its chunk it belongs to.
    pub salt: [u8; 16],
    /// The sibling hashes from the leaf to the root.
    pub path: [[u8; 32]; limits::SHARE_PATH],
    /// Its data.
    pub data: &'a [u8],
}

impl<'a> ShareRef<'a> {
    /// Reads a blob of exactly the right length.
    pub fn read(blob: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(blob);
        if r.u8()? != VERSION {
            return Err(DecodeError::Newer);
        }
        let class = Class::from_u8(r.u8()?)?;
        let index = r.u8()?;
        if usize::from(index) >= limits::SHARES_TOTAL {
            return Err(DecodeError::Invalid);
        }
        let salt = r.array()?;
        let mut path = [[0; 32]; limits::SHARE_PATH];
        for sibling in &mut path {
            *sibling = r.array()?;
        }
        let data = r.take(class.share_len())?;
        r.finish()?;
        Ok(Self { class, index, salt, path, data })
    }

    /// The blob.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.class.blob_len());
        w.u8(VERSION).u8(self.class.to_u8()).u8(self.index).raw(&self.salt);
        for sibling in &self.path {
            w.raw(sibling);
        }
        w.raw(self.data);
        w.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_come_back_and_wrong_ones_do_not() {
        let data = vec![7; limits::SHARE_SMALL];
        let share = ShareRef { class: Class::Small, index: 23, salt: [1; 16], path: [[2; 32]; 5], data: &data };
        let blob = share.to_blob();
        assert_eq!(blob.len(), Class::Small.blob_len());
        assert_eq!(ShareRef::read(&blob).unwrap(), share);
        for (at, value, error) in
            [(0, 2, DecodeError::Newer), (1, 2, DecodeError::Invalid), (1, 1, DecodeError::Short), (2, 24, DecodeError::Invalid)]
        {
            let mut bad = blob.clone();
            bad[at] = value;
            assert_eq!(ShareRef::read(&bad), Err(error));
        }
        assert!(ShareRef::read(&blob[1..]).is_err());
        assert_eq!(ShareRef::read(&[blob.as_slice(), &[0]].concat()), Err(DecodeError::Trailing));
    }
}
