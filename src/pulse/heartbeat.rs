// SPDX-License-Identifier: GPL-2.0-only
//! A heartbeat's state: pure, with time as an input.
//!
//! In: frames that refresh it, the passing of time, gaps of our own, the end. Out: what is to be told and done. Promises:
//! a loss is told once, at the first look after the timeout, and nothing but a frame takes it
//! back; what is done about it is done once for each loss unless it is to be repeated; nothing
//! is ever done before the first frame. Never: a loss for a time in which we did not listen
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
    Armed { deadline: u64 },
    Lost { since: u64, act_at: Option<u64> },
    Back { deadline: u64, since: u64 },
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    timing: Timing,
    inner: Inner,
    proved: u64,
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

    /// Whether what depends on it may go on.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.stopped && self.state() != State::Lost
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
            Inner::Armed { deadline } | Inner::Back { deadline, .. } => Some(deadline),
            Inner::Lost { act_at, .. } => act_at,
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
        let deadline = as_of.saturating_add(self.timing.timeout_ns);
        if deadline <= now {
            return Vec::new();
        }
        self.proved = self.proved.max(as_of);
        match self.inner {
            Inner::Waiting => {
                self.inner = Inner::Armed { deadline };
                vec![Output::Armed]
            }
            // A deadline that a gap of ours has put off is not brought forward.
            Inner::Armed { deadline: before } => {
                let deadline = deadline.max(before);
                self.inner = Inner::Armed { deadline };
                Vec::new()
            }
            Inner::Back {
                deadline: before,
                since,
            } => {
                let deadline = deadline.max(before);
                let settled = now.saturating_sub(since) >= self.timing.timeout_ns;
                self.inner = match settled {
                    true => Inner::Armed { deadline },
                    false => Inner::Back { deadline, since },
                };
                Vec::new()
            }
            Inner::Lost { since, act_at } => {
                self.inner = Inner::Back {
                    deadline,
                    since: now,
                };
                let lost_ns = now.saturating_sub(since);
                let called_off = act_at.map(|_| Output::CallOff);
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
            Inner::Armed { deadline } | Inner::Back { deadline, .. } if now >= deadline => {
                self.losses = self.losses.saturating_add(1);
                outputs.push(Output::Lost {
                    silent_ns: now.saturating_sub(self.proved),
                });
                self.inner = Inner::Lost {
                    since: now,
                    act_at: Some(now.saturating_add(self.timing.act_after_ns)),
                };
            }
            _ => {}
        }
        if let Inner::Lost {
            since,
            act_at: Some(at),
        } = self.inner
            && now >= at
        {
            outputs.push(Output::Act);
            let again = self.timing.repeat_ns.map(|ns| now.saturating_add(ns));
            self.inner = Inner::Lost {
                since,
                act_at: again,
            };
        }
        outputs
    }

    /// Time in which nobody listened does not count. After a gap as long as the timeout nothing is
    /// known any more of what the peer did, and the whole timeout begins anew.
    fn own_gap(&mut self, now: u64, ns: u64) {
        let timeout_ns = self.timing.timeout_ns;
        let anew = if ns >= timeout_ns { timeout_ns } else { 0 };
        let put_off = |at: u64| at.saturating_add(ns).max(now.saturating_add(anew));
        match &mut self.inner {
            Inner::Waiting => {}
            Inner::Armed { deadline } | Inner::Back { deadline, .. } => {
                *deadline = put_off(*deadline);
            }
            Inner::Lost { act_at, .. } => *act_at = act_at.map(put_off),
        }
    }
}
