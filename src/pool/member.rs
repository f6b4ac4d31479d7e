// SPDX-License-Identifier: GPL-2.0-only
//! A member's dealings with the others: who they are, what they say, what is said to them.
//!
//! In: the group's members and its messages, in the one order in which all get them (extended virtual synchrony,
//! corosync's cpg_overview(3)). Out: messages. Whatever a member sends, it is counted, at worst dropped, and costs others a bounded
//! answer. Pure, as [`super::node`] is.

use super::leader::{Candidate, age_after, leader};
use super::node::Node;
use super::record::{HostId, Position, Record, Stored, What};
use super::store::Taken;
use super::transfer::{self, Incoming, Known, Outgoing};
use super::view::Presence;
use super::wire::{Garbage, MAX_WANTS, Message, Summary, Want};
use crate::fencing::member::Say;
use crate::sys::clock::NS_PER_S;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How often a member says what it knows; with more than eight members the less often, the more there are.
const SUMMARY_NS: u64 = NS_PER_S;
/// An answer that does not come within this is asked of another.
const ANSWER_NS: u64 = 2 * NS_PER_S;
/// Messages that wait to be said: answers are cut short beyond.
const MOST_SAID: usize = 64;
/// Hosts whose last sign of life is kept.
const MOST_HEARD: usize = 256;

/// The ring, as this member sees it.
#[derive(Debug, Default)]
pub struct Ring {
    /// This node's number; none: not on the ring.
    pub me: Option<u32>,
    /// Whether there is quorum; none: not known.
    pub quorate: Option<bool>,
    members: BTreeMap<u32, Member>,
    /// This member's age.
    joined: u64,
    /// The host that each node was last.
    hosts: BTreeMap<u32, HostId>,
    /// When each host was last heard, also of those that have left.
    heard: BTreeMap<HostId, u64>,
    /// This host's records are said to here.
    said: Position,
    say: VecDeque<Message>,
    summary_due: u64,
    wanted: Option<Wanted>,
    attempt: usize,
    incoming: Incoming,
    outgoing: Outgoing,
}

#[derive(Debug, Default)]
struct Member {
    since: u64,
    summary: Option<Summary>,
    diverged: bool,
}

#[derive(Debug)]
struct Wanted {
    of: u32,
    asked: u64,
    /// Something came that was lacking.
    progress: bool,
    ended: bool,
}

impl Ring {
    fn candidates(&self, now: u64) -> Vec<Candidate> {
        let all = self.members.iter();
        all.map(|(node, member)| {
            let announced = member.summary.as_ref().map_or(0, |summary| summary.joined);
            Candidate {
                node: *node,
                joined: match Some(*node) == self.me {
                    true => self.joined,
                    false => announced,
                },
                member_ns: now.saturating_sub(member.since),
            }
        })
        .collect()
    }

    /// Who leads.
    #[must_use]
    pub fn leader(&self, now: u64) -> Option<u32> {
        leader(&self.candidates(now), self.quorate == Some(true))
    }

    /// Who is there, by host.
    #[must_use]
    pub fn presence(&self, own: HostId, now: u64) -> BTreeMap<HostId, Presence> {
        let mut found: BTreeMap<HostId, Presence> = BTreeMap::new();
        for (host, heard) in &self.heard {
            found.entry(*host).or_default().heard_ns = Some(now.saturating_sub(*heard));
        }
        for (node, member) in &self.members {
            let host = match &member.summary {
                _ if Some(*node) == self.me => own,
                Some(summary) => summary.host,
                None => continue,
            };
            found.entry(host).or_default().node = Some(*node);
        }
        if self.me.is_some() {
            found.entry(own).or_default().heard_ns = Some(0);
        }
        found
    }

    fn push(&mut self, message: Message) {
        if self.say.len() < MOST_SAID {
            self.say.push_back(message);
        }
    }

    /// Since when a host is a member, ns; none: it is none, or has not said so.
    pub(super) fn since_of(&self, host: HostId, own: HostId) -> Option<u64> {
        if host == own {
            return Some(0);
        }
        let mut members = self.members.values();
        let of = |member: &&Member| member.summary.as_ref().is_some_and(|s| s.host == host);
        members.find(of).map(|member| member.since)
    }

