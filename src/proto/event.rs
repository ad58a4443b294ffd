//! What people ask of a node, and what it tells them.

use crate::base::ErrorKind;
use crate::crypto::secret::Secret;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::doc::key::TextError;
use crate::proto::overlay::reach::Reach;
use bytes::Bytes;
use std::net::SocketAddr;

/// What a person wants. Each runs under its own `OpId`, on circuits of its own. Prints what kind it is.
pub enum Command {
    /// Publish a document. Answers: [`Event::Need`] for each chunk's bytes in order, [`Event::Progress`], [`Event::Key`], then
    /// [`Event::Published`] or [`Event::Failed`].
    Publish(PublishWish),
    /// The plaintext that an [`Event::Need`] asked for.
    Plain(Bytes),
    /// Fetch a document from byte `offset` on. Answers: [`Event::Found`], [`Event::Data`] in order, then [`Event::Fetched`] or
    /// [`Event::Failed`].
    Get {
        /// What to fetch.
        key: ReadKey,
        /// First byte wanted: what an earlier, interrupted get has on disk already.
        offset: u64,
    },
    /// The receiver of [`Event::Data`] has dealt with this many bytes: more may come.
    Consumed(u64),
    /// Count the living shares of a document, with a read or a verify key. Answers: [`Event::Progress`], then [`Event::Checked`].
    Check {
        /// What to check.
        key: Key,
        /// Most chunks to sample; the others are "claimed".
        sample: usize,
    },
    /// Stop and forget this operation.
    Cancel,
    /// How the node is. Answer: [`Event::Status`].
    Status,
}

/// What is to be published, and how.
pub struct PublishWish {
    /// Bytes of the document.
    pub length: u64,
    /// A name that readers shall see.
    pub name: Option<String>,
    /// A media type that readers shall see.
    pub media_type: Option<String>,
    /// Days the hosts are asked to keep it.
    pub lease_days: u16,
    /// The secret of the data directory, if the document shall be convergent: its key then follows from this and from the document,
    /// which is asked for twice, from the beginning again.
    pub convergent: Option<Secret<32>>,
}

impl core::fmt::Debug for PublishWish {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PublishWish(..)")
    }
}

impl core::fmt::Debug for Command {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Publish(_) => "Publish(..)",
            Self::Plain(_) => "Plain(..)",
            Self::Get { .. } => "Get(..)",
            Self::Consumed(_) => "Consumed(..)",
            Self::Check { .. } => "Check(..)",
            Self::Cancel => "Cancel",
            Self::Status => "Status",
        })
    }
}

/// What became of a command. Prints figures, and nothing of a document.
pub enum Event {
    /// The node waits for this much of the document, to be answered by [`Command::Plain`] of exactly that many bytes (the file's
    /// end may not come early: a shorter answer fails the operation).
    Need {
        /// Where in the document.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// How far it is.
    Progress(Progress),
    /// The document stands, with this length.
    Found {
        /// Bytes of the whole document.
        length: u64,
        /// The name that its publisher gave it. Untrusted text.
        name: Option<String>,
        /// The type that its publisher gave it. Untrusted text.
        media_type: Option<String>,
    },
    /// Verified bytes of the document, in order.
    Data(Bytes),
    /// All bytes were delivered.
    Fetched(Report),
    /// The key that a publication will have, before the last chunk leaves: what is stored from here on may be all that a reader
    /// needs, so whoever publishes keeps it from now on, whatever happens later. Comes once.
    Key(ReadKey),
    /// Stored: at least 16 acknowledgements for each chunk (D16).
    Published {
        /// Opens it.
        key: ReadKey,
        /// How it went.
        report: Report,
    },
    /// What a check found.
    Checked(CheckReport),
    /// How the node is.
    Status(Status),
    /// It did not work.
    Failed(Failure),
}

impl core::fmt::Debug for Event {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Need { offset, len } => f.debug_struct("Need").field("offset", offset).field("len", len).finish(),
            Self::Progress(progress) => progress.fmt(f),
            Self::Found { length, .. } => f.debug_struct("Found").field("length", length).finish_non_exhaustive(),
            Self::Data(bytes) => f.debug_struct("Data").field("len", &bytes.len()).finish(),
            Self::Fetched(report) => f.debug_tuple("Fetched").field(report).finish(),
            Self::Key(_) => f.write_str("Key(..)"),
            Self::Published { report, .. } => f.debug_struct("Published").field("report", report).finish_non_exhaustive(),
            Self::Checked(report) => report.fmt(f),
            Self::Status(status) => status.fmt(f),
            Self::Failed(failure) => f.debug_tuple("Failed").field(failure).finish(),
        }
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes of the document dealt with.
    pub bytes: u64,
    /// Bytes of the document in all, once known.
    pub total: u64,
    /// Shares acknowledged or received so far.
    pub shares: u64,
}

