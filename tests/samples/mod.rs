// SPDX-License-Identifier: GPL-2.0-only
//! Events of every kind, for tests.
#![allow(dead_code, clippy::panic)] // each test program uses its part

use xenwarden::event::kind::KINDS;
use xenwarden::event::{
    Action, Cause, Closing, Confidence, Coverage, Event, Gap, Guest, Kind, Refused, ResetCause,
    Timestamp, Uuid,
};

const TIME: Timestamp = Timestamp(1_795_449_066_250_000);

const CAUSES: [Cause; 7] = [
    Cause::Destroyed,
    Cause::Poweroff,
    Cause::Reboot,
    Cause::Suspend,
    Cause::Crash,
    Cause::Watchdog,
    Cause::Unknown,
];
const CLOSINGS: [Closing; 7] = [
    Closing::Destroyed,
    Closing::Poweroff,
    Closing::Operator,
    Closing::Moved,
    Closing::FedElsewhere,
    Closing::Unidentified,
    Closing::Evicted,
];
const RESETS: [ResetCause; 11] = [
    ResetCause::Withheld,
    ResetCause::KickRefused,
    ResetCause::DisarmFailed,
    ResetCause::GuardSilent,
    ResetCause::ShutdownHung,
    ResetCause::Dom0Panic,
    ResetCause::Crash,
    ResetCause::Drill,
    ResetCause::Watchdog,
    ResetCause::Unwatched,
    ResetCause::Unrecorded,
];
const CONFIDENCES: [Confidence; 3] = [Confidence::Known, Confidence::Likely, Confidence::Unknown];
const REFUSED: [Refused; 5] = [
    Refused::Unsealed,
    Refused::Seal,
    Refused::Role,
    Refused::Replayed,
    Refused::Unheard,
];
const ACTIONS: [Action; 3] = [Action::Script, Action::Qmp, Action::Hook];
const BREAKS: [Gap; 4] = [Gap::Paused, Gap::Suspended, Gap::Expired, Gap::Disarmed];

/// Samples of a kind: the first has every field filled in, the others what may be null as
/// null, and every value of what has a few.
pub fn samples(kind: &str) -> Vec<Kind> {
    let (slot, timeout_s) = (1, 10);
    match kind {
        "guest.armed" => [0, 7]
            .map(|left_out| Kind::GuestArmed {
                slot,
                timeout_s,
                left_out,
            })
            .into(),
        "guest.first_fed" => [Some(1), None]
            .map(|since_seen_ms| Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms,
            })
            .into(),
        "guest.fed_again" => BREAKS
            .iter()
            .zip([Some(u64::MAX), None, Some(0), Some(1)])
            .map(|(after, gap_ms)| Kind::GuestFedAgain {
                slot,
                timeout_s,
                after: *after,
                gap_ms,
                left_out: 0,
            })
            .collect(),
        "guest.late" => vec![Kind::GuestLate {
            slot,
            timeout_s,
            margin_ms: 1_900,
            count: 1,
        }],
        "guest.expired" => vec![Kind::GuestExpired {
            slot: 2,
            timeout_s: u32::MAX,
            unfed_ms: 10_000,
            expiries: 1,
        }],
        "guest.disarmed" => vec![Kind::GuestDisarmed { slot, left_out: 0 }],
        "guest.gone" => CAUSES.map(|cause| Kind::GuestGone { cause }).into(),
        "guest.rebooted" => CAUSES
            .map(|cause| Kind::GuestRebooted {
                previous_domid: 6,
                cause,
            })
            .into(),
        "guest.boot_failed" => vec![Kind::GuestBootFailed { waited_ms: 300_000 }],
        "alarm.raised" => vec![Kind::AlarmRaised { expiries: 1 }],
        "alarm.cleared" => vec![Kind::AlarmCleared {
            open_ms: 60_000,
            expiries: 1,
            reboots: 0,
            feeds: 1,
        }],
        "alarm.acknowledged" => vec![Kind::AlarmAcknowledged { uid: 0 }],
        "alarm.closed" => CLOSINGS
            .map(|cause| Kind::AlarmClosed { cause, open_ms: 0 })
            .into(),
        "alarm.moved" => CAUSES
            .map(|cause| Kind::AlarmMoved { cause, open_ms: 0 })
            .into(),
        other => samples_of_host(other),
    }
}

