//! The threads that do what would hold a core up: public-key work, coding, shares on disk. One pool serves all nodes of a process.
//!
//! Jobs that wait for the disk have threads of their own: many, so that the store can make many shares durable with one sync, and
//! apart, so that no circuit waits behind a sync. One thread secures the connections that come in, which takes turns between
//! reading and public-key work: however many come, they keep one processor busy, and no thread that moves cells (T36).
//!
//! Most jobs are short, some tens of microseconds. Handing one over costs some 10 us of CPU, as much as with the runtime's own
//! blocking pool (`benches/transport.rs`), but that one starts hundreds of threads in a burst, and here they are as many as is
//! right.
//!
//! Queues: one for each [`Lane`], which take turns, so that whatever strangers ask for, an own job waits for at most two of others
//! before it on each thread. At most `JOBS_MAX` jobs in each; one more is lost at once, which is logged once a minute, and a job
//! that panics is lost and logged as a bug. A lost job comes back as [`JobResult::Lost`]: what a peer sent counts as not verified,
//! and an operation of this node's user ends with an error.

use crate::base::JobId;
use crate::base::Rarely;
use crate::node::env::Clock;
use crate::node::env::os_rng;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::proto::Input;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::job::Lane;
use crate::proto::job::Shares;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use tokio::runtime;
use tokio::runtime::Runtime;

/// Most jobs of each lane that wait, over all nodes of the process: some seconds of work for one core.
const JOBS_MAX: usize = 16_384;

/// Threads that wait for the disk: as many puts share a sync.
const DISK_THREADS: usize = 32;
/// Name of the thread that secures connections.
const HANDSHAKES: &str = "handshakes";

/// One job on its way.
struct Task {
    job: JobId,
    work: Job,
    shares: Option<Arc<dyn Shares>>,
    answer: Inbox,
}

/// One queue for each lane.
#[derive(Default)]
struct Lanes {
    lanes: [VecDeque<Task>; 3],
    /// Whose turn it is.
    turn: usize,
}

impl Lanes {
    /// Adds a job to its lane; false if that is full, and the job is lost.
    fn push(&mut self, task: Task) -> bool {
        let [own, upkeep, others] = &mut self.lanes;
        let lane = match task.work.lane() {
            Lane::Own => own,
            Lane::Upkeep => upkeep,
            Lane::Others => others,
        };
        if lane.len() >= JOBS_MAX {
            return false;
        }
        lane.push_back(task);
        true
    }

    /// The next job: of the lane whose turn it is, or of the next one that has any.
    fn pop(&mut self) -> Option<Task> {
        let lanes = self.lanes.len();
        let mut order = (0..lanes).map(|i| (self.turn + i) % lanes);
        let next = order.find(|at| self.lanes.get(*at).is_some_and(|lane| !lane.is_empty()))?;
        self.turn = (next + 1) % lanes;
        self.lanes.get_mut(next)?.pop_front()
    }

    fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }
}

#[derive(Default)]
struct Queue {
    tasks: Lanes,
    idle: usize,
    closed: bool,
    dropped: Rarely,
}

#[derive(Default)]
struct Inner {
    queue: Mutex<Queue>,
    work: Condvar,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the threads when the last pool handle goes.
struct Owner {
    work: Arc<Inner>,
    disk: Arc<Inner>,
    clock: Clock,
    /// Secures connections.
    handshakes: runtime::Handle,
    /// What is behind it; taken out when this is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        for inner in [&self.work, &self.disk] {
            inner.lock().closed = true;
            inner.work.notify_all();
        }
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it could block a thread of the runtime that drops this.
            runtime.shutdown_background();
        }
    }
}

/// Worker threads. Cheap to clone; they end with the last clone, after the job in hand.
#[derive(Clone)]
pub struct Pool(Arc<Owner>);

impl core::fmt::Debug for Pool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Pool").field(&self.0.work.lock().tasks.len()).finish()
    }
}