/// How an operation went, in figures that its own user may see.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Bytes of the document.
    pub bytes: u64,
    /// Chunks, parity, padding and every copy of the manifest's included: as [`CheckReport::chunks`] counts them.
    pub chunks: u64,
    /// Shares stored or received.
    pub shares: u64,
    /// Shares that were refused, missing, late or did not verify.
    pub shares_failed: u64,
    /// Distinct hosts that gave or took shares.
    pub hosts: u64,
    /// The circuits used, each as its relays' addresses from the guard to the last hop. For the user's own eyes (demo, status);
    /// never logged.
    pub paths: Vec<Vec<SocketAddr>>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckReport {
    /// Chunks of the document, manifest nodes counted once per stored copy.
    pub chunks: u64,
    /// Chunks whose shares were really fetched and verified.
    pub chunks_sampled: u64,
    /// Shares that verified, over all sampled chunks.
    pub shares_seen: u64,
    /// Shares that those chunks can have.
    pub shares_possible: u64,
    /// Fewest distinct shares that any sampled chunk has.
    pub weakest: u64,
    /// Shares that one chunk needs.
    pub needed: u64,
    /// Sampled chunks that cannot be rebuilt from what was seen.
    pub chunks_lost: u64,
}

/// Why something did not work, in words for a person: what happened, what was kept, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// What the person can do about it; decides the exit code.
    #[serde(with = "kind_word")]
    pub kind: ErrorKind,
    /// What happened.
    pub what: String,
    /// What was kept; empty if nothing was at stake.
    pub kept: String,
    /// What to do next.
    pub next: String,
}

/// What is left of a publication that did not come to its end.
pub const NO_KEY: &str = "No key was given out; whatever hosts took cannot be read without one, and expires.";
/// What to do when hosts that have something are away.
const LATER: &str = "Try again later: hosts that are down now may come back.";

impl Failure {
    fn new(kind: ErrorKind, what: impl Into<String>, kept: &str, next: &str) -> Self {
        Self { kind, what: what.into(), kept: kept.into(), next: next.into() }
    }

    /// More operations at once than a node takes.
    pub fn too_many_operations() -> Self {
        Self::new(
            ErrorKind::Refused,
            "this node is busy with as many operations as it takes at once",
            "",
            "Wait for one to end, then try again.",
        )
    }

    /// A bug of ours.
    pub fn bug(what: &str) -> Self {
        Self::new(ErrorKind::Other, format!("internal error: {what}"), "", "Try again; if it happens again, report it as a bug.")
    }

    /// A text that should have been a key.
    pub fn mistyped(why: TextError) -> Self {
        let next = if why == TextError::VerifyOnly {
            "Ask for the read key, or use `onionskin check` with this one."
        } else {
            "Copy the whole key again."
        };
        Self::new(ErrorKind::Usage, format!("this is not a usable key: {why}"), "Nothing was sent.", next)
    }

    /// The top chunk of a document was not found.
    pub fn not_found(asked: usize, found: usize) -> Self {
        let asked = were_asked(asked);
        if found > 0 {
            let what = format!("too few shares are left: {asked}, {} found, 8 are needed", shares_were(found));
            return Self::new(ErrorKind::NotFound, what, "", LATER);
        }
        Self::new(
            ErrorKind::NotFound,
            format!("nobody has this document: {asked}, and none holds a share of it"),
            "",
            "Check the key with whoever gave it to you; if it was published just now, try again in a minute.",
        )
    }

    /// A part of the manifest is lost.
    pub fn manifest_lost(asked: usize, found: usize) -> Self {
        let (asked, found) = (were_asked(asked), shares_were(found));
        let what = format!("a part of the document's list of chunks is lost: {asked}, {found} found, 8 are needed");
        Self::new(ErrorKind::NotFound, what, "", LATER)
    }

