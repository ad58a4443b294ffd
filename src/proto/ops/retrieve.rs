//! Getting one chunk back: ask some hosts of its region, then all; whatever verifies counts, whatever does not is passed over (D10,
//! D11). No host is asked that no circuit could reach: a region that is crowded is gone through in its order (`Region::read_list`),
//! as fast as circuits become free. When all had too little, those around it are asked.
//!
//! A chunk that somebody waits for asks ten at once, for a writer leaves out three of 24 and one may be slow. Where many chunks are
//! under way, time lost on one is not lost, so each asks for no more than it lacks: 9.1 answers for eight shares instead of 10.8,
//! and every answer crosses five machines. Hosts that are late are not waited for: `Retrieval::hurry`.

use crate::base::Address;
use crate::base::NodeId;
use crate::base::limits;
use crate::proto::circuit::origin::RequestId;
use crate::proto::job::Job;
use crate::proto::job::SealedAnswer;
use crate::proto::job::Shares8;
use crate::proto::job::SharesFound;
use crate::proto::ops::User;
use crate::proto::requests::HOSTS_AT_ONCE;
use crate::proto::requests::RegionTag;
use crate::proto::requests::Target;
use crate::wire::request::Fetch;
use crate::wire::request::Kind;
use crate::wire::request::SessionType;
use crate::wire::share::Class;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Times that a host is asked again because the circuit to it died.
const SAME_HOST_RETRIES: u8 = 2;
/// Times that a host which gave a share is asked for another: in the smallest networks it holds them all, and one that gives the
/// same over and over must not keep a retrieval from its end.
pub(super) const ASKS_PER_HOST: u8 = limits::SHARES_TOTAL as u8;
/// Of a spare copy that exists, two of three hosts have a share: where so many have none there is none, and nobody waits for the rest.
const SPARE_HEARD: usize = 5;
/// Rounds in which a lean retrieval asks for what it lacks; then it asks all. With three of 24 hosts left out, 1 in 250 comes so
/// far.
const LEAN_ROUNDS: u8 = 3;

/// How many hosts a retrieval asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Ten, then all: the shortest wait.
    Broad,
    /// As many as shares are lacking, three times, then all: the fewest bytes.
    Lean,
}

/// One stored copy of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where it is.
    pub address: Address,
    /// The salt that makes it this copy.
    pub salt: [u8; 16],
}

/// What a retrieval came to.
#[derive(Debug)]
pub enum Outcome {
    /// Not done.
    Pending,
    /// The sealed chunk, verified against its root.
    Chunk(Vec<u8>),
    /// All shares verified and yet they are not one codeword: whoever made the document lied (D11).
    Void,
    /// Too few shares are left; so many hosts were asked, so many distinct shares found.
    Lost {
        /// Hosts asked.
        asked: usize,
        /// Distinct shares found.
        found: usize,
    },
}

/// One host asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    host: NodeId,
    tries: u8,
    /// It is late, and another was asked as well.
    passed: bool,
}

/// One chunk on its way back.
#[derive(Debug)]
pub struct Retrieval {
    root: [u8; 32],
    class: Class,
    /// Copies not tried yet; the last is tried next.
    copies: Vec<Copy>,
    /// Spare copies, which may not exist; the last is tried next, after all others.
    spares: Vec<Copy>,
    copy: Copy,
    /// Whether that is a spare one.
    at_spare: bool,
    /// Answers that came for this copy.
    heard: usize,
    region: RegionTag,
    members: Option<Arc<BTreeSet<NodeId>>>,
    /// Hosts of this copy's region that were not asked yet; the last is asked next.
    hosts: Vec<NodeId>,
    /// Hosts around the region, for when those and what they gave is too little; in the same order.
    around: Vec<NodeId>,
    asked: BTreeMap<RequestId, Asked>,
    /// Hosts asked so far, at any copy.
    met: BTreeSet<NodeId>,
    /// Hosts that gave a share of this copy and may hold another: in small networks a host has several.
    again: Vec<NodeId>,
    /// How often each host gave a share of this copy.
    gave: BTreeMap<NodeId, u8>,
    answers: Vec<SealedAnswer>,
    found: Shares8,
    job: bool,
    /// Hosts that were to be asked again, for what they did not answer was not their fault.
    put_back: BTreeSet<NodeId>,
    /// Lean rounds that are left.
    lean: u8,
    /// Hosts that gave something that did not verify.
    pub liars: u64,
    /// Hosts that gave a share.
    pub givers: BTreeSet<NodeId>,
}

