// SPDX-License-Identifier: GPL-2.0-only
//! Members of a pool without corosync: a ring that delivers in one order to each partition, and loses nothing within it.
#![allow(dead_code)] // not every test uses all of it
#![allow(clippy::cast_possible_truncation)] // small numbers

use std::collections::BTreeMap;
use std::sync::Arc;
use xenwarden::event::Uuid;
use xenwarden::pool::hooks::{Job, Rule};
use xenwarden::pool::node::{Identity, Node};
use xenwarden::pool::record::Stored;
use xenwarden::pool::store::Store;

/// From one step to the next, ns.
pub const STEP: u64 = 100_000_000;

/// xorshift64*: the same numbers each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A host: its member while that runs, and its disk.
pub struct Host {
    pub id: u128,
    pub node: Option<Node>,
    /// Records that are on its disk, of all hosts, in the order in which they came there.
    pub disk: Vec<Arc<Stored>>,
    /// Its monitor's events.
    pub events: Vec<String>,
    read: usize,
    pub ran: Vec<Job>,
    /// Which partition it is in.
    pub side: usize,
    boot: usize,
}

/// Hosts, and the ring that connects those of one side.
pub struct Ring {
    pub hosts: Vec<Host>,
    pub keep: usize,
    pub rules: Vec<Rule>,
    pub now: u64,
    pub messages: u64,
    pub bytes: u64,
}

impl Ring {
    pub fn new(count: usize, keep: usize, rules: Vec<Rule>) -> Self {
        let hosts = (1..=count).map(|id| Host {
            id: id as u128,
            node: None,
            disk: Vec::new(),
            events: Vec::new(),
            read: 0,
            ran: Vec::new(),
            side: 0,
            boot: 1,
        });
        let mut ring = Self {
            hosts: hosts.collect(),
            keep,
            rules,
            now: STEP,
            messages: 0,
            bytes: 0,
        };
        for host in 0..count {
            ring.start(host);
        }
        ring
    }

    /// Starts a member from its disk.
    pub fn start(&mut self, host: usize) {
        let (keep, rules) = (self.keep, self.rules.clone());
        let of = &mut self.hosts[host];
        let mut store = Store::new(keep);
        for stored in &of.disk {
            store.take(stored);
        }
        let identity = Identity {
            host: Uuid::from_u128(of.id),
            name: format!("host{}", of.id),
            boot_id: format!("boot{}", of.boot),
        };
        let node = Node::new(identity, store, rules, false);
        of.read = node.next_event().saturating_sub(1) as usize;
        of.node = Some(node);
        self.changed();
    }

    /// Its program is killed; its disk stays.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].node = None;
        self.changed();
    }

    /// It boots anew.
    pub fn reboot(&mut self, host: usize) {
        self.hosts[host].boot += 1;
        self.start(host);
    }

    /// Its disk is lost.
    pub fn lose_disk(&mut self, host: usize) {
        self.hosts[host].disk.clear();
    }

    /// Membership and quorum, after a change of who runs where: each is told as corosync would.
    pub fn changed(&mut self) {
        let now = self.now;
        let majority = self.hosts.len() / 2 + 1;
        let sides: Vec<usize> = self.hosts.iter().map(|host| host.side).collect();
        for side in sides {
            let members: Vec<u32> = self
                .hosts
                .iter()
                .filter(|h| h.side == side && h.node.is_some())
                .map(|h| h.id as u32)
                .collect();
            for host in self.hosts.iter_mut().filter(|host| host.side == side) {
                let number = host.id as u32;
                let Some(node) = &mut host.node else { continue };
                if !node.nodes().contains(&number) {
                    node.joined(number, now);
                }
                node.ring_nodes(members.clone());
                node.membership(&members, now);
                node.quorum(Some(members.len() >= majority));
            }
        }
    }

    /// A monitor's event.
    pub fn event(&mut self, host: usize, kind: &str, guest: u128) {
        let of = &mut self.hosts[host];
        let seq = of.events.len() as u64 + 1;
        let event = serde_json::json!({
            "version": 1, "seq": seq, "time": "2026-11-23T15:51:06.250000Z", "host": format!("host{}", of.id), "kind": kind,
            "guest": {"uuid": Uuid::from_u128(guest), "domid": 3, "name": "g"}, "expiries": 1,
        });
        of.events.push(event.to_string());
    }

    /// One step of all: events are read, the disks write, everybody says one message, and all of the side hear it.
    pub fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        let mut said: Vec<(usize, u32, Vec<u8>)> = Vec::new();
        for host in &mut self.hosts {
            let Some(node) = &mut host.node else { continue };
            while let Some(line) = host.events.get(host.read) {
                node.event(line.as_bytes(), now);
                host.read += 1;
            }
            let records = node.to_save();
            host.disk.extend(records);
            node.saved(now);
            host.disk.extend(node.take_fresh());
            node.tick(now);
            while let Some(job) = node.next_job(now) {
                host.ran.push(job.clone());
                node.job_ended(&job, &Ok(()));
            }
            for _ in 0..16 {
                match node.next_message() {
                    Some(bytes) => said.push((host.side, host.id as u32, bytes)),
                    None => break,
                }
            }
        }
        for (side, from, bytes) in said {
            self.messages += 1;
            self.bytes += bytes.len() as u64;
            for host in self.hosts.iter_mut().filter(|host| host.side == side) {
                if let Some(node) = &mut host.node {
                    node.delivered(from, &bytes, now);
                }
            }
        }
    }

    pub fn node(&mut self, host: usize) -> &mut Node {
        self.hosts[host].node.as_mut().expect("it runs")
    }

    pub fn hashes(&mut self) -> Vec<String> {
        let nodes = self.hosts.iter_mut().filter_map(|host| host.node.as_mut());
        nodes.map(|node| node.store_mut().hash()).collect()
    }

    /// Steps until all know the same; gives how many that took.
    pub fn settle(&mut self) -> usize {
        for steps in 0..2_000 {
            self.step();
            let hashes = self.hashes();
            let idle = self
                .hosts
                .iter()
                .all(|h| h.node.is_none() || h.read == h.events.len());
            if steps > 12 && idle && hashes.iter().all(|hash| *hash == hashes[0]) {
                return steps;
            }
        }
        panic!("never the same: {:?}", self.hashes());
    }

    /// The monitor's numbers of the events of each host, as this one knows them.
    pub fn seen(&self, host: usize) -> BTreeMap<u128, Vec<u64>> {
        let node = self.hosts[host].node.as_ref().expect("it runs");
        let mut seen: BTreeMap<u128, Vec<u64>> = BTreeMap::new();
        for (id, log) in node.store().hosts() {
            for stored in log.records() {
                if let xenwarden::pool::record::What::Event(event) = &stored.record().what {
                    seen.entry(id.as_u128())
                        .or_default()
                        .push(event.event["seq"].as_u64().expect("a number"));
                }
            }
        }
        seen
    }
}
