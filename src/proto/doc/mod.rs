//! Documents: from bytes to chunks to shares, and back. Pure functions; heavy ones run as [`DocJob`]s beside the core.
//!
//! [`layout`] says where a document's bytes lie, [`code`] does the erasure coding, [`share`] makes and checks shares, [`node`]
//! makes and opens manifest nodes, [`key`] is what people pass on, [`convergent`] says which key the same document gets again.
//! `proto::ops` decides when which of them is needed.

pub mod code;
pub mod convergent;
pub mod key;
pub mod layout;
pub mod node;
pub mod share;

use crate::base::limits;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::seal;
use crate::crypto::secret::Secret;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::doc::layout::Layout;
use crate::proto::doc::node::Node;
use crate::proto::doc::share::EncodedChunk;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::manifest::Private;
use crate::wire::share::Class;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A document that is one chunk. Prints nothing of itself.
pub struct Single {
    /// Its bytes.
    pub plain: Vec<u8>,
    /// The name that its publisher gave it.
    pub name: Option<String>,
    /// The type that its publisher gave it.
    pub media_type: Option<String>,
}

/// Work on a document. Prints nothing of it.
pub enum DocJob {
    /// Opens a manifest node and checks it against the top node (or, for the top node itself, against its own counts).
    OpenNode {
        /// Read or verify key.
        key: Key,
        /// The top node, unless this is it.
        top: Option<Box<Node>>,
        /// Level and number; `None` for the top node.
        place: Option<(u8, u64)>,
        /// The sealed chunk.
        sealed: Vec<u8>,
    },
    /// Opens a document that is one chunk.
    OpenSingle {
        /// Its key.
        key: ReadKey,
        /// The sealed chunk.
        sealed: Vec<u8>,
    },
    /// Opens a data chunk.
    OpenChunk {
        /// The document's key.
        key: ReadKey,
        /// Its layout.
        layout: Layout,
        /// Which data chunk.
        number: u64,
        /// The sealed chunk.
        sealed: Vec<u8>,
    },
    /// Rebuilds the lost chunks of a group from as many others as it has data chunks.
    RepairGroup {
        /// The document's layout.
        layout: Layout,
        /// Which group.
        group: u64,
        /// Sealed chunks by slot.
        have: BTreeMap<u64, Vec<u8>>,
        /// Roots of all chunks of the group, in order.
        roots: Vec<[u8; 32]>,
    },
    /// Reads a chunk of a convergent document for the first time.
    Digest {
        /// Its bytes.
        plain: Bytes,
    },
    /// Seals and codes a data chunk.
    EncodeChunk {
        /// K_r.
        k_r: Secret<32>,
        /// The document's layout.
        layout: Layout,
        /// Which data chunk.
        number: u64,
        /// Its bytes; short or empty ones are padded with zeros.
        plain: Bytes,
        /// Of a convergent document: what it was when it was first read.
        expected: Option<[u8; 32]>,
    },
    /// Codes the parity chunks of a group.
    EncodeParity {
        /// The data chunks of the group, in order.
        data: Vec<Arc<EncodedChunk>>,
        /// How many parity chunks.
        count: usize,
    },
    /// Seals and codes a document that is one chunk.
    EncodeSingle {
        /// K_r.
        k_r: Secret<32>,
        /// What readers learn.
        private: Private,
        /// The document.
        plain: Bytes,
        /// Of a convergent document: what it was when it was first read.
        expected: Option<[u8; 32]>,
    },
    /// Seals and codes a manifest node.
    EncodeNode {
        /// K_r.
        k_r: Secret<32>,
        /// The node.
        node: Box<Node>,
    },
}

