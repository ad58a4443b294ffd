//! What our own dials show, and whom it speaks for or against.

use crate::base::NodeId;
use crate::base::Time;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::judge::SUBJECTS_MAX;
use core::net::SocketAddr;
use core::time::Duration;
use rand::CryptoRng;
use rand::seq::IteratorRandom;
use std::sync::Arc;

/// A relay that answered counts as proven for this long: about a day, and time to ask it again.
pub(in crate::proto::overlay) const PROOF_LIFE: Duration = Duration::from_secs(30 * 3600);
/// Answers within this time say nothing new about those who spoke for it.
const WEIGH_AGAIN: Duration = Duration::from_secs(3600);
/// An answer is of late for this long.
const LATELY: Duration = Duration::from_secs(3600);
/// Longest chain that is followed.
const CHAIN_MAX: usize = 256;

impl View {
    /// Notes that this relay answered us at this address: our own evidence, from which receipts lead on.
    pub fn prove(&mut self, node: &NodeId, addr: &SocketAddr, now: Time) {
        let Some(entry) = self.entries.get(node).filter(|e| e.relay.addr() == *addr) else { return };
        let (news, before) = (!entry.proven(), entry.answered());
        self.stand(node, |s| {
            (s.proven, s.doubted, s.failing, s.missed, s.answered) = (true, false, None, false, Some(now));
            (s.led_by, s.root) = (None, None);
        });
        if before.is_none_or(|at| at + WEIGH_AGAIN <= now) {
            self.weigh(node, now);
        }
        if news {
            self.stale |= self.turned_away;
            let needed = self.needed();
            self.settle(*node, needed);
        }
    }

    /// Notes that this relay did not answer at this address. One failure is none: it is doubted when two lie `apart` or more from
    /// each other, and we reached somebody else in between (`reached` is when we last did), so that it was not our own line that
    /// was down. True if it is doubted now.
    ///
    /// Who answered within about a day is not doubted: it was there, and its descriptor ends within a day. Relays come and go, and
    /// if each struck out those that it happened to miss, views would differ by more than the coverage gate allows (D8).
    pub fn fail(&mut self, node: &NodeId, addr: &SocketAddr, now: Time, apart: Duration, reached: Option<Time>) -> bool {
        let Some(entry) = self.entries.get_mut(node).filter(|e| e.relay.addr() == *addr) else { return false };
        let standing = &mut entry.standing;
        standing.missed = true;
        if standing.answered.is_some_and(|at| now < at + PROOF_LIFE) {
            return false;
        }
        let first = *standing.failing.get_or_insert(now);
        if !standing.doubted && (now < first + apart || reached.is_none_or(|at| at <= first)) {
            return false;
        }
        let (was_seen, never) = (standing.seen, standing.answered.is_none());
        self.stand(node, |s| (s.proven, s.doubted, s.seen, s.led_by) = (false, true, false, None));
        self.stale |= was_seen;
        self.retire(node);
        if never {
            self.weigh(node, now);
        }
        self.bound();
        true
    }

    /// Notes that this relay did not answer a dial that is no check, and speaks for or against nobody.
    pub fn miss(&mut self, node: &NodeId) {
        if let Some(entry) = self.entries.get_mut(node) {
            entry.standing.missed = true;
        }
    }

    /// Of the usable relays, those that answered within the last hour or are `linked`, and those that did not answer when they were last
    /// dialled; of the rest nothing is known lately. The second count on: relays come and go, and who answered within about a day is
    /// not doubted. Linear: for people who ask.
    pub fn answering(&self, now: Time, linked: impl Fn(&NodeId) -> bool) -> (usize, usize) {
        let (mut answering, mut silent) = (0, 0);
        for entry in self.entries.values().filter(|e| e.usable) {
            let standing = &entry.standing;
            let lately = standing.answered.is_some_and(|at| now < at + LATELY);
            if linked(&entry.relay.node()) || (lately && !standing.missed) {
                answering += 1;
            } else if standing.missed {
                silent += 1;
            }
        }
        (answering, silent)
    }

    /// Notes whether we can dial IPv6. True if that is news: then [`View::recount`] is wanted.
    pub const fn reach_ip6(&mut self, can: bool) -> bool {
        let news = self.ip6 != can;
        self.ip6 = can;
        self.stale |= news;
        news
    }

    /// Whether we can dial where this relay is reached. A client dials nobody to look, and believes its directories.
    pub fn in_reach(&self, relay: &Verified) -> bool {
        self.ip6 || self.client || !relay.is_ip6()
    }

    /// Some relay with IPv6 alone, sooner one that answered us before. Linear: call it every few minutes.
    pub fn some_ip6(&self, rng: &mut dyn CryptoRng) -> Option<&Arc<Verified>> {
        let of = |answered: bool| {
            let fits = move |e: &&Entry| e.relay.is_ip6() && !e.doubted() && e.answered().is_some() == answered;
            self.entries.values().filter(fits).map(|e| &e.relay)
        };
        of(true).choose(rng).or_else(|| of(false).choose(rng))
    }

    /// As if this relay had never answered.
    #[cfg(test)]
    pub(in crate::proto::overlay) fn forget_answers(&mut self, node: &NodeId) {
        self.stand(node, |s| (s.proven, s.answered) = (false, None));
        self.stale = true;
    }

    /// Good and bad marks along the receipts of a relay that answered, or never did.
    fn weigh(&mut self, node: &NodeId, now: Time) {
        let Some(entry) = self.entries.get(node) else { return };
        let here = (entry.relay.prefix(), entry.relay.hint_id(), entry.answered().is_some());
        let mut notes = Vec::new();
        for other in self.neighbours(node, SUBJECTS_MAX).iter().filter_map(|n| self.entries.get(n)) {
            let there = (other.relay.prefix(), other.relay.hint_id(), other.answered().is_some());
            // Only who answered us is marked. Of one that neither answered nor failed nothing is known yet.
            if there.2 {
                notes.push((there.0, here));
            }
            if here.2 && (there.2 || other.doubted()) {
                notes.push((here.0, there));
            }
        }
        for (speaker, (about, hint, answered)) in notes {
            self.stale |= self.marks.note(now, speaker, about, hint, answered);
        }
    }

    /// Forgets proofs and marks that had their time. Linear: call it every few minutes.
    pub fn lapse(&mut self, now: Time) {
        let old = |e: &&Entry| e.proven() && e.answered().is_none_or(|at| at + PROOF_LIFE <= now);
        let old: Vec<NodeId> = self.entries.values().filter(old).map(|e| e.relay.node()).collect();
        self.stale |= !old.is_empty();
        for node in old {
            self.stand(&node, |s| s.proven = false);
        }
        self.marks.expire(now);
    }

    /// The relay that never answered us on whom this one hangs: the first after those that did. It may be the relay itself.
    pub fn rests_on(&self, node: &NodeId) -> NodeId {
        let mut at = *node;
        for _ in 0..CHAIN_MAX {
            let before = self.entries.get(&at).and_then(|e| e.standing.led_by);
            let Some(before) = before.filter(|b| self.entries.get(b).is_some_and(|e| e.answered().is_none())) else { break };
            at = before;
        }
        at
    }

    /// Whether something hangs on what counts no more: [`View::recount`] is wanted.
    pub const fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether a relay that others name is no news: it is usable, or it was looked at and found wanting, or we cannot look.
    pub fn is_no_news(&self, entry: &Entry) -> bool {
        entry.usable || entry.standing.doubted || entry.standing.dropped || !self.in_reach(&entry.relay)
    }
}
