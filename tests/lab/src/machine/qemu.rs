// SPDX-License-Identifier: GPL-2.0-only
//! One emulated host: starting it, stopping its time, and seeing it end.
//!
//! QEMU's software emulation runs the hypervisor; `i6300esb` is the hardware watchdog. When it fires, QEMU says so by an event
//! and, because the reset may not restart it, exits. The kernel kills QEMU when the thread that started it dies.

use super::agent::{Agent, Outcome};
use super::definition::{boots, definition_with};
use super::disk;
use super::gdb::Gdb;
use super::log::Log;
use super::parts::Parts;
use super::qmp::{Event, Qmp};
use super::seen::{Counted, FIRST_DAY};
use super::shape::Shape;
use crate::error::{Context, Error, Result};
use crate::layout::{fresh_dir, read_text};
use crate::provision::Arch;
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use xenwarden_lab_dom0::PULSE_PERIOD;

/// How often a condition outside our reach (a socket that appears, a process that ends) is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long QEMU may take to open its sockets, and to end after it was told to.
pub(super) const PROMPT: Duration = Duration::from_secs(20);
/// How often the machine's own time is looked at, while something is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How long some seconds of the machine's time may take, however busy this machine is.
const FIRING: Duration = Duration::from_secs(300);
/// How long a machine's time stands still, by this machine's, when no timer is left in it.
const STILL: Duration = Duration::from_secs(20);
/// Lines of a log that are shown where a command fails.
const SHOWN: usize = 20;

/// A running QEMU. Dropping it kills it.
pub struct Machine {
    child: Child,
    pub(super) folder: PathBuf,
    shape: Shape,
    pub(super) arch: Arch,
    tables: Option<u64>,
    /// Its date when its power was taken away.
    last_date: Option<String>,
    /// The last reading of its time, where the counter wraps.
    pub(super) counted: Option<Counted>,
    /// QEMU's monitor.
    pub qmp: Qmp,
    /// Commands in dom0.
    pub agent: Agent,
    /// The log out of dom0.
    pub log: Log,
}

impl Machine {
    /// Starts a machine from power-on.
    pub fn boot(parts: &Parts, folder: &Path) -> Result<Self> {
        fresh_dir(folder)?;
        disk::provide(parts.disk.as_deref(), &folder.join(disk::NAME))?;
        Self::switch_on(parts, folder, FIRST_DAY)
    }

    fn switch_on(parts: &Parts, folder: &Path, date: &str) -> Result<Self> {
        let mut machine = Self::start(parts, folder, date, &[], 1)?;
        machine.have_no_alarm()?;
        machine.resume()?;
        Ok(machine)
    }

    /// Starts a machine from power-on, in place of one that is down, with its disk and its date.
    pub fn boot_again(mut self, parts: &Parts) -> Result<Self> {
        let folder = self.folder.clone();
        let date = match self.last_date.take() {
            Some(date) => date,
            None => self.date()?,
        };
        // QEMU writes no more once it has ended.
        end(&mut self.child);
        let kept = folder.with_extension("disk");
        std::fs::rename(folder.join(disk::NAME), &kept).context(|| "cannot keep the disk")?;
        drop(self);
        fresh_dir(&folder)?;
        std::fs::rename(kept, folder.join(disk::NAME)).context(|| "cannot keep the disk")?;
        Self::switch_on(parts, &folder, &date)
    }

    /// Resets a machine that is down as a reset button does: what outlives a reset is still there, as the host watchdog's word
    /// that it fired. Until [`Machine::stop_at_reset`] it takes resets as they come: the BIOS makes another one of this.
    pub fn reset(&mut self) -> Result<()> {
        self.counted = None;
        for name in ["RESET", "SHUTDOWN", "WATCHDOG"] {
            self.qmp.forget(name);
        }
        self.qmp
            .execute("set-action", json!({ "reboot": "reset" }))?;
        self.qmp.execute("system_reset", json!({}))?;
        self.qmp
            .wait_event("RESET", PROMPT)
            .context(|| "the machine is not reset")?;
        let deadline = Instant::now() + PROMPT;
        while self.status()? != "prelaunch" {
            self.check_deadline(deadline, "being reset")?;
            sleep(LOOK_EVERY);
        }
        self.resume()
    }

    /// From now on a reset stops the machine, as at first.
    pub fn stop_at_reset(&mut self) -> Result<()> {
        let action = json!({ "reboot": "shutdown" });
        self.qmp.execute("set-action", action).map(drop)
    }

