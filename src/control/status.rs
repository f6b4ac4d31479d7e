// SPDX-License-Identifier: GPL-2.0-only
//! Status: what the daemon knows, in one value.
//!
//! In: the ledger, the names, the armed device. Out: [`Status`], as JSON for programs
//! (`xenwarden status --json`) and as text for people. Ages and times are in the unit
//! that the field's name ends with; what is not known is null.

use crate::event::Kind;
use crate::event::bus::Bus;
use crate::guard::gate::Decision;
use crate::guard::ledger::{Counters, Ledger};
use crate::monitor::names::Names;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::xen::Coverage;
use crate::xen::liveness::{PcpuRecord, TimerRecord};
use crate::xen::snapshot::Snapshot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// The whole status. Fields are only ever added within a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of this form: 1.
    pub version: u32,
    /// The host watchdog.
    pub host_watchdog: HostWatchdog,
    /// Kind the gate says.
    pub decision: DecisionStatus,
    /// Kind the evidence covers.
    pub coverage: Coverage,
    /// Age of the latest look at the hypervisor; null before the first.
    pub evidence_age_ms: Option<u64>,
    /// The two clocks at one moment of that look; null where it shows no times.
    #[serde(default)]
    pub clocks: Option<Clocks>,
    /// Each pCPU's evidence; empty with partial coverage.
    pub pcpus: Vec<Pcpu>,
    /// Each guest watchdog that belongs to a domain.
    pub guest_watchdogs: Vec<GuestWatchdog>,
    /// Guest watchdogs' pages that are judged but not listed above.
    pub pages_left_out: u32,
    /// Why guests may lack a name.
    pub names_trouble: Option<String>,
    /// The kick path's own figures.
    pub kick_path: KickPath,
    /// Kind was lost for want of room.
    pub dropped: Dropped,
}

/// One moment by two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_MONOTONIC of dom0, before the look began.
    pub monotonic_ns: u64,
    /// The hypervisor's system time, in the look.
    pub xen_ns: u64,
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
    /// Until it fires unless kicked, by our clock.
    pub time_left_ms: u64,
    /// Since the last kick.
    pub last_kick_age_ms: u64,
    /// Kicks since the daemon armed it.
    pub kicks: u64,
}

/// The gate's decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Kicks go on.
    pub kick: bool,
    /// Why not.
    pub reason: Option<String>,
    /// How long it has been so.
    pub for_ms: u64,
}

/// A pCPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pcpu {
    /// Its number.
    pub cpu: u32,
    /// It is online; the rest tells nothing of an offline one.
    pub online: bool,
    /// Since its canary last ran, when it was looked at.
    pub canary_age_ms: u64,
    /// How long its canary was overdue; 0 while it is not due.
    pub canary_overdue_ms: u64,
    /// How long its scheduler owed a decision; 0 when it owed none.
    pub sched_overdue_ms: u64,
    /// How often the canary has run.
    pub canary_runs: u32,
    /// The canary's worst lateness since boot.
    pub max_late_us: u32,
}

/// A guest watchdog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestWatchdog {
    /// The domain.
    pub domid: u16,
    /// Its name in xenstore.
    pub name: Option<String>,
    /// The slot, from 1.
    pub slot: u8,
    /// It is armed (and stays so after it fired).
    pub armed: bool,
    /// The guest's timeout.
    pub timeout_s: u32,
    /// Times armed or fed.
    pub sets: u32,
    /// Since it was last armed or fed; null if never.
    pub last_fed_age_ms: Option<u64>,
    /// Until its deadline, negative once past; null unless armed.
    pub deadline_in_ms: Option<i64>,
    /// It fired and was not fed since.
    pub fired: bool,
    /// Expiries of this slot.
    pub nr_fired: u32,
    /// Since it last fired; null if never.
    pub fired_age_ms: Option<u64>,
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
    /// Page faults of both real-time threads since their loops began.
    pub minor_faults: u64,
    /// Those that needed I/O.
    pub major_faults: u64,
}

/// Kind was lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Decisions that the narrator was too late for.
    pub notes: u64,
    /// Log lines that found a queue full.
    pub log_lines: u64,
    /// Messages that /dev/log did not take.
    pub syslog_messages: u64,
    /// Events that each sink lost.
    #[serde(default)]
    pub sinks: BTreeMap<String, u64>,
}

/// Kind does not change while the daemon runs.
#[derive(Clone, Debug)]
pub struct Armed {
    /// The device.
    pub device: PathBuf,
    /// The driver's name for it.
    pub identity: String,
    /// Its timeout, ns.
    pub timeout_ns: u64,
    /// Kind the evidence covers.
    pub coverage: Coverage,
    /// The time between two kicks, ns.
    pub period_ns: u64,
}

impl Armed {
    /// The event of the arming.
    #[must_use]
    pub fn event(&self) -> Kind {
        Kind::HostArmed {
            device: self.device.display().to_string(),
            identity: self.identity.clone(),
            timeout_ms: self.timeout_ns / NS_PER_MS,
            coverage: self.coverage,
        }
    }
}

/// Where status comes from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Kind does not change.
    pub armed: &'a Armed,
    /// Kind does.
    pub ledger: &'a Ledger,
    /// The domains' names.
    pub names: &'a Names,
    /// The sinks' losses, where there are sinks.
    pub bus: Option<&'a Bus>,
}

