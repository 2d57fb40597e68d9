//! A source or an operation: what its fields say, and what only CEL can say of it.

use serde_json::json;

use super::{
    super::{
        Refusal,
        draft::Fields,
        glob::{self, Glob},
    },
    token::Token,
};
use crate::yaml::Node;

/// A source or an operation: its fields, and what only CEL can say of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) fields: Fields,
    pub(super) when: Vec<String>,
    /// One of these, if any is asked for.
    pub(super) tokens: Option<Vec<Token>>,
}

/// Entries of one list, with what holds for all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) entries: Vec<Fields>,
    pub(super) when: Vec<String>,
    pub(super) tokens: Option<Vec<Token>>,
}

impl Part {
    /// One of these: in a field where all are exact, in CEL otherwise. Where any will do there is nothing to ask.
    pub(super) fn any(&mut self, globs: &[Glob], field: Option<&str>, attribute: &str) {
        if globs.is_empty() || globs.contains(&Glob::Present) {
            return;
        }
        match (Glob::exact(globs), field) {
            (Some(texts), Some(field)) => {
                self.fields.insert(field.to_owned(), json!(texts));
            }
            _ => self.when.push(glob::is_any(attribute, globs)),
        }
    }

    /// None of these.
    pub(super) fn none(&mut self, node: &Node, globs: &[Glob], attribute: &str) -> Result<(), Refusal> {
        if globs.contains(&Glob::Present) {
            return Err(Refusal::at(node, "`*` in a negative list matches nothing that has an identity"));
        }
        if !globs.is_empty() {
            self.when.push(glob::is_none(attribute, globs));
        }
        Ok(())
    }
}

/// What can stand in one list, and what needs a rule of its own. A part without any condition takes everything.
pub(super) fn grouped(parts: Vec<Part>) -> Vec<Group> {
    let is_plain = |part: &Part| part.when.is_empty() && part.tokens.is_none();
    if parts.is_empty() || parts.iter().any(|part| is_plain(part) && part.fields.is_empty()) {
        return vec![Group::default()];
    }
    let (plain, others): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(is_plain);
    let mut groups = Vec::new();
    if !plain.is_empty() {
        let entries = plain.into_iter().map(|part| part.fields).collect();
        groups.push(Group { entries, ..Group::default() });
    }
    let alone = |Part { fields, when, tokens }| Group {
        entries: Some(fields).into_iter().filter(|it| !it.is_empty()).collect(),
        when,
        tokens,
    };
    groups.extend(others.into_iter().map(alone));
    groups
}
