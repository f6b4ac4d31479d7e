// SPDX-License-Identifier: GPL-2.0-only
//! The fence levels behind the hardware: what each makes of the guard page, and that Xen's slot
//! of dom0 is fed only while everything is served, taken anew when lost, and given back.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::errno::Errno;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::event::Coverage;
use xenwarden::guard::gate::Decision;
use xenwarden::guard::page::{Counters, Info, Phase, Status, View, Vitals, Writer};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::watchdog::fence::{
    BEFORE_HARDWARE, DomainWatchdog, Judged, Overdue, Presence, SYSRQ_AFTER, Slot, judge,
    keep_slot, last_resort, open_sysrq, slot_timeout_s,
};

/// Nothing here takes so long.
const LONG: Duration = Duration::from_secs(30);

fn view(phase: Phase, looked: Monotonic, served: Monotonic) -> View {
    View {
        info: Info {
            pid: std::process::id(),
            started: Monotonic(1),
            device: "/dev/watchdog0".into(),
            identity: String::new(),
            timeout_ns: 3 * NS_PER_S,
            latest_ns: 6 * NS_PER_S,
            period_ns: 250 * NS_PER_MS,
            coverage: Coverage::Full,
            xen_slot: false,
            weakness: String::new(),
        },
        status: Status {
            phase,
            looked,
            decision: Decision::Kick,
            since: looked,
            last_kick: served,
            served,
            answered: served,
            excused: None,
            inhibited: None,
            ignored: None,
            entries: 0,
            counters: Counters::default(),
        },
    }
}

/// The same, as a fence level reads it.
fn vitals(phase: Phase, looked: Monotonic, served: Monotonic) -> Vitals {
    let View { info, status } = view(phase, looked, served);
    Vitals {
        pid: info.pid,
        latest_ns: info.latest_ns,
        status,
    }
}

#[test]
fn a_level_reads_the_same_as_everybody_else() {
    let page = Writer::private().expect("a page");
    let expected = vitals(Phase::Armed, Monotonic(7), Monotonic(6));
    assert_eq!(page.reader().vitals(), None, "nothing told yet");
    page.info(&view(Phase::Armed, Monotonic(7), Monotonic(6)).info);
    page.status(&expected.status);
    assert_eq!(page.reader().vitals(), Some(expected));
}

#[test]
fn the_host_should_be_down_four_seconds_after_the_hardware_should_have_fired() {
    let pid = std::process::id();
    let began = Monotonic(100 * NS_PER_S);
    let served = began.plus_ns(NS_PER_S);
    let armed = vitals(Phase::Armed, served, served);
    let judged = |after_ms| {
        judge(
            Some(armed),
            pid,
            began,
            served.plus_ns(after_ms * NS_PER_MS),
            SYSRQ_AFTER,
        )
    };
    let expected = [
        (0, Judged::Fresh),
        (1_000, Judged::Fresh),
        (1_001, Judged::Silent),
        (10_000, Judged::Silent),
        (10_001, Judged::Overdue),
    ];
    for (after_ms, expected) in expected {
        assert_eq!(judged(after_ms), expected, "{after_ms} ms after");
    }
    let late = served.plus_ns(60 * NS_PER_S);
    for (phase, expected) in [
        (Phase::Starting, Judged::NotYet),
        (Phase::Stopping, Judged::Overdue),
        (Phase::StillArmed, Judged::Ended),
        (Phase::Disarmed, Judged::Ended),
        (Phase::Shutdown, Judged::Ended),
    ] {
        let told = vitals(phase, served, served);
        assert_eq!(
            judge(Some(told), pid, began, late, SYSRQ_AFTER),
            expected,
            "{phase:?}"
        );
    }
}

#[test]
fn a_fast_fence_counts_from_what_was_last_served_whatever_the_hardware_takes() {
    let pid = std::process::id();
    let began = Monotonic(100 * NS_PER_S);
    let served = began.plus_ns(NS_PER_S);
    let armed = vitals(Phase::Armed, served, served);
    let overdue = Overdue::SinceServed(700 * NS_PER_MS);
    for (after_ms, expected) in [
        (0, Judged::Fresh),
        (700, Judged::Fresh),
        (701, Judged::Overdue),
    ] {
        let now = served.plus_ns(after_ms * NS_PER_MS);
        let judged = judge(Some(armed), pid, began, now, overdue);
        assert_eq!(judged, expected, "{after_ms} ms after");
    }
}

