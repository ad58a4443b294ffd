//! Getting a document: a window of chunks at a time, delivered in order, lost chunks rebuilt from the parity of their group.

use crate::base::limits;
use crate::proto::doc::DocJob;
use crate::proto::doc::DocJobResult;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::doc::layout::Layout;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::Report;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::ops::Goes;
use crate::proto::ops::Heard;
use crate::proto::ops::User;
use crate::proto::ops::retrieve;
use crate::proto::ops::retrieve::Breadth;
use crate::proto::ops::retrieve::Retrieval;
use crate::proto::ops::tree;
use crate::proto::ops::tree::Tree;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Chunks being fetched at once: eight requests each or more, so that a random order over 256 shares and more hides the chunk's
/// (D12), and at most 20 MiB of answers.
const WINDOW: usize = 64;
/// Chunks begun and not handed out yet: room to go on beyond one that is late, 32 MiB at most.
const AHEAD: usize = 128;
/// Bytes handed to the receiver that it has not dealt with: beyond it no new chunk is begun.
const UNCONSUMED_MAX: u64 = 16 << 20;

/// What a chunk under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Its plaintext: data chunk of this number.
    Plain(u64),
    /// Its sealed bytes, for the repair of its group: slot in the list of all chunks.
    Repair(u64),
}

#[derive(Debug)]
struct Chunk {
    goal: Goal,
    retrieval: Retrieval,
}

/// A group of which chunks are lost.
#[derive(Debug, Default)]
struct Repair {
    have: BTreeMap<u64, Vec<u8>>,
    lost: BTreeSet<u64>,
    running: bool,
}

/// A get under way.
#[derive(Debug)]
pub struct Get {
    key: ReadKey,
    offset: u64,
    tags: u64,
    tree: Tree,
    layout: Option<Layout>,
    chunks: BTreeMap<u64, Chunk>,
    /// Jobs on plaintext: data chunk by tag.
    opening: BTreeMap<u64, u64>,
    repairs: BTreeMap<u64, Repair>,
    repair_jobs: BTreeMap<u64, u64>,
    next: u64,
    deliver: u64,
    ready: BTreeMap<u64, Vec<u8>>,
    delivered: u64,
    consumed: u64,
    void: bool,
    report: Report,
    givers: BTreeSet<crate::base::NodeId>,
    asked_worst: usize,
}

impl Get {
    /// A get that has not begun.
    pub fn new(key: ReadKey, offset: u64) -> Self {
        Self {
            tree: Tree::new(Key::Read(key.clone())),
            key,
            offset,
            tags: 0,
            layout: None,
            chunks: BTreeMap::new(),
            opening: BTreeMap::new(),
            repairs: BTreeMap::new(),
            repair_jobs: BTreeMap::new(),
            next: 0,
            deliver: 0,
            ready: BTreeMap::new(),
            delivered: 0,
            consumed: 0,
            void: false,
            report: Report::default(),
            givers: BTreeSet::new(),
            asked_worst: 0,
        }
    }

