// SPDX-License-Identifier: GPL-2.0-only
//! One VM's thread: connect, follow, and again.
//!
//! In: its QMP socket, its trace. Out: [`Input`]s, in an order that never takes a feed for younger
//! than it is: what the log holds was written before, or at most moments after, the events that
//! were read first; so sightings come before events, and an event beside sightings that may have
//! armed the device leaves open what it is since ([`Input::Expired`]'s `unclear`).
//! Promises: no wait is longer than a few seconds, and each ends when the process is to stop.

use super::config::PolicyVm;
use super::feeds::{ARMED, FED, Trace, Ways};
use super::hypervisor::Hypervisor;
use super::pace::{Attempts, Lines};
use super::peer;
use super::status::{Reset, Status, ending};
use super::trace::Sighting;
use super::vm::Input;
use super::vms::Vms;
use crate::event::describe::plain;
use crate::event::{NO_DOMAIN, Timestamp, Uuid};
use crate::guests::state::DomainState;
use crate::qmp::client::readable;
use crate::qmp::{CallError, Client, Event, Stopped};
use serde_json::{Map, Value};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long QEMU may take for each command: its main loop may be busy with a disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a VM of which nothing is heard.
const LOOK: Duration = Duration::from_millis(500);
/// And while its trace is on, whose file is small.
const LOOK_TRACED: Duration = Duration::from_millis(50);
/// Events of one turn: what is more waits, however fast a peer talks.
const MOST_EVENTS: usize = 256;
/// Age of an event after which a guest may have booted since.
const OLD_MS: u64 = 500;
/// Events after which QEMU is asked what the VM is doing.
const TELL_OF_STATUS: [&str; 10] = [
    "STOP",
    "RESUME",
    "RESET",
    "SHUTDOWN",
    "MIGRATION",
    "SUSPEND",
    "WAKEUP",
    "GUEST_PANICKED",
    "COLO_EXIT",
    "WATCHDOG",
];

/// What a VM's thread works with.
pub struct Session<'a> {
    /// Which of [`Vms`].
    pub n: usize,
    /// The VM.
    pub vm: &'a PolicyVm,
    /// Where its inputs go.
    pub vms: &'a Vms,
    /// What its hypervisor knows.
    pub hypervisor: &'a Hypervisor,
    /// Its trace.
    pub trace: Trace,
    /// Readable when the thread is to end.
    pub stop: &'a UnixStream,
    /// Lines of the log about expiries, of which a QEMU may tell as often as it likes.
    pub expiries: Lines,
}

/// A VM to which there is a connection.
struct Attached {
    client: Client,
    ways: Ways,
    /// What QEMU last said.
    status: Status,
    /// A feed may have come before this connection: QEMU tells of the first one alone.
    missed: bool,
    /// The trace could not be switched on: not tried again on this connection.
    no_trace: bool,
    /// When the device was last turned off, by QEMU's clock.
    turned_off: Option<Timestamp>,
    /// And when the VM last ran on: an expiry of before, held back, has not paused it since.
    resumed: Option<Timestamp>,
}

