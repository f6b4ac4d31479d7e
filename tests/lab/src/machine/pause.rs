// SPDX-License-Identifier: GPL-2.0-only
//! Makes a hypervisor that spins cheap to emulate.
//!
//! `pause` is a hint that changes no program's result. QEMU takes it as a reason to leave its translated code, at each turn of a
//! loop, while next to none of the machine's own time passes: a wedged host would take minutes to reach its watchdog's timeout.
//! So the hint is replaced by a no-operation of the same length where a fault makes the hypervisor wait for ever, and only there:
//! without it, an ordinary wait for another processor costs that one's whole slice of the emulation.

use super::gdb::Gdb;
use super::symbols::Symbols;
use crate::error::Result;
use crate::provision::Arch;

/// The hint and the no-operation, byte by byte: `pause`, and Arm's `wfe`.
const PAUSE: [[u8; 2]; 2] = [[0xf3, 0x90], [0x66, 0x90]];
const WAIT: [[u8; 4]; 2] = [0xd503_205f_u32.to_le_bytes(), 0xd503_201f_u32.to_le_bytes()];

/// Replaces the hint in some functions of a stopped hypervisor.
pub fn remove(gdb: &mut Gdb, symbols: &Symbols, functions: &[&str]) -> Result<()> {
    let [hint, instead]: [&[u8]; 2] = match symbols.arch() {
        Arch::Amd64 => [&PAUSE[0], &PAUSE[1]],
        Arch::Arm64 => [&WAIT[0], &WAIT[1]],
    };
    for name in functions {
        let function = symbols.get(name)?;
        let code = gdb.read(function.address, function.size as usize)?;
        for (offset, _) in code
            .windows(hint.len())
            .enumerate()
            .filter(|(_, bytes)| *bytes == hint)
        {
            gdb.write(function.address + offset as u64, instead)?;
        }
    }
    Ok(())
}
