// SPDX-License-Identifier: GPL-2.0-only
//! The reporter: tells people what the guard did, as the guard itself must not.
//!
//! In: the guard page; the liveness table. Out: a line and an event for each thing that the
//! guard did; that it fell silent; that a pCPU starves; and, while the guard does not say what
//! is wrong, what is not serviced. Nothing here decides anything.
//!
//! A wedge may stop any one vCPU of dom0, and whatever runs or waits there. So there is a
//! watcher pinned to each of them, and any one that still runs tells all there is
//! ([`super::reported`]). The line is written at once, by one system call and before any lock;
//! the event follows, and may wait for threads that hang.

use crate::control::inhibit::{self, Order};
use crate::control::status::{self, Pcpu};
use crate::event::describe::plain;
use crate::event::{Kind, Severity};
use crate::guard::evidence::{Evidence, Verdict, Work};
use crate::guard::gate::{Decision, Reason};
use crate::guard::page::{Entry, EntryKind, Info, Known, Phase, Reader, View};
use crate::monitor::pcpus::Pcpus;
use crate::monitor::reported::{Reported, Stream, key};
use crate::monitor::starving::StarvingPcpus;
use crate::sink::direct_log::DirectLog;
use crate::state::withhold::PcpuEvidence;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::stopwatch::Stopwatch;
use crate::xen::table::Table;
use nix::errno::Errno;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};

/// What a watcher sees of the hypervisor; whoever finds it free looks.
#[derive(Debug)]
struct Look {
    table: Table<'static>,
    evidence: Evidence,
    pcpus: Pcpus,
    starving: StarvingPcpus,
    /// What was told of the present withhold.
    told: Option<Work>,
}

/// What a look found to tell.
struct Found {
    /// Of what is not serviced.
    line: Option<String>,
    /// Of pCPUs that starve, by number.
    news: Vec<(u64, Kind)>,
}

/// What the watchers share.
pub struct Reporter<'a> {
    page: PathBuf,
    told: Reported,
    look: OnceLock<Mutex<Look>>,
    /// Entries of the guard that were overwritten before anybody read them.
    lost: AtomicU64,
    /// Takes events; may block.
    publish: Box<dyn Fn(Kind) + Send + Sync + 'a>,
}

impl<'a> Reporter<'a> {
    /// Over the guard page at `page`; the table comes by [`Reporter::see`].
    #[must_use]
    pub fn new(page: &Path, told: Reported, publish: impl Fn(Kind) + Send + Sync + 'a) -> Self {
        Self {
            page: page.to_owned(),
            told,
            look: OnceLock::new(),
            lost: AtomicU64::new(0),
            publish: Box::new(publish),
        }
    }

    /// From now on looks at `table` as well.
    pub fn see(&self, table: Table<'static>) {
        let _ = self.look.set(Mutex::new(Look {
            table,
            evidence: Evidence::growing(&table),
            pcpus: Pcpus::default(),
            starving: StarvingPcpus::new(self.told.last(Stream::Starving)),
            told: None,
        }));
    }

    /// The pCPUs as they are now.
    #[must_use]
    pub fn pcpus(&self, now: Monotonic) -> Vec<Pcpu> {
        let Some(look) = self.look.get() else {
            return Vec::new();
        };
        let mut look = look
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let table = look.table;
        look.pcpus.look(&table, now);
        look.pcpus.status(table.canary_period_ms(), now)
    }

    /// The pCPUs as they are now, with what the guard has proved of them; none without a table, and where somebody else looks just now.
    /// Does not wait.
    #[must_use]
    pub fn try_pcpus(
        &self,
        now: Monotonic,
        proved: Option<(Work, u64)>,
    ) -> Option<Vec<PcpuEvidence>> {
        let mut look = self.look.get()?.try_lock().ok()?;
        let table = look.table;
        look.pcpus.look(&table, now);
        Some(look.pcpus.evidence(table.canary_period_ms(), now, proved))
    }

