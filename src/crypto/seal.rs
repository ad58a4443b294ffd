//! Sealing chunks: ChaCha20-Poly1305 (RFC 8439) under a key that seals exactly once, so the nonce is zero.

use crate::crypto::CryptoError;
use crate::crypto::secret::Secret;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::CHACHA20_POLY1305;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;

/// Bytes that sealing adds.
pub const TAG: usize = 16;

fn cipher(key: &Secret<32>) -> Result<(LessSafeKey, Nonce), CryptoError> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.expose()).map_err(|_| CryptoError)?;
    Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key([0; 12])))
}

/// Seals `plain` (whose last 16 bytes are overwritten by the tag) in place.
pub fn seal(key: &Secret<32>, chunk: &mut [u8]) -> Result<(), CryptoError> {
    let (plain, tag) = chunk.split_last_chunk_mut::<TAG>().ok_or(CryptoError)?;
    let (cipher, nonce) = cipher(key)?;
    let made = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), plain).map_err(|_| CryptoError)?;
    *tag = made.as_ref().try_into().map_err(|_| CryptoError)?;
    Ok(())
}

/// Opens a sealed chunk in place; the plaintext is everything in front of the last 16 bytes.
pub fn open<'a>(key: &Secret<32>, chunk: &'a mut [u8]) -> Result<&'a mut [u8], CryptoError> {
    let (cipher, nonce) = cipher(key)?;
    cipher.open_in_place(nonce, Aad::empty(), chunk).map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn opens_what_was_sealed_and_nothing_else() {
        let key = Secret::new([3; 32]);
        let mut chunk = vec![9; 100];
        seal(&key, &mut chunk).unwrap();
        for i in [0, 50, 99] {
            let mut bad = chunk.clone();
            bad[i] ^= 1;
            assert!(open(&key, &mut bad).is_err());
        }
        assert!(open(&Secret::new([4; 32]), &mut chunk.clone()).is_err());
        assert_eq!(open(&key, &mut chunk).unwrap(), &[9; 84]);
        assert!(seal(&key, &mut [0; 3]).is_err());
        assert!(open(&key, &mut [0; 3]).is_err());
    }

    #[test]
    fn sealing_zeros_gives_the_published_key_stream() {
        // RFC 8439, A.1, test vector 2: zero key and nonce, block 1. The tag is Poly1305 of it under key block 0 (A.1, vector 1).
        let mut chunk = [0; 64 + TAG];
        seal(&Secret::new([0; 32]), &mut chunk).unwrap();
        let (stream, tag) = chunk.split_at(64);
        assert_eq!(
            HEXLOWER.encode(stream),
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed\
             29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
        );
        assert_eq!(HEXLOWER.encode(tag), "75c5180ef52d6921037a3d0af9f0dac8");
    }
}
