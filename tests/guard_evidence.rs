// SPDX-License-Identifier: GPL-2.0-only
//! What looks at the liveness table prove, in virtual time: a simulated host is changed,
//! looked at every 250 ms, and the verdicts compared.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use uuid::Uuid;
use xenwarden::guard::evidence::{Evidence, Unknown, Verdict, Work};
use xenwarden::guard::sight::{Patched, Sight};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::xen::NoTable;
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Malformed;

const PERIOD_MS: u64 = 250;
const GUEST: u16 = 5;
const SERVED: Verdict = Verdict::Served { excused: None };
const SLOT: Work = Work::GuestWatchdog {
    domid: GUEST,
    slot: 1,
};

/// A host that ticks once a second, but for what a test keeps from it.
struct Host {
    xen: Simulation,
    evidence: RefCell<Evidence>,
    now_ms: Cell<u64>,
    /// pCPUs whose canary runs no more.
    no_timers: Vec<usize>,
    /// pCPUs whose scheduler decides no more.
    no_scheduler: Vec<usize>,
}

impl Host {
    fn new() -> Self {
        let xen = Simulation::new(2);
        let evidence = RefCell::new(Evidence::new(&xen.table()));
        let now_ms = Cell::new(1_000_000);
        Self {
            xen,
            evidence,
            now_ms,
            no_timers: Vec::new(),
            no_scheduler: Vec::new(),
        }
    }

    /// A host that has been seen to make progress, with one guest.
    fn proven() -> Self {
        let mut host = Self::new();
        host.pass(1_500);
        assert_eq!(host.look(), SERVED);
        host.xen.create(GUEST, Uuid::from_u128(7));
        host
    }

    fn tick(&self) {
        for cpu in 0..self.xen.table().nr_pcpus() {
            if self.no_timers.contains(&cpu) {
                continue;
            }
            self.xen.canary(cpu);
            self.xen.request(cpu);
            if !self.no_scheduler.contains(&cpu) {
                self.xen.decide(cpu);
            }
        }
    }

    /// A look at the present.
    fn look(&mut self) -> Verdict {
        let now = || Monotonic(self.now_ms.get() * NS_PER_MS);
        self.evidence.borrow_mut().look(&self.xen.table(), now).0
    }

    /// Time passes in which nobody looks.
    fn sleep(&self, ms: u64) {
        for _ in 0..ms / PERIOD_MS {
            self.now_ms.set(self.now_ms.get() + PERIOD_MS);
            if self.now_ms.get() % 1_000 == 0 {
                self.tick();
            }
        }
    }

    /// Time passes, with a look each 250 ms; gives the last verdict.
    fn pass(&mut self, ms: u64) -> Verdict {
        let mut verdict = SERVED;
        for _ in 0..ms / PERIOD_MS {
            self.sleep(PERIOD_MS);
            verdict = self.look();
        }
        verdict
    }

    /// Looks until the verdict is not served; gives it and the time that took.
    fn until_not_served(&mut self, most_ms: u64) -> Option<(Verdict, u64)> {
        let began = self.now_ms.get();
        while self.now_ms.get() - began < most_ms {
            let verdict = self.pass(PERIOD_MS);
            if verdict != SERVED {
                return Some((verdict, self.now_ms.get() - began));
            }
        }
        None
    }
}

fn work(verdict: Verdict) -> Option<Work> {
    match verdict {
        Verdict::Lagging { work, .. } => Some(work),
        _ => None,
    }
}

#[test]
fn nothing_is_served_before_each_pcpu_was_seen_to_make_progress() {
    let mut host = Host::new();
    let unproven = |cpu| Verdict::Unknown(Unknown::Unproven { cpu });
    assert_eq!(host.look(), unproven(0));
    host.xen.tick(0);
    assert_eq!(host.look(), unproven(1));
    host.xen.canary(1);
    host.xen.request(1);
    assert_eq!(host.look(), unproven(1), "its scheduler has not decided");
    host.xen.decide(1);
    assert_eq!(host.look(), SERVED);
}

#[test]
fn a_host_whose_clock_is_frozen_is_never_served() {
    let mut host = Host::new();
    host.no_timers = vec![0, 1];
    for _ in 0..400 {
        assert_ne!(host.pass(PERIOD_MS), SERVED);
    }
}

