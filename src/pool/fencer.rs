// SPDX-License-Identifier: GPL-2.0-only
//! This host's part in fencing: carries out what [`crate::fencing::member`] says.
//!
//! In: what the ring delivers, votes, how the host is, the lease page. Out: messages, the lease's datagrams, a file below
//! /run that outlives the program. Promises: its messages go before all others; what is to be kept is on that file before anything
//! is said that goes by it. Never: a wait.

use super::record::{GuardFacts, HostFacts};
use super::wire::Message;
use crate::config::leases::LeaseName;
use crate::control::protocol::Refusal;
use crate::event::Uuid;
use crate::fencing::member::{Do, Guard, Kept, LeaseTerms, Member, Now, Say, Terms};
use crate::fencing::order::{Failed, How, Verdict};
use crate::fencing::told::{HostPower, Power, Powers, Progress};
use crate::fencing::{BootOf, Node, Votes};
use crate::guard::leases::page::{Access, Page, State, socket_of};
use crate::monitor::leases::socket::UNTIL;
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, boottime_ns};
use crate::sys::notify::Notifier;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// What the monitor told is good for so long, ns: it is asked every two seconds.
const FACTS_NS: u64 = 10 * NS_PER_S;
/// Messages that wait for room on the ring; there are four of each second for each order.
const MOST_SAID: usize = 256;
/// Nodes whose votes are kept: more than corosync has.
const MOST_NODES: usize = 256;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What this host promises.
    pub terms: Terms,
    /// Its lease.
    pub lease: LeaseName,
    /// Where the guard's lease page is.
    pub page: PathBuf,
    /// Where what is to outlive the program in this boot is kept.
    pub kept: PathBuf,
}

/// This host's part.
#[derive(Debug)]
pub struct Fencer {
    boot: Uuid,
    name: String,
    settings: Settings,
    kept: Kept,
    member: Option<(Node, Member)>,
    notifier: Option<Notifier>,
    guard: Option<(GuardFacts, u64)>,
    votes: BTreeMap<Node, u32>,
    ring: BTreeSet<Node>,
    say: VecDeque<Say>,
    /// Of this it was said that it does not work.
    trouble: Option<String>,
    /// Why nothing is promised.
    unsuited: Option<String>,
    /// How many clients wait for an order, and what came of it.
    waiting: BTreeMap<Node, (usize, Option<Result<How, Failed>>)>,
}

