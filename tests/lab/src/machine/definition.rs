// SPDX-License-Identifier: GPL-2.0-only
//! What a machine is: QEMU's arguments, by the host's processors and its shape.

use super::Parts;
use super::shape::Shape;
use crate::provision::Arch;
use std::path::Path;

/// QEMU's processor model, without what the emulation gets wrong or warns of: MWAIT faults in Xen's idle loop, SMAP breaks
/// the return to PV guests, and the rest is not emulated. With XSAVE, and so with AVX, programs in dom0 lost
/// vector registers when they were preempted: 21 of 2800 short ones died of what glibc's start had copied through them, without it
/// none.
const PROCESSOR: &str = "EPYC,-monitor,-smap,-smep,-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-xsavec,-xsave,-xsaveopt,-xgetbv1,-avx,-avx2,-fma,-f16c";
/// The same on Arm: one without workarounds that have the hypervisor call firmware at each exception.
const ARM_PROCESSOR: &str = "cortex-a53";
/// How the machine's time passes: each instruction takes 8 ns of it, and where all processors idle, it jumps to the next timer. So it
/// does not depend on how fast or busy this machine is, no bound is missed through this machine's fault, and most scenarios
/// take less time than they measure. The processors take turns. With `thread=multi` (see [`TIME_OVERRIDE`]) they run in
/// parallel, in this machine's time; that emulation now and then corrupts the memory of a program in dom0.
const TIME: &str = "-accel tcg,thread=single -icount shift=3,sleep=off";
/// The same for hosts that talk to each other: with `sleep=off` each would be somewhere else in time.
const TIME_OF_MEMBERS: &str = "-accel tcg,thread=single -icount shift=3,sleep=on";
/// Other options in place of [`TIME`], such as `-accel tcg,thread=multi`.
const TIME_OVERRIDE: &str = "XENWARDEN_LAB_TIME";
/// The hypervisor's command line.
const XEN_ARGUMENTS: &str = "loglvl=all guest_loglvl=all";
/// The same on Arm for its console. Without `sync_console`, a processor that takes the serial port's interrupt while another one writes
/// looks at the port again and again until its turn of the emulation ends, and each look leaves the emulation's fast path: a minute
/// and more for one line.
const ARM_CONSOLE: &str = "console=dtuart dtuart=/pl011@9000000 sync_console";
/// The dom0 kernel's command line.
const DOM0_ARGUMENTS: &str = "console=hvc0 quiet";
/// What all have.
const COMMON: &str = "-nodefaults -no-user-config -display none -m 1536 \
                      -action watchdog=reset,reboot=shutdown,shutdown=pause \
                      -chardev stdio,id=log,signal=off -chardev file,id=pulses,path=pulses \
                      -chardev file,id=console,path=console.log -serial chardev:console \
                      -chardev socket,id=agent,path=agent,server=on,wait=off \
                      -chardev socket,id=qmp,path=qmp,server=on,wait=off -mon chardev=qmp,mode=control \
                      -chardev socket,id=gdb,path=gdb,server=on,wait=off -gdb chardev:gdb";
/// dom0's ways out of a PC, and its disk.
const PC: &str = "-serial chardev:agent -device isa-debugcon,iobase=0x403,chardev=log \
                  -device isa-debugcon,iobase=0x402,chardev=pulses \
                  -drive file=state.img,format=raw,if=ide,cache=unsafe";
/// The same on Arm's board, whose cards are where `images/dom0-init.sh` and [`xenwarden_lab_dom0`] look for them. The sound card
/// makes no sound: it has the only counter that QEMU's monitor can read (see [`super::seen`]).
const VIRT: &str = "-machine virt,virtualization=on,gic-version=3 -device i6300esb \
                    -device pci-serial,chardev=agent,addr=0x10 -device pci-serial,chardev=log,addr=0x11 \
                    -device pci-serial,chardev=pulses,addr=0x12 -device intel-hda,addr=0x13 \
                    -device ich9-ahci,id=sata,addr=0x14 -device ide-hd,drive=disk,bus=sata.0 \
                    -drive file=state.img,format=raw,if=none,id=disk,cache=unsafe";
/// Where dom0's kernel and its initramfs are in an Arm host's memory: behind the hypervisor, and the one behind the other.
const ARM_MODULES: [&str; 2] = ["0x49000000", "0x4d000000"];

/// How far from where it is linked to QEMU puts an Arm hypervisor into memory (hw/arm/boot.c: 2 MiB behind the RAM's beginning).
pub const ARM_LOADED: u64 = 0x4000_0000;

/// The memory that machines are given, as [`COMMON`] says, from a file. The name is the one that QEMU gives to a PC's memory itself, so
/// states do not depend on where it is.
pub(super) fn memory_in(file: &Path, written: bool) -> Vec<String> {
    let share = if written { "on" } else { "off" };
    // A comma in a value is written twice.
    let file = file.display().to_string().replace(',', ",,");
    let memory = format!("memory-backend-file,id=pc.ram,size=1536M,mem-path={file},share={share}");
    ["-object", &memory, "-machine", "memory-backend=pc.ram"]
        .map(str::to_owned)
        .into()
}

/// The arguments that define the machine, apart from its files.
pub fn definition(shape: Shape, arch: Arch) -> Vec<String> {
    definition_with(shape, arch, "")
}

pub(super) fn definition_with(shape: Shape, arch: Arch, more: &str) -> Vec<String> {
    let (processors, arguments) = shape.processors();
    let (board, console, processor) = match arch {
        Arch::Amd64 => (
            format!("{PC} {}", shape.board().0),
            "console=com1 com1=115200,8n1 cpuidle=0",
            format!("{PROCESSOR},{}", shape.processor()),
        ),
        Arch::Arm64 => (VIRT.to_owned(), ARM_CONSOLE, ARM_PROCESSOR.to_owned()),
    };
    let memory = shape.dom0_memory();
    let arguments = format!("dom0_mem={memory} {XEN_ARGUMENTS} {console}{arguments}{more}");
    let own = [
        "-smp", processors, "-cpu", &processor, "-append", &arguments,
    ];
    let usual = match shape {
        Shape::Member => TIME_OF_MEMBERS,
        _ => TIME,
    };
    let time = std::env::var(TIME_OVERRIDE).unwrap_or_else(|_| usual.to_owned());
    COMMON
        .split_whitespace()
        .chain(board.split_whitespace())
        .chain(time.split_whitespace())
        .chain(own)
        .map(str::to_owned)
        .collect()
}

/// The arguments that name the files that it boots.
pub(super) fn boots(parts: &Parts) -> Vec<String> {
    let (kernel, initramfs) = (parts.kernel.display(), parts.initramfs.display());
    let told = format!("{DOM0_ARGUMENTS} lab.watchdog={}", parts.shape.board().1);
    let hypervisor = ["-kernel".to_owned(), parts.hypervisor.display().to_string()];
    let modules = match parts.arch {
        Arch::Amd64 => vec!["-initrd".to_owned(), format!("{kernel} {told},{initramfs}")],
        Arch::Arm64 => {
            let [first, second] = ARM_MODULES;
            let loaded = [
                format!("guest-loader,addr={first},kernel={kernel},bootargs={told} rdinit=/init"),
                format!("guest-loader,addr={second},initrd={initramfs}"),
            ];
            loaded
                .into_iter()
                .flat_map(|device| ["-device".to_owned(), device])
                .collect()
        }
    };
    hypervisor.into_iter().chain(modules).collect()
}
