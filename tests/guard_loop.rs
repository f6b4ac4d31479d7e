// SPDX-License-Identifier: GPL-2.0-only
//! Sampler, gate and kicker together, seen from the device: which kicks arrive when the
//! hypervisor changes its story.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use xenwarden::guard::gate::Decision;
use xenwarden::guard::ledger::{Ledger, Note};
use xenwarden::guard::{kicker, sampler};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use xenwarden::watchdog::Barrel;
use xenwarden::xen::patched::Patched;
use xenwarden::xen::simulated::{Scene, Simulated};

const PERIOD_NS: u64 = 5 * NS_PER_MS;
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Seen {
    Kick,
    Disarm,
}

struct Recorder(Sender<Seen>);

impl Barrel for Recorder {
    fn kick(&mut self) -> io::Result<()> {
        let _ = self.0.send(Seen::Kick);
        Ok(())
    }

    fn disarm(self: Box<Self>) -> io::Result<()> {
        let _ = self.0.send(Seen::Disarm);
        Ok(())
    }
}

/// A guard over a hypervisor that shows whatever scene the test puts in.
struct Guard {
    ledger: Arc<Ledger>,
    scene: Arc<Mutex<Scene>>,
    seen: Receiver<Seen>,
}

impl Guard {
    fn start() -> Self {
        let ledger = Arc::new(Ledger::new());
        let scene = Arc::new(Mutex::new(Scene::healthy(2, 4)));
        let (tell, seen) = channel();
        let shown = Arc::clone(&scene);
        let began = Monotonic::now();
        let mut hypervisor = Patched::new(Simulated::scripted(move |_| {
            let scene = shown.lock().expect("scene");
            let elapsed = Monotonic::now().since_ns(began);
            in_time(&scene, elapsed)
        }));
        let (sampling, kicking) = (Arc::clone(&ledger), Arc::clone(&ledger));
        thread::spawn(move || sampler::run(&mut hypervisor, &sampling, PERIOD_NS));
        thread::spawn(move || {
            let barrel = Box::new(Recorder(tell));
            // Evidence never grows stale here: a noisy machine must not decide these tests.
            kicker::run(barrel, &kicking, Monotonic::now(), PERIOD_NS, 60 * NS_PER_S);
        });
        let guard = Self {
            ledger,
            scene,
            seen,
        };
        guard.await_decision(|d| d == Decision::Kick);
        guard
    }

    fn show(&self, paint: impl FnOnce(&mut Scene)) {
        paint(&mut self.scene.lock().expect("scene"));
    }

    fn await_decision(&self, wanted: impl Fn(Decision) -> bool) -> Decision {
        let end = std::time::Instant::now() + LONG;
        loop {
            if let Some((decision, _)) = self.ledger.decision() {
                if wanted(decision) {
                    return decision;
                }
            }
            assert!(std::time::Instant::now() < end, "the gate never decided so");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn await_withhold(&self) -> String {
        match self.await_decision(|d| d != Decision::Kick) {
            Decision::Withhold(reason) => reason.to_string(),
            Decision::Kick => String::new(),
        }
    }
}

/// The scene with its clock moved on; healthy canaries move with it.
fn in_time(scene: &Scene, elapsed: u64) -> Scene {
    let mut scene = scene.clone();
    let began = scene.now;
    scene.now += elapsed;
    for pcpu in scene.pcpus.iter_mut().filter(|p| p.canary_due > began) {
        pcpu.canary_due += elapsed;
    }
    for timer in scene.timers.iter_mut().filter(|t| t.deadline > began) {
        timer.deadline += elapsed;
    }
    scene
}

#[test]
fn a_wedged_pcpu_stops_the_kicks_and_its_return_resumes_them() {
    let guard = Guard::start();
    guard.show(|s| s.pcpus[1].canary_due = s.now - NS_PER_S);
    let reason = guard.await_withhold();
    assert!(
        reason.starts_with("timers of pcpu 1 not serviced"),
        "{reason}"
    );
    while guard.seen.try_recv().is_ok() {}
    // Several periods on, still none: a count, not a time.
    let samples = &guard.ledger.counters.samples;
    let then = samples.load(std::sync::atomic::Ordering::Relaxed);
    while samples.load(std::sync::atomic::Ordering::Relaxed) < then + 10 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(guard.seen.try_recv().is_err(), "kicked while withheld");
    guard.show(|s| *s = Scene::healthy(2, 4));
    assert_eq!(guard.seen.recv_timeout(LONG), Ok(Seen::Kick));
}

#[test]
fn a_stop_disarms_a_served_host() {
    let guard = Guard::start();
    let stop = &guard.ledger.stop;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let end = std::time::Instant::now() + LONG;
    loop {
        assert!(std::time::Instant::now() < end, "never disarmed");
        match guard.seen.recv_timeout(LONG) {
            Ok(Seen::Disarm) => break,
            Ok(Seen::Kick) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_stop_does_not_disarm_a_host_that_is_withheld() {
    let guard = Guard::start();
    guard.show(|s| s.pcpus[0].canary = false);
    let reason = guard.await_withhold();
    assert!(
        reason.contains("pcpu 0 is online without a canary"),
        "{reason}"
    );
    let stop = &guard.ledger.stop;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let samples = &guard.ledger.counters.samples;
    let then = samples.load(std::sync::atomic::Ordering::Relaxed);
    while samples.load(std::sync::atomic::Ordering::Relaxed) < then + 10 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(!guard.seen.try_iter().any(|s| s == Seen::Disarm));
    guard.show(|s| s.pcpus[0].canary = true);
    while guard.seen.recv_timeout(LONG).expect("served again") != Seen::Disarm {}
}

#[test]
fn each_change_leaves_one_note_for_the_narrator() {
    let guard = Guard::start();
    while guard.ledger.take_note().is_some() {}
    guard.show(|s| s.untracked = 1);
    guard.await_withhold();
    guard.show(|s| s.untracked = 0);
    guard.await_decision(|d| d == Decision::Kick);
    let kinds: Vec<bool> = std::iter::from_fn(|| guard.ledger.take_note())
        .map(|note| {
            matches!(
                note,
                Note::Decided {
                    decision: Decision::Kick,
                    ..
                }
            )
        })
        .collect();
    assert_eq!(kinds, [false, true], "one note a change, not one a tick");
}
