//! What people asked for: publications, gets, checks. Each is a machine of its own, on circuits of its own.
//!
//! [`retrieve`] brings one chunk back, [`place`] gives one chunk's shares to hosts, [`pace`] tells what is late; [`get`],
//! [`publish`] and [`check`] decide which chunk is next. None of them knows of links or circuits: they ask hosts through `User` and
//! hear answers.

pub mod check;
pub mod get;
pub mod pace;
pub mod place;
pub mod publish;
pub mod retrieve;
pub mod tree;

use crate::base::Address;
use crate::base::NodeId;
use crate::base::OpId;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Group;
use crate::proto::Output;
use crate::proto::circuit::origin::RequestId;
use crate::proto::event::Command;
use crate::proto::event::Event;
use crate::proto::event::Failure;
use crate::proto::job::Job;
use crate::proto::job::JobResult;
use crate::proto::job::SealedAnswer;
use crate::proto::link::Links;
use crate::proto::ops::pace::Mark;
use crate::proto::ops::pace::Pace;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::region;
use crate::proto::overlay::region::Region;
use crate::proto::overlay::view::View;
use crate::proto::requests::RequestEvent;
use crate::proto::requests::Requests;
use crate::proto::requests::Target;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use core::time::Duration;
use rand::RngExt;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

/// Most operations at once; a further one is refused.
const OPS_MAX: usize = 64;
/// How often an operation sees to what is late, in milliseconds: from, to. Each by its own chance, so that two wishes show no
/// common beat.
const LOOK_MILLIS: (u64, u64) = (150, 350);
/// A request that is late for so many milliseconds has failed, from and to: three hops, a disk, and what a socket holds back of a
/// line of 15 kB a second. Each by its own chance: were all that are late together given up together, hosts that hold their answers
/// back would see by the common end of their legs that one wish was behind them (D12).
const GIVE_UP_AFTER: (u64, u64) = (20_000, 30_000);

/// An operation that has no circuit at all for so long ends: a change of networks, or a line that comes back, takes minutes.
const LINE_DOWN_MAX: Duration = Duration::from_secs(300);

/// Views of one region differ by less than this part of it: the coverage gate allows three in a hundred.
const VIEWS_DIFFER: usize = 8;

/// Hosts of a chunk's region.
#[derive(Debug)]
pub struct Place {
    /// In the order in which they are to be asked.
    pub hosts: Vec<NodeId>,
    /// Hosts around it, for a reader whom those gave too little.
    pub around: Vec<NodeId>,
    /// Whether the region is the whole network.
    pub everyone: bool,
    /// All that keep shares, those left out as well: none of them is a last hop for it (D12).
    pub members: Arc<BTreeSet<NodeId>>,
    /// Most shares of one chunk that a host keeps.
    pub max_per_host: usize,
}

/// What an operation sees of the node.
pub(in crate::proto) struct User<'a, 'b, 'e> {
    pub(in crate::proto) ctx: &'a mut Ctx<'b, 'e>,
    pub(in crate::proto) requests: &'a mut Requests,
    pub(in crate::proto) view: &'a View,
    op: OpId,
    /// Requests that are awaited.
    routes: &'a mut BTreeMap<RequestId, Route>,
    pace: &'a mut Pace,
}

/// What an awaited request is for, and since when.
#[derive(Clone, Copy, Debug)]
struct Route {
    tag: u64,
    mark: Mark,
    /// Whether its answer still is: of a chunk that is done it is not, but its host must not keep a stream for ever.
    wanted: bool,
    /// Since when it is seen to be late.
    late: Option<Time>,
    /// For how long it may be.
    patience: Duration,
}

