// SPDX-License-Identifier: GPL-2.0-only
//! What is recorded when kicks end: at once, once for each time, and by threads that hamper
//! nobody however much they hang.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::event::Unkicked;
use xenwarden::monitor::recorder::{Recorder, end_of};
use xenwarden::sink::kmsg::Kmsg;
use xenwarden::state::reset_reason::HostState;
use xenwarden::state::store::Store;
use xenwarden::state::withhold::{Evidence, Load, WithholdRecord};

const LONG: Duration = Duration::from_secs(30);

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("recorder-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("scratch directory");
    path
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn withheld(reason: &str) -> HostState {
    HostState::Withholding {
        reason: reason.to_owned(),
        cause: Unkicked::Withheld,
    }
}

fn recorded(store: &Store) -> Option<WithholdRecord> {
    store.peek().expect("whole or not at all")
}

#[test]
fn the_first_reason_is_recorded_with_the_evidence_until_kicks_go_on() {
    let directory = scratch("first");
    let console = directory.join("hypervisor.log");
    fs::write(&console, "(XEN) one\n(XEN) \u{1b}[2Jtwo\n").expect("a log");
    let kmsg = directory.join("kmsg");
    fs::write(&kmsg, "").expect("a log");
    let store = Store::new(&directory.join("state"));
    let open = Kmsg::open(&kmsg).expect("opens");
    let recorder = Arc::new(Recorder::new(store.clone(), "boot", &console, Some(open)));
    let load = Load::parse("0.25 0.10 0.05 1/80 900");
    let gather = move || Evidence {
        load,
        ..Evidence::default()
    };
    recorder.host(&HostState::Armed, Evidence::default);
    recorder.host(&withheld("timers of pcpu 2"), gather);
    recorder.host(&withheld("scheduler of pcpu 2"), Evidence::default);
    let whole = || recorded(&store).filter(|record| record.console.is_some());
    eventually("recorded", || whole().is_some());
    let record = whole().expect("recorded");
    assert_eq!(record.reason, "timers of pcpu 2");
    assert_eq!(
        (record.boot_id.as_str(), record.cause),
        ("boot", Unkicked::Withheld)
    );
    assert_eq!(record.evidence.load.map(|load| load.minute_1), Some(0.25));
    assert!(record.uptime_ms.is_some());
    let console = record.console.expect("there");
    assert_eq!(console.lines, ["(XEN) one", "(XEN) ?[2Jtwo"]);
    let lines = || fs::read_to_string(&kmsg).expect("a log");
    let line = "<27>xenwarden: the host watchdog is not kicked: timers of pcpu 2\n";
    eventually("in the kernel log", || lines() == line);
    recorder.host(&HostState::Armed, Evidence::default);
    recorder.host(&withheld("once more"), Evidence::default);
    let reason = || recorded(&store).map(|record| record.reason);
    eventually("the next time", || reason().as_deref() == Some("once more"));
}

#[test]
fn threads_that_hang_hold_up_nobody_and_are_bounded() {
    let directory = scratch("hang");
    let pipe = directory.join("kmsg");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&pipe);
    let mut reader = reader.expect("opens");
    // A kernel log that takes nothing: a pipe that is full.
    let full = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&pipe);
    while nix::unistd::write(full.as_ref().expect("opens"), &[b'x'; 4096]).is_ok() {}
    let kmsg = Kmsg::open(&pipe).expect("opens");
    let store = Store::new(&directory.join("state"));
    let nowhere = directory.join("no-console");
    let recorder = Arc::new(Recorder::new(store.clone(), "boot", &nowhere, Some(kmsg)));
    let (gathering, go_on) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(5)));
    for _ in 0..20 {
        let (gathering, go_on) = (Arc::clone(&gathering), Arc::clone(&go_on));
        recorder.host(&withheld("again"), move || {
            gathering.fetch_add(1, Ordering::AcqRel);
            go_on.wait();
            Evidence::default()
        });
        recorder.host(&HostState::Armed, Evidence::default);
    }
    eventually("as many as may", || gathering.load(Ordering::Acquire) == 4);
    assert_eq!(recorded(&store), None);
    go_on.wait();
    eventually("recorded", || recorded(&store).is_some());
    assert_eq!(
        gathering.load(Ordering::Acquire),
        4,
        "no more than four at once"
    );
    assert_eq!(recorded(&store).and_then(|record| record.console), None);
    let mut taken = vec![0; 1 << 20];
    let _ = reader.read(&mut taken);
}

#[test]
fn threads_that_panic_are_not_taken_for_ones_that_hang() {
    let directory = scratch("panic");
    let store = Store::new(&directory.join("state"));
    let nowhere = directory.join("no-console");
    let recorder = Arc::new(Recorder::new(store.clone(), "boot", &nowhere, None));
    let held = Arc::new(());
    for _ in 0..8 {
        let holds = Arc::clone(&held);
        recorder.host(&withheld("again"), move || {
            let _holds = holds;
            panic!("the table cannot be read")
        });
        eventually("it has ended", || Arc::strong_count(&held) == 1);
        recorder.host(&HostState::Armed, Evidence::default);
    }
    eventually("recorded", || {
        recorder.host(&withheld("in the end"), Evidence::default);
        recorder.host(&HostState::Armed, Evidence::default);
        recorded(&store).is_some()
    });
}

#[test]
fn the_end_of_a_log_is_bounded_and_only_of_a_plain_file() {
    let directory = scratch("console");
    let log = directory.join("log");
    let line = format!("(d7) {}\n", "x".repeat(30));
    fs::write(&log, line.repeat(10_000)).expect("a log");
    let console = end_of(&log).expect("readable");
    assert_eq!(console.lines.len(), 60);
    assert!(console.lines.iter().all(|l| *l == line.trim_end()));
    fs::write(&log, vec![0xff; 1 << 20]).expect("a log");
    let console = end_of(&log).expect("readable");
    let bytes: usize = console.lines.iter().map(String::len).sum();
    assert!(bytes <= 60 * 1_000, "{bytes}");
    let pipe = directory.join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    assert!(end_of(&pipe).is_err() && end_of(&directory).is_err());
    let link = directory.join("link");
    std::os::unix::fs::symlink(&log, &link).expect("linked");
    assert!(end_of(&link).is_err());
}
