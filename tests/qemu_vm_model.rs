// SPDX-License-Identifier: GPL-2.0-only
//! Everything that can happen to a VM, in every order, against an oracle that looks at the whole
//! past anew each time.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use xenwarden::event::{Cause, Kind, Timestamp};
use xenwarden::guests::alarm::{Moment, Nanoseconds, Phase, Rules};
use xenwarden::guests::state::DomainState;
use xenwarden::qemu::status::{Reset, Status};
use xenwarden::qemu::trace::Sighting;
use xenwarden::qemu::vm::{Input, Outcome, Process, Vm};

const MS: Nanoseconds = 1_000_000;
/// Between two things that happen.
const STEP: Nanoseconds = 100 * MS;
/// When nothing happens.
const REST: Nanoseconds = 1_500 * MS;
/// Things that happen, one after the other.
const DEPTH: u32 = 5;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Attach(u32),
    /// To a QEMU that waits for its guest.
    AttachIncoming,
    /// To one that its watchdog has paused.
    AttachPaused,
    Detach,
    Gone,
    Runs,
    Paused,
    /// It says that its watchdog has paused it.
    ByWatchdog,
    Resumed,
    Expires,
    ExpiresUnclear,
    /// The domain was paused meanwhile.
    ExpiresPaused,
    /// The VM is paused by it.
    ExpiresPauses,
    GuestReset,
    HostReset,
    PowersOff,
    TraceOn,
    TraceOff,
    /// A snapshot, its device with it.
    Loads,
    Enables,
    Disables,
    Restarts,
    SaysFed,
    Rest,
    Close,
}

const ACTS: [Act; 26] = [
    Act::Attach(1),
    Act::Attach(2),
    Act::AttachIncoming,
    Act::AttachPaused,
    Act::Detach,
    Act::Gone,
    Act::Runs,
    Act::Paused,
    Act::ByWatchdog,
    Act::Resumed,
    Act::Expires,
    Act::ExpiresUnclear,
    Act::ExpiresPaused,
    Act::ExpiresPauses,
    Act::GuestReset,
    Act::HostReset,
    Act::PowersOff,
    Act::TraceOn,
    Act::TraceOff,
    Act::Loads,
    Act::Enables,
    Act::Disables,
    Act::Restarts,
    Act::SaysFed,
    Act::Rest,
    Act::Close,
];

impl Act {
    fn inputs(self) -> Vec<Input> {
        let status = |word| Input::Status(Status::from_word(word));
        let wrote = |value| Input::Seen(Sighting::I6300esb { offset: 12, value });
        let attached = |pid, word| {
            let process = Process { pid, started: 7 };
            Input::Attached(Some(process), Status::from_word(word))
        };
        vec![match self {
            Self::Attach(pid) => attached(pid, "running"),
            Self::AttachIncoming => attached(2, "inmigrate"),
            Self::AttachPaused => attached(1, "watchdog"),
            Self::Detach => Input::Detached,
            Self::Gone => Input::Gone,
            Self::Runs => status("running"),
            Self::Paused => status("paused"),
            Self::ByWatchdog => status("watchdog"),
            Self::Resumed => Input::Resumed,
            Self::Expires => expired(false, false, false),
            Self::ExpiresUnclear => expired(true, false, false),
            Self::ExpiresPaused => expired(false, true, false),
            Self::ExpiresPauses => expired(false, false, true),
            Self::GuestReset => reset(Reset::Guest),
            Self::HostReset => reset(Reset::Host),
            Self::PowersOff => Input::Ending(Cause::Poweroff),
            Self::TraceOn => Input::TraceOn,
            Self::TraceOff => Input::TraceOff,
            Self::Loads => Input::Seen(Sighting::Loaded),
            Self::Enables => Input::Seen(Sighting::I6300esbLock(2)),
            Self::Disables => Input::Seen(Sighting::I6300esbLock(0)),
            Self::Restarts => return vec![wrote(0x80), wrote(0x86), wrote(0x100)],
            Self::SaysFed => Input::Fed,
            Self::Rest => Input::Tick,
            Self::Close => Input::Close,
        }]
    }

    fn takes(self) -> Nanoseconds {
        if self == Self::Rest { REST } else { STEP }
    }
}

