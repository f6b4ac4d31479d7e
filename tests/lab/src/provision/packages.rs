// SPDX-License-Identifier: GPL-2.0-only
//! The Debian packages that the images are made of: downloaded by name, unpacked, never installed.

use super::apt::Apt;
use crate::command::{output, say};
use crate::error::{Context, Error, Result};
use crate::layout::{Layout, cache_key, fresh_dir, make_dir, read_text, write};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel that dom0 and the guests run: the one that this package depends on.
const KERNEL: &str = "linux-image-amd64";
/// Xen's tools and libraries; all come from Xen's source package and share its version.
const XEN_TOOLS: &[&str] = &[
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
];
/// What Xen's tools need from elsewhere and what few machines have.
const OTHERS: &[&str] = &["libyajl2", "busybox-static", "kexec-tools"];
/// The version that is tried first: its source is known to be in the archive.
const PREFERRED: &str = "4.17.5+72-g01140da4e8-1";
/// The hypervisor's series that xen-patches/4.17 is for.
const SERIES: &str = "4.17.";

/// The unpacked packages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Packages {
    /// Version of Xen's source package, and of its tools.
    pub xen_version: String,
    /// Release of the Linux kernel, as in `/lib/modules/RELEASE`.
    pub kernel_release: String,
    #[serde(skip)]
    root: PathBuf,
    #[serde(skip)]
    xen_source: PathBuf,
}

impl Packages {
    /// The packages of this laboratory, fetched if they are not there yet.
    pub fn provide(layout: &Layout) -> Result<Self> {
        // Other packages asked for: another stamp, so that they are fetched.
        let asked = [XEN_TOOLS, OTHERS].concat().join(" ");
        let stamp = layout.lab(&format!(
            "packages/complete-{}.json",
            cache_key([asked.as_bytes()])
        ));
        let mut packages = match read_text(&stamp) {
            Ok(text) => serde_json::from_str(&text)
                .context(|| format!("cannot read {}", stamp.display()))?,
            Err(_) => {
                let fetched = Self::fetch(layout)?;
                let text =
                    serde_json::to_string(&fetched).context(|| "cannot describe the packages")?;
                write(&stamp, text)?;
                fetched
            }
        };
        packages.root = layout.lab("packages/root");
        packages.xen_source = layout.lab("packages/source");
        Ok(packages)
    }

    /// A file of the unpacked packages, named as it would be installed.
    pub fn file(&self, installed: &str) -> PathBuf {
        self.root.join(installed.trim_start_matches('/'))
    }

    /// Xen's unpacked source, Debian's patches applied.
    pub fn xen_source(&self) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.xen_source)
            .context(|| format!("cannot read {}", self.xen_source.display()))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.join("xen/Makefile").is_file())
            .context(|| format!("no Xen source in {}", self.xen_source.display()))
    }

    fn fetch(layout: &Layout) -> Result<Self> {
        let apt = Apt::open(layout)?;
        let folder = layout.lab("packages");
        fresh_dir(&folder)?;
        let versions = candidates(apt.source_versions("xen")?);
        let xen_version = first_that_works(&versions, |version| {
            say(format!("fetching the source of Xen {version}"));
            fresh_dir(&folder.join("source"))?;
            apt.source("xen", version, &folder.join("source"))
        })?;
        first_that_works(&versions_from(&versions, &xen_version), |version| {
            say(format!("fetching the tools of Xen {version}"));
            let named = XEN_TOOLS
                .iter()
                .map(|package| format!("{package}={version}"));
            apt.download(&named.collect::<Vec<_>>(), &folder.join("debs"))
        })?;
        let kernel = apt.dependency(KERNEL, "linux-image-")?;
        say(format!("fetching {kernel} (about 70 MB)"));
        let others = OTHERS.iter().map(|package| (*package).to_owned());
        apt.download(
            &others.chain([kernel.clone()]).collect::<Vec<_>>(),
            &folder.join("debs"),
        )?;
        unpack(&folder.join("debs"), &folder.join("root"))?;
        let kernel_release = kernel.trim_start_matches("linux-image-").to_owned();
        Ok(Packages {
            xen_version,
            kernel_release,
            root: PathBuf::new(),
            xen_source: PathBuf::new(),
        })
    }
}

/// The versions of our series, the preferred one first.
fn candidates(mut versions: Vec<String>) -> Vec<String> {
    versions.retain(|version| version.starts_with(SERIES));
    versions.sort_by_key(|version| version != PREFERRED);
    versions
}

/// The same versions, `first` before all others.
fn versions_from(versions: &[String], first: &str) -> Vec<String> {
    let mut ordered = versions.to_vec();
    ordered.sort_by_key(|version| version != first);
    ordered
}

fn first_that_works(versions: &[String], attempt: impl Fn(&str) -> Result<()>) -> Result<String> {
    let mut last = Error::new(format!("the archive offers no Xen {SERIES}x"));
    for version in versions {
        match attempt(version) {
            Ok(()) => return Ok(version.clone()),
            Err(error) => {
                say(format!(
                    "  not to be had: {}",
                    error.to_string().lines().next().unwrap_or("")
                ));
                last = error;
            }
        }
    }
    Err(last)
}

fn unpack(debs: &Path, root: &Path) -> Result<()> {
    make_dir(root)?;
    for entry in fs::read_dir(debs).context(|| format!("cannot read {}", debs.display()))? {
        let deb = entry
            .context(|| format!("cannot read {}", debs.display()))?
            .path();
        output(Command::new("dpkg").arg("-x").arg(&deb).arg(root))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_is_tried_first_and_other_series_never() {
        let offered = ["4.17.7+13-g1-0+deb12u1", "4.20.0-1", PREFERRED];
        let tried = candidates(offered.map(str::to_owned).to_vec());
        assert_eq!(tried, [PREFERRED, "4.17.7+13-g1-0+deb12u1"]);
    }
}
