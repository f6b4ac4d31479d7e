// SPDX-License-Identifier: GPL-2.0-only
//! One execution of a hook's program, from its start to the end of its last process.
//!
//! In: a started child with what it is to read. Out: how it ended. It waits for nothing: it
//! is asked again and again until it has ended.

use super::cgroup::Groups;
use crate::event::describe::plain;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ExitStatus};
use std::time::{Duration, Instant};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of stderr that are kept for the log.
const MAX_STDERR: usize = 1024;
/// Bytes of stderr that are read in one round: more than a pipe holds (pipe(7)).
const MAX_READ: usize = 128 * 1024;

/// A running program.
#[derive(Debug)]
pub struct Execution {
    child: Child,
    group: Pid,
    cgroup: Option<PathBuf>,
    input: Option<(ChildStdin, Vec<u8>)>,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    timeout: Duration,
    term_at: Instant,
    kill_at: Option<Instant>,
    killed: bool,
    late: bool,
}

/// How it ended, if not well.
pub type Outcome = Result<(), String>;

impl Execution {
    /// Takes care of a child that leads a process group of its own and is to read `input`.
    ///
    /// # Errors
    /// The pipes cannot be used; the child is then killed.
    pub fn new(
        mut child: Child,
        input: Vec<u8>,
        timeout: Duration,
        groups: &Groups,
    ) -> io::Result<Self> {
        let pid = child.id();
        let cgroup = groups.enclose(pid);
        // Whatever the monitor was started with: a hook is the OOM killer's as any other program.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
        let group = Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let ready = stdin
            .as_ref()
            .map_or(Ok(()), not_blocking)
            .and_then(|()| stderr.as_ref().map_or(Ok(()), not_blocking));
        let now = Instant::now();
        let mut execution = Self {
            child,
            group,
            cgroup,
            input: stdin.map(|stdin| (stdin, input)),
            stderr,
            said: Vec::new(),
            timeout,
            term_at: now + timeout,
            kill_at: None,
            killed: false,
            late: false,
        };
        if let Err(errno) = ready {
            execution.signal(Signal::SIGKILL);
            let _ = execution.child.wait();
            return Err(errno.into());
        }
        Ok(execution)
    }

    /// Moves bytes, keeps the time, and tells how it ended once it has. Does not wait.
    pub fn advance(&mut self, now: Instant, groups: &mut Groups) -> Option<Outcome> {
        self.feed();
        // Before listening: what is open after the end is open in somebody else.
        let exited = self.has_exited();
        let open = self.listen();
        if exited {
            return Some(self.reap(open, groups));
        }
        if self.kill_at.is_some_and(|at| now >= at) && !self.killed {
            self.killed = true;
            self.signal(Signal::SIGKILL);
        }
        if now >= self.term_at && self.kill_at.is_none() {
            self.late = true;
            self.kill_at = Some(now + GRACE);
            self.signal(Signal::SIGTERM);
        }
        None
    }

    /// Ends it now: the monitor stops.
    pub fn kill(mut self, groups: &mut Groups) {
        self.signal(Signal::SIGKILL);
        if let Some(cgroup) = self.cgroup.take() {
            groups.end(cgroup, self.child.id());
        }
        // A process that hangs in the kernel is left to init: no waiting for it.
        let _ = self.child.try_wait();
    }

    fn signal(&self, signal: Signal) {
        // The leader is not reaped yet, so its number cannot be another group's.
        let _ = killpg(self.group, signal);
    }

    /// Writes what the program is to read. One that does not want it misses nothing.
    fn feed(&mut self) {
        let Some((stdin, rest)) = &mut self.input else {
            return;
        };
        match stdin.write(rest) {
            Ok(n) => drop(rest.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => rest.clear(),
        }
        if rest.is_empty() {
            self.input = None;
        }
    }

    /// Reads what the program says; whether somebody may still say something.
    fn listen(&mut self) -> bool {
        let Some(stderr) = &mut self.stderr else {
            return false;
        };
        let mut bytes = [0; 4096];
        for _ in 0..MAX_READ / bytes.len() {
            match stderr.read(&mut bytes) {
                Ok(0) => {
                    self.stderr = None;
                    return false;
                }
                Ok(n) => {
                    let room = MAX_STDERR.saturating_sub(self.said.len());
                    self.said.extend(bytes.iter().take(n.min(room)));
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// Whether the leader is a zombie; it is left one, so that its group keeps its number.
    fn has_exited(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => false,
            Ok(_) | Err(_) => true,
        }
    }

    /// Kills what the program left behind and reaps it. An open stderr tells of others.
    fn reap(&mut self, open: bool, groups: &mut Groups) -> Outcome {
        self.signal(Signal::SIGKILL);
        let in_cgroup = self.cgroup.take();
        let in_cgroup = in_cgroup.is_some_and(|cgroup| groups.end(cgroup, self.child.id()));
        let status = self.child.wait();
        let in_group = killpg(self.group, None).is_ok();
        let left = open || in_cgroup || in_group;
        match self.judge(status) {
            Ok(()) if left => Err("it left processes behind; they are killed".to_owned()),
            Ok(()) => Ok(()),
            Err(how) => Err(format!("{how}{}", self.stderr_text())),
        }
    }

    fn judge(&self, status: io::Result<ExitStatus>) -> Outcome {
        let status = status.map_err(|error| format!("its end is not known: {error}"))?;
        if self.late {
            let s = self.timeout.as_secs();
            return Err(format!("it took longer than {s} s and was ended"));
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(format!("it exited with status {code}")),
            (None, Some(signal)) => Err(format!("signal {signal} ended it")),
            (None, None) => Err("its end is not known".to_owned()),
        }
    }

    fn stderr_text(&self) -> String {
        let words = String::from_utf8_lossy(&self.said);
        match words.trim() {
            "" => String::new(),
            words => format!(", saying: {}", plain(words)),
        }
    }
}

fn not_blocking(pipe: &impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(|_| ())
}
