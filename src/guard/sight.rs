// SPDX-License-Identifier: GPL-2.0-only
//! The two ways to look at a hypervisor: by its liveness table, or, where it has none, by
//! probes.
//!
//! Neither allocates, takes a lock or makes a hypercall: both read memory.

use super::evidence::{Evidence, Verdict};
use super::probes::{self, Words};
use super::probing::{self, Sender};
use crate::config::Policy;
use crate::event::Coverage;
use crate::sys::clock::Monotonic;
use crate::sys::privcmd::Privcmd;
use crate::xen::table::Table;
use std::io;
use std::sync::Arc;

/// A way to look at the hypervisor.
pub trait Sight {
    /// Starts what it needs, with threads of this priority. The caller is the guard's thread.
    ///
    /// # Errors
    /// The errno of making a thread.
    fn begin(&mut self, _priority: u8) -> io::Result<()> {
        Ok(())
    }

    /// Looks once; `clock` is read before and after. Gives what is proved, and when the look
    /// began.
    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic);

    /// What a look covers.
    fn coverage(&self) -> Coverage;

    /// What it does not see and might, for people, once everything is served.
    fn weakness(&self) -> Option<String> {
        None
    }

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

/// A hypervisor without a table: probes are all that is seen of it. Used only where the
/// configuration says `coverage = "partial"`.
#[derive(Debug)]
pub struct Stock {
    words: Arc<Words>,
    evidence: probes::Evidence,
    /// The way to send a vCPU to pCPUs, until its thread has it, or why there is none.
    way: Result<Option<Privcmd>, &'static str>,
    sender: Option<Sender>,
}

/// What is said where no vCPU is sent.
const OFF: &str = "it is switched off";
const ALONE: &str = "dom0 has one vcpu";
const REFUSED: &str = "the hypervisor refuses it";

impl Stock {
    /// Nothing seen yet of what these words say, which is all that it looks at.
    #[must_use]
    pub fn over(words: Arc<Words>, silent_ns: u64) -> Self {
        Self {
            evidence: probes::Evidence::new(words.len(), silent_ns),
            words,
            way: Err(OFF),
            sender: None,
        }
    }

    /// Nothing seen yet; [`Sight::begin`] starts the threads.
    #[must_use]
    pub fn new(way: Privcmd, policy: &Policy) -> Self {
        let vcpus = probing::vcpus();
        let way = match policy.pin_probe {
            false => Err(OFF),
            true if vcpus < 2 => Err(ALONE),
            true => probing::scheduler_allows(&way.command_line().unwrap_or_default())
                .map(|()| Some(way)),
        };
        let words = Arc::new(Words::new(vcpus, way.is_ok()));
        Self {
            way,
            ..Self::over(words, policy.silent_ns)
        }
    }
}

impl Sight for Stock {
    fn begin(&mut self, priority: u8) -> io::Result<()> {
        for vcpu in 0..self.words.len() {
            probing::count_on(vcpu, &self.words, priority)?;
        }
        if let Ok(way) = &mut self.way {
            let sender = way
                .take()
                .map(|way| Sender::start(way, &self.words, priority));
            self.sender = sender.transpose()?;
        }
        Ok(())
    }

    fn look(&mut self, clock: &dyn Fn() -> Monotonic) -> (Verdict, Monotonic) {
        self.evidence.look(&self.words, clock)
    }

    fn coverage(&self) -> Coverage {
        Coverage::Partial
    }

    fn weakness(&self) -> Option<String> {
        let why = match self.way {
            Err(why) => why,
            Ok(_) if self.words.sends() => return None,
            Ok(_) if self.words.counting().count() < 2 => ALONE,
            Ok(_) => REFUSED,
        };
        Some(format!("no pcpu is probed: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_vcpu_is_sent_the_reason_is_told() {
        let told = |way, sends, counting: usize| {
            let words = Words::new(2, sends);
            (0..counting).for_each(|vcpu| words.count(vcpu));
            let stock = Stock {
                way,
                ..Stock::over(Arc::new(words), 1)
            };
            stock.weakness()
        };
        assert_eq!(told(Ok(None), true, 2), None);
        let reasons = [
            (told(Err(OFF), false, 2), OFF),
            (told(Ok(None), false, 1), ALONE),
            (told(Ok(None), false, 2), REFUSED),
        ];
        for (told, reason) in reasons {
            assert_eq!(told, Some(format!("no pcpu is probed: {reason}")));
        }
    }
}
