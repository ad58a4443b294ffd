//! Links as the overlay sees them: whom it speaks to, whom it dials and why, and what it asked them.
//!
//! A relay keeps links to a few neighbours that it draws from all it knows, every /24 with the same chance, and draws anew one by one.
//! All other dials are errands: a place to be asked about, an announcement, a receipt, a check. They follow what others name, need and
//! choose, so nobody stays linked for them (T29).

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::net::Group;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Dial;
use crate::proto::overlay::Event;
use crate::proto::overlay::Link;
use crate::proto::overlay::Output;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Peer;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::Request;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Verified;
use crate::wire::overlay::Message;
use crate::wire::overlay::Part;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most unanswered requests; further ones wait for a later tick.
pub(super) const REQUESTS_MAX: usize = 64;
/// An answer later than this is none.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// The same of an answer that is long, for a client: what a directory says at once comes over a line of 500 bytes a second. Nothing
/// is chosen meanwhile, so a slow line costs time and nothing else (T29).
const LONG_DEADLINE: Duration = Duration::from_secs(60);
/// Most dials under way that the overlay asked for, dial-backs aside.
const DIALS_MAX: usize = 8;
/// The core gives up a dial after its handshake deadline; this is for answers that never come.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// Neighbours of a relay; and most links that stay open to its ways in, or of a client.
const LINKS_KEPT: usize = 16;
/// After this long one more neighbour is drawn, and the one drawn first goes: all are others within eight hours, so that bad luck does
/// not last, and two dials in an hour are few beside the checks.
const DRAW_EVERY: Duration = Duration::from_secs(1800);
/// A link that is not kept closes when we asked nothing over it for so long, the time that an answer may take: by then the other end,
/// too, has asked for what it did not know.
const ERRAND: Duration = REQUEST_DEADLINE;
/// Requests that a link may make at once, and per second.
pub(super) const BUDGET_BURST: u32 = 512;
const BUDGET_PER_SEC: u32 = 64;

/// Relays that a relay keeps links to, whoever dialled, and asks.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// In the order of their being drawn.
    drawn: VecDeque<NodeId>,
    next: Time,
}

impl Neighbours {
    pub(super) const fn new(now: Time) -> Self {
        Self { drawn: VecDeque::new(), next: now }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &NodeId> {
        self.drawn.iter()
    }

    fn keep(&mut self, now: Time, node: NodeId) {
        if !self.drawn.contains(&node) {
            self.next = now + DRAW_EVERY;
            self.drawn.push_back(node);
            if self.drawn.len() > LINKS_KEPT {
                self.drawn.pop_front();
            }
        }
    }
}

impl Overlay {
    /// Draws a neighbour if one is missing, or it is time for another: of no /24 (of IPv6, no /32) that has one, as long as there are
    /// others. One that is linked needs no dial. True if one is dialled, to be asked for this region.
    pub(super) fn draw_neighbour(&mut self, env: &mut Env<'_>, target: [u8; 32]) -> bool {
        let Neighbours { drawn, next } = &self.neighbours;
        if drawn.len() >= LINKS_KEPT && env.now < *next {
            return false;
        }
        let (view, me) = (&self.view, self.me());
        let others = view.prefixes() > drawn.len();
        let near = |r: &Verified| others && drawn.iter().any(|n| view.get(n).is_some_and(|n| n.prefix() == r.prefix()));
        let fits = |r: &&Arc<Verified>| Some(r.node()) != me && !drawn.contains(&r.node()) && !near(r);
        let Some(peer) = view.random(env.rng).filter(fits).map(|r| Peer { addr: r.addr(), node: r.node() }) else { return false };
        if self.by_node.contains_key(&peer.node) {
            self.neighbours.keep(env.now, peer.node);
            return false;
        }
        self.dial(env, peer, Purpose::Neighbour(target))
    }

