// SPDX-License-Identifier: GPL-2.0-only
//! Starved vCPUs as evidence, in virtual time: the hypervisor of a simulated host looks for them
//! once a second, the guard looks each 250 ms, and the verdicts are compared.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use xenwarden::guard::evidence::{Evidence, Verdict, Work};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::Starved;

const SERVED: Verdict = Verdict::Served { excused: None };
const PERIOD_MS: u64 = 250;
const GRANTED_S: u64 = 5;
const DOMID: u16 = 7;
const WORK: Work = Work::PcpuStarving {
    cpu: 1,
    domid: DOMID,
    vcpu: 2,
};

fn starved(ms: u64) -> Option<Starved> {
    Some(Starved {
        ms: u32::try_from(ms).expect("small"),
        domid: DOMID.into(),
        vcpu: 2,
    })
}

fn work(verdict: Verdict) -> Option<Work> {
    match verdict {
        Verdict::Lagging { work, .. } => Some(work),
        _ => None,
    }
}

/// A host whose timers and schedulers are served, seen to be so.
struct Host {
    xen: Simulation,
    evidence: Evidence,
    now_ms: u64,
}

impl Host {
    fn new(granted: Option<u64>) -> Self {
        let xen = Simulation::new(2);
        let evidence = Evidence::new(&xen.table()).starved_after(granted);
        let mut host = Self {
            xen,
            evidence,
            now_ms: 1_000_000,
        };
        host.look();
        host.second(|_| ());
        assert_eq!(host.look(), SERVED);
        host
    }

    fn guarded() -> Self {
        Self::new(Some(GRANTED_S * NS_PER_S))
    }

    fn look(&mut self) -> Verdict {
        let now = Monotonic(self.now_ms * NS_PER_MS);
        self.evidence.look(&self.xen.table(), || now).0
    }

    /// A second that begins with a scan, and the verdicts of its looks.
    fn second(&mut self, scan: impl FnOnce(&Simulation)) -> Vec<Verdict> {
        self.xen.tick_all();
        scan(&self.xen);
        let looks = 0..1_000 / PERIOD_MS;
        looks
            .map(|_| {
                let verdict = self.look();
                self.now_ms += PERIOD_MS;
                verdict
            })
            .collect()
    }

    /// Seconds until a verdict is not served, each with the scan that `scan` gives.
    fn until_not_served(
        &mut self,
        most_s: u64,
        scan: impl Fn(u64) -> (bool, Option<Starved>),
    ) -> Option<(Verdict, u64)> {
        let began = self.now_ms;
        for n in 0..most_s {
            let (idle, starved) = scan(n);
            let verdicts = self.second(|xen| xen.scan(1, idle, starved));
            if let Some(at) = verdicts.iter().position(|verdict| *verdict != SERVED) {
                let at_ms = n * 1_000 + u64::try_from(at).expect("small") * PERIOD_MS;
                assert_eq!(self.now_ms - began, (n + 1) * 1_000);
                return Some((verdicts[at], at_ms));
            }
        }
        None
    }
}

/// A wait that began shortly before the first scan, and goes on.
fn goes_on(n: u64) -> (bool, Option<Starved>) {
    (true, starved(n * 1_000 + 3))
}

#[test]
fn a_vcpu_that_starves_is_told_once_that_is_proved_for_longer_than_was_granted() {
    let mut host = Host::guarded();
    let (verdict, after_ms) = host.until_not_served(20, goes_on).expect("withheld");
    assert_eq!(work(verdict), Some(WORK));
    // Five seconds after the first scan they have passed, and not more: the next one tells.
    assert_eq!(after_ms, (GRANTED_S + 1) * 1_000);
    let Verdict::Lagging { overdue_ns, .. } = verdict else {
        return;
    };
    assert_eq!(overdue_ns, (GRANTED_S + 1) * NS_PER_S);
    host.second(|xen| xen.scan(1, false, None));
    assert_eq!(host.look(), SERVED, "nothing latches");
}

#[test]
fn without_being_asked_for_no_wait_withholds() {
    let mut host = Host::new(None);
    assert_eq!(host.until_not_served(600, goes_on), None);
}

#[test]
fn a_pcpu_that_runs_something_at_each_scan_starves_nobody_however_long_somebody_waits() {
    let mut host = Host::guarded();
    let busy = |n: u64| (false, starved(n * 1_000 + 3));
    assert_eq!(host.until_not_served(600, busy), None);
    // Nor does one that idles now and then, as with a cap.
    let at_times = |n: u64| (n % 5 != 4, starved(600_000 + n * 1_000));
    assert_eq!(host.until_not_served(600, at_times), None);
}

#[test]
fn one_record_proves_nothing_whatever_it_says_and_for_however_long() {
    let mut host = Host::guarded();
    let torn = |_| (true, starved(4_000_000));
    assert_eq!(host.until_not_served(600, torn), None, "nobody renews it");
    // A second one that agrees is the least.
    let (verdict, _) = host
        .until_not_served(1, |_| (true, starved(4_001_000)))
        .expect("withheld");
    assert_eq!(work(verdict), Some(WORK));
}

#[test]
fn a_vcpu_that_ran_between_two_scans_begins_anew() {
    let mut host = Host::guarded();
    // It runs once in four seconds.
    let runs = |n: u64| (true, starved(n % 4 * 1_000 + 3));
    assert_eq!(host.until_not_served(600, runs), None);
    // It ran in each second, and each scan happens to find a longer wait than the one before.
    let rising = |n: u64| (true, starved(n + 1));
    assert_eq!(host.until_not_served(600, rising), None);
}

