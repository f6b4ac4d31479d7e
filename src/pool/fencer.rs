// SPDX-License-Identifier: GPL-2.0-only
//! This host's part in fencing: carries out what [`crate::fencing::member`] says.
//!
//! In: what the ring delivers, votes, how the host is, the lease page. Out: messages, the lease's datagrams, a file below
//! /run that outlives the program. Promises: its messages go before all others; what is to be kept is on that file before anything
//! is said that goes by it. Never: a wait.

use super::quorum::{self, may_sleep, unsuited};
use super::record::{GuardFacts, HostFacts};
use super::ring::Counted;
use super::wire::Message;
use crate::config::leases::LeaseName;
use crate::control::protocol::Refusal;
use crate::event::Uuid;
use crate::fencing::member::{Do, Guard, Kept, LeaseTerms, Member, Now, Say, Terms};
use crate::fencing::order::{Failed, How, Verdict};
use crate::fencing::told::{HostPower, Power, Powers, Progress};
use crate::fencing::{BootOf, Node, Votes, named};
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
/// What the monitor told so long after the lease was seen to have lapsed, ns, is of a guard that has seen that, too: it
/// looks each quarter of a second.
const NEWER_NS: u64 = 500 * NS_PER_MS;
/// Messages that wait for room on the ring; there are four of each second for each order.
const MOST_SAID: usize = 256;
/// On the ring for so long, ns, votes have been counted; they are each second.
const UNCOUNTED_NS: u64 = 5 * NS_PER_S;
/// Votes that are others for so long, ns, were changed; a node that comes or goes may be counted a moment late.
const CHANGED_NS: u64 = 3 * NS_PER_S;
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
    ring: BTreeSet<Node>,
    /// Since when it is on the ring and nobody has told how votes are counted.
    uncounted: Option<Monotonic>,
    /// Since when votes are counted otherwise than they were first.
    changed: Option<Monotonic>,
    /// Why the promise was taken back.
    taken_back: Option<String>,
    /// Why this host may be suspended.
    sleeps: Option<String>,
    machine: Option<Uuid>,
    /// The lease's timeout; none: the guard goes by none that is strict.
    lease_ms: Option<u64>,
    say: VecDeque<Say>,
    /// Of these it was said that they do not work, and why.
    trouble: BTreeMap<&'static str, String>,
    /// Since when the lease is seen to have lapsed, ns.
    lapsed: Option<u64>,
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
            ring: BTreeSet::new(),
            uncounted: None,
            changed: None,
            taken_back: None,
            sleeps: may_sleep(Path::new("/")),
            machine: None,
            lease_ms: None,
            say: VecDeque::new(),
            trouble: BTreeMap::new(),
            lapsed: None,
            waiting: BTreeMap::new(),
        })
    }

    /// On this machine, by the pool's id of it.
    #[must_use]
    pub fn of_machine(mut self, machine: Uuid) -> Self {
        self.machine = Some(machine);
        self
    }

    fn now() -> Now {
        Now {
            at: Monotonic::now(),
            // Where it cannot be read, this boot is younger than nothing.
            up_ms: boottime_ns().unwrap_or(u64::MAX) / NS_PER_MS,
        }
    }

    /// On the ring, as this node.
    pub fn joined(&mut self, node: Node) {
        self.uncounted = Some(Monotonic::now());
        if self.member.as_ref().is_none_or(|(me, _)| *me != node) {
            let me = BootOf {
                node,
                boot: self.boot,
            };
            let mut member = Member::new(me, &self.name, self.settings.terms, &self.kept);
            if let Some(machine) = self.machine {
                member = member.of_machine(machine);
            }
            self.member = Some((node, member));
        }
    }

    /// Off the ring: nothing is known of anybody.
    pub fn lost(&mut self) {
        self.uncounted = None;
        self.ring.clear();
        self.say.clear();
        if let Some((_, member)) = &mut self.member {
            let now = Self::now();
            member.members(BTreeSet::new(), now);
            member.ring(BTreeSet::new());
            member.votes(Votes::default(), now);
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
        if let Some((_, member)) = &mut self.member {
            member.ring(self.ring.clone());
        }
    }

    /// How quorum is counted.
    pub fn votes(&mut self, counted: &Counted, quorate: bool) {
        self.uncounted = None;
        let lease_ms = self.lease_ms;
        let now = Self::now();
        let Some((_, member)) = &mut self.member else {
            return;
        };
        let told = &counted.votes;
        let votes = quorum::votes(member.pinned(), counted, &self.ring, quorate);
        let changed = quorum::changed(member.pinned(), counted);
        let lasts = |since: &Monotonic| now.at.since_ns(*since) >= CHANGED_NS;
        self.changed = changed.is_some().then(|| self.changed.unwrap_or(now.at));
        let changed = changed.filter(|_| self.changed.as_ref().is_some_and(lasts));
        let unsuited = unsuited(told, counted.regrouping_ms, lease_ms);
        let unsuited = unsuited.or_else(|| self.sleeps.clone());
        // What was promised is held, but where others may count otherwise by now: then it is taken back, once enough know.
        let refused = unsuited.filter(|_| member.promises_nothing_yet());
        if changed.is_some() {
            member.stop();
            // For good: it promises no more until it is started anew.
            self.taken_back = changed;
        }
        let refused = refused.or_else(|| self.taken_back.clone());
        member.promises(refused.is_none(), told.qdevice);
        member.votes(votes, now);
        let is_to_keep = *member.pinned() != self.kept.counted;
        if self.settings.terms.without_quorum {
            let done = refused.map_or(Ok(()), |why| {
                Err(format!("fence_without_quorum is not done: {why}"))
            });
            self.told("quorum", done);
        }
        if is_to_keep {
            self.carry_out(vec![Do::Keep]);
        }
    }

    /// How the host is, as its monitor says.
    pub fn facts(&mut self, facts: &HostFacts, now: u64) {
        self.guard = facts.guard.clone().map(|guard| (guard, now));
    }

    /// What a member said; why it is not done, if that is to be counted.
    pub fn hear(&mut self, from: Node, say: &Say) -> Option<&'static str> {
        let (_, member) = self.member.as_mut()?;
        let all = member.hear(from, say, Self::now());
        let why = all.iter().find_map(|one| match one {
            Do::Tell(why) => Some(*why),
            _ => None,
        });
        self.carry_out(all);
        self.tell_strangers();
        why
    }

    fn tell_strangers(&mut self) {
        let Some((_, member)) = &self.member else {
            return;
        };
        let told = member.strangers().next().map(|(node, stranger)| {
            let (name, before) = (&stranger.name, stranger.before);
            format!(
                "node {node}, {name}, is another machine than it was, and nobody knows that the one before is down: it is not heard; see to that, and set host_id = \"{before}\" in its pool.conf if it is to be in the other's place"
            )
        });
        self.told("stranger", told.map_or(Ok(()), Err));
    }

    /// What is to be done by itself.
    pub fn tick(&mut self, now: u64) {
        let guard = self.guard_now(now);
        if self.settings.terms.without_quorum && guard.lease.is_none() {
            let lease = self.settings.lease;
            let why = format!(
                "fence_without_quorum is not done: the guard goes by no strict [[lease]] {lease} (xenwarden.conf)"
            );
            self.told("terms", Err(why));
        }
        let is_late = |since: Monotonic| Monotonic(now).since_ns(since) >= UNCOUNTED_NS;
        if self.settings.terms.without_quorum && self.uncounted.is_some_and(is_late) {
            let why = "fence_without_quorum is not done: corosync does not tell how votes are counted: corosync.conf needs provider: corosync_votequorum in quorum";
            self.told("quorum", Err(why.to_owned()));
        }
        let Some((_, member)) = &mut self.member else {
            return;
        };
        let all = member.tick(&guard, Self::now());
        self.carry_out(all);
    }

    fn guard_now(&mut self, now: u64) -> Guard {
        let page = Page::open(&self.settings.page, Access::Read).ok();
        let lease = page.and_then(|page| {
            let all = page.leases().into_iter();
            let mut mine = all.filter(|lease| lease.name == self.settings.lease);
            mine.next().map(|lease| (lease, page.served()))
        });
        let lease = lease.filter(|(lease, _)| lease.strict);
        self.lease_ms = lease.map(|(lease, _)| lease.timeout_ns / NS_PER_MS);
        let state = lease.map(|(lease, served)| lease.state(served, Monotonic(now)));
        self.lapsed = match state {
            Some(State::Lapsed) => self.lapsed.or(Some(now)),
            _ => None,
        };
        let told = self.guard.as_ref();
        let told = told.filter(|(_, at)| now.saturating_sub(*at) < FACTS_NS);
        // What the monitor said before may be of another withhold, which has ended.
        let since = self.lapsed.map(|at| at.saturating_add(NEWER_NS));
        let is_newer = |at: u64| since.is_some_and(|since| at >= since);
        let withholds = told.filter(|(guard, at)| !guard.kick && is_newer(*at));
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
            match one {
                Do::Say(say) => self.push(say),
                Do::Keep => {
                    let done = self.keep().map_err(|error| {
                        let path = self.settings.kept.display();
                        format!("{path}: {error}: this host answers no order to fence")
                    });
                    // Nothing that goes by it may be done; it is ordered again in a second.
                    if !self.told("keep", done) {
                        return;
                    }
                }
                Do::Renew(until) => self.tell(&format!("WATCHDOG=1\n{UNTIL}{}", until.0)),
                Do::Trigger => self.tell("WATCHDOG=trigger"),
                Do::Release => self.tell("STOPPING=1"),
                // Whoever hands on what was said does.
                Do::Tell(_) => {}
            }
        }
    }

    /// Whether it worked. That it does not is said once.
    fn told(&mut self, what: &'static str, done: Result<(), String>) -> bool {
        match done {
            Ok(()) => {
                self.trouble.remove(what);
                true
            }
            Err(why) => {
                if self.trouble.get(what) != Some(&why) {
                    log::error!("{why}");
                    self.trouble.insert(what, why);
                }
                false
            }
        }
    }

    fn keep(&mut self) -> io::Result<()> {
        let Some((_, member)) = &self.member else {
            return Ok(());
        };
        let kept = member.kept();
        if kept == self.kept {
            return Ok(());
        }
        write_whole(&self.settings.kept, &serde_json::to_vec(&kept)?)?;
        if kept.fenced && !self.kept.fenced {
            log::error!("this host is fenced: it withholds for the rest of this boot");
        }
        self.kept = kept;
        Ok(())
    }

    fn tell(&mut self, text: &str) {
        let socket = socket_of(&self.settings.page, &self.settings.lease);
        let notifier = self
            .notifier
            .get_or_insert_with(|| Notifier::to(socket.as_os_str()));
        let done = notifier.deliver(text).map_err(|error| {
            format!(
                "{}: {error}: is there a [[lease]] {} in xenwarden.conf, strict and for this user, and does the monitor run?",
                socket.display(),
                self.settings.lease
            )
        });
        self.told("lease", done);
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

    /// This host was told to withhold.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        let member = self.member.as_ref();
        member.map_or(self.kept.fenced, |(_, member)| member.is_fenced())
    }

    /// It is to be stopped in order.
    pub fn stop(&mut self) {
        if let Some((_, member)) = &mut self.member {
            member.stop();
        }
    }

    /// Whether it has nothing to give back, or has given it back.
    #[must_use]
    pub fn is_stopped(&mut self, now: u64) -> bool {
        !self.guard_now(now).holds()
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
            // One that waits for room on the ring would go out all the same, and be done.
            self.say
                .retain(|say| !matches!(say, Say::Order(order) if order.boot.node == node));
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
            promise_ms: member.promise_of(n),
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
        named::node_of(member, host).map_err(Refusal::new)
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
