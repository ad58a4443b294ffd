//! Dialling: for ourselves, and for the circuits of others.

use crate::base::LinkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::limits;
use crate::proto::Output;
use crate::proto::link::DIALED_BIT;
use crate::proto::link::Link;
use crate::proto::link::LinkEvent;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::PortKey;
use crate::proto::link::Stage;
use crate::proto::link::WAITERS_MAX;
use crate::proto::link::Waiter;
use crate::proto::out::Ctx;
use std::net::SocketAddr;
use std::time::Duration;

/// A handshake is late after so long: a line of 5 kB/s brings its 6 KiB in that time if nothing else is on it.
pub(super) const LATE: Duration = Duration::from_secs(4);
/// The same of the second dial of a relay, which began when the line was known to carry.
pub(super) const LATE_AGAIN: Duration = Duration::from_millis(2_500);
/// How often a late one is looked at.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Cells that moved lately on links of ours beyond which a handshake may wait behind them, on a line that is not fast.
const MUCH: u64 = 64;

impl Link {
    /// Whether circuits of our own wait for it.
    pub(super) fn awaits_circuit(&self) -> bool {
        self.waiters.iter().any(|waiter| matches!(waiter, Waiter::Origin(_)))
    }
}

impl Links {
    /// Has `waiter` told (by [`LinkEvent`]) when a link to `node` is open or failed. An open link answers at once, with its id.
    /// `None`: it waits, or too many wait already and it is told of a failure, as of any other.
    pub(in crate::proto) fn want(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        node: NodeId,
        addr: SocketAddr,
        waiter: Waiter,
    ) -> Option<LinkId> {
        self.join(ctx.env.now, node, waiter).unwrap_or_else(|| {
            self.dial_node(ctx, node, addr, waiter);
            None
        })
    }

    /// The same for a circuit of somebody else, by its port on the client's side.
    pub(in crate::proto) fn lend(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        by: PortKey,
        node: NodeId,
        addr: SocketAddr,
        waiter: Waiter,
    ) -> Option<LinkId> {
        self.join(ctx.env.now, node, waiter).unwrap_or_else(|| {
            let remote = self.port_link(by).and_then(|(link, _)| self.remote(link));
            match remote.and_then(|remote| self.lent_seats.enter(&remote)) {
                Some(seat) => {
                    let id = self.dial_node(ctx, node, addr, waiter);
                    self.lent_dials.insert(id, seat);
                }
                // The number of no link: the first has one more.
                None => self.refuse_waiter(LinkId(DIALED_BIT), waiter),
            }
            None
        })
    }

    /// Joins those that wait for a link to this relay, or finds it open. `None`: there is none yet.
    fn join(&mut self, now: Time, node: NodeId, waiter: Waiter) -> Option<Option<LinkId>> {
        let id = *self.by_node.get(&node)?;
        let link = self.links.get_mut(&id)?;
        if matches!(link.stage, Stage::Open) {
            return Some(Some(id));
        }
        if link.waiters.len() < WAITERS_MAX {
            link.waiters.push(waiter);
            if link.dialed && !link.late && !link.again && matches!(waiter, Waiter::Origin(_)) {
                self.timers.set(LinkTimer::Handshake(id), now.max(link.began + LATE));
            }
        } else {
            self.refuse_waiter(id, waiter);
        }
        Some(None)
    }

    fn dial_node(&mut self, ctx: &mut Ctx<'_, '_>, node: NodeId, addr: SocketAddr, waiter: Waiter) -> LinkId {
        let id = self.dial(ctx, addr, Some(node), Some(waiter));
        self.by_node.insert(node, id);
        id
    }

    /// A dial for others is over.
    pub(super) fn lent_over(&mut self, id: LinkId) {
        if let Some(seat) = self.lent_dials.remove(&id) {
            self.lent_seats.leave(seat);
        }
    }

