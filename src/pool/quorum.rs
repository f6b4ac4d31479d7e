// SPDX-License-Identifier: GPL-2.0-only
//! Quorum as fencing counts it: never less than what two partitions could both have.
//!
//! In: votes as corosync counts them, what was counted first in this boot. Out: the votes to go by, and why a host must not
//! promise to be down without quorum.

use super::ring::Counted;
use crate::fencing::pinned::Pinned;
use crate::fencing::{Node, Votes};
use crate::sys::corosync;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// What a lease lasts longer than corosync takes to form a ring anew, at least, ms: beats and echoes that were late.
const BEYOND_REGROUPING_MS: u64 = 5_000;
/// What keeps systemd from each way to suspend a host, as systemd.unit(5) has it: a link to /dev/null.
const MASKS: [&str; 2] = [
    "etc/systemd/system/sleep.target",
    "run/systemd/system/sleep.target",
];

/// The votes to go by, where these nodes are on the ring.
#[must_use]
pub fn votes(
    pinned: &mut Pinned,
    counted: &Counted,
    ring: &BTreeSet<Node>,
    quorate: bool,
) -> Votes {
    let told = &counted.votes;
    let on_ring = counted.of.iter().filter(|(node, _)| ring.contains(node));
    let seen: BTreeMap<Node, u32> = on_ring.map(|(node, votes)| (*node, *votes)).collect();
    let nodes: u32 = seen
        .values()
        .fold(0, |sum, votes| sum.saturating_add(*votes));
    // A node that has just come or gone must not pass for the device.
    let are_all = seen.len() == ring.len() && counted.of.len() == seen.len();
    let device = match told.qdevice_votes && are_all {
        true => told.total_votes.saturating_sub(nodes),
        false => 0,
    };
    // Whatever corosync calls quorum, two partitions never have more than half of all votes.
    let majority = (pinned.expected(told.expected_votes) / 2).saturating_add(1);
    Votes {
        quorate,
        quorum: told.quorum.max(majority),
        of: pinned.nodes(&seen),
        device: pinned.device(device),
    }
}

/// Votes were changed while corosync runs.
#[must_use]
pub fn changed(pinned: &Pinned, counted: &Counted) -> Option<String> {
    let changed = pinned.changed(counted.votes.expected_votes, &counted.of)?;
    Some(format!(
        "votes were changed in this boot: {changed}: change them back and restart xenwarden-pool, or boot all hosts anew, one after the other"
    ))
}

/// Why a host must not promise to be down without quorum: another partition may have quorum at the same time, or this
/// host would go down though it has.
#[must_use]
pub fn unsuited(
    votes: &corosync::Votes,
    regrouping_ms: Option<u64>,
    lease_ms: Option<u64>,
) -> Option<String> {
    if let Some(why) = unsuited_votes(votes) {
        return Some(why.to_owned());
    }
    let Some(ms) = regrouping_ms else {
        return Some("corosync does not tell its token and consensus".to_owned());
    };
    let needs_ms = ms.saturating_add(BEYOND_REGROUPING_MS);
    let short = lease_ms.filter(|has_ms| *has_ms < needs_ms)?;
    Some(format!(
        "the lease's timeout of {short} ms is too short: corosync may deliver nothing for its token and consensus while a host dies, and all others would go down with it: {} s at least (timeout_s in xenwarden.conf), or a shorter token",
        needs_ms.div_ceil(1_000)
    ))
}

/// The same as far as votes go.
#[must_use]
pub fn unsuited_votes(votes: &corosync::Votes) -> Option<&'static str> {
    match () {
        () if votes.two_node && !votes.qdevice => Some(
            "corosync.conf has two_node and no quorum device, so each of two hosts is a quorum alone: add a device (corosync-qdevice) or a third node",
        ),
        () if votes.auto_tie_breaker => Some(
            "corosync.conf has auto_tie_breaker, with which half of the votes is a quorum: use a quorum device",
        ),
        () if votes.last_man_standing => Some(
            "corosync.conf has last_man_standing, which counts hosts out that are only cut off",
        ),
        () if votes.allow_downscale => Some(
            "corosync.conf has allow_downscale, which counts hosts out that have left, and may be cut off: remove it",
        ),
        () => None,
    }
}

/// How this host may be suspended; none: nothing does that. A host that sleeps is told to be down, and its guests run on when it
/// wakes until it has seen that and its watchdog has fired: nothing that it could promise would hold. Reads files below /sys and /etc.
#[must_use]
pub fn may_sleep(root: &Path) -> Option<String> {
    let states = match fs::read_to_string(root.join("sys/power/state")) {
        Ok(states) => states,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("unknown: {error}"),
    };
    let states = states.trim();
    let masks = |path: &&str| {
        fs::read_link(root.join(path)).is_ok_and(|target| target == Path::new("/dev/null"))
    };
    let may = !states.is_empty() && !MASKS.iter().any(masks);
    may.then(|| {
        format!(
            "this host can be suspended ({states}: /sys/power/state), and one that wakes is not down: systemctl mask sleep.target, and restart xenwarden-pool"
        )
    })
}
