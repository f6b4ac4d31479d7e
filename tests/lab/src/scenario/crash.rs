// SPDX-License-Identifier: GPL-2.0-only
//! A host whose hypervisor has a crash kernel, by Debian's kexec-tools: Xen's slot of dom0 fires first, and the hardware gives the
//! crash kernel its time.

use super::Row;
use super::lives::WATCHED;
use super::wedges::{FROM_INJECTION, Wedge};
use super::why::{DOWN, HEARTBEAT, Outcome, holds, judged, only, shown};
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use std::time::Duration;
use xenwarden::event::{Confidence, ResetCause};
use xenwarden::state::traces::RecordOf;

/// All of them.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "crash-dump", what: "Xen's slot of dom0 fires first: Xen's crash kernel keeps the notes of the dead host, the hardware ends it, and the next boot says so", run: |lab, phase| shown(crash_dump(lab, phase)) },
];

/// In the emulated host a minute passes before the crash kernel runs: its image is checked and unpacked first.
const CRASH_DUMP: &str = "[crash_dump]\nhardware_s = 120";
/// What the guard must say of that.
const CHECKED: [&str; 2] = [
    "gives 114 s for its dump",
    "Xen's watchdog of dom0 (5 s), for a crash dump, the hardware (120 s)",
];
/// Twice the timeout, and what it takes to see a wedge.
const BOUND: &str = "242";
/// Takes both of dom0's slots in Xen, and gives them back.
const TAKE_SLOTS: &str =
    "for n in 1 2; do (setsid xenwatchdogd 15 5 < /dev/null > /dev/null 2>&1 &); done; sleep 1";
const CLEAR_SLOTS: &str = "killall -9 xenwatchdogd; dom0-slots";
/// Lines of the console that are shown where the crash kernel does not say what it should.
const SHOWN: usize = 20;
/// When Xen's slot fires, so long after all was last served.
const SLOT: Duration = Duration::from_secs(5);
/// The last feed is a second later at most; and what the guard and this laboratory take.
const LATE: Duration = Duration::from_millis(1_500);

impl Host {
    /// Whether its guard gives this as a weakness.
    fn is_weak(&mut self, why: &str) -> Result<bool> {
        let weakness = self.status()?.weakness.unwrap_or_default();
        Ok(weakness.contains(why))
    }

    /// What is told of a crash dump before there is one.
    fn tells_of_the_dump(&mut self) -> Result<()> {
        let taken = "no fence by dom0's watchdog in Xen: both slots are taken";
        self.dom0_ok(TAKE_SLOTS, PROMPT)?;
        self.reconfigure(CRASH_DUMP)?;
        holds(self.is_weak(taken)?, "that both slots are taken")?;
        self.dom0_ok(CLEAR_SLOTS, PROMPT)?;
        self.reconfigure("")?;
        holds(!self.is_weak(taken)?, "that they are not any more")?;
        let check = self.dom0("xenwarden check", PROMPT)?.output;
        for line in CHECKED {
            holds(check.contains(line), &format!("{line:?} but {check}"))?;
        }
        let bound = self.dom0_ok("xenwarden fence-bound", PROMPT)?;
        holds(bound.trim() == BOUND, &format!("the bound, but {bound}"))
    }
}

fn crash_dump(laboratory: &Laboratory, phase: Duration) -> Result<Outcome> {
    let mut host = laboratory.host_with_crash_kernel()?;
    host.tells_of_the_dump()?;
    host.dom0_ok(HEARTBEAT, PROMPT)?;
    host.come_to(phase)?;
    host.lives_on(WATCHED)?;
    let wedge = Wedge::named("timer-lost-2").context(|| "no such wedge")?;
    let injected = host.inject(wedge.fault)?;
    let fired = host.machine.wait_down(DOWN)?;
    // Xen stops the clock that this reads when it crashes.
    let crashed = host.machine.clock()?;
    let after = crashed.saturating_sub(injected);
    if !(SLOT..FROM_INJECTION + SLOT + LATE).contains(&after) {
        return Err(Error::new(format!("Xen crashed {after:?} after the wedge")));
    }
    holds(fired, "that the hardware fired in the end")?;
    let notes = dumped(&host.machine.console())?;
    let host = laboratory.host_after_reset(host)?;
    let mut outcome = judged(host, 0, |resets| {
        let reset = only(resets)?;
        let is = (reset.cause, reset.confidence);
        let is_withheld = is == (ResetCause::Withheld, Confidence::Known);
        holds(is_withheld, &format!("a withhold, but {is:?}"))?;
        let dump = reset.records.first();
        let kept = dump.is_some_and(|record| record.of == RecordOf::Crash);
        holds(kept, "the crash kernel's record")
    })?;
    let after_s = after.as_secs_f64();
    outcome.notes.push(format!(
        "; crash kernel {after_s:.2} s after the wedge; {notes}"
    ));
    Ok(outcome)
}

/// What the crash kernel said: it saw the notes of each processor and of Xen, and lived on.
fn dumped(console: &str) -> Result<String> {
    let mut said = console
        .lines()
        .filter_map(|line| line.split_once("crash-init: "))
        .map(|(_, said)| said);
    let notes = said.find(|line| line.starts_with("notes: "));
    let notes = notes.context(|| {
        let from = console.lines().count().saturating_sub(SHOWN);
        let last: Vec<&str> = console.lines().skip(from).collect();
        let last = last.join("\n");
        format!("the crash kernel saw no notes\nthe console ends with:\n{last}")
    })?;
    let all = ["4 CORE", " Xen", "1 VMCOREINFO_XEN"]
        .iter()
        .all(|name| notes.contains(name));
    holds(all, &format!("CPUs' and Xen's notes, but {notes}"))?;
    let last = said
        .next_back()
        .context(|| "the crash kernel was reset at once")?;
    Ok(format!("it saw {notes} s of its own time, and {last}"))
}
