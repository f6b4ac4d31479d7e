// SPDX-License-Identifier: GPL-2.0-only
//! Status: what is known of the host, in one value.
//!
//! In: the guard page; what the monitor saw of pCPUs, guests and its own sinks. Out:
//! [`Status`], as JSON for programs (`xenwarden status --json`) and as text for people. The
//! command line can make the guard's part by itself. Ages and times are in the unit that the
//! field's name ends with; what is not known is null.

use super::leases::Lease;
use crate::event::{Coverage, Timestamp, Uuid};
use crate::guard::gate::Decision;
use crate::guard::histogram::Histogram;
use crate::guard::page::{self, Counters, Phase, View};
use crate::guests::report::{GuestReport, GuestsReport};
use crate::state::drill::{Drills, FenceBound};
use crate::state::saver::{Health, SaveError};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The whole status. Fields are only ever added within a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of this form: 1.
    pub version: u32,
    /// The host watchdog.
    pub host_watchdog: HostWatchdog,
    /// Whether it is kicked.
    pub decision: DecisionStatus,
    /// What the evidence covers.
    pub coverage: Coverage,
    /// Since the guard last looked at the hypervisor.
    pub look_age_ms: u64,
    /// What is not as it should be, though the guard guards.
    pub weakness: Option<String>,
    /// What is late, and excused.
    pub excused: Option<String>,
    /// Whether an operator inhibits the guard; null where nobody does.
    #[serde(default)]
    pub inhibited: Option<Inhibited>,
    /// Other programs that are conditions of the host's life.
    #[serde(default)]
    pub leases: Vec<Lease>,
    /// The kick path's own figures.
    pub kick_path: KickPath,
    /// What the monitor knows; null where it is down.
    pub monitor: Option<MonitorStatus>,
}

/// An operator has the guard kick whatever the evidence says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inhibited {
    /// For so long from now.
    pub left_ms: u64,
    /// Who ordered it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// For what kicks would be withheld; null where everything is served.
    pub ignored: Option<String>,
}

/// What the monitor adds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Each pCPU; empty with partial coverage.
    pub pcpus: Vec<Pcpu>,
    /// Each armed guest watchdog.
    pub guest_watchdogs: Vec<GuestWatchdog>,
    /// Why guests may lack a name.
    pub names_trouble: Option<String>,
    /// Why the liveness table is not seen; null where it is.
    pub no_table: Option<String>,
    /// Why the monitor cannot save its state; null where it can.
    pub save_error: Option<SaveError>,
    /// What was lost for want of room.
    pub dropped: Dropped,
}

/// The armed device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostWatchdog {
    /// The device.
    pub device: PathBuf,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout.
    pub timeout_ms: u64,
    /// A silent host is reset within this, by what is known of the device, milliseconds.
    pub resets_within_ms: u64,
    /// A host that is wedged, hung or dead is down after so long, milliseconds; null where
    /// nothing is armed, with partial coverage, while the guard is inhibited, and where a drill has
    /// failed, or what drills have shown is not known.
    #[serde(default)]
    pub fence_bound_ms: Option<u64>,
    /// When a drill measured the host watchdog's part of it; null: it is taken for twice the
    /// timeout.
    #[serde(default)]
    pub fence_bound_measured: Option<Timestamp>,
    /// When a drill has shown, since the boot, that it does not reset this host; null otherwise.
    #[serde(default)]
    pub drill_failed: Option<Timestamp>,
    /// Until it fires unless kicked, by our clock.
    pub time_left_ms: u64,
    /// Since the last kick.
    pub last_kick_age_ms: u64,
    /// Kicks since it was armed.
    pub kicks: u64,
}

/// Whether the host watchdog is kicked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Kicks go on.
    pub kick: bool,
    /// Why not.
    pub reason: Option<String>,
    /// How long it has been so.
    pub for_ms: u64,
}

/// A pCPU, as the monitor has watched it: ages are by dom0's clock, from look to look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pcpu {
    /// Its number.
    pub cpu: u32,
    /// It is online; the rest tells nothing of an offline one.
    pub online: bool,
    /// Since its canary was seen to run.
    pub canary_age_ms: u64,
    /// How long its canary is overdue; 0 while it is not due.
    pub canary_overdue_ms: u64,
    /// How long its scheduler owes a decision; 0 when it owes none.
    pub sched_overdue_ms: u64,
    /// How often the canary has run; wraps.
    pub canary_runs: u32,
    /// It idled when the hypervisor last looked for vCPUs that wait: each second, up to 1,024
    /// vCPUs.
    #[serde(default)]
    pub idle: bool,
    /// The runnable vCPU placed on it that has not run for longest; null where none waits.
    #[serde(default)]
    pub starved: Option<Starved>,
}

/// A vCPU that could run and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starved {
    /// For how long, by the hypervisor's count.
    pub waited_ms: u32,
    /// Its domain.
    pub domid: u32,
    /// Its number in that domain.
    pub vcpu: u32,
}

