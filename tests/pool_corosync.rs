// SPDX-License-Identifier: GPL-2.0-only
//! Three corosyncs on one machine, each in namespaces of its own (network, mounts), with a xenwarden-pool and a stand-in
//! for a monitor each: `make pool`. Takes root, corosync, iproute2.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // how tests fail

mod pool_stage;

use pool_stage::{FakeMonitor, directory, wait_for};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xenwarden::event::Uuid;

fn sh(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status();
    assert!(status.expect("sh").success(), "{line}");
}

/// A host: its namespaces are those of its corosync.
struct Host {
    number: usize,
    directory: PathBuf,
    monitor: FakeMonitor,
    /// Holds the namespaces.
    holder: Child,
    corosync: Option<Child>,
    pool: Option<Child>,
}

/// The pool. The network's names have the test process's number, so that two runs do not meet.
struct Pool {
    bridge: String,
    hosts: Vec<Host>,
    token_ms: u32,
}

impl Pool {
    fn start(name: &str) -> Self {
        let id = std::process::id() % 10_000;
        let bridge = format!("xwb{id}");
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
        };
        let directory = directory(name);
        for number in 1..=3 {
            let own = directory.join(format!("host{number}"));
            fs::create_dir_all(own.join("state")).expect("a directory");
            let monitor = FakeMonitor::start(&own, &format!("host{number}"));
            let holder = Command::new("unshare")
                .args(["-n", "-m", "--propagation", "private", "sh", "-ec"])
                .arg("mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run; mkdir -p /var/lib/corosync; \
                      mount -t tmpfs tmpfs /var/lib/corosync; ip link set lo up; exec sleep 3600")
                .spawn()
                .expect("unshare");
            let host = Host {
                number,
                directory: own,
                monitor,
                holder,
                corosync: None,
                pool: None,
            };
            host.connect(&pool.bridge);
            fs::write(host.directory.join("corosync.conf"), pool.corosync_conf()).expect("written");
            let conf = host.pool_conf();
            fs::write(host.directory.join("pool.conf"), conf).expect("written");
            pool.hosts.push(host);
        }
        pool
    }

    fn corosync_conf(&self) -> String {
        let node = |n| format!(" node {{\n  ring0_addr: 10.77.0.{n}\n  nodeid: {n}\n }}\n");
        let nodes: String = (1..=3).map(node).collect();
        let token = self.token_ms;
        format!(
            "totem {{\n version: 2\n cluster_name: t\n transport: udpu\n token: {token}\n crypto_cipher: none\n crypto_hash: none\n}}\n\
             quorum {{\n provider: corosync_votequorum\n}}\n\
             logging {{\n to_stderr: yes\n to_syslog: no\n}}\nnodelist {{\n{nodes}}}\n"
        )
    }

    /// All three are members, everywhere.
    fn wait_until_whole(&self) {
        wait_for("three members on each host", || {
            self.hosts
                .iter()
                .all(|host| host.members() == 3)
                .then_some(())
        });
    }

    /// All know the same; gives the hash.
    fn wait_until_equal(&self) -> String {
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
            let _ = host.holder.kill();
            let _ = host.holder.wait();
        }
        let _ = Command::new("ip")
            .args(["link", "del", &self.bridge])
            .status();
    }
}

impl Host {
    fn id(&self) -> Uuid {
        Uuid::from_u128(self.number as u128)
    }

    fn pool_conf(&self) -> String {
        let at = self.directory.display();
        let hook = self.directory.parent().expect("a parent").join("hook");
        format!(
            "host_id = \"{}\"\nkeep = 20000\nsocket = \"{at}/pool.sock\"\nstate = \"{at}/state\"\nmonitor_events = \"{at}/events.sock\"\n\
             monitor_control = \"{at}/control.sock\"\ngroup = \"root\"\n[[hook]]\nname = \"note\"\ncommand = [\"/bin/sh\", \"{}\"]\nkinds = [\"guest.late\"]\n",
            self.id(),
            hook.display()
        )
    }

    fn connect(&self, bridge: &str) {
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
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-n", "-m", program]);
        command
    }

    fn log(&self, name: &str) -> File {
        let path = self.directory.join(name);
        File::options()
            .append(true)
            .create(true)
            .open(path)
            .expect("a log")
    }

    fn start_corosync(&mut self) {
        let conf = self.directory.join("corosync.conf");
        let child = self
            .inside("corosync")
            .args(["-f", "-c"])
            .arg(conf)
            .stderr(self.log("corosync.log"))
            .stdout(self.log("corosync.log"))
            .spawn();
        self.corosync = Some(child.expect("corosync"));
    }

    fn start_pool(&mut self) {
        let child = self
            .inside(env!("CARGO_BIN_EXE_xenwarden-pool"))
            .arg("--config")
            .arg(self.directory.join("pool.conf"))
            .stderr(self.log("pool.log"))
            .spawn();
        self.pool = Some(child.expect("xenwarden-pool"));
    }

