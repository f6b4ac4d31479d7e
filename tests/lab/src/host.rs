// SPDX-License-Identifier: GPL-2.0-only
//! A running host as the scenarios see it: commands in dom0, the guard, the host watchdog, wedges.

use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::machine::agent::Outcome;
use crate::machine::symbols::Symbols;
use crate::machine::{Machine, Shape};
use crate::wedge::{Fault, GUEST_HANDLER};
use std::sync::Arc;
use std::time::Duration;
use xenwarden::control::status::Status;

/// How long an ordinary command in dom0 may take.
pub const PROMPT: Duration = Duration::from_secs(60);
/// Exit codes of programs that SIGSEGV, SIGABRT or SIGILL ended.
const KILLED_AT_START: [i32; 3] = [139, 134, 132];
/// Exit code of `xenwarden status` while kicks are withheld: a busy toolstack may hold the sampler up for a moment.
const WITHHELD: i32 = 1;
/// A function of the hypervisor that each pCPU comes to.
const TIMERS: &str = "timer_softirq_action";
/// What dom0's kernel says of programs that died.
const FATAL_SIGNALS: &str =
    "dmesg | grep -E 'segfault|trap|general protection|invalid opcode' | tail -n 2";
/// How often a command is run again.
const RETRIES: u32 = 3;
/// How long the guard must have kicked without a break before a scenario begins.
const SETTLED_MS: u64 = 1000;
/// How often the guard is asked again, in the host's own time.
const ASK_EVERY_MS: u64 = 200;
/// Starts a program whose every word goes out through the debug port. It must not hold the agent's pipes.
fn start(program: &str) -> String {
    format!("(setsid sh -c '{program} 2>&1 | chrt -f 99 dom0-tee' < /dev/null > /dev/null 2>&1 &)")
}

/// The guard's process.
pub const GUARD: &str = "xenwardend";
/// The monitor's.
pub const MONITOR: &str = "xenwarden-monitor";

/// A host under test.
pub struct Host {
    /// The machine it runs on.
    pub machine: Machine,
    /// The hypervisor's symbols.
    pub symbols: Arc<Symbols>,
}

/// How much slower than it is this machine may make a host before that counts as hanging.
const SLOWNESS: u32 = 5;

impl Host {
    /// Runs a shell command in dom0. A command that a signal ends at its very start is run again, and that is said: the
    /// emulation is not above suspicion.
    pub fn dom0(&mut self, command: &str, limit: Duration) -> Result<Outcome> {
        let limit = limit * SLOWNESS;
        for _ in 0..RETRIES {
            let outcome = self.machine.run(command, limit)?;
            if !KILLED_AT_START.contains(&outcome.code) {
                return Ok(outcome);
            }
            let kernel = self.machine.run(FATAL_SIGNALS, limit)?.output;
            say(format!(
                "  (a program in dom0 died of a signal, again: {command}: {kernel})"
            ));
        }
        self.machine.run(command, limit)
    }

    /// Runs a shell command in dom0 that has to succeed, and returns what it printed.
    pub fn dom0_ok(&mut self, command: &str, limit: Duration) -> Result<String> {
        let Outcome { code, output } = self.dom0(command, limit)?;
        match code {
            0 => Ok(output),
            _ => Err(Error::new(format!(
                "dom0: exit code {code} from: {command}\n{output}"
            ))),
        }
    }