/// Gathers the status as of now. Allocates; for ordinary threads.
#[must_use]
pub fn gather(sources: &Sources<'_>) -> Status {
    let Sources {
        armed,
        ledger,
        names,
        bus,
    } = *sources;
    let now = Monotonic::now();
    let snapshot = ledger.snapshots.latest();
    let (names, names_trouble) = names.get();
    let guest = |(page_now, timer): &(u64, TimerRecord)| {
        let name = names.get(&timer.domid).cloned();
        guest_watchdog(*page_now, timer, name)
    };
    let (pcpus, guest_watchdogs) = snapshot.as_ref().map_or_else(Default::default, |s| {
        let pcpus = s.pcpus.iter().map(|p| pcpu(s, p)).collect();
        (pcpus, s.timers.iter().map(guest).collect())
    });
    let (log_lines, syslog_messages) = crate::sink::log::dropped();
    Status {
        version: 1,
        host_watchdog: host_watchdog(armed, &ledger.counters, now),
        decision: decision(armed, ledger, now),
        coverage: armed.coverage,
        evidence_age_ms: ledger.evidence().map(|e| now.since_ns(e.taken) / NS_PER_MS),
        clocks: snapshot.as_ref().map(|s| Clocks {
            monotonic_ns: s.taken.0,
            xen_ns: s.now,
        }),
        pcpus,
        guest_watchdogs,
        pages_left_out: snapshot.map_or(0, |s| s.pages_left_out),
        names_trouble,
        kick_path: kick_path(&ledger.counters),
        dropped: Dropped {
            notes: ledger.dropped_notes(),
            log_lines,
            syslog_messages,
            sinks: bus
                .map_or_else(Vec::new, Bus::drops)
                .into_iter()
                .map(|(sink, count)| (sink.to_owned(), count))
                .collect(),
        },
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn host_watchdog(armed: &Armed, counters: &Counters, now: Monotonic) -> HostWatchdog {
    let age_ns = now.since_ns(Monotonic(load(&counters.last_kick)));
    HostWatchdog {
        device: armed.device.clone(),
        identity: armed.identity.clone(),
        timeout_ms: armed.timeout_ns / NS_PER_MS,
        time_left_ms: armed.timeout_ns.saturating_sub(age_ns) / NS_PER_MS,
        last_kick_age_ms: age_ns / NS_PER_MS,
        kicks: load(&counters.kicks),
    }
}

/// Kicks that the gate allows and the device has not seen for so many periods do not reach
/// it: the driver refuses them, or the kicker hangs in it.
const PERIODS_WITHOUT_KICK: u64 = 4;

fn decision(armed: &Armed, ledger: &Ledger, now: Monotonic) -> DecisionStatus {
    let kick_age_ns = now.since_ns(Monotonic(load(&ledger.counters.last_kick)));
    match ledger.decision() {
        Some((Decision::Kick, _)) if kick_age_ns > PERIODS_WITHOUT_KICK * armed.period_ns => {
            DecisionStatus {
                kick: false,
                reason: Some("kicks do not reach the host watchdog".to_owned()),
                for_ms: kick_age_ns / NS_PER_MS,
            }
        }
        Some((decision, since)) => DecisionStatus {
            kick: decision == Decision::Kick,
            reason: match decision {
                Decision::Kick => None,
                Decision::Withhold(reason) => Some(reason.to_string()),
            },
            for_ms: now.since_ns(since) / NS_PER_MS,
        },
        None => DecisionStatus {
            kick: false,
            reason: Some("the kicker has not decided yet".to_owned()),
            for_ms: 0,
        },
    }
}

fn pcpu(snapshot: &Snapshot, pcpu: &PcpuRecord) -> Pcpu {
    let age_ms = |t: u64| snapshot.now.saturating_sub(t) / NS_PER_MS;
    let owed = pcpu.online && pcpu.sched_req > pcpu.sched;
    Pcpu {
        cpu: pcpu.cpu,
        online: pcpu.online,
        canary_age_ms: age_ms(pcpu.canary_ran),
        canary_overdue_ms: if pcpu.online && pcpu.canary {
            age_ms(pcpu.canary_due)
        } else {
            0
        },
        sched_overdue_ms: if owed { age_ms(pcpu.sched_req) } else { 0 },
        canary_runs: pcpu.canary_runs,
        max_late_us: pcpu.max_late_us,
    }
}

fn guest_watchdog(now: u64, timer: &TimerRecord, name: Option<String>) -> GuestWatchdog {
    let age = |t: u64| (t != 0).then(|| now.saturating_sub(t) / NS_PER_MS);
    let signed_ms = |ns: u64| i64::try_from(ns / NS_PER_MS).unwrap_or(i64::MAX);
    GuestWatchdog {
        domid: timer.domid,
        name,
        slot: timer.slot,
        armed: timer.armed,
        timeout_s: timer.timeout_s,
        sets: timer.sets,
        last_fed_age_ms: age(timer.set),
        deadline_in_ms: timer.armed.then(|| {
            if timer.deadline >= now {
                signed_ms(timer.deadline - now)
            } else {
                -signed_ms(now - timer.deadline)
            }
        }),
        fired: timer.armed && timer.serviced(),
        nr_fired: timer.nr_fired,
        fired_age_ms: age(timer.fired),
    }
}

fn kick_path(counters: &Counters) -> KickPath {
    let [sampler_minor, sampler_major] = &counters.sampler_faults;
    let [kicker_minor, kicker_major] = &counters.kicker_faults;
    KickPath {
        samples: load(&counters.samples),
        max_look_us: load(&counters.max_look_ns) / 1_000,
        max_kick_gap_ms: load(&counters.max_kick_gap_ns) / NS_PER_MS,
        max_kick_us: load(&counters.max_kick_ns) / 1_000,
        failed_kicks: load(&counters.failed_kicks),
        withholds: load(&counters.withholds),
        minor_faults: load(sampler_minor) + load(kicker_minor),
        major_faults: load(sampler_major) + load(kicker_major),
    }
}
