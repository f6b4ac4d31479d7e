// SPDX-License-Identifier: GPL-2.0-only
//! The events that are kept for replay, in little memory.
//!
//! In: events, in order. Out: the most recent of them, as they were. Nearly all that a host with many guests keeps is what
//! guests do in their ordinary lives: such an event takes a third of what it takes as an [`Event`] of its own. Promise: what comes out
//! equals what came in; whatever would not is kept as a whole. Never: more than were to be kept.

use crate::event::{Cause, Event, Gap, Guest, Kind, Timestamp, Uuid, VERSION};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

/// The most recent events.
#[derive(Debug)]
pub(crate) struct Kept {
    events: VecDeque<KeptEvent>,
    keep: usize,
    /// The number that the next event will have, as far as is known here.
    next_seq: u64,
    /// The host's name, which all of its events bear.
    host: Option<Arc<str>>,
}

#[derive(Debug)]
enum KeptEvent {
    /// One of those that are kept in little memory.
    Small(SmallEvent),
    /// Any other.
    Whole(Arc<Event>),
}

/// All of an event of a guest's that is not the same for each, or follows from the rest.
#[derive(Clone, Debug)]
struct SmallEvent {
    seq: u64,
    time: Timestamp,
    monotonic_ns: u64,
    uuid: Uuid,
    name: Option<Arc<str>>,
    domid: u16,
    what: SmallKind,
}

/// The kinds of the events in a guest's ordinary life, with their fields as in [`Kind`]. Milliseconds of more than 49 days make it
/// an event of those that are kept as a whole.
#[derive(Clone, Copy, Debug)]
enum SmallKind {
    Armed {
        slot: u8,
        timeout_s: u32,
        left_out: u32,
    },
    FirstFed {
        slot: u8,
        timeout_s: u32,
        since_seen_ms: Option<u32>,
    },
    FedAgain {
        slot: u8,
        timeout_s: u32,
        after: Gap,
        gap_ms: Option<u32>,
        left_out: u32,
    },
    Disarmed {
        slot: u8,
        left_out: u32,
    },
    Gone {
        cause: Cause,
    },
    Rebooted {
        previous_domid: u16,
        cause: Cause,
    },
}

/// None where it does not fit.
fn narrow(ms: Option<u64>) -> Option<Option<u32>> {
    ms.map(u32::try_from).transpose().ok()
}

impl SmallKind {
    fn of(what: &Kind) -> Option<Self> {
        Some(match *what {
            Kind::GuestArmed {
                slot,
                timeout_s,
                left_out,
            } => Self::Armed {
                slot,
                timeout_s,
                left_out,
            },
            Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms,
            } => Self::FirstFed {
                slot,
                timeout_s,
                since_seen_ms: narrow(since_seen_ms)?,
            },
            Kind::GuestFedAgain {
                slot,
                timeout_s,
                after,
                gap_ms,
                left_out,
            } => Self::FedAgain {
                slot,
                timeout_s,
                after,
                gap_ms: narrow(gap_ms)?,
                left_out,
            },
            Kind::GuestDisarmed { slot, left_out } => Self::Disarmed { slot, left_out },
            Kind::GuestGone { cause } => Self::Gone { cause },
            Kind::GuestRebooted {
                previous_domid,
                cause,
            } => Self::Rebooted {
                previous_domid,
                cause,
            },
            _ => return None,
        })
    }

    fn whole(self) -> Kind {
        match self {
            Self::Armed {
                slot,
                timeout_s,
                left_out,
            } => Kind::GuestArmed {
                slot,
                timeout_s,
                left_out,
            },
            Self::FirstFed {
                slot,
                timeout_s,
                since_seen_ms,
            } => Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms: since_seen_ms.map(u64::from),
            },
            Self::FedAgain {
                slot,
                timeout_s,
                after,
                gap_ms,
                left_out,
            } => Kind::GuestFedAgain {
                slot,
                timeout_s,
                after,
                gap_ms: gap_ms.map(u64::from),
                left_out,
            },
            Self::Disarmed { slot, left_out } => Kind::GuestDisarmed { slot, left_out },
            Self::Gone { cause } => Kind::GuestGone { cause },
            Self::Rebooted {
                previous_domid,
                cause,
            } => Kind::GuestRebooted {
                previous_domid,
                cause,
            },
        }
    }
}

