//! Answers to others about the public view: what relays and clients ask over links, and clients through circuits.

use crate::base::Env;
use crate::base::LinkId;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::peek;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::view::Change;
use crate::proto::overlay::view::Changes;
use crate::proto::overlay::view::Entry;
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

impl Overlay {
    pub(super) fn serve(&mut self, env: &mut Env<'_>, link: LinkId, message: Message) {
        if !self.is_relay() || !self.spend(env.now, link) {
            return;
        }
        match message {
            Message::Announce { id, descriptor, freshness } => {
                // Everyone speaks for itself: who announces others could fill views, and the time of whoever checks (T29, T36).
                // Answers to our own questions keep half of the places.
                let sender = self.links.get(&link).and_then(|l| l.node);
                let own = |b: &Blob| peek(&b.0).is_some_and(|node| Some(node) == sender);
                if own(&descriptor) && own(&freshness) && self.jobs.len() < JOBS_MAX / 2 {
                    self.verify(link, vec![descriptor, freshness]);
                }
                self.send(env.now, link, &Message::AnnounceAck { id });
            }
            Message::DialBack { id, port } => self.dial_back(env, link, id, port),
            Message::Near { .. }
            | Message::NearReply { .. }
            | Message::Fetch { .. }
            | Message::FetchReply { .. }
            | Message::AnnounceAck { .. }
            | Message::List { .. }
            | Message::ListPage { .. }
            | Message::Faces { .. }
            | Message::DialBackReply { .. } => {
                if let Some(answer) = self.answer(&message, usize::MAX) {
                    self.send(env.now, link, &answer);
                }
            }
        }
    }

    /// The answer to a question about the public view: for links, and for questions that come through circuits, where an answer has
    /// no more bytes than `room`. `None` for all other messages.
    pub fn answer(&self, message: &Message, room: usize) -> Option<Message> {
        match message {
            Message::Near { id, target, max } => {
                let near = self.view.near(target, usize::from(*max).min(NEAR_MAX));
                Some(Message::NearReply { id: *id, hints: near.map(hint).collect() })
            }
            Message::Fetch { id, ids, part } => {
                let (mut left, mut records) = (room.saturating_sub(FRAME), Vec::new());
                let known = ids
                    .iter()
                    .take(FETCH_MAX)
                    .filter_map(|hint| self.view.by_hint(*hint))
                    .filter(|e| !e.doubted() && self.view.in_reach(&e.relay));
                for entry in known {
                    let blobs = parts(entry, *part);
                    let len: usize = blobs.iter().map(|b| b.0.len() + FRAME).sum();
                    let Some(rest) = left.checked_sub(len) else { break };
                    left = rest;
                    records.extend(blobs);
                }
                Some(Message::FetchReply { id: *id, records })
            }
            Message::List { id, since } => {
                let known = since.filter(|s| s.epoch == self.epoch && s.number != 0);
                let changes = known.and_then(|s| self.view.changes(s.number, PAGE_MAX));
                let anew = changes.is_none();
                let changes = changes.or_else(|| self.view.changes(0, PAGE_MAX)).unwrap_or_else(Changes::none);
                let (mut gone, mut listed) = (Vec::new(), Vec::with_capacity(changes.list.len()));
                for change in changes.list {
                    match change {
                        Change::Came(relay) => {
                            let host = self.view.entry(&relay.node()).is_some_and(|e| e.host);
                            listed.push(Listed { id: relay.hint_id(), tag: relay.body().tag(), host });
                        }
                        Change::Gone(hint) => gone.push(hint),
                    }
                }
                let next = Cursor { epoch: self.epoch, number: changes.number };
                Some(Message::ListPage { id: *id, next, anew, more: changes.more, gone, listed })
            }
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
}

/// A relay in short.
pub(super) fn hint(relay: &Arc<Verified>) -> Hint {
    Hint { id: relay.hint_id(), tag: relay.digest_part(), fresh: relay.published().0 }
}

/// Bytes around a record, or around all of them, in a message: lengths and numbers.
const FRAME: usize = 32;

/// The records of a relay that were asked for.
fn parts(entry: &Entry, part: Part) -> Vec<Blob> {
    let body = (part != Part::Freshness).then(|| entry.relay.body().encode());
    let fresh = if part == Part::Descriptor { None } else { entry.relay.fresh().map(|f| f.encode()) };
    body.into_iter().chain(fresh).map(Blob).collect()
}
