// SPDX-License-Identifier: GPL-2.0-only
//! Shows which of dom0's virtual processors run: a real-time thread pinned to each writes the processor's digit to a debug port of its
//! own, ten times a second. Run it with a real-time priority above the daemon's.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::thread;
use xenwarden_lab_dom0::PULSE_PERIOD;
use xenwarden_lab_dom0::error::{Context, Result};
use xenwarden_lab_dom0::port::Port;

fn main() -> Result<()> {
    let processors = thread::available_parallelism().context(|| "cannot count the processors")?;
    let threads: Vec<_> = (0..processors.get())
        .map(|cpu| thread::spawn(move || pulse(cpu)))
        .collect();
    for thread in threads {
        if let Ok(outcome) = thread.join() {
            outcome?;
        }
    }
    Ok(())
}

fn pulse(cpu: usize) -> Result<()> {
    let mut here = CpuSet::new();
    here.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &here))
        .context(|| format!("cannot stay on processor {cpu}"))?;
    let port = Port::pulse()?;
    let digit = u8::try_from(cpu).map_or(b'?', |cpu| b'0' + cpu);
    loop {
        port.write(digit)?;
        thread::sleep(PULSE_PERIOD);
    }
}
