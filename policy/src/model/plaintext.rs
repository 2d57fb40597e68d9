//! What may come in without TLS, as its author wrote it. There is no action and no mode: what it names may come in until
//! its day, and nothing else.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{API_VERSION, Metadata, OneOf, Operation, PLAINTEXT_KIND, Peer, Rule};
use crate::{
    limits, schema,
    values::{Date, IpBlock, Method, PathPattern, Reason},
};

/// Who may reach the workloads that it selects without TLS, and so without an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaintextException {
    /// What it is called; its one rule has the same name.
    pub metadata: Metadata,
    /// What it says.
    pub spec: PlaintextSpec,
}

/// What a plaintext exception says: one entry of `from` may reach one entry of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "plaintext-spec", deny_unknown_fields)]
pub struct PlaintextSpec {
    /// Labels that a workload must all have. Left out: the whole namespace, or the whole mesh in the root namespace.
    #[schemars(extend("minProperties" = 1, "maxProperties" = limits::LABELS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    /// From where.
    pub from: OneOf<PlaintextSource>,
    /// What for.
    pub to: OneOf<PlaintextOperation>,
    /// The day from which nothing comes in any more, at most 90 days away.
    pub expires: Date,
    /// Why there is an exception, for whoever reads it later.
    pub reason: Reason,
}

/// Where a connection without an identity may come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "plaintext-source", deny_unknown_fields)]
pub struct PlaintextSource {
    /// Addresses from which the connection comes.
    pub ip_blocks: OneOf<IpBlock>,
}

/// What a connection without an identity may be for: one each of the fields that are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "plaintext-operation", deny_unknown_fields)]
pub struct PlaintextOperation {
    /// The application's ports.
    #[schemars(with = "OneOf<schema::Port>")]
    pub ports: OneOf<u16>,
    /// HTTP methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<OneOf<Method>>,
    /// Patterns of the HTTP path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<OneOf<PathPattern>>,
}

impl PlaintextException {
    /// The exception as the rule that it is, so that it is matched and explained as rules are.
    pub fn rule(&self) -> Rule {
        let PlaintextSpec { from, to, expires, .. } = &self.spec;
        let source =
            |source: &PlaintextSource| Peer { ip_blocks: Some(source.ip_blocks.clone()), ..Peer::default() };
        let operation = |operation: &PlaintextOperation| Operation {
            ports: Some(operation.ports.clone()),
            methods: operation.methods.clone(),
            paths: operation.paths.clone(),
            ..Operation::default()
        };
        Rule {
            name: self.metadata.name.clone(),
            from: OneOf::new(from.iter().map(source).collect()),
            to: OneOf::new(to.iter().map(operation).collect()),
            jwt: None,
            when: None,
            rego: None,
            expires: Some(*expires),
        }
    }
}

impl PlaintextOperation {
    /// Whether an opaque connection leaves it in doubt.
    pub(crate) fn asks_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some()
    }
}

/// Who may reach the workloads that it selects without TLS. A field that is not listed here is an error.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PlaintextException", deny_unknown_fields)]
pub(crate) struct Form<'p> {
    /// The version of this form.
    #[schemars(extend("const" = API_VERSION))]
    api_version: &'static str,
    /// What this document is.
    #[schemars(extend("const" = PLAINTEXT_KIND))]
    kind: &'static str,
    /// What the policy is called.
    metadata: &'p Metadata,
    /// What it says.
    spec: &'p PlaintextSpec,
}

impl Serialize for PlaintextException {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { metadata, spec } = self;
        Form { api_version: API_VERSION, kind: PLAINTEXT_KIND, metadata, spec }.serialize(serializer)
    }
}
