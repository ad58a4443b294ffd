//! A client's start among ways in of which some may lie (T29).
//!
//! All ways in are asked, and nothing is believed before each of them gave its whole list or is given up. Those whose lists are alike
//! make a camp. One camp alone is believed as it is. Of several, each must first show that it is a network at all: relays that the
//! client picks among those it alone names must answer, and give a list alike. Then relays drawn by /24 from what all of these name are
//! asked, and the camp is believed whose list most of those give that answer. So it counts neither how many ways in lie nor how many
//! names they invent, but how many addresses they have.
//!
//! Believing what all camps name would be no better: a relay extends circuits to relays that it knows, so each guard of a liar would
//! lead to liars alone.

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::net;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::io::Event;
use crate::proto::overlay::io::Odd;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::Peer;
use crate::proto::overlay::lists::AGREE;
use crate::proto::overlay::lists::List;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::sync::Directory;
use crate::proto::overlay::sync::RETRY;
use crate::proto::overlay::sync::Sync;
use crate::wire::overlay::Message;
use crate::wire::overlay::Part;
use crate::wire::overlay::Tag;
use core::time::Duration;
use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Ways in that are asked at a start: more than a person passes on, and the client's address is shown to no more.
pub(super) const WAYS_MAX: usize = 8;
/// Directories at a start: each way in may stand for a camp of its own.
pub(super) const STARTING_MAX: usize = WAYS_MAX * (1 + PICKS) + POLLED;
/// Once enough is known to go on, whoever is late has this long, ...
const GRACE: Duration = Duration::from_secs(30);
/// ... or as many times as long as all took so far: lines that bring 5 kB/s, with four seconds on the path, are not cut off, and who
/// stalls holds a start up by no more.
const GRACE_TIMES: u32 = 4;
/// Descriptors of a camp that are looked at, at random: one answer, in seconds over the slowest line. At least half must be shown.
const LOOKED_AT: usize = 20;
/// Of those, relays that are dialled, each in a /16 of its own. Of an honest network with a tenth of its relays down two answer in all
/// starts but 4 of 1,000; of one in which nine of ten are invented, in 5 of 100.
const PICKS: usize = 4;
/// Relays that are asked which network it is, each of another /24. Whoever has one /24 in seven gets most of them in one start of
/// 9,000; whoever has one in ten, in one of 150,000.
const POLLED: usize = 16;
/// Between two trials of all camps, when nobody could be believed: relays that answer to nobody are not dialled all the time (T31).
const REST: Duration = Duration::from_secs(60);
/// The same in a local network, which may be about to begin.
const REST_LOCAL: Duration = Duration::from_millis(400);

/// How long those that are late are waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wait {
    /// Until they come or fail: nothing can be said without them.
    #[default]
    Open,
    Until(Time),
    Over,
}

/// A camp on trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Trial {
    /// Its ways in are to be asked for descriptors.
    #[default]
    ToAsk,
    /// With this number they were, for these; of those the answer is open.
    Asked(u32, Vec<NodeId>, Vec<(u64, Tag)>),
    /// These relays of it were picked.
    Picked(Vec<NodeId>),
    /// It showed too few of what it lists, or too few of those answered.
    Failed,
}

/// Relays drawn by /24 say which of several networks it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Poll {
    #[default]
    ToDo,
    /// Among these camps; these are asked.
    Asked(Vec<NodeId>),
    /// These lists are believed.
    Won(Vec<NodeId>),
}

/// Where a start stands.
#[derive(Debug)]
pub(super) struct Start {
    began: Time,
    wait: Wait,
    /// Every way in answered, or was given up.
    heard: bool,
    /// Camps on trial, by the first of their ways in.
    trials: BTreeMap<NodeId, Trial>,
    /// Ways in that did not show what they list.
    mute: BTreeSet<NodeId>,
    /// Ways in that gave no list when they were asked, and how often.
    silent: BTreeMap<NodeId, u32>,
    /// No camp is tried before.
    rests: Time,
    /// Camps that showed to be networks, if more than one did, by who gave the lists.
    rivals: Vec<Vec<NodeId>>,
    poll: Poll,
    told: bool,
}

