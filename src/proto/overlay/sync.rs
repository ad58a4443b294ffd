//! Answers to others, and a client's snapshots: pages of all usable relays, then only what arrived since (D8).

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::io::Config;
use crate::proto::overlay::io::Peer;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Cursor;
use crate::wire::overlay::FETCH_MAX;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Message;
use crate::wire::overlay::NEAR_MAX;
use crate::wire::overlay::PAGE_MAX;
use core::net::SocketAddr;
use core::time::Duration;
use rand::RngExt;
use std::collections::VecDeque;

/// Directory relays that a client reads from (D8).
const DIRECTORIES: usize = 3;
/// A client asks each directory relay for changes about this often.
const POLL: Duration = Duration::from_secs(3600);
/// The same in a local network.
const POLL_LOCAL: Duration = Duration::from_secs(10);
/// The same until the view is known well enough to choose paths.
const POLL_GROWING: Duration = Duration::from_secs(15);
/// The same in a local network.
const POLL_GROWING_LOCAL: Duration = Duration::from_millis(400);
/// A client waits so long for the snapshots of all its directories before it goes on with those it has.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);
/// First wait after a failure; doubles up to `POLL`.
const RETRY: Duration = Duration::from_secs(2);
/// Pages that one snapshot may have: a full view and room.
const PAGES_MAX: u32 = 1024;

#[derive(Debug)]
struct Directory {
    peer: Peer,
    since: Option<Cursor>,
    at: Time,
    failures: u32,
    pages: u32,
    /// A dial or request is under way.
    busy: bool,
    /// When we began to read from it.
    began: Time,
    /// Its bit in the view.
    bit: u8,
    /// A whole snapshot is being read, not changes.
    whole: bool,
    /// The last page of it came.
    ended: bool,
    /// Pages whose records are being checked.
    checking: u32,
    /// Whether a whole snapshot came from it.
    complete: bool,
}

/// A client's directories.
#[derive(Debug)]
pub struct Sync {
    directories: Vec<Directory>,
    /// Bits of those we read from before: they have a say until enough of the present ones have.
    former: Vec<u8>,
    /// Ways in until the path policy has chosen, the next first: bootstrap relays, behind them what an earlier run knew.
    ways_in: VecDeque<Peer>,
    next: Time,
}

impl Sync {
    pub(super) fn new(now: Time, config: &Config) -> Self {
        let mut ways_in: VecDeque<Peer> = config.bootstrap.iter().copied().collect();
        ways_in.extend(config.known.iter().filter(|peer| !config.bootstrap.contains(peer)));
        let mut sync = Self { directories: Vec::new(), former: Vec::new(), ways_in, next: now };
        if config.profile.is_none() {
            // Nothing is listed yet, so there is nothing to forget. Bootstrap relays alone at first: who was a directory once shall not
            // decide what later starts see.
            let bootstrap = sync.take_ways_in(config.bootstrap.len());
            let first = if bootstrap.is_empty() { sync.take_ways_in(DIRECTORIES) } else { bootstrap };
            sync.set(now, now, &first);
        }
        sync
    }

    /// The next ways in, three relays at most, of the first `among`; they go to the end of the line.
    fn take_ways_in(&mut self, among: usize) -> Vec<Peer> {
        let mut taken: Vec<Peer> = Vec::new();
        let mut at = 0;
        for _ in 0..among.min(self.ways_in.len()) {
            let Some(peer) = self.ways_in.get(at).copied() else { break };
            // One with two addresses is asked at one of them.
            if taken.len() < DIRECTORIES && taken.iter().all(|t| t.node != peer.node) {
                self.ways_in.remove(at);
                taken.push(peer);
            } else {
                at += 1;
            }
        }
        self.ways_in.extend(&taken);
        taken
    }

    /// Reads from these, from `at` on. Gives the bits of those that have no say any more.
    fn set(&mut self, now: Time, at: Time, peers: &[Peer]) -> u8 {
        let (mut old, mut free) = (core::mem::take(&mut self.directories), 0);
        let (kept, new): (Vec<&Peer>, Vec<&Peer>) = peers.iter().take(DIRECTORIES).partition(|p| old.iter().any(|d| d.peer == **p));
        for peer in kept {
            self.directories.extend(old.iter().position(|d| d.peer == *peer).map(|i| old.swap_remove(i)));
        }
        for gone in old {
            if gone.complete {
                self.former.push(gone.bit);
            } else {
                free |= gone.bit;
            }
        }
        for peer in new {
            let used = |s: &Self| s.directories.iter().map(|d| d.bit).chain(s.former.iter().copied()).fold(0, |all, bit| all | bit);
            if used(self) == u8::MAX && !self.former.is_empty() {
                free |= self.former.remove(0);
            }
            let bit = 1u8.checked_shl(used(self).trailing_ones()).unwrap_or(0);
            self.directories.push(Directory {
                peer: *peer,
                since: None,
                at,
                failures: 0,
                pages: 0,
                busy: false,
                began: now,
                bit,
                whole: true,
                ended: false,
                checking: 0,
                complete: false,
            });
        }
        self.next = now;
        free
    }

