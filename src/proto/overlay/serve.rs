//! What others ask a relay over links.

use crate::base::Env;
use crate::base::LinkId;
use crate::proto::overlay::JOBS_MAX;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::peek;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Message;

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
                self.send(link, &Message::AnnounceAck { id });
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
                if let Some(answer) = self.answers().to(&message, usize::MAX) {
                    self.send(link, &answer);
                }
            }
        }
    }
}
