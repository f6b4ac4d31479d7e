// SPDX-License-Identifier: GPL-2.0-only
//! Who knows of guests: the monitor of Xen's, and each xenwarden-qemu of its VMs'.
//!
//! In: their control sockets. Out: one report of all guests, and who has to be told of which. A
//! source that does not answer hides no other's alarm, and is never fine: it is said.

use super::connection::{NoAnswer, ask};
use crate::control::protocol::{Request, line};
use crate::event::Uuid;
use crate::guests::report::GuestsReport;
use std::fs;
use std::path::{Path, PathBuf};

/// The version of the report that is understood.
const VERSION: u32 = 1;
/// There is a hypervisor, so that a monitor is expected (Linux, sys-hypervisor-xen).
const HYPERVISOR: &str = "/sys/hypervisor/type";

/// The control sockets.
pub struct Sources {
    monitor: PathBuf,
    /// Those of xenwarden-qemu, in the order of their names.
    qemu: Vec<PathBuf>,
}

/// What they answer.
pub struct Answers {
    /// All guests.
    pub report: GuestsReport,
    /// The same as a line of JSON, with its end.
    pub line: String,
    /// Who did not answer, a line each.
    pub silent: Vec<String>,
}

impl Sources {
    /// The monitor's socket alone.
    pub fn only(monitor: PathBuf) -> Self {
        let qemu = Vec::new();
        Self { monitor, qemu }
    }

    /// And the sockets of xenwarden-qemu: in the directory of that name beside the monitor's own.
    pub fn with_qemu(monitor: PathBuf) -> Self {
        let beside = monitor
            .parent()
            .map(|own| own.with_file_name("xenwarden-qemu"));
        let entries = beside.and_then(|directory| fs::read_dir(directory).ok());
        let paths = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let mut qemu: Vec<PathBuf> = paths.filter(|path| is_socket(path)).collect();
        qemu.sort();
        Self { monitor, qemu }
    }

    /// There is no monitor, nor is one expected.
    fn has_no_monitor(&self) -> bool {
        !self.qemu.is_empty() && !self.monitor.exists() && !Path::new(HYPERVISOR).exists()
    }

    /// Asks all of them.
    ///
    /// # Errors
    /// None of them answers.
    pub fn guests(&self) -> Result<Answers, String> {
        if self.qemu.is_empty() {
            let (report, line) = guests_of(&self.monitor)?;
            let silent = Vec::new();
            return Ok(Answers {
                report,
                line,
                silent,
            });
        }
        let monitor = (!self.has_no_monitor()).then_some(&self.monitor);
        let mut reports = Vec::new();
        let mut silent = Vec::new();
        for path in monitor.into_iter().chain(&self.qemu) {
            match guests_of(path) {
                Ok((report, _)) => reports.push(report),
                Err(why) => silent.push(why),
            }
        }
        let Some(report) = reports.into_iter().reduce(merge) else {
            return Err(silent.join("; "));
        };
        let line = String::from_utf8_lossy(&line(&report)).into_owned();
        Ok(Answers {
            report,
            line,
            silent,
        })
    }

    /// Where the alarms of this guest are; where nobody has one, who is to say so.
    pub fn of_alarm(&self, uuid: Uuid) -> Vec<PathBuf> {
        if self.qemu.is_empty() {
            return vec![self.monitor.clone()];
        }
        let known = |path: &&PathBuf, with_alarm: bool| {
            guests_of(path).is_ok_and(|(report, _)| {
                let mut guests = report.guests.iter();
                guests.any(|g| g.uuid == Some(uuid) && (g.alarm.is_some() || !with_alarm))
            })
        };
        let all = || std::iter::once(&self.monitor).chain(&self.qemu);
        let mut found: Vec<PathBuf> = all().filter(|path| known(path, true)).cloned().collect();
        if found.is_empty() {
            found.extend(all().find(|path| known(path, false)).cloned());
        }
        if found.is_empty() {
            let none = if self.has_no_monitor() {
                self.qemu.first()
            } else {
                None
            };
            found.push(none.unwrap_or(&self.monitor).clone());
        }
        found
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.file_type().is_socket())
        && path
            .extension()
            .is_some_and(|extension| extension == "sock")
}

fn guests_of(path: &Path) -> Result<(GuestsReport, String), String> {
    let answer = ask::<GuestsReport>(path, &Request::Guests);
    let (report, line) = answer.map_err(|why: NoAnswer| String::from(why))?;
    if report.version != VERSION {
        let version = report.version;
        return Err(format!(
            "the monitor's answer is of version {version}, this program knows {VERSION}"
        ));
    }
    Ok((report, line))
}

/// Of two answers: all guests, and the older evidence.
fn merge(mut all: GuestsReport, one: GuestsReport) -> GuestsReport {
    all.guests.extend(one.guests);
    all.evidence_age_ms = match (all.evidence_age_ms, one.evidence_age_ms) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    };
    all.names_trouble = all.names_trouble.or(one.names_trouble);
    all.no_table = all.no_table.or(one.no_table);
    all
}
