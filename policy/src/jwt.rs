//! The `jwt` of a rule: what the token of a request must say. Receives the claims of a verified token; hands on yes, no or
//! doubt. Claims are of the one issuer that the rule names: what another issuer says of a role is nothing to it.
//!
//! What a request without a token would say, and what a claim that is missing or of another type would be, nobody knows: doubt,
//! which denies. Whether a claim is there can be asked, and has an answer. Allocates nothing.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    Request,
    claims::Claims,
    condition::Outcome,
    document::{Node, Value},
    limits,
    model::OneOf,
    schema,
    values::{ClaimName, ClaimText},
};

/// What the verified token of a request must say; all that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "jwt", deny_unknown_fields)]
pub struct Jwt {
    /// The token's `iss`, byte for byte. Claims mean what their issuer means by them, so one is always named.
    pub issuer: ClaimText,
    /// Of which the token's `aud` has at least one. Left out: whatever the sidecar takes for the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audiences: Option<OneOf<ClaimText>>,
    /// Further claims by name; `realm_access[roles]` is one inside of another. Left out: nothing more.
    #[schemars(with = "Option<schema::ClaimTests>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<BTreeMap<ClaimName, ClaimTest>>,
}

/// What is asked of one claim: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "claim", deny_unknown_fields, extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ClaimTest {
    /// Whether the token has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// The value that it is, of the same type: a text, a whole number, `true` or `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<ClaimValue>,
    /// Texts of which it has at least one. A claim that is a text is a list of one, and `scope` and `scp` a list of words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains_any: Option<OneOf<ClaimText>>,
}

/// What a claim can be compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ClaimValue {
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(ClaimText),
}

/// What kept a token from being taken.
#[derive(Clone, Copy)]
enum Miss<'j> {
    Opaque,
    NoToken,
    Issuer,
    Audience,
    /// The token names no audience.
    NoAudience,
    Claim(&'j ClaimName, &'j ClaimTest),
    NoClaim(&'j ClaimName),
    Type(&'j ClaimName),
}

impl Jwt {
    /// Whether the token of the request is one that is asked for.
    pub(crate) fn judge(&self, request: &Request<'_>) -> Outcome {
        self.missed(request).map_or(Outcome::Yes, Miss::outcome)
    }

    /// What kept it from being one, for people. Without what the token says: that is about people too.
    pub(crate) fn miss(&self, request: &Request<'_>) -> Option<String> {
        Some(match self.missed(request)? {
            Miss::Opaque => "an opaque connection has no token".to_owned(),
            Miss::NoToken => "there is no token".to_owned(),
            Miss::Issuer => format!("the token is not of issuer {}", self.issuer),
            Miss::Audience => {
                format!("the token is for none of audiences {}", listed(self.audiences.as_ref()))
            }
            Miss::NoAudience => "the token names no audience".to_owned(),
            Miss::Claim(name, test) => format!("claim {name} {}", test.missed()),
            Miss::NoClaim(name) => format!("the token has no claim {name}"),
            Miss::Type(name) => format!("claim {name} is of another type than is asked for"),
        })
    }

    /// A certain no outweighs doubt, as everywhere.
    fn missed(&self, request: &Request<'_>) -> Option<Miss<'_>> {
        let claims = match request.http.map(|http| http.claims) {
            None => return Some(Miss::Opaque),
            Some(None) => return Some(Miss::NoToken),
            Some(Some(claims)) => claims,
        };
        if claims.issuer() != self.issuer.as_str() {
            return Some(Miss::Issuer);
        }
        let tests = self.claims.iter().flatten();
        let misses = tests.filter_map(|(name, test)| test.missed_by(name, claims));
        let mut doubt = None;
        for miss in self.audience_missed(claims).into_iter().chain(misses) {
            match miss.outcome() {
                Outcome::No => return Some(miss),
                Outcome::Unknown | Outcome::Yes => doubt = doubt.or(Some(miss)),
            }
        }
        doubt
    }

    fn audience_missed(&self, claims: &Claims) -> Option<Miss<'_>> {
        let wanted = self.audiences.as_ref()?;
        match claims.audiences() {
            None => Some(Miss::NoAudience),
            Some(mut listed) => {
                let is_met = listed.any(|it| wanted.iter().any(|wanted| wanted.as_str() == it));
                (!is_met).then_some(Miss::Audience)
            }
        }
    }

    /// Whether it takes every token that `narrow` takes.
    pub(crate) fn covers(&self, narrow: &Self) -> bool {
        let audiences = match (&self.audiences, &narrow.audiences) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => narrow.iter().all(|it| wide.contains(it)),
        };
        let claims = self.claims.iter().flatten().all(|(name, wide)| {
            let narrow = narrow.claims.as_ref().and_then(|claims| claims.get(name));
            narrow.is_some_and(|narrow| wide.covers(narrow))
        });
        self.issuer == narrow.issuer && audiences && claims
    }

    /// Whether no token is taken by both.
    pub(crate) fn is_apart(&self, other: &Self) -> bool {
        self.issuer != other.issuer
    }

    /// Claims that it takes: a guess, made to be judged.
    pub fn likely_claims(&self) -> Option<Claims> {
        let mut root = serde_json::Map::new();
        root.insert("iss".to_owned(), self.issuer.as_str().into());
        if let Some(audience) = self.audiences.as_ref().and_then(|list| list.first()) {
            root.insert("aud".to_owned(), audience.as_str().into());
        }
        for (name, test) in self.claims.iter().flatten() {
            let mut names: Vec<&str> = name.names().collect();
            let (Some(last), Some(value)) = (names.pop(), test.example()) else { continue };
            let mut place = &mut root;
            for name in names {
                place = place.entry(name).or_insert_with(|| serde_json::json!({})).as_object_mut()?;
            }
            place.insert(last.to_owned(), value);
        }
        Claims::parse(&serde_json::Value::Object(root).to_string()).ok()
    }
}

