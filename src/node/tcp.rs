//! TLS over TCP, for links.
//!
//! The handshake is tokio-rustls's; after it the bytes are moved here, because a link wants many cells for each system call: up to
//! [`RECEIVE_BATCH`] bytes come in with one read and leave as one buffer, and what is sent goes out with one gathering write.

use crate::node::tls::EXPORTER_LABEL;
use crate::node::tls::Tls;
use crate::node::transport::Boxed;
use crate::node::transport::Incoming;
use crate::node::transport::Listener;
use crate::node::transport::Pipe;
use crate::node::transport::RECEIVE_BATCH;
use crate::node::transport::Transport;
use bytes::BytesMut;
use core::cell::RefCell;
use core::net::{IpAddr, SocketAddr};
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use rustls::Connection;
use std::io;
use std::io::{BufRead, IoSlice, Write};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// TLS over TCP.
#[derive(Clone, Debug)]
pub struct TlsTcp {
    tls: Arc<Tls>,
}

impl TlsTcp {
    /// A transport with these settings.
    pub const fn new(tls: Arc<Tls>) -> Self {
        Self { tls }
    }
}

impl Transport for TlsTcp {
    fn dial(&self, to: SocketAddr, from: Option<IpAddr>) -> Boxed<io::Result<Box<dyn Pipe>>> {
        let tls = Arc::clone(&self.tls);
        Box::pin(async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // An address of the other family cannot be dialled from: the system then chooses.
            if let Some(ip) = from.filter(|ip| ip.is_ipv4() == to.is_ipv4()) {
                socket.bind(SocketAddr::new(ip, 0))?;
            }
            let tcp = socket.connect(to).await?;
            prepare(&tcp)?;
            let stream = TlsConnector::from(Arc::clone(&tls.client)).connect(Tls::name(to.ip()), tcp).await?;
            let (tcp, connection) = stream.into_inner();
            Ok(Box::new(TlsPipe::new(tcp, to, connection.into())?) as Box<dyn Pipe>)
        })
    }

    fn listen(&self, on: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let listener = std::net::TcpListener::bind(on)?;
        listener.set_nonblocking(true)?;
        Ok(Box::new(TlsListener { tcp: TcpListener::from_std(listener)?, tls: Arc::clone(&self.tls) }))
    }
}

struct TlsListener {
    tcp: TcpListener,
    tls: Arc<Tls>,
}

impl Listener for TlsListener {
    fn local(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let (tcp, remote) = ready!(self.tcp.poll_accept(cx))?;
        let tls = Arc::clone(&self.tls);
        let secure = Box::pin(async move {
            prepare(&tcp)?;
            tls.renew_if_due();
            let stream = TlsAcceptor::from(Arc::clone(&tls.server)).accept(tcp).await?;
            let (tcp, connection) = stream.into_inner();
            Ok(Box::new(TlsPipe::new(tcp, remote, connection.into())?) as Box<dyn Pipe>)
        });
        Poll::Ready(Ok(Incoming { remote, secure }))
    }
}

/// Bytes that the system takes in and cannot send yet. What it has leaves in the order it came, so on a slow line all circuits wait
/// behind it ([`limits::LINK_IN_FLIGHT`]); one round of writing is enough to keep a fast line busy.
///
/// [`limits::LINK_IN_FLIGHT`]: crate::base::limits::LINK_IN_FLIGHT
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_MAX: u32 = 64 * 1024;

/// How the system is asked to share a path with others: by what the path carries, and not by what it loses. All of a client's traffic
/// is one connection to its guard, and one packet lost in two hundred, which means nothing on a radio line, holds cubic to one to three
/// hundredths of a line of 100 Mbit/s.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CONGESTION_CONTROL: &[u8] = b"bbr";

/// Has the system send at once what it is given, and take no more than it can send soon, where it can be told to.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    // Where the system knows no such thing, or does not allow it, links are only less even, and slower where packets are lost.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let socket = socket2::SockRef::from(tcp);
        let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
        let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
    }
    tcp.set_nodelay(true)
}

