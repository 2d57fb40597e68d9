//! A place in a document, with the path that leads there. Every step down either yields a value of the asked shape
//! or the error that names the place.

use std::{fmt, str::FromStr};

use sidegate_codes::Code;

use super::{Node, Position, Value};
use crate::{PolicyError, limits, model::OneOf, spelling::did_you_mean, values::Name};

/// One value of a document, and how it was reached.
pub(crate) struct Cursor<'d> {
    file: &'d str,
    path: String,
    node: &'d Node,
}

/// A map whose keys are all known.
pub(crate) struct Fields<'d> {
    file: &'d str,
    path: String,
    at: Position,
    entries: &'d [(super::Key, Node)],
}

impl<'d> Cursor<'d> {
    pub(crate) fn root(file: &'d str, node: &'d Node) -> Self {
        Self { file, path: String::new(), node }
    }

    pub(crate) fn at(&self) -> Position {
        self.node.at
    }

    /// An error at this place.
    pub(crate) fn error(&self, code: Code, message: impl Into<String>) -> PolicyError {
        error_at(self.file, &self.path, self.node.at, code, message.into())
    }

    /// This value as a map that has no other keys than `known`, and at least one.
    pub(crate) fn fields(&self, known: &[&str]) -> Result<Fields<'d>, PolicyError> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.not_a("a map of fields"));
        };
        if entries.is_empty() {
            return Err(self.error(Code::PolicyIncomplete, "is empty; leave it out if any value is meant"));
        }
        match entries.iter().find(|(key, _)| !known.contains(&key.name.as_str())) {
            Some((key, _)) => Err(error_at(
                self.file,
                &join(&self.path, &key.name),
                key.at,
                Code::PolicyUnknownField,
                unknown_field(&key.name, known),
            )),
            None => Ok(Fields { file: self.file, path: self.path.clone(), at: self.node.at, entries }),
        }
    }

    /// This value as a map from text to text, of at least one entry.
    pub(crate) fn pairs(&self, max: usize) -> Result<Vec<(&'d str, Cursor<'d>)>, PolicyError> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.not_a("a map"));
        };
        self.count(entries.len(), max)?;
        let pair = |(key, node): &'d (super::Key, Node)| {
            (key.name.as_str(), Cursor { file: self.file, path: join(&self.path, &key.name), node })
        };
        Ok(entries.iter().map(pair).collect())
    }

    /// This value as a list of at least one and at most `max` items.
    pub(crate) fn items(&self, max: usize) -> Result<Vec<Cursor<'d>>, PolicyError> {
        let Value::List(items) = &self.node.value else {
            return Err(self.not_a("a list"));
        };
        self.count(items.len(), max)?;
        let item = |(index, node)| Cursor { file: self.file, path: format!("{}[{index}]", self.path), node };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A list, each of its items read by `read`.
    pub(crate) fn each<T>(
        &self,
        max: usize,
        read: impl Fn(&Cursor<'d>) -> Result<T, PolicyError>,
    ) -> Result<OneOf<T>, PolicyError> {
        let items: Vec<T> = self.items(max)?.iter().map(read).collect::<Result<_, _>>()?;
        OneOf::new(items).ok_or_else(|| self.empty())
    }

    /// A list of values that are written as text.
    pub(crate) fn values<T>(&self) -> Result<OneOf<T>, PolicyError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.each(limits::VALUES, Cursor::value)
    }

    /// A value that is written as text.
    pub(crate) fn value<T>(&self) -> Result<T, PolicyError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let text = self.text()?;
        text.parse().map_err(|reason| self.error(Code::PolicyBadValue, format!("{}: {reason}", quoted(text))))
    }

    /// A word of a closed list.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, PolicyError> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Err(self.error(
            Code::PolicyUnknownKind,
            format!(
                "unknown {}{}; expected {}",
                quoted(text),
                did_you_mean(text, &known),
                known.join(" or ")
            ),
        ))
    }

    pub(crate) fn text(&self) -> Result<&'d str, PolicyError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.not_a("text")),
        }
    }

    pub(crate) fn integer(&self) -> Result<i128, PolicyError> {
        match &self.node.value {
            Value::Integer(number) => Ok(*number),
            _ => Err(self.not_a("a whole number")),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool, PolicyError> {
        match &self.node.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(self.not_a("true or false")),
        }
    }

    fn count(&self, len: usize, max: usize) -> Result<(), PolicyError> {
        match len {
            0 => Err(self.empty()),
            len if len > max => {
                Err(self.error(Code::PolicyTooLarge, format!("{len} entries; at most {max} are allowed")))
            }
            _ => Ok(()),
        }
    }

    fn empty(&self) -> PolicyError {
        self.error(Code::PolicyIncomplete, "is empty; leave it out if any value is meant")
    }

    fn not_a(&self, expected: &str) -> PolicyError {
        match &self.node.value {
            Value::Null => self.error(Code::PolicyIncomplete, format!("has no value; expected {expected}")),
            value => self
                .error(Code::PolicyBadValue, format!("expected {expected}, found {}", seen(value, expected))),
        }
    }
}

impl<'d> Fields<'d> {
    pub(crate) fn optional(&self, name: &str) -> Option<Cursor<'d>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        Some(Cursor { file: self.file, path: join(&self.path, name), node })
    }

    pub(crate) fn required(&self, name: &str) -> Result<Cursor<'d>, PolicyError> {
        self.optional(name).ok_or_else(|| {
            let message = format!("field `{name}` is missing");
            error_at(self.file, &join(&self.path, name), self.at, Code::PolicyIncomplete, message)
        })
    }

    /// An optional list of values that are written as text.
    pub(crate) fn values<T>(&self, name: &str) -> Result<Option<OneOf<T>>, PolicyError>
    where
        T: FromStr<Err: fmt::Display>,
    {
        self.optional(name).map(|cursor| cursor.values()).transpose()
    }

    /// An optional name.
    pub(crate) fn name(&self, name: &str) -> Result<Option<Name>, PolicyError> {
        self.optional(name).map(|cursor| cursor.value()).transpose()
    }
}

fn error_at(file: &str, path: &str, at: Position, code: Code, message: String) -> PolicyError {
    PolicyError {
        code,
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        field: (!path.is_empty()).then(|| path.to_owned()),
        message,
    }
}

fn join(path: &str, name: &str) -> String {
    // A key is the author's text: what could be mistaken for a path is quoted.
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let name = if plain { name.to_owned() } else { quoted(name) };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn seen(value: &Value, expected: &str) -> String {
    let quote = if expected == "text" { "; write it in quotes" } else { "" };
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}{quote}"),
        Value::Integer(value) => format!("the number {value}{quote}"),
        Value::Float(value) => format!("the number {value}{quote}"),
        Value::Text(text) => format!("the text {}", quoted(text)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

fn unknown_field(name: &str, known: &[&str]) -> String {
    format!("unknown field {}{}; known here: {}", quoted(name), did_you_mean(name, known), known.join(", "))
}

/// The author's text in a message: escaped, and no longer than a line.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
    }
}
