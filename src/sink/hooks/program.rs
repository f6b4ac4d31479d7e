// SPDX-License-Identifier: GPL-2.0-only
//! Whether a hook's program may run, and how it is started.
//!
//! The daemon is root, so a program runs only if nobody but root (or the daemon's own
//! user) could have changed it or put another in its place: the file and every directory
//! above it. It is looked at before each execution.

use crate::event::describe::{describe, plain};
use crate::event::{Event, Severity};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// All the programs' search path.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Writable by the group or by others; a directory with this is fine if it is sticky.
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Checks the program at `path` and gives where it really is.
///
/// # Errors
/// Kind is wrong with it, in words.
pub fn check(path: &Path) -> Result<PathBuf, String> {
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

/// Starts a checked program: no shell, an environment of a few variables, its own
/// process group, no descriptors but stdin and stderr (pipes) and stdout (/dev/null).
///
/// Nothing here may ask for code between fork and exec (a working directory, a user,
/// pre_exec): without it std uses posix_spawn(3), which does not copy the page tables. A
/// real fork would write-protect every page of the daemon, and the real-time threads
/// would fault on each. Signals are all unblocked and at their defaults.
///
/// # Errors
/// The errno of posix_spawn(3).
pub fn start(real: &Path, named: &Path, arguments: &[String], event: &Event) -> io::Result<Child> {
    Command::new(real)
        .arg0(named)
        .args(arguments)
        .env_clear()
        .envs(environment(event))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// The event for programs that do not read JSON; what is not known is empty. Control
/// characters are replaced: a name must not end a mail's header.
fn environment(event: &Event) -> Vec<(&'static str, OsString)> {
    let guest = event.guest.as_ref();
    let uuid = guest.and_then(|g| g.uuid).map(|uuid| uuid.to_string());
    let domid = guest.map(|g| g.domid.to_string());
    let name = guest.and_then(|g| g.name.as_deref()).map(plain);
    let severity = match event.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let all = [
        ("PATH", PATH.to_owned()),
        ("LANG", "C".to_owned()),
        ("XENWARDEN_KIND", event.what.kind().to_owned()),
        ("XENWARDEN_SEQ", event.seq.to_string()),
        ("XENWARDEN_TIME", event.time.to_string()),
        ("XENWARDEN_SEVERITY", severity.to_owned()),
        ("XENWARDEN_HOST", plain(&event.host)),
        ("XENWARDEN_UUID", uuid.unwrap_or_default()),
        ("XENWARDEN_DOMID", domid.unwrap_or_default()),
        ("XENWARDEN_NAME", name.unwrap_or_default()),
        ("XENWARDEN_MESSAGE", describe(event)),
    ];
    all.map(|(key, value)| (key, value.into())).to_vec()
}
