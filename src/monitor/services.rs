// SPDX-License-Identifier: GPL-2.0-only
//! The monitor's start, its threads, and its end.
//!
//! In: a policy. Out: a process that tells and answers until SIGTERM or SIGINT. All that may
//! be refused is opened before READY=1 is said and before privileges are given up. Threads
//! sleep until there is something to do. One that panics ends the process in good order, so
//! that the service manager starts another, which goes on where this one was.

use crate::config::Policy;
use crate::control;
use crate::control::client_pool;
use crate::control::inhibit;
use crate::control::peer::gid_of;
use crate::control::protocol::Told;
use crate::control::server::{self, Context, MonitorContext};
use crate::control::status::{Dropped, MonitorStatus, Status};
use crate::control::tell::Tellers;
use crate::event::bus::Bus;
use crate::event::{Event, Kind, host_name};
use crate::exit::{CONFIG, Failure, IOERR, OSERR, SOFTWARE, UNAVAILABLE};
use crate::guard::page::{self, Reader};
use crate::guests::GuestRequests;
use crate::monitor::guest_threads::{self, GuestThreads};
use crate::monitor::open_alarms::OpenAlarms;
use crate::monitor::privileges::Kept;
use crate::monitor::recorder::{self, Recorder};
use crate::monitor::reported::{self, Reported};
use crate::monitor::reporter::{Reporter, Seen, Watcher, tells};
use crate::monitor::{evidence, host_state, leases, privileges, table};
use crate::sink;
use crate::sink::direct_log::DirectLog;
use crate::sink::kmsg::{self, Kmsg};
use crate::state::drill::{self, Drills, Measured};
use crate::state::history::Resets;
use crate::state::reset_reason::HostState;
use crate::sys::clock::{Monotonic, NS_PER_MS};
use crate::sys::notify::Notifier;
use crate::sys::realtime::give_back_memory;
use crate::xen::table::Table;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
/// Between two turns of a watcher where something is wrong, ns.
const TURN_NS: u64 = 500 * NS_PER_MS;
/// Between those of two watchers, at most, where nothing is, ns.
const TURN_WELL_NS: u64 = 1_000 * NS_PER_MS;
/// Where nothing is wrong a watcher turns so often at least, however many share the work, ns: one that is left alone by a wedge has begun
/// to tell of it long before the host goes down.
const LONGEST_NS: u64 = 2_000 * NS_PER_MS;
/// Between two looks for vCPUs that came online.
const SUPERVISE: Duration = Duration::from_secs(20);
/// Between two attempts to say READY=1 to a service manager that is busy.
const AGAIN: Duration = Duration::from_millis(100);

type Queue = Receiver<Arc<Event>>;

/// What the threads share.
struct Shared {
    guests: GuestThreads,
    recorder: Arc<Recorder>,
    resets: Resets,
    measured: Option<Measured>,
    bus: Arc<Bus>,
    reporter: OnceLock<Reporter<'static>>,
    group: Option<u32>,
}

impl Shared {
    /// What the reporter says becomes an event, and is kept for the next boot.
    fn host(self: &Arc<Self>, what: Kind) {
        if let Some(state) = host_state::of_event(&what, host_state::present()) {
            self.keep(state);
        }
        self.bus.publish(None, what);
    }

    /// What the host watchdog does as this monitor starts, which is no event.
    fn note_present(self: &Arc<Self>) {
        if let Some(state) = host_state::present() {
            self.keep(state);
        }
    }

    /// Keeps what the host watchdog does; where kicks end, also what is so just then.
    fn keep(self: &Arc<Self>, state: HostState) {
        let shared = Arc::clone(self);
        let gather = move || evidence::gather(shared.reporter.get(), &shared.guests.registry);
        self.recorder.host(&state, gather);
        self.guests.host(state);
    }

