// SPDX-License-Identifier: GPL-2.0-only
//! A member in all that concerns fencing, one fact after the other. Time is the test's own.
#![allow(clippy::expect_used, clippy::panic)] // how tests fail

mod fencing_stage;

use fencing_stage::*;
use std::collections::BTreeSet;
use xenwarden::event::Uuid;
use xenwarden::fencing::member::{
    Do, Guard, Kept, LeaseTerms, Member, Now, Ordered, Over, Say, Terms,
};
use xenwarden::fencing::named::node_of;
use xenwarden::fencing::order::{Confirmed, Failed, How, LISTEN_NS, Order, Verdict, Wait};
use xenwarden::fencing::refusals::Last;
use xenwarden::fencing::{Beat, BootOf, Echo, Node, Votes, stretched_ns};
use xenwarden::sys::clock::{Monotonic, NS_PER_S};

#[test]
fn a_promise_is_the_lease_and_the_bound_and_the_device_where_there_is_one() {
    let mut member = member();
    // Renewed by what was heard, and kept before that; promised once the guard goes by it.
    let all = goes_on(&mut member, &guard(false), 10);
    assert_eq!(beat_of(&all).promise_ms, None);
    assert_eq!(renewed(&all), Some(10 + LEASE_S));
    let kept = all.iter().position(|one| *one == Do::Keep);
    let renews = all.iter().position(|one| matches!(one, Do::Renew(_)));
    assert!(kept.is_some() && kept < renews, "{all:?}");
    assert!(member.kept().promised.is_some());
    let lease_ms = LEASE_S * 1_000;
    let all = goes_on(&mut member, &guard(true), 11);
    assert_eq!(beat_of(&all).promise_ms, Some(lease_ms + BOUND_MS));
    member.promises(true, true);
    let all = goes_on(&mut member, &guard(true), 12);
    assert_eq!(
        beat_of(&all).promise_ms,
        Some(lease_ms + BOUND_MS + DEVICE_MS)
    );
    let unknown = Guard {
        bound_ms: None,
        ..guard(true)
    };
    assert_eq!(
        beat_of(&goes_on(&mut member, &unknown, 13)).promise_ms,
        None
    );
    let none = Guard {
        lease: None,
        ..guard(true)
    };
    assert_eq!(beat_of(&goes_on(&mut member, &none, 14)).promise_ms, None);
    // What nobody has heard anew, or too long ago, renews nothing.
    assert_eq!(
        renewed(&member.tick(&guard(true), at(15))),
        Some(14 + LEASE_S)
    );
    assert_eq!(renewed(&member.tick(&guard(true), at(15))), None);
    assert_eq!(renewed(&member.tick(&guard(true), at(40))), None);
}

#[test]
fn a_host_that_does_not_promise_renews_nothing() {
    let mut member = with(Terms::default(), &Kept::default());
    let all = goes_on(&mut member, &guard(false), 10);
    assert_eq!((renewed(&all), beat_of(&all).promise_ms), (None, None));
    // Nor one whose votes are not counted so that it could.
    let mut member = self::member();
    member.promises(false, false);
    assert_eq!(renewed(&goes_on(&mut member, &guard(false), 10)), None);
}

#[test]
fn what_was_promised_stays_the_same_whatever_is_configured_later() {
    let mut member = member();
    goes_on(&mut member, &guard(true), 10);
    let longer = Guard {
        lease: Some(LeaseTerms {
            timeout_ns: 60 * NS_PER_S,
            held: true,
        }),
        ..guard(true)
    };
    assert_eq!(
        renewed(&goes_on(&mut member, &longer, 11)),
        Some(11 + LEASE_S)
    );
    // Over a restart of the program as well.
    let terms = Terms {
        without_quorum: true,
        device_ms: 0,
    };
    let mut member = with(terms, &member.kept());
    assert_eq!(
        renewed(&goes_on(&mut member, &longer, 12)),
        Some(12 + LEASE_S)
    );
    // A longer bound cannot be held: nothing is promised from then on, and the lease is given back once others know.
    let slower = Guard {
        bound_ms: Some(BOUND_MS + 1),
        ..guard(true)
    };
    assert_eq!(renewed(&goes_on(&mut member, &slower, 13)), None);
    let all = goes_on(&mut member, &slower, 14);
    assert_eq!(beat_of(&all).promise_ms, None);
    assert!(all.contains(&Do::Release), "{all:?}");
}

