// SPDX-License-Identifier: GPL-2.0-only
//! Evidence: what the hypervisor's liveness table proves, from look to look.
//!
//! In: the table, and the moment at which a look at it began. Out: a [`Verdict`]: served,
//! lagging since t, or unknown with the cause. Nothing is allocated after [`Evidence::new`] but by
//! [`Evidence::grow`], and unknown is never turned into either of the others.
//!
//! Everything is judged by progress on the reader's own clock, so that no two clocks are
//! compared and no clock of the hypervisor is trusted:
//!
//! | work | lags when |
//! |---|---|
//! | timers of a pCPU | its canary counter has stayed the same for its period and the slack |
//! | scheduler of a pCPU | a request has been outstanding, and its last decision the same, for the slack; canaries that found it so while nobody looked prove that as well |
//! | guest watchdog | it is armed, nothing was set for its timeout and the slack, and its handler has not come to its end |
//! | a vCPU's turn | only where asked for: it is runnable, the pCPU that it is placed on idles, and that is proved for as long as was granted ([`super::starving`]) |
//!
//! A value counts from the end of the look that saw it first: a reader who is held up in
//! the middle of a look, or between two, never takes his own absence for the hypervisor's.
//! Until each pCPU that is online has been seen to make progress, all is unknown.

use super::starving::{Starving, Waiting};
use super::tick::Tick;
pub use super::work::{Unknown, Work};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::xen::room;
use crate::xen::table::{Pcpu, SLOTS, Slot, Table};

/// How late the hypervisor may serve a piece of work, ns: 500 ms. Emulation, a slow serial
/// line or a busy host cost tens of milliseconds; the rest of the patience is the
/// hardware's.
pub const SLACK_NS: u64 = 500 * NS_PER_MS;
/// How long a scheduler may be late while debug keys print, ns: they keep it off on purpose
/// (Xen `xen/common/keyhandler.c`), 80 KB at 115200 baud take 7 s.
pub const EXCUSED_NS: u64 = 30 * NS_PER_S;
/// A look that took longer than this was interrupted, ns.
const INTERRUPTED_NS: u64 = 20 * NS_PER_MS;

/// What a look proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is served, but for what debug keys hold up on purpose, by a scheduler.
    Served {
        /// That work.
        excused: Option<Work>,
    },
    /// Something is not.
    Lagging {
        /// What has been due longest.
        work: Work,
        /// For how long, ns.
        overdue_ns: u64,
    },
    /// Neither.
    Unknown(Unknown),
}

/// What was seen of a pCPU, and the end of the look that saw it first.
#[derive(Clone, Copy, Debug)]
struct PcpuProgress {
    online: bool,
    /// Its timers ran and its scheduler decided since it was first seen online.
    proven: bool,
    first: Pcpu,
    canary: u32,
    canary_at: Monotonic,
    decided: u32,
    /// By how much the canary is ahead of the requests: by one more for each run that found one
    /// outstanding.
    ahead: u32,
    /// Since when a request is outstanding and the last decision is `decided`.
    undecided_at: Option<Monotonic>,
    starving: Starving,
}

/// What was seen of a domid's slots.
#[derive(Clone, Copy, Debug, Default)]
struct SlotProgress {
    /// The low half of the domain's creation number: another domain has another.
    created: u32,
    sets: [u32; SLOTS],
    since: [Tick; SLOTS],
}

impl SlotProgress {
    /// As if each armed slot had been fed last before its deadline and the slack.
    fn overdue(&mut self, created: u32, slots: &[Option<Slot>; SLOTS], now: Monotonic) {
        self.created = created;
        for ((slot, sets), since) in slots.iter().zip(&mut self.sets).zip(&mut self.since) {
            let Some(slot) = slot else { continue };
            let granted = u64::from(slot.armed.unwrap_or(0)).saturating_mul(NS_PER_S);
            let at = now.0.saturating_sub(granted.saturating_add(2 * SLACK_NS));
            (*sets, *since) = (slot.sets, Tick::up(Monotonic(at)));
        }
    }
}

/// The work that has been due longest.
#[derive(Clone, Copy, Debug, Default)]
struct Longest(Option<(Work, u64)>);

impl Longest {
    fn add(&mut self, work: Work, overdue_ns: u64) {
        if self.0.is_none_or(|(_, longest)| overdue_ns > longest) {
            self.0 = Some((work, overdue_ns));
        }
    }
}

