// SPDX-License-Identifier: GPL-2.0-only
//! The log out of dom0, through the emulated debug port.
//!
//! The port takes a byte with one I/O instruction: no interrupt, no driver, no buffer, not Xen's console. So a log that `dom0-tee`
//! writes there comes out of many a wedged host. See [`xenwarden_lab_dom0::port`].

use super::mailbox::Mailbox;
use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

/// All lines that came out of the port so far.
#[derive(Clone, Default)]
pub struct Log(Mailbox<Line>);

#[derive(Clone)]
struct Line {
    came: Instant,
    text: String,
}

impl Log {
    /// Reads `port` until its end, in a thread of its own.
    pub fn follow(port: impl Read + Send + 'static) -> Self {
        let log = Log::default();
        let mailbox = log.0.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(port)
                .split(b'\n')
                .map_while(|line| line.ok());
            lines.for_each(|line| {
                mailbox.put(Line {
                    came: Instant::now(),
                    text: String::from_utf8_lossy(&line).into_owned(),
                })
            });
            mailbox.close();
        });
        log
    }

    /// How many lines there are: what comes later is new.
    pub fn length(&self) -> usize {
        self.0.with(|lines| lines.len())
    }

    /// The lines from the `first`-th on.
    pub fn lines_from(&self, first: usize) -> Vec<String> {
        self.0.with(|lines| {
            lines[first.min(lines.len())..]
                .iter()
                .map(|line| line.text.clone())
                .collect()
        })
    }

    /// Waits until one of the lines from the `first`-th on contains `text`.
    pub fn wait_line(&self, first: usize, limit: Duration, text: &str) -> Option<String> {
        let line = self.wait_for(first, limit, &[text]);
        line.map(|(_, line)| line)
    }

    /// Waits until one of the lines from the `first`-th on contains all of `parts`; when that came, by this machine's clock, and the line.
    pub fn wait_for(
        &self,
        first: usize,
        limit: Duration,
        parts: &[&str],
    ) -> Option<(Instant, String)> {
        self.0.wait(limit, |lines| {
            let mut lines = lines.iter().skip(first);
            let line = lines.find(|line| parts.iter().all(|part| line.text.contains(part)))?;
            Some((line.came, line.text.clone()))
        })
    }
}
