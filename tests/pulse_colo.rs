// SPDX-License-Identifier: GPL-2.0-only
//! Heartbeats between two stock QEMUs in COLO, with the options of the Advanced Watch Dog's letter, and with a key and a lease: a
//! side that is lost is replaced in time, and a network that loses one direction leaves no two guests.
//!
//! They take a minute and QEMU, so they are ignored; `make colo` runs them.
#![allow(clippy::expect_used)] // how tests fail

mod colo_pair;

use colo_pair::{FAIL_OVER, Lease, Link, Pair, Side, Way, now};
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// From one pulse of the primary's to the next; the secondary answers each.
const PULSE: Duration = Duration::from_millis(1000);

/// The letter's command line of the primary, but for addresses and ports, which follow.
const PRIMARY: &str = "\
-chardev socket,id=h1,host=3.3.3.3,port=9009,server,nowait
-chardev socket,id=heartbeat0,host=3.3.3.3,port=4445
-object iothread,id=iothread2
-object advanced-watchdog,id=heart1,server=on,awd_node=h1,notification_node=heartbeat0,opt_script=colo_opt_script_path,\
iothread=iothread1,pulse_interval=1000,timeout=5000";

/// That of the secondary.
const SECONDARY: &str = "\
-monitor tcp::4445,server,nowait
-chardev socket,id=h1,host=3.3.3.3,port=9009,reconnect=1
-chardev socket,id=heart1,host=3.3.3.8,port=4445
-object iothread,id=iothread1
-object advanced-watchdog,id=heart1,server=off,awd_node=h1,notification_node=heart1,opt_script=colo_secondary_opt_script,\
iothread=iothread1,timeout=10000";

/// What the letter has each side wait.
fn timeout(side: Side) -> Duration {
    match side {
        Side::Primary => Duration::from_millis(5000),
        Side::Secondary => Duration::from_millis(10_000),
    }
}

/// The words of a command line, with `node` and `monitor` for the letter's ports 9009 and 4445.
fn words(letter: &str, node: SocketAddr, monitor: SocketAddr) -> Vec<String> {
    let node = format!("host={},port={}", node.ip(), node.port());
    let notified = format!("host={},port={}", monitor.ip(), monitor.port());
    let text = letter
        .replace("host=3.3.3.3,port=9009", &node)
        .replace("host=3.3.3.3,port=4445", &notified)
        .replace("host=3.3.3.8,port=4445", &notified)
        .replace("tcp::4445", &format!("tcp::{}", monitor.port()));
    let split = text.lines().filter_map(|line| line.split_once(' '));
    split
        .flat_map(|(option, value)| [option.to_owned(), value.to_owned()])
        .collect()
}

/// A pair with the letter's options, whose heartbeats are armed.
fn letters(name: &str, link: &Link) -> Pair {
    let mut pair = Pair::start(name, link);
    let script = |directory: &Path, name: &str| {
        fs::write(directory.join(name), FAIL_OVER).expect("a script");
    };
    script(&pair.primary.directory, "colo_opt_script_path");
    script(&pair.secondary.directory, "colo_secondary_opt_script");
    let node = Side::Primary.free();
    let way = link.add(node);
    let (primary, secondary) = (pair.primary.monitor, pair.secondary.monitor);
    pair.primary.watch(&words(PRIMARY, node, primary));
    pair.secondary.watch(&words(SECONDARY, way, secondary));
    pair.armed();
    pair
}