impl Retrieval {
    /// Starts with one of the copies, by chance; the spares come when all of them are done. `tag`: names this chunk among those of the
    /// operation.
    pub(in crate::proto) fn start(
        user: &mut User<'_, '_, '_>,
        tag: u64,
        root: [u8; 32],
        class: Class,
        mut copies: Vec<Copy>,
        mut spares: Vec<Copy>,
        breadth: Breadth,
    ) -> Self {
        copies.shuffle(&mut *user.ctx.env.rng);
        spares.reverse();
        let copy = copies.pop().unwrap_or(Copy { address: Address([0; 32]), salt: [0; 16] });
        let mut retrieval = Self {
            root,
            class,
            copies,
            spares,
            copy,
            at_spare: false,
            heard: 0,
            region: tag,
            members: None,
            hosts: Vec::new(),
            around: Vec::new(),
            asked: BTreeMap::new(),
            met: BTreeSet::new(),
            again: Vec::new(),
            gave: BTreeMap::new(),
            answers: Vec::new(),
            found: Shares8::default(),
            job: false,
            put_back: BTreeSet::new(),
            lean: if breadth == Breadth::Lean { LEAN_ROUNDS } else { 0 },
            liars: 0,
            givers: BTreeSet::new(),
        };
        retrieval.begin_copy(user, tag);
        retrieval
    }

    fn begin_copy(&mut self, user: &mut User<'_, '_, '_>, tag: u64) {
        let place = user.readers(&self.copy.address);
        (self.hosts, self.around) = (place.hosts, place.around);
        self.hosts.reverse();
        self.around.reverse();
        (self.region, self.members) = if place.everyone { (0, None) } else { (tag, Some(place.members)) };
        let first = if self.lean > 0 { self.missing() } else { limits::READ_FIRST };
        self.lean = self.lean.saturating_sub(1);
        self.ask(user, tag, first);
    }

    /// Shares that are still lacking.
    fn missing(&self) -> usize {
        limits::SHARES_NEEDED.saturating_sub(self.found.len())
    }

    /// Requests that are awaited.
    pub fn awaited(&self) -> impl Iterator<Item = RequestId> {
        self.asked.keys().copied()
    }

    /// Asks one host more for each that is late, which may still answer. Where nobody is left, those that gave a share are asked
    /// for another.
    pub(in crate::proto) fn hurry(&mut self, user: &mut User<'_, '_, '_>, tag: u64) {
        if self.asked.is_empty() {
            return;
        }
        let mut late = 0;
        for (request, asked) in self.asked.iter_mut().filter(|(_, asked)| !asked.passed) {
            if user.is_late(*request) {
                asked.passed = true;
                late += 1;
                user.pace.fell_behind(asked.host);
            }
        }
        self.ask(user, tag, late);
        if !self.waits() {
            // What came so far is opened, to know who gave what and whom to ask again.
            self.proceed(user, tag);
        }
    }

    /// Whether an answer is awaited that is not late.
    fn waits(&self) -> bool {
        self.asked.values().any(|asked| !asked.passed)
    }

    fn ask(&mut self, user: &mut User<'_, '_, '_>, tag: u64, count: usize) {
        for _ in 0..count.min(HOSTS_AT_ONCE.saturating_sub(self.asked.len())) {
            // Who is late with another chunk is asked last.
            let slow = user.pace.slow();
            let Some(next) = self.hosts.iter().rposition(|host| !slow.contains(host)).or(self.hosts.len().checked_sub(1)) else {
                return;
            };
            let host = self.hosts.remove(next);
            self.met.insert(host);
            self.ask_host(user, tag, host, 0);
        }
    }

    fn ask_host(&mut self, user: &mut User<'_, '_, '_>, tag: u64, host: NodeId, tries: u8) {
        let fetch = Fetch { address: self.copy.address, want: self.found.wanted() };
        let kind = SessionType { kind: Kind::Fetch, class: self.class };
        let target = Target { host, region: self.region, members: self.members.clone() };
        let request = user.ask(tag, target, kind, fetch.to_bytes());
        self.asked.insert(request, Asked { host, tries, passed: false });
    }

