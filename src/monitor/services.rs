// SPDX-License-Identifier: GPL-2.0-only
//! The ordinary threads: everything that the guard can live without.
//!
//! In: a policy, the ledger. Out: words for people, events, answers. Everything that may
//! block or fail is made by [`Ordinary::prepare`], before anything is armed; the threads
//! start once the host watchdog is kicked. One that does not start, or panics, is
//! reported, and the kicks go on.

use crate::config::Policy;
use crate::control::peer::gid_of;
use crate::control::server::{self, Context};
use crate::control::status::{Armed, Sources, gather};
use crate::event::bus::Bus;
use crate::event::describe::{plain, words};
use crate::event::{Event, Kind};
use crate::exit::{CONFIG, Failure, OSERR, UNAVAILABLE};
use crate::guard::ledger::Ledger;
use crate::guests::Desk;
use crate::guests::alarm::Rules;
use crate::monitor::desk::{self, GuestsDesk};
use crate::monitor::names::Names;
use crate::monitor::reporter::{self, Listener};
use crate::sink;
use crate::state::reset_reason::HostState;
use crate::state::saver::{self, Opened, Saver};
use crate::watchdog::sysfs::Attributes;
use crate::xen::Hypervisor;
use crossbeam_channel::Receiver;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of stack of each thread.
const STACK: usize = 128 * 1024;
/// Events that may wait for each sink: a storm of guests makes hundreds in a second.
const QUEUE: usize = 4096;

/// How long those who tell of events may take to end: the state's last save is among them.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// How long sinks may take for what is queued, and once more after they were told to stop.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// How often ending threads are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

type Queue = Receiver<Arc<Event>>;

/// Kind the ordinary threads share.
struct Shared {
    ledger: Arc<Ledger>,
    names: Names,
    desk: GuestsDesk,
    bus: Arc<Bus>,
    saver: Arc<Saver>,
    armed: Armed,
    group: Option<u32>,
    stop: AtomicBool,
}

/// The ends of the bus that sinks read from; attached before the first event.
struct Inlets {
    syslog: Option<Queue>,
    socket: (Queue, UnixStream),
    hooks: Option<Queue>,
    metrics: Option<(PathBuf, Queue)>,
}

/// All that is made before anything is armed.
pub struct Ordinary {
    control: UnixListener,
    events: UnixListener,
    bus: Arc<Bus>,
    inlets: Inlets,
    opened: Opened,
    names: Names,
    group: Option<u32>,
    sockets: Sockets,
}

