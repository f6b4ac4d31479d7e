// SPDX-License-Identifier: GPL-2.0-only
//! What is handed over to the guard and by it without a lock: each model runs the product's code
//! on both sides, in every interleaving and with all that the memory model lets a reader see.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

mod guard_told;
mod loom_word;

use guard_told::{info, status};
use loom::sync::Arc;
use loom::thread;
use loom_word::LoomWord;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;
use xenwarden::config::leases::LeaseName;
use xenwarden::guard::deadlines;
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::gate::{Decision, Reason};
use xenwarden::guard::leases::Leases;
use xenwarden::guard::leases::page::{Deadline, serve, set_deadline};
use xenwarden::guard::page::{Info, Phase, Status, latch};
use xenwarden::guard::probes::{Evidence, Words};
use xenwarden::guard::seqlock;
use xenwarden::sys::clock::Monotonic;
use xenwarden::sys::word::Word;
use xenwarden::xen::simulation::Simulation;

const NEVER: u64 = u64::MAX;

fn words<const N: usize>() -> Arc<[LoomWord; N]> {
    Arc::new([0; N].map(LoomWord::new))
}

/// Tries what may come of `write` and `read` at the same time, over what `shared` makes. Twice, as
/// loom leaves out much of what a thread may see that begins before the other has stored.
fn model<S: Send + Sync + 'static>(
    shared: impl Fn() -> Arc<S> + Copy + Send + Sync + 'static,
    write: impl Fn(&S) + Copy + Send + Sync + 'static,
    read: impl Fn(&S) + Copy + Send + Sync + 'static,
) {
    at_once(shared, write, read);
    at_once(shared, read, write);
}

/// The first of both runs in a thread of its own.
fn at_once<S: Send + Sync + 'static>(
    shared: impl Fn() -> Arc<S> + Send + Sync + 'static,
    other: impl Fn(&S) + Copy + Send + Sync + 'static,
    this: impl Fn(&S) + Send + Sync + 'static,
) {
    loom::model(move || {
        let ours = shared();
        let theirs = Arc::clone(&ours);
        let thread = thread::spawn(move || other(&theirs));
        this(&ours);
        thread.join().expect("the other ends");
    });
}

#[test]
fn a_reader_never_takes_parts_of_two_values_for_one() {
    model(
        words::<3>,
        |cell| {
            seqlock::write(cell, &[1, 1]);
            seqlock::write(cell, &[2, 2]);
            let mut values = [0, 0];
            assert!(seqlock::read(cell, &mut values));
            assert_eq!(values, [2, 2]);
        },
        |cell| {
            let mut values = [0, 0];
            if seqlock::read(cell, &mut values) {
                assert_eq!(values[0], values[1]);
                assert_ne!(values[0], 0);
            }
        },
    );
}

/// As the guard tells before each kick that it serves, and leaves the rest of its status as it was.
#[test]
fn a_reader_never_sees_half_of_what_changes_in_a_value() {
    model(
        words::<4>,
        |cell| {
            seqlock::write(cell, &[1, 1, 1]);
            seqlock::change(cell, [(0, 2), (2, 2)]);
            let mut values = [0; 3];
            assert!(seqlock::read(cell, &mut values));
            assert_eq!(values, [2, 1, 2]);
        },
        |cell| {
            let mut values = [0; 3];
            if seqlock::read(cell, &mut values) {
                assert!([[1, 1, 1], [2, 1, 2]].contains(&values), "{values:?}");
            }
        },
    );
}

#[test]
fn what_would_change_beyond_the_cell_changes_nothing() {
    let cell = [0, 0].map(AtomicU64::new);
    seqlock::write(&cell, &[1]);
    seqlock::change(&cell, [(1, 5), (usize::MAX, 5)]);
    let mut values = [0];
    assert!(seqlock::read(&cell, &mut values));
    assert_eq!(values, [1]);
}

