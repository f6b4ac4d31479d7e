// SPDX-License-Identifier: GPL-2.0-only
//! The manual pages have all that the programs have: commands, options, exit codes, signals, files,
//! environment, and keys of the configuration with their defaults. `tests/event_schema.rs` does
//! the same for events.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use clap::CommandFactory;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use xenwarden::cli::arguments::Arguments;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("man").join(name)).expect("a manual page")
}

/// The part of a page below the first heading that begins so, to the next heading of its kind.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let kind = heading.get(..3).expect("a macro");
    let start = page.find(heading);
    let rest = start.and_then(|start| page.get(start + 3..));
    let rest = rest.unwrap_or_else(|| panic!("no section {heading:?}"));
    let end = rest.find(&format!("\n{kind}")).unwrap_or(rest.len());
    rest.get(..end).expect("a part")
}

/// Words that stand alone in a text.
fn words(text: &str) -> BTreeSet<&str> {
    let inner = |c: char| !c.is_ascii_alphanumeric() && !['-', '_'].contains(&c);
    text.split(inner).collect()
}

/// The sources below these paths, without what only tests have.
fn sources(paths: &[&str]) -> String {
    let mut left: Vec<PathBuf> = paths.iter().map(|path| root().join(path)).collect();
    let mut text = String::new();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("a directory").flatten();
            left.extend(entries.map(|entry| entry.path()));
            continue;
        }
        let source = fs::read_to_string(path).expect("a source");
        let of_program = source.split("#[cfg(test)]\nmod tests").next();
        let lines = of_program.unwrap_or_default().lines();
        for line in lines.filter(|line| !line.trim_start().starts_with("//")) {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// What stands between `before` and the next quote, wherever it does.
fn quoted_after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
    let found = text.split(before).skip(1);
    found.filter_map(|rest| rest.split('"').next()).collect()
}

const GUARD: &[&str] = &["src/bin/xenwardend.rs", "src/guard", "src/watchdog"];
const MONITOR: &[&str] = &[
    "src/bin/xenwarden-monitor.rs",
    "src/monitor",
    "src/sink",
    "src/control",
];
const QEMU: &[&str] = &["src/bin/xenwarden-qemu.rs", "src/qemu", "src/qmp"];

/// The pages of the programs.
const PAGES: [&str; 6] = [
    "xenwarden-pool.8",
    "xenwardend.8",
    "xenwarden-monitor.8",
    "xenwarden.1",
    "xenwarden-pulse.8",
    "xenwarden-qemu.8",
];
/// Pacemaker's agent has neither clap nor the exit codes of the others.
const AGENT: &str = "fence_xenwarden.8";
const POOL: &[&str] = &["src/bin/xenwarden-pool.rs", "src/pool"];
const PULSE: &[&str] = &["src/bin/xenwarden-pulse.rs", "src/pulse"];

#[test]
fn each_command_has_a_section_with_its_arguments() {
    let page = page("xenwarden.1");
    let synopsis = section(&page, ".Sh SYNOPSIS");
    let several = section(&page, ".Ss Options of several commands");
    let command = Arguments::command();
    let mut looked = 0;
    for command in command.get_subcommands() {
        let name = command.get_name();
        assert!(synopsis.contains(&format!(".Cm {name}")), "{name}");
        let heading = page.lines().find(|line| {
            let title = line.strip_prefix(".Ss ");
            title.is_some_and(|title| words(title).contains(name))
        });
        let of_it = section(
            &page,
            heading.unwrap_or_else(|| panic!("no section: {name}")),
        );
        for argument in command.get_arguments() {
            looked += 1;
            let id = argument.get_id().as_str();
            match argument.get_long() {
                Some("help") => {}
                Some(long) => {
                    let option = format!("Fl -{long}");
                    let told = of_it.contains(&option) || several.contains(&option);
                    assert!(told, "{name} --{long}");
                    // Of a word as `--for`, the synopsis has it in its own lines.
                    assert!(synopsis.contains(&option), "{name} --{long}");
                }
                None => assert!(synopsis.contains(&format!("Ar {id}")), "{name} {id}"),
            }
        }
    }
    assert!(looked > 15, "{looked} arguments");
}

/// The options that a program's `--help` has, as a page writes them.
fn options(program: &str) -> BTreeSet<String> {
    let output = Command::new(program).arg("--help").output();
    let text = String::from_utf8(output.expect("runs").stdout).expect("text");
    let lines = text.lines().map(str::trim_start);
    let words = lines.filter(|line| line.starts_with('-')).flat_map(|line| {
        line.split("  ")
            .next()
            .unwrap_or_default()
            .split([',', ' '])
    });
    words
        .filter_map(|word| word.strip_prefix('-'))
        .map(|word| format!("Fl {word}"))
        .collect()
}

