// SPDX-License-Identifier: GPL-2.0-only
//! Events of heartbeats: a line in the journal, and the monitor told.
//!
//! In: events. Out: a log line each, at once; the same to the monitor ([`crate::control::tell`]), in a thread of its own, again and again
//! until it is taken. Promises: nobody's absence delays the loop or loses a line; what waits for the
//! monitor is bounded, and what it loses then is counted and said.

use crate::control::protocol::Told;
use crate::control::tell::{NotTold, tell};
use crate::event::describe::plain;
use crate::event::{Kind, Severity};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Events that wait for the monitor: a loss and a return of each of a thousand heartbeats.
const QUEUE: usize = 4_096;
/// From one attempt to the next.
const AGAIN: Duration = Duration::from_secs(1);

/// The way to both.
#[derive(Clone, Debug)]
pub struct Reporter {
    queue: Option<Sender<Kind>>,
    lost: Arc<AtomicU64>,
}

impl Reporter {
    /// Starts the thread that tells the monitor whose control socket is at `to`, if events are
    /// to be told at all.
    ///
    /// # Errors
    /// The errno of starting it.
    pub fn start(to: Option<PathBuf>) -> io::Result<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let Some(to) = to else {
            return Ok(Self { queue: None, lost });
        };
        let (queue, events) = bounded(QUEUE);
        let work = move || tell_all(&events, &to);
        thread::Builder::new()
            .name("reporter".to_owned())
            .spawn(work)?;
        Ok(Self {
            queue: Some(queue),
            lost,
        })
    }

    /// Tells what happened. Does not block.
    pub fn report(&self, event: Kind) {
        let line = plain(&event.describe());
        match event.severity() {
            Severity::Info => log::info!("{line}"),
            Severity::Warning => log::warn!("{line}"),
            Severity::Error => log::error!("{line}"),
        }
        let sent = self.queue.as_ref().map(|queue| queue.try_send(event));
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that the monitor will not be told, as too many waited for it.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn tell_all(events: &Receiver<Kind>, to: &Path) {
    let mut trouble = String::new();
    for event in events {
        loop {
            let told = Told {
                guest: None,
                by: None,
                what: event.clone(),
            };
            match tell(to, told) {
                Ok(_) => trouble.clear(),
                Err(NotTold::Refused(refusal)) => {
                    let kind = event.kind();
                    log::warn!("the monitor does not take {kind}: {}", refusal.error);
                }
                Err(NotTold::Later(error)) => {
                    let why = error.to_string();
                    if why != trouble {
                        log::warn!("the monitor is not told yet: {why}; trying again");
                        trouble = why;
                    }
                    thread::sleep(AGAIN);
                    continue;
                }
            }
            break;
        }
    }
}
