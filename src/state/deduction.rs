// SPDX-License-Identifier: GPL-2.0-only
//! Why the last boot ended, from what it left behind. Pure.
//!
//! In: the heartbeat and the withhold record of the boot that ended, the traces that the
//! present one finds. Out: a [`Reset`]; none where the host watchdog was disarmed, which is no
//! reset, and where it is the same boot. It claims no more than the records say:
//!
//! | last heartbeat | and | cause | confidence |
//! |---|---|---|---|
//! | disarmed | | none: a stop in order | |
//! | a shutdown | the device says that it fired | `shutdown_hung` | likely, as it may have been cancelled |
//! | a shutdown | it does not say so | none: a shutdown in order | |
//! | any other | a drill had stopped the kicks | `drill` | as of the next three |
//! | between two guards | | as of a host that was kicked | |
//! | not kicked | the device says that it fired | why not | known |
//! | not kicked | the device cannot tell | why not | likely |
//! | not kicked | the device says that it did not fire | why not | unknown |
//! | not kicked | that, and a crash kernel left a record, as after Xen's slot | why not | likely |
//! | the guard silent | a pCPU was late as well | `guard_silent` | likely at most |
//! | kicked | a dump of a panic | `dom0_panic` | known |
//! | kicked | a record of a crash kernel | `crash` | known |
//! | kicked | a dump of nobody knows what | `dom0_panic` | likely |
//! | kicked | the device says that it fired | `watchdog` | known |
//! | kicked | the monitor had been stopped | `unwatched` | unknown |
//! | kicked | nothing | `unrecorded` | unknown |
//!
//! A panic does not hide that kicks had ended before it: whoever panics writes no more.

use super::drill::{Ended, Measured};
use super::reset_reason::{HostRecord, HostState, Watchdog};
use super::traces::{CrashRecord, RecordOf, Traces};
use super::withhold::{Evidence, WithholdRecord};
use crate::event::{Confidence, Kind, ResetCause, Timestamp, Unkicked};
use serde::{Deserialize, Serialize};

/// Records of crashes that one reset keeps.
const MOST_RECORDS: usize = 8;

/// Why a boot of the host ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reset {
    /// That boot.
    pub boot_id: String,
    /// What brought it down.
    pub cause: ResetCause,
    /// How much the records say.
    pub confidence: Confidence,
    /// Why, for people.
    pub reason: String,
    /// When the monitor last wrote down that the host lived.
    pub last_seen: Timestamp,
    /// The last kick that it wrote down.
    pub last_kick: Option<Timestamp>,
    /// When the next boot's kernel started.
    pub booted: Option<Timestamp>,
    /// For how long dom0 had run when it was last seen.
    pub uptime_ms: Option<u64>,
    /// Whether the host watchdog says that it caused the reset.
    pub watchdog_fired: Option<bool>,
    /// The host watchdog when the host was last seen.
    pub watchdog: Option<Watchdog>,
    /// The monitor had been stopped in order before.
    pub monitor_ended: bool,
    /// What panicking kernels and crash kernels left since the boot before.
    pub records: Vec<CrashRecord>,
    /// What was so when kicks ended.
    pub withhold: Option<WithholdRecord>,
}

/// What the last boot wrote down.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// The heartbeat.
    pub last: HostRecord,
    /// The withhold record; it may be of any boot.
    pub withhold: Option<WithholdRecord>,
    /// The drill that ended it, if one did.
    pub drill: Option<Ended>,
}

/// What the records make of it.
type Verdict = (ResetCause, Confidence, String);

impl Left {
    /// Why that boot ended, as seen from the one that left these traces.
    #[must_use]
    pub fn reset(self, traces: &Traces) -> Option<Reset> {
        let Self {
            last,
            withhold,
            drill,
        } = self;
        if traces.boot_id.is_empty() || last.boot_id.is_empty() || last.boot_id == traces.boot_id {
            return None;
        }
        let withhold = withhold.filter(|record| record.boot_id == last.boot_id);
        let (cause, confidence, reason) = match (&last.state, drill) {
            (HostState::Disarmed, _) => return None,
            (HostState::Shutdown, _) if traces.watchdog_fired != Some(true) => return None,
            (HostState::Shutdown, _) => {
                let cause = ResetCause::ShutdownHung;
                (cause, Confidence::Likely, SHUTDOWN_HUNG.to_owned())
            }
            (_, Some(drill)) => drilled(drill.measured.as_ref(), traces),
            (HostState::Withholding { reason, cause }, None) => {
                unkicked(*cause, reason, withhold.as_ref(), traces)
            }
            (HostState::Armed | HostState::Kept, None) => {
                match withhold.as_ref().filter(|record| follows(record, &last)) {
                    Some(record) => unkicked(record.cause, &record.reason, Some(record), traces),
                    None => kicked(&last, traces),
                }
            }
        };
        let withhold = withhold.filter(|_| is_of_kicks(cause));
        let seen = withhold.as_ref().map(|record| {
            let age = record.evidence.watchdog.as_ref();
            let kick = age.map(|watchdog| record.time.before_ms(watchdog.last_kick_age_ms));
            (record.time, kick, record.uptime_ms)
        });
        let by_heartbeat = (last.time, last.last_kick(), last.uptime_ms);
        let (last_seen, last_kick, uptime_ms) = match seen {
            Some(seen) if seen.0 > last.time => seen,
            _ => by_heartbeat,
        };
        Some(Reset {
            boot_id: last.boot_id,
            cause,
            confidence,
            reason,
            last_seen,
            last_kick,
            booted: traces.booted,
            uptime_ms,
            watchdog_fired: traces.watchdog_fired,
            watchdog: last.watchdog,
            monitor_ended: last.monitor_ended,
            records: traces.records.iter().take(MOST_RECORDS).cloned().collect(),
            withhold,
        })
    }
}

