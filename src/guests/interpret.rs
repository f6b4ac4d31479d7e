// SPDX-License-Identifier: GPL-2.0-only
//! What the record of a guest's domain means: arms, feeds, disarms, expiries, told in the
//! order in which they came about, as far as it shows.

use super::GuestEvent;
use super::alarm::{Input, Nanoseconds};
use super::guest::{Guest, GuestDomain, Look};
use super::slot::Change;
use super::stamp::Stamp;
use super::state::DomainState;
use crate::event::{Gap, Kind};
use crate::sys::clock::NS_PER_MS;
use crate::xen::table::Domain;

impl Guest {
    /// What has happened to the current domain; `record`: what of it is not told yet.
    pub(super) fn follow(
        &mut self,
        record: Option<&Domain>,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let Some(mut domain) = self.current.take() else {
            return;
        };
        if let Some(record) = record {
            self.tell(&mut domain, record, look, out);
        }
        if !domain.is_gone() {
            self.step(look, Input::State(domain.state), out);
        }
        self.current = Some(domain);
    }

    fn tell(
        &mut self,
        domain: &mut GuestDomain,
        record: &Domain,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let ended = record.dying || !record.exists;
        let runs = record.shutdown.is_none() && !ended;
        let [first, second] = &domain.slots;
        let [shows_first, shows_second] = &record.slots;
        let changes = [
            first.change(shows_first, look.before, ended),
            second.change(shows_second, look.before, ended),
        ];
        for (slot, shown) in domain.slots.iter_mut().zip(&record.slots) {
            slot.timeout_s = shown.armed.unwrap_or(slot.timeout_s);
        }
        let expired = changes.iter().any(|c| c.expired);
        // Once its watchdog has shut a domain down nothing that it does is a sign of life
        // until it runs again: another vCPU's last instructions may still arm or feed. Which
        // slot's sets came before the other's expiry cannot be told: none counts.
        let counts = |c: &Change| runs || c.expired || !(expired || domain.is_down());
        let armed = domain.slots.iter().any(|s| s.armed);
        if runs && domain.is_down() && armed && !self.lifecycle.is_armed() {
            // As one of those that did not count.
            self.step(look, Input::Armed, out);
        }
        let parts = changes.map(|c| c.split(counts(&c), runs));
        for (n, (before, _)) in (0..).zip(parts) {
            self.sets(domain, n, &before, look, out);
        }
        for (n, change) in (0..).zip(&changes) {
            if change.expired {
                self.expired(domain, n, record, look, out);
            }
        }
        domain.state = domain.state.next(record, expired);
        for (n, (_, after)) in (0..).zip(parts) {
            self.sets(domain, n, &after, look, out);
        }
        let slots = domain.slots.iter_mut().zip(&record.slots);
        for ((slot, shown), change) in slots.zip(&changes) {
            slot.update(shown, change, look.at.ns);
        }
        for (n, change) in (0..).zip(&changes) {
            if !change.is_armed && (change.was_armed || change.arms > 0) {
                self.disarmed(domain, n, look, out);
            }
        }
        hold(domain);
    }

    /// What matters of a domain that is not current: its expiries, and whether it runs.
    pub(super) fn observe_other(
        &mut self,
        domain: &mut GuestDomain,
        record: &Domain,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let mut expired = false;
        for (n, shown) in (0..).zip(&record.slots) {
            let slot = domain.slots.get(usize::from(n)).copied();
            if slot.is_some_and(|s| s.change(shown, look.before, false).expired) {
                expired = true;
                self.expired(domain, n, record, look, out);
            }
        }
        domain.state = domain.state.next(record, expired);
    }

    /// Arms and feeds of one slot.
    fn sets(
        &mut self,
        domain: &mut GuestDomain,
        n: u8,
        sets: &Change,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let slot = n + 1;
        let timeout_s = timeout(domain, n);
        if sets.arms > 0 {
            if sets.was_armed {
                self.disarmed(domain, n, look, out);
            }
            if let Some(left_out) = tells(domain, n, look) {
                let what = Kind::GuestArmed {
                    slot,
                    timeout_s,
                    left_out,
                };
                self.emit(domain.domid, what, out);
            }
            self.step(look, Input::Armed, out);
            if let Some(state) = domain.slots.get_mut(usize::from(n)) {
                state.armed = true;
            }
        }
        if sets.feeds == 0 {
            return;
        }
        self.fed(domain, n, look, out);
        if let Some(margin_ms) = sets.late_margin_ms {
            let state = domain.slots.get_mut(usize::from(n));
            if let Some(count) = state.and_then(|s| s.tells_late(look.at.ns)) {
                let what = Kind::GuestLate {
                    slot,
                    timeout_s,
                    margin_ms,
                    count,
                };
                self.emit(domain.domid, what, out);
            }
        }
        let counted = look.clears && !self.others.iter().any(GuestDomain::is_down);
        let feeds = if counted { sets.feeds } else { 0 };
        self.step(look, Input::Fed(feeds), out);
    }

