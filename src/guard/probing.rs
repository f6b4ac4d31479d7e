// SPDX-License-Identifier: GPL-2.0-only
//! The threads that probe a hypervisor without a table. Each may hang at any moment, which is
//! what it is for; nobody waits for it.
//!
//! In: dom0's vCPUs, the way to the hypervisor. Out: [`Words`]. A thread on each vCPU of dom0
//! counts. One more sends its vCPU to each pCPU in turn (`SCHEDOP_pin_override`), sleeps there
//! for a moment, so that a timer of that pCPU has to wake it, and comes back. On a pCPU that
//! schedules nothing, or runs no timers, it never does, and dom0 has lost a vCPU: so it keeps
//! to the last one, and the guard's thread to the others. A pCPU that stopped scheduling just
//! when it ran this vCPU keeps it: the vCPU lives, is sent, and never leaves, which shows in
//! that it was not given a pCPU since the one before.
//!
//! All are real-time, with small locked stacks, and allocate nothing once they run.

use super::probes::{UNKNOWN, Words};
use super::tick::Tick;
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S, sleep_until};
use crate::sys::privcmd::Privcmd;
use crate::sys::realtime::{become_realtime, spawn};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How often the thread of a vCPU counts, ns.
const COUNT_EACH_NS: u64 = 250 * NS_PER_MS;
/// How long a vCPU stays on a pCPU that it was sent to, ns.
const STAY_NS: u64 = 5 * NS_PER_MS;
/// A walk over all pCPUs takes this long, ns, and longer where there are more than ten.
const WALK_NS: u64 = NS_PER_S;
/// The shortest time between two pCPUs, ns: each costs dom0 two migrations.
const PCPU_EACH_NS: u64 = 100 * NS_PER_MS;
/// So many numbers in a row that are no pCPU of dom0's pool end the search for them.
const GAP: u16 = 256;
/// No pCPU has a higher number.
const MOST_PCPUS: u16 = 4096;
/// How often a thread that is alone looks for another vCPU, ns.
const ALONE_NS: u64 = 100 * NS_PER_MS;
/// How long the end of a stay is waited for, ns.
const END_NS: u64 = NS_PER_S;
/// The vCPUs that dom0 may have (Linux `Documentation/admin-guide/cputopology.rst`).
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// A way to send the vCPU that one runs on to a pCPU: the hypervisor's, or a test's.
pub trait Way {
    /// To this pCPU; returns there. EINVAL: it is none of dom0's pool, or offline. EBUSY: it may not
    /// be sent now.
    ///
    /// # Errors
    /// As said; any other is for good.
    fn send(&self, pcpu: u16) -> Result<(), Errno>;

    /// Stays there for a moment.
    fn stay(&self);

    /// Back to where it was allowed to run before.
    ///
    /// # Errors
    /// EINVAL: it was not sent.
    fn release(&self) -> Result<(), Errno>;

    /// When this vCPU, on which it runs, was last given a pCPU, ns of the hypervisor's clock. None
    /// where the hypervisor does not say.
    fn given_ns(&self, vcpu: u16) -> Option<u64>;

    /// The present.
    fn now(&self) -> Monotonic {
        Monotonic::now()
    }
}

impl Way for Privcmd {
    fn send(&self, pcpu: u16) -> Result<(), Errno> {
        self.pin_override(i32::from(pcpu))
    }

    fn stay(&self) {
        sleep_until(Monotonic::now().plus_ns(STAY_NS));
    }

    fn release(&self) -> Result<(), Errno> {
        self.pin_override(-1)
    }

    fn given_ns(&self, vcpu: u16) -> Option<u64> {
        self.runstate_entered_ns(vcpu).ok()
    }
}

/// A stay on a pCPU.
#[derive(Clone, Copy, Debug)]
struct Stay {
    vcpu: u16,
    pcpu: u16,
    given_ns: u64,
    /// It was given that one then, and had not been there before.
    came: bool,
}