/// A guest watchdog that is armed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestWatchdog {
    /// The domain.
    pub domid: u16,
    /// Its guest's UUID.
    pub uuid: Option<Uuid>,
    /// Its name in xenstore.
    pub name: Option<String>,
    /// The slot, from 1.
    pub slot: u8,
    /// The guest's timeout.
    pub timeout_s: u32,
    /// Since it was last armed or fed.
    pub last_fed_age_ms: u64,
    /// Until its deadline; 0 when past.
    pub margin_ms: u64,
    /// It expired and was not fed since.
    pub expired: bool,
}

/// Figures of the kick path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KickPath {
    /// Looks at the hypervisor.
    pub samples: u64,
    /// The longest look.
    pub max_look_us: u64,
    /// The longest time between two kicks.
    pub max_kick_gap_ms: u64,
    /// The longest kick.
    pub max_kick_us: u64,
    /// Kicks that the device refused.
    pub failed_kicks: u64,
    /// Times that kicks were withheld.
    pub withholds: u64,
    /// How late looks began.
    #[serde(default)]
    pub late: Took,
    /// How long kicks took.
    #[serde(default)]
    pub kick_took: Took,
    /// Page faults of the guard since its loop began.
    pub minor_faults: u64,
    /// Those that needed I/O.
    pub major_faults: u64,
}

/// What was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The guard's entries that no watcher of the monitor read in time.
    pub decisions: u64,
    /// Log lines that found a queue full.
    pub log_lines: u64,
    /// Messages that /dev/log did not take.
    pub syslog_messages: u64,
    /// Events that each sink lost.
    pub sinks: BTreeMap<String, u64>,
}

/// A guard that has told nothing for so long hangs, or is gone.
const SILENT_NS: u64 = 1_000 * NS_PER_MS;
/// Kicks that the gate allows and the device has not taken for so many periods do not reach
/// it: the driver refuses them.
const PERIODS_WITHOUT_KICK: u64 = 4;
/// Some devices take their time for a kick (a BMC): this part of the timeout is given to one.
const KICK_PART: u64 = 2;

impl Status {
    /// The guard's part, from its page, if there is one, and what drills have shown, if that is
    /// known.
    #[must_use]
    pub fn of_page(view: Option<&View>, drills: Option<&Drills>, now: Monotonic) -> Self {
        view.map_or_else(Self::without_guard, |view| {
            Self::of_guard(view, drills, now)
        })
    }

    fn without_guard() -> Self {
        Self {
            version: 1,
            host_watchdog: HostWatchdog {
                device: PathBuf::new(),
                identity: String::new(),
                timeout_ms: 0,
                resets_within_ms: 0,
                fence_bound_ms: None,
                fence_bound_measured: None,
                drill_failed: None,
                time_left_ms: 0,
                last_kick_age_ms: 0,
                kicks: 0,
            },
            decision: DecisionStatus {
                kick: false,
                reason: Some("the guard (xenwardend) has not run since the boot".to_owned()),
                for_ms: 0,
            },
            coverage: Coverage::Partial,
            look_age_ms: 0,
            weakness: None,
            excused: None,
            inhibited: None,
            leases: Vec::new(),
            kick_path: kick_path(&Counters::default()),
            monitor: None,
        }
    }

    /// The guard's part, from its page, and what drills have shown, if that is known.
    #[must_use]
    pub fn of_guard(view: &View, drills: Option<&Drills>, now: Monotonic) -> Self {
        let View { info, status } = view;
        // Without all of the evidence, or inhibited, a host may be silent and be kicked.
        let inhibited = status.inhibited.is_some_and(|until| until > now);
        let is_bound = matches!(status.phase, Phase::Armed | Phase::Stopping)
            && info.coverage == Coverage::Full
            && !inhibited;
        let bound = drills.filter(|_| is_bound);
        let bound = bound.and_then(|drills| FenceBound::of(info, drills));
        let drill_failed = drills.and_then(|drills| drills.failed(info));
        let age_ns = now.since_ns(status.last_kick);
        Self {
            version: 1,
            host_watchdog: HostWatchdog {
                device: info.device.clone(),
                identity: info.identity.clone(),
                timeout_ms: info.timeout_ns / NS_PER_MS,
                resets_within_ms: info.latest_ns / NS_PER_MS,
                fence_bound_ms: bound.map(|bound| bound.ms),
                fence_bound_measured: bound.and_then(|bound| bound.measured),
                drill_failed,
                time_left_ms: info.timeout_ns.saturating_sub(age_ns) / NS_PER_MS,
                last_kick_age_ms: age_ns / NS_PER_MS,
                kicks: status.counters.kicks,
            },
            decision: decision(view, now),
            coverage: info.coverage,
            look_age_ms: now.since_ns(status.looked) / NS_PER_MS,
            weakness: (!info.weakness.is_empty()).then(|| info.weakness.clone()),
            excused: status.excused.map(|work| work.to_string()),
            inhibited: status.inhibited.and_then(|until| {
                let left_ns = until.0.checked_sub(now.0)?;
                let ignored = status.ignored.map(|reason| reason.to_string());
                Some(Inhibited {
                    left_ms: left_ns / NS_PER_MS,
                    ignored,
                    ..Inhibited::default()
                })
            }),
            leases: Vec::new(),
            kick_path: kick_path(&status.counters),
            monitor: None,
        }
    }
}

