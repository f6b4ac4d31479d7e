// SPDX-License-Identifier: GPL-2.0-only
//! What waits for its turn to run: a bounded line for each guest, and one for the host.
//!
//! In: events with the hooks that want them, and the ends of executions. Out: executions, one
//! line after the other, each line's in the order of its events; and what was lost. Promises:
//! a guest that makes events faster than its hooks run loses its own and nobody else's; an
//! alarm is lost only where nothing but alarms could give way to it.

use super::Job;
use crate::event::{Event, Uuid};
use std::collections::VecDeque;
use std::sync::Arc;

/// Lines that may be there.
const MAX_LINES: usize = 1024;
/// Events that may wait in one.
const MAX_OF_LINE: usize = 32;

/// Whose events have to wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Host,
    Uuid(Uuid),
    Domid(u16),
}

impl Whose {
    fn of(event: &Event) -> Self {
        match event.guest.as_ref().map(|guest| (guest.uuid, guest.domid)) {
            None => Self::Host,
            Some((Some(uuid), _)) => Self::Uuid(uuid),
            Some((None, domid)) => Self::Domid(domid),
        }
    }
}

/// An event, and the hooks that it is to be run for.
struct Waits {
    event: Arc<Event>,
    hooks: VecDeque<usize>,
}

impl Waits {
    fn is_alarm(&self) -> bool {
        self.event.what.kind().starts_with("alarm.")
    }

    /// The event, once for each execution that does not take place.
    fn lose(self) -> impl Iterator<Item = Arc<Event>> {
        self.hooks.into_iter().map(move |_| Arc::clone(&self.event))
    }
}

struct Line {
    whose: Whose,
    /// Executions that run, all for one event.
    running: usize,
    /// The first may have begun: its other hooks then run beside those.
    events: VecDeque<Waits>,
    begun: bool,
}

impl Line {
    fn next(&mut self) -> Option<Job> {
        if self.running > 0 && !self.begun {
            return None;
        }
        let first = self.events.front_mut()?;
        let hook = first.hooks.pop_front()?;
        let event = Arc::clone(&first.event);
        self.begun = !first.hooks.is_empty();
        if !self.begun {
            self.events.pop_front();
        }
        self.running += 1;
        Some(Job { event, hook })
    }

    /// Adds an event, or loses one.
    fn add(&mut self, waits: Waits) -> Vec<Arc<Event>> {
        let mut lost = None;
        if self.events.len() >= MAX_OF_LINE {
            let newest = self.events.iter().rposition(|other| !other.is_alarm());
            match newest.filter(|n| waits.is_alarm() && !(*n == 0 && self.begun)) {
                Some(newest) => lost = self.events.remove(newest),
                None => return waits.lose().collect(),
            }
        }
        self.events.push_back(waits);
        lost.into_iter().flat_map(Waits::lose).collect()
    }
}

/// Executions that are to be, in the order in which their lines have their turns.
#[derive(Default)]
pub(super) struct Waiting {
    lines: VecDeque<Line>,
}

impl Waiting {
    /// Adds an execution of each of the `hooks` for the event. Gives the events whose
    /// executions are lost for it, once for each.
    pub(super) fn add(&mut self, event: &Arc<Event>, hooks: VecDeque<usize>) -> Vec<Arc<Event>> {
        if hooks.is_empty() {
            return Vec::new();
        }
        let waits = Waits {
            event: Arc::clone(event),
            hooks,
        };
        let whose = Whose::of(event);
        if let Some(line) = self.lines.iter_mut().find(|line| line.whose == whose) {
            return line.add(waits);
        }
        let mut lost = Vec::new();
        if self.lines.len() >= MAX_LINES {
            let may_go =
                |line: &Line| line.running == 0 && !line.events.iter().any(Waits::is_alarm);
            let gives_way = self.lines.iter().rposition(may_go);
            match gives_way.filter(|_| waits.is_alarm()) {
                Some(at) => lost.extend(self.lines.remove(at)),
                None => return waits.lose().collect(),
            }
        }
        self.lines.push_back(Line {
            whose,
            running: 0,
            events: VecDeque::from([waits]),
            begun: false,
        });
        let lost = lost.into_iter().flat_map(|line| line.events);
        lost.flat_map(Waits::lose).collect()
    }

    /// The next execution: of the first line that may go on, which then is the last.
    pub(super) fn next(&mut self) -> Option<Job> {
        let lines = self.lines.iter_mut().enumerate();
        let (at, job) = lines
            .into_iter()
            .find_map(|(at, line)| Some((at, line.next()?)))?;
        if let Some(line) = self.lines.remove(at) {
            self.lines.push_back(line);
        }
        Some(job)
    }

    /// An execution for this event has ended.
    pub(super) fn ended(&mut self, event: &Event) {
        let whose = Whose::of(event);
        let Some(at) = self.lines.iter().position(|line| line.whose == whose) else {
            return;
        };
        let Some(line) = self.lines.get_mut(at) else {
            return;
        };
        line.running = line.running.saturating_sub(1);
        if line.running == 0 && line.events.is_empty() {
            self.lines.remove(at);
        }
    }

    /// Whether no line has anything to run or running.
    pub(super) fn is_idle(&self) -> bool {
        self.lines.is_empty()
    }

    /// Gives up all that waits: the events, once for each execution.
    pub(super) fn give_up(self) -> Vec<Arc<Event>> {
        let events = self.lines.into_iter().flat_map(|line| line.events);
        events.flat_map(Waits::lose).collect()
    }
}
