// SPDX-License-Identifier: GPL-2.0-only
//! A heartbeat's state: pure, with time as an input.
//!
//! In: frames that refresh it, the passing of time, gaps of our own, the end. Out: what is to be told and done. Promises:
//! a loss is told once, at the first look after the timeout, and nothing but a frame takes it
//! back; what is done about it is done once for each loss unless it is to be repeated; nothing
//! is ever done before the first frame; our own gaps, however many, put off nothing for longer than
//! two timeouts, but for one long gap. Never: a loss for one time in which we did not listen
//! ourselves, or for a connection that was closed and made again.
//!
//! ```text
//!            frame                 timeout                frame
//!  waiting ─────────▶ armed ─────────────────▶ lost ─────────────────▶ back
//!                       ▲                        ▲                      │ │
//!                       └──── frames for ────────┼──────────────────────┘ │
//!                             a whole timeout    └────────────────────────┘ timeout
//! ```

/// A heartbeat's times, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Without a frame for so long it is lost.
    pub timeout_ns: u64,
    /// From the loss to what is done about it: a frame in that time takes it back.
    pub act_after_ns: u64,
    /// Done again after so long, while it is lost; none: once.
    pub repeat_ns: Option<u64>,
}

/// Where a heartbeat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No frame has come yet: nothing can be lost. Left by the first frame alone, so that two sides may be
    /// started in any order.
    Waiting,
    /// Frames come.
    Armed,
    /// None came in time. Left by a frame alone.
    Lost,
    /// Frames come again; armed, once they have for a whole timeout.
    Back,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Armed => "armed",
            Self::Lost => "lost",
            Self::Back => "back",
        }
    }
}

/// What happens to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A frame came that proves that the peer lived at this moment, ns. Where that is a timeout
    /// ago it proves nothing.
    Frame {
        /// The moment: now, or that of the pulse that a sealed frame echoes.
        as_of: u64,
    },
    /// Time has passed.
    Tick,
    /// The peer's connection was closed, or made again: neither proves anything.
    Reconnect,
    /// For so long before now nobody listened here.
    OwnGap {
        /// ns.
        ns: u64,
    },
    /// The program stops, in order.
    Stop,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To be told: it is armed.
    Armed,
    /// To be told: it is lost, after so long without a frame, ns.
    Lost {
        /// Since the moment that was proved last.
        silent_ns: u64,
    },
    /// To be told: it is back; it was lost for so long, ns.
    Back {
        /// Since it was told as lost.
        lost_ns: u64,
    },
    /// To be done: what is set for a loss.
    Act,
    /// What was to be done for a loss and was not yet is not to be done.
    CallOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    Waiting,
    Armed { deadline: Deadline },
    Lost { since: u64, act: Option<Deadline> },
    Back { deadline: Deadline, since: u64 },
}

/// A moment that gaps of our own put off, up to a last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline {
    at: u64,
    latest: u64,
    /// A gap as long as the timeout has given it a whole timeout: none does so again.
    renewed: bool,
}

impl Deadline {
    /// At this moment, or up to two timeouts later.
    fn new(at: u64, timeout_ns: u64) -> Self {
        Self {
            at,
            latest: at.saturating_add(timeout_ns.saturating_mul(2)),
            renewed: false,
        }
    }

    /// Time in which nobody listened does not count. After a gap as long as the timeout nothing is
    /// known any more of what the peer did, and the whole timeout begins anew, once: a host that
    /// was suspended for an hour needs it, and one that is stopped again and again must not
    /// excuse a dead peer for ever.
    fn put_off(&mut self, now: u64, ns: u64, timeout_ns: u64) {
        let anew = now.saturating_add(timeout_ns);
        let mut at = self.at.saturating_add(ns).max(now);
        if ns >= timeout_ns {
            at = at.max(anew);
            if !self.renewed {
                self.renewed = true;
                self.latest = self.latest.max(anew);
            }
        }
        self.at = at.min(self.latest).max(self.at);
    }
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    timing: Timing,
    inner: Inner,
    proved: u64,
    /// What was proved was so to an earlier run: a lease holds for it, and nothing can be lost.
    followed: bool,
    stopped: bool,
    losses: u64,
}

