// SPDX-License-Identifier: GPL-2.0-only
//! Memory for many records, few of which are used: each has its place, but only what is used is resident.
//!
//! In: how many records there may be, and how many of them are used by now. Out: those records, of words that are all 0 at first.
//! Promises: a record keeps what is written to it, whatever is locked or given back; what is resident is locked, and stays so; where the kernel
//! refuses any of this, all of it is resident and locked. Never: a system call in [`Reserve::first`], which is all that the kick path calls.
//!
//! Sources: mmap(2), mlock(2), mlockall(2), madvise(2), mincore(2); Linux `mm/mlock.c`.

use super::mapping::PAGE;
use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munlock, munmap,
};
use std::alloc::{Layout, handle_alloc_error};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Records of `WORDS` words. Its memory ends with it.
#[derive(Debug)]
pub struct Reserve<const WORDS: usize> {
    region: Arc<Region>,
    records: usize,
}

impl<const WORDS: usize> Reserve<WORDS> {
    /// So many records; takes address space, and memory for what is touched. In a process that has locked its memory all of it is
    /// resident and locked until it is [released](Reserve::release), or once it locks its memory again. As with any allocation, the process ends where there is no room for it.
    #[must_use]
    pub fn new(records: usize) -> Self {
        let bytes = records.saturating_mul(size_of::<[u32; WORDS]>());
        let region = Region::new(bytes).unwrap_or_else(|_| {
            let layout = Layout::array::<[u32; WORDS]>(records);
            handle_alloc_error(layout.unwrap_or(Layout::new::<[u32; WORDS]>()))
        });
        Self {
            region: Arc::new(region),
            records,
        }
    }

    /// The first `used` records, or all, if there are fewer. Makes no system call. One that was made resident ahead ([`Ahead::keep`])
    /// costs no page fault; another one does, at its first touch, and that may take as long as the kernel takes to find a page.
    pub fn first(&mut self, used: usize) -> &mut [[u32; WORDS]] {
        let used = used.min(self.records);
        self.region.note(used * size_of::<[u32; WORDS]>());
        // SAFETY: the mapping is readable, writable, aligned to a page and long enough for all records, any bits are valid words, and it
        // lives as long as `self`. No other reference to it exists: `self` is borrowed for as long as this one, and the region
        // gives none.
        unsafe { std::slice::from_raw_parts_mut(self.region.base.as_ptr().cast(), used) }
    }

    /// Gives back, in a process that has locked its memory, what no record that was used or is among the next `ahead` lies in. What is touched
    /// of it later is locked from then on. None where nothing was given back, as the kernel refuses that (before Linux 4.4) or there is
    /// nothing: then all stays as it is. Blocks for as long as the kernel takes.
    ///
    /// # Errors
    /// The errno of mlock(2), where something was given back that can neither be had nor be locked again.
    pub fn release(&mut self, ahead: usize) -> Result<Option<Ahead>, Errno> {
        self.release_if(ahead, lock_on_fault)
    }

    fn release_if(
        &mut self,
        ahead: usize,
        lock_on_fault: impl Fn(NonNull<libc::c_void>, usize) -> Result<(), Errno>,
    ) -> Result<Option<Ahead>, Errno> {
        let ahead = Ahead {
            region: Arc::downgrade(&self.region),
            bytes: ahead.saturating_mul(size_of::<[u32; WORDS]>()),
            resident: 0,
        };
        let kept = self.region.pages_of(ahead.bytes);
        let (at, len) = (self.region.at(kept)?, self.region.len - kept);
        // Asked first: nothing is given up by that, so nothing is lost if it is refused.
        if len == 0 || lock_on_fault(at, len).is_err() {
            return Ok(None);
        }
        // What is locked is not given back: madvise(2).
        let given = unlock(at, len).and_then(|()| give_back(at, len));
        let given = given.and_then(|()| lock_on_fault(at, len));
        match given.and_then(|()| self.region.lock(0, kept)) {
            Ok(()) => Ok(Some(Ahead {
                resident: kept,
                ..ahead
            })),
            Err(_) => self.hold().map(|()| None),
        }
    }

    /// Makes all of it resident, and locks it. Blocks for as long as the kernel takes to find the pages.
    ///
    /// # Errors
    /// The errno of mlock(2).
    pub fn hold(&mut self) -> Result<(), Errno> {
        self.region.lock(0, self.region.len)
    }

