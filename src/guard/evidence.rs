// SPDX-License-Identifier: GPL-2.0-only
//! Evidence: what one look at the hypervisor proves.
//!
//! In: checked liveness pages, each with the moment before it was asked for. Out: a
//! [`Verdict`]: served (and until when that holds without another look), lagging since
//! t, or unknown with the cause. It allocates nothing, and unknown is never turned into
//! either of the others.
//!
//! The rules (XEN-ABI: public/liveness.h):
//! - a guest watchdog is unserviced when it is armed, its deadline has passed, and its
//!   handler has not come to its end since (`done < deadline`);
//! - a pCPU's timers are unserviced when its canary is overdue;
//! - a pCPU's scheduler is unserviced when its oldest request is later than its last
//!   decision (`sched_req > sched`).
//!
//! Work is overdue only beyond [`SLACK_NS`]: timers are never served to the nanosecond.
//! A verdict of served ends by itself (`good_until`) where the next piece of work, unless
//! seen to be done, would be overdue: so a look that never comes back can not prolong it.

use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::xen::liveness::{Malformed, PcpuRecord, StatePage, TimerRecord, TimersPage};
use std::fmt;

/// How late the hypervisor may serve a piece of work, ns: 500 ms. Emulation, a debug key
/// on a slow serial line or a busy host cost tens of milliseconds; the rest of the
/// patience is the hardware's.
pub const SLACK_NS: u64 = 500 * NS_PER_MS;

/// A piece of work that the hypervisor owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// The handler of a domain's watchdog slot (counted from 1).
    GuestWatchdog {
        /// The domain.
        domid: u16,
        /// The slot, from 1.
        slot: u8,
    },
    /// The canary timer of a pCPU.
    PcpuTimers(u32),
    /// The scheduler of a pCPU.
    PcpuScheduler(u32),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestWatchdog { domid, slot } => {
                write!(f, "guest watchdog of domain {domid}, slot {slot}")
            }
            Self::PcpuTimers(cpu) => write!(f, "timers of pcpu {cpu}"),
            Self::PcpuScheduler(cpu) => write!(f, "scheduler of pcpu {cpu}"),
        }
    }
}

/// Why nothing can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No look at the hypervisor has come to its end yet.
    NoSample,
    /// The latest look is older than two samples: the sampler or its hypercall hangs.
    Stale {
        /// Its age, ns.
        age_ns: u64,
    },
    /// The latest look is fresh enough, but work that fell due since is not seen to be done.
    Unconfirmed {
        /// Kind fell due first.
        work: Work,
        /// How long past its due time, ns.
        overdue_ns: u64,
    },
    /// The hypercall failed.
    Hypercall {
        /// The hypervisor's errno.
        errno: i32,
    },
    /// The reply is not of the form that was agreed.
    Malformed(Malformed),
    /// A record stayed torn through every attempt.
    Torn {
        /// The page of timers.
        page: u32,
    },
    /// The hypervisor's clock does not advance as ours does.
    ClockStalled,
    /// Armed guest watchdogs have no record.
    Untracked {
        /// How many.
        count: u32,
    },
    /// A pCPU is online and has no canary.
    NoCanary {
        /// The pCPU.
        cpu: u32,
    },
    /// No pCPU is online in the evidence.
    NoPcpu,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: &u64| ns / NS_PER_MS;
        match self {
            Self::NoSample => write!(f, "evidence unknown: no sample yet"),
            Self::Stale { age_ns } => write!(
                f,
                "evidence stale: no sample for {} ms (the hypercall or its thread hangs)",
                ms(age_ns)
            ),
            Self::Unconfirmed { work, overdue_ns } => write!(
                f,
                "evidence ran out: {work} not confirmed, due {} ms ago",
                ms(overdue_ns)
            ),
            Self::Hypercall { errno } => write!(
                f,
                "evidence unknown: hypfs read failed: {}",
                nix::errno::Errno::from_raw(*errno).desc()
            ),
            Self::Malformed(how) => write!(f, "evidence unknown: {how}"),
            Self::Torn { page } => {
                write!(
                    f,
                    "evidence unknown: timer records of page {page} stay torn"
                )
            }
            Self::ClockStalled => {
                write!(f, "evidence unknown: the hypervisor's clock stands still")
            }
            Self::Untracked { count } => {
                write!(
                    f,
                    "evidence unknown: {count} armed guest watchdogs have no record"
                )
            }
            Self::NoCanary { cpu } => {
                write!(f, "evidence unknown: pcpu {cpu} is online without a canary")
            }
            Self::NoPcpu => write!(f, "evidence unknown: no pcpu is online"),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "the hypervisor's reply is truncated"),
            Self::Magic => write!(f, "the hypervisor's reply has a wrong magic number"),
            Self::Abi(abi) => write!(f, "liveness ABI {abi} is not known (this build reads 1)"),
            Self::Lengths => write!(f, "the hypervisor's reply has impossible record lengths"),
            Self::Index => write!(f, "the hypervisor answered with another page"),
            Self::Pages => write!(f, "the hypervisor's reply counts too many pages"),
            Self::Field => write!(f, "the hypervisor's reply has an impossible field"),
        }
    }
}

