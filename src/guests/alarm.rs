// SPDX-License-Identifier: GPL-2.0-only
//! The alarm lifecycle of one guest: a pure state machine.
//!
//! In: what happens to the guest, in order, each with its time on one monotonic clock.
//! Out: at most one [`Output`] a step. It has no clock and touches nothing, so that
//! `tests/alarm_model.rs` can walk all of it.
//!
//! Promises: an alarm, once raised, ends only when the guest feeds its watchdog in the
//! domain that it is now, after it armed it there, as often and for as long as the rules
//! say; or when nobody expects it to any more (an operator destroyed it or closed the
//! alarm, the guest powered off); or when nobody can tell any more which guest it is of
//! ([`super::guest::Guest::give_up`]: gone, and its UUID never known). A reboot, an arm, a pause, an acknowledgement and
//! whatever is unknown never end it. Boots are found to have failed at most once each.

use super::report::AlarmPhase;
use crate::event::Cause;
use serde::{Deserialize, Serialize};

/// Nanoseconds on CLOCK_MONOTONIC of the present boot; negative before it.
pub type Nanoseconds = i64;

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Feeds that clear an alarm, at least one.
    pub clear_after_feeds: u32,
    /// Time of feeding that it takes besides, from the first feed on.
    pub clear_after_ns: Nanoseconds,
    /// Time within which a guest that was started again must feed.
    pub boot_deadline_ns: Nanoseconds,
}

impl Default for Rules {
    /// The first feed clears; a boot may take 300 s.
    fn default() -> Self {
        Self {
            clear_after_feeds: 1,
            clear_after_ns: 0,
            boot_deadline_ns: 300_000_000_000,
        }
    }
}

/// Kind happens to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time went by.
    Tick,
    /// Its watchdog expired, and it went down by that.
    Expired,
    /// It was started again, as another domain.
    Started,
    /// It goes on in another domain: it was restored or migrated.
    Restored,
    /// It armed its watchdog.
    Armed,
    /// It fed it, so many times.
    Fed(u32),
    /// It has no armed watchdog any more.
    Disarmed,
    /// Kind its domain is doing from now on.
    Doing(Activity),
    /// Its domain is no longer there.
    Gone(Cause),
    /// Somebody takes care of it.
    Acknowledge,
    /// An operator ends the alarm.
    Close,
}

/// Kind the guest's domain is doing, as far as it matters here: time counts only while it
/// runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It runs, or has shut down on its own account; what the hypervisor cannot tell counts
    /// as this.
    Running,
    /// It is paused or suspended (saved, migrated): it cannot feed, and nobody expects it to.
    Held,
    /// There is no evidence: neither feeding nor failing.
    Unknown,
    /// There is no domain.
    Absent,
}

/// Kind comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// An alarm is raised, or raised anew.
    Raised {
        /// Expiries since it was raised first.
        expiries: u32,
    },
    /// The guest works again.
    Cleared {
        /// How long the alarm was open.
        open_ns: Nanoseconds,
        /// Expiries in that time.
        expiries: u32,
        /// Reboots in that time.
        reboots: u32,
        /// Feeds that it took.
        feeds: u32,
    },
    /// The alarm ended without that.
    Closed {
        /// Why; unknown when an operator closed it, or nobody can tell which guest it is of.
        cause: Cause,
        /// How long it was open.
        open_ns: Nanoseconds,
    },
    /// Somebody takes care of it.
    Acknowledged,
    /// The guest was started again and does not feed.
    BootFailed {
        /// How long it ran without.
        waited_ns: Nanoseconds,
    },
}

/// Whether a guest that was started again has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// Nothing is waited for: it fed since it was started, or expired, or was never seen
    /// to be started.
    Settled,
    /// It was started again after it had a watchdog, and has not fed since.
    Awaited {
        /// For how long it ran without, ns.
        waited_ns: Nanoseconds,
    },
    /// It did not feed within the deadline, and that was told.
    Failed,
}

/// An open alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alarm {
    /// Where it stands.
    pub phase: Phase,
    /// When it was raised first.
    pub raised_ns: Nanoseconds,
    /// Expiries since, that one included.
    pub expiries: u32,
    /// Starts as another domain since.
    pub reboots: u32,
    /// Somebody takes care of it.
    pub acknowledged: bool,
}