    /// More chunks of a group are lost than its parity makes up for.
    pub fn chunks_lost(asked: usize) -> Self {
        let what = format!("parts of the document are lost: up to {asked} hosts were asked for each, and too few shares are left");
        Self::new(ErrorKind::NotFound, what, "", LATER)
    }

    /// The manifest does not verify.
    pub fn manifest_lies() -> Self {
        Self::new(
            ErrorKind::NotVerified,
            "the document's list of chunks does not verify",
            "",
            "Whoever made this document or its key made it wrong; ask them for a new one.",
        )
    }

    /// Chunks do not verify although all their shares do.
    pub fn void() -> Self {
        Self::new(
            ErrorKind::NotVerified,
            "the document does not verify: it was not made as a document must be",
            "Nothing that did not verify was written.",
            "Whoever made this document made it wrong; ask them for a new one.",
        )
    }

    /// A get starts behind the end. Whether a part is the reason, the asker knows.
    pub fn offset_beyond_end() -> Self {
        Self::new(
            ErrorKind::Usage,
            "the document ends before the byte that was asked for",
            "",
            "Ask for it from an earlier byte on.",
        )
    }

    /// Fewer or more bytes came than were announced, or, at a second reading, others.
    pub fn file_changed() -> Self {
        Self::new(
            ErrorKind::Other,
            "the file changed while it was being published",
            "Nothing usable was published.",
            "Publish it again when nothing writes to it.",
        )
    }

    /// There is no host to store with.
    pub fn no_hosts() -> Self {
        Self::new(
            ErrorKind::NoNetwork,
            "no host is known that could take a share",
            "",
            "Wait until the network has more hosts, then try again.",
        )
    }

    /// Too few hosts took a chunk's shares.
    pub fn not_stored(acknowledged: usize, full: bool) -> Self {
        let (kind, why) = if full { (ErrorKind::Refused, ": hosts say that they are full") } else { (ErrorKind::NoNetwork, "") };
        let what = format!("a part could not be stored: {acknowledged} of its shares were taken, 16 are needed{why}");
        Self::new(kind, what, NO_KEY, "Try again later.")
    }

    /// There is no link to anybody; so many relays are known from earlier.
    pub fn nobody_answers(known: usize) -> Self {
        let known = if known == 0 { String::new() } else { format!(": {} known from earlier", were(known, "relay")) };
        Self::new(
            ErrorKind::NoNetwork,
            format!("no relay answers{known}"),
            "Nothing was sent.",
            "Check that this computer is online and that the bootstrap link is right, then repeat the command.",
        )
    }

    /// The view is not known well enough.
    pub fn not_ready(relays: usize, groups: usize, coverage: Option<u32>) -> Self {
        let measured = coverage.map_or_else(|| "not measured yet".into(), |c| format!("{c} %"));
        let what = format!(
            "the network is not known well enough to choose paths safely: {} in {}, coverage {measured} (97 % is needed)",
            count(relays as u64, "relay"),
            count(groups as u64, "address group"),
        );
        Self::new(
            ErrorKind::NoNetwork,
            what,
            "Nothing was sent.",
            "Check that this computer is online and that the bootstrap link is right, then try again.",
        )
    }

    /// No circuit could be built for minutes.
    pub fn line_down() -> Self {
        Self::new(
            ErrorKind::NoNetwork,
            "no relay could be reached any more for five minutes",
            "",
            "Check that this computer is online, then repeat the command.",
        )
    }

    /// A state file of a newer version.
    pub fn newer_state() -> Self {
        Self::new(
            ErrorKind::Other,
            "the state in the data directory was written by a newer version of onionskin, or is damaged",
            "Nothing was changed.",
            "Update onionskin, or use another --data-dir.",
        )
    }

    /// The clock is too far off.
    pub fn clock_off(offset: i64) -> Self {
        Self::new(ErrorKind::NoNetwork, clock_differs(offset), "Nothing was sent.", "Set the clock, then try again.")
    }
}

/// How far this computer's clock is off, in words. `offset` is that of the others in seconds; positive: they are ahead.
pub fn clock_differs(offset: i64) -> String {
    let side = if offset > 0 { "behind" } else { "ahead of" };
    format!("this computer's clock is {} {side} the network's", span(offset.unsigned_abs() / 60))
}

