//! One form for every error a person sees: what failed, the value seen, why, and the next command.

use std::{fmt::Write as _, io::Write as _};

use sidegate_codes::Code;

use crate::{
    exit::Exit,
    terminal::{self, Paint},
};

/// A command that could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: Option<Code>,
    seen: Option<String>,
    why: String,
    next: String,
    exit: Exit,
}

impl Failure {
    /// `what` failed because of `why`; `next` is the command or change that helps.
    pub(crate) fn new(
        exit: Exit,
        what: impl Into<String>,
        why: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), code: None, seen: None, why: why.into(), next: next.into(), exit }
    }

    /// The same failure under a stable code.
    pub(crate) fn coded(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// The same failure with the value that caused it.
    pub(crate) fn seen(mut self, value: impl Into<String>) -> Self {
        self.seen = Some(value.into());
        self
    }

    /// The same failure with another way out.
    pub(crate) fn or(mut self, way: &str) -> Self {
        self.next = format!("{}; or {way}", self.next);
        self
    }

    /// Answers could not be written to stdout; a closed pipe is the reader's wish and no fault.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Findings };
        Self::new(exit, "the answer could not be written", error.to_string(), "check where stdout leads to")
    }

    /// The exit code this failure ends the program with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What failed, in one line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Why it failed, in one line.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// The stable code, when there is one.
    pub(crate) fn code(&self) -> Option<Code> {
        self.code
    }

    /// What to do next.
    pub(crate) fn next(&self) -> &str {
        &self.next
    }

    /// Writes the failure to stderr.
    pub(crate) fn print(&self) {
        if self.exit == Exit::Ok {
            return;
        }
        // A stderr that is gone leaves nobody to tell.
        let _ = anstream::stderr().write_all(self.text().as_bytes());
    }

    fn text(&self) -> String {
        let code = self.code.map(|code| format!("  {code}")).unwrap_or_default();
        let mut text = format!("{} {}{code}\n", terminal::paint(Paint::Bad, "error:"), self.what);
        for (label, value) in
            [("saw ", self.seen.as_deref()), ("why ", Some(&*self.why)), ("next", Some(&*self.next))]
        {
            if let Some(value) = value {
                let _ = writeln!(text, "  {}  {value}", terminal::paint(Paint::Dim, label));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_the_value_why_and_what_next() {
        let text = Failure::new(Exit::Usage, "the code is unknown", "no such code", "sidegate explain-code")
            .coded(Code::ControlPlaneUnreachable)
            .seen("SG9999")
            .text();
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "error: the code is unknown  SG0605\n  saw   SG9999\n  why   no such code\n  next  sidegate explain-code\n"
        );
    }

    #[test]
    fn a_reader_that_closed_its_pipe_is_no_fault() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::output(&closed).exit(), Exit::Ok);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::output(&full).exit(), Exit::Findings);
    }
}