#[test]
fn an_order_for_this_boot_withholds_for_good_and_is_kept_before() {
    let mut member = member();
    goes_on(&mut member, &guard(true), 10);
    let other = order_for(of(ME, 9));
    assert_eq!(member.hear(2, &other, at(11)), [], "another boot's");
    assert!(!member.kept().fenced);
    let order = order_for(of(ME, 1));
    for _ in 0..2 {
        assert_eq!(member.hear(2, &order, at(11)), [Do::Keep, Do::Trigger]);
    }
    assert!(member.kept().fenced && member.is_fenced());
    // Triggered until the guard withholds, and never renewed.
    let all = goes_on(&mut member, &guard(true), 12);
    assert_eq!(renewed(&all), None);
    assert!(all.ends_with(&[Do::Keep, Do::Trigger]), "{all:?}");
    let withholds = Guard {
        withholds: Some(at(13).at),
        ..guard(false)
    };
    let all = member.tick(&withholds, at(14));
    assert!(!all.contains(&Do::Trigger), "{all:?}");
    let confirmed = all.iter().position(|one| match one {
        Do::Say(Say::Confirmed(said)) => {
            said.by == of(ME, 1) && said.bound_ms == BOUND_MS && said.at == 13 * NS_PER_S
        }
        _ => false,
    });
    let kept = all.iter().position(|one| *one == Do::Keep);
    assert!(kept.is_some() && kept < confirmed, "{all:?}");
    // Another start of the program in this boot.
    let mut member = with(Terms::default(), &member.kept());
    assert!(member.tick(&guard(true), at(15)).contains(&Do::Trigger));
}

#[test]
fn a_host_that_withholds_for_another_reason_confirms_nothing() {
    let mut member = member();
    let withholds = Guard {
        withholds: Some(at(9).at),
        ..guard(true)
    };
    let all = member.tick(&withholds, at(10));
    let confirms = |one: &Do| matches!(one, Do::Say(Say::Confirmed(_)));
    assert!(!all.iter().any(confirms), "{all:?}");
}

#[test]
fn a_refusal_is_kept_before_it_is_said_and_so_is_its_end() {
    let mut member = member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 50)), at(50));
    let all = member.hear(2, &order_for(of(TARGET, 1)), at(51));
    let [
        Do::Keep,
        Do::Say(Say::Refused {
            of: whose,
            last,
            to,
            number,
        }),
    ] = &all[..]
    else {
        panic!("{all:?}");
    };
    assert_eq!((*whose, *to, *number), (TARGET, 2, 7));
    assert_eq!(last.map(|last| last.echo.of), Some(of(TARGET, 1)));
    assert_eq!(member.kept().refused, [(of(TARGET, 1), 51_000)]);
    assert_eq!(echoes_of_target(&mut member, 52), 0);
    let younger = heard(TARGET, 2, 5);
    assert_eq!(member.hear(TARGET, &Say::Beat(younger), at(60)), [Do::Keep]);
    assert_eq!(member.kept().refused, []);
}

#[test]
fn orders_are_given_by_a_quorum_for_another_host_that_was_heard() {
    let mut member = member();
    assert!(member.order(TARGET, at(10)).is_err(), "it was not heard");
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    member.hear(ME, &Say::Beat(heard(ME, 1, 10)), at(10));
    assert!(member.order(ME, at(10)).is_err());
    member.votes(votes(&[1], 0), at(10));
    assert!(member.order(TARGET, at(10)).is_err());
    member.votes(votes(&[1, 2], 0), at(10));
    assert!(member.order(TARGET, at(10)).is_ok());
    let order = Say::Order(Ordered {
        boot: of(TARGET, 1),
        number: 10 * NS_PER_S,
    });
    let says = |all: &[Do]| all.contains(&Do::Say(order.clone()));
    assert!(
        says(&member.tick(&guard(false), at(11))),
        "at once, and each second"
    );
    assert!(says(&member.tick(&guard(false), at(12))));
    // Not by who has lost the quorum meanwhile.
    member.votes(votes(&[1], 0), at(12));
    assert!(!says(&member.tick(&guard(false), at(13))));
    member.withdraw(TARGET);
    assert_eq!(member.judge(TARGET, at(14)), None);
}

#[test]
fn who_leaves_refuses_no_more_and_who_knows_nothing_never_did() {
    let mut member = ordered();
    assert_eq!(waits(&mut member, 13), Wait::Time);
    member.members(BTreeSet::from([1, 3]), at(14));
    assert_eq!(waits(&mut member, 15), Wait::Answers);
    let mut member = ordered();
    member.hear(2, &refused(None), at(14));
    assert_eq!(waits(&mut member, 15), Wait::Answers);
}

#[test]
fn a_host_is_off_until_something_is_heard_of_it() {
    for comes in [true, false] {
        let mut member = ordered();
        member.ring(BTreeSet::from([1, 2]));
        let sure = at(12).at.plus_ns(stretched_ns(26_000)).plus_ns(LISTEN_NS);
        let now = Now { at: sure, up_ms: 0 };
        assert_eq!(member.judge(TARGET, now), Some(Verdict::Down(How::Silent)));
        assert!(member.is_down(TARGET));
        match comes {
            true => drop(member.hear(TARGET, &Say::Beat(heard(TARGET, 2, 3)), at(60))),
            // Its corosync is back, without its pool.
            false => {
                member.ring(BTreeSet::from([1, 2]));
                member.ring(BTreeSet::from([1, 2, 3]));
            }
        }
        assert!(!member.is_down(TARGET));
    }
}

