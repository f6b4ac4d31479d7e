// SPDX-License-Identifier: GPL-2.0-only
//! One VM: what its QEMU tells, and what that means for its guest's alarm. A pure state machine.
//!
//! In: [`Input`]s in their order, each with its time. Out: events, and notes for the log. The alarm
//! is [`Lifecycle`]'s, the same as that of Xen's guests: this translates.
//!
//! | QEMU says | the lifecycle takes |
//! |---|---|
//! | WATCHDOG | `Expired`, then `Disarmed`: the devices turn themselves off |
//! | RESET | `Started`; the one with which firmware answers is none |
//! | RESET of a domain of Xen's | nothing yet: its toolstack starts it anew, with another QEMU |
//! | RESUME | nothing, but that a snapshot may have been loaded unseen: its device is unknown |
//! | its device's state is loaded | nothing: its device is unknown |
//! | another QEMU on the socket | `Started`, or `Returned` where its guest comes from elsewhere |
//! | STOP, RESUME, `query-status` | `State` |
//! | the end of the connection | nothing: nobody looks, and that counts neither way |
//! | nobody listens any more | `State(Gone)`, by what was told before |
//! | the guest's writes, WATCHDOG_ARMED, WATCHDOG_FED | `Armed`, `Disarmed`, `Fed` |
//!
//! Promises: only a feed clears. An expiry of a VM that its hypervisor had paused is none.

use super::device::{Act, Device};
use super::status::{Reset, Status};
use super::trace::Sighting;
use crate::event::{Cause, Closing, Kind};
use crate::guests::alarm::{Boot, Input as Step, Lifecycle, Moment, Nanoseconds, Phase, Rules};
use crate::guests::state::DomainState;
use serde::{Deserialize, Serialize};

/// SeaBIOS answers a reset by another one (its `handle_post`, src/post.c: it starts from memory
/// that was written to): a reset by the guest within this time of the last, the guest having done
/// nothing else since, is that.
const SAME_RESET_NS: Nanoseconds = 2_000_000_000;
/// Time from an expiry or a reset to the beginning of the trace within which no guest has booted.
const SOON_NS: Nanoseconds = 1_000_000_000;

/// Time from a reset of a domain of Xen's to the end of its QEMU within which that is the reboot: its
/// hypervisor lets the toolstack know at once, which destroys the domain and starts another.
const REBOOTS_NS: Nanoseconds = 30_000_000_000;

/// Which process a QEMU is: what the kernel says of the socket's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the host's boot (proc(5), stat's field 22).
    pub started: u64,
}

/// What happens to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A connection to its QEMU was made.
    Attached(Option<Process>, Status),
    /// The connection ended.
    Detached,
    /// Nobody listens on its socket.
    Gone,
    /// What it is doing from now on.
    Status(Status),
    /// Its guest's watchdog expired.
    Expired {
        /// The guest may have written to the device since.
        unclear: bool,
        /// Its hypervisor had paused it meanwhile, while QEMU's clock ran.
        paused: bool,
        /// The VM is paused by it (`action=pause`), and its guest has not run since.
        pauses: bool,
    },
    /// It was reset.
    Reset {
        /// How.
        how: Reset,
        /// As of `Expired`.
        unclear: bool,
    },
    /// It runs on after it stood still.
    Resumed,
    /// QEMU is about to end.
    Ending(Cause),
    /// The guest's writes are seen from now on.
    TraceOn,
    /// They no longer are.
    TraceOff,
    /// The guest wrote to its device.
    Seen(Sighting),
    /// The guest armed it, as QEMU itself says.
    Armed,
    /// It fed it for the first time since it armed it, as QEMU itself says.
    Fed,
    /// Time went by.
    Tick,
    /// A user takes care of the alarm.
    Acknowledge(u32),
    /// A user ends it.
    Close,
}

/// What is worth a line in the log, and no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// An expiry does not count: the domain was paused.
    ExpiredWhilePaused,
    /// The guest feeds a device that is off.
    FeedsInVain,
}

