//! What all links together hold, within the node's budget (T35): cells in the queues of circuits, and what waits on the links
//! themselves.
//!
//! Neither has a share for each: a share small enough for thousands of links is too small for a busy one. So everybody takes what he
//! needs, and when it is too much those end that hold the most. Of links, that is the prefix that holds the most, or the one in a group
//! that holds four times that, and there the largest: however many links others open, who holds less than each of their prefixes keeps
//! his.

use crate::base::CircuitId;
use crate::base::LinkId;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::proto::crowd::GROUP;
use crate::proto::link::Link;
use crate::proto::link::Links;
use crate::proto::link::Stage;
use crate::proto::memory::Memory;
use crate::proto::out::Ctx;
use crate::wire::cell::CELL;
use bytes::BytesMut;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Of a part that overflows, one in so many is free afterwards, so that looking for who holds the most is paid for by what has to come
/// first and not done for each cell.
const RELIEVED: usize = 16;

/// What the links of one prefix hold together, and each of them, the least first.
struct Holder {
    group: Group,
    bytes: usize,
    links: Vec<(usize, LinkId)>,
}

impl Links {
    /// Makes room when too much is held. Called once after each input.
    pub(in crate::proto) fn relieve(&mut self, ctx: &mut Ctx<'_, '_>) {
        let queued = self.memory.cells_queued();
        if self.queued > queued {
            self.doom_longest(queued - queued / RELIEVED);
        }
        if self.held_at_most > self.memory.links() {
            self.close_largest(ctx, self.memory.links());
        }
    }

    /// Dooms the circuits with the longest queues until so many cells are left.
    fn doom_longest(&mut self, most: usize) {
        let mut waiting: Vec<_> = self.ports.iter().map(|(_, p)| (p.queue.len(), p.owner)).filter(|(len, _)| *len > 0).collect();
        waiting.sort_unstable_by_key(|(len, _)| Reverse(*len));
        let mut left = self.queued;
        for (len, owner) in waiting {
            if left <= most {
                break;
            }
            left -= len;
            self.doomed.push(owner);
        }
    }

    /// Counts what links hold. If there is little room left, those of the prefixes that hold the most are closed.
    fn close_largest(&mut self, ctx: &mut Ctx<'_, '_>, most: usize) {
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        let mut prefixes: BTreeMap<Prefix, Holder> = BTreeMap::new();
        let mut held = 0;
        for (id, link) in &self.links {
            let (bytes, group) = (link.holds(self.memory), Group::of(&link.remote));
            held += bytes;
            *groups.entry(group).or_default() += bytes;
            let holder = prefixes.entry(Prefix::of(&link.remote)).or_insert_with(|| Holder { group, bytes: 0, links: Vec::new() });
            holder.bytes += bytes;
            holder.links.push((bytes, *id));
        }
        if held > most - most / RELIEVED {
            prefixes.values_mut().for_each(|holder| holder.links.sort_unstable());
            while held > most - 2 * (most / RELIEVED) {
                let weight = |holder: &Holder| holder.bytes.max(groups.get(&holder.group).map_or(0, |of_group| of_group / GROUP));
                let Some(heaviest) = prefixes.values_mut().max_by_key(|holder| (weight(holder), holder.bytes)) else { break };
                let Some((bytes, id)) = heaviest.links.pop() else { break };
                held -= bytes;
                heaviest.bytes -= bytes;
                if let Some(of_group) = groups.get_mut(&heaviest.group) {
                    *of_group -= bytes;
                }
                self.close(ctx, id);
            }
        }
        self.held_at_most = held;
    }

    /// So many bytes more are held.
    pub(super) const fn holds_more(&mut self, bytes: usize) {
        self.held_at_most += bytes;
    }
}

impl Link {
    /// Bytes that it holds. What waits in its circuits' queues is not counted here.
    pub(super) fn holds(&self, memory: Memory) -> usize {
        let early = match &self.stage {
            Stage::Hello { early, .. } => early.iter().map(BytesMut::len).sum(),
            Stage::Dialing | Stage::Open => 0,
        };
        // What is left of a batch's memory is kept while anything of it is with the transport.
        let out = self.in_flight * CELL + self.batch.capacity();
        let ending = self.ending.capacity() * size_of::<CircuitId>();
        memory.of_link() + out + ending + self.outbox.bytes() + self.inbox.bytes() + early
    }
}
