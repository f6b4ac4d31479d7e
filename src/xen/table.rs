// SPDX-License-Identifier: GPL-2.0-only
//! The liveness table: what the hypervisor records of its own work, mapped into dom0.
//!
//! In: the mapped words, which the hypervisor goes on writing while they are read. Out:
//! the records as values. A look is a few memory reads: it makes no hypercall, takes no
//! lock, allocates nothing, and cannot hang in the hypervisor. It judges nothing
//! ([`crate::guard::evidence`] does), and whatever the words are, it neither panics nor
//! reads beyond them.
//!
//! Layout: `public/liveness.h` of the patch series (xen-patches/README.md has the table):
//! little-endian; a header, then a record of 64 bytes for each pCPU and each domid, then
//! the domains' UUIDs. Offsets and lengths are taken from the header, so that fields may
//! be appended.

mod record;

pub use record::{Domain, Pcpu, Shutdown, Slot, Starved};

use crate::sys::word::Word;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// `XVLN`, the first four bytes.
pub const MAGIC: u32 = 0x4e4c_5658;
/// The ABI that this decoder reads; it changes only on incompatibility.
pub const ABI: u16 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a record of a pCPU or a domain; longer ones are read as far as that.
pub const RECORD_LEN: usize = 64;
/// Bytes of a domain's UUID.
pub const HANDLE_LEN: usize = 16;
/// Domids that a domain can have: `DOMID_FIRST_RESERVED` (public/xen.h).
pub const MAX_DOMAINS: usize = 0x7ff0;
/// Most pCPUs: `NR_CPUS` of the largest configuration (xen/arch/Kconfig).
pub const MAX_PCPUS: usize = 4095;
/// Watchdog slots of a domain: `NR_DOMAIN_WATCHDOG_TIMERS` (xen/sched.h).
pub const SLOTS: usize = 2;

/// Words of a domid's record and its UUID.
pub const DOMAIN_WORDS: usize = (RECORD_LEN + HANDLE_LEN) / 8;

/// A record may have grown so many times in length.
const MOST_TIMES: usize = 4;
/// Where an array begins at most, bytes: the most and longest records end at 9 MiB.
const MOST_OFFSET: usize = 16 << 20;

/// Attempts to read a record whose domain is being replaced by another.
const ATTEMPTS: u32 = 16;

/// Why the mapped memory is no table that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its own header says, or than a header.
    Truncated,
    /// Not the magic number of a liveness table.
    Magic,
    /// An ABI that this decoder does not know.
    Abi(u16),
    /// Lengths or offsets that contradict each other or the ABI.
    Layout,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "it is shorter than its header says"),
            Self::Magic => write!(
                f,
                "it does not begin with the magic number of a liveness table"
            ),
            Self::Abi(abi) => write!(f, "its ABI is {abi}, this program reads {ABI}"),
            Self::Layout => write!(f, "its header contradicts itself"),
        }
    }
}

/// A checked table. Copying it copies a reference.
#[derive(Debug)]
pub struct Table<'a, W = AtomicU64> {
    words: &'a [W],
    pcpus: Array,
    domains: Array,
    handles: Array,
    /// Milliseconds; 0: canaries are switched off.
    canary_period_ms: u32,
}

impl<W> Clone for Table<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Table<'_, W> {}

/// Where records are: all in units of words.
#[derive(Clone, Copy, Debug)]
struct Array {
    start: usize,
    step: usize,
    count: usize,
}

impl Array {
    /// From the header's offset and length in bytes. Each record has at least `least` bytes,
    /// and not many times as much, so that a header out of its mind maps no gigabytes.
    fn new(offset: u32, len: u32, count: u32, least: usize) -> Option<Self> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        let aligned = offset % 8 == 0 && len % 8 == 0;
        let fits = aligned
            && (least..=MOST_TIMES * least).contains(&len)
            && (HEADER_LEN..=MOST_OFFSET).contains(&offset);
        fits.then_some(Self {
            start: offset / 8,
            step: len / 8,
            count: usize::try_from(count).ok()?,
        })
    }

    fn end(&self) -> Option<usize> {
        self.step.checked_mul(self.count)?.checked_add(self.start)
    }

    fn at(&self, n: usize) -> Option<usize> {
        (n < self.count).then(|| self.start + n * self.step)
    }
}

fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}

/// Words of the header (xen-patches/README.md).
mod header {
    pub const MAGIC_ABI: usize = 0;
    pub const PCPUS: usize = 1;
    pub const NR_PCPUS_DOMAINS: usize = 2;
    pub const DOMAIN_LEN_NR: usize = 3;
    pub const HANDLES: usize = 4;
    pub const CANARY_EXCUSED: usize = 5;
    pub const CREATED: usize = 6;
    pub const DOMIDS_USED: usize = 7;
}

/// The header of `words` as a table over them, whether or not all of it is mapped.
fn header_of<W: Word>(words: &[W]) -> Result<Table<'_, W>, Malformed> {
    let word = |n: usize| words.get(n).map(|w| w.load(Ordering::Relaxed));
    let word = |n| word(n).ok_or(Malformed::Truncated);
    let first = word(header::MAGIC_ABI)?;
    if low(first) != MAGIC {
        return Err(Malformed::Magic);
    }
    let [_, _, _, _, a, b, c, d] = first.to_le_bytes();
    let (abi, header_len) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if abi != ABI {
        return Err(Malformed::Abi(abi));
    }
    let pcpus = word(header::PCPUS)?;
    let counts = word(header::NR_PCPUS_DOMAINS)?;
    let domains = word(header::DOMAIN_LEN_NR)?;
    let handles = word(header::HANDLES)?;
    let (nr_pcpus, nr_domains) = (low(counts), high(domains));
    let array =
        |offset, len, count, least| Array::new(offset, len, count, least).ok_or(Malformed::Layout);
    let table = Table {
        words,
        pcpus: array(low(pcpus), high(pcpus), nr_pcpus, RECORD_LEN)?,
        domains: array(high(counts), low(domains), nr_domains, RECORD_LEN)?,
        handles: array(low(handles), high(handles), nr_domains, HANDLE_LEN)?,
        canary_period_ms: low(word(header::CANARY_EXCUSED)?),
    };
    let counts_fit = (1..=MAX_PCPUS).contains(&table.pcpus.count)
        && (1..=MAX_DOMAINS).contains(&table.domains.count);
    if usize::from(header_len) < HEADER_LEN || !counts_fit {
        return Err(Malformed::Layout);
    }
    Ok(table)
}

/// Bytes of the whole table, of which `words` are the beginning.
///
/// # Errors
/// [`Malformed`].
pub fn length(words: &[AtomicU64]) -> Result<usize, Malformed> {
    let words = header_of(words)?.words_needed();
    words
        .and_then(|words| words.checked_mul(8))
        .ok_or(Malformed::Layout)
}

/// Brings a word up to date; 0 if it was.
fn renew(seen: &mut u64, now: &impl Word) -> u64 {
    let now = now.load(Ordering::Relaxed);
    std::mem::replace(seen, now) ^ now
}

/// An armed slot, as far as the guard looks at it.
fn armed_slot(set: &impl Word, handled: &impl Word) -> Option<Slot> {
    let set = set.load(Ordering::Relaxed);
    let armed = high(set).checked_sub(1)?;
    let handled = handled.load(Ordering::Relaxed);
    Some(Slot {
        sets: low(set),
        armed: Some(armed),
        acted: low(handled),
        done: high(handled),
        disarms: 0,
    })
}

/// Both slots of a domid's record, each as it is now.
fn slots_of<W: Word>(record: &[W; RECORD_LEN / 8]) -> [Slot; SLOTS] {
    let [set, handled, second, second_handled, _, _, disarms, _] = record;
    [
        slot_of(set, handled, disarms, low),
        slot_of(second, second_handled, disarms, high),
    ]
}

