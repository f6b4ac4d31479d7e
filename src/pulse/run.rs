// SPDX-License-Identifier: GPL-2.0-only
//! The program's loop: one thread that waits in one place and serves every heartbeat on time.
//!
//! In: a plan. Out: heartbeats, until SIGTERM or SIGINT. Promises: each round serves what is ready, a bounded amount of
//! it, before what is due, so that a pulse which has arrived is never overtaken by its deadline; lateness of our own is measured at each round
//! and never taken for a peer's. Never: a wait but that for events, until it ends.

use super::beat::{Beat, Loan};
use super::hook::Hooks;
use super::link::Net;
use super::metrics::Metrics;
use super::plan::Plan;
use super::poller::{Part, Poller, Ready, Token};
use super::proofs::Proofs;
use super::reporter::Reporter;
use super::resolver::Resolver;
use super::status::{BeatStatus, PulseStatus};
use super::status_socket::StatusSocket;
use crate::event::Kind;
use crate::exit::{CONFIG, Failure, OSERR};
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, suspended_ns};
use crate::sys::notify::Notifier;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Later than this by our own fault, that time is not counted against the peers.
const GAP_NS: u64 = 200 * NS_PER_MS;
/// A gap as long is told.
const GAP_TOLD_NS: u64 = NS_PER_S;
/// At the end leases are tried to be given back for so long, each time after so long: in all less
/// than the unit's TimeoutStopSec. Heartbeats are served meanwhile, as a peer's next pulse may be the proof that is wanted.
const RELEASE_NS: u64 = 5 * NS_PER_S;
const RELEASE_AGAIN_NS: u64 = 50 * NS_PER_MS;
/// The longest wait.
const LONGEST_NS: u64 = NS_PER_S;
/// The program's own descriptors, as slots of [`Token::PROGRAM`]'s remote part.
const STOP: u16 = 0;
const WAKE: u16 = 1;

/// Where the program's sockets are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory of the status sockets of all such programs.
    pub status: PathBuf,
    /// The directory of the leases' sockets.
    pub leases: PathBuf,
}

impl Places {
    /// Below `run`, normally `/run`.
    #[must_use]
    pub fn below(run: &Path) -> Self {
        Self {
            status: run.join("xenwarden-pulse"),
            leases: run.join("xenwarden/lease"),
        }
    }
}

/// Watches the heartbeats of `plan` until it is told to stop.
///
/// # Errors
/// What the system refuses at the start, by its exit code, and one line.
pub fn run(plan: Plan, places: &Places) -> Result<(), Failure> {
    for warning in &plan.warnings {
        log::warn!("{warning}");
    }
    let mut program = Program::start(plan, places)?;
    let notifier = Notifier::from_environment();
    let _ = notifier.tell("READY=1");
    log::info!("watches {} heartbeats", program.beats.len());
    program.serve(&notifier)?;
    program.stop();
    Ok(())
}

struct Program {
    name: String,
    poller: Poller,
    resolver: Resolver,
    reporter: Reporter,
    hooks: Hooks,
    wake: Arc<EventFd>,
    stop: UnixStream,
    /// Since when it has been stopping, ns.
    stopping: Option<u64>,
    proofs: Proofs,
    beats: Vec<Beat>,
    /// When each heartbeat is due, and the same by time.
    due: Vec<u64>,
    agenda: BTreeSet<(u64, u32)>,
    status: StatusSocket,
    metrics: Option<Metrics>,
    started: u64,
    suspended: u64,
    /// Gaps up to this moment are accounted for, ns.
    accounted: u64,
    worst_late_ns: u64,
    own_gaps: u64,
}

fn refused(what: &str) -> impl Fn(&dyn Display) -> Failure {
    move |error| Failure::new(OSERR, format!("{what}: {error}"))
}

fn own(slot: u16) -> Token {
    Token {
        beat: Token::PROGRAM,
        part: Part::Remote,
        slot,
    }
}

