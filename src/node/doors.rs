//! Who may come in (T35, T36).
//!
//! Half-open links are few, and so are open ones. Their places are shared out by address prefix ([`Crowd`]), and somebody who finds
//! none is given the one of an idle link at addresses that hold many: of the heaviest group the heaviest prefix, there the link
//! that is idle the longest. Who the other end says it is makes no difference, for identities cost nothing. Overflow: the newest
//! connection is dropped before it costs a handshake.

use crate::base::LinkId;
use crate::base::Rarely;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::node::env::Clock;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::node::link;
use crate::node::link::Accepted;
use crate::node::link::Farewell;
use crate::node::link::HalfOpen;
use crate::node::transport::Listener;
use crate::node::transport::Pipe;
use crate::proto::crowd::Crowd;
use crate::proto::crowd::STANDING;
use crate::proto::crowd::Seat;
use crate::proto::memory::Memory;
use core::cmp::Reverse;
use core::future::poll_fn;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// How long accepting rests when the system gives no connection, for want of file handles or of memory.
const REST: Duration = Duration::from_millis(100);
/// How often that is told.
const TELL_EVERY: Duration = Duration::from_secs(3600);
/// First id of an accepted link. A core's own ids have [`crate::proto::link::DIALED_BIT`] and never meet these.
const FIRST_LINK: u64 = 1;
/// How long a half-open link may be put out for nobody: by then an honest handshake over a far and slow line is done.
const HALF_OPEN_IDLE: Duration = Duration::from_secs(2);
/// How long an open link counts as used after a cell that is no padding: who is in the middle of something moves cells more often.
const OPEN_IDLE: Duration = Duration::from_secs(30);
/// Nobody is put out whose group and prefix hold less than this part of the places. Otherwise links of honest people at few
/// addresses each would put out one another, for ever, wherever there are more of them than places.
const LIGHT: usize = 64;

/// Bounds on links that come in. Copies share them.
#[derive(Clone, Debug)]
pub struct Doors {
    half_open: Places,
    open: Places,
    clock: Clock,
    next: Arc<AtomicU64>,
}

impl Doors {
    /// Doors with the numbers of [`limits`] and of the usual budget.
    pub fn new() -> Self {
        Self::with(limits::HALF_OPEN_MAX, Memory::default().links_accepted())
    }

    /// Doors with other numbers, of half-open links and of all. They are shared out by address, and whoever finds no place is dropped
    /// before it costs a handshake (T36).
    pub fn with(half_open: usize, open: usize) -> Self {
        Self {
            half_open: Places::new(half_open, HALF_OPEN_IDLE),
            open: Places::new(open, OPEN_IDLE),
            clock: Clock::start(),
            next: Arc::new(AtomicU64::new(FIRST_LINK)),
        }
    }

