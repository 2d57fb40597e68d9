//! What became of each construct, for people and for programs.

use serde::{Serialize, Serializer};
use serde_json::Value;
use sidegate_codes::Code;

use super::{
    Object, Refusal,
    draft::{Action, Draft, Rule},
};
use crate::terminal::{Charset, Paint, paint};

/// Every construct, in the order of the files, and the policies that they became.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    #[serde(rename = "constructs")]
    entries: Vec<Entry>,
    /// What holds for all of it.
    notes: Vec<String>,
    #[serde(rename = "policies", serialize_with = "as_texts")]
    pub(super) drafts: Vec<Draft>,
}

/// One construct.
#[derive(Debug, Serialize)]
struct Entry {
    /// `AuthorizationPolicy shop/payments`
    construct: String,
    /// `istio.yaml:3`
    source: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// What became of it.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum Outcome {
    /// Policies that decide the same.
    Translated { to: Vec<String> },
    /// It is said in the files of sidecars and not in a policy.
    Configures { workloads: String, jwt: Value },
    /// It needs no policy.
    Holds { why: String },
    /// There is no exact translation. `stand_in` denies everything where leaving it out would open something.
    Refused {
        code: &'static str,
        why: String,
        #[serde(rename = "standIn")]
        stand_in: Option<String>,
    },
    /// It is no policy.
    Ignored,
}

impl Report {
    pub(super) fn translated(&mut self, object: &Object<'_>, drafts: Vec<Draft>) {
        let to = drafts.iter().map(Draft::id).collect();
        self.drafts.extend(drafts);
        self.add(object, object.place(), Outcome::Translated { to });
    }

    pub(super) fn configures(&mut self, object: &Object<'_>, workloads: String, jwt: Value) {
        self.add(object, object.place(), Outcome::Configures { workloads, jwt });
    }

    pub(super) fn holds(&mut self, object: &Object<'_>, why: &str) {
        self.add(object, object.place(), Outcome::Holds { why: why.to_owned() });
    }

    pub(super) fn ignored(&mut self, object: &Object<'_>) {
        self.add(object, object.place(), Outcome::Ignored);
    }

    /// `stand_in`: a policy whose rules do not matter, in whose place everything is denied.
    pub(super) fn refused(&mut self, object: &Object<'_>, refusal: Refusal, stand_in: Option<Draft>) {
        let draft = stand_in.map(|draft| Draft {
            action: Action::Deny,
            is_shadow: false,
            rules: vec![Rule { name: "not-translated".to_owned(), from: vec![anybody()], ..Rule::default() }],
            ..draft
        });
        let source =
            if refusal.line == 0 { object.place() } else { format!("{}:{}", object.file, refusal.line) };
        let outcome = Outcome::Refused {
            code: Code::ImportRefused.id(),
            why: refusal.why,
            stand_in: draft.as_ref().map(Draft::id),
        };
        self.drafts.extend(draft);
        self.add(object, source, outcome);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.entries.iter().any(|entry| matches!(entry.outcome, Outcome::Refused { .. }))
    }

    /// The policies, as a file.
    pub(super) fn yaml(&self) -> String {
        let documents: Vec<String> = self.drafts.iter().map(Draft::yaml).collect();
        documents.join("---\n")
    }

    /// The report, for stderr.
    pub(super) fn print_text(&self) {
        for entry in &self.entries {
            anstream::eprintln!("{}", entry.text());
        }
        for note in &self.notes {
            anstream::eprintln!("{}  {note}", paint(Paint::Dim, "note"));
        }
        let refused =
            self.entries.iter().filter(|entry| matches!(entry.outcome, Outcome::Refused { .. })).count();
        anstream::eprintln!(
            "constructs {}   refused {refused}   policies {}",
            self.entries.len(),
            self.drafts.len()
        );
    }

    fn add(&mut self, object: &Object<'_>, source: String, outcome: Outcome) {
        let construct = format!("{} {}/{}", object.kind, object.namespace, object.name);
        self.entries.push(Entry { construct, source, outcome });
    }
}

impl Entry {
    fn text(&self) -> String {
        let Self { construct, source, outcome } = self;
        let (colour, became) = match outcome {
            Outcome::Translated { to } if to.is_empty() => {
                (Paint::Good, "lets nobody in: no policy".to_owned())
            }
            Outcome::Translated { to } => (Paint::Good, format!("→ {}", to.join(", "))),
            Outcome::Configures { workloads, jwt } => {
                (Paint::Good, format!("→ `jwt: {jwt}` in the file of each sidecar of {workloads}"))
            }
            Outcome::Holds { why } => (Paint::Good, why.clone()),
            Outcome::Refused { code, why, stand_in: None } => {
                (Paint::Bad, format!("refused: {why} ({code})"))
            }
            Outcome::Refused { code, why, stand_in: Some(policy) } => {
                (Paint::Bad, format!("refused: {why} ({code}); {policy} denies everything in its place"))
            }
            Outcome::Ignored => (Paint::Warn, "no policy of the mesh: left alone".to_owned()),
        };
        let mark = paint(colour, Charset::from_env().mark(colour));
        format!("{mark} {construct}  {source}  {became}")
    }
}

/// A source that takes every caller.
pub(super) fn anybody() -> super::draft::Fields {
    [("ipBlocks".to_owned(), serde_json::json!(["0.0.0.0/0", "::/0"]))].into_iter().collect()
}

fn as_texts<S: Serializer>(drafts: &[Draft], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        drafts.iter().map(
            |draft| serde_json::json!({"name": draft.id(), "source": draft.origin, "text": draft.yaml()}),
        ),
    )
}
