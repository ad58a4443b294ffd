//! What dials show, and whose word counts.

use crate::base::NodeId;
use crate::base::Position;
use crate::base::Time;
use crate::base::limits;
use crate::base::net::Prefix;
use crate::crypto::kdf;
use crate::crypto::kdf::Label;
use crate::proto::overlay::record::Verified;
use crate::proto::overlay::testing;
use crate::proto::overlay::testing::NOW;
use crate::proto::overlay::testing::plain;
use crate::proto::overlay::view::View;
use crate::proto::overlay::view::marks::Marks;
use crate::wire::record::Receipt;
use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

const APART: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(86_400);

fn after(secs: u64) -> Time {
    Time(secs * 1_000_000)
}

/// Relay number `i`, in a /16 of its own.
fn id(i: u16) -> NodeId {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&i.to_be_bytes());
    NodeId(id)
}

fn addr(i: u16) -> SocketAddr {
    let [a, b] = i.to_be_bytes();
    SocketAddr::from(([40 + a, b, 0, 1], 443))
}

/// A descriptor of relay `i` at an address, with receipts of these witnesses.
fn relay_at(i: u16, addr: SocketAddr, witnesses: &[u16]) -> Arc<Verified> {
    let d = plain(id(i), addr);
    let receipt = |w: &u16| Receipt { witness: id(*w), subject: d.node, addr, hour: NOW.hour(), sig: [0; 64] };
    let receipts = witnesses.iter().map(receipt).collect();
    Verified::unchecked(d, receipts, Position(kdf::hash(Label::Position, &[&i.to_be_bytes()])))
}

fn relay(i: u16, witnesses: &[u16]) -> Arc<Verified> {
    relay_at(i, addr(i), witnesses)
}

fn seen(view: &View, i: u16) -> bool {
    view.entry(&id(i)).is_some_and(|e| e.standing.seen)
}

fn prove(view: &mut View, i: u16, now: Time) {
    let addr = view.entry(&id(i)).unwrap().relay.addr();
    view.prove(&id(i), &addr, now);
}

/// Two failures that count.
fn fail(view: &mut View, i: u16, now: Time) {
    let addr = view.entry(&id(i)).unwrap().relay.addr();
    let later = now + APART;
    view.fail(&id(i), &addr, now, APART, Some(later));
    assert!(view.fail(&id(i), &addr, later, APART, Some(later)));
}

/// A view in which relays 1 to 4 are proven.
fn view_of_four() -> View {
    let mut view = View::new(false);
    for i in 1..=4 {
        view.insert(relay(i, &[]), NOW);
        prove(&mut view, i, after(0));
    }
    view
}

#[test]
fn a_relay_is_doubted_after_two_failures_apart_and_restored_by_an_answer() {
    let mut view = view_of_four();
    view.insert(relay(10, &[1, 2, 3]), NOW);
    assert!(view.get(&id(10)).is_some());
    let fails = |view: &mut View, secs, reached: Option<u64>| view.fail(&id(10), &addr(10), after(secs), APART, reached.map(after));
    assert!(!fails(&mut view, 100, Some(90)), "one is none");
    assert!(!fails(&mut view, 200, Some(190)), "too soon");
    assert!(!fails(&mut view, 400, Some(100)), "nobody reached since: our own line may be down");
    assert!(!fails(&mut view, 500, None));
    assert!(!view.fail(&id(10), &addr(11), after(600), APART, Some(after(590))), "another address");
    assert!(view.get(&id(10)).is_some());
    assert!(fails(&mut view, 600, Some(590)));
    assert!(view.get(&id(10)).is_none() && view.entry(&id(10)).is_some_and(|e| e.doubted()) && !seen(&view, 10));
    view.check();
    // Its newer descriptor changes nothing, others' words neither.
    let mut newer = plain(id(10), addr(10));
    newer.published = NOW.plus(limits::DESCRIPTOR_SLOT_SECS);
    let receipts = relay(10, &[1, 2, 3, 4]).receipts().to_vec();
    view.insert(Verified::unchecked(newer, receipts, Position([10; 32])), NOW);
    view.recount();
    assert!(view.get(&id(10)).is_none());
    prove(&mut view, 10, after(700));
    assert!(view.get(&id(10)).is_some());
    view.check();
}

