//! A relay's own records: a descriptor, signed anew when something in it changed, and a freshness every half day or when witnesses
//! changed; both are told to those who should know first.
//!
//! The descriptor is kept over restarts, and there is one in each slot of time at the most: two of one slot would be a proof that
//! this relay shows different faces (T29).

use crate::base::Env;
use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::proto::overlay::Asked;
use crate::proto::overlay::Overlay;
use crate::proto::overlay::Purpose;
use crate::proto::overlay::Work;
use crate::proto::overlay::io::Config;
use crate::proto::overlay::io::Output;
use crate::proto::overlay::io::OverlayJob;
use crate::proto::overlay::io::OwnBody;
use crate::proto::overlay::io::Peer;
use crate::proto::overlay::io::Profile;
use crate::proto::overlay::record;
use crate::proto::overlay::record::Body;
use crate::proto::overlay::record::Verified;
use crate::wire::codec::Extensions;
use crate::wire::overlay::Blob;
use crate::wire::overlay::Message;
use crate::wire::record::Descriptor;
use core::time::Duration;
use rand::RngExt;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

/// A freshness is renewed after about this long, half its life: the other half is for the way to everyone.
const RENEW_SECS: u64 = 12 * 3600;
/// By so much earlier, by chance, so that relays that started together do not go on together.
const RENEW_EARLIER_SECS: u64 = 3600;
/// A descriptor that says nothing new is signed anew after this long. Its keys are renewed at that age, so mostly they come first.
const DESCRIPTOR_RENEW_SECS: u64 = limits::KEY_LIFE_SECS;
/// Name of the saved descriptor.
pub(in crate::proto) const SAVED: &str = "descriptor";
/// Relays next to the own position that are told, besides those linked: of each /24 one, if there are so many (T29).
const NEAREST: usize = 20;
/// Changes are gathered for this long before one descriptor tells them all.
const GATHER: Duration = Duration::from_secs(3);
/// The same in a local network.
const GATHER_LOCAL: Duration = Duration::from_millis(150);
/// Time between two dials for announcements.
const PACE: Duration = Duration::from_millis(50);
/// Relays remembered as told; beyond, some are told twice.
const TOLD_MAX: usize = 256;

/// The own records and who knows them.
#[derive(Debug)]
pub struct Own {
    relay: Option<Arc<Verified>>,
    /// The last descriptor, of this run or an earlier one.
    body: Option<Arc<Body>>,
    /// When to sign anew.
    sign_at: Time,
    signing: bool,
    /// Relays that have the current descriptor.
    told: BTreeSet<NodeId>,
    /// Relays to be dialled for it.
    queue: VecDeque<Peer>,
    queue_at: Time,
    /// Whether the nearest were queued for the current descriptor.
    spread: bool,
}

impl Own {
    pub(super) fn new(env: &Env<'_>, config: &Config) -> Self {
        let now = env.now;
        let kept = config.saved.get(SAVED).and_then(|bytes| Body::kept(&config.network, bytes).ok());
        let ours = |b: &Arc<Body>| config.profile.as_ref().is_some_and(|p| p.node == b.descriptor().node);
        // One from a clock that was wrong counts nowhere, so it is in nobody's way.
        let counts = |b: &Arc<Body>| b.descriptor().published <= env.wall.plus(limits::SKEW_MAX_SECS);
        Self {
            relay: None,
            body: kept.filter(|b| ours(b) && counts(b)),
            sign_at: now,
            signing: false,
            told: BTreeSet::new(),
            queue: VecDeque::new(),
            queue_at: now,
            spread: false,
        }
    }

    pub(super) fn next(&self) -> Time {
        if self.queue.is_empty() { self.sign_at } else { self.sign_at.min(self.queue_at) }
    }
}

impl Overlay {
    /// The own descriptor, once signed.
    pub const fn own_descriptor(&self) -> Option<&Arc<Verified>> {
        self.own.relay.as_ref()
    }

    /// What this relay says of itself; `None` is a client.
    pub const fn own_profile(&self) -> Option<&Profile> {
        self.config.profile.as_ref()
    }

    /// Takes over a changed profile. A former first address is listed for seven days (D9).
    pub(super) fn profile(&mut self, env: &Env<'_>, mut profile: Profile) {
        if let Some(old) = &self.config.profile {
            profile.old_addrs.extend(old.old_addrs.iter().copied().filter(|(a, _)| !profile.addrs.contains(a)));
            if let Some(first) = old.addrs.first().filter(|a| profile.addrs.first() != Some(*a)) {
                profile.old_addrs.insert(0, (*first, env.wall.plus(limits::OLD_ADDR_SECS)));
                self.forget_receipts(env.now);
            }
        }
        profile.settle_old(env.wall);
        self.config.profile = Some(profile);
        self.save_addresses();
        self.own_changed(env);
    }

    /// Something in the own descriptor changed: sign it anew soon.
    pub(super) fn own_changed(&mut self, env: &Env<'_>) {
        let soon = env.now + if self.view.is_local() { GATHER_LOCAL } else { GATHER };
        self.own.sign_at = self.own.sign_at.min(soon);
    }