    /// All that is known; none where there never was a guard page.
    fn status(&self) -> Status {
        let now = Monotonic::now();
        let view = Reader::view_at(Path::new(page::PATH));
        let drills = Drills::new(self.measured.clone(), Path::new(drill::RUN));
        let mut status = Status::of_page(view.as_ref(), Some(&drills), now);
        inhibit::tell(&mut status, Path::new(inhibit::PATH));
        status.leases = control::leases::of_page(Path::new(leases::page::PATH), now);
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
        status.monitor = Some(MonitorStatus::new(
            &report,
            pcpus,
            self.guests.saving(),
            dropped,
        ));
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
/// A [`Failure`] when something cannot be had, a thread panicked, or state is not saved.
pub fn run(policy: &Policy) -> Result<(), Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| Failure::new(OSERR, format!("cannot handle signals: {error}")))?;
    let group = &policy.control_group;
    let control = bind("control.socket", &policy.control_socket, group)?;
    let events = bind("events.socket", &policy.events.socket, group)?;
    let table = table::map();
    let (shared, queues, first_events) = open(policy)?;
    let mut threads = Threads::new();
    threads.sinks(policy, &shared, queues, events);
    for what in first_events {
        shared.bus.publish(None, what);
    }
    let mux = policy.leases.mux.as_ref().map(|(path, _)| path.clone());
    threads.leases(&shared, mux);
    shared.note_present();
    threads.producers(&shared, control, table);
    threads.signals(signals);
    threads.say_ready();
    give_back_memory();
    let panicked = threads.supervise(&shared);
    let saved = threads.end(&shared);
    if let Some(thread) = panicked {
        let text = format!("thread {thread} panicked: ending, to be started again");
        return Err(Failure::new(SOFTWARE, text));
    }
    saved.map_err(|why| Failure::new(IOERR, format!("the state is not saved: {why}")))
}

/// Opens what was kept, and gives up privileges. Gives what the threads share, the sinks'
/// queues, and the events to tell first.
fn open(policy: &Policy) -> Result<(Arc<Shared>, SinkQueues, Vec<Kind>), Failure> {
    let reported = Reported::open(Path::new(reported::PATH))
        .map_err(|error| Failure::new(OSERR, format!("no memory: {error}")))?;
    let kmsg = Kmsg::open(Path::new(kmsg::PATH));
    let mut opened = guest_threads::open(policy);
    let recorder = Recorder::new(
        opened.saver.store().clone(),
        opened.saver.boot_id(),
        Path::new(recorder::CONSOLE),
        kmsg.inspect_err(|error| log::warn!("{}: {error}", kmsg::PATH))
            .ok(),
    );
    let first_events = std::mem::take(&mut opened.told);
    let bus = Arc::new(Bus::numbered(host_name(), Arc::clone(&opened.sequence)));
    let queues = SinkQueues::attach(&bus, policy)
        .map_err(|error| Failure::new(OSERR, format!("cannot start the sinks: {error}")))?;
    let kept = Kept {
        hooks: queues.hooks.is_some(),
        metrics: queues.metrics.is_some(),
        // The guard may be given leases while this monitor runs.
        leases: true,
    };
    if let Err(error) = privileges::give_up(kept) {
        log::warn!("keeping privileges that are not needed: {error}");
    }
    let shared = Arc::new(Shared {
        recorder: Arc::new(recorder),
        resets: std::mem::take(&mut opened.resets),
        measured: opened.measured.take(),
        guests: GuestThreads::new(opened, Arc::clone(&bus)),
        bus,
        reporter: OnceLock::new(),
        group: gid_of(&policy.control_group),
    });
    let publisher = Arc::clone(&shared);
    let publish = move |what| publisher.host(what);
    let reporter = Reporter::new(Path::new(page::PATH), reported, publish);
    let _ = shared.reporter.set(reporter);
    Ok((shared, queues, first_events))
}

