// SPDX-License-Identifier: GPL-2.0-only
//! What is told of guests: events, and alarms that clear only when the guest feeds again.
//!
//! A row restores a host, has a subscriber write down all events from the beginning, does something to a guest, and compares the
//! guest's whole story with what it must be: nothing lost, nothing twice, in order.

use super::figures::Figures;
use super::lives::WATCHED;
use super::wedges::Wedge;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::guest::{Guest, TinyGuest};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use std::time::Duration;
use xenwarden::event::{Cause, Event, Kind};
use xenwarden::guests::report::{AlarmPhase, GuestReport, GuestsReport};

/// Where the subscriber writes in dom0.
const EVENTS: &str = "/run/events.jsonl";
/// How long something may take that boots, saves or destroys guests.
const SLOW: Duration = Duration::from_secs(600);
/// How much of the host's time passes between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Guests that expire at once.
const MANY: usize = 50;
/// The guest that most rows are about.
const NAME: &str = "phoenix";
const UUID: &str = "7e000000-0000-4000-8000-00000000f1fe";

/// All rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "boot-fails", what: "a reboot does not clear an alarm, the first feed does", run: |lab, phase| told(lab, phase, |host| boot_fails(host, nothing, false)) },
    Row { name: "guard-restarted", what: "the same over restarts of the guard", run: |lab, phase| told(lab, phase, |host| boot_fails(host, |host| again(host, GUARD, "-TERM"), false)) },
    Row { name: "monitor-restarted", what: "the same over restarts of the monitor", run: |lab, phase| told(lab, phase, |host| boot_fails(host, |host| again(host, MONITOR, "-TERM"), false)) },
    Row { name: "monitor-killed", what: "the same over a kill of the monitor at each step", run: |lab, phase| told(lab, phase, |host| boot_fails(host, |host| again(host, MONITOR, "-KILL"), true)) },
    Row { name: "moved", what: "the alarm of a guest that migrates away is no longer this host's", run: |lab, phase| told(lab, phase, moved) },
    Row { name: "host-reset", what: "the same over a reset of the host, which says why", run: host_reset },
    Row { name: "paused", what: "a paused guest is a state, no missed feed", run: |lab, phase| told(lab, phase, paused) },
    Row { name: "saved", what: "a saved and restored guest feeds again, and raises nothing", run: |lab, phase| told(lab, phase, saved) },
    Row { name: "destroyed", what: "an alarm of a guest that an operator destroys is closed, not cleared", run: |lab, phase| told(lab, phase, destroyed) },
    Row { name: "many", what: "50 guests expire within a second, and no event is lost", run: |lab, phase| told(lab, phase, many) },
];

