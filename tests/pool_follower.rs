// SPDX-License-Identifier: GPL-2.0-only
//! What a client that follows events is given, and how much at once.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_members;

use pool_members::Ring;
use xenwarden::pool::follower::{FULL, Follower};
use xenwarden::pool::protocol::Subscription;
use xenwarden::pool::record::At;

/// One host that had so many expiries, of whose records it keeps so many.
fn with_events(count: u128, keep: usize) -> Ring {
    let mut ring = Ring::new(1, keep, Vec::new());
    ring.settle();
    for guest in 0..count {
        ring.event(0, "alarm.raised", guest);
        if guest % 20 == 0 {
            ring.step();
        }
    }
    ring.settle();
    ring
}

fn follower(ring: &mut Ring, after: Option<Vec<At>>, follow: bool) -> Follower {
    let subscription = Subscription {
        after,
        follow,
        kinds: vec!["alarm.".to_owned()],
        guest: None,
    };
    Follower::new(subscription, ring.node(0).store())
}

/// What it is given at once, and whether that was all.
fn given(follower: &mut Follower, ring: &mut Ring) -> (Vec<String>, bool) {
    let mut out = Vec::new();
    let all = follower.fill(ring.node(0).store(), &mut out);
    let text = String::from_utf8(out).expect("text");
    (text.lines().map(str::to_owned).collect(), all)
}

#[test]
fn who_has_no_place_is_given_what_happens_from_now_on_or_all_that_is_kept() {
    let mut ring = with_events(3, 1_000);
    let mut follows = follower(&mut ring, None, true);
    assert_eq!(given(&mut follows, &mut ring), (Vec::new(), false));
    ring.event(0, "alarm.raised", 9);
    ring.settle();
    let (lines, all) = given(&mut follows, &mut ring);
    assert_eq!((lines.len(), all), (1, false), "{lines:?}");
    let mut reads = follower(&mut ring, None, false);
    let (lines, all) = given(&mut reads, &mut ring);
    assert_eq!((lines.len(), all), (4, true), "{lines:?}");
}

#[test]
fn what_does_not_fit_at_once_is_given_later_and_none_is_missing() {
    let mut ring = with_events(600, 2_000);
    let mut reads = follower(&mut ring, None, false);
    let mut full = vec![b'x'; FULL];
    assert!(!reads.fill(ring.node(0).store(), &mut full));
    assert_eq!(full.len(), FULL, "there was no room");
    let (mut lines, mut rounds, mut all) = (Vec::new(), 0, false);
    while !all {
        let (more, ends) = given(&mut reads, &mut ring);
        lines.extend(more);
        (rounds, all) = (rounds + 1, ends);
        assert!(rounds < 100, "it goes on");
    }
    assert_eq!(lines.len(), 600);
    assert!(rounds > 1);
    // Nor are more records looked at than that, whatever is wanted of them.
    let subscription = Subscription {
        after: None,
        follow: false,
        kinds: vec!["weather.".to_owned()],
        guest: None,
    };
    let mut reads = Follower::new(subscription, ring.node(0).store());
    let (lines, all) = given(&mut reads, &mut ring);
    assert_eq!((lines.len(), all), (0, false));
    assert_eq!(given(&mut reads, &mut ring), (Vec::new(), true));
}

#[test]
fn what_is_not_kept_any_more_is_named_to_who_has_a_place() {
    let mut ring = with_events(200, 10);
    let missed = |after: Option<Vec<At>>, ring: &mut Ring| {
        let mut reads = follower(ring, after, false);
        let (lines, _) = given(&mut reads, ring);
        let missed = lines.iter().filter(|line| line.contains("missed"));
        missed.count()
    };
    assert_eq!(missed(None, &mut ring), 0);
    assert_eq!(missed(Some(Vec::new()), &mut ring), 1);
}
