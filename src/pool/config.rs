// SPDX-License-Identifier: GPL-2.0-only
//! The configuration of xenwarden-pool: a file, then a policy that is whole.
//!
//! In: a TOML file, which need not be there; xenwarden-pool(8) documents its keys. Out: a [`Policy`], or all that is wrong, a line each.

use super::fencer::Settings;
use super::hooks::Rule;
use super::protocol::SOCKET;
use super::record::HostId;
use super::told::Filter;
use crate::config::leases::LeaseName;
use crate::config::policy::{CONTROL_SOCKET, GROUP, fits_a_socket};
use crate::config::problems::Problems;
use crate::config::{self, ConfigError};
use crate::fencing::member::Terms;
use crate::guard::leases::page;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file that is read unless another is named.
pub const DEFAULT_PATH: &str = "/etc/xenwarden/pool.conf";
/// Where logs are.
const STATE_DIRECTORY: &str = "/var/lib/xenwarden-pool";
/// Where the monitor's event socket is.
const EVENTS_SOCKET: &str = "/run/xenwarden/events.sock";
/// The lease that a host without quorum does not renew.
const LEASE: &str = "pool";
/// Where what is to outlive the program in this boot is kept.
const KEPT: &str = "/run/xenwarden-pool/fencing.json";
/// How old what corosync says of a quorum device may be, seconds: sync_timeout and timeout of corosync-qdevice(8).
const QUORUM_DEVICE_S: u32 = 40;
const MOST_HOOKS: usize = super::fold::MAX_HOOKS;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    host_id: Option<HostId>,
    keep: Option<u32>,
    socket: Option<PathBuf>,
    group: Option<String>,
    state: Option<PathBuf>,
    monitor_events: Option<PathBuf>,
    monitor_control: Option<PathBuf>,
    ring_group: Option<String>,
    fence_without_quorum: Option<bool>,
    lease: Option<String>,
    lease_page: Option<PathBuf>,
    quorum_device_s: Option<u32>,
    kept: Option<PathBuf>,
    hook: Vec<FileHook>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHook {
    name: String,
    command: Vec<String>,
    #[serde(default)]
    kinds: Vec<String>,
    timeout_s: Option<u32>,
}

/// What a member does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// This host's id, in place of the one that its machine's id gives.
    pub host_id: Option<HostId>,
    /// Records of each host that are kept for subscribers.
    pub keep: usize,
    /// Where it answers.
    pub socket: PathBuf,
    /// Who may ask, besides root.
    pub group: String,
    /// Where its logs are.
    pub state: PathBuf,
    /// The monitor's event socket.
    pub monitor_events: PathBuf,
    /// The monitor's control socket.
    pub monitor_control: PathBuf,
    /// The group on corosync's ring.
    pub ring_group: String,
    /// Its part in fencing.
    pub fencing: Settings,
    /// Hooks that the leader runs.
    pub hooks: Vec<Rule>,
}

/// Reads, parses and validates the file at `path`; `None`: the default one, which need not be there.
///
/// # Errors
/// [`ConfigError`].
pub fn load(path: Option<&Path>) -> Result<Policy, ConfigError> {
    match path {
        Some(path) => config::load_as(path, validate),
        None => load_if_there(Path::new(DEFAULT_PATH)),
    }
}

/// Reads, parses and validates the file at `path`, which need not be there.
///
/// # Errors
/// [`ConfigError`].
pub fn load_if_there(path: &Path) -> Result<Policy, ConfigError> {
    match config::load_as(path, validate) {
        Err(ConfigError::Unreadable { path, error })
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            validate(File::default()).map_err(|message| ConfigError::Invalid { path, message })
        }
        loaded => loaded,
    }
}

/// What is done without a file. None only if the defaults were at fault.
#[must_use]
pub fn defaults() -> Option<Policy> {
    validate(File::default()).ok()
}

