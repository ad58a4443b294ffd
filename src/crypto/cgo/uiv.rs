//! UIV+, the rugged wide-block cipher under Counter Galois Onion, and its two parts, for any body size.
//!
//! ```text
//! ET (LRW2)   h = POLYVAL(KU, tweak);  Y = h ^ AES(KB, X ^ h)                                 key KB 16 | KU 16
//! PRF         AES-CTR(K) from clear(POLYVAL(B, tweak)) + C * t;  t = 0 a pad, t = 1 new keys  key K 16 | B 16
//! UIV+        Y_L = ET(J, H | X_R, X_L);  Y_R = X_R ^ PRF(S, Y_L, 0)                          key J 32 | S 32
//! ```
//!
//! A body is X_L (16 bytes) and X_R (the rest); H is the tag of the cell before (T') and one byte of associated data. Encrypting
//! cannot be steered by who changes its input, decrypting can: relays always encrypt, clients always decrypt.
//!
//! Two constants follow from the body size: C ([`update_offset`]) keeps new keys apart from the pad, and `clear` zeroes so many low
//! bits ([`cleared_bits`]) that adding a block number never carries. For 509 bytes they are the public ones, 31 and 6.

use crate::crypto::secret::Secret;
use aes::Aes128Dec;
use aes::Aes128Enc;
use aes::cipher::Array;
use aes::cipher::BlockCipherDecrypt;
use aes::cipher::BlockCipherEncBackend;
use aes::cipher::BlockCipherEncClosure;
use aes::cipher::BlockCipherEncrypt;
use aes::cipher::BlockSizeUser;
use aes::cipher::KeyInit;
use aes::cipher::ParBlocks;
use aes::cipher::consts::U16;
use polyval::Polyval;
use polyval::universal_hash::UniversalHash;

/// Bytes of a cipher block, of a tag, and of a nonce.
pub const BLOCK: usize = 16;
/// Bytes of a UIV+ key: J and S.
pub const KEY: usize = 64;
/// Bytes that a key update draws: a key and a nonce.
pub const UPDATE: usize = KEY + BLOCK;

type Block = Array<u8, U16>;

/// C: counter blocks between the pad and the update material, so that the two never meet.
pub const fn update_offset(body: usize) -> usize {
    (body - BLOCK).div_ceil(BLOCK)
}

/// k: low bits that are cleared in the first counter: the smallest k with 2^k >= C + blocks of an update.
pub const fn cleared_bits(body: usize) -> u32 {
    usize::BITS - (update_offset(body) + UPDATE / BLOCK - 1).leading_zeros()
}

/// Splits a key in half; both halves of every key here are independent.
fn halves<const N: usize, const HALF: usize>(key: &[u8; N]) -> (&[u8; HALF], &[u8; HALF]) {
    const { assert!(N == 2 * HALF) };
    match (key.first_chunk(), key.last_chunk()) {
        (Some(a), Some(b)) => (a, b),
        _ => unreachable!("HALF < N, checked at compile time"),
    }
}

/// Splits a body into its left block and the rest.
fn sides<const BODY: usize>(body: &mut [u8; BODY]) -> (&mut [u8; BLOCK], &mut [u8]) {
    const { assert!(BODY > BLOCK) };
    match body.split_first_chunk_mut() {
        Some(sides) => sides,
        None => unreachable!("BODY > BLOCK, checked at compile time"),
    }
}

/// What [`Et`] needs of a block cipher, in the direction of its layer.
pub trait Permutation {
    /// Expands a key.
    fn keyed(key: &[u8; BLOCK]) -> Self;
    /// Permutes a block.
    fn permute(&self, block: &mut Block);
}

impl Permutation for Aes128Enc {
    fn keyed(key: &[u8; BLOCK]) -> Self {
        Self::new(key.into())
    }

    fn permute(&self, block: &mut Block) {
        self.encrypt_block(block);
    }
}

impl Permutation for Aes128Dec {
    fn keyed(key: &[u8; BLOCK]) -> Self {
        Self::new(key.into())
    }

    fn permute(&self, block: &mut Block) {
        self.decrypt_block(block);
    }
}

/// ET, the tweakable block cipher of one direction: `Et<Aes128Enc>` encrypts, `Et<Aes128Dec>` decrypts.
pub struct Et<P> {
    cipher: P,
    hash: Polyval,
}

impl<P: Permutation> Et<P> {
    /// From KB and KU.
    pub fn new(key: &[u8; 2 * BLOCK]) -> Self {
        let (kb, ku) = halves(key);
        Self { cipher: P::keyed(kb), hash: Polyval::new(ku.into()) }
    }

