//! A manifest node: the roots of the chunks (or nodes) below it (D13).
//!
//! ```text
//! kind u8 = 16 | version u8 = 1 | level u8 | index u64 | all chunks u64 | class u8 | commitment to K_r [32]
//! children u16 | child roots [32] each | private part: length u16, sealed bytes | extensions | zeros to the chunk's end
//! ```
//! All of it is sealed under a key of K_v; the private part, in the top node only, once more under a key of K_r:
//!
//! ```text
//! version u8 = 1 | document length u64 | extensions (1 name, 2 media type)
//! ```

use crate::base::limits;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::share::Class;

const KIND: u8 = 16;
const VERSION: u8 = 1;
const EXT_NAME: u16 = 1;
const EXT_MEDIA_TYPE: u16 = 2;
/// Longest name or media type, in bytes of UTF-8: what file systems allow.
pub const TEXT_MAX: usize = 255;
/// Longest sealed private part.
pub const PRIVATE_MAX: usize = 1024;

/// A node, read. Counts are checked against each other by whoever knows the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestNode {
    /// Zero lists chunks, each level above lists the nodes of the one below.
    pub level: u8,
    /// Its number on its level.
    pub index: u64,
    /// Chunks of the whole document, parity and padding included.
    pub chunks: u64,
    /// Share class of those chunks.
    pub class: Class,
    /// Commits to K_r, so that one manifest cannot mean two documents.
    pub commitment: [u8; 32],
    /// Roots of what is below.
    pub children: Vec<[u8; 32]>,
    /// Sealed; empty but in the top node.
    pub private: Vec<u8>,
}

impl ManifestNode {
    /// Reads a node from a chunk's plaintext.
    pub fn read(plain: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(plain);
        if r.u8()? != KIND {
            return Err(DecodeError::Invalid);
        }
        if r.u8()? != VERSION {
            return Err(DecodeError::Newer);
        }
        let (level, index, chunks, class) = (r.u8()?, r.u64()?, r.u64()?, Class::from_u8(r.u8()?)?);
        let commitment = r.array()?;
        let count = usize::from(r.u16()?);
        if count > limits::MANIFEST_FANOUT_MAX || level >= limits::MANIFEST_DEPTH_MAX {
            return Err(DecodeError::TooLarge);
        }
        let mut children = Vec::new();
        for _ in 0..count {
            children.push(r.array()?);
        }
        let private = r.bytes16(PRIVATE_MAX)?.to_vec();
        Extensions::read(&mut r, &[])?;
        if r.rest().iter().any(|b| *b != 0) {
            return Err(DecodeError::Trailing);
        }
        Ok(Self { level, index, chunks, class, commitment, children, private })
    }

    /// The chunk's plaintext, without the zeros behind it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.children.as_flattened().len().saturating_add(self.private.len()).saturating_add(64));
        w.u8(KIND).u8(VERSION).u8(self.level).u64(self.index).u64(self.chunks).u8(self.class.to_u8()).raw(&self.commitment);
        w.u16(u16::try_from(self.children.len()).unwrap_or(u16::MAX));
        for child in &self.children {
            w.raw(child);
        }
        w.bytes16(&self.private);
        Extensions::default().write(&mut w);
        w.into_bytes()
    }
}

/// What only readers learn of a document. Prints nothing of itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Private {
    /// Bytes of the document.
    pub length: u64,
    /// The name that its publisher gave it.
    pub name: Option<String>,
    /// The type that its publisher gave it.
    pub media_type: Option<String>,
}

impl core::fmt::Debug for Private {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Private(..)")
    }
}

impl Private {
    /// Reads the part from the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.u8()? != VERSION {
            return Err(DecodeError::Newer);
        }
        let length = r.u64()?;
        if length > limits::DOCUMENT_MAX {
            return Err(DecodeError::TooLarge);
        }
        let ext = Extensions::read(r, &[])?;
        let text = |kind| match ext.get(kind) {
            Some(bytes) if bytes.len() > TEXT_MAX || bytes.is_empty() => Err(DecodeError::TooLarge),
            Some(bytes) => String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| DecodeError::Invalid),
            None => Ok(None),
        };
        Ok(Self { length, name: text(EXT_NAME)?, media_type: text(EXT_MEDIA_TYPE)? })
    }

    /// The part's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut ext = Extensions::default();
        for (kind, text) in [(EXT_NAME, &self.name), (EXT_MEDIA_TYPE, &self.media_type)] {
            if let Some(text) = text.as_ref().filter(|t| !t.is_empty() && t.len() <= TEXT_MAX) {
                ext.set(kind, text.clone().into_bytes());
            }
        }
        let mut w = Writer::default();
        w.u8(VERSION).u64(self.length);
        ext.write(&mut w);
        w.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> ManifestNode {
        ManifestNode {
            level: 1,
            index: 3,
            chunks: 2000,
            class: Class::Large,
            commitment: [8; 32],
            children: vec![[1; 32], [2; 32]],
            private: vec![5; 40],
        }
    }

    #[test]
    fn nodes_come_back_also_with_zeros_behind() {
        let mut bytes = node().to_bytes();
        assert_eq!(ManifestNode::read(&bytes).unwrap(), node());
        bytes.resize(Class::Small.capacity(), 0);
        assert_eq!(ManifestNode::read(&bytes).unwrap(), node());
        *bytes.last_mut().unwrap() = 1;
        assert_eq!(ManifestNode::read(&bytes), Err(DecodeError::Trailing));
    }

    #[test]
    fn too_many_children_and_too_many_levels_are_refused_before_anything_is_allocated() {
        let mut bytes = node().to_bytes();
        bytes[2] = limits::MANIFEST_DEPTH_MAX;
        assert_eq!(ManifestNode::read(&bytes), Err(DecodeError::TooLarge));
        let mut bytes = node().to_bytes();
        bytes[52..54].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(ManifestNode::read(&bytes), Err(DecodeError::TooLarge));
    }

    #[test]
    fn the_private_part_comes_back() {
        let p = Private { length: 9, name: Some("notes.txt".into()), media_type: None };
        assert_eq!(Private::read(&mut Reader::new(&p.to_bytes())).unwrap(), p);
        let long = Private { length: limits::DOCUMENT_MAX + 1, ..p };
        assert_eq!(Private::read(&mut Reader::new(&long.to_bytes())), Err(DecodeError::TooLarge));
    }
}
