// SPDX-License-Identifier: GPL-2.0-only
//! What the tests of the bus and its sinks share.
#![allow(dead_code)] // each uses a part

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use xenwarden::event::bus::Bus;
use xenwarden::event::{Guest, Kind, Uuid};

/// Longer than anything here takes on a machine that is merely busy.
pub const LONG: Duration = Duration::from_secs(60);

/// A directory that nobody else can write to and that goes with its value. Of those who have
/// one only one runs at a time: what a test's programs inherit, start or leave behind is then
/// its own.
pub struct Scratch(pub PathBuf, MutexGuard<'static, ()>);

static ALONE: Mutex<()> = Mutex::new(());

impl Scratch {
    pub fn new(name: &str) -> Self {
        // One that failed did not spoil anything for the next.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("xenwarden-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("scratch directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        Self(path.canonicalize().expect("canonical"), alone)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A program that sh runs. `D` stands for this directory.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let directory = self.0.to_str().expect("a plain path");
        let text = format!("#!/bin/sh\nD='{directory}'\n{text}\n");
        // Another process writes it: a program that another test starts just then would
        // inherit our descriptor, and what is open for writing cannot be run (ETXTBSY).
        let mut writer = Command::new("/bin/sh");
        writer.args(["-c", r#"printf %s "$2" > "$1" && chmod 755 "$1""#, "sh"]);
        let written = writer.arg(&path).arg(text).status().expect("runs");
        assert!(written.success());
        path
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn bus() -> Arc<Bus> {
    Arc::new(Bus::new("testhost".into(), 1))
}

pub fn guest(uuid: Option<u128>, domid: u16, name: &str) -> Guest {
    Guest {
        uuid: uuid.map(Uuid::from_u128),
        domid,
        name: Some(name.into()),
    }
}

pub fn expired() -> Kind {
    Kind::GuestExpired {
        slot: 1,
        timeout_s: 10,
        unfed_ms: 10_400,
        expiries: 1,
    }
}

pub fn raised() -> Kind {
    Kind::AlarmRaised { expiries: 1 }
}

/// Closes the bus: the sinks have a second.
pub fn close(bus: &Bus) {
    bus.close(Instant::now() + Duration::from_secs(1));
}

/// Starts a sink's thread with as little stack as the monitor gives it.
pub fn spawn(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = thread::Builder::new().stack_size(128 * 1024);
    thread.spawn(body).expect("a thread")
}

/// Waits for what must come.
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(LONG, what, holds);
}

pub fn eventually_within(long: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + long;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {long:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn drops(bus: &Bus, sink: &str) -> u64 {
    let drops = bus.drops();
    drops
        .iter()
        .find(|(s, _)| *s == sink)
        .map_or(0, |(_, n)| *n)
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z") && !stat.contains(") X"))
}
