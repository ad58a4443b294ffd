//! The threads that do what would hold a core up: public-key work, coding, shares on disk. One pool serves all nodes of a process.
//!
//! Jobs that wait for the disk have threads of their own: many, so that the store can make many shares durable with one sync, and apart, so
//! that no circuit waits behind a sync.
//!
//! Most jobs are short, some tens of microseconds. Handing one over costs some 10 us of CPU, as much as with the runtime's own blocking pool
//! (`benches/transport.rs`), but that one starts hundreds of threads in a burst, and here they are as many as is right.
//! Queue: at most [`JOBS_MAX`] jobs; one more is lost at once, and a job that panics is lost and logged as a bug. A lost job comes back as [`JobResult::Lost`], which its core treats as "did not verify".

use crate::base::JobId;
use crate::node::env::os_rng;
use crate::node::inbox::{Arrival, Inbox};
use crate::proto::Input;
use crate::proto::job::{Job, JobResult, Shares};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Most jobs that wait, over all nodes of the process: some seconds of work for one core.
pub const JOBS_MAX: usize = 16_384;

/// Threads that wait for the disk: as many puts share a sync.
const DISK_THREADS: usize = 32;

/// One job on its way.
struct Task {
    job: JobId,
    work: Job,
    shares: Option<Arc<dyn Shares>>,
    answer: Inbox,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    idle: usize,
    closed: bool,
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
}

impl Drop for Owner {
    fn drop(&mut self) {
        for inner in [&self.work, &self.disk] {
            inner.lock().closed = true;
            inner.work.notify_all();
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
    /// The system gives no thread at all.
    pub fn new(threads: Option<NonZeroUsize>) -> std::io::Result<Self> {
        let count = threads.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let owner = Owner { work: Arc::default(), disk: Arc::default() };
        for (name, inner, count) in [("job", &owner.work, count), ("disk", &owner.disk, DISK_THREADS)] {
            for i in 0..count {
                let inner = Arc::clone(inner);
                thread::Builder::new().name(format!("{name}-{i}")).spawn(move || serve(&inner))?;
            }
        }
        Ok(Self(Arc::new(owner)))
    }

    /// Has a job done; the result goes to `answer`.
    pub fn run(&self, job: JobId, work: Job, shares: Option<Arc<dyn Shares>>, answer: &Inbox) {
        let inner = if shares.is_some() && work.touches_disk() { &self.0.disk } else { &self.0.work };
        let mut queue = inner.lock();
        if queue.tasks.len() >= JOBS_MAX {
            drop(queue);
            tracing::warn!("too much work at once: a job was dropped");
            answer.push(Arrival::Input(Input::Done { job, result: JobResult::Lost }));
            return;
        }
        queue.tasks.push_back(Task { job, work, shares, answer: answer.clone() });
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
        let Some(task) = queue.tasks.pop_front() else {
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
