//! How many circuits may be built over links of one address range: whoever floods a relay through others needs a circuit through each,
//! and the first relay of each sees where they come from, which no later one does (T36).

use crate::base::Time;
use crate::base::net::Prefix;
use crate::proto::circuit::pace::Pace;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Circuits at once: what some dozens of clients in one range want at the start of as many commands.
pub(super) const AT_ONCE: u32 = 512;
/// Then one each time so long: a client's command takes eight to 24, and sixteen a second are a quarter of a hundredth of what one core
/// does, so that a range that uses up its part at a thousand relays has one of them busy two or three cores.
pub(super) const EVERY: Duration = Duration::from_micros(62_500);
/// Ranges that are remembered, 2 MiB of them. With more, all begin anew: who has so many is bounded by nothing that counts ranges.
const RANGES_MAX: usize = 32_768;

/// What each range has taken.
#[derive(Debug, Default)]
pub(super) struct Builds {
    taken: BTreeMap<Prefix, Pace>,
    /// When those were last let go that have everything back.
    swept: Time,
}

impl Builds {
    /// Takes one for this address, if its range has one left.
    pub(super) fn take(&mut self, now: Time, remote: &SocketAddr) -> bool {
        let all = EVERY * AT_ONCE;
        if now.since(self.swept) >= all {
            self.swept = now;
            self.taken.retain(|_, pace| !pace.is_whole(now));
        }
        let range = Prefix::weighed(remote);
        if self.taken.len() >= RANGES_MAX && !self.taken.contains_key(&range) {
            self.taken.clear();
        }
        self.taken.entry(range).or_default().take(now, AT_ONCE, EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_so_many_and_others_have_theirs() {
        let mut builds = Builds::default();
        let at = |a: u8, b: u8| SocketAddr::from(([203, 0, a, b], 9));
        let start = Time(7_000_000);
        let took = |builds: &mut Builds, now, a: u8| (0..5_000).filter(|n| builds.take(now, &at(a, (n % 256) as u8))).count();
        assert_eq!(took(&mut builds, start, 1), AT_ONCE as usize);
        assert_eq!(took(&mut builds, start, 2), AT_ONCE as usize);
        assert_eq!(took(&mut builds, start + Duration::from_secs(1), 1), 16);
        // Who comes back over a new link has no more than before, and is forgotten when nothing is owed.
        let later = start + EVERY * AT_ONCE * 2;
        assert_eq!(took(&mut builds, later, 3), AT_ONCE as usize);
        assert_eq!(builds.taken.len(), 1);
        assert_eq!(took(&mut builds, later, 1), AT_ONCE as usize);
        // Of IPv6 a whole allocation is one range.
        let six = |n: u16| SocketAddr::from(([0x2a00, 1, n, 0, 0, 0, 0, 1], 9));
        assert_eq!((0..5_000).filter(|n| builds.take(later, &six(*n))).count(), AT_ONCE as usize);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut builds = Builds::default();
        for n in 0..RANGES_MAX as u32 * 2 + 9 {
            let [_, a, b, c] = n.to_be_bytes();
            assert!(builds.take(Time(1), &SocketAddr::from(([20 + a, b, c, 1], 9))));
            assert!(builds.taken.len() <= RANGES_MAX);
        }
    }
}
