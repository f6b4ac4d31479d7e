// SPDX-License-Identifier: GPL-2.0-only
//! Probes of a remote host: a server that must accept connections, or a host that must answer to pings.
//!
//! In: time; readiness. Out: that it answered, and how long that took. Promises: one probe at a time, each with an end.
//! Never: more than one descriptor.
//!
//! Pings are of an unprivileged socket (Linux `net/ipv4/ping.c`): the kernel gives them their identifier and
//! checksum, and hands over answers to just these. It is allowed to the groups in the sysctl
//! net.ipv4.ping_group_range.

use super::link::Net;
use super::open;
use super::plan::HostPort;
use super::poller::{Part, Token};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockopt, socket,
    sockopt,
};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// ICMP's types (RFC 792, RFC 4443): echo and its reply.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// How it is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// By a TCP connection.
    Connect,
    /// By a ping.
    Ping,
}

/// A remote host.
#[derive(Debug)]
pub struct Remote {
    host: HostPort,
    probe: Probe,
    beat: u32,
    address: Option<SocketAddr>,
    asking: bool,
    /// What is being waited for, and since when, ns.
    running: Option<(File, u64)>,
    number: u16,
    /// Why it cannot be probed, if that is known.
    trouble: Option<String>,
}

impl Remote {
    /// A host; its port is of no meaning to pings.
    #[must_use]
    pub fn new(host: HostPort, probe: Probe, beat: u32) -> Self {
        Self {
            host,
            probe,
            beat,
            address: None,
            asking: false,
            running: None,
            number: 0,
            trouble: None,
        }
    }

    /// Whether pings are allowed at all.
    ///
    /// # Errors
    /// What to do where they are not.
    pub fn check(&self) -> Result<(), String> {
        if self.probe == Probe::Connect {
            return Ok(());
        }
        ping_socket(false).map(drop).map_err(|error| {
            format!(
                "pings are not allowed: {error}; sysctl net.ipv4.ping_group_range must cover this program's group"
            )
        })
    }

    /// Begins another probe. One that still runs is given up after `limit_ns`.
    pub fn begin(&mut self, now: u64, limit_ns: u64, net: Net<'_>) {
        if let Some((_, since)) = &self.running {
            if self.probe == Probe::Connect && now.saturating_sub(*since) < limit_ns {
                return;
            }
            self.running = None;
        }
        if self.address.is_none() {
            if self.asking {
                return;
            }
            self.address = net.resolver.ask((self.beat, Part::Remote), &self.host);
            self.asking = self.address.is_none();
        }
        if let Some(address) = self.address {
            self.probe(address, now, net);
        }
    }

    /// An address that was asked for.
    pub fn resolved(&mut self, found: Result<Vec<SocketAddr>, String>) {
        self.asking = false;
        match found {
            Ok(addresses) => self.address = addresses.into_iter().next(),
            Err(why) => self.failed(&why),
        }
    }

    /// The address is looked up anew, as the host is lost.
    pub fn renew(&mut self) {
        self.address = None;
        self.running = None;
    }

    /// Looks at what is ready: the round trip, ns, if the host has answered.
    pub fn ready(&mut self, now: u64) -> Option<u64> {
        let (socket, since) = self.running.as_mut()?;
        let took = now.saturating_sub(*since);
        match self.probe {
            Probe::Connect => {
                let outcome = getsockopt(socket, sockopt::SocketError);
                self.running = None;
                match outcome {
                    Ok(0) => {
                        self.trouble = None;
                        Some(took)
                    }
                    Ok(error) => {
                        self.failed(&io::Error::from_raw_os_error(error).to_string());
                        None
                    }
                    Err(_) => None,
                }
            }
            Probe::Ping => {
                let mut packet = [0; 64];
                let count = match socket.read(&mut packet) {
                    Ok(count) => count,
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            self.failed(&error.to_string());
                        }
                        return None;
                    }
                };
                let [high, low] = self.number.to_be_bytes();
                let answered = matches!(packet.get(..count), Some([ECHO_REPLY | ECHO_REPLY_V6, 0, _, _, _, _, h, l, ..]) if (*h, *l) == (high, low));
                if answered {
                    self.trouble = None;
                    self.running = None;
                }
                answered.then_some(took)
            }
        }
    }

    /// Why it cannot be probed, if that is known.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn probe(&mut self, address: SocketAddr, now: u64, net: Net<'_>) {
        self.number = self.number.wrapping_add(1);
        let token = Token {
            beat: self.beat,
            part: Part::Remote,
            slot: 1,
        };
        let begun = match self.probe {
            Probe::Connect => open::tcp(address).map(|opened| (opened.io, true)),
            Probe::Ping => ping(address, self.number).map(|socket| (socket, false)),
        };
        let begun = begun.and_then(|(socket, write)| {
            net.poller.add(&socket, token, write)?;
            Ok(socket)
        });
        match begun {
            Ok(socket) => self.running = Some((socket, now)),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            log::info!("{}: {why}; trying again", self.host.host);
            self.trouble = Some(why.to_owned());
        }
    }
}

fn ping_socket(v6: bool) -> io::Result<File> {
    let (family, protocol) = match v6 {
        false => (AddressFamily::Inet, SockProtocol::Icmp),
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(File::from(socket(
        family,
        SockType::Datagram,
        flags,
        protocol,
    )?))
}

/// Sends one ping.
fn ping(address: SocketAddr, number: u16) -> io::Result<File> {
    let v6 = address.is_ipv6();
    let mut socket = ping_socket(v6)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    let [high, low] = number.to_be_bytes();
    let kind = if v6 { ECHO_V6 } else { ECHO };
    socket.write_all(&[kind, 0, 0, 0, 0, 0, high, low])?;
    Ok(socket)
}
