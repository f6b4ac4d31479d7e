// SPDX-License-Identifier: GPL-2.0-only
//! What xenwarden-pulse is to do: the one meaning of both ways to configure it.
//!
//! In: nothing; [`super::options`] and [`super::config`] make it. Out: a plan without contradictions. What it
//! names was read where it must be there at the start: scripts and keys.

use super::heartbeat::Timing;
use super::protocol::Protocol;
use super::psk::Key;
use crate::sys::clock::NS_PER_MS;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest script, bytes.
const MAX_SCRIPT: u64 = 64 * 1024;
/// Longest name of a heartbeat, a lease or this process, bytes.
const MAX_NAME: usize = 64;

/// All that one process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The process's own name, as status and events bear it.
    pub name: String,
    /// What it watches.
    pub heartbeats: Vec<BeatPlan>,
    /// The file for node_exporter's textfile collector.
    pub metrics_textfile: Option<PathBuf>,
    /// The monitor's control socket, to which events are told; none: they are only logged.
    pub control_socket: Option<PathBuf>,
    /// What is allowed, and hardly meant.
    pub warnings: Vec<String>,
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeatPlan {
    /// Its name: that of both sides, where it is sealed.
    pub name: String,
    /// Where it is heard.
    pub node: Node,
    /// How.
    pub protocol: Protocol,
    /// AWD's `server=off`: it answers each pulse.
    pub answers: bool,
    /// For [`Protocol::Sealed`].
    pub key: Option<Key>,
    /// From one pulse of ours to the next, ms. Never 0.
    pub pulse_ms: u64,
    /// Without a pulse of theirs for so long it is lost, ms. Never 0.
    pub timeout_ms: u64,
    /// What is done for a loss is done again after so long, ms; none: once.
    pub repeat_ms: Option<u64>,
    /// From a loss to what is done for it, ms.
    pub act_after_ms: u64,
    /// What is sent to a monitor.
    pub notification: Option<Notification>,
    /// That monitor is our own VMM's: pulses are sent only while it is there, and answers.
    pub own_vmm: bool,
    /// What is run.
    pub hook: Option<Hook>,
    /// The lease that is renewed while it is not lost.
    pub lease: Option<String>,
    /// Connections that a listening node has at once.
    pub max_connections: usize,
}

impl BeatPlan {
    /// Its times.
    #[must_use]
    pub fn timing(&self) -> Timing {
        let ns = |ms: u64| ms.saturating_mul(NS_PER_MS);
        Timing {
            timeout_ns: ns(self.timeout_ms),
            act_after_ns: ns(self.act_after_ms),
            repeat_ns: self.repeat_ms.map(ns),
        }
    }
}

/// Where a heartbeat is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// On a stream of bytes.
    Stream(Endpoint),
    /// A server that must accept connections.
    TcpConnect(HostPort),
    /// A host that must answer to pings.
    Icmp(String),
}

/// One end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub place: Place,
    /// The other side connects.
    pub listens: bool,
    /// A fixed time from one attempt to the next, ms; none: longer and longer, up to 10 s.
    pub reconnect_ms: Option<u64>,
}

/// A host's name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The host; empty: all addresses of this one.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Where a stream leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// TCP.
    Tcp(HostPort),
    /// A unix stream socket.
    Unix(PathBuf),
    /// A terminal, as a guest's serial console has one; or a fifo, which is only read.
    Device(PathBuf),
}

/// What is sent to a monitor at a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// To whom.
    pub to: Endpoint,
    /// What.
    pub message: Message,
}

/// What a notification consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The bytes of a script, as they are.
    Script(Vec<u8>),
    /// Commands of QMP, one after the other: a line of JSON each.
    Qmp(Vec<String>),
}

/// A program that is run at a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its path and its arguments.
    pub command: Vec<String>,
    /// Until it is ended, ms.
    pub timeout_ms: u64,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Device(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(endpoint) => endpoint.place.fmt(f),
            Self::TcpConnect(at) => at.fmt(f),
            Self::Icmp(host) => f.write_str(host),
        }
    }
}

/// Descriptors for what is not a heartbeat's connection.
const OWN_DESCRIPTORS: u64 = 64;

impl Plan {
    /// Descriptors that its heartbeats and the program itself have open at once, at most.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        let beats = self.heartbeats.iter().map(|beat| {
            let node = match &beat.node {
                Node::Stream(endpoint) if endpoint.listens => beat.max_connections,
                _ => 1,
            };
            u64::try_from(node).unwrap_or(u64::MAX)
        });
        beats.fold(OWN_DESCRIPTORS, u64::saturating_add)
    }
}

impl BeatPlan {
    /// How it is heard, in a word.
    #[must_use]
    pub fn protocol_name(&self) -> &'static str {
        match self.node {
            Node::Stream(_) => self.protocol.name(),
            Node::TcpConnect(_) => "tcp-connect",
            Node::Icmp(_) => "icmp",
        }
    }
}

/// Opens a file to be read. Does not wait for somebody to write to a fifo (open(2)): that is left to
/// whoever then looks what it is.
///
/// # Errors
/// The errno of it.
pub(super) fn open_at_once(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// A script's bytes. Blocks as reading does.
///
/// # Errors
/// Why it cannot be read.
pub fn read_script(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let file = open_at_once(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_SCRIPT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| format!("{}: {error}", path.display()))?;
    match bytes.len() {
        0 => Err(format!("{}: the script is empty", path.display())),
        n if u64::try_from(n).is_ok_and(|n| n > MAX_SCRIPT) => {
            Err(format!("{}: larger than 64 KiB", path.display()))
        }
        _ => Ok(bytes),
    }
}

/// Whether a heartbeat, a lease or this process may be called so: a name of one file, without
/// tricks.
///
/// # Errors
/// What a name is.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fine = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with(['.', '-'])
        && name.bytes().all(plain);
    if fine {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name: 1 to 64 letters, digits and -_. of which the first is no dot or hyphen"
    ))
}
