// SPDX-License-Identifier: GPL-2.0-only
//! Who leads: the eldest member of the partition that has quorum.
//!
//! In: the members, what each has announced, and whether there is quorum. Out: one member, or nobody. Pure, and the same on
//! every member that knows the same, so nobody is elected.
//!
//! Age is not a time, as clocks differ: a member that joins is younger by one than the youngest that has announced
//! itself, and the first is 1. Members of equal age, as after a partition, go by their node's number. While a member has
//! not announced its age nobody leads, lest two do; after [`PATIENCE_NS`] it counts as the youngest.

use crate::sys::clock::NS_PER_S;

/// A member has so long to announce its age.
pub const PATIENCE_NS: u64 = 5 * NS_PER_S;

/// A member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its node's number.
    pub node: u32,
    /// Its age; 0: it has not announced it.
    pub joined: u64,
    /// For so long it has been a member here.
    pub member_ns: u64,
}

/// The leader. None: there is no quorum, or nobody knows yet.
#[must_use]
pub fn leader(members: &[Candidate], quorate: bool) -> Option<u32> {
    let unknown = |member: &Candidate| member.joined == 0 && member.member_ns < PATIENCE_NS;
    if !quorate || members.iter().any(unknown) {
        return None;
    }
    let announced = members.iter().filter(|member| member.joined != 0);
    let eldest = announced.min_by_key(|member| (member.joined, member.node));
    eldest.map(|member| member.node)
}

/// The age of a member that joins those.
#[must_use]
pub fn age_after(members: &[Candidate]) -> u64 {
    let youngest = members.iter().map(|member| member.joined).max();
    youngest.unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u32, joined: u64) -> Candidate {
        Candidate {
            node,
            joined,
            member_ns: 0,
        }
    }

    #[test]
    fn the_eldest_leads_whatever_the_order_and_nobody_without_quorum() {
        let members = [member(3, 2), member(1, 4), member(2, 2)];
        assert_eq!(leader(&members, true), Some(2));
        assert_eq!(leader(&[members[1], members[0]], true), Some(3));
        assert_eq!(leader(&members, false), None);
        assert_eq!(leader(&[], true), None);
        assert_eq!(age_after(&members), 5);
    }

    #[test]
    fn nobody_leads_beside_a_member_that_has_not_said_how_old_it_is() {
        let mut members = [member(1, 1), member(2, 0)];
        assert_eq!(leader(&members, true), None);
        members[1].member_ns = PATIENCE_NS;
        assert_eq!(leader(&members, true), Some(1));
        members[0].joined = 0;
        members[0].member_ns = PATIENCE_NS;
        assert_eq!(leader(&members, true), None);
    }
}
