//! Every protocol number, with its reason and, where there is one, the threat it answers (`threat-model.md`).

use core::time::Duration;

/// Longest value of one extension field: none that is planned needs more.
pub const EXTENSION_MAX: usize = 2048;

// --- shares and chunks (D11)

/// Shares that rebuild a chunk.
pub const SHARES_NEEDED: usize = 8;
/// Shares of a chunk: 3x storage, 8 of 24 fails once in 10^7 when hosts are up 80 % of the time (T21).
pub const SHARES_TOTAL: usize = 24;
/// Depth of the tree over 24 share hashes, padded to 32 leaves.
pub const SHARE_PATH: usize = 5;
/// Bytes of a share of the small class: four cells.
pub const SHARE_SMALL: usize = 8 * 1024;
/// Bytes of a share of the large class: sixteen cells.
pub const SHARE_LARGE: usize = 32 * 1024;
/// Documents up to this many bytes use small shares.
pub const SMALL_DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// Data chunks of one document-level parity group (D13).
pub const GROUP_DATA: usize = 32;
/// Parity chunks of a full group.
pub const GROUP_PARITY: usize = 8;

// --- manifests (D13; a hostile manifest must not make a reader work without bound)

/// Most levels of manifest nodes above the data.
pub const MANIFEST_DEPTH_MAX: u8 = 4;
/// Most children of a manifest node.
pub const MANIFEST_FANOUT_MAX: usize = 1024;
/// Stored copies of each manifest node, at unrelated places.
pub const MANIFEST_COPIES: u8 = 3;
/// Further places of a chunk, tried one after the other where its hosts took too little of it: where others squat, say (T37).
pub const SPARE_COPIES: u8 = 2;
/// Largest document: far above use; the list of its chunks stays below 200 MiB.
pub const DOCUMENT_MAX: u64 = 1 << 40;

// --- regions (D10)

/// Relays that a region is sized to hold.
pub const REGION_TARGET: usize = 24;
/// At or below this many hosts the region is everyone.
pub const REGION_EVERYONE: usize = 48;
/// Hosts accept shares within this many radii of their position.
pub const REGION_ACCEPT_RADII: u64 = 4;
/// Most hosts of one /24 near one key that count towards the size of its region.
pub const REGION_PER_PREFIX: usize = 2;
/// Most hosts of one /16 near one key that count towards it.
pub const REGION_PER_GROUP: usize = 3;
/// A region with more hosts is crowded. Chance brings 24 together, once in a million 50; clusters of honest hosts may bring more.
pub const REGION_CROWDED: usize = 64;
/// Most hosts a writer gives shares to, in a crowded region.
pub const REGION_WRITE_MAX: usize = 512;
/// Hosts a reader asks first.
pub const READ_FIRST: usize = 10;
/// Most hosts a reader asks in all: what a crowd around a key has to outnumber (T22). At three hosts a circuit it takes minutes, where
/// somebody crowds a key, and is never needed elsewhere.
pub const READ_MAX: usize = 1024;
/// Hosts of the region that a writer leaves out at random (D15).
pub const WRITE_LEFT_OUT: usize = 3;

// --- sealed requests (D12)

/// Most requests of one session: bounds what one opened key can be asked.
pub const SESSION_REQUESTS_MAX: u16 = 64;
/// Most requests of a session that wait for their answer: several, for one that waits for each answer waits for seven machines.
///
/// Fewer at first where they are long: those that a mute host leaves lying must fit the first credits of its leg ([`WINDOW_MIN`]), but
/// for the cell that opens the session ([`CIRCUIT_LEGS`]), or they would use up the credits of the whole circuit. Each answer
/// allows one more, if nothing waits for the own line: what is begun there and not finished, its host gives up. A host that goes mute
/// after some answers holds up the credits of those, and a circuit's largest window outlasts all its legs together.
pub const SESSION_IN_FLIGHT: usize = 8;
const _: () = assert!(CIRCUIT_LEGS * WINDOW_MIN as usize <= WINDOW_MAX as usize, "mute hosts hold up less than a circuit's window");
/// How long a session may pause before its host ends it: its place is somebody else's then.
pub const SESSION_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Most hosts of one region on one circuit.
pub const CIRCUIT_HOSTS_PER_REGION: usize = 3;
/// Circuits for a document of more than one chunk.
pub const DOCUMENT_CIRCUITS: usize = 8;

