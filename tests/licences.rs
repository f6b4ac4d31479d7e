// SPDX-License-Identifier: GPL-2.0-only
//! The project's own files say their licence, and nothing it depends on forbids it.
#![allow(clippy::expect_used)] // how tests fail

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Licences that go with GPL-2.0-only; the same as in deny.toml.
const COMPATIBLE: [&str; 10] = [
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "GPL-2.0-only",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = output.expect(program);
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// An SPDX expression without exceptions: OR of ANDs, or ANDs of parenthesised ORs.
fn compatible(expression: &str) -> bool {
    let expression = expression.trim().replace('/', " OR ");
    if let Some((left, right)) = split_outside_parentheses(&expression, " AND ") {
        return compatible(left) && compatible(right);
    }
    if let Some((left, right)) = split_outside_parentheses(&expression, " OR ") {
        return compatible(left) || compatible(right);
    }
    let bare = expression
        .strip_prefix('(')
        .and_then(|e| e.strip_suffix(')'));
    match bare {
        Some(inner) => compatible(inner),
        None => COMPATIBLE.contains(&expression.as_str()),
    }
}

fn split_outside_parentheses<'a>(text: &'a str, by: &str) -> Option<(&'a str, &'a str)> {
    text.match_indices(by)
        .map(|(at, _)| text.split_at(at))
        .find(|(left, _)| left.matches('(').count() == left.matches(')').count())
        .map(|(left, right)| (left, right.strip_prefix(by).unwrap_or(right)))
}

#[test]
fn every_dependency_offers_a_licence_that_goes_with_gpl_2_only() {
    let metadata = output("cargo", &["metadata", "--format-version", "1", "--locked"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo's metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 10, "these are not all");
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(compatible(licence), "{}: {licence}", package["name"]);
        let source = package["source"].as_str().unwrap_or("registry+");
        assert!(
            source.starts_with("registry+"),
            "{}: {source}",
            package["name"]
        );
    }
}

#[test]
fn apache_alone_is_not_compatible() {
    assert!(!compatible("Apache-2.0"));
    assert!(!compatible("(MIT OR Apache-2.0) AND OpenSSL"));
    assert!(compatible("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(compatible("MIT/Apache-2.0"));
}

#[test]
fn every_file_says_its_licence() {
    // A file of state has the form that the monitor writes, which knows no comments; nor do some of Debian's.
    let unmarked = [
        "LICENSE",
        "Cargo.lock",
        "fuzz/Cargo.lock",
        "packaging/debian/changelog",
        "packaging/debian/copyright",
        "packaging/debian/source/format",
        "tests/golden/guests.json",
    ];
    for file in output("git", &["ls-files"]).lines() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        // A series lists file names and nothing else; patches carry their files' own lines.
        let by_nature = file.ends_with("/series") || file.ends_with(".patch");
        if unmarked.contains(&file) || by_nature || !path.exists() {
            continue;
        }
        let bytes = std::fs::read(&path).expect(file);
        let start = String::from_utf8_lossy(bytes.get(..400).unwrap_or(&bytes)).into_owned();
        assert!(start.contains("SPDX-License-Identifier: "), "{file}");
    }
}
