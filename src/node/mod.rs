//! The shell: it moves bytes, time and chance in and out of a core, and decides nothing.
//!
//! ```text
//!            doors (accept) ─┐                       ┌─> link tasks ── Pipe (tls, tcp)
//! people ──> Handle ─────────┤                       ├─> pool: jobs, shares
//!            link tasks ─────┼─> inbox ─> driver ────┤
//!            pool: results ──┘           (the core)  ├─> disk: state files
//!                                                    └─> events: to people
//! ```
//! One queue leads into each driver, and the driver waits for nothing else. Many nodes may live in one process; they share the
//! runtime and, if they are given the same one, a [`Pool`]. Nothing here resolves a name, ever.

pub mod disk;
pub mod doors;
pub mod driver;
pub mod env;
pub mod error;
pub mod handles;
pub mod home;
pub mod inbox;
pub mod link;
pub mod pool;
pub mod tcp;
pub mod tls;
pub mod transport;

pub use error::StartError;
pub use pool::Pool;

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::OpId;
use crate::base::limits;
use crate::base::net::is_public;
use crate::crypto::keys::IdentityKey;
use crate::node::disk::Files;
use crate::node::disk::HeldShares;
use crate::node::doors::Doors;
use crate::node::driver::Driver;
use crate::node::env::Clock;
use crate::node::handles::ForLinks;
use crate::node::home::Home;
use crate::node::inbox::Arrival;
use crate::node::inbox::Inbox;
use crate::node::tcp::TlsTcp;
use crate::node::tls::Tls;
use crate::node::transport::Listener;
use crate::node::transport::Transport;
use crate::proto::Core;
use crate::proto::Settings;
use crate::proto::core::CoreConfig;
use crate::proto::core::Role;
use crate::proto::core::saved_is_whole;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::NodeEvent;
use crate::proto::link_text::LinkText;
use crate::proto::memory::Memory;
use crate::store::Options;
use crate::store::Store;
use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

/// Events of the node itself that wait for whoever follows them; beyond, the newest are lost.
const NODE_EVENTS: usize = 256;
/// How long a shutdown may take in all.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(8);

/// What a node is started with.
#[derive(Debug, Default)]
pub struct NodeConfig {
    /// The network to be part of. Usually `None`: then the one of the bootstrap links, else the one of the data directory, else,
    /// for a relay, a new one.
    pub network: Option<NetworkId>,
    /// Where the node keeps its files. `None`: nowhere, everything is forgotten at the end, and a relay holds no shares.
    pub data_dir: Option<PathBuf>,
    /// Bootstrap links of relays to start from.
    pub bootstrap: Vec<String>,
    /// Accept loopback and private addresses.
    pub local_network: bool,
    /// Given for a relay; a client otherwise, which listens nowhere.
    pub relay: Option<RelayConfig>,
    /// Threads for jobs, shared with other nodes of this process; `None` for one's own, a thread for each of the machine's cores.
    pub pool: Option<Pool>,
}

/// What a relay is started with.
#[derive(Debug)]
pub struct RelayConfig {
    /// Where to accept links; port 0 lets the system choose. Links to others are dialled from this address, unless it is
    /// unspecified.
    pub listen: SocketAddr,
    /// Where others reach it, IPv4 first; port 0 means the one it listens on. Empty: where it listens.
    pub advertise: Vec<SocketAddr>,
    /// Bootstrap links of other relays of the same people.
    pub family: Vec<String>,
    /// Most bytes of others' shares; zero holds none.
    pub quota: u64,
    /// What it may hold for others in memory.
    pub memory: Memory,
}

/// What may change while a relay runs. What is `None` stays as it is.
#[derive(Debug, Default)]
pub struct Changes {
    /// See [`RelayConfig::family`].
    pub family: Option<Vec<String>>,
    /// See [`RelayConfig::quota`]; a relay that was started with none goes on without.
    pub quota: Option<u64>,
}

/// A running node. Clones are the same node; it runs on until [`Handle::shutdown`], or until the runtime ends.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: Inbox,
    next_op: Arc<AtomicU64>,
    link: Option<String>,
    node: Option<NodeId>,
    network: NetworkId,
    /// Closed when the node has ended.
    ended: watch::Receiver<()>,
    abort: AbortHandle,
}

impl Handle {
    /// Starts an operation. Its events come through the receiver, which closes after the last one; dropping it cancels the
    /// operation. One that closes before the last event means that the node has stopped.
    pub fn submit(&self, command: Command) -> (OpId, mpsc::Receiver<Event>) {
        let op = OpId(self.next_op.fetch_add(1, Ordering::Relaxed));
        let (events, receiver) = mpsc::channel(driver::OP_EVENTS);
        self.inbox.push(Arrival::Submit(op, command, events));
        (op, receiver)
    }