impl SmallEvent {
    fn of(event: &Event) -> Option<Self> {
        let guest = event.guest.as_ref()?;
        Some(Self {
            seq: event.seq,
            time: event.time,
            monotonic_ns: event.monotonic_ns,
            uuid: guest.uuid?,
            name: guest.name.clone(),
            domid: guest.domid,
            what: SmallKind::of(&event.what)?,
        })
    }

    fn whole(&self, host: &Arc<str>) -> Event {
        let what = self.what.whole();
        Event {
            version: VERSION,
            seq: self.seq,
            time: self.time,
            monotonic_ns: self.monotonic_ns,
            host: Arc::clone(host),
            severity: what.severity(),
            guest: Some(Guest {
                uuid: Some(self.uuid),
                domid: self.domid,
                name: self.name.clone(),
            }),
            what,
        }
    }
}

impl KeptEvent {
    fn seq(&self) -> u64 {
        match self {
            Self::Small(event) => event.seq,
            Self::Whole(event) => event.seq,
        }
    }
}

impl Kept {
    /// None yet, and no more than `keep` ever. `next_seq`: the number that the next one will have.
    pub fn new(keep: usize, next_seq: u64) -> Self {
        Self {
            // At once: the system gives such a block no memory before there is something in it, and it never moves.
            events: VecDeque::with_capacity(keep),
            keep,
            next_seq,
            host: None,
        }
    }

    pub fn add(&mut self, event: Arc<Event>) {
        self.next_seq = event.seq.saturating_add(1);
        if self.events.len() >= self.keep {
            self.events.pop_front();
        }
        if self.keep == 0 {
            return;
        }
        let host = self.host.get_or_insert_with(|| Arc::clone(&event.host));
        let small = SmallEvent::of(&event).filter(|small| small.whole(host) == *event);
        self.events
            .push_back(small.map_or_else(|| KeptEvent::Whole(event), KeptEvent::Small));
    }

    fn whole<'a>(&'a self, kept: &'a KeptEvent) -> Cow<'a, Event> {
        match (kept, &self.host) {
            (KeptEvent::Whole(event), _) => Cow::Borrowed(event),
            (KeptEvent::Small(small), Some(host)) => Cow::Owned(small.whole(host)),
            // There is one as soon as an event is kept.
            (KeptEvent::Small(small), None) => Cow::Owned(small.whole(&"".into())),
        }
    }

