// SPDX-License-Identifier: GPL-2.0-only
//! State on disk: what comes back after a restart, and what becomes of files that cannot
//! be used.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod alarm_world;

use alarm_world::World;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::event::sequence::BLOCK;
use xenwarden::event::{Kind, Unkicked};
use xenwarden::guests::DomainNames;
use xenwarden::guests::alarm::Rules;
use xenwarden::guests::registry::Saved;
use xenwarden::guests::report::GuestReport;
use xenwarden::monitor::shared_registry;
use xenwarden::state::reset_reason::HostState;
use xenwarden::state::saver::{Opened, Saver, open};
use xenwarden::state::sequence;
use xenwarden::state::store::{Store, Stored};
use xenwarden::xen::table::Shutdown;

const LONG: Duration = Duration::from_secs(20);

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).expect("a directory");
    directory
}

fn open_here(directory: &Path) -> Opened {
    open(directory, Rules::default(), shared_registry::now(), None)
}

fn guests(opened: &Opened) -> Vec<GuestReport> {
    opened.registry.report(shared_registry::now().ns).guests
}

/// What was set aside: what it was called, what it is called now, and why.
fn set_aside(opened: &Opened) -> Vec<(String, Option<String>, String)> {
    let told = opened.told.iter().map(|what| match what {
        Kind::HostStateSetAside {
            path,
            kept_as,
            problem,
        } => (path.clone(), kept_as.clone(), problem.clone()),
        other => panic!("{other:?}"),
    });
    told.collect()
}

/// The state of a registry with one guest whose alarm is open.
fn with_an_alarm() -> Saved {
    let mut w = World::with_an_alarm();
    let names = DomainNames {
        by_domain: [(2, "seven".into())].into(),
        trouble: None,
    };
    w.registry.rename(&Arc::new(names));
    w.saved()
}

/// The bytes of a sound file.
fn sound() -> Vec<u8> {
    serde_json::to_vec(&with_an_alarm()).expect("JSON")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("mode");
}

/// Waits for what another thread brings about.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn start(saver: &Arc<Saver>) {
    let saver = Arc::clone(saver);
    std::thread::spawn(move || saver.run());
}

#[test]
fn what_was_saved_comes_back_and_a_missing_file_is_an_empty_one() {
    let directory = directory("round-trip");
    let opened = open_here(&directory);
    assert_eq!(opened.told, []);
    assert_eq!(guests(&opened), []);
    start(&opened.saver);
    opened.saver.guests(with_an_alarm());
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    let again = open_here(&directory);
    assert_eq!(again.told, []);
    let guests = guests(&again);
    assert_eq!(guests.len(), 1);
    assert!(guests[0].alarm.is_some());
    assert_eq!(guests[0].name.as_deref(), Some("seven"));
}

#[test]
fn every_truncation_of_a_file_is_set_aside_and_begun_anew() {
    let directory = directory("torn");
    let path = directory.join("guests.json");
    let sound = sound();
    let store = Store::new(&directory);
    for len in 0..sound.len() {
        write(&path, &sound[..len]);
        let (loaded, told) = store.load::<Saved>();
        assert_eq!(loaded, None, "{len}");
        let Some(Kind::HostStateSetAside {
            kept_as: Some(kept),
            ..
        }) = told
        else {
            panic!("{len}: {told:?}");
        };
        assert_eq!(fs::read(kept).expect("kept"), &sound[..len]);
        assert!(!path.exists());
    }
    write(&path, &sound);
    let (loaded, told) = store.load::<Saved>();
    let loaded = serde_json::to_vec(&loaded.expect("sound")).expect("JSON");
    assert_eq!((loaded, told), (sound, None));
    let kept = fs::read_dir(&directory).expect("directory").count();
    assert_eq!(kept, 1 + 5, "a few are kept");
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let directory = directory("too-large");
    let store = Store::new(&directory);
    let small = with_an_alarm();
    store.save(&small).expect("saved");
    let mut large = small;
    large.guests[0].name = Some("x".repeat(16 << 20).into());
    let refused = store.save(&large).expect_err("refused");
    assert!(refused.to_string().contains("more than"), "{refused}");
    let (kept, told) = store.load::<Saved>();
    assert_eq!(told, None);
    let name = kept.and_then(|k| k.guests[0].name.clone());
    assert_eq!(name.as_deref(), Some("seven"), "as it was");
}