    /// Closes links that only the overlay wanted, and wants no more. A relay keeps those to its neighbours and, as what the operator
    /// named and nobody can win, to its ways in; a client all. Of more than so many, the least recently used go.
    pub(super) fn release_idle(&mut self, now: Time) {
        let busy = |link: &LinkId| self.requests.values().any(|r| r.link == *link);
        let is_neighbour = |l: &Link| l.node.is_some_and(|n| self.neighbours.drawn.contains(&n));
        let stays = |l: &Link| !self.is_relay() || self.config.bootstrap.iter().any(|p| Some(p.node) == l.node);
        let done = |l: &Link| l.ours && l.used + ERRAND <= now && !is_neighbour(l);
        let mut idle: Vec<(bool, Time, LinkId)> =
            self.links.iter().filter(|(id, l)| done(l) && !busy(id)).map(|(id, l)| (stays(l), l.used, *id)).collect();
        idle.sort_unstable();
        let stay = idle.iter().filter(|(stays, ..)| *stays).count().min(LINKS_KEPT);
        idle.truncate(idle.len() - stay);
        for (.., link) in idle {
            if let Some(l) = self.links.get_mut(&link) {
                l.ours = false;
            }
            self.out.push_back(Output::Release { link });
        }
    }

    pub(super) fn link_up(
        &mut self,
        env: &mut Env<'_>,
        link: LinkId,
        node: Option<NodeId>,
        remote: SocketAddr,
        dialled: bool,
        wall: Option<Wall>,
    ) {
        let entry = Link { node, remote, dialled, ours: false, used: env.now, budget: BUDGET_BURST, budget_at: env.now };
        self.links.insert(link, entry);
        let Some(node) = node else { return };
        self.by_node.entry(node).or_insert(link);
        if dialled {
            self.reached(env.now, node, remote);
            if let Some(wall) = wall {
                self.clock.sample(Group::of(&remote), wall, env.wall, env.now);
                self.judge_clock(env);
            }
        }
        if self.is_relay() {
            self.stirs(env.now, &node);
            self.announce_on(env, link, node);
        }
        if self.is_relay() && self.view.entry(&node).is_none() {
            self.fetch(env, link, &[record::hint_id(&node)], Part::Both);
        }
    }

    /// Tells what is to be said of the own clock, when that changed.
    pub(super) fn judge_clock(&mut self, env: &Env<'_>) {
        if let Some((offset, level)) = self.clock.news(env.wall, env.now, self.view.counts().groups) {
            self.out.push_back(Output::Event(Event::Clock(offset, level)));
        }
    }

    pub(super) fn link_down(&mut self, env: &mut Env<'_>, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else { return };
        if let Some(node) = gone.node
            && self.by_node.get(&node) == Some(&link)
        {
            self.by_node.remove(&node);
            let other = self.links.iter().find(|(_, l)| l.node == Some(node)).map(|(id, _)| *id);
            match other {
                Some(other) => drop(self.by_node.insert(node, other)),
                None => self.neighbours.drawn.retain(|n| *n != node),
            }
        }
        let lost: Vec<u32> = self.requests.iter().filter(|(_, r)| r.link == link).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(request) = self.requests.remove(&id) {
                self.lost(env, id, &request);
            }
        }
    }

    /// Asks the core for a link, unless too many dials are under way or one to this relay is. True if asked.
    pub(super) fn dial(&mut self, env: &Env<'_>, peer: Peer, purpose: Purpose) -> bool {
        let back = matches!(purpose, Purpose::DialBack { .. });
        let fresh = back || purpose == Purpose::Check;
        let under_way = self.dials.values().filter(|d| !matches!(d.purpose, Purpose::DialBack { .. })).count();
        let same = self.dials.values().any(|d| d.expect == peer.node && d.purpose == purpose);
        if same || Some(peer.node) == self.me() || (!back && under_way >= DIALS_MAX) {
            return false;
        }
        self.next_token += 1;
        let token = self.next_token;
        self.dials.insert(token, Dial { purpose, expect: peer.node, addr: peer.addr, deadline: env.now + DIAL_DEADLINE });
        self.out.push_back(Output::Dial { token, addr: peer.addr, expect: peer.node, fresh });
        true
    }

