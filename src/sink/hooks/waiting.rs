// SPDX-License-Identifier: GPL-2.0-only
//! Kind waits for its turn to run, with a bound for all and one for each guest.
//!
//! In: events with the hooks that want them. Out: executions in the order of their events, and
//! what was lost. Promises: a guest that makes events faster than its hooks run loses its
//! own and nobody else's; an alarm is lost only where nothing but alarms could give way to it.

use super::Job;
use crate::event::{Event, Uuid};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Executions that may wait.
const MAX_WAITING: usize = 1024;
/// Events that may wait of one guest, or of the host.
const MAX_OF_LINE: usize = 32;

/// Executions that are to be.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) jobs: VecDeque<Job>,
}

/// Whose events have to wait for each other, as far as shares of the room go.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Host,
    Uuid(Uuid),
    Domid(u16),
}

impl Line {
    fn of(event: &Event) -> Self {
        match event.guest.as_ref().map(|guest| (guest.uuid, guest.domid)) {
            None => Self::Host,
            Some((Some(uuid), _)) => Self::Uuid(uuid),
            Some((None, domid)) => Self::Domid(domid),
        }
    }
}

fn is_alarm(event: &Event) -> bool {
    event.what.kind().starts_with("alarm.")
}

impl Waiting {
    /// Adds an execution of each of the `hooks` for the event. Gives the events whose
    /// executions are lost for it, once for each.
    pub(super) fn add(
        &mut self,
        event: &Arc<Event>,
        hooks: impl Iterator<Item = usize>,
    ) -> Vec<Arc<Event>> {
        let hooks: Vec<usize> = hooks.collect();
        let mut lost = Vec::new();
        if hooks.is_empty() {
            return lost;
        }
        let line = Line::of(event);
        if self.events_of(line) >= MAX_OF_LINE {
            let room = if is_alarm(event) {
                self.push_out_of(line)
            } else {
                Vec::new()
            };
            if room.is_empty() {
                return vec![Arc::clone(event); hooks.len()];
            }
            lost = room;
        }
        for hook in hooks {
            if self.jobs.len() >= MAX_WAITING {
                let given_way = is_alarm(event).then(|| self.push_out()).flatten();
                let has_room = given_way.is_some();
                lost.push(given_way.unwrap_or_else(|| Arc::clone(event)));
                if !has_room {
                    continue;
                }
            }
            self.jobs.push_back(Job {
                event: Arc::clone(event),
                hook,
            });
        }
        lost
    }

    /// Events of the line, of which executions stand next to each other.
    fn events_of(&self, line: Line) -> usize {
        let mut last = None;
        let of_line = self.jobs.iter().filter(|job| Line::of(&job.event) == line);
        let first = of_line.filter(|job| last.replace(job.event.seq) != Some(job.event.seq));
        first.count()
    }

    /// Takes out the line's newest event that is no alarm.
    fn push_out_of(&mut self, line: Line) -> Vec<Arc<Event>> {
        let gives_way = |job: &&Job| Line::of(&job.event) == line && !is_alarm(&job.event);
        let newest = self.jobs.iter().rev().find(gives_way);
        let Some(seq) = newest.map(|job| job.event.seq) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        self.jobs.retain(|job| {
            let stays = job.event.seq != seq;
            if !stays {
                out.push(Arc::clone(&job.event));
            }
            stays
        });
        out
    }

    /// Takes out the newest execution for no alarm, of the longest line that has one.
    fn push_out(&mut self) -> Option<Arc<Event>> {
        let mut lengths: HashMap<Line, usize> = HashMap::new();
        for job in &self.jobs {
            *lengths.entry(Line::of(&job.event)).or_default() += 1;
        }
        let candidates = self.jobs.iter().enumerate();
        let candidates = candidates.filter(|(_, job)| !is_alarm(&job.event));
        let length = |job: &Job| lengths.get(&Line::of(&job.event)).copied();
        // The last of several with the greatest length, which is the newest.
        let (index, _) = candidates.max_by_key(|(_, job)| length(job))?;
        self.jobs.remove(index).map(|job| job.event)
    }
}