    /// When a host was last heard, ns.
    pub(super) fn heard(&self, host: HostId) -> Option<u64> {
        self.heard.get(&host).copied()
    }

    /// How many members there are.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// The names of the other members' hosts.
    pub(super) fn peers(&self) -> impl Iterator<Item = &str> {
        let others = self.members.iter();
        let others = others.filter(|(node, _)| Some(**node) != self.me);
        others.filter_map(|(_, member)| Some(member.summary.as_ref()?.name.as_str()))
    }

    /// The host that has this node's number, or had it last.
    pub(super) fn host_that_had(&self, node: u32) -> Option<HostId> {
        self.hosts.get(&node).copied()
    }

    /// Whether all members that are there have said who they are.
    fn knows_all(&self) -> bool {
        let others = self
            .members
            .iter()
            .filter(|(node, _)| Some(**node) != self.me);
        let mut others = others.map(|(_, member)| member);
        others.all(|member| member.summary.is_some())
    }
}

impl Node {
    /// On the ring, as this node.
    pub fn joined(&mut self, me: u32, now: u64) {
        self.ring.me = Some(me);
        self.ring.joined = 0;
        self.ring.members.clear();
        self.ring.say.clear();
        self.ring.wanted = None;
        // What was written meanwhile, others ask for.
        self.ring.said = self.store.position(self.identity.host);
        self.ring.summary_due = now;
        self.watch.joined = now;
        self.watch.gone.clear();
        self.sees.ring_lost = None;
        self.sees.had_link = false;
    }

    /// Off the ring, and why.
    pub fn ring_lost(&mut self, why: &str) {
        if self.ring.me.is_some() {
            self.sees.ring_lost = Some(super::record::short(why));
        }
        self.ring.me = None;
        self.ring.quorate = None;
        self.ring.joined = 0;
        self.ring.members.clear();
        self.ring.say.clear();
        self.ring.wanted = None;
    }

    /// Whether there is quorum.
    pub fn quorum(&mut self, quorate: Option<bool>) {
        self.ring.quorate = quorate;
    }

    /// The members of the group, by their nodes' numbers.
    pub fn membership(&mut self, nodes: &[u32], now: u64) {
        let ring = &mut self.ring;
        for (node, member) in &ring.members {
            let of = member.summary.as_ref().filter(|_| !nodes.contains(node));
            if let Some(summary) = of {
                self.watch.gone.insert(summary.host, (*node, now));
            }
        }
        ring.members.retain(|node, _| nodes.contains(node));
        for node in nodes {
            ring.members.entry(*node).or_insert_with(|| Member {
                since: now,
                ..Member::default()
            });
        }
        if ring.wanted.as_ref().is_some_and(|w| !nodes.contains(&w.of)) {
            ring.wanted = None;
        }
        ring.summary_due = now;
    }

    /// Bytes that a member sent.
    /// What concerns fencing is given back.
    pub fn delivered(&mut self, from: u32, bytes: &[u8], now: u64) -> Option<Say> {
        let own = Some(from) == self.ring.me;
        if let Some(host) = self.host_of(from) {
            if self.ring.heard.len() < MOST_HEARD || self.ring.heard.contains_key(&host) {
                self.ring.heard.insert(host, now);
            }
        }
        let (message, unread) = match Message::decode(bytes) {
            Ok(decoded) => decoded,
            Err(why @ (Garbage::NewerKind(_) | Garbage::NewerSay(_))) => {
                self.counts.of_newer(1, from, &why);
                return None;
            }
            Err(why) => {
                self.counts.of_nobody(from, &why);
                return None;
            }
        };
        let message = match message {
            Message::Fencing(say) => return Some(say),
            // What this member says it knows.
            _ if own => return None,
            message => message,
        };
        let what = "records that cannot be read here";
        self.counts.of_newer(unread, from, &what);
        match message {
            Message::Records(records) => self.records(from, &records, now),
            Message::Summary(summary) => self.summary(from, summary, now),
            Message::Want(want) if Some(want.to) == self.ring.me => self.answer(&want),
            Message::Want(_) | Message::Fencing(_) => {}
            Message::Base(chunk) => {
                if self.store.position(chunk.head.of) >= chunk.head.position
                    || chunk.head.of == self.identity.host
                {
                    return None;
                }
                let of = chunk.head.of;
                match self.ring.incoming.take(&chunk) {
                    Ok(whole) => {
                        self.progress(from);
                        let taken = whole.map(|state| self.store.take_base(of, state));
                        self.counts.snapshots += u64::from(taken == Some(true));
                    }
                    Err(why) => {
                        self.counts.of_nobody(from, &why);
                    }
                }
            }
        }
        None
    }