    pub(super) fn dialled(&mut self, env: &mut Env<'_>, token: u64, link: Option<LinkId>) {
        let Some(dial) = self.dials.remove(&token) else { return };
        let good = link.filter(|l| self.links.get(l).is_some_and(|l| l.node == Some(dial.expect)));
        if good.is_none() {
            self.not_reached(env, dial.expect, dial.addr);
        }
        if let Purpose::DialBack { link: asker, id, subject, addr } = dial.purpose {
            return self.dialled_back(env, good, asker, id, subject, addr);
        }
        let Some(link) = good else {
            if dial.purpose == Purpose::Directory {
                self.directory_failed(env, dial.expect);
            }
            return;
        };
        if let Some(l) = self.links.get_mut(&link) {
            l.ours |= l.dialled;
            l.used = env.now;
        }
        match dial.purpose {
            Purpose::Bootstrap => self.joined(env, link),
            Purpose::Sweep(target) => self.ask_near(env, link, target),
            Purpose::Neighbour(target) => {
                self.neighbours.keep(env.now, dial.expect);
                self.ask_near(env, link, target);
            }
            Purpose::Ask => self.ask_receipt(env, link),
            Purpose::Directory => self.linked_directory(env, dial.expect),
            Purpose::Announce | Purpose::Check | Purpose::DialBack { .. } => {}
        }
    }

    /// An open link to a relay.
    pub(super) fn link_to(&self, node: &NodeId) -> Option<LinkId> {
        self.by_node.get(node).copied()
    }

    pub(super) fn send(&mut self, link: LinkId, message: &Message) {
        if self.links.contains_key(&link)
            && let Some(bytes) = message.encode()
        {
            self.out.push_back(Output::Send { link, bytes });
        }
    }

    /// Sends a request. False if too many are unanswered.
    pub(super) fn request(&mut self, env: &Env<'_>, link: LinkId, asked: Asked, message: impl FnOnce(u32) -> Message) -> bool {
        let Some(l) = self.links.get_mut(&link).filter(|_| self.requests.len() < REQUESTS_MAX) else { return false };
        l.used = env.now;
        self.next_request = self.next_request.wrapping_add(1);
        let id = self.next_request;
        let deadline = match asked {
            Asked::List { .. } | Asked::Bodies { .. } => LONG_DEADLINE,
            Asked::Near | Asked::Fetch | Asked::Announce | Asked::DialBack => REQUEST_DEADLINE,
        };
        self.requests.insert(id, Request { link, deadline: env.now + deadline, asked });
        self.send(link, &message(id));
        true
    }

    /// Takes the request that an answer belongs to: the same number, link and kind.
    pub(super) fn answered(&mut self, link: LinkId, id: u32, is: impl FnOnce(Asked) -> bool) -> Option<Request> {
        let fits = self.requests.get(&id).is_some_and(|r| r.link == link && is(r.asked));
        if fits { self.requests.remove(&id) } else { None }
    }

    /// A request that stays without answer.
    pub(super) fn lost(&mut self, env: &mut Env<'_>, id: u32, request: &Request) {
        if request.asked == Asked::Fetch {
            self.fetching.retain(|_, (_, by)| *by != id);
        } else {
            self.unanswered(env, request.asked);
        }
    }

    /// One request of a link's budget.
    pub(super) fn spend(&mut self, now: Time, link: LinkId) -> bool {
        let Some(l) = self.links.get_mut(&link) else { return false };
        let seconds = now.since(l.budget_at).as_secs();
        if seconds > 0 {
            l.budget = l.budget.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(BUDGET_PER_SEC));
            l.budget = l.budget.min(BUDGET_BURST);
            l.budget_at = now;
        }
        let left = l.budget.checked_sub(1);
        l.budget = left.unwrap_or(0);
        left.is_some()
    }
}