impl MonitorStatus {
    /// From what the registry reports, what was seen of the pCPUs, and what was lost.
    #[must_use]
    pub fn new(report: &GuestsReport, pcpus: Vec<Pcpu>, saving: Health, dropped: Dropped) -> Self {
        Self {
            pcpus,
            guest_watchdogs: report.guests.iter().flat_map(watchdogs).collect(),
            names_trouble: report.names_trouble.clone(),
            no_table: report.no_table.clone(),
            save_error: saving.trouble,
            dropped,
        }
    }
}

fn watchdogs(guest: &GuestReport) -> impl Iterator<Item = GuestWatchdog> + '_ {
    guest.slots.iter().map(|slot| GuestWatchdog {
        domid: guest.domid,
        uuid: guest.uuid,
        name: guest.name.clone(),
        slot: slot.slot,
        timeout_s: slot.timeout_s,
        last_fed_age_ms: slot.last_fed_age_ms,
        margin_ms: slot.margin_ms,
        expired: slot.expired,
    })
}

/// Whether a guard hangs or is gone, as it has told nothing for too long. While a kick goes on it
/// tells nothing, so a device's time for that is not counted, up to half of the timeout.
#[must_use]
pub fn is_silent(view: &View, now: Monotonic) -> bool {
    let View { info, status } = view;
    let usual_ns = SILENT_NS.max(PERIODS_WITHOUT_KICK * info.period_ns);
    let (since, silent_ns) = match is_in_kick(status) {
        true => (status.served, usual_ns.max(info.timeout_ns / KICK_PART)),
        false => (status.looked.max(status.answered), usual_ns),
    };
    now.since_ns(since) > silent_ns
}

/// The device has not answered yet to the kick that the gate last allowed.
fn is_in_kick(status: &page::Status) -> bool {
    status.answered < status.served
}

/// Whether the device takes no kicks, though the gate allows them.
fn is_refused(view: &View, now: Monotonic) -> bool {
    let View { info, status } = view;
    let kick_ns = status.counters.max_kick_ns.min(info.timeout_ns / KICK_PART);
    let longest_ns = PERIODS_WITHOUT_KICK * info.period_ns + kick_ns;
    !is_in_kick(status) && now.since_ns(status.last_kick) > longest_ns
}

/// Kicks go on only where the guard says so, is seen to be alive, and its kicks arrive.
#[must_use]
pub fn decision(view: &View, now: Monotonic) -> DecisionStatus {
    let View { info, status } = view;
    let withheld = |reason: String, since: Monotonic| DecisionStatus {
        kick: false,
        reason: Some(reason),
        for_ms: now.since_ns(since) / NS_PER_MS,
    };
    match (status.phase, status.decision) {
        (Phase::Starting, _) => withheld("the guard has not armed it yet".into(), info.started),
        (Phase::Disarmed, _) => withheld("the host watchdog is disarmed".into(), status.looked),
        (Phase::Kept, _) => withheld(
            "the guard has ended: the host watchdog is disarmed, unless another takes it over"
                .into(),
            status.looked,
        ),
        (Phase::Shutdown, _) => withheld(
            "the guard has ended, as the host shuts down: the host watchdog resets it if that hangs"
                .into(),
            status.looked,
        ),
        (Phase::StillArmed, _) => withheld(
            "the guard has ended without disarming it".into(),
            status.looked,
        ),
        _ if is_silent(view, now) => withheld(
            "the guard tells nothing: it hangs or is gone".into(),
            status.looked,
        ),
        (_, Decision::Withhold(reason)) => withheld(reason.to_string(), status.since),
        (_, Decision::Kick) if is_refused(view, now) => {
            let reason = "kicks do not reach the host watchdog";
            withheld(reason.into(), status.last_kick)
        }
        (_, Decision::Kick) => DecisionStatus {
            kick: true,
            reason: None,
            for_ms: now.since_ns(status.since) / NS_PER_MS,
        },
    }
}

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    /// Up to 0.1, 0.5, 1, 5, 10, 50 and 250 milliseconds, each without those before it, and more.
    pub counts: Vec<u64>,
    /// All of them together, microseconds.
    pub sum_us: u64,
}

impl From<Histogram> for Took {
    fn from(histogram: Histogram) -> Self {
        Self {
            counts: histogram.counts.to_vec(),
            sum_us: histogram.sum_ns / 1_000,
        }
    }
}

fn kick_path(counters: &Counters) -> KickPath {
    KickPath {
        samples: counters.looks,
        max_look_us: counters.max_look_ns / 1_000,
        max_kick_gap_ms: counters.max_gap_ns / NS_PER_MS,
        max_kick_us: counters.max_kick_ns / 1_000,
        failed_kicks: counters.refused,
        withholds: counters.withholds,
        late: counters.late.into(),
        kick_took: counters.kick_took.into(),
        minor_faults: counters.minor_faults,
        major_faults: counters.major_faults,
    }
}