/// What came of it; `None` is: does not open, does not verify, or lies about counts. Prints nothing of it.
pub enum DocJobResult {
    /// Of [`DocJob::OpenNode`].
    Node(Option<Box<Node>>),
    /// Of [`DocJob::OpenSingle`].
    Single(Option<Box<Single>>),
    /// Of [`DocJob::OpenChunk`]: exactly the bytes that the layout says.
    Plain(Option<Vec<u8>>),
    /// Of [`DocJob::RepairGroup`]: sealed chunks that were lost, by slot, each verified against its root.
    Repaired(Option<Vec<(u64, Vec<u8>)>>),
    /// Of [`DocJob::Digest`].
    Digest([u8; 32]),
    /// Of the encoding jobs: one chunk, or the parity chunks in order.
    Encoded(Option<Vec<Arc<EncodedChunk>>>),
    /// Of the encoding jobs: not what was expected, and not sealed.
    Changed,
}

impl core::fmt::Debug for Single {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Single(..)")
    }
}

impl core::fmt::Debug for DocJob {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DocJob(..)")
    }
}

impl core::fmt::Debug for DocJobResult {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DocJobResult(..)")
    }
}

impl DocJob {
    /// Does the work.
    pub fn run(self) -> DocJobResult {
        match self {
            Self::OpenNode { key, top, place, sealed } => {
                DocJobResult::Node(node::open(&key, top.as_deref(), place, sealed).ok().map(Box::new))
            }
            Self::OpenSingle { key, sealed } => DocJobResult::Single(open_single(key.k_r(), sealed).ok().map(Box::new)),
            Self::OpenChunk { key, layout, number, sealed } => {
                DocJobResult::Plain(open_chunk(key.k_r(), &layout, number, sealed).ok())
            }
            Self::RepairGroup { layout, group, have, roots } => {
                DocJobResult::Repaired(repair_group(&layout, group, &have, &roots).ok())
            }
            Self::Digest { plain } => DocJobResult::Digest(convergent::digest(&plain)),
            Self::EncodeChunk { plain, expected: Some(expected), .. }
            | Self::EncodeSingle { plain, expected: Some(expected), .. }
                if convergent::digest(&plain) != expected =>
            {
                DocJobResult::Changed
            }
            Self::EncodeChunk { k_r, layout, number, plain, .. } => {
                let key = chunk_key(&k_r, number);
                DocJobResult::Encoded(encode(&key, layout.class, &plain).ok().map(|c| vec![c]))
            }
            Self::EncodeParity { data, count } => DocJobResult::Encoded(encode_parity(&data, count).ok()),
            Self::EncodeSingle { k_r, private, plain, .. } => {
                DocJobResult::Encoded(encode_single(&k_r, &private, &plain).ok().map(|c| vec![c]))
            }
            Self::EncodeNode { k_r, node } => DocJobResult::Encoded(node::encode(&k_r, &node).ok().map(|c| vec![c])),
        }
    }
}

/// The key that seals data chunk `number`, and nothing else.
fn chunk_key(k_r: &Secret<32>, number: u64) -> Secret<32> {
    derive(Label::ChunkKey, k_r.expose(), &[&number.to_be_bytes()])
}

/// Pads, seals and codes one chunk.
fn encode(key: &Secret<32>, class: Class, plain: &[u8]) -> Result<Arc<EncodedChunk>, CryptoError> {
    if plain.len() > class.capacity() {
        return Err(CryptoError);
    }
    let mut chunk = share::padded(plain, class)?;
    seal::seal(key, chunk.as_flattened_mut())?;
    Ok(Arc::new(share::encode_chunk(chunk, class)?))
}

fn encode_parity(data: &[Arc<EncodedChunk>], count: usize) -> Result<Vec<Arc<EncodedChunk>>, CryptoError> {
    let class = data.first().ok_or(CryptoError)?.class;
    let parts: Vec<&[u8]> = data.iter().map(|c| c.sealed()).collect();
    let parity = code::parity(&parts, count, class.chunk_len())?;
    parity.into_iter().map(|sealed| share::encode_chunk(sealed, class).map(Arc::new)).collect()
}

