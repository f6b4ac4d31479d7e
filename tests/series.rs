// SPDX-License-Identifier: GPL-2.0-only
//! The series of patches for Xen and for QEMU, as far as they can be looked at without a tree: that each is whole, in order, and as
//! upstream wants mails to be. `make series` applies those for Xen, `make qemu-test` those for QEMU.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is patched, and how many series there are for it at least.
const PATCHED: [(&str, usize); 2] = [("xen-patches", 5), ("qemu-patches", 2)];

fn folders() -> Vec<PathBuf> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of = |(patches, least): (&str, usize)| {
        let entries = fs::read_dir(project.join(patches))
            .expect(patches)
            .flatten();
        let all: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        assert!(all.len() >= least, "{all:?}");
        all
    };
    PATCHED.into_iter().flat_map(of).collect()
}

/// Names as in `series`, in order, and what the files say.
fn listed(folder: &Path) -> Vec<(String, String)> {
    let list = fs::read_to_string(folder.join("series")).expect("series");
    let names = list.lines().filter(|line| !line.starts_with('#'));
    names
        .map(|name| {
            (
                name.to_owned(),
                fs::read_to_string(folder.join(name)).expect(name),
            )
        })
        .collect()
}

/// Patches below a folder; not a cover letter.
fn found(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries
        .map(|entry| entry.path())
        .flat_map(|path| {
            if path.is_dir() {
                found(&path)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .filter(|path| !path.ends_with("0000-cover-letter.patch"))
        .collect()
}

#[test]
fn every_patch_is_in_its_series() {
    for folder in folders() {
        let listed: BTreeSet<_> = listed(&folder)
            .into_iter()
            .map(|(name, _)| folder.join(name))
            .collect();
        let found: BTreeSet<_> = found(&folder).into_iter().collect();
        assert_eq!(listed, found);
    }
}

/// The file, and the abbreviated hashes before and after, of each `index` line.
fn changes(patch: &str) -> Vec<(&str, &str, &str)> {
    let files = patch.split("\ndiff --git a/").skip(1);
    files
        .map(|file| {
            let name = file.split(' ').next().expect("a name");
            let index = file.lines().find_map(|line| line.strip_prefix("index "));
            let hashes = index.expect(name).split(' ').next().expect(name);
            let (before, after) = hashes.split_once("..").expect(name);
            (name, before, after)
        })
        .collect()
}

#[test]
fn each_patch_begins_where_the_one_before_it_ended() {
    for folder in folders() {
        let mut now: BTreeMap<(PathBuf, String), String> = BTreeMap::new();
        for (patch, text) in listed(&folder) {
            // What is submitted by itself, in a folder of its own, is on top of nothing.
            let submission = Path::new(&patch).parent().expect("a folder");
            for (file, before, after) in changes(&text) {
                let key = (submission.to_owned(), file.to_owned());
                if let Some(last) = now.insert(key, after.to_owned()) {
                    let same = last.starts_with(before) || before.starts_with(&last);
                    assert!(same, "{}: {patch}: {file}", folder.display());
                }
            }
        }
    }
}

#[test]
fn patches_are_signed_off_and_their_subjects_short() {
    for folder in folders() {
        for (name, text) in listed(&folder) {
            let (head, _) = text.split_once("\n---\n").expect("a message");
            let signed = head.lines().any(|line| line.starts_with("Signed-off-by: "));
            let (_, subject) = head.split_once("] ").expect("a subject");
            let subject = subject
                .split("\n\n")
                .next()
                .expect("a subject")
                .replace('\n', "");
            assert!(signed && subject.len() <= 80, "{name}: {subject}");
            let mut lines = head
                .lines()
                .filter(|line| !line.starts_with("Signed-off-by: "));
            assert!(lines.all(|line| line.len() <= 80), "{name}");
        }
    }
}

#[test]
fn the_watchdogs_default_is_not_in_xcp_ngs_series() {
    // Its own patch has `watchdog` mean `watchdog=force`, which ours would undo.
    let folder = folders()
        .into_iter()
        .find(|path| path.ends_with("xcp-ng-8.3"));
    let patches = listed(&folder.expect("a series for XCP-ng"));
    assert!(
        patches
            .iter()
            .all(|(_, text)| !text.contains("watchdog_force"))
    );
}
