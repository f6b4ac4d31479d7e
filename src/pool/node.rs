// SPDX-License-Identifier: GPL-2.0-only
//! A member of the pool, without its input and output: what it knows, says, writes and runs.
//!
//! In: what the ring delivers, who is on it, quorum, this host's events and facts, and that records are on the disk. Out:
//! records to write, messages to say, jobs to run, alarms that ended. The loop ([`super::run`]) carries them; tests drive any number
//! of these without a ring. Time is a number that is given. Pure.
//!
//! A record of this host goes: made, to the disk ([`Node::to_save`]), and only once it is there
//! ([`Node::saved`]) into the state and onto the ring. Nothing is ever said that could be lost by a crash.

use super::feeds::Feeds;
use super::fold::{guest_of, kind_of};
use super::hooks::{Agenda, Job, Next, Rule};
use super::member::Ring;
use super::reach::Sees;
use super::record::{
    self, Boot, GuestChanges, GuestFacts, HostFacts, HostId, MAX_CHANGES, Position, Record, Stored,
    VERSION, What, short,
};
use super::sightings::Watch;
use super::store::{Store, Taken};
use super::view;
use crate::event::{Timestamp, Uuid};
use crate::guests::report::GuestsReport;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Records that wait for the disk before no more events are read: the monitor keeps them.
const MOST_UNSAVED: usize = 1_024;

/// Who this is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The host, for good.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// The kernel's name for this boot.
    pub boot_id: String,
}

/// A member.
#[derive(Debug)]
pub struct Node {
    pub(super) identity: Identity,
    pub(super) store: Store,
    pub(super) ring: Ring,
    pub(super) agenda: Agenda,
    /// The place of the last record that was made.
    last: Position,
    /// Made, and not on the disk yet; the first `handed` of them are on their way there.
    unsaved: VecDeque<Arc<Stored>>,
    handed: usize,
    event_seq: Option<u64>,
    told_facts: HostFacts,
    told_guests: BTreeMap<Uuid, GuestFacts>,
    pub(super) feeds: Feeds,
    /// When the last expiry of each alarm elsewhere became known here.
    pub(super) alarms_known: BTreeMap<(HostId, Uuid), (Position, u64)>,
    /// Alarms that were just written to have ended.
    pub(super) ended: BTreeMap<(HostId, Uuid), Position>,
    pub(super) counts: Counts,
    /// New records of others, which the disk has not seen.
    pub(super) fresh: Vec<Arc<Stored>>,
    /// The nodes on the ring.
    nodes: Vec<u32>,
    pub(super) watch: Watch,
    pub(super) sees: Sees,
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Records of this host that are on the disk.
    pub written: u64,
    /// Lines of the monitor that are no events, or too long.
    pub events_refused: u64,
    /// Records of others that were new.
    pub taken: u64,
    /// Records that were known.
    pub known: u64,
    /// Records that left a gap.
    pub gaps: u64,
    /// Messages that were none.
    pub garbage: u64,
    /// What the last of them was, and of which node.
    pub last_garbage: Option<String>,
    /// Messages of kinds, and records in them, that only newer members know.
    pub newer: u64,
    /// What the last of them was, and of which node.
    #[serde(default)]
    pub last_newer: Option<String>,
    /// Snapshots that were taken from others.
    pub snapshots: u64,
    /// Answers to members that lacked something.
    pub answers: u64,
    /// Times that this host's log began anew, as others knew more of it.
    pub anew: u64,
    /// Members that knew the same records and had another state.
    pub diverged: u64,
    /// Hooks that two leaders ran for the same event.
    pub hooks_twice: u64,
    /// Of a host's absence what two members told.
    #[serde(default)]
    pub sightings_twice: u64,
}

impl Counts {
    /// So many that only newer members know.
    pub(super) fn of_newer(&mut self, count: u64, from: u32, what: &dyn fmt::Display) {
        if count > 0 {
            self.newer += count;
            self.last_newer = Some(format!("of node {from}: {what}"));
        }
    }

    /// A message that is none.
    pub(super) fn of_nobody(&mut self, from: u32, what: &dyn fmt::Display) {
        self.garbage += 1;
        self.last_garbage = Some(format!("of node {from}: {what}"));
    }
}