/// So many minutes in the largest unit of which there are two.
fn span(minutes: u64) -> String {
    let units = [(365 * 24 * 60, "year"), (24 * 60, "day"), (60, "hour")];
    let large = units.into_iter().find(|(unit, _)| minutes >= 2 * unit);
    large.map_or_else(|| count(minutes, "minute"), |(unit, word)| format!("about {}", count(minutes / unit, word)))
}

/// So many things: `1 relay`, `2 relays`.
pub fn count(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Bytes for people: `999 bytes`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return count(bytes, "byte");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

fn were(n: usize, thing: &str) -> String {
    format!("{} {}", count(n as u64, thing), if n == 1 { "was" } else { "were" })
}

fn were_asked(hosts: usize) -> String {
    format!("{} asked", were(hosts, "host"))
}

fn shares_were(found: usize) -> String {
    were(found, "share")
}

mod kind_word {
    use crate::base::ErrorKind;
    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(super) fn serialize<S: Serializer>(kind: &ErrorKind, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(kind.word())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ErrorKind, D::Error> {
        Ok(ErrorKind::from_word(&String::deserialize(d)?))
    }
}

/// How a node is. For its own operator and user only: served on the local socket, never logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Status {
    /// Whether paths may be chosen: the view is known well enough. Of a relay, others reach it too.
    pub ready: bool,
    /// Usable relays in the view.
    pub relays: u64,
    /// Hosts among them.
    pub hosts: u64,
    /// Distinct /16 groups.
    pub groups: u64,
    /// Measured coverage in percent, once measured.
    pub coverage: Option<u32>,
    /// Open links.
    pub links: u64,
    /// Circuits of this node's user that stand ready or are in use.
    pub circuits_own: u64,
    /// Circuits carried for others.
    pub circuits_carried: u64,
    /// Median of what the last circuits took to build, in microseconds, links dialled for them included; once one was built.
    pub circuit_build_us: Option<u64>,
    /// What is weaker than it should be, in words: few relays, rules kept only as far as a small network allows, clock off.
    pub warnings: Vec<String>,
    /// Of the usable relays, those that answered this relay within the last hour, or have a link with it.
    pub answering: Option<u64>,
    /// Those that did not when they were last dialled; they count on for about a day. Of the rest nothing is known lately.
    pub silent: Option<u64>,
    /// What witnesses say of where this relay is.
    pub reach: Option<Reach>,
    /// Clocks of others against the own, in seconds; positive: this one is behind.
    pub clock_offset_secs: Option<i64>,
    /// What a host holds.
    pub store: Option<StoreStatus>,
    /// What the disk said when something was last written or read in vain, until it succeeds again.
    pub fault: Option<String>,
    /// File handles.
    pub handles: Option<Handles>,
    /// This relay's bootstrap link, if it is one.
    pub link: Option<String>,
    /// Seconds since the node started.
    pub uptime_secs: u64,
}

/// What a host holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreStatus {
    /// Shares.
    pub shares: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub quota: u64,
    /// Shares dropped since the start because they were damaged.
    pub damaged: u64,
}

/// File handles of the node's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Handles {
    /// Open ones.
    pub open: u64,
    /// Most that the system allows.
    pub limit: u64,
}

/// What happens to the node itself.
#[derive(Debug)]
pub enum NodeEvent {
    /// The view is complete enough: user-plane circuits may be built. Sent once each time this becomes true.
    Ready,
    /// It is not any more, or still not after `limits::COVERAGE_DEADLINE`; in words for a person, with the figure.
    NotReady(Failure),
    /// So many witnesses reached this relay where it says that it is, and it is announced. Sent once each time this becomes true.
    Announced(u32),
    /// Something the operator should know, in words without addresses or ids.
    Warning(String),
    /// Something that may be of interest, and asks nothing of anybody; as seldom and as wordless about others.
    Note(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_a_person_can_grasp() {
        for (minutes, words) in
            [(1, "1 minute"), (119, "119 minutes"), (120, "about 2 hours"), (3000, "about 2 days"), (1_576_800, "about 3 years")]
        {
            assert_eq!(clock_differs(minutes * 60), format!("this computer's clock is {words} behind the network's"));
            assert_eq!(clock_differs(-minutes * 60), format!("this computer's clock is {words} ahead of the network's"));
        }
    }

    #[test]
    fn sizes_for_people() {
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(100 << 20), "100.0 MiB");
    }
}
