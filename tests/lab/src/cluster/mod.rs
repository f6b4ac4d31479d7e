// SPDX-License-Identifier: GPL-2.0-only
//! A cluster: two nested Xen hosts and a third vote, with corosync, Pacemaker, DRBD and xenwarden, and a guest that counts on its disk.
//!
//! In: the laboratory's parts, `doc/examples/cluster` as it is. Out: a cluster as it should be, from a saved state of both hosts, into
//! which a row of `rows` puts a fault; what must come of it is measured by this machine's clock, which both QEMUs go by.

mod counted;
mod fence;
mod migrate;
mod rows;
mod third;

pub use rows::{list, run};

use crate::command::say;
use crate::error::{Context, Error, Result};
use crate::host::{Host, PROMPT};
use crate::laboratory::Laboratory;
use crate::laboratory::cluster::{ClusterParts, LINKS, NAMES};
use std::io::BufRead;
use std::time::{Duration, Instant};
use third::Third;

/// How long a step of bringing it up may take, and what must come of a fault.
const STEP: Duration = Duration::from_secs(300);
/// How long a condition may take to come about.
const CONDITION: Duration = Duration::from_secs(90);
/// How long a command of bringing it up may take.
const COMMAND: Duration = Duration::from_secs(30);
/// Between two looks at a condition in dom0.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The guest's name.
const GUEST: &str = "web";

/// All votes are there, the third one's included.
const WHOLE: &str = "corosync-quorumtool -s | grep -q 'Total votes: *3' && corosync-qdevice-tool -s | grep -q 'State:.*Connected'";
/// Both disks are up to date.
const SAME: &str = "drbdadm status r0 | grep -q '^ *disk:UpToDate' && drbdadm status r0 | grep -q peer-disk:UpToDate";
/// A disk that may be older than the other one, which is looked for.
const ALONE: &str =
    "drbdadm dstate r0 | grep -q ^Consistent && drbdadm cstate r0 | grep -q WFConnection";
/// Whoever starts a guest does this; what the kernel said of it.
const BY_ITSELF: &str = "drbdadm primary r0; code=$?; dmesg | tail -n 20; exit $code";
/// This host has promised to be down without quorum.
const PROMISED: &str = "xenwarden status | grep -q '^pool *held'";
/// Both hosts can be fenced, as far as the pool knows.
const FENCEABLE: &str =
    "fence_xenwarden -o monitor && [ \"$(fence_xenwarden -o list | wc -l)\" = 2 ]";
/// Pacemaker has both hosts.
const ONLINE: &str = "crm_mon -1 | grep -q 'Online: \\[ alpha beta \\]'";

/// A cluster.
pub struct Cluster<'a> {
    /// alpha and beta.
    pub hosts: Vec<Host>,
    laboratory: &'a Laboratory,
    parts: &'a ClusterParts,
    _third: Third,
}

impl<'a> Cluster<'a> {
    /// One as it should be, from the saved state, which is made if it is not there.
    pub fn provide(laboratory: &'a Laboratory, parts: &'a ClusterParts) -> Result<Self> {
        if !parts.is_saved() {
            say("booting a cluster once (some minutes)");
            Self::boot(laboratory, parts)?.save(parts)?;
        }
        Self::restore(laboratory, parts)
    }

    /// From power-on to a guest that counts.
    pub fn boot(laboratory: &'a Laboratory, parts: &'a ClusterParts) -> Result<Self> {
        let mut cluster = Self::switch_on(laboratory, parts)?;
        cluster.bring_up()?;
        Ok(cluster)
    }

    /// Both hosts, in which nothing of the cluster runs.
    fn switch_on(laboratory: &'a Laboratory, parts: &'a ClusterParts) -> Result<Self> {
        let third = Third::start(&parts.root, &laboratory.cluster_folder())?;
        Ok(Cluster {
            hosts: laboratory.members_booted(parts)?.into(),
            laboratory,
            parts,
            _third: third,
        })
    }

