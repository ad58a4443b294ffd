//! Publishing a document: chunk by chunk from its bytes to its hosts, then the manifest from the bottom up, then the key (D13,
//! D16).

use crate::base::NodeId;
use crate::base::Time;
use crate::base::limits;
use crate::crypto::secret::Secret;
use crate::proto::doc::DocJob;
use crate::proto::doc::DocJobResult;
use crate::proto::doc::convergent;
use crate::proto::doc::key::ReadKey;
use crate::proto::doc::layout;
use crate::proto::doc::layout::Layout;
use crate::proto::doc::node::Node;
use crate::proto::doc::share::EncodedChunk;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::PublishWish;
use crate::proto::event::Report;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::job::SealedAnswer;
use crate::proto::ops::Goes;
use crate::proto::ops::Heard;
use crate::proto::ops::User;
use crate::proto::ops::place;
use crate::proto::ops::place::Placement;
use crate::proto::ops::retrieve::Copy;
use crate::wire::manifest::Private;
use crate::wire::request::Stored;
use bytes::Bytes;
use core::ops::Range;
use core::time::Duration;
use rand::CryptoRng;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// Chunk copies being placed at once over any line: at 24 shares each, more than the 256 shares over which the order is random (D12).
const PLACING_MAX: usize = 12;
/// Chunk copies beyond those, which wait for the word of late hosts alone or which a fast line carries: 36 MiB.
const LATE_MAX: usize = 48;
/// More copies are begun only while fewer bytes of shares are under way than the line lately brought to hosts in this time: it has
/// to be filled over long ways too, but what it has not taken after a while, hosts give up.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// And never more than a line of 100 Mbit/s brings in that time.
const UNDER_WAY_MAX: usize = 24 << 20;
/// Over how long it is counted what the line brings to hosts.
const CARRIED_SPAN: Duration = Duration::from_secs(1);
/// Chunks being read and coded ahead of that.
const CODING_MAX: usize = 4;

/// What a chunk is in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The chunk in this slot.
    Slot(u64),
    /// The manifest node of this level and number; whether it is the top one.
    Node(u8, u64, bool),
    /// The whole document.
    Single,
}

/// A job under way.
#[derive(Debug)]
enum Coding {
    /// The digest of a chunk that was read for the first time.
    Digest(u64),
    One(Part),
    /// The parity chunks of a group, from this slot on.
    Parity(u64),
}

/// A publication under way.
pub struct Publish {
    wish: PublishWish,
    /// Of a convergent document: one by chance while it is read for the first time, so that nothing could be sealed under less than
    /// all of it.
    k_r: Secret<32>,
    /// Of a convergent document: of its chunks with content.
    digests: Option<Vec<[u8; 32]>>,
    /// Whether it is being read only to know its key.
    reads: bool,
    layout: Layout,
    single: bool,
    tags: u64,
    /// Data chunk whose bytes are wanted next.
    next: u64,
    /// Whether a need is out.
    needs: bool,
    coding: BTreeMap<u64, Coding>,
    waiting: VecDeque<(Part, Arc<EncodedChunk>, u8)>,
    /// Each with the number of spare copies that were begun.
    placing: BTreeMap<u64, (Part, Placement, u8)>,
    /// Data chunks of groups whose parity is not coded yet.
    groups: BTreeMap<u64, BTreeMap<u64, Arc<EncodedChunk>>>,
    roots: Vec<[u8; 32]>,
    /// Level of the manifest that is being placed, and the roots below it.
    level: Option<(u8, Vec<[u8; 32]>)>,
    node_roots: BTreeMap<u64, [u8; 32]>,
    top: Option<[u8; 32]>,
    stored_bytes: u64,
    takers: BTreeSet<NodeId>,
    carried: Carried,
    report: Report,
}

/// How fast the line brings shares to hosts.
#[derive(Debug, Default)]
struct Carried {
    since: Time,
    bytes: usize,
    /// Bytes in the last whole [`CARRIED_SPAN`], or more.
    last: (usize, Duration),
}

