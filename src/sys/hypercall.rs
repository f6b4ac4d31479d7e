// SPDX-License-Identifier: GPL-2.0-only
//! Hypercalls from a privileged domain's user space.
//!
//! Sources: Linux `include/uapi/xen/privcmd.h` (IOCTL_PRIVCMD_HYPERCALL) and
//! `drivers/xen/privcmd-buf.c` (/dev/xen/hypercall: at most 64 pages a mapping, which
//! the kernel neither moves nor pages out, so Xen may write to them); Xen's
//! `xen/include/public/{xen,sched,hypfs}.h` for numbers and layouts.
//!
//! A hypercall blocks for as long as the hypervisor holds on to it, for ever if the
//! hypervisor is stuck; whoever calls must be a thread that may be lost.

use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

/// `IOCTL_PRIVCMD_HYPERCALL`: _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall)).
const IOCTL_PRIVCMD_HYPERCALL: libc::c_ulong = 0x0030_5000;

/// `__HYPERVISOR_xen_version` (public/xen.h).
const HYPERVISOR_XEN_VERSION: u64 = 17;
/// `__HYPERVISOR_sched_op` (public/xen.h).
const HYPERVISOR_SCHED_OP: u64 = 29;
/// `__HYPERVISOR_hypfs_op` (public/xen.h).
const HYPERVISOR_HYPFS_OP: u64 = 42;
/// `XENVER_version` (public/version.h): major << 16 | minor.
const XENVER_VERSION: u64 = 0;
/// `SCHEDOP_watchdog` (public/sched.h).
const SCHEDOP_WATCHDOG: u64 = 6;
/// `XEN_HYPFS_OP_read` (public/hypfs.h).
const XEN_HYPFS_OP_READ: u64 = 1;

/// The unit of hypercall buffers, in bytes.
pub const PAGE: usize = 4096;
/// Most pages that the kernel gives in one mapping of /dev/xen/hypercall.
pub const MAX_BUFFER_PAGES: usize = 64;

/// `struct privcmd_hypercall` (uapi/xen/privcmd.h).
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

/// Memory that the hypervisor may read and write during a hypercall.
#[derive(Debug)]
pub struct HypercallBuffer {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and stays where it is whichever
// thread holds the value.
unsafe impl Send for HypercallBuffer {}

impl HypercallBuffer {
    /// Maps `pages` pages (1 to 64) of /dev/xen/hypercall, zeroed.
    ///
    /// # Errors
    /// The errno of open(2) or mmap(2); ENOENT where the kernel is not running on Xen
    /// or has no privcmd driver loaded.
    pub fn new(pages: usize) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/hypercall")?;
        let len = pages.clamp(1, MAX_BUFFER_PAGES) * PAGE;
        let Some(size) = NonZeroUsize::new(len) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            nix::sys::mman::mmap(
                None,
                size,
                nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
                nix::sys::mman::MapFlags::MAP_SHARED,
                &device,
                0,
            )
        }?;
        Ok(Self { base, len })
    }

    /// The buffer's contents.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `len` bytes long, readable and initialised (zeroed pages),
        // and nobody writes to it while `self` is borrowed: hypercalls take it mutably.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<u8>(), self.len) }
    }

    /// The buffer's contents, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast::<u8>(), self.len) }
    }

    fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }
}

impl Drop for HypercallBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, is unmapped once, and no borrow outlives self.
        let _ = unsafe { nix::sys::mman::munmap(self.base, self.len) };
    }
}

/// /dev/xen/privcmd: the way to the hypervisor.
#[derive(Debug)]
pub struct Privcmd {
    device: File,
}

impl Privcmd {
    /// Opens /dev/xen/privcmd. Touches nothing in the hypervisor.
    ///
    /// # Errors
    /// The errno of open(2).
    pub fn open() -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/privcmd")?;
        Ok(Self { device })
    }

    /// One hypercall.
    ///
    /// # Safety
    /// Every address among `arg` that the hypercall reads or writes must lie in a live
    /// [`HypercallBuffer`] that the caller holds, mutably where it writes, and must be
    /// long enough for it.
    unsafe fn call(&self, op: u64, arg: [u64; 5]) -> Result<u32, Errno> {
        let mut request = PrivcmdHypercall { op, arg };
        // SAFETY: the descriptor is open, the request is a live `struct privcmd_hypercall`,
        // and the caller answers for the addresses within it.
        let answer = unsafe {
            libc::ioctl(
                self.device.as_raw_fd(),
                IOCTL_PRIVCMD_HYPERCALL,
                &raw mut request,
            )
        };
        u32::try_from(answer).map_err(|_| Errno::last())
    }

    /// The hypervisor's version, (major, minor).
    ///
    /// # Errors
    /// The hypervisor's errno.
    pub fn version(&self) -> Result<(u32, u32), Errno> {
        // SAFETY: XENVER_version takes a null argument.
        let v = unsafe { self.call(HYPERVISOR_XEN_VERSION, [XENVER_VERSION, 0, 0, 0, 0]) }?;
        Ok((v >> 16, v & 0xffff))
    }

    /// `SCHEDOP_watchdog`: arms (id 0), feeds (id >= 1) or disarms (timeout 0) one of
    /// the calling domain's two watchdog slots; `timeout_s` in seconds. Gives the
    /// slot's id when arming, 0 otherwise.
    ///
    /// # Errors
    /// EINVAL for an id out of range, ENOSPC when both slots are taken; a mapping
    /// error when no hypercall buffer can be had.
    pub fn schedop_watchdog(&self, id: u32, timeout_s: u32) -> io::Result<u32> {
        let mut buffer = HypercallBuffer::new(1)?;
        let bytes = buffer.bytes_mut();
        // struct sched_watchdog { uint32_t id; uint32_t timeout; } (public/sched.h)
        for (to, from) in bytes
            .iter_mut()
            .zip(id.to_ne_bytes().into_iter().chain(timeout_s.to_ne_bytes()))
        {
            *to = from;
        }
        let arg = [SCHEDOP_WATCHDOG, buffer.address(), 0, 0, 0];
        // SAFETY: the argument is a struct sched_watchdog in a live hypercall buffer.
        Ok(unsafe { self.call(HYPERVISOR_SCHED_OP, arg) }?)
    }

    /// `XEN_HYPFS_OP_read`: the entry named by the first `path_len` bytes of `path`
    /// (with the closing zero byte) is written to `into`: a struct xen_hypfs_direntry,
    /// then the contents.
    ///
    /// # Errors
    /// The hypervisor's errno: ENOENT, EPERM, ENOBUFS (`into` is too small; its
    /// direntry then tells the size), ENOSYS where hypfs is not built in; EINVAL when
    /// `path_len` exceeds the buffer.
    pub fn hypfs_read(
        &self,
        path: &HypercallBuffer,
        path_len: usize,
        into: &mut HypercallBuffer,
    ) -> Result<(), Errno> {
        if path_len > path.len {
            return Err(Errno::EINVAL);
        }
        let arg = [
            XEN_HYPFS_OP_READ,
            path.address(),
            path_len as u64,
            into.address(),
            into.len as u64,
        ];
        // SAFETY: both addresses are live hypercall buffers with their true lengths; the
        // one that Xen writes to is borrowed exclusively.
        unsafe { self.call(HYPERVISOR_HYPFS_OP, arg) }.map(|_| ())
    }
}
