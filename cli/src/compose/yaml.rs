//! YAML as a tree whose maps keep their order: a Compose file goes in with anchors and merge keys resolved, a tree comes out
//! as text that every YAML reader takes the same way. Refuses tags, doubled keys and whatever is not YAML.

use std::fmt::Write as _;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    /// As it is to be printed.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// A value under a tag, such as `!override`; only ever printed.
    Tagged(&'static str, Box<Node>),
}

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Node, String> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        // As Compose reads `mode: 0440`.
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error
            .location()
            .map(|at| format!("line {}, column {}: ", at.line(), at.column()))
            .unwrap_or_default();
        format!("{place}{}", error.without_snippet())
    })
}

impl Node {
    /// A map of what is there.
    pub(crate) fn map<const N: usize>(entries: [(&str, Node); N]) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(Self::text).collect())
    }

    pub(crate) fn tagged(self, tag: &'static str) -> Self {
        Self::Tagged(tag, Box::new(self))
    }

    /// The value of `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// What a map holds; of anything else, nothing.
    pub(crate) fn entries(&self) -> &[(String, Node)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What a list holds; of anything else, nothing.
    pub(crate) fn items(&self) -> &[Node] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }

    /// A scalar as text; `None` of lists, maps and nothing.
    pub(crate) fn scalar(&self) -> Option<String> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text.clone()),
            Self::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// Sets `key` of a map, in its old place or at the end. Nothing becomes a map.
    pub(crate) fn set(&mut self, key: &str, value: Node) {
        if *self == Self::Null {
            *self = Self::Map(Vec::new());
        }
        if let Self::Map(entries) = self {
            match entries.iter_mut().find(|(name, _)| name == key) {
                Some((_, old)) => *old = value,
                None => entries.push((key.to_owned(), value)),
            }
        }
    }

    /// Takes `key` out of a map.
    pub(crate) fn remove(&mut self, key: &str) {
        if let Self::Map(entries) = self {
            entries.retain(|(name, _)| name != key);
        }
    }

    /// Changes the value of `key` of a map, which is nothing if it was not there.
    pub(crate) fn update(&mut self, key: &str, change: impl FnOnce(&mut Node)) {
        let mut value = self.get(key).cloned().unwrap_or(Self::Null);
        change(&mut value);
        self.set(key, value);
    }

    /// The tree as block-style YAML.
    pub(crate) fn print(&self) -> String {
        let mut text = String::new();
        self.print_into(&mut text, 0);
        text
    }

    fn print_into(&self, text: &mut String, depth: usize) {
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                for (key, value) in entries {
                    indent(text, depth);
                    text.push_str(&quoted(key));
                    text.push(':');
                    value.print_after_key(text, depth);
                }
            }
            Self::List(items) if !items.is_empty() => {
                for item in items {
                    indent(text, depth);
                    text.push('-');
                    item.print_after_key(text, depth + 1);
                }
            }
            scalar => {
                indent(text, depth);
                scalar.print_scalar(text, depth);
            }
        }
    }

    /// What stands behind `key:` or `-`.
    fn print_after_key(&self, text: &mut String, depth: usize) {
        match self {
            Self::Tagged(tag, value) => {
                let _ = write!(text, " {tag}");
                value.print_after_key(text, depth);
            }
            Self::Map(entries) if !entries.is_empty() => {
                text.push('\n');
                self.print_into(text, depth + 1);
            }
            Self::List(items) if !items.is_empty() => {
                text.push('\n');
                self.print_into(text, depth + 1);
            }
            scalar => {
                text.push(' ');
                scalar.print_scalar(text, depth);
            }
        }
    }

    fn print_scalar(&self, text: &mut String, depth: usize) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => text.push_str(number),
            Self::Text(value) if is_block(value) => {
                text.push('|');
                for line in value.lines() {
                    text.push('\n');
                    indent(text, depth + 1);
                    text.push_str(line);
                }
            }
            Self::Text(value) => text.push_str(&quoted(value)),
            Self::List(_) => text.push_str("[]"),
            Self::Map(_) => text.push_str("{}"),
            Self::Tagged(tag, value) => {
                let _ = write!(text, "{tag} ");
                value.print_scalar(text, depth);
                return;
            }
        }
        text.push('\n');
    }
}

fn indent(text: &mut String, depth: usize) {
    for _ in 0..depth {
        text.push_str("  ");
    }
}

/// Whether a text is printed line by line: several lines, none of them with blanks that a reader might take away.
fn is_block(text: &str) -> bool {
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && text.lines().next().is_some_and(|line| !line.starts_with([' ', '\t']) && !line.is_empty())
        && text.lines().all(|line| !line.ends_with([' ', '\t']) && line.chars().all(|c| c >= ' '))
}

/// A text on one line: as it is where no reader could take it for anything else, in quotes otherwise.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
    let is_plain =
        text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || b"/_".contains(&byte))
            && text.bytes().all(plain)
            && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// What some reader takes for a truth value or for nothing.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Node, Node>()? {
            let key = key.scalar().ok_or_else(|| A::Error::custom("a key that is no word"))?;
            entries.push((key, value));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_as_what_it_was() {
        let text = "a: [1, 0.5, true, null, 'true', '22:22', '', 'x: y', \"#\", no, \"a\\nb\\n\", \"\\u0007\"]\n\
                    b: {c: {}, d: [], e: {f: [[1], {g: 2}]}}\n\
                    config: |\n  one: 1\n    two: 2\n  three: 3\n";
        let tree = parse(text).unwrap();
        let printed = tree.print();
        assert_eq!(parse(&printed).unwrap(), tree, "{printed}");
        assert_eq!(parse(&printed).unwrap().print(), printed);
    }

    #[test]
    fn anchors_and_merge_keys_are_resolved_and_modes_are_octal() {
        let tree = parse("x: &x {a: 1}\ny:\n  <<: *x\n  b: 0440\n").unwrap();
        let y = tree.get("y").unwrap();
        assert_eq!(y.get("a"), Some(&Node::Number("1".into())));
        assert_eq!(y.get("b"), Some(&Node::Number("288".into())));
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_with_its_place() {
        for text in ["a: !reset []", "a: 1\na: 2", "a: [1", "a: 1\n---\nb: 2", "? [1]\n: 2"] {
            let error = parse(text).unwrap_err();
            assert!(!error.is_empty(), "{text}");
        }
        assert!(parse("a: 1\nb: [").unwrap_err().starts_with("line "));
    }

    #[test]
    fn a_tag_stands_before_its_value() {
        let tree = Node::map([
            ("ports", Node::List(Vec::new()).tagged("!reset")),
            ("networks", Node::map([("web", Node::Null)]).tagged("!override")),
        ]);
        assert_eq!(tree.print(), "ports: !reset []\nnetworks: !override\n  web: null\n");
    }
}