impl Node {
    /// A member that knows what `store` has. `cut`: its own log lost its end, so it begins anew.
    #[must_use]
    pub fn new(identity: Identity, store: Store, rules: Vec<Rule>, cut: bool) -> Self {
        let own = store.host(identity.host).map(|log| log.state().clone());
        let own = own.unwrap_or_default();
        let guests = own.guests.iter();
        let mut node = Self {
            last: own.position,
            event_seq: own.event_seq,
            told_facts: own.facts.clone(),
            told_guests: guests
                .map(|(uuid, guest)| (*uuid, guest.value.clone()))
                .collect(),
            ring: Ring::default(),
            agenda: Agenda::new(rules),
            unsaved: VecDeque::new(),
            handed: 0,
            feeds: Feeds::default(),
            alarms_known: BTreeMap::new(),
            ended: BTreeMap::new(),
            counts: Counts::default(),
            fresh: Vec::new(),
            nodes: Vec::new(),
            watch: Watch::default(),
            sees: Sees::new(own.out_of_reach),
            store,
            identity,
        };
        let goes_on = own.boot_id == node.identity.boot_id && own.position.seq > 0;
        if cut || !goes_on {
            let began = own.position.boot > 0;
            let after = (began && !cut).then_some(own.position);
            node.begin(own.position.boot, after);
        }
        node
    }

    /// A boot's first record. Boots are numbered by the clock, as a log that was lost does not know the last one, but
    /// always rise.
    fn begin(&mut self, boot: u64, after: Option<Position>) {
        let now = u64::try_from(Timestamp::now().0 / 1_000_000).unwrap_or(0);
        let boot = boot.saturating_add(1).max(now).max(1);
        self.last = Position { boot, seq: 0 };
        self.told_facts.guard = None;
        if after.is_none() {
            self.told_facts = HostFacts::default();
        }
        self.told_guests.clear();
        let first = Boot {
            boot_id: self.identity.boot_id.clone(),
            name: short(&self.identity.name),
            after,
            event_seq: self.event_seq,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.write(What::Boot(first));
    }

    /// Another member knows more of this host's log than it does: the log was lost, or an older one was put in its
    /// place. It begins anew, after all that anybody can know.
    pub(super) fn begin_anew(&mut self, known: Position) {
        // What is on its way already begins anew.
        if self.last.boot > known.boot {
            return;
        }
        log::warn!(
            "others know this host's log to {known}, and it is here only to {}: it begins anew",
            self.last
        );
        self.counts.anew += 1;
        self.begin(known.boot, None);
    }

    /// This host.
    #[must_use]
    pub fn host(&self) -> HostId {
        self.identity.host
    }

    /// What it knows.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The same, to be read from and written to disk.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Makes a record; gives its place. One that is too long is none: the zero place.
    pub(super) fn write(&mut self, what: What) -> Position {
        let position = Position {
            boot: self.last.boot,
            seq: self.last.seq.saturating_add(1),
        };
        let stored = Stored::of(&Record {
            version: VERSION,
            host: self.identity.host,
            position,
            time: Timestamp::now(),
            what,
        });
        let Some(stored) = stored else {
            self.counts.events_refused += 1;
            return Position::default();
        };
        self.last = position;
        self.unsaved.push_back(Arc::new(stored));
        position
    }

    /// Records that are to be written to the disk, in this order, after those that were given before; none while the
    /// last ones are on their way.
    pub fn to_save(&mut self) -> Vec<Arc<Stored>> {
        if self.handed > 0 {
            return Vec::new();
        }
        self.handed = self.unsaved.len();
        self.unsaved.iter().cloned().collect()
    }

    /// The records that were given are on the disk.
    pub fn saved(&mut self, now: u64) {
        let count = std::mem::take(&mut self.handed);
        for stored in self.unsaved.drain(..count).collect::<Vec<_>>() {
            let record = stored.record();
            if self.store.take_read(&stored, &record) == Taken::New {
                self.counts.written += 1;
                self.learn(&record, now);
            }
        }
    }

    /// Records of this host are on their way to the disk.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.handed > 0
    }

    /// Records that wait for the disk.
    #[must_use]
    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// Records of others that are new since this was last asked.
    pub fn take_fresh(&mut self) -> Vec<Arc<Stored>> {
        std::mem::take(&mut self.fresh)
    }

    /// The nodes on corosync's ring, members of the pool or not.
    pub fn ring_nodes(&mut self, nodes: Vec<u32>) {
        self.nodes = nodes;
    }

    /// The same.
    #[must_use]
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// Whether there is quorum; none: not known.
    #[must_use]
    pub fn quorate(&self) -> Option<bool> {
        self.ring.quorate
    }

    /// Events for which a hook was not run, as they were no longer kept.
    #[must_use]
    pub fn hooks_missed(&self) -> u64 {
        self.agenda.missed
    }

    /// They are not; they are given again.
    pub fn not_saved(&mut self) {
        self.handed = 0;
    }

    /// Whether the monitor is to be read on: what waits for the disk is bounded.
    #[must_use]
    pub fn wants_events(&self) -> bool {
        self.unsaved.len() < MOST_UNSAVED
    }

