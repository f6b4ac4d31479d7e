// SPDX-License-Identifier: GPL-2.0-only
//! What a guard tells the one that follows it: what it withheld for, where its entries end, and since
//! when nobody kicks.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod guard_told;

use guard_told::{Folder, info, status};
use std::fs;
use std::os::unix::fs::FileExt;
use xenwarden::guard::evidence::Unknown;
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{EntryKind, Info, Phase, Reader, Status, Writer, withheld};
use xenwarden::sys::clock::Monotonic;

#[test]
fn what_a_guard_withheld_for_is_heeded_by_the_next_while_the_device_may_still_fire() {
    let folder = Folder::new("heeded");
    let path = folder.0.join("guard");
    let at = |s: u64| Monotonic(s * 1_000_000_000);
    assert_eq!(withheld(&path, at(9)), None, "nobody guarded");
    let writer = Writer::create(&path, None).expect("a page");
    assert_eq!(withheld(&path, at(9)), Some(false), "not armed yet");
    let withhold = Decision::Withhold(Reason::Unknown(Unknown::NoPcpu));
    let says = |phase| Status {
        phase,
        looked: at(9),
        ..status(withhold)
    };
    // By what is known of its driver it fires after 6 s, not after 3.
    writer.info(&Info {
        timeout_ns: at(3).0,
        latest_ns: at(6).0,
        ..info()
    });
    for phase in [Phase::Armed, Phase::Stopping] {
        writer.status(&says(phase));
        assert_eq!(withheld(&path, at(9)), Some(true));
        // Twice 6 s and a granularity of 1 s: killed just before it fires, the closing kicks it.
        assert_eq!(withheld(&path, Monotonic(at(23).0 - 1)), Some(true));
        assert_eq!(withheld(&path, at(23)), Some(false), "long ago");
        let read = Reader::open(&path).expect("a page");
        assert_eq!([22, 23].map(|s| read.withheld(at(s))), [true, false]);
        assert_eq!(withheld(&path, at(8)), Some(false), "of no guard");
    }
    // A start that fails after it has made its page hides nothing from the next.
    let _ = Writer::create(&path, None).expect("a page");
    assert_eq!(withheld(&path, at(9)), Some(true));
    let writer = Writer::create(&path, None).expect("a page");
    for phase in [Phase::Disarmed, Phase::StillArmed, Phase::Starting] {
        writer.status(&says(phase));
        assert_eq!(withheld(&path, at(9)), Some(false), "it ended");
    }
    for served in [
        Decision::Kick,
        Decision::Withhold(Reason::Unknown(Unknown::Stale { age_ns: 9 })),
    ] {
        writer.status(&says(Phase::Armed));
        writer.status(&Status {
            decision: served,
            ..says(Phase::Armed)
        });
        assert_eq!(withheld(&path, at(9)), Some(false), "{served:?}");
    }
}

#[test]
fn what_a_guard_withheld_for_is_heeded_whatever_its_version_and_wherever_it_was_killed() {
    let folder = Folder::new("heeded-anyhow");
    let path = folder.0.join("guard");
    let writer = Writer::create(&path, None).expect("a page");
    writer.info(&info());
    let withhold = Decision::Withhold(Reason::Unknown(Unknown::NoPcpu));
    writer.status(&status(withhold));
    let now = Monotonic(50);
    let file = fs::File::options().write(true).open(&path).expect("opens");
    // Killed while it wrote: no cell can be read.
    for n in [8, 80] {
        file.write_all_at(&1u64.to_ne_bytes(), n * 8)
            .expect("written");
    }
    assert_eq!(Reader::open(&path).expect("a page").view(), None);
    assert_eq!(withheld(&path, now), Some(true));
    // Of another version of the layout, which may be of another size.
    file.write_all_at(&9u32.to_ne_bytes(), 4).expect("written");
    file.set_len(4_096).expect("cut");
    assert!(Reader::open(&path).is_err());
    assert_eq!(withheld(&path, now), Some(true));
    let _ = Writer::create(&path, None).expect("a page");
    assert_eq!(withheld(&path, now), Some(true), "until another guards");
    // What is no page tells nothing.
    for bytes in [&b"x"[..], &[7; 64]] {
        fs::write(&path, bytes).expect("written");
        assert_eq!(withheld(&path, now), None);
    }
}

