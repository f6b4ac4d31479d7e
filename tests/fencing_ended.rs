// SPDX-License-Identifier: GPL-2.0-only
//! What orders to fence leave behind once they are over, given up or forgotten. Time is the test's own.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod fencing_stage;

use fencing_stage::*;
use std::collections::BTreeSet;
use xenwarden::config::leases::LeaseName;
use xenwarden::event::Uuid;
use xenwarden::fencing::Beat;
use xenwarden::fencing::machines::Machines;
use xenwarden::fencing::member::{Do, Kept, Member, Now, Over, Say, Terms};
use xenwarden::fencing::order::{Confirmed, How, LISTEN_NS, Verdict};
use xenwarden::fencing::refusals::{MOST, Refusals};
use xenwarden::fencing::{BootOf, Node, stretched_ns};
use xenwarden::pool::fencer::{Fencer, Settings};
use xenwarden::sys::clock::NS_PER_S;

fn over(boot: BootOf) -> Say {
    Say::Over(Over::from(boot))
}

fn hear(member: &mut Member, node: Node, boot: u8, s: u64, up_s: u64) -> Vec<Do> {
    let beat = Beat {
        up_ms: up_s * 1_000,
        ..heard(node, boot, s)
    };
    member.hear(node, &Say::Beat(beat), at(s))
}

/// A beat of that boot, of this machine, as that node.
fn beat_with(node: Node, machine: u128, boot: BootOf, s: u64, up_s: u64) -> Say {
    Say::Beat(Beat {
        machine: Some(Uuid::from_u128(machine)),
        boot: boot.boot,
        up_ms: up_s * 1_000,
        ..heard(node, 1, s)
    })
}

fn again(member: &Member) -> Member {
    with(Terms::default(), &member.kept())
}

#[test]
fn hosts_that_reset_and_boot_together_vouch_for_each_other_once_the_orders_are_over() {
    // The second orders the third's last boot. This one has booted, too, a moment after the third's next boot has.
    let mut member = member();
    hear(&mut member, TARGET, 2, 40, 41);
    assert_eq!(member.hear(2, &order_for(of(TARGET, 1)), at(40)).len(), 2);
    hear(&mut member, TARGET, 2, 60, 61);
    assert_eq!(echoes_of_target(&mut member, 61), 0, "it may be older");
    assert_eq!(member.hear(2, &over(of(TARGET, 9)), at(62)), []);
    assert_eq!(echoes_of_target(&mut member, 62), 0, "another boot is over");
    assert_eq!(member.hear(2, &over(of(TARGET, 1)), at(63)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 64), 1);
    // The boot that is over is not vouched for, now or after a restart of the program.
    let mut later = again(&member);
    for member in [&mut member, &mut later] {
        assert_eq!(member.hear(2, &over(of(TARGET, 1)), at(65)), []);
        hear(member, TARGET, 1, 65, 900);
        assert_eq!(echoes_of_target(member, 66), 0);
        hear(member, TARGET, 2, 67, 68);
        assert_eq!(echoes_of_target(member, 68), 1);
    }
}

#[test]
fn an_order_that_is_over_takes_nothing_from_another_members() {
    let mut member = member();
    hear(&mut member, TARGET, 2, 40, 41);
    for orderer in [ME, 2] {
        member.hear(orderer, &order_for(of(TARGET, 1)), at(40));
    }
    assert_eq!(member.hear(ME, &over(of(TARGET, 1)), at(41)), [Do::Keep]);
    let mut later = again(&member);
    hear(&mut later, TARGET, 2, 42, 43);
    for member in [&mut member, &mut later] {
        assert_eq!(echoes_of_target(member, 43), 0);
        let withdrawn = Say::Withdrawn(of(TARGET, 1));
        assert_eq!(member.hear(2, &withdrawn, at(44)), [Do::Keep]);
        assert_eq!(echoes_of_target(member, 45), 1);
        hear(member, TARGET, 1, 45, 900);
        assert_eq!(echoes_of_target(member, 46), 0, "that boot is over");
    }
    // Nor does one who has asked for nothing.
    let mut member = self::member();
    hear(&mut member, TARGET, 1, 40, 40);
    member.hear(2, &order_for(of(TARGET, 1)), at(40));
    assert_eq!(member.hear(ME, &over(of(TARGET, 1)), at(41)), []);
    member.hear(2, &Say::Withdrawn(of(TARGET, 1)), at(42));
    assert_eq!(member.kept().refused, []);
}

