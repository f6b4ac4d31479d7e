// SPDX-License-Identifier: GPL-2.0-only
//! The metrics file, read by a strict parser of the Prometheus text format 0.0.4.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod sink_common;

use sink_common::{Scratch, bus, close, drops, eventually, raised, spawn};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use xenwarden::control::leases::{Lease, LeaseState};
use xenwarden::control::status::{Inhibited, MonitorStatus, Pcpu, Starved, Status, Took};
use xenwarden::event::{Coverage, Timestamp, Uuid};
use xenwarden::guests::report::{
    AlarmPhase, AlarmReport, DomainState, GuestReport, GuestsReport, SlotReport,
};
use xenwarden::pulse;
use xenwarden::pulse::status::{BeatStatus, PulseStatus};
use xenwarden::sink::metrics::{self, Counters, MAX_GUESTS, NAME, render, render_down};
use xenwarden::sys::clock::Monotonic;

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

/// Every sample of a file; panics at anything that the format does not allow, and at what
/// the textfile collector refuses: a family in two places, a series twice.
fn parse(text: &str) -> BTreeMap<Series, f64> {
    assert!(text.ends_with('\n'), "the last line ends with a line feed");
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut is_histogram = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a text");
            assert!(is_name(name) && !help.contains('\\'), "{line}");
            let kind = lines.next().and_then(|l| l.strip_prefix("# TYPE "));
            let (typed, kind) = kind.and_then(|k| k.split_once(' ')).expect("a TYPE");
            assert!(
                typed == name && ["counter", "gauge", "histogram"].contains(&kind),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned()), "{name} in two places");
            family = name.to_owned();
            is_histogram = kind == "histogram";
            continue;
        }
        let (name, labels, value) = sample(line);
        let of_family = match name.strip_prefix(&family) {
            Some(part) if is_histogram => ["_bucket", "_sum", "_count"].contains(&part),
            part => part == Some(""),
        };
        assert!(of_family, "a sample outside its family: {line}");
        let value: f64 = value.parse().expect(line);
        assert!(
            samples.insert((name, labels), value).is_none(),
            "twice: {line}"
        );
    }
    samples
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(legal)
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, &str) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => break rest = after.strip_prefix('}').expect(line),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "a timestamp: {line}");
    (name.to_owned(), labels, value)
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('\\' | '"'))) => c,
                other => panic!("no escape: {other:?}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}");
}

fn status() -> Status {
    let mut status = Status::of_page(None, None, Monotonic::now());
    status.coverage = Coverage::Full;
    status.host_watchdog.kicks = u64::MAX;
    status.kick_path.withholds = 3;
    status.kick_path.max_kick_gap_ms = 1_234;
    status.inhibited = Some(Inhibited {
        left_ms: 61_500,
        ..Inhibited::default()
    });
    status.kick_path.late = Took {
        counts: vec![5, 4, 3, 0, 0, 0, 0, 1],
        sum_us: 2_000_017,
    };
    let pcpu = |cpu, online, starved| Pcpu {
        cpu,
        online,
        canary_age_ms: 1,
        canary_overdue_ms: 0,
        sched_overdue_ms: 0,
        canary_runs: 1,
        idle: cpu == 1,
        starved,
    };
    let starved = Starved {
        waited_ms: 3_004,
        domid: 7,
        vcpu: 0,
    };
    status.monitor = Some(MonitorStatus {
        pcpus: vec![
            pcpu(0, true, None),
            pcpu(1, true, Some(starved.clone())),
            pcpu(2, false, Some(starved)),
        ],
        ..MonitorStatus::default()
    });
    status
}

fn guest(uuid: Option<u128>, domid: u16, name: Option<&str>) -> GuestReport {
    let slot = |slot, last_fed_age_ms, margin_ms| SlotReport {
        slot,
        timeout_s: 10,
        last_fed_age_ms,
        margin_ms,
        expired: false,
    };
    GuestReport {
        uuid: uuid.map(Uuid::from_u128),
        name: name.map(str::to_owned),
        domid,
        state: DomainState::Running,
        slots: vec![slot(1, 2_500, 7_500), slot(2, 900, 9_100)],
        alarm: None,
        boot_failed: false,
        feeds_unseen: None,
    }
}

fn alarm() -> Option<AlarmReport> {
    Some(AlarmReport {
        phase: AlarmPhase::Raised,
        raised: Timestamp(0),
        expiries: 1,
        reboots: 0,
        acknowledged: false,
    })
}

fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    (format!("xenwarden_{name}"), labels.collect())
}

