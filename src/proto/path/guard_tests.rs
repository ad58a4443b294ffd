//! How guards and second hops last, and what failures and outages do to them. Threat T12 names these tests.

use super::tests::MINUTE;
use super::tests::User;
use super::tests::world;
use super::*;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::add_witnesses;
use std::collections::BTreeSet;

#[test]
fn guards_stay_for_months_and_second_hops_for_days() {
    let view = world(300, 300);
    for seed in 5..10 {
        let mut user = User::new(seed);
        let (mut guards, mut seconds) = (BTreeSet::new(), BTreeSet::new());
        let mut in_turn = Vec::new();
        for day in 0..365 {
            user.seconds = day * DAY;
            for _ in 0..8 {
                let [guard, second, _] = user.build(&view);
                if guards.insert(guard) {
                    in_turn.push(day);
                }
                seconds.insert(second);
            }
        }
        println!("a year: guards from days {in_turn:?}, {} second hops", seconds.len());
        assert!(in_turn.len() <= 4, "more guards than their life allows");
        assert!(in_turn.windows(2).all(|w| (107..=121).contains(&(w[1] - w[0]))), "{in_turn:?}");
        // The mean life is 8.3 days: about 4 * 365 / 8.3 = 176 draws.
        assert!((100..=200).contains(&seconds.len()));
    }
}

#[test]
fn second_hops_live_between_one_and_twelve_days_and_are_four() {
    let view = world(300, 300);
    let mut user = User::new(11);
    let mut since: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut lives = Vec::new();
    for hour in 0..24 * 60 {
        user.seconds = hour * 3600;
        user.build(&view);
        let now = user.second_layer();
        assert_eq!(now.len(), LAYER2);
        since.retain(|node, began| {
            let stays = now.contains(node);
            if !stays {
                lives.push((hour - *began) as f64 / 24.0);
            }
            stays
        });
        for node in now {
            since.entry(node).or_insert(hour);
        }
    }
    assert!(lives.len() > 15 && lives.iter().all(|l| (1.0..=12.1).contains(l)), "{lives:?}");
    // The larger of two draws: mostly long.
    assert!(lives.iter().sum::<f64>() / lives.len() as f64 > 6.0, "{lives:?}");
}

#[test]
fn an_outage_of_the_guard_ends_with_the_outage() {
    let view = world(300, 300);
    let mut user = User::new(12);
    let first = user.build(&view)[0];
    let sample = user.sample();
    let others = user.suffer(&view, 6 * 3600, &|node| *node == first);
    assert!(others.contains(&first), "a guard that worked is tried again and again");
    let second = sample[1];
    assert_eq!(others, BTreeSet::from([first, second]), "the next of the sample serves, and nobody after it");
    assert_eq!(user.build(&view)[0], second);
    assert_eq!(user.sample(), sample, "an outage changes the order of nothing");
    // It is back: at the latest when its longest rest is over, it is the guard again, and stays it.
    user.seconds += ASIDE_MAX.as_secs();
    for _ in 0..50 {
        user.seconds += MINUTE;
        assert_eq!(user.build(&view)[0], first);
    }
    // The same over a restart in the middle of the outage.
    user.suffer(&view, 600, &|node| *node == first);
    let mut user = user.restarted();
    assert_eq!(user.build(&view)[0], first);
}

#[test]
fn a_guard_that_leaves_the_network_keeps_its_place() {
    let mut view = world(100, 100);
    let mut user = User::new(13);
    let first = user.build(&view)[0];
    let sample = user.sample();
    let gone = Arc::clone(view.get(&first).unwrap());
    view.remove(&first);
    assert_eq!(user.build(&view)[0], sample[1]);
    view.insert(gone, NOW);
    add_witnesses(&mut view);
    assert_eq!(user.build(&view)[0], first);
}

#[test]
fn one_failure_is_none_and_a_burst_is_one() {
    let view = world(300, 300);
    let mut user = User::new(14);
    let path = user.build(&view);
    for _ in 0..1000 {
        user.failed(&path, 0);
    }
    assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0], "a thousand failures at once are one");
    user.seconds += 10;
    user.failed(&path, 0);
    assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0]);
    user.seconds += 10;
    user.failed(&path, 0);
    assert_ne!(user.choose(&view, &[]).unwrap()[0], path[0], "three that are apart set it aside");
    user.seconds += ASIDE.as_secs() - 1;
    assert_ne!(user.choose(&view, &[]).unwrap()[0], path[0]);
    user.seconds += 1;
    assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0], "for half a minute");
    // Each further failure doubles the rest, up to half an hour.
    for rest in [60, 120, 240, 480, 960, 1800, 1800, 1800] {
        user.failed(&path, 0);
        // Another guard answers meanwhile: it is not the network.
        user.build(&view);
        user.seconds += rest - 1;
        assert_ne!(user.choose(&view, &[]).unwrap()[0], path[0], "{rest}");
        user.seconds += 1;
        assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0], "{rest}");
    }
    user.worked(&path);
    user.failed(&path, 0);
    assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0], "a success forgives");
}

