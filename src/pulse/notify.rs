// SPDX-License-Identifier: GPL-2.0-only
//! The lines of systemd's notify protocol on a heartbeat's node, as a guest's shell can write them.
//!
//! In: bytes, in chunks of any size. Out: how often the line `WATCHDOG=1` is in them. Promises: the same for
//! any splitting; a few bytes of memory; a line of any length is passed over. Never: another
//! line taken for a pulse.
//!
//! `WATCHDOG=1` is that of sd_notify(3). It counts once its last byte is there, so that the line feed is
//! optional, as was asked for on qemu-devel; `WATCHDOG=10` is then taken back by nobody, and is no line
//! that sd_notify knows.

const PULSE: &[u8] = b"WATCHDOG=1";

/// Finds the lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    /// Bytes of [`PULSE`] that the present line begins with.
    matched: usize,
    /// The present line is another one, or was counted.
    passed_over: bool,
}

impl Lines {
    /// Takes one byte; whether it ends a pulse.
    pub fn take(&mut self, byte: u8) -> bool {
        if matches!(byte, b'\n' | b'\r' | 0) {
            *self = Self::default();
            return false;
        }
        // Without line feeds the next pulse begins where the last has ended.
        let counted = self.passed_over && self.matched == PULSE.len();
        if counted && PULSE.first() == Some(&byte) {
            *self = Self::default();
        }
        if self.passed_over {
            return false;
        }
        if PULSE.get(self.matched) != Some(&byte) {
            *self = Self {
                matched: 0,
                passed_over: true,
            };
            return false;
        }
        self.matched += 1;
        self.passed_over = self.matched == PULSE.len();
        self.passed_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_line_counts_with_or_without_its_line_feed_and_nothing_else_does() {
        let cases: [(&[u8], usize); 10] = [
            (b"WATCHDOG=1", 1),
            (b"WATCHDOG=1\n", 1),
            (b"READY=1\nWATCHDOG=1\r\nSTATUS=fine\n", 1),
            (b"WATCHDOG=1WATCHDOG=1", 2),
            (b"WATCHDOG=1\0WATCHDOG=1\0", 2),
            (b"WATCHDOG=0\n", 0),
            (b"WATCHDOG_USEC=1\n", 0),
            (b"XWATCHDOG=1\n", 0),
            (b"STATUS=WATCHDOG=1\n", 0),
            (b"watchdog=1\n", 0),
        ];
        for (bytes, expected) in cases {
            let mut lines = Lines::default();
            let found = bytes.iter().filter(|byte| lines.take(**byte)).count();
            assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
