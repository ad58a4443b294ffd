//! Whether the network is known well enough to do anything in it, and how that is told (D8).

use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::proto::Output;
use crate::proto::core::Core;
use crate::proto::core::directories;
use crate::proto::core::news::Told;
use crate::proto::event::Failure;
use crate::proto::event::NodeEvent;
use crate::proto::event::Status;
use crate::proto::event::clock_differs;
use crate::proto::event::count;
use crate::proto::out::Ctx;
use crate::proto::overlay;

impl Core {
    /// The coverage gate (D8): until the view is known well enough, only questions about it leave, which carry nobody's wish.
    pub(super) fn gate(&mut self, ctx: &mut Ctx<'_, '_>) {
        if !self.overlay.is_relay() {
            self.guide_client(ctx);
        }
        let ready = self.overlay.coverage().ready && !self.failed_clock;
        self.ready = ready;
        let reached = self.watch_reach(ctx);
        if (ready && reached) != self.told_ready {
            self.told_ready = !self.told_ready;
            if self.told_ready {
                ctx.out.push(Output::Node(NodeEvent::Ready));
            }
        }
        if self.ready {
            self.since_ready = ctx.env.now;
            self.told_not_ready = false;
            return;
        }
        // Nobody at all is a matter of a minute; a view that does not become complete, of ten.
        let nobody = self.overlay.view().counts().relays == 0 && self.links.open_count() == 0;
        let deadline = if nobody { limits::NOBODY_DEADLINE } else { limits::COVERAGE_DEADLINE };
        if ctx.env.now.since(self.since_ready) > deadline {
            let why = self.why_not_ready();
            let before = Time(ctx.env.now.0.saturating_sub(u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX)));
            self.ops.give_up(ctx, &mut self.requests, &mut self.links, before, &why);
            if !self.told_not_ready {
                self.told_not_ready = true;
                ctx.out.push(Output::Node(NodeEvent::NotReady(why)));
            }
        }
    }

    /// Whether others reach this relay, which is told when it changes; a client need not be reached.
    fn watch_reach(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        let Some(reach) = self.overlay.reach(ctx.env.wall) else { return true };
        if reach.holds {
            self.told_unreached = false;
            if !self.announced {
                self.announced = true;
                ctx.out.push(Output::Node(NodeEvent::Announced(reach.came_back)));
            }
        } else if reach.fails && !self.told_unreached {
            self.told_unreached = true;
            self.announced = false;
            if let Some(words) = reach.words() {
                self.tell(ctx, Told::Unreached, NodeEvent::Warning(words));
            }
        }
        reach.holds
    }

    /// A client's overlay plane needs to know its directory relays.
    pub(super) fn guide_client(&mut self, ctx: &mut Ctx<'_, '_>) {
        // Before its directories agree, kept guards may be missing from the view only because somebody hides them.
        if !self.overlay.has_view() {
            return;
        }
        let directories = self.requests.policy.directories(self.overlay.view(), ctx.env);
        if directories != self.directories || (self.overlay.wants_directories() && !directories.is_empty()) {
            self.directories = directories.clone();
            let addr = |node: &NodeId| self.overlay.view().get(node).map(|d| overlay::Peer { addr: d.addr(), node: *node });
            let peers: Vec<_> = directories.iter().filter_map(addr).collect();
            // The rest of the sample behind them: it may be up when these are down.
            let rest = self.requests.policy.sample().filter(|node| !directories.contains(node));
            let known: Vec<_> = peers.iter().copied().chain(rest.filter_map(|node| addr(&node))).collect();
            if !known.is_empty() && known != self.known {
                self.known.clone_from(&known);
                ctx.out.push(Output::Save { name: directories::SAVED, bytes: directories::encode(&known).into() });
            }
            self.overlay.handle(ctx.env, overlay::Input::Directories(peers));
        }
    }

    pub(super) fn why_not_ready(&self) -> Failure {
        let counts = self.overlay.view().counts();
        if self.links.open_count() == 0 {
            return Failure::nobody_answers(counts.relays);
        }
        let coverage = self.overlay.coverage();
        Failure::not_ready(counts.relays, counts.groups, (coverage.groups > 0).then_some(coverage.percent))
    }

    /// How the node is, for its own user.
    pub(super) fn status(&self, now: Time, wall: Wall) -> Status {
        let reach = self.overlay.reach(wall);
        let counts = self.overlay.view().counts();
        let coverage = self.overlay.coverage();
        let mut warnings = Vec::new();
        if !self.ready {
            warnings.push(self.why_not_ready().what);
        }
        warnings.extend(reach.and_then(|reach| reach.words()));
        let clock_offset_secs = self.overlay.clock_offset(now);
        warnings.extend(clock_offset_secs.filter(|secs| secs.unsigned_abs() > limits::SKEW_WARN_SECS).map(clock_differs));
        let answering = self.overlay.is_relay().then(|| self.overlay.answering(now));
        if counts.relays < limits::NETWORK_WEAK_BELOW {
            warnings.push({
                let are = if counts.relays == 1 { "is" } else { "are" };
                format!("only {} {are} known: anonymity is weak in a network this small", count(counts.relays as u64, "relay"))
            });
        }
        warnings.extend(self.requests.policy.relaxed().words());
        Status {
            ready: self.ready && reach.is_none_or(|reach| reach.holds),
            relays: counts.relays as u64,
            hosts: counts.hosts as u64,
            groups: counts.groups as u64,
            coverage: (coverage.groups > 0).then_some(coverage.percent),
            links: self.links.open_count() as u64,
            circuits_own: self.requests.circuits() as u64,
            circuits_carried: self.hops.len() as u64,
            circuit_build_us: self.requests.build_time().and_then(|t| u64::try_from(t.as_micros()).ok()),
            warnings,
            answering: answering.map(|(answering, _)| answering as u64),
            silent: answering.map(|(_, silent)| silent as u64),
            reach,
            clock_offset_secs,
            store: None,
            fault: None,
            handles: None,
            link: None,
            uptime_secs: now.since(self.started).as_secs(),
        }
    }
}
