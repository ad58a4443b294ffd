//! A client's reading: lists of its directories, and the descriptors that they agree on (D8).
//!
//! At a first start the directories are the relays behind its links, read over links of their own, all at once: nothing is believed
//! before two complete lists agree, however long it takes, and of several networks that they name the one that relays drawn by /24
//! belong to (`start`). From then on they are the client's guard, over the link that
//! it has anyhow, and two more, through circuits: the client's line shows one relay, and nobody else learns who reads.
//!
//! A list is short, and after the first time only what changed in it comes. Descriptors are asked of one directory, those alone that
//! are agreed on and not known. What was agreed on once stays until another agreement says otherwise.

mod bodies;
mod start;

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::io::Config;
use crate::proto::overlay::io::Event;
use crate::proto::overlay::io::Odd;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::Peer;
use crate::proto::overlay::kept;
use crate::proto::overlay::kept::Kept;
use crate::proto::overlay::kept::KeptList;
use crate::proto::overlay::lists;
use crate::proto::overlay::lists::AGREE;
use crate::proto::overlay::lists::List;
use crate::proto::overlay::lists::Page;
use crate::proto::overlay::lists::Vote;
use crate::proto::overlay::questions;
use crate::proto::overlay::record;
use crate::proto::overlay::sync::bodies::Bodies;
use crate::proto::overlay::sync::start::STARTING_MAX;
use crate::proto::overlay::sync::start::Start;
use crate::proto::overlay::sync::start::WAYS_MAX;
use crate::wire::overlay::Cursor;
use crate::wire::overlay::Message;
use core::time::Duration;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Directory relays that a client reads from (D8).
const DIRECTORIES: usize = 3;
/// A client asks each directory relay for changes about this often: descriptors hold for days, so it is newcomers that wait.
const POLL: Duration = Duration::from_secs(2 * 3600);
/// The same in a local network.
const POLL_LOCAL: Duration = Duration::from_secs(20);
/// The same until the view is known well enough to choose paths.
const POLL_GROWING: Duration = Duration::from_secs(15);
/// The same in a local network.
const POLL_GROWING_LOCAL: Duration = Duration::from_millis(400);
/// First wait after a failure; doubles up to `POLL`.
const RETRY: Duration = Duration::from_secs(2);
/// Failures of every directory in a row after which the ways in are asked again: two minutes, so that a line which is down for one
/// shows nobody new.
const LOST_AFTER: u32 = 6;
/// Pages that one list may have: twice a full view.
const PAGES_MAX: u32 = 64;
/// What an earlier run knew is good for choosing paths for so long; after that it is only good for finding the directories.
const CURRENT_SECS: u64 = 3 * 3600;
/// Between two times that the view is saved.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// The same in a local network.
const SAVE_EVERY_LOCAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Directory {
    peer: Peer,
    list: List,
    /// A whole list that is being read.
    reading: Option<List>,
    since: Option<Cursor>,
    /// Whether the list is whole.
    complete: bool,
    at: Time,
    failures: u32,
    /// Pages of the present reading.
    pages: u32,
    /// A dial or a page is under way.
    busy: bool,
    /// It was reached, at a start.
    met: bool,
    /// At a start: no way in, but picked of those that a way in names.
    picked: bool,
}

impl Directory {
    const fn new(peer: Peer, at: Time) -> Self {
        let list = List::new();
        let (reading, since, busy, met, picked) = (None, None, false, false, false);
        Self { peer, list, reading, since, complete: false, at, failures: 0, pages: 0, busy, met, picked }
    }

    /// Whether its list may still come: it did not fail yet, or only after it was reached.
    const fn is_awaited(&self) -> bool {
        !self.complete && (self.met || self.failures == 0)
    }

    /// Whether it lies in another /16 than this one.
    fn is_apart(&self, other: &Self, local: bool) -> bool {
        self.peer.node != other.peer.node && (local || Group::of(&self.peer.addr) != Group::of(&other.peer.addr))
    }
}

/// A client's directories.
#[derive(Debug)]
pub struct Sync {
    directories: Vec<Directory>,
    /// Ways in, the next first: bootstrap relays, behind them what an earlier run knew.
    ways_in: VecDeque<Peer>,
    /// How many of them a person gave.
    given: usize,
    /// There is one way in, or all of them lie together: nobody to compare with.
    one_way: bool,
    /// The directories are ways in.
    starting: bool,
    /// They agreed, and what they agree on was asked of them.
    reviewed: bool,
    start: Start,
    /// Hints of guards of an earlier run: a list that lacks most of them is not believed.
    guards: Vec<u64>,
    /// What the directories said when they last agreed.
    votes: BTreeMap<u64, Vote>,
    bodies: Bodies,
    /// All that was agreed on is known, or was asked of everyone.
    read: bool,
    /// When the directories last agreed.
    taken: Option<Wall>,
    /// Lists of an earlier run.
    kept: Vec<KeptList>,
    changed: bool,
    saved: Option<Time>,
    next: Time,
}