/// Kind one look proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All due work was done.
    Served {
        /// Until when that holds without another look.
        good_until: Monotonic,
        /// The work that would be overdue then.
        next: Work,
    },
    /// Work is overdue beyond the slack.
    Lagging {
        /// The most overdue.
        work: Work,
        /// When it was due.
        since: Monotonic,
    },
    /// Nothing can be said.
    Unknown(Unknown),
}

/// A verdict with the time of its look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The moment before the look began: what it proves, it proves of then or later.
    pub taken: Monotonic,
    /// Kind it proves.
    pub verdict: Verdict,
}

/// Gathers the pages of one look into a verdict.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// The most overdue work beyond the slack, by its due time.
    lagging: Option<(Work, Monotonic)>,
    /// The first cause for not knowing.
    unknown: Option<Unknown>,
    /// The earliest due time among all that was seen, with slack.
    next: Option<(Work, Monotonic)>,
    pcpus_online: u32,
}

/// One page's relation of the two clocks: the hypervisor's `now` lies at or after `asked`.
#[derive(Clone, Copy)]
struct Clocks {
    asked: Monotonic,
    now: u64,
}

impl Clocks {
    /// Our time of the hypervisor's `due`, at the latest; earlier by as long as the call took.
    fn ours(&self, due: u64) -> Monotonic {
        if due >= self.now {
            self.asked.plus_ns(due - self.now)
        } else {
            Monotonic(self.asked.0.saturating_sub(self.now - due))
        }
    }
}