    /// Tells one that waits, and no other, that its link failed. That is nobody's fault, so no relay is named.
    fn refuse_waiter(&mut self, link: LinkId, waiter: Waiter) {
        let (owners, waiters) = (Vec::new(), vec![waiter]);
        let (began, others) = (Time(0), None);
        self.events.push_back(LinkEvent::Down { link, owners, waiters, peer: None, was_open: false, silent: false, began, others });
    }

    /// Dials an address anew, even if a link to the same relay exists (dial-back, D9). With `expect`, any other identity fails.
    pub(in crate::proto) fn dial(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        addr: SocketAddr,
        expect: Option<NodeId>,
        waiter: Option<Waiter>,
    ) -> LinkId {
        self.next_link += 1;
        let id = LinkId(DIALED_BIT | self.next_link);
        let mut link = Link::new(addr, true, expect, ctx.env.now);
        link.waiters.extend(waiter);
        self.links.insert(id, link);
        let ours = matches!(waiter, Some(Waiter::Origin(_)));
        self.timers.set(LinkTimer::Handshake(id), ctx.env.now + if ours { LATE } else { limits::HANDSHAKE_DEADLINE });
        ctx.out.push(Output::Dial { link: id, addr });
        id
    }

    /// Dials a relay to which there is no link yet, for nobody: to see whether it answers.
    pub(in crate::proto) fn try_out(&mut self, ctx: &mut Ctx<'_, '_>, node: NodeId, addr: SocketAddr) {
        if !self.by_node.contains_key(&node) {
            let id = self.dial(ctx, addr, Some(node), None);
            self.by_node.insert(node, id);
        }
    }

    /// A handshake takes long. Where circuits of our own wait for it, others are asked whether they answer meanwhile. If they do, the
    /// line carries: it is dialled once more, for the first dial may have begun while the line was down and wait for its next try, and
    /// if that is late too, it is this relay that is gone. Else it has its whole time.
    pub(super) fn handshake_late(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (now, began, ours) = (ctx.env.now, link.began, link.dialed && link.awaits_circuit());
        let until = began + limits::HANDSHAKE_DEADLINE;
        if now >= until {
            return self.close(ctx, id);
        }
        let Some(node) = link.expect.filter(|_| ours) else {
            return self.timers.set(LinkTimer::Handshake(id), until);
        };
        let (again, told) = (link.again, core::mem::replace(&mut link.late, true));
        if self.heard_others(Some(node)).is_some_and(|heard| heard > began) {
            return if again { self.close(ctx, id) } else { self.dial_again(ctx, id, node) };
        }
        self.probe_dialled(ctx, false);
        if !told && !again {
            self.events.push_back(LinkEvent::Late { peer: node });
        }
        self.timers.set(LinkTimer::Handshake(id), until.min(now + LOOK_AGAIN));
    }

    /// Dials a relay once more, for the same waiters.
    fn dial_again(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, node: NodeId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let (addr, waiters) = (link.remote, core::mem::take(&mut link.waiters));
        self.close(ctx, id);
        let id = self.dial(ctx, addr, Some(node), None);
        self.by_node.insert(node, id);
        if let Some(link) = self.links.get_mut(&id) {
            (link.waiters, link.again) = (waiters, true);
            self.timers.set(LinkTimer::Handshake(id), ctx.env.now + LATE_AGAIN);
        }
        self.probe_dialled(ctx, false);
    }

    /// When something last came from any other relay that we dialled. Never, as far as it tells of a line, while much is on it: then a
    /// handshake waits behind that, and a link that stands does not.
    pub(super) fn heard_others(&self, but: Option<NodeId>) -> Option<Time> {
        let others = || self.links.values().filter(|l| l.dialed && matches!(l.stage, Stage::Open) && l.peer != but);
        if others().any(|l| l.moved_lately() > MUCH) {
            return None;
        }
        others().map(|l| l.received).max()
    }
}
