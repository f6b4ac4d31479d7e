// SPDX-License-Identifier: GPL-2.0-only
//! The start of xenwarden-qemu, its threads, and its end.
//!
//! In: a policy. Out: a process that follows its VMs until SIGTERM or SIGINT. All that may be
//! refused is opened before READY=1 is said. A thread that panics ends the process, so that the
//! service manager starts another, which goes on where this one was. A thread that hangs shows in
//! the age of the evidence; a process that does, to the service manager's watchdog.

use super::config::{Policy, PolicyVm};
use super::feeds::{Trace, not_mounted};
use super::hypervisor::Hypervisor;
use super::log_file;
use super::pace::Lines;
use super::session::Session;
use super::teller;
use super::vms::Vms;
use crate::control::client_pool;
use crate::control::peer::gid_of;
use crate::control::server::{self, Context};
use crate::exit::{CONFIG, Failure, IOERR, OSERR, SOFTWARE, UNAVAILABLE};
use crate::state::store::Store;
use crate::sys::notify::Notifier;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of stack of each thread: a schema is parsed on it.
const STACK: usize = 512 * 1024;
/// Between two signs of life to the service manager.
const BEAT: Duration = Duration::from_secs(5);
/// Between two attempts to say READY=1 to a service manager that is busy.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the threads may take to end: each switches a trace off.
const END: Duration = Duration::from_secs(5);

/// How long the last save may take.
const SAVE: Duration = Duration::from_secs(2);

/// A thread that has ended: its name, if it panicked.
type Ended = Option<String>;

struct Threads {
    threads: Vec<JoinHandle<()>>,
    ends: Sender<Ended>,
    ended: Receiver<Ended>,
    /// Its end wakes all who wait.
    stop: Option<UnixStream>,
    stopped: UnixStream,
}

/// Runs until told to stop.
///
/// # Errors
/// A [`Failure`] when something cannot be had, a thread panicked, or state is not saved.
pub fn run(policy: &Policy) -> Result<(), Failure> {
    let os = |what: &str, error: io::Error| Failure::new(OSERR, format!("{what}: {error}"));
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| os("cannot handle signals", error))?;
    let control = client_pool::bind(&policy.control_socket, &policy.control_group);
    let control = control.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::AlreadyExists => CONFIG,
            _ => UNAVAILABLE,
        };
        let path = policy.control_socket.display();
        Failure::new(code, format!("control.socket: {path}: {error}"))
    })?;
    let hypervisor = Arc::new(open_hypervisor());
    say_bound(policy);
    let monitor = Some(policy.monitor_socket.clone());
    let (tell, telling) = teller::start(monitor, &policy.control_socket)
        .map_err(|error| os("cannot start a thread", error))?;
    let names: Vec<_> = policy
        .vms
        .iter()
        .map(|vm| (vm.name.clone(), vm.uuid))
        .collect();
    let store = Store::new(&policy.state_directory);
    let vms = Arc::new(Vms::open(&names, store, policy.rules, tell));
    // What cannot be saved now cannot be later.
    let saving = |error| {
        let path = policy.state_directory.display();
        Failure::new(IOERR, format!("state.directory: {path}: {error}"))
    };
    vms.write().map_err(saving)?;
    let saved = Arc::clone(&vms);
    // It ends with the process, as it may hang.
    let saver = thread::Builder::new().name("state".to_owned());
    let saver = saver.spawn(move || saved.save_for_ever());
    let _ = saver.map_err(|error| os("cannot start a thread", error))?;
    let mut threads = Threads::new().map_err(|error| os("no socket pair", error))?;
    for (n, vm) in policy.vms.iter().enumerate() {
        let directory = &policy.trace_directory;
        let trace = Trace::new(directory, policy.trace_must_be_mounted, &vm.name);
        threads.follow(n, vm, &vms, &hypervisor, trace)?;
    }
    let asked = Arc::clone(&vms);
    let group = gid_of(&policy.control_group);
    threads.spawn("control", move |stopped| {
        let context = Context {
            guests: asked.as_ref(),
            monitor: None,
            group,
        };
        server::run(&control, &context, &stopped);
    })?;
    threads.signals(signals)?;
    let panicked = threads.supervise();
    threads.end();
    let saved = vms.save_within(SAVE);
    telling.end();
    // `xenwarden guests` asks each socket that is there.
    let _ = std::fs::remove_file(&policy.control_socket);
    match panicked {
        Some(thread) => Err(Failure::new(
            SOFTWARE,
            format!("thread {thread} panicked: ending, to be started again"),
        )),
        None if saved => Ok(()),
        None => Err(saving(io::ErrorKind::TimedOut.into())),
    }
}