    /// Places for a connection from this address, or `None`: then it is dropped.
    fn admit(&self, remote: &SocketAddr, now: Time) -> Option<Admitted> {
        let put_out = Arc::new(Notify::new());
        // In this order: no open link ends for one that finds no place among the half-open.
        let half_open = self.half_open.take(remote, now, &put_out)?;
        let open = self.open.take(remote, now, &put_out)?;
        Some(Admitted { half_open, open, put_out })
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

/// What an admitted connection holds.
#[derive(Debug)]
struct Admitted {
    half_open: Place,
    open: Place,
    /// Told when its place was given to another.
    put_out: Arc<Notify>,
}

/// When a link was last used.
#[derive(Clone, Debug)]
struct Used(Arc<AtomicU64>);

impl Used {
    fn new(now: Time) -> Self {
        Self(Arc::new(AtomicU64::new(now.0)))
    }

    fn at(&self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }

    fn mark(&self, now: Time) {
        self.0.store(now.0, Ordering::Relaxed);
    }
}

/// Places of one kind, and who holds them.
#[derive(Clone, Debug)]
struct Places {
    book: Arc<Mutex<Book>>,
    /// A guest that was not used for this long may have to leave for another.
    idle: Duration,
}

/// By whose they are, so that those of one prefix lie side by side.
type Holder = (Group, Prefix, u64);

#[derive(Debug)]
struct Book {
    crowd: Crowd,
    guests: BTreeMap<Holder, Guest>,
    next: u64,
}

#[derive(Debug)]
struct Guest {
    seat: Seat,
    used: Used,
    put_out: Arc<Notify>,
}

impl Places {
    fn new(total: usize, idle: Duration) -> Self {
        let book = Book { crowd: Crowd::new(total, STANDING), guests: BTreeMap::new(), next: 0 };
        Self { book: Arc::new(Mutex::new(book)), idle }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, addr: &SocketAddr, now: Time, put_out: &Arc<Notify>) -> Option<Place> {
        let mut book = self.lock();
        let seat = match book.crowd.enter(addr) {
            Some(seat) => seat,
            None => {
                let leaves = book.heaviest_idle((Group::of(addr), Prefix::of(addr)), now, self.idle)?;
                let guest = book.guests.remove(&leaves)?;
                guest.put_out.notify_one();
                book.crowd.hand_over(guest.seat, addr)
            }
        };
        let holder = (seat.group(), seat.prefix(), book.next);
        book.next += 1;
        let used = Used::new(now);
        book.guests.insert(holder, Guest { seat, used: used.clone(), put_out: Arc::clone(put_out) });
        drop(book);
        Some(Place { places: self.clone(), holder, used })
    }
}

impl Book {
    /// Who leaves for somebody of this group and prefix. He holds less than half of what they hold, so that the two never put out
    /// each other in turn; within one group that is asked of the prefixes.
    fn heaviest_idle(&self, (group, prefix): (Group, Prefix), now: Time, idle: Duration) -> Option<Holder> {
        let (of_group, of_prefix) = self.crowd.held(group, prefix);
        let least = self.crowd.total() / LIGHT;
        let heavy = |theirs: usize, his: usize| theirs >= least && theirs >= 2 * (his + 1);
        let mut best = None;
        // At most so many as can be heavy, and none for whoever is heavy himself: a refusal stays cheap.
        for (theirs, held) in self.crowd.groups() {
            let of_others = if theirs == group { (held - of_prefix, of_prefix) } else { (held, of_group) };
            if !heavy(of_others.0, of_others.1) {
                continue;
            }
            let mut counted: Option<(Prefix, usize)> = None;
            for (holder, guest) in self.guests.range((theirs, Prefix::FIRST, 0)..=(theirs, Prefix::LAST, u64::MAX)) {
                let (_, in_prefix) = match counted {
                    Some(counted) if counted.0 == holder.1 => counted,
                    _ => *counted.insert((holder.1, self.crowd.held(theirs, holder.1).1)),
                };
                let gives = theirs != group || heavy(in_prefix, of_prefix);
                if gives && now.since(guest.used.at()) >= idle {
                    best = best.max(Some((held, in_prefix, Reverse(guest.used.at()), *holder)));
                }
            }
        }
        best.map(|(.., holder)| holder)
    }
}

/// A place of somebody; free again when dropped, unless it was given to another.
#[derive(Debug)]
struct Place {
    places: Places,
    holder: Holder,
    used: Used,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.places.lock();
        if let Some(guest) = book.guests.remove(&self.holder) {
            book.crowd.leave(guest.seat);
        }
    }
}

/// Accepts until dropped. Links that stand by then live on. `handshakes` is where connections are secured: public-key work for whoever
/// knocks, which is to delay no cell (T36).
pub async fn accept(mut listener: Box<dyn Listener>, doors: Doors, handshakes: runtime::Handle, inbox: Inbox) {
    let mut newcomers = JoinSet::new();
    let mut failures = Rarely::every(TELL_EVERY);
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(|cx| listener.poll_accept(cx)) => accepted,
            Some(_) = newcomers.join_next() => continue,
        };
        match accepted {
            Ok(incoming) => {
                if let Some(admitted) = doors.admit(&incoming.remote, doors.clock.now()) {
                    // Ends with whoever waits for it.
                    let mut securing = JoinSet::new();
                    securing.spawn_on(incoming.secure, &handshakes);
                    newcomers.spawn(welcome(securing, admitted, doors.link(), doors.clock, inbox.clone()));
                }
            }
            // The other end's doing, and over.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                if let Some(times) = failures.again(doors.clock.now()) {
                    tracing::warn!(%error, times, "connections cannot be accepted: see this process's limit of file handles");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Secures a connection and starts its link. One deadline covers both and the first cell.
async fn welcome(mut securing: JoinSet<io::Result<Box<dyn Pipe>>>, admitted: Admitted, link: LinkId, clock: Clock, inbox: Inbox) {
    let Admitted { half_open, open, put_out } = admitted;
    let mut deadline = Box::pin(tokio::time::sleep(limits::HANDSHAKE_DEADLINE));
    let secured = tokio::select! {
        secured = securing.join_next() => secured.and_then(Result::ok).unwrap_or_else(|| Err(io::ErrorKind::Other.into())),
        () = &mut deadline => return,
        () = put_out.notified() => return,
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
        let used = open.used.clone();
        let accepted = Accepted {
            half_open: Some(HalfOpen { deadline, place: Box::new(half_open) }),
            used: Box::new(move || used.mark(clock.now())),
        };
        tokio::select! {
            () = link::run(&farewell, pipe, &mut orders, Some(accepted)) => {}
            // Without a goodbye: its place is another's already.
            () = put_out.notified() => tracing::debug!(link = link.0, "a link ends for a newcomer"),
        }
        drop(open);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::transport::Incoming;

    struct World {
        doors: Doors,
        now: Time,
    }

    impl World {
        fn new() -> Self {
            // As many as a relay with a budget of 1.1 GiB has.
            let doors = Doors::with(limits::HALF_OPEN_MAX, Memory::of(1100 << 20).links_accepted());
            Self { doors, now: Clock::start().now() }
        }

        fn later(&mut self, seconds: u64) {
            self.now = self.now + Duration::from_secs(seconds);
        }

        /// A dial whose handshake is over at once: of its two places it keeps the open one.
        fn dial(&self, addr: impl Into<SocketAddr>) -> Option<(Place, Arc<Notify>)> {
            let Admitted { half_open, open, put_out } = self.doors.admit(&addr.into(), self.now)?;
            drop(half_open);
            Some((open, put_out))
        }

        /// As many links as these addresses can get.
        fn fill(&self, addrs: &[SocketAddr]) -> Vec<(Place, Arc<Notify>)> {
            let mut links = Vec::new();
            loop {
                let before = links.len();
                links.extend(addrs.iter().filter_map(|addr| self.dial(*addr)));
                if links.len() == before {
                    return links;
                }
            }
        }
    }

    fn sixteen() -> Vec<SocketAddr> {
        (0..16).map(|n| ([100 + n, 7, 7, 7], 1).into()).collect()
    }

    /// The /48s of 2001:67c:10::/44.
    fn one_allocation() -> Vec<SocketAddr> {
        (0..16).map(|n| ([0x2001, 0x67c, 0x10 + n, 0, 0, 0, 0, 1], 1).into()).collect()
    }

    /// The `n`-th of many honest people, each at an address of his own.
    fn honest(n: u16) -> SocketAddr {
        let [a, b] = n.to_be_bytes();
        ([20 + a, b, 1, 1], 1).into()
    }

    fn served(world: &World, attackers: &[SocketAddr], dials: u16) -> f64 {
        let mut links = Vec::new();
        for n in 0..dials {
            links.extend(world.dial(honest(n)));
            // They want back whatever they lost.
            if n % 8 == 0 {
                let back: Vec<_> = attackers.iter().filter_map(|addr| world.dial(*addr)).collect();
                links.extend(back);
            }
        }
        let kept = (0..dials).filter(|n| world.doors.open.lock().crowd.held(Group::of(&honest(*n)), Prefix::of(&honest(*n))).1 > 0);
        kept.count() as f64 / f64::from(dials)
    }

    #[test]
    fn sixteen_prefixes_that_keep_their_links_busy_leave_places_for_others() {
        for attackers in [sixteen(), one_allocation()] {
            let world = World::new();
            let _held = world.fill(&attackers);
            let part = served(&world, &attackers, 1_200);
            assert!(part >= 0.95, "{part}");
        }
    }

    #[test]
    fn idle_links_of_sixteen_prefixes_leave_for_newcomers() {
        for attackers in [sixteen(), one_allocation()] {
            let mut world = World::new();
            let held = world.fill(&attackers);
            world.later(OPEN_IDLE.as_secs());
            let part = served(&world, &attackers, 4_000);
            assert!(part >= 0.95, "{part}");
            let book = world.doors.open.lock();
            assert_eq!(book.guests.len(), book.crowd.taken());
            drop(book);
            drop(held);
        }
    }

    #[test]
    fn silent_connections_of_sixteen_prefixes_leave_for_newcomers() {
        for attackers in [sixteen(), one_allocation()] {
            let mut world = World::new();
            let silent = |world: &World| -> Vec<_> {
                attackers.iter().cycle().take(2000).filter_map(|addr| world.doors.admit(addr, world.now)).collect()
            };
            let held = silent(&world);
            world.later(HALF_OPEN_IDLE.as_secs());
            // So many that shake hands at the same time.
            let honest: Vec<_> = (0..500).map(|n| world.doors.admit(&honest(n), world.now)).collect();
            let served = honest.iter().flatten().count();
            assert!(served * 100 >= 500 * 95, "{served} beside {}", held.len());
        }
    }

    #[test]
    fn nobody_leaves_who_is_busy_or_holds_little() {
        let mut world = World::new();
        // More people than places, each group with a few of them.
        let crowd: Vec<_> = (0..9_000).map(honest).map(|addr| world.dial(addr)).collect();
        let full = crowd.iter().flatten().count();
        assert!(full < 9_000);
        world.later(3600);
        assert!(world.dial(([198, 51, 100, 1], 1)).is_none(), "nobody holds much");
        drop(crowd);
        let attackers = sixteen();
        let held = world.fill(&attackers);
        let people: Vec<_> = (0..9_000).map_while(|n| world.dial(honest(n))).collect();
        assert!(people.len() > 500, "{}", people.len());
        world.later(OPEN_IDLE.as_secs());
        // Of two that are idle the one that is so for longer, and no busy one.
        let before = |ago: Duration| Time(world.now.0 - ago.as_micros() as u64);
        let (last, first) = (&held[1600].0, &held[3200].0);
        for (place, _) in held.iter().chain(&people) {
            place.used.mark(world.now);
        }
        last.used.mark(before(OPEN_IDLE));
        first.used.mark(before(OPEN_IDLE * 2));
        let there = |place: &Place| world.doors.open.lock().guests.contains_key(&place.holder);
        let newcomer = |n: u8| world.dial(([198, n, 100, 1], 1));
        let _one = newcomer(1).unwrap();
        assert!(there(last) && !there(first));
        let _two = newcomer(2).unwrap();
        assert!(!there(last));
        assert!(newcomer(3).is_none());
        assert!(people.iter().all(|(place, _)| there(place)));
    }

    /// A listener to whom somebody comes again and again, and whose handshakes keep a thread busy; it notes which.
    struct Slow(Arc<Mutex<Vec<String>>>);

    impl Listener for Slow {
        fn local(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Other.into())
        }

        fn poll_accept(&mut self, _: &mut core::task::Context<'_>) -> core::task::Poll<io::Result<Incoming>> {
            let seen = Arc::clone(&self.0);
            if seen.lock().unwrap().len() >= 4 {
                return core::task::Poll::Pending;
            }
            seen.lock().unwrap().push(String::new());
            let secure = Box::pin(async move {
                std::thread::sleep(Duration::from_millis(500));
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                let mut seen = seen.lock().unwrap();
                let _ = seen.iter_mut().find(|name| name.is_empty()).map(|empty| *empty = name);
                Err(io::ErrorKind::Other.into())
            });
            core::task::Poll::Ready(Ok(Incoming { remote: ([203, 0, 113, 7], 9).into(), secure }))
        }
    }

    /// The threads that move cells go on while others come in (T36): here the one of the test.
    #[tokio::test]
    async fn connections_are_secured_beside_the_threads_that_move_cells() {
        let pool = crate::node::Pool::new(std::num::NonZeroUsize::new(1)).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepting = accept(Box::new(Slow(Arc::clone(&seen))), Doors::new(), pool.handshakes(), Inbox::new().0);
        let accepting = tokio::spawn(accepting);
        let done = || {
            let seen = seen.lock().unwrap();
            seen.len() == 4 && seen.iter().all(|name| !name.is_empty())
        };
        let mut turns = 0;
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            turns += 1;
        }
        accepting.abort();
        assert!(seen.lock().unwrap().iter().all(|name| name == "handshakes"), "{:?}", seen.lock().unwrap());
        assert!(turns > 20, "{turns} turns in two seconds");
    }

    /// A listener of a process that has no handle left.
    struct Full(Arc<AtomicU64>);

    impl Listener for Full {
        fn local(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Other.into())
        }

        fn poll_accept(&mut self, _: &mut core::task::Context<'_>) -> core::task::Poll<io::Result<Incoming>> {
            const EMFILE: i32 = 24;
            self.0.fetch_add(1, Ordering::Relaxed);
            core::task::Poll::Ready(Err(io::Error::from_raw_os_error(EMFILE)))
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_table_of_handles_is_told_once_and_burns_nothing() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone()).finish();
        let _logs = tracing::subscriber::set_default(subscriber);
        let asked = Arc::new(AtomicU64::new(0));
        let accepting = accept(Box::new(Full(Arc::clone(&asked))), Doors::new(), runtime::Handle::current(), Inbox::new().0);
        assert!(tokio::time::timeout(REST * 7 / 2, accepting).await.is_err(), "it goes on");
        assert!((2..=4).contains(&asked.load(Ordering::Relaxed)));
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("file handles").count(), 1, "{text}");
    }
}
