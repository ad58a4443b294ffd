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
use core::time::Duration;
use rand::RngExt;

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
    /// Whether a whole snapshot came from it.
    complete: bool,
}

/// A client's directories.
#[derive(Debug)]
pub struct Sync {
    since: Time,
    directories: Vec<Directory>,
    next: Time,
}

impl Sync {
    pub(super) fn new(now: Time, config: &Config) -> Self {
        // Until the path policy has chosen, the bootstrap relays serve.
        let mut sync = Self { since: now, directories: Vec::new(), next: now };
        if config.profile.is_none() {
            sync.set(now, &config.bootstrap);
        }
        sync
    }

    fn set(&mut self, now: Time, peers: &[Peer]) {
        let mut old = core::mem::take(&mut self.directories);
        for peer in peers.iter().take(DIRECTORIES) {
            let kept = old.iter().position(|d| d.peer == *peer).map(|i| old.swap_remove(i));
            let new = Directory { peer: *peer, since: None, at: now, failures: 0, pages: 0, busy: false, complete: false };
            self.directories.push(kept.unwrap_or(new));
        }
        self.next = now;
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
    /// Whether a client has read what it is going to read before it chooses anything: all directories gave a whole snapshot, or failed, or
    /// had their time; and one at least gave one. The first answer alone must not decide: it may be a liar's, and short (T29).
    pub fn snapshots_read(&self, now: Time) -> bool {
        let heard = |d: &Directory| d.complete || d.failures > 0 || now.since(self.sync.since) > SNAPSHOT_WAIT;
        self.sync.directories.iter().any(|d| d.complete) && self.sync.directories.iter().all(heard)
    }

    pub(super) fn directories(&mut self, env: &Env<'_>, list: Vec<Peer>) {
        if !self.is_relay() && !list.is_empty() {
            self.sync.set(env.now, &list);
        }
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
        self.sync.plan();
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
        d.since = Some(next);
        d.failures = 0;
        d.pages += 1;
        let go_on = more && forward && d.pages < PAGES_MAX;
        if !go_on {
            d.busy = false;
            d.complete |= !more;
            d.at = env.now + wait;
        }
        self.verify(link, records);
        if go_on {
            self.ask_snapshot(env, link, directory);
        }
        self.sync.plan();
    }

    /// The answer to a request about the public view: for links, and for requests that come through circuits. `None` for all other messages.
    pub fn answer(&self, message: &Message) -> Option<Message> {
        match message {
            Message::Near { id, target, max } => {
                let near = self.view.near(target, usize::from(*max).min(NEAR_MAX));
                let hints = near.iter().map(|r| Hint { id: r.hint_id(), seq: r.descriptor().seq }).collect();
                Some(Message::NearReply { id: *id, hints })
            }
            Message::Fetch { id, ids } => {
                let known = ids.iter().take(FETCH_MAX).filter_map(|hint| self.view.by_hint(*hint));
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