/// What was seen so far.
#[derive(Debug)]
pub struct Evidence {
    pcpus: Box<[PcpuProgress]>,
    domains: Vec<SlotProgress>,
    proven: bool,
    /// The moment that the last look counts as: its beginning, or its end where it was interrupted.
    seen: Tick,
    /// The last look that saw debug keys at work.
    excused_at: Option<Monotonic>,
    /// How long a runnable vCPU may wait on a pCPU that idles, ns; none: for ever.
    starved_ns: Option<u64>,
}

impl Evidence {
    /// Nothing seen yet; allocates all it will ever need for tables of this size: 20 bytes for
    /// each domid, 640 KiB for all, and 104 for each pCPU.
    #[must_use]
    pub fn new(table: &Table<'_>) -> Self {
        Self {
            domains: vec![SlotProgress::default(); table.nr_domains()],
            ..Self::growing(table)
        }
    }

    /// The same for one who may allocate later: before each look it has to [`Evidence::grow`], as a
    /// domid that there is no room for is not judged.
    #[must_use]
    pub fn growing(table: &Table<'_>) -> Self {
        let start = Monotonic(0);
        let unseen = PcpuProgress {
            online: false,
            proven: false,
            first: Pcpu::default(),
            canary: 0,
            canary_at: start,
            decided: 0,
            ahead: 0,
            undecided_at: None,
            starving: Starving::default(),
        };
        Self {
            pcpus: vec![unseen; table.nr_pcpus()].into(),
            domains: Vec::new(),
            proven: false,
            seen: Tick::default(),
            excused_at: None,
            starved_ns: None,
        }
    }

    /// Makes room for the domids that had a domain by now: 20 bytes for each. Allocates.
    pub fn grow(&mut self, table: &Table<'_>) {
        let (used, most) = (table.domids_used(), table.nr_domains());
        room::make(&mut self.domains, used, most, SlotProgress::default());
    }

    /// A runnable vCPU that waits for longer than this on a pCPU that idles is not served.
    #[must_use]
    pub fn starved_after(self, starved_ns: Option<u64>) -> Self {
        Self { starved_ns, ..self }
    }

    /// Another, whose evidence is lost, withheld: it may have known more to be overdue than what
    /// it named. So each guest's deadline counts as passed until it is served or set anew, and
    /// each vCPU's wait as proved for as long as the hypervisor counts it. A pCPU's timers and
    /// scheduler have to prove themselves anyhow.
    pub fn overdue(&mut self, table: &Table<'_>, now: Monotonic) {
        let used = table.domids_used();
        for (domid, progress) in (0u16..).zip(self.domains.iter_mut().take(used)) {
            if let Some((created, slots)) = table.armed(domid) {
                progress.overdue(created, &slots, now);
            }
        }
        let Some(granted_ns) = self.starved_ns else {
            return;
        };
        for (n, progress) in self.pcpus.iter_mut().enumerate() {
            if let Some(record) = table.pcpu(n).filter(|record| record.online) {
                progress.see(&record, now, 0);
                progress.starving.overdue(&record, granted_ns, now);
            }
        }
    }

    /// Looks at the table once. `clock` is read before and after.
    pub fn look(
        &mut self,
        table: &Table<'_>,
        clock: impl Fn() -> Monotonic,
    ) -> (Verdict, Monotonic) {
        let began = clock();
        let verdict = self.judge(table, began);
        let ended = clock();
        let interrupted = ended.since_ns(began) > INTERRUPTED_NS;
        if interrupted {
            self.count_from(began, ended);
        }
        self.seen = Tick::up(if interrupted { ended } else { began });
        (verdict, began)
    }

    fn judge(&mut self, table: &Table<'_>, now: Monotonic) -> Verdict {
        if table.canary_period_ms() == 0 {
            return Verdict::Unknown(Unknown::NoCanaries);
        }
        let (mut lagging, mut excused) = (Longest::default(), Longest::default());
        let unproven = self.judge_pcpus(table, now, &mut lagging, &mut excused);
        self.judge_guests(table, now, &mut lagging);
        match (lagging.0, unproven) {
            (Some((work, overdue_ns)), _) => Verdict::Lagging { work, overdue_ns },
            (None, Some(unknown)) => Verdict::Unknown(unknown),
            (None, None) => Verdict::Served {
                excused: excused.0.map(|(work, _)| work),
            },
        }
    }