fn expired(unclear: bool, paused: bool, pauses: bool) -> Input {
    Input::Expired {
        unclear,
        paused,
        pauses,
    }
}

fn reset(how: Reset) -> Input {
    let unclear = false;
    Input::Reset { how, unclear }
}

/// What a device is, by the last thing that decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    On,
    Off,
    Unknown,
}

/// The past: what happened, and when.
type Past = [(Nanoseconds, Act)];

/// The device before the last thing of the past, and where it became so.
fn device(past: &Past) -> (Is, usize) {
    let (_, before) = past.split_last().expect("something happened");
    let mut is = (Is::Unknown, 0_usize);
    for (n, (at, act)) in before.iter().enumerate() {
        let now = match act {
            Act::Attach(_) | Act::AttachIncoming | Act::ExpiresUnclear | Act::Loads => Is::Unknown,
            // Whatever was loaded while it stood still was seen, or it was its watchdog that stopped it.
            Act::Resumed if traced(&before[..n]) || stopped(&before[..n]) => continue,
            Act::Resumed => Is::Unknown,
            act if turns_off(*act) => Is::Off,
            Act::Disables => Is::Off,
            Act::Enables => Is::On,
            // What is known for less than a second, by an expiry or a reset, holds.
            Act::TraceOn => {
                let decided = is.1.checked_sub(1).and_then(|n| before.get(n));
                match decided {
                    _ if is.0 == Is::Off && stopped(&before[..n]) => continue,
                    Some((then, by)) if turns_off(*by) && at - then < 1_000 * MS => {
                        continue;
                    }
                    _ => Is::Unknown,
                }
            }
            Act::Rest if is.0 == Is::Unknown && inferred(&before[..=n], is.1) => Is::On,
            _ => continue,
        };
        is = (now, n + 1);
    }
    is
}

fn turns_off(act: Act) -> bool {
    use Act::{AttachPaused, Expires, ExpiresPaused, ExpiresPauses, GuestReset, HostReset};
    matches!(
        act,
        AttachPaused | Expires | ExpiresPaused | ExpiresPauses | GuestReset | HostReset
    )
}

/// The last of these things that was so.
fn last(past: &Past, is: impl Fn(Act) -> bool) -> Option<Act> {
    past.iter().map(|(_, act)| *act).rfind(|act| is(*act))
}

/// The process that is attached to.
fn process(act: Act) -> Option<u32> {
    match act {
        Act::Attach(pid) => Some(pid),
        Act::AttachIncoming => Some(2),
        Act::AttachPaused => Some(1),
        _ => None,
    }
}

fn attaches(act: Act) -> bool {
    process(act).is_some()
}

/// The guest's writes are seen, and a load.
fn traced(past: &Past) -> bool {
    let decides = |act| attaches(act) || matches!(act, Act::TraceOn | Act::TraceOff | Act::Detach);
    last(past, decides) == Some(Act::TraceOn)
}

/// Its watchdog stopped it, and it has neither run nor been loaded since.
fn stopped(past: &Past) -> bool {
    let decides = |act| attaches(act) || is_expiry(act) || matches!(act, Act::Resumed | Act::Loads);
    let by = last(past, |act| decides(act) || act == Act::ExpiresPaused);
    matches!(by, Some(Act::ExpiresPauses | Act::AttachPaused))
}

/// It has expired and was neither fed nor started again since.
fn has_expired(past: &Past) -> bool {
    let mut expired = false;
    for (n, (_, act)) in past.iter().enumerate() {
        expired = match act {
            Act::AttachPaused => true,
            act if is_expiry(*act) => true,
            Act::GuestReset | Act::HostReset => false,
            act => expired && !is_another(&past[..n], *act) && !is_fed(&past[..=n]),
        };
    }
    expired
}

/// It is attached to another process than before.
fn is_another(before: &Past, act: Act) -> bool {
    let was = last(before, attaches).and_then(process);
    attaches(act) && was.is_some() && process(act) != was
}

/// It is found stopped by an expiry that was not told.
fn is_unseen_expiry(past: &Past) -> bool {
    let Some(((_, Act::AttachPaused), before)) = past.split_last() else {
        return false;
    };
    is_another(before, Act::AttachPaused) || !has_expired(before)
}

