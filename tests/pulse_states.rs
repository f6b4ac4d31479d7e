// SPDX-License-Identifier: GPL-2.0-only
//! A heartbeat's states, walked through every sequence of what can happen to it, beside an oracle that
//! keeps the whole history and knows no states.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use xenwarden::pulse::heartbeat::{Heartbeat, Input, Output, State, Timing};

const TIMEOUT: u64 = 100;

/// One thing that happens, and how much later than the one before.
#[derive(Clone, Copy, Debug)]
enum Step {
    Frame,
    /// One that proves a moment of so long ago.
    Old(u64),
    Tick(u64),
    Reconnect,
    Gap(u64),
    Stop,
}

const STEPS: [Step; 9] = [
    Step::Frame,
    Step::Old(60),
    Step::Old(TIMEOUT),
    Step::Tick(50),
    Step::Tick(TIMEOUT),
    Step::Reconnect,
    Step::Gap(70),
    Step::Gap(TIMEOUT),
    Step::Stop,
];

/// What must be, from the history alone: listened time is time without our gaps.
#[derive(Default)]
struct Oracle {
    armed: bool,
    lost: bool,
    stopped: bool,
    /// Earliest moment at which a loss may be told.
    not_before: u64,
    /// Own gaps put that off to here at most, and whether a long one has had its whole timeout.
    latest: u64,
    renewed: bool,
    /// The latest moment that was proved.
    proved: u64,
    /// Acts that are owed, and the same of them.
    act_at: Option<u64>,
    act_latest: u64,
    act_renewed: bool,
}

impl Oracle {
    fn expect(&mut self, now: u64, step: Step, timing: Timing) -> Vec<&'static str> {
        let mut told = Vec::new();
        if self.stopped {
            return told;
        }
        let as_of = match step {
            Step::Frame => Some(now),
            Step::Old(ago) => now.checked_sub(ago).filter(|_| ago < TIMEOUT),
            _ => None,
        };
        match step {
            Step::Stop => self.stopped = true,
            Step::Gap(ns) => {
                let whole = if ns >= TIMEOUT { now + TIMEOUT } else { now };
                let long = ns >= TIMEOUT;
                if self.armed && !self.lost {
                    if long && !self.renewed {
                        self.latest = self.latest.max(whole);
                        self.renewed = true;
                    }
                    self.not_before = (self.not_before + ns).max(whole).min(self.latest);
                }
                if let Some(at) = self.act_at {
                    if long && !self.act_renewed {
                        self.act_latest = self.act_latest.max(whole);
                        self.act_renewed = true;
                    }
                    self.act_at = Some((at + ns).max(whole).min(self.act_latest));
                }
            }
            Step::Tick(_) => {
                if self.armed && !self.lost && now >= self.not_before {
                    self.lost = true;
                    told.push("lost");
                    self.owe(now + timing.act_after_ns);
                }
                if self.act_at.is_some_and(|at| now >= at) {
                    told.push("act");
                    self.act_at = None;
                    if let Some(ns) = timing.repeat_ns {
                        self.owe(now + ns);
                    }
                }
            }
            Step::Frame | Step::Old(_) | Step::Reconnect => {}
        }
        if let Some(as_of) = as_of {
            let anew = !self.armed || self.lost;
            if !self.armed {
                told.push("armed");
            } else if self.lost {
                if self.act_at.take().is_some() {
                    told.push("call off");
                }
                told.push("back");
            }
            if anew {
                (self.not_before, self.latest) = (0, 0);
            }
            if anew || as_of > self.proved {
                self.latest = self.not_before.max(as_of + 3 * TIMEOUT);
                self.renewed = false;
            }
            self.armed = true;
            self.lost = false;
            self.proved = self.proved.max(as_of);
            self.not_before = self.not_before.max(as_of + TIMEOUT);
        }
        told
    }

    fn owe(&mut self, at: u64) {
        self.act_at = Some(at);
        self.act_latest = at + 2 * TIMEOUT;
        self.act_renewed = false;
    }
}

fn word(output: &Output) -> &'static str {
    match output {
        Output::Armed => "armed",
        Output::Lost { .. } => "lost",
        Output::Back { .. } => "back",
        Output::Act => "act",
        Output::CallOff => "call off",
    }
}

