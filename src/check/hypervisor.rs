// SPDX-License-Identifier: GPL-2.0-only
//! What the hypervisor says: its liveness table, its command line, which tells of its own
//! NMI watchdog, and whether it has a crash kernel.
//!
//! A hypercall blocks for as long as the hypervisor holds on to it: it is made by a thread
//! that may be lost.

use super::{Area, Finding};
use crate::config::Policy;
use crate::event::Coverage;
use crate::sys::privcmd::Privcmd;
use crate::xen::table::{ABI, Table};
use crate::xen::{self, NoTable};
use nix::errno::Errno;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the hypervisor may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A command line as long as that has been cut.
const MOST_COMMAND_LINE: usize = 1023;

/// What its liveness table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSeen {
    /// Milliseconds between two runs of a canary; 0 where they are switched off.
    pub canary_period_ms: u32,
    /// pCPUs that the table has records for.
    pub pcpus: usize,
    /// Those of them that are online.
    pub online: usize,
}

impl TableSeen {
    fn of(table: &Table) -> Self {
        let pcpus = (0..table.nr_pcpus()).filter_map(|n| table.pcpu(n));
        Self {
            canary_period_ms: table.canary_period_ms(),
            pcpus: table.nr_pcpus(),
            online: pcpus.filter(|pcpu| pcpu.online).count(),
        }
    }
}

/// The hypervisor, as far as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hypervisor {
    /// Only root may ask it.
    NotRoot,
    /// There is none, or no way to it.
    None(String),
    /// It does not answer.
    Silent,
    /// It answers.
    Answers {
        /// Its table, or why there is none.
        table: Result<TableSeen, NoTable>,
        /// Its command line, or why that is not to be had.
        command_line: Result<String, String>,
        /// Whether it has a crash kernel loaded, or why that is not told.
        crash_kernel: Result<bool, String>,
    },
}

impl Hypervisor {
    /// Asks that of this host, if `as_root`.
    #[must_use]
    pub fn look(root: &Path, as_root: bool) -> Self {
        let kind = fs::read_to_string(root.join("sys/hypervisor/type")).unwrap_or_default();
        if kind.trim() != "xen" {
            return Self::None("this machine does not run on Xen".to_owned());
        }
        if !as_root {
            return Self::NotRoot;
        }
        let (answer, answered) = mpsc::channel();
        let asking = thread::Builder::new().spawn(move || {
            // Nobody waits any more, if that fails.
            let _ = answer.send(Self::ask());
        });
        match asking {
            Ok(_) => answered.recv_timeout(PATIENCE).unwrap_or(Self::Silent),
            Err(error) => Self::None(error.to_string()),
        }
    }

    fn ask() -> Self {
        let privcmd = match Privcmd::open() {
            Ok(privcmd) => privcmd,
            Err(error) => return Self::None(format!("/dev/xen/privcmd: {error}")),
        };
        Self::Answers {
            table: xen::map_table(&privcmd).map(|table| TableSeen::of(&table)),
            command_line: privcmd.command_line().map_err(|e| e.desc().to_owned()),
            crash_kernel: privcmd.has_crash_kernel().map_err(|e| e.desc().to_owned()),
        }
    }

    /// What is said of the table and of the NMI watchdog.
    #[must_use]
    pub fn findings(&self, policy: &Option<Policy>) -> Vec<Finding> {
        let coverage = policy.as_ref().map_or(Coverage::Full, |p| p.coverage);
        vec![self.table(coverage), self.nmi_watchdog()]
    }

    /// Whether it has a crash kernel loaded, or why that is not told.
    pub(super) fn crash_kernel(&self) -> Result<bool, &str> {
        match self {
            Self::NotRoot => Err("only root may ask"),
            Self::None(why) => Err(why),
            Self::Silent => Err("the hypervisor does not answer"),
            Self::Answers { crash_kernel, .. } => {
                crash_kernel.as_ref().copied().map_err(|e| e.as_str())
            }
        }
    }