    /// Has the machine lose its power, as far as software can tell.
    pub fn cut_power(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({}))?;
        self.wait_down(PROMPT).map(drop)
    }

    /// Waits until the machine is down, whatever brought it down, for at most `limit` of this machine's time. Returns whether
    /// the host watchdog fired.
    pub fn wait_down(&mut self, limit: Duration) -> Result<bool> {
        self.qmp
            .wait_event("SHUTDOWN", limit)
            .context(|| "the machine is not down")?;
        Ok(self.qmp.wait_event("WATCHDOG", Duration::ZERO).is_some())
    }

    /// Takes its power away: QEMU is killed, in the midst of whatever it does. Returns when it was gone for certain.
    pub fn kill(&mut self) -> Result<Instant> {
        self.last_date = Some(self.date()?);
        end(&mut self.child);
        Ok(Instant::now())
    }

    /// Plugs a network link in or out.
    pub fn set_link(&mut self, name: &str, up: bool) -> Result<()> {
        let link = json!({ "name": name, "up": up });
        self.qmp.execute("set_link", link).map(drop)
    }

    /// Stops its time, until [`Machine::resume`].
    pub fn stop(&mut self) -> Result<()> {
        self.qmp.execute("stop", json!({})).map(drop)
    }

    /// It stands still until [`Machine::resume`].
    pub(super) fn start(
        parts: &Parts,
        folder: &Path,
        date: &str,
        more: &[String],
        first_id: u64,
    ) -> Result<Self> {
        let stderr = std::fs::File::create(folder.join("qemu.log"))
            .context(|| "cannot create QEMU's log")?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", parts.arch.qemu()])
            .args(definition_with(
                parts.shape,
                parts.arch,
                parts.xen_arguments,
            ))
            .args(parts.devices.split_whitespace())
            .args(["-S", "-rtc", &format!("base={date},clock=vm")])
            .args(boots(parts))
            .args(more)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command.spawn().context(|| "cannot start QEMU")?;
        let log = Log::follow(child.stdout.take().context(|| "QEMU has no output")?);
        let mut starting = Starting {
            child: Some(child),
            folder,
        };
        let (qmp, agent) = (starting.connect("qmp")?, starting.connect("agent")?);
        let machine = Machine {
            qmp: Qmp::new(qmp)?,
            agent: Agent::new(agent, first_id)?,
            log,
            folder: folder.to_path_buf(),
            shape: parts.shape,
            arch: parts.arch,
            last_date: None,
            counted: None,
            tables: parts.tables,
            child: starting.child.take().context(|| "QEMU is gone")?,
        };
        Ok(machine)
    }

    /// Lets a machine's time run.
    pub fn resume(&mut self) -> Result<()> {
        self.qmp.execute("cont", json!({})).map(drop)
    }

    /// Runs a shell command in dom0. No answer in time is an error, and so is a machine that went down meanwhile; an exit code
    /// is not.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + limit;
        let id = self.agent.send(command)?;
        loop {
            if let Some(outcome) = self.agent.answer(id, POLL) {
                return Ok(outcome);
            }
            let failure = match self.qmp.has_event("SHUTDOWN") {
                Some(Event { data, .. }) => format!("the host went down ({data}) in: {command}"),
                None if Instant::now() < deadline => continue,
                None => format!("dom0 did not answer within {limit:?}: {command}"),
            };
            let (said, console) = (self.log.lines_from(0), self.console());
            let said: Vec<&str> = said.iter().map(String::as_str).collect();
            let console: Vec<&str> = console.lines().collect();
            let end = |lines: &[&str]| lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            return Err(Error::new(format!(
                "{failure}\ndom0's programs said last:\n{}\nand the console:\n{}",
                end(&said),
                end(&console)
            )));
        }
    }

    /// Stops the machine's time and attaches a debugger, does `work`, and lets the time run again; returns the moment of that.
    pub fn debug(&mut self, work: impl FnOnce(&mut Gdb) -> Result<()>) -> Result<Duration> {
        let mut gdb = self.debugger()?;
        work(&mut gdb)?;
        let now = self.clock()?;
        gdb.detach()?;
        Ok(now)
    }

    /// Lets the machine's time run to `until`, in steps as short as QEMU makes them: a few of its timers each. A breakpoint would stop
    /// one processor at once, and the others only when QEMU comes to it.
    pub fn run_to(&mut self, until: Duration) -> Result<()> {
        self.stop()?;
        while self.clock()? < until {
            self.resume()?;
            self.stop()?;
        }
        self.resume()
    }

    /// Stops the machine's time and attaches a debugger.
    fn debugger(&mut self) -> Result<Gdb> {
        let stream = connect(self.child.id(), "gdb").context(|| "cannot reach the gdb stub")?;
        let mut gdb = Gdb::attach(stream)?;
        if let Some(tables) = self.tables {
            gdb.look_up(tables)?;
        }
        Ok(gdb)
    }

    /// Waits until the hardware watchdog fires, at most until the machine's own time is `until`. Returns the moment; `None`
    /// if it did not fire. The reset that it asks for stops the machine instead, so that the moment can be read.
    pub fn wait_fired(&mut self, until: Duration) -> Result<Option<Duration>> {
        let said = self.shape.says_that_it_fired();
        self.wait_ended(until, said, None)
    }

    /// The same for a reset that comes from within, by the hypervisor or dom0's kernel.
    pub fn wait_reset(&mut self, until: Duration) -> Result<Option<Duration>> {
        self.wait_ended(until, false, None)
    }

    /// The same where there may be no timer left that could fire: then the machine's time stands still, and nothing resets it.
    pub fn wait_reset_if_any(&mut self, until: Duration) -> Result<Option<Duration>> {
        self.wait_ended(until, false, Some(STILL))
    }

    /// `said`: QEMU says first that it was the watchdog. `still`: how long the machine's time may stand still until nothing is
    /// expected; none: that is an error in the end.
    fn wait_ended(
        &mut self,
        until: Duration,
        said: bool,
        still: Option<Duration>,
    ) -> Result<Option<Duration>> {
        let deadline = Instant::now() + FIRING;
        let (mut last, mut moved) = (Duration::ZERO, Instant::now());
        loop {
            let first = if said { "WATCHDOG" } else { "SHUTDOWN" };
            if let Some(event) = self.qmp.wait_event(first, POLL) {
                let reset = match said {
                    true => self.qmp.wait_event("SHUTDOWN", PROMPT),
                    false => Some(event),
                };
                let reset = reset.context(|| "the watchdog resets nothing")?;
                return match reset.data.get("reason").and_then(|reason| reason.as_str()) {
                    Some("guest-reset") => self.clock().map(Some),
                    _ => Err(Error::new(format!(
                        "the machine ended otherwise: {}",
                        reset.data
                    ))),
                };
            }
            let now = self.clock()?;
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if now >= until || still.is_some_and(|still| moved.elapsed() >= still) {
                return Ok(None);
            }
            self.check_deadline(deadline, "reaching the moment to be watched until")?;
        }
    }

    /// Waits for QEMU's end.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().context(|| "cannot wait for QEMU")? {
                return Ok(status);
            }
            self.check_time(deadline, "ending")?;
            sleep(LOOK_EVERY);
        }
    }

    /// Whether QEMU still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Where its dom0 runs.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the hypervisor and dom0's kernel said.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// For how long each of dom0's two virtual processors has run, to a pulse.
    pub fn dom0_ran(&self) -> [Duration; 2] {
        let pulses = std::fs::read(self.folder.join("pulses")).unwrap_or_default();
        [b'0', b'1'].map(|digit| {
            let count = pulses.iter().filter(|byte| **byte == digit).count();
            PULSE_PERIOD * u32::try_from(count).unwrap_or(u32::MAX)
        })
    }

    pub(super) fn status(&mut self) -> Result<String> {
        let status = self.qmp.execute("query-status", json!({}))?;
        Ok(status
            .get("status")
            .and_then(|status| status.as_str())
            .unwrap_or_default()
            .to_owned())
    }

    pub(super) fn check_deadline(&mut self, deadline: Instant, doing: &str) -> Result<()> {
        match self.is_alive() {
            true => self.check_time(deadline, doing),
            false => Err(self.describe_failure(&format!("QEMU ended while {doing}"))),
        }
    }

    pub(super) fn check_time(&self, deadline: Instant, doing: &str) -> Result<()> {
        match Instant::now() < deadline {
            true => Ok(()),
            false => Err(self.describe_failure(&format!("QEMU takes too long for {doing}"))),
        }
    }

    pub(super) fn describe_failure(&self, what: &str) -> Error {
        Error::new(format!(
            "{what}\n{}",
            read_text(&self.folder.join("qemu.log")).unwrap_or_default()
        ))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.child);
        // Its state is only linked there; what is left is small. Should it stay, the laboratory removes it.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A QEMU whose sockets are not all connected yet.
pub(super) struct Starting<'a> {
    pub(super) child: Option<Child>,
    pub(super) folder: &'a Path,
}

impl Starting<'_> {
    pub(super) fn connect(&mut self, socket: &str) -> Result<UnixStream> {
        let child = self.child.as_mut().context(|| "QEMU is gone")?;
        let deadline = Instant::now() + PROMPT;
        loop {
            match connect(child.id(), socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).context(|| format!("no socket {socket}"));
                }
                Err(_) if !matches!(child.try_wait(), Ok(None)) => {
                    let said = read_text(&self.folder.join("qemu.log")).unwrap_or_default();
                    return Err(Error::new(format!("QEMU did not start\n{said}")));
                }
                Err(_) => sleep(LOOK_EVERY),
            }
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.child.as_mut().into_iter().for_each(end);
    }
}

pub(super) fn end(child: &mut Child) {
    // An error here means that it has ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Connects to a socket in QEMU's working folder. Through /proc, because the path of a socket may not be long and the folder's may.
fn connect(pid: u32, socket: &str) -> std::io::Result<UnixStream> {
    UnixStream::connect(format!("/proc/{pid}/cwd/{socket}"))
}
