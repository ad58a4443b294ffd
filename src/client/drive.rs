//! One operation over a node in this process. Whatever ends it, the node is told: dropping the future cancels the operation.

use crate::base::ErrorKind;
use crate::base::OpId;
use crate::client::Found;
use crate::client::Operations;
use crate::client::Publish;
use crate::client::PublishWatch;
use crate::client::Published;
use crate::client::Publishing;
use crate::client::Sink;
use crate::client::Source;
use crate::client::Watch;
use crate::client::failure;
use crate::crypto::secret::Secret;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::CheckReport;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::event::PublishWish;
use crate::proto::event::Report;
use crate::proto::event::Status;
use tokio::sync::mpsc;

/// An operation of a node; cancelled when it is dropped before its end.
struct Running<'a, H: Operations> {
    node: &'a H,
    op: OpId,
    events: mpsc::Receiver<Event>,
    open: bool,
}

impl<'a, H: Operations> Running<'a, H> {
    fn start(node: &'a H, command: Command) -> Self {
        let (op, events) = node.submit(command);
        Self { node, op, events, open: true }
    }

    fn say(&self, command: Command) {
        self.node.command(self.op, command);
    }

    /// The next event that is not the end in failure.
    async fn next(&mut self) -> Result<Event, Failure> {
        match self.events.recv().await {
            Some(Event::Failed(why)) => {
                self.open = false;
                Err(why)
            }
            Some(event) => Ok(event),
            None => {
                self.open = false;
                Err(failure(
                    ErrorKind::Other,
                    "the node stopped while it was at work",
                    "",
                    "Start it again and repeat the command.",
                ))
            }
        }
    }

    fn done(&mut self) {
        self.open = false;
    }
}

impl<H: Operations> Drop for Running<'_, H> {
    fn drop(&mut self) {
        if self.open {
            self.node.command(self.op, Command::Cancel);
        }
    }
}

fn confused() -> Failure {
    failure(ErrorKind::Other, "the node and its client disagree: this is a bug in Onionskin", "", "Please report it.")
}

/// Publishes what the source gives. `local` is the secret that a convergent document needs.
pub async fn publish<H: Operations, S: Source>(
    node: &H,
    ask: Publish,
    local: Option<Secret<32>>,
    source: &mut S,
    watch: PublishWatch<'_>,
) -> Result<Published, Failure> {
    ask.fits()?;
    if ask.convergent != local.is_some() {
        return Err(confused());
    }
    let length = ask.length;
    let (mut given, mut again) = (0_u64, ask.convergent);
    let mut run = Running::start(
        node,
        Command::Publish(PublishWish {
            length,
            name: ask.name,
            media_type: ask.media_type,
            lease_days: ask.lease_days,
            convergent: local,
        }),
    );
    loop {
        match run.next().await? {
            Event::Need { offset, len } => {
                if again && offset == 0 && given == length {
                    source.rewind().await?;
                    (given, again) = (0, false);
                }
                // Sources are read in order, so a pipe is as good as a file.
                if offset != given || len as u64 > length - given {
                    return Err(confused());
                }
                let bytes = source.read(len).await?;
                given += len as u64;
                run.say(Command::Plain(bytes));
            }
            Event::Progress(progress) => watch(Publishing::At(progress)),
            Event::Key(key) => watch(Publishing::Key(&key)),
            Event::Published { key, report } => {
                run.done();
                return Ok(Published { key, report });
            }
            Event::Found { .. } | Event::Data(_) | Event::Fetched(_) | Event::Checked(_) | Event::Status(_) | Event::Failed(_) => {
                return Err(confused());
            }
        }
    }
}

/// Fetches a document from byte `offset` on. Each piece is acknowledged when the sink has dealt with it, so no more than the node's
/// window is ever under way.
pub async fn get<H: Operations, S: Sink>(
    node: &H,
    key: &ReadKey,
    offset: u64,
    sink: &mut S,
    watch: Watch<'_>,
) -> Result<Report, Failure> {
    let mut run = Running::start(node, Command::Get { key: key.clone(), offset });
    // What the sink may still get, once the document is found.
    let mut left: Option<u64> = None;
    loop {
        match run.next().await? {
            Event::Found { length, name, media_type } => {
                left = Some(length.saturating_sub(offset));
                sink.found(Found { length, name, media_type }).await?;
            }
            Event::Data(bytes) => {
                let len = bytes.len() as u64;
                left = Some(left.and_then(|left| left.checked_sub(len)).ok_or_else(confused)?);
                sink.data(bytes).await?;
                run.say(Command::Consumed(len));
            }
            Event::Progress(progress) => watch(progress),
            Event::Fetched(report) => {
                run.done();
                return if left == Some(0) { Ok(report) } else { Err(confused()) };
            }
            Event::Need { .. }
            | Event::Key(_)
            | Event::Published { .. }
            | Event::Checked(_)
            | Event::Status(_)
            | Event::Failed(_) => {
                return Err(confused());
            }
        }
    }
}

/// Counts living shares.
pub async fn check<H: Operations>(node: &H, key: &Key, sample: usize, watch: Watch<'_>) -> Result<CheckReport, Failure> {
    let mut run = Running::start(node, Command::Check { key: key.clone(), sample });
    loop {
        match run.next().await? {
            Event::Progress(progress) => watch(progress),
            Event::Checked(report) => {
                run.done();
                return Ok(report);
            }
            Event::Found { .. } => {}
            Event::Need { .. }
            | Event::Data(_)
            | Event::Fetched(_)
            | Event::Key(_)
            | Event::Published { .. }
            | Event::Status(_)
            | Event::Failed(_) => return Err(confused()),
        }
    }
}

/// How the node is.
pub async fn status<H: Operations>(node: &H) -> Result<Status, Failure> {
    let mut run = Running::start(node, Command::Status);
    match run.next().await? {
        Event::Status(status) => {
            run.done();
            Ok(status)
        }
        Event::Need { .. }
        | Event::Progress(_)
        | Event::Found { .. }
        | Event::Data(_)
        | Event::Fetched(_)
        | Event::Key(_)
        | Event::Published { .. }
        | Event::Checked(_)
        | Event::Failed(_) => Err(confused()),
    }
}
