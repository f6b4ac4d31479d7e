// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden: a Xen host watchdog supervisor.
//!
//! The host's hardware watchdog is kicked if and only if the hypervisor services, right
//! now, every armed guest watchdog and every physical CPU. When it does not, the kicks
//! stop and the hardware pulls the host down. SPECIFICATION.md has the promises in
//! numbers.
//!
//! # The way of the data
//!
//! ```text
//!   Xen, hypfs /liveness
//!        │ one look each 250 ms
//!        ▼
//!   sampler ──── evidence ────▶ ledger ───▶ kicker ── gate ──▶ barrel (/dev/watchdog)
//!  (real-time)                    │  ▲     (real-time)           kick, or withhold
//!        │                        │  └── decisions, notes
//!        └──── copies ───────▶ snapshots
//!                                 │
//!              ┌──────────────────┼─────────────────┐        (ordinary threads)
//!              ▼                  ▼                 ▼
//!          narrator             guests ◀─ domains  control
//!          stderr, syslog         │ ▲     xenstore xenwarden status, guests, ack
//!              │                  │ └─▶ saver ──▶ /var/lib/xenwarden
//!              └───── events ─────┴──▶ bus ──▶ journal or syslog, socket, hooks, metrics
//! ```
//!
//! | box | file | thread |
//! |---|---|---|
//! | looks at the hypervisor | [`hypervisor`], [`sampler`] | sampler, SCHED_FIFO 41 |
//! | what a look proves | [`evidence`] | sampler |
//! | lock-free boards between threads | [`board`], [`ledger`], [`words`] | all |
//! | kick or withhold | [`gate`] (pure), [`kicker`] | kicker, SCHED_FIFO 42 |
//! | the hardware | [`barrel`] | kicker |
//! | words for people | [`narrator`], [`sink::log`] | narrator, log-stderr, log-syslog |
//! | who the guests are | [`guests::domains`], [`xenstore`] | domains |
//! | guests and their alarms | [`guests`] | guests; state writes to disk |
//! | one order of events for all sinks | [`bus`], [`event`] | all ordinary ones |
//! | events' sinks | [`sink`]: syslog or journal, socket, hooks, metrics | one each |
//! | questions and orders | [`control`], [`peer`], [`status`] | control |
//! | the command line | [`cli`], [`report`] | a process of its own |
//! | order of start and stop | [`startup`], [`guard`], [`ordinary`], [`notify`] | main |
//! | settings | [`config`] | main |
//! | the operating system, and all `unsafe` | [`sys`] | all |
//!
//! The two real-time threads allocate nothing, take no lock, fault no page and log
//! nothing; `tests/kick_path.rs` holds them to it. Whatever happens to the ordinary
//! threads neither kicks nor stops a kick.
//!
//! # Words
//!
//! arm, kick, disarm: start, reset, stop the host watchdog. feed: a guest pokes its own.
//! service: the hypervisor runs a due timer's handler. expire: a guest did not feed, and
//! the handler ran: that is service. canary: a 1 Hz timer on each pCPU. withhold: not
//! kicking, on purpose. Unknown is never served.

pub mod barrel;
pub mod board;
pub mod bus;
pub mod cli;
pub mod config;
pub mod control;
pub mod event;
pub mod evidence;
pub mod exit;
pub mod gate;
pub mod guard;
pub mod guests;
pub mod hypervisor;
pub mod kicker;
pub mod ledger;
pub mod narrator;
pub mod notify;
pub mod ordinary;
pub mod peer;
pub mod report;
pub mod sampler;
pub mod sink;
pub mod startup;
pub mod status;
pub mod sys;
pub mod words;
pub mod xenstore;