impl Judgement {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lagging: None,
            unknown: None,
            next: None,
            pcpus_online: 0,
        }
    }

    /// Notes a cause for not knowing; the first one is kept.
    pub fn unknown(&mut self, why: Unknown) {
        self.unknown.get_or_insert(why);
    }

    /// Weighs the state page, asked for at `asked`.
    pub fn state(&mut self, page: &StatePage<'_>, asked: Monotonic) {
        let header = page.header();
        let clocks = Clocks {
            asked,
            now: header.now,
        };
        if header.untracked != 0 {
            self.unknown(Unknown::Untracked {
                count: header.untracked,
            });
        }
        let farthest = header
            .now
            .saturating_add(2 * NS_PER_MS * u64::from(header.canary_period_ms));
        for (n, pcpu) in (0u32..).zip(page.pcpus()).filter(|(_, p)| p.online) {
            self.pcpus_online += 1;
            if pcpu.cpu != n || (pcpu.canary && pcpu.canary_due > farthest) {
                self.unknown(Unknown::Malformed(Malformed::Field));
            }
            self.pcpu(&pcpu, clocks);
        }
        if self.pcpus_online == 0 {
            self.unknown(Unknown::NoPcpu);
        }
    }

    fn pcpu(&mut self, pcpu: &PcpuRecord, clocks: Clocks) {
        if pcpu.canary {
            self.due(Work::PcpuTimers(pcpu.cpu), pcpu.canary_due, clocks);
        } else {
            self.unknown(Unknown::NoCanary { cpu: pcpu.cpu });
        }
        if pcpu.sched_req > pcpu.sched {
            self.due(Work::PcpuScheduler(pcpu.cpu), pcpu.sched_req, clocks);
        }
    }

    /// Weighs a page of timers, asked for at `asked`. False when a record is torn: read
    /// the page again.
    #[must_use]
    pub fn timers(&mut self, page: &TimersPage<'_>, asked: Monotonic) -> bool {
        let clocks = Clocks {
            asked,
            now: page.header().now,
        };
        if page.timers().any(|t| t.torn()) {
            return false;
        }
        for timer in page.timers().filter(TimerRecord::pending) {
            // A second more than the guest asked for: it may have fed after `now` was taken.
            let longest = NS_PER_S * (u64::from(timer.timeout_s) + 1);
            if timer.deadline > clocks.now.saturating_add(longest) {
                self.unknown(Unknown::Malformed(Malformed::Field));
            }
            let work = Work::GuestWatchdog {
                domid: timer.domid,
                slot: timer.slot,
            };
            self.due(work, timer.deadline, clocks);
        }
        true
    }

    fn due(&mut self, work: Work, due: u64, clocks: Clocks) {
        let at = clocks.ours(due);
        // `now` may be older than the newest stamp on the page: a due time ahead of it is
        // simply not overdue.
        let overdue = clocks.now.saturating_sub(due) > SLACK_NS;
        let earliest = if overdue {
            &mut self.lagging
        } else {
            &mut self.next
        };
        if earliest.is_none_or(|(_, other)| at < other) {
            *earliest = Some((work, at));
        }
    }

    /// The verdict over everything that was weighed. Overdue work is named rather than a
    /// cause for not knowing, as it says more; both withhold.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        if let Some((work, since)) = self.lagging {
            return Verdict::Lagging { work, since };
        }
        if let Some(why) = self.unknown {
            return Verdict::Unknown(why);
        }
        match self.next {
            Some((next, at)) => Verdict::Served {
                good_until: at.plus_ns(SLACK_NS),
                next,
            },
            None => Verdict::Unknown(Unknown::NoPcpu),
        }
    }
}

impl Default for Judgement {
    fn default() -> Self {
        Self::new()
    }
}

