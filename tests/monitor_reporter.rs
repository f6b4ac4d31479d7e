// SPDX-License-Identifier: GPL-2.0-only
//! What the watchers of the monitor tell of a guard: each thing once, whoever tells it and
//! however often the monitor or the guard is started anew.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use xenwarden::event::{Coverage, Kind};
use xenwarden::guard::evidence::{Unknown, Work};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::page::{Counters, ENTRIES, EntryKind, Info, Phase, Status, Writer};
use xenwarden::monitor::reported::Reported;
use xenwarden::monitor::reporter::{Reporter, Watcher};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};

const MS: u64 = NS_PER_MS;
/// When the first guard starts.
const START: u64 = 1_000_000 * MS;

const LAGGING: Reason = Reason::Lagging {
    work: Work::PcpuTimers(1),
    overdue_ns: 508 * MS,
};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reporter-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }

    fn page(&self) -> PathBuf {
        self.0.join("guard")
    }
}

/// A guard that only tells.
struct Guard(Writer);

impl Guard {
    fn start(scratch: &Scratch, started_ms: u64) -> Self {
        let writer = Writer::create(&scratch.page(), None).expect("a page");
        writer.info(&Info {
            pid: 1,
            started: Monotonic(START + started_ms * MS),
            device: "/dev/watchdog0".into(),
            identity: "test".to_owned(),
            timeout_ns: 5_000 * MS,
            latest_ns: 5_000 * MS,
            period_ns: 250 * MS,
            coverage: Coverage::Full,
            xen_slot: false,
            weakness: String::new(),
        });
        let mut guard = Self(writer);
        guard.does(started_ms, EntryKind::Armed);
        guard
    }

    fn does(&mut self, at_ms: u64, kind: EntryKind) {
        let at = Monotonic(START + at_ms * MS);
        let last_kick = Monotonic(at.0 - 250 * MS);
        self.0.entry(at, last_kick, kind);
        self.looks(at_ms, Phase::Armed);
    }

    fn looks(&self, at_ms: u64, phase: Phase) {
        let at = Monotonic(START + at_ms * MS);
        self.0.status(&Status {
            phase,
            looked: at,
            decision: Decision::Kick,
            since: at,
            last_kick: at,
            served: Monotonic(0),
            answered: Monotonic(0),
            excused: None,
            inhibited: None,
            ignored: None,
            entries: 0,
            counters: Counters::default(),
        });
    }
}

/// A monitor's reporter, and what it published.
struct Monitor {
    reporter: Arc<Reporter<'static>>,
    events: Arc<Mutex<Vec<&'static str>>>,
}

impl Monitor {
    fn start(scratch: &Scratch) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Reported::open(&scratch.0.join("told")).expect("memory");
        let to = Arc::clone(&events);
        let publish = move |what: Kind| to.lock().expect("whole").push(what.kind());
        let reporter = Reporter::new(&scratch.page(), told, publish);
        Self {
            reporter: Arc::new(reporter),
            events,
        }
    }

    fn turn(&self, at_ms: u64) {
        Watcher::new(&self.reporter).turn(Monotonic(START + at_ms * MS));
    }

    fn told(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.events.lock().expect("whole"))
    }
}

#[test]
fn each_thing_that_the_guard_does_is_told_once_by_however_many_watchers() {
    let scratch = Scratch::new("once");
    let mut guard = Guard::start(&scratch, 0);
    let monitor = Monitor::start(&scratch);
    for round in 0..20 {
        let at = round * 250;
        guard.does(at, EntryKind::Withhold(LAGGING));
        guard.does(at + 1, EntryKind::Resume);
        let watchers: Vec<_> = (0..4)
            .map(|_| {
                let reporter = Arc::clone(&monitor.reporter);
                thread::spawn(move || {
                    let mut watcher = Watcher::new(&reporter);
                    watcher.turn(Monotonic(START + (at + 2) * MS));
                })
            })
            .collect();
        watchers
            .into_iter()
            .for_each(|w| w.join().expect("no panic"));
    }
    monitor.turn(5_000);
    let told = monitor.told();
    assert_eq!((told.len(), told[0]), (41, "host.armed"));
    for pair in told[1..].chunks(2) {
        assert_eq!(pair, ["host.withhold", "host.resumed"]);
    }
    assert_eq!(monitor.reporter.lost(), 0);
}

