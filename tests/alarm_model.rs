// SPDX-License-Identifier: GPL-2.0-only
//! The alarm lifecycle, walked through: every sequence of inputs that can happen, up to a
//! depth, against facts that are kept apart from it. A state is a lifecycle with its
//! facts; states that were reached before are not walked again.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::collections::HashSet;
use xenwarden::event::{Cause, Closing, Kind, Timestamp};
use xenwarden::guests::alarm::{Boot, Input, Lifecycle, Moment, Phase, Rules, Watchdog};
use xenwarden::guests::state::DomainState::{self, Gone, Paused, Running};

const S: i64 = 1_000_000_000;
/// The time that a tick takes; every other input comes at once.
const TICK: i64 = 150 * S;

const ALPHABET: [Input; 17] = [
    Input::Tick,
    Input::Expired,
    Input::Started,
    Input::Returned,
    Input::Armed,
    Input::Fed(1),
    Input::Fed(0),
    Input::Disarmed,
    Input::State(Running),
    Input::State(Paused),
    Input::State(Gone(Cause::Watchdog)),
    Input::State(Gone(Cause::Unknown)),
    Input::State(Gone(Cause::Suspend)),
    Input::State(Gone(Cause::Destroyed)),
    Input::State(Gone(Cause::Poweroff)),
    Input::Acknowledge(7),
    Input::Close(Closing::Operator),
];

/// An open alarm, as the history has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    age: i64,
    expiries: u32,
    reboots: u32,
    acknowledged: bool,
    /// Since the last expiry, or in the present domain.
    feeds: u32,
    feeding: i64,
    /// For how long it has been moved.
    moved: Option<i64>,
}

/// What the history says, in the simplest words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Facts {
    /// Why there is no domain, and for how long.
    gone: Option<(Cause, i64)>,
    runs: bool,
    armed_here: bool,
    fed_here: bool,
    /// It had a watchdog at some time.
    watched: bool,
    /// It fed since it was started.
    fed_ever: bool,
    /// It owes a feed, for how long it ran since.
    owes: Option<i64>,
    failure_told: bool,
    open: Option<Open>,
}

fn ms(ns: i64) -> u64 {
    u64::try_from(ns / 1_000_000).expect("no time before")
}

impl Facts {
    fn start() -> Self {
        Self {
            gone: None,
            runs: true,
            armed_here: false,
            fed_here: false,
            watched: false,
            fed_ever: false,
            owes: None,
            failure_told: false,
            open: None,
        }
    }

    /// Whether the world can do that now.
    fn allow(&self, input: Input) -> bool {
        match input {
            // A feed without an arm cannot be, and if it is told it counts for nothing.
            Input::Armed | Input::Fed(_) | Input::State(_) => self.gone.is_none(),
            Input::Disarmed => self.gone.is_none() && self.armed_here,
            // Also of another domain of the guest, which nobody saw armed.
            Input::Expired => self.gone.is_none(),
            // One domain may take over from another without its end being told.
            Input::Started | Input::Returned | Input::Tick => true,
            Input::Acknowledge(_) | Input::Close(_) => true,
        }
    }

    fn pass(&mut self, time: i64) {
        if let Some((_, since)) = &mut self.gone {
            *since += time;
        }
        if let Some(open) = &mut self.open {
            open.age += time;
            if let Some(moved) = &mut open.moved {
                *moved += time;
            }
            if self.runs && self.fed_here {
                open.feeding += time;
            }
        }
        if let (Some(owes), true) = (&mut self.owes, self.runs) {
            *owes += time;
        }
    }

    fn enter(&mut self) {
        (self.gone, self.runs) = (None, true);
        (self.armed_here, self.fed_here) = (false, false);
        if let Some(open) = &mut self.open {
            (open.feeds, open.feeding, open.moved) = (0, 0, None);
        }
    }

    /// The domain is left, and the guest may go on: who fed owes a feed there.
    fn leave(&mut self) {
        if self.armed_here && self.fed_ever && self.owes.is_none() {
            self.owes = Some(0);
        }
    }

    /// Takes the input and says what has to come out.
    fn take(&mut self, input: Input, rules: &Rules) -> Option<Kind> {
        match input {
            Input::Tick => return self.tick(rules),
            Input::Expired => return Some(self.expire()),
            Input::Started => {
                self.enter();
                self.fed_ever = false;
                self.failure_told = false;
                self.owes = self.watched.then_some(0);
                if let Some(open) = &mut self.open {
                    open.reboots += 1;
                }
            }
            Input::Returned => {
                self.leave();
                self.enter();
            }
            Input::Armed => (self.armed_here, self.watched) = (true, true),
            Input::Disarmed => (self.armed_here, self.fed_here) = (false, false),
            Input::State(Gone(cause)) => return self.go(cause),
            Input::State(state) => self.runs = state == Running,
            Input::Fed(n) => return self.feed(n, rules),
            Input::Acknowledge(uid) => {
                let open = self.open.as_mut().filter(|o| !o.acknowledged)?;
                open.acknowledged = true;
                return Some(Kind::AlarmAcknowledged { uid });
            }
            Input::Close(why) => return self.close(why),
        }
        None
    }

