//! Whether a request is tried again, where and when: how a try ended goes in, the endpoint for the next one comes out,
//! or why there is none. Each further try is paid from the service's budget and counted by its reason and its end.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep};

use crate::{
    balance::{Calls, Key, Pick, Picked},
    config::Retries,
    error::Error,
    telemetry::metrics::RetryLabels,
};

/// How a try failed, as far as it matters for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A breaker of the endpoint refused it here.
    Full,
    /// Nothing of it was sent.
    Unsent,
    /// The endpoint has told that it did not process it: RFC 9113 §8.7.
    Refused,
    /// The same, since it takes no more on this connection: RFC 9113 §6.8.
    Goodbye,
    /// A connection that had served before ended without a byte of an answer: it was probably being closed.
    Reset,
    /// There was no answer in time.
    Late,
    /// It went wrong after it was sent.
    Broken,
    /// The caller's own part of it broke, or this sidecar refused it.
    Own,
}

/// Why a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    Full,
    Unreachable,
    RefusedStream,
    Reset,
    Timeout,
    Status,
}

/// What became of another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Answered,
    Failed,
    NoBudget,
    NoTime,
}

/// The tries of one request.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    calls: Rc<Calls>,
    rules: &'a Retries,
    /// Until when the answer must have begun.
    deadline: Instant,
    per_try: Option<Duration>,
    is_idempotent: bool,
    made: u32,
    tried: Vec<SocketAddr>,
    /// The only endpoint that may be tried, where the caller has chosen it.
    only: Option<SocketAddr>,
    /// Why the try that runs was made, if it is not the first.
    because: Option<Reason>,
}

/// Why there is no further try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There were as many as there may be, or there is no other endpoint.
    Exhausted,
    /// The budget is spent.
    Budget,
    /// The request's time is over before it could begin.
    Time,
}

/// The time that the tries of a request have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    pub(crate) request: Duration,
    pub(crate) per_try: Option<Duration>,
}

impl<'a> Tries<'a> {
    /// A request begins: it earns its part of the budget.
    pub(crate) fn begin(calls: Rc<Calls>, rules: &'a Retries, time: Time, method: &Method) -> Self {
        let now = Instant::now();
        calls.budget().earn(rules, now);
        Self {
            calls,
            rules,
            deadline: now.checked_add(time.request).unwrap_or(now),
            per_try: time.per_try,
            is_idempotent: is_idempotent(method),
            made: 0,
            tried: Vec::new(),
            only: None,
            because: None,
        }
    }

    /// The same at this endpoint alone, if the caller has chosen one.
    pub(crate) fn at(self, only: Option<SocketAddr>) -> Self {
        Self { only, ..self }
    }

    /// The endpoint of the first try.
    pub(crate) fn first(&mut self, key: Option<Key>) -> Result<Picked, Error> {
        let picked = self.calls.pick(Pick { key, only: self.only, ..Pick::default() })?;
        self.made = 1;
        Ok(picked)
    }

    /// Until when the try that begins now must be answered.
    pub(crate) fn deadline(&self) -> Instant {
        let own = self.per_try.and_then(|time| Instant::now().checked_add(time));
        own.map_or(self.deadline, |own| own.min(self.deadline))
    }

    /// Whether the try that begins now is there because a connection ended as it was used again.
    pub(crate) fn is_after_reset(&self) -> bool {
        self.because == Some(Reason::Reset)
    }

    /// Whether a failed try may be followed by another, and why.
    pub(crate) fn after_fault(&self, fault: Fault) -> Option<Reason> {
        // Without a bound of its own it took all of the request's time.
        fault.reason(self.is_idempotent).filter(|reason| *reason != Reason::Timeout || self.per_try.is_some())
    }

    /// Whether an answer is not passed on but followed by another try, and why.
    pub(crate) fn after_answer(&self, status: StatusCode) -> Option<Reason> {
        let is_wanted =
            self.rules.statuses.contains(&status) && (self.is_idempotent || self.rules.any_method);
        is_wanted.then_some(Reason::Status)
    }

    /// The endpoint of another try, once it is time for it: not `last`, nor one before, if there is any other.
    pub(crate) async fn again(
        &mut self,
        reason: Reason,
        last: SocketAddr,
        key: Option<Key>,
    ) -> Result<Picked, Stop> {
        if self.made >= self.rules.attempts {
            return Err(Stop::Exhausted);
        }
        if !self.tried.contains(&last) {
            self.tried.push(last);
        }
        // Whether there is anywhere to go costs nothing of the budget.
        let mut picked = self.elsewhere(reason, key)?;
        let wait = self.wait(reason);
        let now = Instant::now();
        if now.checked_add(wait).is_none_or(|then| then >= self.deadline) {
            self.count(reason, End::NoTime);
            return Err(Stop::Time);
        }
        if !self.calls.budget().spend(self.rules, now) {
            self.count(reason, End::NoBudget);
            return Err(Stop::Budget);
        }
        if !wait.is_zero() {
            sleep(wait).await;
            picked.begin_again();
        }
        self.made += 1;
        self.because = Some(reason);
        Ok(picked)
    }

