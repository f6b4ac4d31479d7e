// SPDX-License-Identifier: GPL-2.0-only
//! Sealed frames: pulses that nobody can forge or replay without the pre-shared key.
//!
//! In: a key, the moments at which frames are sent, sealed frames as they came. Out: frames to
//! send; for each frame that came, since when it proves that the peer lived, or why it is refused.
//! Promises: a frame proves life only as of a pulse of ours that the peer had heard when it sent
//! it; bounded memory; nothing is stored between runs. Never: a frame without a right seal, of
//! our own making, or heard before, taken for a pulse.
//!
//! Each frame carries its sender's session (random, of this run), its number in it, and the session
//! and the number that the sender heard last of its peer. So a frame answers for the moment at which
//! the frame was sent that it echoes, and for no later one: a recording proves nothing new, however
//! soon it is played back, and where only one direction is cut both sides miss their echo.
//! doc/awd-protocol.md is the layout.

pub use super::key::Key;

use super::frame::{SEALED_HEAD, SEALED_LENGTH, Sealed};
use hmac::Mac;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};

/// Moments of sending that are kept within a timeout.
const MOMENTS: u64 = 64;
/// Sessions that gave way to others, of which the last number is kept: more than there are runs of
/// a peer within one timeout. Of an older one a recording echoes nothing that is recent enough.
const FORMER: usize = 16;
/// Bytes before the seal.
const SEALED_PART: usize = SEALED_LENGTH - 32;

/// A run of one side: random, never zero.
pub type Session = [u8; 16];

/// A session's name that no other run has. Blocks only before the kernel has any randomness.
///
/// # Errors
/// The errno of reading /dev/urandom.
pub fn new_session() -> io::Result<Session> {
    let mut session = Session::default();
    while session == Session::default() {
        File::open("/dev/urandom")?.read_exact(&mut session)?;
    }
    Ok(session)
}

/// What a frame is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A pulse: it is answered.
    Pulse,
    /// The answer to one: it is not answered.
    Reply,
}

/// Why a frame is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The seal is not that of this key and this heartbeat's name.
    Seal,
    /// It was sent from our own end, or from another with the same role.
    Role,
    /// It is not newer than what was heard before in its session.
    Old,
}

/// A frame with a right seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genuine {
    /// What it was sent for.
    pub purpose: Purpose,
    /// The peer lived at this moment or later, ns; none: it proves nothing yet, as it echoes
    /// nothing of this run.
    pub as_of: Option<u64>,
    /// It echoes exactly the pulse that was sent then, ns.
    pub echoed_at: Option<u64>,
    /// It echoes a pulse of ours that is older than the timeout, as it does where the peer does
    /// not hear us any more. It proves nothing, but is to be answered: else two sides that have
    /// not heard each other for a while would never begin anew.
    pub unheard: bool,
}

/// A place in a peer's session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    session: Session,
    number: u64,
}

/// One side of a sealed heartbeat.
#[derive(Clone, Debug)]
pub struct Seal {
    key: Key,
    name: String,
    answers: bool,
    timeout_ns: u64,
    session: Session,
    number: u64,
    /// Numbers of pulses, and when they were sent.
    sent: VecDeque<(u64, u64)>,
    /// The number of the first pulse of all.
    first: Option<u64>,
    /// The last of the peer's session that has proved to live.
    heard: Mark,
    /// The last of a session that has not, which is echoed while none has.
    unproven: Mark,
    /// The sessions before that one, each with the last number that was heard.
    former: VecDeque<Mark>,
}

/// A frame's fields, in the order in which they are laid out.
struct Fields {
    purpose: Purpose,
    answers: bool,
    own: Mark,
    echo: Mark,
}

impl Seal {
    /// A side of the heartbeat `name`; `answers` differs between the two. `session` is
    /// [`new_session`]'s.
    #[must_use]
    pub fn new(key: Key, name: &str, answers: bool, timeout_ns: u64, session: Session) -> Self {
        Self {
            key,
            name: name.to_owned(),
            answers,
            timeout_ns,
            session,
            number: 0,
            sent: VecDeque::new(),
            first: None,
            heard: Mark::default(),
            unproven: Mark::default(),
            former: VecDeque::new(),
        }
    }

