// SPDX-License-Identifier: GPL-2.0-only
//! Reading hypfs entries: a path in, the entry's contents out.
//!
//! Source: Xen `xen/include/public/hypfs.h`. Buffers are mapped once; a read neither
//! allocates nor faults. It blocks while the hypervisor holds hypfs_lock: for ever when
//! that lock is stuck.

use crate::sys::hypercall::{HypercallBuffer, MAX_BUFFER_PAGES, PAGE, Privcmd};
use crate::xen::{Page, PageReader, ReadError};
use nix::errno::Errno;
use std::io::{self, Write};

/// Bytes of struct xen_hypfs_direntry, which precedes the contents.
const DIRENTRY_LEN: usize = 12;
/// `XEN_HYPFS_TYPE_BLOB` and `XEN_HYPFS_ENC_PLAIN`.
const BLOB_PLAIN: [u8; 2] = [1, 0];

/// hypfs of the running hypervisor, with buffers for reading liveness pages.
#[derive(Debug)]
pub struct Hypfs {
    privcmd: Privcmd,
    path: HypercallBuffer,
    reply: HypercallBuffer,
}

impl Hypfs {
    /// Maps the buffers: 256 KiB, enough for the state of 4094 pCPUs.
    ///
    /// # Errors
    /// The errno of mapping /dev/xen/hypercall.
    pub fn new(privcmd: Privcmd) -> io::Result<Self> {
        Ok(Self {
            privcmd,
            path: HypercallBuffer::new(1)?,
            reply: HypercallBuffer::new(MAX_BUFFER_PAGES)?,
        })
    }

    /// Writes the page's path with its closing zero byte; gives the length.
    fn write_path(&mut self, page: Page) -> Result<usize, ReadError> {
        let mut rest: &mut [u8] = self.path.bytes_mut();
        let written = match page {
            Page::State => rest.write_all(b"/liveness/state\0"),
            Page::Timers(n) => write!(rest, "/liveness/timers/{n}\0"),
        };
        let left = rest.len();
        match written {
            Ok(()) => Ok(PAGE - left),
            Err(_) => Err(ReadError::Errno(Errno::ENAMETOOLONG)),
        }
    }
}

impl PageReader for Hypfs {
    fn read(&mut self, page: Page) -> Result<&[u8], ReadError> {
        let path_len = self.write_path(page)?;
        self.privcmd
            .hypfs_read(&self.path, path_len, &mut self.reply)
            .map_err(ReadError::Errno)?;
        contents(self.reply.bytes()).ok_or(ReadError::Framing)
    }
}

/// The contents of a reply that must be a plain blob; `None` when it is not, or says
/// that it is longer than the buffer.
#[must_use]
pub fn contents(reply: &[u8]) -> Option<&[u8]> {
    let (direntry, rest) = reply.split_at_checked(DIRENTRY_LEN)?;
    let (kind, rest_of_direntry) = direntry.split_at_checked(2)?;
    if kind != BLOB_PLAIN {
        return None;
    }
    let len = rest_of_direntry.get(2..6)?;
    let len = u32::from_le_bytes(len.try_into().ok()?);
    rest.get(..usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u8, encoding: u8, len: u32, contents: &[u8]) -> Vec<u8> {
        let mut b = vec![kind, encoding, 0, 0];
        b.extend(len.to_le_bytes());
        b.extend([0; 4]);
        b.extend(contents);
        b
    }

    #[test]
    fn a_plain_blob_is_given_without_what_follows_it() {
        assert_eq!(contents(&reply(1, 0, 3, b"abcdef")), Some(&b"abc"[..]));
    }

    #[test]
    fn other_types_encodings_and_lengths_beyond_the_buffer_are_refused() {
        assert_eq!(contents(&reply(2, 0, 3, b"abc")), None);
        assert_eq!(contents(&reply(1, 1, 3, b"abc")), None);
        assert_eq!(contents(&reply(1, 0, 4, b"abc")), None);
        assert_eq!(contents(&reply(1, 0, u32::MAX, b"abc")), None);
        assert_eq!(contents(b"short"), None);
    }
}
