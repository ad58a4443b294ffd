//! What a client keeps of the network for its next start, so that a command does not read it anew (D8).
//!
//! ```text
//! view   kind u8 = 36 | version u8 = 1 | taken u64
//!        | relays: count u32, each host u8, descriptor u16-prefixed
//!        | lists: count u8 (0..3), each node 32, epoch u64, came u64, gone u64, count u32, each hint 8, tag 16, slot u16, host u8
//!        | samples: count u8 (0..9), each group 5, known u32, total u32, known u32, total u32
//!        | extensions | sum 32
//! ```
//!
//! Descriptors in it were checked before it was written, so their signatures are not looked at again; the sum finds damage. It is
//! no more than a help: one that is damaged, newer or too old is left, and the network read anew.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net::Group;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::lists::List;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::sweep::Sample;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::overlay::Cursor;
use crate::wire::overlay::Listed;
use std::sync::Arc;

/// Name of this saved state.
pub const SAVED: &str = "view";
const KIND: u8 = 36;
const VERSION: u8 = 1;
/// Most lists: as many as there are directories.
const LISTS_MAX: usize = 3;
/// Most samples: as many as are kept.
const SAMPLES_MAX: usize = 9;

/// What one directory listed, and where to go on.
#[derive(Clone, Debug)]
pub(super) struct KeptList {
    pub(super) node: NodeId,
    pub(super) next: Cursor,
    pub(super) list: List,
}

/// What a client keeps.
#[derive(Debug)]
pub struct Kept {
    /// When its directories last agreed.
    pub taken: Wall,
    pub(super) relays: Vec<(Arc<Body>, bool)>,
    pub(super) lists: Vec<KeptList>,
    pub(super) samples: Vec<(Group, [Sample; 2])>,
}

impl Kept {
    /// The lasting form.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.relays.len() * 1500);
        let long = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        w.u8(KIND).u8(VERSION).u64(self.taken.0).u32(long(self.relays.len()));
        for (body, host) in &self.relays {
            w.u8(u8::from(*host)).bytes16(&body.encode());
        }
        w.u8(short(self.lists.len()));
        for KeptList { node, next, list } in &self.lists {
            w.raw(&node.0).u64(next.epoch).u64(next.came).u64(next.gone).u32(long(list.len()));
            for Listed { id, tag, slot, host } in list.iter() {
                w.u64(*id).raw(tag).u16(*slot).u8(u8::from(*host));
            }
        }
        w.u8(short(self.samples.len()));
        for (group, [old, new]) in &self.samples {
            w.raw(&group.0).u32(old.known).u32(old.total).u32(new.known).u32(new.total);
        }
        Extensions::default().write(&mut w);
        Self::sealed(w.into_bytes())
    }

    /// These bytes with their sum behind them. For tests of what stands behind the sum.
    #[doc(hidden)]
    pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = kdf::hash(Label::ViewSum, &[&bytes]);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// What its sum says is as it was written, behind kind and version.
    pub(super) fn body(bytes: &[u8]) -> Result<Reader<'_>, DecodeError> {
        let (body, sum) = bytes.split_last_chunk::<32>().ok_or(DecodeError::Short)?;
        let mut r = Reader::new(body);
        r.head(KIND, VERSION)?;
        if kdf::hash(Label::ViewSum, &[body]) != *sum {
            return Err(DecodeError::Invalid);
        }
        Ok(r)
    }

    /// Reads the lasting form.
    ///
    /// # Errors
    /// Damaged, or written by a newer version.
    pub fn decode(net: &NetworkId, bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Self::body(bytes)?;
        let taken = Wall(r.u64()?);
        let count = bounded(r.u32()?, limits::VIEW_MAX)?;
        let mut relays = Vec::new();
        for _ in 0..count {
            let host = flag(r.u8()?)?;
            let body = Body::kept(net, r.bytes16(limits::DESCRIPTOR_MAX)?).map_err(|_| DecodeError::Invalid)?;
            relays.push((body, host));
        }
        let mut lists = Vec::new();
        for _ in 0..bounded(u32::from(r.u8()?), LISTS_MAX)? {
            let (node, next) = (NodeId(r.array()?), Cursor { epoch: r.u64()?, came: r.u64()?, gone: r.u64()? });
            let mut listed = Vec::new();
            for _ in 0..bounded(r.u32()?, 2 * limits::VIEW_MAX)? {
                listed.push(Listed { id: r.u64()?, tag: r.array()?, slot: r.u16()?, host: flag(r.u8()?)? });
            }
            lists.push(KeptList { node, next, list: listed.into_iter().collect() });
        }
        let mut samples = Vec::new();
        for _ in 0..bounded(u32::from(r.u8()?), SAMPLES_MAX)? {
            let group = Group(r.array()?);
            let mut sample = || Ok(Sample { known: r.u32()?, total: r.u32()? });
            samples.push((group, [sample()?, sample()?]));
        }
        Extensions::read(&mut r, &[])?;
        r.finish()?;
        Ok(Self { taken, relays, lists, samples })
    }
}

fn bounded(count: u32, max: usize) -> Result<usize, DecodeError> {
    usize::try_from(count).ok().filter(|n| *n <= max).ok_or(DecodeError::TooLarge)
}

const fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid),
    }
}
