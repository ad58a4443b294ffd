//! The erasure codes: 8 of 24 shares of a chunk, and parity chunks of a group (D11, D13). Bytes only; nothing is verified here.
//!
//! A chunk's 24 shares are the values of one polynomial of degree below 8 at the points 0 to 23 of GF(2^16); shares 0 to 7 are the
//! chunk itself. The transforms are those of reed-solomon-simd, and extending gives exactly what its encoder gives. Its decoder
//! spends 0.3 ms of fixed work per call on a table over the whole field, several times what one chunk needs; so shares are rebuilt
//! here by interpolation over the eight points, and only groups (up to 8 MiB at a time) use that decoder.

use crate::base::limits;
use crate::crypto::CryptoError;
use reed_solomon_simd::ReedSolomonDecoder;
use reed_solomon_simd::ReedSolomonEncoder;
use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::engine::Engine;
use reed_solomon_simd::engine::GF_MODULUS;
use reed_solomon_simd::engine::ShardsRefMut;
use reed_solomon_simd::engine::tables;
use reed_solomon_simd::engine::utils;

const K: usize = limits::SHARES_NEEDED;
const N: usize = limits::SHARES_TOTAL;
/// The rows of eight shares: rows 1 and 2 are parity.
const ROWS: usize = N / K;
/// Blocks of a part that are worked on at a time: eight inputs of 2 KiB stay in the nearest cache, those of a group in the next.
const STRIP: usize = 32;

/// Bytes of a [`Block`].
pub const BLOCK: usize = 64;
/// The unit of the code's arithmetic.
pub type Block = [u8; BLOCK];

/// Makes all 24 shares, of `share` blocks each, from the 8 that `shards` holds.
///
/// # Errors
/// Another number of blocks.
pub fn extend(shards: &mut Vec<Block>, share: usize) -> Result<(), CryptoError> {
    let row = K * share;
    if row == 0 || shards.len() != row {
        return Err(CryptoError);
    }
    shards.reserve_exact(2 * row);
    shards.extend_from_within(..);
    let engine = DefaultEngine::new();
    coefficients(&engine, shards, share, 1, 0);
    shards.extend_from_within(row..);
    values(&engine, shards, share, 1);
    values(&engine, shards, share, 2);
    Ok(())
}

/// All 24 shares from eight, as index and data of `share` blocks.
///
/// Eight values define the polynomial, so the given shares come out as they went in, whatever is in them.
///
/// # Errors
/// An index that is double or does not exist, or a share of another length.
pub fn interpolate(given: &[(u8, &[u8]); K], share: usize) -> Result<Vec<Block>, CryptoError> {
    let mut counts = [0; ROWS];
    let mut have = [false; N];
    for (index, data) in given {
        let at = usize::from(*index);
        if share == 0 || at >= N || have[at] || data.len() != share * BLOCK {
            return Err(CryptoError);
        }
        have[at] = true;
        counts[at / K] += 1;
    }
    // Only what is missing in one row must be interpolated: five shares at most in the row that has the most. The others follow
    // from it as parity does in encoding.
    let row = (0..ROWS).rev().max_by_key(|row| counts[*row]).unwrap_or(0);
    let mut shards = vec![[0; BLOCK]; N * share];
    for (index, data) in given.iter().filter(|(index, _)| usize::from(*index) / K == row) {
        let at = usize::from(*index);
        shards[at * share..][..share].copy_from_slice(data.as_chunks().0);
    }
    let engine = DefaultEngine::new();
    for at in (row * K..(row + 1) * K).filter(|at| !have[*at]) {
        one_value(&engine, given, at, &mut shards[at * share..][..share]);
    }
    let [a, b] = match row {
        0 => [1, 2],
        1 => [0, 2],
        _ => [0, 1],
    };
    let len = K * share;
    shards.copy_within(row * len..(row + 1) * len, a * len);
    coefficients(&engine, &mut shards, share, a, row);
    shards.copy_within(a * len..(a + 1) * len, b * len);
    values(&engine, &mut shards, share, a);
    values(&engine, &mut shards, share, b);
    Ok(shards)
}

/// Turns what lies in row `at`, the values of row `of`, into coefficients.
fn coefficients(engine: &DefaultEngine, shards: &mut [Block], share: usize, at: usize, of: usize) {
    let mut work = ShardsRefMut::new(shards.len() / share, share, shards);
    engine.ifft(&mut work, at * K, K, K, of * K);
}

