//! The own clock against those of relays (D20): the median over address groups, so that a few liars move nothing.
//!
//! A client meets few relays: three ways in at its first start, and its guard alone after that. So few clocks are believed only when
//! they agree, and one alone stops nobody. Every judgement is made again with each clock that is heard, and taken back when others
//! say so (T32).

use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::overlay::io::ClockLevel;
use core::time::Duration;
use std::collections::BTreeMap;

/// Groups that a sample is kept of; the oldest gives its place.
const GROUPS_MAX: usize = 64;
/// Fewer groups than [`limits::COVERAGE_GROUPS`] wait this long for others: a relay in one that is slower to answer may contradict.
const WAIT: Duration = Duration::from_secs(10);
/// What was heard longer ago says nothing of either clock.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Few clocks agree when they are this close, in seconds: what is a warning between them and us is one among them.
const AGREE_SECS: u64 = limits::SKEW_WARN_SECS;
/// How far the wall clock may move against the one of the process, in seconds, before what was heard counts no more: it was set, or
/// the computer slept. More than a clock that is slowly put right, less than a warning.
const JUMP_SECS: u64 = 60;

/// How a relay's clock differed from ours.
#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: i64,
    at: Time,
    /// What our wall clock said when the process began.
    base: i64,
}

/// Offsets heard, the newest of each group.
#[derive(Debug, Default)]
pub struct Clock {
    samples: BTreeMap<Group, Sample>,
    /// What was told last.
    told: ClockLevel,
}

impl Clock {
    /// Notes a relay's clock.
    pub fn sample(&mut self, group: Group, theirs: Wall, ours: Wall, now: Time) {
        if self.samples.len() >= GROUPS_MAX
            && !self.samples.contains_key(&group)
            && let Some(oldest) = self.samples.iter().min_by_key(|(_, s)| s.at).map(|(group, _)| *group)
        {
            self.samples.remove(&oldest);
        }
        let offset = seconds(theirs.0).saturating_sub(seconds(ours.0));
        self.samples.insert(group, Sample { offset, at: now, base: base(ours, now) });
    }

    /// The judgement, if it is another than the one told last. `groups_known`: of the view.
    pub fn news(&mut self, ours: Wall, now: Time, groups_known: usize) -> Option<(i64, ClockLevel)> {
        let base = base(ours, now);
        self.samples.retain(|_, s| s.at + AGE_MAX > now && s.base.abs_diff(base) <= JUMP_SECS);
        let (offset, level) = self.judge(now, groups_known);
        if core::mem::replace(&mut self.told, level) == level {
            return None;
        }
        Some((offset, level))
    }

    /// The offset, once some clocks were heard.
    pub fn offset(&self, now: Time, groups_known: usize) -> Option<i64> {
        (!self.samples.is_empty()).then(|| self.judge(now, groups_known).0)
    }

    /// The offset and what it means. Good is also what nothing is known against.
    fn judge(&self, now: Time, groups_known: usize) -> (i64, ClockLevel) {
        let mut sorted: Vec<i64> = self.samples.values().map(|s| s.offset).collect();
        sorted.sort_unstable();
        let (Some(least), Some(median), Some(most)) = (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) else {
            return (0, ClockLevel::Good);
        };
        let level = match median.unsigned_abs() {
            s if s > limits::SKEW_MAX_SECS => ClockLevel::Fail,
            s if s > limits::SKEW_WARN_SECS => ClockLevel::Warn,
            _ => ClockLevel::Good,
        };
        if sorted.len() >= limits::COVERAGE_GROUPS {
            return (*median, level);
        }
        let waited = self.samples.values().any(|s| s.at + WAIT <= now);
        let level = match sorted.len() {
            _ if !waited || most.abs_diff(*least) > AGREE_SECS => ClockLevel::Good,
            // Whoever is met first, before anything is known of others, is nobody's judge.
            1 if groups_known == 0 => ClockLevel::Good,
            1 => level.min(ClockLevel::Warn),
            _ => level,
        };
        (*median, level)
    }
}

fn seconds(of: u64) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

