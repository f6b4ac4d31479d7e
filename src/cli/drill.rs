// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden drill`: the live-fire test. It stops the guard, so that the host watchdog resets
//! the host, and writes down until the last moment that the host still lives.
//!
//! In: the name of the host, so that nobody resets another one than he meant. Out: a host that
//! goes down; the next boot tells what was measured ([`crate::state::drill`]). A host watchdog
//! that does not fire is told, and the guard goes on. The guard is stopped by a signal: a stopped
//! process closes no device, so that nothing kicks it once more, and sysrq's level and the fast fence
//! stop with it, so that it is the hardware that is tried. Xen's slot would fire: with it there is
//! no drill.

use super::connection::ask;
use super::output::Output;
use super::{EXIT_NOT_OK, print_error};
use crate::config::Policy;
use crate::control::protocol::Request;
use crate::control::status::Status;
use crate::event::host_name;
use crate::guard::page::{self, Reader, View};
use crate::state::drill::{Beats, DrillRecord, RUN, Tried, forget, note_failed};
use crate::state::store::Store;
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use crossbeam_channel::bounded;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, sync};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use std::fs;
use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

/// How long the disks may take to write what is due.
const SYNC: Duration = Duration::from_secs(60);
/// Between two beats; the disk takes its time besides.
const BEAT: Duration = Duration::from_millis(20);
/// The host must have been served for so long, milliseconds: a drill is for a healthy one.
const SERVED_MS: u64 = 3_000;
/// How much later than it ought to the host watchdog may fire before it is said not to, ns.
const GRACE_NS: u64 = 10 * NS_PER_S;
/// A guard that still kicks so long after it was stopped was not, ns.
const STOPPED_NS: u64 = NS_PER_S;

/// Drills, if the user names this host, as `named` or when asked. It only comes back where
/// nothing was reset.
pub fn run(
    socket: &Path,
    policy: &Policy,
    named: Option<&str>,
    output: &mut Output,
) -> Result<u8, String> {
    if !nix::unistd::geteuid().is_root() {
        print_error("only root may reset a host");
        return Ok(EXIT_NOT_OK);
    }
    let guard = Guard::ready(socket, policy.fast.is_on())?;
    let host = host_name();
    let within_s = (guard.bound_ns() / NS_PER_S).to_string();
    let text = format!(
        "This resets {host} within {within_s} s, by its host watchdog {}, and with it all of its guests.\n",
        guard.tried.device
    );
    let _ = output.write(text.as_bytes())?;
    if !is_named(&host, named, output)? {
        print_error("that is not the name of this host: nothing was done");
        return Ok(EXIT_NOT_OK);
    }
    write_what_is_due()?;
    // Somebody may have taken an hour to type the name.
    let guard = Guard::ready(socket, policy.fast.is_on())?;
    let store = Store::new(&policy.state_directory);
    let begun = begin(&store, &guard.tried);
    let ended = begun.and_then(|mut beats| guard.outlive(&mut beats));
    // Whoever comes here lives.
    forget(&store);
    if ended.is_ok() {
        let noted = note_failed(Path::new(RUN), &guard.tried);
        noted.map_err(|error| format!("{RUN}: that the drill failed cannot be noted: {error}"))?;
    }
    print_error(&ended?);
    Ok(EXIT_NOT_OK)
}

/// Whether the user names this host.
fn is_named(host: &str, named: Option<&str>, output: &mut Output) -> Result<bool, String> {
    if let Some(named) = named {
        return Ok(named == host);
    }
    let _ = output.write(b"Type the name of this host to go on: ")?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| format!("stdin: {error}"))?;
    Ok(line.trim() == host)
}

/// sync(2), which may hang.
fn write_what_is_due() -> Result<(), String> {
    let (done, is_done) = bounded(1);
    thread::spawn(move || {
        sync();
        done.send(())
    });
    let synced = is_done.recv_timeout(SYNC);
    synced.map_err(|_| {
        let seconds = SYNC.as_secs();
        format!("the disks have not taken what is due within {seconds} s: nothing was done")
    })
}

fn begin(store: &Store, tried: &Tried) -> Result<Beats, String> {
    let record = DrillRecord::now(tried.clone());
    // The record is the last: without it the beats mean nothing.
    let begun = Beats::create(store).and_then(|beats| store.save(&record).map(|()| beats));
    begun.map_err(|error| {
        let directory = store.directory().display();
        format!("{directory}: {error}: nothing was done")
    })
}