    /// A sealed answer came.
    pub(in crate::proto) fn answer(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        mut answer: SealedAnswer,
    ) -> Outcome {
        if let Some(Asked { host, .. }) = self.asked.remove(&request) {
            user.pace.caught_up(&host);
            answer.host = host;
            self.heard += 1;
            self.answers.push(answer);
        }
        self.proceed(user, tag)
    }

    /// A request failed.
    pub(in crate::proto) fn failed(
        &mut self,
        user: &mut User<'_, '_, '_>,
        tag: u64,
        request: RequestId,
        host_to_blame: bool,
    ) -> Outcome {
        if let Some(Asked { host, tries, passed }) = self.asked.remove(&request) {
            if !host_to_blame && tries < SAME_HOST_RETRIES && (!passed || self.hosts.is_empty()) {
                self.ask_host(user, tag, host, tries + 1);
            } else if !passed {
                // One more instead of the silent one, so that a slow host costs no whole round.
                self.ask(user, tag, 1);
            } else if !host_to_blame && self.put_back.insert(host) {
                // Others were asked meanwhile. It may never have been asked at all, so its turn comes again, after theirs.
                self.hosts.insert(0, host);
            }
        }
        self.proceed(user, tag)
    }

    /// Answers were opened and verified beside the core.
    pub(in crate::proto) fn opened(&mut self, user: &mut User<'_, '_, '_>, tag: u64, found: SharesFound) -> Outcome {
        self.job = false;
        self.liars += found.liars;
        for host in &found.givers {
            let times = self.gave.entry(*host).or_default();
            *times = times.saturating_add(1);
            if *times <= ASKS_PER_HOST {
                self.again.push(*host);
            }
        }
        self.givers.extend(found.givers);
        self.found = found.shares;
        match found.rebuilt {
            Some(Ok(chunk)) => Outcome::Chunk(chunk),
            Some(Err(())) => Outcome::Void,
            None => self.proceed(user, tag),
        }
    }

    fn proceed(&mut self, user: &mut User<'_, '_, '_>, tag: u64) -> Outcome {
        if self.job {
            return Outcome::Pending;
        }
        let missing = self.missing();
        if !self.answers.is_empty() && (self.answers.len() >= missing || !self.waits()) {
            self.job = true;
            let work = Job::OpenAnswers {
                address: self.copy.address,
                root: self.root,
                class: self.class,
                answers: core::mem::take(&mut self.answers),
                shares: core::mem::take(&mut self.found),
                rebuild: true,
            };
            user.job(tag, work);
            return Outcome::Pending;
        }
        if self.waits() {
            return Outcome::Pending;
        }
        if self.at_spare && self.gave.is_empty() && self.heard >= SPARE_HEARD {
            return self.next_copy(user, tag);
        }
        if !self.hosts.is_empty() {
            let count = if self.lean > 0 { missing } else { self.hosts.len() };
            self.lean = self.lean.saturating_sub(1);
            self.ask(user, tag, count);
            return Outcome::Pending;
        }
        if !self.again.is_empty() {
            // Everyone was asked once. Whoever gave a share is asked for one that is still missing, until nobody has any.
            for host in core::mem::take(&mut self.again) {
                self.ask_host(user, tag, host, 0);
            }
            return Outcome::Pending;
        }
        if !self.asked.is_empty() {
            return Outcome::Pending;
        }
        if !self.around.is_empty() {
            self.hosts = core::mem::take(&mut self.around);
            self.ask(user, tag, self.hosts.len());
            return Outcome::Pending;
        }
        self.next_copy(user, tag)
    }

    /// Another copy of the same chunk has the same shares: what was found stays.
    fn next_copy(&mut self, user: &mut User<'_, '_, '_>, tag: u64) -> Outcome {
        self.at_spare = self.copies.is_empty();
        let Some(copy) = self.copies.pop().or_else(|| self.spares.pop()) else { return self.lost() };
        self.copy = copy;
        self.heard = 0;
        self.asked.clear();
        self.again.clear();
        self.gave.clear();
        self.put_back.clear();
        self.begin_copy(user, tag);
        if self.asked.is_empty() { self.lost() } else { Outcome::Pending }
    }