/// One slot, as it is now. `half`: which half of the disarms are its own.
fn slot_of<W: Word>(set: &W, handled: &W, disarms: &W, half: impl Fn(u64) -> u32) -> Slot {
    let mut before = set.load(Ordering::Relaxed);
    let mut attempt = 0;
    loop {
        let handled = handled.load(Ordering::Relaxed);
        let disarms = half(disarms.load(Ordering::Relaxed));
        W::fence(Ordering::Acquire);
        let again = set.load(Ordering::Relaxed);
        attempt += 1;
        // A guest may feed without a break. What was read between two different values
        // is then older than the newer one: nothing in it passes for more than it is.
        if again == before || attempt == ATTEMPTS {
            return Slot {
                sets: low(before),
                armed: high(before).checked_sub(1),
                acted: low(handled),
                done: high(handled),
                disarms,
            };
        }
        before = again;
    }
}

impl<'a, W: Word> Table<'a, W> {
    /// Checks the header of `words`, and that all it speaks of is there.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(words: &'a [W]) -> Result<Self, Malformed> {
        let table = header_of(words)?;
        let needed = table.words_needed().ok_or(Malformed::Layout)?;
        if needed > words.len() {
            return Err(Malformed::Truncated);
        }
        Ok(table)
    }

    /// The words of a domid's record. In one piece, so that they are found once for all.
    fn record(&self, domid: u16) -> Option<&'a [W; RECORD_LEN / 8]> {
        let at = self.domains.at(usize::from(domid))?;
        self.words.get(at..)?.first_chunk()
    }

    /// The words of a domid's UUID.
    fn handle(&self, domid: u16) -> Option<&'a [W; HANDLE_LEN / 8]> {
        let at = self.handles.at(usize::from(domid))?;
        self.words.get(at..)?.first_chunk()
    }

    fn words_needed(&self) -> Option<usize> {
        let [a, b, c] = [self.pcpus.end()?, self.domains.end()?, self.handles.end()?];
        Some(a.max(b).max(c))
    }

    fn word(&self, n: usize) -> u64 {
        // `parse` has checked every index that is used.
        self.words.get(n).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Milliseconds between two runs of a canary; 0 where canaries are switched off.
    #[must_use]
    pub fn canary_period_ms(&self) -> u32 {
        self.canary_period_ms
    }

    /// How many debug-key handlers are running: while they do, the scheduler may be late.
    #[must_use]
    pub fn excused(&self) -> u32 {
        high(self.word(header::CANARY_EXCUSED))
    }

    /// The creation number given last.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.word(header::CREATED)
    }

    /// Records of pCPUs, offline ones among them.
    #[must_use]
    pub fn nr_pcpus(&self) -> usize {
        self.pcpus.count
    }

    /// Records of domids, used or not.
    #[must_use]
    pub fn nr_domains(&self) -> usize {
        self.domains.count
    }

    /// Domids that had a domain since the host booted are below this.
    #[must_use]
    pub fn domids_used(&self) -> usize {
        let used = usize::try_from(low(self.word(header::DOMIDS_USED)));
        used.unwrap_or(usize::MAX).min(self.domains.count)
    }

    /// A pCPU's record; none beyond [`Table::nr_pcpus`].
    #[must_use]
    pub fn pcpu(&self, n: usize) -> Option<Pcpu> {
        let at = self.pcpus.at(n)?;
        let first = self.word(at);
        // Both in one read: a decision is never taken for one on a later request.
        let requests = self.word(at + 1);
        let starving = self.word(at + 2);
        let who = self.word(at + 3);
        let ms = high(starving);
        Some(Pcpu {
            online: low(first) != 0,
            canary: high(first),
            requested: low(requests),
            decided: high(requests),
            idle: low(starving) != 0,
            starved: (ms != 0).then(|| Starved {
                ms,
                domid: low(who),
                vcpu: high(who),
            }),
        })
    }

    /// The creation number of the domain that `domid` belongs to, or last did; 0 where it
    /// never had one.
    #[must_use]
    pub fn created_of(&self, domid: u16) -> u64 {
        let at = self.domains.at(usize::from(domid));
        at.map_or(0, |at| self.word(at + 5))
    }

    /// The armed slots of a domid's record with the low half of its domain's creation
    /// number; none where no slot is armed. What the guard looks at four times a second.
    #[must_use]
    pub fn armed(&self, domid: u16) -> Option<(u32, [Option<Slot>; SLOTS])> {
        let [set, handled, second, second_handled, _, created, ..] = self.record(domid)?;
        let slots = [armed_slot(set, handled), armed_slot(second, second_handled)];
        // Read last: slots of a domain that was created meanwhile come with its number.
        W::fence(Ordering::Acquire);
        let created = low(created.load(Ordering::Relaxed));
        match slots {
            [None, None] => None,
            slots => Some((created, slots)),
        }
    }

    /// Brings `words`, those of a domid's record and its UUID at an earlier look, up to date.
    /// Says whether any of them was another: otherwise nothing has changed in between.
    pub fn renew(&self, domid: u16, words: &mut [u64; DOMAIN_WORDS]) -> bool {
        let (Some(record), Some(handle)) = (self.record(domid), self.handle(domid)) else {
            return false;
        };
        // Each by itself: a loop would cost more than what it does.
        let [a, b, c, d, e, f, g, h, i, j] = words;
        let [at, bt, ct, dt, et, ft, gt, ht] = record;
        let [it, jt] = handle;
        let slots = renew(a, at) | renew(b, bt) | renew(c, ct) | renew(d, dt);
        let state = renew(e, et) | renew(f, ft) | renew(g, gt) | renew(h, ht);
        slots | state | renew(i, it) | renew(j, jt) != 0
    }

    /// A slot (0 or 1) of a domid's record, as it is now.
    #[must_use]
    pub fn slot(&self, domid: u16, slot: usize) -> Option<Slot> {
        let [first, second] = slots_of(self.record(domid)?);
        match slot {
            0 => Some(first),
            1 => Some(second),
            _ => None,
        }
    }

    /// The domain that `domid` belongs to, or last did. None where it never had one, and
    /// while it is passing from one domain to the next.
    #[must_use]
    pub fn domain(&self, domid: u16) -> Option<Domain> {
        let (record, [first, second]) = (self.record(domid)?, self.handle(domid)?);
        let [_, _, _, _, state, number, ..] = record;
        for _ in 0..ATTEMPTS {
            let created = number.load(Ordering::Relaxed);
            if created == 0 {
                return None;
            }
            W::fence(Ordering::Acquire);
            let slots = slots_of(record);
            let [exists, paused, dying, shutdown, ..] = state.load(Ordering::Relaxed).to_le_bytes();
            let [first, second] = [first, second].map(|w| u128::from(w.load(Ordering::Relaxed)));
            let uuid = Uuid::from_bytes((first | second << 64).to_le_bytes());
            W::fence(Ordering::Acquire);
            if number.load(Ordering::Relaxed) == created {
                return Some(Domain {
                    domid,
                    created,
                    uuid,
                    exists: exists != 0,
                    paused: paused != 0,
                    dying: dying != 0,
                    shutdown: shutdown.checked_sub(1).map(Shutdown::from_code),
                    slots,
                });
            }
        }
        None
    }

    /// All domains that are there, or were last on their domid, in order of domid.
    pub fn domains(self) -> impl Iterator<Item = Domain> + 'a {
        let used = u16::try_from(self.domids_used()).unwrap_or(u16::MAX);
        (0..used).filter_map(move |domid| self.domain(domid))
    }
}