/// The way of a vCPU over the pCPUs. The first walk finds out which there are. Each later one also tries the number behind the highest,
/// and one of the 256 numbers behind that, another one each time: a pCPU that joins the pool is found within so many walks.
#[derive(Debug)]
pub struct Walk {
    next: u16,
    /// One more than the highest number so far.
    pcpus: u16,
    /// Numbers in a row that were none.
    missed: u16,
    walked: bool,
    /// How far behind the number behind the highest a later walk tries one more.
    beyond: u16,
    /// Some pCPU was visited since the walk began.
    has_stayed: bool,
    /// A later walk has come to its end, and visited none.
    rests: bool,
    sent: u32,
    last: Option<Stay>,
    /// It was sent away from the pCPU of the last stay, and is still there.
    kept: bool,
    /// When the last visit of each number ended, if that was the last that is known of it.
    visited: Box<[Option<Tick>]>,
    /// How late the last visit began, ms.
    late_ms: u16,
}

impl Default for Walk {
    /// Nothing is known yet; allocates all it will ever need, 32 KiB.
    fn default() -> Self {
        Self {
            next: 0,
            pcpus: 0,
            missed: 0,
            walked: false,
            beyond: 0,
            has_stayed: false,
            rests: false,
            sent: 0,
            last: None,
            kept: false,
            visited: vec![None; usize::from(MOST_PCPUS)].into(),
            late_ms: 0,
        }
    }
}

impl Walk {
    /// Goes to the next number with this vCPU, on which it runs, and comes back.
    ///
    /// # Errors
    /// It is not allowed at all.
    pub fn step(&mut self, words: &Words, vcpu: u16, way: &impl Way) -> Result<(), Errno> {
        let pcpu = self.next;
        // Where another vCPU is kept says nothing of this one.
        self.kept &= self.last.is_some_and(|last| last.vcpu == vcpu);
        if !self.kept {
            self.sent = self.sent.wrapping_add(1);
            self.late_ms = self.late_ms(pcpu, way.now());
            words.sent_late(self.sent, vcpu, pcpu, self.late_ms);
        }
        let before_ns = way.given_ns(vcpu);
        match way.send(pcpu) {
            Ok(()) => {
                way.stay();
                let given_ns = way.given_ns(vcpu);
                self.stayed(vcpu, pcpu, given_ns, given_ns != before_ns);
                // Nothing is left to be done about it: the next one is refused then, and it is tried again.
                let _ = way.release();
                self.pcpus = self.pcpus.max(pcpu + 1);
                self.missed = 0;
                self.has_stayed = true;
                let ended = (!self.kept).then(|| Tick::up(way.now()));
                self.visited(pcpu, ended);
            }
            Err(errno @ (Errno::EINVAL | Errno::EBUSY)) => {
                if errno == Errno::EBUSY {
                    // It may be away still.
                    let _ = way.release();
                }
                self.missed = self.missed.saturating_add(1);
                self.visited(pcpu, None);
            }
            Err(errno) => return Err(errno),
        }
        let next = self.behind(pcpu);
        self.next = next.unwrap_or(0);
        self.rests = next.is_none() && self.walked && !self.has_stayed;
        self.has_stayed &= next.is_some();
        self.walked |= next.is_none();
        if self.walked && self.pcpus == 0 {
            return Err(Errno::EBUSY);
        }
        match self.last {
            // The same word for as long as it is kept. Where it went by itself after a stay nobody says.
            Some(stay) if self.kept => {
                let pcpu = if stay.came { stay.pcpu } else { UNKNOWN };
                words.sent_late(self.sent, vcpu, pcpu, self.late_ms);
            }
            _ => words.back(self.walked),
        }
        Ok(())
    }

    /// The number behind this one; none: the walk is at its end.
    fn behind(&mut self, pcpu: u16) -> Option<u16> {
        let next = match self.walked {
            false if self.missed >= GAP => return None,
            // One that is kept finds no other.
            true if pcpu > self.pcpus || self.kept && pcpu + 1 >= self.pcpus => return None,
            true if pcpu == self.pcpus => {
                let further = pcpu + 1 + self.beyond;
                self.beyond = (self.beyond + 1) % GAP;
                further
            }
            _ => pcpu + 1,
        };
        (next < MOST_PCPUS).then_some(next)
    }

    /// There was nothing to send for a while: no visit is late for that.
    fn forget(&mut self) {
        self.visited.fill(None);
    }

    fn visited(&mut self, pcpu: u16, ended: Option<Tick>) {
        if let Some(visited) = self.visited.get_mut(usize::from(pcpu)) {
            *visited = ended;
        }
    }

