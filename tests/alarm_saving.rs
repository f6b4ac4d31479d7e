// SPDX-License-Identifier: GPL-2.0-only
//! The threads around the registry: the watcher from table to event to disk, orders that
//! are answered once they are on disk, and kills at any moment.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::event::sequence::Sequence;
use xenwarden::event::{Timestamp, Uuid};
use xenwarden::guests::alarm::{Moment, Rules};
use xenwarden::guests::registry::{Registry, Saved};
use xenwarden::guests::{DomainNames, GuestRequests, RequestError};
use xenwarden::monitor::names::Names;
use xenwarden::monitor::shared_registry::{SharedRegistry, now};
use xenwarden::monitor::watcher::{self, Idle};
use xenwarden::state::saver::{Saver, open};
use xenwarden::state::store::Store;
use xenwarden::sys::clock::Monotonic;
use xenwarden::xen::simulation::Simulation;

const LONG: Duration = Duration::from_secs(30);
const GUEST: Uuid = Uuid::from_u128(7);

/// Kinds, in the order in which they were published.
type Told = Arc<Mutex<Vec<&'static str>>>;

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("saving-{name}"));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn share(registry: Registry, saver: &Arc<Saver>, told: &Told) -> SharedRegistry {
    let told = Arc::clone(told);
    let publish = move |h: xenwarden::guests::GuestEvent| {
        told.lock().expect("told").push(h.what.kind());
    };
    SharedRegistry::new(registry, Arc::clone(saver), Box::new(publish))
}

fn taken(told: &Told) -> Vec<&'static str> {
    std::mem::take(&mut *told.lock().expect("told"))
}

/// Starts the thread that saves.
fn run(saver: &Arc<Saver>) {
    let saver = Arc::clone(saver);
    thread::spawn(move || saver.run());
}

/// A saver over its own way of writing.
fn saver(name: &str, write: impl Fn(&Saved) -> io::Result<()> + Send + Sync + 'static) -> Saver {
    let store = Store::new(&directory(name));
    let saver = Saver::new(store, Arc::new(Sequence::from(1)), "boot".to_owned());
    saver.writing(Box::new(move |_, saved| write(saved)))
}

/// A guest that was fed and has expired.
fn expired() -> Simulation {
    let xen = Simulation::new(1);
    xen.create(7, GUEST);
    xen.arm(7, 0, 5);
    xen.feed(7, 0);
    xen.expire(7, 0);
    xen
}

fn look(shared: &SharedRegistry, xen: &Simulation, at: Moment) {
    shared.turn(at, &xen.table(), &Arc::default());
}

#[test]
fn the_watcher_publishes_in_order_and_saves_at_once_and_before_it_ends() {
    let directory = directory("watcher");
    let opened = open(&directory, Rules::default(), now(), None);
    assert_eq!(opened.told, []);
    let told = Told::default();
    let shared = Arc::new(share(opened.registry, &opened.saver, &told));
    run(&opened.saver);
    let xen: &'static Simulation = Box::leak(Box::new(Simulation::new(1)));
    let idle: &'static Idle<'_> = Box::leak(Box::default());
    let names = Arc::new(Names::new(Box::new(|| Err(io::ErrorKind::NotFound.into()))));
    let stop = Arc::new(AtomicBool::new(false));
    let runner = {
        let shared = Arc::clone(&shared);
        let (names, stop) = (Arc::clone(&names), Arc::clone(&stop));
        thread::spawn(move || watcher::run(&xen.table(), &names, &shared, idle, &stop))
    };
    eventually("looked", || shared.report().evidence_age_ms.is_some());
    xen.create(7, GUEST);
    xen.arm(7, 0, 5);
    xen.feed(7, 0);
    xen.expire(7, 0);
    let kinds = || told.lock().expect("told").clone();
    let expected = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
    ];
    eventually("told", || {
        // While there is no guest another thread looks, and wakes the watcher for the first.
        idle.look(&shared, Monotonic::now());
        kinds() == expected
    });
    let file = directory.join("guests.json");
    let saved = || fs::read_to_string(&file).unwrap_or_default();
    eventually("saved at once", || saved().contains("\"raised\""));
    xen.pause(7, true);
    xen.resume(7);
    stop.store(true, Ordering::Release);
    runner.join().expect("ends");
    assert_eq!(opened.saver.finish(LONG), Ok(()));
    assert!(saved().contains("\"paused\""), "the last look is saved");
    assert_eq!(kinds(), expected, "nothing twice");
    let again = open(&directory, Rules::default(), now(), None);
    assert!(again.registry.report(now().ns).guests[0].alarm.is_some());
}

