//! What stays when there is too much.

use crate::base::NodeId;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::rank;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Relays of one prefix that nobody here reached, beyond which they go before all others. They weigh like one in every draw anyway;
/// and one /32 of IPv6 could fill a view with what costs nothing (T31).
const CROWD_KEPT: usize = 256;

impl View {
    /// Keeps the view within its caps. Of what is not usable the oldest goes; of usable relays the same sample stays everywhere, by
    /// a rank that follows from the position and so cannot be chosen freely. What answered us goes last: however many relays others
    /// invent, they crowd out none that we reached ourselves. Before that goes what is many of one prefix.
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
            let place = |r: &Arc<Verified>| (!stays(&r.node()), false, rank(&r.position()), r.prefix(), r.node());
            let mut order: Vec<(bool, bool, u64, Prefix, NodeId)> = self.usable.iter().map(place).collect();
            order.sort_unstable();
            let mut of_prefix: BTreeMap<Prefix, usize> = BTreeMap::new();
            for (unproven, crowd, _, prefix, _) in &mut order {
                let n = of_prefix.entry(*prefix).or_insert(0);
                *n += 1;
                *crowd = *unproven && *n > CROWD_KEPT;
            }
            order.sort_unstable();
            // Among what nobody here reached, the ceiling is the same for whoever comes; of a crowd any may go.
            self.rank_ceiling = match order.get(room) {
                Some((true, false, rank, ..)) => *rank,
                Some((false, ..)) => 0,
                Some((true, true, ..)) | None => u64::MAX,
            };
            for (.., node) in order.split_off(room.min(order.len())) {
                self.remove(&node);
            }
        } else if self.usable.len() < self.max - self.max / 10 {
            self.rank_ceiling = u64::MAX;
        }
    }
}