/// Takes a step of both, and compares.
fn walk(
    heartbeat: &Heartbeat,
    oracle: &Oracle,
    now: u64,
    timing: Timing,
    depth: usize,
    path: &mut Vec<Step>,
) -> u64 {
    if depth == 0 {
        return 1;
    }
    let mut walked = 0;
    for step in STEPS {
        let now = match step {
            Step::Tick(ns) | Step::Gap(ns) => now + ns,
            _ => now + 1,
        };
        let input = match step {
            Step::Frame => Input::Frame { as_of: now },
            Step::Old(ago) => Input::Frame { as_of: now - ago },
            Step::Tick(_) => Input::Tick,
            Step::Reconnect => Input::Reconnect,
            Step::Gap(ns) => Input::OwnGap { ns },
            Step::Stop => Input::Stop,
        };
        let (mut next, mut after) = (heartbeat.clone(), Oracle { ..*oracle });
        let told: Vec<&str> = next.take(now, input).iter().map(word).collect();
        path.push(step);
        assert_eq!(told, after.expect(now, step, timing), "{path:?}");
        assert_eq!(next.state() == State::Lost, after.lost, "{path:?}");
        assert_eq!(next.state() == State::Waiting, !after.armed, "{path:?}");
        let holds = after.armed && !after.lost && !after.stopped && now < after.proved + TIMEOUT;
        assert_eq!(next.holds(now), holds, "{path:?}");
        let due = match (after.stopped, after.armed && !after.lost) {
            (true, _) => None,
            (false, true) => Some(after.not_before),
            (false, false) => after.act_at,
        };
        assert_eq!(
            next.next(),
            due,
            "a tick is wanted when something is due: {path:?}"
        );
        walked += walk(&next, &after, now, timing, depth - 1, path);
        path.pop();
    }
    walked
}

/// 9 steps, 6 deep, for 4 timings: over two million sequences.
#[test]
fn every_interleaving_of_frames_losses_reconnects_gaps_and_stops_is_as_documented() {
    for (act_after_ns, repeat_ns) in [(0, None), (70, None), (0, Some(30)), (70, Some(120))] {
        let timing = Timing {
            timeout_ns: TIMEOUT,
            act_after_ns,
            repeat_ns,
        };
        let walked = walk(
            &Heartbeat::new(timing),
            &Oracle::default(),
            1_000,
            timing,
            6,
            &mut Vec::new(),
        );
        assert_eq!(walked, 531_441);
    }
}

fn plain() -> Heartbeat {
    Heartbeat::new(Timing {
        timeout_ns: TIMEOUT,
        act_after_ns: 0,
        repeat_ns: None,
    })
}

#[test]
fn nothing_is_lost_before_the_first_frame_however_long_it_takes() {
    let mut heartbeat = plain();
    assert_eq!(heartbeat.take(u64::MAX / 2, Input::Tick), []);
    assert_eq!(heartbeat.next(), None);
    assert_eq!(heartbeat.state(), State::Waiting);
}

#[test]
fn a_loss_tells_how_long_it_was_silent_and_the_return_how_long_it_was_lost() {
    let mut heartbeat = plain();
    assert_eq!(
        heartbeat.take(10, Input::Frame { as_of: 10 }),
        [Output::Armed]
    );
    let lost = Output::Lost { silent_ns: 105 };
    assert_eq!(heartbeat.take(115, Input::Tick), [lost, Output::Act]);
    assert_eq!(heartbeat.take(500, Input::Tick), []);
    let back = Output::Back { lost_ns: 885 };
    assert_eq!(heartbeat.take(1_000, Input::Frame { as_of: 1_000 }), [back]);
    assert_eq!((heartbeat.state(), heartbeat.losses()), (State::Back, 1));
    let _ = heartbeat.take(1_050, Input::Frame { as_of: 1_050 });
    assert_eq!(heartbeat.state(), State::Back);
    let _ = heartbeat.take(1_100, Input::Frame { as_of: 1_100 });
    assert_eq!(heartbeat.state(), State::Armed);
}

