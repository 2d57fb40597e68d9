//! What may leave the mesh, as its author wrote it. There is no action: what a rule names may leave, and nothing else.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use sidegate_identity::SpiffeId;

use super::{API_VERSION, EGRESS_KIND, Metadata, Mode, OneOf, as_texts};
use crate::{
    limits, schema,
    values::{Date, HostPattern, IpBlock, Name, ServiceAccount},
};

/// Where the workloads that it selects may go outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    /// What it is called.
    pub metadata: Metadata,
    /// What it says.
    pub spec: EgressSpec,
}

/// What an egress policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "egress-spec", deny_unknown_fields)]
pub struct EgressSpec {
    /// Labels that a workload must all have. Left out: the whole namespace, or the whole mesh in the root namespace.
    #[schemars(extend("minProperties" = 1, "maxProperties" = limits::LABELS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    /// Whether its verdict is applied.
    #[schemars(default = "Mode::unwritten")]
    pub mode: Mode,
    /// The rules; one that matches is enough.
    pub rules: OneOf<EgressRule>,
}

/// Lets out what one entry of `from` sends to one entry of `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "egress-rule", deny_unknown_fields)]
pub struct EgressRule {
    /// Unique in its policy; `rule-1`, `rule-2`, … by position if left out.
    #[schemars(with = "Option<Name>")]
    pub name: Name,
    /// Which of the selected workloads. Left out: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<OneOf<EgressSource>>,
    /// Where to.
    pub to: OneOf<EgressDestination>,
    /// The day from which the rule no longer lets anything out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Date>,
}

/// Conditions on the identity of the workload, all of which must hold; at least one is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "egress-source", deny_unknown_fields, extend("minProperties" = 1))]
pub struct EgressSource {
    /// SPIFFE IDs, compared byte for byte.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_texts")]
    #[schemars(with = "Option<OneOf<schema::Id>>")]
    pub principals: Option<OneOf<SpiffeId>>,
    /// Service accounts of the workload's own trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<OneOf<ServiceAccount>>,
    /// Namespaces of the workload's own trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<OneOf<Name>>,
}

/// Where something may go: at one of `ports`, and one each of `hosts` or `sni` and of `ipBlocks`, as far as they are given;
/// one of the three is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(
    rename = "egress-destination",
    deny_unknown_fields,
    extend(
        "anyOf" = [{"required": ["hosts"]}, {"required": ["sni"]}, {"required": ["ipBlocks"]}],
        "dependentSchemas" = {"sni": {"properties": {"hosts": false}}},
    )
)]
pub struct EgressDestination {
    /// Patterns of the host that an HTTP request names, or a `CONNECT`. The sidecar looks the name up by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<OneOf<HostPattern>>,
    /// Patterns of the server name of the application's own TLS. The sidecar looks the name up by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<OneOf<HostPattern>>,
    /// Where the connection goes. Beside a name: which of the name's addresses. An address that is not of the public
    /// Internet is meant only by a block that holds nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_blocks: Option<OneOf<IpBlock>>,
    /// The ports there.
    #[schemars(with = "OneOf<schema::Port>")]
    pub ports: OneOf<u16>,
}

/// Where the workloads that it selects may go outside of the mesh. A field that is not listed here is an error.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EgressPolicy", deny_unknown_fields)]
pub(crate) struct Form<'p> {
    /// The version of this form.
    #[schemars(extend("const" = API_VERSION))]
    api_version: &'static str,
    /// What this document is.
    #[schemars(extend("const" = EGRESS_KIND))]
    kind: &'static str,
    /// What the policy is called.
    metadata: &'p Metadata,
    /// What it says.
    spec: &'p EgressSpec,
}

impl Serialize for EgressPolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { metadata, spec } = self;
        Form { api_version: API_VERSION, kind: EGRESS_KIND, metadata, spec }.serialize(serializer)
    }
}