/// The threads, and how they end.
struct Threads {
    /// Those that tell of events; they end at `stop`.
    producers: Vec<JoinHandle<()>>,
    /// The one that serves leases, and what it waits for: first to begin and last to end, as a strict lease lapses while nobody
    /// serves it.
    leases: Option<(JoinHandle<()>, UnixStream)>,
    /// Those that take them; they end with the bus.
    sinks: Vec<JoinHandle<()>>,
    /// Of a socket pair, for those that wait in poll(2): hung up when they are to stop, by the other end's end.
    woken: Option<(UnixStream, UnixStream)>,
    /// Why the monitor ends: a thread's panic, or none.
    ends: Sender<Option<&'static str>>,
    ended: Receiver<Option<&'static str>>,
    /// vCPUs that have a watcher, and those that were online when that was looked at last.
    watched: BTreeSet<usize>,
    online: CpuSet,
}

impl Threads {
    fn new() -> Self {
        let (ends, ended) = bounded(1);
        Self {
            producers: Vec::new(),
            leases: None,
            sinks: Vec::new(),
            woken: UnixStream::pair().ok(),
            ends,
            ended,
            watched: BTreeSet::new(),
            online: CpuSet::new(),
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

    fn producers(
        &mut self,
        shared: &Arc<Shared>,
        control: UnixListener,
        table: Result<Table<'static>, String>,
    ) {
        let [looks, names, saves] = [(); 3].map(|()| Arc::clone(shared));
        self.spawn("guests", false, move || {
            let reporter = looks.reporter.get();
            let see = |table| _ = reporter.map(|reporter| reporter.see(table));
            looks.guests.look(table, see);
        });
        self.spawn("names", false, move || names.guests.read_names());
        self.spawn("state", false, move || saves.guests.save());
        // Its end is asked for as that of a panic: a monitor that answers nobody is none.
        let Some(woken) = self.its_end() else {
            log::error!("control: nothing would end it");
            let _ = self.ends.try_send(Some("control"));
            return;
        };
        let asked = Arc::clone(shared);
        let tellers = Tellers::known();
        let open = Mutex::new(OpenAlarms::default());
        self.spawn("control", false, move || {
            let monitor = MonitorContext {
                status: &|| asked.status(),
                resets: &asked.resets,
                tellers: &tellers,
                publish: &|told: Told| {
                    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                    open.take(&told)?;
                    Ok(asked.bus.publish(told.guest, told.what))
                },
            };
            let context = Context {
                guests: &asked.guests.registry,
                monitor: Some(monitor),
                group: asked.group,
            };
            server::run(&control, &context, &woken);
        });
        self.watchers(shared);
    }

    /// Serves the leases of the guard, whichever they are.
    fn leases(&mut self, shared: &Arc<Shared>, mux: Option<PathBuf>) {
        let pair = UnixStream::pair();
        let Ok((stop, woken)) = pair.inspect_err(|error| log::error!("leases: {error}")) else {
            let _ = self.ends.try_send(Some("leases"));
            return;
        };
        let told = Arc::clone(shared);
        self.spawn("leases", false, move || {
            let publish = |what| _ = told.bus.publish(None, what);
            leases::run(Path::new(leases::page::PATH), mux, &publish, &woken);
        });
        self.leases = self.producers.pop().map(|thread| (thread, stop));
    }

    fn signals(&mut self, mut signals: Signals) {
        let end = self.ends.clone();
        self.spawn("signals", true, move || {
            // To read the configuration anew takes a restart.
            if signals.forever().any(|signal| signal != SIGHUP) {
                let _ = end.try_send(None);
            }
        });
    }

    /// Waits for the end, and gives the name of the thread that panicked, if one did. A vCPU
    /// that comes online meanwhile gets a watcher.
    /// What wakes another thread when all shall end; none: nothing would end it.
    fn its_end(&self) -> Option<UnixStream> {
        self.woken.as_ref()?.0.try_clone().ok()
    }

    /// The service manager must hear it: a send that would block is tried again, until the end is asked for.
    fn say_ready(&self) {
        let notifier = Notifier::from_environment();
        while self.ended.is_empty() && !notifier.tell("READY=1") {
            thread::sleep(AGAIN);
        }
    }

    fn supervise(&mut self, shared: &Arc<Shared>) -> Option<&'static str> {
        loop {
            match self.ended.recv_timeout(SUPERVISE) {
                Err(RecvTimeoutError::Timeout) => self.watchers(shared),
                ended => return ended.ok().flatten(),
            }
        }
    }

    /// A watcher on each vCPU that this process may run on and that has none yet. The kernel
    /// names only those that are online (kernel/sched/syscalls.c, sched_getaffinity()).
    fn watchers(&mut self, shared: &Arc<Shared>) {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        if std::mem::replace(&mut self.online, allowed) == allowed {
            return;
        }
        let is_new =
            |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false) && !self.watched.contains(cpu);
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(is_new).collect();
        let all = u64::try_from(cpus.len()).unwrap_or(u64::MAX).max(1);
        let each_ns = turns_each_ns(self.watched.len() + cpus.len());
        for (cpu, n) in cpus.into_iter().zip(0u64..) {
            let Some(stop) = self.its_end() else {
                log::error!("cpu {cpu} has no watcher yet: nothing would end it");
                self.online = CpuSet::new();
                continue;
            };
            self.watched.insert(cpu);
            let watching = Arc::clone(shared);
            self.spawn("watcher", false, move || {
                if let Err(errno) = pin(cpu) {
                    log::warn!("a watcher is not pinned to cpu {cpu}: {}", errno.desc());
                }
                watch(&watching, &stop, cpu, (each_ns, each_ns / all * n));
            });
        }
    }

