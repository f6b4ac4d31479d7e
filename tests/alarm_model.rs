// SPDX-License-Identifier: GPL-2.0-only
//! The alarm lifecycle, walked through: every sequence of inputs that can happen, up to a
//! depth, against facts that are kept apart from it. A state is a lifecycle with its
//! facts; states that were reached before are not walked again.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::collections::HashSet;
use xenwarden::event::Cause;
use xenwarden::guests::alarm::{Activity, Input, Lifecycle, Output, Phase, Rules};

const S: i64 = 1_000_000_000;
/// The time that a tick takes; every other input comes at once.
const TICK: i64 = 150 * S;

const ALPHABET: [Input; 17] = [
    Input::Tick,
    Input::Expired,
    Input::Started,
    Input::Restored,
    Input::Armed,
    Input::Fed(1),
    Input::Disarmed,
    Input::Doing(Activity::Running),
    Input::Doing(Activity::Held),
    Input::Doing(Activity::Unknown),
    Input::Gone(Cause::Watchdog),
    Input::Gone(Cause::Unknown),
    Input::Gone(Cause::Suspend),
    Input::Gone(Cause::Destroyed),
    Input::Gone(Cause::Poweroff),
    Input::Acknowledge,
    Input::Close,
];

/// An open alarm, as the history has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    age: i64,
    expiries: u32,
    reboots: u32,
    acknowledged: bool,
    /// Since the last expiry or start.
    feeds: u32,
    feeding: i64,
}

/// What the history says, in the simplest words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Facts {
    /// There is a domain, and it can feed.
    there: bool,
    runs: bool,
    armed_here: bool,
    fed_here: bool,
    /// It had a watchdog at some time.
    watched: bool,
    /// It was started, for how long it ran since, not fed.
    unfed_boot: Option<i64>,
    failure_told: bool,
    open: Option<Open>,
}

impl Facts {
    fn start() -> Self {
        Self {
            there: true,
            runs: true,
            armed_here: false,
            fed_here: false,
            watched: false,
            unfed_boot: None,
            failure_told: false,
            open: None,
        }
    }

    /// Whether the world can do that now.
    fn allow(&self, input: Input) -> bool {
        match input {
            // A feed without an arm cannot be, and if it is told it counts for nothing.
            Input::Armed | Input::Fed(_) | Input::Gone(_) | Input::Doing(_) => self.there,
            Input::Disarmed | Input::Expired => self.there && self.armed_here,
            // One domain may take over from another without its end being told.
            Input::Started | Input::Restored | Input::Tick => true,
            Input::Acknowledge | Input::Close => true,
        }
    }

    fn pass(&mut self, time: i64) {
        if let Some(open) = &mut self.open {
            open.age += time;
            if self.runs && self.fed_here {
                open.feeding += time;
            }
        }
        if let (Some(unfed), true) = (&mut self.unfed_boot, self.runs) {
            *unfed += time;
        }
    }

    fn enter(&mut self) {
        (self.there, self.runs) = (true, true);
        (self.armed_here, self.fed_here) = (false, false);
    }

    /// Takes the input and says what has to come out.
    fn take(&mut self, input: Input, rules: &Rules) -> Option<Output> {
        match input {
            Input::Tick => return self.tick(rules),
            Input::Expired => return Some(self.expire()),
            Input::Started => {
                self.enter();
                if self.watched {
                    (self.unfed_boot, self.failure_told) = (Some(0), false);
                }
                if let Some(open) = &mut self.open {
                    open.reboots += 1;
                    (open.feeds, open.feeding) = (0, 0);
                }
            }
            Input::Restored => self.enter(),
            Input::Armed => (self.armed_here, self.watched) = (true, true),
            Input::Disarmed => (self.armed_here, self.fed_here) = (false, false),
            Input::Doing(doing) => self.runs = doing == Activity::Running,
            Input::Fed(n) => return self.feed(n, rules),
            Input::Gone(cause) => {
                (self.there, self.runs) = (false, false);
                (self.armed_here, self.fed_here) = (false, false);
                if cause != Cause::Suspend {
                    self.unfed_boot = None;
                }
                if matches!(cause, Cause::Destroyed | Cause::Poweroff) {
                    return self.close(cause);
                }
            }
            Input::Acknowledge => {
                let open = self.open.as_mut().filter(|o| !o.acknowledged)?;
                open.acknowledged = true;
                return Some(Output::Acknowledged);
            }
            Input::Close => return self.close(Cause::Unknown),
        }
        None
    }

    fn tick(&mut self, rules: &Rules) -> Option<Output> {
        let waited_ns = self.unfed_boot?;
        let due = self.runs && waited_ns >= rules.boot_deadline_ns && !self.failure_told;
        if !due {
            return None;
        }
        self.failure_told = true;
        if let Some(open) = &mut self.open {
            (open.feeds, open.feeding) = (0, 0);
        }
        Some(Output::BootFailed { waited_ns })
    }

    fn expire(&mut self) -> Output {
        self.unfed_boot = None;
        self.fed_here = false;
        let open = self.open.get_or_insert(Open {
            age: 0,
            expiries: 0,
            reboots: 0,
            acknowledged: false,
            feeds: 0,
            feeding: 0,
        });
        open.expiries += 1;
        (open.feeds, open.feeding) = (0, 0);
        Output::Raised {
            expiries: open.expiries,
        }
    }