    /// By SIGKILL.
    fn kill_pool(&mut self) {
        if let Some(mut child) = self.pool.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn kill_corosync(&mut self) {
        if let Some(mut child) = self.corosync.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("pool.sock")
    }

    fn ask(&self, request: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn members(&self) -> usize {
        let hosts = self.ask("hosts").unwrap_or_default();
        let hosts = hosts["hosts"].as_array().cloned().unwrap_or_default();
        hosts
            .iter()
            .filter(|host| host["member"] == json!(true))
            .count()
    }

    fn hash(&self) -> Option<String> {
        self.ask("status")?["hash"].as_str().map(str::to_owned)
    }

    fn leads(&self) -> bool {
        self.ask("status")
            .is_some_and(|status| status["leads"] == json!(true))
    }
}

/// A subscriber that may move from host to host.
#[derive(Default)]
struct Subscriber {
    cursor: BTreeMap<String, (u64, u64)>,
    /// Of each host's monitor the numbers of the events that came, in their order.
    seen: BTreeMap<String, Vec<u64>>,
    positions: BTreeSet<String>,
    missed: usize,
}

impl Subscriber {
    /// Reads from this host until it is enough, or the host is gone; whether it was enough.
    fn read(&mut self, socket: &Path, mut enough: impl FnMut(&Self) -> bool) -> bool {
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

    fn take(&mut self, event: &Value) {
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

    fn counts(&self) -> Vec<(String, usize)> {
        self.seen
            .iter()
            .map(|(host, seen)| (host.clone(), seen.len()))
            .collect()
    }

    fn has(&self, each: u64) -> bool {
        (1..=3).all(|n| {
            self.seen
                .get(&format!("host{n}"))
                .is_some_and(|seen| seen.len() as u64 >= each)
        })
    }

    /// Of each host every event from the first on, once and in order.
    fn assert_each_once(&self, each: u64) {
        assert_eq!(self.missed, 0, "told of events that it missed");
        for n in 1..=3 {
            let seen = &self.seen[&format!("host{n}")];
            assert_eq!(*seen, (1..=each).collect::<Vec<u64>>(), "host{n}");
        }
    }
}

fn started(name: &str) -> Pool {
    let mut pool = Pool::start(name);
    let directory = pool.hosts[0]
        .directory
        .parent()
        .expect("a parent")
        .to_owned();
    let script = format!(
        "echo \"$XENWARDEN_POOL_KEY\" >> {}/hooked\n",
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

fn hooked(pool: &Pool) -> Vec<String> {
    let path = pool.hosts[0]
        .directory
        .parent()
        .expect("a parent")
        .join("hooked");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn events_of_each_host_are_read_on_all_and_an_alarm_ends_where_its_guest_feeds_again() {
    let pool = started("pool-read");
    for host in &pool.hosts {
        for _ in 0..50 {
            host.monitor
                .event("guest.armed", Some(1), json!({"slot": 1, "timeout_s": 10}));
        }
    }
    for host in &pool.hosts {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(50)));
        subscriber.assert_each_once(50);
    }
    pool.hosts[0]
        .monitor
        .event("alarm.raised", Some(7), json!({"expiries": 1}));
    let open = |host: &Host| {
        let report = host.ask("guests").unwrap_or_default();
        let guests = report["guests"].as_array().cloned().unwrap_or_default();
        let uuid = json!(Uuid::from_u128(7));
        guests
            .iter()
            .find(|guest| guest["uuid"] == uuid)
            .map_or(0, |guest| guest["alarms"].as_array().map_or(0, Vec::len))
    };
    wait_for("the alarm is open on all", || {
        pool.hosts.iter().all(|host| open(host) == 1).then_some(())
    });
    // Acknowledged on a host that has nothing to do with it: it is so on all, and the monitor is told.
    let answer = pool.hosts[2]
        .ask(&format!("ack {}", Uuid::from_u128(7)))
        .expect("an answer");
    assert_eq!(answer, json!({"acknowledged": Uuid::from_u128(7)}));
    wait_for("its monitor is told", || {
        pool.hosts[0]
            .monitor
            .orders()
            .contains(&format!("ack {}", Uuid::from_u128(7)))
            .then_some(())
    });
    pool.hosts[1].monitor.event(
        "guest.first_fed",
        Some(7),
        json!({"slot": 1, "timeout_s": 10}),
    );
    wait_for("the alarm has ended on all", || {
        pool.hosts.iter().all(|host| open(host) == 0).then_some(())
    });
    let mut subscriber = Subscriber::default();
    let cleared = |s: &Subscriber| s.positions.len() >= 153;
    assert!(subscriber.read(&pool.hosts[2].socket(), cleared));
    pool.wait_until_equal();
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn a_subscriber_that_moves_from_leaders_that_are_killed_misses_nothing_and_gets_nothing_twice() {
    let mut pool = started("pool-kill");
    let kills: u64 = std::env::var("XENWARDEN_POOL_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    // So that events go on as long as members are killed.
    let each = 600.max(kills * 40);
    let monitors: Vec<FakeMonitor> = pool.hosts.iter().map(|host| host.monitor.clone()).collect();
    let writer = std::thread::spawn(move || {
        // About 50 a second, of all three together.
        for number in 1..=each {
            let kind = if number % 10 == 0 {
                "guest.late"
            } else {
                "guest.armed"
            };
            for monitor in &monitors {
                monitor.event(kind, Some(1), json!({"slot": 1}));
            }
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    let mut subscriber = Subscriber::default();
    for round in 0..kills {
        let leader = wait_for("a leader", || pool.hosts.iter().position(Host::leads));
        let already = subscriber.positions.len();
        let socket = pool.hosts[leader].socket();
        // At some point of the load.
        let more = already + 20 + usize::try_from(round % 8).expect("a number") * 7;
        subscriber.read(&socket, |s| s.positions.len() >= more || s.has(each));
        pool.hosts[leader].kill_pool();
        let next = pool.hosts[(leader + 1) % 3].socket();
        let more = subscriber.positions.len() + 20;
        subscriber.read(&next, |s| s.positions.len() >= more || s.has(each));
        pool.hosts[leader].start_pool();
        pool.wait_until_whole();
    }
    writer.join().expect("written");
    let last = pool.hosts[1].socket();
    assert!(subscriber.read(&last, |s| s.has(each)));
    subscriber.assert_each_once(each);
    // Every event for the hook was told to it, at least once.
    let due = usize::try_from(3 * (each / 10)).expect("a number");
    wait_for("the hook has run for every event", || {
        let keys: BTreeSet<String> = hooked(&pool).into_iter().collect();
        (keys.len() >= due).then_some(())
    });
    let hash = pool.wait_until_equal();
    let runs = hooked(&pool).len();
    println!(
        "{kills} kills of the leader, {} events, each once; {runs} runs of the hook for {due}; hash {hash}",
        3 * each
    );
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn what_happens_on_both_sides_of_a_partition_is_known_to_all_once_it_is_healed() {
    let pool = started("pool-partition");
    let veth = format!("{}v3", pool.bridge);
    let event = |host: &Host| {
        host.monitor
            .event("guest.armed", Some(1), json!({"slot": 1}))
    };
    for host in &pool.hosts {
        event(host);
    }
    let hash = pool.wait_until_equal();
    let start = Instant::now();
    sh(&format!("ip link set {veth} down"));
    wait_for("the third host is alone", || {
        (pool.hosts[2].members() == 1 && pool.hosts[0].members() == 2).then_some(())
    });
    println!("a partition was noticed after {:?}", start.elapsed());
    wait_for("it has no quorum", || {
        let status = pool.hosts[2].ask("status")?;
        (status["quorate"] == json!(false) && status["leads"] == json!(false)).then_some(())
    });
    for _ in 0..200 {
        for host in &pool.hosts {
            event(host);
        }
    }
    let both: Vec<String> = wait_for("both sides have gone on", || {
        let hashes: Option<Vec<String>> = pool.hosts.iter().map(Host::hash).collect();
        hashes.filter(|all| all[0] == all[1] && all[0] != all[2] && all.iter().all(|h| *h != hash))
    });
    assert_ne!(both[0], both[2]);
    let start = Instant::now();
    sh(&format!("ip link set {veth} up"));
    pool.wait_until_whole();
    pool.wait_until_equal();
    println!("equal again {:?} after the link was back", start.elapsed());
    for host in &pool.hosts {
        let mut subscriber = Subscriber::default();
        assert!(subscriber.read(&host.socket(), |s| s.has(201)));
        subscriber.assert_each_once(201);
    }
}

#[test]
#[ignore = "takes root, corosync and namespaces: make pool"]
fn corosync_may_be_killed_and_started_again() {
    let mut pool = started("pool-corosync");
    for round in 0..3 {
        let victim = round % 3;
        pool.hosts[victim].kill_corosync();
        wait_for("it says so", || {
            let status = pool.hosts[victim].ask("status")?;
            status["trouble"].is_string().then_some(())
        });
        // Its host's events are still taken, and told when it is back.
        for host in &pool.hosts {
            for _ in 0..20 {
                host.monitor
                    .event("guest.armed", Some(1), json!({"slot": 1}));
            }
        }
        pool.hosts[victim].start_corosync();
        pool.wait_until_whole();
        let each = (round as u64 + 1) * 20;
        for host in &pool.hosts {
            let mut subscriber = Subscriber::default();
            assert!(subscriber.read(&host.socket(), |s| s.has(each)));
            subscriber.assert_each_once(each);
        }
        pool.wait_until_equal();
    }
}