fn open_chunk(k_r: &Secret<32>, layout: &Layout, number: u64, mut sealed: Vec<u8>) -> Result<Vec<u8>, CryptoError> {
    seal::open(&chunk_key(k_r, number), &mut sealed)?;
    let range = layout.plain_range(number);
    let len = usize::try_from(range.end - range.start).map_err(|_| CryptoError)?;
    let padding = sealed.get(len..layout.class.capacity()).ok_or(CryptoError)?;
    if padding.iter().any(|b| *b != 0) {
        return Err(CryptoError);
    }
    sealed.truncate(len);
    Ok(sealed)
}

fn encode_single(k_r: &Secret<32>, private: &Private, plain: &[u8]) -> Result<Arc<EncodedChunk>, CryptoError> {
    let mut w = Writer::default();
    w.bytes16(&private.to_bytes()).raw(plain);
    encode(&chunk_key(k_r, 0), Class::Small, w.as_slice())
}

fn open_single(k_r: &Secret<32>, mut sealed: Vec<u8>) -> Result<Single, CryptoError> {
    let plain = seal::open(&chunk_key(k_r, 0), &mut sealed)?;
    let mut r = Reader::new(plain);
    let head = r.bytes16(layout::SINGLE_HEADER_MAX).map_err(|_| CryptoError)?;
    let mut h = Reader::new(head);
    let private = Private::read(&mut h).map_err(|_| CryptoError)?;
    let len = usize::try_from(private.length).map_err(|_| CryptoError)?;
    let plain = r.take(len).map_err(|_| CryptoError)?.to_vec();
    if !h.is_empty() || r.rest().iter().any(|b| *b != 0) {
        return Err(CryptoError);
    }
    Ok(Single { plain, name: private.name, media_type: private.media_type })
}

/// Restores a group's lost data chunks and checks each against its root: a publisher whose parity is not one codeword is found out
/// here.
fn repair_group(
    layout: &Layout,
    group: u64,
    have: &BTreeMap<u64, Vec<u8>>,
    roots: &[[u8; 32]],
) -> Result<Vec<(u64, Vec<u8>)>, CryptoError> {
    let (data, parity) = (layout.data_in_group(group), layout.parity_in_group(group));
    let first = layout.slots_of_group(group).start;
    let place = |slot: u64| slot.checked_sub(first).and_then(|p| usize::try_from(p).ok()).ok_or(CryptoError);
    let parts: Vec<(usize, &[u8])> =
        have.iter().take(data).map(|(slot, sealed)| Ok((place(*slot)?, sealed.as_slice()))).collect::<Result<_, CryptoError>>()?;
    code::restore(data, parity, layout.class.chunk_len(), &parts, |place, sealed| {
        let again = share::encode_chunk(share::padded(sealed, layout.class)?, layout.class)?;
        let slot = first + place as u64;
        if roots.get(place) == Some(&again.root) { Ok((slot, again.into_sealed())) } else { Err(CryptoError) }
    })
}

const _: () = assert!(limits::GROUP_DATA == 4 * limits::GROUP_PARITY);

#[cfg(test)]
mod tests {
    use super::*;

    fn k_r() -> Secret<32> {
        Secret::new([1; 32])
    }

    #[test]
    fn work_and_its_results_print_nothing_of_the_document() {
        let private = Private { length: 4, name: Some("observatory".into()), media_type: Some("text/observed".into()) };
        let plain = Bytes::from_static(b"observed");
        let job = DocJob::EncodeSingle { k_r: k_r(), private: private.clone(), plain: plain.clone(), expected: None };
        let single = Single { plain: plain.to_vec(), name: private.name.clone(), media_type: private.media_type.clone() };
        let mut printed = format!("{private:?} {job:?} {single:?} {:?}", DocJobResult::Plain(Some(plain.to_vec())));
        printed.push_str(&format!("{:?}", crate::proto::Job::Document(job)));
        printed.push_str(&format!("{:?}", crate::proto::Event::Data(plain.clone())));
        printed.push_str(&format!("{:?}", crate::proto::Command::Plain(plain.clone())));
        let found = crate::proto::Event::Found { length: 4, name: private.name.clone(), media_type: private.media_type };
        printed.push_str(&format!("{found:?}"));
        let shares = crate::proto::job::Shares8(vec![(0, [111; 32], plain.to_vec())]);
        printed.push_str(&format!("{shares:?}"));
        assert!(!printed.contains("obs") && !printed.contains("111"), "{printed}");
    }

