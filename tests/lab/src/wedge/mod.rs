// SPDX-License-Identifier: GPL-2.0-only
//! Wedges: ways in which a hypervisor stops servicing due work, injected into a running one from outside.
//!
//! In: a debugger on the stopped machine, the hypervisor's symbols. Out: changed code or a changed lock word; the machine then
//! runs on as if the hypervisor itself had that fault. Nothing is written before everything that the change relies on
//! (sizes, addresses, the stack's layout) has been checked against this build.

mod code;

use crate::error::{Context, Error, Result};
use crate::machine::gdb::Gdb;
use crate::machine::pause;
use crate::machine::symbols::{Symbol, Symbols};
use crate::provision::Arch;
use code::{STACK_SIZE, Which};

/// Processors that a wedge concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpus {
    /// One of them.
    One(u8),
    /// All of them.
    All,
}

/// A piece of deferred work that each processor does for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Softirq {
    /// Runs due timers.
    Timer,
    /// Chooses what runs next.
    Schedule,
}

impl Softirq {
    /// Its number (Xen: `xen/include/xen/softirq.h`) and its handler.
    fn known(self) -> (u64, &'static str) {
        match self {
            Softirq::Timer => (0, "timer_softirq_action"),
            Softirq::Schedule => (3, "schedule"),
        }
    }
}

/// What a piece of code does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// Nothing: it returns at once.
    Returns,
    /// Spins for ever with interrupts on.
    Spins,
    /// Spins for ever with interrupts off.
    SpinsDeaf,
}

/// What is done to the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A softirq's handler does something else on some processors.
    Handler(Softirq, Cpus, Instead),
    /// The lock of a processor's timers is never released.
    TimerLock(u8),
    /// The scheduler's lock is never released; all processors share one run queue.
    RunqueueLock,
    /// The timer interrupt is never programmed again, and the hypervisor believes that it was.
    ReprogramFails,
    /// The handler of guest watchdogs does something else. To be injected where [`GUEST_HANDLER`] is about to run.
    GuestHandler(Instead),
    /// The handler of the timer interrupt returns at once.
    TimerInterrupt,
    /// Functions that return at once, whoever calls them.
    Lost(&'static [&'static str]),
    /// The scheduler decides as ever, and always for idle, on one processor.
    PicksIdle(u8),
    /// A function that traps, whoever calls it: the hypervisor panics.
    Traps(&'static str),
    /// A processor's clock stands still: its scale becomes 0, and nobody calibrates it any more.
    ClockFrozen(u8),
    /// The lock of the hypervisor's file system is held for writing for ever: nothing that the guard needs.
    HypfsLock,
    /// The lock of the toolstack's control calls is never released.
    SysctlLock,
}

/// The handler of a guest watchdog's timer: it is called when a deadline passes.
pub const GUEST_HANDLER: &str = "domain_watchdog_timeout";
/// Unused in every scenario (a debug key's handler), so that its code makes room for ours.
fn spare_function(arch: Arch) -> &'static str {
    match arch {
        Arch::Amd64 => "do_nmi_stats",
        Arch::Arm64 => "dump_runq",
    }
}
/// `processor_id` comes two words before `per_cpu_offset` in `struct cpu_info` (Xen: `asm-x86/current.h`).
const PROCESSOR_TO_OFFSET: u64 = 16;
/// How far below its end a stack's `struct cpu_info` can reach.
const CPU_INFO_MAX: u64 = 0x400;
/// A ticket more than was drawn: whoever comes next waits for a holder that does not exist.
const ONE_TICKET: u32 = 0x1_0000;
/// A read-write lock's word while a processor that does not exist holds it for writing (Xen: `_QW_LOCKED` and `_QW_CPUMASK` in
/// `xen/include/xen/rwlock.h`). The word names its writer, who may read as well: with the number of a real one, all would still be
/// well for a reader there.
const WRITE_HELD: u32 = 0x3fff;
/// The same in later series, whose lock is shorter: there a processor's number has 14 bits.
const WRITE_HELD_SHORT: (u64, u32) = (8, 0xffff);
/// Where the factor of the scale is in `struct cpu_time`: three times of 8 bytes, then the shift (Xen: arch/x86/time.c).
const TIME_SCALE_FACTOR: u64 = 28;
/// How far from its beginning `struct scheduler` is searched for the function that decides; all its operations are within that.
const SCHEDULER_MAX: u64 = 0x200;
/// The scheduler's function that decides (Xen: `xen/common/sched/credit2.c`). Its fourth argument says that the processor has other
/// work, in the idle vCPU: then it picks idle.
const DECIDES: &str = "csched2_schedule";
/// Where `schedule_lock` is in `struct sched_resource`.
const SCHEDULE_LOCK: u64 = 16;

