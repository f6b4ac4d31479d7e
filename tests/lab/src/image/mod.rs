// SPDX-License-Identifier: GPL-2.0-only
//! The images that the laboratory boots: dom0's initramfs, which carries the guests' kernel and initramfs.
//!
//! In: the unpacked packages, the programs that cargo built. Out: files named by the hash of their content, so that a
//! changed program means a new image and an unchanged one costs nothing.

mod cluster;
mod debian;
mod kernel;
mod libraries;
mod peers;
mod tiny;
mod tree;

use crate::error::{Context, Error, Result};
use crate::layout::{Layout, cache_key, make_dir, prune, read, read_text, write};
use crate::provision::{Arch, Packages};
use libraries::Libraries;
pub use peers::MODULES_FOLDER as PEERS_MODULES;
use std::path::{Path, PathBuf};
use std::process::Command;
use tree::Tree;

/// The programs that users install and that the laboratory puts to the test.
const GUARD: &[&str] = &[
    "xenwardend",
    "xenwarden-monitor",
    "xenwarden",
    "xenwarden-pulse",
];
/// The laboratory's own programs in dom0.
const DOM0_HELPERS: &[&str] = &[
    "dom0-agent",
    "dom0-keeper",
    "dom0-lease",
    "dom0-pulse",
    "dom0-slots",
    "dom0-tee",
];
/// Xen's tools in dom0, at their installed paths; `SERIES` is that of Xen.
const XEN_PROGRAMS: &[&str] = &[
    "/usr/lib/xen-SERIES/bin/xenstored",
    "/usr/lib/xen-SERIES/bin/xen-init-dom0",
    "/usr/lib/xen-SERIES/bin/xenconsoled",
    "/usr/lib/xen-SERIES/bin/xenconsole",
    "/usr/lib/xen-SERIES/bin/libxl-save-helper",
    "/usr/lib/xen-SERIES/bin/xl",
    "/usr/lib/xen-SERIES/bin/xen-livepatch",
    "/usr/lib/xen-SERIES/bin/xenwatchdogd",
    "/usr/sbin/xenhypfs",
    "/usr/bin/xenstore-ls",
    "/usr/bin/xenstore-read",
    "/usr/bin/xenstore-write",
];
/// The same where Debian has them for nothing but x86.
const X86_PROGRAMS: &[&str] = &[
    "/usr/lib/xen-SERIES/bin/xen-hptool",
    "/usr/lib/xen-SERIES/bin/xen-ucode",
];
/// Programs of this machine, or of one with the host's processors, that busybox does not have.
const HOST_PROGRAMS: &[&str] = &["/usr/bin/chrt", "/usr/bin/prlimit"];
/// Kernel modules in the order in which they load, below `/lib/modules/RELEASE/kernel`.
const DOM0_MODULES: &[&str] = &[
    "drivers/xen/xen-privcmd",
    "drivers/xen/xen-evtchn",
    "drivers/xen/xen-gntdev",
    "drivers/xen/xen-gntalloc",
    "drivers/xen/xenfs/xenfs",
    "drivers/watchdog/watchdog",
];
/// Those of the disk, which dom0 and its crash kernel load.
const DISK_MODULES: &[&str] = &[
    "drivers/scsi/scsi_common",
    "drivers/scsi/scsi_mod",
    "drivers/ata/libata",
    "drivers/ata/ata_piix",
    "drivers/ata/libahci",
    "drivers/ata/ahci",
    "lib/crc64",
    "lib/crc64-rocksoft",
    "crypto/crct10dif_common",
    "lib/crc-t10dif",
    "block/t10-pi",
    "drivers/scsi/sd_mod",
    "crypto/crc32c_generic",
    "lib/crc16",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
];
/// The modules of each host watchdog, in order, and of those that are not hardware.
const WATCHDOG_MODULES: &[(&str, &[&str])] = &[
    ("i6300esb", &["drivers/watchdog/i6300esb"]),
    ("softdog", &["drivers/watchdog/softdog"]),
    ("xen", &["drivers/watchdog/xen_wdt"]),
];
/// The same for x86 alone.
const X86_WATCHDOG_MODULES: &[(&str, &[&str])] = &[
    ("ib700", &["drivers/watchdog/ib700wdt"]),
    (
        "itco",
        &[
            "drivers/i2c/i2c-smbus",
            "drivers/i2c/busses/i2c-i801",
            "drivers/mfd/lpc_ich",
            "drivers/watchdog/iTCO_vendor_support",
            "drivers/mfd/intel_pmc_bxt",
            "drivers/watchdog/iTCO_wdt",
        ],
    ),
    (
        "ipmi",
        &[
            "drivers/char/ipmi/ipmi_msghandler",
            "drivers/char/ipmi/ipmi_si",
            "drivers/char/ipmi/ipmi_devintf",
            "drivers/char/ipmi/ipmi_watchdog",
        ],
    ),
];
const GUEST_MODULES: &[&str] = &[
    "drivers/xen/xen-privcmd",
    "drivers/xen/xenfs/xenfs",
    "drivers/watchdog/watchdog",
    "drivers/watchdog/xen_wdt",
];
/// Those of QEMU's virtio-serial ports.
const VIRTIO_MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/char/virtio_console",
];
/// Links that every Debian system has, and every command that busybox offers is found below /usr.
const LINKS: &[(&str, &str)] = &[
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
];
const FOLDERS: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/tmp",
    "/var",
    "/etc/xenwarden",
    "/usr/sbin",
    "/usr/bin",
];

