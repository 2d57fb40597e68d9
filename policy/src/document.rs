//! Receives YAML or JSON text; hands on a tree in which every value knows its line. Refuses what is not exactly one
//! reading of the text: duplicate keys, merge keys, unknown tags, documents over a limit.
//!
//! The tree exists so that every later refusal can name line, column and field path, for both forms alike.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{MergeKeyPolicy, Spanned};
use sidegate_codes::Code;

use crate::{PolicyError, limits};

mod cursor;

pub(crate) use cursor::{Cursor, Fields};

/// A value and where it is written.
#[derive(Debug)]
pub(crate) struct Node {
    value: Value,
    at: Position,
}

/// Line and column, counted from 1. JSON of the wire has none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

#[derive(Debug)]
enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
struct Key {
    name: String,
    at: Position,
}

/// Reads every document of a YAML file.
pub(crate) fn from_yaml(file: &str, text: &str) -> Result<Vec<Node>, PolicyError> {
    within_size(file, text)?;
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| yaml_error(file, &error))
}

/// Reads one JSON document.
pub(crate) fn from_json(file: &str, text: &str) -> Result<Node, PolicyError> {
    within_size(file, text)?;
    serde_json::from_str(text).map_err(|error| PolicyError {
        code: Code::PolicySyntax,
        file: file.to_owned(),
        line: None,
        column: None,
        field: None,
        message: format!("not valid JSON: {error}"),
    })
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            at: Position::of(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl Position {
    fn of(location: serde_saphyr::Location) -> Self {
        // Line 0 is the parser's "unknown".
        let known = |number: u64| u32::try_from(number).ok().filter(|number| *number > 0);
        Self {
            line: known(location.line()),
            column: known(location.column()),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        // Beyond every integer of the language either way; the range check refuses it.
        Ok(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        // The YAML parser refuses duplicates by itself; serde_json would let the last one win.
        let mut seen = BTreeSet::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            if !seen.insert(key.value.clone()) {
                return Err(de::Error::custom(format!("duplicate key `{}`", key.value)));
            }
            let at = Position::of(key.referenced);
            map.push((Key { name: key.value, at }, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

fn within_size(file: &str, text: &str) -> Result<(), PolicyError> {
    if text.len() <= limits::FILE_BYTES {
        return Ok(());
    }
    Err(PolicyError {
        code: Code::PolicyTooLarge,
        file: file.to_owned(),
        line: None,
        column: None,
        field: None,
        message: format!("{} bytes; at most {} are read", text.len(), limits::FILE_BYTES),
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::DEPTH,
            flow_nesting_limit: limits::DEPTH,
            max_nodes: limits::NODES,
            max_documents: limits::POLICIES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: limits::NODES,
            max_replay_stack_depth: limits::DEPTH,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        // A merged map can hide a field from the reader of the file.
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn yaml_error(file: &str, error: &serde_saphyr::Error) -> PolicyError {
    let at = error.location().map(Position::of).unwrap_or_default();
    PolicyError {
        code: if is_over_budget(error) {
            Code::PolicyTooLarge
        } else {
            Code::PolicySyntax
        },
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        field: None,
        message: format!("not valid YAML: {error}"),
    }
}

fn is_over_budget(error: &serde_saphyr::Error) -> bool {
    use serde_saphyr::Error;
    matches!(
        error.without_snippet(),
        Error::Budget { .. }
            | Error::AliasReplayCounterOverflow { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
    )
}