    /// The block under the tweak `previous | ad | right`.
    pub fn apply(&self, previous: &[u8; BLOCK], ad: u8, right: &[u8], block: &mut [u8; BLOCK]) {
        let h = self.tweak(previous, ad, right);
        let mut x = Block::from(*block);
        xor(&mut x, &h);
        self.cipher.permute(&mut x);
        xor(&mut x, &h);
        *block = x.into();
    }

    /// POLYVAL of the tweak, padded with zeros to whole blocks. Everything goes to the hash in runs of four blocks, which it takes
    /// several times faster than single ones: leading zero blocks change nothing (the sum starts at zero), and so fill up the first
    /// run; the last run is completed in a buffer, and the run between is hashed where it lies.
    fn tweak(&self, previous: &[u8; BLOCK], ad: u8, right: &[u8]) -> Block {
        const RUN: usize = 4 * BLOCK;
        let mut hash = self.hash.clone();
        let blocks = (BLOCK + 1 + right.len()).div_ceil(BLOCK);
        // Three would leave no room for the tag and `ad` in the first run: then the last run is a short one.
        let lead = match (4 - blocks % 4) % 4 * BLOCK {
            lead if lead + BLOCK < RUN - BLOCK => lead,
            _ => 0,
        };

        let mut first = [0; RUN];
        let used = lead + BLOCK + 1;
        let head = right.len().min(RUN - used);
        let (start, rest) = right.split_at(head);
        first[lead..lead + BLOCK].copy_from_slice(previous);
        first[lead + BLOCK] = ad;
        first[used..used + head].copy_from_slice(start);
        let (blocks, _) = Array::slice_as_chunks(&first);
        // Only a body of under three blocks leaves part of the first run empty.
        hash.update(&blocks[..(used + head).div_ceil(BLOCK)]);

        let (middle, end) = rest.split_at(rest.len() / RUN * RUN);
        let (blocks, _) = Array::slice_as_chunks(middle);
        hash.update(blocks);
        let mut last = [0; RUN];
        last[..end.len()].copy_from_slice(end);
        let (blocks, _) = Array::slice_as_chunks(&last);
        hash.update(&blocks[..end.len().div_ceil(BLOCK)]);
        hash.finalize()
    }
}

fn xor(block: &mut Block, with: &Block) {
    for (a, b) in block.iter_mut().zip(with) {
        *a ^= b;
    }
}

/// PRF: pads and key updates.
pub struct Prf<const BODY: usize> {
    cipher: Aes128Enc,
    hash: Polyval,
}

impl<const BODY: usize> Prf<BODY> {
    /// From K and B.
    pub fn new(key: &[u8; 2 * BLOCK]) -> Self {
        let (k, b) = halves(key);
        Self { cipher: Aes128Enc::new(k.into()), hash: Polyval::new(b.into()) }
    }

    /// XORs the pad of a tweak (t = 0) onto at most `BODY - 16` bytes.
    pub fn pad(&self, tweak: &[u8; BLOCK], data: &mut [u8]) {
        const { assert!(update_offset(BODY) <= NUMBERS.len() / BLOCK) };
        debug_assert!(data.len() <= BODY - BLOCK);
        self.cipher.encrypt_with_backend(Pad { first: self.start(tweak).to_be_bytes(), data });
    }

    /// The update material of a tweak (t = 1).
    pub fn update(&self, tweak: &[u8; BLOCK]) -> Secret<UPDATE> {
        let first = self.start(tweak) + update_offset(BODY) as u128;
        Secret::init(|out| {
            let blocks = out.as_chunks_mut::<BLOCK>().0;
            for (block, counter) in blocks.iter_mut().zip(first..) {
                *block = counter.to_be_bytes();
            }
            self.cipher.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
        })
    }

    /// The first counter of a tweak, with its low bits cleared.
    fn start(&self, tweak: &[u8; BLOCK]) -> u128 {
        let mut hash = self.hash.clone();
        hash.update(&[Block::from(*tweak)]);
        let start = u128::from_be_bytes(hash.finalize().into());
        start >> cleared_bits(BODY) << cleared_bits(BODY)
    }
}

/// Bytes that the pad is made and applied in: the widest vector of any machine, so that the loops over them become one instruction.
const WIDE: usize = 64;

