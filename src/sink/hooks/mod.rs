// SPDX-License-Identifier: GPL-2.0-only
//! Hooks: a program for each event of the kinds that it was configured for.
//!
//! In: events. Out: executions: the event as JSON on stdin, and XENWARDEN_* in the
//! environment; never a shell. Promises: a guest's events are handled one after the
//! other in their order (the hooks for one event at the same time); no more than
//! `concurrency` programs run at once; what waits is bounded, in all and for each guest, and
//! alarms come first where there is no room; one that takes too long is ended, with everything that
//! it started, as far as its process group and, where there is one, its cgroup reach.
//! Whatever goes wrong is logged and counted. The exit status decides nothing.
//!
//! The thread gives way (nice 10) and its programs inherit that; it is an ordinary one,
//! so they cannot inherit real-time priority, and memory locks end with exec (mlock(2)).

pub mod cgroup;
mod execution;
mod program;
mod waiting;

use super::ending::Ending;
use crate::event::bus::Bus;
use crate::event::kind::matches;
use crate::event::{Event, Uuid};
use crate::sys::child;
use cgroup::Groups;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use execution::Execution;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use waiting::Waiting;

/// The name on the bus.
pub const NAME: &str = "hooks";

/// How often running programs are looked at. There is no descriptor to wait for before
/// Linux 5.3 (pidfd_open(2)).
const LOOK: Duration = Duration::from_millis(20);
/// How long nothing may happen before the stop flag is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long the daemon's end waits for what still runs.
const FAREWELL: Duration = Duration::from_millis(700);
/// Enough to be out of the way.
const NICE: u8 = 10;

/// A program and what it is run for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Kinds, or their beginnings up to a dot (`guest.`).
    pub kinds: Vec<String>,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Hook {
    fn wants(&self, event: &Event) -> bool {
        let kind = event.what.kind();
        self.kinds.iter().any(|wanted| matches(wanted, kind))
    }
}