/// As the guard page's status tells how many entries its ring has.
#[test]
fn what_one_cell_announces_is_found_in_another() {
    model(
        words::<4>,
        |words| {
            let (entry, status) = words.split_at(2);
            seqlock::write(entry, &[7]);
            seqlock::write(status, &[1]);
        },
        |words| {
            let (entry, status) = words.split_at(2);
            let mut value = [0];
            if seqlock::read(status, &mut value) {
                assert!(seqlock::read(entry, &mut value));
                assert_eq!(value, [7]);
            }
        },
    );
}

#[test]
fn each_writing_counts_on_also_after_one_that_a_kill_cut_short() {
    let cell = [0, 0].map(AtomicU64::new);
    for n in 1..4 {
        seqlock::write(&cell, &[n]);
        assert_eq!(cell[0].load(Ordering::Relaxed), 2 * n);
    }
    cell[0].store(7, Ordering::Relaxed);
    let mut values = [0];
    assert!(!seqlock::read(&cell, &mut values), "cut short");
    seqlock::write(&cell, &[9]);
    assert!(seqlock::read(&cell, &mut values));
    assert_eq!((values, cell[0].load(Ordering::Relaxed)), ([9], 8));
}

/// A vCPU, which runs one thread at a time, and a pCPU that it is sent to.
const VCPU: usize = 0;
const PCPU: u32 = 7;

fn one_vcpu() -> Arc<Words<LoomWord>> {
    Arc::new(Words::of(1, true, LoomWord::new))
}

fn sent(words: &Words<LoomWord>) {
    words.sent(1, 0, 7);
}

#[test]
fn a_vcpu_that_counts_again_is_not_taken_for_one_that_is_away() {
    model(
        one_vcpu,
        |words| {
            sent(words);
            words.back(true);
            words.count(VCPU);
        },
        |words| {
            let mut evidence = Evidence::new(1, NEVER);
            let mut look = || evidence.look(words, || Monotonic(0)).0;
            let (first, then) = (look(), look());
            if first != Verdict::Unknown(Unknown::NoVcpu) {
                assert_eq!(then, Verdict::Served { excused: None }, "it has counted");
            }
        },
    );
}

#[test]
fn a_vcpu_that_is_away_is_seen_with_all_that_it_had_counted() {
    model(
        one_vcpu,
        |words| {
            words.count(VCPU);
            sent(words);
        },
        |words| {
            let mut evidence = Evidence::new(1, 0);
            let mut look = |ns| evidence.look(words, || Monotonic(ns)).0;
            let (first, second) = (look(1), look(2));
            let work = Work::Probe(PCPU);
            // What is as old as the first look was seen there.
            if second
                == (Verdict::Lagging {
                    work,
                    overdue_ns: 1,
                })
            {
                let away = Unknown::Unproven { cpu: PCPU };
                assert_eq!(first, Verdict::Unknown(away));
            }
        },
    );
}

#[test]
fn nothing_is_served_before_the_vcpu_has_counted_and_the_walk_has_ended() {
    // What was done by now, as the model goes through it; no part of it.
    static DONE: AtomicU64 = AtomicU64::new(0);
    let done = |n| DONE.store(n, Ordering::Relaxed);
    model(
        move || {
            done(0);
            one_vcpu()
        },
        move |words| {
            sent(words);
            words.back(false);
            words.count(VCPU);
            done(1);
            words.back(true);
        },
        |words| {
            let mut evidence = Evidence::new(1, NEVER);
            for _ in 0..2 {
                let (verdict, _) = evidence.look(words, || Monotonic(0));
                if verdict == (Verdict::Served { excused: None }) {
                    assert_eq!(DONE.load(Ordering::Relaxed), 1);
                }
            }
        },
    );
}

