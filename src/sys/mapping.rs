// SPDX-License-Identifier: GPL-2.0-only
//! Memory that is shared with somebody who may write to it at any moment.
//!
//! It is seen as atomic words and nothing else: what another process, or the hypervisor,
//! does to it is then no undefined behaviour here, only values that cannot be trusted.

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// The unit of mappings, in bytes.
pub const PAGE: usize = 4096;

/// A shared mapping; it ends with this value.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and stays where it is whichever thread
// holds the value.
unsafe impl Send for Mapping {}
// SAFETY: all that a shared reference gives is a slice of atomics.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from the beginning of `file`.
    ///
    /// # Errors
    /// The errno of mmap(2); EINVAL for no bytes at all.
    pub fn new(file: impl AsFd, len: usize, prot: ProtFlags) -> Result<Self, Errno> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self { base, len })
    }

    /// `len` bytes of zeroes that nobody else sees.
    ///
    /// # Errors
    /// The errno of mmap(2); EINVAL for no bytes at all.
    pub fn private(len: usize) -> Result<Self, Errno> {
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { mmap_anonymous(None, size, prot, MapFlags::MAP_PRIVATE) }?;
        Ok(Self { base, len })
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The mapped words. Storing to a mapping that is read-only, or reading beyond the end
    /// that its file has by now, ends the process.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let words = self.len / size_of::<AtomicU64>();
        // SAFETY: the mapping is `len` bytes long, aligned to a page, and lives as long as
        // the borrow; atomics may be written to by others.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), words) }
    }

    /// The mapped words, for as long as the process lives.
    #[must_use]
    pub fn leak(self) -> &'static [AtomicU64] {
        let words = self.len / size_of::<AtomicU64>();
        let base = self.base;
        std::mem::forget(self);
        // SAFETY: as in `words`, and the mapping is never unmapped any more.
        unsafe { std::slice::from_raw_parts(base.as_ptr().cast(), words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, is unmapped once, and no borrow outlives it.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}
