//! One relay of the view, and how it stands with us.

use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::net::Group;
use crate::base::net::Prefix;
use crate::proto::overlay::record::Verified;
use std::sync::Arc;

/// How a relay stands with us. Kept over newer descriptors with the same first address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Whether receipts connect it with a relay that answered us; of a client: its directories agree on it.
    pub(super) seen: bool,
    /// It was seen, and is no more.
    pub(super) dropped: bool,
    /// It answered us at its first address, lately, and did not fail since.
    pub(super) proven: bool,
    /// It did not answer us, twice.
    pub(super) doubted: bool,
    /// When it last answered us, if ever.
    pub(super) answered: Option<Time>,
    /// Whether it did not answer when it was last dialled.
    pub(super) missed: bool,
    /// The first failure since, if failures count: within about a day of an answer none does.
    pub(super) failing: Option<Time>,
    /// The relay by whose word it is seen.
    pub(super) led_by: Option<NodeId>,
    /// The relay that answered us at the beginning of that chain.
    pub(super) root: Option<NodeId>,
}

impl Standing {
    /// Whether others may be believed because of it: it is seen, or was there when it last answered us.
    pub(super) const fn speaks(&self) -> bool {
        self.seen || (self.doubted && self.answered.is_some())
    }
}

/// One relay of the view.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its newest descriptor.
    pub relay: Arc<Verified>,
    /// Whether paths and regions may use it.
    pub usable: bool,
    /// Whether it hosts shares.
    pub host: bool,
    pub(super) standing: Standing,
    pub(super) arrival: u64,
    /// Index in the list of usable relays.
    pub(super) slot: usize,
    /// Of its records, at hand here: what is looked at whenever others name it.
    pub(super) tag: u64,
    pub(super) fresh: Wall,
    pub(super) group: Group,
    pub(super) prefix: Prefix,
}

impl Entry {
    pub(super) fn new(relay: Arc<Verified>, standing: Standing, arrival: u64) -> Self {
        let (tag, fresh, group, prefix) = (relay.digest_part(), relay.published(), relay.group(), relay.prefix());
        Self { relay, usable: false, host: false, standing, arrival, slot: 0, tag, fresh, group, prefix }
    }

    /// What hints carry of its descriptor's hash.
    pub const fn tag(&self) -> u64 {
        self.tag
    }

    /// When it last said that it is there.
    pub const fn fresh(&self) -> Wall {
        self.fresh
    }

    /// Whether a witness more that is seen could make more of it.
    pub(super) fn may_gain(&self) -> bool {
        let less = !self.standing.seen || !self.usable || (!self.host && self.relay.descriptor().host_key.is_some());
        less && !self.standing.doubted
    }

    /// Whether it answered us where it says it is, lately, and did not fail since.
    pub const fn proven(&self) -> bool {
        self.standing.proven
    }

    /// Whether receipts connect it with a relay that answered us, and it did not fail since.
    pub const fn seen(&self) -> bool {
        self.standing.seen
    }

    /// Whether our dials failed, so that it counts for nothing until one succeeds.
    pub const fn doubted(&self) -> bool {
        self.standing.doubted
    }

    /// When the first dial failed since it last answered.
    pub const fn failing(&self) -> Option<Time> {
        self.standing.failing
    }

    /// The relay that answered us which chains through this one begin with.
    pub(super) fn root(&self) -> NodeId {
        self.standing.root.unwrap_or_else(|| self.relay.node())
    }

    /// When it last answered us.
    pub const fn answered(&self) -> Option<Time> {
        self.standing.answered
    }
}

/// A relay at its place in the key space.
#[derive(Clone, Debug)]
pub struct Place {
    /// The relay.
    pub relay: Arc<Verified>,
    /// What it does at this place.
    pub kind: PlaceKind,
}

/// What a relay does at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    /// Only carries circuits.
    Carrier,
    /// Hosts shares.
    Host,
    /// Hosted here until it moved; still serves for some days.
    Former,
}
