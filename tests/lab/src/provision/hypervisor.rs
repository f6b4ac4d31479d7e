// SPDX-License-Identifier: GPL-2.0-only
//! Builds the hypervisor: Debian's source, our patches without fuzz, Debian's configuration.
//!
//! In: the unpacked source, the series in `xen-patches` that is for its version. Out: the image that QEMU boots and the file with
//! its symbols, cached under the hash of all that went in.

use super::arch::Arch;
use super::packages::{Packages, given_source};
use crate::command::{logged, output, say};
use crate::error::{Context, Result};
use crate::layout::{Layout, cache_key, fresh_dir, read, read_text, write};
use crate::series;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian builds without shadow paging, which upstream has on and which live migration of PV guests needs.
const CONFIG_CHANGES: &[(&str, &str)] = &[("CONFIG_SHADOW_PAGING", "y")];
/// The table is no default where it has been tried less.
const ARM_CONFIG_CHANGES: &[(&str, &str)] = &[("CONFIG_LIVENESS", "y")];
/// Schedulers that Debian leaves out, and what shows them to a configuration.
const MORE_SCHEDULERS: &[(&str, &str)] = &[
    ("CONFIG_EXPERT", "y"),
    ("CONFIG_UNSUPPORTED", "y"),
    ("CONFIG_SCHED_NULL", "y"),
    ("CONFIG_SCHED_RTDS", "y"),
];
/// Xen's own live patch for tests (Xen: test/livepatch), which fits the build that it comes from.
const LIVE_PATCH: &str = "xen_hello_world.livepatch";
/// A folder with `xen` and `xen-syms` to use instead of building, for those who work on the hypervisor.
const OVERRIDE: &str = "XENWARDEN_LAB_XEN";

/// A hypervisor to boot and its symbols.
#[derive(Debug, Clone)]
pub struct Hypervisor {
    /// The image that QEMU's `-kernel` takes: a 32-bit ELF file, or Arm's Image.
    pub image: PathBuf,
    /// The 64-bit ELF file with the symbol table.
    pub symbols: PathBuf,
    /// A live patch for it, if there is one.
    pub live_patch: PathBuf,
}

impl Hypervisor {
    fn in_folder(folder: &Path) -> Self {
        Hypervisor {
            image: folder.join("xen"),
            symbols: folder.join("xen-syms"),
            live_patch: folder.join(LIVE_PATCH),
        }
    }

    /// The patched hypervisor, built if this combination of source, patches and configuration is new.
    pub fn provide(layout: &Layout, packages: &Packages) -> Result<Self> {
        if let Some(folder) = std::env::var_os(OVERRIDE) {
            say(format!(
                "using the hypervisor in {} ({OVERRIDE})",
                folder.to_string_lossy()
            ));
            return Ok(Self::in_folder(Path::new(&folder)));
        }
        Self::build(layout, &Recipe::read(layout, packages)?)
    }

    /// The same without a single patch: to see what is seen of it, and to compare what the patches cost.
    pub fn provide_stock(layout: &Layout, packages: &Packages) -> Result<Self> {
        let recipe = Recipe::read(layout, packages)?;
        let recipe = Recipe {
            patches: Vec::new(),
            ..recipe
        };
        Self::build(layout, &recipe)
    }

    /// The patched hypervisor with the schedulers that Debian leaves out, and a live patch for it.
    pub fn provide_extended(layout: &Layout, packages: &Packages) -> Result<Self> {
        let recipe = Recipe::read(layout, packages)?;
        let recipe = Recipe {
            config: configuration(&recipe.config, MORE_SCHEDULERS),
            live_patch: true,
            ..recipe
        };
        Self::build(layout, &recipe)
    }

