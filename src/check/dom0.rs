// SPDX-License-Identifier: GPL-2.0-only
//! The control domain: its vCPUs, its clock, its crash kernel.

use super::{Area, Finding, System};
use crate::config::Policy;

const AREA: Area = Area::Dom0;
const ONLINE: &str = "/sys/devices/system/cpu/online";
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const CRASH: &str = "/sys/kernel/kexec_crash_loaded";

/// What is said of it.
pub fn look(system: &System, policy: &Option<Policy>) -> Vec<Finding> {
    let crash = crash_kernel(system, policy.as_ref());
    vec![vcpus(system), clock(system), crash]
}

fn not_told(path: &str) -> Finding {
    Finding::unknown(AREA, format!("{path} cannot be read"), "mount /sys")
}

/// How many CPUs a list as `0-3,5` has (Linux `Documentation/admin-guide/cputopology.rst`).
fn count(list: &str) -> Option<u32> {
    let range = |part: &str| -> Option<u32> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    let mut all = list.split(',').map(range);
    all.try_fold(0_u32, |sum, n| sum.checked_add(n?))
}

fn vcpus(system: &System) -> Finding {
    match system.text(ONLINE).and_then(|list| count(&list)) {
        None => not_told(ONLINE),
        Some(1) => Finding::weak(
            AREA,
            "one vCPU is online: a wedge of the pCPU that it is on stops all of dom0, and what \
             would say why",
            "boot Xen with dom0_max_vcpus=2 or more",
        ),
        Some(n) => Finding::fine(AREA, format!("{n} vCPUs are online")),
    }
}

fn clock(system: &System) -> Finding {
    match system.text(CLOCK).as_deref() {
        None | Some("") => not_told(CLOCK),
        Some(source @ ("xen" | "tsc" | "arch_sys_counter")) => {
            Finding::fine(AREA, format!("its clock source is {source}"))
        }
        Some(source) => Finding::weak(
            AREA,
            format!("its clock source is {source}: each look at the clock takes longer"),
            "boot dom0's kernel with clocksource=xen (on PVH and HVM tsc)",
        ),
    }
}

/// With kdump the dead host runs on, in a kernel that must see to the armed device itself, or be done
/// in time. On Xen it is the hypervisor that has it, and kexec-tools loads it there.
fn crash_kernel(system: &System, policy: Option<&Policy>) -> Finding {
    let dump = policy.and_then(|policy| Some((policy.crash_dump_s?, policy.timeout_s)));
    match (system.hypervisor.crash_kernel(), dump) {
        (Ok(true), Some((hardware_s, timeout_s))) => Finding::fine(
            AREA,
            format!(
                "Xen has a crash kernel loaded, which the host watchdog gives {} s for its dump \
                 ({} s on boards that reset after half of their timeout), unless it drives that itself",
                hardware_s.saturating_sub(timeout_s + 1),
                (hardware_s / 2).saturating_sub(timeout_s + 1)
            ),
        ),
        (Ok(true), None) => Finding::fine(
            AREA,
            "Xen has a crash kernel loaded: it must drive the host watchdog itself, or the reset \
             cuts its dump short; a wedge ends without one (crash_dump.hardware_s)",
        ),
        (Ok(false), Some(_)) => Finding::weak(
            AREA,
            "Xen has no crash kernel loaded: with [crash_dump] a wedge resets the host, and there \
             is no dump",
            "boot Xen with crashkernel=..., and have kexec-tools load one in dom0 (kexec -p)",
        ),
        (Err(why), Some(_)) => Finding::unknown(
            AREA,
            format!("whether Xen has a crash kernel loaded is not told: {why}"),
            "run the check as root in dom0, or kexec -S",
        ),
        (Ok(false) | Err(_), None) => crash_kernel_of_linux(system),
    }
}

fn crash_kernel_of_linux(system: &System) -> Finding {
    match system.text(CRASH).as_deref() {
        Some("0") => Finding::fine(AREA, "its kernel has no crash kernel loaded"),
        Some("1") => Finding::fine(
            AREA,
            "a crash kernel is loaded: it must drive the host watchdog itself, or the reset cuts \
             its dump short",
        ),
        Some(_) => not_told(CRASH),
        None if system.exists("/sys/kernel") => {
            Finding::fine(AREA, "its kernel loads no crash kernel")
        }
        None => not_told(CRASH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_in_their_lists() {
        let cases = [
            ("0", Some(1)),
            ("0-3", Some(4)),
            ("0,2-3,7", Some(4)),
            ("", None),
            ("3-1", None),
            ("0-4294967295", None),
            ("a", None),
        ];
        for (list, expected) in cases {
            assert_eq!(count(list), expected, "{list}");
        }
    }
}