    /// The number that the next event will have, as far as is known here.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The oldest that is kept.
    pub fn first(&self) -> Option<Cow<'_, Event>> {
        self.events.front().map(|kept| self.whole(kept))
    }

    /// Its number; of the next event where none is.
    pub fn oldest(&self) -> u64 {
        self.events.front().map_or(self.next_seq, KeptEvent::seq)
    }

    /// Those from number `seq` on.
    pub fn since(&self, seq: u64) -> impl Iterator<Item = Cow<'_, Event>> {
        let start = self.events.partition_point(|event| event.seq() < seq);
        self.events.range(start..).map(|kept| self.whole(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Severity;

    fn event(seq: u64, what: Kind) -> Event {
        Event {
            version: VERSION,
            seq,
            time: Timestamp(1_700_000_000_000_000 + 7),
            monotonic_ns: 12_345_678_901,
            host: "a-host".into(),
            severity: what.severity(),
            guest: Some(Guest {
                uuid: Some(Uuid::from_u128(77)),
                domid: 5,
                name: Some("web".into()),
            }),
            what,
        }
    }

    fn fed_again(gap_ms: Option<u64>) -> Kind {
        Kind::GuestFedAgain {
            slot: 2,
            timeout_s: u32::MAX,
            after: Gap::Suspended,
            gap_ms,
            left_out: 3,
        }
    }

    fn first_fed(since_seen_ms: Option<u64>) -> Kind {
        Kind::GuestFirstFed {
            slot: 1,
            timeout_s: 30,
            since_seen_ms,
        }
    }

    /// In little memory, each of them.
    fn ordinary() -> Vec<Kind> {
        let (cause, long) = (Cause::Poweroff, u64::from(u32::MAX));
        vec![
            Kind::GuestArmed {
                slot: 1,
                timeout_s: 30,
                left_out: 9,
            },
            first_fed(None),
            first_fed(Some(0)),
            first_fed(Some(long)),
            fed_again(None),
            fed_again(Some(long)),
            Kind::GuestDisarmed {
                slot: 2,
                left_out: 1,
            },
            Kind::GuestGone { cause },
            Kind::GuestRebooted {
                previous_domid: 4,
                cause,
            },
        ]
    }

    /// Each differs from what is kept in little memory by something.
    fn others() -> Vec<Event> {
        let raised = Kind::AlarmRaised { expiries: 1 };
        let long = u64::from(u32::MAX) + 1;
        let mut others: Vec<Event> = [raised, first_fed(Some(long)), fed_again(Some(u64::MAX))]
            .map(|what| event(1, what))
            .into();
        let changes: [fn(&mut Event); 5] = [
            |event| event.guest = None,
            |event| event.guest.iter_mut().for_each(|guest| guest.uuid = None),
            |event| event.version += 1,
            |event| event.severity = Severity::Error,
            |event| event.host = "another".into(),
        ];
        others.extend(changes.map(|change| {
            let mut other = event(1, first_fed(None));
            change(&mut other);
            other
        }));
        others
    }

    #[test]
    fn every_event_comes_out_as_it_came_in() {
        let mut kept = Kept::new(100, 1);
        let mut all: Vec<Event> = ordinary().into_iter().map(|what| event(1, what)).collect();
        all.extend(others());
        all.extend(ordinary().into_iter().map(|what| {
            let mut nameless = event(1, what);
            nameless
                .guest
                .iter_mut()
                .for_each(|guest| guest.name = None);
            nameless
        }));
        for (seq, event) in (1..).zip(&mut all) {
            event.seq = seq;
            kept.add(Arc::new(event.clone()));
        }
        let out: Vec<Event> = kept.since(0).map(Cow::into_owned).collect();
        assert_eq!(out, all);
        assert_eq!(kept.first().as_deref(), all.first());
        let from_7 = kept.since(7).map(|event| event.seq);
        assert!(from_7.eq(7..=u64::try_from(all.len()).expect("few")));
    }

    #[test]
    fn what_guests_do_in_their_ordinary_lives_takes_80_bytes_an_event() {
        assert!(size_of::<KeptEvent>() <= 80, "{}", size_of::<KeptEvent>());
        let is_small = |event: Event| {
            let mut kept = Kept::new(1, 1);
            kept.add(Arc::new(event));
            matches!(kept.events.front(), Some(KeptEvent::Small(_)))
        };
        assert!(ordinary().into_iter().all(|what| is_small(event(1, what))));
        // The host's name is that of the first event.
        let host = |other: &Event| &*other.host == "a-host";
        let mut others = others().into_iter().filter(host);
        assert!(!others.any(is_small));
    }

    #[test]
    fn no_more_are_kept_than_were_to_be() {
        for keep in [0, 1, 3] {
            let mut kept = Kept::new(keep, 1);
            assert_eq!(kept.oldest(), 1);
            for seq in 1..=5 {
                kept.add(Arc::new(event(seq, first_fed(None))));
                let some = usize::try_from(seq).expect("few").min(keep);
                assert_eq!(kept.since(0).count(), some);
                assert_eq!(kept.next_seq(), seq + 1);
                assert_eq!(kept.oldest(), kept.next_seq() - some as u64);
            }
        }
    }
}
