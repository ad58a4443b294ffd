//! Tagging (T09): whoever alters, drops, swaps, repeats or injects cells on any leg of a circuit of three hops makes that cell
//! noise to everyone behind. No far side recognises it, and every cause gives the same answer. Away from the client, all cells
//! after it are noise as well; towards the client, the client ends the circuit with the first that it does not recognise.
//!
//! A million touched cells in an optimised build, fewer in others; `ONIONSKIN_TAGGING_CELLS` and `ONIONSKIN_SEED` choose.

use onionskin::crypto::cgo::ClientLayers;
use onionskin::crypto::cgo::RelayLayer;
use onionskin::crypto::secret::Secret;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::Command;
use onionskin::wire::cell::TAG;
use rand::Rng;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

const HOPS: usize = 3;
const AD: u8 = Command::Relay as u8;

type Body = Box<[u8; BODY]>;

/// What an adversary on a leg does to what crosses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Touch {
    FlipsABit,
    FlipsABitOfTheTag,
    ChangesTheCommand,
    ReplacesTheTag,
    ReplacesAll,
    Drops,
    Swaps,
    Repeats,
    Injects,
}

const TOUCHES: [Touch; 9] = [
    Touch::FlipsABit,
    Touch::FlipsABitOfTheTag,
    Touch::ChangesTheCommand,
    Touch::ReplacesTheTag,
    Touch::ReplacesAll,
    Touch::Drops,
    Touch::Swaps,
    Touch::Repeats,
    Touch::Injects,
];

/// A cell on a leg: its command and body.
type Cell = (u8, Body);

impl Touch {
    /// What crosses the leg instead of `cells`, and how many in front of it are still untouched.
    fn apply(self, rng: &mut StdRng, mut cells: Vec<Cell>) -> (Vec<Cell>, usize) {
        let Some((ad, first)) = cells.first_mut() else { return (cells, 0) };
        match self {
            Self::FlipsABit => first[rng.random_range(0..BODY)] ^= 1 << rng.random_range(0..8),
            Self::FlipsABitOfTheTag => first[rng.random_range(0..TAG)] ^= 1 << rng.random_range(0..8),
            Self::ChangesTheCommand => *ad = Command::RelayEarly as u8,
            Self::ReplacesTheTag => rng.fill_bytes(&mut first[..TAG]),
            Self::ReplacesAll => rng.fill_bytes(&mut first[..]),
            Self::Drops => drop(cells.remove(0)),
            Self::Swaps => cells.swap(0, 1),
            Self::Repeats => {
                let again = cells[0].clone();
                cells.insert(1, again);
                return (cells, 1);
            }
            Self::Injects => {
                let mut noise = Box::new([0; BODY]);
                rng.fill_bytes(&mut noise[..]);
                cells.insert(0, (AD, noise));
            }
        }
        (cells, 0)
    }
}

struct Circuit {
    client: ClientLayers<BODY>,
    relays: Vec<RelayLayer<BODY>>,
}

impl Circuit {
    fn new(rng: &mut StdRng) -> Self {
        let keys: Vec<_> = (0..HOPS).map(|_| Secret::random(rng)).collect();
        let mut client = ClientLayers::new();
        keys.iter().for_each(|k| client.push(k));
        Self { client, relays: keys.iter().map(RelayLayer::new).collect() }
    }

    /// The client's cell to a hop, as it crosses leg `leg`: the one that ends at hop `leg`.
    fn away(&mut self, to: usize, leg: usize, payload: &Body) -> Cell {
        let mut body = payload.clone();
        self.client.originate(to, AD, &mut body);
        for relay in &mut self.relays[..leg] {
            assert!(!relay.outbound(AD, &mut body), "an honest cell is recognised too early");
        }
        (AD, body)
    }

    /// Which hop behind the leg recognises a cell.
    fn far_side(&mut self, leg: usize, (ad, body): &mut Cell) -> Option<usize> {
        (leg..HOPS).find(|hop| self.relays[*hop].outbound(*ad, body))
    }

