// SPDX-License-Identifier: GPL-2.0-only
//! Who has a VM's QMP socket and is no QEMU: it says what the test wants.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// The first line of a QEMU.
pub const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}"#;

/// What it does.
pub struct Behaviour {
    /// Said first.
    pub greeting: String,
    /// Before it says that.
    pub late: Duration,
    /// What `query-uuid` says.
    pub uuid: String,
    /// What `query-status` says.
    pub status: &'static str,
    /// The types of its devices.
    pub devices: Vec<&'static str>,
    /// Whether it has the events of a patched QEMU.
    pub patched: bool,
    /// Whether it has trace events.
    pub traces: bool,
    /// Bytes after which it ends a connection.
    pub cut: Option<usize>,
    /// And by how many that grows with each connection.
    pub cut_grows: usize,
    /// Said before each answer, one line each.
    pub before_answers: Vec<String>,
    /// Whether it answers.
    pub answers: bool,
    /// Commands that came, with their arguments.
    pub commands: Vec<Value>,
    /// Connections that came.
    pub connections: usize,
    stream: Option<UnixStream>,
}

/// The peer; it ends with the test's process.
#[derive(Clone)]
pub struct Peer(Arc<Mutex<Behaviour>>);

impl Peer {
    /// As a QEMU with an i6300esb would be, but for what `change` says.
    pub fn start(socket: &Path, change: impl FnOnce(&mut Behaviour)) -> Self {
        let mut behaviour = Behaviour {
            greeting: GREETING.to_owned(),
            late: Duration::ZERO,
            uuid: super::machine::UUID.to_owned(),
            status: "running",
            devices: vec!["i6300esb"],
            patched: false,
            traces: true,
            cut: None,
            cut_grows: 0,
            before_answers: Vec::new(),
            answers: true,
            commands: Vec::new(),
            connections: 0,
            stream: None,
        };
        change(&mut behaviour);
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("bound");
        let peer = Self(Arc::new(Mutex::new(behaviour)));
        let serving = peer.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serving.serve(stream.expect("accepted"));
            }
        });
        peer
    }

    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        self.0.lock().expect("whole")
    }

    fn serve(&self, stream: UnixStream) {
        let (greeting, late) = {
            let mut behaviour = self.behaviour();
            behaviour.connections += 1;
            behaviour.stream = Some(stream.try_clone().expect("another"));
            let grows = behaviour.cut_grows;
            behaviour.cut = behaviour.cut.map(|cut| cut + grows);
            (behaviour.greeting.clone(), behaviour.late)
        };
        let mut left = self.behaviour().cut;
        thread::sleep(late);
        if !say(&stream, &mut left, &format!("{greeting}\r\n")) {
            return;
        }
        let lines = BufReader::new(stream.try_clone().expect("another")).lines();
        for line in lines.map_while(Result::ok) {
            let command: Value = serde_json::from_str(&line).expect("a command");
            let said = self.answer(&command);
            if !said.iter().all(|line| say(&stream, &mut left, line)) {
                return;
            }
        }
    }

    fn answer(&self, command: &Value) -> Vec<String> {
        let mut behaviour = self.behaviour();
        behaviour.commands.push(command.clone());
        let mut said: Vec<String> = behaviour.before_answers.clone();
        if behaviour.answers {
            let id = &command["id"];
            let answer = match value(&behaviour, command) {
                Some(value) => json!({ "return": value, "id": id }),
                None => {
                    json!({ "error": { "class": "GenericError", "desc": "no such thing" }, "id": id })
                }
            };
            said.push(answer.to_string());
        }
        said.iter().map(|line| format!("{line}\r\n")).collect()
    }

    /// Says bytes to whoever is connected.
    pub fn inject(&self, bytes: &[u8]) {
        let stream = self.behaviour().stream.as_ref().map(UnixStream::try_clone);
        let mut stream = stream.expect("connected").expect("another");
        // It may have been given up.
        let _ = stream.write_all(bytes);
    }

    /// Says an event, of now.
    pub fn event(&self, name: &str, data: &Value) {
        let now = xenwarden::event::Timestamp::now().0;
        let timestamp = json!({ "seconds": now / 1_000_000, "microseconds": now % 1_000_000 });
        let event = json!({ "event": name, "data": data, "timestamp": timestamp });
        self.inject(format!("{event}\r\n").as_bytes());
    }

    /// Ends the connection.
    pub fn end(&self) {
        if let Some(stream) = self.behaviour().stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether a command with these words came.
    pub fn was_told(&self, words: &str) -> bool {
        let behaviour = self.behaviour();
        behaviour
            .commands
            .iter()
            .any(|command| command.to_string().contains(words))
    }
}

fn value(behaviour: &Behaviour, command: &Value) -> Option<Value> {
    let name = command["execute"].as_str()?;
    Some(match name {
        "query-uuid" => json!({ "UUID": behaviour.uuid }),
        "query-status" => json!({ "status": behaviour.status }),
        "qom-list" if command["arguments"]["path"] == "/machine/peripheral" => {
            let of = behaviour.devices.iter();
            of.map(|name| json!({ "name": "x", "type": format!("child<{name}>") }))
                .collect()
        }
        "qom-list" => json!([]),
        "query-qmp-schema" => {
            let names: &[&str] = if behaviour.patched {
                &["WATCHDOG", "WATCHDOG_ARMED", "WATCHDOG_FED"]
            } else {
                &["WATCHDOG"]
            };
            names
                .iter()
                .map(|name| json!({ "meta-type": "event", "name": name }))
                .collect()
        }
        "trace-event-get-state" if !behaviour.traces => return None,
        "trace-event-get-state" => json!([{ "name": "x", "state": "disabled" }]),
        "human-monitor-command" => json!(""),
        _ => json!({}),
    })
}

/// Whether it could be said whole.
fn say(mut stream: &UnixStream, left: &mut Option<usize>, line: &str) -> bool {
    let fits = left.unwrap_or(usize::MAX).min(line.len());
    let sent = stream.write_all(&line.as_bytes()[..fits]);
    *left = left.map(|left| left - fits);
    let whole = sent.is_ok() && fits == line.len();
    if !whole {
        let _ = stream.shutdown(Shutdown::Both);
    }
    whole
}
