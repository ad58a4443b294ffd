//! Questions about the public view, at the last hop of a circuit: what is in them is for the overlay to say.

use crate::base::StreamId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::hop::Hop;
use crate::proto::circuit::hop::Hops;
use crate::proto::circuit::hop::Next;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use crate::proto::slab::Key;
use crate::wire::cell::ANSWER_CELLS;
use crate::wire::cell::ANSWER_MAX;
use crate::wire::cell::RELAY_DATA;
use crate::wire::cell::RelayCommand;

/// One, from the client of a circuit that ends here.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number on this circuit, for its answer.
    pub stream: StreamId,
    /// As it came.
    pub bytes: Vec<u8>,
}

impl Hop {
    /// Whether its client may ask something now. One cell brings many, so the client's credit alone would let it fill our memory: but
    /// whoever keeps to [`limits::QUESTIONS_OUT`] has one answer waiting here at the most when it asks again (T35).
    pub(super) fn may_ask(&mut self, now: Time, links: &Links) -> bool {
        let fits = matches!(self.next, Next::None) && links.queued_on(self.prev) <= ANSWER_CELLS;
        fits && self.pace.take(now, limits::QUESTIONS_AT_ONCE, limits::QUESTION_EVERY)
    }
}

impl Hops {
    /// The answer to a question that [`Hops::outbound`] gave out; one that is too long is not given. `None`: it was no question
    /// about the public view, and the circuit ends as with any other cell that makes no sense (T10).
    pub(in crate::proto) fn tell(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        links: &mut Links,
        key: Key,
        stream: StreamId,
        answer: Option<&[u8]>,
    ) {
        let Some(answer) = answer else { return self.destroy(ctx, links, key) };
        let Some(hop) = self.hops.get_mut(key) else { return };
        let answer = if answer.len() <= ANSWER_MAX { answer } else { &[] };
        let total = u32::try_from(answer.len()).unwrap_or_default();
        let whole = [&total.to_be_bytes(), answer].concat();
        let mut parts = whole.chunks(RELAY_DATA).peekable();
        while let Some(part) = parts.next() {
            // One cell came, so one is granted again: when all of what it caused has left.
            let due = parts.peek().is_none().then_some(hop.prev);
            Self::say(ctx, links, hop, RelayCommand::DirectoryReply, stream, part, due);
        }
    }
}
