// SPDX-License-Identifier: GPL-2.0-only
//! What a simulated host does by itself as its time passes: timers, schedulers, guests, what
//! ails it, and the devices that fire.

use super::plan::Ailment;
use super::{
    AILS, CANARY, DECIDES, FIRES, GUEST, GUESTS, HANDLER, HEALS, Host, KEYS, KEYS_END, NEVER,
    OFFLINE, ONLINE, PCPUS, RESUMES, State, Uuid,
};
use xenwarden::sys::clock::{NS_PER_MS as MS, NS_PER_S as S};

/// The domid of a guest.
fn domid(guest: usize) -> u16 {
    u16::try_from(guest + 1).unwrap_or(u16::MAX)
}

impl Host {
    /// Does what is due until then.
    pub(super) fn advance(&self, state: &mut State, to: u64) {
        while state.reset.is_none() && state.broken.is_none() {
            let due = state.due.iter().enumerate();
            let (what, at) = due
                .min_by_key(|(_, at)| **at)
                .map_or((0, NEVER), |(n, at)| (n, *at));
            if at > to {
                state.now = to;
                return;
            }
            state.now = state.now.max(at);
            self.happens(state, what);
        }
    }

    fn happens(&self, state: &mut State, what: usize) {
        match what {
            CANARY..DECIDES => self.canary(state, what - CANARY),
            DECIDES..GUEST => self.decides(state, what - DECIDES),
            GUEST..HANDLER => self.guest(state, what - GUEST),
            HANDLER..FIRES => self.handler(state, what - HANDLER),
            FIRES..AILS => fires(state, what - FIRES),
            AILS | HEALS => self.ails(state, what == AILS),
            KEYS | KEYS_END => {
                state.tell(|| "debug keys".to_owned());
                state.due[what] = NEVER;
                state.keys = what == KEYS;
                self.xen.excuse(u32::from(state.keys));
                if !state.keys {
                    (0..PCPUS).for_each(|cpu| self.decide_at_once(state, cpu));
                }
            }
            OFFLINE | ONLINE => self.goes(state, what == ONLINE),
            _ => state.break_promise("kicks did not resume when the lag had ended".to_owned()),
        }
    }

    fn ails_of(&self, state: &State, what: Ailment) -> bool {
        state.ails && self.ailment() == Some(what)
    }

    fn canary(&self, state: &mut State, cpu: usize) {
        if self.ails_of(state, Ailment::Timers(cpu)) {
            state.due[CANARY + cpu] = NEVER;
            return;
        }
        let now = state.now;
        self.xen.canary(cpu);
        state.eyes.canary_ran(cpu, now);
        self.xen.request(cpu);
        state.eyes.asked(cpu, now);
        if state.due[DECIDES + cpu] == NEVER {
            let late = state.random.delay(self.plan.decide_late);
            state.due[DECIDES + cpu] = now + late;
        }
        // It sets itself anew as it runs.
        state.due[CANARY + cpu] = now + S + state.random.delay(self.plan.canary_late);
    }

    fn decides(&self, state: &mut State, cpu: usize) {
        // The debug keys' end, or the ailment's, sets it going again.
        if state.keys || self.ails_of(state, Ailment::Scheduler(cpu)) {
            state.due[DECIDES + cpu] = NEVER;
            return;
        }
        self.decide_at_once(state, cpu);
    }

    fn decide_at_once(&self, state: &mut State, cpu: usize) {
        state.due[DECIDES + cpu] = NEVER;
        if state.online[cpu] {
            self.xen.decide(cpu);
            state.eyes.has_decided(cpu);
        }
    }

    fn goes(&self, state: &mut State, online: bool) {
        state.tell(|| format!("the last pCPU goes; online: {online}"));
        let cpu = self.plan.pcpus - 1;
        state.due[if online { ONLINE } else { OFFLINE }] = NEVER;
        if online {
            state.online[cpu] = true;
            self.decide_at_once(state, cpu);
            // Coming online counts like a run.
            self.xen.canary(cpu);
            state.eyes.canary_ran(cpu, state.now);
            state.due[CANARY + cpu] = state.now + S + state.random.delay(self.plan.canary_late);
        } else {
            state.online[cpu] = false;
            state.eyes.offline(cpu);
            (state.due[CANARY + cpu], state.due[DECIDES + cpu]) = (NEVER, NEVER);
        }
        self.xen.online(cpu, online);
    }

