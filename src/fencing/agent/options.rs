// SPDX-License-Identifier: GPL-2.0-only
//! The options of fence_xenwarden, from stdin or from the command line.
//!
//! In: lines of `name=value`, or arguments. Out: what is to be done, or one line that says what is wrong. As
//! FenceAgentAPI.md says: on stdin lines that begin with `#` and unknown names are ignored, and the last of a name
//! counts; an unknown argument of the command line is a mistake.

use lexopt::Arg;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where the pool on this host listens.
pub const SOCKET: &str = "/run/xenwarden-pool/pool.sock";
/// How long `off` and `on` may take unless told otherwise, seconds: a lease of 14 s, a device of 60 s that was not
/// measured (122 s), and a quorum device (40 s).
pub const TIMEOUT_S: u32 = 200;
/// And at most.
const MAX_TIMEOUT_S: u32 = 86_400;
/// Longest text on stdin, bytes.
pub const MAX_STDIN: u64 = 64 << 10;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The host is to be down for certain.
    Off,
    /// The same: it comes back by itself.
    Reboot,
    /// It is to be up.
    On,
    /// Whether it is.
    Status,
    /// Whether hosts can be fenced from here.
    Monitor,
    /// Which hosts there are.
    List,
    /// Whether the options are right.
    ValidateAll,
    /// What the options and actions are.
    Metadata,
}

impl Action {
    /// Each with its name.
    pub const ALL: [(&'static str, Self); 8] = [
        ("on", Self::On),
        ("off", Self::Off),
        ("reboot", Self::Reboot),
        ("status", Self::Status),
        ("list", Self::List),
        ("monitor", Self::Monitor),
        ("metadata", Self::Metadata),
        ("validate-all", Self::ValidateAll),
    ];

    fn parse(name: &str) -> Result<Self, String> {
        let same = |(known, _): &&(&str, Self)| known.eq_ignore_ascii_case(name);
        let found = Self::ALL.iter().find(same);
        found.map(|(_, action)| *action).ok_or_else(|| {
            let known = Self::ALL.map(|(name, _)| name).join(", ");
            format!("action={name}: unknown; there are {known}")
        })
    }
}

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is to be done.
    pub action: Action,
    /// Which host it is about.
    plug: Option<String>,
    /// How long that may take.
    pub timeout: Duration,
    /// Where the pool listens.
    pub socket: PathBuf,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An action.
    Run(Options),
    /// The usage.
    Help,
    /// The version.
    Version,
}

impl Options {
    /// The host that it is about.
    ///
    /// # Errors
    /// None is named.
    pub fn plug(&self) -> Result<&str, String> {
        let missing = || "plug is missing: the name of the host to be fenced".to_owned();
        self.plug.as_deref().ok_or_else(missing)
    }

    /// Those of the text on stdin.
    ///
    /// # Errors
    /// The option that is wrong.
    pub fn from_stdin(text: &str) -> Result<Self, String> {
        let mut given = Given::default();
        for line in text.lines() {
            let line = line.trim_start();
            if line.starts_with('#') {
                continue;
            }
            if let Some((name, value)) = line.split_once('=') {
                given.set(name, value);
            }
        }
        given.check()
    }

    /// Those of the command line.
    ///
    /// # Errors
    /// The argument that is wrong.
    pub fn from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Wanted, String> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut given = Given::default();
        while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
            let name = match argument {
                Arg::Short('h') | Arg::Long("help") => return Ok(Wanted::Help),
                Arg::Short('V') | Arg::Long("version") => return Ok(Wanted::Version),
                Arg::Short('v') | Arg::Long("verbose") => continue,
                Arg::Short('o') | Arg::Long("action") => "action",
                Arg::Short('n') | Arg::Long("plug") => "plug",
                Arg::Long("nodename") => "nodename",
                Arg::Long("power-timeout") => "power_timeout",
                Arg::Long("socket-path") => "socket_path",
                other => return Err(other.unexpected().to_string()),
            };
            let value = parser.value().map_err(|error| error.to_string())?;
            let value = value
                .into_string()
                .map_err(|value| format!("{name}={value:?}: not text"))?;
            given.set(name, &value);
        }
        given.check().map(Wanted::Run)
    }
}

/// What was given, as text.
#[derive(Debug, Default)]
struct Given {
    action: Option<String>,
    plug: Option<String>,
    port: Option<String>,
    nodename: Option<String>,
    timeout: Option<String>,
    socket: Option<String>,
}

impl Given {
    fn set(&mut self, name: &str, value: &str) {
        let place = match name {
            // The second is the older name of the first.
            "action" | "option" => &mut self.action,
            "plug" => &mut self.plug,
            "port" => &mut self.port,
            "nodename" => &mut self.nodename,
            "power_timeout" => &mut self.timeout,
            "socket_path" => &mut self.socket,
            _ => return,
        };
        *place = Some(value.trim_end().to_owned()).filter(|value| !value.is_empty());
    }

    fn check(self) -> Result<Options, String> {
        let action = self.action.as_deref().unwrap_or("reboot");
        let timeout_s = match &self.timeout {
            None => TIMEOUT_S,
            Some(text) => text
                .parse()
                .ok()
                .filter(|s| (1..=MAX_TIMEOUT_S).contains(s))
                .ok_or_else(|| {
                    format!("power_timeout={text}: must be 1 to {MAX_TIMEOUT_S} seconds")
                })?,
        };
        let plug = self.plug.or(self.port).or(self.nodename);
        if let Some(plug) = plug.as_deref().filter(|plug| !is_name(plug)) {
            return Err(format!("plug={plug:?}: no name of a host"));
        }
        Ok(Options {
            action: Action::parse(action)?,
            plug,
            timeout: Duration::from_secs(timeout_s.into()),
            socket: self.socket.map_or_else(|| SOCKET.into(), PathBuf::from),
        })
    }
}

fn is_name(text: &str) -> bool {
    let is_fine = |c: char| !c.is_whitespace() && !c.is_control();
    text.len() <= 255 && text.chars().all(is_fine)
}
