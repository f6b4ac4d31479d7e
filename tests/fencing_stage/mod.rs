// SPDX-License-Identifier: GPL-2.0-only
//! The first of three members, and what it is told. Time is the test's own.
#![allow(dead_code)] // not every test uses all of it
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

use std::collections::{BTreeMap, BTreeSet};
use xenwarden::event::Uuid;
use xenwarden::fencing::member::{
    Do, Guard, Kept, LeaseTerms, Member, Now, Ordered, Over, Say, Terms,
};
use xenwarden::fencing::order::{Verdict, Wait};
use xenwarden::fencing::refusals::Last;
use xenwarden::fencing::{Beat, BootOf, Echo, Node, Votes};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

pub const ME: Node = 1;
pub const TARGET: Node = 3;
pub const LEASE_S: u64 = 14;
pub const BOUND_MS: u64 = 12_000;
pub const DEVICE_MS: u64 = 40_000;

pub fn of(node: Node, boot: u8) -> BootOf {
    let boot = Uuid::from_u128(u128::from(node) * 1_000 + u128::from(boot));
    BootOf { node, boot }
}

/// The host has been up for as long as its clock shows.
pub fn at(s: u64) -> Now {
    Now {
        at: Monotonic(s * NS_PER_S),
        up_ms: s * 1_000,
    }
}

pub fn votes(nodes: &[Node], device: u32) -> Votes {
    let of: BTreeMap<Node, u32> = nodes.iter().map(|node| (*node, 1)).collect();
    Votes {
        quorate: nodes.len() + usize::try_from(device).expect("few") >= 2,
        quorum: 2,
        of,
        device,
    }
}

pub fn guard(held: bool) -> Guard {
    Guard {
        bound_ms: Some(BOUND_MS),
        withholds: None,
        lease: Some(LeaseTerms {
            timeout_ns: LEASE_S * NS_PER_S,
            held,
        }),
    }
}

pub fn heard(by: Node, boot: u8, sent_s: u64) -> Beat {
    Beat {
        name: format!("h{by}"),
        machine: None,
        boot: of(by, boot).boot,
        sent: sent_s * NS_PER_S,
        up_ms: sent_s * 1_000,
        promise_ms: Some(26_000),
        echoes: Vec::new(),
    }
}

/// Of a member's beats, the one at this second.
pub fn echo(by: Node, sent_s: u64) -> Say {
    let echo = Echo {
        of: of(ME, 1),
        sent: sent_s * NS_PER_S,
    };
    Say::Beat(Beat {
        echoes: vec![echo],
        ..heard(by, 1, sent_s)
    })
}

pub fn order_for(boot: BootOf) -> Say {
    Say::Order(Ordered { boot, number: 7 })
}

pub fn with(terms: Terms, kept: &Kept) -> Member {
    let mut member = Member::new(of(ME, 1), "h1", terms, kept);
    let all = BTreeSet::from([1, 2, 3]);
    member.ring(all.clone());
    member.members(all, at(1));
    member.promises(true, false);
    member.votes(votes(&[1, 2, 3], 0), at(1));
    // The second was heard, of which most of these have no more to say.
    member.hear(2, &Say::Beat(heard(2, 1, 1)), at(1));
    member
}

pub fn member() -> Member {
    let terms = Terms {
        without_quorum: true,
        device_ms: DEVICE_MS,
    };
    with(terms, &Kept::default())
}

pub fn beat_of(all: &[Do]) -> &Beat {
    let beats = all.iter().find_map(|one| match one {
        Do::Say(Say::Beat(beat)) => Some(beat),
        _ => None,
    });
    beats.expect("a beat")
}

pub fn renewed(all: &[Do]) -> Option<u64> {
    all.iter().find_map(|one| match one {
        Do::Renew(until) => Some(until.0 / NS_PER_S),
        _ => None,
    })
}

/// At this second it says a beat, which another has heard at once.
pub fn goes_on(member: &mut Member, guard: &Guard, s: u64) -> Vec<Do> {
    let mut all = member.tick(guard, at(s));
    member.hear(2, &echo(2, s), at(s));
    all.extend(member.tick(guard, at(s)));
    all
}

pub fn last() -> Option<Last> {
    let echo = Echo {
        of: of(TARGET, 1),
        sent: 10 * NS_PER_S,
    };
    Some(Last {
        echo,
        promise_ms: Some(26_000),
    })
}

pub fn refused(last: Option<Last>) -> Say {
    Say::Refused {
        of: TARGET,
        last,
        to: ME,
        number: 11 * NS_PER_S,
    }
}

pub fn ordered() -> Member {
    let mut member = member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    member.votes(votes(&[1, 2], 0), at(11));
    member.order(TARGET, at(11)).expect("given");
    for node in [1, 2] {
        member.hear(node, &refused(last()), at(12));
    }
    member
}

pub fn waits(member: &mut Member, s: u64) -> Wait {
    match member.judge(TARGET, at(s)) {
        Some(Verdict::Wait(wait, _)) => wait,
        other => panic!("{other:?}"),
    }
}

/// The host's beat, which echoes no one; of this machine.
pub fn of_machine(machine: u128, boot: u8, sent_s: u64) -> Say {
    Say::Beat(Beat {
        machine: Some(Uuid::from_u128(machine)),
        ..heard(TARGET, boot, sent_s)
    })
}

pub fn echoes_of_target(member: &mut Member, s: u64) -> usize {
    let all = member.tick(&guard(false), at(s));
    let echoes = &beat_of(&all).echoes;
    echoes.iter().filter(|echo| echo.of.node == TARGET).count()
}

pub fn says(all: &[Do], say: &Say) -> bool {
    all.contains(&Do::Say(say.clone()))
}

pub fn says_over(all: &[Do]) -> Option<Over> {
    all.iter().find_map(|one| match one {
        Do::Say(Say::Over(over)) => Some(*over),
        _ => None,
    })
}
