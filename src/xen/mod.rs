// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor as the sampler sees it.
//!
//! In: hypercalls. Out: one [`Evidence`] a look, and a copy of what was seen for those
//! who explain it. Two kinds: [`patched`] Xen, whose hypfs `/liveness` proves that each
//! guest watchdog and each pCPU is served, and [`stock`] Xen, which proves only that
//! the hypervisor answers. A look may block for ever: that is evidence as well, as the
//! last one goes stale.

pub mod hypfs;
pub mod liveness;
pub mod patched;
pub mod simulated;
pub mod simulation;
pub mod snapshot;
pub mod stock;
pub mod table;
pub mod xenstore;

pub use crate::event::Coverage;
use crate::guard::evidence::Evidence;
use nix::errno::Errno;
use snapshot::Snapshots;

/// A hypervisor to look at.
pub trait Hypervisor: Send {
    /// Looks once, copies what it saw to `copy` (whose one writer the caller is), and says
    /// what it proves. Allocates nothing, takes no lock; blocks for as long as the
    /// hypervisor does.
    fn look(&mut self, copy: Option<&Snapshots>) -> Evidence;

    /// Kind the evidence covers.
    fn coverage(&self) -> Coverage;
}

/// A page of the liveness evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/liveness/state`.
    State,
    /// `/liveness/timers/<n>`.
    Timers(u32),
}

/// Why a page could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The hypervisor's errno.
    Errno(Errno),
    /// The reply's framing contradicts itself.
    Framing,
}

/// Where pages of liveness evidence come from: hypfs, or a simulation in unit tests.
pub trait PageReader: Send {
    /// Reads a page afresh; the slice is valid until the next read.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(&mut self, page: Page) -> Result<&[u8], ReadError>;
}
