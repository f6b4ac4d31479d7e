// SPDX-License-Identifier: GPL-2.0-only
//! What `xenwarden check` says of a host that is to dump before the hardware resets it.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod check_host;

use check_host::{CONFIG, Host, each};
use xenwarden::check::Area::{Dom0, Fence, HostWatchdog, OtherUsers};
use xenwarden::check::Hypervisor;
use xenwarden::check::Level::{Fine, Unknown, Weak, Wrong};

const DUMP: &str = "[crash_dump]\nhardware_s = 60\n";

/// The hypervisor says this of its crash kernel.
fn crash_kernel(host: &mut Host, told: Result<bool, String>) {
    if let Hypervisor::Answers { crash_kernel, .. } = &mut host.system.hypervisor {
        *crash_kernel = told;
    }
}

#[test]
fn whether_there_is_a_crash_kernel_and_for_how_long_is_told() {
    each(&[
        (
            "dump-without",
            |h| crash_kernel(h, Ok(true)),
            Dom0,
            Fine,
            "Xen has a crash kernel loaded: it must drive the host watchdog itself",
        ),
        (
            "dump-loaded",
            |h| {
                h.put(CONFIG, DUMP);
                crash_kernel(h, Ok(true));
            },
            Dom0,
            Fine,
            "gives 54 s for its dump",
        ),
        (
            "dump-not-loaded",
            |h| h.put(CONFIG, DUMP),
            Dom0,
            Weak,
            "Xen has no crash kernel loaded",
        ),
        (
            "dump-not-told",
            |h| {
                h.put(CONFIG, DUMP);
                crash_kernel(h, Err("Invalid argument".to_owned()));
            },
            Dom0,
            Unknown,
            "is not told: Invalid argument",
        ),
        (
            "dump-not-root",
            |h| {
                h.put(CONFIG, DUMP);
                h.system.hypervisor = Hypervisor::NotRoot;
            },
            Dom0,
            Unknown,
            "only root may ask",
        ),
    ]);
}

#[test]
fn the_levels_are_told_in_their_order_and_what_a_crash_dump_asks_of_the_hardware() {
    each(&[
        (
            "dump-levels",
            |h| h.put(CONFIG, DUMP),
            Fence,
            Fine,
            "Xen's watchdog of dom0 (5 s), for a crash dump, the hardware (60 s), sysrq",
        ),
        (
            "dump-hardware",
            |h| h.put(CONFIG, DUMP),
            HostWatchdog,
            Fine,
            "resets within 60 s",
        ),
        (
            "dump-too-long",
            |h| {
                h.put(CONFIG, DUMP);
                h.put("/sys/class/watchdog/watchdog0/max_timeout", "30\n");
            },
            HostWatchdog,
            Wrong,
            "a timeout of 60 s (host-watchdog.timeout_s, or crash_dump.hardware_s",
        ),
        (
            "dump-pretimeout",
            |h| {
                h.put(CONFIG, DUMP);
                h.put("/sys/class/watchdog/watchdog0/pretimeout", "20\n");
                h.put(
                    "/sys/class/watchdog/watchdog0/pretimeout_governor",
                    "panic\n",
                );
            },
            HostWatchdog,
            Weak,
            "panic 20 s before its reset",
        ),
        (
            "dump-xhad",
            |h| {
                h.put(CONFIG, DUMP);
                h.process(7, "xhad", 0, 0);
            },
            OtherUsers,
            Weak,
            "[crash_dump] wants one",
        ),
    ]);
}
