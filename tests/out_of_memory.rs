// SPDX-License-Identifier: GPL-2.0-only
//! The guard is never the OOM killer's choice, whatever started it. Alone here: it is about the whole process.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::io::ErrorKind;
use xenwarden::sys::realtime::be_spared_when_memory_runs_out;

#[test]
fn the_oom_killer_spares_whoever_asks_for_it() {
    let score = || fs::read_to_string("/proc/self/oom_score_adj").expect("readable");
    let before = score();
    assert_ne!(before.trim(), "-1000");
    match be_spared_when_memory_runs_out() {
        Ok(()) => assert_eq!(score().trim(), "-1000"),
        // Without the privilege, which not every machine gives root.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert_eq!(score(), before);
        }
    }
}