impl Start {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            began: now,
            wait: Wait::Open,
            heard: false,
            trials: BTreeMap::new(),
            mute: BTreeSet::new(),
            silent: BTreeMap::new(),
            rests: now,
            rivals: Vec::new(),
            poll: Poll::ToDo,
            told: false,
        }
    }

    /// When its patience ends.
    pub(super) const fn until(&self) -> Option<Time> {
        if let Wait::Until(at) = self.wait { Some(at) } else { None }
    }

    /// True once, when its patience has ended.
    pub(super) fn is_over(&mut self, now: Time) -> bool {
        let over = self.until().is_some_and(|at| at <= now);
        if over {
            self.wait = Wait::Over;
        }
        over
    }

    fn be_patient(&mut self, now: Time, times: u32) {
        self.wait = Wait::Until(now + GRACE.max(now.since(self.began) * times));
    }

    /// A way in that is asked in the place of another that gave no list. Who gave none before is asked again, later each time, and
    /// nothing waits for it.
    pub(super) fn in_place_of(&mut self, now: Time, other: NodeId, peer: Peer, jitter: f64) -> Directory {
        let silent = self.silent.entry(other).or_default();
        *silent = silent.saturating_add(1);
        let failures = self.silent.get(&peer.node).copied().unwrap_or(0);
        let rest = (RETRY * 2u32.pow(failures.min(5))).min(REST);
        Directory { failures, ..Directory::new(peer, now + rest.mul_f64(jitter)) }
    }

    /// Whether a directory is one of the relays that were picked.
    fn is_pick(&self, node: NodeId) -> bool {
        let polled = matches!(&self.poll, Poll::Asked(nodes) | Poll::Won(nodes) if nodes.contains(&node));
        polled || self.trials.values().any(|trial| matches!(trial, Trial::Picked(picks) if picks.contains(&node)))
    }

    /// All camps begin anew: lists that come later may be alike, or others may answer.
    fn rest(&mut self, until: Time) {
        self.trials.clear();
        self.mute.clear();
        self.rivals.clear();
        (self.rests, self.poll) = (until, Poll::ToDo);
    }

    pub(super) fn check(&self) {
        assert!(self.trials.len() <= WAYS_MAX && self.mute.len() <= WAYS_MAX);
    }
}

/// Ways in whose lists are alike, one of each /16.
struct Camp<'a>(Vec<&'a Directory>);

impl Camp<'_> {
    /// Who stands for it: the first of its ways in.
    fn root(&self) -> NodeId {
        self.0.first().map_or(NodeId([0; 32]), |d| d.peer.node)
    }

    /// Whether a list is like each of its lists: one like some would lead from each to the next, further and further.
    fn is_alike(&self, list: &List) -> bool {
        self.0.iter().all(|d| d.list.is_alike(list))
    }

    fn has(&self, id: u64, tag: Tag) -> bool {
        self.0.iter().any(|d| d.list.tag(id) == Some(tag))
    }

    /// What two of its lists name, or its only one.
    fn names(&self) -> Vec<(u64, Tag)> {
        let needed = AGREE.min(self.0.len());
        let all: BTreeSet<(u64, Tag)> = self.0.iter().flat_map(|d| d.list.iter()).map(|l| (l.id, l.tag)).collect();
        let by = |id: u64, tag: Tag| self.0.iter().filter(|d| d.list.tag(id) == Some(tag)).count();
        all.into_iter().filter(|(id, tag)| by(*id, *tag) >= needed).collect()
    }
}

/// What there is to say of a camp.
enum Verdict {
    /// It counts, by the lists of these.
    Counts(Vec<NodeId>),
    /// It names little that others do not, and one list alone does.
    AddsNothing,
    /// It must show that it is a network, by what it alone names.
    MustShow(Vec<(u64, Tag)>),
    /// It did not.
    Failed,
}

