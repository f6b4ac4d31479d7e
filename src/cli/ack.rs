// SPDX-License-Identifier: GPL-2.0-only
//! `xenwarden ack`: somebody takes care of an alarm, or ends it.
//!
//! The daemon knows alarms by UUID; a domid or a name is looked up among its guests first.

use super::arguments::AckRequest;
use super::connection::{NoAnswer, ask};
use super::output::Output;
use super::{FINE, NOT_FINE, complain};
use crate::cli::text::plain;
use crate::event::Uuid;
use crate::event::request::Named;
use crate::guests::report::GuestsReport;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Done {
    Acknowledged(Uuid),
    Closed(Uuid),
}

/// Acknowledges or closes; what the daemon refuses is [`NOT_FINE`].
pub fn run(request: &AckRequest, output: &mut Output) -> Result<u8, String> {
    match order(request) {
        Ok(done) => {
            let _ = output.write(done.as_bytes())?;
            Ok(FINE)
        }
        Err(NoAnswer::Refused(why)) => {
            complain(&why);
            Ok(NOT_FINE)
        }
        Err(NoAnswer::CannotTell(message)) => Err(message),
    }
}

fn order(request: &AckRequest) -> Result<String, NoAnswer> {
    let uuid = match Named::from_word(&request.guest) {
        Named::Uuid(uuid) => uuid,
        wanted => {
            let (report, _) = ask::<GuestsReport>(&request.socket, "guests")?;
            find(&report, wanted).map_err(NoAnswer::Refused)?
        }
    };
    let word = if request.close { "close" } else { "ack" };
    let (done, _) = ask(&request.socket, &format!("{word} {uuid}"))?;
    let (what, of) = match done {
        Done::Acknowledged(of) => ("acknowledged; it stays open until the guest feeds", of),
        Done::Closed(of) => ("closed", of),
    };
    Ok(format!(
        "the alarm of {} ({of}) is {what}\n",
        plain(&request.guest)
    ))
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
