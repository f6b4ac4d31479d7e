// SPDX-License-Identifier: GPL-2.0-only
//! Several runs of a soak at a time, each kept when it is through.
//!
//! In: the numbers of the runs that are missing. Promise: each is begun once, in their order, and kept when it is through. An error ends
//! it: no run is begun any more, those under way are made and kept, and the run that could not be made stays missing.

use super::kept::Kept;
use crate::error::{Error, Result};
use crate::scenario::figures::Figures;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// What the workers share.
struct Shared<'a> {
    /// The runs to come, the next one last.
    to_come: Vec<u64>,
    kept: &'a mut Kept,
    failed: usize,
    error: Option<Error>,
}

/// Makes the runs of these numbers by `run`, `jobs` at a time, and keeps them; says by `told` how many there are, after each. Returns
/// how many of those that were made have failed.
pub fn through(
    kept: &mut Kept,
    missing: Vec<u64>,
    jobs: usize,
    run: impl Fn(u64) -> Result<Figures> + Sync,
    told: impl Fn(u64) + Sync,
) -> Result<usize> {
    let shared = Mutex::new(Shared {
        to_come: missing.into_iter().rev().collect(),
        kept,
        failed: 0,
        error: None,
    });
    let worker = || {
        while let Some(n) = next(&shared) {
            let made = catch_unwind(AssertUnwindSafe(|| run(n)))
                .unwrap_or_else(|_| Err(Error::new(format!("run {n} panicked"))));
            lock(&shared).take(n, made, &told);
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(worker);
        }
    });
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    shared.error.map_or(Ok(shared.failed), Err)
}

fn lock<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Apart from the loop, so that nobody else waits while the run is made.
fn next(shared: &Mutex<Shared<'_>>) -> Option<u64> {
    lock(shared).to_come.pop()
}

impl Shared<'_> {
    /// Keeps what was made, or ends the soak.
    fn take(&mut self, n: u64, made: Result<Figures>, told: impl Fn(u64)) {
        let kept = made.and_then(|figures| {
            self.failed += usize::from(figures.failure.is_some());
            self.kept.add(n, figures)
        });
        match kept {
            Ok(()) => told(self.kept.soak().count()),
            Err(error) => {
                self.to_come.clear();
                // The first says what went wrong.
                self.error.get_or_insert(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::through;
    use crate::error::{Error, Result};
    use crate::layout::fresh_dir;
    use crate::scenario::figures::Figures;
    use crate::soak::kept::{Head, Kept, Soak};
    use std::path::{Path, PathBuf};
    use std::sync::{Barrier, Mutex};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("work-{name}-{}", std::process::id()));
        fresh_dir(&folder).unwrap();
        folder
    }

    fn opened(folder: &Path) -> Kept {
        let head = Head {
            key: "k".to_owned(),
            seed: 7,
            versions: [].into(),
        };
        Kept::open(folder, head, None).unwrap()
    }

    fn figures(n: u64) -> Figures {
        Figures {
            scenario: format!("row-{n}"),
            failure: (n % 5 == 3).then(|| "late".to_owned()),
            ..Figures::default()
        }
    }

    fn numbers(folder: &Path) -> Vec<u64> {
        let soak = Soak::read(folder).unwrap().unwrap();
        assert!(soak.runs.iter().all(|run| run.figures == figures(run.n)));
        soak.runs.into_iter().map(|run| run.n).collect()
    }

    fn made(n: u64) -> Result<Figures> {
        Ok(figures(n))
    }

    #[test]
    fn a_soak_of_two_workers_that_was_ended_has_holes_and_fills_them() {
        let folder = folder("holes");
        let mut kept = opened(&folder);
        // The second run is not through before the soak ends: the others are made meanwhile.
        let through_first = Barrier::new(2);
        let missing = kept.soak().missing(6);
        let ended = through(
            &mut kept,
            missing,
            2,
            |n| match n {
                1 => {
                    through_first.wait();
                    Err(Error::new("ended"))
                }
                4 => {
                    through_first.wait();
                    made(n)
                }
                _ => made(n),
            },
            |_| (),
        );
        assert_eq!(ended.unwrap_err().to_string(), "ended");
        drop(kept);
        let there = numbers(&folder);
        assert!(there.starts_with(&[0, 2, 3, 4]), "{there:?}");
        let mut kept = opened(&folder);
        let missing = kept.soak().missing(8);
        assert_eq!(missing[0], 1);
        assert!(missing.iter().all(|n| !there.contains(n)));
        through(&mut kept, missing, 2, made, |_| ()).unwrap();
        assert_eq!(numbers(&folder), [0, 1, 2, 3, 4, 5, 6, 7]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn each_run_is_begun_once_in_order_and_told_when_it_is_kept() {
        let folder = folder("once");
        let mut kept = opened(&folder);
        let (begun, told) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let failed = through(
            &mut kept,
            (0..100).collect(),
            3,
            |n| {
                begun.lock().unwrap().push(n);
                made(n)
            },
            |count| told.lock().unwrap().push(count),
        );
        assert_eq!(failed.unwrap(), 20, "of those that were made");
        let mut begun = begun.into_inner().unwrap();
        begun.sort_unstable();
        assert!(begun.into_iter().eq(0..100));
        assert!(told.into_inner().unwrap().into_iter().eq(1..=100));
        assert!(numbers(&folder).into_iter().eq(0..100));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn several_runs_are_under_way_at_a_time() {
        let folder = folder("several");
        let mut kept = opened(&folder);
        // Neither of two is through before both were begun.
        let both = Barrier::new(2);
        let run = |n| {
            both.wait();
            made(n)
        };
        through(&mut kept, (0..10).collect(), 2, run, |_| ()).unwrap();
        assert!(numbers(&folder).into_iter().eq(0..10));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_run_that_cannot_be_made_is_no_failed_run_and_ends_the_soak() {
        let folder = folder("broken");
        let mut kept = opened(&folder);
        let run = |n| match n {
            2 => Err(Error::new("no QEMU")),
            _ => made(n),
        };
        let ended = through(&mut kept, (0..10).collect(), 1, run, |_| ());
        assert_eq!(ended.unwrap_err().to_string(), "no QEMU");
        assert_eq!(numbers(&folder), [0, 1]);
        let run = |n| match n {
            2 => panic!("a row that panics ends the soak as well"),
            _ => made(n),
        };
        let ended = through(&mut kept, vec![2, 3], 1, run, |_| ());
        assert_eq!(ended.unwrap_err().to_string(), "run 2 panicked");
        assert_eq!(numbers(&folder), [0, 1]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
