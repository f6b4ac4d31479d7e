// SPDX-License-Identifier: GPL-2.0-only
//! Deadlines that others give the guard: none is longer than allowed, and whatever else lies in their
//! file is none.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xenwarden::guard::deadlines::{Deadlines, Setting};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const HOUR_NS: u64 = 3_600 * NS_PER_S;
const NOW: Monotonic = Monotonic(77 * NS_PER_S);

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("deadlines-{name}"));
    let _ = fs::remove_file(&path);
    path
}

fn after(s: u64) -> Monotonic {
    NOW.plus_ns(s * NS_PER_S)
}

fn set(path: &Path, until: Monotonic) {
    let setting = Setting::open(path).expect("opens");
    setting.set(0, Some(until)).expect("set");
}

#[test]
fn each_deadline_is_set_and_taken_back_by_itself() {
    let path = file("each");
    let guard = Deadlines::open(&path, HOUR_NS).expect("made");
    let seen = || [0, 1, 2].map(|n| guard.until(n, NOW));
    let setting = Setting::open(&path).expect("opens");
    setting.set(1, Some(after(9))).expect("set");
    setting.set(2, Some(after(8))).expect("set");
    assert_eq!(seen(), [None, Some(after(9)), Some(after(8))]);
    setting.set(1, None).expect("set");
    assert_eq!(seen(), [None, None, Some(after(8))]);
    assert_eq!(guard.until(2, after(8)), None, "over");
    assert_eq!(guard.until(1 << 40, NOW), None, "beyond");
    assert_eq!(Deadlines::default().until(0, NOW), None);
}

#[test]
fn no_order_is_longer_than_the_configuration_allows() {
    let path = file("longest");
    let guard = Deadlines::open(&path, HOUR_NS).expect("made");
    for (s, holds) in [
        (3_600, true),
        (3_601, false),
        (u64::MAX / NS_PER_S - 100, false),
    ] {
        set(&path, after(s));
        assert_eq!(guard.until(0, NOW).is_some(), holds, "{s}");
    }
    // What is too far away does not become an order that never ends by coming near.
    Setting::open(&path)
        .expect("opens")
        .set(0, None)
        .expect("set");
    assert_eq!(guard.until(0, NOW), None);
}

/// Words from a generator (splitmix64), and the pairs that are most like one.
#[test]
fn whatever_lies_in_the_file_is_no_order_unless_somebody_gave_one() {
    let path = file("bytes");
    let guard = Deadlines::open(&path, HOUR_NS).expect("made");
    let bytes = fs::File::options().write(true).open(&path).expect("opens");
    let put = |at: u64, word: u64| {
        bytes
            .write_all_at(&word.to_ne_bytes(), at)
            .expect("written")
    };
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for _ in 0..10_000 {
        let near = after(next() % 3_600).0;
        for (deadline, check) in [
            (next(), next()),
            (near, next()),
            (near, near),
            (near, !near),
        ] {
            put(0, deadline);
            put(8, check);
            assert_eq!(guard.until(0, NOW), None);
        }
    }
    // A new one of which half has been written.
    set(&path, after(60));
    put(0, after(90).0);
    assert_eq!(guard.until(0, NOW), None);
}

#[test]
fn what_is_no_file_is_neither_made_nor_followed() {
    let path = file("link");
    let target = file("target");
    fs::write(&target, "x").expect("written");
    std::os::unix::fs::symlink(&target, &path).expect("made");
    assert!(Deadlines::open(&path, HOUR_NS).is_err());
    assert!(Setting::open(&path).is_err());
    assert_eq!(fs::read(&target).expect("there"), b"x");
}
