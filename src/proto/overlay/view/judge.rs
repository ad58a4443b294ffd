//! Deciding about relays: who is seen, who is usable, who hosts; and keeping the view's indexes in line with it.

use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::record::hint_id;
use crate::proto::overlay::region;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::Place;
use crate::proto::overlay::view::PlaceKind;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::drop_count;
use crate::proto::overlay::view::former_places;
use crate::wire::record::Receipt;
use std::sync::Arc;

/// Most subjects of one witness that are looked at when it becomes seen, or to find it seen.
const SUBJECTS_MAX: usize = 1024;

impl View {
    /// How many witnesses in distinct groups make a relay usable in a network as large as this view.
    pub fn needed(&self) -> usize {
        limits::RECEIPTS_NEEDED.min(self.seen_groups.len().saturating_sub(1))
    }

    /// Decides anew about a relay and, if it became seen, about its subjects and witnesses. Bounded: a descriptor becomes seen once.
    pub(super) fn settle(&mut self, node: NodeId, before: usize) {
        let mut work = vec![node];
        while let Some(node) = work.pop() {
            if self.judge(&node) {
                let hint = hint_id(&node);
                // Those that are all they can be gain nothing by it. The bound keeps a crowd around one witness from costing more with
                // each descriptor of it (T36); who is left out is decided about when its own next descriptor comes.
                work.extend(self.subjects(hint).take(SUBJECTS_MAX).filter(|e| e.may_gain()).map(|e| e.relay.node()));
                let witnesses = self.entries.get(&node).into_iter().flat_map(|e| counting(&e.relay)).map(|r| r.witness);
                work.extend(witnesses.filter(|w| self.entries.get(w).is_some_and(|e| !e.seen)));
            }
        }
        self.resettle_if_changed(before);
    }

    /// Entries with a receipt of this witness.
    fn subjects(&self, witness: u64) -> impl Iterator<Item = &Entry> {
        self.receipts.range((witness, 0)..=(witness, u64::MAX)).filter_map(|(_, subject)| self.by_hint(*subject))
    }

    /// The number of needed receipts changes a handful of times in a network's life; then everything is decided anew.
    pub(super) fn resettle_if_changed(&mut self, before: usize) {
        if self.needed() != before {
            let all: Vec<NodeId> = self.entries.keys().copied().collect();
            for node in all {
                self.judge(&node);
            }
        }
    }

    /// Decides about one relay. True if it just became seen.
    fn judge(&mut self, node: &NodeId) -> bool {
        let Some(entry) = self.entries.get(node) else { return false };
        let relay = Arc::clone(&entry.relay);
        let d = relay.descriptor();
        let own = relay.group();
        let (mut witnesses, mut old): (Vec<Group>, Vec<Group>) = (Vec::new(), Vec::new());
        let mut connected = false;
        for receipt in counting(&relay) {
            let Some(witness) = self.entries.get(&receipt.witness).filter(|w| w.seen) else { continue };
            connected = true;
            let group = witness.relay.group();
            if group != own && !witnesses.contains(&group) {
                witnesses.push(group);
            }
            if group != own && !old.contains(&group) && receipt.day.saturating_add(2) <= d.published.day() {
                old.push(group);
            }
        }
        let vouched = |e: &Entry| e.seen && counting(&e.relay).any(|r| r.witness == d.node);
        let seen = entry.seen || entry.proven || connected || self.subjects(relay.hint_id()).take(SUBJECTS_MAX).any(vouched);
        let became_seen = seen && !entry.seen;
        if became_seen {
            *self.seen_groups.entry(own).or_insert(0) += 1;
        }
        let needed = self.needed();
        let usable = d.carries && seen && witnesses.len() >= needed;
        // One backdated receipt must not make a host: two of three.
        let settled = self.local || old.len() >= needed.min(2);
        let host = usable && d.host_key.is_some() && net::may_host(&relay.addr()) && settled;
        if let Some(entry) = self.entries.get_mut(node) {
            entry.seen = seen;
        }
        self.mark(node, usable, host);
        became_seen
    }