    /// The monitor's number of the next event that is not recorded.
    #[must_use]
    pub fn next_event(&self) -> u64 {
        self.event_seq.map_or(0, |seq| seq.saturating_add(1))
    }

    /// A line of this host's monitor.
    pub fn event(&mut self, line: &[u8], now: u64) {
        let event = match record::event(line) {
            Ok(event) => event,
            Err(_) => {
                self.counts.events_refused += 1;
                return;
            }
        };
        if let Some(seq) = event.event.get("seq").and_then(Value::as_u64) {
            self.event_seq = Some(seq);
        }
        let guest = guest_of(&event.event);
        let feeds = matches!(
            kind_of(&event.event),
            "guest.first_fed" | "guest.fed_again" | "alarm.cleared"
        );
        self.write(What::Event(event));
        if let Some(guest) = guest.filter(|_| feeds) {
            self.feeds.fed(guest, now);
            self.clear(now);
        }
    }

    /// How this host is; `guests`: how its guests are, if the monitor says so.
    pub fn facts(&mut self, facts: HostFacts, guests: Option<&GuestsReport>, now: u64) {
        if facts != self.told_facts {
            self.told_facts = facts.clone();
            self.write(What::Host(facts));
        }
        let Some(report) = guests else { return };
        self.guests(report);
        self.feeds.report(report, now);
        self.clear(now);
    }

    fn guests(&mut self, report: &GuestsReport) {
        let facts = report.guests.iter().filter_map(facts_of);
        let are: BTreeMap<Uuid, GuestFacts> = facts.map(|guest| (guest.uuid, guest)).collect();
        let before = std::mem::take(&mut self.told_guests);
        let changed = are
            .iter()
            .filter(|(uuid, guest)| before.get(uuid) != Some(guest));
        let changed: Vec<GuestFacts> = changed.map(|(_, guest)| guest.clone()).collect();
        let gone = before.keys().filter(|uuid| !are.contains_key(uuid));
        let gone: Vec<Uuid> = gone.copied().collect();
        for some in changed.chunks(MAX_CHANGES) {
            self.write(What::Guests(GuestChanges {
                are: some.to_vec(),
                gone: Vec::new(),
            }));
        }
        for some in gone.chunks(MAX_CHANGES * 8) {
            self.write(What::Guests(GuestChanges {
                are: Vec::new(),
                gone: some.to_vec(),
            }));
        }
        self.told_guests = are;
    }

    /// Whether this host leads.
    #[must_use]
    pub fn leads(&self, now: u64) -> bool {
        self.ring.me.is_some() && self.ring.leader(now) == self.ring.me
    }

    /// The next hook to run. What only progress is, is written here.
    pub fn next_job(&mut self, now: u64) -> Option<Job> {
        let leads = self.leads(now);
        self.agenda.lead(leads, &self.store);
        while self.unsaved.len() < MOST_UNSAVED {
            match self.agenda.next(&self.store)? {
                Next::Run(job) => return Some(job),
                Next::Note(done) => {
                    self.write(What::Hook(done));
                }
            }
        }
        None
    }

    /// A hook has ended.
    pub fn job_ended(&mut self, job: &Job, result: &Result<(), String>) {
        if let Some(done) = self.agenda.ended(job, result) {
            self.write(What::Hook(done));
        }
    }

    /// The pool's hosts.
    #[must_use]
    pub fn hosts_report(&mut self, now: u64) -> view::HostsReport {
        let presence = self.ring.presence(self.identity.host, now);
        let leader = self.ring.leader(now).and_then(|node| {
            let of = presence.iter().find(|(_, p)| p.node == Some(node));
            of.map(|(host, _)| *host)
        });
        let hash = self.store.hash();
        let hosts = self.store.hosts().map(|(id, log)| {
            let presence = presence.get(&id).copied().unwrap_or_default();
            view::host(&self.store, id, log.state(), presence)
        });
        view::HostsReport {
            version: 1,
            me: self.identity.host,
            trouble: None,
            quorate: self.ring.quorate,
            leader,
            hash,
            hosts: hosts.collect(),
        }
    }

    /// The pool's guests.
    #[must_use]
    pub fn guests_report(&self, now: u64) -> view::PoolGuests {
        let presence = self.ring.presence(self.identity.host, now);
        view::guests(&self.store, &presence, self.ring.quorate)
    }
}

fn facts_of(guest: &crate::guests::report::GuestReport) -> Option<GuestFacts> {
    Some(GuestFacts {
        uuid: guest.uuid?,
        name: guest.name.as_deref().map(short),
        domid: guest.domid,
        state: guest.state,
        fed: guest.slots.iter().any(|slot| !slot.expired),
    })
}
