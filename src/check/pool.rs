// SPDX-License-Identifier: GPL-2.0-only
//! The pool and fencing: whether this host does what others count on once it is cut off, and what could bring it down
//! though it is not.
//!
//! In: pool.conf, xenwarden.conf, corosync.conf, the lease page, the guard's page, Pacemaker's configuration. Out: findings.
//! Promise: what the pool refuses or counts is told as the pool does it, by the same code. Never: a word where the pool is
//! not meant: no pool.conf, no running pool, and not both a corosync.conf and the pool's unit enabled.

use super::cib::Devices;
use super::corosync_conf::Conf;
use super::processes::{Process, running};
use super::{Area, Finding, System};
use crate::config::accounts::id_of;
use crate::config::leases::Lease;
use crate::config::{ConfigError, Policy};
use crate::control::status::Status;
use crate::event::Coverage;
use crate::fencing::agent::options::TIMEOUT_S;
use crate::fencing::order::LISTEN_NS;
use crate::fencing::stretched_ns;
use crate::guard::leases::page::{Access, Page, State, View};
use crate::guard::page::{self, Info, Reader};
use crate::pool::config::{self as pool_conf, DEFAULT_PATH};
use crate::pool::fencer::Settings;
use crate::pool::quorum::{may_sleep, unsuited_votes};
use crate::state::drill::{self, Drills, FenceBound};
use crate::state::history::History;
use crate::state::store::Store;
use crate::sys::clock::{Monotonic, NS_PER_MS, NS_PER_S};
use std::fs;
use std::path::{Path, PathBuf};

const AREA: Area = Area::Pool;
const COROSYNC: &str = "/etc/corosync/corosync.conf";
const UIDGID: &str = "/etc/corosync/uidgid.d";
/// What systemctl makes to enable the pool's unit.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/xenwarden-pool.service";
/// Whose the pool is, and its group.
const USER: &str = "xenwarden-pool";
const PACEMAKER: &str = "/var/lib/pacemaker";
/// Where Pacemaker keeps what is configured.
const CIB: &str = "/var/lib/pacemaker/cib/cib.xml";
/// How a lease that was changed comes to count.
const RESTART: &str = "restart xenwardend and xenwarden-monitor";
const AGENT: &str = "fence_xenwarden";
const PCMK_OFF_TIMEOUT_S: u64 = 60;

/// What is said of them; nothing where the pool is not meant.
pub fn look(system: &System, policy: &Option<Policy>, processes: &[Process]) -> Vec<Finding> {
    let process = processes.iter().find(|process| process.is(USER));
    let enabled = system.exists(ENABLED) && system.exists(COROSYNC);
    if process.is_none() && !enabled && !system.exists(DEFAULT_PATH) {
        return Vec::new();
    }
    let mut findings = vec![runs(system, process, processes)];
    let settings = settings(system, &mut findings);
    let conf = conf(system, &mut findings);
    findings.extend(
        conf.as_ref()
            .and_then(|conf| may_speak_to_corosync(system, conf)),
    );
    let cib = system.text(CIB);
    if cib.is_none() && !system.as_root && system.exists(PACEMAKER) {
        findings.push(Finding::unknown(
            AREA,
            format!("whether {AGENT} is in use is not to be seen in {CIB}"),
            "run the check as root",
        ));
    }
    let cib = cib.unwrap_or_default();
    let Some((settings, policy)) = settings.as_ref().zip(policy.as_ref()) else {
        return findings;
    };
    let host = Host {
        system,
        policy,
        settings,
        conf: conf.as_ref(),
        agents: Devices::parse(&cib, AGENT),
    };
    host.fencing(&mut findings);
    findings
}

fn runs(system: &System, process: Option<&Process>, processes: &[Process]) -> Finding {
    running(AREA, process, processes, || {
        Finding::weak(
            AREA,
            "xenwarden-pool does not run: other hosts know nothing of this one, and it promises them \
             nothing",
            &system.enabling(USER),
        )
    })
}

/// The pool's part in fencing; the defaults where pool.conf is wrong.
fn settings(system: &System, findings: &mut Vec<Finding>) -> Option<Settings> {
    let wrong = match pool_conf::load_if_there(&system.at(Path::new(DEFAULT_PATH))) {
        Ok(policy) => return Some(policy.fencing),
        Err(error) => error,
    };
    if matches!(wrong, ConfigError::Unreadable { .. }) && !system.as_root {
        findings.push(Finding::unknown(
            AREA,
            wrong.to_string(),
            "run the check as root",
        ));
        return None;
    }
    let mend = "mend it, see xenwarden-pool(8): until then xenwarden-pool does not start; all \
                below goes by the defaults";
    let text = wrong.to_string();
    findings.extend(text.lines().map(|line| Finding::wrong(AREA, line, mend)));
    pool_conf::defaults().map(|policy| policy.fencing)
}

