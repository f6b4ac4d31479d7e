// SPDX-License-Identifier: GPL-2.0-only
//! A member of the pool in all that concerns fencing: its beats, its lease, orders that it gives and gets.
//!
//! In: what members say, who is there, votes, the guard's page, time. Out: what is to be said and done, [`Do`]. Pure: the pool's
//! loop carries it out, and the simulation of the tests drives several of these. Promises: once told to withhold, a host never
//! renews its lease again in that boot; a lease is given back only when enough others know; what is to be kept is
//! kept before anybody is told of it.

pub use super::say::{Do, Guard, Kept, LeaseTerms, Now, Ordered, Over, Promised, Say, Terms};

use super::ended::Ended;
use super::machines::{Heard, Machines, Stranger};
use super::order::{Confirmed, How, Order, Verdict, Wait};
use super::pinned::Pinned;
use super::proof::Proof;
use super::refusals::Refusals;
use super::{Beat, BootOf, Node, Votes};
use crate::event::Uuid;
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use std::collections::{BTreeMap, BTreeSet};

/// From one beat to the next, ns.
pub const BEAT_NS: u64 = NS_PER_S;

/// A node that leaves the ring is told to have left it within so long of its pool's leaving, ns.
const RING_NS: u64 = 500 * NS_PER_MS;

