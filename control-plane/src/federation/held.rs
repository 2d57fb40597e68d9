//! What was fetched last from a bundle endpoint, in a file of the state folder: it outlives a restart, and a partner that
//! cannot be reached. Refuses a successor that is older than it, or whose age cannot be told.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sidegate_identity::{TrustBundle, TrustDomain};

use super::{
    document::{self, Document},
    fetch::MOST_BYTES,
};
use crate::{
    config::{self, Endpoint, Profile},
    hex,
};

/// What is known of one trust domain by its endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Held {
    /// Digest of what the operator configured: after another choice nothing of before counts.
    beginning: String,
    /// The document as it came. `None`: none was fetched yet.
    pub(super) document: Option<String>,
    /// Why the newest attempt brought nothing.
    pub(super) problem: Option<String>,
}

impl Held {
    /// What the file says, if it began as the configuration does now; and with what it began, if that is a bundle.
    pub(super) fn load(endpoint: &Endpoint) -> Result<(Self, Option<String>), String> {
        let first = match &endpoint.profile {
            Profile::Spiffe { first, .. } => {
                let text = config::read_bounded(first, MOST_BYTES as u64);
                Some(text.map_err(|error| format!("{}: {error}", first.display()))?)
            }
            Profile::Web { .. } => None,
        };
        let beginning = beginning(endpoint, first.as_deref());
        let kept = match config::read_bounded(&endpoint.kept, 2 * MOST_BYTES as u64) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(format!("{}: {error}", endpoint.kept.display())),
        };
        let held = if kept.beginning == beginning { kept } else { Self { beginning, ..Self::default() } };
        Ok((held, first))
    }

    /// Takes a document that came, or says why it cannot take the place of what is held.
    pub(super) fn take(&self, trust_domain: &TrustDomain, text: String) -> Result<(Self, Document), String> {
        let next = document::parse(&text)?;
        TrustBundle::from_der(trust_domain.clone(), next.authorities.clone())
            .map_err(|error| error.to_string())?;
        if let Some(before) = &self.document {
            let before = document::parse(before)?;
            in_order(&before, &next)?;
        }
        Ok((Self { document: Some(text), problem: None, ..self.clone() }, next))
    }

    /// The same, with why nothing newer came.
    pub(super) fn without_news(&self, reason: &str) -> Self {
        Self { problem: Some(reason.to_owned()), ..self.clone() }
    }

    /// Whole and in one step; the folder is private to this user.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let aside = path.with_extension("partial");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    }
}

/// Trust Domain and Bundle §4.1.2: the number grows with each change. A smaller one is an old bundle that comes again, by
/// accident or by somebody who wants an authority back that was taken out.
fn in_order(before: &Document, next: &Document) -> Result<(), String> {
    match (before.sequence, next.sequence) {
        (Some(before), Some(next)) if next < before => Err(format!(
            "its spiffe_sequence {next} is smaller than {before}, the one in force: it is an old one"
        )),
        (Some(held), Some(same)) if held == same && before.authorities != next.authorities => {
            Err(format!("it says something else than before under the same spiffe_sequence {same}"))
        }
        (Some(before), None) => {
            Err(format!("it has no spiffe_sequence any more; the one in force has {before}"))
        }
        _ => Ok(()),
    }
}

/// After another choice of the operator nothing that was fetched before counts.
fn beginning(endpoint: &Endpoint, first: Option<&str>) -> String {
    let profile = match &endpoint.profile {
        Profile::Spiffe { id, .. } => id.as_str(),
        Profile::Web { .. } => "https_web",
    };
    let mut digest = Sha256::new();
    for part in [&endpoint.url.to_string(), profile, first.unwrap_or_default()] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    hex::encode(&digest.finalize())
}