#[test]
fn a_new_guard_goes_on_with_what_the_last_one_told() {
    let folder = Folder::new("goes-on");
    let path = folder.0.join("guard");
    let mut old = Writer::create(&path, None).expect("a page");
    old.info(&info());
    for n in 0..3 {
        old.entry(Monotonic(n), Monotonic(n), EntryKind::Resume);
    }
    old.status(&status(Decision::Kick));
    let mut new = Writer::create(&path, None).expect("a page");
    let reader = Reader::open(&path).expect("a page");
    assert_eq!(reader.entries(0).entries.len(), 3, "before it arms");
    new.info(&Info {
        pid: 78,
        started: Monotonic(99),
        ..info()
    });
    new.entry(Monotonic(9), Monotonic(9), EntryKind::Armed);
    new.status(&status(Decision::Kick));
    let read = reader.entries(0);
    let numbers: Vec<u64> = read.entries.iter().map(|entry| entry.number).collect();
    assert_eq!((numbers, read.lost), (vec![0, 1, 2, 3], 0));
    assert_eq!(read.entries[3].kind, EntryKind::Armed);
    let told = reader.info().expect("there");
    assert_eq!((told.pid, told.started), (78, info().started));
}

#[test]
fn a_new_guard_does_not_go_on_with_numbers_that_no_guard_can_have_given() {
    for entries in [u64::MAX, u64::MAX - 1, 1 << 60, 1 << 23] {
        let folder = Folder::new("numbers");
        let path = folder.0.join("guard");
        let old = Writer::create(&path, None).expect("a page");
        old.info(&info());
        old.status(&status(Decision::Kick));
        let file = fs::File::options().write(true).open(&path).expect("there");
        let number = 8 * (80 + 1 + 10);
        file.write_all_at(&entries.to_le_bytes(), number)
            .expect("written");
        assert_eq!(
            Reader::open(&path)
                .expect("a page")
                .status()
                .map(|s| s.entries),
            Some(entries)
        );
        let mut new = Writer::create(&path, None).expect("a page");
        new.info(&Info {
            started: Monotonic(99),
            ..info()
        });
        for _ in 0..3 {
            new.entry(Monotonic(9), Monotonic(9), EntryKind::Armed);
        }
        new.status(&status(Decision::Kick));
        let reader = Reader::open(&path).expect("a page");
        assert_eq!(reader.status().expect("there").entries, 3);
        assert_eq!(reader.entries(0).entries.len(), 3);
        assert_eq!(reader.info().expect("there").started, Monotonic(99));
    }
}

#[test]
fn a_guard_knows_for_how_long_the_host_was_unguarded_or_its_watchdog_unkicked() {
    let folder = Folder::new("unguarded");
    let path = folder.0.join("guard");
    let (looked, kicked, armed) = (Monotonic(40), Monotonic(20), Monotonic(70));
    let first = Writer::private().expect("a page");
    assert_eq!(first.begins(armed, false), (EntryKind::Armed, armed));
    assert_eq!(first.begins(armed, true), (EntryKind::TakenOver, armed));
    for (phase, opened) in [
        (Phase::Disarmed, (EntryKind::Armed, looked)),
        (Phase::Kept, (EntryKind::Armed, looked)),
        (Phase::Armed, (EntryKind::Armed, armed)),
        (Phase::Stopping, (EntryKind::Armed, armed)),
        (Phase::StillArmed, (EntryKind::TakenOver, kicked)),
        (Phase::Shutdown, (EntryKind::TakenOver, kicked)),
    ] {
        let old = Writer::create(&path, None).expect("a page");
        old.info(&info());
        old.status(&Status {
            phase,
            ..status(Decision::Kick)
        });
        let new = Writer::create(&path, None).expect("a page");
        assert_eq!(new.begins(armed, false), opened, "{phase:?}");
        let ran_on = (EntryKind::TakenOver, kicked);
        assert_eq!(new.begins(armed, true), ran_on, "{phase:?}");
    }
}