    /// What a member said is not done: it is counted, and told with its sender.
    pub fn not_done(&mut self, from: u32, why: &str) {
        self.counts.of_nobody(from, &why);
    }

    fn host_of(&self, node: u32) -> Option<HostId> {
        let member = self.ring.members.get(&node)?;
        member.summary.as_ref().map(|summary| summary.host)
    }

    fn progress(&mut self, from: u32) {
        if let Some(wanted) = self.ring.wanted.as_mut().filter(|w| w.of == from) {
            wanted.progress = true;
        }
    }

    fn records(&mut self, from: u32, records: &[Arc<Stored>], now: u64) {
        if records.is_empty() {
            if let Some(wanted) = self.ring.wanted.as_mut().filter(|w| w.of == from) {
                wanted.ended = true;
            }
            return;
        }
        let own = self.identity.host;
        // Its own log only this host writes.
        for stored in records.iter().filter(|stored| stored.host != own) {
            if stored.position <= self.store.position(stored.host) {
                self.counts.known += 1;
                continue;
            }
            let record = stored.record();
            let twice = self.is_run(&record);
            match self.store.take_read(stored, &record) {
                Taken::New => {
                    self.counts.taken += 1;
                    self.counts.hooks_twice += u64::from(twice);
                    self.learn(&record, now);
                    self.fresh.push(Arc::clone(stored));
                    self.progress(from);
                }
                Taken::Known => self.counts.known += 1,
                Taken::Gap | Taken::Refused => self.counts.gaps += 1,
            }
        }
    }

    /// It tells of a hook's run for an event for which somebody has told of one.
    fn is_run(&self, record: &Record) -> bool {
        let What::Hook(done) = &record.what else {
            return false;
        };
        done.ran
            && self.store.hosts().any(|(host, log)| {
                let of = log.state().hooks.get(&done.hook);
                let upto = of.and_then(|of| of.get(&done.upto.host));
                host != record.host && upto >= Some(&done.upto.position)
            })
    }

    fn summary(&mut self, from: u32, summary: Summary, now: u64) {
        let own = self.identity.host;
        if summary.host == own {
            log::error!(
                "node {from} is this host too ({own}): its machine id is a copy; give one of them another (host_id in pool.conf)"
            );
            return;
        }
        let known = summary.positions.get(&own).copied().unwrap_or_default();
        if known > self.store.position(own) {
            self.begin_anew(known);
        }
        let diverged = summary.positions == self.summary_positions()
            && !summary.hash.is_empty()
            && summary.version == env!("CARGO_PKG_VERSION")
            && summary.hash != self.store.hash();
        if let Some(member) = self.ring.members.get_mut(&from) {
            if diverged && !member.diverged {
                self.counts.diverged += 1;
                log::error!("node {from} knows the same records and has another state of them");
            }
            member.diverged = diverged;
            let host = summary.host;
            member.summary = Some(summary);
            self.ring.heard.insert(host, now);
            self.ring.hosts.insert(from, host);
            self.watch.gone.remove(&host);
        }
    }

    /// One answer is on its way at a time to all that ask.
    fn answer(&mut self, want: &Want) {
        if want.logs.len() > MAX_WANTS || self.ring.say.len() > MOST_SAID / 2 {
            return;
        }
        self.counts.answers += 1;
        for message in self.ring.outgoing.answer(&self.store, want) {
            self.ring.push(message);
        }
    }