#[test]
fn an_order_for_an_earlier_boot_that_comes_late_takes_nothing_from_one_that_was_answered() {
    let mut member = member();
    hear(&mut member, TARGET, 2, 40, 41);
    member.hear(2, &order_for(of(TARGET, 2)), at(40));
    member.hear(ME, &order_for(of(TARGET, 1)), at(41));
    let withdrawn = Say::Withdrawn(of(TARGET, 1));
    assert_eq!(member.hear(ME, &withdrawn, at(42)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 43), 0);
    assert_eq!(member.kept().refused, [(of(TARGET, 2), 40_000)]);
}

#[test]
fn a_boot_is_never_taken_for_a_younger_one_than_itself() {
    let mut member = member();
    hear(&mut member, TARGET, 1, 40, 40);
    member.hear(2, &order_for(of(TARGET, 1)), at(40));
    // A clock that is slower by a thousandth.
    hear(&mut member, TARGET, 1, 90_000, 3);
    assert_eq!(echoes_of_target(&mut member, 90_001), 0);
}

#[test]
fn a_member_that_floods_with_orders_fills_nothing_and_ends_no_refusal_of_another() {
    let mut member = member();
    hear(&mut member, TARGET, 1, 40, 40);
    member.hear(ME, &order_for(of(TARGET, 1)), at(40));
    for n in 0..10_000_u32 {
        let boot = Uuid::from_u128(u128::from(n) << 64);
        for node in [TARGET, 1_000 + n] {
            member.hear(2, &order_for(BootOf { node, boot }), at(41));
        }
    }
    let kept = member.kept();
    assert_eq!(kept.refused.len(), 2, "{:?}", kept.refused);
    assert!(kept.refused.contains(&(of(TARGET, 1), 40_000)));
    assert_eq!(echoes_of_target(&mut member, 42), 0);
}

#[test]
fn no_more_boots_are_refused_than_there_is_room_for_and_who_asks_for_more_is_named() {
    let mut refusals = Refusals::default();
    let host = |n: u32| BootOf {
        node: TARGET,
        boot: Uuid::from_u128(u128::from(n)),
    };
    refusals.hear(TARGET, &heard(TARGET, 1, 1), 1_000);
    let most = u32::try_from(MOST).expect("few");
    for n in 1..=most {
        assert!(refusals.refuse(host(n), 2_000 + u64::from(n), n), "{n}");
    }
    assert!(!refusals.refuse(host(most + 1), 3_000, most + 1));
    assert!(refusals.refuse(host(7), 3_000, most + 1), "it is refused");
    assert_eq!(refusals.kept().count(), MOST);
    // What is over for certain gives its room, the oldest first.
    assert!(refusals.over(host(9), 9) && refusals.over(host(8), 8));
    assert!(refusals.refuse(host(most + 2), 3_000, most + 2));
    assert_eq!(refusals.kept().count(), MOST);
    assert!(!refusals.kept().any(|(of, _)| of == host(8)));
    assert!(refusals.kept().any(|(of, _)| of == host(9)));
}

#[test]
fn an_order_for_which_there_is_no_room_is_not_answered_and_its_sender_told() {
    let mut member = member();
    let last = Node::try_from(MOST).expect("few") + 1;
    let all: BTreeSet<Node> = (1..=last).collect();
    member.ring(all.clone());
    member.members(all.clone(), at(10));
    for node in all {
        hear(&mut member, node, 1, 10, 10);
    }
    for node in 1..=last {
        let boot = Uuid::from_u128(u128::from(node) << 64);
        let order = order_for(BootOf { node: TARGET, boot });
        let told = member.hear(node, &order, at(11));
        let is_told = matches!(told[..], [Do::Tell(_)]);
        assert_eq!(is_told, node == last, "{node}: {told:?}");
    }
}