    pub(super) fn tick_own(&mut self, env: &mut Env<'_>) {
        if env.now >= self.own.sign_at {
            let jitter = env.rng.random_range(0..RENEW_EARLIER_SECS);
            self.own.sign_at = env.now + Duration::from_secs(RENEW_SECS - jitter);
            self.sign_own(env);
        }
        if env.now >= self.own.queue_at && !self.own.queue.is_empty() {
            self.own.queue_at = env.now + PACE;
            if let Some(peer) = self.own.queue.pop_front()
                && !self.own.told.contains(&peer.node)
                && !self.dial(env, peer, Purpose::Announce)
                && self.own.queue.len() < NEAREST
            {
                self.own.queue.push_back(peer);
            }
        }
    }

    fn sign_own(&mut self, env: &Env<'_>) {
        let Some(p) = &self.config.profile else { return };
        if self.own.signing {
            // One at a time; the change waits for the next.
            self.own.sign_at = env.now + GATHER_LOCAL;
            return;
        }
        let said = Descriptor {
            node: p.node,
            published: env.wall,
            expires: env.wall.plus(limits::DESCRIPTOR_LIFE_SECS),
            addrs: p.addrs.clone(),
            carries: p.carries,
            onion_key: p.onion_key,
            host_key: p.host_key.clone(),
            family: p.family.clone(),
            old_addrs: p.old_addrs.iter().copied().filter(|(_, until)| *until > env.wall).collect(),
            extensions: Extensions::default(),
        };
        let body = match self.own.body.clone() {
            Some(old) if says(&old, said.clone(), env.wall) => OwnBody::Kept(old),
            Some(old) if old.slot(self.view.is_local()) >= record::slot(env.wall, self.view.is_local()) => {
                // Once in each slot: the change waits for the next. Meanwhile nothing is said, for what was said holds no more.
                self.own.sign_at = env.now + Duration::from_secs(self.slot_secs() - env.wall.0 % self.slot_secs());
                return;
            }
            _ => OwnBody::New(Box::new(said)),
        };
        self.own.signing = true;
        // The newest counts, so no two are of one second.
        let last = self.own.relay.as_ref().map_or(Wall(0), |r| r.published());
        let now = env.wall.max(last.plus(1));
        self.job(Work::SignOwn, OverlayJob::SignOwn { body, receipts: self.receipts.counting(env.wall), now });
    }

    const fn slot_secs(&self) -> u64 {
        if self.view.is_local() { limits::DESCRIPTOR_SLOT_LOCAL_SECS } else { limits::DESCRIPTOR_SLOT_SECS }
    }

    /// The signature did not come about.
    pub(super) fn sign_again(&mut self, env: &Env<'_>) {
        self.own.signing = false;
        self.own_changed(env);
    }

    pub(super) fn signed_own(&mut self, env: &mut Env<'_>, own: Option<Arc<Verified>>) {
        self.own.signing = false;
        let Some(own) = own else {
            // What an earlier run kept is not looked at before; without receipts, there is nothing that could be wrong.
            if self.receipts.forget() {
                self.own_changed(env);
            }
            return;
        };
        if self.own.body.as_ref().is_none_or(|b| b.digest() != own.body().digest()) {
            self.own.body = Some(Arc::clone(own.body()));
            // Before anybody hears of it: a restart must not sign another one in the same slot.
            self.out.push_back(Output::Save { name: SAVED, bytes: own.body().encode() });
        }
        self.view.insert(Arc::clone(&own), env.wall);
        // We know our own address; others need receipts.
        self.view.prove(&own.node(), &own.addr(), env.now);
        self.view_changed = true;
        self.own.relay = Some(own);
        self.own.told.clear();
        self.own.queue.clear();
        self.own.spread = false;
        let links: Vec<(NodeId, LinkId)> = self.by_node.iter().map(|(n, l)| (*n, *l)).collect();
        for (node, link) in links {
            self.announce_on(env, link, node);
        }
    }

    /// Once receipts suffice, those next to our place are told; before that they could do nothing with it.
    pub(super) fn watch_usable(&mut self, env: &Env<'_>) {
        let Some(own) = self.own.relay.clone() else { return };
        let usable = self.view.get(&own.node()).is_some();
        if usable && !self.own.spread && self.view.counts().relays > 1 {
            self.own.spread = true;
            self.own.queue_at = env.now;
            let near = self.view.near_apart(&own.position().0, NEAREST + 1);
            let told = &self.own.told;
            let peers = near.into_iter().filter(|r| r.node() != own.node() && !told.contains(&r.node()));
            self.own.queue = peers.map(|r| Peer { addr: r.addr(), node: r.node() }).collect();
        }
    }

    /// Tells a linked relay, unless it knows.
    pub(super) fn announce_on(&mut self, env: &Env<'_>, link: LinkId, node: NodeId) {
        let Some(own) = self.own.relay.clone() else { return };
        if self.own.told.contains(&node) {
            return;
        }
        let Some(fresh) = own.fresh() else { return };
        let (descriptor, freshness) = (Blob(own.body().encode()), Blob(fresh.encode()));
        if self.request(env, link, Asked::Announce, |id| Message::Announce { id, descriptor, freshness })
            && self.own.told.len() < TOLD_MAX
        {
            self.own.told.insert(node);
        }
    }
}

/// Whether a descriptor says what is to be said, and is not too old.
fn says(old: &Body, mut said: Descriptor, now: Wall) -> bool {
    let before = old.descriptor();
    said.tidy();
    (said.published, said.expires) = (before.published, before.expires);
    *before == said && now < before.published.plus(DESCRIPTOR_RENEW_SECS)
}
