//! Why a configuration cannot be used: the file, the place and the value seen. The fault is always the file's.

use std::{fmt, path::PathBuf};

use sidegate_codes::Code;

/// The configuration cannot be used. The fault is the file's.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {cause} ({})", Code::ConfigUnreadable)]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Not YAML, or an unknown or missing field.
    #[error("{path}:{line}:{column}: {message} ({})", Code::ConfigSyntax)]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Counted from 1.
        column: u64,
        /// What the parser met and what it expected.
        message: String,
    },
    /// Values that cannot be used, all of them.
    #[error("{path}: {} ({})", join(.faults), Code::ConfigBadValue)]
    Values {
        /// The file.
        path: PathBuf,
        /// Each with its field.
        faults: Vec<Fault>,
    },
}

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// As in `inbound[0].listen`.
    pub field: String,
    /// What is wrong with it and which value was seen.
    pub message: String,
}

impl ConfigError {
    /// The code that a person looks up.
    pub fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. } => Code::ConfigUnreadable,
            Self::Syntax { .. } => Code::ConfigSyntax,
            Self::Values { .. } => Code::ConfigBadValue,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

fn join(faults: &[Fault]) -> String {
    faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ")
}