#[test]
fn a_slot_that_comes_before_the_hardware_is_fed_while_the_device_takes_its_time() {
    let pid = std::process::id();
    let began = Monotonic(100 * NS_PER_S);
    let served = began.plus_ns(NS_PER_S);
    let judged = |told, after_ms| {
        let now = served.plus_ns(after_ms * NS_PER_MS);
        judge(Some(told), pid, began, now, BEFORE_HARDWARE)
    };
    let mut told = vitals(Phase::Armed, served, served);
    assert_eq!(judged(told, 1_001), Judged::Silent, "nobody kicks");
    told.status.answered = Monotonic(served.0 - 1);
    assert_eq!(judged(told, 6_000), Judged::Fresh, "still kicking");
    assert_ne!(judged(told, 6_001), Judged::Fresh, "the hardware fires");
}

#[test]
fn a_device_that_takes_its_time_for_a_kick_is_left_to_the_hardware() {
    let pid = std::process::id();
    let began = Monotonic(100 * NS_PER_S);
    let served = began.plus_ns(NS_PER_S);
    let overdue = Overdue::SinceServed(700 * NS_PER_MS);
    let judged = |told, after_ms| {
        let now = served.plus_ns(after_ms * NS_PER_MS);
        judge(Some(told), pid, began, now, overdue)
    };
    let mut told = vitals(Phase::Armed, served, served);
    told.status.answered = Monotonic(served.0 - 1);
    for (after_ms, expected) in [(6_000, Judged::Fresh), (6_001, Judged::Overdue)] {
        assert_eq!(
            judged(told, after_ms),
            expected,
            "{after_ms} ms, still kicking"
        );
    }
    // It has answered, after 900 ms: what follows is counted from there.
    told.status.answered = served.plus_ns(900 * NS_PER_MS);
    for (after_ms, expected) in [(1_600, Judged::Fresh), (1_601, Judged::Overdue)] {
        assert_eq!(judged(told, after_ms), expected, "{after_ms} ms");
    }
}

#[test]
fn what_an_earlier_guard_told_resets_nothing() {
    let pid = std::process::id();
    let began = Monotonic(100 * NS_PER_S);
    let before = Monotonic(50 * NS_PER_S);
    let old = vitals(Phase::Armed, before, before);
    let now = began.plus_ns(NS_PER_S);
    assert_eq!(
        judge(Some(old), pid, began, now, SYSRQ_AFTER),
        Judged::NotYet
    );
    let another = vitals(Phase::Armed, began, began);
    assert_eq!(
        judge(Some(another), pid + 1, began, now, SYSRQ_AFTER),
        Judged::NotYet
    );
    assert_eq!(judge(None, pid, began, now, SYSRQ_AFTER), Judged::NotYet);
}

#[test]
fn a_level_that_was_away_itself_gives_the_guard_its_turn_first() {
    let at = |ms| Monotonic(100 * NS_PER_S).plus_ns(ms * NS_PER_MS);
    let away_ms = 20_000;
    // The looks of a level that is stopped with its guard and continued: what it missed is not made
    // up for, so that the second comes at once, before anybody else has had the time for anything.
    let mut level = Presence::default();
    let mut look = |due, now, expected| {
        let weighed = level.weigh(Judged::Overdue, at(due), at(now));
        assert_eq!(weighed, expected, "due at {due} ms, at {now} ms");
    };
    look(2_000, away_ms, Judged::Silent);
    look(away_ms, away_ms, Judged::Silent);
    look(away_ms + 500, away_ms + 500, Judged::Silent);
    look(away_ms + 501, away_ms + 501, Judged::Overdue);
    // It was well for a while: another absence gives another turn.
    look(away_ms + 2_000, 2 * away_ms, Judged::Silent);
    // One that is late each time is not well itself.
    look(2 * away_ms + 100, 2 * away_ms + 601, Judged::Overdue);
    look(2 * away_ms + 700, 2 * away_ms + 1_201, Judged::Overdue);
}