impl Sync {
    fn camps(&self, local: bool) -> Vec<Camp<'_>> {
        let mut camps: Vec<Camp<'_>> = Vec::new();
        for d in self.believed() {
            match camps.iter_mut().find(|camp| camp.is_alike(&d.list)) {
                Some(camp) if camp.0.iter().all(|other| d.is_apart(other, local)) => camp.0.push(d),
                Some(_) => {}
                None => camps.push(Camp(vec![d])),
            }
        }
        camps
    }

    fn verdict(&self, camp: &Camp<'_>, others: &[&Camp<'_>], local: bool) -> Verdict {
        let mut picks: &[NodeId] = &[];
        match self.start.trials.get(&camp.root()) {
            Some(Trial::Failed) => return Verdict::Failed,
            Some(Trial::Picked(nodes)) => picks = nodes,
            Some(Trial::ToAsk | Trial::Asked(..)) | None => {}
        }
        let answered = self.directories.iter().filter(|d| picks.contains(&d.peer.node) && d.complete && camp.is_alike(&d.list));
        let mut lists = camp.0.clone();
        let mut speakers = 0;
        for pick in answered {
            speakers += 1;
            if lists.iter().all(|d| pick.is_apart(d, local)) {
                lists.push(pick);
            }
        }
        let named = camp.names();
        let all = named.len();
        let own: Vec<(u64, Tag)> = named.into_iter().filter(|(id, tag)| !others.iter().any(|other| other.has(*id, *tag))).collect();
        // Within this honest lists differ, too.
        if own.len() * 4 > all && speakers < AGREE {
            Verdict::MustShow(own)
        } else if lists.len() >= AGREE {
            Verdict::Counts(lists.iter().map(|d| d.peer.node).collect())
        } else {
            Verdict::AddsNothing
        }
    }

    /// Of every camp: its ways in, and what there is to say of it. What those name that failed counts for nothing, so others must show
    /// it then.
    fn verdicts(&self, local: bool) -> Vec<(Vec<NodeId>, Verdict)> {
        let camps = self.camps(local);
        let stands = |camp: &&Camp<'_>| self.start.trials.get(&camp.root()) != Some(&Trial::Failed);
        let verdict = |camp: &Camp<'_>| {
            let others: Vec<&Camp<'_>> = camps.iter().filter(stands).filter(|other| other.root() != camp.root()).collect();
            (camp.0.iter().map(|d| d.peer.node).collect(), self.verdict(camp, &others, local))
        };
        camps.iter().map(verdict).collect()
    }
}

impl Overlay {
    /// Whose lists are believed, camp by camp; `None` while that cannot be said.
    pub(super) fn settle(&mut self, env: &mut Env<'_>) -> Option<Vec<Vec<NodeId>>> {
        if let Poll::Won(lists) = &self.sync.start.poll {
            return Some(vec![lists.clone()]);
        }
        let camps: Vec<Vec<NodeId>> =
            self.sync.camps(self.view.is_local()).iter().map(|camp| camp.0.iter().map(|d| d.peer.node).collect()).collect();
        if camps.iter().map(Vec::len).sum::<usize>() < AGREE {
            return None;
        }
        let agreed = camps.iter().any(|camp| camp.len() >= AGREE);
        if !self.sync.start.heard {
            let late = self.sync.directories.iter().any(|d| !d.picked && d.is_awaited());
            // Without two that agree there is no limit: somebody on the path may hold up all but one who lies.
            if late && !(agreed && self.sync.start.wait == Wait::Over) {
                if agreed && self.sync.start.wait == Wait::Open {
                    self.sync.start.be_patient(env.now, GRACE_TIMES);
                }
                return None;
            }
            (self.sync.start.heard, self.sync.start.wait) = (true, Wait::Open);
        }
        if agreed && camps.len() == 1 {
            return Some(camps);
        }
        if !core::mem::replace(&mut self.sync.start.told, true) {
            self.out.push_back(Output::Event(Event::WaysDiffer));
        }
        self.try_camps(env)
    }

