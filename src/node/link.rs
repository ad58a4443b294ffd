//! One link's task: cells in, cells out, over any [`Pipe`]. A single task does both directions, so a batch costs one wake-up.

use crate::base::LinkId;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::node::transport::Boxed;
use crate::node::transport::Pipe;
use crate::proto::Input;
use crate::wire::cell::CELL;
use crate::wire::cell::is_padding;
use bytes::BytesMut;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{AcquireError, OwnedSemaphorePermit};
use tokio::time::Sleep;

/// Bytes that one round of sealing and writing takes at least, if there are as many: beyond 64 KiB a write gets no cheaper by the
/// byte.
const SEND_BATCH: usize = 64 * 1024;
/// How long a link that is closed may go on sending ([`crate::proto::Output::Close`]).
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Rounds of one poll before other tasks get their turn.
const ROUNDS: usize = 8;

/// What the driver tells a link. The driver bounds the queue, by cells.
#[derive(Debug)]
pub enum Order {
    /// Whole cells to be sent.
    Send(BytesMut),
    /// See [`crate::proto::Output::Close`]. A driver that is gone means the same.
    Close,
}

/// Says `LinkDown` when dropped: once for every link, whatever its task came to.
pub struct Farewell {
    /// Which link.
    pub link: LinkId,
    /// Where to say it.
    pub inbox: Inbox,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.inbox.push(Arrival::Input(Input::LinkDown { link: self.link }));
    }
}

/// A link that waits for the first cell of the other end, and what it holds until then.
pub struct HalfOpen {
    /// When waiting ends.
    pub deadline: Pin<Box<Sleep>>,
    /// Its place among the half-open ones.
    pub place: Box<dyn Send>,
}

/// What the doors want of a link that they let in.
pub struct Accepted {
    /// Until its first cell.
    pub half_open: Option<HalfOpen>,
    /// Called when cells came that are more than padding.
    pub used: Box<dyn Fn() + Send>,
}

/// Moves cells until either end closes. Takes `accepted` for accepted links: they are closed if no cell comes in time.
pub async fn run(farewell: &Farewell, pipe: Box<dyn Pipe>, orders: &mut UnboundedReceiver<Order>, accepted: Option<Accepted>) {
    let mut link = Link {
        farewell,
        pipe,
        orders,
        backlog: VecDeque::new(),
        buffer: BytesMut::new(),
        sealed: 0,
        room: None,
        waiting: None,
        accepted,
        closing: None,
    };
    let ended = poll_fn(|cx| link.poll(cx)).await;
    if let Err(error) = ended {
        tracing::debug!(link = link.farewell.link.0, %error, "link broke");
        return;
    }
    let grace = link.closing.unwrap_or_else(|| Box::pin(tokio::time::sleep(CLOSE_GRACE)));
    tokio::select! {
        _ = poll_fn(|cx| link.pipe.poll_close(cx)) => {}
        () = grace => {}
    }
}

struct Link<'a> {
    farewell: &'a Farewell,
    pipe: Box<dyn Pipe>,
    orders: &'a mut UnboundedReceiver<Order>,
    backlog: VecDeque<BytesMut>,
    /// Received bytes that are no whole cell yet.
    buffer: BytesMut,
    /// Cells that are sealed and not yet with the system.
    sealed: usize,
    /// Room in the driver's queue for the next batch.
    room: Option<OwnedSemaphorePermit>,
    waiting: Option<Boxed<Result<OwnedSemaphorePermit, AcquireError>>>,
    accepted: Option<Accepted>,
    /// Set once the link is to be closed: when patience ends.
    closing: Option<Pin<Box<Sleep>>>,
}

impl Link<'_> {
    /// Ready when the link is over: with an error if it broke, and without if it may be closed politely.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..ROUNDS {
            self.poll_orders(cx);
            let sent = self.poll_send(cx)?;
            if let Some(patience) = &mut self.closing {
                if self.backlog.is_empty() && self.sealed == 0 {
                    return Poll::Ready(Ok(()));
                }
                if patience.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            let received = match self.poll_receive(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(done) => done? > 0,
                Poll::Pending => false,
            };
            if let Some(half_open) = self.accepted.as_mut().and_then(|accepted| accepted.half_open.as_mut())
                && half_open.deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if !sent && !received {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes all orders off the queue, so that a close is seen even while the other end does not read.
    fn poll_orders(&mut self, cx: &mut Context<'_>) {
        while self.closing.is_none() {
            match self.orders.poll_recv(cx) {
                Poll::Ready(Some(Order::Send(cells))) => self.backlog.push_back(cells),
                Poll::Ready(Some(Order::Close) | None) => self.closing = Some(Box::pin(tokio::time::sleep(CLOSE_GRACE))),
                Poll::Pending => return,
            }
        }
    }

    /// Writes what is sealed, then seals more. Says whether anything was sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.pipe.poll_flush(cx) {
            Poll::Ready(done) => done?,
            Poll::Pending => return Ok(false),
        }
        if self.sealed > 0 {
            let sent = Input::Sent { link: self.farewell.link, cells: self.sealed };
            self.farewell.inbox.push(Arrival::Input(sent));
            self.sealed = 0;
        }
        let mut bytes = 0;
        let mut count = 0;
        for cells in &self.backlog {
            if bytes >= SEND_BATCH {
                break;
            }
            bytes += cells.len();
            count += 1;
        }
        if count == 0 {
            return Ok(false);
        }
        let pieces: Vec<IoSlice<'_>> = self.backlog.iter().take(count).map(|cells| IoSlice::new(cells)).collect();
        self.pipe.seal(&pieces)?;
        drop(pieces);
        self.backlog.drain(..count);
        self.sealed = bytes / CELL;
        Ok(true)
    }

    /// Reads one batch, if the driver has room for it. Ready with zero: the other end is done.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.closing.is_some() {
            return Poll::Pending;
        }
        if self.room.is_none() && !self.poll_room(cx) {
            return Poll::Pending;
        }
        let n = match self.pipe.poll_receive(cx, &mut self.buffer) {
            Poll::Ready(done) => done?,
            Poll::Pending => {
                // A link that waits for its peer must not hold room that others could use.
                self.room = None;
                return Poll::Pending;
            }
        };
        let whole = self.buffer.len() / CELL * CELL;
        if whole > 0
            && let Some(room) = self.room.take()
        {
            let cells = self.buffer.split_to(whole);
            if let Some(accepted) = &mut self.accepted {
                accepted.half_open = None;
                if !cells.chunks_exact(CELL).all(is_padding) {
                    (accepted.used)();
                }
            }
            // Whoever keeps the cells shall be the only one to keep their memory, for half a cell too (T35).
            self.buffer = BytesMut::from(&*self.buffer);
            let input = Input::Cells { link: self.farewell.link, cells };
            self.farewell.inbox.push(Arrival::Cells(input, room));
        }
        Poll::Ready(Ok(n))
    }

    /// Asks for room in the driver's queue. Once it must wait it keeps its turn.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.waiting.is_none() {
            let room = self.farewell.inbox.room();
            if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                self.room = Some(permit);
                return true;
            }
            self.waiting = Some(Box::pin(room.acquire_owned()));
        }
        if let Some(waiting) = &mut self.waiting
            && let Poll::Ready(permit) = waiting.as_mut().poll(cx)
        {
            self.waiting = None;
            self.room = permit.ok();
        }
        self.room.is_some()
    }
}