/// Where an open alarm stands. (`ok` is to have no alarm.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The watchdog expired; nothing has come since. An expiry leads here from everywhere.
    Raised,
    /// The guest was started again; it has not armed its watchdog. The alarm stands.
    Rebooted,
    /// It was started again and did not feed within the boot deadline. It may yet.
    BootFailed,
    /// It armed its watchdog, or fed it, but not yet as often or as long as it takes.
    Recovering {
        /// Feeds so far.
        feeds: u32,
        /// Time of feeding so far, ns.
        feeding_ns: Nanoseconds,
    },
}

impl Phase {
    /// As people are told.
    #[must_use]
    pub fn report(self) -> AlarmPhase {
        match self {
            Self::Raised => AlarmPhase::Raised,
            Self::Rebooted => AlarmPhase::Rebooted,
            Self::BootFailed => AlarmPhase::BootFailed,
            Self::Recovering { .. } => AlarmPhase::Recovering,
        }
    }
}

/// The lifecycle of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lifecycle {
    /// The alarm, while one is open.
    pub alarm: Option<Alarm>,
    /// Whether it has come up.
    pub boot: Boot,
    /// It had a watchdog, in this domain or an earlier one: it is expected to feed again
    /// when it is started again.
    pub watched: bool,
    activity: Activity,
    /// Armed in the domain that it is now.
    armed: bool,
    /// Fed in that domain since it armed there.
    feeding: bool,
    /// The time of the last step.
    last_ns: Nanoseconds,
}

impl Lifecycle {
    /// A guest that was just seen for the first time.
    #[must_use]
    pub fn new(now: Nanoseconds) -> Self {
        Self {
            alarm: None,
            boot: Boot::Settled,
            watched: false,
            activity: Activity::Running,
            armed: false,
            feeding: false,
            last_ns: now,
        }
    }

    /// Takes one input. A time before the last one counts as the last one.
    pub fn step(&mut self, now: Nanoseconds, input: Input, rules: &Rules) -> Option<Output> {
        self.advance(now);
        match input {
            Input::Tick => self.tick(rules),
            Input::Expired => Some(self.expired()),
            Input::Started => self.started(),
            Input::Restored => self.enter_domain(),
            Input::Armed => self.armed(),
            Input::Fed(feeds) => self.fed(feeds, rules),
            Input::Disarmed => {
                (self.armed, self.feeding) = (false, false);
                None
            }
            Input::Doing(activity) => {
                self.activity = activity;
                None
            }
            Input::Gone(cause) => self.gone(cause),
            Input::Acknowledge => {
                let alarm = self.alarm.as_mut().filter(|a| !a.acknowledged)?;
                alarm.acknowledged = true;
                Some(Output::Acknowledged)
            }
            Input::Close => self.close(Cause::Unknown),
        }
    }

    /// Lets the time since the last step count for what it counts for.
    fn advance(&mut self, now: Nanoseconds) {
        let passed = now.saturating_sub(self.last_ns).max(0);
        self.last_ns = self.last_ns.max(now);
        if self.activity != Activity::Running {
            return;
        }
        if let Boot::Awaited { waited_ns } = &mut self.boot {
            *waited_ns = waited_ns.saturating_add(passed);
        }
        if let Some(Alarm {
            phase: Phase::Recovering { feeding_ns, .. },
            ..
        }) = &mut self.alarm
        {
            if self.feeding {
                *feeding_ns = feeding_ns.saturating_add(passed);
            }
        }
    }

    fn tick(&mut self, rules: &Rules) -> Option<Output> {
        let Boot::Awaited { waited_ns } = self.boot else {
            return None;
        };
        if waited_ns < rules.boot_deadline_ns || self.activity != Activity::Running {
            return None;
        }
        self.boot = Boot::Failed;
        if let Some(alarm) = &mut self.alarm {
            alarm.phase = Phase::BootFailed;
        }
        Some(Output::BootFailed { waited_ns })
    }

    fn expired(&mut self) -> Output {
        self.watched = true;
        self.boot = Boot::Settled;
        self.feeding = false;
        let expiries = self.alarm.map_or(0, |a| a.expiries).saturating_add(1);
        let before = self.alarm;
        self.alarm = Some(Alarm {
            phase: Phase::Raised,
            raised_ns: before.map_or(self.last_ns, |a| a.raised_ns),
            expiries,
            reboots: before.map_or(0, |a| a.reboots),
            acknowledged: before.is_some_and(|a| a.acknowledged),
        });
        Output::Raised { expiries }
    }