impl User<'_, '_, '_> {
    fn ask(&mut self, tag: u64, target: Target, kind: SessionType, plain: Vec<u8>) -> RequestId {
        let request = self.requests.ask(self.ctx, self.op, target, kind, plain);
        let mark = self.pace.asked(self.ctx.env.now, kind.kind == Kind::Store);
        let (from, to) = GIVE_UP_AFTER;
        let patience = Duration::from_millis(self.ctx.env.rng.random_range(from..to));
        self.routes.insert(request, Route { tag, mark, wanted: true, late: None, patience });
        request
    }

    /// Whether a request is late, so that another host should be asked as well.
    fn is_late(&self, request: RequestId) -> bool {
        self.routes.get(&request).is_some_and(|route| self.pace.is_late(route.mark, self.ctx.env.now))
    }

    /// A chunk is done: what is still awaited for it is not wanted any more, and does not leave if it has not left.
    fn done(&mut self, tag: u64, awaited: impl Iterator<Item = RequestId>) {
        let awaited: BTreeSet<RequestId> = awaited.collect();
        let leaving = self.requests.finish(self.op, tag, &awaited);
        for request in &awaited {
            self.pace.ended();
            match self.routes.get_mut(request).filter(|_| leaving.contains(request)) {
                Some(route) => route.wanted = false,
                None => drop(self.routes.remove(request)),
            }
        }
    }

    fn job(&mut self, tag: u64, work: Job) {
        self.ctx.out.job(JobFor::Op(self.op, tag), work);
    }

    fn event(&mut self, event: Event) {
        self.ctx.out.push(Output::Event(self.op, event));
    }

    /// Groups whose hosts this client neither reads from nor writes to: those of its guard (D15).
    fn guard_groups(&self) -> Vec<Group> {
        let guard = self.requests.policy.guard(self.view, self.ctx.env.now);
        guard.map(|g| g.descriptor().addrs.iter().map(Group::of).collect()).unwrap_or_default()
    }

    fn place(&self, region: &Region, hosts: &[Arc<Verified>], around: &[Arc<Verified>]) -> Place {
        Place {
            hosts: hosts.iter().map(|h| h.node()).collect(),
            around: around.iter().map(|h| h.node()).collect(),
            everyone: self.view.hosts_capped() <= limits::REGION_EVERYONE,
            members: Arc::new(region.keepers().map(|m| m.node()).collect()),
            max_per_host: region::shares_kept(region.members().len()),
        }
    }

    /// Hosts to ask for shares at this address.
    fn readers(&mut self, address: &Address) -> Place {
        let region = Region::of(self.view, &address.0);
        let skip = self.guard_groups();
        let list = region.read_list(&mut *self.ctx.env.rng, &skip);
        let hosts = if list.hosts.is_empty() { list.last_resort } else { list.hosts };
        self.place(&region, &hosts, &list.around)
    }

    /// Hosts to give the shares of this address to, and which of them each takes, a bit for each.
    fn writers(&mut self, address: &Address) -> (Place, BTreeMap<NodeId, u32>) {
        let region = Region::of(self.view, &address.0);
        let skip = self.guard_groups();
        let list = region.write_list(&mut *self.ctx.env.rng, &skip);
        let mut place = self.place(&region, &list.hosts, &[]);
        // Hosts see regions that are larger or smaller by a few: what all of these keep.
        let size = region.members().len();
        place.max_per_host = region::shares_kept(size + size.div_ceil(VIEWS_DIFFER));
        let takes = list.hosts.iter().map(|h| (h.node(), region::takes(address, &h.position(), place.max_per_host))).collect();
        (place, takes)
    }

    /// Relays' addresses of the circuits used so far, for the report.
    fn paths(&self) -> Vec<Vec<SocketAddr>> {
        let addr = |node: &NodeId| self.view.get(node).map(|d| d.addr());
        self.requests.paths(self.op).iter().map(|path| path.iter().filter_map(addr).collect()).collect()
    }
}

/// What an operation hears.
pub(in crate::proto) enum Heard {
    /// It may begin: the network is ready.
    Begin,
    /// A sealed answer for a chunk.
    Answer(u64, RequestId, SealedAnswer),
    /// A request for a chunk failed; whether its host is to blame.
    Failed(u64, RequestId, bool),
    /// A job of this number is done.
    Job(u64, JobResult),
    /// The document's next bytes, or the receiver's word that it dealt with bytes.
    Command(Command),
    /// Some time has passed: see to what is late.
    Time,
}

