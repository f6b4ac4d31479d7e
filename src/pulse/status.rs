// SPDX-License-Identifier: GPL-2.0-only
//! What a program tells of its heartbeats: one line of JSON to whoever connects to its socket.
//!
//! In: the heartbeats. Out: [`PulseStatus`], for `xenwarden pulses` and the metrics. Units are in the names; what is not known is null.

use super::beat::Beat;
use crate::sys::clock::NS_PER_MS;
use serde::{Deserialize, Serialize};

/// A program and its heartbeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseStatus {
    /// The program's name.
    pub program: String,
    /// Since it was started.
    pub uptime_ms: u64,
    /// The latest that anything was done after it was due, own gaps not counted.
    pub worst_late_us: u64,
    /// How often nobody listened for a while, as the program was stopped or late.
    pub own_gaps: u64,
    /// Events that the monitor was not told, as too many waited.
    pub events_lost: u64,
    /// Each heartbeat.
    pub heartbeats: Vec<BeatStatus>,
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatStatus {
    /// Its name.
    pub heartbeat: String,
    /// Who was heard last, or is to be.
    pub peer: String,
    /// How it is heard.
    pub protocol: String,
    /// waiting, armed, lost or back.
    pub state: String,
    /// Since the last pulse.
    pub last_pulse_ms: Option<u64>,
    /// Without one for so long it is lost.
    pub timeout_ms: u64,
    /// From a pulse of ours to its answer.
    pub round_trip_us: Option<u64>,
    /// How much the time between pulses varies.
    pub jitter_us: Option<u64>,
    /// Pulses that counted.
    pub pulses: u64,
    /// Pulses that were refused.
    pub refused: u64,
    /// Losses.
    pub losses: u64,
    /// How many are connected; null where there are no connections.
    pub connections: Option<usize>,
    /// The lease that it renews.
    pub lease: Option<String>,
    /// Why it is not heard.
    pub trouble: Option<String>,
}

impl BeatStatus {
    /// Of a heartbeat, now (ns).
    #[must_use]
    pub fn of(beat: &Beat, now: u64) -> Self {
        let (plan, stats) = (beat.plan(), beat.stats());
        let us = |ns: u64| ns / 1_000;
        Self {
            heartbeat: plan.name.clone(),
            peer: beat.peer().to_owned(),
            protocol: plan.protocol_name().to_owned(),
            state: beat.state().name().to_owned(),
            last_pulse_ms: stats.last.map(|last| now.saturating_sub(last) / NS_PER_MS),
            timeout_ms: plan.timeout_ms,
            round_trip_us: stats.round_trip.map(us),
            jitter_us: stats.jitter().map(us),
            pulses: stats.pulses,
            refused: stats.refused,
            losses: beat.losses(),
            connections: beat.connections(),
            lease: plan.lease.clone(),
            trouble: beat.trouble().map(str::to_owned),
        }
    }
}
