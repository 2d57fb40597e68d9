//! One thing wrong in a file that a person wrote: where it is, what was seen, which code explains it. Made by
//! `config` and `policies`, shown alike in the log, in the status document and on the terminal.

use std::fmt;

use serde::{Serialize, Serializer};
use sidegate_codes::Code;
use sidegate_policy::PolicyError;

/// A place in a file and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The stable code, as in `SG0211`.
    #[serde(serialize_with = "code_id")]
    pub code: Code,
    /// The file's name as the person knows it.
    pub file: String,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1.
    pub column: Option<u32>,
    /// The path of the field, as in `services[0].joinTokens[1]`.
    pub field: Option<String>,
    /// What was seen and why it cannot be used.
    pub message: String,
}

impl Problem {
    /// Something wrong with the file as a whole.
    pub(crate) fn of_file(code: Code, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, file: file.into(), line: None, column: None, field: None, message: message.into() }
    }
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        Self {
            code: error.code,
            file: error.file,
            line: error.line,
            column: error.column,
            field: error.field,
            message: error.message,
        }
    }
}

impl fmt::Display for Problem {
    /// `mesh.yaml:7:13: services[0].name: … (SG0403)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for place in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{place}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {} ({})", self.message, self.code)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn code_id<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_like_a_compilers_message() {
        let problem = Problem {
            code: Code::ConfigBadValue,
            file: "mesh.yaml".into(),
            line: Some(7),
            column: Some(13),
            field: Some("services[0].name".into()),
            message: "is empty".into(),
        };
        assert_eq!(problem.to_string(), "mesh.yaml:7:13: services[0].name: is empty (SG0403)");
        let whole = Problem::of_file(Code::ConfigUnreadable, "mesh.yaml", "does not exist");
        assert_eq!(whole.to_string(), "mesh.yaml: does not exist (SG0401)");
    }
}
