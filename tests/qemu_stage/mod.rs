// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-qemu as a program that runs, with a monitor that stands in for the real one.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)] // each test program uses its part

pub mod machine;
pub mod peer;

#[path = "../fake_monitor/mod.rs"]
mod fake_monitor;

use fake_monitor::FakeMonitor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::control::protocol::Told;
use xenwarden::guests::report::{AlarmPhase, AlarmReport, GuestReport, GuestsReport};

/// Longer than any machine takes.
pub const LONG: Duration = Duration::from_secs(60);

/// Waits until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// An empty directory of this test's own.
pub fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("qemu-{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// xenwarden-qemu, which may be started again and goes on where it was.
pub struct Follower {
    directory: PathBuf,
    monitor: Option<FakeMonitor>,
    child: Option<Child>,
}

impl Follower {
    /// Follows one VM, `web`, whose QMP socket is q.sock in `directory`.
    pub fn start(directory: &Path) -> Self {
        let qmp = directory.join("q.sock");
        let vm = format!("vm = [{{ name = \"web\", qmp = \"{}\" }}]", qmp.display());
        Self::start_config(directory, &vm)
    }

    /// Follows these VMs.
    pub fn start_config(directory: &Path, vms: &str) -> Self {
        let place = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "{vms}\n[control]\nsocket = \"{}\"\ngroup = \"no-such-group\"\n[monitor]\nsocket = \"{}\"\n\
             [state]\ndirectory = \"{}\"\n[trace]\ndirectory = \"{}\"\n",
            place("control.sock"),
            place("monitor.sock"),
            place("state"),
            place("trace"),
        );
        fs::write(directory.join("all.conf"), config).expect("a configuration");
        let mut follower = Self {
            directory: directory.to_owned(),
            monitor: None,
            child: None,
        };
        follower.monitor_up();
        follower.start_again();
        follower
    }

    pub fn monitor_up(&mut self) {
        let socket = self.directory.join("monitor.sock");
        self.monitor = Some(FakeMonitor::start_at(socket, 0, None));
    }

    pub fn monitor_down(&mut self) {
        self.monitor = None;
    }

    pub fn start_again(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_xenwarden-qemu"))
            .arg("--config")
            .arg(self.directory.join("all.conf"))
            .stdin(Stdio::null())
            .stderr(log)
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .expect("started");
        self.child = Some(child);
        until("it answers", || self.try_report().is_some());
    }

    /// Ends it, in order or by a kill.
    pub fn stop(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).expect("a pid");
            kill(Pid::from_raw(pid), signal).expect("signalled");
            let status = child.wait().expect("waited for");
            assert!(
                signal == Signal::SIGKILL || status.success(),
                "{}",
                self.log()
            );
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("started");
        child.try_wait().expect("asked").is_none()
    }

    /// What it answers to a request; nothing while it does not.
    pub fn ask(&self, request: &str) -> String {
        let mut answer = Vec::new();
        if let Ok(mut stream) = UnixStream::connect(self.directory.join("control.sock")) {
            stream.set_read_timeout(Some(LONG)).expect("timeout");
            let _ = stream.write_all(format!("{request}\n").as_bytes());
            let _ = stream.read_to_end(&mut answer);
        }
        String::from_utf8(answer).expect("text")
    }

    fn try_report(&self) -> Option<GuestsReport> {
        serde_json::from_str(&self.ask("guests")).ok()
    }

    pub fn report(&self) -> GuestsReport {
        self.try_report().expect("a report")
    }

    /// The VM; none before it was seen.
    pub fn guest(&self) -> Option<GuestReport> {
        self.report().guests.into_iter().next()
    }

    pub fn alarm(&self) -> Option<AlarmReport> {
        self.guest()?.alarm
    }

    pub fn until_guest(&self, what: &str, holds: impl Fn(&GuestReport) -> bool) {
        until(&format!("{what}; {}", self.log()), || {
            self.guest().as_ref().is_some_and(&holds)
        });
    }

    pub fn until_phase(&self, phase: AlarmPhase) {
        self.until_guest(&format!("{phase:?}"), |guest| {
            guest
                .alarm
                .as_ref()
                .is_some_and(|alarm| alarm.phase == phase)
        });
    }

    /// Waits until so many lines of the log hold these words.
    pub fn until_logged(&self, words: &str, times: usize) {
        until(&format!("{words:?} {times} times"), || {
            self.logged(words) >= times
        });
    }

    pub fn logged(&self, words: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Waits until so many events of this kind were logged, which must be all: the log is written
    /// a moment after the answers are.
    pub fn has_events(&self, kind: &str, count: usize) {
        let words = format!("[{kind}]");
        self.until_logged(&words, count);
        assert_eq!(self.logged(&words), count, "{kind}: {}", self.log());
    }

    /// What the monitor was told, in order; a tester who is not root may tell nothing.
    pub fn told(&self) -> Option<Vec<Told>> {
        let monitor = self.monitor.as_ref().expect("a monitor");
        let told = monitor.registry.told.lock().expect("whole");
        nix::unistd::geteuid().is_root().then(|| told.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
