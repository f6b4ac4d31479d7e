// SPDX-License-Identifier: GPL-2.0-only
//! The way to the hypervisor from a privileged domain's user space.
//!
//! Sources: Linux `include/uapi/xen/privcmd.h` (IOCTL_PRIVCMD_HYPERCALL,
//! IOCTL_PRIVCMD_MMAP_RESOURCE) and `drivers/xen/privcmd.c`; Xen's
//! `xen/include/public/{xen,version,sched,vcpu,kexec,memory,liveness}.h` for numbers and layouts.
//!
//! A hypercall blocks for as long as the hypervisor holds on to it, for ever if the
//! hypervisor is stuck; whoever calls must be a thread that may be lost. Looking at the
//! mapped liveness table is no hypercall.

use super::mapping::{Mapping, PAGE};
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `IOCTL_PRIVCMD_HYPERCALL`: _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall)).
const IOCTL_PRIVCMD_HYPERCALL: libc::c_ulong = 0x0030_5000;
/// `IOCTL_PRIVCMD_MMAP_RESOURCE`: _IOC(_IOC_NONE, 'P', 7, sizeof(struct privcmd_mmap_resource)).
const IOCTL_PRIVCMD_MMAP_RESOURCE: libc::c_ulong = 0x0020_5007;

/// `__HYPERVISOR_xen_version` (public/xen.h).
const HYPERVISOR_XEN_VERSION: u64 = 17;
/// `XENVER_version` (public/version.h): major << 16 | minor.
const XENVER_VERSION: u64 = 0;
/// `XENVER_commandline`, and the bytes of `xen_commandline_t` (public/version.h).
const XENVER_COMMANDLINE: u64 = 9;
const COMMANDLINE: usize = 1024;
/// `__HYPERVISOR_sched_op` (public/xen.h), `SCHEDOP_watchdog` (public/sched.h).
const HYPERVISOR_SCHED_OP: u64 = 29;
const SCHEDOP_WATCHDOG: u64 = 6;
/// `SCHEDOP_pin_override` (public/sched.h), Xen 4.7 and later, for dom0 only.
const SCHEDOP_PIN_OVERRIDE: u64 = 7;
/// `__HYPERVISOR_vcpu_op` (public/xen.h), `VCPUOP_get_runstate_info` (public/vcpu.h).
const HYPERVISOR_VCPU_OP: u64 = 24;
const VCPUOP_GET_RUNSTATE_INFO: u64 = 4;
/// `__HYPERVISOR_kexec_op` (public/xen.h); `KEXEC_CMD_kexec_status`, `KEXEC_TYPE_CRASH`
/// (public/kexec.h), Xen 4.9 and later.
const HYPERVISOR_KEXEC_OP: u64 = 37;
const KEXEC_CMD_KEXEC_STATUS: u64 = 6;
const KEXEC_TYPE_CRASH: u8 = 1;
/// `DOMID_XEN` (public/xen.h): the owner of what the hypervisor shares.
const DOMID_XEN: u16 = 0x7ff2;
/// `XENMEM_resource_liveness` (public/memory.h of the patched hypervisor).
const XENMEM_RESOURCE_LIVENESS: u32 = 3;

/// `struct privcmd_hypercall` (uapi/xen/privcmd.h).
#[repr(C)]
struct PrivcmdHypercall {
    op: u64,
    arg: [u64; 5],
}

/// `struct sched_watchdog` (public/sched.h).
#[repr(C)]
struct SchedWatchdog {
    id: u32,
    timeout_s: u32,
}

/// `struct sched_pin_override` (public/sched.h).
#[repr(C)]
struct SchedPinOverride {
    pcpu: i32,
}

/// `struct vcpu_runstate_info` (public/vcpu.h).
#[repr(C)]
#[derive(Default)]
struct VcpuRunstateInfo {
    state: i32,
    state_entry_time: u64,
    time: [u64; 4],
}

/// `struct xen_kexec_status` (public/kexec.h).
#[repr(C)]
struct XenKexecStatus {
    kind: u8,
}

/// `struct privcmd_mmap_resource` (uapi/xen/privcmd.h).
#[repr(C)]
struct PrivcmdMmapResource {
    dom: u16,
    kind: u32,
    id: u32,
    idx: u32,
    num: u64,
    addr: u64,
}

/// /dev/xen/privcmd: the way to the hypervisor.
#[derive(Debug)]
pub struct Privcmd {
    device: File,
}

impl Privcmd {
    /// Opens /dev/xen/privcmd for reading, which all that is done here needs; what is
    /// mapped over it can then not be made writable. Touches nothing in the hypervisor.
    ///
    /// # Errors
    /// The errno of open(2).
    pub fn open() -> io::Result<Self> {
        let device = File::open("/dev/xen/privcmd")?;
        Ok(Self { device })
    }

    /// Makes a hypercall with up to three arguments; gives its answer.
    ///
    /// # Errors
    /// The hypervisor's errno.
    ///
    /// # Safety
    /// Where `op` takes the last argument for a pointer, it points to what `op` reads and
    /// writes, and that lives until the call returns.
    unsafe fn hypercall<const N: usize>(&self, op: u64, given: [u64; N]) -> Result<u32, Errno> {
        let mut arg = [0; 5];
        arg.iter_mut().zip(given).for_each(|(to, from)| *to = from);
        let mut request = PrivcmdHypercall { op, arg };
        // SAFETY: the descriptor is open, the request is a live `struct privcmd_hypercall`,
        // and for its arguments the caller vouches.
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
        let version = unsafe { self.hypercall(HYPERVISOR_XEN_VERSION, [XENVER_VERSION, 0]) }?;
        Ok((version >> 16, version & 0xffff))
    }

