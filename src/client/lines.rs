//! The messages of the local API's streams: lines of JSON, one object with one field each.
//!
//! ```text
//! {"progress":{"bytes":..,"total":..,"shares":..}}
//! {"found":{"length":..,"name":..,"media_type":..}}
//! {"data":N}                    followed by N raw bytes of the document
//! {"key":".."}                 of a publication that is not stored yet: keep it from now on
//! {"published":{"key":"..","report":{..}}}   {"fetched":{..}}   {"checked":{..}}   {"error":{"kind","what","kept","next"}}
//! ```
//! A stream ends with `published`, `fetched`, `checked` or `error`. One that ends without is broken off: what came is not the
//! whole.

use crate::base::ErrorKind;
use crate::client::Found;
use crate::client::failure;
use crate::proto::event::CheckReport;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::Report;
use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use core::pin::Pin;
use core::task::Context;
use core::task::Poll;
use hyper::body::Body;
use hyper::body::Frame;
use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;
use std::io;
use tokio::sync::mpsc;

/// Longest line: a report with many paths stays far below.
const LINE_MAX: usize = 1 << 20;
/// Most bytes of one data message.
pub const DATA_MAX: usize = 1 << 20;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// How far it is.
    Progress(Progress),
    /// The document stands.
    Found(Found),
    /// So many raw bytes follow.
    Data(usize),
    /// The read key as text that a publication will have, before all of it is stored.
    Key(String),
    /// A publication stands.
    Published {
        /// The read key as text.
        key: String,
        /// How it went.
        report: Report,
    },
    /// All bytes were delivered.
    Fetched(Report),
    /// What a check found.
    Checked(CheckReport),
    /// It did not work.
    Error(#[serde(serialize_with = "sentences")] Failure),
}

/// What an error says was kept when it says nothing.
const NOTHING_KEPT: &str = "Nothing; nothing needs to be cleaned up.";

/// Whether an error says nothing of what was kept: at its source, or where the API has filled that in.
pub fn keeps_nothing(why: &Failure) -> bool {
    why.kept.is_empty() || why.kept == NOTHING_KEPT
}

/// An error as people and programs are told it: in sentences, and with none left out.
pub fn in_sentences(why: &Failure) -> Failure {
    let or = |text: &str, other: &str| match text {
        "" => other.to_owned(),
        text if text.ends_with(['.', ':']) => text.to_owned(),
        text => format!("{text}."),
    };
    let (kept, next) = (or(&why.kept, NOTHING_KEPT), or(&why.next, "Repeat the command."));
    Failure { kind: why.kind, what: why.what.clone(), kept, next }
}

fn sentences<S: Serializer>(why: &Failure, to: S) -> Result<S::Ok, S::Error> {
    in_sentences(why).serialize(to)
}

/// An error as the API tells it: `{"error":{..}}`.
pub fn error_json(why: &Failure) -> String {
    serde_json::to_string(&Line::Error(why.clone())).unwrap_or_default()
}

impl Line {
    /// The line with its line feed.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new().writer();
        if serde_json::to_writer(&mut out, self).is_err() {
            // Strings, numbers and addresses always have a JSON form.
            debug_assert!(false, "a line is always JSON");
        }
        let mut out = out.into_inner();
        out.put_u8(b'\n');
        out.freeze()
    }
}

/// Takes messages out of a byte stream. Holds one line or one piece of data at most, beside what one read brought.
#[derive(Debug, Default)]
pub struct LineReader {
    buffer: BytesMut,
    data_left: usize,
}

/// What a [`LineReader`] gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A line other than [`Line::Data`].
    Line(Line),
    /// Raw bytes.
    Data(Bytes),
}

impl LineReader {
    /// Takes in what arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if it is here.
    pub fn take(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if self.data_left > 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                let bytes = self.buffer.split_to(self.data_left.min(self.buffer.len())).freeze();
                self.data_left -= bytes.len();
                return Ok(Some(Message::Data(bytes)));
            }
            let Some(end) = self.buffer.iter().position(|b| *b == b'\n') else {
                return if self.buffer.len() > LINE_MAX { Err(garbled()) } else { Ok(None) };
            };
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            match serde_json::from_slice(&line).map_err(|_| garbled())? {
                Line::Data(n) if n > DATA_MAX => return Err(garbled()),
                Line::Data(n) => self.data_left = n,
                line @ (Line::Progress(_)
                | Line::Found(_)
                | Line::Key(_)
                | Line::Published { .. }
                | Line::Fetched(_)
                | Line::Checked(_)
                | Line::Error(_)) => return Ok(Some(Message::Line(line))),
            }
        }
    }
}

/// What came through the socket makes no sense.
pub fn garbled() -> Failure {
    failure(
        ErrorKind::Other,
        "the running node answers in a way that this program does not understand",
        "",
        "Make sure that the node and this program are of the same version.",
    )
}

/// An HTTP body that is fed through a channel. Its end is the channel's; an error breaks the connection off.
#[derive(Debug)]
pub struct ChannelBody(mpsc::Receiver<io::Result<Bytes>>);

impl ChannelBody {
    /// A body and what feeds it. A few pieces wait in between; then the feeder does.
    pub fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (tx, rx) = mpsc::channel(4);
        (tx, Self(rx))
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let mut stream = Vec::new();
        stream.extend_from_slice(&Line::Found(Found { length: 5, name: Some("a\nb".into()), media_type: None }).encode());
        stream.extend_from_slice(&Line::Data(5).encode());
        stream.extend_from_slice(b"he\nlo");
        stream.extend_from_slice(&Line::Fetched(Report::default()).encode());
        for cut in 1..stream.len() {
            let mut reader = LineReader::default();
            let mut data = Vec::new();
            let mut lines = Vec::new();
            for piece in stream.chunks(cut) {
                reader.feed(piece);
                while let Some(message) = reader.take().unwrap() {
                    match message {
                        Message::Data(bytes) => data.extend_from_slice(&bytes),
                        Message::Line(line) => lines.push(line),
                    }
                }
            }
            assert_eq!(data, b"he\nlo");
            assert_eq!(lines.len(), 2, "cut {cut}");
        }
    }

    #[test]
    fn nonsense_and_endless_lines_are_refused() {
        for bad in ["{}\n", "{\"data\":-1}\n", "{\"data\":99999999}\n", "x\n", "\n", "{\"what\":1}\n"] {
            let mut reader = LineReader::default();
            reader.feed(bad.as_bytes());
            assert!(reader.take().is_err(), "{bad}");
        }
        let mut reader = LineReader::default();
        reader.feed(&vec![b' '; LINE_MAX + 1]);
        assert!(reader.take().is_err());
    }

    #[test]
    fn an_error_reads_as_documented() {
        let why = failure(ErrorKind::NotFound, "gone", "", "ask again");
        let text =
            r#"{"error":{"kind":"not-found","what":"gone","kept":"Nothing; nothing needs to be cleaned up.","next":"ask again."}}"#;
        assert_eq!(error_json(&why), text);
        assert_eq!(&Line::Error(why).encode()[..], format!("{text}\n").as_bytes());
    }
}
