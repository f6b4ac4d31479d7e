// SPDX-License-Identifier: GPL-2.0-only
//! Where probes go on a hypervisor without a table, and what counts on each vCPU.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::probes::{Evidence, UNKNOWN, Words};
use xenwarden::guard::probing::{Walk, Way, count_on};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};

const PATIENCE_NS: u64 = 10 * NS_PER_S;
const SAMPLE_NS: u64 = 250 * NS_PER_MS;
const SERVED: Verdict = Verdict::Served { excused: None };

#[test]
fn the_thread_of_a_vcpu_counts_if_there_is_such_a_vcpu() {
    // More than any machine that this is built on has.
    const NONE: usize = 1023;
    let words = Arc::new(Words::new(NONE + 1, false));
    // Real-time needs the privilege: run as root, as for tests/kick_path.rs.
    for vcpu in [0, NONE] {
        count_on(vcpu, &words, 1).expect("a thread");
    }
    let begin = Instant::now();
    let counts = || words.counting().collect::<Vec<_>>() == [0];
    while !counts() && begin.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(counts(), "only the one that is there");
    // The other has said that it is not, so that nobody waits for it.
    (1..NONE).for_each(|vcpu| words.absent(vcpu));
    while !words.settled() && begin.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(words.settled());
}

/// A hypervisor with these pCPUs in dom0's pool.
#[derive(Default)]
struct Fake {
    pcpus: RefCell<BTreeSet<u16>>,
    refuses: Cell<Option<Errno>>,
    at: Cell<Option<u16>>,
    stays: RefCell<Vec<u16>>,
    /// Where the vCPU really is, and since when.
    runs_on: Cell<Option<u16>>,
    /// Where it goes when it is not sent (`xl vcpu-pin`).
    bound_to: Cell<Option<u16>>,
    given_ns: Cell<u64>,
    /// This one schedules nothing: it runs on with whatever it ran.
    dead: Cell<Option<u16>>,
    /// The hypervisor does not say when it gave the vCPU a pCPU.
    is_silent: Cell<bool>,
    now_ns: Cell<u64>,
    /// What words say at each stay, of how late it is.
    says: RefCell<Option<Arc<Words>>>,
    late_ms: RefCell<Vec<u64>>,
}

impl Fake {
    fn with(pcpus: impl IntoIterator<Item = u16>) -> Self {
        Self {
            pcpus: RefCell::new(pcpus.into_iter().collect()),
            ..Self::default()
        }
    }

    fn move_to(&self, pcpu: u16) {
        let runs_on = self.runs_on.get();
        if runs_on != Some(pcpu) && (runs_on.is_none() || runs_on != self.dead.get()) {
            self.runs_on.set(Some(pcpu));
            self.given_ns.set(self.given_ns.get() + 1);
        }
    }

    fn stays(&self) -> Vec<u16> {
        std::mem::take(&mut self.stays.borrow_mut())
    }
}

impl Way for Fake {
    fn send(&self, pcpu: u16) -> Result<(), Errno> {
        if let Some(errno) = self.refuses.get() {
            return Err(errno);
        }
        if self.at.get().is_some() {
            return Err(Errno::EBUSY);
        }
        if !self.pcpus.borrow().contains(&pcpu) {
            return Err(Errno::EINVAL);
        }
        self.at.set(Some(pcpu));
        self.move_to(pcpu);
        Ok(())
    }

    // Other threads keep the vCPU busy: it is given nothing anew because this one sleeps.
    fn stay(&self) {
        self.stays.borrow_mut().extend(self.at.get());
        let words = self.says.borrow();
        let late_ms = words.as_deref().map(late_ms);
        self.late_ms.borrow_mut().extend(late_ms);
    }

    fn now(&self) -> Monotonic {
        Monotonic(self.now_ns.get())
    }

    fn release(&self) -> Result<(), Errno> {
        let released = self.at.take().map(drop).ok_or(Errno::EINVAL);
        if let Some(home) = self.bound_to.get() {
            self.move_to(home);
        }
        released
    }

    fn given_ns(&self, _vcpu: u16) -> Option<u64> {
        (!self.is_silent.get()).then(|| self.given_ns.get())
    }
}

/// Goes on until the next wait.
fn go(walk: &mut Walk, words: &Words, way: &Fake) -> Result<(), Errno> {
    for _ in 0..10_000 {
        walk.step(words, 1, way)?;
        assert_eq!(way.at.get(), None, "it is back after each step");
        if walk.pause_ns() != 0 {
            return Ok(());
        }
    }
    panic!("it never waits");
}

