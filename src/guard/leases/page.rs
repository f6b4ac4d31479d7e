// SPDX-License-Identifier: GPL-2.0-only
//! The lease page: which leases there are, and until when each holds.
//!
//! In: the leases of the configuration, from the guard, which makes the page and then only reads it;
//! deadlines, from the monitor. Out: to both, the same words; to `xenwarden status` and
//! the monitor, what leases there are ([`Page::leases`]). The guard alone says what a lease is, so that a monitor with
//! another configuration serves what the guard goes by.
//!
//! The page lies below /run and goes with the boot, as the clock that it counts by. A guard that
//! is started anew takes the deadlines of the leases that it still has from the page before: to restart
//! it renews nothing, and what lapsed stays lapsed.
//!
//! Words, each of which is written and read whole:
//!
//! | word | is |
//! |---|---|
//! | 0 | `XWLP` and the version |
//! | 1 | how many leases there are |
//! | 2 | when the monitor last looked at all sockets, ns of CLOCK_MONOTONIC; 0: never |
//! | 3 | for how long it may be away, ns |
//! | 16 on | 8 words for each lease: name (2), uid and flags, timeout in ns, deadline, renewals, connection, granted |

use super::promises::keep_promises;
use crate::config::leases::{Lease, LeaseName, Leases as Policy, MOST};
use crate::sys::clock::Monotonic;
use crate::sys::mapping::{Mapping, PAGE};
use crate::sys::word::Word;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::mman::ProtFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where it is.
pub const PATH: &str = "/run/xenwarden/leases";
/// `XWLP` and the version.
const MAGIC: u64 = 0x0000_0001_504c_5758;
const MAGIC_AT: usize = 0;
const COUNT: usize = 1;
const SERVED: usize = 2;
pub(super) const UNSERVED: usize = 3;
pub(super) const SLOTS_AT: usize = 16;
pub(super) const WORDS_OF_A_SLOT: usize = 8;
/// Bytes of the page.
const LEN: usize = 3 * PAGE;

/// Where a slot's words are.
pub(super) struct Slot {
    who: usize,
    pub(super) timeout: usize,
    pub(super) deadline: usize,
    renewals: usize,
    connection: usize,
    granted: usize,
}

pub(super) const SLOT: Slot = Slot {
    who: 2,
    timeout: 3,
    deadline: 4,
    renewals: 5,
    connection: 6,
    granted: 7,
};

/// Flags above the uid.
const REQUIRED: u64 = 1 << 32;
const CLAIMED: u64 = 1 << 33;
const STRICT: u64 = 1 << 34;

/// Until when a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Nobody has renewed it, and nobody must.
    None,
    /// It holds until then.
    At(Monotonic),
    /// Its client gave it back.
    Released,
}

const RELEASED: u64 = u64::MAX;

impl Deadline {
    /// What the word says.
    pub(super) fn load<W: Word>(word: &W) -> Self {
        match word.load(Ordering::Relaxed) {
            0 => Self::None,
            RELEASED => Self::Released,
            ns => Self::At(Monotonic(ns)),
        }
    }

    fn word(self) -> u64 {
        match self {
            Self::None => 0,
            Self::At(Monotonic(ns)) => ns,
            Self::Released => RELEASED,
        }
    }
}

/// When the monitor last looked at all sockets.
pub(super) fn served<W: Word>(words: &[W]) -> Monotonic {
    let served = words.get(SERVED).map(|word| word.load(Ordering::Acquire));
    Monotonic(served.unwrap_or(0))
}

/// Says that all sockets have been looked at, at `now`: every deadline that follows from what
/// came in before has been written.
pub fn serve<W: Word>(words: &[W], now: Monotonic) {
    if let Some(word) = words.get(SERVED) {
        word.store(now.0, Ordering::Release);
    }
}

