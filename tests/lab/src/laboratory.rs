// SPDX-License-Identifier: GPL-2.0-only
//! The laboratory as a whole: all parts there, one host booted and its state saved, hosts restored from it on demand.
//!
//! The saved state is a host as it should be: two guests that feed their watchdogs, and the guard armed and kicking.

pub mod bench;
pub mod cluster;
pub mod debian;
pub mod soak;

use crate::command::say;
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::host::{GUARD, Host, MONITOR, PROMPT};
use crate::image::{Images, virtio_guest};
use crate::layout::{CacheLock, Layout, cache_key, make_dir, prune, read};
use crate::machine::gdb::Gdb;
use crate::machine::symbols::Symbols;
use crate::machine::{ARM_LOADED, Machine, Parts, SavedState, Shape, VirtioGuest, definition};
use crate::provision::{Arch, Hypervisor, Packages, Release, install_missing};
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// The guests of the saved state.
pub const GUESTS: [&str; 2] = ["web", "db"];
/// How long the emulated host may take to come up.
const BOOT: Duration = Duration::from_secs(180);
/// How many states of other versions are kept besides the one in use; each takes some 500 MB.
const OTHER_STATES: usize = 7;
/// How many hosts run at a time where nobody says: each keeps a processor busy, and has a GiB of memory.
const AT_A_TIME: usize = 2;
/// What the guard is told where the hypervisor has no table.
pub const PARTIAL: &str =
    "sed -i 's/^coverage = .*/coverage = \"partial\"/' /etc/xenwarden/xenwarden.conf";
/// Memory for a crash kernel, as the hypervisor is told.
const CRASH_MEMORY: &str = " crashkernel=128M";
/// Loads one. It has one processor, and no clock that Xen stops when it crashes.
const LOAD_CRASH_KERNEL: &str = "kexec -p /crash/vmlinuz --initrd=/crash/initramfs --append='console=ttyS0,115200 maxcpus=1 reset_devices hpet=disable'";
/// How long that may take.
const LOADING: Duration = Duration::from_secs(120);
/// A change of how the saved state comes about; it makes old ones invalid.
const STATE_RECIPE: &str = "8";

/// A hypervisor, its symbols, and its hash.
struct Build {
    image: PathBuf,
    live_patch: PathBuf,
    symbols: Arc<Symbols>,
    key: String,
}

impl Build {
    fn new(hypervisor: Hypervisor) -> Result<Self> {
        Ok(Build {
            symbols: Arc::new(Symbols::read(&hypervisor.symbols)?),
            key: cache_key([read(&hypervisor.image)?.as_slice()]),
            image: hypervisor.image,
            live_patch: hypervisor.live_patch,
        })
    }
}

/// Everything that hosts are made of.
pub struct Laboratory {
    layout: Layout,
    packages: Packages,
    images: Images,
    patched: Build,
    /// Without patches; built when it is asked for.
    stock: OnceLock<Build>,
    /// With more schedulers, likewise.
    extended: OnceLock<Build>,
    /// Machines so far: each has a folder of its own, as several may run at once.
    machines: AtomicU32,
    /// Why the last host could not be had that a thread asked for, by these threads.
    no_host: Mutex<HashMap<ThreadId, String>>,
}

/// As many hosts as there are processors, at most two.
pub fn hosts_at_a_time() -> usize {
    let processors = thread::available_parallelism();
    processors.map_or(1, usize::from).min(AT_A_TIME)
}

impl Laboratory {
    /// Provides all parts and the saved states; what is there already is used again.
    pub fn provide() -> Result<Self> {
        let laboratory = Self::provide_parts()?;
        let provide = |shape| {
            let (parts, state) = laboratory.made_of(shape)?;
            laboratory.provide_state(&parts, &state)
        };
        // Those with other watchdogs are made when they are asked for. A boot keeps one processor busy for a minute.
        let made: Vec<_> = thread::scope(|scope| {
            let begun =
                [Shape::Everywhere, Shape::Apart].map(|shape| scope.spawn(move || provide(shape)));
            begun
                .map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .into()
        });
        made.into_iter().collect::<Result<()>>()?;
        Ok(laboratory)
    }

