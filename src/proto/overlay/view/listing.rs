//! A client's view: what directories list (D8).
//!
//! A relay counts when at least two of the directories that have a say list it, or the only one. So a single directory that lies
//! neither puts an invented relay in, nor keeps an honest one out.

use crate::base::NodeId;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::View;
use core::net::SocketAddr;

/// Lists that must agree.
const AGREE: u32 = 2;

impl View {
    /// From now on directories decide. Nobody has a say yet.
    pub fn rely_on_directories(&mut self) {
        self.voters = Some(0);
    }

    /// Which directories have a say, a bit for each.
    pub fn set_voters(&mut self, voters: u8) {
        if self.voters.is_some_and(|v| v != voters) {
            self.voters = Some(voters);
            self.recount();
        }
    }

    /// A directory lists a relay at this first address: in the whole snapshot that is being read, or as a change.
    pub fn list(&mut self, node: &NodeId, addr: &SocketAddr, directory: u8, whole: bool) {
        let Some(entry) = self.entries.get_mut(node).filter(|e| e.relay.addr() == *addr) else { return };
        let standing = &mut entry.standing;
        let bits = if whole { &mut standing.relisted } else { &mut standing.listed };
        let new = *bits | directory;
        if core::mem::replace(bits, new) != new && !whole {
            let before = self.needed();
            self.settle(*node, before);
        }
    }

    /// A whole snapshot of this directory was read: what it does not list, it lists no more.
    pub fn listed_whole(&mut self, directory: u8) {
        for Entry { standing, .. } in self.entries.values_mut() {
            standing.listed = (standing.listed & !directory) | (standing.relisted & directory);
            standing.relisted &= !directory;
        }
        self.recount();
    }

    /// Forgets what this directory listed: all, or only of a snapshot that was not read to its end.
    pub fn unlist(&mut self, directory: u8, all: bool) {
        for Entry { standing, .. } in self.entries.values_mut() {
            standing.relisted &= !directory;
            if all {
                standing.listed &= !directory;
            }
        }
        self.stale |= all;
    }

    /// Whether directories enough list it.
    pub(super) const fn agreed(voters: u8, listed: u8) -> bool {
        let all = voters.count_ones();
        let needed = if all < AGREE { all } else { AGREE };
        all > 0 && (listed & voters).count_ones() >= needed
    }
}