#[test]
fn an_order_is_answered_once_it_is_on_disk() {
    let directory = directory("order");
    let opened = open(&directory, Rules::default(), now(), None);
    let told = Told::default();
    let shared = share(opened.registry, &opened.saver, &told);
    let xen = expired();
    look(&shared, &xen, now());
    taken(&told);
    run(&opened.saver);
    let file = directory.join("guests.json");
    let acknowledged = || {
        let saved = fs::read_to_string(&file).expect("saved");
        saved.contains("\"acknowledged\":true")
    };
    assert_eq!(shared.acknowledge(GUEST, 7), Ok(()));
    assert!(acknowledged());
    assert_eq!(shared.acknowledge(GUEST, 7), Ok(()), "once is enough");
    assert_eq!(taken(&told), ["alarm.acknowledged"]);
    assert_eq!(shared.close(GUEST, 7), Ok(()));
    assert!(!acknowledged());
    assert_eq!(taken(&told), ["alarm.closed"]);
    assert_eq!(shared.close(GUEST, 7), Err(RequestError::NoAlarm));
    assert_eq!(shared.close(Uuid::nil(), 7), Err(RequestError::NoGuest));
    assert_eq!(opened.saver.finish(LONG), Ok(()));
}

#[test]
fn an_order_that_the_disk_does_not_take_says_so_and_holds() {
    let told = Told::default();
    let sick = Arc::new(saver("sick", |_| Err(io::ErrorKind::StorageFull.into())));
    let stuck = Arc::new(saver("stuck", |_| {
        thread::sleep(LONG * 10);
        Ok(())
    }));
    let none = Arc::new(saver("none", |_| Ok(())));
    run(&sick);
    run(&stuck);
    for saver in [&sick, &stuck, &none] {
        let shared = share(Registry::new(Rules::default()), saver, &told);
        look(&shared, &expired(), now());
        taken(&told);
        let began = Instant::now();
        assert_eq!(shared.acknowledge(GUEST, 7), Err(RequestError::NotSaved));
        assert!(began.elapsed() < LONG, "bounded");
        assert_eq!(taken(&told), ["alarm.acknowledged"]);
        let alarm = shared.report().guests[0].alarm.clone();
        assert!(alarm.expect("open").acknowledged);
    }
    eventually("said", || sick.health().trouble.is_some());
    assert_eq!(none.health().trouble, None);
}

#[test]
fn a_panic_of_the_thread_that_saves_is_counted_and_no_end() {
    let failures = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&failures);
    let written = Arc::new(Mutex::new(None));
    let taken_over = Arc::clone(&written);
    let saver = Arc::new(saver("panic", move |saved| {
        assert!(counted.fetch_add(1, Ordering::Relaxed) > 0, "as it should");
        *taken_over.lock().expect("written") = Some(saved.clone());
        Ok(())
    }));
    run(&saver);
    let mut registry = Registry::new(Rules::default());
    registry.turn(now(), &expired().table());
    let saved = registry.saved("boot", now());
    let given = saver.guests(saved.clone());
    assert!(!saver.wait(given, LONG));
    assert_eq!(saver.health().panics, 1);
    assert!(saver.health().trouble.is_some());
    // What was to be saved is still there, and is tried again.
    eventually("saved after all", || saver.wait(given, Duration::ZERO));
    assert_eq!(*written.lock().expect("written"), Some(saved));
    eventually("well again", || saver.health().trouble.is_none());
    assert_eq!(saver.finish(LONG), Ok(()));
    assert_eq!(failures.load(Ordering::Relaxed), 2);
}

