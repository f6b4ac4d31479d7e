// SPDX-License-Identifier: GPL-2.0-only
//! The liveness table as a reader sees it, and whatever else its words may be.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::{
    DOMAIN_WORDS, MAX_DOMAINS, Malformed, Shutdown, Slot, Starved, Table, length,
};

#[test]
fn a_record_is_read_as_it_was_written() {
    let xen = Simulation::new(4);
    let uuid = Uuid::from_u128(0x0f9b_bd6e_5f0a_4a39_8a8e_0123_4567_89ab);
    xen.create(7, uuid);
    xen.arm(7, 1, 30);
    xen.feed(7, 1);
    xen.shut_down(7, Shutdown::Crash);
    let table = xen.table();
    let domain = table.domain(7).expect("there");
    assert_eq!(
        (domain.uuid, domain.created, domain.exists),
        (uuid, 1, true)
    );
    assert_eq!(domain.shutdown, Some(Shutdown::Crash));
    assert_eq!((domain.slots[1].armed, domain.slots[1].sets), (Some(30), 2));
    assert_eq!(domain.slots[0], Slot::default());
    assert_eq!(table.domids_used(), 8);
    assert_eq!(table.domains().count(), 1);
}

#[test]
fn a_timeout_of_zero_is_not_the_same_as_not_armed() {
    let xen = Simulation::new(1);
    xen.create(1, Uuid::nil());
    assert_eq!(xen.table().slot(1, 0).expect("a slot").armed, None);
    xen.arm(1, 0, 0);
    assert_eq!(xen.table().slot(1, 0).expect("a slot").armed, Some(0));
}

#[test]
fn whatever_the_words_are_the_table_is_refused_or_read_within_them() {
    let xen = Simulation::new(2);
    let good = xen.words();
    for n in 0..8 {
        for bit in 0..64 {
            let words: Vec<AtomicU64> = good
                .iter()
                .map(|w| AtomicU64::new(w.load(Ordering::Relaxed)))
                .collect();
            words[n].fetch_xor(1 << bit, Ordering::Relaxed);
            let Ok(table) = Table::parse(&words) else {
                continue;
            };
            let _ = (0..=table.nr_pcpus()).filter_map(|n| table.pcpu(n)).count();
            let _ = table.domains().count();
            let last = u16::try_from(MAX_DOMAINS - 1).expect("fits");
            let _ = (table.domain(last), table.domain(u16::MAX));
        }
    }
    assert_eq!(Table::parse(&good[..7]).err(), Some(Malformed::Truncated));
    let short = &good[..good.len() - 1024];
    assert_eq!(Table::parse(short).err(), Some(Malformed::Truncated));
}

/// A sound header over as few words as can be: a pCPU, a domid.
const SMALL: [u64; 8] = [
    // Magic, ABI 1, 64 bytes of header.
    0x0040_0001_4e4c_5658,
    // The pCPUs: from byte 64, 64 bytes each.
    64 << 32 | 64,
    // One of them; the domains: from byte 128.
    128 << 32 | 1,
    // 64 bytes each, one of them.
    1 << 32 | 64,
    // The UUIDs: from byte 192, 16 bytes each.
    16 << 32 | 192,
    1_000,
    0,
    1,
];
/// Words of all that.
const SMALL_LEN: usize = (192 + 16) / 8;

/// The header with words replaced, over so many words.
fn parsed(changed: &[(usize, u64)], len: usize) -> Result<(), Malformed> {
    let mut header = SMALL;
    changed.iter().for_each(|(n, word)| header[*n] = *word);
    let words: Vec<AtomicU64> = (0..len)
        .map(|n| AtomicU64::new(header.get(n).copied().unwrap_or(0)))
        .collect();
    Table::parse(&words).map(drop)
}

