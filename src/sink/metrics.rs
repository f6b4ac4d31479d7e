// SPDX-License-Identifier: GPL-2.0-only
//! Metrics: a file for node_exporter's textfile collector.
//!
//! In: the status, the guests, the bus's counters. Out: a file in the Prometheus text
//! format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats), which is what that
//! collector reads from `*.prom`: families with HELP and TYPE, no timestamps, no series
//! twice, a line feed at the end and no `# EOF`, which is OpenMetrics' and a mere comment here. It
//! is replaced as a whole, by a rename, so that nobody reads half of it.
//!
//! What is not known has no series.

use crate::control::leases::Lease;
use crate::control::status::{Pcpu, Status, Took};
use crate::event::bus::Bus;
use crate::event::{Coverage, Event};
use crate::guard::histogram::BOUNDS_US;
use crate::guests::report::{AlarmReport, GuestReport, GuestsReport};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::HashSet;
use std::fmt::{Display, Write as _};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name on the bus.
pub const NAME: &str = "metrics";

/// How often the file is written.
const PERIOD: Duration = Duration::from_secs(15);
/// Changes of alarms have it written earlier, but no more often than this.
const SHORTEST: Duration = Duration::from_secs(1);
/// Guests with series of their own.
pub const MAX_GUESTS: usize = 10_000;

