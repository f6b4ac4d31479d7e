// SPDX-License-Identifier: GPL-2.0-only
//! What an order to fence, a proof of quorum and a refusal make of single facts. Time is the test's own.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use std::collections::BTreeMap;
use xenwarden::event::Uuid;
use xenwarden::fencing::member::Kept;
use xenwarden::fencing::order::{Confirmed, Failed, How, LISTEN_NS, Order, Verdict, Wait};
use xenwarden::fencing::proof::Proof;
use xenwarden::fencing::refusals::{Last, Refusals};
use xenwarden::fencing::{Beat, BootOf, Echo, Node, Votes, stretched_ns};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const TARGET: Node = 3;
const BOUND_MS: u64 = 14_000;
const PROMISE_MS: u64 = 24_000;

fn boot(n: u8) -> Uuid {
    let text = format!("00000000-0000-0000-0000-0000000000{n:02x}");
    text.parse().expect("a UUID")
}

fn of(node: Node, n: u8) -> BootOf {
    let boot = boot(n);
    BootOf { node, boot }
}

fn at(s: u64) -> Monotonic {
    Monotonic(s * NS_PER_S)
}

fn votes(nodes: &[Node], quorum: u32, device: u32) -> Votes {
    let of: BTreeMap<Node, u32> = nodes.iter().map(|node| (*node, 1)).collect();
    let sum = u32::try_from(of.len()).expect("few") + device;
    Votes {
        quorate: sum >= quorum,
        quorum,
        of,
        device,
    }
}

fn beat(n: u8, sent_s: u64, up_s: u64, echoes: &[(Node, u8, u64)]) -> Beat {
    let echo = |(node, n, sent_s): &(Node, u8, u64)| Echo {
        of: of(*node, *n),
        sent: sent_s * NS_PER_S,
    };
    Beat {
        name: "a host".to_owned(),
        machine: None,
        boot: boot(n),
        sent: sent_s * NS_PER_S,
        up_ms: up_s * 1_000,
        promise_ms: Some(PROMISE_MS),
        echoes: echoes.iter().map(echo).collect(),
    }
}

fn last(n: u8, sent_s: u64, promise_ms: Option<u64>) -> Option<Last> {
    let echo = Echo {
        of: of(TARGET, n),
        sent: sent_s * NS_PER_S,
    };
    Some(Last { echo, promise_ms })
}

/// When a host that is down `ms` after `s` is said to be.
fn sure(s: u64, ms: u64) -> Monotonic {
    at(s).plus_ns(stretched_ns(ms)).plus_ns(LISTEN_NS)
}

