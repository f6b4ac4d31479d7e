// SPDX-License-Identifier: GPL-2.0-only
//! What counts as a pulse on a connection.
//!
//! In: a connection's bytes. Out: what they are worth under the configured protocol. Promises: as
//! its decoders: bounded memory, and the same for any splitting. Never: an end of listening, whatever comes.

use super::frame::{Decoder, Frame, Sealed};
use super::notify::Lines;
use std::str::FromStr;

/// How a node is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Recognises AWD's frames and answers them; any other byte refreshes as well.
    Auto,
    /// Only AWD's frames refresh.
    Awd,
    /// Only sealed frames do, and each only as far as its seal proves.
    Sealed,
    /// Lines `WATCHDOG=1`.
    Notify,
    /// Any byte.
    Any,
}

impl Protocol {
    /// Its name in configurations and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Awd => "awd",
            Self::Sealed => "awd+psk",
            Self::Notify => "notify",
            Self::Any => "any",
        }
    }

    /// Whether pulses are sent to the peer, too. A guest's console is spoken to by nobody who was not
    /// told to speak AWD there.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::Auto | Self::Awd | Self::Sealed)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Awd, Self::Sealed, Self::Notify, Self::Any];
        let found = all.into_iter().find(|protocol| protocol.name() == word);
        found.ok_or_else(|| "must be auto, awd, awd+psk, notify or any".to_owned())
    }
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A pulse that the peer may expect an answer to.
    Pulse,
    /// An answer to ours.
    Reply,
    /// A frame with a seal.
    Sealed(Sealed),
    /// A frame without one where only sealed frames count.
    Plain,
    /// What refreshes by being there: a notify line, or any byte. Told once for each chunk.
    Sign,
}

/// Reads a connection's bytes.
#[derive(Clone, Debug)]
pub struct Reader {
    protocol: Protocol,
    frames: Decoder,
    lines: Lines,
}

impl Reader {
    /// For a new connection.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            frames: Decoder::default(),
            lines: Lines::default(),
        }
    }

    /// Hands on what is in `bytes`.
    pub fn take(&mut self, bytes: &[u8], mut heard: impl FnMut(Heard)) {
        match self.protocol {
            Protocol::Any => {
                if !bytes.is_empty() {
                    heard(Heard::Sign);
                }
            }
            Protocol::Notify => {
                for byte in bytes {
                    if self.lines.take(*byte) {
                        heard(Heard::Sign);
                    }
                }
            }
            Protocol::Auto => {
                if !bytes.is_empty() {
                    heard(Heard::Sign);
                }
                self.frames.take_all(bytes, |frame| match frame {
                    Frame::Pulse => heard(Heard::Pulse),
                    Frame::Reply => heard(Heard::Reply),
                    // Without a key a seal says no more than any other bytes.
                    Frame::Sealed(_) => {}
                });
            }
            Protocol::Awd | Protocol::Sealed => {
                let sealed = self.protocol == Protocol::Sealed;
                self.frames.take_all(bytes, |frame| match frame {
                    Frame::Pulse | Frame::Reply if sealed => heard(Heard::Plain),
                    Frame::Pulse => heard(Heard::Pulse),
                    Frame::Reply => heard(Heard::Reply),
                    Frame::Sealed(frame) if sealed => heard(Heard::Sealed(frame)),
                    Frame::Sealed(_) => {}
                });
            }
        }
    }

    /// Bytes so far that were part of no frame.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        self.frames.garbage()
    }
}
