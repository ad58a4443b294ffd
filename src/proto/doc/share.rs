//! A chunk and its 24 shares: Reed-Solomon (any 8 rebuild it), a Merkle tree over their hashes, and the address of a stored copy (D11).

use crate::base::Address;
use crate::base::limits;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::secret::Secret;
use crate::wire::share::Class;
use crate::wire::share::ShareRef;
use reed_solomon_simd::ReedSolomonDecoder;
use reed_solomon_simd::ReedSolomonEncoder;

const K: usize = limits::SHARES_NEEDED;
const N: usize = limits::SHARES_TOTAL;
const LEAVES: usize = 1 << limits::SHARE_PATH;
/// Version of the address computation.
const ADDRESS_VERSION: u8 = 1;

/// A chunk with everything that its shares need.
pub struct EncodedChunk {
    /// Share class.
    pub class: Class,
    /// Merkle root over the share hashes.
    pub root: [u8; 32],
    /// The sealed chunk: shares 0..8.
    sealed: Vec<u8>,
    /// Shares 8..24.
    parity: Vec<u8>,
    tree: Box<[[u8; 32]; 2 * LEAVES]>,
}

impl core::fmt::Debug for EncodedChunk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EncodedChunk").field("class", &self.class).finish_non_exhaustive()
    }
}

impl EncodedChunk {
    /// The sealed chunk itself.
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    /// A share's data; empty if there is no such share.
    pub fn data(&self, index: u8) -> &[u8] {
        let (len, i) = (self.class.share_len(), usize::from(index));
        let shares = if i < K { &self.sealed } else { &self.parity };
        let at = if i < K { i } else { i - K } * len;
        shares.get(at..at + len).unwrap_or_default()
    }

    /// The blob of a share of the copy that this salt makes.
    pub fn share_blob(&self, index: u8, salt: [u8; 16]) -> Vec<u8> {
        let mut path = [[0; 32]; limits::SHARE_PATH];
        let mut at = LEAVES + usize::from(index);
        for sibling in &mut path {
            *sibling = self.tree.get(at ^ 1).copied().unwrap_or_default();
            at /= 2;
        }
        ShareRef { class: self.class, index, salt, path, data: self.data(index) }.to_blob()
    }
}

/// The salt of stored copy number `copy` of the chunk with this root, from K_v.
pub fn salt(k_v: &Secret<32>, root: &[u8; 32], copy: u8) -> [u8; 16] {
    *derive::<16>(Label::ShareSalt, k_v.expose(), &[root, &[copy]]).expose()
}

/// The address of a stored copy.
pub fn address(root: &[u8; 32], class: Class, salt: &[u8; 16]) -> Address {
    Address(hash(Label::Address, &[&[ADDRESS_VERSION, class.to_u8(), K as u8, N as u8], salt, root]))
}

fn leaf(index: u8, data: &[u8]) -> [u8; 32] {
    hash(Label::ShareLeaf, &[&[index], data])
}

/// The tree as a heap: node 1 is the root, node `LEAVES + i` leaf `i`; leaves past the last share are zero.
fn tree(leaves: impl Iterator<Item = [u8; 32]>) -> Box<[[u8; 32]; 2 * LEAVES]> {
    let mut nodes = Box::new([[0; 32]; 2 * LEAVES]);
    for (node, leaf) in nodes.iter_mut().skip(LEAVES).zip(leaves) {
        *node = leaf;
    }
    for i in (1..LEAVES).rev() {
        let below = nodes.get(2 * i..2 * i + 2).map(|pair| hash(Label::ShareNode, &[pair.as_flattened()]));
        if let (Some(node), Some(below)) = (nodes.get_mut(i), below) {
            *node = below;
        }
    }
    nodes
}

/// Codes a sealed chunk into its shares.
pub fn encode_chunk(sealed: Vec<u8>, class: Class) -> Result<EncodedChunk, CryptoError> {
    if sealed.len() != class.chunk_len() {
        return Err(CryptoError);
    }
    let parity = parity(sealed.chunks_exact(class.share_len()), N - K, class.share_len())?;
    Ok(finish(sealed, parity, class, &[]))
}

/// Hashes all shares but those whose leaf is known, and builds the tree.
fn finish(sealed: Vec<u8>, parity: Vec<u8>, class: Class, known: &[(u8, [u8; 32])]) -> EncodedChunk {
    let len = class.share_len();
    let shares = sealed.chunks_exact(len).chain(parity.chunks_exact(len));
    let tree = tree(
        (0..)
            .zip(shares)
            .map(|(index, data)| known.iter().find(|(i, _)| *i == index).map_or_else(|| leaf(index, data), |(_, leaf)| *leaf)),
    );
    let [_, root, ..] = *tree;
    EncodedChunk { class, root, sealed, parity, tree }
}

/// Reed-Solomon parity of equal parts, back to back.
pub fn parity<'a>(parts: impl ExactSizeIterator<Item = &'a [u8]>, count: usize, len: usize) -> Result<Vec<u8>, CryptoError> {
    let mut encoder = ReedSolomonEncoder::new(parts.len(), count, len).map_err(|_| CryptoError)?;
    for part in parts {
        encoder.add_original_shard(part).map_err(|_| CryptoError)?;
    }
    let coded = encoder.encode().map_err(|_| CryptoError)?;
    let mut parity = Vec::with_capacity(count * len);
    coded.recovery_iter().for_each(|part| parity.extend_from_slice(part));
    Ok(parity)
}

