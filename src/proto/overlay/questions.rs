//! Questions through circuits: to a client's directories (`sync.rs`), and its samples of how much of the network it knows (D8).
//!
//! Their request number is always zero: numbers that count on would tell relays on different circuits, and the guard on its link,
//! that one client asks (T14).

use crate::base::Env;
use crate::base::NodeId;
use crate::base::Time;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Output;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::lists::Page;
use crate::wire::overlay::Message;
use crate::wire::overlay::NEAR_MAX;

/// Most that are on their way: of each directory a page, descriptors and another face, and the samples.
pub(super) const MAX: usize = 24;
/// Of them, samples: groups enough for a verdict answer the first time, and some may fail.
const SAMPLES_MAX: usize = 12;
/// The number of every question.
pub(super) const ID: u32 = 0;

impl Overlay {
    /// Asks through a circuit. False if too many are on their way.
    pub(super) fn ask(&mut self, to: Option<NodeId>, asked: Asked, message: &Message) -> bool {
        let Some(bytes) = message.encode().filter(|_| self.questions.len() < MAX) else { return false };
        self.next_token += 1;
        let token = self.next_token;
        self.questions.insert(token, asked);
        self.out.push_back(Output::Ask { token, to, bytes });
        true
    }

    /// What became of a question.
    pub(super) fn told(&mut self, env: &mut Env<'_>, token: u64, from: Option<NodeId>, answer: Option<Vec<u8>>) {
        let Some(asked) = self.questions.remove(&token) else { return };
        let message = answer.and_then(|bytes| Message::decode(&bytes).ok());
        match (asked, message) {
            (Asked::Near, Some(Message::NearReply { id: ID, hints })) => {
                let knows =
                    |hint: u64| self.view.by_hint(hint).is_some_and(|e| e.usable) || self.view.faces_by_hint(hint).is_some();
                let known = hints.iter().filter(|hint| knows(hint.id)).count();
                // Who answered may have left the view meanwhile.
                let Some(group) = from.and_then(|node| self.view.get(&node)).map(|relay| relay.group()) else { return };
                let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                self.sample(env, group, count(known), count(hints.len()));
            }
            (Asked::Near, _) => self.sweep.no_sample(env.now),
            (Asked::List { directory }, Some(Message::ListPage { id: ID, next, anew, more, gone, listed })) => {
                self.list_page(env, directory, Page { next, anew, more, gone, listed });
            }
            (Asked::Bodies { directory, batch }, Some(Message::FetchReply { id: ID, records })) => {
                self.bodies(env, directory, batch, records);
            }
            (asked, _) => self.unanswered(env, asked),
        }
    }

    /// A client takes samples when its directories agreed, until it knows enough, and now and then after.
    pub(super) fn tick_samples(&mut self, env: &mut Env<'_>) {
        while self.samples_at().is_some_and(|at| at <= env.now) {
            let mut target = [0; 32];
            env.rng.fill_bytes(&mut target);
            let max = u16::try_from(NEAR_MAX).unwrap_or(u16::MAX);
            if !self.ask(None, Asked::Near, &Message::Near { id: ID, target, max }) {
                return;
            }
        }
    }

    /// When the next sample is to be taken.
    pub(super) fn samples_at(&self) -> Option<Time> {
        let out = self.questions.values().filter(|asked| **asked == Asked::Near).count();
        // Once it knows enough, one now and then is a check, and as many at a time would be a cost.
        let most = if self.sweep.ready() { 1 } else { SAMPLES_MAX };
        let wanted = self.sync.is_current() && out < most && self.questions.len() < MAX && self.view.counts().relays > 0;
        wanted.then(|| self.sweep.sample_at())
    }
}