#[test]
fn a_boot_that_is_on_the_ring_and_not_heard_is_not_down_for_the_silence_of_the_one_before() {
    let mut member = ordered();
    member.ring(BTreeSet::from([1, 2]));
    // It came up before the order, cut off; its pool is not started yet.
    member.ring(BTreeSet::from([1, 2, 3]));
    assert_eq!(waits(&mut member, 500), Wait::Boot);
    // 495 s of it are more than the 490 since the order.
    let beat = Beat {
        up_ms: 495_000,
        ..heard(TARGET, 2, 3)
    };
    member.hear(TARGET, &Say::Beat(beat), at(501));
    let verdict = member.judge(TARGET, at(501));
    assert_eq!(verdict, Some(Verdict::Failed(Failed::OtherBoot)));
}

#[test]
fn an_order_waits_for_two_and_a_half_seconds_more_and_hears_a_silent_host_that_lives() {
    let two = votes(&[1, 2, 3], 0);
    let mut order = Order::new(of(TARGET, 1), at(11).at);
    // Its own word is no refusal, though it has a vote.
    order.refuses(TARGET, last(), &two, at(12).at);
    order.refuses(1, last(), &two, at(12).at);
    assert!(matches!(
        order.judge(&two, at(500).at),
        Verdict::Wait(Wait::Answers, _)
    ));
    // Nor is anything enough where nobody knows what is.
    let nobody = Votes {
        quorate: true,
        ..Votes::default()
    };
    order.count(&nobody, at(12).at);
    assert!(matches!(
        order.judge(&nobody, at(500).at),
        Verdict::Wait(Wait::Answers, _)
    ));
    order.refuses(2, last(), &two, at(12).at);
    let due = at(12).at.plus_ns(stretched_ns(26_000));
    let sure = due.plus_ns(5 * NS_PER_S / 2);
    assert_eq!(order.judge(&two, sure), Verdict::Down(How::Silent));
    let early = Monotonic(sure.0 - 1);
    assert_eq!(
        order.judge(&two, early),
        Verdict::Wait(Wait::Time, Some(sure))
    );
    order.hear(TARGET, &heard(TARGET, 1, 40), due.plus_ns(2 * NS_PER_S));
    assert_eq!(order.judge(&two, sure), Verdict::Failed(Failed::StillThere));
}

#[test]
fn a_member_that_stops_gives_its_lease_back_once_members_know_and_says_so_until_it_is_heard() {
    let mut member = member();
    goes_on(&mut member, &guard(true), 10);
    // A device knows nothing.
    member.votes(votes(&[1, 2, 3], 1), at(10));
    member.stop();
    let own = |s: u64| {
        Say::Beat(Beat {
            promise_ms: None,
            ..heard(ME, 1, s)
        })
    };
    let all = member.tick(&guard(true), at(11));
    assert_eq!(beat_of(&all).promise_ms, None);
    member.hear(ME, &own(11), at(11));
    // Heard before it was said is not enough.
    member.hear(2, &echo(2, 10), at(11));
    assert!(!member.tick(&guard(true), at(11)).contains(&Do::Release));
    assert!(!member.is_stopped(&guard(true)));
    member.hear(2, &echo(2, 11), at(11));
    for s in [11, 12] {
        let all = member.tick(&guard(true), at(s));
        assert!(
            all.contains(&Do::Release) && renewed(&all).is_none(),
            "{all:?}"
        );
        assert!(!member.is_stopped(&guard(true)), "it may be lost");
    }
    assert!(member.is_stopped(&guard(false)));
}

#[test]
fn a_lease_that_an_earlier_run_held_is_given_back_by_one_that_is_not_to() {
    let mut member = with(Terms::default(), &Kept::default());
    member.tick(&guard(true), at(10));
    let all = goes_on(&mut member, &guard(true), 11);
    assert!(all.contains(&Do::Release), "{all:?}");
}

#[test]
fn a_pool_that_leaves_a_ring_on_which_its_node_stays_has_promised_nothing() {
    let mut member = member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    member.members(BTreeSet::from([1, 2]), at(11));
    member.tick(&guard(false), at(11));
    assert!(
        member.promise_of(TARGET).is_some(),
        "its node may be about to leave"
    );
    member.tick(&guard(false), at(12));
    assert_eq!(member.promise_of(TARGET), None);
    // One that leaves with its node keeps it.
    let mut member = self::member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    member.members(BTreeSet::from([1, 2]), at(11));
    member.ring(BTreeSet::from([1, 2]));
    member.tick(&guard(false), at(20));
    assert!(member.promise_of(TARGET).is_some());
}

