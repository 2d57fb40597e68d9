//! Join tokens that this program makes itself, for a mesh whose `mesh.yaml` it writes too: hands on their text, and the digest
//! that the file knows them by.

use std::io;

use sha2::{Digest as _, Sha256};

/// A token that nobody can guess.
pub(crate) fn random() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex(&bytes))
}

/// What `joinTokens` in `mesh.yaml` has in place of the token: its SHA-256.
pub(crate) fn digest(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