    fn lost(&self) -> Outcome {
        Outcome::Lost { asked: self.met.len(), found: self.found.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Env;
    use crate::base::NetworkId;
    use crate::base::OpId;
    use crate::base::Position;
    use crate::base::Time;
    use crate::base::Wall;
    use crate::proto::ops::pace::Pace;
    use crate::proto::out::Ctx;
    use crate::proto::out::Out;
    use crate::proto::overlay::testing;
    use crate::proto::path::PathPolicy;
    use crate::proto::requests::Requests;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// An operation among so many hosts.
    fn among(hosts: u8, work: impl FnOnce(&mut User<'_, '_, '_>)) {
        let mut rng = StdRng::seed_from_u64(1);
        let mut view = testing::view_with_witnesses();
        for n in 1..=hosts {
            view.insert(testing::host_at(&mut rng, ([30, n, 1, 1], 9).into(), Position([n; 32])), testing::NOW);
        }
        let mut requests = Requests::new(NetworkId([1; 32]), PathPolicy::new(None), 0);
        requests.open(OpId(1), 1);
        let (mut routes, mut pace, mut out) = (BTreeMap::new(), Pace::default(), Out::default());
        let mut env = Env { now: Time(0), wall: Wall(0), rng: &mut rng };
        let mut ctx = Ctx { env: &mut env, out: &mut out };
        let (ctx, requests, routes, pace) = (&mut ctx, &mut requests, &mut routes, &mut pace);
        work(&mut User { ctx, requests, view: &view, op: OpId(1), routes, pace });
    }

    /// Everybody is asked for what a chunk's own place should have. At its spare places few are, where these know nothing of it.
    #[test]
    fn spare_places_that_nobody_used_cost_few_questions() {
        among(30, |user| {
            let [own, first, second] = [1, 2, 3].map(|n| Copy { address: Address([n; 32]), salt: [n; 16] });
            let mut retrieval = Retrieval::start(user, 1, [0; 32], Class::Small, vec![own], vec![first, second], Breadth::Broad);
            let (mut asks, mut outcome) = (BTreeMap::<Address, usize>::new(), Outcome::Pending);
            while retrieval.asked.pop_first().is_some() {
                *asks.entry(retrieval.copy.address).or_default() += 1;
                retrieval.heard += 1;
                let nothing = SharesFound { shares: Shares8::default(), givers: vec![], liars: 0, rebuilt: None };
                outcome = retrieval.opened(user, 1, nothing);
            }
            assert!(matches!(outcome, Outcome::Lost { found: 0, .. }), "{outcome:?}");
            let few = limits::READ_FIRST;
            assert_eq!(asks.into_iter().collect::<Vec<_>>(), [(own.address, 30), (first.address, few), (second.address, few)]);
        });
    }

    /// A request that found no circuit says nothing of its host, which may have what is lacking: others are asked meanwhile, and then it
    /// again, once.
    #[test]
    fn who_was_passed_over_for_want_of_a_circuit_gets_another_turn() {
        among(30, |user| {
            let own = Copy { address: Address([1; 32]), salt: [1; 16] };
            let mut retrieval = Retrieval::start(user, 1, [0; 32], Class::Small, vec![own], vec![], Breadth::Broad);
            let mut asks = BTreeMap::<NodeId, usize>::new();
            while let Some((request, asked)) = retrieval.asked.first_key_value() {
                let (request, host) = (*request, asked.host);
                *asks.entry(host).or_default() += 1;
                retrieval.asked.get_mut(&request).unwrap().passed = true;
                let _ = retrieval.failed(user, 1, request, false);
            }
            assert!(asks.len() == 30 && asks.values().all(|times| *times >= 2), "{asks:?}");
        });
    }

    #[test]
    fn a_host_that_gives_one_share_over_and_over_ends_nobodys_retrieval() {
        among(1, |user| {
            let copies = [1, 2].map(|n| Copy { address: Address([n; 32]), salt: [n; 16] });
            let mut retrieval = Retrieval::start(user, 1, [0; 32], Class::Small, copies.to_vec(), Vec::new(), Breadth::Broad);
            let (mut asks, mut outcome) = (0, Outcome::Pending);
            while let Some((_, Asked { host, .. })) = retrieval.asked.pop_first() {
                asks += 1;
                assert!(asks < 1000, "without end");
                let shares = Shares8(vec![(5, [0; 32], vec![])]);
                outcome = retrieval.opened(user, 1, SharesFound { shares, givers: vec![host], liars: 0, rebuilt: None });
            }
            assert!(matches!(outcome, Outcome::Lost { asked: 1, found: 1 }), "{outcome:?}");
            assert_eq!(asks, copies.len() * (1 + usize::from(ASKS_PER_HOST)));
        });
    }
}