#[test]
fn a_panic_at_the_end_does_not_keep_the_monitor_from_ending_and_is_not_taken_for_saved() {
    let saver = Arc::new(saver("panic-end", |_| panic!("as it should")));
    run(&saver);
    saver.guests(Registry::new(Rules::default()).saved("boot", now()));
    let why = saver.finish(LONG).expect_err("nothing is saved");
    assert!(why.contains("panicked"), "{why}");
}

#[test]
fn what_the_disk_did_not_take_is_not_saved_at_the_end() {
    let sick = Arc::new(saver(
        "sick-end",
        |_| Err(io::ErrorKind::StorageFull.into()),
    ));
    run(&sick);
    sick.guests(Registry::new(Rules::default()).saved("boot", now()));
    eventually("failed", || sick.health().trouble.is_some());
    let since = sick.health().trouble.expect("failed").since;
    assert!(sick.finish(LONG).is_err());
    let trouble = sick.health().trouble.expect("still");
    assert_eq!(trouble.since, since, "since the first failure");
    let none = saver("none-end", |_| Ok(()));
    none.guests(Registry::new(Rules::default()).saved("boot", now()));
    assert!(none.finish(Duration::from_millis(10)).is_err(), "no thread");
}

/// A life, looked at at each step.
const LIFE: [fn(&Simulation); 12] = [
    |xen| _ = xen.create(7, GUEST),
    |xen| xen.arm(7, 0, 5),
    |xen| xen.feed(7, 0),
    |xen| xen.expire(7, 0),
    |xen| xen.destroy(7),
    |xen| _ = xen.create(8, GUEST),
    |xen| xen.arm(8, 1, 5),
    |xen| xen.feed(8, 1),
    |xen| xen.disarm(8, 1),
    |xen| xen.expire(8, 0),
    |xen| xen.shut_down(8, xenwarden::xen::table::Shutdown::Crash),
    |xen| xen.destroy(8),
];

/// What is told when the monitor is killed after the look that follows step `killed_at`, with
/// what it had to save then on disk, or only what it had to save a step before.
fn live(killed_at: usize, saved: bool) -> Vec<&'static str> {
    let at = |n: usize| Moment {
        ns: 1_000_000_000 * i64::try_from(n).expect("few"),
        wall: Timestamp(0),
    };
    let disk = Arc::new(Mutex::new(None::<Saved>));
    let told = Told::default();
    let monitor = |registry| {
        let written = Arc::clone(&disk);
        let saver = Arc::new(saver("kill", move |saved| {
            *written.lock().expect("disk") = Some(saved.clone());
            Ok(())
        }));
        (share(registry, &saver, &told), saver)
    };
    let write = |shared: &SharedRegistry, saver: &Arc<Saver>, n| {
        shared.save(at(n));
        run(saver);
        assert_eq!(saver.finish(LONG), Ok(()));
    };
    let (mut shared, mut saver) = monitor(Registry::new(Rules::default()));
    let xen = Simulation::new(1);
    look(&shared, &xen, at(0));
    for (n, act) in (1..).zip(&LIFE) {
        if n == killed_at && !saved {
            write(&shared, &saver, n - 1);
        }
        act(&xen);
        look(&shared, &xen, at(n));
        if n == killed_at {
            if saved {
                write(&shared, &saver, n);
            }
            let left = disk.lock().expect("disk").clone().expect("written");
            let registry = Registry::restore(Rules::default(), left, "boot", at(n));
            (shared, saver) = monitor(registry);
            look(&shared, &xen, at(n));
        }
    }
    taken(&told)
}

