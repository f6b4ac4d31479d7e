// SPDX-License-Identifier: GPL-2.0-only
//! The configuration of xenwarden-qemu: a file, then a policy that is whole.
//!
//! In: a TOML file; xenwarden-qemu(8) documents its keys. Out: a [`Policy`], or all that is wrong,
//! a line each. The file's name gives the instance its name, and so its sockets and directories.

use crate::config::policy::{CONTROL_SOCKET, GROUP, fits_a_socket};
use crate::config::problems::Problems;
use crate::config::{self, ConfigError};
use crate::event::Uuid;
use crate::guests::alarm::{Nanoseconds, Rules};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where instances listen: `NAME.sock`, for `xenwarden guests` and `xenwarden ack`.
pub const RUN_DIRECTORY: &str = "/run/xenwarden-qemu";
/// Where they keep what must outlive them: a directory of this name for each.
const STATE_DIRECTORY: &str = "/var/lib/xenwarden-qemu";
/// Where QEMUs write their traces: a file system of its own, which the mount unit of its name makes.
const TRACE_DIRECTORY: &str = "/run/xenwarden_qemu_trace";
/// Longest name, characters: it is part of file names.
const MAX_NAME: usize = 64;
/// Most VMs of one instance: each has a thread.
const MOST_VMS: usize = 256;
const NS_PER_S: Nanoseconds = 1_000_000_000;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    control: Control,
    monitor: Monitor,
    state: Directory,
    trace: Directory,
    guests: Guests,
    vm: Vec<FileVm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Control {
    socket: Option<PathBuf>,
    group: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Monitor {
    socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Directory {
    directory: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Guests {
    boot_deadline_s: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileVm {
    name: String,
    qmp: PathBuf,
    uuid: Option<Uuid>,
}

/// What an instance does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where it answers.
    pub control_socket: PathBuf,
    /// Who may ask, besides root.
    pub control_group: String,
    /// Where the monitor is told of events.
    pub monitor_socket: PathBuf,
    /// Where alarms are kept.
    pub state_directory: PathBuf,
    /// Where QEMUs write their traces.
    pub trace_directory: PathBuf,
    /// That is the default one: it must be a file system of its own, as it is in /run, which all of
    /// the host needs. Who names another knows its bounds.
    pub trace_must_be_mounted: bool,
    /// How long a boot may take.
    pub rules: Rules,
    /// Whom it follows.
    pub vms: Vec<PolicyVm>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVm {
    /// Its name in events, and of its trace's file.
    pub name: String,
    /// A QMP socket that nobody else uses.
    pub qmp: PathBuf,
    /// Its guest; none: as QEMU says.
    pub uuid: Option<Uuid>,
}

/// The guest of a VM of which nobody says a UUID: one of version 8 (RFC 9562) that its name gives
/// (FNV-1a, draft-eastlake-fnv), the same each time.
#[must_use]
pub fn made_up(name: &str) -> Uuid {
    let hash = name.bytes().fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128,
        |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    );
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

/// Reads, parses and validates the file at `path`.
///
/// # Errors
/// [`ConfigError`].
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let name = path.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    config::load_as(path, |file| validate(&name, file))
}

fn validate(instance: &str, file: File) -> Result<Policy, String> {
    let mut wrong = Problems::default();
    if !is_name(instance) {
        wrong.add(format!(
            "{instance:?}: the file's name, without .conf, is the instance's: {NAME_RULE}"
        ));
    }
    let run = format!("{RUN_DIRECTORY}/{instance}.sock");
    let state = format!("{STATE_DIRECTORY}/{instance}");
    let boot_deadline_s = wrong.within(
        "guests.boot_deadline_s",
        file.guests.boot_deadline_s,
        1..=86_400,
        300,
        " s",
    );
    let policy = Policy {
        control_socket: wrong.absolute("control.socket", file.control.socket, &run),
        control_group: file.control.group.unwrap_or_else(|| GROUP.to_owned()),
        monitor_socket: wrong.absolute("monitor.socket", file.monitor.socket, CONTROL_SOCKET),
        state_directory: wrong.absolute("state.directory", file.state.directory, &state),
        trace_must_be_mounted: file.trace.directory.is_none(),
        trace_directory: wrong.absolute("trace.directory", file.trace.directory, TRACE_DIRECTORY),
        rules: Rules {
            boot_deadline_ns: Nanoseconds::from(boot_deadline_s) * NS_PER_S,
            ..Rules::default()
        },
        vms: vms(file.vm, &mut wrong),
    };
    wrong.note(fits_a_socket("control.socket", &policy.control_socket));
    wrong.note(fits_a_socket("monitor.socket", &policy.monitor_socket));
    // It becomes a word of a command of QEMU's human monitor.
    let trace = policy.trace_directory.to_string_lossy();
    if !trace
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    {
        wrong.add(format!(
            "trace.directory = {trace:?}: must consist of letters, digits and / . _ -"
        ));
    }
    let wrong = wrong.into_lines();
    if wrong.is_empty() {
        Ok(policy)
    } else {
        Err(wrong.join("\n"))
    }
}

const NAME_RULE: &str = "1 to 64 letters, digits and . _ -, the first one a letter or digit";

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

fn vms(given: Vec<FileVm>, wrong: &mut Problems) -> Vec<PolicyVm> {
    if given.is_empty() {
        wrong.add("no [[vm]]: name at least one, with `name` and `qmp`".to_owned());
    }
    if given.len() > MOST_VMS {
        wrong.add(format!(
            "{} [[vm]]s: at most {MOST_VMS} in one file",
            given.len()
        ));
    }
    let (mut names, mut sockets, mut uuids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut taken = Vec::new();
    for vm in given {
        let name = vm.name;
        if !is_name(&name) {
            wrong.add(format!("vm.name = {name:?}: must be {NAME_RULE}"));
        }
        let qmp = wrong.absolute("vm.qmp", Some(vm.qmp), "");
        wrong.note(fits_a_socket("vm.qmp", &qmp));
        if !names.insert(name.clone()) {
            wrong.add(format!("vm.name = {name:?}: is there twice"));
        }
        if !sockets.insert(qmp.clone()) {
            wrong.add(format!(
                "vm.qmp = {qmp:?}: is there twice, and serves one client alone"
            ));
        }
        match vm.uuid {
            Some(uuid) if uuid.is_nil() => {
                wrong.add(format!("vm.uuid = \"{uuid}\": is no guest's"))
            }
            Some(uuid) if !uuids.insert(uuid) => {
                wrong.add(format!("vm.uuid = \"{uuid}\": is there twice"));
            }
            _ => {}
        }
        let uuid = vm.uuid;
        taken.push(PolicyVm { name, qmp, uuid });
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Policy, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        validate("all", file)
    }

    #[test]
    fn a_file_with_a_name_and_a_socket_is_enough() {
        let policy = read("[[vm]]\nname = \"web\"\nqmp = \"/run/web.qmp\"").expect("a policy");
        assert_eq!(
            policy.control_socket,
            Path::new("/run/xenwarden-qemu/all.sock")
        );
        assert_eq!(
            policy.state_directory,
            Path::new("/var/lib/xenwarden-qemu/all")
        );
        assert_eq!(policy.rules, Rules::default());
        assert_eq!(policy.vms.len(), 1);
        assert!(policy.trace_must_be_mounted, "never into /run itself");
        let named = "[trace]\ndirectory = \"/t\"\n[[vm]]\nname = \"web\"\nqmp = \"/run/web.qmp\"";
        assert!(!read(named).expect("a policy").trace_must_be_mounted);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let vm = "[[vm]]\nname = \"a\"\nqmp = \"/q\"\n";
        let cases: [(&str, &[&str]); 8] = [
            ("", &["no [[vm]]"]),
            (
                &format!("{vm}{vm}"),
                &[
                    "vm.name = \"a\": is there twice",
                    "vm.qmp = \"/q\": is there twice",
                ],
            ),
            (
                "[[vm]]\nname = \"../a\"\nqmp = \"q\"",
                &[
                    "vm.name = \"../a\"",
                    "vm.qmp = \"q\": must be an absolute path",
                ],
            ),
            (
                &format!("{vm}uuid = \"00000000-0000-0000-0000-000000000000\""),
                &["vm.uuid"],
            ),
            (&format!("{vm}uuid = \"x\""), &["uuid"]),
            (
                &format!("[guests]\nboot_deadline_s = 0\n{vm}"),
                &["guests.boot_deadline_s = 0"],
            ),
            (
                &format!("[trace]\ndirectory = \"/a b\"\n{vm}"),
                &["trace.directory"],
            ),
            (&format!("[trace]\nfile = \"/a\"\n{vm}"), &["unknown field"]),
        ];
        for (text, words) in cases {
            let said = read(text).expect_err(text);
            for word in words {
                assert!(said.contains(word), "{text}: {said}");
            }
        }
    }
}
