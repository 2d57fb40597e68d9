//! Receives YAML or JSON text; hands on a tree in which every value knows its line. Refuses what is not exactly one
//! reading of the text: duplicate keys, merge keys, unknown tags, documents over a limit.
//!
//! The tree exists so that every later refusal can name line, column and field path, for both forms alike.

use std::{borrow::Cow, collections::BTreeSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    DefaultMessageFormatter, ExternalMessageSource, Localizer, Location, MergeKeyPolicy, Spanned,
    granit_parser::ErrorKind,
};
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

/// What is written there.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The name of an entry of a map.
#[derive(Debug)]
pub(crate) struct Key {
    name: String,
    at: Position,
}

/// Reads every document of a YAML file.
pub(crate) fn from_yaml(file: &str, text: &[u8]) -> Result<Vec<Node>, PolicyError> {
    within_size(file, text)?;
    let text = utf8(file, text)?;
    let nodes: Vec<Child<Yaml>> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| yaml_error(file, &error))?;
    Ok(nodes.into_iter().map(|Child(node, _)| node).collect())
}

/// Reads one JSON document.
pub(crate) fn from_json(file: &str, text: &str) -> Result<Node, PolicyError> {
    within_size(file, text.as_bytes())?;
    serde_json::from_str(text).map(|Child::<Json>(node, _)| node).map_err(|error| PolicyError {
        code: Code::PolicySyntax,
        file: file.to_owned(),
        line: None,
        column: None,
        field: None,
        message: format!("not valid JSON: {error}"),
    })
}

impl Node {
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    /// An entry of a map; `None` too if this is none.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// A node of a form without places, such as JSON.
    pub(crate) fn without_places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Json::node(deserializer)
    }
}

impl Position {
    fn of(location: Location) -> Self {
        // Line 0 is the parser's "unknown".
        let known = |number: u64| u32::try_from(number).ok().filter(|number| *number > 0);
        Self { line: known(location.line()), column: known(location.column()) }
    }
}

/// A form of text: what it tells of places.
trait Form {
    fn node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error>;

    fn next_key<'de, A: MapAccess<'de>>(entries: &mut A) -> Result<Option<Key>, A::Error>;
}

struct Yaml;

struct Json;

impl Form for Yaml {
    fn node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let tree = Spanned::<Tree<Self>>::deserialize(deserializer)?;
        Ok(Node { value: tree.value.0, at: Position::of(tree.referenced) })
    }

    fn next_key<'de, A: MapAccess<'de>>(entries: &mut A) -> Result<Option<Key>, A::Error> {
        let key = entries.next_key::<Spanned<String>>()?;
        Ok(key.map(|key| Key { name: key.value, at: Position::of(key.referenced) }))
    }
}

impl Form for Json {
    fn node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let tree = Tree::<Self>::deserialize(deserializer)?;
        Ok(Node { value: tree.0, at: Position::default() })
    }

    fn next_key<'de, A: MapAccess<'de>>(entries: &mut A) -> Result<Option<Key>, A::Error> {
        Ok(entries.next_key()?.map(|name| Key { name, at: Position::default() }))
    }
}

/// A node as serde wants it: one type per form.
struct Child<F>(Node, PhantomData<F>);

impl<'de, F: Form> Deserialize<'de> for Child<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::node(deserializer).map(|node| Self(node, PhantomData))
    }
}

/// A value as serde wants it, likewise.
struct Tree<F>(Value, PhantomData<F>);

impl<'de, F: Form> Deserialize<'de> for Tree<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(ValueVisitor::<F>(PhantomData))?;
        Ok(Self(value, PhantomData))
    }
}

struct ValueVisitor<F>(PhantomData<F>);

impl<'de, F: Form> Visitor<'de> for ValueVisitor<F> {
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
        deserializer.deserialize_any(self)
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
        while let Some(Child(item, _)) = items.next_element::<Child<F>>()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        // The YAML parser refuses duplicates by itself; serde_json would let the last one win.
        let mut seen = BTreeSet::new();
        while let Some(key) = F::next_key(&mut entries)? {
            if !seen.insert(key.name.clone()) {
                return Err(de::Error::custom(format!("duplicate key `{}`", key.name)));
            }
            let Child(value, _) = entries.next_value::<Child<F>>()?;
            map.push((key, value));
        }
        Ok(Value::Map(map))
    }
}