    fn go(&mut self, cause: Cause) -> Option<Kind> {
        if cause == Cause::Suspend {
            self.leave();
        } else {
            self.owes = None;
            self.fed_ever = false;
        }
        (self.gone, self.runs) = (Some((cause, 0)), false);
        (self.armed_here, self.fed_here) = (false, false);
        match cause {
            Cause::Destroyed => self.failure_told = false,
            Cause::Poweroff => self.failure_told = false,
            Cause::Suspend => return self.move_away(cause),
            _ => return None,
        }
        self.close(match cause {
            Cause::Destroyed => Closing::Destroyed,
            _ => Closing::Poweroff,
        })
    }

    fn move_away(&mut self, cause: Cause) -> Option<Kind> {
        let open = self.open.as_mut()?;
        open.moved = Some(0);
        let open_ms = ms(open.age);
        Some(Kind::AlarmMoved { cause, open_ms })
    }

    fn tick(&mut self, rules: &Rules) -> Option<Kind> {
        if let Some((cause, since)) = self.gone {
            return match self.open.as_ref()?.moved {
                Some(moved) if moved >= rules.close_moved_ns => self.close(Closing::Moved),
                None if since >= rules.moved_after_ns => self.move_away(cause),
                _ => None,
            };
        }
        let waited_ns = self.owes?;
        if !self.runs || waited_ns < rules.boot_deadline_ns || self.failure_told {
            return None;
        }
        (self.failure_told, self.fed_ever, self.owes) = (true, false, None);
        if let Some(open) = &mut self.open {
            (open.feeds, open.feeding) = (0, 0);
        }
        let waited_ms = ms(waited_ns);
        Some(Kind::GuestBootFailed { waited_ms })
    }

    fn expire(&mut self) -> Kind {
        (self.owes, self.failure_told) = (None, false);
        self.fed_here = false;
        self.watched = true;
        let open = self.open.get_or_insert(Open {
            age: 0,
            expiries: 0,
            reboots: 0,
            acknowledged: false,
            feeds: 0,
            feeding: 0,
            moved: None,
        });
        open.expiries += 1;
        (open.feeds, open.feeding) = (0, 0);
        let expiries = open.expiries;
        Kind::AlarmRaised { expiries }
    }

    fn feed(&mut self, n: u32, rules: &Rules) -> Option<Kind> {
        if !self.armed_here {
            return None;
        }
        (self.owes, self.failure_told, self.fed_ever) = (None, false, true);
        if n == 0 {
            return None;
        }
        self.fed_here = true;
        let open = self.open.as_mut()?;
        open.feeds += n;
        let enough = open.feeds >= rules.clear_after_feeds && open.feeding >= rules.clear_after_ns;
        let open = enough.then(|| self.open.take()).flatten()?;
        Some(Kind::AlarmCleared {
            open_ms: ms(open.age),
            expiries: open.expiries,
            reboots: open.reboots,
            feeds: open.feeds,
        })
    }

    fn close(&mut self, cause: Closing) -> Option<Kind> {
        let open_ms = ms(self.open.take()?.age);
        Some(Kind::AlarmClosed { cause, open_ms })
    }
}

/// What must hold of every step, whatever the facts make of it.
fn check_promises(before: &Facts, input: Input, told: Option<&Kind>, after: &Lifecycle) {
    match told {
        Some(Kind::AlarmCleared { .. }) => {
            assert!(matches!(input, Input::Fed(1..)), "cleared by {input:?}");
            assert!(
                before.gone.is_none() && before.armed_here,
                "by a feed of nobody"
            );
            assert!(before.open.is_some(), "cleared what was not raised");
        }
        Some(Kind::AlarmClosed { cause, .. }) => assert!(
            match cause {
                Closing::Moved => input == Input::Tick && before.gone.is_some(),
                Closing::Destroyed => input == Input::State(Gone(Cause::Destroyed)),
                Closing::Poweroff => input == Input::State(Gone(Cause::Poweroff)),
                _ => matches!(input, Input::Close(_)),
            },
            "closed by {input:?}"
        ),
        Some(Kind::AlarmRaised { expiries: 1 }) => {
            assert!(before.open.is_none(), "raised twice without an end");
        }
        Some(Kind::GuestBootFailed { .. }) => {
            assert!(!before.failure_told, "told twice of one start");
        }
        _ => {}
    }
    let phase = after.alarm.map(|a| a.phase);
    let moved = matches!(phase, Some(Phase::Moved { .. }));
    assert!(!moved || matches!(after.state, Gone(_)), "moved, and here");
    match input {
        Input::Expired => assert_eq!(phase, Some(Phase::Raised)),
        Input::Started if before.open.is_some() => assert_eq!(phase, Some(Phase::Rebooted)),
        _ => {}
    }
}

