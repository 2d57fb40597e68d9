//! Receives the document of a plaintext exception; hands on what it says. Refuses one that leaves out from where, to which
//! port, until when or why, and whatever names an identity: nobody who comes without TLS has one.

use super::{metadata, selector};
use crate::{
    PolicyError,
    document::{Cursor, Fields},
    limits,
    model::{PlaintextException, PlaintextOperation, PlaintextSource, PlaintextSpec},
};

pub(super) fn policy(
    fields: &Fields<'_>,
    default_namespace: Option<&str>,
) -> Result<PlaintextException, PolicyError> {
    let metadata = metadata(&fields.required("metadata")?, default_namespace)?;
    let spec = spec(&fields.required("spec")?)?;
    Ok(PlaintextException { metadata, spec })
}

fn spec(cursor: &Cursor<'_>) -> Result<PlaintextSpec, PolicyError> {
    let fields = cursor.fields(&["selector", "from", "to", "expires", "reason"])?;
    Ok(PlaintextSpec {
        selector: fields.optional("selector").map(|cursor| selector(&cursor)).transpose()?,
        from: fields.required("from")?.each(limits::ENTRIES, source)?,
        to: fields.required("to")?.each(limits::ENTRIES, operation)?,
        expires: fields.required("expires")?.value()?,
        reason: fields.required("reason")?.value()?,
    })
}

fn source(cursor: &Cursor<'_>) -> Result<PlaintextSource, PolicyError> {
    let fields = cursor.fields(&["ipBlocks"])?;
    Ok(PlaintextSource { ip_blocks: fields.required("ipBlocks")?.values()? })
}

fn operation(cursor: &Cursor<'_>) -> Result<PlaintextOperation, PolicyError> {
    let fields = cursor.fields(&["ports", "methods", "paths"])?;
    Ok(PlaintextOperation {
        ports: fields.required("ports")?.each(limits::VALUES, super::port)?,
        methods: fields.values("methods")?,
        paths: fields.values("paths")?,
    })
}