impl Carried {
    fn add(&mut self, now: Time, bytes: usize) {
        self.bytes += bytes;
        let took = now.since(self.since);
        if took >= CARRIED_SPAN {
            self.last = (core::mem::take(&mut self.bytes), took);
            self.since = now;
        }
    }

    /// Bytes that it brings in so long: none before anything is known, and of a line that stands fewer and fewer.
    fn in_time(&self, now: Time, time: Duration) -> usize {
        let waited = now.since(self.since);
        let (bytes, took) = if waited < CARRIED_SPAN * 2 { self.last } else { (self.bytes, waited) };
        (bytes as u128 * time.as_micros()).checked_div(took.as_micros()).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }
}

impl core::fmt::Debug for Publish {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Publish").finish_non_exhaustive()
    }
}

impl Publish {
    /// A publication that has not begun.
    pub fn new(wish: PublishWish, rng: &mut dyn CryptoRng) -> Self {
        let layout = Layout::new(wish.length);
        let single = layout::is_single(wish.length);
        let slots = if single { 0 } else { usize::try_from(layout.slots()).unwrap_or(0) };
        let contents = usize::try_from(contents(&layout, single)).unwrap_or(0);
        Self {
            k_r: Secret::random(rng),
            digests: wish.convergent.is_some().then(|| vec![[0; 32]; contents]),
            reads: wish.convergent.is_some(),
            single,
            tags: 0,
            next: 0,
            needs: false,
            coding: BTreeMap::new(),
            waiting: VecDeque::new(),
            placing: BTreeMap::new(),
            groups: BTreeMap::new(),
            roots: vec![[0; 32]; slots],
            level: None,
            node_roots: BTreeMap::new(),
            top: None,
            stored_bytes: 0,
            takers: BTreeSet::new(),
            carried: Carried::default(),
            report: Report::default(),
            layout,
            wish,
        }
    }

    pub(in crate::proto) fn hear(&mut self, user: &mut User<'_, '_, '_>, heard: Heard) -> Goes {
        match heard {
            Heard::Begin => self.advance(user),
            Heard::Command(Command::Plain(plain)) => self.plain(user, plain),
            Heard::Command(_) => Goes::On,
            Heard::Time => self.hurry(user),
            Heard::Answer(tag, request, answer) => {
                let Some((_, placement, _)) = self.placing.get_mut(&tag) else { return Goes::On };
                let before = placement.acknowledged();
                let outcome = placement.answer(user, tag, request, open_stored(answer));
                self.carried.add(user.ctx.env.now, placement.acknowledged().saturating_sub(before));
                self.placed(user, tag, &outcome)
            }
            Heard::Failed(tag, request, blame) => {
                let Some((_, placement, _)) = self.placing.get_mut(&tag) else { return Goes::On };
                let outcome = placement.failed(user, tag, request, blame);
                self.placed(user, tag, &outcome)
            }
            Heard::Job(tag, JobResult::Document(DocJobResult::Encoded(Some(chunks)))) => self.coded(user, tag, chunks),
            Heard::Job(tag, JobResult::Document(DocJobResult::Digest(digest))) => self.digested(user, tag, digest),
            Heard::Job(_, JobResult::Document(DocJobResult::Changed)) => self.fail(user, Failure::file_changed()),
            Heard::Job(..) => self.fail(user, Failure::bug("coding a chunk failed")),
        }
    }

    /// Sees to chunks whose hosts are late.
    fn hurry(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        for (tag, (_, placement, _)) in &mut self.placing {
            placement.hurry(user, *tag);
        }
        self.advance(user)
    }