/// Two restarts a second apart, and a second without an arming: as of the rest that ends `past`,
/// the device being unknown since `from`.
fn inferred(past: &Past, from: usize) -> bool {
    let Some(((now, Act::Rest), before)) = past.split_last() else {
        return false;
    };
    if !attached(before) && !gone(before) {
        return false;
    }
    let mut restarts = before[from..]
        .iter()
        .filter(|(_, act)| *act == Act::Restarts);
    let Some((first, _)) = restarts.next() else {
        return false;
    };
    let second = restarts.find(|(at, _)| at - first >= 1_000 * MS);
    second.is_some_and(|(second, _)| now - second >= 1_000 * MS)
}

fn attached(past: &Past) -> bool {
    last(past, |act| attaches(act) || act == Act::Detach).is_some_and(attaches)
}

/// Gone as the machine takes it: only who was seen can go, and comes back by an attachment.
fn gone(past: &Past) -> bool {
    use Act::{ByWatchdog, Gone, GuestReset, HostReset, Paused, Runs};
    let decides = |act| {
        matches!(
            act,
            Gone | Runs | Paused | ByWatchdog | GuestReset | HostReset
        )
    };
    let seen = past.iter().any(|(_, act)| attaches(*act));
    seen && last(past, |act| attaches(act) || decides(act)) == Some(Gone)
}

/// Whether the last thing of the past is a feed of an armed device.
fn is_fed(past: &Past) -> bool {
    let (is, from) = device(past);
    match past.last().expect("something").1 {
        Act::SaysFed => true,
        Act::Restarts => is == Is::On,
        Act::Rest => is == Is::Unknown && inferred(past, from),
        _ => false,
    }
}

fn is_expiry(act: Act) -> bool {
    use Act::{Expires, ExpiresPauses, ExpiresUnclear};
    matches!(act, Expires | ExpiresUnclear | ExpiresPauses)
}

/// All that can follow, so many things deep; how many ways there are.
fn walk(vm: &Vm, past: &mut Vec<(Nanoseconds, Act)>, open: bool, deep: u32) -> u64 {
    if deep == 0 {
        return 1;
    }
    let rules = &Rules::default();
    let before = past.last().map_or(0, |(at, _)| *at);
    let mut ways = 0;
    for act in ACTS {
        let ns = before + act.takes();
        let at = Moment {
            ns,
            wall: Timestamp(ns / 1_000),
        };
        past.push((ns, act));
        let mut next = vm.clone();
        let mut said = Vec::new();
        for input in act.inputs() {
            said.extend(next.step(at, input, rules));
        }
        let open = check(&next, past, open, &said);
        ways += walk(&next, past, open, deep - 1);
        past.pop();
    }
    ways
}

/// Whether the alarm is open now.
fn check(vm: &Vm, past: &Past, open: bool, said: &[Outcome]) -> bool {
    let (_, act) = *past.last().expect("something");
    let count = |is: fn(&Kind) -> bool| {
        said.iter()
            .filter(|s| matches!(s, Outcome::Event(kind) if is(kind)))
            .count()
    };
    let raised = count(|kind| matches!(kind, Kind::AlarmRaised { .. }));
    let cleared = count(|kind| matches!(kind, Kind::AlarmCleared { .. }));
    let closed = count(|kind| matches!(kind, Kind::AlarmClosed { .. }));
    let unseen = is_unseen_expiry(past);
    let raises = is_expiry(act) || unseen;
    assert_eq!(raised, usize::from(raises), "{past:?}: {said:?}");
    let clears = open && is_fed(past);
    assert_eq!(cleared, usize::from(clears), "{past:?}: {said:?}");
    let may_close = matches!(act, Act::Close | Act::Gone) || attaches(act);
    assert!(
        closed == 0 || open && closed == 1 && may_close,
        "{past:?}: {said:?}"
    );
    assert!(
        act != Act::Close || closed == usize::from(open),
        "{past:?}: {said:?}"
    );
    // What is closed then is of the QEMU before.
    let open = unseen || (open || raised == 1) && cleared == 0 && closed == 0;
    assert_eq!(vm.lifecycle.alarm.is_some(), open, "{past:?}");
    if !attached(past) && !matches!(vm.lifecycle.state, DomainState::Gone(_)) {
        assert_eq!(vm.state(), DomainState::Unknown, "nobody looks: {past:?}");
        assert!(!vm.needs_feeds(), "{past:?}");
    }
    let moved = |phase| matches!(phase, Phase::Moved { .. });
    let is_here = vm.lifecycle.alarm.is_some_and(|alarm| !moved(alarm.phase));
    if attached(past) && is_here && !matches!(vm.lifecycle.state, DomainState::Gone(_)) {
        assert!(vm.needs_feeds(), "{past:?}");
    }
    open
}

