// SPDX-License-Identifier: GPL-2.0-only
//! What the next boot makes of a drill, and the fence bound that follows from it.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::path::Path;
use xenwarden::event::Coverage;
use xenwarden::event::{Confidence, Kind, ResetCause, Timestamp};
use xenwarden::guard::page::Info;
use xenwarden::state::drill::{
    Beats, DrillRecord, Drills, FenceBound, Measured, Tried, forget, note_failed,
};
use xenwarden::state::history::{self, Found};
use xenwarden::state::reset_reason::{HostRecord, HostState, boot_id};
use xenwarden::state::store::Store;
use xenwarden::state::traces::Places;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};

const TIME: Timestamp = Timestamp(1_795_449_066_000_000);

fn store(name: &str) -> Store {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("drill")
        .join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    Store::new(&directory)
}

fn info() -> Info {
    Info {
        pid: 1,
        started: Monotonic(0),
        device: "/dev/watchdog0".into(),
        identity: "i6300ESB timer".to_owned(),
        timeout_ns: 5 * NS_PER_S,
        latest_ns: 5 * NS_PER_S,
        period_ns: 250 * NS_PER_MS,
        coverage: Coverage::Full,
        xen_slot: false,
        weakness: String::new(),
    }
}

/// Leaves a heartbeat of this boot, and a drill of that one which beat so often each 50 ms.
fn leave(store: &Store, boot: &str, state: HostState, drilled: &str, beats: u64) {
    let last = HostRecord::new(boot, TIME, state);
    store.save(&last).expect("saved");
    let mut file = Beats::create(store).expect("created");
    for beat in 1..=beats {
        file.beat(beat * 50).expect("written");
    }
    let record = DrillRecord {
        version: 1,
        boot_id: drilled.to_owned(),
        time: TIME,
        tried: Tried::from(&info()),
    };
    store.save(&record).expect("saved");
}

fn open(store: &Store, fired: Option<bool>) -> Found {
    let places = Places {
        pstore: Vec::new(),
        crash: Vec::new(),
    };
    history::open(store, &places, fired)
}

fn cause(found: &Found) -> Option<(ResetCause, Confidence)> {
    found.told.iter().find_map(|told| match told {
        Kind::HostResetReason {
            cause, confidence, ..
        } => Some((*cause, *confidence)),
        _ => None,
    })
}

#[test]
fn a_drill_is_the_reason_and_says_how_long_the_host_lived() {
    let store = store("measured");
    leave(&store, "old", HostState::Armed, "old", 101);
    let found = open(&store, Some(true));
    assert_eq!(cause(&found), Some((ResetCause::Drill, Confidence::Known)));
    let measured = found.history.measured.clone().expect("measured");
    assert_eq!((measured.alive_ms, measured.down_ms), (5_050, 5_100));
    assert_eq!(measured.tried, Tried::from(&info()));
    let told = found
        .history
        .resets
        .resets
        .first()
        .map(|r| r.reason.clone());
    let told = told.unwrap_or_default();
    assert!(told.contains("5.05 s") && told.contains("5.10 s"), "{told}");
    // It outlives the next reset, which is told as what it is.
    store.save(&found.history).expect("saved");
    let next = HostRecord::new("next", TIME, HostState::Armed);
    store.save(&next).expect("saved");
    let found = open(&store, None);
    let unrecorded = (ResetCause::Unrecorded, Confidence::Unknown);
    assert_eq!(cause(&found), Some(unrecorded));
    assert_eq!(found.history.measured, Some(measured));
}

#[test]
fn what_another_than_the_host_watchdog_reset_was_not_measured() {
    let store = store("not-fired");
    leave(&store, "old", HostState::Armed, "old", 101);
    let found = open(&store, Some(false));
    let expected = (ResetCause::Drill, Confidence::Unknown);
    assert_eq!(cause(&found), Some(expected));
    assert_eq!(found.history.measured, None);
    let found = open(&store, None);
    assert_eq!(cause(&found), Some((ResetCause::Drill, Confidence::Likely)));
    assert!(found.history.measured.is_some(), "many cannot tell");
}