impl Program {
    fn start(plan: Plan, places: &Places) -> Result<Self, Failure> {
        allow_descriptors(&plan)?;
        let now = Monotonic::now().0;
        let poller = Poller::new().map_err(|e| refused("epoll")(&e))?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|e| refused("eventfd")(&e))?);
        let stop = stop_signals(&poller)?;
        poller
            .add(wake.as_ref(), own(WAKE), false)
            .map_err(|e| refused("epoll")(&e))?;
        let thread = |e: std::io::Error| refused("cannot start a thread")(&e);
        let resolver = Resolver::start(Arc::clone(&wake)).map_err(thread)?;
        let any = plan.heartbeats.iter().any(|beat| beat.hook.is_some());
        let hooks = Hooks::start(any, &wake).map_err(thread)?;
        let reporter = Reporter::start(plan.control_socket).map_err(thread)?;
        let metrics = plan.metrics_textfile.map(Metrics::start);
        let proofs = Proofs::of(&places.status, &plan.name);
        let before = proofs.take(now);
        let mut beats = Vec::new();
        let net = Net {
            poller: &poller,
            resolver: &resolver,
        };
        for (number, beat) in (0..Token::PROGRAM).zip(plan.heartbeats) {
            let wrong = format!("heartbeat {}", beat.name);
            let beat =
                Beat::new(beat, number, &places.leases, &before, now).and_then(|mut beat| {
                    beat.start(now, net)?;
                    Ok(beat)
                });
            beats.push(beat.map_err(|why| Failure::new(OSERR, format!("{wrong}: {why}")))?);
        }
        let status = StatusSocket::open(&places.status, &plan.name, net);
        let due: Vec<u64> = beats.iter().map(Beat::next).collect();
        Ok(Self {
            agenda: due.iter().copied().zip(0..).collect(),
            due,
            name: plan.name,
            reporter,
            hooks,
            wake,
            stop,
            stopping: None,
            proofs,
            beats,
            status,
            metrics: metrics.transpose().map_err(thread)?,
            started: now,
            suspended: suspended_ns(),
            accounted: now,
            worst_late_ns: 0,
            own_gaps: 0,
            poller,
            resolver,
        })
    }

    fn serve(&mut self, notifier: &Notifier) -> Result<(), Failure> {
        let watchdog = watchdog_ns();
        let mut alive_at = Monotonic::now().0;
        let mut ready = Vec::new();
        loop {
            let now = Monotonic::now().0;
            if let Some(period) = watchdog.filter(|_| now >= alive_at) {
                let _ = notifier.tell("WATCHDOG=1");
                alive_at = now.saturating_add(period / 2);
            }
            self.publish(now);
            let due = self.agenda.first().map_or(u64::MAX, |(at, _)| *at);
            let wait = due.saturating_sub(now).min(LONGEST_NS);
            let wait = watchdog.map_or(wait, |_| wait.min(alive_at.saturating_sub(now)));
            let wait = self.stopping.map_or(wait, |_| wait.min(RELEASE_AGAIN_NS));
            let wait = u16::try_from(wait.div_ceil(NS_PER_MS)).unwrap_or(1_000);
            self.poller
                .wait(wait, &mut ready)
                .map_err(|e| refused("epoll")(&e))?;
            self.notice_gap(Monotonic::now().0);
            let mut ends = false;
            for ready in &ready {
                ends |= self.serve_one(*ready, Monotonic::now().0);
            }
            if ends {
                let _ = notifier.tell("STOPPING=1");
                self.begin_to_stop(Monotonic::now().0);
            }
            self.serve_due();
            if self.has_released(Monotonic::now().0) {
                return Ok(());
            }
        }
    }

    /// Time in which this program did not run, or the host was suspended, up to `now`: since
    /// something was due, as far as it was not accounted for before.
    fn notice_gap(&mut self, now: u64) {
        let due = self.agenda.first().map_or(u64::MAX, |(at, _)| *at);
        let late = now.saturating_sub(due.max(self.accounted));
        let suspended = suspended_ns();
        let slept = suspended.saturating_sub(self.suspended);
        self.suspended = suspended;
        let gap = late.saturating_add(slept);
        if gap < GAP_NS {
            self.worst_late_ns = self.worst_late_ns.max(late);
            return;
        }
        self.accounted = now;
        self.own_gaps = self.own_gaps.saturating_add(1);
        for (number, beat) in (0..).zip(&mut self.beats) {
            beat.own_gap(now, gap);
            note(&mut self.agenda, &mut self.due, number, beat.next());
        }
        if gap >= GAP_TOLD_NS {
            self.reporter.report(Kind::PulseOwnGap {
                program: self.name.clone(),
                missed_ms: gap / NS_PER_MS,
            });
        }
    }

    /// Serves a descriptor; whether it tells the program to end.
    fn serve_one(&mut self, ready: Ready, now: u64) -> bool {
        let net = Net {
            poller: &self.poller,
            resolver: &self.resolver,
        };
        if ready.token.beat != Token::PROGRAM {
            self.with_beat(ready.token.beat, |beat, loan| beat.ready(ready, now, loan));
            return false;
        }
        match (ready.token.part, ready.token.slot) {
            (Part::Remote, STOP) => return true,
            (Part::Remote, WAKE) => {
                let _ = self.wake.read();
                self.take_answers(now);
            }
            (Part::Node, _) => {
                let status = if self.status.wants(ready) {
                    Some(self.status_now(now))
                } else {
                    None
                };
                self.status.ready(ready, now, net, status);
            }
            _ => {}
        }
        false
    }

    fn take_answers(&mut self, now: u64) {
        while let Ok(((beat, part), found)) = self.resolver.answers.try_recv() {
            self.with_beat(beat, |beat, loan| beat.resolved(part, found, now, loan.net));
        }
        while let Ok((beat, result)) = self.hooks.ended.try_recv() {
            self.with_beat(beat, |beat, loan| beat.hook_ended(result, loan.reporter));
        }
    }

    /// Has every heartbeat that is due do what is, each once, whatever it says is next.
    fn serve_due(&mut self) {
        let round = Monotonic::now().0;
        loop {
            // One moment for both: a stop of this program after it cannot pass for a peer's silence.
            let now = Monotonic::now().0;
            self.notice_gap(now);
            let first = self.agenda.first().copied();
            let Some((_, number)) = first.filter(|(at, _)| *at <= round) else {
                return;
            };
            self.with_beat(number, |beat, loan| beat.due(now, loan));
            let next = self.due.get(usize::try_from(number).unwrap_or(usize::MAX));
            if next.is_some_and(|next| *next <= round) {
                let later = round.saturating_add(NS_PER_MS);
                note(&mut self.agenda, &mut self.due, number, later);
            }
        }
    }

    /// Has a heartbeat do something, and notes when it is due then.
    fn with_beat(&mut self, number: u32, act: impl FnOnce(&mut Beat, Loan<'_>)) {
        let loan = Loan {
            net: Net {
                poller: &self.poller,
                resolver: &self.resolver,
            },
            reporter: &self.reporter,
            hooks: &self.hooks,
        };
        let beat = self
            .beats
            .get_mut(usize::try_from(number).unwrap_or(usize::MAX));
        if let Some(beat) = beat {
            act(beat, loan);
            note(&mut self.agenda, &mut self.due, number, beat.next());
        }
    }

    fn status_now(&self, now: u64) -> PulseStatus {
        PulseStatus {
            program: self.name.clone(),
            uptime_ms: now.saturating_sub(self.started) / NS_PER_MS,
            worst_late_us: self.worst_late_ns / 1_000,
            own_gaps: self.own_gaps,
            events_lost: self.reporter.lost(),
            heartbeats: self
                .beats
                .iter()
                .map(|beat| BeatStatus::of(beat, now))
                .collect(),
        }
    }

    /// Has the metrics written, when it is time to.
    fn publish(&mut self, now: u64) {
        if self
            .metrics
            .as_mut()
            .is_some_and(|metrics| metrics.is_due(now))
        {
            let status = self.status_now(now);
            if let Some(metrics) = &self.metrics {
                metrics.write(&status);
            }
        }
    }

    fn begin_to_stop(&mut self, now: u64) {
        // Another signal changes nothing.
        let _ = self.poller.remove(&self.stop);
        self.stopping = Some(now);
        for (number, beat) in (0..).zip(&mut self.beats) {
            beat.end_renewals();
            note(&mut self.agenda, &mut self.due, number, beat.next());
        }
    }

    /// Gives the leases back, where it is stopping; whether it has done what it could. A monitor that is just being started, or has no
    /// room, is asked again for a while, and so is a peer whose last proof is not young enough: a lease
    /// that is not given back brings the host down.
    fn has_released(&mut self, now: u64) -> bool {
        let Some(since) = self.stopping else {
            return false;
        };
        let results = self.beats.iter_mut().map(|beat| beat.release(now));
        let untaken: Vec<String> = results.filter_map(Result::err).collect();
        let is_over = now.saturating_sub(since) >= RELEASE_NS;
        for why in untaken.iter().filter(|_| is_over) {
            log::warn!("{why}");
        }
        is_over || untaken.is_empty()
    }

    fn stop(&mut self) {
        let now = Monotonic::now().0;
        let left = self.beats.iter().filter_map(|beat| beat.bequest(now));
        self.proofs.leave(left.collect());
        for beat in &mut self.beats {
            beat.stop(now);
        }
        self.status.close();
        if let Some(metrics) = self.metrics.take() {
            metrics.end(&self.name);
        }
        log::info!("has ended");
    }
}

