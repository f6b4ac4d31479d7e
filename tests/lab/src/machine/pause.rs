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

const PAUSE: [u8; 2] = [0xf3, 0x90];
const NO_OPERATION: [u8; 2] = [0x66, 0x90];

/// Replaces the hint in some functions of a stopped hypervisor.
pub fn remove(gdb: &mut Gdb, symbols: &Symbols, functions: &[&str]) -> Result<()> {
    for name in functions {
        let function = symbols.get(name)?;
        let code = gdb.read(function.address, function.size as usize)?;
        for (offset, _) in code
            .windows(2)
            .enumerate()
            .filter(|(_, bytes)| *bytes == PAUSE)
        {
            gdb.write(function.address + offset as u64, &NO_OPERATION)?;
        }
    }
    Ok(())
}