#[test]
fn a_drill_that_stopped_nothing_or_was_outlived_or_is_of_another_boot_is_no_reason() {
    let watchdog = Some((ResetCause::Watchdog, Confidence::Known));
    let store = store("none");
    // Nothing was stopped.
    leave(&store, "old", HostState::Armed, "old", 0);
    assert_eq!(cause(&open(&store, Some(true))), watchdog);
    // Of another boot than the one that ended.
    leave(&store, "old", HostState::Armed, "older", 101);
    let found = open(&store, Some(true));
    assert_eq!((cause(&found), found.history.measured), (watchdog, None));
    // Of this one, which lives.
    let present = boot_id();
    leave(&store, &present, HostState::Armed, &present, 101);
    let found = open(&store, Some(true));
    assert_eq!((cause(&found), found.history.measured), (None, None));
    // Too early an end of whoever beat.
    leave(&store, "old", HostState::Armed, "old", 5);
    let found = open(&store, Some(true));
    let drill = Some((ResetCause::Drill, Confidence::Known));
    assert_eq!((cause(&found), found.history.measured), (drill, None));
    // The host lived on.
    leave(&store, "old", HostState::Armed, "old", 101);
    forget(&store);
    let found = open(&store, Some(true));
    assert_eq!((cause(&found), found.history.measured), (watchdog, None));
}

#[test]
fn the_fence_bound_is_twice_the_timeout_until_a_drill_has_measured_it() {
    let known = |info: &Info, measured: Option<&Measured>| {
        let drills = Drills {
            measured: measured.cloned(),
            outlived: None,
        };
        FenceBound::of(info, &drills).expect("a bound")
    };
    let bound = |info: &Info, measured: Option<&Measured>| known(info, measured).ms;
    // A canary's period, the slack and two looks come before: 2 s.
    assert_eq!(bound(&info(), None), 12_000);
    let slow = Info {
        latest_ns: 14 * NS_PER_S,
        ..info()
    };
    assert_eq!(bound(&slow, None), 16_000);
    // For a crash dump it is the hardware's longer timeout that counts: Xen's slot may never fire.
    let dumping = Info {
        timeout_ns: 60 * NS_PER_S,
        latest_ns: 60 * NS_PER_S,
        ..info()
    };
    assert_eq!(bound(&dumping, None), 122_000);
    let mut measured = Measured {
        boot_id: "old".to_owned(),
        time: TIME,
        tried: Tried::from(&info()),
        alive_ms: 5_000,
        down_ms: 5_070,
    };
    let shown = known(&info(), Some(&measured));
    assert_eq!((shown.ms, shown.measured), (8_070, Some(TIME)));
    // What is known of the driver to take longer may do so the next time.
    let twice = Info {
        latest_ns: 9 * NS_PER_S,
        ..info()
    };
    assert_eq!(bound(&twice, Some(&measured)), 11_000);
    // Another device, or another timeout, is another matter.
    let others = [
        Info {
            device: "/dev/watchdog1".into(),
            ..info()
        },
        Info {
            timeout_ns: 4 * NS_PER_S,
            ..info()
        },
        Info {
            identity: "another".to_owned(),
            ..info()
        },
    ];
    for other in others {
        let bound = known(&other, Some(&measured));
        assert_eq!(bound.measured, None, "{other:?}");
        assert_eq!(bound, known(&other, None));
    }
    // A disk that hung at the end shortens nothing.
    measured.down_ms = 4_100;
    assert_eq!(bound(&info(), Some(&measured)), 8_000);
    // Less than half its timeout is no measurement: whoever beat was ended before the host was.
    measured.down_ms = 2_400;
    assert_eq!(bound(&info(), Some(&measured)), 12_000);
}

#[test]
fn a_host_that_outlived_a_drill_has_no_bound_until_it_is_booted_again() {
    let run = store("run");
    let drills = |measured| Drills::new(measured, run.directory());
    assert_eq!(drills(None), Drills::default());
    note_failed(run.directory(), &Tried::from(&info())).expect("noted");
    let known = drills(None);
    assert_eq!(FenceBound::of(&info(), &known), None);
    assert!(known.failed(&info()).is_some());
    // Another device is another matter.
    let other = Info {
        device: "/dev/watchdog1".into(),
        ..info()
    };
    assert_eq!(known.failed(&other), None);
    assert!(FenceBound::of(&other, &known).is_some());
}
