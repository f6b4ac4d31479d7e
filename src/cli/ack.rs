// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden ack`: somebody takes care of an alarm, or ends it.
//!
//! The monitor knows alarms by UUID; a domid or a name is looked up among its guests first.

use super::connection::{NoAnswer, ask};
use super::output::Output;
use super::{EXIT_NOT_OK, EXIT_OK, print_error};
use crate::cli::text::plain;
use crate::control::protocol::{Done, Request};
use crate::event::Uuid;
use crate::event::request::Named;
use crate::guests::report::GuestsReport;
use std::path::Path;

/// Acknowledges or closes; what the monitor refuses is [`EXIT_NOT_OK`].
pub fn run(socket: &Path, guest: &str, close: bool, output: &mut Output) -> Result<u8, String> {
    match order(socket, guest, close) {
        Ok(done) => {
            let _ = output.write(done.as_bytes())?;
            Ok(EXIT_OK)
        }
        Err(NoAnswer::Refused(why)) => {
            print_error(&why);
            Ok(EXIT_NOT_OK)
        }
        Err(NoAnswer::CannotTell(message)) => Err(message),
    }
}

fn order(socket: &Path, guest: &str, close: bool) -> Result<String, NoAnswer> {
    let uuid = match Named::from_word(guest) {
        Named::Uuid(uuid) => uuid,
        wanted => {
            let (report, _) = ask::<GuestsReport>(socket, &Request::Guests)?;
            find(&report, wanted).map_err(NoAnswer::Refused)?
        }
    };
    let request = if close {
        Request::Close(uuid)
    } else {
        Request::Ack(uuid)
    };
    let (what, of) = match ask(socket, &request)?.0 {
        Done::Acknowledged(of) => ("acknowledged; it stays open until the guest feeds", of),
        Done::Closed(of) => ("closed", of),
        Done::Told(_) => {
            let other = "the monitor's answer is another one's".to_owned();
            return Err(NoAnswer::CannotTell(other));
        }
    };
    let guest = plain(guest);
    Ok(format!("the alarm of {guest} ({of}) is {what}\n"))
}

/// The one guest that is meant.
fn find(report: &GuestsReport, wanted: Named<'_>) -> Result<Uuid, String> {
    let called = match wanted {
        Named::Uuid(uuid) => return Ok(uuid),
        Named::Domid(None) => "has this domain number".to_owned(),
        Named::Domid(Some(domid)) => format!("is domain {domid}"),
        Named::Name(name) => format!("is named {name:?}"),
    };
    let guests = report.guests.iter();
    let found: Vec<_> = guests
        .filter(|guest| wanted.is(guest.uuid, guest.domid, guest.name.as_deref()))
        .collect();
    match found.as_slice() {
        [] => Err(format!(
            "no guest {called}: see `xenwarden guests`, or give its UUID"
        )),
        [guest] => guest.uuid.ok_or_else(|| {
            let domid = guest.domid;
            format!("the UUID of the guest that {called} (domain {domid}) is not known: xenstore has not told it")
        }),
        several => {
            let uuids = several.iter().map(|guest| {
                let alarm = if guest.alarm.is_some() {
                    "alarm open"
                } else {
                    "no alarm"
                };
                let uuid = guest
                    .uuid
                    .map_or("UUID unknown".to_owned(), |u| u.to_string());
                format!("{uuid} (domain {}, {alarm})", guest.domid)
            });
            let uuids = uuids.collect::<Vec<_>>().join(", ");
            Err(format!(
                "more than one guest {called}, give a UUID: {uuids}"
            ))
        }
    }
}