fn at(ns: i64) -> Moment {
    let wall = Timestamp(0);
    Moment { ns, wall }
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
                let told = lifecycle.step(at(time), input, rules);
                assert_eq!(told, expected, "{path:?}");
                check_promises(&facts, input, told.as_ref(), &lifecycle);
                assert_eq!(lifecycle.alarm.is_some(), after.open.is_some(), "{path:?}");
                assert_eq!(lifecycle.is_watched(), after.watched, "{path:?}");
                assert_eq!(lifecycle.boot_failed(), after.failure_told, "{path:?}");
                assert_eq!(lifecycle.is_armed(), after.armed_here, "{path:?}");
                assert_eq!(lifecycle.has_fed(), after.fed_ever, "{path:?}");
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
    let rules = Rules {
        moved_after_ns: 2 * TICK,
        close_moved_ns: 3 * TICK,
        ..Rules::default()
    };
    let states = walk(&rules, 9);
    println!("{states} states");
    assert!(states > 1_000, "only {states} states: nothing was walked");
}

#[test]
fn an_alarm_that_wants_feeds_and_time_gets_both() {
    let rules = Rules {
        clear_after_feeds: 2,
        clear_after_ns: 2 * TICK,
        boot_deadline_ns: 2 * TICK,
        moved_after_ns: TICK,
        close_moved_ns: 2 * TICK,
    };
    let states = walk(&rules, 8);
    println!("{states} states");
    assert!(states > 1_000, "only {states} states: nothing was walked");
}

/// A guest with an open alarm, and what a second's inputs tell of it.
fn alarmed(rules: Rules) -> impl FnMut(i64, Input) -> Option<Kind> {
    let mut guest = Lifecycle::new(0);
    guest.step(at(0), Input::Armed, &rules);
    guest.step(at(0), Input::Expired, &rules);
    move |seconds, input| guest.step(at(seconds * S), input, &rules)
}

#[test]
fn feeds_or_time_alone_are_not_enough() {
    let mut at = alarmed(Rules {
        clear_after_feeds: 2,
        clear_after_ns: 10 * S,
        ..Rules::default()
    });
    at(6, Input::State(Gone(Cause::Watchdog)));
    at(10, Input::Started);
    at(20, Input::Armed);
    assert_eq!(at(21, Input::Fed(1)), None, "too few");
    assert_eq!(at(22, Input::Fed(5)), None, "too early");
    at(23, Input::State(Paused));
    at(63, Input::State(Running));
    assert_eq!(at(64, Input::Fed(1)), None, "time while paused");
    let cleared = Kind::AlarmCleared {
        open_ms: 72_000,
        expiries: 1,
        reboots: 1,
        feeds: 8,
    };
    assert_eq!(at(72, Input::Fed(1)), Some(cleared));
}

#[test]
fn time_that_goes_back_or_that_nobody_saw_changes_nothing() {
    let mut at_s = alarmed(Rules::default());
    at_s(100, Input::Started);
    at_s(0, Input::Tick);
    assert_eq!(at_s(399, Input::Tick), None);
    let closed = at_s(50, Input::Close(Closing::Operator));
    let expected = Kind::AlarmClosed {
        cause: Closing::Operator,
        open_ms: 399_000,
    };
    assert_eq!(closed, Some(expected));
    let rules = Rules::default();
    let mut guest = Lifecycle::new(0);
    guest.step(at(0), Input::Armed, &rules);
    guest.step(at(0), Input::Started, &rules);
    guest.skip(1_000 * S);
    guest.skip(0);
    let boot = Boot::Awaited { waited_ns: 0 };
    assert_eq!((guest.boot, guest.watchdog), (boot, Watchdog::Had));
    assert_eq!(guest.step(at(1_299 * S), Input::Tick, &rules), None);
    let failed = guest.step(at(1_300 * S), Input::Tick, &rules);
    assert_eq!(failed, Some(Kind::GuestBootFailed { waited_ms: 300_000 }));
    assert_eq!(guest.state, DomainState::Running);
}