    /// One key stream over two texts would give away both (T24).
    #[test]
    fn no_chunk_is_sealed_that_is_not_what_it_was_first() {
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"secnd"));
        let DocJobResult::Digest(digest) = DocJob::Digest { plain: first.clone() }.run() else { panic!("no digest") };
        for (plain, is_sealed) in [(first, true), (second, false), (Bytes::new(), false)] {
            let expected = Some(digest);
            let (layout, private) = (Layout::new(300_000), Private::default());
            let chunk = DocJob::EncodeChunk { k_r: k_r(), layout, number: 1, plain: plain.clone(), expected }.run();
            let single = DocJob::EncodeSingle { k_r: k_r(), private, plain, expected }.run();
            for result in [chunk, single] {
                assert_eq!(matches!(result, DocJobResult::Encoded(Some(_))), is_sealed);
                assert_eq!(matches!(result, DocJobResult::Changed), !is_sealed);
            }
        }
    }

    #[test]
    fn a_single_chunk_document_comes_back_at_every_edge() {
        let max = Class::Small.capacity() - layout::SINGLE_HEADER_MAX;
        for len in [0, 1, 1000, max] {
            assert!(layout::is_single(len as u64));
            let private = Private { length: len as u64, name: Some("n".repeat(255)), media_type: Some("m".repeat(255)) };
            let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let chunk = encode_single(&k_r(), &private, &plain).unwrap();
            let back = open_single(&k_r(), chunk.sealed().to_vec()).unwrap();
            assert_eq!((back.plain, back.name, back.media_type), (plain, private.name, private.media_type));
            assert!(open_single(&Secret::new([2; 32]), chunk.sealed().to_vec()).is_err());
        }
        assert!(!layout::is_single(max as u64 + 1));
    }

    #[test]
    fn a_group_comes_back_from_any_of_its_chunks_and_false_parity_is_found_out() {
        let layout = Layout::new(600_000);
        let data: Vec<_> = (0..layout.data())
            .map(|n| {
                let r = layout.plain_range(n);
                let plain: Vec<u8> = (r.start..r.end).map(|i| (i / 7) as u8).collect();
                encode(&chunk_key(&k_r(), n), layout.class, &plain).unwrap()
            })
            .collect();
        let count = layout.parity_in_group(0);
        let all: Vec<_> = data.iter().cloned().chain(encode_parity(&data, count).unwrap()).collect();
        let roots: Vec<_> = all.iter().map(|c| c.root).collect();
        assert_eq!(all.len() as u64, layout.slots());
        let have: BTreeMap<u64, Vec<u8>> = (0..).zip(&all).skip(count).map(|(s, c)| (s, c.sealed().to_vec())).collect();
        let lost = repair_group(&layout, 0, &have, &roots).unwrap();
        assert_eq!(lost.len(), count);
        for (slot, sealed) in lost {
            assert_eq!(sealed, all[slot as usize].sealed());
            let r = layout.plain_range(slot);
            assert_eq!(open_chunk(&k_r(), &layout, slot, sealed).unwrap().len() as u64, r.end - r.start);
        }
        let mut false_parity = have.clone();
        *false_parity.values_mut().next_back().unwrap() = data[0].sealed().to_vec();
        assert!(repair_group(&layout, 0, &false_parity, &roots).is_err());
        let few: BTreeMap<_, _> = have.into_iter().skip(1).collect();
        assert!(repair_group(&layout, 0, &few, &roots).is_err());
    }
}