    fn bring_up(&mut self) -> Result<()> {
        let cluster = self;
        let began = Instant::now();
        let said = |what: &str| say(format!("  {:>4} s  {what}", began.elapsed().as_secs()));
        cluster.on_each(|host, name| host.dom0_ok(&format!("cluster up {name}"), PROMPT))?;
        cluster.on_each(|host, _| host.dom0_ok("cluster ring", COMMAND))?;
        cluster.wait_on_each("no third vote", WHOLE)?;
        said("corosync has all three votes");
        cluster.on_each(|host, _| host.dom0_ok("cluster format && cluster disk", COMMAND))?;
        cluster.wait(
            0,
            "DRBD is not connected",
            "drbdadm cstate r0 | grep -q Connected",
        )?;
        cluster.hosts[0].dom0_ok("drbdadm new-current-uuid --clear-bitmap r0", COMMAND)?;
        cluster.wait_on_each("the disks differ", SAME)?;
        cluster.on_each(|host, _| host.dom0_ok("cluster warden", COMMAND))?;
        cluster.wait_on_each("the lease is not held", PROMISED)?;
        cluster.wait_on_each("no host can be fenced", FENCEABLE)?;
        said("the guards kick, and both hosts have promised");
        cluster.on_each(|host, _| host.dom0_ok("cluster pacemaker", COMMAND))?;
        cluster.wait_on_each("Pacemaker is not up", ONLINE)?;
        said("Pacemaker is up");
        let configure = "cibadmin --replace --scope configuration --xml-file /etc/cluster/cib.xml";
        cluster.hosts[0].dom0_ok(configure, STEP)?;
        let fencing = "crm_mon -1 | grep -q 'fencing.*Started'";
        cluster.wait(0, "Pacemaker does not start the fencing", fencing)?;
        cluster.wait_guest()?;
        said("the guest counts");
        Ok(())
    }

    /// From its state; only what the state cannot have is waited for: the connections to the third vote.
    fn restore(laboratory: &'a Laboratory, parts: &'a ClusterParts) -> Result<Self> {
        let third = Third::start(&parts.root, &laboratory.cluster_folder())?;
        let mut cluster = Cluster {
            hosts: laboratory.members_restored(parts)?.into(),
            laboratory,
            parts,
            _third: third,
        };
        for host in &mut cluster.hosts {
            host.machine.resume()?;
        }
        cluster.wait_on_each("no third vote", WHOLE)?;
        cluster.wait_on_each("the lease is not held", PROMISED)?;
        cluster.wait_guest()?;
        Ok(cluster)
    }

    fn save(mut self, parts: &ClusterParts) -> Result<()> {
        for host in &mut self.hosts {
            host.machine.stop()?;
        }
        let made_of = parts.parts.iter().zip(&parts.states);
        for (host, (parts, state)) in self.hosts.into_iter().zip(made_of) {
            host.machine.save(parts, state)?;
        }
        Ok(())
    }

    /// A host whose power was cut boots again, and all that belongs to the cluster is started there as its init system does. Its disk, which
    /// has not met the other one yet, is none to start a guest from.
    pub fn boot_again(&mut self, at: usize) -> Result<()> {
        let host = self.hosts.remove(at);
        let host = self.laboratory.member_booted_again(self.parts, at, host)?;
        self.hosts.insert(at, host);
        let name = NAMES[at];
        self.hosts[at].dom0_ok(&format!("cluster up {name}"), PROMPT)?;
        self.hosts[at].machine.set_link(LINKS[0], false)?;
        self.hosts[at].dom0_ok("cluster disk", COMMAND)?;
        self.wait(at, "no disk", ALONE)?;
        let first = self.hosts[at].machine.log.length();
        let said = self.hosts[at].dom0(BY_ITSELF, PROMPT)?;
        if said.code == 0 {
            return Err(Error::new(format!("{name} is primary, by an older disk")));
        }
        let log = &self.hosts[at].machine.log;
        log.wait_for(first, PROMPT, &["fence-peer", "disk is not up to date"])
            .context(|| format!("{name}: fence-peer does not say why: {}", said.output))?;
        self.hosts[at].machine.set_link(LINKS[0], true)?;
        self.hosts[at].dom0_ok("cluster ring", COMMAND)?;
        self.wait(at, "no third vote", WHOLE)?;
        self.hosts[at].dom0_ok("cluster warden", COMMAND)?;
        self.wait(
            at,
            "DRBD does not meet the other",
            "drbdadm cstate r0 | grep -q 'Connected\\|Sync'",
        )?;
        self.hosts[at].dom0_ok("cluster pacemaker", COMMAND)?;
        self.wait_on_each("the disks differ", SAME)?;
        self.wait_on_each("the lease is not held", PROMISED)?;
        self.wait_on_each("no host can be fenced", FENCEABLE)?;
        self.wait_on_each("Pacemaker is not up", ONLINE)
    }