#[test]
fn a_kill_at_any_moment_loses_no_event_and_repeats_none_whose_saving_was_reported() {
    let undisturbed = live(0, false);
    let cleared = undisturbed.iter().filter(|k| **k == "alarm.cleared");
    assert_eq!(cleared.count(), 1, "{undisturbed:?}");
    for n in 1..=LIFE.len() {
        assert_eq!(live(n, true), undisturbed, "after step {n}, saved");
        let repeated = live(n, false);
        let mut told = repeated.iter();
        let all = undisturbed.iter().all(|kind| told.any(|t| t == kind));
        assert!(all, "after step {n}, not saved: {repeated:?}");
    }
}

#[test]
fn a_turn_tells_who_is_there_and_takes_the_names_over() {
    let told = Told::default();
    let saver = Arc::new(saver("names", |_| Ok(())));
    let shared = share(Registry::new(Rules::default()), &saver, &told);
    let xen = expired();
    let names = Arc::new(DomainNames {
        by_domain: [(1, "seven".into())].into(),
        trouble: Some("some".to_owned()),
    });
    let turn = || shared.turn(now(), &xen.table(), &names);
    assert_eq!(turn(), Some(vec![(7, 1)]));
    assert_eq!(turn(), None);
    let report = shared.report();
    assert_eq!(report.names_trouble.as_deref(), Some("some"));
    assert_eq!(report.guests[0].name.as_deref(), Some("seven"));
    xen.destroy(7);
    assert_eq!(turn(), Some(vec![]));
}

#[test]
fn what_is_not_urgent_is_saved_once_a_second() {
    let count = Arc::new(AtomicU32::new(0));
    let told = Told::default();
    let counted = Arc::clone(&count);
    let saver = Arc::new(saver("rest", move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    let shared = share(Registry::new(Rules::default()), &saver, &told);
    let xen = Simulation::new(1);
    xen.create(7, GUEST);
    let mut at = now();
    let mut turn = |act: &dyn Fn()| {
        at.ns += 250_000_000;
        act();
        look(&shared, &xen, at);
        saver.guests(Registry::new(Rules::default()).saved("", at)) - 1
    };
    // Each turn takes a number of its own besides; what is above is the registry's.
    assert_eq!(turn(&|| ()), 1, "the first");
    assert_eq!(turn(&|| xen.pause(7, true)), 2, "not yet");
    assert_eq!(turn(&|| ()), 3);
    assert_eq!(turn(&|| ()), 4);
    assert_eq!(turn(&|| ()), 6, "a second later");
    assert_eq!(turn(&|| ()), 7);
    let fed = || {
        xen.pause(7, false);
        xen.arm(7, 0, 5);
        xen.feed(7, 0);
    };
    assert_eq!(turn(&fed), 9, "at once");
}

#[test]
fn memory_is_given_back_some_time_after_a_save_of_guests_and_no_more_often() {
    const AFTER: Duration = Duration::from_millis(200);
    let saved_at = Arc::new(Mutex::new(Vec::new()));
    let given_back = Arc::new(Mutex::new(Vec::new()));
    let (saves, gives) = (Arc::clone(&saved_at), Arc::clone(&given_back));
    let saver = saver("gives-back", move |_| {
        saves.lock().expect("saves").push(Instant::now());
        Ok(())
    });
    let give_back = move || gives.lock().expect("gives").push(Instant::now());
    let saver = Arc::new(saver.giving_back(AFTER, Box::new(give_back)));
    run(&saver);
    let given_back = || given_back.lock().expect("gives").clone();
    // Also while there is always something to save.
    let hand_over = || saver.guests(Registry::new(Rules::default()).saved("boot", now()));
    while given_back().len() < 2 {
        hand_over();
    }
    assert!(saver.wait(hand_over(), LONG));
    let saves = || saved_at.lock().expect("saves").clone();
    let last = saves().last().copied().expect("was saved");
    eventually("it is given back after the last save", || {
        given_back().last().is_some_and(|at| *at > last)
    });
    saver.finish(LONG).expect("saved");
    let first = saves().first().copied().expect("was saved");
    let mut before = first;
    for at in given_back() {
        assert!(at - before >= AFTER, "{:?}", at - before);
        before = at;
    }
}