impl Attached {
    /// Whether what QEMU itself tells of the guest's device is of before it was turned off: QEMU
    /// holds events back that come fast, each kind for itself, for up to a second (its
    /// monitor/monitor.c, `monitor_qapi_event_conf`), but not their times.
    fn is_late(&self, event: &Event) -> bool {
        match (self.turned_off, event.time()) {
            (Some(off), Some(time)) => time <= off,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl Session<'_> {
    /// Runs until it is to stop.
    pub fn run(&mut self) {
        let mut attempts = Attempts::default();
        let mut told = None;
        loop {
            let mut lasted = Duration::ZERO;
            let why = match self.attach() {
                Ok(mut attached) => {
                    told = None;
                    let since = Instant::now();
                    let why = self.follow(&mut attached);
                    if matches!(why, CallError::Stopped(Stopped::Woken)) {
                        self.leave(&mut attached);
                        return;
                    }
                    lasted = since.elapsed();
                    self.last_words(&mut attached);
                    self.trace.lost();
                    self.step(&[Input::Detached]);
                    why
                }
                Err(CallError::Stopped(Stopped::Woken)) => return,
                Err(why) => why,
            };
            if is_gone(&why) {
                self.step(&[Input::Gone]);
            }
            self.say(&why.to_string(), &mut told);
            let wait = attempts.wait(&why, lasted);
            if readable(self.stop.as_fd(), Instant::now() + wait) {
                return;
            }
            self.step(&[Input::Tick]);
        }
    }

    fn say(&self, why: &str, told: &mut Option<String>) {
        if told.as_deref() != Some(why) {
            let path = self.vm.qmp.display();
            log::info!("{}: {path}: {}", self.vm.name, plain(why));
            *told = Some(why.to_owned());
        }
    }

    fn step(&self, inputs: &[Input]) {
        self.vms.step(self.n, inputs);
    }

    fn attach(&mut self) -> Result<Attached, CallError> {
        // It may use up its patience on a monitor that another client has.
        let mut client = Client::connect(&self.vm.qmp, PATIENCE, &wake(self.stop)?)?;
        self.identify(&mut client)?;
        let status = query_status(&mut client)?;
        let ways = Ways::find(&mut client)?;
        let blind = ways.no_trace.clone().filter(|_| ways.is_blind());
        let name = &self.vm.name;
        let version = client
            .version()
            .unwrap_or("of an unknown version")
            .to_owned();
        match (&blind, ways.events) {
            (Some(why), _) => log::warn!(
                "{name}: QEMU {version}: nobody can see it feed, an operator ends its alarms: {why}"
            ),
            (None, true) => log::info!("{name}: QEMU {version} tells of feeds itself"),
            (None, false) => log::info!(
                "{name}: QEMU {version} shows feeds in its trace, while an alarm is open"
            ),
        }
        self.vms.set_feeds_unseen(self.n, blind);
        let process = peer::process(client.stream()).and_then(peer::identity);
        self.step(&[Input::Attached(process, self.seen(status))]);
        let mut attached = Attached {
            missed: self.vms.needs_feeds(self.n),
            no_trace: false,
            turned_off: None,
            resumed: None,
            client,
            ways,
            status,
        };
        // As an earlier process of ours has left it.
        if self.vms.is_tracing(self.n) && !self.wants_trace(&attached) {
            self.switch_off(&mut attached)?;
        }
        Ok(attached)
    }

    /// Which guest it is, as QEMU says, if it may be that one.
    fn identify(&self, client: &mut Client) -> Result<(), CallError> {
        let answer = client.call("query-uuid", Map::new())?;
        let said = answer.get("UUID").and_then(Value::as_str);
        let said: Option<Uuid> = said.and_then(|text| text.parse().ok());
        let said = said.filter(|uuid| !uuid.is_nil());
        match (self.vm.uuid, said) {
            (Some(wanted), Some(said)) if wanted != said => Err(CallError::Refused(format!(
                "this is guest {said}, the configuration says {wanted}"
            ))),
            (None, Some(said)) => self.vms.claim(self.n, said).map_err(CallError::Refused),
            _ => Ok(()),
        }
    }

    /// With what the hypervisor knows: QEMU's own word is that it runs also while it is paused.
    fn seen(&self, status: Status) -> Status {
        let found = self
            .vms
            .uuid(self.n)
            .and_then(|uuid| self.hypervisor.look(uuid));
        self.vms
            .set_domain(self.n, found.map_or(NO_DOMAIN, |seen| seen.domid));
        match found {
            Some(seen) if seen.paused && status.state == DomainState::Running => Status {
                state: DomainState::Paused,
                ..status
            },
            _ => status,
        }
    }

    fn follow(&mut self, attached: &mut Attached) -> CallError {
        loop {
            if let Err(why) = self.turn(attached) {
                return why;
            }
        }
    }

    fn turn(&mut self, attached: &mut Attached) -> Result<(), CallError> {
        self.switch(attached)?;
        let wait = if self.trace.is_on() {
            LOOK_TRACED
        } else {
            LOOK
        };
        let mut events = Vec::new();
        let mut deadline = Instant::now() + wait;
        let mut end = Ok(());
        while events.len() < MOST_EVENTS {
            match attached.client.event(deadline) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(why) => {
                    end = Err(why);
                    break;
                }
            }
            deadline = Instant::now();
        }
        let seen = self.look();
        let mut ask = false;
        for event in &events {
            // In a snapshot that may have been loaded the first feed may have been told long ago: the
            // trace shows a load.
            attached.missed |= event.name == "RESUME" || pauses(event);
            ask |= TELL_OF_STATUS.contains(&event.name.as_str());
        }
        let inputs = self.inputs(seen, &events, attached);
        self.step(&inputs);
        end?;
        if ask {
            attached.status = query_status(&mut attached.client)?;
        }
        self.step(&[Input::Status(self.seen(attached.status)), Input::Tick]);
        let more = self.expiries.left_out(Instant::now());
        if more > 0 {
            log::warn!("{}: its watchdog expired {more} times more", self.vm.name);
        }
        Ok(())
    }

    /// What a QEMU that ended has said last: the connection may have broken at a command.
    fn last_words(&mut self, attached: &mut Attached) {
        let seen = self.look();
        let mut events = Vec::new();
        while events.len() < MOST_EVENTS {
            let Ok(Some(event)) = attached.client.event(Instant::now()) else {
                break;
            };
            events.push(event);
        }
        let inputs = self.inputs(seen, &events, attached);
        self.step(&inputs);
    }

    fn look(&mut self) -> Vec<Sighting> {
        self.trace.look().unwrap_or_else(|error| {
            log::warn!("{}: its trace cannot be read: {error}", self.vm.name);
            vec![Sighting::Gap]
        })
    }

    fn inputs(
        &mut self,
        seen: Vec<Sighting>,
        events: &[Event],
        attached: &mut Attached,
    ) -> Vec<Input> {
        let armed = seen.iter().any(|seen| seen.may_arm());
        let loaded = seen.contains(&Sighting::Loaded);
        let mut inputs: Vec<Input> = seen.into_iter().map(Input::Seen).collect();
        for (n, event) in events.iter().enumerate() {
            let mut after = events.iter().skip(n);
            let stands_still = pauses(event) && !after.any(|event| event.name == "RESUME");
            let unclear = if stands_still {
                loaded
            } else {
                armed || is_old(event)
            };
            inputs.extend(self.input(event, unclear, attached));
        }
        inputs
    }

    fn input(&mut self, event: &Event, unclear: bool, attached: &mut Attached) -> Option<Input> {
        let status = attached.status;
        if matches!(event.name.as_str(), "WATCHDOG" | "RESET") {
            attached.turned_off = attached.turned_off.max(event.time());
        }
        match event.name.as_str() {
            "WATCHDOG" => {
                if self.expiries.may_say(Instant::now()) {
                    let action = plain(event.text("action").unwrap_or("unknown"));
                    log::warn!("{}: its watchdog expired, action {action}", self.vm.name);
                }
                let found = self.seen(status);
                let paused =
                    status.state == DomainState::Running && found.state == DomainState::Paused;
                Some(Input::Expired {
                    unclear,
                    paused,
                    pauses: pauses(event) && event.time() > attached.resumed,
                })
            }
            "RESET" => {
                let how = Reset::from_reason(event.text("reason").unwrap_or_default());
                Some(Input::Reset { how, unclear })
            }
            "RESUME" => {
                attached.resumed = attached.resumed.max(event.time());
                Some(Input::Resumed)
            }
            "SHUTDOWN" => Some(Input::Ending(ending(
                event.text("reason").unwrap_or_default(),
            ))),
            ARMED | FED if attached.is_late(event) => None,
            ARMED => Some(Input::Armed),
            FED => Some(Input::Fed),
            _ => None,
        }
    }

    /// QEMU's own events are enough, but for what they told while nobody listened.
    fn wants_trace(&self, attached: &Attached) -> bool {
        let ways = &attached.ways;
        ways.trace
            && !attached.no_trace
            && self.vms.needs_feeds(self.n)
            && (!ways.events || attached.missed)
    }

    /// Has the trace be as it should.
    fn switch(&mut self, attached: &mut Attached) -> Result<(), CallError> {
        if !self.vms.needs_feeds(self.n) {
            attached.missed = false;
        }
        match (self.wants_trace(attached), self.trace.is_on()) {
            (true, false) => {}
            (false, true) => return self.switch_off(attached),
            _ => return Ok(()),
        }
        self.vms.set_tracing(self.n, true);
        match self.trace.switch_on(&mut attached.client) {
            Ok(()) => self.step(&[Input::TraceOn]),
            Err(CallError::Refused(why)) => {
                log::error!(
                    "{}: its feeds cannot be seen: {}",
                    self.vm.name,
                    plain(&why)
                );
                attached.no_trace = true;
                self.vms.set_feeds_unseen(self.n, Some(why));
                return self.switch_off(attached);
            }
            Err(stopped) => return Err(stopped),
        }
        Ok(())
    }

    fn switch_off(&mut self, attached: &mut Attached) -> Result<(), CallError> {
        match self.trace.switch_off(&mut attached.client) {
            Ok(()) => {}
            Err(CallError::Refused(why)) => {
                log::warn!(
                    "{}: its trace is not switched off: {}",
                    self.vm.name,
                    plain(&why)
                );
            }
            Err(stopped) => return Err(stopped),
        }
        self.vms.set_tracing(self.n, false);
        self.step(&[Input::TraceOff]);
        Ok(())
    }

    /// The process ends: nobody will read the trace.
    fn leave(&mut self, attached: &mut Attached) {
        if self.trace.is_on() {
            attached.client.no_longer_wakes();
            if let Err(why) = self.switch_off(attached) {
                log::warn!("{}: its trace is not switched off: {why}", self.vm.name);
            }
        }
    }
}

fn wake(stop: &UnixStream) -> Result<UnixStream, CallError> {
    Ok(stop.try_clone()?)
}

/// Nobody listens on the socket, or there is none.
fn is_gone(why: &CallError) -> bool {
    let CallError::Stopped(Stopped::Io(error)) = why else {
        return false;
    };
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// It expired, and QEMU pauses the VM for that.
fn pauses(event: &Event) -> bool {
    event.name == "WATCHDOG" && event.text("action") == Some("pause")
}

/// A guest may have booted since.
fn is_old(event: &Event) -> bool {
    let age_ms = event.time().map(|time| {
        let now = Timestamp::now();
        now.since_ms(time).max(time.since_ms(now))
    });
    age_ms.is_none_or(|age| age > OLD_MS)
}

fn query_status(client: &mut Client) -> Result<Status, CallError> {
    let answer = client.call("query-status", Map::new())?;
    let word = answer.get("status").and_then(Value::as_str);
    Ok(Status::from_word(word.unwrap_or_default()))
}