    /// Ends all threads. Nothing that hangs may hold up the end: what has not ended in time
    /// is left behind, and said.
    fn end(self, shared: &Shared) -> Result<(), String> {
        let deadline = Instant::now() + END;
        drop(self.woken);
        let saved = shared.guests.finish(deadline - END / 2);
        wait(&self.producers, deadline - END / 2);
        shared.bus.close(deadline);
        wait(&self.sinks, deadline + LOOK_EVERY);
        let leases = self.leases.map(|(thread, stop)| {
            drop(stop);
            wait(slice::from_ref(&thread), Instant::now() + END / 4);
            thread
        });
        let threads = self.producers.iter().chain(&self.sinks).chain(&leases);
        let stuck = threads.filter(|thread| !thread.is_finished());
        let names: Vec<&str> = stuck.filter_map(|thread| thread.thread().name()).collect();
        if !names.is_empty() {
            log::warn!("ending without threads that do not: {}", names.join(", "));
        }
        saved
    }
}

/// How often each of so many watchers turns while nothing is wrong, ns.
fn turns_each_ns(watchers: usize) -> u64 {
    let all = u64::try_from(watchers).unwrap_or(u64::MAX);
    TURN_WELL_NS
        .saturating_mul(all)
        .clamp(TURN_WELL_NS, LONGEST_NS)
}

/// Turns each so often until it is to stop, the first time after `offset`, so that the watchers of all
/// vCPUs look one after the other. A vCPU that was offline has lost its watcher to others.
fn watch(shared: &Shared, stop: &UnixStream, cpu: usize, (each_ns, offset_ns): (u64, u64)) {
    let Some(reporter) = shared.reporter.get() else {
        return;
    };
    let mut watcher = Watcher::new(reporter);
    let mut now = watcher.now();
    let begins = now.plus_ns(offset_ns);
    let mut next = begins;
    while !is_over(stop, next.since_ns(now)) {
        if sched_getcpu() != Ok(cpu) {
            let _ = pin(cpu);
        }
        now = watcher.now();
        let seen = watcher.turn(now);
        shared.bus.report_drops_at(now);
        // To look at guests may take long, or hang, where something is wrong.
        match seen {
            Seen::Well => shared.guests.look_while_idle(now),
            Seen::Told | Seen::Wrong => shared.guests.look_yourself(),
        }
        // A reading of the clock is a system call, where Xen keeps it: to look takes no time, to tell may.
        if seen != Seen::Well {
            now = watcher.now();
        }
        next = match seen {
            Seen::Well | Seen::Told => next_turn(begins, each_ns, now),
            Seen::Wrong => next.plus_ns(TURN_NS).max(now),
        };
    }
}

