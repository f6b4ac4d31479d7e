// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pool: every host of a pool knows the state of all.
//!
//! In: the events and facts of this host's monitor; the ring of corosync; clients. Out: the pool's hosts, guests, alarms and
//! events, on each host, from its own disk; hooks, on the leader alone. Promises: each host is the only writer of its own
//! log, and the pool's state is what all logs say, so that merging needs no election and no order between hosts; an event
//! that one member has told was on its host's disk before; whoever subscribes to one member goes on with another, with
//! nothing missing and nothing twice. Never: a privilege, or a message that is trusted.
//!
//! ```text
//!  monitor ─▶ monitor (2 threads) ─ events, facts ─┐
//!                                                  ▼
//!  corosync ─▶ ring (thread) ── messages ──▶ node, member ◀──▶ clients ◀── xenwarden hosts, guests, events, ack
//!      ▲        sys::corosync                │  alarms, leader, hooks     protocol, told, view
//!      └──────────── wire, transfer ◀────────┤
//!                                            ├─▶ store ─ fold: a HostState for each host
//!  /var/lib/xenwarden-pool ◀─ log ◀─ disk ◀──┤     record, frame
//!                              (thread)      └─▶ runner (a thread for each hook)
//!                       run: one loop, one epoll
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | [`record`] | what a host writes, and where: host, boot, sequence |
//! | [`fold`] | what a host's log says, bounded |
//! | [`store`] | of each host a snapshot, the records since, the state |
//! | [`frame`], [`log`], [`disk`] | records on disk |
//! | [`wire`], [`transfer`], [`leader`] | what is said on the ring, what a member lacks, who leads |
//! | [`node`], [`member`], [`alarms`], [`feeds`], [`hooks`] | a member without its input and output; tests drive many of these |
//! | [`sightings`], [`reach`] | hosts that are lost, fenced and back; what this host can reach |
//! | [`view`], [`told`], [`message`], [`promises`], [`protocol`] | what clients are told |
//! | [`ring`], [`monitor`], [`runner`], [`clients`], [`follower`], [`run`], [`config`] | the program |
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | pool | the hosts whose xenwarden-pool is, or was, in the group on the ring |
//! | member | a host that is in this partition of it now |
//! | log | what one host wrote, in its order; nobody else writes to it |
//! | position | a place in a log: boot, sequence |
//! | snapshot | what a log said up to a position, in place of the records before |
//! | leader | the eldest member of the partition with quorum |

pub mod alarms;
pub mod clients;
pub mod config;
pub mod disk;
pub mod feeds;
pub mod fencer;
pub mod fold;
pub mod follower;
pub mod frame;
pub mod hooks;
pub mod leader;
pub mod log;
pub mod member;
pub mod message;
pub mod monitor;
pub mod node;
pub mod promises;
pub mod protocol;
pub mod quorum;
pub mod reach;
pub mod record;
pub mod ring;
pub mod run;
pub mod runner;
pub mod sightings;
pub mod store;
pub mod told;
pub mod transfer;
pub mod view;
pub mod wire;