#[test]
fn a_level_that_is_hardly_late_gives_nobody_a_turn_and_an_absence_changes_nothing_else() {
    let (due, now) = (Monotonic(NS_PER_S), Monotonic(NS_PER_S + 500 * NS_PER_MS));
    let weighed = Presence::default().weigh(Judged::Overdue, due, now);
    assert_eq!(weighed, Judged::Overdue);
    for judged in [Judged::NotYet, Judged::Fresh, Judged::Silent, Judged::Ended] {
        let weighed = Presence::default().weigh(judged, due, Monotonic(u64::MAX));
        assert_eq!(weighed, judged);
    }
}

#[test]
fn xens_slot_fires_two_seconds_after_the_hardware_should_have() {
    let timeouts = [5_000, 6_000, 6_001].map(|ms| slot_timeout_s(ms * NS_PER_MS, None));
    assert_eq!(timeouts, [7, 8, 9]);
}

#[test]
fn for_a_crash_dump_xens_slot_fires_first_whatever_the_hardware_takes() {
    let timeouts = [20, 60, 3_600].map(|s| slot_timeout_s(s * NS_PER_S, Some(5)));
    assert_eq!(timeouts, [5, 5, 5]);
}

#[test]
fn whether_a_slot_is_to_be_had_is_tried_and_takes_none() {
    let xen = Xen::default();
    let tried = Slot::new(xen.clone()).try_one(5);
    assert!(tried.is_ok(), "{tried:?}");
    assert_eq!(xen.with(|slots| slots.armed), [None, None]);
    xen.with(|slots| slots.armed = [Some(9), Some(9)]);
    let refused = Slot::new(xen.clone()).try_one(5).expect_err("none is free");
    assert_eq!(refused.to_string(), "both slots are taken");
    assert_eq!(xen.with(|slots| slots.armed), [Some(9), Some(9)]);
}

/// Dom0's two slots, as the hypervisor keeps them.
#[derive(Clone, Default)]
struct Xen(Arc<Mutex<Slots>>);

#[derive(Default)]
struct Slots {
    armed: [Option<u32>; 2],
    feeds: u32,
}

impl Xen {
    fn with<T>(&self, act: impl FnOnce(&mut Slots) -> T) -> T {
        act(&mut self.0.lock().expect("not poisoned"))
    }
}

impl DomainWatchdog for Xen {
    fn set(&self, id: u32, timeout_s: u32) -> Result<u32, Errno> {
        self.with(|slots| {
            let free = slots.armed.iter().position(Option::is_none);
            let n = match id {
                0 => free.ok_or(Errno::ENOSPC)?,
                id => usize::try_from(id - 1).expect("small"),
            };
            let slot = slots.armed.get_mut(n).ok_or(Errno::EINVAL)?;
            if id != 0 && slot.is_none() {
                return Err(Errno::EINVAL);
            }
            *slot = (timeout_s != 0).then_some(timeout_s);
            slots.feeds += 1;
            Ok(u32::try_from(n + 1).expect("small"))
        })
    }
}

#[test]
fn a_slot_that_another_cleared_is_taken_anew() {
    let xen = Xen::default();
    let mut slot = Slot::new(xen.clone());
    slot.feed(7).expect("the first");
    slot.feed(7).expect("fed");
    assert_eq!(xen.with(|slots| slots.armed), [Some(7), None], "one alone");
    // xhad clears both and takes both.
    xen.with(|slots| slots.armed = [None, None]);
    slot.feed(7).expect("taken anew");
    xen.with(|slots| slots.armed = [None, Some(9)]);
    slot.feed(7).expect("taken anew");
    assert_eq!(xen.with(|slots| slots.armed), [Some(7), Some(9)]);
    slot.release();
    assert_eq!(
        xen.with(|slots| slots.armed),
        [None, Some(9)],
        "another's stays"
    );
    xen.with(|slots| slots.armed = [Some(9), Some(9)]);
    assert_eq!(slot.feed(7), Err(Errno::ENOSPC));
    xen.with(|slots| slots.armed = [Some(9), None]);
    slot.feed(7).expect("tried again");
}

