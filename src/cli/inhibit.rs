// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden inhibit` and `xenwarden resume`: maintenance, ordered by root.
//!
//! In: a span and a reason. Out: the order where the guard reads it, and whether the guard has
//! taken it. Works without the monitor.

use super::output::Output;
use super::{EXIT_NOT_OK, EXIT_OK, print_error};
use crate::cli::text::{plain, span as shown};
use crate::control::inhibit::{self, MOST_REASON};
use crate::guard::page::{self, Reader};
use crate::sys::clock::{Monotonic, NS_PER_MS};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the guard may take: it looks four times a second.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often its page is read meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// Where the order goes, and where the guard tells.
#[derive(Clone, Debug)]
pub struct Place {
    /// The guard's deadlines.
    pub deadlines: PathBuf,
    /// The guard page.
    pub page: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            deadlines: inhibit::PATH.into(),
            page: page::PATH.into(),
        }
    }
}

/// Inhibits the guard for `span_ns` from now.
///
/// # Errors
/// That it cannot be told whether the guard heeds it.
pub fn order(
    place: &Place,
    span_ns: u64,
    longest_ns: u64,
    reason: &str,
    output: &mut Output,
) -> Result<u8, String> {
    let reason = plain(reason);
    let ms = span_ns / NS_PER_MS;
    let refused = if span_ns > longest_ns {
        let longest = shown(longest_ns / NS_PER_MS);
        Some(format!(
            "{} is too long: at most {longest} (maintenance.longest_s)",
            shown(ms)
        ))
    } else if reason.trim().is_empty() || reason.chars().count() > MOST_REASON {
        Some(format!("give a reason of at most {MOST_REASON} characters"))
    } else {
        None
    };
    if let Some(why) = refused {
        print_error(&why);
        return Ok(EXIT_NOT_OK);
    }
    let until = Monotonic::now().plus_ns(span_ns);
    let ordered = inhibit::order(&place.deadlines, until, &who(), &reason);
    if let Err(error) = ordered {
        return refuse(place, &error);
    }
    let taken = heeded(place, Some(until));
    taken.then_some(()).ok_or_else(|| {
        "the guard does not heed it: it does not run, or with another maintenance.longest_s; it \
         is ordered all the same"
            .to_owned()
    })?;
    let text = format!(
        "inhibited for {}: kicks go on whatever the evidence says\n",
        shown(ms)
    );
    let _ = output.write(text.as_bytes())?;
    Ok(EXIT_OK)
}

/// Ends it.
///
/// # Errors
/// That it cannot be told whether the guard heeds it.
pub fn end(place: &Place, output: &mut Output) -> Result<u8, String> {
    if let Err(error) = inhibit::end(&place.deadlines, &who()) {
        return refuse(place, &error);
    }
    let taken = heeded(place, None);
    taken
        .then_some(())
        .ok_or("the guard still tells that it is inhibited".to_owned())?;
    let _ = output.write(b"no longer inhibited\n")?;
    Ok(EXIT_OK)
}

fn refuse(place: &Place, error: &io::Error) -> Result<u8, String> {
    let why = match error.kind() {
        ErrorKind::PermissionDenied => "only root may inhibit the guard".to_owned(),
        ErrorKind::NotFound => "no guard has run since the boot".to_owned(),
        _ => format!("{}: {error}", place.deadlines.display()),
    };
    print_error(&why);
    Ok(EXIT_NOT_OK)
}

/// Whether the guard tells, in time, that it is inhibited until then.
fn heeded(place: &Place, until: Option<Monotonic>) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let told = Reader::view_at(&place.page).map(|view| view.status.inhibited);
        if told == Some(until) || told.is_none() && until.is_none() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Who this is, as far as sudo(8) tells.
fn who() -> String {
    let sudo = std::env::var("SUDO_USER").ok();
    let named = sudo.filter(|name| !name.is_empty());
    named.map_or_else(
        || "root".to_owned(),
        |name| plain(&name).chars().take(64).collect(),
    )
}