#[test]
fn a_pcpu_that_stops_running_timers_is_told_after_its_period_and_the_slack() {
    let mut host = Host::proven();
    host.pass(1_000 - host.now_ms.get() % 1_000);
    host.no_timers = vec![1];
    let (verdict, after_ms) = host.until_not_served(10_000).expect("withheld");
    assert_eq!(work(verdict), Some(Work::PcpuTimers(1)));
    assert_eq!(after_ms, 1_750, "the first look beyond 1500 ms");
    host.no_timers.clear();
    host.pass(1_000);
    assert_eq!(host.look(), SERVED, "nothing latches");
}

#[test]
fn a_scheduler_that_stops_deciding_is_told_after_the_slack() {
    let mut host = Host::proven();
    host.no_scheduler = vec![0];
    let (verdict, after_ms) = host.until_not_served(10_000).expect("withheld");
    assert_eq!(work(verdict), Some(Work::PcpuScheduler(0)));
    assert!(after_ms <= 1_000 + 750, "{after_ms}");
}

#[test]
fn requests_that_are_under_way_at_each_look_are_served() {
    let mut host = Host::proven();
    for _ in 0..40 {
        host.xen.request(1);
        assert_eq!(host.pass(PERIOD_MS), SERVED);
        host.xen.decide(1);
    }
}

#[test]
fn a_lost_handler_is_told_once_the_timeout_and_the_slack_have_passed() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 10);
    let (verdict, after_ms) = host.until_not_served(20_000).expect("withheld");
    assert_eq!(work(verdict), Some(SLOT));
    assert!((10_500..=11_000).contains(&after_ms), "{after_ms}");
    host.xen.expire(GUEST, 0);
    assert_eq!(host.look(), SERVED);
}

#[test]
fn a_guest_that_expired_is_served_however_long_ago() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 1);
    host.xen.expire(GUEST, 0);
    assert_eq!(host.until_not_served(1_000_000), None);
}

#[test]
fn a_guest_that_feeds_in_time_is_served_whatever_its_handler_did_before() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 2);
    for _ in 0..50 {
        assert_eq!(host.pass(1_000), SERVED);
        host.xen.feed(GUEST, 0);
    }
    host.xen.disarm(GUEST, 0);
    assert_eq!(host.until_not_served(100_000), None);
}

#[test]
fn an_arming_with_no_time_at_all_is_due_at_once() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 1, 0);
    let (verdict, after_ms) = host.until_not_served(5_000).expect("withheld");
    assert!(matches!(
        work(verdict),
        Some(Work::GuestWatchdog { slot: 2, .. })
    ));
    assert!(after_ms <= 1_000, "{after_ms}");
}

#[test]
fn another_domain_with_the_same_domid_and_the_same_count_is_not_overdue() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 10);
    host.pass(9_000);
    // All between two looks, as a script of an operator might.
    host.xen.destroy(GUEST);
    host.xen.create(GUEST, Uuid::from_u128(8));
    host.xen.arm(GUEST, 0, 10);
    assert_eq!(host.until_not_served(10_000), None);
    assert!(host.until_not_served(2_000).is_some(), "its own deadline");
}

#[test]
fn a_reader_who_was_away_does_not_take_that_for_a_lag() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 10);
    host.look();
    for away_ms in [2_000, 30_000, 3_600_000] {
        host.sleep(away_ms - 250);
        host.xen.feed(GUEST, 0);
        host.sleep(250);
        assert_eq!(host.look(), SERVED, "{away_ms}");
    }
}

#[test]
fn a_request_that_canaries_found_while_the_reader_was_away_is_as_old_as_they_prove() {
    // Two runs of the canary: the second found the request of the first.
    for (canaries, expected) in [(1, None), (2, Some(1_000)), (4, Some(3_000))] {
        let mut host = Host::proven();
        host.pass(1_000 - host.now_ms.get() % 1_000);
        host.no_scheduler = vec![1];
        host.sleep(canaries * 1_000 + 500);
        let overdue_ms = match host.look() {
            Verdict::Lagging { work, overdue_ns } => {
                assert_eq!(work, Work::PcpuScheduler(1));
                Some(overdue_ns / NS_PER_MS)
            }
            verdict => {
                assert_eq!(verdict, SERVED);
                None
            }
        };
        assert_eq!(overdue_ms, expected, "{canaries} canaries");
        host.no_scheduler.clear();
        host.pass(1_000);
        assert_eq!(host.look(), SERVED, "nothing latches");
    }
}

