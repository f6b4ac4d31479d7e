// SPDX-License-Identifier: GPL-2.0-only
//! How records lie one after another, in a log on disk and in a message on the ring.
//!
//! A frame is the length of its contents (u32, little-endian), the first eight bytes of their SHA-256, and the
//! contents. Promises: whatever the bytes, the answer is a frame, the clean end, or where and why it is torn; never a
//! panic, and nothing is allocated by a length that was only claimed.

use sha2::{Digest, Sha256};
use std::fmt;

/// Bytes before the contents.
pub const HEAD: usize = 12;
/// Longest contents, bytes: the snapshot of a host with 4096 guests is shorter.
pub const MAX_CONTENTS: usize = 16 << 20;

/// Why there is no whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// It ends before the frame does.
    Short,
    /// It claims more than any frame has.
    TooLong,
    /// The contents are not those that were written.
    Sum,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "it ends within a record",
            Self::TooLong => "a record claims an impossible length",
            Self::Sum => "a record's checksum is wrong",
        })
    }
}

/// The first eight bytes of the SHA-256 of `bytes`.
#[must_use]
pub fn sum(bytes: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(bytes);
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(digest) {
        *to = from;
    }
    first
}

/// Appends a frame of `contents` to `to`. Contents longer than [`MAX_CONTENTS`] are none: false, and nothing is added.
pub fn put(to: &mut Vec<u8>, contents: &[u8]) -> bool {
    let length = u32::try_from(contents.len()).ok();
    let Some(length) = length.filter(|_| contents.len() <= MAX_CONTENTS) else {
        return false;
    };
    to.extend(length.to_le_bytes());
    to.extend(sum(contents));
    to.extend(contents);
    true
}

/// A frame's contents, and what follows it.
pub type Taken<'a> = (&'a [u8], &'a [u8]);

/// The first frame's contents and what follows it; none at the end.
///
/// # Errors
/// [`Torn`]: what is there is no frame.
pub fn take(bytes: &[u8]) -> Result<Option<Taken<'_>>, Torn> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(Torn::Short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_CONTENTS {
        return Err(Torn::TooLong);
    }
    let (expected, rest) = rest.split_first_chunk::<8>().ok_or(Torn::Short)?;
    let (contents, rest) = rest.split_at_checked(length).ok_or(Torn::Short)?;
    if sum(contents) != *expected {
        return Err(Torn::Sum);
    }
    Ok(Some((contents, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken_and_a_frame_cut_or_changed_anywhere_is_torn() {
        let mut bytes = Vec::new();
        assert!(put(&mut bytes, b"first") && put(&mut bytes, b""));
        let (first, rest) = take(&bytes).expect("whole").expect("one");
        assert_eq!(first, b"first");
        let (second, rest) = take(rest).expect("whole").expect("one");
        assert!(second.is_empty());
        assert_eq!(take(rest), Ok(None));
        for length in 1..HEAD + 5 {
            assert_eq!(take(&bytes[..length]), Err(Torn::Short), "{length}");
        }
        for at in 0..HEAD + 5 {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert!(take(&changed).is_err(), "{at}");
        }
    }
}
