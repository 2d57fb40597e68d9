//! Why a message ended before its end.

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
    /// Its head, or its trailers, cannot be read.
    #[error("invalid HTTP")]
    Head(#[source] httparse::Error),
    /// It does not say in one way where it ends, or what it is.
    #[error("invalid HTTP: {0}")]
    Framing(&'static str),
    /// More than `limits.headerBytes` or `limits.headers` allow.
    #[error("a head that is too large")]
    TooLarge,
    /// The body to be sent, which is somebody else's.
    #[error("the body to be sent broke off")]
    Body(#[source] BoxError),
}

impl Broken {
    /// What it means for another try of a request, if that was to be sent or its answer to be read. `was_kept`: the connection had served before, and no byte of an answer came.
    pub(crate) fn fault(&self, was_kept: bool) -> Fault {
        match self {
            Self::Body(_) => Fault::Own,
            Self::Incomplete | Self::Io(_) if was_kept => Fault::Reset,
            Self::Incomplete | Self::Io(_) | Self::Head(_) | Self::Framing(_) | Self::TooLarge => {
                Fault::Broken
            }
        }
    }
}
