//! The hand-written codec under every lasting and signed format, and the one door to bincode for messages between nodes of one
//! version.
//!
//! All integers are big-endian. Lasting formats start with a kind byte and a version byte and end in [`Extensions`] (D19).

use crate::base::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes did not become a value. The peer (or the disk) is to blame, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the format needs.
    #[error("too short")]
    Short,
    /// Bytes left over after the last field.
    #[error("trailing bytes")]
    Trailing,
    /// A length or count above its limit.
    #[error("too large")]
    TooLarge,
    /// A field with a value that the format does not allow, or a second encoding of an allowed one.
    #[error("invalid value")]
    Invalid,
    /// A version, or an extension marked critical, that this program does not know.
    #[error("made by a newer version")]
    Newer,
}

/// Reads fields off the front of a slice; never past its end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub const fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The first two bytes of a saved state: what it is, and its version.
    ///
    /// # Errors
    /// It is another kind of state, or another version of this kind.
    pub fn head(&mut self, kind: u8, version: u8) -> Result<(), DecodeError> {
        if self.u8()? != kind {
            return Err(DecodeError::Invalid);
        }
        if self.u8()? != version { Err(DecodeError::Newer) } else { Ok(()) }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A field with a two-byte length, at most `max` bytes.
    pub fn bytes16(&mut self, max: usize) -> Result<&'a [u8], DecodeError> {
        let n = usize::from(self.u16()?);
        if n > max {
            return Err(DecodeError::TooLarge);
        }
        self.take(n)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// The end of the value: refuses trailing bytes.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Appends fields to a buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Raw bytes, without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_be_bytes())
    }

    /// A field with a two-byte length. The caller keeps it below 64 KiB; longer fields are cut, which decoders then refuse.
    pub fn bytes16(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert!(bytes.len() <= usize::from(u16::MAX));
        let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(n).raw(bytes.get(..usize::from(n)).unwrap_or(bytes))
    }

    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The finished value.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The typed, length-prefixed tail of every lasting format: `count u8`, then `type u16 ‖ length u16 ‖ value` in strictly increasing
/// order of type. The top bit of a type marks it critical: whoever does not know it must refuse the whole value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    entries: Vec<(u16, Vec<u8>)>,
}

impl Extensions {
    /// The bit of a type that makes it critical.
    pub const CRITICAL: u16 = 0x8000;

    /// Adds or replaces an entry. Types stay sorted, so there is one encoding.
    pub fn set(&mut self, kind: u16, value: Vec<u8>) {
        match self.entries.binary_search_by_key(&kind, |(k, _)| *k) {
            Ok(i) => {
                if let Some(entry) = self.entries.get_mut(i) {
                    entry.1 = value;
                }
            }
            Err(i) => self.entries.insert(i, (kind, value)),
        }
    }

    /// The value of an entry.
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        let i = self.entries.binary_search_by_key(&kind, |(k, _)| *k).ok()?;
        self.entries.get(i).map(|(_, v)| v.as_slice())
    }

    /// Reads extensions. Types in `known` and uncritical unknown ones are kept; an unknown critical one is [`DecodeError::Newer`].
    pub fn read(r: &mut Reader<'_>, known: &[u16]) -> Result<Self, DecodeError> {
        let count = r.u8()?;
        let mut entries: Vec<(u16, Vec<u8>)> = Vec::new();
        for _ in 0..count {
            let kind = r.u16()?;
            if entries.last().is_some_and(|(last, _)| *last >= kind) {
                return Err(DecodeError::Invalid);
            }
            let value = r.bytes16(limits::EXTENSION_MAX)?;
            if kind & Self::CRITICAL != 0 && !known.contains(&kind) {
                return Err(DecodeError::Newer);
            }
            entries.push((kind, value.to_vec()));
        }
        Ok(Self { entries })
    }

    /// Appends the extensions. At most 255 entries exist, because types come from this program's own short list.
    pub fn write(&self, w: &mut Writer) {
        debug_assert!(self.entries.len() <= 255);
        w.u8(u8::try_from(self.entries.len()).unwrap_or(u8::MAX));
        for (kind, value) in self.entries.iter().take(255) {
            w.u16(*kind).bytes16(value);
        }
    }
}

/// bincode with its traps closed: fixed-width integers (canonical), trailing bytes refused, and a limit on every decode. Messages
/// hold no maps, no recursive types and no zero-size items.
fn options(limit: usize) -> impl bincode::Options {
    use bincode::Options as _;
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .with_limit(u64::try_from(limit).unwrap_or(u64::MAX))
        .reject_trailing_bytes()
}

/// Encodes a message between nodes of one version. `None` if it would be longer than `limit` bytes.
pub fn bin_encode<T: Serialize>(value: &T, limit: usize) -> Option<Vec<u8>> {
    use bincode::Options as _;
    options(limit).serialize(value).ok()
}

/// Decodes a message of at most `limit` bytes.
pub fn bin_decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    use bincode::Options as _;
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge);
    }
    options(limit).deserialize(bytes).map_err(|_| DecodeError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_critical_extension_is_refused_and_uncritical_kept() {
        let mut e = Extensions::default();
        e.set(7, vec![1, 2]);
        e.set(3, vec![]);
        let mut w = Writer::default();
        e.write(&mut w);
        let bytes = w.into_bytes();
        let mut r = Reader::new(&bytes);
        assert_eq!(Extensions::read(&mut r, &[]).unwrap(), e);
        assert!(r.is_empty());

        e.set(Extensions::CRITICAL | 1, vec![9]);
        let mut w = Writer::default();
        e.write(&mut w);
        let bytes = w.into_bytes();
        assert_eq!(Extensions::read(&mut Reader::new(&bytes), &[]), Err(DecodeError::Newer));
        assert!(Extensions::read(&mut Reader::new(&bytes), &[Extensions::CRITICAL | 1]).is_ok());
    }

    #[test]
    fn unsorted_extensions_are_a_second_encoding_and_refused() {
        let bytes = [2, 0, 5, 0, 0, 0, 4, 0, 0];
        assert_eq!(Extensions::read(&mut Reader::new(&bytes), &[]), Err(DecodeError::Invalid));
    }

    #[test]
    fn bincode_refuses_trailing_long_and_lying_lengths() {
        let good = bin_encode(&(7u32, vec![1u8, 2]), 64).unwrap();
        assert_eq!(bin_decode::<(u32, Vec<u8>)>(&good, 64).unwrap(), (7, vec![1, 2]));
        let mut trailing = good.clone();
        trailing.push(0);
        assert!(bin_decode::<(u32, Vec<u8>)>(&trailing, 64).is_err());
        let mut lying = good.clone();
        lying[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(bin_decode::<(u32, Vec<u8>)>(&lying, 64).is_err());
        assert!(bin_decode::<(u32, Vec<u8>)>(&good, 4).is_err());
        assert!(bin_encode(&vec![0u8; 65], 64).is_none());
    }
}