    /// Says something to a running operation. Nothing happens if it has ended.
    pub fn command(&self, op: OpId, command: Command) {
        self.inbox.push(Arrival::Input(crate::proto::Input::Command(op, command)));
    }

    /// A relay's bootstrap link.
    pub fn bootstrap_link(&self) -> Option<String> {
        self.link.clone()
    }

    /// A relay's identity.
    pub const fn node_id(&self) -> Option<NodeId> {
        self.node
    }

    /// Changes settings of a running relay: all that are given, or, after an error, none.
    ///
    /// # Errors
    /// A family that cannot be used.
    pub fn change(&self, changes: Changes) -> Result<(), StartError> {
        let Changes { family, quota } = changes;
        let named = |texts: Vec<String>| family_of(self.network, self.node, &family_links(&texts)?);
        let family = family.map(named).transpose()?;
        self.inbox.push(Arrival::Settings(quota, Settings { family }));
        Ok(())
    }

    /// Closes links, writes everything down, and ends the node. Takes a second or two, and eight at the very most.
    pub async fn shutdown(&self) {
        self.inbox.push(Arrival::Stop);
        let mut ended = self.ended.clone();
        let end = async { while ended.changed().await.is_ok() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, end).await.is_err() {
            tracing::warn!("the node did not end in time");
            self.abort.abort();
        }
    }
}

/// Starts a node on the runtime of the caller. The receiver tells what happens to the node; it closes when the node ends.
///
/// # Errors
/// See [`StartError`]; nothing runs then.
pub async fn start(config: NodeConfig) -> Result<(Handle, mpsc::Receiver<NodeEvent>), StartError> {
    env::settle_allocator();
    let places = config.relay.as_ref().map(|relay| relay.memory).unwrap_or_default().links_accepted();
    let handles = ForLinks::of(handles::raise(), places);
    let clock = Clock::start();
    let NodeConfig { network, data_dir, bootstrap, local_network, relay, pool } = config;
    let links = bootstrap.iter().map(|text| LinkText::decode(text)).collect::<Result<Vec<_>, _>>().map_err(StartError::Link)?;
    // Nobody would be dialled, and that is found out only when everything had its time.
    if !local_network && !links.is_empty() && !links.iter().flat_map(|link| &link.addrs).any(is_public) {
        return Err(StartError::LocalLinks);
    }
    let wished = one_network(network, &links)?;

    let home = blocking(move || Ok(Home::open(data_dir.as_deref())?)).await?;
    let tls = Tls::new(clock).map_err(|e| StartError::System(e.to_string()))?;
    let transport: Arc<dyn Transport> = Arc::new(TlsTcp::new(Arc::new(tls)));
    let family = family_links(relay.as_ref().map_or(&[], |relay| relay.family.as_slice()))?;
    let door = relay.map(|relay| Door::open(relay, &*transport, local_network)).transpose()?;

    let founds = door.is_some() && links.is_empty();
    let quota = door.as_ref().map_or(0, |door| door.quota);
    let is_relay = door.is_some();
    let kept = blocking(move || Kept::read(home, wished, founds, is_relay, quota, clock)).await?;
    if !is_relay && links.is_empty() && kept.saved.is_empty() {
        return Err(StartError::NoWayIn);
    }
    let pool = match pool {
        Some(pool) => pool,
        None => Pool::new(None).map_err(|e| StartError::System(e.to_string()))?,
    };

    let node = kept.identity.as_ref().map(|seed| IdentityKey::from_seed(seed).node_id());
    let link = door
        .as_ref()
        .zip(node)
        .map(|(door, node)| LinkText { network: kept.network, node, addrs: door.advertise.clone() }.encode());
    let family = family_of(kept.network, node, &family)?;
    let role = match (&door, kept.identity) {
        (Some(door), Some(identity)) => {
            Role::Relay { identity, advertise: door.advertise.clone(), family, hosts: kept.shares.is_some(), memory: door.memory }
        }
        _ => Role::Client,
    };
    let bootstrap = links.iter().flat_map(|l| l.addrs.iter().map(|addr| (l.node, *addr))).collect();
    let core = CoreConfig { network: kept.network, role, bootstrap, local_network, saved: kept.saved };
    let core = Core::new(core, &mut env::env(&clock, &mut env::os_rng())).map_err(StartError::Core)?;

    let (inbox, arrivals) = Inbox::new();
    let (events, receiver) = mpsc::channel(NODE_EVENTS);
    let (alive, ended) = watch::channel(());
    let driver = Driver {
        core,
        clock,
        transport,
        from: door.as_ref().map(|door| door.listen.ip()).filter(|ip| !ip.is_unspecified()),
        dials: Arc::new(Semaphore::new(handles.dialled)),
        inbox: inbox.clone(),
        pool,
        shares: kept.shares.clone(),
        files: kept.files.clone(),
        events,
        link_text: link.clone(),
    };
    let listener = door.map(|door| (door.listener, Doors::with(limits::HALF_OPEN_MAX, handles.accepted)));
    let task = tokio::spawn(live(driver, arrivals, listener, kept.shares, kept.files, alive));
    let abort = task.abort_handle();
    tokio::spawn(async move {
        if let Err(error) = task.await
            && error.is_panic()
        {
            tracing::error!("the node failed and has ended: this is a bug, please report it");
        }
    });
    Ok((Handle { inbox, next_op: Arc::default(), link, node, network: kept.network, ended, abort }, receiver))
}

