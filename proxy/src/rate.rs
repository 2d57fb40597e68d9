//! Rate limits: a request with its verified caller goes in; a token of each limit that it matches is taken, or the
//! request is refused. All workers take from the same buckets, and a new snapshot keeps those of limits that did not
//! change. Where nothing is limited, nothing is looked at.

mod bucket;
mod callers;
mod kept;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sidegate_identity::SpiffeId;
use tokio::time::Instant;

use bucket::{Bucket, Pace};
use callers::Callers;

use crate::{
    config::{Per, Rate, RateLimit, ServiceName},
    error::Error,
    route::{self, Asking},
    telemetry::{
        Direction, Metrics,
        metrics::{RateLabels, RateReason},
    },
};

pub(crate) use kept::{Kept, Renewal};

/// The rate limits of one port of the application.
#[derive(Debug, Default)]
pub(crate) struct PortRates(Vec<(RateLimit, Arc<Limiter>)>);

/// One limit with its buckets.
#[derive(Debug)]
pub(crate) struct Limiter {
    of: Place,
    rate: Rate,
    pace: Pace,
    /// Buckets count from here.
    began: Instant,
    buckets: Buckets,
}

/// What a limit belongs to, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// An inbound listener, and a port of the application's behind it.
    Port { listen: SocketAddr, port: u16, name: Arc<str> },
    /// A rule of a service's routes.
    Route { service: ServiceName, rule: Arc<str> },
}

#[derive(Debug)]
enum Buckets {
    Shared(Bucket),
    PerCaller(Callers),
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoToken {
    /// There is one after this time.
    Until(Duration),
    /// The caller has no bucket, and there is no place for another.
    NoPlace,
}

impl PortRates {
    /// Takes a token of every limit that counts a request of `caller`, or of none.
    pub(crate) fn admit(
        &self,
        caller: Option<&SpiffeId>,
        asking: &Asking<'_>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for (index, (limit, limiter)) in self.0.iter().enumerate() {
            if !counts(limit, caller, asking) {
                continue;
            }
            if let Err(why) = limiter.take(caller, now) {
                for (limit, limiter) in &self.0[..index] {
                    if counts(limit, caller, asking) {
                        limiter.give_back(caller);
                    }
                }
                return Err(limiter.refuse(why, caller, metrics));
            }
        }
        Ok(())
    }
}

impl Limiter {
    /// With full buckets, of `most` callers at most.
    fn new(of: Place, rate: Rate, per: Per, most: usize) -> Self {
        let buckets = match per {
            Per::All => Buckets::Shared(Bucket::default()),
            Per::Caller => Buckets::PerCaller(Callers::new(most)),
        };
        Self { of, rate, pace: Pace::of(rate), began: Instant::now(), buckets }
    }

    /// Takes a token for a request of this sidecar's own application, whose identity is one.
    pub(crate) fn admit_own(&self, metrics: &Metrics) -> Result<(), Error> {
        let Buckets::Shared(bucket) = &self.buckets else { return Ok(()) };
        bucket
            .take(self.pace, self.at(Instant::now()))
            .map_err(|wait| self.refuse(NoToken::Until(wait), None, metrics))
    }

    fn take(&self, caller: Option<&SpiffeId>, now: Instant) -> Result<(), NoToken> {
        match &self.buckets {
            Buckets::Shared(bucket) => bucket.take(self.pace, self.at(now)).map_err(NoToken::Until),
            Buckets::PerCaller(callers) => callers.take(caller, self.pace, self.at(now)),
        }
    }

    fn give_back(&self, caller: Option<&SpiffeId>) {
        match &self.buckets {
            Buckets::Shared(bucket) => bucket.give_back(self.pace),
            Buckets::PerCaller(callers) => callers.give_back(caller, self.pace),
        }
    }

    /// Nanoseconds of its life, of which 64 bits hold 584 years.
    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts the refusal.
    fn refuse(&self, why: NoToken, caller: Option<&SpiffeId>, metrics: &Metrics) -> Error {
        let (reason, error) = match why {
            NoToken::Until(wait) => {
                let Rate { requests, period, .. } = self.rate;
                let period = humantime::format_duration(period);
                let detail = format!("{}: {requests} requests in {period} have come", self.of);
                (RateReason::Rate, Error::RateLimited { detail, wait })
            }
            NoToken::NoPlace => {
                let detail = format!("{}: limits.rateCallers reached", self.of);
                (RateReason::Callers, Error::RateCallers { detail })
            }
        };
        metrics.rate_limited.add(RateLabels { of: self.of.clone(), caller: caller.cloned(), reason });
        error
    }
}

impl Place {
    /// Which side of the sidecar it is on.
    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Port { .. } => Direction::Inbound,
            Self::Route { .. } => Direction::Outbound,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port { port, name, .. } => write!(f, "{port}/{name}"),
            Self::Route { service, rule } => write!(f, "{service}/{rule}"),
        }
    }
}

/// Whether `limit` is about this request.
fn counts(limit: &RateLimit, caller: Option<&SpiffeId>, asking: &Asking<'_>) -> bool {
    (limit.callers.is_empty() || caller.is_some_and(|caller| limit.callers.contains(caller)))
        && route::is_matched(&limit.hostnames, &limit.matches, asking)
}

#[cfg(test)]
mod tests;
