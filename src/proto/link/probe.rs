//! Whether the other end of a link is still there. Nobody is told when a line gets another address, or that the other end gave a link
//! up while this machine slept: such links look open until their padding is missed, after a minute and a half.
//!
//! So the other end is asked when a wish meets silence, and all are when the machine wakes: a padding cell that wants one back. Who
//! says nothing for a few seconds is gone. Any byte is a sign of life, however slow the line; and where our own cells may still wait
//! in front of the question, silence counts only once the other end's own padding is overdue.

use crate::base::LinkId;
use crate::base::Time;
use crate::proto::link::DEAF_AFTER;
use crate::proto::link::Link;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::Stage;
use crate::proto::out::Ctx;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use std::time::Duration;

/// First byte of a padding cell that wants one back.
const ASKS: u8 = 1;
/// A wish that waits asks after so much silence: a few bad round trips.
const SILENT: Duration = Duration::from_millis(2_500);
/// How long the other end has for its answer: a line of 5 kB/s brings both cells in one second.
const PATIENCE: Duration = Duration::from_secs(4);
/// Answers to such questions are at least so far apart: a flood of them costs its sender more than us.
const ANSWER_EVERY: Duration = Duration::from_millis(500);
/// Cells that left lately beyond as many as came, with which a slow line may still be busy for part of that time.
const BUSY: u64 = 4;
/// What is lately: since the mark before the last, and marks are at least this far apart.
const MARK_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Time,
    out: u64,
    came: u64,
}

/// What a link knows of its other end's life.
#[derive(Debug)]
pub(super) struct Probe {
    /// The other end was asked, and nothing came since.
    asked: bool,
    failed: bool,
    answered: Option<Time>,
    /// Cells that came, ever.
    came: u64,
    /// Older and newer.
    marks: [Mark; 2],
}

impl Probe {
    pub(super) const fn new(now: Time) -> Self {
        let mark = Mark { at: now, out: 0, came: 0 };
        Self { asked: false, failed: false, answered: None, came: 0, marks: [mark; 2] }
    }

    /// Whether the other end gave no answer.
    pub(super) const fn failed(&self) -> bool {
        self.failed
    }
}

impl Link {
    /// Notes how much moved so far.
    pub(super) fn mark(&mut self, now: Time) {
        let [_, newer] = self.probe.marks;
        if now.since(newer.at) >= MARK_EVERY {
            self.probe.marks = [newer, Mark { at: now, out: self.out(), came: self.probe.came }];
        }
    }

    /// Cells that left or came lately.
    pub(super) fn moved_lately(&self) -> u64 {
        let [older, _] = self.probe.marks;
        (self.out() - older.out) + (self.probe.came - older.came)
    }

    /// Whether our own cells may still be on their way out: more left lately than came, as when a document is published.
    fn is_busy(&self) -> bool {
        let [older, _] = self.probe.marks;
        let (out, came) = (self.out() - older.out, self.probe.came - older.came);
        self.in_flight > 0 || out > came + BUSY
    }
}

impl Links {
    /// Something came.
    pub(super) fn heard(&mut self, now: Time, id: LinkId, cells: usize) {
        if let Some(link) = self.links.get_mut(&id) {
            link.received = now;
            link.probe.came += cells as u64;
            if core::mem::take(&mut link.probe.asked) {
                self.timers.stop(&LinkTimer::Probe(id));
            }
        }
    }

    /// Somebody waits for what comes on this link: if it is silent, its other end is asked. `begins`: it is asked in any case,
    /// before the wish's own cells, behind which a slow line brings the question late.
    pub(in crate::proto) fn probe_if_silent(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, begins: bool) {
        if begins || self.links.get(&id).is_some_and(|l| ctx.env.now.since(l.received) >= SILENT) {
            self.probe(ctx, id, false);
        }
    }

    /// Asks all whom we dialled. After this machine slept (`woke`) what waited to leave before has left, or is lost.
    pub(in crate::proto) fn probe_dialled(&mut self, ctx: &mut Ctx<'_, '_>, woke: bool) {
        let dialled: Vec<LinkId> = self.links.iter().filter(|(_, l)| l.dialed).map(|(id, _)| *id).collect();
        for id in dialled {
            self.probe(ctx, id, woke);
        }
    }

    fn probe(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, woke: bool) {
        let now = ctx.env.now;
        let Some(link) = self.links.get(&id).filter(|l| matches!(l.stage, Stage::Open) && !l.probe.asked) else { return };
        let (busy, overdue) = (!woke && link.is_busy(), link.received + self.padding_of(link).1 + DEAF_AFTER);
        let until = now + PATIENCE;
        self.timers.set(LinkTimer::Probe(id), if busy { until.max(overdue) } else { until });
        if let Some(link) = self.links.get_mut(&id) {
            link.probe.asked = true;
        }
        // Behind much else it would come too late to tell anything.
        if !busy {
            let mut body = [0; BODY];
            body[0] = ASKS;
            self.push_control(ctx, id, Command::Padding, &body);
        }
    }

    /// Nothing came.
    pub(super) fn unanswered(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id).filter(|l| l.probe.asked) {
            link.probe.failed = true;
            self.close(ctx, id);
        }
    }

    /// A padding cell: one that wants an answer gets it, if that was not just so.
    pub(super) fn padded(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, body: &[u8; BODY]) {
        let now = ctx.env.now;
        let Some(link) = self.links.get_mut(&id).filter(|_| body.first() == Some(&ASKS)) else { return };
        if link.probe.answered.is_none_or(|at| now.since(at) >= ANSWER_EVERY) {
            link.probe.answered = Some(now);
            self.push_control(ctx, id, Command::Padding, &[0; BODY]);
        }
    }
}