/// Whether an operation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Goes {
    /// It does.
    On,
    /// It is over; its last event is out.
    Over,
}

#[derive(Debug)]
enum Machine {
    Get(Box<get::Get>),
    Publish(Box<publish::Publish>),
    Check(Box<check::Check>),
}

#[derive(Debug)]
struct Op {
    machine: Machine,
    begun: bool,
    /// When it was asked for, and once it has begun, when that was.
    since: Time,
    routes: BTreeMap<RequestId, Route>,
    pace: Pace,
    /// When it next sees to what is late.
    look: Time,
    /// How far what leaves had come when it last did.
    leaving: u64,
}

impl Op {
    /// The requests that are late for so long that they have failed.
    fn failed(&mut self, now: Time) -> BTreeSet<RequestId> {
        for route in self.routes.values_mut() {
            route.late = if self.pace.is_late(route.mark, now) { route.late.or(Some(now)) } else { None };
        }
        let failed = self.routes.iter().filter(|(_, r)| r.late.is_some_and(|since| now.since(since) >= r.patience));
        failed.map(|(request, _)| *request).collect()
    }
}

/// All operations under way.
#[derive(Debug, Default)]
pub struct Ops {
    ops: BTreeMap<OpId, Op>,
}

impl Ops {
    /// Whether somebody waits for something.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// A person's wish, or their word about one under way. Gives back those that are not about operations.
    pub(in crate::proto) fn command(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        requests: &mut Requests,
        links: &mut Links,
        view: &View,
        op: OpId,
        command: Command,
    ) {
        let machine = match command {
            Command::Publish(wish) => Machine::Publish(Box::new(publish::Publish::new(wish, &mut *ctx.env.rng))),
            Command::Get { key, offset } => Machine::Get(Box::new(get::Get::new(key, offset))),
            Command::Check { key, sample } => Machine::Check(Box::new(check::Check::new(key, sample))),
            Command::Cancel => {
                if self.ops.remove(&op).is_some() {
                    requests.close(ctx, links, op);
                }
                return;
            }
            Command::Plain(_) | Command::Consumed(_) | Command::Status => {
                return self.hear(ctx, requests, links, view, op, Heard::Command(command));
            }
        };
        if self.ops.len() >= OPS_MAX || self.ops.contains_key(&op) {
            ctx.out.push(Output::Event(op, Event::Failed(Failure::too_many_operations())));
            return;
        }
        requests.open(op, machine.circuits());
        let (since, look) = (ctx.env.now, ctx.env.now);
        self.ops.insert(op, Op { machine, begun: false, since, routes: BTreeMap::new(), pace: Pace::default(), look, leaving: 0 });
    }