/// corosync's configuration, and what is to be said of it whether or not the host promises anything.
fn conf(system: &System, findings: &mut Vec<Finding>) -> Option<Conf> {
    let Some(text) = system.text(COROSYNC) else {
        findings.push(match system.exists(COROSYNC) {
            true => Finding::unknown(
                AREA,
                format!("{COROSYNC} cannot be read"),
                "run the check as root",
            ),
            false => Finding::weak(
                AREA,
                format!("there is no {COROSYNC}: without corosync there is no pool"),
                "set corosync up, or disable xenwarden-pool and remove pool.conf",
            ),
        });
        return None;
    };
    let conf = Conf::parse(&text);
    if let Some(why) = conf.open_because() {
        findings.push(Finding::weak(
            AREA,
            format!(
                "{COROSYNC}: {why}: messages are not authenticated, so whoever reaches corosync's \
                 network can have a host fenced"
            ),
            "transport: knet, crypto_hash: sha256 and crypto_cipher: aes256 in totem, with the key of corosync-keygen(8) \
             on all hosts",
        ));
    }
    Some(conf)
}

/// corosync lets root connect, and whom it is told to.
fn may_speak_to_corosync(system: &System, conf: &Conf) -> Option<Finding> {
    let named = |accounts: &str| {
        let id = id_of(&system.text(accounts).unwrap_or_default(), USER);
        let id = id.map(|id| id.to_string());
        let names: Vec<String> = [USER.to_owned()].into_iter().chain(id).collect();
        names
    };
    let (users, groups) = (named("/etc/passwd"), named("/etc/group"));
    let entries = fs::read_dir(system.at(Path::new(UIDGID))).ok();
    let names = entries.into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut files = names.filter_map(|name| system.text(&format!("{UIDGID}/{name}")));
    let admits = conf.admits(&users, &groups)
        || files.any(|text| Conf::parse(&text).admits(&users, &groups));
    (!admits).then(|| {
        Finding::wrong(
            AREA,
            format!(
                "neither {COROSYNC} nor a file in {UIDGID} lets the user {USER} speak to corosync"
            ),
            &format!(
                "write uidgid {{, uid: {USER}, gid: {USER} and }}, a line each, to {UIDGID}/{USER}, and restart corosync"
            ),
        )
    })
}

/// What fencing rests on.
struct Host<'a> {
    system: &'a System,
    policy: &'a Policy,
    settings: &'a Settings,
    conf: Option<&'a Conf>,
    /// Pacemaker's devices of our agent.
    agents: Devices<'a>,
}