#[test]
fn what_hangs_on_a_doubted_relay_falls_with_it() {
    let mut view = view_of_four();
    // 10 is known by 1 alone; 11 to 14 by 10 and each other.
    view.insert(relay(10, &[1]), NOW);
    for i in 11..=14 {
        view.insert(relay(i, &[10, 11, 12, 13, 14].into_iter().filter(|w| *w != i).collect::<Vec<_>>()), NOW);
    }
    assert!((11..=14).all(|i| view.get(&id(i)).is_some() && view.rests_on(&id(i)) == id(10)));
    fail(&mut view, 10, after(0));
    assert!(view.is_stale());
    view.recount();
    view.check();
    assert!(!(10..=14).any(|i| seen(&view, i)));
    // It is no news when others name them, though.
    assert!((10..=14).all(|i| view.is_no_news(view.entry(&id(i)).unwrap())));
    prove(&mut view, 10, after(500));
    assert!((11..=14).all(|i| view.get(&id(i)).is_some()));
    view.check();
}

/// A relay that we reached hosts by receipts of witnesses that were down when we came, if enough speak for these; not by receipts of
/// some that nobody speaks for, or too few; and not if we did not reach it ourselves.
#[test]
fn witnesses_that_were_down_when_we_came_still_show_for_how_long() {
    let hosts = |speak: &[u16], reached: bool| {
        let mut view = view_of_four();
        for i in [20, 21] {
            view.insert(relay(i, speak), NOW);
        }
        let mut d = plain(id(30), addr(30));
        d.host_key = Some(testing::host_key());
        let receipt = |(w, ago): (u16, u32)| {
            let hour = NOW.hour() - ago;
            Receipt { witness: id(w), subject: d.node, addr: addr(30), hour, sig: [0; 64] }
        };
        let receipts = [(20, 30), (21, 50), (1, 2), (2, 20), (3, 0)].map(receipt).to_vec();
        view.insert(Verified::unchecked(d, receipts, Position([30; 32])), NOW);
        if reached {
            prove(&mut view, 30, after(0));
        }
        for i in [20, 21] {
            fail(&mut view, i, after(1000));
        }
        view.recount();
        view.check();
        let entry = view.entry(&id(30)).unwrap();
        assert!(entry.usable && [20, 21].iter().all(|i| !seen(&view, *i) && view.get(&id(*i)).is_none()));
        entry.host
    };
    assert!(hosts(&[1, 2, 3], true) && hosts(&[2, 3, 4, 20], true));
    assert!(!hosts(&[1, 2], true) && !hosts(&[1, 2, 20, 21], true) && !hosts(&[], true));
    assert!(!hosts(&[1, 2, 3], false));
}

/// Three more in vain than held: the word of relay 1 connects nobody any more, in neither direction. Who answered us needs no word.
#[test]
fn who_vouches_in_vain_is_believed_no_more() {
    for named in [false, true] {
        let mut view = view_of_four();
        view.insert(relay(20, &[1, 2, 3]), NOW);
        view.insert(relay(21, &[1, 2, 3]), NOW);
        prove(&mut view, 20, after(0));
        // It held once, so four in vain are needed.
        let vain = [30, 31, 32, 33];
        for i in vain {
            view.insert(relay(i, if named { &[] } else { &[1] }), NOW);
        }
        if named {
            // The same the other way round: it shows receipts of relays that are nowhere.
            let mut d = plain(id(1), addr(1));
            d.published = NOW.plus(limits::DESCRIPTOR_SLOT_SECS);
            let receipts = relay(1, &vain).receipts().to_vec();
            view.insert(Verified::unchecked(d, receipts, Position([1; 32])), NOW);
            view.recount();
        }
        view.insert(relay(40, &[1]), NOW);
        for (n, i) in vain.into_iter().enumerate() {
            assert!(seen(&view, i) && seen(&view, 40), "{n}");
            fail(&mut view, i, after(1000));
            view.recount();
            view.check();
        }
        assert!(!seen(&view, 40) && seen(&view, 1));
        // 21 has two witnesses left of three; 20 answered us, and whatever becomes of its witnesses takes nothing from it.
        assert!(view.get(&id(21)).is_none() && view.get(&id(20)).is_some());
        // Within about a day silence says nothing of who answered; after that it does.
        let much_later = after(40 * 3600);
        for i in [2, 3] {
            assert!(!view.fail(&id(i), &addr(i), after(2000), APART, Some(after(2000))));
            fail(&mut view, i, much_later);
        }
        view.recount();
        assert!(view.get(&id(20)).is_some());
        // An answer takes back what its silence said.
        prove(&mut view, 30, much_later);
        view.recount();
        assert!(seen(&view, 40));
        // And after a week all is forgotten.
        fail(&mut view, 31, much_later);
        view.lapse(much_later + 9 * DAY);
        view.check();
    }
}

