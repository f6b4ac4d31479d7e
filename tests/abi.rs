// SPDX-License-Identifier: GPL-2.0-only
//! The decoder against the patch series' own C header, and our ioctl numbers against the
//! kernel's: a C program compiled here fills the structs, the decoder reads them.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU64;
use uuid::Uuid;
use xenwarden::sys::watchdog::{WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT};
use xenwarden::xen::table::{self, Domain, Pcpu, Shutdown, Slot, Starved, Table};

const HEADER: &str = "xen/include/public/liveness.h";

/// A table of two pCPUs and five domids, each field with a value of its own: decimal digits
/// that tell struct and field.
const PROGRAM: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "liveness.h"
static struct {
    struct xen_liveness_header header;
    struct xen_liveness_pcpu pcpus[2];
    struct xen_liveness_domain domains[5];
    uint8_t handles[5][16];
} table;
#define OFFSET(what) ((uint32_t)((char *)table.what - (char *)&table))
int main(void)
{
    unsigned int n;
    table.header = (struct xen_liveness_header){
        .magic = XEN_LIVENESS_MAGIC, .abi = XEN_LIVENESS_ABI, .hdr_len = sizeof(table.header),
        .pcpu_off = OFFSET(pcpus), .pcpu_len = sizeof(table.pcpus[0]), .nr_pcpus = 2,
        .domain_off = OFFSET(domains), .domain_len = sizeof(table.domains[0]), .nr_domains = 5,
        .handle_off = OFFSET(handles), .handle_len = sizeof(table.handles[0]),
        .canary_period_ms = 1001, .excused = 1002, .created = 1003, .domids_used = 4,
    };
    table.pcpus[1] = (struct xen_liveness_pcpu){
        .online = 1, .canary = 2001, .requested = 2002, .decided = 2003, .idle = 1,
        .starved_ms = 2004, .starved_domid = 2005, .starved_vcpu = 2006,
    };
    table.domains[3] = (struct xen_liveness_domain){
        .slot[0] = { .set = 3001, .acted = 3002, .done = 3003 },
        .slot[1] = { .set = 3004 | 3005ULL << 32, .acted = 3006, .done = 3004 },
        .exists = 1, .dying = 1, .shutdown = 3 + 1, /* SHUTDOWN_crash */
        .created = 3007, .disarms = { 3008, 3009 },
    };
    for ( n = 0; n < 16; n++ )
        table.handles[3][n] = 0x10 + n;
    if ( XEN_LIVENESS_SETS(table.domains[3].slot[1].set) != 3004 ||
         XEN_LIVENESS_TIMEOUT(table.domains[3].slot[1].set) != 3005 )
        return 1;
    return fwrite(&table, sizeof(table), 1, stdout) != 1;
}
"#;

/// The new files' lines of one file within a git-format patch.
fn added_file(patch: &str, path: &str) -> String {
    let start = format!("+++ b/{path}\n");
    let (_, rest) = patch.split_once(&start).expect("the patch adds the header");
    rest.lines()
        .take_while(|line| !line.starts_with("diff --git") && *line != "-- ")
        .filter_map(|line| line.strip_prefix('+'))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// `text` as a later patch to the same file leaves it.
fn amended(text: &str, patch: &str, path: &str) -> String {
    let start = format!("+++ b/{path}\n");
    let (_, rest) = patch.split_once(&start).expect("the patch has the header");
    let end = rest.find("\ndiff --git").or_else(|| rest.find("\n-- \n"));
    let (diff, _) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
    let mut text = text.to_owned();
    for hunk in diff.split(" -").skip(1) {
        let (_, body) = hunk.split_once('\n').expect("lines follow a hunk's head");
        let side = |dropped: char| -> String {
            let kept = body.lines().filter(|line| !line.starts_with(dropped));
            kept.map(|line| format!("{}\n", line.get(1..).unwrap_or_default()))
                .collect()
        };
        let (before, after) = (side('+'), side('-'));
        assert_eq!(text.matches(&before).count(), 1, "does not apply: {before}");
        text = text.replacen(&before, &after, 1);
    }
    text
}

/// The header as the whole series leaves it.
fn header_of(series: &Path) -> String {
    let list = fs::read_to_string(series.join("series")).expect("series");
    let marker = format!("+++ b/{HEADER}\n");
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|name| fs::read_to_string(series.join(name)).expect(name))
        .filter(|patch| patch.contains(&marker))
        .fold(None, |text, patch| match text {
            None => Some(added_file(&patch, HEADER)),
            Some(text) => Some(amended(&text, &patch, HEADER)),
        })
        .expect("one patch adds the header")
}

