//! Manifest nodes: made, opened, and checked against each other, so that no count in them can make a reader work without bound
//! (D13).

use crate::base::limits;
use crate::crypto::CryptoError;
use crate::crypto::kdf::Label;
use crate::crypto::kdf::derive;
use crate::crypto::kdf::hash;
use crate::crypto::seal;
use crate::crypto::secret::Secret;
use crate::proto::doc::encode as encode_chunk;
use crate::proto::doc::key;
use crate::proto::doc::key::Key;
use crate::proto::doc::layout;
use crate::proto::doc::layout::Layout;
use crate::proto::doc::share::EncodedChunk;
use crate::wire::codec::Reader;
use crate::wire::manifest::ManifestNode;
use crate::wire::manifest::Private;
use crate::wire::share::Class;
use std::sync::Arc;

/// A manifest node whose counts are consistent.
#[derive(Clone, Debug)]
pub struct Node {
    /// Zero lists chunks, each level above lists nodes.
    pub level: u8,
    /// Its number on its level.
    pub index: u64,
    /// Chunks of the whole document.
    pub chunks: u64,
    /// Their share class.
    pub class: Class,
    /// Roots of what is below.
    pub children: Vec<[u8; 32]>,
    /// What only readers learn; in the top node, opened with a read key.
    pub private: Option<Private>,
}

fn node_key(k_v: &Secret<32>, level: u8, index: u64, top: bool) -> Secret<32> {
    // The reader of the top node does not know its level yet: it has a key of its own.
    let place = if top { (u8::MAX, 0) } else { (level, index) };
    derive(Label::ManifestKey, k_v.expose(), &[&[place.0], &place.1.to_be_bytes()])
}

fn private_key(k_r: &Secret<32>) -> Secret<32> {
    derive(Label::ManifestPrivate, k_r.expose(), &[])
}

fn commitment(k_r: &Secret<32>) -> [u8; 32] {
    hash(Label::RootCommit, &[k_r.expose()])
}

/// Seals and codes a node. It is the top one if it has a private part.
pub fn encode(k_r: &Secret<32>, node: &Node) -> Result<Arc<EncodedChunk>, CryptoError> {
    let private = match &node.private {
        Some(private) => {
            let mut sealed = private.to_bytes();
            sealed.resize(sealed.len() + seal::TAG, 0);
            seal::seal(&private_key(k_r), &mut sealed)?;
            sealed
        }
        None => Vec::new(),
    };
    let wire = ManifestNode {
        level: node.level,
        index: node.index,
        chunks: node.chunks,
        class: node.class,
        commitment: commitment(k_r),
        children: node.children.clone(),
        private,
    };
    let key = node_key(&key::k_v(k_r), node.level, node.index, node.private.is_some());
    encode_chunk(&key, Class::Small, &wire.to_bytes())
}

/// Opens a node and checks every count: against the top node, or for the top node against the layout of the length it states.
/// With a verify key, which does not show the length, the number of chunks bounds all counts.
pub fn open(key: &Key, top: Option<&Node>, place: Option<(u8, u64)>, mut sealed: Vec<u8>) -> Result<Node, CryptoError> {
    let (level, index) = place.unwrap_or_default();
    let plain = seal::open(&node_key(key.verify_key().k_v(), level, index, place.is_none()), &mut sealed)?;
    let wire = ManifestNode::read(plain).map_err(|_| CryptoError)?;
    let most = Layout::new(limits::DOCUMENT_MAX).slots();
    let top_level = if wire.chunks == 0 || wire.chunks > most { return Err(CryptoError) } else { layout::top_level(wire.chunks) };
    let right_place = match (place, top) {
        (None, None) => wire.level == top_level && wire.index == 0,
        (Some(place), Some(top)) => {
            (wire.level, wire.index) == place && (wire.chunks, wire.class) == (top.chunks, top.class) && wire.private.is_empty()
        }
        _ => false,
    };
    let children = layout::children_of(wire.chunks, wire.level, wire.index);
    if !right_place || wire.children.len() as u64 != children {
        return Err(CryptoError);
    }
    let mut private = None;
    if let Key::Read(key) = key {
        if wire.commitment != commitment(key.k_r()) {
            return Err(CryptoError);
        }
        if place.is_none() {
            private = Some(open_private(key.k_r(), &wire)?);
        }
    }
    Ok(Node { level: wire.level, index: wire.index, chunks: wire.chunks, class: wire.class, children: wire.children, private })
}