    /// Wants the next bytes, or codes the next padding chunk or manifest level, while there is room.
    fn advance(&mut self, user: &mut User<'_, '_, '_>) -> Goes {
        if self.reads && !self.read(user) {
            return Goes::On;
        }
        if self.single {
            if self.next == 0 && !self.needs {
                self.need(user);
            }
        } else {
            while !self.needs
                && self.next < self.layout.data()
                && self.coding.len() < CODING_MAX
                && self.waiting.len() < PLACING_MAX
            {
                if self.layout.plain_range(self.next).is_empty() {
                    let number = self.next;
                    self.next += 1;
                    self.code_data(user, number, Bytes::new());
                } else {
                    self.need(user);
                }
            }
        }
        while self.may_place(user.ctx.env.now)
            && let Some((part, chunk, copies)) = self.waiting.pop_front()
        {
            for i in 0..copies {
                let copy = self.key(chunk.root).copy(&chunk.root, chunk.class, i);
                if !self.place(user, part, &chunk, copy, 0) {
                    return self.fail(user, Failure::no_hosts());
                }
                self.report.chunks += 1;
            }
        }
        if self.needs || !self.coding.is_empty() || !self.waiting.is_empty() {
            return Goes::On;
        }
        match self.top {
            Some(root) if self.placing.is_empty() => return self.published(user, root),
            // The manifest above what was begun waits until that was offered and answered, but for hosts that are late: beside it, it
            // would have everything on a slow line take longer than hosts wait.
            None if !self.single && self.next >= self.layout.data() && self.under_way() == 0 => self.next_level(user),
            Some(_) | None => {}
        }
        Goes::On
    }

    /// Whether one more copy may be begun.
    fn may_place(&self, now: Time) -> bool {
        let late = self.placing.values().filter(|(_, placement, _)| placement.is_late()).count().min(LATE_MAX);
        let fast = || self.under_way() < self.carried.in_time(now, UNDER_WAY).min(UNDER_WAY_MAX);
        self.placing.len() - late < PLACING_MAX || (self.placing.len() < PLACING_MAX + LATE_MAX && fast())
    }

    /// Bytes of shares that are offered and not answered, or to be offered.
    fn under_way(&self) -> usize {
        self.placing.values().map(|(_, placement, _)| placement.under_way()).sum()
    }

    /// Reads a convergent document for the first time. True: its key is known, and its bytes are wanted again.
    fn read(&mut self, user: &mut User<'_, '_, '_>) -> bool {
        if self.needs || self.coding.len() >= CODING_MAX {
            return false;
        }
        if self.next < contents(&self.layout, self.single) {
            self.need(user);
            return false;
        }
        let (Some(local), Some(digests), true) = (&self.wish.convergent, &self.digests, self.coding.is_empty()) else {
            return false;
        };
        self.k_r = convergent::k_r(local, &self.private(), digests);
        (self.reads, self.next) = (false, 0);
        true
    }

    fn digested(&mut self, user: &mut User<'_, '_, '_>, tag: u64, digest: [u8; 32]) -> Goes {
        if let Some(Coding::Digest(number)) = self.coding.remove(&tag)
            && let Some(to) = self.digests.as_mut().and_then(|all| all.get_mut(usize::try_from(number).ok()?))
        {
            *to = digest;
        }
        self.advance(user)
    }

    /// What a chunk of a convergent document was when it was first read; those without content are empty.
    fn expected(&self, number: u64) -> Option<[u8; 32]> {
        let digests = self.digests.as_ref()?;
        let known = usize::try_from(number).ok().and_then(|n| digests.get(n)).copied();
        Some(known.unwrap_or_else(|| convergent::digest(&[])))
    }

    fn key(&self, root: [u8; 32]) -> ReadKey {
        ReadKey::new(self.k_r.clone(), root, !self.single)
    }

    /// Gives a copy of a chunk to its hosts. False: there are none.
    fn place(&mut self, user: &mut User<'_, '_, '_>, part: Part, chunk: &Arc<EncodedChunk>, copy: Copy, spares: u8) -> bool {
        self.tags += 1;
        let placement = Placement::start(user, self.tags, Arc::clone(chunk), copy, self.wish.lease_days);
        let begun = !placement.is_stuck();
        if begun {
            self.placing.insert(self.tags, (part, placement, spares));
        }
        begun
    }