    fn try_camps(&mut self, env: &mut Env<'_>) -> Option<Vec<Vec<NodeId>>> {
        // Ways in that failed may have left their places to others.
        let start = &mut self.sync.start;
        let ways: BTreeSet<NodeId> = self.sync.directories.iter().filter(|d| !d.picked).map(|d| d.peer.node).collect();
        start.trials.retain(|root, _| ways.contains(root));
        start.mute.retain(|node| ways.contains(node));
        self.sync.directories.retain(|d| !d.picked || start.is_pick(d.peer.node));
        loop {
            let (mut counting, mut lone, mut behind, mut most) = (Vec::new(), Vec::new(), 0, AGREE);
            let (mut open, mut failed) = (false, false);
            for (ways, verdict) in self.sync.verdicts(self.view.is_local()) {
                match verdict {
                    Verdict::Counts(lists) => {
                        behind += ways.len();
                        counting.push(lists);
                    }
                    Verdict::AddsNothing => {
                        behind += ways.len();
                        lone.push(ways);
                    }
                    Verdict::Failed => most = most.max(ways.len()),
                    Verdict::MustShow(own) => match self.try_camp(env, &ways, own) {
                        Trial::Failed => failed = true,
                        Trial::ToAsk | Trial::Asked(..) | Trial::Picked(_) => open = true,
                    },
                }
            }
            if open {
                return None;
            }
            if !failed {
                // Somebody on the path can keep an honest camp from showing anything. So it falls only if as many ways in stand behind
                // others, as many as must agree at the least; else all begin anew, for later lists may be alike, or others answer.
                if behind < most || counting.is_empty() {
                    self.begin_anew(env);
                    return None;
                }
                // Whose list is as good as copied by one that had to show something may be the honest one.
                if self.sync.start.trials.values().any(|trial| matches!(trial, Trial::Picked(_))) {
                    counting.append(&mut lone);
                }
                if counting.len() > 1 && self.sync.start.rivals.is_empty() {
                    // Who does not show what he lists holds nothing up for long.
                    self.sync.start.be_patient(env.now, GRACE_TIMES);
                }
                self.sync.start.rivals = if counting.len() > 1 { counting.clone() } else { Vec::new() };
                return Some(counting);
            }
        }
    }

    fn begin_anew(&mut self, env: &Env<'_>) {
        self.odd(Odd::LoneList);
        self.sync.directories.retain(|d| !d.picked);
        self.sync.start.rest(env.now + self.local_or(REST_LOCAL, REST));
    }

    /// What several camps name was read: relays of it, drawn by /24, say which of them is the network. False if there is nothing (more)
    /// to ask.
    pub(super) fn poll(&mut self, env: &mut Env<'_>) -> bool {
        if !self.sync.starting || self.sync.start.rivals.is_empty() {
            return false;
        }
        match self.sync.start.poll.clone() {
            Poll::Won(_) => false,
            Poll::ToDo => {
                self.ask_poll(env);
                true
            }
            Poll::Asked(polled) => {
                let open = self.sync.directories.iter().any(|d| polled.contains(&d.peer.node) && d.is_awaited());
                if !open || self.sync.start.wait == Wait::Over {
                    self.count_poll(env, &polled);
                }
                true
            }
        }
    }

    /// Patience is over. Of several camps, who did not show yet what he lists is taken to refuse it, so that others are asked: neither a
    /// stalling camp nor a stalling member of another must decide what is polled. Of the camp that wins, all is asked for again.
    pub(super) fn pass_over_late(&mut self, env: &mut Env<'_>) {
        if self.sync.start.rivals.is_empty() || self.sync.start.poll != Poll::ToDo {
            self.poll(env);
            return;
        }
        let mut late: BTreeSet<NodeId> =
            core::mem::take(&mut self.sync.bodies.batches).into_values().map(|(directory, _)| directory).collect();
        let complete = self.sync.directories.iter().filter(|d| d.complete).map(|d| d.peer.node);
        late.extend(complete.filter(|node| self.link_to(node).is_none()));
        for directory in self.sync.directories.iter().filter(|d| late.contains(&d.peer.node)) {
            // All that it lists: were it only what it was asked for last, a long list would hold a start up for years.
            let wanted = self.sync.bodies.wanted.iter().copied();
            let listed: Vec<(u64, Tag)> = wanted.filter(|(hint, tag)| directory.list.tag(*hint) == Some(*tag)).collect();
            self.sync.bodies.refuse(directory.peer.node, &listed);
        }
        // Several may stall one after the other: each costs as much time again, and not four times as much.
        self.sync.start.be_patient(env.now, 1);
        self.ask_bodies(env);
    }

