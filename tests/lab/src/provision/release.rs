// SPDX-License-Identifier: GPL-2.0-only
//! Which Xen the laboratory runs, and the Debian release that it comes from with its kernel and tools.

use super::arch::Arch;
use crate::error::{Error, Result};
use crate::layout::read_text;
use std::path::Path;

/// Says which, by the series of Xen.
pub const CHOICE: &str = "XENWARDEN_LAB_XEN_SERIES";

/// A Debian release, by what the laboratory takes from it.
#[derive(Debug)]
pub struct Release {
    /// The series of its Xen, as in `/usr/lib/xen-SERIES`.
    pub series: &'static str,
    /// The folders of `xen-patches` for it, the newest first: each is for the version in its name and those after it.
    pub patches: &'static [&'static str],
    /// The release's name in Debian's archive.
    pub codename: &'static str,
    /// The version of Xen that is tried first: its source is known to be in the archive.
    pub preferred: Option<&'static str>,
    /// The libraries that its programs need, where this machine's are too old.
    libraries: &'static [&'static str],
    /// What device models of its Xen are made of.
    device_model: &'static [&'static str],
    /// Kernel modules of the usual release that its kernel has as a part of something else.
    pub absorbed_modules: &'static [&'static str],
}

/// What dom0 takes from this machine where it has the same processors.
const FOREIGN: &[&str] = &[
    "libc6",
    "libgcc-s1",
    "libtinfo6",
    "libncurses6",
    "libext2fs2",
    "libcom-err2",
    "liblzma5",
    "libuuid1",
    "libzstd1",
    "zlib1g",
    "libbz2-1.0",
    "liblzo2-2",
    "libfdt1",
    "libnl-3-200",
    "libnl-route-3-200",
    "libsmartcols1",
    "util-linux",
];

/// All that it can run, the usual one first.
const RELEASES: &[Release] = &[
    Release {
        series: "4.17",
        patches: &["4.17.7", "4.17"],
        codename: "bookworm",
        preferred: Some("4.17.5+72-g01140da4e8-1"),
        libraries: &[],
        device_model: &["qemu-system-xen", "qemu-system-data", "seabios"],
        absorbed_modules: &[],
    },
    Release {
        series: "4.20",
        patches: &["4.20"],
        codename: "trixie",
        preferred: None,
        libraries: &[
            "libc6",
            "libgcc-s1",
            "libtinfo6",
            "libncurses6",
            "libext2fs2t64",
            "libcom-err2",
            "liblzma5",
            "libuuid1",
            "libzstd1",
            "zlib1g",
        ],
        device_model: &[],
        absorbed_modules: &["block/t10-pi"],
    },
];

impl Release {
    /// The one that the environment asks for.
    pub fn chosen() -> Result<&'static Self> {
        match std::env::var(CHOICE) {
            Ok(series) if !series.is_empty() => Self::of_series(&series),
            _ => Self::of_series(RELEASES[0].series),
        }
    }

    /// The one whose Xen is of this series.
    pub fn of_series(series: &str) -> Result<&'static Self> {
        let named = RELEASES.iter().find(|release| release.series == series);
        named.ok_or_else(|| {
            let all: Vec<&str> = RELEASES.iter().map(|release| release.series).collect();
            Error::new(format!(
                "{CHOICE}: no Xen {series} here, but {}",
                all.join(", ")
            ))
        })
    }

    /// The folder of `xen-patches` for a tree of Xen's source; none for a tree of another series.
    pub fn patches_for(&self, tree: &Path) -> Result<Option<&'static str>> {
        let version = version_of(&read_text(&tree.join("xen/Makefile"))?);
        if !version.starts_with(&numbers(self.series)) {
            return Ok(None);
        }
        let mut folders = self.patches.iter().copied();
        Ok(folders.find(|folder| numbers(folder) <= version))
    }

    /// The same suite of this release: `trixie-security` for `bookworm-security`.
    pub fn suite(&self, configured: &str) -> String {
        let (_, rest) = configured.split_once('-').unwrap_or((configured, ""));
        match rest {
            "" => self.codename.to_owned(),
            rest => format!("{}-{rest}", self.codename),
        }
    }

    /// The packages of libraries, and of programs that are this machine's elsewhere, that hosts with these processors need.
    pub fn libraries(&self, arch: Arch) -> &'static [&'static str] {
        match arch {
            Arch::Amd64 => self.libraries,
            Arch::Arm64 => FOREIGN,
        }
    }

    /// The packages of device models for hosts with these processors.
    pub fn device_model(&self, arch: Arch) -> &'static [&'static str] {
        match arch {
            Arch::Amd64 => self.device_model,
            Arch::Arm64 => &[],
        }
    }

    /// The folder of the laboratory's cache: what is made of one release, or for some processors, is of no use to others.
    pub fn cache(&self, arch: Arch) -> String {
        let mut name = "lab".to_owned();
        if self.series != RELEASES[0].series {
            name = format!("{name}-{}", self.series);
        }
        match arch {
            Arch::Amd64 => name,
            Arch::Arm64 => format!("{name}-{}", arch.debian()),
        }
    }
}