impl Heartbeat {
    /// One that waits.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            inner: Inner::Waiting,
            proved: 0,
            followed: false,
            stopped: false,
            losses: 0,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        match self.inner {
            Inner::Waiting => State::Waiting,
            Inner::Armed { .. } => State::Armed,
            Inner::Lost { .. } => State::Lost,
            Inner::Back { .. } => State::Back,
        }
    }

    /// The run before this one, in the same boot, had its peer proved to live at `proved`, ns, and had not lost it. A lease holds
    /// on that ground for as long as it would have there; nothing else comes of it before the first frame.
    pub fn follow(&mut self, proved: u64) {
        if self.inner == Inner::Waiting {
            self.proved = proved;
            self.followed = true;
        }
    }

    /// Whether a lease that depends on it is renewed at `now`: only while the peer is proved to have lived within
    /// the timeout, our own gaps not excepted. So a run that was started after a loss, or was itself stopped in
    /// it, renews nothing on the ground that it has not noticed yet.
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        let fresh = now < self.proved.saturating_add(self.timing.timeout_ns);
        let could_lapse = match self.state() {
            State::Waiting => self.followed,
            State::Armed | State::Back => true,
            State::Lost => false,
        };
        fresh && !self.stopped && could_lapse
    }

    /// The moment that was proved last, while it [holds](Self::holds), ns.
    #[must_use]
    pub fn proved(&self, now: u64) -> Option<u64> {
        self.holds(now).then_some(self.proved)
    }

    /// Losses so far.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// When a tick is wanted, ns; none: nothing changes by time alone.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        match self.inner {
            _ if self.stopped => None,
            Inner::Waiting => None,
            Inner::Armed { deadline } | Inner::Back { deadline, .. } => Some(deadline.at),
            Inner::Lost { act, .. } => act.map(|act| act.at),
        }
    }

    /// What comes of `input` at `now`, ns. Time does not go back.
    pub fn take(&mut self, now: u64, input: Input) -> Vec<Output> {
        if self.stopped {
            return Vec::new();
        }
        match input {
            Input::Frame { as_of } => self.frame(now, as_of.min(now)),
            Input::Tick => self.tick(now),
            Input::Reconnect => Vec::new(),
            Input::OwnGap { ns } => {
                self.own_gap(now, ns);
                Vec::new()
            }
            Input::Stop => {
                self.stopped = true;
                Vec::new()
            }
        }
    }

    fn frame(&mut self, now: u64, as_of: u64) -> Vec<Output> {
        let timeout_ns = self.timing.timeout_ns;
        let deadline = Deadline::new(as_of.saturating_add(timeout_ns), timeout_ns);
        if deadline.at <= now {
            return Vec::new();
        }
        let newer = as_of > self.proved;
        self.proved = self.proved.max(as_of);
        // A deadline that a gap of ours has put off is not brought forward.
        let later = |before: Deadline| match newer {
            true => Deadline {
                at: deadline.at.max(before.at),
                latest: deadline.latest.max(before.at),
                ..deadline
            },
            false => before,
        };
        match self.inner {
            Inner::Waiting => {
                self.inner = Inner::Armed { deadline };
                vec![Output::Armed]
            }
            Inner::Armed { deadline: before } => {
                let deadline = later(before);
                self.inner = Inner::Armed { deadline };
                Vec::new()
            }
            Inner::Back {
                deadline: before,
                since,
            } => {
                let deadline = later(before);
                let settled = now.saturating_sub(since) >= self.timing.timeout_ns;
                self.inner = match settled {
                    true => Inner::Armed { deadline },
                    false => Inner::Back { deadline, since },
                };
                Vec::new()
            }
            Inner::Lost { since, act } => {
                self.inner = Inner::Back {
                    deadline,
                    since: now,
                };
                let lost_ns = now.saturating_sub(since);
                let called_off = act.map(|_| Output::CallOff);
                called_off
                    .into_iter()
                    .chain([Output::Back { lost_ns }])
                    .collect()
            }
        }
    }

    fn tick(&mut self, now: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        match self.inner {
            Inner::Armed { deadline } | Inner::Back { deadline, .. } if now >= deadline.at => {
                self.losses = self.losses.saturating_add(1);
                outputs.push(Output::Lost {
                    silent_ns: now.saturating_sub(self.proved),
                });
                self.inner = Inner::Lost {
                    since: now,
                    act: Some(self.act_after(now, self.timing.act_after_ns)),
                };
            }
            _ => {}
        }
        if let Inner::Lost {
            since,
            act: Some(act),
        } = self.inner
            && now >= act.at
        {
            outputs.push(Output::Act);
            let again = self.timing.repeat_ns.map(|ns| self.act_after(now, ns));
            self.inner = Inner::Lost { since, act: again };
        }
        outputs
    }

    fn act_after(&self, now: u64, ns: u64) -> Deadline {
        Deadline::new(now.saturating_add(ns), self.timing.timeout_ns)
    }

    fn own_gap(&mut self, now: u64, ns: u64) {
        let deadline = match &mut self.inner {
            Inner::Waiting => None,
            Inner::Armed { deadline } | Inner::Back { deadline, .. } => Some(deadline),
            Inner::Lost { act, .. } => act.as_mut(),
        };
        if let Some(deadline) = deadline {
            deadline.put_off(now, ns, self.timing.timeout_ns);
        }
    }
}
