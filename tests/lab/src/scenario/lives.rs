// SPDX-License-Identifier: GPL-2.0-only
//! The host must live: whatever happens to guests, to dom0's services, or under load.
//!
//! Each scenario acts on a restored host, three times or for a while, and then watches it for four timeouts of its watchdog:
//! the watchdog must not fire, kicks must go on, and the kick path must not have faulted a single page.

use super::figures::Figures;
use super::wedges::Wedge;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::guest::{Guest, TinyGuest};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::Shape;
use crate::machine::agent::Outcome;
use std::time::Duration;
use xenwarden::control::status::GuestWatchdog;
use xenwarden::event::Kind;

/// Four timeouts of the host watchdog.
pub const WATCHED: Duration = Duration::from_secs(20);
/// A guest's timeout and what the toolstack takes under emulation, with room.
const SLOW: Duration = Duration::from_secs(120);
/// How much of the host's time passes between two looks at it: each costs dom0 a command.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long dom0 and the guests are kept busy.
const LOAD_S: u64 = 60;
/// Guests that are created and destroyed in a row.
const MANY: u32 = 20;

/// All scenarios that a host must live through.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "feeder-killed-destroy", what: "a guest that stops feeding expires and is destroyed", run: |lab, phase| survive(lab, phase, expire_and_destroy) },
    Row { name: "feeder-killed-restart", what: "a guest that stops feeding expires and is restarted", run: |lab, phase| survive(lab, phase, expire_and_restart) },
    Row { name: "guest-panics", what: "a guest's kernel panics", run: |lab, phase| survive(lab, phase, panic) },
    Row { name: "guest-paused", what: "a guest is paused until it expires, then unpaused", run: |lab, phase| survive(lab, phase, pause_until_expired) },
    Row { name: "guest-saved", what: "a guest is saved and restored", run: |lab, phase| survive(lab, phase, save_and_restore) },
    Row { name: "guest-reboots", what: "a guest reboots", run: |lab, phase| survive(lab, phase, reboot) },
    Row { name: "guest-destroyed", what: "a guest is destroyed", run: |lab, phase| survive(lab, phase, destroy) },
    Row { name: "many-guests", what: "20 guests are created and destroyed", run: |lab, phase| survive(lab, phase, create_and_destroy_many) },
    Row { name: "crowd", what: "20 guests feed for a minute; what the guard then costs", run: crowd },
    Row { name: "slots-toggled", what: "a guest arms and disarms both slots quickly", run: |lab, phase| survive(lab, phase, toggle_slots) },
    Row { name: "xenstored-killed", what: "xenstored is killed", run: |lab, phase| survive(lab, phase, kill_xenstored) },
    Row { name: "guard-restarted", what: "the guard is stopped and started again", run: |lab, phase| survive(lab, phase, restart_guard) },
    Row { name: "start-on-a-wedge", what: "a guard started on a host that is not served arms nothing", run: start_on_a_wedge },
    Row { name: "monitor-killed", what: "the monitor is stopped, killed, restarted and gone for good", run: |lab, phase| survive(lab, phase, lose_monitor) },
    Row { name: "check", what: "xenwarden check sees the table, the device and the guard, and touches nothing", run: |lab, phase| survive(lab, phase, check) },
    Row { name: "debug-keys", what: "debug keys print all they know", run: |lab, phase| survive(lab, phase, press_keys) },
    Row { name: "load", what: "60 s of full load in dom0 and guests", run: |lab, phase| survive(lab, phase, load) },
    Row { name: "syslog-stalled", what: "the reader of /dev/log is stopped", run: |lab, phase| survive(lab, phase, stall_syslog) },
    Row { name: "var-full", what: "/var is full", run: |lab, phase| survive(lab, phase, fill_var) },
];

/// Acts at `phase` and watches what comes of it.
pub(super) fn survive(
    laboratory: &Laboratory,
    phase: Duration,
    act: impl FnOnce(&mut Host) -> Result<()>,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let outcome = act(&mut host).and_then(|()| host.lives_on(WATCHED));
    let said = host.machine.log.lines_from(0);
    let outcome = outcome.map_err(|error| match host.machine.is_down() {
        true => with_reason(error, laboratory, host),
        false => error,
    });
    Ok(Figures::of(outcome.map(|()| Vec::new()), said))
}