impl Note {
    /// The line.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ExpiredWhilePaused => {
                "its watchdog expired while its domain was paused, which stops the guest but not \
                 QEMU's clock: no alarm; the device is off until the guest arms it again"
            }
            Self::FeedsInVain => {
                "it feeds its watchdog, but the device is off since it expired: the alarm stays \
                 until the guest arms it again and feeds it, or somebody closes it"
            }
        }
    }
}

/// What comes of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An event.
    Event(Kind),
    /// A line.
    Note(Note),
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vm {
    /// What its guest is doing, and its alarm.
    pub lifecycle: Lifecycle,
    /// Its domain; [`crate::event::NO_DOMAIN`] where it is none of Xen's.
    pub domid: u16,
    /// Its QEMU, the present one or the last.
    process: Option<Process>,
    /// It was seen at least once.
    seen: bool,
    /// Why its QEMU is about to end.
    ending: Option<Cause>,
    /// Its watchdog expired since it was started or last fed.
    expired: bool,
    /// There is a connection.
    #[serde(skip)]
    attached: bool,
    #[serde(skip)]
    device: Device,
    /// Its watchdog stopped it (`action=pause`), and it has not run since, nor was a snapshot seen
    /// to be loaded: its device is off.
    #[serde(skip)]
    by_watchdog: bool,
    /// The guest's writes are seen, and so is a load.
    #[serde(skip)]
    tracing: bool,
    /// Since when the device is known to be off.
    #[serde(skip)]
    off_ns: Option<Nanoseconds>,
    /// The last reset, the guest having done nothing since.
    #[serde(skip)]
    reset_ns: Option<Nanoseconds>,
    /// It was said that it feeds in vain.
    #[serde(skip)]
    noted: bool,
}

impl Vm {
    /// One that was never seen.
    #[must_use]
    pub fn new(now: Nanoseconds) -> Self {
        Self {
            lifecycle: Lifecycle::new(now),
            domid: crate::event::NO_DOMAIN,
            process: None,
            seen: false,
            ending: None,
            expired: false,
            attached: false,
            device: Device::unseen(),
            by_watchdog: false,
            tracing: false,
            off_ns: None,
            reset_ns: None,
            noted: false,
        }
    }