    fn fed(&mut self, domain: &mut GuestDomain, n: u8, look: &Look<'_>, out: &mut Vec<GuestEvent>) {
        let (slot, timeout_s, now) = (n + 1, timeout(domain, n), look.at.ns);
        let Some(state) = domain.slots.get_mut(usize::from(n)) else {
            return;
        };
        let since = |then: Stamp| millis(now.saturating_sub(then.ns()));
        let (before, after) = (state.fed_ns.replace(now.into()), state.after.take());
        if !self.lifecycle.has_fed() {
            let what = Kind::GuestFirstFed {
                slot,
                timeout_s,
                since_seen_ms: domain.first_seen_ns.map(since),
            };
            self.emit(domain.domid, what, out);
        } else if let Some(after) = after {
            let left_out = match after {
                Gap::Disarmed => state.tells(now),
                // These take somebody else to come about.
                _ => Some(std::mem::take(&mut state.left_out)),
            };
            let Some(left_out) = left_out else {
                return;
            };
            let what = Kind::GuestFedAgain {
                slot,
                timeout_s,
                after,
                gap_ms: before.map(since),
                left_out,
            };
            self.emit(domain.domid, what, out);
        }
    }

    fn disarmed(
        &mut self,
        domain: &mut GuestDomain,
        n: u8,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        if let Some(state) = domain.slots.get_mut(usize::from(n)) {
            state.armed = false;
            state.after = Some(Gap::Disarmed);
        }
        if let Some(left_out) = tells(domain, n, look) {
            let slot = n + 1;
            self.emit(domain.domid, Kind::GuestDisarmed { slot, left_out }, out);
        }
        if domain.slots.iter().all(|s| !s.armed) {
            self.step(look, Input::Disarmed, out);
        }
    }

    fn expired(
        &mut self,
        domain: &mut GuestDomain,
        n: u8,
        record: &Domain,
        look: &Look<'_>,
        out: &mut Vec<GuestEvent>,
    ) {
        let Some(shown) = record.slots.get(usize::from(n)) else {
            return;
        };
        for slot in domain.slots.iter_mut().filter(|s| s.armed) {
            slot.after = Some(Gap::Expired);
        }
        let Some(state) = domain.slots.get_mut(usize::from(n)) else {
            return;
        };
        state.timeout_s = shown.armed.unwrap_or(state.timeout_s);
        state.expiries = state.expiries.saturating_add(1);
        state.after = Some(Gap::Expired);
        let what = Kind::GuestExpired {
            slot: n + 1,
            timeout_s: state.timeout_s,
            unfed_ms: state.unfed_ms(shown.acted, look.at.ns, look.before),
            expiries: state.expiries,
        };
        // Known from now on, also of a domain that is not current.
        state.acted = shown.acted;
        self.emit(domain.domid, what, out);
        if let Some(what) = self.lifecycle.step(look.at, Input::Expired, look.rules) {
            self.emit(domain.domid, what, out);
        }
    }
}

fn millis(ns: Nanoseconds) -> u64 {
    u64::try_from(ns).unwrap_or(0) / NS_PER_MS
}

/// The timeout of a slot as it was last seen.
fn timeout(domain: &GuestDomain, n: u8) -> u32 {
    let slot = domain.slots.get(usize::from(n));
    slot.map_or(0, |slot| slot.timeout_s)
}

fn tells(domain: &mut GuestDomain, n: u8, look: &Look<'_>) -> Option<u32> {
    let slot = domain.slots.get_mut(usize::from(n))?;
    slot.tells(look.at.ns)
}

/// A domain that is held cannot feed: its next feed is one after a break.
fn hold(domain: &mut GuestDomain) {
    let held = match domain.state {
        DomainState::Suspended => Gap::Suspended,
        DomainState::Paused => Gap::Paused,
        _ => return,
    };
    for slot in domain.slots.iter_mut().filter(|s| s.armed) {
        if matches!(slot.after, None | Some(Gap::Paused)) {
            slot.after = Some(held);
        }
    }
}
