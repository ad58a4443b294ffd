//! Deciding about relays: who is seen, who is usable, who hosts; and keeping the view's indexes in line with it.

use crate::base::NodeId;
use crate::base::Wall;
use crate::base::limits;
use crate::base::net;
use crate::base::net::Group;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::record::hint_id;
use crate::proto::overlay::region;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::Place;
use crate::proto::overlay::view::PlaceKind;
use crate::proto::overlay::view::Standing;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::drop_count;
use crate::proto::overlay::view::former_places;
use crate::wire::record::Receipt;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most subjects of one witness that are looked at when it becomes seen, or to find it seen.
pub(super) const SUBJECTS_MAX: usize = 1024;
/// How many relays that never answered us may, for each of those that did, be seen by its word; more in a view of which little was
/// proven yet.
const LEADS: usize = 8;

impl View {
    /// How many witnesses in distinct groups make a relay usable in a network as large as this view.
    pub fn needed(&self) -> usize {
        limits::RECEIPTS_NEEDED.min(self.seen_groups.len().saturating_sub(1))
    }

    /// Decides anew about a relay and, if it became seen, about its subjects and witnesses. Bounded: a descriptor becomes seen
    /// once.
    pub(super) fn settle(&mut self, node: NodeId, before: usize) {
        let mut work = vec![node];
        while let Some(node) = work.pop() {
            if self.judge(&node) {
                let hint = hint_id(&node);
                // Those that are all they can be gain nothing by it. The bound keeps a crowd around one witness from costing more
                // with each descriptor of it (T36); who is left out is decided about when its own next descriptor comes.
                work.extend(self.subjects(hint).take(SUBJECTS_MAX).filter(|e| e.may_gain()).map(|e| e.relay.node()));
                let witnesses = self.entries.get(&node).into_iter().flat_map(|e| counting(&e.relay)).map(|r| r.witness);
                work.extend(witnesses.filter(|w| self.entries.get(w).is_some_and(|e| !e.standing.seen)));
            }
        }
        self.resettle_if_changed(before);
    }

