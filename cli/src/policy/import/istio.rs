//! Istio's policies, with the meaning that Istio's reference gives them for sidecars.

mod issuers;
mod operation;
mod part;
mod rule;
mod token;

use std::collections::BTreeMap;

use sidegate_identity::TrustDomain;

use self::{
    issuers::{Verified, verified},
    rule::Translator,
};
use super::{
    Object, Refusal,
    draft::{Action, Draft},
    only,
    report::Report,
};
use crate::yaml::Node;

/// Translates every object of Istio's security API, and leaves others alone.
pub(super) fn translate(objects: &[Object<'_>], trust_domain: &TrustDomain, report: &mut Report) {
    let is_of_tokens =
        |object: &&Object<'_>| (object.group, object.kind) == ("security.istio.io", "RequestAuthentication");
    let verified: Vec<Verified> =
        objects.iter().filter(is_of_tokens).filter_map(|object| verified(object).ok()).collect();
    for object in objects {
        match (object.group, object.kind) {
            ("security.istio.io", "AuthorizationPolicy") => {
                let issuers = issuers::of_namespace(&verified, object.namespace);
                authorization(object, trust_domain, issuers, report);
            }
            ("security.istio.io", "PeerAuthentication") => peers(object, report),
            ("security.istio.io", "RequestAuthentication") => match issuers::verified(object) {
                Ok(verified) => report.configures(object, verified.workloads, verified.jwt),
                // Without it an invalid token would reach the application.
                Err(refusal) => report.refused(object, refusal, Some(stand_in(object))),
            },
            ("security.istio.io", kind) => {
                let why = format!("{kind} is not known");
                report.refused(object, Refusal::at(object.node, why), Some(stand_in(object)));
            }
            _ => report.ignored(object),
        }
    }
    if !verified.is_empty() {
        report.note("a token in the query (`access_token`) is none here: it is not looked at");
    }
    let allowed = |deny: &Draft, allow: &Draft| {
        allow.action == Action::Allow && (allow.namespace == deny.namespace || allow.namespace == ROOT)
    };
    let drafts = &report.drafts;
    let alone = drafts
        .iter()
        .filter(|deny| deny.action == Action::Deny && !drafts.iter().any(|allow| allowed(deny, allow)));
    let names: Vec<String> = alone.map(Draft::id).collect();
    if !names.is_empty() {
        report.note(format!(
            "no Allow policy beside {}: Istio lets in what is not denied, here nothing is let in without an Allow",
            names.join(", ")
        ));
    }
    if report.drafts.iter().any(|draft| draft.namespace == ROOT) {
        report.note(format!(
            "policies of {ROOT} hold for the whole mesh if mesh.yaml says `rootNamespace: {ROOT}`"
        ));
    }
}

fn authorization(object: &Object<'_>, trust_domain: &TrustDomain, issuers: Vec<String>, report: &mut Report) {
    match draft(object, trust_domain, issuers) {
        Ok(Some(draft)) => match draft.problem() {
            None => report.translated(object, vec![draft]),
            Some(problem) => {
                let stand_in = (draft.action == Action::Deny).then_some(draft);
                report.refused(object, Refusal::at(object.node, problem), stand_in);
            }
        },
        // No rules: an ALLOW lets nobody in, which holds anyway, and a DENY denies nothing.
        Ok(None) => report.translated(object, Vec::new()),
        Err(refusal) => {
            let action = object.node.at(&["spec", "action"]).ok().flatten().and_then(|node| node.text().ok());
            // What grants is narrower without it, and AUDIT decides nothing.
            let is_safe = matches!(action, None | Some("ALLOW" | "AUDIT"));
            report.refused(object, refusal, (!is_safe).then(|| stand_in(object)));
        }
    }
}

fn draft(
    object: &Object<'_>,
    trust_domain: &TrustDomain,
    issuers: Vec<String>,
) -> Result<Option<Draft>, Refusal> {
    only(object.node, &["apiVersion", "kind", "metadata", "spec", "status"])?;
    let mut draft = Draft { is_shadow: is_dry_run(object)?, ..stand_in(object) };
    let Some(spec) = object.spec()? else {
        return Ok(None);
    };
    only(spec, &["selector", "rules", "action"])?;
    draft.action = match spec.get("action")?.map(Node::text).transpose()? {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => {
            return Err(Refusal::at(spec, "AUDIT decides nothing; `mode: Shadow` shows a verdict"));
        }
        Some(other) => return Err(Refusal::at(spec, format!("action {other} has no translation"))),
    };
    draft.selector = selector(spec)?;
    let translator = Translator { trust_domain, namespace: object.namespace, action: draft.action, issuers };
    if let Some(rules) = spec.get("rules")? {
        for (number, rule) in (1_usize..).zip(rules.items()?) {
            draft.rules.extend(translator.rule(number, rule)?);
        }
    }
    Ok((!draft.rules.is_empty()).then_some(draft))
}

fn is_dry_run(object: &Object<'_>) -> Result<bool, Refusal> {
    let annotation = object.node.at(&["metadata", "annotations", "istio.io/dry-run"])?;
    match annotation.map(Node::scalar).transpose()?.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            Err(Refusal::at(object.node, format!("istio.io/dry-run: {other:?} is neither true nor false")))
        }
    }
}