    /// Judges each pCPU; says why that proves nothing yet, if it does not.
    fn judge_pcpus(
        &mut self,
        table: &Table<'_>,
        now: Monotonic,
        lagging: &mut Longest,
        excused: &mut Longest,
    ) -> Option<Unknown> {
        if table.excused() != 0 {
            self.excused_at = Some(now);
        }
        let period_ns = u64::from(table.canary_period_ms()) * NS_PER_MS;
        let unlooked_ns = self.seen.until_ns(now);
        let (mut online, mut unproven) = (false, None);
        for (cpu, progress) in (0u32..).zip(self.pcpus.iter_mut()) {
            let record = usize::try_from(cpu).ok().and_then(|n| table.pcpu(n));
            let Some(record) = record.filter(|record| record.online) else {
                progress.online = false;
                continue;
            };
            online = true;
            let proved_ns = progress.stood(&record).saturating_mul(period_ns);
            progress.see(&record, now, proved_ns.min(unlooked_ns));
            if !progress.proven {
                unproven = unproven.or(Some(Unknown::Unproven { cpu }));
            }
            let unmoved = now.since_ns(progress.canary_at);
            if unmoved > period_ns + SLACK_NS {
                lagging.add(Work::PcpuTimers(cpu), unmoved - period_ns);
            }
            if let Some(granted_ns) = self.starved_ns {
                if let Some(waiting) = progress.starving.see(&record, now) {
                    judge_waiting(cpu, &waiting, granted_ns, self.excused_at, lagging, excused);
                }
            }
            let Some(undecided) = progress.undecided_at.map(|at| now.since_ns(at)) else {
                continue;
            };
            let after_excuse = self.excused_at.map_or(u64::MAX, |at| now.since_ns(at));
            let work = Work::PcpuScheduler(cpu);
            if undecided.min(after_excuse) > SLACK_NS || undecided > EXCUSED_NS {
                lagging.add(work, undecided);
            } else if undecided > SLACK_NS {
                excused.add(work, undecided);
            }
        }
        if !online {
            return Some(Unknown::NoPcpu);
        }
        // A pCPU that comes online later is given its period, as all are from then on.
        self.proven |= unproven.is_none();
        unproven.filter(|_| !self.proven)
    }

    fn judge_guests(&mut self, table: &Table<'_>, now: Monotonic, lagging: &mut Longest) {
        let (used, seen) = (table.domids_used(), self.seen);
        for (domid, progress) in (0u16..).zip(self.domains.iter_mut().take(used)) {
            let Some((created, slots)) = table.armed(domid) else {
                continue;
            };
            if progress.created != created {
                *progress = SlotProgress {
                    created,
                    ..SlotProgress::default()
                };
            }
            let mut judge = |slot, shows: &Option<Slot>, sets, since| {
                let unfed = shows
                    .as_ref()
                    .map(|shows| unfed(sets, since, seen, shows, now));
                if let Some(unfed_ns) = unfed.flatten().filter(|unfed_ns| *unfed_ns > SLACK_NS) {
                    lagging.add(Work::GuestWatchdog { domid, slot }, unfed_ns);
                }
            };
            let SlotProgress { sets, since, .. } = progress;
            let ([first, second], [first_since, second_since]) = (sets, since);
            let [shows_first, shows_second] = &slots;
            judge(1, shows_first, first, first_since);
            judge(2, shows_second, second, second_since);
        }
    }

    /// What was seen first of pCPUs in a look that was interrupted counts from its end.
    #[cold]
    fn count_from(&mut self, began: Monotonic, ended: Monotonic) {
        let later = |at: &mut Monotonic| {
            if *at == began {
                *at = ended;
            }
        };
        for progress in &mut self.pcpus {
            later(&mut progress.canary_at);
            progress
                .undecided_at
                .as_mut()
                .map(later)
                .unwrap_or_default();
            progress.starving.count_from(began, ended);
        }
    }
}

/// A debug key that keeps a scheduler off keeps its vCPUs waiting: what is granted is granted
/// anew after it, as long as the key is excused at all.
fn judge_waiting(
    cpu: u32,
    waiting: &Waiting,
    granted_ns: u64,
    excused_at: Option<Monotonic>,
    lagging: &mut Longest,
    excused: &mut Longest,
) {
    let (work, proved_ns) = (Work::starving(cpu, waiting), waiting.proved_ns);
    let after_excuse = excused_at.map_or(u64::MAX, |at| waiting.until.since_ns(at));
    if proved_ns.min(after_excuse) > granted_ns || proved_ns > granted_ns.saturating_add(EXCUSED_NS)
    {
        lagging.add(work, proved_ns);
    } else if proved_ns > granted_ns {
        excused.add(work, proved_ns);
    }
}

