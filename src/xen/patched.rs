// SPDX-License-Identifier: GPL-2.0-only
//! A hypervisor that shows its liveness: full coverage.
//!
//! In: pages from a [`PageReader`]. Out: evidence over all of them. One look reads the
//! state page and every page of timers in use; any page that cannot be read makes the
//! look unknown.

use crate::guard::evidence::{Evidence, Judgement, Unknown, Verdict};
use crate::sys::clock::Monotonic;
use crate::xen::liveness::Malformed;
use crate::xen::liveness::{StatePage, TimersPage};
use crate::xen::snapshot::{Copying, Snapshots};
use crate::xen::{Coverage, Hypervisor, Page, PageReader, ReadError};

/// How often a page with a torn record is read before it counts as unknown. The
/// hypervisor itself retries too; a writer holds a record for about a hundred ns.
const TORN_ATTEMPTS: u32 = 3;

/// Patched Xen, read by `R`.
#[derive(Debug)]
pub struct Patched<R> {
    reader: R,
    clock: ClockCheck,
}

impl<R: PageReader> Patched<R> {
    /// Over `reader`; reads nothing yet.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            clock: ClockCheck::default(),
        }
    }

    fn judge(&mut self, taken: Monotonic, copy: Option<&Snapshots>) -> Result<Verdict, Unknown> {
        let mut judgement = Judgement::new();
        let bytes = self.reader.read(Page::State).map_err(unreadable)?;
        let state = StatePage::parse(bytes).map_err(Unknown::Malformed)?;
        let header = *state.header();
        self.clock.check(taken, header.now)?;
        judgement.state(&state, taken);
        let mut copying = copy.map(|copy| copy.begin(taken, bytes));
        for n in 0..header.nr_pages {
            self.judge_timers(n, &mut judgement, copying.as_mut())?;
        }
        if let Some(copying) = copying {
            copying.finish();
        }
        Ok(judgement.verdict())
    }

    fn judge_timers(
        &mut self,
        n: u32,
        judgement: &mut Judgement,
        mut copying: Option<&mut Copying<'_>>,
    ) -> Result<(), Unknown> {
        for _ in 0..TORN_ATTEMPTS {
            let asked = Monotonic::now();
            let bytes = self.reader.read(Page::Timers(n)).map_err(unreadable)?;
            let page = TimersPage::parse(bytes, n).map_err(Unknown::Malformed)?;
            if judgement.timers(&page, asked) {
                if let Some(copying) = copying.as_mut() {
                    copying.timers(bytes);
                }
                return Ok(());
            }
        }
        Err(Unknown::Torn { page: n })
    }
}

impl<R: PageReader> Hypervisor for Patched<R> {
    fn look(&mut self, copy: Option<&Snapshots>) -> Evidence {
        let taken = Monotonic::now();
        let verdict = match self.judge(taken, copy) {
            Ok(verdict) => verdict,
            Err(why) => Verdict::Unknown(why),
        };
        self.clock.seen_at(Monotonic::now());
        Evidence { taken, verdict }
    }

    fn coverage(&self) -> Coverage {
        Coverage::Full
    }
}

fn unreadable(error: ReadError) -> Unknown {
    match error {
        ReadError::Errno(errno) => Unknown::Hypercall {
            errno: errno as i32,
        },
        ReadError::Framing => Unknown::Malformed(Malformed::Truncated),
    }
}

/// Compares the advance of the hypervisor's clock with ours: evidence against a clock
/// that stands still would never grow old.
#[derive(Clone, Copy, Debug, Default)]
struct ClockCheck {
    hypervisor: u64,
    /// When the last look had come to its end: between it and the next look's beginning
    /// at least the whole difference has gone by for the hypervisor as well.
    ours: Option<Monotonic>,
}

impl ClockCheck {
    fn check(&mut self, taken: Monotonic, now: u64) -> Result<(), Unknown> {
        let before = std::mem::replace(&mut self.hypervisor, now);
        let Some(ours) = self.ours else {
            return Ok(());
        };
        // Half: far beyond any slewing of either clock, far short of standing still.
        let enough = now
            .checked_sub(before)
            .is_some_and(|advance| advance >= taken.since_ns(ours) / 2);
        if enough {
            Ok(())
        } else {
            Err(Unknown::ClockStalled)
        }
    }

    fn seen_at(&mut self, end: Monotonic) {
        if self.hypervisor != 0 {
            self.ours = Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::evidence::Work;
    use crate::xen::simulated::{Scene, Simulated};

    fn look(simulated: Simulated) -> Verdict {
        Patched::new(simulated).look(None).verdict
    }

    #[test]
    fn every_page_of_timers_is_judged() {
        let mut scene = Scene::healthy(2, 300);
        scene.timers[299].deadline = scene.now - 5_000_000_000;
        let work = Work::GuestWatchdog {
            domid: 150,
            slot: 2,
        };
        let verdict = look(Simulated::still(&scene));
        assert!(
            matches!(verdict, Verdict::Lagging { work: w, .. } if w == work),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_page_that_cannot_be_read_makes_the_look_unknown() {
        let scene = Scene::healthy(2, 100);
        let one_missing = Simulated::raw(scene.state_page(), vec![scene.timers_page(0)]);
        let errno = nix::errno::Errno::ENOENT as i32;
        assert_eq!(
            look(one_missing),
            Verdict::Unknown(Unknown::Hypercall { errno })
        );
        let swapped = Simulated::raw(
            scene.state_page(),
            vec![scene.timers_page(1), scene.timers_page(0)],
        );
        assert_eq!(
            look(swapped),
            Verdict::Unknown(Unknown::Malformed(Malformed::Index))
        );
    }

    #[test]
    fn a_record_that_stays_torn_is_unknown() {
        let mut scene = Scene::healthy(1, 2);
        scene.timers[0].seq = 7;
        assert_eq!(
            look(Simulated::still(&scene)),
            Verdict::Unknown(Unknown::Torn { page: 0 })
        );
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_is_unknown() {
        for step in [0i64, -5] {
            let mut patched = Patched::new(Simulated::scripted(move |n| {
                let mut scene = Scene::healthy(1, 0);
                let moved = i64::try_from(n).expect("small") * step;
                scene.now = scene.now.checked_add_signed(moved).expect("in range");
                scene
            }));
            assert!(matches!(patched.look(None).verdict, Verdict::Served { .. }));
            crate::sys::clock::sleep_until(Monotonic::now().plus_ns(2_000_000));
            assert_eq!(
                patched.look(None).verdict,
                Verdict::Unknown(Unknown::ClockStalled)
            );
        }
    }

    #[test]
    fn the_copy_shows_what_was_judged() {
        let scene = Scene::healthy(2, 70);
        let copy = Snapshots::new();
        assert_eq!(copy.latest(), None);
        let evidence = Patched::new(Simulated::still(&scene)).look(Some(&copy));
        let latest = copy.latest().expect("published");
        assert_eq!(latest.taken, evidence.taken);
        assert_eq!(latest.pcpus, scene.pcpus);
        let timers: Vec<_> = latest.timers.iter().map(|(_, t)| *t).collect();
        assert_eq!(timers, scene.timers);
    }
}