    /// Another domain: nothing that was seen of the one before holds for it.
    fn enter_domain(&mut self) -> Option<Output> {
        self.activity = Activity::Running;
        (self.armed, self.feeding) = (false, false);
        None
    }

    fn started(&mut self) -> Option<Output> {
        if self.watched {
            self.boot = Boot::Awaited { waited_ns: 0 };
        }
        if let Some(alarm) = &mut self.alarm {
            alarm.reboots = alarm.reboots.saturating_add(1);
            alarm.phase = Phase::Rebooted;
        }
        self.enter_domain()
    }

    fn armed(&mut self) -> Option<Output> {
        self.watched = true;
        self.armed = true;
        if let Some(alarm) = &mut self.alarm {
            if !matches!(alarm.phase, Phase::Recovering { .. }) {
                alarm.phase = Phase::Recovering {
                    feeds: 0,
                    feeding_ns: 0,
                };
            }
        }
        None
    }

    fn fed(&mut self, more: u32, rules: &Rules) -> Option<Output> {
        if !self.armed || more == 0 {
            return None;
        }
        self.watched = true;
        self.feeding = true;
        self.boot = Boot::Settled;
        let alarm = self.alarm.as_mut()?;
        let (feeds, feeding_ns) = match alarm.phase {
            Phase::Recovering { feeds, feeding_ns } => (feeds.saturating_add(more), feeding_ns),
            _ => (more, 0),
        };
        alarm.phase = Phase::Recovering { feeds, feeding_ns };
        if feeds < rules.clear_after_feeds || feeding_ns < rules.clear_after_ns {
            return None;
        }
        let alarm = self.alarm.take()?;
        Some(Output::Cleared {
            open_ns: self.last_ns.saturating_sub(alarm.raised_ns),
            expiries: alarm.expiries,
            reboots: alarm.reboots,
            feeds,
        })
    }

    fn gone(&mut self, cause: Cause) -> Option<Output> {
        self.activity = Activity::Absent;
        (self.armed, self.feeding) = (false, false);
        // A saved guest goes on where it was; any other has to be started.
        if cause != Cause::Suspend {
            self.boot = Boot::Settled;
        }
        match cause {
            Cause::Destroyed | Cause::Poweroff => self.close(cause),
            _ => None,
        }
    }

    fn close(&mut self, cause: Cause) -> Option<Output> {
        let alarm = self.alarm.take()?;
        let open_ns = self.last_ns.saturating_sub(alarm.raised_ns);
        Some(Output::Closed { cause, open_ns })
    }

    /// Kind happened under `other`, a guest that turns out to be this one, since this one
    /// was started again or restored: it was followed apart while its UUID was not known.
    pub fn absorb(&mut self, other: &Self) {
        self.watched |= other.watched;
        self.activity = other.activity;
        self.armed = other.armed;
        self.feeding = other.feeding;
        if other.feeding {
            self.boot = Boot::Settled;
        }
        self.alarm = match (self.alarm, other.alarm) {
            (Some(ours), Some(theirs)) => Some(Alarm {
                phase: theirs.phase,
                expiries: ours.expiries.saturating_add(theirs.expiries),
                reboots: ours.reboots.saturating_add(theirs.reboots),
                acknowledged: ours.acknowledged || theirs.acknowledged,
                ..ours
            }),
            (Some(mut ours), None) => {
                if other.armed {
                    let (feeds, feeding_ns) = (0, 0);
                    ours.phase = Phase::Recovering { feeds, feeding_ns };
                }
                Some(ours)
            }
            (None, theirs) => theirs,
        };
    }

    /// The same lifecycle on a clock that is `shift` ahead: after a reset of the host its
    /// monotonic clock began anew.
    pub fn shift(&mut self, shift: Nanoseconds) {
        self.last_ns = self.last_ns.saturating_add(shift);
        if let Some(alarm) = &mut self.alarm {
            alarm.raised_ns = alarm.raised_ns.saturating_add(shift);
        }
    }

    /// It has an armed watchdog in the domain that it is now.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed
    }
}
