//! Join tokens for a mesh whose `mesh.yaml` this program writes too: made as `sidegate token create` makes them, and known to the
//! file by their digest.

use std::io;

use sha2::{Digest as _, Sha256};
use sidegate_control_plane::tokens::{PREFIX, Secret};

/// A token that nobody can guess.
pub(crate) fn random() -> io::Result<Secret> {
    Secret::generate().map_err(|error| io::Error::other(error.to_string()))
}

/// Whether a text holds a join token: one of those that begin with their name, or as they were before that.
pub(crate) fn is_in(text: &str) -> bool {
    let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.contains(PREFIX) || is_hex(text.trim())
}

/// What `joinTokens` in `mesh.yaml` has in place of the token: its SHA-256.
pub(crate) fn digest(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}
