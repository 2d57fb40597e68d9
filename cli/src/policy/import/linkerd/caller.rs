//! Who a policy lets in: the authentications that it requires, all of them at once.

use serde_json::json;

use super::{
    super::{Object, Refusal, address, draft::Fields, only},
    Index,
};
use crate::yaml::Node;

/// The sources that meet every required authentication.
pub(super) fn sources(index: &Index<'_>, object: &Object<'_>, spec: &Node) -> Result<Vec<Fields>, Refusal> {
    let (mut callers, mut blocks) = (None, None);
    let required = spec.get("requiredAuthenticationRefs")?.map(Node::items).transpose()?.unwrap_or_default();
    for reference in required {
        only(reference, &["group", "kind", "name", "namespace"])?;
        let text = |field| reference.get(field)?.map(Node::text).transpose();
        let (kind, name) = (text("kind")?.unwrap_or_default(), text("name")?.unwrap_or_default());
        let namespace = text("namespace")?.unwrap_or(object.namespace);
        let found = || {
            let missing =
                || Refusal::at(reference, format!("{kind} {namespace}/{name} is not in these files"));
            index.find(kind, namespace, name).ok_or_else(missing)
        };
        let twice = || Refusal::at(reference, format!("two of {kind}, both of which must hold"));
        match kind {
            "ServiceAccount" if callers.is_none() => callers = Some(vec![account(namespace, name)]),
            "MeshTLSAuthentication" if callers.is_none() => callers = Some(mesh_tls(index, found()?)?),
            "NetworkAuthentication" if blocks.is_none() => blocks = Some(networks(found()?)?),
            "ServiceAccount" | "MeshTLSAuthentication" | "NetworkAuthentication" => return Err(twice()),
            _ => return Err(Refusal::at(reference, format!("{kind} has no translation"))),
        }
    }
    let Some(mut callers) = callers else {
        let why = "it lets in callers without an identity; here each has one";
        return Err(Refusal::at(spec, why));
    };
    if let Some(blocks) = blocks {
        for source in &mut callers {
            source.insert("ipBlocks".to_owned(), json!(blocks));
        }
    }
    Ok(callers)
}

fn mesh_tls(index: &Index<'_>, object: &Object<'_>) -> Result<Vec<Fields>, Refusal> {
    let spec = object.spec()?.ok_or_else(|| Refusal::at(object.node, "an authentication without `spec`"))?;
    only(spec, &["identities", "identityRefs"])?;
    let mut sources = Vec::new();
    for node in spec.get("identities")?.map(Node::items).transpose()?.unwrap_or_default() {
        sources.push(identity(index, node)?);
    }
    for node in spec.get("identityRefs")?.map(Node::items).transpose()?.unwrap_or_default() {
        only(node, &["group", "kind", "name", "namespace"])?;
        let text = |field| node.get(field)?.map(Node::text).transpose();
        let name = text("name")?;
        let namespace = text("namespace")?.unwrap_or(object.namespace);
        sources.push(match (text("kind")?.unwrap_or_default(), name) {
            ("ServiceAccount", Some(name)) => account(namespace, name),
            ("ServiceAccount", None) => of_namespace(namespace),
            ("Namespace", Some(name)) => of_namespace(name),
            (kind, _) => {
                return Err(Refusal::at(node, format!("the identity of a {kind} has no translation")));
            }
        });
    }
    if sources.is_empty() {
        return Err(Refusal::at(spec, "an authentication of nobody"));
    }
    Ok(sources)
}

/// `account.namespace.serviceaccount.identity.…`, `*` for the account, `*` for anybody, or a SPIFFE ID.
fn identity(index: &Index<'_>, node: &Node) -> Result<Fields, Refusal> {
    let text = node.text()?;
    if text == "*" {
        return Ok(index.everybody());
    }
    if text.starts_with("spiffe://") {
        return Ok(field("principals", json!([text])));
    }
    let name = text.split_once(".serviceaccount.identity.").map(|(name, _)| name);
    match name.and_then(|name| name.split_once('.')) {
        Some(("*", namespace)) if !namespace.contains(['.', '*']) => Ok(of_namespace(namespace)),
        Some((name, namespace)) if !namespace.contains(['.', '*']) && !name.contains('*') => {
            Ok(account(namespace, name))
        }
        _ => Err(Refusal::at(node, format!("the identity {text:?} has no translation"))),
    }
}

fn networks(object: &Object<'_>) -> Result<Vec<String>, Refusal> {
    let spec = object.spec()?.ok_or_else(|| Refusal::at(object.node, "an authentication without `spec`"))?;
    only(spec, &["networks"])?;
    let mut blocks = Vec::new();
    for node in spec.get("networks")?.map(Node::items).transpose()?.unwrap_or_default() {
        only(node, &["cidr", "except"])?;
        let cidr = node.get("cidr")?.ok_or_else(|| Refusal::at(node, "a network without `cidr`"))?.text()?;
        let except = super::super::texts(node, "except")?;
        blocks.extend(address::without(&[cidr], &except).map_err(|why| Refusal::at(node, why))?);
    }
    if blocks.is_empty() {
        return Err(Refusal::at(spec, "an authentication of no network"));
    }
    Ok(blocks)
}

fn account(namespace: &str, name: &str) -> Fields {
    field("serviceAccounts", json!([format!("{namespace}/{name}")]))
}

fn of_namespace(namespace: &str) -> Fields {
    field("namespaces", json!([namespace]))
}

fn field(name: &str, value: serde_json::Value) -> Fields {
    [(name.to_owned(), value)].into_iter().collect()
}