    /// How much later than the walk is long this pCPU is visited again, ms.
    fn late_ms(&self, pcpu: u16, now: Monotonic) -> u16 {
        let last = self.visited.get(usize::from(pcpu)).copied().flatten();
        let since_ns = last.map_or(0, |last| last.until_ns(now));
        let each_ns = WALK_NS.max(PCPU_EACH_NS * u64::from(self.pcpus));
        u16::try_from(since_ns.saturating_sub(each_ns) / NS_PER_MS).unwrap_or(u16::MAX)
    }

    /// On its way to another pCPU a vCPU leaves the one it was on, and is given the other one later.
    fn stayed(&mut self, vcpu: u16, pcpu: u16, given_ns: Option<u64>, came: bool) {
        let is_same = |last: Stay| last.vcpu == vcpu && Some(last.given_ns) == given_ns;
        self.kept = self
            .last
            .is_some_and(|last| is_same(last) && (self.kept || last.pcpu != pcpu));
        if !self.kept {
            self.last = given_ns.map(|given_ns| Stay {
                vcpu,
                pcpu,
                given_ns,
                came,
            });
        }
    }

    /// How long to wait before the next step, ns: none on the first walk, nor after a number that
    /// is no pCPU, unless the vCPU is kept somewhere, or a whole walk has visited none.
    #[must_use]
    pub fn pause_ns(&self) -> u64 {
        match self.kept || self.rests || self.walked && self.missed == 0 {
            true => (WALK_NS / u64::from(self.pcpus.max(1))).max(PCPU_EACH_NS),
            false => 0,
        }
    }
}

/// Whether the hypervisor's scheduler, by its command line, lets several vCPUs share a pCPU, and
/// sends one alone. With the null scheduler a vCPU that is sent to a pCPU that is taken never runs
/// again, though all is well; the others promise no time. Where whole cores are scheduled
/// (`sched-gran`) the vCPUs of a core go together, and to the first pCPU of a core only.
///
/// # Errors
/// Why not.
pub fn scheduler_allows(command_line: &str) -> Result<(), &'static str> {
    let last = |option: &str| {
        let words = command_line.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix(option))
            .next_back()
    };
    match (last("sched="), last("sched-gran=")) {
        (Some(other), _) if !["credit", "credit2"].contains(&other) => {
            Err("the scheduler may never let it run")
        }
        (_, Some(whole)) if whole != "cpu" => {
            Err("the scheduler would send the guard's vCPU along")
        }
        _ => Ok(()),
    }
}

/// How many vCPUs dom0 may have, by the kernel's list of them; their numbers have no gaps.
#[must_use]
pub fn vcpus() -> usize {
    let text = fs::read_to_string(POSSIBLE).unwrap_or_default();
    let count = last_of_list(&text).map_or(0, |last| last + 1);
    count.min(CpuSet::count())
}

/// The last number of a list such as `0-3,8`.
fn last_of_list(text: &str) -> Option<usize> {
    text.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Binds a thread to a vCPU; 0 is this one.
fn bind(thread: Pid, vcpus: impl Fn(usize) -> bool) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    for vcpu in (0..CpuSet::count()).filter(|vcpu| vcpus(*vcpu)) {
        set.set(vcpu)?;
    }
    sched_setaffinity(thread, &set)
}

const THIS: Pid = Pid::from_raw(0);

/// Starts the thread of a vCPU, which runs for as long as the process.
///
/// # Errors
/// The errno of making it.
pub fn count_on(vcpu: usize, words: &Arc<Words>, priority: u8) -> io::Result<()> {
    let words = Arc::clone(words);
    let body = move || {
        if become_realtime(priority).is_err() {
            // It is expected for ever: nothing is served.
            return;
        }
        let mut next = Monotonic::now();
        loop {
            if sched_getcpu() == Ok(vcpu) {
                words.count(vcpu);
            } else {
                // Offline, or on the way: where it may not run it says so, and tries again.
                words.expected(vcpu);
                if bind(THIS, |other| other == vcpu).is_err() {
                    words.absent(vcpu);
                }
            }
            next = next.plus_ns(COUNT_EACH_NS).max(Monotonic::now());
            sleep_until(next);
        }
    };
    spawn(&format!("vcpu-{vcpu}"), body).map(drop)
}