    /// Whether an answer of this directory is not to be waited for: it came, or failed, or had its time.
    fn heard(d: &Directory, now: Time) -> bool {
        d.complete || d.failures > 0 || now.since(d.began) > SNAPSHOT_WAIT
    }

    /// Who has a say, and the bits of those that have none any more: former directories, once two of the present ones have (or the
    /// only one).
    fn voters(&mut self, now: Time) -> (u8, u8) {
        let complete = self.directories.iter().filter(|d| d.complete).fold(0, |all, d| all | d.bit);
        let enough = complete.count_ones() as usize >= self.directories.len().min(2);
        let mut free = 0;
        if enough && complete != 0 && self.directories.iter().all(|d| Self::heard(d, now)) {
            free = core::mem::take(&mut self.former).into_iter().fold(0, |all, bit| all | bit);
        }
        (self.former.iter().fold(complete, |all, bit| all | bit), free)
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }

    fn get(&mut self, node: NodeId) -> Option<&mut Directory> {
        self.directories.iter_mut().find(|d| d.peer.node == node)
    }

    fn plan(&mut self) {
        let soonest = self.directories.iter().filter(|d| !d.busy).map(|d| d.at).min();
        self.next = soonest.unwrap_or(Time(u64::MAX));
    }
}

impl Overlay {
    /// Whether a client has read what it is going to read before it chooses anything: all directories gave a whole snapshot, or
    /// failed, or had their time; and one at least gave one. The first answer alone must not decide: it may be a liar's, and short
    /// (T29).
    pub fn snapshots_read(&self, now: Time) -> bool {
        let directories = &self.sync.directories;
        directories.iter().any(|d| d.complete) && directories.iter().all(|d| Sync::heard(d, now))
    }

    pub(super) fn directories(&mut self, env: &Env<'_>, list: Vec<Peer>) {
        if !self.is_relay() && !list.is_empty() {
            let gone = self.sync.set(env.now, env.now, &list);
            self.view.unlist(gone, true);
            self.count_votes(env.now);
        }
    }

    /// Who has a say may have changed.
    fn count_votes(&mut self, now: Time) {
        let (voters, gone) = self.sync.voters(now);
        if gone != 0 {
            self.view.unlist(gone, true);
        }
        self.view.set_voters(voters);
        self.view_changed = true;
    }

    /// The directory lists this relay.
    pub(super) fn listed(&mut self, directory: NodeId, node: &NodeId, addr: &SocketAddr) {
        if let Some(d) = self.sync.get(directory) {
            let (bit, whole) = (d.bit, d.whole);
            self.view.list(node, addr, bit, whole);
        }
    }

    /// The records of one page were checked; or that failed, and what they listed must be read again.
    pub(super) fn page_checked(&mut self, env: &Env<'_>, directory: NodeId, done: bool) {
        if let Some(d) = self.sync.get(directory) {
            d.checking = d.checking.saturating_sub(1);
            if !done {
                (d.since, d.whole, d.ended) = (None, true, false);
            }
        }
        self.close_snapshot(env.now, directory);
    }

    /// The whole snapshot was read and checked: from here on its directory has a say.
    fn close_snapshot(&mut self, now: Time, directory: NodeId) {
        let Some(d) = self.sync.get(directory).filter(|d| d.whole && d.ended && d.checking == 0) else { return };
        let bit = d.bit;
        (d.whole, d.ended, d.complete) = (false, false, true);
        self.view.listed_whole(bit);
        self.count_votes(now);
    }

    pub(super) fn tick_sync(&mut self, env: &mut Env<'_>) {
        if env.now < self.sync.next {
            return;
        }
        let due: Vec<Peer> = self.sync.directories.iter().filter(|d| !d.busy && d.at <= env.now).map(|d| d.peer).collect();
        for peer in due {
            if let Some(d) = self.sync.get(peer.node) {
                d.busy = true;
                d.pages = 0;
            }
            match self.link_to(&peer.node) {
                Some(link) => self.ask_snapshot(env, link, peer.node),
                None => {
                    if !self.dial(env, peer, Purpose::Directory) {
                        self.directory_failed(env, peer.node);
                    }
                }
            }
        }
        self.sync.plan();
    }

