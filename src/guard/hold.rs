// SPDX-License-Identifier: GPL-2.0-only
//! There is one guard: a lock beside its page, held for as long as it lives.
//!
//! In: the page's path. Out: the lock, or a failure that names who has it. Whatever lies there, nothing
//! here waits. Where there can be no lock, a guard that tells on the page is one that lives.

use super::page::{Phase, Reader};
use crate::exit::{Failure, UNAVAILABLE};
use crate::sys::clock::{Monotonic, NS_PER_S};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A guard that looked so long ago lives, ns.
const ALIVE_NS: u64 = 3 * NS_PER_S;

/// Holds the lock beside the page at `path` for as long as the value lives: there is one guard.
///
/// # Errors
/// Another holds it.
pub fn hold(path: &Path) -> Result<Option<Flock<File>>, Failure> {
    let (page, path) = (path, path.with_extension("lock"));
    let open = || -> io::Result<File> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).mode(0o640);
        // Whatever lies there, this and the reading of whose it is must not wait.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = options.custom_flags(flags).open(&path)?;
        let is_file = file.metadata()?.is_file();
        is_file
            .then_some(file)
            .ok_or(ErrorKind::InvalidInput.into())
    };
    let locked = open().and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
    });
    match locked {
        Ok(held) => {
            // Whose it is, for the next; that it is held does not hang on it.
            let pid = std::process::id().to_string();
            let _ = held
                .set_len(0)
                .and_then(|()| (&*held).write_all(pid.as_bytes()));
            Ok(Some(held))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            let pid = if pid.is_empty() { "unknown" } else { &pid };
            Err(another(pid))
        }
        // The device has one user at most, with or without a lock; the page is not to be taken
        // from a guard that tells on it.
        Err(error) => {
            let path = path.display();
            let _ = writeln!(io::stderr(), "xenwardend: {path}: {error}: not locked");
            match live_guard(page) {
                Some(pid) => Err(another(&pid.to_string())),
                None => Ok(None),
            }
        }
    }
}

fn another(pid: &str) -> Failure {
    let text = format!("another xenwardend (pid {pid}) guards this host");
    Failure::new(UNAVAILABLE, text)
}

/// The guard that tells on the page at `path`, if one lives.
fn live_guard(path: &Path) -> Option<u32> {
    let view = Reader::view_at(path)?;
    let ago_ns = Monotonic::now().since_ns(view.status.looked);
    let pid = view.info.pid;
    let guards = matches!(view.status.phase, Phase::Armed | Phase::Stopping);
    let lives = guards && ago_ns < ALIVE_NS && Path::new(&format!("/proc/{pid}")).exists();
    lives.then_some(pid)
}