/// What the bus counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events of each kind.
    pub events: Vec<(&'static str, u64)>,
    /// Events that each sink lost.
    pub dropped: Vec<(&'static str, u64)>,
}

/// Writes the file at `path` until the bus is closed, from what `gather`
/// gives; at the end it says that the monitor is down.
pub fn run(
    path: &Path,
    queue: &Receiver<Arc<Event>>,
    bus: &Bus,
    gather: impl Fn() -> (Status, GuestsReport),
) {
    let mut file = File {
        path,
        failing: false,
        bus,
    };
    let mut due = Instant::now();
    // Events that are queued still at the end change nothing any more.
    while !bus.is_closed() {
        let now = Instant::now();
        if now >= due {
            let (status, guests) = gather();
            let counters = Counters {
                events: bus.counts(),
                dropped: bus.drops(),
            };
            file.replace(&render(&status, &guests, &counters));
            due = now + PERIOD;
        }
        match queue.recv_timeout(due.saturating_duration_since(now)) {
            Ok(event) if event.what.kind().starts_with("alarm.") => {
                due = due.min(now + SHORTEST);
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    file.replace(&render_down());
}

struct File<'a> {
    path: &'a Path,
    failing: bool,
    bus: &'a Bus,
}

impl File<'_> {
    fn replace(&mut self, text: &str) {
        let written = replace(self.path, text);
        let path = self.path.display();
        match &written {
            Err(error) if !self.failing => {
                log::warn!("metrics.textfile: {path}: cannot write it: {error}");
                self.bus.count_failed(NAME, 1);
            }
            // Told once, and not with each attempt while a disk is full.
            Err(_) => self.bus.count_untold(NAME),
            Ok(()) if self.failing => log::info!("metrics.textfile: {path}: written again"),
            Ok(()) => {}
        }
        self.failing = written.is_err();
    }
}

/// Writes beside the file and renames. The directory may belong to somebody less
/// privileged: what is at the temporary name is removed, never followed or written into.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    // Not *.prom, so that the collector does not read it.
    name.push(".new");
    let beside = PathBuf::from(name);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o644);
    let written = options
        .open(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// What is left when the monitor has ended.
#[must_use]
pub fn render_down() -> String {
    let mut page = Page::default();
    page.one(UP, 0);
    page.0
}

/// The whole file.
#[must_use]
pub fn render(status: &Status, guests: &GuestsReport, counters: &Counters) -> String {
    let mut page = Page::default();
    page.one(UP, 1);
    of_host(&mut page, status);
    if !status.leases.is_empty() {
        of_leases(&mut page, &status.leases);
    }
    if let Some(monitor) = &status.monitor {
        let saved = gauge("state_saved", "1 while the monitor can save its state.");
        page.one(saved, u8::from(monitor.save_error.is_none()));
        of_pcpus(&mut page, &monitor.pcpus);
    }
    let open = guests.guests.iter().filter(|g| is_open(g)).count();
    let alarms = gauge("alarms_open", "Alarms of guests that are open.");
    page.one(alarms, open);
    of_guests(&mut page, &guests.guests);
    let events = counter("events_total", "Events since the monitor started.");
    page.many(events, "kind", &counters.events);
    let dropped = counter(
        "sink_dropped_total",
        "Events that a sink lost since the monitor started.",
    );
    page.many(dropped, "sink", &counters.dropped);
    page.0
}

/// Those that have a deadline.
fn of_leases(page: &mut Page, leases: &[Lease]) {
    let left = gauge(
        "lease_left_seconds",
        "Until a lease lapses; negative: since it did.",
    );
    let dated = leases.iter();
    let dated =
        dated.filter_map(|lease| Some((lease.lease.as_str(), SignedSeconds(lease.left_ms?))));
    page.many(left, "lease", &dated.collect::<Vec<_>>());
    let timeout = gauge("lease_timeout_seconds", "For how long a renewal is good.");
    let timeouts = leases.iter();
    let timeouts = timeouts.map(|lease| (lease.lease.as_str(), Seconds(lease.timeout_ms)));
    page.many(timeout, "lease", &timeouts.collect::<Vec<_>>());
}

fn of_host(page: &mut Page, status: &Status) {
    let kicks = counter("kicks_total", "Kicks since the host watchdog was armed.");
    page.one(kicks, status.host_watchdog.kicks);
    let withholds = counter("withholds_total", "Times that kicks were withheld.");
    page.one(withholds, status.kick_path.withholds);
    let gap = gauge(
        "kick_gap_max_seconds",
        "The longest time between two kicks.",
    );
    page.one(gap, Seconds(status.kick_path.max_kick_gap_ms));
    let late = histogram("look_late_seconds", "How late the guard's looks began.");
    page.histogram(late, &status.kick_path.late);
    let took = histogram("kick_duration_seconds", "How long kicks took.");
    page.histogram(took, &status.kick_path.kick_took);
    let withholding = gauge("withholding", "1 while kicks are withheld.");
    page.one(withholding, u8::from(!status.decision.kick));
    let left_ms = status.inhibited.as_ref().map_or(0, |one| one.left_ms);
    let inhibited = gauge(
        "inhibited_seconds",
        "How long an operator still has the guard kick whatever the evidence says.",
    );
    page.one(inhibited, Seconds(left_ms));
    let coverage = gauge(
        "coverage_full",
        "1 if the evidence covers every guest watchdog and physical CPU.",
    );
    page.one(coverage, u8::from(status.coverage == Coverage::Full));
    // Without a guard page there is no look whose age could be told.
    if !status.host_watchdog.device.as_os_str().is_empty() {
        let age = gauge(
            "evidence_age_seconds",
            "Since the guard's latest look at the hypervisor.",
        );
        page.one(age, Seconds(status.look_age_ms));
    }
}

/// Those that are online: of others nothing is known.
fn of_pcpus(page: &mut Page, pcpus: &[Pcpu]) {
    let mut series = |family: Family, value: &dyn Fn(&Pcpu) -> String| {
        page.head(family);
        for pcpu in pcpus.iter().filter(|pcpu| pcpu.online) {
            page.sample(family, &format!("{{cpu=\"{}\"}}", pcpu.cpu), value(pcpu));
        }
    };
    let idle = gauge(
        "pcpu_idle",
        "1 if the physical CPU idled when the hypervisor last looked for vCPUs that wait.",
    );
    series(idle, &|pcpu| u8::from(pcpu.idle).to_string());
    let waiting = gauge(
        "pcpu_waiting_seconds",
        "How long the runnable vCPU has waited then that waits longest for this physical CPU.",
    );
    series(waiting, &|pcpu| {
        let waited_ms = pcpu.starved.as_ref().map_or(0, |starved| starved.waited_ms);
        Seconds(waited_ms.into()).to_string()
    });
}

fn of_guests(page: &mut Page, guests: &[GuestReport]) {
    let mut seen = HashSet::new();
    let labelled = guests.iter().map(|guest| (labels(guest), guest));
    let labelled: Vec<(String, &GuestReport)> = labelled
        .filter(|(labels, _)| seen.insert(labels.clone()))
        .take(MAX_GUESTS)
        .collect();
    let left_out = gauge("guests_left_out", "Guests without series of their own.");
    page.one(left_out, guests.len().saturating_sub(labelled.len()));
    let series =
        |page: &mut Page, family: Family, value: &dyn Fn(&GuestReport) -> Option<String>| {
            page.head(family);
            for (labels, guest) in &labelled {
                if let Some(value) = value(guest) {
                    page.sample(family, labels, value);
                }
            }
        };
    let alarm = gauge("guest_alarm", "1 while the guest has an open alarm.");
    series(page, alarm, &|guest| {
        Some(u8::from(is_open(guest)).to_string())
    });
    let fed = gauge(
        "guest_last_fed_age_seconds",
        "Since the guest armed or fed a watchdog.",
    );
    series(page, fed, &|guest| {
        let ages = guest.slots.iter().map(|slot| slot.last_fed_age_ms);
        ages.min().map(|age| Seconds(age).to_string())
    });
    let margin = gauge(
        "guest_margin_seconds",
        "Until the first of the guest's watchdogs expires.",
    );
    series(page, margin, &|guest| {
        let margins = guest.slots.iter().map(|slot| slot.margin_ms);
        margins.min().map(|margin| Seconds(margin).to_string())
    });
}

/// A guest goes by its UUID; where that is unknown by its domid, which a reboot changes.
fn labels(guest: &GuestReport) -> String {
    let name = escape(guest.name.as_deref().unwrap_or_default());
    match guest.uuid {
        Some(uuid) => format!("{{uuid=\"{uuid}\",name=\"{name}\"}}"),
        None => format!("{{uuid=\"\",name=\"{name}\",domid=\"{}\"}}", guest.domid),
    }
}

/// A label's value: backslash, quote and line feed are escaped, anything else stands.
fn escape(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Milliseconds, shown as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// Milliseconds, which may be past.
struct SignedSeconds(i64);

impl Display for SignedSeconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}", Seconds(self.0.unsigned_abs()))
    }
}

