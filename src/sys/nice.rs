// SPDX-License-Identifier: GPL-2.0-only
//! Giving way: the nice value of one thread (setpriority(2), sched(7)).

use nix::errno::Errno;

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
