// SPDX-License-Identifier: GPL-2.0-only
//! One heartbeat, whole: where it is heard, its state, and what is done for a loss.
//!
//! In: readiness, time, gaps of our own. Out: events; what is set for a loss, begun in its order: the event, the
//! script or the commands, the hook; the lease, which ends with the loss itself. Promises: a loss is told only after a last look at what has
//! arrived; nothing here waits. Never: anything that depends on another heartbeat.

use super::heartbeat::{Heartbeat, Input, Output, State};
use super::hook::{Hooks, Job};
use super::lease::{Kept, Lease};
use super::link::Net;
use super::notification::{self, Notifier};
use super::plan::{BeatPlan, HostPort, Message, Node};
use super::poller::{Part, Ready};
use super::proofs::{Moments, heir};
use super::psk::{Seal, new_session};
use super::refusals::Refusals;
use super::remote::{Probe, Remote};
use super::reporter::Reporter;
use super::stats::Stats;
use super::stream::{Fact, Stream};
use crate::event::describe::plain;
use crate::event::{Action, Kind};
use crate::sys::clock::NS_PER_MS;
use std::net::SocketAddr;
use std::path::Path;

/// What the loop lends to a heartbeat.
#[derive(Clone, Copy)]
pub struct Loan<'a> {
    /// Where descriptors are waited for, and names looked up.
    pub net: Net<'a>,
    /// Where events go.
    pub reporter: &'a Reporter,
    /// Where programs are run.
    pub hooks: &'a Hooks,
}

/// Characters of a problem that are told.
const MAX_PROBLEM: usize = 400;

enum Source {
    Stream(Box<Stream>),
    Remote(Remote),
}

/// A heartbeat.
pub struct Beat {
    plan: BeatPlan,
    number: u32,
    state: Heartbeat,
    source: Source,
    notifier: Option<Notifier>,
    lease: Option<Lease>,
    pulse_at: u64,
    peer: String,
    stats: Stats,
    refusals: Refusals,
    /// Nothing is sent, as our own VMM does not live.
    muted: bool,
    /// It was said that our own VMM's monitor has a prompt.
    answers: bool,
}

/// Milliseconds of nanoseconds.
fn ms(ns: u64) -> u64 {
    ns / NS_PER_MS
}

impl Beat {
    /// As planned, with this number, not started. `leases` is the directory of their sockets, `before` what the run before has left.
    ///
    /// # Errors
    /// What the system refuses, in words.
    pub fn new(
        plan: BeatPlan,
        number: u32,
        leases: &Path,
        before: &Moments,
        now: u64,
    ) -> Result<Self, String> {
        let timeout_ns = plan.timeout_ms.saturating_mul(NS_PER_MS);
        let seal = match &plan.key {
            Some(key) => {
                let session = new_session().map_err(|error| format!("/dev/urandom: {error}"))?;
                Some(Seal::new(
                    key.clone(),
                    &plan.name,
                    plan.answers,
                    timeout_ns,
                    session,
                ))
            }
            None => None,
        };
        let source = match &plan.node {
            Node::Stream(at) => {
                let mut stream = Stream::new(&plan, at, number, seal);
                stream.mute(plan.own_vmm);
                Source::Stream(Box::new(stream))
            }
            Node::TcpConnect(host) => {
                Source::Remote(Remote::new(host.clone(), Probe::Connect, number))
            }
            Node::Icmp(host) => {
                let host = HostPort {
                    host: host.clone(),
                    port: 0,
                };
                Source::Remote(Remote::new(host, Probe::Ping, number))
            }
        };
        let interval_ns = plan.pulse_ms.saturating_mul(NS_PER_MS);
        let lease = |name| Lease::new(leases, name, interval_ns, now);
        let mut state = Heartbeat::new(plan.timing());
        if let Some(proved) = heir(&plan).and_then(|heir| before.get(&heir)) {
            state.follow(*proved);
        }
        let notification = plan.notification.as_ref();
        Ok(Self {
            number,
            state,
            source,
            notifier: notification.map(|plan| Notifier::new(plan, number)),
            lease: plan.lease.as_deref().map(lease),
            pulse_at: now,
            peer: plan.node.to_string(),
            stats: Stats::default(),
            refusals: Refusals::default(),
            muted: plan.own_vmm,
            answers: false,
            plan,
        })
    }

