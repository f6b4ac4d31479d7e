// SPDX-License-Identifier: GPL-2.0-only
//! A member of the pool in all that concerns fencing: its beats, its lease, orders that it gives and gets.
//!
//! In: what members say, who is there, votes, the guard's page, time. Out: what is to be said and done, [`Do`]. Pure: the pool's
//! loop carries it out, and the simulation of the tests drives several of these. Promises: once told to withhold, a host never
//! renews its lease again in that boot; a lease is given back only when enough others know; what is to be kept is
//! kept before anybody is told of it.

use super::order::{Confirmed, Order, Verdict};
use super::proof::Proof;
use super::refusals::{Last, Refusals};
use super::{Beat, BootOf, Node, Votes};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// From one beat to the next, ns.
pub const BEAT_NS: u64 = NS_PER_S;

/// A node that leaves the ring is told to have left it within so long of its pool's leaving, ns.
const RING_NS: u64 = 500 * NS_PER_MS;

/// What members say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// A sign of life.
    Beat(Beat),
    /// That boot of that host is to end.
    Order(BootOf),
    /// Its beats are not echoed any more; what is known of it.
    Refused {
        /// Whose.
        of: Node,
        /// The latest of them.
        last: Option<Last>,
    },
    /// This host withholds.
    Confirmed(Confirmed),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Say this to all.
    Say(Say),
    /// Keep [`Member::kept`] for the rest of this boot, unless it is. What follows is done only if that worked.
    Keep,
    /// Renew the lease until then.
    Renew(Monotonic),
    /// Have it lapse at once.
    Trigger,
    /// Give it back.
    Release,
}

/// What outlives the program, within a boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Hosts that are refused, and since when, ms of CLOCK_BOOTTIME.
    pub refused: Vec<(BootOf, u64)>,
    /// This host was told to withhold.
    pub fenced: bool,
    /// What it has promised.
    #[serde(default)]
    pub promised: Option<Promised>,
}

/// What a promise is made of. It is the same for the rest of a boot: others may know the one, and not what came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The lease's timeout.
    pub timeout_ns: u64,
    /// The fence bound.
    pub bound_ms: u64,
}

/// Now, by this host's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub at: Monotonic,
    /// Since its boot, the time of suspension counted.
    pub up_ms: u64,
}

/// What the guard's page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Within how long the host is down once it is not kicked; none: nothing promises that.
    pub bound_ms: Option<u64>,
    /// It does not kick, and decided so last at this time.
    pub withholds: Option<Monotonic>,
    /// The pool's lease; none: the guard does not go by one that is strict.
    pub lease: Option<LeaseTerms>,
}

impl Guard {
    /// The pool's lease is held now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lease.is_some_and(|lease| lease.held)
    }
}

/// The pool's lease as the lease page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// For how long a renewal is good.
    pub timeout_ns: u64,
    /// It is held now.
    pub held: bool,
}

/// What this host promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// To be down without quorum.
    pub without_quorum: bool,
    /// How old what corosync says of a quorum device may be, ms.
    pub device_ms: u64,
}

/// How far it is to be stopped in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// Nothing was said of it yet.
    Asked,
    /// Its promise was taken back by a beat of that time.
    Said(Monotonic),
    /// Enough others know.
    Done,
}

/// A member.
#[derive(Debug)]
pub struct Member {
    me: BootOf,
    name: String,
    terms: Terms,
    may_promise: bool,
    has_device: bool,
    proof: Proof,
    refusals: Refusals,
    orders: BTreeMap<Node, Order>,
    /// Names of hosts that were heard.
    names: BTreeMap<Node, String>,
    /// Boots that are certainly over, with nothing heard of their hosts since.
    down: BTreeSet<BootOf>,
    votes: Votes,
    members: BTreeSet<Node>,
    ring: BTreeSet<Node>,
    fenced: bool,
    promised: Option<Promised>,
    stopping: Stopping,
    /// When pools left, of nodes that have not left the ring.
    left: BTreeMap<Node, Monotonic>,
    /// Until when the lease was renewed last.
    renewed: Option<Monotonic>,
    next_beat: Monotonic,
}

impl Member {
    /// With what was kept in this boot.
    #[must_use]
    pub fn new(me: BootOf, name: &str, terms: Terms, kept: &Kept) -> Self {
        Self {
            me,
            name: name.to_owned(),
            terms,
            may_promise: true,
            has_device: true,
            proof: Proof::new(me.node, me.boot),
            refusals: Refusals::new(kept.refused.iter().copied()),
            orders: BTreeMap::new(),
            names: BTreeMap::new(),
            down: BTreeSet::new(),
            votes: Votes::default(),
            members: BTreeSet::new(),
            ring: BTreeSet::new(),
            fenced: kept.fenced,
            promised: kept.promised,
            stopping: Stopping::No,
            left: BTreeMap::new(),
            renewed: None,
            next_beat: Monotonic(0),
        }
    }