    fn feed(&mut self, n: u32, rules: &Rules) -> Option<Output> {
        if !self.armed_here {
            return None;
        }
        self.unfed_boot = None;
        self.fed_here = true;
        let open = self.open.as_mut()?;
        open.feeds += n;
        let enough = open.feeds >= rules.clear_after_feeds && open.feeding >= rules.clear_after_ns;
        let open = enough.then(|| self.open.take()).flatten()?;
        Some(Output::Cleared {
            open_ns: open.age,
            expiries: open.expiries,
            reboots: open.reboots,
            feeds: open.feeds,
        })
    }

    fn close(&mut self, cause: Cause) -> Option<Output> {
        let open_ns = self.open.take()?.age;
        Some(Output::Closed { cause, open_ns })
    }
}

/// What must hold of every step, whatever the facts make of it.
fn check_promises(before: &Facts, input: Input, output: Option<Output>, after: &Lifecycle) {
    match output {
        Some(Output::Cleared { .. }) => {
            assert!(matches!(input, Input::Fed(_)), "cleared by {input:?}");
            assert!(before.there && before.armed_here, "by a feed of nobody");
            assert!(before.open.is_some(), "cleared what was not raised");
        }
        Some(Output::Closed { .. }) => assert!(
            matches!(
                input,
                Input::Close | Input::Gone(Cause::Destroyed | Cause::Poweroff)
            ),
            "closed by {input:?}"
        ),
        Some(Output::Raised { expiries: 1 }) => {
            assert!(before.open.is_none(), "raised twice without an end");
        }
        Some(Output::BootFailed { .. }) => {
            assert!(!before.failure_told, "told twice of one start");
        }
        _ => {}
    }
    let phase = after.alarm.map(|a| a.phase);
    match input {
        Input::Expired => assert_eq!(phase, Some(Phase::Raised)),
        Input::Started if before.open.is_some() => assert_eq!(phase, Some(Phase::Rebooted)),
        _ => {}
    }
}

/// Walks all states up to `depth`; gives how many there are.
fn walk(rules: &Rules, depth: u32) -> usize {
    let mut level = vec![(Lifecycle::new(0), Facts::start(), Vec::new())];
    let mut seen = HashSet::new();
    for _ in 0..depth {
        let mut next = Vec::new();
        for (lifecycle, facts, path) in level {
            for input in ALPHABET.into_iter().filter(|i| facts.allow(*i)) {
                let (mut lifecycle, mut after) = (lifecycle, facts.clone());
                let mut path: Vec<Input> = path.clone();
                path.push(input);
                let time = if input == Input::Tick { TICK } else { 0 };
                after.pass(time);
                let expected = after.take(input, rules);
                let output = lifecycle.step(time, input, rules);
                assert_eq!(output, expected, "{path:?}");
                check_promises(&facts, input, output, &lifecycle);
                assert_eq!(lifecycle.alarm.is_some(), after.open.is_some(), "{path:?}");
                // The present is time 0 of every state, so that states can be the same.
                lifecycle.shift(-time);
                if seen.insert((lifecycle, after.clone())) {
                    next.push((lifecycle, after, path));
                }
            }
        }
        level = next;
    }
    seen.len()
}

#[test]
fn an_alarm_clears_by_the_first_feed_after_an_arm_and_by_nothing_else() {
    let states = walk(&Rules::default(), 12);
    println!("{states} states");
    assert!(states > 1_000, "only {states} states: nothing was walked");
}

#[test]
fn an_alarm_that_wants_feeds_and_time_gets_both() {
    let rules = Rules {
        clear_after_feeds: 2,
        clear_after_ns: 2 * TICK,
        boot_deadline_ns: 2 * TICK,
    };
    let states = walk(&rules, 9);
    println!("{states} states");
    assert!(states > 1_000, "only {states} states: nothing was walked");
}

#[test]
fn feeds_or_time_alone_are_not_enough() {
    let rules = Rules {
        clear_after_feeds: 2,
        clear_after_ns: 10 * S,
        ..Rules::default()
    };
    let mut guest = Lifecycle::new(0);
    let mut at = |seconds: i64, input| guest.step(seconds * S, input, &rules);
    at(0, Input::Armed);
    assert_eq!(at(5, Input::Expired), Some(Output::Raised { expiries: 1 }));
    at(6, Input::Gone(Cause::Watchdog));
    at(10, Input::Started);
    at(20, Input::Armed);
    assert_eq!(at(21, Input::Fed(1)), None, "too few");
    assert_eq!(at(22, Input::Fed(5)), None, "too early");
    at(23, Input::Doing(Activity::Held));
    at(63, Input::Doing(Activity::Running));
    assert_eq!(at(64, Input::Fed(1)), None, "time while paused");
    let cleared = Output::Cleared {
        open_ns: 67 * S,
        expiries: 1,
        reboots: 1,
        feeds: 8,
    };
    assert_eq!(at(72, Input::Fed(1)), Some(cleared));
}

#[test]
fn time_that_goes_back_changes_nothing() {
    let rules = Rules::default();
    let mut guest = Lifecycle::new(100 * S);
    guest.step(100 * S, Input::Armed, &rules);
    guest.step(100 * S, Input::Expired, &rules);
    guest.step(0, Input::Tick, &rules);
    let closed = guest.step(50 * S, Input::Close, &rules);
    let expected = Output::Closed {
        cause: Cause::Unknown,
        open_ns: 0,
    };
    assert_eq!(closed, Some(expected));
}
