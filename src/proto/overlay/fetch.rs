//! Descriptors on their way into the view: asked for, checked beside the machine, taken in.

use crate::base::Env;
use crate::base::JobId;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::proto::overlay::Asked;
use crate::proto::overlay::EVIDENCE_MAX;
use crate::proto::overlay::FETCH_AGAIN;
use crate::proto::overlay::FETCHING_MAX;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::JobOutcome;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Inserted;
use crate::wire::overlay::Blob;
use crate::wire::overlay::FETCH_MAX;
use crate::wire::overlay::Message;
use crate::wire::record as wire_record;
use crate::wire::record::SignedDescriptor;
use core::net::SocketAddr;
use rand::seq::SliceRandom;
use std::sync::Arc;

impl Overlay {
    /// Asks a link for descriptors, less those asked for lately. Of more than fit, chance takes some: else whoever names relays that do
    /// not exist, early in the order, keeps us from ever asking for the others.
    pub(super) fn fetch(&mut self, env: &mut Env<'_>, link: LinkId, ids: &[u64]) {
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
        if self.request(env, link, Asked::Fetch, |id| Message::Fetch { id, ids: wanted }) {
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

    /// Hands records to a job, less those that are known. `directory`: they are of its list. Gives whether there is a job to wait
    /// for, or `None` if there are too many already and they were dropped.
    pub(super) fn verify(&mut self, link: LinkId, directory: Option<NodeId>, records: Vec<Blob>) -> Option<bool> {
        let unknown = |b: &Blob| {
            let newer = |(node, seq): (NodeId, u64)| self.view.entry(&node).is_none_or(|e| e.seq() < seq);
            wire_record::peek(&b.0).is_some_and(newer)
        };
        let (fresh, known): (Vec<Blob>, Vec<Blob>) = records.into_iter().partition(unknown);
        for (node, _) in known.iter().filter_map(|b| wire_record::peek(&b.0)) {
            self.fetching.remove(&record::hint_id(&node));
        }
        if let Some(directory) = directory {
            // It names the relay, at an address: at no other does that count.
            for d in known.iter().filter_map(|b| SignedDescriptor::decode(&b.0).ok()).map(|s| s.descriptor) {
                if let Some(addr) = d.first_addr() {
                    self.listed(directory, &d.node, &addr);
                }
            }
        }
        let fresh: Vec<Vec<u8>> = fresh.into_iter().map(|b| b.0).collect();
        if fresh.is_empty() {
            return Some(false);
        }
        if self.jobs.len() >= JOBS_MAX {
            return None;
        }
        self.job(Work::Verify { link, directory }, OverlayJob::Verify(fresh));
        Some(true)
    }

    pub(super) fn job(&mut self, work: Work, job: OverlayJob) {
        self.next_job += 1;
        let id = JobId(self.next_job);
        self.jobs.insert(id, work);
        self.out.push_back(Output::Job(id, job));
    }

    pub(super) fn done(&mut self, env: &mut Env<'_>, job: JobId, outcome: JobOutcome) {
        match (self.jobs.remove(&job), outcome) {
            (Some(Work::Verify { link, directory }), outcome) => {
                let whole = matches!(outcome, JobOutcome::Verified(_));
                if let JobOutcome::Verified(list) = outcome {
                    self.verified(env, link, directory, list);
                }
                if let Some(directory) = directory {
                    self.page_checked(env, directory, whole);
                }
            }
            (Some(Work::SignOwn), JobOutcome::Signed(own)) => self.signed_own(env, own),
            (Some(Work::SignReceipt { link, id }), JobOutcome::Receipt(receipt)) => {
                let receipt = receipt.map(|r| Blob(r.encode()));
                self.send(env.now, link, &Message::DialBackReply { id, receipt });
            }
            (Some(Work::CheckReceipt), JobOutcome::Receipt(Some(receipt))) => self.receipt_checked(env, *receipt),
            // Without a new signature the own descriptor would expire.
            (Some(Work::SignOwn), _) => self.sign_again(env),
            // Descriptors are asked for again, and so are receipts.
            _ => {}
        }
    }

    fn verified(
        &mut self,
        env: &mut Env<'_>,
        link: LinkId,
        directory: Option<NodeId>,
        list: Vec<Result<Arc<Verified>, record::RecordError>>,
    ) {
        let mut missing = Vec::new();
        for relay in list {
            let Ok(relay) = relay else {
                // Whoever passes on forged records without looking, or makes them, is no use as a source.
                self.out.push_back(Output::Blame { link });
                continue;
            };
            let node = relay.node();
            self.fetching.remove(&relay.hint_id());
            let outcome = self.view.insert(Arc::clone(&relay), env.wall);
            if let Some(directory) = directory {
                self.listed(directory, &node, &relay.addr());
                self.view_changed = true;
            }
            if outcome == Inserted::Newer {
                self.stirs(env.now, &node);
            }
            if !matches!(outcome, Inserted::New | Inserted::Newer) {
                continue;
            }
            self.view_changed = true;
            if outcome == Inserted::New {
                self.sweep.grew(env.now, self.view.counts().relays);
            }
            if let Some(addr) = self.evidence.remove(&node) {
                self.view.prove(&node, &addr, env.now);
            }
            // Whoever waits for its witnesses needs them known; and in a network that only begins, they are how its first relays
            // meet.
            if self.is_relay() && (self.view.get(&node).is_none() || !self.sweep.ready()) {
                let strangers = relay.descriptor().receipts.iter().map(|r| r.witness);
                missing.extend(strangers.filter(|w| self.view.entry(w).is_none()).map(|w| record::hint_id(&w)));
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            self.fetch(env, link, &missing);
        }
    }
}