/// Turns the coefficients in row `at` into the values of that row.
fn values(engine: &DefaultEngine, shards: &mut [Block], share: usize, at: usize) {
    let mut work = ShardsRefMut::new(shards.len() / share, share, shards);
    engine.fft(&mut work, at * K, K, K, at * K);
}

/// The polynomial's value at point `at`, by Lagrange's formula, into zeros; `at` is none of the given points, and those are
/// distinct. The sum of factor times share is taken in Horner's way, `((s0 * f0/f1 + s1) * f1/f2 + ..) * f7`: the multiplication
/// works in place, so nothing is copied for it.
fn one_value(engine: &DefaultEngine, given: &[(u8, &[u8]); K], at: usize, out: &mut [Block]) {
    let log = &tables::get_exp_log().log;
    let order = u32::from(GF_MODULUS);
    // Logarithms of the factors; none is zero, because the points are distinct.
    let factors = given.map(|(i, _)| {
        let others = given.iter().filter(|(k, _)| *k != i);
        let sum: u32 = others.map(|(k, _)| u32::from(log[at ^ usize::from(*k)]) + order - u32::from(log[usize::from(i ^ k)])).sum();
        sum % order
    });
    let mut ratios = [0; K];
    for (i, ratio) in ratios.iter_mut().enumerate() {
        let next = factors.get(i + 1).copied().unwrap_or(0);
        *ratio = ((factors[i] + order - next) % order) as u16;
    }
    for (strip, out) in out.chunks_mut(STRIP).enumerate() {
        for (ratio, (_, data)) in ratios.iter().zip(given) {
            utils::xor(out, &data.as_chunks().0[strip * STRIP..][..out.len()]);
            engine.mul(out, *ratio);
        }
    }
}

/// Parity of equal parts of `len` bytes (at most a strip, or whole strips): `count` more of them, with room to [`extend`] each.
///
/// Strip by strip: what is worked on stays in a cache, and takes no memory of the size of a group.
///
/// # Errors
/// Parts of another length, or more parts than the code has.
pub fn parity(parts: &[&[u8]], count: usize, len: usize) -> Result<Vec<Vec<Block>>, CryptoError> {
    let strip = len.min(STRIP * BLOCK);
    if strip == 0 || !len.is_multiple_of(strip) || parts.iter().any(|part| part.len() != len) {
        return Err(CryptoError);
    }
    let mut encoder = ReedSolomonEncoder::new(parts.len(), count, strip).map_err(|_| CryptoError)?;
    let mut made: Vec<Vec<Block>> = (0..count).map(|_| Vec::with_capacity(ROWS * len / BLOCK)).collect();
    for at in (0..len).step_by(strip) {
        for part in parts {
            encoder.add_original_shard(&part[at..at + strip]).map_err(|_| CryptoError)?;
        }
        let coded = encoder.encode().map_err(|_| CryptoError)?;
        made.iter_mut().zip(coded.recovery_iter()).for_each(|(made, strip)| made.extend_from_slice(strip.as_chunks().0));
    }
    Ok(made)
}

