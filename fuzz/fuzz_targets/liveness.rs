// SPDX-License-Identifier: GPL-2.0-only
//! Whatever the hypervisor's memory holds: no panic, nothing read beyond it, and never served
//! unless it is a sound table that says so.
//!
//! Input: an even first byte: the rest is the table. An odd one: a small sound table with
//! words overwritten, as the rest says (where, what), and looked at after each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use xenwarden::guard::evidence::{Evidence, Verdict};
use xenwarden::sys::clock::{Monotonic, NS_PER_MS};
use xenwarden::xen::table::{ABI, MAGIC, Table, length};

const PCPUS: u64 = 3;
const DOMAINS: u64 = 5;

/// A table of few records: header, pCPUs, domains, handles.
fn sound() -> Vec<AtomicU64> {
    let domains = 64 + PCPUS * 64;
    let handles = domains + DOMAINS * 64;
    let header = [
        u64::from(MAGIC) | u64::from(ABI) << 32 | 64 << 48,
        64 | 64 << 32,
        PCPUS | domains << 32,
        64 | DOMAINS << 32,
        handles | 16 << 32,
        1000,
        DOMAINS,
        DOMAINS,
    ];
    let len = usize::try_from(handles + DOMAINS * 16).expect("small") / 8;
    let words = header.into_iter().chain(std::iter::repeat(0));
    words.take(len).map(AtomicU64::new).collect()
}

/// Looks every 250 ms of its own time after each change; what is read besides must not panic.
fn looks(words: &[AtomicU64], changes: &[u8]) {
    let Ok(table) = Table::parse(words) else {
        return;
    };
    assert!(length(words).is_ok_and(|bytes| bytes <= words.len() * 8));
    let mut evidence = Evidence::new(&table).starved_after(Some(NS_PER_MS));
    let now = Cell::new(1_000_000);
    for change in changes.chunks_exact(4) {
        let at = usize::from(change[0]) << 8 | usize::from(change[1]);
        let value = u64::from(change[2]) << (change[3] & 63);
        words[at % words.len()].fetch_xor(value, Ordering::Relaxed);
        now.set(now.get() + 250);
        let (verdict, _) = evidence.look(&table, || Monotonic(now.get() * NS_PER_MS));
        let online = (0..table.nr_pcpus()).filter_map(|n| table.pcpu(n));
        if let Verdict::Served { .. } = verdict {
            assert!(online.into_iter().any(|pcpu| pcpu.online), "served by nobody");
        }
        let _ = table.domains().count();
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    if how & 1 == 1 {
        return looks(&sound(), rest);
    }
    let words: Vec<AtomicU64> = rest
        .chunks_exact(8)
        .map(|word| AtomicU64::new(u64::from_le_bytes(word.try_into().expect("8 bytes"))))
        .collect();
    looks(&words, rest);
});
