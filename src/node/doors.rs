//! Who may come in: half-open links are few, in all and for each prefix, and open ones are bounded (T35).

use crate::base::LinkId;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::node::inbox::{Arrival, Inbox};
use crate::node::link;
use crate::node::link::{Farewell, HalfOpen};
use crate::node::transport::{Incoming, Listener};
use core::future::poll_fn;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// How long accepting rests when the system has no more file handles.
const OUT_OF_HANDLES: Duration = Duration::from_millis(100);
/// First id of an accepted link. A core's own ids have [`crate::proto::link::DIALED_BIT`] and never meet these.
const FIRST_LINK: u64 = 1;

/// Bounds on links that come in. Overflow: the newest connection is dropped before it costs a handshake.
#[derive(Clone, Debug)]
pub struct Doors {
    half_open: Arc<Mutex<BTreeMap<Prefix, usize>>>,
    half_open_all: Arc<Semaphore>,
    open: Arc<Semaphore>,
    per_prefix: usize,
    next: Arc<AtomicU64>,
}

impl Doors {
    /// Doors with the numbers of [`limits`].
    pub fn new() -> Self {
        Self::with(limits::HALF_OPEN_MAX, limits::HALF_OPEN_PER_PREFIX, limits::LINKS_ACCEPTED_MAX)
    }

    /// Doors with other numbers, for tests.
    pub fn with(half_open: usize, per_prefix: usize, open: usize) -> Self {
        Self {
            half_open: Arc::default(),
            half_open_all: Arc::new(Semaphore::new(half_open)),
            open: Arc::new(Semaphore::new(open)),
            per_prefix,
            next: Arc::new(AtomicU64::new(FIRST_LINK)),
        }
    }

    /// Places for a connection from this address, or `None`: then it is dropped.
    fn admit(&self, remote: &SocketAddr) -> Option<(Place, OwnedSemaphorePermit)> {
        let open = Arc::clone(&self.open).try_acquire_owned().ok()?;
        let all = Arc::clone(&self.half_open_all).try_acquire_owned().ok()?;
        let prefix = Prefix::of(remote);
        let mut map = self.half_open.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = map.entry(prefix).or_insert(0);
        if *taken >= self.per_prefix {
            return None;
        }
        *taken += 1;
        drop(map);
        Some((Place { map: Arc::clone(&self.half_open), prefix, _all: all }, open))
    }

    fn link(&self) -> LinkId {
        LinkId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Doors {
    fn default() -> Self {
        Self::new()
    }
}

/// A place among the half-open links; free again when dropped.
struct Place {
    map: Arc<Mutex<BTreeMap<Prefix, usize>>>,
    prefix: Prefix,
    _all: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = map.get_mut(&self.prefix) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                map.remove(&self.prefix);
            }
        }
    }
}

/// Accepts until dropped. Links that stand by then live on.
pub async fn accept(mut listener: Box<dyn Listener>, doors: Doors, inbox: Inbox) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(|cx| listener.poll_accept(cx)) => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        match accepted {
            Ok(incoming) => {
                if let Some((place, seat)) = doors.admit(&incoming.remote) {
                    handshakes.spawn(welcome(incoming, place, seat, doors.link(), inbox.clone()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(OUT_OF_HANDLES).await;
            }
        }
    }
}

/// Secures a connection and starts its link. One deadline covers both and the first cell.
async fn welcome(incoming: Incoming, place: Place, seat: OwnedSemaphorePermit, link: LinkId, inbox: Inbox) {
    let mut deadline = Box::pin(tokio::time::sleep(limits::HANDSHAKE_DEADLINE));
    let secured = tokio::select! {
        secured = incoming.secure => secured,
        () = &mut deadline => return,
    };
    let pipe = match secured {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::debug!(%error, "a connection was not secured");
            return;
        }
    };
    let (tell, mut orders) = mpsc::unbounded_channel();
    let up = Arrival::Up { link, remote: pipe.remote(), exporter: pipe.exporter(), orders: Some(tell) };
    inbox.push(up);
    tokio::spawn(async move {
        let farewell = Farewell { link, inbox };
        let half_open = HalfOpen { deadline, place: Box::new(place) };
        link::run(&farewell, pipe, &mut orders, Some(half_open)).await;
        drop(seat);
    });
}
