// SPDX-License-Identifier: GPL-2.0-only
//! What waits for its turn to run: a bounded queue for each guest, and one for the host.
//!
//! In: events with the hooks that want them, and the ends of executions. Out: executions, one
//! queue after the other, each queue's in the order of its events; and what was lost. Promises:
//! a guest that makes events faster than its hooks run loses its own and nobody else's; an
//! alarm is lost only where nothing but alarms could give way to it.

use super::Job;
use crate::event::{Event, Uuid};
use std::collections::VecDeque;
use std::sync::Arc;

/// Lines that may be there.
const MAX_QUEUES: usize = 1024;
/// Events that may wait in one.
const MAX_QUEUED: usize = 32;

/// QueueKey events have to wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueKey {
    Host,
    Uuid(Uuid),
    Domid(u16),
}

impl QueueKey {
    fn of(event: &Event) -> Self {
        match event.guest.as_ref().map(|guest| (guest.uuid, guest.domid)) {
            None => Self::Host,
            Some((Some(uuid), _)) => Self::Uuid(uuid),
            Some((None, domid)) => Self::Domid(domid),
        }
    }
}

/// An event, and the hooks that it is to be run for.
struct QueuedEvent {
    event: Arc<Event>,
    hooks: VecDeque<usize>,
}

impl QueuedEvent {
    fn is_alarm(&self) -> bool {
        self.event.what.kind().starts_with("alarm.")
    }

    /// The event, once for each execution that does not take place.
    fn lose(self) -> impl Iterator<Item = Arc<Event>> {
        self.hooks.into_iter().map(move |_| Arc::clone(&self.event))
    }
}

struct GuestQueue {
    key: QueueKey,
    /// Executions that run, all for one event.
    running: usize,
    /// The first may have begun: its other hooks then run beside those.
    events: VecDeque<QueuedEvent>,
    begun: bool,
}

impl GuestQueue {
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
    fn add(&mut self, queued: QueuedEvent) -> Vec<Arc<Event>> {
        let mut lost = None;
        if self.events.len() >= MAX_QUEUED {
            let newest = self.events.iter().rposition(|other| !other.is_alarm());
            match newest.filter(|n| queued.is_alarm() && !(*n == 0 && self.begun)) {
                Some(newest) => lost = self.events.remove(newest),
                None => return queued.lose().collect(),
            }
        }
        self.events.push_back(queued);
        lost.into_iter().flat_map(QueuedEvent::lose).collect()
    }
}

/// Executions that are to be, in the order in which their queues have their turns.
#[derive(Default)]
pub(super) struct HookQueues {
    queues: VecDeque<GuestQueue>,
}

impl HookQueues {
    /// Adds an execution of each of the `hooks` for the event. Gives the events key
    /// executions are lost for it, once for each.
    pub(super) fn add(&mut self, event: &Arc<Event>, hooks: VecDeque<usize>) -> Vec<Arc<Event>> {
        if hooks.is_empty() {
            return Vec::new();
        }
        let queued = QueuedEvent {
            event: Arc::clone(event),
            hooks,
        };
        let key = QueueKey::of(event);
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.key == key) {
            return queue.add(queued);
        }
        let mut lost = Vec::new();
        if self.queues.len() >= MAX_QUEUES {
            let may_go = |queue: &GuestQueue| {
                queue.running == 0 && !queue.events.iter().any(QueuedEvent::is_alarm)
            };
            let gives_way = self.queues.iter().rposition(may_go);
            match gives_way.filter(|_| queued.is_alarm()) {
                Some(at) => lost.extend(self.queues.remove(at)),
                None => return queued.lose().collect(),
            }
        }
        self.queues.push_back(GuestQueue {
            key,
            running: 0,
            events: VecDeque::from([queued]),
            begun: false,
        });
        let lost = lost.into_iter().flat_map(|queue| queue.events);
        lost.flat_map(QueuedEvent::lose).collect()
    }

    /// The next execution: of the first queue that may go on, which then is the last.
    pub(super) fn next(&mut self) -> Option<Job> {
        let queues = self.queues.iter_mut().enumerate();
        let (at, job) = queues
            .into_iter()
            .find_map(|(at, queue)| Some((at, queue.next()?)))?;
        if let Some(queue) = self.queues.remove(at) {
            self.queues.push_back(queue);
        }
        Some(job)
    }

    /// An execution for this event has ended.
    pub(super) fn ended(&mut self, event: &Event) {
        let key = QueueKey::of(event);
        let Some(at) = self.queues.iter().position(|queue| queue.key == key) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(at) else {
            return;
        };
        queue.running = queue.running.saturating_sub(1);
        if queue.running == 0 && queue.events.is_empty() {
            self.queues.remove(at);
        }
    }

    /// Whether no queue has anything to run or running.
    pub(super) fn is_idle(&self) -> bool {
        self.queues.is_empty()
    }

    /// Gives up all that queued: the events, once for each execution.
    pub(super) fn give_up(self) -> Vec<Arc<Event>> {
        let events = self.queues.into_iter().flat_map(|queue| queue.events);
        events.flat_map(QueuedEvent::lose).collect()
    }
}
