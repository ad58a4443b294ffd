//! Hash and key derivation, with the single table of domain labels. Two uses never share a label, and no label is a prefix of
//! another's input: SHA-256 gets every part with its length in front, and BLAKE3 takes the label apart from its input.

use crate::crypto::secret::Secret;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a hash or key is for. The text goes first into every computation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Label {
            $($(#[$doc])* $name,)*
        }

        impl Label {
            /// All labels, for the test that they differ.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text that separates this use from all others.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => concat!("onionskin v1 ", $text),)* }
            }
        }
    };
}

labels! {
    /// Address of a chunk's shares (D11).
    Address = "share address",
    /// Leaf of the tree over share hashes.
    ShareLeaf = "share leaf",
    /// Inner node of that tree.
    ShareNode = "share node",
    /// Salt of one stored copy of a chunk.
    ShareSalt = "share salt",
    /// Position of a relay (D9).
    Position = "position",
    /// Slot of an address in its prefix (D9).
    PositionSlot = "position slot",
    /// Which shares of a chunk a host may keep (D11).
    ShareChoice = "share choice",
    /// K_v from K_r (D13).
    VerifyKey = "verify key",
    /// Key of one data chunk.
    ChunkKey = "chunk key",
    /// Key of one manifest node under K_v.
    ManifestKey = "manifest key",
    /// Key of a manifest node's private part under K_r.
    ManifestPrivate = "manifest private",
    /// Commitment of the root to K_r.
    RootCommit = "root commitment",
    /// K_r of a convergent document, from the local secret and all that is sealed under it.
    Convergent = "convergent document",
    /// Plaintext of one chunk of a convergent document.
    ChunkDigest = "chunk digest",
    /// Checksum of a key or link that people paste.
    TextChecksum = "text checksum",
    /// File-name tag of a partial download.
    PartTag = "part tag",
    /// Running sum over the blocks of a partial download.
    PartSum = "part sum",
    /// Circuit handshake: key seed, verification, authentication, expansion.
    NtorSeed = "circuit handshake seed",
    /// See [`Label::NtorSeed`].
    NtorVerify = "circuit handshake verify",
    /// See [`Label::NtorSeed`].
    NtorAuth = "circuit handshake auth",
    /// See [`Label::NtorSeed`].
    NtorKeys = "circuit handshake keys",
    /// Sealed request session (D12).
    SessionSecret = "session secret",
    /// Key of one sealed request.
    SessionRequest = "session request",
    /// Key of one sealed response.
    SessionResponse = "session response",
    /// What a host remembers of a session it accepted.
    SessionReplay = "session replay",
    /// What a relay signs to prove itself on a link (D2).
    LinkProof = "link proof",
    /// What a relay signs as its descriptor (D8).
    Descriptor = "descriptor",
    /// What a witness signs after a dial-back (D9).
    Receipt = "dial-back receipt",
    /// Signature of a relay's freshness.
    Freshness = "freshness",
    /// Sum over what a client keeps of the network.
    ViewSum = "kept view",
    /// Digest of a view.
    ViewDigest = "view digest",
    /// Token of the local API.
    ApiToken = "api token",
}

/// SHA-256 over a label and length-prefixed parts.
pub fn hash(label: Label, parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Sha256::new();
    absorb(&mut h, label.text().as_bytes());
    for part in parts {
        absorb(&mut h, part);
    }
    h.finalize().into()
}

/// BLAKE3 over long data and its place among others, in key derivation mode with the label as context.
///
/// For what is hashed by the kilobyte; everything else is SHA-256, by [`hash`]. The place comes behind the data, and the data in
/// one piece, because BLAKE3 hashes pieces of 1 KiB side by side only where they begin at such a border: the other way round it is
/// no faster than SHA-256. The last byte is always the place, so no two inputs are the same bytes.
pub fn hash_long(label: Label, data: &[u8], place: u8) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(label.text()).update(data).update(&[place]).finalize().as_bytes()
}

/// The same hash over data that comes in pieces. Pieces that begin at whole KiB are the fastest.
#[derive(Clone, Debug)]
pub struct LongHash(blake3::Hasher);

impl LongHash {
    /// Over nothing yet.
    pub fn new(label: Label) -> Self {
        Self(blake3::Hasher::new_derive_key(label.text()))
    }

    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// What [`hash_long`] gives for all pieces together.
    pub fn finish(mut self, place: u8) -> [u8; 32] {
        *self.0.update(&[place]).finalize().as_bytes()
    }
}

fn absorb(h: &mut Sha256, part: &[u8]) {
    h.update((part.len() as u64).to_be_bytes());
    h.update(part);
}

/// HKDF-SHA-256 (RFC 5869): `secret` is the input key, `context` (public, hashed) the salt, the label the info.
pub fn derive<const N: usize>(label: Label, secret: &[u8], context: &[&[u8]]) -> Secret<N> {
    const { assert!(N <= 255 * 32) };
    let salt = hash(label, context);
    let hk = Hkdf::<Sha256>::new(Some(&salt), secret);
    Secret::init(|out| {
        if hk.expand(label.text().as_bytes(), out).is_err() {
            unreachable!("N is at most 255 hashes, checked at compile time");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn labels_differ() {
        for (i, a) in Label::ALL.iter().enumerate() {
            for b in &Label::ALL[i + 1..] {
                assert_ne!(a.text(), b.text());
            }
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash(Label::Address, &[b"ab", b"c"]), hash(Label::Address, &[b"a", b"bc"]));
        assert_ne!(hash(Label::Address, &[b"x"]), hash(Label::Position, &[b"x"]));
    }

    #[test]
    fn long_hashes_are_blake3_in_key_derivation_mode() {
        // The first of BLAKE3's official vectors, for the library under us.
        let official = blake3::derive_key("BLAKE3 2019-12-27 16:29:52 test vectors context", b"");
        assert_eq!(HEXLOWER.encode(&official), "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d");
        // And ours is that mode, whatever the data's length.
        for len in [0, 1, 1023, 1024, 1025, 8192, 32_768] {
            let mut all: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let ours = hash_long(Label::ShareLeaf, &all, 9);
            assert_ne!(hash_long(Label::ShareLeaf, &all, 8), ours);
            assert_ne!(hash_long(Label::ShareNode, &all, 9), ours);
            let mut pieces = LongHash::new(Label::ShareLeaf);
            all.chunks(700).for_each(|piece| pieces.update(piece));
            assert_eq!(pieces.finish(9), ours);
            all.push(9);
            assert_eq!(blake3::derive_key("onionskin v1 share leaf", &all), ours);
        }
    }
}