/// Restores a host, acts, and has it live on. What `act` returns is shown.
fn told(
    laboratory: &Laboratory,
    phase: Duration,
    act: fn(&mut Host) -> Result<Vec<String>>,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.follow_events()?;
    let outcome = act(&mut host).and_then(|mut notes| {
        host.lives_on(WATCHED)?;
        let path = host.status()?.kick_path;
        notes.push(format!("max kick gap {} ms", path.max_kick_gap_ms));
        Ok(notes)
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

impl Host {
    /// Has a subscriber write down all events that are kept, and all to come.
    pub fn follow_events(&mut self) -> Result<()> {
        let follow = format!(
            "(setsid xenwarden events --follow --since 0 --json < /dev/null > {EVENTS} 2> /run/events.err &)"
        );
        self.dom0_ok(&follow, PROMPT).map(drop)
    }

    /// Waits until `count` events were written down whose line matches `pattern`.
    pub fn wait_events(&mut self, pattern: &str, count: usize, limit: Duration) -> Result<()> {
        let deadline = self.machine.clock()? + limit;
        loop {
            // grep's exit code 1 is a count of 0.
            let seen = self.dom0_ok(&format!("grep -c '{pattern}' {EVENTS} || true"), SLOW)?;
            if seen.trim().parse::<usize>().is_ok_and(|seen| seen >= count) {
                return Ok(());
            }
            if self.machine.clock()? > deadline {
                let all =
                    self.dom0_ok(&format!("tail -n 20 {EVENTS}; cat /run/events.err"), SLOW)?;
                return Err(Error::new(format!(
                    "{} of {count} events {pattern} within {limit:?}; the last are\n{all}",
                    seen.trim()
                )));
            }
            self.pass(LOOK_EVERY)?;
        }
    }

    /// All events that were written down; each must be valid by the project's schema.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let text = self.dom0_ok(&format!("cat {EVENTS}"), SLOW)?;
        text.lines().map(parse).collect()
    }

    fn guests_report(&mut self) -> Result<GuestsReport> {
        // The exit code tells of alarms: 1 is an answer, too.
        let text = self.dom0("xenwarden guests --json", PROMPT)?.output;
        serde_json::from_str(&text).context(|| format!("cannot read the guests: {text}"))
    }

    fn guest_report(&mut self, name: &str) -> Result<GuestReport> {
        let report = self.guests_report()?;
        let found = report
            .guests
            .iter()
            .find(|guest| guest.name.as_deref() == Some(name))
            .cloned();
        found.context(|| format!("no guest {name} among {report:?}"))
    }
}

fn parse(line: &str) -> Result<Event> {
    let value: serde_json::Value =
        serde_json::from_str(line).context(|| format!("no JSON: {line}"))?;
    super::schema::check(&value)?;
    serde_json::from_value(value).context(|| format!("no event: {line}"))
}

fn of_kind(name: &str, kind: &str) -> String {
    format!("\"name\":\"{name}\".*\"kind\":\"{kind}\"")
}

/// A guest's story: its events, but for late feeds, which depend on how busy the host is. A guest is its UUID: what the monitor told of it
/// before it had read its name belongs to it as well.
fn story<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    let guests = || events.iter().filter_map(|event| event.guest.as_ref());
    let uuids: Vec<_> = guests()
        .filter(|guest| guest.name.as_deref() == Some(name))
        .map(|guest| guest.uuid)
        .collect();
    let of_guest = |event: &&Event| {
        let guest = event.guest.as_ref();
        guest.is_some_and(|guest| uuids.contains(&guest.uuid))
    };
    events
        .iter()
        .filter(of_guest)
        .filter(|event| event.what.kind() != "guest.late")
        .collect()
}

/// The guests' events, without what was told once more: a guard that is killed before it has saved what it told tells the very same
/// again.
fn without_repeats(mut events: Vec<Event>) -> Vec<Event> {
    events.retain(|event| event.guest.is_some());
    events.dedup_by(|again, before| again.guest == before.guest && again.what == before.what);
    events
}

fn expect_story(events: &[Event], name: &str, expected: &[&str]) -> Result<()> {
    let kinds: Vec<&str> = story(events, name)
        .iter()
        .map(|event| event.what.kind())
        .collect();
    if kinds == expected {
        return Ok(());
    }
    let told: Vec<String> = story(events, name)
        .iter()
        .filter_map(|event| serde_json::to_string(event).ok())
        .collect();
    Err(Error::new(format!(
        "the story of {name} is {kinds:?}, and not {expected:?}:\n{}",
        told.join("\n")
    )))
}

fn phoenix() -> Guest {
    Guest {
        on_watchdog: "restart",
        ramdisk: "/run/image",
        uuid: Some(UUID),
        ..Guest::named(NAME)
    }
}

/// From now on the guest boots this way.
fn use_image(host: &mut Host, works: bool) -> Result<()> {
    let command = match works {
        true => "ln -sf /guest/initramfs /run/image",
        false => {
            "cat /guest/initramfs /guest/broken > /run/broken && ln -sf /run/broken /run/image"
        }
    };
    host.dom0_ok(command, PROMPT).map(drop)
}

fn nothing(_: &mut Host) -> Result<()> {
    Ok(())
}

/// Ends a program by a signal and starts it again.
fn again(host: &mut Host, program: &str, signal: &str) -> Result<()> {
    host.end_program(program, signal)?;
    host.start_program(program)
}

/// A guest that feeds, and then no more; started again it comes up without its watchdog.
fn feeds_then_hangs(host: &mut Host) -> Result<()> {
    use_image(host, true)?;
    host.create(&phoenix())?;
    host.wait_events(&of_kind(NAME, "guest.first_fed"), 1, SLOW)?;
    use_image(host, false)?;
    host.tell_guest(NAME, "killall -9 watchdog")
}

/// A guest that expires, comes up without its watchdog, and at last with it.
fn boot_fails(
    host: &mut Host,
    interrupt: fn(&mut Host) -> Result<()>,
    killed: bool,
) -> Result<Vec<String>> {
    feeds_then_hangs(host)?;
    host.wait_events(&of_kind(NAME, "alarm.raised"), 1, SLOW)?;
    interrupt(host)?;
    host.wait_events(&of_kind(NAME, "guest.rebooted"), 1, SLOW)?;
    interrupt(host)?;
    host.wait_events(&of_kind(NAME, "guest.boot_failed"), 1, SLOW)?;
    interrupt(host)?;
    let alarm = host.guest_report(NAME)?.alarm;
    if alarm.as_ref().map(|alarm| alarm.phase) != Some(AlarmPhase::BootFailed) {
        return Err(Error::new(format!(
            "after a boot that failed the alarm is {alarm:?}"
        )));
    }
    use_image(host, true)?;
    host.tell_guest(NAME, "reboot -f")?;
    host.wait_events(&of_kind(NAME, "alarm.cleared"), 1, SLOW)?;
    host.pass(WATCHED)?;
    let events = host.events()?;
    let events = if killed {
        without_repeats(events)
    } else {
        events
    };
    let expected = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
        "guest.boot_failed",
        "guest.gone",
        "guest.rebooted",
        "guest.armed",
        "guest.first_fed",
        "alarm.cleared",
    ];
    expect_story(&events, NAME, &expected)?;
    let causes: Vec<Cause> = story(&events, NAME)
        .iter()
        .filter_map(|event| match event.what {
            Kind::GuestGone { cause } => Some(cause),
            _ => None,
        })
        .collect();
    if causes != [Cause::Watchdog, Cause::Reboot] {
        return Err(Error::new(format!("the guest was gone for {causes:?}")));
    }
    if host.guest_report(NAME)?.alarm.is_some() {
        return Err(Error::new("the alarm was cleared and is still shown"));
    }
    let cleared = story(&events, NAME)
        .into_iter()
        .find_map(|event| match event.what {
            Kind::AlarmCleared {
                open_ms, reboots, ..
            } => Some(format!("alarm open for {open_ms} ms, {reboots} reboots")),
            _ => None,
        });
    Ok(cleared.into_iter().collect())
}

