//! A request on its way to an upstream, in the version that is spoken there: kept for another try where one may come,
//! else sent once. It sends and remembers; whether there is another try is for whoever chose the upstream.

use std::rc::Rc;

use http::{Method, Request, request::Parts};
use sidegate_codes::Code;

use super::{Answer, Bounds, Pool, dial::Destination, pool::Failure};
use crate::{
    config::Retries,
    error::Error,
    http::{RequestBody, expect},
    resilience::{Held, Sent, is_idempotent},
};

/// A request on its way.
#[derive(Debug)]
pub(super) struct Sending {
    is_http2: bool,
    head: Parts,
    body: Kept,
}

#[derive(Debug)]
enum Kept {
    ForAnother(Held),
    /// Empty while it is away.
    Once(Option<Sent>),
}

impl Sending {
    /// Keeps what another try could be made of after it was sent: idempotent requests, and of HTTP/2, where the other side
    /// may say that it did nothing, all but tunnels.
    pub(super) fn of(mut request: Request<RequestBody>, is_http2: bool, retries: &Retries) -> Self {
        if !is_http2 {
            expect::hold(&mut request);
        }
        let (head, body) = request.into_parts();
        let may_come_back = is_http2 || is_idempotent(&head.method) || retries.any_method;
        let is_kept = may_come_back && retries.attempts > 1 && head.method != Method::CONNECT;
        let body = if is_kept {
            Kept::ForAnother(Held::new(body, retries.body_bytes))
        } else {
            Kept::Once(Some(Sent::Once(body)))
        };
        Self { is_http2, head, body }
    }

    /// One try.
    pub(super) async fn send(
        &mut self,
        destination: &Destination,
        pool: &Rc<Pool>,
        bounds: Bounds<'_>,
    ) -> Result<Answer, Failure> {
        let body = self.next()?;
        if self.is_http2 {
            // The library wants a head of its own.
            pool.send_http2(destination, Request::from_parts(self.head.clone(), body), bounds).await
        } else {
            pool.send_http1(destination, &self.head, body, bounds).await
        }
    }

    fn next(&mut self) -> Result<Sent, Failure> {
        match &mut self.body {
            Kept::ForAnother(held) => Ok(held.turn()),
            Kept::Once(body) => body.take().ok_or_else(|| {
                let detail = "a request that was sent is not sent again".to_owned();
                Failure::own(Error::Upstream { code: Code::UpstreamFailed, detail })
            }),
        }
    }

    /// Whether all of it is there for another try, with what came back of the last one.
    pub(super) fn is_there(&mut self, unsent: Option<Box<Sent>>) -> bool {
        match &mut self.body {
            Kept::ForAnother(held) => held.is_whole(),
            Kept::Once(body) => {
                *body = unsent.map(|unsent| *unsent);
                body.is_some()
            }
        }
    }

    /// Whether nothing more is to come from the caller.
    pub(super) fn has_ended(&self) -> bool {
        match &self.body {
            Kept::ForAnother(held) => held.has_ended(),
            Kept::Once(_) => false,
        }
    }
}