#[test]
fn what_is_no_file_of_ours_is_set_aside_with_the_reason() {
    type Make = fn(&Path);
    let cases: [(&str, Make, &str); 9] = [
        ("foreign", |p| write(p, b"{\"a\":1}"), "missing field"),
        ("binary", |p| write(p, &[0xff; 4096]), "expected value"),
        ("older", |p| write(p, b"{\"version\":1}"), "version is 1"),
        (
            "link",
            |p| symlink("/etc/passwd", p).expect("link"),
            "symbolic link",
        ),
        (
            "directory",
            |p| fs::create_dir_all(p.join("inside")).expect("made"),
            "not a regular file",
        ),
        (
            "pipe",
            |p| {
                let made = Command::new("mkfifo").arg(p).status();
                assert!(made.expect("mkfifo").success());
            },
            "not a regular file",
        ),
        (
            "writable",
            |p| {
                write(p, &sound());
                fs::set_permissions(p, fs::Permissions::from_mode(0o622)).expect("mode");
            },
            "others may write",
        ),
        (
            "large",
            |p| {
                write(p, b"{");
                let file = fs::OpenOptions::new().write(true).open(p).expect("open");
                file.set_len(1 << 40).expect("a sparse file");
            },
            "more than",
        ),
        ("deep", |p| write(p, &b"[".repeat(100_000)), "line 1"),
    ];
    for (name, make, problem) in cases {
        let directory = directory(name);
        let path = directory.join("guests.json");
        make(&path);
        let opened = open_here(&directory);
        let aside = set_aside(&opened);
        assert_eq!(aside.len(), 1, "{name}: {aside:?}");
        let (was, kept, why) = &aside[0];
        assert_eq!(*was, path.display().to_string());
        assert!(why.contains(problem), "{name}: {why}");
        let kept = kept.as_deref().expect("kept aside");
        assert!(fs::symlink_metadata(kept).is_ok(), "{name}");
        // And the monitor goes on as if there had been none.
        start(&opened.saver);
        opened.saver.guests(with_an_alarm());
        assert_eq!(opened.saver.finish(LONG), Ok(()));
        let again = open_here(&directory);
        assert_eq!(again.told, [], "{name}");
        assert_eq!(guests(&again).len(), 1, "{name}");
    }
}

#[test]
fn a_disk_that_takes_nothing_is_waited_for_by_nobody_and_tried_again() {
    let directory = directory("sick");
    // Where the directory should be is a file: every write fails, as on a full disk.
    let place = directory.join("state");
    write(&place, b"");
    let opened = open_here(&place);
    assert_eq!(guests(&opened), []);
    let first = opened.sequence.next();
    assert_eq!(opened.sequence.next(), first + 1, "numbers go on");
    start(&opened.saver);
    let state = with_an_alarm();
    for _ in 0..1_000 {
        opened.saver.guests(state.clone());
    }
    fs::remove_file(&place).expect("well again");
    let saved = place.join("guests.json");
    eventually("saved after all", || saved.exists());
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    assert_eq!(guests(&open_here(&place)).len(), 1);
}

#[test]
fn sequence_numbers_never_repeat_over_a_kill() {
    let directory = directory("sequence");
    let store = Store::new(&directory);
    let mut last = 0;
    for used in [0, 1, BLOCK / 2 + 1, BLOCK - 1] {
        // Dropped without a word, as by SIGKILL.
        let (numbers, told) = sequence::open(&store);
        assert_eq!(told, None);
        for _ in 0..used {
            let next = numbers.next();
            assert!(next > last, "{next} after {last}");
            last = next;
            if numbers.runs_low() {
                sequence::reserve(&numbers, &store).expect("reserved");
            }
        }
    }
    // What was reserved is lost: far ahead of all that can have been used.
    write(&directory.join("seq.json"), b"{\"version\":1,");
    let (numbers, told) = sequence::open(&store);
    assert!(matches!(told, Some(Kind::HostStateSetAside { .. })));
    assert!(numbers.next() > last);
}

#[test]
fn the_next_boot_says_why_the_host_went_down() {
    let directory = directory("last-words");
    let opened = open_here(&directory);
    start(&opened.saver);
    opened.saver.host(HostState::Armed);
    let reason = "guest watchdog 2 of domain 5 is not serviced".to_owned();
    opened.saver.host(HostState::Withholding {
        reason: reason.clone(),
        cause: Unkicked::Withheld,
    });
    let path = directory.join("last.json");
    let said = || fs::read_to_string(&path).unwrap_or_default();
    eventually("written at once", || said().contains(&reason));
    assert_eq!(open_here(&directory).told, [], "the same boot goes on");
    let before = said().replace(opened.saver.boot_id(), "another boot");
    write(&path, before.as_bytes());
    let told = open(
        &directory,
        Rules::default(),
        shared_registry::now(),
        Some(true),
    )
    .told;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(
        &told[0],
        Kind::HostResetReason { reason: why, watchdog_fired: Some(true), .. } if *why == reason
    ));
    opened.saver.host(HostState::Disarmed);
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    let disarmed = said().replace(opened.saver.boot_id(), "another boot");
    write(&path, disarmed.as_bytes());
    assert_eq!(open_here(&directory).told, []);
}

#[test]
fn a_reset_is_explained_once_also_on_a_host_whose_guard_does_not_start() {
    let directory = directory("explained");
    let opened = open_here(&directory);
    start(&opened.saver);
    opened.saver.host(HostState::Armed);
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    let path = directory.join("last.json");
    let said = fs::read_to_string(&path).expect("written");
    let before = said.replace(opened.saver.boot_id(), "another boot");
    write(&path, before.as_bytes());
    let opened = open_here(&directory);
    assert_eq!(opened.told.len(), 1, "{:?}", opened.told);
    assert_eq!(open_here(&directory).told.len(), 1, "killed before it told");
    start(&opened.saver);
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    assert_eq!(open_here(&directory).told, [], "told, and saved");
}

