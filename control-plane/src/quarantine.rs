//! The quarantine as its file says it: identities that nobody speaks with, each with a reason and a moment. Read whole or
//! refused whole, so that a slip of the pen lets nobody out; written by `sidegate quarantine`, in one step.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sidegate_codes::Code;
use sidegate_identity::{Quarantine, Refused, SpiffeId};
use sidegate_proto::v1::Resource;
use time::OffsetDateTime;

use crate::{
    config::{self, Config},
    problem::Problem,
    resource,
};

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuarantineFile {
    /// In the order of the file.
    pub entries: Vec<Entry>,
}

/// An identity that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Who.
    #[serde(serialize_with = "as_text")]
    pub id: SpiffeId,
    /// Why, for whoever reads it later.
    pub reason: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// `None`: everything of it is refused. Otherwise the certificates issued before this moment are, and new ones are
    /// issued.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<OffsetDateTime>,
}

/// The quarantine in force, and its form on the wire, made once for all sidecars.
#[derive(Debug)]
pub(crate) struct LoadedQuarantine {
    pub(crate) quarantine: Quarantine,
    pub(crate) resource: Arc<Resource>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    identities: Vec<EntryDocument>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EntryDocument {
    id: String,
    reason: String,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    issued_before: Option<OffsetDateTime>,
}

impl QuarantineFile {
    /// Reads and checks the file that `config` names. There need not be one: nobody is in quarantine then.
    pub fn load(config: &Config) -> Result<Self, Vec<Problem>> {
        let text = read(&config.quarantine).map_err(|problem| vec![problem])?;
        text.map_or_else(|| Ok(Self::default()), |text| Self::parse(config, &text))
    }

    /// Checks the text of the file that `config` names.
    pub(crate) fn parse(config: &Config, text: &str) -> Result<Self, Vec<Problem>> {
        let file = config.quarantine.display().to_string();
        let document: Document = config::from_yaml(&file, text).map_err(|problem| vec![problem])?;
        let mut problems = Vec::new();
        let mut add = |field: String, message: String| {
            let problem = Problem::of_file(Code::ConfigBadValue, &file, message);
            problems.push(Problem { field: Some(field), ..problem });
        };
        for (field, seen, want) in
            [("apiVersion", &document.api_version, API_VERSION), ("kind", &document.kind, KIND)]
        {
            if seen != want {
                add(field.to_owned(), format!("{seen:?} is not {want:?}"));
            }
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(document.identities.len());
        for (position, written) in document.identities.into_iter().enumerate() {
            let field = format!("identities[{position}].id");
            let EntryDocument { id, reason, since, issued_before } = written;
            match SpiffeId::parse(&id) {
                Err(error) => add(field, format!("{id:?}: {error}")),
                Ok(id) if id == config.control_plane_identity() => {
                    add(field, format!("{id} is the control plane's own identity"));
                }
                Ok(id) if entries.iter().any(|entry| entry.id == id) => {
                    add(field, format!("{id} is listed twice"));
                }
                Ok(id) => entries.push(Entry { id, reason, since, issued_before }),
            }
        }
        if problems.is_empty() { Ok(Self { entries }) } else { Err(problems) }
    }

    /// Replaces the file at `path` in one step: a reader sees the old one or this one.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().ok_or_else(|| io::Error::other("is no file's name"))?;
        let aside = folder.join(format!(".{}.new", name.to_string_lossy()));
        let mut file = fs::File::create(&aside)?;
        file.write_all(self.to_yaml()?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        fs::File::open(folder)?.sync_all()
    }

    fn to_yaml(&self) -> io::Result<String> {
        let mut text = format!(
            "# Written by `sidegate quarantine`.\napiVersion: {API_VERSION}\nkind: {KIND}\nidentities:"
        );
        if self.entries.is_empty() {
            text.push_str(" []\n");
            return Ok(text);
        }
        text.push('\n');
        for entry in &self.entries {
            // JSON is YAML too, and its strings need no rules of their own.
            text.push_str("- ");
            text.push_str(&serde_json::to_string(entry)?);
            text.push('\n');
        }
        Ok(text)
    }
}

impl LoadedQuarantine {
    /// What sidecars and issuance go by.
    pub(crate) fn of(file: &QuarantineFile) -> Self {
        let entries = file.entries.iter().map(|entry| (entry.id.clone(), refused(entry)));
        let quarantine: Quarantine = entries.collect();
        let resource = Arc::new(resource::quarantine(&quarantine));
        Self { quarantine, resource }
    }
}

fn refused(entry: &Entry) -> Refused {
    // A moment before 1970 refuses no certificate, as it says.
    let ms = |moment: OffsetDateTime| u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    entry.issued_before.map_or(Refused::All, |moment| Refused::IssuedBefore(ms(moment)))
}

/// The text of the file; `None` if there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Problem> {
    match config::read_bounded(path, MAX_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Problem::of_file(Code::ConfigUnreadable, path.display().to_string(), error.to_string()))
        }
    }
}