    /// It was seen at least once.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        self.seen
    }

    /// What else is to be kept, to be compared.
    #[must_use]
    pub fn fixed(&self) -> impl PartialEq + use<> {
        (self.process, self.seen, self.ending, self.expired)
    }

    /// What it is doing, for people: unknown while there is no connection.
    #[must_use]
    pub fn state(&self) -> DomainState {
        match self.lifecycle.state {
            gone @ DomainState::Gone(_) => gone,
            _ if !self.attached => DomainState::Unknown,
            state => state,
        }
    }

    /// Whether somebody needs to know when the guest feeds: an alarm is open, or it was started
    /// again and has not fed yet.
    #[must_use]
    pub fn needs_feeds(&self) -> bool {
        let moved = |phase| matches!(phase, Phase::Moved { .. });
        let open = self.lifecycle.alarm.is_some_and(|a| !moved(a.phase));
        self.attached && (open || self.lifecycle.is_watched() && self.owes_feed())
    }

    /// It was started again, or is to come back, and has not fed since, which it should.
    fn owes_feed(&self) -> bool {
        !matches!(self.lifecycle.boot, Boot::Unfed | Boot::Fed)
    }

    /// Takes one input.
    pub fn step(&mut self, at: Moment, input: Input, rules: &Rules) -> Vec<Outcome> {
        let mut out = Vec::new();
        let mut turn = Turn {
            at,
            rules,
            out: &mut out,
        };
        match input {
            Input::Attached(process, status) => self.attach(process, status, &mut turn),
            Input::Detached => self.detach(at.ns),
            Input::Gone => self.gone(&mut turn),
            Input::Status(status) => self.life(Step::State(status.state), &mut turn),
            Input::Expired {
                paused: true,
                pauses,
                ..
            } => {
                self.turned_off(at.ns, false);
                self.by_watchdog = pauses;
                self.life(Step::Disarmed, &mut turn);
                turn.note(Note::ExpiredWhilePaused);
            }
            Input::Expired {
                unclear, pauses, ..
            } => {
                self.by_watchdog = pauses;
                self.expire(unclear, &mut turn);
            }
            Input::Reset { how, unclear } => self.reset(how, unclear, &mut turn),
            Input::Resumed => self.resume(),
            // A domain of Xen's that reboots is destroyed for that.
            Input::Ending(_) if self.reboots(at.ns) => {}
            Input::Ending(cause) => (self.ending, self.reset_ns) = (Some(cause), None),
            Input::TraceOn => self.trace_on(at.ns),
            Input::TraceOff => self.tracing = false,
            Input::Seen(sighting) => {
                if sighting == Sighting::Loaded {
                    (self.by_watchdog, self.off_ns) = (false, None);
                }
                let act = self.device.see(at.ns, sighting);
                self.act(act, &mut turn);
            }
            Input::Armed => self.act(Some(Act::Armed), &mut turn),
            Input::Fed => self.act(Some(Act::Fed), &mut turn),
            Input::Tick => self.tick(&mut turn),
            Input::Acknowledge(uid) => self.life(Step::Acknowledge(uid), &mut turn),
            Input::Close => self.life(Step::Close(Closing::Operator), &mut turn),
        }
        out
    }

    fn life(&mut self, step: Step, turn: &mut Turn<'_>) {
        let said = self.lifecycle.step(turn.at, step, turn.rules);
        turn.out.extend(said.map(Outcome::Event));
    }

    fn attach(&mut self, process: Option<Process>, status: Status, turn: &mut Turn<'_>) {
        let is_same = match (process, self.process) {
            (Some(now), Some(then)) => now == then,
            // The kernel does not tell: one that nobody saw end is the same.
            _ => !self.is_gone(),
        };
        self.lifecycle.skip(turn.at.ns);
        self.attached = true;
        (self.device, self.off_ns, self.reset_ns) = (Device::unseen(), None, None);
        (self.by_watchdog, self.tracing) = (status.by_watchdog, false);
        self.process = process;
        if !self.seen {
            self.seen = true;
        } else if is_same {
            if self.is_gone() {
                self.life(Step::Returned, turn);
            }
        } else {
            self.gone(turn);
            let left = self.lifecycle.state.ended_by();
            match left.filter(|_| !status.incoming) {
                Some(cause) => self.restart(cause, turn),
                None => self.life(Step::Returned, turn),
            }
            self.expired = false;
        }
        self.ending = None;
        self.life(Step::State(status.state), turn);
        match (status.by_watchdog, self.expired) {
            (true, false) => self.expire(false, turn),
            (true, true) => self.turned_off(turn.at.ns, false),
            (false, _) => {}
        }
    }

    /// A domain of Xen's that was reset long ago did not end by that.
    fn detach(&mut self, now: Nanoseconds) {
        (self.attached, self.tracing) = (false, false);
        if self.is_of_xen() && self.reset_ns.is_some() && !self.reboots(now) {
            self.ending = None;
        }
    }

    /// It is a domain of Xen's, was just reset, and has done nothing since.
    fn reboots(&self, now: Nanoseconds) -> bool {
        let is_new = |then| now.saturating_sub(then) < REBOOTS_NS;
        self.is_of_xen() && self.reset_ns.is_some_and(is_new)
    }

    fn is_of_xen(&self) -> bool {
        self.domid != crate::event::NO_DOMAIN
    }

    fn is_gone(&self) -> bool {
        matches!(self.lifecycle.state, DomainState::Gone(_))
    }

    fn gone(&mut self, turn: &mut Turn<'_>) {
        if self.is_gone() || !self.seen {
            return;
        }
        self.lifecycle.skip(turn.at.ns);
        let cause = match self.lifecycle.state {
            DomainState::Suspended => Cause::Suspend,
            _ if self.expired => Cause::Watchdog,
            state => self.ending.unwrap_or(match state.lost() {
                DomainState::Gone(cause) => cause,
                _ => Cause::Unknown,
            }),
        };
        if self.lifecycle.is_watched() {
            turn.event(Kind::GuestGone { cause });
        }
        self.life(Step::State(DomainState::Gone(cause)), turn);
    }

    fn restart(&mut self, cause: Cause, turn: &mut Turn<'_>) {
        if self.lifecycle.is_watched() {
            turn.event(Kind::GuestRebooted {
                previous_domid: self.domid,
                cause,
            });
        }
        self.life(Step::Started, turn);
    }

    /// A snapshot may have been loaded while it stood still, of which the trace alone tells: a
    /// device that was off may be armed in it. Not where its watchdog stopped it: that device is off,
    /// and what the guest writes to it is to be no feed. A load that was not seen then leaves the
    /// alarm open until the guest arms its watchdog anew.
    fn resume(&mut self) {
        let by_watchdog = std::mem::take(&mut self.by_watchdog);
        if !by_watchdog && !self.tracing {
            (self.device, self.off_ns) = (Device::unseen(), None);
        }
    }

    fn expire(&mut self, unclear: bool, turn: &mut Turn<'_>) {
        self.turned_off(turn.at.ns, unclear);
        self.expired = true;
        self.life(Step::Expired, turn);
        self.life(Step::Disarmed, turn);
    }

    fn turned_off(&mut self, now: Nanoseconds, unclear: bool) {
        (self.reset_ns, self.noted) = (None, false);
        if unclear {
            (self.device, self.off_ns) = (Device::unseen(), None);
        } else {
            (self.device, self.off_ns) = (Device::off(), Some(now));
        }
    }

    fn reset(&mut self, how: Reset, unclear: bool, turn: &mut Turn<'_>) {
        let now = turn.at.ns;
        let again = how == Reset::Guest
            && self
                .reset_ns
                .is_some_and(|then| now.saturating_sub(then) < SAME_RESET_NS);
        self.turned_off(now, unclear);
        self.reset_ns = Some(now);
        if again {
            return;
        }
        let cause = if self.expired {
            Cause::Watchdog
        } else {
            Cause::Reboot
        };
        self.expired = false;
        if self.is_of_xen() {
            self.ending = Some(cause);
            return;
        }
        self.ending = None;
        self.restart(cause, turn);
    }

    /// What was known before the trace is worth something only if no guest can have booted since:
    /// not within a moment, and not while it stands still.
    fn trace_on(&mut self, now: Nanoseconds) {
        let fresh = self
            .off_ns
            .is_some_and(|then| now.saturating_sub(then) < SOON_NS);
        if !self.device.is_off() || !fresh && !self.by_watchdog {
            self.device = Device::unseen();
        }
        self.tracing = true;
    }

    fn act(&mut self, act: Option<Act>, turn: &mut Turn<'_>) {
        let Some(act) = act else {
            return;
        };
        (self.reset_ns, self.off_ns) = (None, None);
        if self.is_of_xen() {
            // It lives, so whatever ends it next is something else.
            self.ending = None;
        }
        match act {
            Act::Armed => self.life(Step::Armed, turn),
            Act::Disarmed => self.life(Step::Disarmed, turn),
            Act::Fed => {
                self.expired = false;
                if !self.lifecycle.is_armed() {
                    self.life(Step::Armed, turn);
                }
                self.life(Step::Fed(1), turn);
            }
            Act::FedInVain => {
                if self.lifecycle.alarm.is_some() && self.expired && !self.noted {
                    self.noted = true;
                    turn.note(Note::FeedsInVain);
                }
            }
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        if !self.attached && !self.is_gone() {
            self.lifecycle.skip(turn.at.ns);
            return;
        }
        let act = self.device.tick(turn.at.ns);
        self.act(act, turn);
        self.life(Step::Tick, turn);
    }

    /// The host has booted since, and its monotonic clock is `shift` ahead. Its QEMU is to be told
    /// gone.
    pub fn outlive_boot(&mut self, shift: Nanoseconds) {
        self.lifecycle.shift(shift);
        self.process = None;
    }
}

/// One step.
struct Turn<'a> {
    at: Moment,
    rules: &'a Rules,
    out: &'a mut Vec<Outcome>,
}

impl Turn<'_> {
    fn event(&mut self, kind: Kind) {
        self.out.push(Outcome::Event(kind));
    }

    fn note(&mut self, note: Note) {
        self.out.push(Outcome::Note(note));
    }
}
