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
//! | room | what it holds |
//! |---|---|
//! | [`xen`] | the hypervisor's interface: evidence, xenstore |
//! | [`guard`] | evidence, gate, the kick path, and how it starts |
//! | [`watchdog`] | the hardware |
//! | [`guests`] | guests and their alarms, pure |
//! | [`state`] | what outlives the daemon and the host |
//! | [`event`] | typed events, their order, subscriptions |
//! | [`sink`] | journal or syslog, socket, hooks, metrics |
//! | [`control`] | questions and orders over the control socket |
//! | [`monitor`] | the ordinary threads, assembled |
//! | [`cli`] | the command line, a process of its own |
//! | [`config`] | the file, parsed, then validated into a policy |
//! | [`sys`] | the operating system, and all `unsafe` |
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

pub mod cli;
pub mod config;
pub mod control;
pub mod event;
pub mod exit;
pub mod guard;
pub mod guests;
pub mod monitor;
pub mod sink;
pub mod state;
pub mod sys;
pub mod watchdog;
pub mod xen;
