//! A chunk and its 24 shares: Reed-Solomon (any 8 rebuild it), a Merkle tree over their hashes, and the address of a stored copy
//! (D11).

use crate::base::Address;
use crate::base::limits;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::kdf::hash_long;
use crate::crypto::secret::Secret;
use crate::proto::doc::code;
use crate::proto::doc::code::BLOCK;
use crate::proto::doc::code::Block;
use crate::wire::share::Class;
use crate::wire::share::ShareRef;

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
    /// All shares, one behind the other.
    shards: Vec<Block>,
    tree: Box<[[u8; 32]; 2 * LEAVES]>,
}

impl core::fmt::Debug for EncodedChunk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EncodedChunk").field("class", &self.class).finish_non_exhaustive()
    }
}

impl EncodedChunk {
    /// The sealed chunk itself: shares 0 to 7.
    pub fn sealed(&self) -> &[u8] {
        self.shards.as_flattened().get(..self.class.chunk_len()).unwrap_or_default()
    }

    /// The sealed chunk alone, in the same memory; the rest of that is given back.
    pub fn into_sealed(self) -> Vec<u8> {
        let mut sealed = self.shards.into_flattened();
        sealed.truncate(self.class.chunk_len());
        sealed.shrink_to_fit();
        sealed
    }

    /// A share's data; empty if there is no such share.
    pub fn data(&self, index: u8) -> &[u8] {
        self.shards.as_flattened().chunks_exact(self.class.share_len()).nth(usize::from(index)).unwrap_or_default()
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
    hash_long(Label::ShareLeaf, data, index)
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

/// Bytes, padded with zeros to the length of a chunk, with room for the shares that [`encode_chunk`] adds.
///
/// # Errors
/// More bytes than a chunk has.
pub fn padded(bytes: &[u8], class: Class) -> Result<Vec<Block>, CryptoError> {
    if bytes.len() > class.chunk_len() {
        return Err(CryptoError);
    }
    let (whole, rest) = bytes.as_chunks();
    let mut shards = Vec::with_capacity(N * class.share_len() / BLOCK);
    shards.extend_from_slice(whole);
    if !rest.is_empty() {
        let mut last = [0; BLOCK];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        shards.push(last);
    }
    shards.resize(class.chunk_len() / BLOCK, [0; BLOCK]);
    Ok(shards)
}

/// Codes a sealed chunk into its shares.
///
/// # Errors
/// Not the length of a chunk.
pub fn encode_chunk(mut sealed: Vec<Block>, class: Class) -> Result<EncodedChunk, CryptoError> {
    code::extend(&mut sealed, class.share_len() / BLOCK)?;
    Ok(finish(sealed, class, &[]))
}

/// Hashes all shares but those whose leaf is known, and builds the tree.
fn finish(shards: Vec<Block>, class: Class, known: &[(u8, [u8; 32])]) -> EncodedChunk {
    let shares = shards.as_flattened().chunks_exact(class.share_len());
    let tree = tree(
        (0..)
            .zip(shares)
            .map(|(index, data)| known.iter().find(|(i, _)| *i == index).map_or_else(|| leaf(index, data), |(_, leaf)| *leaf)),
    );
    let [_, root, ..] = *tree;
    EncodedChunk { class, root, shards, tree }
}

/// A share that agrees with itself, and where that makes it belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    /// Where it belongs. A share that came for another address is not the one that was asked for.
    pub address: Address,
    /// Its leaf hash, for [`rebuild`].
    pub leaf: [u8; 32],
    /// The share.
    pub share: ShareRef<'a>,
}

/// Checks a share alone: its path leads to a root, and root and salt to the address that is given back.
///
/// # Errors
/// Bytes that are no share blob.
pub fn verify_share(blob: &[u8]) -> Result<Verified<'_>, CryptoError> {
    let share = ShareRef::read(blob).map_err(|_| CryptoError)?;
    let leaf = leaf(share.index, share.data);
    let mut at = leaf;
    let mut place = usize::from(share.index);
    for sibling in &share.path {
        let pair = if place % 2 == 0 { [at, *sibling] } else { [*sibling, at] };
        at = hash(Label::ShareNode, &[pair.as_flattened()]);
        place /= 2;
    }
    Ok(Verified { address: address(&at, share.class, &share.salt), leaf, share })
}

/// Rebuilds a chunk from 8 distinct shares (index, leaf, data) that were verified against `root`, all 24 shares of it, and compares
/// the root: a publisher whose shares are not one codeword would otherwise show different documents to different readers.
///
/// The leaves of the given shares need no second hash: they are part of the codeword that they define, and their hashes led to
/// `root`.
///
/// # Errors
/// Not 8 distinct shares of this class, or they are not of one codeword with this root.
pub fn rebuild(class: Class, root: &[u8; 32], shares: &[(u8, [u8; 32], &[u8])]) -> Result<Vec<u8>, CryptoError> {
    let shares: &[_; K] = shares.try_into().map_err(|_| CryptoError)?;
    let shards = code::interpolate(&shares.map(|(index, _, data)| (index, data)), class.share_len() / BLOCK)?;
    let again = finish(shards, class, &shares.map(|(index, leaf, _)| (index, leaf)));
    if again.root == *root { Ok(again.into_sealed()) } else { Err(CryptoError) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    fn chunk(fill: u64) -> EncodedChunk {
        use rand::Rng;
        use rand::SeedableRng;
        let mut sealed = padded(&[], Class::Small).unwrap();
        rand::rngs::StdRng::seed_from_u64(fill).fill_bytes(sealed.as_flattened_mut());
        encode_chunk(sealed, Class::Small).unwrap()
    }

    fn verified(blobs: &[Vec<u8>]) -> Vec<(u8, [u8; 32], &[u8])> {
        blobs.iter().map(|b| verify_share(b).unwrap()).map(|v| (v.share.index, v.leaf, v.share.data)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_eight_rebuild(indexes in subsequence((0..24u8).collect::<Vec<_>>(), 8), fill: u64) {
            let c = chunk(fill);
            let blobs: Vec<_> = indexes.iter().map(|i| c.share_blob(*i, [5; 16])).collect();
            for b in &blobs {
                prop_assert_eq!(verify_share(b).unwrap().address, address(&c.root, Class::Small, &[5; 16]));
            }
            prop_assert_eq!(rebuild(Class::Small, &c.root, &verified(&blobs)).unwrap(), c.sealed());
        }

        #[test]
        fn a_changed_bit_changes_the_address(at in 0..Class::Small.blob_len(), bit in 0..8u8) {
            let c = chunk(1);
            let mut blob = c.share_blob(9, [5; 16]);
            blob[at] ^= 1 << bit;
            let right = address(&c.root, Class::Small, &[5; 16]);
            prop_assert!(verify_share(&blob).map_or(true, |v| v.address != right));
        }
    }

    #[test]
    fn bytes_are_padded_to_a_chunk_and_never_cut() {
        let len = Class::Small.chunk_len();
        for n in [0, 1, 63, 64, 65, len - 64, len - 1, len] {
            let bytes: Vec<u8> = (0..n).map(|i| i as u8 | 1).collect();
            let chunk = padded(&bytes, Class::Small).unwrap();
            assert_eq!(chunk.as_flattened(), [bytes, vec![0; len - n]].concat());
        }
        for n in [len + 1, len + 63, len + 64, 2 * len] {
            assert!(padded(&vec![1; n], Class::Small).is_err());
        }
        let mut short = padded(&[], Class::Small).unwrap();
        short.pop();
        assert!(encode_chunk(short, Class::Small).is_err());
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