/// The error, where the processors were, and what the next boot says of why the host went down.
fn with_reason(error: Error, laboratory: &Laboratory, mut host: Host) -> Error {
    let places = host.machine.places();
    let places = places.unwrap_or_else(|error| error.to_string());
    let asked = laboratory
        .host_again(host)
        .and_then(|mut host| host.dom0("xenwarden why", PROMPT));
    let why = asked.map_or_else(|error| error.to_string(), |answer| answer.output);
    Error::new(format!(
        "{error}\nthe processors were at:\n{places}\nthe next boot says:\n{why}"
    ))
}

impl Host {
    /// The host must live for `watched` of its own time, and kicks must go on.
    pub fn lives_on(&mut self, watched: Duration) -> Result<()> {
        let before = self.wait_kicking()?;
        self.pass(watched)?;
        let after = self.wait_kicking()?;
        let kicks = after
            .host_watchdog
            .kicks
            .saturating_sub(before.host_watchdog.kicks);
        // Four a second is usual; one in each timeout is what keeps a host alive.
        if kicks < 4 {
            return Err(Error::new(format!("only {kicks} kicks in {watched:?}")));
        }
        let path = after.kick_path;
        match path.minor_faults + path.major_faults {
            0 => Ok(()),
            faults => Err(Error::new(format!("the kick path faulted {faults} pages"))),
        }
    }

    /// Waits until the guard's status shows a guest watchdog as `wanted`.
    fn wait_watchdog(&mut self, what: &str, wanted: impl Fn(&GuestWatchdog) -> bool) -> Result<()> {
        self.wait_watchdogs(what, |all| all.iter().any(&wanted))
    }

    fn wait_watchdogs(
        &mut self,
        what: &str,
        wanted: impl Fn(&[GuestWatchdog]) -> bool,
    ) -> Result<()> {
        let deadline = self.machine.clock()? + SLOW;
        loop {
            let status = self.status()?;
            let seen = status.monitor.unwrap_or_default().guest_watchdogs;
            if wanted(&seen) {
                return Ok(());
            }
            if self.machine.clock()? > deadline {
                return Err(Error::new(format!("{what}: not within {SLOW:?}: {seen:?}")));
            }
            self.pass(LOOK_EVERY)?;
        }
    }

    fn domid(&mut self, name: &str) -> Result<u16> {
        let text = self.dom0_ok(&format!("xl domid {name}"), PROMPT)?;
        let domid = text.trim().parse();
        domid.context(|| format!("xl says that the domid of {name} is {text}"))
    }

    fn wait_gone(&mut self, domid: u16) -> Result<()> {
        self.wait_watchdogs("the domain's watchdogs are gone", |all| {
            all.iter().all(|watchdog| watchdog.domid != domid)
        })
    }

    /// Waits until a guest of this name feeds under another domid than `old`.
    fn wait_restarted(&mut self, name: &str, old: u16) -> Result<()> {
        self.wait_watchdog("the restarted guest feeds", |watchdog| {
            watchdog.domid != old && !watchdog.expired && watchdog.name.as_deref() == Some(name)
        })
    }
}

pub(super) fn stop_feeding(host: &mut Host, name: &str) -> Result<()> {
    host.tell_guest(name, "killall -9 watchdog")
}

fn expire_and_destroy(host: &mut Host) -> Result<()> {
    for name in GUESTS {
        let domid = host.domid(name)?;
        stop_feeding(host, name)?;
        host.wait_gone(domid)?;
    }
    Ok(())
}

fn expire_and_restart(host: &mut Host) -> Result<()> {
    let guest = Guest {
        on_watchdog: "restart",
        ..Guest::named("phoenix")
    };
    host.create(&guest)?;
    let domid = host.domid("phoenix")?;
    stop_feeding(host, "phoenix")?;
    host.wait_restarted("phoenix", domid)
}

fn panic(host: &mut Host) -> Result<()> {
    let domid = host.domid(GUESTS[0])?;
    host.tell_guest(GUESTS[0], "echo c > /proc/sysrq-trigger")?;
    host.wait_gone(domid)
}

fn pause_until_expired(host: &mut Host) -> Result<()> {
    let name = "paused";
    let guest = Guest {
        on_watchdog: "preserve",
        ..Guest::named(name)
    };
    host.create(&guest)?;
    let domid = host.domid(name)?;
    host.dom0_ok(&format!("xl pause {name}"), SLOW)?;
    host.wait_watchdog("the paused guest expires", |watchdog| {
        watchdog.domid == domid && watchdog.expired
    })?;
    host.dom0_ok(&format!("xl unpause {domid}"), SLOW).map(drop)
}

