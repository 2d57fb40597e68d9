//! The Markdown of a JSON Schema, as far as schemas of our own files go: objects of fields, lists, maps, and named
//! kinds of scalars. Each object is a section with a table of its fields, each kind a section after them.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::Value;

/// The sections of the file that `schema` describes, `title` being the first one's.
pub(super) fn sections(title: &str, schema: &Value) -> String {
    let mut page = Page { root: schema, text: String::new(), kinds: BTreeMap::new() };
    page.object(title, "", schema);
    page.kinds();
    page.text
}

/// The sections of each of the kinds of documents that `schema` describes, which are among its `$defs`.
pub(super) fn sections_of(kinds: &[&str], schema: &Value) -> String {
    let mut page = Page { root: schema, text: String::new(), kinds: BTreeMap::new() };
    for kind in kinds {
        page.object(kind, &format!("{kind}."), &schema["$defs"][*kind]);
    }
    page.kinds();
    page.text
}

struct Page<'a> {
    root: &'a Value,
    text: String,
    /// The named scalars that fields are of.
    kinds: BTreeMap<&'a str, &'a Value>,
}

/// What a field may hold.
enum Shape<'a> {
    Object(&'a Value),
    List(Box<Shape<'a>>),
    Map(Box<Shape<'a>>),
    Kind(&'a str),
    /// A type of JSON itself.
    Plain(&'a str),
}

impl<'a> Page<'a> {
    /// The section of the object at `path`, and those of the objects in it.
    fn object(&mut self, title: &str, path: &str, schema: &'a Value) {
        let _ = write!(
            self.text,
            "\n## {title}\n\n{}\n\n| field | type | default | meaning |\n|---|---|---|---|\n",
            description(schema)
        );
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut inner = Vec::new();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let shape = self.shape(field);
            let place = format!("{path}{name}");
            let default = match &field["default"] {
                _ if required.contains(&name.as_str()) => "required".to_owned(),
                Value::Null => "none".to_owned(),
                value => format!("`{}`", text(value)),
            };
            let _ = writeln!(
                self.text,
                "| `{name}` | {}{} | {default} | {} |",
                shape.cell(&place),
                bounds(field),
                description(field).replace('|', "\\|")
            );
            if let Some((section, object)) = shape.section(&place) {
                inner.push((section, object));
            }
        }
        for (section, object) in inner {
            self.object(&format!("`{section}`"), &format!("{section}."), object);
        }
    }

    fn kinds(&mut self) {
        self.text.push_str("\n## Kinds of values\n");
        for (name, schema) in &self.kinds {
            let _ = write!(self.text, "\n### {name}\n\n{}\n", description(schema));
            let choices = schema["oneOf"].as_array().into_iter().flatten();
            for (position, choice) in choices.enumerate() {
                let gap = if position == 0 { "\n" } else { "" };
                let _ = writeln!(self.text, "{gap}- `{}`: {}", text(&choice["const"]), description(choice));
            }
            let examples: Vec<String> = schema["examples"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|example| format!("`{}`", text(example)))
                .collect();
            if !examples.is_empty() {
                let _ = write!(self.text, "\nAs in {}.\n", examples.join(", "));
            }
        }
    }

    fn shape(&mut self, field: &'a Value) -> Shape<'a> {
        if let Some(name) = field["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            let schema = &self.root["$defs"][name];
            if schema["type"] == "object" {
                return Shape::Object(schema);
            }
            self.kinds.insert(name, schema);
            return Shape::Kind(name);
        }
        // A field that may be absent may be null too; that goes without saying.
        let mut choices = field["anyOf"].as_array().into_iter().flatten();
        if let Some(choice) = choices.find(|choice| choice["type"] != "null") {
            return self.shape(choice);
        }
        let types = field["type"].as_array().into_iter().flatten();
        let one = types.chain([&field["type"]]).filter_map(Value::as_str);
        match one.into_iter().find(|name| *name != "null").unwrap_or("value") {
            "array" => Shape::List(Box::new(self.shape(&field["items"]))),
            "object" => Shape::Map(Box::new(self.shape(&field["additionalProperties"]))),
            plain => Shape::Plain(plain),
        }
    }
}

impl<'a> Shape<'a> {
    /// As a cell of a table says it; `place` is where the field is.
    fn cell(&self, place: &str) -> String {
        match self {
            Self::Object(_) => format!("[object](#{})", anchor(place)),
            Self::List(element) => format!("list of {}", element.cell(place)),
            Self::Map(value) => format!("map of {}", value.cell(place)),
            Self::Kind(name) => format!("[{name}](#{})", anchor(name)),
            Self::Plain(name) => (*name).to_owned(),
        }
    }

    /// The object in it, if there is one, with its place.
    fn section(&self, place: &str) -> Option<(String, &'a Value)> {
        match self {
            Self::Object(schema) => Some((place.to_owned(), schema)),
            Self::List(element) => element.section(&format!("{place}[]")),
            Self::Map(value) => value.section(&format!("{place}.*")),
            Self::Kind(_) | Self::Plain(_) => None,
        }
    }
}

/// The one value or the range that a field is bound to.
fn bounds(field: &Value) -> String {
    let bound = |names: [&str; 2]| names.into_iter().map(|name| &field[name]).find(|bound| !bound.is_null());
    match (&field["const"], bound(["minimum", "x-minimum"]), bound(["maximum", "x-maximum"])) {
        (Value::Null, Some(least), Some(most)) => format!(", {} to {}", text(least), text(most)),
        (Value::Null, Some(least), None) => format!(", at least {}", text(least)),
        (Value::Null, None, _) => String::new(),
        (value, ..) => format!(", always `{}`", text(value)),
    }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// As it is written in YAML.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'))
        .map(|char| if char == ' ' { '-' } else { char })
        .collect()
}
