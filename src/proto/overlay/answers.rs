//! Answers to others about the public view: what relays and clients ask over links, and clients through circuits.

use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Change;
use crate::proto::overlay::view::Entry;
use crate::proto::overlay::view::Mark;
use crate::proto::overlay::view::View;
use crate::wire::cell::ANSWER_MAX;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Cursor;
use crate::wire::overlay::FETCH_MAX;
use crate::wire::overlay::Hint;
use crate::wire::overlay::Listed;
use crate::wire::overlay::Message;
use crate::wire::overlay::NEAR_MAX;
use crate::wire::overlay::PAGE_MAX;
use crate::wire::overlay::Part;
use std::sync::Arc;

/// Bytes around a record, or around all of them, in a message: lengths and numbers.
const FRAME: usize = 32;

/// What a relay says of its view. No answer costs work that grows with the view (T36).
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    view: &'a View,
    epoch: u64,
}

impl<'a> Answers<'a> {
    /// Of this view, in this run of the relay: the epoch is random at each start.
    pub const fn new(view: &'a View, epoch: u64) -> Self {
        Self { view, epoch }
    }

    /// The answer to a question: for links, and for questions that come through circuits, where an answer has no more bytes than
    /// `room`. `None` for all other messages.
    pub fn to(&self, message: &Message, room: usize) -> Option<Message> {
        match message {
            Message::Near { id, target, max } => {
                let near = self.view.near(target, usize::from(*max).min(NEAR_MAX));
                Some(Message::NearReply { id: *id, hints: near.map(hint).collect() })
            }
            Message::Fetch { id, ids, part } => Some(Message::FetchReply { id: *id, records: self.records(ids, *part, room) }),
            Message::List { id, since } => Some(self.page(*id, *since)),
            Message::NearReply { .. }
            | Message::FetchReply { .. }
            | Message::Announce { .. }
            | Message::AnnounceAck { .. }
            | Message::ListPage { .. }
            | Message::Faces { .. }
            | Message::DialBack { .. }
            | Message::DialBackReply { .. } => None,
        }
    }

    /// The answer to a question that came through a circuit, encoded; nothing if it is longer than a circuit carries. `None`: it is
    /// no question about the public view.
    pub fn bytes(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::decode(question).ok()?;
        let answer = if let Message::Near { id, target, max } = &question {
            // A sample: of those with IPv4, which every relay can dial and so knows.
            let near = self.view.near_ip4(target, usize::from(*max).min(NEAR_MAX));
            Message::NearReply { id: *id, hints: near.map(hint).collect() }
        } else {
            self.to(&question, ANSWER_MAX)?
        };
        Some(answer.encode().filter(|bytes| bytes.len() <= ANSWER_MAX).unwrap_or_default())
    }

    fn records(&self, ids: &[u64], part: Part, room: usize) -> Vec<Blob> {
        let (mut left, mut records) = (room.saturating_sub(FRAME), Vec::new());
        let known = ids
            .iter()
            .take(FETCH_MAX)
            .filter_map(|hint| self.view.by_hint(*hint))
            .filter(|e| !e.doubted() && self.view.in_reach(&e.relay));
        for entry in known {
            let blobs = parts(entry, part);
            let len: usize = blobs.iter().map(|b| b.0.len() + FRAME).sum();
            let Some(rest) = left.checked_sub(len) else { break };
            left = rest;
            records.extend(blobs);
        }
        records
    }

    fn page(&self, id: u32, since: Option<Cursor>) -> Message {
        let known = since.filter(|s| s.epoch == self.epoch);
        let changes = known.and_then(|s| self.view.changes(Mark { came: s.came, gone: s.gone }, PAGE_MAX));
        let anew = changes.is_none();
        let changes = changes.unwrap_or_else(|| self.view.listed(PAGE_MAX));
        let (mut gone, mut listed) = (Vec::new(), Vec::with_capacity(changes.list.len()));
        for change in changes.list {
            match change {
                Change::Came(relay) => listed.push(self.listed(relay)),
                Change::Gone(hint) => gone.push(hint),
            }
        }
        let next = Cursor { epoch: self.epoch, came: changes.next.came, gone: changes.next.gone };
        Message::ListPage { id, next, anew, more: changes.more, gone, listed }
    }

    fn listed(&self, relay: &Arc<Verified>) -> Listed {
        let host = self.view.entry(&relay.node()).is_some_and(|e| e.host);
        Listed { id: relay.hint_id(), tag: relay.body().tag(), slot: relay.body().slot16(self.view.is_local()), host }
    }
}

/// A relay in short.
fn hint(relay: &Arc<Verified>) -> Hint {
    Hint { id: relay.hint_id(), tag: relay.digest_part(), fresh: relay.published().0 }
}

/// The records of a relay that were asked for.
fn parts(entry: &Entry, part: Part) -> Vec<Blob> {
    let body = (part != Part::Freshness).then(|| entry.relay.body().encode());
    let fresh = if part == Part::Descriptor { None } else { entry.relay.fresh().map(|f| f.encode()) };
    body.into_iter().chain(fresh).map(Blob).collect()
}