impl Fault {
    /// The hypervisor's functions in which processors will wait for ever.
    fn waits_in(self, arch: Arch) -> &'static [&'static str] {
        match self {
            Fault::TimerLock(_) | Fault::RunqueueLock => &[
                "_spin_lock",
                "_spin_lock_irq",
                "_spin_lock_irqsave",
                "_spin_lock_cb",
            ],
            Fault::HypfsLock => &["queue_read_lock_slowpath", "queue_write_lock_slowpath"],
            // Nobody answers the deaf one's interprocessor interrupts. Arm's hypervisor gives no hint where it waits for them.
            Fault::Handler(_, _, Instead::SpinsDeaf) if arch == Arch::Amd64 => &[
                "on_selected_cpus",
                "flush_area_mask",
                "time_calibration_tsc_rendezvous",
                "time_calibration_std_rendezvous",
            ],
            _ => &[],
        }
    }

    /// Whether it concerns what only x86 has: Arm's clocks need no scale of their own.
    pub fn is_for_x86(self) -> bool {
        matches!(self, Fault::ClockFrozen(_))
    }

    /// Injects the fault into a stopped hypervisor.
    pub fn inject(self, gdb: &mut Gdb, symbols: &Symbols) -> Result<()> {
        let arch = symbols.arch();
        pause::remove(gdb, symbols, self.waits_in(arch))?;
        let xen = &mut Xen { gdb, symbols };
        match self {
            Fault::Handler(softirq, cpus, instead) => xen.replace_handler(softirq, cpus, instead),
            Fault::TimerLock(cpu) => {
                let timers = xen.per_cpu("per_cpu__timers", cpu)?;
                xen.take_ticket(timers)
            }
            Fault::RunqueueLock => {
                let pointer = xen.per_cpu("per_cpu__sched_res", 0)?;
                let resource = xen.gdb.read_u64(pointer)?;
                let lock = xen.gdb.read_u64(resource + SCHEDULE_LOCK)?;
                xen.take_ticket(lock)
            }
            // It says "programmed".
            Fault::ReprogramFails => xen.overwrite("reprogram_timer", &code::returns_one(arch)),
            Fault::GuestHandler(instead) => {
                xen.overwrite(GUEST_HANDLER, &code::instead(arch, instead))
            }
            Fault::Lost(functions) => functions.iter().try_for_each(|function| xen.lose(function)),
            Fault::TimerInterrupt => xen.lose(match arch {
                Arch::Amd64 => "apic_timer_interrupt",
                Arch::Arm64 => "timer_interrupt",
            }),
            Fault::PicksIdle(cpu) => xen.pick_idle(cpu),
            Fault::Traps(function) => xen.overwrite(function, &code::traps(arch)),
            Fault::ClockFrozen(cpu) => {
                xen.lose("local_time_calibration")?;
                let time = xen.per_cpu("per_cpu__cpu_time", cpu)?;
                xen.gdb
                    .write(time + TIME_SCALE_FACTOR, &0_u32.to_le_bytes())
            }
            Fault::HypfsLock => {
                let lock = symbols.get("hypfs_lock")?;
                let held = match WRITE_HELD_SHORT {
                    (size, held) if lock.size == size => held,
                    _ => WRITE_HELD,
                };
                xen.gdb.write(lock.address, &held.to_le_bytes())
            }
            Fault::SysctlLock => {
                let lock = symbols.get("sysctl_lock")?.address;
                xen.take_ticket(lock)
            }
        }
    }
}

/// A stopped hypervisor.
struct Xen<'a> {
    gdb: &'a mut Gdb,
    symbols: &'a Symbols,
}

