// SPDX-License-Identifier: GPL-2.0-only
//! The program's loop: one thread that waits in one place and carries what the member says and does.
//!
//! In: a policy. Out: a member of the pool, until SIGTERM or SIGINT. What may block does so in threads of its own: corosync
//! ([`super::ring`]), the disk ([`super::disk`]), the monitor ([`super::monitor`]), hooks ([`super::runner`]); each wakes the loop by one
//! eventfd. Never: a wait but that for events; a privilege.

use super::clients::{Clients, Context};
use super::config::Policy;
use super::disk::{Disk, Written};
use super::fencer::Fencer;
use super::log::{LogFile, Logs};
use super::monitor::Monitor;
use super::node::{Identity, Node};
use super::promises::Promises;
use super::protocol::PoolStatus;
use super::record::HostId;
use super::ring::{Event, RingThread};
use super::runner::Runner;
use super::store::Store;
use crate::control::peer::gid_of;
use crate::event::host_name;
use crate::exit::{CONFIG, Failure, NOPERM, OSERR, UNAVAILABLE};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crate::sys::corosync::{Libraries, Told, Votes};
use crate::sys::notify::{Notifier, watchdog_ns};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// How long it may take until enough others know that this host stops.
const STOP_NS: u64 = 5 * NS_PER_S;
/// The longest wait, ms.
const LONGEST_MS: u16 = 200;
/// What was not written is tried again after so long.
const AGAIN_NS: u64 = NS_PER_S;
/// What one round takes of the ring, and of the monitor.
const ROUND: usize = 512;
/// Descriptors.
const STOP: u64 = 0;
const WAKE: u64 = 1;
const LISTENER: u64 = 2;
const CLIENTS: u64 = 16;

fn refused(what: &str) -> impl Fn(&dyn Display) -> Failure {
    move |error| Failure::new(OSERR, format!("{what}: {error}"))
}

/// The id that a machine's id gives: not that itself, as machine-id(5) asks.
#[must_use]
pub fn id_of_machine(machine: &str) -> HostId {
    let digest = Sha256::digest(format!("xenwarden-pool {}", machine.trim()));
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn identity(policy: &Policy) -> Result<Identity, Failure> {
    let host = match policy.host_id {
        Some(host) => host,
        None => {
            let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
            if machine.trim().len() < 32 {
                let why = "/etc/machine-id has no id of this machine: make one (systemd-machine-id-setup), or set host_id in pool.conf";
                return Err(Failure::new(CONFIG, why));
            }
            id_of_machine(&machine)
        }
    };
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| refused("/proc/sys/kernel/random/boot_id")(&error))?;
    Ok(Identity {
        host,
        name: host_name().to_string(),
        boot_id: boot_id.trim().to_owned(),
    })
}

/// What the disk has.
struct Loaded {
    logs: Logs,
    store: Store,
    files: BTreeMap<HostId, LogFile>,
    /// This host's log lost its end.
    cut: bool,
    _lock: Flock<File>,
}

fn load(policy: &Policy, own: HostId) -> Result<Loaded, Failure> {
    let directory = &policy.state;
    let wrong =
        |error: &dyn Display| Failure::new(OSERR, format!("{}: {error}", directory.display()));
    let logs = Logs::open(directory).map_err(|e| wrong(&e))?;
    let lock = File::create(directory.join("lock")).map_err(|e| wrong(&e))?;
    let lock =
        Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => wrong(&"another xenwarden-pool uses it"),
            errno => wrong(&errno),
        })?;
    let mut store = Store::new(policy.keep);
    let mut files = BTreeMap::new();
    let mut cut = false;
    for host in logs.hosts().map_err(|e| wrong(&e))? {
        let (read, file) = logs.read(host).map_err(|e| wrong(&e))?;
        if let Some(why) = &read.cut {
            log::warn!("{why}");
            cut |= host == own;
        }
        if let Some(base) = read.base {
            store.take_base(host, base);
        }
        for stored in &read.records {
            store.take(stored);
        }
        files.insert(host, file);
    }
    store.none_moved();
    Ok(Loaded {
        logs,
        store,
        files,
        cut,
        _lock: lock,
    })
}

