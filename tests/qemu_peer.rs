// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-qemu against whoever has a VM's QMP socket: late, silent, out of its mind, or gone at
//! any byte. An alarm stays what it was, and nothing is taken for an answer that is none.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod qemu_stage;

use nix::sys::signal::Signal;
use qemu_stage::machine::UUID;
use qemu_stage::peer::{GREETING, Peer};
use qemu_stage::{Follower, directory, until};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use xenwarden::event::Cause;
use xenwarden::guests::report::{AlarmPhase, DomainState};

fn stage(
    name: &str,
    change: impl FnOnce(&mut qemu_stage::peer::Behaviour),
) -> (PathBuf, Peer, Follower) {
    let directory = directory(name);
    let peer = Peer::start(&directory.join("q.sock"), change);
    let follower = Follower::start(&directory);
    (directory, peer, follower)
}

fn runs(follower: &Follower) {
    follower.until_guest("it is seen", |guest| guest.state == DomainState::Running);
}

fn expire(peer: &Peer, follower: &Follower) {
    peer.event("WATCHDOG", &json!({ "action": "none" }));
    follower.until_phase(AlarmPhase::Raised);
}

#[test]
fn a_greeting_that_comes_late_is_waited_for() {
    let (_, peer, follower) = stage("late", |peer| peer.late = Duration::from_secs(2));
    runs(&follower);
    assert_eq!(peer.behaviour().connections, 1);
    expire(&peer, &follower);
}

#[test]
fn a_peer_that_says_nothing_is_given_up_in_time_and_tried_again() {
    let (_, peer, mut follower) = stage("silent", |peer| peer.late = Duration::from_secs(3_600));
    follower.until_logged("no greeting came in time", 1);
    assert!(follower.is_running());
    assert!(follower.guest().is_none(), "nothing was seen");
    drop(peer);
    follower.stop(Signal::SIGTERM);
}

#[test]
fn a_peer_that_answers_no_command_is_given_up_in_time_and_an_alarm_stays() {
    let (_, peer, follower) = stage("mute", |_| {});
    runs(&follower);
    expire(&peer, &follower);
    peer.behaviour().answers = false;
    peer.event("STOP", &Value::Null);
    follower.until_logged("a command was not answered in time", 1);
    assert_eq!(follower.alarm().expect("open").phase, AlarmPhase::Raised);
    follower.until_guest("nobody looks", |guest| guest.state == DomainState::Unknown);
    peer.behaviour().answers = true;
    peer.end();
    runs(&follower);
}

#[test]
fn a_connection_that_ends_at_any_byte_is_made_again_and_neither_raises_nor_clears() {
    // Up to the end of what is said while it attaches, about 500 bytes.
    let (_, peer, follower) = stage("cut", |peer| (peer.cut, peer.cut_grows) = (Some(0), 61));
    runs(&follower);
    let connections = peer.behaviour().connections;
    assert!(connections > 5, "it was cut {connections} times");
    assert!(follower.alarm().is_none());
    peer.behaviour().cut = None;
    peer.end();
    until("it comes again", || {
        peer.behaviour().connections > connections
    });
    runs(&follower);
    expire(&peer, &follower);
    // The same with an alarm.
    let before = peer.behaviour().connections;
    peer.behaviour().cut = Some(0);
    peer.end();
    until("it comes again", || {
        peer.behaviour().connections > before + 5
    });
    runs(&follower);
    let alarm = follower.alarm().expect("open");
    assert_eq!((alarm.expiries, alarm.reboots), (1, 0));
    follower.has_events("alarm.raised", 1);
}

#[test]
fn what_is_no_qmp_ends_the_connection_and_never_an_alarm() {
    let (_, peer, follower) = stage("garbage", |_| {});
    runs(&follower);
    expire(&peer, &follower);
    let cases: [&[u8]; 7] = [
        b"\0\xff\xfe\r\n",
        b"(qemu) info status\r\n",
        b"{}\n",
        b"[1, 2]\n",
        b"{\"event\": 7}\n",
        b"{\"event\": \"RESET\", \"data\": 7}\n",
        GREETING.as_bytes(),
    ];
    for (n, garbage) in cases.iter().enumerate() {
        runs(&follower);
        peer.inject(garbage);
        peer.inject(b"\n");
        follower.until_logged("not QMP", n + 1);
    }
    runs(&follower);
    assert_eq!(follower.alarm().expect("open").phase, AlarmPhase::Raised);
}

