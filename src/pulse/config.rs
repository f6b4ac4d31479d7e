// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pulse's own configuration, a TOML file, made into a [`Plan`].
//!
//! In: the file's path. Out: a plan, or what is wrong with each value, a line for each that names file and key. Promises:
//! nothing is half-applied; scripts and keys were read. xenwarden-pulse.conf(5) has the keys.

use super::plan::{
    BeatPlan, Endpoint, Hook, HostPort, Message, Node, Notification, Place, Plan, check_name,
    open_at_once, read_script,
};
use super::protocol::Protocol;
use super::psk::Key;
use crate::config::leases::LeaseName;
use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Largest file, bytes: a thousand heartbeats are half of it.
const MAX_SIZE: u64 = 1 << 20;
/// Defaults, ms: four pulses may go astray.
const PULSE_MS: u64 = 1_000;
const TIMEOUT_MS: u64 = 5_000;
const HOOK_TIMEOUT_S: u64 = 30;
const CONTROL_SOCKET: &str = "/run/xenwarden/control.sock";
const MS: RangeInclusive<u64> = 10..=3_600_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    name: Option<String>,
    metrics_textfile: Option<PathBuf>,
    control_socket: Option<PathBuf>,
    #[serde(default)]
    heartbeat: BTreeMap<String, Section>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    listen: Option<String>,
    connect: Option<String>,
    device: Option<PathBuf>,
    tcp_connect: Option<String>,
    icmp: Option<String>,
    reconnect_ms: Option<u64>,
    max_connections: Option<u64>,
    protocol: Option<String>,
    answers: Option<bool>,
    key: Option<PathBuf>,
    pulse_interval_ms: Option<u64>,
    timeout_ms: Option<u64>,
    repeat_s: Option<u64>,
    act_after_ms: Option<u64>,
    notify_connect: Option<String>,
    notify_listen: Option<String>,
    notify_device: Option<PathBuf>,
    script: Option<PathBuf>,
    qmp: Option<Vec<String>>,
    own_vmm: Option<bool>,
    hook: Option<Vec<String>>,
    hook_timeout_s: Option<u64>,
    lease: Option<String>,
}

/// Reads the file at `path`, with the scripts and keys that it names. Blocks as reading does.
///
/// # Errors
/// A line for each mistake.
pub fn load(path: &Path) -> Result<Plan, String> {
    let shown = path.display();
    let text =
        read(path).map_err(|error| format!("{shown}: cannot read the configuration: {error}"))?;
    let document: Document = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        format!("{shown}:{line}: {}", error.message().replace('\n', ", "))
    })?;
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    plan(document, stem.unwrap_or_default()).map_err(|problems| {
        let lines = problems.into_iter().map(|line| format!("{shown}: {line}"));
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn read(path: &Path) -> io::Result<String> {
    let file = open_at_once(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()) {
        Ok(size) if size <= MAX_SIZE => Ok(text),
        _ => Err(io::Error::other("larger than 1 MiB")),
    }
}

fn plan(document: Document, stem: String) -> Result<Plan, Vec<String>> {
    let mut problems = Vec::new();
    let name = document.name.unwrap_or(stem);
    problems.extend(
        check_name(&name)
            .map_err(|why| format!("name: {why}"))
            .err(),
    );
    for (key, path) in [
        ("metrics_textfile", &document.metrics_textfile),
        ("control_socket", &document.control_socket),
    ] {
        if path.as_ref().is_some_and(|path| !path.is_absolute()) {
            problems.push(format!("{key}: must be an absolute path"));
        }
    }
    if document.heartbeat.is_empty() {
        problems.push("there is no heartbeat: a section [heartbeat.NAME] is missing".to_owned());
    }
    let mut heartbeats = Vec::new();
    for (name, section) in document.heartbeat {
        let mut of = Of {
            name: &name,
            problems: &mut problems,
        };
        heartbeats.extend(of.beat(section));
    }
    problems.extend(doubles(&heartbeats));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Plan {
        name,
        heartbeats,
        metrics_textfile: document.metrics_textfile,
        control_socket: Some(
            document
                .control_socket
                .unwrap_or_else(|| CONTROL_SOCKET.into()),
        ),
        warnings: Vec::new(),
    })
}

/// Two heartbeats that would listen at one place, read one device or renew one lease.
fn doubles(heartbeats: &[BeatPlan]) -> Vec<String> {
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for beat in heartbeats {
        let alone =
            |endpoint: &Endpoint| endpoint.listens || matches!(endpoint.place, Place::Device(_));
        let node = match &beat.node {
            Node::Stream(endpoint) if alone(endpoint) => Some(endpoint.place.to_string()),
            _ => None,
        };
        let notification = beat
            .notification
            .as_ref()
            .map(|notification| &notification.to);
        let notification = notification
            .filter(|to| alone(to))
            .map(|to| to.place.to_string());
        let lease = beat.lease.as_ref().map(|lease| format!("lease {lease}"));
        for what in [node, notification, lease].into_iter().flatten() {
            if let Some(other) = taken.insert(what.clone(), &beat.name) {
                let name = &beat.name;
                problems.push(format!(
                    "heartbeat.{name}: {what} is heartbeat.{other}'s already"
                ));
            }
        }
    }
    problems
}

/// One heartbeat's section as it is validated.
struct Of<'a> {
    name: &'a str,
    problems: &'a mut Vec<String>,
}