#[test]
fn a_monitor_that_is_restarted_tells_nothing_again_and_leaves_nothing_out() {
    let scratch = Scratch::new("restart");
    let mut guard = Guard::start(&scratch, 0);
    let first = Monitor::start(&scratch);
    guard.does(10, EntryKind::Withhold(LAGGING));
    first.turn(20);
    assert_eq!(first.told(), ["host.armed", "host.withhold"]);
    drop(first);
    guard.does(30, EntryKind::Resume);
    let unknown = Reason::Unknown(Unknown::NoPcpu);
    guard.does(40, EntryKind::Withhold(unknown));
    let next = Monitor::start(&scratch);
    next.turn(50);
    assert_eq!(next.told(), ["host.resumed", "host.withhold"]);
}

#[test]
fn a_guard_that_falls_silent_is_told_once_and_so_is_its_return() {
    let scratch = Scratch::new("silent");
    let guard = Guard::start(&scratch, 0);
    let monitor = Monitor::start(&scratch);
    monitor.turn(900);
    assert_eq!(monitor.told(), ["host.armed"]);
    monitor.turn(1_100);
    monitor.turn(1_600);
    assert_eq!(monitor.told(), ["host.guard_silent"]);
    guard.looks(2_000, Phase::Armed);
    monitor.turn(2_100);
    monitor.turn(2_600);
    assert_eq!(monitor.told(), ["host.guard_back"]);
    guard.looks(2_900, Phase::Disarmed);
    monitor.turn(9_000);
    assert_eq!(monitor.told(), <[&str; 0]>::default(), "it ended in order");
}

#[test]
fn a_guard_that_is_started_anew_is_followed_after_all_that_the_last_one_did() {
    let scratch = Scratch::new("anew");
    let mut guard = Guard::start(&scratch, 0);
    let monitor = Monitor::start(&scratch);
    let mut watcher = Watcher::new(&monitor.reporter);
    let at = |ms: u64| Monotonic(START + ms * MS);
    watcher.turn(at(100));
    guard.does(200, EntryKind::Disarmed);
    guard.looks(200, Phase::Disarmed);
    watcher.turn(at(600));
    let _next = Guard::start(&scratch, 5_000);
    watcher.turn(at(5_100));
    watcher.turn(at(5_200));
    let told = monitor.told();
    assert_eq!(told, ["host.armed", "host.disarmed", "host.armed"]);
}

#[test]
fn what_a_guard_did_before_another_took_its_place_is_told_by_a_monitor_that_comes_later() {
    let scratch = Scratch::new("replaced");
    let mut guard = Guard::start(&scratch, 0);
    let first = Monitor::start(&scratch);
    first.turn(100);
    assert_eq!(first.told(), ["host.armed"]);
    drop(first);
    guard.does(200, EntryKind::Withhold(LAGGING));
    let _next = Guard::start(&scratch, 5_000);
    let late = Monitor::start(&scratch);
    late.turn(5_100);
    assert_eq!(late.told(), ["host.withhold", "host.armed"]);
    assert_eq!(late.reporter.lost(), 0);
}

#[test]
fn refused_kicks_and_a_failed_disarm_are_events() {
    let scratch = Scratch::new("refused");
    let mut guard = Guard::start(&scratch, 0);
    let monitor = Monitor::start(&scratch);
    guard.does(
        10,
        EntryKind::Refused {
            errno: 19,
            count: 1,
        },
    );
    guard.does(20, EntryKind::Taken { refused: 9 });
    guard.does(30, EntryKind::Excused(Work::PcpuScheduler(0)));
    guard.does(
        40,
        EntryKind::DisarmFailed {
            errno: 5,
            within_s: 60,
        },
    );
    guard.does(45, EntryKind::Shutdown { within_s: 600 });
    monitor.turn(50);
    let expected = [
        "host.armed",
        "host.kick_refused",
        "host.kick_taken",
        "host.excused",
        "host.disarm_failed",
        "host.shutdown",
    ];
    assert_eq!(monitor.told(), expected);
}

#[test]
fn entries_that_nobody_read_in_time_are_counted_once_each() {
    let scratch = Scratch::new("lost");
    let mut guard = Guard::start(&scratch, 0);
    let monitor = Monitor::start(&scratch);
    for n in 1..=ENTRIES + 9 {
        guard.does(n, EntryKind::Resume);
    }
    monitor.turn(200);
    assert_eq!(monitor.told().len() as u64, ENTRIES);
    assert_eq!(monitor.reporter.lost(), 10);
    monitor.turn(300);
    assert_eq!(monitor.reporter.lost(), 10);
}
