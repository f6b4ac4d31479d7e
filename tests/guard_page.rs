// SPDX-License-Identifier: GPL-2.0-only
//! The guard page: what is written is read, what is torn or strange is nothing, and a ring
//! that turned says how much was missed.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod guard_told;

use caps::{CapSet, Capability};
use guard_told::{Folder, info, status};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use xenwarden::guard::evidence::{Unknown, Work};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::hold::hold;
use xenwarden::guard::page::{ENTRIES, EntryKind, Info, Phase, Reader, Status, Writer, withheld};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

fn reasons() -> Vec<Reason> {
    let works = [
        Work::GuestWatchdog {
            domid: 0x7fef,
            slot: 2,
        },
        Work::PcpuTimers(4094),
        Work::PcpuScheduler(0),
        Work::Vcpu(1023),
        Work::Probe(4095),
        Work::PcpuStarving {
            cpu: 4094,
            domid: 0x7fef,
            vcpu: 0xfffe,
        },
        Work::PcpuStarving {
            cpu: 0,
            domid: 0,
            vcpu: 0,
        },
    ];
    let lagging = works.map(|work| Reason::Lagging {
        work,
        overdue_ns: u64::MAX,
    });
    let unknown = [
        Unknown::Unproven { cpu: 3 },
        Unknown::NoPcpu,
        Unknown::NoCanaries,
        Unknown::UnprovenVcpu { vcpu: 7 },
        Unknown::NoVcpu,
        Unknown::Stale { age_ns: 12 },
    ];
    let unknown = unknown.into_iter().map(Reason::Unknown);
    lagging.into_iter().chain(unknown).collect()
}

#[test]
fn a_page_that_its_group_cannot_be_given_is_there_for_root() {
    let folder = Folder::new("group-refused");
    let path = folder.0.join("page");
    let create = {
        let path = path.clone();
        move || {
            // As a unit that forgets the capability; the other threads keep it.
            caps::drop(None, CapSet::Effective, Capability::CAP_CHOWN).expect("dropped");
            Writer::create(&path, Some(4_242)).map(drop)
        }
    };
    let created = std::thread::spawn(create).join().expect("no panic");
    created.expect("a page");
    assert!(Reader::open(&path).is_ok());
    assert_ne!(fs::metadata(&path).expect("there").gid(), 4_242);
}

#[test]
fn what_is_written_is_read_over_a_file() {
    let folder = Folder::new("page");
    let path = folder.0.join("guard");
    let mut writer = Writer::create(&path, None).expect("a page");
    let reader = Reader::open(&path).expect("a page");
    assert_eq!(reader.view(), None, "nothing is told yet");
    writer.info(&info());
    for reason in reasons() {
        let said = status(Decision::Withhold(reason));
        writer.entry(Monotonic(9), Monotonic(8), EntryKind::Withhold(reason));
        writer.status(&said);
        let view = reader.view().expect("a view");
        assert_eq!(view.info, info());
        let entries = reader.entries(view.status.entries - 1);
        assert_eq!(
            view.status,
            Status {
                entries: entries.next,
                ..said
            }
        );
        assert_eq!(entries.entries[0].kind, EntryKind::Withhold(reason));
    }
}

#[test]
fn a_look_that_came_to_a_kick_changes_nothing_else_that_is_told() {
    let writer = Writer::private().expect("a page");
    let reader = writer.reader();
    let told = status(Decision::Kick);
    writer.info(&info());
    writer.status(&told);
    let (looked, served) = (Monotonic(told.looked.0 + 7), Monotonic(told.served.0 + 9));
    writer.serves(looked, served);
    let expected = Status {
        looked,
        served,
        entries: 0,
        ..told
    };
    assert_eq!(reader.status(), Some(expected));
}

