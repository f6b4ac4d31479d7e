// SPDX-License-Identifier: GPL-2.0-only
//! A short talk with a monitor of QEMU's: its greeting, the handshake, commands with their answers.
//!
//! In: what the monitor says, in chunks of any size. Out: the next thing to say to it, or how it went. Promises: a line of at most
//! 256 KiB is kept; events between answers are passed over; a refused command ends the talk. Never: a
//! command before the one before it was answered.
//!
//! QEMU's docs/interop/qmp-spec.rst: the server begins with `{"QMP": ...}`, nothing but qmp_capabilities is
//! allowed before that was answered, and an answer bears the `id` of its command.

use serde_json::{Value, json};
use std::collections::VecDeque;

/// Longest line, bytes.
const MAX_LINE: usize = 256 * 1024;

/// A talk.
#[derive(Debug)]
pub struct Dialogue {
    line: Vec<u8>,
    /// What is still to be said, in its order.
    commands: VecDeque<String>,
    /// What was said last and is not answered yet, and its number.
    asked: Option<String>,
    number: u64,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More is to be heard.
    Wait,
    /// Say this, a line.
    Say(String),
    /// It is over.
    Done(Result<(), String>),
}

impl Dialogue {
    /// A talk to give `commands`, each an object of JSON with `execute`.
    #[must_use]
    pub fn new(commands: &[String]) -> Self {
        let handshake = r#"{"execute": "qmp_capabilities"}"#.to_owned();
        Self {
            line: Vec::new(),
            commands: std::iter::once(handshake)
                .chain(commands.iter().cloned())
                .collect(),
            asked: None,
            number: 0,
        }
    }

    /// What comes next, now that `bytes` were heard. It is asked again with nothing until it
    /// waits.
    pub fn take(&mut self, bytes: &[u8]) -> Step {
        self.line.extend_from_slice(bytes);
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let step = self.heard(&line);
            if step != Step::Wait {
                return step;
            }
        }
        match self.line.len() {
            0..=MAX_LINE => Step::Wait,
            _ => Step::Done(Err("it says a line without end".to_owned())),
        }
    }

    /// What was being waited for, for a message.
    #[must_use]
    pub fn waits_for(&self) -> String {
        match &self.asked {
            Some(command) => format!("the answer to {command}"),
            None => "its greeting".to_owned(),
        }
    }

    fn heard(&mut self, line: &[u8]) -> Step {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Step::Wait;
        }
        let Ok(said) = serde_json::from_slice::<Value>(line) else {
            return Step::Done(Err(
                "it does not speak QMP: what it says is no JSON".to_owned()
            ));
        };
        let Some(asked) = &self.asked else {
            return match said.get("QMP") {
                Some(_) => self.next(),
                None => Step::Done(Err("it does not greet as QMP does".to_owned())),
            };
        };
        let ours = said.get("id").is_none_or(|id| *id == json!(self.number));
        if let Some(error) = said.get("error").filter(|_| ours) {
            let why = error.get("desc").and_then(Value::as_str);
            let why = why.unwrap_or("for no reason that it tells");
            return Step::Done(Err(format!("{asked} is refused: {why}")));
        }
        match said.get("return") {
            Some(_) if ours => self.next(),
            _ => Step::Wait,
        }
    }

    fn next(&mut self) -> Step {
        let Some(command) = self.commands.pop_front() else {
            return Step::Done(Ok(()));
        };
        self.number = self.number.saturating_add(1);
        let mut line = command.clone();
        if let Ok(Value::Object(mut object)) = serde_json::from_str(&command) {
            object.insert("id".to_owned(), json!(self.number));
            line = Value::Object(object).to_string();
        }
        self.asked = Some(command);
        Step::Say(line + "\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    fn said(step: Step) -> Value {
        match step {
            Step::Say(line) => serde_json::from_str(&line).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_come_one_by_one_after_the_handshake_and_events_do_not_matter() {
        let commands = ["{\"execute\": \"x-colo-lost-heartbeat\"}".to_owned()];
        let mut talk = Dialogue::new(&commands);
        for byte in &GREETING[..GREETING.len() - 1] {
            assert_eq!(talk.take(&[*byte]), Step::Wait);
        }
        let first = said(talk.take(b"\n"));
        assert_eq!(first["execute"], "qmp_capabilities");
        assert_eq!(talk.take(b"{\"event\": \"STOP\"}\n"), Step::Wait);
        assert_eq!(talk.take(b"{\"return\": {}, \"id\": 77}\n"), Step::Wait);
        let second = said(talk.take(b"{\"return\": {}, \"id\": 1}\n"));
        assert_eq!(second["execute"], "x-colo-lost-heartbeat");
        assert_eq!(
            talk.take(b"{\"return\": {}, \"id\": 2}\n"),
            Step::Done(Ok(()))
        );
    }

    #[test]
    fn a_refusal_garbage_and_a_line_without_end_are_told() {
        let talk = || Dialogue::new(&["{\"execute\": \"quit\"}".to_owned()]);
        let mut refused = talk();
        let _ = refused.take(GREETING);
        let answer = b"{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n";
        let Step::Done(Err(why)) = refused.take(answer) else {
            panic!("not refused");
        };
        assert!(
            why.contains("qmp_capabilities") && why.ends_with("no"),
            "{why}"
        );
        for bytes in [
            b"(qemu) \n".as_slice(),
            b"{\"return\": {}}\n",
            &[b'x'; 300_000],
        ] {
            assert!(matches!(talk().take(bytes), Step::Done(Err(_))));
        }
    }
}
