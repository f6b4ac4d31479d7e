// SPDX-License-Identifier: GPL-2.0-only
//! A plain file that is kept open, in a directory that others may write to.
//!
//! In: a path. Out: the file, of its owner alone. Never: what a link leads to, a wait for a pipe's other end, or a device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file to be read and written, and makes it where it is not there.
///
/// # Errors
/// Those of open(2), and that it is no plain file.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}