fn as_text<S: serde::Serializer>(id: &SpiffeId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(id.as_str())
}

const API_VERSION: &str = "sidegate.dev/v1alpha1";
const KIND: &str = "Quarantine";
/// Some ten thousand identities.
const MAX_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(folder: &Path) -> Config {
        let text =
            "{apiVersion: sidegate.dev/v1alpha1, kind: Mesh, trustDomain: shop.test, policies: p, state: s,
            listen: {grpc: '127.0.0.1:0', api: '127.0.0.1:0'}, services: []}";
        Config::parse(&folder.join("mesh.yaml"), text).unwrap()
    }

    fn entry(id: &str, issued_before: Option<i64>) -> Entry {
        let moment = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        Entry {
            id: SpiffeId::parse(id).unwrap(),
            reason: "a key on a \"public\" bucket: {INC-7}\nsee the log".to_owned(),
            since: moment(1_700_000_000),
            issued_before: issued_before.map(moment),
        }
    }

    #[test]
    fn what_is_saved_reads_back_and_no_file_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        assert_eq!(QuarantineFile::load(&config).unwrap(), QuarantineFile::default());
        let orders = "spiffe://shop.test/ns/shop/sa/orders";
        for entries in
            [vec![], vec![entry(orders, None), entry("spiffe://partner.test/batch", Some(1_700_000_001))]]
        {
            let file = QuarantineFile { entries };
            file.save(&config.quarantine).unwrap();
            assert_eq!(QuarantineFile::load(&config).unwrap(), file);
        }
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_whole() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let since = "reason: r, since: '2026-01-01T00:00:00Z'";
        let orders = format!("{{id: 'spiffe://shop.test/ns/shop/sa/orders', {since}}}");
        let of = |identities: &str| {
            format!("{{apiVersion: sidegate.dev/v1alpha1, kind: Quarantine, identities: [{identities}]}}")
        };
        assert_eq!(QuarantineFile::parse(&config, &of(&orders)).unwrap().entries.len(), 1);
        for (text, field) in [
            (of(&format!("{orders}, {orders}")), Some("identities[1].id")),
            (of(&format!("{orders}, {{id: orders, {since}}}")), Some("identities[1].id")),
            (
                of(&format!("{{id: 'spiffe://shop.test/ns/sidegate/sa/control-plane', {since}}}")),
                Some("identities[0].id"),
            ),
            (of(&orders.replace("reason", "because")), None),
            (of(&orders.replace("2026-01-01T00:00:00Z", "yesterday")), None),
            (of(&orders).replace("Quarantine", "Mesh"), Some("kind")),
            (String::new(), None),
        ] {
            let problems = QuarantineFile::parse(&config, &text).expect_err(&text);
            assert_eq!(problems[0].field.as_deref(), field, "{text}");
        }
    }
}