    fn ask_poll(&mut self, env: &mut Env<'_>) {
        let mut by_prefix: BTreeMap<Prefix, Vec<Peer>> = BTreeMap::new();
        for relay in self.view.usable().iter().filter(|r| !r.is_ip6()) {
            by_prefix.entry(relay.prefix()).or_default().push(Peer { node: relay.node(), addr: relay.addr() });
        }
        let mut drawn: Vec<Peer> = by_prefix.values().filter_map(|peers| peers.choose(&mut *env.rng).copied()).collect();
        drawn.shuffle(&mut *env.rng);
        drawn.truncate(POLLED);
        self.sync.start.poll = Poll::Asked(drawn.iter().map(|p| p.node).collect());
        for peer in drawn {
            if self.sync.get(peer.node).is_none() && self.sync.directories.len() < STARTING_MAX {
                self.sync.directories.push(Directory { picked: true, ..Directory::new(peer, env.now) });
            }
        }
        self.sync.start.be_patient(env.now, GRACE_TIMES);
        self.sync.plan();
    }

    /// The camp is believed that more of those who answered belong to than to any other.
    fn count_poll(&mut self, env: &mut Env<'_>, polled: &[NodeId]) {
        let local = self.view.is_local();
        let of = |nodes: &[NodeId]| -> Vec<&Directory> {
            self.sync.directories.iter().filter(|d| d.complete && nodes.contains(&d.peer.node)).collect()
        };
        let answers = of(polled);
        let mut won: Vec<(usize, Vec<NodeId>)> = Vec::new();
        for rival in &self.sync.start.rivals {
            let camp = of(rival);
            let for_it = answers.iter().filter(|a| camp.iter().any(|d| d.list.is_alike(&a.list)));
            let mut lists: Vec<&Directory> = Vec::new();
            for d in camp.iter().chain(for_it.clone()) {
                if lists.iter().all(|other| d.is_apart(other, local)) {
                    lists.push(d);
                }
            }
            won.push((for_it.count(), lists.iter().map(|d| d.peer.node).collect()));
        }
        won.sort_by_key(|(votes, _)| core::cmp::Reverse(*votes));
        match &mut won[..] {
            // Most of those drawn, not of those who answer: names that nobody answers to make a start wait, and win nothing.
            [(most, lists), ..] if *most * 2 > polled.len() => {
                self.sync.start.poll = Poll::Won(core::mem::take(lists));
                self.review(env);
            }
            _ => self.begin_anew(env),
        }
    }

    /// Goes on with a camp that must show that it is a network: with these ways in, by what it alone names.
    fn try_camp(&mut self, env: &mut Env<'_>, ways: &[NodeId], own: Vec<(u64, Tag)>) -> Trial {
        let Some(root) = ways.first().copied() else { return Trial::Failed };
        let known = self.sync.start.trials.get(&root).cloned();
        if known.is_none() {
            if env.now < self.sync.start.rests {
                return Trial::ToAsk;
            }
            self.sync.start.be_patient(env.now, GRACE_TIMES);
        }
        let over = self.sync.start.wait == Wait::Over;
        let awaited = |picks: &[NodeId]| self.sync.directories.iter().any(|d| picks.contains(&d.peer.node) && d.is_awaited());
        let trial = match known.unwrap_or_default() {
            _ if over => Trial::Failed,
            Trial::ToAsk => self.ask_camp(env, ways, own),
            Trial::Picked(picks) if !awaited(&picks) => Trial::Failed,
            trial @ (Trial::Asked(..) | Trial::Picked(_) | Trial::Failed) => trial,
        };
        self.sync.start.trials.insert(root, trial.clone());
        trial
    }

