// SPDX-License-Identifier: GPL-2.0-only
//! What was reported, shared by watchers and by the monitors that follow.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

mod loom_word;

use loom::sync::Arc;
use loom::thread;
use loom_word::LoomWord;
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use xenwarden::monitor::reported::{Reported, Stream, key, once};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};

const STARTED: Monotonic = Monotonic(77_000 * NS_PER_MS);

fn at(ms: u64) -> Monotonic {
    Monotonic((100_000 + ms) * NS_PER_MS)
}

fn nowhere() -> Reported {
    Reported::open(Path::new("/proc/version/reported")).expect("memory")
}

#[test]
fn each_entry_is_told_once_and_a_later_guard_begins_anew() {
    let told = nowhere();
    let count = Cell::new(0);
    for started in [STARTED, Monotonic(STARTED.0 + NS_PER_MS)] {
        assert_eq!(told.next_entry(Stream::Lines, started), 0);
        for _ in 0..3 {
            let tell = || count.set(count.get() + 1);
            assert!(told.once(Stream::Lines, key(started, 0), at(0), tell));
        }
        assert_eq!(told.next_entry(Stream::Lines, started), 1);
    }
    assert_eq!(
        (count.get(), told.next_entry(Stream::Events, STARTED)),
        (2, 0)
    );
}

#[test]
fn a_watcher_that_hangs_while_it_tells_is_replaced_after_a_moment() {
    let told = nowhere();
    let count = Cell::new(0);
    let tell = |ms| {
        let act = || count.set(count.get() + 1);
        told.once(Stream::Lines, key(STARTED, 5), at(ms), act)
    };
    // One tells; others that look meanwhile do not, and one that looks late does.
    told.once(Stream::Lines, key(STARTED, 5), at(0), || {
        assert!(!tell(1) && !tell(299));
        assert!(tell(301));
    });
    assert_eq!(count.get(), 1);
}

#[test]
fn the_next_monitor_knows_what_this_one_told() {
    let path = std::env::temp_dir().join(format!("xenwarden-reported-{}", std::process::id()));
    let told = Reported::open(&path).expect("opens");
    assert!(told.once(Stream::Events, key(STARTED, 9), at(0), || {}));
    drop(told);
    let next = Reported::open(&path).expect("opens again");
    assert_eq!(next.next_entry(Stream::Events, STARTED), 10);
    std::fs::remove_file(path).expect("there");
}

/// All interleavings of two watchers that tell two things in turn. Each leaves the rest to the
/// other where that is at it.
#[test]
fn two_watchers_at_once_tell_each_thing_once_and_in_order() {
    // What was told, a digit for each: no part of the model.
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let tell = |key| {
        let told = TOLD.load(Ordering::Relaxed);
        TOLD.store(10 * told + key, Ordering::Relaxed);
    };
    loom::model(move || {
        TOLD.store(0, Ordering::Relaxed);
        let words = Arc::new([0, 0].map(LoomWord::new));
        let others = Arc::clone(&words);
        let watch = move |words: &[LoomWord; 2]| {
            let both = (&words[0], &words[1]);
            (1..=2).all(|key| once(both, key, at(0), || tell(key)))
        };
        let other = thread::spawn(move || watch(&others));
        let all = [watch(&words), other.join().expect("it ends")];
        let told = TOLD.load(Ordering::Relaxed);
        assert!([1, 12].contains(&told), "{told}");
        assert!(told == 12 || all == [false; 2]);
    });
}
