//! Keys of documents, and the text in which people pass them on (D13).
//!
//! ```text
//! onionskin: base32 of   kind u8 | version u8 = 1 | payload | checksum [4]
//! read key (kind 1)      flags u8 | K_r [32] | root [32]
//! verify key (kind 2)    flags u8 | K_v [32] | root [32]
//! ```
//! Flag 1: the root is a manifest's; else the document is that one chunk. Other flags are refused: a newer program wrote them.

use crate::base::limits;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::secret::Secret;
use crate::proto::doc::share;
use crate::proto::ops::retrieve::Copy;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::share::Class;
use data_encoding::BASE32_NOPAD;

/// What every text starts with.
pub const PREFIX: &str = "onionskin:";
/// Kind of a read key.
pub const KIND_READ: u8 = 1;
/// Kind of a verify key.
pub const KIND_VERIFY: u8 = 2;
/// Kind of a relay's bootstrap link.
pub const KIND_LINK: u8 = 3;
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;
const TREE: u8 = 1;
/// Longest text that is looked at.
const TEXT_MAX: usize = 1024;

/// Why a text is no key, in words for whoever pasted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It does not start as ours do.
    #[error("it does not start with \"onionskin:\"")]
    Prefix,
    /// A character that no key has.
    #[error("it has characters that no key has: it is mistyped, or something was pasted with it")]
    Characters,
    /// Too short for what it says it is.
    #[error("it is cut off: a part is missing")]
    CutOff,
    /// The checksum is wrong.
    #[error("its checksum is wrong: it is mistyped or cut off")]
    Mistyped,
    /// Made by a newer program.
    #[error("it was made by a newer version of onionskin: update to use it")]
    Newer,
    /// A verify key where a read key is wanted.
    #[error("it is a verify key: it can check a document, and cannot read it")]
    VerifyOnly,
    /// A bootstrap link where a key is wanted.
    #[error("it is a relay's bootstrap link, not a document's key")]
    Link,
    /// A key where a bootstrap link is wanted.
    #[error("it is a document's key, not a relay's bootstrap link")]
    NotALink,
}

/// Text of a payload, with kind, version and checksum.
pub fn encode_text(kind: u8, payload: &[u8]) -> String {
    let mut w = Writer::with_capacity(payload.len() + 2 + CHECKSUM);
    w.u8(kind).u8(VERSION).raw(payload);
    let sum = hash(Label::TextChecksum, &[w.as_slice()]);
    w.raw(sum.first_chunk::<CHECKSUM>().unwrap_or(&[0; CHECKSUM]));
    format!("{PREFIX}{}", BASE32_NOPAD.encode(w.as_slice()).to_ascii_lowercase())
}

/// Kind and payload of a text. White space around it and capitals do not matter.
pub fn decode_text(text: &str) -> Result<(u8, Vec<u8>), TextError> {
    let text = text.trim();
    if text.len() > TEXT_MAX {
        return Err(TextError::Mistyped);
    }
    let lower = text.to_ascii_lowercase();
    let coded = lower.strip_prefix(PREFIX).ok_or(TextError::Prefix)?.to_ascii_uppercase();
    if !coded.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7')) {
        return Err(TextError::Characters);
    }
    let bytes = BASE32_NOPAD.decode(coded.as_bytes()).map_err(|_| TextError::Mistyped)?;
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TextError::CutOff)?;
    if hash(Label::TextChecksum, &[body]).first_chunk::<CHECKSUM>() != Some(sum) {
        return Err(TextError::Mistyped);
    }
    let mut r = Reader::new(body);
    let (Ok(kind), Ok(version)) = (r.u8(), r.u8()) else { return Err(TextError::CutOff) };
    if version != VERSION {
        return Err(TextError::Newer);
    }
    Ok((kind, r.rest().to_vec()))
}

/// Opens a document.
#[derive(Clone)]
pub struct ReadKey {
    k_r: Secret<32>,
    verify: VerifyKey,
}

/// Checks a document and lists the addresses of its chunks; cannot open it.
#[derive(Clone)]
pub struct VerifyKey {
    k_v: Secret<32>,
    root: [u8; 32],
    tree: bool,
}

/// Either.
#[derive(Clone, Debug)]
pub enum Key {
    /// Opens.
    Read(ReadKey),
    /// Checks.
    Verify(VerifyKey),
}

impl core::fmt::Debug for ReadKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ReadKey(..)")
    }
}

impl core::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("VerifyKey(..)")
    }
}

/// K_v of a K_r.
pub fn k_v(k_r: &Secret<32>) -> Secret<32> {
    derive(Label::VerifyKey, k_r.expose(), &[])
}

impl ReadKey {
    /// The key of the document under K_r whose top chunk has this root.
    pub fn new(k_r: Secret<32>, root: [u8; 32], tree: bool) -> Self {
        let verify = VerifyKey { k_v: k_v(&k_r), root, tree };
        Self { k_r, verify }
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        match Key::parse(text)? {
            Key::Read(key) => Ok(key),
            Key::Verify(_) => Err(TextError::VerifyOnly),
        }
    }

    /// The text that people pass on. Secret: whoever has it can read the document.
    pub fn to_text(&self) -> String {
        payload(KIND_READ, self.verify.tree, self.k_r.expose(), &self.verify.root)
    }

    /// K_r.
    pub(in crate::proto) fn k_r(&self) -> &Secret<32> {
        &self.k_r
    }

    /// The verify key: everything but reading.
    pub fn verify_key(&self) -> &VerifyKey {
        &self.verify
    }

    /// Whether the document has a manifest.
    pub fn is_tree(&self) -> bool {
        self.verify.tree
    }