    /// The hypervisor's command line, as `xl info` shows it. It is cut after 1023 bytes, and
    /// those who may not have it are given another text.
    ///
    /// # Errors
    /// The hypervisor's errno.
    pub fn command_line(&self) -> Result<String, Errno> {
        let mut text = [0_u8; COMMANDLINE];
        // Exposed, as somebody else is to write there.
        let buffer = text.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: the argument points to a live `xen_commandline_t`, of which the hypervisor
        // writes no more than its 1024 bytes.
        unsafe { self.hypercall(HYPERVISOR_XEN_VERSION, [XENVER_COMMANDLINE, buffer]) }?;
        let line = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    /// Whether the hypervisor has a crash kernel loaded, as `kexec -S` shows it.
    ///
    /// # Errors
    /// The hypervisor's errno.
    pub fn has_crash_kernel(&self) -> Result<bool, Errno> {
        let mut status = XenKexecStatus {
            kind: KEXEC_TYPE_CRASH,
        };
        let argument = (&raw mut status).expose_provenance() as u64;
        // SAFETY: the argument points to a live `struct xen_kexec_status`, which the hypervisor
        // reads.
        let loaded =
            unsafe { self.hypercall(HYPERVISOR_KEXEC_OP, [KEXEC_CMD_KEXEC_STATUS, argument]) }?;
        Ok(loaded == 1)
    }

    /// Sets a slot of this domain's own watchdog: `id` 0 takes a free one, `timeout_s` 0 gives
    /// one back. Gives the slot's number.
    ///
    /// # Errors
    /// ENOSPC where none is free, EINVAL for one that is not in use (Xen
    /// `xen/common/sched/core.c`).
    pub fn domain_watchdog(&self, id: u32, timeout_s: u32) -> Result<u32, Errno> {
        let mut watchdog = SchedWatchdog { id, timeout_s };
        let argument = (&raw mut watchdog).expose_provenance() as u64;
        // SAFETY: the argument points to a live `struct sched_watchdog`, which the hypervisor
        // reads.
        let taken = unsafe { self.hypercall(HYPERVISOR_SCHED_OP, [SCHEDOP_WATCHDOG, argument]) }?;
        Ok(if id == 0 { taken } else { id })
    }

    /// Sends the vCPU that this runs on to a pCPU, where it stays until it is released by -1. A
    /// vCPU that was sent to a pCPU which schedules nothing never returns.
    ///
    /// # Errors
    /// EINVAL for a pCPU that is offline or not in dom0's pool, and for a release of a vCPU that
    /// was not sent; EBUSY where it is bound like this already; EPERM where this is not dom0 (Xen
    /// `xen/common/sched/core.c`).
    pub fn pin_override(&self, pcpu: i32) -> Result<(), Errno> {
        let mut pin = SchedPinOverride { pcpu };
        let argument = (&raw mut pin).expose_provenance() as u64;
        // SAFETY: the argument points to a live `struct sched_pin_override`, which the hypervisor
        // reads.
        unsafe { self.hypercall(HYPERVISOR_SCHED_OP, [SCHEDOP_PIN_OVERRIDE, argument]) }?;
        Ok(())
    }

    /// When a vCPU of this domain last began to run, to sleep or to wait, ns of the hypervisor's
    /// clock. For the vCPU that this runs on, that is when it was last given a pCPU.
    ///
    /// # Errors
    /// ENOENT for a vCPU that does not exist (Xen `xen/common/domain.c`); EINVAL on Arm, where
    /// nobody may ask (`xen/arch/arm/domain.c`).
    pub fn runstate_entered_ns(&self, vcpu: u16) -> Result<u64, Errno> {
        let mut info = VcpuRunstateInfo::default();
        let buffer = (&raw mut info).expose_provenance() as u64;
        let ask = [VCPUOP_GET_RUNSTATE_INFO, u64::from(vcpu), buffer];
        // SAFETY: the last argument points to a live `struct vcpu_runstate_info`, of which the
        // hypervisor writes no more than its bytes.
        unsafe { self.hypercall(HYPERVISOR_VCPU_OP, ask) }?;
        Ok(info.state_entry_time)
    }

    /// Maps the first `pages` pages of the hypervisor's liveness table, read-only.
    ///
    /// # Errors
    /// ESRCH where the hypervisor has no such table, EPERM where this is not the control
    /// domain, EINVAL for more pages than the table has.
    pub fn map_liveness(&self, pages: usize) -> Result<Mapping, Errno> {
        let mapping = Mapping::new(&self.device, pages * PAGE, ProtFlags::PROT_READ)?;
        let mut request = PrivcmdMmapResource {
            dom: DOMID_XEN,
            kind: XENMEM_RESOURCE_LIVENESS,
            id: 0,
            idx: 0,
            num: pages as u64,
            addr: mapping.address(),
        };
        // SAFETY: the descriptor is open, the request is a live `struct
        // privcmd_mmap_resource`, and its address is a fresh mapping of that descriptor, of
        // `num` pages, which nobody has looked at yet.
        let answer = unsafe {
            libc::ioctl(
                self.device.as_raw_fd(),
                IOCTL_PRIVCMD_MMAP_RESOURCE,
                &raw mut request,
            )
        };
        Errno::result(answer)?;
        Ok(mapping)
    }
}
