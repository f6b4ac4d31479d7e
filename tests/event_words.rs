// SPDX-License-Identifier: GPL-2.0-only
//! Each kind of event in words: one bounded line, whatever a guest is called.
#![allow(clippy::expect_used)] // how tests fail

mod sink_common;

use sink_common::{expired, guest};
use xenwarden::event::describe::{describe, plain};
use xenwarden::event::kind::{KINDS, is_known};
use xenwarden::event::{Action, Refused};
use xenwarden::event::{Cause, Closing, Confidence, Coverage, Event, Gap, Kind, ResetCause};
use xenwarden::event::{Severity, Timestamp, VERSION};

/// One of each kind.
fn samples() -> Vec<(Kind, &'static str)> {
    let (slot, timeout_s) = (1, 10);
    let cause = Cause::Reboot;
    let text = |s: &str| s.to_owned();
    [
        (
            Kind::GuestArmed {
                slot,
                timeout_s,
                left_out: 0,
            },
            "timeout 10 s",
        ),
        (
            Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms: Some(12_340),
            },
            "for the first time, 12.3 s after",
        ),
        (
            Kind::GuestFedAgain {
                slot,
                timeout_s,
                after: Gap::Paused,
                gap_ms: Some(900),
                left_out: 0,
            },
            "feeds its watchdog again: it was paused, after 0.9 s",
        ),
        (
            Kind::GuestLate {
                slot,
                timeout_s,
                margin_ms: 1_999,
                count: 4,
            },
            "1.9 s of 10 s were left; 4 such feeds",
        ),
        (expired(), "its watchdog expired, unfed for 10.4 s"),
        (
            Kind::GuestDisarmed { slot, left_out: 0 },
            "disarmed watchdog 1",
        ),
        (Kind::GuestGone { cause }, "is gone: rebooted"),
        (
            Kind::GuestRebooted {
                previous_domid: 8,
                cause,
            },
            "it was domain 8",
        ),
        (
            Kind::GuestBootFailed { waited_ms: 300_000 },
            "within 300.0 s",
        ),
        (Kind::AlarmRaised { expiries: 3 }, "again, 3 times"),
        (
            Kind::AlarmCleared {
                open_ms: 5_000,
                expiries: 1,
                reboots: 2,
                feeds: 1,
            },
            "alarm cleared: it feeds its watchdog again; open for 5.0 s, 2 reboots",
        ),
        (Kind::AlarmAcknowledged { uid: 1_000 }, "by user 1000"),
        (
            Kind::AlarmClosed {
                cause: Closing::Operator,
                open_ms: 1,
            },
            "by an operator",
        ),
        (
            Kind::AlarmMoved {
                cause: Cause::Suspend,
                open_ms: 1_000,
            },
            "not on this host any more: suspended",
        ),
        (
            Kind::HostWithhold {
                reason: text("pcpu 3"),
                last_kick_age_ms: 1,
                left_ms: 4_250,
            },
            "kicks are withheld, 4.2 s left: pcpu 3",
        ),
        (
            Kind::HostResumed {
                unkicked_ms: 3_000,
                left_ms: 2_000,
            },
            "2.0 s were left",
        ),
        (
            Kind::HostArmed {
                device: text("/dev/watchdog0"),
                identity: text("iTCO"),
                timeout_ms: 5_000,
                coverage: Coverage::Full,
                unguarded_ms: Some(1_200),
                ran_on_ms: None,
            },
            "armed /dev/watchdog0 (iTCO), timeout 5.0 s; it was unguarded for 1.2 s",
        ),
        (
            Kind::HostArmed {
                device: text("/dev/watchdog0"),
                identity: text("iTCO"),
                timeout_ms: 5_000,
                coverage: Coverage::Full,
                unguarded_ms: None,
                ran_on_ms: Some(1_200),
            },
            "timeout 5.0 s; it ran on, unkicked for 1.2 s",
        ),
        (Kind::HostDisarmed {}, "is disarmed"),
        (
            Kind::HostKept { timeout_ms: 60_000 },
            "takes the host watchdog over within 60.0 s, or it is disarmed",
        ),
        (
            Kind::HostShutdown {
                resets_within_ms: 600_000,
            },
            "host: shuts down; its watchdog resets it in 600.0 s if that hangs",
        ),
        (
            Kind::HostInhibited {
                for_ms: 600_000,
                by: text("ann"),
                reason: text("microcode"),
            },
            "inhibited for 600.0 s by ann, kicks go on whatever the evidence says: microcode",
        ),
        (
            Kind::HostIgnored {
                reason: text("timers of pcpu 1"),
            },
            "only as the guard is inhibited: timers of pcpu 1",
        ),
        (
            Kind::HostInhibitEnded { ended_by: None },
            "no longer inhibited: its time is over",
        ),
        (
            Kind::HostInhibitEnded {
                ended_by: Some(text("ann")),
            },
            "no longer inhibited: ann ended it",
        ),
        (
            Kind::HostKickRefused {
                error: text("No such device"),
                count: 240,
            },
            "refuses kicks, 240 so far: No such device",
        ),
        (Kind::HostKickTaken { refused: 3 }, "it refused 3"),
        (
            Kind::HostDisarmFailed {
                error: text("EIO"),
                within_ms: None,
            },
            "cannot be disarmed and will fire: EIO",
        ),
        (
            Kind::HostDisarmFailed {
                error: text("EBUSY"),
                within_ms: Some(60_000),
            },
            "will fire within 60.0 s, unless a guard starts: EBUSY",
        ),
        (
            Kind::HostGuardSilent { silent_ms: 1_100 },
            "the guard has told nothing for 1.1 s",
        ),
        (
            Kind::HostGuardBack { silent_ms: 2_000 },
            "is back, after 2.0 s",
        ),
        (
            Kind::HostExcused {
                what: text("scheduler of pcpu 1"),
            },
            "scheduler of pcpu 1 is late, which is excused",
        ),
        (
            Kind::HostStarving {
                cpu: 2,
                domid: 7,
                vcpu: 1,
                waited_ms: 2_004,
            },
            "pcpu 2 idles while vcpu 1 of domain 7, which could run, waits, for 2.0 s now",
        ),
        (
            Kind::HostStarvingEnded {
                cpu: 2,
                starved_ms: 9_500,
            },
            "pcpu 2 no longer idles while a vcpu of its own waits; it did so for 9.5 s",
        ),
        (
            Kind::HostResetReason {
                cause: ResetCause::Withheld,
                confidence: Confidence::Known,
                reason: text("wedge"),
                last_seen: Timestamp(0),
                last_kick: None,
                booted: None,
                uptime_ms: None,
                watchdog_fired: Some(true),
                record: None,
            },
            "last seen 1970-01-01T00:00:00.000000Z: wedge; the host watchdog fired",
        ),
        (
            Kind::HostStateSetAside {
                path: text("/x"),
                kept_as: None,
                problem: text("torn"),
            },
            "state /x is unusable",
        ),
        (
            Kind::LeaseHeld {
                lease: text("quorum"),
                timeout_ms: 10_000,
                lapsed: true,
            },
            "lease quorum: held again, after it had lapsed, timeout 10.0 s",
        ),
        (
            Kind::LeaseLapsed {
                lease: text("quorum"),
                overdue_ms: 100,
                never: false,
            },
            "lease quorum: not renewed in time, overdue for 0.1 s: the host goes down",
        ),
        (
            Kind::LeaseReleased {
                lease: text("quorum"),
            },
            "lease quorum: released by its client",
        ),
        (
            Kind::LeaseRefused {
                lease: text("quorum"),
                uid: 65_534,
                count: 7,
            },
            "lease quorum: refused 7 datagrams",
        ),
    ]
    .into_iter()
    .chain(of_heartbeats())
    .chain([(
        Kind::SinkDropped {
            sink: text("hooks"),
            count: 2,
            total: 5,
        },
        "sink hooks lost 2",
    )])
    .collect()
}

