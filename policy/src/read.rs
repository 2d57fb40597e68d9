//! Receives a document; hands on the policies in it, each with the place where it is written. The first thing that
//! is not understood refuses the whole document.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use sidegate_codes::Code;

use crate::{
    ClaimName, ClaimTest, ClaimValue, Condition, Jwt, PolicyError, Rego,
    document::{self, Cursor, Fields, Node, Position},
    limits,
    model::{
        API_VERSION, Action, AuthorizationPolicy, EGRESS_KIND, EgressPolicy, EgressRule, Grpc, KIND,
        Metadata, Mode, OneOf, Operation, PLAINTEXT_KIND, Peer, PlaintextException, Rule, Spec,
    },
    values::Name,
};

mod egress;
mod plaintext;

/// A document of a policies file.
#[derive(Clone, Debug)]
pub enum Document {
    /// Who may do what to a workload.
    Authorization(Sourced),
    /// Where a workload may go outside of the mesh.
    Egress(Sourced<EgressPolicy>),
    /// Who may reach a workload without TLS.
    Plaintext(Sourced<PlaintextException>),
}

/// A policy, and where it is written.
#[derive(Clone, Debug)]
pub struct Sourced<P = AuthorizationPolicy> {
    policy: P,
    /// `namespace/name`
    name: Arc<str>,
    /// `policies/payments.yaml:12`
    source: Arc<str>,
    file: Arc<str>,
    at: Position,
    /// Of the policy's rules, in their order.
    rule_sources: Box<[Arc<str>]>,
    rules_at: Places,
}

impl Document {
    /// `namespace/name`, unique in a set whatever the kind.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Authorization(sourced) => sourced.name(),
            Self::Egress(sourced) => sourced.name(),
            Self::Plaintext(sourced) => sourced.name(),
        }
    }

    /// Where it is written, as in `policies/payments.yaml:12`.
    pub fn source(&self) -> &Arc<str> {
        match self {
            Self::Authorization(sourced) => sourced.source(),
            Self::Egress(sourced) => sourced.source(),
            Self::Plaintext(sourced) => sourced.source(),
        }
    }

    /// The form that the wire carries; [`parse_json`] reads it back.
    pub fn to_json(&self) -> String {
        match self {
            Self::Authorization(sourced) => sourced.to_json(),
            Self::Egress(sourced) => sourced.to_json(),
            Self::Plaintext(sourced) => sourced.to_json(),
        }
    }

    /// The policy, if it is about who may do what.
    pub fn into_authorization(self) -> Option<Sourced> {
        match self {
            Self::Authorization(sourced) => Some(sourced),
            Self::Egress(_) | Self::Plaintext(_) => None,
        }
    }

    /// What it is called.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Authorization(sourced) => &sourced.policy.metadata,
            Self::Egress(sourced) => &sourced.policy.metadata,
            Self::Plaintext(sourced) => &sourced.policy.metadata,
        }
    }

    /// Labels that a workload must all have to be selected.
    pub fn selector(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Authorization(sourced) => sourced.policy.spec.selector.as_ref(),
            Self::Egress(sourced) => sourced.policy.spec.selector.as_ref(),
            Self::Plaintext(sourced) => sourced.policy.spec.selector.as_ref(),
        }
    }

    /// How many rules it has.
    pub(crate) fn rules(&self) -> usize {
        match self {
            Self::Authorization(sourced) => sourced.policy.spec.rules.len(),
            Self::Egress(sourced) => sourced.policy.spec.rules.len(),
            Self::Plaintext(_) => 1,
        }
    }

    /// An error about the policy as a whole, where it begins.
    pub(crate) fn error(&self, code: Code, field: &str, message: String) -> PolicyError {
        match self {
            Self::Authorization(sourced) => sourced.error(code, field, message),
            Self::Egress(sourced) => sourced.error(code, field, message),
            Self::Plaintext(sourced) => sourced.error(code, field, message),
        }
    }
}

impl From<Sourced> for Arc<Document> {
    fn from(sourced: Sourced) -> Self {
        Self::new(Document::Authorization(sourced))
    }
}

impl<P: Serialize> Sourced<P> {
    /// The form that the wire carries; [`parse_json`] reads it back.
    pub fn to_json(&self) -> String {
        // Maps of text and lists cannot fail to print; an empty document would be refused by the reader.
        serde_json::to_string(&self.policy).unwrap_or_default()
    }
}

