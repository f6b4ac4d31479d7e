// SPDX-License-Identifier: GPL-2.0-only
//! The liveness table as a reader sees it, and whatever else its words may be.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;
use xenwarden::xen::simulation::Simulation;
use xenwarden::xen::table::{MAX_DOMAINS, Malformed, Shutdown, Slot, Table};

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
