// SPDX-License-Identifier: GPL-2.0-only
//! What is told of leases: the status' part of them.
//!
//! In: the lease page. Out: each lease as of now, for people and programs; also without a monitor.

use crate::guard::leases::page::{Access, Deadline, Page, State, View};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub lease: String,
    /// What it is.
    pub state: LeaseState,
    /// Kicks are withheld until it is renewed for the first time, once its time for that has passed.
    pub required: bool,
    /// Its deadline counts though no monitor looks.
    #[serde(default)]
    pub strict: bool,
    /// The user who may renew it, besides root.
    pub uid: u32,
    /// For how long a renewal is good.
    pub timeout_ms: u64,
    /// Until it lapses; negative: since it did. Null where nothing is to come.
    pub left_ms: Option<i64>,
    /// How often it was renewed since the boot.
    pub renewals: u64,
}

/// What a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Nobody has renewed it yet.
    Waiting,
    /// It is held.
    Held,
    /// Its client gave it back.
    Released,
    /// It was not renewed in time: kicks are withheld.
    Lapsed,
    /// It should have been renewed, and no monitor has looked since.
    Unknown,
}

impl LeaseState {
    /// The name, as in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Released => "released",
            Self::Lapsed => "lapsed",
            Self::Unknown => "unknown",
        }
    }
}

impl From<State> for LeaseState {
    fn from(state: State) -> Self {
        match state {
            State::Waiting => Self::Waiting,
            State::Held => Self::Held,
            State::Released => Self::Released,
            State::Lapsed => Self::Lapsed,
            State::Unknown => Self::Unknown,
        }
    }
}

/// The leases of the page at `path`, as of `now`; none where there is no page. Those of
/// watchdog-mux's socket that nobody has claimed are left out.
#[must_use]
pub fn of_page(path: &Path, now: Monotonic) -> Vec<Lease> {
    let Ok(page) = Page::open(path, Access::Read) else {
        return Vec::new();
    };
    let served = page.served();
    let leases = page.leases().into_iter();
    let leases = leases.filter(|lease| !lease.claimed || lease.renewals > 0);
    leases.map(|lease| one(&lease, served, now)).collect()
}

fn one(lease: &View, served: Monotonic, now: Monotonic) -> Lease {
    let ms = |ns: u64| i64::try_from(ns / NS_PER_MS).unwrap_or(i64::MAX);
    Lease {
        lease: lease.name.to_string(),
        state: lease.state(served, now).into(),
        required: lease.required,
        strict: lease.strict,
        uid: lease.uid,
        timeout_ms: lease.timeout_ns / NS_PER_MS,
        left_ms: match lease.deadline {
            Deadline::At(at) => Some(ms(at.since_ns(now)) - ms(now.since_ns(at))),
            Deadline::None | Deadline::Released => None,
        },
        renewals: lease.renewals,
    }
}
