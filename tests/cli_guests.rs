// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden guests` and `xenwarden ack` from outside: what they print, and their exit
//! codes, over the monitor's own control socket with guests that are made up.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

mod fake_monitor;

use fake_monitor::program::{Running, Terminal, error_line, finish, text, xenwarden};
use fake_monitor::{FakeMonitor, alarmed, guest, report};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::guests::report::{AlarmPhase, DomainState, GuestReport, GuestsReport, SlotReport};

fn socket(monitor: &FakeMonitor) -> &str {
    monitor.path.to_str().expect("a plain path")
}

fn old(report: GuestsReport) -> GuestsReport {
    GuestsReport {
        evidence_age_ms: Some(60_000),
        ..report
    }
}

#[test]
fn the_exit_code_says_fine_alarms_open_or_cannot_tell() {
    let monitor = FakeMonitor::start("cli-codes", 0);
    let unseen = GuestReport {
        state: DomainState::Unknown,
        slots: Vec::new(),
        ..guest(3, 9, "unseen")
    };
    let unbooted = GuestReport {
        boot_failed: true,
        ..guest(4, 10, "unbooted")
    };
    let mut moved = alarmed(5, 11, "moved");
    if let Some(alarm) = &mut moved.alarm {
        alarm.phase = AlarmPhase::Moved;
    }
    let fed = GuestReport {
        state: DomainState::Unknown,
        ..guest(6, 12, "fed")
    };
    let aged = |ms| GuestsReport {
        evidence_age_ms: Some(ms),
        ..report(vec![guest(1, 7, "a")])
    };
    let no_table = |report| GuestsReport {
        evidence_age_ms: None,
        no_table: Some("the hypervisor keeps no liveness table".to_owned()),
        ..report
    };
    let never = GuestsReport {
        evidence_age_ms: None,
        ..report(vec![])
    };
    let later = GuestsReport {
        version: 2,
        ..report(vec![])
    };
    let cases = [
        ("none", report(vec![]), 0),
        ("all feed", report(vec![guest(1, 7, "a")]), 0),
        (
            "alarm",
            report(vec![guest(1, 7, "a"), alarmed(2, 8, "b")]),
            1,
        ),
        (
            "alarm, old evidence",
            old(report(vec![alarmed(2, 8, "b")])),
            1,
        ),
        ("a boot that failed", report(vec![unbooted.clone()]), 1),
        (
            "a boot that failed, old evidence",
            old(report(vec![unbooted])),
            1,
        ),
        (
            "an alarm of a guest that moved",
            report(vec![moved.clone()]),
            0,
        ),
        (
            "a guest that moved and had not booted",
            report(vec![GuestReport {
                boot_failed: true,
                ..moved
            }]),
            0,
        ),
        ("evidence that is just not old", aged(4_000), 0),
        ("evidence that is just old", aged(4_001), 2),
        ("its feeds show how it does", report(vec![fed]), 0),
        ("no table", no_table(report(vec![])), 3),
        (
            "no table, an alarm from before",
            no_table(report(vec![alarmed(2, 8, "b")])),
            1,
        ),
        ("old evidence", old(report(vec![guest(1, 7, "a")])), 2),
        ("no evidence", never, 2),
        ("not seen", report(vec![guest(1, 7, "a"), unseen]), 2),
        ("another version", later, 2),
    ];
    for (name, report, code) in cases {
        monitor.set_guests(report);
        for json in [
            &["guests", "--socket", socket(&monitor)][..],
            &["guests", "--json", "--socket", socket(&monitor)],
        ] {
            let output = finish(json);
            assert_eq!(output.status.code(), Some(code), "{name}: {output:?}");
        }
    }
}