impl Of<'_> {
    fn wrong(&mut self, key: &str, why: &str) {
        let name = self.name;
        self.problems.push(format!("heartbeat.{name}.{key}: {why}"));
    }

    fn checked<T>(&mut self, key: &str, outcome: Result<T, String>) -> Option<T> {
        outcome.map_err(|why| self.wrong(key, &why)).ok()
    }

    fn within(
        &mut self,
        key: &str,
        given: Option<u64>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let value = given.unwrap_or(default);
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            self.wrong(key, &format!("{value}: must be {low} to {high}"));
        }
        value
    }

    /// None where too much is wrong to go on; what is wrong was noted.
    fn beat(&mut self, mut section: Section) -> Option<BeatPlan> {
        let named = check_name(self.name);
        self.checked("", named);
        let node = self.node(&mut section);
        let stream = matches!(node, Some(Node::Stream(_)));
        let (protocol, key) = self.protocol(&section, stream);
        let pulse_ms = self.within("pulse_interval_ms", section.pulse_interval_ms, MS, PULSE_MS);
        let timeout_ms = self.within("timeout_ms", section.timeout_ms, MS, TIMEOUT_MS);
        let ours_count = !stream || protocol.is_none_or(Protocol::sends);
        if ours_count && timeout_ms < pulse_ms.saturating_mul(2) {
            self.wrong("timeout_ms", &format!(
                "{timeout_ms}: must be at least twice pulse_interval_ms ({pulse_ms}): a healthy peer's pulses are as far apart"
            ));
        }
        let repeat_s = self.within("repeat_s", section.repeat_s, 0..=86_400, 0);
        let act_after_ms = self.within("act_after_ms", section.act_after_ms, 0..=3_600_000, 0);
        let connections = self.within("max_connections", section.max_connections, 1..=1_024, 16);
        let notification = self.notification(&mut section);
        let own_vmm = section.own_vmm.unwrap_or(false);
        let to = notification.as_ref().and_then(Option::as_ref);
        let kept = to.is_some_and(|n| !n.to.listens && matches!(n.message, Message::Script(_)));
        if own_vmm && notification.is_some() && !kept {
            self.wrong(
                "own_vmm",
                "needs notify_connect or notify_device, and script: a connection that is kept",
            );
        }
        let hook = self.hook(&section);
        if let Some(lease) = &section.lease {
            let named = LeaseName::new(lease).map(drop);
            let wrong = || format!("{lease:?}: must be 1 to 16 of a to z, digits, - and _");
            self.checked("lease", named.ok_or_else(wrong));
        }
        Some(BeatPlan {
            name: self.name.to_owned(),
            node: node?,
            protocol: protocol?,
            answers: section.answers.unwrap_or(false),
            key,
            pulse_ms,
            timeout_ms,
            repeat_ms: (repeat_s > 0).then_some(repeat_s.saturating_mul(1_000)),
            act_after_ms,
            notification: notification?,
            own_vmm,
            hook: hook?,
            lease: section.lease,
            max_connections: usize::try_from(connections).unwrap_or(16),
        })
    }

    fn node(&mut self, section: &mut Section) -> Option<Node> {
        let reconnect_ms = section.reconnect_ms;
        if let Some(ms) = reconnect_ms {
            self.within("reconnect_ms", Some(ms), MS, ms);
        }
        let stream = |place: Place, listens: bool| {
            Node::Stream(Endpoint {
                place,
                listens,
                reconnect_ms: reconnect_ms.filter(|_| !listens),
            })
        };
        let mut found = Vec::new();
        if let Some(text) = section.listen.take() {
            found.push(
                self.checked("listen", place(&text, true))
                    .map(|p| stream(p, true)),
            );
        }
        if let Some(text) = section.connect.take() {
            found.push(
                self.checked("connect", place(&text, false))
                    .map(|p| stream(p, false)),
            );
        }
        if let Some(path) = section.device.take() {
            let path = self.checked("device", absolute(path));
            found.push(path.map(|path| stream(Place::Device(path), false)));
        }
        if let Some(text) = section.tcp_connect.take() {
            found.push(
                self.checked("tcp_connect", host_port(&text, false))
                    .map(Node::TcpConnect),
            );
        }
        if let Some(host) = section.icmp.take() {
            let fine = if host.is_empty() {
                Err("is empty".to_owned())
            } else {
                Ok(host)
            };
            found.push(self.checked("icmp", fine).map(Node::Icmp));
        }
        if found.len() != 1 {
            let why = "needs exactly one of listen, connect, device, tcp_connect and icmp";
            self.wrong("", why);
            return None;
        }
        found.pop().flatten()
    }

    fn protocol(&mut self, section: &Section, stream: bool) -> (Option<Protocol>, Option<Key>) {
        let word = section.protocol.as_deref();
        if !stream && (word.is_some() || section.answers.is_some() || section.key.is_some()) {
            let why = "protocol, answers and key are for listen, connect and device";
            self.wrong("protocol", why);
        }
        let default = if section.key.is_some() {
            "awd+psk"
        } else {
            "auto"
        };
        let protocol = self.checked("protocol", word.unwrap_or(default).parse::<Protocol>());
        let key = match (&section.key, protocol) {
            (Some(path), Some(Protocol::Sealed)) => self.checked("key", Key::read(path)),
            (None, Some(Protocol::Sealed)) => {
                self.wrong(
                    "key",
                    "is missing: protocol awd+psk needs the file of a pre-shared key",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.wrong("key", "is for protocol awd+psk");
                None
            }
            _ => None,
        };
        (protocol, key)
    }

    /// The outer none: something is wrong.
    fn notification(&mut self, section: &mut Section) -> Option<Option<Notification>> {
        let mut to = Vec::new();
        for (key, text, listens) in [
            ("notify_connect", section.notify_connect.take(), false),
            ("notify_listen", section.notify_listen.take(), true),
        ] {
            let Some(text) = text else { continue };
            to.push(
                self.checked(key, place(&text, listens))
                    .map(|place| (place, listens)),
            );
        }
        if let Some(path) = section.notify_device.take() {
            let path = self.checked("notify_device", absolute(path));
            to.push(path.map(|path| (Place::Device(path), false)));
        }
        let script = section.script.take();
        let script = script.map(|path| {
            self.checked("script", read_script(&path))
                .map(Message::Script)
        });
        let qmp = section.qmp.take();
        let qmp = qmp.map(|commands| self.checked("qmp", commands_of(commands)).map(Message::Qmp));
        let mut message: Vec<_> = script.into_iter().chain(qmp).collect();
        if to.is_empty() && message.is_empty() {
            return Some(None);
        }
        if to.len() != 1 || message.len() != 1 {
            self.wrong("script", "a notification needs one of script and qmp, and one of notify_connect, notify_listen and notify_device");
            return None;
        }
        let (place, listens) = to.pop()??;
        let message = message.pop()??;
        if listens && matches!(message, Message::Qmp(_)) {
            self.wrong("qmp", "needs notify_connect: a monitor is connected to");
            return None;
        }
        let to = Endpoint {
            place,
            listens,
            reconnect_ms: None,
        };
        Some(Some(Notification { to, message }))
    }

    fn hook(&mut self, section: &Section) -> Option<Option<Hook>> {
        let seconds = self.within(
            "hook_timeout_s",
            section.hook_timeout_s,
            1..=3_600,
            HOOK_TIMEOUT_S,
        );
        let Some(command) = section.hook.clone() else {
            return Some(None);
        };
        let program = command.first().map(PathBuf::from).unwrap_or_default();
        if !program.is_absolute() {
            self.wrong("hook", "must be an array: an absolute path, and arguments");
            return None;
        }
        self.checked("hook", may_run(&program))?;
        Some(Some(Hook {
            command,
            timeout_ms: seconds.saturating_mul(1_000),
        }))
    }
}

