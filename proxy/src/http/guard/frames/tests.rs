use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

fn opened(now: Instant) -> Frames {
    let mut frames = Frames::new(10, 2, now);
    frames.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || now).unwrap();
    frames
}

#[test]
fn what_carries_nothing_of_a_request_has_a_budget_that_comes_back() {
    let start = Instant::now();
    let empty_data = frame(0x0, 0, 1, b"");
    for kind in [0x2, 0x4, 0x6, 0x8, 0x9, 0x77] {
        let mut frames = opened(start);
        let one = frame(kind, 0, 0, &[0; 8]);
        frames.received(&one.repeat(100), || start).unwrap_or_else(|flood| panic!("{kind}: {flood}"));
        assert_eq!(frames.received(&one, || start), Err(Flood::Control), "{kind}");
        let later = start + Duration::from_secs(1);
        assert_eq!(frames.received(&one.repeat(10), || later), Ok(()), "{kind}");
        assert_eq!(frames.received(&empty_data, || later), Err(Flood::Control), "{kind}");
    }
}

#[test]
fn requests_and_their_bodies_cost_nothing() {
    let start = Instant::now();
    let mut frames = opened(start);
    let request =
        [frame(0x1, 0x4, 1, &[0; 40]), frame(0x0, 0, 1, &[0; 100]), frame(0x0, 0x1, 1, b"")].concat();
    assert_eq!(frames.received(&request.repeat(10_000), || start), Ok(()));
}

#[test]
fn resets_count_whoever_is_made_to_send_them() {
    let start = Instant::now();
    let cancelled = frame(0x3, 0, 1, &CANCEL.to_be_bytes());
    let mut frames = opened(start);
    frames.received(&cancelled.repeat(20), || start).unwrap();
    assert_eq!(frames.received(&cancelled, || start), Err(Flood::Resets));

    let mut frames = opened(start);
    let broken = std::cell::Cell::new(0);
    let reset = frame(0x3, 0, 1, &PROTOCOL_ERROR.to_be_bytes());
    let said = |what| broken.set(broken.get() + u32::from(what == Said::StreamBroken));
    frames.sent(&reset.repeat(20), || start, said).unwrap();
    assert_eq!(frames.sent(&reset, || start, said), Err(Flood::Resets));
    assert_eq!(broken.get(), 21);
    let own = frame(0x3, 0, 1, &NO_ERROR.to_be_bytes());
    assert_eq!(
        frames.sent(&own, || start, said),
        Ok(()),
        "an answer before the end of its request is no fault"
    );
}

#[test]
fn window_updates_are_free_as_far_as_data_was_sent() {
    let start = Instant::now();
    let mut frames = opened(start);
    let update = frame(0x8, 0, 0, &[0, 0, 1, 0]);
    frames.sent(&frame(0x0, 0, 1, &[0; 4_096]), || start, |_| {}).unwrap();
    assert_eq!(frames.received(&update.repeat(104), || start), Ok(()));
    assert_eq!(frames.received(&update, || start), Err(Flood::Control));
}

#[test]
fn what_h2_refuses_is_read_from_what_it_sends() {
    let start = Instant::now();
    let sent = [
        frame(0x1, 0x5, 3, &[0; 8]),
        frame(0x3, 0, 3, &PROTOCOL_ERROR.to_be_bytes()),
        frame(0x3, 0, 5, &REFUSED_STREAM.to_be_bytes()),
        frame(0x1, 0x5, 7, &[0; 8]),
        frame(0x3, 0, 9, &PROTOCOL_ERROR.to_be_bytes()),
        frame(0x7, 0, 0, &[[0; 4], ENHANCE_YOUR_CALM.to_be_bytes()].concat()),
        frame(0x7, 0, 0, &[0; 8]),
    ]
    .concat();
    let mut heard = Vec::new();
    Frames::new(10, 10, start).sent(&sent, || start, |said| heard.push(said)).unwrap();
    let expected =
        [Said::HeadTooLarge, Said::StreamRefused, Said::StreamBroken, Said::GoAway(ENHANCE_YOUR_CALM)];
    assert_eq!(heard, expected);
}

proptest! {
    #[test]
    fn every_split_of_the_bytes_says_the_same(
        kinds in prop::collection::vec((0u8..11, any::<u8>(), 0usize..20), 0..40),
        size in 1usize..30,
    ) {
        let start = Instant::now();
        let bytes: Vec<u8> = kinds.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, 1, &vec![1; *length])).collect();
        let (mut whole, mut heard) = (Frames::new(1, 1, start), Vec::new());
        let at_once = whole.sent(&bytes, || start, |said| heard.push(said));
        let (mut split, mut heard_in_parts) = (Frames::new(1, 1, start), Vec::new());
        let in_parts = bytes.chunks(size).try_for_each(|part| split.sent(part, || start, |said| heard_in_parts.push(said)));
        prop_assert_eq!(at_once, in_parts);
        prop_assert_eq!(heard, heard_in_parts);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let start = Instant::now();
        let mut frames = Frames::new(1, 1, start);
        // Whatever it says of them.
        let _ = frames.received(&bytes, || start);
        let _ = frames.sent(&bytes, || start, |_| {});
    }
}
