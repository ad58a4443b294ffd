//! Which circuit takes which request, and when.

use crate::base::OpId;
use crate::base::limits;
use crate::proto::circuit::origin::Origins;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::overlay::view::View;
use crate::proto::requests::Ask;
use crate::proto::requests::Domain;
use crate::proto::requests::PER_OP_MAX;
use crate::proto::requests::Requests;
use crate::proto::slab::Key;
use crate::wire::request::Kind;
use std::collections::BTreeSet;

/// Cells that may wait on a circuit, whatever for, before a further request goes there: two of the largest. Others wait where they
/// have no place in line yet, so that on a slow line too what was begun is whole before its host gives it up.
const CIRCUIT_BACKLOG: usize = 32;
/// Requests whose circuit has no room that are looked at before the others' turn is put off: for one whose circuit has, so many are
/// enough, as their order is random.
const PUT_OFF_MAX: usize = 16;

impl Requests {
    /// Gives waiting requests of an operation circuits, as the rules allow, while there are circuits with room.
    pub(super) fn dispatch(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, view: &View, op: OpId) {
        let Some(mut domain) = self.domains.remove(&op) else { return };
        let has_room = |origins: &Origins, links: &Links, key: Key| origins.backlog(links, key) < CIRCUIT_BACKLOG;
        let mut open: BTreeSet<Key> = domain.circuits.keys().copied().filter(|key| has_room(&self.origins, links, *key)).collect();
        let mut blocked = Vec::new();
        let mut stuck = domain.circuits.is_empty();
        // Hosts that no circuit takes a request for: asking again in this round is in vain.
        let mut full = BTreeSet::new();
        let mut put_off = 0;
        // What an operation fetches is long on the way back, what it stores on the way there: for that see the backlog.
        let fetches = domain.queue.front().is_some_and(|ask| ask.kind.kind == Kind::Fetch);
        let counts_from = domain.allowance.counts_from();
        let under_way = || domain.circuits.keys().map(|key| self.origins.load_since(*key, counts_from)).sum();
        let mut room = if fetches { domain.allowance.more_than(under_way()) } else { usize::MAX };
        while room > 0
            && !open.is_empty()
            && put_off < PUT_OFF_MAX
            && let Some(ask) = domain.queue.pop_front()
        {
            let whom = (ask.target.host, ask.target.region, ask.kind);
            let chosen = if full.contains(&whom) { None } else { self.choose(&domain, &ask) };
            let Some(key) = chosen.filter(|key| open.contains(key)) else {
                if chosen.is_some() {
                    put_off += 1;
                } else if full.insert(whom) {
                    // Not for a backlog that will shrink, but for want of a circuit that may serve the host and has a stream for
                    // it: one more.
                    stuck |= self.is_stuck(&domain, &ask);
                }
                blocked.push(ask);
                continue;
            };
            if let Some(uses) = domain.circuits.get_mut(&key) {
                uses.entry(ask.target.region).or_default().insert(ask.target.host);
            }
            self.origins.request(ctx, links, view, key, ask.target.host, ask.kind, ask.request, ask.plain);
            room -= 1;
            if !has_room(&self.origins, links, key) {
                open.remove(&key);
            }
        }
        for ask in blocked.into_iter().rev() {
            domain.queue.push_front(ask);
        }
        if stuck && !domain.queue.is_empty() {
            domain.want = domain.want.max((domain.circuits.len() + 1).min(PER_OP_MAX));
        }
        self.domains.insert(op, domain);
    }

    /// Whether the rules allow this circuit to meet this host for this region, and it has a stream for it or can begin one.
    pub(super) fn may_serve(&self, domain: &Domain, key: Key, ask: &Ask) -> bool {
        let Some(path) = self.origins.path(key) else { return false };
        let hosts = domain.circuits.get(&key).and_then(|uses| uses.get(&ask.target.region));
        let counted = hosts.is_none_or(|h| h.contains(&ask.target.host) || h.len() < limits::CIRCUIT_HOSTS_PER_REGION);
        let [.., last] = path;
        counted
            && !ask.target.has_member(&last)
            && !path.contains(&ask.target.host)
            && self.origins.takes(key, &ask.target.host, ask.kind)
    }

    /// Whether no circuit of its operation may serve a request.
    pub(super) fn is_stuck(&self, domain: &Domain, ask: &Ask) -> bool {
        !domain.circuits.keys().any(|key| self.may_serve(domain, *key, ask))
    }

    /// The circuit for a request, if one has room: sooner one that meets the host already, then the least busy.
    fn choose(&self, domain: &Domain, ask: &Ask) -> Option<Key> {
        let fits = domain.circuits.keys().copied().filter(|key| self.may_serve(domain, *key, ask));
        fits.map(|key| {
            let full = self.origins.is_full(key, &ask.target.host, ask.kind);
            // A circuit that meets the host already costs no new session and tells no further last hop.
            let meets = domain.circuits.get(&key).is_some_and(|uses| uses.values().any(|h| h.contains(&ask.target.host)));
            (full, !meets, self.origins.total_load(key), key)
        })
        .min()
        .filter(|(full, ..)| !full)
        .map(|(.., key)| key)
    }
}
