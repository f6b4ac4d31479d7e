// SPDX-License-Identifier: GPL-2.0-only
//! Takes the uncompressed kernel out of Debian's `vmlinuz`.
//!
//! Xen and its tools would do it too, but each time, and under emulation: seconds for dom0 and again for every guest.

use crate::error::{Context, Error, Result};
use crate::layout::{read, write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Offsets in the boot protocol's header (Linux: Documentation/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// What the payload of Debian's kernels starts with, and who unpacks it. The kernel's build appends the unpacked size to the stream:
/// both give all data, then complain about the rest.
const PACKED: &[(&[u8], &[&str])] = &[
    (
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &["xz", "--decompress", "--stdout", "--single-stream"],
    ),
    (
        &[0x28, 0xb5, 0x2f, 0xfd],
        &["zstd", "--decompress", "--stdout", "--quiet"],
    ),
];

/// Writes the ELF file that is packed in `vmlinuz` to `vmlinux`, unless it is there already.
pub fn unpack(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    if vmlinux.exists() {
        return Ok(());
    }
    let image = read(vmlinuz)?;
    let packed = payload(&image)
        .context(|| format!("{} is no Linux kernel as we know them", vmlinuz.display()))?;
    let known = PACKED.iter().find(|(magic, _)| packed.starts_with(magic));
    let Some((_, [program, arguments @ ..])) = known else {
        return Err(Error::new(format!(
            "{} is packed with neither xz nor zstd",
            vmlinuz.display()
        )));
    };
    let part = vmlinux.with_extension("packed");
    write(&part, packed)?;
    let input = std::fs::File::open(&part).context(|| format!("cannot read {}", part.display()))?;
    let mut unpack = Command::new(program);
    unpack
        .args(arguments.iter())
        .stdin(input)
        .stderr(Stdio::null());
    let elf = unpack
        .output()
        .context(|| format!("cannot run {program}"))?
        .stdout;
    if !elf.starts_with(b"\x7fELF") {
        return Err(Error::new(format!(
            "what is packed in {} is no ELF file",
            vmlinuz.display()
        )));
    }
    write(vmlinux, elf)?;
    std::fs::remove_file(&part).context(|| format!("cannot remove {}", part.display()))
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let long =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let protected_mode = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * SECTOR;
    let start = protected_mode + long(PAYLOAD_OFFSET)?;
    image.get(start..start + long(PAYLOAD_LENGTH)?)
}
