// SPDX-License-Identifier: GPL-2.0-only
//! The pre-shared key of a sealed heartbeat.
//!
//! In: a file that others cannot read. Out: seals. Never: its bytes in a message.

use super::plan::open_at_once;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes of a key.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;

/// A pre-shared key. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// The bytes of a file, but for one line feed at their end: 16 to 4096. Blocks as reading does.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn read(path: &Path) -> Result<Self, String> {
        let read = || -> io::Result<(u32, Vec<u8>)> {
            let file = open_at_once(path)?;
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::Error::other("not a plain file"));
            }
            let mut bytes = Vec::new();
            let most = u64::try_from(*KEY_LENGTHS.end()).unwrap_or(u64::MAX);
            file.take(most.saturating_add(2)).read_to_end(&mut bytes)?;
            Ok((found.mode(), bytes))
        };
        let (mode, bytes) = read().map_err(|error| format!("{}: {error}", path.display()))?;
        if mode & 0o007 != 0 {
            let path = path.display();
            return Err(format!(
                "{path}: others may use this key: take that from them (chmod o-rwx {path})"
            ));
        }
        Self::from_bytes(bytes).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// The same of bytes at hand.
    ///
    /// # Errors
    /// They are too few, or too many.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if !KEY_LENGTHS.contains(&bytes.len()) {
            let n = bytes.len();
            return Err(format!(
                "a key has 16 to 4096 bytes, this one {n}: openssl rand -hex 32 makes one"
            ));
        }
        Ok(Self(bytes))
    }

    /// HMAC-SHA256 (RFC 2104, FIPS 180-4). A key of any length is lawful.
    pub(super) fn mac(&self, name: &str, signed: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(signed);
        mac.update(name.as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_others_may_read_or_that_is_too_short_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("xenwarden-key-{}", std::process::id()));
        let modes = [(0o600, true), (0o640, true), (0o644, false), (0o602, false)];
        std::fs::write(&path, "0123456789abcdef\n").expect("written");
        for (mode, fine) in modes {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("set");
            assert_eq!(Key::read(&path).is_ok(), fine, "{mode:o}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(Key::read(&path).is_err());
        assert!(Key::from_bytes(vec![7; 15]).is_err());
        assert!(Key::from_bytes(vec![7; 4097]).is_err());
        assert_eq!(
            format!("{:?}", Key::from_bytes(vec![65; 16])),
            "Ok(Key(..))"
        );
    }
}
