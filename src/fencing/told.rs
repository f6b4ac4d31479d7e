// SPDX-License-Identifier: GPL-2.0-only
//! What a member tells of orders to fence over its socket, for both ends.
//!
//! A client sends one [`Request`] as a line of words. `power` is answered by one line of JSON, [`Powers`]; `fence` by
//! a line for each [`Progress`], at least one each [`EACH_S`], the last of which is [`Progress::Down`]. A
//! [`Refusal`] in the place of any says why not, and is the last.

use super::order::{How, Wait};
use crate::control::protocol::Refusal;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A client that fences hears something at least this often, seconds.
pub const EACH_S: u64 = 5;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// That this host is down for certain.
    Fence(String),
    /// Whether this host is on; none: each of them.
    Power(Option<String>),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fence(host) => write!(f, "fence {host}"),
            Self::Power(Some(host)) => write!(f, "power {host}"),
            Self::Power(None) => write!(f, "power"),
        }
    }
}

impl FromStr for Request {
    type Err = Refusal;

    fn from_str(line: &str) -> Result<Self, Refusal> {
        let (word, host) = match line.split_once(' ') {
            Some((word, host)) => (word, Some(host)),
            None => (line, None),
        };
        let is_name = |host: &&str| !host.is_empty() && !host.contains(char::is_whitespace);
        match (word, host) {
            ("fence", Some(host)) if is_name(&host) => Ok(Self::Fence(host.to_owned())),
            ("power", Some(host)) if is_name(&host) => Ok(Self::Power(Some(host.to_owned()))),
            ("power", None) => Ok(Self::Power(None)),
            _ => Err(Refusal::new(
                "not understood: `fence` and `power` are followed by the name of one host",
            )),
        }
    }
}

/// Whether a host is on, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It is heard.
    On,
    /// It was fenced, is certainly down, and was not heard since.
    Off,
    /// It is not heard, and nobody knows why.
    Unknown,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPower {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub power: Power,
    /// Within how long it has promised to be down without quorum; null: it has not, as far as is known here.
    #[serde(default)]
    pub promise_ms: Option<u64>,
}

/// Hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Powers {
    /// This partition has the quorum, without which nobody can be fenced.
    pub quorate: bool,
    /// In the order of their names.
    pub hosts: Vec<HostPower>,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not done.
    Waits {
        /// What for.
        #[serde(rename = "for")]
        wait: Wait,
        /// Until it is done at the soonest, where that is known.
        left_ms: Option<u64>,
    },
    /// The host is certainly down.
    Down(How),
}
