// SPDX-License-Identifier: GPL-2.0-only
//! The monitor's start, its threads, and its end.
//!
//! In: a policy. Out: a process that tells and answers until SIGTERM or SIGINT. All that may
//! be refused is opened before READY=1 is said and before privileges are given up. Threads
//! sleep until there is something to do. One that panics ends the process in good order, so
//! that the service manager starts another, which goes on where this one was.

use crate::config::Policy;
use crate::control::client_pool;
use crate::control::peer::gid_of;
use crate::control::server::{self, Context};
use crate::control::status::{Dropped, MonitorStatus, Status};
use crate::event::bus::Bus;
use crate::event::{Event, Kind};
use crate::exit::{CONFIG, Failure, OSERR, SOFTWARE, UNAVAILABLE};
use crate::guard::gate::Decision;
use crate::guard::page::{self, Phase, Reader};
use crate::guests::GuestRequests;
use crate::monitor::guest_threads::{self, GuestThread, GuestThreads};
use crate::monitor::privileges;
use crate::monitor::reported::{self, Reported};
use crate::monitor::reporter::{Reporter, Watcher, tells};
use crate::sink;
use crate::sink::direct_log::DirectLog;
use crate::state::reset_reason::HostState;
use crate::sys::clock::Monotonic;
use crate::sys::notify::Notifier;
use crate::sys::privcmd::Privcmd;
use crate::xen;
use crate::xen::table::Table;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of stack of each thread.
const STACK: usize = 128 * 1024;
/// Events that may wait for each sink: a storm of guests makes hundreds in a second.
const QUEUE: usize = 4096;
/// How long the end may take in all: half for those who tell, the rest for the sinks.
const END: Duration = Duration::from_secs(4);
/// How often ending threads are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two turns of a watcher.
const TURN: Duration = Duration::from_millis(500);
/// Between two attempts to say READY=1 to a service manager that is busy.
const AGAIN: Duration = Duration::from_millis(100);

/// Ends, by its other end's end, when the monitor is to stop.
pub type Stop = Receiver<Infallible>;

type Queue = Receiver<Arc<Event>>;

/// What the threads share.
struct Shared {
    guests: GuestThreads,
    bus: Arc<Bus>,
    reporter: OnceLock<Reporter<'static>>,
    group: Option<u32>,
}

impl Shared {
    /// What the reporter says becomes an event, and is kept for the next boot.
    fn host(&self, what: Kind) {
        let withheld = |reason: String| Some(HostState::Withholding { reason });
        let state = match &what {
            Kind::HostWithhold { reason, .. } => withheld(reason.clone()),
            Kind::HostKickRefused { error, .. } => {
                withheld(format!("the host watchdog refused kicks: {error}"))
            }
            Kind::HostDisarmFailed { error } => {
                withheld(format!("the host watchdog could not be disarmed: {error}"))
            }
            Kind::HostGuardSilent { .. } => withheld("the guard hung or was gone".to_owned()),
            Kind::HostArmed { .. }
            | Kind::HostResumed { .. }
            | Kind::HostKickTaken { .. }
            | Kind::HostGuardBack { .. } => Some(HostState::Armed),
            Kind::HostDisarmed {} => Some(HostState::Disarmed),
            _ => None,
        };
        if let Some(state) = state {
            self.guests.host(state);
        }
        self.bus.publish(None, what);
    }

    /// All that is known; none where there never was a guard page.
    fn status(&self) -> Status {
        let now = Monotonic::now();
        let view = Reader::open(Path::new(page::PATH)).ok();
        let mut status = Status::of_page(view.as_ref().and_then(Reader::view).as_ref(), now);
        let (log_lines, syslog_messages) = sink::log::dropped();
        let reporter = self.reporter.get();
        let dropped = Dropped {
            decisions: reporter.map_or(0, Reporter::lost),
            log_lines,
            syslog_messages,
            sinks: self
                .bus
                .drops()
                .into_iter()
                .map(|(name, n)| (name.to_owned(), n))
                .collect(),
        };
        let pcpus = reporter
            .map(|reporter| reporter.pcpus(now))
            .unwrap_or_default();
        let report = self.guests.registry.report();
        status.monitor = Some(MonitorStatus::new(&report, pcpus, dropped));
        status
    }
}

/// The ends of the bus that sinks read from; attached before the first event.
struct SinkQueues {
    syslog: Option<Queue>,
    socket: (Queue, UnixStream),
    hooks: Option<Queue>,
    metrics: Option<(PathBuf, Queue)>,
}

impl SinkQueues {
    fn attach(bus: &Bus, policy: &Policy) -> io::Result<Self> {
        let attach = |name| bus.attach(name, QUEUE);
        let metrics = policy.metrics_textfile.clone();
        Ok(Self {
            syslog: policy.events.syslog.then(|| attach(sink::syslog::NAME)),
            socket: bus.attach_waking(sink::socket::NAME, QUEUE)?,
            hooks: (!policy.hooks.hooks.is_empty()).then(|| attach(sink::hooks::NAME)),
            metrics: metrics.map(|path| (path, attach(sink::metrics::NAME))),
        })
    }
}