fn open_private(k_r: &Secret<32>, wire: &ManifestNode) -> Result<Private, CryptoError> {
    let mut sealed = wire.private.clone();
    let plain = seal::open(&private_key(k_r), &mut sealed)?;
    let mut r = Reader::new(plain);
    let private = Private::read(&mut r).map_err(|_| CryptoError)?;
    r.finish().map_err(|_| CryptoError)?;
    let layout = Layout::new(private.length);
    let consistent = !layout::is_single(private.length) && layout.slots() == wire.chunks && layout.class == wire.class;
    if consistent { Ok(private) } else { Err(CryptoError) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::doc::key::ReadKey;

    fn k_r() -> Secret<32> {
        Secret::new([6; 32])
    }

    fn top(length: u64) -> Node {
        let layout = Layout::new(length);
        let level = layout::top_level(layout.slots());
        let children = layout::children_of(layout.slots(), level, 0);
        Node {
            level,
            index: 0,
            chunks: layout.slots(),
            class: layout.class,
            children: (0..children).map(|i| [i as u8; 32]).collect(),
            private: Some(Private { length, name: None, media_type: None }),
        }
    }

    fn read_key() -> Key {
        Key::Read(ReadKey::new(k_r(), [0; 32], true))
    }

    fn opened(node: &Node) -> Result<Node, CryptoError> {
        open(&read_key(), None, None, encode(&k_r(), node).unwrap().sealed().to_vec())
    }

    #[test]
    fn top_nodes_open_for_readers_in_full_and_for_verifiers_without_the_private_part() {
        for length in [100_000, 100 << 20, 4 << 30] {
            let node = top(length);
            assert_eq!(opened(&node).unwrap().private, node.private);
            let verify = Key::Verify(ReadKey::new(k_r(), [0; 32], true).verify_key().clone());
            let sealed = encode(&k_r(), &node).unwrap().sealed().to_vec();
            let seen = open(&verify, None, None, sealed.clone()).unwrap();
            assert_eq!((seen.private, seen.children), (None, node.children));
            let other = Key::Read(ReadKey::new(Secret::new([5; 32]), [0; 32], true));
            assert!(open(&other, None, None, sealed).is_err());
        }
    }

    #[test]
    fn every_count_that_lies_is_refused() {
        let lies: [fn(&mut Node); 8] = [
            |n| n.chunks += 1,
            |n| n.chunks = u64::MAX,
            |n| n.chunks = 0,
            |n| n.level += 1,
            |n| n.index = 1,
            |n| n.class = Class::Small,
            |n| n.children.truncate(3),
            |n| n.private.as_mut().unwrap().length *= 2,
        ];
        for (i, lie) in lies.iter().enumerate() {
            let mut node = top(100 << 20);
            lie(&mut node);
            assert!(opened(&node).is_err(), "lie {i}");
        }
    }

    #[test]
    fn inner_nodes_must_fit_the_top() {
        let top = top(4 << 30);
        let children = layout::children_of(top.chunks, 0, 3);
        let inner = Node { level: 0, index: 3, private: None, children: vec![[1; 32]; children as usize], ..top.clone() };
        let sealed = encode(&k_r(), &inner).unwrap().sealed().to_vec();
        assert!(open(&read_key(), Some(&top), Some((0, 3)), sealed.clone()).is_ok());
        assert!(open(&read_key(), Some(&top), Some((0, 4)), sealed.clone()).is_err());
        let mut other = top.clone();
        other.chunks += 1;
        assert!(open(&read_key(), Some(&other), Some((0, 3)), sealed).is_err());
    }
}
