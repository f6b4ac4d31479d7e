// SPDX-License-Identifier: GPL-2.0-only
//! Whatever a member of the group sends: never a panic, bounded memory, and what is written and said goes on being understood.
//!
//! Input: messages, each after two bytes of its length. An even length: as they are, to the decoder. An odd one: the body of a message
//! whose kind is the first byte, with a right checksum, so that what is behind it is reached. All go to one member.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenwarden::event::Uuid;
use xenwarden::fencing::BootOf;
use xenwarden::fencing::member::{Kept, Member, Now, Terms};
use xenwarden::pool::frame;
use xenwarden::pool::node::{Identity, Node};
use xenwarden::pool::record::Stored;
use xenwarden::pool::store::Store;
use xenwarden::pool::wire::{MAGIC, Message};
use xenwarden::sys::clock::Monotonic;

const S: u64 = 1_000_000_000;

fn member() -> Node {
    let identity = Identity {
        host: Uuid::from_u128(1),
        name: "host1".to_owned(),
        boot_id: "boot".to_owned(),
    };
    let mut node = Node::new(identity, Store::new(8), Vec::new(), false);
    let _ = node.to_save();
    node.saved(S);
    node.joined(1, S);
    node.membership(&[1, 2], S);
    node.quorum(Some(true));
    node
}

/// A message of this body with a right checksum; where it is of records or a snapshot, the body is made of right frames too.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    let body = match kind {
        1 | 4 => {
            for part in body.split(|byte| *byte == 0) {
                frame::put(&mut framed, part);
            }
            &framed
        }
        _ => body,
    };
    let mut bytes = MAGIC.to_vec();
    bytes.push(kind);
    bytes.extend(frame::sum(body));
    bytes.extend(body);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let mut node = member();
    let boot = Uuid::from_u128(9);
    let mut fencing = Member::new(
        BootOf { node: 1, boot },
        "host1",
        Terms::default(),
        &Kept::default(),
    );
    let mut rest = data;
    let mut now = 2 * S;
    while let [low, high, more @ ..] = rest {
        let length = usize::from(*low) | usize::from(*high) << 8;
        let (part, after) = more.split_at(length.min(more.len()));
        rest = after;
        now += S / 10;
        let say = match part {
            [kind, body @ ..] if length % 2 == 1 => {
                node.delivered(2, &message(*kind % 7, body), now)
            }
            _ => node.delivered(2, part, now),
        };
        if let Some(say) = say {
            let at = Now {
                at: Monotonic(now),
                up_ms: now / 1_000_000,
            };
            fencing.hear(2, &say, at);
        }
        if let Ok(stored) = Stored::read(part) {
            assert_eq!(Stored::read(&stored.bytes), Ok(stored));
        }
        node.tick(now);
        while let Some(said) = node.next_message() {
            assert!(
                Message::decode(&said).is_ok(),
                "it says what none understands"
            );
        }
        let _ = node.to_save();
        node.saved(now);
        let _ = node.take_fresh();
    }
    assert!(node.store().hosts().count() <= xenwarden::pool::store::MAX_HOSTS);
    let positions = node.store().positions();
    // What it knows, another one that is told all of it knows as well.
    let mut copy = Store::new(8);
    for (host, log) in node.store().hosts() {
        let base = serde_json::to_vec(log.base()).expect("JSON");
        copy.take_base(host, serde_json::from_slice(&base).expect("a state"));
        for stored in log.records() {
            copy.take(stored);
        }
    }
    assert_eq!(copy.positions(), positions);
    assert_eq!(copy.hash(), node.store_mut().hash());
    let _ = node.hosts_report(now);
    let _ = node.guests_report(now);
});