impl Reset {
    /// The event that tells it.
    #[must_use]
    pub fn event(&self) -> Kind {
        Kind::HostResetReason {
            cause: self.cause,
            confidence: self.confidence,
            reason: self.reason.clone(),
            last_seen: self.last_seen,
            last_kick: self.last_kick,
            booted: self.booted,
            uptime_ms: self.uptime_ms,
            watchdog_fired: self.watchdog_fired,
            record: self.records.first().map(|record| record.path.clone()),
        }
    }
}

/// Whether the record is of a moment after the heartbeat, whatever the wall clock did: the
/// host went down before the heartbeat could say so.
fn follows(record: &WithholdRecord, last: &HostRecord) -> bool {
    match (record.uptime_ms, last.uptime_ms) {
        (Some(record), Some(last)) => record > last,
        _ => record.time > last.time,
    }
}

fn is_of_kicks(cause: ResetCause) -> bool {
    use ResetCause::{DisarmFailed, GuardSilent, KickRefused, Withheld};
    matches!(cause, Withheld | KickRefused | DisarmFailed | GuardSilent)
}

/// What kicks that had ended say of the reset.
fn by_watchdog(traces: &Traces) -> Confidence {
    match traces.watchdog_fired {
        Some(true) => Confidence::Known,
        None => Confidence::Likely,
        Some(false) => Confidence::Unknown,
    }
}

fn drilled(measured: Option<&Measured>, traces: &Traces) -> Verdict {
    let shown = measured.map(|measured| {
        let s = |ms: u64| format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10);
        let (alive, down) = (s(measured.alive_ms), s(measured.down_ms));
        format!("a drill: the host lived for {alive} after its last kick, and was down by {down}")
    });
    let shown = shown.unwrap_or_else(|| "a drill that measured nothing".to_owned());
    (ResetCause::Drill, by_watchdog(traces), shown)
}

/// Kicks had ended, and it is known why. But a guard that falls silent beside a pCPU that is
/// late need not be at fault: the pCPU may be its own.
fn unkicked(
    cause: Unkicked,
    reason: &str,
    record: Option<&WithholdRecord>,
    traces: &Traces,
) -> Verdict {
    let mut reason = reason.to_owned();
    let mut confidence = match by_watchdog(traces) {
        Confidence::Unknown if traces.first(RecordOf::Crash).is_some() => Confidence::Likely,
        confidence => confidence,
    };
    let late = record.and_then(|record| late_pcpu(&record.evidence));
    if let (Unkicked::GuardSilent, Some(cpu)) = (cause, late) {
        reason += &format!("; pcpu {cpu} was late as well, so a wedge may have stopped it");
        confidence = match confidence {
            Confidence::Known => Confidence::Likely,
            other => other,
        };
    }
    (cause.into(), confidence, reason)
}

/// A pCPU that did not run its timers or its scheduler.
fn late_pcpu(evidence: &Evidence) -> Option<u32> {
    let mut pcpus = evidence.pcpus.iter().flatten();
    let late = pcpus.find(|pcpu| pcpu.canary_overdue_ms.max(pcpu.request_age_ms) > LATE_MS)?;
    Some(late.cpu)
}

/// How late a pCPU is that is not merely busy: no timer is served to the millisecond.
const LATE_MS: u64 = 250;

/// All was served, as far as anybody wrote down.
fn kicked(last: &HostRecord, traces: &Traces) -> Verdict {
    use ResetCause::{Crash, Dom0Panic, Unrecorded, Unwatched, Watchdog};
    if let Some(CrashRecord { path, .. }) = traces.first(RecordOf::Panic) {
        let reason = format!("dom0's kernel panicked and left {path}");
        return (Dom0Panic, Confidence::Known, reason);
    }
    if let Some(CrashRecord { path, .. }) = traces.first(RecordOf::Crash) {
        let reason = format!("the hypervisor or dom0 crashed: a crash kernel left {path}");
        return (Crash, Confidence::Known, reason);
    }
    if let Some(CrashRecord { path, .. }) = traces.first(RecordOf::Dump) {
        let reason = format!("dom0's kernel left its last words in {path}: it panicked");
        return (Dom0Panic, Confidence::Likely, reason);
    }
    let (cause, confidence, reason) = match traces.watchdog_fired {
        Some(true) => (Watchdog, Confidence::Known, FIRED),
        _ if last.monitor_ended => (Unwatched, Confidence::Unknown, UNWATCHED),
        Some(false) => (Unrecorded, Confidence::Unknown, NOT_FIRED),
        None => (Unrecorded, Confidence::Unknown, UNRECORDED),
    };
    (cause, confidence, reason.to_owned())
}

/// The guard had ended.
const SHUTDOWN_HUNG: &str =
    "the guests were down and the guard had ended, but the shutdown did not";
/// The host watchdog fired all the same.
const FIRED: &str = "kicks ended before anybody could write down why: dom0, the hypervisor or \
                     the guard hung, died or panicked from one moment to the next";
/// Nobody was there to write.
const UNWATCHED: &str = "the monitor had been stopped while the host watchdog was armed: what came \
                         then, a shutdown in order or not, nobody wrote down";
/// Something was faster than the host watchdog.
const NOT_FIRED: &str = "the host went down without a record while it was kicked, and not by its \
                         host watchdog: power loss, a panic of the hypervisor or of dom0, a reset, \
                         or hardware";
/// Nothing tells.
const UNRECORDED: &str = "the host went down without a record while it was kicked: power loss, a \
                          panic or hang of the hypervisor or of dom0, a kill of the guard, a reset, \
                          or hardware";
