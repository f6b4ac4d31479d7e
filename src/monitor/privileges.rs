// SPDX-License-Identifier: GPL-2.0-only
//! What the monitor gives up once everything that it needs is open.
//!
//! It stays root, as the files in its state directory, xenstore's socket and its hooks are
//! root's; it needs none of root's capabilities for them. So its threads have none but the one below.
//!
//! What can come back: a program that root executes gets what is left in the bounding set
//! (capabilities(7)). Hooks run as root with all that root has, as their manual says, so
//! with hooks the bounding set stays as it is; without any it is emptied, and the kernel is
//! told never to give anything back (PR_SET_NO_NEW_PRIVS, prctl(2)).
//!
//! A metrics file may lie in another user's directory: with one, CAP_DAC_OVERRIDE is kept. A
//! lease's socket is given to its user whenever the guard says that there is one: CAP_CHOWN.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What there is that privileges are kept for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Hooks.
    pub hooks: bool,
    /// A metrics file.
    pub metrics: bool,
    /// Leases of other users than root, now or later.
    pub leases: bool,
}

/// Gives up what is not needed, for this thread and all that it starts from now on.
///
/// # Errors
/// The kernel's.
pub fn give_up(there: Kept) -> Result<(), CapsError> {
    let needed = [
        (there.metrics, Capability::CAP_DAC_OVERRIDE),
        (there.leases, Capability::CAP_CHOWN),
    ];
    let kept: CapsHashSet = needed
        .into_iter()
        .filter_map(|(is_needed, capability)| is_needed.then_some(capability))
        .collect();
    if !there.hooks {
        let present = caps::read(None, CapSet::Bounding)?;
        for capability in present.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| CapsError::from(format!("no_new_privs: {}", errno.desc())))?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept.intersection(&permitted).copied().collect();
    // First what is in force: it may never be more than what is permitted.
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