#[test]
fn the_table_has_alarms_first_and_no_colours_where_there_is_no_terminal() {
    let monitor = FakeMonitor::start("cli-table", 0);
    monitor.set_guests(report(vec![
        guest(1, 7, "alpha"),
        alarmed(2, 12, "zulu\u{1b}[2J"),
    ]));
    let output = finish(&["guests", "--socket", socket(&monitor)]);
    let shown = text(&output.stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "1 ALARM OPEN, 2 guests, evidence 0.1 s old");
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "DOMID", "STATE", "LAST", "FED", "MARGIN", "ALARM"]
    );
    assert!(lines[3].starts_with("zulu?[2J  12     running"), "{shown}");
    assert!(lines[3].contains("RAISED, since 20"), "{shown}");
    let second = "alpha     7      running  0.2 s ago  9.8 s of 10 s  -";
    assert_eq!(lines[4], second, "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    assert!(output.stderr.is_empty());
}

/// The first words of the lines of a table that shows these guests, and the lines.
fn table(name: &str, guests: Vec<GuestReport>) -> (Vec<String>, Vec<String>) {
    let monitor = FakeMonitor::start(name, 0);
    monitor.set_guests(report(guests));
    let shown = text(&finish(&["guests", "--socket", socket(&monitor)]).stdout);
    let lines: Vec<String> = shown.lines().map(str::to_owned).collect();
    let first = |line: &String| line.split_whitespace().next().map(str::to_owned);
    (lines.iter().skip(3).filter_map(first).collect(), lines)
}

#[test]
fn alarms_come_first_the_oldest_unacknowledged_at_the_top_then_failed_boots() {
    let raised = |n: u16, name: &str, raised_s: i64, acknowledged| {
        let mut guest = alarmed(n.into(), n, name);
        let alarm = guest.alarm.as_mut().expect("open");
        (alarm.raised, alarm.acknowledged) = (Timestamp(raised_s * 1_000_000), acknowledged);
        (alarm.expiries, alarm.reboots) = (2, 1);
        guest
    };
    let mut moved = raised(4, "away", 50, false);
    moved.alarm.as_mut().expect("open").phase = AlarmPhase::Moved;
    let mut failed = raised(5, "beta", 400, false);
    failed.boot_failed = true;
    let unbooted = GuestReport {
        boot_failed: true,
        ..guest(6, 6, "zulu")
    };
    let unnamed = GuestReport {
        name: None,
        ..guest(7, 7, "")
    };
    let guests = vec![
        guest(8, 8, "alpha"),
        unnamed,
        moved,
        unbooted,
        raised(1, "acked", 100, true),
        raised(2, "young", 300, false),
        raised(3, "old", 200, false),
        failed,
    ];
    let (names, lines) = table("cli-order", guests);
    let uuid = Uuid::from_u128(7).to_string();
    let expected = [
        "beta", "old", "young", "acked", "away", "zulu", &uuid, "alpha",
    ];
    assert_eq!(names, expected);
    let head = "4 ALARMS OPEN, 1 BOOT FAILED, 8 guests, evidence 0.1 s old";
    assert_eq!(lines[0], head);
    assert!(lines[4].contains("RAISED, since 1970-01-01 00:03Z ("));
    assert!(lines[4].ends_with("), 2 expiries, 1 reboot"));
    assert!(lines[7].contains(" moved, since"));
    assert!(lines[8].ends_with(" boot failed"));
}

#[test]
fn of_two_slots_the_one_with_less_margin_or_that_expired_is_shown() {
    for (expired, shown) in [
        (false, "1.5 s of 10 s (slot 2)"),
        (true, "EXPIRED (slot 1)"),
    ] {
        let mut two = guest(1, 7, "two");
        let close = SlotReport {
            slot: 2,
            margin_ms: 1_500,
            ..two.slots[0].clone()
        };
        two.slots.push(close);
        two.slots[0].expired = expired;
        let (_, lines) = table("cli-slots", vec![two]);
        assert!(lines[3].contains(shown), "{lines:?}");
    }
}

