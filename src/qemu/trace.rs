// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's trace events of its watchdog devices: what a line of its log means.
//!
//! In: lines of QEMU's log, of which most are of other devices. Out: [`Sighting`]s: what the guest
//! wrote to its watchdog. Pure; a line that is not understood is none.
//!
//! The devices have no trace events of their own (7.2; 10.0 has none of these either); those of
//! the memory and PCI layers show every write (QEMU's softmmu/trace-events or system/trace-events,
//! hw/pci/trace-events):
//!
//! ```text
//! memory_region_ops_write cpu 0 mr 0x55f4 addr 0xfebff00c value 0x100 size 2 name 'i6300esb'
//! memory_region_ops_write cpu 0 mr 0x55f4 addr 0x443 value 0xe size 1 name 'ib700'
//! pci_cfg_write i6300esb 00:02.0 @0x68 <- 0x2
//! ```
//!
//! And where the device's state is loaded (migration/trace-events; by the name of its vmstate, with the
//! path of a PCI device before it):
//!
//! ```text
//! qemu_loadvm_state_section_startfull 31(0000:00:02.0/i6300esb_wdt) 0 10000
//! ```
//!
//! `-msg timestamp=on` puts `PID@SECONDS:` before each.

/// The trace events that show writes to watchdogs, in the order in which they are switched on: a
/// feed is worth more where the arming before it was seen.
pub const EVENTS: [&str; 3] = [LOAD, CONFIG_WRITE, WRITE];
const LOAD: &str = "qemu_loadvm_state_section_startfull";
const WRITE: &str = "memory_region_ops_write";
const CONFIG_WRITE: &str = "pci_cfg_write";
/// Longest name of a device, bytes; the log's own lines of another form end here.
const LONGEST: usize = 512;

/// A guest's write to its watchdog device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// To a register of the i6300esb: its offset, and the value.
    I6300esb {
        /// From the beginning of its BAR, which is 16 bytes long and so aligned to 16.
        offset: u8,
        /// The value.
        value: u64,
    },
    /// To the i6300esb's lock register, in its configuration space.
    I6300esbLock(u64),
    /// To an ib700's port 0x443: it is armed, or fed.
    Ib700Enable,
    /// To its port 0x441.
    Ib700Disable,
    /// The state of a watchdog device was loaded: of a snapshot, or of another QEMU.
    Loaded,
    /// Lines are missing: the log was not read in time, or its file was full.
    Gap,
}

impl Sighting {
    /// The device may be armed after it.
    #[must_use]
    pub fn may_arm(self) -> bool {
        !matches!(self, Self::I6300esb { .. } | Self::Ib700Disable)
    }
}

/// What a line says of a watchdog.
#[must_use]
pub fn sighting(line: &str) -> Option<Sighting> {
    if line.len() > LONGEST {
        return None;
    }
    let mut words = line.split_ascii_whitespace();
    let first = words.next()?;
    // `PID@SECONDS.MICROSECONDS:event`
    let event = match first.rsplit_once(':') {
        Some((stamp, event)) if is_stamp(stamp) => event,
        Some(_) => return None,
        None => first,
    };
    let words: Vec<&str> = words.collect();
    match event {
        WRITE => memory_write(&words),
        CONFIG_WRITE => config_write(&words),
        LOAD => load(&words),
        _ => None,
    }
}

fn load(words: &[&str]) -> Option<Sighting> {
    let (_, name) = words.first()?.strip_suffix(')')?.split_once('(')?;
    let name = name.rsplit('/').next()?;
    matches!(name, "i6300esb_wdt" | "ib700_wdt").then_some(Sighting::Loaded)
}

fn is_stamp(text: &str) -> bool {
    text.contains('@') && text.chars().all(|c| c.is_ascii_digit() || "@.".contains(c))
}