impl Host<'_> {
    fn fencing(&self, findings: &mut Vec<Finding>) {
        let promises = self.settings.terms.without_quorum;
        if !promises && self.agents.is_empty() {
            return;
        }
        if !promises {
            findings.push(Finding::weak(
                AREA,
                format!(
                    "{AGENT} is in use, and this host does not promise to be down without quorum: \
                     silent, it is never known to be down"
                ),
                &format!("set fence_without_quorum = true in {DEFAULT_PATH} on all hosts"),
            ));
        }
        if promises {
            findings.extend(self.conf.into_iter().flat_map(of_quorum));
            findings.extend(may_sleep(&self.system.root).map(|why| {
                let text = format!("fence_without_quorum is not done: {why}");
                Finding::wrong(
                    AREA,
                    text,
                    "systemctl mask sleep.target, and restart xenwarden-pool",
                )
            }));
        }
        let timeout_ns = self.lease(findings);
        if let Some(timeout_ns) = timeout_ns.filter(|_| promises) {
            findings.extend(self.ring(timeout_ns));
            findings.push(self.sum(timeout_ns));
        }
    }

    /// The lease, as it is configured and as the guard goes by it; for how long a renewal is good, ns.
    fn lease(&self, findings: &mut Vec<Finding>) -> Option<u64> {
        let name = self.settings.lease;
        let mut leases = self.policy.leases.leases.iter();
        let Some(lease) = leases.find(|lease| lease.name == name) else {
            let seconds = self.conf.map_or(20, |conf| conf.ring_ms().div_ceil(1_000));
            let text = format!(
                "xenwarden.conf has no [[lease]] of the name {name}: this host can neither promise to be down without \
                 quorum nor confirm that it withholds"
            );
            let mend = format!(
                "add [[lease]] with name = \"{name}\", user = \"{USER}\", strict = true and timeout_s of {seconds} or \
                 more; {RESTART}"
            );
            findings.push(Finding::wrong(AREA, text, &mend));
            return None;
        };
        if !lease.strict {
            let text = format!(
                "the lease {name} is not strict: it would not lapse while no monitor looks, so the pool does not go by it"
            );
            let mend = format!("set strict = true; {RESTART}");
            findings.push(Finding::wrong(AREA, text, &mend));
        }
        if lease.required {
            let seconds = self.policy.leases.begin_ns / NS_PER_S;
            let text = format!(
                "the lease {name} is required: a host that comes up without corosync, or without quorum, goes down \
                 after {seconds} s (leases.begin_s)"
            );
            let mend = "leave out required: the lease counts from its first renewal, and a host that was never in the \
                        quorum promises nothing";
            findings.push(Finding::weak(AREA, text, mend));
        }
        findings.extend(self.user_of(lease));
        findings.extend(self.goes_by(lease));
        Some(lease.timeout_ns)
    }

    fn user_of(&self, lease: &Lease) -> Option<Finding> {
        let accounts = self.system.text("/etc/passwd").unwrap_or_default();
        match id_of(&accounts, USER) {
            Some(uid) if uid == lease.uid => None,
            Some(_) => Some(Finding::wrong(
                AREA,
                format!(
                    "the lease {} is for the user {}, and {USER} may not renew it",
                    lease.name, lease.uid
                ),
                &format!("set user = \"{USER}\"; {RESTART}"),
            )),
            None => Some(Finding::wrong(
                AREA,
                format!("there is no user {USER} in /etc/passwd"),
                "make one, as the package does: systemd-sysusers, or useradd --system",
            )),
        }
    }

    fn goes_by(&self, lease: &Lease) -> Option<Finding> {
        let same = |seen: &View| {
            (seen.strict, seen.uid, seen.timeout_ns) == (lease.strict, lease.uid, lease.timeout_ns)
        };
        let Some((_, state)) = self.page().filter(|(seen, _)| same(seen)) else {
            return Some(Finding::wrong(
                AREA,
                format!(
                    "the guard does not go by the lease {} as it is configured",
                    lease.name
                ),
                &format!("{RESTART}, and the configuration is read"),
            ));
        };
        let waits = matches!(state, State::Waiting | State::Released);
        let meant = waits && self.settings.terms.without_quorum;
        meant.then(|| {
            Finding::weak(
                AREA,
                format!("nobody renews the lease {}: this host promises nothing now", lease.name),
                "start corosync and xenwarden-pool; xenwarden hosts tells why it is not in the quorum",
            )
        })
    }

    fn page(&self) -> Option<(View, State)> {
        let page = Page::open(&self.system.at(&self.settings.page), Access::Read).ok()?;
        let mut leases = page.leases().into_iter();
        let lease = leases.find(|lease| lease.name == self.settings.lease)?;
        let state = lease.state(page.served(), Monotonic::now());
        Some((lease, state))
    }

    /// While corosync makes a new ring nobody's beats are heard.
    fn ring(&self, timeout_ns: u64) -> Option<Finding> {
        let needs_ms = self.conf?.ring_ms();
        let timeout_ms = timeout_ns / NS_PER_MS;
        (timeout_ms < needs_ms).then(|| {
            let needs_s = needs_ms.div_ceil(1_000);
            Finding::wrong(
                AREA,
                format!(
                    "the lease {} is good for {} s, and corosync may need {needs_s} s for a new ring \
                     (token and consensus, twice, and 2 s): healthy hosts may go down when one leaves or joins",
                    self.settings.lease,
                    timeout_ms / 1_000
                ),
                &format!(
                    "set its timeout_s to {needs_s} or more ({RESTART}), or give corosync a shorter token"
                ),
            )
        })
    }

    /// The time after which an order to fence this host succeeds where it is silent.
    fn sum(&self, timeout_ns: u64) -> Finding {
        let (bound_ms, by) = match self.bound_ms() {
            Ok(bound) => bound,
            Err(why) => return why,
        };
        let lease_ms = timeout_ns.div_ceil(NS_PER_MS);
        // Where nobody can tell, it may be there.
        let has_device = self.conf.is_none_or(Conf::has_device);
        let device_ms = match has_device {
            true => self.settings.terms.device_ms,
            false => 0,
        };
        let promise_ms = lease_ms.saturating_add(bound_ms).saturating_add(device_ms);
        let sum_ns = stretched_ns(promise_ms).saturating_add(LISTEN_NS);
        let seconds = sum_ns.div_ceil(NS_PER_S);
        let text = format!(
            "silent, this host is certainly down {seconds} s after an order to fence it (lease {} s, fence bound {} s {by}, \
             quorum_device_s {} s, and what clocks differ): power_timeout ({TIMEOUT_S} s unless set), \
             pcmk_off_timeout and pcmk_reboot_timeout ({PCMK_OFF_TIMEOUT_S} s unless set) must be longer",
            lease_ms.div_ceil(1_000),
            bound_ms.div_ceil(1_000),
            device_ms / 1_000,
        );
        let enough = seconds.saturating_add(10);
        let least_s = |name: &str, default_s| self.agents.least_s(name, default_s);
        let short = [
            least_s("power_timeout", u64::from(TIMEOUT_S)),
            least_s("pcmk_off_timeout", PCMK_OFF_TIMEOUT_S),
            least_s("pcmk_reboot_timeout", PCMK_OFF_TIMEOUT_S),
        ];
        let short = short
            .into_iter()
            .flatten()
            .any(|given_s| given_s <= seconds);
        match short {
            false => Finding::fine(AREA, text),
            true => Finding::weak(
                AREA,
                text,
                &format!(
                    "give {AGENT} in Pacemaker power_timeout={enough}, and pcmk_off_timeout and pcmk_reboot_timeout of \
                     10 s more"
                ),
            ),
        }
    }

    /// The fence bound, ms, and what gives it: the running guard, or where there is none the configuration. Or why none.
    fn bound_ms(&self) -> Result<(u64, &'static str), Finding> {
        let at = |path: &str| self.system.at(Path::new(path));
        let none = |why: &str| {
            Finding::weak(
                AREA,
                format!("this host has no fence bound, so it promises nothing: {why}"),
                "xenwarden fence-bound tells whether there is one again",
            )
        };
        let Some(view) = Reader::view_at(&at(page::PATH)) else {
            let bound = by_configuration(self.policy);
            let bound = bound.map(|bound| (bound.ms, "by the configuration"));
            return bound.ok_or_else(|| none("evidence.coverage is partial"));
        };
        // A drill may have measured more than is assumed.
        let store = Store::new(&self.system.at(&self.policy.state_directory));
        let history = store.peek::<History>().map_err(|why| {
            let text = format!("what a drill has measured of the fence bound is not known: {why}");
            Finding::unknown(AREA, text, "run the check as root, or run a drill again")
        })?;
        let measured = history.and_then(|history| history.measured);
        let drills = Drills::new(measured, &at(drill::RUN));
        let status = Status::of_guard(&view, Some(&drills), Monotonic::now());
        let watchdog = &status.host_watchdog;
        let bound = watchdog.fence_bound_ms;
        let bound = bound.map(|ms| (ms, "by the running guard"));
        bound.ok_or_else(|| {
            none(match (&status.inhibited, status.coverage) {
                _ if watchdog.drill_failed.is_some() => {
                    "a drill has shown that the host watchdog does not reset it"
                }
                (Some(_), _) => "the guard is inhibited",
                (None, Coverage::Partial) => "its evidence is partial",
                (None, Coverage::Full) => "no host watchdog is armed",
            })
        })
    }
}

