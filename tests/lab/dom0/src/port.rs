// SPDX-License-Identifier: GPL-2.0-only
//! Ports that take a byte with one I/O instruction, behind which the laboratory reads: no interrupt, no buffer.
//!
//! On a PC they are QEMU's `isa-debugcon`, each at a number of its own. Arm's board has none: there they are serial ports on PCI
//! cards in slots of their own, whose numbers the kernel chose, and which nobody opens as such.

use crate::error::{Context, Result};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// A port, open.
pub struct Port {
    ports: File,
    number: u64,
}

impl Port {
    /// The one that takes dom0's log. The usual one, 0xe9, is the hypervisor's own in a PVH dom0.
    pub fn log() -> Result<Self> {
        Self::open(0x403, 0x11)
    }

    /// The one where dom0's virtual processors show that they run.
    pub fn pulse() -> Result<Self> {
        Self::open(0x402, 0x12)
    }

    fn open(number: u64, slot: u8) -> Result<Self> {
        let number = match cfg!(target_arch = "x86_64") {
            true => number,
            false => of_card(slot)?,
        };
        let ports = OpenOptions::new().write(true).open("/dev/port");
        let ports = ports.context(|| "cannot open /dev/port")?;
        Ok(Port { ports, number })
    }

    /// Writes a byte.
    pub fn write(&self, byte: u8) -> Result<()> {
        // One byte a write: the kernel would spread more over the ports that follow.
        self.ports
            .write_all_at(&[byte], self.number)
            .context(|| "cannot write to the debug port")
    }
}

/// The first port of a card.
fn of_card(slot: u8) -> Result<u64> {
    let path = format!("/sys/bus/pci/devices/0000:00:{slot:02x}.0/resource");
    let ranges = std::fs::read_to_string(&path).context(|| format!("cannot read {path}"))?;
    first_of(&ranges).context(|| format!("no port in {path}: {ranges}"))
}

/// Where the first range of sysfs's list begins: a line each, `0xBEGIN 0xEND 0xFLAGS`.
fn first_of(ranges: &str) -> Option<u64> {
    let begin = ranges.split_whitespace().next()?.strip_prefix("0x")?;
    u64::from_str_radix(begin, 16)
        .ok()
        .filter(|begin| *begin != 0)
}

#[cfg(test)]
mod tests {
    use super::first_of;

    #[test]
    fn a_cards_first_range_is_found_and_none_is_no_port() {
        let line =
            |begin: &str| format!("{begin} 0x000000000000103f 0x0000000000040101\n0x0 0x0 0x0\n");
        assert_eq!(first_of(&line("0x0000000000001038")), Some(0x1038));
        assert_eq!(first_of(&line("0x0000000000000000")), None);
        assert_eq!(first_of(""), None);
    }
}