    /// What a command in dom0 prints, which has to succeed, must be this.
    pub fn says(&mut self, command: &str, expected: &str) -> Result<()> {
        let said = self.dom0_ok(command, PROMPT)?;
        match said.trim() == expected {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{command}: {}, not {expected}",
                said.trim()
            ))),
        }
    }

    /// Writes a file in dom0.
    pub fn write_file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        /// As much as one command may hold, four characters a byte.
        const PART: usize = 4096;
        self.dom0_ok(&format!(": > {path}"), PROMPT)?;
        for part in bytes.chunks(PART) {
            let octal: String = part.iter().map(|byte| format!("\\{byte:03o}")).collect();
            self.dom0_ok(&format!("printf '{octal}' >> {path}"), PROMPT)?;
        }
        Ok(())
    }

    /// Starts the guard or the monitor, and waits until it serves.
    pub fn start_program(&mut self, program: &str) -> Result<()> {
        let log = self.machine.log.clone();
        let first = log.length();
        self.dom0_ok(&start(program), PROMPT)?;
        let said = |error: Error| {
            let said = log.lines_from(first).join("\n");
            Error::new(format!(
                "{program} does not serve: {error}; it said: {said}"
            ))
        };
        match program {
            MONITOR => self.wait_monitor().map_err(said),
            _ => self.wait_kicking().map(drop).map_err(said),
        }
    }

    /// Sends a signal to a program and waits until its process is gone.
    pub fn end_program(&mut self, program: &str, signal: &str) -> Result<()> {
        let gone = format!(
            "killall {signal} {program}; n=0; while pidof {program}; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done"
        );
        self.dom0_ok(&gone, PROMPT).map(drop)
    }

    fn wait_monitor(&mut self) -> Result<()> {
        let deadline = self.machine.clock()? + PROMPT;
        while self.status()?.monitor.is_none() {
            if self.machine.clock()? > deadline {
                return Err(Error::new("the monitor does not answer"));
            }
            self.wait_for_ms(ASK_EVERY_MS)?;
        }
        Ok(())
    }

    /// Lets so much of the host's own time pass. Dom0 has nothing to do meanwhile, which costs this machine next to nothing; the command
    /// that asks for a status costs it a quarter of a second.
    fn wait_for_ms(&mut self, ms: u64) -> Result<()> {
        let seconds = Duration::from_millis(ms).as_secs_f64();
        self.dom0_ok(&format!("sleep {seconds}"), PROMPT).map(drop)
    }

    /// The guard's own view, from its command line.
    pub fn status(&mut self) -> Result<Status> {
        // Without the monitor it says so on stderr, and tells what it can.
        let ask = "xenwarden status --json 2> /run/status.err || { code=$?; [ $code = 1 ] || cat /run/status.err; exit $code; }";
        let Outcome { code, output } = self.dom0(ask, PROMPT)?;
        match code {
            0 | WITHHELD => serde_json::from_str(&output)
                .context(|| format!("cannot read the guard's status: {output}")),
            _ => Err(Error::new(format!(
                "the guard does not tell its status: {output}"
            ))),
        }
    }

    /// Waits until the guard has kicked without a break for a while, and returns that status.
    pub fn wait_kicking(&mut self) -> Result<Status> {
        let deadline = self.machine.clock()? + PROMPT;
        loop {
            let (seen, wait_ms) = match self.status() {
                Ok(status) if status.decision.kick && status.decision.for_ms >= SETTLED_MS => {
                    return Ok(status);
                }
                Ok(status) if status.decision.kick => (
                    format!("{:?}", status.decision),
                    SETTLED_MS - status.decision.for_ms,
                ),
                Ok(status) => (format!("{:?}", status.decision), ASK_EVERY_MS),
                // Before the guard has armed there is nothing to tell.
                Err(error) => (error.to_string(), ASK_EVERY_MS),
            };
            if self.machine.clock()? > deadline {
                return Err(Error::new(format!("the guard does not kick: {seen}")));
            }
            self.wait_for_ms(wait_ms)?;
        }
    }

    /// Lets the host's own time come to this phase of the timers, when so much of a second has passed, or a little behind it. What
    /// recurs each second did so when the state was saved, so the same phase is the same place in all that recurs.
    pub fn come_to(&mut self, phase: Duration) -> Result<()> {
        const PERIOD_NS: u64 = 1_000_000_000;
        let now_ns = self.machine.clock()?.as_nanos() as u64;
        let phase_ns = phase.as_nanos() as u64;
        let to_come_ns = (phase_ns + PERIOD_NS - now_ns % PERIOD_NS) % PERIOD_NS;
        let until = Duration::from_nanos(now_ns + to_come_ns);
        self.machine.run_to(until)
    }

    /// Injects a fault; returns the moment from which the hypervisor runs with it.
    pub fn inject(&mut self, fault: Fault) -> Result<Duration> {
        let symbols = Arc::clone(&self.symbols);
        // While a PVH domain runs, its memory is what the debugger sees.
        let hypervisor = match self.machine.shape() {
            Shape::Pvh => Some(symbols.get(TIMERS)?.address),
            _ => None,
        };
        self.machine.debug(|gdb| {
            if let Some(address) = hypervisor {
                gdb.run_until(address, PROMPT)?;
            }
            fault.inject(gdb, &symbols)
        })
    }

    /// Injects a fault at the moment when a guest watchdog's deadline has passed and its handler is about to run; returns it.
    pub fn inject_at_deadline(&mut self, fault: Fault) -> Result<Duration> {
        let symbols = Arc::clone(&self.symbols);
        let handler = symbols.get(GUEST_HANDLER)?.address;
        self.machine.debug(|gdb| {
            gdb.run_until(handler, PROMPT).map(drop)?;
            fault.inject(gdb, &symbols)
        })
    }
}