fn open_hypervisor() -> Hypervisor {
    if !Path::new("/sys/hypervisor/type").exists() {
        return Hypervisor::none();
    }
    let (hypervisor, trouble) = Hypervisor::open();
    if let Some(why) = trouble {
        log::warn!("an expiry while a domain is paused cannot be told from another: {why}");
    }
    hypervisor
}

fn say_bound(policy: &Policy) {
    let directory = policy.trace_directory.as_path();
    if policy.trace_must_be_mounted && !log_file::is_own(directory) {
        log::warn!(
            "feeds that QEMU does not tell of itself cannot be seen: {}",
            not_mounted(directory)
        );
        return;
    }
    if std::fs::create_dir_all(directory).is_ok() && log_file::is_bounded(directory) == Some(false)
    {
        log::info!(
            "{}: the file system is a large one: should this process die while an alarm is open, \
             QEMU's trace fills it until another is started",
            directory.display()
        );
    }
}

impl Threads {
    fn new() -> io::Result<Self> {
        let (ends, ended) = bounded(1);
        let (stop, stopped) = UnixStream::pair()?;
        Ok(Self {
            threads: Vec::new(),
            ends,
            ended,
            stop: Some(stop),
            stopped,
        })
    }

    fn spawn(
        &mut self,
        name: &str,
        body: impl FnOnce(UnixStream) + Send + 'static,
    ) -> Result<(), Failure> {
        let cannot =
            |error: io::Error| Failure::new(OSERR, format!("cannot start thread {name}: {error}"));
        let stopped = self.stopped.try_clone().map_err(cannot)?;
        let (ends, called) = (self.ends.clone(), name.to_owned());
        let contained = move || {
            if catch_unwind(AssertUnwindSafe(|| body(stopped))).is_err() {
                let _ = ends.try_send(Some(called));
            }
        };
        let builder = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK);
        self.threads.push(builder.spawn(contained).map_err(cannot)?);
        Ok(())
    }

    fn follow(
        &mut self,
        n: usize,
        vm: &PolicyVm,
        vms: &Arc<Vms>,
        hypervisor: &Arc<Hypervisor>,
        trace: Trace,
    ) -> Result<(), Failure> {
        let (vm, vms, hypervisor) = (vm.clone(), Arc::clone(vms), Arc::clone(hypervisor));
        self.spawn(&vm.name.clone(), move |stopped| {
            let mut session = Session {
                n,
                vm: &vm,
                vms: &vms,
                hypervisor: &hypervisor,
                trace,
                stop: &stopped,
                expiries: Lines::new(1),
            };
            session.run();
        })
    }

    fn signals(&mut self, mut signals: Signals) -> Result<(), Failure> {
        let ends = self.ends.clone();
        let waits = move || {
            // To read the configuration anew takes a restart.
            if signals.forever().any(|signal| signal != SIGHUP) {
                let _ = ends.try_send(None);
            }
        };
        let thread = thread::Builder::new()
            .name("signals".to_owned())
            .spawn(waits);
        thread
            .map(drop)
            .map_err(|error| Failure::new(OSERR, format!("cannot start thread signals: {error}")))
    }

    /// Waits for the end; the name of a thread that panicked.
    fn supervise(&self) -> Ended {
        let notifier = Notifier::from_environment();
        while !notifier.tell("READY=1") {
            thread::sleep(AGAIN);
        }
        loop {
            match self.ended.recv_timeout(BEAT) {
                Err(RecvTimeoutError::Timeout) => _ = notifier.tell("WATCHDOG=1"),
                ended => return ended.ok().flatten(),
            }
        }
    }

    fn end(&mut self) {
        drop(self.stop.take());
        let deadline = Instant::now() + END;
        while !self.threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}
