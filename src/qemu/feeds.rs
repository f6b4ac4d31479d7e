// SPDX-License-Identifier: GPL-2.0-only
//! How a guest's feeds are seen: by QEMU's own events, by its trace, or not at all.
//!
//! In: a QMP client. Out: which way there is, and the trace switched on and off. The trace costs
//! QEMU a line of its log for each register that its guest writes to, so it is on only while
//! somebody needs to know.

use super::log_file::{LogFile, is_own};
use super::peer;
use super::trace::{EVENTS, Sighting};
use crate::control::peer::Peer;
use crate::qmp::{CallError, Client};
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// Events of a QEMU with the patches of qemu-patches.
pub const ARMED: &str = "WATCHDOG_ARMED";
/// Likewise.
pub const FED: &str = "WATCHDOG_FED";

/// Types of watchdog devices (`info qtree`, `qom-list`) whose writes the trace shows.
const TRACED: [&str; 2] = ["i6300esb", "ib700"];
/// And those of which it shows nothing: they have instructions, not registers.
const UNTRACED: [&str; 1] = ["diag288"];
/// Where a VM's devices are (docs/devel/qom.rst).
const DEVICES: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
/// Where QEMU's log goes when the trace is over: it cannot be asked where it went before.
const NOWHERE: &str = "/dev/null";

/// How feeds can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// QEMU tells of them itself.
    pub events: bool,
    /// Its trace shows them.
    pub trace: bool,
    /// Why its trace does not; none where it does.
    pub no_trace: Option<String>,
    /// The watchdog devices of the VM, by their types.
    pub devices: Vec<String>,
}

impl Ways {
    /// Asks a QEMU.
    ///
    /// # Errors
    /// The connection is of no use.
    pub fn find(client: &mut Client) -> Result<Self, CallError> {
        let devices = devices(client)?;
        let no_trace = match cannot_trace(&devices) {
            Some(why) => Some(why),
            None => no_trace(client)?,
        };
        Ok(Self {
            events: has_events(client)?,
            trace: no_trace.is_none(),
            no_trace,
            devices,
        })
    }

    /// No feed can be seen, whatever the guest does.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        !self.events && !self.trace
    }
}

