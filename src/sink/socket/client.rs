// SPDX-License-Identifier: GPL-2.0-only
//! One client of the event socket: what it asked, what waits to be read by it.
//!
//! In: bytes that may be anything, events. Out: lines. Nothing here waits; what a client
//! can make the monitor hold is its request ([`MAX_REQUEST`]) and its queue
//! ([`MAX_QUEUED`]).

use super::kept::Kept;
use crate::control::client_pool;
use crate::control::protocol::line;
use crate::event::Event;
use crate::event::kind::is_known;
use crate::event::request::{Notice, Subscription};
use nix::poll::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest request with its line break, bytes.
pub const MAX_REQUEST: usize = 1024;
/// Bytes that may wait for a client.
pub const MAX_QUEUED: usize = 256 * 1024;
/// A replay adds to the queue up to here, and leaves the rest of it to new events.
const REPLAY_QUEUED: usize = 64 * 1024;
/// How long a client may take for its request, or to read why it is refused.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// How long one that was too slow may take to read that it is dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client whose socket is full may read nothing at all.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

impl client_pool::Client for Client {
    fn uid(&self) -> u32 {
        self.uid
    }

    fn is_idle(&self) -> bool {
        matches!(self.state, State::Asking { .. })
    }

    /// What comes after the request is left in the socket: there is nothing more to ask.
    fn poll_fd(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        if self.is_idle() && !self.silent {
            flags |= PollFlags::POLLIN;
        }
        if !self.queue.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        PollFd::new(self.stream.as_fd(), flags)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

enum State {
    /// It has not asked yet.
    Asking { request: Vec<u8> },
    /// It gets kept events from the number on.
    Replaying { wanted: Subscription, from: u64 },
    /// It gets new events.
    Following { wanted: Subscription },
    /// It gets what is queued, and that is all; soon, if it is refused or dropped.
    Ending { soon: bool },
}

struct Line {
    /// None for a notice.
    seq: Option<u64>,
    text: Arc<[u8]>,
}

/// A client.
pub struct Client {
    stream: UnixStream,
    /// The peer's user.
    uid: u32,
    state: State,
    queue: VecDeque<Line>,
    /// Bytes in the queue.
    queued: usize,
    /// Bytes of the first line that are written.
    written: usize,
    /// When it is given up, unless it makes progress.
    deadline: Option<Instant>,
    /// It has closed its end, or reading failed: nothing more comes.
    silent: bool,
}

impl Client {
    /// A new one, of the user `uid`, of which a request is expected. The stream must not
    /// block.
    pub fn new(stream: UnixStream, uid: u32) -> Self {
        Self {
            stream,
            uid,
            state: State::Asking {
                request: Vec::new(),
            },
            queue: VecDeque::new(),
            queued: 0,
            written: 0,
            deadline: Some(Instant::now() + TIMEOUT),
            silent: false,
        }
    }

    /// Ends it at once, in favour of a new one. It is told so if its socket has room. Gives
    /// how many events it loses that waited for it.
    pub fn give_way(mut self) -> u64 {
        let unread = self.cut_off();
        let lost = self.lost_with(&unread);
        let why = "gave way to a newer subscriber: all places are taken, and most by this user";
        self.push_notice(&Notice::Error(why.to_owned()));
        self.write(Instant::now());
        lost
    }

    /// Whether kept events may be on their way to it.
    pub fn is_replaying(&self) -> bool {
        matches!(self.state, State::Replaying { .. }) && self.queue.is_empty()
    }

    /// Reads what there is of the request and acts on it once it is whole.
    pub fn read_request(&mut self, kept: &Kept) {
        let State::Asking { request } = &mut self.state else {
            return;
        };
        if self.silent {
            return;
        }
        let mut bytes = [0; MAX_REQUEST];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.silent = true,
            Ok(n) => request.extend(bytes.iter().take(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => self.silent = true,
        }
        let end = request.iter().position(|b| *b == b'\n');
        match end {
            Some(end) if end < MAX_REQUEST => {
                request.truncate(end);
                let request = std::mem::take(request);
                match understand(&request) {
                    Ok(wanted) => self.begin(wanted, kept),
                    Err(why) => self.refuse(why),
                }
            }
            Some(_) => self.refuse(too_long()),
            None if request.len() >= MAX_REQUEST => self.refuse(too_long()),
            None => {}
        }
    }

    fn refuse(&mut self, why: String) {
        self.push_notice(&Notice::Error(why));
        self.end(TIMEOUT);
    }

    fn begin(&mut self, wanted: Subscription, kept: &Kept) {
        self.deadline = None;
        let asks = wanted.since_seq.is_some() || wanted.since_time.is_some();
        let oldest = kept.oldest();
        // Where the oldest kept event is one of those that were asked for by number or
        // time, there may have been others before it; the first event of all is 1.
        let reaches_back = kept.first().is_none_or(|event| wanted.replays(&event));
        if asks && reaches_back && oldest > wanted.since_seq.unwrap_or(0).max(1) {
            self.push_notice(&Notice::ReplayBeginsAt(oldest));
        }
        let from = if asks {
            oldest.max(wanted.since_seq.unwrap_or(0))
        } else {
            kept.next_seq()
        };
        self.state = State::Replaying { wanted, from };
    }

    /// Moves kept events into the queue, as far as there is room. Gives how many events
    /// the client lost because the next one is no longer kept.
    pub fn replay(&mut self, kept: &Kept) -> u64 {
        let State::Replaying { wanted, from } = &mut self.state else {
            return 0;
        };
        if *from < kept.oldest() {
            let (first, lost) = (*from, kept.oldest() - *from);
            self.push_notice(&Notice::DroppedFrom(first));
            self.end(DROP_TIMEOUT);
            return lost;
        }
        let mut lines = Vec::new();
        let mut queued = self.queued;
        for event in kept.since(*from) {
            if queued >= REPLAY_QUEUED {
                break;
            }
            *from = event.seq.saturating_add(1);
            if wanted.replays(&event) && wanted.wants(&event) {
                let text: Arc<[u8]> = line(event.as_ref()).into();
                queued += text.len();
                lines.push(Line {
                    seq: Some(event.seq),
                    text,
                });
            }
        }
        let complete = *from >= kept.next_seq() || kept.since(*from).next().is_none();
        let wanted = complete.then(|| std::mem::take(wanted));
        for line in lines {
            self.push(line);
        }
        match wanted {
            Some(wanted) if wanted.follow => self.state = State::Following { wanted },
            Some(_) => self.state = State::Ending { soon: false },
            None => {}
        }
        0
    }

    /// Queues a new event for one who follows; `text` is its line once somebody needed it.
    /// Gives how many events the client lost because its queue is full.
    pub fn tell(&mut self, event: &Event, text: &mut Option<Arc<[u8]>>) -> u64 {
        match &self.state {
            State::Following { wanted } if wanted.wants(event) => {}
            _ => return 0,
        }
        let text = text.get_or_insert_with(|| line(event).into());
        if self.queued + text.len() <= MAX_QUEUED {
            self.push(Line {
                seq: Some(event.seq),
                text: Arc::clone(text),
            });
            return 0;
        }
        self.drop_from(event.seq)
    }

    /// Gives up on one that reads too slowly: it keeps the line that it has begun to read,
    /// and gets the number of the first event that it lost.
    fn drop_from(&mut self, seq: u64) -> u64 {
        let lost = self.cut_off();
        let mut numbers = lost.iter().filter_map(|line| line.seq).chain([seq]);
        let first = numbers.next().unwrap_or(seq);
        let count = 1 + numbers.count();
        self.queued = self.queue.iter().map(|line| line.text.len()).sum();
        self.push_notice(&Notice::DroppedFrom(first));
        self.end(DROP_TIMEOUT);
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    fn push_notice(&mut self, notice: &Notice) {
        let text = line(notice).into();
        self.push(Line { seq: None, text });
    }

    fn push(&mut self, line: Line) {
        self.queued += line.text.len();
        self.queue.push_back(line);
    }

    fn end(&mut self, within: Duration) {
        self.state = State::Ending { soon: true };
        self.deadline = Some(Instant::now() + within);
    }

    /// Writes as far as it goes without waiting. Once the client is done with: how many
    /// events it lost because it did not read at all.
    pub fn write(&mut self, now: Instant) -> Option<u64> {
        while let Some(line) = self.queue.front() {
            let rest = line.text.get(self.written..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(n) => self.progress(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let deadline = self.deadline.get_or_insert(now + STALL_TIMEOUT);
                    return (now >= *deadline).then(|| self.unread());
                }
                // It went away by itself.
                Err(_) => return Some(0),
            }
        }
        let done = match self.state {
            State::Ending { .. } => true,
            State::Asking { .. } => self.silent || self.deadline.is_some_and(|d| now >= d),
            State::Replaying { .. } => false,
            State::Following { .. } => self.hung_up(),
        };
        done.then_some(0)
    }

    /// Takes all lines but one that was begun: that one it may get yet.
    fn cut_off(&mut self) -> VecDeque<Line> {
        let begun = usize::from(self.written > 0);
        self.queue.split_off(begun.min(self.queue.len()))
    }

    /// Events in the queue that nobody has counted as lost.
    fn unread(&self) -> u64 {
        self.lost_with(&self.queue)
    }

    /// Events among these lines of its queue that nobody has counted as lost.
    fn lost_with(&self, lines: &VecDeque<Line>) -> u64 {
        if matches!(self.state, State::Ending { soon: true }) {
            return 0;
        }
        let events = lines.iter().filter(|line| line.seq.is_some()).count();
        u64::try_from(events).unwrap_or(u64::MAX)
    }

    fn progress(&mut self, bytes: usize) {
        self.written += bytes;
        if !matches!(self.state, State::Ending { soon: true }) {
            self.deadline = None;
        }
        let length = self.queue.front().map_or(0, |line| line.text.len());
        if self.written >= length {
            self.queue.pop_front();
            self.queued = self.queued.saturating_sub(length);
            self.written = 0;
        }
    }

    /// Whether the peer is gone altogether; one that only says nothing more still reads.
    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let found = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO);
        let [fd] = fds;
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        found.is_ok() && fd.revents().is_some_and(|flags| flags.intersects(gone))
    }
}

fn too_long() -> String {
    format!("the request is longer than {MAX_REQUEST} bytes")
}

fn understand(request: &[u8]) -> Result<Subscription, String> {
    // serde takes an array of the fields in their order as well; nobody may rely on that.
    if !request.trim_ascii_start().starts_with(b"{") {
        return Err("the request is no subscription: it must be a JSON object".to_owned());
    }
    let wanted: Subscription = serde_json::from_slice(request)
        .map_err(|error| format!("the request is no subscription: {error}"))?;
    match wanted.kinds.iter().find(|kind| !is_known(kind)) {
        Some(kind) => Err(format!(
            "unknown kind {kind:?}: see xenwarden-events(7); a beginning must end with a dot"
        )),
        None => Ok(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_line_that_was_begun_is_not_lost_to_whoever_gives_way() {
        for (written, lost) in [(0, 2), (3, 1)] {
            let (stream, mut peer) = UnixStream::pair().expect("a pair");
            stream.set_nonblocking(true).expect("a socket");
            let mut client = Client::new(stream, 0);
            for (seq, text) in [(1, b"first\n".as_slice()), (2, b"second\n")] {
                client.push(Line {
                    seq: Some(seq),
                    text: text.into(),
                });
            }
            client.written = written;
            assert_eq!(client.give_way(), lost);
            let mut got = String::new();
            peer.read_to_string(&mut got).expect("text");
            assert_eq!(got.contains("st\n"), written > 0, "{got}");
            assert!(!got.contains("second"), "{got}");
        }
    }
}
