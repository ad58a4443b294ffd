//! A small network whose story is written by bytes: people publish and get while relays die, come back, lie and tamper.

#[path = "../sim/mod.rs"]
mod sim;

use super::Choices;
use onionskin::proto::doc::key::ReadKey;
use sim::Fate;
use sim::World;
use sim::disk::Manner;
use std::time::Duration;

const RELAYS: usize = 8;
const STEPS: usize = 10;
/// Most publications, so that one story stays short.
const DOCUMENTS: usize = 3;

fn document(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|i| fill ^ (i % 251) as u8).collect()
}

/// One story. Every wish ends in bounded virtual time; no byte is ever wrong; in an honest world nothing fails.
pub fn world(data: &[u8]) {
    let mut choices = Choices(data);
    let (mut world, publisher, reader) = World::with_people(RELAYS, u64::from(choices.byte()));
    world.check_every = 512;
    let mut honest = true;
    let mut published: Vec<(ReadKey, Vec<u8>)> = Vec::new();
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        let (what, which) = (choices.byte() % 8, choices.byte());
        let relay = usize::from(which) % RELAYS;
        match what {
            0 if published.len() < DOCUMENTS => {
                let doc = document(usize::from(choices.short()) * 3, which);
                match world.publish(publisher, &doc) {
                    Ok((key, _)) => published.push((key, doc)),
                    Err(failure) => assert!(!honest, "publish failed in an honest world: {failure:?}"),
                }
            }
            0 | 1 => {
                if published.is_empty() {
                    continue;
                }
                let (key, doc) = &published[usize::from(which) % published.len()];
                let offset = choices.short();
                let from = if offset & 1 == 0 { 0 } else { usize::from(offset) % (doc.len() + 1) };
                match world.get(reader, &key.clone(), from as u64) {
                    Ok((bytes, _)) => assert!(bytes == doc[from..], "a wrong byte"),
                    Err(failure) => assert!(!honest, "get failed in an honest world: {failure:?}"),
                }
            }
            2 => {
                honest = false;
                world.switch_off(relay);
            }
            3 => {
                if world.nodes[relay].core.is_none() {
                    let network = world.network;
                    world.switch_on(relay, network);
                }
            }
            4 => {
                honest = false;
                let (rate, how) = (u64::from(choices.byte()), choices.byte());
                world.nodes[relay].tamper = Some(Box::new(move |rng, cells| {
                    use rand::Rng;
                    let draw = rng.next_u64();
                    if draw % 256 >= rate {
                        return Fate::Send;
                    }
                    match how % 4 {
                        0 => return Fate::Drop,
                        1 => return Fate::Delay(Duration::from_millis(draw >> 8 & 0xfff)),
                        2 => {
                            let at = (draw >> 16) as usize % cells.len();
                            cells[at] ^= 1 << (draw >> 8 & 7);
                        }
                        _ => rng.fill_bytes(&mut cells[5..]),
                    }
                    Fate::Send
                }));
            }
            5 => world.nodes[relay].tamper = None,
            6 => {
                honest = false;
                let manners = [Manner::Honest, Manner::Forgets, Manner::Corrupts, Manner::Swaps];
                world.nodes[relay].disk.manner = manners[usize::from(choices.byte()) % manners.len()];
            }
            _ => world.run(Duration::from_secs(u64::from(which))),
        }
    }
}
