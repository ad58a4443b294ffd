//! The first file of a store: what it is, of which format, of which network (D19).
//!
//! ```text
//! head = kind u8 = 'S' ‖ version u8 = 1 ‖ network [32] ‖ extensions ‖ check u64
//! ```
//! `check` is FNV-1a over everything before it, in every version: so a flipped bit is never taken for a newer format. The file is
//! written once, under another name, and renamed when whole.

use crate::base::ids::NetworkId;
use crate::store::disk::Disk;
use crate::store::error::StoreError;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use std::io;

/// The format that this program writes.
pub(crate) const VERSION: u8 = 1;
const KIND: u8 = b'S';
const NAME: &str = "head";
const NEW: &str = "head.new";
/// Above what any version needs: nothing is allocated by a file's word.
const HEAD_MAX: u64 = 4096;

/// FNV-1a, 64 bits: finds accidents. Forgers are found by the share's own hashes.
pub(crate) fn check_sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Reads the head, makes it in a directory without one, and brings an older format forward.
pub(crate) fn open(disk: &dyn Disk, network: NetworkId) -> Result<(), StoreError> {
    let doing = "reading the head of the store";
    let bytes = match disk.open(NAME, false) {
        Ok(file) => {
            let len = file.len().map_err(|e| StoreError::io(doing, e))?.min(HEAD_MAX);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            file.read(0, &mut bytes).map_err(|e| StoreError::io(doing, e))?;
            bytes
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return create(disk, network).map_err(|e| StoreError::io("making the store", e));
        }
        Err(e) => return Err(StoreError::io(doing, e)),
    };
    let (version, found) = decode(&bytes)?;
    if found != network {
        return Err(StoreError::WrongNetwork);
    }
    migrate(disk, version)
}

fn decode(bytes: &[u8]) -> Result<(u8, NetworkId), StoreError> {
    let damaged = StoreError::Damaged { file: NAME };
    let Some((body, sum)) = bytes.split_last_chunk::<8>() else { return Err(damaged) };
    if u64::from_be_bytes(*sum) != check_sum(body) {
        return Err(damaged);
    }
    let mut r = Reader::new(body);
    let mut fields = || -> Result<(u8, NetworkId), DecodeError> {
        if r.u8()? != KIND {
            return Err(DecodeError::Invalid);
        }
        let version = r.u8()?;
        if version > VERSION {
            return Ok((version, NetworkId([0; 32])));
        }
        let network = NetworkId(r.array()?);
        Extensions::read(&mut r, &[])?;
        r.clone().finish()?;
        Ok((version, network))
    };
    match fields() {
        Ok((version, _)) if version > VERSION => Err(StoreError::Newer { found: u16::from(version), known: u16::from(VERSION) }),
        Ok(fields) => Ok(fields),
        Err(DecodeError::Newer) => Err(StoreError::Newer { found: 0, known: u16::from(VERSION) }),
        Err(DecodeError::Short | DecodeError::Trailing | DecodeError::TooLarge | DecodeError::Invalid) => Err(damaged),
    }
}

fn create(disk: &dyn Disk, network: NetworkId) -> io::Result<()> {
    let mut w = Writer::with_capacity(64);
    w.u8(KIND).u8(VERSION).raw(&network.0);
    Extensions::default().write(&mut w);
    let sum = check_sum(w.as_slice());
    w.u64(sum);
    let file = disk.open(NEW, true)?;
    file.set_len(0)?;
    file.write(0, w.as_slice())?;
    file.sync()?;
    disk.rename(NEW, NAME)?;
    disk.sync_names()
}

/// Brings an older format forward, one version at a time. Each step reads version `n`, writes what version `n + 1` needs beside it,
/// syncs, and only then replaces the head: a crash in the middle leaves version `n` whole, and the step runs again.
fn migrate(_disk: &dyn Disk, version: u8) -> Result<(), StoreError> {
    match version {
        VERSION => Ok(()),
        // No format came before version 1. The step from 1 to 2 goes here.
        _ => Err(StoreError::Damaged { file: NAME }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::Directory;

    fn head(change: impl FnOnce(&mut Vec<u8>)) -> Result<(u8, NetworkId), StoreError> {
        let mut body = vec![KIND, VERSION];
        body.extend([7; 32]);
        body.push(0);
        change(&mut body);
        body.extend(check_sum(&body).to_be_bytes());
        decode(&body)
    }

    #[test]
    fn versions_and_critical_extensions() {
        assert_eq!(head(|_| ()).unwrap(), (1, NetworkId([7; 32])));
        assert!(matches!(head(|b| b[1] = 2), Err(StoreError::Newer { found: 2, known: 1 })));
        let newer = head(|b| {
            b[1] = 9;
            b.truncate(10);
        });
        assert!(matches!(newer, Err(StoreError::Newer { found: 9, .. })), "a newer format may look different");
        assert!(matches!(head(|b| b.splice(34.., [1, 0x80, 1, 0, 0]).for_each(drop)), Err(StoreError::Newer { found: 0, .. })));
        assert!(head(|b| b.splice(34.., [1, 0x00, 1, 0, 0]).for_each(drop)).is_ok());
        assert!(matches!(head(|b| b.push(0)), Err(StoreError::Damaged { .. })));
        assert!(matches!(head(|b| b[0] = b'X'), Err(StoreError::Damaged { .. })));
        assert!(matches!(decode(&[]), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn every_flipped_bit_is_damage_and_never_a_newer_version() {
        let mut bytes = vec![KIND, VERSION];
        bytes.extend([7; 33]);
        bytes[34] = 0;
        bytes.extend(check_sum(&bytes).to_be_bytes());
        assert!(decode(&bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&bent), Err(StoreError::Damaged { .. })), "bit {bit}");
        }
    }

    #[test]
    fn another_network_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Directory::open(&dir.path().join("s")).unwrap();
        open(&disk, NetworkId([1; 32])).unwrap();
        open(&disk, NetworkId([1; 32])).unwrap();
        assert!(matches!(open(&disk, NetworkId([2; 32])), Err(StoreError::WrongNetwork)));
    }
}