fn save_and_restore(host: &mut Host) -> Result<()> {
    let name = GUESTS[1];
    let domid = host.domid(name)?;
    host.dom0_ok(&format!("xl save {name} /run/{name}.save"), SLOW)?;
    host.wait_gone(domid)?;
    host.dom0_ok(
        &format!("xl restore /run/{name}.save && rm /run/{name}.save"),
        SLOW,
    )?;
    host.wait_restarted(name, domid)
}

fn reboot(host: &mut Host) -> Result<()> {
    let domid = host.domid(GUESTS[0])?;
    host.tell_guest(GUESTS[0], "reboot -f")?;
    host.wait_restarted(GUESTS[0], domid)
}

fn destroy(host: &mut Host) -> Result<()> {
    for name in GUESTS {
        let domid = host.domid(name)?;
        host.dom0_ok(&format!("xl destroy {name}"), SLOW)?;
        host.wait_gone(domid)?;
    }
    Ok(())
}

/// They are destroyed while they boot, or when they have just armed: whatever comes.
fn create_and_destroy_many(host: &mut Host) -> Result<()> {
    for n in 0..MANY {
        let guest = Guest::named(&format!("many{n}"));
        host.start(&guest)?;
        host.dom0_ok(&format!("xl destroy {}", guest.name), SLOW)?;
    }
    let known = GUESTS.len();
    host.wait_watchdogs("all of them are gone", |all| all.len() == known)
}

/// Two ordinary guests and many tiny ones, which feed each second.
fn crowd(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const GUESTS_IN_ALL: usize = 20;
    /// Of the guard, in dom0, all of it locked: the C library is 1.9 MB of it, the record of each domid 0.64 MB.
    const RESIDENT_KIB: u64 = 5 * 1024;
    const MEASURED: Duration = Duration::from_secs(60);
    const SECOND_NS: u64 = 1_000_000_000;
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let few = host.used_while(MEASURED, |host| host.pass(MEASURED))?;
    for n in GUESTS.len()..GUESTS_IN_ALL {
        // The emulated Xen's time and the machine's begin together, to a second.
        let soon = host.machine.clock()? + Duration::from_secs(5);
        host.create_tiny(&TinyGuest {
            name: format!("tiny{n}"),
            arms_at_ns: soon.as_nanos() as u64,
            watchdog_s: 10,
            feeds_each_ns: Some(SECOND_NS),
            toggles_each_ns: None,
        })?;
    }
    host.wait_watchdogs("all of them feed", |all| all.len() == GUESTS_IN_ALL)?;
    let many = host.used_while(MEASURED, |host| host.pass(MEASURED))?;
    let outcome = host.lives_on(WATCHED).and_then(|()| {
        match (few.resident_kib(GUARD), many.resident_kib(GUARD)) {
            (Some(few), Some(many)) if many <= few && many < RESIDENT_KIB => Ok(()),
            (few, many) => Err(Error::new(format!(
                "{GUARD} takes {many:?} KiB; with few guests {few:?}"
            ))),
        }
    });
    Ok(Figures {
        notes: vec![
            format!("{} guests: {few}", GUESTS.len()),
            format!("{GUESTS_IN_ALL} guests: {many}"),
        ],
        failure: outcome.err().map(|error| error.to_string()),
        ..Figures::default()
    })
}

/// As fast as it can, for a while: many a look of the monitor sees it.
fn toggle_slots(host: &mut Host) -> Result<()> {
    const NAME: &str = "toggler";
    const TIMES: u64 = 500;
    host.follow_events()?;
    host.create_tiny(&TinyGuest {
        name: NAME.to_owned(),
        arms_at_ns: 0,
        watchdog_s: 5,
        feeds_each_ns: None,
        toggles_each_ns: Some(1),
    })?;
    // What is left out of the events of a minute is told in the next.
    host.pass(Duration::from_secs(75))?;
    let events = host.events()?;
    let told: u64 = events
        .iter()
        .map(|event| match &event.what {
            Kind::GuestArmed { left_out, .. } | Kind::GuestDisarmed { left_out, .. } => {
                1 + u64::from(*left_out)
            }
            _ => 0,
        })
        .sum();
    if told < TIMES {
        return Err(Error::new(format!(
            "it armed and disarmed only {told} times"
        )));
    }
    host.dom0_ok(&format!("xl destroy {NAME}"), SLOW).map(drop)
}

fn kill_xenstored(host: &mut Host) -> Result<()> {
    host.dom0_ok("killall -9 xenstored", PROMPT).map(drop)
}

/// Three times: each stop disarms, each start arms.
fn restart_guard(host: &mut Host) -> Result<()> {
    for _ in 0..3 {
        host.end_program(GUARD, "-TERM")?;
        host.start_program(GUARD)?;
    }
    Ok(())
}

