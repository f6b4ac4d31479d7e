// SPDX-License-Identifier: GPL-2.0-only
//! Assembles the laboratory's own guests, which have no operating system: a host can carry many, and nothing of theirs is in the way
//! of a measurement.

use crate::command::output;
use crate::error::Result;
use crate::layout::{Layout, read};
use std::process::Command;

/// The kernel of such a guest, an ELF file, from `images/NAME.S`.
pub fn assemble(layout: &Layout, name: &str) -> Result<Vec<u8>> {
    let kernel = layout.lab(&format!("images/{name}.elf"));
    let script = layout.project("tests/lab/images/tiny-guest.ld");
    output(
        Command::new("gcc")
            .args([
                "-nostdlib",
                "-static",
                "-no-pie",
                "-s",
                "-Wl,--build-id=none",
            ])
            .arg(format!("-Wl,-T,{}", script.display()))
            .arg("-o")
            .arg(&kernel)
            .arg(layout.project(&format!("tests/lab/images/{name}.S"))),
    )?;
    let content = read(&kernel)?;
    // It is no image: they are counted and pruned there.
    let _ = std::fs::remove_file(&kernel);
    Ok(content)
}
