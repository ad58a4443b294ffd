//! Who answered a relay at its dials, where and when, kept over restarts. All that a relay believes begins there (`view.rs`). Had a
//! restart taken it, the relay would doubt for hours whoever is away just then, others not, and its list would differ from theirs by
//! more than the coverage gate allows: relays restart daily, and whoever starts between two such directories would wait (D8).
//!
//! ```text
//! answered   kind u8 = 37 | version u8 = 1 | count u32 (0..20,000), each node 32, address, hour u32 | extensions
//! ```
//!
//! An answer counts for no longer than it would have without the restart, so nobody gains by it whom we believed before (T31). No more
//! than a help: what cannot be read is found out anew.

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::view::evidence::PROOF_LIFE;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record::read_addr;
use crate::wire::record::write_addr;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;

/// Name of this saved state.
pub const SAVED: &str = "answered";
const KIND: u8 = 37;
const VERSION: u8 = 1;
/// Most relays in it: a full view.
const MAX: usize = limits::VIEW_MAX;
/// Between two times that it is saved: of 60 bytes for each relay, and nobody is asked more often than daily.
const SAVE_EVERY: Duration = Duration::from_secs(3600);
/// The same in a local network.
const SAVE_EVERY_LOCAL: Duration = Duration::from_secs(10);

/// A relay, where it answered, and in which hour.
type Answer = (NodeId, SocketAddr, u32);

/// What an earlier run found out, until the descriptors come that it is about.
#[derive(Debug)]
pub(super) struct Answered {
    before: BTreeMap<NodeId, (SocketAddr, Time)>,
    save_at: Time,
}

impl Answered {
    /// What was kept, if it can be read.
    pub(super) fn new(env: &Env<'_>, kept: Option<&[u8]>) -> Self {
        let list = kept.and_then(|bytes| decode(bytes).ok()).unwrap_or_default();
        let here = list.into_iter().filter_map(|(node, addr, hour)| Some((node, (addr, time_of(env, hour)?))));
        let mut this = Self { before: here.collect(), save_at: env.now };
        this.lapse(env.now);
        this
    }

    /// Where and when this relay answered an earlier run: asked once.
    pub(super) fn take(&mut self, node: &NodeId) -> Option<(SocketAddr, Time)> {
        self.before.remove(node)
    }

    /// Forgets what had its time.
    pub(super) fn lapse(&mut self, now: Time) {
        self.before.retain(|_, (_, at)| *at + PROOF_LIFE > now);
    }

    pub(super) fn check(&self) {
        assert!(self.before.len() <= MAX);
    }
}

/// The beginning of that hour on our own clock, which goes back far enough. Nothing of an hour that is still to come: the clock was
/// wrong then, or is now.
fn time_of(env: &Env<'_>, hour: u32) -> Option<Time> {
    let age = env.wall.0.checked_sub(u64::from(hour) * 3600)?;
    Some(Time(env.now.0.saturating_sub(age.saturating_mul(1_000_000))))
}

/// The hour in which that was: of times no more is kept.
fn hour_of(env: &Env<'_>, at: Time) -> u32 {
    Wall(env.wall.0.saturating_sub(env.now.since(at).as_secs())).hour()
}

fn encode(list: &[Answer]) -> Vec<u8> {
    let mut w = Writer::with_capacity(64 * list.len());
    w.u8(KIND).u8(VERSION).u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
    for (node, addr, hour) in list {
        w.raw(&node.0);
        write_addr(&mut w, addr);
        w.u32(*hour);
    }
    Extensions::default().write(&mut w);
    w.into_bytes()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Answer>, DecodeError> {
    let mut r = Reader::new(bytes);
    r.head(KIND, VERSION)?;
    let count = usize::try_from(r.u32()?).ok().filter(|n| *n <= MAX).ok_or(DecodeError::TooLarge)?;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push((NodeId(r.array()?), read_addr(&mut r)?, r.u32()?));
    }
    Extensions::read(&mut r, &[])?;
    r.finish()?;
    Ok(list)
}

impl Overlay {
    /// Keeps for the next start who answered us. Linear, once an hour.
    pub(super) fn save_answered(&mut self, env: &Env<'_>) {
        if env.now < self.answered.save_at {
            return;
        }
        self.answered.save_at = env.now + self.local_or(SAVE_EVERY_LOCAL, SAVE_EVERY);
        let proven = self.view.entries().filter(|e| e.proven());
        let proven = proven.filter_map(|e| Some((e.relay.node(), e.relay.addr(), e.answered()?)));
        let before = self.answered.before.iter().map(|(node, (addr, at))| (*node, *addr, *at));
        let list: Vec<Answer> = proven.chain(before).map(|(node, addr, at)| (node, addr, hour_of(env, at))).take(MAX).collect();
        if !list.is_empty() {
            self.out.push_back(Output::Save { name: SAVED, bytes: encode(&list) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn answer(n: u8, hour: u32) -> Answer {
        (NodeId([n; 32]), SocketAddr::from(([9, 8, 7, n], 443)), hour)
    }

    #[test]
    fn they_come_back_and_damage_is_seen() {
        let list = vec![answer(1, 7), answer(2, 9)];
        let bytes = encode(&list);
        assert_eq!(decode(&bytes), Ok(list));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err());
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing));
        let many = [&[KIND, VERSION][..], &(MAX as u32 + 1).to_be_bytes()].concat();
        assert_eq!(decode(&many), Err(DecodeError::TooLarge), "nothing is made room for by a damaged number");
    }

    /// Neither an old answer, nor one from a clock that was wrong, nor one from before our own clock begins counts.
    #[test]
    fn an_answer_counts_as_long_as_it_would_have() {
        let mut rng = StdRng::seed_from_u64(1);
        let hours = |n: u64| Time(n * 3_600_000_000);
        let env = Env { now: hours(40), wall: Wall(1_000 * 3600), rng: &mut rng };
        let list = [answer(1, 999), answer(2, 971), answer(3, 970), answer(4, 1001), answer(5, 1000)];
        let mut answered = Answered::new(&env, Some(&encode(&list)));
        let mut left = |n: u8| answered.take(&NodeId([n; 32]));
        assert_eq!(left(1), Some((answer(1, 0).1, hours(39))));
        assert_eq!(left(2).map(|(_, at)| at), Some(hours(11)));
        assert_eq!((left(3), left(4)), (None, None));
        assert_eq!(left(5).map(|(_, at)| at), Some(hours(40)));
        assert_eq!(hour_of(&env, hours(11)), 971);
    }
}