/// A node's whole life, and its end in order: no new links, links closed, files and shares written.
async fn live(
    driver: Driver,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    listener: Option<(Box<dyn Listener>, Doors)>,
    shares: Option<Arc<HeldShares>>,
    files: Option<Arc<Files>>,
    alive: watch::Sender<()>,
) {
    let mut beside = tokio::task::JoinSet::new();
    if let Some((listener, doors)) = listener {
        beside.spawn(doors::accept(listener, doors, driver.pool.handshakes(), driver.inbox.clone()));
    }
    if let Some(shares) = &shares {
        beside.spawn(disk::expire(Arc::clone(shares)));
    }
    // A panic of the driver unwinds through here and drops all of the above.
    driver::run(driver, arrivals).await;
    beside.shutdown().await;
    let _ = tokio::task::spawn_blocking(move || {
        if let Some(files) = files {
            files.flush();
        }
        if let Some(shares) = shares {
            if let Err(error) = shares.flush() {
                tracing::warn!(%error, "the store could not be written to the end");
            }
            // A job may still hold it; the next start wants the lock.
            for _ in 0..200 {
                if Arc::strong_count(&shares) == 1 {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    })
    .await;
    drop(alive);
}

/// A relay's listening end.
struct Door {
    listener: Box<dyn Listener>,
    listen: SocketAddr,
    advertise: Vec<SocketAddr>,
    quota: u64,
    memory: Memory,
}

impl Door {
    fn open(relay: RelayConfig, transport: &dyn Transport, local_network: bool) -> Result<Self, StartError> {
        let failed = |e| StartError::listen(relay.listen, e);
        let listener = transport.listen(relay.listen).map_err(failed)?;
        let listen = listener.local().map_err(failed)?;
        let mut advertise = relay.advertise;
        let beside = |addr: &SocketAddr| addr.ip() == listen.ip() && addr.port() != 0 && addr.port() != listen.port();
        if advertise.iter().any(beside) {
            tracing::warn!("this relay listens on another port than it advertises: something must forward the one to the other");
        }
        if advertise.is_empty() {
            if listen.ip().is_unspecified() {
                return Err(StartError::Unreachable(listen));
            }
            advertise.push(listen);
        }
        for addr in &mut advertise {
            if addr.port() == 0 {
                addr.set_port(listen.port());
            }
            if addr.ip().is_unspecified() {
                return Err(StartError::Unreachable(*addr));
            }
            if !local_network && !is_public(addr) {
                return Err(StartError::NotPublic(*addr));
            }
        }
        Ok(Self { listener, listen, advertise, quota: relay.quota, memory: relay.memory })
    }
}

/// What was on disk, or was put there now.
struct Kept {
    network: NetworkId,
    identity: Option<crate::crypto::secret::Secret<32>>,
    saved: std::collections::BTreeMap<String, zeroize::Zeroizing<Vec<u8>>>,
    shares: Option<Arc<HeldShares>>,
    files: Option<Arc<Files>>,
}

impl Kept {
    fn read(
        home: Home,
        wished: Option<NetworkId>,
        founds: bool,
        is_relay: bool,
        quota: u64,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let network = home.network(wished, founds)?;
        let saved = home.saved(|name, bytes| saved_is_whole(&network, name, bytes))?;
        let identity = if is_relay { Some(home.identity()?) } else { None };
        let shares = match home.dir().filter(|_| quota > 0) {
            Some(dir) => {
                let options = Options { quota_bytes: quota, network, verify: disk::verify };
                let shares = HeldShares::new(Store::open(&dir.path(home::SHARES), options)?, clock);
                shares.tell_if_over();
                Some(Arc::new(shares))
            }
            None => None,
        };
        let files = home.into_dir().map(|dir| Arc::new(Files::new(dir, clock)));
        Ok(Self { network, identity, saved, shares, files })
    }
}

/// The one network that configuration and links name, if any.
fn one_network(network: Option<NetworkId>, links: &[LinkText]) -> Result<Option<NetworkId>, StartError> {
    let mut named = links.iter().map(|l| l.network);
    let Some(first) = named.next() else { return Ok(network) };
    if named.any(|n| n != first) {
        return Err(StartError::Networks);
    }
    match network {
        Some(wished) if wished != first => Err(StartError::OtherNetwork),
        _ => Ok(Some(first)),
    }
}

/// What the family setting names.
fn family_links(texts: &[String]) -> Result<Vec<LinkText>, StartError> {
    texts.iter().map(|text| LinkText::decode(text)).collect::<Result<_, _>>().map_err(StartError::Family)
}

/// The relays of a family, without this one: operators may give all their relays one list.
fn family_of(network: NetworkId, me: Option<NodeId>, links: &[LinkText]) -> Result<Vec<NodeId>, StartError> {
    if links.iter().any(|l| l.network != network) {
        return Err(StartError::FamilyNetwork);
    }
    let mut family: Vec<NodeId> = links.iter().map(|l| l.node).filter(|node| Some(*node) != me).collect();
    family.sort_unstable();
    family.dedup();
    if family.len() > limits::FAMILY_MAX {
        return Err(StartError::FamilyTooLarge(family.len()));
    }
    Ok(family)
}

/// Runs what blocks on the runtime's blocking threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StartError> + Send + 'static) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StartError::System(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::base::Time;
    use crate::base::Wall;
    use crate::crypto::keys::IdentityKey;
    use crate::crypto::secret::Secret;
    use crate::proto::overlay::Profile;
    use crate::proto::overlay::record;
    use crate::proto::overlay::record::Verified;
    use crate::proto::renewal::Renewal;
    use crate::wire::codec::Extensions;
    use crate::wire::record::Descriptor;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const NET: NetworkId = NetworkId([3; 32]);

    fn identity(i: u8) -> IdentityKey {
        IdentityKey::from_seed(&Secret::new([i; 32]))
    }

    fn link(i: u8) -> String {
        LinkText { network: NET, node: identity(i).node_id(), addrs: vec![([20, i, 0, 1], 443).into()] }.encode()
    }

    /// A relay's signed descriptor, as its settings make it.
    fn described(i: u8, links: &[String]) -> Arc<Verified> {
        let me = identity(i);
        let family = family_of(NET, Some(me.node_id()), &family_links(links).unwrap()).unwrap();
        let mut rng = StdRng::seed_from_u64(i.into());
        let mut env = Env { now: Time(0), wall: Wall(1), rng: &mut rng };
        let (renewal, _) = Renewal::start(None, NET, me.node_id(), false, &mut env).unwrap();
        let profile = Profile::of(renewal.keys(), vec![([20, i, 0, 1], 443).into()], family);
        let descriptor = Descriptor {
            node: me.node_id(),
            published: Wall(1),
            expires: Wall(100),
            addrs: profile.addrs,
            carries: profile.carries,
            onion_key: profile.onion_key,
            host_key: profile.host_key,
            family: profile.family,
            old_addrs: vec![],
            extensions: Extensions::default(),
        };
        Verified::listed(record::sign_descriptor(&me, &NET, descriptor).unwrap())
    }

    /// All relays of an operator may have one list of links, their own among them; a stranger that names them is no relative.
    #[test]
    fn relays_that_name_each_other_in_their_settings_are_a_family() {
        let ours: Vec<String> = [1, 2, 1].map(link).to_vec();
        let (a, b, stranger) = (described(1, &ours), described(2, &ours), described(9, &ours));
        assert!(a.is_family(&b) && b.is_family(&a) && !stranger.is_family(&a) && !a.is_family(&stranger));
        assert_eq!(a.descriptor().family, [identity(2).node_id()]);
        assert!(!described(3, &[]).is_family(&a));
    }

    #[test]
    fn a_family_that_cannot_be_is_an_error_and_said() {
        let many: Vec<String> = (10..27).map(link).collect();
        let of = |links: &[String]| family_links(links).and_then(|links| family_of(NET, Some(identity(10).node_id()), &links));
        assert_eq!(of(&many).unwrap().len(), limits::FAMILY_MAX, "its own does not count");
        let more: Vec<String> = (10..28).map(link).collect();
        assert!(matches!(of(&more), Err(StartError::FamilyTooLarge(17))));
        let cut = link(1).split_off(12);
        for bad in ["", "relay.example:7443", &cut] {
            let error = of(&[bad.to_owned()]).unwrap_err();
            assert!(matches!(error, StartError::Family(_)) && error.to_string().contains("family"), "{error}");
        }
        let elsewhere =
            LinkText { network: NetworkId([4; 32]), node: identity(1).node_id(), addrs: vec![([20, 1, 0, 1], 1).into()] };
        assert!(matches!(of(&[elsewhere.encode()]), Err(StartError::FamilyNetwork)));
    }
}
