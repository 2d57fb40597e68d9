//! Why a request got no answer from an upstream, in the terms that a further try is decided by.

use sidegate_codes::Code;
use sidegate_identity::SpiffeId;

use crate::{
    error::Error,
    message::Broken,
    resilience::{Fault, Sent},
    upstream::{connection::Terms, dial::Destination},
};

/// Why, and the body of a request that was not sent, for another try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) fault: Fault,
    pub(crate) unsent: Option<Box<Sent>>,
    /// Who had proven to be at the other end by then.
    pub(crate) peer: Option<SpiffeId>,
}

impl Failure {
    /// This sidecar has nothing to send.
    pub(in crate::upstream) fn own(error: Error) -> Self {
        Self { error, fault: Fault::Own, unsent: None, peer: None }
    }

    pub(super) fn before_sending(error: Error, body: Sent) -> Self {
        let fault = match &error {
            Error::BreakerOpen { breaker, .. } if breaker.is_of_endpoint() => Fault::Full,
            Error::BreakerOpen { .. } => Fault::Own,
            _ => Fault::Unsent,
        };
        Self { error, fault, unsent: Some(Box::new(body)), peer: None }
    }

    pub(super) fn late(error: Error, terms: &Terms) -> Self {
        Self { error, fault: Fault::Late, unsent: None, peer: terms.peer() }
    }

    /// Of HTTP/1.1, where whatever was begun to be sent may have been processed.
    pub(super) fn sent(destination: &Destination, broken: &Broken, fault: Fault, terms: &Terms) -> Self {
        Self { error: upstream_failed(destination, broken), fault, unsent: None, peer: terms.peer() }
    }

    pub(super) fn of(
        destination: &Destination,
        error: &hyper::Error,
        unsent: Option<Sent>,
        is_reused: bool,
        terms: &Terms,
    ) -> Self {
        let fault = if unsent.is_some() { Fault::Unsent } else { Fault::of(error, is_reused) };
        let error = upstream_failed(destination, error);
        Self { error, fault, unsent: unsent.map(Box::new), peer: terms.peer() }
    }
}

pub(super) fn upstream_failed(destination: &Destination, error: &dyn std::error::Error) -> Error {
    Error::Upstream { code: Code::UpstreamFailed, detail: format!("{destination}: {}", chain(error)) }
}

/// hyper names the cause, such as a TLS alert, only in the chain.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
