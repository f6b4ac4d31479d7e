// SPDX-License-Identifier: GPL-2.0-only
//! What is done to the hypervisor: pCPUs that go, come and change pools, other schedulers, a slow console. All of it is lawful.
//!
//! Debian's hypervisor has the credit and the credit2 scheduler alone.

use crate::error::{Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use crate::scenario::figures::Figures;
use crate::scenario::lives::WATCHED;
use crate::scenario::{Row, ready};
use std::time::Duration;

/// How long something may take that a slow console holds up.
const SLOW: Duration = Duration::from_secs(600);
/// What goes before a guard that is well has started, and after.
const AWAY: Duration = Duration::from_secs(10);
/// What writes a byte to the console (Xen: drivers/char/ns16550.c).
const PUTC: &str = "ns16550_putc";

/// How it schedules.
const SCHEDULER: &str = "xl info | sed -n 's/^xen_scheduler *: //p'";
const GRANULARITY: &str = "xenhypfs cat /cpupool/0/sched-gran";

/// All rows.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "pcpu-offline", what: "a pCPU is taken offline and online again, three times", run: |lab, phase| lives(lab, phase, Shape::Apart, offline) },
    Row { name: "cpupools", what: "a pCPU is moved between cpupools, with other schedulers", run: |lab, phase| lives(lab, phase, Shape::Apart, move_between_pools) },
    Row { name: "console-slow", what: "debug keys print to a console of 115,200 baud", run: |lab, phase| lives(lab, phase, Shape::Everywhere, slow_console) },
    Row { name: "sched-credit", what: "the hypervisor runs the credit scheduler", run: |lab, _| works(lab.host_booted(Shape::Everywhere, "", " sched=credit")?, SCHEDULER, "credit") },
    Row { name: "sched-core", what: "the hypervisor schedules whole cores", run: |lab, _| works(lab.host_booted(Shape::Apart, "-smp threads=2", " sched-gran=core")?, GRANULARITY, "core") },
];

/// It must live, and not even be withheld.
fn lives(
    laboratory: &Laboratory,
    phase: Duration,
    shape: Shape,
    act: fn(&mut Host) -> Result<()>,
) -> Result<Figures> {
    let mut host = ready(laboratory, shape, phase)?;
    let outcome = unwithheld(&mut host, act);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn unwithheld(host: &mut Host, act: impl FnOnce(&mut Host) -> Result<()>) -> Result<Vec<String>> {
    let before = host.status()?.kick_path.withholds;
    act(host)?;
    host.lives_on(WATCHED)?;
    let path = host.status()?.kick_path;
    match path.withholds - before {
        0 => Ok(vec![format!("max kick gap {} ms", path.max_kick_gap_ms)]),
        times => Err(Error::new(format!("kicks were withheld {times} times"))),
    }
}

/// A host that has just booted with what `ask` must say, under load.
fn works(mut host: Host, ask: &str, is: &str) -> Result<Figures> {
    let outcome = unwithheld(&mut host, |host| {
        let said = host.dom0_ok(ask, PROMPT)?;
        if said.trim() != is {
            return Err(Error::new(format!("it is {said}, not {is}")));
        }
        let busy = "for n in 1 2 3 4; do timeout 20 sh -c 'while :; do :; done' & done; wait; true";
        host.dom0_ok(busy, SLOW).map(drop)
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

fn offline(host: &mut Host) -> Result<()> {
    for _ in 0..3 {
        host.dom0_ok("xen-hptool cpu-offline 3", PROMPT)?;
        host.pass(AWAY)?;
        host.dom0_ok("xen-hptool cpu-online 3", PROMPT)?;
        host.pass(AWAY / 4)?;
    }
    // Away for less than a look.
    host.dom0_ok(
        "xen-hptool cpu-offline 3 && xen-hptool cpu-online 3",
        PROMPT,
    )
    .map(drop)
}

fn move_between_pools(host: &mut Host) -> Result<()> {
    for scheduler in ["credit", "credit2"] {
        let away = format!(
            "xl cpupool-cpu-remove Pool-0 3 && printf 'name=\"other\"\\nsched=\"{scheduler}\"\\ncpus=[\"3\"]\\n' > /run/pool.cfg && xl cpupool-create /run/pool.cfg"
        );
        host.dom0_ok(&away, PROMPT)?;
        host.pass(AWAY / 2)?;
        host.dom0_ok(
            "xl cpupool-destroy other && xl cpupool-cpu-add Pool-0 3",
            PROMPT,
        )?;
    }
    Ok(())
}

/// A byte takes as long as ten bits at that rate, 87 us.
fn slow_console(host: &mut Host) -> Result<()> {
    // Two instructions of 8 ns a turn.
    const TURNS: u32 = 87_000 / 16;
    // mov $0x3f8,%dx; mov %esi,%eax; out %al,(%dx); mov $TURNS,%ecx; 1: dec %ecx; jnz 1b; ret
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0x89, 0xf0, 0xee, 0xb9];
    code.extend_from_slice(&TURNS.to_le_bytes());
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xfc, 0xc3]);
    let putc = host.symbols.get(PUTC)?;
    if code.len() as u64 > putc.size {
        return Err(Error::new(format!("{PUTC} is too short")));
    }
    host.machine.debug(|gdb| gdb.write(putc.address, &code))?;
    host.dom0_ok(
        "for key in q a r e m M t g v i d; do xl debug-keys $key; done",
        SLOW,
    )
    .map(drop)
}