const DOM0_INIT: &str = include_str!("../../images/dom0-init.sh");
const CRASH_INIT: &str = include_str!("../../images/crash-init.sh");
const GUEST_INIT: &str = include_str!("../../images/guest-init.sh");
const VIRTIO_INIT: &str = include_str!("../../images/virtio-init.sh");
const GUARD_CONFIG: &str = include_str!("../../images/xenwarden.conf");

/// The program that loads a crash kernel: where it is installed, and where it is put.
const KEXEC: (&str, &str) = ("/sbin/kexec", "/usr/sbin/kexec");

/// A device model, and what it and an HVM guest start with; `SERIES` is that of Xen.
const DEVICE_MODEL: &str = "/usr/libexec/xen-qemu-system-i386";
const FIRMWARE: &[&str] = &[
    "/usr/lib/xen-SERIES/boot/hvmloader",
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/keymaps/en-us",
];
/// The program that follows device models, which the other hosts do not have.
const FOLLOWER: &str = "xenwarden-qemu";

/// How many files of other versions are kept besides the ones in use.
const OTHER_IMAGES: usize = 3;

/// What dom0 boots.
#[derive(Debug, Clone)]
pub struct Images {
    /// The uncompressed Linux kernel, as QEMU, Xen and its tools take it.
    pub kernel: PathBuf,
    /// dom0's initramfs.
    pub dom0: PathBuf,
    /// A hash of the content of both.
    pub key: String,
}

impl Images {
    /// Assembles the images from what is there now.
    pub fn provide(layout: &Layout, packages: &Packages) -> Result<Self> {
        let folder = layout.made("images");
        make_dir(&folder)?;
        let release = packages.kernel_release();
        let installed = packages.file(&format!("/boot/vmlinuz-{release}"));
        let kernel = match packages.arch {
            Arch::Amd64 => {
                let kernel = layout.lab(&format!("packages/vmlinux-{release}"));
                kernel::unpack(&installed, &kernel)?;
                kernel
            }
            // It is not packed.
            Arch::Arm64 => installed,
        };
        let parts = Parts { layout, packages };
        let dom0 = parts.dom0(&kernel)?.into_cpio();
        let key = cache_key([packages.kernel_release().as_bytes(), &dom0]);
        let path = folder.join(format!("dom0-{key}"));
        if !path.exists() {
            prune(&folder, OTHER_IMAGES)?;
            write(&path, dom0)?;
        }
        Ok(Images {
            kernel,
            dom0: path,
            key,
        })
    }