#[test]
fn the_file_has_every_series_in_a_form_that_a_strict_parser_takes() {
    let odd = "we\"b\\\n{x=\"1\"} 2\n# TYPE ü\r";
    let mut failed = guest(Some(0xabc), 3, Some(odd));
    failed.alarm = alarm();
    let mut silent = guest(None, 5, None);
    silent.slots.clear();
    let guests = GuestsReport {
        guests: vec![failed, silent, guest(None, 6, None)],
        ..GuestsReport::default()
    };
    let counters = Counters {
        events: vec![("alarm.raised", 7)],
        dropped: vec![("hooks", 2), ("syslog", 0)],
    };
    let samples = parse(&render(&status(), &guests, &counters));
    let web = [
        ("uuid", "00000000-0000-0000-0000-000000000abc"),
        ("name", odd),
    ];
    let fifth = [("uuid", ""), ("name", ""), ("domid", "5")];
    let expected = [
        (series("up", &[]), 1.0),
        (series("kicks_total", &[]), 18_446_744_073_709_551_615.0),
        (series("withholds_total", &[]), 3.0),
        (series("kick_gap_max_seconds", &[]), 1.234),
        (
            series("look_late_seconds_bucket", &[("le", "0.000100")]),
            5.0,
        ),
        (
            series("look_late_seconds_bucket", &[("le", "0.250000")]),
            12.0,
        ),
        (series("look_late_seconds_bucket", &[("le", "+Inf")]), 13.0),
        (series("look_late_seconds_sum", &[]), 2.000_017),
        (series("look_late_seconds_count", &[]), 13.0),
        (series("withholding", &[]), 1.0),
        (series("inhibited_seconds", &[]), 61.5),
        (series("coverage_full", &[]), 1.0),
        (series("pcpu_idle", &[("cpu", "0")]), 0.0),
        (series("pcpu_idle", &[("cpu", "1")]), 1.0),
        (series("pcpu_waiting_seconds", &[("cpu", "0")]), 0.0),
        (series("pcpu_waiting_seconds", &[("cpu", "1")]), 3.004),
        (series("alarms_open", &[]), 1.0),
        (series("guests_left_out", &[]), 0.0),
        (series("guest_alarm", &web), 1.0),
        (series("guest_last_fed_age_seconds", &web), 0.9),
        (series("guest_margin_seconds", &web), 7.5),
        (series("guest_alarm", &fifth), 0.0),
        (series("events_total", &[("kind", "alarm.raised")]), 7.0),
        (series("sink_dropped_total", &[("sink", "hooks")]), 2.0),
        (series("sink_dropped_total", &[("sink", "syslog")]), 0.0),
    ];
    for (series, value) in expected {
        assert_eq!(samples.get(&series), Some(&value), "{series:?}");
    }
    let unknown = [
        series("guest_margin_seconds", &fifth),
        series("evidence_age_seconds", &[]),
        series("pcpu_idle", &[("cpu", "2")]),
        series("pcpu_waiting_seconds", &[("cpu", "2")]),
    ];
    for series in unknown {
        assert_eq!(samples.get(&series), None, "{series:?} is not known");
    }
    assert_eq!(parse(&render_down()), [(series("up", &[]), 0.0)].into());
}

#[test]
fn guests_beyond_the_limit_and_twins_are_left_out_and_counted() {
    let many = u128::try_from(MAX_GUESTS).expect("a number") + 50;
    let mut guests: Vec<GuestReport> = (0..many).map(|n| guest(Some(n), 1, Some("g"))).collect();
    guests.push(guest(Some(0), 2, Some("g")));
    let guests = GuestsReport {
        guests,
        ..GuestsReport::default()
    };
    let samples = parse(&render(&status(), &guests, &Counters::default()));
    assert_eq!(samples[&series("guests_left_out", &[])], 51.0);
    let alarms = samples
        .keys()
        .filter(|(name, _)| name == "xenwarden_guest_alarm");
    assert_eq!(alarms.count(), MAX_GUESTS);
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let legal = |c: char| c.is_ascii_lowercase() || c == '_';
    let beginnings = text.match_indices("xenwarden_").map(|(at, _)| &text[at..]);
    let names = beginnings.map(|rest| rest.split(|c| !legal(c)).next().unwrap_or(rest));
    names.collect()
}

/// A program with a heartbeat of which everything is known.
fn pulses() -> PulseStatus {
    PulseStatus {
        program: "colo".to_owned(),
        uptime_ms: 1,
        worst_late_us: 1,
        own_gaps: 0,
        events_lost: 0,
        heartbeats: vec![BeatStatus {
            heartbeat: "pair".to_owned(),
            peer: "a peer".to_owned(),
            protocol: "awd+psk".to_owned(),
            state: "armed".to_owned(),
            last_pulse_ms: Some(1),
            timeout_ms: 5_000,
            round_trip_us: Some(1),
            jitter_us: Some(1),
            pulses: 1,
            refused: 0,
            losses: 0,
            connections: Some(1),
            lease: None,
            trouble: None,
        }],
    }
}

