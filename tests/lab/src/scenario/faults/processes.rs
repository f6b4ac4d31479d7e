// SPDX-License-Identifier: GPL-2.0-only
//! Faults of the guard's and the monitor's own processes. Without its guard a host goes down; without its monitor it does not, and
//! what happened meanwhile is told by the next one.
//!
//! A program that fails is made to: the function that reads its clock is overwritten in its memory.

use crate::error::{Context, Error, Result};
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::laboratory::{GUESTS, Laboratory};
use crate::machine::agent::Outcome;
use crate::machine::symbols::entry_of;
use crate::scenario::Row;
use crate::scenario::dies::{SILENCE, go_down};
use crate::scenario::lives::{WATCHED, stop_feeding, survive};
use std::time::Duration;
use xenwarden::event::Kind;

/// How long something may take that waits for guests.
const SLOW: Duration = Duration::from_secs(600);
/// In both programs each loop calls it.
const READS_CLOCK: &str = "9Monotonic3now";
/// A guest's timeout, and room for the toolstack.
const EXPIRES: Duration = Duration::from_secs(15);

/// In which the guard fails.
#[rustfmt::skip]
pub const DOWN: &[Row] = &[
    Row { name: "guard-segfaults", what: "the guard writes where there is no memory", run: |lab, phase| go_down(lab, phase, |host| SEGFAULT.strike(host, lab, GUARD), Some(SILENCE)) },
    Row { name: "guard-illegal", what: "the guard runs into an illegal instruction", run: |lab, phase| go_down(lab, phase, |host| ILLEGAL.strike(host, lab, GUARD), Some(SILENCE)) },
    Row { name: "guard-aborts", what: "the guard aborts", run: |lab, phase| go_down(lab, phase, |host| Fault::Signal("-ABRT").strike(host, lab, GUARD), Some(SILENCE)) },
    Row { name: "guard-overflows", what: "the guard's stack overflows", run: |lab, phase| go_down(lab, phase, |host| OVERFLOW.strike(host, lab, GUARD), Some(SILENCE)) },
];

/// In which the host lives.
#[rustfmt::skip]
pub const LIVES: &[Row] = &[
    Row { name: "guard-out-of-memory", what: "the guard gets no more memory, and needs none", run: |lab, phase| survive(lab, phase, |host| Fault::NoMemory.strike(host, lab, GUARD)) },
    Row { name: "monitor-segfaults", what: "the monitor writes where there is no memory, and a guest expires", run: |lab, phase| survive(lab, phase, |host| without_monitor(host, lab, SEGFAULT)) },
    Row { name: "monitor-illegal", what: "the monitor runs into an illegal instruction, likewise", run: |lab, phase| survive(lab, phase, |host| without_monitor(host, lab, ILLEGAL)) },
    Row { name: "monitor-aborts", what: "the monitor aborts, likewise", run: |lab, phase| survive(lab, phase, |host| without_monitor(host, lab, Fault::Signal("-ABRT"))) },
    Row { name: "monitor-overflows", what: "a stack of the monitor overflows, likewise", run: |lab, phase| survive(lab, phase, |host| without_monitor(host, lab, OVERFLOW)) },
    Row { name: "monitor-out-of-memory", what: "the monitor gets no more memory, likewise", run: |lab, phase| survive(lab, phase, |host| without_monitor(host, lab, Fault::NoMemory)) },
    Row { name: "second-guard", what: "a second guard is started", run: |lab, phase| survive(lab, phase, second_guard) },
    Row { name: "upgrade-while-expiring", what: "guard and monitor are replaced while a guest expires", run: |lab, phase| survive(lab, phase, upgrade) },
];

/// `xor %eax,%eax; mov %eax,(%rax)`
const SEGFAULT: Fault = Fault::Code([0x31, 0xc0, 0x89, 0x00]);
/// `ud2`
const ILLEGAL: Fault = Fault::Code([0x0f, 0x0b, 0x0f, 0x0b]);
/// `push %rax`, again and again.
const OVERFLOW: Fault = Fault::Code([0x50, 0xeb, 0xfd, 0x90]);