fn base(ours: Wall, now: Time) -> i64 {
    seconds(ours.0).saturating_sub(seconds(now.since(Time(0)).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Wall = Wall(1_000_000);
    const HOUR: i64 = 3600;

    fn group(i: u8) -> Group {
        Group([4, i, 0, 0, 0])
    }

    /// A clock, and the time that goes on at the same pace in both its clocks.
    #[derive(Default)]
    struct Bench {
        clock: Clock,
        secs: u64,
    }

    impl Bench {
        fn ours(&self) -> Wall {
            OURS.plus(self.secs)
        }

        fn now(&self) -> Time {
            Time(0) + Duration::from_secs(self.secs)
        }

        /// The relay of a group says a time that is so far from ours.
        fn hear(&mut self, i: u8, offset: i64) -> &mut Self {
            self.clock.sample(group(i), Wall(self.ours().0.saturating_add_signed(offset)), self.ours(), self.now());
            self
        }

        fn wait(&mut self, secs: u64) -> &mut Self {
            self.secs += secs;
            self
        }

        fn news(&mut self, groups_known: usize) -> Option<(i64, ClockLevel)> {
            self.clock.news(self.ours(), self.now(), groups_known)
        }

        fn level(&mut self, groups_known: usize) -> ClockLevel {
            self.news(groups_known);
            self.clock.told
        }
    }

    #[test]
    fn the_median_decides_and_liars_do_not() {
        let mut bench = Bench::default();
        for i in 0..4 {
            assert_eq!(bench.hear(i, 4 * HOUR).news(50), None, "too few groups to judge at once");
        }
        assert_eq!(bench.hear(4, 4 * HOUR).news(50), Some((4 * HOUR, ClockLevel::Fail)));
        for i in 10..20 {
            bench.hear(i, 0);
        }
        assert_eq!(bench.news(50), Some((0, ClockLevel::Good)), "and back");
        for i in 100..112 {
            bench.hear(i, -700);
        }
        assert_eq!(bench.news(50), None, "12 of 27 do not move the median");
        // Nor does anybody who fills the table keep later clocks out of it.
        for i in 120..200 {
            bench.hear(i, 5 * HOUR);
        }
        assert_eq!(bench.level(50), ClockLevel::Fail);
        for i in 0..100 {
            bench.wait(1).hear(i, 0);
        }
        assert_eq!(bench.level(50), ClockLevel::Good);
    }

    /// One wrong clock stops no client, be it the first that it meets, its guard's, or one of three ways in.
    #[test]
    fn one_wrong_clock_at_first_contact_stops_nobody() {
        let mut bench = Bench::default();
        assert_eq!(bench.hear(0, 4 * HOUR).news(0), None, "no view yet");
        assert_eq!(bench.wait(600).news(0), None, "nor later, as long as nothing else is known");
        // The three directories, once the view is read.
        (1..4).for_each(|i| assert_eq!(bench.hear(i, 0).news(200), None));
        assert_eq!(bench.wait(600).news(200), None, "three contradict it");
        for order in [[4 * HOUR, 0, 1], [0, 4 * HOUR, 1], [0, 1, -5 * HOUR]] {
            let mut bench = Bench::default();
            for (i, offset) in (0..).zip(order) {
                bench.hear(i, offset);
                assert_eq!(bench.news(0).or(bench.news(3)), None, "{order:?}");
            }
            assert_eq!(bench.wait(60).news(200), None, "{order:?}");
        }
        // A guard alone: told, and no more than told, until another relay is met.
        let mut bench = Bench::default();
        assert_eq!(bench.hear(0, 4 * HOUR).wait(60).news(200), Some((4 * HOUR, ClockLevel::Warn)));
        assert_eq!(bench.hear(1, 0).news(200).map(|n| n.1), Some(ClockLevel::Good));
    }

    /// Two that were met first and lie are believed until others are heard, and not for good.
    #[test]
    fn a_wrong_judgement_is_taken_back() {
        let mut bench = Bench::default();
        assert_eq!(bench.hear(0, 4 * HOUR).hear(1, 4 * HOUR + 60).news(0), None, "a third may answer yet");
        assert_eq!(bench.wait(10).news(0).map(|n| n.1), Some(ClockLevel::Fail));
        assert_eq!(bench.hear(2, 0).news(0).map(|n| n.1), Some(ClockLevel::Good));
        // A relay whose clock was set right says so at its next link, and what nobody repeats ends within a day.
        let mut bench = Bench::default();
        assert_eq!(bench.hear(0, 4 * HOUR).hear(1, 4 * HOUR).wait(10).level(200), ClockLevel::Fail);
        assert_eq!(bench.hear(0, 0).hear(1, 0).level(200), ClockLevel::Good);
        assert_eq!(bench.hear(0, HOUR).hear(1, HOUR).wait(10).level(200), ClockLevel::Warn);
        assert_eq!(bench.wait(24 * 3600).level(200), ClockLevel::Good);
    }

    /// A clock that really is wrong is told by two honest relays, and three.
    #[test]
    fn an_own_clock_that_is_wrong_is_told_by_two_relays() {
        for (offset, level) in [(590, None), (-700, Some(ClockLevel::Warn)), (4 * HOUR, Some(ClockLevel::Fail))] {
            for relays in 2..=5 {
                let mut bench = Bench::default();
                for i in 0..relays {
                    bench.hear(i, offset + i64::from(i));
                }
                assert_eq!(bench.wait(10).news(0).map(|n| n.1), level, "{offset} {relays}");
            }
        }
    }

    /// Who sets the clock right is not held to what it was, and a computer that slept is not told that its clock is wrong.
    #[test]
    fn a_clock_that_was_set_is_judged_anew() {
        let mut bench = Bench::default();
        assert_eq!(bench.hear(0, 4 * HOUR).hear(1, 4 * HOUR).wait(10).level(200), ClockLevel::Fail);
        let set = bench.ours().plus(4 * 3600);
        assert_eq!(bench.clock.news(set, bench.now(), 200).map(|n| n.1), Some(ClockLevel::Good));
        bench.clock.sample(group(0), set, set, bench.now());
        assert_eq!(bench.clock.news(set.plus(60), bench.now() + Duration::from_secs(60), 200), None);
    }
}
