//! What stays when there is too much.

use crate::base::NodeId;
use crate::base::limits;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::rank;

impl View {
    /// Keeps the view within its caps. Of what is not usable the oldest goes; of usable relays the same sample stays everywhere, by
    /// a rank that follows from the position and so cannot be chosen freely. What answered us goes last: however many relays others
    /// invent, they crowd out none that we reached ourselves.
    pub(super) fn bound(&mut self) {
        while self.pending.len() > limits::VIEW_PENDING_MAX {
            let unproven = |e: &Entry| e.answered().is_none();
            // Those that a chain leads to stay longer than others: they may wait for their receipts.
            let first = |e: &Entry| unproven(e) && !e.standing.seen;
            let unseen = self.pending.values().take(64).find(|n| self.entries.get(*n).is_none_or(first));
            let unproven = || self.pending.values().find(|n| self.entries.get(*n).is_none_or(unproven));
            let Some(node) = unseen.or_else(unproven).or_else(|| self.pending.values().next()).copied() else { break };
            self.remove(&node);
        }
        if self.usable.len() > self.max {
            let room = self.max - self.max / 20;
            let stays = |node: &NodeId| self.entries.get(node).is_some_and(|e| e.answered().is_some());
            let mut ranks: Vec<(bool, u64)> = self.usable.iter().map(|r| (!stays(&r.node()), rank(&r.position()))).collect();
            ranks.sort_unstable();
            let last = ranks.get(room).copied().unwrap_or((true, u64::MAX));
            let over: Vec<NodeId> =
                self.usable.iter().filter(|r| (!stays(&r.node()), rank(&r.position())) > last).map(|r| r.node()).collect();
            // Among what nobody here reached, the ceiling is the same for whoever comes.
            self.rank_ceiling = if last.0 { last.1 } else { 0 };
            for node in over {
                self.remove(&node);
            }
        } else if self.usable.len() < self.max - self.max / 10 {
            self.rank_ceiling = u64::MAX;
        }
    }
}