#[test]
fn killing_dials_does_not_walk_a_client_through_the_network() {
    let view = world(300, 300);
    for (seed, known) in [(15, false), (16, true)] {
        let mut user = User::new(seed);
        let first = user.choose(&view, &[]).unwrap();
        if known {
            user.worked(&first);
        }
        let sample: BTreeSet<NodeId> = user.sample().into_iter().collect();
        assert_eq!(sample.len(), SAMPLE_MAX);
        // Every dial fails for two days.
        let tried = user.suffer(&view, 2 * DAY, &|_| true);
        println!("{} guards tried", tried.len());
        assert!(tried.is_subset(&sample), "somebody outside the sample was tried");
        // The network comes back.
        user.seconds += ASIDE_MAX.as_secs();
        assert_eq!(user.build(&view)[0], first[0]);
    }
}

/// Small networks have samples of three: all of them may well be down for hours.
#[test]
fn an_outage_of_all_guards_or_second_hops_is_over_soon_after_its_end() {
    let view = world(30, 30);
    for (seed, hops) in [(21, 0), (22, 0), (23, 1), (24, 1)] {
        let mut user = User::new(seed);
        let first = user.build(&view);
        for _ in 0..6 * 60 {
            user.seconds += 30;
            if let Some(path) = user.choose(&view, &[]) {
                user.failed(&path, hops);
            }
        }
        // All come back but the guard itself.
        let until = user.seconds + 90;
        let path = loop {
            user.seconds += 1;
            assert!(user.seconds <= until, "seed {seed}: no path so long after the outage");
            match user.choose(&view, &[]) {
                Some(path) if hops == 0 && path[0] == first[0] => user.failed(&path, 0),
                Some(path) => break path,
                None => {}
            }
        };
        user.worked(&path);
        assert!(user.sample().len() == 3 && user.sample()[0] == first[0] && user.sample().contains(&path[0]));
    }
}

/// In the worst case, guards leave the network one after the other, as whoever attacks them one by one would have it.
#[test]
fn no_more_than_the_sample_is_ever_used_within_its_time() {
    let mut view = world(300, 300);
    let mut user = User::new(17);
    let mut met = BTreeSet::new();
    for hour in 0..24 * 100 {
        user.seconds = hour * 3600;
        let Some(path) = user.choose(&view, &[]) else { break };
        user.worked(&path);
        met.insert(path[0]);
        view.remove(&path[0]);
    }
    assert_eq!(met.len(), SAMPLE_MAX);
    assert_eq!(user.choose(&view, &[]), None, "rather no path than a twenty-first guard");
}

#[test]
fn failing_second_hops_are_replaced_slowly() {
    let view = world(300, 300);
    let mut user = User::new(18);
    user.build(&view);
    let mut met = user.second_layer();
    let began = met.clone();
    // While more than half of them serve, nothing is drawn.
    let one = *began.iter().next().unwrap();
    user.suffer(&view, 3600, &|node| *node == one);
    assert_eq!(user.second_layer(), began);
    // All second hops fail for a day, whoever they are: a few are drawn, and then no more.
    let guard = user.sample()[0];
    let left = DAY - (NOW.0 + user.seconds) % DAY;
    for _ in 0..left / MINUTE - 1 {
        user.seconds += MINUTE;
        if let Some(path) = user.choose(&view, &[]) {
            assert_eq!(path[0], guard, "the guard has no part in it");
            met.insert(path[1]);
            user.failed(&path, 1);
        }
    }
    assert_eq!(met.len(), LAYER2 + LAYER2_DRAWS_PER_DAY as usize);
}

#[test]
fn second_hops_that_vanish_from_the_view_are_replaced_as_slowly() {
    let mut view = world(300, 300);
    let mut user = User::new(19);
    let left = DAY - NOW.0 % DAY;
    let mut met = BTreeSet::new();
    for minute in 0..left / MINUTE - 1 {
        user.seconds = minute * MINUTE;
        let _ = user.choose(&view, &[]);
        for node in user.second_layer() {
            met.insert(node);
            view.remove(&node);
        }
    }
    assert_eq!(met.len(), LAYER2 + LAYER2_DRAWS_PER_DAY as usize);
    assert_eq!(user.choose(&view, &[]), None);
    user.seconds = left;
    assert!(user.choose(&view, &[]).is_some(), "tomorrow there are new ones");
}