    /// Lets those that wait begin, when the network is ready.
    pub(in crate::proto) fn begin(&mut self, ctx: &mut Ctx<'_, '_>, requests: &mut Requests, links: &mut Links, view: &View) {
        let waiting: Vec<_> = self.ops.iter().filter(|(_, op)| !op.begun).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(op) = self.ops.get_mut(&id) {
                (op.begun, op.since) = (true, ctx.env.now);
            }
            self.hear(ctx, requests, links, view, id, Heard::Begin);
        }
    }

    /// Ends those that wait since `before` or longer: the network is not getting ready.
    pub(in crate::proto) fn give_up(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        requests: &mut Requests,
        links: &mut Links,
        before: Time,
        why: &Failure,
    ) {
        let waiting: Vec<_> = self.ops.iter().filter(|(_, op)| !op.begun && op.since <= before).map(|(id, _)| *id).collect();
        for id in waiting {
            self.ops.remove(&id);
            requests.close(ctx, links, id);
            ctx.out.push(Output::Event(id, Event::Failed(why.clone())));
        }
    }

    /// Lets those whose time it is see to what is late.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, requests: &mut Requests, links: &mut Links, view: &View) {
        let due: Vec<_> = self.ops.iter().filter(|(_, op)| op.begun && op.look <= ctx.env.now).map(|(id, _)| *id).collect();
        for id in due {
            if let Some(op) = self.ops.get_mut(&id) {
                let (from, to) = LOOK_MILLIS;
                op.look = ctx.env.now + Duration::from_millis(ctx.env.rng.random_range(from..to));
                if requests.lacking(id).is_some_and(|lacking| ctx.env.now.since(lacking.max(op.since)) >= LINE_DOWN_MAX) {
                    self.ops.remove(&id);
                    requests.close(ctx, links, id);
                    ctx.out.push(Output::Event(id, Event::Failed(Failure::line_down())));
                    continue;
                }
                if requests.lacking(id).is_some() {
                    op.pace.lacks(ctx.env.now);
                }
                let leaving = requests.leaving(links, id);
                // While nothing at all comes, not even padding, it is the line that is down, and no host.
                let deaf = requests.is_deaf(links, id, ctx.env.now);
                if core::mem::replace(&mut op.leaving, leaving) != leaving || deaf {
                    op.pace.moves(ctx.env.now);
                }
                let failed = op.failed(ctx.env.now);
                if !failed.is_empty() {
                    requests.give_up(ctx, links, id, &failed);
                }
            }
            self.hear(ctx, requests, links, view, id, Heard::Time);
        }
    }

    /// When to tick next, and why.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.ops.values().filter(|op| op.begun).map(|op| (op.look, "late answers")).min()
    }

    /// Something happened to a request.
    pub(in crate::proto) fn request_event(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        requests: &mut Requests,
        links: &mut Links,
        view: &View,
        event: RequestEvent,
    ) {
        let answered = matches!(event, RequestEvent::Answer { .. });
        let (op, request, heard): (_, _, Box<dyn FnOnce(u64) -> Heard>) = match event {
            RequestEvent::Answer { op, request, session, n, sealed } => {
                let answer = SealedAnswer { host: NodeId([0; 32]), session, n, sealed };
                (op, request, Box::new(move |tag| Heard::Answer(tag, request, answer)))
            }
            RequestEvent::Failed { op, request, host_to_blame } => {
                (op, request, Box::new(move |tag| Heard::Failed(tag, request, host_to_blame)))
            }
            RequestEvent::Told { .. } => return,
        };
        let now = ctx.env.now;
        let route = self.ops.get_mut(&op).and_then(|op| {
            let route = op.routes.remove(&request).filter(|route| route.wanted)?;
            if answered {
                op.pace.answered(route.mark, now)
            } else {
                op.pace.ended();
            }
            Some(route)
        });
        if let Some(Route { tag, .. }) = route {
            self.hear(ctx, requests, links, view, op, heard(tag));
        }
    }

    /// A job is done.
    #[expect(clippy::too_many_arguments, reason = "the parts of the core that it works on are lent one by one")]
    pub(in crate::proto) fn job_done(
        &mut self,
        ctx: &mut Ctx<'_, '_>,
        requests: &mut Requests,
        links: &mut Links,
        view: &View,
        op: OpId,
        tag: u64,
        result: JobResult,
    ) {
        self.hear(ctx, requests, links, view, op, Heard::Job(tag, result));
    }

    fn hear(&mut self, ctx: &mut Ctx<'_, '_>, requests: &mut Requests, links: &mut Links, view: &View, id: OpId, heard: Heard) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let mut user = User { ctx, requests, view, op: id, routes: &mut op.routes, pace: &mut op.pace };
        let goes = match &mut op.machine {
            Machine::Get(get) => get.hear(&mut user, heard),
            Machine::Publish(publish) => publish.hear(&mut user, heard),
            Machine::Check(check) => check.hear(&mut user, heard),
        };
        if goes == Goes::Over {
            self.ops.remove(&id);
            requests.close(ctx, links, id);
        }
    }
}

impl Machine {
    /// Circuits that it will want at least: four for ten hosts of one chunk at three a circuit, eight for more.
    fn circuits(&self) -> usize {
        match self {
            Self::Get(get) => get.circuits(),
            Self::Publish(_) | Self::Check(_) => limits::DOCUMENT_CIRCUITS,
        }
    }
}