    fn summary_positions(&self) -> BTreeMap<HostId, Position> {
        let mut positions = self.store.positions();
        // What is not said yet nobody lacks.
        if let Some(own) = positions.get_mut(&self.identity.host) {
            *own = self.ring.said.min(*own);
        }
        positions
    }

    /// What is due: to say what is known here, to ask for what is not.
    pub fn tick(&mut self, now: u64) {
        self.look_around(now);
        self.watch_hosts(now);
        if self.ring.me.is_none() {
            return;
        }
        self.age(now);
        if now >= self.ring.summary_due {
            let positions = self.summary_positions();
            let is_all = positions == self.store.positions();
            let summary = Summary {
                host: self.identity.host,
                name: self.identity.name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                joined: self.ring.joined,
                hash: if is_all {
                    self.store.hash()
                } else {
                    String::new()
                },
                positions,
            };
            self.ring.push(Message::Summary(summary));
            let members = u64::try_from(self.ring.members.len()).unwrap_or(1);
            self.ring.summary_due = now.saturating_add(SUMMARY_NS * members.div_ceil(8).max(1));
        }
        self.ask(now);
    }

    /// Learns this member's age once those of the others are known. Of several that have none yet, the one with the
    /// lowest number takes its own first.
    fn age(&mut self, now: u64) {
        if self.ring.joined != 0 || self.ring.members.is_empty() {
            return;
        }
        let candidates = self.ring.candidates(now);
        let me = self.ring.me;
        let ageless = |other: &&Candidate| Some(other.node) != me && other.joined == 0;
        let before = candidates.iter().filter(ageless);
        let is_next = before.clone().all(|other| Some(other.node) > me);
        let patience = super::leader::PATIENCE_NS;
        let waits = before.clone().any(|other| other.member_ns < patience);
        if self.ring.knows_all() && is_next || !waits {
            self.ring.joined = age_after(&candidates);
            self.ring.summary_due = now;
        }
    }

    fn ask(&mut self, now: u64) {
        if let Some(wanted) = &self.ring.wanted {
            let late = now.saturating_sub(wanted.asked) >= ANSWER_NS;
            if !wanted.ended && !late {
                return;
            }
            self.ring.attempt = match wanted.progress {
                true => 0,
                false => self.ring.attempt.wrapping_add(1),
            };
        }
        self.ring.wanted = None;
        self.ring.incoming.forget_known(&self.store);
        let me = self.ring.me;
        let members = self.ring.members.iter();
        let known: Vec<Known<'_>> = members
            .filter(|(node, _)| Some(**node) != me)
            .filter_map(|(node, member)| {
                let summary = member.summary.as_ref()?;
                Some(Known {
                    node: *node,
                    joined: summary.joined,
                    positions: &summary.positions,
                })
            })
            .collect();
        let ring = &self.ring;
        let want = transfer::want(&self.store, &known, &ring.incoming, ring.attempt);
        let own = self.identity.host;
        let Some(mut want) = want else { return };
        // Its own log only this host writes.
        want.logs.retain(|log| log.of != own);
        if want.logs.is_empty() {
            return;
        }
        self.ring.wanted = Some(Wanted {
            of: want.to,
            asked: now,
            progress: false,
            ended: false,
        });
        self.ring.push(Message::Want(want));
    }

    /// The next message to be said, if this member is on the ring. It counts as said.
    pub fn next_message(&mut self) -> Option<Vec<u8>> {
        self.ring.me?;
        if let Some(message) = self.ring.say.pop_front() {
            return Some(message.encode());
        }
        let log = self.store.host(self.identity.host)?;
        let Some(records) = log.after(self.ring.said) else {
            // So much was written that the beginning is no longer kept: others ask for it.
            self.ring.said = log.state().position;
            self.ring.summary_due = 0;
            return None;
        };
        let mut said = Vec::new();
        let mut bytes = 0_usize;
        for stored in records {
            bytes = bytes.saturating_add(stored.bytes.len() + super::frame::HEAD);
            if !said.is_empty() && bytes > super::wire::RECORDS {
                break;
            }
            said.push(Arc::clone(stored));
        }
        self.ring.said = said.last()?.position;
        Some(Message::Records(said).encode())
    }
}
