// SPDX-License-Identifier: GPL-2.0-only
//! Room for what is remembered of each domid, as far as domids were used.
//!
//! In: how many were used. Out: a vector that is as long at least. Allocates; no part of the kick path.

/// Domids that room is made for at once: the next domain is likely to come.
const ROOM: usize = 64;

/// Makes room for the first `used` domids of `most`, in all of which but those that were there is `empty`. To the size, as it may be
/// many bytes.
pub fn make<T: Clone>(kept: &mut Vec<T>, used: usize, most: usize, empty: T) {
    if used > kept.len() {
        let room = used.next_multiple_of(ROOM).min(most);
        kept.reserve_exact(room.saturating_sub(kept.len()));
        kept.resize(room, empty);
    }
}

#[cfg(test)]
mod tests {
    use super::make;

    #[test]
    fn room_is_made_for_some_more_than_were_used_but_for_no_more_than_there_may_be() {
        let mut kept = Vec::new();
        for (used, most, length) in [(0, 100, 0), (1, 100, 64), (64, 100, 64), (65, 100, 100)] {
            make(&mut kept, used, most, 7);
            assert_eq!(kept.len(), length, "{used}");
        }
        assert_eq!(kept.capacity(), 100);
        make(&mut kept, 3, 100, 9);
        assert!(kept.iter().all(|kept| *kept == 7), "what is there stays");
    }
}