/// Any number of relays at one address, named by an honest witness and gone, are one bad mark; and others there lose only his word.
#[test]
fn one_address_frames_no_witness() {
    let mut view = view_of_four();
    for i in 0..50u16 {
        let mut place = addr(200);
        place.set_port(1000 + i);
        view.insert(relay_at(300 + i, place, &[1, 2, 3]), NOW);
    }
    view.insert(relay(20, &[1, 2, 3]), NOW);
    let first = (300..350).filter(|i| seen(&view, *i)).collect::<Vec<_>>();
    assert!(first.len() > 5);
    for i in first {
        fail(&mut view, i, after(10));
        view.recount();
    }
    assert!(view.get(&id(20)).is_some(), "his word counts as before");
    assert!(!(300..350).any(|i| seen(&view, i)), "but not about this address");
    view.check();
}

/// Where most are proven, one that answers brings in a handful of others, however many it names, and in whatever order they come.
#[test]
fn one_word_is_worth_a_handful_of_relays() {
    for backwards in [false, true] {
        let mut view = View::new(false);
        for i in 1..=40 {
            view.insert(relay(i, &[]), NOW);
            prove(&mut view, i, after(0));
        }
        let mut crowd: Vec<u16> = (100..400).collect();
        if backwards {
            crowd.reverse();
        }
        for i in &crowd {
            view.insert(relay(*i, &[1, (*i + 1) % 300 + 100, (*i + 2) % 300 + 100, (*i + 3) % 300 + 100]), NOW);
        }
        view.recount();
        view.check();
        let came = crowd.iter().filter(|i| seen(&view, **i)).count();
        assert!((1..=10).contains(&came), "{came}");
        // Those who fail keep their places: no others come for them.
        for i in crowd.iter().copied().filter(|i| seen(&view, *i)).collect::<Vec<_>>() {
            if seen(&view, i) {
                fail(&mut view, i, after(10));
                view.recount();
            }
        }
        view.check();
        assert!(!crowd.iter().any(|i| seen(&view, *i)));
        // Honest newcomers have other witnesses.
        view.insert(relay(500, &[1, 2, 3, 4]), NOW);
        assert!(view.get(&id(500)).is_some());
    }
}

#[test]
fn what_answered_is_never_crowded_out() {
    let mut view = view_of_four();
    view.max = 200;
    let proven: Vec<u16> = (10..60).collect();
    for i in &proven {
        view.insert(relay(*i, &[1, 2, 3]), NOW);
        prove(&mut view, *i, after(0));
    }
    for i in 1000..4000u16 {
        view.insert(relay(i, &[1 + i % 50, 11 + i % 40, 20 + i % 30]), NOW);
    }
    view.check();
    assert!(view.usable().len() > 150 && proven.iter().all(|i| view.get(&id(*i)).is_some()));
    // Nor of what waits: the four are not usable, and came first of all.
    let mut view = view_of_four();
    for i in 0..9000u32 {
        let mut node = [0xee; 32];
        node[..4].copy_from_slice(&i.to_be_bytes());
        view.insert(Verified::unchecked(plain(NodeId(node), addr(5000)), vec![], Position(node)), NOW);
    }
    view.check();
    assert!(view.counts().pending == limits::VIEW_PENDING_MAX && (1..=4).all(|i| seen(&view, i)));
}

/// A proof lasts a day and some hours; then the relay is what others say of it.
#[test]
fn proofs_lapse() {
    let mut view = view_of_four();
    view.insert(relay(10, &[1, 2, 3]), NOW);
    view.lapse(after(3600));
    assert!(!view.is_stale() && (1..=4).all(|i| view.entry(&id(i)).unwrap().proven()));
    for i in 2..=4 {
        prove(&mut view, i, Time(0) + DAY);
    }
    view.lapse(Time(0) + DAY * 3 / 2);
    view.recount();
    view.check();
    // It was never seen but by our own dial, but it spoke for 10, which others spoke for too.
    assert!(seen(&view, 1) && seen(&view, 10) && !view.entry(&id(1)).unwrap().proven());
}

