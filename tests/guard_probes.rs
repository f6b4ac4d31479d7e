// SPDX-License-Identifier: GPL-2.0-only
//! What probes prove of a hypervisor without a table, moment by moment.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use xenwarden::guard::evidence::{Unknown, Verdict, Work};
use xenwarden::guard::probes::{Evidence, Words};
use xenwarden::guard::probing::choose_home;
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};

const PATIENCE_NS: u64 = 10 * NS_PER_S;
const SAMPLE_NS: u64 = 250 * NS_PER_MS;
const SERVED: Verdict = Verdict::Served { excused: None };

/// A guard that looks, and threads whose words are written by hand.
struct Host {
    words: Words,
    evidence: Evidence,
    now: u64,
}

impl Host {
    fn new(vcpus: usize, sends: bool) -> Self {
        Self {
            words: Words::new(vcpus, sends),
            evidence: Evidence::new(vcpus, PATIENCE_NS),
            now: 100 * NS_PER_S,
        }
    }

    /// All is as it should be, and was seen to be.
    fn proven(vcpus: usize, sends: bool) -> Self {
        let mut host = Self::new(vcpus, sends);
        if sends {
            host.words.back(true);
        }
        assert_eq!(host.count_and_look(0..vcpus), SERVED);
        host
    }

    fn look_after(&mut self, passed_ns: u64) -> Verdict {
        self.now += passed_ns;
        let (verdict, at) = self.evidence.look(&self.words, || Monotonic(self.now));
        assert_eq!(at, Monotonic(self.now));
        verdict
    }

    fn count_and_look(&mut self, vcpus: impl IntoIterator<Item = usize>) -> Verdict {
        vcpus.into_iter().for_each(|vcpu| self.words.count(vcpu));
        self.look_after(SAMPLE_NS)
    }

    /// Looks until something lags, while these vCPUs count; gives what, and after how long.
    fn until_lag(&mut self, vcpus: &[usize]) -> (Work, u64) {
        let begin = self.now;
        for _ in 0..1000 {
            match self.count_and_look(vcpus.iter().copied()) {
                Verdict::Lagging { work, overdue_ns } => {
                    assert!(overdue_ns > PATIENCE_NS);
                    return (work, self.now - begin);
                }
                verdict => assert_eq!(verdict, SERVED),
            }
        }
        panic!("nothing lags");
    }
}

#[test]
fn a_vcpu_that_stops_counting_is_told_after_the_patience() {
    let mut host = Host::proven(4, true);
    assert_eq!(host.count_and_look(0..4), SERVED);
    let (work, after_ns) = host.until_lag(&[0, 1, 3]);
    assert_eq!(work, Work::Vcpu(2));
    assert_eq!(after_ns, PATIENCE_NS + SAMPLE_NS, "and not a look later");
    assert_eq!(host.count_and_look(0..4), SERVED, "nothing latches");
}

#[test]
fn the_vcpu_that_has_been_silent_longest_is_told() {
    let told = |before: &[&[usize]], then: &[usize], longest, why| {
        let mut host = Host::proven(3, false);
        for counting in before {
            host.count_and_look(counting.iter().copied());
        }
        // Also once it is not the only one that lags.
        for _ in 0..3 {
            assert_eq!(host.until_lag(then).0, Work::Vcpu(longest), "{why}");
        }
    };
    told(&[&[0, 2], &[2]], &[2], 1, "the one that fell silent first");
    told(&[&[1, 2], &[2]], &[2], 0, "whichever comes first");
    let why = "of two that fell silent together the first";
    told(&[], &[0], 1, why);
}

#[test]
fn words_tell_what_is_expected_and_whether_anything_is_sent() {
    let words = Words::new(2, true);
    assert!(words.len() == 2 && !words.is_empty() && Words::new(0, true).is_empty());
    let counting = || words.counting().collect::<Vec<_>>();
    assert!(!words.settled() && counting().is_empty());
    words.count(0);
    assert!(!words.settled() && counting() == [0]);
    words.absent(1);
    assert!(words.settled() && counting() == [0]);
    // One that comes back counts from its first count on.
    words.count(1);
    assert!(words.settled() && counting() == [0, 1]);
    assert!(words.sends());
    words.off();
    assert!(!words.sends());
    assert!(!Words::new(2, false).sends());
}

#[test]
fn the_vcpu_that_is_sent_is_the_one_that_was_left_away_or_the_last_of_several() {
    let words = Words::new(4, true);
    assert_eq!(choose_home(&words, None), None, "none is there");
    words.count(1);
    assert_eq!(choose_home(&words, None), None, "it would be alone");
    assert_eq!(choose_home(&words, Some(1)), None);
    words.count(2);
    words.count(3);
    assert_eq!(choose_home(&words, None), Some(3));
    assert_eq!(choose_home(&words, Some(1)), Some(1));
    assert_eq!(choose_home(&words, Some(0)), Some(3), "it is offline still");
}

#[test]
fn a_vcpu_that_does_not_come_back_from_a_pcpu_is_told_with_that_pcpu() {
    let mut host = Host::proven(2, true);
    host.words.sent(7, 1, 3);
    // Its thread cannot count either, and that is no news.
    let (work, after_ns) = host.until_lag(&[0]);
    assert_eq!(work, Work::Probe(3));
    assert_eq!(
        after_ns,
        PATIENCE_NS + 2 * SAMPLE_NS,
        "and not a look later"
    );
    host.words.back(true);
    assert_eq!(host.count_and_look(0..2), SERVED);
}