/// A heartbeat is due at another time now.
fn note(agenda: &mut BTreeSet<(u64, u32)>, due: &mut [u64], number: u32, next: u64) {
    let before = due.get_mut(usize::try_from(number).unwrap_or(usize::MAX));
    if let Some(before) = before {
        agenda.remove(&(*before, number));
        agenda.insert((next, number));
        *before = next;
    }
}

/// What is readable once SIGTERM or SIGINT has come.
fn stop_signals(poller: &Poller) -> Result<UnixStream, Failure> {
    let (read, write) = UnixStream::pair().map_err(|e| refused("a socket pair")(&e))?;
    for signal in [SIGTERM, SIGINT] {
        let registered = write
            .try_clone()
            .and_then(|end| signal_hook::low_level::pipe::register(signal, end));
        registered.map_err(|e| refused("signals")(&e))?;
    }
    poller
        .add(&read, own(STOP), false)
        .map_err(|e| refused("epoll")(&e))?;
    Ok(read)
}

/// As many descriptors as the hard limit allows: a thousand heartbeats have more than the usual soft
/// one. With fewer than the plan may come to need, strangers' connections could use them up.
fn allow_descriptors(plan: &Plan) -> Result<(), Failure> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Ok(());
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let most = if raised.is_ok() { hard } else { soft };
    let needed = plan.descriptors();
    if needed <= most {
        return Ok(());
    }
    Err(Failure::new(
        CONFIG,
        format!(
            "{needed} descriptors may be needed (the sum of max_connections, and 64), and the limit is {most}: lower max_connections, or raise LimitNOFILE (ulimit -n)"
        ),
    ))
}

/// The service manager's watchdog (sd_watchdog_enabled(3)), ns.
fn watchdog_ns() -> Option<u64> {
    let pid = std::env::var("WATCHDOG_PID").ok();
    if pid.is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    let us: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (us > 0).then(|| us.saturating_mul(1_000))
}
