// SPDX-License-Identifier: GPL-2.0-only
//! Three corosyncs on one machine, each in namespaces of its own (network, mounts), with a xenwarden-pool without privileges
//! and a stand-in for a monitor each; and a subscriber that goes from one to the other.
#![allow(dead_code)] // not every test uses all of it

use crate::pool_stage::{self, FakeMonitor, directory, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use xenwarden::event::Uuid;

/// The user and group that xenwarden-pool runs as.
pub const NOBODY: u32 = 65_534;

pub fn sh(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status();
    assert!(status.expect("sh").success(), "{line}");
}

/// A host: its namespaces are those of its corosync.
pub struct Host {
    pub number: usize,
    pub directory: PathBuf,
    pub monitor: FakeMonitor,
    /// Holds the namespaces.
    pub holder: Child,
    pub corosync: Option<Child>,
    pub pool: Option<Child>,
    /// Others that run there.
    pub others: Vec<Child>,
    /// Of what is started.
    pub environment: Vec<(&'static str, String)>,
}

/// The pool. The network's names have the test process's number, so that two runs do not meet.
pub struct Pool {
    pub bridge: String,
    pub hosts: Vec<Host>,
    pub token_ms: u32,
    /// How many of the hosts are nodes of the ring: the first.
    pub nodes: usize,
    /// More lines of corosync's section `quorum`.
    pub quorum: String,
}

impl Pool {
    pub fn start(name: &str) -> Self {
        Self::start_with(name, 3, "")
    }

    /// Three hosts, of which so many are nodes.
    pub fn start_with(name: &str, nodes: usize, quorum: &str) -> Self {
        let id = std::process::id() % 10_000;
        // A link of a test before may take a moment to go.
        static POOLS: AtomicU32 = AtomicU32::new(0);
        let number = POOLS.fetch_add(1, Ordering::Relaxed);
        let bridge = format!("xw{id}p{number}");
        let _ = Command::new("ip")
            .args(["link", "del", &bridge])
            .stderr(Stdio::null())
            .status();
        sh(&format!(
            "ip link add {bridge} type bridge; ip link set {bridge} up"
        ));
        let mut pool = Self {
            bridge,
            hosts: Vec::new(),
            token_ms: 1_500,
            nodes,
            quorum: quorum.to_owned(),
        };
        let directory = directory(name);
        // Where hooks write.
        chown(&directory, Some(NOBODY), Some(NOBODY)).expect("chown");
        for number in 1..=3 {
            let own = directory.join(format!("host{number}"));
            for name in ["state", "kept"] {
                fs::create_dir_all(own.join(name)).expect("a directory");
            }
            let monitor = FakeMonitor::start(&own, &format!("host{number}"));
            // For a program without any privilege.
            for of_nobody in [own.clone(), own.join("state"), own.join("kept")] {
                chown(of_nobody, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
            for socket in ["events.sock", "control.sock"] {
                fs::set_permissions(own.join(socket), fs::Permissions::from_mode(0o777))
                    .expect("a mode");
            }
            // Hosts are told apart by their boots, and here all have one kernel.
            let holder = Command::new("unshare")
                .args(["-n", "-m", "-u", "--propagation", "private", "sh", "-ec"])
                .arg("echo \"$1\" > /proc/sys/kernel/hostname; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run; mkdir -p /var/lib/corosync; \
                      cat /proc/sys/kernel/random/uuid > /run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id; \
                      mount -t tmpfs tmpfs /var/lib/corosync; ip link set lo up; \
                      [ ! -e /sys/power/state ] || mount --bind /dev/null /sys/power/state; exec sleep 3600")
                .args(["sh", &format!("host{number}")])
                .spawn()
                .expect("unshare");
            let host = Host {
                number,
                directory: own,
                monitor,
                holder,
                corosync: None,
                pool: None,
                others: Vec::new(),
                environment: Vec::new(),
            };
            fs::write(host.directory.join("corosync.conf"), pool.corosync_conf()).expect("written");
            let conf = host.pool_conf();
            fs::write(host.directory.join("pool.conf"), conf).expect("written");
            // From now on it ends with the pool, whatever fails.
            pool.hosts.push(host);
        }
        for host in &pool.hosts {
            host.connect(&pool.bridge);
        }
        pool
    }

    pub fn corosync_conf(&self) -> String {
        let node = |n| format!(" node {{\n  ring0_addr: 10.77.0.{n}\n  nodeid: {n}\n }}\n");
        let nodes: String = (1..=self.nodes).map(node).collect();
        let (token, quorum) = (self.token_ms, &self.quorum);
        format!(
            "totem {{\n version: 2\n cluster_name: t\n transport: udpu\n token: {token}\n crypto_cipher: none\n crypto_hash: none\n}}\n\
             quorum {{\n provider: corosync_votequorum\n{quorum}}}\n\
             uidgid {{\n uid: {NOBODY}\n gid: {NOBODY}\n}}\n\
             logging {{\n to_stderr: yes\n to_syslog: no\n}}\nnodelist {{\n{nodes}}}\n"
        )
    }

    /// All three are members, everywhere.
    pub fn wait_until_whole(&self) {
        wait_for("all members on each host", || {
            let mut nodes = self.hosts.iter().take(self.nodes);
            nodes.all(|host| host.members() == self.nodes).then_some(())
        });
    }

    /// All know the same; gives the hash.
    pub fn wait_until_equal(&self) -> String {
        wait_for("one hash", || {
            let hashes: Vec<Option<String>> = self.hosts.iter().map(Host::hash).collect();
            let first = hashes[0].clone()?;
            hashes
                .iter()
                .all(|hash| hash.as_ref() == Some(&first))
                .then_some(first)
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.kill_pool();
            host.kill_corosync();
            for mut other in host.others.drain(..) {
                let _ = other.kill();
                let _ = other.wait();
            }
            let _ = host.holder.kill();
            let _ = host.holder.wait();
        }
        let ends = (1..=3).map(|n| format!("{}v{n}", self.bridge));
        for link in ends.chain([self.bridge.clone()]) {
            let _ = Command::new("ip")
                .args(["link", "del", &link])
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Host {
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(self.number as u128)
    }

    pub fn pool_conf(&self) -> String {
        let at = self.directory.display();
        let hook = self.directory.parent().expect("a parent").join("hook");
        format!(
            "lease_page = \"{at}/leases\"\nkept = \"{at}/kept/fencing.json\"\nhost_id = \"{}\"\nkeep = 20000\nsocket = \"{at}/pool.sock\"\nstate = \"{at}/state\"\nmonitor_events = \"{at}/events.sock\"\n\
             monitor_control = \"{at}/control.sock\"\ngroup = \"root\"\n[[hook]]\nname = \"note\"\ncommand = [\"/bin/sh\", \"{}\"]\nkinds = [\"guest.late\", \"guest.disarmed\"]\n",
            self.id(),
            hook.display()
        )
    }

    pub fn connect(&self, bridge: &str) {
        let (n, pid) = (self.number, self.holder.id());
        // Its namespace is there once unshare has become the shell.
        wait_for("a namespace", || {
            let own = fs::read_link("/proc/self/ns/net").ok()?;
            let its = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
            (own != its).then_some(())
        });
        let veth = format!("{bridge}v{n}");
        sh(&format!(
            "ip link add {veth} type veth peer name eth0 netns {pid}; ip link set {veth} master {bridge} up; \
             nsenter -t {pid} -n sh -ec 'ip addr add 10.77.0.{n}/24 dev eth0; ip link set eth0 up'"
        ));
    }

    /// A command within its namespaces.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.holder.id().to_string(),
            "-n",
            "-m",
            "-u",
            program,
        ]);
        command
    }

    pub fn log(&self, name: &str) -> File {
        let path = self.directory.join(name);
        File::options()
            .append(true)
            .create(true)
            .open(path)
            .expect("a log")
    }

    pub fn start_corosync(&mut self) {
        let conf = self.directory.join("corosync.conf");
        let child = self
            .inside("corosync")
            .args(["-f", "-c"])
            .arg(conf)
            .envs(self.environment.clone())
            .stderr(self.log("corosync.log"))
            .stdout(self.log("corosync.log"))
            .spawn();
        self.corosync = Some(child.expect("corosync"));
    }

    pub fn start_pool(&mut self) {
        let nobody = NOBODY.to_string();
        let child = Command::new("nsenter")
            .args(["-t", &self.holder.id().to_string(), "-n", "-m", "-u"])
            .args(["-S", &nobody, "-G", &nobody])
            .arg(env!("CARGO_BIN_EXE_xenwarden-pool"))
            .arg("--config")
            .arg(self.directory.join("pool.conf"))
            .envs(self.environment.clone())
            .stderr(self.log("pool.log"))
            .spawn();
        self.pool = Some(child.expect("xenwarden-pool"));
    }

    /// By SIGKILL.
    pub fn kill_pool(&mut self) {
        if let Some(mut child) = self.pool.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn kill_corosync(&mut self) {
        if let Some(mut child) = self.corosync.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it said.
    pub fn said(&self, name: &str) -> String {
        fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("pool.sock")
    }

    pub fn ask(&self, request: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    pub fn members(&self) -> usize {
        let hosts = self.ask("hosts").unwrap_or_default();
        let hosts = hosts["hosts"].as_array().cloned().unwrap_or_default();
        hosts
            .iter()
            .filter(|host| host["member"] == json!(true))
            .count()
    }

    pub fn hash(&self) -> Option<String> {
        self.ask("status")?["hash"].as_str().map(str::to_owned)
    }

    pub fn leads(&self) -> bool {
        self.ask("status")
            .is_some_and(|status| status["leads"] == json!(true))
    }
}

/// A subscriber that may move from host to host.
#[derive(Default)]
pub struct Subscriber {
    pub cursor: BTreeMap<String, (u64, u64)>,
    /// Of each host's monitor the numbers of the events that came, in their order.
    pub seen: BTreeMap<String, Vec<u64>>,
    pub positions: BTreeSet<String>,
    pub missed: usize,
}

impl Subscriber {
    /// Reads from this host until it is enough, or the host is gone; whether it was enough.
    pub fn read(&mut self, socket: &Path, mut enough: impl FnMut(&Self) -> bool) -> bool {
        let after: Vec<String> = self
            .cursor
            .iter()
            .map(|(host, (boot, seq))| format!("{host}/{boot}/{seq}"))
            .collect();
        let Ok(mut stream) = UnixStream::connect(socket) else {
            return false;
        };
        let request = json!({"after": after, "follow": true, "kinds": ["guest.", "alarm.", "pool.alarm_cleared"]});
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        if stream
            .write_all(format!("events {request}\n").as_bytes())
            .is_err()
        {
            return false;
        }
        let start = Instant::now();
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            if enough(self) {
                return true;
            }
            assert!(
                start.elapsed() < 2 * pool_stage::LIMIT,
                "never enough: {:?}",
                self.counts()
            );
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => return false,
                Ok(_) if line.ends_with(b"\n") => {
                    self.take(&serde_json::from_slice(&line).expect("JSON"));
                    line.clear();
                }
                Ok(_) => return false,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
    }

    pub fn take(&mut self, event: &Value) {
        let Some(position) = event["position"].as_str() else {
            self.missed += usize::from(event.get("missed_upto").is_some());
            return;
        };
        assert!(
            self.positions.insert(position.to_owned()),
            "twice: {position}"
        );
        let mut parts = position.split('/');
        let host = parts.next().expect("a host").to_owned();
        let mut number = || parts.next().expect("a number").parse().expect("a number");
        self.cursor.insert(host, (number(), number()));
        if let (Some(host), Some(seq)) = (event["host"].as_str(), event["seq"].as_u64()) {
            self.seen.entry(host.to_owned()).or_default().push(seq);
        }
    }

    pub fn counts(&self) -> Vec<(String, usize)> {
        self.seen
            .iter()
            .map(|(host, seen)| (host.clone(), seen.len()))
            .collect()
    }

    pub fn has(&self, each: u64) -> bool {
        (1..=3).all(|n| {
            self.seen
                .get(&format!("host{n}"))
                .is_some_and(|seen| seen.len() as u64 >= each)
        })
    }

    /// Of each host every event from the first on, once and in order.
    pub fn assert_each_once(&self, each: u64) {
        assert_eq!(self.missed, 0, "told of events that it missed");
        for n in 1..=3 {
            let seen = &self.seen[&format!("host{n}")];
            assert_eq!(*seen, (1..=each).collect::<Vec<u64>>(), "host{n}");
        }
    }
}

pub fn started(name: &str) -> Pool {
    let mut pool = Pool::start(name);
    let directory = pool.hosts[0]
        .directory
        .parent()
        .expect("a parent")
        .to_owned();
    let script = format!(
        "echo \"$XENWARDEN_KIND $XENWARDEN_POOL_KEY\" >> {}/hooked\n",
        directory.display()
    );
    fs::write(directory.join("hook"), script).expect("written");
    for host in &mut pool.hosts {
        host.start_corosync();
        host.start_pool();
    }
    pool.wait_until_whole();
    pool
}

pub fn hooked(pool: &Pool) -> Vec<String> {
    let path = pool.hosts[0]
        .directory
        .parent()
        .expect("a parent")
        .join("hooked");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
