// SPDX-License-Identifier: GPL-2.0-only
//! What the guard page's words mean: each value to words, and back as far as they are one.

use super::{Counters, ENTRY, Entry, EntryKind, INFO, Info, Phase, STATUS, Status, Vitals};
use crate::config::leases::LeaseName;
use crate::event::Coverage;
use crate::guard::evidence::{Unknown, Work};
use crate::guard::gate::{Decision, Reason};
use crate::guard::histogram::Histogram;
use crate::sys::clock::Monotonic;

/// Bytes of the texts in the info.
const DEVICE: usize = 128;
const IDENTITY: usize = 32;
const WEAKNESS: usize = 256;

fn text_words(text: &[u8], bytes: usize) -> impl Iterator<Item = u64> + '_ {
    // The last byte stays zero.
    let shown = text.get(..text.len().min(bytes - 1)).unwrap_or_default();
    (0..bytes / 8).map(move |n| {
        let mut word = [0; 8];
        let part = shown.get(n * 8..).unwrap_or_default();
        word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    })
}

/// The text up to its zero, word by word: whoever reads the page looks at it each second.
fn text(words: &[u64]) -> String {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    for word in words.iter().map(|word| word.to_le_bytes()) {
        let end = word.iter().position(|byte| *byte == 0);
        bytes.extend_from_slice(word.get(..end.unwrap_or(word.len())).unwrap_or_default());
        if end.is_some() {
            break;
        }
    }
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

const INFO_WORDS: usize = INFO.1 - 1;
const STATUS_WORDS: usize = STATUS.1 - 1;
const ENTRY_WORDS: usize = ENTRY - 1;

/// Where the status has what is told before each kick.
pub(super) const LOOKED: usize = 1;
pub(super) const SERVED: usize = 7;

pub(super) fn encode_info(info: &Info) -> [u64; INFO_WORDS] {
    let numbers = [
        u64::from(info.pid),
        info.started.0,
        info.timeout_ns,
        info.latest_ns,
        info.period_ns,
        u64::from(info.coverage == Coverage::Full),
    ];
    let device = info.device.as_os_str().as_encoded_bytes();
    let texts = text_words(device, DEVICE)
        .chain(text_words(info.identity.as_bytes(), IDENTITY))
        .chain(text_words(info.weakness.as_bytes(), WEAKNESS))
        .chain([u64::from(info.xen_slot)]);
    let mut words = [0; INFO_WORDS];
    words
        .iter_mut()
        .zip(numbers.into_iter().chain(texts))
        .for_each(|(to, from)| *to = from);
    words
}

pub(super) fn decode_info(words: &[u64; INFO_WORDS]) -> Option<Info> {
    let (numbers, texts) = words.split_at_checked(6)?;
    let &[pid, started, timeout_ns, latest_ns, period_ns, full] = numbers else {
        return None;
    };
    let (device, texts) = texts.split_at_checked(DEVICE / 8)?;
    let (identity, texts) = texts.split_at_checked(IDENTITY / 8)?;
    let (weakness, last) = texts.split_at_checked(WEAKNESS / 8)?;
    Some(Info {
        pid: u32::try_from(pid).ok()?,
        started: Monotonic(started),
        device: text(device).into(),
        identity: text(identity),
        timeout_ns,
        latest_ns,
        period_ns,
        coverage: if full == 1 {
            Coverage::Full
        } else {
            Coverage::Partial
        },
        xen_slot: last.first() == Some(&1),
        weakness: text(weakness),
    })
}

pub(super) fn decode_vitals(words: &[u64; INFO_WORDS], status: Status) -> Option<Vitals> {
    let &[pid, _, _, latest_ns, ..] = words;
    Some(Vitals {
        pid: u32::try_from(pid).ok()?,
        latest_ns,
        status,
    })
}

pub(super) fn encode_status(status: &Status) -> [u64; STATUS_WORDS] {
    let [decision, a, b] = encode_decision(status.decision);
    let [excused, who] = status.excused.map_or([0, 0], encode_work);
    let counters = &status.counters;
    let values = [
        status.phase as u64,
        status.looked.0,
        decision,
        a,
        b,
        status.since.0,
        status.last_kick.0,
        status.served.0,
        excused,
        who,
        status.entries,
        counters.looks,
        counters.kicks,
        counters.refused,
        counters.withholds,
        counters.max_gap_ns,
        counters.max_look_ns,
        counters.max_kick_ns,
        counters.minor_faults,
        counters.major_faults,
    ];
    let ignored = status.ignored.map_or(Decision::Kick, Decision::Withhold);
    let inhibited = status.inhibited.map_or(0, |until| until.0);
    let [ignored, c, d] = encode_decision(ignored);
    let mut words = [0; STATUS_WORDS];
    let mut to = words.iter_mut();
    // Before each sleep of the guard: loops over arrays, which are cheap.
    put(&mut to, values);
    for histogram in [&counters.late, &counters.kick_took] {
        put(&mut to, histogram.counts);
        put(&mut to, [histogram.sum_ns]);
    }
    put(&mut to, [inhibited, ignored, c, d, status.answered.0]);
    words
}

/// Writes these values into the next words.
fn put<const N: usize>(to: &mut std::slice::IterMut<'_, u64>, values: [u64; N]) {
    for (value, to) in values.into_iter().zip(to) {
        *to = value;
    }
}

pub(super) fn decode_status(words: &[u64; STATUS_WORDS]) -> Option<Status> {
    let &[
        phase,
        looked,
        decision,
        a,
        b,
        since,
        last_kick,
        served,
        excused,
        who,
        entries,
        ref rest @ ..,
    ] = words;
    let &[
        looks,
        kicks,
        refused,
        withholds,
        max_gap_ns,
        max_look_ns,
        max_kick_ns,
        minor_faults,
        major_faults,
        ref histograms @ ..,
    ] = rest;
    let (late, histograms) = histograms.split_first_chunk()?;
    let (kick_took, last) = histograms.split_first_chunk()?;
    let &[inhibited, ignored, c, d, answered, ..] = last else {
        return None;
    };
    Some(Status {
        phase: match phase {
            0 => Phase::Starting,
            1 => Phase::Armed,
            2 => Phase::Stopping,
            3 => Phase::Disarmed,
            4 => Phase::StillArmed,
            5 => Phase::Kept,
            6 => Phase::Shutdown,
            _ => return None,
        },
        looked: Monotonic(looked),
        decision: decode_decision([decision, a, b])?,
        since: Monotonic(since),
        last_kick: Monotonic(last_kick),
        served: Monotonic(served),
        answered: Monotonic(answered),
        excused: decode_work(excused, who),
        inhibited: (inhibited != 0).then_some(Monotonic(inhibited)),
        ignored: match decode_decision([ignored, c, d])? {
            Decision::Kick => None,
            Decision::Withhold(reason) => Some(reason),
        },
        entries,
        counters: Counters {
            looks,
            kicks,
            refused,
            withholds,
            max_gap_ns,
            max_look_ns,
            max_kick_ns,
            minor_faults,
            major_faults,
            late: Histogram::from_words(late),
            kick_took: Histogram::from_words(kick_took),
        },
    })
}

fn encode_work(work: Work) -> [u64; 2] {
    match work {
        Work::GuestWatchdog { domid, slot } => [1, u64::from(domid) << 8 | u64::from(slot)],
        Work::PcpuTimers(cpu) => [2, u64::from(cpu)],
        Work::PcpuScheduler(cpu) => [3, u64::from(cpu)],
        Work::PcpuStarving { cpu, domid, vcpu } => {
            let who = u64::from(domid) << 32 | u64::from(vcpu) << 48;
            [4, u64::from(cpu) | who]
        }
        Work::Vcpu(vcpu) => [5, u64::from(vcpu)],
        Work::Probe(cpu) => [6, u64::from(cpu)],
    }
}

fn decode_work(kind: u64, who: u64) -> Option<Work> {
    let cpu = || u32::try_from(who).ok();
    Some(match kind {
        1 => {
            let [slot, ..] = who.to_le_bytes();
            let domid = u16::try_from(who >> 8).ok()?;
            Work::GuestWatchdog { domid, slot }
        }
        2 => Work::PcpuTimers(cpu()?),
        3 => Work::PcpuScheduler(cpu()?),
        4 => {
            let [a, b, c, d, e, f, g, h] = who.to_le_bytes();
            Work::PcpuStarving {
                cpu: u32::from_le_bytes([a, b, c, d]),
                domid: u16::from_le_bytes([e, f]),
                vcpu: u16::from_le_bytes([g, h]),
            }
        }
        5 => Work::Vcpu(cpu()?),
        6 => Work::Probe(cpu()?),
        _ => return None,
    })
}

fn errno_word(errno: i32) -> u64 {
    u64::from(errno.unsigned_abs())
}

fn errno_of(word: u64) -> Option<i32> {
    i32::try_from(word).ok()
}

/// A lapsed lease, below the time for which it is overdue; the other words are its name.
const LEASE: u64 = 32;

fn encode_decision(decision: Decision) -> [u64; 3] {
    match decision {
        Decision::Kick => [0, 0, 0],
        Decision::Withhold(Reason::Lagging { work, overdue_ns }) => {
            let [kind, who] = encode_work(work);
            [kind, who, overdue_ns]
        }
        Decision::Withhold(Reason::Lease { name, overdue_ns }) => {
            // 2^56 ns are two years.
            let [low, high] = name.words();
            [LEASE | overdue_ns << 8, low, high]
        }
        Decision::Withhold(Reason::Unknown(why)) => match why {
            Unknown::Unproven { cpu } => [16, u64::from(cpu), 0],
            Unknown::NoPcpu => [17, 0, 0],
            Unknown::NoCanaries => [18, 0, 0],
            Unknown::Stale { age_ns } => [20, age_ns, 0],
            Unknown::UnprovenVcpu { vcpu } => [21, u64::from(vcpu), 0],
            Unknown::NoVcpu => [22, 0, 0],
            Unknown::Leases { age_ns } => [23, age_ns, 0],
        },
    }
}

fn decode_decision([kind, a, overdue_ns]: [u64; 3]) -> Option<Decision> {
    let why = match kind {
        0 => return Some(Decision::Kick),
        1..16 => {
            let work = decode_work(kind, a)?;
            return Some(Decision::Withhold(Reason::Lagging { work, overdue_ns }));
        }
        16 => Unknown::Unproven {
            cpu: u32::try_from(a).ok()?,
        },
        17 => Unknown::NoPcpu,
        18 => Unknown::NoCanaries,
        20 => Unknown::Stale { age_ns: a },
        21 => Unknown::UnprovenVcpu {
            vcpu: u32::try_from(a).ok()?,
        },
        22 => Unknown::NoVcpu,
        23 => Unknown::Leases { age_ns: a },
        _ if kind & 0xff == LEASE => {
            let name = LeaseName::from_words([a, overdue_ns])?;
            let overdue_ns = kind >> 8;
            return Some(Decision::Withhold(Reason::Lease { name, overdue_ns }));
        }
        _ => return None,
    };
    Some(Decision::Withhold(Reason::Unknown(why)))
}

pub(super) fn encode_kind(kind: EntryKind) -> [u64; 4] {
    match kind {
        EntryKind::Armed => [1, 0, 0, 0],
        EntryKind::Withhold(reason) => {
            let [a, b, c] = encode_decision(Decision::Withhold(reason));
            [2, a, b, c]
        }
        EntryKind::Resume => [3, 0, 0, 0],
        EntryKind::Excused(work) => {
            let [a, b] = encode_work(work);
            [4, a, b, 0]
        }
        EntryKind::Refused { errno, count } => [5, errno_word(errno), count, 0],
        EntryKind::Taken { refused } => [6, refused, 0, 0],
        EntryKind::Disarmed => [7, 0, 0, 0],
        EntryKind::DisarmFailed { errno, within_s } => {
            [8, errno_word(errno), u64::from(within_s), 0]
        }
        EntryKind::TakenOver => [9, 0, 0, 0],
        EntryKind::Inhibited { until } => [11, until.0, 0, 0],
        EntryKind::InhibitEnded { early } => [12, u64::from(early), 0, 0],
        EntryKind::Ignored(reason) => {
            let [a, b, c] = encode_decision(Decision::Withhold(reason));
            [13, a, b, c]
        }
        EntryKind::Kept { after_s } => [10, u64::from(after_s), 0, 0],
        EntryKind::Shutdown { within_s } => [14, u64::from(within_s), 0, 0],
    }
}

pub(super) fn decode_entry(words: &[u64; ENTRY_WORDS]) -> Option<Entry> {
    let &[number, at, last_kick, tag, a, b, c] = words;
    let kind = match tag {
        1 => EntryKind::Armed,
        2 => match decode_decision([a, b, c])? {
            Decision::Withhold(reason) => EntryKind::Withhold(reason),
            Decision::Kick => return None,
        },
        3 => EntryKind::Resume,
        4 => EntryKind::Excused(decode_work(a, b)?),
        5 => EntryKind::Refused {
            errno: errno_of(a)?,
            count: b,
        },
        6 => EntryKind::Taken { refused: a },
        7 => EntryKind::Disarmed,
        8 => EntryKind::DisarmFailed {
            errno: errno_of(a)?,
            within_s: u32::try_from(b).ok()?,
        },
        9 => EntryKind::TakenOver,
        11 => EntryKind::Inhibited {
            until: Monotonic(a),
        },
        12 => EntryKind::InhibitEnded { early: a != 0 },
        13 => match decode_decision([a, b, c])? {
            Decision::Withhold(reason) => EntryKind::Ignored(reason),
            Decision::Kick => return None,
        },
        10 => EntryKind::Kept {
            after_s: u32::try_from(a).ok()?,
        },
        14 => EntryKind::Shutdown {
            within_s: u32::try_from(a).ok()?,
        },
        _ => return None,
    };
    Some(Entry {
        number,
        at: Monotonic(at),
        last_kick: Monotonic(last_kick),
        kind,
    })
}
