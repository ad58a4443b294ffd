//! Descriptors that a client's directories agree on: asked for, checked beside the machine, taken in.

use crate::base::Env;
use crate::base::NodeId;
use crate::proto::overlay::Asked;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::Odd;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::lists::Vote;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::proto::overlay::sync::Sync;
use crate::proto::overlay::sync::start::STARTING_MAX;
use crate::proto::overlay::view::Entry;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Message;
use crate::wire::overlay::Part;
use crate::wire::overlay::Tag;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Descriptors asked for at once: they come in one answer through a circuit, and in seconds over the slowest line.
const BATCH: usize = 20;
/// Batches under way with one directory over a link: a line of 10 Mbit/s stays busy.
const BATCHES: usize = 4;
/// Descriptors of one directory that are looked at because it alone lists them: another face of a relay shows there.
const FACES_LOOKED_AT: usize = 8;
/// Most of them remembered; beyond it they are looked at again.
const LOOKED_AT_MAX: usize = 4096;

/// What a client reads of descriptors.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// Agreed on and not known yet.
    pub(super) wanted: BTreeSet<(u64, Tag)>,
    /// Batches under way.
    pub(super) batches: BTreeMap<u32, (NodeId, Vec<(u64, Tag)>)>,
    next_batch: u32,
    /// What a directory lists and did not show.
    refused: BTreeSet<(NodeId, Tag)>,
    /// Which directory did not answer when asked for what: it is asked again when nobody else is left.
    silent: BTreeSet<(NodeId, Tag)>,
    /// Descriptors that one directory lists alone, to be looked at; and those that were.
    pub(super) lone: Vec<(NodeId, u64, Tag)>,
    looked_at: BTreeSet<Tag>,
}

impl Bodies {
    /// A new batch.
    pub(super) fn number(&mut self) -> u32 {
        self.next_batch = self.next_batch.wrapping_add(1).max(1);
        self.next_batch
    }

    /// A directory did not answer to this: others are asked first. One that comes first and says nothing must not be asked for ever;
    /// nor is anything given up for that, as it is when all refuse it, for somebody on the path may have cut its line (T29).
    pub(super) fn pass_on(&mut self, directory: NodeId, asked: &[(u64, Tag)]) {
        self.silent.extend(asked.iter().map(|(_, tag)| (directory, *tag)));
    }

    /// Who listed these does not show them.
    pub(super) fn refuse(&mut self, directory: NodeId, asked: &[(u64, Tag)]) {
        self.refused.extend(asked.iter().map(|(_, tag)| (directory, *tag)));
    }

    pub(super) fn check(&self) {
        assert!(self.batches.len() <= STARTING_MAX * BATCHES);
    }
}

impl Sync {
    /// Descriptors that one directory alone lists, from the slot of time of the one that the others agree on: another face, which is
    /// looked at once, and shows what it is beside the one that is known. What is of another slot is newer or older, no more.
    pub(super) fn lone_faces(&self, votes: &BTreeMap<u64, Vote>) -> Vec<(NodeId, u64, Tag)> {
        let mut lone = Vec::new();
        for d in self.directories.iter().filter(|d| d.complete) {
            let others = d
                .list
                .iter()
                .filter(|l| votes.get(&l.id).is_some_and(|v| v.slot == l.slot && v.tag.is_some_and(|tag| tag != l.tag)));
            let unseen = others.filter(|l| !self.bodies.looked_at.contains(&l.tag));
            lone.extend(unseen.take(FACES_LOOKED_AT).map(|l| (d.peer.node, l.id, l.tag)));
        }
        lone
    }
}

impl Overlay {
    /// Asks for descriptors that are wanted and not asked for, of the first directory that lists them and did not refuse.
    pub(super) fn ask_bodies(&mut self, env: &mut Env<'_>) {
        let nodes: Vec<NodeId> = self.sync.directories.iter().filter(|d| d.complete).map(|d| d.peer.node).collect();
        let mut asked: BTreeSet<(u64, Tag)> = self.sync.bodies.batches.values().flat_map(|(_, list)| list).copied().collect();
        let mut idle = true;
        for node in nodes {
            let direct = self.sync.is_direct(&node);
            // One whose line is down may show them yet: nothing is whole before it was asked. Who cuts lines in the middle of a start
            // would choose what is known of the network, and so the guards (T29).
            let up = !direct || self.link_to(&node).is_some();
            loop {
                let under_way = self.sync.bodies.batches.values().filter(|(by, _)| *by == node).count();
                // Nothing is looked for where nothing could be asked: lists may be long.
                if under_way >= if direct { BATCHES } else { 1 } {
                    break;
                }
                let Some(list) = self.sync.directories.iter().find(|d| d.peer.node == node).map(|d| &d.list) else { break };
                let bodies = &self.sync.bodies;
                let passed_over = |tag: &Tag| bodies.refused.contains(&(node, *tag)) || bodies.silent.contains(&(node, *tag));
                let open = |(hint, tag): &(u64, Tag)| {
                    !asked.contains(&(*hint, *tag)) && !passed_over(tag) && list.tag(*hint) == Some(*tag)
                };
                let batch: Vec<(u64, Tag)> = self.sync.bodies.wanted.iter().copied().filter(open).take(BATCH).collect();
                idle &= batch.is_empty();
                if batch.is_empty() || !up {
                    break;
                }
                let number = self.sync.bodies.number();
                let ids = batch.iter().map(|(hint, _)| *hint).collect();
                let question = Asked::Bodies { directory: node, batch: number };
                if !self.ask_directory(env, node, question, |id| Message::Fetch { id, ids, part: Part::Descriptor }) {
                    break;
                }
                asked.extend(&batch);
                self.sync.bodies.batches.insert(number, (node, batch));
            }
        }
        if idle && self.sync.bodies.batches.is_empty() {
            if !core::mem::take(&mut self.sync.bodies.silent).is_empty() {
                return self.ask_bodies(env);
            }
            self.whole(env);
            self.look_at_lone(env);
        }
    }

