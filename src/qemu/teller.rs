// SPDX-License-Identifier: GPL-2.0-only
//! Events, to the monitor: a thread of its own, as the monitor may be down or slow.
//!
//! In: events, in their order. Out: the same, over the monitor's control socket. Nobody who has an
//! event waits. What the monitor does not take is told again until it does; an event that was
//! taken without an answer is so told twice, never lost. While it is down [`MOST`] wait, a quarter of
//! them of one VM at most; what comes then is lost to it, counted, and in the log alone. VMs are
//! served in turn, so that one whose events flood holds up no other's.

use super::pace::Lines;
use crate::control::protocol::Told;
use crate::control::tell::{NotTold, tell};
use crate::event::{Guest, Kind};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Events that may wait.
pub const MOST: usize = 4_096;
/// And of one VM.
const MOST_OF_ONE: usize = MOST / 4;
/// Those that may of any VM, however many of others do.
const ALWAYS: usize = 16;
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the end waits for events that were not told.
const END: Duration = Duration::from_secs(2);

/// Where events are handed over.
#[derive(Debug)]
pub struct Teller {
    /// None where nobody is to be told.
    wake: Option<Sender<()>>,
    queues: Arc<Mutex<Queues>>,
    lost: Mutex<(u64, Lines)>,
    /// Who tells.
    by: String,
}

/// Events that wait, by the names of their VMs.
#[derive(Debug, Default)]
struct Queues {
    of: BTreeMap<Arc<str>, VecDeque<Told>>,
    /// The VMs of which some wait, whose turn it is first.
    turns: VecDeque<Arc<str>>,
    waiting: usize,
}

impl Queues {
    /// False where it has no room.
    fn push(&mut self, told: Told) -> bool {
        let name = told.guest.as_ref().and_then(|guest| guest.name.clone());
        let name = name.unwrap_or_else(|| "".into());
        let queue = self.of.entry(Arc::clone(&name)).or_default();
        let full = self.waiting >= MOST && queue.len() >= ALWAYS;
        if full || queue.len() >= MOST_OF_ONE {
            return false;
        }
        if queue.is_empty() {
            self.turns.push_back(name);
        }
        queue.push_back(told);
        self.waiting += 1;
        true
    }

    fn pop(&mut self) -> Option<Told> {
        let name = self.turns.pop_front()?;
        let queue = self.of.get_mut(&name)?;
        let told = queue.pop_front()?;
        if !queue.is_empty() {
            self.turns.push_back(name);
        }
        self.waiting -= 1;
        Some(told)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
#[derive(Debug)]
pub struct Telling {
    thread: Option<JoinHandle<()>>,
    stop: Sender<()>,
}

/// Starts telling the monitor whose control socket is at `socket`, as the process whose own is `by`; none:
/// nobody.
///
/// # Errors
/// There can be no thread.
pub fn start(socket: Option<PathBuf>, by: &Path) -> std::io::Result<(Teller, Telling)> {
    let queues = Arc::new(Mutex::new(Queues::default()));
    let (wake, woken) = bounded(1);
    let (stop, stopped) = bounded(1);
    let wake = socket.is_some().then_some(wake);
    let events = Arc::clone(&queues);
    let thread = socket.map(|socket| {
        thread::Builder::new()
            .name("teller".to_owned())
            .spawn(move || run(&socket, &events, &woken, &stopped))
    });
    let thread = thread.transpose()?;
    let lost = Mutex::new((0, Lines::new(1)));
    let teller = Teller {
        wake,
        queues,
        lost,
        by: by.display().to_string(),
    };
    Ok((teller, Telling { thread, stop }))
}

impl Teller {
    /// Hands over an event. Does not wait.
    pub fn tell(&self, guest: Guest, what: Kind) {
        let Some(wake) = &self.wake else {
            return;
        };
        let kind = what.kind();
        let told = Told {
            guest: Some(guest),
            by: Some(self.by.clone()),
            what,
        };
        if lock(&self.queues).push(told) {
            // Where one waits already, the thread sees this event as well.
            let _ = wake.try_send(());
            return;
        }
        let mut lost = lock(&self.lost);
        lost.0 += 1;
        if lost.1.may_say(Instant::now()) {
            log::error!(
                "the monitor does not take events as they come, {} are lost: {kind}",
                lost.0
            );
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

fn run(socket: &Path, events: &Mutex<Queues>, woken: &Receiver<()>, stop: &Receiver<()>) {
    let mut stopping = false;
    let mut trouble = false;
    loop {
        stopping |= stop.try_recv().is_ok();
        let next = lock(events).pop();
        let Some(told) = next else {
            if stopping {
                return;
            }
            crossbeam_channel::select! {
                recv(woken) -> event => if event.is_err() { return },
                recv(stop) -> _ => stopping = true,
            }
            continue;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NO_DOMAIN;

    fn of(name: &str) -> Told {
        let guest = Guest {
            uuid: None,
            domid: NO_DOMAIN,
            name: Some(name.into()),
        };
        Told {
            guest: Some(guest),
            by: None,
            what: Kind::AlarmRaised { expiries: 1 },
        }
    }

    fn name(told: Option<Told>) -> Option<String> {
        Some(told?.guest?.name?.as_ref().to_owned())
    }

    #[test]
    fn a_vm_that_floods_takes_a_quarter_and_holds_up_no_other() {
        let mut queues = Queues::default();
        let taken = (0..2 * MOST).filter(|_| queues.push(of("loud"))).count();
        assert_eq!(taken, MOST / 4);
        assert!(queues.push(of("quiet")));
        assert_eq!(name(queues.pop()).as_deref(), Some("loud"));
        assert_eq!(name(queues.pop()).as_deref(), Some("quiet"));
        let left = std::iter::from_fn(|| queues.pop()).count();
        assert_eq!((left, queues.waiting), (MOST / 4 - 1, 0));
    }

    #[test]
    fn however_many_flood_a_quiet_vm_has_room() {
        let mut queues = Queues::default();
        for loud in 0..8 {
            for _ in 0..MOST {
                queues.push(of(&loud.to_string()));
            }
        }
        assert!((0..ALWAYS).all(|_| queues.push(of("quiet"))));
        assert!(queues.waiting <= 2 * MOST);
    }
}