/// Is a member of the pool until it is told to stop.
///
/// # Errors
/// What is missing or refused at the start, by its exit code, and one line: [`UNAVAILABLE`] without corosync's libraries.
pub fn run(policy: &Policy) -> Result<(), Failure> {
    let libraries = Libraries::open().map_err(|why| Failure::new(UNAVAILABLE, why))?;
    let mut program = Program::start(policy, libraries)?;
    let notifier = Notifier::from_environment();
    let _ = notifier.tell("READY=1");
    log::info!(
        "is host {} of the pool; answers at {}",
        program.node.host(),
        policy.socket.display()
    );
    let served = program.serve(&notifier);
    let _ = notifier.tell("STOPPING=1");
    program.disk.end();
    let _ = fs::remove_file(&policy.socket);
    log::info!("has ended");
    served
}

struct Program {
    poller: Epoll,
    wake: Arc<EventFd>,
    _stop: UnixStream,
    _lock: Flock<File>,
    node: Node,
    fencer: Fencer,
    promises: Promises,
    ring: RingThread,
    disk: Disk,
    monitor: Monitor,
    runner: Runner,
    clients: Clients,
    trouble: Option<String>,
    /// How quorum is counted, and as of when.
    votes: Option<(Votes, u64)>,
    disk_trouble: Option<String>,
    /// When what the disk refused is tried again, and of whom.
    again: u64,
    unwritten: BTreeSet<HostId>,
}

