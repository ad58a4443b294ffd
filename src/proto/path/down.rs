//! What a client keeps of guards that were down, for its next start: a command that begins while its guard is down shall not wait for
//! what the one before has found out (T12).
//!
//! Noted is only who was set aside while a later guard of the sample worked: so an own line that is down, or cut, notes nobody. No
//! more than two are, so that whoever blocks one guard after the other does not have commands begin further and further down the
//! sample. The sample and its order stay: who is noted is asked again at once at the next start, beside the one that serves meanwhile,
//! and then as often as any that failed. Of time nothing is kept but the day.

use crate::base::NodeId;
use crate::base::Wall;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// Most that are kept.
pub(super) const MAX: usize = 2;
/// Number of the extension in the lasting form of paths: `(node, day)` each.
pub(super) const EXTENSION: u16 = 1;

/// Guards that were down, and the day on which that was found out.
#[derive(Debug, Default)]
pub(super) struct Down {
    days: BTreeMap<NodeId, u32>,
    /// To be asked again, once at this start.
    ask: BTreeSet<NodeId>,
}

impl Down {
    pub(super) const fn new() -> Self {
        Self { days: BTreeMap::new(), ask: BTreeSet::new() }
    }

    /// A guard is set aside while another works. Whether that is news.
    pub(super) fn note(&mut self, node: NodeId, wall: Wall) -> bool {
        if self.days.len() >= MAX && !self.days.contains_key(&node) {
            return false;
        }
        self.days.insert(node, wall.day()) != Some(wall.day())
    }

    /// It works. Whether that is news.
    pub(super) fn forget(&mut self, node: &NodeId) -> bool {
        !self.days.is_empty() && {
            self.ask.remove(node);
            self.days.remove(node).is_some()
        }
    }

    /// Lets go of all that this does not hold for.
    pub(super) fn retain(&mut self, holds: impl Fn(&NodeId) -> bool) {
        self.days.retain(|node, _| holds(node));
    }

    /// At a start: those that still count, of yesterday and today. A day that is still to come is of a clock that was wrong.
    pub(super) fn recall(&mut self, wall: Wall) -> Vec<NodeId> {
        let today = wall.day();
        self.days.retain(|_, day| today.checked_sub(*day).is_some_and(|ago| ago <= 1));
        self.ask = self.days.keys().copied().collect();
        self.days.keys().copied().collect()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// One that is to be asked again now, each once.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        self.ask.pop_first()
    }

    /// The value of the extension; nothing if there is nothing to keep.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut w = Writer::default();
        for (node, day) in &self.days {
            w.raw(&node.0).u32(*day);
        }
        Some(w.into_bytes()).filter(|bytes| !bytes.is_empty())
    }

    /// Reads it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const ENTRY: usize = 36;
        if bytes.is_empty() || !bytes.len().is_multiple_of(ENTRY) {
            return Err(DecodeError::Invalid);
        }
        if bytes.len() > MAX * ENTRY {
            return Err(DecodeError::TooLarge);
        }
        let (mut r, mut days) = (Reader::new(bytes), BTreeMap::new());
        for _ in 0..bytes.len() / ENTRY {
            let node = NodeId(r.array()?);
            if days.last_key_value().is_some_and(|(last, _)| *last >= node) {
                return Err(DecodeError::Invalid);
            }
            days.insert(node, r.u32()?);
        }
        r.finish()?;
        Ok(Self { days, ask: BTreeSet::new() })
    }
}
