// SPDX-License-Identifier: GPL-2.0-only
//! Domains that no host of ours can carry: their records are written into the hypervisor's table from outside.
//!
//! As in [`super::lives`] the host must live. The layout is that of xen-patches/README.md.

use super::figures::Figures;
use super::lives::WATCHED;
use super::{Row, ready};
use crate::error::Result;
use crate::host::{Host, MONITOR};
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use std::time::Duration;

/// All rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { name: "table-full", what: "10,000 guest watchdogs are armed", run: full },
    Row { name: "domid-reused", what: "a domid's next domain has fed as often as the one before it", run: domid_reused },
    Row { name: "thousand", what: "1,000 guests feed each second; what guard and monitor then cost", run: thousand },
];

/// The first domid of those that are written.
const FIRST: u16 = 1_000;
/// The creation number of the first.
const CREATED: u64 = 1_000_000;

/// What is written of each domain.
#[derive(Clone, Copy)]
struct Record {
    created: u64,
    /// The timeout of both its watchdogs, in seconds, and how often each was set.
    timeout_s: u32,
    sets: u32,
}

impl Record {
    const SIZE: usize = 64;

    fn armed(created: u64, timeout_s: u32, sets: u32) -> Self {
        Self {
            created,
            timeout_s,
            sets,
        }
    }

    fn bytes(self) -> [u8; Self::SIZE] {
        let set = u64::from(self.timeout_s + 1) << 32 | u64::from(self.sets);
        let mut record = [0_u8; Self::SIZE];
        for at in [0, 16] {
            record[at..at + 8].copy_from_slice(&set.to_le_bytes());
        }
        record[32] = 1;
        record[40..48].copy_from_slice(&self.created.to_le_bytes());
        record
    }
}

impl Host {
    /// Writes the records of so many domains, each with the creation number after the one before it, and a handle for each.
    fn write_records(&mut self, domains: u16, first: Record) -> Result<()> {
        const HANDLE: u64 = 16;
        let symbols = ["table", "domains", "handles"].map(|name| self.symbols.get(name));
        let [table, records, handles] = symbols;
        let (table, records, handles) = (table?.address, records?.address, handles?.address);
        self.machine
            .debug(|gdb| {
                let header = gdb.read_u64(table)?;
                let (records, handles) = (gdb.read_u64(records)?, gdb.read_u64(handles)?);
                for n in 0..domains {
                    let domid = u64::from(FIRST + n);
                    let record = Record {
                        created: first.created + u64::from(n),
                        ..first
                    };
                    gdb.write(records + domid * Record::SIZE as u64, &record.bytes())?;
                    let handle = u128::from(domid).to_be_bytes();
                    gdb.write(handles + domid * HANDLE, &handle)?;
                }
                gdb.write(header + 56, &u32::from(FIRST + domains).to_le_bytes())
            })
            .map(drop)
    }
}

fn full(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const DOMAINS: u16 = 5_000;
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    // It would take each of them for a guest; this is about the guard.
    host.end_program(MONITOR, "-TERM")?;
    let few = host.status()?.kick_path.max_look_us;
    host.write_records(DOMAINS, Record::armed(CREATED, 3_600, 1))?;
    let outcome = host.lives_on(WATCHED).and_then(|()| {
        let many = host.status()?.kick_path.max_look_us;
        Ok(vec![format!(
            "a look takes at most {few} us, with {} slots armed {many} us",
            2 * DOMAINS
        )])
    });
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// Two domains of one domid, each with a watchdog of 10 s that was set once, live for 9 s each: whoever took them for one would see no
/// feed for 18 s.
fn domid_reused(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const LIFE: Duration = Duration::from_secs(9);
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let mut lives = || {
        for created in [CREATED, CREATED + 1] {
            host.write_records(1, Record::armed(created, 10, 1))?;
            host.pass(LIFE)?;
        }
        host.write_records(1, Record::armed(CREATED + 2, 3_600, 1))?;
        host.lives_on(WATCHED)
    };
    let outcome = lives().map(|()| Vec::new());
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}

/// How many domains [`Crowd`] has.
pub const THOUSAND: u16 = 1_000;

/// Domains in the hypervisor's table that feed when they are told to.
#[derive(Default)]
pub struct Crowd {
    sets: u32,
}

impl Crowd {
    /// Each of them feeds once.
    pub fn feed(&mut self, host: &mut Host) -> Result<()> {
        self.sets += 1;
        host.write_records(THOUSAND, Record::armed(CREATED, 30, self.sets))
    }
}

fn thousand(laboratory: &Laboratory, phase: Duration) -> Result<Figures> {
    const SECONDS: u32 = 60;
    let mut host = ready(laboratory, Shape::Everywhere, phase)?;
    let mut crowd = Crowd::default();
    let mut feed = |host: &mut Host| {
        crowd.feed(host)?;
        host.pass(Duration::from_secs(1))
    };
    // The first look at each, and what is told of it, is not what is measured.
    (0..5).try_for_each(|_| feed(&mut host))?;
    let used = host.used_while(Duration::from_secs(SECONDS.into()), |host| {
        (0..SECONDS).try_for_each(|_| feed(host))
    })?;
    // What it would tell of so many guests passes through the laboratory's channel far too slowly.
    host.end_program(MONITOR, "-TERM")?;
    let outcome = host.write_records(THOUSAND, Record::armed(CREATED, 3_600, 1));
    let outcome = outcome.and_then(|()| host.lives_on(WATCHED));
    let outcome = outcome.map(|()| vec![format!("{THOUSAND} guests: {used}")]);
    Ok(Figures::of(outcome, host.machine.log.lines_from(0)))
}
