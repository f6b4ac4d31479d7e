// SPDX-License-Identifier: GPL-2.0-only
//! What is made of xenstored's answers, and of those that are missing.

use super::*;
use std::os::unix::net::UnixStream;

fn pair() -> (Xenstore, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("socket pair");
    ours.set_nonblocking(true).expect("non-blocking");
    (Xenstore::over(OwnedFd::from(ours)), theirs)
}

fn answer(kind: u32, request: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short");
    let mut bytes: Vec<u8> = [kind, request, 0, len]
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .collect();
    bytes.extend(payload);
    bytes
}

#[test]
fn answers_are_matched_to_their_requests_and_late_ones_thrown_away() {
    let (mut xenstore, mut daemon) = pair();
    let mut bytes = answer(XS_READ, 77, b"late");
    bytes.extend(answer(XS_READ, 1, b"guest one"));
    daemon.write_all(&bytes).expect("write");
    let name = xenstore.read("/local/domain/1/name", Duration::from_secs(5));
    assert_eq!(name.expect("a name"), "guest one");
    let mut request = [0; 37];
    daemon.read_exact(&mut request).expect("the request");
    assert_eq!(&request[16..], b"/local/domain/1/name\0");
}

#[test]
fn refusals_silence_and_nonsense_are_told_apart() {
    let (mut xenstore, mut daemon) = pair();
    daemon
        .write_all(&answer(XS_ERROR, 1, b"ENOENT\0"))
        .expect("write");
    let refused = xenstore.read("/nowhere", Duration::from_secs(5));
    assert!(matches!(refused, Err(XenstoreError::Refused(e)) if e == "ENOENT"));
    for _ in 0..2 {
        let silence = xenstore.read("/nowhere", Duration::from_millis(20));
        assert!(matches!(silence, Err(XenstoreError::Timeout)));
    }
    // The second was not sent: the first is still without an answer.
    assert_eq!(xenstore.request, 2);
    daemon.write_all(&[0xff; 64]).expect("write");
    let nonsense = xenstore.read("/nowhere", Duration::from_secs(5));
    assert!(matches!(nonsense, Err(XenstoreError::Malformed)));
}

#[test]
fn events_that_come_between_answers_are_kept_in_order_and_bounded() {
    let (mut xenstore, mut daemon) = pair();
    let mut bytes = answer(XS_WATCH_EVENT, 0, b"@introduceDomain\0one\0");
    // As Linux answers: with the type, without the number.
    bytes.extend(answer(XS_WATCH, 0, b"OK\0"));
    bytes.extend(answer(XS_WATCH_EVENT, 0, b"@releaseDomain\0two\0"));
    bytes.extend(answer(XS_READ, 2, b"guest"));
    daemon.write_all(&bytes).expect("write");
    let long = Duration::from_secs(5);
    xenstore
        .watch("@introduceDomain", "one", long)
        .expect("watched");
    let mut request = [0; 37];
    daemon.read_exact(&mut request).expect("the request");
    assert_eq!(request[..4], XS_WATCH.to_ne_bytes());
    assert_eq!(&request[16..], b"@introduceDomain\0one\0");
    assert_eq!(xenstore.read("/name", long).expect("a name"), "guest");
    for expected in [("@introduceDomain", "one"), ("@releaseDomain", "two")] {
        let event = xenstore.next_event(long).expect("sound").expect("kept");
        assert_eq!((event.path.as_str(), event.token.as_str()), expected);
    }
    assert_eq!(xenstore.next_event(Duration::ZERO).expect("sound"), None);
    for _ in 0..100 {
        let event = answer(XS_WATCH_EVENT, 0, b"@releaseDomain\0two\0");
        daemon.write_all(&event).expect("write");
    }
    daemon.write_all(&answer(XS_READ, 3, b"x")).expect("write");
    xenstore.read("/name", long).expect("a name");
    assert_eq!(xenstore.events.len(), EVENTS_KEPT);
    assert_eq!(xenstore.lost_events(), 100 - EVENTS_KEPT as u64);
}

#[test]
fn an_answer_to_a_request_that_was_given_up_is_taken_once_it_comes() {
    let (mut xenstore, mut daemon) = pair();
    let short = Duration::from_millis(20);
    xenstore.read("/name", short).expect_err("silence");
    daemon
        .write_all(&answer(XS_READ, 77, b"another"))
        .expect("write");
    assert_eq!(xenstore.next_event(short).expect("sound"), None);
    assert!(xenstore.outstanding, "that was no answer to it");
    daemon
        .write_all(&answer(XS_READ, 1, b"late"))
        .expect("write");
    assert_eq!(xenstore.next_event(short).expect("sound"), None);
    assert!(!xenstore.outstanding);
    daemon
        .write_all(&answer(XS_WATCH, 0, b"OK\0"))
        .expect("write");
    xenstore
        .watch("/name", "one", Duration::from_secs(5))
        .expect("watched");
    assert!(!xenstore.outstanding, "Linux has answered that");
}

#[test]
fn an_answer_is_as_long_as_a_page_at_most_and_of_the_kind_that_was_asked_for() {
    let long = Duration::from_secs(5);
    let page = vec![b'x'; PAYLOAD_MAX];
    let asked = |kind, payload: &[u8]| {
        let (mut xenstore, mut daemon) = pair();
        daemon.write_all(&answer(kind, 1, payload)).expect("write");
        xenstore.read("/name", long)
    };
    let whole = asked(XS_READ, &page).expect("a value");
    assert_eq!(whole.len(), PAYLOAD_MAX);
    for (kind, payload) in [
        (XS_READ, &[&page[..], b"x"].concat()[..]),
        (XS_UNWATCH, b"OK"),
    ] {
        let error = asked(kind, payload).expect_err("malformed");
        assert!(matches!(error, XenstoreError::Malformed), "{error}");
    }
}

#[test]
fn a_closed_connection_is_an_error_not_a_wait() {
    let (mut xenstore, daemon) = pair();
    drop(daemon);
    let error = xenstore.next_event(Duration::from_secs(60));
    assert!(matches!(error, Err(XenstoreError::Io(_))));
    // One that leaves a request unread: the read itself fails.
    let (mut xenstore, daemon) = pair();
    let short = Duration::from_millis(20);
    xenstore.read("/name", short).expect_err("silence");
    drop(daemon);
    let error = xenstore.read("/name", Duration::from_secs(60));
    let error = error.expect_err("closed");
    assert!(error.to_string().starts_with("/dev/xen/xenbus: "));
    let reset = io::ErrorKind::ConnectionReset;
    assert!(
        matches!(&error, XenstoreError::Io(io) if io.kind() == reset),
        "and not the next read's end of the stream: {error}"
    );
}

#[test]
fn an_error_says_what_xenstored_did() {
    let told = |error: XenstoreError| error.to_string();
    let refused = told(XenstoreError::Refused("EACCES".to_owned()));
    assert_eq!(refused, "xenstored answers EACCES");
    let others = [
        (XenstoreError::Timeout, "xenstored does not answer"),
        (XenstoreError::Malformed, "xenstored's answer is malformed"),
    ];
    for (error, text) in others {
        assert_eq!(told(error), text);
    }
}