    /// Asks the ways in of a camp for some descriptors, chosen at random, of what it alone names: the same of all, for the first that
    /// shows them is enough. Those whose lines are down are asked when they are up again.
    fn ask_camp(&mut self, env: &mut Env<'_>, ways: &[NodeId], mut own: Vec<(u64, Tag)>) -> Trial {
        own.shuffle(&mut *env.rng);
        own.truncate(LOOKED_AT);
        let batch = self.sync.bodies.number();
        let able: Vec<NodeId> = ways.iter().filter(|node| !self.sync.start.mute.contains(node)).copied().collect();
        let mut open = Vec::new();
        for directory in &able {
            let ids = own.iter().map(|(id, _)| *id).collect();
            let asked = Asked::Bodies { directory: *directory, batch };
            if self.ask_directory(env, *directory, asked, |id| Message::Fetch { id, ids, part: Part::Descriptor }) {
                open.push(*directory);
            }
        }
        match (able.is_empty(), open.is_empty()) {
            (true, _) => Trial::Failed,
            (false, true) => Trial::ToAsk,
            (false, false) => Trial::Asked(batch, open, own),
        }
    }

    /// What came of the question to a way in: relays are picked and dialled. False if this was no such question.
    pub(super) fn camp_shows(
        &mut self,
        env: &mut Env<'_>,
        directory: NodeId,
        batch: u32,
        shown: Option<&[Result<Record, RecordError>]>,
    ) -> bool {
        let trials = &mut self.sync.start.trials;
        let is_it = |trial: &Trial| matches!(trial, Trial::Asked(number, ..) if *number == batch);
        let Some((root, trial)) = trials.iter_mut().find(|(_, trial)| is_it(trial)) else { return false };
        let Trial::Asked(_, open, asked) = trial else { return false };
        let (root, asked) = (*root, asked.clone());
        open.retain(|node| *node != directory);
        if open.is_empty() {
            *trial = Trial::ToAsk;
        }
        let Some(shown) = shown else { return true };
        let bodies = shown.iter().filter_map(|r| if let Ok(Record::Body(body)) = r { Some(body) } else { None });
        let listed = |body: &&Arc<Body>| asked.contains(&(record::hint_id(&body.descriptor().node), body.tag()));
        let relays: BTreeMap<Tag, &Arc<Body>> = bodies.filter(listed).map(|body| (body.tag(), body)).collect();
        let mut relays: Vec<&Arc<Body>> = relays.into_values().collect();
        let enough = relays.len() * 2 >= asked.len();
        relays.shuffle(&mut *env.rng);
        let picks = self.pick(&relays);
        // The camp may hold others who show more.
        if !enough || picks.len() < AGREE || self.sync.directories.len() + picks.len() > STARTING_MAX {
            self.sync.start.mute.insert(directory);
        } else {
            self.sync.start.trials.insert(root, Trial::Picked(picks.iter().map(|p| p.node).collect()));
            for peer in picks {
                if self.sync.get(peer.node).is_none() {
                    self.sync.directories.push(Directory { picked: true, ..Directory::new(peer, env.now) });
                }
            }
        }
        self.sync.plan();
        self.review(env);
        true
    }

    /// The first of these that lie apart, and can be dialled.
    fn pick(&self, relays: &[&Arc<Body>]) -> Vec<Peer> {
        let local = self.view.is_local();
        let mut picks: Vec<Peer> = Vec::new();
        for body in relays {
            let relay = Verified::listed(Arc::clone(body));
            let peer = Peer { node: relay.node(), addr: relay.addr() };
            let reachable = local || (net::is_public(&peer.addr) && !relay.is_ip6());
            let apart = picks.iter().all(|p| p.node != peer.node && (local || Group::of(&p.addr) != relay.group()));
            if reachable && apart && picks.len() < PICKS {
                picks.push(peer);
            }
        }
        picks
    }
}