#[test]
fn each_option_of_each_program_is_in_its_page() {
    let programs = [
        ("xenwardend.8", env!("CARGO_BIN_EXE_xenwardend"), 7),
        (
            "xenwarden-monitor.8",
            env!("CARGO_BIN_EXE_xenwarden-monitor"),
            7,
        ),
        ("xenwarden-qemu.8", env!("CARGO_BIN_EXE_xenwarden-qemu"), 7),
        ("xenwarden-pool.8", env!("CARGO_BIN_EXE_xenwarden-pool"), 7),
        ("xenwarden.1", env!("CARGO_BIN_EXE_xenwarden"), 7),
        (
            "xenwarden-pulse.8",
            env!("CARGO_BIN_EXE_xenwarden-pulse"),
            11,
        ),
    ];
    for (name, program, count) in programs {
        let page = page(name);
        let options = options(program);
        assert_eq!(options.len(), count, "{name}: {options:?}");
        for option in options {
            // `Fl c , -config` is how mdoc(7) writes two of them.
            let second = option.replace("Fl -", " , -");
            let told = page.contains(&option) || page.contains(&second);
            assert!(told, "{name}: {option}");
        }
    }
}

#[test]
fn each_exit_code_is_in_the_page_of_the_program_that_has_it() {
    let constants = fs::read_to_string(root().join("src/exit.rs")).expect("a source");
    let constants: Vec<(&str, &str)> = constants
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": u8 = "))
        .map(|(name, code)| (name, code.trim_end_matches(';')))
        .collect();
    assert!(constants.len() > 5, "{constants:?}");
    for (name, paths, least) in [
        ("xenwardend.8", GUARD, 5),
        ("xenwarden-monitor.8", MONITOR, 6),
        ("xenwarden-pulse.8", PULSE, 3),
        ("xenwarden-qemu.8", QEMU, 6),
        ("xenwarden-pool.8", POOL, 5),
    ] {
        let text = sources(paths);
        let used = words(&text);
        let page = page(name);
        let status = section(&page, ".Sh EXIT STATUS");
        let codes = constants.iter().filter(|(name, _)| used.contains(name));
        let mut count = 0;
        for (constant, code) in codes {
            count += 1;
            assert!(
                status.contains(&format!(".It {code}\n")),
                "{name}: {constant} ({code})"
            );
        }
        assert!(count >= least, "{name}: {count} codes");
    }
    let text = sources(&["src/cli"]);
    let codes = text.lines().filter(|line| line.starts_with("const EXIT_"));
    let page = page("xenwarden.1");
    let status = section(&page, ".Sh EXIT STATUS");
    let mut count = 0;
    for (_, code) in codes.filter_map(|line| line.split_once(": u8 = ")) {
        count += 1;
        let code = code.trim_end_matches(';');
        assert!(
            status.contains(&format!(".It {code}\n")),
            "xenwarden.1: {code}"
        );
    }
    assert!(count >= 4, "{count} codes");
    assert!(status.contains(".It 64\n"));
}

#[test]
fn what_is_read_of_the_environment_is_in_a_page_under_environment() {
    let text = sources(&["src"]);
    let mut names = quoted_after(&text, "env::var(\"");
    names.extend(quoted_after(&text, "env::var_os(\""));
    let of_manager = sources(&["src/sys/inherited.rs"]);
    names.extend(quoted_after(&of_manager, "number(\""));
    assert!(names.len() > 6, "{names:?}");
    let pages = PAGES.map(page);
    for name in names {
        let told =
            |page: &String| section(page, ".Sh ENVIRONMENT").contains(&format!("Ev {name}\n"));
        assert!(pages.iter().any(told), "{name}");
    }
    // What hooks and the journal get.
    let configuration =
        page("xenwarden.conf.5") + &page("xenwarden-pulse.conf.5") + &page("xenwarden-pool.8");
    let given = words(&text);
    let given = given.iter().filter(|word| word.starts_with("XENWARDEN_"));
    assert!(given.clone().count() > 10);
    for name in given {
        assert!(words(&configuration).contains(name), "{name}");
    }
}

#[test]
fn each_file_of_its_own_is_in_a_page_under_files() {
    let text = sources(&["src"]);
    let mut files = BTreeSet::new();
    for place in [
        "/run/xenwarden/",
        "/run/xenwarden_",
        "/etc/xenwarden/",
        "/var/lib/xenwarden",
    ] {
        let found = quoted_after(&text, &format!("\"{place}"));
        files.extend(found.into_iter().map(|name| format!("{place}{name}")));
    }
    let states = text.split('"').filter(|word| {
        let name = word.strip_suffix(".json").or(word.strip_suffix(".beats"));
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase()))
    });
    files.extend(states.map(str::to_owned));
    assert!(files.len() > 10, "{files:?}");
    let pages = PAGES.map(page);
    for file in files {
        let told = |page: &String| section(page, ".Sh FILES").contains(&format!("Pa {file}"));
        assert!(pages.iter().any(told), "{file}");
    }
}