/// Runs hooks until the bus is closed or `stop` is set; what runs or waits then has less than a
/// second. `cgroup` is the directory under which cgroups may be made, normally
/// [`cgroup::own_directory`].
pub fn run(
    queue: &Receiver<Arc<Event>>,
    hooks: &[Hook],
    concurrency: usize,
    cgroup: Option<&Path>,
    bus: &Bus,
    stop: &AtomicBool,
) {
    if let Err(errno) = child::give_way(NICE) {
        log::warn!("hooks run at the daemon's own priority: {}", errno.desc());
    }
    if let Err(error) = child::keep_descriptors() {
        log::warn!("hooks may inherit open files: /proc/self/fd: {error}");
    }
    if let Err(errno) = child::keep_exit_statuses() {
        log::warn!("how hooks end may not be known: {}", errno.desc());
    }
    if let Some(why) = child::spawning_forks() {
        return run_none(queue, hooks, &why, bus, stop);
    }
    let mut runner = Runner {
        hooks,
        concurrency,
        groups: Groups::new(cgroup.map(Path::to_owned)),
        waiting: Waiting::default(),
        running: Vec::new(),
        bus,
        ending: Ending::new(bus, stop, FAREWELL),
    };
    while !runner.ending.has_begun() {
        let busy = !runner.running.is_empty();
        match queue.recv_timeout(if busy { LOOK } else { TICK }) {
            Ok(event) => runner.enqueue(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        runner.turn();
    }
    let rest = queue.try_iter().take(queue.len());
    rest.for_each(|event| runner.enqueue(&event));
    runner.finish();
}

/// Where none may be run, counts what is not.
fn run_none(queue: &Receiver<Arc<Event>>, hooks: &[Hook], why: &str, bus: &Bus, stop: &AtomicBool) {
    log::error!("no hook is run: {why}");
    let mut ending = Ending::new(bus, stop, FAREWELL);
    let count = |event: &Arc<Event>| {
        let wanted = hooks.iter().filter(|hook| hook.wants(event));
        wanted.for_each(|_| bus.count_undelivered(NAME, event));
    };
    while !ending.has_begun() {
        match queue.recv_timeout(TICK) {
            Ok(event) => count(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
    queue.try_iter().take(queue.len()).for_each(|e| count(&e));
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
    waiting: Waiting,
    running: Vec<(Job, Execution)>,
    bus: &'a Bus,
    ending: Ending<'a>,
}

/// Whom events are about, as far as their order goes. A guest goes by its UUID and by its
/// domid: one of them is the same before and after its UUID is known, and a reboot.
#[derive(Default)]
struct Busy {
    /// Each with the number of the first event that it is busy with.
    uuids: HashMap<Uuid, u64>,
    /// None is the host.
    domids: HashMap<Option<u16>, u64>,
}

impl Busy {
    fn add(&mut self, event: &Event) {
        let guest = event.guest.as_ref();
        let domid = guest.map(|g| g.domid);
        self.domids.entry(domid).or_insert(event.seq);
        if let Some(uuid) = guest.and_then(|g| g.uuid) {
            self.uuids.entry(uuid).or_insert(event.seq);
        }
    }

    /// Whether another event of the same guest, or of the host, has to come first.
    fn bars(&self, event: &Event) -> bool {
        let guest = event.guest.as_ref();
        let by_domid = self.domids.get(&guest.map(|g| g.domid));
        let by_uuid = guest.and_then(|g| g.uuid).and_then(|u| self.uuids.get(&u));
        [by_domid, by_uuid]
            .into_iter()
            .flatten()
            .any(|seq| *seq != event.seq)
    }
}

impl Runner<'_> {
    fn enqueue(&mut self, event: &Arc<Event>) {
        let wanted = self.hooks.iter().enumerate();
        let wanted = wanted.filter(|(_, hook)| hook.wants(event));
        for lost in self.waiting.add(event, wanted.map(|(n, _)| n)) {
            self.bus.count_undelivered(NAME, &lost);
        }
    }

    /// Looks after what runs, then starts what may.
    fn turn(&mut self) {
        let now = Instant::now();
        let (groups, hooks, bus) = (&mut self.groups, self.hooks, self.bus);
        self.running.retain_mut(|(job, execution)| {
            let outcome = execution.advance(now, groups);
            if let Some(Err(how)) = &outcome {
                failed(hooks, bus, job, how);
            }
            outcome.is_none()
        });
        self.groups.sweep();
        if !self.waiting.jobs.is_empty() && self.running.len() < self.concurrency {
            self.start_what_may();
        }
    }

    /// In order; a job whose guest is busy with another event bars the later ones of that guest.
    fn start_what_may(&mut self) {
        let mut busy = Busy::default();
        for (job, _) in &self.running {
            busy.add(&job.event);
        }
        let mut later = VecDeque::new();
        for job in std::mem::take(&mut self.waiting.jobs) {
            let barred = busy.bars(&job.event);
            busy.add(&job.event);
            let full = self.running.len() >= self.concurrency;
            if barred || full || self.ending.is_over() {
                later.push_back(job);
                continue;
            }
            match self.start(&job) {
                Ok(execution) => self.running.push((job, execution)),
                Err(how) => failed(self.hooks, self.bus, &job, &how),
            }
        }
        self.waiting.jobs = later;
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

    /// Kind can be done in [`FAREWELL`] is done; the rest is killed, or lost, and counted.
    fn finish(mut self) {
        let idle = |runner: &Self| runner.waiting.jobs.is_empty() && runner.running.is_empty();
        while !idle(&self) && !self.ending.is_over() {
            self.turn();
            std::thread::sleep(LOOK);
        }
        for (job, execution) in std::mem::take(&mut self.running) {
            execution.kill(&mut self.groups);
            failed(self.hooks, self.bus, &job, "ended, as the daemon stops");
        }
        for job in &self.waiting.jobs {
            self.bus.count_undelivered(NAME, &job.event);
        }
        match self.waiting.jobs.len() {
            0 => {}
            n => log::warn!("{n} executions of hooks do not take place, as the daemon stops"),
        }
    }
}

fn failed(hooks: &[Hook], bus: &Bus, job: &Job, how: &str) {
    let program = hooks.get(job.hook).map(|hook| hook.program.display());
    let program = program.map(|p| p.to_string()).unwrap_or_default();
    let (kind, seq) = (job.event.what.kind(), job.event.seq);
    log::warn!("hook {program} for {kind} (event {seq}): {how}");
    bus.count_undelivered(NAME, &job.event);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    #[test]
    fn where_none_may_be_run_each_execution_is_counted() {
        let bus = Bus::new("host".into(), 1);
        let queue = bus.attach(NAME, 64);
        let hook = |kind: &str| Hook {
            kinds: vec![kind.to_owned()],
            program: "/bin/true".into(),
            arguments: Vec::new(),
            timeout: TICK,
        };
        let hooks = [hook("host."), hook("host.disarmed"), hook("guest.")];
        for _ in 0..3 {
            bus.publish(None, None, Kind::HostDisarmed {});
        }
        bus.close();
        run_none(&queue, &hooks, "a test", &bus, &AtomicBool::new(false));
        assert_eq!(bus.drops(), [(NAME, 6)]);
    }
}