    /// The bytes of the document that are wanted next.
    fn wanted(&self) -> Range<u64> {
        if self.single { 0..self.wish.length } else { self.layout.plain_range(self.next) }
    }

    fn need(&mut self, user: &mut User<'_, '_, '_>) {
        self.needs = true;
        let Range { start: offset, end } = self.wanted();
        user.event(Event::Need { offset, len: usize::try_from(end - offset).unwrap_or(usize::MAX) });
    }

    fn plain(&mut self, user: &mut User<'_, '_, '_>, plain: Bytes) -> Goes {
        let wanted = self.wanted();
        if !core::mem::take(&mut self.needs) || plain.len() as u64 != wanted.end - wanted.start {
            return self.fail(user, Failure::file_changed());
        }
        let number = self.next;
        self.next += 1;
        if self.reads {
            self.code(user, Coding::Digest(number), DocJob::Digest { plain });
        } else if self.single {
            let (private, expected) = (self.private(), self.expected(number));
            let work = DocJob::EncodeSingle { k_r: self.k_r.clone(), private, plain, expected };
            self.code(user, Coding::One(Part::Single), work);
        } else {
            self.code_data(user, number, plain);
        }
        self.advance(user)
    }

    fn private(&self) -> Private {
        Private { length: self.wish.length, name: self.wish.name.clone(), media_type: self.wish.media_type.clone() }
    }

    fn code_data(&mut self, user: &mut User<'_, '_, '_>, number: u64, plain: Bytes) {
        let expected = self.expected(number);
        let work = DocJob::EncodeChunk { k_r: self.k_r.clone(), layout: self.layout.clone(), number, plain, expected };
        self.code(user, Coding::One(Part::Slot(self.layout.slot_of(number))), work);
    }

    fn code(&mut self, user: &mut User<'_, '_, '_>, coding: Coding, work: DocJob) {
        self.tags += 1;
        self.coding.insert(self.tags, coding);
        user.job(self.tags, Job::Document(work));
    }

    fn coded(&mut self, user: &mut User<'_, '_, '_>, tag: u64, chunks: Vec<Arc<EncodedChunk>>) -> Goes {
        match self.coding.remove(&tag) {
            None | Some(Coding::Digest(_)) => return Goes::On,
            Some(Coding::One(part)) => {
                let Some(chunk) = chunks.into_iter().next() else { return self.fail(user, Failure::bug("an empty coding")) };
                let copies = match part {
                    Part::Slot(slot) => {
                        self.keep_for_parity(user, slot, &chunk);
                        1
                    }
                    Part::Node(_, index, top) => {
                        self.node_roots.insert(index, chunk.root);
                        if top {
                            self.tell_key(user, chunk.root);
                        }
                        limits::MANIFEST_COPIES
                    }
                    Part::Single => {
                        self.tell_key(user, chunk.root);
                        1
                    }
                };
                self.waiting.push_back((part, chunk, copies));
            }
            Some(Coding::Parity(first)) => {
                for (slot, chunk) in (first..).zip(chunks) {
                    self.set_root(slot, chunk.root);
                    self.waiting.push_back((Part::Slot(slot), chunk, 1));
                }
            }
        }
        self.advance(user)
    }

    fn set_root(&mut self, slot: u64, root: [u8; 32]) {
        if let Some(to) = usize::try_from(slot).ok().and_then(|s| self.roots.get_mut(s)) {
            *to = root;
        }
    }

