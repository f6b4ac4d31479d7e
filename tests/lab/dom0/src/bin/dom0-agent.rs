// SPDX-License-Identifier: GPL-2.0-only
//! Runs the laboratory's commands in dom0: `dom0-agent /dev/ttyS1`.

use std::fs::OpenOptions;
use xenwarden_lab_dom0::agent;
use xenwarden_lab_dom0::error::{Context, Result};

fn main() -> Result<()> {
    let port = std::env::args()
        .nth(1)
        .context(|| "usage: dom0-agent SERIAL-PORT")?;
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&port)
            .context(|| format!("cannot open {port}"))
    };
    agent::serve(open()?, open()?)
}