#[test]
fn events_with_any_members_are_survived() {
    let (_, peer, mut follower) = stage("members", |_| {});
    runs(&follower);
    for data in [
        json!({}),
        json!({ "action": 7 }),
        json!({ "reason": [], "guest": "x" }),
    ] {
        for name in [
            "RESET",
            "SHUTDOWN",
            "MIGRATION",
            "STOP",
            "RESUME",
            "WATCHDOG_FED",
            "\u{1b}[2J",
        ] {
            peer.event(name, &data);
        }
    }
    peer.inject(b"{\"event\": \"WATCHDOG\", \"data\": {\"action\": \"\\u001b[2J\"}}\r\n");
    follower.until_phase(AlarmPhase::Raised);
    assert!(!follower.log().contains('\u{1b}'), "it moves no cursor");
    assert!(follower.is_running());
}

#[test]
fn a_line_without_an_end_is_given_up_before_it_takes_much_memory() {
    let (_, peer, follower) = stage("endless", |_| {});
    runs(&follower);
    let before = peer.behaviour().connections;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        peer.inject(&piece);
    }
    until("it is given up", || peer.behaviour().connections > before);
    follower.until_logged("a line has no end", 1);
    let status = fs::read_to_string(format!("/proc/{}/status", follower.pid())).expect("there");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a line");
    let kib: u64 = peak
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    assert!(kib < 64 << 10, "{kib} KiB");
}

#[test]
fn a_flood_of_events_is_followed_and_the_alarm_in_it_found() {
    let (_, peer, follower) = stage("flood", |_| {});
    runs(&follower);
    let flood = "{\"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 1}}\r\n".repeat(1_000);
    for _ in 0..50 {
        peer.inject(flood.as_bytes());
    }
    expire(&peer, &follower);
    assert_eq!(peer.behaviour().connections, 1);
}

#[test]
fn answers_of_others_events_between_and_twice_the_same_answer_confuse_nobody() {
    let strange = [
        r#"{"return": {"status": "paused", "UUID": "x"}, "id": 999999}"#,
        r#"{"error": {"class": "x", "desc": "of another"}, "id": "a"}"#,
        r#"{"return": {}}"#,
        r#"{"event": "RTC_CHANGE", "data": {"offset": 0}}"#,
    ];
    let (_, peer, follower) = stage("order", |peer| {
        peer.before_answers = strange.iter().map(|line| (*line).to_owned()).collect();
    });
    runs(&follower);
    expire(&peer, &follower);
    assert_eq!(peer.behaviour().connections, 1);
}

#[test]
fn a_patched_qemu_tells_of_the_first_feed_itself_and_needs_no_trace() {
    let (_, peer, follower) = stage("patched", |peer| peer.patched = true);
    runs(&follower);
    expire(&peer, &follower);
    peer.event("RESET", &json!({ "guest": true, "reason": "guest-reset" }));
    follower.until_phase(AlarmPhase::Rebooted);
    peer.event("WATCHDOG_ARMED", &json!({ "id": "wd0" }));
    follower.until_phase(AlarmPhase::Recovering);
    peer.event("WATCHDOG_FED", &json!({ "id": "wd0" }));
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    assert!(!peer.was_told("logfile"), "no trace");
    follower.has_events("alarm.cleared", 1);
}

#[test]
fn a_feed_of_before_an_expiry_that_a_patched_qemu_tells_late_clears_nothing() {
    let (_, peer, follower) = stage("held-back", |peer| peer.patched = true);
    runs(&follower);
    let fed = |us: i64| {
        let time = xenwarden::event::Timestamp::now().0 + us;
        let timestamp = json!({ "seconds": time / 1_000_000, "microseconds": time % 1_000_000 });
        let event = json!({ "event": "WATCHDOG_FED", "data": {}, "timestamp": timestamp });
        peer.inject(format!("{event}\r\n").as_bytes());
    };
    expire(&peer, &follower);
    fed(-60_000_000);
    peer.event("RTC_CHANGE", &json!({ "offset": 0 }));
    peer.event("STOP", &Value::Null);
    until("it has read that", || {
        let behaviour = peer.behaviour();
        let asked = |command: &&Value| command["execute"] == "query-status";
        behaviour.commands.iter().filter(asked).count() >= 3
    });
    assert_eq!(follower.alarm().expect("open").phase, AlarmPhase::Raised);
    fed(1_000);
    follower.until_guest("it is clear", |guest| guest.alarm.is_none());
}