impl Pool {
    /// `threads` workers, or as many as the machine has cores, and the threads for the disk.
    ///
    /// # Errors
    /// The system does not give that many threads.
    pub fn new(threads: Option<NonZeroUsize>) -> std::io::Result<Self> {
        let count = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).thread_name(HANDSHAKES).enable_all().build()?;
        let handshakes = runtime.handle().clone();
        let (clock, runtime) = (Clock::start(), Some(runtime));
        let owner = Owner { work: Arc::default(), disk: Arc::default(), clock, handshakes, runtime };
        for (name, inner, count) in [("job", &owner.work, count), ("disk", &owner.disk, DISK_THREADS)] {
            for i in 0..count {
                let inner = Arc::clone(inner);
                thread::Builder::new().name(format!("{name}-{i}")).spawn(move || serve(&inner))?;
            }
        }
        Ok(Self(Arc::new(owner)))
    }

    /// Where connections that come in are secured.
    pub fn handshakes(&self) -> runtime::Handle {
        self.0.handshakes.clone()
    }

    /// Has a job done; the result goes to `answer`.
    pub fn run(&self, job: JobId, work: Job, shares: Option<Arc<dyn Shares>>, answer: &Inbox) {
        let inner = if shares.is_some() && work.touches_disk() { &self.0.disk } else { &self.0.work };
        let mut queue = inner.lock();
        if !queue.tasks.push(Task { job, work, shares, answer: answer.clone() }) {
            let tell = queue.dropped.again(self.0.clock.now());
            drop(queue);
            if let Some(jobs) = tell {
                tracing::warn!(jobs, "too much work at once: jobs were dropped");
            }
            answer.push(Arrival::Input(Input::Done { job, result: JobResult::Lost }));
            return;
        }
        let wake = queue.idle > 0;
        drop(queue);
        if wake {
            inner.work.notify_one();
        }
    }
}

fn serve(inner: &Inner) {
    let mut queue = inner.lock();
    loop {
        if queue.closed {
            return;
        }
        let Some(task) = queue.tasks.pop() else {
            queue.idle += 1;
            queue = inner.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
            continue;
        };
        drop(queue);
        let Task { job, work, shares, answer } = task;
        // A job works on what it owns, so a panic leaves nothing half done behind it.
        let result = catch_unwind(AssertUnwindSafe(|| work.run(&mut os_rng(), shares.as_deref()))).unwrap_or_else(|_| {
            tracing::error!("a job failed: this is a bug, please report it");
            JobResult::Lost
        });
        answer.push(Arrival::Input(Input::Done { job, result }));
        queue = inner.lock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::NetworkId;
    use crate::base::NodeId;
    use crate::base::Wall;
    use crate::proto::overlay::OverlayJob;
    use crate::wire::hello::Proof;

    const NETWORK: NetworkId = NetworkId([1; 32]);

    fn task(number: u64, lane: Lane) -> Task {
        let work = match lane {
            Lane::Own => Job::CircuitStart { network: NETWORK, hops: Vec::new() },
            Lane::Upkeep => Job::Overlay { work: OverlayJob::Verify(Vec::new()), network: NETWORK, identity: None },
            Lane::Others => {
                let proof = Proof { clock: Wall(0), node: NodeId([2; 32]), signature: [0; 64] };
                Job::LinkCheck { network: NETWORK, exporter: [0; 32], dialer: true, proof: Box::new(proof) }
            }
        };
        assert_eq!(work.lane(), lane);
        Task { job: JobId(number), work, shares: None, answer: Inbox::new().0 }
    }

    #[test]
    fn own_jobs_do_not_wait_behind_a_flood_of_others_nor_those_behind_them() {
        let mut lanes = Lanes::default();
        for number in 0..1000 {
            assert!(lanes.push(task(number, Lane::Others)));
        }
        for number in 1000..1100 {
            assert!(lanes.push(task(number, Lane::Own)));
        }
        assert!(lanes.push(task(2000, Lane::Upkeep)));
        let mut popped = Vec::new();
        while let Some(task) = lanes.pop() {
            popped.push(task.job.0);
        }
        let place = |job| popped.iter().position(|j| *j == job).unwrap();
        assert!(place(1000) < 3 && place(2000) < 3);
        assert!(place(1099) <= 201 && place(99) <= 201, "one and one, in turn");
        assert!(place(1050) < place(1051) && place(50) < place(51), "each lane in its order");
        assert_eq!((popped.len(), lanes.len()), (1101, 0));
    }

    #[test]
    fn a_lane_that_is_full_leaves_the_others_open() {
        let mut lanes = Lanes::default();
        for number in 0..JOBS_MAX as u64 {
            assert!(lanes.push(task(number, Lane::Others)));
        }
        assert!(!lanes.push(task(1, Lane::Others)));
        assert!(lanes.push(task(2, Lane::Own)) && lanes.push(task(3, Lane::Upkeep)));
    }
}
