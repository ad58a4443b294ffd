//! When a request is late, so that another host is asked as well: told by what else comes, not by a clock alone, for the line that
//! all answers share may be a slow one.
//!
//! A request is late when it was *overtaken*, by half as many answers again as were ever awaited at once; or when all is *still*:
//! nothing came, and nothing left, for twice as long as answers take.

use crate::base::NodeId;
use crate::base::Time;
use core::time::Duration;
use std::collections::BTreeSet;

/// Fewest answers that overtake: with less, order is chance.
const OVERTAKEN_MIN: u64 = 48;
/// Stillness shorter than this is chance.
const STILL_MIN: Duration = Duration::from_millis(250);
/// Stillness longer than this is no line that works.
const STILL_MAX: Duration = Duration::from_secs(10);
/// Stillness while no answer was heard yet: three hops and a disk take less than a second in a network that works.
const STILL_FIRST: Duration = Duration::from_secs(2);

/// How things stood when a request was asked.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    at: Time,
    /// Answers heard until then.
    answers: u64,
    /// Its answer is one cell, which no slow line of ours holds up.
    short: bool,
}

/// The pace of one operation's answers. It serves that operation alone.
#[derive(Debug, Default)]
pub struct Pace {
    answers: u64,
    /// Requests awaited, and the most there ever were: in random order, so that any may come last.
    open: u64,
    most: u64,
    /// When last something came or left, or was asked while nothing was awaited.
    moved: Time,
    /// When last something left.
    left: Time,
    /// Until when there was no circuit, last.
    lacked: Time,
    /// Moving average of what an answer takes, the own queue and line included.
    typical: Option<Duration>,
    /// Hosts with a late request, since they last answered.
    slow: BTreeSet<NodeId>,
}

impl Pace {
    /// A request is asked. `short`: its answer will be a single cell.
    pub fn asked(&mut self, now: Time, short: bool) -> Mark {
        let mark = Mark { at: now, answers: self.answers, short };
        if self.open == 0 {
            self.moved = now;
        }
        self.open += 1;
        self.most = self.most.max(self.open);
        mark
    }

    /// Its answer came.
    pub fn answered(&mut self, mark: Mark, now: Time) {
        let took = now.since(mark.at.max(self.lacked));
        self.typical = Some(self.typical.map_or(took, |typical| (typical * 31 + took) / 32));
        self.answers += 1;
        self.moved = now;
        self.ended();
    }

    /// It failed, or nobody waits for it any more. That moves nothing: otherwise each that is given up would have all others, which are
    /// just as late, begin anew.
    pub const fn ended(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// The own line carries what was sent.
    pub const fn moves(&mut self, now: Time) {
        (self.moved, self.left) = (now, now);
    }

    /// There is no circuit: what is asked now waits for one, and for no host.
    pub const fn lacks(&mut self, now: Time) {
        (self.moved, self.lacked) = (now, now);
    }

    /// Whether anything was ever heard.
    pub const fn knows(&self) -> bool {
        self.typical.is_some()
    }

    /// Whether a request is late.
    pub fn is_late(&self, mark: Mark, now: Time) -> bool {
        let overtaken = self.answers - mark.answers >= (self.most + self.most / 2).max(OVERTAKEN_MIN);
        let still = self.typical.map_or(STILL_FIRST, |typical| (typical * 2).clamp(STILL_MIN, STILL_MAX));
        // However slowly others answer: hosts that answer one after the other must not make a wish last.
        let held = mark.short && now.since(self.left.max(mark.at)) >= STILL_MAX;
        overtaken || held || now.since(self.moved.max(mark.at)) >= still
    }

    /// A host has a late request.
    pub fn fell_behind(&mut self, host: NodeId) {
        self.slow.insert(host);
    }

    /// It answered.
    pub fn caught_up(&mut self, host: &NodeId) {
        self.slow.remove(host);
    }

    /// Hosts with late requests.
    pub const fn slow(&self) -> &BTreeSet<NodeId> {
        &self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(millis * 1000)
    }

    #[test]
    fn a_slow_line_makes_nobody_late() {
        let mut pace = Pace::default();
        let mut marks: Vec<Mark> = (0..200).map(|_| pace.asked(at(0), false)).collect();
        // One answer in a second, in order, and a new request for each.
        for second in 1..2000 {
            let now = at(second * 1000);
            let oldest = marks.remove(0);
            assert!(!marks.iter().any(|mark| pace.is_late(*mark, now)), "after {second} s");
            pace.answered(oldest, now);
            marks.push(pace.asked(now, false));
        }
    }

    #[test]
    fn who_is_overtaken_is_late_however_fast_the_others_are() {
        let mut pace = Pace::default();
        let forgotten = pace.asked(at(0), false);
        for i in 0..OVERTAKEN_MIN {
            assert!(!pace.is_late(forgotten, at(i)));
            let mark = pace.asked(at(i), false);
            pace.answered(mark, at(i + 1));
        }
        assert!(pace.is_late(forgotten, at(OVERTAKEN_MIN)));
    }

    #[test]
    fn the_wait_for_a_circuit_is_no_time_that_answers_take() {
        let mut pace = Pace::default();
        let (first, second) = (pace.asked(at(0), false), pace.asked(at(0), false));
        pace.lacks(at(7_000));
        assert!(!pace.is_late(first, at(7_500)));
        pace.answered(first, at(7_500));
        assert!(!pace.is_late(second, at(8_499)) && pace.is_late(second, at(8_500)));
    }

    #[test]
    fn stillness_makes_late_after_twice_what_answers_take() {
        let mut pace = Pace::default();
        let first = pace.asked(at(0), false);
        assert!(!pace.is_late(first, at(1999)) && pace.is_late(first, at(2000)), "nothing is known yet");
        pace.answered(first, at(400));
        let second = pace.asked(at(500), false);
        assert!(!pace.is_late(second, at(1299)) && pace.is_late(second, at(1300)));
        let third = pace.asked(at(1300), false);
        assert!(pace.is_late(second, at(1301)) && !pace.is_late(third, at(1301)), "who was just asked is not late");
        pace.ended();
        assert!(pace.is_late(second, at(1303)), "that one ended moves nothing");
        let fourth = pace.asked(at(1303), false);
        pace.answered(fourth, at(1304));
        assert!(!pace.is_late(second, at(1305)), "an answer does");
    }
}
