// SPDX-License-Identifier: GPL-2.0-only
//! Faults of the host watchdog's driver, and others at dom0's slots in Xen.
//!
//! The driver is made slow, or made to refuse, by a call at its beginning, where the kernel keeps room for ftrace's, to code in
//! another function of it that only an arming runs. A device that rounds, and one that ignores the magic close, are drivers made up
//! in tests/watchdog_device.rs; the lab's ib700 rounds as well.

use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::scenario::Row;
use crate::scenario::dies::patch_dom0;
use crate::scenario::figures::Figures;
use crate::scenario::lives::{WATCHED, survive};
use std::time::Duration;

/// What kicks the device, and what runs at an arming alone (Linux: drivers/watchdog/i6300esb.c).
const KICKS: &str = "esb_timer_keepalive";
const SPARE: &str = "esb_timer_set_heartbeat";
/// Room for a call, and what may stand before it.
const NOPL: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// The spare function's own beginning stays.
const BEHIND_ENTRY: u64 = 16;
/// An instruction takes this long.
const INSTRUCTION_NS: u32 = 8;

/// All rows.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "kick-50-ms", what: "a kick takes 50 ms", run: |lab, phase| survive(lab, phase, |host| slow(host, Duration::from_millis(50))) },
    Row { name: "kick-1-s", what: "a kick takes a second", run: |lab, phase| survive(lab, phase, |host| slow(host, Duration::from_secs(1))) },
    Row { name: "kick-refused", what: "the device refuses about every second kick, which is told", run: |lab, phase| survive(lab, phase, refuse) },
    Row { name: "xenwatchdogd", what: "xenwatchdogd has one of dom0's slots in Xen, the guard the other", run: beside },
    Row { name: "slots-cleared", what: "another clears both of dom0's slots in Xen, again and again", run: cleared },
];

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

/// In every second quarter of a second, by the processor's clock of 1 GHz.
fn refuse(host: &mut Host) -> Result<()> {
    // rdtsc; test $1<<28,%eax; jnz 1f; ret; 1: add $8,%rsp; mov $-EIO,%eax; ret
    let code = [
        0x0f, 0x31, 0xa9, 0x00, 0x00, 0x00, 0x10, 0x75, 0x01, 0xc3, 0x48, 0x83, 0xc4, 0x08, 0xb8,
        0xfb, 0xff, 0xff, 0xff, 0xc3,
    ];
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
