// SPDX-License-Identifier: GPL-2.0-only
//! Who has a watchdog device open: a busy device is somebody's, and people want to know whose.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The process that has a watchdog device open, by its name and pid, if /proc shows one: the guard
/// where it is among them, as the service manager holds what it keeps for it.
#[must_use]
pub fn holder_of(device: &Path) -> Option<String> {
    holder_below(Path::new("/"), device)
}

/// The same of a system whose root is `root`.
#[must_use]
pub fn holder_below(root: &Path, device: &Path) -> Option<String> {
    let processes = fs::read_dir(root.join("proc")).ok()?.flatten();
    let nodes = nodes(root, device);
    let wanted: Vec<u64> = nodes.iter().filter_map(|node| number(node)).collect();
    let named = |process: PathBuf| {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let pid = process.file_name().unwrap_or_default().to_string_lossy();
        format!("{} (pid {pid})", name.trim())
    };
    let all = processes.map(|entry| entry.path());
    let mut holders = all.filter(|process| has_open(process, &wanted)).map(named);
    let first = holders.next()?;
    let is_guard = |name: &String| name.starts_with("xenwardend (");
    Some(match is_guard(&first) {
        true => first,
        false => holders.find(is_guard).unwrap_or(first),
    })
}

/// Whether a process of that system has the device open.
#[must_use]
pub fn holds_below(root: &Path, pid: u32, device: &Path) -> bool {
    let nodes = nodes(root, device);
    let wanted: Vec<u64> = nodes.iter().filter_map(|node| number(node)).collect();
    has_open(&root.join(format!("proc/{pid}")), &wanted)
}

/// The nodes by which the device may be opened: /dev/watchdog and /dev/watchdog0 are two names
/// of the first watchdog.
fn nodes(root: &Path, device: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let first = ["/dev/watchdog", "/dev/watchdog0"].map(Path::new);
    match first.contains(&device) {
        true => first.map(below).into(),
        false => vec![below(device)],
    }
}

/// The number of a device.
fn number(node: &Path) -> Option<u64> {
    fs::metadata(node).map(|m| m.rdev()).ok()
}

/// By the device's number, whatever the node is called.
fn has_open(process: &Path, wanted: &[u64]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors.flatten().any(|fd| {
        let found = number(&fd.path()).filter(|n| *n != 0);
        found.is_some_and(|found| wanted.contains(&found))
    })
}