/// The guard's one child (proc(5), CONFIG_PROC_CHILDREN).
fn child(pid: i32) -> Result<Pid, String> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let child = text
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok());
    let child = child.ok_or("the guard's fast fence is not there: restart it, or turn it off")?;
    Ok(Pid::from_raw(child))
}

/// The guard that is to be stopped.
struct Guard {
    page: Reader,
    pid: Pid,
    /// The process of its fast fence.
    fast: Option<Pid>,
    tried: Tried,
    latest_ns: u64,
}

impl Guard {
    /// One that kicks, with a monitor that will tell of the drill.
    fn ready(socket: &Path, fast: bool) -> Result<Self, String> {
        let (status, _) = ask::<Status>(socket, &Request::Status)?;
        if status.inhibited.is_some() {
            return Err("no drill while the guard is inhibited: xenwarden resume".to_owned());
        }
        let decision = &status.decision;
        if !decision.kick || decision.for_ms < SERVED_MS {
            let why = decision.reason.as_deref();
            let why = why.unwrap_or("it has been kicked for less than three seconds");
            return Err(format!("no drill on a host that is not served: {why}"));
        }
        let page = Reader::open(Path::new(page::PATH));
        let page = page.map_err(|error| format!("{}: {error}", page::PATH))?;
        let View { info, .. } = page.view().ok_or("the guard page cannot be read")?;
        if info.xen_slot {
            let text = "no drill with fence.xen_slot or [crash_dump]: Xen would reset the host in \
                        place of the host watchdog; take it out and restart the guard";
            return Err(text.to_owned());
        }
        let pid = i32::try_from(info.pid).map_err(|error| format!("the guard's pid: {error}"))?;
        Ok(Self {
            page,
            pid: Pid::from_raw(pid),
            // The guard that runs may be of another configuration.
            fast: match child(pid) {
                Ok(pid) => Some(pid),
                Err(why) if fast => return Err(why),
                Err(_) => None,
            },
            tried: Tried::from(&info),
            latest_ns: info.latest_ns.max(2 * info.timeout_ns),
        })
    }

    /// The host watchdog should have fired so long after the last kick, ns.
    fn bound_ns(&self) -> u64 {
        self.latest_ns.saturating_add(GRACE_NS)
    }

    /// To the guard, and first to what it has started: the fast fence would be quicker than the
    /// hardware.
    fn signal(&self, signal: Signal) -> Result<(), String> {
        let mut outcome = Ok(());
        for pid in self.fast.iter().chain([&self.pid]) {
            let sent = kill(*pid, signal);
            let sent = sent.map_err(|errno| format!("the guard (pid {pid}): {}", errno.desc()));
            outcome = outcome.and(sent);
        }
        outcome
    }

    /// Stops the guard and beats until the host goes down. Comes back with what to say of a host
    /// that did not, whose guard goes on.
    fn outlive(&self, beats: &mut Beats) -> Result<String, String> {
        // From here on nobody but the host watchdog is to end this: a drill that is ended before
        // would have measured too little.
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP] {
            let registered = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
            registered.map_err(|error| format!("signals: {error}: nothing was done"))?;
        }
        let outcome = self.signal(Signal::SIGSTOP).and_then(|()| self.beat(beats));
        self.signal(Signal::SIGCONT)?;
        outcome.map(|()| {
            let (device, s) = (&self.tried.device, self.bound_ns() / NS_PER_S);
            format!(
                "THE HOST WATCHDOG DOES NOT WORK: {device} has not reset this host within {s} s; \
                 the guard goes on"
            )
        })
    }

    fn beat(&self, beats: &mut Beats) -> Result<(), String> {
        let stopped = Monotonic::now();
        loop {
            let view = self.page.view().ok_or("the guard page cannot be read")?;
            let (now, last_kick) = (Monotonic::now(), view.status.last_kick);
            let alive_ns = now.since_ns(last_kick);
            if last_kick.since_ns(stopped) > STOPPED_NS {
                return Err("the guard goes on although it was stopped".to_owned());
            }
            if alive_ns > self.bound_ns() {
                return Ok(());
            }
            let beat = beats.beat(alive_ns / NS_PER_MS);
            beat.map_err(|error| format!("the drill's beats: {error}: the guard goes on"))?;
            thread::sleep(BEAT);
        }
    }
}
