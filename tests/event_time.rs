// SPDX-License-Identifier: GPL-2.0-only
//! Times as events have them, and as people may write them.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // how tests fail

use xenwarden::event::{InvalidTimestamp, Timestamp};

#[test]
fn times_are_written_as_rfc_3339_and_read_back() {
    let cases = [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399_000_001, "2000-02-28T23:59:59.000001Z"),
        (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
        (1_795_449_066_250_000, "2026-11-23T15:51:06.250000Z"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
    ];
    for (us, text) in cases {
        assert_eq!(Timestamp(us).to_string(), text);
        assert_eq!(text.parse(), Ok(Timestamp(us)));
    }
}

#[test]
fn a_time_may_have_an_offset_a_space_or_small_letters() {
    let cases = [
        "2026-11-23T15:51:06.25Z",
        "2026-11-23t15:51:06.25z",
        "2026-11-23 15:51:06.25",
        "2026-11-23T16:51:06.25+01:00",
        "2026-11-23T10:21:06.25-05:30",
    ];
    for text in cases {
        assert_eq!(text.parse(), Ok(Timestamp(1_795_449_066_250_000)), "{text}");
    }
}

#[test]
fn what_is_no_time_is_refused() {
    let cases = [
        "",
        "2026",
        "2026-02-30T00:00:00Z",
        "2026-1-1T24:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:0+Z",
        "x-01-01T00:00:00Z",
        "99999999999999999999-01-01T00:00:00Z",
        "2026-01-01T00:00:00.+1Z",
    ];
    for text in cases {
        assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
    }
}
