// SPDX-License-Identifier: GPL-2.0-only
//! Votes as fencing counts them, whatever corosync-quorumtool does to them; and hosts that can be suspended.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_stage;

use pool_stage::directory;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use xenwarden::fencing::Node;
use xenwarden::fencing::pinned::Pinned;
use xenwarden::pool::quorum::{changed, may_sleep, unsuited, unsuited_votes, votes};
use xenwarden::pool::ring::Counted;
use xenwarden::sys::clock::Monotonic;
use xenwarden::sys::corosync::Votes;

/// What one node's corosync counts.
fn counted(nodes: &[(Node, u32)], expected: u32, device: u32) -> Counted {
    let of: BTreeMap<Node, u32> = nodes.iter().copied().collect();
    let total_votes = of.values().sum::<u32>() + device;
    let votes = Votes {
        quorate: total_votes > expected / 2,
        expected_votes: expected,
        total_votes,
        quorum: expected / 2 + 1,
        qdevice: device > 0,
        qdevice_votes: device > 0,
        ..Votes::default()
    };
    Counted {
        votes,
        of,
        asked: Monotonic(1),
        regrouping_ms: Some(3_000),
    }
}

/// Whether these nodes are enough, by what is counted; and whether that is as it was.
fn is_quorum(pinned: &mut Pinned, now: &Counted, nodes: &[Node]) -> (bool, bool) {
    let ring: BTreeSet<Node> = now.of.keys().copied().collect();
    let votes = votes(pinned, now, &ring, now.votes.quorate);
    let enough = votes.are_enough(nodes.iter().copied());
    (enough, changed(pinned, now).is_none())
}

#[test]
fn votes_that_are_changed_while_corosync_runs_make_no_quorum_and_are_noticed() {
    let mut pinned = Pinned::default();
    let all = counted(&[(1, 1), (2, 1), (3, 1)], 3, 0);
    assert_eq!(is_quorum(&mut pinned, &all, &[1, 2]), (true, true));
    // `corosync-quorumtool -e 1` where one is alone; `-v 5`; both.
    for (nodes, expected) in [([(1, 1)], 1), ([(1, 5)], 7), ([(1, 5)], 3)] {
        let now = counted(&nodes, expected, 0);
        assert!(now.votes.quorate || expected == 7, "by corosync's word");
        assert_eq!(is_quorum(&mut pinned.clone(), &now, &[1]), (false, false));
    }
    // Over a restart of the program as well, and as they were again.
    let kept = serde_json::to_string(&pinned).expect("written");
    let mut pinned: Pinned = serde_json::from_str(&kept).expect("read");
    let now = counted(&[(1, 1)], 1, 0);
    assert_eq!(is_quorum(&mut pinned, &now, &[1]), (false, false));
    assert_eq!(is_quorum(&mut pinned, &all, &[1, 2]), (true, true));
    // A node that is added counts; one that is gone is no change.
    let more = counted(&[(1, 1), (2, 1), (3, 1), (4, 1)], 4, 0);
    assert_eq!(is_quorum(&mut pinned, &more, &[1, 2]), (false, true));
    let fewer = counted(&[(1, 1), (2, 1), (3, 1)], 4, 0);
    assert_eq!(is_quorum(&mut pinned, &fewer, &[1, 2, 3]), (true, true));
}

#[test]
fn a_device_counts_what_it_counted_first_and_only_where_all_nodes_are_seen() {
    let mut pinned = Pinned::default();
    let two = counted(&[(1, 1), (2, 1)], 3, 1);
    assert_eq!(is_quorum(&mut pinned, &two, &[1]), (true, true));
    let one = counted(&[(1, 1)], 3, 1);
    assert_eq!(is_quorum(&mut pinned, &one, &[1]), (true, true));
    // Without the device's vote, and with a device that has more by now.
    assert_eq!(
        is_quorum(&mut pinned, &counted(&[(1, 1)], 3, 0), &[1]),
        (false, true)
    );
    let more = counted(&[(1, 1), (2, 1), (3, 1), (4, 1)], 7, 3);
    assert_eq!(is_quorum(&mut pinned, &more, &[1]), (false, true));
    // A node of the ring whose votes are not there yet must not pass for the device.
    let ring = BTreeSet::from([1, 2]);
    assert_eq!(votes(&mut pinned, &one, &ring, true).device, 0);
}

#[test]
fn what_two_partitions_may_both_have_is_not_promised_by() {
    let base = counted(&[(1, 1), (2, 1), (3, 1)], 3, 0).votes;
    assert_eq!(unsuited_votes(&base), None);
    type Set = fn(&mut Votes);
    let cases: [(&str, Set); 4] = [
        ("two_node", |votes| votes.two_node = true),
        ("auto_tie_breaker", |votes| votes.auto_tie_breaker = true),
        ("last_man_standing", |votes| votes.last_man_standing = true),
        ("allow_downscale", |votes| votes.allow_downscale = true),
    ];
    for (name, set) in cases {
        let mut votes = base.clone();
        set(&mut votes);
        let why = unsuited_votes(&votes).expect("refused");
        assert!(why.contains(name), "{why}");
    }
    let mut with_device = base.clone();
    (with_device.two_node, with_device.qdevice) = (true, true);
    assert_eq!(unsuited_votes(&with_device), None);
    let mut all = base.clone();
    all.wait_for_all = true;
    assert_eq!(unsuited(&all, Some(3_000), Some(8_000)), None);
    assert!(unsuited(&all, Some(3_000), Some(7_999)).is_some());
    assert!(unsuited(&all, None, Some(60_000)).is_some());
}

#[test]
fn a_host_promises_nothing_unless_nothing_can_suspend_it() {
    let root = directory("pool-sleep");
    assert_eq!(may_sleep(&root), None, "no such kernel");
    fs::create_dir_all(root.join("sys/power")).expect("made");
    fs::create_dir_all(root.join("etc/systemd/system")).expect("made");
    let states = root.join("sys/power/state");
    fs::write(&states, "\n").expect("written");
    assert_eq!(may_sleep(&root), None, "it knows no way");
    fs::write(&states, "freeze mem disk\n").expect("written");
    let why = may_sleep(&root).expect("it can");
    assert!(
        why.contains("freeze mem disk") && why.contains("systemctl mask sleep.target"),
        "{why}"
    );
    // A unit of somebody's own is no mask.
    let target = root.join("etc/systemd/system/sleep.target");
    fs::write(&target, "[Unit]\n").expect("written");
    assert!(may_sleep(&root).is_some());
    fs::remove_file(&target).expect("removed");
    symlink("/dev/null", &target).expect("linked");
    assert_eq!(may_sleep(&root), None);
}
