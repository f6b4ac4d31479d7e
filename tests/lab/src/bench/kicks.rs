// SPDX-License-Identifier: GPL-2.0-only
//! The gaps between each daemon's kicks while dom0 is busy, by one method for all: dom0's kernel notes when the function runs that kicks.
//!
//! That is a kprobe (Linux: Documentation/trace/kprobetrace.rst) on the driver's keepalive. xenwatchdogd has no driver: its kick is a
//! hypercall by `/dev/xen/privcmd`.

use super::data::KickRun;
use super::peers::Peer;
use crate::error::{Context, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::laboratory::bench::BenchParts;
use crate::machine::Shape;
use std::time::Duration;

/// For how long each load goes on.
const MEASURED_S: u32 = 30;
/// How long more a command of the load may take to notice that it is to end.
const ENDS: Duration = Duration::from_secs(5);
/// Where the kernel's notes are read.
pub const TRACING: &str = "/sys/kernel/tracing";

/// What dom0 is kept busy with.
pub struct Load {
    /// Its name, in data and tables.
    pub name: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// A shell command that goes on for ever.
    pub command: &'static str,
}

/// All of them.
pub const LOADS: [Load; 5] = [
    Load {
        name: "none",
        what: "nothing",
        command: "sleep 1000",
    },
    Load {
        name: "cpu",
        what: "two busy loops for each of dom0's processors",
        command: "for n in 1 2 3; do while :; do :; done & done; while :; do :; done",
    },
    Load {
        name: "fork",
        what: "two loops for each of dom0's processors that do nothing but start processes",
        command: "for n in 1 2 3; do while :; do /usr/bin/true; done & done; while :; do /usr/bin/true; done",
    },
    Load {
        name: "memory",
        what: "programs that take all but 12 MiB of dom0's memory, fill it, and end",
        command: "while :; do k=$(awk '/^MemAvailable/ {print $2 - 12288}' /proc/meminfo); dd if=/dev/zero of=/dev/null bs=${k}k count=1 2> /dev/null; done",
    },
    Load {
        name: "io",
        what: "files that are written to a disk, synchronously, and read from it",
        command: "while :; do dd if=/dev/zero of=/var/lib/xenwarden/fill bs=64k count=64 conv=fsync 2> /dev/null; echo 3 > /proc/sys/vm/drop_caches; cat /var/lib/xenwarden/fill > /dev/null; done",
    },
];

/// Measures one daemon under one load, on a host of its own.
pub fn run(
    laboratory: &Laboratory,
    parts: &BenchParts,
    peer: Peer,
    load: &Load,
    run: u32,
) -> Result<KickRun> {
    let mut host = laboratory.bench_host(parts, Shape::Everywhere)?;
    peer.start(&mut host)?;
    host.note_kicks(peer)?;
    // A group of its own, all of which ends with the load's time.
    let busy = format!(
        "echo 1 > {TRACING}/tracing_on; setsid sh -c '{}' > /dev/null 2>&1 & p=$!; sleep {MEASURED_S}; kill -9 -$p; echo 0 > {TRACING}/tracing_on",
        load.command.replace('\'', "'\\''")
    );
    let began = host.machine.clock()?;
    host.machine.agent.send(&busy)?;
    let until = began + Duration::from_secs(MEASURED_S.into()) + ENDS;
    let reset = host.machine.wait_reset(until)?.is_some();
    let gaps_ms = match reset {
        true => Vec::new(),
        false => gaps_ms(&host.dom0_ok(&format!("cat {TRACING}/trace"), PROMPT)?)?,
    };
    Ok(KickRun {
        peer: peer.name().to_owned(),
        load: load.name.to_owned(),
        run,
        over_s: MEASURED_S.into(),
        gaps_ms,
        reset,
    })
}

impl Host {
    /// Has dom0's kernel note each kick from when it is told to.
    pub fn note_kicks(&mut self, peer: Peer) -> Result<()> {
        let function = peer.kicks_by();
        let filter = match peer {
            Peer::Xenwatchdogd => {
                "echo 'comm == \"xenwatchdogd\"' > events/kprobes/kick/filter && "
            }
            _ => "",
        };
        let note = format!(
            "mount -t tracefs tracefs {TRACING} && cd {TRACING} && echo 0 > tracing_on && echo 64 > buffer_size_kb && \
             echo mono > trace_clock && echo 'p:kick {function}' > kprobe_events && {filter}echo 1 > events/kprobes/kick/enable"
        );
        self.dom0_ok(&note, PROMPT).map(drop)
    }
}

/// The gaps between the notes of a trace, in which each has its time in seconds before the note's name.
fn gaps_ms(trace: &str) -> Result<Vec<f64>> {
    let notes = trace.lines().filter(|line| line.contains(" kick: "));
    let times = notes.map(|line| {
        let before = line.split(": kick: ").next().unwrap_or_default();
        let time = before.split_whitespace().last().unwrap_or_default();
        time.parse::<f64>()
            .context(|| format!("no time in the kernel's note: {line}"))
    });
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    let gap = |pair: &[f64]| ((pair[1] - pair[0]) * 1e6).round() / 1e3;
    Ok(times.windows(2).map(gap).collect())
}

#[cfg(test)]
mod tests {
    use super::gaps_ms;

    #[test]
    fn gaps_are_those_between_the_kernels_notes() {
        let trace = "# tracer: nop\n#\n\
             sbd-402     [001] .....    50.250000: kick: (esb_timer_keepalive+0x0/0x40 [i6300esb])\n\
             sbd-402     [000] .....    51.250500: kick: (esb_timer_keepalive+0x0/0x40 [i6300esb])\n\
             sbd-402     [001] .....    53.000000: kick: (esb_timer_keepalive+0x0/0x40 [i6300esb])\n";
        assert_eq!(gaps_ms(trace).unwrap(), [1_000.5, 1_749.5]);
        assert!(gaps_ms("x kick: y : kick: (\n").is_err());
        assert_eq!(gaps_ms("# nothing\n").unwrap(), Vec::<f64>::new());
    }
}