    /// dom0's initramfs with a crash kernel in `/crash`, and the program that loads it. Few hosts have one: it is no part of the
    /// others' images.
    pub fn with_crash_kernel(&self, layout: &Layout, packages: &Packages) -> Result<PathBuf> {
        let crash = Parts { layout, packages }.crash()?;
        self.with(layout, "crash", crash)
    }

    /// The same with a device model, the program that follows it, and in `/guest/boot.img` the disk of an HVM guest that does with
    /// its i6300esb what it is told.
    pub fn with_device_model(&self, layout: &Layout, packages: &Packages) -> Result<PathBuf> {
        let model = Parts { layout, packages }.device_model()?;
        self.with(layout, "device-model", model)
    }

    fn with(&self, layout: &Layout, what: &str, more: Tree) -> Result<PathBuf> {
        let folder = layout.made(what);
        make_dir(&folder)?;
        let more = more.into_cpio();
        let key = cache_key([self.key.as_bytes(), &more]);
        let path = folder.join(format!("dom0-{key}"));
        if !path.exists() {
            prune(&folder, OTHER_IMAGES)?;
            // An initramfs may be several archives, one behind another.
            write(&path, [read(&self.dom0)?, more].concat())?;
        }
        Ok(path)
    }
}

/// The initramfs of a guest of QEMU, not of Xen, that tells by its virtio-serial ports that it lives.
pub fn virtio_guest(layout: &Layout, packages: &Packages) -> Result<PathBuf> {
    let parts = Parts { layout, packages };
    let image = parts.base(VIRTIO_INIT, VIRTIO_MODULES, &[])?.into_cpio();
    let folder = layout.made("virtio-guest");
    make_dir(&folder)?;
    let path = folder.join(format!("initramfs-{}", cache_key([image.as_slice()])));
    if !path.exists() {
        prune(&folder, OTHER_IMAGES)?;
        write(&path, image)?;
    }
    Ok(path)
}

/// Where an image's parts come from.
struct Parts<'a> {
    layout: &'a Layout,
    packages: &'a Packages,
}