/// The sockets' files; they go with this value. Should they stay, the next start replaces
/// them.
struct Sockets(Vec<PathBuf>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Ordinary {
    /// Binds the sockets, reads the state, attaches the sinks. May block on disks and on
    /// the group database.
    ///
    /// # Errors
    /// A [`Failure`] when a socket cannot be had.
    pub fn prepare(policy: &Policy) -> Result<Self, Failure> {
        let mut sockets = Sockets(Vec::new());
        let mut bind = |key: &str, path: &Path| {
            let listener = bind(key, path, &policy.control_group)?;
            sockets.0.push(path.to_owned());
            Ok(listener)
        };
        let control = bind("control.socket", &policy.control_socket)?;
        let events = bind("events.socket", &policy.events.socket)?;
        let fired = Attributes::read(Path::new("/sys"), &policy.device).card_reset;
        let opened = saver::open(&policy.state_directory, rules(policy), desk::now(), fired);
        // As events they are told only once the host watchdog is armed, which may fail.
        for what in &opened.told {
            log::warn!("{}", plain(&words(what)));
        }
        let bus = Arc::new(Bus::numbered(host_name(), Arc::clone(&opened.sequence)));
        let inlets = Inlets::attach(&bus, policy)
            .map_err(|error| Failure::new(OSERR, format!("cannot start the sinks: {error}")))?;
        Ok(Self {
            control,
            events,
            bus,
            inlets,
            opened,
            names: Names::default(),
            group: gid_of(&policy.control_group),
            sockets,
        })
    }

    /// Starts the threads. `eyes` are the narrator's own.
    #[must_use]
    pub fn start(
        self,
        policy: &Policy,
        ledger: &Arc<Ledger>,
        armed: Armed,
        eyes: Option<Box<dyn Hypervisor>>,
    ) -> Running {
        let bus = Arc::clone(&self.bus);
        let publish = move |happening: crate::guests::Happening| {
            bus.publish(Some(happening.guest), None, happening.what);
        };
        let saver = Arc::clone(&self.opened.saver);
        let desk = GuestsDesk::new(self.opened.registry, saver, Box::new(publish));
        let shared = Arc::new(Shared {
            ledger: Arc::clone(ledger),
            names: self.names,
            desk,
            bus: self.bus,
            saver: self.opened.saver,
            armed,
            group: self.group,
            stop: AtomicBool::new(false),
        });
        let sinks = start_sinks(policy, &shared, self.inlets, self.events);
        self.opened.told.into_iter().for_each(|what| {
            shared.tell(what);
        });
        shared.tell(shared.armed.event());
        shared.saver.host(HostState::Armed);
        let tellers = start_tellers(&shared, self.control, eyes);
        Running {
            shared,
            tellers,
            sinks,
            _sockets: self.sockets,
        }
    }
}

/// The threads.
pub struct Running {
    shared: Arc<Shared>,
    /// Those that publish events; they end with the kicker.
    tellers: Vec<JoinHandle<()>>,
    /// Those that take them; they end with the bus.
    sinks: Vec<JoinHandle<()>>,
    _sockets: Sockets,
}

impl Running {
    /// Waits for the threads, once the kicker has ended. The host is no longer guarded then, so
    /// nothing that hangs may hold up the daemon's end: what has not ended in time is left
    /// behind, and said.
    pub fn join(self) {
        let told = wait(&self.tellers, LAST_WORDS);
        self.shared.bus.close();
        let mut taken = wait(&self.sinks, LAST_EVENTS);
        if !taken {
            self.shared.stop.store(true, Ordering::Relaxed);
            taken = wait(&self.sinks, LAST_EVENTS);
        }
        if !(told && taken) {
            let threads = self.tellers.iter().chain(&self.sinks);
            let stuck = threads.filter(|thread| !thread.is_finished());
            let names = stuck.filter_map(|thread| thread.thread().name());
            let names = names.collect::<Vec<_>>().join(", ");
            log::warn!("ending without threads that do not: {names}");
        }
    }
}

/// Waits until all of the threads have ended, at most `patience`; says whether they have.
fn wait(threads: &[JoinHandle<()>], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if threads.iter().all(JoinHandle::is_finished) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl Shared {
    fn tell(&self, what: Kind) {
        self.bus.publish(None, None, what);
    }

    fn sources(&self) -> Sources<'_> {
        Sources {
            armed: &self.armed,
            ledger: &self.ledger,
            names: &self.names,
            bus: Some(&*self.bus),
        }
    }
}

/// Kind the narrator says becomes events, and last words for the next boot.
impl Listener for Shared {
    fn host(&self, what: Kind) {
        match &what {
            Kind::HostWithhold { reason, .. } => self.saver.host(HostState::Withholding {
                reason: reason.clone(),
            }),
            Kind::HostResumed { .. } => self.saver.host(HostState::Armed),
            Kind::HostDisarmed {} => self.saver.host(HostState::Disarmed),
            _ => {}
        }
        self.tell(what);
    }

    fn turn(&self) {
        self.bus.report_drops();
    }
}

impl Inlets {
    fn attach(bus: &Bus, policy: &Policy) -> io::Result<Self> {
        let attach = |name| bus.attach(name, QUEUE);
        let metrics = policy.metrics_textfile.clone();
        let hooks = !policy.hooks.hooks.is_empty();
        Ok(Self {
            syslog: policy.events.syslog.then(|| attach(sink::syslog::NAME)),
            socket: bus.attach_waking(sink::socket::NAME, QUEUE)?,
            hooks: hooks.then(|| attach(sink::hooks::NAME)),
            metrics: metrics.map(|path| (path, attach(sink::metrics::NAME))),
        })
    }
}

fn bind(key: &str, path: &Path, group: &str) -> Result<UnixListener, Failure> {
    server::bind(path, group).map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::AlreadyExists => CONFIG,
            _ => UNAVAILABLE,
        };
        Failure::new(code, format!("{key}: {}: {error}", path.display()))
    })
}

