// SPDX-License-Identifier: GPL-2.0-only
//! Assembles the tiny guest, of which a host can carry many.

use crate::command::output;
use crate::error::Result;
use crate::layout::{Layout, read};
use std::process::Command;

/// The tiny guest's kernel, an ELF file.
pub fn assemble(layout: &Layout) -> Result<Vec<u8>> {
    let kernel = layout.lab("images/tiny-guest.elf");
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
            .arg(layout.project("tests/lab/images/tiny-guest.S")),
    )?;
    let content = read(&kernel)?;
    // It is no image: they are counted and pruned there.
    let _ = std::fs::remove_file(&kernel);
    Ok(content)
}