#[test]
fn what_a_reader_knows_of_a_guard_is_made_out_again_once_another_told() {
    let writer = Writer::private().expect("a page");
    let reader = writer.reader();
    assert!(reader.know(None).is_none());
    writer.info(&info());
    writer.status(&status(Decision::Kick));
    let known = reader.know(None);
    assert_eq!(
        known.as_ref().map(|known| &known.view),
        reader.view().as_ref()
    );
    // Looks on, and knows what is new of the status alone.
    let withheld = status(Decision::Withhold(Reason::Unknown(Unknown::NoPcpu)));
    writer.status(&withheld);
    let known = reader.know(known);
    assert_eq!(
        known.as_ref().map(|known| &known.view),
        reader.view().as_ref()
    );
    let other = Info {
        pid: info().pid + 1,
        weakness: "another".to_owned(),
        ..info()
    };
    writer.info(&other);
    let known = reader.know(known).expect("told");
    assert_eq!(known.view.info, other);
}

#[test]
fn each_kind_of_entry_is_read_as_it_was_written() {
    let kinds = [
        EntryKind::Armed,
        EntryKind::Resume,
        EntryKind::Excused(Work::PcpuScheduler(3)),
        EntryKind::Excused(Work::PcpuStarving {
            cpu: 3,
            domid: 7,
            vcpu: 1,
        }),
        EntryKind::Refused {
            errno: 19,
            count: 7,
        },
        EntryKind::Taken { refused: 8 },
        EntryKind::Disarmed,
        EntryKind::DisarmFailed {
            errno: 5,
            within_s: 60,
        },
        EntryKind::TakenOver,
        EntryKind::Inhibited {
            until: Monotonic(8),
        },
        EntryKind::InhibitEnded { early: true },
        EntryKind::InhibitEnded { early: false },
        EntryKind::Kept { after_s: 60 },
        EntryKind::Shutdown { within_s: 600 },
    ];
    let mut writer = Writer::private().expect("a page");
    for kind in kinds {
        writer.entry(Monotonic(2), Monotonic(1), kind);
    }
    writer.status(&status(Decision::Kick));
    let read = writer.reader().entries(0);
    let read: Vec<_> = read.entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(read, kinds);
}

#[test]
fn a_reader_that_was_too_slow_learns_how_much_it_missed() {
    let mut writer = Writer::private().expect("a page");
    let reader = writer.reader();
    for n in 0..ENTRIES + 10 {
        writer.entry(Monotonic(n), Monotonic(n), EntryKind::Resume);
    }
    writer.status(&status(Decision::Kick));
    let read = reader.entries(0);
    assert_eq!((read.lost, read.next), (10, ENTRIES + 10));
    assert_eq!(read.entries[0].number, 10);
    let none = reader.entries(read.next);
    assert_eq!((none.lost, none.entries.len()), (0, 0));
}

#[test]
fn a_new_guard_takes_the_old_ones_place_and_the_old_page_stays_readable() {
    let folder = Folder::new("again");
    let path = folder.0.join("guard");
    let old = Writer::create(&path, None).expect("a page");
    old.info(&info());
    let before = Reader::open(&path).expect("a page");
    let new = Writer::create(&path, None).expect("a page");
    new.info(&Info { pid: 78, ..info() });
    assert_eq!(before.info().expect("there").pid, 77);
    assert_eq!(
        Reader::open(&path)
            .expect("a page")
            .info()
            .expect("there")
            .pid,
        78
    );
}

#[test]
fn without_room_for_a_new_page_the_old_one_serves_on() {
    let folder = Folder::new("room");
    let path = folder.0.join("guard");
    let mut old = Writer::create(&path, None).expect("a page");
    old.info(&info());
    old.entry(Monotonic(9), Monotonic(8), EntryKind::Disarmed);
    old.status(&status(Decision::Kick));
    // Nothing can be made in the place where a new page begins.
    std::fs::create_dir(path.with_extension("new")).expect("a folder");
    let reader = Reader::open(&path).expect("a page");
    let mut again = Writer::create(&path, None).expect("the old page");
    again.info(&Info { pid: 78, ..info() });
    again.entry(Monotonic(19), Monotonic(18), EntryKind::Armed);
    assert_eq!(reader.info().expect("there").pid, 78);
    again.status(&status(Decision::Kick));
    let entries = reader.entries(0).entries;
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Disarmed, EntryKind::Armed]);
}