#[test]
fn what_alerts_and_the_dashboard_go_by_is_written_and_each_alert_is_explained() {
    let mut failed = guest(Some(0xabc), 3, Some("web"));
    failed.alarm = alarm();
    let guests = GuestsReport {
        guests: vec![failed],
        ..GuestsReport::default()
    };
    let counters = Counters {
        events: vec![("alarm.raised", 7)],
        dropped: vec![("hooks", 2)],
    };
    let mut status = status();
    status.leases = vec![Lease {
        lease: "quorum".to_owned(),
        state: LeaseState::Held,
        required: true,
        strict: false,
        uid: 0,
        timeout_ms: 5_000,
        left_ms: Some(4_200),
        renewals: 7,
    }];
    let written = render(&status, &guests, &counters);
    assert!(written.contains("xenwarden_lease_timeout_seconds{lease=\"quorum\"} 5"));
    let written = written + &pulse::metrics::render(&pulses());
    let written = named(&written);
    let alerts = include_str!("../monitoring/alerts.yml");
    let dashboard = include_str!("../monitoring/dashboard.json");
    for text in [alerts, dashboard] {
        let named = named(text);
        assert!(named.len() >= 8, "{named:?}");
        let missing: Vec<_> = named.difference(&written).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
    let explained = include_str!("../doc/operating.md");
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let names: Vec<&str> = names.collect();
    let tried = include_str!("../monitoring/alerts.test.yml");
    assert!(names.len() >= 11);
    for name in names {
        assert!(explained.contains(name), "{name}");
        assert!(tried.matches(name).count() >= 2, "{name}");
    }
    serde_json::from_str::<serde_json::Value>(dashboard).expect("JSON");
}

#[test]
fn the_file_is_replaced_whole_at_alarms_and_says_at_the_end_that_it_is_down() {
    let scratch = Scratch::new("metrics");
    let path = scratch.path("xenwarden.prom");
    // Whoever owns the directory may have laid a trap at the temporary name.
    std::fs::write(scratch.path("precious"), "precious").expect("write");
    symlink(scratch.path("precious"), scratch.path("xenwarden.prom.new")).expect("link");
    let bus = bus();
    let queue = bus.attach(NAME, 64);
    let (counted, file) = (Arc::clone(&bus), path.clone());
    let thread = spawn(move || {
        let gather = || (status(), GuestsReport::default());
        metrics::run(&file, &queue, &counted, gather);
    });
    let whole = || {
        let text = std::fs::read_to_string(&path).ok()?;
        Some(parse(&text))
    };
    eventually("a file", || whole().is_some());
    assert_eq!(scratch.read("precious"), "precious");
    let mode = std::fs::metadata(&path).expect("file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "node_exporter may read it");
    bus.publish(None, raised());
    let events = series("events_total", &[("kind", "alarm.raised")]);
    eventually_soon("the alarm", || {
        whole().is_some_and(|s| s.contains_key(&events))
    });
    close(&bus);
    thread.join().expect("no panic");
    assert_eq!(whole(), Some([(series("up", &[]), 0.0)].into()));
    assert!(!scratch.path("xenwarden.prom.new").exists());
}

/// Sooner than the next regular writing.
fn eventually_soon(what: &str, holds: impl FnMut() -> bool) {
    sink_common::eventually_within(std::time::Duration::from_secs(12), what, holds);
}

#[test]
fn a_file_that_cannot_be_written_is_counted_and_the_old_one_stays_whole() {
    let scratch = Scratch::new("metrics-fails");
    let path = scratch.path("xenwarden.prom");
    std::fs::write(&path, "old").expect("write");
    // What cannot be removed is in the way.
    std::fs::create_dir(scratch.path("xenwarden.prom.new")).expect("directory");
    for path in [path.clone(), scratch.path("missing/xenwarden.prom")] {
        let bus = bus();
        let queue = bus.attach(NAME, 64);
        let counted = Arc::clone(&bus);
        let thread = spawn(move || {
            let gather = || (status(), GuestsReport::default());
            metrics::run(&path, &queue, &counted, gather);
        });
        eventually("a failure", || drops(&bus, NAME) > 0);
        close(&bus);
        thread.join().expect("no panic");
    }
    assert_eq!(scratch.read("xenwarden.prom"), "old");
}