/// The side that is struck is lost; the other one's guest runs on, in time, and not before.
fn survives(name: &str, struck: Side, signal: Signal) -> Pair {
    let mut pair = letters(name, &Link::default());
    let at = pair.strike(struck, signal);
    let survivor = struck.other();
    let timeout = timeout(survivor);
    pair.runs_alone(survivor, at, timeout - PULSE, timeout + PULSE);
    pair
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn the_secondary_takes_over_when_the_primary_is_killed() {
    survives("primary-killed", Side::Primary, Signal::SIGKILL);
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn the_primary_resumes_when_the_secondary_is_killed() {
    survives("secondary-killed", Side::Secondary, Signal::SIGKILL);
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn the_secondary_takes_over_when_the_primary_stands_still() {
    survives("primary-stopped", Side::Primary, Signal::SIGSTOP);
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn a_secondary_that_stood_still_does_not_take_its_own_gap_for_the_primarys() {
    let mut pair = survives("secondary-stopped", Side::Secondary, Signal::SIGSTOP);
    // Until it has heard nothing for longer than it waits, as it did not listen.
    thread::sleep(timeout(Side::Secondary) + PULSE);
    pair.strike(Side::Secondary, Signal::SIGCONT);
    let secondary = &pair.secondary;
    colo_pair::eventually("the gap is noted", || {
        secondary
            .status()
            .is_some_and(|status| status["own_gaps"].as_u64() > Some(0))
    });
    // For longer than it would have waited.
    let heard = secondary.count("pulses") + 12;
    colo_pair::eventually("the primary's pulses go on", || {
        secondary.count("pulses") >= heard
    });
    assert_eq!(secondary.count("losses"), 0);
    assert_eq!(pair.secondary.vmm.failed_over(), None);
}

/// With the letter's options alone, when the network loses what goes to the side that waits.
fn hears_no_more(name: &str, deaf: Side, lost: Way) -> Pair {
    let link = Link::default();
    let mut pair = letters(name, &link);
    let at = now();
    link.cut(lost);
    let timeout = timeout(deaf);
    pair.runs_alone(deaf, at, timeout - PULSE, timeout + PULSE);
    pair
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn the_primary_resumes_when_it_alone_hears_nothing() {
    let mut pair = hears_no_more("primary-deaf", Side::Primary, Way::Forth);
    // The secondary hears it, and stays what it is.
    assert_eq!(pair.secondary.count("losses"), 0);
    assert_eq!(pair.secondary.vmm.failed_over(), None);
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn the_secondary_takes_over_when_it_alone_hears_nothing() {
    hears_no_more("secondary-deaf", Side::Secondary, Way::Back);
}

/// Of a pair with a key: from one pulse to the next, and how long each side waits for one.
const SEALED_PULSE: Duration = Duration::from_millis(500);
const SEALED_TIMEOUT: Duration = Duration::from_millis(3000);
/// From the last renewal of its lease until the primary's host is down.
const FENCE_BOUND: Duration = Duration::from_millis(3500);
/// From the secondary's loss of the primary to its takeover: the bound, and what the primary may notice its own loss later.
const ACT_AFTER: Duration = Duration::from_secs(9);

/// A pair as xenwarden-pulse.conf(5) has it, whose heartbeats are armed: with a key, and the lease on the life of the primary's host. A host whose heartbeat is lost goes
/// down, and the secondary waits until that is certain.
fn sealed(name: &str, link: &Link) -> (Pair, Lease) {
    let mut pair = Pair::start(name, link);
    let node = Side::Primary.free();
    let way = link.add(node);
    let (act_after, commands) = (ACT_AFTER.as_millis(), pair.secondary.commands.display());
    let primary = format!("listen = \"{node}\"\nlease = \"colo\"\n");
    let secondary = format!(
        "connect = \"{way}\"\nanswers = true\nreconnect_ms = 500\nact_after_ms = {act_after}\n\
         notify_connect = \"unix:{commands}\"\nqmp = ['{{\"execute\": \"x-colo-lost-heartbeat\"}}']\n"
    );
    for (side, more) in [(Side::Primary, primary), (Side::Secondary, secondary)] {
        let host = pair.host(side);
        let path = |name: &str| host.directory.join(name);
        fs::write(path("key"), "what both of them know, and nobody else").expect("a key");
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).expect("permissions");
        let config = format!(
            "[heartbeat.colo]\nkey = \"key\"\npulse_interval_ms = {}\ntimeout_ms = {}\n{more}",
            SEALED_PULSE.as_millis(),
            SEALED_TIMEOUT.as_millis()
        );
        fs::write(path("pulse.toml"), config).expect("a configuration");
        host.watch(&["--config", "pulse.toml"].map(str::to_owned));
    }
    let lease = pair.primary.guard("colo", FENCE_BOUND);
    pair.armed();
    colo_pair::eventually("the lease is held", || lease.held());
    (pair, lease)
}

/// Whatever is done to them, the secondary's guest runs on by itself, in time, and the primary's is gone before.
fn never_both(name: &str, harm: impl FnOnce(&mut Pair, &Link)) {
    let link = Link::default();
    let (mut pair, lease) = sealed(name, &link);
    let at = now();
    harm(&mut pair, &link);
    // What proves that the peer lives is as old as the pulse of ours that it has heard: a pulse more than the peer's own.
    let due = SEALED_TIMEOUT + ACT_AFTER;
    pair.runs_alone(
        Side::Secondary,
        at,
        due - SEALED_PULSE * 3,
        due + SEALED_PULSE,
    );
    let resumed = pair.secondary.vmm.failed_over().expect("failed over");
    let down = lease.went_down();
    assert!(down < resumed, "both ran: {down:?}, {resumed:?}");
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn never_both_guests_run_when_what_goes_to_the_primary_is_lost() {
    never_both("fenced-forth", |_, link| link.cut(Way::Forth));
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn never_both_guests_run_when_what_goes_to_the_secondary_is_lost() {
    never_both("fenced-back", |_, link| link.cut(Way::Back));
}

#[test]
#[ignore = "takes QEMU: make colo"]
fn a_primary_that_stands_still_is_down_before_the_secondary_takes_over() {
    never_both("fenced-stopped", |pair, _| {
        pair.strike(Side::Primary, Signal::SIGSTOP);
    });
}
