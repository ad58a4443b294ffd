//! Messages of the overlay plane between nodes of one version (D8, D9), over bincode behind [`crate::wire::codec`].
//!
//! They travel in fragments of link cells, at most `OVERLAY_MESSAGE_MAX` bytes each, or, as questions and answers about the public
//! view, through circuits. Every request has a number that its answer repeats. Nothing in them comes from a person's wish: that is
//! the user plane, which has its own formats.

use crate::base::limits;
use crate::wire::codec;
use crate::wire::codec::DecodeError;
use core::fmt;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;

/// Most relays in one answer to [`Message::Near`].
pub const NEAR_MAX: usize = 64;
/// Most relays whose records are asked for at once; with the longest records the answer fits a message.
pub const FETCH_MAX: usize = 60;
/// Most entries of one page of a list: 30 kB, which come within seconds over the slowest line, and over a circuit in one answer.
pub const PAGE_MAX: usize = 1024;

/// The first half of a descriptor's hash: what directories vote on. Who can make two descriptors with one tag has done 2^64 work.
pub type Tag = [u8; 16];

/// The bytes of one signed record.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BlobVisitor)
    }
}

struct BlobVisitor;

impl de::Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        if bytes.len() > limits::DESCRIPTOR_MAX {
            return Err(E::custom("record too long"));
        }
        Ok(Blob(bytes))
    }
}

/// A relay in short: the first 8 bytes of its id as a big-endian number, of its descriptor's hash, and when it last said that it is
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hint {
    /// First 8 bytes of the node id.
    pub id: u64,
    /// First 8 bytes of the descriptor's hash.
    pub tag: u64,
    /// When its freshness was made, in seconds since 1970.
    pub fresh: u64,
}

/// A relay as a directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listed {
    /// First 8 bytes of the node id.
    pub id: u64,
    /// Of its descriptor.
    pub tag: Tag,
    /// The lowest 16 bits of the slot of time that its descriptor was made in: two of one slot are two faces, and only they are worth
    /// a look.
    pub slot: u16,
    /// Whether it hosts shares.
    pub host: bool,
}

/// A place in the answerer's log of changes. Another epoch means another log: start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Which log: random at every start of the answerer.
    pub epoch: u64,
    /// Whoever came up to this change is known.
    pub came: u64,
    /// Whoever went up to this change is known.
    pub gone: u64,
}

impl Cursor {
    /// Whether it leads on from another, and nowhere back.
    pub const fn is_after(&self, other: &Self) -> bool {
        let back = self.came < other.came || self.gone < other.gone;
        self.epoch == other.epoch && !back && (self.came > other.came || self.gone > other.gone)
    }
}

/// Which records of a relay are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The descriptor alone: all that clients need.
    Descriptor,
    /// The freshness alone: the descriptor is known.
    Freshness,
    /// The descriptor, and behind it the freshness.
    Both,
}

