//! A policy in the making: what is known of it, and its text.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value, json};
use sidegate_policy::parse_yaml;

/// A policy that a construct is translated to.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// `istio.yaml:3`
    pub(super) origin: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty: every workload of the namespace.
    pub(super) selector: BTreeMap<String, String>,
    pub(super) action: Action,
    pub(super) is_shadow: bool,
    pub(super) rules: Vec<Rule>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
}

/// A rule: any of `from`, any of `to`, `jwt`, and all of `when`. An empty list is no condition.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) from: Vec<Fields>,
    pub(super) to: Vec<Fields>,
    pub(super) jwt: Option<Value>,
    pub(super) when: Vec<String>,
}

/// The fields of a source or an operation.
pub(super) type Fields = Map<String, Value>;

impl Draft {
    /// `namespace/name`
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The document.
    pub(super) fn yaml(&self) -> String {
        let mut text = format!(
            "# From {}\napiVersion: sidegate.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {}\nspec:\n",
            self.origin,
            json!({"name": self.name, "namespace": self.namespace})
        );
        if !self.selector.is_empty() {
            let _ = writeln!(text, "  selector: {}", json!(self.selector));
        }
        let _ = writeln!(text, "  action: {:?}", self.action);
        if self.is_shadow {
            text.push_str("  mode: Shadow\n");
        }
        text.push_str("  rules:\n");
        for rule in &self.rules {
            rule.write(&mut text);
        }
        text
    }

    /// Why the text would not load: a value that the other mesh takes, and this one does not.
    pub(super) fn problem(&self) -> Option<String> {
        let error = parse_yaml(&self.origin, &self.yaml(), None).err()?;
        Some(match error.field {
            Some(field) => format!("{field}: {}", error.message),
            None => error.message,
        })
    }
}

impl Rule {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "  - name: {}", json!(self.name));
        for (field, list) in [("from", &self.from), ("to", &self.to)] {
            if !list.is_empty() {
                let _ = writeln!(text, "    {field}: {}", json!(list));
            }
        }
        if let Some(jwt) = &self.jwt {
            let _ = writeln!(text, "    jwt: {jwt}");
        }
        if !self.when.is_empty() {
            let _ = writeln!(text, "    when: {}", json!(self.when.join(" && ")));
        }
    }
}