/// The missing originals of a code of `data` parts and `parity` more, each handed to `take` with its place, from enough distinct
/// others; `have` names originals first, then parity. What comes out is only as good as what went in.
///
/// # Errors
/// Too few parts, places that are double or do not exist, parts of another length, or what `take` says.
pub fn restore<T>(
    data: usize,
    parity: usize,
    len: usize,
    have: &[(usize, &[u8])],
    mut take: impl FnMut(usize, &[u8]) -> Result<T, CryptoError>,
) -> Result<Vec<T>, CryptoError> {
    let mut decoder = ReedSolomonDecoder::new(data, parity, len).map_err(|_| CryptoError)?;
    for (place, part) in have {
        match place.checked_sub(data) {
            None => decoder.add_original_shard(*place, part),
            Some(place) => decoder.add_recovery_shard(place, part),
        }
        .map_err(|_| CryptoError)?;
    }
    decoder.decode().map_err(|_| CryptoError)?.restored_original_iter().map(|(place, part)| take(place, part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;

    fn random_blocks(rng: &mut StdRng, n: usize) -> Vec<Block> {
        let mut blocks = vec![[0; BLOCK]; n];
        rng.fill_bytes(blocks.as_flattened_mut());
        blocks
    }

    fn library(parts: &[&[u8]], count: usize, len: usize) -> Vec<Vec<u8>> {
        let mut encoder = ReedSolomonEncoder::new(parts.len(), count, len).unwrap();
        parts.iter().for_each(|part| encoder.add_original_shard(part).unwrap());
        encoder.encode().unwrap().recovery_iter().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn extending_is_what_the_library_encodes() {
        let mut rng = StdRng::seed_from_u64(1);
        for share in [1, 2, 33, 128] {
            let mut shards = random_blocks(&mut rng, K * share);
            let before = shards.clone();
            let parts: Vec<&[u8]> = before.chunks(share).map(<[Block]>::as_flattened).collect();
            extend(&mut shards, share).unwrap();
            let got: Vec<&[u8]> = shards.chunks(share).map(<[Block]>::as_flattened).collect();
            assert_eq!(got[..K], parts, "{share}");
            assert_eq!(got[K..], library(&parts, N - K, share * BLOCK), "{share}");
        }
    }

    #[test]
    fn any_eight_give_all_twenty_four() {
        for seed in 0..300 {
            let mut rng = StdRng::seed_from_u64(seed);
            let share = 1 + usize::try_from(seed).unwrap() % 40;
            let mut all = random_blocks(&mut rng, K * share);
            extend(&mut all, share).unwrap();
            let mut order: Vec<u8> = (0..24).collect();
            order.shuffle(&mut rng);
            let given: Vec<(u8, &[u8])> =
                order[..K].iter().map(|i| (*i, all[usize::from(*i) * share..][..share].as_flattened())).collect();
            assert!(interpolate(&given.try_into().unwrap(), share).unwrap() == all, "seed {seed}");
        }
    }

    #[test]
    fn double_foreign_and_short_parts_are_refused() {
        let data = [[1u8; BLOCK]; K];
        let good: [(u8, &[u8]); K] = core::array::from_fn(|i| (u8::try_from(i).unwrap(), &data[i][..]));
        assert!(interpolate(&good, 1).is_ok());
        for bad in [(1, &data[0][..]), (24, &data[0][..]), (255, &data[0][..]), (9, &data[0][..62])] {
            let mut given = good;
            given[0] = bad;
            assert!(interpolate(&given, 1).is_err());
        }
        assert!(interpolate(&good, 0).is_err());
        assert!(extend(&mut data[1..].to_vec(), 1).is_err());
        assert!(extend(&mut Vec::new(), 0).is_err());
        let long = [1; (STRIP + 1) * BLOCK];
        let bad: [(&[&[u8]], usize); 4] = [(&[&long[..64], &long[..63]], 64), (&[&long], long.len()), (&[], 64), (&[&[]], 0)];
        for (parts, len) in bad {
            assert!(parity(parts, 1, len).is_err(), "{len}");
        }
    }

    #[test]
    fn a_group_comes_back_from_any_parts_of_it() {
        for data in 1..=limits::GROUP_DATA {
            let mut rng = StdRng::seed_from_u64(data as u64);
            let blocks = if data % 2 == 0 { 3 } else { 3 * STRIP };
            let (len, count) = (blocks * BLOCK, data.div_ceil(4));
            let random = random_blocks(&mut rng, blocks * data);
            let parts: Vec<&[u8]> = random.chunks(blocks).map(<[Block]>::as_flattened).collect();
            let more = parity(&parts, count, len).unwrap();
            let all: Vec<&[u8]> = parts.iter().copied().chain(more.iter().map(|part| part.as_flattened())).collect();
            assert_eq!(all[data..], library(&parts, count, len), "seed {data}");
            let mut places: Vec<usize> = (0..all.len()).collect();
            places.shuffle(&mut rng);
            let (have, lost) = places.split_at(data);
            let have: Vec<(usize, &[u8])> = have.iter().map(|p| (*p, all[*p])).collect();
            let back = restore(data, count, len, &have, |place, part| Ok((place, part.to_vec()))).unwrap();
            assert_eq!(back.len(), lost.iter().filter(|p| **p < data).count(), "seed {data}");
            for (place, part) in back {
                assert_eq!(part, all[place], "seed {data}");
            }
            assert!(restore(data, count, len, &have[1..], |_, _| Ok(())).is_err(), "seed {data}");
        }
    }
}
