// SPDX-License-Identifier: GPL-2.0-only
//! A stock QEMU without a guest system, and its QMP socket.

use super::{LONG, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What Debian calls it.
const QEMU: &str = "qemu-system-x86_64";
/// No checkpoint comes while a test runs: QEMU 7.2's primary hangs after its first one.
const CHECKPOINT_DELAY_MS: u64 = 3_600_000;

/// An event, and when QEMU says that it happened.
#[derive(Clone, Debug)]
pub struct Event {
    pub name: String,
    /// Since 1970, on the clock of the machine that all of this runs on.
    pub at: Duration,
}

pub struct Vmm {
    child: Child,
    to: UnixStream,
    from: BufReader<UnixStream>,
    pub events: Vec<Event>,
}

impl Vmm {
    /// One that answers, with `more` on its command line.
    pub fn start(directory: &Path, name: &str, more: &[&str]) -> Self {
        let socket = directory.join(format!("{name}.qmp"));
        let child = Command::new(QEMU)
            .args(["-M", "pc", "-accel", "tcg", "-m", "64"])
            .args(["-nodefaults", "-display", "none", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64, of Debian's package qemu-system-x86");
        let mut connected = None;
        eventually("QEMU's monitor takes a connection", || {
            connected = UnixStream::connect(&socket).ok();
            connected.is_some()
        });
        let to = connected.expect("connected");
        to.set_read_timeout(Some(LONG)).expect("a timeout");
        let from = BufReader::new(to.try_clone().expect("a clone"));
        let mut vmm = Self {
            child,
            to,
            from,
            events: Vec::new(),
        };
        vmm.message(); // its greeting
        vmm.execute("qmp_capabilities", json!({}));
        let colo = json!({"capabilities": [{"capability": "x-colo", "state": true}]});
        vmm.execute("migrate-set-capabilities", colo);
        let delay = json!({"x-checkpoint-delay": CHECKPOINT_DELAY_MS});
        vmm.execute("migrate-set-parameters", delay);
        vmm
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("QMP");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What a command returns; an error is one of the test.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.to, "{line}").expect("QMP");
        loop {
            let message = self.message();
            if let Some(name) = message["event"].as_str() {
                let stamp = |key: &str| message["timestamp"][key].as_u64().expect("a timestamp");
                let at = Duration::from_secs(stamp("seconds"))
                    + Duration::from_micros(stamp("microseconds"));
                self.events.push(Event {
                    name: name.to_owned(),
                    at,
                });
            } else if message.get("return").is_some() {
                return message["return"].clone();
            } else {
                panic!("{command}: {message}");
            }
        }
    }

    /// Whether the guest runs.
    pub fn runs(&mut self) -> bool {
        self.execute("query-status", json!({}))["running"] == true
    }

    /// Its part in COLO, `none` when it has left it.
    pub fn mode(&mut self) -> String {
        let status = self.execute("query-colo-status", json!({}));
        status["mode"].as_str().expect("a mode").to_owned()
    }

    /// When it left COLO and its guest ran on by itself; none: it has not.
    pub fn failed_over(&mut self) -> Option<Duration> {
        if self.mode() != "none" || !self.runs() {
            return None;
        }
        let last = |name: &str| {
            let mut of = self.events.iter().rev().filter(|event| event.name == name);
            of.next().map(|event| event.at)
        };
        last("COLO_EXIT")?;
        last("RESUME").filter(|resumed| Some(*resumed) > last("STOP"))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