#[test]
fn each_pcpu_of_the_pool_is_visited_in_turn() {
    let (way, words) = (Fake::with([0, 1, 5]), Words::new(2, true));
    let mut walk = Walk::default();
    go(&mut walk, &words, &way).expect("allowed");
    assert_eq!(way.stays(), [0, 1, 5, 0], "at first without a pause");
    for pcpu in [1, 5, 0, 1, 5, 0] {
        go(&mut walk, &words, &way).expect("allowed");
        assert_eq!(way.stays(), [pcpu]);
    }
}

/// How late the vCPU is that is away, by what is added to the age of its visit, ms.
fn late_ms(words: &Words) -> u64 {
    let mut evidence = Evidence::new(2, 40 * NS_PER_S);
    let mut overdue = None;
    for second in [0, 20, 40, 60] {
        let (verdict, _) = evidence.look(words, || Monotonic(second * NS_PER_S));
        if let Verdict::Lagging { overdue_ns, .. } = verdict {
            overdue = Some(overdue_ns);
        }
    }
    (overdue.expect("away for a minute") - 60 * NS_PER_S) / NS_PER_MS
}

#[test]
fn a_visit_that_comes_later_than_a_walk_after_the_last_one_says_so() {
    let (way, words) = (Fake::with([0, 1]), Arc::new(Words::new(2, true)));
    way.now_ns.set(1_000 * NS_PER_S);
    *way.says.borrow_mut() = Some(Arc::clone(&words));
    let mut walk = Walk::default();
    let mut pass = |held_up_ms: u64| {
        go(&mut walk, &words, &way).expect("allowed");
        let passed_ns = walk.pause_ns() + held_up_ms * NS_PER_MS;
        way.now_ns.set(way.now_ns.get() + passed_ns);
        // Within the 17 ms that moments are kept in.
        let late_ms = way.late_ms.borrow_mut().pop().expect("a stay");
        late_ms.next_multiple_of(50)
    };
    // Held up between two visits, each pCPU comes late by that much, and no more once it was there.
    assert_eq!([0, 0, 0, 0, 3_000].map(&mut pass), [0; 5]);
    assert_eq!([0, 0, 0, 0].map(&mut pass), [3_000, 3_000, 0, 0]);
    // What it is held up again and again adds up until it comes.
    assert_eq!(
        [2_000, 1_000, 0, 0, 0].map(&mut pass),
        [0, 2_000, 3_000, 1_000, 0]
    );
    // One that may not be visited for a time is not late for that.
    way.pcpus.borrow_mut().remove(&1);
    assert_eq!([0, 0, 5_000].map(&mut pass), [0, 0, 0]);
    way.pcpus.borrow_mut().insert(1);
    let late = [0, 0, 0, 0].map(&mut pass);
    assert_eq!(
        late.iter().filter(|late_ms| **late_ms > 0).count(),
        1,
        "{late:?}"
    );
}

#[test]
fn a_walk_over_many_pcpus_is_not_late_for_their_number() {
    let (way, words) = (Fake::with(0..30), Arc::new(Words::new(2, true)));
    way.now_ns.set(1_000 * NS_PER_S);
    *way.says.borrow_mut() = Some(Arc::clone(&words));
    let mut walk = Walk::default();
    for _ in 0..100 {
        go(&mut walk, &words, &way).expect("allowed");
        way.now_ns.set(way.now_ns.get() + walk.pause_ns());
    }
    assert!(way.late_ms.borrow().iter().all(|late_ms| *late_ms < 50));
}

