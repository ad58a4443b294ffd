//! Newtypes for everything that has an identity. `Debug` shows four bytes at most: ids of people's wishes never reach a log whole.

use core::cmp::Ordering;
use core::fmt;
use core::num::NonZeroU32;

/// The first eight bytes as a number.
const fn head(bytes: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $short:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl Ord for $name {
            /// The order of the bytes. Their first eight settle it nearly always, as numbers: tables are searched a thousand times
            /// a second.
            fn cmp(&self, other: &Self) -> Ordering {
                head(&self.0).cmp(&head(&other.0)).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [a, b, ..] = self.0;
                write!(f, concat!($short, "{:02x}{:02x}.."), a, b)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    };
}

bytes_id!(
    /// Which network a node belongs to: 32 random bytes, chosen by whoever starts the first relay (D19).
    NetworkId, "net:"
);
bytes_id!(
    /// A relay's identity: its Ed25519 public key. Says nothing about its position (D9).
    NodeId, "node:"
);
bytes_id!(
    /// Where a share set is stored: the salted hash over the Merkle root of its share hashes (D11).
    Address, "addr:"
);
bytes_id!(
    /// A relay's place in the key space, from its address prefix (D9).
    Position, "pos:"
);

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);
    };
}

number_id!(
    /// One open or opening link of this process. Never reused, never on the wire.
    LinkId(u64)
);
number_id!(
    /// One piece of work handed to the tasks beside the core. Never reused.
    JobId(u64)
);
number_id!(
    /// One thing a person asked for: a publication, a get, a check. Never reused, never on the wire.
    OpId(u64)
);
number_id!(
    /// A stream inside a circuit, chosen by the client; zero means the circuit itself.
    StreamId(u16)
);
number_id!(
    /// A circuit on one link. The top bit is set by the end that dialled the link, so both ends can choose freely.
    CircuitId(NonZeroU32)
);

impl CircuitId {
    /// From its wire form; zero is the link itself and no circuit.
    pub const fn new(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The wire form.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}