fn of_heartbeats() -> [(Kind, &'static str); 7] {
    let (heartbeat, peer) = ("heart1".to_owned(), "192.0.2.7:9009".to_owned());
    [
        (
            Kind::PulseArmed {
                heartbeat: heartbeat.clone(),
                peer: peer.clone(),
                timeout_ms: 5_000,
            },
            "heartbeat heart1: armed by 192.0.2.7:9009, timeout 5.0 s",
        ),
        (
            Kind::PulseLost {
                heartbeat: heartbeat.clone(),
                peer: peer.clone(),
                silent_ms: 5_010,
                losses: 1,
            },
            "heartbeat heart1: 192.0.2.7:9009 is LOST, silent for 5.0 s",
        ),
        (
            Kind::PulseBack {
                heartbeat: heartbeat.clone(),
                peer: peer.clone(),
                lost_ms: 61_250,
            },
            "is back, lost for 61.2 s",
        ),
        (
            Kind::PulseRefused {
                heartbeat: heartbeat.clone(),
                peer,
                reason: Refused::Seal,
                count: 7,
            },
            "refused 7 pulses of 192.0.2.7:9009: they are sealed with another key",
        ),
        (
            Kind::PulseOwnGap {
                program: "colo".to_owned(),
                missed_ms: 8_000,
            },
            "heartbeats of colo: nobody listened for 8.0 s here",
        ),
        (
            Kind::PulseActed {
                heartbeat: heartbeat.clone(),
                action: Action::Script,
            },
            "heartbeat heart1: sending the script is done",
        ),
        (
            Kind::PulseActFailed {
                heartbeat,
                action: Action::Qmp,
                problem: "nobody is there".to_owned(),
            },
            "giving the commands of QMP FAILED: nobody is there",
        ),
    ]
}

fn event(what: Kind, name: &str) -> Event {
    Event {
        version: VERSION,
        seq: 1,
        time: Timestamp(0),
        monotonic_ns: 0,
        host: "h".into(),
        severity: Severity::Info,
        guest: Some(guest(Some(1), 3, name)),
        what,
    }
}

#[test]
fn every_kind_is_described_in_words_and_known_by_name() {
    let samples = samples();
    let mut kinds: Vec<&str> = samples.iter().map(|(what, _)| what.kind()).collect();
    kinds.dedup();
    assert_eq!(kinds, KINDS);
    for (what, part) in samples {
        let kind = what.kind();
        let line = describe(&event(what, "web"));
        let begins = "guest web (00000000-0000-0000-0000-000000000001, domain 3): ";
        assert!(
            line.starts_with(begins) && line.contains(part),
            "{kind}: {line}"
        );
    }
    for (wanted, known) in [
        ("guest.", true),
        ("guest", false),
        ("", false),
        (".", false),
    ] {
        assert_eq!(is_known(wanted), known, "{wanted}");
    }
}

#[test]
fn whatever_a_name_holds_a_description_is_one_bounded_line() {
    let long = "ü".repeat(100_000);
    for name in ["a\nb\r\0\u{7}\u{9b}31m", "\u{202e}evil", "\u{2028}", &long] {
        for reason in ["x\ny", &long] {
            let what = Kind::HostWithhold {
                reason: reason.to_owned(),
                last_kick_age_ms: 0,
                left_ms: 0,
            };
            let line = describe(&event(what, name));
            assert!(line.len() <= 900 && line == plain(&line), "{line:?}");
            assert!(!line.chars().any(char::is_control));
        }
    }
}