#[test]
fn a_machine_in_the_place_of_a_silent_one_says_nothing_of_it() {
    let mut member = member();
    assert_eq!(
        member.hear(TARGET, &of_machine(5, 1, 10), at(10)),
        [Do::Keep]
    );
    member.votes(votes(&[1, 2], 0), at(11));
    member.order(TARGET, at(11)).expect("given");
    member.hear(2, &order_for(of(TARGET, 1)), at(11));
    for node in [1, 2] {
        member.hear(node, &refused(last()), at(12));
    }
    // Young enough to be a boot of it that began after the order: it is not its machine.
    assert_eq!(member.hear(TARGET, &of_machine(6, 2, 1), at(20)), []);
    assert_eq!(waits(&mut member, 21), Wait::Time);
    assert_eq!(echoes_of_target(&mut member, 21), 0);
    assert_eq!(member.kept().refused.len(), 1, "the refusal goes on");
    assert!(!member.is_heard(TARGET), "it is not on");
    assert_eq!(member.promise_of(TARGET), None);
    let (node, stranger) = member.strangers().next().expect("it is named");
    assert_eq!((node, stranger.before), (TARGET, Uuid::from_u128(5)));
    // Nor is the one fenced in the place of the other, now or after a restart of the program.
    member.withdraw(TARGET);
    assert!(member.order(TARGET, at(22)).is_err());
    let terms = Terms::default();
    let mut member = with(terms, &member.kept());
    member.hear(TARGET, &of_machine(6, 2, 3), at(23));
    assert!(member.order(TARGET, at(23)).is_err());
    // What it hears proves nothing.
    let from_it = Say::Beat(Beat {
        echoes: vec![Echo {
            of: of(ME, 1),
            sent: 24 * NS_PER_S,
        }],
        machine: Some(Uuid::from_u128(6)),
        ..heard(TARGET, 2, 4)
    });
    member.tick(&guard(true), at(24));
    member.hear(TARGET, &from_it, at(24));
    assert_eq!(renewed(&member.tick(&guard(true), at(24))), None);
}

#[test]
fn the_same_machine_may_boot_anew_or_be_upgraded_and_one_that_is_down_may_be_replaced() {
    let mut member = ordered();
    // An older member said no machine: it is upgraded, in one boot and with another.
    for (boot, sent_s) in [(1, 13), (2, 2)] {
        member.hear(TARGET, &of_machine(5, boot, sent_s), at(14));
        assert_eq!(member.strangers().count(), 0);
    }
    let rebooted = Some(Verdict::Down(How::Rebooted));
    member.hear(TARGET, &of_machine(5, 3, 1), at(20));
    assert_eq!(member.judge(TARGET, at(20)), rebooted);
    assert!(!member.is_down(TARGET), "its next boot is on");
    assert_eq!(echoes_of_target(&mut member, 21), 1);
    // Down by its silence: another is in its place from then on.
    let mut member = self::member();
    member.hear(TARGET, &of_machine(5, 1, 10), at(10));
    member.votes(votes(&[1, 2], 0), at(11));
    member.order(TARGET, at(11)).expect("given");
    for node in [1, 2] {
        member.hear(node, &refused(last()), at(12));
    }
    member.ring(BTreeSet::from([1, 2]));
    let sure = at(12).at.plus_ns(stretched_ns(26_000)).plus_ns(LISTEN_NS);
    let now = Now { at: sure, up_ms: 0 };
    assert_eq!(member.judge(TARGET, now), Some(Verdict::Down(How::Silent)));
    member.hear(TARGET, &of_machine(6, 2, 3), at(60));
    assert_eq!(
        (member.strangers().count(), member.is_heard(TARGET)),
        (0, true)
    );
}

#[test]
fn an_order_that_is_given_up_ends_the_refusals_for_it_and_no_others() {
    let mut member = member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    for orderer in [1, 2] {
        member.hear(orderer, &order_for(of(TARGET, 1)), at(11));
    }
    let kept = member.kept();
    let withdrawn = Say::Withdrawn(of(TARGET, 1));
    let other = Say::Withdrawn(of(TARGET, 2));
    assert_eq!(member.hear(1, &other, at(12)), [], "another boot's");
    assert_eq!(member.hear(1, &withdrawn, at(12)), [Do::Keep]);
    assert_eq!(member.hear(1, &withdrawn, at(12)), [], "said again");
    assert_eq!(
        echoes_of_target(&mut member, 13),
        0,
        "another has asked, too"
    );
    assert_eq!(member.hear(2, &withdrawn, at(14)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 15), 1);
    // Over a restart of the program the same; of what an older one kept nobody knows who asked.
    let mut member = with(Terms::default(), &kept);
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 16)), at(16));
    for orderer in [1, 2] {
        assert_eq!(member.hear(orderer, &withdrawn, at(17)), [Do::Keep]);
    }
    assert_eq!(echoes_of_target(&mut member, 18), 1);
    let older = Kept {
        refused_by: Vec::new(),
        ..kept
    };
    let mut member = with(Terms::default(), &older);
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 16)), at(16));
    assert_eq!(member.hear(1, &withdrawn, at(17)), []);
    assert_eq!(echoes_of_target(&mut member, 18), 0);
    // Nor does it after one more restart, whoever has asked besides.
    member.hear(2, &order_for(of(TARGET, 1)), at(18));
    let mut member = with(Terms::default(), &member.kept());
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 19)), at(19));
    assert_eq!(member.hear(2, &withdrawn, at(20)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 21), 0);
}