    /// What is to be kept.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            refused: self.refusals.kept().collect(),
            fenced: self.fenced,
            promised: self.promised,
        }
    }

    /// How votes are counted.
    pub fn votes(&mut self, votes: Votes, now: Now) {
        for order in self.orders.values_mut() {
            order.count(&votes, now.at);
        }
        self.votes = votes;
    }

    /// Who is in the group: whose pools are heard.
    pub fn members(&mut self, members: BTreeSet<Node>, now: Now) {
        for node in self.members.difference(&members) {
            for order in self.orders.values_mut() {
                order.left(*node, &self.votes, now.at);
            }
            self.left.insert(*node, now.at);
        }
        self.members = members;
    }

    /// Nodes whose pool has left and whose corosync is on the ring all the same: it may be another boot, too fast for corosync
    /// to miss it, which has promised nothing.
    fn doubtful(&mut self, now: Monotonic) -> Vec<Node> {
        let ring = &self.ring;
        self.left.retain(|node, _| ring.contains(node));
        let members = &self.members;
        self.left.retain(|node, _| !members.contains(node));
        let old = self
            .left
            .iter()
            .filter(|(_, at)| now.since_ns(**at) > RING_NS);
        old.map(|(node, _)| *node).collect()
    }

    /// Which nodes are on the ring, in the group or not.
    pub fn ring(&mut self, nodes: BTreeSet<Node>) {
        for node in nodes.difference(&self.ring) {
            self.refusals.joined(*node);
            self.down.retain(|boot| boot.node != *node);
        }
        self.ring = nodes;
    }

    /// What a member said.
    pub fn hear(&mut self, from: Node, say: &Say, now: Now) -> Vec<Do> {
        match say {
            Say::Beat(beat) => return self.beat_of(from, beat, now),
            Say::Order(boot) if *boot == self.me => return self.withhold(),
            // It is over, and that it is will be seen by this one's beats.
            Say::Order(boot) if boot.node == self.me.node => {}
            Say::Order(boot) => {
                self.refusals.refuse(*boot, now.up_ms);
                let (of, last) = (boot.node, self.refusals.last(boot.node));
                return vec![Do::Keep, Do::Say(Say::Refused { of, last })];
            }
            Say::Refused { of, last } => {
                if let Some(order) = self.orders.get_mut(of) {
                    order.refuses(from, *last, &self.votes, now.at);
                }
            }
            Say::Confirmed(said) => {
                if let Some(order) = self.orders.get_mut(&from) {
                    order.confirms(*said, now.at);
                }
            }
        }
        Vec::new()
    }

    fn beat_of(&mut self, from: Node, beat: &Beat, now: Now) -> Vec<Do> {
        self.proof.hear(from, beat);
        if self.names.get(&from) != Some(&beat.name) {
            self.names.insert(from, beat.name.clone());
        }
        self.down.retain(|boot| boot.node != from);
        if let Some(order) = self.orders.get_mut(&from) {
            order.hear(from, beat, now.at);
        }
        match self.refusals.hear(from, beat, now.up_ms) {
            true => vec![Do::Keep],
            false => Vec::new(),
        }
    }

    fn withhold(&mut self) -> Vec<Do> {
        self.fenced = true;
        vec![Do::Keep, Do::Trigger]
    }

    /// What is to be done by itself.
    pub fn tick(&mut self, guard: &Guard, now: Now) -> Vec<Do> {
        let mut all = Vec::new();
        if !self.is_to_promise() && guard.holds() && self.renewed.is_none() {
            // An earlier run of this program has promised what this one is not to.
            self.stop();
        }
        for node in self.doubtful(now.at) {
            self.refusals.joined(node);
        }
        if now.at >= self.next_beat {
            self.next_beat = now.at.plus_ns(BEAT_NS);
            self.beat(guard, now, &mut all);
        }
        match self.fenced {
            // Whatever renewed it meanwhile.
            true if guard.withholds.is_none() => all.extend([Do::Keep, Do::Trigger]),
            true => {}
            false => all.extend(self.renew(guard, now).into_iter().flatten()),
        }
        all
    }

    fn renew(&mut self, guard: &Guard, now: Now) -> Option<Vec<Do>> {
        // That nothing is promised any more is known by members alone, not by a device.
        let moment = match self.stopping {
            Stopping::No => self.proof.moment(&self.votes)?,
            _ => self.proof.moment(&Votes {
                device: 0,
                ..self.votes.clone()
            })?,
        };
        match self.stopping {
            Stopping::No if self.is_to_promise() => {
                let timeout_ns = guard.lease?.timeout_ns;
                let promised = match self.promised {
                    Some(promised) => promised,
                    None => Promised {
                        timeout_ns,
                        bound_ms: guard.bound_ms?,
                    },
                };
                if guard.bound_ms.is_some_and(|ms| ms > promised.bound_ms) {
                    // It can not be held any more. Once others know, nothing is promised.
                    self.stop();
                    return None;
                }
                self.promised = Some(promised);
                let until = moment.plus_ns(timeout_ns.min(promised.timeout_ns));
                let is_new = self.renewed.is_none_or(|renewed| until > renewed);
                if !is_new || until <= now.at {
                    return None;
                }
                self.renewed = Some(until);
                Some(vec![Do::Keep, Do::Renew(until)])
            }
            Stopping::Said(since) if moment >= since => {
                self.stopping = Stopping::Done;
                Some(vec![Do::Release])
            }
            // The datagram may be lost.
            Stopping::Done if guard.holds() => Some(vec![Do::Release]),
            _ => None,
        }
    }

    fn beat(&mut self, guard: &Guard, now: Now, all: &mut Vec<Do>) {
        if self.stopping == Stopping::Asked {
            self.stopping = Stopping::Said(now.at);
        }
        let beat = Beat {
            name: self.name.clone(),
            boot: self.me.boot,
            sent: now.at.0,
            up_ms: now.up_ms,
            promise_ms: self.promise_ms(guard),
            echoes: self.refusals.echoes(),
        };
        self.proof.send(now.at);
        all.push(Do::Say(Say::Beat(beat)));
        let orders = self.orders.values().filter(|_| self.votes.quorate);
        all.extend(orders.map(|order| Do::Say(Say::Order(order.target))));
        let withheld = guard.withholds.zip(guard.bound_ms);
        if let Some((at, bound_ms)) = withheld.filter(|_| self.fenced) {
            let by = self.me;
            all.push(Do::Keep);
            all.push(Do::Say(Say::Confirmed(Confirmed {
                by,
                at: at.0,
                bound_ms,
            })));
        }
    }

    /// What it promises: once the guard goes by a lease that is held, and for as long.
    fn promise_ms(&self, guard: &Guard) -> Option<u64> {
        let is_known = guard.holds() && guard.bound_ms.is_some();
        let promised = self.promised.filter(|_| is_known)?;
        let is_meant = self.is_to_promise() && self.stopping == Stopping::No;
        let lease_ms = promised.timeout_ns.div_ceil(NS_PER_MS);
        let sum = lease_ms.saturating_add(promised.bound_ms);
        let device_ms = if self.has_device {
            self.terms.device_ms
        } else {
            0
        };
        is_meant.then(|| sum.saturating_add(device_ms))
    }

    /// It is configured to promise, and may.
    fn is_to_promise(&self) -> bool {
        self.terms.without_quorum && self.may_promise
    }

    /// Whether its lease was never renewed by this program.
    #[must_use]
    pub fn promises_nothing_yet(&self) -> bool {
        self.renewed.is_none()
    }

    /// Whether what is configured may be promised, and whether a quorum device counts.
    pub fn promises(&mut self, may: bool, device: bool) {
        (self.may_promise, self.has_device) = (may, device);
    }

    /// It is to be stopped in order: its lease is given back once enough others know that nothing is promised any more.
    pub fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Asked;
        }
    }

    /// Whether it has nothing to give back, or has given it back.
    #[must_use]
    pub fn is_stopped(&self, guard: &Guard) -> bool {
        !guard.holds()
    }

    /// Gives an order for that host: the boot of it that is known. An order that is there goes on.
    ///
    /// # Errors
    /// No boot of it is known.
    pub fn order(&mut self, node: Node, now: Now) -> Result<(), &'static str> {
        if self.orders.contains_key(&node) {
            return Ok(());
        }
        if !self.votes.quorate {
            return Err("this host's partition has no quorum");
        }
        if node == self.me.node {
            return Err("it is this host: another one must fence it");
        }
        let last = self.refusals.last(node);
        let last = last.ok_or("nothing of it was heard since this member or the host came to the ring, so nobody knows what it promised")?;
        self.orders.insert(node, Order::new(last.echo.of, now.at));
        // At once.
        self.next_beat = Monotonic(0);
        Ok(())
    }

    /// How far the order for that host is; one that is decided is over.
    pub fn judge(&mut self, node: Node, now: Now) -> Option<Verdict> {
        let order = self.orders.get(&node)?;
        let verdict = order.judge(&self.votes, now.at);
        match verdict {
            Verdict::Wait(..) => {}
            Verdict::Failed(_) => drop(self.orders.remove(&node)),
            Verdict::Down(how) => {
                if how != super::order::How::Rebooted {
                    self.down.insert(order.target);
                }
                self.orders.remove(&node);
            }
        }
        Some(verdict)
    }

    /// Nobody waits for that order any more.
    pub fn withdraw(&mut self, node: Node) {
        self.orders.remove(&node);
    }

    /// Whether a boot of that host is over for certain, and nothing was heard of it since.
    #[must_use]
    pub fn is_down(&self, node: Node) -> bool {
        self.down.iter().any(|boot| boot.node == node)
    }

    /// This partition has the quorum.
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        self.votes.quorate
    }

    /// The hosts that were heard, each by its node and name.
    pub fn names(&self) -> impl Iterator<Item = (Node, &str)> {
        self.names.iter().map(|(node, name)| (*node, name.as_str()))
    }

    /// Whether a host is there: its pool is in the group, and was heard since it came.
    #[must_use]
    pub fn is_heard(&self, node: Node) -> bool {
        self.members.contains(&node) && self.refusals.last(node).is_some()
    }

    /// What a host has promised, as far as is known.
    #[must_use]
    pub fn promise_of(&self, node: Node) -> Option<u64> {
        self.refusals.last(node)?.promise_ms
    }

    /// This host was told to withhold.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }
}