fn memory_write(words: &[&str]) -> Option<Sighting> {
    let after = |key: &str| {
        let at = words.iter().position(|word| *word == key)?;
        words.get(at + 1).copied()
    };
    let address = hexadecimal(after("addr")?)?;
    let value = hexadecimal(after("value")?)?;
    match after("name")? {
        "'i6300esb'" => {
            let offset = u8::try_from(address % 16).ok()?;
            Some(Sighting::I6300esb { offset, value })
        }
        "'ib700'" => match address {
            0x443 => Some(Sighting::Ib700Enable),
            0x441 => Some(Sighting::Ib700Disable),
            _ => None,
        },
        _ => None,
    }
}

/// The lock register is at 0x68 (hw/watchdog/wdt_i6300esb.c, `ESB_LOCK_REG`); QEMU takes writes of
/// one byte alone, of whose size the line tells nothing: a driver writes no other.
fn config_write(words: &[&str]) -> Option<Sighting> {
    let [device, .., at, arrow, value] = words else {
        return None;
    };
    let is_lock = *device == "i6300esb" && *at == "@0x68" && *arrow == "<-";
    is_lock.then_some(Sighting::I6300esbLock(hexadecimal(value)?))
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_watchdogs_are_understood_and_no_others() {
        let written = |offset, value| Some(Sighting::I6300esb { offset, value });
        let cases = [
            (
                "memory_region_ops_write cpu 0 mr 0x55f4191fe370 addr 0xfebff00c value 0x100 size 2 name 'i6300esb'",
                written(12, 0x100),
            ),
            (
                "memory_region_ops_write cpu 3 mr 0x55f4191fe370 addr 0xfebf1000 value 0x1400 size 4 name 'i6300esb'",
                written(0, 0x1400),
            ),
            (
                "4711@1795990567.762289:memory_region_ops_write cpu 0 mr 0x1 addr 0xc value 0x80 size 2 name 'i6300esb'",
                written(12, 0x80),
            ),
            (
                "memory_region_ops_write cpu -1 mr 0x55f4191fe370 addr 0x443 value 0xe size 1 name 'ib700'",
                Some(Sighting::Ib700Enable),
            ),
            (
                "memory_region_ops_write cpu 0 mr 0x55f4191fe370 addr 0x441 value 0x0 size 1 name 'ib700'",
                Some(Sighting::Ib700Disable),
            ),
            (
                "pci_cfg_write i6300esb 00:02.0 @0x68 <- 0x2",
                Some(Sighting::I6300esbLock(2)),
            ),
            ("pci_cfg_write i6300esb 00:02.0 @0x60 <- 0x3", None),
            (
                "qemu_loadvm_state_section_startfull 31(0000:00:02.0/i6300esb_wdt) 0 10000",
                Some(Sighting::Loaded),
            ),
            (
                "qemu_loadvm_state_section_startfull 12(ib700_wdt) 0 0",
                Some(Sighting::Loaded),
            ),
            (
                "qemu_loadvm_state_section_startfull 12(0000:00:03.0/e1000) 0 3",
                None,
            ),
            ("pci_cfg_write e1000 00:02.0 @0x68 <- 0x2", None),
            (
                "memory_region_ops_write cpu 0 mr 0x1 addr 0xc value 0x100 size 2 name 'e1000-mmio'",
                None,
            ),
            (
                "memory_region_ops_write cpu 0 mr 0x1 addr 0x442 value 0x0 size 1 name 'ib700'",
                None,
            ),
            (
                "memory_region_ops_read cpu 0 mr 0x1 addr 0xfebff00c value 0x100 size 2 name 'i6300esb'",
                None,
            ),
            (
                "guest says:memory_region_ops_write cpu 0 mr 0x1 addr 0xc value 0x100 size 2 name 'i6300esb'",
                None,
            ),
            (
                "x:memory_region_ops_write cpu 0 mr 0x1 addr 0xc value 0x100 size 2 name 'i6300esb'",
                None,
            ),
            ("memory_region_ops_write cpu 0 mr 0x1 addr", None),
            (
                "memory_region_ops_write cpu 0 mr 0x1 addr 0xc value 100 size 2 name 'i6300esb'",
                None,
            ),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(sighting(line), expected, "{line}");
        }
    }
}