    /// A hop's cell to the client, as it crosses leg `leg`.
    fn towards(&mut self, from: usize, leg: usize, payload: &Body) -> Cell {
        let mut body = payload.clone();
        self.relays[from].originate(AD, &mut body);
        for relay in self.relays[leg..from].iter_mut().rev() {
            relay.inbound(AD, &mut body);
        }
        (AD, body)
    }

    /// Which hop the client takes a cell to be from. The command is new on every leg, so a changed one meets the next relay only.
    fn client_side(&mut self, leg: usize, (ad, body): &mut Cell) -> Option<usize> {
        let mut ad = *ad;
        for relay in self.relays[..leg].iter_mut().rev() {
            relay.inbound(ad, body);
            ad = AD;
        }
        self.client.receive(ad, body)
    }
}

/// One circuit: an honest cell, then two of which the first is touched. Counts the cells that crossed touched.
fn trial(rng: &mut StdRng, touch: Touch, leg: usize, away: bool) -> u64 {
    let mut circuit = Circuit::new(rng);
    let mut payload = Box::new([0; BODY]);
    rng.fill_bytes(&mut payload[..64]);
    let make = |circuit: &mut Circuit, hop| match away {
        true => circuit.away(hop, leg, &payload),
        false => circuit.towards(hop, leg, &payload),
    };
    let end = rng.random_range(leg..HOPS);
    let mut honest = make(&mut circuit, end);
    let cells: Vec<Cell> = (0..2).map(|_| make(&mut circuit, rng.random_range(leg..HOPS))).collect();
    let arrive = |circuit: &mut Circuit, cell: &mut Cell| match away {
        true => circuit.far_side(leg, cell),
        false => circuit.client_side(leg, cell),
    };
    assert_eq!(arrive(&mut circuit, &mut honest), Some(end), "an honest cell is recognised");
    assert_eq!(honest.1[TAG..], payload[TAG..], "and says what was meant");
    let (touched, good) = touch.apply(rng, cells);
    let mut count = 0;
    for (i, mut cell) in touched.into_iter().enumerate() {
        let by = arrive(&mut circuit, &mut cell);
        if i < good {
            assert!(by.is_some(), "{touch:?}: what comes before is honest");
            continue;
        }
        count += 1;
        assert_eq!(by, None, "{touch:?} on leg {leg}, away {away}: cell {i} was recognised");
        if !away {
            break;
        }
        assert_ne!(cell.1[TAG..], payload[TAG..], "{touch:?} on leg {leg}: cell {i} can be read");
    }
    count
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_touched_cell_is_ever_recognised() {
    let wanted = number("ONIONSKIN_TAGGING_CELLS", if cfg!(debug_assertions) { 20_000 } else { 1_000_000 });
    let seed = number("ONIONSKIN_SEED", rand::random());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    println!("seed {seed}, {threads} threads");
    let runs: Vec<BTreeMap<(Touch, usize, bool), u64>> = std::thread::scope(|scope| {
        let run = |thread| {
            move || {
                let mut rng = StdRng::seed_from_u64(seed.wrapping_add(thread));
                let mut counts = BTreeMap::new();
                while counts.values().sum::<u64>() * threads < wanted {
                    for touch in TOUCHES {
                        for (leg, away) in (0..HOPS).flat_map(|leg| [(leg, true), (leg, false)]) {
                            *counts.entry((touch, leg, away)).or_default() += trial(&mut rng, touch, leg, away);
                        }
                    }
                }
                counts
            }
        };
        let threads: Vec<_> = (0..threads).map(|i| scope.spawn(run(i))).collect();
        threads.into_iter().flat_map(|t| t.join()).collect()
    });
    assert_eq!(runs.len() as u64, threads, "a thread failed");
    let mut all = BTreeMap::new();
    for ((touch, _, _), count) in runs.into_iter().flatten() {
        *all.entry(touch).or_insert(0) += count;
    }
    let total: u64 = all.values().sum();
    println!("{total} cells, none recognised: {all:?}");
    assert!(total >= wanted);
}