#[test]
fn json_is_the_monitors_answer_as_it_came() {
    let monitor = FakeMonitor::start("cli-json", 0);
    monitor.set_guests(report(vec![guest(1, 7, "a"), alarmed(2, 8, "b\n\u{e9}")]));
    let output = finish(&["guests", "--json", "--socket", socket(&monitor)]);
    assert_eq!(text(&output.stdout), monitor.ask(b"guests\n"));
}

/// Whether `guests` on a terminal with this environment uses escape codes.
fn is_coloured(monitor: &FakeMonitor, environment: &[(&str, &str)]) -> bool {
    let mut command = xenwarden(&["guests", "--socket", socket(monitor)]);
    command.envs(environment.iter().copied());
    let mut terminal = Terminal::start(command);
    let shown = terminal.rest();
    assert!(shown.contains("ALARM OPEN"), "{shown:?}");
    shown.contains('\u{1b}')
}

#[test]
fn colours_are_for_terminals_that_nobody_forbade_them() {
    let monitor = FakeMonitor::start("cli-colours", 0);
    monitor.set_guests(report(vec![alarmed(2, 8, "b")]));
    let cases: [(&[(&str, &str)], bool); 6] = [
        (&[("TERM", "xterm")], true),
        (&[("TERM", "xterm"), ("NO_COLOR", "")], true),
        (&[("TERM", "xterm"), ("NO_COLOR", "1")], false),
        (&[("TERM", "xterm"), ("NO_COLOR", "0")], false),
        (&[("TERM", "dumb")], false),
        (&[("TERM", "")], false),
    ];
    for (environment, coloured) in cases {
        assert_eq!(
            is_coloured(&monitor, environment),
            coloured,
            "{environment:?}"
        );
    }
}

#[test]
fn watch_prints_table_after_table_and_ends_with_the_code_of_the_last() {
    let monitor = FakeMonitor::start("cli-watch", 0);
    let command = xenwarden(&["guests", "--watch", "--socket", socket(&monitor)]);
    let mut running = Running::start(command);
    let first = running.line();
    assert_eq!(
        first,
        "no alarm, no guest has armed its watchdog, evidence 0.1 s old\n"
    );
    monitor.set_guests(report(vec![alarmed(2, 8, "b")]));
    // One more of the first kind may be under way.
    let second = loop {
        assert_eq!(running.line(), "\n", "an empty line between two");
        let line = running.line();
        if line != first {
            break line;
        }
    };
    assert_eq!(second, "1 ALARM OPEN, 1 guest, evidence 0.1 s old\n");
    running.signal(Signal::SIGINT);
    assert_eq!(running.wait().code(), Some(1));
}