/// A guest with an open alarm is saved, which is how its migration away begins, and only then comes back.
fn moved(host: &mut Host) -> Result<Vec<String>> {
    feeds_then_hangs(host)?;
    host.wait_events(&of_kind(NAME, "guest.rebooted"), 1, SLOW)?;
    host.wait_events(&of_kind(NAME, "guest.boot_failed"), 1, SLOW)?;
    host.dom0_ok(&format!("xl save {NAME} /run/{NAME}.save"), SLOW)?;
    host.wait_events(&of_kind(NAME, "alarm.moved"), 1, SLOW)?;
    let alarm = host.guest_report(NAME)?.alarm.map(|alarm| alarm.phase);
    if alarm != Some(AlarmPhase::Moved) {
        return Err(Error::new(format!("after it moved its alarm is {alarm:?}")));
    }
    // The exit code counts open alarms only.
    host.dom0_ok("xenwarden guests", PROMPT)?;
    host.dom0_ok(
        &format!("xl restore /run/{NAME}.save && rm /run/{NAME}.save"),
        SLOW,
    )?;
    use_image(host, true)?;
    host.tell_guest(NAME, "reboot -f")?;
    host.wait_events(&of_kind(NAME, "alarm.cleared"), 1, SLOW)?;
    let events = host.events()?;
    let alarms = story(&events, NAME)
        .into_iter()
        .map(|event| event.what.kind());
    let alarms: Vec<&str> = alarms.filter(|kind| kind.starts_with("alarm.")).collect();
    match alarms[..] {
        ["alarm.raised", "alarm.moved", "alarm.cleared"] => Ok(Vec::new()),
        _ => Err(Error::new(format!("its alarms are {alarms:?}"))),
    }
}