impl<P> Sourced<P> {
    /// `namespace/name`, unique in a set.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where the policy is written, as in `policies/payments.yaml:12`.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The policy itself.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// An error about the policy as a whole, where it begins.
    pub(crate) fn error(&self, code: Code, field: &str, message: String) -> PolicyError {
        PolicyError {
            code,
            file: self.file.to_string(),
            line: self.at.line,
            column: self.at.column,
            field: Some(field.to_owned()),
            message,
        }
    }
}

impl Sourced<EgressPolicy> {
    /// The rules in their order, each with where it is written.
    pub fn rules(&self) -> impl Iterator<Item = (&EgressRule, &Arc<str>)> {
        self.policy.spec.rules.iter().zip(&self.rule_sources)
    }
}

impl Sourced {
    /// An error about one operation of a rule, where the rule begins.
    pub(crate) fn operation_error(&self, rule: usize, operation: usize, message: String) -> PolicyError {
        let field = format!("spec.rules[{rule}].to[{operation}]");
        let Position { line, column } = self.rules_at.get(rule).copied().unwrap_or_default();
        PolicyError { line, column, ..self.error(Code::PolicyBadValue, &field, message) }
    }

    /// The rules in their order, each with where it is written.
    pub fn rules(&self) -> impl Iterator<Item = (&Rule, &Arc<str>)> {
        self.policy.spec.rules.iter().zip(&self.rule_sources)
    }
}

/// Reads every policy of a YAML file; `file` names it in messages. `default_namespace` stands in where
/// `metadata.namespace` is missing.
///
/// A file that holds no policy is refused: an editor that empties a file before it writes it anew must not switch
/// off the Deny policies in it.
pub fn parse_yaml(
    file: &str,
    text: &(impl AsRef<[u8]> + ?Sized),
    default_namespace: Option<&str>,
) -> Result<Vec<Document>, PolicyError> {
    let documents = document::from_yaml(file, text.as_ref())?;
    if documents.is_empty() {
        return Err(no_policy(file));
    }
    documents.iter().map(|node| read(file, node, default_namespace)).collect()
}

/// Reads the form of the wire. `source` says where the author wrote it, as in `policies/payments.yaml:12`.
pub fn parse_json(document: &str, source: &str) -> Result<Document, PolicyError> {
    let node = document::from_json(source, document)?;
    read(source, &node, None)
}

/// Where each rule begins.
type Places = Vec<Position>;

#[derive(Clone, Copy)]
enum Kind {
    Authorization,
    Egress,
    Plaintext,
}

/// Reads one authorization policy.
pub(crate) fn policy(
    root: &Cursor<'_>,
    default_namespace: Option<&str>,
) -> Result<(AuthorizationPolicy, Places), PolicyError> {
    let fields = root.fields(&FIELDS)?;
    fields.required("apiVersion")?.word(&[(API_VERSION, ())])?;
    fields.required("kind")?.word(&[(KIND, ())])?;
    authorization(&fields, default_namespace)
}

fn authorization(
    fields: &Fields<'_>,
    default_namespace: Option<&str>,
) -> Result<(AuthorizationPolicy, Places), PolicyError> {
    let metadata = metadata(&fields.required("metadata")?, default_namespace)?;
    let (spec, rules_at) = spec(&fields.required("spec")?)?;
    Ok((AuthorizationPolicy { metadata, spec }, rules_at))
}

fn no_policy(file: &str) -> PolicyError {
    PolicyError {
        code: Code::PolicyIncomplete,
        file: file.to_owned(),
        line: None,
        column: None,
        field: None,
        message: "holds no policy; delete the file if none is meant".to_owned(),
    }
}

fn read(file: &str, node: &Node, default_namespace: Option<&str>) -> Result<Document, PolicyError> {
    let root = Cursor::root(file, node);
    let fields = root.fields(&FIELDS)?;
    fields.required("apiVersion")?.word(&[(API_VERSION, ())])?;
    let kinds = [(KIND, Kind::Authorization), (EGRESS_KIND, Kind::Egress), (PLAINTEXT_KIND, Kind::Plaintext)];
    match fields.required("kind")?.word(&kinds)? {
        Kind::Authorization => {
            let (policy, places) = authorization(&fields, default_namespace)?;
            let name = full_name(&policy.metadata);
            Ok(Document::Authorization(sourced(file, &root, policy, name, places)))
        }
        Kind::Egress => {
            let (policy, places) = egress::policy(&fields, default_namespace)?;
            let name = full_name(&policy.metadata);
            Ok(Document::Egress(sourced(file, &root, policy, name, places)))
        }
        Kind::Plaintext => {
            let policy = plaintext::policy(&fields, default_namespace)?;
            let name = full_name(&policy.metadata);
            // It is a rule by itself, and written where that is.
            Ok(Document::Plaintext(sourced(file, &root, policy, name, vec![root.at()])))
        }
    }
}