/// An order that is written, as pwrite(2) may, in whatever order.
#[test]
fn halves_of_two_deadlines_are_none() {
    let until = |s| Some(Monotonic(s));
    for order in [[0, 1], [1, 0]] {
        let write = move |words: &[LoomWord; 2]| {
            for deadline in [until(5), None, until(6)] {
                let pair = deadlines::pair(deadline);
                for n in order {
                    words[n].store(pair[n], Ordering::Relaxed);
                }
            }
        };
        model(words::<2>, write, move |words| {
            let read = deadlines::until(words, 100, Monotonic(1));
            assert!([None, until(5), until(6)].contains(&read), "{read:?}");
        });
    }
}

/// Its reader may look while the guard lives; what a guard left that was killed is what it had
/// written until then.
#[test]
fn the_latch_holds_for_a_guard_that_withholds_alone_wherever_it_is_killed() {
    let looks = [
        (Decision::Kick, false),
        (Decision::Withhold(Reason::Unknown(Unknown::NoPcpu)), true),
        (Decision::Kick, false),
    ];
    let says = |decision| Status {
        phase: Phase::Armed,
        ..status(decision)
    };
    let lasts = |words: &[LoomWord; 3]| latch::lasts(words, &Info { ..info() });
    for killed_after in 0..=looks.len() {
        loom::model(move || {
            let words = words::<3>();
            let written = Arc::clone(&words);
            let writer = thread::spawn(move || {
                lasts(&written);
                for (decision, _) in looks.iter().take(killed_after) {
                    latch::tell(&*written, &says(*decision));
                }
            });
            let now = Monotonic(41);
            let withheld = latch::read(&*words, now);
            assert!(!withheld || killed_after >= 2, "it has only kicked");
            writer.join().expect("the guard ends");
            let last = looks.iter().take(killed_after).next_back();
            assert_eq!(latch::read(&*words, now), last.is_some_and(|last| last.1));
        });
    }
}

const GUEST: u16 = 1;

/// A domain with its watchdog armed for 5 s.
fn table() -> Arc<Simulation<LoomWord>> {
    let xen = Simulation::of(1, 2, LoomWord::new);
    xen.create(GUEST, Uuid::from_u128(1));
    xen.arm(GUEST, 0, 5);
    Arc::new(xen)
}

#[test]
fn the_slots_of_a_domain_come_with_its_number_though_it_was_created_meanwhile() {
    model(
        table,
        |xen| {
            xen.create(GUEST, Uuid::from_u128(2));
            xen.arm(GUEST, 0, 7);
        },
        |xen| {
            if let Some((created, [slot, _])) = xen.table().armed(GUEST) {
                let armed = slot.and_then(|slot| slot.armed);
                assert!(armed == Some(5) || (armed, created) == (Some(7), 2));
            }
        },
    );
}

#[test]
fn a_handler_is_never_seen_to_have_handled_what_is_not_seen_set() {
    model(
        table,
        |xen| {
            for _ in 0..2 {
                xen.expire(GUEST, 0);
                xen.arm(GUEST, 0, 5);
            }
        },
        |xen| {
            let slot = xen.table().slot(GUEST, 0).expect("a slot");
            assert!(slot.done <= slot.sets && slot.acted <= slot.sets);
        },
    );
}

/// Words 0 to 15 are the page's own, the next 8 are the one lease's, which holds until 10.
fn one_lease() -> Arc<[LoomWord; 24]> {
    let mut words = [0; 24];
    let name = LeaseName::new("quorum").expect("a name");
    (words[1], words[3]) = (1, NEVER);
    [words[16], words[17]] = name.words();
    words[20] = 10;
    Arc::new(words.map(LoomWord::new))
}

#[test]
fn a_lease_that_was_renewed_before_the_monitor_looked_is_never_seen_to_have_lapsed() {
    model(
        one_lease,
        |words| {
            set_deadline(&words[..], 0, Deadline::At(Monotonic(30)));
            serve(&words[..], Monotonic(20));
        },
        |words| {
            let against = Leases::new(&words[..], Monotonic(0)).against(Monotonic(20));
            assert_eq!(against, None);
        },
    );
}