#[test]
fn a_proof_of_long_ago_brings_nothing_back_and_one_of_the_future_no_more_than_now() {
    let mut heartbeat = plain();
    let _ = heartbeat.take(1_000, Input::Frame { as_of: u64::MAX });
    assert_eq!(heartbeat.next(), Some(1_000 + TIMEOUT));
    let _ = heartbeat.take(2_000, Input::Tick);
    assert_eq!(heartbeat.take(2_001, Input::Frame { as_of: 1_901 }), []);
    assert_eq!(heartbeat.state(), State::Lost);
}

/// When a peer that died at 1000 is told as lost, if gaps as long, after as much time each, come one after
/// the other.
fn lost_despite_gaps(gap: u64, between: u64) -> u64 {
    let mut heartbeat = plain();
    let mut now = 1_000;
    let _ = heartbeat.take(now, Input::Frame { as_of: now });
    for _ in 0..1_000 {
        now += gap;
        let _ = heartbeat.take(now, Input::OwnGap { ns: gap });
        for _ in 0..between {
            if !heartbeat.take(now, Input::Tick).is_empty() {
                return now;
            }
            now += 1;
        }
    }
    panic!("never");
}

#[test]
fn own_gaps_however_many_do_not_excuse_a_dead_peer_without_end() {
    for gap in [1, 10, 50, 99] {
        let lost = lost_despite_gaps(gap, 1);
        assert!(lost <= 1_000 + 3 * TIMEOUT + gap, "{gap}: {lost}");
    }
    for gap in [TIMEOUT, 2 * TIMEOUT, 10_000] {
        let lost = lost_despite_gaps(gap, TIMEOUT / 2);
        let end = (1_000 + 3 * TIMEOUT).max(1_000 + gap + TIMEOUT);
        assert!(lost <= end + gap + TIMEOUT, "{gap}: {lost}");
    }
}

#[test]
fn after_one_long_gap_a_live_peer_has_a_whole_timeout() {
    let mut heartbeat = plain();
    let _ = heartbeat.take(1_000, Input::Frame { as_of: 1_000 });
    let _ = heartbeat.take(50_000, Input::OwnGap { ns: 49_000 });
    assert_eq!(heartbeat.next(), Some(50_000 + TIMEOUT));
    assert_eq!(heartbeat.take(50_000, Input::Tick), []);
    let _ = heartbeat.take(50_050, Input::Frame { as_of: 50_040 });
    // What it said since then earns it another.
    let _ = heartbeat.take(90_000, Input::OwnGap { ns: 39_000 });
    assert_eq!(heartbeat.take(90_099, Input::Tick), []);
    assert!(!heartbeat.take(90_100, Input::Tick).is_empty());
}

#[test]
fn what_an_earlier_run_proved_holds_a_lease_until_its_timeout_and_loses_nothing() {
    let timing = Timing {
        timeout_ns: TIMEOUT,
        act_after_ns: 0,
        repeat_ns: None,
    };
    let followed = |proved| {
        let mut heartbeat = Heartbeat::new(timing);
        heartbeat.follow(proved);
        heartbeat
    };
    // Young as the boot may be, a run that follows none holds nothing.
    assert!(!Heartbeat::new(timing).holds(1));
    let mut heartbeat = followed(1_000);
    assert_eq!(heartbeat.state(), State::Waiting);
    assert_eq!(heartbeat.proved(1_000 + TIMEOUT - 1), Some(1_000));
    assert!(!heartbeat.holds(1_000 + TIMEOUT));
    // Not by time, and not by a gap of its own.
    let now = 1_000 + 5 * TIMEOUT;
    let _ = heartbeat.take(now, Input::OwnGap { ns: 4 * TIMEOUT });
    assert_eq!(heartbeat.take(now, Input::Tick), []);
    assert_eq!((heartbeat.next(), heartbeat.losses()), (None, 0));
    assert!(!heartbeat.holds(now));
    // The first frame arms it, as of when it proves.
    let as_of = now - 60;
    let outputs = heartbeat.take(now, Input::Frame { as_of });
    assert_eq!(outputs, [Output::Armed]);
    assert_eq!(heartbeat.proved(now), Some(as_of));
    // What has armed follows nobody any more, and a stop ends it.
    heartbeat.follow(now + 1_000);
    assert_eq!(heartbeat.proved(now), Some(as_of));
    let mut stopped = followed(1_000);
    let _ = stopped.take(1_010, Input::Stop);
    assert!(!stopped.holds(1_020));
}