/// The bound that a guard would have that starts now, without a drill.
fn by_configuration(policy: &Policy) -> Option<FenceBound> {
    let timeout_s = policy.crash_dump_s.unwrap_or(policy.timeout_s);
    let timeout_ns = u64::from(timeout_s).saturating_mul(NS_PER_S);
    let info = Info {
        pid: 0,
        started: Monotonic(0),
        device: PathBuf::new(),
        identity: String::new(),
        timeout_ns,
        latest_ns: timeout_ns,
        period_ns: policy.sample_ns,
        coverage: policy.coverage,
        xen_slot: false,
        weakness: String::new(),
    };
    let is_full = policy.coverage == Coverage::Full;
    is_full.then(|| FenceBound::of(&info, &Drills::default()))?
}

/// What corosync counts as quorum, where the host is to be down without it.
fn of_quorum(conf: &Conf) -> Option<Finding> {
    let mend = "change it in corosync.conf on all hosts, and restart corosync and xenwarden-pool";
    if let Some(why) = unsuited_votes(&conf.votes()) {
        let text = format!("fence_without_quorum is not done: {why}");
        return Some(Finding::wrong(AREA, text, mend));
    }
    let alone = conf.nodes == 2 && !conf.has_device();
    alone.then(|| {
        Finding::weak(
            AREA,
            "there are two nodes and no quorum device: when one of them goes down, the other has no \
             quorum and goes down too",
            "add a quorum device (corosync-qdevice) or a third node",
        )
    })
}