    fn table(&self, coverage: Coverage) -> Finding {
        const AREA: Area = Area::LivenessTable;
        let refused = "boot a hypervisor with xen-patches applied, or set evidence.coverage = \
                       \"partial\" and see much less";
        match self {
            Self::NotRoot => {
                Finding::unknown(AREA, "only root may map it", "run the check as root")
            }
            Self::None(why) => Finding::unknown(
                AREA,
                why.as_str(),
                "run the check in the control domain (dom0), with its xen-privcmd module loaded",
            ),
            Self::Silent => Finding::wrong(
                AREA,
                format!(
                    "the hypervisor does not answer within {} s",
                    PATIENCE.as_secs()
                ),
                "look at the hypervisor's console: it hangs, or is far too busy",
            ),
            Self::Answers {
                table: Ok(seen), ..
            } => seen_table(*seen),
            Self::Answers {
                table: Err(why @ NoTable::Errno(Errno::EPERM)),
                ..
            } => Finding::wrong(
                AREA,
                why.to_string(),
                "run xenwarden in the control domain (dom0): no other may guard the host",
            ),
            Self::Answers {
                table: Err(why), ..
            } => match coverage {
                Coverage::Full => Finding::wrong(AREA, why.to_string(), refused),
                Coverage::Partial => Finding::weak(
                    AREA,
                    format!("{why}: guest watchdogs are not seen, and wedges only after a while"),
                    "boot a hypervisor with xen-patches applied",
                ),
            },
        }
    }

    fn nmi_watchdog(&self) -> Finding {
        const AREA: Area = Area::NmiWatchdog;
        let not_told = |why: &str| {
            let text = format!("whether Xen has it on is not told: {why}");
            let mend = "look at xen_commandline in the output of xl info; the guard does not \
                        rest on it";
            Finding::unknown(AREA, text, mend)
        };
        // Xen: docs/misc/xen-command-line.pandoc, "watchdog (x86)".
        if !cfg!(target_arch = "x86_64") {
            let text = "Xen has none for these processors; the guard does not rest on it";
            return Finding::fine(AREA, text);
        }
        match self {
            Self::NotRoot => not_told("only root may read Xen's command line"),
            Self::None(why) => not_told(why),
            Self::Silent => not_told("the hypervisor does not answer"),
            Self::Answers {
                command_line: Err(why),
                ..
            } => not_told(why),
            Self::Answers {
                command_line: Ok(line),
                ..
            } if line == "<denied>" => not_told("Xen denies its command line"),
            Self::Answers {
                command_line: Ok(line),
                ..
            } if line.len() >= MOST_COMMAND_LINE => {
                not_told("Xen's command line is longer than what it gives of it")
            }
            Self::Answers {
                command_line: Ok(line),
                ..
            } => Finding::fine(
                AREA,
                match asked_for(line) {
                    Some(true) => "on by Xen's command line: one more way down, beside the guard",
                    Some(false) => "off by Xen's command line; the guard does not rest on it",
                    None => {
                        "not on Xen's command line: as Xen was built, which is off unless chosen \
                         otherwise; the guard does not rest on it"
                    }
                },
            ),
        }
    }
}

fn seen_table(seen: TableSeen) -> Finding {
    const AREA: Area = Area::LivenessTable;
    let TableSeen {
        canary_period_ms,
        pcpus,
        online,
    } = seen;
    if canary_period_ms == 0 {
        return Finding::wrong(
            AREA,
            format!("ABI {ABI}, and its canaries are switched off: the guard does not start"),
            "take liveness=... off Xen's command line, and boot",
        );
    }
    Finding::fine(
        AREA,
        format!("ABI {ABI}, a canary each {canary_period_ms} ms, {online} of {pcpus} pCPUs online"),
    )
}

/// What the last of the options on the command line says; none where there is none (Xen
/// `docs/misc/xen-command-line.pandoc`, "watchdog (x86)"; `parse_bool` in `xen/common/kernel.c`).
fn asked_for(line: &str) -> Option<bool> {
    let said = |word: &str| match word.split_once('=') {
        None if word == "watchdog" => Some(true),
        None if word == "no-watchdog" => Some(false),
        Some(("watchdog", "force" | "yes" | "on" | "true" | "enable" | "1")) => Some(true),
        Some(("watchdog", "no" | "off" | "false" | "disable" | "0")) => Some(false),
        _ => None,
    };
    line.split_whitespace().filter_map(said).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_options_counts() {
        let cases = [
            ("", None),
            ("placeholder dom0_mem=2G watchdog_timeout=9", None),
            ("watchdog", Some(true)),
            ("watchdog=force ucode=scan", Some(true)),
            ("watchdog no-watchdog", Some(false)),
            ("watchdog=0 watchdog=1", Some(true)),
            ("watchdog=what", None),
        ];
        for (line, expected) in cases {
            assert_eq!(asked_for(line), expected, "{line}");
        }
    }
}
