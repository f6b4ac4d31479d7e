// SPDX-License-Identifier: GPL-2.0-only
//! The decoder of hypfs `/liveness`: bytes in, checked views out.
//!
//! In: one reply of the hypervisor, of any length and content. Out: a view whose every
//! access is in bounds, or a [`Malformed`] that says what is wrong. It allocates
//! nothing and never panics, so the sampler may use it; it judges nothing
//! ([`crate::guard::evidence`] does).
//!
//! Layout: `public/liveness.h` of the patch series (xen-patches/README.md has the
//! table): little-endian, a 64-byte header and records of 64 bytes; both lengths are
//! taken from the header, so that fields may be appended. Times are nanoseconds of the
//! hypervisor's NOW().

/// `XLVS`: the state page.
pub const MAGIC_STATE: u32 = 0x5356_4c58;
/// `XLVT`: a page of timer records.
pub const MAGIC_TIMERS: u32 = 0x5456_4c58;
/// The ABI that this decoder reads. It changes only on incompatibility.
pub const ABI: u16 = 1;
/// Bytes of header and record that ABI 1 defines; longer ones are read as far as that.
pub const HEADER_LEN: usize = 64;
/// See [`HEADER_LEN`].
pub const RECORD_LEN: usize = 64;
/// Records in a page of timers.
pub const TIMERS_PER_PAGE: usize = 63;
/// Most pages of timers a hypervisor can have: two slots for each of 32752 domains.
pub const MAX_TIMER_PAGES: u32 = 1040;

/// Why a reply cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its own header says, or than a header.
    Truncated,
    /// Not the magic number of the page that was asked for.
    Magic,
    /// An ABI that this decoder does not know.
    Abi(u16),
    /// Header or record lengths below those of the ABI, or not of 8-byte multiples.
    Lengths,
    /// The reply is another page than the one asked for.
    Index,
    /// More pages of timers than there can be.
    Pages,
    /// A field has a value that cannot be.
    Field,
}

/// The header of either kind of page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The hypervisor's NOW() when the page was copied, ns.
    pub now: u64,
    /// Pages of timer records in use.
    pub nr_pages: u32,
    /// Armed guest watchdogs.
    pub nr_armed: u32,
    /// Armed guest watchdogs that have no record.
    pub untracked: u32,
    /// Expiries since boot.
    pub fired: u32,
    /// When the latest expiry was, ns; 0 for never.
    pub last_fired: u64,
    /// How late the latest-served expiry was, ns.
    pub max_fire_late: u64,
    /// The canary's period, ms.
    pub canary_period_ms: u32,
    /// The pCPU that copied the page.
    pub reader_cpu: u32,
}

/// One physical CPU's evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcpuRecord {
    /// The pCPU's number.
    pub cpu: u32,
    /// It is online.
    pub online: bool,
    /// Its canary timer is set.
    pub canary: bool,
    /// End of the last timer softirq, ns.
    pub softirq: u64,
    /// The earliest timer then pending, ns.
    pub next: u64,
    /// When the canary is due next, ns.
    pub canary_due: u64,
    /// When it last ran, ns.
    pub canary_ran: u64,
    /// The scheduler's last decision, ns.
    pub sched: u64,
    /// The oldest request to the scheduler; unserved while later than `sched`, ns.
    pub sched_req: u64,
    /// How often the canary has run.
    pub canary_runs: u32,
    /// The canary's worst lateness, microseconds.
    pub max_late_us: u32,
}

/// Why a domain shut down: `SHUTDOWN_*` of Xen's `public/sched.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// It powered off.
    Poweroff,
    /// It asked for a reboot.
    Reboot,
    /// It suspended itself, to be saved or migrated.
    Suspend,
    /// It crashed.
    Crash,
    /// Its watchdog expired.
    Watchdog,
    /// It asked to be reset in place.
    SoftReset,
    /// A reason that this decoder does not know.
    Other(u8),
}

