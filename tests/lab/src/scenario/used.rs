// SPDX-License-Identifier: GPL-2.0-only
//! What guard and monitor use: processor time, wakeups, memory.

use crate::error::{Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use std::time::Duration;

/// What guard and monitor cost dom0.
pub struct Used {
    programs: Vec<(&'static str, Program)>,
    over: Duration,
}

/// What one of them costs.
struct Program {
    resident_kib: u64,
    ticks: u64,
    threads: u64,
    /// Times that it waited, and was woken.
    waits: u64,
}

impl Program {
    fn since(&self, before: &Program) -> Program {
        Program {
            ticks: self.ticks - before.ticks,
            waits: self.waits - before.waits,
            ..*self
        }
    }
}

impl Used {
    /// What a program has in memory.
    pub fn resident_kib(&self, name: &str) -> Option<u64> {
        let mut programs = self.programs.iter();
        let (_, program) = programs.find(|(named, _)| *named == name)?;
        Some(program.resident_kib)
    }
}

impl std::fmt::Display for Used {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, program) in &self.programs {
            let Program {
                resident_kib,
                ticks,
                threads,
                waits,
            } = program;
            // sysconf(_SC_CLK_TCK) is 100 on Linux.
            write!(
                f,
                "{name} {resident_kib} KiB, {} ms of CPU and {waits} wakeups in {} s, {threads} threads; ",
                ticks * 10,
                self.over.as_secs()
            )?;
        }
        Ok(())
    }
}

/// The programs that are measured.
const PROGRAMS: [&str; 2] = [GUARD, MONITOR];

impl Host {
    /// What the programs use while `act` goes on, which takes `over` of the host's time.
    pub fn used_while(
        &mut self,
        over: Duration,
        act: impl FnOnce(&mut Host) -> Result<()>,
    ) -> Result<Used> {
        let before = PROGRAMS.map(|name| self.program(name));
        act(self)?;
        let mut programs = Vec::new();
        for (name, before) in PROGRAMS.into_iter().zip(before) {
            programs.push((name, self.program(name)?.since(&before?)));
        }
        Ok(Used { programs, over })
    }

    /// From proc(5): Rss of smaps_rollup (VmRSS of status is a sum that each thread adds to only now and then, and may be a megabyte
    /// short) and, of each thread, the context switches and the times in user mode and in the kernel.
    fn program(&mut self, name: &str) -> Result<Program> {
        let pid = self.dom0_ok(&format!("pidof {name}"), PROMPT)?;
        let pid = pid.trim();
        let text = self.dom0_ok(
            &format!(
                "awk '/^Rss:/ {{print $2}}' /proc/{pid}/smaps_rollup; \
                 cat /proc/{pid}/task/*/stat | awk '{{sub(/.*\\) /, \"\"); t += $12 + $13; n++}} END {{print t; print n}}'; \
                 cat /proc/{pid}/task/*/status | awk '/voluntary_ctxt/ && !/non/ {{w += $2}} END {{print w}}'"
            ),
            PROMPT,
        )?;
        let numbers: std::result::Result<Vec<u64>, _> =
            text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[resident_kib, ticks, threads, waits]) => Ok(Program {
                resident_kib,
                ticks,
                threads,
                waits,
            }),
            _ => Err(Error::new(format!(
                "what {name} costs cannot be made out: {text}"
            ))),
        }
    }
}
