//! Serves a downstream's HTTP/1 connection: request after request (RFC 9112), each answered before the next is read. Takes the
//! guarded stream and whatever answers a request; hands on the stream itself once an answer has made a tunnel of it.
//! Refuses a head that it cannot read, with an answer of its own and the end of the connection. A silent connection holds no
//! buffer, and no room for what serving takes.

mod body;
mod head;
mod shared;
mod written;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode, Version};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{body::ResponseBody, guard::Guarded, lingering::Lingering};
use crate::{
    detect::Rewound,
    message::{Broken, Ends, Most, Outgoing},
    upstream::{Duplex, chain},
};
use head::Asked;
use shared::{Lent, Shared};

pub(super) use body::Body;

/// What it is served over.
pub(super) type Downstream<S> = Guarded<Lingering<Rewound<S>>>;

/// The stream that a connection was, once the answer that makes a tunnel of it has gone out.
pub(super) type Tunnel = oneshot::Receiver<Box<dyn Duplex>>;

/// One connection, until it ends or becomes a tunnel.
pub(super) struct Connection<S, A> {
    shared: Rc<RefCell<Shared<S>>>,
    answer: Rc<A>,
    /// `None`: it is silent.
    serving: Option<Serving>,
}

type Serving = Pin<Box<dyn Future<Output = Result<(), Ended>>>>;

/// Why a connection ended other than in order.
#[derive(Debug)]
pub(super) enum Ended {
    /// A head was too large, and that was answered.
    TooLarge,
    /// A head could not be read, and that was answered.
    Unreadable(String),
    /// Either side broke off.
    Broken(String),
}

impl<S, A, F> Connection<S, A>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Option<Body>>, Option<Tunnel>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    pub(super) fn new(stream: Downstream<S>, most: Most, answer: A) -> Self {
        Self { shared: Shared::new(stream, most), answer: Rc::new(answer), serving: None }
    }

    /// Lets go of what it needs for requests alone, if it is between two of them.
    pub(super) fn rest(&mut self) {
        if self.shared.borrow().is_silent() {
            self.serving = None;
        }
    }

    /// Finishes what is in flight and takes no more.
    pub(super) fn shut_down(&mut self) {
        self.shared.borrow_mut().close();
    }
}

impl<S, A, F> Future for Connection<S, A>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Option<Body>>, Option<Tunnel>) -> F + 'static,
    F: Future<Output = Response<ResponseBody>> + 'static,
{
    type Output = Result<(), Ended>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let this = self.get_mut();
        if this.serving.is_none() {
            ready!(this.shared.borrow_mut().poll_begun(cx));
        }
        let begin = || -> Serving { Box::pin(serve(Rc::clone(&this.shared), Rc::clone(&this.answer))) };
        this.serving.get_or_insert_with(begin).as_mut().poll(cx)
    }
}

/// From the first byte of a request on, until the connection ends.
async fn serve<S, A, F>(shared: Rc<RefCell<Shared<S>>>, answer: Rc<A>) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Option<Body>>, Option<Tunnel>) -> F,
    F: Future<Output = Response<ResponseBody>>,
{
    let mut outgoing = Outgoing::default();
    loop {
        let (head, asked) = match poll_fn(|cx| shared.borrow_mut().poll_head(cx)).await {
            Ok(Some(head)) => head,
            Ok(None) => break,
            Err(broken) => return refuse(&shared, &broken).await,
        };
        let body = Shared::begin(&shared, asked);
        let (opens, opened) = asked.may_become_tunnel.then(oneshot::channel).unzip();
        // Apart, so that what it takes is gone when its answer is sent.
        let response = {
            let mut answering = pin!(answer(head.map(|()| body), opened));
            let answered = poll_fn(|cx| {
                // Borrowed no longer when the answer is asked for: it may read the body.
                let left = shared.borrow_mut().poll_left(cx);
                match left {
                    Poll::Ready(left) => Poll::Ready(Err(left)),
                    Poll::Pending => answering.as_mut().poll(cx).map(Ok),
                }
            });
            answered.await?
        };
        let is_switched = asked.is_switched_by(response.status());
        let keeps_alive = respond(&shared, &mut outgoing, asked, response).await?;
        if is_switched {
            let tunnel = shared.borrow_mut().take_tunnel();
            if let (Some(opens), Some(tunnel)) = (opens, tunnel) {
                // Whoever waited for it may have given up.
                let _ = opens.send(tunnel);
            }
            return Ok(());
        }
        if !poll_fn(|cx| shared.borrow_mut().poll_read_whole(cx)).await || !keeps_alive {
            break;
        }
    }
    shut_down(&shared).await
}

/// Sends an answer. Gives whether another request may follow.
async fn respond<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &RefCell<Shared<S>>,
    outgoing: &mut Outgoing<ResponseBody>,
    asked: Asked,
    response: Response<ResponseBody>,
) -> Result<bool, Ended> {
    let is_open = poll_fn(|cx| Poll::Ready(shared.borrow_mut().answered(cx))).await;
    let (mut parts, body) = response.into_parts();
    let (ends, keeps_alive) = written::framed(asked, &mut parts, &body, is_open);
    outgoing.begin(written::head(asked.version, &parts), ends, body);
    let sent = poll_fn(|cx| match outgoing.poll(&mut Lent(shared), cx) {
        // Whoever waits for more of an answer that does not come may leave.
        Poll::Pending => shared.borrow_mut().poll_left(cx).map(Err),
        Poll::Ready(sent) => Poll::Ready(sent.map_err(|broken| Ended::Broken(chain(&broken)))),
    });
    sent.await?;
    Ok(keeps_alive)
}

/// Answers a head that could not be read, and ends the connection.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &RefCell<Shared<S>>,
    broken: &Broken,
) -> Result<(), Ended> {
    let (status, ended) = match broken {
        Broken::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Ended::TooLarge),
        Broken::Head(_) | Broken::Framing(_) => (StatusCode::BAD_REQUEST, Ended::Unreadable(chain(broken))),
        Broken::Incomplete | Broken::Io(_) | Broken::Body(_) => return Err(Ended::Broken(chain(broken))),
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status;
    let empty = ResponseBody::text(String::new());
    let asked = Asked::default();
    let (ends, _) = written::framed(asked, &mut parts, &empty, false);
    let mut outgoing = Outgoing::default();
    outgoing.begin(written::head(Version::HTTP_11, &parts), ends, empty);
    if poll_fn(|cx| outgoing.poll(&mut Lent(shared), cx)).await.is_ok() {
        // However that ends: the reason is the head.
        let _ = shut_down(shared).await;
    }
    Err(ended)
}

async fn shut_down<S: AsyncRead + AsyncWrite + Unpin>(shared: &RefCell<Shared<S>>) -> Result<(), Ended> {
    let closed = poll_fn(|cx| Pin::new(&mut Lent(shared)).poll_shutdown(cx)).await;
    closed.map_err(|error| Ended::Broken(error.to_string()))
}

#[cfg(test)]
mod tests;