    /// How much of it is resident, bytes: to prove what is promised here.
    ///
    /// # Errors
    /// The errno of mincore(2).
    pub fn resident(&self) -> Result<usize, Errno> {
        let mut pages = vec![0_u8; self.region.len / PAGE];
        let base = self.region.base.as_ptr();
        // SAFETY: the region is mapped, and there is a byte for each of its pages; none of its memory is touched.
        let answer = unsafe { libc::mincore(base, self.region.len, pages.as_mut_ptr()) };
        Errno::result(answer)?;
        let resident = pages.iter().filter(|page| **page & 1 != 0);
        Ok(resident.count() * PAGE)
    }
}

/// Makes records resident ahead of those that are used, for a thread beside the one that uses them.
#[derive(Debug)]
pub struct Ahead {
    region: Weak<Region>,
    /// So far ahead.
    bytes: usize,
    /// Up to here it was done.
    resident: usize,
}

impl Ahead {
    /// Makes resident and locks what is ahead of the records used by now; nothing where that is done. None if the reserve is gone. Changes no
    /// record, and may go on while one is written. Blocks for as long as the kernel takes to find the pages.
    pub fn keep(&mut self) -> Option<Result<(), Errno>> {
        let region = self.region.upgrade()?;
        let wanted = region.pages_of(self.bytes);
        if wanted <= self.resident {
            return Some(Ok(()));
        }
        let locked = region.lock(self.resident, wanted - self.resident);
        Some(locked.inspect(|()| self.resident = wanted))
    }
}

/// The mapping. All that is done through a shared reference to it leaves its content alone.
#[derive(Debug)]
struct Region {
    base: NonNull<libc::c_void>,
    /// Whole pages.
    len: usize,
    /// Bytes from the beginning that were used.
    used: AtomicUsize,
}

