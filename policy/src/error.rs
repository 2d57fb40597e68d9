//! Why a policy was refused, and where it is written.

use std::fmt;

use serde::{Serialize, Serializer};
use sidegate_codes::Code;

/// A policy that does not load: what is wrong, and the place in the file. Always the author's to fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct PolicyError {
    /// `SG0210` to `SG0216`.
    #[serde(serialize_with = "as_id")]
    pub code: Code,
    /// The file as it was named to the parser.
    pub file: String,
    /// Counted from 1.
    pub line: Option<u32>,
    /// In characters, counted from 1.
    pub column: Option<u32>,
    /// The path of the field, as in `spec.rules[0].from[0].ipBlocks[1]`.
    pub field: Option<String>,
    /// What was seen and what is expected there.
    pub message: String,
}

impl fmt::Display for PolicyError {
    /// `policies/a.yaml:7:3: spec.acton: unknown field … (SG0211)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().map_while(|number| number) {
            write!(f, ":{number}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {} ({})", self.message, self.code)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn as_id<S: Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.id())
}
