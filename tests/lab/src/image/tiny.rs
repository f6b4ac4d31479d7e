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

/// The disk of a guest that does with its i6300esb what it is told: its first sector, and room to a megabyte.
pub fn boot_sector(layout: &Layout) -> Result<Vec<u8>> {
    let [object, disk] = ["boot.o", "boot.img"].map(|name| layout.lab(&format!("images/{name}")));
    let source = layout.project("tests/qemu_guest/boot.S");
    output(
        Command::new("as")
            .args(["--32", "-o"])
            .args([&object, &source]),
    )?;
    output(
        Command::new("ld")
            .args(["-m", "elf_i386", "-Ttext", "0x7c00", "-e", "_start"])
            .args(["--oformat", "binary", "-o"])
            .args([&disk, &object]),
    )?;
    let mut content = read(&disk)?;
    content.resize(1 << 20, 0);
    for made in [object, disk] {
        let _ = std::fs::remove_file(made);
    }
    Ok(content)
}
