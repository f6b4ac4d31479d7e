// SPDX-License-Identifier: GPL-2.0-only
//! The figures that doc/sizing.md has of the programs are those of the programs.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use std::path::Path;
use xenwarden::config::{Policy, file::parse};
use xenwarden::event::Coverage;
use xenwarden::guard::page::Info;
use xenwarden::state::drill::{Drills, FenceBound};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};

const PAGE: &str = include_str!("../doc/sizing.md");
/// The granularity that the page counts with, seconds.
const G: u64 = 1;

fn policy(text: &str) -> Result<Policy, String> {
    let file = parse(Path::new("x.conf"), text.as_bytes()).map_err(|e| e.to_string())?;
    Policy::from_file(file)
}

/// Without a drill, for a device that is armed with this timeout, seconds.
fn fence_bound_s(timeout_s: u64, default: &Policy) -> u64 {
    let info = Info {
        pid: 1,
        started: Monotonic(0),
        device: "/dev/watchdog0".into(),
        identity: String::new(),
        timeout_ns: timeout_s * NS_PER_S,
        latest_ns: timeout_s * NS_PER_S,
        period_ns: default.sample_ns,
        coverage: Coverage::Full,
        xen_slot: false,
        weakness: String::new(),
    };
    let drills = Drills {
        measured: None,
        outlived: None,
    };
    let bound = FenceBound::of(&info, &drills).expect("a bound");
    assert_eq!(bound.ms % 1_000, 0);
    bound.ms / 1_000
}

/// The cells of the rows that begin so.
fn rows(begin: &str) -> Vec<Vec<&str>> {
    let rows = PAGE.lines().filter(|line| line.starts_with(begin));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// The last number in a text.
fn number(text: &str) -> u64 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let last = numbers.rfind(|word| !word.is_empty());
    last.and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn what_follows_from_a_timeout_is_what_the_programs_make_of_it() {
    let default = policy("").expect("defaults");
    let mut seen = Vec::new();
    for row in rows("| ").iter().filter(|row| row.len() == 6) {
        let Ok(t) = row[0].parse::<u64>() else {
            continue;
        };
        seen.push(t);
        let cells: Vec<u64> = row.iter().map(|cell| number(cell)).collect();
        let [_, dead, wedged, bound, restart, least] = cells[..] else {
            panic!("{row:?}");
        };
        let evidence = fence_bound_s(t, &default) - 2 * t;
        assert_eq!((dead, wedged), (t + G, t + evidence + G), "{row:?}");
        assert_eq!(bound, fence_bound_s(t, &default), "{row:?}");
        assert_eq!(restart, (2 * t).min(60), "{row:?}");
        let hardware = |s| {
            policy(&format!(
                "[host-watchdog]\ntimeout_s = {t}\n[crash_dump]\nhardware_s = {s}"
            ))
        };
        assert!(hardware(least).is_ok(), "{row:?}");
        assert!(hardware(least - 1).is_err(), "{row:?}");
    }
    assert!(seen.len() > 3 && seen.contains(&u64::from(default.timeout_s)));
    let stopped = format!("`stopped_timeout_s`** ({})", default.stopped_timeout_s);
    assert!(PAGE.contains(&stopped), "{stopped}");
    assert_eq!(default.sample_ns, 250 * NS_PER_MS);
}

#[test]
fn the_times_for_a_dump_follow_from_the_timeouts() {
    let default = policy("").expect("defaults");
    let t = u64::from(default.timeout_s);
    let wedges: Vec<_> = rows("| `hardware_s")
        .into_iter()
        .filter(|row| row[0].ends_with("fires first") || row[0].ends_with("a wedge"))
        .collect();
    assert_eq!(wedges.len(), 2);
    for row in rows("| `hardware_s") {
        let first = row[0].split(',').next().expect("the timeout");
        let hardware = number(first);
        // With a wedge T and up to a second go by before the slot fires.
        let gone = if wedges.contains(&row) { t + 1 } else { 1 };
        assert_eq!(number(row[1]), hardware - gone, "{row:?}");
        assert_eq!(number(row[2]), hardware / 2 - gone, "{row:?}");
        assert_eq!(number(row[3]), fence_bound_s(hardware, &default), "{row:?}");
    }
    let given = PAGE
        .lines()
        .find_map(|line| line.trim().strip_prefix("hardware_s = "));
    let bound = fence_bound_s(number(given.expect("an example")), &default);
    assert!(PAGE.contains(&format!("then prints {bound}.")), "{bound}");
}
