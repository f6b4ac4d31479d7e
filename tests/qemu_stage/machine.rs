// SPDX-License-Identifier: GPL-2.0-only
//! A stock QEMU with a watchdog device, and in it a guest without an operating system, which does
//! as it is told (`tests/qemu_guest/boot.S`).

use super::{LONG, until};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use xenwarden::qemu::trace::EVENTS;
use xenwarden::qmp::{CallError, Client, Event};

/// The guest's UUID.
pub const UUID: &str = "6a3f1c52-8f0e-4b57-9d1a-0c9f0c1e2d3b";

/// The QEMU that is put to the test; none: the test has nothing to run on, and says so.
pub fn program() -> Option<String> {
    let named = std::env::var("XENWARDEN_TEST_QEMU").ok();
    let program = named.unwrap_or_else(|| "qemu-system-x86_64".to_owned());
    let found = Command::new(&program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    eprintln!("skipped: there is no {program} (Debian: qemu-system-x86)");
    None
}

/// Whether the QEMU that is put to the test has this option.
pub fn has_option(option: &str) -> bool {
    let help = program().and_then(|qemu| Command::new(qemu).arg("-help").output().ok());
    help.is_some_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.is_ok_and(|s| s.success()), "{program} {arguments:?}");
}

/// Builds the guest: its first sector, which is all of it.
fn guest(directory: &Path) -> PathBuf {
    let place = |name: &str| directory.join(name).display().to_string();
    let (object, disk) = (place("boot.o"), place("boot.img"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu_guest/boot.S");
    run("as", &["--32", "-o", &object, source]);
    let arguments = ["-m", "elf_i386", "-Ttext", "0x7c00", "-e", "_start"];
    run(
        "ld",
        &[
            &arguments[..],
            &["--oformat", "binary", "-o", &disk, &object],
        ]
        .concat(),
    );
    disk.into()
}

/// A QEMU that runs; killed when the test ends.
pub struct Machine {
    directory: PathBuf,
    child: Option<Child>,
    serial: Option<UnixStream>,
    qmp: Option<Client>,
    /// It tells of feeds itself.
    pub patched: bool,
    /// Never readable.
    wake: (UnixStream, UnixStream),
}

impl Machine {
    /// One with these arguments besides, which the follower finds at q.sock in `directory`.
    pub fn start(directory: &Path, more: &[&str]) -> Option<Self> {
        let program = program()?;
        guest(directory);
        let mut machine = Self {
            directory: directory.to_owned(),
            child: None,
            serial: None,
            qmp: None,
            patched: false,
            wake: UnixStream::pair().expect("a pair"),
        };
        machine.start_again(&program, more);
        Some(machine)
    }

    /// With its own guest, or with one that comes from elsewhere.
    pub fn start_again(&mut self, program: &str, more: &[&str]) {
        let place = |name: &str| self.directory.join(name).display().to_string();
        for socket in ["q.sock", "ours.sock", "serial.sock"] {
            let _ = fs::remove_file(place(socket));
        }
        let socket = |id: &str| {
            let path = place(&format!("{id}.sock"));
            format!("socket,id={id},path={path},server=on,wait=off")
        };
        let disk = format!("file={},format=raw,if=ide,snapshot=on", place("boot.img"));
        let log = fs::File::create(place("qemu.log")).expect("a log");
        let child = Command::new(program)
            .args([
                "-M",
                "pc",
                "-accel",
                "tcg",
                "-m",
                "32",
                "-display",
                "none",
                "-nodefaults",
            ])
            .args(["-uuid", UUID, "-drive", &disk])
            .args(["-chardev", &socket("serial"), "-serial", "chardev:serial"])
            .args(["-chardev", &socket("q"), "-mon", "chardev=q,mode=control"])
            .args([
                "-chardev",
                &socket("ours"),
                "-mon",
                "chardev=ours,mode=control",
            ])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        self.child = Some(child);
        let connect = |name: &str| UnixStream::connect(place(name)).ok();
        let (mut serial, mut ours) = (None, None);
        let monitor = self.directory.join("ours.sock");
        until("QEMU listens", || {
            serial = serial.take().or_else(|| connect("serial.sock"));
            ours = ours
                .take()
                .or_else(|| Client::connect(&monitor, LONG, &self.wake.1).ok());
            serial.is_some() && ours.is_some() && connect("q.sock").is_some()
        });
        let serial = serial.expect("connected");
        serial.set_read_timeout(Some(LONG)).expect("timeout");
        self.serial = Some(serial);
        self.qmp = ours;
        let schema = self.call("query-qmp-schema", json!({}));
        self.patched = schema.to_string().contains("\"WATCHDOG_FED\"");
    }

    /// Waits until feeds are seen.
    pub fn until_seen(&mut self) {
        until("all of the trace is on", || {
            self.patched || self.trace_events() == [true; 3]
        });
    }

    /// Waits until the guest says this.
    pub fn says(&mut self, letter: u8) {
        let mut said = [0];
        let serial = self.serial.as_mut().expect("it runs");
        serial
            .read_exact(&mut said)
            .expect("the guest says something");
        assert_eq!(char::from(said[0]), char::from(letter), "the guest says");
    }

    /// Waits until the guest boots.
    pub fn boots(&mut self) {
        self.says(b'B');
    }

    /// Has the guest do something, and waits until it has.
    pub fn order(&mut self, letter: u8) {
        self.write(letter);
        self.says(letter.to_ascii_lowercase());
    }

    /// The guest hears nothing more until it boots again.
    pub fn hang(&mut self) {
        self.write(b'H');
    }

    fn write(&mut self, letter: u8) {
        let serial = self.serial.as_mut().expect("it runs");
        serial.write_all(&[letter]).expect("the guest has room");
    }

    pub fn try_call(&mut self, command: &str, arguments: Value) -> Result<Value, CallError> {
        let Value::Object(arguments) = arguments else {
            panic!("arguments are an object");
        };
        self.qmp.as_mut().expect("it runs").call(command, arguments)
    }

    pub fn call(&mut self, command: &str, arguments: Value) -> Value {
        self.try_call(command, arguments).expect(command)
    }

    /// A command of the human monitor.
    pub fn human(&mut self, command: &str) -> String {
        self.qmp
            .as_mut()
            .expect("it runs")
            .human(command)
            .expect(command)
    }

    /// Waits for an event.
    pub fn event(&mut self, name: &str) -> Event {
        let client = self.qmp.as_mut().expect("it runs");
        loop {
            let event = client.event(Instant::now() + LONG).expect("connected");
            let event = event.unwrap_or_else(|| panic!("no {name} came"));
            if event.name == name {
                return event;
            }
        }
    }

    /// Whether each trace event is on.
    fn trace_events(&mut self) -> [bool; 3] {
        EVENTS.map(|name| {
            let answer = self.call("trace-event-get-state", json!({ "name": name }));
            answer[0]["state"] == "enabled"
        })
    }

    /// Whether any of the trace is on.
    pub fn traces(&mut self) -> bool {
        self.trace_events() != [false; 3]
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// As a crash of QEMU, or the host's out-of-memory killer.
    pub fn kill(&mut self) {
        self.qmp = None;
        self.serial = None;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("waited for");
        }
    }

    /// Ends as its monitor's `quit` has it.
    pub fn quit(&mut self) {
        let _ = self.try_call("quit", Value::Object(Map::new()));
        self.kill();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
