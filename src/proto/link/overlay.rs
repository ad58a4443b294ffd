//! Messages of the overlay plane in fragments of a cell:
//! `flags u8 (1 first, 2 last) | length u16 | [total u32, first only] | data`.

use crate::base::limits;
use crate::wire::cell::BODY;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Reader;
use bytes::BytesMut;
use std::collections::VecDeque;

const FIRST: u8 = 1;
const LAST: u8 = 2;
/// Data bytes of a fragment; the first carries four bytes less.
const FRAGMENT: usize = BODY - 3;

/// Puts fragments together. Memory grows with what arrived, never with what was announced.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    total: usize,
    bytes: Vec<u8>,
    open: bool,
}

impl Inbox {
    /// What it takes, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes one fragment; gives the message when it was the last.
    pub(super) fn take(&mut self, body: &[u8; BODY]) -> Result<Option<Vec<u8>>, DecodeError> {
        let mut r = Reader::new(body);
        let flags = r.u8()?;
        let mut n = usize::from(r.u16()?);
        if flags & !(FIRST | LAST) != 0 || self.open == (flags & FIRST != 0) {
            return Err(DecodeError::Invalid);
        }
        if flags & FIRST != 0 {
            self.total = usize::try_from(r.u32()?).map_err(|_| DecodeError::TooLarge)?;
            if self.total > limits::OVERLAY_MESSAGE_MAX {
                return Err(DecodeError::TooLarge);
            }
            n = n.checked_sub(4).ok_or(DecodeError::Short)?;
        }
        self.bytes.extend_from_slice(r.take(n)?);
        self.open = flags & LAST == 0;
        if self.bytes.len() > self.total || (!self.open && self.bytes.len() != self.total) || (self.open && n == 0) {
            return Err(DecodeError::Invalid);
        }
        Ok((!self.open).then(|| core::mem::take(&mut self.bytes)))
    }
}

/// Bytes of messages that one link may hold back; a message that does not fit is dropped, and its sender's request times out.
const OUTBOX_MAX: usize = 2 * limits::OVERLAY_MESSAGE_MAX;

/// Messages on their way out, a cell at a time.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Vec<u8>>,
    sent: usize,
    bytes: usize,
}

impl Outbox {
    /// Takes a message; false if it was dropped.
    pub(super) fn push(&mut self, message: Vec<u8>) -> bool {
        if message.len() > limits::OVERLAY_MESSAGE_MAX || self.bytes + message.len() > OUTBOX_MAX {
            return false;
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        true
    }

    /// What waits here, in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds the next fragment's body to a batch of cells, if there is one.
    pub(super) fn pop(&mut self, batch: &mut BytesMut) {
        let Some(message) = self.messages.front() else { return };
        let first = self.sent == 0;
        let room = if first { FRAGMENT - 4 } else { FRAGMENT };
        let rest = message.get(self.sent..).unwrap_or_default();
        let data = rest.get(..room).unwrap_or(rest);
        let last = data.len() == rest.len();
        let flags = if first { FIRST } else { 0 } | if last { LAST } else { 0 };
        let [t0, t1, t2, t3] = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let [n0, n1] = u16::try_from(data.len() + if first { 4 } else { 0 }).unwrap_or(u16::MAX).to_be_bytes();
        let head = [flags, n0, n1, t0, t1, t2, t3];
        let head = if first { &head[..] } else { &head[..3] };
        let end = batch.len() + BODY;
        batch.extend_from_slice(head);
        batch.extend_from_slice(data);
        batch.resize(end, 0);
        self.sent += data.len();
        self.bytes -= data.len();
        if last {
            self.messages.pop_front();
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_come_back() {
        let mut out = Outbox::default();
        let mut inbox = Inbox::default();
        let lens = [0, 1, FRAGMENT - 5, FRAGMENT - 4, FRAGMENT - 3, 2 * FRAGMENT - 4, 100_000];
        for n in lens {
            assert!(out.push((0..n).map(|i| (i % 251) as u8).collect()));
        }
        let mut got = Vec::new();
        while !out.is_empty() {
            let mut body = BytesMut::new();
            out.pop(&mut body);
            got.extend(inbox.take(body.as_ref().try_into().unwrap()).unwrap());
        }
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), lens);
        assert!(got.iter().all(|m| m.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8)));
        assert_eq!((out.bytes, out.messages.len()), (0, 0));
    }

    #[test]
    fn lies_about_length_and_order_are_refused() {
        let mut body = [0; BODY];
        body[..7].copy_from_slice(&[FIRST, 0, 4, 0xff, 0, 0, 0]);
        assert_eq!(Inbox::default().take(&body), Err(DecodeError::TooLarge));
        body[..7].copy_from_slice(&[FIRST | LAST, 0, 5, 0, 0, 0, 2]);
        assert_eq!(Inbox::default().take(&body), Err(DecodeError::Invalid));
        body[..3].copy_from_slice(&[LAST, 0, 0]);
        assert_eq!(Inbox::default().take(&body), Err(DecodeError::Invalid));
        body[..3].copy_from_slice(&[FIRST | LAST, 0, 3]);
        assert_eq!(Inbox::default().take(&body), Err(DecodeError::Short));
    }
}