/// Why an order is not answered.
const TOO_MANY: &str =
    "an order to fence, where as many boots are refused as there is room for: it is not answered";

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
    machine: Option<Uuid>,
    name: String,
    terms: Terms,
    may_promise: bool,
    has_device: bool,
    proof: Proof,
    refusals: Refusals,
    orders: BTreeMap<Node, Order>,
    ended: Ended,
    machines: Machines,
    pinned: Pinned,
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
            machine: None,
            name: name.to_owned(),
            terms,
            may_promise: true,
            has_device: true,
            proof: Proof::new(me.node, me.boot),
            refusals: Refusals::new(kept),
            orders: BTreeMap::new(),
            ended: Ended::new(&kept.ordered),
            machines: Machines::new(&kept.machines),
            pinned: kept.counted.clone(),
            names: kept
                .machines
                .iter()
                .map(|one| (one.of.node, one.name.clone()))
                .collect(),
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

    /// On this machine, by the pool's id of it.
    #[must_use]
    pub fn of_machine(mut self, machine: Uuid) -> Self {
        self.machine = Some(machine);
        self
    }

    /// What is to be kept.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept {
            refused: self.refusals.kept().collect(),
            refused_by: self.refusals.kept_by().collect(),
            refused_over: self.refusals.kept_over().collect(),
            orderers: self.refusals.kept_orderers().collect(),
            ordered: self.ended.kept(),
            machines: self.machines.kept(),
            counted: self.pinned.clone(),
            fenced: self.fenced,
            promised: self.promised,
        }
    }

    /// How votes are counted.
    pub fn votes(&mut self, votes: Votes, now: Now) {
        for order in self.orders.values_mut() {
            order.count(&votes, now.at);
        }
        if !votes.quorate {
            // A partition that has it may hear what this one does not.
            self.down.clear();
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
        for node in members
            .difference(&self.members)
            .copied()
            .collect::<Vec<_>>()
        {
            // What was heard before it left may be another boot's.
            self.came(node);
        }
        if self.members != members {
            self.ended.members();
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

    /// A boot of that node may be there of which nothing was heard.
    fn came(&mut self, node: Node) {
        self.refusals.joined(node);
        self.down.retain(|boot| boot.node != node);
        if let Some(order) = self.orders.get_mut(&node) {
            order.came = true;
        }
    }

    /// Which nodes are on the ring, in the group or not.
    pub fn ring(&mut self, nodes: BTreeSet<Node>) {
        let mut came: Vec<Node> = nodes.difference(&self.ring).copied().collect();
        // Whose pools a change of the ring has taken from the group is told before the ring itself, in one queue with all else
        // (cpg_sync_activate of corosync's exec/cpg.c): a node that is on it then came back too fast to be missed there.
        came.extend(self.left.keys().filter(|node| nodes.contains(node)));
        for node in came {
            self.came(node);
        }
        self.ring = nodes;
    }

    /// What a member said.
    pub fn hear(&mut self, from: Node, say: &Say, now: Now) -> Vec<Do> {
        match say {
            Say::Beat(beat) => return self.beat_of(from, beat, now),
            // Another machine than the node was, or one that has not said yet which it is: not heard at all.
            _ if from != self.me.node && !self.is_heard(from) => {}
            Say::Order(order) if order.boot.boot == self.me.boot => return self.withhold(),
            // It is over, and that it is will be seen by this one's beats.
            Say::Order(order) if order.boot.node == self.me.node => {}
            Say::Order(order) => {
                if !self.refusals.refuse(order.boot, now.up_ms, from) {
                    return vec![Do::Tell(TOO_MANY)];
                }
                let of = order.boot.node;
                let refused = Say::Refused {
                    of,
                    last: self.refusals.last(of),
                    to: from,
                    number: order.number,
                };
                return vec![Do::Keep, Do::Say(refused)];
            }
            Say::Withdrawn(boot) => {
                if self.refusals.withdraw(*boot, from) {
                    return vec![Do::Keep];
                }
            }
            // Of this host that can be said of another boot alone.
            Say::Over(over) if over.boot.boot == self.me.boot => {}
            Say::Over(over) => {
                let others = self.refusals.over(over.boot, from);
                let own = self.refusals.orderer_over(over.boot);
                if self.machines.over(over, now.up_ms) || others || own {
                    return vec![Do::Keep];
                }
            }
            Say::Refused {
                of,
                last,
                to,
                number,
            } => {
                let is_answer = |order: &&mut Order| {
                    // One that names none is of an older member, which takes no refusal back.
                    *to == 0 || (*to, *number) == (self.me.node, order.number())
                };
                if let Some(order) = self.orders.get_mut(of).filter(is_answer) {
                    order.refuses(from, *last, &self.votes, now.at);
                }
            }
            Say::Confirmed(said) => {
                // As whichever node it was ordered.
                for order in self.orders.values_mut() {
                    order.confirms(*said, now.at);
                }
            }
        }
        Vec::new()
    }

    fn beat_of(&mut self, from: Node, beat: &Beat, now: Now) -> Vec<Do> {
        let heard = match from == self.me.node {
            true => Heard::Known,
            false => self.machines.hear(from, beat, now.up_ms),
        };
        if heard == Heard::Stranger {
            // Nor is what the one before it promised known to hold any more.
            self.refusals.joined(from);
            return Vec::new();
        }
        let members = &self.members;
        let mut is_over = false;
        for node in self.machines.moved(from, |node| members.contains(&node)) {
            self.names.remove(&node);
            is_over |= self.refusals.moved(node);
        }
        self.proof.hear(from, beat);
        if self.names.get(&from) != Some(&beat.name) {
            self.names.insert(from, beat.name.clone());
        }
        self.down
            .retain(|boot| boot.node != from && boot.boot != beat.boot);
        for order in self.orders.values_mut() {
            order.hear(from, beat, now.at);
        }
        is_over |= self.refusals.hear(from, beat, now.up_ms);
        match is_over || heard == Heard::New {
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
            self.came(node);
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
            machine: self.machine,
            boot: self.me.boot,
            sent: now.at.0,
            up_ms: now.up_ms,
            promise_ms: self.promise_ms(guard),
            echoes: self.refusals.echoes(),
        };
        self.proof.send(now.at);
        all.push(Do::Say(Say::Beat(beat)));
        let orders = self.orders.values().filter(|_| self.votes.quorate);
        for order in orders {
            let (boot, number) = (order.target, order.number());
            // Another run of this program is to know that nobody waits for it any more.
            all.extend([Do::Keep, Do::Say(Say::Order(Ordered { boot, number }))]);
        }
        for say in self.ended.say(now.up_ms) {
            all.extend([Do::Keep, Do::Say(say)]);
        }
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
        if self.machines.is_stranger(node) {
            return Err(
                "another machine speaks as its node, and nobody knows that the one before is down",
            );
        }
        let last = self.refusals.last(node);
        let last = last.ok_or("nothing of it was heard since this member or the host came to the ring, so nobody knows what it promised")?;
        let boot = last.echo.of;
        self.orders.insert(node, Order::new(boot, now.at));
        let machine = self.machines.machine_of(boot);
        self.ended.ordered(boot, machine, self.machines.began(boot));
        // At once.
        self.next_beat = Monotonic(0);
        Ok(())
    }

    /// How far the order for that host is; one that is decided is over.
    pub fn judge(&mut self, node: Node, now: Now) -> Option<Verdict> {
        let order = self.orders.get(&node)?;
        let verdict = match order.judge(&self.votes, now.at) {
            Verdict::Down(How::Silent) if self.ring.contains(&node) => {
                Verdict::Wait(Wait::Boot, None)
            }
            other => other,
        };
        match verdict {
            Verdict::Wait(..) => {}
            // The members are not to refuse that boot for it any more.
            Verdict::Failed(_) => self.withdraw(node),
            Verdict::Down(how) => {
                let (over, came) = (order.target, order.came);
                self.machines.over(&over.into(), now.up_ms);
                if how != How::Rebooted && !came {
                    self.down.insert(over);
                }
                self.orders.remove(&node);
                self.ended.over(node);
            }
        }
        Some(verdict)
    }

    /// Nobody waits for that order any more: the members are told, and refuse that boot no more by it. One that was decided is
    /// none any more.
    pub fn withdraw(&mut self, node: Node) {
        if self.orders.remove(&node).is_some() {
            self.ended.withdrawn(node);
            self.next_beat = Monotonic(0);
        }
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
        let is_known = self.refusals.last(node).is_some() && !self.machines.is_stranger(node);
        self.members.contains(&node) && is_known
    }

    /// Machines that speak as nodes that were others.
    pub fn strangers(&self) -> impl Iterator<Item = (Node, &Stranger)> {
        self.machines.strangers()
    }

    /// How votes were counted in this boot.
    pub fn pinned(&mut self) -> &mut Pinned {
        &mut self.pinned
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