/// What a monitor of this version has written. A change of the form that cannot read it
/// any more is a new version; to write it anew: `GOLDEN=write cargo test golden`.
#[test]
fn the_golden_file_is_read_and_written_as_it_is() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/guests.json");
    if std::env::var_os("GOLDEN").is_some() {
        let json = serde_json::to_vec(&golden_state()).expect("JSON");
        fs::write(&golden, json).expect("written");
    }
    let bytes = fs::read(&golden).expect("a golden file");
    let directory = directory("golden");
    let path = directory.join("guests.json");
    write(&path, &bytes);
    let store = Store::new(&directory);
    let (saved, told) = store.load::<Saved>();
    assert_eq!(told, None);
    let saved = saved.expect("there");
    store.save(&saved).expect("saved");
    assert_eq!(fs::read(&path).expect("saved"), bytes);
    // What is written today has the same fields, whatever their values have become.
    let today = serde_json::to_value(golden_state()).expect("JSON");
    let golden = serde_json::to_value(&saved).expect("JSON");
    assert_eq!(fields(&today), fields(&golden));
    // And the monitor goes on from it.
    let guests = guests(&open_here(&directory));
    let alarms: Vec<_> = guests.iter().filter_map(|g| g.alarm.as_ref()).collect();
    assert_eq!((guests.len(), alarms.len()), (4, 3));
}

/// The names of all fields and states within a value.
fn fields(value: &Value) -> BTreeSet<String> {
    let (own, values): (Vec<_>, Vec<&Value>) = match value {
        Value::Object(fields) => (fields.keys().cloned().collect(), fields.values().collect()),
        Value::Array(values) => (Vec::new(), values.iter().collect()),
        _ => return BTreeSet::new(),
    };
    let within = values.into_iter().flat_map(fields);
    own.into_iter().chain(within).collect()
}

/// Guests in the states that there are: recovering with a name and a second domain, moved,
/// rebooted, and expired without a UUID.
fn golden_state() -> Saved {
    let mut w = World::with_an_alarm();
    let name = |created, name: &str| {
        Arc::new(DomainNames {
            by_domain: [(created, name.into())].into(),
            trouble: None,
        })
    };
    w.registry.rename(&name(2, "caf\u{e9} \"1\""));
    w.xen.resume(1);
    w.rules.clear_after_feeds = 9;
    w.restart();
    w.feed(1);
    w.start(11, 1);
    for n in [2, 3] {
        w.start(n, n);
        w.feeds(n);
        w.expire(n);
    }
    w.xen.resume(2);
    w.sample();
    w.end(2, Shutdown::Suspend);
    w.destroy(3);
    w.start(13, 3);
    w.xen.create(4, uuid::Uuid::nil());
    w.feeds(4);
    w.saved()
}

#[test]
fn saves_at_once_hinder_nobody_and_what_one_that_was_cut_short_left_goes() {
    use xenwarden::state::reset_reason::HostRecord;
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("saves-at-once");
    let _ = fs::remove_dir_all(&directory);
    let store = Store::new(&directory);
    thread::scope(|scope| {
        for n in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for _ in 0..50 {
                    let time = xenwarden::event::Timestamp(n);
                    let record = HostRecord::new("boot", time, HostState::Armed);
                    store.save(&record).expect("saved");
                    let whole = store.peek::<HostRecord>();
                    assert!(whole.expect("whole or not at all").is_some());
                }
            });
        }
    });
    fs::write(directory.join("last.json.new-7"), "{").expect("written");
    assert!(store.load::<HostRecord>().0.is_some());
    let names: Vec<_> = fs::read_dir(&directory).expect("there").flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// So many bytes of it are too large to be read again, which is 16 MiB.
#[derive(Serialize, Deserialize)]
struct Large {
    version: u32,
    text: String,
}

impl Stored for Large {
    const FILE: &'static str = "large.json";
    const VERSION: u32 = 1;
}

#[test]
fn what_is_too_large_to_be_read_again_is_refused_and_leaves_the_file_as_it_was() {
    let directory = directory("large");
    let store = Store::new(&directory);
    let of = |bytes| Large {
        version: 1,
        text: "x".repeat(bytes),
    };
    store.save(&of(15 << 20)).expect("saved");
    let before = fs::read(directory.join(Large::FILE)).expect("a file");
    let error = store.save(&of(16 << 20)).expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{error}");
    let after = fs::read(directory.join(Large::FILE)).expect("a file");
    assert_eq!(before, after);
    assert_eq!(fs::read_dir(&directory).expect("a list").count(), 1);
    let (read, aside) = store.load::<Large>();
    assert!(read.is_some_and(|large| large.text.len() == 15 << 20) && aside.is_none());
}