impl TimerRecord {
    /// Armed, and the handler of the present deadline has not come to its end.
    fn pending(&self) -> bool {
        self.used && self.armed && !self.serviced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulated::Scene;

    const ASKED: Monotonic = Monotonic(7_000_000_000);

    fn verdict(scene: &Scene) -> Verdict {
        let mut judgement = Judgement::new();
        let state = scene.state_page();
        judgement.state(&StatePage::parse(&state).expect("state"), ASKED);
        for n in 0..scene.timers.len().div_ceil(63) {
            let n = u32::try_from(n).expect("few pages");
            let page = scene.timers_page(n);
            if !judgement.timers(&TimersPage::parse(&page, n).expect("timers"), ASKED) {
                judgement.unknown(Unknown::Torn { page: n });
            }
        }
        judgement.verdict()
    }

    fn with(paint: impl FnOnce(&mut Scene)) -> Verdict {
        let mut scene = Scene::healthy(2, 4);
        paint(&mut scene);
        verdict(&scene)
    }

    #[test]
    fn a_healthy_host_is_served_until_its_next_work_would_be_overdue() {
        // The canaries are due in 500 ms; the slack is 500 ms more.
        assert_eq!(
            with(|_| ()),
            Verdict::Served {
                good_until: ASKED.plus_ns(1_000 * NS_PER_MS),
                next: Work::PcpuTimers(0)
            }
        );
    }

    #[test]
    fn overdue_work_of_each_kind_is_named_with_its_due_time() {
        let late = 700 * NS_PER_MS;
        type Paint = fn(&mut Scene, u64);
        let cases: [(Paint, Work); 3] = [
            (
                |s, t| s.pcpus[1].canary_due = s.now - t,
                Work::PcpuTimers(1),
            ),
            (
                |s, t| {
                    s.pcpus[1].sched_req = s.now - t;
                    s.pcpus[1].sched = s.now - t - 1;
                },
                Work::PcpuScheduler(1),
            ),
            (
                |s, t| s.timers[2].deadline = s.now - t,
                Work::GuestWatchdog { domid: 2, slot: 1 },
            ),
        ];
        for (paint, work) in cases {
            let since = Monotonic(ASKED.0 - late);
            assert_eq!(with(|s| paint(s, late)), Verdict::Lagging { work, since });
            let within = with(|s| paint(s, SLACK_NS));
            assert!(
                matches!(within, Verdict::Served { good_until, next } if good_until == ASKED && next == work),
                "{within:?}"
            );
        }
    }

    #[test]
    fn a_guest_that_expired_is_served_however_long_ago() {
        let expired = with(|s| {
            s.timers[0].deadline = s.now - 60_000 * NS_PER_MS;
            s.timers[0].fired = s.timers[0].deadline + 1000;
            s.timers[0].done = s.timers[0].deadline + 2000;
        });
        assert!(matches!(expired, Verdict::Served { .. }), "{expired:?}");
    }

    #[test]
    fn a_handler_that_was_entered_and_never_left_lags() {
        let stuck = with(|s| {
            s.timers[0].deadline = s.now - 600 * NS_PER_MS;
            s.timers[0].fired = s.timers[0].deadline + 1000;
        });
        let work = Work::GuestWatchdog { domid: 1, slot: 1 };
        assert!(matches!(stuck, Verdict::Lagging { work: w, .. } if w == work));
    }

    #[test]
    fn disarmed_slots_and_offline_pcpus_are_not_judged() {
        let fine = with(|s| {
            s.timers[0].armed = false;
            s.timers[0].deadline = 1;
            s.pcpus[1].online = false;
            s.pcpus[1].canary = false;
            s.pcpus[1].canary_due = 1;
        });
        assert!(matches!(fine, Verdict::Served { .. }), "{fine:?}");
    }

    #[test]
    fn what_is_not_known_is_unknown_with_its_cause() {
        type Paint = fn(&mut Scene);
        let cases: [(Paint, Unknown); 7] = [
            (
                |s| s.pcpus[0].canary_due = u64::MAX,
                Unknown::Malformed(Malformed::Field),
            ),
            (|s| s.pcpus[1].cpu = 0, Unknown::Malformed(Malformed::Field)),
            (
                |s| s.timers[1].deadline = 1 << 63,
                Unknown::Malformed(Malformed::Field),
            ),
            (|s| s.untracked = 3, Unknown::Untracked { count: 3 }),
            (|s| s.pcpus[1].canary = false, Unknown::NoCanary { cpu: 1 }),
            (
                |s| s.pcpus.iter_mut().for_each(|p| p.online = false),
                Unknown::NoPcpu,
            ),
            (|s| s.timers[3].seq = 5, Unknown::Torn { page: 0 }),
        ];
        for (paint, why) in cases {
            assert_eq!(with(paint), Verdict::Unknown(why));
        }
    }

    #[test]
    fn a_stamp_newer_than_now_is_not_overdue() {
        let fine = with(|s| {
            s.pcpus[0].sched_req = s.now + 10;
            s.pcpus[0].sched = s.now + 5;
        });
        assert!(matches!(fine, Verdict::Served { .. }), "{fine:?}");
    }
}
