//! Nodes run side by side, by threads that stay as long as the world runs and take nodes of each stride until none is left. Who
//! runs which changes nothing: within a stride no node hears of another.

use super::node::{Ground, Node, Post};
use onionskin::base::Time;
use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

/// Most nodes taken at once.
const TAKEN_MAX: usize = 16;
/// Looks at what one waits for before one sleeps, some ten microseconds: strides follow each other closely.
const LOOKS: u32 = 500;

/// When nodes have something to do.
#[derive(Default)]
pub struct Agenda {
    due: BTreeSet<(Time, usize)>,
    /// The same by node.
    of: Vec<Option<Time>>,
}

impl Agenda {
    /// Whoever is first, unless that is after `end`.
    pub fn first(&self, end: Time) -> Option<(Time, usize)> {
        self.due.first().copied().filter(|(at, _)| *at <= end)
    }

    /// All that have something to do before `until`.
    pub fn busy(&self, until: Time) -> Vec<usize> {
        self.due.range(..(until, 0)).map(|(_, node)| *node).collect()
    }

    /// A node is due then.
    pub fn note(&mut self, node: usize, due: Option<Time>) {
        if self.of.len() <= node {
            self.of.resize(node + 1, None);
        }
        let before = std::mem::replace(&mut self.of[node], due);
        if before != due {
            before.map(|at| self.due.remove(&(at, node)));
            due.map(|at| self.due.insert((at, node)));
        }
    }
}

/// What is to be run in one stride, and what came of it.
#[derive(Default)]
struct Turn {
    until: Time,
    busy: Vec<usize>,
    /// How many of them were taken.
    taken: usize,
    /// What helpers' nodes sent.
    post: Post,
    /// Helpers that sleep.
    asleep: usize,
    /// Whoever leads sleeps until the last helper is done.
    waits: bool,
    panic: Option<Box<dyn Any + Send>>,
    over: bool,
}

/// The nodes of a world, while it runs.
pub struct Crew<'a> {
    ground: &'a Ground,
    nodes: Vec<Mutex<&'a mut Node>>,
    threads: usize,
    turn: Mutex<Turn>,
    /// How many turns there were.
    turns: AtomicU64,
    /// Helpers that have taken nodes of this turn.
    at_work: AtomicUsize,
    begun: Condvar,
    done: Condvar,
}

impl<'a> Crew<'a> {
    /// All nodes, and so many threads that will run them.
    pub fn new(nodes: &'a mut [Node], ground: &'a Ground, threads: usize) -> Self {
        Self {
            ground,
            nodes: nodes.iter_mut().map(Mutex::new).collect(),
            threads,
            turn: Mutex::default(),
            turns: AtomicU64::new(0),
            at_work: AtomicUsize::new(0),
            begun: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// Runs some nodes on this thread.
    pub fn alone(&self, until: Time, busy: &[usize]) -> Post {
        let mut post = Post::new();
        self.run(until, busy, &mut post);
        post
    }

    /// Runs some nodes on this thread and on those of helpers.
    pub fn share(&self, until: Time, busy: &[usize]) -> Post {
        let asleep = {
            let mut turn = self.turn.lock().unwrap();
            (turn.until, turn.taken) = (until, 0);
            turn.busy.clear();
            turn.busy.extend_from_slice(busy);
            turn.asleep
        };
        self.turns.fetch_add(1, Ordering::Release);
        if asleep > 0 {
            self.begun.notify_all();
        }
        let mut post = Post::new();
        self.work(&mut post, || {});
        look_for(|| self.at_work.load(Ordering::Acquire) == 0);
        let mut turn = self.turn.lock().unwrap();
        while self.at_work.load(Ordering::Acquire) > 0 && turn.panic.is_none() {
            turn.waits = true;
            turn = self.done.wait(turn).unwrap();
        }
        if let Some(panic) = turn.panic.take() {
            drop(turn);
            resume_unwind(panic);
        }
        post.append(&mut turn.post);
        post
    }

    /// Helps with each turn until the last.
    pub fn help(&self) {
        let mut seen = 0;
        loop {
            look_for(|| self.turns.load(Ordering::Acquire) != seen);
            let mut turn = self.turn.lock().unwrap();
            while self.turns.load(Ordering::Acquire) == seen && !turn.over {
                turn.asleep += 1;
                turn = self.begun.wait(turn).unwrap();
                turn.asleep -= 1;
            }
            if turn.over {
                return;
            }
            drop(turn);
            seen = self.turns.load(Ordering::Acquire);
            let (mut post, mut began) = (Post::new(), false);
            let worked = catch_unwind(AssertUnwindSafe(|| {
                self.work(&mut post, || {
                    if !std::mem::replace(&mut began, true) {
                        self.at_work.fetch_add(1, Ordering::AcqRel);
                    }
                });
            }));
            let mut turn = self.turn.lock().unwrap();
            turn.post.append(&mut post);
            turn.panic = turn.panic.take().or(worked.err());
            if began {
                self.at_work.fetch_sub(1, Ordering::AcqRel);
            }
            if std::mem::take(&mut turn.waits) {
                self.done.notify_one();
            }
        }
    }

    /// Takes nodes of the turn and runs them, until none is left. `taking` is called whenever some are taken.
    fn work(&self, post: &mut Post, mut taking: impl FnMut()) {
        let mut mine = Vec::with_capacity(TAKEN_MAX);
        loop {
            let until = {
                let mut turn = self.turn.lock().unwrap();
                let left = turn.busy.len() - turn.taken;
                if left == 0 {
                    return;
                }
                // Fewer each time, so that all are done at about the same time.
                let to = turn.taken + (left / (2 * self.threads)).clamp(1, TAKEN_MAX);
                mine.clear();
                mine.extend_from_slice(&turn.busy[turn.taken..to]);
                turn.taken = to;
                taking();
                turn.until
            };
            self.run(until, &mine, post);
        }
    }

    fn run(&self, until: Time, nodes: &[usize], post: &mut Post) {
        for node in nodes {
            self.nodes[*node].lock().unwrap().run(until, self.ground, post);
        }
    }

    /// Hands out what was sent, and notes when those who were `busy` and those who got something are due next.
    pub fn deliver(&self, busy: &[usize], post: Post, agenda: &mut Agenda) {
        let mut changed = busy.to_vec();
        for (to, item) in post {
            changed.push(to);
            self.nodes[to].lock().unwrap().post(item);
        }
        changed.sort_unstable();
        changed.dedup();
        for node in changed {
            agenda.note(node, self.nodes[node].lock().unwrap().due());
        }
    }

    /// Sends helpers home when it goes.
    pub const fn ending(&'a self) -> Ending<'a> {
        Ending(self)
    }
}

/// The end of a crew's work, also when a node panics.
pub struct Ending<'a>(&'a Crew<'a>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.turn.lock().unwrap().over = true;
        // Whoever looks without sleeping sees that too.
        self.0.turns.fetch_add(1, Ordering::Release);
        self.0.begun.notify_all();
    }
}

fn look_for(it: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if it() {
            return;
        }
        std::hint::spin_loop();
    }
}
