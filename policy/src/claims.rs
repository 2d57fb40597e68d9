//! What a token says, as a rule's `jwt` asks for it. Receives the payload of a token whose signature, dates and audience
//! somebody else has verified; hands on single claims. Refuses a payload that has two readings, such as one that says a claim
//! twice: whoever reads it next may take the other one.

use std::fmt;

use crate::{
    InvalidValue,
    document::{self, Node, Value},
    values::ClaimName,
};

/// The claims of one verified token.
pub struct Claims {
    /// As the issuer wrote them.
    json: Box<str>,
    root: Node,
    issuer: Box<str>,
}

impl Claims {
    /// Reads a payload: a JSON object with an `iss`.
    pub fn parse(json: &str) -> Result<Self, InvalidValue> {
        let root = document::from_json("token", json).map_err(|error| InvalidValue::from(error.message))?;
        let member = |name: &str| root.member(name).map(Node::value);
        if !matches!(root.value(), Value::Map(_)) {
            return Err(InvalidValue::because("the claims are no JSON object"));
        }
        let Some(Value::Text(issuer)) = member("iss") else {
            return Err(InvalidValue::because("`iss` is missing, or no text"));
        };
        let is_text = |node: &Node| matches!(node.value(), Value::Text(_));
        match member("aud") {
            None | Some(Value::Text(_)) => {}
            Some(Value::List(audiences)) if audiences.iter().all(is_text) => {}
            Some(_) => return Err(InvalidValue::because("`aud` is neither a text nor a list of texts")),
        }
        let issuer = issuer.as_str().into();
        Ok(Self { json: json.into(), issuer, root })
    }

    /// Who vouches for them: the `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// As the issuer wrote them.
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// Whom they are for: `aud`, be it one text or several. `None` if the token does not say.
    pub fn audiences(&self) -> Option<impl Iterator<Item = &str>> {
        let listed = match self.root.member("aud")?.value() {
            Value::List(list) => list.as_slice(),
            _ => std::slice::from_ref(self.root.member("aud")?),
        };
        Some(listed.iter().filter_map(|node| match node.value() {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        }))
    }

    /// A claim whose value is a whole number, such as `exp`: `Err` if it is there and is none.
    pub fn integer(&self, name: &str) -> Result<Option<i128>, InvalidValue> {
        match self.root.member(name).map(Node::value) {
            None => Ok(None),
            Some(Value::Integer(number)) => Ok(Some(*number)),
            Some(_) => Err(InvalidValue::from(format!("`{name}` is no whole number"))),
        }
    }

    /// The value of a claim.
    pub(crate) fn get(&self, name: &ClaimName) -> Option<&Value> {
        name.names().try_fold(&self.root, |node, name| node.member(name)).map(Node::value)
    }
}

/// Two tokens that say the same in the same words.
impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl Eq for Claims {}

impl PartialOrd for Claims {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Claims {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.json.cmp(&other.json)
    }
}

/// Without the claims: they are about people.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_two_readings_is_none() {
        for (json, says) in [
            (r#"{"iss":"a","role":"user","role":"admin"}"#, "duplicate key `role`"),
            (r#"{"iss":"a","iss":"b"}"#, "duplicate key `iss`"),
            (r#"{"iss":"a","x":{"y":1,"y":2}}"#, "duplicate key `y`"),
            (r#"{"iss":"a","iss":"b"}"#, "duplicate key `iss`"),
            (r#"{"iss":"a"} {}"#, "trailing characters"),
            (r#"["iss"]"#, "no JSON object"),
            (r"{}", "`iss` is missing"),
            (r#"{"iss":["a"]}"#, "`iss` is missing, or no text"),
            (r#"{"iss":"a","aud":7}"#, "`aud` is neither"),
            (r#"{"iss":"a","aud":["b",7]}"#, "`aud` is neither"),
            (r#"{"iss":"a","aud":[["b"]]}"#, "`aud` is neither"),
            (r#"{"iss":"a","aud":{"b":1}}"#, "`aud` is neither"),
            (&format!(r#"{{"iss":"a","x":{}1{}}}"#, "[".repeat(200), "]".repeat(200)), "recursion limit"),
        ] {
            let error = Claims::parse(json).expect_err(json).to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn an_audience_is_one_text_or_several() {
        let audiences = |json: &str| {
            let claims = Claims::parse(json).unwrap();
            claims.audiences().map(|list| list.map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(audiences(r#"{"iss":"a"}"#), None);
        assert_eq!(audiences(r#"{"iss":"a","aud":"b"}"#), Some(vec!["b".to_owned()]));
        assert_eq!(audiences(r#"{"iss":"a","aud":["b","c"]}"#), Some(vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!(audiences(r#"{"iss":"a","aud":[]}"#), Some(Vec::new()));
    }

    #[test]
    fn what_is_shown_of_claims_names_nobody() {
        let claims = Claims::parse(r#"{"iss":"corp","email":"ann@corp.test"}"#).unwrap();
        assert_eq!(format!("{claims:?}"), "Claims { issuer: \"corp\", .. }");
    }
}
