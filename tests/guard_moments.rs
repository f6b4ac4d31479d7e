// SPDX-License-Identifier: GPL-2.0-only
//! To which moment each judgement holds, to the nanosecond where it is said to: the clock of
//! these tests is set, and a look may take any time.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::cell::Cell;
use uuid::Uuid;
use xenwarden::guard::evidence::{Evidence, Unknown, Verdict, Work};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::xen::simulation::Simulation;

const MS: u64 = NS_PER_MS;
const S: u64 = NS_PER_S;
/// The steps in which the guard keeps a guest's moments.
const STEP: u64 = 1 << 24;
const GUEST: u16 = 5;
const SERVED: Verdict = Verdict::Served { excused: None };

struct Host {
    xen: Simulation,
    evidence: Evidence,
}

impl Host {
    /// Seen to make progress shortly before `at`, with one guest.
    fn proven(at: u64) -> Self {
        let xen = Simulation::new(2);
        let evidence = Evidence::new(&xen.table());
        let mut host = Self { xen, evidence };
        host.look(at - 2 * MS);
        host.xen.tick_all();
        assert_eq!(host.look(at - MS), SERVED);
        host.xen.create(GUEST, Uuid::from_u128(7));
        host
    }

    /// A look that begins at `at` and takes `ns`.
    fn look_for(&mut self, at: u64, ns: u64) -> Verdict {
        let clock = Cell::new(at);
        let table = self.xen.table();
        let (verdict, began) = self
            .evidence
            .look(&table, || Monotonic(clock.replace(at + ns)));
        assert_eq!(began, Monotonic(at));
        verdict
    }

    fn look(&mut self, at: u64) -> Verdict {
        self.look_for(at, 0)
    }

    /// A look at a host on which all but the guests has been served just now.
    fn look_at_guests(&mut self, at: u64) -> Verdict {
        self.xen.tick_all();
        self.look(at)
    }
}

fn lag(work: Work, overdue_ns: u64) -> Verdict {
    Verdict::Lagging { work, overdue_ns }
}

fn lags(verdict: Verdict) -> Option<Work> {
    match verdict {
        Verdict::Lagging { work, .. } => Some(work),
        _ => None,
    }
}

const SLOT: Work = Work::GuestWatchdog {
    domid: GUEST,
    slot: 1,
};

#[test]
fn timers_lag_once_their_period_and_the_slack_have_passed_since_the_look_that_saw_them_run() {
    // A look of 20 ms counts as a moment, the longer one from its end.
    for (took, from) in [(0, 0), (20 * MS, 0), (20 * MS + 1, 20 * MS + 1), (S, S)] {
        let mut host = Host::proven(100 * S);
        host.xen.tick_all();
        host.look_for(100 * S, took);
        host.xen.tick(0);
        let due = 100 * S + from + 1_500 * MS;
        assert_eq!(host.look(due), SERVED, "{took}");
        host.xen.tick(0);
        let late = host.look(due + 1);
        assert_eq!(late, lag(Work::PcpuTimers(1), 500 * MS + 1), "{took}");
    }
}

#[test]
fn a_scheduler_lags_once_the_slack_has_passed_since_the_look_that_saw_the_request() {
    for (took, from) in [(0, 0), (20 * MS + 1, 20 * MS + 1)] {
        let mut host = Host::proven(100 * S);
        host.xen.request(1);
        host.look_for(100 * S, took);
        let due = 100 * S + from + 500 * MS;
        assert_eq!(host.look(due), SERVED, "{took}");
        let late = host.look(due + 1);
        assert_eq!(late, lag(Work::PcpuScheduler(1), 500 * MS + 1), "{took}");
    }
}

#[test]
fn a_guest_seen_in_a_look_that_was_held_up_has_its_timeout_from_the_end_of_that() {
    let mut host = Host::proven(100 * S);
    host.xen.arm(GUEST, 0, 2);
    host.xen.tick_all();
    host.look_for(100 * S, S);
    assert_eq!(host.look_at_guests(101 * S + 2_500 * MS), SERVED);
    let late = host.look_at_guests(101 * S + 2_500 * MS + 2 * STEP);
    assert_eq!(lags(late), Some(SLOT));
}