/// Says until when the lease in slot number `n` holds.
pub fn set_deadline<W: Word>(words: &[W], n: usize, deadline: Deadline) {
    if let Some(word) = slot(words, n).and_then(|slot| slot.get(SLOT.deadline)) {
        word.store(deadline.word(), Ordering::Relaxed);
    }
}

/// Says how often the lease in slot number `n` was renewed.
pub fn set_renewals<W: Word>(words: &[W], n: usize, renewals: u64) {
    if let Some(word) = slot(words, n).and_then(|slot| slot.get(SLOT.renewals)) {
        word.store(renewals, Ordering::Relaxed);
    }
}

/// What is known of the connection that holds a lease, where one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Nothing.
    #[default]
    None,
    /// Its client has said that it stops in order, if it says nothing more.
    Closing,
}

/// Says what is known of the connection of the lease in slot number `n`.
pub fn set_connection<W: Word>(words: &[W], n: usize, connection: Connection) {
    if let Some(word) = slot(words, n).and_then(|slot| slot.get(SLOT.connection)) {
        word.store(connection as u64, Ordering::Relaxed);
    }
}

/// Says that the lease in slot number `n`, renewed so often, was granted its timeout by a monitor
/// that had missed what was said before: it is not to be granted that again.
pub fn set_granted<W: Word>(words: &[W], n: usize, renewals: u64) {
    if let Some(word) = slot(words, n).and_then(|slot| slot.get(SLOT.granted)) {
        word.store(renewals.saturating_add(1), Ordering::Relaxed);
    }
}

/// How many leases there are.
pub(super) fn count<W: Word>(words: &[W]) -> usize {
    let count = words.get(COUNT).map(|word| word.load(Ordering::Relaxed));
    usize::try_from(count.unwrap_or(0)).map_or(MOST, |count| count.min(MOST))
}

/// The name in a slot's words.
pub(super) fn name_of<W: Word>(slot: &[W]) -> Option<LeaseName> {
    let word = |n: usize| Some(slot.get(n)?.load(Ordering::Relaxed));
    LeaseName::from_words([word(0)?, word(1)?])
}

/// Whether the deadline in a slot's words counts though no monitor has looked since.
pub(super) fn is_strict<W: Word>(slot: &[W]) -> bool {
    let who = slot.get(SLOT.who).map(|word| word.load(Ordering::Relaxed));
    who.is_some_and(|who| who & STRICT != 0)
}

fn slot<W: Word>(words: &[W], n: usize) -> Option<&[W]> {
    let at = SLOTS_AT + n * WORDS_OF_A_SLOT;
    words.get(at..at + WORDS_OF_A_SLOT)
}

/// A lease as the page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its number in the page.
    pub number: usize,
    /// Its name.
    pub name: LeaseName,
    /// The user who may renew it, besides root.
    pub uid: u32,
    /// Without a first renewal the guard withholds.
    pub required: bool,
    /// It is for whoever connects to the socket of watchdog-mux.
    pub claimed: bool,
    /// Its deadline counts though no monitor has looked since.
    pub strict: bool,
    /// For how long a renewal is good, ns.
    pub timeout_ns: u64,
    /// Until when it holds.
    pub deadline: Deadline,
    /// How often it was renewed.
    pub renewals: u64,
    /// What is known of its connection.
    pub connection: Connection,
    /// It was granted its timeout anew, and not renewed since.
    pub granted: bool,
}

/// What a lease is at a moment; see the table of [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has renewed it yet.
    Waiting,
    /// It holds.
    Held,
    /// Its client gave it back.
    Released,
    /// Nobody renewed it.
    Lapsed,
    /// Its deadline has passed, and nobody has looked since.
    Unknown,
}

impl View {
    /// It has a deadline, which has passed or not.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.deadline, Deadline::At(_))
    }

    /// What it is at `now`, as far as was looked at `served`.
    #[must_use]
    pub fn state(&self, served: Monotonic, now: Monotonic) -> State {
        match self.deadline {
            Deadline::None => State::Waiting,
            Deadline::Released => State::Released,
            Deadline::At(at) if at >= now && self.renewals == 0 => State::Waiting,
            Deadline::At(at) if at >= now => State::Held,
            Deadline::At(at) if self.strict || served > at => State::Lapsed,
            Deadline::At(_) => State::Unknown,
        }
    }
}