#[test]
fn what_a_vcpu_was_sent_too_late_counts_but_seven_tenths_of_the_patience_are_left() {
    for (late_ms, left_ms) in [(0, 10_000), (1_500, 8_500), (3_000, 7_000), (60_000, 7_000)] {
        let mut host = Host::proven(2, true);
        host.words.sent_late(7, 1, 3, late_ms);
        assert_eq!(host.count_and_look([0]), SERVED, "late is not lost");
        let (work, after_ns) = host.until_lag(&[0]);
        assert_eq!(work, Work::Probe(3));
        let expected_ns = left_ms * NS_PER_MS + SAMPLE_NS;
        assert_eq!(after_ns, expected_ns, "{late_ms}");
        // What was late is over with the visit.
        host.words.back(true);
        assert_eq!(host.count_and_look(0..2), SERVED);
        host.words.sent(8, 1, 3);
        assert_eq!(host.until_lag(&[0]).1, PATIENCE_NS + 2 * SAMPLE_NS);
    }
}

#[test]
fn two_debug_keys_of_seven_seconds_in_a_row_are_survived_without_the_table() {
    let mut host = Host::proven(2, true);
    // The first holds up a visit, and the second the next one, which is late for that.
    for (count, late_ms) in [(7, 0), (8, 7_000), (9, 7_000)] {
        host.words.sent_late(count, 1, 3, late_ms);
        for _ in 0..7_000 / 250 {
            assert_eq!(host.count_and_look([0]), SERVED);
        }
        host.words.back(true);
        assert_eq!(host.count_and_look(0..2), SERVED);
    }
}

#[test]
fn each_sending_is_one_that_is_away_whatever_its_number() {
    for count in [0, 1, 65_534, 65_535, 65_536, u32::MAX] {
        let mut host = Host::proven(2, true);
        host.words.sent(count, 1, 3);
        assert_eq!(host.until_lag(&[0]).0, Work::Probe(3), "{count}");
    }
}

#[test]
fn a_vcpu_that_goes_from_pcpu_to_pcpu_is_served_however_long() {
    let mut host = Host::proven(2, true);
    for n in 0..200 {
        // Never seen to be back: always another time, now and then the same place.
        host.words.sent(n, 1, u16::try_from(n % 3).expect("small"));
        assert_eq!(host.count_and_look(0..2), SERVED);
    }
}

#[test]
fn a_vcpu_that_is_taken_offline_is_neither_evidence_nor_lagging() {
    let mut host = Host::proven(2, false);
    host.words.absent(1);
    for _ in 0..100 {
        assert_eq!(host.count_and_look([0]), SERVED);
    }
    // It comes back, and is given its whole patience anew.
    host.words.expected(1);
    assert_eq!(host.until_lag(&[0]).1, PATIENCE_NS + 2 * SAMPLE_NS);
    assert_eq!(host.count_and_look(0..2), SERVED);
}

#[test]
fn nothing_is_served_before_each_vcpu_has_counted_and_each_pcpu_was_visited() {
    let mut host = Host::new(2, true);
    let unknown = Verdict::Unknown;
    assert_eq!(host.look_after(0), unknown(Unknown::NoVcpu));
    let unproven = |vcpu| unknown(Unknown::UnprovenVcpu { vcpu });
    assert_eq!(host.count_and_look([0]), unproven(1));
    host.words.sent(1, 1, 5);
    let at = |cpu| unknown(Unknown::Unproven { cpu });
    assert_eq!(host.count_and_look(0..2), at(5));
    host.words.back(false);
    assert_eq!(host.count_and_look(0..2), at(0));
    host.words.back(true);
    assert_eq!(host.count_and_look(0..2), SERVED);
}

#[test]
fn without_a_vcpu_to_see_nothing_is_known() {
    let mut host = Host::new(0, false);
    assert_eq!(host.look_after(0), Verdict::Unknown(Unknown::NoVcpu));
    let mut host = Host::new(2, false);
    host.words.absent(0);
    host.words.absent(1);
    assert_eq!(host.look_after(0), Verdict::Unknown(Unknown::NoVcpu));
}

#[test]
fn one_that_cannot_be_sent_anywhere_is_no_reason_to_wait_for_it() {
    let mut host = Host::new(1, true);
    host.words.off();
    assert_eq!(host.count_and_look([0]), SERVED);
}

#[test]
fn a_reader_who_was_away_does_not_take_that_for_silence() {
    let mut host = Host::proven(2, true);
    host.words.sent(1, 1, 0);
    assert_eq!(host.look_after(60 * NS_PER_S), SERVED);
    // But it does not forget either.
    assert_eq!(host.look_after(60 * NS_PER_S), SERVED);
    let late = host.look_after(60 * NS_PER_S);
    assert!(matches!(late, Verdict::Lagging { .. }), "{late:?}");
}

#[test]
fn a_wedge_that_holds_up_the_reader_as_well_is_told_by_the_clock() {
    let mut host = Host::proven(2, true);
    let begin = host.now;
    let each_ns = 1_900 * NS_PER_MS;
    while let Verdict::Served { .. } = host.look_after(each_ns) {
        assert!(host.now - begin <= PATIENCE_NS, "kicked on");
    }
    assert!(host.now - begin <= PATIENCE_NS + each_ns);
}
