// SPDX-License-Identifier: GPL-2.0-only
//! What SPECIFICATION.md says that a promise is held by is there: tests by their names, and rows
//! of the laboratory by their groups and names.
#![allow(clippy::expect_used)] // how tests fail

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// All Rust sources below a directory, one after the other.
fn sources(directory: &str, text: &mut String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *text += &fs::read_to_string(path).expect("a source");
            }
        }
    }
}

/// The words between backquotes, but for what is indented as an example.
fn quoted(specification: &str) -> BTreeSet<&str> {
    specification.split('`').skip(1).step_by(2).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).expect("a file of the project")
}

#[test]
fn each_test_and_each_row_that_is_named_exists() {
    let specification = read("SPECIFICATION.md");
    let (mut tests, mut rows) = (String::new(), String::new());
    sources("tests", &mut tests);
    sources("src", &mut tests);
    sources("tests/lab/src", &mut rows);
    let is_name = |word: &&str| {
        let plain = word
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        plain && word.matches('_').count() >= 4
    };
    let words = quoted(&specification);
    let missing: Vec<&str> = words
        .iter()
        .copied()
        .filter(is_name)
        .filter(|name| !tests.contains(&format!("fn {name}()")))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "no such tests");
    let groups = [
        "wedge", "down", "survive", "alarm", "sink", "pulse", "why", "systemd",
    ];
    let missing: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| {
            let row = word
                .split_once('/')
                .filter(|(group, _)| groups.contains(group));
            // Wedges on other hosts have the host's name behind their own.
            row.is_some_and(|(_, name)| {
                let own = name.trim_end_matches("-stock");
                let names = [name, own].map(|name| format!("\"{name}\""));
                !name.contains(['*', '.']) && !names.iter().any(|name| rows.contains(name))
            })
        })
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "no such rows");
    assert!(words.len() > 100, "the specification names its tests");
}
