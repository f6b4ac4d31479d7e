// SPDX-License-Identifier: GPL-2.0-only
//! The host must go down: the guard is killed or stopped, or dom0's kernel hangs.
//!
//! The bound counts from the last kick, which nobody outside sees; it lies before the action, but for the kernel's own last
//! kick when the device is closed without having been disarmed (Linux: `watchdog_release()` in drivers/watchdog/watchdog_dev.c).
//! So counting from the end of the action is fair to the guard by no more than the action itself takes.

use super::figures::Figures;
use super::{Row, ready};
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::gdb::Gdb;
use crate::machine::symbols::Symbols;
use crate::machine::{Shape, Watchdog};
use std::sync::Arc;
use std::time::Duration;

/// How long after the bound a reset is still waited for, so that a late one can be told from none.
const GRACE: Duration = Duration::from_secs(15);

/// What the monitor says while the host lives on without its guard.
pub(super) const SILENCE: &str = "the guard has told nothing for";
/// How often dom0 is looked for in kernel mode.
const ATTEMPTS: u32 = 200;

/// The one that runs at three phases of the timers even where nobody asks for more.
pub const AT_EVERY_PHASE: &str = "guard-killed";

/// All ways to lose the guard.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "guard-killed", what: "the guard is killed", run: |lab, phase| go_down(lab, phase, |host| command(host, "killall -9 xenwardend"), Some(SILENCE)) },
    Row { name: "guard-stopped", what: "the guard is stopped", run: |lab, phase| go_down(lab, phase, |host| command(host, "killall -STOP xenwardend"), Some(SILENCE)) },
    Row { name: "dom0-hangs", what: "dom0's kernel hangs", run: |lab, phase| go_down(lab, phase, hang_dom0, None) },
];

pub(super) fn go_down(
    laboratory: &Laboratory,
    phase: Duration,
    act: impl FnOnce(&mut Host) -> Result<()>,
    says: Option<&str>,
) -> Result<Figures> {
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let Watchdog {
        fires_after,
        at_most,
    } = host.machine.shape().watchdog();
    let said = host.machine.log.length();
    act(&mut host)?;
    let acted = host.machine.clock()?;
    let figures = fires(&mut host, acted, at_most, said)?;
    let unsaid = says.filter(|says| !figures.said.iter().any(|line| line.contains(says)));
    Ok(Figures {
        last_kick_s: figures.fired_s.map(|at| at - fires_after.as_secs_f64()),
        failure: figures
            .failure
            .or_else(|| unsaid.map(|says| format!("nobody said: {says}"))),
        ..figures
    })
}

/// The host watchdog must fire within `at_most` of `acted`; the log is what was said from `said` on.
pub(super) fn fires(
    host: &mut Host,
    acted: Duration,
    at_most: Duration,
    said: usize,
) -> Result<Figures> {
    let fired = host.machine.wait_fired(acted + at_most + GRACE)?;
    let after = |at: Duration| at.as_secs_f64() - acted.as_secs_f64();
    let failure = match fired {
        None => Some("the host watchdog has not fired".to_owned()),
        Some(at) if at > acted + at_most => Some(format!("fired only after {:.3} s", after(at))),
        Some(_) => None,
    };
    Ok(Figures {
        fired_s: fired.map(after),
        bound_s: Some(at_most.as_secs_f64()),
        failure,
        said: host.machine.log.lines_from(said),
        ..Figures::default()
    })
}

fn command(host: &mut Host, command: &str) -> Result<()> {
    host.dom0_ok(command, PROMPT).map(drop)
}

/// dom0's kernel never schedules again: the function that does is made to spin.
fn hang_dom0(host: &mut Host) -> Result<()> {
    // jmp to itself.
    const SPIN: [u8; 2] = [0xeb, 0xfe];
    let line = host.dom0_ok("grep ' T schedule$' /proc/kallsyms", PROMPT)?;
    let address = line.split_whitespace().next().unwrap_or_default();
    let address = u64::from_str_radix(address, 16).context(|| format!("no address in {line:?}"))?;
    patch_dom0(host, address, |gdb| gdb.write(address, &SPIN))
}

/// Changes dom0's kernel, around `address`.
///
/// The debugger sees a domain's kernel only while one of its virtual processors runs in kernel mode; so dom0 is kept busy
/// there, and the attempt is repeated until it is caught.
pub(super) fn patch_dom0(
    host: &mut Host,
    address: u64,
    patch: impl Fn(&mut Gdb) -> Result<()>,
) -> Result<()> {
    for _ in 0..2 {
        host.machine
            .agent
            .send("timeout 20 dd if=/dev/zero of=/dev/null bs=1M")?;
    }
    for _ in 0..ATTEMPTS {
        let symbols = Arc::clone(&host.symbols);
        let mut caught = false;
        host.machine.debug(|gdb| {
            caught = sees_dom0(gdb, &symbols, address)?;
            if caught { patch(gdb) } else { Ok(()) }
        })?;
        if caught {
            return Ok(());
        }
    }
    Err(Error::new("dom0 never runs in kernel mode"))
}

/// Selects one of the processors that has dom0's kernel mapped; says whether there is one.
fn sees_dom0(gdb: &mut Gdb, symbols: &Symbols, address: u64) -> Result<bool> {
    let offsets = symbols.get("__per_cpu_offset")?.address;
    let current = symbols.get("per_cpu__curr_vcpu")?.address;
    let dom0 = symbols.get("hardware_domain")?.address;
    let dom0 = gdb.read_u64(dom0)?;
    for cpu in 0..2 {
        gdb.select(cpu)?;
        let offset = gdb.read_u64(offsets + u64::from(cpu) * 8)?;
        let vcpu = gdb.read_u64(current.wrapping_add(offset))?;
        // Among the first words of struct vcpu is the pointer to its domain.
        let head = gdb.read(vcpu, 128)?;
        let of_dom0 = head.chunks_exact(8).any(|word| word == dom0.to_le_bytes());
        if of_dom0 && gdb.read(address, 2).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