/// An alarm is raised, a wedge brings the host down, the next boot says why and still has the alarm, and the guest clears it.
fn host_reset(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let wedge = Wedge::named("guest-handler-lost").context(|| "no such wedge")?;
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    host.follow_events()?;
    let guest = Guest {
        on_watchdog: "destroy",
        ..phoenix()
    };
    use_image(&mut host, true)?;
    host.create(&guest)?;
    host.wait_events(&of_kind(NAME, "guest.first_fed"), 1, SLOW)?;
    host.tell_guest(NAME, "killall -9 watchdog")?;
    host.wait_events(&of_kind(NAME, "guest.gone"), 1, SLOW)?;
    let mut figures = super::wedged::strike(&mut host, wedge, GUESTS[0])?;
    if figures.failure.is_some() {
        return Ok(figures);
    }
    let mut host = laboratory.host_again(host)?;
    let outcome = after_reset(&mut host, &guest);
    figures.said.extend(host.machine.log.lines_from(0));
    match outcome {
        Ok(notes) => figures.notes = notes,
        Err(error) => figures.failure = Some(error.to_string()),
    }
    Ok(figures)
}

fn after_reset(host: &mut Host, guest: &Guest) -> Result<Vec<String>> {
    host.follow_events()?;
    host.wait_events("host.reset_reason", 1, SLOW)?;
    let kept = host.guest_report(NAME)?.alarm;
    if kept.is_none() {
        return Err(Error::new("the alarm did not outlive the reset"));
    }
    use_image(host, true)?;
    host.create(guest)?;
    host.wait_events(&of_kind(NAME, "alarm.cleared"), 1, SLOW)?;
    host.pass(WATCHED)?;
    let events = host.events()?;
    expect_story(
        &events,
        NAME,
        &[
            "guest.rebooted",
            "guest.armed",
            "guest.first_fed",
            "alarm.cleared",
        ],
    )?;
    let reasons: Vec<&String> = events
        .iter()
        .filter_map(|event| match &event.what {
            Kind::HostResetReason { reason, .. } => Some(reason),
            _ => None,
        })
        .collect();
    match reasons.as_slice() {
        [reason] if reason.contains("guest watchdog of domain") => {
            Ok(vec![format!("reset_reason \"{reason}\"")])
        }
        _ => Err(Error::new(format!("the next boot says {reasons:?}"))),
    }
}

/// For less than its timeout: then it feeds on as if nothing had been.
fn paused(host: &mut Host) -> Result<Vec<String>> {
    let name = GUESTS[0];
    host.dom0_ok(&format!("xl pause {name}"), SLOW)?;
    host.pass(Duration::from_secs(3))?;
    let state = host.guest_report(name)?.state;
    host.dom0_ok(&format!("xl unpause {name}"), SLOW)?;
    host.wait_events(&of_kind(name, "guest.fed_again"), 1, SLOW)?;
    expect_story(
        &host.events()?,
        name,
        &["guest.armed", "guest.first_fed", "guest.fed_again"],
    )?;
    match state {
        xenwarden::guests::report::DomainState::Paused => Ok(Vec::new()),
        other => Err(Error::new(format!("a paused guest is shown as {other:?}"))),
    }
}

