// SPDX-License-Identifier: GPL-2.0-only
//! Copies its standard input to the emulated debug port, one byte an instruction: a log out of dom0 that needs no
//! interrupt and does not pass Xen's console. Run it with a real-time priority above the daemon's.

use std::io::Read;
use xenwarden_lab_dom0::error::{Context, Result};
use xenwarden_lab_dom0::port::Port;

fn main() -> Result<()> {
    let port = Port::log()?;
    let mut input = std::io::stdin().lock();
    let mut buffer = [0; 1024];
    while let count @ 1.. = input.read(&mut buffer).context(|| "cannot read the log")? {
        for byte in &buffer[..count] {
            port.write(*byte)?;
        }
    }
    Ok(())
}