#[test]
fn marks_are_bounded_and_forgotten() {
    let mut marks = Marks::new();
    let prefix = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        Prefix([4, a, b, c, d, 0, 0])
    };
    for n in 0..70_000 {
        marks.note(Time(0) + DAY * (n / 20_000), prefix(n % 7), prefix(n), 1, false);
    }
    marks.check();
    assert!(!marks.believes(&prefix(1), &prefix(999_999)), "who spoke in vain again and again");
    assert!(marks.believes(&prefix(8), &prefix(999_999)));
    marks.expire(Time(0) + DAY * 30);
    assert!(marks.believes(&prefix(1), &prefix(999_999)));
}

/// Whoever cannot dial IPv6 takes nobody's word about who has it alone, and nobody's word from those; that they fail says nothing.
/// Once somebody was reached so, they count like others, and no more when that is long ago.
#[test]
fn who_has_ip6_alone_counts_while_ip6_can_be_dialled() {
    let mut view = testing::view_with_witnesses();
    let addr = |i: u16| SocketAddr::from(([0x2a00, i, 0, 0, 0, 0, 0, 1], 443));
    for i in [30, 31] {
        view.insert(testing::vouched_at(plain(id(i), addr(i)), 3, 0, Position([i as u8; 32])), NOW);
    }
    let usable = |view: &View| [30, 31].map(|i| view.get(&id(i)).is_some());
    assert!(usable(&view) == [false, false] && !view.entry(&id(30)).unwrap().seen());
    assert!(view.strangers(64).all(|r| !r.is_ip6()) && view.pending_from(0, 64).all(|r| !r.is_ip6()));
    assert!(view.is_no_news(view.entry(&id(30)).unwrap()), "no news, so no coverage is lost for it");
    assert!(view.reach_ip6(true) && view.is_stale());
    view.recount();
    assert_eq!(usable(&view), [true, true]);
    assert!(view.near(&[30; 32], 1).all(|r| r.is_ip6()) && view.near_ip4(&[30; 32], 9).all(|r| !r.is_ip6()));
    view.prove(&id(30), &addr(30), Time(5));
    assert!(view.reach_ip6(false) && !view.reach_ip6(false));
    view.recount();
    assert_eq!(usable(&view), [false, false]);
    view.check();
    // A client believes its directories, which dialled.
    let mut client = View::of_client(true);
    client.adopt(testing::vouched_at(plain(id(30), addr(30)), 3, 0, Position([30; 32])).body(), true, NOW);
    assert!(client.get(&id(30)).is_some());
    client.check();
}

/// However many relays with IPv6 alone stand at one place, an answer of those with IPv4 walks past so many and no more.
#[test]
fn a_crowd_of_ip6_is_walked_past_only_so_far() {
    let mut view = View::of_client(true);
    let listed = |i: u16, addr| testing::vouched_at(plain(id(i), addr), 3, 0, Position([0; 32]));
    for i in 0..200 {
        view.adopt(listed(i, SocketAddr::from(([0x2a00, i, 0, 0, 0, 0, 0, 1], 443))).body(), false, NOW);
    }
    view.adopt(listed(200, SocketAddr::from(([9, 9, 0, 1], 443))).body(), false, NOW);
    let crowded = (0..=255).map(|n| [n; 32]).find(|key| view.near(key, 60).all(|r| r.is_ip6())).unwrap();
    assert_eq!((view.near_ip4(&crowded, 2).count(), view.near_ip4(&crowded, 64).count()), (0, 1));
}

/// Of relays that answered within the day none is doubted, and yet it is told who answers lately, and who did not when dialled last.
#[test]
fn relays_that_stopped_are_counted_apart_at_once() {
    let mut view = View::new(true);
    for i in 0..6 {
        view.insert(relay(i, &[1, 2, 3].map(|n| (i + n) % 6)), NOW);
    }
    for i in 0..5 {
        prove(&mut view, i, after(0));
    }
    view.recount();
    let nobody = |_: &NodeId| false;
    assert_eq!((view.counts().relays, view.answering(after(599), nobody)), (6, (5, 0)), "one was never dialled");
    for i in 0..2 {
        view.fail(&id(i), &addr(i), after(600), APART, Some(after(599)));
    }
    view.miss(&id(2));
    assert_eq!((view.counts().relays, view.answering(after(600), nobody)), (6, (2, 3)));
    prove(&mut view, 0, after(700));
    assert_eq!(view.answering(after(700), nobody), (3, 2));
    assert_eq!(view.answering(after(700), |node| [id(1), id(5)].contains(node)), (5, 1), "who has a link is there");
    assert_eq!((view.counts().relays, view.answering(after(3601), nobody)), (6, (1, 2)), "an hour later");
}