/// All original parts, from enough distinct parts of a code of `data + parity`; `have` names originals first, then parity.
pub fn restore(data: usize, parity: usize, len: usize, have: &[(usize, &[u8])]) -> Result<Vec<u8>, CryptoError> {
    let mut all = vec![0; data * len];
    let mut missing = vec![true; data];
    for (i, part) in have.iter().filter(|(i, _)| *i < data) {
        all.get_mut(i * len..(i + 1) * len).filter(|to| to.len() == part.len()).ok_or(CryptoError)?.copy_from_slice(part);
        *missing.get_mut(*i).ok_or(CryptoError)? = false;
    }
    if !missing.contains(&true) {
        return Ok(all);
    }
    let mut decoder = ReedSolomonDecoder::new(data, parity, len).map_err(|_| CryptoError)?;
    for (i, part) in have {
        match i.checked_sub(data) {
            None => decoder.add_original_shard(*i, part),
            Some(i) => decoder.add_recovery_shard(i, part),
        }
        .map_err(|_| CryptoError)?;
    }
    let restored = decoder.decode().map_err(|_| CryptoError)?;
    for (i, part) in restored.restored_original_iter() {
        all.get_mut(i * len..(i + 1) * len).ok_or(CryptoError)?.copy_from_slice(part);
    }
    Ok(all)
}

/// Checks a share alone: its path leads to a root, and root and salt to the address that is given back.
pub fn verify_share(blob: &[u8]) -> Result<(Address, ShareRef<'_>), CryptoError> {
    let share = ShareRef::read(blob).map_err(|_| CryptoError)?;
    let mut at = leaf(share.index, share.data);
    let mut place = usize::from(share.index);
    for sibling in &share.path {
        let pair = if place % 2 == 0 { [at, *sibling] } else { [*sibling, at] };
        at = hash(Label::ShareNode, &[pair.as_flattened()]);
        place /= 2;
    }
    Ok((address(&at, share.class, &share.salt), share))
}

/// Rebuilds a chunk from 8 distinct shares that were verified against `root`, codes it anew and compares the root: a publisher whose shares
/// are not one codeword would otherwise show different documents to different readers.
///
/// The leaves of the given shares need no second hash: they are part of the codeword that they define, and their hashes led to `root`.
pub fn rebuild(class: Class, root: &[u8; 32], shares: &[(u8, [u8; 32], &[u8])]) -> Result<Vec<u8>, CryptoError> {
    let len = class.share_len();
    let have: Vec<(usize, &[u8])> = shares.iter().map(|(index, _, data)| (usize::from(*index), *data)).collect();
    let known: Vec<(u8, [u8; 32])> = shares.iter().map(|(index, leaf, _)| (*index, *leaf)).collect();
    let sealed = restore(K, N - K, len, &have)?;
    let parity = parity(sealed.chunks_exact(len), N - K, len)?;
    let again = finish(sealed, parity, class, &known);
    if again.root == *root { Ok(again.sealed) } else { Err(CryptoError) }
}

/// The leaf hash of a verified share, for [`rebuild`].
pub fn leaf_of(share: &ShareRef<'_>) -> [u8; 32] {
    leaf(share.index, share.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    fn chunk(fill: u64) -> EncodedChunk {
        use rand::Rng;
        use rand::SeedableRng;
        let mut sealed = vec![0; Class::Small.chunk_len()];
        rand::rngs::StdRng::seed_from_u64(fill).fill_bytes(&mut sealed);
        encode_chunk(sealed, Class::Small).unwrap()
    }

    fn verified(blobs: &[Vec<u8>]) -> Vec<(u8, [u8; 32], &[u8])> {
        blobs.iter().map(|b| verify_share(b).unwrap().1).map(|s| (s.index, leaf_of(&s), s.data)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_eight_rebuild(indexes in subsequence((0..24u8).collect::<Vec<_>>(), 8), fill: u64) {
            let c = chunk(fill);
            let blobs: Vec<_> = indexes.iter().map(|i| c.share_blob(*i, [5; 16])).collect();
            for b in &blobs {
                prop_assert_eq!(verify_share(b).unwrap().0, address(&c.root, Class::Small, &[5; 16]));
            }
            prop_assert_eq!(rebuild(Class::Small, &c.root, &verified(&blobs)).unwrap(), c.sealed());
        }

        #[test]
        fn a_changed_bit_changes_the_address(at in 0..Class::Small.blob_len(), bit in 0..8u8) {
            let c = chunk(1);
            let mut blob = c.share_blob(9, [5; 16]);
            blob[at] ^= 1 << bit;
            let right = address(&c.root, Class::Small, &[5; 16]);
            prop_assert!(verify_share(&blob).map_or(true, |(at, _)| at != right));
        }
    }

    #[test]
    fn seven_do_not_rebuild() {
        let c = chunk(2);
        let blobs: Vec<_> = (0..7).map(|i| c.share_blob(i, [0; 16])).collect();
        assert!(rebuild(Class::Small, &c.root, &verified(&blobs)).is_err());
    }

    #[test]
    fn shares_that_are_not_one_codeword_are_found_out_whichever_eight_come() {
        // A malicious encoder: a tree over 24 shares of which one belongs to another chunk.
        let (a, b) = (chunk(3), chunk(4));
        for odd in 0..24u8 {
            let shares: Vec<&[u8]> = (0..24).map(|i| if i == odd { b.data(i) } else { a.data(i) }).collect();
            let nodes = tree((0..).zip(&shares).map(|(i, d)| leaf(i, d)));
            let root = nodes[1];
            for first in 0..16u8 {
                let given: Vec<_> =
                    (first..first + 8).map(|i| (i, leaf(i, shares[usize::from(i)]), shares[usize::from(i)])).collect();
                assert!(rebuild(Class::Small, &root, &given).is_err(), "odd {odd}, first {first}");
            }
        }
    }
}
