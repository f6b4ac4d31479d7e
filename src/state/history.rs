// SPDX-License-Identifier: GPL-2.0-only
//! The last resets of the host, kept for whoever asks later.
//!
//! In: the state directory, the traces of the last boot. Out: the resets, newest first, the
//! one that the last boot ended with among them, and what the monitor keeps. A reset is known
//! by its boot, so none is told twice.

use super::deduction::{Left, Reset};
use super::reset_reason::HostRecord;
use super::store::{Store, Stored};
use super::traces::{Places, Traces};
use super::withhold::WithholdRecord;
use crate::event::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Resets that are kept.
pub const KEPT: usize = 8;

/// The resets, on disk and as an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resets {
    /// Of the form: 1. Fields are only ever added within a version.
    pub version: u32,
    /// Newest first.
    pub resets: Vec<Reset>,
}

/// What is kept between boots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The resets.
    #[serde(flatten)]
    pub resets: Resets,
    /// The names of records of crashes that were found at the last start.
    #[serde(default)]
    pub seen: BTreeSet<String>,
}

impl Stored for History {
    const FILE: &'static str = "resets.json";
    const VERSION: u32 = 1;
}

/// What a start finds.
#[derive(Debug)]
pub struct Found {
    /// With the reset of the last boot, if it was one.
    pub history: History,
    /// Whether that reset is new.
    pub explained: bool,
    /// What is to be told: the reset, and files that were set aside.
    pub told: Vec<Kind>,
}

/// Looks at what the last boot left. Blocks as long as the disk does.
#[must_use]
pub fn open(store: &Store, places: &Places, watchdog_fired: Option<bool>) -> Found {
    let (last, last_aside) = store.load::<HostRecord>();
    let (withhold, withhold_aside) = store.load::<WithholdRecord>();
    let (history, history_aside) = store.load::<History>();
    let (history, reset) = add(history, last, withhold, places, watchdog_fired);
    let aside = [last_aside, withhold_aside, history_aside];
    Found {
        history,
        explained: reset.is_some(),
        told: reset
            .into_iter()
            .chain(aside.into_iter().flatten())
            .collect(),
    }
}

/// The same for one who may only look: nothing is set aside. None where nothing was ever
/// written down.
///
/// # Errors
/// The file that cannot be used, and why.
pub fn look(
    store: &Store,
    places: &Places,
    watchdog_fired: Option<bool>,
) -> Result<Option<Resets>, String> {
    let (last, withhold) = (store.peek::<HostRecord>()?, store.peek::<WithholdRecord>()?);
    let history = store.peek::<History>()?;
    if last.is_none() && history.is_none() {
        return Ok(None);
    }
    let (history, _) = add(history, last, withhold, places, watchdog_fired);
    Ok(Some(history.resets))
}

/// With the reset that the last boot ended with; and its event, if it is new.
fn add(
    history: Option<History>,
    last: Option<HostRecord>,
    withhold: Option<WithholdRecord>,
    places: &Places,
    watchdog_fired: Option<bool>,
) -> (History, Option<Kind>) {
    let seen = history.as_ref().map(|history| &history.seen);
    let since = last.as_ref().map(|last| last.time);
    let traces = Traces::read(places, watchdog_fired, seen, since);
    let mut history = history.unwrap_or_default();
    let resets = &mut history.resets;
    resets.version = History::VERSION;
    let left = last.map(|last| Left { last, withhold });
    let reset = left.and_then(|left| left.reset(&traces));
    let is_known = |reset: &Reset| resets.resets.iter().any(|r| r.boot_id == reset.boot_id);
    let reset = reset.filter(|reset| !is_known(reset));
    let told = reset.as_ref().map(Reset::event);
    resets.resets.splice(..0, reset);
    resets.resets.truncate(KEPT);
    history.seen = traces.names;
    (history, told)
}
