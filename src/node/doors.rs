//! Who may come in: half-open links are few, in all and for each prefix, and so are open ones (T35).

use crate::base::LinkId;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::node::link;
use crate::node::link::Farewell;
use crate::node::link::HalfOpen;
use crate::node::transport::Incoming;
use crate::node::transport::Listener;
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

/// How many links of each prefix hold a place.
type Taken = Arc<Mutex<BTreeMap<Prefix, usize>>>;

/// Bounds on links that come in. Overflow: the newest connection is dropped before it costs a handshake.
#[derive(Clone, Debug)]
pub struct Doors {
    half_open: Taken,
    half_open_all: Arc<Semaphore>,
    half_open_per_prefix: usize,
    open: Taken,
    open_all: Arc<Semaphore>,
    open_per_prefix: usize,
    next: Arc<AtomicU64>,
}

impl Doors {
    /// Doors with the numbers of [`limits`].
    pub fn new() -> Self {
        let open = (limits::LINKS_ACCEPTED_MAX, limits::LINKS_ACCEPTED_PER_PREFIX);
        Self::with((limits::HALF_OPEN_MAX, limits::HALF_OPEN_PER_PREFIX), open)
    }

    /// Doors of a local network, where everyone may come from one prefix: open links are bounded only in all.
    pub fn local() -> Self {
        let open = (limits::LINKS_ACCEPTED_MAX, limits::LINKS_ACCEPTED_MAX);
        Self::with((limits::HALF_OPEN_MAX, limits::HALF_OPEN_PER_PREFIX), open)
    }

    /// Doors with other numbers, each in all and for each prefix, for tests.
    pub fn with(half_open: (usize, usize), open: (usize, usize)) -> Self {
        Self {
            half_open: Arc::default(),
            half_open_all: Arc::new(Semaphore::new(half_open.0)),
            half_open_per_prefix: half_open.1,
            open: Arc::default(),
            open_all: Arc::new(Semaphore::new(open.0)),
            open_per_prefix: open.1,
            next: Arc::new(AtomicU64::new(FIRST_LINK)),
        }
    }

    /// Places for a connection from this address, half open and open, or `None`: then it is dropped.
    fn admit(&self, remote: &SocketAddr) -> Option<(Place, Place)> {
        let prefix = Prefix::of(remote);
        let open = Place::take(&self.open, &self.open_all, prefix, self.open_per_prefix)?;
        let half_open = Place::take(&self.half_open, &self.half_open_all, prefix, self.half_open_per_prefix)?;
        Some((half_open, open))
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

/// A place among the half-open links, or the open ones; free again when dropped.
#[derive(Debug)]
struct Place {
    taken: Taken,
    prefix: Prefix,
    _all: OwnedSemaphorePermit,
}

impl Place {
    fn take(taken: &Taken, all: &Arc<Semaphore>, prefix: Prefix, most: usize) -> Option<Self> {
        let all = Arc::clone(all).try_acquire_owned().ok()?;
        let mut map = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.entry(prefix).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(map);
        Some(Self { taken: Arc::clone(taken), prefix, _all: all })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut map = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
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
async fn welcome(incoming: Incoming, place: Place, seat: Place, link: LinkId, inbox: Inbox) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_prefix_does_not_take_all_open_places() {
        let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let doors = Doors::new();
        // Handshakes are over: the half-open places are free again, the open ones are held.
        let enter = |text: &str| doors.admit(&addr(text)).map(|(_, seat)| seat);
        let mut held: Vec<_> = (0..limits::LINKS_ACCEPTED_PER_PREFIX).map(|_| enter("203.0.113.7:5").unwrap()).collect();
        assert!(enter("203.0.113.7:6").is_none());
        assert!(enter("203.0.113.200:6").is_none(), "another address of the prefix");
        assert!(enter("[::ffff:203.0.113.9]:6").is_none(), "the same in other clothes");
        assert!(enter("203.0.114.7:6").is_some(), "others come in");
        held.pop();
        assert!(enter("203.0.113.200:6").is_some(), "a place comes back");

        let local = Doors::local();
        let held: Vec<_> =
            (0..=limits::LINKS_ACCEPTED_PER_PREFIX).filter_map(|_| local.admit(&addr("127.0.0.1:5"))).map(|(_, s)| s).collect();
        assert_eq!(held.len(), limits::LINKS_ACCEPTED_PER_PREFIX + 1, "a local network is one prefix");
    }
}
