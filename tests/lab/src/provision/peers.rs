// SPDX-License-Identifier: GPL-2.0-only
//! Other watchdog daemons that Debian has, which `lab bench` runs in place of ours.
//!
//! In: Debian's archive. Out: a folder with the packages unpacked; nothing is installed. watchdogd is not in Debian.

use super::cluster::LIBRARIES;
use super::packages::Packages;
use super::unpacked::{self, Unpacked};
use crate::error::{Context, Result};
use crate::layout::Layout;
use std::path::{Path, PathBuf};

/// The packages whose programs run in dom0.
const PROGRAMS: &[&str] = &["sbd", "watchdog"];
/// What sbd loads besides what a cluster's programs do.
const MORE: &[&str] = &["libaio1"];

/// The unpacked packages.
pub struct Peers {
    /// The folder that they are unpacked in.
    pub root: PathBuf,
    debs: PathBuf,
}

/// Fetches them if they are not there yet.
pub fn provide(layout: &Layout, packages: &Packages) -> Result<Peers> {
    let names = PROGRAMS.iter().chain(MORE).chain(LIBRARIES);
    let what = "the other watchdog daemons";
    let Unpacked { root, debs } =
        unpacked::provide(layout, packages, "bench/packages", names, what)?;
    Ok(Peers { root, debs })
}

impl Peers {
    /// The version of one of the packages.
    pub fn version(&self, package: &str) -> Result<String> {
        version_in(&self.debs, package)
    }
}

/// The version of the package of this name whose file is in a folder.
pub fn version_in(debs: &Path, package: &str) -> Result<String> {
    let what = || format!("no package {package} in {}", debs.display());
    let entries = std::fs::read_dir(debs).context(what)?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let version = names.find_map(|name| version_of(&name, package));
    version.context(what)
}

/// The version in the name of a package's file, `NAME_VERSION_ARCHITECTURE.deb`, where a colon is `%3a`.
fn version_of(file: &str, package: &str) -> Option<String> {
    let (name, rest) = file.split_once('_')?;
    let (version, _) = rest.split_once('_')?;
    (name == package).then(|| version.replace("%3a", ":"))
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn a_version_is_that_of_the_package_and_of_no_other() {
        let file = "busybox-static_1%3a1.35.0-4_amd64.deb";
        let version = version_of(file, "busybox-static");
        assert_eq!(version.as_deref(), Some("1:1.35.0-4"));
        assert_eq!(version_of(file, "busybox"), None);
    }
}