/// What befalls a program.
#[derive(Clone, Copy)]
enum Fault {
    /// It runs into this.
    Code([u8; 4]),
    Signal(&'static str),
    /// Its address space may not grow.
    NoMemory,
}

impl Fault {
    fn strike(self, host: &mut Host, laboratory: &Laboratory, program: &str) -> Result<()> {
        let command = match self {
            Fault::Signal(signal) => format!("killall {signal} {program}"),
            Fault::NoMemory => format!("prlimit --pid $(pidof {program}) --as=4096:4096"),
            Fault::Code(code) => {
                let entry = entry_of(&laboratory.program(program), READS_CLOCK)?;
                let bytes: String = code.iter().map(|byte| format!("\\{byte:03o}")).collect();
                // In one write, as other threads run through it meanwhile; a function that is made small begins at any byte.
                format!(
                    "p=/proc/$(pidof {program}); base=$(sed -n '1s/-.*//p' $p/maps); \
                     printf '{bytes}' | dd of=$p/mem bs=4 count=1 conv=notrunc oflag=seek_bytes seek=$((0x$base + {entry})) 2> /dev/null"
                )
            }
        };
        host.dom0_ok(&command, PROMPT).map(drop)
    }
}

/// The monitor fails, a guest expires, and the next monitor tells that once.
fn without_monitor(host: &mut Host, laboratory: &Laboratory, fault: Fault) -> Result<()> {
    host.follow_events()?;
    // The subscriber must have found a monitor before there is none.
    host.wait_events("kind", 1, SLOW)?;
    fault.strike(host, laboratory, MONITOR)?;
    if matches!(fault, Fault::NoMemory) {
        // What asks it has it want memory. Whether it lives or dies of that, it is not waited for.
        let ask =
            "for n in 1 2 3 4 5 6 7 8; do xenwarden guests > /dev/null 2>&1 & done; wait; true";
        host.dom0_ok(ask, SLOW)?;
        host.dom0_ok(&format!("killall -9 {MONITOR}; true"), PROMPT)?;
    }
    let gone = format!(
        "n=0; while pidof {MONITOR}; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.1; done"
    );
    host.dom0_ok(&gone, PROMPT)?;
    stop_feeding(host, GUESTS[0])?;
    host.pass(EXPIRES)?;
    host.start_program(MONITOR)?;
    told_once(host)
}

/// The one guest that has expired is told, and once.
fn told_once(host: &mut Host) -> Result<()> {
    host.wait_events("\"kind\":\"alarm.raised\"", 1, SLOW)?;
    let events = host.events()?;
    let raised = events
        .iter()
        .filter(|event| matches!(event.what, Kind::AlarmRaised { .. }));
    match raised.count() {
        1 => Ok(()),
        count => Err(Error::new(format!("the alarm was raised {count} times"))),
    }
}

fn second_guard(host: &mut Host) -> Result<()> {
    let Outcome { code, output } = host.dom0(&format!("{GUARD} 2>&1"), PROMPT)?;
    match code != 0 && output.contains("another xenwardend (pid ") {
        true => Ok(()),
        false => Err(Error::new(format!(
            "the second guard ends with {code}: {output}"
        ))),
    }
}

fn upgrade(host: &mut Host) -> Result<()> {
    host.follow_events()?;
    stop_feeding(host, GUESTS[0])?;
    // Its timeout is 10 s.
    host.pass(Duration::from_secs(7))?;
    let before = host.status()?.kick_path.withholds;
    for program in [GUARD, MONITOR] {
        host.end_program(program, "-TERM")?;
        host.start_program(program)?;
    }
    host.pass(WATCHED)?;
    told_once(host)?;
    let after = host.status()?.kick_path.withholds;
    // Looks of a guard that has just started prove nothing yet.
    (after <= before + 1)
        .then_some(())
        .context(|| format!("{before} and {after} withholds"))
}
