// SPDX-License-Identifier: GPL-2.0-only
//! The Debian package that is put to the test: as `make deb` left it, and the same as of a later version, to upgrade to.

use crate::command::output;
use crate::error::{Context, Error, Result};
use crate::layout::{Layout, cache_key, fresh_dir, make_dir, prune, read, read_text, write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The later version.
pub const LATER: &str = "99.0-1";
/// How many of other builds are kept.
const OTHERS: usize = 1;

/// The package as it was built, and the later one.
pub fn provide(layout: &Layout) -> Result<[PathBuf; 2]> {
    let built = built(&layout.target("deb"))?;
    let folder = layout.lab("debian-later");
    make_dir(&folder)?;
    let later = folder.join(cache_key([read(&built)?.as_slice(), LATER.as_bytes()]));
    if !later.exists() {
        prune(&folder, OTHERS)?;
        make_later(&built, &layout.lab("debian-tree"), &later)?;
    }
    Ok([built, later])
}

fn built(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("xenwarden_") && name.ends_with(".deb")
    };
    let mut found = entries.map(|entry| entry.path()).filter(is_it);
    found
        .next()
        .context(|| format!("no package in {}: make deb", folder.display()))
}

fn make_later(built: &Path, tree: &Path, later: &Path) -> Result<()> {
    fresh_dir(tree)?;
    let dpkg_deb = || Command::new("dpkg-deb");
    output(dpkg_deb().arg("-R").args([built, tree]))?;
    let control = tree.join("DEBIAN/control");
    let text = read_text(&control)?;
    let version = text.lines().find(|line| line.starts_with("Version: "));
    let version = version.context(|| "a package without a version")?;
    write(
        &control,
        text.replace(version, &format!("Version: {LATER}")),
    )?;
    let mut build = dpkg_deb();
    build.args(["--root-owner-group", "-Znone", "-b"]);
    output(build.args([tree, later]))?;
    fs::remove_dir_all(tree).map_err(|error| Error::new(format!("{}: {error}", tree.display())))
}