impl Shutdown {
    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            other => Self::Other(other),
        }
    }

    /// The number in the hypervisor's interface.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Poweroff => 0,
            Self::Reboot => 1,
            Self::Suspend => 2,
            Self::Crash => 3,
            Self::Watchdog => 4,
            Self::SoftReset => 5,
            Self::Other(code) => code,
        }
    }
}

/// Kind the domain that owns a record is doing; of a destroyed one, what it was doing
/// then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// The toolstack paused it.
    pub paused: bool,
    /// It is shutting down, or has shut down.
    pub shutdown: Option<Shutdown>,
    /// It is being destroyed.
    pub dying: bool,
}

/// `XEN_LIVENESS_DOMAIN_known`.
const DOMAIN_KNOWN: u32 = 1 << 31;

impl Doing {
    fn from_word(word: u32) -> Option<Self> {
        let [_, code, _, _] = word.to_le_bytes();
        (word & DOMAIN_KNOWN != 0).then(|| Self {
            paused: word & 1 != 0,
            shutdown: (word & 2 != 0).then(|| Shutdown::from_code(code)),
            dying: word & 4 != 0,
        })
    }

    /// As the hypervisor writes it.
    #[must_use]
    pub fn to_word(self) -> u32 {
        let code = self.shutdown.map_or(0, |s| u32::from(s.code()) << 8 | 2);
        DOMAIN_KNOWN | u32::from(self.paused) | code | u32::from(self.dying) << 2
    }
}

/// One slot of a domain's guest watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerRecord {
    /// Odd while the hypervisor was writing the record.
    pub seq: u32,
    /// The domain.
    pub domid: u16,
    /// The slot, counted from 1.
    pub slot: u8,
    /// The record belongs to a domain.
    pub used: bool,
    /// The watchdog is armed (and stays so after it fired).
    pub armed: bool,
    /// The guest's timeout, seconds.
    pub timeout_s: u32,
    /// Times armed or fed.
    pub sets: u32,
    /// When last armed or fed, ns.
    pub set: u64,
    /// When it expires unless fed, ns.
    pub deadline: u64,
    /// When its handler was last entered, ns.
    pub fired: u64,
    /// When its handler was last left, ns.
    pub done: u64,
    /// Expiries of this slot.
    pub nr_fired: u32,
    /// Counts the reuses of the record by other domains.
    pub generation: u32,
    /// Kind the domain is doing; `None` where the hypervisor does not tell.
    pub domain: Option<Doing>,
    /// Times that the handler of this slot shut the domain down; it does nothing to one that
    /// is shutting down or dying. Told only together with `domain`.
    pub acted: u32,
}

impl TimerRecord {
    /// The hypervisor was writing the record while it was copied.
    #[must_use]
    pub fn torn(&self) -> bool {
        self.seq & 1 == 1
    }

    /// The handler of the present deadline has come to its end: the guest expired, and
    /// the timer was serviced.
    #[must_use]
    pub fn serviced(&self) -> bool {
        self.done >= self.deadline
    }
}

/// A checked page: its header and where its records lie.
#[derive(Clone, Copy, Debug)]
struct Page<'a> {
    header: Header,
    records: &'a [u8],
    record_len: usize,
    count: usize,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        b.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        b.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        b.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

fn header(b: &[u8]) -> Option<Header> {
    Some(Header {
        now: u64_at(b, 16)?,
        nr_pages: u32_at(b, 24)?,
        nr_armed: u32_at(b, 28)?,
        untracked: u32_at(b, 32)?,
        fired: u32_at(b, 36)?,
        last_fired: u64_at(b, 40)?,
        max_fire_late: u64_at(b, 48)?,
        canary_period_ms: u32_at(b, 56)?,
        reader_cpu: u32_at(b, 60)?,
    })
}