#[test]
fn who_gives_an_order_up_says_so_with_some_beats_and_an_answer_to_it_is_none_to_the_next() {
    let mut member = ordered();
    member.withdraw(TARGET);
    let says = |all: &[Do]| all.contains(&Do::Say(Say::Withdrawn(of(TARGET, 1))));
    for s in 14..74 {
        assert!(says(&member.tick(&guard(false), at(s))), "{s}");
    }
    assert!(!says(&member.tick(&guard(false), at(74))));
    // Another order: an answer to the first may still be on its way.
    member.order(TARGET, at(75)).expect("given");
    assert!(!says(&member.tick(&guard(false), at(75))));
    for node in [1, 2] {
        member.hear(node, &refused(last()), at(76));
    }
    assert_eq!(waits(&mut member, 77), Wait::Answers);
    // One that was decided is not given up.
    let mut member = ordered();
    member.ring(BTreeSet::from([1, 2]));
    let sure = at(12).at.plus_ns(stretched_ns(26_000)).plus_ns(LISTEN_NS);
    member.judge(TARGET, Now { at: sure, up_ms: 0 });
    member.withdraw(TARGET);
    assert!(!says(&member.tick(&guard(false), at(60))));
}

#[test]
fn what_older_members_say_and_keep_is_understood_and_they_understand_what_this_one_says() {
    let boot = of(TARGET, 1);
    let text = format!(r#"{{"order":{{"node":3,"boot":"{}"}}}}"#, boot.boot);
    let order: Say = serde_json::from_str(&text).expect("an order");
    assert_eq!(order, Say::Order(Ordered { boot, number: 0 }));
    let refused = r#"{"refused":{"of":3,"last":null}}"#;
    let refused: Say = serde_json::from_str(refused).expect("a refusal");
    assert!(matches!(
        refused,
        Say::Refused {
            to: 0,
            number: 0,
            ..
        }
    ));
    let kept = r#"{"refused":[],"fenced":true}"#;
    let kept: Kept = serde_json::from_str(kept).expect("what was kept");
    assert!(kept.fenced && kept.machines.is_empty());
    // They read what they know of it, and pass over the rest.
    let said = serde_json::to_value(order_for(boot)).expect("said");
    assert_eq!(said["order"]["node"], 3);
    assert_eq!(said["order"]["boot"], boot.boot.to_string());
}

#[test]
fn a_stranger_is_not_heard_at_all_nor_is_who_has_not_said_yet_which_machine_it_is() {
    let of_second = |machine: u128, boot: u8, sent_s: u64| {
        Say::Beat(Beat {
            machine: Some(Uuid::from_u128(machine)),
            ..heard(2, boot, sent_s)
        })
    };
    let orders = |member: &mut Member, s: u64| {
        let me = member.hear(2, &order_for(of(ME, 1)), at(s));
        let other = member.hear(2, &order_for(of(TARGET, 1)), at(s));
        (me.len(), other.len(), member.is_fenced())
    };
    let mut member = member();
    member.hear(2, &of_second(5, 1, 10), at(10));
    member.hear(TARGET, &of_machine(7, 1, 10), at(10));
    member.hear(2, &of_second(6, 2, 1), at(11));
    assert_eq!(orders(&mut member, 11), (0, 0, false));
    assert_eq!(member.kept().refused, []);
    assert_eq!(
        member.hear(2, &Say::Over(Over::from(of(TARGET, 1))), at(11)),
        []
    );
    // The same where it has not said yet that it is another.
    let mut member = self::member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    member.members(BTreeSet::from([1, 3]), at(11));
    member.members(BTreeSet::from([1, 2, 3]), at(12));
    assert_eq!(orders(&mut member, 12), (0, 0, false));
    member.order(TARGET, at(12)).expect("given");
    for node in [1, 2] {
        let refused = Say::Refused {
            of: TARGET,
            last: last(),
            to: ME,
            number: 12 * NS_PER_S,
        };
        member.hear(node, &refused, at(12));
    }
    assert_eq!(waits(&mut member, 13), Wait::Answers);
    // A second later it is heard. Its host confirms nothing before, either.
    let confirmed = Say::Confirmed(Confirmed {
        by: of(TARGET, 1),
        at: 13 * NS_PER_S,
        bound_ms: BOUND_MS,
    });
    member.members(BTreeSet::from([1, 2]), at(13));
    member.members(BTreeSet::from([1, 2, 3]), at(13));
    member.hear(TARGET, &confirmed, at(13));
    assert_eq!(waits(&mut member, 14), Wait::Answers);
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 14)), at(14));
    member.hear(TARGET, &confirmed, at(14));
    assert_eq!(waits(&mut member, 14), Wait::Time);
    member.hear(2, &Say::Beat(heard(2, 1, 14)), at(14));
    // Nor once it has left, whatever of it comes late.
    member.members(BTreeSet::from([1, 3]), at(15));
    assert_eq!(orders(&mut member, 15), (0, 0, false));
    member.members(BTreeSet::from([1, 2, 3]), at(16));
    member.hear(2, &Say::Beat(heard(2, 1, 16)), at(16));
    assert_eq!(orders(&mut member, 16), (2, 2, true));
}