fn within_size(file: &str, text: &[u8]) -> Result<(), PolicyError> {
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

/// Nothing stands in for a byte that is no text: a value would be another than the one that was written.
fn utf8<'t>(file: &str, text: &'t [u8]) -> Result<&'t str, PolicyError> {
    std::str::from_utf8(text).map_err(|error| {
        let before = String::from_utf8_lossy(text.get(..error.valid_up_to()).unwrap_or_default());
        let last = before.rsplit('\n').next().unwrap_or_default();
        let number = |before: usize| u32::try_from(before.saturating_add(1)).ok();
        PolicyError {
            code: Code::PolicySyntax,
            file: file.to_owned(),
            line: number(before.matches('\n').count()),
            column: number(last.chars().count()),
            field: None,
            message: "not UTF-8 from here on".to_owned(),
        }
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::DEPTH,
            flow_nesting_limit: limits::DEPTH,
            max_nodes: limits::NODES,
            max_total_scalar_bytes: limits::TEXT_BYTES,
            max_documents: limits::POLICIES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            // A small file must not unfold into a large one.
            max_total_replayed_events: limits::REPEATED,
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
        code: if is_over_budget(error) { Code::PolicyTooLarge } else { Code::PolicySyntax },
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        field: None,
        message: format!("not valid YAML: {}", said(error)),
    }
}

/// For whoever writes policies, where the parser's own words are for whoever calls it.
fn said(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::{Error, budget::BudgetBreach};
    match error.without_snippet() {
        Error::AliasError { error, .. } => said(error),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("duplicate key `{key}`"),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor that holds itself".to_owned(),
        Error::Budget { breach: BudgetBreach::Nodes { .. }, .. } => {
            format!("more than {} values", limits::NODES)
        }
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            format!("more than {} documents", limits::POLICIES)
        }
        Error::Budget { breach: BudgetBreach::ScalarBytes { .. }, .. } => {
            format!("more than {} bytes of text, with what aliases repeat", limits::TEXT_BYTES)
        }
        Error::Budget { breach: BudgetBreach::AliasAnchorRatio { .. }, .. } => {
            "more than ten aliases for each anchor".to_owned()
        }
        Error::AliasReplayLimitExceeded { .. } => {
            format!("aliases that unfold into more than {} values", limits::REPEATED)
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => too_deep(),
        Error::ExternalMessage { .. } if is_over_budget(error) => too_deep(),
        _ => without_place(error),
    }
}

fn too_deep() -> String {
    format!("lists and maps inside each other, more than {} deep", limits::DEPTH)
}

/// The parser's message; the place stands in fields of its own.
fn without_place(error: &serde_saphyr::Error) -> String {
    struct NoPlace;

    impl Localizer for NoPlace {
        fn attach_location<'t>(&self, message: Cow<'t, str>, _: Location) -> Cow<'t, str> {
            message
        }
    }
    error.render_with_formatter(&DefaultMessageFormatter.with_localizer(&NoPlace))
}

fn is_over_budget(error: &serde_saphyr::Error) -> bool {
    use serde_saphyr::Error;
    match error.without_snippet() {
        Error::AliasError { error, .. } => is_over_budget(error),
        Error::ExternalMessage { source, .. } => match &**source {
            ExternalMessageSource::Parser(error) => matches!(error.kind(), ErrorKind::RecursionLimitExceeded),
            _ => false,
        },
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_no_text_is_refused_where_it_stands() {
        let error = from_yaml("a.yaml", b"# \xc3\xa9\nkind: \xc3\xa9\xff").unwrap_err();
        assert_eq!(error.to_string(), "a.yaml:2:8: not UTF-8 from here on (SG0210)");
        let error = from_yaml("a.yaml", b"\xff").unwrap_err();
        assert_eq!((error.line, error.column), (Some(1), Some(1)));
    }

    #[test]
    fn more_values_than_a_file_may_hold_are_refused() {
        let text = format!("[{}]", "1, ".repeat(limits::NODES + 1));
        let error = from_yaml("a.yaml", text.as_bytes()).unwrap_err();
        assert_eq!((error.code, error.line), (Code::PolicyTooLarge, Some(1)));
        assert!(error.message.contains("more than 500000 values"), "{error}");
    }

    #[test]
    fn json_is_bounded_as_yaml_is() {
        assert_eq!(from_json("wire", &"[".repeat(100_000)).unwrap_err().code, Code::PolicySyntax);
        let text = "a".repeat(limits::FILE_BYTES + 1);
        assert_eq!(from_json("wire", &text).unwrap_err().code, Code::PolicyTooLarge);
    }

    #[test]
    fn json_refuses_a_key_written_twice() {
        let error = from_json("wire", r#"{"a": 1, "a": 2}"#).unwrap_err();
        assert_eq!(error.code, Code::PolicySyntax);
        assert!(error.message.contains("duplicate key `a`"), "{error}");
    }

    #[test]
    fn columns_and_lines_are_counted_from_one() {
        let nodes = from_yaml("a.yaml", b"# first\na:\n  - b\n").unwrap();
        let root = Cursor::root("a.yaml", &nodes[0]);
        assert_eq!(root.at().line, Some(2));
        let fields = root.fields(&["a"]).unwrap();
        let item = &fields.required("a").unwrap().items(1).unwrap()[0];
        let error = item.error(Code::PolicyBadValue, "x");
        assert_eq!((error.line, error.column, error.field.as_deref()), (Some(3), Some(5), Some("a[0]")));
        assert_eq!(error.to_string(), "a.yaml:3:5: a[0]: x (SG0212)");
    }
}
