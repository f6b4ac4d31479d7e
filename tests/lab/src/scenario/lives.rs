// SPDX-License-Identifier: GPL-2.0-only
//! The host must live: whatever happens to guests, to dom0's services, or under load.
//!
//! Each scenario acts on a restored host, three times or for a while, and then watches it for four timeouts of its watchdog:
//! the watchdog must not fire, kicks must go on, and the kick path must not have faulted a single page.

use super::Row;
use super::figures::Figures;
use crate::error::{Context, Error, Result};
use crate::guest::{Guest, TinyGuest};
use crate::host::{Host, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use std::time::Duration;
use xenwarden::control::status::GuestWatchdog;

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
    Row { name: "load", what: "60 s of full load in dom0 and guests", run: |lab, phase| survive(lab, phase, load) },
    Row { name: "syslog-stalled", what: "the reader of /dev/log is stopped", run: |lab, phase| survive(lab, phase, stall_syslog) },
    Row { name: "var-full", what: "/var is full", run: |lab, phase| survive(lab, phase, fill_var) },
];

/// Acts at `phase` and watches what comes of it.
fn survive(
    laboratory: &Laboratory,
    phase: Duration,
    act: fn(&mut Host) -> Result<()>,
) -> Result<Figures> {
    let mut host = laboratory.host()?;
    host.wait_kicking()?;
    host.pass(phase)?;
    let outcome = act(&mut host).and_then(|()| host.lives_on(WATCHED));
    Ok(Figures::of(
        outcome.map(|()| Vec::new()),
        host.machine.log.lines_from(0),
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

    /// Stops the guard by SIGTERM and waits until its process is gone.
    pub fn stop_guard(&mut self) -> Result<()> {
        let gone = "killall xenwardend; n=0; while pidof xenwardend; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done";
        self.dom0_ok(gone, PROMPT).map(drop)
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
            if wanted(&status.guest_watchdogs) {
                return Ok(());
            }
            if self.machine.clock()? > deadline {
                let seen = status.guest_watchdogs;
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
            watchdog.domid != old
                && watchdog.armed
                && !watchdog.fired
                && watchdog.sets > 1
                && watchdog.name.as_deref() == Some(name)
        })
    }
}

fn stop_feeding(host: &mut Host, name: &str) -> Result<()> {
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
        watchdog.domid == domid && watchdog.fired
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
    host.wait_watchdogs("all of them are gone", |all| {
        all.iter().filter(|watchdog| watchdog.armed).count() == known
    })
}

/// Two ordinary guests and many tiny ones, which feed each second.
fn crowd(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const GUESTS_IN_ALL: usize = 20;
    /// Of the guard, in dom0. A leak for each guest or sample would exceed it.
    const RESIDENT_KIB: u64 = 16 * 1024;
    const MEASURED: Duration = Duration::from_secs(60);
    const SECOND_NS: u64 = 1_000_000_000;
    let mut host = laboratory.host()?;
    host.wait_kicking()?;
    host.pass(phase)?;
    let few = host.cost(MEASURED)?;
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
    host.wait_watchdogs("all of them feed", |all| {
        let feeding = |watchdog: &&GuestWatchdog| watchdog.armed && watchdog.sets > 1;
        all.iter().filter(feeding).count() == GUESTS_IN_ALL
    })?;
    let many = host.cost(MEASURED)?;
    let outcome = host
        .lives_on(WATCHED)
        .and_then(|()| match many.resident_kib {
            0..RESIDENT_KIB => Ok(()),
            kib => Err(Error::new(format!("the guard takes {kib} KiB"))),
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

/// What the guard costs dom0.
struct Cost {
    resident_kib: u64,
    ticks: u64,
    over: Duration,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cost {
            resident_kib,
            ticks,
            over,
        } = self;
        // sysconf(_SC_CLK_TCK) is 100 on Linux.
        write!(
            f,
            "{resident_kib} KiB, {} ms of CPU in {} s;",
            ticks * 10,
            over.as_secs()
        )
    }
}

impl Host {
    fn cost(&mut self, over: Duration) -> Result<Cost> {
        let before = self.guard_ticks()?;
        self.pass(over)?;
        let ticks = self.guard_ticks()? - before;
        let resident = self.dom0_ok("grep VmRSS: /proc/$(pidof xenwardend)/status", PROMPT)?;
        let kib = resident
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok());
        Ok(Cost {
            resident_kib: kib.context(|| format!("no resident size in {resident}"))?,
            ticks,
            over,
        })
    }

    /// Clock ticks that the guard has used, in user mode and in the kernel (proc(5): fields 14 and 15 of stat).
    fn guard_ticks(&mut self) -> Result<u64> {
        let stat = self.dom0_ok("cut -d' ' -f14,15 /proc/$(pidof xenwardend)/stat", PROMPT)?;
        let ticks = stat.split_whitespace().map(str::parse::<u64>);
        let ticks: std::result::Result<Vec<u64>, _> = ticks.collect();
        ticks
            .map(|ticks| ticks.iter().sum())
            .context(|| format!("no ticks in {stat}"))
    }
}

/// As fast as it can, for a while: a thousand times at the least.
fn toggle_slots(host: &mut Host) -> Result<()> {
    const NAME: &str = "toggler";
    const TIMES: u32 = 1000;
    host.create_tiny(&TinyGuest {
        name: NAME.to_owned(),
        arms_at_ns: 0,
        watchdog_s: 5,
        feeds_each_ns: None,
        toggles_each_ns: Some(1),
    })?;
    let domid = host.domid(NAME)?;
    host.pass(Duration::from_secs(15))?;
    host.wait_watchdogs("both slots are armed and disarmed all the time", |all| {
        let busy = |watchdog: &&GuestWatchdog| watchdog.domid == domid && watchdog.sets > TIMES;
        all.iter().filter(busy).count() == 2
    })?;
    host.dom0_ok(&format!("xl destroy {NAME}"), SLOW).map(drop)
}

fn kill_xenstored(host: &mut Host) -> Result<()> {
    host.dom0_ok("killall -9 xenstored", PROMPT).map(drop)
}

/// Three times: each stop disarms, each start arms.
fn restart_guard(host: &mut Host) -> Result<()> {
    for _ in 0..3 {
        host.stop_guard()?;
        host.start_guard()?;
        host.wait_kicking()?;
    }
    Ok(())
}

/// Two busy loops for each of dom0's processors, and one in each guest.
fn load(host: &mut Host) -> Result<()> {
    for name in GUESTS {
        host.tell_guest(name, "timeout 60 sh -c \"while :; do :; done\" &")?;
    }
    let busy = format!(
        "for n in 1 2 3 4; do timeout {LOAD_S} sh -c 'while :; do :; done' & done; wait; true"
    );
    host.dom0_ok(&busy, Duration::from_secs(LOAD_S) + 5 * SLOW)
        .map(drop)
}

/// More messages than any socket buffer holds, from the guard itself: it logs each SIGHUP.
fn stall_syslog(host: &mut Host) -> Result<()> {
    host.dom0_ok(
        "killall -STOP syslogd && n=0; while [ $n -lt 300 ]; do killall -HUP xenwardend; n=$((n+1)); done",
        SLOW,
    )?;
    host.dom0_ok("xenwarden status", PROMPT).map(drop)
}

fn fill_var(host: &mut Host) -> Result<()> {
    host.dom0_ok(
        "dd if=/dev/zero of=/var/fill bs=64k 2> /dev/null; ! echo x > /var/one-more",
        SLOW,
    )
    .map(drop)
}
