// SPDX-License-Identifier: GPL-2.0-only
//! Real-time scheduling, locked memory, the OOM killer, and what the kernel counts of a thread.
//!
//! Sources: sched(7), sched_setscheduler(2), mlockall(2), getrusage(2).

use nix::errno::Errno;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::io;
use std::thread::{self, JoinHandle};

/// The stack of each of the guard's threads besides its own, bytes: locked, so small.
const STACK: usize = 32 * 1024;

/// Starts a thread of the guard's process beside the one that kicks. It becomes real-time by
/// itself ([`become_realtime`]).
///
/// # Errors
/// The errno of making it.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    thread.spawn(body)
}

/// Locks every page the process has or will have into memory.
///
/// # Errors
/// EPERM or ENOMEM of mlockall(2).
pub fn lock_memory() -> Result<(), Errno> {
    keep_little_memory();
    keep_one_arena();
    give_back_memory();
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}

/// Has the C library keep little of what is freed, where it is one that can be told (mallopt(3)). To be called before there are threads.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    {
        /// glibc's own, which it otherwise raises by itself with each large block that is freed, up to 32 MiB.
        const LARGE: libc::c_int = 128 * 1024;
        /// What stays free at the end of an arena once more than [`MOST_AT_END`] is; its own is 128 KiB, for each arena, and
        /// malloc_trim(3) gives back the end of the first one alone.
        const LEFT_AT_END: libc::c_int = 16 * 1024;
        /// It is looked at only where a block of 64 KiB is freed.
        const MOST_AT_END: libc::c_int = 32 * 1024;
        for (what, bytes) in [
            (libc::M_MMAP_THRESHOLD, LARGE),
            (libc::M_TRIM_THRESHOLD, MOST_AT_END),
            (libc::M_TOP_PAD, LEFT_AT_END),
        ] {
            // SAFETY: it takes two integers, and sets a limit for what is allocated from now on.
            unsafe { libc::mallopt(what, bytes) };
        }
    }
}

/// A thread that allocates would have an arena of its own, 132 KiB, all of which mlockall(2) locks. Not for a process whose threads
/// must go on while one of them is stopped at any point: it may hold the lock of the only arena.
fn keep_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what was freed, as after a start, where the C library can (malloc_trim(3)).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes an integer, and touches nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the OOM killer spare this process and what it starts (proc_pid_oom_score_adj(5)).
///
/// # Errors
/// EACCES without CAP_SYS_RESOURCE.
pub fn be_spared_when_memory_runs_out() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")
}

/// Makes the calling thread real-time: SCHED_FIFO at `priority`, not inherited by
/// children, read back.
///
/// Kernels with RT_GROUP_SCHED refuse it outside the root cpu cgroup (EPERM): the
/// process is then moved there and the call tried once more.
///
/// # Errors
/// EPERM without CAP_SYS_NICE; EIO when the kernel says afterwards that it is not so.
pub fn become_realtime(priority: u8) -> Result<(), Errno> {
    match set_fifo(priority) {
        Err(Errno::EPERM) => {
            move_to_root_cpu_cgroup();
            set_fifo(priority)?;
        }
        other => other?,
    }
    // SAFETY: 0 names the calling thread; the call takes no pointer.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy == libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

fn set_fifo(priority: u8) -> Result<(), Errno> {
    let param = libc::sched_param {
        sched_priority: libc::c_int::from(priority),
    };
    // SAFETY: 0 names the calling thread and the parameter is a live sched_param.
    let answer = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const param,
        )
    };
    Errno::result(answer).map(|_| ())
}

/// cgroup v1's cpu controller: the only one that RT_GROUP_SCHED knows. Best effort, as
/// the second attempt tells whether it helped.
fn move_to_root_cpu_cgroup() {
    let pid = std::process::id().to_string();
    let _ = fs::write("/sys/fs/cgroup/cpu/cgroup.procs", pid);
}

/// Page faults of the calling thread since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFaults {
    /// Served without I/O.
    pub minor: u64,
    /// Served with I/O.
    pub major: u64,
}

/// The calling thread's page faults (RUSAGE_THREAD). Does not block.
///
/// # Errors
/// None that Linux documents for these arguments; the errno if there is one.
pub fn page_faults_of_this_thread() -> Result<PageFaults, Errno> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(PageFaults {
        minor: count(usage.minor_page_faults()),
        major: count(usage.major_page_faults()),
    })
}