#[test]
fn a_guest_is_not_granted_more_by_each_look_that_is_held_up() {
    let mut host = Host::proven(100 * S);
    host.xen.arm(GUEST, 0, 1);
    // Each look begins as soon as the one before it has ended.
    let mut told = None;
    for n in 0..20 {
        host.xen.tick_all();
        let verdict = host.look_for(100 * S + n * 240 * MS, 239 * MS);
        told = told.or(lags(verdict).map(|_| n));
    }
    // Seen at 0.239 s, it is overdue after 1.739 s, and told by the look at 1.92 s.
    assert_eq!(told, Some(8));
}

#[test]
fn a_scheduler_that_is_asked_again_and_again_is_served_while_it_decides() {
    let mut host = Host::proven(100 * S);
    // Asked at each look, and never for the same: a busy host looks so for minutes.
    for n in 0..40 {
        host.xen.tick_all();
        host.xen.request(0);
        host.xen.request(1);
        assert_eq!(host.look(100 * S + n * 250 * MS), SERVED);
        host.xen.decide(0);
        host.xen.decide(1);
    }
}

#[test]
fn a_scheduler_is_excused_for_the_slack_after_the_debug_keys() {
    let mut host = Host::proven(100 * S);
    host.xen.excuse(1);
    host.xen.request(1);
    for n in 0..20 {
        host.xen.canary(0);
        host.xen.canary(1);
        host.look(100 * S + n * 250 * MS);
    }
    host.xen.excuse(0);
    host.xen.canary(0);
    host.xen.canary(1);
    let last = 100 * S + 19 * 250 * MS;
    let excused = Verdict::Served {
        excused: Some(Work::PcpuScheduler(1)),
    };
    assert_eq!(host.look(last + 500 * MS), excused);
    let late = host.look(last + 500 * MS + 1);
    assert_eq!(lags(late), Some(Work::PcpuScheduler(1)));
    host.xen.decide(1);
    assert_eq!(host.look(last + 600 * MS), SERVED);
}

#[test]
fn a_scheduler_is_excused_for_no_longer_than_half_a_minute() {
    let mut host = Host::proven(100 * S);
    host.xen.excuse(1);
    host.xen.request(0);
    host.look(100 * S);
    let mut look = |at| {
        host.xen.canary(0);
        host.xen.canary(1);
        host.look(at)
    };
    let excused = Verdict::Served {
        excused: Some(Work::PcpuScheduler(0)),
    };
    assert_eq!(look(100 * S + 500 * MS), SERVED, "within the slack");
    assert_eq!(look(100 * S + 500 * MS + 1), excused);
    assert_eq!(look(130 * S), excused);
    assert_eq!(lags(look(130 * S + 1)), Some(Work::PcpuScheduler(0)));
}

#[test]
fn what_has_been_due_longest_is_told() {
    let due = |first: usize, second: usize| {
        let mut host = Host::proven(100 * S);
        host.xen.tick(first);
        host.look(100 * S);
        host.xen.tick(second);
        host.look(100 * S + 100 * MS);
        lags(host.look(103 * S))
    };
    assert_eq!(due(0, 1), Some(Work::PcpuTimers(0)));
    assert_eq!(due(1, 0), Some(Work::PcpuTimers(1)));
    let mut host = Host::proven(100 * S);
    host.xen.tick_all();
    host.look(100 * S);
    assert_eq!(
        lags(host.look(103 * S)),
        Some(Work::PcpuTimers(0)),
        "of two the first"
    );
}

#[test]
fn a_guests_moments_are_rounded_in_its_favour() {
    // Seen in the last moment of a step, and at the first: 1.5 s are 89.4 steps.
    let step = 10_000 * STEP;
    for (seen, told) in [(step - 1, step + 90 * STEP), (step, step + 90 * STEP)] {
        let mut host = Host::proven(seen);
        host.xen.arm(GUEST, 0, 1);
        assert_eq!(host.look(seen), SERVED);
        assert_eq!(
            host.look_at_guests(seen + 1),
            SERVED,
            "within the same step"
        );
        assert_eq!(host.look_at_guests(told - 1), SERVED, "{seen}");
        assert_eq!(lags(host.look_at_guests(told)), Some(SLOT), "{seen}");
    }
}

