//! Hosts that squat: what they are given of a chunk they give on to all others at once, before the publisher comes to them (T37).

use super::World;
use super::disk::Manner;
use onionskin::base::{Address, Time, limits};
use onionskin::proto::host::Acceptance;
use onionskin::proto::job::Shares;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often they look what they were given, and how long it takes to bring it to the others: a link, a leg, a store.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const GOES_ROUND: Duration = Duration::from_millis(300);
/// Lease in days that they ask for: the longest.
const LEASE: u16 = 400;

/// Some hosts that work together.
pub struct Squatters {
    /// Who they are.
    pub hosts: Vec<usize>,
    /// All others, and what each takes.
    others: Vec<(usize, Acceptance)>,
    /// How many different shares of a chunk they give on.
    most: usize,
    gave: BTreeMap<Address, BTreeSet<u8>>,
    due: Vec<(Time, Address, u8, Vec<u8>)>,
    looked: Time,
}

impl Squatters {
    /// So many of the first `hosts` relays of a world, by chance. `manner`: what they say to those who bring them shares.
    pub fn among(world: &mut World, hosts: usize, bad: usize, most: usize, manner: Manner) -> Self {
        let mut chosen = BTreeSet::new();
        while chosen.len() < bad {
            chosen.insert(world.random(0..hosts));
        }
        let rule = |i: &usize| {
            let view = world.nodes[*i].core.as_ref().unwrap().view();
            let me = view.get(&world.nodes[*i].id.unwrap()).unwrap();
            (*i, Acceptance::of(view, vec![me.position()]))
        };
        let others = (0..hosts).filter(|i| !chosen.contains(i)).map(|i| rule(&i)).collect();
        chosen.iter().for_each(|i| world.nodes[*i].disk.manner = manner);
        let hosts = chosen.into_iter().collect();
        Self { hosts, others, most, gave: BTreeMap::new(), due: Vec::new(), looked: world.now }
    }

    /// What they do at this moment: as relays they reach every host without a circuit.
    pub fn act(&mut self, world: &mut World) {
        let now = world.now;
        for (_, address, index, blob) in self.due.extract_if(.., |(at, ..)| *at <= now) {
            for (host, rule) in self.others.iter().filter(|(_, rule)| rule.accepts(&address, index)) {
                world.nodes[*host].disk.put(LEASE, &address, index, &blob, rule.max_per_chunk);
            }
        }
        if now.since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        for host in &self.hosts {
            for (address, index, blob) in world.nodes[*host].disk.shares() {
                let gave = self.gave.entry(address).or_default();
                if gave.len() < self.most && gave.insert(index) {
                    self.due.push((now + GOES_ROUND, address, index, blob));
                }
            }
        }
    }

    /// Chunks that honest hosts alone cannot give back, of all of which anybody holds a share.
    pub fn beyond_reach(&self, world: &World) -> (usize, usize) {
        let mut honest: BTreeMap<Address, BTreeSet<u8>> = BTreeMap::new();
        for host in &self.hosts {
            honest.extend(world.nodes[*host].disk.addresses().into_iter().map(|address| (address, BTreeSet::new())));
        }
        for (host, _) in &self.others {
            for (address, index, _) in world.nodes[*host].disk.shares() {
                honest.entry(address).or_default().insert(index);
            }
        }
        let lost = honest.values().filter(|shares| shares.len() < limits::SHARES_NEEDED).count();
        (lost, honest.len())
    }

    /// What is under way comes to its end, and all disks are empty again.
    pub fn forget(&mut self, world: &mut World) {
        world.run(Duration::from_secs(120));
        self.others.iter().map(|(host, _)| host).chain(&self.hosts).for_each(|host| world.nodes[*host].disk.clear());
        self.gave.clear();
        self.due.clear();
    }
}