#[test]
fn a_pcpu_that_keeps_the_vcpu_which_it_runs_is_told() {
    let (way, words) = (Fake::with([0, 1, 2]), Words::new(2, true));
    let mut evidence = Evidence::new(2, PATIENCE_NS);
    let (mut walk, mut now) = (Walk::default(), 0);
    let mut second = |walk: &mut Walk| {
        for _ in 0..4 {
            now += SAMPLE_NS;
            [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
            go(walk, &words, &way).expect("allowed");
            let (verdict, _) = evidence.look(&words, || Monotonic(now));
            if let Verdict::Lagging { work, .. } = verdict {
                return Some(work);
            }
        }
        None
    };
    go(&mut walk, &words, &way).expect("allowed");
    assert!((0..20).all(|_| second(&mut walk).is_none()), "it is sound");
    way.dead.set(way.runs_on.get());
    let kept_on = way.runs_on.get().map(u32::from).expect("somewhere");
    let told: Vec<_> = (0..11).map(|_| second(&mut walk)).collect();
    assert_eq!(
        told.iter().flatten().count(),
        1,
        "after the patience: {told:?}"
    );
    assert_eq!(told.last(), Some(&Some(Work::Probe(kept_on))));
    // It also waits where the pCPUs come and go meanwhile.
    way.pcpus.borrow_mut().remove(&2);
    assert_eq!(second(&mut walk), Some(Work::Probe(kept_on)));
    way.dead.set(None);
    second(&mut walk);
    assert_eq!(second(&mut walk), None, "nothing latches");
}

#[test]
fn a_vcpu_that_is_kept_where_it_went_by_itself_blames_no_other_pcpu() {
    for stays_before in 1..=3 {
        let (way, words) = (Fake::with([0, 1, 2]), Words::new(2, true));
        way.bound_to.set(Some(1));
        let mut walk = Walk::default();
        (0..9 + stays_before).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
        way.dead.set(Some(1));
        let mut evidence = Evidence::new(2, PATIENCE_NS);
        let mut told = None;
        for look in 0..100 {
            [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
            let (verdict, _) = evidence.look(&words, || Monotonic(look * SAMPLE_NS));
            match verdict {
                Verdict::Lagging { work, .. } => told = Some(work),
                verdict => assert_eq!(verdict, SERVED),
            }
            go(&mut walk, &words, &way).expect("allowed");
        }
        let unknown = Work::Probe(u32::from(UNKNOWN));
        assert!(
            [Some(Work::Probe(1)), Some(unknown)].contains(&told),
            "{told:?}"
        );
    }
}

#[test]
fn one_that_is_kept_at_once_is_never_taken_for_served() {
    let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
    way.dead.set(Some(0));
    let mut walk = Walk::default();
    for _ in 0..1_000 {
        walk.step(&words, 1, &way).expect("allowed");
    }
    let mut evidence = Evidence::new(2, PATIENCE_NS);
    [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
    let (verdict, _) = evidence.look(&words, || Monotonic(1));
    assert_eq!(verdict, Verdict::Unknown(Unknown::Unproven { cpu: 0 }));
    assert!(walk.pause_ns() > 0, "and it is not asked without a pause");
}

#[test]
fn a_vcpu_is_not_kept_where_it_only_stays_busy_or_nobody_says() {
    // There is but one pCPU, or the hypervisor says nothing, or another vCPU is sent each time.
    for (pcpus, is_silent, vcpus) in [(1, false, 1), (3, true, 1), (3, false, 2)] {
        let (way, words) = (Fake::with(0..pcpus), Words::new(3, true));
        way.is_silent.set(is_silent);
        let mut walk = Walk::default();
        go(&mut walk, &words, &way).expect("allowed");
        if is_silent || vcpus > 1 {
            way.dead.set(way.runs_on.get());
        }
        let mut evidence = Evidence::new(3, PATIENCE_NS);
        for step in 0..20 {
            (0..3).for_each(|vcpu| words.count(vcpu));
            walk.step(&words, 1 + (step + 1) % vcpus, &way)
                .expect("allowed");
            let (verdict, _) = evidence.look(&words, || Monotonic(u64::from(step)));
            assert_eq!(verdict, SERVED, "{pcpus} {is_silent} {vcpus}");
        }
    }
}

#[test]
fn a_walk_takes_a_second_or_a_tenth_for_each_pcpu() {
    for (pcpus, each_ms) in [(1, 1_000), (4, 250), (10, 100), (40, 100)] {
        let (way, words) = (Fake::with(0..pcpus), Words::new(2, true));
        let mut walk = Walk::default();
        assert_eq!(walk.pause_ns(), 0, "not while it finds out which there are");
        go(&mut walk, &words, &way).expect("allowed");
        assert_eq!(walk.pause_ns(), each_ms * NS_PER_MS, "{pcpus} pcpus");
    }
}

#[test]
fn pcpus_may_come_and_go() {
    let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
    let mut walk = Walk::default();
    (0..4).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
    way.stays();
    way.pcpus.borrow_mut().extend([2]);
    way.pcpus.borrow_mut().remove(&1);
    (0..6).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
    let stays: BTreeSet<u16> = way.stays().into_iter().collect();
    assert_eq!(stays, BTreeSet::from([0, 2]));
}

#[test]
fn a_pcpu_that_joins_the_pool_behind_others_that_are_not_in_it_is_found() {
    for joins in [2, 6, 200] {
        let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
        let mut walk = Walk::default();
        (0..4).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
        way.stays();
        way.pcpus.borrow_mut().insert(joins);
        (0..2 * 260).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
        let stays = way.stays();
        let first = stays.iter().position(|pcpu| *pcpu == joins);
        let Some(first) = first else {
            panic!("{joins} is never visited");
        };
        let later = stays[first..].iter().filter(|pcpu| **pcpu == joins);
        assert!(later.count() >= (stays.len() - first) / 3, "each walk");
    }
}

#[test]
fn a_vcpu_that_is_always_refused_is_tried_with_pauses_for_as_long_as_it_takes() {
    let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
    let mut walk = Walk::default();
    go(&mut walk, &words, &way).expect("allowed");
    way.refuses.set(Some(Errno::EBUSY));
    let mut pauses = 0;
    for _ in 0..70_000 {
        walk.step(&words, 1, &way).expect("tried on");
        pauses += u32::from(walk.pause_ns() != 0);
    }
    // A walk tries four numbers.
    assert!(pauses >= 70_000 / 5, "{pauses}");
}

#[test]
fn a_vcpu_that_was_left_away_is_released_before_it_is_tried_again() {
    let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
    let mut walk = Walk::default();
    go(&mut walk, &words, &way).expect("allowed");
    way.stays();
    // Its release was refused.
    way.at.set(Some(1));
    go(&mut walk, &words, &way).expect("allowed");
    assert!(!way.stays().is_empty());
}

/// Another vCPU of the same hypervisor, which never comes back from where it is sent.
struct Away<'a> {
    fake: &'a Fake,
    words: &'a Words,
    told: RefCell<Option<Verdict>>,
}

impl Way for Away<'_> {
    fn send(&self, pcpu: u16) -> Result<(), Errno> {
        self.fake.send(pcpu)
    }

    fn stay(&self) {
        let mut evidence = Evidence::new(3, PATIENCE_NS);
        for second in [0, 5, 10, 15, 20] {
            self.words.count(0);
            let (verdict, _) = evidence.look(self.words, || Monotonic(second * NS_PER_S));
            self.told.replace(Some(verdict));
        }
    }

    fn release(&self) -> Result<(), Errno> {
        self.fake.release()
    }

    fn given_ns(&self, vcpu: u16) -> Option<u64> {
        self.fake.given_ns(vcpu)
    }

    fn now(&self) -> Monotonic {
        self.fake.now()
    }
}

#[test]
fn another_vcpu_in_place_of_one_that_is_kept_is_told_as_itself() {
    let (way, words) = (Fake::with([0, 1, 2]), Words::new(3, true));
    let mut walk = Walk::default();
    (0..6).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
    way.dead.set(way.runs_on.get());
    (0..6).for_each(|_| go(&mut walk, &words, &way).expect("allowed"));
    assert!(walk.pause_ns() > 0, "it is kept");
    // It goes offline, and the other one is sent.
    words.absent(1);
    [0, 2].into_iter().for_each(|vcpu| words.count(vcpu));
    let other = Away {
        fake: &way,
        words: &words,
        told: RefCell::default(),
    };
    while other.told.borrow().is_none() {
        walk.step(&words, 2, &other).expect("allowed");
    }
    let told = other.told.into_inner();
    let is_told = |told| {
        matches!(
            told,
            Verdict::Lagging {
                work: Work::Probe(_),
                ..
            }
        )
    };
    assert!(told.is_some_and(is_told), "{told:?}");
}

#[test]
fn the_first_walk_ends_before_anything_is_taken_for_served() {
    let (way, words) = (Fake::with([0, 1]), Words::new(2, true));
    let mut evidence = Evidence::new(2, PATIENCE_NS);
    let (mut walk, mut served) = (Walk::default(), None);
    [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
    for step in 0..1_000 {
        walk.step(&words, 1, &way).expect("allowed");
        let (verdict, _) = evidence.look(&words, || Monotonic(step));
        if verdict == SERVED {
            served = Some(way.stays());
            break;
        }
    }
    assert_eq!(served, Some(vec![0, 1]));
}

#[test]
fn a_hypervisor_that_refuses_is_asked_no_more() {
    let (way, words) = (Fake::with([0]), Words::new(2, true));
    way.refuses.set(Some(Errno::EPERM));
    assert_eq!(go(&mut Walk::default(), &words, &way), Err(Errno::EPERM));
    // As is one that has no pCPU for it at all.
    let none = Fake::default();
    assert!(go(&mut Walk::default(), &words, &none).is_err());
    // But not one that refuses for a moment.
    let mut walk = Walk::default();
    way.refuses.set(None);
    go(&mut walk, &words, &way).expect("allowed");
    way.refuses.set(Some(Errno::EBUSY));
    (0..100).for_each(|_| walk.step(&words, 1, &way).expect("tried on"));
    way.refuses.set(None);
    way.stays();
    // The walk that was in vain may come to its end first.
    for _ in 0..2 {
        go(&mut walk, &words, &way).expect("allowed");
    }
    assert_eq!(way.stays().first(), Some(&0));
}
