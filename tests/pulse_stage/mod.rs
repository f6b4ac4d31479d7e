// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pulse as a process, in a directory of its own, with peers that tests play.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // each test program uses its part

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What AWD's two sides send.
pub const PULSE: &[u8] = b"\0\0\0\x18advanced-watchdog pulse\0";
pub const REPLY: &[u8] = b"\0\0\0\x1eadvanced-watchdog reply pulse\0";

/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory with what the programs find in /run.
pub struct Stage {
    pub directory: PathBuf,
}

impl Stage {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("xenwarden-pulse-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        for part in ["run/xenwarden-pulse", "run/xenwarden/lease"] {
            fs::create_dir_all(directory.join(part)).expect("a directory");
        }
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A path as words of a configuration.
    pub fn named(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        path
    }

    pub fn write_key(&self, name: &str, key: &str) -> String {
        let path = self.write(name, key);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        self.named(name)
    }

    pub fn write_program(&self, name: &str, script: &str) -> String {
        let path = self.write(name, &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
        self.named(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xenwarden-pulse"));
        command.current_dir(&self.directory).stdin(Stdio::null());
        command.args(["--run", &self.named("run")]).args(words);
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC");
        command
    }

    /// Runs it to its end.
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it runs")
    }

    /// Starts it, and waits until it watches.
    pub fn start(&self, name: &str, words: &[&str]) -> Process {
        let words: Vec<&str> = ["--name", name].iter().chain(words).copied().collect();
        let log = self.path(&format!("{name}.log"));
        let stderr = File::create(&log).expect("a log");
        let child = self.command(&words).stderr(stderr).spawn().expect("starts");
        let status = self.path(&format!("run/xenwarden-pulse/{name}.sock"));
        let process = Process { child, log, status };
        process.wait_for(": watches ");
        process
    }

    /// The same with a configuration.
    pub fn start_with(&self, name: &str, toml: &str) -> Process {
        let file = format!("{name}.toml");
        let absent = self.named("control.sock");
        self.write(&file, &format!("control_socket = \"{absent}\"\n{toml}"));
        self.start(name, &["--config", &file])
    }

    /// A lease's socket.
    pub fn lease(&self, name: &str) -> UnixDatagram {
        let path = self.path("run/xenwarden/lease").join(name);
        let socket = UnixDatagram::bind(path).expect("binds");
        socket.set_nonblocking(true).expect("set");
        socket
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A running program; killed at its end.
pub struct Process {
    child: Child,
    log: PathBuf,
    status: PathBuf,
}

impl Process {
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until its log holds `text`.
    pub fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    pub fn wait_for_times(&self, text: &str, times: usize) {
        let start = Instant::now();
        while self.times(text) < times {
            let log = self.log();
            assert!(
                start.elapsed() < LIMIT,
                "never {times} times {text:?}: {log}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn times(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// What it tells of itself.
    pub fn status(&self) -> Value {
        let mut stream = UnixStream::connect(&self.status).expect("a status");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a line");
        assert!(
            text.ends_with('\n') && text.lines().count() == 1,
            "{text:?}"
        );
        serde_json::from_str(&text).expect("JSON")
    }

    /// What it tells of one heartbeat.
    pub fn beat(&self, name: &str) -> Value {
        let status = self.status();
        let beats = status["heartbeats"].as_array().expect("heartbeats");
        let beat = beats.iter().find(|beat| beat["heartbeat"] == name);
        beat.unwrap_or_else(|| panic!("no {name}: {status}"))
            .clone()
    }

    pub fn wait_for_state(&self, name: &str, state: &str) -> Value {
        wait_until(&format!("{name} is {state}"), || {
            let beat = self.beat(name);
            (beat["state"] == state).then_some(beat)
        })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("sent");
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, KiB.
    pub fn memory_kib(&self) -> u64 {
        self.proc_number("status", "VmRSS:")
    }

    pub fn proc_number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()));
        let text = text.expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.expect("a line").split_whitespace().next();
        number.expect("a number").parse().expect("a number")
    }

    /// Processor time so far, in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let text = text.expect("it runs");
        let (_, rest) = text.rsplit_once(')').expect("a name");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        ticks(11).expect("utime") + ticks(12).expect("stime")
    }

    /// Asks it to stop, and waits until it has; its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        wait_until("it ends", || self.child.try_wait().expect("a child")).code()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody uses just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("an address").port()
}

pub fn connect(port: u16) -> TcpStream {
    let stream = wait_until("connected", || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream
}

/// Sends pulses until it is dropped.
pub struct Pulses {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pulses {
    pub fn over(mut stream: TcpStream, bytes: &'static [u8], each: Duration) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) && stream.write_all(bytes).is_ok() {
                std::thread::sleep(each);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Pulses {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads exactly so many bytes.
pub fn read_exactly(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("as many bytes");
    bytes
}

/// The text of a file, once it is as long.
pub fn wait_for_file(path: &Path, length: usize) -> String {
    wait_until(&format!("{}", path.display()), || {
        let text = fs::read_to_string(path).ok()?;
        (text.len() >= length).then_some(text)
    })
}