    /// Entries of the guard that no watcher read in time.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Looks at the hypervisor, if nobody else does just now; says what is not serviced, and
    /// what is to be told of pCPUs that starve.
    fn look(&self, now: Monotonic, wanted: bool, clock: &Stopwatch) -> Option<Found> {
        let mut look = match self.look.get()?.try_lock() {
            Ok(look) => look,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let line = look.judge(now, wanted, clock);
        let Look {
            table,
            pcpus,
            starving,
            ..
        } = &mut *look;
        pcpus.look(table, now);
        starving.look(table, now);
        let news = starving.news(self.told.last(Stream::Starving));
        Some(Found { line, news })
    }
}

impl Look {
    /// `now` was read a moment ago: if this thread was held up since, the look counts as one that was.
    fn judge(&mut self, now: Monotonic, wanted: bool, clock: &Stopwatch) -> Option<String> {
        let began = Cell::new(Some(now));
        let clock = || began.take().unwrap_or_else(|| clock.soon());
        self.evidence.grow(&self.table);
        let (verdict, _) = self.evidence.look(&self.table, clock);
        if !wanted {
            self.told = None;
            return None;
        }
        let Verdict::Lagging { work, overdue_ns } = verdict else {
            return None;
        };
        if self.told.replace(work) == Some(work) {
            return None;
        }
        let ms = overdue_ns / NS_PER_MS;
        Some(format!(
            "a second look finds: {work} not serviced for {ms} ms"
        ))
    }
}

/// What a watcher's turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A guard kicks, as far as can be seen, and there was nothing to tell.
    Well,
    /// Likewise, and something was told, which may have taken a while.
    Told,
    /// None does, or nobody can say so until the next turn at the usual time.
    Wrong,
}

/// What a guard has told within this is enough to wait a whole turn for more, ns: one that falls silent just then is still
/// noticed 1.5 s after its last word.
pub(crate) const RECENT_NS: u64 = 500 * NS_PER_MS;

/// One watcher's own part.
pub struct Watcher<'r, 'a> {
    reporter: &'r Reporter<'a>,
    page: Option<Reader>,
    /// What was made out of it last.
    known: Option<Known>,
    direct: DirectLog,
    /// Something was told in this turn.
    told: bool,
    clock: Stopwatch,
}

impl<'r, 'a> Watcher<'r, 'a> {
    /// Which has seen nothing yet.
    #[must_use]
    pub fn new(reporter: &'r Reporter<'a>) -> Self {
        Self {
            reporter,
            page: Reader::open(&reporter.page).ok(),
            known: None,
            direct: DirectLog::new(),
            told: false,
            clock: Stopwatch::default(),
        }
    }

    /// The present moment, as the kernel tells it. Does not block.
    pub fn now(&self) -> Monotonic {
        self.clock.now()
    }

    /// Looks once at everything, and tells what there is to tell.
    pub fn turn(&mut self, now: Monotonic) -> Seen {
        self.told = false;
        match self.is_well_at(now) {
            false => Seen::Wrong,
            true if self.told => Seen::Told,
            true => Seen::Well,
        }
    }

    fn is_well_at(&mut self, now: Monotonic) -> bool {
        let last = self.known.take();
        let mut known = self.page.as_ref().and_then(|page| page.know(last));
        // A guard that is silent: there may be a page of another by now.
        if known
            .as_ref()
            .is_none_or(|known| status::is_silent(&known.view, now))
        {
            // What the last guard left behind comes before what the next one does.
            if let Some(known) = &known {
                self.entries(&known.view, now);
            }
            if let Ok(page) = Reader::open(&self.reporter.page) {
                known = page.know(None);
                self.page = Some(page);
            }
        }
        if let Some(known) = &known {
            self.entries(&known.view, now);
            self.silence(&known.view, now);
        }
        let view = known.as_ref().map(|known| &known.view);
        let is_well = view.is_some_and(|view| kicks(view, now));
        let wanted = view.is_some_and(|view| wants_evidence(view, now));
        self.known = known;
        let Some(Found { line, news }) = self.reporter.look(now, wanted, &self.clock) else {
            return is_well;
        };
        if let Some(line) = line {
            self.direct.tell(Severity::Error, "host.withhold", &line);
        }
        // In their order: what another watcher is at comes before what follows it.
        for (number, kind) in news {
            if !self.tell(Stream::Starving, number, kind, now) {
                break;
            }
        }
        is_well
    }