    /// Asks for what one directory lists alone: one question to each, and once for each descriptor.
    fn look_at_lone(&mut self, env: &Env<'_>) {
        let lone = core::mem::take(&mut self.sync.bodies.lone);
        if self.sync.bodies.looked_at.len() > LOOKED_AT_MAX {
            self.sync.bodies.looked_at.clear();
        }
        let nodes: BTreeSet<NodeId> = lone.iter().map(|(node, ..)| *node).collect();
        for directory in nodes {
            let ids: Vec<u64> = lone.iter().filter(|(node, ..)| *node == directory).map(|(_, id, _)| *id).collect();
            // Of no batch: whatever comes is compared with what is known, and that is all.
            let asked = Asked::Bodies { directory, batch: 0 };
            if self.ask_directory(env, directory, asked, |id| Message::Fetch { id, ids, part: Part::Descriptor }) {
                self.sync.bodies.looked_at.extend(lone.iter().filter(|(node, ..)| *node == directory).map(|(.., tag)| *tag));
            }
        }
    }

    /// Descriptors came: they are checked beside the machine.
    pub(in crate::proto::overlay) fn bodies(&mut self, env: &mut Env<'_>, directory: NodeId, batch: u32, records: Vec<Blob>) {
        let records: Vec<Vec<u8>> = records.into_iter().map(|b| b.0).collect();
        if records.is_empty() || self.jobs.len() >= JOBS_MAX {
            // Only who shows nothing refuses.
            let none = records.is_empty().then(Vec::new);
            return self.bodies_checked(env, directory, batch, none);
        }
        self.job(Work::Bodies { directory, batch }, OverlayJob::Verify(records));
    }

    /// They were checked; `None`: that did not come about.
    pub(in crate::proto::overlay) fn bodies_checked(
        &mut self,
        env: &mut Env<'_>,
        directory: NodeId,
        batch: u32,
        list: Option<Vec<Result<Record, RecordError>>>,
    ) {
        if self.camp_shows(env, directory, batch, list.as_deref()) {
            return;
        }
        let Some((_, mut asked)) = self.sync.bodies.batches.remove(&batch) else {
            let bodies = list.iter().flatten().filter_map(|r| if let Ok(Record::Body(body)) = r { Some(body) } else { None });
            bodies.for_each(|body| self.compare(body));
            return;
        };
        let before = asked.len();
        for record in list.iter().flatten() {
            let Ok(Record::Body(body)) = record else {
                self.odd(Odd::Forged);
                continue;
            };
            let (hint, tag) = (record::hint_id(&body.descriptor().node), body.tag());
            if let Some(i) = asked.iter().position(|(h, t)| (*h, *t) == (hint, tag)) {
                asked.swap_remove(i);
                self.sync.bodies.wanted.remove(&(hint, tag));
                let host = self.sync.votes.get(&hint).is_some_and(|v| v.host);
                let local = self.view.is_local();
                let older = |e: &Entry| e.relay.body().slot(local) > body.slot(local);
                if self.sync.starting && self.view.by_hint(hint).is_some_and(older) {
                    continue;
                }
                self.view.adopt(body, host, env.wall);
                self.view_changed = true;
            } else {
                // It changed since it was listed; or this is another face.
                self.compare(body);
            }
        }
        // What did not fit the answer is asked for again, as long as something comes.
        if list.is_some() && asked.len() == before {
            self.odd(Odd::EmptyList);
            self.sync.bodies.refuse(directory, &asked);
        }
        self.ask_bodies(env);
    }

    /// All that was agreed on is known, or nobody shows it.
    fn whole(&mut self, env: &mut Env<'_>) {
        self.sync.bodies.refused.clear();
        if self.poll(env) {
            return;
        }
        (self.sync.read, self.sync.reviewed, self.sync.taken) = (true, true, Some(env.wall));
        self.measure(env.now);
        self.view_changed = true;
    }
}