/// How long an armed slot's deadline has passed for sure, ns; none while its handler is not
/// due, or has come to its end. `seen`: what the last look saw first counts from here.
fn unfed(sets: &mut u32, since: &mut Tick, seen: Tick, slot: &Slot, now: Monotonic) -> Option<u64> {
    let timeout_s = slot.armed?;
    // No slot that is armed has never been set: 0 is what nothing was seen of.
    if slot.sets != *sets {
        *sets = slot.sets;
        *since = Tick::LAST_LOOK;
        return None;
    }
    if *since == Tick::LAST_LOOK {
        *since = seen;
    }
    let timeout_ns = u64::from(timeout_s).saturating_mul(NS_PER_S);
    let passed = since.until_ns(now).checked_sub(timeout_ns);
    passed.filter(|_| !slot.serviced())
}

impl PcpuProgress {
    /// How many runs of the canary since the last look found the request outstanding that still is.
    ///
    /// A canary asks unless a request is outstanding (Xen `xen/common/liveness.c`). So where nothing was
    /// decided since, the first run of the canary asked and each later one found that request. One
    /// that read between the canary's count and its request is behind by one, which the greatest
    /// lead so far makes good. (A pCPU that went offline and came back between two looks has
    /// counted one run more: that can cost a kick if the look comes between a request and its decision.)
    fn stood(&self, record: &Pcpu) -> u64 {
        let is_same = self.online && record.decided == self.decided;
        match is_same && record.requested != record.decided {
            true => u64::from(self.gained(record)),
            false => 0,
        }
    }

    /// How much further ahead of the requests the canary is than it ever was.
    fn gained(&self, record: &Pcpu) -> u32 {
        let ahead = record.canary.wrapping_sub(record.requested);
        let gained = ahead.wrapping_sub(self.ahead);
        if gained > u32::MAX / 2 { 0 } else { gained }
    }

    /// `stood_ns`: so long a request has been outstanding at least, if none was at the last look.
    fn see(&mut self, record: &Pcpu, now: Monotonic, stood_ns: u64) {
        if !self.online {
            *self = Self {
                online: true,
                proven: false,
                first: *record,
                canary: record.canary,
                canary_at: now,
                decided: record.decided,
                ahead: record.canary.wrapping_sub(record.requested),
                undecided_at: None,
                starving: Starving::default(),
            };
        }
        self.ahead = self.ahead.wrapping_add(self.gained(record));
        if record.canary != self.canary {
            self.canary = record.canary;
            self.canary_at = now;
        }
        if record.requested == record.decided {
            self.undecided_at = None;
        } else if self.undecided_at.is_none() || record.decided != self.decided {
            self.undecided_at = Some(Monotonic(now.0.saturating_sub(stood_ns)));
        }
        self.decided = record.decided;
        self.proven |= record.canary != self.first.canary && record.decided != self.first.decided;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulation::Simulation;
    use uuid::Uuid;

    #[test]
    fn evidence_that_grows_as_domids_are_used_judges_as_one_that_has_room_for_all() {
        let xen = Simulation::sized(1, 300);
        let (mut all, mut grows) = (Evidence::new(&xen.table()), Evidence::growing(&xen.table()));
        let mut lagging = 0;
        for second in 1..400_u16 {
            xen.tick_all();
            if second < 300 {
                xen.create(second, Uuid::nil());
                xen.arm(second, 0, 60);
            }
            // From then on the last of them feeds no more.
            let fed = if second < 330 { second.min(299) } else { 298 };
            (1..=fed).for_each(|domid| xen.feed(domid, 0));
            grows.grow(&xen.table());
            assert!(grows.domains.len() >= xen.table().domids_used());
            let now = Monotonic((1_000 + u64::from(second)) * NS_PER_S);
            let verdicts = [&mut all, &mut grows].map(|e| e.look(&xen.table(), || now).0);
            assert_eq!(verdicts[0], verdicts[1]);
            lagging += u32::from(matches!(verdicts[0], Verdict::Lagging { .. }));
        }
        assert!(lagging > 0);
    }
}
