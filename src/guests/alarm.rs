// SPDX-License-Identifier: GPL-2.0-only
//! The alarm lifecycle of one guest: a pure state machine.
//!
//! In: what happens to the guest, in order, each with its time on one monotonic clock.
//! Out: at most one event a step. It has no clock and touches nothing, so that
//! `tests/alarm_model.rs` can walk all of it.
//!
//! Promises: an alarm, once raised, ends by one event. It is cleared only by feeds of the
//! guest's watchdog in the domain that it is now, after it armed it there, as often and for
//! as long as the rules say. It is closed when nobody expects the guest to work any more:
//! an operator said so, it was destroyed or powered off, or it has been elsewhere for a
//! day. A reboot, an arm, a pause, an acknowledgement and time without a look never end
//! it. Boots are found to have failed at most once each.

use super::report::AlarmPhase;
use super::state::DomainState;
use crate::event::{Cause, Closing, Kind, Timestamp};
use crate::sys::clock::NS_PER_MS;
use serde::{Deserialize, Serialize};

/// Nanoseconds on CLOCK_MONOTONIC of the present boot; negative before it.
pub type Nanoseconds = i64;

const NS_PER_S: Nanoseconds = 1_000_000_000;

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Feeds that clear an alarm, at least one.
    pub clear_after_feeds: u32,
    /// Time of feeding that it takes besides, from the first feed on.
    pub clear_after_ns: Nanoseconds,
    /// Time within which a guest that is back must feed.
    pub boot_deadline_ns: Nanoseconds,
    /// Time after which a guest that is gone with an open alarm counts as moved; one that
    /// was suspended counts so at once.
    pub moved_after_ns: Nanoseconds,
    /// Time after which the alarm of a guest that moved is closed.
    pub close_moved_ns: Nanoseconds,
}

impl Default for Rules {
    /// The first feed clears; a boot may take 300 s; an hour, and a day.
    fn default() -> Self {
        Self {
            clear_after_feeds: 1,
            clear_after_ns: 0,
            boot_deadline_ns: 300 * NS_PER_S,
            moved_after_ns: 3_600 * NS_PER_S,
            close_moved_ns: 86_400 * NS_PER_S,
        }
    }
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// CLOCK_MONOTONIC.
    pub ns: Nanoseconds,
    /// Wall time.
    pub wall: Timestamp,
}

/// What happens to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time went by.
    Tick,
    /// Its watchdog expired, and shut its domain down.
    Expired,
    /// It was started again, as another domain.
    Started,
    /// It is in another domain after it was suspended or paused in the one before: it goes
    /// on, or was started afresh.
    Returned,
    /// It armed its watchdog.
    Armed,
    /// It fed it, so many times that count; 0: it feeds, but that proves nothing yet.
    Fed(u32),
    /// It has no armed watchdog any more.
    Disarmed,
    /// What it is doing from now on.
    State(DomainState),
    /// A user takes care of it.
    Acknowledge(u32),
    /// The alarm ends without the guest.
    Close(Closing),
}

/// Whether the guest has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// It has not fed since it was started, and owes nobody a feed: it never had a
    /// watchdog, or it expired, or it is gone.
    Unfed,
    /// It was started again after it had a watchdog, and has not fed since. From everywhere,
    /// by a start.
    Awaited {
        /// For how long it ran without, ns.
        waited_ns: Nanoseconds,
    },
    /// It fed, then was suspended with its watchdog armed, and owes a feed in the domain that
    /// it comes back as. From `Fed` only: who owed one already still does. That a domain is
    /// restored cannot be told from that it was started afresh: both are created paused,
    /// with no slot armed. So both owe the feed, and neither is said to have rebooted.
    Returning {
        /// For how long it ran without, ns.
        waited_ns: Nanoseconds,
    },
    /// It did not feed within the deadline, and that was told. From the two before, by time.
    /// A crash leaves it so: only a feed, an expiry, another start or a wanted end undoes it.
    Failed,
    /// It fed since it was started: it works, or worked. From everywhere, by a feed.
    Fed,
}

