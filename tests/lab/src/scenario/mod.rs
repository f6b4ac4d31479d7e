// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios: what is done to a host, and what must come of it.
//!
//! `wedge/...` and `down/...` end with a reset, `survive/...` must not; `alarm/...`, `sink/...` and `pulse/...` are about what is told, `why/...`
//! about what the next boot says, `systemd/...` about the package on a Debian. Each restores a host of its own, acts at a phase of the
//! timers that it is given, and measures in the host's own time.

pub mod alarms;
pub mod crash;
pub mod device_models;
pub mod dies;
pub mod faults;
pub mod fence;
pub mod figures;
pub mod heartbeats;
mod lease_pulse;
pub mod leases;
pub mod lives;
pub mod phase;
pub mod restart;
mod schema;
pub mod sinks;
mod starving;
pub mod stock;
pub mod systemd;
pub mod table;
pub mod used;
pub mod virtio;
pub mod wedged;
pub mod wedges;
pub mod why;

use crate::error::Result;
use crate::host::Host;
use crate::laboratory::Laboratory;
use crate::machine::Shape;
use crate::provision::Arch;
use figures::Figures;
use std::time::Duration;
use wedges::{WEDGES, Wedge};

/// The wedges that `make test` also runs on hosts of other shapes.
const ON_EVERY_HOST: &[&str] = &["timer-lost-2", "sched-lost-1"];

/// A restored host of this shape that kicks, at `phase` of the timers.
fn ready(laboratory: &Laboratory, shape: Shape, phase: Duration) -> Result<Host> {
    let mut host = laboratory.host_of(shape)?;
    host.wait_kicking()?;
    host.come_to(phase)?;
    Ok(host)
}

/// A scenario that is a short function, not a row of the table of wedges.
#[derive(Debug)]
pub struct Row {
    /// Its name on command lines and in results.
    pub name: &'static str,
    /// What is promised, for people.
    pub what: &'static str,
    /// Restores a host, acts at the given phase, and returns what was measured and whether the promise holds.
    pub run: fn(&Laboratory, Duration) -> Result<Figures>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// On the host of this shape.
    Wedge(&'static Wedge, Shape),
    Row(&'static Row),
}

fn group_of(wedge: &Wedge) -> &'static str {
    match wedge.expected.is_down() {
        true => "wedge",
        false => "survive",
    }
}

/// Left to `make test-all`, as another shows the like: the second pCPU without dom0, and what is one of several of a kind.
const LEFT: &[&str] = &[
    "wedge/timer-lost-3",
    "wedge/timer-spin-3",
    "wedge/sched-lost-3",
    "wedge/clock-frozen-3",
    "wedge/timer-spin-irqoff-3",
    "wedge/timer-lock-3",
    "survive/idle-only-1-unbound",
    "survive/idle-only-1-told",
    "survive/feeder-killed-destroy",
    "survive/feeder-killed-restart",
    "survive/guest-reboots",
    "survive/guest-saved",
    "survive/many-guests",
    "survive/thousand",
    "survive/monitor-killed",
    "alarm/destroyed",
    "sink/hook-forks",
    "pulse/guest-dies",
];

/// Any scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    group: &'static str,
    kind: Kind,
    /// It is left to `make test-all`: it takes a second boot, or the host watchdog is another, and another scenario shows the like.
    left: bool,
}

impl Scenario {
    /// Every scenario that there is on such a host.
    pub fn all(arch: Arch) -> Vec<Scenario> {
        // `chosen`: the rows that are not left to `make test-all`; none: all.
        let some = |group, rows: &'static [Row], chosen: Option<&'static [&str]>| {
            rows.iter().map(move |row| Scenario {
                group,
                kind: Kind::Row(row),
                left: chosen.is_some_and(|chosen| !chosen.contains(&row.name)),
            })
        };
        let of = |group, rows| some(group, rows, None);
        let faults = |group, rows| some(group, rows, Some(faults::IN_EVERY_RUN));
        let wedges = WEDGES.iter().map(|wedge| Scenario {
            group: group_of(wedge),
            kind: Kind::Wedge(wedge, wedge.shape),
            left: false,
        });
        // What ends by evidence, on the other host watchdogs.
        let devices = [Shape::Ib700, Shape::Itco, Shape::Ipmi];
        let on_devices = devices.into_iter().flat_map(|shape| {
            let ends_by_evidence = WEDGES
                .iter()
                .filter(|wedge| wedge.leaves_dom0 && wedge.shape == Shape::Apart);
            ends_by_evidence.map(move |wedge| Scenario {
                group: "wedge",
                kind: Kind::Wedge(wedge, shape),
                left: !ON_EVERY_HOST.contains(&wedge.name),
            })
        });
        let on_stock = WEDGES.iter().filter_map(|wedge| {
            let stock = wedge.on_stock()?;
            Some(Scenario {
                group: group_of(&stock),
                kind: Kind::Wedge(wedge, stock.shape),
                left: !ON_EVERY_HOST.contains(&wedge.name),
            })
        });
        wedges
            .chain(on_devices)
            .chain(on_stock)
            .chain(of("down", dies::ROWS))
            .chain(some("down", fence::DOWN, Some(fence::IN_EVERY_RUN)))
            .chain(some("survive", fence::LIVES, Some(fence::IN_EVERY_RUN)))
            .chain(of("survive", lives::ROWS))
            .chain(some("down", restart::DOWN, Some(restart::IN_EVERY_RUN)))
            .chain(some("down", crash::ROWS, Some(&[])))
            .chain(some("survive", restart::LIVES, Some(restart::IN_EVERY_RUN)))
            .chain(of("survive", table::ROWS))
            .chain(some("down", leases::DOWN, Some(leases::IN_EVERY_RUN)))
            .chain(some("survive", leases::LIVES, Some(leases::IN_EVERY_RUN)))
            .chain(some("survive", stock::ROWS, Some(&[])))
            .chain(of("alarm", alarms::ROWS))
            .chain(of("sink", sinks::ROWS))
            .chain(of("pulse", heartbeats::ROWS))
            .chain(of("pulse", virtio::ROWS))
            .chain(some("alarm", device_models::ROWS, Some(&[])))
            .chain(some("why", why::ROWS, Some(why::IN_EVERY_RUN)))
            .chain(some("systemd", systemd::ROWS, Some(&[])))
            .chain(faults("down", faults::processes::DOWN))
            .chain(faults("survive", faults::processes::LIVES))
            .chain(faults("survive", faults::dom0::LIVES))
            .chain(faults("down", faults::xen::DOWN))
            .chain(faults("survive", faults::xen::LIVES))
            .chain(faults("down", faults::device::DOWN))
            .chain(faults("survive", faults::device::LIVES))
            .map(|scenario| Scenario {
                left: scenario.left || LEFT.contains(&scenario.name().as_str()),
                ..scenario
            })
            .filter(|scenario| arch == Arch::Amd64 || scenario.is_for_arm())
            .collect()
    }

