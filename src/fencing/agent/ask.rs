// SPDX-License-Identifier: GPL-2.0-only
//! One question to the pool on this host.
//!
//! In: a request. Out: lines of JSON. Never: a wait without an end; a line without one.

use crate::control::connect;
use crate::control::protocol::{Refusal, read};
use crate::fencing::told::{EACH_S, Request};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A pool that has said nothing for so long has hung.
pub const SILENCE: Duration = Duration::from_secs(EACH_S * 3);
/// Longest line, bytes.
const MAX_LINE: u64 = 1 << 20;

/// A question that was asked.
#[derive(Debug)]
pub struct Asked {
    from: BufReader<UnixStream>,
}

impl Asked {
    /// Asks at the socket at `path`, which must take the question within `limit`.
    ///
    /// # Errors
    /// What is wrong with the socket.
    pub fn open(path: &Path, request: &Request, limit: Duration) -> Result<Self, String> {
        let asked = connect::in_time(path, limit).and_then(|mut stream| {
            stream.write_all(format!("{request}\n").as_bytes())?;
            Ok(stream)
        });
        let stream = asked.map_err(|error| {
            let path = path.display();
            format!("{path}: {error}: is xenwarden-pool running, and are you in its group?")
        })?;
        Ok(Self {
            from: BufReader::new(stream),
        })
    }

    /// The next line, which must come within `limit`.
    ///
    /// # Errors
    /// There is none in time; it is none of this kind; or the refusal.
    pub fn next<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, String> {
        let mut line = Vec::new();
        let limit = limit.max(Duration::from_millis(1));
        let got = self
            .from
            .get_ref()
            .set_read_timeout(Some(limit))
            .and_then(|()| {
                self.from
                    .by_ref()
                    .take(MAX_LINE)
                    .read_until(b'\n', &mut line)
            });
        match got {
            Ok(_) if line.last() == Some(&b'\n') => {}
            Ok(_) => return Err("the pool ended before it had answered".to_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(format!("the pool said nothing for {} s", limit.as_secs()));
            }
            Err(error) => return Err(format!("the pool's answer: {error}")),
        }
        match read(&line) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Refusal { error })) => Err(error),
            Err(error) => Err(format!("the pool's answer is not understood: {error}")),
        }
    }
}
