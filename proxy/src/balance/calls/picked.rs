//! A call at its endpoint: counted while it lasts, with the connections and waits that it takes, and told how it ended.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use http::StatusCode;
use tokio::time::Instant;

use super::Calls;
use crate::{
    balance::{
        endpoint::Endpoint,
        outliers::{Outcome, Standing},
    },
    config::Failures,
    error::{Breaker, Error},
};

/// A chosen endpoint; counted there until dropped.
#[derive(Debug)]
pub(crate) struct Picked {
    calls: Rc<Calls>,
    endpoint: Rc<Endpoint>,
    since: Instant,
    /// The endpoint was ejected: this call decides whether it is back.
    is_trial: bool,
    is_told: Cell<bool>,
    /// The endpoint's failures in a row before this call was answered.
    failed_before: Cell<Option<u32>>,
}

/// An open connection to an endpoint; counted until dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    calls: Rc<Calls>,
    endpoint: Rc<Endpoint>,
}

/// A call that waits for a connection; counted until dropped.
#[derive(Debug)]
pub(crate) struct PendingSlot(Rc<Calls>);

impl Picked {
    /// Counts one more call of `calls` at `endpoint`.
    pub(super) fn new(calls: &Rc<Calls>, endpoint: &Rc<Endpoint>, since: Instant) -> Self {
        raise(&calls.in_flight);
        raise(&endpoint.in_flight);
        Self {
            calls: Rc::clone(calls),
            endpoint: Rc::clone(endpoint),
            since,
            is_trial: !endpoint.is_in(),
            is_told: Cell::new(false),
            failed_before: Cell::new(None),
        }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// It was chosen a while ago, and is sent now.
    pub(crate) fn begin_again(&mut self) {
        self.since = Instant::now();
    }

    /// An answer has begun.
    pub(crate) fn answered(&self, status: StatusCode) {
        let is_failure = match self.calls.followed.borrow().rules.outliers.failures {
            Failures::Gateway => matches!(status.as_u16(), 502..=504),
            Failures::ServerErrors => status.is_server_error(),
        };
        self.ended(if is_failure { Outcome::Failed } else { Outcome::Answered });
    }

    /// It ended so. Not told: it ended for a reason that says nothing of the endpoint.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        match outcome {
            Outcome::Answered => self.endpoint.latency.answered(took, now),
            Outcome::Failed => self.endpoint.latency.failed(took, now),
        }
        self.is_told.set(true);
        let failed_before = (outcome == Outcome::Answered).then(|| self.endpoint.health.failures_in_a_row());
        self.failed_before.set(failed_before);
        self.calls.judge(&self.endpoint, self.is_trial, outcome, now);
    }

    /// The answer that had begun ended before its end: the endpoint failed after all.
    pub(crate) fn broke_off(&self) {
        if let Some(failed_before) = self.failed_before.take() {
            self.endpoint.health.take_back(failed_before);
            self.calls.judge(&self.endpoint, self.is_trial, Outcome::Failed, Instant::now());
        }
    }

    /// A place for one more connection, or a refusal.
    pub(crate) fn connection(&self) -> Result<ConnectionSlot, Error> {
        let breakers = &self.calls.followed.borrow().rules.breakers;
        if self.calls.connections.get() >= breakers.connections {
            return Err(self.calls.refused(Breaker::Connections));
        }
        if self.endpoint.connections.get() >= breakers.endpoint_connections {
            return Err(self.calls.refused(Breaker::EndpointConnections));
        }
        raise(&self.calls.connections);
        raise(&self.endpoint.connections);
        Ok(ConnectionSlot { calls: Rc::clone(&self.calls), endpoint: Rc::clone(&self.endpoint) })
    }

    /// A place among the calls that wait, or a refusal.
    pub(crate) fn pending(&self) -> Result<PendingSlot, Error> {
        if self.calls.pending.get() >= self.calls.followed.borrow().rules.breakers.pending {
            return Err(self.calls.refused(Breaker::Pending));
        }
        raise(&self.calls.pending);
        Ok(PendingSlot(Rc::clone(&self.calls)))
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        lower(&self.calls.in_flight);
        lower(&self.endpoint.in_flight);
        // A probe that says nothing, because its caller left: the next call is another.
        let standing = &self.endpoint.health.standing;
        if self.is_trial && !self.is_told.get() && standing.get() == Standing::Probing {
            standing.set(Standing::Out(Instant::now()));
            self.endpoint.moved(Standing::Probing);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lower(&self.calls.connections);
        lower(&self.endpoint.connections);
    }
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        lower(&self.0.pending);
    }
}

fn raise(count: &Cell<usize>) {
    count.set(count.get().saturating_add(1));
}

fn lower(count: &Cell<usize>) {
    count.set(count.get().saturating_sub(1));
}