// SAFETY: the mapping stays where it is whichever thread holds the value.
unsafe impl Send for Region {}
// SAFETY: a shared reference gives addresses to the kernel, and a number that is atomic.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Result<Self, Errno> {
        let len = bytes.max(1).checked_next_multiple_of(PAGE);
        let len = len.and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe { mmap_anonymous(None, len, prot, MapFlags::MAP_PRIVATE) }?;
        Ok(Self {
            base,
            len: len.get(),
            used: AtomicUsize::new(0),
        })
    }

    /// The first so many bytes are used. One thread calls it.
    fn note(&self, used: usize) {
        if used > self.used.load(Ordering::Relaxed) {
            self.used.store(used, Ordering::Relaxed);
        }
    }

    /// Where the page ends that is `ahead` bytes ahead of what is used.
    fn pages_of(&self, ahead: usize) -> usize {
        let end = self.used.load(Ordering::Relaxed).saturating_add(ahead);
        let end = end.checked_next_multiple_of(PAGE);
        end.unwrap_or(self.len).min(self.len)
    }

    fn at(&self, offset: usize) -> Result<NonNull<libc::c_void>, Errno> {
        let at = self.base.as_ptr().wrapping_byte_add(offset);
        NonNull::new(at).ok_or(Errno::EFAULT)
    }

    /// Makes these bytes resident, and locks them.
    fn lock(&self, offset: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: it changes no content, and `self` keeps the mapping.
        unsafe { mlock(self.at(offset)?, len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, is unmapped once, and no borrow outlives it.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

/// What is touched of it is locked from then on; what is not stays away (mlock2(2), since Linux 4.4). glibc has had it since 2.27, so it is called by its number.
fn lock_on_fault(at: NonNull<libc::c_void>, len: usize) -> Result<(), Errno> {
    // SAFETY: it changes no content.
    let answer = unsafe { libc::syscall(libc::SYS_mlock2, at.as_ptr(), len, libc::MLOCK_ONFAULT) };
    Errno::result(answer).map(|_| ())
}

fn unlock(at: NonNull<libc::c_void>, len: usize) -> Result<(), Errno> {
    // SAFETY: it changes no content.
    unsafe { munlock(at, len) }
}

/// Only for what was never written to: all of it is 0 afterwards. EINVAL where pages are larger than [`PAGE`].
fn give_back(at: NonNull<libc::c_void>, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller's range is of pages of its own mapping that were never written to: zeroes take the place of zeroes.
    unsafe { madvise(at, len, MmapAdvise::MADV_DONTNEED) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // how tests fail
mod tests {
    use super::*;

    const RECORDS: usize = 32_752;
    const ALL: usize = (RECORDS * 20).next_multiple_of(PAGE);

    /// All of it resident and locked, as after mlockall(2).
    fn held() -> Reserve<5> {
        let mut reserve = Reserve::new(RECORDS);
        assert_eq!(reserve.resident(), Ok(0));
        reserve.hold().unwrap();
        assert_eq!(reserve.resident(), Ok(ALL));
        reserve
    }

    #[test]
    fn every_record_is_there_is_zero_at_first_and_keeps_what_is_written() {
        let mut reserve = Reserve::<5>::new(RECORDS);
        let all = reserve.first(usize::MAX);
        assert_eq!(all.len(), RECORDS);
        for (n, record) in (1_u32..).zip(all) {
            assert_eq!(*record, [0; 5]);
            *record = [n; 5];
        }
        let all = (1_u32..).zip(reserve.first(RECORDS));
        assert!(all.into_iter().all(|(n, record)| *record == [n; 5]));
    }

    #[test]
    fn only_what_is_used_and_ahead_of_that_is_resident_and_moves_on_with_what_is_used() {
        let mut reserve = held();
        reserve.first(1_000).fill([7; 5]);
        let mut ahead = reserve.release(1_024).unwrap().unwrap();
        let pages = |records: usize| Ok((records * 20).next_multiple_of(PAGE));
        assert_eq!(reserve.resident(), pages(1_000 + 1_024));
        assert!(reserve.first(1_000).iter().all(|record| *record == [7; 5]));
        // Nothing has changed, and then something has.
        assert_eq!(ahead.keep(), Some(Ok(())));
        assert_eq!(reserve.resident(), pages(2_024));
        assert!(reserve.first(2_000)[1_000..].iter().all(|r| *r == [0; 5]));
        assert_eq!(reserve.resident(), pages(2_024));
        assert_eq!(ahead.keep(), Some(Ok(())));
        assert_eq!(reserve.resident(), pages(3_024));
        // Far beyond what is ahead: it is there all the same.
        reserve.first(30_001)[30_000] = [9; 5];
        assert_eq!(reserve.resident(), pages(3_024).map(|bytes| bytes + PAGE));
        assert_eq!(ahead.keep(), Some(Ok(())));
        assert_eq!(reserve.resident(), pages(31_024));
        assert_eq!(reserve.first(30_001)[30_000], [9; 5]);
        reserve.first(RECORDS);
        assert_eq!(ahead.keep(), Some(Ok(())));
        assert_eq!(reserve.resident(), Ok(ALL));
        drop(reserve);
        assert_eq!(ahead.keep(), None);
    }

    #[test]
    fn what_is_touched_ahead_of_its_time_is_locked() {
        let mut reserve = held();
        let _ahead = reserve.release(0).unwrap().unwrap();
        assert_eq!(reserve.resident(), Ok(0));
        reserve.first(30_001)[30_000] = [9; 5];
        let (at, len) = (reserve.region.at(0).unwrap(), reserve.region.len);
        // The kernel gives back nothing of what is locked.
        assert_eq!(give_back(at, len), Err(Errno::EINVAL));
        assert_eq!(reserve.resident(), Ok(PAGE));
    }

    #[test]
    fn where_the_kernel_refuses_all_stays_resident_and_nothing_is_lost() {
        let asked = AtomicUsize::new(0);
        // Refused at once, as by a kernel that has no such call, or only after something was given back.
        for (refused, last) in [(0, 0), (1, 1)] {
            asked.store(0, Ordering::Relaxed);
            let mut reserve = held();
            reserve.first(1_000).fill([7; 5]);
            let lock = |at, len| match asked.fetch_add(1, Ordering::Relaxed) == refused {
                true => Err(Errno::ENOSYS),
                false => lock_on_fault(at, len),
            };
            let ahead = reserve.release_if(1_024, lock);
            assert!(matches!(ahead, Ok(None)), "{ahead:?}");
            assert_eq!(asked.load(Ordering::Relaxed), last + 1);
            assert_eq!(reserve.resident(), Ok(ALL));
            assert!(reserve.first(1_000).iter().all(|record| *record == [7; 5]));
        }
    }

    #[test]
    fn few_records_are_resident_all() {
        let mut reserve = Reserve::<5>::new(100);
        reserve.hold().unwrap();
        assert!(matches!(reserve.release(1_024), Ok(None)));
        assert_eq!(reserve.resident(), Ok(PAGE));
        assert_eq!(Reserve::<5>::new(0).first(1).len(), 0);
    }
}