#[test]
fn what_a_patched_qemu_told_while_nobody_listened_is_found_by_its_trace() {
    let (_, peer, mut follower) = stage("missed", |peer| peer.patched = true);
    runs(&follower);
    expire(&peer, &follower);
    assert!(!peer.was_told("logfile"), "no trace");
    // It is on disk, as an order is answered after that; and in the log, whose thread may be behind.
    let _ = follower.ask(&format!("ack {UUID}"));
    follower.has_events("alarm.raised", 1);
    follower.stop(Signal::SIGKILL);
    follower.start_again();
    until("the trace is on", || peer.was_told("logfile"));
    follower.has_events("alarm.raised", 1);
}

#[test]
fn where_no_feed_can_be_seen_the_report_says_so_and_an_operator_closes_the_alarm() {
    for (name, device, traces, why) in [
        ("no-trace", "i6300esb", false, "has no trace event"),
        ("diag288", "diag288", true, "shows no feeds of a diag288"),
        ("no-device", "e1000", true, "no watchdog device"),
    ] {
        let (_, peer, follower) = stage(name, |peer| {
            (peer.traces, peer.devices) = (traces, vec![device]);
        });
        runs(&follower);
        follower.until_logged(why, 1);
        expire(&peer, &follower);
        peer.event("RESET", &json!({ "guest": true, "reason": "guest-reset" }));
        follower.until_phase(AlarmPhase::Rebooted);
        let seen = follower.guest().expect("seen").feeds_unseen;
        assert!(seen.is_some_and(|said| said.contains(why)));
        assert!(
            follower
                .ask(&format!("ack {UUID}"))
                .contains("acknowledged")
        );
        assert!(follower.alarm().expect("open").acknowledged);
        assert!(follower.ask(&format!("close {UUID}")).contains("closed"));
        assert!(follower.alarm().is_none());
        assert!(
            follower
                .ask(&format!("close {UUID}"))
                .contains("no open alarm")
        );
        assert!(!peer.was_told("logfile"));
    }
}

#[test]
fn another_guest_than_the_configured_one_is_not_followed() {
    let directory = directory("other");
    let place = directory.join("other.sock");
    let peer = Peer::start(&place, |_| {});
    let vms = format!(
        "vm = [{{ name = \"db\", qmp = \"{}\", uuid = \"00000000-0000-4000-8000-000000000001\" }}]",
        place.display()
    );
    let follower = Follower::start_config(&directory, &vms);
    follower.until_logged(
        "the configuration says 00000000-0000-4000-8000-000000000001",
        1,
    );
    assert!(follower.guest().is_none());
    assert!(!peer.was_told("query-status"));
}

/// Two VMs, of which the second says whatever it likes.
fn two(name: &str, second: &str) -> (Peer, Peer, Follower) {
    let directory = directory(name);
    let first = Peer::start(&directory.join("first.sock"), |_| {});
    let place = |name: &str| directory.join(name).display().to_string();
    let other = Peer::start(&directory.join("second.sock"), |peer| {
        peer.uuid = second.to_owned();
    });
    let vms = format!(
        "vm = [{{ name = \"first\", qmp = \"{}\", uuid = \"{UUID}\" }}, {{ name = \"second\", qmp = \"{}\" }}]",
        place("first.sock"),
        place("second.sock"),
    );
    (first, other, Follower::start_config(&directory, &vms))
}

#[test]
fn a_vm_that_claims_the_guest_of_another_is_not_followed() {
    let (first, second, follower) = two("claims", UUID);
    follower.until_logged("which is first", 1);
    runs(&follower);
    expire(&first, &follower);
    assert_eq!(follower.report().guests.len(), 1);
    assert!(!second.was_told("query-status"));
}

#[test]
fn a_vm_stays_the_guest_that_it_first_was_also_after_a_restart() {
    let (_, peer, mut follower) = stage("pinned", |_| {});
    runs(&follower);
    expire(&peer, &follower);
    let stranger = "00000000-0000-4000-8000-000000000003";
    peer.behaviour().uuid = stranger.to_owned();
    peer.end();
    follower.until_logged("write uuid = ", 1);
    follower.stop(Signal::SIGTERM);
    follower.start_again();
    follower.until_logged("write uuid = ", 2);
    let guest = follower.guest().expect("kept");
    assert_eq!(
        guest.uuid.map(|uuid| uuid.to_string()).as_deref(),
        Some(UUID)
    );
    assert!(guest.alarm.is_some());
    peer.behaviour().uuid = UUID.to_owned();
    runs(&follower);
}