#[test]
fn what_is_no_guard_page_is_refused_at_once() {
    let folder = Folder::new("strange");
    let path = folder.0.join("guard");
    assert!(Reader::open(&path).is_err(), "nothing there");
    for content in [vec![], vec![0; 8192], vec![0xff; 8192], vec![1; 100]] {
        fs::write(&path, content).expect("written");
        assert!(Reader::open(&path).is_err());
    }
    fs::remove_file(&path).expect("removed");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
    assert!(Reader::open(&path).is_err(), "a fifo that nobody writes to");
}

/// Whatever the bytes after the magic number are, reading ends and does not panic.
#[test]
fn any_bytes_are_read_without_harm() {
    let folder = Folder::new("bytes");
    let path = folder.0.join("guard");
    let _writer = Writer::create(&path, None).expect("a page");
    let good = fs::read(&path).expect("read");
    let mut state = 1u64;
    for _ in 0..200 {
        let noise = good.iter().skip(8).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let byte = state.to_le_bytes()[7];
            if byte < 160 { byte % 8 } else { byte }
        });
        let bytes: Vec<u8> = good.iter().take(8).copied().chain(noise).collect();
        fs::write(&path, bytes).expect("written");
        let reader = Reader::open(&path).expect("the magic number is right");
        let _ = (reader.view(), reader.entries(0), reader.entries(u64::MAX));
    }
}

#[test]
fn a_second_guard_does_not_take_the_place_of_one_that_guards() {
    let folder = Folder::new("second");
    let path = folder.0.join("run/guard");
    let held = hold(&path).expect("nobody guards").expect("a lock");
    let refused = hold(&path).expect_err("it guards");
    let own = format!("another xenwardend (pid {}) ", std::process::id());
    assert!(refused.message.starts_with(&own), "{}", refused.message);
    drop(held);
    let next = hold(&path).expect("nobody guards any more");
    assert!(next.is_some());
}

#[test]
fn what_lies_in_the_place_of_page_or_lock_holds_nobody_up() {
    let folder = Folder::new("fifo");
    let path = folder.0.join("guard");
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&path, mode).expect("made");
    assert_eq!(withheld(&path, Monotonic(1)), None, "no page");
    assert!(Reader::open(&path).is_err());
    nix::unistd::mkfifo(&path.with_extension("lock"), mode).expect("made");
    assert!(hold(&path).expect("no failure").is_none());
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let folder = Folder::new("link");
    let path = folder.0.join("guard");
    let elsewhere = folder.0.join("elsewhere");
    fs::write(&elsewhere, b"mine").expect("written");
    std::os::unix::fs::symlink(&elsewhere, path.with_extension("lock")).expect("made");
    assert!(hold(&path).expect("no failure").is_none());
    assert_eq!(fs::read(&elsewhere).expect("read"), b"mine");
}

#[test]
fn texts_are_cut_to_what_the_page_has_room_for() {
    let page = Writer::private().expect("a page");
    let long = "0123456789".repeat(30);
    page.info(&Info {
        identity: long.clone(),
        weakness: long.clone(),
        device: PathBuf::from(&long),
        ..info()
    });
    let read = page.reader().info().expect("told");
    assert_eq!(read.identity, long[..31]);
    assert_eq!(read.weakness, long[..255]);
    assert_eq!(read.device, PathBuf::from(&long[..127]));
    assert!(read.xen_slot, "what comes after them is whole");
}

#[test]
fn each_phase_is_read_as_it_was_told() {
    let page = Writer::private().expect("a page");
    for phase in [
        Phase::Starting,
        Phase::Armed,
        Phase::Stopping,
        Phase::Disarmed,
        Phase::StillArmed,
        Phase::Kept,
        Phase::Shutdown,
    ] {
        page.status(&Status {
            phase,
            ..status(Decision::Kick)
        });
        let read = page.reader().status().expect("told");
        assert_eq!(read.phase, phase);
    }
}