    /// A stored copy of a chunk of this document.
    pub fn copy(&self, root: &[u8; 32], class: Class, copy: u8) -> Copy {
        self.verify.copy(root, class, copy)
    }

    /// The spare copies of a chunk of this document.
    pub fn spares(&self, root: &[u8; 32], class: Class) -> Vec<Copy> {
        self.verify.spares(root, class)
    }
}

impl VerifyKey {
    /// The text that people pass on.
    pub fn to_text(&self) -> String {
        payload(KIND_VERIFY, self.tree, self.k_v.expose(), &self.root)
    }

    /// K_v.
    pub(in crate::proto) fn k_v(&self) -> &Secret<32> {
        &self.k_v
    }

    /// A stored copy of a chunk of this document.
    pub fn copy(&self, root: &[u8; 32], class: Class, copy: u8) -> Copy {
        let salt = share::salt(&self.k_v, root, copy);
        Copy { address: share::address(root, class, &salt), salt }
    }

    /// The spare copies of a chunk of this document, which exist only where others were not taken.
    pub fn spares(&self, root: &[u8; 32], class: Class) -> Vec<Copy> {
        let numbers = limits::MANIFEST_COPIES..limits::MANIFEST_COPIES + limits::SPARE_COPIES;
        numbers.map(|number| self.copy(root, class, number)).collect()
    }
}

impl Key {
    /// The text that people pass on.
    pub fn to_text(&self) -> String {
        match self {
            Self::Read(key) => key.to_text(),
            Self::Verify(key) => key.to_text(),
        }
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let (kind, payload) = decode_text(text)?;
        let mut r = Reader::new(&payload);
        match kind {
            KIND_READ | KIND_VERIFY => {}
            KIND_LINK => return Err(TextError::Link),
            _ => return Err(TextError::Newer),
        }
        let (Ok(flags), Ok(secret), Ok(root)) = (r.u8(), r.array().map(Secret::new), r.array()) else {
            return Err(TextError::CutOff);
        };
        if flags & !TREE != 0 || !r.is_empty() {
            return Err(TextError::Newer);
        }
        let tree = flags & TREE != 0;
        Ok(match kind {
            KIND_READ => Self::Read(ReadKey::new(secret, root, tree)),
            _ => Self::Verify(VerifyKey { k_v: secret, root, tree }),
        })
    }

    /// The verify key, or the one of the read key.
    pub fn verify_key(&self) -> &VerifyKey {
        match self {
            Self::Read(key) => &key.verify,
            Self::Verify(key) => key,
        }
    }

    /// Root of the top chunk.
    pub fn root(&self) -> [u8; 32] {
        self.verify_key().root
    }

    /// Whether the document has a manifest.
    pub fn is_tree(&self) -> bool {
        self.verify_key().tree
    }

    /// Share class of the top chunk and of all manifest nodes.
    pub const fn top_class(&self) -> Class {
        Class::Small
    }

    /// A stored copy of a chunk.
    pub fn copy(&self, root: &[u8; 32], class: Class, copy: u8) -> Copy {
        self.verify_key().copy(root, class, copy)
    }

    /// The spare copies of a chunk of this document.
    pub fn spares(&self, root: &[u8; 32], class: Class) -> Vec<Copy> {
        self.verify_key().spares(root, class)
    }
}

fn payload(kind: u8, tree: bool, secret: &[u8; 32], root: &[u8; 32]) -> String {
    let mut w = Writer::with_capacity(65);
    w.u8(if tree { TREE } else { 0 }).raw(secret).raw(root);
    encode_text(kind, w.as_slice())
}

const _: () = assert!(limits::MANIFEST_COPIES >= 1);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ReadKey {
        ReadKey::new(Secret::new([7; 32]), [9; 32], true)
    }

    #[test]
    fn texts_come_back_with_space_and_capitals_around() {
        let text = key().to_text();
        assert!(text.len() < 128, "{}", text.len());
        for t in [text.clone(), format!("  {text}\n"), text.to_uppercase()] {
            assert_eq!(ReadKey::parse(&t).unwrap().to_text(), text);
        }
        let verify = key().verify_key().to_text();
        assert!(matches!(Key::parse(&verify), Ok(Key::Verify(k)) if k.to_text() == verify));
        assert_eq!(ReadKey::parse(&verify).unwrap_err(), TextError::VerifyOnly);
        assert_eq!(Key::parse(&encode_text(KIND_LINK, &[1; 70])).unwrap_err(), TextError::Link);
    }

    #[test]
    fn every_slip_of_one_character_and_every_swap_is_found() {
        let text = key().to_text();
        let bytes = text.as_bytes();
        let start = PREFIX.len();
        for i in start..bytes.len() {
            for c in *b"abcdefghijklmnopqrstuvwxyz234567" {
                if c != bytes[i] {
                    let mut bad = bytes.to_vec();
                    bad[i] = c;
                    assert!(Key::parse(core::str::from_utf8(&bad).unwrap()).is_err());
                }
            }
            let mut bad = bytes.to_vec();
            if i + 1 < bad.len() && bad[i] != bad[i + 1] {
                bad.swap(i, i + 1);
                assert!(Key::parse(core::str::from_utf8(&bad).unwrap()).is_err());
            }
            assert!(Key::parse(&text[..i]).is_err());
        }
        assert_eq!(Key::parse("http://example").unwrap_err(), TextError::Prefix);
        assert_eq!(Key::parse("onionskin:ab!").unwrap_err(), TextError::Characters);
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", Key::Read(key())), "Read(ReadKey(..))");
        assert_eq!(format!("{:?}", key().verify_key()), "VerifyKey(..)");
    }
}