impl Fencer {
    /// In this boot of the host that has this name.
    ///
    /// # Errors
    /// What was kept in this boot cannot be read.
    pub fn new(boot: Uuid, name: &str, settings: Settings) -> Result<Self, String> {
        let path = &settings.kept;
        let wrong = |error: &dyn std::fmt::Display| {
            format!(
                "{}: {error}: it says whom this host must not vouch for; it goes with the boot",
                path.display()
            )
        };
        let kept = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(wrong(&error)),
        };
        Ok(Self {
            boot,
            name: name.to_owned(),
            settings,
            kept,
            member: None,
            notifier: None,
            guard: None,
            votes: BTreeMap::new(),
            ring: BTreeSet::new(),
            say: VecDeque::new(),
            trouble: None,
            unsuited: None,
            waiting: BTreeMap::new(),
        })
    }

    fn now() -> Now {
        Now {
            at: Monotonic::now(),
            // Where it cannot be read, no boot is younger than anything.
            up_ms: boottime_ns().unwrap_or(0) / NS_PER_MS,
        }
    }

    /// On the ring, as this node.
    pub fn joined(&mut self, node: Node) {
        if self.member.as_ref().is_none_or(|(me, _)| *me != node) {
            let me = BootOf {
                node,
                boot: self.boot,
            };
            let member = Member::new(me, &self.name, self.settings.terms, &self.kept);
            self.member = Some((node, member));
        }
    }

    /// Off the ring: nothing is known of anybody.
    pub fn lost(&mut self) {
        self.votes.clear();
        self.ring.clear();
        self.say.clear();
        if let Some((_, member)) = &mut self.member {
            let now = Self::now();
            member.members(BTreeSet::new(), now);
            member.ring(BTreeSet::new());
            member.votes(Votes::default(), now.at, now);
        }
    }

    /// The members of the group.
    pub fn members(&mut self, nodes: &[Node]) {
        if let Some((_, member)) = &mut self.member {
            member.members(nodes.iter().copied().collect(), Self::now());
        }
    }

    /// The nodes of the ring.
    pub fn nodes(&mut self, nodes: &[Node]) {
        self.ring = nodes.iter().copied().take(MOST_NODES).collect();
        let ring = &self.ring;
        self.votes.retain(|node, _| ring.contains(node));
        if let Some((_, member)) = &mut self.member {
            member.ring(self.ring.clone());
        }
    }

    /// How quorum is counted, as asked for at `asked`; `of`: the votes of each node of the ring.
    pub fn votes(
        &mut self,
        told: &crate::sys::corosync::Votes,
        of: BTreeMap<Node, u32>,
        quorate: bool,
        asked: Monotonic,
    ) {
        let Some((_, member)) = &mut self.member else {
            return;
        };
        let of: BTreeMap<Node, u32> = of
            .into_iter()
            .filter(|(node, _)| self.ring.contains(node))
            .collect();
        let nodes: u32 = of.values().fold(0, |sum, votes| sum.saturating_add(*votes));
        let device = match told.qdevice_votes {
            true => told.total_votes.saturating_sub(nodes),
            false => 0,
        };
        if let Some(why) = unsuited(told).filter(|_| member.promises_nothing_yet()) {
            let why = format!("fence_without_quorum is not done: {why}");
            member.promise_nothing();
            if self.unsuited.as_ref() != Some(&why) {
                log::error!("{why}");
                self.unsuited = Some(why);
            }
        }
        // Whatever corosync calls quorum, two partitions never have more than half of all votes.
        let majority = (told.expected_votes / 2).saturating_add(1);
        let votes = Votes {
            quorate,
            quorum: told.quorum.max(majority),
            of,
            device,
        };
        member.votes(votes, asked, Self::now());
    }

    /// How the host is, as its monitor says.
    pub fn facts(&mut self, facts: &HostFacts, now: u64) {
        self.guard = facts.guard.clone().map(|guard| (guard, now));
    }

    /// What a member said.
    pub fn hear(&mut self, from: Node, say: &Say) {
        let Some((_, member)) = &mut self.member else {
            return;
        };
        let all = member.hear(from, say, Self::now());
        self.carry_out(all);
    }

    /// What is to be done by itself.
    pub fn tick(&mut self, now: u64) {
        let guard = self.guard_now(now);
        let Some((_, member)) = &mut self.member else {
            return;
        };
        let all = member.tick(&guard, Self::now());
        self.carry_out(all);
    }

    fn guard_now(&self, now: u64) -> Guard {
        let told = self.guard.as_ref();
        let told = told.filter(|(_, at)| now.saturating_sub(*at) < FACTS_NS);
        let page = Page::open(&self.settings.page, Access::Read).ok();
        let lease = page.and_then(|page| {
            let all = page.leases().into_iter();
            let mut mine = all.filter(|lease| lease.name == self.settings.lease);
            mine.next().map(|lease| (lease, page.served()))
        });
        let lease = lease.filter(|(lease, _)| lease.strict);
        let state = lease.map(|(lease, served)| lease.state(served, Monotonic(now)));
        let withholds = told.filter(|(guard, _)| !guard.kick && state == Some(State::Lapsed));
        Guard {
            bound_ms: told.and_then(|(guard, _)| guard.fence_bound_ms),
            withholds: withholds.map(|(_, at)| Monotonic(*at)),
            lease: lease.map(|(lease, _)| LeaseTerms {
                timeout_ns: lease.timeout_ns,
                held: state == Some(State::Held),
            }),
        }
    }

    fn carry_out(&mut self, all: Vec<Do>) {
        for one in all {
            let done = match one {
                Do::Say(say) => {
                    self.push(say);
                    Ok(())
                }
                Do::Keep => match self.keep() {
                    Ok(()) => Ok(()),
                    // Nothing that goes by it may be said; it is ordered again in a second.
                    Err(error) => {
                        let path = self.settings.kept.display();
                        let why = format!("{path}: {error}: this host answers no order to fence");
                        return self.told(Some(why));
                    }
                },
                Do::Renew(until) => self.tell(&format!("WATCHDOG=1\n{UNTIL}{}", until.0)),
                Do::Trigger => self.tell("WATCHDOG=trigger"),
                Do::Release => self.tell("STOPPING=1"),
            };
            self.told(done.err());
        }
    }

    fn told(&mut self, trouble: Option<String>) {
        if let Some(why) = trouble
            .as_ref()
            .filter(|why| self.trouble.as_ref() != Some(why))
        {
            log::warn!("{why}");
        }
        self.trouble = trouble;
    }

    fn keep(&mut self) -> io::Result<()> {
        let Some((_, member)) = &self.member else {
            return Ok(());
        };
        let kept = member.kept();
        write_whole(&self.settings.kept, &serde_json::to_vec(&kept)?)?;
        if kept.fenced && !self.kept.fenced {
            log::error!("this host is fenced: it withholds for the rest of this boot");
        }
        self.kept = kept;
        Ok(())
    }

    fn tell(&mut self, text: &str) -> Result<(), String> {
        let socket = socket_of(&self.settings.page, &self.settings.lease);
        let notifier = self
            .notifier
            .get_or_insert_with(|| Notifier::to(socket.as_os_str()));
        notifier.deliver(text).map_err(|error| {
            format!(
                "{}: {error}: is [[lease]] {} in xenwarden.conf, strict, for this user?",
                socket.display(),
                self.settings.lease
            )
        })
    }

    fn push(&mut self, say: Say) {
        if let Say::Beat(_) = say {
            // An older one that waits says nothing more.
            self.say.retain(|other| !matches!(other, Say::Beat(_)));
        }
        if self.say.len() < MOST_SAID {
            self.say.push_back(say);
        }
    }

    /// The next message.
    pub fn next_message(&mut self) -> Option<Vec<u8>> {
        let say = self.say.pop_front()?;
        Some(Message::Fencing(say).encode())
    }

    /// It is to be stopped in order.
    pub fn stop(&mut self) {
        if let Some((_, member)) = &mut self.member {
            member.stop();
        }
    }

    /// Whether it has nothing to give back, or has given it back.
    #[must_use]
    pub fn is_stopped(&self, now: u64) -> bool {
        let guard = self.guard_now(now);
        let member = self.member.as_ref();
        member.map_or(
            !guard.lease.is_some_and(|lease| lease.held),
            |(_, member)| member.is_stopped(&guard),
        )
    }

    /// Gives an order for the host of this name; its node.
    ///
    /// # Errors
    /// Why not.
    pub fn order(&mut self, host: &str) -> Result<Node, Refusal> {
        let node = self.node_of(host)?;
        let Some((_, member)) = &mut self.member else {
            return Err(off_the_ring());
        };
        let now = Self::now();
        member
            .order(node, now)
            .map_err(|why| Refusal::new(format!("{host}: {why}")))?;
        log::warn!("{host} (node {node}) is to be down");
        let (clients, result) = self.waiting.entry(node).or_default();
        *clients = clients.saturating_add(1);
        *result = None;
        Ok(node)
    }

    /// How far an order is that somebody waits for.
    ///
    /// # Errors
    /// It has failed.
    pub fn progress(&mut self, node: Node) -> Result<Progress, Refusal> {
        let now = Self::now();
        let Some((_, member)) = &mut self.member else {
            return Err(off_the_ring());
        };
        let (_, result) = self.waiting.entry(node).or_default();
        match member.judge(node, now) {
            Some(Verdict::Wait(wait, until)) => {
                return Ok(Progress::Waits {
                    wait,
                    left_ms: until.map(|until| until.since_ns(now.at) / NS_PER_MS),
                });
            }
            Some(Verdict::Down(how)) => {
                log::warn!("node {node} is down for certain: {how:?}");
                *result = Some(Ok(how));
            }
            Some(Verdict::Failed(why)) => {
                log::error!("node {node} is not known to be down: {why}");
                *result = Some(Err(why));
            }
            None => {}
        }
        match result {
            Some(Ok(how)) => Ok(Progress::Down(*how)),
            Some(Err(why)) => Err(Refusal::new(*why)),
            None => Err(Refusal::new("the order is there no more")),
        }
    }

    /// A client does not wait for that order any more. Without any it is withdrawn: a host that comes back an hour later
    /// is not to go down by it.
    pub fn leave(&mut self, node: Node) {
        let Some((clients, _)) = self.waiting.get_mut(&node) else {
            return;
        };
        *clients = clients.saturating_sub(1);
        if *clients == 0 {
            self.waiting.remove(&node);
            if let Some((_, member)) = &mut self.member {
                member.withdraw(node);
            }
        }
    }

    /// Which hosts are on, all or that one.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn powers(&self, host: Option<&str>) -> Result<Powers, Refusal> {
        let Some((me, member)) = &self.member else {
            return Err(off_the_ring());
        };
        let node = host.map(|host| self.node_of(host)).transpose()?;
        let wanted = member
            .names()
            .filter(|(n, _)| node.is_none_or(|node| node == *n));
        let one = |(n, name): (Node, &str)| HostPower {
            name: name.to_owned(),
            power: match () {
                () if n == *me || member.is_heard(n) => Power::On,
                () if member.is_down(n) => Power::Off,
                () => Power::Unknown,
            },
        };
        let mut hosts: Vec<HostPower> = wanted.map(one).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Powers {
            quorate: member.is_quorate(),
            hosts,
        })
    }

    fn node_of(&self, host: &str) -> Result<Node, Refusal> {
        let Some((_, member)) = &self.member else {
            return Err(off_the_ring());
        };
        let mut found = member.names().filter(|(_, name)| *name == host);
        match (found.next(), found.next()) {
            (Some((node, _)), None) => Ok(node),
            (Some(_), Some(_)) => Err(Refusal::new(format!(
                "{host}: two hosts have this name: change one"
            ))),
            (None, _) => Err(Refusal::new(format!(
                "{host}: no host of this name was heard since this member started"
            ))),
        }
    }
}

/// Why a host must not promise to be down without quorum where votes are counted so: another partition may have quorum
/// at the same time, or this one would go down with the other.
pub(crate) fn unsuited(votes: &crate::sys::corosync::Votes) -> Option<&'static str> {
    match () {
        () if votes.two_node && !votes.qdevice => Some(
            "corosync.conf has two_node and no quorum device, so each of two hosts is a quorum alone: add a device (corosync-qdevice) or a third node",
        ),
        () if votes.auto_tie_breaker => Some(
            "corosync.conf has auto_tie_breaker, with which half of the votes is a quorum: use a quorum device",
        ),
        () if votes.last_man_standing => Some(
            "corosync.conf has last_man_standing, which counts hosts out that are only cut off",
        ),
        () => None,
    }
}

fn off_the_ring() -> Refusal {
    Refusal::new("this host is not on corosync's ring")
}

/// In the place of what was there, whole or not at all. The place goes with the boot, so nothing need reach a disk.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}
