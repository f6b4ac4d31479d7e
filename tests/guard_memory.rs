// SPDX-License-Identifier: GPL-2.0-only
//! Of what the guard remembers of each domid only a part is in memory, and that changes no verdict.
//!
//! Memory is locked here as the guard locks it, and what the process has of it is read from the kernel: so there is one
//! test in this file. It runs as root, or with RLIMIT_MEMLOCK raised.
#![allow(clippy::expect_used)] // how tests fail

use std::fs;
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;
use xenwarden::guard::evidence::{Verdict, Work};
use xenwarden::guard::sight::{Patched, Sight};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};
use xenwarden::sys::realtime::lock_memory;
use xenwarden::xen::simulation::Simulation;

const TIMEOUT_S: u32 = 60;
const GUESTS: u16 = 1_000;
/// Far beyond those that are used, and the part ahead of them.
const FAR: u16 = 30_000;
/// What the far part takes at least, KiB, of 640 in all; a thread takes some 50.
const FAR_KIB: u64 = 500;
/// The thread that makes records resident looks twice a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the process has in memory, KiB (proc_pid_status(5)).
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|n| n.parse().ok()).expect("a number")
}

fn has_thread(name: &str) -> bool {
    let mut tasks = fs::read_dir("/proc/self/task").expect("read").flatten();
    tasks.any(|task| {
        let comm = fs::read_to_string(task.path().join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    })
}

fn wait(until: impl Fn() -> bool, what: &str) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// A look in each of so many seconds, in all of which every canary runs and those guests feed.
fn pass(
    sight: &mut Patched<'_>,
    xen: &Simulation,
    seconds: std::ops::Range<u64>,
    fed: &[u16],
) -> Verdict {
    let mut verdict = None;
    for second in seconds {
        xen.tick_all();
        fed.iter().for_each(|domid| xen.feed(*domid, 0));
        verdict = Some(sight.look(&|| Monotonic(second * NS_PER_S)).0);
    }
    verdict.expect("a look")
}

#[test]
fn what_is_far_from_used_takes_no_memory_and_a_guest_that_comes_there_is_judged_all_the_same() {
    const SERVED: Verdict = Verdict::Served { excused: None };
    let xen = Simulation::new(2);
    for domid in 1..=GUESTS {
        xen.create(domid, Uuid::from_u128(domid.into()));
        xen.arm(domid, 0, TIMEOUT_S);
    }
    let fed: Vec<u16> = (1..=GUESTS).collect();
    let mut sight = Patched::new(xen.table());
    lock_memory().expect("memory can be locked");
    let all = resident_kib();
    sight.begin(1).expect("begins");
    let few = resident_kib();
    assert!(few + FAR_KIB <= all, "{few} KiB of {all}");
    // It names itself.
    wait(|| has_thread("room"), "no thread");
    assert_eq!(pass(&mut sight, &xen, 1_000..1_005, &fed), SERVED);
    // A look needs no more of it.
    let looked = resident_kib();
    assert!(looked + FAR_KIB <= all, "{looked} KiB of {all}");

    xen.create(FAR, Uuid::from_u128(FAR.into()));
    xen.arm(FAR, 0, TIMEOUT_S);
    assert_eq!(pass(&mut sight, &xen, 1_005..1_060, &fed), SERVED);
    let overdue = pass(&mut sight, &xen, 1_060..1_070, &fed);
    let far = Work::GuestWatchdog {
        domid: FAR,
        slot: 1,
    };
    assert!(
        matches!(overdue, Verdict::Lagging { work, .. } if work == far),
        "{overdue:?}"
    );
    xen.feed(FAR, 0);
    assert_eq!(pass(&mut sight, &xen, 1_070..1_071, &fed), SERVED);

    // All domids up to there count as used: they become resident as time comes.
    let moved_on = || resident_kib() >= few + FAR_KIB;
    wait(moved_on, "it does not become resident");
    assert_eq!(pass(&mut sight, &xen, 1_071..1_072, &fed), SERVED);
}