/// What is refused is an answer too: then there is nothing.
fn ask(client: &mut Client, command: &str, arguments: Value) -> Result<Option<Value>, CallError> {
    let arguments = match arguments {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    match client.call(command, arguments) {
        Ok(value) => Ok(Some(value)),
        Err(CallError::Refused(_)) => Ok(None),
        Err(stopped) => Err(stopped),
    }
}

fn devices(client: &mut Client) -> Result<Vec<String>, CallError> {
    let mut found = Vec::new();
    for path in DEVICES {
        let Some(list) = ask(client, "qom-list", json!({ "path": path }))? else {
            continue;
        };
        let types = list.as_array().into_iter().flatten();
        let types = types.filter_map(|entry| {
            let of = entry.get("type")?.as_str()?;
            of.strip_prefix("child<")?.strip_suffix('>')
        });
        let is_watchdog = |name: &&str| TRACED.contains(name) || UNTRACED.contains(name);
        found.extend(types.filter(is_watchdog).map(str::to_owned));
    }
    Ok(found)
}

/// Several devices: WATCHDOG does not say whose it is, so that what feeds the one would clear the
/// alarm of the other.
fn cannot_trace(devices: &[String]) -> Option<String> {
    match devices {
        [] => Some("it has no watchdog device that is known here".to_owned()),
        [one] if TRACED.contains(&one.as_str()) => None,
        [one] => Some(format!("QEMU's trace shows no feeds of a {one}")),
        several => Some(format!(
            "it has {} watchdog devices, whose alarms QEMU does not tell apart",
            several.len()
        )),
    }
}

fn has_events(client: &mut Client) -> Result<bool, CallError> {
    let Some(schema) = ask(client, "query-qmp-schema", Value::Null)? else {
        return Ok(false);
    };
    let is_fed = |entry: &Value| {
        let is = |member: &str, text: &str| entry.get(member).and_then(Value::as_str) == Some(text);
        is("meta-type", "event") && is("name", FED)
    };
    Ok(schema.as_array().is_some_and(|all| all.iter().any(is_fed)))
}

/// Why this QEMU cannot trace what its guest writes.
fn no_trace(client: &mut Client) -> Result<Option<String>, CallError> {
    for name in EVENTS {
        if state(client, name)?.is_none() {
            return Ok(Some(format!("this QEMU has no trace event {name}")));
        }
    }
    Ok(None)
}

/// Whether a trace event is on; none where there is no such one.
fn state(client: &mut Client, name: &str) -> Result<Option<bool>, CallError> {
    let answer = ask(client, "trace-event-get-state", json!({ "name": name }))?;
    let first = answer
        .as_ref()
        .and_then(|list| list.get(0)?.get("state")?.as_str());
    Ok(match first {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    })
}

/// The trace of one VM.
#[derive(Debug)]
pub struct Trace {
    directory: PathBuf,
    must_be_mounted: bool,
    name: String,
    log: Option<LogFile>,
}

impl Trace {
    /// Switched off as far as this knows; the log's file will be `name`.log in `directory`. Where
    /// that must be a file system of its own and is none, it is never switched on.
    #[must_use]
    pub fn new(directory: &Path, must_be_mounted: bool, name: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            must_be_mounted,
            name: name.to_owned(),
            log: None,
        }
    }

    /// It is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// Switches it on: the log first, so that nothing goes elsewhere.
    ///
    /// # Errors
    /// In words, where QEMU or the disk refuses; or that the connection is of no use.
    pub fn switch_on(&mut self, client: &mut Client) -> Result<(), CallError> {
        let refused = |what: String| CallError::Refused(what);
        if self.must_be_mounted && !is_own(&self.directory) {
            return Err(refused(not_mounted(&self.directory)));
        }
        let user = peer::process(client.stream()).and_then(peer::user);
        let user = match user {
            Some(user) => user,
            None => Peer::of(client.stream(), None)?.uid,
        };
        let log = LogFile::create(&self.directory, &self.name, user)
            .map_err(|error| refused(format!("{}: {error}", self.directory.display())))?;
        let path = log.path().display().to_string();
        let said = client.human(&format!("logfile {path}"))?;
        if !said.is_empty() {
            return Err(refused(format!("logfile {path}: {said}")));
        }
        self.log = Some(log);
        set(client, true)
    }

    /// Switches it off, whoever switched it on.
    ///
    /// # Errors
    /// As of [`Trace::switch_on`].
    pub fn switch_off(&mut self, client: &mut Client) -> Result<(), CallError> {
        self.log = None;
        set(client, false)?;
        let said = client.human(&format!("logfile {NOWHERE}"))?;
        if said.is_empty() {
            Ok(())
        } else {
            Err(CallError::Refused(format!("logfile {NOWHERE}: {said}")))
        }
    }

    /// The connection ended: QEMU writes on, or is gone.
    pub fn lost(&mut self) {
        self.log = None;
    }

    /// What the guest wrote to its watchdog since the last look.
    ///
    /// # Errors
    /// Those of the log's file.
    pub fn look(&mut self) -> io::Result<Vec<Sighting>> {
        self.log.as_mut().map_or(Ok(Vec::new()), LogFile::look)
    }
}

/// What is said where no file system is mounted at the default directory.
#[must_use]
pub fn not_mounted(directory: &Path) -> String {
    format!(
        "{}: no file system of its own, so no trace is written: mount a tmpfs of 32 MiB there \
         (run-xenwarden_qemu_trace.mount), or name trace.directory",
        directory.display()
    )
}

fn set(client: &mut Client, enable: bool) -> Result<(), CallError> {
    for name in EVENTS {
        let arguments = json!({ "name": name, "enable": enable });
        if ask(client, "trace-event-set-state", arguments)?.is_none() {
            return Err(CallError::Refused(format!("it does not switch {name}")));
        }
    }
    Ok(())
}
