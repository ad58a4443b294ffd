//! Long-lived keys: a relay's identity with its signatures (D2, D8, D9), and the key that requests are sealed to (D12).

use crate::base::ids::NetworkId;
use crate::base::ids::NodeId;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::hash;
use crate::crypto::secret::Secret;
use aws_lc_rs::kem::Ciphertext;
use aws_lc_rs::kem::DecapsulationKey;
use aws_lc_rs::kem::EncapsulationKey;
use aws_lc_rs::kem::ML_KEM_768;
use aws_lc_rs::kem::SharedSecret as KemSecret;
use core::fmt;
use ed25519_dalek::Signature;
use ed25519_dalek::Signer;
use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;
use rand::CryptoRng;
use subtle::Choice;
use subtle::ConstantTimeEq;
use x25519_dalek::PublicKey;
use x25519_dalek::SharedSecret;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
pub const KEM_PUBLIC: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203, table 3).
pub const KEM_CIPHERTEXT: usize = 1088;
/// Bytes of an ML-KEM-768 decapsulation key (FIPS 203, table 3).
const KEM_PRIVATE: usize = 2400;
/// Where a decapsulation key holds a copy of its encapsulation key (FIPS 203, algorithm 16: `dk_pke | ek | H(ek) | z`).
const KEM_PUBLIC_AT: usize = 1152;

// --- identity

/// A relay's Ed25519 identity. Signs hashes under a label, never bare bytes, so no signature can be carried to another use.
pub struct IdentityKey(SigningKey);

impl IdentityKey {
    /// A fresh identity.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::from_seed(&Secret::random(rng))
    }

    /// The identity of a stored seed (RFC 8032, 5.1.5).
    pub fn from_seed(seed: &Secret<32>) -> Self {
        Self(SigningKey::from_bytes(seed.expose()))
    }

    /// The public name: the public key itself.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs the hash of `parts` under `label`.
    pub fn sign(&self, label: Label, parts: &[&[u8]]) -> [u8; 64] {
        self.0.sign(&hash(label, parts)).to_bytes()
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityKey(..)")
    }
}

/// Checks what [`IdentityKey::sign`] made. Strict: keys of small order and signatures with more than one form are refused.
///
/// # Errors
/// `node` is no key, or the signature is not its own over these parts.
pub fn verify(node: &NodeId, label: Label, parts: &[&[u8]], signature: &[u8; 64]) -> Result<(), CryptoError> {
    let key = VerifyingKey::from_bytes(&node.0).map_err(|_| CryptoError)?;
    key.verify_strict(&hash(label, parts), &Signature::from_bytes(signature)).map_err(|_| CryptoError)
}

/// What a relay sends in the first cell of a link to prove its identity (D2). `exporter` is the TLS exporter, so the proof holds
/// for this link alone; `dialer` says which end proves, so it cannot be sent back.
pub fn link_proof(key: &IdentityKey, net: &NetworkId, exporter: &[u8; 32], dialer: bool) -> [u8; 64] {
    key.sign(Label::LinkProof, &[&net.0, &key.node_id().0, exporter, &[u8::from(dialer)]])
}

/// Checks a [`link_proof`]; `dialer` is the role of the end that proves.
///
/// # Errors
/// Not `node`'s proof for this network, link and role.
pub fn check_link_proof(
    node: &NodeId,
    net: &NetworkId,
    exporter: &[u8; 32],
    dialer: bool,
    signature: &[u8; 64],
) -> Result<(), CryptoError> {
    verify(node, Label::LinkProof, &[&net.0, &node.0, exporter, &[u8::from(dialer)]], signature)
}

// --- hosts

/// The public half of a [`HostKey`], as a descriptor carries it.
#[derive(Clone, Debug)]
pub struct HostPublic {
    /// Which of the host's keys this is.
    pub id: u32,
    /// X25519 public key.
    pub x25519: [u8; 32],
    /// ML-KEM-768 encapsulation key. Anybody's word: it is checked when it is used.
    pub mlkem: Box<[u8; KEM_PUBLIC]>,
}

/// The key that requests to a host are sealed to: X25519 and ML-KEM-768, both needed to open (D12; ten days and four of grace).
pub struct HostKey {
    x25519: StaticSecret,
    mlkem: DecapsulationKey,
    public: HostPublic,
}

impl HostKey {
    /// Bytes of [`HostKey::to_bytes`].
    pub const BYTES: usize = 4 + 32 + KEM_PRIVATE;

