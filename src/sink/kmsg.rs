// SPDX-License-Identifier: GPL-2.0-only
//! dom0's kernel log: a line that a crash kernel, pstore or a serial console keeps.
//!
//! In: a line. Out: one write(2) to /dev/kmsg (Documentation/ABI/testing/dev-kmsg), which is
//! opened before privileges are given up. The kernel may print it to its consoles before it
//! returns: only threads that may hang call it.

use crate::event::describe::plain;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where it is.
pub const PATH: &str = "/dev/kmsg";
/// Longest line, bytes: `LOG_LINE_MAX` of kernel/printk/printk.c is 1024 with the prefix.
const MOST: usize = 900;

/// The kernel log, open.
#[derive(Debug)]
pub struct Kmsg(File);

impl Kmsg {
    /// Opens it for writing.
    ///
    /// # Errors
    /// The errno of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// Writes a line as an error of a daemon (`LOG_DAEMON | LOG_ERR`, syslog(3)). May block.
    ///
    /// # Errors
    /// The errno of write(2).
    pub fn tell(&self, line: &str) -> io::Result<()> {
        let mut text = format!("<27>xenwarden: {}", plain(line));
        let mut end = text.len().min(MOST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('\n');
        (&self.0).write_all(text.as_bytes())
    }
}
