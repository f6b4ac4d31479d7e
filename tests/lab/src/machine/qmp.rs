// SPDX-License-Identifier: GPL-2.0-only
//! A client of QEMU's machine protocol (QEMU: docs/interop/qmp-intro.txt): commands and events.
//!
//! A thread reads the socket until it closes; whoever waits is woken by what arrives.

use super::mailbox::Mailbox;
use crate::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer a command; none of ours takes long.
const ANSWER: Duration = Duration::from_secs(30);

/// Something that QEMU reported by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's name, such as `WATCHDOG`.
    pub name: String,
    /// What it says beyond its name.
    pub data: Value,
    /// When it came, by this machine's clock.
    pub came: Instant,
}

/// A connection to one QEMU.
pub struct Qmp {
    stream: UnixStream,
    answers: Mailbox<Value>,
    events: Mailbox<Event>,
}

impl Qmp {
    /// Starts talking on a connected socket.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let input = stream
            .try_clone()
            .context(|| "cannot share the QMP socket")?;
        let mut qmp = Qmp {
            stream,
            answers: Mailbox::default(),
            events: Mailbox::default(),
        };
        let (answers, events) = (qmp.answers.clone(), qmp.events.clone());
        std::thread::spawn(move || {
            let lines = BufReader::new(input).lines().map_while(|line| line.ok());
            for message in lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok()) {
                match event_of(&message) {
                    Some(event) => events.put(event),
                    // The greeting is no answer to anything.
                    None if message.get("QMP").is_some() => {}
                    None => answers.put(message),
                }
            }
            answers.close();
            events.close();
        });
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        // In one piece: QEMU obeys at the last brace, and what follows that of `quit` finds nobody.
        self.stream
            .write_all(format!("{message}\n").as_bytes())
            .context(|| format!("QEMU is gone before {command}"))?;
        let answer = self
            .answers
            .take(ANSWER, |_| true)
            .context(|| format!("no answer to {command}"))?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(Error::new(format!("QEMU refuses {command}: {answer}"))),
        }
    }

    /// Runs a line of the monitor for people, and returns what it says.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let arguments = json!({ "command-line": line });
        let answer = self.execute("human-monitor-command", arguments)?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }

    /// Forgets the events of this name that have arrived so far.
    pub fn forget(&self, name: &str) {
        self.events
            .with(|events| events.retain(|event| event.name != name));
    }

    /// The first event of this name that has arrived, left where it is.
    pub fn has_event(&self, name: &str) -> Option<Event> {
        self.events
            .with(|events| events.iter().find(|event| event.name == name).cloned())
    }

    /// The first event of this name, taken out; `None` when it does not come in time or QEMU ends without it.
    pub fn wait_event(&self, name: &str, limit: Duration) -> Option<Event> {
        self.events.take(limit, |event| event.name == name)
    }
}

fn event_of(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    Some(Event {
        name,
        data: message.get("data").cloned().unwrap_or_default(),
        came: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    /// QEMU ends `quit` at its last brace: whatever is written after that finds nobody.
    #[test]
    fn a_command_is_written_in_one_piece() {
        // A socket that keeps what was written together.
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let qemu = std::thread::spawn(move || {
            let mut pieces = Vec::new();
            let mut piece = [0; 4096];
            while pieces.len() < 2 {
                let length = theirs.recv(&mut piece).unwrap();
                pieces.push(String::from_utf8(piece[..length].to_vec()).unwrap());
                theirs.send(b"{\"return\": {}}\n").unwrap();
            }
            pieces
        });
        let mut qmp = Qmp::new(UnixStream::from(OwnedFd::from(ours))).unwrap();
        qmp.execute("quit", json!({})).unwrap();
        assert_eq!(
            qemu.join().unwrap(),
            ["qmp_capabilities", "quit"]
                .map(|command| format!("{}\n", json!({ "execute": command, "arguments": {} })))
        );
    }

    #[test]
    fn an_event_is_told_from_an_answer() {
        let line =
            r#"{"timestamp": {"seconds": 12}, "event": "WATCHDOG", "data": {"action": "reset"}}"#;
        let event = event_of(&serde_json::from_str(line).unwrap()).unwrap();
        assert_eq!(
            (event.name.as_str(), &event.data),
            ("WATCHDOG", &json!({ "action": "reset" }))
        );
        assert!(event_of(&json!({ "return": {} })).is_none());
    }
}
