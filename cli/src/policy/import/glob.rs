//! The texts of Istio's lists: exact, prefix, suffix, or any; and how they are said in CEL.

use serde_json::json;

/// One text of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Glob {
    Exact(String),
    /// `abc*`
    Prefix(String),
    /// `*abc`
    Suffix(String),
    /// `*`: there is one.
    Present,
}

impl Glob {
    /// A star elsewhere would be taken literally by Istio, which nobody means.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let glob = match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (_, None, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            (exact, None, None) => Self::Exact(exact.to_owned()),
        };
        let stars = matches!(&glob, Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) if text.contains('*'));
        if stars || text.is_empty() { Err(format!("{text:?} is no pattern")) } else { Ok(glob) }
    }

    pub(super) fn all(texts: &[&str]) -> Result<Vec<Self>, String> {
        texts.iter().map(|text| Self::parse(text)).collect()
    }

    /// The texts of a list of exact ones alone.
    pub(super) fn exact(globs: &[Self]) -> Option<Vec<&str>> {
        globs
            .iter()
            .map(|glob| if let Self::Exact(text) = glob { Some(text.as_str()) } else { None })
            .collect()
    }
}

/// That an attribute is one of the texts, in CEL. `Present` is for the caller to see to.
pub(super) fn is_any(attribute: &str, globs: &[Glob]) -> String {
    let exact: Vec<&str> =
        globs.iter().filter_map(|glob| Glob::exact(std::slice::from_ref(glob))).flatten().collect();
    let mut tests = match exact[..] {
        [] => Vec::new(),
        [one] => vec![format!("{attribute} == {}", json!(one))],
        _ => vec![format!("{attribute} in {}", json!(exact))],
    };
    for glob in globs {
        match glob {
            Glob::Prefix(text) => tests.push(format!("{attribute}.startsWith({})", json!(text))),
            Glob::Suffix(text) => tests.push(format!("{attribute}.endsWith({})", json!(text))),
            Glob::Exact(_) | Glob::Present => {}
        }
    }
    match &tests[..] {
        [one] => one.clone(),
        _ => format!("({})", tests.join(" || ")),
    }
}

/// That it is none of them.
pub(super) fn is_none(attribute: &str, globs: &[Glob]) -> String {
    let any = is_any(attribute, globs);
    if any.starts_with('(') { format!("!{any}") } else { format!("!({any})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_first_or_last_and_nowhere_else() {
        assert_eq!(Glob::parse("a*").unwrap(), Glob::Prefix("a".to_owned()));
        assert_eq!(Glob::parse("*a").unwrap(), Glob::Suffix("a".to_owned()));
        assert_eq!(Glob::parse("*").unwrap(), Glob::Present);
        for text in ["", "a*b", "*a*", "**"] {
            assert!(Glob::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_list_is_one_question() {
        let globs = Glob::all(&["a", "b*", "c", "*d"]).unwrap();
        let expected = r#"(x in ["a","c"] || x.startsWith("b") || x.endsWith("d"))"#;
        assert_eq!(is_any("x", &globs), expected);
        assert_eq!(is_none("x", &globs), format!("!{expected}"));
        assert_eq!(is_none("x", &globs[..1]), r#"!(x == "a")"#);
    }
}
