//! Messages of the overlay plane between nodes of one version (D8, D9), over bincode behind [`crate::wire::codec`].
//!
//! They travel in fragments of link cells, at most `OVERLAY_MESSAGE_MAX` bytes each. Every request has a number that its answer
//! repeats. Nothing in them comes from a person's wish: that is the user plane, which has its own formats.

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
/// Most descriptors asked for at once.
pub const FETCH_MAX: usize = 60;
/// Most descriptors of one snapshot page; with `DESCRIPTOR_MAX` bytes each they fit a message.
pub const PAGE_MAX: usize = 60;
/// Buckets of a view digest.
pub const DIGEST_BUCKETS: usize = 16;

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

/// A relay in short: the first 8 bytes of its id as a big-endian number, and the sequence number of its newest descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hint {
    /// First 8 bytes of the node id.
    pub id: u64,
    /// Sequence number of the descriptor.
    pub seq: u64,
}

/// A place in the answerer's log of arrivals. Another epoch means another log: start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Which log: random at every start of the answerer.
    pub epoch: u64,
    /// Everything up to this arrival is known.
    pub number: u64,
}

/// A digest of a view, by the top four bits of the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Usable relays by bucket.
    pub counts: [u32; DIGEST_BUCKETS],
    /// XOR of 8-byte hashes over (id, sequence number) by bucket. Says where views differ; proves nothing.
    pub sums: [u64; DIGEST_BUCKETS],
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
    /// Give me these descriptors.
    Fetch {
        /// Request number.
        id: u32,
        /// At most [`FETCH_MAX`], as in [`Hint::id`].
        ids: Vec<u64>,
    },
    /// Those that are known, in any order.
    FetchReply {
        /// Request number.
        id: u32,
        /// Signed descriptors.
        records: Vec<Blob>,
    },
    /// Here I am: my descriptor.
    Announce {
        /// Request number.
        id: u32,
        /// A signed descriptor of the sender.
        record: Blob,
    },
    /// The announcement was read.
    AnnounceAck {
        /// Request number.
        id: u32,
    },
    /// All usable relays, or those that arrived since.
    Snapshot {
        /// Request number.
        id: u32,
        /// Where the last one ended.
        since: Option<Cursor>,
    },
    /// One page of it.
    SnapshotPage {
        /// Request number.
        id: u32,
        /// Ask on from here.
        next: Cursor,
        /// Whether more is waiting.
        more: bool,
        /// Signed descriptors, at most [`PAGE_MAX`].
        records: Vec<Blob>,
    },
    /// What does your view amount to?
    Digest {
        /// Request number.
        id: u32,
    },
    /// It amounts to this.
    DigestReply {
        /// Request number.
        id: u32,
        /// The digest.
        digest: Digest,
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
            Self::FetchReply { records, .. } => records.len() <= FETCH_MAX,
            Self::SnapshotPage { records, .. } => records.len() <= PAGE_MAX,
            Self::Near { .. }
            | Self::Announce { .. }
            | Self::AnnounceAck { .. }
            | Self::Snapshot { .. }
            | Self::Digest { .. }
            | Self::DigestReply { .. }
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
        let page = Message::SnapshotPage {
            id: 9,
            next: Cursor { epoch: 1, number: 2 },
            more: true,
            records: vec![Blob(vec![5; limits::DESCRIPTOR_MAX]); PAGE_MAX],
        };
        let bytes = page.encode().expect("a full page fits a message");
        assert_eq!(Message::decode(&bytes).unwrap(), page);
        let long = Message::Fetch { id: 1, ids: vec![0; FETCH_MAX + 1] };
        assert!(Message::decode(&long.encode().unwrap()).is_err());
        let fat = Message::Announce { id: 1, record: Blob(vec![0; limits::DESCRIPTOR_MAX + 1]) };
        assert!(Message::decode(&fat.encode().unwrap()).is_err());
        for n in 0..bytes.len().min(300) {
            assert!(Message::decode(&bytes[..n]).is_err());
        }
    }
}