/// A metric family, without the common beginning of the names.
#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const UP: Family = gauge("up", "1 while the monitor runs.");

const fn gauge(name: &'static str, help: &'static str) -> Family {
    let kind = "gauge";
    Family { name, kind, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    let kind = "counter";
    Family { name, kind, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    let kind = "histogram";
    Family { name, kind, help }
}

/// The file as it grows. Writing to a String cannot fail.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, family: Family) {
        let Family { name, kind, help } = family;
        let _ = writeln!(self.0, "# HELP xenwarden_{name} {help}");
        let _ = writeln!(self.0, "# TYPE xenwarden_{name} {kind}");
    }

    fn sample(&mut self, family: Family, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "xenwarden_{}{labels} {value}", family.name);
    }

    fn one(&mut self, family: Family, value: impl Display) {
        self.head(family);
        self.sample(family, "", value);
    }

    /// Each bucket with those before it, as the format wants it.
    fn histogram(&mut self, family: Family, took: &Took) {
        self.head(family);
        let Family { name, .. } = family;
        let mut sum = 0;
        let bounds = BOUNDS_US.map(|us| Microseconds(us).to_string());
        let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&took.counts) {
            sum += count;
            let _ = writeln!(self.0, "xenwarden_{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(self.0, "xenwarden_{name}_sum {}", Microseconds(took.sum_us));
        let _ = writeln!(self.0, "xenwarden_{name}_count {sum}");
    }

    fn many(&mut self, family: Family, label: &str, values: &[(&str, impl Display)]) {
        self.head(family);
        for (key, value) in values {
            self.sample(family, &format!("{{{label}=\"{}\"}}", escape(key)), value);
        }
    }
}

/// Microseconds as seconds.
struct Microseconds(u64);

impl Display for Microseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// It has an alarm to act on here.
fn is_open(guest: &GuestReport) -> bool {
    guest.alarm.as_ref().is_some_and(AlarmReport::is_open)
}
