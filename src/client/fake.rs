//! A node made of memory, for tests: keeps what is published, gives it back, and can be told to misbehave.

use crate::base::ErrorKind;
use crate::base::OpId;
use crate::client::Operations;
use crate::client::failure;
use crate::crypto::secret::Secret;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::CheckReport;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::Progress;
use crate::proto::event::Report;
use crate::proto::event::Status;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::sync::mpsc;

/// Bytes of a piece, as the node would give them.
pub(crate) const PIECE: usize = 64 * 1024;
/// Most bytes that are given before the receiver says that it has dealt with some.
const WINDOW: u64 = 4 * PIECE as u64;

/// What all clones share.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Documents by the text of their key.
    pub(crate) documents: BTreeMap<String, Vec<u8>>,
    /// Gets fail after this many bytes of their own.
    pub(crate) fail_after: Option<u64>,
    /// Where each get started.
    pub(crate) offsets: Vec<u64>,
    /// Operations that were cancelled.
    pub(crate) cancelled: usize,
    /// What the last publication asked for.
    pub(crate) asked: Option<(Option<String>, u16, Option<[u8; 32]>)>,
    running: BTreeMap<u64, mpsc::UnboundedSender<Command>>,
    next: u64,
}

/// The node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<World>>);

/// The read key of the `n`-th document.
pub(crate) fn key(n: u8) -> ReadKey {
    ReadKey::new(Secret::new([n; 32]), [9; 32], false)
}

impl Fake {
    /// Puts a document there, as if published.
    pub(crate) fn with(n: u8, document: &[u8]) -> Self {
        let fake = Self::default();
        fake.0.lock().unwrap().documents.insert(key(n).to_text(), document.to_vec());
        fake
    }

    async fn publish(
        self,
        length: u64,
        convergent: bool,
        mut commands: mpsc::UnboundedReceiver<Command>,
        tell: mpsc::Sender<Event>,
    ) {
        let (mut document, mut first) = (Vec::new(), Vec::new());
        let mut again = convergent;
        while (document.len() as u64) < length {
            let len = PIECE.min(length as usize - document.len());
            let _ = tell.send(Event::Need { offset: document.len() as u64, len }).await;
            let Some(Command::Plain(bytes)) = commands.recv().await else {
                return;
            };
            assert_eq!(bytes.len(), len);
            document.extend_from_slice(&bytes);
            let progress = Progress { bytes: document.len() as u64, total: length, shares: 0 };
            let _ = tell.send(Event::Progress(progress)).await;
            if again && document.len() as u64 == length {
                first = core::mem::take(&mut document);
                again = false;
            }
        }
        if convergent && first != document {
            let _ = tell.send(Event::Failed(Failure::file_changed())).await;
            return;
        }
        let n = {
            let mut world = self.0.lock().unwrap();
            let n = world.documents.len() as u8;
            world.documents.insert(key(n).to_text(), document);
            n
        };
        let _ = tell.send(Event::Key(key(n))).await;
        let report = Report { bytes: length, chunks: 1, ..Report::default() };
        let _ = tell.send(Event::Published { key: key(n), report }).await;
    }

    async fn get(self, text: String, offset: u64, mut commands: mpsc::UnboundedReceiver<Command>, tell: mpsc::Sender<Event>) {
        let (document, fail_after) = {
            let mut world = self.0.lock().unwrap();
            world.offsets.push(offset);
            (world.documents.get(&text).cloned(), world.fail_after)
        };
        let gone = |what: &str| Event::Failed(failure(ErrorKind::NotFound, what, "", "Try again."));
        let Some(document) = document else {
            let _ = tell.send(gone("Nobody holds it.")).await;
            return;
        };
        let length = document.len() as u64;
        if offset > length {
            let _ = tell.send(Event::Failed(Failure::offset_beyond_end())).await;
            return;
        }
        let found = Event::Found { length, name: Some("a name".into()), media_type: None };
        let _ = tell.send(found).await;
        let mut given = 0;
        let mut consumed = 0;
        for piece in document.get(offset as usize..).unwrap_or_default().chunks(PIECE) {
            if fail_after.is_some_and(|max| given + piece.len() as u64 > max) {
                let _ = tell.send(gone("Too few shares are left.")).await;
                return;
            }
            given += piece.len() as u64;
            let _ = tell.send(Event::Data(Bytes::copy_from_slice(piece))).await;
            while given - consumed > WINDOW {
                match commands.recv().await {
                    Some(Command::Consumed(n)) => consumed += n,
                    _ => return,
                }
            }
        }
        let _ = tell.send(Event::Fetched(Report { bytes: length, ..Report::default() })).await;
    }
}

impl Operations for Fake {
    fn submit(&self, command: Command) -> (OpId, mpsc::Receiver<Event>) {
        let (tell, events) = mpsc::channel(4);
        let (say, commands) = mpsc::unbounded_channel();
        let op = {
            let mut world = self.0.lock().unwrap();
            world.next += 1;
            let op = world.next;
            world.running.insert(op, say);
            op
        };
        let fake = self.clone();
        match command {
            Command::Publish(wish) => {
                let convergent = wish.convergent.map(|local| *local.expose());
                self.0.lock().unwrap().asked = Some((wish.name, wish.lease_days, convergent));
                tokio::spawn(fake.publish(wish.length, convergent.is_some(), commands, tell));
            }
            Command::Get { key, offset } => {
                tokio::spawn(fake.get(key.to_text(), offset, commands, tell));
            }
            Command::Check { .. } => {
                let report = CheckReport { chunks: 7, ..CheckReport::default() };
                tell.try_send(Event::Checked(report)).unwrap();
            }
            Command::Status => {
                let status = Status { relays: 24, ..Status::default() };
                tell.try_send(Event::Status(status)).unwrap();
            }
            Command::Plain(_) | Command::Consumed(_) | Command::Cancel => panic!("no operation starts with this"),
        }
        (OpId(op), events)
    }

    fn command(&self, op: OpId, command: Command) {
        let mut world = self.0.lock().unwrap();
        if matches!(command, Command::Cancel) {
            world.cancelled += 1;
            world.running.remove(&op.0);
        } else if let Some(say) = world.running.get(&op.0) {
            let _ = say.send(command);
        }
    }
}
