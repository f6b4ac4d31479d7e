// SPDX-License-Identifier: GPL-2.0-only
//! Hooks: a program for each event of the kinds that it was configured for.
//!
//! In: events. Out: executions: the event as JSON on stdin, and XENWARDEN_* in the
//! environment; never a shell. Promises: a guest's events are handled one after the
//! other in their order (the hooks for one event beside each other); no more than
//! `concurrency` programs run at once; what waits is bounded, in all and for each guest, and
//! alarms come first where there is no room; one that takes too long is ended, with everything that
//! it started, as far as its process group and, where there is one, its cgroup reach.
//! Whatever goes wrong is logged and counted. The exit status decides nothing.
//!
//! The thread gives way (nice 10) and its programs inherit that. They are root and have all
//! that root has, which the monitor itself has given up ([`crate::monitor::privileges`]).

pub mod cgroup;
mod execution;
mod program;
mod queues;

use crate::config::sinks::Hook;
use crate::event::Event;
use crate::event::bus::Bus;
use crate::sys::child;
use cgroup::Groups;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use execution::Execution;
use queues::HookQueues;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The name on the bus.
pub const NAME: &str = "hooks";

/// How often running programs are looked at. There is no descriptor to wait for before
/// Linux 5.3 (pidfd_open(2)).
const LOOK: Duration = Duration::from_millis(20);
/// Enough to be out of the way.
const NICE: u8 = 10;

/// Runs hooks until the bus is closed; what runs or waits then has until the bus' deadline.
/// `cgroup` is the directory under which cgroups may be made, normally
/// [`cgroup::own_directory`].
pub fn run(
    queue: &Receiver<Arc<Event>>,
    hooks: &[Hook],
    concurrency: usize,
    cgroup: Option<&Path>,
    bus: &Bus,
) {
    if let Err(errno) = child::give_way(NICE) {
        log::warn!("hooks run at the monitor's own priority: {}", errno.desc());
    }
    if let Err(error) = child::keep_descriptors() {
        log::warn!("hooks may inherit open files: /proc/self/fd: {error}");
    }
    if let Err(errno) = child::keep_exit_statuses() {
        log::warn!("how hooks end may not be known: {}", errno.desc());
    }
    let mut runner = Runner {
        hooks,
        concurrency,
        groups: Groups::new(cgroup.map(Path::to_owned)),
        queues: HookQueues::default(),
        running: Vec::new(),
        bus,
    };
    loop {
        let event = if runner.queues.is_idle() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(LOOK)
        };
        match event {
            Ok(event) => runner.enqueue(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        runner.turn();
    }
    runner.finish();
}

/// An execution that is to be.
struct Job {
    event: Arc<Event>,
    hook: usize,
}

struct Runner<'a> {
    hooks: &'a [Hook],
    concurrency: usize,
    groups: Groups,
    queues: HookQueues,
    running: Vec<(Job, Execution)>,
    bus: &'a Bus,
}

impl Runner<'_> {
    fn enqueue(&mut self, event: &Arc<Event>) {
        let wanted = self.hooks.iter().enumerate();
        let wanted = wanted.filter(|(_, hook)| hook.wants(event));
        for lost in self.queues.add(event, wanted.map(|(n, _)| n).collect()) {
            self.bus.count_undelivered(NAME, &lost);
        }
    }

    /// Looks after what runs, then starts what may.
    fn turn(&mut self) {
        let now = Instant::now();
        let (groups, hooks, bus) = (&mut self.groups, self.hooks, self.bus);
        let queues = &mut self.queues;
        self.running.retain_mut(|(job, execution)| {
            let outcome = execution.advance(now, groups);
            if let Some(how) = &outcome {
                ended(hooks, bus, queues, job, how);
            }
            outcome.is_none()
        });
        self.groups.sweep();
        while self.running.len() < self.concurrency && !self.bus.is_over() {
            let Some(job) = self.queues.next() else {
                return;
            };
            match self.start(&job) {
                Ok(execution) => self.running.push((job, execution)),
                Err(how) => ended(self.hooks, self.bus, &mut self.queues, &job, &Err(how)),
            }
        }
    }

    fn start(&self, job: &Job) -> Result<Execution, String> {
        let Some(hook) = self.hooks.get(job.hook) else {
            return Err("no such hook".to_owned());
        };
        let real = program::check(&hook.program).map_err(|why| format!("not run: {why}"))?;
        let mut input = serde_json::to_vec(job.event.as_ref()).map_err(|e| e.to_string())?;
        input.push(b'\n');
        program::start(&real, &hook.program, &hook.arguments, &job.event)
            .and_then(|child| Execution::new(child, input, hook.timeout, &self.groups))
            .map_err(|error| format!("cannot be run: {error}"))
    }

    /// What can be done until the bus' deadline is done; the rest is killed, or lost, and
    /// counted.
    fn finish(mut self) {
        while !self.queues.is_idle() && !self.bus.is_over() {
            self.turn();
            std::thread::sleep(LOOK);
        }
        for (job, execution) in std::mem::take(&mut self.running) {
            execution.kill(&mut self.groups);
            let how = Err("ended, as the monitor stops".to_owned());
            ended(self.hooks, self.bus, &mut self.queues, &job, &how);
        }
        let lost = self.queues.give_up();
        for event in &lost {
            self.bus.count_undelivered(NAME, event);
        }
        if !lost.is_empty() {
            let n = lost.len();
            log::warn!("{n} executions of hooks do not take place, as the monitor stops");
        }
    }
}

/// Notes that an execution has ended, and complains where it did not end well.
fn ended(hooks: &[Hook], bus: &Bus, queues: &mut HookQueues, job: &Job, how: &execution::Outcome) {
    queues.ended(&job.event);
    let Err(how) = how else {
        return;
    };
    let program = hooks.get(job.hook).map(|hook| hook.program.display());
    let program = program.map(|p| p.to_string()).unwrap_or_default();
    let (kind, seq) = (job.event.what.kind(), job.event.seq);
    log::warn!("hook {program} for {kind} (event {seq}): {how}");
    bus.count_undelivered(NAME, &job.event);
}