    pub(super) fn ask_snapshot(&mut self, env: &mut Env<'_>, link: LinkId, directory: NodeId) {
        let since = self.sync.get(directory).and_then(|d| d.since);
        if !self.request(env, link, Asked::Snapshot { directory }, |id| Message::Snapshot { id, since }) {
            self.directory_failed(env, directory);
        }
    }

    pub(super) fn directory_failed(&mut self, env: &mut Env<'_>, directory: NodeId) {
        let jitter = env.rng.random_range(0.75..1.25);
        if let Some(d) = self.sync.get(directory) {
            d.busy = false;
            d.failures = d.failures.saturating_add(1);
            let wait = (RETRY * 2u32.pow(d.failures.min(11))).min(POLL);
            d.at = env.now + wait.mul_f64(jitter);
        }
        let none_answers =
            self.view.counts().relays == 0 && self.sync.directories.iter().all(|d| d.since.is_none() && d.failures > 0);
        if none_answers {
            let next = self.sync.take_ways_in(usize::MAX);
            let gone = self.sync.set(env.now, env.now + RETRY.mul_f64(jitter), &next);
            self.view.unlist(gone, true);
        }
        self.sync.plan();
        self.count_votes(env.now);
    }

    pub(super) fn snapshot_page(
        &mut self,
        env: &mut Env<'_>,
        link: LinkId,
        directory: NodeId,
        next: Cursor,
        more: bool,
        records: Vec<Blob>,
    ) {
        // A view that is not known well enough yet may have been read while the directory's own was growing.
        let poll = match (self.coverage().ready, self.view.is_local()) {
            (true, false) => POLL,
            (true, true) => POLL_LOCAL,
            (false, false) => POLL_GROWING,
            (false, true) => POLL_GROWING_LOCAL,
        };
        let wait = poll.mul_f64(env.rng.random_range(0.5..1.5));
        let Some(d) = self.sync.get(directory) else { return };
        // Only forward, and only so far: a directory cannot keep us turning pages.
        let forward = d.since.is_none_or(|s| s.epoch != next.epoch || s.number < next.number);
        // Another epoch than ours: this is the first page of a whole snapshot.
        let anew = d.since.is_none_or(|s| s.epoch != next.epoch);
        d.since = Some(next);
        d.failures = 0;
        d.whole |= anew;
        d.ended = false;
        d.checking += 1;
        let bit = d.bit;
        d.pages += 1;
        let go_on = more && forward && d.pages < PAGES_MAX;
        if !go_on {
            d.busy = false;
            d.ended = !more;
            d.at = env.now + wait;
        }
        if anew {
            self.view.unlist(bit, false);
        }
        let checking = self.verify(link, Some(directory), records);
        if checking != Some(true) {
            self.page_checked(env, directory, checking.is_some());
        }
        if go_on {
            self.ask_snapshot(env, link, directory);
        }
        self.sync.plan();
    }

    /// The answer to a request about the public view: for links, and for requests that come through circuits. `None` for all other
    /// messages.
    pub fn answer(&self, message: &Message) -> Option<Message> {
        match message {
            Message::Near { id, target, max } => {
                let near = self.view.near(target, usize::from(*max).min(NEAR_MAX));
                let hints = near.map(|r| Hint { id: r.hint_id(), seq: r.descriptor().seq }).collect();
                Some(Message::NearReply { id: *id, hints })
            }
            Message::Fetch { id, ids } => {
                let known = ids.iter().take(FETCH_MAX).filter_map(|hint| self.view.by_hint(*hint)).filter(|e| !e.doubted());
                Some(Message::FetchReply { id: *id, records: known.map(|e| Blob(e.relay.encode())).collect() })
            }
            Message::Snapshot { id, since } => {
                let from = since.filter(|s| s.epoch == self.epoch).map_or(0, |s| s.number);
                let mut number = from;
                let mut records = Vec::with_capacity(PAGE_MAX);
                for (n, relay) in self.view.arrivals(from, PAGE_MAX) {
                    number = n;
                    records.push(Blob(relay.encode()));
                }
                let more = self.view.arrivals(number, 1).next().is_some();
                Some(Message::SnapshotPage { id: *id, next: Cursor { epoch: self.epoch, number }, more, records })
            }
            Message::Digest { id } => Some(Message::DigestReply { id: *id, digest: self.view.digest() }),
            Message::NearReply { .. }
            | Message::FetchReply { .. }
            | Message::Announce { .. }
            | Message::AnnounceAck { .. }
            | Message::SnapshotPage { .. }
            | Message::DigestReply { .. }
            | Message::DialBack { .. }
            | Message::DialBackReply { .. } => None,
        }
    }
}