impl Sync {
    pub(super) fn new(now: Time, config: &Config) -> Self {
        let mut ways_in: VecDeque<Peer> = config.bootstrap.iter().copied().collect();
        ways_in.extend(config.known.iter().filter(|peer| !config.bootstrap.contains(peer)));
        let mut apart: Vec<(Group, NodeId)> = Vec::new();
        for peer in &ways_in {
            let group = Group::of(&peer.addr);
            if apart.iter().all(|(g, n)| *n != peer.node && (config.local || *g != group)) {
                apart.push((group, peer.node));
            }
        }
        Self {
            directories: Vec::new(),
            one_way: apart.len() < AGREE,
            ways_in,
            given: config.bootstrap.len(),
            starting: false,
            reviewed: false,
            start: Start::new(now),
            guards: config.guards.iter().map(record::hint_id).collect(),
            votes: BTreeMap::new(),
            bodies: Bodies::default(),
            read: false,
            taken: None,
            kept: Vec::new(),
            changed: false,
            saved: None,
            next: now,
        }
    }

    /// The next ways in, so many relays at most and none of those in use; they go to the end of the line. Those in other groups than
    /// one another first, for only they can agree.
    fn take_ways_in(&mut self, most: usize) -> Vec<Peer> {
        let mut taken: Vec<Peer> = Vec::new();
        for apart in [true, false] {
            let mut at = 0;
            for _ in 0..self.ways_in.len() {
                let Some(peer) = self.ways_in.get(at).copied() else { break };
                let used = || self.directories.iter().map(|d| &d.peer).chain(&taken);
                let lies_apart = used().all(|t| Group::of(&t.addr) != Group::of(&peer.addr));
                // One with two addresses is asked at one of them.
                if taken.len() < most && used().all(|t| t.node != peer.node) && (lies_apart || !apart) {
                    self.ways_in.remove(at);
                    taken.push(peer);
                } else {
                    at += 1;
                }
            }
        }
        self.ways_in.extend(&taken);
        taken
    }

    /// Reads from these, from `now` on.
    fn set(&mut self, now: Time, peers: &[Peer]) {
        let mut old = core::mem::take(&mut self.directories);
        let most = if self.starting { WAYS_MAX } else { DIRECTORIES };
        for peer in peers.iter().take(most) {
            let before = old.iter().position(|d| d.peer == *peer).map(|i| old.swap_remove(i));
            let mut directory = before.unwrap_or_else(|| Directory::new(*peer, now));
            directory.picked = false;
            if let Some(i) = self.kept.iter().position(|k| k.node == peer.node) {
                let kept = self.kept.swap_remove(i);
                if directory.since.is_none() {
                    (directory.list, directory.since) = (kept.list, Some(kept.next));
                }
            }
            self.directories.push(directory);
        }
        self.next = now;
    }

    /// Begins at the ways in: all that a person gave, for of those asked first all may lie together.
    fn start(&mut self, now: Time) {
        (self.starting, self.reviewed, self.start) = (true, false, Start::new(now));
        self.directories.clear();
        let first = self.take_ways_in(self.given.clamp(DIRECTORIES, WAYS_MAX));
        self.set(now, &first);
    }

    fn get(&mut self, node: NodeId) -> Option<&mut Directory> {
        self.directories.iter_mut().find(|d| d.peer.node == node)
    }

    /// Whether a directory is read over a link of its own: the ways in, and then the guard alone, which comes first.
    fn is_direct(&self, node: &NodeId) -> bool {
        self.starting || self.directories.first().is_some_and(|d| d.peer.node == *node)
    }

    fn plan(&mut self) {
        let soonest = self.directories.iter().filter(|d| !d.busy).map(|d| d.at).min();
        let patience = self.start.until().filter(|_| self.starting);
        self.next = soonest.into_iter().chain(patience).min().unwrap_or(Time(u64::MAX));
    }