    /// Entries with a receipt of this witness.
    pub(super) fn subjects(&self, witness: u64) -> impl Iterator<Item = &Entry> {
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

    /// Whether what one of the two receipts between them says of `about` counts, said by `speaker`.
    fn believes(&self, speaker: &Entry, about: &Entry) -> bool {
        speaker.standing.speaks() && self.marks.believes(&speaker.prefix, &about.prefix)
    }

    /// Whether a relay that never answered us was there before: as many speak for it as make others usable. Of witnesses one in ten
    /// is down at any time, and whoever starts meanwhile doubts it, rightly, as a hop; were what it saw before void too, hosts would
    /// be none for hours in the views of all that started. A liar who invents two witnesses to backdate a receipt needs three relays
    /// to speak for them, and two could have lied about the hour themselves (T31).
    fn was_there(&self, witness: &Entry) -> bool {
        let mut groups = Distinct::default();
        for receipt in counting(&witness.relay).filter(|_| witness.standing.doubted) {
            let speaker = self.entries.get(&receipt.witness).filter(|s| s.standing.speaks() && s.group != witness.group);
            speaker.into_iter().for_each(|s| groups.add(s.group));
        }
        let needed = self.needed();
        needed > 0 && groups.len() >= needed
    }

    /// How many relays that never answered us may hang on one that did: of a view where most did, a handful.
    fn quota(&self) -> usize {
        LEADS * self.seen / self.proven.max(1)
    }

    fn leads(&self, root: &NodeId) -> usize {
        self.leads.get(root).copied().unwrap_or(0)
    }

    /// By whose word a relay is seen, and which relay that chain begins with: of all, the one that leads to the fewest. Gives too
    /// whether there was any word at all.
    fn leader(&self, entry: &Entry) -> (Option<(NodeId, NodeId)>, bool) {
        let node = entry.relay.node();
        let witnesses = counting(&entry.relay).filter_map(|r| self.entries.get(&r.witness)).filter(|w| self.believes(w, entry));
        let spoke = |s: &&Entry| counting(&s.relay).any(|r| r.witness == node) && self.believes(s, entry);
        let subjects = self.subjects(entry.relay.hint_id()).take(SUBJECTS_MAX).filter(spoke);
        let roots = |e: &Entry| (e.root(), e.relay.node());
        // Whoever has witnesses enough needs no more to be looked at.
        let best = witnesses.map(roots).min_by_key(|(root, _)| self.leads(root));
        let fits = |(root, _): &(NodeId, NodeId)| self.leads(root) < self.quota();
        let best = best.filter(fits).or_else(|| subjects.map(roots).min_by_key(|(root, _)| self.leads(root))).or(best);
        (best.filter(fits).map(|(root, by)| (by, root)), best.is_some())
    }

    /// Counts a relay that came into the view, as it stands.
    pub(super) fn enrol(&mut self, standing: &Standing, group: Group) {
        if standing.seen {
            self.seen += 1;
            *self.seen_groups.entry(group).or_insert(0) += 1;
        }
        self.proven += usize::from(standing.proven);
        if let Some(root) = standing.root {
            *self.leads.entry(root).or_insert(0) += 1;
        }
    }

    /// Counts it no more.
    pub(super) fn strike(&mut self, standing: &Standing, group: Group) {
        if standing.seen {
            self.seen -= 1;
            drop_count(&mut self.seen_groups, group);
        }
        self.proven -= usize::from(standing.proven);
        if let Some(root) = standing.root
            && let Some(n) = self.leads.get_mut(&root)
        {
            *n -= 1;
            if *n == 0 {
                self.leads.remove(&root);
            }
        }
    }

    /// Changes how a relay stands, and what is counted of it.
    pub(super) fn stand(&mut self, node: &NodeId, change: impl FnOnce(&mut Standing)) {
        let Some(entry) = self.entries.get_mut(node) else { return };
        let before = entry.standing;
        change(&mut entry.standing);
        let after = entry.standing;
        if (before.seen, before.proven, before.root) != (after.seen, after.proven, after.root) {
            let group = entry.group;
            self.strike(&before, group);
            self.enrol(&after, group);
        }
    }

    /// Decides about one relay. True if it just became seen.
    fn judge(&mut self, node: &NodeId) -> bool {
        let Some(entry) = self.entries.get(node) else { return false };
        if self.client {
            return false;
        }
        let (relay, standing) = (&*entry.relay, entry.standing);
        let d = relay.descriptor();
        let own = entry.group;
        let (mut witnesses, mut old) = (Distinct::default(), Distinct::default());
        for receipt in counting(relay) {
            let Some(witness) = self.entries.get(&receipt.witness) else { continue };
            let group = witness.group;
            if group == own {
                continue;
            }
            // Of a relay that we reached ourselves, receipts say nothing that we do not know; whoever gave them, and whatever
            // became of him, they only show that it went the way that all go. Of any other, his word must count.
            let (counts, dates) = if standing.proven {
                (true, witness.standing.speaks() || self.was_there(witness))
            } else {
                let believed = self.believes(witness, entry);
                (believed, believed)
            };
            if counts {
                witnesses.add(group);
            }
            if dates && receipt.hour.saturating_add(limits::HOST_AFTER_HOURS) <= self.hour {
                old.add(group);
            }
        }
        let (mut seen, mut led_by, mut root) = (standing.seen, standing.led_by, standing.root);
        let mut turned_away = false;
        if standing.proven {
            (seen, led_by, root) = (true, None, None);
        } else if !self.in_reach(relay) {
            seen = false;
        } else if !seen && !standing.doubted {
            let (leader, any) = self.leader(entry);
            seen = leader.is_some();
            (led_by, root) = (leader.map(|l| l.0), leader.map_or(root, |l| Some(l.1)));
            turned_away = any && !seen;
        }
        let in_reach = self.in_reach(relay);
        let (carries, may_host) = (d.carries, d.host_key.is_some() && net::may_host(&relay.addr()));
        self.turned_away |= turned_away;
        self.stand(node, |s| {
            (s.seen, s.led_by, s.root) = (seen, led_by, root);
            s.dropped &= !seen;
        });
        let needed = self.needed();
        let usable = carries && seen && in_reach && witnesses.len() >= needed;
        // One backdated receipt must not make a host: two of three. By our own clock, so that all views say so at once.
        let settled = self.local || old.len() >= needed.min(2);
        self.mark(node, usable, usable && may_host && settled);
        seen && !standing.seen
    }

    /// Time passed: receipts that are a day old now make hosts, in all views alike, without a word of the relay. Linear, once an
    /// hour.
    pub fn turn(&mut self, now: Wall) -> bool {
        if core::mem::replace(&mut self.hour, now.hour()) == self.hour || self.client {
            return false;
        }
        let waits = |e: &&Entry| e.usable && !e.host && e.relay.descriptor().host_key.is_some();
        let waiting: Vec<NodeId> = self.entries.values().filter(waits).map(|e| e.relay.node()).collect();
        let before = self.hosts;
        for node in &waiting {
            self.judge(node);
        }
        self.hosts != before
    }

    /// Decides about everything anew, from what answered us outwards. Linear: call it when something hangs on what counts no more.
    pub fn recount(&mut self) {
        self.stale = false;
        let was: Vec<NodeId> = self.entries.values().filter(|e| e.standing.seen).map(|e| e.relay.node()).collect();
        let quota = self.quota();
        self.turned_away = false;
        let all: Vec<NodeId> = self.entries.keys().copied().collect();
        let mut work = VecDeque::new();
        for node in &all {
            self.stand(node, |s| {
                s.seen = s.proven;
                // Who failed, or fell with others, keeps its place among those that one may lead to: no more come for them.
                s.led_by = None;
            });
            if self.entries.get(node).is_some_and(|e| e.standing.speaks()) {
                work.push_back(*node);
            }
        }
        // First those that were seen before, whoever they hang on now; then newcomers, as far as the quota goes.
        let mut reached = work.clone();
        for newcomers in [false, true] {
            while let Some(node) = work.pop_front() {
                for next in self.neighbours(&node, usize::MAX) {
                    let (Some(speaker), Some(entry)) = (self.entries.get(&node), self.entries.get(&next)) else { continue };
                    if entry.standing.seen
                        || entry.standing.doubted
                        || !self.believes(speaker, entry)
                        || !self.in_reach(&entry.relay)
                    {
                        continue;
                    }
                    let root = speaker.root();
                    let may = if newcomers { self.leads(&root) < quota } else { was.binary_search(&next).is_ok() };
                    self.turned_away |= newcomers && !may;
                    if may {
                        self.stand(&next, |s| (s.seen, s.led_by, s.root) = (true, Some(node), Some(root)));
                        work.push_back(next);
                        reached.push_back(next);
                    }
                }
            }
            work = core::mem::take(&mut reached);
        }
        for node in &all {
            self.judge(node);
        }
        for node in was {
            if let Some(Entry { standing, .. }) = self.entries.get_mut(&node) {
                standing.dropped |= !standing.seen;
            }
        }
        self.bound();
    }

    /// Relays that a receipt connects with this one, one way or the other; of its subjects at most so many.
    pub(super) fn neighbours(&self, node: &NodeId, subjects: usize) -> Vec<NodeId> {
        let Some(entry) = self.entries.get(node) else { return Vec::new() };
        let witnesses = counting(&entry.relay).map(|r| r.witness).filter(|w| self.entries.contains_key(w));
        let names = |s: &&Entry| counting(&s.relay).any(|r| r.witness == *node);
        witnesses.chain(self.subjects(hint_id(node)).take(subjects).filter(names).map(|s| s.relay.node())).collect()
    }

    /// Brings all indexes in line with the decision.
    pub(super) fn mark(&mut self, node: &NodeId, usable: bool, host: bool) {
        let Some(entry) = self.entries.get(node) else { return };
        if (entry.usable, entry.host) == (usable, host) {
            return;
        }
        self.put_aside(node);
        if !usable {
            return self.log.went(hint_id(node));
        }
        let Some(entry) = self.entries.get_mut(node) else { return };
        self.pending.remove(&entry.arrival);
        // A new number, so that those who asked before hear of it.
        entry.arrival = self.log.number();
        entry.usable = true;
        entry.host = host;
        entry.slot = self.usable.len();
        let relay = Arc::clone(&entry.relay);
        self.log.came(entry.arrival, Arc::clone(&relay));
        self.usable.push(Arc::clone(&relay));
        let kind = if host { PlaceKind::Host } else { PlaceKind::Carrier };
        let hint = relay.hint_id();
        self.places.insert((region::prefix(&relay.position().0), hint), Place { relay: Arc::clone(&relay), kind });
        if host {
            for place in former_places(&relay, relay.published()) {
                self.places.entry((place, hint)).or_insert_with(|| Place { relay: Arc::clone(&relay), kind: PlaceKind::Former });
            }
            let n = self.host_prefixes.entry(relay.prefix()).or_insert(0);
            *n += 1;
            self.hosts += 1;
            self.hosts_capped += usize::from(*n as usize <= limits::REGION_PER_PREFIX);
        }
        *self.groups.entry(relay.group()).or_insert(0) += 1;
        *self.prefixes.entry(relay.prefix()).or_insert(0) += 1;
        self.digest ^= relay.digest_part();
    }

    /// Takes a usable relay out of all indexes; its entry stays, as pending.
    pub(super) fn retire(&mut self, node: &NodeId) {
        if self.put_aside(node) {
            self.log.went(hint_id(node));
        }
    }

    fn put_aside(&mut self, node: &NodeId) -> bool {
        let Some(entry) = self.entries.get_mut(node).filter(|e| e.usable) else { return false };
        let (relay, slot, host, arrival) = (Arc::clone(&entry.relay), entry.slot, entry.host, entry.arrival);
        entry.usable = false;
        entry.host = false;
        self.log.remove(arrival);
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
        self.digest ^= relay.digest_part();
        true
    }
}

/// Groups, each once: no more than a relay has receipts.
#[derive(Default)]
struct Distinct {
    groups: [Option<Group>; limits::RECEIPTS_MAX],
    len: usize,
}

impl Distinct {
    fn add(&mut self, group: Group) {
        if let Some(place) = self.groups.iter_mut().take_while(|g| **g != Some(group)).find(|g| g.is_none()) {
            *place = Some(group);
            self.len += 1;
        }
    }

    const fn len(&self) -> usize {
        self.len
    }
}

/// Hours that the clocks of a relay and its witness may differ.
const SKEW_HOURS: u32 = (limits::SKEW_MAX_SECS / 3600) as u32;

/// The receipts of a relay that count: fresh when it said so, for its first address, and not its own.
pub(super) fn counting(relay: &Verified) -> impl Iterator<Item = &Receipt> {
    let said = relay.published().hour();
    relay.receipts().iter().filter(move |r| {
        let fresh = r.hour.saturating_add(limits::RECEIPT_LIFE_HOURS) > said && r.hour <= said.saturating_add(SKEW_HOURS);
        fresh && r.addr == relay.addr() && r.witness != relay.node()
    })
}
