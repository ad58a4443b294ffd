//! Counting a document's living shares: some chunks by chance, each of their hosts asked until it has nothing new. Works with a
//! verify key.

use crate::base::NodeId;
use crate::base::limits;
use crate::proto::circuit::origin::RequestId;
use crate::proto::doc::key::Key;
use crate::proto::event::CheckReport;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::job::SealedAnswer;
use crate::proto::job::Shares8;
use crate::proto::job::SharesFound;
use crate::proto::ops::Goes;
use crate::proto::ops::Heard;
use crate::proto::ops::User;
use crate::proto::ops::retrieve::ASKS_PER_HOST;
use crate::proto::ops::retrieve::Copy;
use crate::proto::ops::tree;
use crate::proto::ops::tree::Tree;
use crate::proto::requests::HOSTS_AT_ONCE;
use crate::proto::requests::RegionTag;
use crate::proto::requests::Target;
use crate::wire::request::Fetch;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use crate::wire::share::Class;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// Chunks counted at once.
const AT_ONCE: usize = 4;

/// One chunk copy being counted.
#[derive(Debug)]
struct Census {
    root: [u8; 32],
    class: Class,
    copy: Copy,
    /// Its spare copies that were not looked at yet.
    spares: VecDeque<Copy>,
    region: RegionTag,
    members: Option<Arc<BTreeSet<NodeId>>>,
    /// Hosts that were not asked yet; the last is asked next.
    hosts: Vec<NodeId>,
    /// Hosts around the region, who are asked as readers would ask them: when those had too little.
    around: Vec<NodeId>,
    asked: BTreeMap<RequestId, (NodeId, u8)>,
    answers: Vec<SealedAnswer>,
    /// Who gave the answers that a job is opening, and how often they were asked.
    opening: BTreeMap<NodeId, u8>,
    found: Shares8,
    job: bool,
}

/// A check under way.
#[derive(Debug)]
pub struct Check {
    key: Key,
    sample: usize,
    tags: u64,
    tree: Tree,
    waiting: VecDeque<([u8; 32], Class, u8)>,
    counting: BTreeMap<u64, Census>,
    report: CheckReport,
    total: u64,
}

impl Check {
    /// A check that has not begun.
    pub fn new(key: Key, sample: usize) -> Self {
        Self {
            tree: Tree::new(key.clone()),
            key,
            sample,
            tags: 0,
            waiting: VecDeque::new(),
            counting: BTreeMap::new(),
            report: CheckReport {
                weakest: limits::SHARES_TOTAL as u64,
                needed: limits::SHARES_NEEDED as u64,
                ..Default::default()
            },
            total: 0,
        }
    }

    pub(in crate::proto) fn hear(&mut self, user: &mut User<'_, '_, '_>, heard: Heard) -> Goes {
        let walked = match heard {
            Heard::Begin => {
                self.tree.begin(user, &mut self.tags);
                tree::Outcome::Pending
            }
            Heard::Answer(tag, request, answer) if self.tree.owns(tag) => self.tree.answer(user, tag, request, answer),
            Heard::Failed(tag, request, blame) if self.tree.owns(tag) => self.tree.failed(user, tag, request, blame),
            Heard::Job(tag, result) if self.tree.owns(tag) => self.tree.job(user, &mut self.tags, tag, result),
            Heard::Answer(tag, request, mut answer) => {
                if let Some(census) = self.counting.get_mut(&tag)
                    && let Some((host, tries)) = census.asked.remove(&request)
                {
                    answer.host = host;
                    census.opening.insert(host, tries);
                    census.answers.push(answer);
                }
                return self.proceed(user, tag);
            }
            Heard::Failed(tag, request, host_to_blame) => {
                if let Some(census) = self.counting.get_mut(&tag)
                    && let Some((host, tries)) = census.asked.remove(&request)
                    && !host_to_blame
                    && tries < ASKS_PER_HOST
                {
                    census.ask(user, tag, host, tries + 1);
                }
                return self.proceed(user, tag);
            }
            Heard::Job(tag, JobResult::OpenAnswers(found)) => return self.opened(user, tag, found),
            Heard::Job(..) => {
                user.event(Event::Failed(Failure::bug("a job was lost")));
                return Goes::Over;
            }
            Heard::Time => {
                self.tree.hurry(user);
                return Goes::On;
            }
            Heard::Command(_) => return Goes::On,
        };
        match walked {
            tree::Outcome::Pending => Goes::On,
            tree::Outcome::Failed(failure) => {
                user.event(Event::Failed(failure));
                Goes::Over
            }
            tree::Outcome::Done => self.walked(user),
        }
    }

    /// All chunks are known: a sample is drawn. The nodes of the manifest are always in it.
    fn walked(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        let top_class = self.key.top_class();
        let copies = if self.key.is_tree() { limits::MANIFEST_COPIES } else { 1 };
        let class = match &self.tree.top {
            Some(top) => top.class,
            None if self.tree.single.is_some() => top_class,
            None => {
                user.event(Event::Failed(Failure::bug("a walk without a top")));
                return Goes::Over;
            }
        };
        let nodes = self.tree.nodes.iter().flat_map(|root| (0..copies).map(|i| (*root, top_class, i)));
        let mut chunks: Vec<_> = self.tree.roots.iter().map(|root| (*root, class, 0)).collect();
        self.report.chunks = chunks.len() as u64 + self.tree.nodes.len() as u64 * u64::from(copies);
        chunks.shuffle(&mut *user.ctx.env.rng);
        chunks.truncate(self.sample);
        chunks.extend(nodes);
        chunks.shuffle(&mut *user.ctx.env.rng);
        self.total = chunks.len() as u64;
        self.waiting = chunks.into();
        self.advance(user)
    }