fn saved(host: &mut Host) -> Result<Vec<String>> {
    let name = GUESTS[1];
    host.dom0_ok(&format!("xl save {name} /run/{name}.save"), SLOW)?;
    host.wait_events(&of_kind(name, "guest.gone"), 1, SLOW)?;
    host.dom0_ok(
        &format!("xl restore /run/{name}.save && rm /run/{name}.save"),
        SLOW,
    )?;
    host.wait_events(&of_kind(name, "guest.fed_again"), 1, SLOW)?;
    host.pass(WATCHED)?;
    let events = host.events()?;
    let kinds: Vec<&str> = story(&events, name)
        .iter()
        .map(|event| event.what.kind())
        .collect();
    let wrong = [
        "guest.expired",
        "guest.rebooted",
        "guest.boot_failed",
        "alarm.raised",
    ];
    match kinds.iter().any(|kind| wrong.contains(kind)) {
        false => Ok(Vec::new()),
        true => Err(Error::new(format!(
            "the story of a saved and restored guest is {kinds:?}"
        ))),
    }
}

fn destroyed(host: &mut Host) -> Result<Vec<String>> {
    feeds_then_hangs(host)?;
    host.wait_events(&of_kind(NAME, "guest.rebooted"), 1, SLOW)?;
    host.dom0_ok(&format!("xenwarden ack {NAME}"), PROMPT)?;
    host.wait_guest_says(NAME, "guest: up", SLOW)?;
    host.dom0_ok(&format!("xl destroy {NAME}"), SLOW)?;
    host.wait_events(&of_kind(NAME, "alarm.closed"), 1, SLOW)?;
    let expected = [
        "guest.armed",
        "guest.first_fed",
        "guest.expired",
        "alarm.raised",
        "guest.gone",
        "guest.rebooted",
        "alarm.acknowledged",
        "guest.gone",
        "alarm.closed",
    ];
    let events = host.events()?;
    let sorted = story(&events, NAME)
        .iter()
        .any(|event| event.what.kind() == "alarm.cleared");
    if sorted {
        return Err(Error::new("an alarm was cleared without a feed"));
    }
    expect_story(&events, NAME, &expected).map(|()| Vec::new())
}

/// Tiny guests that arm at the same moment, and never feed.
fn many(host: &mut Host) -> Result<Vec<String>> {
    const TO_CREATE_ALL: Duration = Duration::from_secs(400);
    let arms_at = host.machine.clock()? + TO_CREATE_ALL;
    for n in 0..MANY {
        host.create_tiny(&TinyGuest {
            name: format!("tiny{n:02}"),
            arms_at_ns: arms_at.as_nanos() as u64,
            watchdog_s: 3,
            feeds_each_ns: None,
            toggles_each_ns: None,
        })?;
    }
    if host.machine.clock()? > arms_at {
        return Err(Error::new(format!(
            "creating {MANY} guests took longer than {TO_CREATE_ALL:?}"
        )));
    }
    let left = arms_at.saturating_sub(host.machine.clock()?);
    host.pass(left)?;
    host.wait_events(&of_kind("tiny..", "alarm.raised"), MANY, SLOW)?;
    host.wait_events(&of_kind("tiny..", "guest.gone"), MANY, SLOW)?;
    let events = host.events()?;
    for n in 0..MANY {
        let name = format!("tiny{n:02}");
        expect_story(
            &events,
            &name,
            &["guest.armed", "guest.expired", "alarm.raised", "guest.gone"],
        )?;
    }
    let expiries = events
        .iter()
        .filter(|event| matches!(event.what, Kind::GuestExpired { .. }));
    let times: Vec<u64> = expiries.map(|event| event.monotonic_ns).collect();
    let spread_ms = times
        .iter()
        .max()
        .zip(times.iter().min())
        .map(|(last, first)| (last - first) / 1_000_000);
    match spread_ms {
        Some(ms @ 0..1000) => Ok(vec![format!("{} expiries within {ms} ms", times.len())]),
        other => Err(Error::new(format!(
            "the guests expired within {other:?} ms, not within a second"
        ))),
    }
}