/// The thread that sends its vCPU to the pCPUs; it ends with this value.
#[derive(Debug)]
pub struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sender {
    /// Starts it. The calling thread is kept away from its vCPU.
    ///
    /// # Errors
    /// The errno of making it.
    pub fn start(way: Privcmd, words: &Arc<Words>, priority: u8) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (words, stopped, guard) = (Arc::clone(words), Arc::clone(&stop), gettid());
        let body = move || {
            if become_realtime(priority).is_ok() {
                send_in_turn(&way, &words, guard, &stopped);
            }
            words.off();
        };
        Ok(Self {
            thread: spawn("pin-probe", body)?,
            stop,
        })
    }
}

impl Drop for Sender {
    /// A vCPU that is away when its thread ends would stay there.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Monotonic::now().plus_ns(END_NS);
        while !self.thread.is_finished() && Monotonic::now() < deadline {
            sleep_until(Monotonic::now().plus_ns(STAY_NS));
        }
    }
}

fn send_in_turn(way: &impl Way, words: &Words, guard: Pid, stop: &AtomicBool) {
    let mut walk = Walk::default();
    let mut home = None;
    let mut left = Left::default();
    while !stop.load(Ordering::Relaxed) {
        let is_home = home.is_some() && sched_getcpu().ok() == home;
        if !is_home {
            left.add(home.take());
        }
        let back = left.back(words);
        if !is_home || back.is_some() {
            walk.forget();
            home = settle(words, guard, back);
            if let Some(home) = home {
                // It may have been left away by this thread, or by a guard that was killed.
                let _ = way.release();
                left.is_back(home);
            }
        }
        let pause_ns = match home {
            Some(vcpu) if walk.step(words, short(vcpu), way).is_err() => return,
            Some(_) => walk.pause_ns(),
            None => ALONE_NS,
        };
        if pause_ns != 0 {
            sleep_until(Monotonic::now().plus_ns(pause_ns));
        }
    }
}

/// The vCPUs that were home when they went offline: each may be away still when it comes back.
#[derive(Default)]
struct Left(CpuSet);

impl Left {
    fn add(&mut self, home: Option<usize>) {
        // Beyond what a set holds there is no vCPU either.
        let _ = home.map(|home| self.0.set(home));
    }

    /// One of them that counts again.
    fn back(&self, words: &Words) -> Option<usize> {
        let mut counting = words.counting();
        counting.find(|vcpu| self.0.is_set(*vcpu) == Ok(true))
    }

    /// It was released.
    fn is_back(&mut self, vcpu: usize) {
        let _ = self.0.unset(vcpu);
    }
}

fn short(vcpu: usize) -> u16 {
    u16::try_from(vcpu).unwrap_or(u16::MAX)
}

/// The vCPU that is to be sent: `left` if it is there, or the last of several.
#[must_use]
pub fn choose_home(words: &Words, left: Option<usize>) -> Option<usize> {
    let several = words.counting().count() > 1;
    let mut counting = words.counting();
    counting
        .find(|vcpu| Some(*vcpu) == left)
        .or_else(|| words.counting().last())
        .filter(|_| several)
}