fn samples_of_host(kind: &str) -> Vec<Kind> {
    match kind {
        "host.withhold" => vec![Kind::HostWithhold {
            reason: "timers of pcpu 1 not serviced for 508 ms".to_owned(),
            last_kick_age_ms: 260,
            left_ms: 4_740,
        }],
        "host.resumed" => vec![Kind::HostResumed {
            unkicked_ms: 1_000,
            left_ms: 4_000,
        }],
        "host.armed" => [
            (Coverage::Full, None, None),
            (Coverage::Partial, Some(900), None),
            (Coverage::Full, None, Some(1_400)),
        ]
        .map(|(coverage, unguarded_ms, ran_on_ms)| Kind::HostArmed {
            device: "/dev/watchdog0".to_owned(),
            identity: "i6300ESB timer".to_owned(),
            timeout_ms: 5_000,
            coverage,
            unguarded_ms,
            ran_on_ms,
        })
        .into(),
        "host.disarmed" => vec![Kind::HostDisarmed {}],
        "host.kept" => vec![Kind::HostKept { timeout_ms: 60_000 }],
        "host.shutdown" => vec![Kind::HostShutdown {
            resets_within_ms: 600_000,
        }],
        "host.inhibited" => vec![Kind::HostInhibited {
            for_ms: 600_000,
            by: "root".to_owned(),
            reason: "microcode".to_owned(),
        }],
        "host.ignored" => vec![Kind::HostIgnored {
            reason: "timers of pcpu 1 not serviced for 508 ms".to_owned(),
        }],
        "host.inhibit_ended" => [None, Some("root".to_owned())]
            .map(|ended_by| Kind::HostInhibitEnded { ended_by })
            .into(),
        "host.kick_refused" => vec![Kind::HostKickRefused {
            error: "No such device".to_owned(),
            count: 240,
        }],
        "host.kick_taken" => vec![Kind::HostKickTaken { refused: 2 }],
        "host.disarm_failed" => [None, Some(60_000)]
            .map(|within_ms| Kind::HostDisarmFailed {
                error: "Input/output error".to_owned(),
                within_ms,
            })
            .into(),
        "host.guard_silent" => vec![Kind::HostGuardSilent { silent_ms: 1_100 }],
        "host.guard_back" => vec![Kind::HostGuardBack { silent_ms: 2_500 }],
        "host.excused" => vec![Kind::HostExcused {
            what: "scheduler of pcpu 1".to_owned(),
        }],
        "host.starving" => vec![Kind::HostStarving {
            cpu: 2,
            domid: 7,
            vcpu: 1,
            waited_ms: 2_004,
        }],
        "host.starving_ended" => vec![Kind::HostStarvingEnded {
            cpu: 2,
            starved_ms: 61_250,
        }],
        "host.reset_reason" => RESETS
            .iter()
            .zip(CONFIDENCES.iter().cycle())
            .zip([Some(true), None, Some(false)].into_iter().cycle())
            .map(
                |((cause, confidence), watchdog_fired)| Kind::HostResetReason {
                    cause: *cause,
                    confidence: *confidence,
                    reason: "timers of pcpu 1 not serviced".to_owned(),
                    last_seen: TIME,
                    last_kick: watchdog_fired.map(|_| TIME),
                    booted: watchdog_fired.map(|_| TIME),
                    uptime_ms: watchdog_fired.map(|_| 70_000),
                    watchdog_fired,
                    record: watchdog_fired.map(|_| "/sys/fs/pstore/dmesg-erst-1".to_owned()),
                },
            )
            .collect(),
        "host.state_set_aside" => [Some("b".to_owned()), None]
            .map(|kept_as| Kind::HostStateSetAside {
                path: "a".to_owned(),
                kept_as,
                problem: "cut short".to_owned(),
            })
            .into(),
        "lease.held" => [false, true]
            .map(|lapsed| Kind::LeaseHeld {
                lease: "quorum".to_owned(),
                timeout_ms: 10_000,
                lapsed,
            })
            .into(),
        "lease.lapsed" => [false, true]
            .map(|never| Kind::LeaseLapsed {
                lease: "quorum".to_owned(),
                overdue_ms: 3,
                never,
            })
            .into(),
        "lease.released" => vec![Kind::LeaseReleased {
            lease: "quorum".to_owned(),
        }],
        "lease.refused" => vec![Kind::LeaseRefused {
            lease: "quorum".to_owned(),
            uid: 65_534,
            count: 7,
        }],
        "sink.dropped" => vec![Kind::SinkDropped {
            sink: "syslog".to_owned(),
            count: 1,
            total: 7,
        }],
        other => samples_of_heartbeats(other),
    }
}

