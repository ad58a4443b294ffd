//! Cells of a hostile peer into a whole node: hello, credits, circuits, legs, fragments of overlay messages, in any order.

use super::Choices;
use bytes::BytesMut;
use onionskin::base::Env;
use onionskin::base::LinkId;
use onionskin::base::NetworkId;
use onionskin::base::Time;
use onionskin::base::Wall;
use onionskin::crypto::secret::Secret;
use onionskin::proto::Core;
use onionskin::proto::Input;
use onionskin::proto::Output;
use onionskin::proto::core::CoreConfig;
use onionskin::proto::core::Role;
use onionskin::proto::memory::Memory;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::CELL;
use onionskin::wire::cell::Command;
use onionskin::wire::hello::Hello;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;

const NET: NetworkId = NetworkId([1; 32]);
const PEER: LinkId = LinkId(1_000_000);
const STEPS: usize = 64;
/// Jobs are real cryptography; more of them only repeat.
const JOBS: usize = 16;

struct Node {
    core: Core,
    rng: StdRng,
    now: Time,
    jobs: usize,
    up: bool,
}

impl Node {
    fn feed(&mut self, input: Input) {
        let mut pending = vec![input];
        while let Some(input) = pending.pop() {
            let mut env = Env { now: self.now, wall: Wall(1_800_000_000 + self.now.0 / 1_000_000), rng: &mut self.rng };
            self.core.handle(&mut env, input);
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Send { link, cells } => {
                        assert!(!cells.is_empty() && cells.len().is_multiple_of(CELL), "whole cells only");
                        pending.push(Input::Sent { link, cells: cells.len() / CELL });
                    }
                    Output::Dial { link, .. } => pending.push(Input::LinkDown { link }),
                    Output::Close { link } => {
                        self.up &= link != PEER;
                        pending.push(Input::LinkDown { link });
                    }
                    Output::Job { job, work } if self.jobs < JOBS => {
                        self.jobs += 1;
                        let result = work.run(&mut self.rng, None);
                        pending.push(Input::Done { job, result });
                    }
                    Output::Job { .. } | Output::Event(..) | Output::Node(_) | Output::Save { .. } => {}
                }
            }
        }
    }
}

fn node() -> Node {
    let role = Role::Relay {
        identity: Secret::new([9; 32]),
        advertise: vec![([20, 1, 7, 9], 9001).into()],
        family: vec![],
        hosts: true,
        memory: Memory::default(),
    };
    let config = CoreConfig { network: NET, role, bootstrap: Vec::new(), local_network: true, saved: BTreeMap::new() };
    let mut rng = StdRng::seed_from_u64(1);
    let core = Core::new(config, &mut Env { now: Time(0), wall: Wall(1_800_000_000), rng: &mut rng }).expect("a node");
    Node { core, rng, now: Time(0), jobs: 0, up: true }
}

/// A cell from a few bytes: command, circuit, and the front of its body; what is left of the body is one byte repeated.
fn cell(choices: &mut Choices<'_>) -> Vec<u8> {
    let (command, circuit) = (choices.byte(), choices.byte());
    let of_link = Command::from_u8(command)
        .is_some_and(|c| matches!(c, Command::Padding | Command::Credit | Command::Hello | Command::Overlay));
    // Mostly circuit ids that fit their command; the top bit says whose they are.
    let id = match circuit {
        _ if of_link && circuit < 250 => 0,
        circuit => u32::from(circuit & 7) | u32::from(circuit & 0x80) << 24,
    };
    let mut bytes = [&id.to_be_bytes()[..], &[command]].concat();
    let front = choices.short();
    bytes.extend_from_slice(choices.take(usize::from(front) % (BODY + 1)));
    bytes.resize(CELL, choices.byte());
    bytes
}

/// A peer that says anything.
pub fn link(data: &[u8]) {
    let mut choices = Choices(data);
    let mut node = node();
    node.feed(Input::LinkUp { link: PEER, remote: ([99, 1, 1, 1], 40_000).into(), exporter: [5; 32], dialed: false });
    if choices.byte() & 1 == 0 {
        let mut bytes = [&[0; 4][..], &[Command::Hello as u8]].concat();
        bytes.extend_from_slice(&Hello::new(NET, None).write()[..]);
        node.feed(Input::Cells { link: PEER, cells: BytesMut::from(bytes.as_slice()) });
        assert!(node.up, "an honest hello is taken");
    }
    for _ in 0..STEPS {
        if choices.is_empty() || !node.up {
            break;
        }
        let batch: Vec<u8> = (0..=choices.byte() % 4).flat_map(|_| cell(&mut choices)).collect();
        node.feed(Input::Cells { link: PEER, cells: BytesMut::from(batch.as_slice()) });
        node.now = node.now + Duration::from_millis(u64::from(choices.byte()));
        node.feed(Input::Tick);
    }
    node.core.check();
}