    /// Listens, and begins to connect. Blocks where a name is to be listened at.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn start(&mut self, now: u64, net: Net<'_>) -> Result<(), String> {
        let at = self.plan.node.to_string();
        match &mut self.source {
            Source::Stream(stream) => stream
                .start(now, net)
                .map_err(|error| format!("cannot listen at {at}: {error}"))?,
            Source::Remote(remote) => remote.check()?,
        }
        if let (Some(notifier), Some(plan)) = (&mut self.notifier, &self.plan.notification) {
            let at = &plan.to.place;
            notifier
                .start(now, net)
                .map_err(|error| format!("cannot listen at {at}: {error}"))?;
        }
        Ok(())
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &BeatPlan {
        &self.plan
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.state()
    }

    /// Its losses.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.state.losses()
    }

    /// Its figures.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Who was heard last, or is to be.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// How many are connected; none: it has no connections.
    #[must_use]
    pub fn connections(&self) -> Option<usize> {
        match &self.source {
            Source::Stream(stream) => Some(stream.connections()),
            Source::Remote(_) => None,
        }
    }

    /// Why it is not heard, if that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        match &self.source {
            Source::Stream(stream) => stream.trouble(),
            Source::Remote(remote) => remote.trouble(),
        }
    }

    /// When [`Beat::due`] is wanted, ns.
    #[must_use]
    pub fn next(&self) -> u64 {
        let source = match &self.source {
            Source::Stream(stream) => stream.next(),
            Source::Remote(_) => None,
        };
        let notifier = self.notifier.as_ref().and_then(Notifier::next);
        let lease = self.lease.as_ref().map(Lease::next);
        let times = [self.state.next(), source, notifier, lease];
        times.into_iter().flatten().fold(self.pulse_at, u64::min)
    }

    /// A descriptor is ready.
    pub fn ready(&mut self, ready: Ready, now: u64, loan: Loan<'_>) {
        let mut facts = Vec::new();
        match (ready.token.part, &mut self.source) {
            (Part::Node, Source::Stream(stream)) => {
                stream.ready(ready, now, loan.net, &mut facts);
            }
            (Part::Remote, Source::Remote(remote)) => {
                if let Some(round_trip) = remote.ready(now) {
                    let pulse = Fact::Pulse { as_of: now, at: 0 };
                    facts.extend([pulse, Fact::RoundTrip(round_trip)]);
                }
            }
            (Part::Notification, _) => {
                let notifier = self.notifier.as_mut();
                let result = notifier.and_then(|notifier| notifier.ready(ready, now, loan.net));
                self.notified(result, loan);
                self.watch_own_vmm(false, now, loan.net);
            }
            _ => {}
        }
        self.learn(facts, now, loan);
    }

    /// Addresses that were asked for.
    pub fn resolved(
        &mut self,
        part: Part,
        found: Result<Vec<SocketAddr>, String>,
        now: u64,
        net: Net<'_>,
    ) {
        match (part, &mut self.source, &mut self.notifier) {
            (Part::Node, Source::Stream(stream), _) => stream.resolved(found, now, net),
            (Part::Remote, Source::Remote(remote), _) => remote.resolved(found),
            (Part::Notification, _, Some(notifier)) => notifier.resolved(found, now, net),
            _ => {}
        }
    }

    /// Speaks only while our own VMM lives, where that is wanted: its peer is to miss it. With `ask` it
    /// is asked for another sign of life.
    fn watch_own_vmm(&mut self, ask: bool, now: u64, net: Net<'_>) {
        let (true, Some(notifier)) = (self.plan.own_vmm, &mut self.notifier) else {
            return;
        };
        let lives = match ask {
            true => notifier.vmm_lives(now, net),
            false => notifier.may_live(self.muted),
        };
        if notifier.answers() != self.answers {
            self.answers = !self.answers;
            if self.answers {
                let name = &self.plan.name;
                log::info!(
                    "heartbeat {name}: our own VMM's monitor has a prompt, and is to answer"
                );
            }
        }
        if lives == self.muted {
            self.muted = !lives;
            let name = &self.plan.name;
            match lives {
                true => {
                    log::info!("heartbeat {name}: our own VMM is there: pulses are sent");
                    self.pulse_at = now;
                }
                false => {
                    log::warn!("heartbeat {name}: our own VMM does not answer: no pulses are sent")
                }
            }
        }
        if let Source::Stream(stream) = &mut self.source {
            stream.mute(self.muted);
        }
    }

    /// Does what is due.
    pub fn due(&mut self, now: u64, loan: Loan<'_>) {
        if now >= self.pulse_at {
            self.watch_own_vmm(true, now, loan.net);
            let interval = self.plan.pulse_ms.saturating_mul(NS_PER_MS);
            match &mut self.source {
                Source::Stream(stream) => stream.pulse(now, loan.net),
                Source::Remote(remote) => {
                    let limit = self.plan.timeout_ms.saturating_mul(NS_PER_MS);
                    remote.begin(now, limit, loan.net);
                }
            }
            // A late one is not made up for.
            let next = self.pulse_at.saturating_add(interval);
            self.pulse_at = if next > now {
                next
            } else {
                now.saturating_add(interval)
            };
        }
        if let Source::Stream(stream) = &mut self.source {
            stream.due(now, loan.net);
        }
        if self.state.next().is_some_and(|at| now >= at) {
            let mut facts = Vec::new();
            if let Source::Stream(stream) = &mut self.source {
                stream.listen(now, loan.net, &mut facts);
            }
            self.learn(facts, now, loan);
            let outputs = self.state.take(now, Input::Tick);
            self.carry_out(outputs, now, loan);
        }
        let notifier = self.notifier.as_mut();
        let result = notifier.and_then(|notifier| notifier.due(now, loan.net));
        self.notified(result, loan);
        let holds = self.state.holds(now);
        if let Some(lease) = &mut self.lease {
            lease.due(now, holds);
        }
    }

    /// For so long, ns, nobody listened here.
    pub fn own_gap(&mut self, now: u64, ns: u64) {
        let _ = self.state.take(now, Input::OwnGap { ns });
        self.stats.interrupted();
    }

    /// A hook of it has ended.
    pub fn hook_ended(&self, result: Result<(), String>, reporter: &Reporter) {
        self.report_action(Action::Hook, result, reporter);
    }

    /// From now on a lease is only given back.
    pub fn end_renewals(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.end_renewals();
        }
    }

    /// Gives the lease back, once, if there is one and its peer is proved to live.
    ///
    /// # Errors
    /// Why not yet.
    pub fn release(&mut self, now: u64) -> Result<(), String> {
        let proof = self.state.proved(now).map(|at| now.saturating_sub(at));
        match self
            .lease
            .as_ref()
            .map_or(Ok(()), |lease| lease.release(proof))
        {
            Err(Kept::NotYet(why)) => return Err(why),
            Err(Kept::Lost(why)) => log::warn!("{why}"),
            Ok(()) => {}
        }
        self.lease = None;
        Ok(())
    }

    /// What is left to the next run: when its peer was last proved to live, if it depends on that.
    #[must_use]
    pub fn bequest(&self, now: u64) -> Option<(String, u64)> {
        heir(&self.plan).zip(self.state.proved(now))
    }

    /// The program stops, in order.
    pub fn stop(&mut self, now: u64) {
        let _ = self.state.take(now, Input::Stop);
    }

    fn learn(&mut self, facts: Vec<Fact>, now: u64, loan: Loan<'_>) {
        for fact in facts {
            match fact {
                Fact::Pulse { as_of, at } => {
                    if let Source::Stream(stream) = &mut self.source {
                        stream.prove(at, now);
                        if let Some(peer) = stream.peer(at).filter(|peer| *peer != self.peer) {
                            self.peer = peer.to_owned();
                        }
                    }
                    self.stats.pulse(now);
                    let outputs = self.state.take(now, Input::Frame { as_of });
                    self.carry_out(outputs, now, loan);
                }
                Fact::Refused { reason, at } => {
                    self.stats.refused = self.stats.refused.saturating_add(1);
                    if let Some(count) = self.refusals.note(reason, now) {
                        let peer = match &self.source {
                            Source::Stream(stream) => stream.peer(at).unwrap_or_default(),
                            Source::Remote(_) => "",
                        };
                        loan.reporter.report(Kind::PulseRefused {
                            heartbeat: self.plan.name.clone(),
                            peer: peer.to_owned(),
                            reason,
                            count,
                        });
                    }
                }
                Fact::RoundTrip(ns) => self.stats.round_trip = Some(ns),
                Fact::Reconnect => {
                    let outputs = self.state.take(now, Input::Reconnect);
                    self.carry_out(outputs, now, loan);
                }
            }
        }
    }

    fn carry_out(&mut self, outputs: Vec<Output>, now: u64, loan: Loan<'_>) {
        for output in outputs {
            let (heartbeat, peer) = (self.plan.name.clone(), self.peer.clone());
            match output {
                Output::Armed => loan.reporter.report(Kind::PulseArmed {
                    heartbeat,
                    peer,
                    timeout_ms: self.plan.timeout_ms,
                }),
                Output::Lost { silent_ns } => {
                    loan.reporter.report(Kind::PulseLost {
                        heartbeat,
                        peer,
                        silent_ms: ms(silent_ns),
                        losses: self.state.losses(),
                    });
                    self.stats.interrupted();
                    match &mut self.source {
                        Source::Stream(stream) => stream.renew(now),
                        Source::Remote(remote) => remote.renew(),
                    }
                }
                Output::Back { lost_ns } => loan.reporter.report(Kind::PulseBack {
                    heartbeat,
                    peer,
                    lost_ms: ms(lost_ns),
                }),
                Output::Act => self.act(now, loan),
                // Nothing was begun yet: what is done is begun by Act alone.
                Output::CallOff => {}
            }
        }
    }

    fn act(&mut self, now: u64, loan: Loan<'_>) {
        let notifier = self.notifier.as_mut();
        let result = notifier.and_then(|notifier| notifier.begin(now, loan.net));
        self.notified(result, loan);
        if let Some(hook) = &self.plan.hook {
            let silent = self.stats.last.map(|last| now.saturating_sub(last));
            let job = Job {
                beat: self.number,
                hook: hook.clone(),
                environment: vec![
                    ("XENWARDEN_KIND", "pulse.lost".to_owned()),
                    ("XENWARDEN_HEARTBEAT", self.plan.name.clone()),
                    ("XENWARDEN_PEER", plain(&self.peer)),
                    ("XENWARDEN_SILENT_MS", ms(silent.unwrap_or(0)).to_string()),
                    ("XENWARDEN_LOSSES", self.state.losses().to_string()),
                ],
            };
            if let Err(why) = loan.hooks.run(job) {
                self.report_action(Action::Hook, Err(why), loan.reporter);
            }
        }
    }

    fn notified(&self, result: Option<notification::Result>, loan: Loan<'_>) {
        let action = match self.plan.notification.as_ref().map(|plan| &plan.message) {
            Some(Message::Qmp(_)) => Action::Qmp,
            Some(Message::Script(_)) | None => Action::Script,
        };
        if let Some(result) = result {
            self.report_action(action, result, loan.reporter);
        }
    }

    fn report_action(&self, action: Action, result: Result<(), String>, reporter: &Reporter) {
        let heartbeat = self.plan.name.clone();
        reporter.report(match result {
            Ok(()) => Kind::PulseActed { heartbeat, action },
            Err(problem) => Kind::PulseActFailed {
                heartbeat,
                action,
                // A monitor may say anything, at any length.
                problem: problem.chars().take(MAX_PROBLEM).collect(),
            },
        });
    }
}