#[test]
fn another_vcpu_is_another_wait() {
    let mut host = Host::guarded();
    let in_turn = |n: u64| {
        let starved = starved(100_000 + n * 1_000).expect("one");
        let vcpu = u32::try_from(n / 3).expect("small");
        (true, Some(Starved { vcpu, ..starved }))
    };
    assert_eq!(host.until_not_served(600, in_turn), None);
}

#[test]
fn a_wait_ends_when_another_vcpu_is_the_one_that_waits_longest() {
    let mut host = Host::guarded();
    host.until_not_served(20, goes_on).expect("withheld");
    let other = starved(3).map(|one| Starved {
        vcpu: one.vcpu + 1,
        ..one
    });
    host.second(|xen| xen.scan(1, true, other));
    assert_eq!(host.look(), SERVED);
}

#[test]
fn a_reader_who_was_away_does_not_take_that_for_a_wait() {
    let mut host = Host::guarded();
    for n in 0..60 {
        host.xen.tick_all();
        // It ran a moment ago, as it did each time.
        host.xen.scan(1, true, starved(800 + n));
        assert_eq!(host.look(), SERVED);
        host.now_ms += 3_600_000;
        host.xen.tick_all();
    }
    // What was seen at first counts from the end of a look that was held up.
    let mut host = Host::guarded();
    host.xen.tick_all();
    host.xen.scan(1, true, starved(600_000));
    let held_up = std::cell::Cell::new(host.now_ms);
    let clock = || Monotonic(held_up.replace(host.now_ms + 60_000) * NS_PER_MS);
    host.evidence.look(&host.xen.table(), clock);
    host.now_ms += 60_000;
    host.xen.tick_all();
    host.xen.scan(1, true, starved(660_000));
    assert_eq!(host.look(), SERVED);
}

#[test]
fn a_pcpu_that_was_offline_starved_nobody() {
    let mut host = Host::guarded();
    for n in 0..60 {
        host.xen.online(1, n % 5 != 4);
        let verdicts = host.second(|xen| xen.scan(1, true, starved((n + 10) * 1_000)));
        assert!(verdicts.iter().all(|verdict| *verdict == SERVED), "{n}");
    }
}

#[test]
fn a_debug_key_that_holds_a_scheduler_up_excuses_the_waits_that_it_makes() {
    let mut host = Host::guarded();
    host.xen.excuse(1);
    let key_s = 20;
    for n in 0..key_s {
        for verdict in host.second(|xen| xen.scan(1, true, starved(n * 1_000 + 3))) {
            let excused = if n > GRANTED_S { Some(WORK) } else { None };
            assert_eq!(verdict, Verdict::Served { excused }, "{n}");
        }
    }
    host.xen.excuse(0);
    // It is granted anew what is granted, and no more.
    let mut told_s = None;
    for n in key_s..key_s + 20 {
        let verdicts = host.second(|xen| xen.scan(1, true, starved(n * 1_000 + 3)));
        if verdicts.iter().any(|verdict| work(*verdict).is_some()) {
            told_s = Some(n - key_s);
            break;
        }
    }
    assert_eq!(told_s, Some(GRANTED_S));
    // A key that never ends is excused for half a minute.
    let mut host = Host::guarded();
    host.xen.excuse(1);
    let late = (0..60).find(|n| {
        let verdicts = host.second(|xen| xen.scan(1, true, starved(n * 1_000 + 3)));
        verdicts.iter().any(|verdict| work(*verdict).is_some())
    });
    assert_eq!(late, Some(GRANTED_S + 30 + 1));
}

#[test]
fn a_guard_that_is_started_anew_does_not_forget_who_starved() {
    let mut host = Host::guarded();
    let (verdict, _) = host.until_not_served(20, goes_on).expect("withheld");
    assert_eq!(work(verdict), Some(WORK));
    let anew = |host: &Host| {
        let table = host.xen.table();
        let mut evidence = Evidence::new(&table).starved_after(Some(GRANTED_S * NS_PER_S));
        evidence.overdue(&table, Monotonic(host.now_ms * NS_PER_MS));
        evidence
    };
    host.evidence = anew(&host);
    for n in 7..20 {
        let verdicts = host.second(|xen| xen.scan(1, true, starved(n * 1_000 + 3)));
        assert!(verdicts.iter().all(|verdict| *verdict != SERVED), "{n}");
    }
    // Who has run meanwhile is not held against the host.
    host.second(|xen| xen.scan(1, true, starved(9)));
    host.evidence = anew(&host);
    (0..2).for_each(|_| drop(host.second(|_| ())));
    assert_eq!(host.look(), SERVED);
}

#[test]
fn numbers_that_no_domain_has_are_told_as_the_greatest() {
    let mut host = Host::guarded();
    let strange = |n: u64| {
        let starved = starved(n * 1_000 + 3).expect("one");
        let (domid, vcpu) = (u32::MAX, 0x1_0000);
        let starved = Starved {
            domid,
            vcpu,
            ..starved
        };
        (true, Some(starved))
    };
    let (verdict, _) = host.until_not_served(20, strange).expect("withheld");
    let expected = Work::PcpuStarving {
        cpu: 1,
        domid: u16::MAX,
        vcpu: u16::MAX,
    };
    assert_eq!(work(verdict), Some(expected));
}
