// SPDX-License-Identifier: GPL-2.0-only
//! Faults of the host watchdog's driver, two host watchdogs at once, and others at dom0's slots in Xen.
//!
//! The driver is made slow, or made to refuse, by a call at its beginning, where the kernel keeps room for ftrace's, to code in
//! another function of it that only an arming runs. A device that rounds, and one that ignores the magic close, are drivers made up
//! in tests/watchdog_device.rs; the lab's ib700 rounds as well.

use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::{Shape, Watchdog};
use crate::scenario::Row;
use crate::scenario::dies::{self, patch_dom0};
use crate::scenario::figures::Figures;
use crate::scenario::lives::{WATCHED, survive};
use std::path::Path;
use std::time::Duration;

/// What kicks the device, and what runs at an arming alone (Linux: drivers/watchdog/i6300esb.c).
const KICKS: &str = "esb_timer_keepalive";
const SPARE: &str = "esb_timer_set_heartbeat";
/// Room for a call, and what may stand before it.
const NOPL: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// The spare function's own beginning stays.
const BEHIND_ENTRY: u64 = 16;
/// How often the guard kicks.
const SAMPLE: Duration = Duration::from_millis(250);
/// An instruction takes this long.
const INSTRUCTION_NS: u32 = 8;

/// All rows.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "kick-50-ms", what: "a kick takes 50 ms", run: |lab, phase| survive(lab, phase, |host| slow(host, Duration::from_millis(50))) },
    Row { name: "kick-1-s", what: "a kick takes a second", run: |lab, phase| survive(lab, phase, |host| slow(host, Duration::from_secs(1))) },
    Row { name: "kick-refused", what: "the device refuses about every second kick, which is told", run: |lab, phase| survive(lab, phase, refuse) },
    Row { name: "two-devices", what: "two host watchdogs are armed, and disarmed at the end", run: two },
    Row { name: "xenwatchdogd", what: "xenwatchdogd has one of dom0's slots in Xen, the guard the other", run: beside },
    Row { name: "slots-cleared", what: "another clears both of dom0's slots in Xen, again and again", run: cleared },
];

/// In which the host goes down.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "two-devices-killed", what: "two host watchdogs are armed, and the guard is killed: the quicker one fires", run: |lab, phase| killed(lab, phase, QUICKER, false) },
    Row { name: "two-devices-one-left", what: "likewise, and the quicker one does nothing: the other fires", run: |lab, phase| killed(lab, phase, SLOWER, true) },
];

/// Which of the two fires first.
const QUICKER: Shape = Shape::Ib700;
const SLOWER: Shape = Shape::Apart;

/// A host with an ib700 and an i6300esb that has just booted; the guard kicks both.
fn with_two(laboratory: &Laboratory, phase: Duration) -> Result<Host> {
    let mut host = laboratory.host_booted(QUICKER, "-device i6300esb", "")?;
    host.end_program(GUARD, "-TERM")?;
    // The driver of the first one has /dev/watchdog for itself.
    let both = r#"device = ["identity:IB700 WDT", "identity:i6300ESB timer"]"#;
    let configure = format!(
        "insmod /watchdog/i6300esb/*.ko && sed -i '/host-watchdog/a {both}' /etc/xenwarden/xenwarden.conf"
    );
    host.dom0_ok(&configure, PROMPT)?;
    host.start_program(GUARD)?;
    let status = host.status()?.host_watchdog;
    if status.device != Path::new("/dev/watchdog, /dev/watchdog1") {
        return Err(Error::new(format!("it has armed {status:?}")));
    }
    host.come_to(phase)?;
    Ok(host)
}