    fn set(&self, state: &mut State, guest: usize) {
        let timeout_s = state.guests[guest].timeout_s;
        state.tell(|| format!("guest {guest} feeds; timeout {timeout_s} s"));
        self.xen.arm(domid(guest), 0, timeout_s);
        state.guests[guest].armed = true;
        state.eyes.slot_set(guest, timeout_s, state.now);
        let deadline = state.now + u64::from(timeout_s) * S;
        state.due[HANDLER + guest] = deadline + state.random.delay(self.plan.handler_late);
        state.due[GUEST + guest] = state.now + state.random.below(u64::from(timeout_s) * S);
    }

    fn create(&self, state: &mut State, guest: usize) {
        let uuid = Uuid::from_u128(u128::from(state.random.next()));
        self.xen.create(domid(guest), uuid);
        state.guests[guest].timeout_s = 1 + u32::try_from(state.random.below(6)).unwrap_or(0);
        state.guests[guest].there = true;
        self.set(state, guest);
    }

    /// A guest has its turn: mostly it feeds.
    fn guest(&self, state: &mut State, guest: usize) {
        let is = state.guests[guest];
        if !is.there {
            self.create(state, guest);
            return;
        }
        if !is.armed {
            self.set(state, guest);
            return;
        }
        if guest == 0 && self.ails_of(state, Ailment::Handler) {
            state.due[GUEST] = NEVER;
            return;
        }
        match state.random.below(32) {
            0 => {
                self.xen.disarm(domid(guest), 0);
                self.disarmed_slot(state, guest);
                state.due[GUEST + guest] = state.now + state.random.below(2 * S);
            }
            1 => {
                self.xen.destroy(domid(guest));
                self.disarmed_slot(state, guest);
                state.guests[guest].there = false;
                state.due[GUEST + guest] = state.now + state.random.below(2 * S);
            }
            // It hangs, and its handler runs in time.
            2 => state.due[GUEST + guest] = NEVER,
            _ => self.set(state, guest),
        }
    }

    fn disarmed_slot(&self, state: &mut State, guest: usize) {
        state.guests[guest].armed = false;
        state.due[HANDLER + guest] = NEVER;
        state.eyes.slot_served(guest);
    }

    /// A guest's deadline has passed: the handler runs.
    fn handler(&self, state: &mut State, guest: usize) {
        if guest == 0 && self.ails_of(state, Ailment::Handler) {
            state.tell(|| "the guest's handler does not run".to_owned());
            state.due[HANDLER] = NEVER;
            return;
        }
        self.xen.expire(domid(guest), 0);
        self.disarmed_slot(state, guest);
        // The toolstack destroys it by and by, and starts it anew.
        state.guests[guest].there = false;
        state.due[GUEST + guest] = state.now + state.random.below(3 * S);
    }

    fn ails(&self, state: &mut State, begins: bool) {
        let Some(trouble) = self.plan.trouble else {
            return;
        };
        state.tell(|| {
            format!(
                "{:?}: {}",
                trouble.what,
                if begins { "begins" } else { "ends" }
            )
        });
        state.ails = begins;
        state.guarded_when_ill |= begins && state.guards;
        state.due[if begins { AILS } else { HEALS }] = NEVER;
        if begins {
            return;
        }
        match trouble.what {
            Ailment::Timers(cpu) => state.due[CANARY + cpu] = state.now,
            Ailment::Scheduler(cpu) => self.decide_at_once(state, cpu),
            Ailment::Handler if state.due[HANDLER] == NEVER && state.guests[0].armed => {
                state.due[HANDLER] = state.now;
            }
            Ailment::Handler | Ailment::Refuses => {}
        }
        self.must_resume(state);
    }

    /// A lag that ends in time leaves no trace: kicks go on before the first device would fire.
    fn must_resume(&self, state: &mut State) {
        let within = self.plan.cycle_ns() + MS;
        let in_time = state.due[FIRES..AILS]
            .iter()
            .all(|at| at.saturating_sub(state.now) > within);
        let undisturbed = self.plan.event.is_none() && !self.plan.wild;
        if state.guards && in_time && undisturbed {
            state.must_live = true;
            state.due[RESUMES] = state.now + within;
        }
    }
}

fn fires(state: &mut State, n: usize) {
    state.tell(|| format!("device {n} fires"));
    state.due[FIRES + n] = NEVER;
    state.reset = Some(state.now);
    if state.must_live {
        state.break_promise("a healthy host was reset".to_owned());
    }
}

/// `happens` takes what is left for this.
const _: () = assert!(RESUMES == ONLINE + 1 && GUESTS == FIRES - HANDLER);
