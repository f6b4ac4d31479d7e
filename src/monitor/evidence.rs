// SPDX-License-Identifier: GPL-2.0-only
//! What the monitor gathers at the moment when kicks end.
//!
//! In: the guard page, what the watchers saw of pCPUs, what is known of guests, the load. Out:
//! [`Evidence`] for the withhold record. It waits for no lock for longer than a moment: who
//! holds one may be on a vCPU that is wedged. What cannot be had is null.

use crate::guard::gate::{Decision, Reason};
use crate::guard::page::{self, Reader};
use crate::guests::report::GuestsReport;
use crate::monitor::reporter::{RECENT_NS, Reporter, last_entries};
use crate::monitor::shared_registry::SharedRegistry;
use crate::state::reset_reason::Watchdog;
use crate::state::withhold::{Evidence, GuardEntry, Load, MOST_ENTRIES, OverdueSlot};
use crate::sys::clock::Monotonic;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Attempts to find a lock free, and the time between two.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_millis(10);

/// All that can be had now.
pub fn gather(reporter: Option<&Reporter<'_>>, guests: &SharedRegistry) -> Evidence {
    let now = Monotonic::now();
    let page = Reader::open(Path::new(page::PATH)).ok();
    let view = page.as_ref().and_then(Reader::view);
    let entries = page
        .as_ref()
        .zip(view.as_ref())
        .map(|(page, view)| last_entries(page, view, MOST_ENTRIES as u64, now));
    let entries = entries.unwrap_or_default().into_iter();
    // What a guard said that has fallen silent since may be over.
    let told = view
        .as_ref()
        .filter(|view| now.since_ns(view.status.looked) <= RECENT_NS);
    let proved = told.and_then(|view| match view.status.decision {
        Decision::Withhold(Reason::Lagging { work, overdue_ns }) => Some((work, overdue_ns)),
        _ => None,
    });
    let pcpus =
        reporter.and_then(|reporter| attempt(|| reporter.try_pcpus(Monotonic::now(), proved)));
    let report = attempt(|| guests.try_report());
    let report = report.filter(|report| report.evidence_age_ms.is_some());
    Evidence {
        watchdog: view.map(|view| Watchdog::of_view(&view, now)),
        pcpus,
        overdue: report.map(|report| overdue(&report)),
        load: fs::read_to_string("/proc/loadavg")
            .ok()
            .and_then(|text| Load::parse(&text)),
        entries: entries
            .map(|(age_ms, what)| GuardEntry { age_ms, what })
            .collect(),
    }
}

fn attempt<T>(what: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 1..ATTEMPTS {
        let found = what();
        if found.is_some() {
            return found;
        }
        thread::sleep(AGAIN);
    }
    what()
}

/// A deadline that has passed, and no handler that has run.
fn overdue(report: &GuestsReport) -> Vec<OverdueSlot> {
    let slots = report
        .guests
        .iter()
        .flat_map(|guest| guest.slots.iter().map(|slot| (guest.domid, slot)));
    let overdue = slots.filter(|(_, slot)| slot.margin_ms == 0 && !slot.expired);
    overdue
        .map(|(domid, slot)| OverdueSlot {
            domid,
            slot: slot.slot,
            timeout_s: slot.timeout_s,
            last_fed_age_ms: slot.last_fed_age_ms,
        })
        .collect()
}