#[test]
fn state_survives_a_restart_and_nothing_new_is_drawn() {
    let view = world(100, 100);
    let mut user = User::new(20);
    user.build(&view);
    assert!(user.policy.take_changed() && !user.policy.take_changed());
    for _ in 0..50 {
        user.build(&view);
    }
    assert!(!user.policy.take_changed(), "circuits over what is kept change nothing, so nothing is written");
    let (guard, sample, layer) = (user.build(&view)[0], user.sample(), user.second_layer());
    let bytes = user.policy.encode();
    let mut user = user.restarted();
    assert_eq!(user.policy.encode(), bytes);
    assert_eq!(user.build(&view)[0], guard);
    assert_eq!((user.sample(), user.second_layer()), (sample, layer));
    assert!(!user.policy.take_changed());
}

#[test]
fn damaged_state_is_refused() {
    let view = world(100, 100);
    let mut user = User::new(21);
    user.build(&view);
    let good = user.policy.encode();
    let read = |bytes: &[u8]| PathPolicy::decode(bytes, None).map(|p| p.encode());
    assert_eq!(read(&good).unwrap(), good);
    for n in 0..good.len() {
        assert!(read(&good[..n]).is_err(), "cut at {n}");
    }
    assert_eq!(read(&[&good[..], &[0]].concat()), Err(DecodeError::Trailing));
    let with = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] = value;
        read(&bad)
    };
    let entry = 32 + 8 + 1;
    assert_eq!(with(0, KIND + 1), Err(DecodeError::Invalid));
    assert_eq!(with(1, VERSION + 1), Err(DecodeError::Newer));
    assert_eq!(with(2, SAMPLE_MAX as u8 + 1), Err(DecodeError::TooLarge));
    assert_eq!(with(2 + entry, 2), Err(DecodeError::Invalid), "neither yes nor no");
    // One relay twice would count as two.
    let mut twice = good.clone();
    twice.copy_within(3..3 + 32, 3 + entry);
    assert_eq!(read(&twice), Err(DecodeError::Invalid));
}

/// A dial of the guard fails: it began `took` seconds ago, and others were last heard `ago`.
fn unreached(user: &mut User, guard: NodeId, took: u64, ago: Option<u64>) {
    let at = |ago: u64, now: Time| Time(now.0 - ago * 1_000_000);
    user.with(|policy, env| policy.unreached(&guard, at(took, env.now), ago.map(|ago| at(ago, env.now)), env.now));
}

#[test]
fn a_guard_that_is_silent_while_others_answer_is_not_waited_for() {
    let view = world(300, 300);
    let mut user = User::new(41);
    user.seconds = 1000;
    let path = user.build(&view);
    let (first, second) = (path[0], user.sample()[1]);
    // Heard while the dial was on its way: the next of the sample serves, for as long as after any failure, and the guard comes back.
    unreached(&mut user, first, 5, Some(1));
    user.failed(&path, 0);
    assert_eq!(user.choose(&view, &[]).unwrap()[0], second);
    user.seconds += ASIDE.as_secs() + 1;
    assert_eq!(user.build(&view)[0], first);
    // Refused at once, twice: between the two others were heard.
    unreached(&mut user, first, 0, Some(1));
    user.failed(&path, 0);
    assert_eq!(user.choose(&view, &[]).unwrap()[0], first, "one that is refused tells nothing of the line");
    user.seconds += 2;
    unreached(&mut user, first, 0, Some(1));
    assert_eq!(user.choose(&view, &[]).unwrap()[0], second);
}

#[test]
fn a_line_that_goes_while_others_were_just_heard_leads_to_no_other_guard() {
    let view = world(300, 300);
    let mut user = User::new(42);
    user.seconds = 1000;
    let path = user.build(&view);
    // All dials fail, at once or late; the last that was heard was before the first of them.
    for failure in 0..20 {
        unreached(&mut user, path[0], failure % 2, Some(2 + failure));
        assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0], "failure {failure}");
        user.seconds += 1;
    }
    // So do two that are a quarter of an hour apart, with others heard between.
    user.seconds += 900;
    unreached(&mut user, path[0], 0, Some(1));
    assert_eq!(user.choose(&view, &[]).unwrap()[0], path[0]);
}
