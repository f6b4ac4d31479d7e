// SPDX-License-Identifier: GPL-2.0-only
//! What the processes that a thread starts inherit: its nice value (setpriority(2),
//! sched(7)) and descriptors (fcntl(2)); and how their end is noted.

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