/// Whether this program's user may run it. That a loss finds nothing to run is better known before.
fn may_run(program: &Path) -> Result<(), String> {
    let told = |why: &dyn Display| format!("{}: {why}", program.display());
    let found = fs::metadata(program).map_err(|error| told(&error))?;
    if !found.is_file() {
        return Err(told(&"is no file"));
    }
    access(program, AccessFlags::X_OK)
        .map_err(|errno| told(&format!("this user may not run it: {}", errno.desc())))
}

fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err(format!("{}: must be an absolute path", path.display())),
    }
}

/// Each a JSON object with a command, as QMP wants it.
fn commands_of(commands: Vec<String>) -> Result<Vec<String>, String> {
    if commands.is_empty() {
        return Err("is empty".to_owned());
    }
    for command in &commands {
        let value: Option<serde_json::Value> = serde_json::from_str(command).ok();
        let name = value.as_ref().and_then(|value| value.get("execute"));
        if !name.is_some_and(serde_json::Value::is_string) {
            return Err(format!(
                "{command}: is no command like {{\"execute\": \"quit\"}}"
            ));
        }
    }
    let line = |command: String| command.replace(['\n', '\r'], " ");
    Ok(commands.into_iter().map(line).collect())
}

/// `unix:/path` or `host:port`.
fn place(text: &str, listens: bool) -> Result<Place, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return absolute(path.into()).map(Place::Unix);
    }
    host_port(text, listens).map(Place::Tcp)
}

/// `host:port`, `[address]:port`, and where it listens also `:port`.
fn host_port(text: &str, listens: bool) -> Result<HostPort, String> {
    let wrong = || format!("{text}: must be HOST:PORT, [ADDRESS]:PORT or unix:/PATH");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(bare) => bare,
        None if host.contains([':', '[', ']']) => return Err(wrong()),
        None => host,
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port > 0);
    if host.is_empty() && !listens {
        return Err(wrong());
    }
    Ok(HostPort {
        host: host.to_owned(),
        port: port.ok_or_else(wrong)?,
    })
}