fn sourced<P>(file: &str, root: &Cursor<'_>, policy: P, name: Arc<str>, rules_at: Places) -> Sourced<P> {
    Sourced {
        name,
        source: place(file, root.at()),
        rule_sources: rules_at.iter().map(|at| place(file, *at)).collect(),
        rules_at,
        file: file.into(),
        at: root.at(),
        policy,
    }
}

fn full_name(metadata: &Metadata) -> Arc<str> {
    format!("{}/{}", metadata.namespace, metadata.name).into()
}

fn place(file: &str, at: Position) -> Arc<str> {
    at.line.map_or_else(|| file.into(), |line| format!("{file}:{line}").into())
}

fn metadata(cursor: &Cursor<'_>, default_namespace: Option<&str>) -> Result<Metadata, PolicyError> {
    let fields = cursor.fields(&["name", "namespace"])?;
    let namespace = match (fields.name("namespace")?, default_namespace) {
        (Some(namespace), _) => namespace,
        (None, Some(namespace)) => namespace.parse().map_err(|reason| {
            cursor.error(Code::PolicyBadValue, format!("namespace {namespace:?}: {reason}"))
        })?,
        (None, None) => fields.required("namespace")?.value()?,
    };
    Ok(Metadata { name: fields.required("name")?.value()?, namespace })
}

fn spec(cursor: &Cursor<'_>) -> Result<(Spec, Places), PolicyError> {
    let fields = cursor.fields(&["selector", "action", "mode", "rules"])?;
    // In the order in which a person reads them: the first error is the one that is told.
    let selector = fields.optional("selector").map(|cursor| selector(&cursor)).transpose()?;
    let action = fields.required("action")?.word(&[
        ("Allow", Action::Allow),
        ("Deny", Action::Deny),
        ("Require", Action::Require),
    ])?;
    let mode = mode(&fields)?;
    let (rules, places) = rules(&fields, rule, |rule| &rule.name)?;
    let spec = Spec { selector, action, mode, rules };
    if spec.action != Action::Require {
        refuse_rego(&spec.rules, &fields.required("rules")?.items(limits::RULES_PER_POLICY)?)?;
    }
    Ok((spec, places))
}

fn mode(fields: &Fields<'_>) -> Result<Mode, PolicyError> {
    fields.optional("mode").map_or(Ok(Mode::unwritten()), |cursor| {
        cursor.word(&[("Enforce", Mode::Enforce), ("Shadow", Mode::Shadow)])
    })
}

fn selector(cursor: &Cursor<'_>) -> Result<BTreeMap<String, String>, PolicyError> {
    let label = |(key, value): &(&str, Cursor<'_>)| {
        let text = value.text()?;
        if is_label_key(key) && is_label_value(text) {
            Ok(((*key).to_owned(), text.to_owned()))
        } else {
            Err(value.error(Code::PolicyBadValue, format!("{key:?}: {text:?} is not a label")))
        }
    };
    cursor.pairs(limits::LABELS)?.iter().map(label).collect()
}

fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').unwrap_or(("a", text));
    prefix.parse::<Name>().is_ok() && name.parse::<Name>().is_ok()
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || text.parse::<Name>().is_ok()
}

