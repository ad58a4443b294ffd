//! Sealing chunks: ChaCha20-Poly1305 (RFC 8439) under a key that seals exactly once, so the nonce is zero.

use crate::crypto::CryptoError;
use crate::crypto::secret::Secret;
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::KeyInit;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::aead::inout::InOutBuf;

/// Bytes that sealing adds.
pub const TAG: usize = 16;

/// Seals `plain` (whose last 16 bytes are overwritten by the tag) in place.
pub fn seal(key: &Secret<32>, chunk: &mut [u8]) -> Result<(), CryptoError> {
    let (plain, tag) = chunk.split_last_chunk_mut::<TAG>().ok_or(CryptoError)?;
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    let made = cipher.encrypt_inout_detached(&[0; 12].into(), b"", InOutBuf::from(plain)).map_err(|_| CryptoError)?;
    *tag = made.into();
    Ok(())
}

/// Opens a sealed chunk in place; the plaintext is everything in front of the last 16 bytes.
pub fn open<'a>(key: &Secret<32>, chunk: &'a mut [u8]) -> Result<&'a mut [u8], CryptoError> {
    let (sealed, tag) = chunk.split_last_chunk_mut::<TAG>().ok_or(CryptoError)?;
    let cipher = ChaCha20Poly1305::new(key.expose().into());
    cipher.decrypt_inout_detached(&[0; 12].into(), b"", InOutBuf::from(&mut *sealed), (&*tag).into()).map_err(|_| CryptoError)?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
