// SPDX-License-Identifier: GPL-2.0-only
//! `[[lease]]` and `[leases]`: other programs as conditions of the host's life.

use super::accounts::id_of;
use super::file;
use super::problems::Problems;
use crate::sys::clock::NS_PER_S;
use std::fmt;
use std::fs;
use std::path::PathBuf;

/// For how long a renewal is good unless told otherwise, and at most, seconds.
const DEFAULT_TIMEOUT_S: u32 = 10;
const MAX_TIMEOUT_S: u32 = 3_600;
/// What a required lease has until its first renewal, from the guard's start, seconds: the rest of
/// a boot.
const DEFAULT_BEGIN_S: u32 = 600;
/// How long the monitor may be away, seconds: an upgrade that asks questions takes minutes.
const DEFAULT_UNSERVED_S: u32 = 300;
const MAX_UNSERVED_S: u32 = 86_400;
/// What watchdog-mux gives each of its clients, seconds (CLIENT_WATCHDOG_TIMEOUT of
/// src/watchdog-mux.c in pve-ha-manager).
const MUX_TIMEOUT_S: u32 = 60;
/// Clients of that socket at once.
const MAX_MUX_CLIENTS: u32 = 16;
/// Leases that there may be.
pub const MOST: usize = 128;

/// The name of a lease: 1 to 16 of `a` to `z`, digits, `-` and `_`, and no `-` first, so that it is
/// a file's name in any directory and an argument of any command. Copied whole into what the guard tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName([u8; 16]);

impl LeaseName {
    /// The lease of this name; none where it cannot be one.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        let is_one = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        };
        if bytes.is_empty() || bytes.first() == Some(&b'-') || !bytes.iter().all(is_one) {
            return None;
        }
        let mut name = [0; 16];
        name.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(name))
    }

    /// As two words.
    #[must_use]
    pub fn words(self) -> [u64; 2] {
        let (low, high) = self.0.split_at(8);
        [low, high].map(|half| u64::from_le_bytes(half.try_into().unwrap_or_default()))
    }

    /// From two words; none where they are no name.
    #[must_use]
    pub fn from_words([low, high]: [u64; 2]) -> Option<Self> {
        let mut name = [0; 16];
        let bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
        name.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let end = name.iter().position(|byte| *byte == 0);
        let end = end.unwrap_or(name.len());
        let text = std::str::from_utf8(name.get(..end)?).ok()?;
        Self::new(text).filter(|read| read.0 == name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0);
        let name = self.0.get(..end.unwrap_or(self.0.len()));
        std::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: LeaseName,
    /// Who may renew it, besides root.
    pub uid: u32,
    /// For how long a renewal is good, ns.
    pub timeout_ns: u64,
    /// Without a first renewal kicks are withheld.
    pub required: bool,
    /// Its deadline counts though no monitor has looked since.
    pub strict: bool,
}

/// All leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Those that have a name.
    pub leases: Vec<Lease>,
    /// What a required one has until its first renewal, ns.
    pub begin_ns: u64,
    /// How long the monitor may be away, ns.
    pub unserved_ns: u64,
    /// The socket of watchdog-mux, and how many clients it may have at once; None: there is none.
    pub mux: Option<(PathBuf, u32)>,
}

impl Leases {
    pub(super) fn from_file(
        leases: Vec<file::Lease>,
        all: file::Leases,
        wrong: &mut Problems,
    ) -> Self {
        let begin_s = wrong.within(
            "leases.begin_s",
            all.begin_s,
            1..=MAX_UNSERVED_S,
            DEFAULT_BEGIN_S,
            " seconds",
        );
        let unserved_s = wrong.within(
            "leases.unserved_s",
            all.unserved_s,
            10..=MAX_UNSERVED_S,
            DEFAULT_UNSERVED_S,
            " seconds: the monitor is away for a moment whenever it is upgraded",
        );
        let mux = all.watchdog_mux.map(|path| {
            let path = wrong.absolute("leases.watchdog_mux", Some(path), "");
            (path, MAX_MUX_CLIENTS)
        });
        let mut named: Vec<Lease> = Vec::new();
        for (n, lease) in (1..).zip(leases) {
            let Some(lease) = one(n, &lease, wrong) else {
                continue;
            };
            if named.iter().any(|other| other.name == lease.name) {
                let name = lease.name;
                wrong.add(format!("lease {n}: name = \"{name}\" is there twice"));
            }
            named.push(lease);
        }
        let policy = Self {
            leases: named,
            begin_ns: u64::from(begin_s) * NS_PER_S,
            unserved_ns: u64::from(unserved_s) * NS_PER_S,
            mux,
        };
        let most = MOST - policy.claimed().count();
        if policy.leases.len() > most {
            wrong.add(format!("lease: there may be {most} of them"));
        }
        policy
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.mux.is_none()
    }

    /// Those for clients of watchdog-mux's socket.
    pub fn claimed(&self) -> impl Iterator<Item = Lease> + '_ {
        let clients = self.mux.as_ref().map_or(0, |(_, clients)| *clients);
        (1..=clients).filter_map(|n| {
            Some(Lease {
                name: LeaseName::new(&format!("watchdog-mux-{n}"))?,
                uid: 0,
                timeout_ns: u64::from(MUX_TIMEOUT_S) * NS_PER_S,
                required: false,
                strict: false,
            })
        })
    }
}

fn one(n: usize, lease: &file::Lease, wrong: &mut Problems) -> Option<Lease> {
    let key = |key: &str| format!("lease {n}: {key}");
    let timeout_s = wrong.within(
        &key("timeout_s"),
        lease.timeout_s,
        1..=MAX_TIMEOUT_S,
        DEFAULT_TIMEOUT_S,
        " seconds",
    );
    let user = lease.user.as_deref().unwrap_or("root");
    let uid = uid_of(user);
    if uid.is_none() {
        let key = key("user");
        wrong.add(format!(
            "{key} = {user:?}: no such user in /etc/passwd; the number of one from elsewhere will do"
        ));
    }
    let name = LeaseName::new(&lease.name);
    let is_reserved = lease.name.starts_with("watchdog-mux");
    if name.is_none() || is_reserved {
        wrong.add(format!(
            "{} = {:?}: must be 1 to 16 of a-z, 0-9, - and _, not begin with -, and not with \
             watchdog-mux",
            key("name"),
            lease.name
        ));
    }
    Some(Lease {
        name: name?,
        uid: uid?,
        timeout_ns: u64::from(timeout_s) * NS_PER_S,
        required: lease.required.unwrap_or(false),
        strict: lease.strict.unwrap_or(false),
    })
}

/// The number of a user, given by name or as such.
fn uid_of(user: &str) -> Option<u32> {
    let by_name = || id_of(&fs::read_to_string("/etc/passwd").unwrap_or_default(), user);
    match user {
        "root" => Some(0),
        _ => user.parse().ok().or_else(by_name),
    }
}