#[test]
fn what_became_of_an_order_is_said_anew_whenever_members_come_or_go() {
    let mut member = ordered();
    member.withdraw(TARGET);
    let withdrawn = Say::Withdrawn(of(TARGET, 1));
    for s in 14..74 {
        assert!(says(&member.tick(&guard(false), at(s)), &withdrawn), "{s}");
    }
    assert!(!says(&member.tick(&guard(false), at(74)), &withdrawn));
    // One that was away comes back, and later the host itself.
    for (start, members) in [(600, vec![1, 3]), (700, vec![1, 2, 3])] {
        member.members(members.into_iter().collect(), at(start));
        for s in start..start + 60 {
            assert!(says(&member.tick(&guard(false), at(s)), &withdrawn), "{s}");
        }
        let all = member.tick(&guard(false), at(start + 60));
        assert!(!says(&all, &withdrawn));
    }
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 800)), at(800));
    member.order(TARGET, at(801)).expect("given");
    member.members(BTreeSet::from([1, 3]), at(802));
    assert!(!says(&member.tick(&guard(false), at(803)), &withdrawn));
}

#[test]
fn an_order_that_failed_ends_its_refusals_as_one_that_is_given_up_does() {
    let mut member = ordered();
    member.hear(ME, &order_for(of(TARGET, 1)), at(12));
    assert_eq!(echoes_of_target(&mut member, 13), 0);
    // A boot that was there before the order: the order is not for it, and nor are its refusals.
    let older = Beat {
        up_ms: 500_000,
        ..heard(TARGET, 2, 14)
    };
    member.hear(TARGET, &Say::Beat(older), at(14));
    let failed = Some(Verdict::Failed(Failed::OtherBoot));
    assert_eq!(member.judge(TARGET, at(14)), failed);
    let withdrawn = Say::Withdrawn(of(TARGET, 1));
    assert!(says(&member.tick(&guard(false), at(14)), &withdrawn));
    assert_eq!(member.hear(ME, &withdrawn, at(15)), [Do::Keep]);
    assert_eq!(echoes_of_target(&mut member, 16), 1);
}

#[test]
fn whoever_finds_that_a_boot_is_over_tells_all_who_then_hear_the_machine_in_its_place() {
    let mut orderer = ordered();
    orderer.ring(BTreeSet::from([1, 2]));
    let sure = at(12).at.plus_ns(stretched_ns(26_000)).plus_ns(LISTEN_NS);
    let now = Now { at: sure, up_ms: 0 };
    assert_eq!(orderer.judge(TARGET, now), Some(Verdict::Down(How::Silent)));
    let over = Say::Over(Over::from(of(TARGET, 1)));
    for now in [now, at(90)] {
        let all = orderer.tick(&guard(false), now);
        assert_eq!(says_over(&all).map(|over| over.boot), Some(of(TARGET, 1)));
    }
    // Another member, and one that was away.
    let mut member = member();
    member.hear(TARGET, &of_machine(5, 1, 10), at(10));
    member.hear(TARGET, &of_machine(6, 2, 3), at(60));
    assert_eq!(member.strangers().count(), 1);
    assert_eq!(
        member.hear(2, &Say::Over(Over::from(of(TARGET, 9))), at(61)),
        []
    );
    member.hear(TARGET, &of_machine(6, 2, 4), at(61));
    assert_eq!(member.strangers().count(), 1, "another boot is over");
    assert_eq!(member.hear(2, &over, at(62)), [Do::Keep]);
    assert_eq!(member.hear(2, &over, at(62)), [], "said again");
    assert_eq!(
        member.hear(TARGET, &of_machine(6, 2, 5), at(63)),
        [Do::Keep]
    );
    assert_eq!(member.strangers().count(), 0);
    assert!(member.is_heard(TARGET));
}

#[test]
fn the_last_words_of_a_boot_are_not_those_of_the_one_that_came_back_too_fast_to_be_missed() {
    let heard_of = |members: &[&[Node]], ring: Option<&[Node]>| {
        let mut member = member();
        member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
        // All at once, as to a program that stood still meanwhile.
        for members in members {
            member.members(members.iter().copied().collect(), at(11));
        }
        if let Some(ring) = ring {
            member.ring(ring.iter().copied().collect());
        }
        member.promise_of(TARGET).is_some()
    };
    assert!(heard_of(&[&[1, 2, 3]], Some(&[1, 2, 3])));
    assert!(heard_of(&[&[1, 2]], Some(&[1, 2])), "it left with its node");
    // Its pool is back, or its corosync alone.
    assert!(!heard_of(&[&[1, 2], &[1, 2, 3]], None));
    assert!(!heard_of(&[&[1, 2]], Some(&[1, 2, 3])));
}

