// SPDX-License-Identifier: GPL-2.0-only
//! Whatever a peer sends: the same frames for any splitting into chunks, no more held than the longest
//! frame, every byte accounted for, and the next whole frame always found. And whatever is done to sealed frames on
//! their way: none proves life later than it was sent.
//!
//! Input: an even first byte: the rest is a stream, and the second byte how it is split. An odd one: steps of two sealed
//! sides and of whoever sits between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenwarden::pulse::frame::{Decoder, Frame, PULSE, REPLY, SEALED_HEAD, SEALED_LENGTH, Sealed};
use xenwarden::pulse::protocol::{Heard, Protocol, Reader};
use xenwarden::pulse::psk::{Key, Seal};

const TIMEOUT: u64 = 1_000;

/// Bytes that a frame took.
fn length(frame: &Frame) -> usize {
    match frame {
        Frame::Pulse => PULSE.len(),
        Frame::Reply => REPLY.len(),
        Frame::Sealed(_) => SEALED_LENGTH,
    }
}

fn stream(split: u8, bytes: &[u8]) {
    let mut whole = Decoder::default();
    let mut frames = Vec::new();
    whole.take_all(bytes, |frame| frames.push(frame));
    let mut parts = Decoder::default();
    let mut again = Vec::new();
    for chunk in bytes.chunks(usize::from(split) + 1) {
        parts.take_all(chunk, |frame| again.push(frame));
        assert!(parts.held() < SEALED_LENGTH);
    }
    assert_eq!(frames, again);
    assert_eq!((whole.garbage(), whole.held()), (parts.garbage(), parts.held()));
    let used: usize = frames.iter().map(length).sum();
    let garbage = usize::try_from(whole.garbage()).expect("as many as there are");
    assert_eq!(used + garbage + whole.held(), bytes.len());
    // Not even the beginning of a sealed frame keeps the next one from being found.
    let mut found = 0;
    whole.take_all(&[b'x'; SEALED_LENGTH], |_| {});
    whole.take_all(PULSE, |frame| found += u32::from(frame == Frame::Pulse));
    assert_eq!(found, 1);
    for protocol in [Protocol::Auto, Protocol::Awd, Protocol::Sealed, Protocol::Notify, Protocol::Any] {
        let mut reader = Reader::new(protocol);
        let mut counted = 0;
        for chunk in bytes.chunks(usize::from(split) + 1) {
            reader.take(chunk, |heard| counted += usize::from(heard != Heard::Sign));
        }
        assert!(counted <= bytes.len() / PULSE.len());
    }
}

fn side(answers: bool) -> Seal {
    let key = Key::from_bytes(vec![7; 32]).expect("a key");
    Seal::new(key, "h", answers, TIMEOUT, [u8::from(answers) + 1; 16])
}

/// Frames on their way, each with when it was made and by whom.
fn sealed(steps: &[u8]) {
    let mut sides = [side(false), side(true)];
    let mut made: Vec<(Sealed, u64, usize)> = Vec::new();
    let mut now = 0;
    for step in steps.chunks_exact(2) {
        let [what, which] = *step else { return };
        let by = usize::from(what >> 7);
        match what & 7 {
            0 => now += u64::from(which) * 8,
            1 | 2 => made.push((sides[by].pulse(now), now, by)),
            3 => {
                if let Some((frame, _, _)) = made.get(usize::from(which)).copied() {
                    made.push((sides[by].reply(&frame), now, by));
                }
            }
            4 => {
                let Some((mut frame, _, _)) = made.get(usize::from(which)).copied() else {
                    continue;
                };
                let bit = usize::from(what >> 3 & 15) * 53 % (SEALED_LENGTH * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
                assert!(sides[by].open(&frame, now).is_err(), "a changed frame");
            }
            _ => {
                let Some((frame, at, maker)) = made.get(usize::from(which)).copied() else {
                    continue;
                };
                let Ok(genuine) = sides[by].open(&frame, now) else {
                    continue;
                };
                assert_ne!(maker, by, "its own frame");
                if let Some(as_of) = genuine.as_of {
                    assert!(as_of <= at, "it proves a time after it was made");
                    assert!(now - as_of < TIMEOUT, "it proves a time long ago");
                    assert!(sides[by].open(&frame, now).is_err(), "it proves twice");
                }
            }
        }
        if made.len() > 256 {
            return;
        }
    }
    assert!(made.iter().all(|(frame, _, _)| frame.starts_with(SEALED_HEAD)));
}

fuzz_target!(|data: &[u8]| {
    match data {
        [mode, split, rest @ ..] if mode % 2 == 0 => stream(*split, rest),
        [_, rest @ ..] => sealed(rest),
        [] => {}
    }
});