/// The field `rules`, each rule read by `read`, and where each begins. No two have one name.
fn rules<R>(
    fields: &Fields<'_>,
    read: impl Fn(&Cursor<'_>, usize) -> Result<R, PolicyError>,
    name: impl Fn(&R) -> &Name,
) -> Result<(OneOf<R>, Places), PolicyError> {
    let list = fields.required("rules")?;
    let items = list.items(limits::RULES_PER_POLICY)?;
    let mut names: BTreeMap<Name, usize> = BTreeMap::new();
    let mut rules = Vec::new();
    for (position, item) in (1_usize..).zip(&items) {
        let rule = read(item, position)?;
        if let Some(first) = names.insert(name(&rule).clone(), position) {
            let message = format!("rule {position} has the name of rule {first}: {}", name(&rule));
            return Err(item.error(Code::PolicyDuplicate, message));
        }
        rules.push(rule);
    }
    let rules = OneOf::new(rules).ok_or_else(|| list.error(Code::PolicyIncomplete, "has no rules"))?;
    Ok((rules, items.iter().map(Cursor::at).collect()))
}

fn rule(cursor: &Cursor<'_>, position: usize) -> Result<Rule, PolicyError> {
    let fields = cursor.fields(&["name", "from", "to", "jwt", "when", "rego", "expires"])?;
    let from = fields.optional("from").map(|from| from.each(limits::ENTRIES, peer)).transpose()?;
    let to = fields.optional("to").map(|to| to.each(limits::ENTRIES, operation)).transpose()?;
    let jwt = fields.optional("jwt").map(|jwt| token(&jwt)).transpose()?;
    let when = fields.optional("when").map(|when| condition(&when)).transpose()?;
    let rego = fields.optional("rego").map(|rego| module(&rego)).transpose()?;
    let has_sni = |to: &OneOf<Operation>| to.iter().any(|operation| operation.sni.is_some());
    if let (Some(token), true) = (fields.optional("jwt"), to.as_ref().is_some_and(has_sni)) {
        let message =
            "cannot stand beside `sni`: TLS that the sidecar does not end has no token that it could read";
        return Err(token.error(Code::PolicyBadValue, message));
    }
    if from.is_none() && to.is_none() && jwt.is_none() && when.is_none() && rego.is_none() {
        // Forgotten or meant? Who means it writes `to: [{paths: ["/**"]}]`, or the trust domains it is for.
        let message = "matches everything; a rule needs `from`, `to`, `jwt`, `when` or `rego`";
        return Err(cursor.error(Code::PolicyIncomplete, message));
    }
    Ok(Rule {
        name: rule_name(cursor, &fields, position)?,
        from,
        to,
        jwt,
        when,
        rego,
        expires: fields.optional("expires").map(|expires| expires.value()).transpose()?,
    })
}

fn condition(cursor: &Cursor<'_>) -> Result<Condition, PolicyError> {
    bounded(cursor, limits::CONDITION_BYTES)?;
    cursor.value()
}

fn module(cursor: &Cursor<'_>) -> Result<Rego, PolicyError> {
    let text = bounded(cursor, limits::REGO_BYTES)?;
    // The module is longer than a message is to be.
    text.parse().map_err(|reason| cursor.error(Code::PolicyBadValue, format!("{reason}")))
}

fn bounded<'c>(cursor: &'c Cursor<'_>, most: usize) -> Result<&'c str, PolicyError> {
    let text = cursor.text()?;
    match text.len() {
        len if len > most => {
            Err(cursor.error(Code::PolicyTooLarge, format!("{len} bytes; at most {most} are allowed")))
        }
        _ => Ok(text),
    }
}

/// In a Require alone: what a module leaves undefined would open a Deny and is no reason to allow.
fn refuse_rego(rules: &OneOf<Rule>, items: &[Cursor<'_>]) -> Result<(), PolicyError> {
    match rules.iter().zip(items).find(|(rule, _)| rule.rego.is_some()) {
        None => Ok(()),
        Some((_, item)) => Err(item.error(Code::PolicyBadValue, "`rego` can stand in a Require alone")),
    }
}

fn token(cursor: &Cursor<'_>) -> Result<Jwt, PolicyError> {
    let fields = cursor.fields(&["issuer", "audiences", "claims"])?;
    Ok(Jwt {
        issuer: fields.required("issuer")?.value()?,
        audiences: fields.values("audiences")?,
        claims: fields.optional("claims").map(|claims| claim_tests(&claims)).transpose()?,
    })
}

fn claim_tests(cursor: &Cursor<'_>) -> Result<BTreeMap<ClaimName, ClaimTest>, PolicyError> {
    let test = |(name, test): &(&str, Cursor<'_>)| {
        let name =
            name.parse().map_err(|reason| test.error(Code::PolicyBadValue, format!("{name:?}: {reason}")))?;
        Ok((name, claim_test(test)?))
    };
    cursor.pairs(limits::CLAIMS)?.iter().map(test).collect()
}

fn claim_test(cursor: &Cursor<'_>) -> Result<ClaimTest, PolicyError> {
    let known = ["exists", "equals", "containsAny"];
    let fields = cursor.fields(&known)?;
    if known.iter().filter(|name| fields.optional(name).is_some()).count() > 1 {
        let message = "asks one question; ask another in another rule, or with `when`";
        return Err(cursor.error(Code::PolicyBadValue, message));
    }
    Ok(ClaimTest {
        exists: fields.optional("exists").map(|exists| exists.boolean()).transpose()?,
        equals: fields.optional("equals").map(|equals| claim_value(&equals)).transpose()?,
        contains_any: fields.values("containsAny")?,
    })
}

fn claim_value(cursor: &Cursor<'_>) -> Result<ClaimValue, PolicyError> {
    if let Ok(value) = cursor.boolean() {
        return Ok(ClaimValue::Bool(value));
    }
    match cursor.integer().map(i64::try_from) {
        Ok(Ok(number)) => Ok(ClaimValue::Integer(number)),
        Ok(Err(_)) => Err(cursor.error(Code::PolicyBadValue, "a number of more than 64 bits")),
        Err(_) => cursor.value().map(ClaimValue::Text),
    }
}

fn rule_name(cursor: &Cursor<'_>, fields: &Fields<'_>, position: usize) -> Result<Name, PolicyError> {
    if let Some(name) = fields.name("name")? {
        return Ok(name);
    }
    let name = format!("rule-{position}");
    name.parse().map_err(|reason| cursor.error(Code::PolicyBadValue, format!("{name}: {reason}")))
}

fn peer(cursor: &Cursor<'_>) -> Result<Peer, PolicyError> {
    let fields =
        cursor.fields(&["principals", "serviceAccounts", "namespaces", "trustDomains", "ipBlocks"])?;
    Ok(Peer {
        principals: fields.values("principals")?,
        service_accounts: fields.values("serviceAccounts")?,
        namespaces: fields.values("namespaces")?,
        trust_domains: fields
            .optional("trustDomains")
            .map(|cursor| cursor.each(limits::TRUST_DOMAINS, Cursor::value))
            .transpose()?,
        ip_blocks: fields.values("ipBlocks")?,
    })
}

fn operation(cursor: &Cursor<'_>) -> Result<Operation, PolicyError> {
    let fields = cursor.fields(&["methods", "paths", "hosts", "ports", "sni", "grpc"])?;
    let grpc = fields.optional("grpc").map(|cursor| grpc(&cursor)).transpose()?;
    if let (Some(_), Some(other)) = (&grpc, fields.optional("methods").or(fields.optional("paths"))) {
        // Another method or path could never be a gRPC call, and the same one says nothing.
        let message =
            "cannot stand beside `grpc`, which says method and path; write two operations if either is meant";
        return Err(other.error(Code::PolicyBadValue, message));
    }
    let of_http = ["methods", "paths", "hosts", "grpc"].into_iter().find_map(|name| fields.optional(name));
    if let (Some(_), Some(other)) = (fields.optional("sni"), of_http) {
        let message =
            "cannot stand beside `sni`: TLS that the sidecar does not end has no HTTP that it could read";
        return Err(other.error(Code::PolicyBadValue, message));
    }
    Ok(Operation {
        methods: fields.values("methods")?,
        paths: fields.values("paths")?,
        hosts: fields.values("hosts")?,
        ports: ports(&fields)?,
        sni: fields.values("sni")?,
        grpc,
    })
}

fn grpc(cursor: &Cursor<'_>) -> Result<Grpc, PolicyError> {
    let fields = cursor.fields(&["service", "method"])?;
    Ok(Grpc {
        service: fields.required("service")?.value()?,
        method: fields.optional("method").map(|method| method.value()).transpose()?,
    })
}

fn ports(fields: &Fields<'_>) -> Result<Option<OneOf<u16>>, PolicyError> {
    fields.optional("ports").map(|ports| ports.each(limits::VALUES, port)).transpose()
}

fn port(cursor: &Cursor<'_>) -> Result<u16, PolicyError> {
    let number = cursor.integer()?;
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(cursor.error(Code::PolicyBadValue, format!("{number}: a port is between 1 and 65535"))),
    }
}

const FIELDS: [&str; 4] = ["apiVersion", "kind", "metadata", "spec"];
