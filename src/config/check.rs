// SPDX-License-Identifier: GPL-2.0-only
//! Whether what a policy names is on this host, and as it must be.
//!
//! In: a policy. Out: all that is wrong, a line for each. It looks and changes nothing; it
//! opens no device.

use super::Policy;
use super::policy::GROUP;
use crate::watchdog::candidates::Selector;
use crate::watchdog::sysfs::is_misc_device;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// All that is wrong with what `policy` names.
#[must_use]
pub fn check(policy: &Policy) -> Vec<String> {
    check_below(policy, Path::new("/"))
}

/// The same on a system whose root is `root`.
#[must_use]
pub fn check_below(policy: &Policy, root: &Path) -> Vec<String> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let mut wrong = Vec::new();
    let mut note = |key: &str, path: &Path, outcome: Result<(), String>| {
        if let Err(why) = outcome {
            wrong.push(format!("{key}: {}: {why}", path.display()));
        }
    };
    for selector in &policy.devices {
        // Any other way to name one finds nothing but watchdogs.
        if let Selector::Path(path) = selector {
            let found = watchdog(&below(path), &root.join("sys/dev/char"));
            note("host-watchdog.device", path, found);
        }
    }
    for (key, path) in [
        ("control.socket", &policy.control_socket),
        ("events.socket", &policy.events.socket),
    ] {
        note(key, path, socket(&below(path)));
    }
    let state = &policy.state_directory;
    note("state.directory", state, directory(&below(state)));
    if let Some(path) = &policy.metrics_textfile {
        note("metrics.textfile", path, textfile(&below(path)));
    }
    for (hook, n) in policy.hooks.hooks.iter().zip(1..) {
        let found = program(&below(&hook.program)).map(drop);
        note(&format!("hook {n}: program"), &hook.program, found);
    }
    wrong.extend(group(&policy.control_group).err());
    wrong
}

/// A device that is not here may come with its driver; one that is here must be a watchdog,
/// by what the kernel says of its numbers under `numbers`.
fn watchdog(device: &Path, numbers: &Path) -> Result<(), String> {
    let Ok(found) = fs::metadata(device) else {
        return Ok(());
    };
    let not_one = || Err("not a watchdog device".to_owned());
    if !found.file_type().is_char_device() {
        return not_one();
    }
    if is_misc_device(&found) {
        return Ok(());
    }
    let (major, minor) = (libc::major(found.rdev()), libc::minor(found.rdev()));
    let subsystem = numbers.join(format!("{major}:{minor}/subsystem"));
    match subsystem.canonicalize() {
        Ok(subsystem) if !subsystem.ends_with("watchdog") => not_one(),
        // Without sysfs nobody can tell.
        _ => Ok(()),
    }
}

/// It is a directory, or can become one.
fn directory(path: &Path) -> Result<(), String> {
    for above in path.ancestors() {
        match fs::metadata(above) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) if above == path => return Err("not a directory".to_owned()),
            Ok(_) => return Err(format!("{} is not a directory", above.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn socket(path: &Path) -> Result<(), String> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err("exists and is no socket".to_owned());
    }
    path.parent().map_or(Ok(()), directory)
}

fn textfile(path: &Path) -> Result<(), String> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err("exists and is no plain file".to_owned());
    }
    match path.parent().map(fs::metadata) {
        Some(Ok(found)) if found.is_dir() => Ok(()),
        _ => Err("its directory is not there: make it, or mend the path".to_owned()),
    }
}

/// The default group need not exist: then root alone may ask. One that was named must.
fn group(name: &str) -> Result<(), String> {
    if name == GROUP || matches!(nix::unistd::Group::from_name(name), Ok(Some(_))) {
        return Ok(());
    }
    Err(format!(
        "control.group: there is no group {name:?}: make it, or name another"
    ))
}

/// Writable by the group or by others; a directory with this is fine if it is sticky.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The monitor is root, so a hook's program runs only if nobody but root (or the monitor's own
/// user) could have changed it or put another in its place: the file and every directory
/// above it. Checks the program at `path` and gives where it really is.
///
/// # Errors
/// What is wrong with it, in words.
pub fn program(path: &Path) -> Result<PathBuf, String> {
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    let found = fs::metadata(&real).map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("not a regular file".to_owned());
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err("not executable: chmod +x it".to_owned());
    }
    if !is_ours(&found) {
        return Err("not owned by root".to_owned());
    }
    if found.permissions().mode() & OTHERS_WRITE != 0 {
        return Err("others than root can write it: chmod go-w it".to_owned());
    }
    for directory in real.ancestors().skip(1) {
        let above = fs::metadata(directory).map_err(|error| error.to_string())?;
        let mode = above.permissions().mode();
        let open = mode & OTHERS_WRITE != 0 && mode & STICKY == 0;
        if open || !is_ours(&above) {
            return Err(format!(
                "others than root can replace it: {} is theirs or writable by them",
                directory.display()
            ));
        }
    }
    Ok(real)
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;

    fn policy(text: &str) -> Policy {
        let file = parse(Path::new("x.conf"), text.as_bytes()).expect("a file");
        Policy::from_file(file).expect("a policy")
    }

    #[test]
    fn what_the_configuration_names_must_be_what_it_says_and_all_is_told() {
        let text = "[host-watchdog]\ndevice = \"/dev/null\"\n\
                    [state]\ndirectory = \"/proc/version\"\n\
                    [control]\nsocket = \"/proc/version/x\"\ngroup = \"no such group\"\n\
                    [events]\nsocket = \"/proc/uptime\"\n\
                    [[hook]]\nkinds = [\"alarm.\"]\nprogram = \"/nowhere/hook\"\n\
                    [[hook]]\nkinds = [\"alarm.\"]\nprogram = \"/proc/version\"\n\
                    [metrics]\ntextfile = \"/nowhere/x.prom\"";
        let wrong = check(&policy(text));
        let keys = [
            "host-watchdog.device: /dev/null: not a watchdog",
            "control.socket: /proc/version/x",
            "events.socket: /proc/uptime: exists and is no socket",
            "state.directory: /proc/version: not a directory",
            "metrics.textfile: /nowhere/x.prom",
            "hook 1: program: /nowhere/hook",
            "hook 2: program: /proc/version: not executable",
            "control.group: there is no group",
        ];
        assert_eq!(wrong.len(), keys.len(), "{wrong:#?}");
        for (line, key) in wrong.iter().zip(keys) {
            assert!(line.starts_with(key), "{line}");
        }
    }

    #[test]
    fn the_defaults_are_fine_on_any_host() {
        let text = "[host-watchdog]\ndevice = \"/dev/no-such-watchdog\"";
        assert_eq!(check(&policy(text)), Vec::<String>::new());
    }
}