#[test]
fn only_an_expiry_raises_and_only_a_feed_of_an_armed_device_clears_whatever_comes_when() {
    let vm = Vm::new(0);
    let ways = walk(&vm, &mut Vec::new(), false, DEPTH);
    assert_eq!(ways, 26_u64.pow(DEPTH), "all of them");
}

#[test]
fn the_same_holds_for_all_that_can_follow_an_expiry() {
    let beginnings = [
        &[Act::Attach(1), Act::Expires][..],
        &[Act::Attach(1), Act::ExpiresPauses, Act::Resumed],
        &[Act::AttachPaused, Act::Resumed],
    ];
    for beginning in beginnings {
        let mut vm = Vm::new(0);
        let mut past = Vec::new();
        for act in beginning {
            let ns = past.last().map_or(0, |(at, _)| *at) + act.takes();
            let wall = Timestamp(ns / 1_000);
            for input in act.inputs() {
                let _ = vm.step(Moment { ns, wall }, input, &Rules::default());
            }
            past.push((ns, *act));
        }
        let ways = walk(&vm, &mut past, true, DEPTH);
        assert_eq!(ways, 26_u64.pow(DEPTH), "{beginning:?}");
    }
}

/// What a domain of Xen's tells when these things happen to it one after the other.
fn of_domain(inputs: &[(Nanoseconds, Input)]) -> (Vec<&'static str>, Vm) {
    let rules = Rules::default();
    let mut vm = Vm::new(0);
    let (mut now, mut told) = (0, Vec::new());
    for (after, input) in inputs {
        now += after;
        let wall = Timestamp(now / 1_000);
        for outcome in vm.step(Moment { ns: now, wall }, *input, &rules) {
            if let Outcome::Event(kind) = outcome {
                told.push(kind.kind());
            }
        }
        vm.domid = 3;
    }
    (told, vm)
}

#[test]
fn a_domain_of_xens_that_reboots_is_started_once_and_keeps_its_alarm() {
    let attached = |pid| {
        Input::Attached(
            Some(Process { pid, started: 7 }),
            Status::from_word("running"),
        )
    };
    let story = [
        (STEP, attached(1)),
        (STEP, Input::Armed),
        (STEP, expired(false, false, false)),
        // QEMU resets its devices, then its toolstack ends it and starts another.
        (STEP, reset(Reset::Guest)),
        (STEP, Input::Ending(Cause::Destroyed)),
        (STEP, Input::Detached),
        (STEP, Input::Gone),
        (STEP, attached(2)),
        (STEP, reset(Reset::Guest)),
        (STEP, Input::Ending(Cause::Destroyed)),
        (STEP, Input::Detached),
        (STEP, attached(3)),
    ];
    let (told, vm) = of_domain(&story);
    let rebooted = ["guest.gone", "guest.rebooted"];
    let expected = [&["alarm.raised"][..], &rebooted, &rebooted].concat();
    assert_eq!(told, expected);
    assert!(vm.lifecycle.alarm.is_some(), "nobody has fed");
    // Whoever destroys it later, or after it has done something, means just that.
    let soon = (STEP, Input::Tick);
    let later = [
        (soon, Cause::Watchdog),
        ((60_000 * MS, Input::Tick), Cause::Destroyed),
        ((STEP, Input::Armed), Cause::Destroyed),
    ];
    for (then, cause) in later {
        let mut story = story[..4].to_vec();
        let ending = Input::Ending(Cause::Destroyed);
        story.extend([then, (STEP, ending)]);
        story.extend([(STEP, Input::Detached), (STEP, Input::Gone)]);
        let (_, vm) = of_domain(&story);
        assert_eq!(vm.lifecycle.state, DomainState::Gone(cause), "{then:?}");
    }
}
