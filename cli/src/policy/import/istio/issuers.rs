//! `RequestAuthentication`: whose tokens are verified. That is said in the file of a sidecar and not in a policy, so it becomes
//! the `jwt` of the sidecars of the workloads that it selects.

use serde_json::{Value, json};

use super::{
    super::{Object, Refusal, only, texts},
    ROOT, selector,
};
use crate::yaml::Node;

/// The `jwt` of a sidecar.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    namespace: String,
    pub(super) jwt: Value,
    /// Whose sidecars it is for.
    pub(super) workloads: String,
    issuers: Vec<String>,
}

/// Translates one object.
pub(super) fn verified(object: &Object<'_>) -> Result<Verified, Refusal> {
    only(object.node, &["apiVersion", "kind", "metadata", "spec", "status"])?;
    let spec = object.spec()?.ok_or_else(|| Refusal::at(object.node, EMPTY))?;
    only(spec, &["selector", "jwtRules"])?;
    let selector = selector(spec)?;
    let rules = spec.get("jwtRules")?.map(Node::items).transpose()?.unwrap_or_default();
    let (mut issuers, mut names, mut way) = (Vec::new(), Vec::new(), None);
    for rule in rules {
        let (issuer, keys) = issuer(rule)?;
        let this = (header(rule)?, forwards(rule)?);
        if way.get_or_insert_with(|| this.clone()) != &this {
            return Err(Refusal::at(
                rule,
                "a sidecar takes tokens of all issuers from one header field, and forwards all or none",
            ));
        }
        issuers.push(keys);
        names.push(issuer);
    }
    let (header, forward) = way.ok_or_else(|| Refusal::at(spec, EMPTY))?;
    let whose =
        if object.namespace == ROOT { "every namespace".to_owned() } else { object.namespace.to_owned() };
    let workloads = if selector.is_empty() { whose } else { format!("{whose} with {}", json!(selector)) };
    let jwt = json!({"header": header, "forward": forward, "issuers": issuers});
    Ok(Verified { namespace: object.namespace.to_owned(), jwt, workloads, issuers: names })
}

/// The issuers whose tokens workloads of the namespace may verify.
pub(super) fn of_namespace(verified: &[Verified], namespace: &str) -> Vec<String> {
    let is_for = |it: &&Verified| it.namespace == namespace || it.namespace == ROOT || namespace == ROOT;
    let mut issuers: Vec<String> = verified.iter().filter(is_for).flat_map(|it| it.issuers.clone()).collect();
    issuers.sort();
    issuers.dedup();
    issuers
}

fn issuer(rule: &Node) -> Result<(String, Value), Refusal> {
    only(rule, &["issuer", "audiences", "jwksUri", "jwks_uri", "fromHeaders", "forwardOriginalToken"])?;
    let issuer = rule.get("issuer")?.map(Node::text).transpose()?.unwrap_or_default();
    let audiences = texts(rule, "audiences")?;
    if issuer.is_empty() || audiences.is_empty() {
        return Err(Refusal::at(
            rule,
            "an issuer without `audiences` takes tokens that are for somebody else; here they are named",
        ));
    }
    let uri = match (rule.get("jwksUri")?, rule.get("jwks_uri")?) {
        (Some(uri), None) | (None, Some(uri)) => uri.text()?,
        _ => {
            return Err(Refusal::at(
                rule,
                "without `jwksUri` the keys would be discovered; here their URL or file is named",
            ));
        }
    };
    if !uri.starts_with("https://") {
        return Err(Refusal::at(rule, format!("keys from {uri:?} come in plaintext")));
    }
    let keys = json!({"url": uri, "trustBundle": AUTHORITIES});
    Ok((issuer.to_owned(), json!({"issuer": issuer, "audiences": audiences, "keys": keys})))
}

/// The one field that holds the token.
fn header(rule: &Node) -> Result<String, Refusal> {
    let Some(list) = rule.get("fromHeaders")? else { return Ok("authorization".to_owned()) };
    let [field] = list.items()? else {
        return Err(Refusal::at(list, "a token stands in one header field here"));
    };
    only(field, &["name", "prefix"])?;
    let name = field.get("name")?.map(Node::text).transpose()?.unwrap_or_default().to_ascii_lowercase();
    match (name.as_str(), field.get("prefix")?.map(Node::text).transpose()?) {
        ("authorization", Some("Bearer ")) => Ok(name),
        ("authorization" | "", _) | (_, Some(_)) => Err(Refusal::at(
            field,
            "a token stands behind `Bearer ` in authorization, or alone in another field",
        )),
        (_, None) => Ok(name),
    }
}

fn forwards(rule: &Node) -> Result<bool, Refusal> {
    match rule.get("forwardOriginalToken")?.map(Node::scalar).transpose()?.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            Err(Refusal::at(rule, format!("forwardOriginalToken: {other:?} is neither true nor false")))
        }
    }
}

const EMPTY: &str = "it names no issuer";
/// Where most systems keep the authorities that Istio trusts for keys.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