/// Binds this thread to the vCPU that is sent, and the guard's to the others.
fn settle(words: &Words, guard: Pid, left: Option<usize>) -> Option<usize> {
    let home = choose_home(words, left).filter(|home| {
        bind(guard, |vcpu| vcpu != *home).is_ok() && bind(THIS, |vcpu| vcpu == *home).is_ok()
    });
    // At the start the others may not have counted yet.
    if home.is_none() && words.settled() {
        words.off();
    }
    home
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::sched_getaffinity;
    use std::{sync::Mutex, sync::mpsc::channel, thread};

    /// A way that goes nowhere, and notes what is asked of it; after `most` stays it has the
    /// thread end.
    struct Noted {
        asked: Mutex<Vec<(&'static str, usize)>>,
        stop: AtomicBool,
        most: usize,
        answer: Result<(), Errno>,
    }

    impl Noted {
        fn new(most: usize, answer: Result<(), Errno>) -> Self {
            Self {
                asked: Mutex::default(),
                stop: AtomicBool::new(false),
                most,
                answer,
            }
        }

        fn note(&self, what: &'static str) -> usize {
            let mut asked = self.asked.lock().expect("not poisoned");
            asked.push((what, sched_getcpu().expect("Linux says")));
            asked.iter().filter(|(asked, _)| *asked == "stay").count()
        }
    }

    impl Way for Noted {
        fn send(&self, _: u16) -> Result<(), Errno> {
            self.note("send");
            self.answer
        }

        fn stay(&self) {
            let ends = self.note("stay") >= self.most;
            self.stop.store(ends, Ordering::Relaxed);
        }

        fn release(&self) -> Result<(), Errno> {
            self.note("release");
            Ok(())
        }

        fn given_ns(&self, _: u16) -> Option<u64> {
            None
        }
    }

    /// The processors that a thread may run on.
    fn allowed(thread: Pid) -> Vec<usize> {
        let set = sched_getaffinity(thread).expect("it is there");
        let all = 0..CpuSet::count();
        all.filter(|cpu| set.is_set(*cpu) == Ok(true)).collect()
    }

    /// Calls `act` in a thread that it may bind, with another in place of the guard's, and gives what
    /// that one may run on afterwards. None on a machine without a second processor.
    fn beside_a_guard(act: impl FnOnce(Pid) + Send) -> Option<Vec<usize>> {
        if !allowed(THIS).starts_with(&[0, 1]) {
            return None;
        }
        let (tell, told) = channel();
        let (end, ends) = channel::<()>();
        thread::scope(|scope| {
            let body = move || tell.send(gettid()).map(|()| ends.recv());
            thread::Builder::new()
                .spawn_scoped(scope, body)
                .expect("a thread");
            let guard = told.recv().expect("it tells");
            scope.spawn(move || act(guard)).join().expect("no panic");
            let allowed = allowed(guard);
            drop(end);
            Some(allowed)
        })
    }

    #[test]
    fn the_last_vcpu_is_sent_the_guard_keeps_to_the_others_and_what_was_left_away_comes_back() {
        let first = ["release", "send"].as_slice();
        let twice = [
            "release", "send", "stay", "release", "send", "stay", "release",
        ]
        .as_slice();
        // One that is refused is not tried again.
        for (answer, expected) in [(Ok(()), twice), (Err(Errno::EPERM), first)] {
            let (way, words) = (Noted::new(2, answer), Words::new(2, true));
            [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
            let guard = beside_a_guard(|guard| send_in_turn(&way, &words, guard, &way.stop));
            let Some(guard) = guard else { return };
            assert!(guard.first() == Some(&0) && !guard.contains(&1));
            let expected: Vec<_> = expected.iter().map(|asked| (*asked, 1)).collect();
            assert_eq!(*way.asked.lock().expect("not poisoned"), expected);
            assert!(words.sends());
        }
    }

    #[test]
    fn nothing_is_sent_where_one_vcpu_is_alone_but_another_is_waited_for() {
        let words = Words::new(2, true);
        words.count(0);
        for still_expected in [true, false] {
            assert_eq!(settle(&words, THIS, None), None);
            assert_eq!(words.sends(), still_expected);
            words.absent(1);
        }
    }

    #[test]
    fn all_that_went_offline_while_they_were_away_are_released_once_they_are_back() {
        let words = Words::new(4, true);
        [0, 1].into_iter().for_each(|vcpu| words.count(vcpu));
        let mut left = Left::default();
        [Some(3), None, Some(2)]
            .into_iter()
            .for_each(|home| left.add(home));
        assert_eq!(left.back(&words), None, "both are offline still");
        [2, 3].into_iter().for_each(|vcpu| words.count(vcpu));
        let mut released = Vec::new();
        while let Some(home) = left.back(&words) {
            released.push(home);
            left.is_back(home);
        }
        assert_eq!(released, [2, 3]);
    }

    #[test]
    fn a_vcpu_is_sent_only_where_several_may_share_a_pcpu() {
        for fine in [
            "",
            "com1=115200",
            "sched=credit",
            "sched=null sched=credit2 dom0_mem=1G",
            "sched-gran=core sched-gran=cpu",
        ] {
            assert!(scheduler_allows(fine).is_ok(), "{fine}");
        }
        for not in [
            "sched=null",
            "dom0_mem=1G sched=rtds",
            "sched=credit sched=arinc653",
            "sched-gran=core",
            "sched=credit2 sched-gran=socket",
        ] {
            assert!(scheduler_allows(not).is_err(), "{not}");
        }
    }

    #[test]
    fn the_last_vcpu_is_the_end_of_the_kernels_list() {
        for (text, last) in [("0\n", Some(0)), ("0-3\n", Some(3)), ("0-3,8\n", Some(8))] {
            assert_eq!(last_of_list(text), last);
        }
        assert_eq!(last_of_list(""), None);
    }
}