/// The page, mapped.
#[derive(Debug)]
pub struct Page {
    mapping: Mapping,
    /// Device and inode: another guard makes another page.
    pub identity: (u64, u64),
}

impl Page {
    /// Makes the page at `path` in the place of an older one, whose deadlines live on in it. A lease that is
    /// required and that nobody has renewed has until `now` and the policy's time for that.
    ///
    /// # Errors
    /// The errno of making it.
    pub fn create(path: &Path, policy: &Policy, now: Monotonic) -> io::Result<Self> {
        let old = Self::open(path, Access::Read).ok();
        let new = path.with_extension("new");
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // What cannot be removed is told by the making of a new one.
        let _ = fs::remove_file(&new);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o644);
        let file = options.open(&new)?;
        // A page that has no memory yet would fault on the kick path, or end the guard.
        let len = i64::try_from(LEN).map_err(io::Error::other)?;
        fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let page = Self::map(&file, Access::Write)?;
        page.fill(policy, old.as_ref(), now);
        fs::rename(&new, path)?;
        Ok(page)
    }

    /// The same where a page may be done without: none where it cannot be made and the policy has no leases. The page before it is
    /// gone then, as nobody is to believe that a guard goes by it; but one that others count on is gone by all the same.
    ///
    /// # Errors
    /// The errno of making it, or of removing the one before.
    pub fn of_policy(path: &Path, policy: &Policy, now: Monotonic) -> io::Result<Option<Self>> {
        let wrong = match Self::create(path, policy, now) {
            Ok(page) => return Ok(Some(page)),
            Err(wrong) => wrong,
        };
        if !policy.is_empty() {
            return Err(wrong);
        }
        let before = Self::open(path, Access::Write).ok();
        let is_counted_on = |view: &View| view.strict && view.is_running();
        if let Some(page) = before.filter(|page| page.leases().iter().any(is_counted_on)) {
            return Ok(Some(page));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        }
    }

    /// Maps the page at `path`. Does not block, whatever is there.
    ///
    /// # Errors
    /// The errno of open(2) or mmap(2); `InvalidData` where it is no lease page.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = options.open(path)?;
        let metadata = file.metadata()?;
        let no_page = || io::Error::new(io::ErrorKind::InvalidData, "not a lease page");
        if !metadata.is_file() || metadata.len() != LEN as u64 {
            return Err(no_page());
        }
        let page = Self::map(&file, access)?;
        let magic = page.words().get(MAGIC_AT);
        match magic.map(|word| word.load(Ordering::Acquire)) {
            Some(MAGIC) => Ok(page),
            _ => Err(no_page()),
        }
    }

    fn map(file: &File, access: Access) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let prot = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        Ok(Self {
            mapping: Mapping::new(file, LEN, prot)?,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Its words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// Its words, for as long as the process lives.
    #[must_use]
    pub fn leak(self) -> &'static [AtomicU64] {
        self.mapping.leak()
    }

    fn fill(&self, policy: &Policy, old: Option<&Self>, now: Monotonic) {
        let words = self.words();
        // Before the deadlines, as the guard reads them.
        let served = old.map_or(Monotonic(0), |old| served(old.words()));
        let before = old.map(Self::leases).unwrap_or_default();
        let set = |at: usize, value: u64| {
            if let Some(word) = words.get(at) {
                word.store(value, Ordering::Relaxed);
            }
        };
        let named = policy.leases.iter().map(|lease| (lease.clone(), 0));
        let all = named.chain(policy.claimed().map(|lease| (lease, CLAIMED)));
        let mut all: Vec<(Lease, u64)> = all.take(MOST).collect();
        keep_promises(&mut all, &before);
        let mut count = 0;
        for ((lease, flags), n) in all.into_iter().zip(0..MOST) {
            let at = SLOTS_AT + n * WORDS_OF_A_SLOT;
            let [low, high] = lease.name.words();
            set(at, low);
            set(at + 1, high);
            set(at + SLOT.who, who(&lease) | flags);
            set(at + SLOT.timeout, lease.timeout_ns);
            let same = before
                .iter()
                .find(|old| (old.name, old.uid) == (lease.name, lease.uid));
            set(at + SLOT.renewals, same.map_or(0, |old| old.renewals));
            if let Some(old) = same {
                set_connection(words, n, old.connection);
                if old.granted {
                    set_granted(words, n, old.renewals);
                }
            }
            set_deadline(words, n, begins(&lease, same, policy, now));
            count += 1;
        }
        set(COUNT, count);
        set(UNSERVED, policy.unserved_ns);
        serve(words, served);
        if let Some(first) = words.get(MAGIC_AT) {
            first.store(MAGIC, Ordering::Release);
        }
    }

    /// When the monitor last looked at all sockets.
    #[must_use]
    pub fn served(&self) -> Monotonic {
        served(self.words())
    }

    /// The leases, as they are now. For anybody but the kick path: allocates.
    #[must_use]
    pub fn leases(&self) -> Vec<View> {
        let words = self.words();
        let view = |number: usize| {
            let slot = slot(words, number)?;
            let word = |at: usize| Some(slot.get(at)?.load(Ordering::Relaxed));
            let who = word(SLOT.who)?;
            Some(View {
                number,
                name: name_of(slot)?,
                uid: u32::try_from(who & u64::from(u32::MAX)).ok()?,
                required: who & REQUIRED != 0,
                claimed: who & CLAIMED != 0,
                strict: who & STRICT != 0,
                timeout_ns: word(SLOT.timeout)?,
                deadline: Deadline::load(slot.get(SLOT.deadline)?),
                renewals: word(SLOT.renewals)?,
                connection: match word(SLOT.connection)? {
                    1 => Connection::Closing,
                    _ => Connection::None,
                },
                granted: word(SLOT.granted)? == word(SLOT.renewals)?.saturating_add(1),
            })
        };
        (0..count(words)).filter_map(view).collect()
    }

    /// Says that the lease in slot number `n` was renewed, and until when it holds.
    pub fn renew(&self, n: usize, until: Monotonic) {
        let words = self.words();
        if let Some(word) = slot(words, n).and_then(|slot| slot.get(SLOT.renewals)) {
            word.fetch_add(1, Ordering::Relaxed);
        }
        set_deadline(words, n, Deadline::At(until));
    }
}

/// Whether a page is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is only read.
    Read,
    /// It is read and written to.
    Write,
}

fn who(lease: &Lease) -> u64 {
    let flag = |is: bool, flag: u64| if is { flag } else { 0 };
    u64::from(lease.uid) | flag(lease.required, REQUIRED) | flag(lease.strict, STRICT)
}

/// Until when a lease holds as a guard begins.
fn begins(lease: &Lease, before: Option<&View>, policy: &Policy, now: Monotonic) -> Deadline {
    let first = || match lease.required {
        true => Deadline::At(now.plus_ns(policy.begin_ns)),
        false => Deadline::None,
    };
    match before {
        // Required from now on, or not any more: nobody has renewed it yet.
        Some(view) if view.renewals == 0 && view.required != lease.required => first(),
        // Its timeout may be shorter by now.
        Some(view) => match view.deadline {
            Deadline::At(at) if view.renewals > 0 => {
                Deadline::At(at.min(now.plus_ns(lease.timeout_ns)))
            }
            deadline => deadline,
        },
        None => first(),
    }
}

/// The socket of a lease below the directory of the page at `path`.
#[must_use]
pub fn socket_of(page: &Path, name: &LeaseName) -> PathBuf {
    page.with_file_name("lease").join(name.as_str())
}