impl Program {
    fn start(policy: &Policy, libraries: Libraries) -> Result<Self, Failure> {
        let identity = identity(policy)?;
        let own = identity.host;
        let loaded = load(policy, own)?;
        let poller =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| refused("epoll")(&e))?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|e| refused("eventfd")(&e))?);
        let stop = stop_signals()?;
        let listener = listen(&policy.socket)?;
        let group = gid_of(&policy.group);
        if group.is_none() {
            log::warn!("there is no group {}: only root may ask", policy.group);
        }
        own_socket(&policy.socket, group)?;
        for (fd, token) in [
            (stop.as_fd(), STOP),
            (wake.as_fd(), WAKE),
            (listener.as_fd(), LISTENER),
        ] {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
            poller.add(fd, event).map_err(|e| refused("epoll")(&e))?;
        }
        let rules = policy.hooks.clone();
        let boot = identity
            .boot_id
            .parse()
            .map_err(|error: uuid::Error| refused("/proc/sys/kernel/random/boot_id")(&error))?;
        let fencer = Fencer::new(boot, &identity.name, policy.fencing.clone())
            .map_err(|why| Failure::new(OSERR, why))?
            .of_machine(own);
        let node = Node::new(identity, loaded.store, rules, loaded.cut);
        let thread = |error: std::io::Error| refused("cannot start a thread")(&error);
        let monitor = Monitor::start(
            policy.monitor_events.clone(),
            policy.monitor_control.clone(),
            node.next_event(),
            &wake,
        );
        Ok(Self {
            runner: Runner::start(&policy.hooks, &wake).map_err(thread)?,
            disk: Disk::start(loaded.logs, loaded.files, own, &wake).map_err(thread)?,
            ring: RingThread::start(libraries, policy.ring_group.clone(), &wake).map_err(thread)?,
            monitor: monitor.map_err(thread)?,
            clients: Clients::new(listener, group, CLIENTS),
            promises: Promises::default(),
            trouble: Some("not joined yet".to_owned()),
            votes: None,
            disk_trouble: None,
            again: 0,
            unwritten: BTreeSet::new(),
            _stop: stop,
            _lock: loaded._lock,
            poller,
            wake,
            node,
            fencer,
        })
    }

    fn serve(&mut self, notifier: &Notifier) -> Result<(), Failure> {
        let watchdog = watchdog_ns();
        let mut alive_at = 0;
        let mut stopping = false;
        let mut ends_at = None;
        loop {
            let now = Monotonic::now().0;
            if let Some(period) = watchdog.filter(|_| now >= alive_at) {
                let _ = notifier.tell("WATCHDOG=1");
                alive_at = now.saturating_add(period / 4);
            }
            let mut events = [EpollEvent::empty(); 64];
            let wait = EpollTimeout::from(LONGEST_MS);
            let count = match self.poller.wait(&mut events, wait) {
                Err(Errno::EINTR) => 0,
                count => count.map_err(|e| refused("epoll")(&e))?,
            };
            let mut ready = Vec::new();
            for event in events.iter().take(count) {
                match event.data() {
                    STOP => stopping = true,
                    WAKE => drop(self.wake.read()),
                    LISTENER => self.clients.accept(&self.poller),
                    client => ready.push(client),
                }
            }
            let now = Monotonic::now().0;
            self.round(&ready, now);
            if stopping {
                self.fencer.stop();
                let end = *ends_at.get_or_insert(now.saturating_add(STOP_NS));
                if self.fencer.is_stopped(now) {
                    return Ok(());
                }
                if now >= end {
                    log::error!(
                        "the members that make the quorum do not know that this host stops, so its lease is not given back: the host goes down unless this program comes back in time"
                    );
                    return Ok(());
                }
            }
        }
    }

    /// Takes what there is, a bounded amount of each, and carries on what comes of it.
    fn round(&mut self, ready: &[u64], now: u64) {
        let mut more = self.hear_ring(now);
        self.hear_disk(now);
        more |= self.hear_host(now);
        self.node.tick(now);
        self.fencer.tick(now);
        if self.fencer.is_fenced() {
            self.monitor.hurry();
        }
        while let Some(job) = self.node.next_job(now) {
            self.runner.run(job);
        }
        self.save(now);
        while self.ring.has_room() {
            let urgent = self.fencer.next_message();
            match urgent.or_else(|| self.node.next_message()) {
                Some(message) => self.ring.say(message),
                None => break,
            }
        }
        if self.promises.is_due(now) {
            self.promises.look(self.fencer.powers(None).ok(), now);
        }
        let status = self.status(now);
        let mut context = Context {
            node: &mut self.node,
            fencer: &mut self.fencer,
            trouble: self.trouble.as_deref(),
            status,
            promises: &self.promises,
            now,
        };
        self.clients.serve(ready, &self.poller, &mut context);
        // A client may have had something written.
        self.save(now);
        if more {
            let _ = self.wake.write(1);
        }
    }

    /// Whether there is more.
    fn hear_ring(&mut self, now: u64) -> bool {
        for event in self.ring.events.try_iter().take(ROUND) {
            match event {
                Event::Joined(node) => {
                    log::info!("is on the ring, as node {node}");
                    self.trouble = None;
                    self.node.joined(node, now);
                    self.fencer.joined(node);
                }
                Event::Lost(why) => {
                    log::warn!("is not on the ring: {why}; trying again");
                    self.votes = None;
                    self.node.ring_lost(&why);
                    self.trouble = Some(why);
                    self.fencer.lost();
                    self.node.ring_nodes(Vec::new());
                }
                Event::Told(Told::Message { node, bytes }) => {
                    if let Some(say) = self.node.delivered(node, &bytes, now) {
                        if let Some(why) = self.fencer.hear(node, &say) {
                            self.node.not_done(node, why);
                        }
                    }
                }
                Event::Told(Told::Members(nodes)) => {
                    log::info!("members: {nodes:?}");
                    self.node.membership(&nodes, now);
                    self.fencer.members(&nodes);
                }
                Event::Told(Told::Nodes(nodes)) => {
                    self.fencer.nodes(&nodes);
                    self.node.ring_nodes(nodes);
                }
                Event::Told(Told::Quorum(quorate)) => {
                    if self.node.quorate() != Some(quorate) {
                        let has = if quorate { "has" } else { "has no" };
                        log::info!("this partition {has} quorum");
                    }
                    self.node.quorum(Some(quorate));
                }
                Event::Votes(counted) => {
                    let quorate = self.node.quorate() == Some(true);
                    self.fencer.votes(&counted, quorate);
                    self.votes = Some((counted.votes, counted.asked.0));
                }
            }
        }
        let fresh = self.node.take_fresh();
        if !fresh.is_empty() {
            let hosts: BTreeSet<HostId> = fresh.iter().map(|stored| stored.host).collect();
            if !self.disk.others(fresh) {
                self.unwritten.extend(hosts);
            }
        }
        !self.ring.events.is_empty()
    }

    fn hear_disk(&mut self, now: u64) {
        for written in self.disk.written.try_iter() {
            match written {
                Written::Own(Ok(())) => {
                    if self.disk_trouble.take().is_some() {
                        log::info!("this host's log is on the disk again");
                    }
                    self.node.saved(now);
                }
                Written::Own(Err(error)) => {
                    let why = error.to_string();
                    if self.disk_trouble.as_ref() != Some(&why) {
                        log::error!(
                            "this host's log cannot be written: {why}: nobody is told of its events until it can"
                        );
                        self.disk_trouble = Some(why);
                    }
                    self.node.not_saved();
                    self.again = now.saturating_add(AGAIN_NS);
                }
                Written::Failed(host, error) => {
                    if self.unwritten.insert(host) {
                        log::warn!("the log of host {host} cannot be written: {error}");
                    }
                    self.again = now.saturating_add(AGAIN_NS);
                }
            }
        }
    }

    /// Whether there is more.
    fn hear_host(&mut self, now: u64) -> bool {
        for (job, result) in self.runner.ended.try_iter() {
            if let Err(why) = &result {
                log::warn!("a hook failed for {}: {why}", job.key);
            }
            self.node.job_ended(&job, &result);
        }
        for (facts, guests) in self.monitor.facts.try_iter() {
            self.fencer.facts(&facts, now);
            self.node.facts(facts, guests.as_ref(), now);
            self.monitor.settle(self.node.monitor_is_to_know());
        }
        for _ in 0..ROUND {
            if !self.node.wants_events() {
                return false;
            }
            match self.monitor.events.try_recv() {
                Ok(line) => self.node.event(&line, now),
                Err(_) => return false,
            }
        }
        true
    }

    fn save(&mut self, now: u64) {
        if now < self.again {
            return;
        }
        for host in std::mem::take(&mut self.unwritten) {
            self.node.store_mut().set_moved(host);
        }
        let saving = self.node.is_saving();
        let own = self.node.host();
        while let Some((host, log)) = self.node.store_mut().next_moved(saving.then_some(own)) {
            let records = log.records().cloned().collect();
            let base = log.base().clone();
            if !self.disk.whole(host, base, records) {
                self.unwritten.insert(host);
                self.again = now.saturating_add(AGAIN_NS / 10);
                return;
            }
        }
        let records = self.node.to_save();
        if !records.is_empty() && !self.disk.own(records) {
            self.node.not_saved();
            self.again = now.saturating_add(AGAIN_NS / 10);
        }
    }

    fn status(&self, now: u64) -> PoolStatus {
        PoolStatus {
            version: 1,
            trouble: self.trouble.clone(),
            disk_trouble: self.disk_trouble.clone(),
            quorate: self.node.quorate(),
            nodes: self.node.nodes().to_vec(),
            votes: self.votes.as_ref().map(|(votes, _)| votes.clone()),
            votes_age_ms: self
                .votes
                .as_ref()
                .map(|(_, as_of)| now.saturating_sub(*as_of) / NS_PER_MS),
            leads: self.node.leads(now),
            hash: String::new(),
            unsaved: self.node.unsaved(),
            clients: self.clients.count(),
            hooks_missed: self.node.hooks_missed(),
            counts: self.node.counts().clone(),
        }
    }
}

/// What is readable once SIGTERM or SIGINT has come.
fn stop_signals() -> Result<UnixStream, Failure> {
    let (read, write) = UnixStream::pair().map_err(|e| refused("a socket pair")(&e))?;
    for signal in [SIGTERM, SIGINT] {
        let registered = write
            .try_clone()
            .and_then(|end| signal_hook::low_level::pipe::register(signal, end));
        registered.map_err(|e| refused("signals")(&e))?;
    }
    Ok(read)
}

/// The lock of the state directory says that nobody else listens there.
fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let wrong = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::PermissionDenied => NOPERM,
            _ => OSERR,
        };
        Failure::new(code, format!("{}: {error}", path.display()))
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(wrong)?;
    listener.set_nonblocking(true).map_err(wrong)?;
    Ok(listener)
}

/// For its group and root alone; who is who is looked at with each client all the same.
fn own_socket(path: &Path, group: Option<u32>) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::new(OSERR, format!("{}: {error}", path.display()));
    let owned = std::os::unix::fs::chown(path, None, group);
    let mode = match owned {
        Ok(()) => 0o660,
        // Not in the group itself: the kernel tells of each client's.
        Err(_) => 0o666,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(wrong)
}
