//! The policy as its author wrote it, made of values that are already checked. `None` means the condition was left
//! out, so anything meets it; a list that is present is never empty.

use std::{collections::BTreeMap, fmt, ops::Deref};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sidegate_identity::{SpiffeId, TrustDomain};

use crate::{
    condition::Condition,
    document::{Cursor, Node},
    jwt::Jwt,
    limits, read,
    rego::Rego,
    schema,
    values::{
        Date, GrpcMethod, GrpcService, HostPattern, IpBlock, Method, Name, PathPattern, ServiceAccount,
    },
};

mod egress;
mod plaintext;

pub use egress::{EgressDestination, EgressPolicy, EgressRule, EgressSource, EgressSpec};
pub use plaintext::{PlaintextException, PlaintextOperation, PlaintextSource, PlaintextSpec};

/// The `apiVersion` of every document of the language.
pub(crate) const API_VERSION: &str = "sidegate.dev/v1alpha1";
/// The `kind` of an authorization policy.
pub(crate) const KIND: &str = "AuthorizationPolicy";
/// The `kind` of an egress policy.
pub(crate) const EGRESS_KIND: &str = "EgressPolicy";
/// The `kind` of an exception to mutual TLS.
pub(crate) const PLAINTEXT_KIND: &str = "PlaintextException";

/// Who may do what to the workloads that it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// What it is called.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// A policy's name, unique in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "metadata", deny_unknown_fields)]
pub struct Metadata {
    /// The name.
    pub name: Name,
    /// The namespace, whose workloads it can select; the root namespace's policies can select all. A sidecar that reads
    /// policies from files takes its own namespace where none is given; a control plane wants it written.
    #[schemars(with = "Option<Name>")]
    pub namespace: Name,
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "spec", deny_unknown_fields)]
pub struct Spec {
    /// Labels that a workload must all have. Left out: the whole namespace, or the whole mesh in the root namespace.
    #[schemars(extend("minProperties" = 1, "maxProperties" = limits::LABELS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    /// What a match means.
    pub action: Action,
    /// Whether its verdict is applied.
    #[schemars(default = "Mode::unwritten")]
    pub mode: Mode,
    /// The rules; one that matches is enough.
    pub rules: OneOf<Rule>,
}

/// What it means when a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "action")]
pub enum Action {
    /// Permits, unless a Deny or Require policy refuses.
    Allow,
    /// Refuses, whatever else permits.
    Deny,
    /// Refuses when none of the policy's rules matches.
    Require,
}

/// Whether a policy's verdict is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "mode")]
pub enum Mode {
    /// Applied.
    Enforce,
    /// Judged and counted, never applied.
    Shadow,
}

impl Mode {
    /// Where a policy does not say.
    pub(crate) const fn unwritten() -> Self {
        Self::Enforce
    }
}

/// Matches when one entry of `from` and one entry of `to` match, and `jwt`, `when` and `rego` hold; at least one of the five is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(
    rename = "rule",
    deny_unknown_fields,
    extend("anyOf" = [{"required": ["from"]}, {"required": ["to"]}, {"required": ["jwt"]}, {"required": ["when"]}, {"required": ["rego"]}])
)]
pub struct Rule {
    /// Unique in its policy; `rule-1`, `rule-2`, … by position if left out.
    #[schemars(with = "Option<Name>")]
    pub name: Name,
    /// Who calls. Left out: any verified peer, and in a Deny or Require whoever comes without TLS too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<OneOf<Peer>>,
    /// What is asked. Left out: any operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<OneOf<Operation>>,
    /// What the verified token of the request must say. Left out: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
    /// What else must hold; asked when all else has matched. Left out: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// A module in Rego whose `allow` must be true, in a Require alone. Left out: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub rego: Option<Rego>,
    /// The day from which the rule no longer grants anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Date>,
}