fn validate(file: File) -> Result<Policy, String> {
    let mut wrong = Problems::default();
    let fencing = fencing(&file, &mut wrong);
    let keep = wrong.within("keep", file.keep, 100..=100_000, 1_000, "");
    let ring_group = file
        .ring_group
        .unwrap_or_else(|| super::ring::GROUP.to_owned());
    // CPG_MAX_NAME_LENGTH of corosync/cpg.h
    if ring_group.is_empty() || ring_group.len() > 128 {
        wrong.add(format!(
            "ring_group = {ring_group:?}: must have 1 to 128 bytes"
        ));
    }
    if file.host_id.is_some_and(|id| id.is_nil()) {
        wrong.add("host_id: is no host's".to_owned());
    }
    let policy = Policy {
        fencing,
        host_id: file.host_id,
        keep: usize::try_from(keep).unwrap_or(usize::MAX),
        socket: wrong.absolute("socket", file.socket, SOCKET),
        group: file.group.unwrap_or_else(|| GROUP.to_owned()),
        state: wrong.absolute("state", file.state, STATE_DIRECTORY),
        monitor_events: wrong.absolute("monitor_events", file.monitor_events, EVENTS_SOCKET),
        monitor_control: wrong.absolute("monitor_control", file.monitor_control, CONTROL_SOCKET),
        ring_group,
        hooks: hooks(file.hook, &mut wrong),
    };
    for (key, path) in [
        ("socket", &policy.socket),
        ("monitor_events", &policy.monitor_events),
        ("monitor_control", &policy.monitor_control),
    ] {
        wrong.note(fits_a_socket(key, path));
    }
    let wrong = wrong.into_lines();
    if wrong.is_empty() {
        Ok(policy)
    } else {
        Err(wrong.join("\n"))
    }
}

fn fencing(file: &File, wrong: &mut Problems) -> Settings {
    let name = file.lease.as_deref().unwrap_or(LEASE);
    let lease = LeaseName::new(name).or_else(|| {
        wrong.add(format!("lease = {name:?}: no name of a [[lease]]"));
        LeaseName::new(LEASE)
    });
    let device_s = wrong.within(
        "quorum_device_s",
        file.quorum_device_s,
        1..=3_600,
        QUORUM_DEVICE_S,
        " seconds",
    );
    let page = wrong.absolute("lease_page", file.lease_page.clone(), page::PATH);
    Settings {
        terms: Terms {
            without_quorum: file.fence_without_quorum.unwrap_or(false),
            device_ms: u64::from(device_s) * 1_000,
        },
        lease: lease.unwrap_or_default(),
        page,
        kept: wrong.absolute("kept", file.kept.clone(), KEPT),
    }
}

fn hooks(given: Vec<FileHook>, wrong: &mut Problems) -> Vec<Rule> {
    if given.len() > MOST_HOOKS {
        wrong.add(format!("{} [[hook]]s: at most {MOST_HOOKS}", given.len()));
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for hook in given {
        let name = hook.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            wrong.add(format!(
                "hook.name = {name:?}: must be 1 to 64 letters, digits and . _ -"
            ));
        }
        if !names.insert(name.clone()) {
            wrong.add(format!("hook.name = {name:?}: is there twice"));
        }
        if !hook.command.first().is_some_and(|c| c.starts_with('/')) {
            wrong.add(format!(
                "hook.command of {name:?}: must begin with the absolute path of a program"
            ));
        }
        let known = |kind: &str| {
            crate::event::kind::is_known(kind)
                || super::told::KINDS.contains(&kind)
                || kind == "pool."
        };
        for kind in hook.kinds.iter().filter(|kind| !known(kind)) {
            wrong.add(format!(
                "hook.kinds of {name:?}: {kind:?} is no kind of event, nor the beginning of some up to a dot"
            ));
        }
        let timeout_s = wrong.within("hook.timeout_s", hook.timeout_s, 1..=3_600, 30, " s");
        rules.push(Rule {
            name,
            command: hook.command,
            filter: Filter {
                kinds: hook.kinds,
                guest: None,
            },
            timeout_ms: u64::from(timeout_s).saturating_mul(1_000),
        });
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policy, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        validate(file)
    }

    #[test]
    fn nothing_need_be_configured() {
        let policy = read("").expect("a policy");
        assert_eq!(policy.socket, Path::new(SOCKET));
        assert!(policy.hooks.is_empty() && policy.keep == 1_000);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text = "keep = 1\nsocket = \"pool.sock\"\n[[hook]]\nname = \"a b\"\ncommand = [\"true\"]\nkinds = [\"guest.eaten\"]\n";
        let said = read(text).expect_err("wrong");
        for word in [
            "keep = 1",
            "socket",
            "hook.name",
            "hook.command",
            "guest.eaten",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(read("unknown = 1").is_err());
        let fine =
            "[[hook]]\nname = \"a\"\ncommand = [\"/bin/true\"]\nkinds = [\"alarm.\", \"pool.\"]\n";
        assert_eq!(read(fine).expect("fine").hooks.len(), 1);
    }
}