/// Runs until told to stop. Its start may block on disks.
///
/// # Errors
/// A [`Failure`] when something cannot be had, or a thread panicked.
pub fn run(policy: &Policy) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Failure::new(OSERR, format!("cannot handle signals: {error}")))?;
    let control = bind(
        "control.socket",
        &policy.control_socket,
        &policy.control_group,
    )?;
    let events = bind(
        "events.socket",
        &policy.events.socket,
        &policy.control_group,
    )?;
    let table = map_table();
    let told = Reported::open(Path::new(reported::PATH))
        .map_err(|error| Failure::new(OSERR, format!("no memory: {error}")))?;
    let mut opened = guest_threads::open(policy);
    let first_told = std::mem::take(&mut opened.told);
    let bus = Arc::new(Bus::numbered(host_name(), Arc::clone(&opened.sequence)));
    let queues = SinkQueues::attach(&bus, policy)
        .map_err(|error| Failure::new(OSERR, format!("cannot start the sinks: {error}")))?;
    if let Err(error) = privileges::give_up(queues.hooks.is_some(), queues.metrics.is_some()) {
        log::warn!("keeping privileges that are not needed: {error}");
    }
    let shared = Arc::new(Shared {
        guests: GuestThreads::new(opened, Arc::clone(&bus), table),
        bus,
        reporter: OnceLock::new(),
        group: gid_of(&policy.control_group),
    });
    let told_to = Arc::clone(&shared);
    let publish = move |what| told_to.host(what);
    let page = Path::new(page::PATH);
    let _ = shared
        .reporter
        .set(Reporter::new(page, told, table, publish));
    let mut threads = Threads::new();
    threads.sinks(policy, &shared, queues, events);
    for what in first_told {
        shared.bus.publish(None, what);
    }
    shared.note_present();
    threads.producers(&shared, control);
    let end = threads.ends.clone();
    threads.spawn("signals", true, move || {
        // To read the configuration anew takes a restart.
        if signals.forever().any(|signal| signal != SIGHUP) {
            let _ = end.try_send(None);
        }
    });
    say_ready();
    let why = threads.ended.recv().ok().flatten();
    threads.end(&shared);
    match why {
        None => Ok(()),
        Some(thread) => {
            let text = format!("thread {thread} panicked: ending, to be started again");
            Err(Failure::new(SOFTWARE, text))
        }
    }
}

impl Shared {
    /// What the host watchdog does as this monitor starts, which is no event.
    fn note_present(&self) {
        let view = Reader::open(Path::new(page::PATH)).ok();
        let Some(status) = view.and_then(|page| page.status()) else {
            return;
        };
        self.guests.host(match (status.phase, status.decision) {
            (Phase::Starting | Phase::Disarmed, _) => HostState::Disarmed,
            (_, Decision::Kick) => HostState::Armed,
            (_, Decision::Withhold(reason)) => HostState::Withholding {
                reason: reason.to_string(),
            },
        });
    }
}

/// The service manager must hear it: a send that would block is tried again.
fn say_ready() {
    let notifier = Notifier::from_environment();
    while !notifier.tell("READY=1") {
        thread::sleep(AGAIN);
    }
}

fn map_table() -> Option<Table<'static>> {
    let privcmd = Privcmd::open().map_err(|error| log::warn!("/dev/xen/privcmd: {error}"));
    match xen::map_table(&privcmd.ok()?) {
        Ok(table) => Some(table),
        Err(why) => {
            log::warn!("guests and pCPUs are not seen: {why}");
            None
        }
    }
}

/// The threads, and how they end.
struct Threads {
    /// Those that tell of events; they end at `stop`.
    producers: Vec<JoinHandle<()>>,
    /// Those that take them; they end with the bus.
    sinks: Vec<JoinHandle<()>>,
    stop: (Sender<Infallible>, Stop),
    /// Of a socket pair, for those who wait in poll(2); and the other end.
    woken: Option<(UnixStream, UnixStream)>,
    /// Why the monitor ends: a thread's panic, or none.
    ends: Sender<Option<&'static str>>,
    ended: Receiver<Option<&'static str>>,
}

impl Threads {
    fn new() -> Self {
        let (ends, ended) = bounded(1);
        Self {
            producers: Vec::new(),
            sinks: Vec::new(),
            stop: bounded(0),
            woken: UnixStream::pair().ok(),
            ends,
            ended,
        }
    }

