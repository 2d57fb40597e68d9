//! How long a downstream HTTP connection may take over what it does: a head, silence, not reading, living. Looks at the
//! connection now and then instead of setting a timer for each request: a limit is kept to within a quarter of the
//! shortest of them.

use std::time::Duration;

use sidegate_codes::Code;
use tokio::time::{Instant, sleep};

use super::guard::Wire;
use crate::{config::Limits, error::Error, telemetry::Exchange};

/// The times of one connection.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    limits: &'a Limits,
    wire: &'a Wire,
    exchange: &'a Exchange,
    between_looks: Duration,
    ages: Instant,
    /// What was seen last, and since when it is so.
    head: Since<Option<u64>>,
    idle: Since<Option<u64>>,
    stalled: Since<Option<u64>>,
    /// Since when no new requests are taken.
    retired: Option<Instant>,
}

/// What a connection is to do.
#[derive(Debug)]
pub(super) enum Due {
    /// Finish what is in flight and take no more.
    Retire,
    /// Let go of what it needs for requests alone: it has been silent from one look to the next.
    Rest,
    /// End, since nothing is in flight any more.
    Leave,
    /// End at once.
    End(Error),
}

/// A state and the moment it began.
#[derive(Debug)]
struct Since<T> {
    state: T,
    began: Instant,
}

impl<'a> Pace<'a> {
    /// Of a connection that begins now and takes new requests for `age`.
    pub(super) fn new(limits: &'a Limits, wire: &'a Wire, exchange: &'a Exchange, age: Duration) -> Self {
        let now = Instant::now();
        let shortest = [
            limits.head_timeout,
            limits.keep_alive_timeout,
            limits.write_timeout,
            limits.connection_age,
            limits.connection_grace,
            MOST_BETWEEN_LOOKS * 4,
        ];
        Self {
            limits,
            wire,
            exchange,
            between_looks: shortest.into_iter().min().unwrap_or(MOST_BETWEEN_LOOKS) / 4,
            ages: now.checked_add(age).unwrap_or(now),
            head: Since { state: None, began: now },
            idle: Since { state: None, began: now },
            stalled: Since { state: None, began: now },
            retired: None,
        }
    }

    /// Waits for the next look. Cancelled and called again, it waits anew: whoever does that has been busy.
    pub(super) async fn pass(&self) {
        sleep(self.between_looks).await;
    }

    /// What is due now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let (limits, wire) = (self.limits, self.wire);
        if wire.is_closing() {
            // `Lingering` has a time of its own.
            return None;
        }
        let begun = wire.is_in_head().then(|| wire.heads());
        if begun.is_some() && self.head.lasted(begun, now) >= limits.head_timeout {
            return Some(Due::End(Error::expired(Code::HeadTimeout, "limits.headTimeout")));
        }
        let is_waiting = self.exchange.unread.get() > 0 || wire.is_blocked();
        let progress = is_waiting.then(|| wire.progress());
        if is_waiting && self.stalled.lasted(progress, now) >= limits.write_timeout {
            return Some(Due::End(Error::expired(Code::WriteStalled, "limits.writeTimeout")));
        }
        if let Some(retired) = self.retired {
            let since = now.duration_since(retired);
            if self.exchange.in_flight.get() == 0 && since >= limits.head_timeout {
                // An HTTP/2 peer that does not answer is not waited for.
                return Some(Due::Leave);
            }
            let is_over = since >= limits.connection_grace;
            return is_over.then(|| Due::End(Error::expired(Code::TooOld, "limits.connectionGrace")));
        }
        let requests = (self.exchange.in_flight.get() == 0 && begun.is_none()).then(|| wire.requests());
        let silence = if requests.is_some() { self.idle.lasted(requests, now) } else { Duration::ZERO };
        if silence >= limits.keep_alive_timeout && requests.is_some() || now >= self.ages {
            self.retired = Some(now);
            return Some(Due::Retire);
        }
        if begun.is_none() {
            self.head.state = None;
        }
        if !is_waiting {
            self.stalled.state = None;
        }
        if requests.is_none() {
            self.idle.state = None;
        }
        (silence > Duration::ZERO && !is_waiting && wire.is_at_rest()).then_some(Due::Rest)
    }
}

impl<T: PartialEq> Since<T> {
    /// How long it has been in `state`.
    fn lasted(&mut self, state: T, now: Instant) -> Duration {
        if self.state != state {
            *self = Self { state, began: now };
        }
        now.duration_since(self.began)
    }
}

const MOST_BETWEEN_LOOKS: Duration = Duration::from_millis(2_500);
