// SPDX-License-Identifier: GPL-2.0-only
//! The event bus: one order of events for every sink.
//!
//! In: what any ordinary thread publishes. Out: the stamped event in each sink's own
//! bounded queue. Promises: to publish never waits for a sink; all sinks see the same
//! order; a full queue loses the event for that sink alone, and the loss is counted and
//! becomes a `sink.dropped` event. The real-time threads must never publish: there is a
//! lock, held for no longer than the stamping and the queueing take.

use crate::event::sequence::Sequence;
use crate::event::{Event, Guest, Kind, Timestamp, VERSION};
use crate::sys::clock::Monotonic;
use crate::sys::wake::waking_pair;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// At most one `sink.dropped` for each sink in this time; also how long losses may go
/// untold while the queue stays full.
const REPORT_EVERY_NS: u64 = 10_000_000_000;

/// Publishes events to the sinks that are attached.
#[derive(Debug)]
pub struct Bus {
    host: Arc<str>,
    inner: Mutex<Inner>,
    /// When the sinks must have ended; set once, with the lock held, as the bus is closed.
    ends: OnceLock<Instant>,
}

#[derive(Debug)]
struct Inner {
    sequence: Arc<Sequence>,
    /// Events of each kind.
    counts: BTreeMap<&'static str, u64>,
    attached: Vec<AttachedSink>,
}

/// A sink's end of the bus.
#[derive(Debug)]
struct AttachedSink {
    sink: &'static str,
    /// None once the bus is closed, and for a sink that only reports failures. It takes memory for what waits in it
    /// alone; one of crossbeam's that is bounded has all of its slots from the start.
    queue: Option<Sender<Arc<Event>>>,
    /// Events that may wait in it. Nobody else sends, and we hold the bus's lock: it never has more.
    capacity: usize,
    /// Written to after each event, for a sink that waits in poll(2).
    wake: Option<UnixStream>,
    losses: Losses,
}

#[derive(Debug, Default)]
struct Losses {
    /// Since the start.
    total: u64,
    /// Those that a `sink.dropped` has told.
    told: u64,
    /// When the oldest happened that is to be told.
    since: Option<Monotonic>,
    /// When the last `sink.dropped` was published.
    last_told: Option<Monotonic>,
}

impl Losses {
    /// `when` is None for the loss of a report: that is told with the next other loss, or
    /// reports to a sink that takes none would breed for ever.
    fn add(&mut self, count: u64, when: Option<Monotonic>) {
        self.total = self.total.saturating_add(count);
        if count > 0 && self.since.is_none() {
            self.since = when;
        }
    }

    fn due(&self, now: Monotonic, has_room: bool) -> bool {
        let long_ago = |t: Monotonic| now.since_ns(t) >= REPORT_EVERY_NS;
        let untold = self.since.is_some_and(|since| has_room || long_ago(since));
        untold && self.last_told.is_none_or(long_ago)
    }

    /// Marks everything as told; gives what is to be told.
    fn tell(&mut self, sink: &str, now: Monotonic) -> Kind {
        let count = self.total - self.told;
        self.told = self.total;
        self.since = None;
        self.last_told = Some(now);
        Kind::SinkDropped {
            sink: sink.to_owned(),
            count,
            total: self.total,
        }
    }
}

impl AttachedSink {
    fn offer(&mut self, event: &Arc<Event>, now: Monotonic) {
        let Some(queue) = &self.queue else {
            return;
        };
        // Full, or its sink has died: lost for this sink either way.
        if !self.has_room() || queue.send(Arc::clone(event)).is_err() {
            let is_report = matches!(event.what, Kind::SinkDropped { .. });
            self.losses.add(1, (!is_report).then_some(now));
        }
        if let Some(wake) = &mut self.wake {
            // Not blocking; full means that it is readable already.
            let _ = wake.write(&[0]);
        }
    }

    fn has_room(&self) -> bool {
        let queue = self.queue.as_ref();
        queue.is_none_or(|queue| queue.len() < self.capacity)
    }
}

impl Inner {
    fn stamp(&mut self, host: &Arc<str>, guest: Option<Guest>, what: Kind, now: Monotonic) -> u64 {
        let seq = self.sequence.next();
        *self.counts.entry(what.kind()).or_default() += 1;
        let event = Arc::new(Event {
            version: VERSION,
            seq,
            time: Timestamp::now(),
            monotonic_ns: now.0,
            host: Arc::clone(host),
            severity: what.severity(),
            guest,
            what,
        });
        for attached in &mut self.attached {
            attached.offer(&event, now);
        }
        seq
    }

    /// Publishes what is due to be told of losses.
    fn report(&mut self, host: &Arc<str>, now: Monotonic) {
        let due = self.attached.iter_mut().filter_map(|attached| {
            let has_room = attached.has_room();
            let losses = &mut attached.losses;
            losses
                .due(now, has_room)
                .then(|| losses.tell(attached.sink, now))
        });
        let due: Vec<Kind> = due.collect();
        for what in due {
            self.stamp(host, None, what, now);
        }
    }

