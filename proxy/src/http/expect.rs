//! `Expect: 100-continue` (RFC 9110 §10.1.1). Takes the field of a request: nothing but this expectation is understood. To
//! an HTTP/1.1 upstream the field goes on, and the body waits until the upstream asks for it (100) or has had its
//! time; an answer that comes instead is the end of it, and the body is never asked of the downstream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header::EXPECT};
use sidegate_codes::Code;
use tokio::time::{Sleep, sleep};

use super::RequestBody;
use crate::error::Error;

/// Whether the fields expect a 100; any other expectation is refused.
pub(super) fn is_expected(fields: &HeaderMap) -> Result<bool, Error> {
    let mut is_expected = false;
    for value in fields.get_all(EXPECT) {
        for one in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if one.eq_ignore_ascii_case(CONTINUE.as_bytes()) {
                is_expected = true;
            } else if !one.is_empty() {
                let detail = format!("the expectation {}", one.escape_ascii());
                return Err(Error::bad_request(Code::UnknownExpectation, detail));
            }
        }
    }
    Ok(is_expected)
}

/// The one value of the field that is ever sent on.
pub(super) const fn field() -> HeaderValue {
    HeaderValue::from_static(CONTINUE)
}

/// Holds the body of an HTTP/1.1 request that has the field. Of HTTP/2 the library tells no 100, and flow control stops
/// what is not read.
pub(crate) fn hold(request: &mut Request<RequestBody>) {
    if !request.headers().contains_key(EXPECT) {
        return;
    }
    let state = Arc::new(State::default());
    request.body_mut().wait(Wait { state: Arc::clone(&state), until: None });
    request.extensions_mut().insert(Expecting(state));
}

/// Stands by a request whose body is held.
#[derive(Clone, Debug)]
pub(crate) struct Expecting(Arc<State>);

/// The answer of such a request: when it is through, nobody asks for the body any more.
#[derive(Debug)]
pub(crate) struct Answered(Arc<State>);

/// What a body waits for.
#[derive(Debug)]
pub(super) struct Wait {
    state: Arc<State>,
    /// Begins when the body would be sent.
    until: Option<Pin<Box<Sleep>>>,
}

/// Nobody asked for the body.
#[derive(Debug, thiserror::Error)]
#[error("the answer came before the body was asked for")]
pub(crate) struct NotAsked;

#[derive(Debug, Default)]
struct State {
    is: AtomicU8,
    body: AtomicWaker,
}

impl Expecting {
    /// An interim answer has come.
    pub(crate) fn informed(&self, status: StatusCode) {
        if status == StatusCode::CONTINUE {
            self.0.turn(WAITING, ASKED);
        }
    }

    /// The head of the answer has come.
    pub(crate) fn answered(&self) -> Answered {
        self.0.turn(WAITING, ANSWERED);
        Answered(Arc::clone(&self.0))
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.turn(ANSWERED, OVER);
    }
}

impl State {
    fn turn(&self, from: u8, to: u8) {
        if self.is.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.body.wake();
        }
    }
}

impl Wait {
    /// Ready when the body may be sent, or never will be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotAsked>> {
        self.state.body.register(cx.waker());
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        match self.state.is.load(Ordering::Acquire) {
            ASKED => Poll::Ready(Ok(())),
            OVER => Poll::Ready(Err(NotAsked)),
            // Its connection still carries the answer, and would end with the body.
            ANSWERED => Poll::Pending,
            _ => until.as_mut().poll(cx).map(Ok),
        }
    }
}

const CONTINUE: &str = "100-continue";
/// A server may know nothing of the field. curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const ASKED: u8 = 1;
const ANSWERED: u8 = 2;
const OVER: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(values: &[&str]) -> Option<bool> {
        let fields = values.iter().map(|value| (EXPECT, value.parse().unwrap())).collect();
        match is_expected(&fields) {
            Ok(is_expected) => Some(is_expected),
            Err(error) => {
                assert_eq!((error.code(), error.status().as_u16()), (Code::UnknownExpectation, 417));
                None
            }
        }
    }

    #[test]
    fn only_a_100_can_be_expected() {
        assert_eq!(expected(&[]), Some(false));
        assert_eq!(expected(&[""]), Some(false));
        assert_eq!(expected(&["100-Continue"]), Some(true));
        assert_eq!(expected(&["100-continue, ", "100-continue"]), Some(true));
        for other in ["200-ok", "100-continue, 200-ok", "100-continue;a=b", "100", "\u{fc}"] {
            assert_eq!(expected(&[other]), None, "{other}");
        }
        assert_eq!(expected(&["100-continue", "x"]), None);
    }

    async fn ready(wait: &mut Wait) -> Result<(), NotAsked> {
        std::future::poll_fn(|cx| wait.poll(cx)).await
    }

    fn waiting() -> (Expecting, Wait) {
        let state = Arc::new(State::default());
        (Expecting(Arc::clone(&state)), Wait { state, until: None })
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_goes_when_it_is_asked_for_or_after_a_second() {
        let begun = tokio::time::Instant::now();
        let (held, mut wait) = waiting();
        held.0.turn(WAITING, ASKED);
        ready(&mut wait).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // And whoever has been asked may be answered before the end.
        drop(held.answered());
        ready(&mut wait).await.unwrap();

        let (_held, mut wait) = waiting();
        ready(&mut wait).await.unwrap();
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_was_not_asked_for_never_goes() {
        let (held, mut wait) = waiting();
        let answered = held.answered();
        let begun = tokio::time::Instant::now();
        let over = async {
            sleep(PATIENCE * 3).await;
            drop(answered);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = over => unreachable!("it never ends"),
            result = ready(&mut wait) => result.unwrap_err(),
        };
        assert!(begun.elapsed() >= PATIENCE * 3);
    }
}
