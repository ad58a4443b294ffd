use super::*;
use crate::wire::cell;
use rand::Rng;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

const RELAY: u8 = 3;
const EARLY: u8 = 9;

fn circuit<const BODY: usize>(rng: &mut StdRng, hops: usize) -> (ClientLayers<BODY>, Vec<RelayLayer<BODY>>) {
    let mut client = ClientLayers::new();
    let relays = (0..hops)
        .map(|_| {
            let keys = Secret::random(rng);
            client.push(&keys);
            RelayLayer::new(&keys)
        })
        .collect();
    (client, relays)
}

fn random_body<const BODY: usize>(rng: &mut StdRng) -> [u8; BODY] {
    let mut body = [0; BODY];
    rng.fill_bytes(&mut body);
    body
}

/// The first hop that recognises a cell from the client.
fn carry_out<const BODY: usize>(relays: &mut [RelayLayer<BODY>], ad: u8, body: &mut [u8; BODY]) -> Option<usize> {
    relays.iter_mut().position(|relay| relay.outbound(ad, body))
}

/// A cell that hop `from` originates, as it reaches the client.
fn carry_back<const BODY: usize>(relays: &mut [RelayLayer<BODY>], from: usize, ad: u8, body: &mut [u8; BODY]) {
    relays[from].originate(ad, body);
    for relay in relays[..from].iter_mut().rev() {
        relay.inbound(ad, body);
    }
}

/// Random mixes of hops and directions arrive as sent, at the hop that was meant.
fn round_trips<const BODY: usize>(seed: u64) {
    println!("seed {seed}, body {BODY}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut client, mut relays) = circuit::<BODY>(&mut rng, 3);
    assert_eq!(client.len(), 3);
    for _ in 0..60 {
        let hop = rng.random_range(0..3);
        let ad = if rng.random() { RELAY } else { EARLY };
        let sent = random_body::<BODY>(&mut rng);
        let mut body = sent;
        if rng.random() {
            client.originate(hop, ad, &mut body);
            assert_eq!(carry_out(&mut relays, ad, &mut body), Some(hop));
        } else {
            carry_back(&mut relays, hop, ad, &mut body);
            assert_eq!(client.receive(ad, &mut body), Some(hop));
        }
        assert_eq!(body[BLOCK..], sent[BLOCK..]);
    }
}

#[test]
fn three_hops_both_ways() {
    for seed in 0..4 {
        round_trips::<{ cell::BODY }>(seed);
        round_trips::<509>(seed);
    }
    // All remainders of the hash's runs, and bodies smaller than one.
    round_trips::<17>(1);
    round_trips::<32>(2);
    round_trips::<33>(3);
    round_trips::<47>(4);
    round_trips::<48>(5);
    round_trips::<49>(6);
    round_trips::<64>(7);
    round_trips::<79>(8);
    round_trips::<80>(9);
    round_trips::<96>(10);
    round_trips::<112>(11);
}

/// One flipped bit, at every byte of the body and on every leg: nobody recognises that cell or any later one, in that direction.
#[test]
fn a_flipped_bit_ends_the_direction() {
    const BODY: usize = 509;
    let mut rng = StdRng::seed_from_u64(7);
    for at in 0..BODY {
        let flip = 1 << rng.random_range(0..8);

        for leg in 0..3 {
            let (mut client, mut relays) = circuit::<BODY>(&mut rng, 3);
            for cell in 0..3 {
                let mut body = random_body(&mut rng);
                client.originate(2, RELAY, &mut body);
                let seen = relays.iter_mut().enumerate().position(|(i, relay)| {
                    if cell == 0 && i == leg {
                        body[at] ^= flip;
                    }
                    relay.outbound(RELAY, &mut body)
                });
                assert_eq!(seen, None, "byte {at}, leg {leg}, cell {cell}");
            }
        }

        for leg in 0..3 {
            let (mut client, mut relays) = circuit::<BODY>(&mut rng, 3);
            for cell in 0..3 {
                let mut body = random_body(&mut rng);
                relays[2].originate(RELAY, &mut body);
                for (i, relay) in relays.iter_mut().enumerate().rev() {
                    if i < 2 {
                        relay.inbound(RELAY, &mut body);
                    }
                    if cell == 0 && i == leg {
                        body[at] ^= flip;
                    }
                }
                assert_eq!(client.receive(RELAY, &mut body), None, "byte {at}, leg {leg}, cell {cell}");
            }
        }
    }
}

/// What a tampered cell becomes at the last hop has nothing to do with what was sent: about half of all bits differ.
#[test]
fn a_tampered_cell_becomes_noise() {
    const BODY: usize = cell::BODY;
    let mut rng = StdRng::seed_from_u64(8);
    for at in [0, 15, 16, 17, 1000, BODY - 1] {
        let (mut client, mut relays) = circuit::<BODY>(&mut rng, 3);
        let sent = [0; BODY];
        let mut body = sent;
        client.originate(2, RELAY, &mut body);
        body[at] ^= 1;
        assert_eq!(carry_out(&mut relays, RELAY, &mut body), None);
        let differing: u32 = body[BLOCK..].iter().map(|b| b.count_ones()).sum();
        let bits = 8 * (BODY - BLOCK) as u32;
        // Five standard deviations of fair coins are 326 bits.
        assert!(differing.abs_diff(bits / 2) < 326, "byte {at}: {differing} of {bits}");
    }
}

/// Dropped, repeated, swapped and relabelled cells are like tampered ones.
#[test]
fn order_and_command_are_part_of_a_cell() {
    const BODY: usize = cell::BODY;
    let mut rng = StdRng::seed_from_u64(9);
    let mut cells = |client: &mut ClientLayers<BODY>| {
        let mut make = || {
            let mut body = random_body(&mut rng);
            client.originate(0, RELAY, &mut body);
            body
        };
        [make(), make(), make()]
    };
    let mut rng = StdRng::seed_from_u64(10);
    let mut fresh = || circuit::<BODY>(&mut rng, 1);

    let (mut client, mut relays) = fresh();
    let [_, mut second, mut third] = cells(&mut client);
    assert_eq!(carry_out(&mut relays, RELAY, &mut second), None, "the first was dropped");
    assert_eq!(carry_out(&mut relays, RELAY, &mut third), None);

    let (mut client, mut relays) = fresh();
    let [mut first, mut second, _] = cells(&mut client);
    let mut again = first;
    assert_eq!(carry_out(&mut relays, RELAY, &mut first), Some(0));
    assert_eq!(carry_out(&mut relays, RELAY, &mut again), None, "the first was repeated");
    assert_eq!(carry_out(&mut relays, RELAY, &mut second), None);

    let (mut client, mut relays) = fresh();
    let [mut first, _, _] = cells(&mut client);
    assert_eq!(carry_out(&mut relays, EARLY, &mut first), None, "the command was changed");
}

#[test]
fn an_unknown_hop_wipes_the_body() {
    let mut client = ClientLayers::<509>::new();
    assert!(client.is_empty());
    let mut body = [7; 509];
    client.originate(0, RELAY, &mut body);
    assert_eq!(body, [0; 509]);
    client.push(&Secret::new([1; HOP_KEYS]));
    body = [7; 509];
    client.originate(1, RELAY, &mut body);
    assert_eq!(body, [0; 509]);
    assert_eq!(client.receive(RELAY, &mut body), None);
}

/// An idle circuit at a relay, both directions (T35).
#[test]
fn a_relay_keeps_little_of_a_circuit() {
    let bytes = size_of::<RelayLayer<{ cell::BODY }>>();
    assert!(bytes <= 1536, "{bytes}");
}