    /// Whose whole lists may be believed: who lacks most of our guards is not, unless all that can be asked do, for then the network is
    /// another than it was.
    fn believed(&self) -> Vec<&Directory> {
        let asked = || self.directories.iter().filter(|d| !d.picked);
        let complete = || asked().filter(|d| d.complete);
        let number = complete().count();
        let all_in = number >= AGREE && asked().all(|d| d.complete || (number >= DIRECTORIES && !d.is_awaited()));
        let none_has = all_in && complete().all(|d| !d.list.names_most(&self.guards));
        complete().filter(|d| none_has || d.list.names_most(&self.guards)).collect()
    }

    /// After the start: the directories whose lists agree with one that lies apart.
    fn voters(&self, local: bool) -> Vec<NodeId> {
        let believed = self.believed();
        let agrees = |d: &&&Directory| believed.iter().any(|other| d.is_apart(other, local) && d.list.agrees(&other.list));
        let voters: Vec<NodeId> = believed.iter().filter(agrees).map(|d| d.peer.node).collect();
        if voters.len() < AGREE { Vec::new() } else { voters }
    }

    /// What these say together.
    fn count(&self, nodes: &[NodeId], needed: usize) -> BTreeMap<u64, Vote> {
        let lists: Vec<&List> = self.directories.iter().filter(|d| nodes.contains(&d.peer.node)).map(|d| &d.list).collect();
        lists::count(&lists, needed)
    }

    /// Whether what is known of the network is of today: read in this run, or not long before it.
    pub(super) const fn is_current(&self) -> bool {
        self.read
    }

    pub(super) const fn next(&self) -> Time {
        self.next
    }

    pub(super) fn check(&self) {
        assert!(self.directories.len() <= if self.starting { STARTING_MAX } else { DIRECTORIES });
        self.bodies.check();
        self.start.check();
    }
}

impl Overlay {
    /// Whether a client knows a network that its directories agreed on, now or in an earlier run: guards and paths may be chosen
    /// from it. The first answer alone must not decide: it may be a liar's, and short (T29).
    pub const fn has_view(&self) -> bool {
        self.sync.read || self.sync.taken.is_some()
    }

    /// Whether a client has a view, from an earlier run or from the ways in, and should go on with its guard and through circuits.
    pub const fn wants_directories(&self) -> bool {
        self.has_view() && (self.sync.directories.is_empty() || (self.sync.starting && self.sync.reviewed))
    }

    /// A client's first step: what it kept, or the ways in.
    pub(super) fn begin(&mut self, env: &Env<'_>) {
        if let Some(bytes) = self.config.saved.remove(kept::SAVED) {
            if Kept::decode(&self.config.network, &bytes).is_ok_and(|kept| self.restore(env, kept)) {
                return;
            }
            self.odd(Odd::SavedView);
        }
        self.sync.start(env.now);
    }

    /// Takes up what an earlier run kept. False if too little of it counts still.
    fn restore(&mut self, env: &Env<'_>, kept: Kept) -> bool {
        for (body, host) in &kept.relays {
            self.view.adopt(body, *host, env.wall);
        }
        let counts = self.view.counts();
        if counts.relays < limits::NETWORK_MIN_RELAYS || counts.relays * 2 < kept.relays.len() {
            let all: Vec<NodeId> = self.view.entries().map(|e| e.relay.node()).collect();
            all.iter().for_each(|node| self.view.remove(node));
            return false;
        }
        self.sync.taken = Some(kept.taken);
        self.sync.kept = kept.lists;
        // A clock that went back makes nothing current.
        let age = env.wall.0.checked_sub(kept.taken.0);
        if age.is_some_and(|age| age < CURRENT_SECS) {
            self.sync.read = true;
            self.sweep.resume(env.now, kept.samples);
            self.measure(env.now);
        }
        self.view_changed = true;
        true
    }

    /// A client's directories, its guard first.
    pub(super) fn directories(&mut self, env: &Env<'_>, list: Vec<Peer>) {
        if self.is_relay() || list.is_empty() {
            return;
        }
        let guard = list.first().map(|p| p.node);
        self.sync.starting = false;
        self.sync.start = Start::new(env.now);
        self.sync.set(env.now, &list);
        // Lines to others show who we are, and were for the start only.
        let others: Vec<_> = self.links.iter().filter(|(_, l)| l.dialled && l.node != guard).map(|(id, _)| *id).collect();
        for link in others {
            if let Some(l) = self.links.get_mut(&link) {
                l.ours = false;
            }
            self.out.push_back(Output::Release { link });
        }
    }