    /// Notes a data chunk's root; when its group is complete, codes the parity.
    fn keep_for_parity(&mut self, user: &mut User<'_, '_, '_>, slot: u64, chunk: &Arc<EncodedChunk>) {
        self.set_root(slot, chunk.root);
        let group = self.layout.group_of_slot(slot);
        let members = self.groups.entry(group).or_default();
        members.insert(slot, Arc::clone(chunk));
        if members.len() == self.layout.data_in_group(group) {
            let data = self.groups.remove(&group).unwrap_or_default().into_values().collect();
            let count = self.layout.parity_in_group(group);
            let first = self.layout.slots_of_group(group).end - count as u64;
            self.code(user, Coding::Parity(first), DocJob::EncodeParity { data, count });
        }
    }

    fn placed(&mut self, user: &mut User<'_, '_, '_>, tag: u64, outcome: &place::Outcome) -> Goes {
        let (stored, failed) = match outcome {
            place::Outcome::Pending => return Goes::On,
            place::Outcome::Stored(shares) => (*shares, None),
            place::Outcome::Failed { acknowledged, full } => (*acknowledged, Some(*full)),
        };
        let Some((part, placement, spares)) = self.placing.remove(&tag) else { return Goes::On };
        user.done(tag, placement.awaited());
        self.report.shares += stored as u64;
        self.report.shares_failed += placement.refused;
        let chunk = Arc::clone(placement.chunk());
        self.takers.extend(placement.holders.into_keys());
        if let Some(full) = failed {
            let spare = self.key(chunk.root).spares(&chunk.root, chunk.class).into_iter().nth(spares.into());
            return match spare {
                Some(copy) if self.place(user, part, &chunk, copy, spares + 1) => Goes::On,
                _ => self.fail(user, Failure::not_stored(stored, full)),
            };
        }
        if let Part::Slot(slot) = part
            && let Some(number) = self.layout.data_of_slot(slot)
        {
            let range = self.layout.plain_range(number);
            self.stored_bytes += range.end - range.start;
        }
        user.event(Event::Progress(Progress { bytes: self.stored_bytes, total: self.wish.length, shares: self.report.shares }));
        self.advance(user)
    }

    /// Codes the manifest's next level.
    fn next_level(&mut self, user: &mut User<'_, '_, '_>) {
        let (level, below) = match self.level.take() {
            None => (0, self.roots.clone()),
            Some((level, _)) => (level + 1, core::mem::take(&mut self.node_roots).into_values().collect()),
        };
        let chunks = self.layout.slots();
        let top = layout::nodes_on_level(chunks, level) == 1;
        for (index, children) in (0..).zip(below.chunks(limits::MANIFEST_FANOUT_MAX)) {
            let node = Node {
                level,
                index,
                chunks,
                class: self.layout.class,
                children: children.to_vec(),
                private: top.then(|| self.private()),
            };
            let work = DocJob::EncodeNode { k_r: self.k_r.clone(), node: Box::new(node) };
            self.code(user, Coding::One(Part::Node(level, index, top)), work);
        }
        self.level = Some((level, below));
    }

    /// The root above everything is known, and none of its chunk has left yet.
    fn tell_key(&mut self, user: &mut User<'_, '_, '_>, root: [u8; 32]) {
        self.top = Some(root);
        user.event(Event::Key(self.key(root)));
    }

    fn published(&mut self, user: &mut User<'_, '_, '_>, root: [u8; 32]) -> Goes {
        self.report.bytes = self.wish.length;
        self.report.hosts = self.takers.len() as u64;
        self.report.paths = user.paths();
        user.event(Event::Published { key: self.key(root), report: self.report.clone() });
        Goes::Over
    }

    fn fail(&mut self, user: &mut User<'_, '_, '_>, failure: Failure) -> Goes {
        user.event(Event::Failed(failure));
        Goes::Over
    }
}

/// Chunks with bytes of the document in them.
const fn contents(layout: &Layout, single: bool) -> u64 {
    if single { 1 } else { layout.data_with_content() }
}

/// A host's word on a store; `None` if it does not open.
fn open_stored(mut answer: SealedAnswer) -> Option<Stored> {
    let plain = answer.session.open_response(answer.n, &mut answer.sealed).ok()?;
    Stored::from_bytes(plain).ok()
}
