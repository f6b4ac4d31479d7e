// SPDX-License-Identifier: GPL-2.0-only
//! Maintenance: an order to kick whatever the evidence says, for a while.
//!
//! In: `xenwarden inhibit` and `resume`. Out: a deadline for the guard ([`Deadlines`]), and
//! beside it who ordered that and why, for the monitor and people. The command line writes it
//! itself: maintenance must be possible while the monitor is down, and only root can.
//!
//! [`Deadlines`]: crate::guard::deadlines::Deadlines

use super::status::Status;
use crate::event::describe::plain;
use crate::guard::deadlines::{INHIBIT, Setting};
use crate::sys::clock::Monotonic;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The file, and the number of the guard's deadline in it.
pub const PATH: &str = INHIBIT.0;
const NUMBER: usize = INHIBIT.1;
/// Where the order lies in the file, and its most bytes.
const AT: u64 = 1024;
const MOST: usize = 1024;
/// Most characters of a reason.
pub const MOST_REASON: usize = 200;

/// Who ordered it, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Who ended it before its time, if somebody did.
    pub ended_by: Option<String>,
}

/// Orders it until then.
///
/// # Errors
/// See [`Setting`].
pub fn order(path: &Path, until: Monotonic, by: &str, reason: &str) -> io::Result<()> {
    let setting = Setting::open(path)?;
    let order = Order {
        by: by.to_owned(),
        reason: reason.to_owned(),
        ended_by: None,
    };
    write(&setting, &order)?;
    setting.set(NUMBER, Some(until))
}

/// Ends it.
///
/// # Errors
/// See [`Setting`].
pub fn end(path: &Path, by: &str) -> io::Result<()> {
    let setting = Setting::open(path)?;
    let order = Order {
        ended_by: Some(by.to_owned()),
        ..read(path).unwrap_or_default()
    };
    write(&setting, &order)?;
    setting.set(NUMBER, None)
}

fn write(setting: &Setting, order: &Order) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(order)?;
    if bytes.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    bytes.resize(MOST, 0);
    setting.file().write_all_at(&bytes, AT)
}

/// The last order, if there is one that can be read. Whatever it says moves no cursor.
#[must_use]
pub fn read(path: &Path) -> Option<Order> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).ok()?;
    let mut bytes = [0; MOST];
    file.read_exact_at(&mut bytes, AT).ok()?;
    let text = bytes.split(|byte| *byte == 0).next()?;
    let order: Order = serde_json::from_slice(text).ok()?;
    Some(Order {
        by: plain(&order.by),
        reason: plain(&order.reason),
        ended_by: order.ended_by.as_deref().map(plain),
    })
}

/// Adds to a status who inhibited the guard, and why, where it is inhibited.
pub fn tell(status: &mut Status, path: &Path) {
    if let Some(inhibited) = &mut status.inhibited {
        let order = read(path).unwrap_or_default();
        (inhibited.by, inhibited.reason) = (order.by, order.reason);
    }
}