#[test]
fn of_two_processes_that_follow_one_guest_neither_ends_the_others_alarm() {
    let patched = |peer: &mut qemu_stage::peer::Behaviour| peer.patched = true;
    let (place, first_peer, first) = stage("one-guest", patched);
    let (other, second_peer, mut second) = stage("one-guest-twice", patched);
    second.monitor_down();
    let socket = other.join("monitor.sock");
    let _ = fs::remove_file(&socket);
    std::os::unix::fs::symlink(place.join("monitor.sock"), socket).expect("a link");
    let fed = |peer: &Peer, follower: &Follower| {
        peer.event("WATCHDOG_ARMED", &json!({ "qom-path": "/x" }));
        peer.event("WATCHDOG_FED", &json!({ "qom-path": "/x" }));
        follower.until_guest("it is clear", |guest| guest.alarm.is_none());
    };
    let told = |kind: &str| {
        let told = first.told().unwrap_or_default();
        told.iter().filter(|told| told.what.kind() == kind).count()
    };
    expire(&first_peer, &first);
    expire(&second_peer, &second);
    if first.told().is_none() {
        return;
    }
    until("both are told", || told("alarm.raised") == 2);
    fed(&second_peer, &second);
    second.until_logged("the monitor refuses alarm.cleared", 1);
    assert_eq!(told("alarm.cleared"), 0, "the first's is open");
    fed(&first_peer, &first);
    until("the last one's end is told", || told("alarm.cleared") == 1);
}

#[test]
fn expiries_without_end_leave_the_log_short_and_the_other_vm_heard() {
    let (first, second, follower) = two("loud", "00000000-0000-4000-8000-000000000004");
    until("both are seen", || follower.report().guests.len() == 2);
    let flood = "{\"event\": \"WATCHDOG\", \"data\": {\"action\": \"none\"}}\r\n".repeat(1_000);
    for _ in 0..20 {
        second.inject(flood.as_bytes());
    }
    first.event("WATCHDOG", &json!({ "action": "none" }));
    until("the first has an alarm", || {
        let guests = follower.report().guests;
        let mut alarms = guests.iter().filter(|guest| guest.alarm.is_some());
        alarms.any(|guest| guest.name.as_deref() == Some("first"))
    });
    follower.until_logged("times more", 1);
    let lines = follower.log().lines().count();
    assert!(lines < 5_000, "{lines} lines of 20000 expiries");
}

#[test]
fn a_vm_that_is_not_there_hampers_no_other() {
    let directory = directory("absent");
    let peer = Peer::start(&directory.join("there.sock"), |_| {});
    let place = |name: &str| directory.join(name).display().to_string();
    let vms = format!(
        "vm = [{{ name = \"absent\", qmp = \"{}\" }}, {{ name = \"there\", qmp = \"{}\" }}]",
        place("absent.sock"),
        place("there.sock"),
    );
    let follower = Follower::start_config(&directory, &vms);
    runs(&follower);
    expire(&peer, &follower);
    assert_eq!(
        follower.report().guests.len(),
        1,
        "the other was never seen"
    );
}

#[test]
fn a_peer_that_is_gone_is_told_with_the_last_words_it_had() {
    let (directory, peer, follower) = stage("last", |_| {});
    runs(&follower);
    expire(&peer, &follower);
    peer.event(
        "RESET",
        &json!({ "guest": false, "reason": "host-qmp-system-reset" }),
    );
    follower.until_phase(AlarmPhase::Rebooted);
    fs::remove_file(directory.join("q.sock")).expect("removed");
    peer.event(
        "SHUTDOWN",
        &json!({ "guest": true, "reason": "guest-shutdown" }),
    );
    peer.end();
    follower.until_guest("it is gone", |guest| {
        guest.state == DomainState::Gone(Cause::Poweroff) && guest.alarm.is_none()
    });
    follower.has_events("alarm.closed", 1);
}

#[test]
fn events_wait_for_a_monitor_that_is_down() {
    let (_, peer, mut follower) = stage("waits", |_| {});
    let Some(_) = follower.told() else { return };
    follower.monitor_down();
    runs(&follower);
    expire(&peer, &follower);
    follower.until_logged("events wait for the monitor", 1);
    follower.monitor_up();
    until("it is told", || {
        follower.told().is_some_and(|told| told.len() == 1)
    });
}

#[test]
fn an_order_is_root_s_and_what_the_monitor_alone_knows_is_refused() {
    let (_, _peer, follower) = stage("orders", |_| {});
    runs(&follower);
    for request in ["status", "why"] {
        let answer = follower.ask(request);
        assert!(answer.contains("xenwarden-monitor alone knows"), "{answer}");
    }
    let stranger = follower.ask("close 00000000-0000-4000-8000-000000000009");
    assert!(stranger.contains("no guest of this UUID"), "{stranger}");
}