/// Says how things are now, as the kick path does.
fn tell(page: &Writer, phase: Phase, served: Monotonic) {
    page.status(&view(phase, Monotonic::now(), served).status);
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn xens_slot_is_fed_while_everything_is_served_and_given_back_at_the_end() {
    let page = Writer::private().expect("a page");
    page.info(&view(Phase::Armed, Monotonic(0), Monotonic(0)).info);
    let xen = Xen::default();
    let level = keep_slot(Slot::new(xen.clone()), page.reader(), 1, None).expect("a thread");
    eventually("armed", || {
        tell(&page, Phase::Armed, Monotonic::now());
        xen.with(|slots| slots.armed[0]) == Some(8)
    });
    eventually("fed", || {
        tell(&page, Phase::Armed, Monotonic::now());
        xen.with(|slots| slots.feeds) > 2
    });
    // Withheld: looks go on, and nothing was served for two seconds.
    let served = Monotonic(Monotonic::now().0.saturating_sub(2 * NS_PER_S));
    tell(&page, Phase::Armed, served);
    thread::sleep(Duration::from_millis(600)); // a look that had begun is over
    let fed = xen.with(|slots| slots.feeds);
    thread::sleep(Duration::from_millis(1_200)); // two looks more
    assert_eq!(xen.with(|slots| slots.feeds), fed, "fed while withheld");
    tell(&page, Phase::Disarmed, served);
    level.join().expect("ends");
    assert_eq!(xen.with(|slots| slots.armed), [None, None]);
}

#[test]
fn sysrq_is_triggered_once_the_host_should_be_down() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fence-sysrq");
    fs::write(&path, b"").expect("written");
    let page = Writer::private().expect("a page");
    page.info(&view(Phase::Armed, Monotonic(0), Monotonic(0)).info);
    let sysrq = open_sysrq(&path).expect("opens");
    let level = last_resort(sysrq, page.reader(), 1).expect("a thread");
    let ago = |s: u64| Monotonic(Monotonic::now().0.saturating_sub(s * NS_PER_S));
    tell(&page, Phase::Armed, ago(5));
    thread::sleep(Duration::from_millis(1_200)); // two looks
    assert_eq!(
        fs::read(&path).expect("read"),
        b"",
        "the hardware has its time still"
    );
    eventually("triggered", || {
        tell(&page, Phase::Armed, ago(11));
        fs::read(&path).expect("read").starts_with(b"b")
    });
    tell(&page, Phase::Disarmed, ago(0));
    level.join().expect("ends");
}

/// How often the thread of this name has slept.
fn sleeps(name: &str) -> u64 {
    let threads = fs::read_dir("/proc/self/task").expect("threads");
    let read = |path: &Path, what| fs::read_to_string(path.join(what)).unwrap_or_default();
    let thread = threads
        .map(|thread| thread.expect("a thread").path())
        .find(|path| read(path, "comm").trim() == name);
    let status = read(&thread.expect("the level's thread"), "status");
    let counted = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    counted.expect("counted").trim().parse().expect("a number")
}

#[test]
fn sysrq_sleeps_on_a_host_that_is_well_for_as_long_as_it_may_and_is_not_late() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fence-sysrq-sleeps");
    fs::write(&path, b"").expect("written");
    let page = Writer::private().expect("a page");
    page.info(&view(Phase::Armed, Monotonic(0), Monotonic(0)).info);
    let sysrq = open_sysrq(&path).expect("opens");
    let level = last_resort(sysrq, page.reader(), 1).expect("a thread");
    // It looks after 2 s for the first time.
    let first = Instant::now() + Duration::from_millis(2_500);
    let mut served = Monotonic::now();
    while Instant::now() < first {
        served = Monotonic::now();
        tell(&page, Phase::Armed, served);
        thread::sleep(Duration::from_millis(50));
    }
    let before = sleeps("fence-sysrq");
    let triggered = || fs::read(&path).expect("read").starts_with(b"b");
    let due = served.plus_ns(10 * NS_PER_S);
    eventually("due", || {
        let is_triggered = triggered();
        let now = Monotonic::now();
        assert!(!is_triggered || now > due, "too early");
        now.plus_ns(NS_PER_S) > due
    });
    let slept = sleeps("fence-sysrq") - before;
    assert!(
        slept <= 2,
        "it woke {slept} times while nothing was to be done"
    );
    eventually("triggered", triggered);
    tell(&page, Phase::Disarmed, Monotonic::now());
    level.join().expect("ends");
}
