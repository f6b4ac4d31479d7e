// SPDX-License-Identifier: GPL-2.0-only
//! The shared libraries that programs need, found as the dynamic loader finds them.

use super::tree::Tree;
use crate::command::output;
use crate::error::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the loader looks by default on Debian.
const FOLDER: &str = "/usr/lib/x86_64-linux-gnu";
/// The loader, where the packages bring one: their libraries are then newer than this machine's.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Collects programs' libraries; those of the unpacked packages come before this machine's.
pub struct Libraries {
    search: PathBuf,
    /// By the path in the image.
    found: BTreeMap<String, PathBuf>,
}

impl Libraries {
    /// Nothing collected yet; looks into `packages`' library folder first.
    pub fn new(packages: &Path) -> Self {
        Libraries {
            search: packages.join(FOLDER.trim_start_matches('/')),
            found: BTreeMap::new(),
        }
    }

    /// Adds all that `program` needs.
    pub fn add(&mut self, program: &Path) -> Result<()> {
        let loader = self.search.join(LOADER);
        let mut list;
        if loader.exists() {
            let search = format!("{}:{FOLDER}", self.search.display());
            list = Command::new(loader);
            list.args(["--library-path", &search, "--list"]);
        } else {
            list = Command::new("ldd");
            list.env("LD_LIBRARY_PATH", &self.search);
        }
        let lines = output(list.arg(program))?;
        self.found.extend(lines.lines().filter_map(parse));
        Ok(())
    }

    /// Copies them into the image.
    pub fn install(&self, tree: &mut Tree) -> Result<()> {
        self.found
            .iter()
            .try_for_each(|(path, source)| tree.copy(path, source))
    }
}

/// One line of ldd: `NAME => FILE (ADDRESS)`, or the loader's own `FILE (ADDRESS)`, or `LOADER => FILE (ADDRESS)` by another one.
fn parse(line: &str) -> Option<(String, PathBuf)> {
    let (name, rest) = line.trim().split_once(" => ").unwrap_or(("", line.trim()));
    let file = rest.split_once(" (")?.0;
    if !file.contains('/') {
        return None;
    }
    // The image has /lib64 as a link, as Debian has it.
    let path = match (name, name.starts_with('/')) {
        ("", _) => file.replacen("/lib64", "/usr/lib64", 1),
        (loader, true) => loader.replacen("/lib64", "/usr/lib64", 1),
        (name, false) => format!("{FOLDER}/{name}"),
    };
    Some((path, PathBuf::from(file)))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::path::PathBuf;

    #[test]
    fn each_kind_of_ldd_line_is_understood() {
        let cases = [
            ("\tlinux-vdso.so.1 (0x00007ffd)", None),
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f21)",
                Some((
                    "/usr/lib/x86_64-linux-gnu/libc.so.6",
                    "/lib/x86_64-linux-gnu/libc.so.6",
                )),
            ),
            (
                "\t/lib64/ld-linux-x86-64.so.2 (0x00007f21)",
                Some((
                    "/usr/lib64/ld-linux-x86-64.so.2",
                    "/lib64/ld-linux-x86-64.so.2",
                )),
            ),
            (
                "\t/lib64/ld-linux-x86-64.so.2 => /root/lib/ld-linux-x86-64.so.2 (0x00007f21)",
                Some((
                    "/usr/lib64/ld-linux-x86-64.so.2",
                    "/root/lib/ld-linux-x86-64.so.2",
                )),
            ),
            ("\tnot a dynamic executable", None),
        ];
        for (line, expected) in cases {
            assert_eq!(
                parse(line),
                expected.map(|(path, file)| (path.to_owned(), PathBuf::from(file))),
                "{line}"
            );
        }
    }
}
