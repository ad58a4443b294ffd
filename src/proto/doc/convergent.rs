//! Keys of convergent documents: the same document published from the same data directory gets the same key (D13, T24).
//!
//! Chunks are sealed under keys of K_r with a nonce of zero, so one K_r must never seal two texts. It is derived from the local
//! secret and everything that is sealed under it, which takes a first reading of the whole document; and no chunk is sealed under
//! it but one that is, in the second reading, what it was in the first.

use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash_long;
use crate::crypto::secret::Secret;
use crate::wire::manifest::Private;

/// Digest of the plaintext of a chunk.
pub fn digest(plain: &[u8]) -> [u8; 32] {
    hash_long(Label::ChunkDigest, plain, 0)
}

/// K_r, from the secret of the data directory, what readers learn besides the content, and the digests of all chunks with content,
/// in order. Without the secret nobody can tell whether a guessed document was published.
pub fn k_r(local: &Secret<32>, private: &Private, digests: &[[u8; 32]]) -> Secret<32> {
    derive(Label::Convergent, local.expose(), &[&private.to_bytes(), digests.as_flattened()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn private(name: Option<&str>, media_type: Option<&str>) -> Private {
        Private { length: 9, name: name.map(str::to_owned), media_type: media_type.map(str::to_owned) }
    }

    #[test]
    fn a_key_is_of_one_text_with_one_name_and_type() {
        let local = Secret::new([7; 32]);
        let chunks = [digest(b"one"), digest(b"two")];
        let keys = [
            k_r(&local, &private(None, None), &chunks),
            k_r(&local, &private(Some("a"), None), &chunks),
            k_r(&local, &private(None, Some("a")), &chunks),
            k_r(&local, &private(Some("a"), Some("a")), &chunks),
            k_r(&local, &private(Some("aa"), None), &chunks),
            k_r(&local, &Private { length: 8, ..private(None, None) }, &chunks),
            k_r(&local, &private(None, None), &[chunks[1], chunks[0]]),
            k_r(&local, &private(None, None), &chunks[..1]),
            k_r(&local, &private(None, None), &[digest(b"one"), digest(b"twp")]),
            k_r(&Secret::new([8; 32]), &private(None, None), &chunks),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a.expose() != b.expose()), "{i}");
        }
        // What is sealed is the same without a name and with an empty one: the format has no empty names.
        assert_eq!(k_r(&local, &private(Some(""), None), &chunks).expose(), keys[0].expose());
        assert_eq!(private(Some(""), None).to_bytes(), private(None, None).to_bytes());
    }

    /// The same document has the same key in every release.
    #[test]
    fn a_key_stays_what_it_is() {
        let key = k_r(&Secret::new([7; 32]), &private(Some("notes.txt"), Some("text/plain")), &[digest(b"the whole")]);
        assert_eq!(HEXLOWER.encode(key.expose()), "f9921dc7c409efe8b888f61e75206b110897e6cd7690fbc3db141aa80498f7cd");
    }
}
