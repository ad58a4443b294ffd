//! Connections of the API: of this user alone, few, and each with a clock.
//!
//! A caller may be slow, and may not be silent: whoever neither sends what is asked of him nor takes what is sent to him holds an
//! operation, and with it circuits and memory, that others want. So each step has [`SILENCE`]: the next request on a connection
//! (the header's timer here), each piece of a request's body (`api`), each piece of an answer ([`Clocked`]).

use crate::client::daemon::may_call;
use axum::Router;
use core::future::Future;
use core::pin::Pin;
use core::task::Context;
use core::task::Poll;
use core::task::ready;
use core::time::Duration;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;

/// How long a caller may be silent. A reader who stops for longer asks again, from where it was.
pub(super) const SILENCE: Duration = Duration::from_secs(120);
/// Most connections at a time, each a file handle (`node::handles` keeps some for these); beyond, callers wait their turn.
const CONNECTIONS_MAX: usize = 128;
/// How long accepting rests when the system has no more file handles.
const REST: Duration = Duration::from_millis(500);

/// Serves until `stop` is done, and then what is under way.
pub(super) async fn serve(listener: UnixListener, router: Router, silence: Duration, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = core::pin::pin!(stop);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accept => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) if may_call(&stream) => {
                let served = connection(stream, router.clone(), silence, stopped.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Ok(_) => tracing::debug!("a program of another user was not answered"),
            Err(error) => {
                tracing::debug!(%error, "a caller could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
    let _ = stopping.send(true);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: UnixStream, router: Router, silence: Duration, mut stopped: watch::Receiver<bool>) {
    let io = TokioIo::new(Clocked { stream, silence, patience: None });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(silence);
    let mut served = core::pin::pin!(http.serve_connection(io, TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a caller's connection ended");
    }
}

/// A stream that breaks when the other end takes nothing for so long.
struct Clocked {
    stream: UnixStream,
    silence: Duration,
    /// Set while it takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Clocked {
    fn clocked<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.patience = None;
            return done;
        }
        let silence = self.silence;
        ready!(self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence))).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Clocked {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Clocked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.clocked(cx, done)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.clocked(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
