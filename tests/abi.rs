// SPDX-License-Identifier: GPL-2.0-only
//! The decoder against the patch series' own C header, and our ioctl numbers against the
//! kernel's: a C program compiled here fills the structs, the decoder reads them.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xenwarden::sys::watchdog::{WDIOF_KEEPALIVEPING, WDIOF_MAGICCLOSE, WDIOF_SETTIMEOUT};
use xenwarden::xen::liveness::{Doing, Shutdown, StatePage, TimersPage};

const HEADER: &str = "xen/include/public/liveness.h";

/// Fills every field with a value of its own: decimal digits that tell struct and field.
const PROGRAM: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "liveness.h"
static struct xen_liveness_header header(uint32_t magic, unsigned records, unsigned index)
{
    struct xen_liveness_header h = {
        .magic = magic, .abi = XEN_LIVENESS_ABI,
        .hdr_len = sizeof(h), .nr_recs = records, .index = index,
        .now = 1001, .nr_pages = 1002, .nr_armed = 1003, .untracked = 1004, .fired = 1005,
        .last_fired = 1006, .max_fire_late = 1007, .canary_period_ms = 1008,
        .reader_cpu = 1009,
    };
    return h;
}
int main(int argc, char **argv)
{
    if ( !strcmp(argv[1], "state") )
    {
        struct xen_liveness_state s = {
            .cpu = 2001, .flags = XEN_LIVENESS_STATE_canary, .softirq = 2002, .next = 2003,
            .canary_due = 2004, .canary_ran = 2005, .sched = 2006, .sched_req = 2007,
            .canary_runs = 2008, .max_late_us = 2009,
        };
        struct xen_liveness_header h = header(XEN_LIVENESS_MAGIC_STATE, 1, 0);
        h.rec_len = sizeof(s);
        fwrite(&h, sizeof(h), 1, stdout);
        fwrite(&s, sizeof(s), 1, stdout);
    }
    else
    {
        struct xen_liveness_timer t = {
            .seq = 3000, .domid = 3001, .id = 2, .flags = XEN_LIVENESS_TIMER_used,
            .timeout_s = 3002, .sets = 3003, .set = 3004, .deadline = 3005, .fired = 3006,
            .done = 3007, .nr_fired = 3008, .gen = 3009,
            .domain = XEN_LIVENESS_DOMAIN_known | XEN_LIVENESS_DOMAIN_shutdown |
                      XEN_LIVENESS_DOMAIN_dying | 3 << 8, /* SHUTDOWN_crash */
            .acted = 3010,
        };
        struct xen_liveness_header h = header(XEN_LIVENESS_MAGIC_TIMERS, 1, 7);
        h.rec_len = sizeof(t);
        fwrite(&h, sizeof(h), 1, stdout);
        fwrite(&t, sizeof(t), 1, stdout);
    }
    return 0;
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
    // The public headers' own base is not needed: fixed-width types are C's.
    fs::write(directory.join("xen.h"), "").expect("write");
    let status = Command::new("cc")
        .args(["-Wall", "-Werror", "-Wno-unused-parameter", "-o"])
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
        let binary = compile(&directory, PROGRAM);
        let state = run(&binary, "state");
        let page = StatePage::parse(&state).expect("a state page");
        let h = page.header();
        assert_eq!(
            (h.now, h.nr_pages, h.nr_armed, h.untracked),
            (1001, 1002, 1003, 1004)
        );
        assert_eq!((h.fired, h.last_fired, h.max_fire_late), (1005, 1006, 1007));
        assert_eq!((h.canary_period_ms, h.reader_cpu), (1008, 1009));
        let p = page.pcpus().next().expect("a record");
        assert_eq!((p.cpu, p.online, p.canary), (2001, false, true));
        assert_eq!(
            (p.softirq, p.next, p.canary_due, p.canary_ran),
            (2002, 2003, 2004, 2005)
        );
        assert_eq!(
            (p.sched, p.sched_req, p.canary_runs, p.max_late_us),
            (2006, 2007, 2008, 2009)
        );
        let timers = run(&binary, "timers");
        let page = TimersPage::parse(&timers, 7).expect("a page of timers");
        let t = page.timers().next().expect("a record");
        assert_eq!(
            (t.seq, t.domid, t.slot, t.used, t.armed),
            (3000, 3001, 2, true, false)
        );
        assert_eq!(
            (t.timeout_s, t.sets, t.set, t.deadline),
            (3002, 3003, 3004, 3005)
        );
        assert_eq!(
            (t.fired, t.done, t.nr_fired, t.generation),
            (3006, 3007, 3008, 3009)
        );
        let doing = Doing {
            paused: false,
            shutdown: Some(Shutdown::Crash),
            dying: true,
        };
        assert_eq!(t.domain, Some(doing));
        assert_eq!(t.acted, 3010);
    }
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
