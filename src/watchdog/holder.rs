// SPDX-License-Identifier: GPL-2.0-only
//! Who has a watchdog device open: a busy device is somebody's, and people want to know whose.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that has a watchdog device open, by its name and pid, if /proc shows one.
#[must_use]
pub fn holder_of(device: &Path) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .map(|entry| entry.path())
        .find(|process| has_open(process, device))
        .map(|process| {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            format!("{} (pid {pid})", name.trim())
        })
}

/// By the device's number, whatever the node is called; /dev/watchdog is another name of
/// the first watchdog.
fn has_open(process: &Path, device: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    let number = |path: &Path| fs::metadata(path).map(|m| m.rdev()).ok();
    let wanted = number(device);
    let legacy = (device == Path::new("/dev/watchdog0"))
        .then(|| number(Path::new("/dev/watchdog")))
        .flatten();
    descriptors.flatten().any(|fd| {
        let found = number(&fd.path()).filter(|n| *n != 0);
        found.is_some() && (found == wanted || found == legacy)
    })
}