fn rules(policy: &Policy) -> Rules {
    let ns = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    Rules {
        clear_after_feeds: policy.guests.clear_after_feeds,
        clear_after_ns: ns(policy.guests.clear_after),
        boot_deadline_ns: ns(policy.guests.boot_deadline),
        ..Rules::default()
    }
}

fn host_name() -> Arc<str> {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned()).into()
}

fn start_sinks(
    policy: &Policy,
    shared: &Arc<Shared>,
    inlets: Inlets,
    listener: UnixListener,
) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    let settings = sink::socket::Settings {
        keep: policy.events.keep,
        group: shared.group,
    };
    let (queue, woken) = inlets.socket;
    let served = Arc::clone(shared);
    threads.extend(spawn("events-socket", move || {
        let Shared { bus, stop, .. } = &*served;
        sink::socket::run(&listener, &queue, &woken, &settings, bus, stop);
    }));
    if let Some(queue) = inlets.syslog {
        let logged = Arc::clone(shared);
        threads.extend(spawn("events-syslog", move || {
            let Shared { bus, stop, .. } = &*logged;
            sink::syslog::run(&queue, &sink::syslog::Places::default(), bus, stop);
        }));
    }
    if let Some(queue) = inlets.hooks {
        let hooks = policy.hooks.clone();
        let hooked = Arc::clone(shared);
        threads.extend(spawn("hooks", move || {
            let Shared { bus, stop, .. } = &*hooked;
            let cgroup = sink::hooks::cgroup::own_directory();
            let cgroup = cgroup.as_deref();
            sink::hooks::run(&queue, &hooks.hooks, hooks.concurrency, cgroup, bus, stop);
        }));
    }
    if let Some((path, queue)) = inlets.metrics {
        let measured = Arc::clone(shared);
        threads.extend(spawn("metrics", move || {
            let Shared { bus, stop, .. } = &*measured;
            let gather = || (gather(&measured.sources()), measured.desk.report());
            sink::metrics::run(&path, &queue, bus, gather, stop);
        }));
    }
    threads
}

fn start_tellers(
    shared: &Arc<Shared>,
    control: UnixListener,
    eyes: Option<Box<dyn Hypervisor>>,
) -> Vec<JoinHandle<()>> {
    let [narrated, named, asked] = [(); 3].map(|()| Arc::clone(shared));
    let threads = [
        spawn("narrator", move || {
            let timeout_ns = narrated.armed.timeout_ns;
            reporter::run(&narrated.ledger, timeout_ns, eyes, &*narrated);
        }),
        spawn("names", move || named.names.run(&named.ledger.ended)),
        spawn("control", move || {
            let context = Context {
                sources: asked.sources(),
                desk: &asked.desk,
                group: asked.group,
            };
            server::run(&control, &context);
        }),
    ];
    threads.into_iter().flatten().collect()
}

fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let contained = move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            log::error!("thread {name} panicked and is gone; the kicks are not affected");
        }
    };
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    match thread.spawn(contained) {
        Ok(thread) => Some(thread),
        Err(error) => {
            log::error!("cannot start thread {name}: {error}; the kicks are not affected");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn a_thread_that_does_not_end_is_not_waited_for() {
        let (end, ended) = bounded::<()>(0);
        let stuck = spawn("stuck", move || {
            let _ = ended.recv();
        });
        let threads: Vec<_> = stuck.into_iter().collect();
        assert!(!wait(&threads, Duration::from_millis(30)));
        drop(end);
        assert!(wait(&threads, Duration::from_secs(60)));
    }
}