/// The block numbers 0 to 255 as big-endian counters. As the low bits of a first counter are clear, adding a number is an XOR.
static NUMBERS: [u8; 256 * BLOCK] = {
    let mut numbers = [0; 256 * BLOCK];
    let mut i = 0;
    while i < 256 {
        numbers[(i + 1) * BLOCK - 1] = i as u8;
        i += 1;
    }
    numbers
};

/// Counter mode over data, in runs as long as the cipher likes.
struct Pad<'a> {
    first: [u8; BLOCK],
    data: &'a mut [u8],
}

impl BlockSizeUser for Pad<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Pad<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut wide = [0; WIDE];
        for block in wide.as_chunks_mut().0 {
            *block = self.first;
        }
        let mut pad = ParBlocks::<B>::default();
        let run = pad.len() * BLOCK;
        for (data, numbers) in self.data.chunks_mut(run).zip(NUMBERS.chunks(run)) {
            if data.len() == run {
                xored(Array::slice_as_flattened_mut(&mut pad), numbers, &wide);
                backend.encrypt_par_blocks((&mut pad).into());
                apply(data, Array::slice_as_flattened(&pad));
            } else {
                let pad = &mut pad[..data.len().div_ceil(BLOCK)];
                xored(Array::slice_as_flattened_mut(pad), numbers, &wide);
                backend.encrypt_tail_blocks_inplace(pad);
                apply(data, Array::slice_as_flattened(pad));
            }
        }
    }
}

/// Fills `to` with numbers, each XORed with the first counter.
#[inline(always)]
fn xored(to: &mut [u8], numbers: &[u8], first: &[u8; WIDE]) {
    let (to, to_rest) = to.as_chunks_mut::<WIDE>();
    let (numbers, numbers_rest) = numbers.as_chunks::<WIDE>();
    for (to, numbers) in to.iter_mut().zip(numbers) {
        for ((to, number), first) in to.iter_mut().zip(numbers).zip(first) {
            *to = number ^ first;
        }
    }
    let numbers_rest = numbers.get(to.len()).map_or(numbers_rest, |chunk| &chunk[..]);
    for ((to, number), first) in to_rest.iter_mut().zip(numbers_rest).zip(first) {
        *to = number ^ first;
    }
}

/// XORs a pad onto data.
#[inline(always)]
fn apply(data: &mut [u8], pad: &[u8]) {
    for (data, pad) in data.iter_mut().zip(pad) {
        *data ^= pad;
    }
}

/// UIV+ in one direction; see [`UivEncrypt`] and [`UivDecrypt`].
pub struct Uiv<P, const BODY: usize> {
    et: Et<P>,
    prf: Prf<BODY>,
}

/// UIV+ at a relay.
pub type UivEncrypt<const BODY: usize> = Uiv<Aes128Enc, BODY>;
/// UIV+ at a client.
pub type UivDecrypt<const BODY: usize> = Uiv<Aes128Dec, BODY>;

impl<P: Permutation, const BODY: usize> Uiv<P, BODY> {
    /// From J and S.
    pub fn new(key: &[u8; KEY]) -> Self {
        let (j, s) = halves(key);
        Self { et: Et::new(j), prf: Prf::new(s) }
    }

    /// The next key and nonce, drawn by this key from a nonce or tag.
    pub fn update(&self, nonce: &[u8; BLOCK]) -> Secret<UPDATE> {
        self.prf.update(nonce)
    }

    /// Whether two keys are the same, without showing either: keyed permutations and hashes are compared by what they do to one
    /// input.
    pub(super) fn same_key(&self, other: &Self) -> bool {
        let probe = |uiv: &Self| {
            let mut et = [1; BLOCK];
            uiv.et.apply(&[2; BLOCK], 3, &[4; BLOCK], &mut et);
            (et, *uiv.update(&[5; BLOCK]).expose())
        };
        probe(self) == probe(other)
    }
}

impl<const BODY: usize> UivEncrypt<BODY> {
    /// Encrypts a body under the tweak `previous | ad`.
    pub fn encrypt(&self, previous: &[u8; BLOCK], ad: u8, body: &mut [u8; BODY]) {
        let (left, right) = sides(body);
        self.et.apply(previous, ad, right, left);
        self.prf.pad(left, right);
    }
}

impl<const BODY: usize> UivDecrypt<BODY> {
    /// Decrypts a body under the tweak `previous | ad`.
    pub fn decrypt(&self, previous: &[u8; BLOCK], ad: u8, body: &mut [u8; BODY]) {
        let (left, right) = sides(body);
        self.prf.pad(left, right);
        self.et.apply(previous, ad, right, left);
    }
}