impl<'a> Page<'a> {
    fn parse(bytes: &'a [u8], magic: u32, index: u32) -> Result<Self, Malformed> {
        use Malformed::Truncated;
        if u32_at(bytes, 0).ok_or(Truncated)? != magic {
            return Err(Malformed::Magic);
        }
        let abi = u16_at(bytes, 4).ok_or(Truncated)?;
        if abi != ABI {
            return Err(Malformed::Abi(abi));
        }
        let header_len = usize::from(u16_at(bytes, 6).ok_or(Truncated)?);
        let record_len = usize::from(u16_at(bytes, 8).ok_or(Truncated)?);
        let count = usize::from(u16_at(bytes, 10).ok_or(Truncated)?);
        if header_len < HEADER_LEN || record_len < RECORD_LEN || (header_len | record_len) % 8 != 0
        {
            return Err(Malformed::Lengths);
        }
        if u32_at(bytes, 12).ok_or(Truncated)? != index {
            return Err(Malformed::Index);
        }
        let header = header(bytes).ok_or(Truncated)?;
        if header.nr_pages > MAX_TIMER_PAGES {
            return Err(Malformed::Pages);
        }
        let records = bytes
            .get(header_len..header_len + record_len * count)
            .ok_or(Truncated)?;
        Ok(Self {
            header,
            records,
            record_len,
            count,
        })
    }

    fn record(&self, n: usize) -> Option<&'a [u8]> {
        let start = n.checked_mul(self.record_len)?;
        self.records.get(start..start.checked_add(self.record_len)?)
    }
}

/// `/liveness/state`, checked.
#[derive(Clone, Copy, Debug)]
pub struct StatePage<'a>(Page<'a>);

impl<'a> StatePage<'a> {
    /// Checks a reply of `/liveness/state`.
    ///
    /// # Errors
    /// [`Malformed`], also when it holds no pCPU at all or says that time stands at 0.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let page = Page::parse(bytes, MAGIC_STATE, 0)?;
        if page.count == 0 || page.header.now == 0 || page.header.canary_period_ms == 0 {
            return Err(Malformed::Field);
        }
        Ok(Self(page))
    }

    /// The page's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The records of all pCPUs that the hypervisor knows, offline ones among them.
    pub fn pcpus(&self) -> impl Iterator<Item = PcpuRecord> + 'a {
        let page = self.0;
        (0..page.count).filter_map(move |n| pcpu_record(page.record(n)?))
    }
}

fn pcpu_record(b: &[u8]) -> Option<PcpuRecord> {
    let flags = u32_at(b, 4)?;
    Some(PcpuRecord {
        cpu: u32_at(b, 0)?,
        online: flags & 1 != 0,
        canary: flags & 2 != 0,
        softirq: u64_at(b, 8)?,
        next: u64_at(b, 16)?,
        canary_due: u64_at(b, 24)?,
        canary_ran: u64_at(b, 32)?,
        sched: u64_at(b, 40)?,
        sched_req: u64_at(b, 48)?,
        canary_runs: u32_at(b, 56)?,
        max_late_us: u32_at(b, 60)?,
    })
}

/// `/liveness/timers/<n>`, checked.
#[derive(Clone, Copy, Debug)]
pub struct TimersPage<'a>(Page<'a>);

impl<'a> TimersPage<'a> {
    /// Checks a reply of `/liveness/timers/<index>`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8], index: u32) -> Result<Self, Malformed> {
        let page = Page::parse(bytes, MAGIC_TIMERS, index)?;
        if page.header.now == 0 {
            return Err(Malformed::Field);
        }
        Ok(Self(page))
    }

    /// The page's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The records that belong to a domain.
    pub fn timers(&self) -> impl Iterator<Item = TimerRecord> + 'a {
        let page = self.0;
        (0..page.count)
            .filter_map(move |n| timer_record(page.record(n)?))
            .filter(|t| t.used || t.torn())
    }

    /// The records whose last domain was destroyed: they show it as it was then, until
    /// another domain gets them.
    pub fn released(&self) -> impl Iterator<Item = TimerRecord> + 'a {
        let page = self.0;
        (0..page.count)
            .filter_map(move |n| timer_record(page.record(n)?))
            .filter(|t| !t.used && !t.torn() && t.generation != 0)
    }
}

