// SPDX-License-Identifier: GPL-2.0-only
//! Whatever the hypervisor answers: no panic, and never served unless the bytes are a
//! sound page that says so.
//!
//! Input: an even first byte: the rest, split, is the state page and one page of timers.
//! An odd one: a sound host's two pages, with bytes overwritten as the rest says
//! (where, where, what).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xenwarden::guard::evidence::Verdict;
use xenwarden::xen::Hypervisor;
use xenwarden::xen::hypfs::contents;
use xenwarden::xen::liveness::{ABI, MAGIC_STATE};
use xenwarden::xen::patched::Patched;
use xenwarden::xen::simulated::{Scene, Simulated};
use xenwarden::xen::snapshot::Snapshots;

/// One for all runs: making it costs more than a look.
static COPY: LazyLock<Snapshots> = LazyLock::new(Snapshots::new);

fn sound_start(state: &[u8]) -> bool {
    let mut start = MAGIC_STATE.to_le_bytes().to_vec();
    start.extend(ABI.to_le_bytes());
    state.starts_with(&start)
}

fn split(rest: &[u8], at: u8) -> [Vec<u8>; 2] {
    let (state, timers) = rest.split_at(usize::from(at) * 8 % (rest.len() + 1));
    [state.to_vec(), timers.to_vec()]
}

fn overwritten(edits: &[u8]) -> [Vec<u8>; 2] {
    let scene = Scene::healthy(3, 5);
    let mut pages = [scene.state_page(), scene.timers_page(0)];
    for edit in edits.chunks_exact(3) {
        let at = usize::from(edit[0]) << 8 | usize::from(edit[1]);
        let page = &mut pages[at & 1];
        let len = page.len();
        page[(at >> 1) % len] = edit[2];
    }
    pages
}

fuzz_target!(|data: &[u8]| {
    let _ = contents(data);
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let [state, timers] = if how & 1 == 0 {
        split(rest, *how)
    } else {
        overwritten(rest)
    };
    let sound = sound_start(&state);
    let evidence = Patched::new(Simulated::raw(state, vec![timers])).look(Some(&COPY));
    if let Verdict::Served { .. } = evidence.verdict {
        assert!(sound, "served by an unsound page");
    }
    let _ = COPY.latest();
});
