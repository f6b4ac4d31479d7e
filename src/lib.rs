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
//!   hypervisor ── liveness table, mapped read-only ──┐              xen::table
//!                 (or probes: guard::probing)        │
//!         ┌──────────────────────────────────────────┤
//!   ┌─────▼──── xenwardend, the guard ────────────┐  │
//!   │ sight ─▶ evidence ─▶ gate ─▶ run ───────────┼──┼─▶ /dev/watchdogN
//!   │ look     judge       decide  kick, or not   │  │              guard, watchdog
//!   └───────────────────────────────┬─────────────┘  │
//!                   guard page, mapped read-only     │              guard::page
//!         ┌─────────────────────────┘                │
//!   ┌─────▼──── xenwarden-monitor ───────────────────▼──────┐
//!   │ reporter                           watcher ◀─ names ◀─┼── xenstore
//!   │   │ a watcher on                      ▼               │
//!   │   │ each dom0 vCPU      control ────▶ registry        │       monitor, guests
//!   │   │                       ▲     events │ │            │
//!   │   └──▶ bus ◀──────────────┼────────────┘ └──▶ saver ──┼─▶ /var/lib/xenwarden
//!   │         ▼                 │                           │       event, state
//!   │  syslog, socket, hooks, metrics                       │       sink, control
//!   └────────────▲──────────────┼───────────────────────────┘
//!       xenwarden events    xenwarden status, guests, why, ack      cli
//! ```
//!
//! Other programs are conditions of the host's life by leases: they renew them at the monitor's
//! sockets ([`monitor::leases`]), which writes deadlines into the lease page, and the guard reads
//! that with each look ([`guard::leases`]). `xenwarden inhibit` gives the guard a deadline itself ([`guard::deadlines`]), whether or not there is
//! a monitor. `xenwarden status` reads the guard page itself where the monitor is down, `xenwarden why` the
//! state directory; `xenwarden check` looks at the host, and asks neither of them. When kicks end,
//! the monitor's recorder writes down what is so just then, and the next boot deduces from all
//! that is left why the host went down ([`state::deduction`]).
//!
//! | room | what it holds |
//! |---|---|
//! | [`xen`] | the hypervisor's side: the liveness table, xenstore, a simulated table |
//! | [`guard`] | evidence, gate, the kick path, the guard page, and how the guard starts |
//! | [`watchdog`] | the hardware |
//! | [`guests`] | guests and their alarms, pure |
//! | [`state`] | what outlives the monitor and the host |
//! | [`event`] | typed events, their order, subscriptions |
//! | [`sink`] | journal or syslog, socket, hooks, metrics |
//! | [`pulse`] | heartbeats of VMMs, guests and servers, a process of its own that holds leases |
//! | [`control`] | questions and orders over the control socket, and the status |
//! | [`monitor`] | the monitor's threads, assembled |
//! | [`qmp`] | a client of QEMU's machine monitor |
//! | [`pool`] | what the hosts of a corosync cluster know of each other: a process of its own, xenwarden-pool |
//! | [`qemu`] | alarms for watchdog devices of QEMU's guests: a process of its own, xenwarden-qemu |
//! | [`check`] | what of a host is fine for the guard, and what is not |
//! | [`cli`] | the command line, a process of its own |
//! | [`config`] | the file, parsed, then validated into a policy |
//! | [`sys`] | the operating system, and all `unsafe` |
//!
//! The guard's thread allocates nothing, takes no lock, faults no page and logs nothing
//! ([`guard::run`]); `tests/kick_path.rs` holds it to that. The monitor may hang, die or
//! be replaced: neither a kick nor a reset comes of it.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | host watchdog | the hardware timer behind /dev/watchdogN |
//! | arm, kick, disarm | start it, reset its countdown, stop it |
//! | guest watchdog | a domain's `SCHEDOP_watchdog` timer, two slots a domain, run by the hypervisor |
//! | feed | a guest pokes its own watchdog |
//! | service | the hypervisor runs a due timer's handler |
//! | expire | a guest did not feed, and the handler ran: that is service |
//! | canary | a 1 Hz timer on each pCPU |
//! | wedge | due work that the hypervisor does not service |
//! | liveness table | what the hypervisor records of all this |
//! | evidence | what a look at it proves: served, lagging, or unknown, which is never served |
//! | gate | evidence in, kick or withhold out |
//! | lease | evidence from another process: it must renew in time |
//! | withhold | not kicking, on purpose |
//! | guard page | what the guard records of itself |
//! | guest, domain | a guest is a UUID; a domain is a domid and a creation number |

pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod event;
pub mod exit;
pub mod fencing;
pub mod guard;
pub mod guests;
pub mod monitor;
pub mod pool;
pub mod pulse;
pub mod qemu;
pub mod qmp;
pub mod sink;
pub mod state;
pub mod sys;
pub mod watchdog;
pub mod xen;