/// One secured connection.
///
/// # Invariants
/// Between calls rustls holds no plaintext, but for what came with the last handshake flight, which the first receive takes out.
pub struct TlsPipe {
    tcp: TcpStream,
    tls: Connection,
    remote: SocketAddr,
    exporter: [u8; 32],
    /// Nothing was received yet.
    fresh: bool,
    /// The other end said goodbye, or its stream ended.
    ended: bool,
    /// We said goodbye.
    parting: bool,
}

impl TlsPipe {
    fn new(tcp: TcpStream, remote: SocketAddr, mut tls: Connection) -> io::Result<Self> {
        let exporter = tls.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(io::Error::other)?;
        // What is sealed is bounded by the caller, who flushes before more.
        tls.set_buffer_limit(None);
        Ok(Self { tcp, tls, remote, exporter, fresh: true, ended: false, parting: false })
    }

    /// Moves decrypted bytes out of rustls.
    fn drain(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        let mut reader = self.tls.reader();
        let mut moved = 0;
        loop {
            let n = match reader.fill_buf() {
                Ok(piece) => {
                    into.extend_from_slice(piece);
                    piece.len()
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                // The stream was cut without a goodbye: links end like that too.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(moved),
                Err(e) => return Err(e),
            };
            if n == 0 {
                return Ok(moved);
            }
            reader.consume(n);
            moved += n;
        }
    }

    /// Decrypts what the system gave.
    fn open(&mut self, mut raw: &[u8], into: &mut BytesMut) -> io::Result<usize> {
        let mut moved = 0;
        // Plaintext is shorter than its records, so this is the only allocation of the batch.
        into.reserve(raw.len());
        while !raw.is_empty() && !self.ended {
            self.tls.read_tls(&mut raw)?;
            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 {
                moved += self.drain(into)?;
            }
            self.ended = state.peer_has_closed();
        }
        Ok(moved)
    }
}

thread_local! {
    /// Where ciphertext lands. One for each thread: it is empty again whenever a task rests.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Pipe for TlsPipe {
    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn exporter(&self) -> [u8; 32] {
        self.exporter
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        if self.fresh {
            self.fresh = false;
            let n = self.drain(into)?;
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(RECEIVE_BATCH, 0);
            while !self.ended {
                let mut raw = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut raw))?;
                self.ended = raw.filled().is_empty();
                let n = self.open(raw.filled(), into)?;
                if n > 0 {
                    return Poll::Ready(Ok(n));
                }
            }
            Poll::Ready(Ok(0))
        })
    }

    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: usize = pieces.iter().map(|piece| piece.len()).sum();
        let taken = self.tls.writer().write_vectored(pieces)?;
        if taken == whole { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut out = Out { tcp: &mut self.tcp, cx };
            match self.tls.write_tls(&mut out) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.parting {
            self.parting = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        // A socket closed with unread bytes resets the connection, and what was sent last may never be read: so take them.
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(RECEIVE_BATCH, 0);
            loop {
                let mut raw = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut raw))?;
                if raw.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
    }
}

/// The socket as rustls writes to it.
struct Out<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for Out<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, pieces) {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links over which packets are lost keep their speed where the system has what it takes, and work where it has not.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn both_ends_ask_for_a_congestion_control_that_loss_does_not_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let of = |tcp: &TcpStream| {
            let name = socket2::SockRef::from(tcp).tcp_congestion().unwrap();
            String::from_utf8(name.into_iter().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        let usual = of(&plain);
        let has_it = socket2::SockRef::from(&plain).set_tcp_congestion(CONGESTION_CONTROL).is_ok();
        prepare(&accepted).unwrap();
        println!("usual {usual}, can be told: {has_it}");
        assert_eq!(of(&accepted), if has_it { "bbr".to_owned() } else { usual });
        assert_eq!(socket2::SockRef::from(&accepted).tcp_notsent_lowat().unwrap(), UNSENT_MAX);
    }
}