#[test]
fn a_silent_host_is_down_when_its_promise_has_passed_since_enough_members_refuse_it() {
    let two = votes(&[1, 2], 2, 0);
    let mut order = Order::new(of(TARGET, 7), at(100));
    let waits = |order: &Order, votes: &Votes, s: u64| match order.judge(votes, at(s)) {
        Verdict::Wait(wait, _) => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(waits(&order, &two, 1_000), Wait::Answers);
    order.refuses(1, last(7, 90, Some(PROMISE_MS)), &two, at(101));
    // The host's own word is no refusal, nor is that of somebody who knows another boot, or none.
    order.refuses(TARGET, last(7, 95, Some(PROMISE_MS)), &two, at(102));
    order.refuses(2, None, &two, at(103));
    order.refuses(2, last(8, 90, Some(PROMISE_MS)), &two, at(103));
    assert_eq!(waits(&order, &two, 1_000), Wait::Answers);
    order.refuses(2, last(7, 90, Some(PROMISE_MS)), &two, at(104));
    let sure = sure(104, PROMISE_MS);
    let before = Monotonic(sure.0 - 1);
    assert_eq!(
        order.judge(&two, before),
        Verdict::Wait(Wait::Time, Some(sure))
    );
    assert_eq!(order.judge(&two, sure), Verdict::Down(How::Silent));
    // Not by who has no quorum any more, nor by counting on who has left.
    let alone = votes(&[1], 2, 0);
    assert_eq!(waits(&order, &alone, 1_000), Wait::Quorum);
    order.left(2, &two, at(200));
    assert_eq!(waits(&order, &two, 1_000), Wait::Answers);
    order.refuses(2, last(7, 90, Some(PROMISE_MS)), &two, at(300));
    assert_eq!(waits(&order, &two, 301), Wait::Time, "the time begins anew");
}

#[test]
fn a_host_that_took_its_promise_back_and_fell_silent_is_not_known_to_be_down() {
    let two = votes(&[1, 2], 2, 0);
    let mut order = Order::new(of(TARGET, 7), at(100));
    order.refuses(1, last(7, 90, Some(PROMISE_MS)), &two, at(101));
    order.refuses(2, last(7, 91, None), &two, at(101));
    assert_eq!(
        order.judge(&two, at(10_000)),
        Verdict::Wait(Wait::Promise, None)
    );
}

#[test]
fn a_host_that_confirms_is_down_after_its_bound_unless_its_own_clock_says_that_it_was_not() {
    let two = votes(&[1, 2], 2, 0);
    let said = Confirmed {
        by: of(TARGET, 7),
        at: 5_000 * NS_PER_S,
        bound_ms: BOUND_MS,
    };
    let confirmed = || {
        let mut order = Order::new(of(TARGET, 7), at(100));
        // Another boot's word counts for nothing.
        let other = Confirmed {
            by: of(TARGET, 8),
            ..said
        };
        order.confirms(other, at(50));
        order.confirms(said, at(101));
        order
    };
    let sure = sure(101, BOUND_MS);
    let mut order = confirmed();
    let (now, later) = (Monotonic(sure.0 - 1), at(1_000));
    assert_eq!(
        order.judge(&two, now),
        Verdict::Wait(Wait::Time, Some(sure))
    );
    assert_eq!(order.judge(&two, sure), Verdict::Down(How::Withheld));
    // Sent in time, and late.
    order.hear(TARGET, &beat(7, 5_013, 9_000, &[]), at(130));
    assert_eq!(order.judge(&two, later), Verdict::Down(How::Withheld));
    let mut order = confirmed();
    order.hear(TARGET, &beat(7, 5_016, 9_000, &[]), at(116));
    assert_eq!(
        order.judge(&two, later),
        Verdict::Failed(Failed::StillThere)
    );
}

#[test]
fn a_boot_that_began_after_the_order_says_that_the_one_before_is_over_and_an_older_one_does_not() {
    let two = votes(&[1, 2], 2, 0);
    let mut order = Order::new(of(TARGET, 7), at(100));
    order.hear(TARGET, &beat(8, 40, 40, &[]), at(150));
    assert_eq!(order.judge(&two, at(150)), Verdict::Down(How::Rebooted));
    let mut order = Order::new(of(TARGET, 7), at(100));
    order.hear(TARGET, &beat(8, 60, 60, &[]), at(150));
    assert_eq!(
        order.judge(&two, at(150)),
        Verdict::Failed(Failed::OtherBoot)
    );
    // Another host's is another host's.
    let mut order = Order::new(of(TARGET, 7), at(100));
    order.hear(2, &beat(8, 40, 40, &[]), at(150));
    assert!(matches!(order.judge(&two, at(150)), Verdict::Wait(..)));
}

#[test]
fn a_host_proves_its_quorum_by_beats_that_enough_members_have_heard() {
    let five = votes(&[1, 2, 3, 4, 5], 3, 0);
    let mut proof = Proof::new(1, boot(1));
    for s in 10..=20 {
        proof.send(at(s));
    }
    assert_eq!(proof.moment(&five), None);
    proof.hear(2, &beat(2, 1, 1, &[(1, 1, 19)]));
    // Its own echo is none, nor is one of another boot, of another host, or of what was not sent.
    proof.hear(1, &beat(1, 1, 1, &[(1, 1, 19)]));
    proof.hear(3, &beat(3, 1, 1, &[(1, 9, 19), (4, 1, 19), (1, 1, 99)]));
    assert_eq!(proof.moment(&five), None);
    proof.hear(3, &beat(3, 1, 1, &[(1, 1, 12)]));
    assert_eq!(proof.moment(&five), Some(at(12)));
    proof.hear(4, &beat(4, 1, 1, &[(1, 1, 15)]));
    assert_eq!(proof.moment(&five), Some(at(15)), "1, 2 and 4");
    // What is late takes nothing back.
    proof.hear(4, &beat(4, 1, 1, &[(1, 1, 11)]));
    assert_eq!(proof.moment(&five), Some(at(15)));
    // Who is no member any more has no votes; without quorum nothing is proved.
    let without = votes(&[1, 2, 3, 5], 3, 0);
    assert_eq!(proof.moment(&without), Some(at(12)));
    let apart = votes(&[1, 2], 3, 0);
    assert_eq!(proof.moment(&apart), None);
}

#[test]
fn with_a_quorum_device_a_host_may_be_the_quorum_alone_as_of_its_last_beat_that_came_back() {
    let mut proof = Proof::new(1, boot(1));
    let alone = votes(&[1], 2, 1);
    assert_eq!(proof.moment(&alone), None, "its ring may have hung");
    proof.send(at(20));
    proof.hear(1, &beat(1, 99, 1, &[]));
    proof.hear(1, &beat(2, 20, 1, &[]));
    assert_eq!(proof.moment(&alone), None, "not sent, or by another boot");
    proof.hear(1, &beat(1, 20, 1, &[]));
    assert_eq!(proof.moment(&alone), Some(at(20)));
    assert_eq!(proof.moment(&votes(&[1], 2, 0)), None);
}

#[test]
fn a_refused_host_is_not_echoed_until_it_boots_anew() {
    let mut refusals = Refusals::default();
    refusals.hear(TARGET, &beat(7, 50, 50, &[]), 100_000);
    refusals.hear(2, &beat(2, 60, 60, &[]), 100_000);
    let nodes = |refusals: &Refusals| {
        let echoes = refusals.echoes().into_iter();
        echoes.map(|echo| echo.of.node).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&refusals), [2, TARGET]);
    refusals.refuse(of(TARGET, 7), 101_000, 1);
    assert_eq!(nodes(&refusals), [2]);
    // The same boot, and one that may have begun before the order.
    assert!(!refusals.hear(TARGET, &beat(7, 59, 59, &[]), 109_000));
    assert!(!refusals.hear(TARGET, &beat(8, 8, 8, &[]), 110_000));
    assert_eq!(nodes(&refusals), [2]);
    // An order is said each second: its first time counts, or no boot would ever be younger.
    refusals.refuse(of(TARGET, 7), 111_500, 1);
    // Kept over a restart of the program.
    let kept: Vec<_> = refusals.kept().collect();
    let kept = Kept {
        refused: kept,
        ..Kept::default()
    };
    let mut refusals = Refusals::new(&kept);
    refusals.hear(TARGET, &beat(8, 9, 9, &[]), 111_000);
    assert!(nodes(&refusals).is_empty(), "nobody else was heard yet");
    assert!(refusals.hear(TARGET, &beat(9, 7, 7, &[]), 112_000));
    assert_eq!(nodes(&refusals), [TARGET]);
    // An order for that boot is another one.
    refusals.refuse(of(TARGET, 9), 120_000, 1);
    assert!(nodes(&refusals).is_empty());
    assert!(!refusals.hear(TARGET, &beat(9, 20, 20, &[]), 125_000));
}

#[test]
fn what_a_host_promised_before_it_came_back_unheard_is_not_known_any_more() {
    let mut refusals = Refusals::default();
    refusals.hear(TARGET, &beat(7, 50, 50, &[]), 100_000);
    assert_eq!(refusals.last(TARGET), last(7, 50, Some(PROMISE_MS)));
    refusals.joined(TARGET);
    assert_eq!(refusals.last(TARGET), None);
}
