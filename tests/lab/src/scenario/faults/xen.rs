// SPDX-License-Identifier: GPL-2.0-only
//! What is done to the hypervisor: pCPUs that go, come and change pools, other schedulers, a slow console. All of it is lawful.
//!
//! Debian's hypervisor has the credit and the credit2 scheduler alone; for the others the laboratory builds one more.

use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::{Laboratory, PARTIAL};
use crate::machine::Shape;
use crate::machine::agent::Outcome;
use crate::scenario::dies::go_down;
use crate::scenario::figures::Figures;
use crate::scenario::lives::WATCHED;
use crate::scenario::wedged::strike;
use crate::scenario::wedges::Wedge;
use crate::scenario::{Row, ready};
use serde_json::json;
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
    Row { name: "sched-null", what: "the hypervisor runs the null scheduler", run: |lab, _| works(lab.host_booted(Shape::Extended, "", " sched=null")?, SCHEDULER, "null") },
    Row { name: "sched-rtds", what: "the hypervisor runs the RTDS scheduler", run: |lab, _| works(lab.host_booted(Shape::Extended, "", " sched=rtds")?, SCHEDULER, "rtds") },
    Row { name: "sched-core", what: "the hypervisor schedules whole cores", run: |lab, _| works(lab.host_booted(Shape::Apart, "-smp threads=2", " sched-gran=core")?, GRANULARITY, "core") },
    Row { name: "live-patch", what: "a live patch is applied to the hypervisor and reverted, under load", run: live_patch },
    Row { name: "microcode", what: "all pCPUs meet for a microcode, which they do not take", run: microcode },
    Row { name: "suspended", what: "the host sleeps (S3) and is woken, three times", run: |lab, phase| lives(lab, phase, Shape::Everywhere, sleep) },
    Row { name: "no-table", what: "the hypervisor has no memory for its table: the guard says so, and can go by probes", run: no_table },
];

/// In which the host goes down.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "sched-null-lost", what: "the null scheduler stops on a pCPU without dom0", run: |lab, phase| stops(lab, phase, " sched=null") },
    Row { name: "stock-running", what: "without patches: a pCPU schedules nothing, and dom0's vCPU that is there runs on", run: stops_under_vcpu },
    Row { name: "suspended-killed", what: "the host sleeps (S3), and when it was woken its guard is killed", run: |lab, phase| go_down(lab, phase, sleep_and_lose_guard, None) },
    Row { name: "sched-rtds-lost", what: "the RTDS scheduler stops on a pCPU without dom0", run: |lab, phase| stops(lab, phase, " sched=rtds") },
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
        host.says(ask, is)?;
        let busy = "for n in 1 2 3 4; do timeout 20 sh -c 'while :; do :; done' & done; wait; true";
        host.dom0_ok(busy, SLOW).map(drop)
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// A wedge that leaves dom0 alone, on a host that has just booted: as on any other, it goes down in time, and why is said.
fn stops(laboratory: &Laboratory, phase: Duration, scheduler: &'static str) -> Result<Figures> {
    let wedge = Wedge::named("sched-lost-2").context(|| "no such wedge")?;
    let mut host = laboratory.host_booted(Shape::Extended, "", scheduler)?;
    host.come_to(phase)?;
    // There are no guests, and it needs none.
    strike(&mut host, wedge, "")
}

