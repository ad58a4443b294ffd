//! Questions of the overlay plane that travel through circuits: which relays exist, asked of one of them. They carry nobody's wish,
//! so they may leave before the view is known well enough for paths that do (D8), and their circuits serve nothing else.

use crate::base::NodeId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::pace::Pace;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::overlay::view::View;
use crate::proto::requests::BUILDING_MAX;
use crate::proto::requests::Purpose;
use crate::proto::requests::RequestEvent;
use crate::proto::requests::Requests;
use crate::proto::slab::Key;
use crate::wire::cell::RELAY_DATA;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::time::Duration;

/// Most questions that wait for a circuit, or for their turn on one. The newest beyond it is refused.
const WAITING_MAX: usize = 16;
/// Most circuits to relays that are asked by name: twice what a client reads from.
const NAMED_MAX: usize = 6;
/// A question that no circuit took for this long has failed.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A circuit to a relay that is asked by name is kept for further questions while it pauses no longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// And no longer than this in all: the relay shall not take years of questions for one asker's.
const LIFE: Duration = Duration::from_secs(600);
/// Less than a last hop allows ([`limits::QUESTIONS_AT_ONCE`], [`limits::QUESTION_EVERY`]): on the way questions wait for each other,
/// and clocks run at different speeds.
const AT_ONCE: u32 = limits::QUESTIONS_AT_ONCE - 8;
const EVERY: Duration = Duration::from_millis(140);
const _: () = assert!(limits::QUESTION_EVERY.as_millis() < EVERY.as_millis());

/// A question about the public view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name, given back with what becomes of it: [`RequestEvent::Told`], once.
    pub token: u64,
    /// Whom to ask; `None` is any relay, each time another if there is one, on a circuit of its own.
    pub to: Option<NodeId>,
    /// An encoded overlay message, at most one cell.
    pub bytes: Vec<u8>,
}

/// A circuit that stands for questions.
#[derive(Debug)]
struct Circuit {
    /// The relay that is asked by name; `None` serves one question only.
    to: Option<NodeId>,
    out: BTreeSet<u64>,
    pace: Pace,
    moved: Time,
}

/// Questions that wait, and the circuits for them.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<(Question, Time)>,
    circuits: BTreeMap<Key, Circuit>,
}

impl Questions {
    pub(super) fn circuits(&self) -> impl Iterator<Item = &Key> {
        self.circuits.keys()
    }

    /// Those that are out on a circuit.
    #[cfg(test)]
    pub(super) fn out(&self, key: Key) -> Vec<u64> {
        self.circuits.get(&key).map(|c| c.out.iter().copied().collect()).unwrap_or_default()
    }

    /// Those that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.waiting.iter().map(|(question, _)| question.token).collect()
    }

    fn standing(&self, to: &NodeId) -> bool {
        self.circuits.values().any(|c| c.to == Some(*to))
    }

    /// When to look at them next: at the latest at `housekeeping`, and when the pace of one lets the next question go.
    pub(super) fn timeout(&self, housekeeping: Time) -> Option<Time> {
        if self.waiting.is_empty() && self.circuits.is_empty() {
            return None;
        }
        let waits = |c: &&Circuit| c.out.is_empty() && self.waiting.iter().any(|(q, _)| q.to == c.to);
        let paced = self.circuits.values().filter(waits).map(|c| c.pace.next(AT_ONCE, EVERY));
        paced.chain([housekeeping]).min()
    }
}

impl Requests {
    /// Puts a question about the public view on its way.
    pub fn question(&mut self, now: Time, question: Question) {
        if self.questions.waiting.len() < WAITING_MAX && question.bytes.len() <= RELAY_DATA {
            self.questions.waiting.push_back((question, now));
        } else {
            self.untold(question.token);
        }
    }

    fn untold(&mut self, token: u64) {
        self.events.push_back(RequestEvent::Told { token, from: None, answer: None });
    }

    /// A circuit stands that was built for questions.
    pub(super) fn stands(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, to: Option<NodeId>) {
        let circuit = Circuit { to, out: BTreeSet::new(), pace: Pace::default(), moved: ctx.env.now };
        self.questions.circuits.insert(key, circuit);
        self.send_questions(ctx, links);
        if to.is_none() && self.questions.circuits.get(&key).is_some_and(|c| c.out.is_empty()) {
            // What it was for waits no longer.
            self.questions_ended(key);
            self.origins.end(ctx, links, key);
        }
    }