#[test]
fn a_header_is_taken_up_to_its_bounds_and_refused_beyond_them() {
    assert_eq!(parsed(&[], SMALL_LEN), Ok(()));
    assert_eq!(parsed(&[], SMALL_LEN - 1), Err(Malformed::Truncated));
    let long = 4 * 1024 * 1024 / 8;
    let fine: [&[(usize, u64)]; 10] = [
        // A longer header and longer records: fields were appended.
        &[(0, 0x0080_0001_4e4c_5658)],
        &[(1, 72 << 32 | 64)],
        &[(3, 1 << 32 | 72)],
        &[(4, 24 << 32 | 192)],
        &[(1, 256 << 32 | 64)],
        &[(3, 1 << 32 | 256)],
        &[(4, 64 << 32 | 192)],
        &[(2, 128 << 32 | 4_095)],
        &[(3, 0x7ff0 << 32 | 64)],
        // Parts in another order, one over another.
        &[(1, 64 << 32 | 192)],
    ];
    for changed in fine {
        assert_eq!(parsed(changed, long), Ok(()), "{changed:x?}");
    }
    let wrong: [&[(usize, u64)]; 22] = [
        // A header that is too short.
        &[(0, 0x003f_0001_4e4c_5658)],
        // Records that begin in the header, or not at a word.
        &[(1, 64 << 32 | 56)],
        &[(1, 64 << 32 | 68)],
        &[(2, 56 << 32 | 1)],
        &[(2, 132 << 32 | 1)],
        &[(4, 16 << 32 | 56)],
        &[(4, 16 << 32 | 196)],
        // Ones that are too short, or no whole words.
        &[(1, 56 << 32 | 64)],
        &[(1, 68 << 32 | 64)],
        &[(3, 1 << 32 | 56)],
        &[(3, 1 << 32 | 68)],
        &[(4, 8 << 32 | 192)],
        &[(4, 20 << 32 | 192)],
        // Ones that are out of all proportion, or too far away.
        &[(1, 264 << 32 | 64)],
        &[(3, 1 << 32 | 264)],
        &[(4, 72 << 32 | 192)],
        &[(1, 64 << 32 | 0x0100_0008)],
        &[(2, 0xffff_fff8 << 32 | 1)],
        // None, or too many.
        &[(2, 128 << 32)],
        &[(2, 128 << 32 | 4_096)],
        &[(3, 64)],
        &[(3, 0x7ff1 << 32 | 64)],
    ];
    for changed in wrong {
        assert_eq!(
            parsed(changed, long),
            Err(Malformed::Layout),
            "{changed:x?}"
        );
    }
    let abi = [(0, 0x0040_0002_4e4c_5658)];
    assert_eq!(parsed(&abi, long), Err(Malformed::Abi(2)));
    assert_eq!(
        parsed(&[(0, 0x0040_0001_4e4c_5659)], long),
        Err(Malformed::Magic)
    );
    let mut far = SMALL.map(AtomicU64::new);
    far[1] = AtomicU64::new(64 << 32 | 0x0100_0000);
    assert_eq!(length(&far), Ok(0x0100_0000 + 64));
    // Each part reaches as far as the table has to.
    let reach: [&[(usize, u64)]; 3] = [
        &[(1, 64 << 32 | 8_000)],
        &[(2, 8_000 << 32 | 1)],
        &[(4, 64 << 32 | 8_000)],
    ];
    for changed in reach {
        let words = (8_000 + 64) / 8;
        assert_eq!(parsed(changed, words), Ok(()), "{changed:x?}");
        assert_eq!(parsed(changed, words - 1), Err(Malformed::Truncated));
        let mut header = SMALL;
        changed.iter().for_each(|(n, word)| header[*n] = *word);
        let header = header.map(AtomicU64::new);
        assert_eq!(length(&header), Ok(8_064), "asked with the header alone");
    }
    assert_eq!(
        length(&SMALL.map(AtomicU64::new)[..4]),
        Err(Malformed::Truncated)
    );
}

#[test]
fn each_field_is_read_from_its_place() {
    let xen = Simulation::new(3);
    let record = 8 + 2 * 8;
    for (n, word) in [7 << 32 | 1, 3 << 32 | 9, 250 << 32 | 1, 4 << 32 | 6]
        .iter()
        .enumerate()
    {
        xen.store(record + n, *word);
    }
    let pcpu = xen.table().pcpu(2).expect("there");
    assert_eq!((pcpu.online, pcpu.canary), (true, 7));
    assert_eq!((pcpu.requested, pcpu.decided, pcpu.idle), (9, 3, true));
    let starved = Starved {
        ms: 250,
        domid: 6,
        vcpu: 4,
    };
    assert_eq!(pcpu.starved, Some(starved));
    assert_eq!(xen.table().pcpu(0).expect("there").starved, None);
    assert!(!xen.table().pcpu(0).expect("there").idle);
    assert_eq!(xen.table().pcpu(3), None);
    xen.excuse(2);
    assert_eq!(
        (xen.table().excused(), xen.table().canary_period_ms()),
        (2, 1_000)
    );
    // Flags and shutdown codes.
    let codes = [
        Shutdown::Poweroff,
        Shutdown::Reboot,
        Shutdown::Suspend,
        Shutdown::Crash,
        Shutdown::Watchdog,
        Shutdown::SoftReset,
        Shutdown::Other(6),
    ];
    xen.create(3, Uuid::nil());
    xen.pause(3, true);
    for (code, expected) in (0..).zip(codes) {
        assert_eq!(expected.code(), code);
        xen.shut_down(3, expected);
        let domain = xen.table().domain(3).expect("there");
        assert_eq!(domain.shutdown, Some(expected));
        assert!(domain.paused && domain.exists && !domain.dying);
    }
    xen.pause(3, false);
    xen.destroy(3);
    let gone = xen.table().domain(3).expect("its record outlives it");
    assert!(!gone.paused && !gone.exists && gone.dying);
    assert_eq!((xen.table().created(), xen.table().created_of(3)), (1, 1));
    assert_eq!(
        (xen.table().created_of(4), xen.table().created_of(u16::MAX)),
        (0, 0)
    );
}