/// Longest lease that a host gives, in days: room that nobody pays for comes back some day (T37).
pub const LEASE_MAX_DAYS: u16 = 400;
/// Days that hosts are asked to keep a document if nobody says otherwise.
pub const LEASE_DAYS: u16 = 90;

// --- keys (D12)

/// How long a relay's circuit and host keys are announced, in seconds: ten days. Every client reads every relay's new keys, so this is
/// what most of a day's reading costs. With the grace, keys open the past for 14 days and no longer (T46).
pub const KEY_LIFE_SECS: u64 = 10 * 24 * 3600;
/// How long they are taken after that, in seconds: three days longer than the oldest descriptor counts.
pub const KEY_GRACE_SECS: u64 = 4 * 24 * 3600;

// --- links (D2, T35)

/// One deadline for dial, TLS and first cells together: a slow peer cannot hold a half-open link longer.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Most half-open links. They are shared out by address, like the open ones.
pub const HALF_OPEN_MAX: usize = 1024;
/// Largest message of the overlay plane, in fragments of a cell.
pub const OVERLAY_MESSAGE_MAX: usize = 256 * 1024;

/// Most cells of one link that are out with the transport: about 0.5 MiB, enough to keep a fast link busy between wake-ups.
pub const LINK_IN_FLIGHT: usize = 256;
/// Cells beyond that which the link's own messages (credit, padding) may add; a peer that reads none of them is closed.
pub const LINK_CONTROL_MAX: usize = 1024;

// --- circuits (D6, D7)

/// Hops of a user-plane circuit.
pub const HOPS: usize = 3;
/// Most cells on one circuit that may carry an extend: no circuit gets longer than this plus one.
pub const EARLY_MAX: u8 = 4;
/// How long a circuit may stand without a cell. Clients replace circuits that nobody used within the hour, and operations move cells:
/// what stands longer only keeps a place, perhaps at many relays at once (T36).
pub const CIRCUIT_IDLE_MAX: Duration = Duration::from_secs(75 * 60);
/// Most legs of one circuit at once: the hosts of a few regions, and half of the first window, for each withholds a credit.
pub const CIRCUIT_LEGS: usize = 32;
/// Most legs of one circuit, ever: a long operation takes a fresh circuit then, and nobody begins legs without end (T36).
pub const CIRCUIT_BEGINS: u16 = 1024;
/// Questions about the public view that a client may have out on one circuit: one is answered while the next is on its way. The last
/// hop ends the circuit of whoever has more queued than what the first of them brings (T35).
pub const QUESTIONS_OUT: usize = 2;
/// Questions that a circuit may bring at once: a whole view of 2,000 relays and room.
pub const QUESTIONS_AT_ONCE: u32 = 192;
/// And then one each time this long: answers are the work of the one thread that routes (T36). Beyond it the circuit ends; clients
/// keep further apart.
pub const QUESTION_EVERY: Duration = Duration::from_millis(125);
/// Cells per credit: coarse, so that credits say little about timing.
pub const CREDIT_QUANTUM: u32 = 32;
/// Credit that both ends of a leg assume at its start: one large store and its opening fit.
pub const WINDOW_MIN: u32 = 64;

// Each leg withholds a credit until it ends, and what is owed below a quantum is not granted yet. Were the two together as much as
// the first window, a circuit with all its legs could stand still with nothing on its way that would ever set it going.
const _: () = assert!(CIRCUIT_LEGS + CREDIT_QUANTUM as usize <= WINDOW_MIN as usize, "legs alone can use up the first window");

