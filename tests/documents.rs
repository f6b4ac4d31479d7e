// SPDX-License-Identifier: GPL-2.0-only
//! The documents: their links lead somewhere, what they have make do it can do, and whoever is
//! called at night finds each event that is a warning or an error.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // how tests fail

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents of the project.
fn documents() -> Vec<PathBuf> {
    let directories = [
        "",
        "doc",
        "init",
        "packaging",
        "xen-patches",
        "qemu-patches",
        "fuzz",
        "tests/lab",
    ];
    let found = directories.iter().flat_map(|directory| {
        let entries = fs::read_dir(root().join(directory));
        entries.into_iter().flatten().flatten()
    });
    let paths = found.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// Where the links of a text lead, of the form `[words](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The name by which a heading is linked to.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    plain
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn each_link_within_the_project_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() >= 5, "{documents:?}");
    let mut tried = 0;
    for document in &documents {
        let text = fs::read_to_string(document).expect("a document");
        for link in links(&text).filter(|link| !link.contains("://")) {
            tried += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().expect("a directory").join(file),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("a document");
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line) == heading);
                assert!(found, "{}: {link}", document.display());
            }
        }
    }
    assert!(tried > 5, "{tried} links");
}

/// What a text has make do, where it is a command: a line of its own, indented, or between backquotes.
fn made(text: &str) -> BTreeSet<String> {
    let indented = text.lines().filter(|line| line.starts_with("    "));
    let between = text
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let commands = indented.chain(between).filter_map(|code| {
        let code = code.trim().trim_start_matches("- run: ");
        code.strip_prefix("make ")
    });
    let name = |c: char| c.is_ascii_lowercase() || c == '-';
    let targets = commands.flat_map(|rest| {
        let words = rest.split(' ');
        words.take_while(|word| !word.is_empty() && word.chars().all(name))
    });
    let targets = targets.filter(|word| !word.starts_with('-'));
    targets.map(str::to_owned).collect()
}

#[test]
fn what_documents_and_workflows_have_make_do_is_a_target() {
    let makefiles = ["Makefile", "packaging/packages.mk"].map(|file| {
        let text = fs::read_to_string(root().join(file));
        text.expect("a makefile")
    });
    let rules = makefiles.iter().flat_map(|text| text.lines());
    let rules = rules.filter(|line| !line.starts_with(['\t', '#', ' ']));
    let targets: BTreeSet<&str> = rules
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(targets, _)| targets.split(' '))
        .collect();
    let workflow = fs::read_to_string(root().join(".github/workflows/ci.yml")).expect("a workflow");
    let mut tried = 0;
    // xen-patches has make of other projects.
    let own = documents()
        .into_iter()
        .filter(|path| !path.starts_with(root().join("xen-patches")));
    let texts = own.map(|path| fs::read_to_string(path).expect("a document"));
    for text in texts.chain([workflow.clone()]) {
        for target in made(&text) {
            tried += 1;
            assert!(targets.contains(target.as_str()), "make {target}");
        }
    }
    assert!(tried > 20, "{tried} targets");
    for step in [
        "run: .ci/run",
        "run: make oldest-compiler",
        "run: make deb rpm",
    ] {
        assert!(workflow.contains(step), "{step}");
    }
}

#[test]
fn whoever_is_called_at_night_finds_each_event_and_each_cause() {
    let operating = fs::read_to_string(root().join("doc/operating.md")).expect("a document");
    let schema = fs::read_to_string(root().join("doc/events.schema.json")).expect("a schema");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let kinds = schema["$defs"].as_object().expect("kinds");
    let mut looked = 0;
    for (kind, form) in kinds.iter().filter(|(kind, _)| kind.contains('.')) {
        let severity = form["properties"]["severity"]["const"].as_str();
        if severity.expect("a severity") == "info" {
            continue;
        }
        looked += 1;
        assert!(operating.contains(&format!("`{kind}`")), "{kind}");
    }
    assert!(looked > 10, "{looked} kinds");
    let causes = &kinds["host.reset_reason"]["properties"]["cause"]["enum"];
    for cause in causes.as_array().expect("causes") {
        let cause = cause.as_str().expect("a word");
        assert!(operating.contains(&format!("| `{cause}` |")), "{cause}");
    }
}

#[test]
fn the_version_is_the_same_wherever_it_is_told() {
    let version = env!("CARGO_PKG_VERSION");
    for (path, line) in [
        (
            "packaging/debian/changelog",
            format!("xenwarden ({version}-"),
        ),
        ("packaging/xenwarden.spec", format!("Version: {version}\n")),
        ("packaging/xenwarden.spec", format!(" - {version}-1\n")),
        ("CHANGELOG.md", format!("\n## {version} - 20")),
        ("fuzz/Cargo.toml", format!("\nversion = \"{version}\"\n")),
    ] {
        let text = fs::read_to_string(root().join(path)).expect("a text");
        assert!(text.contains(&line), "{path} is not of {version}");
    }
}