#[test]
fn a_guests_moments_go_on_after_they_wrap() {
    // 2^32 steps are 834 days.
    let wrap = STEP << 32;
    for seen in [wrap - S, wrap - 1, wrap, wrap + 1, wrap + 100 * S] {
        let mut host = Host::proven(seen);
        host.xen.arm(GUEST, 0, 2);
        assert_eq!(host.look(seen), SERVED);
        assert_eq!(host.look_at_guests(seen + 2_500 * MS), SERVED);
        let late = host.look_at_guests(seen + 2_500 * MS + 2 * STEP);
        assert_eq!(lags(late), Some(SLOT), "{seen}");
    }
}

#[test]
fn a_guests_moment_counts_for_half_of_what_can_be_told_apart() {
    let seen = 10_000 * STEP;
    let half = (u64::from(u32::MAX) / 2) * STEP;
    let mut host = Host::proven(seen);
    host.xen.arm(GUEST, 0, 1);
    host.look(seen);
    assert_eq!(lags(host.look_at_guests(seen + half)), Some(SLOT));
    assert_eq!(host.look_at_guests(seen + half + STEP), SERVED);
}

#[test]
fn progress_that_was_seen_once_stays_seen_while_another_pcpu_is_waited_for() {
    let mut host = Host {
        xen: Simulation::new(2),
        evidence: Evidence::new(&Simulation::new(2).table()),
    };
    let unproven = |cpu| Verdict::Unknown(Unknown::Unproven { cpu });
    assert_eq!(host.look(S), unproven(0));
    host.xen.tick(0);
    for n in 0..4 {
        assert_eq!(host.look(S + n * 250 * MS), unproven(1));
    }
    host.xen.tick_all();
    assert_eq!(host.look(2 * S), SERVED);
    // From then on a pCPU that comes is given its period.
    host.xen.online(1, false);
    for n in 1..4 {
        assert_eq!(host.look(2 * S + n), SERVED);
    }
    host.xen.online(1, true);
    for n in 4..8 {
        assert_eq!(host.look(2 * S + n), SERVED);
    }
}

#[test]
fn a_guard_that_is_started_anew_grants_each_guest_its_timeout_once_more() {
    let mut host = Host::proven(100 * S);
    host.xen.arm(GUEST, 0, 60);
    host.look(100 * S);
    // Killed one second before it would have seen the deadline pass.
    host.evidence = Evidence::new(&host.xen.table());
    host.look(159 * S);
    host.xen.tick_all();
    assert_eq!(host.look_at_guests(159 * S + 60_500 * MS), SERVED);
    let late = host.look_at_guests(159 * S + 60_500 * MS + 2 * STEP);
    assert_eq!(
        lags(late),
        Some(SLOT),
        "the bound that the specification gives"
    );
}

#[test]
fn each_verdict_has_its_words() {
    let unknown = [
        (Unknown::Unproven { cpu: 3 }, "pcpu 3 has not been seen"),
        (Unknown::NoPcpu, "no pcpu online"),
        (Unknown::NoCanaries, "canaries are switched off"),
        (
            Unknown::UnprovenVcpu { vcpu: 1 },
            "dom0 vcpu 1 has not been",
        ),
        (Unknown::NoVcpu, "no dom0 vcpu has been seen"),
        (Unknown::Stale { age_ns: 251 * MS }, "stale: 251 ms old"),
    ];
    for (why, words) in unknown {
        assert!(why.to_string().contains(words), "{why}");
    }
    let works = [
        (SLOT, "guest watchdog of domain 5, slot 1"),
        (Work::PcpuTimers(2), "timers of pcpu 2"),
        (Work::PcpuScheduler(2), "scheduler of pcpu 2"),
        (Work::Vcpu(1), "dom0 vcpu 1"),
        (Work::Probe(3), "probe of pcpu 3"),
        (Work::Probe(0xffff), "probe of an unknown pcpu"),
        (
            Work::PcpuStarving {
                cpu: 2,
                domid: 7,
                vcpu: 1,
            },
            "runnable vcpu 1 of domain 7 on idle pcpu 2",
        ),
    ];
    for (work, words) in works {
        assert_eq!(work.to_string(), words);
    }
}