#[test]
fn a_name_means_one_node_or_the_reason_is_said() {
    let mut member = ordered();
    assert_eq!(node_of(&member, "h3"), Ok(TARGET));
    let why = node_of(&member, "h9").expect_err("none");
    assert!(why.starts_with("h9: no host of this name"), "{why}");
    // It moves to another number while the other is silent.
    member.members(BTreeSet::from([1, 2, 4]), at(12));
    member.ring(BTreeSet::from([1, 2, 4]));
    let fourth = |boot: u8, s: u64| {
        Say::Beat(Beat {
            name: "h3".to_owned(),
            ..heard(4, boot, s)
        })
    };
    member.hear(4, &fourth(1, 13), at(13));
    let why = node_of(&member, "h3").expect_err("two");
    assert!(why.contains("nodes 3, 4 have this name"), "{why}");
    for node in [1, 2] {
        member.hear(node, &refused(last()), at(13));
    }
    let down = Some(Verdict::Down(How::Silent));
    assert_eq!(member.judge(TARGET, at(60)), down);
    assert_eq!(node_of(&member, "h3"), Ok(4), "the other is down");
    // That one is fenced, too.
    member.order(4, at(61)).expect("given");
    member.ring(BTreeSet::from([1, 2]));
    let echo = Echo {
        of: of(4, 1),
        sent: 13 * NS_PER_S,
    };
    let last = Some(Last {
        echo,
        promise_ms: Some(26_000),
    });
    for node in [1, 2] {
        let refused = Say::Refused {
            of: 4,
            last,
            to: ME,
            number: 61 * NS_PER_S,
        };
        member.hear(node, &refused, at(62));
    }
    assert_eq!(member.judge(4, at(120)), down);
    let why = node_of(&member, "h3").expect_err("both");
    assert!(why.contains("nodes 3, 4 had this name"), "{why}");
}

#[test]
fn members_of_older_and_newer_versions_are_heard_and_not_said_to_be_down() {
    assert_eq!(Say::KINDS.len(), 6);
    let boot = of(TARGET, 1).boot;
    let beat = |s: u64, more: &str| {
        let text = format!(
            r#"{{"beat":{{"name":"h3","boot":"{boot}","sent":{},"up_ms":{},"promise_ms":null,"echoes":[]{more}}}}}"#,
            s * NS_PER_S,
            s * 1_000,
        );
        serde_json::from_str::<Say>(&text).expect("a beat")
    };
    for more in ["", r#","colour":{"red":1}"#] {
        let mut member = member();
        member.hear(TARGET, &beat(10, more), at(10));
        assert!(member.is_heard(TARGET), "{more}");
        member.order(TARGET, at(11)).expect("given");
        let older = format!(
            r#"{{"refused":{{"of":3,"last":{{"node":3,"boot":"{boot}","sent":{},"promise_ms":null}}}}}}"#,
            10 * NS_PER_S
        );
        let older: Say = serde_json::from_str(&older).expect("a refusal");
        member.hear(2, &older, at(12));
        member.hear(ME, &older, at(12));
        member.members(BTreeSet::from([1, 2]), at(13));
        member.ring(BTreeSet::from([1, 2]));
        member.hear(2, &older, at(14));
        assert_eq!(waits(&mut member, 9_000), Wait::Promise, "{more}");
    }
}

#[test]
fn a_machine_is_another_node_once_it_is_no_more_the_one_that_it_was() {
    let as_fourth = |s: u64| {
        Say::Beat(Beat {
            machine: Some(Uuid::from_u128(5)),
            ..heard(4, 1, s)
        })
    };
    let names = |member: &Member| member.names().map(|(node, _)| node).collect::<Vec<_>>();
    let mut member = member();
    let all = BTreeSet::from([1, 2, 3, 4]);
    member.ring(all.clone());
    member.members(all, at(9));
    member.hear(TARGET, &of_machine(5, 1, 10), at(10));
    // It is there still: a copy of its id.
    member.hear(4, &as_fourth(11), at(11));
    assert_eq!(names(&member), [2, 3, 4]);
    member.members(BTreeSet::from([1, 2, 4]), at(12));
    member.hear(4, &as_fourth(12), at(12));
    assert_eq!(names(&member), [2, 4]);
    // The same boot is the same machine, also where it does not say so any more.
    let unsaid = Say::Beat(heard(4, 1, 13));
    member.hear(4, &unsaid, at(13));
    assert_eq!(member.strangers().count(), 0);
    member.hear(4, &Say::Beat(heard(4, 2, 1)), at(14));
    assert_eq!(member.strangers().count(), 1);
}

