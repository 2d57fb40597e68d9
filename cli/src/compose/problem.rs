//! What stands in the way of meshing a Compose file: by service, with a code and the way out. All of it is found before
//! anything is written.

use std::fmt::Write as _;

use sidegate_codes::Code;

use crate::{exit::Exit, failure::Failure};

/// One reason why a file, or a service of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    /// `None`: the file as a whole.
    pub(crate) service: Option<String>,
    /// What is wrong, with the value seen.
    pub(crate) what: String,
    /// The way out; absent: the code's own.
    pub(crate) next: Option<String>,
}

impl Problem {
    pub(crate) fn of_file(code: Code, what: impl Into<String>) -> Self {
        Self { code, service: None, what: what.into(), next: None }
    }

    pub(crate) fn of_service(code: Code, service: &str, what: impl Into<String>) -> Self {
        Self { code, service: Some(service.to_owned()), what: what.into(), next: None }
    }

    /// The same problem with a way out of its own.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

/// One failure of all problems: nothing was written.
pub(crate) fn failure(what: impl Into<String>, problems: &[Problem]) -> Failure {
    let mut why = String::new();
    for problem in problems {
        let who = problem.service.as_deref().unwrap_or("the file");
        let next = problem.next.as_deref().unwrap_or(problem.code.next_step());
        let _ = write!(why, "\n  {who}: {}  {}\n    {next}", problem.what, problem.code);
    }
    Failure::new(
        Exit::Findings,
        what,
        why,
        "change what is named and run it again; a service with the label `sidegate.dev/inject: disabled` stays as it is. \
         Nothing was written",
    )
}
