// SPDX-License-Identifier: GPL-2.0-only
//! One host of a pair: its QEMU, its xenwarden-pulse, and, where a test has one, the guard that a lease keeps from pulling
//! the host down.

use super::vmm::Vmm;
use super::{LONG, Side, eventually, now};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub struct Host {
    pub vmm: Vmm,
    /// QEMU's human monitor, for which the letter has port 4445.
    pub monitor: SocketAddr,
    /// A QMP socket for its pulse alone.
    pub commands: PathBuf,
    /// Where its pulse is started, and what it reads is.
    pub directory: PathBuf,
    pulse: Option<Child>,
}

impl Host {
    pub fn start(side: Side, directory: &Path, more: &[&str]) -> Self {
        let directory = directory.join(format!("{side:?}").to_lowercase());
        // That of its status, which a unit makes.
        fs::create_dir_all(directory.join("run/xenwarden-pulse")).expect("a directory");
        let monitor = side.free();
        // As the letter's: on all addresses.
        let listens = format!("tcp::{},server,nowait", monitor.port());
        let commands = directory.join("pulse.qmp");
        let takes = format!("unix:{},server=on,wait=off", commands.display());
        let mut options = vec!["-monitor", listens.as_str(), "-qmp", takes.as_str()];
        options.extend(more);
        Self {
            vmm: Vmm::start(&directory, "qemu", &options),
            monitor,
            commands,
            directory,
            pulse: None,
        }
    }

    /// Starts its xenwarden-pulse with these words.
    pub fn watch(&mut self, words: &[String]) {
        let said = File::create(self.directory.join("pulse.log")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_xenwarden-pulse"))
            .args(words)
            .arg("--run")
            .arg(self.directory.join("run"))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a clone"))
            .stderr(said)
            .spawn();
        self.pulse = Some(child.expect("xenwarden-pulse"));
    }

    /// What its pulse says of itself; none: it does not answer, or not yet.
    pub fn status(&self) -> Option<Value> {
        let sockets = fs::read_dir(self.directory.join("run/xenwarden-pulse")).ok()?;
        let socket = sockets.flatten().next()?.path();
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(LONG)).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// What it says of its heartbeat.
    pub fn beat(&self) -> Option<Value> {
        Some(self.status()?["heartbeats"][0].clone())
    }

    /// A number of its heartbeat's.
    pub fn count(&self, what: &str) -> u64 {
        let beat = self.beat().expect("a status");
        beat[what].as_u64().expect(what)
    }

    fn processes(&self) -> Vec<Pid> {
        let pulse = self.pulse.as_ref().map(Child::id);
        let ids = pulse.into_iter().chain([self.vmm.id()]);
        let pid = |id| Pid::from_raw(i32::try_from(id).expect("a process id"));
        ids.map(pid).collect()
    }

    pub fn signal(&self, signal: Signal) {
        for process in self.processes() {
            kill(process, signal).expect("a process of this test");
        }
    }

    /// Has a guard pull this host down once the lease `name` has lapsed for `bound`.
    pub fn guard(&self, name: &str, bound: Duration) -> Lease {
        let directory = self.directory.join("run/xenwarden/lease");
        fs::create_dir_all(&directory).expect("a directory");
        let socket = UnixDatagram::bind(directory.join(name)).expect("a socket");
        let processes = self.processes();
        let held = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&held);
        let down = thread::spawn(move || keep(&socket, &noted, bound, &processes));
        Lease { held, down }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut pulse) = self.pulse.take() {
            let _ = pulse.kill();
            let _ = pulse.wait();
        }
    }
}

/// A lease on a host's life.
pub struct Lease {
    held: Arc<AtomicBool>,
    down: JoinHandle<Duration>,
}

impl Lease {
    /// Whether it was renewed once, from when on the host lives by it.
    pub fn held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// When the host was down. Waits for that.
    pub fn went_down(self) -> Duration {
        eventually("the host is pulled down", || self.down.is_finished());
        self.down.join().expect("a guard")
    }
}

/// Waits for a first renewal, then for one that does not come in time, and ends the processes as the hardware would.
fn keep(socket: &UnixDatagram, held: &AtomicBool, bound: Duration, processes: &[Pid]) -> Duration {
    let mut line = [0; 256];
    socket.set_read_timeout(Some(LONG)).expect("a timeout");
    socket.recv(&mut line).expect("a first renewal");
    held.store(true, Ordering::SeqCst);
    socket.set_read_timeout(Some(bound)).expect("a timeout");
    while let Ok(length) = socket.recv(&mut line) {
        assert_eq!(line.get(..length), Some(b"WATCHDOG=1".as_slice()));
    }
    for process in processes {
        kill(*process, Signal::SIGKILL).expect("a process of this test");
    }
    eventually("killed processes are gone", || {
        processes.iter().all(|process| gone(*process))
    });
    now()
}

/// Whether it runs no more, also where nobody has asked for its exit status yet (proc_pid_stat(5)).
fn gone(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/stat"));
    status.map_or(true, |status| {
        status
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}
