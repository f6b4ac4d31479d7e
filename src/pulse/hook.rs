// SPDX-License-Identifier: GPL-2.0-only
//! Programs that are run at a loss, in threads of their own.
//!
//! In: a command, and what it is to know. Out: how it ended. Promises: at most eight run at once, each in a process
//! group of its own that is ended when its time is over; what waits is bounded. Never: a shell, or a wait of the loop.

use super::plan::Hook;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Programs at once.
const WORKERS: usize = 8;
/// Losses that wait for a worker.
const QUEUE: usize = 1_024;
/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// One run.
#[derive(Debug)]
pub struct Job {
    /// The heartbeat's number.
    pub beat: u32,
    /// What is run.
    pub hook: Hook,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

/// The way to the threads.
#[derive(Debug)]
pub struct Hooks {
    jobs: Sender<Job>,
    /// How those that have ended did so.
    pub ended: Receiver<(u32, Result<(), String>)>,
}

impl Hooks {
    /// Starts the threads, if anything is to be run at all.
    ///
    /// # Errors
    /// The errno of starting them.
    pub fn start(any: bool, wake: &Arc<EventFd>) -> io::Result<Self> {
        let (jobs, waiting) = bounded::<Job>(QUEUE);
        let (tell, ended) = unbounded();
        for _ in 0..if any { WORKERS } else { 0 } {
            let (waiting, tell, wake) = (waiting.clone(), tell.clone(), Arc::clone(wake));
            let work = move || {
                for job in waiting {
                    let _ = tell.send((job.beat, run(&job)));
                    let _ = wake.write(1);
                }
            };
            thread::Builder::new().name("hook".to_owned()).spawn(work)?;
        }
        Ok(Self { jobs, ended })
    }

    /// Has a program run as soon as there is room.
    ///
    /// # Errors
    /// Too many wait.
    pub fn run(&self, job: Job) -> Result<(), String> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => "too many hooks wait already".to_owned(),
            TrySendError::Disconnected(_) => "no hook can be run any more".to_owned(),
        })
    }
}

fn run(job: &Job) -> Result<(), String> {
    let (program, arguments) = job.hook.command.split_first().ok_or("nothing to run")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .envs(job.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let ended = wait(&mut child, Duration::from_millis(job.hook.timeout_ms));
    ended.map_err(|why| format!("{program}: {why}"))
}

fn wait(child: &mut Child, limit: Duration) -> Result<(), String> {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let start = Instant::now();
    let mut late = false;
    loop {
        // It is left a zombie until what it left behind in its group is ended, so that the
        // group's number is no other's.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let ended = waitid(Id::Pid(group), flags);
        if !matches!(ended, Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)) {
            let _ = killpg(group, Signal::SIGKILL);
            let status = child.wait().map_err(|error| error.to_string())?;
            return judge(status, late.then_some(limit));
        }
        let ran = start.elapsed();
        if ran >= limit {
            let hard = ran >= limit.saturating_add(GRACE);
            let signal = if hard {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            };
            if hard || !late {
                let _ = killpg(group, signal);
            }
            late = true;
        }
        thread::sleep(LOOK);
    }
}

fn judge(status: ExitStatus, late: Option<Duration>) -> Result<(), String> {
    if let Some(limit) = late {
        return Err(format!(
            "it took longer than {} s and was ended",
            limit.as_secs()
        ));
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("it exited with status {code}")),
        (None, Some(signal)) => Err(format!("signal {signal} ended it")),
        (None, None) => Err("its end is not known".to_owned()),
    }
}