impl Xen<'_> {
    fn replace_handler(&mut self, softirq: Softirq, cpus: Cpus, instead: Instead) -> Result<()> {
        let (number, name) = softirq.known();
        let slot = self.symbols.get("softirq_handlers")?.address + number * 8;
        let (handler, spare) = (self.symbols.get(name)?, self.spare()?);
        let found = self.gdb.read_u64(slot)?;
        if found != handler.address {
            return Err(Error::new(format!(
                "softirq {number} runs {found:#x} and not {name}"
            )));
        }
        let code = match cpus {
            Cpus::All => code::instead(self.symbols.arch(), instead),
            Cpus::One(cpu) => {
                let action = code::instead(self.symbols.arch(), instead);
                let which = self.which(cpu)?;
                code::on_one_cpu(which, &action, spare.address, handler.address)?
            }
        };
        self.write_function("the spare function", spare, &code)?;
        self.gdb.write(slot, &spare.address.to_le_bytes())
    }

    /// The scheduler calls its function by a pointer, which is found by its value: exactly one is to be there.
    fn pick_idle(&mut self, cpu: u8) -> Result<()> {
        let (decides, spare) = (self.symbols.get(DECIDES)?, self.spare()?);
        let resource = self.per_cpu("per_cpu__sched_res", cpu)?;
        let resource = self.gdb.read_u64(resource)?;
        // The first member of `struct sched_resource`.
        let scheduler = self.gdb.read_u64(resource)?;
        let mut slots = Vec::new();
        for slot in (scheduler..scheduler + SCHEDULER_MAX).step_by(8) {
            if self.gdb.read_u64(slot)? == decides.address {
                slots.push(slot);
            }
        }
        let [slot] = slots[..] else {
            return Err(Error::new(format!(
                "the scheduler at {scheduler:#x} has {DECIDES} {} times",
                slots.len()
            )));
        };
        let other_work = code::fourth_is_one(self.symbols.arch());
        let (here, original) = (spare.address, decides.address);
        let code = code::on_one_cpu(self.which(cpu)?, &other_work, here, original)?;
        self.write_function("the spare function", spare, &code)?;
        self.gdb.write(slot, &spare.address.to_le_bytes())
    }

    fn spare(&self) -> Result<Symbol> {
        self.symbols.get(spare_function(self.symbols.arch()))
    }

    /// How code finds out that it runs on this processor.
    fn which(&mut self, cpu: u8) -> Result<Which> {
        match self.symbols.arch() {
            Arch::Amd64 => Ok(Which::Number(cpu, self.processor_id_displacement()?)),
            Arch::Arm64 => Ok(Which::Offset(self.per_cpu_offset(cpu)?)),
        }
    }

    fn lose(&mut self, function: &str) -> Result<()> {
        self.overwrite(
            function,
            &code::instead(self.symbols.arch(), Instead::Returns),
        )
    }

    fn overwrite(&mut self, function: &str, code: &[u8]) -> Result<()> {
        let symbol = self.symbols.get(function)?;
        self.write_function(function, symbol, code)
    }

    fn write_function(&mut self, name: &str, symbol: Symbol, code: &[u8]) -> Result<()> {
        if (code.len() as u64) > symbol.size {
            return Err(Error::new(format!(
                "{name} has {} bytes, too few for our {}",
                symbol.size,
                code.len()
            )));
        }
        self.gdb.write(symbol.address, code)
    }

    fn take_ticket(&mut self, lock: u64) -> Result<()> {
        let word = self.gdb.read_u32(lock)?;
        self.gdb
            .write(lock, &word.wrapping_add(ONE_TICKET).to_le_bytes())
    }

    /// Where a processor has its copy of a per-CPU variable.
    fn per_cpu(&mut self, name: &str, cpu: u8) -> Result<u64> {
        let offset = self.per_cpu_offset(cpu)?;
        Ok(self.symbols.get(name)?.address.wrapping_add(offset))
    }

    fn per_cpu_offset(&mut self, cpu: u8) -> Result<u64> {
        let table = self.symbols.get("__per_cpu_offset")?.address;
        self.gdb.read_u64(table + u64::from(cpu) * 8)
    }

    /// Where a processor finds its number, relative to the last byte of its stack.
    ///
    /// The build decides it, so it is looked up: `struct cpu_info` lies at the end of the stack and also holds the processor's
    /// per-CPU offset. What was pushed on the stack before may be that number as well, so both processors must agree on the place, and
    /// only one place may be such.
    fn processor_id_displacement(&mut self) -> Result<i32> {
        let offset = self.per_cpu_offset(1)?;
        let end = self.stack_end(1)?;
        let mut found = Vec::new();
        for distance in (8..CPU_INFO_MAX).step_by(8) {
            if self.gdb.read_u64(end - distance)? == offset {
                found.push(distance + PROCESSOR_TO_OFFSET);
            }
        }
        let mut agreed = Vec::new();
        for distance in &found {
            if self.has_cpu_info(0, *distance)? && self.has_cpu_info(1, *distance)? {
                agreed.push(*distance);
            }
        }
        let [distance] = agreed[..] else {
            return Err(Error::new(format!(
                "cpu_info is at {agreed:?} of {found:?} bytes before the stacks' ends"
            )));
        };
        i32::try_from(distance)
            .map(|distance| 1 - distance)
            .context(|| "cpu_info is too large")
    }

    /// Whether a processor's number and its per-CPU offset are so many bytes before the end of its stack.
    fn has_cpu_info(&mut self, cpu: u8, distance: u64) -> Result<bool> {
        let at = self.stack_end(cpu)? - distance;
        let number = self.gdb.read_u32(at)?;
        let offset = self.gdb.read_u64(at + PROCESSOR_TO_OFFSET)?;
        Ok(number == u32::from(cpu) && offset == self.per_cpu_offset(cpu)?)
    }

    fn stack_end(&mut self, cpu: u8) -> Result<u64> {
        let table = self.symbols.get("stack_base")?.address;
        Ok(self.gdb.read_u64(table + u64::from(cpu) * 8)? + STACK_SIZE)
    }
}
