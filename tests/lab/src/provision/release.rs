// SPDX-License-Identifier: GPL-2.0-only
//! Which Xen the laboratory runs, and the Debian release that it comes from with its kernel and tools.

use crate::error::{Error, Result};

/// Says which, by the series of Xen.
pub const CHOICE: &str = "XENWARDEN_LAB_XEN_SERIES";

/// A Debian release, by what the laboratory takes from it.
#[derive(Debug)]
pub struct Release {
    /// The series of its Xen, as in `xen-patches/SERIES` and `/usr/lib/xen-SERIES`.
    pub series: &'static str,
    /// The release's name in Debian's archive.
    pub codename: &'static str,
    /// The version of Xen that is tried first: its source is known to be in the archive.
    pub preferred: Option<&'static str>,
    /// The libraries that its programs need, where this machine's are too old.
    pub libraries: &'static [&'static str],
    /// Kernel modules of the usual release that its kernel has as a part of something else.
    pub absorbed_modules: &'static [&'static str],
}

/// All that it can run, the usual one first.
const RELEASES: &[Release] = &[
    Release {
        series: "4.17",
        codename: "bookworm",
        preferred: Some("4.17.5+72-g01140da4e8-1"),
        libraries: &[],
        absorbed_modules: &[],
    },
    Release {
        series: "4.20",
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

    /// The same suite of this release: `trixie-security` for `bookworm-security`.
    pub fn suite(&self, configured: &str) -> String {
        let (_, rest) = configured.split_once('-').unwrap_or((configured, ""));
        match rest {
            "" => self.codename.to_owned(),
            rest => format!("{}-{rest}", self.codename),
        }
    }

    /// The folder of the laboratory's cache: what is made of one release is of no use to another.
    pub fn cache(&self) -> String {
        match self.series == RELEASES[0].series {
            true => "lab".to_owned(),
            false => format!("lab-{}", self.series),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn a_series_that_is_not_known_is_refused_by_name() {
        let error = Release::of_series("4.16").unwrap_err().to_string();
        assert!(
            error.ends_with("no Xen 4.16 here, but 4.17, 4.20"),
            "{error}"
        );
    }

    #[test]
    fn each_release_has_suites_and_a_cache_of_its_own() {
        let [usual, other] = ["4.17", "4.20"].map(|series| Release::of_series(series).unwrap());
        let suites = ["bookworm", "bookworm-updates"].map(|suite| other.suite(suite));
        assert_eq!(suites, ["trixie", "trixie-updates"]);
        assert_eq!(usual.suite("bookworm-security"), "bookworm-security");
        assert_eq!([usual.cache(), other.cache()], ["lab", "lab-4.20"]);
    }
}