    /// Provides all parts, enough to boot hosts.
    pub fn provide_parts() -> Result<Self> {
        Self::provide_parts_of(Layout::of_this_tree())
    }

    /// Provides all parts with the programs of a layout of one's own.
    pub fn provide_parts_of(layout: Layout) -> Result<Self> {
        let release = Release::chosen()?;
        let arch = Arch::chosen()?;
        let layout = layout.with_cache(release.cache(arch), arch.programs());
        let _lock = CacheLock::take(&layout)?;
        install_missing(&layout, arch)?;
        let packages = Packages::provide(&layout, release, arch)?;
        let hypervisor = Hypervisor::provide(&layout, &packages)?;
        let images = Images::provide(&layout, &packages)?;
        Ok(Laboratory {
            layout,
            packages,
            images,
            patched: Build::new(hypervisor)?,
            stock: OnceLock::new(),
            extended: OnceLock::new(),
            machines: AtomicU32::new(0),
            no_host: Mutex::default(),
        })
    }

    /// The hypervisor of hosts of this shape.
    fn build_of(&self, shape: Shape) -> Result<&Build> {
        type Provide = fn(&Layout, &Packages) -> Result<Hypervisor>;
        let (kept, provide): (_, Provide) = match shape {
            Shape::Stock | Shape::StockApart => (&self.stock, Hypervisor::provide_stock),
            Shape::Extended => (&self.extended, Hypervisor::provide_extended),
            _ => return Ok(&self.patched),
        };
        if let Some(build) = kept.get() {
            return Ok(build);
        }
        let _lock = CacheLock::take(&self.layout)?;
        let build = Build::new(provide(&self.layout, &self.packages)?)?;
        Ok(kept.get_or_init(|| build))
    }

    /// What a host of this shape is made of, and where its saved state is.
    fn made_of(&self, shape: Shape) -> Result<(Parts, SavedState)> {
        let build = self.build_of(shape)?;
        let key = cache_key([
            STATE_RECIPE.as_bytes(),
            build.key.as_bytes(),
            self.images.key.as_bytes(),
            definition(shape, self.packages.arch).join(" ").as_bytes(),
        ]);
        let states = self.layout.made("states");
        let state = SavedState::named(&states, &key);
        let parts = Parts {
            hypervisor: build.image.clone(),
            kernel: self.images.kernel.clone(),
            initramfs: self.images.dom0.clone(),
            disk: None,
            shape,
            arch: self.packages.arch,
            tables: match self.packages.arch {
                Arch::Amd64 => None,
                Arch::Arm64 => Some(build.symbols.get("xen_pgtable")?.address + ARM_LOADED),
            },
            devices: "",
            xen_arguments: "",
        };
        Ok((parts, state))
    }

    /// A host with dom0 on every pCPU, from the saved state, its time running.
    pub fn host(&self) -> Result<Host> {
        self.host_of(Shape::Everywhere)
    }

    /// A host of this shape, likewise, or from power-on where its state cannot be saved.
    pub fn host_of(&self, shape: Shape) -> Result<Host> {
        let (parts, state) = self.made_of(shape)?;
        if !parts.can_be_saved() {
            return self.booted(&parts);
        }
        let host = self.provide_state(&parts, &state);
        let host = host.and_then(|()| self.restored(&parts, &state));
        self.had(host)
    }

    /// A machine from power-on.
    fn switched_on(&self, parts: &Parts) -> Result<Machine> {
        self.had(Machine::boot(parts, &self.run_folder()))
    }

    /// Notes whether the calling thread was given what it asked for.
    fn had<T>(&self, given: Result<T>) -> Result<T> {
        let mut no_host = self.no_host.lock().unwrap_or_else(PoisonError::into_inner);
        let this = thread::current().id();
        match &given {
            Ok(_) => no_host.remove(&this),
            Err(error) => no_host.insert(this, error.to_string()),
        };
        given
    }

    /// Why the calling thread had no machine, if it was not given the last that it asked for: then it is this one that is broken, and nothing
    /// was tested.
    pub fn why_no_host(&self) -> Option<String> {
        let mut no_host = self.no_host.lock().unwrap_or_else(PoisonError::into_inner);
        no_host.remove(&thread::current().id())
    }