    /// Sends what circuits that stand can take.
    pub(super) fn send_questions(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        let mut gone = Vec::new();
        self.questions.waiting.retain(|(question, _)| {
            let free = |c: &Circuit| c.out.len() < if c.to.is_some() { limits::QUESTIONS_OUT } else { 1 };
            let fit = self.questions.circuits.iter_mut().filter(|(key, c)| c.to == question.to && free(c) && !gone.contains(*key));
            let mut fit = fit.filter_map(|(key, c)| c.pace.take(ctx.env.now, AT_ONCE, EVERY).then_some((key, c)));
            let Some((key, circuit)) = fit.next() else { return true };
            if !self.origins.ask(ctx, links, *key, question.token, &question.bytes) {
                // It has just ended.
                gone.push(*key);
                return true;
            }
            circuit.moved = ctx.env.now;
            circuit.out.insert(question.token);
            false
        });
        gone.into_iter().for_each(|key| self.questions_ended(key));
    }

    /// The answer came.
    pub(super) fn told(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, token: u64, answer: Vec<u8>) {
        let from = self.origins.path(key).map(|[.., last]| last);
        let Some(circuit) = self.questions.circuits.get_mut(&key) else { return };
        circuit.moved = ctx.env.now;
        if circuit.out.remove(&token) {
            self.events.push_back(RequestEvent::Told { token, from, answer: Some(answer).filter(|a| !a.is_empty()) });
        }
        if self.questions.circuits.get(&key).is_some_and(|c| c.to.is_none()) {
            self.questions_ended(key);
            self.origins.end(ctx, links, key);
        }
    }

    /// A circuit ended: what was out on it stays without an answer.
    pub(super) fn questions_ended(&mut self, key: Key) {
        if let Some(circuit) = self.questions.circuits.remove(&key) {
            circuit.out.into_iter().for_each(|token| self.untold(token));
        }
    }

    /// Lets go of what waited or paused too long.
    pub(super) fn expire_questions(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        let now = ctx.env.now;
        let (late, waiting): (VecDeque<_>, _) =
            core::mem::take(&mut self.questions.waiting).into_iter().partition(|(_, since)| now.since(*since) >= WAIT_MAX);
        self.questions.waiting = waiting;
        late.into_iter().for_each(|(question, _)| self.untold(question.token));
        let rests = |(key, c): &(&Key, &Circuit)| {
            c.out.is_empty() && (now.since(c.moved) >= PAUSE_MAX || self.origins.age(**key, now) >= LIFE)
        };
        let over: Vec<Key> = self.questions.circuits.iter().filter(rests).map(|(key, _)| *key).collect();
        for key in over {
            self.questions_ended(key);
            self.origins.end(ctx, links, key);
        }
    }

    /// Starts circuits for questions that have none.
    pub(super) fn build_for_questions(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, view: &View) {
        let mut named: Vec<NodeId> = self.questions.waiting.iter().filter_map(|(q, _)| q.to).collect();
        named.sort_unstable();
        named.dedup();
        for to in named {
            let coming = self.building.values().any(|p| *p == Purpose::Directory(to));
            if coming || self.questions.standing(&to) || self.building.len() >= BUILDING_MAX || !self.named_room(ctx, links) {
                continue;
            }
            if !self.start(ctx, view, Purpose::Directory(to)) {
                // No path leads there, now or ever: it is the guard, or stands too near to it, or failed lately.
                let (gone, waiting): (VecDeque<_>, _) =
                    core::mem::take(&mut self.questions.waiting).into_iter().partition(|(q, _)| q.to == Some(to));
                self.questions.waiting = waiting;
                gone.into_iter().for_each(|(question, _)| self.untold(question.token));
            }
        }
        let coming = self.building.values().filter(|p| **p == Purpose::Sample).count();
        for _ in coming..self.questions.waiting.iter().filter(|(q, _)| q.to.is_none()).count() {
            if !self.start(ctx, view, Purpose::Sample) {
                break;
            }
        }
    }

    /// Whether one more circuit to a relay that is asked by name may be built: if need be in place of the one that pauses longest.
    fn named_room(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) -> bool {
        let coming = self.building.values().filter(|p| matches!(p, Purpose::Directory(_))).count();
        let named = || self.questions.circuits.iter().filter(|(_, c)| c.to.is_some());
        if named().count() + coming < NAMED_MAX {
            return true;
        }
        let wanted = |c: &Circuit| self.questions.waiting.iter().any(|(q, _)| q.to == c.to);
        let idle = named().filter(|(_, c)| c.out.is_empty() && !wanted(c)).min_by_key(|(_, c)| c.moved).map(|(key, _)| *key);
        let Some(key) = idle else { return false };
        self.questions_ended(key);
        self.origins.end(ctx, links, key);
        true
    }
}
