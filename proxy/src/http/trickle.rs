//! Whether the body of a request comes fast enough. Told what came and when nothing did, it says whether it is too slow: less
//! than `limits.bodyRate` over `limits.bodyTimeout`. Only waits for the downstream count. While the upstream takes nothing,
//! the body is not asked for more, and the clock stands.

use std::{pin::Pin, task::Context, time::Duration};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::Limits;

pin_project! {
    /// The pace of one body.
    #[derive(Debug)]
    pub(super) struct Trickle {
        window: Duration,
        // Of each window, at least.
        least: u64,
        // In this window.
        bytes: u64,
        waited: Duration,
        // Since when it is waited for, if it is now.
        since: Option<Instant>,
        // Wakes whoever waits, when this window may be over.
        #[pin]
        look: Sleep,
    }
}

impl Trickle {
    /// Of a body that begins now.
    pub(super) fn new(limits: &Limits) -> Self {
        let window = limits.body_timeout;
        let least = u128::from(limits.body_rate).saturating_mul(window.as_millis()) / 1_000;
        Self {
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX).max(1),
            bytes: 0,
            waited: Duration::ZERO,
            since: None,
            look: sleep(window),
        }
    }

    /// This much came. What is late but there is not judged: nobody waits for it any more.
    pub(super) fn came(self: Pin<&mut Self>, bytes: u64) {
        let this = self.project();
        *this.bytes = this.bytes.saturating_add(bytes);
        if let Some(since) = this.since.take() {
            *this.waited = this.waited.saturating_add(since.elapsed());
        }
    }

    /// Nobody has asked for more in between: that was no wait.
    pub(super) fn rested(self: Pin<&mut Self>) {
        *self.project().since = None;
    }

    /// Nothing is there: whether that is so too often. Else the task is woken when it has to be asked again.
    pub(super) fn is_too_slow(self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        let mut this = self.project();
        loop {
            let now = Instant::now();
            let since = *this.since.get_or_insert(now);
            let waited = this.waited.saturating_add(now.duration_since(since));
            if waited >= *this.window {
                if *this.bytes < *this.least {
                    return true;
                }
                (*this.bytes, *this.waited, *this.since) = (0, Duration::ZERO, Some(now));
                continue;
            }
            let left = this.window.saturating_sub(waited);
            if this.look.is_elapsed() {
                this.look.as_mut().reset(now.checked_add(left).unwrap_or(now));
            }
            if this.look.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(20);

    fn trickle() -> Pin<Box<Trickle>> {
        let limits = Limits { body_rate: 10, body_timeout: WINDOW, ..Limits::default() };
        Box::pin(Trickle::new(&limits))
    }

    /// Waits for a piece that comes after `time`; whether it was given up before.
    async fn waits(body: &mut Pin<Box<Trickle>>, time: Duration, bytes: u64) -> bool {
        let piece = sleep(time);
        tokio::pin!(piece);
        poll_fn(|cx| {
            if piece.as_mut().poll(cx).is_ready() {
                body.as_mut().came(bytes);
                return Poll::Ready(false);
            }
            if body.as_mut().is_too_slow(cx) { Poll::Ready(true) } else { Poll::Pending }
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_which_nothing_comes_is_given_up_when_its_time_is_over() {
        let (mut body, begun) = (trickle(), Instant::now());
        assert!(waits(&mut body, WINDOW * 10, 0).await);
        assert!((WINDOW..WINDOW + Duration::from_millis(10)).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_beginning_buys_no_trickle_for_later() {
        let mut body = trickle();
        assert!(!waits(&mut body, Duration::from_secs(1), 1 << 30).await);
        let begun = Instant::now();
        while !waits(&mut body, Duration::from_secs(1), 1).await {
            assert!(begun.elapsed() < WINDOW * 3, "it trickles on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_at_its_pace_may_take_as_long_as_it_likes() {
        let mut body = trickle();
        for _ in 0..1_000 {
            assert!(!waits(&mut body, Duration::from_secs(5), 51).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_upstream_takes_nothing_does_not_count() {
        let mut body = trickle();
        for _ in 0..30 {
            assert!(!waits(&mut body, Duration::from_millis(500), 1).await);
            // Not asked for more.
            sleep(WINDOW).await;
        }
        assert!(waits(&mut body, WINDOW, 0).await, "15 seconds of waiting were counted");
    }

    #[tokio::test(start_paused = true)]
    async fn time_between_two_upstreams_does_not_count() {
        let mut body = trickle();
        for _ in 0..10 {
            let asked = poll_fn(|cx| Poll::Ready(body.as_mut().is_too_slow(cx)));
            assert!(!asked.await);
            sleep(WINDOW).await;
            body.as_mut().rested();
        }
    }
}
