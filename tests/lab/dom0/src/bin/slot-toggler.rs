// SPDX-License-Identifier: GPL-2.0-only
//! Arms and disarms both watchdog slots of its domain, over and over: `slot-toggler SECONDS [PAUSE-MS]`, with a pause before each.
//! Ends with exit code 0 and the number of rounds.

use std::time::{Duration, Instant};
use xenwarden::sys::hypercall::Privcmd;
use xenwarden_lab_dom0::error::{Context, Result};

/// Each slot's timeout while it is armed, in seconds.
const TIMEOUT_S: u32 = 5;
/// The id that asks for a free slot (Xen: `xen/include/public/sched.h`).
const NEW: u32 = 0;
/// The timeout that disarms.
const OFF: u32 = 0;

fn main() -> Result<()> {
    let argument = std::env::args()
        .nth(1)
        .and_then(|seconds| seconds.parse().ok());
    let end =
        Instant::now() + Duration::from_secs(argument.context(|| "usage: slot-toggler SECONDS")?);
    let pause = std::env::args().nth(2).and_then(|ms| ms.parse().ok());
    let pause = || std::thread::sleep(Duration::from_millis(pause.unwrap_or(0)));
    let xen = Privcmd::open().context(|| "cannot open /dev/xen/privcmd")?;
    let mut rounds = 0_u64;
    while Instant::now() < end {
        let mut slots = Vec::new();
        // As many as there are: the guest's own driver may hold one.
        while let Ok(slot) = xen.schedop_watchdog(NEW, TIMEOUT_S) {
            slots.push(slot);
        }
        pause();
        for slot in slots {
            xen.schedop_watchdog(slot, OFF)
                .context(|| format!("cannot disarm slot {slot}"))?;
        }
        pause();
        rounds += 1;
    }
    println!("slot-toggler: {rounds} rounds");
    Ok(())
}