    /// Changes a sink's entry, which is made where there is none yet.
    fn with_sink(&mut self, sink: &'static str, change: impl FnOnce(&mut AttachedSink)) {
        if let Some(attached) = self.attached.iter_mut().find(|o| o.sink == sink) {
            return change(attached);
        }
        let mut attached = AttachedSink {
            sink,
            queue: None,
            capacity: 0,
            wake: None,
            losses: Losses::default(),
        };
        change(&mut attached);
        self.attached.push(attached);
    }
}

impl Bus {
    /// A bus for the host of this name whose first event has the number `first_seq`.
    #[must_use]
    pub fn new(host: Arc<str>, first_seq: u64) -> Self {
        Self::numbered(host, Arc::new(Sequence::from(first_seq)))
    }

    /// A bus for the host of this name whose events have these numbers.
    #[must_use]
    pub fn numbered(host: Arc<str>, sequence: Arc<Sequence>) -> Self {
        Self {
            host,
            inner: Mutex::new(Inner {
                sequence,
                counts: BTreeMap::new(),
                attached: Vec::new(),
            }),
            ends: OnceLock::new(),
        }
    }

    /// Nothing that holds the lock can panic half-way through a change that matters.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a sink with a queue of `capacity` events. A sink attached twice gives up
    /// its first queue; one attached after [`Bus::close`] gets a queue that has ended.
    pub fn attach(&self, sink: &'static str, capacity: usize) -> Receiver<Arc<Event>> {
        self.connect(sink, capacity, None)
    }

    /// The same for a sink that waits in poll(2): the stream, non-blocking, becomes readable with each
    /// event and at the end.
    ///
    /// # Errors
    /// The errno of socketpair(2).
    pub fn attach_waking(
        &self,
        sink: &'static str,
        capacity: usize,
    ) -> io::Result<(Receiver<Arc<Event>>, UnixStream)> {
        let (wake, woken) = waking_pair()?;
        Ok((self.connect(sink, capacity, Some(wake)), woken))
    }

    fn connect(
        &self,
        sink: &'static str,
        capacity: usize,
        wake: Option<UnixStream>,
    ) -> Receiver<Arc<Event>> {
        let (send, receive) = unbounded();
        let mut inner = self.lock();
        if !self.is_closed() {
            inner.with_sink(sink, |attached| {
                attached.queue = Some(send);
                attached.capacity = capacity;
                attached.wake = wake;
            });
        }
        receive
    }

    /// Stamps an event and offers it to every sink; gives its number. For ordinary
    /// threads: never blocks on a sink, but takes a lock and allocates.
    pub fn publish(&self, guest: Option<Guest>, what: Kind) -> u64 {
        let now = Monotonic::now();
        let mut inner = self.lock();
        let seq = inner.stamp(&self.host, guest, what, now);
        inner.report(&self.host, now);
        seq
    }

    /// Counts `count` events that a sink took and then lost: it could not deliver them.
    pub fn count_failed(&self, sink: &'static str, count: u64) {
        let now = Monotonic::now();
        self.lock()
            .with_sink(sink, |attached| attached.losses.add(count, Some(now)));
    }

    /// Counts a failure that is to be told only with the next other one: where each
    /// telling would cause it again.
    pub fn count_untold(&self, sink: &'static str) {
        self.lock()
            .with_sink(sink, |attached| attached.losses.add(1, None));
    }

    /// Counts an event that a sink took and then lost. That a report was lost is not
    /// reported by itself.
    pub fn count_undelivered(&self, sink: &'static str, event: &Event) {
        match event.what {
            Kind::SinkDropped { .. } => self.count_untold(sink),
            _ => self.count_failed(sink, 1),
        }
    }

    /// Publishes the `sink.dropped` events that are due. [`Bus::publish`] does so too; to
    /// be called about once a second for the times when nothing else happens.
    pub fn report_drops(&self) {
        self.report_drops_at(Monotonic::now());
    }

    /// The same at a time of the caller's: for tests.
    pub fn report_drops_at(&self, now: Monotonic) {
        self.lock().report(&self.host, now);
    }

    /// Events that each sink lost since the start, for want of room or by its own failures.
    #[must_use]
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let inner = self.lock();
        let attached = inner.attached.iter();
        attached.map(|o| (o.sink, o.losses.total)).collect()
    }

    /// Events of each kind since the start; kinds that never came are missing.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let inner = self.lock();
        inner.counts.iter().map(|(kind, n)| (*kind, *n)).collect()
    }

    /// The number that the next event will have.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.lock().sequence.peek()
    }

    /// Ends every queue: the sinks do until `deadline` what they can with what they have,
    /// count the rest, and end. Later events are stamped and go nowhere.
    pub fn close(&self, deadline: Instant) {
        let mut inner = self.lock();
        self.ends.get_or_init(|| deadline);
        for attached in &mut inner.attached {
            attached.queue = None;
            attached.wake = None;
        }
    }

    /// Whether [`Bus::close`] was called. Once this is true, nothing more comes into any queue.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ends.get().is_some()
    }

    /// Whether the sinks' time is up.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ends.get().is_some_and(|at| Instant::now() >= *at)
    }
}