    fn advance(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        while self.counting.len() < AT_ONCE
            && let Some((root, class, i)) = self.waiting.pop_front()
        {
            self.tags += 1;
            let tag = self.tags;
            let copy = self.key.copy(&root, class, i);
            let mut census = Census {
                root,
                class,
                copy,
                spares: self.key.spares(&root, class).into(),
                region: tag,
                members: None,
                hosts: Vec::new(),
                around: Vec::new(),
                asked: BTreeMap::new(),
                answers: Vec::new(),
                opening: BTreeMap::new(),
                found: Shares8::default(),
                job: false,
            };
            census.look_at(user, tag, copy);
            census.ask_more(user, tag);
            self.counting.insert(tag, census);
        }
        if self.counting.is_empty() {
            user.event(Event::Checked(self.report.clone()));
            return Goes::Over;
        }
        Goes::On
    }

    fn proceed(&mut self, user: &mut User<'_, '_, '_>, tag: u64) -> Goes {
        let Some(census) = self.counting.get_mut(&tag) else { return Goes::On };
        if census.job || !census.asked.is_empty() {
            return Goes::On;
        }
        if !census.answers.is_empty() {
            census.job = true;
            let work = Job::OpenAnswers {
                address: census.copy.address,
                root: census.root,
                class: census.class,
                answers: core::mem::take(&mut census.answers),
                shares: core::mem::take(&mut census.found),
                rebuild: false,
            };
            user.job(tag, work);
            return Goes::On;
        }
        if census.found.len() < limits::SHARES_TOTAL && census.ask_more(user, tag) {
            return Goes::On;
        }
        let seen = census.found.len() as u64;
        self.counting.remove(&tag);
        user.done(tag, core::iter::empty());
        self.report.chunks_sampled += 1;
        self.report.shares_seen += seen;
        self.report.shares_possible += limits::SHARES_TOTAL as u64;
        self.report.weakest = self.report.weakest.min(seen);
        self.report.chunks_lost += u64::from(seen < limits::SHARES_NEEDED as u64);
        user.event(Event::Progress(Progress {
            bytes: self.report.chunks_sampled,
            total: self.total,
            shares: self.report.shares_seen,
        }));
        self.advance(user)
    }

    /// A round was opened: whoever gave a share may have another, as long as one is missing.
    fn opened(&mut self, user: &mut User<'_, '_, '_>, tag: u64, found: SharesFound) -> Goes {
        let Some(census) = self.counting.get_mut(&tag) else { return Goes::On };
        census.job = false;
        census.found = found.shares;
        let tried = core::mem::take(&mut census.opening);
        if census.found.len() < limits::SHARES_TOTAL {
            for host in found.givers {
                let tries = tried.get(&host).copied().unwrap_or(ASKS_PER_HOST);
                if tries < ASKS_PER_HOST {
                    census.ask(user, tag, host, tries + 1);
                }
            }
        }
        self.proceed(user, tag)
    }
}

impl Census {
    /// Goes to the hosts of a copy.
    fn look_at(&mut self, user: &mut User<'_, '_, '_>, tag: u64, copy: Copy) {
        let place = user.readers(&copy.address);
        self.copy = copy;
        (self.hosts, self.around) = (place.hosts, place.around);
        self.hosts.reverse();
        self.around.reverse();
        (self.region, self.members) = if place.everyone { (0, None) } else { (tag, Some(place.members)) };
    }

    /// Asks more of those that were not asked yet. False: there are none.
    fn ask_more(&mut self, user: &mut User<'_, '_, '_>, tag: u64) -> bool {
        if self.hosts.is_empty() && self.found.len() < limits::SHARES_NEEDED {
            self.hosts = core::mem::take(&mut self.around);
        }
        // Too few at its own place: it may be at another.
        if self.hosts.is_empty()
            && self.found.len() < limits::SHARES_NEEDED
            && let Some(copy) = self.spares.pop_front()
        {
            self.look_at(user, tag, copy);
        }
        let rest = self.hosts.len().saturating_sub(HOSTS_AT_ONCE);
        for host in self.hosts.split_off(rest).into_iter().rev() {
            self.ask(user, tag, host, 0);
        }
        !self.asked.is_empty()
    }

    fn ask(&mut self, user: &mut User<'_, '_, '_>, tag: u64, host: NodeId, tries: u8) {
        let fetch = Fetch { address: self.copy.address, want: self.found.wanted() };
        let kind = SessionType { kind: Kind::Fetch, class: self.class };
        let target = Target { host, region: self.region, members: self.members.clone() };
        let request = user.ask(tag, target, kind, fetch.to_bytes());
        self.asked.insert(request, (host, tries));
    }
}