/// Waits for so long at most, or until `stop` is hung up. Whether it is.
fn is_over(stop: &UnixStream, ns: u64) -> bool {
    // Rounded up, so that the moment has come by then.
    let ms = u16::try_from(ns.div_ceil(NS_PER_MS)).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    // An interrupted or failed wait only makes the turn come early.
    let _ = poll(&mut fds, PollTimeout::from(ms));
    let [stop] = fds;
    stop.any().unwrap_or(false)
}

/// The next of a watcher's own turns. They are counted from its first, so that those of several stay between each other, whatever was wrong
/// for a while.
fn next_turn(begins: Monotonic, each_ns: u64, now: Monotonic) -> Monotonic {
    let turns = now.since_ns(begins) / each_ns.max(1) + 1;
    begins.plus_ns(each_ns.saturating_mul(turns))
}

/// Binds this thread to a vCPU.
fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::reporter::RECENT_NS;

    const MS: u64 = NS_PER_MS;

    #[test]
    fn watchers_share_the_looks_and_any_that_is_left_looks_within_two_seconds() {
        for watchers in 1..=256_u64 {
            let each = turns_each_ns(usize::try_from(watchers).expect("few"));
            assert!(each <= 2_000 * MS, "{watchers}: {each}");
            assert!(each / watchers <= TURN_WELL_NS, "{watchers}: {each}");
            assert!(watchers > 2 || each / watchers == TURN_WELL_NS);
        }
    }

    #[test]
    fn a_guard_that_falls_silent_at_any_moment_is_noticed_within_a_second_and_a_half() {
        let begun = Monotonic(77);
        for watchers in 1..=8_u64 {
            let each = turns_each_ns(usize::try_from(watchers).expect("few"));
            for last_ms in (10_000..12_000).step_by(10) {
                let last = begun.plus_ns(last_ms * MS);
                let notices = (0..watchers).map(|n| {
                    let begins = begun.plus_ns(each / watchers * n);
                    let mut now = begins;
                    while now.since_ns(last) <= 1_000 * MS {
                        now = match now.since_ns(last) <= RECENT_NS {
                            true => next_turn(begins, each, now),
                            false => now.plus_ns(TURN_NS),
                        };
                    }
                    now.since_ns(last)
                });
                assert!(notices.min() <= Some(1_500 * MS), "{watchers}, {last_ms}");
            }
        }
    }

    #[test]
    fn watchers_take_turns_again_once_what_was_wrong_is_over() {
        let begun = Monotonic(77);
        let at = |ms: u64| begun.plus_ns(ms * MS);
        for watchers in [2, 4, 8] {
            let each = turns_each_ns(usize::try_from(watchers).expect("few"));
            let mut looks = Vec::new();
            for n in 0..watchers {
                let begins = begun.plus_ns(each / watchers * n);
                // Something is wrong from the first second to the fourth, and each look takes a while.
                let mut next = begins;
                while next < at(60_000) {
                    let now = next.plus_ns(7 * MS);
                    let is_well = !(at(1_000)..at(4_000)).contains(&now);
                    if now > at(10_000) {
                        looks.push(next);
                    }
                    next = match is_well {
                        true => next_turn(begins, each, now),
                        false => next.plus_ns(TURN_NS).max(now),
                    };
                }
            }
            looks.sort();
            let gaps = looks.windows(2).map(|pair| pair[1].since_ns(pair[0]));
            assert!(gaps.max() <= Some(TURN_WELL_NS), "{watchers}");
        }
    }
}
