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
use xenwarden::guard::deadlines::Deadlines;
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
fn what_is_no_text_of_an_order_is_none() {
    let path = file("text");
    let _guard = Deadlines::open(&path, HOUR_NS).expect("made");
    let bytes = fs::File::options().write(true).open(&path).expect("opens");
    for text in [&b"{"[..], b"\xff\xfe", &[b'x'; 1024]] {
        bytes.write_all_at(&[0; 1024], 1024).expect("written");
        bytes.write_all_at(text, 1024).expect("written");
        assert_eq!(inhibit::read(&path), None);
    }
    bytes.write_all_at(b"{}\0", 1024).expect("written");
    assert_eq!(inhibit::read(&path), Some(Order::default()));
}

#[test]
fn the_status_says_who_inhibits_the_guard_for_how_long_and_what_is_ignored() {
    let path = file("status");
    let _guard = Deadlines::open(&path, HOUR_NS).expect("made");
    inhibit::order(&path, after(60), "ann", "new fans").expect("ordered");
    let mut status = Status::of_page(None, None, NOW);
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