/// A pCPU schedules nothing any more, so that the vCPU which it runs just then stays there, and lives: it cannot be sent elsewhere.
fn stops_under_vcpu(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    let wedge = Wedge::named("sched-lost-1").and_then(Wedge::on_stock);
    let wedge = wedge.context(|| "no such wedge")?;
    let mut host = ready(laboratory, wedge.shape, phase)?;
    let stays = "xl vcpu-pin Domain-0 0 0 && xl vcpu-pin Domain-0 1 1 && \
        { taskset -c 1 sh -c 'while :; do :; done' > /dev/null 2>&1 & }";
    host.dom0_ok(stays, PROMPT)?;
    host.pass(AWAY / 4)?;
    strike(&mut host, &wedge, "")
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

/// Xen's own, for its tests, replaces what is its version's end.
fn live_patch(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const FILE: &str = "/run/hello.livepatch";
    const VERSION: &str = "xl info | sed -n 's/^xen_extra *: //p'";
    let patch = laboratory.live_patch(Shape::Extended)?;
    let mut host = laboratory.host_booted(Shape::Extended, "", "")?;
    host.come_to(phase)?;
    let outcome = unwithheld(&mut host, |host| {
        let before = host.dom0_ok(VERSION, PROMPT)?;
        host.write_file(FILE, &patch)?;
        let busy =
            "for n in 1 2; do timeout 60 sh -c 'while :; do :; done' > /dev/null 2>&1 & done";
        host.dom0_ok(busy, PROMPT)?;
        for _ in 0..3 {
            host.dom0_ok(&format!("xen-livepatch upload hello {FILE}"), SLOW)?;
            host.dom0_ok("xen-livepatch apply hello", SLOW)?;
            host.says(VERSION, "Hello World")?;
            host.dom0_ok("xen-livepatch revert hello", SLOW)?;
            host.says(VERSION, before.trim())?;
            host.dom0_ok("xen-livepatch unload hello", SLOW)?;
        }
        Ok(())
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// One for this processor that is made up (Xen: arch/x86/cpu/microcode/amd.c): the pCPUs stop whatever they do and meet in an NMI, the
/// first one loads it, and its revision stays as it was.
fn microcode(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    /// Family, model and stepping of QEMU's EPYC.
    const SIGNATURE: u32 = 0x0080_0f12;
    const EQUIVALENT: u32 = 0x8012;
    const REVISION: u32 = 0x0800_ffff;
    // The container, the table of processors with its end, and a microcode: a header of 64 bytes, and no more.
    let mut words = vec![
        0x0041_4d44,
        0,
        32,
        SIGNATURE,
        0,
        0,
        EQUIVALENT,
        0,
        0,
        0,
        0,
        1,
        64,
    ];
    words.extend([0x0101_2026, REVISION, 0, 0, 0, 0, EQUIVALENT, 0]);
    words.extend([0; 8]);
    let blob: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    // It is on no list of those that are known.
    let mut host = laboratory.host_booted(Shape::Apart, "", " ucode=no-digest-check")?;
    host.come_to(phase)?;
    let outcome = unwithheld(&mut host, |host| {
        host.write_file("/run/microcode", &blob)?;
        for _ in 0..3 {
            host.dom0("xen-ucode /run/microcode", PROMPT)?;
        }
        let met = "Late loading aborted: CPU0 failed to update ucode";
        match host.machine.console().matches(met).count() {
            3 => Ok(()),
            times => Err(Error::new(format!("the pCPUs met {times} times"))),
        }
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// It sleeps three times, until these years.
fn sleep(host: &mut Host) -> Result<()> {
    for year in [50, 51, 52] {
        sleep_until(host, year)?;
        host.lives_on(WATCHED)?;
    }
    Ok(())
}

fn sleep_and_lose_guard(host: &mut Host) -> Result<()> {
    sleep_until(host, 50)?;
    host.lives_on(WATCHED)?;
    host.dom0_ok(&format!("killall -9 {GUARD}"), PROMPT)
        .map(drop)
}

/// The host's own time stands still meanwhile, and is counted from nought after it; it learns from its real-time clock for how long it
/// has slept. A sleep resets the serial port, and whoever reads that waits for ever: another agent takes over.
fn sleep_until(host: &mut Host, year: u8) -> Result<()> {
    const SLEEP: &str = "setsid sh -c 'echo mem > /sys/power/state; stty -F /dev/ttyS1 115200 raw -echo; killall dom0-agent'";
    host.machine.agent.send(SLEEP)?;
    let asleep = host.machine.qmp.wait_event("SUSPEND", SLOW);
    asleep.context(|| "the host does not sleep")?;
    // Register 9, in decimal digits (MC146818).
    host.machine.set_clock(9, year / 10 * 16 + year % 10)?;
    host.machine.qmp.execute("system_wakeup", json!({}))?;
    host.machine.agent.wait_ready(SLOW)
}

/// The allocation fails where the table is made.
fn no_table(laboratory: &Laboratory, _: Duration) -> Result<Figures> {
    /// sysexits(3): the configuration asks for what is not there, which a service manager does not try again.
    const CONFIG: i32 = 78;
    let mut host = laboratory.bare_host_tampered(|gdb, symbols| {
        let address = |name| symbols.get(name).map(|symbol| symbol.address);
        let allocates = address("alloc_xenheap_pages")?;
        gdb.run_until(address("liveness_init")?, PROMPT)?;
        // xor %eax,%eax; ret
        let fails = [0x31, 0xc0, 0xc3];
        let sound = gdb.read(allocates, fails.len())?;
        gdb.write(allocates, &fails)?;
        // Xen says so at once.
        gdb.run_until(address("printk")?, PROMPT)?;
        gdb.write(allocates, &sound)
    })?;
    let outcome = without_table(&mut host, CONFIG);
    Ok(Figures::of(
        outcome.map(|()| Vec::new()),
        host.machine.log.lines_from(0),
    ))
}

fn without_table(host: &mut Host, code: i32) -> Result<()> {
    let console = host.machine.console();
    if !console.contains("No memory for the liveness table") {
        return Err(Error::new("the hypervisor has its table"));
    }
    let refused = host.dom0(&format!("{GUARD} 2>&1"), PROMPT)?;
    if refused.code != code || !refused.output.contains("no memory for it") {
        let Outcome { code, output } = refused;
        return Err(Error::new(format!("the guard ends with {code}: {output}")));
    }
    host.says("cat /sys/class/watchdog/watchdog0/state", "inactive")?;
    host.dom0_ok(PARTIAL, PROMPT)?;
    host.start_program(GUARD)?;
    host.start_program(MONITOR)?;
    host.lives_on(WATCHED)?;
    let seen = host.status()?.monitor.and_then(|monitor| monitor.no_table);
    match seen.is_some_and(|why| why.contains("no memory for it")) {
        true => Ok(()),
        false => Err(Error::new("the monitor does not say why it sees no guests")),
    }
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
