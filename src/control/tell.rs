// SPDX-License-Identifier: GPL-2.0-only
//! Events of other processes of ours: what they tell the monitor, which publishes it.
//!
//! In: from a process that is known by its user, one [`Told`] for each request. Out: an event in
//! the same order and to the same sinks as all others. A user tells of its own matters only,
//! whatever it sends, so that a process that speaks to a network cannot pass for the guard.
//! Whoever had no answer tells again: then an event may come twice, and is never lost.

use super::protocol::{Done, MAX_REQUEST, Refusal, Request, Told, read};
use super::{connect, peer};
use crate::event::kind::matches;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

/// Users that may tell, and of what: kinds, or their beginnings up to the dot. Root may tell what
/// any of them may.
const TELLERS: &[(&str, Kinds)] = &[
    ("xenwarden-pulse", &["pulse."]),
    ("xenwarden-qemu", &["guest.", "alarm."]),
];
type Kinds = &'static [&'static str];
/// How long each step of telling may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 4_096;

/// The user that may say what became of alarms on other hosts of the pool: somebody acknowledged one, or its guest feeds there. It
/// ends none of a guest that is on this host.
const SETTLES: &str = "xenwarden-pool";

/// The users that may tell, and the one that speaks for other hosts.
#[derive(Clone, Debug, Default)]
pub struct Tellers {
    tell: Vec<(u32, Kinds)>,
    settles: Option<u32>,
}

impl Tellers {
    /// Those of them that exist. Reads the user database, which may block: for the start.
    #[must_use]
    pub fn known() -> Self {
        let known = TELLERS
            .iter()
            .filter_map(|(user, what)| Some((peer::uid_of(user)?, *what)));
        Self {
            tell: known.collect(),
            settles: peer::uid_of(SETTLES),
        }
    }

    /// Whether this user, which is not root, may say what became of alarms elsewhere.
    #[must_use]
    pub fn may_settle(&self, uid: u32) -> bool {
        self.settles == Some(uid)
    }

    /// Whether this user may tell of it. Whoever tells of heartbeats names no guest, as hooks go
    /// by that.
    #[must_use]
    pub fn may_tell(&self, uid: u32, told: &Told) -> bool {
        let kind = told.what.kind();
        if told.guest.is_some() && matches("pulse.", kind) {
            return false;
        }
        let covers = |kinds: Kinds| kinds.iter().any(|wanted| matches(wanted, kind));
        match uid {
            0 => TELLERS.iter().any(|(_, kinds)| covers(kinds)),
            _ => self
                .tell
                .iter()
                .any(|(user, kinds)| *user == uid && covers(kinds)),
        }
    }
}

/// Why an event did not arrive.
#[derive(Debug)]
pub enum NotTold {
    /// The monitor will not have it, now or later.
    Refused(Refusal),
    /// It is to be told again: nobody is there, or nobody answered.
    Later(io::Error),
}

/// Tells the monitor whose control socket is at `path`; gives the event's number. Blocks, a few
/// seconds at most.
///
/// # Errors
/// Why it did not arrive, or why nobody can know.
pub fn tell(path: &Path, told: Told) -> Result<u64, NotTold> {
    let request = Request::Tell(Box::new(told)).to_string();
    if request.len() > MAX_REQUEST {
        return Err(NotTold::Refused(Refusal::new("the event is too long")));
    }
    let line = ask(path, &request).map_err(NotTold::Later)?;
    match read(&line) {
        Ok(Ok(Done::Told(seq))) => Ok(seq),
        Ok(Ok(_)) => Err(later("the monitor's answer is another one's")),
        // Places and time are short for a moment only.
        Ok(Err(refusal)) if refusal.passes() => Err(later(refusal.error)),
        Ok(Err(refusal)) => Err(NotTold::Refused(refusal)),
        Err(error) => Err(later(error)),
    }
}

fn later(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> NotTold {
    NotTold::Later(io::Error::new(io::ErrorKind::InvalidData, why))
}

fn ask(path: &Path, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = connect::in_time(path, TIMEOUT)?;
    match stream.write_all(format!("{request}\n").as_bytes()) {
        // Who refuses does so at once; the reason can still be read.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Guest, Kind};

    fn armed() -> Kind {
        Kind::GuestArmed {
            slot: 1,
            timeout_s: 5,
            left_out: 0,
        }
    }

    fn of(what: Kind) -> Told {
        let (guest, by) = (None, None);
        Told { guest, by, what }
    }

    #[test]
    fn a_user_tells_of_its_own_matters_only() {
        let tellers = Tellers {
            tell: vec![(7, &["pulse."]), (8, &["guest.", "alarm."])],
            settles: Some(9),
        };
        let may: Vec<u32> = (0..12).filter(|uid| tellers.may_settle(*uid)).collect();
        assert_eq!(may, [9]);
        let host = of(Kind::HostDisarmed {});
        assert!(tellers.may_tell(8, &of(Kind::AlarmRaised { expiries: 1 })));
        for (uid, guest) in [(7, false), (8, true), (9, false), (0, true)] {
            assert_eq!(tellers.may_tell(uid, &of(armed())), guest, "user {uid}");
            assert!(!tellers.may_tell(uid, &host), "user {uid}");
        }
    }

    #[test]
    fn a_heartbeat_is_about_no_guest_whoever_tells_of_it() {
        let tellers = Tellers {
            tell: vec![(7, &["pulse."])],
            ..Tellers::default()
        };
        let what = Kind::PulseArmed {
            heartbeat: "h".to_owned(),
            peer: String::new(),
            timeout_ms: 5_000,
        };
        let guest = Guest {
            uuid: None,
            domid: 5,
            name: None,
        };
        let forged = Told {
            guest: Some(guest),
            by: None,
            what: what.clone(),
        };
        for uid in [0, 7] {
            assert!(tellers.may_tell(uid, &of(what.clone())));
            assert!(!tellers.may_tell(uid, &forged));
        }
    }

    #[test]
    fn what_is_told_is_read_as_it_was_written() {
        let told = Told {
            guest: None,
            by: Some("/run/xenwarden-qemu/web.sock".to_owned()),
            what: armed(),
        };
        let request = Request::Tell(Box::new(told));
        assert_eq!(request.to_string().parse(), Ok(request));
    }
}