fn samples_of_heartbeats(kind: &str) -> Vec<Kind> {
    let (heartbeat, peer) = ("heart1".to_owned(), "192.0.2.7:9009".to_owned());
    match kind {
        "pulse.armed" => vec![Kind::PulseArmed {
            heartbeat,
            peer,
            timeout_ms: 5_000,
        }],
        "pulse.lost" => vec![Kind::PulseLost {
            heartbeat,
            peer,
            silent_ms: 5_003,
            losses: 1,
        }],
        "pulse.back" => vec![Kind::PulseBack {
            heartbeat,
            peer,
            lost_ms: 61_250,
        }],
        "pulse.refused" => REFUSED
            .map(|reason| Kind::PulseRefused {
                heartbeat: heartbeat.clone(),
                peer: peer.clone(),
                reason,
                count: 7,
            })
            .into(),
        "pulse.own_gap" => vec![Kind::PulseOwnGap {
            program: "colo".to_owned(),
            missed_ms: 8_000,
        }],
        "pulse.acted" => ACTIONS
            .map(|action| Kind::PulseActed {
                heartbeat: heartbeat.clone(),
                action,
            })
            .into(),
        "pulse.act_failed" => ACTIONS
            .map(|action| Kind::PulseActFailed {
                heartbeat: heartbeat.clone(),
                action,
                problem: "no connection within 10 s".to_owned(),
            })
            .into(),
        other => panic!("no sample of {other}"),
    }
}

/// Every kind there is, in order.
pub fn kinds() -> Vec<&'static str> {
    KINDS.to_vec()
}

fn event(what: Kind, guest: Option<Guest>) -> Event {
    Event {
        version: 1,
        seq: 41,
        time: TIME,
        monotonic_ns: 123,
        host: "host1".into(),
        severity: what.severity(),
        guest,
        what,
    }
}

/// Events of every kind, with everything that is known and with everything that may be null.
pub fn events() -> Vec<Event> {
    let known = Guest {
        uuid: Some(Uuid::from_u128(0x0f9b_bd6e_5f0a_4a39_8a8e_0123_4567_89ab)),
        domid: 7,
        name: Some("web \"\u{e9}\n".into()),
    };
    let unknown = Guest {
        uuid: None,
        domid: 0,
        name: None,
    };
    let mut events = Vec::new();
    for what in kinds().into_iter().flat_map(samples) {
        let of_guest = what.kind().starts_with("guest.") || what.kind().starts_with("alarm.");
        let guest = |guest: &Guest| of_guest.then(|| guest.clone());
        events.push(event(what.clone(), guest(&known)));
        events.push(event(what, guest(&unknown)));
    }
    events
}
