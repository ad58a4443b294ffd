//! What is kept of guards that were down, and what is not (T12).

use super::tests::User;
use super::tests::world;
use super::*;
use std::collections::BTreeSet;

impl User {
    /// A command: a fresh process for so long, with these relays down. The guards that it tried.
    fn command(&mut self, view: &View, for_secs: u64, down: &dyn Fn(&NodeId) -> bool) -> BTreeSet<NodeId> {
        self.restart();
        let mut tried: BTreeSet<NodeId> = self.suffer(view, for_secs, down);
        while let Some(path) = self.with(|policy, env| policy.ask_again(view, env)) {
            tried.insert(path[0]);
            if down(&path[0]) { self.failed(&path, 0) } else { self.worked(&path) }
        }
        tried
    }

    fn restart(&mut self) {
        let kept = self.policy.encode();
        self.policy = PathPolicy::decode(&kept, None).unwrap();
        self.with(|policy, env| policy.recall(env));
    }

    /// The guard of the first circuit of a fresh process.
    fn first(&mut self, view: &View) -> NodeId {
        self.restart();
        self.choose(view, &[]).unwrap()[0]
    }
}

/// A user whose guards were all in use.
fn user(seed: u64, view: &View) -> (User, Vec<NodeId>) {
    let mut user = User::new(seed);
    user.build(view);
    let sample = user.sample();
    for kept in &mut user.policy.guards {
        kept.worked = true;
    }
    (user, sample)
}

#[test]
fn the_next_start_begins_where_the_last_one_ended() {
    let view = world(300, 300);
    let (mut user, sample) = user(31, &view);
    let [a, b, c] = sample[..3] else { unreachable!() };
    assert_eq!(user.command(&view, 60, &|node| *node == a), [a, b].into());
    assert_eq!(user.first(&view), b);
    // It is asked again at each start, once, and its answer makes it the first.
    assert_eq!(user.command(&view, 10, &|node| *node == a), [a, b].into());
    user.command(&view, 10, &|_| false);
    assert_eq!((user.first(&view), user.sample()), (a, sample.clone()));
    assert!(user.policy.down.encode().is_none());
    // Two are kept, and only as long as they are down.
    user.command(&view, 120, &|node| [a, b].contains(node));
    assert_eq!(user.first(&view), c);
    user.command(&view, 10, &|node| *node == b);
    assert_eq!(user.first(&view), a);
}

/// Whoever cuts a line, or blocks one guard after the other, command by command: what is kept leads to no guard beyond the third, and
/// draws nobody.
#[test]
fn who_resets_lines_does_not_walk_a_client_down_its_sample() {
    let view = world(300, 300);
    let (mut all, sample) = user(32, &view);
    for _ in 0..20 {
        // Everything fails: that is the line.
        all.command(&view, 25, &|_| true);
        assert!(all.policy.down.encode().is_none());
        assert_eq!(all.first(&view), sample[0]);
    }
    let (mut one, sample) = user(33, &view);
    let mut blocked = BTreeSet::new();
    for _ in 0..20 {
        let first = one.first(&view);
        blocked.insert(first);
        one.command(&view, 60, &|node| blocked.contains(node));
        assert!(sample[..=down::MAX].contains(&one.first(&view)));
        assert!(sample[..=down::MAX + 1].contains(blocked.last().unwrap()) && one.sample() == sample);
    }
    println!("{} guards met at a start", blocked.len());
    assert_eq!(blocked.len(), down::MAX + 1);
}

#[test]
fn a_day_that_is_over_or_still_to_come_counts_for_nothing() {
    let view = world(100, 100);
    for (later, counts) in [(3600, true), (2 * DAY, false)] {
        let (mut user, sample) = user(34, &view);
        user.command(&view, 60, &|node| *node == sample[0]);
        user.seconds += later;
        assert_eq!(user.first(&view) == sample[1], counts, "{later} s later");
    }
    // The clock was two days ahead, and was set.
    let (mut user, sample) = user(35, &view);
    user.seconds += 2 * DAY;
    user.command(&view, 60, &|node| *node == sample[0]);
    user.seconds -= 2 * DAY;
    assert_eq!(user.first(&view), sample[0]);
}

#[test]
fn with_nobody_left_nobody_is_put_back() {
    let view = world(100, 100);
    let (mut user, sample) = user(36, &view);
    user.policy.guards.truncate(2);
    for guard in &sample[..2] {
        user.policy.down.note(*guard, Wall(crate::proto::overlay::testing::NOW.0));
    }
    assert_eq!(user.first(&view), sample[0]);
}

/// A link that went silent under a wish is the line's fault first: for as long as nobody would have missed it, no guard is put back.
#[test]
fn a_lost_line_leads_to_no_other_guard_any_sooner() {
    let view = world(100, 100);
    let (mut user, sample) = user(37, &view);
    user.with(|policy, env| policy.line_lost(env.now));
    assert_eq!(user.suffer(&view, SPARED.as_secs() - 10, &|_| true), [sample[0]].into());
    assert_eq!(user.suffer(&view, 10, &|_| false), [sample[0]].into());
}

/// A guard that opens every link and then says nothing is put back like one that is down, however often its link is lost.
#[test]
fn a_guard_that_only_says_hello_is_put_back() {
    let view = world(100, 100);
    let (mut user, sample) = user(39, &view);
    let mut tried = BTreeSet::new();
    for _ in 0..30 {
        user.with(|policy, env| policy.line_lost(env.now));
        tried.extend(user.suffer(&view, 10, &|node| *node == sample[0]));
    }
    assert!(tried.contains(&sample[1]), "{tried:?}");
}

#[test]
fn damaged_memories_are_refused() {
    let view = world(100, 100);
    let (mut user, sample) = user(38, &view);
    user.command(&view, 60, &|node| *node == sample[0]);
    let good = user.policy.down.encode().unwrap();
    let read = |bytes: &[u8]| down::Down::decode(bytes).map(|d| d.encode());
    assert_eq!(read(&good), Ok(Some(good.clone())));
    for n in 0..good.len() {
        assert!(read(&good[..n]).is_err(), "cut at {n}");
    }
    assert_eq!(read(&good.repeat(2)), Err(DecodeError::Invalid), "one twice");
    assert_eq!(read(&good.repeat(3)), Err(DecodeError::TooLarge));
}
