// SPDX-License-Identifier: GPL-2.0-only
//! Metrics of heartbeats: a file for node_exporter's textfile collector.
//!
//! In: the status, each 15 s. Out: the file, written in a thread of its own and replaced as a whole, as the monitor's is
//! ([`crate::sink::metrics`], where the format is told). Never: a wait of the loop for a disk.

use super::status::{BeatStatus, PulseStatus};
use crate::sink::metrics::replace;
use crate::sys::clock::NS_PER_S;
use crossbeam_channel::{Sender, bounded};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

const PERIOD_NS: u64 = 15 * NS_PER_S;
const UP: &str = "1 while the program runs.";

/// The way to the thread.
#[derive(Debug)]
pub struct Metrics {
    queue: Sender<String>,
    thread: JoinHandle<()>,
    due: u64,
}

impl Metrics {
    /// Starts the thread that writes to `path`.
    ///
    /// # Errors
    /// The errno of starting it.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let (queue, texts) = bounded::<String>(1);
        let work = move || {
            let mut failing = false;
            for text in texts {
                let written = replace(&path, &text);
                if let Err(error) = written.as_ref().map_err(|error| error.to_string())
                    && !failing
                {
                    log::warn!("metrics_textfile: {}: {error}", path.display());
                }
                failing = written.is_err();
            }
        };
        let thread = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(work)?;
        Ok(Self {
            queue,
            thread,
            due: 0,
        })
    }

    /// Whether it is to be written now (ns); then it is not for a while.
    pub fn is_due(&mut self, now: u64) -> bool {
        let due = now >= self.due;
        if due {
            self.due = now.saturating_add(PERIOD_NS);
        }
        due
    }

    /// Has it written; while the disk hangs, none is.
    pub fn write(&self, status: &PulseStatus) {
        let _ = self.queue.try_send(render(status));
    }

    /// What is left says that `program` is down.
    pub fn end(self, program: &str) {
        let mut text = String::new();
        head(&mut text, "up", "gauge", UP);
        let _ = writeln!(text, "xenwarden_pulse_up{{program=\"{program}\"}} 0");
        if self.queue.try_send(text).is_ok() {
            drop(self.queue);
            let _ = self.thread.join();
        }
    }
}

/// A family of one sample for each heartbeat: its name, kind, help, and value where that is known.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    fn(&BeatStatus) -> Option<String>,
);

const FAMILIES: [Family; 7] = [
    ("lost", "gauge", "1 while the heartbeat is lost.", |beat| {
        Some(u8::from(beat.state == "lost").to_string())
    }),
    (
        "waiting",
        "gauge",
        "1 while no pulse has come yet.",
        |beat| Some(u8::from(beat.state == "waiting").to_string()),
    ),
    (
        "last_age_seconds",
        "gauge",
        "Since the last pulse.",
        |beat| {
            beat.last_pulse_ms
                .map(|ms| seconds(ms.saturating_mul(1_000)))
        },
    ),
    (
        "round_trip_seconds",
        "gauge",
        "From a pulse to its answer.",
        |beat| beat.round_trip_us.map(seconds),
    ),
    (
        "jitter_seconds",
        "gauge",
        "How much the time between pulses varies.",
        |beat| beat.jitter_us.map(seconds),
    ),
    ("losses_total", "counter", "Losses.", |beat| {
        Some(beat.losses.to_string())
    }),
    (
        "refused_total",
        "counter",
        "Pulses that were refused.",
        |beat| Some(beat.refused.to_string()),
    ),
];

/// The whole file.
#[must_use]
pub fn render(status: &PulseStatus) -> String {
    let mut text = String::new();
    let program = &status.program;
    let late = seconds(status.worst_late_us);
    let gaps = status.own_gaps.to_string();
    for (name, kind, help, value) in [
        ("up", "gauge", UP, "1"),
        (
            "late_max_seconds",
            "gauge",
            "The latest that anything was done after it was due.",
            &late,
        ),
        (
            "own_gaps_total",
            "counter",
            "Times that the program itself was stopped or late.",
            &gaps,
        ),
    ] {
        head(&mut text, name, kind, help);
        let _ = writeln!(
            text,
            "xenwarden_pulse_{name}{{program=\"{program}\"}} {value}"
        );
    }
    for (name, kind, help, value) in FAMILIES {
        head(&mut text, name, kind, help);
        for beat in &status.heartbeats {
            if let Some(value) = value(beat) {
                let name_of = &beat.heartbeat;
                let _ = writeln!(
                    text,
                    "xenwarden_pulse_{name}{{program=\"{program}\",heartbeat=\"{name_of}\"}} {value}"
                );
            }
        }
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP xenwarden_pulse_{name} {help}");
    let _ = writeln!(text, "# TYPE xenwarden_pulse_{name} {kind}");
}

/// Microseconds as seconds.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
