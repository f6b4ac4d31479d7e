// SPDX-License-Identifier: GPL-2.0-only
//! What is said to a monitor at a loss: a script's bytes, or commands of QMP.
//!
//! In: that there is a loss; readiness, time. Out: how it went, once for each loss. Promises: it has 10 s
//! for it, and never delays anything else. Never: half a script now and the rest later: what
//! is not taken in time is given up with its connection.
//!
//! A script's connection is made at the start and kept, as QEMU does; what is said there is read, and not
//! looked at. A QMP monitor has room for one client, so it is connected to only when there is
//! something to say.

use super::link::{Link, Net, Outcome};
use super::plan::{Message, Notification};
use super::poller::{Part, Ready};
use super::qmp::{Dialogue, Step};
use crate::sys::clock::NS_PER_S;
use std::io;
use std::net::SocketAddr;

/// For all of it.
const LIMIT_NS: u64 = 10 * NS_PER_S;
/// What QEMU's human monitor begins each line with.
const PROMPT: &[u8] = b"(qemu)";
/// Connections to one that listens.
const CONNECTIONS: usize = 4;

/// How it went.
pub type Result = std::result::Result<(), String>;

/// The way to one monitor.
#[derive(Debug)]
pub struct Notifier {
    link: Link<()>,
    message: Message,
    task: Option<Task>,
    /// A prompt was seen: it is a human monitor, which answers to an empty line.
    prompts: bool,
    /// The last bytes that were heard: a prompt may come in two parts.
    tail: Vec<u8>,
    /// An empty line was sent and nothing has come since.
    asked: bool,
}

/// What is being said.
#[derive(Debug)]
struct Task {
    deadline: u64,
    /// Where it was begun.
    at: Option<usize>,
    dialogue: Option<Dialogue>,
}

impl Notifier {
    /// For the heartbeat with this number.
    #[must_use]
    pub fn new(plan: &Notification, beat: u32) -> Self {
        // Its silence means nothing.
        let link = Link::new(
            plan.to.clone(),
            (beat, Part::Notification),
            CONNECTIONS,
            u64::MAX,
            (),
        );
        Self {
            link,
            message: plan.message.clone(),
            task: None,
            prompts: false,
            tail: Vec::new(),
            asked: false,
        }
    }

    /// Connects or listens, where that is done at the start.
    ///
    /// # Errors
    /// Why it cannot be listened there.
    pub fn start(&mut self, now: u64, net: Net<'_>) -> io::Result<()> {
        match self.message {
            Message::Script(_) => self.link.start(now, net),
            Message::Qmp(_) => Ok(()),
        }
    }