    pub(super) fn tick_sync(&mut self, env: &mut Env<'_>) {
        if env.now < self.sync.next {
            return;
        }
        let due: Vec<Peer> = self.sync.directories.iter().filter(|d| !d.busy && d.at <= env.now).map(|d| d.peer).collect();
        for peer in due {
            if let Some(d) = self.sync.get(peer.node) {
                (d.busy, d.pages) = (true, 0);
            }
            if self.sync.is_direct(&peer.node) && self.link_to(&peer.node).is_none() {
                if !self.dial(env, peer, Purpose::Directory)
                    && let Some(d) = self.sync.get(peer.node)
                {
                    // Too many dials are under way, which is no fault of its own.
                    (d.busy, d.at) = (false, env.now + RETRY);
                }
            } else {
                self.ask_list(env, peer.node);
            }
        }
        if self.sync.starting && self.sync.start.is_over(env.now) {
            self.review(env);
            self.pass_over_late(env);
        }
        self.sync.plan();
    }

    /// The link to a directory is open.
    pub(super) fn linked_directory(&mut self, env: &mut Env<'_>, node: NodeId) {
        if let Some(d) = self.sync.get(node).filter(|d| d.busy) {
            d.met = true;
            self.ask_list(env, node);
        }
    }

    /// Asks a directory, over its link or through a circuit. False if that cannot be done now.
    fn ask_directory(&mut self, env: &Env<'_>, node: NodeId, asked: Asked, message: impl FnOnce(u32) -> Message) -> bool {
        if self.sync.is_direct(&node) {
            return self.link_to(&node).is_some_and(|link| self.request(env, link, asked, message));
        }
        self.ask(Some(node), asked, &message(questions::ID))
    }

    fn ask_list(&mut self, env: &mut Env<'_>, node: NodeId) {
        let since = self.sync.get(node).and_then(|d| d.since);
        if !self.ask_directory(env, node, Asked::List { directory: node }, |id| Message::List { id, since }) {
            self.directory_failed(env, node);
        }
    }

    /// A question to a directory stays without answer.
    pub(super) fn unanswered(&mut self, env: &mut Env<'_>, asked: Asked) {
        match asked {
            Asked::List { directory } => self.directory_failed(env, directory),
            Asked::Bodies { directory, batch } => {
                if self.camp_shows(env, directory, batch, None) {
                    self.directory_failed(env, directory);
                } else if let Some((_, asked)) = self.sync.bodies.batches.remove(&batch) {
                    self.sync.bodies.pass_on(directory, &asked);
                    self.directory_failed(env, directory);
                    self.ask_bodies(env);
                }
            }
            Asked::Near | Asked::Fetch | Asked::Announce | Asked::DialBack => {}
        }
    }

    /// A directory did not answer: it is asked again, later each time. At a start another way in takes its place, if there is one.
    pub(super) fn directory_failed(&mut self, env: &mut Env<'_>, node: NodeId) {
        let wait = |failures: u32| (RETRY * 2u32.pow(failures.min(11))).min(POLL);
        let jitter = env.rng.random_range(0.75..1.25);
        if let Some(d) = self.sync.get(node) {
            d.busy = false;
            d.failures = d.failures.saturating_add(1);
            d.at = env.now + wait(d.failures).mul_f64(jitter);
        }
        let starting = self.sync.starting;
        if starting
            && let Some(i) = self.sync.directories.iter().position(|d| d.peer.node == node && !d.complete && !d.picked)
            && let [other] = self.sync.take_ways_in(1)[..]
        {
            let other = self.sync.start.in_place_of(env.now, node, other, jitter);
            self.sync.directories.splice(i..=i, [other]);
        }
        let lost = !starting && self.sync.directories.iter().all(|d| d.failures >= LOST_AFTER);
        if lost && !self.sync.ways_in.is_empty() {
            self.sync.start(env.now);
        }
        self.sync.plan();
        if starting && !self.sync.reviewed {
            self.review(env);
        }
    }