/// What is known of its watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watchdog {
    /// It never had one. Left by an arm, for ever.
    Never,
    /// It had one, in this domain or another: it is expected to have one when it is started
    /// again. By a disarm, and by another domain or none.
    Had,
    /// It is armed in the present domain, and no feed there has counted since, or since it
    /// expired.
    Armed,
    /// It is armed there and was fed.
    Fed,
}

/// An open alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alarm {
    /// Where it stands.
    pub phase: Phase,
    /// When it was raised first.
    pub raised_ns: Nanoseconds,
    /// The same as wall time.
    pub raised: Timestamp,
    /// Expiries since, that one included.
    pub expiries: u32,
    /// Starts as another domain since.
    pub reboots: u32,
    /// Somebody takes care of it.
    pub acknowledged: bool,
}

/// Where an open alarm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The watchdog expired; nothing has come since. An expiry leads here from everywhere, and
    /// a return from `Moved` and `Recovering`: what was fed elsewhere counts for nothing.
    Raised,
    /// The guest was started again; it has not armed its watchdog. From everywhere.
    Rebooted,
    /// It is back and did not feed within the boot deadline. It may yet. From `Raised`,
    /// `Rebooted` and `Recovering`.
    BootFailed,
    /// It armed its watchdog, or fed it, but not yet as often or as long as it takes. From all
    /// but `Moved`, whose guest has no domain.
    Recovering {
        /// Feeds so far in the present domain.
        feeds: u32,
        /// Time of feeding so far, ns.
        feeding_ns: Nanoseconds,
    },
    /// It is not on this host any more: it was migrated or saved, or it is gone for so long
    /// that whoever wanted it back has started it elsewhere. Not an alarm to act on here.
    /// From everywhere, once the guest is gone.
    Moved {
        /// Since when.
        since_ns: Nanoseconds,
    },
}

impl Phase {
    const RECOVERING: Self = Self::Recovering {
        feeds: 0,
        feeding_ns: 0,
    };

    /// As people are told.
    #[must_use]
    pub fn report(self) -> AlarmPhase {
        match self {
            Self::Raised => AlarmPhase::Raised,
            Self::Rebooted => AlarmPhase::Rebooted,
            Self::BootFailed => AlarmPhase::BootFailed,
            Self::Recovering { .. } => AlarmPhase::Recovering,
            Self::Moved { .. } => AlarmPhase::Moved,
        }
    }
}

/// The lifecycle of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lifecycle {
    /// What the guest is doing; time counts only while it runs.
    pub state: DomainState,
    /// When that began.
    pub since_ns: Nanoseconds,
    /// Whether it has come up.
    pub boot: Boot,
    /// Its watchdog.
    pub watchdog: Watchdog,
    /// The alarm, while one is open.
    pub alarm: Option<Alarm>,
    /// The time of the last step.
    last_ns: Nanoseconds,
}

fn ms(ns: Nanoseconds) -> u64 {
    u64::try_from(ns).unwrap_or(0) / NS_PER_MS
}

impl Lifecycle {
    /// A guest that was just seen for the first time.
    #[must_use]
    pub fn new(now: Nanoseconds) -> Self {
        Self {
            state: DomainState::Running,
            since_ns: now,
            boot: Boot::Unfed,
            watchdog: Watchdog::Never,
            alarm: None,
            last_ns: now,
        }
    }

    /// Takes one input. A time before the last one counts as the last one.
    pub fn step(&mut self, at: Moment, input: Input, rules: &Rules) -> Option<Kind> {
        self.advance(at.ns);
        match input {
            Input::Tick => return self.tick(rules),
            Input::Expired => return Some(self.expired(at.wall)),
            Input::Started => self.started(),
            Input::Returned => self.returned(),
            Input::Armed => self.armed(),
            Input::Fed(feeds) => return self.fed(feeds, rules),
            Input::Disarmed => self.unarmed(),
            Input::State(state) => return self.enter(state),
            Input::Acknowledge(uid) => {
                let alarm = self.alarm.as_mut().filter(|a| !a.acknowledged)?;
                alarm.acknowledged = true;
                return Some(Kind::AlarmAcknowledged { uid });
            }
            Input::Close(why) => return self.close(why),
        }
        None
    }