    /// When [`Notifier::due`] is wanted, ns.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let deadline = self.task.as_ref().map(|task| task.deadline);
        [self.link.next(), deadline].into_iter().flatten().min()
    }

    /// Says it all, now. While it is being said still, it is not said again. The result, if
    /// it is known at once.
    pub fn begin(&mut self, now: u64, net: Net<'_>) -> Option<Result> {
        if self.task.is_some() {
            return None;
        }
        self.task = Some(Task {
            deadline: now.saturating_add(LIMIT_NS),
            at: None,
            dialogue: None,
        });
        if let Message::Qmp(_) = self.message {
            let _ = self.link.start(now, net);
            self.link.due(now, net);
            return None;
        }
        let open = self.link.open();
        for at in open {
            self.write(at, now, net);
        }
        self.progress()
    }

    /// Does what is due; the result, if that settles it.
    pub fn due(&mut self, now: u64, net: Net<'_>) -> Option<Result> {
        if self.task.as_ref().is_some_and(|task| now >= task.deadline) {
            let why = self.why_late();
            return Some(self.end(Err(why), now));
        }
        if self.link.next().is_some_and(|at| now >= at) {
            self.link.due(now, net);
        }
        self.progress()
    }

    /// An address that was asked for.
    pub fn resolved(
        &mut self,
        found: std::result::Result<Vec<SocketAddr>, String>,
        now: u64,
        net: Net<'_>,
    ) {
        self.link.resolved(found, now, net);
    }

    /// A descriptor is ready; the result, if that settles it.
    pub fn ready(&mut self, ready: Ready, now: u64, net: Net<'_>) -> Option<Result> {
        match self.link.ready(ready, now, net) {
            Outcome::Connected(at) => self.connected(at, now, net),
            Outcome::Readable(at) => {
                let mut bytes = [0; 4096];
                let count = self.link.read(at, &mut bytes, now);
                let heard = bytes.get(..count).unwrap_or_default();
                let open = self.link.connection(at).is_some();
                self.prompts = open && (self.prompts || has_prompt(&mut self.tail, heard));
                self.asked &= open && heard.is_empty();
                self.heard(at, heard, now, net)
            }
            Outcome::Nothing | Outcome::Accepted => self.progress(),
        }
    }

    /// Whether it is a human monitor, which shows that its VMM lives by its answers.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.prompts
    }

    /// Whether the VMM whose monitor this is lives: it is connected and, if it is a human monitor, it has answered to
    /// the empty line before. Then it is sent another.
    pub fn vmm_lives(&mut self, now: u64, net: Net<'_>) -> bool {
        let Some(at) = self.link.open().first().copied() else {
            return false;
        };
        if self.asked {
            return false;
        }
        self.asked = self.prompts && self.task.is_none() && self.link.send(at, b"\n", now, net);
        true
    }

    /// Whether it is connected, and owes no answer if it was silent before.
    #[must_use]
    pub fn may_live(&self, was_silent: bool) -> bool {
        let owes = was_silent && self.asked;
        !owes && !self.link.open().is_empty()
    }

    fn connected(&mut self, at: usize, now: u64, net: Net<'_>) -> Option<Result> {
        let task = self.task.as_mut()?;
        match &self.message {
            Message::Script(_) if task.at.is_none() => self.write(at, now, net),
            Message::Script(_) => {}
            Message::Qmp(commands) => {
                task.at = Some(at);
                task.dialogue = Some(Dialogue::new(commands));
            }
        }
        self.progress()
    }

    fn write(&mut self, at: usize, now: u64, net: Net<'_>) {
        if let Message::Script(script) = &self.message {
            self.link.queue(at, script, now, net);
        }
        if let Some(task) = &mut self.task {
            task.at = Some(at);
        }
    }

    fn heard(&mut self, at: usize, bytes: &[u8], now: u64, net: Net<'_>) -> Option<Result> {
        let Some(Task {
            dialogue: Some(dialogue),
            ..
        }) = &mut self.task
        else {
            return self.progress();
        };
        if bytes.is_empty() && self.link.connection(at).is_none() {
            let why = format!("it closed the connection before {}", dialogue.waits_for());
            return Some(self.end(Err(why), now));
        }
        let mut step = dialogue.take(bytes);
        while let Step::Say(line) = step {
            self.link.queue(at, line.as_bytes(), now, net);
            step = dialogue.take(&[]);
        }
        match step {
            Step::Done(result) => Some(self.end(result, now)),
            Step::Wait | Step::Say(_) => None,
        }
    }

    /// A script is said once everybody has taken it; one whose connection broke begins anew with the next.
    fn progress(&mut self) -> Option<Result> {
        let task = self.task.as_mut()?;
        if task.dialogue.is_some() {
            return None;
        }
        let at = task.at?;
        if self.link.connection(at).is_none() {
            task.at = None;
            return None;
        }
        let open = self.link.open();
        let taken = open.into_iter().all(|at| self.link.is_flushed(at));
        taken.then(|| {
            self.task = None;
            Ok(())
        })
    }

    fn end(&mut self, result: Result, now: u64) -> Result {
        let at = self.task.take().and_then(|task| task.at);
        match self.message {
            Message::Qmp(_) => self.link.rest(),
            Message::Script(_) => {
                if let Some(at) = at {
                    self.link.close(at, now, "it did not read");
                }
            }
        }
        result
    }

    fn why_late(&self) -> String {
        let Some(task) = &self.task else {
            return String::new();
        };
        let seconds = LIMIT_NS / NS_PER_S;
        match (&task.dialogue, task.at, self.link.trouble()) {
            (Some(dialogue), ..) => format!("no {} within {seconds} s", dialogue.waits_for()),
            (None, Some(_), _) => format!("it did not read within {seconds} s"),
            (None, None, Some(trouble)) => format!("no connection within {seconds} s: {trouble}"),
            (None, None, None) => format!("nobody connected within {seconds} s"),
        }
    }
}

/// Whether there is a prompt of QEMU's human monitor in what was heard, its beginning perhaps in the
/// `tail` of what was heard before.
fn has_prompt(tail: &mut Vec<u8>, heard: &[u8]) -> bool {
    tail.extend_from_slice(heard);
    let found = tail.windows(PROMPT.len()).any(|part| part == PROMPT);
    let rest = tail.len().saturating_sub(PROMPT.len() - 1);
    tail.drain(..rest);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_seen_however_it_is_cut() {
        let greeting = b"QEMU 7.2 monitor - type 'help'\r\n(qemu) ";
        for cut in 0..greeting.len() {
            let (first, second) = greeting.split_at(cut);
            let mut tail = Vec::new();
            let seen = [first, second].map(|heard| has_prompt(&mut tail, heard));
            assert!(seen.contains(&true), "cut at {cut}");
            assert!(tail.len() < PROMPT.len());
        }
        assert!(!has_prompt(&mut Vec::new(), b"(qem) qemu)"));
    }
}