    fn spawn(&mut self, name: &'static str, detached: bool, body: impl FnOnce() + Send + 'static) {
        let ends = self.ends.clone();
        let contained = move || {
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                let _ = ends.try_send(Some(name));
            }
        };
        let builder = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK);
        match builder.spawn(contained) {
            Ok(_) if detached => {}
            Ok(thread) => self.producers.push(thread),
            Err(error) => {
                log::error!("cannot start thread {name}: {error}");
                let _ = self.ends.try_send(Some(name));
            }
        }
    }

    fn sinks(
        &mut self,
        policy: &Policy,
        shared: &Arc<Shared>,
        queues: SinkQueues,
        events: UnixListener,
    ) {
        let settings = sink::socket::Settings {
            keep: policy.events.keep,
            group: shared.group,
        };
        let (queue, woken) = queues.socket;
        let served = Arc::clone(shared);
        self.spawn("events-socket", false, move || {
            sink::socket::run(&events, &queue, &woken, &settings, &served.bus);
        });
        if let Some(queue) = queues.syslog {
            let logged = Arc::clone(shared);
            self.spawn("events-syslog", false, move || {
                let direct = DirectLog::new().is_journal();
                let told = |event: &Event| direct && tells(&event.what);
                let sockets = sink::syslog::Sockets::default();
                sink::syslog::run(&queue, &sockets, &logged.bus, told);
            });
        }
        if let Some(queue) = queues.hooks {
            let hooks = policy.hooks.clone();
            let hooked = Arc::clone(shared);
            self.spawn("hooks", false, move || {
                let cgroup = sink::hooks::cgroup::own_directory();
                let cgroup = cgroup.as_deref();
                sink::hooks::run(&queue, &hooks.hooks, hooks.concurrency, cgroup, &hooked.bus);
            });
        }
        if let Some((path, queue)) = queues.metrics {
            let measured = Arc::clone(shared);
            self.spawn("metrics", false, move || {
                let gather = || (measured.status(), measured.guests.registry.report());
                sink::metrics::run(&path, &queue, &measured.bus, gather);
            });
        }
        self.sinks = std::mem::take(&mut self.producers);
    }

    fn producers(&mut self, shared: &Arc<Shared>, control: UnixListener) {
        let parts = [
            ("guests", GuestThread::Guests),
            ("names", GuestThread::Names),
            ("state", GuestThread::State),
        ];
        for (name, part) in parts {
            let shared = Arc::clone(shared);
            self.spawn(name, false, move || shared.guests.run(part));
        }
        if let Some(woken) = self
            .woken
            .as_ref()
            .and_then(|(end, _)| end.try_clone().ok())
        {
            let asked = Arc::clone(shared);
            self.spawn("control", false, move || {
                let context = Context {
                    status: &|| asked.status(),
                    guests: &asked.guests.registry,
                    group: asked.group,
                };
                server::run(&control, &context, &woken);
            });
        }
        self.watchers(shared);
    }

    /// One watcher on each vCPU that this process may run on.
    fn watchers(&mut self, shared: &Arc<Shared>) {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(is_allowed).collect();
        let all = u32::try_from(cpus.len()).unwrap_or(u32::MAX).max(1);
        for (cpu, n) in cpus.into_iter().zip(0u32..) {
            let (watching, stop) = (Arc::clone(shared), self.stop.1.clone());
            self.spawn("watcher", false, move || {
                let mut set = CpuSet::new();
                let pinned = set
                    .set(cpu)
                    .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
                if let Err(errno) = pinned {
                    log::warn!("a watcher is not pinned to cpu {cpu}: {}", errno.desc());
                }
                if let Some(reporter) = watching.reporter.get() {
                    watch(reporter, &watching.bus, &stop, TURN / all * n);
                }
            });
        }
    }

    /// Ends all threads. Nothing that hangs may hold up the end: what has not ended in time
    /// is left behind, and said.
    fn end(self, shared: &Shared) {
        let deadline = Instant::now() + END;
        drop(self.stop);
        drop(self.woken);
        let saved = shared.guests.finish(deadline - END / 2);
        wait(&self.producers, deadline - END / 2);
        shared.bus.close(deadline);
        wait(&self.sinks, deadline + LOOK_EVERY);
        let threads = self.producers.iter().chain(&self.sinks);
        let stuck = threads.filter(|thread| !thread.is_finished());
        let names: Vec<&str> = stuck.filter_map(|thread| thread.thread().name()).collect();
        if !names.is_empty() {
            log::warn!("ending without threads that do not: {}", names.join(", "));
        }
        if !saved {
            log::error!("the disk does not take the state in time; leaving without");
        }
    }
}

/// Turns until it is to stop, the first time after `offset`, so that the watchers of all
/// vCPUs look one after the other.
fn watch(reporter: &Reporter<'_>, bus: &Bus, stop: &Stop, offset: Duration) {
    let mut watcher = Watcher::new(reporter);
    let mut next = Instant::now() + offset;
    while stop.recv_deadline(next) == Err(RecvTimeoutError::Timeout) {
        watcher.turn(Monotonic::now());
        bus.report_drops();
        next = (next + TURN).max(Instant::now());
    }
}

/// Waits until all of the threads have ended, at most until `deadline`.
fn wait(threads: &[JoinHandle<()>], deadline: Instant) {
    while !threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
}

fn bind(key: &str, path: &Path, group: &str) -> Result<UnixListener, Failure> {
    client_pool::bind(path, group).map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::AlreadyExists => CONFIG,
            _ => UNAVAILABLE,
        };
        Failure::new(code, format!("{key}: {}: {error}", path.display()))
    })
}

fn host_name() -> Arc<str> {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned()).into()
}
