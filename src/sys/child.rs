// SPDX-License-Identifier: GPL-2.0-only
//! Kind the processes that a thread starts inherit: its nice value (setpriority(2),
//! sched(7)) and descriptors (fcntl(2)); how they are started, and how their end is noted.

use nix::errno::Errno;
use std::fs;
use std::io;

/// Lowers the calling thread's share of the processors to nice value `nice`. On Linux the
/// value belongs to the thread; the processes that it starts inherit it.
///
/// # Errors
/// None that Linux documents for a higher value than before; the errno if there is one.
pub fn give_way(nice: u8) -> Result<(), Errno> {
    // SAFETY: 0 names the calling thread; the call takes no pointer.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, libc::c_int::from(nice)) };
    Errno::result(answer).map(|_| ())
}

/// Keeps every descriptor but stdin, stdout and stderr from the programs that will be
/// started. std opens all of its own so; others may come from whoever started the daemon.
///
/// # Errors
/// The errno of reading /proc/self/fd.
pub fn keep_descriptors() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(fd @ 3..) = number {
            // SAFETY: the flag changes nothing for whoever uses the descriptor here, and
            // one that is closed meanwhile is answered with EBADF.
            let _ = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Why starting a program would be a fork that copies the page tables, so that every
/// thread then faults on each page that it writes. std starts programs with posix_spawn(3), but
/// with a fork of its own on glibc before 2.24, whose posix_spawn does not report errors
/// of exec (`library/std/src/sys/process/unix/unix.rs` of Rust). None where it does not.
#[must_use]
pub fn spawning_forks() -> Option<String> {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: the call takes nothing and gives a string that is never freed or changed
        // (gnu_get_libc_version(3)).
        let version = unsafe { libc::gnu_get_libc_version() };
        // SAFETY: it is not null and ends with a zero byte, and lives for ever.
        let version = unsafe { std::ffi::CStr::from_ptr(version) };
        why_forks(&version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// The same for a glibc of this version, such as `2.31`.
#[cfg(target_env = "gnu")]
fn why_forks(version: &str) -> Option<String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let known = parts.next().flatten().zip(parts.next().flatten());
    let spawns = known.is_some_and(|known| known >= (2, 24));
    (!spawns).then(|| {
        format!("glibc {version} is older than 2.24, and starting a program would delay the kicks")
    })
}

/// Has the kernel keep the exit status of this process's children until they are waited for,
/// also where whoever started it had SIGCHLD ignored, which exec(2) keeps and which makes
/// waitid(2) fail with ECHILD.
///
/// # Errors
/// The errno of signal(2).
pub fn keep_exit_statuses() -> Result<(), Errno> {
    // SAFETY: SIG_DFL is no handler, so that no code can run in a signal's context.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before == libc::SIG_ERR {
        return Err(Errno::last());
    }
    Ok(())
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn a_glibc_before_2_24_or_an_unknown_one_forks() {
        let cases = [
            ("2.17", true),
            ("2.23", true),
            ("2.23.90", true),
            ("1.99", true),
            ("", true),
            ("stable", true),
            ("2", true),
            ("2.24", false),
            ("2.24.1", false),
            ("2.41", false),
            ("3.0", false),
        ];
        for (version, forks) in cases {
            assert_eq!(why_forks(version).is_some(), forks, "{version}");
        }
    }
}