#[test]
fn a_boot_that_may_have_begun_before_the_order_is_not_taken_for_a_later_one() {
    for (up_s, told) in [
        (7, Verdict::Down(How::Rebooted)),
        (8, Verdict::Failed(Failed::OtherBoot)),
    ] {
        let mut order = Order::new(of(TARGET, 1), at(10).at);
        order.hear(TARGET, &heard(TARGET, 2, up_s), at(20).at);
        assert_eq!(order.judge(&votes(&[1, 2], 0), at(20).at), told, "{up_s}");
    }
}

/// The target's boot, as the fourth node.
fn as_fourth(s: u64) -> Say {
    Say::Beat(Beat {
        name: "h3".to_owned(),
        boot: of(TARGET, 1).boot,
        ..heard(4, 1, s)
    })
}

#[test]
fn a_host_that_comes_back_as_another_node_in_the_same_boot_is_the_same_host() {
    for says_machine in [true, false] {
        let machine = says_machine.then(|| Uuid::from_u128(77));
        let with = |say: Say| match say {
            Say::Beat(beat) => Say::Beat(Beat { machine, ..beat }),
            other => other,
        };
        let mut member = member();
        member.hear(TARGET, &with(Say::Beat(heard(TARGET, 1, 10))), at(10));
        member.order(TARGET, at(11)).expect("given");
        member.hear(ME, &order_for(of(TARGET, 1)), at(11));
        for node in [1, 2] {
            member.hear(node, &refused(last()), at(12));
        }
        member.ring(BTreeSet::from([1, 2, 4]));
        member.members(BTreeSet::from([1, 2, 4]), at(14));
        member.votes(votes(&[1, 2, 4], 0), at(14));
        for s in 15..60 {
            member.hear(4, &with(as_fourth(s)), at(s));
            let told = member.judge(TARGET, at(s));
            assert!(!matches!(told, Some(Verdict::Down(_))), "{s}: {told:?}");
            let all = member.tick(&guard(false), at(s));
            let echoes = &beat_of(&all).echoes;
            let is_echoed = echoes.iter().any(|echo| echo.of.node == 4);
            assert!(!is_echoed, "{s}");
        }
        assert!(!member.is_down(TARGET));
        // Another boot of the node that it was says nothing of it, and ends nothing.
        member.members(BTreeSet::from([1, 2, 3, 4]), at(60));
        member.hear(TARGET, &Say::Beat(heard(TARGET, 2, 2)), at(61));
        assert!(!matches!(
            member.judge(TARGET, at(62)),
            Some(Verdict::Down(_))
        ));
        member.hear(4, &with(as_fourth(62)), at(62));
        let mut later = self::with(Terms::default(), &member.kept());
        later.ring(BTreeSet::from([1, 2, 3, 4]));
        later.members(BTreeSet::from([1, 2, 3, 4]), at(63));
        later.hear(4, &with(as_fourth(63)), at(63));
        for member in [&mut member, &mut later] {
            let all = member.tick(&guard(false), at(64));
            let echoes = &beat_of(&all).echoes;
            assert!(!echoes.iter().any(|echo| echo.of.node == 4));
            // Nobody waits for it any more.
            let withdrawn = Say::Withdrawn(of(TARGET, 1));
            assert_eq!(member.hear(ME, &withdrawn, at(64)), [Do::Keep]);
            let all = member.tick(&guard(false), at(65));
            assert!(beat_of(&all).echoes.iter().any(|echo| echo.of.node == 4));
        }
    }
}

#[test]
fn what_a_host_promised_as_another_node_is_not_known_any_more_where_it_took_that_back() {
    let mut member = member();
    member.hear(TARGET, &Say::Beat(heard(TARGET, 1, 10)), at(10));
    assert!(member.promise_of(TARGET).is_some());
    member.ring(BTreeSet::from([1, 2, 4]));
    member.members(BTreeSet::from([1, 2, 4]), at(11));
    member.hear(4, &as_fourth(12), at(12));
    assert_eq!(member.promise_of(TARGET), None);
    assert!(member.order(TARGET, at(13)).is_err());
}

#[test]
fn an_order_for_this_boot_as_another_node_withholds_and_its_confirmation_counts() {
    let mut target = member();
    let as_fourth = BootOf {
        node: 4,
        ..of(ME, 1)
    };
    let all = target.hear(2, &order_for(as_fourth), at(10));
    assert_eq!(all, [Do::Keep, Do::Trigger]);
    assert!(target.is_fenced());
    let mut orderer = ordered();
    orderer.ring(BTreeSet::from([1, 2, 4]));
    orderer.members(BTreeSet::from([1, 2, 4]), at(13));
    let by = BootOf {
        node: 4,
        ..of(TARGET, 1)
    };
    orderer.hear(4, &self::as_fourth(13), at(13));
    let said = Confirmed {
        by,
        at: 13 * NS_PER_S,
        bound_ms: BOUND_MS,
    };
    orderer.hear(4, &Say::Confirmed(said), at(13));
    orderer.ring(BTreeSet::from([1, 2]));
    let down = Some(Verdict::Down(How::Withheld));
    assert_eq!(orderer.judge(TARGET, at(29)), down);
}
