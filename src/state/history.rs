// SPDX-License-Identifier: GPL-2.0-only
//! The last resets of the host, kept for whoever asks later.
//!
//! In: the state directory, the traces of the last boot. Out: the resets, newest first, the
//! one that the last boot ended with among them, what a drill has measured, and what the monitor
//! keeps. A reset is known by its boot, so none is told twice.

use super::deduction::{Left, Reset};
use super::drill::{self, DrillRecord, Measured};
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
    /// What the last drill that measured anything has shown.
    #[serde(default)]
    pub measured: Option<Measured>,
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
    let (drill, drill_aside) = store.load::<DrillRecord>();
    let boot = Boot {
        last,
        withhold,
        drill,
    };
    let (history, reset) = boot.add_to(history, store, places, watchdog_fired);
    let aside = [last_aside, withhold_aside, history_aside, drill_aside];
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
) -> Result<Option<History>, String> {
    let boot = Boot {
        last: store.peek()?,
        withhold: store.peek()?,
        drill: store.peek()?,
    };
    let history = store.peek::<History>()?;
    if boot.last.is_none() && history.is_none() {
        return Ok(None);
    }
    let (history, _) = boot.add_to(history, store, places, watchdog_fired);
    Ok(Some(history))
}

/// What the last boot wrote down, as far as it did.
struct Boot {
    last: Option<HostRecord>,
    withhold: Option<WithholdRecord>,
    drill: Option<DrillRecord>,
}

impl Boot {
    /// The history with the reset that the boot ended with; and its event, if it is new.
    fn add_to(
        self,
        history: Option<History>,
        store: &Store,
        places: &Places,
        watchdog_fired: Option<bool>,
    ) -> (History, Option<Kind>) {
        let Self {
            last,
            withhold,
            drill,
        } = self;
        let seen = history.as_ref().map(|history| &history.seen);
        let since = last.as_ref().map(|last| last.time);
        let traces = Traces::read(places, watchdog_fired, seen, since);
        // A record that somebody else's boot followed is of an earlier reset, told long ago.
        let is_last = |drill: &DrillRecord| {
            let last = last.as_ref().map(|last| &last.boot_id);
            last == Some(&drill.boot_id) && drill.boot_id != traces.boot_id
        };
        let drill = drill.filter(is_last);
        let drill = drill.and_then(|drill| drill::ended(drill, store, watchdog_fired));
        let mut history = history.unwrap_or_default();
        let measured = drill.as_ref().and_then(|drill| drill.measured.clone());
        history.measured = measured.or(history.measured);
        let left = last.map(|last| Left {
            last,
            withhold,
            drill,
        });
        let told = history.explain(left, &traces);
        history.seen = traces.names;
        (history, told)
    }
}

impl History {
    /// With the reset that the last boot ended with, if it is one and not known; gives its event.
    fn explain(&mut self, left: Option<Left>, traces: &Traces) -> Option<Kind> {
        let resets = &mut self.resets;
        resets.version = Self::VERSION;
        let reset = left.and_then(|left| left.reset(traces));
        let is_known = |reset: &Reset| resets.resets.iter().any(|r| r.boot_id == reset.boot_id);
        let reset = reset.filter(|reset| !is_known(reset));
        let told = reset.as_ref().map(Reset::event);
        resets.resets.splice(..0, reset);
        resets.resets.truncate(KEPT);
        told
    }
}