    /// Tells what has this key, once: a line that waits for nobody, then the event.
    fn tell(&mut self, stream: Stream, key: u64, kind: Kind, now: Monotonic) -> bool {
        let direct = &mut self.direct;
        self.told = true;
        self.reporter.told.once(stream, key, now, || {
            direct.tell(kind.severity(), kind.kind(), &plain(&kind.describe()));
            (self.reporter.publish)(kind);
        })
    }

    /// Tells the guard's entries: first all lines, which wait for nobody.
    fn entries(&mut self, view: &View, now: Monotonic) {
        let reporter = self.reporter;
        for stream in [Stream::Lines, Stream::Events] {
            let next = reporter.told.next_entry(stream, view.info.started);
            let Some(page) = &self.page else {
                return;
            };
            if next >= view.status.entries {
                continue;
            }
            self.told = true;
            let mut expected = next;
            for entry in &page.entries(next).entries {
                let order = || inhibit::read(&reporter.page.with_file_name("inhibit"));
                let kind = event(entry, &view.info, order);
                let lost = entry.number.saturating_sub(expected);
                expected = entry.number.saturating_add(1);
                let direct = &mut self.direct;
                let told =
                    reporter
                        .told
                        .once(stream, key(view.info.started, entry.number), now, || {
                            match stream {
                                Stream::Lines => {
                                    direct.tell(
                                        kind.severity(),
                                        kind.kind(),
                                        &line(entry, &kind, &view.info),
                                    );
                                    // Whoever was first counts what nobody saw.
                                    reporter.lost.fetch_add(lost, Ordering::Relaxed);
                                }
                                _ => (reporter.publish)(kind),
                            }
                        });
                if !told {
                    break;
                }
            }
        }
    }

    /// Tells that the guard fell silent, or is back.
    fn silence(&mut self, view: &View, now: Monotonic) {
        let told = &self.reporter.told;
        let last = told.last(Stream::Silent);
        let looked_ms = view.status.looked.0 / NS_PER_MS;
        let kind = if is_silent(view, now) {
            let silent_ms = now.since_ns(view.status.looked) / NS_PER_MS;
            (
                Stream::Silent,
                looked_ms,
                Kind::HostGuardSilent { silent_ms },
            )
        } else if looked_ms > last && last > told.last(Stream::Back) {
            let silent_ms = looked_ms - last;
            (Stream::Back, last, Kind::HostGuardBack { silent_ms })
        } else {
            return;
        };
        let (stream, key, kind) = kind;
        self.tell(stream, key, kind, now);
    }
}

/// A guard that has the host watchdog armed and is silent.
fn is_silent(view: &View, now: Monotonic) -> bool {
    let is_armed = matches!(view.status.phase, Phase::Armed | Phase::Stopping);
    is_armed && status::is_silent(view, now)
}

/// A guard that has the host watchdog armed, and has just kicked it.
fn kicks(view: &View, now: Monotonic) -> bool {
    let status = &view.status;
    let heard = status.looked.max(status.served).max(status.answered);
    let is_recent = now.since_ns(heard) <= RECENT_NS && !status::is_silent(view, now);
    status.phase == Phase::Armed && is_recent && status.decision == Decision::Kick
}

/// Whether people are not told what is wrong unless somebody else looks.
fn wants_evidence(view: &View, now: Monotonic) -> bool {
    is_silent(view, now) || matches!(view.status.decision, Decision::Withhold(Reason::Unknown(_)))
}

/// The last entries of a guard page, oldest first: how long ago, and what.
pub fn last_entries(page: &Reader, view: &View, most: u64, now: Monotonic) -> Vec<(u64, String)> {
    let entries = page
        .entries(view.status.entries.saturating_sub(most))
        .entries;
    let told = |entry: &Entry| {
        let what = event(entry, &view.info, || None).describe();
        (now.since_ns(entry.at) / NS_PER_MS, what)
    };
    entries.iter().map(told).collect()
}

