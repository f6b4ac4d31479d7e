// SPDX-License-Identifier: GPL-2.0-only
//! Hooks are run here, one at a time each, in threads of their own.
//!
//! In: [`Job`]s. Out: how they ended. The event goes to standard input as a line of JSON, its key to the environment. A
//! hook that fails is run again, [`ATTEMPTS`] times in all; one that takes too long is ended with all that it started.
//! Never: a shell, or a wait of the loop.

use super::hooks::{Job, Rule};
use super::message::message_of;
use super::sightings::key_of;
use crate::event::Event;
use crate::event::describe::{describe, plain};
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs for one event until it is given up.
pub const ATTEMPTS: u32 = 3;
/// Before the second run; twice that before the third.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a running program is looked at.
const LOOK: Duration = Duration::from_millis(10);
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How a job ended.
pub type Ended = (Job, Result<(), String>);

/// The threads.
#[derive(Debug)]
pub struct Runner {
    jobs: Vec<Sender<Job>>,
    /// What has ended.
    pub ended: Receiver<Ended>,
}

impl Runner {
    /// Starts a thread for each hook.
    ///
    /// # Errors
    /// The errno of starting one.
    pub fn start(rules: &[Rule], wake: &Arc<EventFd>) -> io::Result<Self> {
        let (tell, ended) = unbounded();
        let mut jobs = Vec::new();
        for rule in rules {
            let (send, waiting) = unbounded::<Job>();
            let (rule, tell, wake) = (rule.clone(), tell.clone(), Arc::clone(wake));
            let work = move || {
                for job in waiting {
                    let result = run(&rule, &job);
                    let _ = tell.send((job, result));
                    let _ = wake.write(1);
                }
            };
            thread::Builder::new().name("hook".to_owned()).spawn(work)?;
            jobs.push(send);
        }
        Ok(Self { jobs, ended })
    }

    /// Has a job run. There is never more than one for each hook ([`super::hooks::Agenda`]).
    pub fn run(&self, job: Job) {
        if let Some(jobs) = self.jobs.get(job.hook) {
            let _ = jobs.send(job);
        }
    }
}

fn run(rule: &Rule, job: &Job) -> Result<(), String> {
    let mut result = Ok(());
    for attempt in 1..=ATTEMPTS {
        result = once(rule, job, attempt);
        if result.is_ok() || attempt == ATTEMPTS {
            break;
        }
        thread::sleep(AGAIN.saturating_mul(attempt));
    }
    result
}

fn once(rule: &Rule, job: &Job, attempt: u32) -> Result<(), String> {
    let (program, arguments) = rule.command.split_first().ok_or("nothing to run")?;
    let wrong = |error: io::Error| format!("{program}: {error}");
    let key = key_of(&job.event).map_or_else(|| job.key.to_string(), str::to_owned);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env("XENWARDEN_POOL_HOOK", &rule.name)
        .env("XENWARDEN_POOL_KEY", key)
        .env("XENWARDEN_POOL_ATTEMPT", attempt.to_string())
        .envs(environment(&job.event))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(wrong)?;
    let mut line = serde_json::to_vec(&job.event).unwrap_or_default();
    line.push(b'\n');
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds (pipe(7): 64 KiB), and a hook need not read it.
        let _ = stdin.write_all(&line);
    }
    let ended = wait(&mut child, Duration::from_millis(rule.timeout_ms));
    ended.map_err(|why| format!("{program}: {why}"))
}

/// What the monitor's hooks get too (xenwarden.conf(5)), so that the same programs can be run.
fn environment(event: &Map<String, Value>) -> Vec<(&'static str, String)> {
    let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let guest = event.get("guest").and_then(Value::as_object);
    let of_guest = |name: &str| {
        let value = guest.and_then(|guest| guest.get(name));
        match value {
            Some(Value::String(text)) => plain(text),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    };
    let known: Option<Event> = serde_json::from_value(Value::Object(event.clone())).ok();
    let message = known.map(|event| describe(&event));
    let message = message.or_else(|| message_of(event));
    let message = message.unwrap_or_else(|| field("kind").to_owned());
    vec![
        ("XENWARDEN_KIND", plain(field("kind"))),
        (
            "XENWARDEN_SEQ",
            event.get("seq").map_or_else(String::new, Value::to_string),
        ),
        ("XENWARDEN_TIME", plain(field("time"))),
        ("XENWARDEN_SEVERITY", plain(field("severity"))),
        ("XENWARDEN_HOST", plain(field("host"))),
        ("XENWARDEN_UUID", of_guest("uuid")),
        ("XENWARDEN_DOMID", of_guest("domid")),
        ("XENWARDEN_NAME", of_guest("name")),
        ("XENWARDEN_MESSAGE", message),
    ]
}

fn wait(child: &mut Child, limit: Duration) -> Result<(), String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Err(error) => return Err(error.to_string()),
            Ok(None) if start.elapsed() >= limit => break,
            Ok(None) => thread::sleep(LOOK),
        }
    }
    // Not waited for yet, so the group's number is no other's.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
    let seconds = limit.as_secs();
    Err(format!("it took longer than {seconds} s and was ended"))
}