/// The numbers in a version.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Which version Xen's Makefile says that it is.
fn version_of(makefile: &str) -> Vec<u32> {
    let of = |name: &str| {
        let lines = makefile.lines().filter_map(|line| line.split_once('='));
        let mut named = lines.filter(|(left, _)| left.split_whitespace().any(|word| word == name));
        named
            .next()
            .map(|(_, right)| numbers(right))
            .unwrap_or_default()
    };
    ["XEN_VERSION", "XEN_SUBVERSION", "XEN_EXTRAVERSION"]
        .map(of)
        .concat()
}

#[cfg(test)]
mod tests {
    use super::{Arch, RELEASES, Release, version_of};
    use crate::layout::{Layout, fresh_dir, write};

    /// As Xen has it.
    fn makefile(subversion: &str, extra: &str) -> String {
        format!(
            "# This is the correct place to edit the build version.\nexport XEN_VERSION       = 4\n\
             export XEN_SUBVERSION    = {subversion}\nexport XEN_EXTRAVERSION ?= {extra}$(XEN_VENDORVERSION)\n\
             export XEN_FULLVERSION   = $(XEN_VERSION).$(XEN_SUBVERSION)$(XEN_EXTRAVERSION)\n"
        )
    }

    #[test]
    fn each_folder_of_patches_is_there() {
        for folder in RELEASES.iter().flat_map(|release| release.patches) {
            let series = Layout::of_this_tree().project(&format!("xen-patches/{folder}/series"));
            assert!(series.is_file(), "{}", series.display());
        }
    }

    #[test]
    fn a_makefile_says_which_version_it_is_of() {
        assert_eq!(version_of(&makefile("17", ".7")), [4, 17, 7]);
        assert_eq!(version_of(&makefile("23", "-unstable")), [4, 23]);
        assert!(version_of("all: xen\n").is_empty());
    }

    #[test]
    fn a_tree_takes_the_newest_patches_that_are_not_newer_than_it() {
        let tree = std::env::temp_dir().join(format!("xenwarden-release-{}", std::process::id()));
        fresh_dir(&tree.join("xen")).unwrap();
        let taken = |series, subversion, extra| {
            write(&tree.join("xen/Makefile"), makefile(subversion, extra)).unwrap();
            Release::of_series(series)
                .unwrap()
                .patches_for(&tree)
                .unwrap()
        };
        for (extra, folder) in [
            (".0-rc", "4.17"),
            (".5", "4.17"),
            (".6", "4.17"),
            (".7", "4.17.7"),
            (".10", "4.17.7"),
        ] {
            assert_eq!(taken("4.17", "17", extra), Some(folder), "4.17{extra}");
        }
        assert_eq!(taken("4.20", "20", ".4"), Some("4.20"));
        assert_eq!(taken("4.17", "20", ".4"), None);
        assert_eq!(taken("4.20", "17", ".7"), None);
        std::fs::remove_dir_all(&tree).unwrap();
    }

    #[test]
    fn a_series_that_is_not_known_is_refused_by_name() {
        let error = Release::of_series("4.16").unwrap_err().to_string();
        assert!(
            error.ends_with("no Xen 4.16 here, but 4.17, 4.20"),
            "{error}"
        );
    }

    #[test]
    fn each_release_and_architecture_has_suites_and_a_cache_of_its_own() {
        let [usual, other] = ["4.17", "4.20"].map(|series| Release::of_series(series).unwrap());
        let suites = ["bookworm", "bookworm-updates"].map(|suite| other.suite(suite));
        assert_eq!(suites, ["trixie", "trixie-updates"]);
        assert_eq!(usual.suite("bookworm-security"), "bookworm-security");
        let caches = [Arch::Amd64, Arch::Arm64].map(|arch| [usual.cache(arch), other.cache(arch)]);
        assert_eq!(
            caches,
            [["lab", "lab-4.20"], ["lab-arm64", "lab-4.20-arm64"]]
        );
    }
}
