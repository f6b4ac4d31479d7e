// SPDX-License-Identifier: GPL-2.0-only
//! Copies its standard input to the emulated debug port, one byte an instruction: a log out of dom0 that needs no
//! interrupt and does not pass Xen's console. Run it with a real-time priority above the daemon's.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::FileExt;
use xenwarden_lab_dom0::LOG_PORT;
use xenwarden_lab_dom0::error::{Context, Result};

fn main() -> Result<()> {
    let ports = OpenOptions::new()
        .write(true)
        .open("/dev/port")
        .context(|| "cannot open /dev/port")?;
    let mut input = std::io::stdin().lock();
    let mut buffer = [0; 1024];
    while let count @ 1.. = input.read(&mut buffer).context(|| "cannot read the log")? {
        // One byte a write: the kernel would spread more over the ports that follow.
        for byte in &buffer[..count] {
            ports
                .write_all_at(&[*byte], u64::from(LOG_PORT))
                .context(|| "cannot write to the debug port")?;
        }
    }
    Ok(())
}