/// The event of an entry; `order` is asked for who inhibits the guard.
fn event(entry: &Entry, info: &Info, order: impl Fn() -> Option<Order>) -> Kind {
    let age_ns = entry.at.since_ns(entry.last_kick);
    let left_ms = info.timeout_ns.saturating_sub(age_ns) / NS_PER_MS;
    let age_ms = age_ns / NS_PER_MS;
    let error = |errno: i32| Errno::from_raw(errno).desc().to_owned();
    match entry.kind {
        EntryKind::Armed => Kind::HostArmed {
            device: info.device.display().to_string(),
            identity: info.identity.clone(),
            timeout_ms: info.timeout_ns / NS_PER_MS,
            coverage: info.coverage,
            unguarded_ms: (age_ms != 0).then_some(age_ms),
            ran_on_ms: None,
        },
        EntryKind::TakenOver => Kind::HostArmed {
            device: info.device.display().to_string(),
            identity: info.identity.clone(),
            timeout_ms: info.timeout_ns / NS_PER_MS,
            coverage: info.coverage,
            unguarded_ms: None,
            ran_on_ms: (age_ms != 0).then_some(age_ms),
        },
        EntryKind::Withhold(reason) => Kind::HostWithhold {
            reason: reason.to_string(),
            last_kick_age_ms: age_ms,
            left_ms,
        },
        EntryKind::Resume => Kind::HostResumed {
            unkicked_ms: age_ms,
            left_ms,
        },
        EntryKind::Excused(work) => Kind::HostExcused {
            what: work.to_string(),
        },
        EntryKind::Refused { errno, count } => Kind::HostKickRefused {
            error: error(errno),
            count,
        },
        EntryKind::Taken { refused } => Kind::HostKickTaken { refused },
        EntryKind::Disarmed => Kind::HostDisarmed {},
        EntryKind::DisarmFailed { errno, within_s } => Kind::HostDisarmFailed {
            error: error(errno),
            within_ms: (within_s != 0).then_some(u64::from(within_s) * 1_000),
        },
        EntryKind::Inhibited { until } => {
            let Order { by, reason, .. } = order().unwrap_or_default();
            Kind::HostInhibited {
                for_ms: until.since_ns(entry.at) / NS_PER_MS,
                by,
                reason,
            }
        }
        EntryKind::InhibitEnded { early } => Kind::HostInhibitEnded {
            ended_by: order().filter(|_| early).and_then(|order| order.ended_by),
        },
        EntryKind::Ignored(reason) => Kind::HostIgnored {
            reason: reason.to_string(),
        },
        EntryKind::Kept { after_s } => Kind::HostKept {
            timeout_ms: u64::from(after_s) * 1_000,
        },
        EntryKind::Shutdown { within_s } => Kind::HostShutdown {
            resets_within_ms: u64::from(within_s) * 1_000,
        },
    }
}

/// The line of an entry.
fn line(entry: &Entry, kind: &Kind, info: &Info) -> String {
    let age_ns = entry.at.since_ns(entry.last_kick);
    let (age_ms, left_ms) = (
        age_ns / NS_PER_MS,
        info.timeout_ns.saturating_sub(age_ns) / NS_PER_MS,
    );
    match entry.kind {
        EntryKind::Withhold(reason) => format!(
            "withhold: {reason} (last kick {age_ms} ms ago; the host goes down, from {left_ms} ms \
             on, unless it is served again)"
        ),
        EntryKind::Resume => format!(
            "resume: everything is served again (last kick {age_ms} ms ago, {left_ms} ms were left)"
        ),
        _ => plain(&kind.describe()),
    }
}

/// Whether a watcher tells such an event at once, as a line of its own.
#[must_use]
pub fn tells(kind: &Kind) -> bool {
    let before = matches!(
        kind,
        Kind::HostResetReason { .. } | Kind::HostStateSetAside { .. }
    );
    kind.kind().starts_with("host.") && !before
}
