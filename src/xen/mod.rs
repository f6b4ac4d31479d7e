// SPDX-License-Identifier: GPL-2.0-only
//! The hypervisor's side: its liveness [`table`], and [`xenstore`] for names.
//!
//! In: a mapping, a connection. Out: records and answers as values. Nothing is judged here.

pub mod room;
pub mod simulation;
pub mod table;
pub mod xenstore;

use crate::sys::mapping::PAGE;
use crate::sys::privcmd::Privcmd;
use nix::errno::Errno;
use std::fmt;
use table::{Malformed, Table};

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTable {
    /// The hypervisor's errno: ESRCH where it keeps none, EINVAL where it could and has none,
    /// EPERM where this is not dom0.
    Errno(Errno),
    /// It cannot be read.
    Malformed(Malformed),
}

impl fmt::Display for NoTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(Errno::ESRCH) => write!(f, "the hypervisor keeps no liveness table"),
            Self::Errno(Errno::EINVAL) => write!(
                f,
                "the hypervisor has no liveness table: it is switched off (command line: \
                 liveness=0), or there was no memory for it (its console says so)"
            ),
            Self::Errno(errno) => write!(f, "mapping the liveness table fails: {}", errno.desc()),
            Self::Malformed(why) => write!(f, "the liveness table cannot be read: {why}"),
        }
    }
}

/// Maps the hypervisor's table for as long as the process lives. Asks the hypervisor twice:
/// for the header alone, then for all of it.
///
/// # Errors
/// [`NoTable`].
pub fn map_table(privcmd: &Privcmd) -> Result<Table<'static>, NoTable> {
    let header = privcmd.map_liveness(1).map_err(NoTable::Errno)?;
    let bytes = table::length(header.words()).map_err(NoTable::Malformed)?;
    // A second ioctl on one mapping crashes PVH dom0's kernel: a fresh one each time.
    let whole = privcmd
        .map_liveness(bytes.div_ceil(PAGE))
        .map_err(NoTable::Errno)?;
    Table::parse(whole.leak()).map_err(NoTable::Malformed)
}