#[test]
fn each_signal_that_is_caught_or_ignored_is_in_the_page_of_the_program() {
    let programs = [
        ("xenwardend.8", GUARD),
        // What src/sink sends to hooks is in xenwarden.conf(5).
        (
            "xenwarden-monitor.8",
            &["src/bin/xenwarden-monitor.rs", "src/monitor"],
        ),
        ("xenwarden-qemu.8", QEMU),
        ("xenwarden-pool.8", POOL),
        ("xenwarden.1", &["src/cli"]),
        ("xenwarden-pulse.8", PULSE),
    ];
    for (name, paths) in programs {
        let text = sources(paths);
        let signals = words(&text);
        let signals = signals.iter().filter(|word| {
            let rest = word.strip_prefix("SIG");
            rest.is_some_and(|rest| rest.len() > 2 && rest.bytes().all(|b| b.is_ascii_uppercase()))
        });
        let page = page(name);
        let mut count = 0;
        for signal in signals {
            count += 1;
            assert!(words(&page).contains(signal), "{name}: {signal}");
        }
        assert!(count >= 2, "{name}: {count} signals");
    }
}

/// The keys of the shipped file, which has each with its built-in default (`tests/config_sinks.rs`).
#[test]
fn each_key_is_in_the_section_of_its_table_with_its_default() {
    let shipped = include_str!("../init/xenwarden.conf");
    let page = page("xenwarden.conf.5");
    let (mut table, mut example, mut count) = ("", false, 0);
    for line in shipped.lines() {
        // A comment on a key says where there is none by default.
        if let Some(words) = line.strip_prefix("# ") {
            example |= words.contains("one by default");
            continue;
        }
        let bare = line.strip_prefix('#').unwrap_or(line);
        if bare.starts_with('[') {
            table = bare;
            example &= table.starts_with("[[");
            continue;
        }
        let Some((key, default)) = bare.split_once(" = ") else {
            example = false;
            continue;
        };
        count += 1;
        let of_table = section(&page, &format!(".Ss {table}\n"));
        let head = format!(".It Va {key}");
        let told = of_table.lines().find(|line| {
            let rest = line.strip_prefix(&head);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        });
        let told = told.unwrap_or_else(|| panic!("{table} {key}"));
        let value = told.strip_prefix(&head).unwrap_or_default().trim();
        let value = value.trim_start_matches("No ").replace("Qq ", "");
        let value = value.trim_start_matches("= ");
        let has_none = value.is_empty() || value == "(none)";
        let same = value == default.trim_matches('"');
        assert!(
            same || example && has_none || value == "[]",
            "{table}: {told}, not {default}"
        );
    }
    assert!(count > 30, "{count} keys");
}

/// The keys of xenwarden-pulse's file, as its reader has them.
#[test]
fn each_key_of_a_heartbeat_is_in_its_page() {
    let source = sources(&["src/pulse/config.rs"]);
    let page = page("xenwarden-pulse.conf.5");
    let fields = source.split("struct ").skip(1).take(2);
    let fields = fields.filter_map(|text| text.split('}').next());
    let mut count = 0;
    for line in fields.flat_map(str::lines) {
        let Some((key, _)) = line.trim().split_once(": Option<") else {
            continue;
        };
        count += 1;
        let head = format!(".It Va {key}");
        assert!(page.lines().any(|line| line.starts_with(&head)), "{key}");
    }
    assert!(count > 20, "{count} keys");
}

/// The keys of xenwarden-pool's file, with their defaults where the reader has them as constants.
#[test]
fn each_key_of_the_pool_is_in_its_page() {
    let source = sources(&["src/pool/config.rs"]);
    let page = page("xenwarden-pool.8");
    let file = source.split("pub struct File {").nth(1).expect("the file");
    let file = file.split('}').next().expect("its end");
    let mut count = 0;
    for line in file.lines() {
        let Some((key, _)) = line.trim().split_once(": Option<") else {
            continue;
        };
        count += 1;
        let head = format!(".It Va {key}");
        assert!(page.lines().any(|line| line.starts_with(&head)), "{key}");
    }
    assert!(count > 12, "{count} keys");
}

/// What the agent's own metadata names.
#[test]
fn each_parameter_and_action_of_the_agent_is_in_its_page() {
    let output = Command::new(env!("CARGO_BIN_EXE_fence_xenwarden"))
        .args(["-o", "metadata"])
        .output();
    let text = String::from_utf8(output.expect("runs").stdout).expect("text");
    let page = page(AGENT);
    let mut count = 0;
    for (of, macros) in [("parameter", ["Va", "Va"]), ("action", ["It Li", "Li"])] {
        for name in quoted_after(&text, &format!("<{of} name=\"")) {
            count += 1;
            let found = page.lines().any(|line| {
                let told = macros.iter().any(|m| line.contains(&format!("{m} ")));
                told && words(line).contains(name)
            });
            assert!(found, "{of} {name}");
        }
    }
    assert!(count > 10, "{count}");
}