    /// The next pulse, sent now (ns).
    pub fn pulse(&mut self, now: u64) -> Sealed {
        let nobody = self.heard == Mark::default();
        let echo = if nobody { self.unproven } else { self.heard };
        let frame = self.frame(Purpose::Pulse, echo);
        self.first.get_or_insert(self.number);
        // An echo of a number counts as of the one kept before it, so that gaps err towards
        // a loss, by a 64th of the timeout.
        let spacing = self.timeout_ns / MOMENTS;
        let last = self.sent.back().map(|(_, at)| *at);
        if last.is_none_or(|last| now.saturating_sub(last) >= spacing) {
            self.sent.push_back((self.number, now));
        }
        self.forget(now);
        frame
    }

    /// The answer to a genuine frame: it echoes just that one.
    pub fn reply(&mut self, to: &Sealed) -> Sealed {
        let echo = fields(to).map(|fields| fields.own).unwrap_or_default();
        self.frame(Purpose::Reply, echo)
    }

    /// Judges a frame that came now (ns).
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(&mut self, frame: &Sealed, now: u64) -> Result<Genuine, Refused> {
        let (signed, seal) = frame.split_at_checked(SEALED_PART).ok_or(Refused::Seal)?;
        let mac = self.key.mac(&self.name, signed).ok_or(Refused::Seal)?;
        mac.verify_slice(seal).map_err(|_| Refused::Seal)?;
        let fields = fields(frame).ok_or(Refused::Seal)?;
        if fields.answers == self.answers || fields.own.session == self.session {
            return Err(Refused::Role);
        }
        let last = self.last_of(fields.own.session).map(|mark| mark.number);
        if last.is_some_and(|last| fields.own.number <= last) {
            return Err(Refused::Old);
        }
        let purpose = fields.purpose;
        let unproven = Genuine {
            purpose,
            as_of: None,
            echoed_at: None,
            unheard: false,
        };
        let known = self.first.unwrap_or(u64::MAX)..=self.number;
        if fields.echo.session != self.session || !known.contains(&fields.echo.number) {
            self.unproven = fields.own;
            return Ok(unproven);
        }
        self.forget(now);
        let kept = self.sent.iter().rev();
        let mut kept = kept.skip_while(|(number, _)| *number > fields.echo.number);
        let Some((number, at)) = kept.next().copied() else {
            // That it was heard is so all the same, and may be echoed.
            match self.last_of(fields.own.session) {
                Some(mark) => *mark = fields.own,
                None => self.unproven = fields.own,
            }
            return Ok(Genuine {
                unheard: true,
                ..unproven
            });
        };
        self.hear(fields.own);
        Ok(Genuine {
            purpose,
            as_of: Some(at),
            echoed_at: (number == fields.echo.number).then_some(at),
            unheard: false,
        })
    }

    /// The last that was heard of a session that proved to live.
    fn last_of(&mut self, session: Session) -> Option<&mut Mark> {
        let known = std::iter::once(&mut self.heard).chain(&mut self.former);
        let mut known = known.filter(|mark| **mark != Mark::default());
        known.find(|mark| mark.session == session)
    }

    /// The peer's last proof of life is this. A session that gave way to another may come back, as
    /// the one that lives does when a second start of the peer has ended, but with nothing that was
    /// heard of it before.
    fn hear(&mut self, own: Mark) {
        let before = std::mem::replace(&mut self.heard, own);
        if before.session == own.session || before == Mark::default() {
            return;
        }
        self.former.retain(|mark| mark.session != own.session);
        self.former.truncate(FORMER - 1);
        self.former.push_front(before);
    }

    /// Pulses that are older than the timeout are echoed by nobody who lives.
    fn forget(&mut self, now: u64) {
        let old = |at: u64| now.saturating_sub(at) >= self.timeout_ns;
        while self.sent.front().is_some_and(|(_, at)| old(*at)) {
            self.sent.pop_front();
        }
    }

    fn frame(&mut self, purpose: Purpose, echo: Mark) -> Sealed {
        self.number = self.number.saturating_add(1);
        let own = Mark {
            session: self.session,
            number: self.number,
        };
        let mut frame = [0; SEALED_LENGTH];
        let purpose = match purpose {
            Purpose::Pulse => 1,
            Purpose::Reply => 2,
        };
        let parts: [&[u8]; 6] = [
            SEALED_HEAD,
            &[purpose, u8::from(self.answers)],
            &own.session,
            &own.number.to_be_bytes(),
            &echo.session,
            &echo.number.to_be_bytes(),
        ];
        put(&mut frame, 0, &parts);
        let signed = frame.get(..SEALED_PART).unwrap_or_default();
        if let Some(mac) = self.key.mac(&self.name, signed) {
            let seal = mac.finalize().into_bytes();
            put(&mut frame, SEALED_PART, &[&seal]);
        }
        frame
    }
}

