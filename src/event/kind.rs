// SPDX-License-Identifier: GPL-2.0-only
//! The kinds of events, each with its own fields.

pub use super::terms::{Action, Cause, Closing, Coverage, Gap, Refused, Severity};
use super::{Confidence, NO_DOMAIN, ResetCause, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds, shown as seconds with one decimal.
struct Seconds<'a>(&'a u64);

impl fmt::Display for Seconds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 1_000, self.0 / 100 % 10)
    }
}

kinds! {
    /// A guest armed a watchdog slot.
    Info "guest.armed" GuestArmed {
        /// The slot, from 1.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Arms, disarms and feeds after a disarm of this slot that were left out before it, as
        /// they were more than 20 in a minute.
        #[serde(default)]
        left_out: u32,
    } => format!("armed watchdog {slot}, timeout {timeout_s} s")
    /// A guest fed its watchdog for the first time since it booted.
    Info "guest.first_fed" GuestFirstFed {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Since the domain was first seen; null if it was there before the monitor.
        since_seen_ms: Option<u64>,
    } => {
            let after = since_seen_ms.map(|ms| format!(", {} after its start", Seconds(&ms)));
            format!("fed its watchdog for the first time{}", after.unwrap_or_default())
        }
    /// A guest fed again after a break.
    Info "guest.fed_again" GuestFedAgain {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// Why there was a break.
        after: Gap,
        /// Since the feed before; null where that was another domain's.
        gap_ms: Option<u64>,
        /// As of [`Kind::GuestArmed`].
        #[serde(default)]
        left_out: u32,
    } => {
            let gap = gap_ms.map(|ms| format!(", after {}", Seconds(&ms)));
            format!("feeds its watchdog again: it {after}{}", gap.unwrap_or_default())
        }
    /// A guest fed in the last fifth of its timeout; at most one a minute and slot.
    Warning "guest.late" GuestLate {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// What was left of it, at most.
        margin_ms: u64,
        /// Late feeds since the last such event, this one included.
        count: u32,
    } => {
            let margin = Seconds(margin_ms);
            format!("feeds late: {margin} of {timeout_s} s were left; {count} such feeds")
        }
    /// A guest did not feed in time, and the hypervisor ran its watchdog's handler.
    Error "guest.expired" GuestExpired {
        /// The slot.
        slot: u8,
        /// The guest's timeout.
        timeout_s: u32,
        /// From when the last feed was seen to when the expiry was, but at least the
        /// timeout; the timeout where nobody looked meanwhile.
        unfed_ms: u64,
        /// How often this slot of this domain was seen to have expired.
        expiries: u32,
    } => {
            let again = match expiries {
                0 | 1 => String::new(),
                n => format!(" ({n} times now)"),
            };
            format!("its watchdog expired, unfed for {}{again}", Seconds(unfed_ms))
        }
    /// A guest disarmed a slot.
    Info "guest.disarmed" GuestDisarmed {
        /// The slot.
        slot: u8,
        /// As of [`Kind::GuestArmed`].
        #[serde(default)]
        left_out: u32,
    } => format!("disarmed watchdog {slot}")
    /// A guest's last domain is gone, or is being destroyed.
    Info "guest.gone" GuestGone {
        /// Why.
        cause: Cause,
    } => format!("is gone: {cause}")
    /// A guest is back as another domain.
    Info "guest.rebooted" GuestRebooted {
        /// The domain that it was.
        previous_domid: u16,
        /// Why that one is gone.
        cause: Cause,
    } => match *previous_domid {
            NO_DOMAIN => format!("is back: {cause}"),
            domid => format!("is back; it was domain {domid}: {cause}"),
        }
    /// A guest that had a watchdog did not feed it in time after it was started again.
    Error "guest.boot_failed" GuestBootFailed {
        /// Since it was started again.
        waited_ms: u64,
    } => {
            format!("has not fed its watchdog within {} of being back", Seconds(waited_ms))
        }
    /// A guest's alarm: its watchdog expired.
    Error "alarm.raised" AlarmRaised {
        /// Expiries since the alarm was raised; more than 1 when it expired again.
        expiries: u32,
    } => match expiries {
            0 | 1 => "ALARM: its watchdog expired".to_owned(),
            n => format!("ALARM: its watchdog expired again, {n} times now"),
        }
    /// The guest demonstrably works again.
    Info "alarm.cleared" AlarmCleared {
        /// How long the alarm was open.
        open_ms: u64,
        /// Expiries in that time.
        expiries: u32,
        /// Reboots in that time.
        reboots: u32,
        /// Feeds that it took.
        feeds: u32,
    } => format!(
            "alarm cleared: it feeds its watchdog again; open for {}, {reboots} reboots, {feeds} feeds",
            Seconds(open_ms)
        )
    /// Somebody takes care of it; the alarm stays open.
    Info "alarm.acknowledged" AlarmAcknowledged {
        /// Who, as a user id.
        uid: u32,
    } => format!("alarm acknowledged by user {uid}")
    /// The alarm ended without the guest working again: nobody expects it to.
    Info "alarm.closed" AlarmClosed {
        /// What ended it.
        cause: Closing,
        /// How long the alarm was open.
        open_ms: u64,
    } => format!("alarm closed, {cause}; open for {}", Seconds(open_ms))
    /// The guest is not on this host any more: it cannot feed here, and may work elsewhere.
    Warning "alarm.moved" AlarmMoved {
        /// Why its last domain here is gone.
        cause: Cause,
        /// How long the alarm has been open.
        open_ms: u64,
    } => {
            let open = Seconds(open_ms);
            format!("its alarm is open for {open}, but it is not on this host any more: {cause}")
        }
    /// Kicks are withheld.
    Error "host.withhold" HostWithhold {
        /// What is not serviced, or not known.
        reason: String,
        /// Since the last kick.
        last_kick_age_ms: u64,
        /// Until the host goes down, unless it is served again.
        left_ms: u64,
    } => format!("host: kicks are withheld, {} left: {reason}", Seconds(left_ms))
    /// Kicks go on.
    Warning "host.resumed" HostResumed {
        /// How long the host watchdog was not kicked.
        unkicked_ms: u64,
        /// How close it was: what was left of its timeout.
        left_ms: u64,
    } => {
            let (after, left) = (Seconds(unkicked_ms), Seconds(left_ms));
            format!("host: kicks go on after {after}; {left} were left")
        }
    /// The host watchdog is armed.
    Info "host.armed" HostArmed {
        /// The device.
        device: String,
        /// The driver's name for it.
        identity: String,
        /// Its timeout.
        timeout_ms: u64,
        /// What the evidence covers.
        coverage: Coverage,
        /// How long nothing had guarded the host since an earlier guard disarmed it, in this boot.
        unguarded_ms: Option<u64>,
        /// Since the last kick of an earlier guard, which left it running; null where it did not.
        #[serde(default)]
        ran_on_ms: Option<u64>,
    } => {
            let armed = format!("host: armed {device} ({identity}), timeout {}", Seconds(timeout_ms));
            match (unguarded_ms, ran_on_ms) {
                (Some(ms), _) => format!("{armed}; it was unguarded for {}", Seconds(ms)),
                (None, Some(ms)) => format!("{armed}; it ran on, unkicked for {}", Seconds(ms)),
                (None, None) => armed,
            }
        }
    /// The host watchdog is disarmed.
    Warning "host.disarmed" HostDisarmed {} => "host: the host watchdog is disarmed".to_owned()
    /// The guard ended and left the running host watchdog to the service manager.
    Warning "host.kept" HostKept {
        /// Its timeout until another guard takes it over or the manager disarms it.
        timeout_ms: u64,
    } => {
            let runs = Seconds(timeout_ms);
            format!("host: the guard has ended; another takes the host watchdog over within {runs}, or it is disarmed")
        }
    /// The guard ended as the host shuts down; the host watchdog resets a shutdown that hangs.
    Info "host.shutdown" HostShutdown {
        /// Within so long.
        resets_within_ms: u64,
    } => {
            let within = Seconds(resets_within_ms);
            format!("host: shuts down; its watchdog resets it in {within} if that hangs")
        }
    /// An operator inhibits the guard: it kicks whatever the evidence says.
    Warning "host.inhibited" HostInhibited {
        /// For so long.
        for_ms: u64,
        /// Who ordered it.
        by: String,
        /// Why.
        reason: String,
    } => {
            let span = Seconds(for_ms);
            format!("host: inhibited for {span} by {by}, kicks go on whatever the evidence says: {reason}")
        }
    /// The guard would withhold, and does not, as it is inhibited.
    Warning "host.ignored" HostIgnored {
        /// What is not serviced, or not known.
        reason: String,
    } => format!("host: kicks go on only as the guard is inhibited: {reason}")
    /// Nobody inhibits the guard any more.
    Info "host.inhibit_ended" HostInhibitEnded {
        /// Who ended it before its time; null where its time was over.
        ended_by: Option<String>,
    } => match ended_by {
            Some(by) => format!("host: no longer inhibited: {by} ended it"),
            None => "host: no longer inhibited: its time is over".to_owned(),
        }
    /// The device refuses kicks: told when that begins, and once a minute while it goes on.
    Error "host.kick_refused" HostKickRefused {
        /// What the device says.
        error: String,
        /// Kicks that it has refused since it last took one.
        count: u64,
    } => format!("host: the host watchdog refuses kicks, {count} so far: {error}")
    /// The device takes kicks again.
    Warning "host.kick_taken" HostKickTaken {
        /// Kicks that it had refused.
        refused: u64,
    } => format!("host: the host watchdog takes kicks again; it refused {refused}")
    /// The host watchdog could not be disarmed: it will fire.
    Error "host.disarm_failed" HostDisarmFailed {
        /// What the device says.
        error: String,
        /// The host goes down within this, unless a guard is started; null where it was not given
        /// a longer timeout.
        #[serde(default)]
        within_ms: Option<u64>,
    } => {
            let within = within_ms.map(|ms| format!(" within {}, unless a guard starts", Seconds(&ms)));
            let within = within.unwrap_or_default();
            format!("host: the host watchdog cannot be disarmed and will fire{within}: {error}")
        }
    /// The guard no longer tells what it does: it hangs, was stopped, or is gone.
    Error "host.guard_silent" HostGuardSilent {
        /// Since its last look.
        silent_ms: u64,
    } => {
            let silent = Seconds(silent_ms);
            format!("host: the guard has told nothing for {silent}: it hangs or is gone")
        }
    /// The guard tells again what it does.
    Warning "host.guard_back" HostGuardBack {
        /// How long it had told nothing.
        silent_ms: u64,
    } => format!("host: the guard is back, after {}", Seconds(silent_ms))
    /// Work of the hypervisor is late, and that is excused: a debug key holds it up.
    Info "host.excused" HostExcused {
        /// What is late.
        what: String,
    } => format!("host: {what} is late, which is excused: a debug key holds it up")
    /// A pCPU idles while a runnable vCPU that is placed on it waits.
    Warning "host.starving" HostStarving {
        /// The pCPU.
        cpu: u32,
        /// The domain of the vCPU that waits longest.
        domid: u32,
        /// Its number in that domain.
        vcpu: u32,
        /// How long it has waited, by the hypervisor's count.
        waited_ms: u64,
    } => {
            let waited = Seconds(waited_ms);
            format!("host: pcpu {cpu} idles while vcpu {vcpu} of domain {domid}, which could run, waits, for {waited} now")
        }
    /// It does so no more.
    Info "host.starving_ended" HostStarvingEnded {
        /// The pCPU.
        cpu: u32,
        /// Since that vCPU began to wait.
        starved_ms: u64,
    } => {
            let starved = Seconds(starved_ms);
            format!("host: pcpu {cpu} no longer idles while a vcpu of its own waits; it did so for {starved}")
        }
    /// Why the host went down while its watchdog was armed, told by the next boot.
    Error "host.reset_reason" HostResetReason {
        /// What brought it down, as far as its records tell.
        #[serde(default)]
        cause: ResetCause,
        /// How much they say.
        #[serde(default)]
        confidence: Confidence,
        /// Why, for people.
        reason: String,
        /// When the monitor last wrote down that it ran.
        last_seen: Timestamp,
        /// The last kick that the monitor wrote down; null where none is known.
        #[serde(default)]
        last_kick: Option<Timestamp>,
        /// When dom0's kernel started that came next; null where that is not known.
        #[serde(default)]
        booted: Option<Timestamp>,
        /// For how long dom0 had run when it was last seen; null where that is not known.
        #[serde(default)]
        uptime_ms: Option<u64>,
        /// Whether the device says that it caused the reset; null where it cannot tell.
        watchdog_fired: Option<bool>,
        /// What a panicking kernel or a crash kernel left: a path; null where there is none.
        #[serde(default)]
        record: Option<String>,
    } => {
            let fired = match watchdog_fired {
                Some(true) => "the host watchdog fired",
                Some(false) => "the host watchdog did not fire",
                None => "whether the host watchdog fired is not known",
            };
            format!("host: it went down, last seen {last_seen}: {reason}; {fired}")
        }
    /// The state on disk could not be used; it was kept aside, and the monitor began anew.
    Warning "host.state_set_aside" HostStateSetAside {
        /// The file.
        path: String,
        /// Where it is now; null if even that failed.
        kept_as: Option<String>,
        /// What is wrong with it.
        problem: String,
    } => match kept_as {
            Some(kept) => format!("state {path} is unusable, kept as {kept}: {problem}"),
            None => format!("state {path} is unusable and could not be kept: {problem}"),
        }
    /// A lease is held: it was renewed for the first time, or after it had lapsed or been released.
    Info "lease.held" LeaseHeld {
        /// The lease.
        lease: String,
        /// For how long a renewal is good.
        timeout_ms: u64,
        /// It had lapsed: kicks were withheld for it.
        lapsed: bool,
    } => {
            let after = if *lapsed { " again, after it had lapsed" } else { "" };
            format!("lease {lease}: held{after}, timeout {}", Seconds(timeout_ms))
        }
    /// A lease was not renewed in time: kicks are withheld until it is.
    Error "lease.lapsed" LeaseLapsed {
        /// The lease.
        lease: String,
        /// For how long it is overdue.
        overdue_ms: u64,
        /// It was never renewed, though it is required.
        never: bool,
    } => {
            let what = if *never { "never renewed, though it is required" } else { "not renewed in time" };
            format!("lease {lease}: {what}, overdue for {}: the host goes down unless it is renewed", Seconds(overdue_ms))
        }
    /// A lease was given back, and is no condition of the host's life until it is renewed again.
    Info "lease.released" LeaseReleased {
        /// The lease.
        lease: String,
    } => format!("lease {lease}: released by its client")
    /// Somebody spoke for a lease who may not, or connected to watchdog-mux's socket (watchdog-mux) when it had no lease left; at most one a minute and lease.
    Warning "lease.refused" LeaseRefused {
        /// The lease.
        lease: String,
        /// The last user who did.
        uid: u32,
        /// Datagrams, or connections, that were refused since the last such event.
        count: u64,
    } => match lease.as_str() {
            "watchdog-mux" => format!("{lease}: refused {count} connections, the last of user {uid}: its leases are all held, or nobody's any more"),
            _ => format!("lease {lease}: refused {count} datagrams of other users, the last of user {uid}"),
        }
    /// A heartbeat's first pulse came: from now on its loss is noticed.
    Info "pulse.armed" PulseArmed {
        /// The heartbeat.
        heartbeat: String,
        /// Who was heard.
        peer: String,
        /// Without a pulse for so long it is lost.
        timeout_ms: u64,
    } => format!("heartbeat {heartbeat}: armed by {peer}, timeout {}", Seconds(timeout_ms))
    /// No pulse came in time.
    Error "pulse.lost" PulseLost {
        /// The heartbeat.
        heartbeat: String,
        /// Who was heard last.
        peer: String,
        /// Since the last pulse.
        silent_ms: u64,
        /// Losses of this heartbeat since its program was started, this one included.
        losses: u64,
    } => format!("heartbeat {heartbeat}: {peer} is LOST, silent for {}", Seconds(silent_ms))
    /// Pulses come again after a loss.
    Info "pulse.back" PulseBack {
        /// The heartbeat.
        heartbeat: String,
        /// Who is heard again.
        peer: String,
        /// Since the loss.
        lost_ms: u64,
    } => format!("heartbeat {heartbeat}: {peer} is back, lost for {}", Seconds(lost_ms))
    /// What came does not count as a pulse; at most one a minute for each heartbeat and reason.
    Warning "pulse.refused" PulseRefused {
        /// The heartbeat.
        heartbeat: String,
        /// Who sent it.
        peer: String,
        /// Why it does not count.
        reason: Refused,
        /// How many for that reason since the last such event, this one included.
        count: u64,
    } => format!("heartbeat {heartbeat}: refused {count} pulses of {peer}: {reason}")
    /// Nobody listened for a while, as the program itself was stopped or late: that is not taken for a loss.
    Warning "pulse.own_gap" PulseOwnGap {
        /// The program's name.
        program: String,
        /// For so long.
        missed_ms: u64,
    } => {
            let gap = Seconds(missed_ms);
            format!("heartbeats of {program}: nobody listened for {gap} here; they are armed anew")
        }
    /// Something was done for a loss.
    Info "pulse.acted" PulseActed {
        /// The heartbeat.
        heartbeat: String,
        /// What was done.
        action: Action,
    } => format!("heartbeat {heartbeat}: {action} is done")
    /// What was to be done for a loss was not.
    Error "pulse.act_failed" PulseActFailed {
        /// The heartbeat.
        heartbeat: String,
        /// What was to be done.
        action: Action,
        /// Why it was not.
        problem: String,
    } => format!("heartbeat {heartbeat}: {action} FAILED: {problem}")
    /// A sink was too slow, or failed.
    Warning "sink.dropped" SinkDropped {
        /// Which.
        sink: String,
        /// Events dropped since the last such event.
        count: u64,
        /// Since the monitor started.
        total: u64,
    } => format!("sink {sink} lost {count} events, {total} since the start")
}

/// Whether `wanted` is a kind, or the beginning of one up to its dot (`guest.`).
#[must_use]
pub fn is_known(wanted: &str) -> bool {
    KINDS.iter().any(|kind| matches(wanted, kind))
}

/// Whether `wanted`, a kind or the beginning of one up to its dot, covers `kind`.
#[must_use]
pub fn matches(wanted: &str, kind: &str) -> bool {
    kind == wanted || (wanted.ends_with('.') && kind.starts_with(wanted))
}
