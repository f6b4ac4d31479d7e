// SPDX-License-Identifier: GPL-2.0-only
//! What a QMP peer says, typed.
//!
//! In: a line. Out: a [`Message`], or why it is none. Pure. Members that this does not know are
//! ignored: QEMU adds some with each version.

use crate::event::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first, before which QEMU takes nothing. Holds its version, as `7.2.22`, where it says
    /// one.
    Greeting(Option<String>),
    /// Something happened.
    Event(Event),
    /// A command was carried out.
    Return {
        /// The command's id; null where the answer bears none.
        id: Value,
        /// What it gives.
        value: Value,
    },
    /// A command was not.
    Error {
        /// The command's id; null where QEMU could not read it.
        id: Value,
        /// Why, in words.
        description: String,
    },
}

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Event {
    /// Its name, as `WATCHDOG`.
    #[serde(rename = "event")]
    pub name: String,
    /// Its members; empty where it has none.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// When it happened, by the peer's clock.
    #[serde(default)]
    timestamp: Option<Seconds>,
}

/// Wall time, as QMP writes it; seconds are -1 where the peer has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
struct Seconds {
    seconds: i64,
    microseconds: i64,
}

impl Event {
    /// A member that is a text; none where there is no such one.
    #[must_use]
    pub fn text(&self, member: &str) -> Option<&str> {
        self.data.get(member)?.as_str()
    }

    /// When it happened, by the peer's wall clock; none where it says no time.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let Seconds {
            seconds,
            microseconds,
        } = self.timestamp?;
        let us = seconds.checked_mul(1_000_000)?.checked_add(microseconds)?;
        (us >= 0).then_some(Timestamp(us))
    }

    /// A member that is a number.
    #[must_use]
    pub fn number(&self, member: &str) -> Option<u64> {
        self.data.get(member)?.as_u64()
    }
}

#[derive(Deserialize)]
struct Failed {
    desc: String,
}

/// Reads a line.
///
/// # Errors
/// Why it is no message of QMP.
pub fn parse(line: &[u8]) -> Result<Message, String> {
    let mut members: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    let mut take = |name: &str| members.remove(name);
    let id = take("id").unwrap_or_default();
    if let Some(greeting) = take("QMP") {
        return Ok(Message::Greeting(version(&greeting)));
    }
    if let Some(value) = take("return") {
        return Ok(Message::Return { id, value });
    }
    if let Some(error) = take("error") {
        let failed: Failed = serde_json::from_value(error)
            .map_err(|error| format!("an error that says nothing: {error}"))?;
        let description = failed.desc;
        return Ok(Message::Error { id, description });
    }
    if members.contains_key("event") {
        return serde_json::from_value(Value::Object(members))
            .map(Message::Event)
            .map_err(|error| format!("an event of no known form: {error}"));
    }
    Err("neither greeting, answer nor event".to_owned())
}

fn version(greeting: &Value) -> Option<String> {
    let qemu = greeting.get("version")?.get("qemu")?;
    let part = |name| qemu.get(name)?.as_u64();
    let (major, minor, micro) = (part("major")?, part("minor")?, part("micro")?);
    Some(format!("{major}.{minor}.{micro}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_message_is_read_for_what_it_is() {
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian"}, "capabilities": ["oob"]}}"#;
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "WATCHDOG",
            "data": {"action": "reset"}}"#;
        let watchdog = Event {
            name: "WATCHDOG".to_owned(),
            data: Map::from_iter([("action".to_owned(), json!("reset"))]),
            timestamp: Some(Seconds {
                seconds: 1,
                microseconds: 2,
            }),
        };
        assert_eq!(watchdog.time(), Some(Timestamp(1_000_002)));
        let cases = [
            (greeting, Message::Greeting(Some("7.2.22".to_owned()))),
            (r#"{"QMP": {}}"#, Message::Greeting(None)),
            (event, Message::Event(watchdog)),
            (
                r#"{"event": "STOP"}"#,
                Message::Event(Event {
                    name: "STOP".to_owned(),
                    ..Event::default()
                }),
            ),
            (
                r#"{"return": {}, "id": 7}"#,
                Message::Return {
                    id: json!(7),
                    value: json!({}),
                },
            ),
            (
                r#"{"error": {"class": "GenericError", "desc": "no"}}"#,
                Message::Error {
                    id: Value::Null,
                    description: "no".to_owned(),
                },
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        let cases: [&[u8]; 9] = [
            b"",
            b"[]",
            b"\xff\xfe",
            b"{}",
            b"{\"event\": 7}",
            b"{\"event\": \"X\", \"data\": 3}",
            b"{\"error\": {}}",
            b"{\"return\": {}",
            b"(qemu) info status",
        ];
        for line in cases {
            assert!(parse(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }
}