#[test]
fn watch_ends_when_nobody_reads_it() {
    let monitor = FakeMonitor::start("cli-watch-pipe", 0);
    let command = xenwarden(&["guests", "--watch", "--socket", socket(&monitor)]);
    let mut running = Running::start(command);
    running.line();
    running.stdout = None;
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn watch_outlives_the_monitor_and_says_so() {
    let monitor = FakeMonitor::start("cli-watch-gone", 0);
    let path = monitor.path.clone();
    let command = xenwarden(&["guests", "--watch", "--socket", socket(&monitor)]);
    let mut running = Running::start(command);
    let first = running.line();
    drop(monitor);
    assert!(
        running
            .error_line()
            .contains("is xenwarden-monitor running")
    );
    let _again = FakeMonitor::start_at(path, 0, fake_monitor::own_group());
    while running.line() != first {}
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn watch_on_a_terminal_redraws_and_leaves_the_cursor_visible() {
    let monitor = FakeMonitor::start("cli-watch-terminal", 0);
    monitor.set_guests(report(vec![alarmed(2, 8, "b")]));
    let command = xenwarden(&["guests", "--watch", "--socket", socket(&monitor)]);
    let mut terminal = Terminal::start(command);
    for _ in 0..2 {
        let frame = terminal.read_until("\u{1b}[?25h");
        assert!(
            frame.starts_with("\u{1b}[?25l\u{1b}[?7l\u{1b}[H"),
            "{frame:?}"
        );
        assert!(frame.contains("1 ALARM OPEN"), "{frame:?}");
    }
    terminal.signal(Signal::SIGINT);
    let rest = terminal.rest();
    assert!(rest.is_empty() || rest.ends_with("\u{1b}[?25h"), "{rest:?}");
    assert_eq!(terminal.code(), Some(1));
}

#[test]
fn watch_on_a_dumb_terminal_clears_nothing() {
    let monitor = FakeMonitor::start("cli-watch-dumb", 0);
    let mut command = xenwarden(&["guests", "--watch", "--socket", socket(&monitor)]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command);
    let shown = terminal.read_until("old\r\n\r\n");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    terminal.signal(Signal::SIGINT);
    assert_eq!(terminal.code(), Some(0));
}

/// Root's answers; others are all refused.
fn expected(code: i32, says: &'static str) -> (i32, &'static str) {
    if geteuid().is_root() {
        (code, says)
    } else {
        (1, "only root")
    }
}

#[test]
fn ack_takes_a_uuid_or_a_name_that_one_guest_has() {
    let monitor = FakeMonitor::start("cli-ack", 0);
    let nameless = GuestReport {
        uuid: None,
        ..alarmed(0, 11, "young")
    };
    monitor.set_guests(report(vec![
        guest(1, 7, "web"),
        alarmed(2, 8, "db"),
        alarmed(3, 9, "twin"),
        guest(4, 10, "twin"),
        nameless,
        // Whose owner would like to be taken for "db".
        alarmed(5, 12, "8"),
        alarmed(6, 13, "00000000-0000-0000-0000-000000000002"),
    ]));
    let uuid = Uuid::from_u128(2).to_string();
    let capitals = uuid.to_uppercase();
    let cases: [(&[&str], (i32, &str)); 13] = [
        (&[&uuid], expected(0, "acknowledged")),
        (&[&capitals], expected(0, "acknowledged")),
        (
            &["db"],
            expected(0, "the alarm of db (00000000-0000-0000-0000-000000000002)"),
        ),
        (&["db", "--close"], expected(0, "is closed")),
        (&["web"], expected(1, "no open alarm")),
        (
            &["00000000-0000-0000-0000-00000000000f"],
            expected(1, "no guest of this UUID"),
        ),
        (&["twin"], (1, "000000000003 (domain 9, alarm open), 0")),
        (&["young"], (1, "is not known")),
        (
            &["8"],
            expected(0, "the alarm of 8 (00000000-0000-0000-0000-000000000002)"),
        ),
        (&["70000"], (1, "no guest has this domain number")),
        (&["77"], (1, "no guest is domain 77")),
        (&["eve"], (1, "no guest is named \"eve\"")),
        (&["d"], (1, "no guest is named")),
    ];
    for (operands, (code, says)) in cases {
        let arguments = [&["ack", "--socket", socket(&monitor)][..], operands].concat();
        let output = finish(&arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{operands:?}: {said}");
        assert!(
            said.contains(says) && said.lines().count() == 1,
            "{operands:?}: {said}"
        );
    }
    let orders = monitor.registry.orders.lock().expect("whole");
    let words: Vec<&str> = orders.iter().map(|(word, _, _)| *word).collect();
    if geteuid().is_root() {
        assert_eq!(words, ["ack", "ack", "ack", "close", "ack", "ack", "ack"]);
    } else {
        assert!(words.is_empty());
    }
}

#[test]
fn without_a_monitor_nothing_can_be_told() {
    for arguments in [
        &["guests"][..],
        &["guests", "--watch"],
        &["ack", "web"],
        &["events"],
    ] {
        let nowhere = concat!(env!("CARGO_TARGET_TMPDIR"), "/nowhere.sock");
        let arguments = [arguments, &["--socket", nowhere]].concat();
        let (code, line) = error_line(&finish(&arguments));
        assert_eq!(code, 2, "{arguments:?}");
        assert!(line.contains(nowhere), "{line}");
    }
}
