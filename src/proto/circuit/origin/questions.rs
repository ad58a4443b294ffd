//! Questions about the public view, at the client's end of a circuit. Its last hop answers in order, and says nothing unasked.

use crate::base::StreamId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::origin::Origin;
use crate::proto::circuit::origin::OriginEvent;
use crate::proto::circuit::origin::Origins;
use crate::proto::circuit::origin::Stage;
use crate::proto::circuit::origin::Timer;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::slab::Key;
use crate::wire::cell::ANSWER_MAX;
use crate::wire::cell::Command;
use crate::wire::cell::RELAY_DATA;
use crate::wire::cell::RelayCommand;
use crate::wire::codec::Reader;
use std::collections::VecDeque;
use std::time::Duration;

/// A question on which nothing came for this long has failed, and its circuit with it: a bad round trip to each hop, three times.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// And one that is not answered in all after this, so that nobody holds us with a cell now and then: a slow line brings an answer in a
/// tenth of it.
const DEADLINE: Duration = Duration::from_secs(60);

/// One that is out.
struct Question {
    number: StreamId,
    /// The name that the layer above gave it.
    token: u64,
    asked: Time,
    heard: Time,
    /// The whole length, once it is known.
    total: Option<usize>,
    answer: Vec<u8>,
}

/// Those that are out on one circuit: at most [`limits::QUESTIONS_OUT`].
#[derive(Default)]
pub(super) struct Questions {
    out: VecDeque<Question>,
    last: u16,
}

impl Questions {
    /// Takes in a part of an answer. `Err`: nobody asked for it, or it is not what it must be. `Ok(Some)`: that was the last part.
    fn take(&mut self, now: Time, number: StreamId, data: &[u8]) -> Result<Option<(u64, Vec<u8>)>, ()> {
        let question = self.out.front_mut().filter(|q| q.number == number).ok_or(())?;
        let mut r = Reader::new(data);
        let total = match question.total {
            Some(total) => total,
            None => {
                let total = r.u32().ok().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= ANSWER_MAX).ok_or(())?;
                *question.total.insert(total)
            }
        };
        let (first, part) = (question.answer.is_empty(), r.rest());
        let room = RELAY_DATA - data.len().saturating_sub(part.len());
        if part.len() != room.min(total - question.answer.len()) {
            return Err(());
        }
        if first {
            question.answer.reserve_exact(total);
        }
        question.answer.extend_from_slice(part);
        question.heard = now;
        if question.answer.len() < total {
            return Ok(None);
        }
        Ok(self.out.pop_front().map(|q| (q.token, q.answer)))
    }

    /// When the first of them has failed: if nothing comes, and whatever comes.
    fn fails(&self) -> Option<(Time, Time)> {
        self.out.front().map(|q| (q.heard + QUIET_MAX, q.asked + DEADLINE))
    }
}

impl Origin {
    fn may_ask(&self) -> bool {
        matches!(self.stage, Stage::Built) && self.questions.out.len() < limits::QUESTIONS_OUT
    }
}

impl Origins {
    /// Puts a question of at most one cell to the last hop of a circuit that stands. False: it is longer, or as many as may be are
    /// out. What becomes of it: [`OriginEvent::Told`], or the circuit ends.
    pub(in crate::proto) fn ask(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, token: u64, bytes: &[u8]) -> bool {
        let now = ctx.env.now;
        let Some(circuit) = self.circuits.get_mut(key).filter(|c| c.may_ask() && bytes.len() <= RELAY_DATA) else { return false };
        let questions = &mut circuit.questions;
        questions.last = questions.last.wrapping_add(1);
        let number = StreamId(questions.last);
        questions.out.push_back(Question { number, token, asked: now, heard: now, total: None, answer: Vec::new() });
        circuit.say(ctx, links, Command::Relay, RelayCommand::Directory, number, bytes);
        self.timers.set_if_unset(Timer::Questions(key), now + QUIET_MAX);
        true
    }

    /// A part of an answer. One that nobody asked for ends the circuit, like all that makes no sense.
    pub(super) fn told(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, number: StreamId, data: &[u8]) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        match circuit.questions.take(ctx.env.now, number, data) {
            Ok(None) => {}
            Ok(Some((token, answer))) => {
                // The next one's turn began only now.
                if let Some(next) = circuit.questions.out.front_mut() {
                    next.heard = ctx.env.now;
                }
                self.events.push_back(OriginEvent::Told { key, token, answer });
            }
            Err(()) => self.end(ctx, links, key),
        }
    }

    /// Ends a circuit whose last hop owes an answer for too long.
    pub(super) fn look_at_questions(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key) {
        let Some(circuit) = self.circuits.get(key) else { return };
        let Some((quiet, latest)) = circuit.questions.fails() else { return };
        // While the question has not even left, a slow line is at fault and no relay.
        let leaving = circuit.port.and_then(|port| links.leaving(port)).is_some();
        let at = if leaving { quiet.max(ctx.env.now + QUIET_MAX) } else { quiet }.min(latest);
        if at <= ctx.env.now {
            self.end(ctx, links, key);
        } else {
            self.timers.set(Timer::Questions(key), at);
        }
    }

    /// The last hop answers the first question that is out.
    #[cfg(test)]
    pub(in crate::proto) fn answer_first(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links, key: Key, answer: &[u8]) {
        let first = self.circuits.get(key).and_then(|c| c.questions.out.front()).map(|q| q.number);
        let whole = [&u32::try_from(answer.len()).unwrap().to_be_bytes(), answer].concat();
        whole.chunks(RELAY_DATA).for_each(|part| self.told(ctx, links, key, first.unwrap(), part));
    }
}
