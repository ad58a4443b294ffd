//! Relays that show different faces (T29): one that signs two descriptors in one slot of time can tell by which of them is used who
//! used it, so nobody uses either. The two are the proof, and whoever has them passes them on.

use crate::base::NodeId;
use crate::proto::overlay::record::Faces;
use crate::proto::overlay::view::Inserted;
use crate::proto::overlay::view::View;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;

/// Most of them remembered: 3 MiB of proofs at the most, and each cost its owner an address that was believed here. Beyond it the
/// proof that ends first is forgotten, and its relay counts again where nobody brings the proof anew.
const FACES_MAX: usize = 512;

impl View {
    /// Strikes a relay out: nobody uses it until both its descriptors have ended.
    pub fn strike_out(&mut self, faces: Faces) -> Inserted {
        let node = faces.node();
        self.remove(&node);
        if self.faces.len() >= FACES_MAX
            && !self.faces.contains_key(&node)
            && let Some(first) = self.faces.values().min_by_key(|f| f.until()).map(|f| f.node())
        {
            self.faces.remove(&first);
        }
        match self.faces.entry(node) {
            Slot::Vacant(empty) => {
                empty.insert(Arc::new(faces));
                Inserted::Faces
            }
            Slot::Occupied(_) => Inserted::Struck,
        }
    }

    /// The proof against a relay.
    pub fn faces_of(&self, node: &NodeId) -> Option<&Arc<Faces>> {
        self.faces.get(node)
    }

    /// The proof against the relay whose id begins with these 8 bytes.
    pub fn faces_by_hint(&self, hint: u64) -> Option<&Arc<Faces>> {
        if self.faces.is_empty() {
            return None;
        }
        let (node, faces) = self.faces.range(super::lowest(hint)..).next()?;
        (super::hint_id(node) == hint).then_some(faces)
    }

    /// Whether a proof against this relay is worth checking: it counts here, or did until lately.
    pub fn minds(&self, node: &NodeId) -> bool {
        !self.faces.contains_key(node) && self.entries.get(node).is_some_and(|e| e.usable || e.seen())
    }
}
