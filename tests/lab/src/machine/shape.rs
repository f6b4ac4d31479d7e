// SPDX-License-Identifier: GPL-2.0-only
//! The hosts that the laboratory has: where dom0 runs, and which host watchdog there is.

use std::time::Duration;

/// Where dom0 runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// On each of two pCPUs: whatever stops one of them stops part of dom0.
    Everywhere,
    /// On two of four pCPUs, as users pin it: what stops one of the others leaves dom0 alone.
    Apart,
    /// The same with an ib700 as host watchdog.
    Ib700,
    /// The same with the chipset's own (iTCO).
    Itco,
    /// The same with a BMC's (IPMI).
    Ipmi,
    /// As [`Shape::Everywhere`], on a hypervisor without patches.
    Stock,
    /// As [`Shape::Apart`], likewise.
    StockApart,
    /// As [`Shape::Apart`], on a hypervisor with schedulers that Debian leaves out.
    Extended,
    /// As [`Shape::Apart`], where dom0 is no PV domain but a PVH one.
    Pvh,
    /// As [`Shape::Everywhere`], with HVM guests and their device models.
    Hvm,
    /// As [`Shape::Everywhere`], one of several hosts, whose times all go with this machine's.
    Member,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 11] = [
        Shape::Everywhere,
        Shape::Apart,
        Shape::Ib700,
        Shape::Itco,
        Shape::Ipmi,
        Shape::Stock,
        Shape::StockApart,
        Shape::Extended,
        Shape::Pvh,
        Shape::Hvm,
        Shape::Member,
    ];

    /// What it is, for people.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Everywhere => "on every pCPU",
            Shape::Apart => "on two of four pCPUs",
            Shape::Ib700 => "on two of four pCPUs, with an ib700",
            Shape::Itco => "on two of four pCPUs, with an iTCO",
            Shape::Ipmi => "on two of four pCPUs, with a BMC",
            Shape::Stock => "on every pCPU, without patches",
            Shape::StockApart => "on two of four pCPUs, without patches",
            Shape::Extended => "on two of four pCPUs, with more schedulers",
            Shape::Pvh => "on two of four pCPUs, as a PVH domain",
            Shape::Hvm => "on every pCPU, with device models",
            Shape::Member => "on every pCPU, of a cluster",
        }
    }

    /// The same host without patches, where the laboratory has it.
    pub fn stock(self) -> Option<Shape> {
        match self {
            Shape::Everywhere => Some(Shape::Stock),
            Shape::Apart => Some(Shape::StockApart),
            _ => None,
        }
    }

    /// Whether the hypervisor has no patches.
    pub fn is_stock(self) -> bool {
        matches!(self, Shape::Stock | Shape::StockApart)
    }

    /// Processors, and what the hypervisor is told of them.
    pub(super) fn processors(self) -> (&'static str, &'static str) {
        match self {
            Shape::Everywhere | Shape::Stock | Shape::Hvm | Shape::Member => ("2", ""),
            Shape::Pvh => (
                "4",
                " dom0=pvh iommu=verbose dom0_max_vcpus=2 dom0_vcpus_pin",
            ),
            _ => ("4", " dom0_max_vcpus=2 dom0_vcpus_pin"),
        }
    }

    /// What it has that others have not, for names.
    pub fn feature(self) -> &'static str {
        match self {
            Shape::Stock | Shape::StockApart => "stock",
            Shape::Pvh => "pvh",
            Shape::Hvm => "hvm",
            Shape::Member => "member",
            _ => self.board().1,
        }
    }

    /// What its processors have that those of other hosts do not, or the other way round: QEMU's nested paging, without the
    /// instruction whose number faults there.
    pub(super) fn processor(self) -> &'static str {
        match self {
            Shape::Pvh | Shape::Hvm => "+svm,+npt,-rdtscp",
            _ => "-svm",
        }
    }

    /// dom0's memory: device models and clusters are large, and dom0's initramfs has them.
    pub(super) fn dom0_memory(self) -> &'static str {
        match self {
            Shape::Hvm | Shape::Member => "768M",
            _ => "512M",
        }
    }

    /// The board with its host watchdog, and the name of the latter's modules.
    pub(super) fn board(self) -> (&'static str, &'static str) {
        match self {
            Shape::Everywhere
            | Shape::Apart
            | Shape::Stock
            | Shape::StockApart
            | Shape::Hvm
            | Shape::Member
            | Shape::Extended => ("-machine pc -device i6300esb", "i6300esb"),
            Shape::Pvh => (
                "-machine q35 -device amd-iommu -device i6300esb",
                "i6300esb",
            ),
            Shape::Ib700 => ("-machine pc -device ib700", "ib700"),
            Shape::Itco => ("-machine q35 -global ICH9-LPC.noreboot=false", "itco"),
            Shape::Ipmi => (
                "-machine pc -device ipmi-bmc-sim,id=bmc -device isa-ipmi-kcs,bmc=bmc",
                "ipmi",
            ),
        }
    }

    /// What its host watchdog does where 5 s are asked for.
    pub fn watchdog(self) -> Watchdog {
        // i6300esb: Linux's driver splits the timeout over two stages of `5 << 9` counts, QEMU's device counts `count << 15`
        // periods of 30 ns (drivers/watchdog/i6300esb.c, hw/watchdog/wdt_i6300esb.c); its granularity is 1 s. ib700: set to 4 s.
        // iTCO: 3 s are 5 ticks of 0.6 s, counted down twice, each a tick late at most.
        let (fires_after_ms, at_most_ms) = match self {
            Shape::Everywhere
            | Shape::Apart
            | Shape::Stock
            | Shape::StockApart
            | Shape::Extended
            | Shape::Hvm
            | Shape::Member
            | Shape::Pvh => (2 * ((5 << 9) << 15) * 30 / 1_000_000, 6_000),
            Shape::Ib700 => (4_000, 5_000),
            Shape::Itco => (6_000, 7_200),
            Shape::Ipmi => (5_000, 6_000),
        };
        Watchdog {
            fires_after: Duration::from_millis(fires_after_ms),
            at_most: Duration::from_millis(at_most_ms),
        }
    }

    /// Whether QEMU says that it was the watchdog that reset the machine: a BMC resets it without a word.
    pub(super) fn says_that_it_fired(self) -> bool {
        self != Shape::Ipmi
    }
}

/// How a host watchdog keeps the time.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    /// From a kick to the reset, as the emulated device does it.
    pub fires_after: Duration,
    /// From a kick to the reset, as it is promised.
    pub at_most: Duration,
}
