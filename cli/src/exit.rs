//! The exit codes that scripts may rely on.

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, nothing to report.
    Ok,
    /// Done, and there are findings or failed checks.
    Findings,
    /// What was typed cannot be understood; clap uses the same number.
    Usage,
    /// The control plane cannot be reached or does not answer as one.
    Unreachable,
    /// The control plane refused to answer this caller.
    Denied,
}

impl Exit {
    /// The number the shell sees.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Findings => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Denied => 4,
        }
    }
}