fn selector(spec: &Node) -> Result<BTreeMap<String, String>, Refusal> {
    let Some(selector) = spec.get("selector")? else {
        return Ok(BTreeMap::new());
    };
    only(selector, &["matchLabels"])?;
    let Some(labels) = selector.get("matchLabels")? else {
        return Ok(BTreeMap::new());
    };
    let label = |(key, value): &(String, Node)| Ok((key.clone(), value.text()?.to_owned()));
    labels.fields()?.iter().map(label).collect()
}

/// Mutual TLS is not a setting here, so what asks for it holds, and what takes plaintext has no translation.
fn peers(object: &Object<'_>, report: &mut Report) {
    match modes(object) {
        Ok(()) => report.holds(object, "every inbound connection needs mutual TLS"),
        Err(refusal) => report.refused(object, refusal, None),
    }
}

fn modes(object: &Object<'_>) -> Result<(), Refusal> {
    let Some(spec) = object.spec()? else {
        return Err(Refusal::at(object.node, "without a mode it takes plaintext"));
    };
    only(spec, &["selector", "mtls", "portLevelMtls"])?;
    let ports = spec.get("portLevelMtls")?.map(Node::fields).transpose()?.unwrap_or_default();
    let modes = spec.get("mtls")?.into_iter().chain(ports.iter().map(|(_, mode)| mode));
    let mut seen = false;
    for mtls in modes {
        only(mtls, &["mode"])?;
        match mtls.get("mode")?.map(Node::text).transpose()? {
            Some("STRICT") => seen = true,
            mode => {
                let mode = mode.unwrap_or("UNSET");
                return Err(Refusal::at(
                    mtls,
                    format!("{mode} takes plaintext; here it needs an exception of its own"),
                ));
            }
        }
    }
    if seen { Ok(()) } else { Err(Refusal::at(spec, "without a mode it takes plaintext")) }
}

/// What a policy is about, whatever it says of it. A selector that cannot be read selects everything.
fn stand_in(object: &Object<'_>) -> Draft {
    let spec = object.node.get("spec").ok().flatten();
    Draft {
        origin: format!("{} {}, {}", object.kind, object.name, object.place()),
        namespace: object.namespace.to_owned(),
        name: object.name.to_owned(),
        selector: spec.and_then(|spec| selector(spec).ok()).unwrap_or_default(),
        action: Action::Deny,
        is_shadow: false,
        rules: Vec::new(),
    }
}

/// Istio's usual root namespace.
const ROOT: &str = "istio-system";