    /// Where the guest runs.
    pub fn guest_at(&mut self) -> Result<usize> {
        for at in 0..self.hosts.len() {
            if self.hosts[at]
                .dom0(&format!("xl domid {GUEST}"), PROMPT)?
                .code
                == 0
            {
                return Ok(at);
            }
        }
        Err(Error::new("the guest runs nowhere"))
    }

    /// Waits until the guest has counted on, wherever it is; returns where.
    pub fn wait_guest(&mut self) -> Result<usize> {
        let deadline = Instant::now() + STEP;
        let lengths = self.hosts.iter().map(|host| host.machine.log.length());
        let first: Vec<_> = lengths.collect();
        while Instant::now() < deadline {
            for (at, host) in self.hosts.iter().enumerate() {
                let said = host
                    .machine
                    .log
                    .wait_for(first[at], LOOK_EVERY, &["guest: has "]);
                if said.is_some() {
                    return Ok(at);
                }
            }
        }
        Err(Error::new("the guest does not count"))
    }

    /// Looks at the guest's disk where it is, which must have all that was acknowledged; how many numbers there are.
    pub fn numbers(&mut self, at: usize, acknowledged: u64) -> Result<u64> {
        let disk = "echo 3 > /proc/sys/vm/drop_caches; tr -d '\\0' < /dev/drbd0";
        let disk = self.hosts[at].dom0_ok(disk, PROMPT)?;
        counted::check(&disk, acknowledged)
    }

    /// Does something on one host after the other.
    pub fn on_each<T>(&mut self, mut work: impl FnMut(&mut Host, &str) -> Result<T>) -> Result<()> {
        for (host, name) in self.hosts.iter_mut().zip(NAMES) {
            work(host, name)?;
        }
        Ok(())
    }

    fn wait_on_each(&mut self, otherwise: &str, command: &str) -> Result<()> {
        (0..self.hosts.len()).try_for_each(|at| self.wait(at, otherwise, command).map(drop))
    }

    /// Waits until a shell command succeeds on a host.
    pub fn wait(&mut self, at: usize, otherwise: &str, command: &str) -> Result<String> {
        let deadline = Instant::now() + CONDITION;
        loop {
            let outcome = self.hosts[at].machine.run(command, CONDITION)?;
            if outcome.code == 0 {
                return Ok(outcome.output);
            }
            if Instant::now() > deadline {
                let (name, said) = (NAMES[at], outcome.output);
                return Err(Error::new(format!(
                    "{name}: {otherwise}: {command}: {said}"
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Provides a cluster and runs in it what is typed: `alpha COMMAND`, `beta COMMAND`, `log alpha`, until the end of the input.
pub fn console() -> Result<()> {
    let laboratory = Laboratory::provide_parts()?;
    let parts = laboratory.cluster_parts()?;
    let mut cluster = match parts.is_saved() {
        true => Cluster::restore(&laboratory, &parts)?,
        false => {
            let mut cluster = Cluster::switch_on(&laboratory, &parts)?;
            // What is wrong is what one wants to look at.
            let up = cluster.bring_up();
            up.unwrap_or_else(|error| say(error.to_string()));
            cluster
        }
    };
    say("alpha COMMAND, beta COMMAND, log alpha, log beta");
    for line in std::io::stdin().lock().lines() {
        let line = line.context(|| "cannot read commands")?;
        let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let named = |name: &str| NAMES.iter().position(|known| *known == name);
        match (named(first), named(rest)) {
            (Some(at), _) => match cluster.hosts[at].machine.run(rest, STEP) {
                Ok(outcome) => println!("{}[{first}: {}]", outcome.output, outcome.code),
                Err(error) => println!("[{first}: {error}]"),
            },
            (None, Some(at)) if first == "log" => {
                let lines = cluster.hosts[at].machine.log.lines_from(0);
                lines.iter().for_each(|line| println!("{line}"));
            }
            _ => println!("alpha COMMAND, beta COMMAND, log alpha, log beta"),
        }
    }
    Ok(())
}