    /// A fresh key. The X25519 part comes from `rng`; aws-lc makes the ML-KEM part with its own random generator, so two runs of
    /// one seed differ in it.
    ///
    /// # Errors
    /// aws-lc could not make a key.
    pub fn generate(rng: &mut dyn CryptoRng, id: u32) -> Result<Self, CryptoError> {
        let x25519 = fresh_x25519(rng);
        let (mlkem, mlkem_public) = fresh_kem()?;
        let public = HostPublic { id, x25519: PublicKey::from(&x25519).to_bytes(), mlkem: mlkem_public };
        Ok(Self { x25519, mlkem, public })
    }

    /// Which of the host's keys this is.
    pub const fn id(&self) -> u32 {
        self.public.id
    }

    /// The public half.
    pub fn public(&self) -> HostPublic {
        self.public.clone()
    }

    /// For the host's own disk: `id u32 | X25519 secret 32 | ML-KEM-768 decapsulation key 2400`.
    ///
    /// # Errors
    /// aws-lc could not export the key.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mlkem = self.mlkem.key_bytes().map_err(|_| CryptoError)?;
        let mut out = Zeroizing::new(Vec::with_capacity(Self::BYTES));
        out.extend_from_slice(&self.public.id.to_be_bytes());
        out.extend_from_slice(self.x25519.as_bytes());
        out.extend_from_slice(mlkem.as_ref());
        Ok(out)
    }

    /// From [`HostKey::to_bytes`]. Tries the key on itself once: a damaged one is refused here and not at the first request.
    ///
    /// # Errors
    /// Wrong length, or the halves of the ML-KEM key do not belong together.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        let (id, rest) = bytes.split_first_chunk::<4>().ok_or(CryptoError)?;
        let (x25519, private) = rest.split_first_chunk::<32>().ok_or(CryptoError)?;
        let mlkem = DecapsulationKey::new(&ML_KEM_768, private).map_err(|_| CryptoError)?;
        let mlkem_public: &[u8; KEM_PUBLIC] = private.get(KEM_PUBLIC_AT..).and_then(<[u8]>::first_chunk).ok_or(CryptoError)?;
        let (ciphertext, sent) = encapsulate(mlkem_public)?;
        let opened = decapsulate(&mlkem, &ciphertext)?;
        if !bool::from(sent.as_ref().ct_eq(opened.as_ref())) {
            return Err(CryptoError);
        }
        let x25519 = StaticSecret::from(*x25519);
        let public =
            HostPublic { id: u32::from_be_bytes(*id), x25519: PublicKey::from(&x25519).to_bytes(), mlkem: Box::new(*mlkem_public) };
        Ok(Self { x25519, mlkem, public })
    }

    pub(in crate::crypto) const fn x25519(&self) -> &StaticSecret {
        &self.x25519
    }

    pub(in crate::crypto) const fn mlkem(&self) -> &DecapsulationKey {
        &self.mlkem
    }

    pub(in crate::crypto) const fn public_ref(&self) -> &HostPublic {
        &self.public
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({}, ..)", self.public.id)
    }
}

// --- what both handshakes are made of

pub(in crate::crypto) fn fresh_x25519(rng: &mut dyn CryptoRng) -> StaticSecret {
    StaticSecret::random_from_rng(rng)
}

/// The shared point, and whether it is one (RFC 7748, 6.1: a peer's point of small order makes it zero).
pub(in crate::crypto) fn dh(secret: &StaticSecret, their: &[u8; 32]) -> (SharedSecret, Choice) {
    let shared = secret.diffie_hellman(&PublicKey::from(*their));
    let contributory = !shared.as_bytes().ct_eq(&[0; 32]);
    (shared, contributory)
}

pub(in crate::crypto) fn fresh_kem() -> Result<(DecapsulationKey, Box<[u8; KEM_PUBLIC]>), CryptoError> {
    let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| CryptoError)?;
    let public = key.encapsulation_key().and_then(|k| k.key_bytes()).map_err(|_| CryptoError)?;
    let public = <[u8; KEM_PUBLIC]>::try_from(public.as_ref()).map_err(|_| CryptoError)?;
    Ok((key, Box::new(public)))
}

pub(in crate::crypto) fn encapsulate(public: &[u8; KEM_PUBLIC]) -> Result<([u8; KEM_CIPHERTEXT], KemSecret), CryptoError> {
    let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| CryptoError)?;
    let (ciphertext, shared) = key.encapsulate().map_err(|_| CryptoError)?;
    let ciphertext = <[u8; KEM_CIPHERTEXT]>::try_from(ciphertext.as_ref()).map_err(|_| CryptoError)?;
    Ok((ciphertext, shared))
}