    /// Brings all indexes in line with the decision.
    fn mark(&mut self, node: &NodeId, usable: bool, host: bool) {
        let Some(entry) = self.entries.get(node) else { return };
        if (entry.usable, entry.host) == (usable, host) {
            return;
        }
        self.retire(node);
        if !usable {
            return;
        }
        let Some(entry) = self.entries.get_mut(node) else { return };
        self.pending.remove(&entry.arrival);
        // A new number, so that those who asked before hear of it.
        self.arrivals += 1;
        entry.arrival = self.arrivals;
        entry.usable = true;
        entry.host = host;
        entry.slot = self.usable.len();
        let relay = Arc::clone(&entry.relay);
        self.log.insert(entry.arrival, Arc::clone(&relay));
        self.usable.push(Arc::clone(&relay));
        let kind = if host { PlaceKind::Host } else { PlaceKind::Carrier };
        let hint = relay.hint_id();
        self.places.insert((region::prefix(&relay.position().0), hint), Place { relay: Arc::clone(&relay), kind });
        if host {
            for place in former_places(&relay, relay.descriptor().published) {
                self.places.entry((place, hint)).or_insert_with(|| Place { relay: Arc::clone(&relay), kind: PlaceKind::Former });
            }
            let n = self.host_prefixes.entry(relay.prefix()).or_insert(0);
            *n += 1;
            self.hosts += 1;
            self.hosts_capped += usize::from(*n as usize <= limits::REGION_PER_PREFIX);
        }
        *self.groups.entry(relay.group()).or_insert(0) += 1;
        *self.prefixes.entry(relay.prefix()).or_insert(0) += 1;
        self.digest_toggle(&relay, true);
    }

    /// Takes a usable relay out of all indexes; its entry stays, as pending.
    pub(super) fn retire(&mut self, node: &NodeId) {
        let Some(entry) = self.entries.get_mut(node).filter(|e| e.usable) else { return };
        let (relay, slot, host, arrival) = (Arc::clone(&entry.relay), entry.slot, entry.host, entry.arrival);
        entry.usable = false;
        entry.host = false;
        self.log.remove(&arrival);
        self.pending.insert(arrival, *node);
        self.usable.swap_remove(slot);
        if let Some(moved) = self.usable.get(slot).map(|r| r.node())
            && let Some(entry) = self.entries.get_mut(&moved)
        {
            entry.slot = slot;
        }
        let hint = relay.hint_id();
        self.places.remove(&(region::prefix(&relay.position().0), hint));
        for place in former_places(&relay, Wall(0)) {
            self.places.remove(&(place, hint));
        }
        if host {
            if let Some(n) = self.host_prefixes.get(&relay.prefix()) {
                self.hosts_capped -= usize::from(*n as usize <= limits::REGION_PER_PREFIX);
            }
            drop_count(&mut self.host_prefixes, relay.prefix());
            self.hosts -= 1;
        }
        drop_count(&mut self.groups, relay.group());
        drop_count(&mut self.prefixes, relay.prefix());
        self.digest_toggle(&relay, false);
    }

    fn digest_toggle(&mut self, relay: &Verified, add: bool) {
        let bucket = usize::from(relay.position().0[0] >> 4);
        let [a, b, c, d, e, f, g, h, ..] = kdf::hash(Label::ViewDigest, &[&relay.node().0, &relay.descriptor().seq.to_be_bytes()]);
        self.digest.sums[bucket] ^= u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let count = &mut self.digest.counts[bucket];
        *count = if add { *count + 1 } else { count.saturating_sub(1) };
    }
}

/// The receipts of a relay that count: fresh when it was described, for its first address, and not its own.
fn counting(relay: &Verified) -> impl Iterator<Item = &Receipt> {
    let d = relay.descriptor();
    let today = d.published.day();
    d.receipts.iter().filter(move |r| {
        let fresh = r.day.saturating_add(limits::RECEIPT_LIFE_DAYS) >= today && r.day <= today.saturating_add(1);
        fresh && r.addr == relay.addr() && r.witness != d.node
    })
}