fn compile(directory: &Path, program: &str) -> PathBuf {
    let (source, binary) = (directory.join("main.c"), directory.join("main"));
    fs::write(&source, program).expect("write");
    // Of the public headers' own base one type is needed: the others are C's.
    let base = "#define uint64_aligned_t uint64_t\n";
    fs::write(directory.join("xen.h"), base).expect("write");
    let status = Command::new("cc")
        .args(["-D__XEN_TOOLS__", "-Wall", "-Werror"])
        .args(["-Wno-unused-parameter", "-o"])
        .arg(&binary)
        .arg(&source)
        .status();
    assert!(status.expect("a C compiler").success(), "does not compile");
    binary
}

fn run(binary: &Path, argument: &str) -> Vec<u8> {
    let output = Command::new(binary).arg(argument).output().expect("runs");
    assert!(output.status.success());
    output.stdout
}

fn every_series() -> Vec<PathBuf> {
    let patches = Path::new(env!("CARGO_MANIFEST_DIR")).join("xen-patches");
    let entries = fs::read_dir(patches).expect("xen-patches").flatten();
    let all: Vec<_> = entries
        .map(|e| e.path())
        .filter(|p| p.join("series").exists())
        .collect();
    assert!(!all.is_empty(), "no series");
    all
}

fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).expect("scratch directory");
    directory
}

#[test]
fn the_decoder_reads_what_the_hypervisors_header_lays_out() {
    for series in every_series() {
        let directory = scratch("abi");
        fs::write(directory.join("liveness.h"), header_of(&series)).expect("write");
        let bytes = run(&compile(&directory, PROGRAM), "");
        let words = bytes
            .chunks_exact(8)
            .map(|word| word.try_into().expect("8 bytes"));
        let words: Vec<AtomicU64> = words.map(u64::from_le_bytes).map(AtomicU64::new).collect();
        let table = Table::parse(&words).expect("a table");
        assert_eq!(table::length(&words), Ok(bytes.len()));
        assert_eq!(
            (table.canary_period_ms(), table.excused(), table.created()),
            (1001, 1002, 1003)
        );
        assert_eq!((table.nr_pcpus(), table.domids_used()), (2, 4));
        let pcpu = Pcpu {
            online: true,
            canary: 2001,
            requested: 2002,
            decided: 2003,
            idle: true,
            starved: Some(Starved {
                ms: 2004,
                domid: 2005,
                vcpu: 2006,
            }),
        };
        assert_eq!(table.pcpu(0), Some(Pcpu::default()));
        assert_eq!((table.pcpu(1), table.pcpu(2)), (Some(pcpu), None));
        let slots = [
            Slot {
                sets: 3001,
                armed: None,
                acted: 3002,
                done: 3003,
                disarms: 3008,
            },
            Slot {
                sets: 3004,
                armed: Some(3004),
                acted: 3006,
                done: 3004,
                disarms: 3009,
            },
        ];
        let domain = Domain {
            domid: 3,
            created: 3007,
            uuid: Uuid::from_u128(0x1011_1213_1415_1617_1819_1a1b_1c1d_1e1f),
            exists: true,
            paused: false,
            dying: true,
            shutdown: Some(Shutdown::Crash),
            slots,
        };
        assert_eq!(table.domains().collect::<Vec<_>>(), [domain]);
    }
}

#[test]
fn every_series_has_the_same_header() {
    let headers: Vec<_> = every_series()
        .iter()
        .map(|series| header_of(series))
        .collect();
    assert!(headers.len() >= 4);
    assert!(headers.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn the_watchdog_bits_are_the_kernels() {
    let program = r#"
#include <linux/watchdog.h>
#include <stdio.h>
int main(void)
{
    printf("%u %u %u %zu\n", WDIOF_SETTIMEOUT, WDIOF_MAGICCLOSE, WDIOF_KEEPALIVEPING,
           sizeof(struct watchdog_info));
    return 0;
}
"#;
    let binary = compile(&scratch("watchdog"), program);
    let said = String::from_utf8(run(&binary, "")).expect("text");
    let size = size_of::<xenwarden::sys::watchdog::WatchdogInfo>();
    let ours = format!("{WDIOF_SETTIMEOUT} {WDIOF_MAGICCLOSE} {WDIOF_KEEPALIVEPING} {size}\n");
    assert_eq!(said, ours);
}