pub(in crate::crypto) fn decapsulate(key: &DecapsulationKey, ciphertext: &[u8; KEM_CIPHERTEXT]) -> Result<KemSecret, CryptoError> {
    key.decapsulate(Ciphertext::from(ciphertext.as_slice())).map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const NET: NetworkId = NetworkId([7; 32]);

    #[test]
    fn signatures_hold_for_one_key_label_and_message() {
        let mut rng = StdRng::seed_from_u64(1);
        let key = IdentityKey::generate(&mut rng);
        let other = IdentityKey::generate(&mut rng).node_id();
        let id = key.node_id();
        let sig = key.sign(Label::Descriptor, &[b"a", b"b"]);
        assert_eq!(verify(&id, Label::Descriptor, &[b"a", b"b"], &sig), Ok(()));
        assert_eq!(verify(&id, Label::Receipt, &[b"a", b"b"], &sig), Err(CryptoError));
        assert_eq!(verify(&id, Label::Descriptor, &[b"ab"], &sig), Err(CryptoError));
        assert_eq!(verify(&other, Label::Descriptor, &[b"a", b"b"], &sig), Err(CryptoError));
        for bit in 0..512 {
            let mut bad = sig;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(verify(&id, Label::Descriptor, &[b"a", b"b"], &bad), Err(CryptoError), "bit {bit}");
        }
    }

    #[test]
    fn identities_come_back_from_their_seed() {
        // RFC 8032, 7.1, test 1
        let seed = data_encoding::HEXLOWER.decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let id = IdentityKey::from_seed(&Secret::new(seed.try_into().unwrap())).node_id();
        assert_eq!(data_encoding::HEXLOWER.encode(&id.0), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // the neutral element: with it as key and as R, s = 0 passes a lax check for every message
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut sig = [0; 64];
        sig[..32].copy_from_slice(&neutral);
        assert_eq!(verify(&NodeId(neutral), Label::Descriptor, &[b"a"], &sig), Err(CryptoError));
    }

    #[test]
    fn link_proofs_hold_for_one_network_link_and_role() {
        let mut rng = StdRng::seed_from_u64(2);
        let key = IdentityKey::generate(&mut rng);
        let id = key.node_id();
        let proof = link_proof(&key, &NET, &[9; 32], true);
        assert_eq!(check_link_proof(&id, &NET, &[9; 32], true, &proof), Ok(()));
        assert_eq!(check_link_proof(&id, &NET, &[9; 32], false, &proof), Err(CryptoError));
        assert_eq!(check_link_proof(&id, &NET, &[8; 32], true, &proof), Err(CryptoError));
        assert_eq!(check_link_proof(&id, &NetworkId([8; 32]), &[9; 32], true, &proof), Err(CryptoError));
        let other = IdentityKey::generate(&mut rng).node_id();
        assert_eq!(check_link_proof(&other, &NET, &[9; 32], true, &proof), Err(CryptoError));
    }

    #[test]
    fn host_keys_come_back_from_bytes() {
        let mut rng = StdRng::seed_from_u64(3);
        let key = HostKey::generate(&mut rng, 0xa1b2_c3d4).unwrap();
        let bytes = key.to_bytes().unwrap();
        assert_eq!(bytes.len(), HostKey::BYTES);
        let back = HostKey::from_bytes(&bytes).unwrap();
        assert_eq!(back.id(), 0xa1b2_c3d4);
        assert_eq!(back.public().x25519, key.public().x25519);
        assert_eq!(back.public().mlkem, key.public().mlkem);
        assert_eq!(back.to_bytes().unwrap(), bytes);

        let (ciphertext, sent) = encapsulate(&key.public().mlkem).unwrap();
        assert_eq!(decapsulate(&back.mlkem, &ciphertext).unwrap().as_ref(), sent.as_ref());
    }

    #[test]
    fn damaged_host_keys_are_refused() {
        let mut rng = StdRng::seed_from_u64(4);
        let bytes = HostKey::generate(&mut rng, 1).unwrap().to_bytes().unwrap();
        for len in [0, 3, 4, 35, 36, bytes.len() - 1] {
            assert!(HostKey::from_bytes(&bytes[..len]).is_err(), "{len}");
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(HostKey::from_bytes(&long).is_err());
        // a secret vector, the public key, its hash
        for at in [36, 36 + KEM_PUBLIC_AT, 36 + KEM_PUBLIC_AT + KEM_PUBLIC] {
            let mut bad = bytes.clone();
            bad[at + 1] ^= 4;
            assert!(HostKey::from_bytes(&bad).is_err(), "{at}");
        }
    }

    #[test]
    fn nothing_secret_prints() {
        let mut rng = StdRng::seed_from_u64(5);
        assert_eq!(format!("{:?}", IdentityKey::generate(&mut rng)), "IdentityKey(..)");
        assert_eq!(format!("{:?}", HostKey::generate(&mut rng, 3).unwrap()), "HostKey(3, ..)");
    }
}
