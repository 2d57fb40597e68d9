//! Receives YAML that was written for other programs; hands on a tree in which every value knows its place. Refuses
//! what is over a limit, so that a small file cannot unfold into a large one.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DefaultMessageFormatter, Localizer, Location, Spanned};

/// A value and where it is written.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Place,
}

/// Line and column, counted from 1; 0 where they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// What YAML can say. A number is kept as text: nobody here counts with it.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// What cannot be read, and where.
#[derive(Debug)]
pub(crate) struct Misread {
    pub(crate) at: Place,
    pub(crate) message: String,
}

/// Every document of a file; an empty one is `Value::Null`.
pub(crate) fn documents(text: &str) -> Result<Vec<Node>, Misread> {
    if text.len() > FILE_BYTES {
        let message = format!("more than {FILE_BYTES} bytes, which is as much as is read");
        return Err(Misread { at: Place::default(), message });
    }
    let nodes: Vec<Child> = serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let at = error.location().map(Place::of).unwrap_or_default();
        Misread { at, message: format!("not valid YAML: {}", without_place(&error)) }
    })?;
    Ok(nodes.into_iter().map(|Child(node)| node).collect())
}

impl Node {
    /// The fields of a map; none of what is null.
    pub(crate) fn fields(&self) -> Result<&[(String, Self)], Misread> {
        match &self.value {
            Value::Map(fields) => Ok(fields),
            Value::Null => Ok(&[]),
            _ => Err(self.not_a("a map")),
        }
    }

    /// The items of a list; none of what is null.
    pub(crate) fn items(&self) -> Result<&[Self], Misread> {
        match &self.value {
            Value::List(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(self.not_a("a list")),
        }
    }

    /// A field of a map. One that is null is not there.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&Self>, Misread> {
        let field = self.fields()?.iter().find(|(key, _)| key == name);
        Ok(field.map(|(_, node)| node).filter(|node| !matches!(node.value, Value::Null)))
    }

    /// A field of a field of a map, and so on.
    pub(crate) fn at(&self, path: &[&str]) -> Result<Option<&Self>, Misread> {
        let mut node = self;
        for name in path {
            match node.get(name)? {
                Some(next) => node = next,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// A text; numbers and booleans are none.
    pub(crate) fn text(&self) -> Result<&str, Misread> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.not_a("text")),
        }
    }

    /// What stands there, be it text, number or boolean.
    pub(crate) fn scalar(&self) -> Result<Cow<'_, str>, Misread> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Ok(text.into()),
            Value::Bool(value) => Ok(value.to_string().into()),
            _ => Err(self.not_a("a single value")),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool, Misread> {
        match &self.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(self.not_a("true or false")),
        }
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    pub(crate) fn misread(&self, message: impl Into<String>) -> Misread {
        Misread { at: self.at, message: message.into() }
    }

    fn not_a(&self, expected: &str) -> Misread {
        let seen = match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        self.misread(format!("expected {expected}, found {seen}"))
    }
}

impl Place {
    fn of(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }

    /// `file:line`, or the file alone.
    pub(crate) fn in_file(self, file: &str) -> String {
        if self.line == 0 { file.to_owned() } else { format!("{file}:{}", self.line) }
    }
}

/// A node as serde wants it.
struct Child(Node);

impl<'de> Deserialize<'de> for Child {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self(Node { value: tree.value.0, at: Place::of(tree.referenced) }))
    }
}

/// A value as serde wants it.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
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
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Child(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, Child(node))) = entries.next_entry()? {
            map.push((key, node));
        }
        Ok(Value::Map(map))
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH,
            flow_nesting_limit: DEPTH,
            max_nodes: 500_000,
            max_documents: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: DEPTH,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    }
}

/// The parser's message; the place stands in a field of its own.
fn without_place(error: &serde_saphyr::Error) -> String {
    struct NoPlace;

    impl Localizer for NoPlace {
        fn attach_location<'t>(&self, message: Cow<'t, str>, _: Location) -> Cow<'t, str> {
            message
        }
    }
    error.render_with_formatter(&DefaultMessageFormatter.with_localizer(&NoPlace))
}

/// As many bytes of a file as are read.
const FILE_BYTES: usize = 4 << 20;
/// Lists and maps inside each other: the schema of a custom resource is deeper than anything a person writes.
const DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_places_through_documents_aliases_and_merged_maps() {
        let text = "a: &a {x: 1}\n---\nb: &b {y: two}\nc:\n  <<: *b\n  z: [true]\n";
        let nodes = documents(text).unwrap();
        assert_eq!(nodes.len(), 2);
        let merged = nodes[1].get("c").unwrap().unwrap();
        assert_eq!(merged.get("y").unwrap().unwrap().text().unwrap(), "two");
        let list = merged.get("z").unwrap().unwrap();
        assert_eq!(list.at, Place { line: 6, column: 6 });
        assert!(list.items().unwrap()[0].boolean().unwrap());
    }

    #[test]
    fn what_has_another_shape_or_two_readings_or_is_a_bomb_is_refused_with_its_line() {
        let nodes = documents("a: 1\nb: [x]\n").unwrap();
        let wrong = nodes[0].get("b").unwrap().unwrap().fields().unwrap_err();
        assert_eq!((wrong.at.line, wrong.message.as_str()), (2, "expected a map, found a list"));
        assert_eq!(documents("a: 1\na: 2\n").unwrap_err().at.line, 2);
        let level =
            |level: u32| format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(10));
        let bomb: Vec<String> = (1..12).map(level).collect();
        assert!(documents(&format!("a0: &a0 [x]\n{}", bomb.concat())).is_err());
        assert!(documents(&"[".repeat(100_000)).is_err());
        assert!(documents("a: &a [*a]").is_err());
    }
}
