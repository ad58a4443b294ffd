//! Encoding (seal, code, hash; document-level parity included) and decoding (verify eight shares, rebuild, code anew, compare,
//! open), per core, against the sum of the primitives in the same run; for encoding, also of the memory that it fills.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and ends where it fails")]

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use onionskin::base::limits;
use onionskin::crypto::secret::Secret;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::doc::layout::Layout;
use onionskin::proto::doc::share::{self, EncodedChunk};
use onionskin::proto::doc::{DocJob, DocJobResult};
use onionskin::wire::share::Class;
use reed_solomon_simd::ReedSolomonEncoder;
use std::hint::black_box;
use std::sync::Arc;

/// Nanoseconds that this thread has spent on a processor: other jobs on the machine do not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number")
}

/// Calls between two readings of the clock: a reading takes longer than the hash of a share.
const BATCH: u32 = 16;

/// Mean CPU seconds of one call, over about a second of them, best of three rounds.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..3 {
        let (began, mut calls) = (cpu_ns(), 0u32);
        let spent = loop {
            (0..BATCH).for_each(|_| f());
            calls += BATCH;
            let spent = cpu_ns() - began;
            if spent > 300_000_000 {
                break spent;
            }
        };
        best = best.min(spent as f64 / 1e9 / f64::from(calls));
    }
    best
}

fn encode_group(layout: &Layout, k_r: &Secret<32>, plain: &[u8]) -> Vec<Arc<EncodedChunk>> {
    let mut data = Vec::new();
    for number in 0..limits::GROUP_DATA as u64 {
        let job =
            DocJob::EncodeChunk { k_r: k_r.clone(), layout: layout.clone(), number, plain: plain.to_vec().into(), expected: None };
        let DocJobResult::Encoded(Some(chunks)) = job.run() else { unreachable!("encodes") };
        data.extend(chunks);
    }
    let DocJobResult::Encoded(Some(parity)) = (DocJob::EncodeParity { data: data.clone(), count: limits::GROUP_PARITY }).run()
    else {
        unreachable!("encodes")
    };
    data.into_iter().chain(parity).collect()
}

fn main() {
    println!("class | what | MB/s of document | primitives alone | ratio | bar");
    for (class, length) in [(Class::Small, 4u64 << 20), (Class::Large, 64 << 20)] {
        let layout = Layout::new(length);
        let k_r = Secret::new([7; 32]);
        let plain = vec![5u8; class.capacity()];
        let (share, chunk) = (class.share_len(), class.chunk_len());
        let group_bytes = (plain.len() * limits::GROUP_DATA) as f64;

        // Primitives: one sealing of a chunk, one coding of 8 shares into 24, one hash of a share, and one group's parity.
        let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[1; 32]).unwrap());
        let mut buffer = plain.clone();
        let seal = time(|| {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            let tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut buffer).unwrap();
            black_box(tag.as_ref());
        });
        let coding = |parts: usize, parity: usize, len: usize| {
            let all = vec![9u8; parts * len];
            time(|| {
                let mut encoder = ReedSolomonEncoder::new(parts, parity, len).unwrap();
                all.chunks_exact(len).for_each(|s| encoder.add_original_shard(s).unwrap());
                black_box(encoder.encode().unwrap().recovery_iter().map(<[u8]>::len).sum::<usize>());
            })
        };
        let code = coding(limits::SHARES_NEEDED, limits::SHARES_TOTAL - limits::SHARES_NEEDED, share);
        // In strips, which stay in a cache.
        let parity = (chunk / 2048) as f64 * coding(limits::GROUP_DATA, limits::GROUP_PARITY, 2048);
        let data = vec![9u8; share];
        let hash = time(|| {
            black_box(blake3::hash(&data));
        });
        let shares = code + limits::SHARES_TOTAL as f64 * hash;
        // A publisher holds all shares of a group at a time: memory that comes new from the system, page by page.
        let memory = time(|| {
            black_box((0..40).map(|_| vec![1u8; 3 * chunk]).collect::<Vec<_>>());
        });
        let primitives = 32.0 * seal + 40.0 * shares + parity + memory;

        let encode = time(|| {
            black_box(encode_group(&layout, &k_r, &plain));
        });
        line(class, "encode", group_bytes / encode, group_bytes / primitives, 180.0);

        let chunks = encode_group(&layout, &k_r, &plain);
        let salt = [3; 16];
        // Half of the eight are parity: the usual case, for a reader gets any of 24.
        let blobs: Vec<Vec<u8>> = [0, 2, 4, 6, 9, 13, 17, 21].iter().map(|i| chunks[0].share_blob(*i, salt)).collect();
        let key = ReadKey::new(k_r.clone(), [0; 32], true);
        let decode = time(|| {
            let shares: Vec<_> = blobs.iter().map(|b| share::verify_share(b).unwrap()).collect();
            let parts: Vec<_> = shares.iter().map(|v| (v.share.index, v.leaf, v.share.data)).collect();
            let sealed = share::rebuild(class, &chunks[0].root, &parts).unwrap();
            let job = DocJob::OpenChunk { key: key.clone(), layout: layout.clone(), number: 0, sealed };
            black_box(job.run());
        });
        line(class, "decode", plain.len() as f64 / decode, plain.len() as f64 / (seal + shares), 400.0);
    }
}

fn line(class: Class, what: &str, got: f64, limit: f64, bar: f64) {
    let verdict = if got / 1e6 >= bar { "holds" } else { "misses" };
    println!("{class:?} | {what} | {:.0} | {:.0} | {:.2} | {bar:.0} {verdict}", got / 1e6, limit / 1e6, got / limit);
}