/// Conditions on the peer, all of which must hold; at least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "source", deny_unknown_fields, extend("minProperties" = 1))]
pub struct Peer {
    /// SPIFFE IDs, compared byte for byte.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_texts")]
    #[schemars(with = "Option<OneOf<schema::Id>>")]
    pub principals: Option<OneOf<SpiffeId>>,
    /// Service accounts of the workload's own trust domain, or of `trustDomains` where that is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<OneOf<ServiceAccount>>,
    /// Namespaces of the workload's own trust domain, or of `trustDomains` where that is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<OneOf<Name>>,
    /// Trust domains.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_texts")]
    #[schemars(with = "Option<OneOf<schema::Domain>>")]
    pub trust_domains: Option<OneOf<TrustDomain>>,
    /// Addresses from which the connection comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_blocks: Option<OneOf<IpBlock>>,
}

/// Conditions on what is asked, all of which must hold; at least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(
    rename = "operation",
    deny_unknown_fields,
    extend("minProperties" = 1, "dependentSchemas" = {
        "grpc": {"properties": {"methods": false, "paths": false}},
        "sni": {"properties": {"methods": false, "paths": false, "hosts": false, "grpc": false}},
    })
)]
pub struct Operation {
    /// HTTP methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<OneOf<Method>>,
    /// Patterns of the HTTP path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<OneOf<PathPattern>>,
    /// Patterns of the HTTP host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<OneOf<HostPattern>>,
    /// The application's ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<OneOf<schema::Port>>")]
    pub ports: Option<OneOf<u16>>,
    /// Patterns of the server name of the application's own TLS (SNI). Only an opaque connection has one, so nothing
    /// of HTTP stands beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<OneOf<HostPattern>>,
    /// A gRPC call: stands for method and path, so neither stands beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// A call of a gRPC method: POST to `/service/method`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "grpc", deny_unknown_fields)]
pub struct Grpc {
    /// The service's full name.
    pub service: GrpcService,
    /// The method's name. Left out: any method of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethod>,
}

/// A list that is not empty, any one of which is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OneOf<T>(Box<[T]>);

impl Operation {
    /// Whether an opaque connection leaves it in doubt.
    pub(crate) fn asks_http(&self) -> bool {
        self.methods.is_some() || self.paths.is_some() || self.hosts.is_some() || self.grpc.is_some()
    }
}

impl<T> OneOf<T> {
    /// `None` if there is nothing in the list: "none" and "any" must not be confused.
    pub fn new(items: Vec<T>) -> Option<Self> {
        (!items.is_empty()).then(|| Self(items.into()))
    }
}

impl<T> Deref for OneOf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// A policy of any kind: only ever a type in a schema, never a value.
#[derive(JsonSchema)]
#[schemars(untagged, title = "A policy of a Sidegate mesh")]
#[expect(dead_code, reason = "the schema of all kinds is that of this type")]
pub(crate) enum AnyForm<'p> {
    Authorization(Form<'p>),
    Egress(egress::Form<'p>),
    Plaintext(plaintext::Form<'p>),
}

/// Who may do what to the workloads that it selects. A field that is not listed here is an error.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AuthorizationPolicy", deny_unknown_fields)]
pub(crate) struct Form<'p> {
    /// The version of this form.
    #[schemars(extend("const" = API_VERSION))]
    api_version: &'static str,
    /// What this document is.
    #[schemars(extend("const" = KIND))]
    kind: &'static str,
    /// What the policy is called.
    metadata: &'p Metadata,
    /// What it says.
    spec: &'p Spec,
}

impl Serialize for AuthorizationPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { metadata, spec } = self;
        Form { api_version: API_VERSION, kind: KIND, metadata, spec }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AuthorizationPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::without_places(deserializer)?;
        let (policy, _) = read::policy(&Cursor::root("policy", &node), None).map_err(de::Error::custom)?;
        Ok(policy)
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn as_texts<T: fmt::Display, S: Serializer>(
    texts: &Option<OneOf<T>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    struct Text<'t, T>(&'t T);

    impl<T: fmt::Display> Serialize for Text<'_, T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self.0)
        }
    }
    serializer.collect_seq(texts.iter().flat_map(|texts| texts.iter().map(Text)))
}
