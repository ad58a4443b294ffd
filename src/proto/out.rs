//! What the machines of one core share while they handle an input: the way out, and the jobs that are under way.

use crate::base::CircuitId;
use crate::base::Env;
use crate::base::JobId;
use crate::base::LinkId;
use crate::proto::Output;
use crate::proto::job::Job;
use crate::proto::slab::Key;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Who waits for a job. Keys of machines that are gone by then find nothing, and the result is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobFor {
    /// Our own proof for a link.
    LinkProof(LinkId),
    /// The check of the other end's proof.
    LinkCheck(LinkId),
    /// The relay's side of a circuit handshake.
    CircuitServer(LinkId, CircuitId),
    /// The client's first messages for all hops of a circuit.
    CircuitStart(Key),
    /// The client's check of one hop's reply.
    CircuitReply(Key),
    /// The host's side of a session's opening.
    HostOpen(Key),
    /// A relay's new keys.
    Keys,
    /// A request served from disk.
    Serve(Key, u16),
    /// The client's opening of a session, on a stream of a circuit.
    SessionOpen(Key, crate::base::StreamId),
    /// A job of the overlay machine, under its own number.
    Overlay(JobId),
    /// A job of a publication, get or check, under its own number.
    Op(crate::base::OpId, u64),
}

/// The way out of a core.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// What `poll_output` gives.
    pub(super) queue: VecDeque<Output>,
    jobs: BTreeMap<JobId, JobFor>,
    next_job: u64,
}

impl Out {
    /// Hands out a job.
    pub(super) fn job(&mut self, whom: JobFor, work: Job) {
        self.next_job += 1;
        let job = JobId(self.next_job);
        self.jobs.insert(job, whom);
        self.queue.push_back(Output::Job { job, work });
    }

    /// Who waits for this job; each answer counts once.
    pub(super) fn take_job(&mut self, job: JobId) -> Option<JobFor> {
        self.jobs.remove(&job)
    }

    /// Adds an output.
    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }
}

/// The world and the way out, as machines inside a core get them.
pub(super) struct Ctx<'a, 'e> {
    pub(super) env: &'a mut Env<'e>,
    pub(super) out: &'a mut Out,
}