#[test]
fn the_sender_of_an_order_for_which_there_is_no_room_is_counted() {
    let directory = std::env::temp_dir().join(format!("xw-ended-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("made");
    let settings = Settings {
        terms: Terms::default(),
        lease: LeaseName::new("pool").expect("a name"),
        page: directory.join("none"),
        kept: directory.join("kept"),
    };
    let mut fencer = Fencer::new(of(ME, 1).boot, "h1", settings).expect("nothing kept");
    let last = Node::try_from(MOST).expect("few") + 2;
    let all: Vec<Node> = (1..=last).collect();
    fencer.joined(ME);
    fencer.members(&all);
    for node in 2..=last {
        fencer.hear(node, &Say::Beat(heard(node, 1, 10)));
    }
    for node in 2..=last {
        let boot = Uuid::from_u128(u128::from(node) << 64);
        let told = fencer.hear(node, &order_for(BootOf { node: TARGET, boot }));
        assert_eq!(told.is_some(), node == last, "{node}: {told:?}");
    }
    std::fs::remove_dir_all(directory).expect("removed");
}

/// Told to be down by what it said, and heard no more since.
fn withheld() -> (Member, Now) {
    let mut member = ordered();
    let said = Confirmed {
        by: of(TARGET, 1),
        at: 12 * NS_PER_S,
        bound_ms: BOUND_MS,
    };
    member.hear(TARGET, &Say::Confirmed(said), at(12));
    let sure = at(12).at.plus_ns(stretched_ns(BOUND_MS)).plus_ns(LISTEN_NS);
    (member, Now { at: sure, up_ms: 0 })
}

#[test]
fn a_host_whose_next_boot_may_be_there_is_not_off() {
    let all = BTreeSet::from([1, 2, 3]);
    let without = BTreeSet::from([1, 2]);
    // Nothing came: it is off, also while corosync has not missed it yet.
    let (mut member, sure) = withheld();
    assert_eq!(
        member.judge(TARGET, sure),
        Some(Verdict::Down(How::Withheld))
    );
    assert!(member.is_down(TARGET));
    for comes in 0..4 {
        let (mut member, sure) = withheld();
        match comes {
            // Its pool alone has left, as far as is seen.
            3 => {
                member.members(without.clone(), at(13));
                member.tick(&guard(false), at(14));
            }
            // Its corosync alone, before that was known.
            0 => {
                member.ring(without.clone());
                member.ring(all.clone());
            }
            // Too fast to be missed on the ring.
            1 => {
                member.members(without.clone(), at(13));
                member.ring(all.clone());
            }
            _ => {
                member.members(without.clone(), at(13));
                member.members(all.clone(), at(13));
            }
        }
        assert_eq!(
            member.judge(TARGET, sure),
            Some(Verdict::Down(How::Withheld))
        );
        assert!(!member.is_down(TARGET), "{comes}");
    }
    // Nor where it comes so afterwards, or may have come while this host had no quorum or was off the ring.
    for comes in 0..3 {
        let (mut member, sure) = withheld();
        member.judge(TARGET, sure);
        match comes {
            0 => {
                member.members(without.clone(), at(40));
                member.ring(all.clone());
            }
            1 => {
                member.votes(votes(&[1], 0), at(40));
                member.votes(votes(&[1, 2], 0), at(41));
            }
            _ => {
                member.members(without.clone(), at(40));
                member.members(all.clone(), at(40));
            }
        }
        assert!(!member.is_down(TARGET), "afterwards: {comes}");
    }
}

#[test]
fn a_member_that_heard_an_earlier_boot_alone_learns_that_the_machine_is_down() {
    // It orders the third boot of a machine.
    let mut orderer = member();
    let began = beat_with(TARGET, 5, of(TARGET, 3), 500, 20);
    orderer.hear(TARGET, &began, at(500));
    orderer.votes(votes(&[1, 2], 0), at(500));
    orderer.order(TARGET, at(500)).expect("given");
    let said = Confirmed {
        by: of(TARGET, 3),
        at: 501 * NS_PER_S,
        bound_ms: BOUND_MS,
    };
    orderer.hear(TARGET, &Say::Confirmed(said), at(501));
    let down = orderer.judge(TARGET, at(520));
    assert_eq!(down, Some(Verdict::Down(How::Withheld)));
    let said = says_over(&orderer.tick(&guard(false), at(530))).expect("said");
    assert_eq!(
        (said.boot, said.machine),
        (of(TARGET, 3), Some(Uuid::from_u128(5)))
    );
    assert_eq!(said.began_ms, Some(50_000));
    // Another heard its first boot last, at 1,000 s by its clock, and now another machine.
    let knows = |over: Over| {
        let mut member = member();
        member.hear(TARGET, &of_machine(5, 1, 1_000), at(1_000));
        member.hear(TARGET, &of_machine(6, 9, 3), at(2_000));
        assert_eq!(member.strangers().count(), 1);
        let all = member.hear(2, &Say::Over(over), at(2_000));
        member.hear(TARGET, &of_machine(6, 9, 14), at(2_001));
        let is_heard = member.strangers().count() == 0;
        assert_eq!(is_heard, all == [Do::Keep]);
        is_heard
    };
    assert!(knows(said));
    // Heard after that boot began, or a minute and a hundredth before: it may be that one, or a later one.
    for (began_s, is) in [(930, true), (931, false), (1_100, false)] {
        let began_ms = Some(began_s * 1_000);
        assert_eq!(knows(Over { began_ms, ..said }), is, "{began_s}");
    }
    // Of another machine, of one that is not said, or of an older member that says less.
    for machine in [Some(Uuid::from_u128(7)), None] {
        assert!(!knows(Over { machine, ..said }));
    }
    assert!(!knows(Over {
        began_ms: None,
        ..said
    }));
    assert!(!knows(Over::from(of(TARGET, 3))));
    // Nor by one that was started anew since, and cannot say when it heard what it kept.
    let mut member = member();
    member.hear(TARGET, &of_machine(5, 1, 1_000), at(1_000));
    let mut later = again(&member);
    later.hear(TARGET, &of_machine(6, 9, 3), at(2_000));
    assert_eq!(later.hear(2, &Say::Over(said), at(2_000)), []);
    later.hear(TARGET, &of_machine(6, 9, 4), at(2_001));
    assert_eq!(later.strangers().count(), 1);
}

#[test]
fn a_boot_that_the_orderer_never_heard_is_not_over_by_its_order_for_the_one_before() {
    // In a partition without this member, which heard the fourth boot then, the third was heard and later ordered.
    let mut orderer = member();
    let began = beat_with(TARGET, 5, of(TARGET, 3), 500, 200);
    orderer.hear(TARGET, &began, at(500));
    orderer.order(TARGET, at(1_200)).expect("given");
    let said = Confirmed {
        by: of(TARGET, 3),
        at: 501 * NS_PER_S,
        bound_ms: BOUND_MS,
    };
    orderer.hear(TARGET, &Say::Confirmed(said), at(1_201));
    let down = orderer.judge(TARGET, at(1_300));
    assert_eq!(down, Some(Verdict::Down(How::Withheld)));
    let said = says_over(&orderer.tick(&guard(false), at(1_300))).expect("said");
    let mut member = member();
    member.hear(TARGET, &of_machine(5, 4, 1_000), at(1_000));
    assert_eq!(member.hear(2, &Say::Over(said), at(1_300)), []);
    member.hear(TARGET, &of_machine(6, 9, 3), at(1_301));
    assert_eq!(member.strangers().count(), 1);
}

#[test]
fn of_which_machine_a_boot_is_and_when_it_began_is_known_of_that_boot_alone() {
    let mut machines = Machines::default();
    let Say::Beat(beat) = beat_with(TARGET, 5, of(TARGET, 2), 100, 30) else {
        panic!("a beat");
    };
    machines.hear(TARGET, &beat, 100_000);
    let known = |boot: BootOf| (machines.machine_of(boot), machines.began(boot));
    let machine = Some(Uuid::from_u128(5));
    assert_eq!(known(of(TARGET, 2)), (machine, Some(70_000)));
    assert_eq!(known(of(TARGET, 1)), (None, None));
    assert_eq!(known(of(2, 2)), (None, None));
}

#[test]
fn a_boot_that_is_over_stays_so_whatever_becomes_of_another_order_for_it() {
    let (mut member, sure) = withheld();
    member.judge(TARGET, sure);
    member.order(TARGET, at(41)).expect("given");
    member.withdraw(TARGET);
    for member in [&mut again(&member), &mut member] {
        let all = member.tick(&guard(false), at(42));
        let said = says_over(&all).map(|over| over.boot);
        assert_eq!(said, Some(of(TARGET, 1)), "{all:?}");
    }
}

#[test]
fn an_orderer_that_comes_back_as_another_node_or_of_which_nothing_was_kept_refuses_nobody_for_ever()
{
    let nodes = BTreeSet::from([1, 3, 4]);
    let ordered = |machine: Option<u128>| {
        let mut member = member();
        hear(&mut member, TARGET, 1, 10, 10);
        match machine {
            Some(machine) => member.hear(2, &beat_with(2, machine, of(2, 1), 10, 10), at(10)),
            None => hear(&mut member, 2, 1, 10, 10),
        };
        member.hear(2, &order_for(of(TARGET, 1)), at(10));
        assert_eq!(echoes_of_target(&mut member, 11), 0);
        member
    };
    // Its corosync is another node: by its boot, or by its machine, which has booted since.
    for (machine, boot) in [(None, of(2, 1)), (Some(22), of(2, 1)), (Some(22), of(4, 9))] {
        for mut member in [ordered(machine), again(&ordered(machine))] {
            member.ring(nodes.clone());
            member.members(nodes.clone(), at(12));
            hear(&mut member, TARGET, 1, 12, 12);
            let beat = beat_with(4, 22, boot, 13, 3);
            assert_eq!(member.hear(4, &beat, at(13)), [Do::Keep]);
            assert_eq!(echoes_of_target(&mut member, 14), 1, "{boot:?}");
            assert_eq!(member.kept().refused, []);
        }
    }
    // In which boot it gave the order was not kept: one that began after that has not given it.
    let kept = Kept {
        orderers: Vec::new(),
        ..ordered(None).kept()
    };
    for (up_s, echoes) in [(3_000, 0), (89, 0), (87, 1)] {
        let all = BTreeSet::from([1, 2, 3]);
        let mut member = Member::new(of(ME, 1), "h1", Terms::default(), &kept);
        member.members(all, at(99));
        hear(&mut member, TARGET, 1, 99, 99);
        hear(&mut member, 2, 7, 100, up_s);
        assert_eq!(echoes_of_target(&mut member, 101), echoes, "{up_s}");
    }
}

#[test]
fn an_orderer_that_is_started_anew_gives_its_orders_up_and_says_again_what_became_of_others() {
    let mut orderer = ordered();
    let all = orderer.tick(&guard(false), at(12));
    let keeps = all.iter().position(|one| *one == Do::Keep);
    let orders = all
        .iter()
        .position(|one| matches!(one, Do::Say(Say::Order(_))));
    assert!(keeps.is_some() && keeps < orders, "{all:?}");
    let mut later = again(&orderer);
    assert_eq!(
        later.judge(TARGET, at(13)),
        None,
        "nobody is told anything by it"
    );
    let all = later.tick(&guard(false), at(13));
    assert!(says(&all, &Say::Withdrawn(of(TARGET, 1))), "{all:?}");
    assert!(!all.iter().any(|one| matches!(one, Do::Say(Say::Order(_)))));
    // Another order takes its place.
    hear(&mut later, TARGET, 1, 14, 14);
    later.order(TARGET, at(14)).expect("given");
    assert!(!says(
        &later.tick(&guard(false), at(14)),
        &Say::Withdrawn(of(TARGET, 1))
    ));
    // One that was done, long ago.
    let (mut orderer, sure) = withheld();
    orderer.judge(TARGET, sure);
    for s in 30..100 {
        orderer.tick(&guard(false), at(s));
    }
    assert_eq!(says_over(&orderer.tick(&guard(false), at(100))), None);
    let mut later = again(&orderer);
    let said = says_over(&later.tick(&guard(false), at(101)));
    assert_eq!(said.map(|over| over.boot), Some(of(TARGET, 1)));
    // One that was given up.
    let mut orderer = ordered();
    orderer.withdraw(TARGET);
    let all = again(&orderer).tick(&guard(false), at(15));
    assert!(says(&all, &Say::Withdrawn(of(TARGET, 1))), "{all:?}");
}

#[test]
fn the_orders_of_a_host_end_with_its_boot() {
    let ordered = |by: &[Node]| {
        let mut member = member();
        hear(&mut member, TARGET, 1, 40, 40);
        hear(&mut member, 2, 1, 40, 40);
        for node in by {
            member.hear(*node, &order_for(of(TARGET, 1)), at(41));
        }
        member
    };
    // Also where this program is started anew meanwhile.
    for mut member in [ordered(&[2]), again(&ordered(&[2]))] {
        hear(&mut member, TARGET, 1, 42, 42);
        assert_eq!(hear(&mut member, 2, 1, 42, 42), []);
        assert_eq!(echoes_of_target(&mut member, 43), 0);
        assert_eq!(hear(&mut member, 2, 2, 50, 5), [Do::Keep]);
        assert_eq!(echoes_of_target(&mut member, 51), 1);
        assert_eq!(member.kept().refused, []);
    }
    // Also where the next boot is the first that this program hears.
    let kept = ordered(&[2]).kept();
    let mut member = Member::new(of(ME, 1), "h1", Terms::default(), &kept);
    member.members(BTreeSet::from([1, 2, 3]), at(44));
    assert_eq!(hear(&mut member, 2, 2, 50, 5), [Do::Keep]);
    // Nobody says so of this host's own boot.
    let mut member = ordered(&[ME]);
    hear(&mut member, ME, 1, 42, 42);
    assert_eq!(member.hear(2, &over(of(ME, 1)), at(42)), []);
    assert_eq!(echoes_of_target(&mut member, 43), 0);
    // Certainly over is enough.
    let mut member = ordered(&[2]);
    assert_eq!(member.hear(ME, &over(of(2, 9)), at(42)), []);
    assert_eq!(member.hear(ME, &over(of(2, 1)), at(42)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 43), 1);
    // Another's go on.
    let mut member = ordered(&[ME, 2]);
    hear(&mut member, 2, 2, 50, 5);
    assert_eq!(echoes_of_target(&mut member, 51), 0);
}

#[test]
fn what_an_older_version_kept_or_says_of_orders_that_are_over_is_understood() {
    let boot = of(TARGET, 1);
    let text = format!(r#"{{"over":{{"node":3,"boot":"{}"}}}}"#, boot.boot);
    let said: Say = serde_json::from_str(&text).expect("understood");
    assert_eq!(said, over(boot));
    let said = serde_json::to_value(over(boot)).expect("said");
    assert_eq!(said["over"]["node"], 3);
    let text = format!(
        r#"{{"refused":[[{{"node":3,"boot":"{0}"}},5]],"refused_by":[[{{"node":3,"boot":"{0}"}},2]],"fenced":false}}"#,
        boot.boot
    );
    let kept: Kept = serde_json::from_str(&text).expect("understood");
    let mut member = with(Terms::default(), &kept);
    hear(&mut member, TARGET, 1, 40, 40);
    assert_eq!(echoes_of_target(&mut member, 41), 0);
    assert_eq!(member.hear(2, &over(boot), at(44)), [Do::Keep]);
    hear(&mut member, TARGET, 2, 45, 44);
    assert_eq!(echoes_of_target(&mut member, 46), 1);
}
