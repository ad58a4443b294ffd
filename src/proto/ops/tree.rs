//! From a key to the roots of all chunks: the walk down the manifest, common to get and check.

use crate::base::NodeId;
use crate::base::limits;
use crate::proto::circuit::origin::RequestId;
use crate::proto::doc::DocJob;
use crate::proto::doc::DocJobResult;
use crate::proto::doc::key::Key;
use crate::proto::doc::node::Node;
use crate::proto::event::Failure;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::job::SealedAnswer;
use crate::proto::ops::User;
use crate::proto::ops::retrieve;
use crate::proto::ops::retrieve::Breadth;
use crate::proto::ops::retrieve::Retrieval;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;

/// Manifest nodes fetched at once.
const AT_ONCE: usize = 16;

/// What a walk came to.
#[derive(Debug)]
pub enum Outcome {
    /// Not done.
    Pending,
    /// The top chunk is back: a tree's root node, or the whole document.
    Done,
    /// It cannot be done.
    Failed(Failure),
}

#[derive(Debug)]
struct Want {
    /// Level of the node and its number there; `None` is the top chunk, whatever it is.
    place: Option<(u8, u64)>,
    retrieval: Retrieval,
}

/// A walk down from the top.
#[derive(Debug)]
pub struct Tree {
    key: Key,
    /// The top node, once opened.
    pub top: Option<Box<Node>>,
    /// The sealed top chunk of a document without a manifest.
    pub single: Option<Vec<u8>>,
    /// Roots of all chunks in order, once complete.
    pub roots: Vec<[u8; 32]>,
    /// Roots of all manifest nodes, the top first.
    pub nodes: Vec<[u8; 32]>,
    /// Hosts that gave a share.
    pub givers: BTreeSet<NodeId>,
    /// Shares received.
    pub shares: u64,
    waiting: VecDeque<((u8, u64), [u8; 32])>,
    wants: BTreeMap<u64, Want>,
    leaves: BTreeMap<u64, Vec<[u8; 32]>>,
}

impl Tree {
    /// A walk that has not begun.
    pub fn new(key: Key) -> Self {
        Self {
            key,
            top: None,
            single: None,
            roots: Vec::new(),
            nodes: Vec::new(),
            givers: BTreeSet::new(),
            shares: 0,
            waiting: VecDeque::new(),
            wants: BTreeMap::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// Whether this tag is one of the walk's.
    pub fn owns(&self, tag: u64) -> bool {
        self.wants.contains_key(&tag)
    }

    /// Fetches the top chunk. `tags` numbers the chunks of the operation.
    pub(in crate::proto) fn begin(&mut self, user: &mut User<'_, '_, '_>, tags: &mut u64) {
        let root = self.key.root();
        self.want(user, tags, None, root);
    }

    fn want(&mut self, user: &mut User<'_, '_, '_>, tags: &mut u64, place: Option<(u8, u64)>, root: [u8; 32]) {
        *tags += 1;
        self.nodes.push(root);
        let copies = if self.key.is_tree() { limits::MANIFEST_COPIES } else { 1 };
        let copies = (0..copies).map(|i| self.key.copy(&root, self.key.top_class(), i)).collect();
        let spares = self.key.spares(&root, self.key.top_class());
        let retrieval = Retrieval::start(user, *tags, root, self.key.top_class(), copies, spares, Breadth::Broad);
        self.wants.insert(*tags, Want { place, retrieval });
    }

    /// An answer to one of the walk's requests.
    pub(in crate::proto) fn answer(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        answer: SealedAnswer,
    ) -> Outcome {
        let Some(want) = self.wants.get_mut(&tag) else { return Outcome::Pending };
        let outcome = want.retrieval.answer(user, tag, request, answer);
        self.retrieved(user, tag, outcome)
    }

    /// A failure of one of the walk's requests.
    pub(in crate::proto) fn failed(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        host_to_blame: bool,
    ) -> Outcome {
        let Some(want) = self.wants.get_mut(&tag) else { return Outcome::Pending };
        let outcome = want.retrieval.failed(user, tag, request, host_to_blame);
        self.retrieved(user, tag, outcome)
    }

    /// Further hosts for nodes whose hosts are late.
    pub(in crate::proto) fn hurry(&mut self, user: &mut User<'_, '_, '_>) {
        for (tag, want) in &mut self.wants {
            want.retrieval.hurry(user, *tag);
        }
    }

    /// One of the walk's jobs is done.
    pub(in crate::proto) fn job(&mut self, user: &mut User<'_, '_, '_>, tags: &mut u64, tag: u64, result: JobResult) -> Outcome {
        let Some(want) = self.wants.get_mut(&tag) else { return Outcome::Pending };
        match result {
            JobResult::OpenAnswers(found) => {
                let outcome = want.retrieval.opened(user, tag, found);
                self.retrieved(user, tag, outcome)
            }
            JobResult::Document(DocJobResult::Node(node)) => {
                let place = want.place;
                self.wants.remove(&tag);
                match node {
                    Some(node) => self.opened(user, tags, place, node),
                    None => Outcome::Failed(Failure::manifest_lies()),
                }
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
            | JobResult::Lost => Outcome::Failed(Failure::bug("a job came back as another")),
        }
    }

    fn retrieved(&mut self, user: &mut User<'_, '_, '_>, tag: u64, outcome: retrieve::Outcome) -> Outcome {
        let Some(want) = self.wants.get(&tag) else { return Outcome::Pending };
        match outcome {
            retrieve::Outcome::Pending => Outcome::Pending,
            retrieve::Outcome::Void => Outcome::Failed(Failure::manifest_lies()),
            retrieve::Outcome::Lost { asked, found } => Outcome::Failed(match want.place {
                None => Failure::not_found(asked, found),
                Some(_) => Failure::manifest_lost(asked, found),
            }),
            retrieve::Outcome::Chunk(sealed) => {
                user.done(tag, want.retrieval.awaited());
                self.shares += limits::SHARES_NEEDED as u64;
                self.givers.extend(&want.retrieval.givers);
                if !self.key.is_tree() {
                    self.wants.remove(&tag);
                    self.single = Some(sealed);
                    return Outcome::Done;
                }
                let work = DocJob::OpenNode { key: self.key.clone(), top: self.top.clone(), place: want.place, sealed };
                user.job(tag, Job::Document(work));
                Outcome::Pending
            }
        }
    }

    /// A node opened and fits its parent.
    fn opened(&mut self, user: &mut User<'_, '_, '_>, tags: &mut u64, place: Option<(u8, u64)>, node: Box<Node>) -> Outcome {
        let (level, index) = place.unwrap_or((node.level, 0));
        if level == 0 {
            self.leaves.insert(index, node.children.clone());
        } else {
            let first = index * limits::MANIFEST_FANOUT_MAX as u64;
            self.waiting.extend(node.children.iter().zip(first..).map(|(root, i)| ((level - 1, i), *root)));
        }
        if place.is_none() {
            self.top = Some(node);
        }
        while self.wants.len() < AT_ONCE
            && let Some((place, root)) = self.waiting.pop_front()
        {
            self.want(user, tags, Some(place), root);
        }
        if !self.wants.is_empty() {
            return Outcome::Pending;
        }
        self.roots = core::mem::take(&mut self.leaves).into_values().flatten().collect();
        Outcome::Done
    }
}
