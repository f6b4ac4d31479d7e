// SPDX-License-Identifier: GPL-2.0-only
//! What a guard page tells in tests, and where it lies.

#![allow(dead_code)] // each program tells a part of it

use std::fs;
use std::path::PathBuf;
use xenwarden::event::Coverage;
use xenwarden::guard::evidence::Work;
use xenwarden::guard::gate::Decision;
use xenwarden::guard::histogram::Histogram;
use xenwarden::guard::page::{Counters, Info, Phase, Status};
use xenwarden::sys::clock::Monotonic;

/// What a guard tells of itself.
pub fn info() -> Info {
    Info {
        pid: 77,
        started: Monotonic(5),
        device: "/dev/watchdog0".into(),
        identity: "i6300ESB timer".to_owned(),
        timeout_ns: 5_000_000_000,
        latest_ns: 5_000_000_000,
        period_ns: 250_000_000,
        coverage: Coverage::Full,
        xen_slot: true,
        weakness: "it does 6 s".to_owned(),
    }
}

/// And of the present.
pub fn status(decision: Decision) -> Status {
    Status {
        phase: Phase::Armed,
        looked: Monotonic(40),
        decision,
        since: Monotonic(30),
        last_kick: Monotonic(20),
        served: Monotonic(20),
        answered: Monotonic(20),
        excused: Some(Work::PcpuScheduler(1)),
        inhibited: None,
        ignored: None,
        entries: 0,
        counters: Counters {
            looks: 1,
            kicks: 2,
            refused: 3,
            withholds: 4,
            max_gap_ns: 5,
            max_look_ns: 6,
            max_kick_ns: 7,
            minor_faults: 8,
            major_faults: 9,
            late: Histogram {
                counts: [10, 11, 12, 13, 14, 15, 16, 17],
                sum_ns: 18,
            },
            kick_took: Histogram {
                counts: [20, 21, 22, 23, 24, 25, 26, 27],
                sum_ns: 28,
            },
        },
    }
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("xenwarden-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