fn timer_record(b: &[u8]) -> Option<TimerRecord> {
    let flags = *b.get(7)?;
    Some(TimerRecord {
        seq: u32_at(b, 0)?,
        domid: u16_at(b, 4)?,
        slot: *b.get(6)?,
        used: flags & 1 != 0,
        armed: flags & 2 != 0,
        timeout_s: u32_at(b, 8)?,
        sets: u32_at(b, 12)?,
        set: u64_at(b, 16)?,
        deadline: u64_at(b, 24)?,
        fired: u64_at(b, 32)?,
        done: u64_at(b, 40)?,
        nr_fired: u32_at(b, 48)?,
        generation: u32_at(b, 52)?,
        domain: Doing::from_word(u32_at(b, 56)?),
        acted: u32_at(b, 60)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::simulated::Scene;

    #[test]
    fn what_the_encoder_of_the_simulation_writes_is_read_back() {
        let scene = Scene::healthy(2, 70);
        let state = scene.state_page();
        let view = StatePage::parse(&state).expect("a sound page");
        assert_eq!(view.pcpus().collect::<Vec<_>>(), scene.pcpus);
        assert_eq!(view.header().nr_pages, 2);
        let page = scene.timers_page(1);
        let view = TimersPage::parse(&page, 1).expect("a sound page");
        assert_eq!(view.timers().count(), 70 - TIMERS_PER_PAGE);
        assert_eq!(view.timers().next(), scene.timers.get(63).copied());
    }

    #[test]
    fn what_a_domain_is_doing_is_read_back_and_unknown_without_the_bit_that_says_so() {
        let shutdowns = (0..=u8::MAX).map(|code| Some(Shutdown::from_code(code)));
        for shutdown in shutdowns.chain([None]) {
            for bits in 0..4u8 {
                let doing = Doing {
                    paused: bits & 1 != 0,
                    dying: bits & 2 != 0,
                    shutdown,
                };
                assert_eq!(Doing::from_word(doing.to_word()), Some(doing));
                assert_eq!(Doing::from_word(doing.to_word() & !DOMAIN_KNOWN), None);
            }
        }
    }

    #[test]
    fn every_truncation_is_an_error_never_a_shorter_page() {
        let scene = Scene::healthy(3, 5);
        let state = scene.state_page();
        let timers = scene.timers_page(0);
        for len in 0..state.len() {
            assert_eq!(
                StatePage::parse(&state[..len]).err(),
                Some(Malformed::Truncated)
            );
        }
        for len in 0..timers.len() {
            assert!(TimersPage::parse(&timers[..len], 0).is_err());
        }
    }

    #[test]
    fn wrong_headers_are_told_apart() {
        let cases: [(usize, &[u8], Malformed); 8] = [
            (0, &[0], Malformed::Magic),
            (0, &MAGIC_TIMERS.to_le_bytes(), Malformed::Magic),
            (4, &[2, 0], Malformed::Abi(2)),
            (6, &[56, 0], Malformed::Lengths),
            (8, &[68, 0], Malformed::Lengths),
            (12, &[1], Malformed::Index),
            (24, &[0xff, 0xff, 0xff, 0xff], Malformed::Pages),
            (56, &[0, 0, 0, 0], Malformed::Field),
        ];
        for (at, bytes, expected) in cases {
            let mut page = Scene::healthy(2, 2).state_page();
            page[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(
                StatePage::parse(&page).err(),
                Some(expected),
                "{bytes:?} at {at}"
            );
        }
    }

    #[test]
    fn longer_headers_and_records_of_a_later_hypervisor_are_read_as_far_as_known() {
        let scene = Scene::healthy(2, 2);
        let plain = scene.state_page();
        let mut long = plain[..HEADER_LEN].to_vec();
        long[6..8].copy_from_slice(&72u16.to_le_bytes());
        long[8..10].copy_from_slice(&80u16.to_le_bytes());
        long.extend([0xaa; 8]);
        for record in plain[HEADER_LEN..].chunks(RECORD_LEN) {
            long.extend(record);
            long.extend([0xbb; 16]);
        }
        let view = StatePage::parse(&long).expect("a longer page");
        assert_eq!(view.pcpus().collect::<Vec<_>>(), scene.pcpus);
    }
}
