//! Records on their way into a relay's view: asked for, checked beside the machine, taken in.

use crate::base::Env;
use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::Asked;
use crate::proto::overlay::EVIDENCE_MAX;
use crate::proto::overlay::FETCH_AGAIN;
use crate::proto::overlay::FETCHING_MAX;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::Event;
use crate::proto::overlay::io::JobOutcome;
use crate::proto::overlay::io::Odd;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Faces;
use crate::proto::overlay::record::Fresh;
use crate::proto::overlay::record::Record;
use crate::proto::overlay::record::RecordError;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::Inserted;
use crate::wire::freshness;
use crate::wire::overlay::Blob;
use crate::wire::overlay::FETCH_MAX;
use crate::wire::overlay::Message;
use crate::wire::overlay::Part;
use crate::wire::record as wire_record;
use core::net::SocketAddr;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Overlay {
    /// Asks a link for records, less those asked for lately. Of more than fit, chance takes some: else whoever names relays that do
    /// not exist, early in the order, keeps us from ever asking for the others.
    pub(super) fn fetch(&mut self, env: &mut Env<'_>, link: LinkId, ids: &[u64], part: Part) {
        let room = FETCHING_MAX.saturating_sub(self.fetching.len()).min(FETCH_MAX);
        let lately = |id: &u64| self.fetching.get(id).is_some_and(|(until, _)| *until > env.now);
        let mut wanted: Vec<u64> = ids.iter().copied().filter(|id| !lately(id)).collect();
        if wanted.len() > room {
            wanted.shuffle(&mut *env.rng);
            wanted.truncate(room);
        }
        if wanted.is_empty() {
            return;
        }
        let marked = wanted.clone();
        if self.request(env, link, Asked::Fetch, |id| Message::Fetch { id, ids: wanted, part }) {
            let request = self.next_request;
            self.fetching.extend(marked.into_iter().map(|id| (id, (env.now + FETCH_AGAIN, request))));
        }
    }

    /// Our own evidence that a relay is where it says: the root that receipts lead on from.
    pub(super) fn prove(&mut self, now: Time, node: NodeId, addr: SocketAddr) {
        if self.view.entry(&node).is_some() {
            self.view.prove(&node, &addr, now);
            self.view_changed = true;
        } else if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.insert(node, addr);
        }
    }

    /// Whose record this is, and whether it says what is not known here.
    fn look(&self, blob: &Blob) -> Option<(NodeId, bool)> {
        if let Some((node, of, published)) = freshness::peek(&blob.0) {
            let known = |e: &Entry| e.fresh() >= published && *e.relay.body().digest() == of;
            return Some((node, !self.view.entry(&node).is_some_and(known)));
        }
        let node = wire_record::peek(&blob.0)?;
        let same = |e: &Arc<Verified>| *e.body().digest() == kdf::hash(Label::ViewDigest, &[&blob.0]);
        Some((node, self.view.entry(&node).is_none_or(|e| !same(&e.relay))))
    }

    /// Hands records to a job, less those that are known.
    pub(super) fn verify(&mut self, link: LinkId, records: Vec<Blob>) {
        let mut fresh = Vec::new();
        for blob in records {
            match self.look(&blob) {
                Some((node, false)) => {
                    self.fetching.remove(&record::hint_id(&node));
                }
                // What is no record at all is found out by the job, like any forgery.
                _ => fresh.push(blob.0),
            }
        }
        if !fresh.is_empty() && self.jobs.len() < JOBS_MAX {
            self.job(Work::Verify { link }, OverlayJob::Verify(fresh));
        }
    }

    pub(super) fn job(&mut self, work: Work, job: OverlayJob) {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.jobs.insert(id, work);
        self.out.push_back(Output::Job(id, job));
    }

    pub(super) fn done(&mut self, env: &mut Env<'_>, job: JobId, outcome: JobOutcome) {
        match (self.jobs.remove(&job), outcome) {
            (Some(Work::Verify { link }), JobOutcome::Verified(list)) => self.verified(env, link, list),
            (Some(Work::Bodies { directory, batch }), outcome) => {
                let list = if let JobOutcome::Verified(list) = outcome { Some(list) } else { None };
                self.bodies_checked(env, directory, batch, list);
            }
            (Some(Work::Faces), JobOutcome::Faces(faces)) => match faces {
                Some(faces) => self.strike_out(*faces),
                None => self.odd(Odd::NoProof),
            },
            (Some(Work::SignOwn), JobOutcome::Signed(own)) => self.signed_own(env, own),
            (Some(Work::SignReceipt { link, id }), JobOutcome::Receipt(receipt)) => {
                let receipt = receipt.map(|r| Blob(r.encode()));
                self.send(link, &Message::DialBackReply { id, receipt });
            }
            (Some(Work::CheckReceipt), JobOutcome::Receipt(Some(receipt))) => self.receipt_checked(env, *receipt),
            // Without a new signature the own descriptor would expire.
            (Some(Work::SignOwn), _) => self.sign_again(env),
            // Records are asked for again, and so are receipts.
            _ => {}
        }
    }

    /// What a job found: each freshness goes with the descriptor that came with it, or with the one that is known.
    fn verified(&mut self, env: &mut Env<'_>, link: LinkId, list: Vec<Result<Record, RecordError>>) {
        let (mut missing, mut bodies) = (Vec::new(), BTreeMap::new());
        for record in list {
            let Ok(record) = record else {
                // Whoever passes on forged records without looking, or makes them, is no use as a source.
                self.odd(Odd::Forged);
                self.out.push_back(Output::Blame { link });
                continue;
            };
            match record {
                Record::Body(body) => {
                    self.compare(&body);
                    bodies.insert(body.descriptor().node, body);
                }
                Record::Fresh(fresh) => self.freshened(env, fresh, &bodies, &mut missing),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            self.fetch(env, link, &missing, Part::Both);
        }
    }

    fn freshened(&mut self, env: &mut Env<'_>, fresh: Arc<Fresh>, came: &BTreeMap<NodeId, Arc<Body>>, missing: &mut Vec<u64>) {
        let node = fresh.freshness().node;
        self.fetching.remove(&record::hint_id(&node));
        let known = self.view.entry(&node).map(|e| e.relay.body());
        let both = came.get(&node).into_iter().chain(known);
        let Some(relay) = both.cloned().find_map(|body| Verified::new(body, Arc::clone(&fresh))) else {
            // It belongs to a descriptor that did not come with it, or to none.
            return self.odd(Odd::Misfit);
        };
        let outcome = self.view.insert(Arc::clone(&relay), env.wall);
        match outcome {
            Inserted::Faces => return self.tell_faces(&node),
            Inserted::New | Inserted::Newer | Inserted::Fresher => {}
            Inserted::Known | Inserted::Time | Inserted::Address | Inserted::Full | Inserted::Struck => return,
        }
        self.view_changed = true;
        if outcome == Inserted::New {
            self.sweep.grew(env.now, self.view.counts().relays);
        } else {
            self.stirs(env.now, &node);
        }
        let before = self.answered.take(&node);
        let now = self.evidence.remove(&node).map(|addr| (addr, env.now));
        if let Some((addr, at)) = now.or(before) {
            self.view.prove(&node, &addr, at);
        }
        // Whoever waits for its witnesses needs them known; and in a network that only begins, they are how its first relays meet.
        if self.is_relay() && (self.view.get(&node).is_none() || !self.sweep.ready()) {
            let strangers = relay.receipts().iter().map(|r| r.witness);
            missing.extend(strangers.filter(|w| self.view.entry(w).is_none()).map(|w| record::hint_id(&w)));
        }
    }

    // --- different faces (T29)

    /// Whether a descriptor and the one that is known are a proof against their relay.
    pub(super) fn compare(&mut self, body: &Arc<Body>) {
        let known = self.view.entry(&body.descriptor().node).map(|e| Arc::clone(e.relay.body()));
        if let Some(faces) = known.and_then(|known| Faces::new(known, Arc::clone(body), self.view.is_local())) {
            self.strike_out(faces);
        }
    }

    /// Somebody says that a relay shows different faces. Worth the look only if it counts here: else anybody could keep us busy with
    /// proofs against relays of his own.
    pub(super) fn accused(&mut self, one: Blob, other: Blob) {
        let minds = wire_record::peek(&one.0).is_some_and(|node| self.view.minds(&node));
        if minds && self.jobs.len() < JOBS_MAX / 2 {
            self.job(Work::Faces, OverlayJob::Faces(one.0, other.0, self.view.is_local()));
        }
    }

    fn strike_out(&mut self, faces: Faces) {
        let node = faces.node();
        if self.view.strike_out(faces) == Inserted::Faces {
            self.tell_faces(&node);
        }
    }

    /// A relay was struck out just now: the proof goes to everyone we have a link to.
    fn tell_faces(&mut self, node: &NodeId) {
        self.view_changed = true;
        if Some(*node) == self.me() {
            return self.out.push_back(Output::Event(Event::StruckOut));
        }
        self.odd(Odd::Faces);
        let links: Vec<LinkId> = self.by_node.values().copied().collect();
        for link in links {
            self.prove_faces(link, node);
        }
    }

    /// Tells one link what proves that a relay shows different faces.
    pub(super) fn prove_faces(&mut self, link: LinkId, node: &NodeId) {
        if let Some(faces) = self.view.faces_of(node).cloned() {
            self.send(link, &Message::Faces { one: Blob(faces.one.encode()), other: Blob(faces.other.encode()) });
        }
    }

    pub(super) fn odd(&mut self, odd: Odd) {
        self.out.push_back(Output::Event(Event::Odd(odd)));
    }
}
