// SPDX-License-Identifier: GPL-2.0-only
//! The frames of QEMU's Advanced Watch Dog, and the sealed frame of our own beside them.
//!
//! In: bytes of a connection, in chunks of any size. Out: the frames that are in them, and how many
//! bytes belong to none. Promises: the same for any splitting into chunks; no more memory than
//! the longest frame; after any garbage the next whole frame is found. Never: a length that is
//! believed, or a state in which nothing is recognised any more.
//!
//! A frame is its length, 32 bits, big endian, and so many bytes (qemu-devel, "Introduce
//! Advanced Watch Dog module", V4 of 2019-12-17). Only two texts were ever sent. As each
//! frame is known by its first bytes, the decoder compares, and does not trust the length: what
//! is the beginning of no frame is left out byte by byte. doc/awd-protocol.md is the protocol.

/// What both sides send each interval, with its length.
pub const PULSE: &[u8] = b"\0\0\0\x18advanced-watchdog pulse\0";
/// What is answered to it by the side with `server=off`, with its length.
pub const REPLY: &[u8] = b"\0\0\0\x1eadvanced-watchdog reply pulse\0";
/// What a sealed frame begins with, its length included.
pub const SEALED_HEAD: &[u8] = b"\0\0\0\x62xenwarden-pulse1";
/// A whole sealed frame, bytes.
pub const SEALED_LENGTH: usize = 4 + 98;

/// A sealed frame as it came: not yet known to be genuine.
pub type Sealed = [u8; SEALED_LENGTH];

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// [`PULSE`].
    Pulse,
    /// [`REPLY`].
    Reply,
    /// A frame with a seal, which is to be tried ([`super::psk`]).
    Sealed(Sealed),
}

/// Finds frames in a stream.
#[derive(Clone, Debug)]
pub struct Decoder {
    held: [u8; SEALED_LENGTH],
    length: usize,
    /// Bytes that belonged to no frame.
    garbage: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            held: [0; SEALED_LENGTH],
            length: 0,
            garbage: 0,
        }
    }
}

/// How what is held compares with the frames that there are.
enum Found {
    Whole(Frame),
    Beginning,
    Nothing,
}

impl Decoder {
    /// Takes one byte; the frame that it ends, if it does.
    pub fn take(&mut self, byte: u8) -> Option<Frame> {
        if let Some(place) = self.held.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        while self.length > 0 {
            match self.compare() {
                Found::Whole(frame) => {
                    self.length = 0;
                    return Some(frame);
                }
                Found::Beginning => return None,
                Found::Nothing => self.leave_out_one(),
            }
        }
        None
    }

    /// Takes bytes, and hands each frame to `found`.
    pub fn take_all(&mut self, bytes: &[u8], mut found: impl FnMut(Frame)) {
        for byte in bytes {
            if let Some(frame) = self.take(*byte) {
                found(frame);
            }
        }
    }

    /// Bytes so far that belong to no frame; those that may still become one are not counted.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.garbage
    }

    /// Bytes that are held because a frame may begin with them.
    #[must_use]
    pub fn held(&self) -> usize {
        self.length
    }

    fn leave_out_one(&mut self) {
        self.held.copy_within(1.., 0);
        self.length -= 1;
        self.garbage = self.garbage.saturating_add(1);
    }

    fn compare(&self) -> Found {
        let held = self.held.get(..self.length).unwrap_or_default();
        if held == PULSE {
            return Found::Whole(Frame::Pulse);
        }
        if held == REPLY {
            return Found::Whole(Frame::Reply);
        }
        let head = held.get(..SEALED_HEAD.len());
        match head {
            Some(head) if head == SEALED_HEAD && held.len() == SEALED_LENGTH => {
                Found::Whole(Frame::Sealed(self.held))
            }
            Some(head) if head == SEALED_HEAD => Found::Beginning,
            _ if [PULSE, REPLY, SEALED_HEAD]
                .iter()
                .any(|f| f.starts_with(held)) =>
            {
                Found::Beginning
            }
            _ => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> (Vec<Frame>, u64) {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder.take_all(chunk, |frame| frames.push(frame));
        }
        (frames, decoder.garbage())
    }

    #[test]
    fn the_lengths_are_those_of_the_texts() {
        for whole in [PULSE, REPLY] {
            let (length, text) = whole.split_at(4);
            let length = u32::from_be_bytes(length.try_into().expect("four"));
            assert_eq!(usize::try_from(length), Ok(text.len()));
        }
        assert_eq!(SEALED_LENGTH - 4, usize::from(SEALED_HEAD[3]));
    }

    #[test]
    fn frames_are_found_whatever_surrounds_them_and_however_they_are_split() {
        let mut sealed = [7; SEALED_LENGTH];
        sealed[..SEALED_HEAD.len()].copy_from_slice(SEALED_HEAD);
        let stream = [
            b"\0\0\0\0\0\0".as_slice(),
            PULSE,
            b"advanced-watchdog pulse",
            &PULSE[..20],
            REPLY,
            b"\xff\xff\xff\xff",
            &sealed,
            &SEALED_HEAD[..19],
            PULSE,
        ]
        .concat();
        let expected = [
            Frame::Pulse,
            Frame::Reply,
            Frame::Sealed(sealed),
            Frame::Pulse,
        ];
        let (frames, garbage) = decode(&[&stream]);
        assert_eq!(frames, expected);
        assert_eq!(garbage, 6 + 23 + 20 + 4 + 19);
        for size in 1..stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(decode(&chunks), (frames.clone(), garbage), "{size}");
        }
    }

    #[test]
    fn a_length_is_never_waited_for() {
        let mut decoder = Decoder::default();
        let mut frames = 0;
        for length in [0, 1, 23, 25, 97, 98, 99, 0x7fff_ffff, u32::MAX] {
            decoder.take_all(&u32::to_be_bytes(length), |_| frames += 1);
            decoder.take_all(&[0xaa; 200], |_| frames += 1);
        }
        assert_eq!(frames, 0);
        decoder.take_all(PULSE, |_| frames += 1);
        assert_eq!(frames, 1, "not waiting for bytes that never come");
    }
}