#[test]
fn without_room_for_a_lock_there_is_a_guard_all_the_same() {
    let held = hold(PathBuf::from("/proc/version/guard").as_path());
    assert!(held.expect("no failure").is_none());
}

#[test]
fn without_a_lock_a_second_guard_still_leaves_the_page_to_one_that_lives() {
    let folder = Folder::new("unlocked");
    let path = folder.0.join("guard");
    fs::create_dir(path.with_extension("lock")).expect("made");
    let is_refused = |pid, phase, looked_ago_s| {
        let writer = Writer::create(&path, None).expect("a page");
        writer.info(&Info { pid, ..info() });
        let now = Monotonic::now().0;
        writer.status(&Status {
            phase,
            looked: Monotonic(now.saturating_sub(looked_ago_s * NS_PER_S)),
            ..status(Decision::Kick)
        });
        match hold(&path) {
            Ok(held) => {
                assert!(held.is_none(), "no lock can be had");
                false
            }
            Err(failure) => {
                let own = format!("another xenwardend (pid {pid}) ");
                assert!(failure.message.starts_with(&own), "{}", failure.message);
                true
            }
        }
    };
    let alive = std::process::id();
    assert!(is_refused(alive, Phase::Armed, 0));
    assert!(is_refused(alive, Phase::Stopping, 0));
    assert!(!is_refused(alive, Phase::Disarmed, 0), "it has ended");
    assert!(!is_refused(alive, Phase::Armed, 60), "it is long silent");
    let nobody = u32::MAX >> 2;
    assert!(!is_refused(nobody, Phase::Armed, 0), "it was killed");
}

#[test]
fn a_page_has_its_memory_from_the_beginning_and_is_for_one_group() {
    let folder = Folder::new("memory");
    let path = folder.0.join("guard");
    let group = match nix::unistd::geteuid().is_root() {
        true => 4_242,
        false => nix::unistd::getegid().as_raw(),
    };
    let _writer = Writer::create(&path, Some(group)).expect("a page");
    let file = fs::metadata(&path).expect("there");
    assert_eq!((file.len(), file.gid()), (8_192, group));
    // A hole would be filled at the first write to it, or end the guard where there is no room.
    assert!(file.blocks() * 512 >= file.len(), "{}", file.blocks());
    assert_eq!(file.mode() & 0o777, 0o640);
    assert!(Writer::create(&folder.0.join("guard/page"), None).is_err());
    let other = folder.0.join("other");
    fs::create_dir(other.with_extension("new")).expect("in the way");
    assert!(Writer::create(&other, None).is_err());
}

#[test]
fn an_entry_that_is_another_than_the_one_asked_for_is_lost() {
    let folder = Folder::new("another");
    let path = folder.0.join("guard");
    let mut writer = Writer::create(&path, None).expect("a page");
    for n in 0..3 {
        writer.entry(Monotonic(n), Monotonic(n), EntryKind::Resume);
    }
    writer.status(&status(Decision::Kick));
    // The place of the second holds the one that comes a whole ring later.
    let file = fs::File::options().write(true).open(&path).expect("there");
    let number = 8 * (128 + 8 + 1);
    let later = (ENTRIES + 1).to_le_bytes();
    file.write_all_at(&later, number).expect("written");
    let read = Reader::open(&path).expect("a page").entries(0);
    let numbers: Vec<u64> = read.entries.iter().map(|entry| entry.number).collect();
    assert_eq!((numbers, read.lost, read.next), (vec![0, 2], 1, 3));
}

#[test]
fn where_nothing_is_told_yet_a_reader_asks_for_the_same_again() {
    let nothing = Writer::private().expect("a page").reader().entries(5);
    assert_eq!(
        (nothing.next, nothing.lost, nothing.entries.len()),
        (5, 0, 0)
    );
}