/// One message of the overlay plane. Numbers in front are request numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who is near this place? At most `max` answers.
    Near {
        /// Request number.
        id: u32,
        /// A place in the space of positions.
        target: [u8; 32],
        /// Most answers wanted.
        max: u16,
    },
    /// The usable relays nearest to the target that the answerer knows, nearest first.
    NearReply {
        /// Request number.
        id: u32,
        /// At most [`NEAR_MAX`].
        hints: Vec<Hint>,
    },
    /// Give me these records.
    Fetch {
        /// Request number.
        id: u32,
        /// At most [`FETCH_MAX`], as in [`Hint::id`].
        ids: Vec<u64>,
        /// Which of them.
        part: Part,
    },
    /// Those that are known, in any order, and as many as fit.
    FetchReply {
        /// Request number.
        id: u32,
        /// Signed records.
        records: Vec<Blob>,
    },
    /// Here I am.
    Announce {
        /// Request number.
        id: u32,
        /// The sender's descriptor.
        descriptor: Blob,
        /// Its freshness.
        freshness: Blob,
    },
    /// The announcement was read.
    AnnounceAck {
        /// Request number.
        id: u32,
    },
    /// All usable relays, or what changed since.
    List {
        /// Request number.
        id: u32,
        /// Where the last page ended.
        since: Option<Cursor>,
    },
    /// One page of it.
    ListPage {
        /// Request number.
        id: u32,
        /// Ask on from here.
        next: Cursor,
        /// Whether this is the first page of a whole list.
        anew: bool,
        /// Whether more is waiting.
        more: bool,
        /// Relays that are listed no more. They come before those that are: one may be in both.
        gone: Vec<u64>,
        /// Relays that are listed, new or changed.
        listed: Vec<Listed>,
    },
    /// A relay shows different faces: two of its descriptors from one slot of time. Passed on by whoever learns it first; nobody
    /// answers.
    Faces {
        /// One.
        one: Blob,
        /// The other.
        other: Blob,
    },
    /// Dial the address you see me at, at this port, and sign that I answered (D9).
    DialBack {
        /// Request number.
        id: u32,
        /// The advertised port.
        port: u16,
    },
    /// The receipt, or nothing.
    DialBackReply {
        /// Request number.
        id: u32,
        /// An encoded receipt.
        receipt: Option<Blob>,
    },
}

impl Message {
    /// The bytes for the link. `None` if it does not fit a message.
    pub fn encode(&self) -> Option<Vec<u8>> {
        codec::bin_encode(self, limits::OVERLAY_MESSAGE_MAX)
    }

    /// Parses a message and checks its list lengths.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: Self = codec::bin_decode(bytes, limits::OVERLAY_MESSAGE_MAX)?;
        let fits = match &message {
            Self::NearReply { hints, .. } => hints.len() <= NEAR_MAX,
            Self::Fetch { ids, .. } => ids.len() <= FETCH_MAX,
            Self::FetchReply { records, .. } => records.len() <= 2 * FETCH_MAX,
            Self::ListPage { gone, listed, .. } => gone.len().saturating_add(listed.len()) <= PAGE_MAX,
            Self::Near { .. }
            | Self::Announce { .. }
            | Self::AnnounceAck { .. }
            | Self::List { .. }
            | Self::Faces { .. }
            | Self::DialBack { .. }
            | Self::DialBackReply { .. } => true,
        };
        if fits { Ok(message) } else { Err(DecodeError::TooLarge) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_lists_are_capped() {
        let record = |len| Blob(vec![5; len]);
        let records: Vec<Blob> =
            (0..FETCH_MAX).flat_map(|_| [record(limits::DESCRIPTOR_MAX), record(limits::FRESHNESS_MAX)]).collect();
        let reply = Message::FetchReply { id: 9, records };
        let bytes = reply.encode().expect("a full answer fits a message");
        assert_eq!(Message::decode(&bytes).unwrap(), reply);
        let listed = Listed { id: 1, tag: [2; 16], slot: 3, host: true };
        let page = |n| Message::ListPage {
            id: 1,
            next: Cursor { epoch: 1, came: 2, gone: 3 },
            anew: true,
            more: true,
            gone: vec![3],
            listed: vec![listed; n],
        };
        assert_eq!(Message::decode(&page(PAGE_MAX - 1).encode().unwrap()).unwrap(), page(PAGE_MAX - 1));
        assert!(Message::decode(&page(PAGE_MAX).encode().unwrap()).is_err());
        let long = Message::Fetch { id: 1, ids: vec![0; FETCH_MAX + 1], part: Part::Both };
        assert!(Message::decode(&long.encode().unwrap()).is_err());
        let fat = Message::Announce { id: 1, descriptor: record(limits::DESCRIPTOR_MAX + 1), freshness: record(1) };
        assert!(Message::decode(&fat.encode().unwrap()).is_err());
        for n in 0..bytes.len().min(300) {
            assert!(Message::decode(&bytes[..n]).is_err());
        }
    }
}