    /// The try that runs has ended.
    pub(crate) fn ended(&mut self, is_answered: bool) {
        if let Some(reason) = self.because.take() {
            self.count(reason, if is_answered { End::Answered } else { End::Failed });
        }
    }

    /// What could not be reached is not reached a moment later; elsewhere it may be. The rest may go back.
    fn elsewhere(&self, reason: Reason, key: Option<Key>) -> Result<Picked, Stop> {
        let elsewhere = Pick { key, tried: &self.tried, only: self.only, ejected_too: false };
        let otherwise = match reason {
            // Two of two that are restarted one after the other: the one that is back may still be ejected.
            Reason::Full | Reason::Unreachable => Pick { ejected_too: true, ..elsewhere },
            Reason::RefusedStream | Reason::Reset | Reason::Timeout | Reason::Status => {
                Pick { tried: &[], ..elsewhere }
            }
        };
        let picked = self.calls.pick(elsewhere).or_else(|_| self.calls.pick(otherwise));
        picked.map_err(|_| Stop::Exhausted)
    }

    /// Full jitter: anywhere between nothing and a bound that doubles. The first repetition of what was certainly not
    /// processed does not wait: its trouble is one endpoint's, and it goes to another.
    fn wait(&self, reason: Reason) -> Duration {
        let is_overload = matches!(reason, Reason::Status | Reason::Timeout);
        if self.made <= 1 && !is_overload {
            return Duration::ZERO;
        }
        let doubled = 1_u32.checked_shl(self.made.saturating_sub(1)).unwrap_or(u32::MAX);
        let most = self.rules.backoff.saturating_mul(doubled).min(self.rules.max_backoff);
        most.mul_f64(self.calls.random().share())
    }

    fn count(&self, reason: Reason, end: End) {
        let service = Arc::clone(self.calls.name());
        self.calls.metrics().retries.add(RetryLabels { service, reason, end });
    }
}

impl Fault {
    /// Of a request that was sent, or tried to be, on a connection that had served before or not.
    pub(crate) fn of(error: &hyper::Error, is_reused: bool) -> Self {
        let transport = if is_reused { Self::Reset } else { Self::Broken };
        if error.is_user() {
            return Self::Own;
        }
        match h2_error(error) {
            Some(error) if error.is_io() => transport,
            Some(error) if error.is_remote() => match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => Self::Refused,
                // Said to the streams above the last that was taken, and to no other: RFC 9113 §6.8.
                Some(h2::Reason::NO_ERROR) if error.is_go_away() => Self::Goodbye,
                _ => Self::Broken,
            },
            // This side reset the stream, because the body of the request broke.
            Some(error) if error.is_reset() && !error.is_library() => Self::Own,
            Some(_) => Self::Broken,
            None if error.is_parse() => Self::Broken,
            None => transport,
        }
    }

    /// Why what failed so may be sent again and is processed once, or may be processed twice; if it may.
    pub(crate) fn reason(self, is_idempotent: bool) -> Option<Reason> {
        match self {
            Self::Full => Some(Reason::Full),
            Self::Unsent => Some(Reason::Unreachable),
            Self::Refused | Self::Goodbye => Some(Reason::RefusedStream),
            Self::Reset if is_idempotent => Some(Reason::Reset),
            Self::Late if is_idempotent => Some(Reason::Timeout),
            Self::Reset | Self::Late | Self::Broken | Self::Own => None,
        }
    }

    /// Whether it speaks against the endpoint.
    pub(crate) fn blames_endpoint(self) -> bool {
        match self {
            Self::Unsent | Self::Late | Self::Broken => true,
            // An idle connection that ends, or an endpoint that says goodbye, has done nothing wrong.
            Self::Full | Self::Refused | Self::Goodbye | Self::Reset | Self::Own => false,
        }
    }
}

impl Reason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::RefusedStream => "refused_stream",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
        }
    }
}

impl End {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NoBudget => "no_budget",
            Self::NoTime => "no_time",
        }
    }
}

/// RFC 9110 §9.2.2. CONNECT opens a tunnel and is none, whatever is in it.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// hyper tells the stream's error only in the chain.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        source = cause.source();
    }
    None
}

#[cfg(test)]
mod tests;