impl ClaimTest {
    fn missed_by<'j>(&'j self, name: &'j ClaimName, claims: &Claims) -> Option<Miss<'j>> {
        let value = claims.get(name);
        if let Some(exists) = self.exists {
            return (exists != value.is_some()).then_some(Miss::Claim(name, self));
        }
        let Some(value) = value else { return Some(Miss::NoClaim(name)) };
        let holds = match (&self.equals, &self.contains_any) {
            (Some(wanted), _) => wanted.is(value),
            (None, Some(wanted)) => contains_any(name, value, wanted),
            (None, None) => None,
        };
        match holds {
            Some(true) => None,
            Some(false) => Some(Miss::Claim(name, self)),
            None => Some(Miss::Type(name)),
        }
    }

    /// What did not hold.
    fn missed(&self) -> String {
        match (self.exists, &self.equals, &self.contains_any) {
            (Some(true), ..) => "is missing".to_owned(),
            (Some(false), ..) => "is there".to_owned(),
            (None, Some(wanted), _) => format!("is not {wanted}"),
            (None, None, wanted) => format!("has none of {}", listed(wanted.as_ref())),
        }
    }

    fn covers(&self, narrow: &Self) -> bool {
        match (&self.contains_any, &narrow.contains_any) {
            (Some(wide), Some(narrow)) => narrow.iter().all(|it| wide.contains(it)),
            _ => self == narrow,
        }
    }

    fn example(&self) -> Option<serde_json::Value> {
        match (self.exists, &self.equals, &self.contains_any) {
            (Some(exists), ..) => exists.then(|| "any".into()),
            (None, Some(ClaimValue::Bool(value)), _) => Some((*value).into()),
            (None, Some(ClaimValue::Integer(value)), _) => Some((*value).into()),
            (None, Some(ClaimValue::Text(value)), _) => Some(value.as_str().into()),
            (None, None, wanted) => Some(wanted.as_ref()?.first()?.as_str().into()),
        }
    }
}

impl ClaimValue {
    /// Whether the value is this one; `None` if it is of another type.
    fn is(&self, value: &Value) -> Option<bool> {
        match (self, value) {
            (Self::Bool(wanted), Value::Bool(value)) => Some(wanted == value),
            (Self::Integer(wanted), Value::Integer(value)) => Some(i128::from(*wanted) == *value),
            (Self::Text(wanted), Value::Text(value)) => Some(wanted.as_str() == value),
            _ => None,
        }
    }
}

/// `None` if it is neither a text nor a list of texts. One that is found in a list is found, whatever else the list has.
fn contains_any(name: &ClaimName, value: &Value, wanted: &OneOf<ClaimText>) -> Option<bool> {
    let is_wanted = |text: &str| wanted.iter().any(|wanted| wanted.as_str() == text);
    match value {
        Value::Text(text) if name.is_list_of_words() => Some(text.split(' ').any(is_wanted)),
        Value::Text(text) => Some(is_wanted(text)),
        Value::List(list) => {
            let text = |node: &'_ Node| matches!(node.value(), Value::Text(text) if is_wanted(text));
            let is_text = |node: &Node| matches!(node.value(), Value::Text(_));
            if list.iter().any(text) {
                return Some(true);
            }
            list.iter().all(is_text).then_some(false)
        }
        _ => None,
    }
}

impl Miss<'_> {
    fn outcome(self) -> Outcome {
        match self {
            Self::Issuer | Self::Audience | Self::Claim(..) => Outcome::No,
            Self::Opaque | Self::NoToken | Self::NoAudience | Self::NoClaim(_) | Self::Type(_) => {
                Outcome::Unknown
            }
        }
    }
}

impl fmt::Display for ClaimValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value}"),
        }
    }
}

fn listed(list: Option<&OneOf<ClaimText>>) -> String {
    let words: Vec<&str> =
        list.iter().flat_map(|list| list.iter()).take(limits::SHOWN_VALUES).map(ClaimText::as_str).collect();
    let more = if list.is_some_and(|list| list.len() > limits::SHOWN_VALUES) { ", …" } else { "" };
    format!("[{}{more}]", words.join(", "))
}