#[test]
fn a_pcpu_that_comes_back_has_no_age_by_what_was_counted_before() {
    let mut host = Host::proven();
    host.xen.online(1, false);
    host.no_timers = vec![1];
    assert_eq!(host.pass(1_000), SERVED);
    // Counted while it was offline, and asked just before the look.
    (0..3).for_each(|_| host.xen.canary(1));
    host.now_ms.set(host.now_ms.get() + 5_000);
    host.xen.tick(0);
    host.xen.online(1, true);
    host.xen.request(1);
    let verdict = host.look();
    assert_ne!(work(verdict), Some(Work::PcpuScheduler(1)), "{verdict:?}");
}

#[test]
fn a_request_proves_no_age_by_what_came_before_a_decision_or_by_the_hypervisors_clock_alone() {
    let mut host = Host::proven();
    // Decided late, in one period out of two, and asked for anew just before the look.
    for cpu in 0..2 {
        host.xen.canary(cpu);
        host.xen.request(cpu);
        host.xen.canary(cpu);
        host.xen.request(cpu);
        host.xen.decide(cpu);
    }
    host.sleep(5_000);
    host.no_scheduler = vec![0, 1];
    host.tick();
    assert_eq!(host.look(), SERVED, "the last request may be new");
    // A look that read the canary's count before a run of it, and the requests after that.
    let mut host = Host::proven();
    host.pass(1_000 - host.now_ms.get() % 1_000);
    (0..2).for_each(|cpu| {
        host.xen.request(cpu);
        host.xen.decide(cpu);
    });
    host.look();
    (0..2).for_each(|cpu| host.xen.canary(cpu));
    host.no_scheduler = vec![0, 1];
    host.sleep(1_000);
    assert_eq!(host.look(), SERVED, "one run, which asked");
    // Canaries that all run at once, as no hypervisor's do: the reader's clock counts.
    let mut host = Host::proven();
    host.no_scheduler = vec![0, 1];
    host.look();
    (0..50).for_each(|_| host.tick());
    host.now_ms.set(host.now_ms.get() + 250);
    assert_eq!(host.look(), SERVED);
}

#[test]
fn a_reader_who_was_held_up_in_a_look_does_not_take_that_for_a_lag() {
    let mut host = Host::proven();
    host.xen.arm(GUEST, 0, 2);
    host.pass(250);
    // What the look sees came about while it was held up, after it had read the clock.
    for _ in 0..20 {
        let seen = Cell::new(false);
        let clock = || {
            if seen.replace(true) {
                host.sleep(1_750);
            }
            Monotonic(host.now_ms.get() * NS_PER_MS)
        };
        host.xen.feed(GUEST, 0);
        let verdict = host.evidence.borrow_mut().look(&host.xen.table(), clock).0;
        assert_eq!(verdict, SERVED);
        assert_eq!(host.pass(250), SERVED);
    }
}

#[test]
fn a_pcpu_that_goes_offline_and_comes_back_is_given_its_period_anew() {
    let mut host = Host::proven();
    host.no_timers = vec![1];
    host.xen.online(1, false);
    assert_eq!(host.until_not_served(60_000), None);
    host.xen.online(1, true);
    assert_eq!(host.pass(1_250), SERVED);
    host.no_timers.clear();
    assert_eq!(host.until_not_served(60_000), None);
    host.xen.online(0, false);
    host.xen.online(1, false);
    assert_eq!(host.look(), Verdict::Unknown(Unknown::NoPcpu));
}

#[test]
fn debug_keys_excuse_a_scheduler_for_half_a_minute_and_timers_never() {
    let mut host = Host::proven();
    host.xen.excuse(1);
    host.no_scheduler = vec![1];
    let mut excused = 0;
    let began = host.now_ms.get();
    let late = loop {
        match host.pass(PERIOD_MS) {
            Verdict::Served { excused: Some(_) } => excused += 1,
            Verdict::Served { excused: None } => {}
            other => break other,
        }
        assert!(host.now_ms.get() - began < 60_000, "excused for ever");
    };
    assert_eq!(work(late), Some(Work::PcpuScheduler(1)));
    // From the first look beyond the slack to 30 s.
    assert_eq!(excused, (30_000 - 500) / PERIOD_MS);
}

#[test]
fn timers_are_not_excused_by_debug_keys() {
    let mut host = Host::proven();
    host.xen.excuse(1);
    host.no_timers = vec![0];
    let (verdict, _) = host.until_not_served(3_000).expect("withheld");
    assert_eq!(work(verdict), Some(Work::PcpuTimers(0)));
}

