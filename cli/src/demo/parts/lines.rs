//! JSON lines on stdout, one whole state each; the demo keeps the latest.

use std::io::{self, Write};

use serde::Serialize;

/// Prints one line. Fails when the demo no longer reads.
pub(super) fn print(state: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(state)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