/// Largest window of a leg, as design D6 fixes it.
pub const WINDOW_MAX: u32 = 3072;
/// Credits leave a node in batches, this far apart, on one grid for all its links: coarse, so that they say little about timing,
/// and one wake-up for all.
pub const CREDIT_TICK: Duration = Duration::from_millis(10);
/// A circuit that has data and no credit for this long dies (Sniper attack).
pub const STALL_DEADLINE: Duration = Duration::from_secs(60);

// --- time (D20)

/// Longest life of a descriptor: that of the keys in it, and a day to be read by everyone after they were renewed.
pub const DESCRIPTOR_LIFE_SECS: u64 = KEY_LIFE_SECS + 24 * 3600;
/// A relay makes at most one descriptor in each slot of this length, counted from 1970: two of one slot are a proof that it shows
/// different faces, and nobody is kept busy by news of one relay (T29). Addresses and keys change far less often.
pub const DESCRIPTOR_SLOT_SECS: u64 = 600;
/// The same in a local network, where tests and demonstrations do not wait.
pub const DESCRIPTOR_SLOT_LOCAL_SECS: u64 = 1;
/// Longest life of a freshness: who has not been heard of for a day is gone (D20).
pub const FRESHNESS_LIFE_SECS: u64 = 24 * 3600;
/// Clock skew at which a descriptor is still accepted.
pub const SKEW_MAX_SECS: u64 = 3 * 3600;
/// Clock offset at which the node warns.
pub const SKEW_WARN_SECS: u64 = 600;

// --- network (D8)

/// Fewest relays that make a network.
pub const NETWORK_MIN_RELAYS: usize = 6;
/// Fewest /16 groups that make a network.
pub const NETWORK_MIN_GROUPS: usize = 4;
/// Below this many relays the node says that anonymity is weak.
pub const NETWORK_WEAK_BELOW: usize = 50;
/// Share of sampled relays that a node must know before it chooses paths, in percent (D8, T29).
pub const COVERAGE_PERCENT: u32 = 97;
/// Address groups that a coverage measurement must come from.
pub const COVERAGE_GROUPS: usize = 5;
/// How long a node tries to reach anybody at all before it says so: several dials of several relays.
pub const NOBODY_DEADLINE: Duration = Duration::from_secs(45);
/// How long a node tries to reach that coverage before it gives up with exit code 4.
pub const COVERAGE_DEADLINE: Duration = Duration::from_secs(600);

// --- descriptors and receipts (D8, D9)

/// Longest descriptor with its signature, in bytes: the hybrid host key takes 1.2 KiB, a full family half a KiB more, and room.
pub const DESCRIPTOR_MAX: usize = 3072;
/// Longest freshness with its signature, in bytes: five receipts, and room.
pub const FRESHNESS_MAX: usize = 1024;
/// Most relays a descriptor names as run by the same people.
pub const FAMILY_MAX: usize = 16;
/// Most former addresses a descriptor lists.
pub const OLD_ADDRS_MAX: usize = 4;
/// How long a former address keeps its position served (D9), in seconds.
pub const OLD_ADDR_SECS: u64 = 7 * 24 * 3600;
/// Most dial-back receipts in a descriptor.
pub const RECEIPTS_MAX: usize = 5;
/// Witnesses in distinct groups that make an address usable (D9).
pub const RECEIPTS_NEEDED: usize = 3;
/// Hours a receipt counts.
pub const RECEIPT_LIFE_HOURS: u32 = 7 * 24;
/// Hours after which a receipt shows that its relay's address does not change (D9): two of them make a host.
pub const HOST_AFTER_HOURS: u32 = 24;
/// Most usable relays of a view; beyond, the same sample is kept everywhere (D8).
pub const VIEW_MAX: usize = 20_000;
/// Most descriptors kept that are not usable yet: the oldest arrival goes first.
pub const VIEW_PENDING_MAX: usize = 8_192;
