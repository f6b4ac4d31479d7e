// SPDX-License-Identifier: GPL-2.0-only
//! The two ways to look at a hypervisor: by its liveness table, or, where it has none, by
//! whether it answers.
//!
//! Neither allocates or takes a lock. Looking at a table makes no hypercall; stock Xen can
//! only be asked, which may never return: then no kick comes.

use super::evidence::{Evidence, Unknown, Verdict};
use crate::event::Coverage;
use crate::sys::clock::Monotonic;
use crate::sys::privcmd::Privcmd;
use crate::xen::table::Table;

/// A way to look at the hypervisor.
pub trait Sight {
    /// Looks once; `clock` is read before and after. Gives what is proved, and when the look
    /// began.
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic);

    /// What a look covers.
    fn coverage(&self) -> Coverage;

    /// Another has withheld; see [`Evidence::overdue`].
    fn overdue(&mut self, _now: Monotonic) {}
}

/// A patched hypervisor.
#[derive(Debug)]
pub struct Patched<'a> {
    table: Table<'a>,
    evidence: Evidence,
}

impl<'a> Patched<'a> {
    /// Nothing seen yet; allocates all that looking will ever need.
    #[must_use]
    pub fn new(table: Table<'a>) -> Self {
        Self {
            table,
            evidence: Evidence::new(&table),
        }
    }

    /// See [`Evidence::starved_after`].
    #[must_use]
    pub fn starved_after(self, starved_ns: Option<u64>) -> Self {
        Self {
            evidence: self.evidence.starved_after(starved_ns),
            ..self
        }
    }
}

impl Sight for Patched<'_> {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        self.evidence.look(&self.table, clock)
    }

    fn coverage(&self) -> Coverage {
        Coverage::Full
    }

    fn overdue(&mut self, now: Monotonic) {
        self.evidence.overdue(&self.table, now);
    }
}

/// A hypervisor without a table: that it answers is all that is seen of it. Used only where
/// the configuration says `coverage = "partial"`.
#[derive(Debug)]
pub struct Stock(pub Privcmd);

impl Sight for Stock {
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        let began = clock();
        let verdict = match self.0.version() {
            Ok(_) => Verdict::Served { excused: None },
            Err(errno) => Verdict::Unknown(Unknown::Hypercall {
                errno: errno as i32,
            }),
        };
        (verdict, began)
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial
    }
}
