//! The transport seam (D2): how bytes get to another relay. TLS over TCP is the one there is ([`crate::node::tcp`]); a web front,
//! QUIC and pluggable transports fit behind the same three traits.
//!
//! ```text
//! Transport   dial(addr, from)  -> Pipe
//!             listen(addr)      -> Listener -> Incoming { remote, secure: -> Pipe }
//! Pipe        poll_receive, seal, poll_flush, poll_close; exporter()
//! ```
//! A pipe is a private, ordered stream of bytes between two ends that agree on an exporter value; who the other end is, a transport
//! does not know. Nothing here resolves a name, ever: addresses are numbers.

use bytes::BytesMut;
use core::future::Future;
use core::net::{IpAddr, SocketAddr};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::io::IoSlice;

/// A future of a transport.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Most bytes that one [`Pipe::poll_receive`] takes from the system.
pub const RECEIVE_BATCH: usize = 64 * 1024;

/// A way to reach others and to be reached.
pub trait Transport: Send + Sync {
    /// Connects and secures the connection. `from` is the local address to dial from, if it matters. No deadline of its own: the
    /// caller drops the future.
    fn dial(&self, to: SocketAddr, from: Option<IpAddr>) -> Boxed<io::Result<Box<dyn Pipe>>>;
    /// Listens. Needs the runtime's context.
    fn listen(&self, on: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// A listening transport.
pub trait Listener: Send {
    /// Where it listens: the port chosen by the system, if none was asked for.
    fn local(&self) -> io::Result<SocketAddr>;
    /// The next connection. Costs the other end nothing yet, so the caller bounds how many it secures at once.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>>;
}

/// A connection that is not secured yet.
pub struct Incoming {
    /// The other end, as the socket sees it.
    pub remote: SocketAddr,
    /// Secures it.
    pub secure: Boxed<io::Result<Box<dyn Pipe>>>,
}

/// A secured connection.
pub trait Pipe: Send {
    /// The other end, as the socket sees it.
    fn remote(&self) -> SocketAddr;
    /// A value that both ends of this connection share and nobody else knows.
    fn exporter(&self) -> [u8; 32];
    /// Appends what has arrived, at most about [`RECEIVE_BATCH`] bytes, and says how much that was: zero is the end.
    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>>;
    /// Takes over all of `pieces`, to be written by [`Pipe::poll_flush`]. Callers flush before they hand in more.
    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()>;
    /// Writes what was handed in, and what the transport itself has to say.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Says goodbye, then waits until the other end has taken it in. What still arrives is thrown away.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