    /// Circuits that it will want at least: four meet the ten hosts of a single chunk.
    pub fn circuits(&self) -> usize {
        if self.key.is_tree() { limits::DOCUMENT_CIRCUITS } else { limits::READ_FIRST.div_ceil(limits::CIRCUIT_HOSTS_PER_REGION) }
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
            Heard::Answer(tag, request, answer) => {
                let Some(chunk) = self.chunks.get_mut(&tag) else { return Goes::On };
                let outcome = chunk.retrieval.answer(user, tag, request, answer);
                return self.retrieved(user, tag, outcome);
            }
            Heard::Failed(tag, request, blame) => {
                let Some(chunk) = self.chunks.get_mut(&tag) else { return Goes::On };
                self.report.shares_failed += 1;
                let outcome = chunk.retrieval.failed(user, tag, request, blame);
                return self.retrieved(user, tag, outcome);
            }
            Heard::Job(tag, result) => return self.job(user, tag, result),
            Heard::Command(Command::Consumed(bytes)) => {
                self.consumed += bytes;
                return self.advance(user);
            }
            Heard::Command(_) => return Goes::On,
            Heard::Time => {
                self.hurry(user);
                return Goes::On;
            }
        };
        match walked {
            tree::Outcome::Pending => Goes::On,
            tree::Outcome::Failed(failure) => self.fail(user, failure),
            tree::Outcome::Done => self.walked(user),
        }
    }

    /// The way from the key to all chunks is known.
    fn walked(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        if let Some(sealed) = self.tree.single.take() {
            self.tags += 1;
            self.opening.insert(self.tags, 0);
            user.job(self.tags, Job::Document(DocJob::OpenSingle { key: self.key.clone(), sealed }));
            return Goes::On;
        }
        let Some(top) = &self.tree.top else { return self.fail(user, Failure::bug("a walk without a top")) };
        let Some(private) = &top.private else { return self.fail(user, Failure::manifest_lies()) };
        let layout = Layout::new(private.length);
        if self.offset > layout.length {
            return self.fail(user, Failure::offset_beyond_end());
        }
        user.event(Event::Found { length: layout.length, name: private.name.clone(), media_type: private.media_type.clone() });
        self.report.bytes = layout.length;
        self.report.chunks = self.tree.roots.len() as u64 + self.tree.nodes.len() as u64;
        self.next = layout.chunk_at(self.offset);
        self.deliver = self.next;
        self.layout = Some(layout);
        user.requests.open(user.op, limits::DOCUMENT_CIRCUITS);
        self.advance(user)
    }

    /// Begins chunks while the window has room, hands out what is next, and ends when all is handed out.
    fn advance(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        let Some(layout) = self.layout.clone() else { return Goes::On };
        while self.next < layout.data_with_content()
            && self.chunks.len() < WINDOW
            && self.chunks.len() + self.opening.len() + self.ready.len() < AHEAD
            && self.delivered - self.consumed.min(self.delivered) < UNCONSUMED_MAX
        {
            let number = self.next;
            self.next += 1;
            self.begin_chunk(user, &layout, layout.slot_of(number), Goal::Plain(number));
        }
        while let Some(mut plain) = self.ready.remove(&self.deliver) {
            let range = layout.plain_range(self.deliver);
            if self.offset > range.start {
                let skip = usize::try_from(self.offset - range.start).unwrap_or(usize::MAX).min(plain.len());
                plain.drain(..skip);
            }
            self.deliver += 1;
            self.delivered += plain.len() as u64;
            if !plain.is_empty() {
                user.event(Event::Data(Bytes::from(plain)));
            }
            user.event(Event::Progress(Progress {
                bytes: range.end.min(layout.length),
                total: layout.length,
                shares: self.report.shares,
            }));
        }
        if self.deliver < layout.data_with_content() {
            return Goes::On;
        }
        self.givers.extend(&self.tree.givers);
        self.report.hosts = self.givers.len() as u64;
        self.report.shares += self.tree.shares;
        self.report.paths = user.paths();
        user.event(Event::Fetched(self.report.clone()));
        Goes::Over
    }

    /// Further hosts for chunks whose hosts are late.
    fn hurry(&mut self, user: &mut User<'_, '_, '_>) {
        self.tree.hurry(user);
        for (tag, chunk) in &mut self.chunks {
            chunk.retrieval.hurry(user, *tag);
        }
    }

    fn begin_chunk(&mut self, user: &mut User<'_, '_, '_>, layout: &Layout, slot: u64, goal: Goal) {
        let Some(root) = usize::try_from(slot).ok().and_then(|s| self.tree.roots.get(s).copied()) else { return };
        self.tags += 1;
        let copy = self.key.copy(&root, layout.class, 0);
        let spares = self.key.spares(&root, layout.class);
        let retrieval = Retrieval::start(user, self.tags, root, layout.class, vec![copy], spares, Breadth::Lean);
        self.chunks.insert(self.tags, Chunk { goal, retrieval });
    }

    fn retrieved(&mut self, user: &mut User<'_, '_, '_>, tag: u64, outcome: retrieve::Outcome) -> Goes {
        let Some(layout) = self.layout.clone() else { return Goes::On };
        let (sealed, asked) = match outcome {
            retrieve::Outcome::Pending => return Goes::On,
            retrieve::Outcome::Chunk(sealed) => (Some(sealed), 0),
            retrieve::Outcome::Void => {
                self.void = true;
                (None, 0)
            }
            retrieve::Outcome::Lost { asked, .. } => (None, asked),
        };
        let Some(chunk) = self.chunks.remove(&tag) else { return Goes::On };
        user.done(tag, chunk.retrieval.awaited());
        self.asked_worst = self.asked_worst.max(asked);
        self.report.shares += if sealed.is_some() { limits::SHARES_NEEDED as u64 } else { 0 };
        self.report.shares_failed += chunk.retrieval.liars;
        self.givers.extend(chunk.retrieval.givers);
        match (chunk.goal, sealed) {
            (Goal::Plain(number), Some(sealed)) => {
                self.open(user, &layout, number, sealed);
                Goes::On
            }
            (Goal::Plain(number), None) => self.repair(user, &layout, layout.slot_of(number)),
            (Goal::Repair(slot), sealed) => {
                let group = layout.group_of_slot(slot);
                let repair = self.repairs.entry(group).or_default();
                match sealed {
                    Some(sealed) => {
                        repair.have.insert(slot, sealed);
                    }
                    None => {
                        repair.lost.insert(slot);
                    }
                }
                self.try_repair(user, &layout, group)
            }
        }
    }

    fn open(&mut self, user: &mut User<'_, '_, '_>, layout: &Layout, number: u64, sealed: Vec<u8>) {
        self.tags += 1;
        self.opening.insert(self.tags, number);
        let work = DocJob::OpenChunk { key: self.key.clone(), layout: layout.clone(), number, sealed };
        user.job(self.tags, Job::Document(work));
    }

    /// A data chunk is lost: everything else of its group is fetched, until as many chunks are there as the group has data chunks.
    fn repair(&mut self, user: &mut User<'_, '_, '_>, layout: &Layout, slot: u64) -> Goes {
        let group = layout.group_of_slot(slot);
        let known = self.repairs.contains_key(&group);
        self.repairs.entry(group).or_default().lost.insert(slot);
        if !known {
            for other in layout.slots_of_group(group).filter(|s| *s != slot) {
                self.begin_chunk(user, layout, other, Goal::Repair(other));
            }
        }
        self.try_repair(user, layout, group)
    }

    fn try_repair(&mut self, user: &mut User<'_, '_, '_>, layout: &Layout, group: u64) -> Goes {
        let Some(repair) = self.repairs.get_mut(&group) else { return Goes::On };
        let slots = layout.slots_of_group(group);
        let total = usize::try_from(slots.end - slots.start).unwrap_or(usize::MAX);
        let data = layout.data_in_group(group);
        if total - repair.lost.len() < data {
            let failure = if self.void { Failure::void() } else { Failure::chunks_lost(self.asked_worst) };
            return self.fail(user, failure);
        }
        if repair.have.len() >= data && !repair.running {
            repair.running = true;
            let roots = slots.clone().filter_map(|s| self.tree.roots.get(usize::try_from(s).ok()?).copied()).collect();
            let work = DocJob::RepairGroup { layout: layout.clone(), group, have: core::mem::take(&mut repair.have), roots };
            self.tags += 1;
            self.repair_jobs.insert(self.tags, group);
            user.job(self.tags, Job::Document(work));
            // What is still on its way for this repair is not needed any more.
            let done: Vec<_> = self
                .chunks
                .iter()
                .filter(|(_, c)| matches!(c.goal, Goal::Repair(s) if slots.contains(&s)))
                .map(|(tag, _)| *tag)
                .collect();
            for tag in done {
                if let Some(chunk) = self.chunks.remove(&tag) {
                    user.done(tag, chunk.retrieval.awaited());
                }
            }
        }
        Goes::On
    }

    fn job(&mut self, user: &mut User<'_, '_, '_>, tag: u64, result: JobResult) -> Goes {
        match result {
            JobResult::OpenAnswers(found) => {
                let Some(chunk) = self.chunks.get_mut(&tag) else { return Goes::On };
                let outcome = chunk.retrieval.opened(user, tag, found);
                self.retrieved(user, tag, outcome)
            }
            JobResult::Document(DocJobResult::Plain(plain)) => match (self.opening.remove(&tag), plain) {
                (Some(number), Some(plain)) => {
                    self.ready.insert(number, plain);
                    self.advance(user)
                }
                _ => self.fail(user, Failure::void()),
            },
            JobResult::Document(DocJobResult::Single(single)) => match single {
                Some(single) => self.single(user, *single),
                None => self.fail(user, Failure::void()),
            },
            JobResult::Document(DocJobResult::Repaired(chunks)) => {
                let (Some(group), Some(layout)) = (self.repair_jobs.remove(&tag), self.layout.clone()) else { return Goes::On };
                let Some(chunks) = chunks else { return self.fail(user, Failure::void()) };
                let lost = self.repairs.remove(&group).map(|r| r.lost).unwrap_or_default();
                for (slot, sealed) in chunks {
                    if let Some(number) = layout.data_of_slot(slot).filter(|_| lost.contains(&slot))
                        && number < layout.data_with_content()
                        && number >= self.deliver
                    {
                        self.open(user, &layout, number, sealed);
                    }
                }
                Goes::On
            }
            JobResult::LinkProof(_)
            | JobResult::LinkCheck(_)
            | JobResult::CircuitServer(_)
            | JobResult::CircuitStart(_)
            | JobResult::CircuitReply(_)
            | JobResult::HostOpen(_)
            | JobResult::SessionOpen(_)
            | JobResult::MakeKeys(_)
            | JobResult::Serve(_)
            | JobResult::Document(_)
            | JobResult::Overlay(_)
            | JobResult::Lost => self.fail(user, Failure::bug("a job was lost")),
        }
    }

    /// A document of one chunk: all of it is there.
    fn single(&mut self, user: &mut User<'_, '_, '_>, single: crate::proto::doc::Single) -> Goes {
        let length = single.plain.len() as u64;
        if self.offset > length {
            return self.fail(user, Failure::offset_beyond_end());
        }
        user.event(Event::Found { length, name: single.name, media_type: single.media_type });
        let skip = usize::try_from(self.offset).unwrap_or(usize::MAX).min(single.plain.len());
        let rest = Bytes::from(single.plain).slice(skip..);
        if !rest.is_empty() {
            user.event(Event::Data(rest));
        }
        let (shares, hosts) = (self.tree.shares, self.tree.givers.len() as u64);
        let report = Report { bytes: length, chunks: 1, shares, hosts, paths: user.paths(), ..self.report.clone() };
        user.event(Event::Fetched(report));
        Goes::Over
    }

    fn fail(&mut self, user: &mut User<'_, '_, '_>, failure: Failure) -> Goes {
        user.event(Event::Failed(failure));
        Goes::Over
    }
}
