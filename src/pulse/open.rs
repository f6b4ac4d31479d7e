// SPDX-License-Identifier: GPL-2.0-only
//! Opens and accepts what a link is made of: sockets and terminals that never block.
//!
//! In: places. Out: descriptors, or the errno. Never: a wait, but for a name to listen at.

use super::plan::{HostPort, Place};
use super::resolver;
use crate::control::client_pool::is_listened_to;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, setsockopt, socket,
    sockopt,
};
use nix::sys::termios::{self, SetArg};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A descriptor that may be read and written as a file.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub io: File,
    /// Who is at the other end.
    pub peer: String,
    /// It is open once it can be written to.
    pub connecting: bool,
    /// Nothing is to be written to it.
    pub only_read: bool,
}

/// What accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Its descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }

    /// Whether a connection waits to be accepted; true where poll(2) cannot tell. Does not block.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        let mut wanted = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::ZERO) != Ok(0)
    }

    /// The next connection. Does not block.
    ///
    /// # Errors
    /// The errno of accept(2); EAGAIN: there is none.
    pub fn accept(&self) -> io::Result<Opened> {
        let (io, peer) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                prepare(&stream);
                (File::from(OwnedFd::from(stream)), peer.to_string())
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                (File::from(OwnedFd::from(stream)), "unix".to_owned())
            }
        };
        Ok(Opened {
            io,
            peer,
            connecting: true,
            only_read: false,
        })
    }
}

/// Small frames at once, and an end for peers that are gone. Without them it works as well.
fn prepare(socket: &impl AsFd) {
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
}

/// Listens. A unix socket that nobody listens at any more is replaced.
///
/// # Errors
/// The errno of it, or that of looking up the name.
pub fn listen(place: &Place) -> io::Result<Listener> {
    match place {
        Place::Tcp(at) => {
            let listener = listen_tcp(at)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Tcp(listener))
        }
        Place::Unix(path) => {
            let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
            if is_socket && !is_listened_to(path) {
                fs::remove_file(path)?;
            }
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(Listener::Unix(listener))
        }
        Place::Device(_) => Err(Errno::ENOTSOCK.into()),
    }
}

fn listen_tcp(at: &HostPort) -> io::Result<TcpListener> {
    if at.host.is_empty() {
        // One socket for both families, where there are two.
        return TcpListener::bind(("::", at.port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", at.port)));
    }
    let addresses: Vec<SocketAddr> = match resolver::literal(at) {
        Some(address) => vec![address],
        None => (at.host.as_str(), at.port).to_socket_addrs()?.collect(),
    };
    TcpListener::bind(addresses.as_slice())
}

/// Begins to connect.
///
/// # Errors
/// The errno of it.
pub fn tcp(address: SocketAddr) -> io::Result<Opened> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = stream_socket(family)?;
    prepare(&socket);
    begin(connect(socket.as_raw_fd(), &SockaddrStorage::from(address)))?;
    Ok(Opened {
        io: File::from(socket),
        peer: address.to_string(),
        connecting: true,
        only_read: false,
    })
}

/// The same with a unix socket.
///
/// # Errors
/// The errno of it; EAGAIN: its server accepts nobody at present.
pub fn unix(path: &Path) -> io::Result<Opened> {
    let socket = stream_socket(AddressFamily::Unix)?;
    begin(connect(socket.as_raw_fd(), &UnixAddr::new(path)?))?;
    Ok(Opened {
        io: File::from(socket),
        peer: format!("unix:{}", path.display()),
        connecting: true,
        only_read: false,
    })
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(family, SockType::Stream, flags, None)
}

fn begin(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::EINPROGRESS) => Ok(()),
        outcome => outcome,
    }
}

/// Opens a terminal, which is made to pass on each byte as it is (cfmakeraw(3)), or a fifo. A
/// fifo is only read; it is opened for both, so that it never ends.
///
/// # Errors
/// The errno of it, or that it is neither.
pub fn device(path: &Path) -> io::Result<Opened> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    let io = options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    let kind = io.metadata()?.file_type();
    if !kind.is_fifo() {
        let mut settings = termios::tcgetattr(&io)
            .map_err(|_| io::Error::other("neither a terminal nor a fifo"))?;
        termios::cfmakeraw(&mut settings);
        termios::tcsetattr(&io, SetArg::TCSANOW, &settings)?;
    }
    Ok(Opened {
        io,
        peer: path.display().to_string(),
        connecting: true,
        only_read: kind.is_fifo(),
    })
}