    /// The wedges that `make test` runs on every host, on one whose dom0 is a PVH domain. No part of all: some boots of it end in a
    /// panic of dom0's kernel, where the emulation of nested paging loses its way.
    pub fn on_pvh() -> Vec<Scenario> {
        let wedges = WEDGES
            .iter()
            .filter(|wedge| ON_EVERY_HOST.contains(&wedge.name));
        let scenario = |wedge| Scenario {
            group: "wedge",
            kind: Kind::Wedge(wedge, Shape::Pvh),
            left: true,
        };
        wedges.map(scenario).collect()
    }

    /// Arm's hosts have the wedges that can be injected there, and no other host watchdog. Without patches the hypervisor does not say
    /// there when a vCPU ran.
    fn is_for_arm(&self) -> bool {
        match self.kind {
            Kind::Wedge(wedge, shape) => shape == wedge.shape && !wedge.fault.is_for_x86(),
            Kind::Row(_) => false,
        }
    }

    /// Its full name, such as `wedge/timer-lost-0`.
    pub fn name(&self) -> String {
        match self.kind {
            Kind::Wedge(wedge, shape) if shape != wedge.shape => {
                format!("{}/{}-{}", self.group, wedge.name, shape.feature())
            }
            Kind::Wedge(wedge, _) => format!("{}/{}", self.group, wedge.name),
            Kind::Row(row) => format!("{}/{}", self.group, row.name),
        }
    }

    /// What it is about, for people.
    pub fn what(&self) -> &'static str {
        match self.kind {
            Kind::Wedge(wedge, _) => wedge.what,
            Kind::Row(row) => row.what,
        }
    }

    /// Whether the host watchdog's bounds are put to the test: that is repeated at different phases of the timers.
    pub fn is_timed(&self) -> bool {
        ["wedge", "down", "survive"].contains(&self.group)
    }

    /// At how many phases of the timers it runs where nobody asks for more: there are many wedges, each of them at a phase of its own,
    /// and the guard's loss is promised of every one.
    pub fn phases(&self) -> u32 {
        match self.kind {
            Kind::Row(row) if row.name == dies::AT_EVERY_PHASE => 3,
            _ => 1,
        }
    }

    /// Whether it is left to `make test-all`.
    pub fn is_left_to_all(&self) -> bool {
        self.left
    }

    /// Whether a soak runs it: it ends with a reset, if all is well, or is a wedge that a host must live through.
    pub fn is_soaked(&self) -> bool {
        ["wedge", "down"].contains(&self.group) || matches!(self.kind, Kind::Wedge(..))
    }

    /// Runs it on a host of its own. A scenario that could not be run to its end has failed, too.
    pub fn run(&self, laboratory: &Laboratory, phase: Duration) -> Figures {
        let outcome = match self.kind {
            Kind::Wedge(wedge, shape) => wedged::run(laboratory, wedge, shape, phase),
            Kind::Row(row) => (row.run)(laboratory, phase),
        };
        let figures = outcome.unwrap_or_else(|error| Figures {
            failure: Some(error.to_string()),
            ..Figures::default()
        });
        Figures {
            scenario: self.name(),
            phase_ms: phase.as_millis() as u64,
            ..figures
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arch, LEFT, Scenario};

    #[test]
    fn what_is_left_by_name_is_there() {
        let all = Scenario::all(Arch::Amd64);
        let all: Vec<String> = all.iter().map(Scenario::name).collect();
        for name in LEFT {
            assert!(all.iter().any(|other| other == name), "{name}");
        }
    }
}
