// SPDX-License-Identifier: GPL-2.0-only
//! The far end of a unix socket: who it is, and the one line that it asks.
//!
//! In: a connected stream whose peer is not trusted. Out: its credentials as the kernel
//! noted them when it connected, what those allow, and its request once a line is
//! complete. Promises that a peer takes a bounded number of bytes whatever it sends, and
//! that nothing waits for it. Must never take a peer's own word for who it is.

use crate::sys;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// The gid of the group of this name; none where it does not exist. Reads the group
/// database, which may block: for the start, not for each request.
#[must_use]
pub fn gid_of(group: &str) -> Option<u32> {
    let found = nix::unistd::Group::from_name(group).ok().flatten();
    found.map(|group| group.gid.as_raw())
}

/// The uid of the user of this name; none where there is none. Reads the user database, which may
/// block: for the start, not for each request.
#[must_use]
pub fn uid_of(user: &str) -> Option<u32> {
    let found = nix::unistd::User::from_name(user).ok().flatten();
    found.map(|user| user.uid.as_raw())
}

/// Who the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user id.
    pub uid: u32,
    /// It is in the group that was asked about.
    pub in_group: bool,
}

impl Peer {
    /// The peer of `stream`, and whether it is in the group `group` by its primary or a
    /// supplementary group. Does not block.
    ///
    /// # Errors
    /// Those of getsockopt(2); a peer of which nothing is known must be refused.
    pub fn of(stream: &UnixStream, group: Option<u32>) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let in_group = group.is_some_and(|group| {
            // Kernels before 4.13 do not tell the others: then only the primary counts.
            let others = || sys::peer::groups(stream.as_fd()).unwrap_or_default();
            credentials.gid() == group || others().contains(&group)
        });
        Ok(Self {
            uid: credentials.uid(),
            in_group,
        })
    }

    /// Whether it may change something: root only.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.uid == 0
    }

    /// Whether it may ask: root, and the group.
    #[must_use]
    pub fn may_ask(&self) -> bool {
        self.may_change() || self.in_group
    }
}

/// Bytes that one read takes at most.
const CHUNK: usize = 256;

/// How far a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is no whole line yet.
    Waiting,
    /// The line, without its end. What follows it is ignored.
    Line(Vec<u8>),
    /// It is longer than allowed.
    TooLong,
    /// The peer ended before its line did.
    Closed,
}

/// A request line that is coming in. Holds at most its limit and one read more.
#[derive(Debug)]
pub struct RequestLine {
    bytes: Vec<u8>,
    limit: usize,
}

impl RequestLine {
    /// Nothing yet; at most `limit` bytes, the line's end not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    /// Reads what is there, once. Waits only if `from` does.
    ///
    /// # Errors
    /// Those of the read, except that there is nothing to read yet.
    pub fn read(&mut self, from: &mut impl Read) -> io::Result<Progress> {
        let mut chunk = [0; CHUNK];
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(Progress::Closed),
            Ok(count) => count,
            Err(error) if retry(error.kind()) => return Ok(Progress::Waiting),
            Err(error) => return Err(error),
        };
        self.bytes.extend(chunk.iter().take(count));
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.bytes.len()) > self.limit {
            return Ok(Progress::TooLong);
        }
        Ok(end.map_or(Progress::Waiting, |end| {
            self.bytes.truncate(end);
            Progress::Line(std::mem::take(&mut self.bytes))
        }))
    }
}

fn retry(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;

    #[test]
    fn a_peer_is_who_the_kernel_says() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        for (group, in_group) in [
            (None, false),
            (Some(gid.as_raw()), true),
            (Some(u32::MAX - 7), false),
        ] {
            let peer = Peer::of(&ours, group).expect("credentials");
            let uid = uid.as_raw();
            assert_eq!(peer, Peer { uid, in_group });
        }
    }

    #[test]
    fn the_group_may_ask_and_only_root_may_change() {
        let cases = [
            (0, false, true, true),
            (0, true, true, true),
            (1000, true, true, false),
            (1000, false, false, false),
            (u32::MAX, false, false, false),
        ];
        for (uid, in_group, ask, change) in cases {
            let peer = Peer { uid, in_group };
            assert_eq!((peer.may_ask(), peer.may_change()), (ask, change), "{uid}");
        }
    }

    /// What comes of bytes that are sent before the sender ends.
    fn outcome(sent: &[u8], limit: usize) -> Progress {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let mut line = RequestLine::new(limit);
        assert_eq!(line.read(&mut ours).expect("reads"), Progress::Waiting);
        theirs.write_all(sent).expect("the socket has room");
        theirs.shutdown(Shutdown::Write).expect("half-closed");
        loop {
            match line.read(&mut ours).expect("reads") {
                Progress::Waiting => assert!(line.bytes.len() <= limit + CHUNK),
                end => return end,
            }
        }
    }

    #[test]
    fn a_request_is_one_line_of_bounded_length() {
        let long = [b'x'; 5_000];
        let fits = [&long[..300], b"\n"].concat();
        let cases: [(&[u8], Progress); 7] = [
            (b"status\n", Progress::Line(b"status".to_vec())),
            (b"status\nmore\n", Progress::Line(b"status".to_vec())),
            (b"\n", Progress::Line(Vec::new())),
            (b"\0\xff\n", Progress::Line(b"\0\xff".to_vec())),
            (b"stat", Progress::Closed),
            (&long, Progress::TooLong),
            (&fits, Progress::Line(long[..300].to_vec())),
        ];
        for (sent, expected) in cases {
            assert_eq!(outcome(sent, 300), expected);
        }
        assert_eq!(outcome(&fits, 299), Progress::TooLong);
    }
}
