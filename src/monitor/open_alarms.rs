// SPDX-License-Identifier: GPL-2.0-only
//! The alarms that other processes have open: whoever hears of the end of a guest's alarm takes it
//! that no alarm of that guest is open.
//!
//! In: what is told, by whom. Out: whether it is published. Two processes may follow one UUID: two VMs
//! that were given the same one, or one that migrates between them. Promises: no process ends another's
//! alarm; each alarm is published, and its end if no other is open. A monitor that was started again
//! knows of none, and publishes all. Never: more than [`MOST`] are remembered.

use crate::control::protocol::{Refusal, Told};
use crate::event::{Kind, Uuid};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Alarms that are remembered.
pub const MOST: usize = 4_096;

/// Who has an alarm of which guest open.
#[derive(Debug, Default)]
pub struct OpenAlarms(BTreeSet<(Uuid, Arc<str>)>);

impl OpenAlarms {
    /// Takes note of what is told, and says whether it is to be published.
    ///
    /// # Errors
    /// Another process has an alarm of the guest open, whose end this is not.
    pub fn take(&mut self, told: &Told) -> Result<(), Refusal> {
        let Some(uuid) = told.guest.as_ref().and_then(|guest| guest.uuid) else {
            return Ok(());
        };
        let by: Arc<str> = told.by.as_deref().unwrap_or_default().into();
        match told.what {
            Kind::AlarmRaised { .. } => {
                if self.0.len() < MOST {
                    self.0.insert((uuid, by));
                }
                Ok(())
            }
            Kind::AlarmCleared { .. } | Kind::AlarmClosed { .. } | Kind::AlarmMoved { .. } => {
                self.0.remove(&(uuid, by));
                self.other(uuid).map_or(Ok(()), |other| {
                    Err(Refusal::new(format!(
                        "an alarm of guest {uuid} that {other} has told of is open still"
                    )))
                })
            }
            _ => Ok(()),
        }
    }

    fn other(&self, uuid: Uuid) -> Option<&str> {
        let mut from = self.0.range((uuid, Arc::from(""))..);
        let (of, by) = from.next()?;
        (*of == uuid).then_some(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cause, Closing, Guest, NO_DOMAIN};

    const RAISED: Kind = Kind::AlarmRaised { expiries: 1 };
    const CLEARED: Kind = Kind::AlarmCleared {
        open_ms: 0,
        expiries: 1,
        reboots: 0,
        feeds: 1,
    };
    const CLOSED: Kind = Kind::AlarmClosed {
        cause: Closing::Operator,
        open_ms: 0,
    };
    const MOVED: Kind = Kind::AlarmMoved {
        cause: Cause::Suspend,
        open_ms: 0,
    };

    fn told(by: &str, uuid: u128, what: &Kind) -> Told {
        let guest = Guest {
            uuid: Some(Uuid::from_u128(uuid)),
            domid: NO_DOMAIN,
            name: None,
        };
        Told {
            guest: Some(guest),
            by: (!by.is_empty()).then(|| by.to_owned()),
            what: what.clone(),
        }
    }

    #[test]
    fn the_end_of_one_processs_alarm_is_published_once_no_other_is_open() {
        for end in [CLEARED, CLOSED, MOVED] {
            for (first, second) in [("a", "b"), ("b", "a"), ("", "b"), ("b", "")] {
                let mut open = OpenAlarms::default();
                let mut take = |by, uuid, what| open.take(&told(by, uuid, what)).is_ok();
                assert!(take(first, 7, &RAISED));
                assert!(take(second, 7, &RAISED), "each is published");
                assert!(take(second, 8, &RAISED));
                assert!(!take(second, 7, &end), "{end:?}: the first's is open");
                assert!(!take(second, 7, &end), "{end:?}: told again");
                assert!(take(first, 7, &end), "{end:?}: it is the last");
                assert!(take(second, 8, &end), "{end:?}: another guest's");
                assert!(take(second, 7, &end), "{end:?}: nobody has one open");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_every_alarm_published() {
        let mut open = OpenAlarms::default();
        for uuid in 0..2 * MOST {
            let raised = told("a", uuid as u128, &RAISED);
            assert!(open.take(&raised).is_ok());
        }
        assert_eq!(open.0.len(), MOST);
    }
}