    /// Nobody looked until `now`: that time counts neither for nor against the guest.
    pub fn skip(&mut self, now: Nanoseconds) {
        self.last_ns = self.last_ns.max(now);
    }

    /// Lets the time since the last step count for what it counts for.
    fn advance(&mut self, now: Nanoseconds) {
        let passed = now.saturating_sub(self.last_ns).max(0);
        self.last_ns = self.last_ns.max(now);
        if self.state != DomainState::Running {
            return;
        }
        if let Boot::Awaited { waited_ns } | Boot::Returning { waited_ns } = &mut self.boot {
            *waited_ns = waited_ns.saturating_add(passed);
        }
        if self.watchdog != Watchdog::Fed {
            return;
        }
        if let Some(Phase::Recovering { feeding_ns, .. }) = self.phase() {
            *feeding_ns = feeding_ns.saturating_add(passed);
        }
    }

    fn phase(&mut self) -> Option<&mut Phase> {
        self.alarm.as_mut().map(|alarm| &mut alarm.phase)
    }

    fn open_ms(&self, alarm: &Alarm) -> u64 {
        ms(self.last_ns.saturating_sub(alarm.raised_ns))
    }

    fn tick(&mut self, rules: &Rules) -> Option<Kind> {
        match self.state {
            DomainState::Running => self.overdue(rules),
            DomainState::Gone(_) => {
                let for_ns = |since| self.last_ns.saturating_sub(since);
                match self.alarm?.phase {
                    Phase::Moved { since_ns } if for_ns(since_ns) >= rules.close_moved_ns => {
                        self.close(Closing::Moved)
                    }
                    Phase::Moved { .. } => None,
                    _ if for_ns(self.since_ns) >= rules.moved_after_ns => self.moved(),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn overdue(&mut self, rules: &Rules) -> Option<Kind> {
        let (Boot::Awaited { waited_ns } | Boot::Returning { waited_ns }) = self.boot else {
            return None;
        };
        if waited_ns < rules.boot_deadline_ns {
            return None;
        }
        self.boot = Boot::Failed;
        if let Some(phase) = self.phase() {
            *phase = Phase::BootFailed;
        }
        let waited_ms = ms(waited_ns);
        Some(Kind::GuestBootFailed { waited_ms })
    }

    fn moved(&mut self) -> Option<Kind> {
        let DomainState::Gone(cause) = self.state else {
            return None;
        };
        let since_ns = self.last_ns;
        let open_ms = self.open_ms(&self.alarm?);
        *self.phase()? = Phase::Moved { since_ns };
        Some(Kind::AlarmMoved { cause, open_ms })
    }

    fn expired(&mut self, wall: Timestamp) -> Kind {
        self.boot = match self.boot {
            Boot::Fed | Boot::Returning { .. } => Boot::Fed,
            _ => Boot::Unfed,
        };
        self.watchdog = match self.watchdog {
            Watchdog::Armed | Watchdog::Fed => Watchdog::Armed,
            Watchdog::Never | Watchdog::Had => Watchdog::Had,
        };
        let fresh = Alarm {
            phase: Phase::Raised,
            raised_ns: self.last_ns,
            raised: wall,
            expiries: 0,
            reboots: 0,
            acknowledged: false,
        };
        let alarm = self.alarm.get_or_insert(fresh);
        alarm.phase = Phase::Raised;
        alarm.expiries = alarm.expiries.saturating_add(1);
        Kind::AlarmRaised {
            expiries: alarm.expiries,
        }
    }

    /// Nothing that was seen of its watchdog holds any longer, but that it had one.
    fn unarmed(&mut self) {
        if self.watchdog != Watchdog::Never {
            self.watchdog = Watchdog::Had;
        }
    }

    /// It is armed in the present domain.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        matches!(self.watchdog, Watchdog::Armed | Watchdog::Fed)
    }

    /// It had a watchdog: people want to know of it.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watchdog != Watchdog::Never
    }

    /// It has fed since it was started.
    #[must_use]
    pub fn has_fed(&self) -> bool {
        matches!(self.boot, Boot::Fed | Boot::Returning { .. })
    }

    /// It is back, and did not feed in time, nor has it since.
    #[must_use]
    pub fn boot_failed(&self) -> bool {
        self.boot == Boot::Failed
    }

    fn started(&mut self) {
        self.state = DomainState::Running;
        self.boot = match self.watchdog {
            Watchdog::Never => Boot::Unfed,
            _ => Boot::Awaited { waited_ns: 0 },
        };
        self.unarmed();
        if let Some(alarm) = &mut self.alarm {
            alarm.reboots = alarm.reboots.saturating_add(1);
            alarm.phase = Phase::Rebooted;
        }
    }

    fn returned(&mut self) {
        self.state = DomainState::Running;
        self.leave();
        if let Some(phase @ (Phase::Moved { .. } | Phase::Recovering { .. })) = self.phase() {
            *phase = Phase::Raised;
        }
    }

    /// It is no longer in its domain, and may go on elsewhere.
    fn leave(&mut self) {
        if self.boot == Boot::Fed && self.is_armed() {
            self.boot = Boot::Returning { waited_ns: 0 };
        }
        self.unarmed();
    }

    fn armed(&mut self) {
        if !self.is_armed() {
            self.watchdog = Watchdog::Armed;
        }
        if let Some(phase) = self.phase() {
            if !matches!(phase, Phase::Recovering { .. }) {
                *phase = Phase::RECOVERING;
            }
        }
    }

    fn fed(&mut self, more: u32, rules: &Rules) -> Option<Kind> {
        if !self.is_armed() {
            return None;
        }
        self.boot = Boot::Fed;
        if more == 0 {
            return None;
        }
        self.watchdog = Watchdog::Fed;
        let mut alarm = self.alarm?;
        let (feeds, feeding_ns) = match alarm.phase {
            Phase::Recovering { feeds, feeding_ns } => (feeds.saturating_add(more), feeding_ns),
            _ => (more, 0),
        };
        alarm.phase = Phase::Recovering { feeds, feeding_ns };
        self.alarm = Some(alarm);
        if feeds < rules.clear_after_feeds || feeding_ns < rules.clear_after_ns {
            return None;
        }
        self.alarm = None;
        Some(Kind::AlarmCleared {
            open_ms: self.open_ms(&alarm),
            expiries: alarm.expiries,
            reboots: alarm.reboots,
            feeds,
        })
    }

    fn enter(&mut self, state: DomainState) -> Option<Kind> {
        if self.state == state {
            return None;
        }
        (self.state, self.since_ns) = (state, self.last_ns);
        let DomainState::Gone(cause) = state else {
            return None;
        };
        if cause == Cause::Suspend {
            self.leave();
            return self.moved();
        }
        self.unarmed();
        let wanted = match cause {
            Cause::Destroyed => Some(Closing::Destroyed),
            Cause::Poweroff => Some(Closing::Poweroff),
            _ => None,
        };
        if self.boot != Boot::Failed || wanted.is_some() {
            self.boot = Boot::Unfed;
        }
        wanted.and_then(|why| self.close(why))
    }

    fn close(&mut self, cause: Closing) -> Option<Kind> {
        let alarm = self.alarm.take()?;
        let open_ms = self.open_ms(&alarm);
        Some(Kind::AlarmClosed { cause, open_ms })
    }

    /// The same lifecycle on a clock that is `shift` ahead: after a reset of the host its
    /// monotonic clock began anew.
    pub fn shift(&mut self, shift: Nanoseconds) {
        let move_on = |t: &mut Nanoseconds| *t = t.saturating_add(shift);
        move_on(&mut self.last_ns);
        move_on(&mut self.since_ns);
        if let Some(alarm) = &mut self.alarm {
            move_on(&mut alarm.raised_ns);
            if let Phase::Moved { since_ns } = &mut alarm.phase {
                move_on(since_ns);
            }
        }
    }
}