#[test]
fn a_slot_tells_what_was_set_acted_done_and_disarmed() {
    let xen = Simulation::new(1);
    let table = xen.table();
    xen.create(2, Uuid::nil());
    assert_eq!(table.armed(2), None, "no slot is armed");
    for slot in [0, 1] {
        let read = || table.slot(2, slot).expect("a slot");
        assert!(!read().expired(), "it was never set");
        xen.arm(2, slot, 10);
        xen.feed(2, slot);
        assert!(!read().serviced() && !read().expired());
        let (created, armed) = table.armed(2).expect("armed");
        assert_eq!((created, armed[slot]), (1, Some(read())));
        xen.expire(2, slot);
        let expired = read();
        assert_eq!((expired.sets, expired.done), (2, 2));
        assert!(expired.serviced());
        // The first has shut the domain down, the second finds it so.
        assert_eq!(
            (expired.acted, expired.expired()),
            ([2, 0][slot], slot == 0)
        );
        let armed = table.armed(2).expect("armed").1[slot].expect("this one");
        assert_eq!((armed.acted, armed.done), (expired.acted, 2));
        for _ in 0..=slot {
            xen.disarm(2, slot);
        }
        assert_eq!((read().armed, read().disarms), (None, [1, 2][slot]));
    }
    assert_eq!(table.slot(2, 2), None, "there are two");
    assert_eq!(table.armed(u16::MAX), None);
    assert_eq!(table.domain(1), None, "it never had one");
}

#[test]
fn what_has_changed_since_an_earlier_look_is_found_by_its_words() {
    let xen = Simulation::new(1);
    let table = xen.table();
    xen.create(2, Uuid::from_u128(5));
    let mut words = [0; DOMAIN_WORDS];
    assert!(table.renew(2, &mut words));
    assert!(!table.renew(2, &mut words), "nothing since");
    xen.arm(2, 1, 3);
    assert!(table.renew(2, &mut words));
    xen.rename(2, Uuid::from_u128(6));
    assert!(table.renew(2, &mut words), "its UUID");
    xen.create(1, Uuid::from_u128(7));
    xen.create(3, Uuid::from_u128(7));
    assert!(!table.renew(2, &mut words), "its neighbours are others");
    assert!(!table.renew(u16::MAX, &mut words));
}

/// Reads while another thread writes, until that has written so often.
fn race(xen: &Simulation, write: impl Fn(u64) + Sync, read: impl Fn(&Table<'_>)) {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=300_000).for_each(&write);
            done.store(true, Ordering::Release);
        });
        let table = xen.table();
        while !done.load(Ordering::Acquire) {
            read(&table);
        }
    });
}

#[test]
fn a_domain_is_never_made_up_of_two() {
    let xen = Simulation::new(1);
    let write = |n: u64| {
        xen.create(3, Uuid::from_u128(n.into()));
        xen.arm(3, 0, u32::try_from(n).expect("few"));
    };
    race(&xen, write, |table| {
        let Some(domain) = table.domain(3).filter(|domain| domain.exists) else {
            return;
        };
        assert_eq!(domain.uuid.as_u128(), u128::from(domain.created));
        let armed = domain.slots[0].armed.map(u64::from);
        assert!(armed.is_none_or(|n| n == domain.created), "{domain:?}");
    });
}

#[test]
fn a_slot_is_never_said_to_be_done_for_a_later_feed() {
    let xen = Simulation::new(1);
    xen.create(3, Uuid::nil());
    let write = |_: u64| {
        xen.arm(3, 1, 1);
        xen.expire(3, 1);
    };
    race(&xen, write, |table| {
        let slot = table.slot(3, 1).expect("a slot");
        assert!(
            slot.done <= slot.sets && slot.acted <= slot.sets,
            "{slot:?}"
        );
    });
}
