// SPDX-License-Identifier: GPL-2.0-only
//! Events, to the monitor: a thread of its own, as the monitor may be down or slow.
//!
//! In: events, in their order. Out: the same, over the monitor's control socket. Nobody who has an
//! event waits. What the monitor does not take is told again until it does; an event that was
//! taken without an answer is so told twice, never lost. While it is down [`MOST`] wait; what comes
//! then is lost to it, counted, and in the log alone.

use crate::control::protocol::Told;
use crate::control::tell::{NotTold, tell};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Events that may wait.
pub const MOST: usize = 4_096;
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end waits for events that were not told.
const END: Duration = Duration::from_secs(2);

/// Where events are handed over.
#[derive(Debug)]
pub struct Teller {
    queue: Sender<Told>,
    lost: AtomicU64,
}

/// The thread.
#[derive(Debug)]
pub struct Telling {
    thread: Option<JoinHandle<()>>,
    stop: Sender<()>,
}

/// Starts telling the monitor whose control socket is at `socket`; none: nobody.
///
/// # Errors
/// There can be no thread.
pub fn start(socket: Option<PathBuf>) -> std::io::Result<(Teller, Telling)> {
    let (queue, events) = bounded(MOST);
    let (stop, stopped) = bounded(1);
    let thread = socket.map(|socket| {
        thread::Builder::new()
            .name("teller".to_owned())
            .spawn(move || run(&socket, &events, &stopped))
    });
    let lost = AtomicU64::new(0);
    let thread = thread.transpose()?;
    Ok((Teller { queue, lost }, Telling { thread, stop }))
}

impl Teller {
    /// Hands over an event. Does not wait.
    pub fn tell(&self, told: Told) {
        match self.queue.try_send(told) {
            Err(TrySendError::Full(told)) => {
                let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
                log::error!(
                    "the monitor takes no events, {lost} are lost: {}",
                    told.what.kind()
                );
            }
            // Nobody is to be told.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Telling {
    /// Ends the thread once all is told, but within about two seconds.
    pub fn end(self) {
        let _ = self.stop.send(());
        let deadline = Instant::now() + END;
        while let Some(thread) = &self.thread {
            if thread.is_finished() || Instant::now() >= deadline {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn run(socket: &Path, events: &Receiver<Told>, stop: &Receiver<()>) {
    let mut stopping = false;
    let mut trouble = false;
    loop {
        let next = if stopping {
            events.try_recv().map_err(|_| RecvTimeoutError::Timeout)
        } else {
            crossbeam_channel::select! {
                recv(events) -> event => event.map_err(|_| RecvTimeoutError::Disconnected),
                recv(stop) -> _ => { stopping = true; continue },
            }
        };
        let Ok(told) = next else {
            return;
        };
        loop {
            match tell(socket, told.clone()) {
                Ok(_) => {
                    trouble = false;
                    break;
                }
                Err(NotTold::Refused(refusal)) => {
                    log::error!(
                        "the monitor refuses {}: {}",
                        told.what.kind(),
                        refusal.error
                    );
                    break;
                }
                Err(NotTold::Later(error)) => {
                    if !std::mem::replace(&mut trouble, true) {
                        log::warn!("{}: {error}: events wait for the monitor", socket.display());
                    }
                }
            }
            if stopping {
                log::warn!("{} was not told to the monitor", told.what.kind());
                return;
            }
            stopping = stop.recv_timeout(AGAIN).is_ok();
        }
    }
}