/// Two busy loops for each of dom0's processors, and one in each guest.
pub(super) fn load(host: &mut Host) -> Result<()> {
    for name in GUESTS {
        host.tell_guest(name, "timeout 60 sh -c \"while :; do :; done\" &")?;
    }
    let busy = format!(
        "for n in 1 2 3 4; do timeout {LOAD_S} sh -c 'while :; do :; done' & done; wait; true"
    );
    host.dom0_ok(&busy, Duration::from_secs(LOAD_S) + 5 * SLOW)
        .map(drop)
}

/// More messages than any socket buffer holds: guests that come and go.
fn stall_syslog(host: &mut Host) -> Result<()> {
    host.dom0_ok("killall -STOP syslogd", PROMPT)?;
    create_and_destroy_many(host)?;
    host.dom0_ok("xenwarden status", PROMPT).map(drop)
}

/// The guard is stopped, a pCPU without dom0 wedges, and the guard is started again.
fn start_on_a_wedge(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    /// sysexits(3): a service is unavailable.
    const UNAVAILABLE: i32 = 69;
    let wedge = Wedge::named("timer-lost-3").context(|| "no such wedge")?;
    let mut host = ready(laboratory, wedge.shape, phase)?;
    host.end_program(GUARD, "-TERM")?;
    host.inject(wedge.fault)?;
    let Outcome { code, output } = host.dom0(&format!("{GUARD} 2>&1"), PROMPT)?;
    let refused = code == UNAVAILABLE && output.contains("not arming");
    let outcome = if refused {
        host.pass(WATCHED).map(|()| vec![output])
    } else {
        Err(Error::new(format!("the guard ended with {code}: {output}")))
    };
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// Without the monitor the guard guards, and its page tells.
fn lose_monitor(host: &mut Host) -> Result<()> {
    host.dom0_ok(&format!("killall -STOP {MONITOR}"), PROMPT)?;
    host.pass(WATCHED)?;
    host.dom0_ok(&format!("killall -CONT {MONITOR}"), PROMPT)?;
    for signal in ["-KILL", "-TERM", "-ABRT"] {
        host.end_program(MONITOR, signal)?;
        host.start_program(MONITOR)?;
    }
    host.end_program(MONITOR, "-KILL")?;
    let status = host.wait_kicking()?;
    match status.monitor {
        None => Ok(()),
        Some(_) => Err(Error::new(
            "the monitor is gone, and status does not say so",
        )),
    }
}

/// Those that print most, and those that take the most locks.
pub(super) fn press_keys(host: &mut Host) -> Result<()> {
    let before = host.status()?.kick_path.withholds;
    for _ in 0..3 {
        host.dom0_ok(
            "for key in q a r e m M t g v i d; do xl debug-keys $key; done",
            SLOW,
        )?;
    }
    match host.status()?.kick_path.withholds - before {
        0 => Ok(()),
        withholds => Err(Error::new(format!(
            "debug keys made the guard withhold {withholds} times"
        ))),
    }
}

fn fill_var(host: &mut Host) -> Result<()> {
    host.dom0_ok(
        "dd if=/dev/zero of=/var/fill bs=64k 2> /dev/null; ! echo x > /var/one-more",
        SLOW,
    )
    .map(drop)
}

/// What must be fine on a host that is as it should be, and be told as wrong where the guard does not run.
fn check(host: &mut Host) -> Result<()> {
    let mut levels = |area: &str| -> Result<Vec<String>> {
        let output = host.dom0("xenwarden check --json", PROMPT)?.output;
        let report: serde_json::Value = serde_json::from_str(&output)
            .context(|| format!("xenwarden check says no JSON: {output}"))?;
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        let of_area = findings.iter().filter(|finding| finding["area"] == area);
        let level = |finding: &serde_json::Value| finding["level"].as_str().map(str::to_owned);
        Ok(of_area.filter_map(level).collect())
    };
    for (area, expected) in [
        ("liveness_table", "fine"),
        ("guard", "fine"),
        ("monitor", "fine"),
        ("nmi_watchdog", "fine"),
    ] {
        let seen = levels(area)?;
        if !seen.iter().any(|level| level == expected) || seen.iter().any(|level| level == "wrong")
        {
            return Err(Error::new(format!("check: {area} is {seen:?}")));
        }
    }
    match levels("host_watchdog")? {
        seen if seen.is_empty() || seen.iter().any(|level| level == "wrong") => {
            Err(Error::new(format!("check: host_watchdog is {seen:?}")))
        }
        _ => Ok(()),
    }
}