fn two(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let mut host = with_two(laboratory, phase)?;
    let mut lives = || {
        host.lives_on(WATCHED)?;
        // And nothing of either is left running.
        host.end_program(GUARD, "-TERM")?;
        host.pass(WATCHED)
    };
    let outcome = lives().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// `fires`: the host whose watchdog must fire, and not before its time.
fn killed(
    laboratory: &Laboratory,
    phase: Duration,
    fires: Shape,
    one_left: bool,
) -> Result<Figures> {
    let mut host = with_two(laboratory, phase)?;
    let Watchdog {
        fires_after,
        at_most,
    } = fires.watchdog();
    let said = host.machine.log.length();
    let killed = host.machine.clock()?;
    // As its files are closed the kernel kicks once more (Linux: drivers/watchdog/watchdog_dev.c, watchdog_release()), which sets off
    // again one that has been disarmed.
    let kill = format!("killall -9 {GUARD}; while pidof {GUARD} > /dev/null; do :; done");
    host.dom0_ok(&kill, PROMPT)?;
    let acted = host.machine.clock()?;
    if one_left {
        // The port that disarms it (QEMU: hw/watchdog/wdt_ib700.c).
        host.machine.write_port(0x441, 0)?;
    }
    // Before the guard is killed it has kicked, at most a sample ago.
    let early_s = (killed + fires_after - SAMPLE).as_secs_f64() - acted.as_secs_f64();
    let figures = dies::fires(&mut host, acted, at_most, said)?;
    let too_early = figures.fired_s.filter(|at| *at < early_s);
    Ok(Figures {
        failure: figures
            .failure
            .or_else(|| too_early.map(|at| format!("fired too early, after {at:.3} s"))),
        ..figures
    })
}

/// Has a kick call `code` first.
fn kick_calls(host: &mut Host, code: &[u8]) -> Result<()> {
    let address = |host: &mut Host, name: &str| -> Result<u64> {
        let line = host.dom0_ok(&format!("grep ' {name}\\b' /proc/kallsyms"), PROMPT)?;
        let digits = line.split_whitespace().next().unwrap_or_default();
        u64::from_str_radix(digits, 16).context(|| format!("no address in {line:?}"))
    };
    let (kicks, spare) = (address(host, KICKS)?, address(host, SPARE)? + BEHIND_ENTRY);
    patch_dom0(host, kicks, |gdb| {
        let entry = gdb.read(kicks, ENDBR64.len() + NOPL.len())?;
        let at = match entry.as_slice() {
            [nopl @ .., _, _, _, _] if *nopl == NOPL => kicks,
            [a, b, c, d, nopl @ ..] if [*a, *b, *c, *d] == ENDBR64 && *nopl == NOPL => kicks + 4,
            _ => return Err(Error::new(format!("{KICKS} begins with {entry:x?}"))),
        };
        gdb.write(spare, code)?;
        let distance = i32::try_from(spare.wrapping_sub(at + 5) as i64);
        let distance = distance.context(|| "too far for a call")?;
        gdb.write(at, &[&[0xe8][..], &distance.to_le_bytes()].concat())
    })
}

fn slow(host: &mut Host, by: Duration) -> Result<()> {
    let turns = u32::try_from(by.as_nanos()).context(|| "too slow")? / (2 * INSTRUCTION_NS);
    // push %rcx; mov $turns,%ecx; 1: dec %ecx; jnz 1b; pop %rcx; ret
    let mut code = vec![0x51, 0xb9];
    code.extend_from_slice(&turns.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xfc, 0x59, 0xc3]);
    kick_calls(host, &code)?;
    host.pass(WATCHED)?;
    let path = host.status()?.kick_path;
    let seen = Duration::from_micros(path.max_kick_us);
    if seen < by {
        return Err(Error::new(format!("the longest kick took {seen:?}")));
    }
    Ok(())
}

/// What a kick's call does to have it refused: add $8,%rsp; mov $-EIO,%eax; ret
const REFUSES: [u8; 10] = [0x48, 0x83, 0xc4, 0x08, 0xb8, 0xfb, 0xff, 0xff, 0xff, 0xc3];

/// From now on the device refuses every kick.
pub fn refuse_all(host: &mut Host) -> Result<()> {
    kick_calls(host, &REFUSES)
}

/// In every second quarter of a second, by the processor's clock of 1 GHz.
fn refuse(host: &mut Host) -> Result<()> {
    // rdtsc; test $1<<28,%eax; jnz 1f; ret; 1:
    let now_and_then = [0x0f, 0x31, 0xa9, 0x00, 0x00, 0x00, 0x10, 0x75, 0x01, 0xc3];
    let code = [&now_and_then[..], &REFUSES].concat();
    let said = host.machine.log.length();
    kick_calls(host, &code)?;
    host.pass(WATCHED)?;
    let refused = host.status()?.kick_path.failed_kicks;
    if refused < 10 {
        return Err(Error::new(format!("it refused {refused} kicks")));
    }
    let told = host.machine.log.lines_from(said);
    match told
        .iter()
        .any(|line| line.contains("the host watchdog refuses kicks"))
    {
        true => Ok(()),
        false => Err(Error::new("nobody said that kicks are refused")),
    }
}

fn with_slot(laboratory: &Laboratory, phase: Duration, other: &str) -> Result<Figures> {
    survive(laboratory, phase, |host| {
        host.reconfigure("[fence]\nxen_slot = true")?;
        host.dom0_ok(other, PROMPT)?;
        host.lives_on(2 * WATCHED)
    })
}

fn beside(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    with_slot(
        laboratory,
        phase,
        "(setsid xenwatchdogd 15 5 < /dev/null > /dev/null 2>&1 &); sleep 1; pidof xenwatchdogd",
    )
}

fn cleared(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    with_slot(
        laboratory,
        phase,
        "(setsid sh -c 'while :; do dom0-slots; sleep 1.3; done' < /dev/null > /dev/null 2>&1 &)",
    )
}
