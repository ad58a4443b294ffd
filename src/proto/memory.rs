//! What a node may hold for others, in bytes, and how that is divided (T35).
//!
//! Each part has a bound and a rule for overflow of its own, so that who fills one takes nothing from the others. Within a part, what
//! there is is shared out by where people are ([`crate::proto::crowd`]), or taken from those who hold the most.
//!
//! | part | of 26 | by default | charged | when it is full |
//! |---|---|---|---|---|
//! | the node itself | - | 64 MiB | program, view, index pages of the store, batches that arrive, jobs, what the allocator keeps | arrivals wait, jobs are lost |
//! | links | 10 | 74 MiB | `LINK` for each, cells on their way out, messages of the overlay on their way in and out | the largest links of the prefix that holds the most are closed; no place for a new one |
//! | circuits | 5 | 37 MiB | `CIRCUIT` for each | refused |
//! | cells in queues | 5 | 37 MiB | [`CELL`] for each that waits for credit or for room on a link | the circuits with the longest queues end |
//! | cells for hosts | 1 | 7.4 MiB | [`CELL`] for each that waits for the link to a host | its leg ends |
//! | long requests | 3 | 22 MiB | [`CELL`] for each cell of requests at a host that are not served yet | its leg ends |
//! | short requests | 1 | 7.4 MiB | the same, of requests of one cell | its leg ends |
//! | legs | 1 | 7.4 MiB | `LEG` for each | refused |

use crate::wire::cell::CELL;

/// What a node takes for itself, whatever others do.
const OWN: usize = 64 << 20;
/// Parts of what is left.
const PARTS: usize = 26;
/// What a link is reckoned to hold that nothing waits on: the state of TLS with half a record, the link's task, its own entries. That
/// the whole is right shows `tests/memory.rs`.
const LINK: usize = 24 << 10;
/// What a circuit holds at a relay (`benches/circuits.rs`).
const CIRCUIT: usize = 2 << 10;
/// What a session holds at its host.
const LEG: usize = 1 << 10;

/// The budget of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    part: usize,
}

impl Memory {
    /// The least budget that a relay can work with: half of it is for others.
    pub const LEAST: usize = 128 << 20;
    /// A budget if nobody says otherwise, in bytes: little on any machine that others reach.
    pub const USUAL: usize = 256 << 20;

    /// A budget of so many bytes, [`Memory::LEAST`] or more.
    pub const fn of(bytes: usize) -> Self {
        let bytes = if bytes < Self::LEAST { Self::LEAST } else { bytes };
        Self { part: (bytes - OWN) / PARTS }
    }

    /// Bytes of links and of what waits on them.
    pub const fn links(self) -> usize {
        10 * self.part
    }

    /// Bytes of a link on which nothing waits.
    pub const fn of_link(self) -> usize {
        LINK
    }

    /// Links that others may open: they take half of what links have, so that the other half is for what moves on them.
    pub const fn links_accepted(self) -> usize {
        self.links() / 2 / LINK
    }

    /// Circuits carried.
    pub const fn circuits(self) -> usize {
        5 * self.part / CIRCUIT
    }

    /// Cells that wait in the queues of circuits and legs.
    pub const fn cells_queued(self) -> usize {
        5 * self.part / CELL
    }

    /// Cells that wait for links to hosts.
    pub const fn cells_for_hosts(self) -> usize {
        self.part / CELL
    }

    /// Cells of requests that take several.
    pub const fn cells_of_long(self) -> usize {
        3 * self.part / CELL
    }

    /// Cells of requests that take one.
    pub const fn cells_of_short(self) -> usize {
        self.part / CELL
    }

    /// Legs at this host.
    pub const fn legs(self) -> usize {
        self.part / LEG
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::of(Self::USUAL)
    }
}
