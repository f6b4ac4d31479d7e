// SPDX-License-Identifier: GPL-2.0-only
//! Maintenance: the order as it lies in /run, from the command line to the guard; and that whatever else
//! lies there inhibits nobody.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use xenwarden::cli::text::render;
use xenwarden::control::inhibit::{self, Order};
use xenwarden::control::status::{Inhibited, Status};
use xenwarden::guard::deadlines::{Deadlines, Setting};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

const HOUR_NS: u64 = 3_600 * NS_PER_S;
const NOW: Monotonic = Monotonic(77 * NS_PER_S);

fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("inhibit-{name}"));
    let _ = fs::remove_file(&path);
    path
}

fn after(s: u64) -> Monotonic {
    NOW.plus_ns(s * NS_PER_S)
}

#[test]
fn an_order_holds_until_its_time_is_over_or_somebody_ends_it() {
    let path = file("holds");
    let missing = inhibit::order(&path, after(60), "ann", "x").expect_err("no guard yet");
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    let guard = Deadlines::open(&path, HOUR_NS).expect("made");
    assert_eq!(
        fs::metadata(&path).expect("there").permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(guard.until(0, NOW), None);
    inhibit::order(&path, after(60), "ann", "new \u{1b}[2J fans").expect("ordered");
    assert_eq!(guard.until(0, NOW), Some(after(60)));
    assert_eq!(guard.until(0, after(59)), Some(after(60)));
    assert_eq!(guard.until(0, after(60)), None, "over");
    assert_eq!(guard.until(1, NOW), None, "another deadline");
    let told = inhibit::read(&path).expect("an order");
    assert_eq!(
        (told.by.as_str(), told.reason.as_str()),
        ("ann", "new ?[2J fans")
    );
    inhibit::end(&path, "bob").expect("ended");
    assert_eq!(guard.until(0, NOW), None);
    let told = inhibit::read(&path).expect("an order");
    assert_eq!(told.ended_by.as_deref(), Some("bob"));
}

#[test]
fn an_order_outlives_the_guard_and_its_file_stays_the_same() {
    let path = file("outlives");
    let first = Deadlines::open(&path, HOUR_NS).expect("made");
    let inode = || fs::metadata(&path).expect("there").ino();
    let before = inode();
    inhibit::order(&path, after(60), "ann", "x").expect("ordered");
    let second = Deadlines::open(&path, HOUR_NS).expect("opened");
    assert_eq!(second.until(0, NOW), Some(after(60)));
    assert_eq!(inode(), before);
    inhibit::end(&path, "ann").expect("ended");
    assert_eq!((first.until(0, NOW), second.until(0, NOW)), (None, None));
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
        inhibit::order(&path, after(s), "ann", "x").expect("ordered");
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
    // A new one of which half has been written; and a text that is none.
    inhibit::order(&path, after(60), "ann", "x").expect("ordered");
    put(0, after(90).0);
    assert_eq!(guard.until(0, NOW), None);
    for text in [&b"{"[..], b"\xff\xfe", &[b'x'; 1024]] {
        bytes.write_all_at(&[0; 1024], 1024).expect("written");
        bytes.write_all_at(text, 1024).expect("written");
        assert_eq!(inhibit::read(&path), None);
    }
    bytes.write_all_at(b"{}\0", 1024).expect("written");
    assert_eq!(inhibit::read(&path), Some(Order::default()));
}

#[test]
fn what_is_no_file_is_neither_made_nor_followed() {
    let path = file("link");
    let target = file("target");
    fs::write(&target, "x").expect("written");
    std::os::unix::fs::symlink(&target, &path).expect("made");
    assert!(Deadlines::open(&path, HOUR_NS).is_err());
    assert!(inhibit::order(&path, after(60), "ann", "x").is_err());
    assert_eq!(fs::read(&target).expect("there"), b"x");
}

#[test]
fn the_status_says_who_inhibits_the_guard_for_how_long_and_what_is_ignored() {
    let path = file("status");
    let _guard = Deadlines::open(&path, HOUR_NS).expect("made");
    inhibit::order(&path, after(60), "ann", "new fans").expect("ordered");
    let mut status = Status::of_page(None, NOW);
    inhibit::tell(&mut status, &path);
    assert_eq!(status.inhibited, None, "the guard's word alone counts");
    status.host_watchdog.device = "/dev/watchdog0".into();
    status.inhibited = Some(Inhibited {
        left_ms: 59_000,
        ignored: Some("timers of pcpu 2".to_owned()),
        ..Inhibited::default()
    });
    inhibit::tell(&mut status, &path);
    let mut text = String::new();
    render(&status, &mut text).expect("rendered");
    for line in [
        "INHIBITED      for 59.0 s more, by ann: new fans",
        "IGNORED        timers of pcpu 2",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }
}