    /// A host from a saved state, its time running.
    fn restored(&self, parts: &Parts, state: &SavedState) -> Result<Host> {
        let machine = Machine::restore(parts, &self.run_folder(), state)?;
        let mut host = self.host_on(machine)?;
        host.machine.resume()?;
        Ok(host)
    }

    /// A host with dom0 on two of four pCPUs that has just booted, without guests, guard and monitor.
    pub fn bare_host(&self) -> Result<Host> {
        self.boot_bare(&self.made_of(Shape::Apart)?.0)
    }

    /// The same, but something is done to the hypervisor while it boots.
    pub fn bare_host_tampered(
        &self,
        tamper: impl FnOnce(&mut Gdb, &Symbols) -> Result<()>,
    ) -> Result<Host> {
        let (parts, _) = self.made_of(Shape::Apart)?;
        let machine = self.switched_on(&parts)?;
        let mut host = self.host_on(machine)?;
        let symbols = Arc::clone(&host.symbols);
        host.machine.debug(|gdb| tamper(gdb, &symbols))?;
        host.machine.agent.wait_ready(BOOT)?;
        Ok(host)
    }

    /// The same on a hypervisor without patches.
    pub fn bare_host_without_patches(&self) -> Result<Host> {
        self.boot_bare(&self.made_of(Shape::StockApart)?.0)
    }

    fn boot_bare(&self, parts: &Parts) -> Result<Host> {
        let machine = self.switched_on(parts)?;
        machine.agent.wait_ready(BOOT)?;
        self.host_on(machine)
    }

    /// The host that was brought down, switched on again with its disk, its guard running.
    pub fn host_again(&self, host: Host) -> Result<Host> {
        let (parts, _) = self.made_of(host.machine.shape())?;
        let machine = host.machine.boot_again(&parts)?;
        let mut host = self.host_on(machine)?;
        host.machine.agent.wait_ready(BOOT)?;
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        Ok(host)
    }

    /// The host that was brought down, after a reset of the same machine, its guard running.
    pub fn host_after_reset(&self, mut host: Host) -> Result<Host> {
        host.machine.reset()?;
        let up = host.machine.agent.wait_ready(BOOT);
        up.map_err(|error| with_console(error, &host.machine))?;
        host.machine.stop_at_reset()?;
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        Ok(host)
    }

    /// A host with these devices more that has just booted, without guests, its guard running.
    pub fn host_with(&self, devices: &'static str) -> Result<Host> {
        self.host_booted(Shape::Everywhere, devices, "")
    }

    /// A host of this shape with these devices and the hypervisor's arguments more that has just booted, without guests, its
    /// guard running.
    pub fn host_booted(
        &self,
        shape: Shape,
        devices: &'static str,
        xen_arguments: &'static str,
    ) -> Result<Host> {
        let (parts, _) = self.made_of(shape)?;
        let parts = Parts {
            devices,
            xen_arguments,
            ..parts
        };
        let mut host = self.boot_bare(&parts)?;
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        Ok(host)
    }

    /// A host with dom0 on two of four pCPUs that has just booted, with a crash kernel in the hypervisor and without guests, its
    /// guard running.
    pub fn host_with_crash_kernel(&self) -> Result<Host> {
        let (parts, _) = self.made_of(Shape::Apart)?;
        let lock = CacheLock::take(&self.layout)?;
        let images = &self.images;
        let initramfs = images.with_crash_kernel(&self.layout, &self.packages)?;
        drop(lock);
        let parts = Parts {
            initramfs,
            xen_arguments: CRASH_MEMORY,
            ..parts
        };
        let mut host = self.boot_bare(&parts)?;
        host.dom0_ok(LOAD_CRASH_KERNEL, LOADING)?;
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        Ok(host)
    }

    /// A host with HVM guests' device models that has just booted, without guests, its guard running.
    pub fn host_with_device_model(&self) -> Result<Host> {
        let (parts, _) = self.made_of(Shape::Hvm)?;
        let lock = CacheLock::take(&self.layout)?;
        let images = &self.images;
        let initramfs = images.with_device_model(&self.layout, &self.packages)?;
        drop(lock);
        let parts = Parts { initramfs, ..parts };
        let mut host = self.boot_bare(&parts)?;
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        Ok(host)
    }