#[test]
fn without_canaries_nothing_is_known() {
    let mut host = Host::proven();
    host.xen.store(5, 0);
    let verdict = host.pass(5_000);
    assert_eq!(verdict, Verdict::Unknown(Unknown::NoCanaries));
}

#[test]
fn all_domids_are_judged() {
    let mut host = Host::proven();
    let last = 0x7fef;
    host.xen.create(last, Uuid::nil());
    host.xen.arm(last, 1, 3);
    let (verdict, _) = host.until_not_served(10_000).expect("withheld");
    let expected = Work::GuestWatchdog {
        domid: last,
        slot: 2,
    };
    assert_eq!(work(verdict), Some(expected));
}

#[test]
fn a_guard_that_is_started_anew_does_not_forget_whose_deadline_had_passed() {
    let mut host = Host::proven();
    host.xen.create(GUEST + 1, Uuid::from_u128(9));
    host.xen.arm(GUEST + 1, 0, 59);
    host.xen.arm(GUEST, 1, 60);
    assert!(host.until_not_served(70_000).is_some(), "withheld");
    // Killed, and started anew: all else is served, and the guests have fed no more.
    let now = Monotonic(host.now_ms.get() * NS_PER_MS);
    let mut anew = Evidence::new(&host.xen.table());
    anew.overdue(&host.xen.table(), now);
    host.evidence = RefCell::new(anew);
    assert!(matches!(host.look(), Verdict::Lagging { .. }), "at once");
    for _ in 0..100 {
        assert_ne!(host.pass(PERIOD_MS), SERVED);
    }
    // The guard's way to look hands it on.
    let table = host.xen.table();
    let mut sight = Patched::new(table);
    sight.overdue(now);
    let (verdict, _) = sight.look(&|| now);
    assert!(matches!(verdict, Verdict::Lagging { .. }), "{verdict:?}");
    // The last guard named one of them; it may have known of both.
    host.xen.feed(GUEST, 1);
    let verdict = host.pass(PERIOD_MS);
    let other = Work::GuestWatchdog {
        domid: GUEST + 1,
        slot: 1,
    };
    assert_eq!(work(verdict), Some(other));
    host.xen.feed(GUEST + 1, 0);
    assert_eq!(host.pass(PERIOD_MS), SERVED, "nothing latches");
    // What has been served meanwhile is not held against it.
    host.xen.expire(GUEST, 1);
    host.xen.expire(GUEST + 1, 0);
    let now = Monotonic(host.now_ms.get() * NS_PER_MS);
    let table = host.xen.table();
    host.evidence.borrow_mut().overdue(&table, now);
    assert_eq!(host.pass(PERIOD_MS), SERVED);
}

#[test]
fn each_cause_is_said_in_words() {
    let said = [
        (Work::PcpuTimers(3).to_string(), "timers of pcpu 3"),
        (Work::PcpuScheduler(4).to_string(), "scheduler of pcpu 4"),
        (SLOT.to_string(), "guest watchdog of domain 5, slot 1"),
        (
            Unknown::Unproven { cpu: 2 }.to_string(),
            "pcpu 2 has not been seen to make progress",
        ),
        (Unknown::NoPcpu.to_string(), "no pcpu online"),
        (Unknown::NoCanaries.to_string(), "canaries are switched off"),
        (
            Unknown::Stale {
                age_ns: 251 * NS_PER_MS,
            }
            .to_string(),
            "evidence stale: 251 ms old",
        ),
        (
            NoTable::Errno(Errno::ESRCH).to_string(),
            "keeps no liveness table",
        ),
        (NoTable::Errno(Errno::EINVAL).to_string(), "liveness=0"),
        (NoTable::Errno(Errno::ENOMEM).to_string(), "memory"),
        (
            NoTable::Malformed(Malformed::Truncated).to_string(),
            "shorter",
        ),
        (NoTable::Malformed(Malformed::Magic).to_string(), "magic"),
        (
            NoTable::Malformed(Malformed::Abi(9)).to_string(),
            "its ABI is 9",
        ),
        (
            NoTable::Malformed(Malformed::Layout).to_string(),
            "contradicts",
        ),
    ];
    for (text, part) in said {
        let text = text.to_lowercase();
        assert!(
            text.contains(&part.to_lowercase()),
            "{text:?} has no {part:?}"
        );
    }
}