    fn build(layout: &Layout, recipe: &Recipe) -> Result<Self> {
        let folder = layout.lab("xen").join(recipe.key());
        let hypervisor = Self::in_folder(&folder);
        if hypervisor.image.exists() && hypervisor.symbols.exists() {
            return Ok(hypervisor);
        }
        say(format!(
            "building Xen {} with {} patches (about 4 minutes)",
            recipe.version,
            recipe.patches.len()
        ));
        fresh_dir(&folder)?;
        let tree = folder.join("source");
        output(Command::new("cp").arg("-a").arg(&recipe.source).arg(&tree))?;
        recipe.apply_patches(&tree)?;
        recipe.build(&tree, &folder)?;
        let live_patch = format!("xen/test/livepatch/{LIVE_PATCH}");
        let patch = recipe
            .live_patch
            .then_some((live_patch.as_str(), &hypervisor.live_patch));
        // The image last: the build counts as complete when it is there.
        for (built, kept) in patch.into_iter().chain([
            ("xen/xen-syms", &hypervisor.symbols),
            ("xen/xen", &hypervisor.image),
        ]) {
            fs::copy(tree.join(built), kept).context(|| format!("the build left no {built}"))?;
        }
        fs::remove_dir_all(&tree).context(|| format!("cannot remove {}", tree.display()))?;
        Ok(hypervisor)
    }
}

/// All that a hypervisor is made of.
struct Recipe {
    version: String,
    source: PathBuf,
    arch: Arch,
    config: String,
    patches: Vec<(PathBuf, Vec<u8>)>,
    /// Whether a live patch is built, too.
    live_patch: bool,
}

impl Recipe {
    fn read(layout: &Layout, packages: &Packages) -> Result<Self> {
        let series = packages.release.series;
        let source = packages.xen_source()?;
        let folder = packages.release.patches_for(&source)?;
        let folder = folder
            .context(|| format!("no patches for {}, which is no {series}", source.display()))?;
        let debian = read_text(&packages.file(&format!(
            "/boot/xen-{series}-{}.config",
            packages.arch.debian()
        )))?;
        let patches = series::listed(&layout.project("xen-patches").join(folder))?;
        let patches = patches
            .into_iter()
            .map(|path| read(&path).map(|content| (path, content)));
        Ok(Recipe {
            version: match given_source() {
                Some(given) => given.display().to_string(),
                None => packages.xen_version().to_owned(),
            },
            source,
            config: configuration(&debian, config_changes(packages.arch)),
            arch: packages.arch,
            patches: patches.collect::<Result<_>>()?,
            live_patch: false,
        })
    }

    fn key(&self) -> String {
        let patches = self.patches.iter().map(|(_, content)| content.as_slice());
        cache_key(
            [self.version.as_bytes(), self.config.as_bytes()]
                .into_iter()
                .chain(patches),
        )
    }

    fn apply_patches(&self, tree: &Path) -> Result<()> {
        let mut paths = self.patches.iter().map(|(path, _)| path);
        paths.try_for_each(|path| series::apply(tree, path).map(drop))
    }

    fn build(&self, tree: &Path, folder: &Path) -> Result<()> {
        write(&tree.join("xen/.config"), &self.config)?;
        let make = || {
            let mut make = Command::new("make");
            make.args(["-C", "xen"])
                .args(self.arch.xen_build())
                .current_dir(tree);
            make
        };
        output(make().arg("olddefconfig"))?;
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        logged(make().arg(format!("-j{jobs}")), &folder.join("build.log"))?;
        if self.live_patch {
            logged(make().arg("tests"), &folder.join("tests.log"))?;
        }
        fs::copy(tree.join("xen/.config"), folder.join("config"))
            .context(|| "cannot keep the configuration")
            .map(drop)
    }
}

/// What is changed of Debian's configuration.
fn config_changes(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::Amd64 => CONFIG_CHANGES,
        Arch::Arm64 => ARM_CONFIG_CHANGES,
    }
}

/// Debian's configuration with these changes.
fn configuration(debian: &str, changes: &[(&str, &str)]) -> String {
    let changed = |line: &&str| {
        !changes
            .iter()
            .any(|(option, _)| line.split(['=', ' ']).any(|word| word == *option))
    };
    let kept = debian
        .lines()
        .filter(changed)
        .map(|line| format!("{line}\n"));
    kept.chain(
        changes
            .iter()
            .map(|(option, value)| format!("{option}={value}\n")),
    )
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{CONFIG_CHANGES, configuration};

    #[test]
    fn our_options_replace_debians() {
        let debian = "CONFIG_PV=y\n# CONFIG_SHADOW_PAGING is not set\nCONFIG_HVM=y\n";
        assert_eq!(
            configuration(debian, CONFIG_CHANGES),
            "CONFIG_PV=y\nCONFIG_HVM=y\nCONFIG_SHADOW_PAGING=y\n"
        );
    }
}