impl Parts<'_> {
    fn dom0(&self, kernel: &Path) -> Result<Tree> {
        let is_x86 = self.packages.arch == Arch::Amd64;
        let guard = GUARD
            .iter()
            .chain(DOM0_HELPERS)
            .map(|name| (format!("/usr/sbin/{name}"), self.built(name)));
        let xen = XEN_PROGRAMS
            .iter()
            .chain(X86_PROGRAMS.iter().filter(|_| is_x86))
            .map(|path| path.replace("SERIES", self.packages.release.series))
            .map(|path| (path.clone(), self.packages.file(&path)));
        let host = HOST_PROGRAMS.iter().map(|path| {
            let here = if is_x86 {
                path.into()
            } else {
                self.packages.file(path)
            };
            ((*path).to_owned(), here)
        });
        let programs: Vec<_> = guard.chain(xen).chain(host).collect();
        let mut tree = self.base(DOM0_INIT, &[DOM0_MODULES, DISK_MODULES].concat(), &programs)?;
        let more = X86_WATCHDOG_MODULES.iter().filter(|_| is_x86);
        for (watchdog, modules) in WATCHDOG_MODULES.iter().chain(more) {
            self.modules(&mut tree, &format!("/watchdog/{watchdog}"), modules)?;
        }
        tree.file("/etc/xenwarden/xenwarden.conf", GUARD_CONFIG);
        tree.file("/etc/xen/xl.conf", "");
        tree.file("/guest/initramfs", self.guest()?.into_cpio());
        tree.copy("/guest/vmlinux", kernel)?;
        if is_x86 {
            tree.file("/guest/tiny", tiny::assemble(self.layout, "tiny-guest")?);
            tree.file("/guest/cost", tiny::assemble(self.layout, "cost-guest")?);
        }
        let mut broken = Tree::default();
        broken.file("/broken", "");
        tree.file("/guest/broken", broken.into_cpio());
        Ok(tree)
    }

    fn crash(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        let release = self.packages.kernel_release();
        let kernel = self.packages.file(&format!("/boot/vmlinuz-{release}"));
        tree.copy("/crash/vmlinuz", &kernel)?;
        let initramfs = self.base(CRASH_INIT, DISK_MODULES, &[])?;
        tree.file("/crash/initramfs", initramfs.into_cpio());
        let kexec = self.packages.file(KEXEC.0);
        tree.copy(KEXEC.1, &kexec)?;
        let mut libraries = Libraries::new(self.packages);
        libraries.add(&kexec)?;
        libraries.install(&mut tree)?;
        Ok(tree)
    }

    fn device_model(&self) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut libraries = Libraries::new(self.packages);
        let model = self.packages.file(DEVICE_MODEL);
        let follower = self.built(FOLLOWER);
        tree.copy(DEVICE_MODEL, &model)?;
        tree.copy(&format!("/usr/sbin/{FOLLOWER}"), &follower)?;
        libraries.add(&model)?;
        libraries.add(&follower)?;
        libraries.install(&mut tree)?;
        for path in FIRMWARE {
            let path = path.replace("SERIES", self.packages.release.series);
            tree.copy(&path, &self.packages.file(&path))?;
        }
        tree.file("/guest/boot.img", tiny::boot_sector(self.layout)?);
        Ok(tree)
    }

    fn guest(&self) -> Result<Tree> {
        self.base(GUEST_INIT, GUEST_MODULES, &[])
    }

    /// What dom0 and guests share: busybox, the programs and their libraries, kernel modules, an init.
    fn base(&self, init: &str, modules: &[&str], programs: &[(String, PathBuf)]) -> Result<Tree> {
        let mut tree = Tree::default();
        LINKS
            .iter()
            .for_each(|(path, target)| tree.symlink(path, target));
        FOLDERS.iter().for_each(|path| tree.directory(path));
        tree.copy("/usr/bin/busybox", &self.packages.file("/bin/busybox"))?;
        tree.symlink("/usr/bin/sh", "busybox");
        tree.file("/init", init);
        let mut libraries = Libraries::new(self.packages);
        for (path, source) in programs {
            if !source.exists() {
                return Err(Error::new(format!(
                    "{} is missing: cargo build --release --workspace",
                    source.display()
                )));
            }
            tree.copy(path, source)?;
            libraries.add(source)?;
        }
        libraries.install(&mut tree)?;
        self.modules(&mut tree, "/modules", modules)?;
        Ok(tree)
    }

    /// Kernel modules, in a folder whose names have their order; without those that this kernel has built in.
    fn modules(&self, tree: &mut Tree, folder: &str, modules: &[&str]) -> Result<()> {
        let root = format!("/lib/modules/{}", self.packages.kernel_release());
        let built_in = read_text(&self.packages.file(&format!("{root}/modules.builtin")))?;
        let absorbed = self.packages.release.absorbed_modules;
        let is_built_in = |module: &str| {
            let entry = format!("kernel/{module}.ko");
            absorbed.contains(&module) || built_in.lines().any(|line| line == entry)
        };
        for (order, module) in modules.iter().enumerate() {
            if is_built_in(module) {
                continue;
            }
            let name = module.rsplit('/').next().unwrap_or(module);
            let path = format!("{folder}/{order:02}-{name}.ko");
            let file = format!("{root}/kernel/{module}.ko");
            let packed = self.packages.file(&format!("{file}.xz"));
            match packed.exists() {
                true => tree.file(&path, unxz(&packed)?),
                false => tree.copy(&path, &self.packages.file(&file))?,
            }
        }
        Ok(())
    }

    fn built(&self, name: &str) -> PathBuf {
        self.layout.release_binary(name)
    }
}

fn unxz(packed: &Path) -> Result<Vec<u8>> {
    let mut xz = Command::new("xz");
    let unpacked = xz.args(["--decompress", "--stdout"]).arg(packed).output();
    let unpacked = unpacked.context(|| "cannot run xz")?;
    match unpacked.status.success() {
        true => Ok(unpacked.stdout),
        false => Err(Error::new(format!("xz cannot unpack {}", packed.display()))),
    }
}