/// Writes `parts` one after the other from `start`.
fn put(frame: &mut Sealed, start: usize, parts: &[&[u8]]) {
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (place, byte) in frame.iter_mut().skip(start).zip(bytes) {
        *place = *byte;
    }
}

/// The fields, where purpose and role are such as there are.
fn fields(frame: &Sealed) -> Option<Fields> {
    let (_, rest) = frame.split_at_checked(SEALED_HEAD.len())?;
    let (&[purpose, answers], rest) = rest.split_first_chunk()?;
    let (own, rest) = mark(rest)?;
    let (echo, _) = mark(rest)?;
    Some(Fields {
        purpose: match purpose {
            1 => Purpose::Pulse,
            2 => Purpose::Reply,
            _ => return None,
        },
        answers: match answers {
            0 => false,
            1 => true,
            _ => return None,
        },
        own,
        echo,
    })
}

fn mark(bytes: &[u8]) -> Option<(Mark, &[u8])> {
    let (session, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let mark = Mark {
        session: *session,
        number: u64::from_be_bytes(*number),
    };
    Some((mark, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: u64 = 5_000;

    fn side(key: &str, name: &str, answers: bool, session: u8) -> Seal {
        let key = Key::from_bytes(key.into()).expect("a key");
        Seal::new(key, name, answers, TIMEOUT, [session; 16])
    }

    fn pair() -> (Seal, Seal) {
        let key = "0123456789abcdef";
        (side(key, "h", false, 1), side(key, "h", true, 2))
    }

    fn as_of(outcome: Result<Genuine, Refused>) -> Option<u64> {
        outcome.expect("genuine").as_of
    }

    #[test]
    fn a_pulse_proves_life_as_of_the_pulse_that_it_echoes() {
        let (mut a, mut b) = pair();
        let first = a.pulse(100);
        assert_eq!(as_of(b.open(&first, 110)), None, "it has heard nothing yet");
        let reply = b.reply(&first);
        let heard = a.open(&reply, 120).expect("genuine");
        assert_eq!(heard.as_of, Some(100));
        assert_eq!(heard.echoed_at, Some(100));
        assert_eq!(heard.purpose, Purpose::Reply);
        let second = a.pulse(1_100);
        assert_eq!(as_of(b.open(&second, 1_110)), None, "b has sent no pulse");
        let pulse = b.pulse(1_200);
        assert_eq!(as_of(a.open(&pulse, 1_210)), Some(1_100));
        let third = a.pulse(2_100);
        assert_eq!(as_of(b.open(&third, 2_110)), Some(1_200));
        let pulse = b.pulse(2_200);
        assert_eq!(as_of(a.open(&pulse, 2_210)), Some(2_100));
    }

    #[test]
    fn a_recording_proves_nothing_new_even_to_another_run() {
        let (mut a, mut b) = pair();
        let hello = a.pulse(0);
        let reply = b.reply(&hello);
        assert!(a.open(&reply, 10).is_ok());
        assert_eq!(a.open(&reply, 20), Err(Refused::Old));
        // Another run of ours: what the peer said to the former one says nothing to it.
        let mut again = side("0123456789abcdef", "h", false, 3);
        let _ = again.pulse(30);
        assert_eq!(as_of(again.open(&reply, 40)), None);
    }

    #[test]
    fn what_is_said_to_be_heard_must_be_recent() {
        let (mut a, mut b) = pair();
        let hello = a.pulse(0);
        let late = b.reply(&hello);
        assert!(
            a.open(&late, TIMEOUT)
                .is_ok_and(|g| g.unheard && g.as_of.is_none())
        );
        let (mut a, mut b) = pair();
        let hello = a.pulse(0);
        let just = b.reply(&hello);
        assert_eq!(as_of(a.open(&just, TIMEOUT - 1)), Some(0));
    }

    #[test]
    fn a_cut_of_one_direction_ends_the_proofs_of_both() {
        let (mut a, mut b) = pair();
        let mut proved = (0, 0);
        for now in (0..20_000).step_by(1_000) {
            let from_a = a.pulse(now);
            // From 6 s on nothing of a reaches b.
            if now < 6_000 && b.open(&from_a, now).is_ok_and(|g| g.as_of.is_some()) {
                proved.1 = now;
            }
            let from_b = b.pulse(now + 1);
            if let Ok(Genuine {
                as_of: Some(at), ..
            }) = a.open(&from_b, now + 2)
            {
                proved.0 = at;
            }
        }
        assert_eq!(proved, (5_000, 5_000), "no proof is of later than the cut");
        // The cut is over: an answer each way, and both prove to live.
        let from_a = a.pulse(20_000);
        assert_eq!(
            as_of(b.open(&from_a, 20_001)),
            Some(19_001),
            "it heard b all the time"
        );
        let answer = b.reply(&from_a);
        assert_eq!(as_of(a.open(&answer, 20_002)), Some(20_000));
        let from_b = b.pulse(20_003);
        assert_eq!(as_of(a.open(&from_b, 20_004)), Some(20_000));
        let answer = a.reply(&from_b);
        assert_eq!(as_of(b.open(&answer, 20_005)), Some(20_003));
    }

    #[test]
    fn another_key_name_or_role_and_any_changed_bit_are_refused() {
        let (mut a, _) = pair();
        let frame = a.pulse(0);
        assert_eq!(a.open(&frame, 1), Err(Refused::Role), "our own, reflected");
        let mut twin = side("0123456789abcdef", "h", false, 9);
        assert_eq!(twin.open(&frame, 1), Err(Refused::Role));
        let mut other = side("0123456789abcdeF", "h", true, 9);
        assert_eq!(other.open(&frame, 1), Err(Refused::Seal));
        let mut other = side("0123456789abcdef", "g", true, 9);
        assert_eq!(other.open(&frame, 1), Err(Refused::Seal));
        let (_, mut b) = pair();
        for bit in 0..SEALED_LENGTH * 8 {
            let mut changed = frame;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.open(&changed, 1), Err(Refused::Seal), "{bit}");
        }
    }

    #[test]
    fn a_second_start_of_the_peer_does_not_lock_out_the_one_that_lives() {
        let (mut a, mut lives) = pair();
        let mut second = side("0123456789abcdef", "h", true, 4);
        let hello = a.pulse(0);
        let kept = lives.reply(&hello);
        assert!(a.open(&kept, 1).is_ok());
        assert_eq!(as_of(a.open(&second.reply(&hello), 2)), Some(0));
        assert_eq!(a.open(&kept, 3), Err(Refused::Old), "a recording");
        let next = a.pulse(1_000);
        let more = lives.reply(&next);
        assert_eq!(as_of(a.open(&more, 1_001)), Some(1_000));
        for replayed in [&kept, &more] {
            assert_eq!(a.open(replayed, 1_002), Err(Refused::Old));
        }
        // It is echoed again, and so hears that it is heard.
        assert!(lives.open(&next, 1_002).is_ok());
        let from_lives = lives.pulse(1_003);
        assert!(a.open(&from_lives, 1_004).is_ok());
        assert_eq!(as_of(lives.open(&a.pulse(1_005), 1_006)), Some(1_003));
    }

    #[test]
    fn no_session_before_the_last_is_replayed_to_displace_the_one_that_lives() {
        let (mut a, _) = pair();
        let hello = a.pulse(0);
        let recorded: Vec<Sealed> = (10..20)
            .map(|session| side("0123456789abcdef", "h", true, session).reply(&hello))
            .collect();
        for frame in &recorded {
            assert_eq!(as_of(a.open(frame, 1)), Some(0));
        }
        let heard = a.heard;
        for frame in recorded.iter().chain(recorded.iter().rev()) {
            assert_eq!(a.open(frame, 2), Err(Refused::Old));
        }
        assert_eq!(a.heard, heard);
    }

    #[test]
    fn what_is_remembered_of_sessions_is_bounded() {
        let (mut a, _) = pair();
        let hello = a.pulse(0);
        for session in 10..100 {
            let mut run = side("0123456789abcdef", "h", true, session);
            assert!(a.open(&run.reply(&hello), 1).is_ok());
            assert!(a.former.len() <= FORMER);
        }
    }

    #[test]
    fn what_is_remembered_of_pulses_is_bounded() {
        let (mut a, mut b) = pair();
        for now in 0..100_000 {
            let frame = a.pulse(now);
            assert!(a.sent.len() <= 66, "{}", a.sent.len());
            let echo = b.reply(&frame);
            assert!(as_of(a.open(&echo, now)).is_some_and(|at| now - at <= TIMEOUT / 60));
        }
    }
}