    /// A guest of a QEMU of its own, without a host, that has just been switched on.
    pub fn virtio_guest(&self) -> Result<VirtioGuest> {
        let lock = CacheLock::take(&self.layout)?;
        let initramfs = virtio_guest(&self.layout, &self.packages)?;
        drop(lock);
        VirtioGuest::boot(&self.images.kernel, &initramfs, &self.run_folder())
    }

    /// One of the programs that are put to the test.
    pub fn program(&self, name: &str) -> PathBuf {
        self.layout.release_binary(name)
    }

    /// A live patch for the hypervisor of hosts of this shape.
    pub fn live_patch(&self, shape: Shape) -> Result<Vec<u8>> {
        read(&self.build_of(shape)?.live_patch)
    }

    /// A folder for the results of scenarios.
    pub fn results(&self) -> Result<PathBuf> {
        let folder = self.layout.lab("results");
        make_dir(&folder)?;
        Ok(folder)
    }

    fn provide_state(&self, parts: &Parts, state: &SavedState) -> Result<()> {
        if state.exists() || !parts.can_be_saved() {
            return Ok(());
        }
        // Two kinds of hosts may boot at a time.
        let _lock = CacheLock::of_state(&self.layout, parts.shape)?;
        // Somebody else may have made it meanwhile.
        if state.exists() {
            return Ok(());
        }
        self.make_state(parts, state)
    }

    fn make_state(&self, parts: &Parts, state: &SavedState) -> Result<()> {
        say(format!(
            "booting the emulated host once, dom0 {} (a minute or two)",
            parts.shape.name()
        ));
        let folder = self.layout.made("states");
        make_dir(&folder)?;
        {
            let _lock = CacheLock::take(&self.layout)?;
            prune(&folder, OTHER_STATES * SavedState::FILES)?;
        }
        self.booted(parts)?.machine.save(parts, state)
    }

    /// A host as it should be, from power-on.
    fn booted(&self, parts: &Parts) -> Result<Host> {
        let began = Instant::now();
        let machine = self.switched_on(parts)?;
        let mut host = self.host_on(machine)?;
        let brought_up = self.bring_up(&mut host, began);
        match brought_up {
            Ok(()) => Ok(host),
            Err(error) => Err(with_console(error, &host.machine)),
        }
    }

    fn bring_up(&self, host: &mut Host, began: Instant) -> Result<()> {
        // Two hosts may come up at a time.
        let whose = format!("dom0 {}", host.machine.shape().name());
        let said = |what: &str| {
            let passed_s = began.elapsed().as_secs();
            say(format!("  {passed_s:>4} s  {whose}: {what}"));
        };
        host.machine.agent.wait_ready(BOOT)?;
        said("it is up");
        for name in GUESTS {
            host.create(&Guest::named(name))?;
            said(&format!("guest {name} is up and feeds its watchdog"));
        }
        if host.machine.shape().is_stock() {
            host.dom0_ok(PARTIAL, PROMPT)?;
        }
        host.start_program(GUARD)?;
        host.start_program(MONITOR)?;
        said("the guard has armed the host watchdog and kicks it");
        Ok(())
    }

    fn host_on(&self, machine: Machine) -> Result<Host> {
        let symbols = &self.build_of(machine.shape())?.symbols;
        Ok(Host {
            machine,
            symbols: Arc::clone(symbols),
        })
    }

    /// A folder for one machine.
    fn run_folder(&self) -> PathBuf {
        let number = self.machines.fetch_add(1, Ordering::Relaxed);
        self.run_folders().join(number.to_string())
    }

    fn run_folders(&self) -> PathBuf {
        self.layout.lab("run").join(std::process::id().to_string())
    }
}

/// The error, and the end of what the host's console says.
fn with_console(error: Error, machine: &Machine) -> Error {
    let console = machine.console();
    let last = console.lines().rev().take(15).collect::<Vec<_>>();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    Error::new(format!("{error}\nthe host's console ends with:\n{last}"))
}

impl Drop for Laboratory {
    fn drop(&mut self) {
        // Only sockets and logs of machines that are gone; should it fail, the next run does not mind.
        let _ = std::fs::remove_dir_all(self.run_folders());
    }
}