    pub(super) fn list_page(&mut self, env: &mut Env<'_>, node: NodeId, page: Page) {
        // A view that is not known well enough yet may have been read while the directory's own was growing.
        let poll = match (self.coverage().ready, self.view.is_local()) {
            (true, false) => POLL,
            (true, true) => POLL_LOCAL,
            (false, false) => POLL_GROWING,
            (false, true) => POLL_GROWING_LOCAL,
        };
        let wait = poll.mul_f64(env.rng.random_range(0.5..1.5));
        let Some(d) = self.sync.get(node).filter(|d| d.busy) else { return };
        d.pages += 1;
        let forward = page.anew || d.since.is_some_and(|s| page.next.is_after(&s));
        if page.anew {
            d.reading = Some(List::default());
        }
        let list = d.reading.as_mut().unwrap_or(&mut d.list);
        // Only forward, and only so far: a directory cannot keep us turning pages.
        if !list.take(&page) || (page.more && (!forward || d.pages >= PAGES_MAX)) {
            (d.since, d.reading, d.complete) = (None, None, false);
            self.odd(Odd::EndlessList);
            return self.directory_failed(env, node);
        }
        d.since = Some(page.next);
        if page.more {
            return self.ask_list(env, node);
        }
        if let Some(whole) = d.reading.take() {
            d.list = whole;
        }
        (d.complete, d.busy, d.failures, d.at) = (true, false, 0, env.now + wait);
        self.sync.plan();
        self.review(env);
    }

    /// A list is whole: what do the directories agree on now?
    fn review(&mut self, env: &mut Env<'_>) {
        let alone = self.sync.one_way && self.sync.starting;
        let first = self.sync.directories.iter().find(|d| d.complete).map(|d| d.peer.node);
        let camps: Vec<Vec<NodeId>> = if alone {
            first.into_iter().map(|node| vec![node]).collect()
        } else if self.sync.starting {
            self.settle(env).unwrap_or_default()
        } else {
            Some(self.sync.voters(self.view.is_local())).filter(|voters| !voters.is_empty()).into_iter().collect()
        };
        if camps.is_empty() {
            if !self.sync.starting && self.sync.directories.iter().filter(|d| d.complete).count() >= AGREE {
                self.odd(Odd::LoneList);
            }
            return;
        }
        let needed = if alone { 1 } else { AGREE };
        let said: Vec<BTreeMap<u64, Vote>> = camps.iter().map(|camp| self.sync.count(camp, needed)).collect();
        if alone && !self.has_view() {
            self.out.push_back(Output::Event(Event::OneWayIn));
        }
        let listed = |hint: u64| said.iter().any(|votes| votes.contains_key(&hint));
        let nodes = self.view.entries().map(|e| e.relay.node());
        let gone: Vec<NodeId> = nodes.filter(|node| !listed(record::hint_id(node))).collect();
        gone.iter().for_each(|node| self.view.remove(node));
        self.sync.bodies.wanted.clear();
        let mut votes = BTreeMap::new();
        // Of one relay, camps may name different bytes: all are asked for, and the newest that are shown hold.
        for (hint, vote) in said.into_iter().flatten() {
            match self.view.by_hint(hint).map(|e| (e.relay.body().clone(), e.host)) {
                // What was agreed on before holds, while they agree on nothing else.
                Some((body, host)) if vote.tag.is_none_or(|tag| tag == body.tag()) => {
                    if host != vote.host {
                        self.view.adopt(&body, vote.host, env.wall);
                    }
                }
                // Directories may list for a while yet whom we know to show different faces.
                _ if self.view.faces_by_hint(hint).is_some() => {}
                _ => self.sync.bodies.wanted.extend(vote.tag.map(|tag| (hint, tag))),
            }
            votes.entry(hint).or_insert(vote);
        }
        self.sync.bodies.lone = self.sync.lone_faces(&votes);
        self.sync.votes = votes;
        self.sync.changed = true;
        self.view_changed = true;
        self.ask_bodies(env);
    }

    /// Saves what is known, now and then, and as soon as it is good for something.
    pub(super) fn save_view(&mut self, env: &Env<'_>) {
        let every = self.local_or(SAVE_EVERY_LOCAL, SAVE_EVERY);
        let due = self.sync.saved.is_none_or(|at| at + every <= env.now);
        let Some(taken) = self.sync.taken.filter(|_| due && self.sync.changed && self.sync.read && self.coverage.ready) else {
            return;
        };
        (self.sync.changed, self.sync.saved) = (false, Some(env.now));
        let relays = self.view.usable().iter();
        let hosts = |r: &record::Verified| self.view.entry(&r.node()).is_some_and(|e| e.host);
        let relays = relays.map(|r| (r.body().clone(), hosts(r))).collect();
        let lists = self.sync.directories.iter().filter(|d| d.complete && !self.sync.starting);
        let lists = lists.filter_map(|d| Some(KeptList { node: d.peer.node, next: d.since?, list: d.list.clone() })).collect();
        let kept = Kept { taken, relays, lists, samples: self.sweep.samples() };
        self.out.push_back(Output::Save { name: kept::SAVED, bytes: kept.encode() });
    }
}
