//! Receives the document of an egress policy; hands on what it says. Refuses an address in place of a name, and whatever
//! no connection could ever be: such a rule was meant otherwise.

use sidegate_codes::Code;

use super::{Places, metadata, mode, rules, selector};
use crate::{
    PolicyError,
    document::{Cursor, Fields},
    limits,
    model::{EgressDestination, EgressPolicy, EgressRule, EgressSource, EgressSpec, OneOf},
    values::HostPattern,
};

pub(super) fn policy(
    fields: &Fields<'_>,
    default_namespace: Option<&str>,
) -> Result<(EgressPolicy, Places), PolicyError> {
    let metadata = metadata(&fields.required("metadata")?, default_namespace)?;
    let (spec, places) = spec(&fields.required("spec")?)?;
    Ok((EgressPolicy { metadata, spec }, places))
}

fn spec(cursor: &Cursor<'_>) -> Result<(EgressSpec, Places), PolicyError> {
    let fields = cursor.fields(&["selector", "mode", "rules"])?;
    let selector = fields.optional("selector").map(|cursor| selector(&cursor)).transpose()?;
    let mode = mode(&fields)?;
    let (rules, places) = rules(&fields, rule, |rule| &rule.name)?;
    Ok((EgressSpec { selector, mode, rules }, places))
}

fn rule(cursor: &Cursor<'_>, position: usize) -> Result<EgressRule, PolicyError> {
    let fields = cursor.fields(&["name", "from", "to", "expires"])?;
    Ok(EgressRule {
        name: super::rule_name(cursor, &fields, position)?,
        from: fields.optional("from").map(|from| from.each(limits::ENTRIES, source)).transpose()?,
        to: fields.required("to")?.each(limits::ENTRIES, destination)?,
        expires: fields.optional("expires").map(|expires| expires.value()).transpose()?,
    })
}

fn source(cursor: &Cursor<'_>) -> Result<EgressSource, PolicyError> {
    let fields = cursor.fields(&["principals", "serviceAccounts", "namespaces"])?;
    Ok(EgressSource {
        principals: fields.values("principals")?,
        service_accounts: fields.values("serviceAccounts")?,
        namespaces: fields.values("namespaces")?,
    })
}

fn destination(cursor: &Cursor<'_>) -> Result<EgressDestination, PolicyError> {
    let fields = cursor.fields(&["hosts", "sni", "ipBlocks", "ports"])?;
    let given = |name| fields.optional(name);
    if given("hosts").is_none() && given("sni").is_none() && given("ipBlocks").is_none() {
        let message = "names no destination; it needs `hosts`, `sni` or `ipBlocks`";
        return Err(cursor.error(Code::PolicyIncomplete, message));
    }
    if let (Some(_), Some(other)) = (given("sni"), given("hosts")) {
        let message =
            "cannot stand beside `sni`: TLS that the sidecar does not end has no HTTP that it could read";
        return Err(other.error(Code::PolicyBadValue, message));
    }
    Ok(EgressDestination {
        hosts: names(&fields, "hosts")?,
        sni: names(&fields, "sni")?,
        ip_blocks: fields.values("ipBlocks")?,
        ports: fields.required("ports")?.each(limits::VALUES, super::port)?,
    })
}

/// Where an address is asked for in place of a host, it is judged as the address that it is.
fn names(fields: &Fields<'_>, field: &str) -> Result<Option<OneOf<HostPattern>>, PolicyError> {
    let read = |cursor: &Cursor<'_>| {
        let pattern: HostPattern = cursor.value()?;
        let top = cursor.text()?.rsplit('.').next().unwrap_or_default();
        if top.bytes().all(|byte| byte.is_ascii_digit()) {
            let message = "an address is no name, and never asked for as one; write it in `ipBlocks`";
            return Err(cursor.error(Code::PolicyBadValue, message));
        }
        Ok(pattern)
    };
    fields.optional(field).map(|cursor| cursor.each(limits::VALUES, read)).transpose()
}
