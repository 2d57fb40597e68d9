//! Why an exchange with an upstream ended before its end.

use std::io;

use crate::resilience::{BoxError, Fault};

/// What went wrong on the connection, or with what was to be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// It was closed.
    #[error("connection closed before message completed")]
    Incomplete,
    /// Reading or writing failed.
    #[error("connection error")]
    Io(#[from] io::Error),
    /// The head of the answer, or its trailers, cannot be read.
    #[error("invalid HTTP answer")]
    Head(#[source] httparse::Error),
    /// The answer does not say in one way where it ends.
    #[error("invalid HTTP answer: {0}")]
    Framing(&'static str),
    /// More than `limits.headerBytes` or `limits.headers` allow.
    #[error("the head of the answer is too large")]
    TooLarge,
    /// The body of the request, which is somebody else's.
    #[error("the request's body broke off")]
    Request(#[source] BoxError),
}

impl Broken {
    /// What it means for another try. `was_kept`: the connection had served before, and no byte of an answer came.
    pub(in crate::upstream) fn fault(&self, was_kept: bool) -> Fault {
        match self {
            Self::Request(_) => Fault::Own,
            Self::Incomplete | Self::Io(_) if was_kept => Fault::Reset,
            Self::Incomplete | Self::Io(_) | Self::Head(_) | Self::Framing(_) | Self::TooLarge => {
                Fault::Broken
            }
        }
    }
}
