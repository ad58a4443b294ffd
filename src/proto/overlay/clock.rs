//! The own clock against those of relays (D20): the median over address groups, so that a few liars move nothing.

use crate::base::Wall;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::overlay::io::ClockLevel;
use std::collections::BTreeMap;

/// Groups that a sample is kept of.
const GROUPS_MAX: usize = 64;

/// Offsets seen, the newest of each group.
#[derive(Debug, Default)]
pub struct Clock {
    offsets: BTreeMap<Group, i64>,
    level: Option<ClockLevel>,
}

impl Clock {
    /// Notes a relay's clock. Gives the offset in seconds when its level changes and samples come from groups enough: five, or all
    /// there are.
    pub fn sample(&mut self, group: Group, theirs: Wall, ours: Wall, groups_known: usize) -> Option<(i64, ClockLevel)> {
        if self.offsets.len() >= GROUPS_MAX && !self.offsets.contains_key(&group) {
            return None;
        }
        let signed = |w: Wall| i64::try_from(w.0).unwrap_or(i64::MAX);
        self.offsets.insert(group, signed(theirs).saturating_sub(signed(ours)));
        let (offset, level) = self.judge(groups_known)?;
        if self.level == Some(level) || (self.level.is_none() && level == ClockLevel::Good) {
            return None;
        }
        self.level = Some(level);
        Some((offset, level))
    }

    /// The offset and what it means; `None` while too few groups were heard.
    pub fn judge(&self, groups_known: usize) -> Option<(i64, ClockLevel)> {
        let enough = limits::COVERAGE_GROUPS.min(groups_known.saturating_sub(1)).max(1);
        if self.offsets.len() < enough {
            return None;
        }
        let mut sorted: Vec<i64> = self.offsets.values().copied().collect();
        sorted.sort_unstable();
        let offset = *sorted.get(sorted.len() / 2)?;
        let level = match offset.unsigned_abs() {
            s if s > limits::SKEW_MAX_SECS => ClockLevel::Fail,
            s if s > limits::SKEW_WARN_SECS => ClockLevel::Warn,
            _ => ClockLevel::Good,
        };
        Some((offset, level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides_and_liars_do_not() {
        let mut clock = Clock::default();
        let ours = Wall(1_000_000);
        let group = |i| Group([4, i, 0, 0, 0]);
        for i in 0..4 {
            assert_eq!(clock.sample(group(i), ours.plus(4 * 3600), ours, 50), None, "too few groups");
        }
        assert_eq!(clock.sample(group(4), ours.plus(4 * 3600), ours, 50), Some((4 * 3600, ClockLevel::Fail)));
        for i in 10..20 {
            clock.sample(group(i), ours, ours, 50);
        }
        assert_eq!(clock.judge(50), Some((0, ClockLevel::Good)));
        for i in 0..12 {
            clock.sample(group(100 + i), Wall(ours.0 - 700), ours, 50);
        }
        assert_eq!(clock.judge(50).map(|j| j.1), Some(ClockLevel::Good), "12 of 27 do not move the median");
    }
}
